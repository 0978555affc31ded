/* mutex.h: a mutual exclusion lock that stays fast when many threads want it.
 *
 * Overview
 *   What makes a contended lock slow is its travel between cores. Each change of owner moves the
 *   lock's and the data's cache lines to another core (about 200 ns). If the new owner sleeps, a
 *   wake-up costs 30 us and more on a virtual machine. So the lock stays with the running thread as
 *   long as fairness allows, and the next owner is awake before it is needed:
 *     - Barging: a running thread may take a free lock ahead of the waiters.
 *     - A thread that fails to take the lock queues and sleeps at once, so it disturbs nobody.
 *     - Exactly one waiter, the *heir*, is awake. It polls the lock at intervals and takes it if it
 *       is idle. After a short patience it asks for a hand-off: the next release then passes the
 *       lock to it directly, and the lock is never free in between. Idle means free for half a
 *       microsecond without a break. A thread that uses the lock in a loop leaves it free half of
 *       the time; taking it then would change the owner every few operations (measured: a quarter
 *       of the throughput).
 *     - The thread that hands the lock off also wakes the next heir, after the new owner has the
 *       lock.
 *     - If holders keep the lock for long (they sleep in it, say), an awake heir wastes a core. The
 *       lock estimates that from its waiters: `slowness` grows by two with each wait of 50 us or
 *       more until a release, and shrinks by one with each shorter wait. While it is high, no
 *       waiter stays awake: the first in line sleeps at once, is woken by the next release, and
 *       takes the lock if it is still free. Those sleeps are measured too, so the lock notices when
 *       its holders become brief. Besides, at most half of the processors spin at a time, over all
 *       objects (grant.h).
 *   A waiter that has waited for 1 ms or more is next. If it sleeps, the release that finds it
 *   hands it the lock; if it is the heir, it demands the lock at once. Other threads may barge only
 *   while a chosen heir is still waking up. Waiters are served first come, first served. So no
 *   thread starves, and under full contention the owner changes about once per wake-up latency
 *   instead of once per operation.
 *   The ideas are those of Go's sync.Mutex (starvation after 1 ms), of WebKit's ParkingLot (barging
 *   with eventual fairness) and of Dice's "Malthusian locks" (few awake contenders).
 *
 * States of the word
 *
 *     VISIT QUEUED LOCKED
 *       0      0      0     free
 *       0      0      1     held, no waiters
 *       0      1      0     free; the heir is awake and will find it
 *       0      1      1     held; the heir is awake and does not demand it: a release takes
 *                           the fast path
 *       1      1      1     held; the release must visit the queue: the heir demands the
 *                           lock, or there is no heir because all waiters sleep
 *       1      1      0     free for a moment, between two steps of a barging thread or of
 *                           the heir; the next holder's release visits the queue
 *   So a mutex of zero bytes is a free one.
 *
 * Invariant W (no lost wake-up). Whenever the queue's lock is free: if a node is linked and not
 * away, then either there is an heir (awake, polling or about to poll), or VISIT and LOCKED are
 * both set, so that a release is still to come and will choose an heir. Each step keeps it:
 *   - A new waiter becomes the heir if it is the first in line. If it is not, and there is no heir,
 *     W held before and so holds for it: it sleeps, and never overtakes a sleeper.
 *   - An heir that goes to sleep, and a first in line that sleeps at once because the lock is slow,
 *     sets VISIT by a read-modify-write, and stays awake if that shows LOCKED clear. All
 *     read-modify-writes on the word have one order: either the release sees VISIT, or the heir
 *     sees the lock free.
 *   - A release that hands off chooses the next heir or, if the lock is slow, stores VISIT together
 *     with LOCKED.
 *   - An heir that takes the lock unlinks itself and, if there are other waiters, sets VISIT by a
 *     read-modify-write. If that shows LOCKED clear, another thread has released the lock already
 *     (any thread may), and the former heir chooses the next one.
 *   - An heir that leaves (time-out, signal) makes the next in line the heir.
 *   - A waiter that is called (grant.h) cannot poll, and is never the heir. The release that finds
 *     it first in line, and no heir, hands it the lock. Wherever a step above would make it the
 *     heir, the step sets VISIT by a read-modify-write. If that shows LOCKED set, a release is
 *     still to come. If not, it takes the lock for the waiter, and hands it over. If another thread
 *     is faster at that, it took the lock with VISIT set, so its release is to come. A step that
 *     hands the lock off stores VISIT together with LOCKED if the next in line is called. So does
 *     a waiter that is called when it enters: if it is first in line, it sets VISIT, and may get
 *     the lock at once. Behind others it relies on W, as any waiter. An heir in line before it is
 *     awake, and takes the lock or leaves.
 *
 * Ordering. Taking the lock is an acquire, either by the compare-and-swap on the word or by the
 * load of GRANTED from the node's state. Freeing it is a release on the same location. A
 * read-modify-write by a waiter in between keeps the release sequence intact. VISIT and QUEUED
 * carry no data: the queue has its own lock. The mutants that weaken either side die in
 * tests/c/test_mutex.c under the thread sanitizer.
 *
 * Fork. LOCKED belongs to the program and survives. The first thread of the child that locks the
 * stale queue resets the other bits, the heir and the queue. A fast path never depends on them.
 *
 * Any thread may release. A release of a free lock is reported and changes nothing. Racing releases
 * are put in order: a slow release first sets VISIT, which sends all others to the queue's lock,
 * and checks that LOCKED was still set.
 */
#ifndef NS_MUTEX_H
#define NS_MUTEX_H

#include "waiting/wait.h"

#define NS_MUTEX_LOCKED 1u
#define NS_MUTEX_QUEUED 2u
#define NS_MUTEX_VISIT 4u

typedef struct ns_mutex {
    _Atomic uint32_t word;
    ns_waitq queue;
    /* The awake waiter, or NULL. Read and written under the queue's lock. */
    ns_waiter *heir;
    /* When the lock last lost its heir, in units of 1024 ns. Under the queue's lock. */
    uint32_t heirless_since;
    /* An estimate of how long holders keep the lock. Waiters and releases write it; lost updates
     * do no harm. */
    _Atomic uint32_t slowness;
} ns_mutex;

/* Takes the lock if it is free. Returns whether it did; on success an acquire. May barge. */
static inline bool
ns_mutex_try_lock(ns_mutex *m)
{
    uint32_t word = ns_load(&m->word, NS_RELAXED);
    while (!(word & NS_MUTEX_LOCKED)) {
        if (ns_cas(&m->word, &word, word | NS_MUTEX_LOCKED, NS_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

bool ns_mutex_unlock_slow(ns_mutex *m);

/* Releases the lock; a release. Returns false if it was not held. Any thread may call it. */
static inline bool
ns_mutex_unlock(ns_mutex *m)
{
    uint32_t word = ns_load(&m->word, NS_RELAXED);
    while (word & NS_MUTEX_LOCKED) {
        if (ns_unlikely(word & NS_MUTEX_VISIT)) {
            return ns_mutex_unlock_slow(m);
        }
        if (ns_cas(&m->word, &word, word & ~NS_MUTEX_LOCKED, NS_RELEASE)) {
            return true;
        }
    }
    return false;
}

static inline bool
ns_mutex_is_locked(ns_mutex *m)
{
    return ns_load(&m->word, NS_RELAXED) & NS_MUTEX_LOCKED;
}

/* The steps of a wait for the lock (wait.h), to be used after ns_mutex_try_lock failed. */
extern const struct ns_wait_steps ns_mutex_steps;

/* Frees the lock, held or not. For the child of a fork, whose other threads are gone. */
void ns_mutex_reset(ns_mutex *m);

#endif
