/* cache.h: a bounded map whose hits take no lock and write to nothing that is already set.
 *
 * 1. Overview. The entries are in a table (table.h), and in the queues of an eviction policy. A
 * word of the table's key leads to an ns_cache_entry, which has the user's key, the deadline and
 * the links of the queues; the table's value is the user's value. So a hit is a hit of the table,
 * and reads one more cache line: the entry's. Whatever stores or removes an entry holds the cache's
 * lock, and takes locks of the table under it. Without it the table is locked only to free dead
 * entries (ns_table_settle), so its locks are nearly always free.
 *
 * 2. Policy. After S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
 * 2023).
 *
 *        new key  ->  small queue  --used-->  main queue  --used--> round again
 *                        |                        |
 *                        +------- not used -------+---->  evicted; its hash goes to the ghosts
 *
 *    An entry's `uses` goes up to NS_CACHE_USES with its hits, and is halved each time the hand
 *    of the main queue passes. A key whose hash is still among the ghosts, twice as many as there
 *    are entries, is an entry that came back. Two changes to S3-FIFO:
 *    - The duels. A candidate for a full main queue meets the oldest entries there, one after the
 *      other: up to eight, by its own uses; one if it only came back. It replaces the first that
 *      was not used since the hand passed it last. Each other goes round once more with half of its
 *      uses. A candidate that finds none goes round in the small queue if it was used twice, or is
 *      evicted. (The admission of TinyLFU, Einziger, Friedman and Manes, ACM TOS 2017, with the
 *      entries' own counts in place of a sketch.) So a loop that is larger than the cache, or a
 *      scan, does not displace what is in use, and new favourites displace old ones.
 *    - Entries come to the main queue with one use, so that each stays for one round there. Else a
 *      loop would evict each just before it is wanted.
 *    Until there are entries for the main queue the small one has its place: the cache is a FIFO
 *    queue. It would have no hits at all on a loop that is longer than the ghosts' memory. So when
 *    as many candidates as there are entries were not used, one after the other (`idle`), more of
 *    them move to the main queue, as far as it has room, and stay while the loop goes round.
 *    The share of the small queue moves, from a tenth of the limit, between a twentieth and four
 *    fifths of it. What comes back when it has only just been evicted would have been a hit if its
 *    queue had been a little longer. So that queue gets a 64th of the limit more, and the other one
 *    as much less. "Just" is counted in evictions from the same queue: as many as a fiftieth of the
 *    entries. Where a longer small queue gives as many hits more as a longer main queue would, the
 *    share comes to rest. (ARC, Megiddo and Modha, FAST 2003, moves its target by all ghosts. A
 *    loop has many that come back, but late: no small step of the share would make hits of them.)
 *    Hits take no part in this.
 *    The numbers were chosen with perf/cache_policies.py. A single thread sees the evictions of the
 *    model in perf/policies.py, whatever the seed of the hashes. So does the other backend.
 *    Each look at an entry evicts it, moves it from the small queue to the main one, or lowers a
 *    count of uses. Hits can raise a count meanwhile: after NS_CACHE_PATIENCE looks for one
 *    insertion the next entry is evicted whatever its count.
 *
 * 3. States of an entry.
 *
 *        `queue` NONE    it is no longer in the table, or not yet
 *        `queue` SMALL   in the table and in the small queue
 *        `queue` MAIN    in the table and in the main queue
 *
 *    Invariant, whenever the lock is free: an entry is in the table if and only if it is in one of
 *    the queues; `count` and `weight` are their number and the sum of their weights; the weight is
 *    not above the limit; an entry with a deadline is in the wheel. An insertion first evicts, then
 *    checks that the new entry fits, and then inserts, all under one hold of the lock. So no thread
 *    ever sees more than the limit.
 *
 * 4. Reading (ns_cache_get), in a section of epoch.h. The argument of table.h, 3, holds for key and
 * value: the table frees the word of a key, which is our entry, only after all sections that began
 * before the key was deleted. So the entry can be read, and its `uses` written, to the end of the
 * section. The hit takes effect at the second load of the value.
 *    Value and deadline. A store to a key that is there swaps the value in its place, and stores
 *    another deadline. A deadline that becomes later is stored after the swap, one that becomes
 *    earlier is stored before it. A reader loads the value (acquire), the deadline (acquire), and
 *    the value again. Suppose that it returns the value v. Then the deadline d that it saw was not
 *    later than v's own:
 *    - v is older than the swap, and d is stored with it, and later: d is stored after the swap
 *      (release), so the second load of the value sees the swap. Contradiction.
 *    - v is newer than the swap, and d is from before, and later: v's own deadline was stored
 *      before the swap, which the first load of the value acquires. Contradiction.
 *    So an expired value is never returned. A reader may take a value for expired that is not, for
 *    the moment between the two stores: then it takes the lock, and looks again.
 *
 *    `uses` is raised by a load and a store, both relaxed. If two threads meet there one increment
 *    is lost, which does no harm. Once it is NS_CACHE_USES, hits write nothing, until the hand of
 *    the main queue passes.
 *
 * 5. Counts of hits and misses are in tallies, one for each thread slot (segments.h). The holder of
 * a slot alone writes its tally, so a plain load and store suffice; a sum is exact for what
 * happened before it. A thread without a slot adds to a shared tally.
 *
 * 6. Time. Entries with a deadline are in a hierarchical timing wheel (Varghese and Lauck, "Hashed
 * and hierarchical timing wheels", SOSP 1987) of NS_CACHE_LEVELS levels of 64 slots. A tick of the
 * lowest level is 2^24 ns, about 17 ms; one of any other level is 64 of the level below. Turning
 * the wheel splices the slots whose ticks have begun to the list `pending`. Each operation that
 * stores then takes NS_CACHE_BATCH entries from there at most, and removes them or puts them where
 * they belong now. An entry comes there at most once for each level. So the time that expiry costs
 * follows the number of insertions. A clock that goes back makes all entries pending. A
 * steady one does not go back: an earlier time is that of a thread which was late to take the lock.
 *
 * 7. Reclamation. What an operation removes goes to its ns_cache_gone, which the caller releases
 * when it holds no lock: values, of which it owns the references, and the table's garbage. Nobody
 * polls (epoch.h) under the cache's lock: the table's polls come after it (ns_table_settle).
 *
 * 8. Fork. In the child of a fork the lock may be held by a thread that is gone. The thread that
 * takes it then puts all entries of the table into the main queue again, which needs no memory.
 * Ghosts are only hints.
 *
 * 9. Progress. Hits are as lock-free as the table's. All else waits for the lock, which is held for
 * one insertion, NS_CACHE_BATCH evictions and as many expiries at most.
 */
#ifndef NS_CACHE_H
#define NS_CACHE_H

#include "memory/segments.h"
#include "table/table.h"

#ifndef NS_CACHE_USES
#define NS_CACHE_USES 3
#endif
#ifndef NS_CACHE_BATCH
#define NS_CACHE_BATCH 16
#endif
#ifndef NS_CACHE_PATIENCE
#define NS_CACHE_PATIENCE 64
#endif
#define NS_CACHE_LEVELS 5
#define NS_CACHE_SLOTS 64 /* of each level */
#define NS_CACHE_TICK 24  /* a tick of level 0 is 2^24 ns */

#define NS_CACHE_NEVER INT64_MAX   /* the deadline of an entry that has none */
#define NS_CACHE_NO_LIMIT INT64_MAX /* so the sum of all weights cannot overflow */
#define NS_CACHE_NO_TIME INT64_MIN /* the clock was not read */

enum ns_cache_queue_name { NS_CACHE_NONE, NS_CACHE_SMALL, NS_CACHE_MAIN };

typedef struct ns_cache_link {
    struct ns_cache_link *next, *previous;
} ns_cache_link;

typedef struct ns_cache_entry {
    /* Constant: */
    uintptr_t key; /* the user's, of which the entry has a reference */
    uint64_t hash;
    _Atomic int64_t deadline; /* in nanoseconds; written under the lock: see 4 */
    _Atomic uint8_t uses;     /* written by hits, and under the lock */
    /* Under the lock: */
    uint8_t queue;
    bool back; /* its hash was a ghost */
    int64_t weight;
    ns_cache_link place; /* in its queue */
    ns_cache_link timer; /* in the wheel; NULL: not there */
} ns_cache_entry;

/* The word by which the table knows an entry. The bit tells it from a value, for collectors. */
#define NS_CACHE_TAG ((uintptr_t)4)

static inline uintptr_t
ns_cache_word(ns_cache_entry *e)
{
    return (uintptr_t)e | NS_CACHE_TAG;
}

static inline ns_cache_entry *
ns_cache_entry_of(uintptr_t word)
{
    return (ns_cache_entry *)(word - NS_CACHE_TAG);
}

typedef struct ns_cache_tally {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t hits;
    _Atomic uint64_t misses, loads, failures;
} ns_cache_tally;

enum { NS_CACHE_FIRST = 8, NS_CACHE_SEGMENTS = 14 }; /* of tallies: see segments.h */

typedef struct ns_cache_queue {
    ns_cache_link ends; /* next: the newest; previous: the oldest */
    int64_t weight;
    uint64_t count;
} ns_cache_queue;

typedef struct ns_cache_ghosts ns_cache_ghosts;

typedef struct ns_cache_wheel {
    int64_t time; /* up to which it has been turned */
    ns_cache_link pending;
    ns_cache_link slots[NS_CACHE_LEVELS][NS_CACHE_SLOTS];
} ns_cache_wheel;

typedef struct ns_cache {
    ns_table table;
    /* Constant: */
    int64_t limit;
    bool tells; /* whether the caller wants the keys of what is evicted */
    bool steady; /* the clock never goes back; may be set after ns_cache_init */
    _Atomic(ns_cache_tally *) tallies[NS_CACHE_SEGMENTS];
    ns_lock lock;
    /* Under the lock; some may be read without it. */
    _Atomic int64_t weight;
    _Atomic uint64_t count, evictions, expirations;
    _Atomic(ns_cache_wheel *) wheel; /* NULL until an entry has a deadline */
    ns_cache_queue small, main;
    ns_cache_ghosts *ghosts;
    int64_t share; /* of the limit: what the small queue may weigh before entries must leave it */
    uint64_t idle; /* candidates in a row that had no use, while the main queue has room */
    uint32_t clearing; /* how many threads are emptying the cache */
    struct { /* of threads without a slot */
        _Atomic uint64_t hits, misses, loads, failures;
    } strays;
} ns_cache;

/* Initializes a cache of zero bytes. The limit is a sum of weights. */
void ns_cache_init(ns_cache *c, int64_t limit, bool tells);
/* Frees the cache, which no other thread may be using. Passes every word that the table owns to
 * `release`, with its value or 0. */
void ns_cache_destroy(ns_cache *c, void (*release)(uintptr_t word, uintptr_t value));

/* ---- Tallies ---- */

ns_cache_tally *ns_cache_tally_slow(ns_cache *c, uint32_t slot);

/* The calling thread's tally, or NULL. */
static inline ns_cache_tally *
ns_cache_mine(ns_cache *c)
{
    const uint32_t slot = ns_slot();
    ns_cache_tally *first = ns_load(&c->tallies[0], NS_ACQUIRE);
    return ns_likely(slot < NS_CACHE_FIRST && first != NULL) ? &first[slot]
                                                             : ns_cache_tally_slow(c, slot);
}

#define NS_CACHE_COUNT(c, name)                                                        \
    do {                                                                               \
        ns_cache_tally *mine_ = ns_cache_mine(c);                                      \
        if (ns_likely(mine_ != NULL)) {                                                \
            ns_store(&mine_->name, ns_load(&mine_->name, NS_RELAXED) + 1, NS_RELAXED); \
        }                                                                              \
        else {                                                                         \
            ns_add(&(c)->strays.name, 1, NS_RELAXED);                                  \
        }                                                                              \
    } while (0)

typedef struct ns_cache_sums {
    uint64_t hits, misses, loads, failures;
} ns_cache_sums;

ns_cache_sums ns_cache_sum(ns_cache *c);
size_t ns_cache_bytes(ns_cache *c);

/* ---- Reading ---- */

enum ns_cache_found {
    NS_CACHE_ABSENT = NS_ABSENT,
    NS_CACHE_PRESENT = NS_PRESENT,
    NS_CACHE_ASK = NS_ASK,
    NS_CACHE_EXPIRED, /* look again under the lock: ns_cache_remove */
};

/* Looks a key up, and takes a reference to its value: as ns_table_get. `match` gets words of
 * entries. `now` is the time, or NS_CACHE_NO_TIME: then the system's clock is read if the entry has
 * a deadline.
 * With NS_CACHE_ASK and a place, *result is a reference to the stored key, or 0 if `hold` failed.
 * Counts a use of the entry if `uses`. */
static inline __attribute__((always_inline)) enum ns_cache_found
ns_cache_get(ns_cache *c, uint64_t hash, ns_match_fn match, const void *wanted, ns_search *place,
             int64_t now, bool uses, bool (*hold)(uintptr_t), void (*drop)(uintptr_t),
             uintptr_t *result)
{
    for (;;) {
        ns_entry *e;
        uintptr_t value, held = 0;
        ns_section section = ns_epoch_enter();
        ns_directory *d = ns_load(&c->table.directory, NS_ACQUIRE);
        if (ns_unlikely(d == NULL)) {
            ns_epoch_leave(section);
            return NS_CACHE_ABSENT;
        }
        ns_segment *s = ns_directory_find(d, hash);
        if (place != NULL && place->serial != s->serial) {
            place->serial = 0;
        }
        enum ns_found found = ns_segment_find(s, hash, match, wanted, place, &e, &value);
        bool ok = true, expired = false;
        if (found == NS_PRESENT) {
            ns_cache_entry *entry = ns_cache_entry_of(ns_load(&e->key, NS_RELAXED));
            const int64_t deadline = ns_load(&entry->deadline, NS_ACQUIRE);
            if (ns_unlikely(deadline != NS_CACHE_NEVER)) {
                expired = deadline <= (now != NS_CACHE_NO_TIME ? now : ns_now());
            }
            held = value & ~NS_FROZEN;
            ok = hold(held);
            held = ok ? held : 0;
            ok = ok && ns_load(&e->value, NS_SEQ_CST) == value;
            const uint8_t n = ns_load(&entry->uses, NS_RELAXED);
            if (uses && ns_unlikely(n < NS_CACHE_USES)) {
                ns_store(&entry->uses, n + 1, NS_RELAXED);
            }
        }
        else if (found == NS_ASK && place != NULL) {
            held = ns_cache_entry_of(ns_load(&e->key, NS_RELAXED))->key;
            held = hold(held) ? held : 0;
        }
        ok = ok && ns_load(&s->state, NS_ACQUIRE) != NS_MOVED;
        ns_epoch_leave(section);
        if (ns_likely(ok && !expired)) {
            *result = held;
            return (enum ns_cache_found)found;
        }
        if (held != 0) {
            drop(held);
        }
        if (ok) {
            return NS_CACHE_EXPIRED;
        }
        if (place != NULL) {
            place->serial = 0;
        }
    }
}

/* ---- Changing ---- */

enum ns_cache_cause { NS_CACHE_REPLACED, NS_CACHE_SIZE, NS_CACHE_TIME };

/* What an operation leaves for its caller to release when it holds no lock: references to values,
 * and of what was evicted to keys too, if the cache tells. */
typedef struct ns_cache_gone {
    struct {
        uintptr_t key, value;
        enum ns_cache_cause cause;
    } items[2 * NS_CACHE_BATCH + 2];
    unsigned count;
    ns_garbage garbage; /* for ns_garbage_release; its keys are words of entries */
} ns_cache_gone;

static inline void
ns_cache_gone_init(ns_cache_gone *gone)
{
    gone->count = 0;
    ns_garbage_init(&gone->garbage);
}

enum ns_cache_done {
    NS_CACHE_INSERTED, /* the table owns the entry and the value now */
    NS_CACHE_STORED,   /* in place of another value; the caller still owns the entry */
    NS_CACHE_KEPT,     /* add: the key is there, and `result` is a reference to its value */
    NS_CACHE_REMOVED,  /* `result` is the value, whose reference the caller owns */
    NS_CACHE_MISSING,
    NS_CACHE_TOO_HEAVY, /* the entry does not fit at all; the key is absent now */
    NS_CACHE_FORBIDDEN, /* add: the key is missing and the flag set; nothing was stored */
    NS_CACHE_ASK_KEY,   /* `result` is a reference to a stored key: compare, and repeat */
    NS_CACHE_AGAIN,     /* release what is gone, and repeat */
    NS_CACHE_NO_MEMORY, /* nothing was stored */
};

typedef struct ns_cache_edit {
    uint64_t hash;
    ns_match_fn match; /* gets words of entries */
    const void *wanted;
    ns_search *place; /* may be NULL; then `match` never says NS_UNKNOWN */
    int64_t now; /* or NS_CACHE_NO_TIME, where no entry has a deadline */
    void (*hold)(uintptr_t); /* takes a reference to a key or value, and cannot fail */
    uintptr_t result;
    unsigned looks; /* 0 before the first call */
    /* For ns_cache_store: */
    ns_cache_entry *entry; /* with key, hash, deadline and weight; the rest zero */
    uintptr_t value;
    bool add; /* only if the key is missing, and `flag` not set */
    bool (*is_set)(void *flag);
    void (*set)(void *flag);
    void *flag; /* add: see there. Else it is set in the step that stores; may be NULL */
    /* For ns_cache_remove: */
    bool only_expired;
} ns_cache_edit;

enum ns_cache_done ns_cache_store(ns_cache *c, ns_cache_edit *e, ns_cache_gone *gone);
/* Removes a key. One that has expired is NS_CACHE_MISSING, and among the gone. */
enum ns_cache_done ns_cache_remove(ns_cache *c, ns_cache_edit *e, ns_cache_gone *gone);

/* Removes what has expired by e->now. Returns true if there is more: release what is gone, and
 * repeat. Of the edit it needs `now` and `hold`. */
bool ns_cache_expire(ns_cache *c, const ns_cache_edit *e, ns_cache_gone *gone);

/* Removes all entries that were there when it was called with left[0] == UINT64_MAX. Returns true
 * if there are more: release what is gone, and repeat. */
bool ns_cache_clear(ns_cache *c, const ns_cache_edit *e, uint64_t left[2], ns_cache_gone *gone);

/* Copies keys in the order of hashes, a part at a time, as ns_table_page does; not those that have
 * expired. e->hold takes a reference to each. `keys` has the keys, and not words of entries. */
size_t ns_cache_page(ns_cache *c, const ns_cache_edit *e, uint64_t *from, ns_hashed *keys,
                     size_t room);

/* Whether the clock matters: an entry has, or had, a deadline. */
static inline bool
ns_cache_is_timed(ns_cache *c)
{
    return ns_load(&c->wheel, NS_ACQUIRE) != NULL;
}

#endif
