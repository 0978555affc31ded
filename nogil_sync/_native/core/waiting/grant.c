#include "waiting/grant.h"

#include "memory/slots.h"

#include <stdlib.h>

ns_waiter *
ns_waiter_new(void)
{
    return calloc(1, sizeof(ns_waiter));
}

void
ns_waiter_lend(ns_waiter *w)
{
    ns_store(&w->state, NS_KEPT, NS_RELAXED);
}

/* The owner's thread and the object's each come here once. The second frees. */
void
ns_waiter_return(ns_waiter *w)
{
    if (ns_swap(&w->state, NS_FREED, NS_RELEASE) == NS_FREED) {
        (void)ns_load(&w->state, NS_ACQUIRE); /* what the first did comes before */
        free(w);
    }
}

void
ns_waiter_free(ns_waiter *w)
{
    const uint32_t state = w != NULL ? ns_load(&w->state, NS_RELAXED) : NS_WAITING;
    if (ns_unlikely(state == NS_KEPT || state == NS_FREED)) {
        ns_waiter_return(w);
    }
    else {
        free(w);
    }
}

/* ---- Turns at spinning ---- */

#define TURNS 64 /* for 128 processors; of more, less than half may spin */
#define TRIES 2

static struct turn {
    _Alignas(NS_CACHE_LINE) _Atomic uint32_t word;
} turns[TURNS];
static _Atomic uint32_t homes; /* how many were given out */
static NS_THREAD_LOCAL uint32_t home; /* + 1; 0: none yet */
static NS_THREAD_LOCAL struct turn *mine;

/* The value of a turn's word while a thread of this process holds it. */
static uint32_t
taken_word(void)
{
    return ns_fork_generation() + 1;
}

static uint32_t
turn_count(void)
{
    uint32_t pairs = ns_cpu_count() / 2;
    return pairs < TURNS ? pairs : TURNS;
}

static bool
take_turn(struct turn *turn)
{
    uint32_t word = ns_load(&turn->word, NS_RELAXED);
    return word != taken_word() && ns_cas(&turn->word, &word, taken_word(), NS_RELAXED);
}

bool
ns_spin_begin(void)
{
    const uint32_t count = turn_count();
    if (count == 0 || mine != NULL) {
        return false;
    }
    if (home == 0) {
        home = ns_add(&homes, 1, NS_RELAXED) + 1;
    }
    for (uint32_t n = 0; n < TRIES && mine == NULL; n++) {
        struct turn *turn = &turns[(home + n * (count / TRIES)) % count];
        mine = take_turn(turn) ? turn : NULL;
    }
    return mine != NULL;
}

void
ns_spin_end(void)
{
    ns_store(&mine->word, 0, NS_RELAXED);
    mine = NULL;
}

unsigned
ns_spinners(void)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < TURNS; i++) {
        count += ns_load(&turns[i].word, NS_RELAXED) == taken_word();
    }
    return count;
}

/* ---- Serving ---- */

void (*ns_call_waiters)(ns_waiter *served);

/* May be called under a queue's lock, if there are more sleepers than fit. */
static void
wake_sleepers(ns_wakes *wakes)
{
    for (unsigned i = 0; i < wakes->count; i++) {
        ns_unpark(wakes->words[i], 1);
    }
    wakes->count = 0;
}

void
ns_wakes_call(ns_wakes *wakes, ns_waiter *w)
{
    w->next_called = NULL;
    *(wakes->called != NULL ? &wakes->last_called->next_called : &wakes->called) = w;
    wakes->last_called = w;
}

void
ns_grant(ns_waitq *q, ns_place *p, ns_wakes *wakes)
{
    ns_waiter *w = p->waiter;
    ns_waitq_remove(q, p);
    switch (ns_swap(&w->state, NS_GRANTED, NS_RELEASE)) {
    case NS_ASLEEP:
        if (wakes->count == NS_WAKES) {
            wake_sleepers(wakes);
        }
        wakes->words[wakes->count++] = &w->state;
        break;
    case NS_CALLED:
        ns_wakes_call(wakes, w);
        break;
    default: /* it is awake */
        break;
    }
}

void
ns_wake(ns_wakes *wakes)
{
    wake_sleepers(wakes);
    if (ns_unlikely(wakes->called != NULL)) {
        ns_waiter *called = wakes->called;
        wakes->called = NULL;
        ns_call_waiters(called);
    }
    while (ns_unlikely(wakes->lent != NULL)) {
        ns_waiter *w = wakes->lent->waiter;
        wakes->lent = wakes->lent->next;
        ns_waiter_return(w);
    }
}

bool
ns_waiter_cancel(ns_waiter *w)
{
    uint32_t state = ns_load(&w->state, NS_RELAXED);
    do {
        if (state != NS_WAITING && state != NS_ASLEEP) {
            return false;
        }
    } while (!ns_cas(&w->state, &state, NS_CANCELLED, NS_RELEASE));
    if (state == NS_ASLEEP) {
        ns_unpark(&w->state, 1);
    }
    return true;
}

static void
spin_until(ns_waiter *w, int64_t end)
{
    if (ns_spin_begin()) {
        while (ns_load(&w->state, NS_RELAXED) == NS_WAITING && ns_now() < end) {
            ns_pause();
        }
        ns_spin_end();
    }
}

enum ns_wait_result
ns_await_grant(ns_waiter *w, int64_t deadline, int64_t spin)
{
    if (spin != 0 && ns_load(&w->state, NS_RELAXED) == NS_WAITING) {
        int64_t end = ns_now() + spin;
        spin_until(w, end < deadline ? end : deadline);
    }
    for (;;) {
        uint32_t state = NS_WAITING;
        ns_cas(&w->state, &state, NS_ASLEEP, NS_RELAXED);
        state = ns_load(&w->state, NS_ACQUIRE);
        if (state == NS_GRANTED) {
            return NS_SERVED;
        }
        if (state == NS_CANCELLED) {
            return NS_WAS_CANCELLED;
        }
        switch (ns_park(&w->state, NS_ASLEEP, deadline)) {
        case NS_PARK_TIMED_OUT:
            return NS_TIMED_OUT;
        case NS_PARK_INTERRUPTED:
            return NS_INTERRUPTED;
        case NS_PARK_WOKEN:
            break;
        }
    }
}
