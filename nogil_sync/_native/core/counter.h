/* counter.h: a 64-bit sum that threads add to without sharing a cache line.
 *
 * This is the design of Java's LongAdder (Doug Lea) over the cells of cells.h. One base word serves
 * all threads as long as they seldom meet there, as a rule because there is only one thread. After
 * that each thread adds to a cell of its own. A read sums the base and the cells that exist.
 *
 * Base and cells are atomic words that change in two ways: an add (one fetch-and-add, uncontended
 * and in the adder's own cache), or a swap for zero by reset. So threads that share a cell, or have
 * no slot and use the base, are merely slower, never wrong, and reset counts each increment once.
 * No word ever leaves the sum, whatever grows meanwhile: a cell stays in each table that follows,
 * and a finished thread's cell passes to the next thread that holds its slot. So with positive adds
 * each word grows, and successive reads never decrease.
 *
 * Ordering: none beyond each word's own. A total is exact for every add that happened before the
 * read (by joined threads, for instance): such a read sees the table and the cell that the add
 * used. If there is no memory for a cell, the base goes on serving.
 *
 * Doubles use the same words as bit patterns, added by compare-and-swap. +0.0 is all zero bits.
 *
 * Fork: see cells.h. `lock` guards only the making of tables and cells, and ns_counter_set_double.
 */
#ifndef NS_COUNTER_H
#define NS_COUNTER_H

#include <string.h>

#include "memory/cells.h"
#include "waiting/lock.h"

typedef struct ns_counter {
    ns_cells cells; /* NULL until threads have met often enough in the base */
    _Atomic uint64_t base;
    _Atomic uint32_t user; /* slot + 1 of the thread that last added to the base; 0: none did */
    _Atomic uint32_t meetings; /* in the base; written with relaxed stores, some may be lost */
    ns_lock lock;
} ns_counter;

/* The word for the calling thread, which gets a slot if it has none; and the word for a thread with
 * this slot. Both may give the thread a cell. */
_Atomic uint64_t *ns_counter_word_slow(ns_counter *c);
_Atomic uint64_t *ns_counter_find_word(ns_counter *c, uint32_t slot);

/* The word that the calling thread adds to. A cell is seen with its zeroes (acquire). */
static inline _Atomic uint64_t *
ns_counter_word(ns_counter *c)
{
    uint32_t cached = ns_cached_slot; /* slot + 1; a thread without a slot takes the slow path */
    ns_cell_table *table = ns_load(&c->cells, NS_ACQUIRE);
    if (table == NULL) {
        if (ns_likely(cached != 0 && ns_load(&c->user, NS_RELAXED) == cached)) {
            return &c->base;
        }
    }
    else {
        ns_cell *cell = ns_cells_at(table, cached - 1);
        if (ns_likely(cell != NULL && ns_cell_is_of(cell, cached - 1))) {
            return &cell->word;
        }
    }
    return ns_counter_word_slow(c);
}

static inline void
ns_counter_add(ns_counter *c, uint64_t n)
{
    ns_add(ns_counter_word(c), n, NS_RELAXED);
}

static inline double
ns_double_of(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, sizeof(d));
    return d;
}

static inline uint64_t
ns_bits_of(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof(bits));
    return bits;
}

static inline void
ns_counter_add_double(ns_counter *c, double n)
{
    _Atomic uint64_t *word = ns_counter_word(c);
    uint64_t bits = ns_load(word, NS_RELAXED);
    while (!ns_cas(word, &bits, ns_bits_of(ns_double_of(bits) + n), NS_RELAXED)) {
    }
}

/* The sum. With reset, each word is swapped for zero as it is read. */
uint64_t ns_counter_sum(ns_counter *c, bool reset);
double ns_counter_sum_double(ns_counter *c, bool reset);
/* Replaces the sum. An add meanwhile comes before it or after it; a reader may see any part of the
 * old sum. Of several calls one after the other counts: they take `lock`. A fork meanwhile leaves
 * the child such a part. */
void ns_counter_set_double(ns_counter *c, double n);

/* Bytes in addition to the struct. */
static inline size_t
ns_counter_extra_size(ns_counter *c)
{
    return ns_cells_size(&c->cells);
}

/* Whether threads have met in the base so often that there are cells. */
static inline bool
ns_counter_is_shared(ns_counter *c)
{
    return ns_load(&c->cells, NS_RELAXED) != NULL;
}

/* Frees the cells. No thread may be using the counter. */
static inline void
ns_counter_destroy(ns_counter *c)
{
    ns_cells_free(&c->cells);
}

#endif
