/* grant.h: serving waiters of a queue one by one, each through a word of its own.
 *
 * For objects whose waiters are either served or not (the mutex has finer states). The object
 * decides under its queue's lock who is served, and what that means for its own words; here is
 * how the waiter learns of it.
 *
 * A node's state:  WAITING -> ASLEEP      by its own thread, before it sleeps on the word
 *                  WAITING, ASLEEP -> GRANTED   by the server, under the queue's lock; final
 *
 * Ordering: GRANTED is stored with release and read with acquire, so what happened before the serving
 * happens before what the served thread does next.
 *
 * Lifetime: the moment GRANTED is visible the waiter may return and free its node. So the server
 * unlinks it first, and keeps only the address of its word, a mere name to ns_unpark, for
 * the wake-up. Wake-ups are gathered and made after the queue is unlocked, or in batches under
 * its lock if there are many; one that is asleep costs a system call, one that still spins none.
 *
 * Spinning: a waiter that expects to be served soon looks at its word for some microseconds
 * before it sleeps, since a wake-up costs 30 µs and more on virtual machines. At most half of the
 * processors spin at a time, over all objects; others sleep at once.
 *
 * Turns at spinning. There is one turn for each pair of processors, on a cache line of its own. A
 * thread spins only while it holds one. So the bound needs no count that each wait would write: a
 * thread tries its home turn and one other, and no more. Homes are given out in rotation, so as
 * many threads as there are turns have different homes, and each finds its turn on its own line.
 * A thread that finds both taken sleeps, although a third may be free.
 *
 * A turn's word:  the fork generation + 1 in which it was taken; 0 or that of a parent: free
 *
 *   So a turn of a parent's thread is free in the child, without a visit. It is taken by a
 *   compare-and-swap and given back by a store. Both are relaxed: a turn guards no data.
 */
#ifndef NS_GRANT_H
#define NS_GRANT_H

#include "waiting/wait.h"

enum { NS_WAITING, NS_ASLEEP, NS_GRANTED };

#ifndef NS_WAKES /* tests shrink it */
#define NS_WAKES 16
#endif

typedef struct ns_wakes {
    unsigned count;
    const void *words[NS_WAKES];
} ns_wakes;

/* Unlinks w and tells it that it is served. With q locked. */
void ns_grant(ns_waitq *q, ns_waiter *w, ns_wakes *wakes);
/* Makes the wake-ups gathered so far; best after the queue is unlocked. */
void ns_wake(ns_wakes *wakes);

static inline bool
ns_is_granted(ns_waiter *w)
{
    return ns_load(&w->state, NS_ACQUIRE) == NS_GRANTED;
}

/* The `wait` step: spins for up to `spin` nanoseconds, then sleeps. */
enum ns_wait_result ns_await_grant(ns_waiter *w, int64_t deadline, int64_t spin);

/* Takes a turn at spinning. False: too many threads spin, there is one processor only, or this
 * thread holds a turn already. */
bool ns_spin_begin(void);
/* Gives back this thread's turn. */
void ns_spin_end(void);
/* How many turns are taken; for tests. */
unsigned ns_spinners(void);

#endif
