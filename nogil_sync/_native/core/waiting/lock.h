/* lock.h: the small lock inside other structures, which survives fork.
 *
 * Held for a few hundred instructions at most, never across a call that can run Python or wait
 * for anything else. It may be taken attached to the interpreter or not. What programs hold is a
 * mutex (mutex.h); this guards a queue or a part of a table.
 *
 * The word holds the fork generation in which it was last taken:
 *
 *     generation << 2 | state        state: 0 free, 1 held, 2 held and a thread may sleep on it
 *
 * A word of an older generation belongs to threads that did not survive a fork. The thread that
 * finds one takes the lock by compare-and-swap, and learns of it by the result. If the lock was
 * held then, its holder is gone, and what the lock guards may be half-changed: its owner must put
 * that right, or start afresh. So forking needs no preparation, and no registry of live locks. A
 * zeroed word is a free lock.
 *
 * Ordering: taking is an acquire, releasing a release unless the caller wants more.
 */
#ifndef NS_LOCK_H
#define NS_LOCK_H

#include "waiting/park.h"

typedef struct ns_lock {
    _Atomic uint32_t word;
} ns_lock;

enum { NS_LOCK_FREE = 0, NS_LOCK_HELD = 1, NS_LOCK_CONTENDED = 2, NS_LOCK_STATE = 3 };
#define NS_LOCK_SHIFT 2

enum ns_locked {
    NS_LOCKED,           /* at the first attempt */
    NS_LOCKED_AFTER_ALL, /* another thread had it */
    NS_LOCKED_STALE,     /* last used before a fork, and free then */
    NS_LOCKED_ABANDONED, /* held at a fork by a thread that is gone */
    NS_LOCK_BUSY,        /* not taken (ns_lock_spin only) */
};

/* Takes the lock without sleeping: NS_LOCK_BUSY if it stayed taken for a while. Acquires. */
enum ns_locked ns_lock_spin(ns_lock *l);
/* Takes the lock, and sleeps if it must. Acquires. */
enum ns_locked ns_lock_take_slow(ns_lock *l);
void ns_lock_wake(ns_lock *l);

static inline enum ns_locked
ns_lock_take(ns_lock *l)
{
    uint32_t word = ns_fork_generation() << NS_LOCK_SHIFT;
    return ns_likely(ns_cas(&l->word, &word, word | NS_LOCK_HELD, NS_ACQUIRE))
               ? NS_LOCKED
               : ns_lock_take_slow(l);
}

/* Takes the lock. Fast path only: false if it is not free, or was last used before a fork.
 * Acquires. */
static inline bool
ns_lock_try(ns_lock *l)
{
    uint32_t word = ns_fork_generation() << NS_LOCK_SHIFT;
    return ns_cas(&l->word, &word, word | NS_LOCK_HELD, NS_ACQUIRE);
}

static inline void
ns_lock_release_as(ns_lock *l, ns_order order)
{
    uint32_t old = ns_swap(&l->word, ns_fork_generation() << NS_LOCK_SHIFT, order);
    if (ns_unlikely((old & NS_LOCK_STATE) == NS_LOCK_CONTENDED)) {
        ns_lock_wake(l);
    }
}

static inline void
ns_lock_release(ns_lock *l)
{
    ns_lock_release_as(l, NS_RELEASE);
}

/* Back-off of a thread that lost a race: pauses so often. Returns how often the next time. */
static inline unsigned
ns_pause_for(unsigned pauses)
{
    for (unsigned i = 0; i < pauses; i++) {
        ns_pause();
    }
    return pauses < 64 ? 2 * pauses : pauses;
}

/* Makes a held lock, which no other thread can see yet. */
static inline void
ns_lock_init_held(ns_lock *l)
{
    ns_store(&l->word, ns_fork_generation() << NS_LOCK_SHIFT | NS_LOCK_HELD, NS_RELAXED);
}

#endif
