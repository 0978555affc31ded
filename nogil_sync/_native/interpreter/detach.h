/* detach.h: the only place where a thread lets go of the interpreter.
 *
 * ns_wait drives the steps of core/wait.h for an object: it detaches for each sleep, so that other
 * threads and the collector run on, and in the main thread comes back for signals.
 *
 * Signals. Python runs handlers in the main thread only, when that thread asks for them. A signal that
 * arrives between the question and the sleep interrupts nothing, and _thread.interrupt_main() does
 * not send one; so the main thread sleeps in slices of at most 50 ms, and after each asks whether there is
 * anything to do, without attaching or leaving its place.
 *
 * The waiter stays in line while handlers run, and finalisers of a collection that comes with them. If
 * one of them uses the very object that is being waited for, ns_make_way lets it pass. So a handler that
 * does not use the object costs the waiter nothing, however often it runs. (A limit: what another
 * thread grants to the waiter while its handler does something else lies idle until that handler returns.)
 *
 * Exit. While the interpreter is finalized all threads but one stop for good as they re-attach, so
 * that one waits in vain: its waits raise PythonFinalizationError.
 *
 * Re-attaching may never return: whenever it happens no lock of ours is held, and the node is on the heap.
 */
#ifndef NS_DETACH_H
#define NS_DETACH_H

#include "arguments.h"
#include "interpreter/cpython.h"
#include "core/waiting/wait.h"

/* Waits, with a zeroed node. 1: served; 0: timed out; -1: a handler raised or the interpreter is
 * being finalized, and the call left no trace. */
int ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
            int64_t deadline);

/* True if waits of this thread for the object, which the caller's handler has interrupted, gave back
 * what they were served: trying again may succeed. ns_wait calls it by itself. */
bool ns_make_way(void *object);

/* Whether the interpreter is being finalized, so that nobody is left who could end a wait. With no node of
 * the caller's in line. */
bool ns_is_last(PyObject *self);
/* Sets the exception for a wait that would be in vain. Returns -1. */
int ns_waits_in_vain(void);

/* `with` and interrupts. From 3.14 on the interpreter looks for signals right after __enter__ has
 * returned, before the body, where an exception skips __exit__. So each __enter__ of ours ends with this
 * look of its own. It costs one load. A signal that comes between the two looks still does harm. */
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
