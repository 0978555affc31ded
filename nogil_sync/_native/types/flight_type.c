#include "types/flight.h"

#include "core/memory/slots.h"
#include "types/syncmap_edits.h"

typedef struct Flight {
    PyObject_HEAD
    _Atomic bool over, landing, detached;
    _Atomic uint32_t generation;
    unsigned long thread;
    ns_ref value, failure, gate, gates;
    struct Flight *inner, *outer;
} Flight;

/* ---- The runs of each thread, for forks ---- */

static NS_THREAD_LOCAL Flight *innermost;

static void
link_run(Flight *f)
{
    f->outer = innermost;
    f->inner = NULL;
    if (f->outer != NULL) {
        f->outer->inner = f;
    }
    innermost = f;
}

/* It need not be the innermost: greenlets switch stacks. */
static void
unlink_run(Flight *f)
{
    if (f->inner != NULL) {
        f->inner->outer = f->outer;
    }
    else {
        innermost = f->outer;
    }
    if (f->outer != NULL) {
        f->outer->inner = f->inner;
    }
}

static void
in_child(void)
{
    for (Flight *f = innermost; f != NULL; f = f->outer) {
        ns_store(&f->generation, ns_fork_generation(), NS_RELAXED);
    }
}

static bool
is_over(Flight *f)
{
    return ns_load(&f->over, NS_SEQ_CST) ||
           ns_load(&f->generation, NS_RELAXED) != ns_fork_generation();
}

/* ---- Running ---- */

/* Opens a gate. It needs no memory: a thread whose gate stayed closed would sleep for ever. */
static void
open_gate(ns_state *state, PyObject *gate)
{
    PyObject *result = PyObject_CallMethodNoArgs(gate, state->names.release);
    Py_XDECREF(result);
    PyErr_Clear(); /* open already: a waiter has seen that the run is over */
}

/* Opens the gates of the threads and tasks that wait. Its exception, if any, is the last one. */
static Py_NO_INLINE void
open_gates(PyObject *self, Flight *f)
{
    PyObject *gate = ns_load(&f->gate, NS_SEQ_CST), *gates = ns_load(&f->gates, NS_SEQ_CST);
    PyObject *raised = PyErr_GetRaisedException();
    if (gate != NULL) {
        open_gate(ns_state_of(self), gate);
    }
    /* An interrupt can come before the function has begun: so it is called once more. */
    for (int i = 0; i < 2 && gates != NULL && PyDict_Size(gates) > 0; i++) {
        PyObject *later = PyErr_GetRaisedException();
        PyObject *open = ns_state_of(self)->open_gates;
        PyObject *result = open != NULL ? PyObject_CallOneArg(open, gates) : ns_shutting_down();
        Py_XDECREF(result);
        if (result != NULL) {
            PyErr_SetRaisedException(later);
        }
        else {
            Py_XDECREF(later);
        }
    }
    if (raised != NULL && PyErr_Occurred()) {
        Py_DECREF(raised);
    }
    else if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* Keeps the exception that is raised for the calls that joined, if it is an Exception. */
static Py_NO_INLINE void
keep_failure(PyObject *self, Flight *f)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(error, PyExc_Exception)) {
        PyObject *class = ns_state_of(self)->failure;
        PyObject *failure =
            class != NULL ? PyObject_CallFunctionObjArgs(class, error, Py_True, NULL) : NULL;
        if (failure != NULL) {
            ns_store(&f->failure, failure, NS_RELEASE);
        }
        else if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
            Py_DECREF(error); /* an interrupt: it is raised instead */
            return;
        }
    }
    PyErr_SetRaisedException(error);
}

/* Runs the function, and stores its value. */
static PyObject *
compute(PyObject *self, const ns_destination *to, PyObject *key, uint64_t hash,
        const ns_user_call *call, Flight *f)
{
    PyObject *value = NULL;
    if (Py_EnterRecursiveCall(" while computing a value") == 0) {
        value = PyObject_Vectorcall(call->function, call->args, call->nargs, call->kwnames);
        Py_LeaveRecursiveCall();
    }
    if (to->count != NULL) {
        to->count(self, value == NULL);
    }
    if (ns_unlikely(value == NULL)) {
        return NULL;
    }
    ns_store(&f->landing, true, NS_SEQ_CST);
    PyObject *landed = to->land(self, key, hash, value, &f->detached);
    Py_DECREF(value);
    if (ns_likely(landed != NULL)) {
        ns_store(&f->value, Py_NewRef(landed), NS_RELEASE);
    }
    return landed;
}

/* Takes the flight, which is over, out of the map. An error of the keys' equality does no harm,
 * since a flight that is over has no meaning; but an interrupt is raised. */
static void
leave(SyncMap *flights, PyObject *key, uint64_t hash, Flight *f, PyObject **value)
{
    PyObject *raised = *value == NULL ? PyErr_GetRaisedException() : NULL, *old;
    const ns_edit e = {.kind = NS_REMOVE, .key = key, .hash = hash, .expected = (PyObject *)f};
    const int result = ns_syncmap_apply(flights, &e, &old);
    Py_XDECREF(old);
    if (ns_unlikely(result == NS_KEY_ERROR)) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) {
            PyErr_Clear();
        }
        else {
            Py_CLEAR(*value);
            Py_CLEAR(raised);
        }
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

/* Runs the claimed flight, and ends it. */
static PyObject *
run(PyObject *self, const ns_destination *to, SyncMap *flights, PyObject *key, uint64_t hash,
    const ns_user_call *call, Flight *f)
{
    PyObject *value = NULL;
    ns_fence_flight(flights);
    /* Another call may have landed before this one began. */
    const int found = to->look(self, key, hash, &value);
    if (ns_likely(found == NS_KEY_MISSING)) {
        value = compute(self, to, key, hash, call, f);
    }
    else if (found == NS_KEY_ERROR) {
        value = NULL; /* a look that failed may have left a word there that is no reference */
    }
    if (ns_unlikely(value == NULL)) {
        keep_failure(self, f);
    }
    ns_store(&f->over, true, NS_SEQ_CST);
    unlink_run(f);
    if (ns_unlikely(ns_load(&f->gate, NS_SEQ_CST) != NULL ||
                    ns_load(&f->gates, NS_SEQ_CST) != NULL)) {
        open_gates(self, f);
        if (PyErr_Occurred()) {
            Py_CLEAR(value);
        }
    }
    leave(flights, key, hash, f, &value);
    return value;
}

static Flight *
new_flight(ns_state *state)
{
    if (ns_unlikely(state->flight_type == NULL)) {
        ns_shutting_down();
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)state->flight_type;
    Flight *f = (Flight *)type->tp_alloc(type, 0);
    if (ns_likely(f != NULL)) {
        f->thread = PyThread_get_thread_ident();
        ns_store(&f->generation, ns_fork_generation(), NS_RELAXED);
    }
    return f;
}

PyObject *
ns_fly(PyObject *self, const ns_destination *to, ns_ref *place, PyObject *key, uint64_t hash,
       const ns_user_call *call, bool *met)
{
    PyObject *other, *value = NULL;
    *met = false;
    PyObject *flights = ns_flights_of(self, place);
    Flight *f = flights != NULL ? new_flight(ns_state_of(self)) : NULL;
    if (ns_likely(f != NULL)) {
        link_run(f); /* before the claim, which can run code of users, which can fork */
        const ns_edit e = {.kind = NS_ADD, .key = key, .hash = hash, .new = (PyObject *)f};
        const int found = ns_syncmap_apply((SyncMap *)flights, &e, &other);
        if (ns_likely(found == NS_KEY_MISSING)) {
            value = run(self, to, (SyncMap *)flights, key, hash, call, f);
        }
        else {
            unlink_run(f);
            *met = found == NS_KEY_FOUND;
            Py_XDECREF(other);
        }
        Py_DECREF(f);
    }
    return value;
}

/* Goes on in Python, with the function there: NULL if the interpreter ends. */
static PyObject *
go_on_in_python(PyObject *function, PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *timeout)
{
    if (function == NULL) {
        return ns_shutting_down();
    }
    Py_INCREF(function); /* the module may be cleared meanwhile */
    PyObject *seconds = ns_seconds_of(timeout), *result = NULL; /* runs code of users */
    PyObject *rest = seconds ? PyTuple_New(nargs - 2) : NULL;
    if (rest != NULL) {
        for (Py_ssize_t i = 2; i < nargs; i++) {
            PyTuple_SET_ITEM(rest, i - 2, Py_NewRef(args[i]));
        }
        result =
            PyObject_CallFunctionObjArgs(function, self, args[0], args[1], rest, seconds, NULL);
    }
    Py_XDECREF(rest);
    Py_XDECREF(seconds);
    Py_DECREF(function);
    return result;
}

PyObject *
ns_fly_or_join(PyObject *self, const ns_destination *to, ns_ref *flights, PyObject *const *python,
               PyObject *const *args, Py_ssize_t nargs, PyObject *timeout, uint64_t hash)
{
    const ns_user_call call = {args[1], args + 2, NULL, (size_t)nargs - 2};
    bool met = true;
    PyObject *value = NULL;
    if (ns_likely(PyCallable_Check(args[1]))) {
        value = ns_fly(self, to, flights, args[0], hash, &call, &met);
    }
    return ns_likely(!met) ? value : go_on_in_python(*python, self, args, nargs, timeout);
}

PyObject *
ns_land_computed(PyObject *self, const ns_destination *to, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t hash;
    ns_state *state = ns_state_of(self);
    if (state->atomic_bool_type == NULL) {
        return ns_shutting_down();
    }
    if (nargs != 3 || !PyObject_TypeCheck(args[2], (PyTypeObject *)state->atomic_bool_type)) {
        PyErr_SetString(PyExc_TypeError, "_land(key, value, detached: AtomicBool)");
        return NULL;
    }
    return ns_key_hash(args[0], &hash) < 0
               ? NULL
               : to->land(self, args[0], hash, args[1], ns_atomic_bool_place(args[2]));
}

/* ---- What Python code sees ---- */

static PyObject *
reference_or(ns_ref *slot, PyObject *absent)
{
    PyObject *object = ns_load(slot, NS_ACQUIRE);
    return Py_NewRef(object != NULL ? object : absent);
}

static PyObject *
get_value(PyObject *self, void *Py_UNUSED(unused))
{
    ns_state *state = ns_state_of(self);
    return state->absent == NULL ? ns_shutting_down()
                                 : reference_or(&((Flight *)self)->value, state->absent);
}

static PyObject *
get_failure(PyObject *self, void *Py_UNUSED(unused))
{
    return reference_or(&((Flight *)self)->failure, Py_None);
}

static PyObject *
get_over(PyObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(is_over((Flight *)self));
}

static PyObject *
get_landing(PyObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(ns_load(&((Flight *)self)->landing, NS_SEQ_CST));
}

/* The flag is the flight itself: it has `load` and `store`. */
static PyObject *
get_self(PyObject *self, void *Py_UNUSED(unused))
{
    return Py_NewRef(self);
}

static PyObject *
get_true(PyObject *Py_UNUSED(self), void *Py_UNUSED(unused))
{
    Py_RETURN_TRUE;
}

static PyObject *
get_thread(PyObject *self, void *Py_UNUSED(unused))
{
    return PyLong_FromUnsignedLong(((Flight *)self)->thread);
}

/* The object in a slot; the first call puts `made` there, which this steals. */
static PyObject *
get_or_put(ns_ref *slot, PyObject *made)
{
    PyObject *none = NULL;
    if (made != NULL && !ns_cas_or_load(slot, &none, made, NS_SEQ_CST, NS_SEQ_CST)) {
        Py_DECREF(made);
        made = none;
    }
    return Py_XNewRef(made);
}

/* Calls functions in C only: an interrupt does no harm where it is used. */
static PyObject *
get_gate(PyObject *self, void *Py_UNUSED(unused))
{
    ns_ref *slot = &((Flight *)self)->gate;
    PyObject *gate = ns_load(slot, NS_SEQ_CST);
    if (gate != NULL) {
        return Py_NewRef(gate);
    }
    ns_state *state = ns_state_of(self);
    PyObject *allocate = state->allocate_lock;
    gate = allocate != NULL ? PyObject_CallNoArgs(allocate) : ns_shutting_down();
    PyObject *closed = gate != NULL ? PyObject_CallMethodNoArgs(gate, state->names.acquire) : NULL;
    if (closed == NULL) {
        Py_CLEAR(gate);
    }
    Py_XDECREF(closed);
    return get_or_put(slot, gate);
}

static PyObject *
get_gates(PyObject *self, void *Py_UNUSED(unused))
{
    ns_ref *slot = &((Flight *)self)->gates;
    PyObject *gates = ns_load(slot, NS_SEQ_CST);
    return gates != NULL ? Py_NewRef(gates) : get_or_put(slot, PyDict_New());
}

static PyObject *
is_over_method(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return get_over(self, NULL);
}

static PyObject *
holders(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_BuildValue("(k)", ((Flight *)self)->thread);
}

static PyObject *
load_detached(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(ns_load(&((Flight *)self)->detached, NS_SEQ_CST));
}

static PyObject *
store_detached(PyObject *self, PyObject *value)
{
    const int is_true = PyObject_IsTrue(value);
    if (is_true < 0) {
        return NULL;
    }
    ns_store(&((Flight *)self)->detached, (bool)is_true, NS_SEQ_CST);
    Py_RETURN_NONE;
}

_Atomic bool *
ns_flag_in(ns_state *state, PyObject *object)
{
    if ((PyObject *)Py_TYPE(object) == state->flight_type) {
        return &((Flight *)object)->detached;
    }
    if (state->atomic_bool_type == NULL) {
        ns_shutting_down();
        return NULL;
    }
    if (!PyObject_TypeCheck(object, (PyTypeObject *)state->atomic_bool_type)) {
        PyErr_Format(PyExc_TypeError,
                     "the flag of a flight must be an AtomicBool, not '%s'",
                     Py_TYPE(object)->tp_name);
        return NULL;
    }
    return ns_atomic_bool_place(object);
}

/* ---- The type ---- */

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Flight *f = (Flight *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&f->value, NS_RELAXED));
    Py_VISIT(ns_load(&f->failure, NS_RELAXED));
    Py_VISIT(ns_load(&f->gate, NS_RELAXED));
    Py_VISIT(ns_load(&f->gates, NS_RELAXED));
    return 0;
}

static void
dealloc(PyObject *self)
{
    Flight *f = (Flight *)self;
    PyObject_GC_UnTrack(self);
    Py_XDECREF(ns_load(&f->value, NS_RELAXED));
    Py_XDECREF(ns_load(&f->failure, NS_RELAXED));
    Py_XDECREF(ns_load(&f->gate, NS_RELAXED));
    Py_XDECREF(ns_load(&f->gates, NS_RELAXED));
    ns_free_object(self);
}

static PyMethodDef methods[] = {
    {"is_over", is_over_method, METH_NOARGS, NULL},
    {"is_served", is_over_method, METH_NOARGS, NULL},
    {"holders", holders, METH_NOARGS, NULL},
    {"load", load_detached, METH_NOARGS, NULL},
    {"store", store_detached, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"is_run", get_true, NULL, NULL, NULL},
    {"over", get_over, NULL, NULL, NULL},
    {"landing", get_landing, NULL, NULL, NULL},
    {"detached", get_self, NULL, NULL, NULL},
    {"value", get_value, NULL, NULL, NULL},
    {"failure", get_failure, NULL, NULL, NULL},
    {"thread", get_thread, NULL, NULL, NULL},
    {"owner", get_thread, NULL, NULL, NULL},
    {"gate", get_gate, NULL, NULL, NULL},
    {"gates", get_gates, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync._native._core.Flight",
    .basicsize = sizeof(Flight),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

static bool
register_child(void)
{
    return ns_call_in_child(in_child);
}

int
ns_add_flights(PyObject *module)
{
    static bool registered;
    ns_state *state = PyModule_GetState(module);
    if (!ns_init_once(&registered, register_child)) {
        PyErr_NoMemory();
        return -1;
    }
    state->allocate_lock = ns_import_attribute("_thread", "allocate_lock");
    state->open_gates = ns_import_attribute("nogil_sync._common.runs", "open_gates");
    state->failure = ns_import_attribute("nogil_sync._common.failures", "Failure");
    state->flight_type = ns_new_type(module, &spec, NULL);
    return state->allocate_lock == NULL || state->open_gates == NULL || state->failure == NULL ||
                   state->flight_type == NULL
               ? -1
               : 0;
}
