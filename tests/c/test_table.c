/* Tests core/table/table.h: it behaves as a dictionary, whatever is rebuilt, with any number of
 * threads, across forks.
 */
#include "harness.h"
#include "table/hash.h"
#include "waiting/lock.h"

#include <setjmp.h>
#include <stddef.h>
#include <string.h>

/* If set, called before each store of the table. See "Step by step". */
static _Thread_local void (*at_store)(void);
#undef ns_store
#undef ns_or
#undef ns_and
#undef ns_swap
#define ns_store(p, v, order) \
    (at_store != NULL ? at_store() : (void)0, ns_step atomic_store_explicit((p), (v), order))
#define ns_or(p, v, order) \
    (at_store != NULL ? at_store() : (void)0, ns_step atomic_fetch_or_explicit((p), (v), order))
#define ns_and(p, v, order) \
    (at_store != NULL ? at_store() : (void)0, ns_step atomic_fetch_and_explicit((p), (v), order))
#define ns_swap(p, v, order) \
    (at_store != NULL ? at_store() : (void)0, ns_step atomic_exchange_explicit((p), (v), order))

/* If set, called before the table tries the lock of a buddy. */
static _Thread_local void (*at_try)(ns_lock *);
#define ns_lock_try(l) (at_try != NULL ? at_try(l) : (void)0, (ns_lock_try)(l))

/* If set, called after the table has unlocked a segment that it did not change. */
static _Thread_local void (*at_release)(ns_lock *);
#define ns_lock_release(l) ((ns_lock_release)(l), at_release != NULL ? at_release(l) : (void)0)

/* If set, called before the table frees something. */
static _Thread_local void (*at_free)(void *);
#define free(p) (at_free != NULL ? at_free(p) : (void)0, (free)(p))

/* If set, there is no memory for a directory. */
static _Thread_local bool no_memory;
#define malloc(n) (no_memory ? NULL : (malloc)(n))

/* Memory is never zeroed, so that what the table did not store looks like a live, frozen value. */
static void *
allocate_dirty(size_t alignment, size_t n)
{
    void *p = aligned_alloc(alignment, n);
    if (p != NULL) {
        memset(p, 0xa6, n);
    }
    return p;
}
#define aligned_alloc(alignment, n) allocate_dirty(alignment, n)

/* The tests below make a table's states by hand. */
#include "table/directory.c"
#include "table/housekeeping.c"
#include "table/ownership.c"
#include "table/rebuild.c"
#include "table/retired.c"
#include "table/segment.c"
#include "table/whole.c"
#include "table/writers.c"

#undef aligned_alloc
#undef free
#undef malloc
#undef ns_store
#undef ns_swap
#define ns_store(p, v, order) (ns_step atomic_store_explicit((p), (v), order))
#define ns_swap(p, v, order) (ns_step atomic_exchange_explicit((p), (v), order))

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_disable() ((void)0)
#define __lsan_enable() ((void)0)
#endif

#define THREADS 4
/* SOME scales down what one thread does alone, where neither shaking nor tsan shows anything. */
#ifdef NS_SHAKE
#undef ROUNDS
#define ROUNDS 100 /* each with many steps */
#define SOME(n) ((n) / 15)
#elif defined(__SANITIZE_THREAD__)
#define ROUNDS 3000
#define SOME(n) ((n) / 5)
#else
#define ROUNDS 20000
#define SOME(n) (n)
#endif

/* ---- Stages, by which threads take turns. Relaxed: so they order nothing else, and the thread
 * sanitizer sees what the table itself orders. ---- */

static _Atomic int stage;

static void
reach(int next)
{
    ns_store(&stage, next, NS_RELAXED);
}

static void
wait_until(int reached)
{
    while (ns_load(&stage, NS_RELAXED) < reached) {
        sched_yield();
    }
}

/* ---- Keys. Each insertion allocates one, with plain fields, so that the sanitizer sees a late
 * read. ---- */

typedef struct key {
    uint64_t id;
    _Atomic int references;
} key;

static _Atomic long keys_alive;

static key *
new_key(uint64_t id)
{
    key *k = malloc(sizeof(key));
    CHECK(k != NULL);
    *k = (key){id, 1};
    ns_add(&keys_alive, 1, NS_RELAXED);
    return k;
}

static void
drop_key(uintptr_t word)
{
    key *k = (key *)word;
    if (ns_sub(&k->references, 1, NS_SEQ_CST) == 1) {
        k->id = UINT64_MAX;
        free(k);
        ns_sub(&keys_alive, 1, NS_RELAXED);
    }
}

static enum ns_match
match_key(uintptr_t stored, const void *wanted)
{
    return ((const key *)stored)->id == *(const uint64_t *)wanted ? NS_EQUAL : NS_DIFFERENT;
}

/* ---- Values. Their memory stays, as that of Python objects does. A count of 0 cannot be taken.
 * ---- */

typedef struct value {
    _Atomic int references;
    _Atomic uint64_t id, version;
} value;

#define VALUES 65536
static value values[VALUES];
static _Atomic uint32_t next_value;

static value *
new_value(uint64_t id, uint64_t version)
{
    for (;;) {
        value *v = &values[ns_add(&next_value, 1, NS_RELAXED) % VALUES];
        int none = 0;
        if (ns_load(&v->references, NS_RELAXED) == 0 &&
            ns_cas(&v->references, &none, 1000000, NS_SEQ_CST)) {
            ns_store(&v->id, id, NS_RELAXED);
            ns_store(&v->version, version, NS_RELAXED);
            ns_sub(&v->references, 999999, NS_SEQ_CST);
            return v;
        }
    }
}

static bool
hold_value(uintptr_t word)
{
    value *v = (value *)word;
    int n = ns_load(&v->references, NS_RELAXED);
    while (n > 0) {
        if (ns_cas(&v->references, &n, n + 1, NS_SEQ_CST)) {
            return true;
        }
    }
    return false;
}

static void
hold_surely(uintptr_t word)
{
    CHECK(hold_value(word));
}

static void
drop_value(uintptr_t word)
{
    CHECK(ns_sub(&((value *)word)->references, 1, NS_SEQ_CST) >= 1);
}

static bool
is_value(uintptr_t word)
{
    return word >= (uintptr_t)values && word < (uintptr_t)(values + VALUES);
}

static bool
hold_any(uintptr_t word)
{
    if (is_value(word)) {
        return hold_value(word);
    }
    ns_add(&((key *)word)->references, 1, NS_SEQ_CST);
    return true;
}

static void
drop_any(uintptr_t word)
{
    (is_value(word) ? drop_value : drop_key)(word);
}

static long
values_alive(void)
{
    long n = 0;
    for (int i = 0; i < VALUES; i++) {
        n += ns_load(&values[i].references, NS_RELAXED);
    }
    return n;
}

/* ---- A dictionary of keys and values ---- */

static ns_table table;

static uint64_t (*hash_of)(uint64_t) = ns_hash_mix;

/* Neighbours lie in different segments. With ns_hash_mix 128 of them share one, so that few keys
 * never cause a split. */
static uint64_t
far_apart(uint64_t id)
{
    return ns_hash_mix(id << 7);
}

static uint64_t
same_hash(uint64_t id)
{
    (void)id;
    return UINT64_C(0x123456789abcdef0);
}

static uint64_t
same_top(uint64_t id)
{
    return ns_hash_mix(id) >> 40;
}

/* Four different hashes, in few groups. */
static uint64_t
few_hashes(uint64_t id)
{
    return ns_hash_mix(id % 4) & ~UINT64_C(0xff);
}

/* The version of the key's value, or -1 if there is none. */
static inline int64_t
get_by(uint64_t id, bool (*hold)(uintptr_t))
{
    uintptr_t word;
    if (ns_table_get(&table, hash_of(id), match_key, &id, NULL, hold, drop_value, &word) !=
        NS_PRESENT) {
        return -1;
    }
    value *v = (value *)word;
    CHECK(ns_load(&v->id, NS_RELAXED) == id);
    int64_t version = (int64_t)ns_load(&v->version, NS_RELAXED);
    drop_value(word);
    return version;
}

static int64_t
get(uint64_t id)
{
    return get_by(id, hold_value);
}

static _Thread_local bool under_lock; /* put_key replaces under the lock every other time */

/* Sets the key, or only inserts it with only_new. Returns whether the key was new. */
static bool
put_key(uint64_t id, uint64_t version, bool only_new)
{
    ns_garbage garbage = {.count = 0};
    uint64_t hash = hash_of(id);
    uintptr_t old = 0, k = 0;
    uintptr_t v = (uintptr_t)new_value(id, version);
    ns_segment *s = NULL;
    ns_entry *entry;
    bool is_new = true;
    under_lock = !under_lock;
    if (!only_new && !under_lock) {
        old = ns_table_replace(&table, hash, match_key, &id, 0, v, &s);
        if (old != 0) {
            CHECK(s == NULL && ns_load(&((value *)old)->id, NS_RELAXED) == id);
            drop_value(old);
            return false;
        }
    }
    if (s == NULL) {
        s = ns_table_lock(&table, hash);
        is_new = ns_segment_find(s, hash, match_key, &id, NULL, &entry, &old) == NS_ABSENT;
    }
    if (is_new) {
        old = 0;
        k = (uintptr_t)new_key(id);
        if (!ns_segment_insert(s, hash, k, v, &garbage)) {
            s = ns_table_make_room(&table, s, hash, &garbage);
            CHECK(s != NULL && ns_segment_insert(s, hash, k, v, &garbage));
        }
    }
    else if (only_new) {
        uintptr_t there = ns_entry_hold(entry, hold_surely);
        CHECK(ns_load(&((value *)there)->id, NS_RELAXED) == id);
        drop_value(there);
        old = v;
    }
    else {
        old = ns_entry_replace(entry, 0, v);
    }
    ns_table_unlock(&table, s, &garbage);
    if (old != 0) {
        drop_value(old);
    }
    ns_garbage_release(&garbage, drop_key);
    return is_new;
}

/* Replaces the key's value by one of that version, without the lock. Returns whether that
 * worked. */
static bool
replace_value(uint64_t id, uint64_t version)
{
    uintptr_t v = (uintptr_t)new_value(id, version);
    ns_segment *locked;
    uintptr_t old = ns_table_replace(&table, hash_of(id), match_key, &id, 0, v, &locked);
    CHECK(locked == NULL);
    drop_value(old != 0 ? old : v);
    return old != 0;
}

static bool
delete_key(uint64_t id)
{
    ns_garbage garbage = {.count = 0};
    uint64_t hash = hash_of(id);
    uintptr_t old = 0;
    ns_segment *s = ns_table_lock(&table, hash);
    ns_entry *entry;
    bool there = ns_segment_find(s, hash, match_key, &id, NULL, &entry, &old) == NS_PRESENT;
    if (there) {
        old = ns_segment_remove(&table, s, entry, 0, &garbage);
    }
    ns_table_unlock(&table, s, &garbage);
    if (there) {
        drop_value(old);
    }
    ns_garbage_release(&garbage, drop_key);
    return there;
}

/* Removes any key. Returns its id, or -1 if there was none. */
static int64_t
pop_any(void)
{
    ns_garbage garbage = {.count = 0};
    ns_segment *s = ns_table_lock_first(&table);
    if (s == NULL) {
        return -1;
    }
    CHECK(!ns_table_is_empty(&table));
    uintptr_t v = ns_segment_remove(&table, s, ns_segment_pick(s), 0, &garbage);
    ns_table_unlock(&table, s, &garbage);
    int64_t id = (int64_t)ns_load(&((value *)v)->id, NS_RELAXED);
    drop_value(v);
    ns_garbage_release(&garbage, drop_key);
    return id;
}

/* Walks over all keys. Counts in met[id] how often it meets each id. */
static size_t
walk(uint8_t *met, size_t ids)
{
    static _Thread_local ns_hashed keys[8192];
    uint64_t from = 0;
    size_t total = 0;
    do {
        size_t n = ns_table_page(&table, &from, keys, 8192, hold_any);
        CHECK(n <= 8192);
        for (size_t i = 0; i < n; i++) {
            uint64_t id = ((key *)keys[i].key)->id;
            CHECK(keys[i].hash == hash_of(id));
            if (id < ids && met != NULL) {
                met[id]++;
            }
            drop_key(keys[i].key);
        }
        total += n;
    } while (from != 0);
    return total;
}

static void
flush(void)
{
    uint64_t from = 0;
    bool more;
    do {
        ns_garbage garbage = {.count = 0};
        more = ns_table_flush(&table, &from, &garbage);
        ns_garbage_release(&garbage, drop_key);
    } while (more);
}

/* Empties the table, `capacity` at a time. Before each turn but the first, puts back those that
 * were just taken and are less than `again`. Returns how many it took. */
static size_t
take_all(size_t capacity, bool some, uint64_t again)
{
    static uintptr_t taken[8192];
    uint64_t from = 0;
    size_t total = 0, n;
    bool more;
    do {
        ns_garbage garbage = {.count = 0};
        more = ns_table_take(&table, &from, taken, capacity, some, &n, &garbage);
        if (n > capacity) {
            CHECK(more && n <= 8192 && !some);
            capacity = n;
            n = 0;
        }
        total += n;
        while (n > 0) {
            value *v = (value *)taken[--n];
            uint64_t id = ns_load(&v->id, NS_RELAXED);
            drop_value((uintptr_t)v);
            if (id < again) {
                put_key(id, id, true);
            }
        }
        ns_garbage_release(&garbage, drop_key);
    } while (more);
    return total;
}

static void
release_pair(uintptr_t k, uintptr_t v)
{
    drop_key(k);
    if (v != 0) {
        drop_value(v);
    }
}

static int
count_word(uintptr_t word, void *context)
{
    /* Whatever is visited is alive. */
    CHECK(ns_load(is_value(word) ? &((value *)word)->references : &((key *)word)->references,
                  NS_RELAXED) > 0);
    ++*(long *)context;
    return 0;
}

static long
words_owned(void)
{
    long n = 0;
    CHECK(ns_table_visit(&table, count_word, &n) == 0);
    return n;
}

/* While no other thread runs: the table owns everything that is alive, each thing once. */
static void
check_everything_is_owned_once(void)
{
    CHECK(words_owned() == ns_load(&keys_alive, NS_RELAXED) + values_alive());
}

static void
destroy(void)
{
    check_everything_is_owned_once();
    ns_table_destroy(&table, release_pair);
    memset(&table, 0, sizeof(table));
    CHECK(ns_load(&keys_alive, NS_RELAXED) == 0 && values_alive() == 0);
}

/* ---- One thread ---- */

#define IDS SOME(3000)

static uint32_t seed = 1;

static uint32_t
next_random(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

/* Random operations, which grow and shrink the table by turns, compared with an array. */
static void
check_against_array(int ids, int rounds)
{
    static int64_t model[IDS];
    static uint8_t met[IDS];
    size_t live = 0;
    for (int i = 0; i < ids; i++) {
        model[i] = -1;
    }
    for (int n = 0; n < rounds; n++) {
        int id = (int)(next_random(&seed) % (uint32_t)ids);
        bool growing = n / (ids * 2) % 2 == 0;
        uint32_t what = next_random(&seed) % 8;
        if (what < (growing ? 4U : 1U)) {
            CHECK(put_key((uint64_t)id, (uint64_t)n, false) == (model[id] < 0));
            live += model[id] < 0;
            model[id] = n;
        }
        else if (what < 5) {
            CHECK(delete_key((uint64_t)id) == (model[id] >= 0));
            live -= model[id] >= 0;
            model[id] = -1;
        }
        else if (what == 5 && !growing) {
            int64_t popped = pop_any();
            CHECK((popped < 0) == (live == 0));
            if (popped >= 0) {
                CHECK(model[popped] >= 0);
                model[popped] = -1;
                live--;
            }
        }
        CHECK(get((uint64_t)id) == model[id]);
        if (n % (ids * 2) == 0) {
            CHECK(ns_table_count(&table) == live);
            memset(met, 0, sizeof(met));
            CHECK(walk(met, (size_t)ids) == live);
            for (int i = 0; i < ids; i++) {
                CHECK(get((uint64_t)i) == model[i] && met[i] == (model[i] >= 0));
            }
            check_everything_is_owned_once();
        }
    }
    while (pop_any() >= 0) {
        live--;
    }
    CHECK(live == 0 && ns_table_count(&table) == 0);
}

/* An empty table is small again, however large it was. */
static void
check_emptied_table_is_small(void)
{
    size_t peak;
    CHECK(ns_table_bytes(&table) == 0 && ns_table_count(&table) == 0 && get(1) == -1);
    CHECK(pop_any() == -1);
    put_key(1, 1, false);
    CHECK(ns_table_bytes(&table) < 500);
    for (uint64_t i = 0; i < SOME(20000); i++) {
        put_key(i, i, true);
    }
    peak = ns_table_bytes(&table);
    CHECK(peak > SOME(20000) * 25 && peak < SOME(20000) * 64 * (NS_SEGMENT_MAX < 64 ? 2 : 1));
    for (uint64_t i = 0; i < SOME(20000); i++) {
        CHECK(get(i) >= 0 && delete_key(i));
    }
    flush();
    CHECK(ns_table_bytes(&table) <= 2048 && ns_table_count(&table) == 0);
    destroy();
}

/* A thread that finds no directory may try to make the first one after another thread has. */
static void
check_second_first_directory_is_refused(void)
{
    put_key(1, 1, true);
    CHECK(ns_directory_create(&table) && get(1) == 1);
    destroy();
}

/* If there is another thread, deleted keys wait, and count as dead, until they are freed. */
static void
dead_key_waits_for_other_thread(int i)
{
    (void)i;
    ns_slot();
    put_key(1, 1, true);
    put_key(2, 2, true);
    delete_key(1);
    const ns_segment *s = table.directory->segments[0];
    const size_t bytes = directory_bytes(table.directory) + bytes_of(s);
    CHECK(NS_SWEEP == 1 || (s->dead == 1 && ns_table_bytes(&table) == bytes + NS_DEAD_KEY));
    flush();
    CHECK(s->dead == 0 && s->used == 1);
    destroy();
}

/* More dead keys than one operation can take out wait for only a few more operations. */
static void
many_dead_keys_go_after_few_operations(int i)
{
    (void)i;
    enum { MANY = 4 * NS_GARBAGE };
    if (NS_SEGMENT_MAX < 4 * MANY) {
        return;
    }
    ns_slot();
    for (uint64_t id = 0; id < 2 * MANY; id++) {
        put_key(id, id, true);
    }
    ns_segment *s = table.directory->segments[0];
    CHECK(s->mask + 1 == NS_SEGMENT_MAX / NS_GROUP);
    s->sweep_at = UINT32_MAX;
    for (uint64_t id = 0; id < MANY; id++) {
        delete_key(id);
    }
    CHECK(s->dead == MANY);
    ns_epoch_poll();
    s->sweep_at = 1;
    for (uint64_t id = MANY; id < MANY + 5; id++) {
        delete_key(id);
    }
    CHECK(s == table.directory->segments[0] && s->dead <= 5);
    destroy();
}

/* A sweep takes the keys that died early, even if others died late. */
static void
sweep_takes_keys_that_died_early(int i)
{
    (void)i;
    ns_garbage garbage = {.count = 0};
    ns_slot();
    put_key(1, 1, true);
    put_key(2, 2, true);
    delete_key(1);
    ns_epoch_poll();
    delete_key(2);
    ns_segment *s = ns_table_lock(&table, 0);
    ns_segment_sweep(s, &garbage);
    CHECK(s->dead <= 1); /* 0: another poll was due when the second key was deleted */
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
    destroy();
}

/* While a section is open, a deleted key waits in the limbo list. It has one owner then: the end of
 * the table releases it once. */
static void
key_in_limbo_list_waits_for_section(int i)
{
    (void)i;
    uint64_t id = 0;
    ns_slot();
    while (ns_load(&table.segments, NS_RELAXED) < NS_LIMBO_SPREAD) {
        put_key(id, id, true);
        id++;
    }
    const long alive = ns_load(&keys_alive, NS_RELAXED);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(delete_key(1) && ns_limbo_count(&table.limbo) == 1);
    CHECK(ns_load(&keys_alive, NS_RELAXED) == alive);
    ns_epoch_leave(stray);
    destroy();
}

/* Puts keys until there are limbo lists, and at least so many. Returns how many it put. */
static uint64_t
put_until_lists(uint64_t least)
{
    uint64_t id = 0;
    while (id < least || ns_load(&table.segments, NS_RELAXED) < NS_LIMBO_SPREAD) {
        put_key(id, id, true);
        id++;
    }
    return id;
}

static void
poll_until_safe(void)
{
    const uint64_t stamp = ns_epoch_stamp();
    while (ns_epoch_safe() <= stamp) {
        ns_epoch_poll();
    }
}

/* A list that became full while a section was open is emptied by its thread's next deletions. */
static void
full_limbo_list_is_emptied(int i)
{
    (void)i;
    enum { LEFT = 2 + NS_LIMBO_MAX / NS_GARBAGE };
    ns_slot();
    put_until_lists(NS_LIMBO_MAX + 2 * LEFT);
    ns_section stray = ns_epoch_enter_stray();
    uint64_t id = 0;
    for (; id < NS_LIMBO_MAX + LEFT; id++) {
        CHECK(delete_key(id));
    }
    CHECK(ns_limbo_count(&table.limbo) == NS_LIMBO_MAX);
    ns_epoch_leave(stray);
    poll_until_safe();
    for (int n = 0; n < LEFT; n++) {
        CHECK(delete_key(id++));
    }
    CHECK(ns_limbo_count(&table.limbo) <= LEFT);
    destroy();
}

/* So is one of a table that has become too small for lists. */
static void
limbo_list_of_shrunk_table_is_emptied(int i)
{
    (void)i;
    ns_slot();
    const uint64_t keys = put_until_lists(0);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(delete_key(0) && ns_limbo_count(&table.limbo) == 1);
    while (ns_load(&table.segments, NS_RELAXED) >= NS_LIMBO_SPREAD) {
        CHECK(pop_any() >= 0);
    }
    ns_epoch_leave(stray);
    poll_until_safe();
    for (uint64_t id = 0, deleted = 0; deleted < 1 + NS_LIMBO_MAX / NS_GARBAGE; id++) {
        deleted += id < keys ? delete_key(id) : put_key(id, id, true) && delete_key(id);
    }
    CHECK(ns_limbo_count(&table.limbo) == 0);
    destroy();
}

static void
delete_first(int i)
{
    (void)i;
    ns_slot();
    CHECK(delete_key(0));
}

/* What is in the list of a thread that ended goes with the deletions of others. */
static void
list_of_ended_thread_is_emptied(int i)
{
    (void)i;
    ns_slot();
    put_until_lists(4 * NS_SWEEP + 2);
    ns_section stray = ns_epoch_enter_stray();
    run_threads(1, delete_first);
    CHECK(ns_limbo_count(&table.limbo) == 1);
    ns_epoch_leave(stray);
    poll_until_safe();
    stray = ns_epoch_enter_stray(); /* else this thread would be alone */
    const long alive = ns_load(&keys_alive, NS_RELAXED);
    for (uint64_t id = 1; id <= 2 * NS_SWEEP; id++) {
        CHECK(delete_key(id));
    }
    CHECK(ns_load(&keys_alive, NS_RELAXED) == alive - 1);
    ns_epoch_leave(stray);
    destroy();
}

/* So does what is left in any list, with the deletions of a thread that has become alone. */
static void
lists_are_emptied_by_lone_thread(int i)
{
    (void)i;
    ns_slot();
    put_until_lists(4);
    for (uint64_t id = 1; id < 4; id++) {
        ns_section stray = ns_epoch_enter_stray();
        run_threads(1, delete_first);
        CHECK(ns_limbo_count(&table.limbo) == 1);
        ns_epoch_leave(stray);
        poll_until_safe();
        const long alive = ns_load(&keys_alive, NS_RELAXED);
        CHECK(delete_key(id) && ns_slots_is_alone());
        CHECK(ns_limbo_count(&table.limbo) == 0 && !ns_limbo_may_hold(&table.limbo));
        CHECK(ns_load(&keys_alive, NS_RELAXED) == alive - 2);
        put_key(0, 0, true);
    }
    destroy();
}

/* Suppose that a newcomer opens a section right after a thread found itself alone. The thread then
 * takes out only what that section cannot read. */
static void
lone_thread_leaves_what_newcomer_reads(int i)
{
    (void)i;
    ns_slot();
    put_until_lists(2);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(delete_key(0) && ns_limbo_count(&table.limbo) == 1);
    ns_garbage garbage = {.waits = NS_KEYS_LEFT};
    ns_table_settle_now(&table, &garbage);
    CHECK(garbage.count == 0 && ns_limbo_count(&table.limbo) == 1);
    ns_epoch_leave(stray);
    destroy();
}

static bool
is_of(const ns_segment *s, uint64_t id)
{
    return s->depth == 0 || (hash_of(id) ^ s->prefix) >> (64 - s->depth) == 0;
}

/* As long as a section is open that may have found an entry, the entry keeps its key and its hash:
 * else a replacement in that section could change another key's value. That holds even if the key
 * waits in a limbo list, and if others of the segment may go. */
static void
entry_keeps_key_for_section(int i)
{
    (void)i;
    ns_slot();
    uint64_t id = put_until_lists(0), early = 0, late = 0;
    ns_segment *s = ns_table_lock(&table, hash_of(early));
    while (!is_of(s, ++late)) {
    }
    for (; ns_load(&s->live, NS_RELAXED) < NS_GROUP; id++) { /* else it would shrink */
        ns_lock_release(&s->lock);
        put_key(id, id, true);
        s = ns_table_lock(&table, hash_of(early));
    }
    while (!is_of(s, late)) { /* it was split */
        late++;
    }
    s->sweep_at = UINT32_MAX;
    s->patience = UINT16_MAX;
    ns_entry *entry;
    uintptr_t v;
    const enum ns_found found =
        ns_segment_find(s, hash_of(late), match_key, &late, NULL, &entry, &v);
    CHECK(found == NS_PRESENT);
    const uintptr_t key = ns_load(&entry->key, NS_RELAXED);
    ns_lock_release(&s->lock);
    CHECK(delete_key(early));
    poll_until_safe();
    ns_section stray = ns_epoch_enter_stray();
    CHECK(delete_key(late) && s->dead == 2 && ns_limbo_count(&table.limbo) != 0);
    const uint64_t group = (uint64_t)(entry - s->entries) / NS_GROUP;
    for (int n = 0; n < 2; id++) { /* an insertion looks for an entry to reuse */
        if (is_of(s, id) && (hash_of(id) & s->mask) == group) {
            n++;
            put_key(id, id, true);
            CHECK(ns_load(&entry->key, NS_RELAXED) == key);
            CHECK(ns_load(&entry->hash, NS_RELAXED) == hash_of(late));
        }
    }
    ns_garbage garbage = {.count = 0}; /* and so does a sweep */
    CHECK(ns_table_lock(&table, hash_of(late)) == s);
    ns_segment_sweep(s, &garbage);
    CHECK(s->dead == 1 && ns_load(&entry->key, NS_RELAXED) == key);
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
    ns_epoch_leave(stray);
    destroy();
}

static void
delete_and_put_again(int i)
{
    (void)i;
    ns_slot();
    CHECK(delete_key(1) && put_key(1, 1, true));
}

/* A segment in which two threads delete by turns is split. */
static void
segment_splits_where_threads_delete(int i)
{
    (void)i;
    ns_slot();
    for (uint64_t id = 0; id < NS_GROUP * NS_SMALL + 2; id++) {
        put_key(id, id, true);
    }
    const uint32_t segments = ns_load(&table.segments, NS_RELAXED);
    ns_segment *s = ns_table_lock(&table, hash_of(1));
    const bool splits = s->mask >= NS_SMALL && ns_cpu_count() > 1;
    ns_lock_release(&s->lock);
    for (int turn = 0; splits && ns_load(&table.segments, NS_RELAXED) == segments; turn++) {
        CHECK(turn < 1000);
        delete_and_put_again(0);
        run_threads(1, delete_and_put_again);
    }
    destroy();
}

static void
check_one_thread_with_each_hash(void)
{
    uint64_t (*const hashes[])(uint64_t) = {ns_hash_mix, same_top, few_hashes, same_hash};
    for (unsigned i = 0; i < sizeof(hashes) / sizeof(*hashes); i++) {
        hash_of = hashes[i];
        bool chain = hash_of == same_hash; /* in which each search passes all keys */
        check_against_array(chain ? 200 : IDS, SOME(chain ? 20000 : 60000));
        check_against_array(12, SOME(5000));
        destroy();
    }
    hash_of = ns_hash_mix;
}

/* The search asks the caller to compare outside, and continues where it stopped. */
static uint64_t answered[8];
static int answers;

static enum ns_match
match_by_asking(uintptr_t stored, const void *wanted)
{
    for (int i = 0; i < answers; i++) {
        if (answered[i] == ((key *)stored)->id) {
            return match_key(stored, wanted);
        }
    }
    return NS_UNKNOWN;
}

static void
rebuild(void)
{
    const uint64_t before = table.directory->segments[0]->serial;
    for (uint64_t id = 100; table.directory->segments[0]->serial == before; id++) {
        put_key(id, id, true);
    }
}

/* Rebuilds the segment `times` as large. With 1 only its serial differs, and its counts start at
 * zero. */
static void
rebuild_segment(uint64_t hash, uint32_t times)
{
    ns_garbage garbage = {.count = 0};
    ns_segment *s = ns_table_lock(&table, hash);
    s = ns_rebuild_resize(&table, s, times * slots_of(s), &garbage);
    CHECK(s != NULL);
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
}

/* Asks until the key is found, at most `max` times. */
static enum ns_found
ask(uint64_t wanted, ns_search *place, int max)
{
    enum ns_found found;
    uint64_t word;
    do {
        found = ns_table_get(
            &table, hash_of(wanted), match_by_asking, &wanted, place, hold_any, drop_any, &word);
        if (found != NS_ABSENT) {
            answered[answers % 8] = found == NS_ASK ? ((key *)word)->id : 0;
            answers += found == NS_ASK && answers < 8;
            drop_any(word);
        }
    } while (found == NS_ASK && --max > 0);
    return found;
}

/* The place where a search stopped does not count in a later segment. */
static void
check_place_does_not_count_in_new_segment(void)
{
    ns_search place = {0};
    ns_garbage garbage = {.count = 0};
    hash_of = same_hash;
    answers = 0;
    for (uint64_t id = 0; id < 6; id++) {
        put_key(id, id, true);
    }
    CHECK(ask(5, &place, 3) == NS_ASK);
    for (uint64_t id = 0; id < 5; id++) {
        delete_key(id);
    }
    ns_segment *s = ns_table_lock(&table, hash_of(5));
    /* This moves the key to the front. */
    s = ns_rebuild_resize(&table, s, 2 * slots_of(s), &garbage);
    CHECK(s != NULL);
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
    CHECK(ask(5, &place, 20) == NS_PRESENT);
    destroy();
    hash_of = ns_hash_mix;
}

static void
check_search_continues_after_asking(void)
{
    hash_of = same_hash;
    for (uint64_t i = 0; i < 6; i++) {
        put_key(i, i, false);
    }
    for (int disturb = 0; disturb < 3; disturb++) {
        ns_search place = {0};
        uint64_t wanted = 5, word = 0;
        enum ns_found found;
        answers = 0;
        int asked = 0;
        while ((found = ns_table_get(&table,
                                     hash_of(wanted),
                                     match_by_asking,
                                     &wanted,
                                     &place,
                                     hold_any,
                                     drop_any,
                                     &word)) == NS_ASK) {
            CHECK(asked++ < 20);
            answered[answers % 8] = ((key *)word)->id;
            answers += answers < 8;
            drop_key(word);
            if (disturb == 1 && asked == 3) { /* the segment is rebuilt meanwhile */
                for (uint64_t i = 100; i < 120; i++) {
                    put_key(i, i, false);
                    delete_key(i);
                }
            }
            if (disturb == 2) {
                delete_key(5);
            }
        }
        CHECK(found == (disturb == 2 ? NS_ABSENT : NS_PRESENT));
        if (found == NS_PRESENT) {
            drop_any(word);
        }
        CHECK(asked >= 5);
    }
    /* A key that is inserted in the middle of a search is not in the count in its place. */
    put_key(5, 5, false);
    delete_key(0);
    ns_search place = {0};
    for (answers = 0; answers < 2; answers++) {
        uint64_t wanted = 200, word;
        uint64_t before = answers == 0 ? ns_load(&table.directory->segments[0]->inserts, NS_RELAXED)
                                       : place.inserts;
        CHECK(ns_table_get(&table,
                           hash_of(wanted),
                           match_by_asking,
                           &wanted,
                           &place,
                           hold_any,
                           drop_any,
                           &word) == NS_ASK);
        CHECK(place.inserts == before);
        answered[answers] = ((key *)word)->id;
        drop_key(word);
        put_key(300 + (uint64_t)answers, 0, true);
    }
    destroy();
    hash_of = ns_hash_mix;
}

/* A walk that starts at a place within a segment, as after a merge, sees only what lies behind that
 * place. */
static void
check_walk_from_middle_of_segment(void)
{
    for (uint64_t middle = 0; middle < 5; middle++) {
        uintptr_t taken[5];
        ns_hashed keys[5];
        ns_garbage garbage = {.count = 0};
        size_t behind = 0, n;
        for (uint64_t id = 0; id < 5; id++) {
            put_key(id, id, true);
            behind += hash_of(id) >= hash_of(middle);
        }
        uint64_t from = hash_of(middle);
        n = ns_table_page(&table, &from, keys, 5, hold_any);
        CHECK(n == behind && from == 0);
        while (n > 0) {
            drop_key(keys[--n].key);
        }
        from = hash_of(middle);
        CHECK(!ns_table_take(&table, &from, taken, 5, true, &n, &garbage) && n == behind);
        CHECK(ns_table_count(&table) == 5 - behind);
        while (n > 0) {
            drop_value(taken[--n]);
        }
        ns_garbage_release(&garbage, drop_key);
        destroy();
    }
}

/* A table can be emptied while others put back what is taken. */
static void
check_emptying_while_others_put_back(void)
{
    uint64_t (*const hashes[])(uint64_t) = {ns_hash_mix, few_hashes, same_hash};
    for (unsigned i = 0; i < 3; i++) {
        hash_of = hashes[i];
        CHECK(take_all(64, false, 0) == 0);
        for (uint64_t id = 0; id < 500; id++) {
            put_key(id, id, true);
        }
        CHECK(take_all(5, false, 500) == 500 && ns_table_count(&table) == 500);
        CHECK(take_all(64, false, 100) == 500 && ns_table_count(&table) == 100);
        CHECK(take_all(7, true, 0) == 100 && ns_table_count(&table) == 0);
        flush();
        destroy();
    }
    hash_of = ns_hash_mix;
}

/* ---- Forks: a vanished thread left a change half done ---- */

static void
use_all(uint64_t ids)
{
    for (uint64_t i = 0; i < ids; i++) {
        CHECK(get(i) == (int64_t)i);
        CHECK(!put_key(i, i, true));
    }
    for (uint64_t i = ids; i < 2 * ids; i++) {
        CHECK(put_key(i, i, true));
    }
    CHECK(ns_table_count(&table) == 2 * ids && walk(NULL, 0) == 2 * ids);
    for (uint64_t i = ids; i < 2 * ids; i++) {
        CHECK(delete_key(i));
    }
    flush();
    CHECK(sum(&table, dead_of) + ns_limbo_count(&table.limbo) == 0);
    check_everything_is_owned_once();
}

static ns_segment *half[2];

/* Splits the first segment, but stops after the given step. */
static ns_segment *
begin_rebuild(uint64_t ids, int step)
{
    for (uint64_t i = 0; i < ids; i++) {
        put_key(i, i, true);
    }
    ns_segment *s = ns_table_lock(&table, 0);
    uint8_t depth = s->depth + 1;
    uint64_t middle = s->prefix | lowest_bit_of_prefix(depth);
    half[0] = ns_segment_new(&table, s->prefix, depth, 8 * NS_SEGMENT_MAX);
    half[1] = ns_segment_new(&table, middle, depth, 8 * NS_SEGMENT_MAX);
    fill(s, half);
    ns_structure_lock(&table);
    ns_directory *d = table.directory;
    if (depth > d->depth) {
        d = double_directory(&table, d);
    }
    if (step >= 1) {
        note(&table, (ns_segment *[2]){s, NULL}, half);
    }
    if (step >= 2) {
        put(d, half[0]);
    }
    if (step >= 3) {
        put(d, half[1]);
    }
    if (step >= 4) {
        ns_store(&s->state, NS_MOVED, NS_RELEASE);
    }
    if (step >= 5) {
        ns_store(&half[0]->state, NS_CURRENT, NS_RELEASE);
    }
    if (step >= 6) {
        ns_store(&half[1]->state, NS_CURRENT, NS_RELEASE);
    }
    if (step >= 7) {
        ns_lock_release(&s->lock);
    }
    if (step >= 8) {
        ns_retired_add(&table, s, ns_epoch_stamp());
    }
    return s;
}

/* After the given step: a value can be replaced if no older segment can answer for it. */
static void
replace_in_rebuild(uint64_t ids, int step)
{
    const uint64_t middle = half[1]->prefix, end = ns_segment_end(half[1]);
    for (uint64_t id = 0; id < ids; id++) {
        const uint64_t hash = hash_of(id);
        const bool rebuilt = hash < end || end == 0;
        CHECK(replace_value(id, id) == (!rebuilt || step >= (hash < middle ? 5 : 6)));
    }
}

static void
end_rebuild(int step)
{
    destroy();
    if (step == 0) { /* no other thread ever saw them */
        free(half[0]);
        free(half[1]);
    }
}

/* A fork cuts a rebuild short after each of its steps. */
static void
check_fork_cuts_rebuild_short(int step)
{
    const uint64_t ids = 5 * NS_SEGMENT_MAX;
    begin_rebuild(ids, step);
    replace_in_rebuild(ids, step);
    pretend_to_fork();
    check_everything_is_owned_once();
    for (uint64_t i = 0; i < ids; i++) {
        CHECK(get(i) == (int64_t)i);
    }
    check_everything_is_owned_once();
    use_all(ids);
    end_rebuild(step);
}

static ns_segment *reading; /* what the thread in the child is reading */

static void
flush_beside(int i)
{
    (void)i;
    ns_slot();
    flush();
}

static void
let_others_flush(void)
{
    bool published = !(ns_load(&table.structure.word, NS_RELAXED) & NS_LOCK_HELD);
    if (published && ns_retired_has(&table, reading)) {
        at_store = NULL;
        run_threads(1, flush_beside);
        CHECK(ns_retired_has(&table, reading));
        reading = NULL;
    }
}

/* A thread of the child, alone so far, comes to the old segment of a rebuild that was cut short. It
 * finishes the rebuild, which retires that segment. It goes on reading the segment while another
 * thread comes and frees what can be freed. */
static void
child_reads_abandoned_segment(void)
{
    ns_slot();
    CHECK(ns_slots_in_use() == 1);
    ns_segment *const old = begin_rebuild(5 * NS_SEGMENT_MAX, 1);
    reading = old;
    pretend_to_fork();
    at_store = let_others_flush;
    ns_lock_release(&ns_table_lock(&table, 0)->lock);
    at_store = NULL;
    CHECK(reading == NULL && ns_retired_has(&table, old) && state_of(old) == NS_MOVED);
    /* It repaired the old segment, and its values can no longer be replaced: they have moved to
     * others. */
    for (uint32_t i = 0; i < slots_of(old); i++) {
        const uintptr_t value = ns_load(&old->entries[i].value, NS_RELAXED);
        CHECK(!is_used(old, i) || !ns_is_live(value) || (value & NS_FROZEN));
    }
    use_all(5 * NS_SEGMENT_MAX);
    end_rebuild(1);
}

/* A fork cuts an insertion or a deletion short. */
static void
check_fork_cuts_change_short(int step)
{
    const uint64_t ids = 5;
    for (uint64_t i = 0; i < ids; i++) {
        put_key(i, i, true);
    }
    uint64_t hash = hash_of(77), wanted = 2;
    ns_segment *s = ns_table_lock(&table, hash);
    uint32_t g = (uint32_t)hash & s->mask;
    size_t i = g * NS_GROUP + ns_tag_index(ns_tags_zero(s->tags[g]));
    uintptr_t key = 0;
    if (step >= 1 && step <= 3) {
        ns_store(&s->entries[i].value, 0, NS_RELAXED);
        key = (uintptr_t)new_key(77);
        ns_store(&s->entries[i].key, key, NS_RELAXED);
    }
    if (step >= 2 && step <= 3) {
        ns_store(&s->entries[i].hash, hash, NS_RELAXED);
        set_tag(s, i, ns_tag(hash));
    }
    if (step == 3) {
        ns_store(&s->entries[i].value, (uintptr_t)new_value(77, 77), NS_RELEASE);
    }
    if (step == 4) {
        ns_entry *entry;
        uintptr_t v;
        CHECK(ns_segment_find(s, hash_of(2), match_key, &wanted, NULL, &entry, &v) == NS_PRESENT);
        drop_value(ns_swap(&entry->value, 0, NS_SEQ_CST));
    }
    pretend_to_fork();
    if (step == 1) { /* without a tag the entry is unused: the table leaks the key */
        drop_key(key);
    }
    check_everything_is_owned_once();
    CHECK(get(77) == (step == 3 ? 77 : -1) && get(2) == (step == 4 ? -1 : 2));
    CHECK(put_key(2, 2, true) == (step == 4));
    CHECK(delete_key(77) == (step == 3));
    check_everything_is_owned_once();
    flush();
    CHECK(sum(&table, dead_of) + ns_limbo_count(&table.limbo) == 0);
    use_all(ids);
    destroy();
}

/* ---- Step by step: before each store of a change others read the table, or a fork stops it there
 * ---- */

#define STEPPED (NS_SEGMENT_MAX < 64 ? 64 : NS_SEGMENT_MAX + 100) /* keys; enough for a split */
#define CUTS 150

static int64_t stepped[STEPPED]; /* the version that was put; -1: none */
static uint64_t changing; /* the key that is being changed, to `changed` */
static int64_t changed;
static bool change_seen;

static long steps, cut;
#define CRITICALS 8192
static long critical[CRITICALS], criticals; /* steps at which a rebuild is being published */
static uint32_t most_segments;
static jmp_buf gone;

static void
look(uint64_t id)
{
    int64_t version = get(id);
    if (id != changing) {
        CHECK(version == stepped[id]);
        return;
    }
    /* Readers see the old version or the new one, and never the old after the new. */
    CHECK(version == changed || (version == stepped[id] && !change_seen));
    change_seen = version == changed;
}

/* A segment whose values may be replaced is the only one that answers for them. */
static void
check_states(void)
{
    for (int i = 0; ns_load(&table.old[0], NS_RELAXED) != NULL && i < 2; i++) {
        const ns_segment *s = ns_load(&table.new[i], NS_RELAXED);
        for (int k = 0; s != NULL && state_of(s) == NS_CURRENT && k < 2; k++) {
            const ns_segment *old = ns_load(&table.old[k], NS_RELAXED);
            CHECK(old == NULL || state_of(old) == NS_MOVED);
        }
    }
}

static void
step(void)
{
    at_store = NULL;
    steps++;
    if (steps == cut) {
        longjmp(gone, 1);
    }
    if (cut < 0) { /* read the table */
        check_states();
        look(changing);
        for (int i = 0; i < 6; i++) {
            look((uint64_t)(steps * 7 + i * 11) % STEPPED);
        }
        const uint32_t segments = ns_load(&table.segments, NS_RELAXED);
        most_segments = segments > most_segments ? segments : most_segments;
        if ((ns_load(&table.structure.word, NS_RELAXED) & NS_LOCK_HELD) && criticals < CRITICALS) {
            critical[criticals++] = steps;
        }
    }
    at_store = step;
}

/* No list that the child of a fork would find has something that is freed. */
static void
check_unlinked(void *p)
{
    ns_directory *d = ns_load(&table.directory, NS_RELAXED);
    CHECK(p == NULL || !ns_retired_has(&table, p));
    CHECK(p != d && (d == NULL || p != ns_load(&d->segments[0], NS_RELAXED)));
    d = ns_load(&table.retired_directories, NS_RELAXED);
    for (; d != NULL; d = ns_load(&d->next, NS_RELAXED)) {
        CHECK(p != d);
    }
}

static void
change(uint64_t id, int64_t version)
{
    changing = id;
    changed = version;
    change_seen = false;
    at_store = step;
    at_free = check_unlinked;
    if (version < 0) {
        delete_key(id);
    }
    else {
        put_key(id, (uint64_t)version, false);
    }
    at_store = NULL;
    at_free = NULL;
    stepped[id] = version;
    CHECK(get(id) == version);
}

/* Grows the table from nothing, and shrinks it again. */
static void
change_all(void)
{
    for (uint64_t id = 0; id < STEPPED; id++) {
        stepped[id] = -1;
    }
    steps = 0;
    for (uint64_t id = 0; id < STEPPED; id++) {
        change(id, (int64_t)id);
        if (id % 8 == 7) {
            change(id - 7, 1000);
            change(id - 3, -1);
            change(id - 3, 1001);
        }
    }
    for (uint64_t id = 0; id < STEPPED - 3; id++) {
        change(id, -1);
    }
}

/* A fork stopped a change. The child finds the table before the change or after it, and whole. At
 * most so many keys and values are lost. Destroys the table. */
static void
check_table_is_whole_after_fork(uint64_t ids, long lost)
{
    size_t live = 0;
    for (uint64_t id = 0; id < ids; id++) {
        int64_t version = get(id);
        CHECK(version == stepped[id] || (id == changing && version == changed));
        live += version >= 0;
    }
    /* Something may be lost, but nothing is owned twice. */
    long alive = ns_load(&keys_alive, NS_RELAXED) + values_alive(), owned = words_owned();
    CHECK(owned >= 2 * (long)live && owned <= alive && alive - owned <= lost);
    for (uint64_t id = 0; id < ids; id++) { /* this takes every lock once */
        live += put_key(id, id, false);
    }
    CHECK(live == ids && ns_table_count(&table) == live && walk(NULL, 0) == live);
    CHECK(owned - words_owned() <= NS_GARBAGE + 1);
    for (uint64_t id = 0; id < ids; id++) {
        CHECK(get(id) == (int64_t)id && delete_key(id));
    }
    flush();
    CHECK(ns_table_count(&table) == 0 && words_owned() == 0 && table.retired == NULL);
    ns_table_destroy(&table, release_pair);
    memset(&table, 0, sizeof(table));
    /* what the vanished thread had in its hands */
    ns_store(&keys_alive, 0, NS_RELAXED);
    for (int i = 0; i < VALUES; i++) {
        ns_store(&values[i].references, 0, NS_RELAXED);
    }
}

static void
check_fork_leaves_changes_whole(long at)
{
    cut = at;
    if (setjmp(gone) == 0) {
        change_all();
    }
    at_store = NULL;
    at_free = NULL;
    pretend_to_fork();
    /* also a segment that was about to be freed */
    check_table_is_whole_after_fork(STEPPED, NS_GARBAGE + 3 + NS_SEGMENT_MAX);
}

static void
step_through(int i)
{
    (void)i;
    ns_slot(); /* check_changes_step_by_step runs this with another thread and without */
    __lsan_disable();
    hash_of = far_apart;
    cut = -1;
    criticals = 0;
    change_all();
    CHECK(most_segments >= 2);
    destroy();
    const long all = steps;
    for (long n = 0; n < CUTS; n++) {
        check_fork_leaves_changes_whole(1 + n * all / CUTS);
        check_fork_leaves_changes_whole(critical[n * criticals / CUTS]);
    }
    hash_of = ns_hash_mix;
    __lsan_enable();
}

__attribute__((unused)) static void
check_changes_step_by_step(void)
{
    step_through(0); /* alone: nothing has to wait */
    run_threads(1, step_through);
}

/* ---- A fork before each store of one change, beside an open section ---- */

#define FEW 12

static void
put_few(uint64_t first, uint64_t end)
{
    for (uint64_t id = first; id < end; id++) {
        put_key(id, id, true);
        stepped[id] = (int64_t)id;
    }
}

/* The entry keeps the key, as the open section may read it. */
static void
delete_one(uint64_t id)
{
    CHECK(delete_key(id));
    stepped[id] = -1;
}

static void
put_keys_of_one_segment(void)
{
    put_few(0, 5);
    delete_one(0);
}

static void
resize_first(void)
{
    rebuild_segment(0, 2);
}

static void
split_first(void)
{
    ns_garbage garbage = {.count = 0};
    uint32_t counts[2];
    ns_segment *s = ns_table_lock(&table, 0);
    count_halves(s, counts);
    s = split(&table, s, counts, 0, &garbage);
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
}

static void
put_keys_of_two_segments(void)
{
    put_few(0, 5);
    split_first();
    put_few(5, 8);
    delete_one(0);
    delete_one(5);
}

static void
merge_first(void)
{
    ns_garbage garbage = {.count = 0};
    ns_segment *s = ns_rebuild_merge(&table, ns_table_lock(&table, 0), &garbage);
    CHECK(s != NULL);
    ns_lock_release(&s->lock);
    ns_garbage_release(&garbage, drop_key);
}

static void
put_keys_of_table_with_lists(void)
{
    put_few(0, 5);
    ns_store(&table.spread, 1000, NS_RELAXED); /* no merges */
    while (ns_load(&table.segments, NS_RELAXED) < NS_LIMBO_SPREAD) {
        split_first();
    }
}

static uint64_t
first_group(uint64_t id)
{
    return ns_hash_mix(id) & ~UINT64_C(0xff);
}

/* Makes an entry DELETED: it was in a full group, and its key was freed. */
static void
free_key_of_full_group(void)
{
    hash_of = first_group;
    put_few(0, NS_GROUP + 1);
    ns_segment *s = ns_table_lock(&table, hash_of(0));
    uint64_t id = 0;
    ns_entry *entry;
    uintptr_t v;
    CHECK(ns_segment_find(s, hash_of(id), match_key, &id, NULL, &entry, &v) == NS_PRESENT);
    const size_t index = (size_t)(entry - s->entries);
    drop_key(ns_load(&entry->key, NS_RELAXED));
    drop_value(v);
    bump(&s->live, UINT32_MAX);
    free_entry(s, index);
    CHECK(tag_at(s, index) == NS_TAG_DELETED);
    ns_lock_release(&s->lock);
    stepped[id] = -1;
}

static void
put_changing(void)
{
    put_key(changing, (uint64_t)changed, true);
}

static void
delete_changing(void)
{
    delete_key(changing);
}

/* Stops the change before its first store, then before its second one, and so on. */
static void
check_fork_at_each_store(void (*prepare)(void), void (*apply)(void), uint64_t id, int64_t version,
                         long lost)
{
    volatile bool is_over = false;
    __lsan_disable();
    for (volatile long n = 1; !is_over; n++) {
        for (uint64_t i = 0; i < FEW; i++) {
            stepped[i] = -1;
        }
        const ns_section stray = ns_epoch_enter_stray();
        hash_of = far_apart;
        prepare();
        changing = id;
        changed = version;
        steps = 0;
        cut = n;
        if (setjmp(gone) == 0) {
            at_store = step;
            apply();
            is_over = true;
        }
        at_store = NULL;
        pretend_to_fork();
        ns_epoch_leave(stray);
        check_table_is_whole_after_fork(FEW, lost);
        hash_of = ns_hash_mix;
    }
    __lsan_enable();
}

__attribute__((unused)) static void
check_fork_leaves_each_change_whole(void)
{
    /* A rebuild loses nothing. Who puts or deletes may have a key and a value in its hands. */
    check_fork_at_each_store(put_keys_of_one_segment, resize_first, FEW, -1, 0);
    check_fork_at_each_store(put_keys_of_one_segment, split_first, FEW, -1, 0);
    check_fork_at_each_store(put_keys_of_two_segments, merge_first, FEW, -1, 0);
    check_fork_at_each_store(put_keys_of_one_segment, put_changing, 0, 7, 2);
    check_fork_at_each_store(free_key_of_full_group, put_changing, 0, 7, 2);
    check_fork_at_each_store(put_keys_of_one_segment, delete_changing, 1, -1, 1);
    check_fork_at_each_store(put_keys_of_table_with_lists, delete_changing, 1, -1, 2);
}

/* ---- The list of retired segments, as a fork would find it: only its first may get lost ---- */

static size_t waiting;

static void
check_retired_list_loses_one_at_most(void)
{
    size_t n = 0;
    ns_segment *s = ns_load(&table.retired, NS_RELAXED);
    for (; s != NULL; s = ns_load(&s->next, NS_RELAXED)) {
        n++;
    }
    CHECK(n + 1 >= waiting);
    waiting = n;
}

static void
check_retired_segments_are_freed(void)
{
    const uint64_t ids = 5 * NS_SEGMENT_MAX;
    ns_section stray = ns_epoch_enter_stray(); /* so that they pile up */
    at_store = check_retired_list_loses_one_at_most;
    for (uint64_t id = 0; id < ids; id++) {
        put_key(id, id, true);
    }
    const size_t peak = waiting;
    CHECK(peak > 2);
    ns_epoch_leave(stray);
    ns_epoch_poll(); /* the table itself polls only at intervals */
    for (uint64_t id = ids; id < 2 * ids; id++) {
        put_key(id, id, true);
    }
    at_store = NULL;
    CHECK(waiting < peak);
    destroy();
}

/* A retired segment goes when it is safe, although others were retired later. */
static void
segment_retired_early_is_freed_first(int i)
{
    (void)i;
    ns_slot();
    put_key(1, 1, true);
    rebuild_segment(hash_of(1), 1);
    const ns_segment *early = ns_load(&table.retired, NS_RELAXED);
    CHECK(early != NULL);
    poll_until_safe();
    rebuild_segment(hash_of(1), 1);
    const ns_segment *late = ns_load(&table.retired, NS_RELAXED);
    CHECK(late != NULL && late != early && ns_load(&late->next, NS_RELAXED) == NULL);
    destroy();
}

/* ---- Other threads come between two reads of one search ---- */

static void (*meanwhile)(int);
static uintptr_t seen; /* the value that was found, before a reference is taken */

static bool
hold_late(uintptr_t word)
{
    if (meanwhile != NULL) {
        void (*others)(int) = meanwhile;
        meanwhile = NULL;
        seen = word;
        run_threads(1, others);
    }
    return hold_value(word);
}

/* Puts another key, whose value gets the memory of the one that was seen. */
static void
use_memory_again(void)
{
    CHECK(ns_load(&((value *)seen)->references, NS_RELAXED) == 0);
    ns_store(&next_value, (uint32_t)((value *)seen - values), NS_RELAXED);
    CHECK(put_key(2, 7, true) && ns_load(&((value *)seen)->id, NS_RELAXED) == 2);
}

static void
replace_it(int i)
{
    (void)i;
    CHECK(!put_key(1, 2, false));
    use_memory_again();
}

static void
delete_it(int i)
{
    (void)i;
    CHECK(delete_key(1));
    use_memory_again();
}

static void
rebuild_and_replace_it(int i)
{
    rebuild();
    replace_it(i);
}

static void
rebuild_and_delete_it(int i)
{
    rebuild();
    delete_it(i);
}

static ns_segment *rebuilt, *filled; /* the old segment and the new one of a rebuild that began */

/* Its values are frozen. */
static void
fill_another_segment(void)
{
    rebuilt = ns_table_lock(&table, 0);
    filled = ns_segment_new(&table, rebuilt->prefix, rebuilt->depth, 2 * slots_of(rebuilt));
    CHECK(filled != NULL);
    fill(rebuilt, (ns_segment *[2]){filled, NULL});
}

static void
publish_filled(void)
{
    ns_garbage garbage = {.count = 0};
    ns_directory_replace(
        &table, (ns_segment *[2]){rebuilt, NULL}, (ns_segment *[2]){filled, NULL}, &garbage);
    ns_lock_release(&filled->lock);
    ns_garbage_release(&garbage, drop_key);
}

static void
publish_and_replace_it(int i)
{
    publish_filled();
    replace_it(i);
}

static void
publish_and_delete_it(int i)
{
    publish_filled();
    delete_it(i);
}

/* A reference to whatever came into a value's memory is not a reference to the value. If the search
 * found the value frozen, the old entry keeps it, and only the segment's mark shows the change. */
static void
check_reused_value_memory_is_noticed(void)
{
    static void (*const others[])(int) = {
        replace_it,
        delete_it,
        rebuild_and_replace_it,
        rebuild_and_delete_it,
        publish_and_replace_it,
        publish_and_delete_it,
    };
    for (int i = 0; i < 6; i++) {
        put_key(1, 1, true);
        if (i >= 4) {
            fill_another_segment();
        }
        meanwhile = others[i];
        CHECK(get_by(1, hold_late) == (i % 2 == 0 ? 2 : -1));
        CHECK(meanwhile == NULL);
        flush();
        destroy();
    }
}

/* ---- Other threads come between the search of a replacement and its lock, and while a value is
 * held ---- */

static ns_entry *half_in;

static void
insert_meanwhile(int i)
{
    (void)i;
    CHECK(put_key(1, 1, true));
}

static void
rebuild_meanwhile(int i)
{
    (void)i;
    rebuild_segment(hash_of(1), 1);
}

static void
let_others_change(ns_lock *l)
{
    (void)l;
    at_try = NULL;
    run_threads(1, meanwhile);
}

/* Ends the insertion that check_key_inserted_before_lock_is_found began by hand. */
static void
end_insertion(ns_lock *l)
{
    ns_segment *s = table.directory->segments[0];
    at_try = NULL;
    ns_store(&half_in->value, (uintptr_t)new_value(1, 1), NS_RELEASE);
    s->used++;
    bump(&s->live, 1);
    ns_store(&s->inserts, s->inserts + 1, NS_RELEASE);
    ns_lock_release(l);
}

/* A search finds no key, then the key is inserted, then the lock is taken: the key counts as
 * present. */
static void
check_key_inserted_before_lock_is_found(void)
{
    void (*const others[])(int) = {insert_meanwhile, rebuild_meanwhile, insert_meanwhile};
    for (int i = 0; i < 3; i++) {
        put_key(0, 0, true);
        if (i == 2) { /* its own group is full, so the key goes into a later one */
            hash_of = first_group;
            for (uint64_t id = 2, n = 0; n < NS_GROUP + 1; id++) {
                if (ns_tag(hash_of(id)) != ns_tag(hash_of(1))) {
                    put_key(id, id, true);
                    n++;
                }
            }
        }
        meanwhile = others[i];
        at_try = let_others_change;
        CHECK(!replace_value(1, 2)); /* and no segment stays locked */
        CHECK(at_try == NULL && get(1) == (i != 1 ? 1 : -1));
        flush();
        destroy();
        hash_of = ns_hash_mix;
    }
    meanwhile = NULL;
    put_key(0, 0, true);
    ns_segment *s = ns_table_lock(&table, hash_of(1));
    half_in = &s->entries[1];
    CHECK(s->mask == 0 && !is_used(s, 1));
    ns_store(&half_in->value, 0, NS_RELAXED);
    ns_store(&half_in->key, (uintptr_t)new_key(1), NS_RELAXED);
    ns_store(&half_in->hash, hash_of(1), NS_RELAXED);
    set_tag(s, 1, ns_tag(hash_of(1)));
    at_try = end_insertion;
    CHECK(!replace_value(1, 2) && at_try == NULL && get(1) == 1);
    CHECK(!put_key(1, 3, true) && get(1) == 1 && ns_table_count(&table) == 2);
    destroy();
}

static void
hold_meanwhile(uintptr_t word)
{
    CHECK(!replace_value(1, 2));
    hold_surely(word);
}

/* While a reference is taken under the lock, nobody takes the value out. */
static void
check_held_value_is_not_replaced(void)
{
    const uint64_t id = 1;
    ns_garbage garbage = {.count = 0};
    ns_entry *entry;
    uintptr_t word;
    put_key(id, 1, true);
    ns_segment *s = ns_table_lock(&table, hash_of(id));
    CHECK(ns_segment_find(s, hash_of(id), match_key, &id, NULL, &entry, &word) == NS_PRESENT);
    CHECK(ns_entry_hold(entry, hold_meanwhile) == word);
    drop_value(word);
    CHECK(replace_value(id, 3)); /* the lock alone does not prevent it */
    ns_table_unlock(&table, s, &garbage);
    CHECK(get(id) == 3);
    destroy();
}

/* A split finds no memory for a larger directory. Nothing has changed then. */
static void
check_split_without_memory_changes_nothing(void)
{
    const uint64_t ids = 5;
    ns_garbage garbage = {.count = 0};
    uint32_t counts[2];
    for (uint64_t id = 0; id < ids; id++) {
        put_key(id, id, true);
    }
    ns_segment *s = ns_table_lock(&table, 0);
    count_halves(s, counts);
    no_memory = true;
    CHECK(split(&table, s, counts, 0, &garbage) == NULL);
    no_memory = false;
    CHECK(state_of(s) == NS_CURRENT);
    ns_table_unlock(&table, s, &garbage);
    for (uint64_t id = 0; id < ids; id++) {
        CHECK(replace_value(id, id + 1) && get(id) == (int64_t)id + 1);
    }
    destroy();
}

/* A buddy is rebuilt after it was found and before it is locked. */
static uint64_t buddy;

static ns_segment *
segment_of_lock(ns_lock *l)
{
    return (ns_segment *)((char *)l - offsetof(ns_segment, lock));
}

static void
rebuild_buddy(int i)
{
    (void)i;
    rebuild_segment(buddy, 2);
}

/* Whether this thread is in the middle of a change: it holds the lock of some segment. */
static bool
holds_any(void)
{
    uint64_t i = 0;
    ns_segment *s;
    while ((s = next_in(table.directory, &i)) != NULL) {
        if (ns_load(&s->lock.word, NS_RELAXED) & NS_LOCK_STATE) {
            return true;
        }
    }
    return false;
}

static void
before_try(ns_lock *l)
{
    if (!holds_any()) { /* not a buddy's */
        return;
    }
    at_try = NULL;
    buddy = segment_of_lock(l)->prefix;
    run_threads(1, rebuild_buddy);
}

static void
check_merge_with_rebuilt_buddy(void)
{
    hash_of = far_apart;
    for (uint64_t id = 0; id < STEPPED; id++) {
        put_key(id, id, true);
    }
    at_try = before_try;
    for (uint64_t id = 0; id < STEPPED - 3; id++) {
        CHECK(delete_key(id));
    }
    at_try = NULL; /* small segments may not have had a buddy */
    CHECK(ns_table_count(&table) == 3 && walk(NULL, 0) == 3);
    flush();
    destroy();
    hash_of = ns_hash_mix;
}

static ns_segment *slept_for;

static void
let_writer_sleep_for_buddy(void)
{
    if (ns_load(&slept_for->lock.word, NS_RELAXED) & NS_LOCK_STATE) {
        at_store = NULL;
        reach(1);
        while (ns_load(&slept_for->sleepers, NS_RELAXED) == 0) {
            sched_yield();
        }
    }
}

static void
merge_or_put(int i)
{
    if (i == 0) {
        at_store = let_writer_sleep_for_buddy;
        merge_first();
        CHECK(at_store == NULL);
    }
    else {
        wait_until(1);
        put_key(buddy, 1, true);
    }
}

/* A writer that sleeps for the buddy gets the buddy's lock after the merge. */
static void
check_merge_unlocks_buddy(void)
{
    hash_of = far_apart;
    for (uint64_t id = 0; id < 5; id++) {
        put_key(id, id, true);
    }
    split_first();
    slept_for = table.directory->segments[1];
    buddy = 5;
    while (hash_of(buddy) < slept_for->prefix) {
        buddy++;
    }
    reach(0);
    run_threads(2, merge_or_put);
    CHECK(get(buddy) == 1 && ns_table_count(&table) == 6);
    destroy();
    hash_of = ns_hash_mix;
}

/* The only item moves while ns_table_lock_first searches. Whenever the search found a segment at
 * one end empty, the item moves there from the other end. The table is never empty. */
static uint64_t ends[2]; /* keys of the first segment and of the last */
static int item_at, moves; /* the end where it is; how many moves are left */
static bool rebuild_too;

static void
move_item(ns_lock *l)
{
    ns_segment *s = segment_of_lock(l);
    int at = s->prefix == 0 ? 0 : ns_segment_end(s) == 0 ? 1 : item_at;
    if (at == item_at || moves == 0) {
        return;
    }
    at_release = NULL;
    CHECK(put_key(ends[at], 0, true) && delete_key(ends[item_at]));
    for (int i = 0; rebuild_too && i < 2; i++) {
        rebuild_segment(hash_of(ends[i]), 1);
    }
    item_at = at;
    moves--;
    at_release = move_item;
}

/* The only item moves from one end to the other and back. The table is never empty. */
static void
swing_item(int i)
{
    static _Atomic bool over;
    for (int round = 0; i == 0 && round < ROUNDS; round++) {
        CHECK(put_key(ends[1 - round % 2], 0, true));
        CHECK(delete_key(ends[round % 2]));
    }
    if (i == 0) {
        ns_store(&over, true, NS_RELAXED);
    }
    while (!ns_load(&over, NS_RELAXED)) {
        CHECK(!ns_table_is_empty(&table));
    }
}

static void
check_moving_item_is_found(void)
{
    put_key(0, 0, true);
    ns_store(&table.spread, 1000, NS_RELAXED); /* segments stay, however empty */
    for (uint64_t i = 0, id; i < STEPPED; i++) {
        put_key(id = i << 7, 0, false); /* each 128 neighbours share a segment */
        ends[0] = hash_of(id) < hash_of(ends[0]) ? id : ends[0];
        ends[1] = hash_of(id) > hash_of(ends[1]) ? id : ends[1];
    }
    for (uint64_t i = 0; i < STEPPED; i++) {
        CHECK(i << 7 == ends[1] || delete_key(i << 7));
    }
    CHECK(ns_table_count(&table) == 1 && ns_load(&table.segments, NS_RELAXED) > 1);
    item_at = 1;
    for (int turn = 0; turn < 4; turn++) {
        rebuild_too = turn >= 2;
        moves = 12;
        ns_store(&table.start, 0, NS_RELAXED);
        at_release = move_item;
        ns_segment *s = ns_table_lock_first(&table);
        at_release = NULL;
        CHECK(s != NULL && ns_load(&s->live, NS_RELAXED) == 1 && moves == 0);
        ns_lock_release(&s->lock);
    }
    CHECK(!ns_table_is_empty(&table));
    ns_store(&table.start, hash_of(ends[1 - item_at]), NS_RELAXED);
    CHECK(!ns_table_is_empty(&table)); /* from now on it starts where the item is */
    CHECK(ns_load(&table.start, NS_RELAXED) != hash_of(ends[1 - item_at]));
    CHECK(pop_any() == (int64_t)ends[item_at] && pop_any() == -1 && ns_table_is_empty(&table));
    put_key(ends[0], 0, false);
    run_threads(THREADS, swing_item);
    CHECK(pop_any() == (int64_t)ends[0] && pop_any() == -1 && ns_table_is_empty(&table));
    flush();
    destroy();
    CHECK(ns_table_is_empty(&table)); /* without a directory too */
}

/* While a segment is emptied, no group is searched twice, however few entries are left. */
static void
check_pick_searches_no_group_twice(void)
{
    for (uint64_t id = 0; id < STEPPED; id++) {
        put_key(id, 0, true);
    }
    ns_segment *before = NULL;
    uint32_t cursor = 0, inserts = 0;
    for (int64_t left = STEPPED; left > 0; left--) {
        ns_segment *s = ns_table_lock_first(&table);
        if (s == before) { /* the same segment: the search goes on */
            CHECK(s->cursor >= cursor);
        }
        ns_segment_pick(s);
        before = s;
        cursor = s->cursor;
        ns_lock_release(&s->lock);
        CHECK(pop_any() >= 0);
        if (inserts++ % 8 == 0) { /* a new key may come behind the cursor */
            put_key((uint64_t)(STEPPED + left), 0, true);
            left++;
            before = NULL;
        }
    }
    CHECK(ns_table_is_empty(&table));
    flush();
    destroy();
}

/* ---- Many threads ---- */

#define STABLE 64 /* no id below it is ever deleted */
#define CHURNED 256

static _Atomic long inserted, deleted;

static void
operate_at_random(int i)
{
    uint32_t state = (uint32_t)i * 7919 + 13;
    int64_t versions[STABLE] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t stable = next_random(&state) % STABLE;
        uint64_t id = STABLE + next_random(&state) % (round / 1000 % 2 ? CHURNED : 16);
        uint32_t what = next_random(&state) % 16;
        /* These ids are always present, so no read misses one. And the versions of a key never go
         * back. */
        int64_t version = get(stable);
        CHECK(version >= 0 && version >= versions[stable]);
        versions[stable] = version;
        if (stable % THREADS == (unsigned)i) { /* this thread is its only writer */
            put_key(stable, (uint64_t)version + 1, false);
            CHECK(get(stable) == version + 1);
            versions[stable] = version + 1;
        }
        if (what < 6) {
            ns_add(&inserted, put_key(id, (uint64_t)round, what < 3), NS_RELAXED);
        }
        else if (what < 12) {
            ns_add(&deleted, delete_key(id), NS_RELAXED);
        }
        else {
            get(id);
        }
        if (round % 512 == 0) {
            static _Thread_local uint8_t met[STABLE + CHURNED];
            memset(met, 0, sizeof(met));
            walk(met, sizeof(met));
            for (int k = 0; k < STABLE + CHURNED; k++) {
                CHECK(met[k] <= 1 && (k >= STABLE || met[k] == 1));
            }
            CHECK(ns_table_count(&table) <= STABLE + CHURNED);
        }
    }
}

static void
check_random_operations_of_many_threads(void)
{
    ns_store(&inserted, 0, NS_RELAXED);
    ns_store(&deleted, 0, NS_RELAXED);
    for (uint64_t i = 0; i < STABLE; i++) {
        put_key(i, 0, true);
    }
    run_threads(THREADS, operate_at_random);
    CHECK(ns_table_count(&table) ==
          (size_t)(STABLE + ns_load(&inserted, NS_RELAXED) - ns_load(&deleted, NS_RELAXED)));
    check_everything_is_owned_once();
    flush();
    CHECK(ns_load(&keys_alive, NS_RELAXED) == (long)ns_table_count(&table));
    destroy();
}

/* Several threads increment the same keys by compare-and-swap without the lock, while others have
 * their segments rebuilt. No increment is lost, and each old value is returned to exactly one
 * caller. */
#define COUNTED 8
static _Atomic long counted;

static void
count_up(int i)
{
    uint32_t state = (uint32_t)i * 31 + 5;
    for (int round = 0; round < ROUNDS / 2; round++) {
        uint64_t id = next_random(&state) % COUNTED, hash = hash_of(id);
        if (i == 0) { /* keys come and go: segments grow, split, shrink and merge */
            uint64_t other =
                1000 + next_random(&state) % (round / 500 % 2 ? 2 * NS_SEGMENT_MAX : 8);
            put_key(other, 0, false);
            delete_key(1000 + next_random(&state) % (2 * NS_SEGMENT_MAX));
            continue;
        }
        uintptr_t word;
        CHECK(ns_table_get(&table, hash, match_key, &id, NULL, hold_value, drop_value, &word) ==
              NS_PRESENT);
        uint64_t version = ns_load(&((value *)word)->version, NS_RELAXED);
        uintptr_t v = (uintptr_t)new_value(id, version + 1);
        ns_segment *s;
        uintptr_t old = ns_table_replace(&table, hash, match_key, &id, word, v, &s);
        if (old == 0 && round % 2) { /* retry with the lock */
            ns_garbage garbage = {.count = 0};
            ns_entry *entry;
            uintptr_t now;
            s = ns_table_lock(&table, hash);
            CHECK(ns_segment_find(s, hash, match_key, &id, NULL, &entry, &now) == NS_PRESENT);
            old = ns_entry_replace(entry, word, v);
            ns_table_unlock(&table, s, &garbage);
            ns_garbage_release(&garbage, drop_key);
        }
        CHECK(old == 0 || old == word);
        drop_value(old != 0 ? old : v);
        ns_add(&counted, old != 0, NS_RELAXED);
        drop_value(word);
    }
}

static void
check_no_increment_is_lost(void)
{
    ns_store(&counted, 0, NS_RELAXED);
    for (uint64_t i = 0; i < COUNTED; i++) {
        put_key(i, 0, true);
    }
    run_threads(THREADS, count_up);
    long sum = 0;
    for (uint64_t i = 0; i < COUNTED; i++) {
        sum += get(i);
    }
    CHECK(sum == ns_load(&counted, NS_RELAXED) && sum > 0);
    flush();
    destroy();
}

/* ---- A writer that sleeps for a segment is in no section, and its segment is not freed ---- */

#define SLEEPERS 16

static void
sleep_for_segment(int i)
{
    if (i > 0) {
        put_key((uint64_t)i, (uint64_t)i, true);
    }
    else {
        while ((uint32_t)ns_load(&slept_for->sleepers, NS_RELAXED) < SLEEPERS) {
            sleep_ms(1);
        }
        /* The sleepers do not hold back what others retire. */
        uint64_t stamp = ns_epoch_stamp();
        while (ns_epoch_poll() <= stamp) {
            sleep_ms(1);
        }
        /* Another thread replaces the segment meanwhile, and it is not freed. */
        ns_garbage garbage = {.count = 0};
        ns_segment *s = ns_rebuild_resize(&table, slept_for, 2 * slots_of(slept_for), &garbage);
        CHECK(s != NULL && ns_retired_has(&table, slept_for));
        ns_lock_release(&s->lock);
        ns_garbage_release(&garbage, drop_key);
    }
}

static void
check_slept_for_segment_stays(void)
{
    hash_of = same_hash;
    put_key(0, 0, true);
    slept_for = ns_table_lock(&table, hash_of(1));
    run_threads(SLEEPERS + 1, sleep_for_segment);
    for (int i = 0; i <= SLEEPERS; i++) {
        CHECK(get((uint64_t)i) == i);
    }
    flush();
    CHECK(table.retired == NULL);
    hash_of = ns_hash_mix;
    /* Sleepers that did not survive a fork do not count. */
    ns_segment *s = ns_table_lock(&table, hash_of(1));
    ns_section section = ns_epoch_enter();
    add_sleeper(s);
    ns_epoch_leave(section);
    ns_lock_release(&s->lock);
    CHECK(has_sleepers(s));
    pretend_to_fork();
    CHECK(!has_sleepers(s));
    add_sleeper(s);
    CHECK(has_sleepers(s));
    remove_sleeper(s);
    CHECK(!has_sleepers(s));
    destroy();
}

/* A sleeper stays counted between its release of the moved segment's lock and its last step. */
static void
stay_counted(ns_lock *l)
{
    (void)l;
    at_release = NULL;
    wait_until(2);
}

/* The count of sleepers alone orders what the sleeper did with the segment before it is freed. */
static void
sleep_or_free(int i)
{
    ns_slot();
    if (i == 0) {
        wait_until(1);
        at_release = stay_counted;
        put_key(1, 1, true);
        CHECK(at_release == NULL);
        wait_until(3); /* the end of its slot would order it too */
    }
    else {
        ns_garbage garbage = {.count = 0};
        ns_segment *const old = ns_table_lock(&table, 0);
        reach(1);
        while (ns_load(&old->sleepers, NS_RELAXED) == 0) {
            sched_yield();
        }
        ns_segment *s = ns_rebuild_resize(&table, old, 2 * slots_of(old), &garbage);
        CHECK(s != NULL);
        ns_lock_release(&s->lock);
        poll_until_safe();
        reach(2);
        while (has_sleepers(old)) {
            sched_yield();
        }
        ns_structure_lock(&table);
        ns_retired_reap(&table, &garbage);
        ns_structure_unlock(&table);
        CHECK(garbage.segments == old);
        ns_garbage_release(&garbage, drop_key);
        reach(3);
    }
}

static void
check_segment_is_freed_after_its_sleeper_left(void)
{
    put_key(0, 0, true);
    reach(0);
    run_threads(2, sleep_or_free);
    CHECK(get(0) == 0 && get(1) == 1);
    destroy();
}

/* ---- Hashes chosen by an attacker who knows how they are mixed, but not the secret ---- */

/* Inverts an odd factor. The mix as it was without a secret: see share_top_bits. */
static uint64_t
inverse(uint64_t odd)
{
    uint64_t x = odd;
    for (int i = 0; i < 6; i++) {
        x *= 2 - odd * x;
    }
    return x;
}

static uint64_t
share_top_bits(uint64_t i)
{
    /* Hashes that had the same top 16 bits: run = (h >> 7) * C, of which the top 32 bits chose the
     * segment. Takes those that are less than 2 ** 57 when inverted. */
    static const uint64_t C = UINT64_C(0xD6E8FEB86659FD93);
    static uint64_t next;
    next = i == 0 ? 0 : next;
    for (;; next++) {
        uint64_t h = (UINT64_C(0xABCD) << 48 | next) * inverse(C);
        if (h >> 57 == 0) {
            next++;
            return h << 7;
        }
    }
}

static uint64_t
multiples_of_powers(uint64_t i)
{
    static const unsigned shifts[] = {7, 16, 20, 31, 32, 33, 40, 44};
    return (i / 8 + 1) << shifts[i % 8];
}

static uint64_t
random_numbers(uint64_t i)
{
    uint64_t x = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

struct spread {
    size_t bytes, depth, segments;
    double probes; /* groups probed for a key that is present, on average */
};

static struct spread
spread_of(uint64_t (*number)(uint64_t), uint64_t count)
{
    struct spread result = {0};
    for (uint64_t i = 0; i < count; i++) {
        put_key(number(i), 0, false);
    }
    size_t live = ns_table_count(&table);
    uint64_t at = 0;
    ns_segment *s;
    while ((s = next_in(table.directory, &at)) != NULL) {
        for (uint32_t i = 0; i < slots_of(s); i++) {
            if (!is_used(s, i) || !ns_is_live(ns_load(&s->entries[i].value, NS_RELAXED))) {
                continue;
            }
            uint32_t g = (uint32_t)ns_load(&s->entries[i].hash, NS_RELAXED) & s->mask, step = 0;
            while (g != i / NS_GROUP) {
                g = (g + ++step) & s->mask;
            }
            result.probes += 1 + step;
        }
    }
    result.probes /= (double)live;
    result.bytes = ns_table_bytes(&table);
    result.depth = table.directory->depth;
    result.segments = ns_load(&table.segments, NS_RELAXED);
    destroy();
    return result;
}

__attribute__((unused)) static void
check_chosen_keys_spread_like_random_ones(void)
{
    uint64_t (*const chosen[])(uint64_t) = {share_top_bits, multiples_of_powers};
#if defined(__SANITIZE_THREAD__)
    const uint64_t count = 6000, secrets = 1;
#else
    const uint64_t count = VALUES / 4 * 3, secrets = 3;
#endif
    const struct ns_hash_seed before = ns_hash_seed;
    for (uint64_t secret = 1; secret <= secrets; secret++) {
        ns_hash_seed.addend = random_numbers(2 * secret);
        ns_hash_seed.factor = random_numbers(2 * secret + 1) | 1;
        struct spread by_chance = spread_of(random_numbers, count);
        for (int i = 0; i < 2; i++) {
            struct spread s = spread_of(chosen[i], count);
            CHECK(s.probes < by_chance.probes * 1.2 && s.depth <= by_chance.depth + 2);
            CHECK(s.bytes < by_chance.bytes * 1.3 && s.segments < by_chance.segments * 1.3);
        }
    }
    ns_hash_seed = before;
}

/* ---- What one thread wrote before a change another one sees after it. Both have their slots and
 * their values before the write, and keep their slots until the end: so nothing but the change
 * orders the write. ---- */

static long earlier_write;

static bool
hold_without_reference(uintptr_t word)
{
    (void)word;
    return true;
}

static void
drop_without_reference(uintptr_t word)
{
    (void)word;
}

/* Returns the value of key 1, without a reference; 0 if it is absent. */
static uintptr_t
find_one(void)
{
    const uint64_t id = 1;
    uintptr_t word = 0;
    ns_table_get(&table,
                 hash_of(id),
                 match_key,
                 &id,
                 NULL,
                 hold_without_reference,
                 drop_without_reference,
                 &word);
    return word;
}

/* Writes, and then replaces the value of key 1 without the lock. Returns the old value. */
static uintptr_t
write_and_replace(uintptr_t v)
{
    const uint64_t id = 1;
    ns_segment *locked;
    earlier_write = 7;
    return ns_table_replace(&table, hash_of(id), match_key, &id, 0, v, &locked);
}

static void
put_or_find(int i)
{
    ns_slot();
    if (i == 0) {
        wait_until(1);
        earlier_write = 7;
        put_key(1, 2, false);
        wait_until(2);
    }
    else {
        reach(1);
        for (uintptr_t word = 0; word == 0 || word == seen;) {
            word = find_one();
        }
        CHECK(earlier_write == 7);
        reach(2);
    }
}

static void
replace_or_find(int i)
{
    ns_slot();
    if (i == 0) {
        const uintptr_t v = (uintptr_t)new_value(1, 2);
        wait_until(1);
        const uintptr_t old = write_and_replace(v);
        wait_until(2);
        drop_value(old);
    }
    else {
        reach(1);
        while (find_one() == seen) {
        }
        CHECK(earlier_write == 7);
        reach(2);
    }
}

static enum ns_match
match_late(uintptr_t stored, const void *wanted)
{
    reach(2);
    wait_until(3);
    return match_key(stored, wanted);
}

/* Another thread replaces the value after this one has found it. This one replaces the other one's
 * value then, which it has not loaded before. */
static void
replace_late(int i)
{
    const uint64_t id = 1;
    ns_slot();
    const uintptr_t v = (uintptr_t)new_value(id, (uint64_t)i);
    uintptr_t old;
    if (i == 0) {
        reach(1);
        wait_until(2);
        old = write_and_replace(v);
        reach(3);
        wait_until(4);
    }
    else {
        ns_segment *locked;
        wait_until(1);
        old = ns_table_replace(&table, hash_of(id), match_late, &id, 0, v, &locked);
        CHECK(ns_load(&((value *)old)->version, NS_RELAXED) == 0 && earlier_write == 7);
        reach(4);
    }
    drop_value(old);
}

/* A thread that rebuilds the segment passes on what came with the values. */
static void
replace_or_rebuild(int i)
{
    ns_slot();
    if (i == 0) {
        const uintptr_t v = (uintptr_t)new_value(1, 2);
        reach(1);
        wait_until(2);
        const uintptr_t old = write_and_replace(v);
        reach(3);
        wait_until(4);
        drop_value(old);
    }
    else {
        wait_until(1);
        reach(2);
        wait_until(3);
        rebuild_segment(hash_of(1), 1);
        CHECK(find_one() != seen && earlier_write == 7);
        reach(4);
    }
}

/* A writer locks a segment of a directory that another thread has just made. */
static void
create_or_lock(int i)
{
    ns_slot();
    if (i == 0) {
        wait_until(1);
        put_key(1, 1, true);
        reach(2);
        wait_until(3);
    }
    else {
        reach(1);
        wait_until(2);
        ns_segment *s = ns_table_lock(&table, hash_of(1));
        CHECK(ns_load(&s->live, NS_RELAXED) == 1);
        ns_lock_release(&s->lock);
        reach(3);
    }
}

static void
check_change_publishes_earlier_writes(void)
{
    static const struct {
        void (*body)(int);
        bool replaces;
    } cases[] = {
        {put_or_find, false},
        {put_or_find, true},
        {replace_or_find, true},
        {replace_late, true},
        {replace_or_rebuild, true},
        {create_or_lock, false},
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        seen = 0;
        if (cases[i].replaces) {
            put_key(1, 1, false);
            seen = find_one();
        }
        CHECK(cases[i].replaces == is_value(seen));
        earlier_write = 0;
        reach(0);
        run_threads(2, cases[i].body);
        destroy();
    }
}

/* Threads grow the table to thousands and shrink it while others read. Then all of them empty
 * it. */
#define MANY (24 * NS_SEGMENT_MAX < SOME(6000) ? SOME(6000) : 6 * NS_SEGMENT_MAX)
static _Atomic long popped;

static void
grow_and_shrink(int i)
{
    const uint64_t first = STABLE + (uint64_t)i * 1000000;
    for (uint64_t n = 0; n < (uint64_t)MANY; n++) {
        CHECK(put_key(first + n, n, true));
        CHECK(get(n % STABLE) == 0 && get(first + n) == (int64_t)n && get(first + n + 1) == -1);
    }
    for (uint64_t n = 0; n < (uint64_t)MANY; n += 2) {
        CHECK(delete_key(first + n) && get(first + n) == -1 && get(first + n + 1) >= 0);
        CHECK(get(n % STABLE) == 0);
    }
}

static void
take_out(int i)
{
    (void)i;
    while (pop_any() >= 0) {
        ns_add(&popped, 1, NS_RELAXED);
    }
}

static void
check_growth_beside_readers(void)
{
    for (uint64_t i = 0; i < STABLE; i++) {
        put_key(i, 0, true);
    }
    ns_store(&popped, 0, NS_RELAXED);
    run_threads(THREADS, grow_and_shrink);
    CHECK(ns_table_count(&table) == (size_t)(STABLE + THREADS * (MANY / 2)));
    check_everything_is_owned_once();
    run_threads(THREADS, take_out);
    CHECK(ns_load(&popped, NS_RELAXED) == STABLE + THREADS * (MANY / 2));
    flush();
    CHECK(ns_table_count(&table) == 0 && ns_load(&keys_alive, NS_RELAXED) == 0);
    destroy();
}

/* A single item is passed on: the table is never empty, and pop never says that it is. */
static void
pass_item(int i)
{
    for (int round = 0; round < ROUNDS / 10; round++) {
        if (i == 0) {
            CHECK(put_key((uint64_t)round + 1, 0, true));
            CHECK(delete_key((uint64_t)round));
        }
        else {
            CHECK(!ns_table_is_empty(&table));
            ns_segment *s = ns_table_lock_first(&table);
            CHECK(s != NULL);
            ns_lock_release(&s->lock);
        }
    }
}

int
main(void)
{
    init_core();
    check_emptied_table_is_small();
    check_second_first_directory_is_refused();
    run_threads(1, dead_key_waits_for_other_thread);
    run_threads(1, many_dead_keys_go_after_few_operations);
    run_threads(1, sweep_takes_keys_that_died_early);
    run_threads(1, key_in_limbo_list_waits_for_section);
    run_threads(1, full_limbo_list_is_emptied);
    run_threads(1, limbo_list_of_shrunk_table_is_emptied);
    run_threads(1, list_of_ended_thread_is_emptied);
    lists_are_emptied_by_lone_thread(0);
    lone_thread_leaves_what_newcomer_reads(0);
    run_threads(1, entry_keeps_key_for_section);
    run_threads(1, segment_splits_where_threads_delete);
    check_one_thread_with_each_hash();
    check_search_continues_after_asking();
    check_place_does_not_count_in_new_segment();
    check_walk_from_middle_of_segment();
    check_emptying_while_others_put_back();
    for (int step = 0; step <= 8; step++) {
        check_fork_cuts_rebuild_short(step);
    }
    child_reads_abandoned_segment();
    for (int step = 0; step <= 4; step++) {
        check_fork_cuts_change_short(step);
    }
#if !defined(NS_SHAKE) && !defined(__SANITIZE_THREAD__) /* which show nothing here */
    check_changes_step_by_step();
    check_fork_leaves_each_change_whole();
#endif
    check_retired_segments_are_freed();
    run_threads(1, segment_retired_early_is_freed_first);
    check_reused_value_memory_is_noticed();
    check_key_inserted_before_lock_is_found();
    check_held_value_is_not_replaced();
    check_split_without_memory_changes_nothing();
    check_merge_with_rebuilt_buddy();
    check_merge_unlocks_buddy();
    check_moving_item_is_found();
    check_pick_searches_no_group_twice();
#ifndef NS_SHAKE
    check_chosen_keys_spread_like_random_ones();
#endif
    for (int fences = 0; fences < 2; fences++) {
        check_change_publishes_earlier_writes();
        hash_of = fences == 0 ? far_apart : ns_hash_mix;
        check_random_operations_of_many_threads();
        check_no_increment_is_lost();
        hash_of = ns_hash_mix;
        check_slept_for_segment_stays();
        check_segment_is_freed_after_its_sleeper_left();
        check_growth_beside_readers();
        put_key(0, 0, true);
        run_threads(2, pass_item);
        destroy();
        ns_can_fence_threads = false;
    }
    return 0;
}
