#include "waiting/wait.h"

static void
serve_and_unlock(const ns_place *p, ns_wakes *wakes)
{
    ns_line_serve_and_unlock(p->line, p->object, wakes);
}

bool
ns_line_enter(const struct ns_line *line, void *object, ns_waiter *w)
{
    ns_place *p = &w->place;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    p->waiter = w;
    p->line = line;
    p->object = object;
    line->lock(object);
    const bool is_called = ns_begin_entering(w);
    ns_place_link(p, true);
    line->serve(object, &wakes);
    const bool served = ns_end_entering(w, is_called);
    line->unlock(object);
    ns_wake(&wakes);
    return served;
}

enum ns_wait_result
ns_line_wait(void *object, ns_waiter *w, int64_t deadline)
{
    (void)object;
    return ns_await_grant(w, deadline, w->place.line->spin);
}

bool
ns_line_stay(void *object, ns_waiter *w)
{
    (void)object;
    return ns_is_granted(w);
}

/* Serves nobody: those in line wait for the same, and one fewer can be served. */
bool
ns_line_step_aside(void *object, ns_waiter *w)
{
    w->place.line->lock(object);
    bool granted = ns_is_granted(w);
    w->place.away = true;
    w->place.line->unlock(object);
    return granted;
}

void
ns_line_give_way(void *object, ns_waiter *w)
{
    ns_place *p = &w->place;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    p->line->lock(object);
    p->away = true;
    if (ns_is_granted(w)) {
        ns_store(&w->state, NS_WAITING, NS_RELAXED);
        ns_waitq_push_front(ns_place_queue(p), p);
        p->line->take_back(object, p, &wakes);
    }
    serve_and_unlock(p, &wakes);
}

void
ns_line_rejoin(void *object, ns_waiter *w)
{
    ns_place *p = &w->place;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    p->line->lock(object);
    if (!ns_is_granted(w) && !ns_waitq_has(p)) { /* its queue was left behind by a fork */
        ns_place_link(p, false);
    }
    p->away = false;
    serve_and_unlock(p, &wakes);
}

bool
ns_line_cancel(void *object, ns_waiter *w)
{
    ns_place *p = &w->place;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    p->line->lock(object);
    bool granted = ns_is_granted(w);
    ns_waitq_remove(ns_place_queue(p), p);
    if (!p->line->is_alike) {
        p->line->serve(object, &wakes);
    }
    p->line->unlock(object);
    ns_wake(&wakes);
    return granted;
}
