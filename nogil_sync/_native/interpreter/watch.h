/* watch.h: development mode finds sharded objects that threads contend for, on 3.13.
 *
 * A sharded object spreads its data over the cores. But a thread that did not create it and calls
 * `obj.method()` still adds to the one count in its header. Under -X dev each sharded object gets a
 * watch. The object's operations note in it how often they are called and how often the shared
 * count differs from the one they saw last. Threads that hold bound methods leave the count alone,
 * and a pinned object has none, so both remedies silence the watch. So does a single thread.
 *
 * Every SAMPLE uses the watch also checks how the running line reaches the object (reach.h). If two
 * threads reach it through one holder, one bound method or one cell of a closure within
 * MEETING_TIME, they contend for that.
 *
 * After 100,000 uses with evidence of contention there is one PerformanceWarning per creation site,
 * from a pending call of the main thread: never inside the operation. It names everything that was
 * found.
 *
 * An object may be used before its __init__ attaches the watch, which is therefore published with
 * release and read with acquire. The notes are relaxed loads and stores. A lost one does not
 * matter.
 *
 * From 3.14 on nothing is watched. There such an object defers its count by itself (sharing.h), and
 * the interpreter reads closures without a lock and borrows the object whose method it calls. A
 * warning that asks to pin would be wrong.
 */
#ifndef NS_WATCH_H
#define NS_WATCH_H

#include "interpreter/sharing.h"

/* What threads contend for besides the object's own count. */
enum ns_way { NS_HOLDER, NS_METHOD, NS_CELL, NS_WAYS };

typedef struct ns_watch {
    _Atomic uint32_t uses;
    _Atomic uint32_t changes; /* how often the shared count had changed since the last use */
    _Atomic Py_ssize_t seen;  /* the shared count at the last use */
    _Atomic bool reported;
    /* For each way the object, thread and time of the last sample, cut to one word, and how often
     * two threads met. */
    _Atomic uint64_t sample[NS_WAYS];
    _Atomic uint32_t meetings[NS_WAYS];
    int line;
    PyObject *filename;
} ns_watch;

/* Where an object has its watch; NULL: it is not watched. */
typedef _Atomic(ns_watch *) ns_watch_place;

/* Attaches a watch to an object that the calling code creates. Does nothing outside development
 * mode, or if there is no memory. */
void ns_watch_attach(ns_watch_place *place, PyObject *self);
/* Frees the watch of an object that no other thread uses. */
void ns_watch_detach(ns_watch_place *place);
void ns_watch_use_slow(ns_watch *w, PyObject *self);

static inline void
ns_watch_use(ns_watch_place *place, PyObject *self)
{
#if NS_CAN_DEFER
    (void)place;
    ns_used(self);
#else
    ns_watch *w = ns_load(place, NS_ACQUIRE);
    if (ns_unlikely(w != NULL)) {
        ns_watch_use_slow(w, self);
    }
#endif
}

#endif
