#include "table/rebuild.h"

#include "table/directory.h"

#include <stdlib.h>

#define DEEPEST 32
#define REFUSED 64    /* batches updates of the table's shared count */
/* this many refused merges, and segments that writers contended for may be merged */
#define UNNEEDED 4096

/* Returns a live entry of its groups from *group on, or NULL. */
static ns_entry *
any_entry(ns_segment *s, uint32_t *group)
{
    for (; *group <= s->mask; ++*group) {
        uint64_t bits = ns_load(&s->tags[*group], NS_RELAXED) & NS_TAG_HIGH;
        if (bits != 0) {
            return &s->entries[(size_t)*group * NS_GROUP + ns_tag_index(bits)];
        }
    }
    return NULL;
}

/* Freezes the live entries of `old`, and copies them to the new segments that cover them. The
 * groups are visited in the order of a search for one hash. So if all entries have one hash, as can
 * happen, they keep the order of their insertion, and searches cost what they cost in a dict. */
static void
fill(ns_segment *old, ns_segment *new[2])
{
    uint32_t g = 0, counts[2] = {0, 0};
    ns_entry *first = any_entry(old, &g);
    g = first != NULL ? (uint32_t)ns_load(&first->hash, NS_RELAXED) & old->mask : 0;
    const uint64_t middle = new[1] != NULL ? new[1]->prefix : UINT64_MAX;
    for (uint32_t turn = 0; turn <= old->mask; g = (g + ++turn) & old->mask) {
        uint64_t bits = ns_load(&old->tags[g], NS_RELAXED) & NS_TAG_HIGH;
        for (; bits != 0; bits &= bits - 1) {
            ns_entry *from = &old->entries[(size_t)g * NS_GROUP + ns_tag_index(bits)];
            uint64_t hash = ns_load(&from->hash, NS_RELAXED);
            bool upper = hash >= middle && new[1] != NULL;
            ns_segment *s = new[upper];
            uint32_t to = (uint32_t)hash & s->mask, step = 0;
            uint64_t tags, empty;
            while ((empty = ns_tags_zero(tags = ns_load(&s->tags[to], NS_RELAXED))) == 0) {
                to = (to + ++step) & s->mask;
            }
            unsigned i = ns_tag_index(empty);
            ns_entry *e = &s->entries[(size_t)to * NS_GROUP + i];
            ns_store(&e->key, ns_load(&from->key, NS_RELAXED), NS_RELAXED);
            ns_store(&e->hash, hash, NS_RELAXED);
            /* Acquire: what came with the value is seen with its copy too. After this the value
             * does not change. */
            ns_or(&from->value, NS_FROZEN, NS_ACQUIRE);
            ns_store(&e->value, ns_load(&from->value, NS_RELAXED) & ~NS_FROZEN, NS_RELAXED);
            /* An EMPTY tag is 0. No other thread sees the segment yet; the directory publishes all
             * of it. */
            ns_store(&s->tags[to], tags | ns_tag(hash) << 8 * i, NS_RELAXED);
            counts[upper]++;
        }
    }
    for (int i = 0; i < 2 && new[i] != NULL; i++) {
        new[i]->used += counts[i];
        bump(&new[i]->live, counts[i]);
    }
}

ns_segment *
ns_rebuild_resize(ns_table *t, ns_segment *s, uint32_t slots, ns_garbage *garbage)
{
    ns_segment *new[2] = {ns_segment_new(t, s->prefix, s->depth, slots), NULL};
    if (new[0] == NULL) {
        return NULL;
    }
    fill(s, new);
    ns_directory_replace(t, (ns_segment *[2]){s, NULL}, new, garbage);
    return new[0];
}

/* Counts the entries that each half would get. */
static void
count_halves(ns_segment *s, uint32_t counts[2])
{
    uint64_t middle = s->prefix | lowest_bit_of_prefix(s->depth + 1);
    counts[0] = counts[1] = 0;
    for (uint32_t g = 0; g <= s->mask; g++) {
        uint64_t bits = ns_load(&s->tags[g], NS_RELAXED) & NS_TAG_HIGH;
        for (; bits != 0; bits &= bits - 1) {
            ns_entry *e = &s->entries[(size_t)g * NS_GROUP + ns_tag_index(bits)];
            counts[ns_load(&e->hash, NS_RELAXED) >= middle]++;
        }
    }
}

/* False if a split would make the directory too large: for hashes with equal top bits. */
static bool
may_deepen(ns_table *t, const ns_segment *s)
{
    uint64_t segments = ns_load(&t->segments, NS_RELAXED);
    return s->depth < DEEPEST && UINT64_C(2) << s->depth <= 16 * (segments + 4);
}

/* Splits s. Returns the half that covers the hash, locked. NULL if there is no memory. */
static ns_segment *
split(ns_table *t, ns_segment *s, const uint32_t counts[2], uint64_t hash, ns_garbage *garbage)
{
    const uint8_t depth = s->depth + 1;
    const uint64_t middle = s->prefix | lowest_bit_of_prefix(depth);
    ns_segment *new[2] = {ns_segment_new(t, s->prefix, depth, slots_for(counts[0] + 1)),
                          ns_segment_new(t, middle, depth, slots_for(counts[1] + 1))};
    if (new[0] != NULL &&new[1] != NULL) {
        fill(s, new);
        if (ns_directory_replace(t, (ns_segment *[2]){s, NULL}, new, garbage)) {
            bool upper = hash >= middle;
            ns_lock_release(&new[!upper]->lock);
            return new[upper];
        }
    }
    free(new[0]);
    free(new[1]);
    ns_segment_thaw(s);
    return NULL;
}

ns_segment *
ns_table_make_room(ns_table *t, ns_segment *s, uint64_t hash, ns_garbage *garbage)
{
    const uint32_t live = ns_load(&s->live, NS_RELAXED);
    uint32_t slots = slots_for(live + 1);
    if (slots > slots_of(s) && slots <= NS_SEGMENT_FLOOR / 2) {
        slots *= 2; /* fewer steps while they are small */
    }
    if (dead_in(s) > live) {
        /* Keys come and go: to reuse the entries of deleted keys is better than a rebuild. */
        if (slots_of(s) >= NS_SEGMENT_FLOOR) {
            garbage->waits |= NS_SEGMENTS_WAIT;
            ns_segment_sweep(s, garbage);
            if (s->used < limit_of(s)) {
                return s;
            }
        }
        else if (slots < 2 * slots_of(s)) {
            slots = 2 * slots_of(s);
        }
    }
    if (slots > NS_SEGMENT_MAX && may_deepen(t, s)) {
        uint32_t counts[2];
        count_halves(s, counts);
        /* Equal hashes cannot be separated. */
        if ((counts[0] < counts[1] ? counts[0] : counts[1]) >= live / 8) {
            ns_segment *half = split(t, s, counts, hash, garbage);
            if (half != NULL) {
                return half;
            }
        }
    }
    return ns_rebuild_resize(t, s, slots, garbage);
}

ns_segment *
ns_rebuild_merge(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    if (s->depth == 0) {
        return NULL;
    }
    const uint32_t spread = ns_load(&t->spread, NS_RELAXED);
    if (ns_load(&t->segments, NS_RELAXED) <= spread) {
        if (++s->refused % REFUSED == 0 &&
            ns_add(&t->unneeded, 1, NS_RELAXED) >= UNNEEDED / REFUSED) {
            ns_store(&t->unneeded, 0, NS_RELAXED);
            ns_store(&t->spread, spread / 2, NS_RELAXED);
        }
        return NULL;
    }
    const uint64_t bit = lowest_bit_of_prefix(s->depth);
    ns_section section = ns_epoch_enter();
    ns_segment *buddy = ns_directory_find(ns_load(&t->directory, NS_ACQUIRE), s->prefix ^ bit);
    bool ok = buddy->depth == s->depth && ns_lock_try(&buddy->lock);
    if (ok && state_of(buddy) == NS_MOVED) {
        ns_lock_release(&buddy->lock);
        ok = false;
    }
    ns_epoch_leave(section);
    if (!ok) {
        return NULL;
    }
    const uint32_t live = ns_load(&s->live, NS_RELAXED) + ns_load(&buddy->live, NS_RELAXED);
    ns_segment *new[2] = {NULL, NULL};
    if (live <= NS_SEGMENT_MAX / 8 * 3) {
        new[0] = ns_segment_new(t, s->prefix & ~bit, s->depth - 1, slots_for(live));
    }
    if (new[0] == NULL) {
        ns_lock_release(&buddy->lock);
        return NULL;
    }
    fill(s, new);
    fill(buddy, new);
    ns_directory_replace(t, (ns_segment *[2]){s, buddy}, new, garbage);
    return new[0];
}

ns_segment *
ns_rebuild_spread_out(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    uint32_t counts[2], segments = ns_load(&t->segments, NS_RELAXED);
    const uint32_t most = is_small(s) ? NS_SPLITS_BY_FIGHT : NS_SPLITS_BY_MEETING;
    wait_for_meetings(s);
    if (ns_cpu_count() == 1 || segments >= most * ns_cpu_count() || !may_deepen(t, s)) {
        return s;
    }
    count_halves(s, counts);
    ns_segment *half = split(t, s, counts, s->prefix, garbage);
    if (half == NULL) {
        return s;
    }
    if (ns_load(&t->spread, NS_RELAXED) < segments + 1) {
        ns_store(&t->spread, segments + 1, NS_RELAXED);
    }
    ns_store(&t->unneeded, 0, NS_RELAXED);
    return half;
}
