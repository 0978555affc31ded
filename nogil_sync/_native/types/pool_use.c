/* What Pool.use() returns: a context manager that takes an item and puts it back. It is made from a
 * spare one if possible (spares.h).
 */
#include "types/pool_type.h"

#include "arguments.h"
#include "docs.h"
#include "interpreter/detach.h"

typedef struct {
    PyObject_HEAD
    PyObject *pool;
    ns_ref item; /* NULL: not entered */
} Use;

PyObject *
ns_pool_type_use(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_watch_use(&((Pool *)self)->watch, self);
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_state *state = ns_state_of(self);
    PyObject *type = state ? state->pool_use_type : NULL;
    if (type == NULL) {
        return state ? ns_shutting_down() : NULL;
    }
    Use *u = (Use *)ns_spares_new(&((Pool *)self)->spare_uses, (PyTypeObject *)type, self);
    if (u == NULL) {
        return NULL;
    }
    u->pool = self;
    ns_store(&u->item, NULL, NS_RELAXED);
    PyObject_GC_Track(u);
    return (PyObject *)u;
}

static int
enter_twice(void)
{
    PyErr_SetString(PyExc_RuntimeError, "already in use: call use() for each with statement");
    return -1;
}

/* Another thread entered meanwhile: puts the item back, to which there are two references. */
static Py_NO_INLINE PyObject *
give_back(PyObject *pool, PyObject *item)
{
    Py_DECREF(item);
    if (ns_pool_type_keep(pool, item) == 0) {
        enter_twice();
    }
    return NULL;
}

static PyObject *
use_take(PyObject *self)
{
    Use *u = (Use *)self;
    PyObject *none = NULL;
    if (ns_load(&u->item, NS_RELAXED) != NULL) {
        enter_twice();
        return NULL;
    }
    PyObject *item = ns_pool_type_get(u->pool);
    if (item == NULL) {
        return NULL;
    }
    Py_INCREF(item); /* our reference, while the body uses it */
    if (ns_likely(ns_cas(&u->item, &none, item, NS_RELEASE))) {
        return item;
    }
    return give_back(u->pool, item);
}

/* Puts the item back unused. */
static int
use_undo(PyObject *self)
{
    PyObject *item = ns_swap(&((Use *)self)->item, NULL, NS_ACQUIRE);
    return item ? ns_pool_type_keep(((Use *)self)->pool, item) : 0;
}

static PyObject *
use_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    for (int turn = 0;; turn++) {
        PyObject *item = use_take(self);
        if (item == NULL || !ns_is_interrupted() || turn == NS_ENTER_AGAIN) {
            return item;
        }
        Py_DECREF(item);
        if (use_undo(self) < 0 || ns_run_handlers() < 0) {
            return NULL;
        }
    }
}

static PyObject *
use_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    Use *u = (Use *)self;
    PyObject *item = ns_swap(&u->item, NULL, NS_ACQUIRE);
    if (item == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "not in use");
        return NULL;
    }
    if (nargs > 0 && args[0] != Py_None) {
        ns_pool_type_let_go(u->pool, item);
    }
    else if (ns_pool_type_put(u->pool, item) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
use_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Use *)self)->pool);
    Py_VISIT(ns_load(&((Use *)self)->item, NS_RELAXED));
    return 0;
}

/* Does not clear the pool, which clears itself. */
static int
use_clear(PyObject *self)
{
    if (ns_load(&((Use *)self)->item, NS_RELAXED) != NULL) {
        Py_XDECREF(ns_swap(&((Use *)self)->item, NULL, NS_ACQUIRE));
    }
    return 0;
}

static void
use_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, use_dealloc) /* items may be other pools, a million deep */
    use_clear(self);
    PyObject *pool = ((Use *)self)->pool;
    ns_spares_free(&((Pool *)pool)->spare_uses, self, pool);
    Py_TRASHCAN_END
}
NS_EXIT(use_exit, "PoolUse.__exit__")

static PyMethodDef use_methods[] = {
    NS_NO_ARGUMENTS("__enter__", use_enter, DOC_PoolUse___enter__),
    NS_METHOD("__exit__", use_exit_method, DOC_PoolUse___exit__),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot use_slots[] = {
    {Py_tp_doc, DOC_PoolUse},
    {Py_tp_traverse, use_traverse},
    {Py_tp_clear, use_clear},
    {Py_tp_dealloc, use_dealloc},
    {Py_tp_methods, use_methods},
    {0, NULL},
};

static PyType_Spec use_spec = {
    .name = "nogil_sync.PoolUse",
    .basicsize = sizeof(Use),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = use_slots,
};

int
ns_add_pool_use(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->pool_use_type = ns_new_type(module, &use_spec, NULL);
    return state->pool_use_type == NULL
               ? -1
               : PyModule_AddType(module, (PyTypeObject *)state->pool_use_type);
}
