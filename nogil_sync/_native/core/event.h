/* event.h: a flag that threads can wait for.
 *
 * A word of word.h, whose value is 1 while the flag is set. Setting it lets the waiters go: also if
 * a clear follows at once. An event of zero bytes is unset.
 *
 * Ordering: set releases, and so does a set of a set event (a read-modify-write, so that each of
 * them happens before the waits that return after it); is_set and wait acquire.
 */
#ifndef NS_EVENT_H
#define NS_EVENT_H

#include "waiting/word.h"

#define NS_EVENT_SET (UINT64_C(1) << 32)

typedef struct ns_event {
    _Atomic uint64_t word;
} ns_event;

/* Acquires. */
static inline bool
ns_event_is_set(ns_event *e)
{
    return ns_load(&e->word, NS_ACQUIRE) & NS_EVENT_SET;
}

/* Sets the flag and wakes all waiters. Releases. */
void ns_event_set(ns_event *e);
void ns_event_clear(ns_event *e);

/* How to wait for it (wait.h). */
extern const struct ns_wait_steps ns_event_steps;

#endif
