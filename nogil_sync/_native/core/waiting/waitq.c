#include "waiting/waitq.h"

#include <stdlib.h>

bool
ns_waitq_lock(ns_waitq *q)
{
    switch (ns_lock_take(&q->lock)) {
    case NS_LOCKED_STALE:
    case NS_LOCKED_ABANDONED:
        q->head = q->tail = NULL;
        return true;
    default:
        return false;
    }
}

void
ns_waitq_unlock(ns_waitq *q)
{
    ns_lock_release(&q->lock);
}

static void
note_linked(ns_waiter *w)
{
    w->generation = ns_fork_generation();
    w->linked = true;
}

void
ns_waitq_push(ns_waitq *q, ns_waiter *w)
{
    note_linked(w);
    w->next = NULL;
    w->previous = q->tail;
    *(q->tail ? &q->tail->next : &q->head) = w;
    q->tail = w;
}

void
ns_waitq_push_front(ns_waitq *q, ns_waiter *w)
{
    note_linked(w);
    w->previous = NULL;
    w->next = q->head;
    *(q->head ? &q->head->previous : &q->tail) = w;
    q->head = w;
}

bool
ns_waitq_has(const ns_waiter *w)
{
    return w->linked && w->generation == ns_fork_generation();
}

void
ns_waitq_remove(ns_waitq *q, ns_waiter *w)
{
    if (ns_waitq_has(w)) {
        *(w->previous ? &w->previous->next : &q->head) = w->next;
        *(w->next ? &w->next->previous : &q->tail) = w->previous;
    }
    w->linked = false;
}

ns_waiter *
ns_waitq_first(const ns_waitq *q)
{
    ns_waiter *w = q->head;
    while (w != NULL && w->away) {
        w = w->next;
    }
    return w;
}

ns_waiter *
ns_waiter_new(void)
{
    return calloc(1, sizeof(ns_waiter));
}

void
ns_waiter_free(ns_waiter *w)
{
    free(w);
}
