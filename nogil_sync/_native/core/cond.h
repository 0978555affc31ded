/* cond.h: the waiters of a condition variable, their order, and notification.
 *
 * The lock belongs to the layer above, and may be any object. A waiter is linked before its
 * thread lets go of the lock, and unlinked by a notification or when it gives up. So no
 * notification that comes after the lock is free can miss it (the tickets of Go's notifyList), and
 * each reaches a thread that waited when it was given, first come first served.
 *
 * A waiter that runs a handler keeps its place and stays eligible. If its call then fails, or is
 * interrupted in the very moment it is notified, `undo` passes the notification on to the next.
 *
 * Ordering: that of the lock, whose holders do all of this; `occupied` is read under it, too.
 * Should a program notify through a lock that excludes nobody, a notification may miss a thread
 * that is just about to wait, and nothing worse.
 *
 * Fork: the thread that finds the queue stale empties it. `occupied` may be true until then.
 */
#ifndef NS_COND_H
#define NS_COND_H

#include "waiting/wait.h"

typedef struct ns_cond {
    ns_waitq queue;
    _Atomic bool occupied; /* whether any waiter is linked; written under the queue's lock */
} ns_cond;

/* Queues w up. The caller holds the user's lock, and releases it afterwards. `enter` of the steps
 * then only looks whether w was notified. */
void ns_cond_link(ns_cond *c, ns_waiter *w);

/* Serves the first `n` waiters, or all of them if there are fewer. Releases, to those served. The
 * caller holds the user's lock. */
void ns_cond_notify_slow(ns_cond *c, uint64_t n);
static inline void
ns_cond_notify(ns_cond *c, uint64_t n)
{
    if (ns_load(&c->occupied, NS_RELAXED)) {
        ns_cond_notify_slow(c, n);
    }
}

/* How many wait. Takes as long as there are waiters. */
uint32_t ns_cond_waiting(ns_cond *c);

/* How to wait for a notification (wait.h), after ns_cond_link. */
extern const struct ns_wait_steps ns_cond_steps;

#endif
