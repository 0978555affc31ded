#include "interpreter/scope.h"

#include "arguments.h"
#include "object.h"

typedef struct gate_link {
    struct gate_link *_Atomic next;
    PyObject *gate;
} gate_link;

enum { ACTIVE, CANCELLED, CLOSED };

typedef struct {
    NS_OBJECT_HEAD
    _Atomic uint8_t state; /* written under the queue's lock */
    ns_waitq waiters;       /* the threads that sleep; its lock is the scope's */
    gate_link *_Atomic gates;
} Scope;

static inline bool
is_in(PyObject *scope, uint8_t wanted)
{
    return ns_load(&((Scope *)scope)->state, NS_ACQUIRE) == wanted;
}

/* ---- The scope of a thread ---- */

static bool
is_scope(ns_state *state, PyObject *object)
{
    return state->scope_type != NULL &&
           PyObject_TypeCheck(object, (PyTypeObject *)state->scope_type);
}

PyObject *
ns_current_scope(ns_state *state)
{
    PyObject *all = PyThreadState_GetDict(), *scope = NULL; /* borrowed, NULL: there is none yet */
    if (all == NULL || state == NULL || state->scope_key == NULL) {
        return NULL;
    }
    if (PyDict_GetItemRef(all, state->scope_key, &scope) < 0) {
        PyErr_Clear();
        return NULL;
    }
    if (scope != NULL && !is_scope(state, scope)) {
        Py_CLEAR(scope); /* of an instance of the module that was imported before */
    }
    return scope;
}

static PyObject *
current_scope(PyObject *module, PyObject *Py_UNUSED(unused))
{
    PyObject *scope = ns_current_scope(PyModule_GetState(module));
    return scope != NULL ? scope : Py_NewRef(Py_None);
}

PyObject *
ns_swap_scope(ns_state *state, PyObject *scope)
{
    PyObject *all = PyThreadState_GetDict();
    if (all == NULL || state == NULL || state->scope_key == NULL) {
        return scope == NULL ? NULL : PyErr_NoMemory();
    }
    PyObject *before = ns_current_scope(state);
    if (before == NULL && scope == NULL) {
        return NULL;
    }
    /* None, and not no entry: so going back to a scope needs no memory. */
    if (PyDict_SetItem(all, state->scope_key, scope != NULL ? scope : Py_None) < 0) {
        Py_CLEAR(before);
    }
    return before;
}

/* enter_scope(scope): makes it the calling thread's, or None no scope. Returns the one before. */
static PyObject *
enter_scope(PyObject *module, PyObject *scope)
{
    ns_state *state = PyModule_GetState(module);
    if (scope != Py_None && !is_scope(state, scope)) {
        PyErr_SetString(PyExc_TypeError, "enter_scope() needs a Scope or None");
        return NULL;
    }
    PyObject *before = ns_swap_scope(state, scope != Py_None ? scope : NULL);
    return before != NULL ? before : PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

int
ns_raise_cancelled(ns_state *state)
{
    PyObject *type = state != NULL ? Py_XNewRef(state->cancelled) : NULL;
    PyObject *message = state != NULL ? Py_XNewRef(state->cancelled_message) : NULL;
    if (type != NULL && message != NULL) {
        PyErr_SetObject(type, message);
    }
    else {
        ns_shutting_down();
    }
    Py_XDECREF(type);
    Py_XDECREF(message);
    return -1;
}

/* ---- Threads that sleep ---- */

bool
ns_scope_link(PyObject *self, ns_place *link, ns_waiter *w)
{
    Scope *scope = (Scope *)self;
    link->waiter = w;
    ns_waitq_lock(&scope->waiters);
    const bool cancelled = is_in(self, CANCELLED);
    if (!cancelled) {
        ns_waitq_push(&scope->waiters, link);
    }
    ns_waitq_unlock(&scope->waiters);
    return !cancelled;
}

void
ns_scope_unlink(PyObject *self, ns_place *link)
{
    Scope *scope = (Scope *)self;
    ns_waitq_lock(&scope->waiters);
    ns_waitq_remove(&scope->waiters, link);
    ns_waitq_unlock(&scope->waiters);
}

/* ---- Gates ---- */

/* Opens a gate. One that is open already raises RuntimeError, and that is as good. */
static void
open_gate(PyObject *self, PyObject *gate)
{
    PyObject *result = PyObject_CallMethodNoArgs(gate, ns_state_of(self)->names.release);
    if (result == NULL && !PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_WriteUnraisable(gate);
    }
    PyErr_Clear();
    Py_XDECREF(result);
}

static void
free_link(gate_link *link)
{
    Py_DECREF(link->gate);
    PyMem_RawFree(link);
}

static PyObject *
watch(PyObject *self, PyObject *gate)
{
    Scope *scope = (Scope *)self;
    gate_link *link = PyMem_RawMalloc(sizeof(gate_link));
    if (link == NULL) {
        return PyErr_NoMemory();
    }
    link->gate = Py_NewRef(gate);
    ns_waitq_lock(&scope->waiters);
    const bool cancelled = is_in(self, CANCELLED);
    if (!cancelled) {
        ns_store(&link->next, ns_load(&scope->gates, NS_RELAXED), NS_RELAXED);
        ns_store(&scope->gates, link, NS_RELEASE);
    }
    ns_waitq_unlock(&scope->waiters);
    if (cancelled) {
        open_gate(self, gate);
        free_link(link);
    }
    Py_RETURN_NONE;
}

static PyObject *
unwatch(PyObject *self, PyObject *gate)
{
    Scope *scope = (Scope *)self;
    ns_waitq_lock(&scope->waiters);
    gate_link *_Atomic *at = &scope->gates;
    gate_link *link = ns_load(at, NS_RELAXED);
    while (link != NULL && link->gate != gate) {
        at = &link->next;
        link = ns_load(at, NS_RELAXED);
    }
    if (link != NULL) {
        ns_store(at, ns_load(&link->next, NS_RELAXED), NS_RELEASE);
    }
    ns_waitq_unlock(&scope->waiters);
    if (link != NULL) { /* else the thread that cancels has it, and opens it */
        free_link(link);
    }
    Py_RETURN_NONE;
}

/* Takes all gates out of the list. */
static gate_link *
take_gates(Scope *scope)
{
    gate_link *all = ns_load(&scope->gates, NS_RELAXED);
    ns_store(&scope->gates, NULL, NS_RELEASE);
    return all;
}

/* ---- The type ---- */

static void
free_links(PyObject *self, gate_link *link, bool open)
{
    while (link != NULL) {
        gate_link *next = ns_load(&link->next, NS_RELAXED);
        if (open) {
            open_gate(self, link->gate);
        }
        free_link(link);
        link = next;
    }
}

static PyObject *
cancel(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Scope *scope = (Scope *)self;
    gate_link *links = NULL;
    ns_waitq_lock(&scope->waiters);
    if (!is_in(self, CLOSED)) {
        ns_store(&scope->state, CANCELLED, NS_RELEASE);
        for (ns_place *p = scope->waiters.head; p != NULL; p = p->next) {
            ns_waiter_cancel(p->waiter);
        }
        links = take_gates(scope);
    }
    ns_waitq_unlock(&scope->waiters);
    free_links(self, links, true);
    Py_RETURN_NONE;
}

/* From here on the scope counts as none. */
static PyObject *
close_scope(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Scope *scope = (Scope *)self;
    ns_waitq_lock(&scope->waiters);
    ns_store(&scope->state, CLOSED, NS_RELEASE);
    gate_link *links = take_gates(scope);
    ns_waitq_unlock(&scope->waiters);
    free_links(self, links, false);
    Py_RETURN_NONE;
}

static PyObject *
get_cancelled(PyObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(is_in(self, CANCELLED));
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (gate_link *link = ns_load(&((Scope *)self)->gates, NS_RELAXED); link != NULL;
         link = ns_load(&link->next, NS_RELAXED)) {
        Py_VISIT(link->gate);
    }
    return 0;
}

/* No tp_clear: a gate is a lock of the interpreter, which refers to nothing. */
static void
dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    free_links(self, take_gates((Scope *)self), false);
    ns_free_object(self);
}

static PyObject *
repr(PyObject *self)
{
    return ns_repr_state(self,
                         is_in(self, CANCELLED) ? "cancelled"
                         : is_in(self, CLOSED)  ? "closed"
                                                : "active");
}
NS_INIT_WITHOUT_ARGUMENTS("Scope")

static PyMethodDef methods[] = {
    {"cancel", cancel, METH_NOARGS, NULL},
    {"close", close_scope, METH_NOARGS, NULL},
    {"watch", watch, METH_O, NULL},
    {"unwatch", unwatch, METH_O, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"cancelled", get_cancelled, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Scope);

static PyType_Slot slots[] = {
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync._native._core.Scope",
    .basicsize = sizeof(Scope),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static PyMethodDef functions[] = {
    {"enter_scope", enter_scope, METH_O, NULL},
    {"current_scope", current_scope, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
ns_add_scopes(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    static const char home[] = "nogil_sync._common.cancelled";
    if ((state->scope_key = PyUnicode_InternFromString("nogil_sync scope")) == NULL ||
        (state->cancelled = ns_import_attribute(home, "Cancelled")) == NULL ||
        (state->cancelled_message = ns_import_attribute(home, "MESSAGE")) == NULL) {
        return -1;
    }
    return ns_add_kept_type(module, &spec, &state->scope_type) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
