/* waitq.h: a FIFO of places under a small lock that survives fork.
 *
 * Overview
 *   A *waiter* (grant.h) is one call that waits. A *place* is where it stands in one queue. The two
 *   are apart, so that a queue knows nothing of how its waiters sleep, and a waiter may come to
 *   stand in several queues. The queue gives order, membership and the fork rule; the object that
 *   owns the queue decides which waiter is served.
 *
 * The lock is that of lock.h. If it was last taken before a fork, the threads in the queue are
 * gone: the thread that takes it next empties the queue, and ns_waitq_lock returns true, so that
 * the object resets what it keeps beside the queue.
 *
 * The lock is held for a few dozen instructions, never across a call that can block, run Python,
 * or allocate. It may be taken attached to the interpreter or not.
 *
 * Field ownership. `waiter`, `line` and `object`: the waiter's thread, before it links the place
 * for the first time. Everything else: the thread that holds the queue's lock; `amount` also the
 * waiter's thread while the place is not linked.
 */
#ifndef NS_WAITQ_H
#define NS_WAITQ_H

#include "waiting/lock.h"

typedef struct ns_place {
    struct ns_place *previous, *next;
    struct ns_waiter *waiter;   /* the waiter that stands here */
    const struct ns_line *line; /* how the object serves this queue (wait.h); NULL: its own way */
    void *object;               /* the object that owns the queue */
    uint64_t amount; /* what the waiter asks for, and what it was given; the object's */
    uint32_t generation; /* the fork generation in which it was linked */
    union {
        uint32_t epoch; /* of a place on a word: that in which its waiter came (word.h) */
        uint32_t ticket; /* of a channel's receiver, once it is served (channel.h) */
    };
    bool linked;
    bool away; /* it is passed by: the waiter's thread runs handlers, and keeps its place */
    bool tried; /* of a selector's first place in a line (select.h): the line has served */
    uint32_t first; /* the number of the selector's first place in the same line */
} ns_place;

typedef struct ns_waitq {
    ns_lock lock;
    ns_place *head, *tail;
} ns_waitq;

/* Acquires. True if the queue was left by another process, and is now empty. */
bool ns_waitq_lock(ns_waitq *q);
/* Releases. */
void ns_waitq_unlock(ns_waitq *q);

/* The caller of all that follows holds the queue's lock. */

/* Links a place that is not linked, as the last one. */
void ns_waitq_push(ns_waitq *q, ns_place *p);
/* The same, as the first one: for a waiter that gets its place back. */
void ns_waitq_push_front(ns_waitq *q, ns_place *p);
/* Unlinks p. Does nothing if p is not linked, or was linked before a fork. */
void ns_waitq_remove(ns_waitq *q, ns_place *p);
/* Whether p is linked in this process's queue. */
bool ns_waitq_has(const ns_place *p);
/* The first place that is not away, or NULL. */
ns_place *ns_waitq_first(const ns_waitq *q);
/* How many places are linked. */
size_t ns_waitq_count(const ns_waitq *q);

#endif
