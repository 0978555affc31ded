/* backoff.h: what a thread does after a failed compare-and-swap.
 *
 * A compare-and-swap fails because another thread has just changed the word, and has its cache
 * line. A thread that retries at once takes the line back in the middle of the other's next
 * operation, and both pay for a transfer at each turn. So a thread that failed stands back for half
 * a microsecond, and for twice as long after each further failure. Meanwhile the other thread makes
 * several operations on a line that stays with it (T. E. Anderson, "The performance of spin lock
 * alternatives", 1990). With two threads in a loop on one word that halves the time an operation
 * takes; a first pause of 0.1 us changes nothing, as the other thread is not done by then.
 *
 * The pauses are bounded, so an attempt is late by a few microseconds at most. The number of
 * attempts has no bound, with or without: such a loop is lock-free, and some thread succeeds.
 */
#ifndef NS_BACKOFF_H
#define NS_BACKOFF_H

#include "waiting/park.h"

#ifndef NS_BACK_OFF_FIRST
#define NS_BACK_OFF_FIRST 500 /* nanoseconds */
#endif
#ifndef NS_BACK_OFF_MOST
#define NS_BACK_OFF_MOST 4000
#endif

/* `pause`: the caller's, NS_BACK_OFF_FIRST before its first failure. */
static inline void
ns_back_off(int64_t *pause)
{
    for (const int64_t until = ns_now() + *pause; ns_now() < until;) {
        ns_pause();
    }
    *pause = *pause < NS_BACK_OFF_MOST ? 2 * *pause : *pause;
}

/* After a first attempt failed: makes another one after each pause, until one is true. */
#define NS_BACK_OFF_UNTIL(attempt)             \
    do {                                       \
        int64_t ns_pause_ = NS_BACK_OFF_FIRST; \
        do {                                   \
            ns_back_off(&ns_pause_);           \
        } while (!(attempt));                  \
    } while (0)

#endif
