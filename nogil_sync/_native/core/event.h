/* event.h: a flag that threads can wait for; the smallest user of park.
 *
 * One word:   epoch << 2 | SLEEPERS | SET
 *
 *   SET       the flag
 *   SLEEPERS  somebody may sleep on the word: the next set wakes all
 *   epoch     counts the settings. A waiter is served when the flag is set or the epoch is not
 *             the one it came in with, so that a set followed at once by a clear
 *             still lets everybody go who waited.
 *
 * No queue, hence nothing to unlink on a signal or to reset after a fork: a stale SLEEPERS costs
 * one needless wake call. The epoch has 30 bits; a waiter is fooled only if exactly 2^30
 * settings happen between two of its looks.
 *
 * Ordering: set releases, and so does a set of a set event (a read-modify-write, so that each of
 * them happens before the waits that return after it); is_set and wait acquire.
 * No wake-up is lost: a waiter sleeps only while the word equals one with SLEEPERS, which a
 * set changes before it wakes.
 */
#ifndef NS_EVENT_H
#define NS_EVENT_H

#include "waiting/wait.h"

#define NS_EVENT_SET 1u
#define NS_EVENT_SLEEPERS 2u
#define NS_EVENT_EPOCH 4u

typedef struct ns_event {
    _Atomic uint32_t word;
} ns_event;

static inline bool
ns_event_is_set(ns_event *e)
{
    return ns_load(&e->word, NS_ACQUIRE) & NS_EVENT_SET;
}

void ns_event_set(ns_event *e);
void ns_event_clear(ns_event *e);

/* How to wait for it (wait.h). The node is linked nowhere, and may be on the stack. */
extern const struct ns_wait_steps ns_event_steps;

#endif
