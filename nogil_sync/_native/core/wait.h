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
 *
 * Rule: whenever the thread re-attaches its node is either unlinked or away, and no lock of
 * ours is held; re-attaching may never return.
 */
#ifndef NS_WAIT_H
#define NS_WAIT_H

#include "waitq.h"

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
    /* Steps aside without losing its place. True if it was served first. */
    bool (*leave)(void *object, ns_waiter *w);
    /* Comes back after leave, also in the child of a fork made meanwhile. Brief, too. */
    void (*rejoin)(void *object, ns_waiter *w);
    /* Gives up. True if it was served first. */
    bool (*cancel)(void *object, ns_waiter *w);
    /* Gives back what it was served, when the call fails after all. */
    void (*undo)(void *object, ns_waiter *w);
};

#endif
