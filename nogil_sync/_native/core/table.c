#include "table.h"

#include <stdlib.h>
#include <string.h>

struct ns_hash_seed ns_hash_seed = {UINT64_C(0x9E3779B97F4A7C15), UINT64_C(0xD6E8FEB86659FD93)};

void
ns_hash_seed_set(uint64_t first, uint64_t second)
{
    static ns_lock lock;
    static bool done;
    ns_lock_take(&lock);
    if (!done) {
        ns_hash_seed.addend = first;
        ns_hash_seed.factor = second | 1;
        done = true;
    }
    ns_lock_release(&lock);
}

/* ---- Segments ---- */

#define LEAST NS_GROUP
#define DEEPEST 32
#define REFUSED 64    /* batches updates of the table's shared count */
/* this many refused merges, and segments that writers contended for may be merged */
#define UNNEEDED 4096

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

/* Whether there are so few live entries that the segment could be smaller. */
static inline bool
is_sparse(const ns_segment *s)
{
    /* Fewer than groups: an eighth of the entries. */
    return ns_load(&s->live, NS_RELAXED) <= s->mask &&
           (s->mask >= NS_SEGMENT_FLOOR / NS_GROUP || s->depth > 0);
}

static inline uint32_t
sweep_base(const ns_segment *s)
{
    uint32_t part = slots_of(s) / 8;
    return part > NS_SWEEP ? part : NS_SWEEP;
}

/* Whether the tags of all groups lie on the line of the lock. */
static inline bool
is_small(const ns_segment *s)
{
    return s->mask < NS_SMALL;
}

static void
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

/* The offset of a segment's entries: after the tags, at a cache line. */
static inline size_t
entries_at(size_t groups)
{
    size_t end = offsetof(ns_segment, tags) + groups * sizeof(uint64_t);
    return (end + NS_LINE - 1) / NS_LINE * NS_LINE;
}

static size_t
bytes_of(const ns_segment *s)
{
    return entries_at(s->mask + (size_t)1) + slots_of(s) * sizeof(ns_entry);
}

/* The size for n entries, with some to spare. */
static uint32_t
slots_for(uint32_t n)
{
    uint32_t slots = LEAST;
    while ((uint64_t)n * 8 > (uint64_t)slots * 5) {
        slots *= 2;
    }
    return slots;
}

/* Returns a new segment, locked. NULL if there is no memory. */
static ns_segment *
new_segment(ns_table *t, uint64_t prefix, uint8_t depth, uint32_t slots)
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

static inline enum ns_segment_state
state_of(const ns_segment *s)
{
    return ns_load(&s->state, NS_RELAXED);
}

static inline uint32_t
dead_in(const ns_segment *s)
{
    return ns_load(&s->dead, NS_RELAXED);
}

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

/* Whether an entry with this value is dead and owns its key. */
static inline bool
owns_dead_key(uintptr_t value)
{
    return (value & NS_DEAD) && !(value & NS_GONE);
}

static inline void
bump(_Atomic uint32_t *count, uint32_t by)
{
    ns_store(count, ns_load(count, NS_RELAXED) + by, NS_RELAXED);
}

static inline uint64_t
tag_at(const ns_segment *s, size_t index)
{
    return ns_load(&s->tags[index / NS_GROUP], NS_RELAXED) >> 8 * (index % NS_GROUP) & 0xff;
}

/* Whether the entry's words hold anything: see 2. */
static inline bool
is_used(const ns_segment *s, size_t index)
{
    return tag_at(s, index) != NS_TAG_EMPTY;
}

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

/* Frees an entry whose key is gone: see 2. */
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

/* Frees dead entries that are safe. */
static void
sweep(ns_segment *s, ns_garbage *garbage)
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

/* Lets the values of a segment be replaced again, after a rebuild that failed. */
static void
thaw(ns_segment *s)
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

/* Repairs a segment whose lock was held by a thread that did not survive a fork. Some thread may
 * read the segment, if only the caller. So the keys get a stamp even if this thread is alone. */
static void
repair(ns_segment *s)
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
        thaw(s);
    }
}

/* ---- The directory, and retired segments: under the structure lock ---- */

static inline uint64_t
index_in(const ns_directory *d, uint64_t prefix)
{
    return prefix >> 1 >> (63 - d->depth);
}

static inline uint64_t
span_in(const ns_directory *d, const ns_segment *s)
{
    return UINT64_C(1) << (d->depth - s->depth);
}

/* Returns the segment at index i of the directory, and moves i to the next segment. The segment may
 * begin before i, after a merge. */
static ns_segment *
next_in(ns_directory *d, uint64_t *i)
{
    if (*i >> d->depth != 0) {
        return NULL;
    }
    ns_segment *s = ns_load(&d->segments[*i], NS_ACQUIRE);
    *i = index_in(d, s->prefix) + span_in(d, s);
    return s;
}

static ns_directory *
new_directory(uint8_t depth)
{
    ns_directory *d =
        malloc(sizeof(ns_directory) + ((size_t)1 << depth) * sizeof(_Atomic(ns_segment *)));
    if (d != NULL) {
        *d = (ns_directory){.depth = depth};
    }
    return d;
}

static void
put(ns_directory *d, ns_segment *s)
{
    uint64_t begin = index_in(d, s->prefix), end = begin + span_in(d, s);
    for (uint64_t i = begin; i < end; i++) {
        ns_store(&d->segments[i], s, NS_RELEASE);
    }
}

static void
count_segments(ns_table *t, ns_directory *d)
{
    uint32_t n = 0;
    ns_segment *s;
    d->deepest = 0;
    for (uint64_t i = 0; (s = next_in(d, &i)) != NULL;) {
        n++;
        d->deepest += s->depth == d->depth;
    }
    ns_store(&t->segments, n, NS_RELAXED);
}

/* Retires a segment. It has its stamp, and leads to the segments behind it, before it is in the
 * list. */
static void
retire(ns_table *t, ns_segment *s, uint64_t stamp)
{
    if (stamp != 0) {
        ns_epoch_note((uint32_t)bytes_of(s));
    }
    s->stamp = stamp;
    ns_segment *first = ns_load(&t->retired, NS_RELAXED);
    if (first == NULL || stamp < t->oldest) {
        t->oldest = stamp;
    }
    ns_store(&s->next, first, NS_RELAXED);
    ns_store(&t->retired, s, NS_RELEASE);
}

/* Publishes the noted rebuild. All its steps can be repeated. The new segments become current last:
 * see 4. */
static void
publish(ns_table *t)
{
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    ns_segment *s;
    for (int i = 0; i < 2; i++) {
        if ((s = ns_load(&t->new[i], NS_RELAXED)) != NULL) {
            put(d, s);
        }
    }
    for (int i = 0; i < 2; i++) {
        if ((s = ns_load(&t->old[i], NS_RELAXED)) != NULL) {
            ns_store(&s->state, NS_MOVED, NS_RELEASE);
        }
    }
    for (int i = 0; i < 2; i++) {
        if ((s = ns_load(&t->new[i], NS_RELAXED)) != NULL) {
            ns_store(&s->state, NS_CURRENT, NS_RELEASE);
        }
    }
}

static bool
is_retired(ns_table *t, ns_segment *s)
{
    ns_segment *each = ns_load(&t->retired, NS_RELAXED);
    while (each != NULL && each != s) {
        each = ns_load(&each->next, NS_RELAXED);
    }
    return each != NULL;
}

/* Notes what is about to be published. old[0] comes last: with it the note is complete. */
static void
note(ns_table *t, ns_segment *old[2], ns_segment *new[2])
{
    ns_store(&t->old[1], old[1], NS_RELAXED);
    ns_store(&t->new[0], new[0], NS_RELAXED);
    ns_store(&t->new[1], new[1], NS_RELAXED);
    ns_store(&t->old[0], old[0], NS_RELEASE);
}

static void
forget(ns_table *t)
{
    ns_store(&t->old[0], NULL, NS_RELEASE);
}

/* Finishes what a thread was publishing that did not survive a fork. The caller may be in a
 * section, and hold the lock of an old segment. So the segments get a stamp even if it is alone. */
static void
finish_publication(ns_table *t)
{
    publish(t);
    for (int i = 0; i < 2; i++) {
        ns_segment *s = ns_load(&t->old[i], NS_RELAXED);
        if (s != NULL && !is_retired(t, s)) {
            retire(t, s, ns_epoch_stamp());
        }
    }
    forget(t);
}

static void
lock_structure(ns_table *t)
{
    if (ns_unlikely(ns_lock_take(&t->structure) == NS_LOCKED_ABANDONED)) {
        ns_directory *d = ns_load(&t->directory, NS_RELAXED);
        if (ns_load(&t->old[0], NS_RELAXED) != NULL) {
            finish_publication(t);
        }
        if (d != NULL) {
            count_segments(t, d);
        }
    }
}

static void
unlock_structure(ns_table *t)
{
    ns_lock_release(&t->structure);
}

static void
replace_directory(ns_table *t, ns_directory *old, ns_directory *new)
{
    ns_store(&t->directory, new, NS_RELEASE);
    old->stamp = 0;
    ns_epoch_retire(&old->stamp);
    ns_store(&old->next, ns_load(&t->retired_directories, NS_RELAXED), NS_RELAXED);
    ns_store(&t->retired_directories, old, NS_RELEASE);
}

static ns_directory *
double_directory(ns_table *t, ns_directory *d)
{
    ns_directory *new = new_directory(d->depth + 1);
    if (new != NULL) {
        for (uint64_t i = 0; i >> new->depth == 0; i++) {
            ns_segment *s = ns_load(&d->segments[i / 2], NS_RELAXED);
            ns_store(&new->segments[i], s, NS_RELAXED);
        }
        replace_directory(t, d, new);
    }
    return new;
}

/* Halves the directory while no segment is as deep. Without memory it stays as it is. */
static void
halve_directory(ns_table *t)
{
    for (;;) {
        ns_directory *d = ns_load(&t->directory, NS_RELAXED), *new;
        if (d->deepest != 0 || d->depth == 0 || (new = new_directory(d->depth - 1)) == NULL) {
            return;
        }
        for (uint64_t i = 0; i >> new->depth == 0; i++) {
            ns_segment *s = ns_load(&d->segments[i * 2], NS_RELAXED);
            ns_store(&new->segments[i], s, NS_RELAXED);
        }
        count_segments(t, new);
        replace_directory(t, d, new);
    }
}

/* ---- Sleepers: see 4 ---- */

static inline uint64_t
sleepers_of_this_process(void)
{
    return (uint64_t)ns_fork_generation() << 32;
}

/* The caller is in a section. */
static void
add_sleeper(ns_segment *s)
{
    const uint64_t none = sleepers_of_this_process();
    uint64_t n = ns_load(&s->sleepers, NS_RELAXED);
    while (!ns_cas(&s->sleepers, &n, (n >> 32 == none >> 32 ? n : none) + 1, NS_ACQUIRE)) {
    }
}

/* The segment may be freed after this. */
static void
remove_sleeper(ns_segment *s)
{
    ns_sub(&s->sleepers, 1, NS_RELEASE);
}

/* Sleepers of another process did not survive the fork. */
static bool
has_sleepers(const ns_segment *s)
{
    const uint64_t n = ns_load(&s->sleepers, NS_ACQUIRE);
    return n >> 32 == sleepers_of_this_process() >> 32 && (uint32_t)n != 0;
}

/* Takes from the list of the retired what can be freed now. */
static void
reap(ns_table *t, ns_garbage *garbage)
{
    const uint64_t safe = ns_epoch_safe();
    if (t->oldest < safe) { /* thousands may wait for one section: check only if some may go */
        uint64_t oldest = UINT64_MAX;
        _Atomic(ns_segment *) *link = &t->retired;
        for (ns_segment *s; (s = ns_load(link, NS_RELAXED)) != NULL;) {
            if (s->stamp < safe && !has_sleepers(s)) {
                ns_unlink(link, ns_load(&s->next, NS_RELAXED));
                ns_store(&s->next, garbage->segments, NS_RELEASE);
                garbage->segments = s;
            }
            else {
                oldest = s->stamp < oldest ? s->stamp : oldest;
                link = &s->next;
            }
        }
        t->oldest = oldest;
    }
    _Atomic(ns_directory *) *place = &t->retired_directories;
    for (ns_directory *d; (d = ns_load(place, NS_RELAXED)) != NULL;) {
        if (d->stamp < safe) {
            ns_unlink(place, ns_load(&d->next, NS_RELAXED));
            free(d);
        }
        else {
            place = &d->next;
        }
    }
}

static inline bool
has_retired(const ns_table *t)
{
    return ns_load(&t->retired, NS_RELAXED) != NULL ||
           ns_load(&t->retired_directories, NS_RELAXED) != NULL;
}

/* ---- Rebuilding ---- */

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

/* Replaces old segments by new ones, which are filled: see 4. Returns true if so; then the old ones
 * are unlocked and retired. Returns false if there is no memory for a larger directory; then
 * nothing happened. */
static bool
replace(ns_table *t, ns_segment *old[2], ns_segment *new[2], ns_garbage *garbage)
{
    lock_structure(t);
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    if (new[0]->depth > d->depth && (d = double_directory(t, d)) == NULL) {
        unlock_structure(t);
        return false;
    }
    note(t, old, new);
    publish(t);
    const bool merged = old[1] != NULL, split = new[1] != NULL;
    if (merged || split) {
        bump(&t->segments, split ? 1 : UINT32_MAX);
        d->deepest += split && new[0]->depth == d->depth ? 2 : 0;
        d->deepest -= merged && old[0]->depth == d->depth ? 2 : 0;
    }
    ns_lock_release(&old[0]->lock);
    if (merged) {
        ns_lock_release(&old[1]->lock);
    }
    for (int i = 0; i < 2 && old[i] != NULL; i++) {
        uint64_t stamp = 0;
        ns_epoch_retire(&stamp);
        retire(t, old[i], stamp);
    }
    forget(t);
    halve_directory(t);
    reap(t, garbage);
    garbage->waits |= has_retired(t) ? NS_SEGMENTS_WAIT : 0;
    unlock_structure(t);
    return true;
}

/* Replaces s by a segment of another size with the same hashes. s is locked, and so is the result.
 * Returns NULL if there is no memory. */
static ns_segment *
resize(ns_table *t, ns_segment *s, uint32_t slots, ns_garbage *garbage)
{
    ns_segment *new[2] = {new_segment(t, s->prefix, s->depth, slots), NULL};
    if (new[0] == NULL) {
        return NULL;
    }
    fill(s, new);
    replace(t, (ns_segment *[2]){s, NULL}, new, garbage);
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
    ns_segment *new[2] = {new_segment(t, s->prefix, depth, slots_for(counts[0] + 1)),
                          new_segment(t, middle, depth, slots_for(counts[1] + 1))};
    if (new[0] != NULL &&new[1] != NULL) {
        fill(s, new);
        if (replace(t, (ns_segment *[2]){s, NULL}, new, garbage)) {
            bool upper = hash >= middle;
            ns_lock_release(&new[!upper]->lock);
            return new[upper];
        }
    }
    free(new[0]);
    free(new[1]);
    thaw(s);
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
            sweep(s, garbage);
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
    return resize(t, s, slots, garbage);
}

/* Merges s with its buddy. Returns the result, locked; NULL if they cannot be merged now. */
static ns_segment *
merge(ns_table *t, ns_segment *s, ns_garbage *garbage)
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
        new[0] = new_segment(t, s->prefix & ~bit, s->depth - 1, slots_for(live));
    }
    if (new[0] == NULL) {
        ns_lock_release(&buddy->lock);
        return NULL;
    }
    fill(s, new);
    fill(buddy, new);
    replace(t, (ns_segment *[2]){s, buddy}, new, garbage);
    return new[0];
}

/* ---- Locking ---- */

static bool
create(ns_table *t)
{
    lock_structure(t);
    if (ns_load(&t->directory, NS_RELAXED) == NULL) {
        ns_directory *d = new_directory(0);
        ns_segment *s = d != NULL ? new_segment(t, 0, 0, LEAST) : NULL;
        if (s == NULL) {
            free(d);
            unlock_structure(t);
            return false;
        }
        ns_store(&s->state, NS_CURRENT, NS_RELAXED);
        ns_lock_release(&s->lock);
        d->deepest = 1;
        ns_store(&d->segments[0], s, NS_RELAXED);
        ns_store(&t->segments, 1, NS_RELAXED);
        ns_store(&t->directory, d, NS_RELEASE);
    }
    unlock_structure(t);
    return true;
}

/* For a segment whose lock was not free, or was last used before a fork. The caller is in a
 * section, which this leaves. Returns whether the segment is locked now, and current. */
static bool
lock_slow(ns_table *t, ns_segment *s, ns_section section)
{
    enum ns_locked how = ns_lock_spin(&s->lock);
    const bool sleeps = how == NS_LOCK_BUSY;
    if (sleeps) {
        add_sleeper(s);
        ns_epoch_leave(section);
        how = ns_lock_take_slow(&s->lock);
    }
    if (how == NS_LOCKED_ABANDONED) {
        lock_structure(t);
        unlock_structure(t);
        repair(s);
    }
    const bool current = state_of(s) != NS_MOVED;
    if (current) {
        meet(s, how == NS_LOCKED_AFTER_ALL ? NS_FIGHT : 0);
    }
    else {
        ns_lock_release(&s->lock);
    }
    if (sleeps) {
        remove_sleeper(s); /* a segment that is locked and not moved cannot be retired */
    }
    else {
        ns_epoch_leave(section);
    }
    return current;
}

ns_segment *
ns_table_lock(ns_table *t, uint64_t hash)
{
    for (;;) {
        /* In a section the segment is not freed while we wait for its lock. After that, if it was
         * not moved, it cannot be retired before we unlock it. */
        ns_section section = ns_epoch_enter();
        ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
        if (ns_unlikely(d == NULL)) {
            ns_epoch_leave(section);
            if (!create(t)) {
                return NULL;
            }
            continue;
        }
        ns_segment *s = ns_directory_find(d, hash);
        if (ns_unlikely(!ns_lock_try(&s->lock))) {
            if (lock_slow(t, s, section)) {
                return s;
            }
            continue;
        }
        bool current = state_of(s) != NS_MOVED;
        if (ns_unlikely(!current)) {
            ns_lock_release(&s->lock);
        }
        ns_epoch_leave(section);
        if (ns_likely(current)) {
            return s;
        }
    }
}

/* Splits a segment in which writers met often. */
static ns_segment *
spread_out(ns_table *t, ns_segment *s, ns_garbage *garbage)
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

static __attribute__((noinline)) void
tidy(ns_table *t, ns_segment *s, ns_garbage *garbage)
{
    if (s->patience == 0) {
        s = spread_out(t, s, garbage);
    }
    while (is_sparse(s)) {
        ns_segment *new = merge(t, s, garbage);
        if (new == NULL) {
            uint32_t slots = slots_for(ns_load(&s->live, NS_RELAXED));
            slots = slots < NS_SEGMENT_FLOOR ? NS_SEGMENT_FLOOR : slots;
            new = slots < slots_of(s) ? resize(t, s, slots, garbage) : NULL;
            s = new != NULL ? new : s;
            break;
        }
        s = new;
    }
    bool waits = dead_in(s) >= s->sweep_at;
    if (waits && s->swept < ns_epoch_safe()) { /* other segments had a thread poll */
        sweep(s, garbage);
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

__attribute__((noinline)) void
ns_table_settle_now(ns_table *t, ns_garbage *garbage)
{
    const uint8_t waits = garbage->waits;
    uint64_t safe = ns_epoch_safe();
    garbage->waits = 0;
    if (waits & NS_DEAD_WAIT && ns_epoch_poll_if_due() > garbage->swept) {
        ns_segment *s = ns_table_lock(t, garbage->prefix);
        sweep(s, garbage);
        ns_lock_release(&s->lock);
    }
    if (waits & NS_SEGMENTS_WAIT) {
        const uint64_t before = safe;
        safe = ns_epoch_poll_if_due();
        if (safe > before) {
            lock_structure(t);
            reap(t, garbage);
            unlock_structure(t);
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

ns_segment *
ns_table_lock_first(ns_table *t)
{
    if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
        return NULL;
    }
    /* Suppose that two walks found the table empty, and no key came from the first walk's beginning
     * to the second one's end. Then it was empty at the moment between them. No key came if no
     * segment was made meanwhile (which happens under the lock of the one it replaces) and the
     * counts of insertions are equal. A walk that starts in the middle only searches. */
    uint64_t hash = ns_load(&t->start, NS_RELAXED);
    uint64_t inserts = 0, inserts_before = 0, serial = 0, serial_before = 0;
    for (int walk = 0;;) {
        ns_segment *s = ns_table_lock(t, hash);
        if (ns_load(&s->live, NS_RELAXED) != 0) {
            ns_store(&t->start, s->prefix, NS_RELAXED);
            return s;
        }
        inserts += ns_load(&s->inserts, NS_RELAXED);
        hash = ns_segment_end(s);
        ns_lock_release(&s->lock);
        if (hash == 0) {
            uint64_t now = ns_load(&t->serial, NS_RELAXED);
            if (walk >= 2 && inserts == inserts_before && now == serial_before) {
                return NULL;
            }
            inserts_before = inserts;
            serial_before = serial;
            inserts = 0;
            serial = now;
            walk++;
        }
    }
}

/* ---- The whole table ---- */

/* Whether some segment has a live entry; if so, as of one moment. The next search starts at the
 * first segment that has one. */
static bool
has_entry(ns_table *t)
{
    bool found = false;
    ns_section section = ns_epoch_enter();
    ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
    const uint64_t start = ns_load(&t->start, NS_RELAXED);
    /* The walk wraps around: it visits the segment that it started in twice. */
    uint64_t i = d != NULL ? index_in(d, start) : 0;
    for (int wrapped = 0; d != NULL && wrapped < 2 && !found;) {
        ns_segment *s = next_in(d, &i);
        if (s == NULL) {
            i = 0;
            wrapped++;
            continue;
        }
        found = ns_load(&s->live, NS_RELAXED) != 0;
        if (found && s->prefix != start) {
            ns_store(&t->start, s->prefix, NS_RELAXED);
        }
    }
    ns_epoch_leave(section);
    return found;
}

bool
ns_table_is_empty(ns_table *t)
{
    if (has_entry(t)) {
        return false;
    }
    ns_segment *s = ns_table_lock_first(t); /* double-checks what we saw */
    if (s != NULL) {
        ns_lock_release(&s->lock);
    }
    return s == NULL;
}

static size_t
sum(ns_table *t, size_t (*of)(const ns_segment *))
{
    size_t total = 0;
    ns_section section = ns_epoch_enter();
    ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
    ns_segment *s;
    for (uint64_t i = 0; d != NULL && (s = next_in(d, &i)) != NULL;) {
        total += of(s);
    }
    ns_epoch_leave(section);
    return total;
}

static size_t
live_of(const ns_segment *s)
{
    return ns_load(&s->live, NS_RELAXED);
}

size_t
ns_table_count(ns_table *t)
{
    return sum(t, live_of);
}

static size_t
dead_of(const ns_segment *s)
{
    return dead_in(s);
}

/* With its dead keys. Without the lock an entry may change meanwhile; then their number is an
 * estimate. */
static size_t
bytes_with_keys(const ns_segment *s)
{
    size_t keys = 0;
    for (uint32_t g = 0; g <= s->mask && dead_in(s) > 0; g++) {
        const uint64_t tags = ns_load(&s->tags[g], NS_ACQUIRE);
        uint64_t bits = ns_tags_zero(tags ^ NS_TAG_DEAD * NS_TAG_LOW);
        for (; bits != 0; bits &= bits - 1) {
            const ns_entry *e = &s->entries[(size_t)g * NS_GROUP + ns_tag_index(bits)];
            keys += owns_dead_key(ns_load(&e->value, NS_RELAXED));
        }
    }
    return bytes_of(s) + keys * NS_DEAD_KEY;
}

static size_t
directory_bytes(const ns_directory *d)
{
    return sizeof(*d) + ((size_t)1 << d->depth) * sizeof(d->segments[0]);
}

size_t
ns_table_bytes(ns_table *t)
{
    size_t total = sum(t, bytes_with_keys) + ns_limbo_bytes(&t->limbo) +
                   ns_limbo_count(&t->limbo) * NS_DEAD_KEY;
    lock_structure(t);
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    total += d != NULL ? directory_bytes(d) : 0;
    ns_segment *s = ns_load(&t->retired, NS_RELAXED);
    for (; s != NULL; s = ns_load(&s->next, NS_RELAXED)) {
        total += bytes_with_keys(s);
    }
    d = ns_load(&t->retired_directories, NS_RELAXED);
    for (; d != NULL; d = ns_load(&d->next, NS_RELAXED)) {
        total += directory_bytes(d);
    }
    unlock_structure(t);
    return total;
}

/* Passes the keys of a locked segment to `visit` whose hashes are not less than `from`. */
static inline __attribute__((always_inline)) void
walk_segment(ns_segment *s, uint64_t from, void (*visit)(uintptr_t, uint64_t, void *),
             void *context)
{
    for (uint32_t g = 0; g <= s->mask; g++) {
        uint64_t bits = ns_load(&s->tags[g], NS_RELAXED) & NS_TAG_HIGH;
        for (; bits != 0; bits &= bits - 1) {
            ns_entry *e = &s->entries[(size_t)g * NS_GROUP + ns_tag_index(bits)];
            const uint64_t hash = ns_load(&e->hash, NS_RELAXED);
            if (hash >= from) {
                visit(ns_load(&e->key, NS_RELAXED), hash, context);
            }
        }
    }
}

typedef struct {
    ns_hashed *keys;
    size_t n;
    bool (*hold)(uintptr_t);
} page_of_keys;

static inline void
copy_key(uintptr_t key, uint64_t hash, void *context)
{
    page_of_keys *page = context;
    page->keys[page->n++] = (ns_hashed){key, hash};
    page->hold(key);
}

size_t
ns_table_page(ns_table *t, uint64_t *from, ns_hashed *keys, size_t room, bool (*hold)(uintptr_t))
{
    if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
        *from = 0;
        return 0;
    }
    ns_segment *s = ns_table_lock(t, *from);
    size_t n = ns_load(&s->live, NS_RELAXED);
    if (n <= room) {
        page_of_keys page = {keys, 0, hold};
        walk_segment(s, *from, copy_key, &page);
        n = page.n;
        *from = ns_segment_end(s);
    }
    ns_lock_release(&s->lock);
    return n;
}

void
ns_table_walk(ns_table *t, void (*visit)(uintptr_t key, uint64_t hash, void *context),
              void *context)
{
    uint64_t from = 0;
    do {
        if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
            return;
        }
        ns_segment *s = ns_table_lock(t, from);
        walk_segment(s, from, visit, context);
        from = ns_segment_end(s);
        ns_lock_release(&s->lock);
    } while (from != 0);
}

bool
ns_table_take(ns_table *t, uint64_t *from, uintptr_t *values, size_t room, bool some, size_t *n,
              ns_garbage *garbage)
{
    *n = 0;
    if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
        return false;
    }
    ns_segment *s = ns_table_lock(t, *from);
    bool over = false;
    if (!some && ns_load(&s->live, NS_RELAXED) > room) {
        *n = ns_load(&s->live, NS_RELAXED);
    }
    else {
        bool all = true;
        for (uint32_t g = 0; g <= s->mask && all; g++) {
            uint64_t bits = ns_load(&s->tags[g], NS_RELAXED) & NS_TAG_HIGH;
            for (; bits != 0 && all; bits &= bits - 1) {
                ns_entry *e = &s->entries[(size_t)g * NS_GROUP + ns_tag_index(bits)];
                if (ns_load(&e->hash, NS_RELAXED) < *from) {
                    continue;
                }
                all = *n < room;
                if (all) {
                    values[(*n)++] = ns_segment_remove(NULL, s, e, 0, garbage);
                }
            }
        }
        *from = all ? ns_segment_end(s) : *from;
        over = all && *from == 0;
    }
    ns_table_unlock(t, s, garbage);
    return !over;
}

bool
ns_table_flush(ns_table *t, uint64_t *from, ns_garbage *garbage)
{
    if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
        return false;
    }
    if (*from == 0) {
        if (has_retired(t) || sum(t, dead_of) + ns_limbo_count(&t->limbo) !=
                                  0) { /* not for each of thousands of maps */
            ns_epoch_poll();
        }
        lock_structure(t);
        reap(t, garbage);
        unlock_structure(t);
    }
    ns_segment *s = ns_table_lock(t, *from);
    sweep(s, garbage);
    const uint64_t end = ns_segment_end(s);
    ns_lock_release(&s->lock);
    if (end == 0) {
        garbage->count += ns_limbo_take_any(&t->limbo,
                                            ns_epoch_safe(),
                                            garbage->keys + garbage->count,
                                            NS_GARBAGE - garbage->count);
    }
    const bool full = garbage->count == NS_GARBAGE;
    *from = full ? *from : end;
    return full || *from != 0;
}

/* A current segment owns keys and values, a retired one the keys of its dead entries. */
static int
visit_segment(ns_segment *s, bool current, int (*visit)(uintptr_t, void *), void *context)
{
    int result = 0;
    for (uint32_t i = 0; i < slots_of(s) && result == 0; i++) {
        if (!is_used(s, i)) {
            continue;
        }
        uintptr_t value = ns_load(&s->entries[i].value, NS_RELAXED);
        uintptr_t key = ns_load(&s->entries[i].key, NS_RELAXED);
        if (key != 0 && (value & NS_DEAD ? owns_dead_key(value) : current)) {
            result = visit(key, context);
        }
        if (result == 0 && current && ns_is_live(value)) {
            result = visit(value & ~NS_FROZEN, context);
        }
    }
    return result;
}

int
ns_table_visit(ns_table *t, int (*visit)(uintptr_t word, void *context), void *context)
{
    int result = 0;
    ns_segment *s;
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    /* A fork cut a publication short. The old segments count until values are replaced in the new
     * ones. From then on the old ones own only their dead keys, in the list of the retired or
     * not. */
    ns_segment *const old[2] = {ns_load(&t->old[0], NS_RELAXED), ns_load(&t->old[1], NS_RELAXED)};
    ns_segment *const new[2] = {ns_load(&t->new[0], NS_RELAXED), ns_load(&t->new[1], NS_RELAXED)};
    const bool pending = old[0] != NULL;
    const bool old_count = pending && state_of(new[0]) != NS_CURRENT;
    for (int i = 0; pending && i < 2 && result == 0; i++) {
        result = old[i] != NULL ? visit_segment(old[i], old_count, visit, context) : 0;
    }
    for (uint64_t i = 0; d != NULL && result == 0 && (s = next_in(d, &i)) != NULL;) {
        if (!old_count || (s != old[0] && s != old[1] && s != new[0] && s != new[1])) {
            result = visit_segment(s, true, visit, context);
        }
    }
    s = ns_load(&t->retired, NS_RELAXED);
    for (; s != NULL && result == 0; s = ns_load(&s->next, NS_RELAXED)) {
        if (!pending || (s != old[0] && s != old[1])) {
            result = visit_segment(s, false, visit, context);
        }
    }
    return result != 0 ? result : ns_limbo_visit(&t->limbo, visit, context);
}

/* ---- Freeing ---- */

static void
release_dead_keys(ns_segment *s, void (*release)(uintptr_t))
{
    for (uint32_t i = 0; dead_in(s) > 0 && i < slots_of(s); i++) {
        if (is_used(s, i) && owns_dead_key(ns_load(&s->entries[i].value, NS_RELAXED))) {
            release(ns_load(&s->entries[i].key, NS_RELAXED));
        }
    }
}

void
ns_garbage_release(ns_garbage *garbage, void (*release)(uintptr_t key))
{
    while (garbage->count > 0) {
        release(garbage->keys[--garbage->count]);
    }
    while (garbage->segments != NULL) {
        ns_segment *s = garbage->segments;
        garbage->segments = ns_load(&s->next, NS_RELAXED);
        release_dead_keys(s, release);
        free(s);
    }
}

void
ns_table_destroy(ns_table *t, void (*release)(uintptr_t key, uintptr_t value))
{
    lock_structure(t); /* finishes what a fork cut short */
    unlock_structure(t);
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    ns_segment *s;
    for (uint64_t i = 0; d != NULL && (s = next_in(d, &i)) != NULL;) {
        for (uint32_t e = 0; e < slots_of(s); e++) {
            uintptr_t value = ns_load(&s->entries[e].value, NS_RELAXED);
            uintptr_t key = ns_load(&s->entries[e].key, NS_RELAXED);
            if (is_used(s, e) && key != 0 && (ns_is_live(value) || owns_dead_key(value))) {
                release(key, ns_is_live(value) ? value & ~NS_FROZEN : 0);
            }
        }
        free(s);
    }
    free(d);
    while ((s = ns_load(&t->retired, NS_RELAXED)) != NULL) {
        ns_unlink(&t->retired, ns_load(&s->next, NS_RELAXED));
        for (uint32_t e = 0; e < slots_of(s); e++) {
            if (is_used(s, e) && owns_dead_key(ns_load(&s->entries[e].value, NS_RELAXED))) {
                release(ns_load(&s->entries[e].key, NS_RELAXED), 0);
            }
        }
        free(s);
    }
    while ((d = ns_load(&t->retired_directories, NS_RELAXED)) != NULL) {
        ns_unlink(&t->retired_directories, ns_load(&d->next, NS_RELAXED));
        free(d);
    }
    ns_store(&t->directory, NULL, NS_RELAXED);
    uintptr_t key;
    while (ns_limbo_take_any(&t->limbo, UINT64_MAX, &key, 1) != 0) {
        release(key, 0);
    }
    ns_limbo_destroy(&t->limbo);
}
