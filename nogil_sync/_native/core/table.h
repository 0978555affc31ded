/* table.h: a hash table that is read, and whose values are replaced, without a lock. Keys come and
 * go under one lock for each part.
 *
 * Keys and values are opaque words, multiples of 4 that are not 0; who owns them and when keys are
 * equal is the user's business, told in functions that the compiler inlines.
 *
 * 1. Shape: extendible hashing (Fagin et al., ACM TODS 1979), so that growing and shrinking go
 *    part by part and no operation ever waits for the whole table.
 *
 *        directory  [s0 s1 s1' s2 ...]      2^depth pointers, indexed by the hash's top bits
 *        segment    depth d: all hashes with its d-bit prefix; 2^(depth - d) pointers lead to it
 *        group      8 tags in a word, 8 entries {value, key, hash}; Swiss tables' layout
 *
 *    A segment keeps apart what is written at different times, each on cache lines of its own:
 *    the lock with its counts (written by each insertion and deletion), the constants and the
 *    tags (read by every operation, written by insertions and deletions), the entries (a replaced
 *    value writes its entry and nothing else).
 *
 *    Segments grow from 8 entries by doubling to NS_SEGMENT_MAX, then split; emptied ones
 *    shrink, and merge with their buddy. Any such change is a *rebuild*: new segments are
 *    filled, published, and the old ones marked moved. A segment's shape never changes. Hashes
 *    must be mixed (ns_hash_mix): the top bits choose the segment, the low ones the group, seven
 *    between them the tag. Equal hashes cannot be split: then a segment grows instead.
 *
 *    Its state goes from NEW (published, not to be changed yet) to CURRENT to MOVED.
 *
 * 2. States of an entry (its value word, its tag).
 *
 *        value            tag              key
 *        any              EMPTY            any      unused; ends a probe
 *        0                DELETED          0        free again
 *        0                0x80|7 bits      word     being inserted: not there yet
 *        v                0x80|7 bits      word     live
 *        v | 2            0x80|7 bits      word     live, frozen: only the lock's holder writes it
 *        stamp << 1 | 1   DEAD             word     dead; keeps its key until the stamp is safe
 *
 *    The memory of a new segment's entries is not zeroed. While the tag is EMPTY nobody reads the
 *    entry's words, but for what an insertion has stored: so 0 is stored as the value before the
 *    tag, and a reader that sees the tag sees that 0 or the value that follows.
 *
 *    Under the segment's lock:
 *    Insert: value 0, key, hash, tag (release), value (release: the moment it is there).
 *    Delete: value (swap: the moment), then tag.     Freeze and thaw: the bit of the value.
 *    With or without the lock:
 *    Replace: value (compare-and-swap: the moment), from a live one that is not frozen.
 *    A group that has an EMPTY never was full since its segment was built: so a probe may end
 *    there, and an entry that gets free in such a group becomes EMPTY again, others DELETED.
 *
 * 3. Reading (ns_table_get), in a section of epoch.h: directory -> segment -> tags of a group ->
 *    for each candidate: value (acquire; live, else not there), hash, key, compare; take a
 *    reference to the value; look at the value again: the same; look at the state: not MOVED. A
 *    hit or a miss in a moved segment starts again.
 *
 *    (a) Key and hash belong to the value. The value was seen live inside the section. An entry
 *        gets a new key only after its old one's stamp is safe, that is after all sections that
 *        began before the deletion. So from the load of a live value to the end of the section
 *        key and hash do not change, and the key is not released: it can be compared in place.
 *    (b) A hit is right. The entry held (key, v) at the second look at the value, and the
 *        segment was not moved, since its state was loaded later. That look is when
 *        it happened. (The reference: see the user's `hold`; the second look makes it a
 *        reference to what the entry held.)
 *    (c) A miss is right: at some moment during the search the key was absent. Suppose it was
 *        present all the time, while the segment was not moved. Then it stayed in one entry, for
 *        keys change place only by a rebuild. Its tag and value were stored before the search,
 *        so the search, which looks at every group up to the first EMPTY, saw it: no group
 *        before it can have shown an EMPTY. Contradiction.
 *    (d) Later searches cannot miss what an earlier one hit: the tag is stored before the value,
 *        both with release, and a hit has acquired the value.
 *
 *    Replacing (ns_table_replace), in a section too: find the entry; look at the state: CURRENT;
 *    compare-and-swap its value. Where that cannot be done (the key is absent, the value frozen,
 *    the segment not current) the writer takes the lock.
 *
 *    (e) It is right. When the swap succeeds the entry is live, and by (a) it is the key's: its
 *        value may have changed and come back, its key not. It is not frozen, so no rebuild has
 *        copied it yet: the one that comes next copies the new value. And the segment had become
 *        CURRENT before, so no older segment is left that a reader could take for valid.
 *        The old value is the writer's now, as only one swap takes it out.
 *    (f) A writer that found the key absent takes the lock in the same section, and need not
 *        compare keys again if no group up to the first EMPTY holds the key's tag: a key that has
 *        come since would have brought it, and tags change under the lock only.
 *
 * 4. Rebuild: under the locks of the old segments (two for a merge, the second only tried for):
 *    fill the new ones, which are born locked and NEW: freeze each live value, then copy it. Then,
 *    under the table's structure lock, note {old, new} as pending, store the pointers into the
 *    directory, mark the old ones MOVED, the new ones CURRENT, forget the note. Only then the new
 *    locks are released. So as long as the old ones are unmarked nobody has changed the new ones,
 *    nor an old value that was copied, and answers from either agree; a reader who finds
 *    the mark finds the new segments in the directory. And a value that is taken out of a new
 *    segment, and may be freed, is taken out after the mark: a reader of the old one, whose second
 *    look at the frozen value tells nothing, sees the mark once it has seen the freeing, as it
 *    would see another value (tryref.h).
 *    Entries are moved, not shared: from the mark on the old segment owns only the keys of its
 *    dead entries. No reader waits for anything. A writer who got the lock of a moved segment
 *    looks it up anew. If there is no memory after all, the values are thawed.
 *
 *    Sleeping. A writer that finds the lock taken for long must sleep, and not in a section, which
 *    would hold back the freeing of everything in the process. So it counts itself among the
 *    segment's sleepers, leaves the section, and only then sleeps: a segment with sleepers is not
 *    freed. It counted itself in a section, so the one who frees, after that section, sees it; and
 *    it is the last that a sleeper does with a segment that was moved to take itself off (release,
 *    acquired by the one who frees).
 *
 * 5. Ownership, for collectors. At any moment at which no thread is inside a call: current
 *    segments own each key word that is not 0 and each live value; retired ones the keys of dead
 *    entries (odd values). ns_table_visit tells each exactly once, taking no lock.
 *
 * 6. Reclamation. Values are handed back at once. Keys of deleted entries stay in place, dead,
 *    until safe; they are taken out by the next insertion that wants the entry, or by a sweep of
 *    the segment, which each eighth part of dead entries (at least NS_SWEEP) brings, and the first
 *    insertion after a poll if there are more of them than groups. A sweep takes out NS_GARBAGE
 *    keys at most; if more are left the next operation goes on. Old segments and
 *    directories wait in the list of the retired, which each rebuild reaps. A thread that
 *    leaves something to wait asks for a poll, in ns_table_unlock, when it holds no lock. If the
 *    calling thread is alone (epoch.h) nothing waits.
 *
 *    How much waits, at most: what is not safe yet, of which epoch.h gives the bound for the whole
 *    process (dead keys and retired segments are noted there); and what is safe but has not been
 *    looked at: in each segment an eighth part of dead entries, or NS_SWEEP, and of each table the
 *    segments that were retired by its last rebuilds, not more bytes than epoch.h lets wait.
 *    ns_table_bytes counts all of it.
 *
 *    Who frees a key. A key is released by the thread that sweeps or reuses the entry, on eight
 *    threads as a rule not the one that deleted it. An insertion and a deletion of a thread's own
 *    keys then cost some 6 to 7 transfers (docs/transfers.md): the segment's lock, the tags and the
 *    entry 1 each, sweeps 0.8, threads that meet at a lock 0.5, and 1.8 for the key's count. (A key
 *    whose last reference the table held costs 4, as CPython queues it for its own thread.) Three
 *    transfers would take all of: a list of dead keys for each thread and table, which owns them in
 *    the entries' place; a lock for each line of tags, on that line; and no sweeps where insertions
 *    reuse entries. Tried: sweeping at a half of dead entries instead of an eighth. That costs 22 %
 *    fewer transfers where threads insert the same keys again, 23 % more where all keys are new.
 *    Preferring entries that the thread itself deleted brought 9 %.
 *
 *    Writers that meet. A segment at whose lock writers met NS_FIGHTS times is split, up to four
 *    segments for each processor, and `spread` keeps them from merging. Eight threads that insert
 *    and delete in a table of 4,096 keys cost 7.3 transfers a pair with that and 11.3 without.
 *
 *    Counting. ns_table_count reads one line of each segment. A count in cells (cells.h) would be
 *    one line for each thread instead, but costs each insertion and deletion an atomic addition and
 *    each table 128 bytes a thread; the segment's count is on the line of the lock, which a writer
 *    has anyway.
 *
 * 7. Fork. A segment's lock, if held by a thread that is gone, was held in the middle of a
 *    change: whoever takes it finishes a pending rebuild (all its steps can be repeated), then
 *    puts the entries right: a value is live or not by one store, so each entry is wholly there
 *    or not (a key without a tag is lost); what a rebuild froze that never was noted is thawed. It may do so while it reads an
 *    old segment, so what it retires there waits
 *    for its time even if the thread is alone. What the child relies on is stored by atomic stores,
 *    the one that makes a thing true last and with release: the note's old[0], the head of a list
 *    of the retired. And what is freed was taken out of its list before. What the vanished thread
 *    held in its hands leaks.
 *
 * 8. Progress. Readers are lock-free: they start again only if the value was replaced, or frozen
 *    and moved by a rebuild, which takes many insertions. So is replacing, unless a rebuild is
 *    under way: one of several at one key succeeds. Insertions and deletions wait only for their
 *    segment.
 *
 * Ordering beyond that: everything a writer did before storing a value happens before a hit of
 * it (release, acquire). And operations are sequentially consistent with each other: two threads
 * that each insert and then search for what the other inserted do not both miss it. C does not say
 * so, as they exchange different locks; processors do (models/litmus/orderings.toml: "table"). A
 * writer's stores come before its unlocking, which is sequentially consistent as is the swap that
 * replaces a value, and a search begins with a sequentially consistent load of tags. x86-64: either
 * is a locked instruction, and no load overtakes that. ARMv8: a search's LDAR does not overtake the
 * STLR or STLXR of either, nor that the stores before it. Both let all others see a store at once.
 * Elsewhere compilers put a full fence before a sequentially consistent load.
 */
#ifndef NS_TABLE_H
#define NS_TABLE_H

#include "memory/epoch.h"
#include "waiting/lock.h"

#ifndef NS_SEGMENT_MAX
#define NS_SEGMENT_MAX 1024 /* entries; at least 16, a power of two */
#endif
#ifndef NS_SWEEP
#define NS_SWEEP 32 /* so many dead entries of a segment are worth a poll */
#endif
#ifndef NS_FIGHTS
#define NS_FIGHTS 64 /* so many meetings of writers are worth a split */
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

enum ns_segment_state {
    NS_NEW, /* published, but an older segment may still answer: only the lock's holder writes */
    NS_CURRENT,
    NS_MOVED, /* the directory leads to others */
};

typedef struct ns_segment {
    /* Under `lock`; the counts may be read without it. */
    _Alignas(NS_LINE) ns_lock lock;
    _Atomic uint32_t live;
    _Atomic uint64_t inserts; /* keys that came since it was built */
    _Atomic uint32_t dead; /* entries with a key that waits */
    uint32_t used; /* entries whose tag is not EMPTY */
    uint32_t sweep_at; /* so many dead ones are worth a sweep */
    uint32_t cursor; /* the group at which ns_segment_pick begins */
    uint32_t fights; /* how often a writer found the lock taken */
    uint32_t refused; /* merges, for the table's sake */
    uint64_t died; /* not later than the oldest stamp of a dead one */
    uint64_t swept; /* what was safe when it was last swept */
    /* Constant once published, but for the state and the sleepers. */
    _Alignas(
        NS_LINE) uint64_t prefix; /* its top `depth` bits; the rest 0: the least hash it holds */
    uint64_t serial; /* no other segment of this table has it, ever */
    ns_entry *entries; /* 8 a group; behind the tags */
    uint32_t mask; /* groups less one */
    uint8_t depth;
    _Atomic uint8_t state;
    _Atomic uint64_t
        sleepers; /* fork generation << 32 | how many sleep for the lock, in no section */
    /* When retired: under the structure lock. */
    _Atomic(struct ns_segment *) next;
    uint64_t stamp;
    _Atomic uint64_t tags[]; /* 8 in a word, one for each group */
} ns_segment;

typedef struct ns_directory {
    _Atomic(struct ns_directory *) next; /* when retired */
    uint64_t stamp;
    uint32_t deepest; /* segments as deep as the directory; under the structure lock */
    uint8_t depth;
    _Atomic(ns_segment *) segments[];
} ns_directory;

/* A zeroed one is an empty table. */
typedef struct ns_table {
    _Atomic(ns_directory *) directory; /* NULL until the first insertion */
    ns_lock structure; /* of everything below */
    _Atomic uint32_t segments; /* how many are current */
    _Atomic uint64_t serial;
    _Atomic uint32_t spread; /* so many segments writers needed: not merged below */
    _Atomic uint32_t unneeded; /* how often that prevented a merge since */
    _Atomic uint64_t start; /* where a search for any entry begins */
    /* The rebuild that is being published, if old[0] is set; noted for the child of a fork. */
    _Atomic(ns_segment *) old[2], new[2];
    _Atomic(ns_segment *) retired;
    uint64_t oldest; /* not later than any stamp of theirs, if there are any */
    _Atomic(ns_directory *) retired_directories;
} ns_table;

/* How a stored key compares with the one looked for; called in sections and under locks. */
enum ns_match {
    NS_DIFFERENT,
    NS_EQUAL,
    NS_UNKNOWN, /* must be asked outside */
};
typedef enum ns_match (*ns_match_fn)(uintptr_t stored, const void *wanted);

enum ns_found {
    NS_ABSENT,
    NS_PRESENT,
    NS_ASK, /* the entry's key is NS_UNKNOWN */
};

/* What an operation leaves to be released by its caller, when no lock is held. */
#define NS_GARBAGE 64
typedef struct ns_garbage {
    uintptr_t keys[NS_GARBAGE];
    unsigned count;
    bool waits; /* something was left to wait: worth a poll */
    ns_segment *segments; /* with the keys of their dead entries */
} ns_garbage;

static inline void
ns_garbage_init(ns_garbage *g)
{
    g->count = 0;
    g->waits = false;
    g->segments = NULL;
}

/* Where a search stopped to ask, and goes on: in the segment of that serial. A zeroed serial:
 * begin anew. What it passed is as it was only if no key came since it began: `inserts` is the
 * segment's from before its first look. */
typedef struct ns_search {
    uint64_t serial, inserts;
    uint32_t group, step;
    uint64_t left; /* bits of the group's tags not looked at yet */
} ns_search;

/* What the hashes of this process are mixed with: see ns_hash_mix. */
extern struct ns_hash_seed {
    _Alignas(NS_CACHE_LINE) uint64_t addend;
    uint64_t factor;
} ns_hash_seed;

/* Two words that nobody outside the process can know. Before the first use of a table; further
 * calls do nothing. */
void ns_hash_seed_set(uint64_t first, uint64_t second);

/* From the hash of a key to ours: a multiplication by a secret, whose halves are then combined
 * (as wyhash and foldhash mix). An attacker who does not know the secrets cannot choose keys that share a
 * segment, a group or a tag more often than random ones do, save by choosing equal hashes.
 *
 * The low seven bits of the input stay out of the multiplication, and change the group and the tag
 * only. So 128 neighbours lie in one segment, share its groups evenly and have different tags, and
 * a program that counts its keys up stays in the processor's caches. There are no more than 128 of
 * such, so nobody gains by choosing them. */
static inline uint64_t
ns_hash_mix(uint64_t h)
{
    const uint64_t a = h >> 7 ^ ns_hash_seed.addend;
    const uint64_t b = ns_hash_seed.factor;
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    const uint64_t run = (uint64_t)(product >> 64) ^ (uint64_t)product;
#else
    uint64_t run = a * b;
    run = (run ^ run >> 32) * b;
    run ^= run >> 32;
#endif
    return run ^ (h & 0x7f) ^ (h & 0x7f) << 25;
}

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

/* The high bit of each byte that is 0, and perhaps of some above the first such. */
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

/* Without the lock, where `expected` is to be replaced; 0: any value. */
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

/* Looks for a key in a segment: in a section, or with the segment locked. On NS_PRESENT and
 * NS_ASK *entry is the one; *value its word as first seen, which may be frozen. `place`, which may
 * be NULL: where to begin, and on NS_ASK where to go on. */
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
 * `drop` gives one back, outside of it. With `place`, NS_ASK gives a reference to the stored key
 * in *result, or 0 if `hold` refused; without, nothing. */
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

/* The segment that holds the hash, locked; NULL without memory for the first one. */
ns_segment *ns_table_lock(ns_table *t, uint64_t hash);
/* The first segment with an entry at or after some moving place, locked; NULL if the table was
 * empty at one moment. */
ns_segment *ns_table_lock_first(ns_table *t);
/* Whether the table was empty at one moment of the call. Costs one look, as a rule: it begins
 * where ns_table_lock_first does. */
bool ns_table_is_empty(ns_table *t);
/* Releases it, after whatever housekeeping is due: sweeps, shrinks, merges; then perhaps polls. */
void ns_table_unlock(ns_table *t, ns_segment *s, ns_garbage *garbage);

/* With the segment locked: whether an entry in the way of the key's search has the key's tag. */
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

/* Replaces a key's value without a lock. `expected`: only if the value is this one; 0: any. The old
 * value, which is the caller's now; or 0, and nothing happened: the key is absent, the value
 * another one, the key must be asked about, or it takes the lock. Then *locked, if not NULL, is the
 * segment that holds the hash, locked, and the key is absent from it. */
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
        /* As a rule tags show that it is absent still (3f). */
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

/* All of these with the segment locked. */

/* False: it is full, call ns_table_make_room. Takes over key and value. */
bool ns_segment_insert(ns_segment *s, uint64_t hash, uintptr_t key, uintptr_t value,
                       ns_garbage *garbage);
/* Rebuilds; the segment that then holds the hash, locked, with room for one, or NULL without
 * memory: s is as it was. */
ns_segment *ns_table_make_room(ns_table *t, ns_segment *s, uint64_t hash, ns_garbage *garbage);

/* Replaces the value of a live entry, unless another thread replaced the `expected` one; 0: any.
 * The old value, which is the caller's now, or 0. */
static inline uintptr_t
ns_entry_replace(ns_entry *e, uintptr_t expected, uintptr_t value)
{
    if (expected == 0) {
        return ns_swap(&e->value, value, NS_SEQ_CST);
    }
    return ns_cas(&e->value, &expected, value, NS_SEQ_CST) ? expected : 0;
}

/* The value of a live entry, with a reference to it: `hold` cannot fail here, for the entry's own
 * stays, since a frozen value is not replaced. */
static inline uintptr_t
ns_entry_hold(ns_entry *e, void (*hold)(uintptr_t))
{
    uintptr_t value = ns_or(&e->value, NS_FROZEN, NS_SEQ_CST);
    hold(value);
    ns_and(&e->value, ~NS_FROZEN, NS_RELEASE);
    return value;
}

/* Takes an entry out, unless another thread replaced the `expected` value; 0: any. The old value,
 * which is the caller's now, or 0. */
uintptr_t ns_segment_remove(ns_segment *s, ns_entry *e, uintptr_t expected, ns_garbage *garbage);
/* A live entry of a segment that has one. The search begins where the last one ended, so that
 * emptying a segment looks at each group once. */
ns_entry *ns_segment_pick(ns_segment *s);
/* The least hash after the segment's; 0 if there is none. */
uint64_t ns_segment_end(const ns_segment *s);

/* ---- The whole ---- */

size_t ns_table_count(ns_table *t);
/* Bytes beyond the struct itself, with those that wait to be freed: retired segments and
 * directories, and NS_DEAD_KEY for each dead key. */
size_t ns_table_bytes(ns_table *t);
#define NS_DEAD_KEY 64

typedef struct ns_hashed {
    uintptr_t key;
    uint64_t hash;
} ns_hashed;

/* Walks in the order of hashes, a segment at a time: copies the keys of the segment that holds
 * *from whose hash is not less, takes references (`hold` cannot fail here), moves *from to the
 * least hash of the next segment (0: that was the last), returns how many. If there are more
 * than `room`, returns their number and does nothing else. Each key lives at one hash, so
 * whatever is rebuilt between calls, each is told at most once, and exactly once if it stays. */
size_t ns_table_page(ns_table *t, uint64_t *from, ns_hashed *keys, size_t room,
                     bool (*hold)(uintptr_t));

/* Walks likewise, and takes the segment's entries out, whose *n values are the caller's now. So
 * who empties the table meets each entry that stays until then, and comes to an end whatever
 * others insert. True: call it again. If there are more than `room` it only tells in *n how many;
 * with `some` it takes as many as there is room for, and *from stays. */
bool ns_table_take(ns_table *t, uint64_t *from, uintptr_t *values, size_t room, bool some,
                   size_t *n, ns_garbage *garbage);

/* Calls visit for each word owned: see 5. Stops at the first result that is not 0. */
int ns_table_visit(ns_table *t, int (*visit)(uintptr_t word, void *context), void *context);

/* Takes out what waits for its grace period and may go now, beginning with *from = 0. True: call
 * it again. */
bool ns_table_flush(ns_table *t, uint64_t *from, ns_garbage *garbage);

/* Hands each key in the garbage to `release` and frees its segments. With no lock held, outside
 * of sections. */
void ns_garbage_release(ns_garbage *garbage, void (*release)(uintptr_t key));
static inline bool
ns_garbage_is_empty(const ns_garbage *g)
{
    return g->count == 0 && g->segments == NULL;
}

/* For the table's end, when nobody else can be using it: hands every key that is owned to
 * `release`, with its value or 0, and frees everything. */
void ns_table_destroy(ns_table *t, void (*release)(uintptr_t key, uintptr_t value));

#endif
