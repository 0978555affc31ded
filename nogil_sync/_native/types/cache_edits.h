/* cache_edits.h: lookups and edits of a Cache, each atomic for its key, over core/cache/cache.h.
 *
 * `ns_cache_lookup` makes a hit without a lock, in line. What it cannot decide so, and every edit,
 * goes to the core under the cache's lock. Users' code (hashes, equality, `weigher`, `clock`,
 * `on_evict`, finalisers) runs between calls of the core, with no lock and in no section.
 *
 * Equality. As in syncmap_edits.h: an operation that meets a key which only the interpreter can
 * compare ends with NS_CACHE_ASK_KEY or NS_CACHE_ASK, and is repeated with the answer.
 *
 * References. The core's words are objects: the cache owns one reference to each key and value.
 * Values are published (tryref.h) before they are stored, and keys whose equality is Python code.
 * The table frees the word of a key: with it goes the entry, and the entry's reference to the key.
 *
 * A cache without __init__ has no directory, so only misses and edits must check whether it was
 * called.
 */
#ifndef NS_CACHE_EDITS_H
#define NS_CACHE_EDITS_H

#include "types/cache.h"
#include "types/cache_functions.h"

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

/* ---- Editing ---- */

/* Sets the key, and detaches a load of it in the same step. With a flag it does so only if the key
 * is missing and the flag not set. Then *kept gets a reference to the value that is there, or NULL.
 * Returns 0, or -1 with an exception. */
int ns_cache_put(Cache *o, PyObject *key, uint64_t hash, PyObject *value, int64_t ttl,
                 _Atomic bool *flag, PyObject **kept);

/* Deletes a key, whose loads it detaches first: NS_KEY_FOUND with the value, NS_KEY_MISSING or
 * NS_KEY_ERROR. */
int ns_cache_delete(Cache *o, PyObject *key, PyObject **value);

/* Deletes all entries, and does not detach. */
void ns_cache_delete_all(Cache *o);

/* Deletes the entries that have expired at this time. */
void ns_cache_delete_expired(Cache *o, int64_t now);

/* Releases an entry, by its word, and its value, which may be NULL: for ns_cache_destroy. */
void ns_cache_release_entry(uintptr_t word, uintptr_t value);

#endif
