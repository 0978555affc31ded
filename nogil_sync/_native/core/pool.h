/* pool.h: idle items kept per thread, taken from others when a thread has none.
 *
 * Overview
 *   The design of Go's sync.Pool (Dmitry Vyukov): for each thread slot (slots.h) a *shard*, with a
 *   place for one item and a deque (deque.h) for more. A thread takes from and puts into its own;
 *   if it has none it steals the oldest of another's. Shards are made when their thread first puts,
 *   and go on with the next holder of the slot; what a finished thread left lies where all can
 *   steal it.
 *
 *   Unlike Go's, the one place can be stolen from as well, since here nothing keeps a thread from
 *   being switched off between two calls; and ages are kept per item, in stamps, instead of by
 *   moving all into a second pool.
 *
 *     put   shard->item empty: a store. Else the new item takes its place and the old one goes into
 *           the deque, so that `get` returns the newest.
 *     get   shard->item by exchange with NULL, else pop, else steal: from each listed shard's
 *           deque, its item, and the deque again, so that an item that goes from the one to the
 *           other is not missed. One that is on its way at that moment can be, if yet another
 *           thread steals what replaced it, or if it is one that ns_pool_next puts back.
 *
 *   So get and put by turns, on one thread, are one exchange in its own cache, and nothing shared
 *   is written.
 *
 *   Items in use. Threads that get and put all the time, with fewer items than threads, would go on
 *   stealing from each other for ever: hardly ever are all items out at the moment of a search,
 *   which is what it takes until there is one for each. So a search leaves an item alone that lies
 *   aside in the shard of a living thread and that this thread is using: it notes the shard's count
 *   of puts, looks everywhere else, waits for less than a microsecond, and takes the item only if
 *   the count is the same. A put that is refused leaves the item idle, and is not counted. An item
 *   that lies idle throughout the search is found as ever; one that was taken and put back
 *   meanwhile is not idle, and if there is nothing else the caller makes its own.
 *
 * An item is in one place
 *   shard->item goes from NULL to an item by its owner only, and from an item to anything else by
 *   an exchange, which returns each stored item to exactly one caller; for the deque see there.
 *
 * The list. A search looks only at shards that are *listed*: for each 32 slots there is a word,
 * with a bit for each listed shard. So a search costs a load for each 32 slots, and a look at the
 * shards of living threads and at those with items, however many threads there were before.
 *
 *     word        count << 32 | bits          count: how often a shard was listed in it
 *     s->flags    NS_POOL_LISTED              the owner may store items: the bit is set
 *                 NS_POOL_LISTING             the owner is about to set the bit
 *
 *     list        by the owner, before it stores an item, if LISTED is not set:
 *                   flags |= LISTING;  word: bit set and count += 1, by one compare-and-swap;
 *                   LISTING -> LISTED by a compare-and-swap; if LISTING is gone, all of it again
 *     unlist      by a search that found the shard empty and its slot not taken:
 *                   w = word;  clear the flags;  a full fence;
 *                   the slot is still not taken, and the shard empty: word: w -> w without the bit,
 *                   by a compare-and-swap that fails if the count is another
 *
 *   Invariant: the bit of a shard with an item is set. An item is stored by the owner only, after
 *   it saw LISTED. So suppose that an owner stores an item after it saw LISTED, and the bit is not
 *   set. Then a compare-and-swap U of an unlisting cleared it after that owner's, or an earlier
 *   owner's, last listing L set it: else the bit is set. U succeeded, so its unlisting read w after
 *   L, which counted up, and so (acquire) what L's thread did before L, its LISTING, happens before
 *   the clearing of the flags.
 *     - If L's thread had not yet made LISTED of it, it fails to, and lists again: L was not the
 *       last.
 *     - Else the flags were cleared after that, and nobody has listed since. So that an owner sees
 *       LISTED all the same, it must have loaded the flags before it could see them cleared. But
 *       the unlisting found the slot not taken after its fence. An owner that took the slot later
 *       has a full fence in its claim (slots.h), after which it sees the flags cleared. One that
 *       had it before has returned it: what it stored happens before the look for items, which
 *       would have found its item, or the item was taken since.
 *   An owner that is alive is never unlisted, so it tests the flags before its store, without a
 *   fence. The count could come round while a thread stands between w and its compare-and-swap:
 *   after 2^32 new threads put into the shards of that one word.
 *
 *   What a fork cuts off leaves LISTING, or a bit too many; the slot's next owner lists again.
 *
 * Ordering. An item is stored with release and taken with acquire, so the thread that takes it
 * sees what the thread that put it did. The stamp is stored before the item: a thread that has
 * acquired the item reads its stamp or a
 * later one.
 *
 * Ages. `age` is a count that the owner of the pool increases (for Python: at each collection). An
 * item whose stamp is `age - NS_POOL_OLD` or less is old: ns_pool_next takes it out. From
 * shard->item it is taken before its stamp can be known for sure; if it turns out young it is put
 * back, into the caller's shard.
 *
 * A limit. With one, `reserved` counts the items in deques, plus the shards that have a reservation
 * for shard->item (NS_POOL_RESERVED). A shard keeps it while its owner takes the item out and puts
 * it back, which then touches nothing shared. But the reservation goes with the item when that is
 * stolen, and to any thread that needs one while the item is out, and back when the shard is unlisted. An
 * owner that puts it back at just that moment has an item too many: the limit is exact but for one
 * item a thread.
 *
 * Memory. Shards are found through segments of places, which are made when needed and not moved;
 * all of it lives as long as the pool. Only deques have memory that is replaced (see there, and
 * ns_pool_collected). What every call reads (the pool itself, the places) is not written but when a
 * thread puts for the first time or an age begins. A shard has two lines: its owner writes one;
 * thieves write `top` of the deque in the other, and take items out of the first. The words of the
 * list have lines of their own.
 *
 * Fork. Each step leaves the words whole for a child whose other threads are gone; the item a
 * thread was moving right then is lost to the child. No locks.
 *
 * Python. No call here can detach or run the collector: for the collector they are one step.
 */
#ifndef NS_POOL_H
#define NS_POOL_H

#include "deque.h"
#include "memory/slots.h"

enum { NS_POOL_FIRST = 64, NS_POOL_SEGMENTS = 11 };

/* An item is old when so many ages began after it was put. */
enum { NS_POOL_OLD = 2 };

/* A shard is due for a look at the clock and its memory after so many puts. */
enum { NS_POOL_ROUND = 64 };

/* How long a search waits to see whether an item is in use, in turns of a loop: a microsecond or
 * less. */
#ifndef NS_POOL_WAIT
#define NS_POOL_WAIT 1000
#endif

/* Flags of a shard. RESERVED: there is room for the item; set by its owner, cleared by thieves. */
enum {
    NS_POOL_RESERVED = 1,
    NS_POOL_LISTED = 2,
    NS_POOL_LISTING = 4,
    NS_POOL_READY = NS_POOL_RESERVED | NS_POOL_LISTED,
};

typedef struct ns_pool_shard {
    _Alignas(NS_CACHE_LINE) ns_deque deque;
    _Atomic(void *) item;
    _Atomic uint32_t stamp; /* of the item; its owner's */
    _Atomic uint32_t flags;
    _Atomic uint32_t countdown; /* puts until it is due; its owner's */
} ns_pool_shard;

typedef _Atomic(ns_pool_shard *) ns_pool_place;

typedef struct ns_pool {
    /* Segment 0 is for the first 64 slots, and each that follows for as many as all before it.
     * Before the places of a segment lie the words of its list. */
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

/* The item aside in the calling thread's shard, if there is one. */
static inline void *
ns_pool_get_fast(ns_pool *p)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (ns_likely(s != NULL && ns_load(&s->item, NS_RELAXED) != NULL)) {
        return ns_swap(&s->item, NULL, NS_ACQUIRE);
    }
    return NULL;
}

/* An item, now the caller's; or NULL if none was found. */
static inline void *
ns_pool_get(ns_pool *p)
{
    void *item = ns_pool_get_fast(p);
    return ns_likely(item != NULL) ? item : ns_pool_get_slow(p);
}

/* False if it is not so easy. */
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

/* Returns NULL if the item was kept, or one that has to go: this one, or an older one in its
 * place. */
static inline void *
ns_pool_put(ns_pool *p, void *item)
{
    return ns_likely(ns_pool_put_fast(p, item)) ? NULL : ns_pool_put_slow(p, item);
}

/* After a slow put: whether this thread's shard is due. If so it is tidied, and the round begins
 * anew. */
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
