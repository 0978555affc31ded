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
 * function by hand: the first sweeper takes the note that the function left.
 *
 * By then the collection has stopped the world once, so that every thread has left whatever call of
 * core/pool.h it was in: the moment that deque.h counts.
 *
 * The list of pools. Nodes are pushed by compare-and-swap, never unlinked and never freed; a pool that goes
 * empties its node, and a new one takes an empty node before it makes one. So there are as many as
 * there ever were pools at the same time, and neither walking nor a fork needs a lock. A node does not
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
    _Atomic uint32_t pools; /* how many nodes are in use */
    _Atomic bool due; /* a collection began; set by the hook, cleared by the first sweeper */
} ns_ager;

/* Each collection from now on calls ns_pool_collect(pool). NULL with MemoryError. */
ns_ager_node *ns_ager_add(ns_ager *a, PyObject *pool);
void ns_ager_remove(ns_ager *a, ns_ager_node *node);

/* In pool_type.c. May run any code; sets no exception. */
void ns_pool_collect(PyObject *pool);

#endif
