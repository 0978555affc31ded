/* mutex.h: a mutual exclusion lock that stays fast when many threads want it.
 *
 * Overview
 *   What makes a contended lock slow is not the lock but its travelling: each change of owner
 *   moves the lock's and the data's cache lines to another core (about 200 ns), and if the new
 *   owner sleeps, a wake-up costs 30 us and more on a virtual machine. So the lock
 *   is left with the running thread as long as fairness allows, and the next owner is
 *   awake before it is needed:
 *     - barging: a running thread may take a free lock past the waiters;
 *     - losers queue and sleep at once, so they disturb nobody;
 *     - exactly one waiter, the *heir*, is awake. It looks now and then, takes the
 *       lock if it is idle, and after a short patience asks to be handed it: the next
 *       release then passes the lock to it in place, without it ever being free.
 *       Idle means free for half a microsecond on end: a thread that uses the lock in a loop
 *       leaves it free half of the time, and taking it then would be a change of owner
 *       every few operations (measured: a quarter of the throughput);
 *     - the thread that hands over also wakes the next heir, off the new owner's path;
 *     - where holders keep the lock for long (they sleep in it, say) waiting awake is a waste. The lock
 *       estimates that by what waiters find: `slowness` grows by two with each wait of 50 us or more
 *       until a release, and shrinks by one with each shorter wait. While it is high nobody waits awake: the
 *       first in line sleeps at once, is woken by the next release, and takes the lock if it is still
 *       free. Those sleeps are measured, too, so the lock notices when its holders become brief. Besides, at
 *       most half of the processors spin at a time, over all objects (grant.h).
 *   A waiter of 1 ms or more is next: asleep, it is handed the lock by the release that finds it;
 *   as heir it demands the lock at once. Only while a chosen heir is still waking up may
 *   others barge. Waiters are served first come, first served; so no thread starves, and under full
 *   contention the owner changes about once per wake-up latency instead of once per operation.
 *   The ideas are those of Go's sync.Mutex (starvation after 1 ms), of WebKit's ParkingLot
 *   (barging with eventual fairness) and of Dice's "Malthusian locks" (few awake contenders).
 *
 * States of the word
 *
 *     VISIT QUEUED LOCKED
 *       0      0      0     free
 *       0      0      1     held, nobody waits
 *       0      1      0     free, the heir is awake and will find it
 *       0      1      1     held, the heir is awake and patient: a release need not look
 *       1      1      1     held, the release must visit the queue: the heir asks for the
 *                           lock, or there is no heir, as all waiters sleep
 *       1      1      0     free for the moment between a barger's or heir's steps; the next
 *                           holder's release visits
 *   So a mutex of zero bytes is a free one.
 *
 * Invariant W (no lost wake-up), whenever the queue's lock is free: if a node is linked and
 * not away, then either there is an heir (awake, looking or about to), or VISIT is set and
 * LOCKED is set, so that a release is still to come and will choose one.
 *   - a newcomer is the heir if it is the first in line. If it is not, and there is no heir, W held
 *     before and so holds for it: it sleeps, and never overtakes a sleeper;
 *   - an heir that goes to sleep, and a first in line that sleeps at once because the lock is slow,
 *     sets VISIT by a read-modify-write and stays awake if that shows LOCKED clear. The order of
 *     read-modify-writes on the one word decides: either the release sees VISIT, or the heir sees
 *     the lock free;
 *   - a release that hands over chooses the next heir, or, if the lock is slow, stores VISIT with LOCKED;
 *   - an heir that takes the lock unlinks itself and, if others wait, sets VISIT in the same way:
 *     should somebody have released the lock already (any thread may), it appoints the next;
 *   - an heir that leaves (time-out, signal) passes the office to the next in line.
 *
 * Ordering. Taking the lock is an acquire, whether by compare-and-swap on the word or by
 * reading GRANTED in the node's state; freeing it is a release on the same location. A
 * read-modify-write by a waiter in between keeps the release sequence intact. VISIT and QUEUED
 * carry no data: the queue has its own lock. Weakening either side is caught by the
 * mutant runs of tests/c/test_mutex.c under thread sanitizer.
 *
 * Fork. LOCKED belongs to the program and survives. Whoever finds the queue stale resets the
 * other bits, the heir and the queue. A fast path never depends on them.
 *
 * Any thread may release. Releasing what is not held is reported and changes nothing. Releases that
 * race each other are taken in some order: a slow one first sets VISIT, which sends all others
 * to the queue's lock, and looks whether LOCKED was still there.
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
    ns_waiter *heir;           /* under the queue's lock; so are */
    uint32_t asked;            /* since when there is no heir: units of 1024 ns */
    _Atomic uint32_t
        slowness; /* whether holders are slow, by what waiters found; a guess, by anyone */
} ns_mutex;

/* Takes the lock if it is free. */
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

/* False if it was not held. */
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

/* How to wait for it (wait.h), after ns_mutex_try_lock failed. */
extern const struct ns_wait_steps ns_mutex_steps;

/* Frees it whether it is held or not; for the child of a fork, whose threads are gone. */
void ns_mutex_reset(ns_mutex *m);

#endif
