/* syncmap_type.c: SyncMap as a Python object: construction, collection, and the type.
 *
 * SyncMap is core/table/table.h as a Python mapping. Lookups and edits are in syncmap_edits.h, the
 * mapping protocol and the methods in syncmap_protocol.c, what is compared in place in
 * syncmap_keys.h.
 */
#include "types/syncmap_edits.h"

#include "arguments.h"
#include "docs.h"
#include "object.h"

/* ---- Construction ---- */

/* What __init__ was given, with the hash of each key: all is read and hashed before anything is
 * stored. */
typedef struct {
    PyObject *pairs; /* a tuple; NULL: nothing was given */
    uint64_t *hashes;
    Py_ssize_t count;
} entries;

/* Reads a mapping, or pairs. Returns 0, or -1 with an exception. */
static int
read_entries(ns_state *state, PyObject *source, entries *e)
{
    if (state->syncmap_shared == NULL) {
        ns_shutting_down();
        return -1;
    }
    PyObject *found =
        PyObject_CallMethodOneArg(state->syncmap_shared, state->names._entries, source);
    PyObject *list = found != NULL ? PySequence_List(found) : NULL;
    /* Code that finds it through the collector can change a list, but not a tuple. */
    e->pairs = list != NULL ? PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    Py_XDECREF(found);
    if (e->pairs == NULL) {
        return -1;
    }
    e->count = PyTuple_GET_SIZE(e->pairs);
    e->hashes = PyMem_New(uint64_t, (size_t)e->count);
    if (e->hashes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < e->count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(e->pairs, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_SetString(PyExc_TypeError, "entries must be pairs");
            return -1;
        }
        if (ns_key_hash(PyTuple_GET_ITEM(pair, 0), &e->hashes[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
store_entries(SyncMap *o, const entries *e)
{
    for (Py_ssize_t i = 0; i < e->count; i++) {
        PyObject *pair = PyTuple_GET_ITEM(e->pairs, i);
        PyObject *key = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
        if (ns_syncmap_put(o, key, e->hashes[i], value) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
store_named(SyncMap *o, PyObject *kwargs)
{
    PyObject *name, *value;
    for (Py_ssize_t at = 0; kwargs != NULL && PyDict_Next(kwargs, &at, &name, &value);) {
        uint64_t hash;
        if (ns_key_hash(name, &hash) < 0 || ns_syncmap_put(o, name, hash, value) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "SyncMap.__init__(self, mapping_or_pairs=(), /, **kwargs)", {NULL}, 0, 0, 0};
    SyncMap *o = (SyncMap *)self;
    ns_state *state = ns_state_of(self);
    if (state == NULL || (kwargs != NULL && !PyArg_ValidateKeywordArguments(kwargs))) {
        return -1;
    }
    if (PyTuple_GET_SIZE(args) > 1) {
        ns_refuse(&s, ((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args), NULL);
        return -1;
    }
    entries given = {0};
    int result = 0;
    if (PyTuple_GET_SIZE(args) == 1) {
        result = read_entries(state, PyTuple_GET_ITEM(args, 0), &given);
    }
    if (result == 0 && (result = ns_claim_init(self)) == 0) {
        ns_watch_attach(&o->watch, self);
        ns_finish_init(self, true);
        result = store_entries(o, &given) < 0 ? -1 : store_named(o, kwargs);
    }
    PyMem_Free(given.hashes);
    Py_XDECREF(given.pairs);
    return result;
}

/* ---- Collection ---- */

typedef struct {
    visitproc visit;
    void *arg;
} visitor;

static int
visit_word(uintptr_t word, void *context)
{
    visitor *v = context;
    return v->visit((PyObject *)word, v->arg);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    SyncMap *o = (SyncMap *)self;
    visitor v = {visit, arg};
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->flights, NS_RELAXED));
    int result = ns_spares_traverse(&o->spare_iterators, self, visit, arg);
    return result != 0 ? result : ns_table_visit(&o->table, visit_word, &v);
}

/* Leaves an empty map that still works, because finalisers may use it. */
static int
clear_garbage(PyObject *self)
{
    ns_syncmap_clear((SyncMap *)self);
    ns_spares_clear(&((SyncMap *)self)->spare_iterators, self);
    return 0;
}

static void
release_entry(uintptr_t key, uintptr_t value)
{
    Py_DECREF((PyObject *)key);
    Py_XDECREF((PyObject *)value);
}

static void
dealloc(PyObject *self)
{
    SyncMap *o = (SyncMap *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    ns_table_destroy(&o->table, release_entry);
    ns_spares_destroy(&o->spare_iterators);
    Py_XDECREF(ns_load(&o->flights, NS_RELAXED));
    ns_watch_detach(&o->watch);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* ---- The type ---- */

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(SyncMap);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_SyncMap},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear_garbage},
    {Py_tp_iter, ns_syncmap_iter},
    {Py_mp_subscript, ns_syncmap_get_item},
    {Py_mp_ass_subscript, ns_syncmap_set_item},
    {Py_mp_length, ns_syncmap_length},
    {Py_nb_bool, ns_syncmap_truth},
    {Py_sq_contains, ns_syncmap_has_key},
    {Py_tp_methods, ns_syncmap_methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.SyncMap",
    .basicsize = sizeof(SyncMap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MAPPING,
    .slots = slots,
};

/* Imports from nogil_sync._common.mapping the base class, and the function for misses of
 * load_or_compute. */
static int
import_shared(ns_state *state)
{
    PyObject *shared = PyImport_ImportModule("nogil_sync._common.mapping");
    if (shared == NULL) {
        return -1;
    }
    state->syncmap_shared = PyObject_GetAttrString(shared, "SharedMap");
    state->syncmap_compute = PyObject_GetAttrString(shared, "load_or_compute");
    Py_DECREF(shared);
    return state->syncmap_shared == NULL || state->syncmap_compute == NULL ? -1 : 0;
}

/* Derives the secret that hashes are mixed with (table/hash.h) from the interpreter's own, by which
 * it hashes bytes. So one process has one seed, in all its interpreters and in the children of its
 * forks. With PYTHONHASHSEED it is the same in each run: a user who sets that wants the same order
 * of everything in each run, and gives up the protection for strings too. */
static int
seed_hashes(void)
{
    uint64_t words[2];
    for (int i = 0; i < 2; i++) {
        PyObject *text = PyBytes_FromFormat("nogil_sync.SyncMap, word %d", i);
        Py_hash_t hash = text != NULL ? PyObject_Hash(text) : -1;
        Py_XDECREF(text);
        if (hash == -1) { /* -1 is not a hash */
            return -1;
        }
        words[i] = (uint64_t)hash;
    }
    ns_hash_seed_set(words[0], words[1]);
    return 0;
}

int
ns_add_syncmap(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->atomic_bool_type = PyObject_GetAttrString(module, "AtomicBool");
    if (state->atomic_bool_type == NULL || seed_hashes() < 0 || import_shared(state) < 0 ||
        ns_add_syncmap_iterator(module) < 0) {
        return -1;
    }
    state->syncmap_type = ns_new_type(module, &spec, state->syncmap_shared);
    return state->syncmap_type == NULL ||
                   PyObject_SetAttrString(state->syncmap_type, "_plain", state->syncmap_type) < 0 ||
                   PyObject_SetAttrString(state->syncmap_type, "_Flag", state->atomic_bool_type) < 0
               ? -1
               : PyModule_AddType(module, (PyTypeObject *)state->syncmap_type);
}
