#include "detach.h"

#include "core/slots.h"

#define SLICE INT64_C(50000000) /* nanoseconds */

/* Whether this thread runs signal handlers. Known per thread until a fork, which makes the forking
 * thread the main one. If the question fails the answer is yes: slices are never wrong. */
static bool
is_main_thread(PyObject *self)
{
    static NS_THREAD_LOCAL uint32_t asked_in; /* fork generation + 1 */
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

/* Whether the interpreter has something for this thread to do. Asked while detached, of a thread state
 * that is this thread's own. The flags are set from other threads, for signals (also
 * _thread.interrupt_main's) in the state of the thread that was the main one at start-up: after a fork
 * from another thread that is not this one, and the answer is always yes. */
static bool
has_work(PyThreadState *tstate)
{
    const uintptr_t flags = 0xff; /* the rest of the word is a version number */
    return ns_fork_generation() != 0 ||
           (__atomic_load_n(&tstate->eval_breaker, __ATOMIC_ACQUIRE) & flags) != 0;
}

/* One sleep, detached. On return the node is unlinked (1, 0) or away (-1). */
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
                continue;
            }
            break;
        case NS_INTERRUPTED:
            if (sliced == NULL) {
                continue;
            }
            break;
        }
        return steps->leave(object, w) ? 1 : -1;
    }
}

int
ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
        int64_t deadline)
{
    /* Asking may detach, so before the node is linked. */
    PyThreadState *sliced = is_main_thread(self) ? PyThreadState_Get() : NULL;
    if (steps->enter(object, w)) {
        return 1;
    }
    for (bool away = false;; away = true) {
        int result;
        if (away) {
            steps->rejoin(object, w);
        }
        Py_BEGIN_ALLOW_THREADS
        result = sleep_detached(steps, object, w, deadline, sliced);
        Py_END_ALLOW_THREADS
        if (result >= 0) {
            return result;
        }
        if (PyErr_CheckSignals() < 0) {
            if (steps->cancel(object, w)) {
                steps->undo(object, w);
            }
            return -1;
        }
    }
}
