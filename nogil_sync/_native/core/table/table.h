/* table.h: a hash table that threads read, and in which they replace values, without a lock.
 * An insertion or a deletion of a key takes the lock of one part of the table.
 *
 * Keys and values are opaque words, multiples of 4 that are not 0. The user decides who owns them
 * and when keys are equal, by functions that the compiler inlines.
 *
 * This file has the argument, the interface, and the fast paths. The other files of the folder
 * define the rest, a job each: segment.h, retired.h, directory.h and rebuild.h for each other;
 * writers.c, housekeeping.c, whole.c and ownership.c what is declared here. hash.h is for users.
 *
 * 1. Shape: extendible hashing (Fagin et al., ACM TODS 1979). So the table grows and shrinks part
 * by part, and no operation ever waits for the whole table.
 *
 *        directory  [s0 s1 s1' s2 ...]      2^depth pointers, indexed by the hash's top bits
 *        segment    depth d: all hashes with its d-bit prefix; 2^(depth - d) pointers lead to it
 *        group      8 tags in a word, 8 entries {value, key, hash}; Swiss tables' layout
 *
 *    A segment has separate cache lines for what is written at different times. Every operation
 *    reads the constants. Each insertion and deletion writes the lock, its counts, and tags. So the
 *    lock and its counts share a line with the tags of the first NS_SMALL groups: in a segment of
 *    at most NS_SMALL groups an insertion writes that line and its entry. The entries come last: a
 *    replacement writes its entry and nothing else.
 *
 *    Segments grow from 8 entries to NS_SEGMENT_MAX, twofold or fourfold in a step, then split.
 *    Segments with few live entries merge with their buddy, or shrink. Any such change is a
 *    *rebuild*: new segments are filled and published, and the old ones marked as moved. A
 *    segment's shape never changes. Hashes must be mixed (ns_hash_mix): the top bits choose the
 *    segment, the low ones the group, and seven between them are the tag. Equal hashes cannot be
 *    split; then a segment grows instead.
 *
 *    A segment's state goes from NEW (it is being filled and published: only the holder of its lock
 *    changes it) to CURRENT to MOVED.
 *
 * 2. States of an entry (its value word, its tag).
 *
 *        value            tag              key
 *        any              EMPTY            any      unused; ends a probe
 *        0                DELETED          0        free again
 *        0                0x80|7 bits      word     being inserted, or being deleted: absent
 *        v                0x80|7 bits      word     live
 *        v | 2            0x80|7 bits      word     live, frozen: only the lock's holder writes it
 *        stamp << 2 | 1   DEAD             word     dead; owns its key until the stamp is safe
 *        stamp << 2 | 3   DEAD             word     dead; the key is in a limbo list
 *
 *    The memory of a new segment's entries is not zeroed. No thread reads the words of an entry
 *    that never had a tag. An insertion stores 0 as the value before it stores the tag. So a reader
 *    that sees the tag sees that 0, or a value that followed it.
 *
 *    Under the segment's lock:
 *    Insert: store value 0, key, hash, tag (release), then value (release: from then on the key is
 *    present).
 *    Delete: swap the value for 0 (from then on the key is absent), then store the stamp in its
 *    place, then the tag. A thread that is alone (epoch.h) frees the entry instead.
 *    Freeze and thaw: change the value's bit.
 *    With or without the lock:
 *    Replace: swap the value of a live entry that is not frozen; without the lock by a
 *    compare-and-swap.
 *    A group that has an EMPTY tag was never full since its segment was built. So a probe may end
 *    there. An entry that becomes free in such a group becomes EMPTY again; in other groups it
 *    becomes DELETED.
 *
 * 3. Reading (ns_table_get), in a section of epoch.h: directory -> segment -> tags of a group ->
 * for each candidate: load the value (acquire; live, else absent), hash, and key, and compare. Take
 * a reference to the value. Load the value again: it must be the same. Load the state: it must not
 * be MOVED. A hit or a miss in a moved segment starts again.
 *
 *    (a) Key and hash belong to the value. The reader saw the value live inside its section. An
 *    entry gets a new key only after its old key's stamp is safe, that is, after all sections that
 *    began before the deletion. So from the load of a live value to the end of the section key and
 *    hash do not change. Nor is the key released, by the entry or from a limbo list, before that
 *    stamp is safe: it can be compared in place.
 *    (b) A hit is right. The entry held (key, v) at the second load of the value, and the segment
 *    was not moved, since its state was loaded later. The hit takes effect at that second load. (As
 *    to the reference, see the user's `hold`; the second load makes it a reference to what the
 *    entry held.)
 *    (c) A miss is right: at some moment during the search the key was absent. Suppose that it was
 *    present all the time, while the segment was not moved. Then it stayed in one entry, because
 *    only a rebuild moves keys. Its tag and value were stored before the search. The search visits
 *    every group up to the first EMPTY, and no group before the entry's can have shown an EMPTY. So
 *    the search saw the key. Contradiction.
 *    (d) A later search cannot miss what an earlier one hit. The tag is stored before the value,
 *    both with release, and a hit has acquired the value.
 *
 *    Replacing (ns_table_replace), also in a section: find the entry, check that the state is
 *    CURRENT, and compare-and-swap its value. If that is impossible (the key is absent, the value
 *    frozen, the segment not current) the writer takes the lock.
 *
 *    (e) A replacement is right. When the swap succeeds the entry is live, and by (a) it is the
 *    key's: its value may have changed and come back, but its key has not. The value is not frozen,
 *    so no rebuild has copied it yet, and the next one copies the new value. And the segment had
 *    become CURRENT before, so no older segment is left that a reader could believe. The writer
 *    owns the old value now, as only one swap takes it out.
 *    (f) A writer that found the key absent tries to take the lock in the same section. If it gets
 *    the lock, and the segment was not moved, it need not compare keys again as long as no group up
 *    to the first EMPTY has the key's tag: an insertion of the key would have stored the tag, and
 *    tags change only under the lock.
 *
 * 4. Rebuild, under the locks of the old segments (two for a merge, of which the second is only
 * tried). Fill the new segments, which are created locked and NEW: freeze each live value, then
 * copy it. Then, under the table's structure lock: note {old, new} as pending, store the pointers
 * into the directory, mark the old segments MOVED and the new ones CURRENT, release the old locks,
 * retire the old segments, and clear the note. Only then release the new locks. So as long as the
 * old segments are unmarked, no thread has changed the new ones, nor an old value that was copied,
 * and both give the same answers. A reader that finds the mark finds the new segments in the
 * directory. A value that is taken out of a new segment, and may be freed, is taken out after the
 * mark. For a reader of the old segment the second load of the frozen value shows nothing. But once
 * it has seen the freeing it sees the mark, as it would see another value (tryref.h).
 *    Entries are moved, not shared: from the mark on the old segment owns only the keys of its dead
 *    entries. No reader waits for anything. A writer that gets the lock of a moved segment looks
 *    the segment up again. If there is no memory after all, the values are thawed.
 *
 *    Sleeping. A writer that finds the lock taken for long must sleep, but not in a section, which
 *    would hold up the freeing of everything in the process. So it counts itself among the
 *    segment's sleepers, leaves the section, and only then sleeps. A segment with sleepers is not
 *    freed. The writer counted itself in a section, so a thread that frees after that section sees
 *    the count. And the last thing that a sleeper does with a moved segment is to subtract itself
 *    (release, acquired by the thread that frees).
 *
 * 5. Ownership, for collectors. At any moment at which no thread is inside a call: current segments
 * own each live value, its key, and the keys of dead entries without NS_GONE; retired segments own
 * the keys of such dead entries; limbo lists own the words in them. ns_table_visit visits each
 * exactly once, and takes no lock.
 *
 * 6. Reclamation. Values are handed back at once. Keys of deleted entries are kept until they are
 * safe. The thread that deletes a key marks the entry NS_GONE, adds the key to its own limbo list
 * (memory/limbo.h), and takes out of its list what is safe by then, in ns_table_settle. So a thread
 * frees the keys that it deleted. A table gets limbo lists when it has NS_LIMBO_SPREAD segments. In
 * a smaller table, or if the list is full, or for a caller that passes no table to
 * ns_segment_remove, the key stays in its entry, which owns it. A burst of deletions fills a list
 * within microseconds. So a thread whose list is full, or was made when the table was larger, still
 * takes safe keys out of it.
 *    A dead entry can be reused when its stamp is safe. The next insertion in its group takes it,
 * and frees the key if the entry owns one. Or a sweep of the segment does. A sweep becomes due when
 * an eighth of the entries are dead (at least NS_SWEEP). An insertion that finds the segment full,
 * and more dead entries than live ones, sweeps at once; with fewer than NS_SEGMENT_FLOOR entries
 * the segment grows instead. A sweep takes out NS_GARBAGE keys at most; if more are left, the next
 * operation continues. Old segments and directories wait in the list of the retired, which each
 * rebuild reaps. A thread that leaves something waiting asks for a poll, in ns_table_settle, when
 * it holds no lock; for its limbo list, after each 2 * NS_SWEEP keys (a batch of epoch.h). If the
 * calling thread is alone (epoch.h), nothing waits, and its deletions also take out what the lists
 * of all threads still have.
 *
 *    How much waits, at most. First, what is not safe yet: epoch.h gives the bound for the whole
 *    process (dead keys and retired segments are counted there). Second, what is safe but has not
 *    been visited: in each segment an eighth of the entries, dead, or NS_SWEEP; in each thread's
 *    limbo list NS_LIMBO_MAX keys, until that thread (or after its end any thread that asks for
 *    a poll, or a thread that has become alone) deletes a key; and for each table the segments that
 *    its last rebuilds retired, at most as many bytes as epoch.h lets wait.
 *    ns_table_bytes counts all of it. ns_table_flush takes out what is safe, from all lists.
 *
 *    Transfers (docs/transfers.md; 3.13, pinned). Eight threads insert and delete keys of their own
 *    in a table of 4,096 keys. An insertion and the deletion, a pair, cost 2.7 transfers: 1.1 for
 *    the line of the lock and the tags, 1.2 for the entry (a third of the entries lie on two
 *    lines), and 0.3 for polls and what they store. A pair once cost 6.4 to 7.0. Limbo lists, and
 *    insertions that do not sweep, brought it from 7.0 to 5.0: a key that another thread frees
 *    costs 1.9 for its count. Splits down to NS_SMALL groups, with the lock on the line of the
 *    tags, brought it to 3.3. A poll after 64 keys instead of 32 brought it to 3.1, and smaller
 *    counts, which leave room on that line for all tags of a small segment, to 2.7. A table can
 *    have too many keys for the splits that are allowed; then the lock and the tags are on two
 *    lines. In an empty table, where all threads meet in a few segments, a pair costs 5.7 (before:
 *    9.3). With 64 threads it costs 7.4 (before: 13 to 15). Tried: segments of one size, without
 *    splits on demand. A pair costs 7.4 with at most 256 entries and 6.9 with 128, and in a table
 *    of few keys all threads share one lock.
 *
 *    Writers that meet. A thread that finds a segment's lock taken counts NS_FIGHT meetings. In a
 *    segment of more than NS_SMALL groups, a thread that deletes where another one deleted last
 *    counts one meeting: it had to fetch the line. Such a segment is split after NS_MEETINGS for
 *    each group, while the table has fewer than NS_SPLITS_BY_MEETING segments for each processor. A
 *    smaller one is split after it was found locked NS_FIGHTS times, while the table has fewer than
 *    NS_SPLITS_BY_FIGHT for each processor. `spread` keeps the parts from merging.
 *    To split 4,096 keys down to NS_SMALL groups takes some 5,000 meetings. By estimate, 13,000
 *    pairs later the splits have paid for themselves. They cost memory, too: a map of 4,096 keys in
 *    which eight threads have inserted and deleted takes 90 bytes an entry, including the dead keys
 *    that wait. Before these splits and limbo lists it took 62. With lists of up to 512 keys it
 *    took 164, with as many transfers. (A program runs slowly while its transfers are counted, so
 *    it polls often. If more keys wait for a poll than a list holds, other threads free the rest.)
 *
 *    Counting. ns_table_count reads one line of each segment. A count in cells (cells.h) would be
 *    one line for each thread instead, but costs each insertion and deletion an atomic addition and
 *    each table 128 bytes a thread; the segment's count is on the line of the lock, which a writer
 *    has anyway.
 *
 * 7. Fork. If a thread that is gone holds a segment's lock, it was in the middle of a change. A
 * thread that takes that lock finishes a pending rebuild (all its steps can be repeated) and then
 * repairs the entries. One store makes a value live or not, so each entry is present or absent as a
 * whole; a key that has no tag yet is lost. An insertion stores the tag before the value. Otherwise
 * a DELETED entry could be left with a live value, which counts but which no search finds. What a
 * rebuild froze that was never noted is thawed. The thread may be in a section when it finishes the
 * rebuild, so what it retires then waits even if the thread is alone. What the child relies on is
 * stored by atomic stores, of which the last, with release, makes it true: the note's old[0], or
 * the head of a list of the retired. And whatever is freed was unlinked before. What the vanished
 * thread had in its hands leaks.
 *
 * 8. Progress. Readers are lock-free. A reader starts again only if another thread changed the
 * value's word meanwhile (replaced the value, or froze or thawed it), or if a rebuild moved the
 * segment, which takes many insertions or deletions. Replacing is lock-free too, except during a
 * rebuild: of several threads at one key one succeeds. Insertions and deletions wait for the lock
 * of their segment; those that rebuild it wait for the structure lock, too.
 *
 * Ordering beyond that. Everything that a writer did before it stored a value happens before a hit
 * of the value (release, acquire). And operations are sequentially consistent with each other: if
 * two threads each insert and then search for what the other inserted, at least one finds it. C
 * does not promise that, as the two exchange different locks; processors do
 * (models/litmus/orderings.toml: "table"). A writer's stores come before its unlock, which is
 * sequentially consistent, as is the swap that replaces a value. A search begins with a
 * sequentially consistent load of tags. x86-64: both are locked instructions, and no load overtakes
 * those. ARMv8: a search's LDAR does not overtake the STLR or STLXR of either, nor does that
 * overtake the stores before it. Both processors let all others see a store at once. Elsewhere
 * compilers put a full fence before a sequentially consistent load.
 */
#ifndef NS_TABLE_H
#define NS_TABLE_H

#include "memory/epoch.h"
#include "memory/limbo.h"
#include "waiting/lock.h"

#ifndef NS_SEGMENT_MAX
#define NS_SEGMENT_MAX 1024 /* entries; at least 16, a power of two */
#endif
#ifndef NS_SWEEP
#define NS_SWEEP 32 /* a poll is worth while for this many dead entries of a segment */
#endif
#ifndef NS_MEETINGS
#define NS_MEETINGS 1 /* a split is worth while after this many meetings of writers a group */
#endif
#define NS_FIGHT 8 /* a meeting at a lock counts for so many */
#ifndef NS_FIGHTS
#define NS_FIGHTS 64 /* the same for a small segment, in meetings at its lock */
#endif
/* Meetings split a table into at most so many segments for each processor. */
#define NS_SPLITS_BY_MEETING 32
#define NS_SPLITS_BY_FIGHT 4
#ifndef NS_SMALL
#define NS_SMALL 4 /* so many groups have their tags on the line of the lock */
#endif
#ifndef NS_LIMBO_SPREAD
#define NS_LIMBO_SPREAD 4 /* a table of this many segments has limbo lists */
#endif
/* Segments do not shrink below this. */
#define NS_SEGMENT_FLOOR (NS_SEGMENT_MAX < 64 ? NS_SEGMENT_MAX : 64)

#define NS_GROUP 8

typedef struct ns_entry {
    _Atomic uintptr_t value;
    _Atomic uintptr_t key;
    _Atomic uint64_t hash;
} ns_entry;

/* Bits of a value word. */
#define NS_DEAD ((uintptr_t)1)
#define NS_FROZEN ((uintptr_t)2)
#define NS_GONE ((uintptr_t)2) /* of a dead entry: its key is in a limbo list */
#define NS_STAMP_SHIFT 2

enum ns_segment_state {
    NS_NEW, /* published, but an older segment may still answer: only the lock's holder writes */
    NS_CURRENT,
    NS_MOVED, /* the directory leads to others */
};

typedef struct ns_segment {
    /* Constant once published, except for the state and the sleepers. */
    _Alignas(
        /* the top `depth` bits of its hashes, then zeroes: the min hash it holds */
        NS_LINE) uint64_t prefix;
    uint64_t serial; /* no other segment of this table ever has it */
    ns_entry *entries; /* 8 a group; after the tags */
    uint32_t mask; /* the number of groups, minus one */
    uint8_t depth;
    _Atomic uint8_t state;
    _Atomic uint64_t
        /* fork generation << 32 | number of threads that sleep for the lock, outside of sections */
        sleepers;
    /* Once retired; written under the structure lock. */
    _Atomic(struct ns_segment *) next;
    uint64_t stamp;
    /* Seldom written, under `lock`: */
    uint32_t sweep_at; /* the number of dead entries at which a sweep is due */
    uint32_t cursor; /* the group at which ns_segment_pick starts */
    uint64_t swept; /* ns_epoch_safe() at the last sweep */
    /* Written under `lock`, as the tags are; the counts may be read without it. */
    _Alignas(NS_LINE) ns_lock lock;
    _Atomic uint32_t live;
    _Atomic uint64_t inserts; /* insertions since it was built */
    _Atomic uint32_t dead; /* entries that are dead */
    uint32_t used; /* entries whose tag is not EMPTY */
    uint32_t died; /* half a lower bound of the stamps of dead entries */
    uint8_t user; /* the slot + 1 (its low bits) of the thread that last deleted */
    uint8_t refused; /* merges that were refused, not yet added to the table's count */
    uint16_t patience; /* so many meetings more of writers, and a split is worth while */
    _Atomic uint64_t tags[]; /* 8 in a word, one for each group */
} ns_segment;

typedef struct ns_directory {
    _Atomic(struct ns_directory *) next; /* once retired */
    uint64_t stamp;
    uint32_t deepest; /* how many segments are as deep as the directory; under the structure lock */
    uint8_t depth;
    _Atomic(ns_segment *) segments[];
} ns_directory;

/* A table of zero bytes is empty. */
typedef struct ns_table {
    _Atomic(ns_directory *) directory; /* NULL until the first insertion */
    ns_limbo limbo; /* keys that threads deleted: see 6 */
    ns_lock structure; /* guards everything below */
    _Atomic uint32_t segments; /* how many are current */
    _Atomic uint64_t serial;
    _Atomic uint32_t spread; /* the number of segments that writers needed: no merges below it */
    _Atomic uint32_t unneeded; /* how often that has prevented a merge since */
    _Atomic uint64_t start; /* where a search for any entry begins */
    /* The rebuild that is being published, if old[0] is set. Noted for the child of a fork. */
    _Atomic(ns_segment *) old[2], new[2];
    _Atomic(ns_segment *) retired;
    uint64_t oldest; /* a lower bound of the stamps of retired segments */
    _Atomic(ns_directory *) retired_directories;
} ns_table;

/* How a stored key compares with the one looked for. The function runs in sections and under
 * locks. */
enum ns_match {
    NS_DIFFERENT,
    NS_EQUAL,
    NS_UNKNOWN, /* only code outside of the section can tell */
};
typedef enum ns_match (*ns_match_fn)(uintptr_t stored, const void *wanted);

enum ns_found {
    NS_ABSENT,
    NS_PRESENT,
    NS_ASK, /* the entry's key is NS_UNKNOWN */
};

enum {
    NS_SEGMENTS_WAIT = 1, /* retired segments or directories: a poll is worth while */
    NS_KEYS_WAIT = 2, /* perhaps keys in the thread's limbo list */
    NS_KEYS_LEFT = 4, /* the thread is alone, and perhaps keys are in any limbo list */
    NS_DEAD_WAIT = 8, /* a segment has too many dead entries */
};

/* What an operation leaves for its caller to release when it holds no lock. */
#define NS_GARBAGE 64
typedef struct ns_garbage {
    uintptr_t keys[NS_GARBAGE];
    unsigned count;
    uint8_t waits; /* what waits to be freed: see ns_table_settle */
    uint64_t prefix, swept; /* with NS_DEAD_WAIT: of the segment with too many dead entries */
    ns_limbo_list *list; /* with NS_KEYS_WAIT: the thread's list */
    ns_segment *segments; /* to be freed, with the keys of their dead entries */
} ns_garbage;

static inline void
ns_garbage_init(ns_garbage *g)
{
    g->count = 0;
    g->waits = 0;
    g->segments = NULL;
}

/* Where a search stopped to ask about a key, and goes on: in the segment with that serial. Serial
 * 0: restart. Skipped groups stay valid only if nothing was inserted since the search began:
 * `inserts` is the segment's from before its first look. */
typedef struct ns_search {
    uint64_t serial, inserts;
    uint32_t group, step;
    uint64_t left; /* bits of the group's tags that are still to be checked */
} ns_search;

/* ---- Eight tags in a word ---- */

#define NS_TAG_EMPTY 0
#define NS_TAG_DELETED 1
#define NS_TAG_DEAD 2
#define NS_TAG_LOW UINT64_C(0x0101010101010101)
#define NS_TAG_HIGH UINT64_C(0x8080808080808080)

static inline uint64_t
ns_tag(uint64_t hash)
{
    return 0x80 | (hash >> 25 & 0x7f);
}

/* Sets the high bit of each byte that is 0, and perhaps of some above the first such byte. */
static inline uint64_t
ns_tags_zero(uint64_t tags)
{
    return (tags - NS_TAG_LOW) & ~tags & NS_TAG_HIGH;
}

static inline unsigned
ns_tag_index(uint64_t bits)
{
    return (unsigned)__builtin_ctzll(bits) >> 3;
}

static inline bool
ns_is_live(uintptr_t value)
{
    return value != 0 && !(value & NS_DEAD);
}

/* Whether a value may be replaced without the lock. `expected`: the value it must have; 0: any. */
static inline bool
ns_is_replaceable(uintptr_t value, uintptr_t expected)
{
    return ns_is_live(value) && !(value & NS_FROZEN) && (expected == 0 || value == expected);
}

static inline ns_segment *
ns_directory_find(ns_directory *d, uint64_t hash)
{
    /* Two shifts, as one by 64 is undefined. */
    return ns_load(&d->segments[hash >> 1 >> (63 - d->depth)], NS_ACQUIRE);
}

/* Searches a segment for a key: in a section, or with the segment locked. On NS_PRESENT and NS_ASK
 * *entry is the entry, and *value its word as first loaded, which may be frozen. `place`, which may
 * be NULL: where to start, and on NS_ASK where to continue. */
static inline __attribute__((always_inline)) enum ns_found
ns_segment_find(ns_segment *s, uint64_t hash, ns_match_fn match, const void *wanted,
                ns_search *place, ns_entry **entry, uintptr_t *value)
{
    const uint64_t pattern = ns_tag(hash) * NS_TAG_LOW;
    uint32_t g = (uint32_t)hash & s->mask, step = 0;
    uint64_t left = UINT64_MAX;
    uint64_t inserts = 0;
    if (place != NULL && place->serial != 0) {
        g = place->group;
        step = place->step;
        left = place->left;
        inserts = place->inserts;
    }
    else if (place != NULL) {
        inserts = ns_load(&s->inserts, NS_ACQUIRE);
    }
    for (;;) {
        uint64_t tags = ns_load(&s->tags[g], NS_SEQ_CST);
        uint64_t hits = ns_tags_zero(tags ^ pattern) & left;
        while (hits != 0) {
            ns_entry *e = &s->entries[g * NS_GROUP + ns_tag_index(hits)];
            uint64_t bit = hits & -hits;
            hits ^= bit;
            uintptr_t v = ns_load(&e->value, NS_ACQUIRE);
            if (!ns_is_live(v) || ns_load(&e->hash, NS_RELAXED) != hash) {
                continue;
            }
            enum ns_match m = match(ns_load(&e->key, NS_RELAXED), wanted);
            if (m == NS_DIFFERENT) {
                continue;
            }
            *entry = e;
            *value = v;
            if (m == NS_EQUAL) {
                return NS_PRESENT;
            }
            if (place != NULL) {
                *place = (ns_search){.serial = s->serial,
                                     .inserts = inserts,
                                     .group = g,
                                     .step = step,
                                     .left = left & ~(bit - 1)};
            }
            return NS_ASK;
        }
        left = UINT64_MAX;
        if (ns_tags_zero(tags) != 0 || step == s->mask) {
            return NS_ABSENT;
        }
        g = (g + ++step) & s->mask;
    }
}

/* ---- Reading ---- */

/* Looks a key up and takes a reference to its value. `hold` tries to take one in the section;
 * `drop` gives one back, outside of it. With `place`, NS_ASK stores a reference to the stored key
 * in *result, or 0 if `hold` failed. Without `place` it stores nothing. */
static inline __attribute__((always_inline)) enum ns_found
ns_table_get(ns_table *t, uint64_t hash, ns_match_fn match, const void *wanted, ns_search *place,
             bool (*hold)(uintptr_t), void (*drop)(uintptr_t), uintptr_t *result)
{
    for (;;) {
        ns_entry *entry;
        uintptr_t value, held = 0;
        ns_section section = ns_epoch_enter();
        ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
        if (ns_unlikely(d == NULL)) {
            ns_epoch_leave(section);
            return NS_ABSENT;
        }
        ns_segment *s = ns_directory_find(d, hash);
        if (place != NULL && place->serial != s->serial) {
            place->serial = 0;
        }
        enum ns_found found = ns_segment_find(s, hash, match, wanted, place, &entry, &value);
        bool ok = true;
        if (found == NS_PRESENT) {
            held = value & ~NS_FROZEN;
            ok = hold(held);
            held = ok ? held : 0;
            ok = ok && ns_load(&entry->value, NS_SEQ_CST) == value;
        }
        else if (found == NS_ASK && place != NULL) {
            held = ns_load(&entry->key, NS_RELAXED);
            held = hold(held) ? held : 0;
        }
        ok = ok && ns_load(&s->state, NS_ACQUIRE) != NS_MOVED;
        ns_epoch_leave(section);
        if (ns_likely(ok)) {
            *result = held;
            return found;
        }
        if (held != 0) {
            drop(held);
        }
        if (place != NULL) {
            place->serial = 0;
        }
    }
}

/* ---- Changing ---- */

/* Returns the segment that holds the hash, locked. NULL if there is no memory for the first one. */
ns_segment *ns_table_lock(ns_table *t, uint64_t hash);
/* Returns the first segment with an entry from some moving place on, locked. NULL if the table was
 * empty at one moment. */
ns_segment *ns_table_lock_first(ns_table *t);
/* Whether the table was empty at one moment of the call. It usually reads one segment, as it starts
 * where ns_table_lock_first does. */
bool ns_table_is_empty(ns_table *t);
/* Unlocks the segment, after any housekeeping that is due: sweeps, shrinks, merges. Leaves polls to
 * ns_table_settle: for a caller that has a lock of its own. */
void ns_table_leave(ns_table *t, ns_segment *s, ns_garbage *garbage);
/* Polls if that is worth while, and takes out what may go. The caller holds no lock. */
void ns_table_settle_now(ns_table *t, ns_garbage *garbage);
static inline void
ns_table_settle(ns_table *t, ns_garbage *garbage)
{
    if (ns_unlikely(garbage->waits != 0)) {
        ns_table_settle_now(t, garbage);
    }
}
/* Both. */
void ns_table_unlock(ns_table *t, ns_segment *s, ns_garbage *garbage);

/* Whether an entry on the path of the key's search has the key's tag. The segment must be
 * locked. */
static inline bool
ns_segment_has_tag(ns_segment *s, uint64_t hash)
{
    const uint64_t pattern = ns_tag(hash) * NS_TAG_LOW;
    uint32_t g = (uint32_t)hash & s->mask;
    for (uint32_t step = 0;; g = (g + ++step) & s->mask) {
        const uint64_t tags = ns_load(&s->tags[g], NS_RELAXED);
        if (ns_unlikely(ns_tags_zero(tags ^ pattern) != 0)) {
            return true;
        }
        if (step == s->mask || ns_tags_zero(tags) != 0) {
            return false;
        }
    }
}

/* Replaces a key's value without a lock. `expected`: the value it must have; 0: any. Returns the
 * old value, which the caller owns now. Returns 0 if nothing happened: the key is absent, has
 * another value, must be compared outside, or the replacement needs the lock. Then *locked, if not
 * NULL, is the segment that holds the hash, locked, and the key is absent from it. */
static inline __attribute__((always_inline)) uintptr_t
ns_table_replace(ns_table *t, uint64_t hash, ns_match_fn match, const void *wanted,
                 uintptr_t expected, uintptr_t value, ns_segment **locked)
{
    ns_entry *entry;
    uintptr_t word, old = 0;
    *locked = NULL;
    ns_section section = ns_epoch_enter();
    ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
    if (ns_unlikely(d == NULL)) {
        ns_epoch_leave(section);
        return 0;
    }
    ns_segment *s = ns_directory_find(d, hash);
    enum ns_found found = ns_segment_find(s, hash, match, wanted, NULL, &entry, &word);
    if (ns_likely(found == NS_PRESENT)) {
        if (ns_likely(ns_load(&s->state, NS_ACQUIRE) == NS_CURRENT)) {
            for (unsigned pauses = 1; ns_is_replaceable(word, expected);) {
                if (ns_likely(ns_cas(&entry->value, &word, value, NS_SEQ_CST))) {
                    old = word;
                    break;
                }
                pauses = ns_pause_for(pauses); /* another thread was faster */
            }
        }
    }
    else if (found == NS_ABSENT && ns_lock_try(&s->lock)) {
        /* Usually the tags show that the key is still absent (3f). */
        if (ns_load(&s->state, NS_RELAXED) != NS_MOVED && !ns_segment_has_tag(s, hash)) {
            *locked = s;
        }
        else {
            ns_lock_release(&s->lock);
        }
    }
    ns_epoch_leave(section);
    return old;
}

/* For all of these the segment must be locked. */

/* Inserts a key that is absent. Takes over key and value. Returns false if the segment is full:
 * call ns_table_make_room. */
bool ns_segment_insert(ns_segment *s, uint64_t hash, uintptr_t key, uintptr_t value,
                       ns_garbage *garbage);
/* Rebuilds. Returns the segment that now holds the hash, locked, with capacity for one more.
 * Returns NULL if there is no memory; then s is unchanged. */
ns_segment *ns_table_make_room(ns_table *t, ns_segment *s, uint64_t hash, ns_garbage *garbage);

/* Replaces the value of a live entry, unless another thread has replaced the `expected` one; 0:
 * any. Returns the old value, which the caller owns now, or 0. */
static inline uintptr_t
ns_entry_replace(ns_entry *e, uintptr_t expected, uintptr_t value)
{
    if (expected == 0) {
        return ns_swap(&e->value, value, NS_SEQ_CST);
    }
    return ns_cas(&e->value, &expected, value, NS_SEQ_CST) ? expected : 0;
}

/* Returns the value of a live entry, with a reference to it. `hold` cannot fail here: the entry
 * keeps its own reference, since a frozen value is not replaced. */
static inline uintptr_t
ns_entry_hold(ns_entry *e, void (*hold)(uintptr_t))
{
    uintptr_t value = ns_or(&e->value, NS_FROZEN, NS_SEQ_CST);
    hold(value);
    ns_and(&e->value, ~NS_FROZEN, NS_RELEASE);
    return value;
}

/* Deletes an entry, unless another thread has replaced the `expected` value; 0: any. Returns the
 * old value, which the caller owns now, or 0. */
uintptr_t ns_segment_remove(ns_table *t, ns_segment *s, ns_entry *e, uintptr_t expected,
                            ns_garbage *garbage);
/* Returns a live entry of a segment that has one. The search starts where the last one ended, so
 * that emptying a segment visits each group once. */
ns_entry *ns_segment_pick(ns_segment *s);
/* The min hash after the segment's; 0 if there is none. */
uint64_t ns_segment_end(const ns_segment *s);

/* ---- The whole table ---- */

size_t ns_table_count(ns_table *t);
/* Bytes in addition to the struct, including what waits to be freed: retired segments and
 * directories, and NS_DEAD_KEY for each dead key. */
size_t ns_table_bytes(ns_table *t);
#define NS_DEAD_KEY 64

typedef struct ns_hashed {
    uintptr_t key;
    uint64_t hash;
} ns_hashed;

/* Walks in the order of hashes, a segment at a time. Copies the keys of the segment that holds
 * *from whose hash is not less, and takes references (`hold` cannot fail here). Moves *from to the
 * min hash of the next segment (0: that was the last). Returns how many keys it copied. If there
 * are more than the array has room for, it returns their number and does nothing else. Each key has
 * one hash. So whatever is rebuilt between calls, each key is returned at most once, and exactly
 * once if it stays. */
size_t ns_table_page(ns_table *t, uint64_t *from, ns_hashed *keys, size_t room,
                     bool (*hold)(uintptr_t));

/* Walks in the same way, and passes each key to `visit` while its segment is locked. Needs no
 * memory. */
void ns_table_walk(ns_table *t, void (*visit)(uintptr_t key, uint64_t hash, void *context),
                   void *context);

/* Walks in the same way, and takes the segment's entries out. The caller owns the *n values now. So
 * a thread that empties the table meets each entry that stays until then, and finishes whatever
 * others insert. Returns true if there is more: call it again. If there are more entries than the
 * array has room for, it only stores their number in *n; with `some` it takes as many as there is
 * room for, and *from stays. */
bool ns_table_take(ns_table *t, uint64_t *from, uintptr_t *values, size_t room, bool some,
                   size_t *n, ns_garbage *garbage);

/* Calls visit for each word that the table owns: see 5. Stops at the first result that is not 0,
 * and returns it. */
int ns_table_visit(ns_table *t, int (*visit)(uintptr_t word, void *context), void *context);

/* Takes out what has waited for its grace period and may go now. Start with *from = 0. Returns true
 * if there is more: call it again. */
bool ns_table_flush(ns_table *t, uint64_t *from, ns_garbage *garbage);

/* Passes each key in the garbage to `release` and frees its segments. The caller holds no lock and
 * is in no section. */
void ns_garbage_release(ns_garbage *garbage, void (*release)(uintptr_t key));
static inline bool
ns_garbage_is_empty(const ns_garbage *g)
{
    return g->count == 0 && g->segments == NULL;
}

/* Destroys the table, which no other thread may be using. Passes every key that it owns to
 * `release`, with its value or 0, and frees everything. */
void ns_table_destroy(ns_table *t, void (*release)(uintptr_t key, uintptr_t value));

#endif
