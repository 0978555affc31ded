/* detach.h: the only place where a thread lets go of the interpreter to wait for others.
 *
 * ns_wait drives the steps of core/waiting/wait.h for an object: it detaches for each sleep, so
 * that other threads and the collector run on, and in the main thread comes back for signals.
 *
 * Signals. Python runs handlers in the main thread only, when that thread asks for them. A signal
 * that arrives between the question and the sleep interrupts nothing, and _thread.interrupt_main()
 * does not send one. So the main thread sleeps in slices of at most 50 ms, and after each asks
 * whether there is anything to do, without attaching or leaving its place.
 *
 * The waiter stays in line while handlers run, and finalisers of a collection that comes with them.
 * If one of them uses the very object that the call waits for, ns_make_way lets it pass. So a
 * handler that does not use the object costs the waiter nothing, however often it runs. (A limit:
 * what another thread grants to the waiter while its handler does something else lies idle until
 * that handler returns.)
 *
 * Exit. While the interpreter is finalized all threads but one stop for good as they re-attach, so
 * that one waits in vain: its waits raise PythonFinalizationError.
 *
 * Re-attaching may never return: whenever it happens no lock of ours is held, and a waiter that is
 * linked is on the heap ("Lifetime" in wait.h).
 */
#ifndef NS_DETACH_H
#define NS_DETACH_H

#include "arguments.h"
#include "interpreter/cpython.h"
#include "core/waiting/wait.h"

/* Waits, after the attempt without waiting failed. 1: served; 0: timed out; -1 with an exception,
 * if a handler raised, the interpreter is being finalized or there is no memory: the call left no
 * trace. *amount is what the call asks for, and what it was given; the object's header says what
 * that means. Allocates the waiter, and frees it. The caller is attached, and holds no lock of
 * ours. */
int ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, uint64_t *amount,
            int64_t deadline);

/* The same with a waiter of the caller's, of zero bytes but for its amount, or queued up already if
 * the object's header says so. The waiter is the caller's again afterwards, and linked nowhere. */
int ns_wait_with(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
                 int64_t deadline);
/* A waiter for ns_wait_with, or NULL with an exception. */
ns_waiter *ns_waiter_or_error(void);

/* True if waits of this thread for the object, which the caller's handler has interrupted, gave
 * back what they were served: trying again may succeed. ns_wait calls it by itself. */
bool ns_make_way(void *object);

/* Whether the interpreter is being finalized, so that no thread is left that could end a wait. The
 * caller has no waiter in line. */
bool ns_is_last(PyObject *self);
/* Sets the exception for a wait that would be in vain. Returns -1. */
int ns_waits_in_vain(void);

/* `with` and interrupts. From 3.14 on the interpreter looks for signals right after __enter__ has
 * returned, before the body, where an exception skips __exit__. So each __enter__ of ours ends with
 * this look of its own. It costs one load. A signal that comes between the two looks still does
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

/* For an __enter__ that finds itself interrupted: undoes it, runs the handlers, enters again. 0, or
 * -1 with an exception and nothing entered. Both functions return less than 0 with an exception. */
int ns_enter_again(PyObject *self, int (*enter)(PyObject *self), int (*undo)(PyObject *self));
/* How often, lest handlers that are slower than their signals keep the thread there. */
#define NS_ENTER_AGAIN 3

/* Runs signal handlers, pending calls and a collection if one is due. -1 with an exception. */
int ns_run_handlers(void);

#endif
