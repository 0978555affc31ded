#include "spares.h"

#include <stdlib.h>
#include <string.h>

#include "core/slots.h"

PyObject *
ns_spares_new(ns_spares *s, PyTypeObject *type, PyObject *owner)
{
    ns_spare_cell *cells = ns_load(&s->cells, NS_ACQUIRE);
    if (cells != NULL) {
        _Atomic(PyObject *) *cell = &cells[ns_slot() & ns_slots_mask].spare;
        PyObject *spare = ns_load(cell, NS_RELAXED) ? ns_swap(cell, NULL, NS_ACQUIRE) : NULL;
        if (spare != NULL) {
            return PyObject_Init(spare, type);
        }
    }
    PyObject *object = PyObject_GC_New(PyObject, type);
    if (object != NULL) {
        Py_INCREF(owner);
    }
    return object;
}

/* The table of cells, made if need be; NULL without memory. */
static ns_spare_cell *
cells_of(ns_spares *s)
{
    ns_spare_cell *cells = ns_load(&s->cells, NS_ACQUIRE);
    if (ns_unlikely(cells == NULL)) {
        size_t size = ((size_t)ns_slots_mask + 1) * sizeof(*cells);
        ns_spare_cell *fresh = aligned_alloc(NS_CACHE_LINE, size);
        if (fresh == NULL) {
            return NULL;
        }
        memset(fresh, 0, size);
        if (ns_cas(&s->cells, &cells, fresh, NS_RELEASE)) {
            return fresh;
        }
        free(fresh);
        cells = ns_load(&s->cells, NS_ACQUIRE);
    }
    return cells;
}

static bool
keep(ns_spares *s, PyObject *object, PyObject *owner)
{
    if (!NS_CAN_DEFER || !ns_is_deferred(owner) || ns_is_immortal(owner)) {
        return false; /* has to be freed at once, or has no count to fight over */
    }
    ns_spare_cell *cells = cells_of(s);
    if (cells == NULL) {
        return false;
    }
    PyObject *none = NULL;
    _Atomic(PyObject *) *cell = &cells[ns_slot() & ns_slots_mask].spare;
    return ns_load(cell, NS_RELAXED) == NULL && ns_cas(cell, &none, object, NS_RELEASE);
}

void
ns_spares_free(ns_spares *s, PyObject *object, PyObject *owner)
{
    PyTypeObject *type = Py_TYPE(object);
    /* Once it is kept, the owner may be freed by another thread's collection. */
    if (!keep(s, object, owner)) {
        type->tp_free(object);
        Py_DECREF(owner);
    }
    Py_DECREF(type);
}

int
ns_spares_traverse(ns_spares *s, PyObject *owner, visitproc visit, void *arg)
{
    ns_spare_cell *cells = ns_load(&s->cells, NS_ACQUIRE);
    for (size_t i = 0; cells != NULL && i <= ns_slots_mask; i++) {
        if (ns_load(&cells[i].spare, NS_RELAXED) != NULL) {
            Py_VISIT(owner);
        }
    }
    return 0;
}

void
ns_spares_clear(ns_spares *s, PyObject *owner)
{
    ns_spare_cell *cells = ns_load(&s->cells, NS_ACQUIRE);
    for (size_t i = 0; cells != NULL && i <= ns_slots_mask; i++) {
        PyObject *spare = ns_swap(&cells[i].spare, NULL, NS_ACQUIRE);
        if (spare != NULL) {
            PyObject_GC_Del(spare);
            Py_DECREF(owner);
        }
    }
}

void
ns_spares_destroy(ns_spares *s)
{
    free(ns_load(&s->cells, NS_RELAXED));
}

size_t
ns_spares_size(const ns_spares *s)
{
    return ns_load(&s->cells, NS_RELAXED) ? ((size_t)ns_slots_mask + 1) * sizeof(ns_spare_cell) : 0;
}
