#include "lock.h"

#define SPINS 40

enum ns_locked
ns_lock_take_slow(ns_lock *l)
{
    const uint32_t stamp = ns_fork_generation() << NS_LOCK_SHIFT;
    uint32_t word = ns_load(&l->word, NS_RELAXED);
    uint32_t take = NS_LOCK_HELD;
    for (int spins = 0;;) {
        bool stale = (word & ~(uint32_t)NS_LOCK_STATE) != stamp;
        bool is_free = (word & NS_LOCK_STATE) == NS_LOCK_FREE;
        if (stale || is_free) {
            if (ns_cas(&l->word, &word, stamp | take, NS_ACQUIRE)) {
                return !stale    ? NS_LOCKED_AFTER_ALL
                       : is_free ? NS_LOCKED_STALE
                                 : NS_LOCKED_ABANDONED;
            }
            continue;
        }
        if (spins++ < SPINS) {
            ns_pause();
            word = ns_load(&l->word, NS_RELAXED);
            continue;
        }
        /* Its holder was preempted. From here on take it as CONTENDED: others may sleep too. */
        take = NS_LOCK_CONTENDED;
        if ((word & NS_LOCK_STATE) == NS_LOCK_CONTENDED ||
            ns_cas(&l->word, &word, stamp | NS_LOCK_CONTENDED, NS_RELAXED)) {
            ns_park(&l->word, stamp | NS_LOCK_CONTENDED, NS_FOREVER);
        }
        word = ns_load(&l->word, NS_RELAXED);
    }
}

void
ns_lock_wake(ns_lock *l)
{
    ns_unpark(&l->word, 1);
}
