/* pool.h: idle items, kept per thread; a thread that has none takes them from others.
 *
 * Overview
 *   The design of Go's sync.Pool (Dmitry Vyukov). For each thread slot (slots.h) there is a
 *   *shard*, with one word for one item (shard->item) and a deque (deque.h) for more. A thread gets
 *   from and puts into its own shard. If that is empty, it steals the oldest item of another shard.
 *   A thread's first put makes its shard. The next thread that holds the slot continues with the
 *   shard. What a finished thread left behind, any thread can steal.
 *
 *   There are two differences to Go's. Thieves can also take shard->item, because nothing keeps a
 *   thread from being switched off between two calls. And each item has its own age, in a stamp,
 *   instead of all items moving to a second pool.
 *
 *     put   shard->item is NULL: store the item there. Else the new item replaces the old one,
 *           which goes into the deque, so that `get` returns the newest.
 *     get   exchange shard->item with NULL, else pop, else steal: from each listed shard's
 *           deque, then its shard->item, then the deque again, so that the search does not miss
 *           an item that moves from the one to the other. It can still miss an item that moves
 *           at that moment if another thread steals its replacement, or if ns_pool_next puts
 *           it back.
 *
 *   So a thread that gets and puts by turns does one exchange in its own cache each time, and
 *   writes nothing shared.
 *
 *   Items in use. Suppose that threads get and put all the time, and there are fewer items than
 *   threads. They would steal from each other for ever: a pool makes a new item only if a search
 *   finds none, and hardly ever are all items out at the moment of a search. So a search treats
 *   shard->item with care if the shard's thread is alive. It notes the shard's count of puts,
 *   searches everywhere else, waits for less than a microsecond, and takes the item only if the
 *   count is the same. A refused put leaves the item idle, and is not counted. So the search still
 *   finds an item that is idle all the time. An item that was taken and put back meanwhile is not
 *   idle; if there is no other, the caller makes an item of its own.
 *
 * An item is in one place
 *   Only the owner changes shard->item from NULL to an item. It changes from an item to anything
 *   else only by an exchange, which returns each stored item to exactly one caller. For the deque
 *   see there.
 *
 * The list. A search visits only *listed* shards. For each 32 slots there is a word with a bit for
 * each listed shard. So a search costs one load for each 32 slots, and a visit to the shards of
 * living threads and to those with items, however many threads there were before.
 *
 *     word        count << 32 | bits          count: how often a shard was listed in it
 *     s->flags    NS_POOL_LISTED              the owner may store items: the bit is set
 *                 NS_POOL_LISTING             the owner is about to set the bit
 *
 *     list        by the owner, before it stores an item, if LISTED is not set:
 *                   flags |= LISTING;  word: set the bit and count += 1, by one compare-and-swap;
 *                   LISTING -> LISTED by a compare-and-swap; if LISTING is gone, start again
 *     unlist      by a search that found the shard empty and its slot not taken:
 *                   w = word;  clear the flags;  a full fence;
 *                   if the slot is still not taken, and the shard empty: word: w -> w without the
 *                   bit, by a compare-and-swap that fails if the count is another
 *
 *   Invariant: the bit of a shard with an item is set. Only the owner stores an item, and only
 *   after it saw LISTED. Suppose that an owner stores an item after it saw LISTED, and the bit is
 *   not set. The last listing L, by that owner or an earlier one, set the bit. So a later
 *   compare-and-swap U, of an unlisting, cleared it. U succeeded, so its unlisting read w after L,
 *   which incremented the count. That read is an acquire. So what L's thread did before L,
 *   including its LISTING, happens before the unlisting clears the flags.
 *     - If L's thread had not yet replaced LISTING by LISTED, its compare-and-swap fails, and it
 *       lists again: L was not the last.
 *     - Else the flags were cleared after that, and nobody has listed since. If an owner sees
 *       LISTED nevertheless, it must have loaded the flags before it could see them cleared. But
 *       the unlisting found the slot not taken after its fence. An owner that took the slot later
 *       has a full fence in its claim (slots.h), after which it sees the flags cleared. An owner
 *       that had the slot before has given it back. What it stored happens before the unlisting
 *       looks for items. So the unlisting finds its item, or the item was taken since.
 *   An owner that is alive is never unlisted. So it tests the flags before its store without a
 *   fence. The count could wrap around while a thread stands between w and its compare-and-swap:
 *   after 2^32 new threads put into the shards of that one word.
 *
 *   A fork can cut off a listing or an unlisting. It leaves LISTING, or a bit too many; the slot's
 *   next owner lists again.
 *
 * Ordering. An item is stored with release and taken with acquire, so the thread that takes it sees
 * what the thread that put it did. The stamp is stored before the item: a thread that has acquired
 * the item reads its stamp or a later one.
 *
 * Ages. The user of the pool increments `age` (Python does at each collection). An item whose stamp
 * is `age - NS_POOL_OLD` or less is old, and ns_pool_next takes it out. It takes an item from
 * shard->item before it can know the stamp for sure. If the item turns out to be young,
 * ns_pool_next puts it back, into the caller's shard.
 *
 * A limit. With a limit, `reserved` counts the items in deques, plus the shards that have a
 * reservation for shard->item (NS_POOL_RESERVED). A shard keeps its reservation while its owner
 * takes the item out and puts it back, which then touches nothing shared. The shard loses the
 * reservation in three ways: with the item when that is stolen; to any thread that needs a
 * reservation while the item is out; and when the shard is unlisted. An owner that puts its item
 * back at just that moment has one item too many. So the limit is exact except for one item a
 * thread.
 *
 * Memory. Shards are found through segments of places. A segment is made when it is needed and
 * never moves. All of this memory lives as long as the pool. Only deques replace memory (see there,
 * and ns_pool_collected). What every call reads (the pool itself, the places) is written only when
 * a thread puts for the first time or an age begins. A shard has two lines. Its owner writes one;
 * thieves write the deque's `top` in the other, and take items out of the first. The words of the
 * list have lines of their own.
 *
 * Fork. Each step leaves the words whole for a child whose other threads are gone. The child loses
 * the item that such a thread was moving at that moment. There are no locks.
 *
 * Python. No call here can let go of the interpreter or run the collector. For the collector each
 * call is one step.
 */
#ifndef NS_POOL_H
#define NS_POOL_H

#include "deque.h"
#include "memory/slots.h"

enum { NS_POOL_FIRST = 64, NS_POOL_SEGMENTS = 11 };

/* An item is old when this many ages have begun since it was put. */
enum { NS_POOL_OLD = 2 };

/* After this many puts a shard is due for a check of its age and its memory (ns_pool_is_due). */
enum { NS_POOL_ROUND = 64 };

/* How long a search waits to see whether an item is in use, in turns of a loop. It is a microsecond
 * or less. */
#ifndef NS_POOL_WAIT
#define NS_POOL_WAIT 1000
#endif

/* Flags of a shard. RESERVED: the limit allows the shard one item in shard->item. Its owner sets
 * it, and thieves clear it. */
enum {
    NS_POOL_RESERVED = 1,
    NS_POOL_LISTED = 2,
    NS_POOL_LISTING = 4,
    NS_POOL_READY = NS_POOL_RESERVED | NS_POOL_LISTED,
};

typedef struct ns_pool_shard {
    _Alignas(NS_CACHE_LINE) ns_deque deque;
    _Atomic(void *) item;
    _Atomic uint32_t stamp; /* of `item`; the owner writes it */
    _Atomic uint32_t flags;
    _Atomic uint32_t countdown; /* puts until the shard is due; the owner writes it */
} ns_pool_shard;

typedef _Atomic(ns_pool_shard *) ns_pool_place;

typedef struct ns_pool {
    /* Segment 0 has places for the first 64 slots. Each later one has as many as all before it. The
     * words of a segment's list lie before its places. */
    _Atomic(ns_pool_place *) segments[NS_POOL_SEGMENTS];
    _Atomic uint32_t used; /* no slot from this one on has a shard */
    _Atomic uint32_t age;
    _Atomic uint64_t collections; /* `now` of deque.h; written once a collection */
    _Atomic int64_t age_began; /* when the present age began, by ns_now() */
    _Atomic int64_t *reserved; /* see "A limit"; has a cache line of its own; NULL: no limit */
    int64_t max_items; /* the limit */
} ns_pool;

/* Initializes a pool of zero bytes. A negative max_items means no limit. Returns false if there is
 * no memory. */
bool ns_pool_init(ns_pool *p, int64_t max_items);
/* Frees the pool's memory. The pool must be empty, and no other thread in a call. */
void ns_pool_destroy(ns_pool *p);

ns_pool_shard *ns_pool_find(ns_pool *p, uint32_t slot);
void *ns_pool_get_slow(ns_pool *p);
void *ns_pool_put_slow(ns_pool *p, void *item);

/* The calling thread's shard, or NULL if it has none. */
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

/* Takes shard->item of the calling thread; an acquire. Returns NULL if it is empty. */
static inline void *
ns_pool_get_fast(ns_pool *p)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (ns_likely(s != NULL && ns_load(&s->item, NS_RELAXED) != NULL)) {
        return ns_swap(&s->item, NULL, NS_ACQUIRE);
    }
    return NULL;
}

/* Returns an item, which now belongs to the caller, or NULL if the search found none. An
 * acquire. */
static inline void *
ns_pool_get(ns_pool *p)
{
    void *item = ns_pool_get_fast(p);
    return ns_likely(item != NULL) ? item : ns_pool_get_slow(p);
}

/* Fast path only: may fail spuriously. A release. */
static inline bool
ns_pool_put_fast(ns_pool *p, void *item)
{
    ns_pool_shard *s = ns_pool_mine(p);
    uint32_t countdown = ns_likely(s != NULL) ? ns_load(&s->countdown, NS_RELAXED) : 0;
    if (ns_likely(countdown > 1 && ns_load(&s->item, NS_RELAXED) == NULL &&
                  ns_load(&s->flags, NS_RELAXED) == NS_POOL_READY)) {
        ns_store(&s->countdown, countdown - 1, NS_RELAXED);
        ns_store(&s->stamp, ns_load(&p->age, NS_RELAXED), NS_RELAXED);
        ns_store(&s->item, item, NS_RELEASE);
        return true;
    }
    return false;
}

/* Puts an item; a release. Returns NULL if the pool kept it. Else returns an item that the caller
 * must dispose of: this one, or an older one that it replaced. */
static inline void *
ns_pool_put(ns_pool *p, void *item)
{
    return ns_likely(ns_pool_put_fast(p, item)) ? NULL : ns_pool_put_slow(p, item);
}

/* To be called after a slow put. Returns whether the calling thread's shard is due. If so, trims
 * its deque and starts a new round. */
bool ns_pool_is_due(ns_pool *p);

/* Begins a new age if the present one has lasted for at least so long. Returns whether it did. */
bool ns_pool_grow_older(ns_pool *p, int64_t nanoseconds);
/* Begins a new age. There must have been a moment, since the last call, in which no thread was in a
 * call on this pool. */
void ns_pool_collected(ns_pool *p);

/* The state of a walk over all items. Zero bytes start a walk. */
typedef struct ns_pool_walk {
    uint32_t slot;
    bool entered; /* whether it has visited this slot's shard->item */
    int64_t left; /* items of this slot's deque still to be looked at */
} ns_pool_walk;

/* Takes out an item that is old, or with `all` any item. Returns NULL at the end of the walk. A
 * walk ends even if other threads put at the same time. */
void *ns_pool_next(ns_pool *p, ns_pool_walk *walk, bool all);

/* The number of items. It is exact while no other thread is in a call. */
int64_t ns_pool_count(ns_pool *p);

/* Calls visit for each item until it returns nonzero, and returns that, or 0. No other thread may
 * be in a call. */
int ns_pool_each(ns_pool *p, int (*visit)(void *item, void *argument), void *argument);

/* Bytes in addition to the struct. */
size_t ns_pool_extra_size(ns_pool *p);

#endif
