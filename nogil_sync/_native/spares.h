/* spares.h: what `pool.use()`, `semaphore.hold()` and `iter(map)` return, kept to be used again.
 *
 * Such an object refers to its owner, so each one that is made and freed would count on the owner
 * twice. Where many threads use one owner they would fight over that count, even if the owner
 * defers it: deferral spares the interpreter's own references, not those of other objects. So an
 * owner that defers keeps the last such object that each thread gave up, together with the
 * reference to the owner that it has. Taking it again touches only the thread's own cell.
 *
 * A cell   NULL -> a spare object: by the thread that frees it, a compare-and-swap (release)
 *          a spare object -> NULL: by the thread that takes it, an exchange (acquire)
 * A thread has the cell of its slot (core/slots.h); threads whose slots share a cell are merely
 * slower. The table of cells appears when the first object is kept, and goes with the owner.
 *
 * A spare object is dead: its count is zero and the collector does not track it. Its reference to
 * the owner is real. The owner refers to itself through it, and so tells the collector in its
 * tp_traverse (`ns_spares_traverse`) and drops it in its tp_clear (`ns_spares_clear`). That
 * delays nothing, for an object that defers its count is freed by the collector anyway.
 */
#ifndef NS_SPARES_H
#define NS_SPARES_H

#include "sharing.h"

typedef struct ns_spare_cell {
    _Alignas(NS_CACHE_LINE) _Atomic(PyObject *) spare;
} ns_spare_cell;

typedef struct ns_spares {
    _Atomic(ns_spare_cell *) cells; /* NULL until an object is kept; then never changes */
} ns_spares;

/* A new object of the type, which the caller fills and tracks, with a reference to the owner that
 * it is to hold; or NULL with MemoryError. */
PyObject *ns_spares_new(ns_spares *s, PyTypeObject *type, PyObject *owner);

/* The end of the object's tp_dealloc, which has untracked it and let go of all but the owner. */
void ns_spares_free(ns_spares *s, PyObject *object, PyObject *owner);

int ns_spares_traverse(ns_spares *s, PyObject *owner, visitproc visit, void *arg);
void ns_spares_clear(ns_spares *s, PyObject *owner);
/* For the owner's tp_dealloc: none is left then, since each had a reference. */
void ns_spares_destroy(ns_spares *s);
/* Bytes of the table. */
size_t ns_spares_size(const ns_spares *s);

#endif
