#include "memory/cells.h"

#include "memory/segments.h"

/* The size of a first table. With its header it fits in one cache line. */
#define FIRST 4

/* Every operation reads a table. So it has whole lines, without frequent writes beside it. */
static size_t
table_bytes(uint32_t size)
{
    size_t bytes = sizeof(ns_cell_table) + size * sizeof(_Atomic(ns_cell *));
    return (bytes + NS_LINE - 1) / NS_LINE * NS_LINE;
}

static ns_cell_table *
new_table(uint32_t size)
{
    ns_cell_table *table = ns_zeroed(NS_LINE, table_bytes(size));
    if (table != NULL) {
        table->mask = size - 1;
    }
    return table;
}

/* The min size that gives the two slots different places, or the max size. */
static uint32_t
size_that_parts(uint32_t size, uint32_t slot, uint32_t other)
{
    while (size <= ns_slots_mask && ((slot ^ other) & (size - 1)) == 0) {
        size *= 2;
    }
    return size;
}

ns_cells_offer
ns_cells_make_offer(ns_cells *cells, uint32_t slot, uint32_t met)
{
    ns_cells_offer offer = {.seen = ns_load(cells, NS_ACQUIRE)};
    ns_cell_table *seen = offer.seen;
    uint32_t size = seen != NULL             ? seen->mask + 1
                    : FIRST <= ns_slots_mask ? FIRST
                                             : ns_slots_mask + 1;
    const bool is_known = met != 0 && met != slot + 1 && met != NS_CELL_ANYBODY;
    if (is_known && (seen == NULL || ns_cells_at(seen, slot) != NULL)) {
        size = size_that_parts(size, slot, met - 1);
    }
    if (seen == NULL || size > seen->mask + 1) {
        offer.table = new_table(size);
    }
    ns_cell_table *table = offer.table != NULL ? offer.table : seen;
    if (table != NULL) {
        uint32_t place = slot & table->mask;
        if (seen == NULL || place > seen->mask || ns_cells_at(seen, place) == NULL) {
            offer.cell = ns_zeroed(NS_CACHE_LINE, sizeof(ns_cell));
        }
    }
    return offer;
}

/* Replaces the table by a larger one, with all cells in the same places. */
static void
replace(ns_cells *cells, ns_cell_table *old, ns_cell_table *fresh)
{
    fresh->older = old;
    for (uint32_t i = 0; old != NULL && i <= old->mask; i++) {
        ns_store(&fresh->at[i], ns_load(&old->at[i], NS_RELAXED), NS_RELAXED);
    }
    ns_store(cells, fresh, NS_RELEASE);
}

ns_cell *
ns_cells_accept(ns_cells *cells, ns_cells_offer *offer, uint32_t slot)
{
    ns_cell_table *table = ns_load(cells, NS_RELAXED);
    bool grown = false;
    if (table == offer->seen && offer->table != NULL) {
        replace(cells, table, offer->table);
        table = offer->table;
        offer->table = NULL;
        grown = true;
    }
    if (table == NULL) {
        return NULL;
    }
    _Atomic(ns_cell *) *place = &table->at[slot & table->mask];
    ns_cell *cell = ns_load(place, NS_RELAXED);
    if (cell == NULL) {
        cell = offer->cell;
        offer->cell = NULL;
        if (cell != NULL) {
            ns_store(&cell->user, slot + 1, NS_RELAXED);
            ns_store(place, cell, NS_RELEASE);
        }
        return cell;
    }
    /* Another thread's cell is in this place: take it over, or share it. */
    const bool for_good = !grown && table->mask >= ns_slots_mask &&
                          ns_load(&cell->meetings, NS_RELAXED) >= NS_CELL_MEETINGS;
    if (ns_load(&cell->user, NS_RELAXED) != NS_CELL_ANYBODY) {
        ns_store(&cell->user, for_good ? NS_CELL_ANYBODY : slot + 1, NS_RELAXED);
    }
    ns_store(&cell->meetings, 0, NS_RELAXED);
    return cell;
}

void
ns_cells_free_offer(ns_cells_offer *offer)
{
    free(offer->table);
    free(offer->cell);
}

size_t
ns_cells_size(ns_cells *cells)
{
    ns_cell_table *table = ns_load(cells, NS_ACQUIRE);
    size_t size = 0;
    for (uint32_t i = 0; ns_cells_next(table, &i) != NULL;) {
        size += sizeof(ns_cell);
    }
    for (; table != NULL; table = table->older) {
        size += table_bytes(table->mask + 1);
    }
    return size;
}

void
ns_cells_free(ns_cells *cells)
{
    ns_cell_table *table = ns_load(cells, NS_RELAXED), *older;
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(table, &i)) != NULL;) {
        free(cell);
    }
    for (; table != NULL; table = older) {
        older = table->older;
        free(table);
    }
}
