/* waitgroup.h: a count that threads wait on to become zero.
 *
 * A word of word.h, whose value is the count: what was added and not yet done. The step that brings
 * it to zero lets the waiters go: also if the group is used again at once. A wait group of zero
 * bytes counts zero.
 *
 * Why no fetch-and-add. A `done` must raise, and change nothing, when the count is zero; and the
 * step that brings it to zero must change the epoch with it. A subtraction that is undone
 * afterwards would show readers and waiters a count that never was. An `add` could
 * be one, but beside a compare-and-swap with back-off (backoff.h) that measured the same.
 *
 * Ordering: add releases and wait acquires, so what came before each done happens before the
 * return of the wait that it ends. In the child of a fork the count is what it was.
 */
#ifndef NS_WAITGROUP_H
#define NS_WAITGROUP_H

#include "waiting/word.h"

#define NS_WAITGROUP_MAX INT32_MAX

typedef struct ns_waitgroup {
    _Atomic uint64_t word;
} ns_waitgroup;

enum ns_waitgroup_result { NS_ADDED, NS_BELOW_ZERO, NS_TOO_LARGE };

/* Adds n, and wakes all waiters if that makes the count zero; unless the count would go below zero
 * or above the maximum, which changes nothing. Releases. */
enum ns_waitgroup_result ns_waitgroup_add(ns_waitgroup *g, int64_t n);

/* Acquires. */
static inline uint32_t
ns_waitgroup_count(ns_waitgroup *g)
{
    return (uint32_t)(ns_load(&g->word, NS_ACQUIRE) >> 32);
}

/* How to wait for it (wait.h). */
extern const struct ns_wait_steps ns_waitgroup_steps;

#endif
