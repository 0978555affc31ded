#include "semaphore.h"

#include "waiting/backoff.h"

#ifndef NS_SEMAPHORE_SPIN
#define NS_SEMAPHORE_SPIN 10000 /* nanoseconds before a waiter sleeps */
#endif

#define ONE NS_SEMAPHORE_ONE
#define QUEUED NS_SEMAPHORE_QUEUED

/* Locks the queue and sets QUEUED, so that the word changes only here until `unlock`. */
static void
lock(ns_semaphore *s)
{
    ns_waitq_lock(&s->queue);
    ns_or(&s->word, QUEUED, NS_ACQUIRE);
}

/* Serves from the front whoever can be, lets go of the queue, and wakes them. */
static void
serve_and_unlock(ns_semaphore *s)
{
    ns_wakes wakes = {0};
    ns_waiter *w;
    while ((w = ns_waitq_first(&s->queue)) != NULL && ns_semaphore_available(s) >= w->amount) {
        ns_sub(&s->word, w->amount * ONE, NS_RELAXED);
        ns_grant(&s->queue, w, &wakes);
    }
    if (s->queue.head == NULL) {
        ns_and(&s->word, ~(uint64_t)QUEUED, NS_RELEASE);
    }
    ns_waitq_unlock(&s->queue);
    ns_wake(&wakes);
}

bool
ns_semaphore_try_slow(ns_semaphore *s, uint64_t n)
{
    lock(s);
    bool taken = ns_waitq_first(&s->queue) == NULL && ns_semaphore_available(s) >= n;
    if (taken) {
        ns_sub(&s->word, n * ONE, NS_RELAXED);
    }
    serve_and_unlock(s);
    return taken;
}

bool
ns_semaphore_release_slow(ns_semaphore *s, uint64_t n)
{
    lock(s);
    bool right = n <= s->total - ns_semaphore_available(s);
    if (right) {
        ns_add(&s->word, n * ONE, NS_RELAXED);
    }
    serve_and_unlock(s);
    return right;
}

bool
ns_semaphore_try_again(ns_semaphore *s, uint64_t n)
{
    int64_t pause = NS_BACK_OFF_FIRST;
    bool taken;
    do {
        ns_back_off(&pause);
    } while (!ns_semaphore_try_once(s, n, &taken));
    return taken;
}

bool
ns_semaphore_release_again(ns_semaphore *s, uint64_t n)
{
    int64_t pause = NS_BACK_OFF_FIRST;
    bool right;
    do {
        ns_back_off(&pause);
    } while (!ns_semaphore_release_once(s, n, &right));
    return right;
}

void
ns_semaphore_reset(ns_semaphore *s)
{
    lock(s);
    ns_add(&s->word, (s->start - ns_semaphore_available(s)) * ONE, NS_RELAXED);
    serve_and_unlock(s);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    ns_semaphore *s = object;
    lock(s);
    ns_waitq_push(&s->queue, w);
    serve_and_unlock(s);
    return ns_is_granted(w);
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    (void)object;
    return ns_await_grant(w, deadline, NS_SEMAPHORE_SPIN);
}

static bool
leave_step(void *object, ns_waiter *w)
{
    (void)object;
    return ns_is_granted(w);
}

static void
give_way_step(void *object, ns_waiter *w)
{
    ns_semaphore *s = object;
    lock(s);
    w->away = true;
    if (ns_is_granted(w)) {
        if (w->amount <= s->total - ns_semaphore_available(s)) { /* else it was reset meanwhile */
            ns_add(&s->word, w->amount * ONE, NS_RELAXED);
        }
        ns_store(&w->state, NS_WAITING, NS_RELAXED);
        ns_waitq_push_front(&s->queue, w);
    }
    serve_and_unlock(s);
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_semaphore *s = object;
    lock(s);
    if (!ns_is_granted(w) && !ns_waitq_has(w)) { /* its queue was left behind by a fork */
        ns_waitq_push(&s->queue, w);
    }
    w->away = false;
    serve_and_unlock(s);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    ns_semaphore *s = object;
    lock(s);
    bool granted = ns_is_granted(w);
    ns_waitq_remove(&s->queue, w);
    serve_and_unlock(s);
    return granted;
}

static void
undo_step(void *object, ns_waiter *w)
{
    ns_semaphore_release(object, w->amount);
}

const struct ns_wait_steps ns_semaphore_steps = {
    .enter = enter_step,
    .wait = wait_step,
    .leave = leave_step,
    .give_way = give_way_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
};
