/* AsyncWaiter: one wait without a thread, for tasks of event loops. _common/awaited.py makes them.
 *
 * AsyncWaiter(obj, operation, argument, callback) gets in line at once. If it was served at once,
 * `served` is true, and the callback never runs. Otherwise the thread that serves it calls
 * callback(waiter) once, without any lock of ours (detach.c). `result()` collects what it was
 * served; `cancel()` takes it out of line, or gives back what it was served; `time_out()` takes it
 * out of line unless it was served.
 *
 * States
 *
 *     LINKED      in line, or served and about to be called
 *     BUSY        a thread moves it out of LINKED or SERVED; no Python code runs meanwhile
 *     SERVED      not collected yet
 *     COLLECTED   by result()
 *     CANCELLED   out of line, and it kept nothing
 *
 *     LINKED -> BUSY -> SERVED          the thread that serves, which then makes the call
 *     LINKED, SERVED -> BUSY -> ...     result() and cancel(), by any thread; no call follows
 *
 * Lifetime. A waiter in line owns a reference to itself, so nothing else need keep the task that it
 * belongs to alive. The thread that serves it, or else the one that cancels it, drops that. The
 * collector is not told of it: so an object that nobody can reach is not freed while tasks stand in
 * its line. After a fork the child forgets its waiters: they are not called, and are not freed.
 *
 * The core's waiter is apart: a channel may borrow its memory (ns_waiter_lend).
 */
#include "arguments.h"
#include "interpreter/detach.h"
#include "object.h"
#include "types/cases.h"
#include "types/channel_type.h"
#include "types/insides.h"
#include "types/mutex_type.h"

#include <string.h>

enum { LINKED, BUSY, SERVED, COLLECTED, CANCELLED };
enum operation { ACQUIRE, WAIT, SEND, RECEIVE, SELECT };

typedef struct {
    NS_OBJECT_HEAD
    _Atomic uint8_t state;
    uint32_t generation; /* the fork generation in which it was made */
    enum operation operation;
    PyObject *object;   /* what is waited for; of SELECT the tuple of cases */
    PyObject *callback;
    PyObject *item; /* SEND: a reference that was given to the channel, unless it was accepted */
    bool shared; /* for ns_channel_keep */
    const struct ns_wait_steps *steps;
    void *inside; /* the core's object */
    ns_waiter *waiter; /* of SELECT: its selector's */
    ns_cases *cases; /* of SELECT */
} AsyncWaiter;

static ns_selector *
selector_of(AsyncWaiter *a)
{
    return (ns_selector *)a->waiter; /* which begins with its waiter */
}

static uint64_t
amount_of(AsyncWaiter *a)
{
    return a->waiter->place.amount;
}

/* The place at which a SELECT was served. */
static const ns_place *
chosen_place(AsyncWaiter *a)
{
    return &selector_of(a)->places[ns_selector_chosen(selector_of(a))];
}

/* Whether it was served and has sent its item. */
static bool
was_accepted(AsyncWaiter *a)
{
    if (a->operation == SEND) {
        return amount_of(a) == 0;
    }
    if (a->operation != SELECT) {
        return false;
    }
    const ns_place *p = chosen_place(a);
    return p->line == &ns_channel_send_line && p->amount == 0;
}

/* ---- States ---- */

/* Makes it BUSY. Returns the state before, LINKED or SERVED; or another one, and changes nothing.
 * A thread that finds it BUSY waits, detached: the other one may be stopped for a collection. In
 * the child of a fork the other one may be gone. */
static uint8_t
seize(AsyncWaiter *a)
{
    for (;;) {
        uint8_t state = ns_load(&a->state, NS_ACQUIRE);
        if (state == BUSY && a->generation != ns_fork_generation()) {
            return CANCELLED;
        }
        if (state == BUSY) {
            Py_BEGIN_ALLOW_THREADS
            ns_yield();
            Py_END_ALLOW_THREADS
        }
        else if (state > SERVED || ns_cas(&a->state, &state, BUSY, NS_ACQUIRE)) {
            return state;
        }
    }
}

static void
set_state(AsyncWaiter *a, uint8_t state)
{
    ns_store(&a->state, state, NS_RELEASE);
}

static bool
is_served(AsyncWaiter *a)
{
    const uint8_t state = ns_load(&a->state, NS_ACQUIRE);
    return state == SERVED || (state <= BUSY && a->waiter != NULL && ns_is_granted(a->waiter));
}

/* For a waiter that was served: takes a selector out of its other lines. */
static void
leave_lines(AsyncWaiter *a)
{
    if (a->operation == SELECT) {
        ns_select_steps.cancel(a->inside, a->waiter);
    }
}

/* Drops the items of a wait that is over: they were given back, or never served. */
static void
drop_items(AsyncWaiter *a)
{
    if (a->item != NULL) {
        PyObject *item = a->item;
        a->item = NULL;
        ns_channel_keep(item, a->shared);
    }
    if (a->cases != NULL) {
        ns_cases_let_go(a->cases);
    }
}

static bool
is_of_barrier(AsyncWaiter *a)
{
    return a->steps == &ns_barrier_steps;
}

/* Gives back what it was served. A barrier that was passed stays passed; but a leader that gives up
 * breaks it. */
static void
give_back(AsyncWaiter *a)
{
    if (is_of_barrier(a)) {
        ns_barrier_give_up(a->inside, a->waiter, false);
    }
    else {
        a->steps->undo(a->inside, a->waiter);
    }
}

/* ---- The call ---- */

/* A pending call, in the main thread. */
static int
raise_again(void *error)
{
    PyErr_SetRaisedException(error);
    return -1;
}

/* An exception that a signal handler raised inside the callback is raised again in the main thread,
 * as soon as that runs Python code. Any other exception is a defect of the callback. */
static void
report(PyObject *error, PyObject *callback)
{
    if (!PyErr_GivenExceptionMatches(error, PyExc_Exception) &&
        Py_AddPendingCall(raise_again, error) == 0) {
        return;
    }
    PyErr_SetRaisedException(error);
    PyErr_WriteUnraisable(callback);
}

/* Calls it up to three times, until it returns: a signal handler may have raised before it did
 * anything, and it does no harm to call it again. Reports the first exception. */
static void
call(PyObject *callback, PyObject *self)
{
    PyObject *first = NULL, *result = NULL;
    for (int times = 0; times < 3 && result == NULL; times++) {
        result = PyObject_CallOneArg(callback, self);
        if (result == NULL) {
            PyObject *error = PyErr_GetRaisedException();
            if (first == NULL) {
                first = error;
            }
            else {
                Py_DECREF(error);
            }
        }
    }
    Py_XDECREF(result);
    if (first != NULL) {
        report(first, callback);
    }
}

void
ns_call_waiter(ns_waiter *w)
{
    AsyncWaiter *a = w->owner;
    uint8_t state = LINKED;
    if (ns_cas(&a->state, &state, BUSY, NS_ACQUIRE)) {
        leave_lines(a);
        set_state(a, SERVED);
        PyObject *callback = Py_NewRef(a->callback);
        call(callback, (PyObject *)a);
        Py_DECREF(callback);
    }
    Py_DECREF(a); /* the line's */
}

/* ---- result and cancel ---- */

static PyObject *
not_served(void)
{
    PyErr_SetString(PyExc_RuntimeError, "the waiter is not served");
    return NULL;
}

/* For SELECT: None if another thread took a case in Python first. */
static PyObject *
collect_selected(AsyncWaiter *a)
{
    PyObject *selected = NULL;
    int result = ns_cases_take(a->cases, selector_of(a), &selected);
    drop_items(a);
    return result == 0 ? Py_NewRef(Py_None) : selected;
}

static PyObject *
collect(AsyncWaiter *a)
{
    PyObject *item;
    switch (a->operation) {
    case RECEIVE:
        item = (PyObject *)(uintptr_t)amount_of(a);
        if (item == NULL) {
            ns_channel_type_raise_closed(a->object);
            return NULL;
        }
        ns_channel_note(ns_channel_of(a->object), item);
        return item;
    case SEND:
        if (!was_accepted(a)) {
            drop_items(a);
            ns_channel_type_raise_closed(a->object);
            return NULL;
        }
        a->item = NULL; /* it is the channel's */
        Py_RETURN_NONE;
    case SELECT:
        return collect_selected(a);
    default:
        if (is_of_barrier(a)) {
            return ns_barrier_type_collect(a->object, a->waiter);
        }
        Py_RETURN_NONE;
    }
}

static PyObject *
result(PyObject *self, PyObject *Py_UNUSED(unused))
{
    AsyncWaiter *a = (AsyncWaiter *)self;
    const uint8_t before = seize(a);
    if (before > SERVED) {
        return not_served();
    }
    if (before == LINKED) {
        if (!ns_is_granted(a->waiter)) {
            set_state(a, LINKED);
            if (!ns_is_granted(a->waiter)) {
                return not_served();
            }
            return result(self, NULL); /* it was served just now, and perhaps not called */
        }
        leave_lines(a);
    }
    set_state(a, COLLECTED);
    return collect(a);
}

/* Gives up, for a waiter of a barrier. The barrier decides, with its lock held, so other threads
 * may serve the waiter meanwhile. False: it was served, or all have arrived and it waits on. */
static PyObject *
give_up(AsyncWaiter *a, bool timed_out)
{
    const bool held = ns_hold_calls();
    bool is_out = ns_load(&a->state, NS_ACQUIRE) == CANCELLED;
    if (!is_out && ns_load(&a->state, NS_ACQUIRE) != COLLECTED) {
        const uint64_t outcome = ns_barrier_give_up(a->inside, a->waiter, timed_out);
        is_out = !ns_is_granted(a->waiter) && outcome != NS_BARRIER_WAITS_ON;
    }
    ns_release_calls(held);
    if (is_out && seize(a) == LINKED) {
        set_state(a, CANCELLED);
        Py_DECREF(a); /* the line's; the caller has another one */
    }
    return PyBool_FromLong(is_out);
}

/* Leaves the line. A waiter that was served gives back what it got, or keeps that if it timed
 * out. */
static PyObject *
leave(PyObject *self, bool timed_out)
{
    AsyncWaiter *a = (AsyncWaiter *)self;
    if (is_of_barrier(a)) {
        return give_up(a, timed_out);
    }
    const bool held = ns_hold_calls();
    const uint8_t before = seize(a);
    if (before > SERVED) {
        ns_release_calls(held);
        return PyBool_FromLong(before == CANCELLED);
    }
    const bool served = before == SERVED || a->steps->cancel(a->inside, a->waiter);
    if (served && (timed_out || was_accepted(a))) {
        set_state(a, SERVED);
        ns_release_calls(held);
        Py_RETURN_FALSE;
    }
    set_state(a, CANCELLED);
    if (served) {
        give_back(a);
    }
    ns_release_calls(held);
    drop_items(a);
    if (!served) {
        Py_DECREF(self); /* the line's; the caller has another one */
    }
    Py_RETURN_TRUE;
}

static PyObject *
cancel(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return leave(self, false);
}

/* Leaves the line, unless it was served. It keeps what it was served, so no other thread sees a
 * lock taken by a call that then times out. If all have arrived at a barrier, it waits on. */
static PyObject *
time_out(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return leave(self, true);
}

/* The same as result(). The interpreter looks for signals after a call, but not after it has read
 * an attribute: so no interrupt comes between this and the statement that stores it. */
static PyObject *
get_outcome(PyObject *self, void *Py_UNUSED(unused))
{
    return result(self, NULL);
}

static PyObject *
get_served(PyObject *self, void *Py_UNUSED(unused))
{
    return PyBool_FromLong(is_served((AsyncWaiter *)self));
}

/* ---- Construction ---- */

static bool
is_of(PyObject *object, PyObject *type)
{
    return type != NULL && PyObject_TypeCheck(object, (PyTypeObject *)type);
}

/* Sets steps, inside and *amount for `acquire`. Returns 0, or -1 with an exception. */
static int
prepare_acquire(AsyncWaiter *a, ns_state *state, PyObject *argument, uint64_t *amount)
{
    PyObject *object = a->object;
    if (is_of(object, state->mutex_type)) {
        a->steps = &ns_mutex_steps;
        a->inside = ns_mutex_of(object);
    }
    else if (is_of(object, state->rwmutex_reader_type)) {
        a->steps = &ns_rwmutex_read_steps;
        a->inside = ns_inside_rwmutex(object, false);
    }
    else if (is_of(object, state->rwmutex_writer_type)) {
        a->steps = &ns_rwmutex_write_steps;
        a->inside = ns_inside_rwmutex(object, true);
    }
    else if (is_of(object, state->semaphore_type)) {
        a->steps = &ns_semaphore_steps;
        a->inside = ns_inside_semaphore(object);
        if (ns_uint64(argument, NS_SEMAPHORE_MAX, "n", amount) < 0) {
            return -1;
        }
        return ns_check_initialized(object);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "AsyncWaiter: cannot acquire this object");
        return -1;
    }
    return 0;
}

static int
prepare_wait(AsyncWaiter *a, ns_state *state, uint64_t *amount)
{
    PyObject *object = a->object;
    if (is_of(object, state->event_type)) {
        a->steps = &ns_word_place_steps;
        a->inside = ns_inside_event(object);
        *amount = 1;
    }
    else if (is_of(object, state->waitgroup_type)) {
        a->steps = &ns_word_place_steps;
        a->inside = ns_inside_waitgroup(object);
    }
    else if (is_of(object, state->cond_type)) {
        a->steps = &ns_cond_steps;
        a->inside = ns_inside_cond(object);
    }
    else if (is_of(object, state->barrier_type)) {
        a->steps = &ns_barrier_steps;
        a->inside = ns_inside_barrier(object);
        return ns_check_initialized(object);
    }
    else {
        PyErr_SetString(PyExc_TypeError, "AsyncWaiter: cannot wait for this object");
        return -1;
    }
    return 0;
}

static int
prepare_channel(AsyncWaiter *a, ns_state *state, PyObject *argument, uint64_t *amount)
{
    if (!is_of(a->object, state->channel_type)) {
        PyErr_SetString(PyExc_TypeError, "AsyncWaiter: this object is no Channel");
        return -1;
    }
    if (ns_check_initialized(a->object) < 0) {
        return -1;
    }
    a->inside = ns_channel_of(a->object);
    if (a->operation == RECEIVE) {
        a->steps = &ns_channel_receive_steps;
        return 0;
    }
    a->steps = &ns_channel_send_steps;
    a->shared = ns_channel_give(a->inside, argument);
    a->item = argument;
    *amount = (uintptr_t)argument;
    return 0;
}

/* For SELECT. The caller waits for the cases' times. */
static int
prepare_select(AsyncWaiter *a, ns_state *state)
{
    if (!PyTuple_CheckExact(a->object)) {
        PyErr_SetString(PyExc_TypeError, "AsyncWaiter: the cases must be a tuple");
        return -1;
    }
    ns_cases *cases = PyMem_New(ns_cases, 1);
    if (cases == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (ns_cases_init(
            cases, state, ((PyTupleObject *)a->object)->ob_item, PyTuple_GET_SIZE(a->object)) < 0) {
        PyMem_Free(cases);
        return -1;
    }
    a->cases = cases;
    int64_t due;
    ns_selector *s = ns_cases_line_up(cases, &due);
    if (s == NULL) {
        return -1;
    }
    a->steps = &ns_select_steps;
    a->inside = s;
    a->waiter = &s->waiter;
    return 0;
}

/* Returns 0, or -1 with an exception. */
static int
prepare(AsyncWaiter *a, ns_state *state, PyObject *argument)
{
    uint64_t amount = 0;
    int result = a->operation == ACQUIRE  ? prepare_acquire(a, state, argument, &amount)
                 : a->operation == WAIT   ? prepare_wait(a, state, &amount)
                 : a->operation == SELECT ? prepare_select(a, state)
                                          : prepare_channel(a, state, argument, &amount);
    if (result < 0) {
        return -1;
    }
    if (a->waiter == NULL && (a->waiter = ns_waiter_or_error()) == NULL) {
        return -1;
    }
    a->waiter->place.amount = amount;
    return 0;
}

/* Gets in line. */
static void
enter(AsyncWaiter *a)
{
    ns_waiter *w = a->waiter;
    w->owner = a;
    ns_store(&w->state, NS_CALLED, NS_RELAXED);
    ns_make_way(a->inside);
    set_state(a, LINKED);
    Py_INCREF(a); /* the line's: from here on another thread may serve it */
    if (a->steps == &ns_cond_steps) {
        ns_cond_link(a->inside, w);
    }
    else if (a->steps->enter(a->inside, w)) {
        /* Another thread may have found it through the gc module, and have changed its state. */
        if (seize(a) <= SERVED) {
            leave_lines(a);
            set_state(a, SERVED);
        }
        Py_DECREF(a);
    }
}

static const char *const operations[] = {"acquire", "wait", "send", "recv", "select", NULL};

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *object, *argument, *callback;
    const char *name;
    if (kwargs != NULL || !PyArg_ParseTuple(args, "OsOO", &object, &name, &argument, &callback)) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "AsyncWaiter() takes no keyword arguments");
        }
        return NULL;
    }
    int operation = 0;
    while (operations[operation] != NULL && strcmp(operations[operation], name) != 0) {
        operation++;
    }
    if (operations[operation] == NULL) {
        PyErr_SetString(PyExc_ValueError, "AsyncWaiter: unknown operation");
        return NULL;
    }
    AsyncWaiter *a = (AsyncWaiter *)type->tp_alloc(type, 0);
    ns_state *state = a ? ns_state_of((PyObject *)a) : NULL;
    if (state == NULL) {
        Py_XDECREF(a);
        return NULL;
    }
    set_state(a, CANCELLED);
    a->generation = ns_fork_generation();
    a->operation = (enum operation)operation;
    a->object = Py_NewRef(operation == SELECT ? argument : object);
    a->callback = Py_NewRef(callback);
    if (prepare(a, state, argument) < 0) {
        Py_DECREF(a);
        return NULL;
    }
    enter(a);
    return (PyObject *)a;
}

/* ---- The type ---- */

/* The item that it was served and nobody has collected, or NULL. Threads that serve it are attached
 * while they change that. */
static PyObject *
served_item(AsyncWaiter *a)
{
    if (!is_served(a)) {
        return NULL;
    }
    if (a->operation == RECEIVE) {
        return (PyObject *)(uintptr_t)amount_of(a);
    }
    if (a->operation != SELECT) {
        return NULL;
    }
    const ns_place *p = chosen_place(a);
    return p->line == &ns_channel_receive_line ? (PyObject *)(uintptr_t)p->amount : NULL;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    AsyncWaiter *a = (AsyncWaiter *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(a->object);
    Py_VISIT(a->callback);
    if (a->waiter != NULL) {
        if (a->item != NULL && amount_of(a) != 0) { /* else it is the channel's */
            Py_VISIT(a->item);
        }
        PyObject *item = served_item(a);
        Py_VISIT(item);
    }
    return 0;
}

/* A waiter in line is never garbage. So this one was served, or its wait is over. It still needs
 * its object, to give back what it was served, but not its callback. */
static int
clear(PyObject *self)
{
    Py_CLEAR(((AsyncWaiter *)self)->callback);
    return 0;
}

static void
dealloc(PyObject *self)
{
    AsyncWaiter *a = (AsyncWaiter *)self;
    ns_begin_dealloc(self);
    if (ns_load(&a->state, NS_ACQUIRE) == SERVED) { /* nobody has collected it */
        if (!was_accepted(a)) {
            give_back(a);
        }
        else {
            Py_XDECREF(collect(a));
        }
    }
    drop_items(a);
    if (a->cases != NULL) {
        ns_cases_free(a->cases);
        PyMem_Free(a->cases);
    }
    if (a->waiter != NULL) {
        ns_waiter_free(a->waiter);
    }
    Py_XDECREF(a->object);
    Py_XDECREF(a->callback);
    ns_free_object(self);
}

static PyMethodDef methods[] = {
    {"cancel", cancel, METH_NOARGS, NULL},
    {"result", result, METH_NOARGS, NULL},
    {"time_out", time_out, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"outcome", get_outcome, NULL, NULL, NULL},
    {"served", get_served, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(AsyncWaiter);

static PyType_Slot slots[] = {
    {Py_tp_new, new},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync._native._core.AsyncWaiter",
    .basicsize = sizeof(AsyncWaiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int
ns_add_async_waiter(PyObject *module)
{
    return ns_add_type(module, &spec);
}
