#include "types/cache_functions.h"

#include "arguments.h"

/* Calls the function, which counts as so many levels of recursion. Returns a new reference, or NULL
 * with an exception. Steals the reference to the function. */
static PyObject *
call_user(PyObject *function, PyObject *const *args, size_t nargs, int levels)
{
    PyObject *result = NULL;
    int entered = 0;
    while (entered < levels && Py_EnterRecursiveCall(" while calling a function of a cache") == 0) {
        entered++;
    }
    if (entered == levels) {
        result = PyObject_Vectorcall(function, args, nargs, NULL);
    }
    while (entered-- > 0) {
        Py_LeaveRecursiveCall();
    }
    Py_DECREF(function);
    return result;
}

int
ns_cache_read_clock(Cache *o, int64_t *now)
{
    PyObject *clock = ns_load_function(&o->clock);
    if (clock == NULL) { /* this is garbage */
        *now = ns_now();
        return 0;
    }
    PyObject *value = call_user(clock, NULL, 0, 1);
    double seconds = value != NULL ? PyFloat_AsDouble(value) : -1.0;
    Py_XDECREF(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "clock value must not be NaN");
        return -1;
    }
    if (!(seconds > -9.2e9 && seconds < 9.2e9)) {
        PyErr_SetString(PyExc_OverflowError, "clock value is too large");
        return -1;
    }
    *now = (int64_t)(seconds * 1e9);
    return 0;
}

int
ns_cache_call_weigher(Cache *o, PyObject *key, PyObject *value, int64_t *weight)
{
    PyObject *weigher = ns_load_function(&o->weigher);
    if (weigher == NULL) { /* this is garbage */
        return 0;
    }
    PyObject *args[] = {key, value};
    PyObject *result = call_user(weigher, args, 2, 1);
    int error = result == NULL || ns_clamped_int64(result, weight) < 0 ? -1 : 0;
    Py_XDECREF(result);
    if (error == 0 && *weight < 0) {
        PyErr_SetString(PyExc_ValueError, "weight must not be negative");
        error = -1;
    }
    if (error == 0 && *weight == INT64_MAX) {
        PyErr_SetString(PyExc_OverflowError, "weight is too large");
        error = -1;
    }
    return error;
}

/* Four levels of recursion: the frames of an operation that evicts take some kilobytes. */
void
ns_cache_call_on_evict(Cache *o, PyObject *key, PyObject *value, const char *cause)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *on_evict = ns_load_function(&o->on_evict);
    if (on_evict != NULL) {
        PyObject *args[] = {key, value, PyUnicode_FromString(cause)};
        PyObject *result = args[2] != NULL ? call_user(Py_NewRef(on_evict), args, 3, 4) : NULL;
        if (result == NULL) {
            PyErr_WriteUnraisable(on_evict);
        }
        Py_XDECREF(result);
        Py_XDECREF(args[2]);
        Py_DECREF(on_evict);
    }
    PyErr_SetRaisedException(raised);
}
