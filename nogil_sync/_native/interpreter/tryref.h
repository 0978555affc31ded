/* tryref.h: reading a reference that other threads replace, without a lock.
 *
 * A slot here is a variable that holds a strong reference. Between a reader's load of the pointer
 * and its increment, a writer may replace the object, drop the last reference and free it. By then
 * its memory may hold another object, or nothing. The protocol is CPython's own for dict and list
 * items, after "Biased reference counting", Choi et al., PACT 2018:
 *
 *   writer   ns_publish(object) once before it stores the object: marks the count "maybe
 *            weakly referenced", so that threads other than the owner may take a reference
 *            while it is alive and has no shared references
 *   reader   p = load slot
 *            take a reference if the count says that the object is alive   (try)
 *            load the slot again: unchanged? then p is the slot's object, else drop it and retry
 *
 * Why it is safe
 *   - Memory. The heap of CPython's objects reuses blocks at once, but their pages stay mapped
 *     until every attached thread has passed a quiescent state (QSBR). There is none between the
 *     load and the re-check: only loads, compares and a compare-and-swap. So the fields of a dead
 *     object can be read.
 *   - A freed block's shared count is 0 or MERGED, from which `try` never increments. A fresh
 *     object's is 0 until a thread publishes it. So a compare-and-swap succeeds only on a live
 *     object, perhaps not ours. The re-check finds that, and the reader drops the reference like
 *     any other.
 *   - Only the owning thread writes the local count. If we are the owner, no other thread frees the
 *     block meanwhile. If `ob_tid` says so of a reused block, it is an object of ours.
 *   - The reader makes the re-check on every path, also for immortal objects. Else a block that was
 *     freed and reused for an immortal object would yield an object that was never in the slot. And
 *     it makes the re-check after it has read the count: the compare-and-swap is an acquire, and so
 *     is the load of an immortal count. Suppose that a reader reads the immortal count of the
 *     block's next object. Then it also sees the earlier change of the slot. For a compare-and-swap
 *     drops the last reference to the object that was in the slot (it is published). That
 *     compare-and-swap lies between the change and whatever is stored in the block later, and arm64
 *     lets no later store overtake it. As to an object of our own, only we ourselves can have
 *     changed its count. (models/litmus/orderings.toml: "tryref".)
 *   - After the reader has dropped a rejected reference (which can run a finaliser or detach), it
 *     reads everything again.
 *   - If the slot is unchanged, the slot's own reference kept the object alive at some moment after
 *     the increment. The result is current as of then (linearisation point: the second load).
 * Progress: a retry means that a writer succeeded. Given ns_publish, `try` cannot fail on the
 * object that is in the slot, so no slow path with a lock is needed.
 *
 * ns_publish and ns_try_incref are in cpython.h.
 */
#ifndef NS_TRYREF_H
#define NS_TRYREF_H

#include "interpreter/cpython.h"

typedef _Atomic(PyObject *) ns_ref;

/* Returns a new reference to the slot's object, or NULL if the slot is NULL. Sequentially
 * consistent. */
static inline PyObject *
ns_load_ref(ns_ref *slot)
{
    for (;;) {
        PyObject *object = ns_load(slot, NS_SEQ_CST);
        if (object == NULL) {
            return NULL;
        }
        if (ns_try_incref(object)) {
            if (ns_likely(ns_load(slot, NS_SEQ_CST) == object)) {
                return object;
            }
            Py_DECREF(object);
        }
    }
}

/* The same for a function that tp_clear may replace by None, in an object that a thread got hold of
 * through gc.get_objects(): NULL then, too. */
static inline PyObject *
ns_load_function(ns_ref *slot)
{
    PyObject *function = ns_load_ref(slot);
    if (function == Py_None) {
        Py_CLEAR(function);
    }
    return function;
}

/* What tp_clear does with it. */
static inline void
ns_clear_function(ns_ref *slot)
{
    if (ns_load(slot, NS_RELAXED) != NULL) {
        Py_DECREF(ns_swap(slot, Py_None, NS_SEQ_CST));
    }
}

#endif
