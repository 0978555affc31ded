/* wait.h: the life of one wait, in the terms every waiting object shares.
 *
 * A blocking call is a sequence of steps that core/ provides per object and that the layer
 * above drives, because between them it must let go of the interpreter, and sometimes run
 * signal handlers that may use the very object being waited for:
 *
 *     detached                                   attached
 *     ----------------------------------------   ----------------------------------------
 *                                                enter -> served: done, else
 *              wait -> SERVED -----------------> done
 *                   -> TIMED_OUT -> cancel ----> done (cancel may find it served)
 *                   -> INTERRUPTED -> leave ---> handlers -> rejoin -> (detached) wait ...
 *                                                         -> an exception: cancel, undo
 *                                                give_way, if a handler uses the object itself
 *
 * A waiter whose thread runs handlers keeps its place. What others do to the queue meanwhile depends on
 * the object. Where the order is strict (readers-writer lock, semaphore, condition) the waiter can be
 * served meanwhile, and newcomers queue behind it. `give_way` takes that back: it is called when
 * a handler, in the same thread, wants the very object, for that handler must not wait
 * for the call that it interrupts. Mutex and channel pass by such a waiter at once (`leave` marks it
 * away): they promise no strict order, and what they serve would lie idle.
 *
 * Rule: whenever the thread re-attaches no lock of ours is held, and its node is on the heap if it is linked:
 * re-attaching may never return. (Only the main thread attaches while it is linked, and it fails to
 * return only if another thread finalizes the interpreter, after which no thread waits.)
 */
#ifndef NS_WAIT_H
#define NS_WAIT_H

#include "waiting/waitq.h"

enum ns_wait_result {
    NS_SERVED,      /* what was waited for is ours, the node is unlinked */
    NS_TIMED_OUT,   /* the deadline passed, still enqueued */
    NS_INTERRUPTED, /* a signal came, still enqueued */
};

/* One table per kind of object. `object` is the object, `w` the caller's node. */
struct ns_wait_steps {
    /* Begins the wait with a zeroed node. True if it was served at once. Brief, so that it is
     * called before letting go of the interpreter. */
    bool (*enter)(void *object, ns_waiter *w);
    /* Sleeps until served, or the deadline, or a signal. */
    enum ns_wait_result (*wait)(void *object, ns_waiter *w, int64_t deadline);
    /* Is about to run handlers, without losing its place. True if it was served first. */
    bool (*leave)(void *object, ns_waiter *w);
    /* Between leave and rejoin: gives back what it was served meanwhile, gets its place back, and
     * is passed by until rejoin. NULL: leave does all that is needed. */
    void (*give_way)(void *object, ns_waiter *w);
    /* Comes back after leave, also in the child of a fork made meanwhile. Brief, too. */
    void (*rejoin)(void *object, ns_waiter *w);
    /* Gives up. True if it was served first. */
    bool (*cancel)(void *object, ns_waiter *w);
    /* Gives back what it was served, when the call fails after all. */
    void (*undo)(void *object, ns_waiter *w);
};

#endif
