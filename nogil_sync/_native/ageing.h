/* ageing.h: tells pools of each collection, and lets them release what grew old, outside of it.
 *
 * One function stands in gc.callbacks, for each interpreter, from the first import on (never taken out: CPython
 * borrows a callback before it holds it; a module that is imported again uses the one that is there). It runs
 * inside the collector, at the beginning of each
 * collection, and must do next to nothing. What it does is to leave behind a *sweeper*: an object that
 * refers to itself and to which nobody else refers. The collection that is just
 * beginning finds it to be garbage and runs its finaliser, as any other's: with the world running, on the
 * thread that collects, and outside of the callbacks. There the pools are visited, and items are
 * released. So items that nobody uses go when the collector runs, also if nobody ever calls the pool
 * again, and whatever the main thread is doing (a pending call would wait for it).
 *
 * The finaliser first takes the sweeper away from the collector, which then frees it, but neither counts it nor
 * keeps it (gc.DEBUG_SAVEALL): so `while gc.collect(): pass` comes to an end.
 *
 * One collection counts once, even if a sweeper of an earlier one was left over, or somebody called the
 * function by hand: the first sweeper takes the note that the collection is under way.
 *
 * That note is made by tp_traverse, once for each call of the function. It runs with the world stopped, when
 * every thread has left whatever call of core/pool.h it was in: the moment that deque.h counts. A
 * finaliser called by hand finds no note, and does nothing: between two that count the world stood still.
 *
 * The list of pools. Nodes are pushed by compare-and-swap, never unlinked and never freed; a pool that goes
 * gives its node back, and a new one takes a free node before it makes one, beginning with the one that was
 * given back last. So there are as many as there ever were pools at the same time, neither walking nor a fork
 * needs a lock, and thousands of pools do not look for their places in vain.
 * The head is on the heap and stays there, for pools that outlive the module.
 *
 * Visits. A node must not keep its pool alive, and the walk cannot take a reference to a pool that it finds
 * there: the interpreter itself takes dying objects up and lets them go again (a finaliser of a
 * subclass, the end of its __dict__), and after that the count does not tell the dying from the living.
 * So a walk holds on to the pool's memory alone, by a count in the node:
 *
 *     0                          free
 *     TAKEN                      belongs to a pool that is being made, or freed
 *     TAKEN | LIVE | n * VISIT   a pool; n walks are inside
 *     TAKEN | n * VISIT          the pool is gone; n > 0 walks are still inside
 *
 * A walk enters only while LIVE is set. The pool's end clears it; after that n only falls, and who brings the
 * word down to TAKEN, the end itself or the last walk, frees the pool. One of them does, and nobody
 * is inside then. Each step is sequentially consistent, so who frees sees all that the walks did.
 *
 * Fork. A walk of another thread at the moment of a fork stays inside for ever in the child: the memory of that
 * one pool is not freed there. (A stamp, as in core/lock.h, would forget the visit of the thread that forks, in a
 * `drop`, and that one goes on.)
 */
#ifndef NS_AGEING_H
#define NS_AGEING_H

#include "module.h"

#include "core/atomics.h"

enum { NS_AGER_TAKEN = 1, NS_AGER_LIVE = 2, NS_AGER_VISIT = 4 };

typedef struct ns_ager_node {
    _Atomic uint32_t state; /* see above */
    struct ns_ager_node *next;
    struct ns_ager *ager; /* whose list it is in */
    PyObject *pool;       /* written before LIVE is set; no reference */
} ns_ager_node;

typedef struct ns_ager {
    _Atomic(ns_ager_node *) nodes;
    _Atomic(ns_ager_node *) hint; /* where a free one may be; NULL: anywhere */
    _Atomic uint32_t count;       /* of nodes */
    _Atomic uint32_t pools;       /* how many are in use */
    _Atomic uint8_t stage; /* of the present collection: see above */
} ns_ager;

/* From the function to tp_traverse, to the first finaliser. */
enum { NS_AGER_IDLE, NS_AGER_BEGUN, NS_AGER_PAUSED };

/* Each collection from now on calls ns_pool_collect(pool). NULL with MemoryError. */
ns_ager_node *ns_ager_add(ns_ager *a, PyObject *pool);
/* The pool is gone: nobody enters any more. True if nobody is inside; else the last one calls
 * ns_pool_free(pool). */
bool ns_ager_remove(ns_ager_node *node);
/* After the pool was removed and freed. */
void ns_ager_release(ns_ager_node *node);

/* The pool, whose memory is there until the call of `leave`; NULL if there is none. */
PyObject *ns_ager_enter(ns_ager_node *node);
void ns_ager_leave(ns_ager_node *node);

/* In pool_type.c. The pool may be one that has gone, but for its memory; for both of them. */
/* May run any code; sets no exception. */
void ns_pool_collect(PyObject *pool);
/* Nobody is inside. */
void ns_pool_free(PyObject *pool);

#endif
