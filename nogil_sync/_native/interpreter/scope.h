/* scope.h: cancellation scopes. Cancelling a scope ends the waits of all threads that are in it.
 *
 * A thread is in at most one scope at a time (enter_scope). The task groups of _common keep their
 * tree of groups themselves: one scope for each group, and a thread is in that of the innermost.
 *
 * A wait looks at its thread's scope only when it is about to sleep, so no fast path pays:
 *
 *     the thread that waits, detached         the thread that cancels, attached
 *     -------------------------------------   -------------------------------------------
 *     lock; CANCELLED: do not sleep           lock; the state becomes CANCELLED
 *     link the waiter; unlock                 ns_waiter_cancel on each linked waiter; unlock
 *     sleep
 *     lock; unlink the waiter; unlock
 *
 * So no cancellation is missed: either the waiter is linked when the canceller has the lock, or it
 * finds the scope cancelled. And the canceller touches living waiters only. A waiter is linked
 * while its thread sleeps, and at no other time: the link is on the thread's stack, which is safe
 * because the thread unlinks before it attaches to the interpreter again.
 *
 * ns_waiter_cancel only wakes. The wait's `cancel` step then finds out whether the waiter was
 * served first; in that case the call succeeds (grant.h).
 *
 * Waits that are written in Python sleep at a gate (_common/sleep.py). The scope keeps their gates
 * in a list, with references, and opens them when it is cancelled.
 *
 * A scope that is closed counts as none: for a thread that stays in the scope of a group that is
 * over.
 *
 * Where the scope of a thread is: in the dictionary of its thread state, under a key of ours. That
 * belongs to one interpreter, and is cleared with the thread.
 *
 * Fork. The child forgets the waiters, whose threads are gone (waitq.h). It keeps the gates: one of
 * them may be that of the thread that forked. Their list is linked one way, and each change of it
 * is one store, so a fork at any moment leaves it whole.
 */
#ifndef NS_SCOPE_H
#define NS_SCOPE_H

#include "module.h"

#include "core/waiting/grant.h"

/* Returns the calling thread's scope, a new reference; NULL without an exception if it is in
 * none. */
PyObject *ns_current_scope(ns_state *state);

/* Makes `scope` the calling thread's; NULL: it is in none from here on. Returns the one before, a
 * new reference, or NULL: it was in none, or there is an exception (not if it goes back to a scope
 * in which it was). */
PyObject *ns_swap_scope(ns_state *state, PyObject *scope);

/* Links w for as long as its thread sleeps, by a place of zero bytes. False, and nothing is linked,
 * if the scope is cancelled. */
bool ns_scope_link(PyObject *scope, ns_place *link, ns_waiter *w);
void ns_scope_unlink(PyObject *scope, ns_place *link);

/* Raises nogil_sync.Cancelled. Returns -1. */
int ns_raise_cancelled(ns_state *state);

#endif
