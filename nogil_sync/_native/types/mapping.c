#include "types/mapping.h"

#include "core/waiting/park.h"

void
ns_set_key_error(PyObject *key)
{
    PyObject *error = PyObject_CallOneArg(PyExc_KeyError, key); /* the key may be a tuple */
    if (error != NULL) {
        PyErr_SetObject(PyExc_KeyError, error);
        Py_DECREF(error);
    }
}

PyObject *
ns_seconds_of(PyObject *timeout)
{
    ns_patience patience;
    int64_t deadline;
    if (ns_plain_timeout(timeout, &patience, &deadline) < 0) {
        return NULL;
    }
    if (patience == NS_WAIT_FOR_EVER) {
        Py_RETURN_NONE;
    }
    if (patience == NS_DO_NOT_WAIT) {
        return PyFloat_FromDouble(0.0);
    }
    const int64_t left = deadline - ns_now();
    return PyFloat_FromDouble((double)(left > 1 ? left : 1) / 1e9); /* 0 would not wait */
}
