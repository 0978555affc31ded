/* cache_type.c: Cache as a Python object: construction, collection, and the type. Lookups and edits
 * are in cache_edits.h, the mapping protocol and the methods in cache_protocol.c.
 */
#include "types/cache_edits.h"

#include "arguments.h"
#include "docs.h"
#include "object.h"

/* ---- Construction ---- */

static int
check_callable(const char *name, PyObject **function)
{
    if (*function == Py_None) {
        *function = NULL;
    }
    if (*function != NULL && !PyCallable_Check(*function)) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be callable or None, not '%s'",
                     name,
                     Py_TYPE(*function)->tp_name);
        return -1;
    }
    return 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "Cache.__init__", {"maxsize", "ttl", "weigher", "on_evict", "clock"}, 1, 5, 4};
    Cache *o = (Cache *)self;
    PyObject *given[NS_MAX_PARAMETERS];
    int64_t limit = NS_CACHE_NO_LIMIT, ttl;
    if (ns_unpack_init(&s, args, kwargs, given) < 0 ||
        (given[0] != Py_None && ns_clamped_int64(given[0], &limit) < 0)) {
        return -1;
    }
    if (limit < 0) {
        PyErr_SetString(PyExc_ValueError, "maxsize must not be negative");
        return -1;
    }
    if (given[0] != Py_None && limit == NS_CACHE_NO_LIMIT) {
        PyErr_SetString(PyExc_OverflowError, "maxsize is too large");
        return -1;
    }
    if (ns_cache_parse_ttl(given[1], &ttl) < 0 || check_callable("weigher", &given[2]) < 0 ||
        check_callable("on_evict", &given[3]) < 0 || check_callable("clock", &given[4]) < 0 ||
        ns_claim_init(self) < 0) {
        return -1;
    }
    ns_cache_init(&o->core, limit, given[3] != NULL);
    o->ttl = ttl;
    o->core.steady = given[4] == NULL;
    ns_ref *const functions[] = {&o->weigher, &o->on_evict, &o->clock};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(functions); i++) {
        if (given[2 + i] != NULL) {
            ns_publish(given[2 + i]);
            ns_store(functions[i], Py_NewRef(given[2 + i]), NS_RELEASE);
        }
    }
    ns_watch_attach(&o->watch, self);
    ns_finish_init(self, true);
    return 0;
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
    PyObject *object = (PyObject *)(word & NS_CACHE_TAG ? ns_cached_key(word) : word);
    return v->visit(object, v->arg);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Cache *o = (Cache *)self;
    visitor v = {visit, arg};
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->flights, NS_RELAXED));
    Py_VISIT(ns_load(&o->weigher, NS_RELAXED));
    Py_VISIT(ns_load(&o->on_evict, NS_RELAXED));
    Py_VISIT(ns_load(&o->clock, NS_RELAXED));
    return ns_table_visit(&o->core.table, visit_word, &v);
}

/* Leaves an empty cache that still works, because finalisers may use it. */
static int
clear_garbage(PyObject *self)
{
    Cache *o = (Cache *)self;
    ns_clear_function(&o->weigher);
    ns_clear_function(&o->on_evict);
    ns_clear_function(&o->clock);
    if (ns_is_initialized(self)) {
        ns_cache_delete_all(o);
    }
    return 0;
}

static void
dealloc(PyObject *self)
{
    Cache *o = (Cache *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    ns_cache_destroy(&o->core, ns_cache_release_entry);
    Py_XDECREF(ns_load(&o->flights, NS_RELAXED));
    Py_XDECREF(ns_load(&o->weigher, NS_RELAXED));
    Py_XDECREF(ns_load(&o->on_evict, NS_RELAXED));
    Py_XDECREF(ns_load(&o->clock, NS_RELAXED));
    ns_watch_detach(&o->watch);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* ---- The type ---- */

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Cache);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Cache},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear_garbage},
    {Py_tp_repr, ns_cache_repr},
    {Py_tp_iter, ns_cache_iter},
    {Py_mp_subscript, ns_cache_get_item},
    {Py_mp_ass_subscript, ns_cache_set_item},
    {Py_mp_length, ns_cache_length},
    {Py_sq_contains, ns_cache_has_key},
    {Py_tp_methods, ns_cache_methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Cache",
    .basicsize = sizeof(Cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_cache(PyObject *module)
{
    static const char *const home = "nogil_sync._common.cache";
    ns_state *state = PyModule_GetState(module);
    PyObject *base = ns_import_attribute(home, "SharedCache");
    state->cache_load = ns_import_attribute(home, "load");
    state->cache_stats = ns_import_attribute(home, "CacheStats");
    state->cached_calls = ns_import_attribute(home, "CachedCalls");
    if (base != NULL) {
        state->cache_type = ns_new_type(module, &spec, base);
        Py_DECREF(base);
    }
    if (state->cache_load == NULL || state->cache_stats == NULL || state->cached_calls == NULL ||
        state->cache_type == NULL ||
        PyObject_SetAttrString(state->cache_type, "_plain_class", state->cache_type) < 0 ||
        PyObject_SetAttrString(state->cache_type, "_Flag", state->atomic_bool_type) < 0 ||
        PyModule_AddType(module, (PyTypeObject *)state->cache_type) < 0) {
        return -1;
    }
    return ns_add_cached(module);
}
