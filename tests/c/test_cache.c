/* Tests core/cache/cache.h: it behaves as a dictionary that forgets, is never above its limit, and
 * never returns what has expired, with any number of threads, across forks.
 */
#include "harness.h"
#include "table/hash.h"

#include <string.h>

static bool memory_is_lacking;

static void *
malloc_if_any(size_t size)
{
    return memory_is_lacking ? NULL : malloc(size);
}

#define malloc malloc_if_any
/* The tests look at a cache's queues. */
#include "cache/cache.c"
#include "cache/ghosts.c"
#include "cache/tallies.c"
#include "cache/wheel.c"
#undef malloc

#define THREADS 4
#ifdef NS_SHAKE
#undef ROUNDS
#define ROUNDS 300 /* each with many steps */
#elif defined(__SANITIZE_THREAD__)
#define ROUNDS 3000
#else
#define ROUNDS 20000
#endif

/* ---- Keys: with plain fields, so that the sanitizer sees a late read ---- */

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
drop_key(key *k)
{
    if (ns_sub(&k->references, 1, NS_SEQ_CST) == 1) {
        k->id = UINT64_MAX;
        free(k);
        ns_sub(&keys_alive, 1, NS_RELAXED);
    }
}

static enum ns_match
match_key(uintptr_t stored, const void *wanted)
{
    return ((const key *)ns_cache_entry_of(stored)->key)->id == *(const uint64_t *)wanted
               ? NS_EQUAL
               : NS_DIFFERENT;
}

static void
free_cache_entry(ns_cache_entry *e)
{
    drop_key((key *)e->key);
    memset(e, 0xa6, sizeof(*e));
    free(e);
}

static void
free_word(uintptr_t word)
{
    free_cache_entry(ns_cache_entry_of(word));
}

/* ---- Values. Their memory stays, as that of Python objects does. A count of 0 cannot be taken.
 * ---- */

typedef struct value {
    _Atomic int references;
    _Atomic uint64_t id;
    _Atomic int64_t deadline;
} value;

#define VALUES 65536
static value values[VALUES];
static _Atomic uint32_t next_value;

static value *
new_value(uint64_t id, int64_t deadline)
{
    for (;;) {
        value *v = &values[ns_add(&next_value, 1, NS_RELAXED) % VALUES];
        int none = 0;
        if (ns_load(&v->references, NS_RELAXED) == 0 &&
            ns_cas(&v->references, &none, 1000000, NS_SEQ_CST)) {
            ns_store(&v->id, id, NS_RELAXED);
            ns_store(&v->deadline, deadline, NS_RELAXED);
            ns_sub(&v->references, 999999, NS_SEQ_CST);
            return v;
        }
    }
}

static bool
is_value(uintptr_t word)
{
    return word >= (uintptr_t)values && word < (uintptr_t)(values + VALUES);
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
drop_value(uintptr_t word)
{
    CHECK(ns_sub(&((value *)word)->references, 1, NS_SEQ_CST) >= 1);
}

static void
hold_any(uintptr_t word)
{
    if (is_value(word)) {
        CHECK(hold_value(word));
    }
    else {
        ns_add(&((key *)word)->references, 1, NS_SEQ_CST);
    }
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

/* ---- A dictionary ---- */

static ns_cache cache;
static _Atomic int64_t now_;

static int64_t
now(void)
{
    return ns_load(&now_, NS_RELAXED);
}

static void
begin_cache(int64_t limit)
{
    memset(&cache, 0, sizeof(cache));
    ns_cache_init(&cache, limit, true);
}

static void
release_both(uintptr_t word, uintptr_t v)
{
    free_word(word);
    if (v != 0) {
        drop_value(v);
    }
}

static _Atomic uint64_t evicted, expired;

static void
release_gone(ns_cache_gone *gone)
{
    ns_garbage_release(&gone->garbage, free_word);
    for (unsigned i = 0; i < gone->count; i++) {
        if (gone->items[i].cause != NS_CACHE_REPLACED) {
            key *k = (key *)gone->items[i].key;
            CHECK(k->id == ns_load(&((value *)gone->items[i].value)->id, NS_RELAXED));
            ns_add(gone->items[i].cause == NS_CACHE_SIZE ? &evicted : &expired, 1, NS_RELAXED);
            drop_key(k);
        }
        drop_value(gone->items[i].value);
    }
}

static bool
never_set(void *flag)
{
    (void)flag;
    return false;
}

static void
set_flag(void *flag)
{
    *(bool *)flag = true;
}

static enum ns_cache_done
store_key(uint64_t id, int64_t weight, int64_t deadline, bool add)
{
    ns_cache_entry *entry = calloc(1, sizeof(*entry));
    CHECK(entry != NULL);
    entry->key = (uintptr_t)new_key(id);
    entry->hash = ns_hash_mix(id);
    entry->weight = weight;
    ns_store(&entry->deadline, deadline, NS_RELAXED);
    value *v = new_value(id, deadline);
    bool overtaken = false;
    ns_cache_edit e = {
        .hash = entry->hash,
        .match = match_key,
        .wanted = &id,
        .now = now(),
        .hold = hold_any,
        .entry = entry,
        .value = (uintptr_t)v,
        .add = add,
        .is_set = never_set,
        .set = set_flag,
        .flag = add ? NULL : &overtaken,
    };
    enum ns_cache_done done;
    do {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        done = ns_cache_store(&cache, &e, &gone);
        release_gone(&gone);
    } while (done == NS_CACHE_AGAIN);
    CHECK(overtaken == (!add && (done == NS_CACHE_INSERTED || done == NS_CACHE_STORED)));
    if (done != NS_CACHE_INSERTED) {
        free_cache_entry(entry);
    }
    if (done != NS_CACHE_INSERTED && done != NS_CACHE_STORED) {
        drop_value((uintptr_t)v);
    }
    if (done == NS_CACHE_KEPT) {
        CHECK(ns_load(&((value *)e.result)->id, NS_RELAXED) == id);
        drop_value(e.result);
    }
    return done;
}

static void
put_key(uint64_t id)
{
    CHECK(store_key(id, 1, NS_CACHE_NEVER, false) <= NS_CACHE_STORED);
}

/* Whether the key is found, with a value of its own that has not expired. */
static bool
get_at(uint64_t id, int64_t at)
{
    uintptr_t word;
    enum ns_cache_found found = ns_cache_get(
        &cache, ns_hash_mix(id), match_key, &id, NULL, at, true, hold_value, drop_value, &word);
    if (found != NS_CACHE_PRESENT) {
        NS_CACHE_COUNT(&cache, misses);
        return false;
    }
    NS_CACHE_COUNT(&cache, hits);
    CHECK(ns_load(&((value *)word)->id, NS_RELAXED) == id);
    CHECK(ns_load(&((value *)word)->deadline, NS_RELAXED) > at);
    drop_value(word);
    return true;
}

static bool
get_key(uint64_t id)
{
    return get_at(id, now());
}

static bool
remove_key(uint64_t id, bool only_expired)
{
    ns_cache_gone gone;
    ns_cache_gone_init(&gone);
    ns_cache_edit e = {
        .hash = ns_hash_mix(id),
        .match = match_key,
        .wanted = &id,
        .now = now(),
        .hold = hold_any,
        .only_expired = only_expired,
    };
    enum ns_cache_done done = ns_cache_remove(&cache, &e, &gone);
    release_gone(&gone);
    if (done == NS_CACHE_REMOVED || done == NS_CACHE_KEPT) {
        CHECK(ns_load(&((value *)e.result)->id, NS_RELAXED) == id);
        drop_value(e.result);
    }
    return done == NS_CACHE_REMOVED;
}

static void
expire_all(void)
{
    const ns_cache_edit e = {.now = now(), .hold = hold_any};
    bool more;
    do {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        more = ns_cache_expire(&cache, &e, &gone);
        release_gone(&gone);
    } while (more);
}

static void
clear_all(void)
{
    const ns_cache_edit e = {.now = NS_CACHE_NO_TIME, .hold = hold_any};
    uint64_t left[2] = {UINT64_MAX, UINT64_MAX};
    bool more;
    do {
        ns_cache_gone gone;
        ns_cache_gone_init(&gone);
        more = ns_cache_clear(&cache, &e, left, &gone);
        release_gone(&gone);
    } while (more);
}

/* The invariant of cache.h, 3, with the lock free. Returns the number of entries. */
static uint64_t
check_whole(void)
{
    uint64_t count = 0;
    int64_t weight = 0;
    ns_cache_queue *queues[2] = {&cache.small, &cache.main};
    lock(&cache);
    for (int i = 0; i < 2; i++) {
        uint64_t n = 0;
        int64_t w = 0;
        for (ns_cache_link *l = queues[i]->ends.next; l != &queues[i]->ends; l = l->next) {
            ns_cache_entry *e = ENTRY_AT(l, place);
            CHECK(l->next->previous == l && l->previous->next == l);
            CHECK(e->queue == (i == 0 ? NS_CACHE_SMALL : NS_CACHE_MAIN));
            const bool timed = ns_load(&e->deadline, NS_RELAXED) != NS_CACHE_NEVER;
            CHECK((e->timer.next != NULL) == timed);
            w += e->weight;
            n++;
        }
        CHECK(n == queues[i]->count && w == queues[i]->weight);
        count += n;
        weight += w;
    }
    CHECK(count == cache.count && weight == cache.weight && weight <= cache.limit);
    CHECK(count == ns_table_count(&cache.table));
    ns_lock_release_as(&cache.lock, NS_SEQ_CST);
    return count;
}

static void
end_cache(void)
{
    check_whole();
    ns_cache_destroy(&cache, release_both);
    CHECK(ns_load(&keys_alive, NS_RELAXED) == 0);
    CHECK(values_alive() == 0);
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* ---- One thread ---- */

static void
test_cache_is_a_dictionary_up_to_its_limit(void)
{
    begin_cache(100);
    for (uint64_t id = 0; id < 100; id++) {
        CHECK(!get_key(id));
        put_key(id);
        CHECK(get_key(id));
    }
    CHECK(check_whole() == 100);
    CHECK(store_key(5, 1, NS_CACHE_NEVER, true) == NS_CACHE_KEPT);
    CHECK(store_key(5, 1, NS_CACHE_NEVER, false) == NS_CACHE_STORED);
    CHECK(remove_key(5, false) && !remove_key(5, false) && !get_key(5));
    CHECK(check_whole() == 99);
    for (uint64_t id = 200; id < 1000; id++) {
        put_key(id);
        CHECK(get_key(id) && check_whole() <= 100);
    }
    clear_all();
    CHECK(check_whole() == 0);
    end_cache();
}

static void
test_weights_stay_below_the_limit(void)
{
    uint32_t seed = 7;
    begin_cache(100);
    for (int i = 0; i < ROUNDS / 2; i++) {
        const int64_t weight = next_random(&seed) % 110;
        const uint64_t id = next_random(&seed) % 40;
        enum ns_cache_done done = store_key(id, weight, NS_CACHE_NEVER, false);
        CHECK((done == NS_CACHE_TOO_HEAVY) == (weight > 100));
        CHECK(get_key(id) == (weight <= 100));
        if (i % 50 == 0) {
            check_whole();
        }
    }
    end_cache();
}

static void
test_a_scan_does_not_displace_what_is_used(void)
{
    begin_cache(100);
    for (int turn = 0; turn < 4; turn++) {
        for (uint64_t id = 0; id < 60; id++) {
            if (!get_key(id)) {
                put_key(id);
            }
        }
    }
    for (uint64_t id = 1000; id < 5000; id++) {
        put_key(id);
    }
    int kept = 0;
    for (uint64_t id = 0; id < 60; id++) {
        kept += get_key(id);
    }
    CHECK(kept >= 50);
    end_cache();
}

static void
test_a_loop_that_is_much_longer_than_the_cache_has_hits(void)
{
    begin_cache(100);
    int hits = 0;
    for (int turn = 0; turn < 6; turn++) {
        hits = 0;
        for (uint64_t id = 0; id < 400; id++) {
            if (get_key(id)) {
                hits++;
            }
            else {
                put_key(id);
            }
        }
    }
    CHECK(hits >= 50);
    end_cache();
}

static bool
take(uint64_t id)
{
    return take_ghost(&cache, ns_hash_mix(id));
}

static void
test_ghosts_are_remembered_for_twice_as_many_evictions_as_there_are_entries(void)
{
    begin_cache(1000);
    CHECK(!take(0));
    ns_store(&cache.count, 50, NS_RELAXED);
    for (uint64_t id = 0; id < 300; id++) {
        add_ghost(&cache, ns_hash_mix(id), NS_CACHE_SMALL);
    }
    CHECK(!take(0) && !take(199));
    CHECK(take(200) && !take(200));
    for (int i = 0; i < 90; i++) { /* the hashes of equal keys */
        add_ghost(&cache, ns_hash_mix(1000), NS_CACHE_SMALL);
    }
    CHECK(!take(289));
    CHECK(take(290) && !take(290));
    ns_store(&cache.count, 400, NS_RELAXED); /* the ring grows, and forgets nothing */
    add_ghost(&cache, ns_hash_mix(1001), NS_CACHE_SMALL);
    for (uint64_t id = 0; id < 300; id++) {
        CHECK(take(id) == (id > 290));
    }
    CHECK(take(1000) && !take(1000));
    CHECK(take(1001) && !take(1001));
    ns_store(&cache.count, 0, NS_RELAXED);
    add_ghost(&cache, ns_hash_mix(1), NS_CACHE_SMALL);
    CHECK(!take(1));
    end_cache();
}

/* Evicts a key from the queue, and so many others, and asks for the first one again. */
static void
come_back(enum ns_cache_queue_name from, int later, enum ns_cache_queue_name others)
{
    add_ghost(&cache, ns_hash_mix(1), from);
    for (int i = 0; i < later; i++) {
        add_ghost(&cache, ns_hash_mix(100 + i), others);
    }
    CHECK(take(1));
}

static void
test_the_queue_grows_whose_entries_come_back_just_after_their_eviction(void)
{
    begin_cache(640);
    ns_store(&cache.count, 640, NS_RELAXED);
    CHECK(cache.share == 64);
    come_back(NS_CACHE_SMALL, 0, NS_CACHE_SMALL);
    CHECK(cache.share == 74);
    come_back(NS_CACHE_SMALL, 12, NS_CACHE_SMALL); /* the last that counts as just evicted */
    CHECK(cache.share == 84);
    come_back(NS_CACHE_SMALL, 13, NS_CACHE_SMALL);
    CHECK(cache.share == 84);
    come_back(NS_CACHE_MAIN, 100, NS_CACHE_SMALL); /* each queue counts its own evictions */
    CHECK(cache.share == 74);
    come_back(NS_CACHE_MAIN, 13, NS_CACHE_MAIN);
    CHECK(cache.share == 74);
    for (int i = 0; i < 100; i++) {
        come_back(NS_CACHE_MAIN, 0, NS_CACHE_MAIN);
    }
    CHECK(cache.share == 32);
    for (int i = 0; i < 100; i++) {
        come_back(NS_CACHE_SMALL, 0, NS_CACHE_SMALL);
    }
    CHECK(cache.share == 512);
    add_ghost(&cache, ns_hash_mix(1), NS_CACHE_MAIN);
    ns_store(&cache.count, 2000, NS_RELAXED);
    add_ghost(&cache, ns_hash_mix(2), NS_CACHE_SMALL); /* the ring grows */
    CHECK(take(1) && cache.share == 502);
    ns_store(&cache.count, 0, NS_RELAXED);
    end_cache();
}

static void
test_a_cache_of_one_keeps_room_for_a_new_entry(void)
{
    begin_cache(1);
    ns_store(&cache.count, 1, NS_RELAXED);
    CHECK(cache.share == 1);
    come_back(NS_CACHE_MAIN, 0, NS_CACHE_MAIN);
    CHECK(cache.share == 1);
    come_back(NS_CACHE_SMALL, 0, NS_CACHE_SMALL);
    CHECK(cache.share == 1);
    ns_store(&cache.count, 0, NS_RELAXED);
    end_cache();
}

static void
test_what_has_expired_is_not_found_and_freed(void)
{
    static const int64_t spans[] = {1,
                                    1000,
                                    20000000,
                                    500000000,
                                    INT64_C(3000000000),
                                    INT64_C(90000000000),
                                    INT64_C(7200000000000),
                                    INT64_C(1000000000000000),
                                    INT64_C(40000000000000000)};
    uint32_t seed = 3;
    int64_t deadlines[300] = {0};
    begin_cache(200);
    ns_store(&now_, 1000000000, NS_RELAXED);
    for (int i = 0; i < ROUNDS / 2; i++) {
        uint64_t id = next_random(&seed) % 300;
        deadlines[id] = now() + spans[next_random(&seed) % 9];
        store_key(id, 1, deadlines[id], false);
        if (next_random(&seed) % 8 == 0) {
            const int64_t step = spans[next_random(&seed) % 7];
            ns_store(&now_, next_random(&seed) % 8 == 0 ? now() - step : now() + step, NS_RELAXED);
        }
        id = next_random(&seed) % 300;
        if (get_key(id)) {
            CHECK(deadlines[id] > now());
        }
        else {
            remove_key(id, true);
        }
        if (i % 64 == 0) {
            check_whole();
        }
    }
    ns_store(&now_, INT64_MAX - 2, NS_RELAXED);
    expire_all();
    CHECK(check_whole() == 0);
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

/* Whether entries are left pending after some were taken from there. */
static bool
expire_at(int64_t at, void (*hold)(uintptr_t))
{
    const ns_cache_edit e = {.now = at, .hold = hold};
    ns_cache_gone gone;
    ns_cache_gone_init(&gone);
    bool more = ns_cache_expire(&cache, &e, &gone);
    release_gone(&gone);
    return more;
}

static void
test_late_thread_does_not_turn_the_wheel_back(void)
{
    const int64_t tick = INT64_C(1) << NS_CACHE_TICK;
    for (int steady = 0; steady < 2; steady++) {
        begin_cache(200);
        cache.steady = steady;
        ns_store(&now_, 10 * tick, NS_RELAXED);
        for (uint64_t id = 0; id < 100; id++) {
            store_key(id, 1, 500 * tick, false);
        }
        CHECK(!expire_at(12 * tick + 5, hold_any));
        CHECK(!expire_at(12 * tick + 4, hold_any)); /* the tick is the same */
        CHECK(expire_at(11 * tick, hold_any) == !steady);
        ns_store(&now_, 500 * tick, NS_RELAXED);
        expire_all();
        CHECK(check_whole() == 0);
        ns_store(&now_, 0, NS_RELAXED);
        end_cache();
    }
}

static size_t keys_before;

/* Once a key has left the table, another thread may free its entry. */
static void
hold_present_key(uintptr_t word)
{
    if (!is_value(word)) {
        CHECK(ns_table_count(&cache.table) == keys_before);
    }
    hold_any(word);
}

static void
test_key_is_held_before_its_entry_is_removed(void)
{
    begin_cache(200);
    ns_store(&now_, 1, NS_RELAXED);
    store_key(1, 1, 1000, false);
    keys_before = 1;
    CHECK(!expire_at(INT64_C(1) << 40, hold_present_key));
    CHECK(check_whole() == 0);
    store_key(2, 1, 1000, false);
    uint64_t id = 2;
    ns_cache_edit e = {
        .hash = ns_hash_mix(id),
        .match = match_key,
        .wanted = &id,
        .now = INT64_C(1) << 41,
        .hold = hold_present_key,
    };
    ns_cache_gone gone;
    ns_cache_gone_init(&gone);
    CHECK(ns_cache_remove(&cache, &e, &gone) == NS_CACHE_MISSING);
    release_gone(&gone);
    CHECK(check_whole() == 0);
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

static void
test_entries_are_freed_at_the_tick_of_their_deadline(void)
{
    const int64_t tick = INT64_C(1) << NS_CACHE_TICK;
    begin_cache(10);
    ns_store(&now_, 3 * tick, NS_RELAXED);
    store_key(1, 1, 10 * tick, false);
    store_key(1, 1, 30 * tick, false); /* later */
    CHECK(get_at(1, 20 * tick));
    store_key(2, 1, 1000 * tick, false);
    store_key(2, 1, 10 * tick, false); /* earlier */
    store_key(3, 1, 500 * tick, false);
    ns_store(&now_, 9 * tick, NS_RELAXED);
    expire_all();
    CHECK(check_whole() == 3);
    ns_store(&now_, 10 * tick, NS_RELAXED);
    expire_all();
    CHECK(check_whole() == 2 && get_key(1));
    ns_store(&now_, 30 * tick, NS_RELAXED);
    expire_all();
    CHECK(check_whole() == 1);
    ns_store(&now_, 500 * tick, NS_RELAXED);
    expire_all();
    CHECK(check_whole() == 0);
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

static void
test_keys_are_listed_once_each(void)
{
    ns_hashed page[1024];
    const ns_cache_edit e = {.now = 50, .hold = hold_any};
    begin_cache(NS_CACHE_NO_LIMIT);
    for (uint64_t id = 0; id < 500; id++) {
        CHECK(store_key(id, 1, id % 2 ? 40 : NS_CACHE_NEVER, false) == NS_CACHE_INSERTED);
    }
    bool seen[500] = {false};
    uint64_t from = 0;
    int n = 0;
    do {
        size_t count = ns_cache_page(&cache, &e, &from, page, 1024);
        for (size_t i = 0; i < count; i++) {
            key *k = (key *)page[i].key;
            CHECK(k->id % 2 == 0 && !seen[k->id]);
            seen[k->id] = true;
            n++;
            drop_key(k);
        }
    } while (from != 0);
    CHECK(n == 250);
    end_cache();
}

/* ---- Many threads ---- */

static void
use_all_operations(int i)
{
    uint32_t seed = 77 + (uint32_t)i * 1000;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t id = next_random(&seed) % 200;
        switch (next_random(&seed) % 16) {
        case 0:
            remove_key(id, false);
            break;
        case 1:
            store_key(id, 1 + next_random(&seed) % 5, NS_CACHE_NEVER, false);
            break;
        case 2:
            store_key(id, 1, NS_CACHE_NEVER, true);
            break;
        case 3:
            if (round % 64 == 0) {
                clear_all();
            }
            break;
        default:
            if (!get_key(id)) {
                put_key(id);
            }
        }
        CHECK(ns_load(&cache.weight, NS_RELAXED) <= 100);
    }
}

static void
test_threads_use_all_operations(void)
{
    begin_cache(100);
    run_threads(THREADS, use_all_operations);
    check_whole();
    ns_cache_sums sums = ns_cache_sum(&cache);
    CHECK(sums.hits > 0 && sums.misses > 0);
    end_cache();
}

/* Two threads store values with a short and a long time to live; at the time 20 only the latter may
 * be found. */
static void
store_or_read_deadlines(int i)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (i < 2) {
            store_key(1, 1, round % 2 ? 10 : 30, false);
        }
        else {
            get_at(1, 20);
            get_at(1, 5);
        }
    }
}

static void
test_value_is_never_found_with_the_deadline_of_another(void)
{
    begin_cache(10);
    ns_store(&now_, 1, NS_RELAXED);
    run_threads(THREADS, store_or_read_deadlines);
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

/* One thread stores ever later deadlines, others have the table rebuilt. A reader finds nothing
 * that is older than a store that had ended before. */
static _Atomic int64_t stored;

static void
store_churn_or_read(int i)
{
    uint32_t seed = 5 + (uint32_t)i * 1000;
    for (int64_t round = 1; round < ROUNDS; round++) {
        if (i == 0) {
            store_key(1, 1, 1000 + round, false);
            ns_store(&stored, 1000 + round, NS_RELEASE);
        }
        else if (i == 1) {
            CHECK(get_at(1, ns_load(&stored, NS_ACQUIRE) - 1));
        }
        else {
            const uint64_t id = 2 + next_random(&seed) % 200;
            store_key(id, 1, NS_CACHE_NEVER, false);
            remove_key(2 + next_random(&seed) % 200, false);
        }
    }
}

static void
test_reader_finds_no_value_older_than_a_finished_store(void)
{
    begin_cache(NS_CACHE_NO_LIMIT);
    ns_store(&now_, 1, NS_RELAXED);
    ns_store(&stored, 1000, NS_RELAXED);
    store_key(1, 1, 1000, false);
    run_threads(THREADS, store_churn_or_read);
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

static void
count_hits(int i)
{
    (void)i;
    for (int round = 0; round < ROUNDS; round++) {
        CHECK(get_key(1));
    }
}

static void
test_hits_of_all_threads_are_counted(void)
{
    begin_cache(10);
    put_key(1);
    run_threads(20, count_hits); /* more than the first segment of tallies is for */
    CHECK(ns_cache_sum(&cache).hits == 20 * (uint64_t)ROUNDS);
    end_cache();
}

/* ---- Forks ---- */

static void
test_child_finds_whole_cache_though_the_lock_was_held(void)
{
    begin_cache(100);
    ns_store(&now_, 1, NS_RELAXED);
    for (uint64_t id = 0; id < 80; id++) {
        store_key(id, 1, id % 3 ? NS_CACHE_NEVER : 1000, false);
    }
    lock(&cache);
    /* A thread was in the middle of something. */
    cache.small.ends.next = NULL;
    cache.main.ends.previous = NULL;
    ns_store(&cache.count, 7, NS_RELAXED);
    cache.clearing = 3;
    pretend_to_fork();
    memory_is_lacking = true; /* an entry that is not put into a queue would keep stale links */
    CHECK(check_whole() == 80 && cache.clearing == 0);
    memory_is_lacking = false;
    cache.clearing = 2; /* other threads were emptying the cache, and none had the lock */
    pretend_to_fork();
    CHECK(check_whole() == 80 && cache.clearing == 0);
    for (uint64_t id = 0; id < 80; id++) {
        CHECK(get_key(id));
    }
    for (uint64_t id = 100; id < 300; id++) {
        put_key(id);
    }
    CHECK(check_whole() == 100);
    ns_store(&now_, 2000, NS_RELAXED);
    expire_all();
    ns_store(&now_, 0, NS_RELAXED);
    end_cache();
}

int
main(void)
{
    init_core();
    ns_hash_seed_set(1, 2);
    test_cache_is_a_dictionary_up_to_its_limit();
    test_weights_stay_below_the_limit();
    test_a_scan_does_not_displace_what_is_used();
    test_a_loop_that_is_much_longer_than_the_cache_has_hits();
    test_ghosts_are_remembered_for_twice_as_many_evictions_as_there_are_entries();
    test_the_queue_grows_whose_entries_come_back_just_after_their_eviction();
    test_a_cache_of_one_keeps_room_for_a_new_entry();
    test_what_has_expired_is_not_found_and_freed();
    test_entries_are_freed_at_the_tick_of_their_deadline();
    test_late_thread_does_not_turn_the_wheel_back();
    test_key_is_held_before_its_entry_is_removed();
    test_keys_are_listed_once_each();
    test_threads_use_all_operations();
    test_value_is_never_found_with_the_deadline_of_another();
    test_reader_finds_no_value_older_than_a_finished_store();
    test_hits_of_all_threads_are_counted();
    test_child_finds_whole_cache_though_the_lock_was_held();
    return 0;
}
