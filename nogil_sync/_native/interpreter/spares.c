#include "interpreter/spares.h"

#include "core/memory/segments.h"

/* ---- The table ---- */

/* Returns the calling thread's cell, or NULL if it has none. */
static inline _Atomic(PyObject *) *
cell_of(ns_spare_table *table)
{
    uint32_t slot = ns_slot(), offset;
    if (ns_likely(slot < NS_SPARES_FIRST)) {
        return &table->first[slot].spare;
    }
    if (slot >= NS_SPARES_MAX) {
        return NULL;
    }
    uint32_t segment = ns_segment_of_slot(NS_SPARES_FIRST, slot, &offset);
    ns_spare_cell *cells = ns_load(&table->segments[segment], NS_ACQUIRE);
    return cells == NULL ? NULL : &cells[offset].spare;
}

/* Makes the segment with the calling thread's cell, if there is none. */
static void
make_segment(ns_spare_table *table)
{
    uint32_t slot = ns_slot(), offset;
    if (slot >= NS_SPARES_MAX) {
        return;
    }
    uint32_t segment = ns_segment_of_slot(NS_SPARES_FIRST, slot, &offset);
    size_t size = ns_slots_in_segment(NS_SPARES_FIRST, segment) * sizeof(ns_spare_cell);
    ns_spare_cell *none = NULL, *fresh;
    if (ns_load(&table->segments[segment], NS_RELAXED) == NULL &&
        (fresh = ns_zeroed(NS_CACHE_LINE, size)) != NULL &&
        !ns_cas(&table->segments[segment], &none, fresh, NS_RELEASE)) {
        free(fresh);
    }
}

/* Returns the calling thread's cell; makes the table and the segment if needed. NULL if there is no
 * memory, or no cell for its slot. */
static _Atomic(PyObject *) *
make_cell(ns_spares *s)
{
    ns_spare_table *table = ns_load(&s->table, NS_ACQUIRE);
    if (table == NULL) {
        ns_spare_table *fresh = ns_zeroed(NS_CACHE_LINE, sizeof(*fresh));
        if (fresh == NULL) {
            return NULL;
        }
        ns_store(&fresh->segments[0], fresh->first, NS_RELAXED);
        if (!ns_cas(&s->table, &table, fresh, NS_RELEASE)) {
            free(fresh);
        }
        table = ns_load(&s->table, NS_ACQUIRE);
    }
    _Atomic(PyObject *) *cell = cell_of(table);
    if (ns_unlikely(cell == NULL)) {
        make_segment(table);
        cell = cell_of(table);
    }
    return cell;
}

/* ---- For its users ---- */

PyObject *
ns_spares_new(ns_spares *s, PyTypeObject *type, PyObject *owner)
{
    ns_spare_table *table = ns_load(&s->table, NS_ACQUIRE);
    if (table != NULL) {
        _Atomic(PyObject *) *cell = cell_of(table);
        if (cell != NULL && ns_load(cell, NS_RELAXED) != NULL) {
            PyObject *spare = ns_swap(cell, NULL, NS_ACQUIRE);
            if (spare != NULL) {
                return PyObject_Init(spare, type);
            }
        }
    }
    PyObject *object = PyObject_GC_New(PyObject, type);
    if (object != NULL) {
        Py_INCREF(owner);
    }
    return object;
}

static bool
keep(ns_spares *s, PyObject *object, PyObject *owner)
{
    if (!NS_CAN_DEFER || !ns_is_deferred(owner) || ns_is_immortal(owner)) {
        return false; /* must be freed at once, or has no count to contend for */
    }
    _Atomic(PyObject *) *cell = make_cell(s);
    if (cell == NULL || ns_load(cell, NS_RELAXED) != NULL) {
        return false;
    }
    ns_store(cell, object, NS_RELEASE);
    return true;
}

void
ns_spares_free(ns_spares *s, PyObject *object, PyObject *owner)
{
    PyTypeObject *type = Py_TYPE(object);
    /* Do not use `owner` after keep: another thread's collection may free it. */
    if (!keep(s, object, owner)) {
        type->tp_free(object);
        Py_DECREF(owner);
    }
    Py_DECREF(type);
}

/* ---- All cells ---- */

/* Returns the cells of a segment, or NULL if there are none. */
static ns_spare_cell *
cells_of(ns_spares *s, uint32_t segment, uint32_t *count)
{
    ns_spare_table *table = ns_load(&s->table, NS_ACQUIRE);
    *count = ns_slots_in_segment(NS_SPARES_FIRST, segment);
    return table != NULL ? ns_load(&table->segments[segment], NS_ACQUIRE) : NULL;
}

int
ns_spares_traverse(ns_spares *s, PyObject *owner, visitproc visit, void *arg)
{
    uint32_t count;
    for (uint32_t segment = 0; segment < NS_SPARES_SEGMENTS; segment++) {
        ns_spare_cell *cells = cells_of(s, segment, &count);
        for (uint32_t i = 0; cells != NULL && i < count; i++) {
            if (ns_load(&cells[i].spare, NS_RELAXED) != NULL) {
                Py_VISIT(owner);
            }
        }
    }
    return 0;
}

void
ns_spares_clear(ns_spares *s, PyObject *owner)
{
    uint32_t count;
    for (uint32_t segment = 0; segment < NS_SPARES_SEGMENTS; segment++) {
        ns_spare_cell *cells = cells_of(s, segment, &count);
        for (uint32_t i = 0; cells != NULL && i < count; i++) {
            PyObject *spare = ns_swap(&cells[i].spare, NULL, NS_ACQUIRE);
            if (spare != NULL) {
                PyObject_GC_Del(spare);
                Py_DECREF(owner);
            }
        }
    }
}

void
ns_spares_destroy(ns_spares *s)
{
    uint32_t count;
    for (uint32_t segment = 1; segment < NS_SPARES_SEGMENTS; segment++) {
        free(cells_of(s, segment, &count));
    }
    free(ns_load(&s->table, NS_RELAXED));
}

size_t
ns_spares_size(ns_spares *s)
{
    uint32_t count;
    size_t size = 0;
    for (uint32_t segment = 1; segment < NS_SPARES_SEGMENTS; segment++) {
        size += cells_of(s, segment, &count) == NULL ? 0 : count * sizeof(ns_spare_cell);
    }
    return size + (ns_load(&s->table, NS_RELAXED) == NULL ? 0 : sizeof(ns_spare_table));
}
