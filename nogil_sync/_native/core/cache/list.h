/* list.h: the lists that entries of a cache are in: rings of links, with the list's ends as one.
 *
 * For the files of this folder, as ghosts.h and wheel.h are; functions without ns_ in their name
 * are of it alone. All run under the cache's lock.
 */
#ifndef NS_CACHE_LIST_H
#define NS_CACHE_LIST_H

#include "cache/cache.h"

#define ENTRY_AT(link, member) \
    ((ns_cache_entry *)((char *)(link) - offsetof(ns_cache_entry, member)))

static inline void
make_list(ns_cache_link *ends)
{
    ends->next = ends->previous = ends;
}

static inline bool
is_empty(const ns_cache_link *ends)
{
    return ends->next == ends;
}

static inline void
push(ns_cache_link *ends, ns_cache_link *link)
{
    link->next = ends->next;
    link->previous = ends;
    ends->next->previous = link;
    ends->next = link;
}

static inline void
unlink_from_list(ns_cache_link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->next = link->previous = NULL;
}

/* Moves all of a list to the newer end of another one. */
static inline void
splice(ns_cache_link *to, ns_cache_link *from)
{
    if (!is_empty(from)) {
        from->previous->next = to->next;
        to->next->previous = from->previous;
        from->next->previous = to;
        to->next = from->next;
        make_list(from);
    }
}

#endif
