/* detach.h: the only place where a thread lets go of the interpreter to wait for others.
 *
 * ns_wait drives the steps of core/waiting/wait.h for an object. It detaches for each sleep, so
 * that other threads and the collector run on. In the main thread it comes back for signals.
 *
 * Signals. Python runs handlers in the main thread only, when that thread asks for them. A signal
 * that arrives between the question and the sleep interrupts nothing, and _thread.interrupt_main()
 * sends no signal. So the main thread sleeps in slices of at most 50 ms. After each it asks whether
 * there is work to do, without attaching or leaving its place.
 *
 * The waiter stays in line while handlers run, and finalisers of a collection that comes with them.
 * If one of them uses the very object that the call waits for, ns_make_way lets it pass. So a
 * handler that does not use the object costs the waiter nothing, however often it runs. (A limit:
 * what another thread grants to the waiter while its handler does something else lies idle until
 * that handler returns.)
 *
 * Cancellation. A thread that is about to sleep looks at its scope (scope.h), and while it sleeps
 * the scope can wake it. Then the wait raises Cancelled, unless the waiter was served first.
 *
 * Deadlocks. While a thread sleeps it is recorded (sleepers.h). If detection is on, it wakes by
 * itself after a while, and looks for a deadlock as if a handler ran (sleeping.h).
 *
 * Waiters that are called (asyncio). The thread that serves one runs its callback, Python code, at
 * once if it is attached. If it is detached, or has a waiter of its own in line, it keeps the list
 * until that is over, or until it is about to sleep; for the latter it leaves the line, as for a
 * signal handler, because the callback can run handlers.
 *
 * Exit. While the interpreter is finalized, all threads but one stop for good as they re-attach.
 * That one would wait in vain, so its waits raise PythonFinalizationError.
 *
 * A re-attach may never return. So whenever a thread re-attaches, it holds no lock of ours, and a
 * waiter that is linked is on the heap ("Lifetime" in wait.h).
 */
#ifndef NS_DETACH_H
#define NS_DETACH_H

#include "arguments.h"
#include "interpreter/cpython.h"
#include "core/waiting/wait.h"

/* Waits, after the attempt without waiting failed. Returns 1 if served, 0 if timed out. Returns -1
 * with an exception if a handler raised, the thread's scope is cancelled, the interpreter is being
 * finalized or there is no memory; then the call left no trace. `self` is an object of ours, or the
 * module. *amount is what the call asks for, and then what it was given; the
 * object's header says what that means. Allocates the waiter, and frees it. The caller is attached,
 * and holds no lock of ours. */
int ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, uint64_t *amount,
            int64_t deadline);

/* The same with the caller's own waiter, of zero bytes except for its amount, or queued already if
 * the object's header says so. Afterwards the waiter is linked nowhere. */
int ns_wait_with(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
                 int64_t deadline);
/* Returns a waiter for ns_wait_with, or NULL with an exception. */
ns_waiter *ns_waiter_or_error(void);

/* For a call that a handler makes. Makes the interrupted waits of this thread for the object give
 * back what they were served. Returns true if there were any: a retry may succeed. ns_wait calls it
 * by itself. */
bool ns_make_way(void *object);

/* In development mode: warns if a loop of asyncio runs in this thread, which a wait would block.
 * ns_wait calls it by itself. Returns 0, or -1 with an exception of a handler. */
int ns_warn_blocking(PyObject *self);

/* Holds back the calls of waiters that this thread serves, for a section in which no Python code
 * may run. Returns what ns_release_calls needs, which makes the calls unless an outer section goes
 * on. */
bool ns_hold_calls(void);
void ns_release_calls(bool held_before);

/* Has the core call waiters through this file. Once. */
void ns_detach_init(void);
/* Calls a waiter that was CALLED and is served. Attached; never raises. In async_waiter_type.c. */
void ns_call_waiter(ns_waiter *w);

/* Whether the interpreter is being finalized, so that no other thread is left that could end a
 * wait. The caller must have no waiter in line. */
bool ns_is_last(PyObject *self);
/* Sets the exception for a wait in vain. Returns -1. */
int ns_waits_in_vain(void);

/* `with` and interrupts. From 3.14 on the interpreter checks for signals right after __enter__ has
 * returned, before the body, where an exception skips __exit__. So each __enter__ of ours ends with
 * this check of its own. It costs one load. A signal that comes between the two checks still does
 * harm. */
static inline bool
ns_is_interrupted(void)
{
#if PY_VERSION_HEX >= 0x030E0000
    return ns_unlikely(ns_has_any(PyThreadState_GetUnchecked(), NS_SIGNALS));
#else
    return false;
#endif
}

/* For an __enter__ that was interrupted: undoes it, runs the handlers, enters again. Returns 0, or
 * -1 with an exception and nothing entered. Both functions return less than 0 with an exception. */
int ns_enter_again(PyObject *self, int (*enter)(PyObject *self), int (*undo)(PyObject *self));
/* The max of retries. Without it, handlers slower than their signals could keep the thread
 * there. */
#define NS_ENTER_AGAIN 3

/* Runs signal handlers, pending calls and a collection if one is due. Returns 0, or -1 with an
 * exception. */
int ns_run_handlers(void);

#endif
