/* waitq.h: a FIFO of waiting threads under a small lock that survives fork.
 *
 * The one place where waiters are kept. A lock built on it decides who is served; the
 * queue gives order, membership and the fork rule.
 *
 * The lock is that of lock.h. One that was last taken before a fork means a queue of threads that
 * are gone: whoever finds that starts with an empty queue (ns_waitq_lock then returns true, so that
 * the owner resets what it keeps beside the queue).
 *
 * The lock is held for a few dozen instructions, never across a call that can block, run
 * Python, or allocate. It may be taken attached or detached.
 *
 * A node lives on the heap, not on the stack: a thread that re-attaches to the interpreter at
 * shutdown may never come back, its stack is then freed, and its node must go on being valid.
 * Such a node is left "away" (below) for ever: a few dozen bytes leaked as the process ends.
 *
 * Field ownership: everything under the queue's lock, except `state`, which its own thread reads
 * without it (acquire), and sleeps on.
 */
#ifndef NS_WAITQ_H
#define NS_WAITQ_H

#include "waiting/lock.h"

typedef struct ns_waiter {
    struct ns_waiter *previous, *next;
    _Atomic uint32_t state; /* meaning up to the lock; the word slept on */
    uint32_t generation;    /* fork generation it was linked in */
    bool linked;
    bool away;      /* its thread runs handlers: keeps its place, is skipped */
    bool impatient; /* asks to be handed the lock by the next release */
    int64_t since;  /* when it began to wait, by ns_now() */
    int64_t heir_since; /* its own thread's: when it last became heir */
    uint64_t amount;    /* what it asks for, where that differs; written before it is linked */
    /* Its own thread's, while that runs handlers: see ns_make_way in detach.h. */
    struct ns_waiter *outer;
    void *object;
    const struct ns_wait_steps *steps;
} ns_waiter;

typedef struct ns_waitq {
    ns_lock lock;
    ns_waiter *head, *tail;
} ns_waitq;

/* True if the queue was left by another process (and is now empty). */
bool ns_waitq_lock(ns_waitq *q);
void ns_waitq_unlock(ns_waitq *q);

/* All of these: with the queue locked. */
void ns_waitq_push(ns_waitq *q, ns_waiter *w);
/* For a waiter that gets its place back: it waits longest. */
void ns_waitq_push_front(ns_waitq *q, ns_waiter *w);
/* Does nothing if w is not linked, or was linked before a fork. */
void ns_waitq_remove(ns_waitq *q, ns_waiter *w);
/* Whether w is linked in this process's queue. */
bool ns_waitq_has(const ns_waiter *w);
/* The longest waiting one that is not away, or NULL. */
ns_waiter *ns_waitq_first(const ns_waitq *q);

/* NULL when there is no memory. */
ns_waiter *ns_waiter_new(void);
void ns_waiter_free(ns_waiter *w);

#endif
