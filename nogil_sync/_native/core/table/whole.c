/* whole.c: what looks at all segments of a table, one after the other. */
#include "table/directory.h"
#include "table/retired.h"

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

/* ---- Counts ---- */

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
    ns_structure_lock(t);
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
    ns_structure_unlock(t);
    return total;
}

/* ---- In the order of hashes ---- */

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
        ns_structure_lock(t);
        ns_retired_reap(t, garbage);
        ns_structure_unlock(t);
    }
    ns_segment *s = ns_table_lock(t, *from);
    ns_segment_sweep(s, garbage);
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
