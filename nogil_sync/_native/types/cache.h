/* cache.h: the object Cache, and what its files offer each other:
 *
 *   cache_edits.h .c       lookups and edits; CachedFunction (cached_type.c) makes hits, too
 *   cache_functions.h .c   calls of the user's functions `weigher`, `on_evict` and `clock`
 *   cache_protocol.c       the mapping protocol and the methods
 *   cache_type.c           construction, collection, the type
 *
 * Keys are hashed and compared by syncmap_keys.h, and mapping.h has what Cache and SyncMap do
 * alike.
 */
#ifndef NS_CACHE_TYPE_H
#define NS_CACHE_TYPE_H

#include "object.h"
#include "interpreter/watch.h"
#include "types/flight.h"

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

/* cache_protocol.c: slots and methods of the type. */
PyObject *ns_cache_get_item(PyObject *self, PyObject *key);
int ns_cache_set_item(PyObject *self, PyObject *key, PyObject *value);
int ns_cache_has_key(PyObject *self, PyObject *key);
Py_ssize_t ns_cache_length(PyObject *self);
PyObject *ns_cache_iter(PyObject *self);
PyObject *ns_cache_repr(PyObject *self);
extern PyMethodDef ns_cache_methods[];

/* Converts a time to live, in seconds, to nanoseconds; NULL and None become 0. Returns 0, or -1
 * with an exception. Runs code of users. */
int ns_cache_parse_ttl(PyObject *ttl, int64_t *result);

/* Computes the value of a missing key: ns_fly of flight.h. */
PyObject *ns_cache_fly(Cache *o, PyObject *key, uint64_t hash, const ns_user_call *call, bool *met);

/* cached_type.c */
int ns_add_cached(PyObject *module);

#endif
