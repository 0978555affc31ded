/* wheel.h: the timing wheel of a cache, with the entries that have a deadline (cache.h, 6). */
#ifndef NS_CACHE_WHEEL_H
#define NS_CACHE_WHEEL_H

#include "cache/list.h"

/* Makes the cache's wheel. Returns NULL if there is no memory. */
ns_cache_wheel *ns_cache_wheel_make(ns_cache *c, int64_t now);

/* Returns the cache's wheel, which is made for the first entry with a deadline. NULL if there is no
 * memory. */
static inline ns_cache_wheel *
wheel_of(ns_cache *c, int64_t now)
{
    ns_cache_wheel *w = ns_load(&c->wheel, NS_RELAXED);
    return w != NULL ? w : ns_cache_wheel_make(c, now);
}

static inline unsigned
shift_of(unsigned level)
{
    return NS_CACHE_TICK + 6 * level;
}

/* Puts an entry, which must not be there, into the slot of its deadline. */
static inline void
schedule(ns_cache_wheel *w, ns_cache_entry *e)
{
    int64_t deadline = ns_load(&e->deadline, NS_RELAXED);
    deadline = deadline > w->time ? deadline : w->time;
    const uint64_t rest = (uint64_t)deadline - (uint64_t)w->time;
    unsigned level = 0;
    while (level < NS_CACHE_LEVELS - 1 && rest >> shift_of(level + 1) != 0) {
        level++;
    }
    int64_t tick = deadline >> shift_of(level);
    if (rest >> shift_of(level) >= NS_CACHE_SLOTS) { /* beyond the wheel: look again at its end */
        tick = (w->time >> shift_of(level)) + NS_CACHE_SLOTS - 1;
    }
    push(&w->slots[level][tick & (NS_CACHE_SLOTS - 1)], &e->timer);
}

static inline void
unschedule(ns_cache_entry *e)
{
    if (e->timer.next != NULL) {
        unlink_from_list(&e->timer);
    }
}

/* Turns the wheel to another tick; `back`: to an earlier one. */
void ns_cache_wheel_advance(ns_cache_wheel *w, int64_t now, bool back);

/* Makes the entries pending whose slots have come. */
static inline void
turn(ns_cache_wheel *w, int64_t now, bool steady)
{
    const bool back = now < w->time;
    if (now >> NS_CACHE_TICK == w->time >> NS_CACHE_TICK || (back && steady)) {
        return;
    }
    ns_cache_wheel_advance(w, now, back);
}

#endif
