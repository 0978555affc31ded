/* directory.h: which segment holds which hashes: the directory, the publication of rebuilt segments
 * in it, and the structure lock that guards both.
 */
#ifndef NS_DIRECTORY_H
#define NS_DIRECTORY_H

#include "table/segment.h"

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
static inline ns_segment *
next_in(ns_directory *d, uint64_t *i)
{
    if (*i >> d->depth != 0) {
        return NULL;
    }
    ns_segment *s = ns_load(&d->segments[*i], NS_ACQUIRE);
    *i = index_in(d, s->prefix) + span_in(d, s);
    return s;
}

/* ---- Under the structure lock ---- */

/* Locks the structure. Finishes first what a thread was publishing that did not survive a fork. */
void ns_structure_lock(ns_table *t);

static inline void
ns_structure_unlock(ns_table *t)
{
    ns_lock_release(&t->structure);
}

/* Makes the first segment, if no other thread did. Returns false if there is no memory. */
bool ns_directory_create(ns_table *t);
/* Replaces old segments by new ones, which are filled: see table.h, 4. Returns true if so; then the
 * old ones are unlocked and retired. Returns false if there is no memory for a larger directory;
 * then nothing happened. */
bool ns_directory_replace(ns_table *t, ns_segment *old[2], ns_segment *new[2], ns_garbage *garbage);

#endif
