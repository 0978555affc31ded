/* cells.h: words that threads use without sharing a cache line, made as threads meet.
 *
 * Overview
 *   The striping of Java's LongAdder (Doug Lea), by thread slots (slots.h) in place of hashes. An
 *   object begins with one word of its own. When threads have met there often enough, it gets a
 *   *table* with a power of two of places, each of which is empty or has a *cell*: a word in cache
 *   lines of its own. A thread uses the cell in the place of its slot modulo the size, and
 *   makes one if the place is empty. When threads meet in a cell, the table grows until they
 *   have places of their own. So memory follows the threads that fight over an object, and
 *   not the processors of the machine.
 *
 * Meetings
 *   LongAdder grows when a compare-and-swap fails. A fetch-and-add cannot fail, so beside each word
 *   stands its last user, in the same cache line, which the user has to itself: looking costs no
 *   transfer. A thread that finds another's slot there has just had that line transferred: a
 *   meeting. NS_CELL_MEETINGS of them pay for a cell, as one who rents for as long as he has not
 *   yet paid the price, and then buys, never pays more than twice the least. Counting threads
 *   that came would be simpler, but gives a cell to each of 64 threads that touch a seldom used
 *   object once.
 *
 * How large
 *   A table has at most ns_slots_mask + 1 places: four for every processor that the process may
 *   use, at least eight. Threads keep to their cells and are moved between processors: with one
 *   place for every processor, two of three running threads would find another one in theirs. In a
 *   table that cannot grow, a cell in which threads go on meeting belongs to NS_CELL_ANYBODY, and
 *   nobody counts meetings in it.
 *
 * A cell stays where it is, and in every table that follows its own: a larger table has the same
 * cells in the same places, and beyond them empty ones. An old table is never changed once a larger
 * one is published, and is kept until the object is destroyed, so nobody has to know who still
 * looks at it: all old tables together are smaller than the current one. A thread with an old table
 * finds a cell that is in the current table as well, or an empty place, and then looks again. So
 * a walk through the current table sees every cell there is.
 *
 * Who writes what. Tables and places: under a lock, which is the object's. The word: as the object
 * wants. `user` and `meetings`: anyone, with relaxed loads and stores; a lost one does not matter.
 *
 * Ordering. A table is published with release and read with acquire, so that its size and its
 * places are seen; a cell likewise, so that its zeroes are. Words have the ordering that their
 * object gives them.
 *
 * Fork. Publishing a table or a cell is one store each; the child of a fork made in between has the
 * one before or the one after, and a free lock (lock.h).
 *
 * Without memory nothing is made: the thread shares the cell that is in its place, or gets none and
 * uses the object's own word.
 */
#ifndef NS_CELLS_H
#define NS_CELLS_H

#include "memory/slots.h"

#ifndef NS_CELL_MEETINGS /* tests shrink it */
#define NS_CELL_MEETINGS 16
#endif

/* In place of a cell's last user: so many threads use it that none is worth noting. */
#define NS_CELL_ANYBODY UINT32_MAX

typedef struct ns_cell {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t word;
    _Atomic uint32_t user;     /* slot + 1 of its last user, or NS_CELL_ANYBODY */
    _Atomic uint32_t meetings; /* since the last change of the table or of this place */
} ns_cell;

typedef struct ns_cell_table {
    struct ns_cell_table *older; /* the one that this one replaced */
    uint32_t mask;               /* places, less one */
    _Atomic(ns_cell *) at[];
} ns_cell_table;

/* The current table; NULL: there is none. */
typedef _Atomic(ns_cell_table *) ns_cells;

/* The cell in the place of this slot, or NULL. */
static inline ns_cell *
ns_cells_at(ns_cell_table *table, uint32_t slot)
{
    return ns_load(&table->at[slot & table->mask], NS_ACQUIRE);
}

/* Whether the thread may use the cell without asking for more. */
static inline bool
ns_cell_is_of(ns_cell *cell, uint32_t slot)
{
    uint32_t user = ns_load(&cell->user, NS_RELAXED);
    return ns_likely(user == slot + 1) || user == NS_CELL_ANYBODY;
}

/* Notes a meeting; true once there were `enough`. */
static inline bool
ns_cells_meet(_Atomic uint32_t *meetings, uint32_t enough)
{
    uint32_t count = ns_load(meetings, NS_RELAXED) + 1;
    ns_store(meetings, count, NS_RELAXED);
    return count >= enough;
}

/* A thread came to a cell that another used last. True: it should join (below). False: it should
 * use this one, and is now its last user. */
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

/* ---- Joining: the thread gets a cell, if need be in a larger table. ---- */

/* What a thread brings along: made before the lock is taken, for making it allocates. */
typedef struct ns_cells_offer {
    ns_cell_table *seen;  /* the table as it was then */
    ns_cell_table *table; /* one to replace it, or NULL */
    ns_cell *cell; /* one for the thread's place if that is empty, or NULL */
} ns_cells_offer;

/* For a thread with this slot, which is not NS_NO_SLOT. `met` is the last user (slot + 1) of the
 * cell in the thread's place, or of the object's own word; 0 if that is not known. */
ns_cells_offer ns_cells_make_offer(ns_cells *cells, uint32_t slot, uint32_t met);

/* Under the object's lock. Returns the cell that the thread is to use, or NULL if none was offered
 * for its place: for want of memory, or because the table changed meanwhile. It then uses the
 * object's word this time, and joins again. A cell that is in its place already is shared with its
 * other users: as long as they meet less often than NS_CELL_MEETINGS times, or for good if the
 * table cannot grow. */
ns_cell *ns_cells_accept(ns_cells *cells, ns_cells_offer *offer, uint32_t slot);

/* Frees what was not accepted; after the lock is released. */
void ns_cells_free_offer(ns_cells_offer *offer);

/* Bytes of all tables and cells. */
size_t ns_cells_size(ns_cells *cells);

/* Frees all; nobody may be using them. */
void ns_cells_free(ns_cells *cells);

#endif
