/* deque.h: a stack for its owner; any thread may steal from its other end.
 *
 * This is the work-stealing deque of Chase and Lev ("Dynamic Circular Work-Stealing Deque", SPAA
 * 2005), with the orderings of Lê, Pop, Cohen and Zappa Nardelli ("Correct and Efficient
 * Work-Stealing for Weak Memory Models", PPoPP 2013). Each item carries a stamp, which tells old
 * items from new ones.
 *
 *     index:    0 ... top ............ bottom
 *               gone   steal ->  <- pop, push ->
 *
 * `top` and `bottom` are mere indices: item i lies in the entry i modulo the ring's size. The items
 * are those at top <= i < bottom. The owner pushes and pops at the bottom. `top` never decreases.
 *
 * Who writes what. The owner writes `bottom`, `ring`, `retired` and the entries. A thread that
 * takes an item at the top writes `top` by compare-and-swap: one success, one taker. The owner is
 * one thread at a time. A new owner must have seen everything that the one before it did (slots.h).
 *
 * Why no item is taken twice
 *   - Two thieves, or a thief and the owner at the last item: only one compare-and-swap of `top`
 *     succeeds.
 *   - The owner takes item b without a compare-and-swap if it reads top < b after it lowered
 *     `bottom` to b. A thief takes b only if it reads top == b and then bottom > b. The owner's
 *     lowering of `bottom`, its read of `top`, and a thief's reads of `top` and then `bottom` are
 *     sequentially consistent. If the owner read top < b, its read comes before `top` became b. So
 *     its lowering comes before the thief's read of `bottom`. That read then sees b (or an item
 *     that was pushed there later, which is another item). The exchange in `pop` is there for this:
 *     the processor would make a plain store visible only after the read.
 *   - A thief reads the entry before its compare-and-swap. The owner reuses the entry only after it
 *     saw top > i (acquire), and then that thief's compare-and-swap fails.
 *
 * Other orderings. Every store of `bottom` is a release and a thief's load of it an acquire, so
 * that the thief sees the entry and the item. The same holds for ring pointers, as the thief must
 * see the whole ring.
 *
 * Growth. The owner copies [top, bottom) into a ring twice as large and publishes it. A thief may
 * go on reading the old ring: its entry i does not change any more, and `top` decides as ever
 * whether item i is still there.
 *
 * Reclamation. The owner keeps replaced rings in a list and frees them when no thief can be reading
 * them. `now` counts moments at which no thread at all was inside a call of this file (for the
 * pool: pauses of the garbage collector). A thread may read the count a little before the moment it
 * counts, so a ring retired at n can be freed from n + 2 on. The owner replaces a ring by a smaller
 * one only when none is retired. So the retired rings take less than twice the memory of the
 * largest ring ever, even if nothing counts for long, or ever.
 *
 * Fork. The child may find that its owner vanished in the middle of a call. At worst a pop leaves
 * bottom == top - 1. Every reader takes that for empty, and the next push repairs it. The item that
 * was being moved is lost to the child, like everything else that the thread had in its hands. The
 * list of retired rings holds only whole rings that are not freed, after whichever step the owner
 * vanished: one store links a ring in, after its fields are set, and one store unlinks rings before
 * any of them is freed.
 *
 * Progress. The owner is wait-free except for growth. A thief retries only if another thread took
 * an item.
 */
#ifndef NS_DEQUE_H
#define NS_DEQUE_H

#include "atomics.h"

/* The size of a new deque's first ring. */
#ifndef NS_DEQUE_SIZE
#define NS_DEQUE_SIZE 32
#endif

typedef struct ns_deque_entry {
    _Atomic(void *) item;
    _Atomic uint32_t stamp;
} ns_deque_entry;

typedef struct ns_ring {
    int64_t mask;                    /* its size, a power of two, minus one */
    /* the next in the list of retired rings; the owner writes it */
    _Atomic(struct ns_ring *) older;
    uint64_t retired;                /* the owner's `now` when it retired the ring */
    ns_deque_entry entries[];
} ns_ring;

/* A deque of zero bytes is empty and has no ring. The struct begins a cache line of its own and
 * ends within the next one. Its user may put more fields there that only the owner writes. */
typedef struct ns_deque {
    _Atomic int64_t top;
    /* thieves write `top`; the owner writes the fields below */
    char apart[NS_CACHE_LINE - sizeof(int64_t)];
    _Atomic int64_t bottom;
    _Atomic(ns_ring *) ring;
    _Atomic(ns_ring *) retired;
} ns_deque;

/* ---- for the owner ---- */

/* Returns a ring with room for one item more than [top, bottom) holds, or NULL if there is no
 * memory. */
ns_ring *ns_deque_grow(ns_deque *d, int64_t top, int64_t bottom, uint64_t now);

/* Pushes an item; a release. Returns false, and changes nothing, if there is no memory. Stamps must
 * not decrease. */
static inline bool
ns_deque_push(ns_deque *d, void *item, uint32_t stamp, uint64_t now)
{
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED);
    int64_t top = ns_load(&d->top, NS_ACQUIRE);
    if (ns_unlikely(bottom < top)) { /* a fork cut off a pop */
        bottom = top;
    }
    if (ns_unlikely(ring == NULL || bottom - top > ring->mask)) {
        ring = ns_deque_grow(d, top, bottom, now);
        if (ring == NULL) {
            return false;
        }
    }
    ns_deque_entry *entry = &ring->entries[bottom & ring->mask];
    ns_store(&entry->item, item, NS_RELAXED);
    ns_store(&entry->stamp, stamp, NS_RELAXED);
    ns_store(&d->bottom, bottom + 1, NS_RELEASE);
    return true;
}

/* Lowers `bottom`, then reads `top`: both in the one order of all sequentially consistent
 * operations. */
static inline int64_t
ns_deque_lower(ns_deque *d, int64_t bottom)
{
#ifndef NS_DEQUE_LATE
    (void)ns_swap(&d->bottom, bottom, NS_SEQ_CST);
    return ns_load(&d->top, NS_SEQ_CST);
#else
    /* For tests: how a processor may treat a plain store. Others see it some time after the
     * read. */
    int64_t top = ns_load(&d->top, NS_SEQ_CST);
    for (int i = 0; i < 100; i++) {
        ns_pause();
    }
    ns_store(&d->bottom, bottom, NS_RELEASE);
    return top;
#endif
}

/* Pops the item that was pushed last. Returns NULL if there is none. */
static inline void *
ns_deque_pop(ns_deque *d)
{
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED) - 1;
    if (bottom < ns_load(&d->top, NS_RELAXED)) { /* empty, for `top` only grows */
        return NULL;
    }
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t top = ns_deque_lower(d, bottom);
    void *item = NULL;
    if (top <= bottom) {
        item = ns_load(&ring->entries[bottom & ring->mask].item, NS_RELAXED);
        if (top < bottom) {
            return item;
        }
        /* The last item: a thief may be taking it. */
        if (!ns_cas(&d->top, &top, top + 1, NS_SEQ_CST)) {
            item = NULL;
        }
    }
    ns_store(&d->bottom, bottom + 1, NS_RELEASE);
    return item;
}

/* Gives back memory that a burst of items needed, one step a call. */
void ns_deque_trim(ns_deque *d, uint64_t now);

/* ---- for any thread ---- */

/* Steals the oldest item if its stamp is at least `age` behind `stamp`; an acquire. Returns NULL if
 * there is none. */
void *ns_deque_steal(ns_deque *d, uint32_t stamp, uint32_t age);

/* The number of items; an estimate while other threads are in calls. */
static inline int64_t
ns_deque_count(ns_deque *d)
{
    int64_t top = ns_load(&d->top, NS_ACQUIRE);
    int64_t bottom = ns_load(&d->bottom, NS_ACQUIRE);
    return bottom > top ? bottom - top : 0;
}

size_t ns_deque_size(ns_deque *d); /* bytes in addition to the struct */

/* ---- only while no other thread is in a call ---- */

/* Calls visit for each item until it returns nonzero. Returns what the last call returned, or 0. */
int ns_deque_each(ns_deque *d, int (*visit)(void *item, void *argument), void *argument);

void ns_deque_destroy(ns_deque *d);

#endif
