/* limbo.h: words that threads took out of a structure, each with its stamp, until no reader can see
 * them any more.
 *
 * Overview
 *   These are the limbo lists of Fraser's epochs ("Practical lock-freedom", 2004), one for each
 *   structure and thread slot (slots.h, epoch.h). A thread adds what it took out to the list of its
 *   slot, and takes it out of there once its stamp is safe. So a thread frees what it deleted
 *   itself: if it made that, too, no cache line travels.
 *
 * A list is a ring. `first` and `end` count what was taken out and what was added since the list
 * was made; the word number n is in place n & mask.
 *
 *     add     by the thread that holds the slot, without a lock: store the place, then end + 1
 *     take    by any thread, under the list's lock: read the place, then store first + 1
 *     grow    by the thread that holds the slot, under the lock: copy to a ring twice as large
 *
 *   A list begins with NS_LIMBO_FIRST places and has NS_LIMBO_MAX at most. If it is full, or there
 *   is no memory, or the thread has no slot, the word stays where it is (ns_limbo_reserve returns
 *   NULL). Even then the thread must take out of its list (ns_limbo_find), or it stays full. A list
 *   lives as long as the structure. The next thread that holds the slot continues with it.
 *
 * Ordering. `end` is stored with release and read with acquire, so the thread that takes a word
 * sees the word and its stamp. `first` is stored with release and read with acquire, so the thread
 * that adds overwrites a place after it was read. A ring is replaced under the lock, and only the
 * slot's holder reads it without. A list and an array of places are published with release and read
 * with acquire.
 *
 * How much waits. A word that may go waits until its slot's holder takes out again, or
 * ns_limbo_take_any visits the list; or ns_limbo_take_left, if the holder has ended; or
 * ns_limbo_take_alone, by a thread that has become alone (slots.h).
 *
 * A lone thread adds nothing, since it frees at once. So `may_hold` tells it whether words are left
 * of the time before. A thread that reserves room sets it. A thread that has found all lists empty
 * resets it, and then looks whether it is alone: if so, no thread added since the look at the
 * lists, and any newcomer sees the reset and sets it again (slots.h, "The promise"). Else the
 * thread sets it again itself.
 *
 * Fork. One store adds a word, takes it out, or publishes a ring, a list or an array. The child has
 * the state before it or after it, whatever lock a thread that is gone held. Such a thread leaks at
 * most what it had in its hands.
 */
#ifndef NS_LIMBO_H
#define NS_LIMBO_H

#include "memory/epoch.h"
#include "waiting/lock.h"

#ifndef NS_LIMBO_FIRST
#define NS_LIMBO_FIRST 8 /* a power of two */
#endif
#ifndef NS_LIMBO_MAX
#define NS_LIMBO_MAX 128
#endif

typedef struct ns_limbo_place {
    _Atomic uintptr_t word;
    _Atomic uint64_t stamp;
} ns_limbo_place;

typedef struct ns_limbo_ring {
    uint32_t mask; /* the number of places, minus one */
    ns_limbo_place at[];
} ns_limbo_ring;

typedef struct ns_limbo_list {
    _Alignas(NS_CACHE_LINE) ns_lock lock;
    _Atomic uint32_t first; /* written under the lock */
    _Atomic uint32_t end; /* only the slot's holder writes it */
    _Atomic(ns_limbo_ring *) ring; /* only the slot's holder replaces it, under the lock */
    uint32_t looks; /* since ns_limbo_is_due last returned true; only the slot's holder uses it */
} ns_limbo_list;

/* Lists are found by slot as in segments.h. */
enum { NS_LIMBO_LISTS = 8, NS_LIMBO_SEGMENTS = 14 };

typedef _Atomic(ns_limbo_list *) ns_limbo_slot;

typedef struct ns_limbo_lists {
    _Atomic(ns_limbo_slot *) segments[NS_LIMBO_SEGMENTS]; /* NULL until made; never changes after */
} ns_limbo_lists;

/* Zero bytes have no lists. */
typedef struct ns_limbo {
    _Atomic(ns_limbo_lists *) lists; /* NULL until a word is added; never changes after */
    _Atomic bool may_hold; /* false: no list has a word, if the thread that reads it is alone */
} ns_limbo;

/* Returns the calling thread's list, with room for one word; NULL if that cannot be had. */
ns_limbo_list *ns_limbo_reserve(ns_limbo *l);

/* Returns the calling thread's list, which may be full; NULL if it has none yet. */
ns_limbo_list *ns_limbo_find(ns_limbo *l);

/* Adds a word to a list that the same thread has just reserved. */
static inline void
ns_limbo_add(ns_limbo_list *list, uintptr_t word, uint64_t stamp)
{
    const uint32_t end = ns_load(&list->end, NS_RELAXED);
    ns_limbo_ring *ring = ns_load(&list->ring, NS_RELAXED);
    ns_limbo_place *place = &ring->at[end & ring->mask];
    ns_store(&place->word, word, NS_RELAXED);
    ns_store(&place->stamp, stamp, NS_RELAXED);
    ns_store(&list->end, end + 1, NS_RELEASE);
}

/* Whether the slot's holder has called this `every` times since it last returned true, and some
 * word waits. Call it once for each word, whether the list had room for it or not. */
static inline bool
ns_limbo_is_due(ns_limbo_list *list, uint32_t every)
{
    if (++list->looks < every ||
        ns_load(&list->end, NS_RELAXED) == ns_load(&list->first, NS_RELAXED)) {
        return false;
    }
    list->looks = 0;
    return true;
}

/* Takes out words whose stamp is < safe, `room` at most. Returns how many. For the slot's holder
 * it costs a look at the oldest one if none may go. */
unsigned ns_limbo_take(ns_limbo_list *list, uint64_t safe, uintptr_t *words, unsigned room);

/* The same from all lists: for any thread. */
unsigned ns_limbo_take_any(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room);

/* The same from lists whose slot no thread holds. It does not touch the lists of living threads. */
unsigned ns_limbo_take_left(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room);

/* Whether ns_limbo_take_alone may find a word: for a thread that is alone. */
static inline bool
ns_limbo_may_hold(ns_limbo *l)
{
    return ns_load(&l->may_hold, NS_RELAXED);
}

/* The same from all lists, by a thread that was alone a moment ago. Once all are empty,
 * ns_limbo_may_hold returns false. */
unsigned ns_limbo_take_alone(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room);

/* How many words are in the lists. It is exact while no other thread adds or takes. */
size_t ns_limbo_count(ns_limbo *l);

/* Bytes of all lists. */
size_t ns_limbo_bytes(ns_limbo *l);

/* Calls visit for each word, until it returns nonzero; returns that, or 0. No other thread may be
 * in a call. */
int ns_limbo_visit(ns_limbo *l, int (*visit)(uintptr_t word, void *context), void *context);

/* Frees all lists, which must be empty: see ns_limbo_take_any. No thread may be using them. */
void ns_limbo_destroy(ns_limbo *l);

#endif
