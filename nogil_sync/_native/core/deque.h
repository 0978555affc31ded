/* deque.h: a stack for its owner, from whose other end anyone may steal.
 *
 * The work-stealing deque of Chase and Lev ("Dynamic Circular Work-Stealing Deque", SPAA 2005),
 * with the orderings of Lê, Pop, Cohen and Zappa Nardelli ("Correct and Efficient Work-Stealing for
 * Weak Memory Models", PPoPP 2013). Each item carries a stamp, so that the old can be told from the
 * new.
 *
 *     index:    0 ... top ............ bottom
 *               gone   steal ->  <- pop, push ->
 *
 * `top` and `bottom` only name places; item i lies in slot i modulo the ring's size. The items are
 * those at top <= i < bottom. The owner pushes and pops at the bottom; `top` never decreases.
 *
 * Who writes what. `bottom`, `ring`, `retired` and the slots: the owner. `top`: whoever takes an
 * item there, by compare-and-swap; one success, one taker. The owner is one thread at a time: who
 * becomes it must have seen what the one before it did (slots.h).
 *
 * Why no item is taken twice
 *   - Two thieves, or a thief and the owner at the last item: one compare-and-swap of `top`
 *     succeeds.
 *   - The owner takes item b without one if it reads top < b after it lowered `bottom` to b. A
 *     thief takes b only if it reads top == b and then bottom > b. The lowering, the owner's read
 *     of `top`, and a thief's reads of `top` and then `bottom` are sequentially consistent. If the
 *     owner read top < b, its read comes before that top became b, so its lowering before the
 *     thief's read of `bottom`, which then sees b (or what was pushed there later, which is another
 *     item). This is what the exchange in `pop` is for: with a plain store, the processor makes it
 *     visible after the read.
 *   - A thief reads the slot before its compare-and-swap. The slot is reused only when the owner
 *     sees top > i (acquire), which then has failed that thief's compare-and-swap.
 *
 * Other orderings. Every store of `bottom` is a release and a thief's load an acquire, so that it
 * sees slot and item; ring pointers likewise, as the ring must be seen whole.
 *
 * Growth. The owner copies [top, bottom) into a ring twice as large and publishes it. A thief may
 * go on reading the old one: what it holds at index i does not change any more, and whether i is
 * still there is decided by `top` as ever.
 *
 * Reclamation. Replaced rings are kept in a list of the owner's, and freed when no thief can be
 * reading them. `now` counts moments at which no thread at all was inside a call of this file (for
 * the pool: pauses of the garbage collector). A count may be read a little before the moment it
 * tells of, so a ring retired at n is free from n + 2 on. A ring is replaced by a smaller one only
 * when none is retired: so those that are take less than twice as much as the largest ever did,
 * also where nothing counts for long, or ever.
 *
 * Fork. The child may find an owner gone amid a call. A pop leaves bottom == top - 1 in the worst
 * case, which every reader takes for empty, and the next push repairs; the item that was being
 * moved is lost to the child, like whatever else that thread had in its hands. The list of retired
 * rings holds only rings that are whole and not freed, whatever step of the owner is the last: a
 * ring is linked in by one store, after its fields are set, and rings are taken out by one store
 * before any of them is freed.
 *
 * Progress: owner wait-free but for growth; a thief retries only if another took an item.
 */
#ifndef NS_DEQUE_H
#define NS_DEQUE_H

#include "atomics.h"

/* Items in a ring when it is made. */
#ifndef NS_DEQUE_SIZE
#define NS_DEQUE_SIZE 32
#endif

typedef struct ns_deque_slot {
    _Atomic(void *) item;
    _Atomic uint32_t stamp;
} ns_deque_slot;

typedef struct ns_ring {
    int64_t mask;                    /* its size, a power of two, less one */
    _Atomic(struct ns_ring *) older; /* the list of retired ones; the owner's */
    uint64_t retired;                /* when */
    ns_deque_slot slots[];
} ns_ring;

/* All zero: empty, and without a ring. The struct begins a cache line of its own, and ends amid the
 * next one, where its user may put more that is the owner's. */
typedef struct ns_deque {
    _Atomic int64_t top;
    char apart[NS_CACHE_LINE - sizeof(int64_t)]; /* thieves write `top` */
    _Atomic int64_t bottom;
    _Atomic(ns_ring *) ring;
    _Atomic(ns_ring *) retired;
} ns_deque;

/* ---- the owner ---- */

/* A ring with room for one more than lies in [top, bottom), or NULL without memory. */
ns_ring *ns_deque_grow(ns_deque *d, int64_t top, int64_t bottom, uint64_t now);

/* False, and nothing changed, if there is no memory. Stamps must not decrease. */
static inline bool
ns_deque_push(ns_deque *d, void *item, uint32_t stamp, uint64_t now)
{
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED);
    int64_t top = ns_load(&d->top, NS_ACQUIRE);
    if (ns_unlikely(bottom < top)) { /* a pop that a fork cut off */
        bottom = top;
    }
    if (ns_unlikely(ring == NULL || bottom - top > ring->mask)) {
        ring = ns_deque_grow(d, top, bottom, now);
        if (ring == NULL) {
            return false;
        }
    }
    ns_deque_slot *slot = &ring->slots[bottom & ring->mask];
    ns_store(&slot->item, item, NS_RELAXED);
    ns_store(&slot->stamp, stamp, NS_RELAXED);
    ns_store(&d->bottom, bottom + 1, NS_RELEASE);
    return true;
}

/* Lowers `bottom`, then reads `top`; in the one order of all sequentially consistent operations. */
static inline int64_t
ns_deque_lower(ns_deque *d, int64_t bottom)
{
#ifndef NS_DEQUE_LATE
    (void)ns_swap(&d->bottom, bottom, NS_SEQ_CST);
    return ns_load(&d->top, NS_SEQ_CST);
#else
    /* What a processor makes of a plain store, for tests: it is seen some time after the read. */
    int64_t top = ns_load(&d->top, NS_SEQ_CST);
    for (int i = 0; i < 100; i++) {
        ns_pause();
    }
    ns_store(&d->bottom, bottom, NS_RELEASE);
    return top;
#endif
}

/* The item pushed last, or NULL. */
static inline void *
ns_deque_pop(ns_deque *d)
{
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED) - 1;
    if (bottom < ns_load(&d->top, NS_RELAXED)) { /* top only grows: it is empty */
        return NULL;
    }
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t top = ns_deque_lower(d, bottom);
    void *item = NULL;
    if (top <= bottom) {
        item = ns_load(&ring->slots[bottom & ring->mask].item, NS_RELAXED);
        if (top < bottom) {
            return item;
        }
        /* The last one: a thief may be after it. */
        if (!ns_cas(&d->top, &top, top + 1, NS_SEQ_CST)) {
            item = NULL;
        }
    }
    ns_store(&d->bottom, bottom + 1, NS_RELEASE);
    return item;
}

/* Gives back memory that a burst of items needed and that is not needed any more, a step at a
 * time. */
void ns_deque_trim(ns_deque *d, uint64_t now);

/* ---- anyone ---- */

/* The oldest item, if its stamp is at least `age` behind `stamp`; else NULL. */
void *ns_deque_steal(ns_deque *d, uint32_t stamp, uint32_t age);

/* How many items, more or less while others are at it. */
static inline int64_t
ns_deque_count(ns_deque *d)
{
    int64_t top = ns_load(&d->top, NS_ACQUIRE);
    int64_t bottom = ns_load(&d->bottom, NS_ACQUIRE);
    return bottom > top ? bottom - top : 0;
}

size_t ns_deque_size(ns_deque *d); /* bytes beyond the struct itself */

/* ---- with nobody else in a call ---- */

/* Calls visit for each item until it returns other than 0, and returns that. */
int ns_deque_each(ns_deque *d, int (*visit)(void *item, void *argument), void *argument);

void ns_deque_destroy(ns_deque *d);

#endif
