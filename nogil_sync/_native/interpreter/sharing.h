/* sharing.h: objects of ours that many threads use begin to defer their reference count.
 *
 * Every use of an object by a thread that did not make it adds to the shared part of the object's
 * reference count. So all threads that use one object contend for one cache line. From 3.14 on an
 * object can defer its count: the interpreter then keeps references on its stacks without counting
 * them, and only the collector frees the object. For an object that serves all threads for long
 * that is right. For one that two threads share briefly (a lock or a WaitGroup for one request) it
 * is wrong, because nothing would free it at once. So an object begins to defer after NS_OFTEN uses
 * by threads that do not own it.
 *
 * States of an object
 *   owned by this thread   a use costs two loads and a compare
 *   foreign, counted       a use also adds one to `foreign_uses`, on a line that is contended
 *                          anyway
 *   foreign, deferred      the deferred bit in the header is set: one more load of a line that
 *                          no thread writes any more
 *
 * `foreign_uses` is read and written with relaxed loads and stores. A lost use only means that the
 * object begins to defer one use later.
 *
 * The owner of an object is the thread that made it, until that thread ends. After that no thread
 * owns it, and each use counts as foreign.
 *
 * On 3.13 there is no such call, and all this does nothing. There `pin` serves.
 */
#ifndef NS_SHARING_H
#define NS_SHARING_H

#include "interpreter/cpython.h"
#include "object.h"

#ifndef NS_OFTEN
#define NS_OFTEN 2000
#endif
_Static_assert(NS_OFTEN <= UINT16_MAX, "`foreign_uses` counts up to it");

#if NS_CAN_DEFER

void ns_used_elsewhere(PyObject *self);

/* Whether this use counts: the thread does not own the object, and the object does not defer
 * yet. */
static inline bool
ns_is_foreign_use(PyObject *self)
{
    return ns_unlikely(!ns_is_owned(self)) && !ns_is_deferred(self);
}

/* Counts a use. Each operation that threads may often repeat calls it. */
static inline void
ns_used(PyObject *self)
{
    if (ns_is_foreign_use(self)) {
        ns_used_elsewhere(self);
    }
}

#else

static inline void
ns_used(PyObject *self)
{
    (void)self;
}

#endif

#endif
