/* ageing.h: tells pools of each collection, and lets them release what grew old, outside of it.
 *
 * One function stands in gc.callbacks, for each interpreter, from the import on (never taken out: CPython
 * borrows a callback before it holds it). It runs inside the collector, at the beginning of each
 * collection, and must do next to nothing. What it does is to leave behind a *sweeper*: an object that
 * refers to itself and to which nobody else refers. The collection that is just
 * beginning finds it to be garbage and runs its finaliser, as any other's: with the world running, on the
 * thread that collects, and outside of the callbacks. There the pools are visited, and items are
 * released. So items that nobody uses go when the collector runs, also if nobody ever calls the pool
 * again, and whatever the main thread is doing (a pending call would wait for it).
 *
 * One collection counts once, even if a sweeper of an earlier one was left over, or somebody called the
 * function by hand: the first sweeper takes the note that the collection is under way.
 *
 * That note is made by tp_traverse, once for each call of the function. It runs with the world stopped, when
 * every thread has left whatever call of core/pool.h it was in: the moment that deque.h counts. A
 * finaliser called by hand finds no note, and does nothing: between two that count the world stood still.
 *
 * The list of pools. Nodes are pushed by compare-and-swap, never unlinked and never freed; a pool that goes
 * empties its node, and a new one takes an empty node before it makes one, beginning with the one that was
 * emptied last. So there are as many as there ever were pools at the same time, neither walking nor a fork
 * needs a lock, and thousands of pools do not look for their places in vain. A node does not
 * own its pool: the walk takes a reference as tryref.h describes (the pool is published before it
 * is stored; a reference to a dying object cannot be had; the node is looked at again after).
 * The head is on the heap and stays there, for pools that outlive the module.
 */
#ifndef NS_AGEING_H
#define NS_AGEING_H

#include "tryref.h"

typedef struct ns_ager_node {
    ns_ref pool; /* borrowed; NULL: free */
    struct ns_ager_node *next;
} ns_ager_node;

typedef struct ns_ager {
    _Atomic(ns_ager_node *) nodes;
    _Atomic(ns_ager_node *) hint; /* where an empty one may be; NULL: anywhere */
    _Atomic uint32_t count;       /* of nodes */
    _Atomic uint32_t pools;       /* how many are in use */
    _Atomic uint8_t stage; /* of the present collection: see above */
} ns_ager;

/* From the function to tp_traverse, to the first finaliser. */
enum { NS_AGER_IDLE, NS_AGER_BEGUN, NS_AGER_PAUSED };

/* Each collection from now on calls ns_pool_collect(pool). NULL with MemoryError. */
ns_ager_node *ns_ager_add(ns_ager *a, PyObject *pool);
void ns_ager_remove(ns_ager *a, ns_ager_node *node);

/* In pool_type.c. May run any code; sets no exception. */
void ns_pool_collect(PyObject *pool);

#endif
