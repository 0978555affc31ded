/* Guard: the lock under which TaskGroup's Python code changes its state; see
 * nogil_sync/_common/guard.py.
 *
 *     guard.held = True       takes it
 *     del guard.held          releases it
 *
 * The interpreter runs handlers after a call, but not after a store to an attribute. So no handler
 * runs between the taking of the guard and the next instruction. A thread that has to wait runs no
 * handlers either: no exception can come instead of the guard. Its holder runs straight-line code,
 * so the wait is short.
 *
 *   lock    the lock itself; in the child of a fork it is free
 *   owner   the thread that holds it, or 0. Only that thread finds its own number here. It is
 *           the interpreter's number of the thread, which no later thread gets. The system's
 *           number may be that of a thread that held the guard at a fork and did not survive.
 *   depth   how many times the owner took it after the first: a trace function may do that
 *
 * A waiter detaches and waits until the lock was free, re-attaches, and retries. It must not hold
 * the lock while it re-attaches: at shutdown that may never return.
 */
#include "object.h"

#include "core/waiting/lock.h"

typedef struct {
    PyObject_HEAD
    ns_lock lock;
    _Atomic uint64_t owner;
    unsigned depth;
} Guard;

static uint64_t
this_thread(void)
{
    return PyThreadState_GetID(PyThreadState_Get());
}

static void
take(Guard *g)
{
    const uint64_t me = this_thread();
    if (ns_load(&g->owner, NS_RELAXED) == me) {
        g->depth++;
        return;
    }
    while (!ns_lock_try(&g->lock)) {
        Py_BEGIN_ALLOW_THREADS
        ns_lock_take(&g->lock);
        ns_lock_release(&g->lock);
        Py_END_ALLOW_THREADS
    }
    g->depth = 0;
    ns_store(&g->owner, me, NS_RELAXED);
}

static int
release(Guard *g)
{
    if (ns_load(&g->owner, NS_RELAXED) != this_thread()) {
        PyErr_SetString(PyExc_RuntimeError, "this thread does not hold the guard");
        return -1;
    }
    if (g->depth != 0) {
        g->depth--;
        return 0;
    }
    ns_store(&g->owner, 0, NS_RELAXED);
    ns_lock_release(&g->lock);
    return 0;
}

/* The setter of `held`. A deletion passes no value. */
static int
set_held(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        return release((Guard *)self);
    }
    take((Guard *)self);
    return 0;
}

/* guard_of(object): a new guard for each object, as memory is cheap here. The other backend shares
 * a few. */
static PyObject *
new_guard(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return type->tp_alloc(type, 0);
}

static void
dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyGetSetDef getset[] = {
    {"held", NULL, set_held, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, new_guard},
    {Py_tp_dealloc, dealloc},
    {Py_tp_getset, getset},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync._native._core.guard_of",
    .basicsize = sizeof(Guard),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

int
ns_add_guard(PyObject *module)
{
    return ns_add_type(module, &spec);
}
