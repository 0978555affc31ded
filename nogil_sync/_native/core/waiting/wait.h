/* wait.h: the life of one wait, in the terms that all waiting objects share.
 *
 * Overview
 *   A blocking call is a sequence of steps. The layer above drives them (detach.c), because between
 *   them it must let go of the interpreter, and sometimes run signal handlers, which may use the
 *   very object that the call waits for:
 *
 *     detached                                   attached
 *     ----------------------------------------   ----------------------------------------
 *                                                enter -> served: done, else
 *              wait -> SERVED -----------------> done
 *                   -> TIMED_OUT -> cancel ----> done (cancel may find the waiter served)
 *                   -> INTERRUPTED -> leave ---> handlers -> rejoin -> (detached) wait ...
 *                                                         -> an exception: cancel, undo
 *                                                give_way, if a handler uses the object itself
 *
 *   There are three ways to do the steps:
 *     - in line: the object has a queue, and serves the first waiters that it can. Semaphore,
 *       readers-writer lock, channel and condition say how in a small table (ns_line); the steps
 *       stand once, in wait.c;
 *     - on a word: all waiters go on when the word changes; event and wait group (word.h);
 *     - the mutex's own: its waiters have finer states than served or not (mutex.h).
 *
 * Handlers. A waiter whose thread runs handlers keeps its place. What other threads do to the queue
 * meanwhile depends on the object. Where the order is strict (readers-writer lock, semaphore,
 * condition) the waiter can be served meanwhile, and newcomers queue behind it. `give_way` takes
 * that back. It is called when a handler, in the same thread, uses the very object, because that
 * handler must not wait for the call that it interrupts. Mutex and channel pass such a waiter by at
 * once (`leave` marks its place away): they promise no strict order, and what they serve would
 * lie idle.
 *
 * Lifetime. The layer above allocates a waiter at most once a call, before `enter`, and frees it
 * when the call is over and its places are unlinked. The waiter is on the heap and not on the
 * stack, because a thread that re-attaches to the interpreter at shutdown may never come back: its
 * stack is then freed, and what is linked must go on being valid. Such a waiter is away for ever: a
 * few dozen bytes leak as the process ends. Waits on a word link nothing and need no heap.
 *
 * Rule: whenever a thread re-attaches it holds no lock of ours, and a waiter that is linked is on
 * the heap. (Only the main thread attaches while its waiter is linked. It fails to return only if
 * another thread finalizes the interpreter, after which no thread waits.)
 *
 * Room for more. Nothing below is built yet; it attaches here:
 *   - A waiter in several queues (select) has an array of places in the place of its one. `enter`,
 *     `rejoin`, `give_way` and `cancel` do for each place what they do for one now. The waiter's
 *     state is the claim: an object that serves compares-and-swaps it from WAITING or ASLEEP to
 *     GRANTED before it changes its own words, and passes by a place whose waiter is claimed
 *     already. ns_grant is the only function that stores GRANTED.
 *   - A waiter that is a callback (asyncio) has a fourth state, CALLED, from which ns_grant gathers
 *     the waiter itself in place of its word; ns_wake then calls it, with no lock of ours held.
 *   - To cancel a waiter from another thread is one operation: compare-and-swap its state from
 *     WAITING or ASLEEP to CANCELLED, and wake its word as ns_grant does. ns_await_grant then
 *     returns a result of its own, and its thread takes the `cancel` step, which finds out under
 *     the queue's lock whether the waiter was served first. The canceller must know that the waiter
 *     is alive.
 */
#ifndef NS_WAIT_H
#define NS_WAIT_H

#include "waiting/grant.h"

/* One table for each kind of wait. `object` is the object, `w` the caller's waiter. */
struct ns_wait_steps {
    /* Begins the wait, with a waiter of zero bytes but for its amount. True if it was served at
     * once. Brief, so that it is called before letting go of the interpreter. */
    bool (*enter)(void *object, ns_waiter *w);
    /* Sleeps until the waiter is served, or the deadline has passed, or a signal came. */
    enum ns_wait_result (*wait)(void *object, ns_waiter *w, int64_t deadline);
    /* Called before the thread runs handlers; the waiter keeps its place. True if it was served. */
    bool (*leave)(void *object, ns_waiter *w);
    /* Between leave and rejoin: gives back what the waiter was served meanwhile, gets its place
     * back, and lets others pass it by until rejoin. NULL: leave does all that is needed. */
    void (*give_way)(void *object, ns_waiter *w);
    /* Called after the handlers, also in the child of a fork made by one. Brief, too. */
    void (*rejoin)(void *object, ns_waiter *w);
    /* Ends the wait. True if the waiter was served first. */
    bool (*cancel)(void *object, ns_waiter *w);
    /* Gives back what the waiter was served, when the call fails after all. */
    void (*undo)(void *object, ns_waiter *w);
    /* Whether `enter` may leave the waiter linked: it must be on the heap. */
    bool links;
};

/* ---- Waiting in line ---- */

/* How an object serves one of its queues. */
struct ns_line {
    size_t queue; /* offset of the queue in the object */
    int64_t spin; /* nanoseconds for which a waiter spins before it sleeps */
    bool is_alike; /* all in line wait for the same: when one gives up, no other can be served */
    /* Locks all the object's queues, and stops the fast paths past them. Acquires. */
    void (*lock)(void *object);
    /* Serves the waiters that can be served, with ns_grant, and leaves their wake-ups in *wakes. */
    void (*serve)(void *object, ns_wakes *wakes);
    /* Opens the fast paths if no waiter is left, and unlocks. Releases. */
    void (*unlock)(void *object);
    /* Undoes what serving the waiter at p did to the object, with it locked. NULL: waiters are
     * never asked to give way. */
    void (*take_back)(void *object, ns_place *p, ns_wakes *wakes);
};

/* Ends what `lock` began: serves, unlocks, and makes the wake-ups. */
static inline void
ns_line_serve_and_unlock(const struct ns_line *line, void *object, ns_wakes *wakes)
{
    line->serve(object, wakes);
    line->unlock(object);
    ns_wake(wakes);
}

/* Queues w up and serves those in line. True if w was served at once. Attached. */
bool ns_line_enter(const struct ns_line *line, void *object, ns_waiter *w);

/* The other steps, of a waiter that was queued up by ns_line_enter. */

enum ns_wait_result ns_line_wait(void *object, ns_waiter *w, int64_t deadline);
/* `leave` in a strict order: only looks whether the waiter was served. */
bool ns_line_stay(void *object, ns_waiter *w);
/* `leave` otherwise: marks its place away. */
bool ns_line_step_aside(void *object, ns_waiter *w);
void ns_line_give_way(void *object, ns_waiter *w);
void ns_line_rejoin(void *object, ns_waiter *w);
bool ns_line_cancel(void *object, ns_waiter *w);

#endif
