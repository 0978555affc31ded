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

/* The record, whose lock the caller has taken, if its thread sleeps; else releases the lock. */
static ns_sleeper *
if_asleep(ns_sleeper *s)
{
    if (s->asleep && s->generation == ns_fork_generation()) {
        return s;
    }
    ns_lock_release(&s->lock);
    return NULL;
}

ns_sleeper *
ns_sleeper_take(uint32_t i)
{
    ns_lock_take(&sleepers[i].lock);
    return if_asleep(&sleepers[i]);
}

ns_sleeper *
ns_sleeper_try(uint32_t i, bool *busy)
{
    if (ns_lock_spin(&sleepers[i].lock) == NS_LOCK_BUSY) {
        *busy = true;
        return NULL;
    }
    return if_asleep(&sleepers[i]);
}

void
ns_sleeper_release(ns_sleeper *s)
{
    ns_lock_release(&s->lock);
}
