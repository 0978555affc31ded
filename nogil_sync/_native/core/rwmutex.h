/* rwmutex.h: a readers-writer lock whose readers share no cache line while no writer is about.
 *
 * Overview
 *   A read lock is one compare-and-swap on a *cell*: the lock's own base cell as long as readers come
 *   one at a time, and from the first time two hold it at once a table of cells, one per thread
 *   slot (slots.h, counter.h). A cell has an OPEN bit beside its count. A writer closes every cell it finds;
 *   a closed cell refuses readers, who then take the queue's lock and line up. So reading
 *   needs no fence and no second look: each cell's own order of modifications decides
 *   whether a reader came before the writer or after. (The distributed counts are those of the
 *   "big-reader" locks of Linux and of Dice and Kogan's BRAVO, 2018; they announce the writer in one flag,
 *   which costs each reader a store, a full fence and a load. Closing the cells costs the
 *   writer one write for each cell that was ever used, which it must read anyway.)
 *
 *   Fairness is by phases (Brandenburg and Anderson, 2010): a waiting writer keeps new readers out; when a
 *   writer leaves, all readers waiting at that moment get in before the next writer; when the last
 *   reader leaves, the first waiting writer gets in. A waiter whose thread runs signal handlers is in
 *   line like all others, unless such a handler uses the lock (wait.h).
 *
 * Holds are counted, not owned
 *   A hold may be released by any thread. The count is the sum of: the base cell, the cells, and `granted`
 *   (holds that were handed to waiting readers, and downgraded ones). None of them is ever negative: a release
 *   that finds nothing in its own cell takes a hold from elsewhere, under the queue's lock, and if need
 *   be with all cells closed, so that "nothing is held" is exact and a wrong release changes nothing.
 *
 * The base word:   count * UNIT | flags
 *
 *     BORN    initialised; 0 refuses all fast paths
 *     OPEN    the base cell admits readers: no writer, nobody queued, not spread
 *     WRITER  a writer holds the lock
 *     SLOW    writers and their releases must take the queue's lock: somebody is queued, or there are
 *             holds elsewhere than in this word
 *     SPREAD  readers use the table; implies SLOW in effect, and never OPEN
 *
 *   BORN|OPEN is the free lock of one thread: reader and writer take it by compare-and-swap.
 *
 * A cell of the table:   count * 2 | OPEN.  All zero: closed. Cells from `used` on were never opened,
 * so a writer looks at as many as there were threads.
 *
 * Who writes what. Base and cells: anyone, by compare-and-swap, while open; under the queue's lock once
 * closed. Everything else: under the queue's lock.
 *
 * Ordering. Readers take with acquire and leave with release on their cell; the writer closes with
 * acquire (sees what readers did) and opens with release (they see what it did); waiters are served
 * through grant.h. tests/c/test_rwmutex.c has the mutants.
 *
 * Fork. Holds and WRITER belong to the program and survive; each slow step changes them one store
 * at a time, so that a child sees them before or after. Whoever finds the queue stale recomputes what
 * is derived (`closed`, `readers`); and as nobody reads while there is a WRITER, a hold that is counted all
 * the same is that of a downgrade which was cut short, and is forgotten.
 */
#ifndef NS_RWMUTEX_H
#define NS_RWMUTEX_H

#include "grant.h"
#include "slots.h"

enum {
    NS_RW_BORN = 1,
    NS_RW_OPEN = 2,
    NS_RW_WRITER = 4,
    NS_RW_SLOW = 8,
    NS_RW_SPREAD = 16,
    NS_RW_UNIT = 32,
};

enum { NS_RW_CELL_OPEN = 1, NS_RW_CELL_UNIT = 2 };

typedef struct ns_rwcell {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t word;
} ns_rwcell;

typedef struct ns_rwmutex {
    _Atomic uint64_t base;
    _Atomic(ns_rwcell *) cells; /* NULL until two readers met; then never changes */
    ns_waitq queue;             /* waiting writers, and the lock of all that follows */
    ns_waitq readers_queue;     /* waiting readers; its own lock is not used */
    uint64_t granted;           /* read holds that are in no cell */
    uint64_t downgraded;        /* of those, how many write.release() may take back */
    uint64_t readers;           /* all read holds; kept only while closed */
    uint32_t used;              /* cells below this may be open */
    bool closed;
} ns_rwmutex;

bool ns_rwmutex_init(ns_rwmutex *m); /* of zero bytes; false if it was initialised before */
void ns_rwmutex_destroy(ns_rwmutex *m);

bool ns_rwmutex_try_read_slow(ns_rwmutex *m);
bool ns_rwmutex_read_unlock_slow(ns_rwmutex *m);
bool ns_rwmutex_try_write_slow(ns_rwmutex *m);
bool ns_rwmutex_write_unlock_slow(ns_rwmutex *m);

static inline bool
ns_rwmutex_is_born(ns_rwmutex *m)
{
    return ns_load(&m->base, NS_ACQUIRE) & NS_RW_BORN;
}

/* Takes a read hold unless a writer holds the lock or waits for it. */
static inline bool
ns_rwmutex_try_read(ns_rwmutex *m)
{
    ns_rwcell *cells = ns_load(&m->cells, NS_ACQUIRE);
    if (cells != NULL) {
        _Atomic uint64_t *cell = &cells[ns_slot() & ns_slots_mask].word;
        uint64_t word = ns_load(cell, NS_RELAXED);
        while (ns_likely(word & NS_RW_CELL_OPEN)) {
            if (ns_cas(cell, &word, word + NS_RW_CELL_UNIT, NS_ACQUIRE)) {
                return true;
            }
        }
    }
    else {
        uint64_t word = NS_RW_BORN | NS_RW_OPEN;
        if (ns_likely(ns_cas(&m->base, &word, word + NS_RW_UNIT, NS_ACQUIRE))) {
            return true;
        }
    }
    return ns_rwmutex_try_read_slow(m);
}

/* False, and nothing changed, if nobody holds it for reading. */
static inline bool
ns_rwmutex_read_unlock(ns_rwmutex *m)
{
    ns_rwcell *cells = ns_load(&m->cells, NS_ACQUIRE);
    if (cells != NULL) {
        _Atomic uint64_t *cell = &cells[ns_slot() & ns_slots_mask].word;
        uint64_t word = ns_load(cell, NS_RELAXED);
        while (ns_likely(word & NS_RW_CELL_OPEN && word >= NS_RW_CELL_UNIT)) {
            if (ns_cas(cell, &word, word - NS_RW_CELL_UNIT, NS_RELEASE)) {
                return true;
            }
        }
    }
    else {
        uint64_t word = NS_RW_BORN | NS_RW_OPEN | NS_RW_UNIT;
        if (ns_likely(ns_cas(&m->base, &word, word - NS_RW_UNIT, NS_RELEASE))) {
            return true;
        }
    }
    return ns_rwmutex_read_unlock_slow(m);
}

/* The same for writing. This one may also fail just because it is not easy: whoever is going to
 * wait anyway finds out there. */
static inline bool
ns_rwmutex_try_write_fast(ns_rwmutex *m)
{
    uint64_t word = NS_RW_BORN | NS_RW_OPEN;
    return ns_cas(&m->base, &word, NS_RW_BORN | NS_RW_WRITER, NS_ACQUIRE);
}

/* Takes the lock for writing if nobody holds it and no other writer waits. */
static inline bool
ns_rwmutex_try_write(ns_rwmutex *m)
{
    return ns_rwmutex_try_write_fast(m) || ns_rwmutex_try_write_slow(m);
}

/* False, and nothing changed, if nobody holds it for writing (nor has downgraded it). */
static inline bool
ns_rwmutex_write_unlock(ns_rwmutex *m)
{
    uint64_t word = NS_RW_BORN | NS_RW_WRITER;
    return ns_cas(&m->base, &word, NS_RW_BORN | NS_RW_OPEN, NS_RELEASE) ||
           ns_rwmutex_write_unlock_slow(m);
}

/* Turns the write hold into a read hold, and admits the readers waiting now. False if there is none. */
bool ns_rwmutex_downgrade(ns_rwmutex *m);

static inline bool
ns_rwmutex_is_write_locked(ns_rwmutex *m)
{
    return ns_load(&m->base, NS_RELAXED) & NS_RW_WRITER;
}

bool ns_rwmutex_is_read_locked(ns_rwmutex *m);

/* How to wait for either side (wait.h), after the try failed. */
extern const struct ns_wait_steps ns_rwmutex_read_steps, ns_rwmutex_write_steps;

/* Frees both sides, for the child of a fork. */
void ns_rwmutex_reset(ns_rwmutex *m);

/* Bytes beyond the struct itself. */
size_t ns_rwmutex_extra_size(ns_rwmutex *m);

#endif
