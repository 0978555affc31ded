#include "ageing.h"
#include "object.h"

/* ---- the list ---- */

/* The first empty node from this one on, but before the other, now the pool's; or NULL. */
static ns_ager_node *
take_empty(ns_ager_node *n, const ns_ager_node *end, PyObject *pool)
{
    for (; n != end; n = n->next) {
        PyObject *none = NULL;
        if (ns_load(&n->pool, NS_RELAXED) == NULL && ns_cas(&n->pool, &none, pool, NS_SEQ_CST)) {
            return n;
        }
    }
    return NULL;
}

ns_ager_node *
ns_ager_add(ns_ager *a, PyObject *pool)
{
    ns_publish(pool);
    if (ns_add(&a->pools, 1, NS_RELAXED) < ns_load(&a->count, NS_RELAXED)) {
        ns_ager_node *hint = ns_load(&a->hint, NS_ACQUIRE);
        ns_ager_node *empty = take_empty(hint, NULL, pool);
        if (empty == NULL) {
            empty = take_empty(ns_load(&a->nodes, NS_ACQUIRE), hint, pool);
        }
        if (empty != NULL) {
            ns_store(&a->hint, empty->next, NS_RELEASE);
            return empty;
        }
    }
    ns_ager_node *fresh = PyMem_RawCalloc(1, sizeof(ns_ager_node));
    if (fresh == NULL) {
        ns_sub(&a->pools, 1, NS_RELAXED);
        PyErr_NoMemory();
        return NULL;
    }
    ns_store(&fresh->pool, pool, NS_RELAXED);
    ns_ager_node *head = ns_load(&a->nodes, NS_RELAXED);
    do {
        fresh->next = head;
    } while (!ns_cas(&a->nodes, &head, fresh, NS_RELEASE));
    ns_add(&a->count, 1, NS_RELAXED);
    return fresh;
}

void
ns_ager_remove(ns_ager *a, ns_ager_node *node)
{
    ns_store(&node->pool, NULL, NS_SEQ_CST);
    ns_store(&a->hint, node, NS_RELEASE);
    ns_sub(&a->pools, 1, NS_RELAXED);
}

/* ---- the sweeper ---- */

typedef struct {
    PyObject_HEAD
    PyObject *me;
    ns_ager *ager;
} Sweeper;

static void
finalize(PyObject *self)
{
    ns_ager *ager = ((Sweeper *)self)->ager;
    uint8_t stage = NS_AGER_PAUSED;
    if (!ns_cas(&ager->stage, &stage, NS_AGER_IDLE, NS_RELAXED)) {
        return;
    }
    PyObject *pending = PyErr_GetRaisedException();
    ns_ager_node *n = ns_load(&ager->nodes, NS_ACQUIRE);
    for (; n != NULL; n = n->next) {
        PyObject *pool = ns_load(&n->pool, NS_SEQ_CST);
        if (pool != NULL && ns_try_incref(pool)) {
            if (ns_load(&n->pool, NS_SEQ_CST) == pool) {
                ns_pool_collect(pool);
            }
            Py_DECREF(pool);
        }
    }
    PyErr_SetRaisedException(pending);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    uint8_t stage = NS_AGER_BEGUN;
    ns_cas(&((Sweeper *)self)->ager->stage, &stage, NS_AGER_PAUSED, NS_RELAXED);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Sweeper *)self)->me);
    return 0;
}

static int
clear(PyObject *self)
{
    Py_CLEAR(((Sweeper *)self)->me);
    return 0;
}

static void
dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
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

/* ---- the hook ---- */

/* `type_ref` is a weak reference to the sweeper's type: the list of callbacks outlives all modules, and
 * must not keep this one alive. */
static PyObject *
on_collection(PyObject *type_ref, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = NULL;
    if (nargs != 2 || !PyUnicode_Check(args[0]) ||
        PyUnicode_CompareWithASCIIString(args[0], "start") != 0 ||
        PyWeakref_GetRef(type_ref, &type) <= 0) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    ns_state *state = PyType_GetModuleState((PyTypeObject *)type);
    ns_ager *ager = state ? state->ager : NULL;
    Sweeper *s = NULL;
    if (ager != NULL && ns_load(&ager->pools, NS_RELAXED) != 0) {
        s = PyObject_GC_New(Sweeper, (PyTypeObject *)type);
    }
    Py_DECREF(type);
    if (s != NULL) {
        s->ager = ager;
        s->me = (PyObject *)s; /* the reference that is ours so far */
        PyObject_GC_Track(s);
        ns_store(&ager->stage, NS_AGER_BEGUN, NS_RELAXED);
    }
    else if (PyErr_Occurred()) { /* no memory: another collection will do */
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

static PyMethodDef hook = {
    "nogil_sync_pools", _PyCFunction_CAST(on_collection), METH_FASTCALL, NULL};

static int
install(ns_state *state)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *callbacks = gc ? PyObject_GetAttrString(gc, "callbacks") : NULL;
    PyObject *ref = callbacks ? PyWeakref_NewRef(state->sweeper_type, NULL) : NULL;
    PyObject *function = ref ? PyCFunction_New(&hook, ref) : NULL;
    int result = function ? PyList_Append(callbacks, function) : -1;
    Py_XDECREF(function);
    Py_XDECREF(ref);
    Py_XDECREF(callbacks);
    Py_XDECREF(gc);
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
