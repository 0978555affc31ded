/* semaphore.h: a weighted semaphore that serves strictly first come, first served.
 *
 * The contract is that of Go's golang.org/x/sync/semaphore: a request for n waits until n are
 * available and all requests before it are served, so a large one is never overtaken.
 *
 * `total` bounds what can be available: a release beyond it is refused. A bounded semaphore starts
 * with all of it, so no more can be given back than was taken. An unbounded one starts below it, at
 * `start`, and has NS_SEMAPHORE_MAX for its total. A request for more than the total waits until
 * its time is up.
 *
 * The word:   available << 1 | QUEUED
 *
 *     QUEUED
 *       0    no waiter is in the queue: acquire and release are one compare-and-swap
 *       1    some waiter is: the word changes under the queue's lock only
 *
 * A semaphore of zero bytes has no units and takes none back, until ns_semaphore_init.
 *
 * Invariant, whenever the queue's lock is free: the first waiter that is not away wants more than
 * is available. Every step that could break it (a release, a time-out, a waiter that gives way)
 * ends in `serve`, which restores it. A waiter is away only if a handler that interrupted it uses
 * the semaphore; otherwise it is served, and keeps others waiting, as if it slept.
 *
 * Why no fetch-and-add. A failed request that subtracts and then undoes it would hide units that
 * are released meanwhile: a try after such a release could fail although a unit is there. A release
 * beyond the total that adds and then undoes it would let another thread take more than there are.
 * So both are compare-and-swaps, with back-off (backoff.h).
 *
 * Ordering: acquire takes and release frees with the orderings of their names; with waiters the
 * queue's lock and the waiter's state carry them.
 *
 * Fork: what was taken stays taken. The thread that finds the queue stale resets QUEUED.
 *
 * Waiting: in line (wait.h). A waiter's amount is the number of units that it asks for.
 */
#ifndef NS_SEMAPHORE_H
#define NS_SEMAPHORE_H

#include "waiting/wait.h"

#define NS_SEMAPHORE_QUEUED 1u
#define NS_SEMAPHORE_ONE 2u
#define NS_SEMAPHORE_MAX (INT64_MAX >> 1)

typedef struct ns_semaphore {
    _Atomic uint64_t word;
    _Atomic uint64_t total; /* written once, at the end of ns_semaphore_init */
    uint64_t start;         /* written once, by ns_semaphore_init */
    ns_waitq queue;
} ns_semaphore;

/* Of zero bytes. The total comes last: until it is there no release is accepted, so that none can
 * bring what is available above it. */
static inline void
ns_semaphore_init(ns_semaphore *s, uint64_t start, uint64_t total)
{
    s->start = start;
    ns_add(&s->word, start * NS_SEMAPHORE_ONE, NS_RELAXED);
    ns_store(&s->total, total, NS_RELEASE);
}

static inline uint64_t
ns_semaphore_available(ns_semaphore *s)
{
    return ns_load(&s->word, NS_ACQUIRE) / NS_SEMAPHORE_ONE;
}

/* Whether n more may be available. Acquires: the caller that finds so has `start` in its word. */
static inline bool
ns_semaphore_has_room(ns_semaphore *s, uint64_t available, uint64_t n)
{
    return available + n <= ns_load(&s->total, NS_ACQUIRE);
}

/* Whether the fast path may be taken: no waiter is in the queue. */
static inline bool
ns_semaphore_is_fast(uint64_t word)
{
    return !(word & NS_SEMAPHORE_QUEUED);
}

/* The same as ns_semaphore_try and ns_semaphore_release, under the queue's lock. */
bool ns_semaphore_try_slow(ns_semaphore *s, uint64_t n);
bool ns_semaphore_release_slow(ns_semaphore *s, uint64_t n);
/* The same, after another thread changed the word in between: with back-off. */
bool ns_semaphore_try_again(ns_semaphore *s, uint64_t n);
bool ns_semaphore_release_again(ns_semaphore *s, uint64_t n);

/* One attempt of ns_semaphore_try, whose answer is in *taken. False: the word changed meanwhile. */
static inline bool
ns_semaphore_try_once(ns_semaphore *s, uint64_t n, bool *taken)
{
    uint64_t word = ns_load(&s->word, NS_RELAXED);
    if (ns_unlikely(!ns_semaphore_is_fast(word))) {
        *taken = ns_semaphore_try_slow(s, n);
        return true;
    }
    *taken = word / NS_SEMAPHORE_ONE >= n;
    return !*taken || ns_cas(&s->word, &word, word - n * NS_SEMAPHORE_ONE, NS_ACQUIRE);
}

/* Takes n units, at least 1. False if fewer are available, or if there are waiters. Acquires. */
static inline bool
ns_semaphore_try(ns_semaphore *s, uint64_t n)
{
    bool taken;
    return ns_likely(ns_semaphore_try_once(s, n, &taken)) ? taken : ns_semaphore_try_again(s, n);
}

/* One attempt of ns_semaphore_release, in the same way. */
static inline bool
ns_semaphore_release_once(ns_semaphore *s, uint64_t n, bool *right)
{
    uint64_t word = ns_load(&s->word, NS_RELAXED);
    if (ns_unlikely(!ns_semaphore_is_fast(word))) {
        *right = ns_semaphore_release_slow(s, n);
        return true;
    }
    *right = ns_semaphore_has_room(s, word / NS_SEMAPHORE_ONE, n);
    return !*right || ns_cas(&s->word, &word, word + n * NS_SEMAPHORE_ONE, NS_RELEASE);
}

/* Gives n units back, and serves waiters. False, and nothing changed, if more than the total would
 * be available. Releases. */
static inline bool
ns_semaphore_release(ns_semaphore *s, uint64_t n)
{
    bool right;
    return ns_likely(ns_semaphore_release_once(s, n, &right)) ? right
                                                              : ns_semaphore_release_again(s, n);
}

/* How to wait (wait.h), after ns_semaphore_try failed. */
extern const struct ns_wait_steps ns_semaphore_steps;

/* Makes as many available as at the start, and serves waiters; for the child of a fork. */
void ns_semaphore_reset(ns_semaphore *s);

#endif
