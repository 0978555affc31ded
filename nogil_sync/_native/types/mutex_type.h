/* mutex_type.h: what Cond needs of the Mutex that it makes for itself. */
#ifndef NS_MUTEX_TYPE_H
#define NS_MUTEX_TYPE_H

#include "core/mutex.h"
#include "module.h"

/* Returns the lock inside a Mutex. */
ns_mutex *ns_mutex_of(PyObject *self);

/* The methods of Mutex. */
PyObject *ns_mutex_type_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames);
PyObject *ns_mutex_type_release(PyObject *self, PyObject *unused);
PyObject *ns_mutex_type_enter(PyObject *self, PyObject *unused);

#endif
