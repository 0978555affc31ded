/* park.h: everything the library asks of the operating system in order to wait.
 *
 * Sleep on a word until it changes or a deadline passes, wake sleepers, read the clock, put a
 * memory fence into every thread, notice that the process forked or that a thread ended. park.c is
 * the only file that calls the operating system. Locks above it keep their whole state in words of
 * their own.
 *
 * Contract of ns_park(word, expected, deadline)
 *   Sleeps while *word == expected. The comparison and the going to sleep are one step with respect
 *   to ns_unpark. So a waker that first changes the word and then calls ns_unpark is never missed.
 *   ns_park may also return for no reason: callers loop. Ordering: none. The caller reads the word
 *   again with the ordering it needs.
 *
 * Contract of ns_unpark(word, count)
 *   Wakes up to `count` threads that sleep on the address. The address is a mere name: it is never
 *   read, so the word's memory may be freed already. That lets a waker publish "granted", after
 *   which the sleeper may free its node, and only then wake it.
 *
 * Two implementations: Linux futexes, and for all other systems a table of POSIX mutexes and
 * condition variables. There an address hashes to a bucket, and an unpark wakes the whole bucket,
 * which the "for no reason" above allows.
 *
 * Fork. Only the forking thread lives on in the child. Queues list threads that are gone, and those
 * threads may hold internal locks. The child's first act is to increment the fork generation, in a
 * handler of pthread_atfork, which also sees forks from C. Whatever carries an older stamp is by
 * definition unlocked and empty (see waitq.h). The handler does nothing else.
 */
#ifndef NS_PARK_H
#define NS_PARK_H

#include "atomics.h"

#define NS_FOREVER INT64_MAX

/* What every thread reads on its fast paths and almost no thread writes. It has cache lines of its
 * own, because a word that is written often must not share a line with it. */
extern struct ns_globals {
    _Alignas(NS_CACHE_LINE) _Atomic bool can_fence_threads; /* see ns_can_fence_threads */
    _Atomic uint32_t fork_count;                            /* written in the child of a fork */
    _Atomic uint32_t alone;                                 /* see ns_slots_is_alone */
    uint32_t slots_mask;                                    /* see slots.h; set once */
    unsigned cpu_count;                                     /* set once */
} ns_globals;
#define NS_NOBODY UINT32_MAX /* the first value of `alone` */

enum ns_parked {
    NS_PARK_WOKEN,       /* an unpark, or *word != expected, or no reason */
    NS_PARK_TIMED_OUT,   /* the deadline passed */
    NS_PARK_INTERRUPTED, /* a signal handler ran in this thread */
};

/* Must run once before anything else here; later calls do nothing. Returns false if there is no
 * memory for the fork handler. */
bool ns_park_init(void);

/* ---- What other parts of the core need once in a process ---- */

/* Calls init(), unless it has returned true before; *done remembers that. Returns whether it has.
 * Two threads never run one at the same time. */
bool ns_init_once(bool *done, bool (*init)(void));

/* Has function() called in the child of each fork, after those that were registered before. It may
 * use nothing but atomics. False: no memory. */
bool ns_call_in_child(void (*function)(void));

/* Once in a process: names the function that is called when a thread ends which called ns_at_exit.
 * False: there is no key left. */
bool ns_at_exit_init(void (*function)(void *argument));
/* Has function(argument) called when the calling thread ends; the argument is not NULL. May be
 * called again, also by that function. False: no memory. */
bool ns_at_exit(void *argument);

/* The monotonic clock, in nanoseconds. */
int64_t ns_now(void);

/* See the contracts above. A deadline is a reading of ns_now(), or NS_FOREVER. */
enum ns_parked ns_park(_Atomic uint32_t *word, uint32_t expected, int64_t deadline);
void ns_unpark(const void *word, int count);
#define NS_ALL INT32_MAX

/* Offers the processor to other threads that are ready to run. */
void ns_yield(void);

/* How many processors this process may use; at least 1. They are those it may run on, or fewer
 * where a control group (version 1 or 2) allows it less time than they have, rounded up.
 * ns_park_init counts them once. The environment variable NOGIL_SYNC_CPU_COUNT overrides the count,
 * for tests that want a larger machine. */
unsigned ns_cpu_count(void);

/* Whether one thread can put a full memory fence into every running thread of the process. If so,
 * the other threads need only keep the compiler from reordering. This is Linux's membarrier
 * (private, expedited); its registration survives forks. ns_park_init sets the flag. It is cleared
 * for good when the system refuses, and by tests. */
#define ns_can_fence_threads ns_globals.can_fence_threads

/* The frequent side's fence, between a store and a load. The store comes before the read of the
 * flag in program order; park.c says why that matters. */
static inline void
ns_fence_here(void)
{
    ns_compiler_fence();
    if (ns_unlikely(!ns_load(&ns_can_fence_threads, NS_RELAXED))) {
        ns_fence(NS_SEQ_CST);
    }
    ns_compiler_fence();
}

/* The rare side's fence, which pairs with every ns_fence_here. Returns false if the system has just
 * refused, and threads may still run that have no fence of their own. */
bool ns_try_fence_everywhere(void);
/* Retries until ns_try_fence_everywhere succeeds: NS_REFUSED nanoseconds at most, and that only
 * once in a process. */
void ns_fence_everywhere(void);
#ifndef NS_REFUSED /* tests lengthen it */
#define NS_REFUSED (50 * INT64_C(1000000))
#endif

#define ns_fork_count ns_globals.fork_count

/* Changes only in the child of a fork, before any other thread exists there. */
static inline uint32_t
ns_fork_generation(void)
{
    return ns_load(&ns_fork_count, NS_RELAXED);
}

#endif
