/* watch.h: development mode's look-out for sharded objects that threads contend for, on 3.13.
 *
 * A sharded object spreads its data over the cores, but a thread that did not create it and
 * calls `obj.method()` still adds to the one count in its header. Under -X dev each sharded object
 * gets a watch; its operations note in it how often it is used and how often the shared count
 * differs from the last time somebody looked. Threads that hold bound methods leave the count
 * alone, and a pinned object has none, so both remedies silence the watch; one thread alone
 * does too.
 *
 * Every NS_SAMPLE uses the watch also looks how the running line reaches the object (reach.h). If
 * two threads reach it by one holder, one bound method or one cell of a closure within
 * NS_MEETING_TIME, they contend for that.
 *
 * After 100,000 uses with evidence of a fight one PerformanceWarning per creation site is given, from a
 * pending call of the main thread: never inside the operation. It names all that was found.
 *
 * The notes are plain relaxed loads and stores: a lost one does not matter.
 *
 * From 3.14 on nothing is watched: such an object defers its count by itself (sharing.h), the
 * interpreter reads closures without a lock and borrows what it calls a method of. A
 * warning that asks to pin would be wrong.
 */
#ifndef NS_WATCH_H
#define NS_WATCH_H

#include "interpreter/sharing.h"

/* What threads contend for but the object's own count. */
enum ns_way { NS_HOLDER, NS_METHOD, NS_CELL, NS_WAYS };

typedef struct ns_watch {
    _Atomic uint32_t uses;
    _Atomic uint32_t changes; /* of the shared count, between uses */
    _Atomic Py_ssize_t seen;  /* the shared count at the last use */
    _Atomic bool reported;
    /* For each way the object, thread and time of the last sample, cut to one word, and how often two
     * threads met. */
    _Atomic uint64_t sample[NS_WAYS];
    _Atomic uint32_t meetings[NS_WAYS];
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
