#include "table/segment.h"

#include <stdlib.h>
#include <string.h>

ns_segment *
ns_segment_new(ns_table *t, uint64_t prefix, uint8_t depth, uint32_t slots)
{
    size_t groups = slots / NS_GROUP;
    size_t bytes = entries_at(groups) + slots * sizeof(ns_entry);
    ns_segment *s = aligned_alloc(NS_LINE, (bytes + NS_LINE - 1) / NS_LINE * NS_LINE);
    if (s != NULL) {
        memset(s, 0, entries_at(groups)); /* the tags say that no entry is there */
        s->prefix = prefix;
        s->depth = depth;
        s->serial = ns_add(&t->serial, 1, NS_RELAXED) + 1;
        s->mask = (uint32_t)groups - 1;
        s->entries = (ns_entry *)((char *)s + entries_at(groups));
        s->sweep_at = sweep_base(s);
        wait_for_meetings(s);
        ns_lock_init_held(&s->lock);
    }
    return s;
}

/* ---- Stamps ---- */

/* Keeps a stamp as a lower bound in 32 bits. A stamp is even. After 2^33 epochs the bound is of no
 * use, and still right. */
static inline uint32_t
bound_of(uint64_t stamp)
{
    return stamp / 2 < UINT32_MAX ? (uint32_t)(stamp / 2) : UINT32_MAX;
}

/* Whether some dead entry may be safe. */
static inline bool
may_be_safe(const ns_segment *s, uint64_t safe)
{
    return s->died * UINT64_C(2) < safe;
}

/* What a dead entry holds as its value. */
static inline uintptr_t
dead_value(uint64_t stamp)
{
    return (uintptr_t)stamp << NS_STAMP_SHIFT | NS_DEAD;
}

static inline uint64_t
stamp_in(uintptr_t dead)
{
    return dead >> NS_STAMP_SHIFT;
}

/* ---- Entries ---- */

/* `tags` is the current value of the word. */
static inline void
set_tag_in(_Atomic uint64_t *word, uint64_t tags, unsigned i, uint64_t tag)
{
    ns_store(word, (tags & ~(UINT64_C(0xff) << 8 * i)) | tag << 8 * i, NS_RELEASE);
}

static inline void
set_tag(ns_segment *s, size_t index, uint64_t tag)
{
    _Atomic uint64_t *word = &s->tags[index / NS_GROUP];
    set_tag_in(word, ns_load(word, NS_RELAXED), index % NS_GROUP, tag);
}

/* Frees an entry whose key is gone: see table.h, 2. */
static inline void
free_entry(ns_segment *s, size_t index)
{
    ns_store(&s->entries[index].key, 0, NS_RELAXED);
    ns_store(&s->entries[index].value, 0, NS_RELAXED);
    if (ns_tags_zero(ns_load(&s->tags[index / NS_GROUP], NS_RELAXED)) != 0) {
        set_tag(s, index, NS_TAG_EMPTY);
        s->used--;
    }
    else {
        set_tag(s, index, NS_TAG_DELETED);
    }
}

/* Frees a dead entry if it is safe, and takes out its key. Returns whether it did. */
static bool
bury(ns_segment *s, size_t index, uint64_t safe, ns_garbage *garbage)
{
    ns_entry *e = &s->entries[index];
    uintptr_t value = ns_load(&e->value, NS_RELAXED);
    if (!(value & NS_DEAD) || stamp_in(value) >= safe) {
        return false;
    }
    if (!(value & NS_GONE)) {
        if (garbage->count == NS_GARBAGE) {
            return false;
        }
        garbage->keys[garbage->count++] = ns_load(&e->key, NS_RELAXED);
    }
    bump(&s->dead, UINT32_MAX);
    free_entry(s, index);
    return true;
}

void
ns_segment_sweep(ns_segment *s, ns_garbage *garbage)
{
    const uint64_t safe = ns_epoch_safe();
    uint64_t died = UINT64_MAX;
    s->swept = safe;
    if (!may_be_safe(s, safe)) {
        return; /* no dead entry's grace period has passed */
    }
    for (uint32_t g = 0; g <= s->mask && dead_in(s) > 0; g++) {
        uint64_t tags = ns_load(&s->tags[g], NS_RELAXED);
        uint64_t dead = ns_tags_zero(tags ^ NS_TAG_DEAD * NS_TAG_LOW);
        for (uint64_t bits = dead; bits != 0; bits &= bits - 1) {
            const size_t index = (size_t)g * NS_GROUP + ns_tag_index(bits);
            const uintptr_t value = ns_load(&s->entries[index].value, NS_RELAXED);
            if (!bury(s, index, safe, garbage)) {
                died = stamp_in(value) < died ? stamp_in(value) : died;
            }
        }
    }
    s->died = bound_of(died);
    if (died < safe) { /* the garbage is full: the next operation continues */
        s->swept = 0;
        s->sweep_at = dead_in(s);
        return;
    }
    s->sweep_at = dead_in(s) + sweep_base(s);
}

/* Returns a deleted entry of the group that can be reused; NS_GROUP if there is none. */
static __attribute__((noinline)) unsigned
find_reusable(ns_segment *s, uint32_t g, uint64_t safe, ns_garbage *garbage)
{
    const uint64_t tags = ns_load(&s->tags[g], NS_RELAXED);
    uint64_t bits = ns_tags_zero(tags ^ NS_TAG_DELETED * NS_TAG_LOW);
    if (bits != 0) {
        return ns_tag_index(bits);
    }
    bits = may_be_safe(s, safe) ? ns_tags_zero(tags ^ NS_TAG_DEAD * NS_TAG_LOW) : 0;
    for (; bits != 0; bits &= bits - 1) {
        const unsigned i = ns_tag_index(bits);
        if (bury(s, (size_t)g * NS_GROUP + i, safe, garbage)) {
            return i;
        }
    }
    return NS_GROUP;
}

bool
ns_segment_insert(ns_segment *s, uint64_t hash, uintptr_t key, uintptr_t value, ns_garbage *garbage)
{
    uint32_t g = (uint32_t)hash & s->mask;
    /* Some entries were deleted, and some of those may be reusable. */
    uint64_t safe = 0;
    bool reuses = false;
    if (s->used > ns_load(&s->live, NS_RELAXED)) {
        safe = ns_epoch_safe();
        reuses = s->used - ns_load(&s->live, NS_RELAXED) > dead_in(s) || may_be_safe(s, safe);
    }
    for (uint32_t step = 0;; g = (g + ++step) & s->mask) {
        uint64_t tags = ns_load(&s->tags[g], NS_RELAXED);
        const uint64_t empty = ns_tags_zero(tags);
        unsigned i = NS_GROUP;
        if (ns_unlikely(reuses)) {
            i = find_reusable(s, g, safe, garbage);
            tags = ns_load(&s->tags[g], NS_RELAXED);
        }
        if (i == NS_GROUP) {
            if (empty == 0) {
                if (step == s->mask) {
                    return false;
                }
                continue;
            }
            i = ns_tag_index(empty);
        }
        const bool is_new = (tags >> 8 * i & 0xff) == NS_TAG_EMPTY;
        if (is_new && s->used >= limit_of(s)) {
            return false;
        }
        ns_entry *e = &s->entries[(size_t)g * NS_GROUP + i];
        ns_store(&e->value, 0, NS_RELAXED); /* one that was never used may hold anything */
        ns_store(&e->key, key, NS_RELAXED);
        ns_store(&e->hash, hash, NS_RELAXED);
        set_tag_in(&s->tags[g], tags, i, ns_tag(hash));
        ns_store(&e->value, value, NS_RELEASE);
        s->used += is_new;
        bump(&s->live, 1);
        /* Release: a thread that sees this count, without the lock, does not miss the entry. */
        ns_store(&s->inserts, ns_load(&s->inserts, NS_RELAXED) + 1, NS_RELEASE);
        return true;
    }
}

/* Whether threads keep the keys that they delete from this table. In a small one that they do not
 * contend for, the lists would cost more memory than they are worth. */
static inline bool
has_limbo(ns_table *t)
{
    return t != NULL && ns_load(&t->segments, NS_RELAXED) >= NS_LIMBO_SPREAD;
}

/* Ends the deletion of an entry that other threads may be reading. */
static __attribute__((noinline)) void
leave_dead(ns_table *t, ns_segment *s, ns_entry *e, uint64_t stamp, ns_garbage *garbage)
{
    ns_limbo_list *list = has_limbo(t) ? ns_limbo_reserve(&t->limbo) : NULL;
    if (list != NULL) {
        /* In the child of a fork the key must not have two owners: the entry loses it first. */
        ns_store(&e->value, dead_value(stamp) | NS_GONE, NS_RELEASE);
        ns_limbo_add(list, ns_load(&e->key, NS_RELAXED), stamp);
    }
    else {
        ns_store(&e->value, dead_value(stamp), NS_RELAXED);
        list = t != NULL ? ns_limbo_find(&t->limbo) : NULL; /* full, or of a larger table */
    }
    if (list != NULL) {
        garbage->list = list;
        garbage->waits |= NS_KEYS_WAIT;
    }
    set_tag(s, (size_t)(e - s->entries), NS_TAG_DEAD);
    if (dead_in(s) == 0 || bound_of(stamp) < s->died) {
        s->died = bound_of(stamp);
    }
    bump(&s->dead, 1);
    if (s->user != (uint8_t)ns_cached_slot) {
        s->user = (uint8_t)ns_cached_slot;
        meet(s, !is_small(s));
    }
    ns_epoch_note(NS_DEAD_KEY);
}

uintptr_t
ns_segment_remove(ns_table *t, ns_segment *s, ns_entry *e, uintptr_t expected, ns_garbage *garbage)
{
    uint64_t stamp = 0;
    uintptr_t value = ns_entry_replace(e, expected, 0);
    if (ns_unlikely(value == 0)) {
        return 0;
    }
    bump(&s->live, UINT32_MAX);
    if (ns_epoch_retire(&stamp) && garbage->count < NS_GARBAGE) {
        garbage->keys[garbage->count++] = ns_load(&e->key, NS_RELAXED);
        if (t != NULL && ns_unlikely(ns_limbo_may_hold(&t->limbo))) {
            garbage->waits |= NS_KEYS_LEFT;
        }
        free_entry(s, (size_t)(e - s->entries));
    }
    else {
        leave_dead(t, s, e, stamp, garbage);
    }
    return value;
}

ns_entry *
ns_segment_pick(ns_segment *s)
{
    uint64_t bits;
    while ((bits = ns_load(&s->tags[s->cursor], NS_RELAXED) & NS_TAG_HIGH) == 0) {
        s->cursor = (s->cursor + 1) & s->mask;
    }
    ns_entry *entries = &s->entries[(size_t)s->cursor * NS_GROUP];
    const uint64_t rest = bits & (bits - 1);
    if (rest != 0) { /* the caller will probably need what its words point to */
        __builtin_prefetch((void *)ns_load(&entries[ns_tag_index(rest)].key, NS_RELAXED), 1);
        __builtin_prefetch((void *)ns_load(&entries[ns_tag_index(rest)].value, NS_RELAXED), 1);
    }
    return &entries[ns_tag_index(bits)];
}

uint64_t
ns_segment_end(const ns_segment *s)
{
    return s->depth == 0 ? 0 : s->prefix + lowest_bit_of_prefix(s->depth);
}

/* ---- After a rebuild that failed, and after a fork ---- */

void
ns_segment_thaw(ns_segment *s)
{
    for (uint32_t i = 0; i < slots_of(s); i++) {
        if (!is_used(s, i)) {
            continue;
        }
        uintptr_t value = ns_load(&s->entries[i].value, NS_RELAXED);
        if (ns_is_live(value) && (value & NS_FROZEN)) {
            ns_and(&s->entries[i].value, ~NS_FROZEN, NS_RELEASE);
        }
    }
}

void
ns_segment_repair(ns_segment *s)
{
    const uint64_t stamp = ns_epoch_stamp();
    uint32_t live = 0;
    s->used = 0;
    s->died = 0;
    ns_store(&s->dead, 0, NS_RELAXED);
    for (uint32_t i = 0; i < slots_of(s); i++) {
        if (!is_used(s, i)) { /* what was about to be inserted there is lost */
            continue;
        }
        ns_entry *e = &s->entries[i];
        uintptr_t value = ns_load(&e->value, NS_RELAXED);
        if (ns_is_live(value)) {
            live++;
        }
        else if (ns_load(&e->key, NS_RELAXED) != 0) { /* half inserted, half deleted, or dead */
            value = value != 0 ? value : dead_value(stamp);
            ns_store(&e->value, value, NS_RELAXED);
            set_tag(s, i, NS_TAG_DEAD);
            bump(&s->dead, 1);
        }
        else {
            ns_store(&e->value, 0, NS_RELAXED);
            set_tag(s, i, NS_TAG_DELETED);
        }
        s->used++;
    }
    ns_store(&s->live, live, NS_RELAXED);
    s->sweep_at = dead_in(s) + sweep_base(s);
    if (state_of(s) != NS_MOVED) { /* else its values are in other segments, and stay frozen here */
        ns_segment_thaw(s);
    }
}
