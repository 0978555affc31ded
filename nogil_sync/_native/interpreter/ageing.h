/* ageing.h: tells pools of each collection, and lets them release old items outside of it.
 *
 * The hook. One function stands in gc.callbacks of each interpreter, from the first import on. It
 * is never taken out, because CPython borrows a reference to a callback before it holds one. A
 * module that is imported again uses the existing hook. The hook runs inside the collector, at the
 * start of each collection, and must do next to nothing. It leaves a *sweeper* behind: an object
 * that refers to itself and to which nothing else refers. The collection that is just starting
 * finds that the sweeper is garbage and calls its finaliser: with the world running, on the thread
 * that collects, outside of the callbacks. The finaliser visits the pools, which release items. So
 * unused items go when the collector runs, even if no thread ever uses the pool again, and whatever
 * the main thread is doing (a pending call would wait for it).
 *
 * The finaliser first untracks the sweeper. The collector frees an object that its finaliser
 * untracked, but neither counts it nor keeps it (gc.DEBUG_SAVEALL). So `while gc.collect(): pass`
 * ends.
 *
 * One collection counts once, even if a sweeper of an earlier one was left over, or somebody called
 * the hook by hand: the first sweeper clears the note that the collection is under way.
 *
 * tp_traverse makes that note, once for each call of the hook. It runs with the world stopped, when
 * every thread has left its call of core/pool.h: that is the moment that deque.h counts. A
 * finaliser that is called by hand does nothing. So the world stood still between any two
 * finalisers that count.
 *
 * The list of pools. Threads push nodes by compare-and-swap; nodes are never unlinked and never
 * freed. A pool that dies gives its node back. A new pool takes a free node before it makes one,
 * beginning with the one that was given back last. So there are as many nodes as the max of pools
 * that existed at the same time, neither a walk nor a fork needs a lock, and thousands of pools do
 * not search in vain. The head is on the heap and stays there, for pools that outlive the module.
 *
 * Visits. A node must not keep its pool alive, and a walk cannot revive a pool that it finds there.
 * CPython itself revives a dying object for its finaliser and lets it die again. After that the
 * object's count no longer shows whether it is dying, while the end of its __dict__ still runs user
 * code. So a walk keeps only the pool's memory, by a count in the node:
 *
 *     0                          free
 *     TAKEN                      its pool is being made, or freed
 *     TAKEN | LIVE | n * VISIT   its pool lives; n walks are inside
 *     TAKEN | n * VISIT          its pool is dead; n > 0 walks are still inside
 *
 * A walk enters only while LIVE is set. The pool's dealloc clears LIVE; after that n only falls.
 * The step that brings the word down to TAKEN, dealloc's or the last walk's, frees the pool, and no
 * walk is inside then. Each step is sequentially consistent, so the thread that frees sees
 * everything that walks did.
 *
 * Fork. A walk of another thread at the moment of a fork never leaves in the child, which never
 * frees the memory of that one pool. (A stamp, as in core/waiting/lock.h, would also forget the
 * visit of a thread that forks inside `drop`, and that thread goes on.)
 */
#ifndef NS_AGEING_H
#define NS_AGEING_H

#include "module.h"

#include "core/atomics.h"

enum { NS_AGER_TAKEN = 1, NS_AGER_LIVE = 2, NS_AGER_VISIT = 4 };

typedef struct ns_ager_node {
    _Atomic uint32_t state; /* see above */
    struct ns_ager_node *next;
    struct ns_ager *ager; /* the one in whose list it is */
    /* Written before LIVE is set: */
    PyObject *pool; /* no reference */
    const struct ns_ager_calls *calls;
} ns_ager_node;

typedef struct ns_ager {
    _Atomic(ns_ager_node *) nodes;
    _Atomic(ns_ager_node *) hint; /* where a free node may be; NULL: anywhere */
    _Atomic uint32_t count;       /* of nodes */
    _Atomic uint32_t pools;       /* how many nodes are taken */
    _Atomic uint8_t stage; /* of the current collection, see below */
} ns_ager;

/* The hook sets BEGUN, tp_traverse changes it to PAUSED, and the first finaliser to IDLE. */
enum { NS_AGER_IDLE, NS_AGER_BEGUN, NS_AGER_PAUSED };

/* What the ager calls for a pool. Both may get a dead pool, of which only the memory remains. */
typedef struct ns_ager_calls {
    /* Once for each collection. Begins a new age and releases old items. May run any code; sets no
     * exception. */
    void (*collect)(PyObject *pool);
    /* Frees a dead pool that no walk is in. May run any code. */
    void (*free)(PyObject *pool);
} ns_ager_calls;

/* Takes a node for a pool that is being made. Returns NULL with MemoryError. */
ns_ager_node *ns_ager_take(ns_ager *a);
/* From now on each collection calls calls->collect(pool). */
void ns_ager_begin(ns_ager_node *node, PyObject *pool, const ns_ager_calls *calls);
/* For a dead pool: no walk enters any more. Returns true if no walk is inside, and then the caller
 * frees the pool. Else the last walk calls calls->free(pool). */
bool ns_ager_remove(ns_ager_node *node);
/* Makes the node free. The thread that took it calls this if the pool was not made, later the
 * thread that frees the pool. */
void ns_ager_release(ns_ager_node *node);

/* Returns the pool, whose memory stays until the call of ns_ager_leave. Returns NULL if the node
 * has no live pool. */
PyObject *ns_ager_enter(ns_ager_node *node);
void ns_ager_leave(ns_ager_node *node);

#endif
