#include "interpreter/detach.h"

#include "core/memory/slots.h"

#define SLICE INT64_C(50000000) /* nanoseconds */

/* Whether this thread runs signal handlers. The answer is kept per thread until a fork, which makes
 * the forking thread the main one. If the question fails, the answer is yes: slices are never
 * wrong. */
static bool
is_main_thread(PyObject *self)
{
    static NS_THREAD_LOCAL uint32_t asked_in; /* fork generation + 1 of the answer */
    static NS_THREAD_LOCAL bool answer;
    if (asked_in != ns_fork_generation() + 1) {
        ns_state *state = ns_state_of(self);
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

/* Runs handlers while w is in line, or away. -1 with an exception. */
static int
run_handlers_in_line(const struct ns_wait_steps *steps, ns_waiter *w)
{
    if (steps->give_way == NULL) {
        return ns_run_handlers();
    }
    w->steps = steps;
    w->outer = interrupted;
    interrupted = w;
    int result = ns_run_handlers();
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

/* Sleeps once, detached. Returns 1 if served, 0 if timed out, and -1 if there may be handlers to
 * run. In the last case the waiter is in line or away. `sliced` is this thread's state if it is the
 * main thread, else NULL. */
static int
sleep_detached(const struct ns_wait_steps *steps, void *object, ns_waiter *w, int64_t deadline,
               PyThreadState *sliced)
{
    for (;;) {
        int64_t until = deadline;
        if (sliced != NULL && deadline - SLICE > ns_now()) {
            until = ns_now() + SLICE;
        }
        switch (steps->wait(object, w, until)) {
        case NS_SERVED:
            return 1;
        case NS_TIMED_OUT:
            if (until == deadline) {
                return steps->cancel(object, w);
            }
            if (!has_work(sliced)) {
                continue; /* the slice is over, and nothing is to be done: sleep on */
            }
            break;
        case NS_WAS_CANCELLED:
            return steps->cancel(object, w);
        case NS_INTERRUPTED:
            if (sliced == NULL) {
                continue; /* handlers are the main thread's */
            }
            break;
        }
        return steps->leave(object, w) ? 1 : -1;
    }
}

int
ns_wait_with(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
             int64_t deadline)
{
    /* The question may detach, so ask it before the waiter is linked. */
    PyThreadState *sliced = is_main_thread(self) ? PyThreadState_Get() : NULL;
    const bool last = ns_is_last(self);
    ns_make_way(object);
    if (steps->enter(object, w) || (last && steps->cancel(object, w))) {
        return 1;
    }
    if (last) {
        return ns_waits_in_vain();
    }
    for (bool interrupted_before = false;; interrupted_before = true) {
        int result;
        if (interrupted_before) {
            steps->rejoin(object, w);
        }
        Py_BEGIN_ALLOW_THREADS
        result = sleep_detached(steps, object, w, deadline, sliced);
        Py_END_ALLOW_THREADS
        if (result >= 0) {
            return result;
        }
        if (run_handlers_in_line(steps, w) < 0) { /* a handler raised: leave no trace */
            if (steps->cancel(object, w)) {
                steps->undo(object, w);
            }
            return -1;
        }
    }
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
    ns_waiter linked_nowhere = {0};
    ns_waiter *w = steps->links ? ns_waiter_or_error() : &linked_nowhere;
    if (w == NULL) {
        return -1;
    }
    w->place.amount = *amount;
    int result = ns_wait_with(self, steps, object, w, deadline);
    *amount = w->place.amount;
    if (steps->links) {
        ns_waiter_free(w);
    }
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
