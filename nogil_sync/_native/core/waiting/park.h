/* park.h: everything the library asks of the operating system in order to wait.
 *
 * Sleep on a word until it changes or a deadline passes, wake sleepers, read the
 * clock, put a memory fence into every thread, and learn that the process forked. park.c is
 * the only file with operating-system calls; locks above it hold their whole state in words of
 * their own.
 *
 * Contract of ns_park(word, expected, deadline)
 *   Sleeps while *word == expected. The comparison and the going to sleep are one
 *   step with respect to ns_unpark, so a waker that first changes the word and then
 *   calls ns_unpark is never missed. It may also return for no reason: callers loop.
 *   Ordering: none. The caller re-reads the word with the ordering it needs.
 *
 * Contract of ns_unpark(word, count)
 *   Wakes up to `count` threads that sleep on the address. The address is a mere name:
 *   it is never read, so the word's memory may be gone already. That lets a waker publish
 *   "granted", after which the sleeper may free its node, and only then wake it.
 *
 * Two implementations: Linux futexes, and a table of POSIX mutexes and condition
 * variables for the rest (an address hashes to a bucket; an unpark wakes the bucket,
 * which the "for no reason" above allows).
 *
 * Fork. Only the forking thread lives on in the child; queues list threads that are gone
 * and internal locks may be held by them. The child's first act, from pthread_atfork, which
 * also sees forks from C, is to bump the fork generation. Whatever carries an older
 * stamp is by definition unlocked and empty (see waitq.h). Nothing else happens there.
 */
#ifndef NS_PARK_H
#define NS_PARK_H

#include "atomics.h"

#define NS_FOREVER INT64_MAX

/* What every thread reads on its fast paths and almost nobody writes, on cache lines of its own: a
 * word that is written often must not lie beside it. */
extern struct ns_globals {
    _Alignas(NS_CACHE_LINE) _Atomic bool can_fence_threads; /* see ns_can_fence_threads */
    _Atomic uint32_t fork_count;                            /* written in a fork's child */
    _Atomic uint32_t alone;                                 /* see ns_slots_is_alone */
    uint32_t slots_mask;                                    /* see slots.h; set once */
    unsigned cpu_count;                                     /* set once */
} ns_globals;
#define NS_NOBODY UINT32_MAX /* `alone`, at first */

enum ns_parked {
    NS_PARK_WOKEN,       /* or the word had changed, or for no reason */
    NS_PARK_TIMED_OUT,   /* the deadline passed */
    NS_PARK_INTERRUPTED, /* a signal handler ran in this thread */
};

/* Must run once before anything else here; later calls do nothing. False: no memory to be told of
 * forks. */
bool ns_park_init(void);

/* The monotonic clock, in nanoseconds. */
int64_t ns_now(void);

/* Deadlines are readings of ns_now(), or NS_FOREVER. */
enum ns_parked ns_park(_Atomic uint32_t *word, uint32_t expected, int64_t deadline);
void ns_unpark(const void *word, int count);
#define NS_ALL INT32_MAX

/* Offers the processor to other threads that are ready to run. */
void ns_yield(void);

/* How many processors this process may use; at least 1: those it may run on, or fewer where a control group (version 1 or 2)
 * allows it less time than they have, rounded up. Counted once, by ns_park_init. The environment variable
 * NOGIL_SYNC_CPU_COUNT overrides it, as tests do that want a larger machine. */
unsigned ns_cpu_count(void);

/* Whether one thread can put a full memory fence into every running thread of the process, so
 * that the others need only keep the compiler from reordering. Linux's membarrier (private,
 * expedited); the registration outlives forks. Set by ns_park_init. Cleared for good when the
 * system refuses, and by tests. */
#define ns_can_fence_threads ns_globals.can_fence_threads

/* The fence of those who come often: between a store and a load. The store, then the look at the
 * flag, in the order of the program: see park.c. */
static inline void
ns_fence_here(void)
{
    ns_compiler_fence();
    if (ns_unlikely(!ns_load(&ns_can_fence_threads, NS_RELAXED))) {
        ns_fence(NS_SEQ_CST);
    }
    ns_compiler_fence();
}

/* The fence of those who come rarely, against all of those. False: the system has just refused,
 * and it is not sure yet that all threads have fences of their own. */
bool ns_try_fence_everywhere(void);
/* Waits until it is sure: NS_REFUSED nanoseconds at most, and only once in a process. */
void ns_fence_everywhere(void);
#ifndef NS_REFUSED /* tests stretch it */
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
