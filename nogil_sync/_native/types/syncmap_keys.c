#include "types/syncmap_keys.h"

#define MAX_DEPTH 4 /* of tuples in tuples; the interpreter compares deeper ones */

enum ns_match
ns_key_compare(PyObject *stored, PyObject *key, int depth)
{
    if (stored == key) {
        return NS_EQUAL;
    }
    PyTypeObject *type = Py_TYPE(stored), *wanted = Py_TYPE(key);
    if (type != wanted) {
        /* Of different plain types only numbers can be equal. */
        bool numbers = (type == &PyLong_Type || type == &PyFloat_Type) &&
                       (wanted == &PyLong_Type || wanted == &PyFloat_Type);
        return ns_is_plain(type) && ns_is_plain(wanted) && !numbers ? NS_DIFFERENT : NS_UNKNOWN;
    }
    bool same = false;
    if (type == &PyUnicode_Type) {
        same = ns_same_str(stored, key);
    }
    else if (type == &PyLong_Type) {
        same = ns_same_int(stored, key);
    }
    else if (type == &PyBytes_Type) {
        Py_ssize_t size = PyBytes_GET_SIZE(stored);
        same = size == PyBytes_GET_SIZE(key) &&
               memcmp(PyBytes_AS_STRING(stored), PyBytes_AS_STRING(key), (size_t)size) == 0;
    }
    else if (type == &PyFloat_Type) {
        same = PyFloat_AS_DOUBLE(stored) == PyFloat_AS_DOUBLE(key);
    }
    else if (type == &PyTuple_Type && depth < MAX_DEPTH) {
        Py_ssize_t size = PyTuple_GET_SIZE(stored);
        if (size != PyTuple_GET_SIZE(key)) {
            return NS_DIFFERENT;
        }
        for (Py_ssize_t i = 0; i < size; i++) {
            enum ns_match m =
                ns_key_compare(PyTuple_GET_ITEM(stored, i), PyTuple_GET_ITEM(key, i), depth + 1);
            if (m != NS_EQUAL) {
                return m; /* as in the interpreter: the first difference decides */
            }
        }
        same = true;
    }
    else {
        return NS_UNKNOWN;
    }
    return same ? NS_EQUAL : NS_DIFFERENT;
}

void
ns_asker_begin(ns_asker *a, PyObject *key)
{
    if (a->key != NULL) {
        return;
    }
    a->key = key;
    a->equal = NULL;
    a->different = a->few;
    a->count = 0;
    a->capacity = Py_ARRAY_LENGTH(a->few);
    a->place.serial = 0;
}

/* Returns the key's place in the set, or the place where it would go. */
static PyObject **
place_of(PyObject **set, size_t capacity, PyObject *stored)
{
    size_t i = (size_t)ns_hash_mix((uintptr_t)stored) & (capacity - 1);
    while (set[i] != NULL && set[i] != stored) {
        i = (i + 1) & (capacity - 1);
    }
    return &set[i];
}

void
ns_asker_clear(ns_asker *a)
{
    Py_XDECREF(a->equal);
    size_t places = a->different == a->few ? a->count : a->capacity;
    for (size_t i = 0; i < places; i++) {
        Py_XDECREF(a->different[i]);
    }
    if (a->different != a->few) {
        PyMem_Free(a->different);
    }
}

/* Turns the list into a set, or makes the set eight times as large. */
static int
grow(ns_asker *a)
{
    size_t capacity = a->capacity * 8, places = a->different == a->few ? a->count : a->capacity;
    PyObject **set = PyMem_Calloc(capacity, sizeof(*set));
    if (set == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < places; i++) {
        if (a->different[i] != NULL) {
            *place_of(set, capacity, a->different[i]) = a->different[i];
        }
    }
    if (a->different != a->few) {
        PyMem_Free(a->different);
    }
    a->different = set;
    a->capacity = capacity;
    return 0;
}

static int
note_different(ns_asker *a, PyObject *stored)
{
    bool few = a->different == a->few;
    if ((few ? a->count == a->capacity : a->count >= a->capacity / 2) && grow(a) < 0) {
        Py_DECREF(stored);
        return -1;
    }
    if (a->different == a->few) {
        a->few[a->count++] = stored;
        return 0;
    }
    PyObject **place = place_of(a->different, a->capacity, stored);
    if (*place != NULL) { /* already in the set */
        Py_DECREF(stored);
        return 0;
    }
    *place = stored;
    a->count++;
    return 0;
}

static bool
is_different(const ns_asker *a, PyObject *stored)
{
    if (a->different != a->few) {
        return *place_of(a->different, a->capacity, stored) != NULL;
    }
    for (size_t i = a->count; i-- > 0;) {
        if (a->few[i] == stored) {
            return true;
        }
    }
    return false;
}

int
ns_asker_ask(ns_asker *a, PyObject *stored)
{
    int equal = PyObject_RichCompareBool(stored, a->key, Py_EQ);
    if (equal > 0) {
        Py_XSETREF(a->equal, stored);
        return 0;
    }
    if (equal < 0) {
        Py_DECREF(stored);
        return -1;
    }
    return note_different(a, stored);
}

enum ns_match
ns_match_asked(uintptr_t word, const void *wanted)
{
    const ns_asker *a = wanted;
    PyObject *stored = (PyObject *)word;
    if (stored == a->equal) {
        return NS_EQUAL;
    }
    enum ns_match m = ns_key_compare(stored, a->key, 0);
    return m == NS_UNKNOWN && is_different(a, stored) ? NS_DIFFERENT : m;
}
