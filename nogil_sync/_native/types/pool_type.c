/* Pool, over core/pool.h. What its use() returns is in pool_use.c.
 *
 * References. The pool owns one to each item. put takes over the caller's reference and get hands
 * it back; the count does not change in between.
 *
 * User code. `new`, `reset`, `drop` and the finalisers of items run between calls of the core and
 * never inside one. Meanwhile only the caller has the item that they are about.
 *
 * For the collector each call of the core is one step. So traverse finds every item in one place,
 * and does not find one that a thread has just taken.
 *
 * tp_clear may meet a thread that got hold of this garbage through gc.get_objects(). So it replaces
 * the functions by None, and a thread that calls one first takes a reference, by tryref.h. For
 * functions at module level and methods of types, which become immortal as soon as there are
 * threads, that writes nothing.
 */
#include "types/pool_type.h"

#include "arguments.h"
#include "docs.h"

/* If nothing is collected for this long, a put counts as a collection. */
#define A_WHILE INT64_C(60000000000) /* nanoseconds */

/* Belongs to a pool with `drop`, and has the finaliser by which the collector reports that the pool
 * is garbage. Pool itself has no finaliser. CPython would call it before an instance of a subclass
 * dies, and would revive the instance for that; afterwards a weak reference could return the dying
 * pool. */
typedef struct {
    PyObject_HEAD
    _Atomic(ns_ager_node *) node; /* NULL: the pool is dead */
} End;

/* Calls `drop` with an item, or `new` with none (NULL). The call counts as a level of recursion:
 * the interpreter counts none for a method without parameters (object.c), and the function may call
 * a pool again without Python code in between. */
static PyObject *
call_function(PyObject *function, PyObject *item)
{
    if (Py_EnterRecursiveCall(" while calling a function of a pool") != 0) {
        return NULL;
    }
    PyObject *result =
        item != NULL ? PyObject_CallOneArg(function, item) : PyObject_CallNoArgs(function);
    Py_LeaveRecursiveCall();
    return result;
}

/* ---- Releasing items ---- */

/* Calls `drop` for an item that the pool does not keep. The caller keeps its reference. */
static void
say_goodbye(PyObject *self, PyObject *item)
{
    if (ns_load(&((Pool *)self)->drop, NS_RELAXED) == NULL) {
        return;
    }
    PyObject *pending = PyErr_GetRaisedException();
    PyObject *drop = ns_load_function(&((Pool *)self)->drop);
    if (drop != NULL) {
        PyObject *result = call_function(drop, item);
        if (result == NULL) {
            PyErr_WriteUnraisable(drop);
        }
        Py_XDECREF(result);
        Py_DECREF(drop);
    }
    PyErr_SetRaisedException(pending);
}

void
ns_pool_type_let_go(PyObject *self, PyObject *item)
{
    say_goodbye(self, item);
    Py_DECREF(item);
}

/* Releases the old items, or all. */
static void
sweep(PyObject *self, bool all)
{
    ns_pool_walk walk = {0};
    PyObject *item;
    while ((item = ns_pool_next(&((Pool *)self)->pool, &walk, all)) != NULL) {
        ns_pool_type_let_go(self, item);
    }
}

/* Releases all items without `drop`. */
static void
let_go_in_silence(PyObject *self)
{
    ns_pool_walk walk = {0};
    PyObject *item;
    while ((item = ns_pool_next(&((Pool *)self)->pool, &walk, true)) != NULL) {
        Py_DECREF(item);
    }
}

static void
collect(PyObject *self)
{
    if (ns_is_initialized(self)) {
        ns_pool_collected(&((Pool *)self)->pool);
        if (((Pool *)self)->ages) {
            sweep(self, false);
        }
    }
}

/* ---- Get and put ---- */

static PyObject *
make_item(PyObject *self)
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    PyObject *new = ns_load_function(&((Pool *)self)->new);
    if (new == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the pool is garbage that is being collected");
        return NULL;
    }
    PyObject *item = call_function(new, NULL);
    Py_DECREF(new);
    return item;
}

Py_NO_INLINE PyObject *
ns_pool_type_get_slow(PyObject *self)
{
    PyObject *item = ns_pool_get_slow(&((Pool *)self)->pool);
    return item != NULL ? item : make_item(self);
}

static PyObject *
get(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_watch_use(&((Pool *)self)->watch, self);
    return ns_pool_type_get(self);
}

Py_NO_INLINE int
ns_pool_type_keep_slow(PyObject *self, PyObject *item)
{
    Pool *o = (Pool *)self;
    if (ns_check_initialized(self) < 0) {
        Py_DECREF(item);
        return -1;
    }
    PyObject *refused = ns_pool_put_slow(&o->pool, item);
    bool due = ns_pool_is_due(&o->pool);
    if (refused != NULL) {
        ns_pool_type_let_go(self, refused);
        due = due || o->pool.max_items > 0; /* refused puts are not counted */
    }
    if (due && o->ages && ns_pool_grow_older(&o->pool, A_WHILE)) {
        sweep(self, false);
    }
    return 0;
}

/* Returns 1 if the item is to be kept, 0 if it was dropped, -1 if it was dropped, with an
 * exception. */
static int
reset_item(PyObject *self, PyObject *item)
{
    PyObject *reset = ns_load_function(&((Pool *)self)->reset);
    if (reset == NULL) {
        return 1;
    }
    PyObject *verdict = PyObject_CallOneArg(reset, item);
    Py_DECREF(reset);
    int result = verdict == NULL ? -1 : verdict != Py_False;
    Py_XDECREF(verdict);
    if (result != 1) {
        say_goodbye(self, item);
    }
    return result;
}

/* A function of its own, so that a put without reset saves fewer registers. */
Py_NO_INLINE int
ns_pool_type_reset_and_keep(PyObject *self, PyObject *item)
{
    int result = ns_check_initialized(self) < 0 ? -1 : reset_item(self, item);
    if (result != 1) {
        Py_DECREF(item);
        return result;
    }
    return ns_pool_type_keep(self, item);
}

static PyObject *
put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Pool.put", {"item"}, 1, 1, 0};
    PyObject *item;
    if (ns_unpack(&s, args, nargs, kwnames, &item) < 0) {
        return NULL;
    }
    ns_watch_use(&((Pool *)self)->watch, self);
    if (ns_pool_type_put(self, Py_NewRef(item)) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- Other methods ---- */

static PyObject *
clear_items(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    sweep(self, true);
    Py_RETURN_NONE;
}

static PyObject *
idle(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0
               ? NULL
               : PyLong_FromLongLong(ns_pool_count(&((Pool *)self)->pool));
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_pool_extra_size(&((Pool *)self)->pool) +
                             ns_spares_size(&((Pool *)self)->spare_uses));
}

static PyObject *
repr(PyObject *self)
{
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    char state[32];
    PyOS_snprintf(
        state, sizeof(state), "%lld idle", (long long)ns_pool_count(&((Pool *)self)->pool));
    return ns_repr_state(self, state);
}

/* ---- A pool that is garbage ---- */

/* Runs before the collector clears anything: `drop` and the items still work. */
static void
end_finalize(PyObject *self)
{
    ns_ager_node *node = ns_load(&((End *)self)->node, NS_SEQ_CST);
    if (!PyObject_GC_IsFinalized(self) || node == NULL) { /* called by hand, or too late */
        return;
    }
    PyObject *pool = ns_ager_enter(node);
    if (pool != NULL) {
        sweep(pool, true);
        ns_store(&((Pool *)pool)->ended, true, NS_RELAXED);
        ns_ager_leave(node);
    }
}

static int
end_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void
end_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot end_slots[] = {
    {Py_tp_traverse, end_traverse},
    {Py_tp_finalize, end_finalize},
    {Py_tp_dealloc, end_dealloc},
    {0, NULL},
};

static PyType_Spec end_spec = {
    .name = "nogil_sync.PoolEnd",
    .basicsize = sizeof(End),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = end_slots,
};

static PyObject *
make_end(ns_state *state)
{
    PyObject *type = state->pool_end_type;
    if (type == NULL) {
        return ns_shutting_down();
    }
    End *end = PyObject_GC_New(End, (PyTypeObject *)type);
    if (end != NULL) {
        ns_store(&end->node, NULL, NS_RELAXED);
        PyObject_GC_Track(end);
    }
    return (PyObject *)end;
}

/* ---- The object ---- */

/* Checks that it is None or can be called. Returns 0, or -1 with TypeError. */
static int
check_callable(PyObject *function, const char *name)
{
    if (function != Py_None && !PyCallable_Check(function)) {
        PyErr_Format(PyExc_TypeError, "%s must be callable or None", name);
        return -1;
    }
    return 0;
}

static void
set_function(ns_ref *ref, PyObject *function)
{
    if (function != Py_None) {
        ns_publish(function);
        ns_store(ref, Py_NewRef(function), NS_RELEASE);
    }
}

static void free_pool(PyObject *self);
static const ns_ager_calls calls = {collect, free_pool};

/* Initializes the core and registers the pool. A pool without ages is registered because of
 * deque.h's memory. The node comes first, for another thread may already be in a call on the pool,
 * whose memory can then no longer be taken away. Returns 0, or -1 with nothing changed. */
static int
begin(PyObject *self, ns_state *state, int64_t max_idle)
{
    Pool *o = (Pool *)self;
    ns_ager_node *node = ns_ager_take(state->ager);
    if (node == NULL) {
        return -1;
    }
    if (!ns_pool_init(&o->pool, max_idle)) {
        ns_ager_release(node);
        PyErr_NoMemory();
        return -1;
    }
    ns_ager_begin(node, self, &calls);
    o->node = node;
    return 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "Pool.__init__", {"new", "reset", "drop", "max_idle", "age"}, 1, 5, 4};
    Pool *o = (Pool *)self;
    PyObject *given[5];
    if (ns_unpack_init(&s, args, kwargs, given) < 0) {
        return -1;
    }
    PyObject *new = given[0], *reset = given[1] != NULL ? given[1] : Py_None;
    PyObject *drop = given[2] != NULL ? given[2] : Py_None;
    PyObject *limit = given[3] != NULL ? given[3] : Py_None;
    int64_t max_idle = -1; /* no limit */
    if (!PyCallable_Check(new)) {
        PyErr_SetString(PyExc_TypeError, "new must be callable");
        return -1;
    }
    if (check_callable(reset, "reset") < 0 || check_callable(drop, "drop") < 0) {
        return -1;
    }
    if (limit != Py_None) {
        if (ns_clamped_int64(limit, &max_idle) < 0) {
            return -1;
        }
        if (max_idle < 0) {
            PyErr_SetString(PyExc_ValueError, "max_idle must be >= 0");
            return -1;
        }
    }
    int ages = given[4] == NULL ? 1 : PyObject_IsTrue(given[4]);
    ns_state *state = ages < 0 ? NULL : ns_state_of(self);
    if (state == NULL) {
        return -1;
    }
    PyObject *last = NULL;
    if (drop != Py_None && (last = make_end(state)) == NULL) {
        return -1;
    }
    if (ns_claim_init(self) < 0) {
        Py_XDECREF(last);
        return -1;
    }
    if (begin(self, state, max_idle) < 0) {
        ns_finish_init(self, false);
        Py_XDECREF(last);
        return -1;
    }
    o->ages = ages;
    if (last != NULL) {
        ns_store(&((End *)last)->node, o->node, NS_SEQ_CST);
        o->end = last;
    }
    ns_watch_attach(&o->watch, self);
    set_function(&o->new, new);
    set_function(&o->reset, reset);
    set_function(&o->drop, drop);
    ns_finish_init(self, true);
    return 0;
}

typedef struct {
    visitproc visit;
    void *arg;
} visitor;

static int
visit_item(void *item, void *argument)
{
    visitor *v = argument;
    return v->visit(item, v->arg);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Pool *o = (Pool *)self;
    visitor v = {visit, arg};
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->new, NS_RELAXED));
    Py_VISIT(ns_load(&o->reset, NS_RELAXED));
    Py_VISIT(ns_load(&o->drop, NS_RELAXED));
    Py_VISIT(o->end);
    int result = ns_spares_traverse(&o->spare_uses, self, visit, arg);
    return result != 0 ? result : ns_pool_each(&o->pool, visit_item, &v);
}

/* Calls no `drop`: in garbage the function may be cleared already, and End has called it before. */
static int
clear(PyObject *self)
{
    Pool *o = (Pool *)self;
    ns_ref *functions[] = {&o->new, &o->reset, &o->drop};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(functions); i++) {
        ns_clear_function(functions[i]);
    }
    let_go_in_silence(self);
    ns_spares_clear(&o->spare_uses, self);
    return 0;
}

/* Releases the items of a dying pool. If a finaliser revived the pool after its End had run, `drop`
 * is not called again: Python's finalisers, too, run only once. */
static void
let_go_of_the_last(PyObject *self)
{
    if (ns_load(&((Pool *)self)->ended, NS_RELAXED)) {
        let_go_in_silence(self);
    }
    else {
        sweep(self, true);
    }
}

static void
free_pool(PyObject *self)
{
    Pool *o = (Pool *)self;
    let_go_of_the_last(self); /* a walk may have put an item back after dealloc's sweep */
    Py_XDECREF(ns_load(&o->new, NS_RELAXED));
    Py_XDECREF(ns_load(&o->reset, NS_RELAXED));
    Py_XDECREF(ns_load(&o->drop, NS_RELAXED));
    if (o->end != NULL) {
        ns_store(&((End *)o->end)->node, NULL, NS_SEQ_CST);
        Py_DECREF(o->end);
    }
    if (o->node != NULL) {
        ns_ager_release(o->node);
    }
    ns_pool_destroy(&o->pool);
    ns_spares_destroy(&o->spare_uses);
    ns_watch_detach(&o->watch);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void
dealloc(PyObject *self)
{
    Pool *o = (Pool *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    let_go_of_the_last(self);
    if (o->node == NULL || ns_ager_remove(o->node)) {
        free_pool(self);
    }
    Py_TRASHCAN_END
}

static PyMethodDef methods[] = {
    NS_NO_ARGUMENTS("get", get, DOC_Pool_get),
    NS_METHOD("put", put, DOC_Pool_put),
    NS_NO_ARGUMENTS("use", ns_pool_type_use, DOC_Pool_use),
    NS_NO_ARGUMENTS("clear", clear_items, DOC_Pool_clear),
    NS_NO_ARGUMENTS("idle", idle, DOC_Pool_idle),
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Pool);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Pool},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Pool",
    .basicsize = sizeof(Pool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_pool(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->pool_end_type = ns_new_type(module, &end_spec, NULL);
    return state->pool_end_type == NULL || ns_add_pool_use(module) < 0 ? -1
                                                                       : ns_add_type(module, &spec);
}
