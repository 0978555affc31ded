/* cond.h: the waiting room of a condition variable: who waits, in which order, and notification.
 *
 * The lock belongs to the layer above, and may be any object. A waiter is linked before its
 * thread lets go of the lock and unlinked by a notification or its own departure, so no
 * notification that comes after the lock is free can miss it (the tickets of Go's notifyList), and each reaches
 * a thread that waited when it was given, first come first served.
 *
 * A waiter that runs a handler keeps its place and stays eligible. If its call then fails, or is
 * interrupted in the very moment it is notified, `undo` passes the notification on to the next.
 *
 * Ordering: that of the lock, whose holders do all of this; `waiting` is read under it, too. Should a
 * program notify through a lock that excludes nobody, a notification may miss a thread that is just
 * about to wait, and nothing worse.
 *
 * Fork: whoever finds the queue stale empties it.
 */
#ifndef NS_COND_H
#define NS_COND_H

#include "waiting/grant.h"

typedef struct ns_cond {
    ns_waitq queue;
    _Atomic uint32_t waiting; /* how many are linked; written under the queue's lock */
} ns_cond;

/* Lines up, before the lock is released. `enter` of the steps then only looks. */
void ns_cond_link(ns_cond *c, ns_waiter *w);

/* Serves the first `n`. */
void ns_cond_notify_slow(ns_cond *c, uint64_t n);
static inline void
ns_cond_notify(ns_cond *c, uint64_t n)
{
    if (ns_load(&c->waiting, NS_RELAXED) != 0) {
        ns_cond_notify_slow(c, n);
    }
}

/* How many wait. */
uint32_t ns_cond_waiting(ns_cond *c);

extern const struct ns_wait_steps ns_cond_steps;

#endif
