#include "counter.h"

/* Gives the thread a cell. Returns its word, or the base if there is no memory or the table changed
 * meanwhile. */
static _Atomic uint64_t *
join(ns_counter *c, uint32_t slot, uint32_t met)
{
    ns_cells_offer offer = ns_cells_make_offer(&c->cells, slot, met);
    ns_lock_take(&c->lock);
    ns_cell *cell = ns_cells_accept(&c->cells, &offer, slot);
    ns_lock_release(&c->lock);
    ns_cells_free_offer(&offer);
    if (cell == NULL) {
        ns_store(&c->meetings, 0, NS_RELAXED); /* retry after as many meetings again */
        return &c->base;
    }
    return &cell->word;
}

_Atomic uint64_t *
ns_counter_find_word(ns_counter *c, uint32_t slot)
{
    if (slot == NS_NO_SLOT) {
        return &c->base;
    }
    ns_cell_table *table = ns_load(&c->cells, NS_ACQUIRE);
    uint32_t met = 0;
    if (table == NULL) {
        /* No cells yet: this thread is the first, or it meets another one in the base. */
        if (ns_cas(&c->user, &met, slot + 1, NS_RELAXED)) {
            return &c->base;
        }
        if (!ns_cells_meet(&c->meetings, NS_CELL_MEETINGS)) {
            ns_store(&c->user, slot + 1, NS_RELAXED);
            return &c->base;
        }
    }
    else {
        /* The place is empty, or another thread last used its cell. */
        ns_cell *cell = ns_cells_at(table, slot);
        if (cell != NULL) {
            met = ns_load(&cell->user, NS_RELAXED);
            if (!ns_cell_meet(cell, slot)) {
                return &cell->word;
            }
        }
    }
    return join(c, slot, met);
}

_Atomic uint64_t *
ns_counter_word_slow(ns_counter *c)
{
    return ns_counter_find_word(c, ns_slot());
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
    ns_cell_table *table = ns_load(&c->cells, NS_ACQUIRE);
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(table, &i)) != NULL;) {
        sum += take(&cell->word, reset);
    }
    return sum;
}

double
ns_counter_sum_double(ns_counter *c, bool reset)
{
    double sum = ns_double_of(take(&c->base, reset));
    ns_cell_table *table = ns_load(&c->cells, NS_ACQUIRE);
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(table, &i)) != NULL;) {
        sum += ns_double_of(take(&cell->word, reset));
    }
    return sum;
}

void
ns_counter_set_double(ns_counter *c, double n)
{
    ns_lock_take(&c->lock);
    ns_cell_table *table = ns_load(&c->cells, NS_ACQUIRE);
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(table, &i)) != NULL;) {
        ns_store(&cell->word, 0, NS_RELAXED);
    }
    ns_store(&c->base, ns_bits_of(n), NS_RELAXED);
    ns_lock_release(&c->lock);
}
