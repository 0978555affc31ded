#include "event.h"

#define SET NS_EVENT_SET
#define SLEEPERS NS_EVENT_SLEEPERS
#define EPOCH_MASK (~(NS_EVENT_EPOCH - 1))

void
ns_event_set(ns_event *e)
{
    uint32_t word = ns_load(&e->word, NS_RELAXED), next;
    do {
        next = word & SET ? word : ((word & EPOCH_MASK) + NS_EVENT_EPOCH) | SET;
    } while (!ns_cas(&e->word, &word, next, NS_RELEASE));
    if (word & SLEEPERS) {
        ns_unpark(&e->word, NS_ALL);
    }
}

void
ns_event_clear(ns_event *e)
{
    ns_and(&e->word, ~SET, NS_RELEASE);
}

static bool
served(uint32_t word, const ns_waiter *w)
{
    return (word & SET) || (word & EPOCH_MASK) != ns_load(&w->state, NS_RELAXED);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    ns_event *e = object;
    uint32_t word = ns_load(&e->word, NS_ACQUIRE);
    ns_store(&w->state, word & EPOCH_MASK, NS_RELAXED);
    return word & SET;
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    ns_event *e = object;
    for (;;) {
        uint32_t word = ns_load(&e->word, NS_ACQUIRE);
        if (served(word, w)) {
            return NS_SERVED;
        }
        if (!(word & SLEEPERS) && !ns_cas(&e->word, &word, word | SLEEPERS, NS_RELAXED)) {
            continue;
        }
        switch (ns_park(&e->word, word | SLEEPERS, deadline)) {
        case NS_PARK_TIMED_OUT:
            return NS_TIMED_OUT;
        case NS_PARK_INTERRUPTED:
            return NS_INTERRUPTED;
        case NS_PARK_WOKEN:
            break;
        }
    }
}

/* Leaving and cancelling only look: nothing is linked, nothing was taken. */
static bool
look_step(void *object, ns_waiter *w)
{
    ns_event *e = object;
    return served(ns_load(&e->word, NS_ACQUIRE), w);
}

static void
nothing_step(void *object, ns_waiter *w)
{
    (void)object;
    (void)w;
}

const struct ns_wait_steps ns_event_steps = {
    .enter = enter_step,
    .wait = wait_step,
    .leave = look_step,
    .rejoin = nothing_step,
    .cancel = look_step,
    .undo = nothing_step,
};
