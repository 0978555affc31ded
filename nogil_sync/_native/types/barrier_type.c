/* Barrier: threading.Barrier's interface over core/barrier.h. */
#include "arguments.h"
#include "core/barrier.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "object.h"
#include "interpreter/sharing.h"
#include "interpreter/tryref.h"
#include "types/insides.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_barrier barrier;
    ns_ref action;     /* NULL: none. Written by __init__; None once the collector cleared it */
    PyObject *timeout; /* an exact float, or None; written by __init__ */
} Barrier;

static inline ns_barrier *
barrier_of(PyObject *self)
{
    return &((Barrier *)self)->barrier;
}

/* Raises threading.BrokenBarrierError. Returns NULL. */
static PyObject *
raise_broken(PyObject *self, const char *message)
{
    ns_state *state = ns_state_of(self);
    if (state == NULL || state->broken_barrier == NULL) { /* the module is cleared */
        return ns_shutting_down();
    }
    PyErr_SetString(state->broken_barrier, message);
    return NULL;
}

/* Runs the action as the leader, and ends the round. Returns the outcome, or -1 with the action's
 * exception. */
static int64_t
lead(PyObject *self, ns_waiter *w)
{
    PyObject *action = ns_load_ref(&((Barrier *)self)->action);
    PyObject *result = PyObject_CallNoArgs(action);
    Py_DECREF(action);
    const bool passed = ns_barrier_finish(barrier_of(self), w, result != NULL);
    if (result == NULL) {
        return -1;
    }
    Py_DECREF(result);
    return passed ? barrier_of(self)->parties - 1 : (int64_t)NS_BARRIER_BROKEN;
}

/* Arrives, and waits until the round ends. Returns the outcome, or -1 with an exception. */
static int64_t
arrive(PyObject *self, ns_waiter *w, ns_patience patience, int64_t deadline, bool *timed_out)
{
    ns_barrier *b = barrier_of(self);
    int served = patience == NS_DO_NOT_WAIT ? ns_barrier_steps.enter(b, w)
                                            : ns_wait_with(self, &ns_barrier_steps, b, w, deadline);
    *timed_out = served == 0;
    while (served != 1) {
        const uint64_t outcome = ns_barrier_give_up(b, w, served == 0);
        if (served < 0) {
            return -1;
        }
        if (outcome != NS_BARRIER_WAITS_ON) {
            return (int64_t)outcome;
        }
        *timed_out = false; /* all have arrived: now it is up to the action */
        served = ns_wait_with(self, &ns_barrier_steps_in_line, b, w, NS_FOREVER);
    }
    return w->place.amount == NS_BARRIER_LEADS ? lead(self, w) : (int64_t)w->place.amount;
}

/* What `wait` returns. */
static PyObject *
index_of(PyObject *self, int64_t outcome, bool timed_out)
{
    switch (outcome) {
    case -1:
        return NULL;
    case NS_BARRIER_BROKEN:
        return raise_broken(self,
                            timed_out ? "timed out waiting for the other threads"
                                      : "the barrier is broken, or was reset");
    case NS_BARRIER_NESTED:
        PyErr_SetString(PyExc_RuntimeError, "the action of a barrier cannot wait for it");
        return NULL;
    default:
        return PyLong_FromLongLong(outcome);
    }
}

ns_barrier *
ns_inside_barrier(PyObject *self)
{
    return barrier_of(self);
}

PyObject *
ns_barrier_type_collect(PyObject *self, ns_waiter *w)
{
    const uint64_t outcome = w->place.amount;
    if (outcome == NS_BARRIER_AGAIN) {
        Py_RETURN_NONE;
    }
    return index_of(self, outcome == NS_BARRIER_LEADS ? lead(self, w) : (int64_t)outcome, false);
}

static PyObject *
wait_(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Barrier.wait", {"timeout"}, 0, 1, 0};
    PyObject *timeout = NULL;
    ns_patience patience;
    int64_t deadline, outcome;
    if (ns_unpack(&s, args, nargs, kwnames, &timeout) < 0 ||
        ns_plain_timeout(timeout, &patience, &deadline) < 0 || ns_check_initialized(self) < 0) {
        return NULL;
    }
    if ((timeout == NULL || timeout == Py_None) &&
        ns_plain_timeout(((Barrier *)self)->timeout, &patience, &deadline) < 0) {
        return NULL;
    }
    ns_used(self);
    /* A thread that arrives while the last round's action runs waits for that first: that time does
     * not count. */
    const int64_t span = deadline - ns_now();
    bool timed_out;
    do {
        ns_waiter *w = ns_waiter_or_error();
        if (w == NULL) {
            return NULL;
        }
        deadline = patience == NS_WAIT_UNTIL ? ns_now() + span : NS_FOREVER;
        outcome = arrive(self, w, patience, deadline, &timed_out);
        ns_waiter_free(w);
    } while (outcome == NS_BARRIER_AGAIN);
    return index_of(self, outcome, timed_out);
}

static PyObject *
abort_(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_barrier_abort(barrier_of(self));
    Py_RETURN_NONE;
}

static PyObject *
reset(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_barrier_reset(barrier_of(self));
    Py_RETURN_NONE;
}

/* How many have arrived; 0 if the barrier is broken. */
static uint32_t
waiting_at(PyObject *self)
{
    return ns_barrier_arrived(barrier_of(self));
}

static PyObject *
get_parties(PyObject *self, void *Py_UNUSED(closure))
{
    return ns_check_initialized(self) < 0 ? NULL
                                          : PyLong_FromUnsignedLong(barrier_of(self)->parties);
}

static PyObject *
get_n_waiting(PyObject *self, void *Py_UNUSED(closure))
{
    return ns_check_initialized(self) < 0 ? NULL : PyLong_FromUnsignedLong(waiting_at(self));
}

/* For wait_async. */
static PyObject *
get_timeout(PyObject *self, void *Py_UNUSED(closure))
{
    return ns_check_initialized(self) < 0 ? NULL : Py_NewRef(((Barrier *)self)->timeout);
}

static PyObject *
get_broken(PyObject *self, void *Py_UNUSED(closure))
{
    return ns_check_initialized(self) < 0 ? NULL
                                          : PyBool_FromLong(ns_barrier_is_broken(barrier_of(self)));
}

static PyObject *
repr(PyObject *self)
{
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    char state[64];
    if (ns_barrier_is_broken(barrier_of(self))) {
        PyOS_snprintf(state, sizeof(state), "broken");
    }
    else {
        PyOS_snprintf(state,
                      sizeof(state),
                      "waiters=%lu/%lu",
                      (unsigned long)waiting_at(self),
                      (unsigned long)barrier_of(self)->parties);
    }
    PyObject *name = PyType_GetFullyQualifiedName(Py_TYPE(self));
    PyObject *text = name ? PyUnicode_FromFormat("<%U at %p: %s>", name, self, state) : NULL;
    Py_XDECREF(name);
    return text;
}

/* Converts what __init__ is given. Returns 0, or -1 with an exception. *timeout is a new
 * reference. */
static int
parse(PyObject *const given[3], int64_t *parties, PyObject **timeout)
{
    ns_patience patience;
    int64_t deadline;
    if (ns_clamped_int64(given[0], parties) < 0) {
        return -1;
    }
    if (*parties < 1) {
        PyErr_SetString(PyExc_ValueError, "parties must be >= 1");
        return -1;
    }
    if (*parties > NS_BARRIER_MAX) {
        PyErr_SetString(PyExc_OverflowError, "parties is too large");
        return -1;
    }
    if (given[1] != NULL && given[1] != Py_None && !PyCallable_Check(given[1])) {
        PyErr_SetString(PyExc_TypeError, "action must be callable or None");
        return -1;
    }
    if (ns_plain_timeout(given[2], &patience, &deadline) < 0) {
        return -1;
    }
    if (patience == NS_WAIT_FOR_EVER) {
        *timeout = Py_NewRef(Py_None);
        return 0;
    }
    double seconds = PyFloat_AsDouble(given[2]);
    *timeout = PyErr_Occurred() ? NULL : PyFloat_FromDouble(seconds);
    return *timeout == NULL ? -1 : 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"Barrier.__init__", {"parties", "action", "timeout"}, 1, 3, 0};
    Barrier *o = (Barrier *)self;
    PyObject *given[3], *timeout;
    int64_t parties;
    if (ns_unpack_init(&s, args, kwargs, given) < 0 || parse(given, &parties, &timeout) < 0) {
        return -1;
    }
    if (ns_claim_init(self) < 0) {
        Py_DECREF(timeout);
        return -1;
    }
    const bool acts = given[1] != NULL && given[1] != Py_None;
    if (acts) {
        ns_publish(given[1]);
        ns_store(&o->action, Py_NewRef(given[1]), NS_RELEASE);
    }
    o->timeout = timeout;
    ns_barrier_init(&o->barrier, (uint32_t)parties, acts);
    ns_finish_init(self, true);
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&((Barrier *)self)->action, NS_RELAXED));
    return 0;
}

/* A thread that still leads a round of this garbage calls None: a TypeError. */
static int
clear(PyObject *self)
{
    ns_clear_function(&((Barrier *)self)->action);
    return 0;
}

static void
dealloc(PyObject *self)
{
    Barrier *o = (Barrier *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(ns_load(&o->action, NS_RELAXED));
    Py_XDECREF(o->timeout);
    ns_free_object(self);
    Py_TRASHCAN_END
}

static PyMethodDef methods[] = {
    NS_METHOD("wait", wait_, DOC_Barrier_wait),
    NS_NO_ARGUMENTS("reset", reset, DOC_Barrier_reset),
    NS_NO_ARGUMENTS("abort", abort_, DOC_Barrier_abort),
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"parties", get_parties, NULL, DOC_Barrier_parties, NULL},
    {"n_waiting", get_n_waiting, NULL, DOC_Barrier_n_waiting, NULL},
    {"broken", get_broken, NULL, DOC_Barrier_broken, NULL},
    {"_default_timeout", get_timeout, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Barrier);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Barrier},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Barrier",
    .basicsize = sizeof(Barrier),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_barrier(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->broken_barrier = ns_import_attribute("threading", "BrokenBarrierError");
    if (state->broken_barrier == NULL) {
        return -1;
    }
    state->barrier_type = ns_new_type(module, &spec, NULL);
    return state->barrier_type == NULL
               ? -1
               : PyModule_AddType(module, (PyTypeObject *)state->barrier_type);
}
