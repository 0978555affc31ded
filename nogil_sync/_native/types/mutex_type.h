/* mutex_type.h: what Cond needs of the Mutex that it makes for itself, and the wait of RLock. */
#ifndef NS_MUTEX_TYPE_H
#define NS_MUTEX_TYPE_H

#include "module.h" /* first: Python.h comes with it */

#include "arguments.h"
#include "core/mutex.h"

/* Returns the lock inside a Mutex. */
ns_mutex *ns_mutex_of(PyObject *self);

/* After a failed ns_mutex_try_lock on m, which is inside self: waits by these steps, or tries once
 * more if the call must not wait. Returns 1 if locked, 0 if timed out, -1 with an exception. */
int ns_mutex_type_wait(PyObject *self, const struct ns_wait_steps *steps, ns_mutex *m,
                       ns_patience patience, int64_t deadline);

/* The methods of Mutex. */
PyObject *ns_mutex_type_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *ns_mutex_type_release(PyObject *self, PyObject *unused);
PyObject *ns_mutex_type_enter(PyObject *self, PyObject *unused);

#endif
