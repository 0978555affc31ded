/* syncmap_keys.h: the hash of a key, and whether a key in the table equals the one looked for.
 *
 * In the table's sections and under its locks no user code may run, and nothing may be allocated,
 * raised or released. Keys of exact str, int, bytes, float, and tuples of such, are compared here,
 * in place: their contents never change, and they live as long as the section (table.h, 3a).
 * For all other keys the answer is NS_UNKNOWN. Then the caller leaves the section and asks the
 * interpreter.
 */
#ifndef NS_SYNCMAP_KEYS_H
#define NS_SYNCMAP_KEYS_H

#include "interpreter/cpython.h"

#include <string.h>

#include "core/table/hash.h"
#include "core/table/table.h"

/* Returns 0, or -1 with an exception. */
static inline int
ns_key_hash(PyObject *key, uint64_t *hash)
{
    Py_hash_t h = -1;
    if (PyUnicode_CheckExact(key)) {
        h = ns_known_hash(key);
    }
    else if (PyLong_CheckExact(key) && PyUnstable_Long_IsCompact((PyLongObject *)key)) {
        h = PyUnstable_Long_CompactValue((PyLongObject *)key); /* less than the modulus */
    }
    if (h == -1) { /* not known yet, or the int -1, whose hash differs */
        h = PyObject_Hash(key);
        if (h == -1) {
            return -1;
        }
    }
    *hash = ns_hash_mix((uint64_t)h);
    return 0;
}

static inline bool
ns_same_str(PyObject *a, PyObject *b)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    unsigned kind = PyUnicode_KIND(a);
    return length == PyUnicode_GET_LENGTH(b) && kind == (unsigned)PyUnicode_KIND(b) &&
           memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * kind) == 0;
}

/* Whether the type's equality with other such types is known from the types alone. */
static inline bool
ns_is_plain(PyTypeObject *type)
{
    return type == &PyUnicode_Type || type == &PyLong_Type || type == &PyBytes_Type ||
           type == &PyTuple_Type || type == &PyFloat_Type || type == Py_TYPE(Py_None);
}

enum ns_match ns_key_compare(PyObject *stored, PyObject *key, int depth);

/* For an exact str, the most frequent type of key. */
static inline enum ns_match
ns_match_str(uintptr_t stored_word, const void *wanted)
{
    PyObject *stored = (PyObject *)stored_word, *key = (PyObject *)wanted;
    if (stored == key) {
        return NS_EQUAL;
    }
    if (ns_likely(PyUnicode_CheckExact(stored))) {
        return ns_same_str(stored, key) ? NS_EQUAL : NS_DIFFERENT;
    }
    return ns_is_plain(Py_TYPE(stored)) ? NS_DIFFERENT : NS_UNKNOWN;
}

static inline enum ns_match
ns_match_int(uintptr_t stored_word, const void *wanted)
{
    PyObject *stored = (PyObject *)stored_word, *key = (PyObject *)wanted;
    if (stored == key) {
        return NS_EQUAL;
    }
    if (ns_likely(PyLong_CheckExact(stored))) {
        return ns_same_int(stored, key) ? NS_EQUAL : NS_DIFFERENT;
    }
    return ns_key_compare(stored, key, 0);
}

/* For any key. */
static inline enum ns_match
ns_match_any(uintptr_t stored, const void *wanted)
{
    return stored == (uintptr_t)wanted ? NS_EQUAL
                                       : ns_key_compare((PyObject *)stored, (PyObject *)wanted, 0);
}

/* Calls search(match, ...) with the comparison for keys of this type. `search` is an inline
 * function around one of table.h, so that each comparison is compiled into a search of its
 * own. */
#define NS_FOR_KEY_TYPE(key, search, ...)                          \
    (PyUnicode_CheckExact(key) ? search(ns_match_str, __VA_ARGS__) \
     : PyLong_CheckExact(key)  ? search(ns_match_int, __VA_ARGS__) \
                               : search(ns_match_any, __VA_ARGS__))

/* Matches only this very object. */
static inline enum ns_match
ns_match_identical(uintptr_t stored, const void *wanted)
{
    return stored == (uintptr_t)wanted ? NS_EQUAL : NS_DIFFERENT;
}

/* The state of one search that may have to call equality: the answers so far, and where it stopped.
 * It has references to the keys that it compared, so that their addresses stay valid. */
typedef struct ns_asker {
    PyObject *key; /* NULL: not in use yet */
    PyObject *equal;
    PyObject **different; /* an array in `few`; with more keys a hash set of `capacity` places */
    PyObject *few[8];
    size_t count, capacity;
    ns_search place;
} ns_asker;

static inline void
ns_asker_unused(ns_asker *a)
{
    a->key = NULL;
}

void ns_asker_begin(ns_asker *a, PyObject *key); /* may be called again while it is in use */
void ns_asker_clear(ns_asker *a);

static inline void
ns_asker_end(ns_asker *a)
{
    if (ns_unlikely(a->key != NULL)) {
        ns_asker_clear(a);
    }
}
/* Compares in Python. Call it in no section and with no lock. Steals the reference to stored.
 * Returns 0 or -1. */
int ns_asker_ask(ns_asker *a, PyObject *stored);
/* A match function; wanted is the asker. */
enum ns_match ns_match_asked(uintptr_t stored, const void *wanted);

#endif
