/* waitgroup.h: a count that threads wait on to become zero.
 *
 * One word of 64 bits:   count << 32 | epoch << 1 | SLEEPERS
 *
 *   count      what was added and not yet done
 *   epoch      how often the count has come down to zero. A waiter is served when the count is
 *              zero or the epoch is not the one it came in with, so that a group which is used
 *              again at once still lets everybody go who waited
 *   SLEEPERS   somebody may sleep: the next zero wakes all
 *
 * Count and epoch in one word make "became zero, and this was the n-th time" one step (Go's
 * WaitGroup keeps count and waiters in one word for the same end). Threads sleep on its lower half, which
 * every zero changes. The epoch has 31 bits; a waiter is fooled only if exactly 2^31 zeroes happen
 * between two of its looks.
 *
 * Why no fetch-and-add. A `done` must raise, and change nothing, when the count is zero; and the
 * step that brings it to zero must change the epoch with it. A subtraction that is undone afterwards
 * would show a count that never was to those who look or wait meanwhile. An `add` could be one, but
 * beside a compare-and-swap with back-off (backoff.h) that measured the same.
 *
 * Ordering: add releases and wait acquires, so what came before each done happens before the
 * return of the wait that it ends. No queue: nothing to unlink on a signal or reset after a
 * fork. In a child the count is what it was.
 */
#ifndef NS_WAITGROUP_H
#define NS_WAITGROUP_H

#include "waiting/wait.h"

#define NS_WAITGROUP_MOST INT32_MAX

typedef struct ns_waitgroup {
    _Atomic uint64_t word;
} ns_waitgroup;

enum ns_waitgroup_result { NS_ADDED, NS_BELOW_ZERO, NS_TOO_LARGE };

enum ns_waitgroup_result ns_waitgroup_add(ns_waitgroup *g, int64_t n);

static inline uint32_t
ns_waitgroup_count(ns_waitgroup *g)
{
    return (uint32_t)(ns_load(&g->word, NS_ACQUIRE) >> 32);
}

/* How to wait for it (wait.h). The node is linked nowhere, and may be on the stack. */
extern const struct ns_wait_steps ns_waitgroup_steps;

#endif
