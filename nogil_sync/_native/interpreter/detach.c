#include "interpreter/detach.h"

#include "core/memory/slots.h"
#include "core/waiting/word.h"
#include "interpreter/contention.h"
#include "interpreter/scope.h"
#include "interpreter/sleeping.h"

#define SLICE INT64_C(50000000) /* nanoseconds */

/* The module's state: `self` is an object of ours, or the module. NULL once the module is gone. */
static ns_state *
state_for(PyObject *self)
{
    return PyModule_Check(self) ? PyModule_GetState(self) : ns_state_of(self);
}

/* Whether this thread runs signal handlers. The answer is kept per thread until a fork, which makes
 * the forking thread the main one. If the question fails, the answer is yes: slices are never
 * wrong. */
static bool
is_main_thread(PyObject *self)
{
    static NS_THREAD_LOCAL uint32_t asked_in; /* fork generation + 1 of the answer */
    static NS_THREAD_LOCAL bool answer;
    if (asked_in != ns_fork_generation() + 1) {
        ns_state *state = state_for(self);
        PyObject *ask =
            state ? state->main_thread_ident : NULL; /* NULL once the module is cleared */
        PyObject *ident = ask ? PyObject_CallNoArgs(ask) : NULL;
        answer = ident == NULL || PyLong_AsUnsignedLong(ident) == PyThread_get_thread_ident();
        Py_XDECREF(ident);
        PyErr_Clear();
        asked_in = ns_fork_generation() + 1;
    }
    return answer;
}

/* Whether the interpreter has work for this thread. The caller is detached and passes its own
 * thread state. Signals (also _thread.interrupt_main's) set their flag in the interpreter's first
 * thread state. In the child of a fork from another thread, the main thread has a different one,
 * where no flag is set for signals: there the answer is always yes. */
static bool
has_work(PyThreadState *tstate)
{
    return PyThreadState_GetID(tstate) != 1 || ns_has_any(tstate, NS_WORK);
}

/* Py_MakePendingCalls also clears the flags. It does nothing outside the main thread. */
int
ns_run_handlers(void)
{
    return Py_MakePendingCalls() < 0 ? -1 : PyErr_CheckSignals();
}

/* ---- Waiters that are called ---- */

/* Those to be called by this thread, in the order in which they were served. */
static NS_THREAD_LOCAL ns_waiter *called, *last_called;
static NS_THREAD_LOCAL bool calls; /* it is calling them: so calls do not nest */
static NS_THREAD_LOCAL bool defers_calls; /* a waiter of its own is in line */

static int
call_all(void)
{
    if (calls || called == NULL) {
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    calls = true;
    while (called != NULL) {
        ns_waiter *w = called;
        called = w->next_called;
        ns_call_waiter(w);
    }
    calls = false;
    PyErr_SetRaisedException(error);
    return 0;
}

/* Whether the thread must step out of line, since there are waiters that it has to call. */
static bool
has_calls(void)
{
    return ns_unlikely(called != NULL) && !calls;
}

/* The core's hook. */
static void
call_now_or_later(ns_waiter *served)
{
    *(called != NULL ? &last_called->next_called : &called) = served;
    while (served->next_called != NULL) {
        served = served->next_called;
    }
    last_called = served;
    if (!defers_calls && PyThreadState_GetUnchecked() != NULL) {
        call_all();
    }
}

bool
ns_hold_calls(void)
{
    const bool before = defers_calls;
    defers_calls = true;
    return before;
}

void
ns_release_calls(bool held_before)
{
    defers_calls = held_before;
    if (!held_before) {
        call_all();
    }
}

void
ns_detach_init(void)
{
    ns_call_waiters = call_now_or_later;
}

/* ---- Waits that handlers have interrupted ---- */

/* This thread's waits that can give way, the latest first, linked by `outer`. */
static NS_THREAD_LOCAL ns_waiter *interrupted;

bool
ns_make_way(void *object)
{
    bool made = false;
    for (ns_waiter *w = interrupted; w != NULL; w = w->outer) {
        if (w->place.object == object && !w->place.away) {
            w->steps->give_way(object, w);
            made = true;
        }
    }
    return made;
}

/* Runs Python code while w is in line, or away. -1 with an exception. */
static int
run_in_line(const struct ns_wait_steps *steps, ns_waiter *w, int (*run)(void))
{
    const bool deferred = defers_calls;
    defers_calls = false;
    if (steps->give_way == NULL) {
        int result = run();
        defers_calls = deferred;
        return result;
    }
    w->steps = steps;
    w->outer = interrupted;
    interrupted = w;
    int result = run();
    defers_calls = deferred;
    ns_waiter **link = &interrupted; /* It may not be the first: greenlets may end in any order. */
    while (*link != w) {
        link = &(*link)->outer;
    }
    *link = w->outer;
    return result;
}

/* ---- Exit ---- */

bool
ns_is_last(PyObject *self)
{
    if (ns_likely(!Py_IsFinalizing())) {
        return false;
    }
    const bool is_main = is_main_thread(self);
    /* Only the thread that finalizes comes back from here, once the others are stopped. */
    Py_BEGIN_ALLOW_THREADS
    if (!is_main) {
        _Atomic uint32_t nobody = 0;
        ns_park(&nobody, 0, ns_now() + SLICE);
    }
    Py_END_ALLOW_THREADS
    return true;
}

int
ns_waits_in_vain(void)
{
    PyErr_SetString(PyExc_PythonFinalizationError, "cannot wait at interpreter finalization");
    return -1;
}

/* ---- Waiting ---- */

/* One wait, as the functions below pass it on. */
typedef struct {
    PyObject *scope; /* or NULL */
    const struct ns_wait_steps *steps;
    void *object;
    ns_waiter *w;
    PyThreadState *sliced; /* this thread's state if it is the main thread, else NULL */
    ns_sleep sleep; /* what others may see of it */
    int64_t check_at; /* when this thread is to look for a deadlock */
} waiting;

/* How a sleep ended, if not with 1 (served) or 0 (timed out). */
enum { TO_RUN_HANDLERS = -1, CANCELLED = -2, TO_CHECK = -3 };

/* How long a sleep that begins now may take before this thread has to look at something. */
static int64_t
end_of_slice(const waiting *it)
{
    const int64_t deadline = it->sleep.deadline;
    const int64_t until = deadline < it->check_at ? deadline : it->check_at;
    if (it->sliced != NULL && until - SLICE > ns_now()) {
        return ns_now() + SLICE;
    }
    return until;
}

/* Sleeps once, detached. TO_RUN_HANDLERS: there may be handlers to run, and the waiter is in line
 * or away. TO_CHECK: likewise, and it is time to look for a deadlock. CANCELLED: it is unlinked. */
static int
sleep_detached(const waiting *it)
{
    const struct ns_wait_steps *steps = it->steps;
    for (;;) {
        const int64_t until = end_of_slice(it);
        int why = TO_RUN_HANDLERS;
        switch (steps->wait(it->object, it->w, until)) {
        case NS_SERVED:
            return 1;
        case NS_WAS_CANCELLED:
            return steps->cancel(it->object, it->w) ? 1 : CANCELLED;
        case NS_TIMED_OUT:
            if (until == it->sleep.deadline) {
                return steps->cancel(it->object, it->w);
            }
            if (until == it->check_at) {
                why = TO_CHECK;
            }
            else if (!has_work(it->sliced)) {
                continue; /* the slice is over, and nothing is to be done: sleep on */
            }
            break;
        case NS_INTERRUPTED:
            if (it->sliced == NULL) {
                continue; /* handlers are the main thread's */
            }
            break;
        }
        return steps->leave(it->object, it->w) ? 1 : why;
    }
}

/* The same, in its scope, if any. */
static int
sleep_in_scope(const waiting *it)
{
    ns_place link = {0};
    if (it->scope == NULL) {
        return sleep_detached(it);
    }
    if (!ns_scope_link(it->scope, &link, it->w)) {
        return it->steps->cancel(it->object, it->w) ? 1 : CANCELLED;
    }
    int result = sleep_detached(it);
    ns_scope_unlink(it->scope, &link);
    return result;
}

/* Runs Python code between two sleeps, with w in line or away. Returns 0 if the thread is to sleep
 * on. */
static int
run_between(const waiting *it, int (*run)(void))
{
    const struct ns_wait_steps *steps = it->steps;
    if (run_in_line(steps, it->w, run) < 0) { /* a handler raised: leave no trace */
        if (steps->cancel(it->object, it->w)) {
            steps->undo(it->object, it->w);
        }
        return -1;
    }
    steps->rejoin(it->object, it->w);
    return 0;
}

/* The wait whose check runs in this thread. */
static NS_THREAD_LOCAL waiting *checked;

static int
check(void)
{
    return ns_check_deadlock(&checked->sleep, &checked->check_at);
}

static int
run_check(waiting *it)
{
    waiting *outer = checked;
    checked = it;
    const int result = run_between(it, check);
    checked = outer;
    return result;
}

/* Waits on, after `enter`. Returns as sleep_detached, but -1 with an exception. */
static int
wait_entered(waiting *it)
{
    for (;;) {
        int result;
        while (has_calls()) { /* `enter` or `rejoin` served other waiters */
            if (it->steps->leave(it->object, it->w)) {
                return 1;
            }
            if (run_between(it, call_all) < 0) {
                return -1;
            }
        }
        Py_BEGIN_ALLOW_THREADS
        ns_sleeper_begin(&it->sleep);
        result = sleep_in_scope(it);
        ns_sleeper_end();
        Py_END_ALLOW_THREADS
        if (result == TO_CHECK) {
            if (run_check(it) < 0) {
                return -1;
            }
        }
        else if (result != TO_RUN_HANDLERS) {
            return result;
        }
        else if (run_between(it, ns_run_handlers) < 0) {
            return -1;
        }
    }
}

/* `named` has the call's name and holder: the steps of the object, where others stand in for
 * them. */
static int
wait_in(PyObject *scope, PyObject *self, const struct ns_wait_steps *steps,
        const struct ns_wait_steps *named, void *object, ns_waiter *w, int64_t deadline)
{
    /* The question may detach, so ask it before the waiter is linked. */
    PyThreadState *tstate = PyThreadState_Get();
    PyThreadState *sliced = is_main_thread(self) ? tstate : NULL;
    const bool last = ns_is_last(self);
    ns_record *record = ns_record_begin(self, named->operation);
    ns_make_way(object);
    const bool held = ns_hold_calls();
    int result;
    if (steps->enter(object, w) || (last && steps->cancel(object, w))) {
        result = 1;
        ns_record_drop(record);
    }
    else if (last) {
        result = ns_waits_in_vain();
        ns_record_drop(record);
    }
    else {
        waiting it = {
            .scope = scope,
            .steps = steps,
            .object = object,
            .w = w,
            .sliced = sliced,
            .sleep =
                {
                    .steps = named,
                    .object = object,
                    .waiter = w,
                    .linked = steps->links,
                    .self = self,
                    .thread = tstate,
                    .interpreter = PyInterpreterState_GetID(PyThreadState_GetInterpreter(tstate)),
                    .ident = PyThread_get_thread_ident(),
                    .since = ns_now(),
                    .deadline = deadline,
                    .cancellable = scope != NULL,
                },
            .check_at = ns_first_check(deadline),
        };
        result = wait_entered(&it);
        ns_record_end(record, result == 1);
    }
    ns_release_calls(held);
    return result == CANCELLED ? ns_raise_cancelled(state_for(self)) : result;
}

int
ns_wait_with(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
             int64_t deadline)
{
    PyObject *scope = steps->cancellable ? ns_current_scope(state_for(self)) : NULL;
    int result = wait_in(scope, self, steps, steps, object, w, deadline);
    Py_XDECREF(scope);
    return result;
}

int
ns_warn_blocking(PyObject *self)
{
    ns_state *state = state_for(self);
    if (state == NULL || !state->dev_mode) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("nogil_sync._common.awaited");
    PyObject *result =
        module ? PyObject_CallMethod(
                     module, "warn_blocking", "(O)", PyModule_Check(self) ? Py_None : self)
               : NULL;
    Py_XDECREF(module);
    if (result == NULL) { /* a warning is lost at exit; what a handler raised is not */
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear();
    }
    Py_XDECREF(result);
    return 0;
}

ns_waiter *
ns_waiter_or_error(void)
{
    ns_waiter *w = ns_waiter_new();
    if (w == NULL) {
        PyErr_NoMemory();
    }
    return w;
}

int
ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, uint64_t *amount,
        int64_t deadline)
{
    if (ns_warn_blocking(self) < 0) {
        return -1;
    }
    const bool on_word = !steps->links;
    const struct ns_wait_steps *named = steps;
    PyObject *scope = steps->cancellable || on_word ? ns_current_scope(state_for(self)) : NULL;
    if (scope != NULL && on_word) { /* only a waiter with a place can be cancelled */
        steps = &ns_word_place_steps;
    }
    ns_waiter linked_nowhere = {0};
    ns_waiter *w = steps->links ? ns_waiter_or_error() : &linked_nowhere;
    int result = -1;
    if (w != NULL) {
        w->place.amount = *amount;
        result = wait_in(scope, self, steps, named, object, w, deadline);
        *amount = w->place.amount;
        if (steps->links) {
            ns_waiter_free(w);
        }
    }
    Py_XDECREF(scope);
    return result;
}

/* ---- Entering ---- */

int
ns_enter_again(PyObject *self, int (*enter)(PyObject *self), int (*undo)(PyObject *self))
{
    for (int turn = 0; turn < NS_ENTER_AGAIN && ns_is_interrupted(); turn++) {
        if (undo(self) < 0 || ns_run_handlers() < 0 || enter(self) < 0) {
            return -1;
        }
    }
    return 0;
}
