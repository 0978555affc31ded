/* cache_protocol.c: the mapping protocol and the methods of Cache, over cache_edits.h.
 *
 * A miss of load_or_compute that meets another one goes on in Python: in
 * nogil_sync/_common/cache.py, whose SharedCache is the base class of Cache. The last part of this
 * file has the functions that cache.py calls.
 */
#include "types/cache_edits.h"

#include "arguments.h"
#include "docs.h"
#include "object.h"

int
ns_cache_parse_ttl(PyObject *ttl, int64_t *result)
{
    *result = 0;
    if (ttl == NULL || ttl == Py_None) {
        return 0;
    }
    double seconds = PyFloat_AsDouble(ttl);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "ttl must not be NaN");
        return -1;
    }
    if (seconds > 9223372036.0) {
        PyErr_SetString(PyExc_OverflowError, "ttl value is too large");
        return -1;
    }
    if (seconds <= 0) {
        PyErr_SetString(PyExc_ValueError, "ttl must be positive");
        return -1;
    }
    *result = (int64_t)(seconds * 1e9);
    *result = *result < 1 ? 1 : *result;
    return 0;
}

/* ---- The mapping protocol ---- */

PyObject *
ns_cache_get_item(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, key, hash, true, &value);
    return ns_value_or_key_error(found, key, &value);
}

int
ns_cache_set_item(PyObject *self, PyObject *key, PyObject *value)
{
    Cache *o = (Cache *)self;
    uint64_t hash;
    if (value != NULL) {
        return ns_key_hash(key, &hash) < 0 ? -1
                                           : ns_cache_put(o, key, hash, value, o->ttl, NULL, NULL);
    }
    PyObject *old;
    int found = ns_cache_delete(o, key, &old);
    return ns_deleted(found, key, &old);
}

int
ns_cache_has_key(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return -1;
    }
    int found = ns_cache_lookup((Cache *)self, key, hash, false, &value);
    if (found == NS_KEY_FOUND) {
        Py_DECREF(value);
    }
    return found;
}

Py_ssize_t
ns_cache_length(PyObject *self)
{
    Cache *o = (Cache *)self;
    int64_t now;
    if (ns_check_initialized(self) < 0 || ns_cache_time(o, 0, &now) < 0) {
        return -1;
    }
    if (now != NS_CACHE_NO_TIME) {
        ns_cache_delete_expired(o, now);
    }
    return (Py_ssize_t)ns_load(&o->core.count, NS_RELAXED);
}

/* A list of the keys. */
static PyObject *
list_keys(Cache *o)
{
    ns_cache_edit e = {.hold = ns_hold_locked};
    PyObject *list = ns_cache_time(o, 0, &e.now) < 0 ? NULL : PyList_New(0);
    size_t capacity = 64;
    uint64_t from = 0;
    ns_hashed *page = list != NULL ? PyMem_RawMalloc(capacity * sizeof(*page)) : NULL;
    do {
        size_t n = 0;
        while (page != NULL &&
               (n = ns_cache_page(&o->core, &e, &from, page, capacity)) > capacity) {
            PyMem_RawFree(page);
            capacity = n + n / 4;
            page = PyMem_RawMalloc(capacity * sizeof(*page));
        }
        if (page == NULL) {
            if (list != NULL) {
                PyErr_NoMemory();
                Py_CLEAR(list);
            }
            break;
        }
        for (size_t i = 0; i < n; i++) {
            if (list != NULL && PyList_Append(list, (PyObject *)page[i].key) < 0) {
                Py_CLEAR(list);
            }
            Py_DECREF((PyObject *)page[i].key);
        }
    } while (list != NULL && from != 0);
    PyMem_RawFree(page);
    return list;
}

PyObject *
ns_cache_iter(PyObject *self)
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    PyObject *list = list_keys((Cache *)self);
    PyObject *result = list != NULL ? PyObject_GetIter(list) : NULL;
    Py_XDECREF(list);
    return result;
}

PyObject *
ns_cache_repr(PyObject *self)
{
    Cache *o = (Cache *)self;
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    Py_ssize_t n = ns_cache_length(self);
    if (n < 0) {
        return NULL;
    }
    char text[80];
    if (o->core.limit == NS_CACHE_NO_LIMIT) {
        PyOS_snprintf(text, sizeof(text), "%zd entries, maxsize=None", n);
    }
    else {
        PyOS_snprintf(text, sizeof(text), "%zd entries, maxsize=%lld", n, (long long)o->core.limit);
    }
    return ns_repr_state(self, text);
}

/* ---- Methods ---- */

static PyObject *
get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.get", {"key", "default"}, 1, 2, 0};
    uint64_t hash;
    PyObject *values[2], *value;
    if (ns_unpack_key(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, values[0], hash, true, &value);
    return ns_value_or(found, &value, values[1]);
}

static PyObject *
put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.put", {"key", "value", "ttl"}, 2, 3, 0};
    PyObject *values[3];
    Cache *o = (Cache *)self;
    int64_t ttl = o->ttl;
    uint64_t hash;
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 ||
        (values[2] != NULL && ns_cache_parse_ttl(values[2], &ttl) < 0) ||
        ns_key_hash(values[0], &hash) < 0 ||
        ns_cache_put(o, values[0], hash, values[1], ttl, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pop(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.pop", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    if (ns_unpack_key(&s, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int found = ns_cache_delete((Cache *)self, values[0], &value);
    return ns_popped(found, values[0], &value, values[1]);
}

static PyObject *
clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0 || ns_detach(self, &((Cache *)self)->flights, NULL) < 0) {
        return NULL;
    }
    ns_cache_delete_all((Cache *)self);
    Py_RETURN_NONE;
}

static PyObject *
stats(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Cache *o = (Cache *)self;
    ns_state *state = ns_state_of(self);
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    if (state->cache_stats == NULL) {
        return ns_shutting_down();
    }
    const ns_cache_sums sums = ns_cache_sum(&o->core);
    return PyObject_CallFunction(state->cache_stats,
                                 "KKKKKKL",
                                 (unsigned long long)sums.hits,
                                 (unsigned long long)sums.misses,
                                 (unsigned long long)sums.loads,
                                 (unsigned long long)sums.failures,
                                 (unsigned long long)ns_load(&o->core.evictions, NS_RELAXED),
                                 (unsigned long long)ns_load(&o->core.expirations, NS_RELAXED),
                                 (long long)ns_load(&o->core.weight, NS_RELAXED));
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    size_t size = (size_t)Py_TYPE(self)->tp_basicsize;
    if (ns_is_initialized(self)) {
        size += ns_cache_bytes(&((Cache *)self)->core);
    }
    return PyLong_FromSize_t(size);
}

/* ---- load_or_compute, and what _common/cache.py calls ---- */

static int
look(PyObject *self, PyObject *key, uint64_t hash, PyObject **value)
{
    return ns_cache_lookup((Cache *)self, key, hash, false, value);
}

static PyObject *
land(PyObject *self, PyObject *key, uint64_t hash, PyObject *value, _Atomic bool *detached)
{
    PyObject *kept;
    Cache *o = (Cache *)self;
    return ns_cache_put(o, key, hash, value, o->ttl, detached, &kept) < 0 ? NULL
           : kept != NULL                                                 ? kept
                                                                          : Py_NewRef(value);
}

static void
count(PyObject *self, bool failed)
{
    if (ns_unlikely(failed)) {
        NS_CACHE_COUNT(&((Cache *)self)->core, failures);
    }
    else {
        NS_CACHE_COUNT(&((Cache *)self)->core, loads);
    }
}

static const ns_destination destination = {look, land, count};

PyObject *
ns_cache_fly(Cache *o, PyObject *key, uint64_t hash, const ns_user_call *call, bool *met)
{
    return ns_fly((PyObject *)o, &destination, &o->flights, key, hash, call, met);
}

/* load_or_compute of a missing key. */
static Py_NO_INLINE PyObject *
compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *timeout, uint64_t hash)
{
    PyObject *const *python = &ns_state_of(self)->cache_load;
    return ns_fly_or_join(
        self, &destination, &((Cache *)self)->flights, python, args, nargs, timeout, hash);
}

static PyObject *
load_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {
        "Cache.load_or_compute(self, key, fn, /, *args, timeout=None)", {NULL}, 0, 0, 0};
    PyObject *timeout, *value;
    uint64_t hash;
    if (ns_compute_arguments(&s, args, nargs, kwnames, &timeout, &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, args[0], hash, true, &value);
    return ns_likely(found == NS_KEY_FOUND) ? value
           : found == NS_KEY_ERROR          ? NULL
                                            : compute(self, args, nargs, timeout, hash);
}

static PyObject *
flights_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_XNewRef(ns_flights_of(self, &((Cache *)self)->flights));
}

/* The value of a key, or the default. Counts nothing. */
static PyObject *
peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t hash;
    PyObject *value;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_peek(key, default)");
        return NULL;
    }
    if (ns_key_hash(args[0], &hash) < 0) {
        return NULL;
    }
    int found = look(self, args[0], hash, &value);
    return found == NS_KEY_FOUND ? value : found == NS_KEY_MISSING ? Py_NewRef(args[1]) : NULL;
}

/* Stores a value that was loaded, unless its call was detached. */
static PyObject *
land_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return ns_land_computed(self, &destination, args, nargs);
}

/* Counts a load. */
static PyObject *
loaded(PyObject *self, PyObject *failed)
{
    count(self, failed == Py_True);
    Py_RETURN_NONE;
}

/* ---- The table of methods ---- */

PyMethodDef ns_cache_methods[] = {
    NS_METHOD("get", get, DOC_Cache_get),
    NS_METHOD("put", put, DOC_Cache_put),
    NS_METHOD("pop", pop, DOC_Cache_pop),
    NS_NO_ARGUMENTS("clear", clear, DOC_Cache_clear),
    NS_METHOD("load_or_compute", load_or_compute, DOC_Cache_load_or_compute),
    NS_NO_ARGUMENTS("stats", stats, DOC_Cache_stats),
    {"_peek", _PyCFunction_CAST(peek), METH_FASTCALL, NULL},
    {"_land", _PyCFunction_CAST(land_method), METH_FASTCALL, NULL},
    {"_loaded", loaded, METH_O, NULL},
    {"_flights", flights_of, METH_NOARGS, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};
