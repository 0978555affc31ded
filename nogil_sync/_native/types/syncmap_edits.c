#include "types/syncmap_edits.h"

/* ---- Looking up ---- */

static bool
hold_nothing(uintptr_t Py_UNUSED(word))
{
    return true;
}

static void
drop_nothing(uintptr_t Py_UNUSED(word))
{
}

/* A reference to the next key to ask about, taken under the lock: a lookup whose own key is not
 * plain cannot always take one without it, since plain keys are not published. 0: no such key is
 * left. */
static uintptr_t
key_to_ask(SyncMap *o, uint64_t hash, ns_asker *a)
{
    ns_entry *entry;
    uintptr_t value, key = 0;
    ns_segment *s = ns_table_lock(&o->table, hash);
    if (s != NULL) {
        if (ns_segment_find(s, hash, ns_match_asked, a, NULL, &entry, &value) == NS_ASK) {
            key = ns_load(&entry->key, NS_RELAXED);
            Py_INCREF((PyObject *)key);
        }
        ns_lock_release(&s->lock);
    }
    return key;
}

/* Searches the table and asks the interpreter about each key that the search cannot decide. */
static enum ns_found
search_asking(SyncMap *o, uint64_t hash, ns_asker *a, uintptr_t *word)
{
    enum ns_found found;
    while ((found = ns_table_get(
                &o->table, hash, ns_match_asked, a, &a->place, ns_hold, ns_drop, word)) == NS_ASK) {
        if (*word == 0 && (*word = key_to_ask(o, hash, a)) == 0) {
            a->place.serial = 0; /* the entry is gone: restart, the key may be before it now */
        }
        else if (ns_asker_ask(a, (PyObject *)*word) < 0) {
            break;
        }
    }
    return found;
}

Py_NO_INLINE int
ns_syncmap_lookup_slow(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value, ns_asker *a,
                       enum ns_found found)
{
    uintptr_t word;
    ns_asker own;
    if (found == NS_ABSENT) {
        return ns_check_initialized((PyObject *)o) < 0 ? NS_KEY_ERROR : NS_KEY_MISSING;
    }
    if (a == NULL) {
        ns_asker_unused(&own);
    }
    ns_asker *const asker = a != NULL ? a : &own;
    ns_asker_begin(asker, key);
    found = search_asking(o, hash, asker, &word);
    if (found == NS_PRESENT) {
        if (value != NULL) {
            *value = (PyObject *)word;
        }
        else {
            ns_drop(word);
        }
    }
    if (a == NULL) {
        ns_asker_end(&own);
    }
    return found == NS_PRESENT ? NS_KEY_FOUND : found == NS_ABSENT ? NS_KEY_MISSING : NS_KEY_ERROR;
}

enum ns_found
ns_syncmap_search_any(SyncMap *o, PyObject *key, uint64_t hash, uintptr_t *word)
{
    return ns_table_get(&o->table, hash, ns_match_any, key, NULL, ns_hold, ns_drop, word);
}

static inline __attribute__((always_inline)) enum ns_found
search_key_only(ns_match_fn match, SyncMap *o, PyObject *key, uint64_t hash, uintptr_t *word)
{
    return ns_table_get(&o->table, hash, match, key, NULL, hold_nothing, drop_nothing, word);
}

int
ns_syncmap_contains(SyncMap *o, PyObject *key, uint64_t hash, ns_asker *a)
{
    uintptr_t word;
    ns_watch_use(&o->watch, (PyObject *)o);
    enum ns_found found = NS_FOR_KEY_TYPE(key, search_key_only, o, key, hash, &word);
    return ns_likely(found == NS_PRESENT) ? NS_KEY_FOUND
                                          : ns_syncmap_lookup_slow(o, key, hash, NULL, a, found);
}

/* ---- Editing ---- */

/* So many flights of a map pay for the fences of its deletions. See ns_has_flights. */
#define FEW_FLIGHTS 8

/* Counts the flights, for ns_has_flights. */
static inline void
count_flight(SyncMap *o, uint32_t by)
{
    if (ns_unlikely(o->is_flights)) {
        ns_add(&o->flying, by, NS_SEQ_CST);
    }
}

void
ns_fence_flight(SyncMap *flights)
{
    uint32_t begun = ns_load(&flights->begun, NS_ACQUIRE);
    if (begun > FEW_FLIGHTS) {
        ns_fence(NS_SEQ_CST);
        return;
    }
    if (begun < FEW_FLIGHTS) {
        ns_cas(&flights->begun, &begun, begun + 1, NS_SEQ_CST);
        begun = 0;
    }
    ns_fence_everywhere();
    if (begun == FEW_FLIGHTS) {
        ns_cas(&flights->begun, &begun, begun + 1, NS_SEQ_CST);
    }
}

/* Inserts the missing key into *s, which is locked. *s is then the segment that holds the key,
 * locked. NS_KEY_MISSING, or NS_KEY_ERROR without an exception and with nothing changed. */
static inline int
insert_locked(SyncMap *o, const ns_edit *e, ns_segment **s, ns_garbage *garbage)
{
    const uintptr_t key = (uintptr_t)e->key, new = (uintptr_t)e->new;
    Py_INCREF(e->key);
    if (!ns_is_plain(Py_TYPE(e->key))) {
        ns_publish(e->key);
    }
    count_flight(o, 1);
    if (ns_likely(ns_segment_insert(*s, e->hash, key, new, garbage))) {
        return NS_KEY_MISSING;
    }
    ns_segment *larger = ns_table_make_room(&o->table, *s, e->hash, garbage);
    if (larger == NULL) {
        count_flight(o, UINT32_MAX);
        return NS_KEY_ERROR;
    }
    *s = larger;
    ns_segment_insert(larger, e->hash, key, new, garbage);
    return NS_KEY_MISSING;
}

/* Does the edit with the segment locked, and unlocks it. `found` and `entry` are what the search
 * for the key gave. Returns what ns_syncmap_apply returns. */
static int
edit_locked(SyncMap *o, const ns_edit *e, ns_segment *s, enum ns_found found, ns_entry *entry,
            PyObject **old)
{
    ns_garbage garbage;
    ns_garbage_init(&garbage);
    int result = found == NS_PRESENT ? NS_KEY_FOUND : NS_KEY_MISSING;
    bool unused = e->new != NULL; /* the table did not take over the reference to the new value */
    if (ns_unlikely(e->unless != NULL) && ns_load(e->unless, NS_SEQ_CST)) {
        result = NS_KEY_FORBIDDEN;
    }
    else if (found == NS_PRESENT) {
        if (e->kind == NS_ADD) {
            *old = (PyObject *)ns_entry_hold(entry, ns_hold_locked);
        }
        else if (e->kind == NS_REMOVE) {
            *old = (PyObject *)ns_segment_remove(
                &o->table, s, entry, (uintptr_t)e->expected, &garbage);
            result = ns_likely(*old != NULL) ? NS_KEY_FOUND : NS_KEY_OTHER_VALUE;
            if (result == NS_KEY_FOUND) {
                count_flight(o, UINT32_MAX);
            }
        }
        else {
            *old = (PyObject *)ns_entry_replace(entry, (uintptr_t)e->expected, (uintptr_t)e->new);
            result = ns_likely(*old != NULL) ? NS_KEY_FOUND : NS_KEY_OTHER_VALUE;
            unused = result != NS_KEY_FOUND;
        }
    }
    else if (e->kind == NS_PUT || e->kind == NS_ADD) {
        unused = false;
        result = insert_locked(o, e, &s, &garbage);
    }
    ns_table_unlock(&o->table, s, &garbage);
    /* The lock is released: from here on user code may run. */
    if (ns_unlikely(unused)) {
        Py_DECREF(e->new);
    }
    if (ns_unlikely(result == NS_KEY_ERROR)) {
        Py_DECREF(e->key);
        Py_DECREF(e->new);
        PyErr_NoMemory();
    }
    if (ns_unlikely(!ns_garbage_is_empty(&garbage))) {
        ns_garbage_release(&garbage, ns_drop);
    }
    return result;
}

static int
no_memory(const ns_edit *e)
{
    Py_XDECREF(e->new); /* which ns_syncmap_apply took */
    PyErr_NoMemory();
    return NS_KEY_ERROR;
}

/* ns_syncmap_apply where the interpreter must be asked about keys. */
static Py_NO_INLINE int
apply_asking(SyncMap *o, const ns_edit *e, PyObject **old)
{
    ns_asker own;
    if (e->asker == NULL) {
        ns_asker_unused(&own);
    }
    ns_asker *const a = e->asker != NULL ? e->asker : &own;
    ns_asker_begin(a, e->key);
    int result = NS_KEY_ERROR;
    for (;;) {
        ns_entry *entry = NULL;
        uintptr_t value = 0;
        ns_segment *s = ns_table_lock(&o->table, e->hash);
        if (s == NULL) {
            result = no_memory(e);
            break;
        }
        if (a->place.serial != s->serial || a->place.inserts != ns_load(&s->inserts, NS_RELAXED)) {
            a->place.serial = 0; /* another segment, or keys were inserted: restart */
        }
        enum ns_found found =
            ns_segment_find(s, e->hash, ns_match_asked, a, &a->place, &entry, &value);
        if (found != NS_ASK) {
            result = edit_locked(o, e, s, found, entry, old);
            break;
        }
        PyObject *stored = Py_NewRef((PyObject *)ns_load(&entry->key, NS_RELAXED));
        ns_lock_release(&s->lock);
        if (ns_asker_ask(a, stored) < 0) {
            Py_XDECREF(e->new); /* which ns_syncmap_apply took */
            break;
        }
    }
    if (e->asker == NULL) {
        ns_asker_end(&own);
    }
    return result;
}

/* NS_PUT and NS_CHANGE without a lock (ns_table_replace). Returns the old value, or 0. */
static inline __attribute__((always_inline)) uintptr_t
replace_without_lock(ns_match_fn match, ns_table *t, const ns_edit *e, ns_segment **locked)
{
    return ns_table_replace(
        t, e->hash, match, e->key, (uintptr_t)e->expected, (uintptr_t)e->new, locked);
}

static inline __attribute__((always_inline)) enum ns_found
find_locked(ns_match_fn match, ns_segment *s, const ns_edit *e, ns_entry **entry)
{
    uintptr_t value = 0;
    return ns_segment_find(s, e->hash, match, e->key, NULL, entry, &value);
}

/* ns_syncmap_apply, of which ns_syncmap_remove has a copy of its own. */
static inline __attribute__((always_inline)) int
apply(SyncMap *o, const ns_edit *e, PyObject **old)
{
    *old = NULL;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0) {
        return NS_KEY_ERROR;
    }
    if (e->new != NULL) {
        ns_publish(e->new);
        Py_INCREF(e->new);
    }
    ns_segment *s = NULL;
    if ((e->kind == NS_PUT || e->kind == NS_CHANGE) && ns_likely(!o->is_flights)) {
        *old = (PyObject *)NS_FOR_KEY_TYPE(e->key, replace_without_lock, &o->table, e, &s);
        if (ns_likely(*old != NULL)) {
            return NS_KEY_FOUND;
        }
    }
    ns_entry *entry = NULL;
    enum ns_found found = NS_ABSENT;
    if (s == NULL) {
        s = ns_table_lock(&o->table, e->hash);
        if (ns_unlikely(s == NULL)) {
            return no_memory(e);
        }
        found = NS_FOR_KEY_TYPE(e->key, find_locked, s, e, &entry);
        if (ns_unlikely(found == NS_ASK)) {
            ns_lock_release(&s->lock);
            return apply_asking(o, e, old);
        }
    }
    return edit_locked(o, e, s, found, entry, old);
}

int
ns_syncmap_apply(SyncMap *o, const ns_edit *e, PyObject **old)
{
    return apply(o, e, old);
}

/* ---- Deleting: detaches the calls of load_or_compute first (_common/mapping.py) ---- */

/* Whether any value is being computed. A thread that changes what a value is computed from, and
 * then deletes the key, must see each flight that began before it could know of the change. So both
 * have a fence: the deletion between the change and its look for flights (in ns_flights_any, and
 * here), and the call that runs the flight between its claim and all that it reads
 * (ns_fence_flight). That need not be the call that inserted the flight.
 *
 * Where flights are few, the deletions' fences cost nothing: a flight puts a fence into all threads
 * (membarrier), which takes microseconds and disturbs all of them. After FEW_FLIGHTS of them,
 * `begun` asks deletions for fences of their own. The next flight puts a fence into all threads
 * once more. From then on a deletion either sees what `begun` asks for, or has changed its source
 * before that fence, where later flights see it. So these do with a fence of their own.
 */
bool
ns_has_flights(SyncMap *flights)
{
    if (ns_load(&flights->begun, NS_RELAXED) >= FEW_FLIGHTS) {
        ns_fence(NS_SEQ_CST);
    }
    /* The count may be too high, in the child of a fork: the table decides. */
    return ns_unlikely(ns_load(&flights->flying, NS_SEQ_CST) != 0) &&
           ns_table_count(&flights->table) != 0;
}

Py_NO_INLINE int
ns_detach_slow(PyObject *self, PyObject *key)
{
    ns_state *state = ns_state_of(self);
    if (state->syncmap_shared == NULL) {
        return 0; /* the interpreter is being finalized: nothing is computed any more */
    }
    const ns_names *names = &state->names;
    PyObject *map = state->syncmap_shared;
    PyObject *result = key != NULL
                           ? PyObject_CallMethodObjArgs(map, names->_detach, self, key, NULL)
                           : PyObject_CallMethodOneArg(map, names->_detach_all, self);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int
ns_syncmap_remove(SyncMap *o, PyObject *key, PyObject **value)
{
    ns_edit e = {.kind = NS_REMOVE, .key = key};
    if (ns_key_hash(key, &e.hash) < 0 || ns_detach((PyObject *)o, &o->flights, key) < 0) {
        return NS_KEY_ERROR;
    }
    return apply(o, &e, value);
}

/* A larger array, for more than n values; the old one if there is no memory. */
static uintptr_t *
grow_values(uintptr_t *values, size_t *capacity, size_t n, const uintptr_t *few)
{
    uintptr_t *larger = PyMem_RawMalloc((n + n / 4) * sizeof(*larger));
    if (larger == NULL) {
        return values;
    }
    if (values != few) {
        PyMem_RawFree(values);
    }
    *capacity = n + n / 4;
    return larger;
}

/* Empties one segment after the other, each once: finalisers and other threads may insert as fast
 * as this deletes. */
void
ns_syncmap_clear(SyncMap *o)
{
    uintptr_t few[NS_GARBAGE], *values = few;
    size_t capacity = NS_GARBAGE, n;
    uint64_t from = 0;
    bool more, some = false;
    do {
        ns_garbage garbage;
        ns_garbage_init(&garbage);
        more = ns_table_take(&o->table, &from, values, capacity, some, &n, &garbage);
        if (n > capacity) {
            values = grow_values(values, &capacity, n, few);
            some = n > capacity;
            n = 0;
        }
        count_flight(o, (uint32_t)-n);
        while (n > 0) {
            ns_drop(values[--n]);
        }
        ns_garbage_release(&garbage, ns_drop);
    } while (more);
    if (values != few) {
        PyMem_RawFree(values);
    }
    do { /* the keys of dead entries whose grace period has passed */
        ns_garbage garbage;
        ns_garbage_init(&garbage);
        more = ns_table_flush(&o->table, &from, &garbage);
        ns_garbage_release(&garbage, ns_drop);
    } while (more);
}

/* ---- popitem ---- */

/* Removes the entry from its locked segment, which this unlocks. The pair gets the key and the
 * value. */
static void
take_entry(SyncMap *o, ns_segment *s, ns_entry *entry, PyObject *pair)
{
    ns_garbage garbage;
    ns_garbage_init(&garbage);
    PyObject *key = (PyObject *)ns_load(&entry->key, NS_RELAXED);
    PyTuple_SET_ITEM(pair, 1, (PyObject *)ns_segment_remove(NULL, s, entry, 0, &garbage));
    if (garbage.count == 0) {
        Py_INCREF(key); /* the table keeps its reference until the grace period has passed */
    }
    else {
        garbage.count = 0; /* the pair takes over the table's reference */
    }
    PyTuple_SET_ITEM(pair, 0, key);
    ns_table_unlock(&o->table, s, &garbage);
    if (ns_unlikely(!ns_garbage_is_empty(&garbage))) {
        ns_garbage_release(&garbage, ns_drop);
    }
}

/* Returns the segment of some entry, locked; NULL with KeyError if there is none. */
static ns_segment *
lock_any(SyncMap *o)
{
    ns_segment *s = ns_table_lock_first(&o->table);
    if (s == NULL) {
        PyErr_SetString(PyExc_KeyError, "popitem(): the map is empty");
    }
    return s;
}

/* Removes some entry: its pair, or NULL with an exception. */
static inline PyObject *
take_any(SyncMap *o)
{
    PyObject *pair = PyTuple_New(2);
    ns_segment *s = pair != NULL ? lock_any(o) : NULL;
    if (s == NULL) {
        Py_XDECREF(pair);
        return NULL;
    }
    take_entry(o, s, ns_segment_pick(s), pair);
    return pair;
}

/* The same while values are being computed: chooses a key, detaches the calls for it, and then
 * removes it. NULL without an exception: another thread removed the key meanwhile, and nothing
 * happened. */
static Py_NO_INLINE PyObject *
take_any_detached(SyncMap *o)
{
    ns_segment *s = lock_any(o);
    if (s == NULL) {
        return NULL;
    }
    ns_entry *entry = ns_segment_pick(s);
    PyObject *key = Py_NewRef((PyObject *)ns_load(&entry->key, NS_RELAXED));
    const uint64_t hash = ns_load(&entry->hash, NS_RELAXED);
    ns_lock_release(&s->lock);
    /* The pair is made last: user code must not see it unfilled. */
    PyObject *pair = ns_detach((PyObject *)o, &o->flights, key) < 0 ? NULL : PyTuple_New(2);
    if (pair != NULL) {
        uintptr_t value;
        s = ns_table_lock(&o->table, hash); /* never NULL: there is a first segment */
        if (ns_segment_find(s, hash, ns_match_identical, key, NULL, &entry, &value) == NS_PRESENT) {
            take_entry(o, s, entry, pair);
        }
        else {
            ns_lock_release(&s->lock);
            Py_CLEAR(pair);
        }
    }
    Py_DECREF(key);
    return pair;
}

PyObject *
ns_syncmap_remove_any(SyncMap *o)
{
    for (;;) {
        PyObject *pair =
            ns_likely(!ns_flights_any(&o->flights)) ? take_any(o) : take_any_detached(o);
        if (ns_likely(pair != NULL) || PyErr_Occurred()) {
            return pair;
        }
    }
}
