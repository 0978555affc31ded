/* watch.h: development mode finds sharded objects whose reference count is contended.
 *
 * A sharded object spreads its data over the cores. But a thread that did not create it and calls
 * `obj.method()` still adds to the one count in its header. Under -X dev each sharded object gets a
 * watch. The object's operations note in it how often they are called and how often the shared
 * count differs from the one they saw last. Threads that hold bound methods leave the count alone,
 * and a pinned object has none, so both remedies silence the watch. So does a single thread. After
 * 100 000 uses with evidence of contention there is one PerformanceWarning per creation site, from
 * a pending call of the main thread: never inside the operation.
 *
 * The notes are relaxed loads and stores. A lost one does not matter.
 *
 * From 3.14 on nothing is watched. There such an object defers its count by itself (sharing.h), and
 * a warning that asks to pin it would be wrong.
 */
#ifndef NS_WATCH_H
#define NS_WATCH_H

#include "interpreter/sharing.h"

typedef struct ns_watch {
    _Atomic uint32_t uses;
    _Atomic uint32_t changes; /* how often the shared count had changed since the last use */
    _Atomic Py_ssize_t seen;  /* the shared count at the last use */
    _Atomic bool reported;
    int line;
    PyObject *filename;
} ns_watch;

/* For an object that the calling code creates. Returns NULL outside development mode, or if there
 * is no memory. */
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
