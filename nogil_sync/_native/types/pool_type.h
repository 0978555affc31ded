/* pool_type.h: the object Pool, and what pool_type.c offers pool_use.c. */
#ifndef NS_POOL_TYPE_H
#define NS_POOL_TYPE_H

#include "object.h" /* first: Python.h comes with it */

#include "core/pool.h"
#include "interpreter/ageing.h"
#include "interpreter/spares.h"
#include "interpreter/tryref.h"
#include "interpreter/watch.h"

typedef struct Pool {
    NS_OBJECT_HEAD
    ns_ager_node *node; /* where it is registered */
    PyObject *end;      /* an End, for a pool with `drop` */
    /* A cache line further on: what every call reads, and what is seldom written, unlike the
     * count. */
    ns_watch_place watch;
    ns_ref reset, new, drop; /* reset and drop may be NULL; None: cleared by the collector */
    ns_pool pool;
    ns_spares spare_uses;
    bool ages;
    /* the collector found it to be garbage, and `drop` was called for its items */
    _Atomic bool ended;
} Pool;

_Static_assert(offsetof(Pool, watch) >= NS_LINE || NS_LINE > 64, "a reader's line is the count's");

/* Takes an item out, or makes one. Returns a new reference, or NULL with an exception. */
PyObject *ns_pool_type_get_slow(PyObject *self);
static inline PyObject *
ns_pool_type_get(PyObject *self)
{
    PyObject *item = ns_pool_get_fast(&((Pool *)self)->pool);
    return ns_likely(item != NULL) ? item : ns_pool_type_get_slow(self);
}

/* Keeps an item that needs no reset, or releases it. Takes over the caller's reference. Returns 0,
 * or -1 with RuntimeError if __init__ has not run. */
int ns_pool_type_keep_slow(PyObject *self, PyObject *item);
static inline int
ns_pool_type_keep(PyObject *self, PyObject *item)
{
    return ns_likely(ns_pool_put_fast(&((Pool *)self)->pool, item))
               ? 0
               : ns_pool_type_keep_slow(self, item);
}

/* Resets an item and keeps or releases it. Takes over the caller's reference. Returns 0, or -1 with
 * an exception. */
int ns_pool_type_reset_and_keep(PyObject *self, PyObject *item);
static inline int
ns_pool_type_put(PyObject *self, PyObject *item)
{
    bool resets = ns_load(&((Pool *)self)->reset, NS_RELAXED) != NULL;
    return ns_unlikely(resets) ? ns_pool_type_reset_and_keep(self, item)
                               : ns_pool_type_keep(self, item);
}

/* Passes the item to `drop`, and releases it. */
void ns_pool_type_let_go(PyObject *self, PyObject *item);

/* pool_use.c: the method `use`, and the type of what it returns. */
PyObject *ns_pool_type_use(PyObject *self, PyObject *unused);
int ns_add_pool_use(PyObject *module);

#endif
