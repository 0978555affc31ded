/* segment.h: one segment of a table: its size, its counts, its entries and their tags.
 *
 * For the files of this folder; functions without ns_ in their name are of it alone. A segment's
 * states, and those of its entries, are in table.h, 1 and 2. What changes a segment needs its lock.
 */
#ifndef NS_SEGMENT_H
#define NS_SEGMENT_H

#include "table/table.h"

#define NS_SEGMENT_MIN NS_GROUP /* entries */

/* ---- Size ---- */

static inline uint32_t
slots_of(const ns_segment *s)
{
    return (s->mask + 1) * NS_GROUP;
}

static inline uint64_t
lowest_bit_of_prefix(uint8_t depth)
{
    return UINT64_C(1) << (64 - depth);
}

static inline uint32_t
limit_of(const ns_segment *s)
{
    return (s->mask + 1) * (NS_GROUP - 1);
}

/* The size for n entries, with some to spare. */
static inline uint32_t
slots_for(uint32_t n)
{
    uint32_t slots = NS_SEGMENT_MIN;
    while ((uint64_t)n * 8 > (uint64_t)slots * 5) {
        slots *= 2;
    }
    return slots;
}

/* The offset of a segment's entries: after the tags, at a cache line. */
static inline size_t
entries_at(size_t groups)
{
    size_t end = offsetof(ns_segment, tags) + groups * sizeof(uint64_t);
    return (end + NS_LINE - 1) / NS_LINE * NS_LINE;
}

static inline size_t
bytes_of(const ns_segment *s)
{
    return entries_at(s->mask + (size_t)1) + slots_of(s) * sizeof(ns_entry);
}

/* ---- State and counts ---- */

static inline enum ns_segment_state
state_of(const ns_segment *s)
{
    return ns_load(&s->state, NS_RELAXED);
}

static inline void
bump(_Atomic uint32_t *count, uint32_t by)
{
    ns_store(count, ns_load(count, NS_RELAXED) + by, NS_RELAXED);
}

static inline uint32_t
dead_in(const ns_segment *s)
{
    return ns_load(&s->dead, NS_RELAXED);
}

static inline uint32_t
sweep_base(const ns_segment *s)
{
    uint32_t part = slots_of(s) / 8;
    return part > NS_SWEEP ? part : NS_SWEEP;
}

/* ---- Meetings of writers ---- */

/* Whether the tags of all groups lie on the line of the lock. */
static inline bool
is_small(const ns_segment *s)
{
    return s->mask < NS_SMALL;
}

static inline void
wait_for_meetings(ns_segment *s)
{
    const uint64_t n = is_small(s) ? NS_FIGHTS * NS_FIGHT : (s->mask + UINT64_C(1)) * NS_MEETINGS;
    s->patience = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
}

/* Counts meetings of writers. The caller holds the lock. */
static inline void
meet(ns_segment *s, uint16_t times)
{
    s->patience -= s->patience < times ? s->patience : times;
}

/* ---- Entries ---- */

static inline uint64_t
tag_at(const ns_segment *s, size_t index)
{
    return ns_load(&s->tags[index / NS_GROUP], NS_RELAXED) >> 8 * (index % NS_GROUP) & 0xff;
}

/* Whether the entry's words hold anything: see table.h, 2. */
static inline bool
is_used(const ns_segment *s, size_t index)
{
    return tag_at(s, index) != NS_TAG_EMPTY;
}

/* Whether an entry with this value is dead and owns its key. */
static inline bool
owns_dead_key(uintptr_t value)
{
    return (value & NS_DEAD) && !(value & NS_GONE);
}

/* ---- Segments ---- */

/* Returns a new segment, locked. NULL if there is no memory. */
ns_segment *ns_segment_new(ns_table *t, uint64_t prefix, uint8_t depth, uint32_t slots);
/* Frees dead entries that are safe. */
void ns_segment_sweep(ns_segment *s, ns_garbage *garbage);
/* Lets the values of a segment be replaced again, after a rebuild that failed. */
void ns_segment_thaw(ns_segment *s);
/* Repairs a segment whose lock was held by a thread that did not survive a fork. Some thread may
 * read the segment, if only the caller. So the keys get a stamp even if this thread is alone. */
void ns_segment_repair(ns_segment *s);

#endif
