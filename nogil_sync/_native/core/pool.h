/* pool.h: idle items kept per thread, taken from others when a thread has none.
 *
 * Overview
 *   The design of Go's sync.Pool (Dmitry Vyukov): for each thread slot (slots.h) a *shard*, with a place
 *   for one item and a deque (deque.h) for more. A thread takes from and puts into its own;
 *   if it has none it steals the oldest of another's. Shards are made when their thread first puts, and
 *   go on with the next holder of the slot; what a finished thread left lies where all can steal it.
 *
 *   Unlike Go's, the one place can be stolen from as well, since here nothing keeps a thread from being
 *   switched off between two calls; and ages are kept per item, in stamps, instead of by moving all
 *   into a second pool.
 *
 *     put   shard->item empty: a store. Else the new item takes its place and the old one goes into the
 *           deque, so that `get` returns the newest.
 *     get   shard->item by exchange with NULL, else pop, else steal: from each shard's deque, its item, and the
 *           deque again, so that an item that goes from the one to the other is not missed. One that is
 *           on its way at that moment can be, if yet another thread steals what replaced it, or if it is
 *           one that ns_pool_next puts back.
 *
 *   So get and put by turns, on one thread, are one exchange in its own cache, and nothing shared is
 *   written.
 *
 * An item is in one place
 *   shard->item goes from NULL to an item by its owner only, and from an item to anything else by an
 *   exchange, which returns each stored item to exactly one caller; for the deque see there.
 *
 * Ordering. An item is stored with release and taken with acquire, so who takes it sees what who put it
 * did. The stamp is stored before the item: who has acquired the item reads its stamp or a later one.
 *
 * Ages. `age` is a count that the owner of the pool increases (for Python: at each collection). An
 * item whose stamp is `age - NS_POOL_OLD` or less is old: ns_pool_next takes it out. From shard->item it is
 * taken before its stamp can be known for sure; if it turns out young it is put back, into the
 * caller's shard.
 *
 * A limit. With one, `reserved` counts the items in deques, plus the shards that have a reservation for
 * shard->item. A shard keeps it while its owner takes the item out and puts it back, which then
 * touches nothing shared. But the reservation goes with the item when that is stolen, and to whoever needs
 * one while the item is out. An owner that puts it back at just that moment has an item too many: the limit
 * is exact but for one item a thread.
 *
 * Memory. Shards are found through segments of pointers, which are made when needed and not moved; all
 * of it lives as long as the pool. Only deques have memory that is replaced (see there, and
 * ns_pool_collected).
 *
 * Fork. Each step leaves the words whole for a child whose other threads are gone; the item a thread
 * was moving right then is lost to the child. No locks.
 *
 * Python. No call here can detach or run the collector: for the collector they are one step.
 */
#ifndef NS_POOL_H
#define NS_POOL_H

#include "deque.h"
#include "slots.h"

enum { NS_POOL_FIRST = 64, NS_POOL_SEGMENTS = 11 };

/* An item is old when so many ages began after it was put. */
enum { NS_POOL_OLD = 2 };

/* A shard is due for a look at the clock and its memory after so many puts. */
enum { NS_POOL_ROUND = 64 };

typedef struct ns_pool_shard {
    _Alignas(NS_CACHE_LINE) _Atomic(void *) item;
    _Atomic uint32_t stamp; /* of the item; its owner's */
    _Atomic bool reserved;  /* there is room for the item: set by its owner, cleared by thieves */
    uint32_t countdown;     /* puts until it is due; its owner's */
    ns_deque deque;
} ns_pool_shard;

typedef _Atomic(ns_pool_shard *) ns_pool_place;

typedef struct ns_pool {
    /* Segment 0 is for the first 64 slots, and each that follows for as many as all before it. */
    _Atomic(ns_pool_place *) segments[NS_POOL_SEGMENTS];
    _Atomic uint32_t used; /* slots from this one on have no shard */
    _Atomic uint32_t age;
    _Atomic uint64_t collections; /* the `now` of deque.h */
    _Atomic int64_t aged; /* when the present age began, by ns_now() */
    _Atomic int64_t *reserved; /* in a cache line of its own; NULL: no limit */
    int64_t most; /* the limit */
} ns_pool;

/* Of zero bytes. most < 0: no limit. False without memory. */
bool ns_pool_init(ns_pool *p, int64_t most);
/* With no items left in it, and nobody else in a call. */
void ns_pool_destroy(ns_pool *p);

ns_pool_shard *ns_pool_find(ns_pool *p, uint32_t slot);
void *ns_pool_get_slow(ns_pool *p);
void *ns_pool_put_slow(ns_pool *p, void *item);

/* The calling thread's shard, or NULL. */
static inline ns_pool_shard *
ns_pool_mine(ns_pool *p)
{
    uint32_t slot = ns_slot();
    ns_pool_place *first = ns_load(&p->segments[0], NS_ACQUIRE);
    if (ns_likely(slot < NS_POOL_FIRST && first != NULL)) {
        return ns_load(&first[slot], NS_ACQUIRE);
    }
    return ns_pool_find(p, slot);
}

/* An item, now the caller's; or NULL if none was found. */
static inline void *
ns_pool_get(ns_pool *p)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (ns_likely(s != NULL && ns_load(&s->item, NS_RELAXED) != NULL)) {
        void *item = ns_swap(&s->item, NULL, NS_ACQUIRE);
        if (ns_likely(item != NULL)) {
            return item;
        }
    }
    return ns_pool_get_slow(p);
}

/* False if it is not so easy. */
static inline bool
ns_pool_put_fast(ns_pool *p, void *item)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (ns_likely(s != NULL && s->countdown > 1 && ns_load(&s->item, NS_RELAXED) == NULL &&
                  ns_load(&s->reserved, NS_RELAXED))) {
        s->countdown--;
        ns_store(&s->stamp, ns_load(&p->age, NS_RELAXED), NS_RELAXED);
        ns_store(&s->item, item, NS_RELEASE);
        return true;
    }
    return false;
}

/* Returns NULL if the item was kept, or one that has to go: this one, or an older one in its place. */
static inline void *
ns_pool_put(ns_pool *p, void *item)
{
    return ns_likely(ns_pool_put_fast(p, item)) ? NULL : ns_pool_put_slow(p, item);
}

/* After a slow put: whether this thread's shard is due. If so it is tidied, and the round begins anew. */
bool ns_pool_is_due(ns_pool *p);

/* Begins a new age if the present one has lasted for that long. Returns whether it did. */
bool ns_pool_grow_older(ns_pool *p, int64_t nanoseconds);
/* Begins a new age after a moment in which no thread was in a call on this pool. */
void ns_pool_collected(ns_pool *p);

/* For walks over all items: zero bytes to begin. */
typedef struct ns_pool_walk {
    uint32_t slot;
    bool began; /* with this slot's deque */
    int64_t left; /* in it, to be looked at */
} ns_pool_walk;

/* Takes out an item that is old, or with `all` any; NULL when it has been everywhere. Ends also if
 * others put at the same time. */
void *ns_pool_next(ns_pool *p, ns_pool_walk *walk, bool all);

/* How many items there are; exact when nobody is at it. */
int64_t ns_pool_count(ns_pool *p);

/* With nobody else in a call: visits each item once, until visit returns other than 0. */
int ns_pool_each(ns_pool *p, int (*visit)(void *item, void *argument), void *argument);

/* Bytes beyond the struct itself. */
size_t ns_pool_extra_size(ns_pool *p);

#endif
