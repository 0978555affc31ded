/* grant.h: the waiter, and how it learns that it was served.
 *
 * For objects whose waiters are either served or not (the mutex has finer states). The object
 * decides under its queue's lock which waiter is served, and what that means for its own words.
 * The *grant* is how the waiter learns of it: through a word of its own, its state.
 *
 * A waiter's state:
 *
 *     WAITING -> ASLEEP              by its own thread, before it sleeps on the word
 *     WAITING, ASLEEP -> CANCELLED   by any thread: ns_waiter_cancel
 *     any but GRANTED -> GRANTED     by the server, under the queue's lock
 *     GRANTED -> WAITING             by its own thread, under the queue's lock, when it gives way
 *     CALLED -> GRANTED              by the server: a waiter without a thread, see below
 *     GRANTED -> KEPT -> FREED       its memory is on loan to the object, see ns_waiter_lend
 *
 * Ordering: GRANTED is stored with release and read with acquire, so what happened before the
 * serving happens before what the served thread does next. So is CANCELLED, for what the canceller
 * did before.
 *
 * Lifetime: the moment GRANTED is visible the waiter may return and free itself. So the server
 * unlinks its place first, and for the wake-up keeps only the address of its word, which is no
 * more than a name to ns_unpark. Wake-ups are gathered and made after the queue is unlocked, or in
 * batches under its lock if there are many; one that is asleep costs a system call, one that still
 * spins none.
 *
 * Cancellation is a request to wake, and decides nothing. The thread that finds itself CANCELLED
 * takes the `cancel` step of its wait, which finds out under the queue's lock whether the waiter
 * was served first. Until then it is in line, and may be served: GRANTED takes the place of
 * CANCELLED. So a server need not ask whether a waiter is cancelled. A request that meets a GRANTED
 * waiter changes nothing. If that waiter then gives way, and waits again, the request is lost. So
 * the layer above looks after each `rejoin` whether the wait is cancelled. The canceller must know
 * that the waiter lives: it holds a lock of the layer above, which each waiter takes before it is
 * freed.
 *
 * A waiter without a thread (a task of an event loop) is CALLED. The layer above stores that before
 * `enter`. ns_grant links such a waiter into a list. ns_wake, which runs with no lock of ours held,
 * passes the list to ns_call_waiters. It never sleeps or spins: of the steps of its wait only
 * `enter`, `cancel` and `undo` are taken. `enter` may serve it at once; it is not called then. Once
 * it is served its memory is the server's, until ns_call_waiters has been called with it: so if
 * `cancel` finds that it was served, its owner may `undo`, but must not free it before that.
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
    NS_WAS_CANCELLED, /* ns_waiter_cancel was called; the waiter is still in line */
};

enum { NS_WAITING, NS_ASLEEP, NS_GRANTED, NS_CANCELLED, NS_CALLED, NS_KEPT, NS_FREED };

/* One call that waits: see "Lifetime" in wait.h. Except for `state` all of it is its own thread's,
 * and for `since`, `impatient` and `place` that of the thread with the queue's lock. */
typedef struct ns_waiter {
    _Atomic uint32_t state; /* the word slept on; of a mutex or a word, with states of their own */
    bool impatient; /* mutex: asks to be handed the lock by the next release */
    int64_t since; /* mutex: when it began to wait, by ns_now() */
    int64_t heir_since; /* mutex: when it last became heir */
    uint64_t tag; /* of its thread (thread_tag.h), where the lock notes its holder; 0 if
                   * it is called */
    ns_place place;
    struct ns_selector *selector; /* that it is part of (select.h), or NULL */
    struct ns_waiter *next_called; /* the server's, once it is served and was CALLED */
    void *owner; /* of a waiter that is called: the layer above's */
    /* While its thread runs handlers, see ns_make_way in detach.h: */
    struct ns_waiter *outer; /* the wait that this one interrupted */
    const struct ns_wait_steps *steps;
} ns_waiter;

/* A waiter of zero bytes, or NULL when there is no memory. */
ns_waiter *ns_waiter_new(void);
/* Frees w, or leaves that to the object that it is lent to. */
void ns_waiter_free(ns_waiter *w);

/* Lends the memory of w, which was served, to an object. It is freed once its owner has called
 * ns_waiter_free, and the object ns_waiter_return. So to give something back needs no memory of its
 * own, and cannot fail. */
void ns_waiter_lend(ns_waiter *w);
void ns_waiter_return(ns_waiter *w);

#ifndef NS_WAKES /* tests shrink it */
#define NS_WAKES 16
#endif

/* Wake-ups to be made, and what else has to wait until no lock is held; begins with
 * ns_wakes_init. */
typedef struct ns_wakes {
    unsigned count;
    ns_waiter *called,
        *last_called; /* those to be called, in the order in which they were served */
    ns_place *lent; /* places of waiters to be returned, linked by next */
    const void *words[NS_WAKES];
} ns_wakes;

static inline void
ns_wakes_init(ns_wakes *wakes)
{
    wakes->count = 0;
    wakes->called = NULL;
    wakes->lent = NULL;
}

/* Called by ns_wake with waiters that were CALLED and are served, linked by next_called, with no
 * lock of the core held. The layer above sets it before the first of them enters. */
extern void (*ns_call_waiters)(ns_waiter *served);

/* Unlinks p from q and tells its waiter that it is served. Releases. The caller holds q's lock, and
 * has done what the serving means; it must make the wake-ups. */
void ns_grant(ns_waitq *q, ns_place *p, ns_wakes *wakes);
/* Makes the wake-ups gathered so far. The caller holds no lock. */
void ns_wake(ns_wakes *wakes);
/* Has w called by ns_wake. The caller has just served it. */
void ns_wakes_call(ns_wakes *wakes, ns_waiter *w);

/* Asks the thread of w, which waits by ns_await_grant, to give up. Releases. False if it is served,
 * or was asked before. The caller knows that w lives. */
bool ns_waiter_cancel(ns_waiter *w);

/* Whether w was served. Acquires. The answer is final for a caller that holds the queue's lock. */
static inline bool
ns_is_granted(ns_waiter *w)
{
    return ns_load(&w->state, NS_ACQUIRE) == NS_GRANTED;
}

/* Around the part of `enter` in which w can be served at once: a CALLED waiter is not called then.
 * ns_end_entering returns whether w was served. The caller holds the queue's lock. */
static inline bool
ns_begin_entering(ns_waiter *w)
{
    bool is_called = ns_load(&w->state, NS_RELAXED) == NS_CALLED;
    if (is_called) {
        ns_store(&w->state, NS_WAITING, NS_RELAXED);
    }
    return is_called;
}

static inline bool
ns_end_entering(ns_waiter *w, bool is_called)
{
    bool served = ns_is_granted(w);
    if (is_called && !served) {
        ns_store(&w->state, NS_CALLED, NS_RELAXED);
    }
    return served;
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
