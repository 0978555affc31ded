#include "types/cache_edits.h"

static enum ns_match
match_asked(uintptr_t word, const void *wanted)
{
    return ns_match_asked(ns_cached_key(word), wanted);
}

static void
free_entry(ns_cache_entry *e)
{
    Py_DECREF((PyObject *)e->key);
    PyMem_RawFree(e);
}

static void
free_word(uintptr_t word)
{
    free_entry(ns_cache_entry_of(word));
}

void
ns_cache_release_entry(uintptr_t word, uintptr_t value)
{
    free_word(word);
    Py_XDECREF((PyObject *)value);
}

/* Releases what an operation left, and passes what was evicted to `on_evict`. */
static void
release(Cache *o, ns_cache_gone *gone)
{
    static const char *const causes[] = {[NS_CACHE_SIZE] = "size", [NS_CACHE_TIME] = "expired"};
    if (ns_unlikely(!ns_garbage_is_empty(&gone->garbage))) {
        ns_garbage_release(&gone->garbage, free_word);
    }
    for (unsigned i = 0; i < gone->count; i++) {
        PyObject *key = (PyObject *)gone->items[i].key, *value = (PyObject *)gone->items[i].value;
        if (key != NULL) {
            ns_cache_call_on_evict(o, key, value, causes[gone->items[i].cause]);
            Py_DECREF(key);
        }
        Py_XDECREF(value);
    }
}

/* ---- Looking up, and removing ---- */

/* Fills in what an edit of this key needs for its first attempt. */
static void
begin_edit(ns_cache_edit *e, PyObject *key)
{
    e->match = PyUnicode_CheckExact(key) ? ns_match_cached_str
               : PyLong_CheckExact(key)  ? ns_match_cached_int
                                         : ns_match_cached_any;
    e->wanted = key;
    e->hold = ns_hold_locked;
}

typedef enum ns_cache_done (*edit_fn)(ns_cache *, ns_cache_edit *, ns_cache_gone *);

/* One attempt of an edit: ns_cache_store or ns_cache_remove. Releases what it leaves. */
static Py_NO_INLINE enum ns_cache_done
attempt(Cache *o, edit_fn edit, ns_cache_edit *e)
{
    ns_cache_gone gone;
    ns_cache_gone_init(&gone);
    const enum ns_cache_done done = edit(&o->core, e, &gone);
    release(o, &gone);
    return done;
}

/* After an attempt: asks about a key. Returns 1 if the attempt is to be repeated, 0 if it is done,
 * -1 with an exception. */
static int
after_attempt(PyObject *key, ns_cache_edit *e, enum ns_cache_done done, ns_asker *a)
{
    if (ns_unlikely(done == NS_CACHE_ASK_KEY)) {
        ns_asker_begin(a, key);
        e->match = match_asked;
        e->wanted = a;
        e->place = &a->place;
        return ns_asker_ask(a, (PyObject *)e->result) < 0 ? -1 : 1;
    }
    if (ns_unlikely(done == NS_CACHE_NO_MEMORY)) {
        PyErr_NoMemory();
        return -1;
    }
    return done == NS_CACHE_AGAIN;
}

/* Removes the key, or looks it up under the lock: NS_CACHE_REMOVED or NS_CACHE_KEPT with the value,
 * NS_CACHE_MISSING, or -1 with an exception. */
static int
take(Cache *o, PyObject *key, uint64_t hash, int64_t now, bool only_expired, ns_asker *a,
     PyObject **value)
{
    ns_cache_edit e = {.hash = hash, .now = now, .only_expired = only_expired};
    begin_edit(&e, key);
    for (;;) {
        enum ns_cache_done done = attempt(o, ns_cache_remove, &e);
        int again = after_attempt(key, &e, done, a);
        if (again < 0) {
            return -1;
        }
        if (again == 0) {
            *value = (PyObject *)e.result;
            return (int)done;
        }
    }
}

/* Searches the table and asks the interpreter about each key that the search cannot decide. */
static int
search_asking(Cache *o, PyObject *key, uint64_t hash, int64_t now, bool uses, ns_asker *a,
              enum ns_cache_found *found, PyObject **value)
{
    uintptr_t word = 0;
    ns_asker_begin(a, key);
    while ((*found = ns_cache_get(
                &o->core, hash, match_asked, a, &a->place, now, uses, ns_hold, ns_drop, &word)) ==
               NS_CACHE_ASK &&
           word != 0) {
        if (ns_asker_ask(a, (PyObject *)word) < 0) {
            return -1;
        }
    }
    *value = (PyObject *)word;
    return 0;
}

Py_NO_INLINE int
ns_cache_lookup_slow(Cache *o, PyObject *key, uint64_t hash, int64_t now, bool uses,
                     enum ns_cache_found found, PyObject **value)
{
    ns_asker a;
    if (found == NS_CACHE_ABSENT && ns_check_initialized((PyObject *)o) < 0) {
        return NS_KEY_ERROR;
    }
    int result = found == NS_CACHE_ABSENT ? NS_KEY_MISSING : NS_KEY_ERROR;
    ns_asker_unused(&a);
    if (found == NS_CACHE_ASK && search_asking(o, key, hash, now, uses, &a, &found, value) == 0) {
        result = found == NS_CACHE_PRESENT  ? NS_KEY_FOUND
                 : found == NS_CACHE_ABSENT ? NS_KEY_MISSING
                                            : NS_KEY_ERROR;
    }
    if (result == NS_KEY_ERROR && !PyErr_Occurred()) { /* expired, or a key not published */
        if (now != NS_CACHE_NO_TIME || ns_cache_time(o, 0, &now) == 0) {
            int done = take(o, key, hash, now, true, &a, value);
            result = done == NS_CACHE_KEPT      ? NS_KEY_FOUND
                     : done == NS_CACHE_MISSING ? NS_KEY_MISSING
                                                : NS_KEY_ERROR;
        }
    }
    ns_asker_end(&a);
    if (uses && result == NS_KEY_FOUND) {
        NS_CACHE_COUNT(&o->core, hits);
    }
    else if (uses && result == NS_KEY_MISSING) {
        NS_CACHE_COUNT(&o->core, misses);
    }
    return result;
}

/* ---- Storing ---- */

static ns_cache_entry *
new_entry(PyObject *key, uint64_t hash)
{
    ns_cache_entry *e = PyMem_RawCalloc(1, sizeof(*e));
    if (e == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (!ns_is_plain(Py_TYPE(key))) {
        ns_publish(key);
    }
    e->key = (uintptr_t)Py_NewRef(key);
    e->hash = hash;
    return e;
}

static bool
is_set(void *flag)
{
    return ns_load((_Atomic bool *)flag, NS_SEQ_CST);
}

static void
set(void *flag)
{
    ns_store((_Atomic bool *)flag, true, NS_SEQ_CST);
}

/* Stores the entry with the value: see ns_cache_put. Takes over the entry. */
static Py_NO_INLINE int
store_entry(Cache *o, PyObject *key, PyObject *value, ns_cache_entry *entry, int64_t now, bool add,
            _Atomic bool *flag, PyObject **kept)
{
    ns_publish(value);
    ns_cache_edit e = {
        .hash = entry->hash,
        .now = now,
        .entry = entry,
        .value = (uintptr_t)Py_NewRef(value),
        .add = add,
        .is_set = is_set,
        .set = set,
        .flag = flag,
    };
    begin_edit(&e, key);
    ns_asker a;
    ns_asker_unused(&a);
    enum ns_cache_done done;
    int again;
    do {
        done = attempt(o, ns_cache_store, &e);
        again = after_attempt(key, &e, done, &a);
    } while (again > 0);
    ns_asker_end(&a);
    if (done != NS_CACHE_INSERTED || again < 0) {
        free_entry(entry);
    }
    if ((done != NS_CACHE_INSERTED && done != NS_CACHE_STORED) || again < 0) {
        Py_DECREF(value);
    }
    if (kept != NULL) {
        *kept = done == NS_CACHE_KEPT && again == 0 ? (PyObject *)e.result : NULL;
    }
    if (ns_unlikely(done == NS_CACHE_TOO_HEAVY) && again == 0 && o->core.tells) {
        ns_cache_call_on_evict(o, key, value, "size");
    }
    return again;
}

/* Finds the flag that detaches the load of a key, and the object that has it: a new reference.
 * Leaves both as they are if there is no load. Returns 0 or -1. */
static Py_NO_INLINE int
flag_of_load(Cache *o, PyObject *key, PyObject **owner, _Atomic bool **flag)
{
    ns_state *state = ns_state_of((PyObject *)o);
    if (state->syncmap_shared == NULL) {
        return 0; /* the interpreter is being finalized: nothing is computed any more */
    }
    PyObject *found =
        PyObject_CallMethodObjArgs(state->syncmap_shared, state->names._flag_of, o, key, NULL);
    if (found == Py_None) {
        Py_DECREF(found);
        return 0;
    }
    *flag = found != NULL ? ns_flag_in(state, found) : NULL;
    if (*flag == NULL) {
        Py_XDECREF(found);
        return -1;
    }
    *owner = found;
    return 0;
}

int
ns_cache_put(Cache *o, PyObject *key, uint64_t hash, PyObject *value, int64_t ttl,
             _Atomic bool *flag, PyObject **kept)
{
    int64_t weight, now;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0 || ns_cache_weigh(o, key, value, &weight) < 0 ||
        ns_cache_time(o, ttl, &now) < 0) {
        return -1;
    }
    const bool add = flag != NULL;
    PyObject *overtaken = NULL;
    if (!add && ns_flights_any(&o->flights)) {
        /* One that does not fit deletes the key: a load must not bring back what was there before.
         * Nor may a load bring back something older once this value is evicted. */
        if ((weight > o->core.limit ? ns_detach((PyObject *)o, &o->flights, key)
                                    : flag_of_load(o, key, &overtaken, &flag)) < 0) {
            return -1;
        }
    }
    ns_cache_entry *entry = new_entry(key, hash);
    if (entry == NULL) {
        Py_XDECREF(overtaken);
        return -1;
    }
    const int64_t deadline = ttl == 0                         ? NS_CACHE_NEVER
                             : now < NS_CACHE_NEVER - 1 - ttl ? now + ttl
                                                              : NS_CACHE_NEVER - 1;
    ns_store(&entry->deadline, deadline, NS_RELAXED);
    entry->weight = weight;
    if (ns_likely(overtaken == NULL)) {
        return store_entry(o, key, value, entry, now, add, flag, kept);
    }
    const int result = store_entry(o, key, value, entry, now, add, flag, kept);
    Py_DECREF(overtaken);
    return result;
}

/* ---- Deleting ---- */

int
ns_cache_delete(Cache *o, PyObject *key, PyObject **value)
{
    uint64_t hash;
    int64_t now;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0 || ns_key_hash(key, &hash) < 0 ||
        ns_detach((PyObject *)o, &o->flights, key) < 0 || ns_cache_time(o, 0, &now) < 0) {
        return NS_KEY_ERROR;
    }
    if (ns_load(&o->core.table.directory, NS_ACQUIRE) == NULL) {
        return NS_KEY_MISSING;
    }
    ns_asker a;
    ns_asker_unused(&a);
    int done = take(o, key, hash, now, false, &a, value);
    ns_asker_end(&a);
    return done == NS_CACHE_REMOVED   ? NS_KEY_FOUND
           : done == NS_CACHE_MISSING ? NS_KEY_MISSING
                                      : NS_KEY_ERROR;
}

void
ns_cache_delete_all(Cache *o)
{
    const ns_cache_edit e = {.now = NS_CACHE_NO_TIME, .hold = ns_hold_locked};
    uint64_t left[2] = {UINT64_MAX, UINT64_MAX};
    bool more;
    do {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        more = ns_cache_clear(&o->core, &e, left, &gone);
        release(o, &gone);
    } while (more);
    uint64_t from = 0;
    do { /* the keys of dead entries whose grace period has passed */
        ns_garbage garbage;
        ns_garbage_init(&garbage);
        more = ns_table_flush(&o->core.table, &from, &garbage);
        ns_garbage_release(&garbage, free_word);
    } while (more);
}

/* Removes what has expired, among the entries that are there now: other threads may insert as fast,
 * or turn the wheel back and forth by a clock that jumps. */
void
ns_cache_delete_expired(Cache *o, int64_t now)
{
    const ns_cache_edit e = {.now = now, .hold = ns_hold_locked};
    uint64_t left = ns_load(&o->core.count, NS_RELAXED) / NS_CACHE_BATCH + 1;
    for (bool more = true; more && left > 0; left--) {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        more = ns_cache_expire(&o->core, &e, &gone);
        release(o, &gone);
    }
}
