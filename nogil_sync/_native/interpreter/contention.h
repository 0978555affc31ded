/* contention.h: records the waits of threads, for the contention profile (_common/contention.py).
 *
 * A thread that is about to wait makes a record: what it waits for, and its stack of calls. It does
 * so before it stands in line, so it holds up nobody. When the wait is over it adds the two times,
 * and pushes the record on the list of those that have ended. That allocates nothing and runs no
 * Python code: a thread that was just granted a lock must not meet an interrupt before its call
 * returns. A recorder of _common/contention.py takes the whole list, and makes Python objects of
 * it.
 *
 * Operations that are repeated because another thread was faster are recorded, too, without times.
 *
 * Nobody records while no profile runs. A call that need not wait never comes here, and one that
 * waits then pays one load. There is one switch for the process, and a list for each interpreter:
 * a thread of another interpreter than the one that profiles looks at the switch of its own, too.
 *
 * The list is Treiber's stack. It is only ever taken as a whole, so no thread reads a record that
 * another may free. A push releases and a take acquires, for the record's fields. A fork finds the
 * list whole; the child drops it (_common/contention.py).
 */
#ifndef NS_CONTENTION_H
#define NS_CONTENTION_H

#include "module.h"

#include "core/atomics.h"

/* One wait, from its begin on. Its own thread's until it is pushed. */
typedef struct ns_record ns_record;

typedef struct ns_recording {
    _Atomic bool on;
    _Atomic(ns_record *) ended; /* the latest first */
    PyObject *threads;          /* a dict: threads by their idents */
} ns_recording;

/* Whether any interpreter records. */
extern _Atomic uint32_t ns_recordings;

/* Begins a record, or returns NULL if there is nobody to read it, or no memory. Attached, with no
 * waiter in line. Keeps the current exception. `operation` is a literal. */
ns_record *ns_record_begin_slow(PyObject *self, const char *operation);
/* Ends it. Attached. */
void ns_record_end_slow(ns_record *r, bool served);
/* Drops it: there was no need to wait. Attached. */
void ns_record_drop_slow(ns_record *r);

static inline ns_record *
ns_record_begin(PyObject *self, const char *operation)
{
    return ns_unlikely(ns_load(&ns_recordings, NS_RELAXED) != 0)
               ? ns_record_begin_slow(self, operation)
               : NULL;
}

static inline void
ns_record_end(ns_record *r, bool served)
{
    if (ns_unlikely(r != NULL)) {
        ns_record_end_slow(r, served);
    }
}

static inline void
ns_record_drop(ns_record *r)
{
    if (ns_unlikely(r != NULL)) {
        ns_record_drop_slow(r);
    }
}

/* Records that a thread lost so many compare-and-swaps to others in this operation. Costs a load
 * unless a profile runs. Keeps the current exception. Attached. */
void ns_record_retries_slow(PyObject *self, const char *operation, uint32_t retries);

static inline void
ns_record_retries(PyObject *self, const char *operation, uint32_t retries)
{
    if (ns_unlikely(ns_load(&ns_recordings, NS_RELAXED) != 0)) {
        ns_record_retries_slow(self, operation, retries);
    }
}

/* For the module that is freed. */
void ns_recording_free(ns_recording *recording);

#endif
