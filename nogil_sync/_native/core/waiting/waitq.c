#include "waiting/waitq.h"

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
note_linked(ns_place *p)
{
    p->generation = ns_fork_generation();
    p->linked = true;
}

void
ns_waitq_push(ns_waitq *q, ns_place *p)
{
    note_linked(p);
    p->next = NULL;
    p->previous = q->tail;
    *(q->tail ? &q->tail->next : &q->head) = p;
    q->tail = p;
}

void
ns_waitq_push_front(ns_waitq *q, ns_place *p)
{
    note_linked(p);
    p->previous = NULL;
    p->next = q->head;
    *(q->head ? &q->head->previous : &q->tail) = p;
    q->head = p;
}

bool
ns_waitq_has(const ns_place *p)
{
    return p->linked && p->generation == ns_fork_generation();
}

void
ns_waitq_remove(ns_waitq *q, ns_place *p)
{
    if (ns_waitq_has(p)) {
        *(p->previous ? &p->previous->next : &q->head) = p->next;
        *(p->next ? &p->next->previous : &q->tail) = p->previous;
    }
    p->linked = false;
}

ns_place *
ns_waitq_first(const ns_waitq *q)
{
    ns_place *p = q->head;
    while (p != NULL && p->away) {
        p = p->next;
    }
    return p;
}

size_t
ns_waitq_count(const ns_waitq *q)
{
    size_t count = 0;
    for (const ns_place *p = q->head; p != NULL; p = p->next) {
        count++;
    }
    return count;
}
