/* cache.h: the object Cache, and its hits, which CachedFunction makes too. */
#ifndef NS_CACHE_TYPE_H
#define NS_CACHE_TYPE_H

#include "object.h"
#include "interpreter/watch.h"
#include "types/flight.h"
#include "types/syncmap.h"

#include "core/cache/cache.h"

typedef struct Cache {
    NS_OBJECT_HEAD
    ns_cache core;
    ns_watch_place watch;
    int64_t ttl; /* nanoseconds; 0: none */
    /* Set by __init__; NULL: none; None: cleared by the collector. See ns_load_function. */
    ns_ref weigher, on_evict, clock;
    ns_ref flights; /* the map of the running calls of load_or_compute; NULL before the first */
} Cache;

/* ---- Comparing keys: as in syncmap_keys.h, for words of entries ---- */

static inline uintptr_t
ns_cached_key(uintptr_t word)
{
    return ns_cache_entry_of(word)->key;
}

static inline enum ns_match
ns_match_cached_str(uintptr_t word, const void *wanted)
{
    return ns_match_str(ns_cached_key(word), wanted);
}

static inline enum ns_match
ns_match_cached_int(uintptr_t word, const void *wanted)
{
    return ns_match_int(ns_cached_key(word), wanted);
}

static inline enum ns_match
ns_match_cached_any(uintptr_t word, const void *wanted)
{
    return ns_match_any(ns_cached_key(word), wanted);
}

/* ---- Looking up ---- */

/* The rest of a lookup whose first search gave `found`: not NS_CACHE_PRESENT. Counts if `uses`. */
int ns_cache_lookup_slow(Cache *o, PyObject *key, uint64_t hash, int64_t now, bool uses,
                         enum ns_cache_found found, PyObject **value);
/* Reads the user's clock. Returns 0 or -1. */
int ns_cache_read_clock(Cache *o, int64_t *now);

static inline __attribute__((always_inline)) enum ns_cache_found
ns_cache_search(ns_match_fn match, Cache *o, PyObject *key, uint64_t hash, int64_t now, bool uses,
                uintptr_t *word)
{
    return ns_cache_get(&o->core, hash, match, key, NULL, now, uses, ns_hold, ns_drop, word);
}

/* NS_KEY_FOUND with a reference in *value, NS_KEY_MISSING or NS_KEY_ERROR. With `uses` it
 * counts a hit or a miss, and a use of the entry. */
static inline __attribute__((always_inline)) int
ns_cache_lookup(Cache *o, PyObject *key, uint64_t hash, bool uses, PyObject **value)
{
    uintptr_t word;
    int64_t now = NS_CACHE_NO_TIME;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_unlikely(ns_load(&o->clock, NS_RELAXED) != NULL) && ns_cache_is_timed(&o->core) &&
        ns_cache_read_clock(o, &now) < 0) {
        return NS_KEY_ERROR;
    }
    enum ns_cache_found found =
        PyUnicode_CheckExact(key)
            ? ns_cache_search(ns_match_cached_str, o, key, hash, now, uses, &word)
        : PyLong_CheckExact(key)
            ? ns_cache_search(ns_match_cached_int, o, key, hash, now, uses, &word)
            : ns_cache_search(ns_match_cached_any, o, key, hash, now, uses, &word);
    if (ns_likely(found == NS_CACHE_PRESENT)) {
        if (uses) {
            NS_CACHE_COUNT(&o->core, hits);
        }
        *value = (PyObject *)word;
        return NS_KEY_FOUND;
    }
    return ns_cache_lookup_slow(o, key, hash, now, uses, found, value);
}

/* Computes the value of a missing key: ns_fly of flight.h. */
PyObject *ns_cache_fly(Cache *o, PyObject *key, uint64_t hash, const ns_user_call *call, bool *met);

/* cached_type.c */
int ns_add_cached(PyObject *module);

#endif
