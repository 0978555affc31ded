/* grant.h: the waiter, and how it learns that it was served.
 *
 * For objects whose waiters are either served or not (the mutex has finer states). The object
 * decides under its queue's lock which waiter is served, and what that means for its own words.
 * The *grant* is how the waiter learns of it: through a word of its own, its state.
 *
 * A waiter's state:
 *
 *     WAITING -> ASLEEP            by its own thread, before it sleeps on the word
 *     WAITING, ASLEEP -> GRANTED   by the server, under the queue's lock
 *     GRANTED -> WAITING           by its own thread, under the queue's lock, when it gives way
 *
 * Ordering: GRANTED is stored with release and read with acquire, so what happened before the
 * serving happens before what the served thread does next.
 *
 * Lifetime: the moment GRANTED is visible the waiter may return and free itself. So the server
 * unlinks its place first, and for the wake-up keeps only the address of its word, which is no
 * more than a name to ns_unpark. Wake-ups are gathered and made after the queue is unlocked, or in
 * batches under its lock if there are many; one that is asleep costs a system call, one that still
 * spins none.
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

#include "waiting/waitq.h"

/* How a sleep ended. */
enum ns_wait_result {
    NS_SERVED,      /* the waiter has what it waited for, and is unlinked */
    NS_TIMED_OUT,   /* the deadline passed; the waiter is still in line */
    NS_INTERRUPTED, /* a signal came; the waiter is still in line */
};

enum { NS_WAITING, NS_ASLEEP, NS_GRANTED };

/* One call that waits: see "Lifetime" in wait.h. Except for `state` all of it is its own thread's,
 * and for `since`, `impatient` and `place` that of the thread with the queue's lock. */
typedef struct ns_waiter {
    _Atomic uint32_t state; /* the word slept on; of a mutex or a word, with states of their own */
    bool impatient; /* mutex: asks to be handed the lock by the next release */
    int64_t since; /* mutex: when it began to wait, by ns_now() */
    int64_t heir_since; /* mutex: when it last became heir */
    ns_place place;
    /* While its thread runs handlers, see ns_make_way in detach.h: */
    struct ns_waiter *outer; /* the wait that this one interrupted */
    const struct ns_wait_steps *steps;
} ns_waiter;

/* A waiter of zero bytes, or NULL when there is no memory. */
ns_waiter *ns_waiter_new(void);
void ns_waiter_free(ns_waiter *w);

#ifndef NS_WAKES /* tests shrink it */
#define NS_WAKES 16
#endif

/* Wake-ups to be made. It begins with a count of 0; the words need no initializing. */
typedef struct ns_wakes {
    unsigned count;
    const void *words[NS_WAKES];
} ns_wakes;

/* Unlinks p from q and tells its waiter that it is served. Releases. The caller holds q's lock, and
 * has done what the serving means; it must make the wake-ups. */
void ns_grant(ns_waitq *q, ns_place *p, ns_wakes *wakes);
/* Makes the wake-ups gathered so far; best after the queue is unlocked. */
void ns_wake(ns_wakes *wakes);

/* Whether w was served. Acquires. The answer is final for a caller that holds the queue's lock. */
static inline bool
ns_is_granted(ns_waiter *w)
{
    return ns_load(&w->state, NS_ACQUIRE) == NS_GRANTED;
}

/* Spins for up to `spin` nanoseconds, then sleeps, until w is served. Acquires if it was. The
 * caller is w's own thread, and holds no lock. */
enum ns_wait_result ns_await_grant(ns_waiter *w, int64_t deadline, int64_t spin);

/* Takes a turn at spinning. False: too many threads spin, there is one processor only, or this
 * thread holds a turn already. */
bool ns_spin_begin(void);
/* Gives back this thread's turn. */
void ns_spin_end(void);
/* How many turns are taken; for tests. */
unsigned ns_spinners(void);

#endif
