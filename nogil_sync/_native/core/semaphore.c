#include "semaphore.h"

#include "waiting/backoff.h"

#ifndef NS_SEMAPHORE_SPIN
#define NS_SEMAPHORE_SPIN 10000 /* nanoseconds before a waiter sleeps */
#endif

#define ONE NS_SEMAPHORE_ONE
#define QUEUED NS_SEMAPHORE_QUEUED

/* Locks the queue and sets QUEUED, so that the word changes only here until `unlock`. */
static void
lock(void *object)
{
    ns_semaphore *s = object;
    ns_waitq_lock(&s->queue);
    ns_or(&s->word, QUEUED, NS_ACQUIRE);
}

/* Serves from the front, for as long as the first waiter asks for no more than is available. */
static void
serve(void *object, ns_wakes *wakes)
{
    ns_semaphore *s = object;
    ns_place *p;
    while ((p = ns_waitq_first(&s->queue)) != NULL && ns_semaphore_available(s) >= p->amount) {
        ns_sub(&s->word, p->amount * ONE, NS_RELAXED);
        ns_grant(&s->queue, p, wakes);
    }
}

static void
unlock(void *object)
{
    ns_semaphore *s = object;
    if (s->queue.head == NULL) {
        ns_and(&s->word, ~(uint64_t)QUEUED, NS_RELEASE);
    }
    ns_waitq_unlock(&s->queue);
}

static void
take_back(void *object, ns_place *p, ns_wakes *wakes)
{
    ns_semaphore *s = object;
    (void)wakes;
    /* else it was reset meanwhile */
    if (ns_semaphore_has_room(s, ns_semaphore_available(s), p->amount)) {
        ns_add(&s->word, p->amount * ONE, NS_RELAXED);
    }
}

static const struct ns_line line = {
    .queue = offsetof(ns_semaphore, queue),
    .guard = offsetof(ns_semaphore, queue),
    .spin = NS_SEMAPHORE_SPIN,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
    .take_back = take_back,
};

static void
serve_and_unlock(ns_semaphore *s)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    ns_line_serve_and_unlock(&line, s, &wakes);
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
    bool right = ns_semaphore_has_room(s, ns_semaphore_available(s), n);
    if (right) {
        ns_add(&s->word, n * ONE, NS_RELAXED);
    }
    serve_and_unlock(s);
    return right;
}

bool
ns_semaphore_try_again(ns_semaphore *s, uint64_t n)
{
    bool taken;
    NS_BACK_OFF_UNTIL(ns_semaphore_try_once(s, n, &taken));
    return taken;
}

bool
ns_semaphore_release_again(ns_semaphore *s, uint64_t n)
{
    bool right;
    NS_BACK_OFF_UNTIL(ns_semaphore_release_once(s, n, &right));
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
    return ns_line_enter(&line, object, w);
}

static void
undo_step(void *object, ns_waiter *w)
{
    ns_semaphore_release(object, w->place.amount);
}

const struct ns_wait_steps ns_semaphore_steps = {
    .operation = "Semaphore.acquire",
    .enter = enter_step,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .give_way = ns_line_give_way,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_step,
    .links = true,
    .cancellable = true,
};
