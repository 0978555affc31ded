#include "table/directory.h"

#include "table/retired.h"

#include <stdlib.h>

/* ---- Directories ---- */

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

static void
replace_directory(ns_table *t, ns_directory *old, ns_directory *new)
{
    ns_store(&t->directory, new, NS_RELEASE);
    ns_retired_add_directory(t, old);
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

/* ---- Publication ---- */

/* Publishes the noted rebuild. All its steps can be repeated. The new segments become current last:
 * see table.h, 4. */
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
        if (s != NULL && !ns_retired_has(t, s)) {
            ns_retired_add(t, s, ns_epoch_stamp());
        }
    }
    forget(t);
}

void
ns_structure_lock(ns_table *t)
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

bool
ns_directory_create(ns_table *t)
{
    ns_structure_lock(t);
    if (ns_load(&t->directory, NS_RELAXED) == NULL) {
        ns_directory *d = new_directory(0);
        ns_segment *s = d != NULL ? ns_segment_new(t, 0, 0, NS_SEGMENT_MIN) : NULL;
        if (s == NULL) {
            free(d);
            ns_structure_unlock(t);
            return false;
        }
        ns_store(&s->state, NS_CURRENT, NS_RELAXED);
        ns_lock_release(&s->lock);
        d->deepest = 1;
        ns_store(&d->segments[0], s, NS_RELAXED);
        ns_store(&t->segments, 1, NS_RELAXED);
        ns_store(&t->directory, d, NS_RELEASE);
    }
    ns_structure_unlock(t);
    return true;
}

bool
ns_directory_replace(ns_table *t, ns_segment *old[2], ns_segment *new[2], ns_garbage *garbage)
{
    ns_structure_lock(t);
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    if (new[0]->depth > d->depth && (d = double_directory(t, d)) == NULL) {
        ns_structure_unlock(t);
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
        ns_retired_add(t, old[i], stamp);
    }
    forget(t);
    halve_directory(t);
    ns_retired_reap(t, garbage);
    garbage->waits |= has_retired(t) ? NS_SEGMENTS_WAIT : 0;
    ns_structure_unlock(t);
    return true;
}
