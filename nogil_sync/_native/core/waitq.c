#include "waitq.h"

#include <stdlib.h>

enum { FREE = 0, HELD = 1, CONTENDED = 2, STATE_MASK = 3, SHIFT = 2 };

#ifndef NS_WAITQ_SPINS /* tests shrink it */
#define NS_WAITQ_SPINS 40
#endif

bool
ns_waitq_lock(ns_waitq *q)
{
    const uint32_t stamp = ns_fork_generation() << SHIFT;
    uint32_t word = ns_load(&q->lock, NS_RELAXED);
    uint32_t take = HELD;
    for (int spins = 0;;) {
        bool stale = (word & ~(uint32_t)STATE_MASK) != stamp;
        if (stale || (word & STATE_MASK) == FREE) {
            if (ns_cas(&q->lock, &word, stamp | take, NS_ACQUIRE)) {
                if (stale) {
                    q->head = q->tail = NULL;
                }
                return stale;
            }
            continue;
        }
        if (spins++ < NS_WAITQ_SPINS) {
            ns_pause();
            word = ns_load(&q->lock, NS_RELAXED);
            continue;
        }
        /* Its holder was preempted. From here on take it as CONTENDED: others may sleep too. */
        take = CONTENDED;
        if ((word & STATE_MASK) == CONTENDED ||
            ns_cas(&q->lock, &word, stamp | CONTENDED, NS_RELAXED)) {
            ns_park(&q->lock, stamp | CONTENDED, NS_FOREVER);
        }
        word = ns_load(&q->lock, NS_RELAXED);
    }
}

void
ns_waitq_unlock(ns_waitq *q)
{
    uint32_t old = ns_swap(&q->lock, ns_fork_generation() << SHIFT, NS_RELEASE);
    if (ns_unlikely((old & STATE_MASK) == CONTENDED)) {
        ns_unpark(&q->lock, 1);
    }
}

void
ns_waitq_push(ns_waitq *q, ns_waiter *w)
{
    w->generation = ns_fork_generation();
    w->linked = true;
    w->next = NULL;
    w->previous = q->tail;
    *(q->tail ? &q->tail->next : &q->head) = w;
    q->tail = w;
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
