/* retired.h: the segments and directories of a table that rebuilds have replaced, until they may be
 * freed (table.h, 6). All of it runs under the structure lock, but for the sleepers.
 */
#ifndef NS_RETIRED_H
#define NS_RETIRED_H

#include "table/segment.h"

/* Retires a segment. */
void ns_retired_add(ns_table *t, ns_segment *s, uint64_t stamp);
/* Whether the segment is retired already. */
bool ns_retired_has(ns_table *t, ns_segment *s);
/* Retires a directory that no longer is the table's. */
void ns_retired_add_directory(ns_table *t, ns_directory *d);
/* Takes from the list of the retired what can be freed now. */
void ns_retired_reap(ns_table *t, ns_garbage *garbage);

static inline bool
has_retired(const ns_table *t)
{
    return ns_load(&t->retired, NS_RELAXED) != NULL ||
           ns_load(&t->retired_directories, NS_RELAXED) != NULL;
}

/* ---- Sleepers: a segment that has some is not freed (table.h, 4) ---- */

static inline uint64_t
sleepers_of_this_process(void)
{
    return (uint64_t)ns_fork_generation() << 32;
}

/* The caller is in a section. */
static inline void
add_sleeper(ns_segment *s)
{
    const uint64_t none = sleepers_of_this_process();
    uint64_t n = ns_load(&s->sleepers, NS_RELAXED);
    while (!ns_cas(&s->sleepers, &n, (n >> 32 == none >> 32 ? n : none) + 1, NS_ACQUIRE)) {
    }
}

/* The segment may be freed after this. */
static inline void
remove_sleeper(ns_segment *s)
{
    ns_sub(&s->sleepers, 1, NS_RELEASE);
}

/* Sleepers of another process did not survive the fork. */
static inline bool
has_sleepers(const ns_segment *s)
{
    const uint64_t n = ns_load(&s->sleepers, NS_ACQUIRE);
    return n >> 32 == sleepers_of_this_process() >> 32 && (uint32_t)n != 0;
}

#endif
