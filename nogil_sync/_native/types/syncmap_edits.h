/* syncmap_edits.h: lookups and edits of a SyncMap, each atomic for its key.
 *
 * There are two kinds of operation. `ns_syncmap_lookup` reads without a lock. `ns_syncmap_apply`
 * does an edit. Replacing the value of a key that is there takes no lock either. Any other edit
 * locks the key's segment, finds the entry, changes it and unlocks. Only then does it release what
 * it replaced.
 *
 * Equality. Keys whose equality runs no user code are compared in place (syncmap_keys.h). For the
 * others an attempt ends with NS_ASK; the caller then leaves, holds nothing but references, and
 * asks the interpreter. The next attempt goes on where the last one stopped, unless something was
 * inserted in its way meanwhile.
 *
 * References. The table owns one to each key and value. Values are published (tryref.h) before they
 * are stored, so a reader can always take a reference to what an entry holds. The thread that
 * replaces a value releases it at once. Keys are compared without touching their counts
 * (table.h, 3a), except keys that must be asked: of those a reader takes a reference, without
 * a lock if the key's type is not plain (its keys are published, too), else under the lock.
 *
 * A map without __init__ has no directory, so only misses must check whether it was called.
 */
#ifndef NS_SYNCMAP_EDITS_H
#define NS_SYNCMAP_EDITS_H

#include "types/syncmap.h"

/* What edits return, beside what lookups do (syncmap.h). */
enum {
    NS_KEY_OTHER_VALUE = 2, /* the value is not the expected one */
    NS_KEY_FORBIDDEN = 3,   /* the edit's flag is set */
};

/* ---- Looking up ---- */

/* The rest of a lookup whose first search gave `found`: not NS_PRESENT. *value gets a reference,
 * unless `value` is NULL. */
int ns_syncmap_lookup_slow(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value, ns_asker *a,
                           enum ns_found found);

/* The search for a key that is no str or int. Out of line: the common cases then save fewer
 * registers. */
enum ns_found ns_syncmap_search_any(SyncMap *o, PyObject *key, uint64_t hash, uintptr_t *word);

static inline __attribute__((always_inline)) enum ns_found
ns_syncmap_search(ns_match_fn match, SyncMap *o, PyObject *key, uint64_t hash, uintptr_t *word)
{
    if (match == ns_match_any) {
        return ns_syncmap_search_any(o, key, hash, word);
    }
    return ns_table_get(&o->table, hash, match, key, NULL, ns_hold, ns_drop, word);
}

/* NS_KEY_FOUND with a reference in *value, NS_KEY_MISSING or NS_KEY_ERROR. `a`, if not NULL, keeps
 * the answers of equality for the edit that follows. So no two keys are compared twice in one
 * operation, and equality that changes the map cannot make the operation repeat for ever. */
static inline int
ns_syncmap_lookup(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value, ns_asker *a)
{
    uintptr_t word;
    ns_watch_use(&o->watch, (PyObject *)o);
    enum ns_found found = NS_FOR_KEY_TYPE(key, ns_syncmap_search, o, key, hash, &word);
    if (ns_likely(found == NS_PRESENT)) {
        *value = (PyObject *)word;
        return NS_KEY_FOUND;
    }
    return ns_syncmap_lookup_slow(o, key, hash, value, a, found);
}

/* The same without the value. Touches no reference count, unless a key must be asked. */
int ns_syncmap_contains(SyncMap *o, PyObject *key, uint64_t hash, ns_asker *a);

/* ---- Editing ---- */

typedef enum {
    NS_PUT, /* whatever there is */
    NS_ADD, /* only if the key is missing */
    NS_CHANGE, /* only if the key is there, with the expected value */
    NS_REMOVE, /* the same */
} ns_edit_kind;

typedef struct ns_edit {
    ns_edit_kind kind;
    PyObject *key;
    uint64_t hash;
    PyObject *new; /* not for NS_REMOVE */
    PyObject *expected; /* NS_CHANGE, NS_REMOVE: the value has to be this very object; NULL: any */
    _Atomic bool *unless; /* if it is set the edit does nothing; NULL: no such flag */
    ns_asker *asker; /* with the answers of an earlier lookup; NULL: none */
} ns_edit;

/* Does the edit in one step. NS_KEY_FOUND or NS_KEY_MISSING: whether the key was there; after
 * NS_PUT, or NS_ADD of a missing key, it is there now. With NS_KEY_ERROR nothing changed. *old gets
 * a reference to the value that was there, or NULL. */
int ns_syncmap_apply(SyncMap *o, const ns_edit *e, PyObject **old);

/* Sets the key, whether it was present or not. Returns 0 or -1. */
static inline int
ns_syncmap_put(SyncMap *o, PyObject *key, uint64_t hash, PyObject *value)
{
    PyObject *old;
    ns_edit e = {.kind = NS_PUT, .key = key, .hash = hash, .new = value};
    int result = ns_syncmap_apply(o, &e, &old);
    Py_XDECREF(old);
    return result == NS_KEY_ERROR ? -1 : 0;
}

/* Deletes a key, whose calls of load_or_compute it detaches first. NS_KEY_FOUND with the value,
 * NS_KEY_MISSING or NS_KEY_ERROR. */
int ns_syncmap_remove(SyncMap *o, PyObject *key, PyObject **value);

/* Deletes some key in the same way. Returns a new (key, value) pair; NULL with an exception,
 * KeyError if there is no key. */
PyObject *ns_syncmap_remove_any(SyncMap *o);

/* Deletes all entries, and does not detach. */
void ns_syncmap_clear(SyncMap *o);

/* For the call that has claimed a flight in this map: orders the flight's entry before all that its
 * function reads. */
void ns_fence_flight(SyncMap *flights);

#endif
