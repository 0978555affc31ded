/* cached_type.c: CachedFunction, and the function `cached`, over the Cache of cache.h.
 *
 * A call makes the key as functools.lru_cache does, and looks it up: a hit is all here. A miss is a
 * flight (flight.h). Misses that meet another one, keyword arguments, a `key` function and
 * coroutines are Python code (CachedCalls of nogil_sync/_common/cache.py): that waits, or must make
 * a dict or a coroutine anyway.
 *
 * Cache, calls and function are set by __init__ and never change. They need no clearing: `calls`
 * refers to the same function, and they are objects whose own tp_clear breaks any cycle through
 * them.
 */
#include "types/cache_edits.h"

#include "arguments.h"
#include "docs.h"
#include "object.h"

typedef struct {
    NS_OBJECT_HEAD
    vectorcallfunc vectorcall;
    PyObject *cache, *calls, *fn;
    /* The arguments are the key, and the result is not awaited. Set last, by a release: a call that
     * sees it set sees cache and calls. */
    _Atomic bool is_simple;
} CachedFunction;

static inline const ns_names *
names_of(CachedFunction *f)
{
    return &ns_state_of((PyObject *)f)->names;
}

static PyObject *
tuple_of(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *tuple = PyTuple_New(nargs);
    for (Py_ssize_t i = 0; tuple != NULL && i < nargs; i++) {
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    }
    return tuple;
}

/* Calls a method of `calls`, with the arguments as a tuple and a dict; first the key, if any. */
static PyObject *
call_python(CachedFunction *f, PyObject *method, PyObject *key, PyObject *const *args,
            Py_ssize_t nargs, PyObject *kwnames)
{
    if (ns_check_initialized((PyObject *)f) < 0) {
        return NULL;
    }
    PyObject *tuple = tuple_of(args, nargs), *dict = tuple ? PyDict_New() : NULL, *result = NULL;
    bool ok = dict != NULL;
    for (Py_ssize_t k = 0; ok && kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        ok = PyDict_SetItem(dict, PyTuple_GET_ITEM(kwnames, k), args[nargs + k]) == 0;
    }
    if (ok) {
        result = key != NULL ? PyObject_CallMethodObjArgs(f->calls, method, key, tuple, dict, NULL)
                             : PyObject_CallMethodObjArgs(f->calls, method, tuple, dict, NULL);
    }
    Py_XDECREF(tuple);
    Py_XDECREF(dict);
    return result;
}

/* A call whose key is missing. */
static Py_NO_INLINE PyObject *
compute(CachedFunction *f, PyObject *key, uint64_t hash, PyObject *const *args, Py_ssize_t nargs)
{
    const ns_user_call call = {f->fn, args, NULL, (size_t)nargs};
    bool met;
    PyObject *value = ns_cache_fly((Cache *)f->cache, key, hash, &call, &met);
    return ns_likely(!met) ? value : call_python(f, names_of(f)->compute, key, args, nargs, NULL);
}

static PyObject *
call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    CachedFunction *f = (CachedFunction *)self;
    const Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    ns_used(self);
    if (ns_unlikely(!ns_load(&f->is_simple, NS_ACQUIRE) ||
                    (kwnames != NULL && PyTuple_GET_SIZE(kwnames) != 0))) {
        return call_python(f, names_of(f)->call, NULL, args, nargs, kwnames);
    }
    const bool single = nargs == 1 && (PyLong_CheckExact(args[0]) || PyUnicode_CheckExact(args[0]));
    PyObject *key = single ? Py_NewRef(args[0]) : tuple_of(args, nargs), *value = NULL;
    uint64_t hash;
    if (key != NULL && ns_key_hash(key, &hash) == 0) {
        int found = ns_cache_lookup((Cache *)f->cache, key, hash, true, &value);
        if (found == NS_KEY_MISSING) {
            value = compute(f, key, hash, args, nargs);
        }
        else if (found == NS_KEY_ERROR) {
            value = NULL;
        }
    }
    Py_XDECREF(key);
    return value;
}

/* `__call__`, for its signature. */
static PyObject *
call_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return call(self, args, (size_t)nargs, kwnames);
}

static PyObject *
cache_key(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    CachedFunction *f = (CachedFunction *)self;
    return call_python(f, names_of(f)->key_of, NULL, args, nargs, kwnames);
}

static PyObject *
call_without_arguments(PyObject *self, PyObject *method)
{
    return ns_check_initialized(self) < 0
               ? NULL
               : PyObject_CallMethodNoArgs(((CachedFunction *)self)->calls, method);
}

static PyObject *
cache_info(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return call_without_arguments(self, names_of((CachedFunction *)self)->info);
}

static PyObject *
cache_clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return call_without_arguments(self, names_of((CachedFunction *)self)->clear);
}

static PyObject *
cache_parameters(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    CachedFunction *f = (CachedFunction *)self;
    PyObject *mine = PyObject_GetAttr(f->calls, names_of(f)->parameters);
    PyObject *copy = mine != NULL ? PyDict_Copy(mine) : NULL;
    Py_XDECREF(mine);
    return copy;
}

static PyObject *
cache_of(PyObject *self, void *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0 ? NULL : Py_NewRef(((CachedFunction *)self)->cache);
}

static PyObject *
descr_get(PyObject *self, PyObject *instance, PyObject *Py_UNUSED(owner))
{
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

static PyObject *
new_function(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *self = ns_new(type, args, kwargs);
    if (self != NULL) {
        ((CachedFunction *)self)->vectorcall = call;
    }
    return self;
}

/* The cache with these arguments, and what is known of the function. 0 or -1. */
static int
make_parts(ns_state *state, PyObject *given[4], PyObject **cache, PyObject **calls)
{
    PyObject *maxsize = given[1] != NULL ? Py_NewRef(given[1]) : PyLong_FromLong(128);
    PyObject *ttl = given[2] != NULL ? given[2] : Py_None;
    PyObject *key = given[3] != NULL ? given[3] : Py_None;
    PyObject *args = maxsize != NULL ? PyTuple_Pack(1, maxsize) : NULL;
    PyObject *options = args != NULL ? Py_BuildValue("{s:O}", "ttl", ttl) : NULL;
    *calls = NULL;
    *cache = options != NULL ? PyObject_Call(state->cache_type, args, options) : NULL;
    if (*cache != NULL) {
        *calls = PyObject_CallFunctionObjArgs(
            state->cached_calls, *cache, given[0], maxsize, ttl, key, NULL);
    }
    Py_XDECREF(maxsize);
    Py_XDECREF(args);
    Py_XDECREF(options);
    return *calls == NULL ? -1 : 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "CachedFunction.__init__(self, fn, /, *, maxsize=128, ttl=None, key=None)",
        {"", "maxsize", "ttl", "key"},
        1,
        4,
        3};
    CachedFunction *f = (CachedFunction *)self;
    PyObject *given[NS_MAX_PARAMETERS], *cache, *calls, *is_async = NULL;
    ns_state *state = ns_state_of(self);
    if (state == NULL || ns_unpack_init(&s, args, kwargs, given) < 0) {
        return -1;
    }
    if (state->cache_type == NULL || state->cached_calls == NULL) {
        ns_shutting_down();
        return -1;
    }
    int result = make_parts(state, given, &cache, &calls);
    if (result == 0) {
        is_async = PyObject_GetAttrString(calls, "is_async");
        result = is_async == NULL ? -1 : ns_claim_init(self);
    }
    if (result < 0) {
        Py_XDECREF(cache);
        Py_XDECREF(calls);
        Py_XDECREF(is_async);
        return -1;
    }
    f->cache = cache;
    f->calls = calls;
    f->fn = Py_NewRef(given[0]);
    ns_finish_init(self, true);
    ns_store(&f->is_simple,
             is_async == Py_False && (given[3] == NULL || given[3] == Py_None),
             NS_RELEASE);
    Py_DECREF(is_async);
    PyObject *dressed = PyObject_CallMethod(calls, "dress", "(O)", self);
    Py_XDECREF(dressed);
    return dressed == NULL ? -1 : 0;
}

static PyObject *
repr(PyObject *self)
{
    PyObject *describe = !ns_is_initialized(self)
                             ? NULL
                             : ns_import_attribute("nogil_sync._common.cache", "describe");
    if (describe == NULL) {
        return PyErr_Occurred() ? NULL : ns_repr_uninitialized(self);
    }
    PyObject *result = PyObject_CallOneArg(describe, self);
    Py_DECREF(describe);
    return result;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    CachedFunction *f = (CachedFunction *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(f->cache);
    Py_VISIT(f->calls);
    Py_VISIT(f->fn);
    return PyObject_VisitManagedDict(self, visit, arg);
}

static int
clear(PyObject *self)
{
    PyObject_ClearManagedDict(self);
    return 0;
}

static void
dealloc(PyObject *self)
{
    CachedFunction *f = (CachedFunction *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc)
    if (f->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(f->cache);
    Py_XDECREF(f->calls);
    Py_XDECREF(f->fn);
    /* Without memory it writes a MemoryError of its own to stderr, and loses the exception that the
     * thread is raising. */
    PyObject *raised = PyErr_GetRaisedException();
    PyObject_ClearManagedDict(self);
    PyErr_SetRaisedException(raised);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef methods[] = {
    {"__call__",
     _PyCFunction_CAST(call_method),
     METH_FASTCALL | METH_KEYWORDS | METH_COEXIST,
     DOC_CachedFunction___call__},
    NS_METHOD("cache_key", cache_key, DOC_CachedFunction_cache_key),
    NS_NO_ARGUMENTS("cache_info", cache_info, DOC_CachedFunction_cache_info),
    NS_NO_ARGUMENTS("cache_clear", cache_clear, DOC_CachedFunction_cache_clear),
    NS_NO_ARGUMENTS("cache_parameters", cache_parameters, DOC_CachedFunction_cache_parameters),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(CachedFunction, weakrefs), Py_READONLY, NULL},
    {"__vectorcalloffset__",
     Py_T_PYSSIZET,
     offsetof(CachedFunction, vectorcall),
     Py_READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"cache", cache_of, NULL, DOC_CachedFunction_cache, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_CachedFunction},
    {Py_tp_new, new_function},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, descr_get},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getset},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.CachedFunction",
    .basicsize = sizeof(CachedFunction),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = slots,
};

/* ---- The function `cached` ---- */

static PyObject *
cached(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"cached", {"maxsize", "ttl", "key"}, 0, 3, 0};
    PyObject *given[3], *result = NULL;
    ns_state *state = PyModule_GetState(module);
    if (ns_unpack(&s, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    if (state->cached_function == NULL) {
        return ns_shutting_down();
    }
    PyObject *decorator = ns_import_attribute("nogil_sync._common.cache", "decorator");
    PyObject *maxsize = given[0] != NULL ? Py_NewRef(given[0]) : PyLong_FromLong(128);
    if (decorator != NULL && maxsize != NULL) {
        result = PyObject_CallFunctionObjArgs(decorator,
                                              state->cached_function,
                                              maxsize,
                                              given[1] != NULL ? given[1] : Py_None,
                                              given[2] != NULL ? given[2] : Py_None,
                                              NULL);
    }
    Py_XDECREF(decorator);
    Py_XDECREF(maxsize);
    return result;
}

static PyMethodDef functions[] = {
    NS_METHOD("cached", cached, DOC_cached),
    {NULL, NULL, 0, NULL},
};

int
ns_add_cached(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    PyObject *base = ns_import_attribute("nogil_sync._common.once", "Annotated");
    if (base != NULL) {
        state->cached_function = ns_new_type(module, &spec, base);
        Py_DECREF(base);
    }
    return state->cached_function == NULL ||
                   PyModule_AddType(module, (PyTypeObject *)state->cached_function) < 0
               ? -1
               : ns_add_functions(module, functions);
}
