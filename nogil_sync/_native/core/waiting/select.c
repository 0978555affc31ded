#include "waiting/select.h"

#include "memory/slots.h"

#include <stdlib.h>

ns_selector *
ns_selector_new(uint32_t count)
{
    const size_t each = sizeof(ns_place) + sizeof(ns_place *) + sizeof(uint32_t);
    ns_selector *s = calloc(1, sizeof(ns_selector) + count * each);
    if (s != NULL) {
        s->waiter.selector = s;
        s->by_lock = (ns_place **)&s->places[count];
        s->order = (uint32_t *)&s->by_lock[count];
    }
    return s;
}

/* The waiter comes first, so its memory is the selector's. */
_Static_assert(offsetof(ns_selector, waiter) == 0, "ns_waiter_free frees the selector");

void
ns_selector_free(ns_selector *s)
{
    ns_waiter_free(&s->waiter);
}

void
ns_selector_add(ns_selector *s, const struct ns_line *line, void *object, uint64_t amount)
{
    const uint32_t n = s->count++;
    ns_place *p = &s->places[n];
    p->waiter = &s->waiter;
    p->line = line;
    p->object = object;
    p->amount = amount;
    s->by_lock[n] = p;
    s->order[n] = n;
    s->is_sorted = false;
}

/* ---- Claims ---- */

bool
ns_claim_selector(ns_place *p)
{
    ns_selector *s = p->waiter->selector;
    uint32_t nobody = 0;
    if (ns_cas(&s->claim, &nobody, (uint32_t)(p - s->places) + 1, NS_RELAXED)) {
        return true;
    }
    ns_waitq_remove(ns_place_queue(p), p);
    return false;
}

bool
ns_claim_both(ns_place *p, ns_place *q)
{
    if (!ns_claim(p)) {
        return false;
    }
    if (ns_claim(q)) {
        return true;
    }
    if (p->waiter->selector != NULL) { /* q is parked, so p is active */
        ns_store(&p->waiter->selector->claim, 0, NS_RELAXED);
    }
    return false;
}

/* ---- All locks ---- */

static int
compare_addresses(const void *left, const void *right)
{
    const uintptr_t l = (uintptr_t)left, r = (uintptr_t)right;
    return (l > r) - (l < r);
}

/* By lock, and then by line, so that places in the same line are neighbours. */
static int
compare_locks(const void *left, const void *right)
{
    ns_place *l = *(ns_place *const *)left, *r = *(ns_place *const *)right;
    int order = compare_addresses(ns_place_lock(l), ns_place_lock(r));
    order = order != 0 ? order : compare_addresses(l->object, r->object);
    return order != 0 ? order : compare_addresses(l->line, r->line);
}

/* Whether the n-th place in the order of locks is the first with its lock. */
static bool
is_first_with_lock(const ns_selector *s, uint32_t n)
{
    return n == 0 || ns_place_lock(s->by_lock[n]) != ns_place_lock(s->by_lock[n - 1]);
}

static void
lock_all(ns_selector *s)
{
    for (uint32_t n = 0; n < s->count; n++) {
        ns_place *p = s->by_lock[n];
        if (is_first_with_lock(s, n)) {
            p->line->lock(p->object);
        }
    }
}

static void
unlock_all(ns_selector *s)
{
    for (uint32_t n = 0; n < s->count; n++) {
        ns_place *p = s->by_lock[n];
        if (is_first_with_lock(s, n)) {
            p->line->unlock(p->object);
        }
    }
}

static void
unlink_place(ns_place *p)
{
    ns_waitq_remove(ns_place_queue(p), p);
}

static void
mark_away(ns_place *p)
{
    p->away = true;
}

/* Calls change() for each place, with its lock held: one lock after the other. */
static void
for_each_place(ns_selector *s, void (*change)(ns_place *p))
{
    for (uint32_t n = 0; n < s->count;) {
        ns_place *first = s->by_lock[n];
        first->line->lock(first->object);
        do {
            change(s->by_lock[n++]);
        } while (n < s->count && !is_first_with_lock(s, n));
        first->line->unlock(first->object);
    }
}

/* ---- Serving itself ---- */

uint32_t
ns_random_below(uint32_t limit)
{
    static NS_THREAD_LOCAL uint32_t seed;
    if (seed == 0) {
        seed = (uint32_t)((uintptr_t)&seed ^ (uint64_t)ns_now()) | 1;
    }
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return (uint32_t)(((uint64_t)seed * limit) >> 32);
}

/* Links one place after the other in random order, and serves each line once, until one serves s.
 * If one does, or `stays` is false, no place is linked afterwards. `fresh`: for the first time. */
static bool
try_each(ns_selector *s, ns_wakes *wakes, bool fresh, bool stays)
{
    bool served = false;
    for (uint32_t n = 0; n < s->count; n++) {
        s->places[n].tried = false;
    }
    for (uint32_t n = 0; n < s->count && !served; n++) {
        const uint32_t other = n + ns_random_below(s->count - n), chosen = s->order[other];
        ns_place *p = &s->places[chosen];
        s->order[other] = s->order[n];
        s->order[n] = chosen;
        if (fresh || !ns_waitq_has(p)) {
            ns_place_link(p, fresh);
        }
        p->away = false;
        ns_place *first = &s->places[p->first];
        if (!first->tried) { /* else a place like this one is in line, and was not served */
            first->tried = true;
            p->line->serve(p->object, wakes);
            served = ns_is_granted(&s->waiter);
        }
    }
    for (uint32_t n = 0; n < s->count && (served || !stays); n++) {
        unlink_place(&s->places[n]);
    }
    return served;
}

static void
sort_by_lock(ns_selector *s)
{
    if (!s->is_sorted) {
        qsort(s->by_lock, s->count, sizeof(ns_place *), compare_locks);
        for (uint32_t n = 0; n < s->count; n++) {
            ns_place *p = s->by_lock[n], *before = n > 0 ? s->by_lock[n - 1] : p;
            const bool is_alike = p->line == before->line && p->object == before->object;
            p->first = is_alike && n > 0 ? before->first : (uint32_t)(p - s->places);
        }
        s->is_sorted = true;
    }
}

/* `enter` if `stays`, else ns_selector_try. */
static bool
begin(ns_selector *s, bool stays)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    sort_by_lock(s);
    lock_all(s);
    const bool is_called = ns_begin_entering(&s->waiter);
    try_each(s, &wakes, true, stays);
    const bool served = ns_end_entering(&s->waiter, is_called);
    unlock_all(s);
    ns_wake(&wakes);
    return served;
}

bool
ns_selector_try(ns_selector *s)
{
    return begin(s, false);
}

/* ---- Lingering ---- */

static enum ns_look
look_at(const ns_place *p)
{
    return p->line->outlook->look(p->object, p->amount);
}

static enum ns_look
look_at_all(void *selector)
{
    const ns_selector *s = selector;
    enum ns_look found = NS_NOT_READY;
    for (uint32_t n = 0; n < s->count; n++) {
        switch (look_at(&s->places[n])) {
        case NS_READY:
            return NS_READY;
        case NS_FROZEN:
            found = NS_FROZEN;
            break;
        case NS_NOT_READY:
            break;
        }
    }
    return found;
}

bool
ns_selector_linger(ns_selector *s)
{
    int64_t pace = 0;
    for (uint32_t n = 0; n < s->count; n++) {
        const struct ns_outlook *outlook = s->places[n].line->outlook;
        const int64_t of_line = outlook->pace != NULL ? outlook->pace(s->places[n].object) : 0;
        pace = of_line > pace ? of_line : pace;
    }
    if (pace == 0 || ns_linger(look_at_all, s, &pace) != NS_READY) {
        return false;
    }
    for (uint32_t n = 0; n < s->count && pace != 0; n++) {
        const ns_place *p = &s->places[n];
        if (p->line->outlook->adapt != NULL && look_at(p) == NS_READY) {
            p->line->outlook->adapt(p->object, pace);
        }
    }
    return true;
}

/* ---- Waiting ---- */

static bool
enter_step(void *object, ns_waiter *w)
{
    (void)w;
    return begin(object, true);
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    ns_selector *s = object;
    int64_t spin = 0;
    for (uint32_t n = 0; n < s->count; n++) {
        const int64_t of_line = s->places[n].line->spin;
        spin = of_line > spin ? of_line : spin;
    }
    enum ns_wait_result result = ns_await_grant(w, deadline, spin);
    if (result == NS_SERVED) {
        for_each_place(s, unlink_place);
    }
    return result;
}

static bool
leave_step(void *object, ns_waiter *w)
{
    for_each_place(object, mark_away);
    const bool served = ns_is_granted(w);
    if (served) {
        for_each_place(object, unlink_place);
    }
    return served;
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    (void)w;
    lock_all(object);
    try_each(object, &wakes, false, true);
    unlock_all(object);
    ns_wake(&wakes);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    for_each_place(object, unlink_place);
    return ns_is_granted(w);
}

static void
undo_step(void *object, ns_waiter *w)
{
    ns_selector *s = object;
    ns_place *p = &s->places[ns_selector_chosen(s)];
    (void)w;
    if (p->line->give_back != NULL) {
        p->line->give_back(p->object, p);
    }
}

const struct ns_wait_steps ns_select_steps = {
    .operation = "select",
    .enter = enter_step,
    .wait = wait_step,
    .leave = leave_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
    .links = true,
    .cancellable = true,
};
