/* housekeeping.c: what a writer does when it unlocks a segment, and after that (table.h, 6). */
#include "table/directory.h"
#include "table/rebuild.h"
#include "table/retired.h"

/* Whether there are so few live entries that the segment could be smaller. */
static inline bool
is_sparse(const ns_segment *s)
{
    /* Fewer than groups: an eighth of the entries. */
    return ns_load(&s->live, NS_RELAXED) <= s->mask &&
           (s->mask >= NS_SEGMENT_FLOOR / NS_GROUP || s->depth > 0);
}

static __attribute__((noinline)) void
tidy(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    if (s->patience == 0) {
        s = ns_rebuild_spread_out(t, s, garbage);
    }
    while (is_sparse(s)) {
        ns_segment *new = ns_rebuild_merge(t, s, garbage);
        if (new == NULL) {
            uint32_t slots = slots_for(ns_load(&s->live, NS_RELAXED));
            slots = slots < NS_SEGMENT_FLOOR ? NS_SEGMENT_FLOOR : slots;
            new = slots < slots_of(s) ? ns_rebuild_resize(t, s, slots, garbage) : NULL;
            s = new != NULL ? new : s;
            break;
        }
        s = new;
    }
    bool waits = dead_in(s) >= s->sweep_at;
    if (waits && s->swept < ns_epoch_safe()) { /* other segments had a thread poll */
        ns_segment_sweep(s, garbage);
        waits = dead_in(s) >= s->sweep_at && garbage->count < NS_GARBAGE;
    }
    if (waits) {
        /* a poll may find nothing safe: do not sweep every time */
        s->sweep_at = dead_in(s) + sweep_base(s);
        garbage->waits |= NS_DEAD_WAIT;
        garbage->prefix = s->prefix;
        garbage->swept = s->swept;
    }
    ns_lock_release_as(&s->lock, NS_SEQ_CST);
}

static inline void
leave(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    if (ns_unlikely(dead_in(s) >= s->sweep_at || s->patience == 0 || is_sparse(s))) {
        tidy(t, s, garbage);
    }
    else {
        ns_lock_release_as(&s->lock, NS_SEQ_CST);
    }
}

__attribute__((noinline)) void
ns_table_settle_now(ns_table *t, ns_garbage *garbage)
{
    const uint8_t waits = garbage->waits;
    uint64_t safe = ns_epoch_safe();
    garbage->waits = 0;
    if (waits & NS_DEAD_WAIT && ns_epoch_poll_if_due() > garbage->swept) {
        ns_segment *s = ns_table_lock(t, garbage->prefix);
        ns_segment_sweep(s, garbage);
        ns_lock_release(&s->lock);
    }
    if (waits & NS_SEGMENTS_WAIT) {
        const uint64_t before = safe;
        safe = ns_epoch_poll_if_due();
        if (safe > before) {
            ns_structure_lock(t);
            ns_retired_reap(t, garbage);
            ns_structure_unlock(t);
        }
    }
    if (waits & NS_KEYS_WAIT) {
        if (ns_limbo_is_due(garbage->list, 2 * NS_SWEEP)) {
            safe = ns_epoch_poll_if_due();
            garbage->count += ns_limbo_take_left(
                &t->limbo, safe, garbage->keys + garbage->count, NS_GARBAGE - garbage->count);
        }
        garbage->count += ns_limbo_take(
            garbage->list, safe, garbage->keys + garbage->count, NS_GARBAGE - garbage->count);
    }
    if (waits & NS_KEYS_LEFT) {
        safe = ns_epoch_poll_if_due();
        garbage->count += ns_limbo_take_alone(
            &t->limbo, safe, garbage->keys + garbage->count, NS_GARBAGE - garbage->count);
    }
}

void
ns_table_leave(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    leave(t, s, garbage);
}

void
ns_table_unlock(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    leave(t, s, garbage);
    ns_table_settle(t, garbage);
}
