/* cache_type.c: Cache as a Python object, over core/cache/cache.h.
 *
 * Here arguments are parsed, and all code of users is called: hashes, equality, `weigher`, `clock`
 * and `on_evict`, with no lock and in no section. A miss of load_or_compute that meets another one
 * goes on in Python (nogil_sync/_common/cache.py), whose SharedCache is the base of the type.
 *
 * References. The core's words are objects: the cache owns one reference to each key and value.
 * Values are published (tryref.h) before they are stored, and keys whose equality is Python code.
 * An entry that the table frees drops its key: `free_word`.
 *
 * Functions. tp_clear replaces them by None: a method of the cache that is one of them closes a
 * cycle that nothing else breaks (see pool_type.c).
 *
 * Recursion. A function may call the cache again without Python code in between, and an operation
 * that evicts has a large frame (`attempt`). So all but `on_evict` is called from small ones, and a
 * call of that counts as some levels of recursion.
 *
 * Equality. As in syncmap_edits.h: an operation that meets a key which only the interpreter can
 * compare ends with NS_CACHE_ASK_KEY or NS_CACHE_ASK, and is repeated with the answer.
 */
#include "types/cache.h"
#include "types/syncmap_edits.h"

#include "arguments.h"
#include "docs.h"
#include "object.h"

static enum ns_match
match_asked(uintptr_t word, const void *wanted)
{
    return ns_match_asked(ns_cached_key(word), wanted);
}

static void
incref_word(uintptr_t word)
{
    Py_INCREF((PyObject *)word);
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

/* Calls a function of the user: a new reference, or NULL with an exception. Steals the function. */
static PyObject *
call_user(PyObject *function, PyObject *const *args, size_t nargs, int levels)
{
    PyObject *result = NULL;
    int entered = 0;
    while (entered < levels && Py_EnterRecursiveCall(" while calling a function of a cache") == 0) {
        entered++;
    }
    if (entered == levels) {
        result = PyObject_Vectorcall(function, args, nargs, NULL);
    }
    while (entered-- > 0) {
        Py_LeaveRecursiveCall();
    }
    Py_DECREF(function);
    return result;
}

/* Tells `on_evict`. The frames of an operation that evicts take some kilobytes. */
static void
tell(Cache *o, PyObject *key, PyObject *value, const char *cause)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject *on_evict = ns_load_function(&o->on_evict);
    if (on_evict != NULL) {
        PyObject *args[] = {key, value, PyUnicode_FromString(cause)};
        PyObject *result = args[2] != NULL ? call_user(Py_NewRef(on_evict), args, 3, 4) : NULL;
        if (result == NULL) {
            PyErr_WriteUnraisable(on_evict);
        }
        Py_XDECREF(result);
        Py_XDECREF(args[2]);
        Py_DECREF(on_evict);
    }
    PyErr_SetRaisedException(raised);
}

/* Releases what an operation left, and tells of what was evicted. */
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
            tell(o, key, value, causes[gone->items[i].cause]);
            Py_DECREF(key);
        }
        Py_XDECREF(value);
    }
}

/* ---- Time ---- */

int
ns_cache_read_clock(Cache *o, int64_t *now)
{
    PyObject *clock = ns_load_function(&o->clock);
    if (clock == NULL) { /* this is garbage */
        *now = ns_now();
        return 0;
    }
    PyObject *value = call_user(clock, NULL, 0, 1);
    double seconds = value != NULL ? PyFloat_AsDouble(value) : -1.0;
    Py_XDECREF(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "clock value must not be NaN");
        return -1;
    }
    if (!(seconds > -9.2e9 && seconds < 9.2e9)) {
        PyErr_SetString(PyExc_OverflowError, "clock value is too large");
        return -1;
    }
    *now = (int64_t)(seconds * 1e9);
    return 0;
}

/* The time, if it matters: for an entry with a time to live, or if there was one before. */
static int
time_for(Cache *o, int64_t ttl, int64_t *now)
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

/* A time to live in nanoseconds; 0 for None. */
static int
parse_ttl(PyObject *ttl, int64_t *result)
{
    *result = 0;
    if (ttl == NULL || ttl == Py_None) {
        return 0;
    }
    double seconds = PyFloat_AsDouble(ttl);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "ttl must not be NaN");
        return -1;
    }
    if (seconds > 9223372036.0) {
        PyErr_SetString(PyExc_OverflowError, "ttl value is too large");
        return -1;
    }
    if (seconds <= 0) {
        PyErr_SetString(PyExc_ValueError, "ttl must be positive");
        return -1;
    }
    *result = (int64_t)(seconds * 1e9);
    *result = *result < 1 ? 1 : *result;
    return 0;
}

/* ---- Operations ---- */

/* Fills in what an edit of this key needs for its first attempt. */
static void
begin_edit(ns_cache_edit *e, PyObject *key)
{
    e->match = PyUnicode_CheckExact(key) ? ns_match_cached_str
               : PyLong_CheckExact(key)  ? ns_match_cached_int
                                         : ns_match_cached_any;
    e->wanted = key;
    e->hold = incref_word;
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
        if (now != NS_CACHE_NO_TIME || time_for(o, 0, &now) == 0) {
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

/* The weight of an entry. Runs code of the user. */
static int
weigh(Cache *o, PyObject *key, PyObject *value, int64_t *weight)
{
    *weight = 1;
    PyObject *weigher = ns_load_function(&o->weigher);
    if (ns_likely(weigher == NULL)) {
        return 0;
    }
    PyObject *args[] = {key, value};
    PyObject *result = call_user(weigher, args, 2, 1);
    int error = result == NULL || ns_clamped_int64(result, weight) < 0 ? -1 : 0;
    Py_XDECREF(result);
    if (error == 0 && *weight < 0) {
        PyErr_SetString(PyExc_ValueError, "weight must not be negative");
        error = -1;
    }
    if (error == 0 && *weight == INT64_MAX) {
        PyErr_SetString(PyExc_OverflowError, "weight is too large");
        error = -1;
    }
    return error;
}

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

/* Stores the entry with the value: see `store`. Takes over the entry. */
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
        tell(o, key, value, "size");
    }
    return again;
}

/* Detaches the loads of a key, or of all keys (NULL): to be called before deleting it. */
static int
detach(Cache *o, PyObject *key)
{
    if (ns_likely(!ns_flights_any(&o->flights))) {
        return 0;
    }
    ns_state *state = ns_state_of((PyObject *)o);
    if (state->syncmap_shared == NULL) {
        return 0; /* the interpreter is being finalized: nothing is computed any more */
    }
    PyObject *result = key != NULL
                           ? PyObject_CallMethod(state->syncmap_shared, "_detach", "OO", o, key)
                           : PyObject_CallMethod(state->syncmap_shared, "_detach_all", "(O)", o);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
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
    PyObject *found = PyObject_CallMethod(state->syncmap_shared, "_flag_of", "OO", o, key);
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

/* Sets the key, and detaches a load of it in the same step. With a flag it does so only if the key
 * is missing and the flag not set. Then *kept gets a reference to the value that is there, or NULL.
 * Returns 0 or -1. */
static int
store(Cache *o, PyObject *key, uint64_t hash, PyObject *value, int64_t ttl, _Atomic bool *flag,
      PyObject **kept)
{
    int64_t weight, now;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0 || weigh(o, key, value, &weight) < 0 ||
        time_for(o, ttl, &now) < 0) {
        return -1;
    }
    const bool add = flag != NULL;
    PyObject *overtaken = NULL;
    if (!add && ns_flights_any(&o->flights)) {
        /* One that does not fit deletes the key: a load must not bring back what was there before.
         * Nor may a load bring back something older once this value is evicted. */
        if ((weight > o->core.limit ? detach(o, key) : flag_of_load(o, key, &overtaken, &flag)) <
            0) {
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

/* Deletes a key: NS_KEY_FOUND with its value, NS_KEY_MISSING or NS_KEY_ERROR. */
static int delete(Cache *o, PyObject *key, PyObject **value)
{
    uint64_t hash;
    int64_t now;
    ns_watch_use(&o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0 || ns_key_hash(key, &hash) < 0 ||
        detach(o, key) < 0 || time_for(o, 0, &now) < 0) {
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

static void
clear_entries(Cache *o)
{
    const ns_cache_edit e = {.now = NS_CACHE_NO_TIME, .hold = incref_word};
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

/* ---- The mapping protocol ---- */

static PyObject *
get_item(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, key, hash, true, &value);
    if (ns_likely(found == NS_KEY_FOUND)) {
        return value;
    }
    if (found == NS_KEY_MISSING) {
        ns_set_key_error(key);
    }
    return NULL;
}

static int
set_item(PyObject *self, PyObject *key, PyObject *value)
{
    Cache *o = (Cache *)self;
    uint64_t hash;
    if (value != NULL) {
        return ns_key_hash(key, &hash) < 0 ? -1 : store(o, key, hash, value, o->ttl, NULL, NULL);
    }
    PyObject *old;
    int found = delete (o, key, &old);
    if (found == NS_KEY_FOUND) {
        Py_DECREF(old);
        return 0;
    }
    if (found == NS_KEY_MISSING) {
        ns_set_key_error(key);
    }
    return -1;
}

static int
has_key(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return -1;
    }
    int found = ns_cache_lookup((Cache *)self, key, hash, false, &value);
    if (found == NS_KEY_FOUND) {
        Py_DECREF(value);
    }
    return found;
}

/* Removes what has expired, among the entries that are there now: other threads may insert as fast,
 * or turn the wheel back and forth by a clock that jumps. */
static Py_NO_INLINE void
expire(Cache *o, int64_t now)
{
    const ns_cache_edit e = {.now = now, .hold = incref_word};
    uint64_t left = ns_load(&o->core.count, NS_RELAXED) / NS_CACHE_BATCH + 1;
    for (bool more = true; more && left > 0; left--) {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        more = ns_cache_expire(&o->core, &e, &gone);
        release(o, &gone);
    }
}

static Py_ssize_t
length(PyObject *self)
{
    Cache *o = (Cache *)self;
    int64_t now;
    if (ns_check_initialized(self) < 0 || time_for(o, 0, &now) < 0) {
        return -1;
    }
    if (now != NS_CACHE_NO_TIME) {
        expire(o, now);
    }
    return (Py_ssize_t)ns_load(&o->core.count, NS_RELAXED);
}

/* A list of the keys. */
static PyObject *
list_keys(Cache *o)
{
    ns_cache_edit e = {.hold = incref_word};
    PyObject *list = time_for(o, 0, &e.now) < 0 ? NULL : PyList_New(0);
    size_t room = 64;
    uint64_t from = 0;
    ns_hashed *page = list != NULL ? PyMem_RawMalloc(room * sizeof(*page)) : NULL;
    do {
        size_t n = 0;
        while (page != NULL && (n = ns_cache_page(&o->core, &e, &from, page, room)) > room) {
            PyMem_RawFree(page);
            room = n + n / 4;
            page = PyMem_RawMalloc(room * sizeof(*page));
        }
        if (page == NULL) {
            if (list != NULL) {
                PyErr_NoMemory();
                Py_CLEAR(list);
            }
            break;
        }
        for (size_t i = 0; i < n; i++) {
            if (list != NULL && PyList_Append(list, (PyObject *)page[i].key) < 0) {
                Py_CLEAR(list);
            }
            Py_DECREF((PyObject *)page[i].key);
        }
    } while (list != NULL && from != 0);
    PyMem_RawFree(page);
    return list;
}

static PyObject *
iterate(PyObject *self)
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    PyObject *list = list_keys((Cache *)self);
    PyObject *result = list != NULL ? PyObject_GetIter(list) : NULL;
    Py_XDECREF(list);
    return result;
}

/* ---- Methods ---- */

static PyObject *
get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.get", {"key", "default"}, 1, 2, 0};
    uint64_t hash;
    PyObject *values[2], *value;
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, values[0], hash, true, &value);
    return ns_likely(found == NS_KEY_FOUND) ? value
           : found == NS_KEY_ERROR          ? NULL
                                            : Py_NewRef(values[1] != NULL ? values[1] : Py_None);
}

static PyObject *
put(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.put", {"key", "value", "ttl"}, 2, 3, 0};
    PyObject *values[3];
    Cache *o = (Cache *)self;
    int64_t ttl = o->ttl;
    uint64_t hash;
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 ||
        (values[2] != NULL && parse_ttl(values[2], &ttl) < 0) ||
        ns_key_hash(values[0], &hash) < 0 ||
        store(o, values[0], hash, values[1], ttl, NULL, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
pop(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cache.pop", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int found = delete ((Cache *)self, values[0], &value);
    if (found == NS_KEY_MISSING && values[1] != NULL) {
        return Py_NewRef(values[1]);
    }
    if (found == NS_KEY_MISSING) {
        ns_set_key_error(values[0]);
    }
    return found == NS_KEY_FOUND ? value : NULL;
}

static PyObject *
clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0 || detach((Cache *)self, NULL) < 0) {
        return NULL;
    }
    clear_entries((Cache *)self);
    Py_RETURN_NONE;
}

static PyObject *
stats(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Cache *o = (Cache *)self;
    ns_state *state = ns_state_of(self);
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    if (state->cache_stats == NULL) {
        return ns_shutting_down();
    }
    const ns_cache_sums sums = ns_cache_sum(&o->core);
    return PyObject_CallFunction(state->cache_stats,
                                 "KKKKKKL",
                                 (unsigned long long)sums.hits,
                                 (unsigned long long)sums.misses,
                                 (unsigned long long)sums.loads,
                                 (unsigned long long)sums.failures,
                                 (unsigned long long)ns_load(&o->core.evictions, NS_RELAXED),
                                 (unsigned long long)ns_load(&o->core.expirations, NS_RELAXED),
                                 (long long)ns_load(&o->core.weight, NS_RELAXED));
}

static PyObject *
repr(PyObject *self)
{
    Cache *o = (Cache *)self;
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    Py_ssize_t n = length(self);
    if (n < 0) {
        return NULL;
    }
    char text[80];
    if (o->core.limit == NS_CACHE_NO_LIMIT) {
        PyOS_snprintf(text, sizeof(text), "%zd entries, maxsize=None", n);
    }
    else {
        PyOS_snprintf(text, sizeof(text), "%zd entries, maxsize=%lld", n, (long long)o->core.limit);
    }
    return ns_repr_state(self, text);
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    size_t size = (size_t)Py_TYPE(self)->tp_basicsize;
    if (ns_is_initialized(self)) {
        size += ns_cache_bytes(&((Cache *)self)->core);
    }
    return PyLong_FromSize_t(size);
}

/* ---- load_or_compute, and what _common/cache.py calls ---- */

static int
look(PyObject *self, PyObject *key, uint64_t hash, PyObject **value)
{
    return ns_cache_lookup((Cache *)self, key, hash, false, value);
}

static PyObject *
land(PyObject *self, PyObject *key, uint64_t hash, PyObject *value, _Atomic bool *detached)
{
    PyObject *kept;
    Cache *o = (Cache *)self;
    return store(o, key, hash, value, o->ttl, detached, &kept) < 0 ? NULL
           : kept != NULL                                          ? kept
                                                                   : Py_NewRef(value);
}

static void
count(PyObject *self, bool failed)
{
    if (ns_unlikely(failed)) {
        NS_CACHE_COUNT(&((Cache *)self)->core, failures);
    }
    else {
        NS_CACHE_COUNT(&((Cache *)self)->core, loads);
    }
}

static const ns_destination destination = {look, land, count};

PyObject *
ns_cache_fly(Cache *o, PyObject *key, uint64_t hash, const ns_user_call *call, bool *met)
{
    return ns_fly((PyObject *)o, &destination, &o->flights, key, hash, call, met);
}

/* load_or_compute of a missing key. */
static Py_NO_INLINE PyObject *
compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *timeout, uint64_t hash)
{
    PyObject *const *python = &ns_state_of(self)->cache_load;
    return ns_fly_or_join(
        self, &destination, &((Cache *)self)->flights, python, args, nargs, timeout, hash);
}

static PyObject *
load_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {
        "Cache.load_or_compute(self, key, fn, /, *args, timeout=None)", {NULL}, 0, 0, 0};
    PyObject *timeout, *value;
    uint64_t hash;
    if (ns_compute_arguments(&s, args, nargs, kwnames, &timeout, &hash) < 0) {
        return NULL;
    }
    int found = ns_cache_lookup((Cache *)self, args[0], hash, true, &value);
    return ns_likely(found == NS_KEY_FOUND) ? value
           : found == NS_KEY_ERROR          ? NULL
                                            : compute(self, args, nargs, timeout, hash);
}

static PyObject *
flights_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return Py_XNewRef(ns_flights_of(self, &((Cache *)self)->flights));
}

/* The value of a key, or the default. Counts nothing. */
static PyObject *
peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t hash;
    PyObject *value;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "_peek(key, default)");
        return NULL;
    }
    if (ns_key_hash(args[0], &hash) < 0) {
        return NULL;
    }
    int found = look(self, args[0], hash, &value);
    return found == NS_KEY_FOUND ? value : found == NS_KEY_MISSING ? Py_NewRef(args[1]) : NULL;
}

/* Stores a value that was loaded, unless its call was detached. */
static PyObject *
land_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    uint64_t hash;
    ns_state *state = ns_state_of(self);
    if (state->atomic_bool_type == NULL) {
        return ns_shutting_down();
    }
    if (nargs != 3 || !PyObject_TypeCheck(args[2], (PyTypeObject *)state->atomic_bool_type)) {
        PyErr_SetString(PyExc_TypeError, "_land(key, value, detached: AtomicBool)");
        return NULL;
    }
    return ns_key_hash(args[0], &hash) < 0
               ? NULL
               : land(self, args[0], hash, args[1], ns_atomic_bool_place(args[2]));
}

/* Counts a load. */
static PyObject *
loaded(PyObject *self, PyObject *failed)
{
    count(self, failed == Py_True);
    Py_RETURN_NONE;
}

/* ---- Construction ---- */

static int
check_callable(const char *name, PyObject **function)
{
    if (*function == Py_None) {
        *function = NULL;
    }
    if (*function != NULL && !PyCallable_Check(*function)) {
        PyErr_Format(PyExc_TypeError,
                     "%s must be callable or None, not '%s'",
                     name,
                     Py_TYPE(*function)->tp_name);
        return -1;
    }
    return 0;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "Cache.__init__", {"maxsize", "ttl", "weigher", "on_evict", "clock"}, 1, 5, 4};
    Cache *o = (Cache *)self;
    PyObject *given[NS_MAX_PARAMETERS];
    int64_t limit = NS_CACHE_NO_LIMIT, ttl;
    if (ns_unpack_init(&s, args, kwargs, given) < 0 ||
        (given[0] != Py_None && ns_clamped_int64(given[0], &limit) < 0)) {
        return -1;
    }
    if (limit < 0) {
        PyErr_SetString(PyExc_ValueError, "maxsize must not be negative");
        return -1;
    }
    if (given[0] != Py_None && limit == NS_CACHE_NO_LIMIT) {
        PyErr_SetString(PyExc_OverflowError, "maxsize is too large");
        return -1;
    }
    if (parse_ttl(given[1], &ttl) < 0 || check_callable("weigher", &given[2]) < 0 ||
        check_callable("on_evict", &given[3]) < 0 || check_callable("clock", &given[4]) < 0 ||
        ns_claim_init(self) < 0) {
        return -1;
    }
    ns_cache_init(&o->core, limit, given[3] != NULL);
    o->ttl = ttl;
    o->core.steady = given[4] == NULL;
    ns_ref *const functions[] = {&o->weigher, &o->on_evict, &o->clock};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(functions); i++) {
        if (given[2 + i] != NULL) {
            ns_publish(given[2 + i]);
            ns_store(functions[i], Py_NewRef(given[2 + i]), NS_RELEASE);
        }
    }
    ns_watch_attach(&o->watch, self);
    ns_finish_init(self, true);
    return 0;
}

/* ---- Collection ---- */

typedef struct {
    visitproc visit;
    void *arg;
} visitor;

static int
visit_word(uintptr_t word, void *context)
{
    visitor *v = context;
    PyObject *object = (PyObject *)(word & NS_CACHE_TAG ? ns_cached_key(word) : word);
    return v->visit(object, v->arg);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Cache *o = (Cache *)self;
    visitor v = {visit, arg};
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->flights, NS_RELAXED));
    Py_VISIT(ns_load(&o->weigher, NS_RELAXED));
    Py_VISIT(ns_load(&o->on_evict, NS_RELAXED));
    Py_VISIT(ns_load(&o->clock, NS_RELAXED));
    return ns_table_visit(&o->core.table, visit_word, &v);
}

/* Leaves an empty cache that still works, because finalisers may use it. */
static int
clear_garbage(PyObject *self)
{
    Cache *o = (Cache *)self;
    ns_clear_function(&o->weigher);
    ns_clear_function(&o->on_evict);
    ns_clear_function(&o->clock);
    if (ns_is_initialized(self)) {
        clear_entries(o);
    }
    return 0;
}

static void
release_both(uintptr_t word, uintptr_t value)
{
    free_word(word);
    Py_XDECREF((PyObject *)value);
}

static void
dealloc(PyObject *self)
{
    Cache *o = (Cache *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    ns_cache_destroy(&o->core, release_both);
    Py_XDECREF(ns_load(&o->flights, NS_RELAXED));
    Py_XDECREF(ns_load(&o->weigher, NS_RELAXED));
    Py_XDECREF(ns_load(&o->on_evict, NS_RELAXED));
    Py_XDECREF(ns_load(&o->clock, NS_RELAXED));
    ns_watch_detach(&o->watch);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* ---- The type ---- */

static PyMethodDef methods[] = {
    NS_METHOD("get", get, DOC_Cache_get),
    NS_METHOD("put", put, DOC_Cache_put),
    NS_METHOD("pop", pop, DOC_Cache_pop),
    NS_NO_ARGUMENTS("clear", clear, DOC_Cache_clear),
    NS_METHOD("load_or_compute", load_or_compute, DOC_Cache_load_or_compute),
    NS_NO_ARGUMENTS("stats", stats, DOC_Cache_stats),
    {"_peek", _PyCFunction_CAST(peek), METH_FASTCALL, NULL},
    {"_land", _PyCFunction_CAST(land_method), METH_FASTCALL, NULL},
    {"_loaded", loaded, METH_O, NULL},
    {"_flights", flights_of, METH_NOARGS, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Cache);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Cache},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear_garbage},
    {Py_tp_repr, repr},
    {Py_tp_iter, iterate},
    {Py_mp_subscript, get_item},
    {Py_mp_ass_subscript, set_item},
    {Py_mp_length, length},
    {Py_sq_contains, has_key},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Cache",
    .basicsize = sizeof(Cache),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_cache(PyObject *module)
{
    static const char *const home = "nogil_sync._common.cache";
    ns_state *state = PyModule_GetState(module);
    PyObject *base = ns_import_attribute(home, "SharedCache");
    state->cache_load = ns_import_attribute(home, "load");
    state->cache_stats = ns_import_attribute(home, "CacheStats");
    state->cached_calls = ns_import_attribute(home, "CachedCalls");
    if (base != NULL) {
        state->cache_type = ns_new_type(module, &spec, base);
        Py_DECREF(base);
    }
    if (state->cache_load == NULL || state->cache_stats == NULL || state->cached_calls == NULL ||
        state->cache_type == NULL ||
        PyObject_SetAttrString(state->cache_type, "_plain_class", state->cache_type) < 0 ||
        PyObject_SetAttrString(state->cache_type, "_Flag", state->atomic_bool_type) < 0 ||
        PyModule_AddType(module, (PyTypeObject *)state->cache_type) < 0) {
        return -1;
    }
    return ns_add_cached(module);
}
