#include "interpreter/ageing.h"
#include "object.h"

/* ---- The list ---- */

/* Takes the first free node from this one on and before `end`. Returns NULL if there is none. */
static ns_ager_node *
take_free(ns_ager_node *n, const ns_ager_node *end)
{
    for (; n != end; n = n->next) {
        uint32_t none = 0;
        if (ns_load(&n->state, NS_RELAXED) == 0 &&
            ns_cas(&n->state, &none, NS_AGER_TAKEN, NS_SEQ_CST)) {
            return n;
        }
    }
    return NULL;
}

/* Takes a free node of the list. Returns NULL if there is none. */
static ns_ager_node *
find_free(ns_ager *a)
{
    ns_ager_node *hint = ns_load(&a->hint, NS_ACQUIRE);
    ns_ager_node *found = take_free(hint, NULL);
    if (found == NULL) {
        found = take_free(ns_load(&a->nodes, NS_ACQUIRE), hint);
    }
    if (found != NULL) {
        ns_store(&a->hint, found->next, NS_RELEASE);
    }
    return found;
}

/* Adds a new node to the list, already taken by the caller. Returns NULL if there is no memory. */
static ns_ager_node *
make_node(ns_ager *a)
{
    ns_ager_node *fresh = PyMem_RawCalloc(1, sizeof(ns_ager_node));
    if (fresh == NULL) {
        return NULL;
    }
    fresh->ager = a;
    ns_store(&fresh->state, NS_AGER_TAKEN, NS_RELAXED);
    ns_ager_node *head = ns_load(&a->nodes, NS_RELAXED);
    do {
        fresh->next = head;
    } while (!ns_cas(&a->nodes, &head, fresh, NS_RELEASE));
    ns_add(&a->count, 1, NS_RELAXED);
    return fresh;
}

ns_ager_node *
ns_ager_take(ns_ager *a)
{
    ns_ager_node *node = NULL;
    if (ns_add(&a->pools, 1, NS_RELAXED) < ns_load(&a->count, NS_RELAXED)) {
        node = find_free(a);
    }
    if (node == NULL) {
        node = make_node(a);
    }
    if (node == NULL) {
        ns_sub(&a->pools, 1, NS_RELAXED);
        PyErr_NoMemory();
    }
    return node;
}

void
ns_ager_begin(ns_ager_node *node, PyObject *pool, const ns_ager_calls *calls)
{
    node->pool = pool;
    node->calls = calls;
    ns_store(&node->state, NS_AGER_TAKEN | NS_AGER_LIVE, NS_SEQ_CST);
}

bool
ns_ager_remove(ns_ager_node *node)
{
    return ns_sub(&node->state, NS_AGER_LIVE, NS_SEQ_CST) == (NS_AGER_TAKEN | NS_AGER_LIVE);
}

void
ns_ager_release(ns_ager_node *node)
{
    ns_ager *a = node->ager;
    ns_store(&node->state, 0, NS_SEQ_CST);
    ns_store(&a->hint, node, NS_RELEASE);
    ns_sub(&a->pools, 1, NS_RELAXED);
}

PyObject *
ns_ager_enter(ns_ager_node *node)
{
    uint32_t state = ns_load(&node->state, NS_RELAXED);
    do {
        if (!(state & NS_AGER_LIVE)) {
            return NULL;
        }
    } while (!ns_cas(&node->state, &state, state + NS_AGER_VISIT, NS_SEQ_CST));
    return node->pool;
}

void
ns_ager_leave(ns_ager_node *node)
{
    PyObject *pool = node->pool; /* the walk is still inside, so neither changes */
    const ns_ager_calls *calls = node->calls;
    if (ns_sub(&node->state, NS_AGER_VISIT, NS_SEQ_CST) == NS_AGER_TAKEN + NS_AGER_VISIT) {
        calls->free(pool);
    }
}

/* ---- The sweeper ---- */

typedef struct {
    PyObject_HEAD
    _Atomic(PyObject *) me;
    ns_ager *ager;
} Sweeper;

static void
drop_me(PyObject *self)
{
    Py_XDECREF(ns_swap(&((Sweeper *)self)->me, NULL, NS_RELAXED));
}

static void
visit_pools(ns_ager *ager)
{
    ns_ager_node *n = ns_load(&ager->nodes, NS_ACQUIRE);
    for (; n != NULL; n = n->next) {
        PyObject *pool = ns_ager_enter(n);
        if (pool != NULL) {
            n->calls->collect(pool);
            ns_ager_leave(n);
        }
    }
}

static void
finalize(PyObject *self)
{
    if (!PyObject_GC_IsFinalized(self)) { /* somebody called it by hand */
        return;
    }
    /* The collector holds the last reference and will drop it. */
    PyObject_GC_UnTrack(self);
    drop_me(self);
    ns_ager *ager = ((Sweeper *)self)->ager;
    uint8_t stage = NS_AGER_PAUSED;
    if (ns_cas(&ager->stage, &stage, NS_AGER_IDLE, NS_RELAXED)) {
        PyObject *pending = PyErr_GetRaisedException();
        visit_pools(ager);
        PyErr_SetRaisedException(pending);
    }
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    uint8_t stage = NS_AGER_BEGUN;
    ns_cas(&((Sweeper *)self)->ager->stage, &stage, NS_AGER_PAUSED, NS_RELAXED);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&((Sweeper *)self)->me, NS_RELAXED));
    return 0;
}

static int
clear(PyObject *self)
{
    drop_me(self);
    return 0;
}

static void
dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    drop_me(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot slots[] = {
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_finalize, finalize},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.PoolSweeper",
    .basicsize = sizeof(Sweeper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* ---- The hook ---- */

/* Leaves a sweeper behind if there are pools. If there is no memory, the next collection does
 * it. */
static void
make_sweeper(PyTypeObject *type)
{
    ns_state *state = PyType_GetModuleState(type);
    ns_ager *ager = state ? state->ager : NULL;
    if (ager == NULL || ns_load(&ager->pools, NS_RELAXED) == 0) {
        return;
    }
    Sweeper *s = PyObject_GC_New(Sweeper, type);
    if (s != NULL) {
        s->ager = ager;
        ns_store(&s->me, (PyObject *)s, NS_RELAXED); /* our own reference becomes the one in `me` */
        PyObject_GC_Track(s);
        ns_store(&ager->stage, NS_AGER_BEGUN, NS_RELAXED);
    }
}

/* Returns a new reference to the type of sweepers that an entry of the hook's list refers to.
 * Returns NULL if the type is dead or the entry is not ours. */
static PyTypeObject *
sweeper_type_of(PyObject *ref)
{
    PyObject *type = NULL;
    if (ref == NULL || !PyWeakref_CheckRefExact(ref) || PyWeakref_GetRef(ref, &type) <= 0) {
        return NULL;
    }
    if (!PyType_Check(type) || ((PyTypeObject *)type)->tp_dealloc != dealloc) {
        Py_CLEAR(type); /* somebody changed the list */
    }
    return (PyTypeObject *)type;
}

/* `types` is a list of weak references. For each import of the module in this interpreter it has
 * one, to that module's type of sweepers. They are weak because gc.callbacks outlives all
 * modules. */
static PyObject *
on_collection(PyObject *types, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyUnicode_Check(args[0]) ||
        PyUnicode_CompareWithASCIIString(args[0], "start") != 0) {
        Py_RETURN_NONE;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(types); i++) {
        PyObject *ref = PyList_GetItemRef(types, i);
        PyTypeObject *type = sweeper_type_of(ref);
        if (type != NULL) {
            make_sweeper(type);
            Py_DECREF(type);
        }
        Py_XDECREF(ref);
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

static PyMethodDef hook = {
    "nogil_sync_pools", _PyCFunction_CAST(on_collection), METH_FASTCALL, NULL};

/* Returns a new reference to the list of the hook in gc.callbacks, which it adds if it is not
 * there. NULL with an exception. */
static PyObject *
types_of_hook(PyObject *callbacks)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *each = PyList_GetItemRef(callbacks, i);
        PyObject *types = NULL;
        if (each != NULL && PyCFunction_CheckExact(each) &&
            PyCFunction_GetFunction(each) == _PyCFunction_CAST(on_collection)) {
            types = Py_XNewRef(PyCFunction_GetSelf(each));
        }
        Py_XDECREF(each);
        if (types != NULL) {
            return types;
        }
    }
    PyErr_Clear(); /* the list became shorter meanwhile */
    PyObject *types = PyList_New(0);
    PyObject *function = types ? PyCFunction_New(&hook, types) : NULL;
    if (function == NULL || PyList_Append(callbacks, function) < 0) {
        Py_CLEAR(types);
    }
    Py_XDECREF(function);
    return types;
}

/* Removes the references to dead types. */
static int
forget_the_dead(PyObject *types)
{
    for (Py_ssize_t i = PyList_GET_SIZE(types) - 1; i >= 0; i--) {
        PyObject *ref = PyList_GetItemRef(types, i);
        PyTypeObject *type = sweeper_type_of(ref);
        int result = type == NULL ? PyList_SetSlice(types, i, i + 1, NULL) : 0;
        Py_XDECREF(type);
        Py_XDECREF(ref);
        if (result < 0) {
            return -1;
        }
    }
    return 0;
}

static int
install(ns_state *state)
{
    PyObject *callbacks = ns_import_attribute("gc", "callbacks");
    if (callbacks != NULL && !PyList_Check(callbacks)) {
        PyErr_SetString(PyExc_TypeError, "gc.callbacks is not a list");
        Py_CLEAR(callbacks);
    }
    PyObject *types = callbacks ? types_of_hook(callbacks) : NULL;
    int result = types ? forget_the_dead(types) : -1;
    PyObject *ref = result == 0 ? PyWeakref_NewRef(state->sweeper_type, NULL) : NULL;
    result = ref ? PyList_Append(types, ref) : -1;
    Py_XDECREF(ref);
    Py_XDECREF(types);
    Py_XDECREF(callbacks);
    return result;
}

int
ns_add_ageing(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->ager = PyMem_RawCalloc(1, sizeof(ns_ager));
    if (state->ager == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    state->sweeper_type = ns_new_type(module, &spec, NULL);
    return state->sweeper_type == NULL ? -1 : install(state);
}
