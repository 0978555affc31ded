/* sleepers.h: which threads sleep in an object of ours, and in which, for programs that look.
 *
 * Each thread slot (slots.h) has a record in static memory. A thread fills its record right before
 * it sleeps, in the slow path only, and empties it before it goes on. So no fast path pays, a wait
 * that sleeps pays two locks on a cache line that only it writes, and a looker disturbs nobody
 * else.
 *
 *     the thread that sleeps              the thread that looks
 *     ------------------------------      -----------------------------------------------
 *     lock; fill the record; unlock       lock
 *     sleep                               the thread sleeps: read the record, and what the
 *     lock; empty the record; unlock      layer above keeps alive while its thread sleeps
 *     go on                               unlock
 *
 * So as long as another thread has a record's lock, the thread of the record is in this very sleep:
 * it cannot go on. What it refers to lives, and its stack stands still. The thread that looks must
 * not wait meanwhile for anything that the sleeping thread could hold.
 *
 * `count` says whether two looks saw the same sleep: it differs for any two sleeps of one slot.
 *
 * A looker does not wait for a record's lock: ns_sleeper_try fails if it is taken. A signal
 * handler may have interrupted the thread that has it. And a thread that is attached to the
 * interpreter, and waits for one that has the lock and has to attach again, would hold up those
 * that stop all threads, while they hold up the other.
 *
 * A thread without a slot is not recorded. A record that was filled before a fork counts as empty.
 */
#ifndef NS_SLEEPERS_H
#define NS_SLEEPERS_H

#include "memory/slots.h"
#include "waiting/lock.h"

/* What a sleep is about. `self` and `thread` are the layer above's. */
typedef struct ns_sleep {
    const struct ns_wait_steps *steps; /* of the call; they name it and the holder */
    void *object;                      /* which `steps` are for */
    struct ns_waiter *waiter;
    bool linked; /* the waiter has a place, and learns by its state that it is served */
    void *self, *thread;
    int64_t interpreter; /* the number of the one to which `self` and `thread` belong */
    uint64_t ident; /* of the thread */
    int64_t since;  /* when the wait began, by ns_now() */
    int64_t deadline;
    bool cancellable; /* the wait is in a scope that can end it */
} ns_sleep;

typedef struct ns_sleeper {
    _Alignas(NS_CACHE_LINE) ns_lock lock;
    uint32_t generation; /* the fork generation in which the record was filled */
    uint64_t count;      /* of sleeps */
    bool asleep;
    ns_sleep sleep;
} ns_sleeper;

/* Around a sleep of the calling thread. */
void ns_sleeper_begin(const ns_sleep *sleep);
void ns_sleeper_end(void);

/* How many records there may be now; the slots of living threads are below it. */
uint32_t ns_sleepers(void);
/* Returns record i with its lock taken if its thread sleeps, else NULL. Does not wait: *busy is set
 * if another thread, or what a signal handler interrupted, has the lock. */
ns_sleeper *ns_sleeper_try(uint32_t i, bool *busy);
void ns_sleeper_release(ns_sleeper *s);

#endif
