/* channel_type.h: the inside of Channel, for select and the waits of asyncio. */
#ifndef NS_CHANNEL_TYPE_H
#define NS_CHANNEL_TYPE_H

#include "object.h" /* first: Python.h comes with it */

#include "core/channel.h"
#include "interpreter/sharing.h"

typedef struct {
    NS_OBJECT_HEAD
    _Atomic uint32_t producers; /* ChannelSenders that are not left yet: see channel_ends.c */
    char apart_from_header[76];
    ns_channel channel;
} ns_channel_object;

/* So each end has a line of its own, as objects of this size begin at a line. */
_Static_assert(offsetof(ns_channel_object, channel) == NS_CACHE_LINE, "ends begin at lines");

static inline ns_channel *
ns_channel_of(PyObject *self)
{
    return &((ns_channel_object *)self)->channel;
}

/* Sets ChannelClosed. */
void ns_channel_type_raise_closed(PyObject *self);

/* Takes the reference that goes through the ring.
 *
 * An object's count has a part that only its owner writes, without atomics, and a shared part.
 * Suppose that the reference for the receiver were taken in the owner's part, as Py_INCREF does in
 * the thread that made the item. The receiver drops it, and would bring the shared part below zero.
 * To repair that takes a lock, a queue, and an interruption of the owner. So if items travel to
 * other threads, the reference is taken in the shared part, as every thread but the owner takes it.
 * If they stay in their thread, that would be the slower way. So each end has a hint. `in` says
 * whether items travel. `out` counts down: for so many items that did not travel, travelling is
 * still assumed. The hints are written only as they change. */
#define NS_CHANNEL_BELIEVED 64

static inline bool
ns_channel_give(ns_channel *c, PyObject *item)
{
    if (ns_load(&c->in.hint, NS_RELAXED) != 0 && !ns_is_immortal(item)) {
        ns_incref_shared(item);
        return true;
    }
    Py_INCREF(item);
    return false;
}

/* Undoes ns_channel_give, in the same part. A plain subtraction would not do: other threads may
 * have dropped references meanwhile, and if that brings the shared part below zero, the owner must
 * merge the parts. */
static inline void
ns_channel_keep(PyObject *item, bool shared)
{
    if (shared) {
        ns_decref_shared(item);
    }
    else {
        Py_DECREF(item);
    }
}

/* Updates the hints by a received item. */
static inline void
ns_channel_note(ns_channel *c, PyObject *item)
{
    uint32_t believed = ns_load(&c->out.hint, NS_RELAXED);
    if (!ns_is_owned(item)) {
        if (believed != NS_CHANNEL_BELIEVED) {
            ns_store(&c->out.hint, NS_CHANNEL_BELIEVED, NS_RELAXED);
            /* the senders' line: write it only if needed */
            if (ns_load(&c->in.hint, NS_RELAXED) == 0) {
                ns_store(&c->in.hint, 1, NS_RELAXED);
            }
        }
    }
    else if (ns_unlikely(believed != 0)) {
        if (believed == 1) {
            ns_store(&c->in.hint, 0, NS_RELAXED);
        }
        ns_store(&c->out.hint, believed - 1, NS_RELAXED);
    }
}

/* What Channel.sending returns: a case of select. */
typedef struct {
    PyObject_HEAD
    PyObject *channel, *value; /* never NULL, and never change */
} ns_sending;

/* Methods that channel_ends.c defines. */
PyObject *ns_channel_type_sending(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames);
PyObject *ns_channel_type_sender(PyObject *self, PyObject *unused);

#endif
