/* syncmap.h: the object, and what the files of SyncMap offer each other:
 *
 *   syncmap_edits.h .c   lookups and edits
 *   syncmap_keys.h .c    hashes, and the comparison of keys
 *   syncmap_protocol.c   the mapping protocol and the methods
 *   syncmap_iterator.c   iterators
 *   syncmap_type.c       construction, collection, the type
 *
 * mapping.h .c has what Cache's methods do alike.
 */
#ifndef NS_SYNCMAP_H
#define NS_SYNCMAP_H

#include "object.h"
#include "interpreter/spares.h"
#include "interpreter/tryref.h"
#include "interpreter/watch.h"
#include "types/mapping.h"
#include "types/syncmap_keys.h"

typedef struct SyncMap {
    NS_OBJECT_HEAD
    ns_table table;
    bool is_flights; /* constant: whether this map is another map's `flights` */
    /* For a map of flights: an upper bound of its entries. Raised before an entry comes, and
     * lowered after it has gone. So in the child of a fork it may stay too high. */
    _Atomic uint32_t flying;
    _Atomic uint32_t begun; /* the same: how many there were, while they are few (ns_has_flights) */
    ns_ref flights; /* the map of the running calls of load_or_compute; NULL before the first */
    ns_watch_place watch;
    ns_spares spare_iterators;
} SyncMap;

/* How the table treats its words: they are objects, and it owns a reference to each. */

static inline bool
ns_hold(uintptr_t word)
{
    return ns_try_incref((PyObject *)word);
}

static inline void
ns_drop(uintptr_t word)
{
    Py_DECREF((PyObject *)word);
}

/* ns_hold under the lock: there the object is alive. */
static inline void
ns_hold_locked(uintptr_t word)
{
    Py_INCREF((PyObject *)word);
}

/* syncmap_protocol.c: slots and methods of the type. */
PyObject *ns_syncmap_get_item(PyObject *self, PyObject *key);
int ns_syncmap_set_item(PyObject *self, PyObject *key, PyObject *value);
int ns_syncmap_has_key(PyObject *self, PyObject *key);
Py_ssize_t ns_syncmap_length(PyObject *self);
int ns_syncmap_truth(PyObject *self);
PyObject *ns_syncmap_iter(PyObject *self);
extern PyMethodDef ns_syncmap_methods[];

/* syncmap_iterator.c: iterators over keys, or (key, value) pairs. */
PyObject *ns_syncmap_iterate(SyncMap *o, bool pairs);
int ns_add_syncmap_iterator(PyObject *module);

/* ---- For this type and Cache: the calls of load_or_compute under way (flight.h) ---- */

/* Whether any value is being computed, by the map of flights in *place. The fence belongs to
 * ns_has_flights, which nobody else calls: syncmap_edits.c says why. */
bool ns_has_flights(SyncMap *flights);
static inline bool
ns_flights_any(ns_ref *place)
{
    ns_fence_here();
    SyncMap *flights = (SyncMap *)ns_load(place, NS_SEQ_CST);
    return ns_unlikely(flights != NULL) && ns_has_flights(flights);
}

/* syncmap_protocol.c: the map in *flights, which the first call makes; NULL with an exception.
 * `self` is the object that has it, until it dies: the reference is borrowed, since threads that
 * fly beside each other would contend for the count. */
PyObject *ns_flights_of(PyObject *self, ns_ref *flights);

/* syncmap_edits.c: detaches the calls for the key, or (NULL) for all keys: to be called before
 * deleting it. `self` is the object that has the map of flights in *flights. Returns 0, or -1 with
 * an exception. */
int ns_detach_slow(PyObject *self, PyObject *key);
static inline int
ns_detach(PyObject *self, ns_ref *flights, PyObject *key)
{
    return ns_likely(!ns_flights_any(flights)) ? 0 : ns_detach_slow(self, key);
}

#endif
