/* cells.h: words that threads use without sharing a cache line, made when threads meet.
 *
 * Overview
 *   The striping of Java's LongAdder (Doug Lea), by thread slots (slots.h) instead of hashes. An
 *   object begins with one word of its own. When threads have met there often enough, it gets a
 *   *table* with a power of two of places. Each place is empty or has a *cell*: a word in cache
 *   lines of its own. A thread uses the cell in the place of its slot modulo the size, and makes
 *   one if the place is empty. When threads meet in a cell, the table grows until they have places
 *   of their own. So the memory depends on the threads that contend for an object, and not on the
 *   processors of the machine.
 *
 * Meetings
 *   LongAdder grows when a compare-and-swap fails. A fetch-and-add cannot fail. So each word has
 *   its last user beside it, in the same cache line. The user has that line to itself anyway, so
 *   the check costs no transfer. A thread that finds another thread's slot there has just had the
 *   line transferred: that is a meeting. A cell is made after NS_CELL_MEETINGS of them, when the
 *   meetings have cost as much as the cell. By that rule (rent until you have paid the price, then
 *   buy) the total is never more than twice the min. Counting the threads that came would be
 *   simpler, but would give a cell to each of 64 threads that touch a seldom used object once.
 *
 * How large
 *   A table has at most ns_slots_mask + 1 places: four for every processor that the process may
 *   use, at least eight. Threads keep their cells while the system moves them between processors.
 *   With one place for every processor, two of three running threads would share a place with
 *   another one. In a table that cannot grow, a cell in which threads go on meeting belongs to
 *   NS_CELL_ANYBODY, and nobody counts meetings in it.
 *
 * A cell stays where it is, and is in every later table. A larger table has the same cells in the
 * same places, and beyond them empty places. An old table never changes once a larger one is
 * published, and is kept until the object is destroyed. So nobody has to know which threads still
 * read it; all old tables together are smaller than the current one. A thread with an old table
 * finds a cell that is in the current table as well, or an empty place, and then looks again. So a
 * walk through the current table sees every cell.
 *
 * Who writes what. Tables and places: under a lock, which is the object's. The word: as the object
 * wants. `user` and `meetings`: any thread, with relaxed loads and stores; a lost store does not
 * matter.
 *
 * What a thread must have for itself, as a pool's shard or a spare object, is not kept in cells,
 * because threads share cells: it is found by the thread's slot (segments.h).
 *
 * Ordering. A table is published with release and read with acquire, so that a reader sees its size
 * and its places. The same holds for a cell and its zeroes. Words have the ordering that their
 * object gives them.
 *
 * Fork. One store publishes a table or a cell. The child of a fork has the state before it or after
 * it, and a free lock (lock.h).
 *
 * If there is no memory, nothing is made: the thread shares the cell that is in its place, or gets
 * none and uses the object's own word.
 */
#ifndef NS_CELLS_H
#define NS_CELLS_H

#include "memory/slots.h"

#ifndef NS_CELL_MEETINGS /* tests shrink it */
#define NS_CELL_MEETINGS 16
#endif

/* In place of a cell's last user: any thread may use the cell, and meetings are not counted. */
#define NS_CELL_ANYBODY UINT32_MAX

typedef struct ns_cell {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t word;
    _Atomic uint32_t user;     /* slot + 1 of its last user, or NS_CELL_ANYBODY */
    _Atomic uint32_t meetings; /* since the last change of the table or of this place */
} ns_cell;

typedef struct ns_cell_table {
    struct ns_cell_table *older; /* the table that this one replaced */
    uint32_t mask;               /* the number of places, minus one */
    _Atomic(ns_cell *) at[];
} ns_cell_table;

/* The current table, or NULL. */
typedef _Atomic(ns_cell_table *) ns_cells;

/* The cell in the place of this slot, or NULL. */
static inline ns_cell *
ns_cells_at(ns_cell_table *table, uint32_t slot)
{
    return ns_load(&table->at[slot & table->mask], NS_ACQUIRE);
}

/* Whether the thread may use the cell without a meeting. */
static inline bool
ns_cell_is_of(ns_cell *cell, uint32_t slot)
{
    uint32_t user = ns_load(&cell->user, NS_RELAXED);
    return ns_likely(user == slot + 1) || user == NS_CELL_ANYBODY;
}

/* Counts a meeting. Returns true once there were `enough`. */
static inline bool
ns_cells_meet(_Atomic uint32_t *meetings, uint32_t enough)
{
    uint32_t count = ns_load(meetings, NS_RELAXED) + 1;
    ns_store(meetings, count, NS_RELAXED);
    return count >= enough;
}

/* A thread came to a cell that another thread used last. Returns true if it should join (below).
 * Returns false if it should use this cell, whose last user it is now. */
static inline bool
ns_cell_meet(ns_cell *cell, uint32_t slot)
{
    if (ns_cells_meet(&cell->meetings, NS_CELL_MEETINGS)) {
        return true;
    }
    ns_store(&cell->user, slot + 1, NS_RELAXED);
    return false;
}

/* The next cell from place *i on, or NULL at the end:
 *
 *     for (uint32_t i = 0; (cell = ns_cells_next(table, &i)) != NULL;)
 */
static inline ns_cell *
ns_cells_next(ns_cell_table *table, uint32_t *i)
{
    ns_cell *cell = NULL;
    while (cell == NULL && table != NULL && *i <= table->mask) {
        cell = ns_load(&table->at[(*i)++], NS_ACQUIRE);
    }
    return cell;
}

/* ---- Joining: the thread gets a cell, in a larger table if needed ---- */

/* What a thread makes before it takes the lock, because that allocates. */
typedef struct ns_cells_offer {
    ns_cell_table *seen;  /* the table at that time */
    ns_cell_table *table; /* a larger table to replace it, or NULL */
    ns_cell *cell; /* a cell for the thread's place if that is empty, or NULL */
} ns_cells_offer;

/* Makes an offer for a thread with this slot, which is not NS_NO_SLOT. `met` is the last user (slot
 * + 1) of the cell in the thread's place, or of the object's own word; 0 if that is not known. */
ns_cells_offer ns_cells_make_offer(ns_cells *cells, uint32_t slot, uint32_t met);

/* The caller holds the object's lock. Returns the cell that the thread is to use. Returns NULL if
 * no cell was offered for its place, because there was no memory or the table changed meanwhile;
 * the thread then uses the object's word this time, and joins again. If there is a cell in its
 * place already, the thread shares it with its other users: until they have met NS_CELL_MEETINGS
 * times, or for good if the table cannot grow. */
ns_cell *ns_cells_accept(ns_cells *cells, ns_cells_offer *offer, uint32_t slot);

/* Frees what was not accepted. Call it after the lock is released. */
void ns_cells_free_offer(ns_cells_offer *offer);

/* Bytes of all tables and cells. */
size_t ns_cells_size(ns_cells *cells);

/* Frees all tables and cells. No thread may be using them. */
void ns_cells_free(ns_cells *cells);

#endif
