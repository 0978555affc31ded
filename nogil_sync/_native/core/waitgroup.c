#include "waitgroup.h"

#include "waiting/backoff.h"

#define SLEEPERS UINT64_C(1)
#define EPOCH UINT64_C(2)
#define LOW UINT64_C(0xffffffff)
#define EPOCH_MASK (LOW & ~(EPOCH - 1))

/* The half of the word that every zero changes. */
static _Atomic uint32_t *
low_half(ns_waitgroup *g)
{
    return (_Atomic uint32_t *)&g->word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

/* One attempt. False: another thread changed the word in between. */
static inline bool
add_once(ns_waitgroup *g, int64_t n, enum ns_waitgroup_result *result)
{
    uint64_t word = ns_load(&g->word, NS_RELAXED);
    const int64_t count = (int64_t)(word >> 32);
    if (n < -count) {
        *result = NS_BELOW_ZERO;
        return true;
    }
    if (n > NS_WAITGROUP_MOST - count) {
        *result = NS_TOO_LARGE;
        return true;
    }
    uint64_t low = word & LOW;
    if (count + n == 0 && count != 0) {
        low = (low + EPOCH) & EPOCH_MASK;
    }
    const uint64_t next = (uint64_t)(count + n) << 32 | low;
    if (!ns_cas(&g->word, &word, next, NS_RELEASE)) {
        return false;
    }
    if (ns_unlikely(word & ~next & SLEEPERS)) {
        ns_unpark(low_half(g), NS_ALL);
    }
    *result = NS_ADDED;
    return true;
}

/* Apart, so that the first attempt has no registers to save for it. */
static __attribute__((noinline)) enum ns_waitgroup_result
add_again(ns_waitgroup *g, int64_t n)
{
    int64_t pause = NS_BACK_OFF_FIRST;
    enum ns_waitgroup_result result;
    do {
        ns_back_off(&pause);
    } while (!add_once(g, n, &result));
    return result;
}

enum ns_waitgroup_result
ns_waitgroup_add(ns_waitgroup *g, int64_t n)
{
    enum ns_waitgroup_result result;
    return ns_likely(add_once(g, n, &result)) ? result : add_again(g, n);
}

static bool
served(uint64_t word, const ns_waiter *w)
{
    return word >> 32 == 0 || (word & EPOCH_MASK) != ns_load(&w->state, NS_RELAXED);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    ns_waitgroup *g = object;
    uint64_t word = ns_load(&g->word, NS_ACQUIRE);
    ns_store(&w->state, (uint32_t)(word & EPOCH_MASK), NS_RELAXED);
    return word >> 32 == 0;
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    ns_waitgroup *g = object;
    for (;;) {
        uint64_t word = ns_load(&g->word, NS_ACQUIRE);
        if (served(word, w)) {
            return NS_SERVED;
        }
        if (!(word & SLEEPERS) && !ns_cas(&g->word, &word, word | SLEEPERS, NS_RELAXED)) {
            continue;
        }
        switch (ns_park(low_half(g), (uint32_t)((word | SLEEPERS) & LOW), deadline)) {
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
    ns_waitgroup *g = object;
    return served(ns_load(&g->word, NS_ACQUIRE), w);
}

static void
nothing_step(void *object, ns_waiter *w)
{
    (void)object;
    (void)w;
}

const struct ns_wait_steps ns_waitgroup_steps = {
    .enter = enter_step,
    .wait = wait_step,
    .leave = look_step,
    .rejoin = nothing_step,
    .cancel = look_step,
    .undo = nothing_step,
};
