/* barrier.h: threads that wait for each other. Each of them arrives and waits; the one that makes
 * their number complete, the number of *parties*, lets all of them go on.
 *
 * The contract is that of threading.Barrier, whose rule (all or none, as in Java's CyclicBarrier)
 * is: if one thread gives up, all that wait for it get to know, and the barrier is broken for
 * those that come later, until a reset.
 *
 * States, all of them under the queue's lock:
 *
 *     broken  leader     arrived
 *     0       NULL       0 .. parties - 1   filling: those that have arrived are in the queue
 *     0       a waiter   parties            the leader, which came last, runs the action. The
 *                                           others are in the queue, and behind them latecomers
 *     1       NULL       0                  broken: the queue is empty
 *
 *     filling -> filling   an arrival; or the last one without an action: the round ends, passed
 *     filling -> leader    the last arrival, if there is an action
 *     leader -> filling    the action is over: the round ends, passed
 *     any -> filling       a reset: the round ends, broken
 *     any -> broken        an abort, a failed action; from filling a waiter that gives up
 *
 * The end of a round empties the queue: each waiter gets its outcome in its own place and is
 * granted (grant.h). So a waiter that wakes late, after the barrier was used again, still learns
 * how its own round ended, and nobody waits for it: there is no phase of draining, as
 * threading.Barrier has.
 *
 * A place's amount:
 *
 *     ARRIVING               queued up, not looked at yet (by ns_line_enter, and before `serve`)
 *     0 .. parties - 1       its index: how many had arrived before it; passed, once granted
 *     NS_BARRIER_AGAIN       a latecomer; once granted: the round is over, arrive again
 *     NS_BARRIER_LEADS       granted at once: run the action, then call ns_barrier_finish
 *     NS_BARRIER_BROKEN      granted: the round was broken, or the barrier was already
 *     NS_BARRIER_NESTED      granted at once: this thread leads the round, and waits for itself
 *
 * Only the thread that calls can become the leader: it comes last. So no leader is asleep.
 *
 * Giving up. A waiter that gives up while the barrier fills breaks it: its index is taken, and the
 * others would wait for one more than there are. Once all have arrived nothing is broken any more:
 * a time-out then waits on for the action (as in threading), and a waiter whose handler raised, or
 * that is cancelled, just leaves.
 *
 * Ordering: an arrival releases and an end acquires, by the queue's lock; a grant releases, and the
 * waiter acquires. So what each party did before it arrived happens before the action, and the
 * action before what any of them does after. `broken` alone is also read without the lock, with
 * acquire.
 *
 * Fork. The other threads are gone: the thread that finds the queue stale empties it, and nobody
 * has arrived. A waiter whose handler forked arrives again in the child (`rejoin`). A leader whose
 * action forked passes in the child, and has nobody to let go. A barrier that is broken stays so.
 */
#ifndef NS_BARRIER_H
#define NS_BARRIER_H

#include "waiting/wait.h"

#define NS_BARRIER_MAX INT32_MAX

typedef struct ns_barrier {
    ns_waitq queue;
    uint32_t parties; /* written once, by ns_barrier_init */
    uint32_t arrived; /* in this round, the leader included */
    bool acts;        /* written once: the leader runs an action */
    _Atomic bool broken;
    ns_waiter *leader;      /* NULL: no action is running */
    const void *leads_here; /* the leader's thread: the address of a thread-local variable */
} ns_barrier;

/* Outcomes other than an index. */
#define NS_BARRIER_BROKEN (NS_BARRIER_MAX + UINT64_C(1))
#define NS_BARRIER_AGAIN (NS_BARRIER_MAX + UINT64_C(2))
#define NS_BARRIER_LEADS (NS_BARRIER_MAX + UINT64_C(3))
#define NS_BARRIER_NESTED (NS_BARRIER_MAX + UINT64_C(4))
#define NS_BARRIER_WAITS_ON (NS_BARRIER_MAX + UINT64_C(5))

/* Of zero bytes. `parties` is at least 1. */
static inline void
ns_barrier_init(ns_barrier *b, uint32_t parties, bool acts)
{
    b->parties = parties;
    b->acts = acts;
}

/* How to wait (wait.h). The waiter is on the heap; `enter` sets its amount. Once served, its amount
 * is the outcome: an index, or one of the above. If the wait ends otherwise the waiter is still in
 * line, and the caller must call ns_barrier_give_up. */
extern const struct ns_wait_steps ns_barrier_steps;
/* The same for a waiter that is in line already, after NS_BARRIER_WAITS_ON. */
extern const struct ns_wait_steps ns_barrier_steps_in_line;

/* Ends a wait that was not served: timed out, or else interrupted or cancelled. Returns the
 * outcome, as above. A waiter that timed out after all had arrived stays in line:
 * NS_BARRIER_WAITS_ON. */
uint64_t ns_barrier_give_up(ns_barrier *b, ns_waiter *w, bool timed_out);

/* The leader's action is over, and has succeeded or not. Ends the round. Returns true if it is
 * passed; false if the action failed, or an abort or a reset came first. */
bool ns_barrier_finish(ns_barrier *b, ns_waiter *w, bool succeeded);

/* Ends the round for those that wait, and breaks the barrier, or makes it as new. Releases. */
void ns_barrier_abort(ns_barrier *b);
void ns_barrier_reset(ns_barrier *b);

/* Acquires. */
static inline bool
ns_barrier_is_broken(ns_barrier *b)
{
    return ns_load(&b->broken, NS_ACQUIRE);
}

/* How many have arrived in this round. */
uint32_t ns_barrier_arrived(ns_barrier *b);

#endif
