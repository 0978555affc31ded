#include "arguments.h"

#include <math.h>
#include <string.h>

#include "core/waiting/park.h"

/* Returns the head of a Python function with these parameters. */
static PyObject *
head_of(const ns_signature *s)
{
    if (strchr(s->function, '(') != NULL) {
        return PyUnicode_FromString(s->function);
    }
    bool is_method = strchr(s->function, '.') != NULL;
    const char *comma = is_method ? ", " : "";
    PyObject *head = PyUnicode_FromFormat("%s(%s", s->function, is_method ? "self" : "");
    for (Py_ssize_t i = 0; i < s->max && head != NULL; i++) {
        const char *star = s->keyword_only > 0 && i == s->max - s->keyword_only ? "*, " : "";
        const char *value = i < s->required ? "" : "=None";
        PyObject *more = PyUnicode_FromFormat("%U%s%s%s%s", head, comma, star, s->names[i], value);
        Py_SETREF(head, more);
        comma = ", ";
    }
    PyObject *whole = head ? PyUnicode_FromFormat("%U)", head) : NULL;
    Py_XDECREF(head);
    return whole;
}

/* Sets the TypeError; `args` are without self. */
static void
refuse(const ns_signature *s, PyObject *args, PyObject *kwargs)
{
    PyObject *head = head_of(s),
             *module = head ? PyImport_ImportModule("nogil_sync._common.refusal") : NULL;
    PyObject *result = NULL;
    if (module != NULL) {
        result = PyObject_CallMethod(
            module, "refuse", "OOO", head, args, kwargs != NULL ? kwargs : Py_None);
    }
    if (result != NULL) {
        PyErr_Format(PyExc_SystemError, "%s was given the right arguments", s->function);
    }
    else { /* the traceback starts in the caller, as if this were a Python function */
        PyObject *error = PyErr_GetRaisedException();
        PyException_SetTraceback(error, Py_None);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(result);
    Py_XDECREF(module);
    Py_XDECREF(head);
}

PyObject *
ns_refuse(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *positional = PyTuple_New(nargs);
    PyObject *named = positional && kwnames ? PyDict_New() : NULL;
    if (positional == NULL || (kwnames != NULL && named == NULL)) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        if (PyDict_SetItem(named, PyTuple_GET_ITEM(kwnames, k), args[nargs + k]) < 0) {
            goto done;
        }
    }
    refuse(s, positional, named);
done:
    Py_XDECREF(positional);
    Py_XDECREF(named);
    return NULL;
}

/* Returns the index of the parameter with this name, or -1. */
static Py_ssize_t
parameter(const ns_signature *s, PyObject *name)
{
    for (Py_ssize_t i = 0; i < s->max; i++) {
        if (*s->names[i] != '\0' && PyUnicode_CompareWithASCIIString(name, s->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

int
ns_unpack_slow(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
               PyObject **values)
{
    if (nargs > s->max - s->keyword_only) {
        goto refused;
    }
    for (Py_ssize_t i = 0; i < s->max; i++) {
        values[i] = i < nargs ? args[i] : NULL;
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        Py_ssize_t i = parameter(s, PyTuple_GET_ITEM(kwnames, k));
        if (i < 0 || values[i] != NULL) {
            goto refused;
        }
        values[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < s->required; i++) {
        if (values[i] == NULL) {
            goto refused;
        }
    }
    return 0;
refused:
    ns_refuse(s, args, nargs, kwnames);
    return -1;
}

int
ns_unpack_init(const ns_signature *s, PyObject *args, PyObject *kwargs, PyObject **values)
{
    PyObject *const *positional = ((PyTupleObject *)args)->ob_item;
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    if (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0) {
        return ns_unpack(s, positional, nargs, NULL, values);
    }
    /* Rare: arrange the keywords as a vectorcall has them. `**` lets any key through to here. */
    if (!PyArg_ValidateKeywordArguments(kwargs)) {
        return -1;
    }
    Py_ssize_t nkw = PyDict_GET_SIZE(kwargs);
    if (nargs + nkw > s->max) {
        refuse(s, args, kwargs);
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
    /* The dict was made for this call, or belongs to a subclass: it keeps the values alive
     * meanwhile. */
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

/* Converts a real number of seconds: a float, or anything with __float__ or __index__. */
static int
seconds_of(PyObject *timeout, double *seconds)
{
    *seconds = PyFloat_AsDouble(timeout);
    if (*seconds == -1.0 && PyErr_Occurred()) {
        return -1; /* OverflowError: an integer too large for a double */
    }
    if (isnan(*seconds)) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be NaN");
        return -1;
    }
    return 0;
}

static int
deadline_after(double seconds, int64_t *deadline)
{
    /* threading.TIMEOUT_MAX: the max in 63 bits of nanoseconds, in whole seconds. */
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
