/* detach.h: the only place where a thread lets go of the interpreter.
 *
 * ns_wait drives the steps of core/wait.h for an object: it detaches for each sleep, so that other
 * threads and the collector run on, and in the main thread comes back for signals.
 *
 * Signals. Python runs handlers in the main thread only, in PyErr_CheckSignals. A signal that
 * arrives between that check and the sleep interrupts nothing, and _thread.interrupt_main() does
 * not send one; so the main thread sleeps in slices of at most 50 ms, and after each asks whether there is
 * anything to do, without attaching or leaving its place. Handlers, and
 * finalisers of a collection that PyErr_CheckSignals may run, can use the object that is being
 * waited for: the node has stepped aside by then (`leave`), and comes back after.
 *
 * Re-attaching may never return (interpreter shutdown): whenever it happens, the node is unlinked or
 * away, no lock of ours is held, and the node is on the heap.
 */
#ifndef NS_DETACH_H
#define NS_DETACH_H

#include "arguments.h"
#include "core/wait.h"

/* Waits, with a zeroed node. 1: served; 0: timed out; -1: a handler raised, and the call left no trace. */
int ns_wait(PyObject *self, const struct ns_wait_steps *steps, void *object, ns_waiter *w,
            int64_t deadline);

#endif
