#include "barrier.h"

#include "memory/slots.h"

#ifndef NS_BARRIER_SPIN
#define NS_BARRIER_SPIN 10000 /* nanoseconds before a waiter sleeps */
#endif

#define ARRIVING UINT64_MAX

static NS_THREAD_LOCAL char here; /* its address tells threads apart */

static void
lock(void *object)
{
    ns_barrier *b = object;
    if (ns_waitq_lock(&b->queue)) { /* the threads that had arrived are gone */
        b->arrived = 0;
        b->leader = NULL;
    }
}

static void
unlock(void *object)
{
    ns_waitq_unlock(&((ns_barrier *)object)->queue);
}

static void
grant(ns_barrier *b, ns_place *p, uint64_t outcome, ns_wakes *wakes)
{
    p->amount = outcome;
    ns_grant(&b->queue, p, wakes);
}

static void
end_round(ns_barrier *b, bool passed, ns_wakes *wakes)
{
    b->arrived = 0;
    b->leader = NULL;
    for (ns_place *p; (p = b->queue.head) != NULL;) {
        const bool is_party = p->amount != NS_BARRIER_AGAIN;
        grant(b, p, is_party && !passed ? NS_BARRIER_BROKEN : p->amount, wakes);
    }
}

static void
break_round(ns_barrier *b, ns_wakes *wakes)
{
    ns_store(&b->broken, true, NS_RELEASE);
    end_round(b, false, wakes);
}

/* The calling thread has queued up its waiter, at p. */
static void
arrive(ns_barrier *b, ns_place *p, ns_wakes *wakes)
{
    if (ns_load(&b->broken, NS_RELAXED)) {
        grant(b, p, NS_BARRIER_BROKEN, wakes);
    }
    else if (b->leader != NULL && b->leads_here == &here) {
        grant(b, p, NS_BARRIER_NESTED, wakes);
    }
    else if (b->leader != NULL) {
        p->amount = NS_BARRIER_AGAIN;
    }
    else {
        p->amount = b->arrived++;
        if (b->arrived == b->parties && b->acts) {
            b->leader = p->waiter;
            b->leads_here = &here;
            grant(b, p, NS_BARRIER_LEADS, wakes);
        }
        else if (b->arrived == b->parties) {
            end_round(b, true, wakes);
        }
    }
}

static void
serve(void *object, ns_wakes *wakes)
{
    ns_barrier *b = object;
    ns_place *p = b->queue.tail;
    if (p != NULL && p->amount == ARRIVING) {
        arrive(b, p, wakes);
    }
}

static const struct ns_line line = {
    .queue = offsetof(ns_barrier, queue),
    .guard = offsetof(ns_barrier, queue),
    .spin = NS_BARRIER_SPIN,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
};

static void
unlock_and_wake(ns_barrier *b, ns_wakes *wakes)
{
    unlock(b);
    ns_wake(wakes);
}

uint64_t
ns_barrier_give_up(ns_barrier *b, ns_waiter *w, bool timed_out)
{
    ns_place *p = &w->place;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    uint64_t outcome = NS_BARRIER_BROKEN;
    lock(b);
    if (ns_is_granted(w)) {
        outcome = p->amount;
        if (b->leader == w) { /* its thread does not get to run the action */
            break_round(b, &wakes);
        }
    }
    else if (timed_out && b->leader != NULL) {
        outcome = NS_BARRIER_WAITS_ON;
    }
    else {
        /* else all have arrived, or it is in a child that it has not arrived in */
        const bool counts = b->leader == NULL && ns_waitq_has(p);
        ns_waitq_remove(&b->queue, p);
        if (counts) {
            break_round(b, &wakes);
        }
    }
    unlock_and_wake(b, &wakes);
    return outcome;
}

bool
ns_barrier_finish(ns_barrier *b, ns_waiter *w, bool succeeded)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock(b);
    bool passed = succeeded;
    if (b->leader == w && succeeded) {
        end_round(b, true, &wakes);
    }
    else if (b->leader == w) {
        break_round(b, &wakes);
    }
    else { /* else its round was ended, or left behind by a fork */
        passed = succeeded && w->place.generation != ns_fork_generation();
    }
    unlock_and_wake(b, &wakes);
    return passed;
}

static void
end_by_force(ns_barrier *b, bool broken)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock(b);
    ns_store(&b->broken, broken, NS_RELEASE);
    end_round(b, false, &wakes);
    unlock_and_wake(b, &wakes);
}

void
ns_barrier_abort(ns_barrier *b)
{
    end_by_force(b, true);
}

void
ns_barrier_reset(ns_barrier *b)
{
    end_by_force(b, false);
}

uint32_t
ns_barrier_arrived(ns_barrier *b)
{
    lock(b);
    uint32_t arrived = b->arrived;
    unlock(b);
    return arrived;
}

static bool
enter_step(void *object, ns_waiter *w)
{
    w->place.amount = ARRIVING;
    return ns_line_enter(&line, object, w);
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_barrier *b = object;
    lock(b);
    const bool is_left = !ns_is_granted(w) && !ns_waitq_has(&w->place);
    unlock(b);
    if (is_left) { /* the queue was left behind by a fork: arrive in the child */
        w->place.amount = ARRIVING;
    }
    ns_line_rejoin(object, w);
}

static void
undo_step(void *object, ns_waiter *w)
{
    (void)object;
    (void)w; /* the others went on: a passed barrier cannot be taken back */
}

const struct ns_wait_steps ns_barrier_steps = {
    .operation = "Barrier.wait",
    .enter = enter_step,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .rejoin = rejoin_step,
    .cancel = ns_line_stay,
    .undo = undo_step,
    .links = true,
    .cancellable = true,
};

const struct ns_wait_steps ns_barrier_steps_in_line = {
    .operation = "Barrier.wait",
    .enter = ns_line_stay,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .rejoin = rejoin_step,
    .cancel = ns_line_stay,
    .undo = undo_step,
    .links = true,
    .cancellable = true,
};
