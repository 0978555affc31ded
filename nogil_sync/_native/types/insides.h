/* insides.h: what select and the waits of asyncio need of other types: the core's object inside. */
#ifndef NS_INSIDES_H
#define NS_INSIDES_H

#include "module.h"

#include "core/barrier.h"
#include "core/cond.h"
#include "core/event.h"
#include "core/rwmutex.h"
#include "core/semaphore.h"
#include "core/waitgroup.h"

/* `self` is of the type, or of a subclass. (Mutex: mutex_type.h; Channel: channel_type.h.) */
ns_event *ns_inside_event(PyObject *self);
ns_waitgroup *ns_inside_waitgroup(PyObject *self);
ns_semaphore *ns_inside_semaphore(PyObject *self);
ns_cond *ns_inside_cond(PyObject *self);
ns_rwmutex *ns_inside_rwmutex(PyObject *view, bool writes);
ns_barrier *ns_inside_barrier(PyObject *self);

/* What Barrier.wait returns for a waiter that was served, or NULL with an exception; None: arrive
 * again. The leader runs the action. */
PyObject *ns_barrier_type_collect(PyObject *self, ns_waiter *w);

#endif
