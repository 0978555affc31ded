/* spares.h: what `pool.use()`, `semaphore.hold()` and `iter(map)` return, kept to be used again.
 *
 * Such an object refers to its owner, so each one that is made and freed would count on the owner
 * twice. Where many threads use one owner they would fight over that count, even if the owner
 * defers it: deferral spares the interpreter's own references, not those of other objects. So an
 * owner that defers keeps the last such object that each thread gave up, together with the
 * reference to the owner that it has. Taking it again touches only the thread's own cell.
 *
 * A cell   NULL -> a spare object: by the thread that has the cell, a store (release)
 *          a spare object -> NULL: an exchange (acquire), by that thread or by ns_spares_clear
 * A thread has the cell of its slot (core/slots.h). One without a slot, or with a slot beyond
 * NS_SPARES_MAX, keeps nothing.
 *
 * Memory. The table has cells for the first slots. It appears when the first object is kept. Each
 * further segment is for as many slots as all before it, and appears when one of them keeps an
 * object. Nothing of it moves, and it goes with the owner. So its size follows how many threads use
 * the owner at the same time, and not how many processors there are.
 *
 * A spare object is dead: its count is zero and the collector does not track it. Its reference to
 * the owner is real. The owner refers to itself through it, and so tells the collector in its
 * tp_traverse (`ns_spares_traverse`) and drops it in its tp_clear (`ns_spares_clear`). That
 * delays nothing, for an object that defers its count is freed by the collector anyway.
 */
#ifndef NS_SPARES_H
#define NS_SPARES_H

#include "interpreter/sharing.h"

typedef struct ns_spare_cell {
    _Alignas(NS_CACHE_LINE) _Atomic(PyObject *) spare;
} ns_spare_cell;

enum { NS_SPARES_FIRST = 8, NS_SPARES_SEGMENTS = 9 };
#define NS_SPARES_MAX (NS_SPARES_FIRST << NS_SPARES_SEGMENTS) /* slots */

typedef struct ns_spare_table {
    ns_spare_cell first[NS_SPARES_FIRST];
    /* Segment k is for the slots from NS_SPARES_FIRST << k on; NULL, and then never changes. */
    _Atomic(ns_spare_cell *) segments[NS_SPARES_SEGMENTS];
} ns_spare_table;

typedef struct ns_spares {
    _Atomic(ns_spare_table *) table; /* NULL until an object is kept; then never changes */
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
size_t ns_spares_size(ns_spares *s);

#endif
