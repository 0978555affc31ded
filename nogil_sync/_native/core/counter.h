/* counter.h: a 64-bit sum that threads add to without sharing a cache line.
 *
 * The design of Java's LongAdder (Doug Lea), with thread slots (slots.h) in place of hashing and
 * probing: a base word serves the first thread; when a second one comes, a table of cells is
 * published, a cell for each slot (modulo the table's size, four times the processors), each
 * NS_CACHE_LINE from the next. Adds go to the thread's own cell; a read sums.
 *
 * Cells are atomic words that are only ever added to (one fetch-and-add, uncontended and in the
 * adder's own cache) or, by reset, swapped for zero; so two threads whose slots
 * coincide modulo the size, or that have no slot, are merely slower, never wrong, and reset
 * counts each increment once. A finished thread's cell stays and the next holder
 * of its slot goes on with it: with positive adds each cell grows, and reads that follow
 * each other never decrease.
 *
 * Ordering: none is promised beyond each word's own; a total is exact for every add that
 * happened before the read (joined threads, for instance). The pointer to the table is published
 * with release and read with acquire, so that its zeroes are seen. If there is no memory for
 * the table the base goes on serving all.
 *
 * Doubles use the same words as bit patterns, added by compare-and-swap. +0.0 is all zero bits.
 */
#ifndef NS_COUNTER_H
#define NS_COUNTER_H

#include <string.h>

#include "atomics.h"
#include "slots.h"

typedef struct ns_cell {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t value;
} ns_cell;

typedef struct ns_counter {
    _Atomic uint64_t base;
    _Atomic(ns_cell *) cells; /* NULL until a second thread adds; then never changes */
    _Atomic uint32_t owner;   /* slot + 1 of the first thread that added; 0: none did */
} ns_counter;

_Atomic uint64_t *ns_counter_find_cell(ns_counter *c, uint32_t slot);

/* The word that the calling thread adds to. */
static inline _Atomic uint64_t *
ns_counter_cell(ns_counter *c)
{
    uint32_t slot = ns_slot();
    ns_cell *cells = ns_load(&c->cells, NS_ACQUIRE);
    if (cells != NULL) {
        return &cells[slot & ns_slots_mask].value;
    }
    if (ns_likely(ns_load(&c->owner, NS_RELAXED) == slot + 1)) {
        return &c->base;
    }
    return ns_counter_find_cell(c, slot);
}

static inline void
ns_counter_add(ns_counter *c, uint64_t n)
{
    ns_add(ns_counter_cell(c), n, NS_RELAXED);
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
    _Atomic uint64_t *cell = ns_counter_cell(c);
    uint64_t bits = ns_load(cell, NS_RELAXED);
    while (!ns_cas(cell, &bits, ns_bits_of(ns_double_of(bits) + n), NS_RELAXED)) {
    }
}

/* The sum; with reset, each word is swapped for zero as it is read. */
uint64_t ns_counter_sum(ns_counter *c, bool reset);
double ns_counter_sum_double(ns_counter *c, bool reset);

/* Bytes beyond the struct itself. */
size_t ns_counter_extra_size(ns_counter *c);
/* Whether more than one thread has added. */
static inline bool
ns_counter_is_shared(ns_counter *c)
{
    return ns_load(&c->cells, NS_RELAXED) != NULL;
}

/* Frees the table; nobody may be using the counter. */
void ns_counter_destroy(ns_counter *c);

#endif
