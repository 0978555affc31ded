/* arguments.h: converts Python's arguments to C values, quickly in the common cases. */
#ifndef NS_ARGUMENTS_H
#define NS_ARGUMENTS_H

#include "module.h"

#include "core/atomics.h"
#include "core/waiting/park.h"

#define NS_MAX_PARAMETERS 5

/* The parameters of a function. Each may be given by name; all but the last few also by position.
 * One that may only be given by position has the name "". */
typedef struct ns_signature {
    /* Its name in errors: "Mutex.acquire". If the numbers below do not say enough, the head of a
     * Python function: "SyncMap.get(self, key, default=None, /)". */
    const char *function;
    const char *names[NS_MAX_PARAMETERS];
    Py_ssize_t required, max, keyword_only;
} ns_signature;

/* Sets the TypeError for arguments that do not fit, in the interpreter's words. Returns NULL. */
PyObject *ns_refuse(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames);

/* For __exit__, which accepts any positional arguments: defines function_method, a vectorcall
 * method over function(self, args, nargs). */
#define NS_EXIT(function, name)                                                     \
    static PyObject *function##_method(                                             \
        PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) \
    {                                                                               \
        static const ns_signature s = {name "(self, *exc_info)", {NULL}, 0, 0, 0};  \
        if (ns_unlikely(kwnames != NULL)) {                                         \
            return ns_refuse(&s, args, nargs, kwnames);                             \
        }                                                                           \
        return function(self, args, nargs);                                         \
    }

int ns_unpack_slow(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames, PyObject **values);

/* Fills values[0 .. max) with borrowed references, NULL for omitted arguments. Returns 0, or -1
 * with TypeError. */
static inline int
ns_unpack(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
          PyObject **values)
{
    if (ns_likely(kwnames == NULL && nargs >= s->required && nargs <= s->max - s->keyword_only)) {
        for (Py_ssize_t i = 0; i < s->max; i++) {
            values[i] = i < nargs ? args[i] : NULL;
        }
        return 0;
    }
    return ns_unpack_slow(s, args, nargs, kwnames, values);
}

/* The same for tp_init. */
int ns_unpack_init(const ns_signature *s, PyObject *args, PyObject *kwargs, PyObject **values);

/* Converts an integer: anything with __index__, else TypeError; OverflowError outside of the range.
 * Both may run user code, so call them before you change anything. Return 0 or -1. */
int ns_int64_slow(PyObject *value, int64_t low, int64_t high, const char *what, int64_t *result);
int ns_uint64_slow(PyObject *value, uint64_t high, const char *what, uint64_t *result);

static inline int
ns_int64(PyObject *value, int64_t low, int64_t high, const char *what, int64_t *result)
{
    if (PyLong_CheckExact(value) && PyUnstable_Long_IsCompact((PyLongObject *)value)) {
        Py_ssize_t small = PyUnstable_Long_CompactValue((PyLongObject *)value);
        if (small >= low && small <= high) {
            *result = small;
            return 0;
        }
    }
    return ns_int64_slow(value, low, high, what, result);
}

static inline int
ns_uint64(PyObject *value, uint64_t high, const char *what, uint64_t *result)
{
    if (PyLong_CheckExact(value) && PyUnstable_Long_IsCompact((PyLongObject *)value)) {
        Py_ssize_t small = PyUnstable_Long_CompactValue((PyLongObject *)value);
        if (small >= 0 && (uint64_t)small <= high) {
            *result = (uint64_t)small;
            return 0;
        }
    }
    return ns_uint64_slow(value, high, what, result);
}

/* Converts a real number: float, __float__ or __index__, but no string. May run user code. Returns
 * 0 or -1. */
static inline int
ns_double(PyObject *value, double *result)
{
    if (PyFloat_CheckExact(value)) {
        *result = PyFloat_AS_DOUBLE(value);
        return 0;
    }
    if (PyLong_CheckExact(value) && PyUnstable_Long_IsCompact((PyLongObject *)value)) {
        *result = (double)PyUnstable_Long_CompactValue((PyLongObject *)value);
        return 0;
    }
    *result = PyFloat_AsDouble(value);
    return *result == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Converts any int; one beyond 64 bits becomes the nearest. For counts, where all of those mean the
 * same. Returns 0 or -1. */
int ns_clamped_int64(PyObject *value, int64_t *result);

/* Whether and how long a call waits. */
typedef enum ns_patience { NS_DO_NOT_WAIT, NS_WAIT_UNTIL, NS_WAIT_FOR_EVER } ns_patience;

/* Parses threading.Lock's pair `blocking` and `timeout` (NULL: omitted). Returns 0, or -1 with an
 * exception. */
int ns_lock_timeout(PyObject *blocking, PyObject *timeout, ns_patience *patience,
                    int64_t *deadline);

/* Unpacks and parses the arguments of a lock's `acquire`, which has that pair alone. Returns 0, or
 * -1 with an exception. In line, so that a call without arguments pays one test. */
static inline int
ns_lock_arguments(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                  ns_patience *patience, int64_t *deadline)
{
    *patience = NS_WAIT_FOR_EVER;
    *deadline = NS_FOREVER;
    if (nargs == 0 && kwnames == NULL) {
        return 0;
    }
    PyObject *given[2];
    return ns_unpack(s, args, nargs, kwnames, given) < 0
               ? -1
               : ns_lock_timeout(given[0], given[1], patience, deadline);
}

/* Parses a plain timeout: None (or NULL) waits for ever, <= 0 not at all. Returns 0, or -1 with an
 * exception. */
int ns_plain_timeout(PyObject *timeout, ns_patience *patience, int64_t *deadline);

#endif
