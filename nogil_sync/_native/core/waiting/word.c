#include "waiting/word.h"

#define SLEEPERS NS_WORD_SLEEPERS

/* The half of the word that threads sleep on: every change that lets them go changes it. */
static _Atomic uint32_t *
low_half(_Atomic uint64_t *word)
{
    return (_Atomic uint32_t *)word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

void
ns_word_wake_slow(_Atomic uint64_t *word)
{
    ns_unpark(low_half(word), NS_ALL);
}

static uint32_t
epoch_of(uint64_t word)
{
    return (uint32_t)(word & NS_WORD_LOW & ~SLEEPERS);
}

static bool
is_served(uint64_t word, const ns_waiter *w)
{
    return word >> 32 == w->place.amount || epoch_of(word) != ns_load(&w->state, NS_RELAXED);
}

bool
ns_word_enter(void *object, ns_waiter *w)
{
    uint64_t word = ns_load((_Atomic uint64_t *)object, NS_ACQUIRE);
    ns_store(&w->state, epoch_of(word), NS_RELAXED);
    return is_served(word, w);
}

enum ns_wait_result
ns_word_wait(void *object, ns_waiter *w, int64_t deadline)
{
    _Atomic uint64_t *at = object;
    for (;;) {
        uint64_t word = ns_load(at, NS_ACQUIRE);
        if (is_served(word, w)) {
            return NS_SERVED;
        }
        if (!(word & SLEEPERS) && !ns_cas(at, &word, word | SLEEPERS, NS_RELAXED)) {
            continue; /* the word changed: look again */
        }
        switch (ns_park(low_half(at), (uint32_t)((word | SLEEPERS) & NS_WORD_LOW), deadline)) {
        case NS_PARK_TIMED_OUT:
            return NS_TIMED_OUT;
        case NS_PARK_INTERRUPTED:
            return NS_INTERRUPTED;
        case NS_PARK_WOKEN:
            break;
        }
    }
}

bool
ns_word_look(void *object, ns_waiter *w)
{
    return is_served(ns_load((_Atomic uint64_t *)object, NS_ACQUIRE), w);
}

void
ns_word_nothing(void *object, ns_waiter *w)
{
    (void)object;
    (void)w;
}
