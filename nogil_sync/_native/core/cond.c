#include "cond.h"

static void
lock(ns_cond *c)
{
    if (ns_unlikely(ns_waitq_lock(&c->queue))) {
        ns_store(&c->waiting, 0, NS_RELAXED);
    }
}

static void
add(ns_cond *c, ns_waiter *w)
{
    ns_waitq_push(&c->queue, w);
    ns_add(&c->waiting, 1, NS_RELAXED);
}

void
ns_cond_link(ns_cond *c, ns_waiter *w)
{
    lock(c);
    add(c, w);
    ns_waitq_unlock(&c->queue);
}

uint32_t
ns_cond_waiting(ns_cond *c)
{
    lock(c); /* those of a parent process are forgotten first */
    uint32_t waiting = ns_load(&c->waiting, NS_RELAXED);
    ns_waitq_unlock(&c->queue);
    return waiting;
}

void
ns_cond_notify_slow(ns_cond *c, uint64_t n)
{
    ns_wakes wakes = {0};
    lock(c);
    for (ns_waiter *w; n > 0 && (w = c->queue.head) != NULL; n--) {
        ns_sub(&c->waiting, 1, NS_RELAXED);
        ns_grant(&c->queue, w, &wakes);
    }
    ns_waitq_unlock(&c->queue);
    ns_wake(&wakes);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    (void)object;
    return ns_is_granted(w);
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    (void)object;
    return ns_await_grant(w, deadline, 0);
}

static bool
leave_step(void *object, ns_waiter *w)
{
    (void)object;
    return ns_is_granted(w);
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_cond *c = object;
    lock(c);
    if (!ns_is_granted(w) && !ns_waitq_has(w)) { /* its queue was left behind by a fork */
        add(c, w);
    }
    ns_waitq_unlock(&c->queue);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    ns_cond *c = object;
    lock(c);
    bool granted = ns_is_granted(w);
    if (!granted && ns_waitq_has(w)) {
        ns_waitq_remove(&c->queue, w);
        ns_sub(&c->waiting, 1, NS_RELAXED);
    }
    ns_waitq_unlock(&c->queue);
    return granted;
}

static void
undo_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_cond_notify_slow(object, 1);
}

const struct ns_wait_steps ns_cond_steps = {
    .enter = enter_step,
    .wait = wait_step,
    .leave = leave_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
};
