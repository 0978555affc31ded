#include "waiting/word.h"

#include "waiting/select.h"

#define SLEEPERS NS_WORD_SLEEPERS

/* The half of the word that threads sleep on: every change that lets them go changes it. */
static _Atomic uint32_t *
low_half(_Atomic uint64_t *word)
{
    return (_Atomic uint32_t *)word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

static uint32_t
epoch_of(uint64_t word)
{
    return (uint32_t)(word & NS_WORD_LOW & ~SLEEPERS);
}

static bool
is_past(uint64_t word, uint64_t value, uint32_t epoch)
{
    return word >> 32 == value || epoch_of(word) != epoch;
}

static bool
is_served(uint64_t word, const ns_waiter *w)
{
    return is_past(word, w->place.amount, ns_load(&w->state, NS_RELAXED));
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

/* ---- Places on words ---- */

#define QUEUES_BITS 6

static struct {
    _Alignas(NS_CACHE_LINE) ns_waitq queue;
} queues[1 << QUEUES_BITS];

static ns_waitq *
queue_of(const void *object)
{
    uint64_t hash = (uint64_t)(uintptr_t)object * UINT64_C(0x9e3779b97f4a7c15);
    return &queues[hash >> (64 - QUEUES_BITS)].queue;
}

static void
lock(void *object)
{
    ns_waitq_lock(queue_of(object));
}

static void
unlock(void *object)
{
    ns_waitq_unlock(queue_of(object));
}

static void
link_place(void *object, ns_place *p)
{
    uint64_t word = ns_load((_Atomic uint64_t *)object, NS_RELAXED);
    if (word >> 32 == p->amount) {
        word -= NS_WORD_EPOCH; /* it came too late for that epoch: it is served, whatever follows */
    }
    else {
        word = ns_or((_Atomic uint64_t *)object, SLEEPERS, NS_RELAXED);
    }
    p->epoch = epoch_of(word);
    ns_waitq_push(queue_of(object), p);
}

/* Serves all places on the word that its changes have let go. */
static void
serve(void *object, ns_wakes *wakes)
{
    const uint64_t word = ns_load((_Atomic uint64_t *)object, NS_ACQUIRE);
    ns_waitq *q = queue_of(object);
    for (ns_place *p = q->head, *next; p != NULL; p = next) {
        next = p->next;
        if (p->object == object && !p->away && is_past(word, p->amount, p->epoch) && ns_claim(p)) {
            ns_grant(q, p, wakes);
        }
    }
}

static enum ns_look
look(void *object, uint64_t value)
{
    const uint64_t word = ns_load((_Atomic uint64_t *)object, NS_RELAXED);
    return word >> 32 == value ? NS_READY : NS_NOT_READY;
}

static const struct ns_outlook outlook = {.look = look};

const struct ns_line ns_word_line = {
    .outside = queue_of,
    .is_alike = true,
    .lock = lock,
    .link = link_place,
    .serve = serve,
    .unlock = unlock,
    .outlook = &outlook,
};

void
ns_word_wake_slow(_Atomic uint64_t *word)
{
    ns_wakes wakes;
    ns_unpark(low_half(word), NS_ALL);
    ns_wakes_init(&wakes);
    lock(word);
    ns_line_serve_and_unlock(&ns_word_line, word, &wakes);
}

static bool
enter_place(void *object, ns_waiter *w)
{
    return ns_line_enter(&ns_word_line, object, w);
}

const struct ns_wait_steps ns_word_place_steps = {
    .enter = enter_place,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = ns_word_nothing,
    .links = true,
    .cancellable = true,
};
