#include "waiting/lock.h"

/* For so many pauses a thread looks whether the lock gets free, before it sleeps: a few
 * microseconds. Tests shrink it. */
#ifndef NS_LOCK_SPINS
#define NS_LOCK_SPINS 40
#endif

/* Takes the lock with the state `take` if it is free, or if its holder did not survive a fork;
 * else NS_LOCK_BUSY. *word is its value as last seen. */
static enum ns_locked
take_if_free(ns_lock *l, uint32_t *word, uint32_t take)
{
    const uint32_t stamp = ns_fork_generation() << NS_LOCK_SHIFT;
    for (;;) {
        bool stale = (*word & ~(uint32_t)NS_LOCK_STATE) != stamp;
        bool is_free = (*word & NS_LOCK_STATE) == NS_LOCK_FREE;
        if (!stale && !is_free) {
            return NS_LOCK_BUSY;
        }
        if (ns_cas(&l->word, word, stamp | take, NS_ACQUIRE)) {
            return !stale ? NS_LOCKED_AFTER_ALL : is_free ? NS_LOCKED_STALE : NS_LOCKED_ABANDONED;
        }
    }
}

enum ns_locked
ns_lock_spin(ns_lock *l)
{
    uint32_t word = ns_load(&l->word, NS_RELAXED);
    int paused = 0;
    unsigned pauses = 1;
    for (;;) {
        enum ns_locked how = take_if_free(l, &word, NS_LOCK_HELD);
        if (how != NS_LOCK_BUSY || paused >= NS_LOCK_SPINS) {
            return how;
        }
        /* Each look takes the cache line from the holder, which needs it to go on: look less often.
         * */
        paused += (int)pauses;
        pauses = ns_pause_for(pauses);
        word = ns_load(&l->word, NS_RELAXED);
    }
}

enum ns_locked
ns_lock_take_slow(ns_lock *l)
{
    const uint32_t contended = ns_fork_generation() << NS_LOCK_SHIFT | NS_LOCK_CONTENDED;
    enum ns_locked how = ns_lock_spin(l);
    while (how == NS_LOCK_BUSY) {
        /* Its holder was preempted. From here on take it as CONTENDED: others may sleep too. */
        uint32_t word = ns_load(&l->word, NS_RELAXED);
        how = take_if_free(l, &word, NS_LOCK_CONTENDED);
        if (how == NS_LOCK_BUSY &&
            (word == contended || ns_cas(&l->word, &word, contended, NS_RELAXED))) {
            ns_park(&l->word, contended, NS_FOREVER);
        }
    }
    return how;
}

void
ns_lock_wake(ns_lock *l)
{
    ns_unpark(&l->word, 1);
}
