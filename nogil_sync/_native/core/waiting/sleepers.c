#include "waiting/sleepers.h"

static ns_sleeper sleepers[NS_SLOTS];

void
ns_sleeper_begin(const ns_sleep *sleep)
{
    const uint32_t slot = ns_slot();
    if (slot == NS_NO_SLOT) {
        return;
    }
    ns_sleeper *s = &sleepers[slot];
    ns_lock_take(&s->lock);
    s->generation = ns_fork_generation();
    s->count++;
    s->sleep = *sleep;
    s->asleep = true;
    ns_lock_release(&s->lock);
}

void
ns_sleeper_end(void)
{
    const uint32_t slot = ns_slot();
    if (slot == NS_NO_SLOT) {
        return;
    }
    ns_sleeper *s = &sleepers[slot];
    ns_lock_take(&s->lock);
    s->asleep = false;
    ns_lock_release(&s->lock);
}

uint32_t
ns_sleepers(void)
{
    return ns_slots_words() * 64;
}

ns_sleeper *
ns_sleeper_try(uint32_t i, bool *busy)
{
    ns_sleeper *s = &sleepers[i];
    *busy = ns_lock_spin(&s->lock) == NS_LOCK_BUSY;
    if (*busy) {
        return NULL;
    }
    if (s->asleep && s->generation == ns_fork_generation()) {
        return s;
    }
    ns_lock_release(&s->lock);
    return NULL;
}

void
ns_sleeper_release(ns_sleeper *s)
{
    ns_lock_release(&s->lock);
}
