/* syncmap_protocol.c: the mapping protocol and the methods of SyncMap, over syncmap_edits.h.
 *
 * This file parses arguments and calls users' functions, always between edits, never within one.
 * Views, comparison, repr and the calls of load_or_compute that miss are written in Python: in
 * nogil_sync/_common/mapping.py, whose SharedMap is the base class of SyncMap. The last part of
 * this file has the functions that mapping.py calls.
 */
#include "types/flight.h"
#include "types/syncmap_edits.h"

#include "arguments.h"
#include "core/waiting/park.h"
#include "docs.h"
#include "object.h"

/* ---- The mapping protocol ---- */

PyObject *
ns_syncmap_get_item(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return NULL;
    }
    int found = ns_syncmap_lookup((SyncMap *)self, key, hash, &value, NULL);
    return ns_value_or_key_error(found, key, &value);
}

int
ns_syncmap_set_item(PyObject *self, PyObject *key, PyObject *value)
{
    if (value != NULL) {
        uint64_t hash;
        return ns_key_hash(key, &hash) < 0 ? -1 : ns_syncmap_put((SyncMap *)self, key, hash, value);
    }
    PyObject *old;
    int found = ns_syncmap_remove((SyncMap *)self, key, &old);
    return ns_deleted(found, key, &old);
}

int
ns_syncmap_has_key(PyObject *self, PyObject *key)
{
    uint64_t hash;
    return ns_key_hash(key, &hash) < 0 ? -1 : ns_syncmap_contains((SyncMap *)self, key, hash, NULL);
}

Py_ssize_t
ns_syncmap_length(PyObject *self)
{
    return ns_check_initialized(self) < 0 ? -1
                                          : (Py_ssize_t)ns_table_count(&((SyncMap *)self)->table);
}

/* Does not count, which would look at every segment. A subclass with a length of its own is asked
 * for that, as dict does. */
int
ns_syncmap_truth(PyObject *self)
{
    lenfunc own = Py_TYPE(self)->tp_as_mapping->mp_length;
    if (ns_unlikely(own != ns_syncmap_length)) {
        Py_ssize_t n = own(self);
        return n < 0 ? -1 : n != 0;
    }
    return ns_check_initialized(self) < 0 ? -1 : !ns_table_is_empty(&((SyncMap *)self)->table);
}

PyObject *
ns_syncmap_iter(PyObject *self)
{
    ns_watch_use(&((SyncMap *)self)->watch, self);
    return ns_check_initialized(self) < 0 ? NULL : ns_syncmap_iterate((SyncMap *)self, false);
}

static PyObject *
pairs(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0 ? NULL : ns_syncmap_iterate((SyncMap *)self, true);
}

/* ---- Methods ---- */

static PyObject *
get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.get", {"key", "default"}, 1, 2, 0};
    uint64_t hash;
    PyObject *values[2], *value;
    if (ns_unpack_key(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &hash) < 0) {
        return NULL;
    }
    int found = ns_syncmap_lookup((SyncMap *)self, values[0], hash, &value, NULL);
    return ns_value_or(found, &value, values[1]);
}

static PyObject *
setdefault(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.setdefault", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    ns_edit e = {.kind = NS_ADD};
    if (ns_unpack_key(&s, args, nargs, kwnames, values) < 0 ||
        ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1] != NULL ? values[1] : Py_None;
    ns_asker a;
    ns_asker_unused(&a);
    int found = ns_syncmap_lookup((SyncMap *)self, e.key, e.hash, &value, &a);
    if (found == NS_KEY_MISSING) {
        e.asker = &a;
        found = ns_syncmap_apply((SyncMap *)self, &e, &value);
    }
    ns_asker_end(&a);
    return found == NS_KEY_FOUND ? value : found == NS_KEY_ERROR ? NULL : Py_NewRef(e.new);
}

static PyObject *
pop(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.pop", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    if (ns_unpack_key(&s, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int found = ns_syncmap_remove((SyncMap *)self, values[0], &value);
    return ns_popped(found, values[0], &value, values[1]);
}

static PyObject *
popitem(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0 ? NULL : ns_syncmap_remove_any((SyncMap *)self);
}

static PyObject *
clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0 || ns_detach(self, &((SyncMap *)self)->flights, NULL) < 0) {
        return NULL;
    }
    ns_syncmap_clear((SyncMap *)self);
    Py_RETURN_NONE;
}

static PyObject *
insert(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.insert", {"key", "value"}, 2, 2, 0};
    PyObject *values[2], *old = NULL;
    ns_edit e = {.kind = NS_ADD};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1];
    ns_asker a;
    ns_asker_unused(&a);
    int found = ns_syncmap_contains((SyncMap *)self, e.key, e.hash, &a);
    if (found == NS_KEY_MISSING) {
        e.asker = &a;
        found = ns_syncmap_apply((SyncMap *)self, &e, &old);
        Py_XDECREF(old);
    }
    ns_asker_end(&a);
    return found == NS_KEY_ERROR ? NULL : PyBool_FromLong(found == NS_KEY_MISSING);
}

static PyObject *
swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.swap", {"key", "value", "default"}, 2, 3, 0};
    PyObject *values[3], *old;
    ns_edit e = {.kind = NS_PUT};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1];
    int found = ns_syncmap_apply((SyncMap *)self, &e, &old);
    return found == NS_KEY_FOUND   ? old
           : found == NS_KEY_ERROR ? NULL
                                   : Py_NewRef(values[2] != NULL ? values[2] : Py_None);
}

/* compare_and_swap and compare_and_delete: 1 if the edit was done, 0 if not, -1 with an exception.
 * e->expected is what the caller compares with. */
static int
compare_and(SyncMap *o, ns_edit *e)
{
    PyObject *const wanted = e->expected, *current, *old;
    for (;;) { /* until no other thread replaced the value while it was compared */
        int result = ns_syncmap_lookup(o, e->key, e->hash, &current, e->asker);
        if (result != NS_KEY_FOUND) {
            return result == NS_KEY_MISSING ? 0 : -1;
        }
        int equal = current == wanted ? 1 : PyObject_RichCompareBool(current, wanted, Py_EQ);
        if (equal > 0 && e->kind == NS_REMOVE &&
            ns_detach((PyObject *)o, &o->flights, e->key) < 0) {
            equal = -1;
        }
        if (equal <= 0) {
            Py_DECREF(current);
            return equal;
        }
        e->expected = current;
        result = ns_syncmap_apply(o, e, &old);
        Py_DECREF(current);
        Py_XDECREF(old);
        if (result != NS_KEY_OTHER_VALUE) {
            return result == NS_KEY_FOUND ? 1 : result == NS_KEY_MISSING ? 0 : -1;
        }
    }
}

static PyObject *
compare_and_edit(PyObject *self, ns_edit *e)
{
    ns_asker a;
    ns_asker_unused(&a);
    e->asker = &a;
    int done = compare_and((SyncMap *)self, e);
    ns_asker_end(&a);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *
compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.compare_and_swap", {"key", "old", "new"}, 3, 3, 0};
    PyObject *values[3];
    ns_edit e = {.kind = NS_CHANGE};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.expected = values[1];
    e.new = values[2];
    return compare_and_edit(self, &e);
}

static PyObject *
compare_and_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.compare_and_delete", {"key", "old"}, 2, 2, 0};
    PyObject *values[2];
    ns_edit e = {.kind = NS_REMOVE};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.expected = values[1];
    return compare_and_edit(self, &e);
}

static PyObject *
modify(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.modify", {"key", "fn", "default"}, 3, 3, 0};
    PyObject *values[3], *current, *old;
    ns_edit e = {0};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    ns_asker a;
    ns_asker_unused(&a);
    e.key = values[0];
    e.asker = &a;
    int before, now;
    do {
        current = e.new = NULL;
        now = NS_KEY_ERROR;
        before = ns_syncmap_lookup((SyncMap *)self, e.key, e.hash, &current, &a);
        if (before != NS_KEY_ERROR) {
            e.new = PyObject_CallOneArg(values[1], before == NS_KEY_FOUND ? current : values[2]);
        }
        if (e.new != NULL) {
            e.kind = before == NS_KEY_FOUND ? NS_CHANGE : NS_ADD;
            e.expected = current;
            now = ns_syncmap_apply((SyncMap *)self, &e, &old);
            Py_XDECREF(old);
        }
        Py_XDECREF(current);
        if (now != before) { /* it failed, or another thread changed the entry */
            Py_CLEAR(e.new);
        }
    } while (now != before && now != NS_KEY_ERROR);
    ns_asker_end(&a);
    return e.new;
}

static PyObject *
snapshot(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *each = pairs(self, NULL), *pair;
    PyObject *result = each != NULL ? PyDict_New() : NULL;
    while (result != NULL && (pair = PyIter_Next(each)) != NULL) {
        if (PyDict_SetItem(result, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)) < 0) {
            Py_CLEAR(result);
        }
        Py_DECREF(pair);
    }
    Py_XDECREF(each);
    if (PyErr_Occurred()) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_table_bytes(&((SyncMap *)self)->table) +
                             ns_spares_size(&((SyncMap *)self)->spare_iterators));
}

/* ---- load_or_compute, and what _common/mapping.py calls ---- */

static int
look(PyObject *self, PyObject *key, uint64_t hash, PyObject **value)
{
    return ns_syncmap_lookup((SyncMap *)self, key, hash, value, NULL);
}

static PyObject *
land(PyObject *self, PyObject *key, uint64_t hash, PyObject *value, _Atomic bool *detached)
{
    PyObject *kept;
    const ns_edit e = {.kind = NS_ADD, .key = key, .hash = hash, .new = value, .unless = detached};
    const int found = ns_syncmap_apply((SyncMap *)self, &e, &kept);
    return found == NS_KEY_FOUND ? kept : found == NS_KEY_ERROR ? NULL : Py_NewRef(value);
}

static const ns_destination destination = {look, land, NULL};

/* load_or_compute of a missing key. */
static Py_NO_INLINE PyObject *
compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *timeout, uint64_t hash)
{
    PyObject *const *python = &ns_state_of(self)->syncmap_compute;
    return ns_fly_or_join(
        self, &destination, &((SyncMap *)self)->flights, python, args, nargs, timeout, hash);
}

static PyObject *
load_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {
        "SyncMap.load_or_compute(self, key, fn, /, *args, timeout=None)", {NULL}, 0, 0, 0};
    PyObject *timeout, *value;
    uint64_t hash;
    if (ns_compute_arguments(&s, args, nargs, kwnames, &timeout, &hash) < 0) {
        return NULL;
    }
    int found = ns_syncmap_lookup((SyncMap *)self, args[0], hash, &value, NULL);
    return ns_likely(found == NS_KEY_FOUND) ? value
           : found == NS_KEY_ERROR          ? NULL
                                            : compute(self, args, nargs, timeout, hash);
}

PyObject *
ns_flights_of(PyObject *self, ns_ref *place)
{
    PyObject *flights = ns_load(place, NS_ACQUIRE);
    if (flights == NULL) {
        ns_state *state = ns_state_of(self);
        if (state->syncmap_type == NULL) {
            return ns_shutting_down();
        }
        PyObject *none = NULL, *new = PyObject_CallNoArgs(state->syncmap_type);
        if (new == NULL) {
            return NULL;
        }
        ((SyncMap *)new)->is_flights = true;
        ns_watch_detach(&((SyncMap *)new)->watch); /* users cannot pin this map */
        if (ns_cas(place, &none, new, NS_SEQ_CST)) {
            flights = new;
        }
        else {
            Py_DECREF(new);
            flights = none;
        }
    }
    return flights;
}

/* The map of the calls under way, which belongs to this map and is made by the first call. */
static PyObject *
flights_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_XNewRef(ns_flights_of(self, &((SyncMap *)self)->flights));
}

/* For a map of flights: see ns_fence_flight. */
static PyObject *
fence(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_fence_flight((SyncMap *)self);
    Py_RETURN_NONE;
}

/* Stores a value that was computed, unless its call was detached. */
static PyObject *
land_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return ns_land_computed(self, &destination, args, nargs);
}

/* ---- The table of methods ---- */

PyMethodDef ns_syncmap_methods[] = {
    NS_METHOD("get", get, DOC_SyncMap_get),
    NS_METHOD("setdefault", setdefault, DOC_SyncMap_setdefault),
    NS_METHOD("pop", pop, DOC_SyncMap_pop),
    NS_NO_ARGUMENTS("popitem", popitem, DOC_SyncMap_popitem),
    NS_NO_ARGUMENTS("clear", clear, DOC_SyncMap_clear),
    NS_NO_ARGUMENTS("snapshot", snapshot, DOC_SyncMap_snapshot),
    NS_METHOD("insert", insert, DOC_SyncMap_insert),
    NS_METHOD("swap", swap, DOC_SyncMap_swap),
    NS_METHOD("compare_and_swap", compare_and_swap, DOC_SyncMap_compare_and_swap),
    NS_METHOD("compare_and_delete", compare_and_delete, DOC_SyncMap_compare_and_delete),
    NS_METHOD("modify", modify, DOC_SyncMap_modify),
    NS_METHOD("load_or_compute", load_or_compute, DOC_SyncMap_load_or_compute),
    {"_pairs", pairs, METH_NOARGS, NULL},
    {"_flights", flights_of, METH_NOARGS, NULL},
    {"_fence", fence, METH_NOARGS, NULL},
    {"_land", _PyCFunction_CAST(land_method), METH_FASTCALL, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};
