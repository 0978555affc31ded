/* Iterators of SyncMap. An iterator takes a page of keys at a time, and looks each key up when its
 * turn comes.
 *
 * A page is what one part of the table held at one moment (table.h, ns_table_page). The
 * iterator has references to the keys of its page, never to a value, so that values are dropped
 * when they leave the map. It omits a key whose entry is gone when its turn comes. It finds the
 * entry by the identity of the key, without user code.
 *
 * Threads may share an iterator. A small lock guards its fields, and is held only while they
 * change. A thread fills its new page without the lock, and discards it if another thread was
 * faster. One store publishes all parts of a page, so the child of a fork finds a whole page even
 * if its thread is gone.
 */
#include "docs.h"
#include "object.h"
#include "types/syncmap.h"

typedef struct {
    uint64_t end; /* where the next page begins; 0: this is the last */
    size_t next, count;
    ns_hashed keys[];
} key_page;

typedef struct {
    PyObject_HEAD
    SyncMap *map;
    bool pairs;
    bool cleared;
    ns_lock lock;   /* guards the fields around it */
    key_page *page; /* NULL before the first */
} Iterator;

static bool
hold_key(uintptr_t word)
{
    Py_INCREF((PyObject *)word); /* the table owns a reference, and is locked */
    return true;
}

static void
drop_page(key_page *page)
{
    while (page != NULL && page->next < page->count) {
        ns_drop(page->keys[page->next++].key);
    }
    PyMem_RawFree(page);
}

/* Whether the page has no more keys; *from gets where the next page begins. The lock must be
 * held. */
static bool
at_end(const Iterator *it, uint64_t *from)
{
    *from = it->page != NULL ? it->page->end : 0;
    return it->page == NULL || it->page->next == it->page->count;
}

/* Takes the next key of the page, with its reference. Returns false at the end of the page; then
 * *from is where to go on, unless *done. */
static bool
take(Iterator *it, ns_hashed *key, uint64_t *from, bool *done)
{
    ns_lock_take(&it->lock);
    bool any = !at_end(it, from);
    if (any) {
        *key = it->page->keys[it->page->next++];
    }
    *done = it->cleared || (it->page != NULL && *from == 0);
    ns_lock_release(&it->lock);
    return any;
}

/* Returns 0, or -1 if there is no memory. */
static int
turn_page(Iterator *it, uint64_t from)
{
    size_t capacity = 8, count;
    key_page *page = NULL;
    do {
        PyMem_RawFree(page);
        page = PyMem_RawMalloc(sizeof(*page) + capacity * sizeof(page->keys[0]));
        if (page == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        page->end = from;
        count = ns_table_page(&it->map->table, &page->end, page->keys, capacity, hold_key);
    } while (count > capacity && (capacity = count + count / 4, true));
    page->next = 0;
    page->count = count;
    uint64_t now;
    ns_lock_take(&it->lock);
    /* Each page but the first begins further on than the one before. */
    if (at_end(it, &now) && now == from && (from != 0 || it->page == NULL) && !it->cleared) {
        key_page *old = it->page;
        it->page = page;
        page = old;
    }
    ns_lock_release(&it->lock);
    drop_page(page);
    return 0;
}

static PyObject *
next(PyObject *self)
{
    Iterator *it = (Iterator *)self;
    for (;;) {
        ns_hashed key;
        uint64_t from;
        bool done;
        if (!take(it, &key, &from, &done)) {
            if (done || turn_page(it, from) < 0) {
                return NULL;
            }
            continue;
        }
        PyObject *object = (PyObject *)key.key;
        uintptr_t value;
        enum ns_found found = ns_table_get(
            &it->map->table, key.hash, ns_match_identical, object, NULL, ns_hold, ns_drop, &value);
        if (found != NS_PRESENT) {
            Py_DECREF(object);
            continue;
        }
        if (!it->pairs) {
            ns_drop(value);
            return object;
        }
        PyObject *pair = PyTuple_New(2);
        if (pair == NULL) {
            ns_drop(value);
            Py_DECREF(object);
            return NULL;
        }
        PyTuple_SET_ITEM(pair, 0, object);
        PyTuple_SET_ITEM(pair, 1, (PyObject *)value);
        return pair;
    }
}

PyObject *
ns_syncmap_iterate(SyncMap *o, bool pairs)
{
    ns_state *state = ns_state_of((PyObject *)o);
    PyTypeObject *type = state ? (PyTypeObject *)state->syncmap_iterator_type : NULL;
    if (type == NULL) {
        return ns_shutting_down();
    }
    Iterator *it = (Iterator *)ns_spares_new(&o->spare_iterators, type, (PyObject *)o);
    if (it != NULL) {
        it->map = o;
        it->pairs = pairs;
        it->cleared = false;
        it->lock = (ns_lock){0};
        it->page = NULL;
        PyObject_GC_Track((PyObject *)it);
    }
    return (PyObject *)it;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Iterator *it = (Iterator *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)it->map);
    const key_page *page = it->page;
    for (size_t i = page != NULL ? page->next : 0; page != NULL && i < page->count; i++) {
        Py_VISIT((PyObject *)page->keys[i].key);
    }
    return 0;
}

static int
clear(PyObject *self)
{
    Iterator *it = (Iterator *)self;
    ns_lock_take(&it->lock);
    key_page *page = it->page;
    it->cleared = true;
    it->page = NULL;
    ns_lock_release(&it->lock);
    drop_page(page);
    return 0;
}

static void
dealloc(PyObject *self)
{
    SyncMap *map = ((Iterator *)self)->map;
    PyObject_GC_UnTrack(self);
    clear(self);
    ns_spares_free(&map->spare_iterators, self, (PyObject *)map);
}

static PyMethodDef methods[] = {
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_SyncMapIterator},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.SyncMapIterator",
    .basicsize = sizeof(Iterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = slots,
};

int
ns_add_syncmap_iterator(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->syncmap_iterator_type);
}
