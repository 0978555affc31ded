/* mapping.h: what the methods of SyncMap and of Cache do alike: results and arguments. What both
 * have in Python is in _common/mapping.py.
 */
#ifndef NS_MAPPING_H
#define NS_MAPPING_H

#include "arguments.h"
#include "types/syncmap_keys.h"

/* What a lookup or a deletion returns. */
enum {
    NS_KEY_ERROR = -1, /* with an exception */
    NS_KEY_MISSING = 0,
    NS_KEY_FOUND = 1,
};

/* ---- Results. If the key was found, *value is a reference, which they return or release. ---- */

/* Sets KeyError. */
void ns_set_key_error(PyObject *key);

/* The result of `get`: the value, or `otherwise`, or None if that is NULL. */
static inline PyObject *
ns_value_or(int found, PyObject *const *value, PyObject *otherwise)
{
    return ns_likely(found == NS_KEY_FOUND) ? *value
           : found == NS_KEY_ERROR          ? NULL
                                            : Py_NewRef(otherwise != NULL ? otherwise : Py_None);
}

/* The result of `[key]`: the value; KeyError if the key is missing. */
static inline PyObject *
ns_value_or_key_error(int found, PyObject *key, PyObject *const *value)
{
    if (ns_likely(found == NS_KEY_FOUND)) {
        return *value;
    }
    if (found == NS_KEY_MISSING) {
        ns_set_key_error(key);
    }
    return NULL;
}

/* The result of `pop`: the value, or `otherwise`; KeyError if the key is missing and `otherwise` is
 * NULL. */
static inline PyObject *
ns_popped(int found, PyObject *key, PyObject *const *value, PyObject *otherwise)
{
    return found == NS_KEY_MISSING && otherwise != NULL ? Py_NewRef(otherwise)
                                                        : ns_value_or_key_error(found, key, value);
}

/* The result of `del`: 0, or -1 with KeyError or another exception. */
static inline int
ns_deleted(int found, PyObject *key, PyObject *const *value)
{
    if (ns_likely(found == NS_KEY_FOUND)) {
        Py_DECREF(*value);
        return 0;
    }
    if (found == NS_KEY_MISSING) {
        ns_set_key_error(key);
    }
    return -1;
}

/* ---- Arguments ---- */

/* `ns_unpack` for `key` and `default`, in fewer instructions. */
static inline int
ns_unpack_key(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              PyObject **values)
{
    if (ns_likely(kwnames == NULL && (nargs == 1 || nargs == 2))) {
        values[0] = args[0];
        values[1] = nargs == 2 ? args[1] : NULL;
        return 0;
    }
    return ns_unpack_slow(s, args, nargs, kwnames, values);
}

/* Converts a time-out to what _common/mapping.py takes: seconds, or None. Returns a new reference,
 * or NULL with an exception. Runs code of users. */
PyObject *ns_seconds_of(PyObject *timeout);

/* Reads the arguments of load_or_compute. *timeout is as it was given, or NULL. Returns 0, or -1
 * with an exception. Runs code of users. */
static inline int
ns_compute_arguments(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames, PyObject **timeout, uint64_t *hash)
{
    *timeout = NULL;
    if (nargs < 2) {
        ns_refuse(s, args, nargs, kwnames);
        return -1;
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), "timeout") != 0) {
            ns_refuse(s, args, nargs, kwnames);
            return -1;
        }
        *timeout = args[nargs + k];
    }
    if (*timeout != NULL) { /* a bad time-out is an error even if the call does not wait */
        PyObject *seconds = ns_seconds_of(*timeout);
        if (seconds == NULL) {
            return -1;
        }
        Py_DECREF(seconds);
    }
    return ns_key_hash(args[0], hash);
}

#endif
