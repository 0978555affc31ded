/* Semaphore and what its hold() returns, over core/semaphore.h. */
#include "arguments.h"
#include "core/semaphore.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "types/insides.h"
#include "object.h"
#include "interpreter/spares.h"

typedef struct {
    NS_OBJECT_HEAD
    bool bounded; /* written by __init__ */
    ns_spares spare_holds;
    char apart_from_header[NS_APART_FROM_HEADER - sizeof(ns_spares)];
    ns_semaphore semaphore;
} Semaphore;

_Static_assert(offsetof(Semaphore, semaphore) == NS_HOT_OFFSET,
               "the word is off the header's line");
_Static_assert(sizeof(Semaphore) == NS_CACHE_LINE, "and off the next object's");

typedef struct {
    PyObject_HEAD
    PyObject *semaphore;
    PyObject *timeout; /* an exact float, or None */
    uint64_t n;
} Hold;

static inline ns_semaphore *
semaphore_of(PyObject *self)
{
    return &((Semaphore *)self)->semaphore;
}

ns_semaphore *
ns_inside_semaphore(PyObject *self)
{
    return semaphore_of(self);
}

/* Parses how many units to take; NULL means one. Returns 0, or -1 with an exception. */
static int
parse_n(PyObject *value, int64_t *n)
{
    *n = 1;
    if (value == NULL) {
        return 0;
    }
    if (ns_clamped_int64(value, n) < 0) {
        return -1;
    }
    if (*n < 1) {
        PyErr_SetString(PyExc_ValueError, "n must be at least 1");
        return -1;
    }
    return 0;
}

/* Refuses a request for more units than a bounded semaphore has in all, which would wait for ever.
 * If it has none at all, any request waits. Returns 0, or -1 with an exception. */
static int
check_n(PyObject *self, int64_t n)
{
    uint64_t total = ns_load(&semaphore_of(self)->total, NS_RELAXED);
    if (ns_likely((uint64_t)n <= total)) {
        return 0;
    }
    if (ns_check_initialized(self) < 0) {
        return -1;
    }
    if (total == 0 || !((Semaphore *)self)->bounded) {
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, "n exceeds the semaphore's value");
    return -1;
}

/* Returns whether acquire waits, 1 or 0, or -1 with TypeError. Only a bool is accepted, as a number
 * is most likely meant to be `n`. */
static int
parse_blocking(PyObject *value)
{
    if (value == NULL || PyBool_Check(value)) {
        return value != Py_False;
    }
    PyObject *name = PyType_GetName(Py_TYPE(value));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "blocking must be a bool, not %U; to take several units, pass n=",
                     name);
        Py_DECREF(name);
    }
    return -1;
}

/* Returns 1 if taken, 0 if timed out, -1 with an exception. */
static Py_NO_INLINE int
take_slow(PyObject *self, uint64_t n, ns_patience patience, int64_t deadline)
{
    ns_semaphore *s = semaphore_of(self);
    if (ns_check_initialized(self) < 0) {
        return -1;
    }
    if (patience == NS_DO_NOT_WAIT) {
        return ns_make_way(s) && ns_semaphore_try(s, n);
    }
    return ns_wait(self, &ns_semaphore_steps, s, &n, deadline);
}

static inline int
take(PyObject *self, uint64_t n, ns_patience patience, int64_t deadline)
{
    ns_used(self);
    return ns_likely(ns_semaphore_try(semaphore_of(self), n))
               ? 1
               : take_slow(self, n, patience, deadline);
}

static PyObject *
acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Semaphore.acquire", {"blocking", "timeout", "n"}, 0, 3, 1};
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER, n = 1;
    if (nargs != 0 || kwnames != NULL) {
        PyObject *given[3];
        if (ns_unpack(&s, args, nargs, kwnames, given) < 0) {
            return NULL;
        }
        int blocks = parse_blocking(given[0]);
        if (blocks < 0) {
            return NULL;
        }
        if (!blocks && given[1] != NULL && given[1] != Py_None) {
            PyErr_SetString(PyExc_ValueError, "can't specify timeout for non-blocking acquire");
            return NULL;
        }
        if (ns_plain_timeout(given[1], &patience, &deadline) < 0 || parse_n(given[2], &n) < 0) {
            return NULL;
        }
        if (!blocks) {
            patience = NS_DO_NOT_WAIT;
        }
    }
    if (check_n(self, n) < 0) {
        return NULL;
    }
    int taken = take(self, (uint64_t)n, patience, deadline);
    return taken < 0 ? NULL : PyBool_FromLong(taken);
}

static PyObject *
give_back(PyObject *self, int64_t n)
{
    if (ns_likely(ns_semaphore_release(semaphore_of(self), (uint64_t)n))) {
        Py_RETURN_NONE;
    }
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    if (((Semaphore *)self)->bounded) {
        PyErr_SetString(PyExc_ValueError, "semaphore released too many times");
    }
    else {
        PyErr_SetString(PyExc_OverflowError, "semaphore value is too large");
    }
    return NULL;
}

static PyObject *
release(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Semaphore.release", {"n"}, 0, 1, 0};
    PyObject *given;
    int64_t n;
    if (ns_unpack(&s, args, nargs, kwnames, &given) < 0 || parse_n(given, &n) < 0) {
        return NULL;
    }
    return give_back(self, n);
}

static int
take_one(PyObject *self)
{
    return take(self, 1, NS_WAIT_FOR_EVER, NS_FOREVER);
}

static int
put_one_back(PyObject *self)
{
    ns_semaphore_release(semaphore_of(self), 1);
    return 0;
}

static PyObject *
enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (check_n(self, 1) < 0 || take_one(self) < 0 ||
        (ns_is_interrupted() && ns_enter_again(self, take_one, put_one_back) < 0)) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static PyObject *
leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return give_back(self, 1);
}

static PyObject *
available(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0
               ? NULL
               : PyLong_FromUnsignedLongLong(ns_semaphore_available(semaphore_of(self)));
}

static PyObject *
hold(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Semaphore.hold", {"n", "timeout"}, 0, 2, 0};
    PyObject *given[2], *timeout = NULL;
    ns_patience patience;
    int64_t deadline, n;
    if (ns_unpack(&s, args, nargs, kwnames, given) < 0 || parse_n(given[0], &n) < 0 ||
        check_n(self, n) < 0 || ns_plain_timeout(given[1], &patience, &deadline) < 0) {
        return NULL;
    }
    if (patience == NS_WAIT_FOR_EVER) {
        timeout = Py_NewRef(Py_None);
    }
    else {
        double seconds = PyFloat_AsDouble(given[1]);
        timeout = PyErr_Occurred() ? NULL : PyFloat_FromDouble(seconds);
    }
    ns_used(self);
    ns_state *state = timeout ? ns_state_of(self) : NULL;
    PyObject *type = state ? state->semaphore_hold_type : NULL;
    if (state != NULL && type == NULL) {
        ns_shutting_down();
    }
    ns_spares *spares = &((Semaphore *)self)->spare_holds;
    Hold *h = type ? (Hold *)ns_spares_new(spares, (PyTypeObject *)type, self) : NULL;
    if (h == NULL) {
        Py_XDECREF(timeout);
        return NULL;
    }
    h->semaphore = self;
    h->timeout = timeout;
    h->n = (uint64_t)n;
    PyObject_GC_Track(h);
    return (PyObject *)h;
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_semaphore_reset(semaphore_of(self));
    Py_RETURN_NONE;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"Semaphore.__init__", {"value", "bounded"}, 0, 2, 1};
    PyObject *given[2];
    int64_t value = 1;
    if (ns_unpack_init(&s, args, kwargs, given) < 0 ||
        (given[0] != NULL && ns_clamped_int64(given[0], &value) < 0)) {
        return -1;
    }
    int bounded = given[1] == NULL ? 1 : PyObject_IsTrue(given[1]);
    if (bounded < 0) {
        return -1;
    }
    if (value < 0) {
        PyErr_SetString(PyExc_ValueError, "semaphore initial value must be >= 0");
        return -1;
    }
    if (value > NS_SEMAPHORE_MAX) {
        PyErr_SetString(PyExc_OverflowError, "semaphore initial value is too large");
        return -1;
    }
    if (ns_claim_init(self) < 0) {
        return -1;
    }
    ((Semaphore *)self)->bounded = bounded;
    uint64_t start = (uint64_t)value;
    ns_semaphore_init(semaphore_of(self), start, bounded ? start : NS_SEMAPHORE_MAX);
    ns_finish_init(self, true);
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return ns_spares_traverse(&((Semaphore *)self)->spare_holds, self, visit, arg);
}

static int
clear(PyObject *self)
{
    ns_spares_clear(&((Semaphore *)self)->spare_holds, self);
    return 0;
}

static void
dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    ns_spares_destroy(&((Semaphore *)self)->spare_holds);
    ns_free_object(self);
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_spares_size(&((Semaphore *)self)->spare_holds));
}

static PyObject *
repr(PyObject *self)
{
    ns_semaphore *s = semaphore_of(self);
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    char state[64];
    unsigned long long free = ns_semaphore_available(s);
    unsigned long long total = ns_load(&s->total, NS_RELAXED);
    if (((Semaphore *)self)->bounded) {
        PyOS_snprintf(state, sizeof(state), "%llu of %llu available", free, total);
    }
    else {
        PyOS_snprintf(state, sizeof(state), "%llu available", free);
    }
    return ns_repr_state(self, state);
}

/* ---- hold() ---- */

/* Returns 1, or -1 with an exception. */
static int
hold_take(PyObject *self)
{
    Hold *h = (Hold *)self;
    ns_patience patience;
    int64_t deadline;
    if (ns_plain_timeout(h->timeout, &patience, &deadline) < 0) {
        return -1;
    }
    int taken = take(h->semaphore, h->n, patience, deadline);
    if (taken == 0) {
        PyErr_SetString(PyExc_TimeoutError, "timed out waiting for the semaphore");
    }
    return taken == 1 ? 1 : -1;
}

static int
hold_put_back(PyObject *self)
{
    ns_semaphore_release(semaphore_of(((Hold *)self)->semaphore), ((Hold *)self)->n);
    return 0;
}

static PyObject *
hold_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (hold_take(self) < 0 ||
        (ns_is_interrupted() && ns_enter_again(self, hold_take, hold_put_back) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
hold_leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return give_back(((Hold *)self)->semaphore, (int64_t)((Hold *)self)->n);
}

static int
hold_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Hold *)self)->semaphore);
    return 0;
}

/* No tp_clear: a semaphore can refer to its hold only through a subclass's dictionary. That is
 * cleared, so every cycle through a hold is broken elsewhere. */
static void
hold_dealloc(PyObject *self)
{
    PyObject *semaphore = ((Hold *)self)->semaphore;
    PyObject_GC_UnTrack(self);
    Py_DECREF(((Hold *)self)->timeout);
    ns_spares_free(&((Semaphore *)semaphore)->spare_holds, self, semaphore);
}
NS_EXIT(hold_leave, "SemaphoreHold.__exit__")

static PyMethodDef hold_methods[] = {
    NS_NO_ARGUMENTS("__enter__", hold_enter, DOC_SemaphoreHold___enter__),
    NS_METHOD("__exit__", hold_leave_method, DOC_SemaphoreHold___exit__),
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hold_slots[] = {
    {Py_tp_doc, DOC_SemaphoreHold},
    {Py_tp_traverse, hold_traverse},
    {Py_tp_dealloc, hold_dealloc},
    {Py_tp_methods, hold_methods},
    {0, NULL},
};

static PyType_Spec hold_spec = {
    .name = "nogil_sync.SemaphoreHold",
    .basicsize = sizeof(Hold),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = hold_slots,
};

/* ---- Semaphore ---- */

/* acquire(False), for `async with`: see mutex_type.c. */
static PyObject *
get_taken(PyObject *self, void *Py_UNUSED(closure))
{
    return acquire(self, (PyObject *[]){Py_False}, 1, NULL);
}
NS_EXIT(leave, "Semaphore.__exit__")

static PyGetSetDef getters[] = {
    {"_taken_at_once", get_taken, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef methods[] = {
    NS_METHOD("acquire", acquire, DOC_Semaphore_acquire),
    NS_METHOD("release", release, DOC_Semaphore_release),
    NS_METHOD("hold", hold, DOC_Semaphore_hold),
    NS_NO_ARGUMENTS("available", available, DOC_Semaphore_available),
    NS_NO_ARGUMENTS("__enter__", enter, DOC_Semaphore___enter__),
    NS_METHOD("__exit__", leave_method, DOC_Semaphore___exit__),
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Semaphore);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Semaphore},
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
    .name = "nogil_sync.Semaphore",
    .basicsize = sizeof(Semaphore),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_semaphore(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &hold_spec, &state->semaphore_hold_type) < 0
               ? -1
               : ns_add_kept_type(module, &spec, &state->semaphore_type);
}
