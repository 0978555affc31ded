#include "grant.h"

/* Fork generation << 32 | how many spin: those of a parent process do not count in the child. */
static _Atomic uint64_t spinning;

bool
ns_spin_begin(void)
{
    const uint64_t none = (uint64_t)ns_fork_generation() << 32;
    uint64_t word = ns_load(&spinning, NS_RELAXED), count;
    do {
        count = word > none ? word - none : 0;
        if (count >= ns_cpu_count() / 2) {
            return false;
        }
    } while (!ns_cas(&spinning, &word, none + count + 1, NS_RELAXED));
    return true;
}

void
ns_spin_end(void)
{
    ns_sub(&spinning, 1, NS_RELAXED);
}

void
ns_grant(ns_waitq *q, ns_waiter *w, ns_wakes *wakes)
{
    ns_waitq_remove(q, w);
    if (ns_swap(&w->state, NS_GRANTED, NS_RELEASE) == NS_ASLEEP) {
        if (wakes->count == NS_WAKES) {
            ns_wake(wakes);
        }
        wakes->words[wakes->count++] = &w->state;
    }
}

void
ns_wake(ns_wakes *wakes)
{
    for (unsigned i = 0; i < wakes->count; i++) {
        ns_unpark(wakes->words[i], 1);
    }
    wakes->count = 0;
}

static void
spin_until(ns_waiter *w, int64_t end)
{
    if (ns_spin_begin()) {
        while (ns_load(&w->state, NS_RELAXED) != NS_GRANTED && ns_now() < end) {
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
        if (ns_is_granted(w)) {
            return NS_SERVED;
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
