/* SyncMap: core/table.h as a Python mapping.
 *
 * Here are the primitives, each atomic for its key; views, comparison, repr and the calls of
 * load_or_compute that miss are Python, in nogil_sync/_common/mapping.py, whose SharedMap is the base
 * of this type.
 *
 * Every operation is one of two. `lookup` reads without a lock. `apply` does an edit: it replaces
 * the value of a key that is there without a lock, too; for anything else it locks the key's
 * segment, finds the entry, changes it, unlocks. Only then it lets go of what was replaced.
 * Equality that may run code of users is asked between attempts, with nothing held but references
 * (syncmap_keys.h); an attempt after that goes on where the last one stopped, if nothing was
 * inserted in its way meanwhile.
 *
 * References. The table owns one to each key and value. Values are published (tryref.h) before
 * they are stored, so a reader can always take one to what an entry holds; a value is let go by
 * whoever replaced it, at once. Keys are compared without touching their counts (core/table.h,
 * 3a), but for those that must be asked: they are published, too, if they are of a type for
 * which that is usual; else the reference is taken under the lock.
 *
 * A map without __init__ has no directory, so that only what finds nothing has to look whether
 * it was called.
 */
#include "types/syncmap.h"

#include "arguments.h"
#include "core/waiting/park.h"
#include "docs.h"
#include "object.h"

/* ---- Looking up ---- */

enum { ERROR = -1, MISSING = 0, FOUND = 1 };

static bool
hold_nothing(uintptr_t Py_UNUSED(word))
{
    return true;
}

static void
drop_nothing(uintptr_t Py_UNUSED(word))
{
}

/* A reference to the next key to ask about, taken under the lock: for a plain key that another
 * thread made, which is looked for by one that is not plain. 0: there is none any more. */
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

/* What `lookup` does where nothing was found at once. With *value a reference, unless value is
 * NULL. */
static Py_NO_INLINE int
lookup_slow(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value, ns_asker *a,
            enum ns_found found)
{
    uintptr_t word;
    ns_asker own;
    if (found == NS_ABSENT) {
        return ns_check_initialized((PyObject *)o) < 0 ? ERROR : MISSING;
    }
    if (a == NULL) {
        ns_asker_unused(&own);
    }
    ns_asker *const asker = a != NULL ? a : &own;
    ns_asker_begin(asker, key);
    while ((found = ns_table_get(
                &o->table, hash, ns_match_asked, asker, &asker->place, ns_hold, ns_drop, &word)) ==
           NS_ASK) {
        if (word == 0 && (word = key_to_ask(o, hash, asker)) == 0) {
            asker->place.serial = 0; /* what was found is perhaps before it */
            continue;
        }
        if (ns_asker_ask(asker, (PyObject *)word) < 0) {
            break;
        }
    }
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
    return found == NS_PRESENT ? FOUND : found == NS_ABSENT ? MISSING : ERROR;
}

static Py_NO_INLINE enum ns_found
get_any(SyncMap *o, PyObject *key, uint64_t hash, uintptr_t *word)
{
    return ns_table_get(&o->table, hash, ns_match_any, key, NULL, ns_hold, ns_drop, word);
}

/* FOUND with a reference in *value, MISSING, or ERROR with an exception. `a`, if not NULL, keeps
 * the answers of equality for the edit that follows: so no two keys are compared twice in one
 * operation, and equality that changes the map cannot keep it going round. */
static inline int
lookup_with(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value, ns_asker *a)
{
    uintptr_t word;
    enum ns_found found;
    ns_watch_use(o->watch, (PyObject *)o);
    if (PyUnicode_CheckExact(key)) {
        found = ns_table_get(&o->table, hash, ns_match_str, key, NULL, ns_hold, ns_drop, &word);
    }
    else if (PyLong_CheckExact(key)) {
        found = ns_table_get(&o->table, hash, ns_match_int, key, NULL, ns_hold, ns_drop, &word);
    }
    else {
        found = get_any(o, key, hash, &word);
    }
    if (ns_likely(found == NS_PRESENT)) {
        *value = (PyObject *)word;
        return FOUND;
    }
    return lookup_slow(o, key, hash, value, a, found);
}

static inline int
lookup(SyncMap *o, PyObject *key, uint64_t hash, PyObject **value)
{
    return lookup_with(o, key, hash, value, NULL);
}

/* The same without the value: touches no count at all. */
static int
is_in(SyncMap *o, PyObject *key, uint64_t hash, ns_asker *a)
{
    uintptr_t word;
    ns_watch_use(o->watch, (PyObject *)o);
    enum ns_found found;
    if (PyUnicode_CheckExact(key)) {
        found = ns_table_get(
            &o->table, hash, ns_match_str, key, NULL, hold_nothing, drop_nothing, &word);
    }
    else {
        found = ns_table_get(
            &o->table, hash, ns_match_any, key, NULL, hold_nothing, drop_nothing, &word);
    }
    return ns_likely(found == NS_PRESENT) ? FOUND : lookup_slow(o, key, hash, NULL, a, found);
}

static void
set_key_error(PyObject *key)
{
    PyObject *error = PyObject_CallOneArg(PyExc_KeyError, key); /* the key may be a tuple */
    if (error != NULL) {
        PyErr_SetObject(PyExc_KeyError, error);
        Py_DECREF(error);
    }
}

/* ---- Changing ---- */

typedef enum { PUT, ADD, CHANGE, REMOVE } edit_kind;

/* CHANGE and REMOVE: only if the key is there. ADD: only if it is not. */
typedef struct edit {
    edit_kind kind;
    PyObject *key;
    uint64_t hash;
    PyObject *new; /* not for REMOVE */
    PyObject *expected; /* CHANGE and REMOVE: only if the value is this very object; NULL: any */
    PyObject *unless; /* an AtomicBool: if it is set nothing is done; NULL: none */
    ns_asker *asker; /* with the answers of a lookup before; NULL: none */
} edit;

enum { NOT_THIS = 2, FORBIDDEN = 3 }; /* what else edits return */

/* How many flights there are, for `has_flights`. */
static inline void
count_flight(SyncMap *o, uint32_t by)
{
    if (ns_unlikely(o->is_flights)) {
        ns_add(&o->flying, by, NS_SEQ_CST);
    }
}

static void
hold_surely(uintptr_t word)
{
    Py_INCREF((PyObject *)word);
}

/* The step itself: with the segment locked, which it unlocks. Like `apply`. */
static int
act(SyncMap *o, const edit *e, ns_segment *s, enum ns_found found, ns_entry *entry, PyObject **old)
{
    ns_garbage garbage;
    ns_garbage_init(&garbage);
    int result = found == NS_PRESENT ? FOUND : MISSING;
    bool unused = e->new != NULL; /* the reference to the new value that `apply` took */
    if (ns_unlikely(e->unless != NULL) && ns_atomic_bool_is_set(e->unless)) {
        result = FORBIDDEN;
    }
    else if (found == NS_PRESENT) {
        if (e->kind == ADD) {
            *old = (PyObject *)ns_entry_hold(entry, hold_surely);
        }
        else if (e->kind == REMOVE) {
            *old = (PyObject *)ns_segment_remove(s, entry, (uintptr_t)e->expected, &garbage);
            result = ns_likely(*old != NULL) ? FOUND : NOT_THIS;
            if (result == FOUND) {
                count_flight(o, UINT32_MAX);
            }
        }
        else {
            *old = (PyObject *)ns_entry_replace(entry, (uintptr_t)e->expected, (uintptr_t)e->new);
            result = ns_likely(*old != NULL) ? FOUND : NOT_THIS;
            unused = result != FOUND;
        }
    }
    else if (e->kind == PUT || e->kind == ADD) {
        uintptr_t key = (uintptr_t)e->key, new = (uintptr_t)e->new;
        Py_INCREF(e->key);
        unused = false;
        if (!ns_is_plain(Py_TYPE(e->key))) {
            ns_publish(e->key);
        }
        count_flight(o, 1);
        if (ns_unlikely(!ns_segment_insert(s, e->hash, key, new, &garbage))) {
            ns_segment *larger = ns_table_make_room(&o->table, s, e->hash, &garbage);
            if (larger != NULL) {
                s = larger;
                ns_segment_insert(s, e->hash, key, new, &garbage);
            }
            else {
                count_flight(o, UINT32_MAX);
                result = ERROR;
            }
        }
    }
    ns_table_unlock(&o->table, s, &garbage);
    if (ns_unlikely(o->is_flights)) {
        ns_fence_everywhere(); /* against `has_flights` */
    }
    if (ns_unlikely(unused)) {
        Py_DECREF(e->new);
    }
    if (ns_unlikely(result == ERROR)) {
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
no_memory(const edit *e)
{
    Py_XDECREF(e->new); /* which `apply` took */
    PyErr_NoMemory();
    return ERROR;
}

static Py_NO_INLINE int
apply_asking(SyncMap *o, const edit *e, PyObject **old)
{
    ns_asker own;
    if (e->asker == NULL) {
        ns_asker_unused(&own);
    }
    ns_asker *const a = e->asker != NULL ? e->asker : &own;
    ns_asker_begin(a, e->key);
    int result = ERROR;
    for (;;) {
        ns_entry *entry = NULL;
        uintptr_t value = 0;
        ns_segment *s = ns_table_lock(&o->table, e->hash);
        if (s == NULL) {
            result = no_memory(e);
            break;
        }
        if (a->place.serial != s->serial || a->place.inserts != ns_load(&s->inserts, NS_RELAXED)) {
            a->place.serial = 0;
        }
        enum ns_found found =
            ns_segment_find(s, e->hash, ns_match_asked, a, &a->place, &entry, &value);
        if (found != NS_ASK) {
            result = act(o, e, s, found, entry, old);
            break;
        }
        PyObject *stored = Py_NewRef((PyObject *)ns_load(&entry->key, NS_RELAXED));
        ns_lock_release(&s->lock);
        if (ns_asker_ask(a, stored) < 0) {
            Py_XDECREF(e->new); /* which `apply` took */
            break;
        }
    }
    if (e->asker == NULL) {
        ns_asker_end(&own);
    }
    return result;
}

/* PUT and CHANGE without a lock: see ns_table_replace. The old value, or 0. */
static inline uintptr_t
replace_without_lock(ns_table *t, const edit *e, ns_segment **locked)
{
    const uintptr_t expected = (uintptr_t)e->expected, new = (uintptr_t)e->new;
    if (PyUnicode_CheckExact(e->key)) {
        return ns_table_replace(t, e->hash, ns_match_str, e->key, expected, new, locked);
    }
    if (PyLong_CheckExact(e->key)) {
        return ns_table_replace(t, e->hash, ns_match_int, e->key, expected, new, locked);
    }
    return ns_table_replace(t, e->hash, ns_match_any, e->key, expected, new, locked);
}

/* Does the edit, as one step. FOUND or MISSING: whether the key was there; of ADD and MISSING,
 * or PUT, that it is now. NOT_THIS: its value is not the expected one. FORBIDDEN: see `unless`.
 * ERROR: nothing changed. *old: the value that was there, a reference; of NOT_THIS NULL. */
static int
apply(SyncMap *o, const edit *e, PyObject **old)
{
    *old = NULL;
    ns_watch_use(o->watch, (PyObject *)o);
    if (ns_check_initialized((PyObject *)o) < 0) {
        return ERROR;
    }
    if (e->new != NULL) {
        ns_publish(e->new);
        Py_INCREF(e->new);
    }
    ns_segment *s = NULL;
    ns_entry *entry = NULL;
    enum ns_found found = NS_ABSENT;
    if ((e->kind == PUT || e->kind == CHANGE) && ns_likely(!o->is_flights)) {
        *old = (PyObject *)replace_without_lock(&o->table, e, &s);
        if (ns_likely(*old != NULL)) {
            return FOUND;
        }
    }
    if (s == NULL) {
        uintptr_t value = 0;
        s = ns_table_lock(&o->table, e->hash);
        if (ns_unlikely(s == NULL)) {
            return no_memory(e);
        }
        if (PyUnicode_CheckExact(e->key)) {
            found = ns_segment_find(s, e->hash, ns_match_str, e->key, NULL, &entry, &value);
        }
        else if (PyLong_CheckExact(e->key)) {
            found = ns_segment_find(s, e->hash, ns_match_int, e->key, NULL, &entry, &value);
        }
        else {
            found = ns_segment_find(s, e->hash, ns_match_any, e->key, NULL, &entry, &value);
        }
        if (ns_unlikely(found == NS_ASK)) {
            ns_lock_release(&s->lock);
            return apply_asking(o, e, old);
        }
    }
    return act(o, e, s, found, entry, old);
}

/* Sets the key whatever there was. 0 or -1. */
static int
put(SyncMap *o, PyObject *key, uint64_t hash, PyObject *value)
{
    PyObject *old;
    edit e = {.kind = PUT, .key = key, .hash = hash, .new = value};
    int result = apply(o, &e, &old);
    Py_XDECREF(old);
    return result == ERROR ? -1 : 0;
}

/* ---- Deleting, which detaches the calls of load_or_compute first (_common/mapping.py) ---- */

/* Who changed what a value is computed from, and then deletes the key, must see each flight that
 * has begun before it could know: so this load comes after that change, in the order of all. It
 * costs nothing, since who begins a flight has a fence put into all threads (see `act`). */
static inline bool
has_flights(SyncMap *o)
{
    if (ns_likely(ns_can_fence_threads)) {
        ns_compiler_fence();
    }
    else {
        ns_fence(NS_SEQ_CST);
    }
    SyncMap *flights = (SyncMap *)ns_load(&o->flights, NS_SEQ_CST);
    /* The count is as good as always right; where it is not, the table tells. */
    return ns_unlikely(flights != NULL) &&
           ns_unlikely(ns_load(&flights->flying, NS_SEQ_CST) != 0) &&
           ns_table_count(&flights->table) != 0;
}

static int
detach(SyncMap *o, PyObject *key)
{
    if (ns_likely(!has_flights(o))) {
        return 0;
    }
    ns_state *state = ns_state_of((PyObject *)o);
    if (state->syncmap_shared == NULL) {
        return 0; /* the interpreter is ending, nobody computes any more */
    }
    PyObject *result = key != NULL
                           ? PyObject_CallMethod(state->syncmap_shared, "_detach", "OO", o, key)
                           : PyObject_CallMethod(state->syncmap_shared, "_detach_all", "(O)", o);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* FOUND with the value, which was removed; MISSING; ERROR. */
static int
remove_key(SyncMap *o, PyObject *key, PyObject **value)
{
    edit e = {.kind = REMOVE, .key = key};
    if (ns_key_hash(key, &e.hash) < 0 || detach(o, key) < 0) {
        return ERROR;
    }
    return apply(o, &e, value);
}

/* More room for values than the n words there are; the old one if there is no memory. */
static uintptr_t *
more_room(uintptr_t *values, size_t *room, size_t n, const uintptr_t *few)
{
    uintptr_t *larger = PyMem_RawMalloc((n + n / 4) * sizeof(*larger));
    if (larger == NULL) {
        return values;
    }
    if (values != few) {
        PyMem_RawFree(values);
    }
    *room = n + n / 4;
    return larger;
}

/* A part of the table at a time, and each once: finalisers, and other threads, may insert as fast
 * as it deletes. */
static void
clear_entries(SyncMap *o)
{
    uintptr_t few[NS_GARBAGE], *values = few;
    size_t room = NS_GARBAGE, n;
    uint64_t from = 0;
    bool more, some = false;
    do {
        ns_garbage garbage;
        ns_garbage_init(&garbage);
        more = ns_table_take(&o->table, &from, values, room, some, &n, &garbage);
        if (n > room) {
            values = more_room(values, &room, n, few);
            some = n > room;
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
    do { /* keys, too */
        ns_garbage garbage;
        ns_garbage_init(&garbage);
        more = ns_table_flush(&o->table, &from, &garbage);
        ns_garbage_release(&garbage, ns_drop);
    } while (more);
}

/* ---- The mapping protocol ---- */

static PyObject *
subscript(PyObject *self, PyObject *key)
{
    uint64_t hash;
    PyObject *value;
    if (ns_key_hash(key, &hash) < 0) {
        return NULL;
    }
    int found = lookup((SyncMap *)self, key, hash, &value);
    if (ns_likely(found == FOUND)) {
        return value;
    }
    if (found == MISSING) {
        set_key_error(key);
    }
    return NULL;
}

static int
ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    if (value != NULL) {
        uint64_t hash;
        return ns_key_hash(key, &hash) < 0 ? -1 : put((SyncMap *)self, key, hash, value);
    }
    PyObject *old;
    int found = remove_key((SyncMap *)self, key, &old);
    if (ns_likely(found == FOUND)) {
        Py_DECREF(old);
        return 0;
    }
    if (found == MISSING) {
        set_key_error(key);
    }
    return -1;
}

static int
contains(PyObject *self, PyObject *key)
{
    uint64_t hash;
    return ns_key_hash(key, &hash) < 0 ? -1 : is_in((SyncMap *)self, key, hash, NULL);
}

static Py_ssize_t
length(PyObject *self)
{
    return ns_check_initialized(self) < 0 ? -1
                                          : (Py_ssize_t)ns_table_count(&((SyncMap *)self)->table);
}

/* Not by `length`, which looks at every part of the table. A subclass that has its own length
 * is asked for it, as dict does. */
static int
truth(PyObject *self)
{
    lenfunc own = Py_TYPE(self)->tp_as_mapping->mp_length;
    if (ns_unlikely(own != length)) {
        Py_ssize_t n = own(self);
        return n < 0 ? -1 : n != 0;
    }
    return ns_check_initialized(self) < 0 ? -1 : !ns_table_is_empty(&((SyncMap *)self)->table);
}

static PyObject *
iterate(PyObject *self)
{
    ns_watch_use(((SyncMap *)self)->watch, self);
    return ns_check_initialized(self) < 0 ? NULL : ns_syncmap_iterate((SyncMap *)self, false);
}

static PyObject *
pairs(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0 ? NULL : ns_syncmap_iterate((SyncMap *)self, true);
}

/* ---- Methods ---- */

/* `ns_unpack` for `key` and `default`, in fewer steps. */
static inline int
unpack_key(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
           PyObject **values)
{
    if (ns_likely(kwnames == NULL && (nargs == 1 || nargs == 2))) {
        values[0] = args[0];
        values[1] = nargs == 2 ? args[1] : NULL;
        return 0;
    }
    return ns_unpack_slow(s, args, nargs, kwnames, values);
}

static PyObject *
get(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.get", {"key", "default"}, 1, 2, 0};
    uint64_t hash;
    PyObject *values[2], *value;
    if (unpack_key(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &hash) < 0) {
        return NULL;
    }
    int found = lookup((SyncMap *)self, values[0], hash, &value);
    return ns_likely(found == FOUND) ? value
           : found == ERROR          ? NULL
                                     : Py_NewRef(values[1] != NULL ? values[1] : Py_None);
}

static PyObject *
setdefault(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.setdefault", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    edit e = {.kind = ADD};
    if (unpack_key(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1] != NULL ? values[1] : Py_None;
    ns_asker a;
    ns_asker_unused(&a);
    int found = lookup_with((SyncMap *)self, e.key, e.hash, &value, &a);
    if (found == MISSING) {
        e.asker = &a;
        found = apply((SyncMap *)self, &e, &value);
    }
    ns_asker_end(&a);
    return found == FOUND ? value : found == ERROR ? NULL : Py_NewRef(e.new);
}

static PyObject *
pop(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.pop", {"key", "default"}, 1, 2, 0};
    PyObject *values[2], *value;
    if (unpack_key(&s, args, nargs, kwnames, values) < 0) {
        return NULL;
    }
    int found = remove_key((SyncMap *)self, values[0], &value);
    if (found == MISSING && values[1] != NULL) {
        return Py_NewRef(values[1]);
    }
    if (found == MISSING) {
        set_key_error(values[0]);
    }
    return found == FOUND ? value : NULL;
}

/* Takes the entry out of its segment, which is locked, and unlocks it. The pair gets the key and
 * the value. */
static void
take_entry(SyncMap *o, ns_segment *s, ns_entry *entry, PyObject *pair)
{
    ns_garbage garbage;
    ns_garbage_init(&garbage);
    PyObject *key = (PyObject *)ns_load(&entry->key, NS_RELAXED);
    PyTuple_SET_ITEM(pair, 1, (PyObject *)ns_segment_remove(s, entry, 0, &garbage));
    if (garbage.count == 0) {
        Py_INCREF(key); /* the table keeps its own for a while */
    }
    else {
        garbage.count = 0; /* the table's own */
    }
    PyTuple_SET_ITEM(pair, 0, key);
    ns_table_unlock(&o->table, s, &garbage);
    if (ns_unlikely(!ns_garbage_is_empty(&garbage))) {
        ns_garbage_release(&garbage, ns_drop);
    }
}

/* The segment of some entry, locked; NULL with KeyError if there is none. */
static ns_segment *
lock_any(SyncMap *o)
{
    ns_segment *s = ns_table_lock_first(&o->table);
    if (s == NULL) {
        PyErr_SetString(PyExc_KeyError, "popitem(): the map is empty");
    }
    return s;
}

/* FOUND with some entry, which was removed, or ERROR. */
static inline int
pop_any(SyncMap *o, PyObject **pair)
{
    *pair = PyTuple_New(2);
    ns_segment *s = *pair != NULL ? lock_any(o) : NULL;
    if (s == NULL) {
        Py_CLEAR(*pair);
        return ERROR;
    }
    take_entry(o, s, ns_segment_pick(s), *pair);
    return FOUND;
}

/* The same where values are being computed: chooses a key, detaches the calls for it, and then
 * removes it. MISSING: another thread removed it meanwhile, and nothing happened. */
static Py_NO_INLINE int
pop_detached(SyncMap *o, PyObject **pair)
{
    *pair = NULL;
    ns_segment *s = lock_any(o);
    if (s == NULL) {
        return ERROR;
    }
    ns_entry *entry = ns_segment_pick(s);
    PyObject *key = Py_NewRef((PyObject *)ns_load(&entry->key, NS_RELAXED));
    const uint64_t hash = ns_load(&entry->hash, NS_RELAXED);
    ns_lock_release(&s->lock);
    *pair = detach(o, key) < 0 ? NULL : PyTuple_New(2); /* no user code may see it unfilled */
    int result = *pair == NULL ? ERROR : MISSING;
    if (result == MISSING) {
        uintptr_t value;
        s = ns_table_lock(&o->table, hash); /* not NULL: there is a first segment */
        if (ns_segment_find(s, hash, ns_match_identical, key, NULL, &entry, &value) == NS_PRESENT) {
            take_entry(o, s, entry, *pair);
            result = FOUND;
        }
        else {
            ns_lock_release(&s->lock);
            Py_CLEAR(*pair);
        }
    }
    Py_DECREF(key);
    return result;
}

static PyObject *
popitem(PyObject *self, PyObject *Py_UNUSED(unused))
{
    SyncMap *o = (SyncMap *)self;
    PyObject *pair;
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    while ((ns_likely(!has_flights(o)) ? pop_any(o, &pair) : pop_detached(o, &pair)) == MISSING) {
    }
    return pair;
}

static PyObject *
clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0 || detach((SyncMap *)self, NULL) < 0) {
        return NULL;
    }
    clear_entries((SyncMap *)self);
    Py_RETURN_NONE;
}

static PyObject *
insert(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.insert", {"key", "value"}, 2, 2, 0};
    PyObject *values[2], *old = NULL;
    edit e = {.kind = ADD};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1];
    ns_asker a;
    ns_asker_unused(&a);
    int found = is_in((SyncMap *)self, e.key, e.hash, &a);
    if (found == MISSING) {
        e.asker = &a;
        found = apply((SyncMap *)self, &e, &old);
        Py_XDECREF(old);
    }
    ns_asker_end(&a);
    return found == ERROR ? NULL : PyBool_FromLong(found == MISSING);
}

static PyObject *
swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.swap", {"key", "value", "default"}, 2, 3, 0};
    PyObject *values[3], *old;
    edit e = {.kind = PUT};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.new = values[1];
    int found = apply((SyncMap *)self, &e, &old);
    return found == FOUND   ? old
           : found == ERROR ? NULL
                            : Py_NewRef(values[2] != NULL ? values[2] : Py_None);
}

/* compare_and_swap, compare_and_delete: 1, 0, or -1. e->expected is what the caller compares
 * with. */
static int
compare_and(SyncMap *o, edit *e)
{
    PyObject *const wanted = e->expected, *current, *old;
    for (;;) {
        int result = lookup_with(o, e->key, e->hash, &current, e->asker);
        if (result != FOUND) {
            return result == MISSING ? 0 : -1;
        }
        int equal = current == wanted ? 1 : PyObject_RichCompareBool(current, wanted, Py_EQ);
        if (equal > 0 && e->kind == REMOVE && detach(o, e->key) < 0) {
            equal = -1;
        }
        if (equal <= 0) {
            Py_DECREF(current);
            return equal;
        }
        e->expected = current;
        result = apply(o, e, &old);
        Py_DECREF(current);
        Py_XDECREF(old);
        if (result != NOT_THIS) {
            return result == FOUND ? 1 : result == MISSING ? 0 : -1;
        }
    }
}

static PyObject *
compare_and_edit(PyObject *self, edit *e)
{
    ns_asker a;
    ns_asker_unused(&a);
    e->asker = &a;
    int done = compare_and((SyncMap *)self, e);
    ns_asker_end(&a);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *
compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.compare_and_swap", {"key", "old", "new"}, 3, 3, 0};
    PyObject *values[3];
    edit e = {.kind = CHANGE};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.expected = values[1];
    e.new = values[2];
    return compare_and_edit(self, &e);
}

static PyObject *
compare_and_delete(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.compare_and_delete", {"key", "old"}, 2, 2, 0};
    PyObject *values[2];
    edit e = {.kind = REMOVE};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    e.key = values[0];
    e.expected = values[1];
    return compare_and_edit(self, &e);
}

static PyObject *
modify(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"SyncMap.modify", {"key", "fn", "default"}, 3, 3, 0};
    PyObject *values[3], *current, *old;
    edit e = {0};
    if (ns_unpack(&s, args, nargs, kwnames, values) < 0 || ns_key_hash(values[0], &e.hash) < 0) {
        return NULL;
    }
    ns_asker a;
    ns_asker_unused(&a);
    e.key = values[0];
    e.asker = &a;
    int before, now;
    do {
        current = e.new = NULL;
        now = ERROR;
        before = lookup_with((SyncMap *)self, e.key, e.hash, &current, &a);
        if (before != ERROR) {
            e.new = PyObject_CallOneArg(values[1], before == FOUND ? current : values[2]);
        }
        if (e.new != NULL) {
            e.kind = before == FOUND ? CHANGE : ADD;
            e.expected = current;
            now = apply((SyncMap *)self, &e, &old);
            Py_XDECREF(old);
        }
        Py_XDECREF(current);
        if (now != before) { /* it failed, or another thread was faster */
            Py_CLEAR(e.new);
        }
    } while (now != before && now != ERROR);
    ns_asker_end(&a);
    return e.new;
}

/* The wait's bound as _common/mapping.py takes it: seconds, or None. */
static PyObject *
seconds_of(PyObject *timeout)
{
    ns_patience patience;
    int64_t deadline;
    if (ns_plain_timeout(timeout, &patience, &deadline) < 0) {
        return NULL;
    }
    if (patience == NS_WAIT_FOR_EVER) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble(patience == NS_DO_NOT_WAIT ? 0.0
                                                         : (double)(deadline - ns_now()) / 1e9);
}

static PyObject *
compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *timeout)
{
    ns_state *state = ns_state_of(self);
    if (state->syncmap_compute == NULL) {
        return ns_shutting_down();
    }
    PyObject *seconds = seconds_of(timeout), *result = NULL; /* runs code of users */
    PyObject *rest = seconds ? PyTuple_New(nargs - 2) : NULL;
    if (rest != NULL) {
        for (Py_ssize_t i = 2; i < nargs; i++) {
            PyTuple_SET_ITEM(rest, i - 2, Py_NewRef(args[i]));
        }
        result = PyObject_CallFunctionObjArgs(
            state->syncmap_compute, self, args[0], args[1], rest, seconds, NULL);
    }
    Py_XDECREF(rest);
    Py_XDECREF(seconds);
    return result;
}

static PyObject *
load_or_compute(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {
        "SyncMap.load_or_compute(self, key, fn, /, *args, timeout=None)", {NULL}, 0, 0, 0};
    PyObject *timeout = NULL, *value;
    uint64_t hash;
    if (nargs < 2) {
        return ns_refuse(&s, args, nargs, kwnames);
    }
    for (Py_ssize_t k = 0; kwnames != NULL && k < PyTuple_GET_SIZE(kwnames); k++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, k), "timeout") != 0) {
            return ns_refuse(&s, args, nargs, kwnames);
        }
        timeout = args[nargs + k];
    }
    if (timeout != NULL) { /* a bad one is an error also where nothing is waited for */
        PyObject *seconds = seconds_of(timeout);
        if (seconds == NULL) {
            return NULL;
        }
        Py_DECREF(seconds);
    }
    if (ns_key_hash(args[0], &hash) < 0) {
        return NULL;
    }
    int found = lookup((SyncMap *)self, args[0], hash, &value);
    return ns_likely(found == FOUND) ? value
           : found == ERROR          ? NULL
                                     : compute(self, args, nargs, timeout);
}

static PyObject *
snapshot(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *each = pairs(self, NULL), *pair;
    PyObject *result = each != NULL ? PyDict_New() : NULL;
    while (result != NULL && (pair = PyIter_Next(each)) != NULL) {
        if (PyDict_SetItem(result, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)) < 0) {
            Py_CLEAR(result);
        }
        Py_DECREF(pair);
    }
    Py_XDECREF(each);
    if (PyErr_Occurred()) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_table_bytes(&((SyncMap *)self)->table) +
                             ns_spares_size(&((SyncMap *)self)->spare_iterators));
}

/* ---- For _common/mapping.py ---- */

static PyObject *
flights_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    SyncMap *o = (SyncMap *)self;
    PyObject *flights = ns_load(&o->flights, NS_ACQUIRE);
    if (flights == NULL) {
        ns_state *state = ns_state_of(self);
        if (state->syncmap_type == NULL) {
            return ns_shutting_down();
        }
        PyObject *none = NULL, *new = PyObject_CallNoArgs(state->syncmap_type);
        if (new == NULL) {
            return NULL;
        }
        ((SyncMap *)new)->is_flights = true;
        ns_watch_free(((SyncMap *)new)->watch); /* no user can pin it */
        ((SyncMap *)new)->watch = NULL;
        if (ns_cas(&o->flights, &none, new, NS_SEQ_CST)) {
            flights = new;
        }
        else {
            Py_DECREF(new);
            flights = none;
        }
    }
    return Py_NewRef(flights);
}

static PyObject *
land(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *value;
    edit e = {.kind = ADD};
    ns_state *state = ns_state_of(self);
    if (state->atomic_bool_type == NULL) {
        return ns_shutting_down();
    }
    if (nargs != 3 || !PyObject_TypeCheck(args[2], (PyTypeObject *)state->atomic_bool_type)) {
        PyErr_SetString(PyExc_TypeError, "_land(key, value, detached: AtomicBool)");
        return NULL;
    }
    e.key = args[0];
    e.new = args[1];
    e.unless = args[2];
    if (ns_key_hash(e.key, &e.hash) < 0) {
        return NULL;
    }
    int found = apply((SyncMap *)self, &e, &value);
    return found == FOUND ? value : found == ERROR ? NULL : Py_NewRef(e.new);
}

/* ---- The object ---- */

/* Evaluates all keys and values, and the keys' hashes, before anything is stored. */
static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "SyncMap.__init__(self, mapping_or_pairs=(), /, **kwargs)", {NULL}, 0, 0, 0};
    SyncMap *o = (SyncMap *)self;
    PyObject *source = NULL, *entries = NULL, *given = NULL;
    ns_state *state = ns_state_of(self);
    if (state == NULL || (kwargs != NULL && !PyArg_ValidateKeywordArguments(kwargs))) {
        return -1;
    }
    if (PyTuple_GET_SIZE(args) > 1) {
        ns_refuse(&s, ((PyTupleObject *)args)->ob_item, PyTuple_GET_SIZE(args), NULL);
        return -1;
    }
    if (PyTuple_GET_SIZE(args) == 1) {
        source = PyTuple_GET_ITEM(args, 0);
    }
    if (source != NULL && state->syncmap_shared == NULL) {
        ns_shutting_down();
        return -1;
    }
    int result = -1;
    uint64_t *hashes = NULL;
    Py_ssize_t n = 0;
    if (source != NULL) {
        entries = PyObject_CallMethod(state->syncmap_shared, "_entries", "(O)", source);
        PyObject *list = entries != NULL ? PySequence_List(entries) : NULL;
        /* Who finds it through the collector can change a list, but not a tuple. */
        given = list != NULL ? PyList_AsTuple(list) : NULL;
        Py_XDECREF(list);
        Py_XDECREF(entries);
        if (given == NULL) {
            return -1;
        }
        n = PyTuple_GET_SIZE(given);
        hashes = PyMem_New(uint64_t, (size_t)n);
        if (hashes == NULL) {
            PyErr_NoMemory();
            goto done;
        }
        for (Py_ssize_t i = 0; i < n; i++) {
            PyObject *pair = PyTuple_GET_ITEM(given, i);
            if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
                PyErr_SetString(PyExc_TypeError, "entries must be pairs");
                goto done;
            }
            if (ns_key_hash(PyTuple_GET_ITEM(pair, 0), &hashes[i]) < 0) {
                goto done;
            }
        }
    }
    if (ns_claim_init(self) < 0) {
        goto done;
    }
    o->watch = ns_watch_new(self);
    ns_finish_init(self, true);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyTuple_GET_ITEM(given, i);
        if (put(o, PyTuple_GET_ITEM(pair, 0), hashes[i], PyTuple_GET_ITEM(pair, 1)) < 0) {
            goto done;
        }
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; kwargs != NULL && PyDict_Next(kwargs, &at, &name, &value);) {
        uint64_t hash;
        if (ns_key_hash(name, &hash) < 0 || put(o, name, hash, value) < 0) {
            goto done;
        }
    }
    result = 0;
done:
    PyMem_Free(hashes);
    Py_XDECREF(given);
    return result;
}

typedef struct {
    visitproc visit;
    void *arg;
} visitor;

static int
visit_word(uintptr_t word, void *context)
{
    visitor *v = context;
    return v->visit((PyObject *)word, v->arg);
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    SyncMap *o = (SyncMap *)self;
    visitor v = {visit, arg};
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->flights, NS_RELAXED));
    int result = ns_spares_traverse(&o->spare_iterators, self, visit, arg);
    return result != 0 ? result : ns_table_visit(&o->table, visit_word, &v);
}

/* Leaves an empty map that can be used: finalisers may still do so. */
static int
clear_garbage(PyObject *self)
{
    clear_entries((SyncMap *)self);
    ns_spares_clear(&((SyncMap *)self)->spare_iterators, self);
    return 0;
}

static void
release_entry(uintptr_t key, uintptr_t value)
{
    Py_DECREF((PyObject *)key);
    Py_XDECREF((PyObject *)value);
}

static void
dealloc(PyObject *self)
{
    SyncMap *o = (SyncMap *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* a chain of them may be a million long */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    ns_table_destroy(&o->table, release_entry);
    ns_spares_destroy(&o->spare_iterators);
    Py_XDECREF(ns_load(&o->flights, NS_RELAXED));
    ns_watch_free(o->watch);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef methods[] = {
    NS_METHOD("get", get, DOC_SyncMap_get),
    NS_METHOD("setdefault", setdefault, DOC_SyncMap_setdefault),
    NS_METHOD("pop", pop, DOC_SyncMap_pop),
    NS_NO_ARGUMENTS("popitem", popitem, DOC_SyncMap_popitem),
    NS_NO_ARGUMENTS("clear", clear, DOC_SyncMap_clear),
    NS_NO_ARGUMENTS("snapshot", snapshot, DOC_SyncMap_snapshot),
    NS_METHOD("insert", insert, DOC_SyncMap_insert),
    NS_METHOD("swap", swap, DOC_SyncMap_swap),
    NS_METHOD("compare_and_swap", compare_and_swap, DOC_SyncMap_compare_and_swap),
    NS_METHOD("compare_and_delete", compare_and_delete, DOC_SyncMap_compare_and_delete),
    NS_METHOD("modify", modify, DOC_SyncMap_modify),
    NS_METHOD("load_or_compute", load_or_compute, DOC_SyncMap_load_or_compute),
    {"_pairs", pairs, METH_NOARGS, NULL},
    {"_flights", flights_of, METH_NOARGS, NULL},
    {"_land", _PyCFunction_CAST(land), METH_FASTCALL, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(SyncMap);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_SyncMap},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear_garbage},
    {Py_tp_iter, iterate},
    {Py_mp_subscript, subscript},
    {Py_mp_ass_subscript, ass_subscript},
    {Py_mp_length, length},
    {Py_nb_bool, truth},
    {Py_sq_contains, contains},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.SyncMap",
    .basicsize = sizeof(SyncMap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MAPPING,
    .slots = slots,
};

/* From nogil_sync._common.mapping: the base, and the misses of load_or_compute. */
static int
import_shared(ns_state *state)
{
    PyObject *shared = PyImport_ImportModule("nogil_sync._common.mapping");
    if (shared == NULL) {
        return -1;
    }
    state->syncmap_shared = PyObject_GetAttrString(shared, "SharedMap");
    state->syncmap_compute = PyObject_GetAttrString(shared, "load_or_compute");
    Py_DECREF(shared);
    return state->syncmap_shared == NULL || state->syncmap_compute == NULL ? -1 : 0;
}

/* The interpreter's own secret, by which it hashes bytes, gives the one that hashes are mixed with
 * (core/table.h). So one process has one seed, in all its interpreters and in the children of its
 * forks. And with PYTHONHASHSEED it is the same in each run: a user who sets it wants the same order
 * of everything in each run, and gives up the protection for strings, too. */
static int
seed_hashes(void)
{
    uint64_t words[2];
    for (int i = 0; i < 2; i++) {
        PyObject *text = PyBytes_FromFormat("nogil_sync.SyncMap, word %d", i);
        Py_hash_t hash = text != NULL ? PyObject_Hash(text) : -1;
        Py_XDECREF(text);
        if (hash == -1) { /* which is no hash */
            return -1;
        }
        words[i] = (uint64_t)hash;
    }
    ns_hash_seed_set(words[0], words[1]);
    return 0;
}

int
ns_add_syncmap(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->atomic_bool_type = PyObject_GetAttrString(module, "AtomicBool");
    if (state->atomic_bool_type == NULL || seed_hashes() < 0 || import_shared(state) < 0 ||
        ns_add_syncmap_iterator(module) < 0) {
        return -1;
    }
    state->syncmap_type = ns_new_type(module, &spec, state->syncmap_shared);
    return state->syncmap_type == NULL ||
                   PyObject_SetAttrString(state->syncmap_type, "_plain", state->syncmap_type) < 0 ||
                   PyObject_SetAttrString(state->syncmap_type, "_Flag", state->atomic_bool_type) < 0
               ? -1
               : PyModule_AddType(module, (PyTypeObject *)state->syncmap_type);
}
