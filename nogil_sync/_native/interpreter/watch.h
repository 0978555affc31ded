/* watch.h: development mode's look-out for sharded objects whose reference count is fought over.
 *
 * A sharded object spreads its data over the cores, but a thread that did not create it and
 * calls `obj.method()` still adds to the one count in its header. Under -X dev each sharded object
 * gets a watch; its operations note in it how often it is used and how often the shared count
 * differs from the last time somebody looked. Threads that hold bound methods leave the count
 * alone, and a pinned object has none, so both remedies silence the watch; one thread alone
 * does too. After 100 000 uses with evidence of a fight one PerformanceWarning per creation
 * site is given, from a pending call of the main thread: never inside the operation.
 *
 * The notes are plain relaxed loads and stores: a lost one does not matter.
 *
 * From 3.14 on nothing is watched: such an object defers its count by itself (sharing.h), and a
 * warning that asks to pin it would be wrong.
 */
#ifndef NS_WATCH_H
#define NS_WATCH_H

#include "interpreter/sharing.h"

typedef struct ns_watch {
    _Atomic uint32_t uses;
    _Atomic uint32_t changes; /* of the shared count, between uses */
    _Atomic Py_ssize_t seen;  /* the shared count at the last use */
    _Atomic bool reported;
    int line;
    PyObject *filename;
} ns_watch;

/* For an object being created here: NULL outside development mode, or without memory. */
ns_watch *ns_watch_new(PyObject *self);
void ns_watch_free(ns_watch *w);
void ns_watch_use_slow(ns_watch *w, PyObject *self);

static inline void
ns_watch_use(ns_watch *w, PyObject *self)
{
#if NS_CAN_DEFER
    (void)w;
    ns_used(self);
#else
    if (ns_unlikely(w != NULL)) {
        ns_watch_use_slow(w, self);
    }
#endif
}

#endif
