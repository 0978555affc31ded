/* cache_functions.h: calls of the functions that a user gave to a Cache: `weigher`, `on_evict` and
 * `clock`. They are called with no lock held and in no section.
 *
 * Collection. tp_clear replaces the functions by None: a function that refers to the cache, such as
 * a method of a subclass, closes a cycle that nothing else breaks. A thread that got hold of this
 * garbage through gc.get_objects() may call one meanwhile. So a call first takes a reference
 * (ns_load_function), and does without the function if it finds None.
 *
 * Recursion. A function may call the cache again without Python code in between, and an operation
 * that evicts has a large frame (cache_edits.c, `attempt`). So `weigher` and `clock` are called
 * from small frames, and a call of `on_evict` counts as several levels of recursion.
 */
#ifndef NS_CACHE_FUNCTIONS_H
#define NS_CACHE_FUNCTIONS_H

#include "types/cache.h"

/* Reads the user's clock. Returns 0, or -1 with an exception. */
int ns_cache_read_clock(Cache *o, int64_t *now);

/* Gives the time, if it matters: for an entry with a time to live, or if the cache has had such an
 * entry. Else *now is NS_CACHE_NO_TIME. Returns 0, or -1 with an exception. */
static inline int
ns_cache_time(Cache *o, int64_t ttl, int64_t *now)
{
    *now = NS_CACHE_NO_TIME;
    if (ns_likely(ttl == 0 && !ns_cache_is_timed(&o->core))) {
        return 0;
    }
    if (ns_load(&o->clock, NS_RELAXED) != NULL) {
        return ns_cache_read_clock(o, now);
    }
    *now = ns_now();
    return 0;
}

/* Gives the weight of an entry: what `weigher` says, or 1. Returns 0, or -1 with an exception. */
int ns_cache_call_weigher(Cache *o, PyObject *key, PyObject *value, int64_t *weight);
static inline int
ns_cache_weigh(Cache *o, PyObject *key, PyObject *value, int64_t *weight)
{
    *weight = 1;
    return ns_likely(ns_load(&o->weigher, NS_RELAXED) == NULL)
               ? 0
               : ns_cache_call_weigher(o, key, value, weight);
}

/* Calls `on_evict`, if there is one. Writes its exception to stderr, and keeps the one that the
 * thread is raising. */
void ns_cache_call_on_evict(Cache *o, PyObject *key, PyObject *value, const char *cause);

#endif
