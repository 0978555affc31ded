#include "event.h"

#define SET NS_EVENT_SET

void
ns_event_set(ns_event *e)
{
    uint64_t word = ns_load(&e->word, NS_RELAXED), next;
    do {
        next = word & SET ? word : ns_word_end(word, 1);
    } while (!ns_cas(&e->word, &word, next, NS_RELEASE));
    ns_word_wake(&e->word, word, next);
}

void
ns_event_clear(ns_event *e)
{
    ns_and(&e->word, ~SET, NS_RELEASE);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    w->place.amount = 1;
    return ns_word_enter(object, w);
}

const struct ns_wait_steps ns_event_steps = {
    .operation = "Event.wait",
    .enter = enter_step,
    .wait = ns_word_wait,
    .leave = ns_word_look,
    .rejoin = ns_word_nothing,
    .cancel = ns_word_look,
    .undo = ns_word_nothing,
};
