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
 *   All higher bits of a held word are the tag of its holder (thread_tag.h). They are zero in a
 *   free word, and while a waiter holds the lock that has no thread. The store that takes or hands
 *   over the lock writes them, so they cost no access. Nothing depends on them but `foreign`: a
 *   release takes the fast path if it finds its own tag, and a release by another thread is noted,
 *   because the holder of such a lock is not the one that will release it. (The tag of a thread
 *   that ended while it held the lock may come again.)
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

#include "waiting/thread_tag.h"
#include "waiting/wait.h"

#define NS_MUTEX_LOCKED UINT64_C(1)
#define NS_MUTEX_QUEUED UINT64_C(2)
#define NS_MUTEX_VISIT UINT64_C(4)
#define NS_MUTEX_FLAGS UINT64_C(7)

typedef struct ns_mutex {
    _Atomic uint64_t word;
    ns_waitq queue;
    /* The awake waiter, or NULL. Read and written under the queue's lock. */
    ns_waiter *heir;
    /* When the lock last lost its heir, in units of 1024 ns. Under the queue's lock. */
    uint32_t heirless_since;
    /* An estimate of how long holders keep the lock. Waiters and releases write it; lost updates
     * do no harm. */
    _Atomic uint16_t slowness;
    /* Whether a thread other than the holder has ever released the lock. Any thread may set it. */
    _Atomic bool foreign;
} ns_mutex;

/* Takes the lock if it is free, for the thread of this tag. Returns whether it did; on success an
 * acquire. May barge. */
static inline bool
ns_mutex_try_lock_for(ns_mutex *m, uint64_t tag)
{
    const uint64_t mine = tag | NS_MUTEX_LOCKED;
    uint64_t word = ns_load(&m->word, NS_RELAXED);
    if (ns_likely(word == 0) && ns_likely(ns_cas(&m->word, &word, mine, NS_ACQUIRE))) {
        return true;
    }
    while (!(word & NS_MUTEX_LOCKED)) {
        if (ns_cas(&m->word, &word, word | mine, NS_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

/* The same for the calling thread. */
static inline bool
ns_mutex_try_lock(ns_mutex *m)
{
    return ns_mutex_try_lock_for(m, ns_thread_tag());
}

bool ns_mutex_unlock_slow(ns_mutex *m);

/* Releases the lock; a release. Returns false if it was not held. Any thread may call it. */
static inline bool
ns_mutex_unlock(ns_mutex *m)
{
    const uint64_t mine = ns_thread_tag() | NS_MUTEX_LOCKED;
    uint64_t word = ns_load(&m->word, NS_RELAXED);
    if (ns_likely(word == mine) && ns_likely(ns_cas(&m->word, &word, 0, NS_RELEASE))) {
        return true;
    }
    while (word == (mine | NS_MUTEX_QUEUED)) { /* the heir is awake, and finds it */
        if (ns_cas(&m->word, &word, NS_MUTEX_QUEUED, NS_RELEASE)) {
            return true;
        }
    }
    return ns_mutex_unlock_slow(m);
}

static inline bool
ns_mutex_is_locked(ns_mutex *m)
{
    return ns_load(&m->word, NS_RELAXED) & NS_MUTEX_LOCKED;
}

/* The tag of the thread that holds the lock; 0 if it is free, or held by what has no thread. */
static inline uint64_t
ns_mutex_holder(ns_mutex *m)
{
    return ns_load(&m->word, NS_RELAXED) & ~NS_MUTEX_FLAGS;
}

/* Whether a thread other than the holder has ever released the lock. */
static inline bool
ns_mutex_is_foreign(ns_mutex *m)
{
    return ns_load(&m->foreign, NS_RELAXED);
}

/* How many wait. Takes the queue's lock. */
size_t ns_mutex_waiters(ns_mutex *m);

/* The steps of a wait for the lock (wait.h), to be used after ns_mutex_try_lock failed. */
extern const struct ns_wait_steps ns_mutex_steps;
/* The same with another name, for the reentrant lock. */
extern const struct ns_wait_steps ns_rlock_steps;

/* Frees the lock, held or not. For the child of a fork, whose other threads are gone. */
void ns_mutex_reset(ns_mutex *m);

#endif
