#include "arguments.h"

#include <math.h>

#include "core/park.h"

int
ns_unpack_slow(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               PyObject **values)
{
    const Py_ssize_t positional = s->most - s->keyword_only;
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %zd %sargument%s (%zd given)",
                     s->function,
                     positional,
                     s->keyword_only ? "positional " : "",
                     positional == 1 ? "" : "s",
                     nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < s->most; i++) {
        values[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < s->most && PyUnicode_CompareWithASCIIString(name, s->names[i]) != 0) {
            i++;
        }
        if (i == s->most) {
            PyErr_Format(
                PyExc_TypeError, "%s() got an unexpected keyword argument %R", s->function, name);
            return -1;
        }
        if (values[i] != NULL) {
            PyErr_Format(
                PyExc_TypeError, "%s() got multiple values for argument %R", s->function, name);
            return -1;
        }
        values[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < s->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument '%s' (pos %zd)",
                         s->function,
                         s->names[i],
                         i + 1);
            return -1;
        }
    }
    return 0;
}

int
ns_unpack_init(const ns_signature *s, PyObject *args, PyObject *kwargs, PyObject **values)
{
    PyObject *const *positional = ((PyTupleObject *)args)->ob_item;
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    if (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0) {
        return ns_unpack(s, positional, nargs, NULL, values);
    }
    /* Rare: lay the keywords out as a vectorcall has them. `**` lets any key through to here. */
    if (!PyArg_ValidateKeywordArguments(kwargs)) {
        return -1;
    }
    Py_ssize_t nkw = PyDict_GET_SIZE(kwargs);
    if (nargs + nkw > s->most) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %zd argument%s (%zd given)",
                     s->function,
                     s->most,
                     s->most == 1 ? "" : "s",
                     nargs + nkw);
        return -1;
    }
    PyObject *all[NS_MAX_PARAMETERS];
    PyObject *names = PyTuple_New(nkw);
    if (names == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        all[i] = positional[i];
    }
    /* The dict was made for this call, or is a subclass's own: it holds the values meanwhile. */
    PyObject *name, *value;
    Py_ssize_t position = 0;
    for (Py_ssize_t k = 0; k < nkw && PyDict_Next(kwargs, &position, &name, &value); k++) {
        PyTuple_SET_ITEM(names, k, Py_NewRef(name));
        all[nargs + k] = value;
    }
    int result = ns_unpack_slow(s, all, nargs, names, values);
    Py_DECREF(names);
    return result;
}

static int
out_of_range(const char *what)
{
    PyErr_Format(PyExc_OverflowError, "Python int does not fit %s", what);
    return -1;
}

int
ns_int64_slow(PyObject *value, int64_t low, int64_t high, const char *what, int64_t *result)
{
    PyObject *integer = PyNumber_Index(value);
    if (integer == NULL) {
        return -1;
    }
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(integer, &overflow);
    Py_DECREF(integer);
    if (overflow != 0 || n < low || n > high) {
        return out_of_range(what);
    }
    *result = n;
    return 0;
}

int
ns_uint64_slow(PyObject *value, uint64_t high, const char *what, uint64_t *result)
{
    PyObject *integer = PyNumber_Index(value);
    if (integer == NULL) {
        return -1;
    }
    unsigned long long n = PyLong_AsUnsignedLongLong(integer);
    Py_DECREF(integer);
    if (n == (unsigned long long)-1 && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
            return -1;
        }
        PyErr_Clear();
        return out_of_range(what);
    }
    if (n > high) {
        return out_of_range(what);
    }
    *result = n;
    return 0;
}

int
ns_clamped_int64(PyObject *value, int64_t *result)
{
    PyObject *integer = PyNumber_Index(value);
    if (integer == NULL) {
        return -1;
    }
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(integer, &overflow);
    Py_DECREF(integer);
    *result = overflow > 0 ? INT64_MAX : overflow < 0 ? INT64_MIN : n;
    return 0;
}

/* A real number of seconds: a float, or anything with __float__ or __index__. */
static int
seconds_of(PyObject *timeout, double *seconds)
{
    *seconds = PyFloat_AsDouble(timeout);
    if (*seconds == -1.0 && PyErr_Occurred()) {
        return -1; /* OverflowError: an integer beyond a double */
    }
    if (isnan(*seconds)) {
        PyErr_SetString(PyExc_ValueError, "Invalid value NaN (not a number)");
        return -1;
    }
    return 0;
}

static int
deadline_after(double seconds, int64_t *deadline)
{
    /* threading.TIMEOUT_MAX: what 63 bits of nanoseconds hold, in whole seconds. */
    if (seconds > 9223372036.0) {
        PyErr_SetString(PyExc_OverflowError, "timeout value is too large");
        return -1;
    }
    int64_t now = ns_now(), span = (int64_t)ceil(seconds * 1e9);
    *deadline = span < NS_FOREVER - now ? now + span : NS_FOREVER - 1;
    return 0;
}

int
ns_lock_timeout(PyObject *blocking, PyObject *timeout, ns_patience *patience, int64_t *deadline)
{
    int blocks = 1;
    double seconds = -1;
    if (blocking != NULL && (blocks = PyObject_IsTrue(blocking)) < 0) {
        return -1;
    }
    if (timeout != NULL && timeout != Py_None && seconds_of(timeout, &seconds) < 0) {
        return -1;
    }
    if (!blocks && seconds != -1) {
        PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call");
        return -1;
    }
    if (seconds < 0 && seconds != -1) {
        PyErr_SetString(PyExc_ValueError, "timeout value must be a non-negative number");
        return -1;
    }
    *patience = !blocks || seconds == 0 ? NS_DO_NOT_WAIT
                : seconds == -1         ? NS_WAIT_FOR_EVER
                                        : NS_WAIT_UNTIL;
    *deadline = NS_FOREVER;
    return *patience == NS_WAIT_UNTIL ? deadline_after(seconds, deadline) : 0;
}

int
ns_plain_timeout(PyObject *timeout, ns_patience *patience, int64_t *deadline)
{
    double seconds;
    *patience = NS_WAIT_FOR_EVER;
    *deadline = NS_FOREVER;
    if (timeout == NULL || timeout == Py_None) {
        return 0;
    }
    if (seconds_of(timeout, &seconds) < 0) {
        return -1;
    }
    *patience = seconds > 0 ? NS_WAIT_UNTIL : NS_DO_NOT_WAIT;
    return seconds > 0 ? deadline_after(seconds, deadline) : 0;
}
