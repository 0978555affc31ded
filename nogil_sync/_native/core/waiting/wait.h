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
 *                   -> WAS_CANCELLED -> cancel > done (likewise; see "Cancellation" in grant.h)
 *                   -> INTERRUPTED -> leave ---> handlers -> rejoin -> (detached) wait ...
 *                                                         -> an exception: cancel, undo
 *                                                give_way, if a handler uses the object itself
 *
 *   There are four ways to do the steps:
 *     - in line: the object has a queue, and serves the first waiters that it can. Semaphore,
 *       readers-writer lock, channel, condition and barrier say how in a small table (ns_line); the
 *       steps stand once, in wait.c;
 *     - on a word: all waiters go on when the word changes; event and wait group (word.h);
 *     - in several lines at once, of which one serves it: select (select.h);
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
 * the heap. (The main thread attaches while its waiter is linked, and so does a thread that looks
 * for a deadlock. Either fails to return only if another thread finalizes the interpreter, after
 * which no thread waits.)
 *
 * Waiters that are CALLED when they are served (grant.h) take the same steps, but for `wait`,
 * `leave`, `give_way` and `rejoin`, which belong to threads.
 */
#ifndef NS_WAIT_H
#define NS_WAIT_H

#include "waiting/grant.h"
#include "waiting/linger.h"

/* One table for each kind of wait. `object` is the object, `w` the caller's waiter. */
struct ns_wait_steps {
    /* For those that look who waits: the name of the call, a string that is never freed, and the
     * tag of the thread that holds the object, or 0 (thread_tag.h). *foreign is set if the holder
     * need not be the one that releases. Without a lock, so that a signal handler may ask. NULL:
     * nobody holds it that could be named. */
    const char *operation;
    uint64_t (*holder)(void *object, bool *foreign);
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
    /* Gives back what the waiter was served, when the call fails after all. May borrow the waiter's
     * memory (ns_waiter_lend): it is from ns_waiter_new. Attached. */
    void (*undo)(void *object, ns_waiter *w);
    /* Whether `enter` may leave the waiter linked: it must be on the heap. */
    bool links;
    /* Whether ns_waiter_cancel ends the wait. A plain wait on a word is not cancellable; the wait
     * for the same word by ns_word_place_steps is. */
    bool cancellable;
};

/* ---- Waiting in line ---- */

/* How a thread looks out for what a line serves, before it waits (linger.h). */
struct ns_outlook {
    /* What a try for that amount would find, as of now. Without the lock. */
    enum ns_look (*look)(void *object, uint64_t amount);
    /* Nanoseconds between two looks. NULL: nobody lingers for this alone. */
    int64_t (*pace)(void *object);
    /* Called when a thread that looked in that pace found it ready. */
    void (*adapt)(void *object, int64_t pace);
};

/* How an object serves one of its queues. */
struct ns_line {
    size_t queue; /* offset of the queue in the object */
    size_t guard; /* and of the queue whose lock guards it */
    /* For queues that are outside their objects (word.h): returns that queue, which has its own
     * lock. Else NULL. */
    ns_waitq *(*outside)(const void *object);
    int64_t spin; /* nanoseconds for which a waiter spins before it sleeps */
    bool is_alike; /* all in line wait for the same: when one gives up, no other can be served */
    /* Locks all the object's queues, and stops the fast paths past them. Acquires. Of several
     * objects with one lock it is called for any one. */
    void (*lock)(void *object);
    /* Links a new waiter's place as the last. NULL: ns_waitq_push. */
    void (*link)(void *object, ns_place *p);
    /* Serves the waiters that can be served, with ns_grant, and leaves their wake-ups in *wakes. */
    void (*serve)(void *object, ns_wakes *wakes);
    /* Opens the fast paths if no waiter is left, and unlocks. Releases. */
    void (*unlock)(void *object);
    /* Undoes what serving the waiter at p did to the object, with it locked. NULL: waiters are
     * never asked to give way. */
    void (*take_back)(void *object, ns_place *p, ns_wakes *wakes);
    /* Of a line that select can wait in: gives back what was served at p, with nothing locked, as
     * `undo` of the steps. NULL: there is nothing to give back. */
    void (*give_back)(void *object, ns_place *p);
    const struct ns_outlook *outlook; /* of a line that select can wait in */
};

/* The queue of the place, and the lock that guards it. */
static inline ns_waitq *
ns_place_queue(const ns_place *p)
{
    return p->line->outside != NULL ? p->line->outside(p->object)
                                    : (ns_waitq *)((char *)p->object + p->line->queue);
}

static inline const ns_lock *
ns_place_lock(const ns_place *p)
{
    return p->line->outside != NULL ? &p->line->outside(p->object)->lock
                                    : &((ns_waitq *)((char *)p->object + p->line->guard))->lock;
}

/* Links a place that is not linked as the last of its queue, which is locked. `fresh`: for the
 * first time. (Else it was left behind by a fork.) */
static inline void
ns_place_link(ns_place *p, bool fresh)
{
    if (fresh && p->line->link != NULL) {
        p->line->link(p->object, p);
    }
    else {
        ns_waitq_push(ns_place_queue(p), p);
    }
}

/* Ends what `lock` began: serves, unlocks, and makes the wake-ups. */
static inline void
ns_line_serve_and_unlock(const struct ns_line *line, void *object, ns_wakes *wakes)
{
    line->serve(object, wakes);
    line->unlock(object);
    ns_wake(wakes);
}

/* Queues w up, in WAITING or CALLED, and serves those in line. True if w was served at once.
 * Attached. */
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
