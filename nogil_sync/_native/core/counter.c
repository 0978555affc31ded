#include "counter.h"

#include <stdlib.h>

static size_t
table_size(void)
{
    return (ns_slots_mask + 1) * sizeof(ns_cell);
}

static ns_cell *
spread(ns_counter *c)
{
    ns_cell *fresh = aligned_alloc(NS_CACHE_LINE, table_size()), *current = NULL;
    if (fresh == NULL) {
        return ns_load(&c->cells, NS_ACQUIRE);
    }
    memset(fresh, 0, table_size());
    /* Publishes our zeroes, or (acquire on failure) sees the winner's. */
    if (atomic_compare_exchange_strong_explicit(
            &c->cells, &current, fresh, memory_order_acq_rel, memory_order_acquire)) {
        return fresh;
    }
    free(fresh);
    return current;
}

_Atomic uint64_t *
ns_counter_find_cell(ns_counter *c, uint32_t slot)
{
    uint32_t owner = 0;
    if (ns_cas(&c->owner, &owner, slot + 1, NS_RELAXED)) {
        return &c->base;
    }
    ns_cell *cells = spread(c);
    return cells != NULL ? &cells[slot & ns_slots_mask].value : &c->base;
}

static inline uint64_t
take(_Atomic uint64_t *word, bool reset)
{
    return reset ? ns_swap(word, 0, NS_RELAXED) : ns_load(word, NS_RELAXED);
}

uint64_t
ns_counter_sum(ns_counter *c, bool reset)
{
    uint64_t sum = take(&c->base, reset);
    ns_cell *cells = ns_load(&c->cells, NS_ACQUIRE);
    for (uint32_t i = 0; cells != NULL && i <= ns_slots_mask; i++) {
        sum += take(&cells[i].value, reset);
    }
    return sum;
}

double
ns_counter_sum_double(ns_counter *c, bool reset)
{
    double sum = ns_double_of(take(&c->base, reset));
    ns_cell *cells = ns_load(&c->cells, NS_ACQUIRE);
    for (uint32_t i = 0; cells != NULL && i <= ns_slots_mask; i++) {
        sum += ns_double_of(take(&cells[i].value, reset));
    }
    return sum;
}

size_t
ns_counter_extra_size(ns_counter *c)
{
    return ns_counter_is_shared(c) ? table_size() : 0;
}

void
ns_counter_destroy(ns_counter *c)
{
    free(ns_load(&c->cells, NS_RELAXED));
}
