/* rwmutex.h: a readers-writer lock whose readers share no cache line while no writer is about.
 *
 * Overview
 *   A read lock is one compare-and-swap on a counting word that has an OPEN bit beside its count:
 *   the lock's own *base* word, or, once readers have met there often enough, the *cell* of the
 *   reader's thread (cells.h). A writer closes the base, and the cells if they are in use. A closed
 *   word refuses readers, who then take the queue's lock and line up. So reading needs no fence and
 *   no second look: each word's own order of modifications decides whether a reader came before the
 *   writer or after. (The distributed counts are those of the "big-reader" locks of Linux and of
 *   Dice and Kogan's BRAVO, 2019; they announce the writer in one flag, which costs each reader a
 *   store, a full fence and a load. Closing the cells costs the writer one write for each cell
 *   there is, which it must read anyway.)
 *
 *   After a writer the readers stay on the base word for a while, and the cells stay closed, so
 *   that the writers that follow find one word only. BRAVO keeps to one word for N times the time
 *   that closing took. Here the unit is the transfer of a cache line, which needs no clock and is
 *   the same on every machine: closing cost one transfer for each cell, a reader that meets another
 *   in the base costs one, and the cells are used again after NS_RW_REOPEN_MEETINGS meetings for
 *   each cell that was closed. So whatever the mix, closing and opening cells adds at most 2 /
 *   NS_RW_REOPEN_MEETINGS to what the readers have paid for on the base word.
 *
 *   Fairness is by phases (Brandenburg and Anderson, 2010): a waiting writer keeps new readers out;
 *   when a writer leaves, all readers waiting at that moment get in before the next writer; when
 *   the last reader leaves, the first waiting writer gets in. A waiter whose thread runs signal
 *   handlers is in line like all others, unless such a handler uses the lock (wait.h).
 *
 * Holds are counted, not owned
 *   A hold may be released by any thread. The count is the sum of: the base word, the cells, and
 *   `granted` (holds that were handed to waiting readers, and downgraded ones). None of them is
 *   ever negative: a release that finds nothing in its own cell takes a hold from elsewhere, under
 *   the queue's lock, and if need be with all cells closed, so that "nothing is held" is exact and
 *   a wrong release changes nothing. So it does not matter that a thread may get another cell, or
 *   the readers another word, while it holds the lock.
 *
 * The base word:   count * UNIT | flags
 *
 *     OPEN    the base admits readers: no writer, no waiter, and the cells are not in use
 *     WRITER  a writer holds the lock; the cells are not in use
 *     SLOW    writers and their releases must take the queue's lock: there is a waiter, or there
 *             are holds elsewhere than in this word
 *
 *   OPEN alone is the free lock: one reader or writer takes it by compare-and-swap.
 *
 *   While there is a WRITER the count is that of no reader: the bits of the count are the tag of
 *   the thread that writes (thread_tag.h), or zero if the writer has no thread. Who takes the lock
 *   writes it by the same compare-and-swap, or who hands it over. A release takes the fast path if
 *   it finds its own tag; another is noted in `foreign`.
 *
 * A cell's word:   count * 2 | OPEN.   All zero: closed.
 *
 * Whether the cells are in use: `spread`, the table where readers look for their cells, or NULL.
 *
 *     NULL -> table    by a reader that has met enough others, with the queue locked and no
 *                      writer in; then the cells open
 *     table -> larger  by a reader that joins or has met enough others in its cell, likewise
 *     table -> NULL    by a writer that gets the lock: all cells are closed, and were counted, and
 *                      there is no hold
 *
 *   While it is NULL all cells are closed and zero, so a writer need not look at them. It only
 *   tells readers where to go: one that looked at it before a change finds a closed word, or an
 *   open one that every writer looks at.
 *
 * Field ownership. Base and cells: any thread, by compare-and-swap, while open; under the queue's
 * lock once closed. `base_meetings`: any reader, a lost one does not matter. Everything else: under
 * the queue's lock.
 *
 * Ordering. Readers take with acquire and leave with release on their word; the writer closes with
 * acquire (sees what readers did) and opens with release (they see what it did); `spread` as the
 * tables of cells.h; waiters are served through grant.h. tests/c/test_rwmutex.c has the mutants.
 *
 * Fork. Holds and WRITER belong to the program and survive; each slow step changes them one store
 * at a time, so that a child sees them before or after. The thread that finds the queue stale
 * recomputes what is derived (`spread`, `closed`, `readers`). There are no readers while there is a
 * WRITER: a hold that is counted all the same is that of a downgrade which was cut short, and is
 * forgotten.
 *
 * Waiting: in line (wait.h), readers and writers in a queue each, with one lock.
 */
#ifndef NS_RWMUTEX_H
#define NS_RWMUTEX_H

#include "memory/cells.h"
#include "waiting/thread_tag.h"
#include "waiting/wait.h"

enum {
    NS_RW_OPEN = 1,
    NS_RW_WRITER = 2,
    NS_RW_SLOW = 4,
    NS_RW_UNIT = 8,
};

enum { NS_RW_CELL_OPEN = 1, NS_RW_CELL_UNIT = 2 };

/* The words that every call reads stand in the middle: the counts of references before and
 * behind it then lie on other cache lines (rwmutex_type.c). */
typedef struct ns_rwmutex {
    ns_waitq queue;   /* waiting writers, and the lock of all that follows */
    uint64_t granted; /* read holds that are in no word */
    _Atomic uint64_t base;
    ns_cells spread;        /* the table that readers use; NULL: they use the base */
    ns_cells cells;         /* the current table */
    ns_waitq readers_queue; /* waiting readers; its own lock is not used */
    uint64_t downgraded;    /* of those granted, how many write.release() may take back */
    uint64_t readers;       /* all read holds; kept only while closed */
    _Atomic uint32_t base_meetings;
    _Atomic uint32_t last_closed; /* how many cells the last writer that closed any had to close */
    bool closed;
    _Atomic bool foreign; /* a thread other than the writer has released the write lock */
} ns_rwmutex;

void ns_rwmutex_init(ns_rwmutex *m); /* of zero bytes, before others see it */
void ns_rwmutex_destroy(ns_rwmutex *m);

/* The same as the functions below without _slow, out of line: with the queue's lock if need be. */
bool ns_rwmutex_try_read_slow(ns_rwmutex *m);
bool ns_rwmutex_read_unlock_slow(ns_rwmutex *m);
bool ns_rwmutex_try_write_slow(ns_rwmutex *m);
bool ns_rwmutex_write_unlock_slow(ns_rwmutex *m);

/* Takes a read hold. False if a writer holds the lock or waits for it. Acquires. */
static inline bool
ns_rwmutex_try_read(ns_rwmutex *m)
{
    ns_cell_table *table = ns_load(&m->spread, NS_ACQUIRE);
    if (table != NULL) {
        uint32_t slot = ns_slot();
        ns_cell *cell = ns_cells_at(table, slot);
        if (ns_likely(cell != NULL && ns_cell_is_of(cell, slot))) {
            uint64_t word = ns_load(&cell->word, NS_RELAXED);
            while (ns_likely(word & NS_RW_CELL_OPEN)) {
                if (ns_cas(&cell->word, &word, word + NS_RW_CELL_UNIT, NS_ACQUIRE)) {
                    return true;
                }
            }
        }
    }
    else {
        uint64_t word = NS_RW_OPEN;
        if (ns_likely(ns_cas(&m->base, &word, word + NS_RW_UNIT, NS_ACQUIRE))) {
            return true;
        }
    }
    return ns_rwmutex_try_read_slow(m);
}

/* Gives a read hold back. False, and nothing changed, if there is none. Releases. */
static inline bool
ns_rwmutex_read_unlock(ns_rwmutex *m)
{
    ns_cell_table *table = ns_load(&m->spread, NS_ACQUIRE);
    if (table != NULL) {
        ns_cell *cell = ns_cells_at(table, ns_slot());
        if (ns_likely(cell != NULL)) {
            uint64_t word = ns_load(&cell->word, NS_RELAXED);
            while (ns_likely(word & NS_RW_CELL_OPEN && word >= NS_RW_CELL_UNIT)) {
                if (ns_cas(&cell->word, &word, word - NS_RW_CELL_UNIT, NS_RELEASE)) {
                    return true;
                }
            }
        }
    }
    else {
        uint64_t word = NS_RW_OPEN | NS_RW_UNIT;
        if (ns_likely(ns_cas(&m->base, &word, word - NS_RW_UNIT, NS_RELEASE))) {
            return true;
        }
    }
    return ns_rwmutex_read_unlock_slow(m);
}

/* Takes the lock for writing. Fast path only: may fail spuriously. Acquires. */
static inline bool
ns_rwmutex_try_write_fast(ns_rwmutex *m)
{
    uint64_t word = NS_RW_OPEN;
    return ns_cas(&m->base, &word, ns_thread_tag() | NS_RW_WRITER, NS_ACQUIRE);
}

/* Takes the lock for writing. False if it is held, or another writer waits. Acquires. */
static inline bool
ns_rwmutex_try_write(ns_rwmutex *m)
{
    return ns_rwmutex_try_write_fast(m) || ns_rwmutex_try_write_slow(m);
}

/* Gives the write hold back, or the read hold that a downgrade made of it. False, and nothing
 * changed, if there is neither. Releases. */
static inline bool
ns_rwmutex_write_unlock(ns_rwmutex *m)
{
    uint64_t word = ns_thread_tag() | NS_RW_WRITER;
    return ns_cas(&m->base, &word, NS_RW_OPEN, NS_RELEASE) || ns_rwmutex_write_unlock_slow(m);
}

/* Turns the write hold into a read hold, and admits the readers waiting now. False if there is no
 * write hold. Releases. */
bool ns_rwmutex_downgrade(ns_rwmutex *m);

static inline bool
ns_rwmutex_is_write_locked(ns_rwmutex *m)
{
    return ns_load(&m->base, NS_RELAXED) & NS_RW_WRITER;
}

bool ns_rwmutex_is_read_locked(ns_rwmutex *m);

/* The tag of the thread that holds the write lock; 0 if there is none that is known. */
uint64_t ns_rwmutex_writer(ns_rwmutex *m);
/* How many wait for the side. Takes the queue's lock. */
size_t ns_rwmutex_waiters(ns_rwmutex *m, bool writes);

/* How to wait for either side (wait.h), after the try failed. */
extern const struct ns_wait_steps ns_rwmutex_read_steps, ns_rwmutex_write_steps;

/* Takes away all holds, and serves waiters; for the child of a fork. */
void ns_rwmutex_reset(ns_rwmutex *m);

/* Bytes beyond the struct itself. */
size_t ns_rwmutex_extra_size(ns_rwmutex *m);

#endif
