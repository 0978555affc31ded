/* tryref.h: reading a reference that other threads replace, without a lock.
 *
 * A slot holds a strong reference. Between a reader's load of the pointer and its increment, a
 * writer may replace the object, drop the last reference and free it; its memory may hold
 * another object by then, or nothing. The protocol (CPython's own for dict and list items,
 * after "Biased reference counting", Choi et al., PACT 2018):
 *
 *   writer   ns_publish(object) once before it stores the object: marks the count
 *            "maybe weakly referenced", so that threads other than the owner may take it from zero
 *            shared references while it is alive
 *   reader   p = load slot
 *            take a reference if the count says that the object is alive   (try)
 *            load the slot again: unchanged? then p is the slot's object, else drop it and retry
 *
 * Why it is safe
 *   - Memory: blocks of CPython's object heap are reused at once, but their pages stay mapped until
 *     every attached thread passed a quiescent state (QSBR); there is none between load and
 *     re-check, only loads, compares and compare-and-swap. So the fields of a dead object can be read.
 *   - A freed block's shared count is 0 or MERGED, from which `try` never increments; a fresh
 *     object's is 0 until somebody publishes it. So a compare-and-swap succeeds
 *     only on a live object, perhaps not ours: the re-check finds out, and the reference is dropped
 *     as any other.
 *   - The local count is written only by the owning thread: if we are the owner, nobody else
 *     frees the block under us, and if `ob_tid` says so of a reused block, it is an object of ours.
 *   - The re-check is made on every path, also for immortal objects: a block that was freed and
 *     reused by an immortal one would otherwise yield an object that was never in the slot. And it is made after
 *     the count was read: the compare-and-swap is an acquire, and so is the load of an immortal count. Who
 *     reads the immortal count of the block's next object then also sees the slot change that came before: the
 *     last reference to the object that was in the slot is dropped by a compare-and-swap (it is published), which
 *     lies between that change and whatever is stored in the block later, and arm64 lets no later store
 *     overtake it. Of an object of our own only we ourselves can have changed the count.
 *     (models/litmus/orderings.toml: "tryref".)
 *   - After a rejected reference is dropped (which can run a finaliser or detach) everything is read
 *     anew.
 *   - If the slot is unchanged, the slot's own reference kept the object alive at some moment after
 *     the increment: the result is current as of then (linearisation point: the second load).
 * Progress: a retry means that a writer succeeded. Given ns_publish, `try` cannot fail on the object
 * that is in the slot, so no locked slow path is needed.
 *
 * ns_publish and ns_try_incref stand in cpython.h.
 */
#ifndef NS_TRYREF_H
#define NS_TRYREF_H

#include "interpreter/cpython.h"

typedef _Atomic(PyObject *) ns_ref;

/* A new reference to the slot's object, or NULL if the slot is NULL. Sequentially consistent. */
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

#endif
