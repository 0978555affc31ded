#include "cond.h"

static void
lock(void *object)
{
    ns_waitq_lock(&((ns_cond *)object)->queue);
}

/* Nothing is to be had but by a notification. */
static void
serve(void *object, ns_wakes *wakes)
{
    (void)object;
    (void)wakes;
}

static void
unlock(void *object)
{
    ns_cond *c = object;
    ns_store(&c->occupied, c->queue.head != NULL, NS_RELAXED);
    ns_waitq_unlock(&c->queue);
}

static const struct ns_line line = {
    .queue = offsetof(ns_cond, queue),
    .guard = offsetof(ns_cond, queue),
    .is_alike = true,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
};

void
ns_cond_link(ns_cond *c, ns_waiter *w)
{
    ns_line_enter(&line, c, w);
}

uint32_t
ns_cond_waiting(ns_cond *c)
{
    uint32_t waiting = 0;
    lock(c); /* empties the queue of a parent process */
    for (ns_place *p = c->queue.head; p != NULL; p = p->next) {
        waiting++;
    }
    unlock(c);
    return waiting;
}

void
ns_cond_notify_slow(ns_cond *c, uint64_t n)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock(c);
    for (ns_place *p; n > 0 && (p = c->queue.head) != NULL; n--) {
        ns_grant(&c->queue, p, &wakes);
    }
    unlock(c);
    ns_wake(&wakes);
}

static void
undo_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_cond_notify_slow(object, 1);
}

const struct ns_wait_steps ns_cond_steps = {
    .operation = "Cond.wait",
    .enter = ns_line_stay, /* it is in line already */
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_step,
    .links = true,
    .cancellable = true,
};
