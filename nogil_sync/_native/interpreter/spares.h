/* spares.h: what `pool.use()`, `semaphore.hold()` and `iter(map)` return, kept for reuse.
 *
 * Such an object refers to its owner. So making and freeing one would change the owner's count
 * twice. If many threads use one owner, they would contend for that count, even if the owner defers
 * it: deferral saves the interpreter's own references, not those of other objects. So an owner that
 * defers keeps the last such object that each thread gave up, together with the object's reference
 * to the owner. To take it again touches only the thread's own cell.
 *
 * A cell   NULL -> a spare object: a store (release) by the thread that has the cell
 *          a spare object -> NULL: an exchange (acquire), by that thread or by ns_spares_clear
 * A thread has the cell of its slot (core/memory/slots.h). A thread without a slot, or with a slot
 * beyond NS_SPARES_MAX, keeps nothing.
 *
 * Memory. The table has cells for the first slots. It is made when the first object is kept. Each
 * further segment has as many cells as all before it, and is made when one of their threads keeps
 * an object. All of it stays in place and lives as long as the owner. So its size follows how many
 * threads use the owner at the same time, and not how many processors there are.
 *
 * A spare object is dead: its count is zero and the collector does not track it. Its reference to
 * the owner is real. So the owner refers to itself through the object. It reports that to the
 * collector in its tp_traverse (`ns_spares_traverse`) and drops it in its tp_clear
 * (`ns_spares_clear`). That delays nothing, because the collector frees an object that defers its
 * count anyway.
 */
#ifndef NS_SPARES_H
#define NS_SPARES_H

#include "interpreter/sharing.h"

typedef struct ns_spare_cell {
    _Alignas(NS_CACHE_LINE) _Atomic(PyObject *) spare;
} ns_spare_cell;

enum { NS_SPARES_FIRST = 8, NS_SPARES_SEGMENTS = 10 };
#define NS_SPARES_MAX \
    (NS_SPARES_FIRST << (NS_SPARES_SEGMENTS - 1)) /* the number of slots with a cell */

typedef struct ns_spare_table {
    ns_spare_cell first[NS_SPARES_FIRST];
    /* As in core/memory/segments.h; the first is `first`. NULL until it is made; never changes
     * after. */
    _Atomic(ns_spare_cell *) segments[NS_SPARES_SEGMENTS];
} ns_spare_table;

typedef struct ns_spares {
    _Atomic(ns_spare_table *) table; /* NULL until an object is kept; never changes after */
} ns_spares;

/* Returns a new object of the type, with a reference to the owner. The caller fills and tracks it,
 * and it takes over that reference. NULL with MemoryError. */
PyObject *ns_spares_new(ns_spares *s, PyTypeObject *type, PyObject *owner);

/* Ends the object's tp_dealloc, which has untracked the object and dropped all references but that
 * to the owner. */
void ns_spares_free(ns_spares *s, PyObject *object, PyObject *owner);

int ns_spares_traverse(ns_spares *s, PyObject *owner, visitproc visit, void *arg);
void ns_spares_clear(ns_spares *s, PyObject *owner);
/* For the owner's tp_dealloc. No spare is left then, since each had a reference to the owner. */
void ns_spares_destroy(ns_spares *s);
/* Bytes of the table. */
size_t ns_spares_size(ns_spares *s);

#endif
