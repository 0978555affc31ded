/* Tests memory/limbo.h: each word that was added is taken out once, by its thread or by another,
 * and not before its stamp is safe.
 */
#include "harness.h"
#include "memory/limbo.h"

#include <sched.h>
#include <string.h>

#define THREADS 4
#if defined(NS_SHAKE)
#define ADDED 3000 /* by each thread */
#define ROUNDS_OF_GROWTH 10
#else
#define ADDED 60000
#define ROUNDS_OF_GROWTH 50
#endif

static ns_limbo limbo;
static _Atomic uint8_t taken[THREADS][ADDED]; /* how often each word was taken out */
/* What each word stands for. It is not atomic, since an addition publishes it. */
static uint64_t made[THREADS][ADDED];
static _Atomic uint64_t safe; /* in place of ns_epoch_safe() */

/* A word holds the thread that added it and the word's number, which is its stamp, too: so a word
 * from a wrong place is noticed. */
static uintptr_t
word_of(int thread, uint64_t n)
{
    return (uintptr_t)(n << 8 | (uint64_t)thread << 2);
}

static void
note_taken(const uintptr_t *words, unsigned n, uint64_t below)
{
    for (unsigned i = 0; i < n; i++) {
        const uint64_t number = words[i] >> 8;
        CHECK(number < below);
        CHECK(made[words[i] >> 2 & 0x3f][number] == number + 1);
        CHECK(ns_add(&taken[words[i] >> 2 & 0x3f][number], 1, NS_RELAXED) == 0);
    }
}

static void
check_each_taken_once(int threads, uint64_t added)
{
    for (int i = 0; i < threads; i++) {
        for (uint64_t n = 0; n < added; n++) {
            CHECK(ns_load(&taken[i][n], NS_RELAXED) == 1);
        }
    }
    for (int i = 0; i < threads; i++) {
        memset(taken[i], 0, added);
    }
}

static void
destroy(void)
{
    CHECK(ns_limbo_count(&limbo) == 0);
    ns_limbo_destroy(&limbo);
    CHECK(ns_limbo_bytes(&limbo) == 0);
}

/* ---- One thread ---- */

static unsigned
take_mine(uint64_t below, unsigned room)
{
    uintptr_t words[NS_LIMBO_MAX];
    ns_limbo_list *list = ns_limbo_reserve(&limbo);
    if (list == NULL) { /* it is full */
        const unsigned n = ns_limbo_take_any(&limbo, below, words, room);
        note_taken(words, n, below);
        return n;
    }
    const unsigned n = ns_limbo_take(list, below, words, room);
    note_taken(words, n, below);
    return n;
}

static bool
add(int thread, uint64_t n)
{
    ns_limbo_list *list = ns_limbo_reserve(&limbo);
    if (list != NULL) {
        made[thread][n] = n + 1;
        ns_limbo_add(list, word_of(thread, n), n);
    }
    return list != NULL;
}

static int
count_word(uintptr_t word, void *context)
{
    CHECK(ns_load(&taken[0][word >> 8], NS_RELAXED) == 0);
    ++*(size_t *)context;
    return 0;
}

static int
stop(uintptr_t word, void *context)
{
    (void)word;
    ++*(size_t *)context;
    return 7;
}

/* The list grows to its max and then refuses; what it has goes in the order of the stamps. */
static void
list_grows_and_refuses(int i)
{
    (void)i;
    uint64_t n = 0;
    ns_slot();
    CHECK(ns_limbo_bytes(&limbo) == 0 && ns_limbo_count(&limbo) == 0);
    CHECK(ns_limbo_find(&limbo) == NULL && ns_limbo_bytes(&limbo) == 0);
    for (; n < 3; n++) { /* so that the ring has begun to turn before it grows */
        CHECK(add(0, n) && take_mine(n + 1, 1) == 1);
    }
    const uint64_t first = n;
    const size_t bytes = ns_limbo_bytes(&limbo);
    while (add(0, n)) {
        n++;
    }
    CHECK(n - first == NS_LIMBO_MAX && ns_limbo_count(&limbo) == NS_LIMBO_MAX);
    CHECK(ns_limbo_bytes(&limbo) > bytes);
    size_t visited = 0;
    CHECK(ns_limbo_visit(&limbo, count_word, &visited) == 0 && visited == NS_LIMBO_MAX);
    visited = 0;
    CHECK(ns_limbo_visit(&limbo, stop, &visited) == 7 && visited == 1);
    CHECK(take_mine(first, NS_LIMBO_MAX) == 0);
    CHECK(take_mine(first + 2, NS_LIMBO_MAX) == 2);
    CHECK(add(0, n++) && add(0, n++) && !add(0, n));
    CHECK(take_mine(n, 1) == 1 && take_mine(n, NS_LIMBO_MAX) == NS_LIMBO_MAX - 1);
    check_each_taken_once(1, n);
    destroy();
}

/* A poll is asked for after each so many looks, if some words are left. */
static void
list_is_due(int i)
{
    (void)i;
    ns_slot();
    uintptr_t word;
    ns_limbo_list *list = ns_limbo_reserve(&limbo);
    CHECK(ns_limbo_find(&limbo) == list);
    CHECK(!ns_limbo_is_due(list, 3) && !ns_limbo_is_due(list, 3) && !ns_limbo_is_due(list, 3));
    ns_limbo_add(list, word_of(0, 0), 0);
    CHECK(ns_limbo_is_due(list, 3));
    ns_limbo_add(list, word_of(0, 1), 1);
    CHECK(!ns_limbo_is_due(list, 3) && !ns_limbo_is_due(list, 3) && ns_limbo_is_due(list, 3));
    CHECK(ns_limbo_take(list, 2, &word, 1) == 1 && ns_limbo_take(list, 2, &word, 1) == 1);
    CHECK(!ns_limbo_is_due(list, 2));
    destroy();
}

/* A lone thread knows when all lists are empty. A thread that is not alone knows nothing. */
static void
lone_thread_finds_lists_empty(int i)
{
    (void)i;
    uintptr_t words[4];
    ns_slot();
    CHECK(!ns_limbo_may_hold(&limbo));
    CHECK(add(0, 0) && add(0, 1) && ns_limbo_may_hold(&limbo));
    CHECK(ns_slots_become_alone());
    CHECK(ns_limbo_take_alone(&limbo, 1, words, 4) == 1 && ns_limbo_may_hold(&limbo));
    CHECK(ns_limbo_take_alone(&limbo, 2, words, 4) == 1 && !ns_limbo_may_hold(&limbo));
    CHECK(add(0, 2) && ns_limbo_may_hold(&limbo));
    ns_slots_enter_stray();
    CHECK(ns_limbo_take_alone(&limbo, 3, words, 4) == 1 && ns_limbo_may_hold(&limbo));
    ns_slots_leave_stray();
    CHECK(ns_slots_become_alone());
    CHECK(ns_limbo_take_alone(&limbo, 3, words, 4) == 0 && !ns_limbo_may_hold(&limbo));
    destroy();
}

/* A thread without a slot has no list. */
static void
stray_has_no_list(int i)
{
    (void)i;
    CHECK(ns_cached_slot == 0);
    CHECK(ns_limbo_reserve(&limbo) == NULL && ns_limbo_find(&limbo) == NULL);
}

/* The next thread with the slot continues with the list of a thread that ended. */
static void
leave_one(int i)
{
    (void)i;
    ns_slot();
    CHECK(add(0, 0));
}

static void
continue_with_it(int i)
{
    (void)i;
    ns_slot();
    CHECK(ns_limbo_count(&limbo) == 1 && add(0, 1));
    CHECK(take_mine(2, 9) == 2);
}

/* A thread that vanished in a fork held the list's lock. */
static void
lock_survives_fork(int i)
{
    (void)i;
    ns_slot();
    CHECK(add(0, 0));
    ns_lock_take(&ns_limbo_reserve(&limbo)->lock);
    pretend_to_fork();
    CHECK(ns_limbo_count(&limbo) == 1 && take_mine(1, 9) == 1);
    check_each_taken_once(1, 1);
    destroy();
}

/* ---- Many threads ---- */

static _Atomic int adding;

/* Threads add, and take out what is safe of their own. */
static void
add_and_take(int i)
{
    ns_slot();
    for (uint64_t n = 0; n < ADDED;) {
        uint64_t now = ns_load(&safe, NS_ACQUIRE);
        if (add(i, n)) {
            n++;
            if (i == 0 && n % 4 == 0) {
                ns_store(&safe, n, NS_RELEASE);
            }
        }
        take_mine(now, 5);
    }
    ns_sub(&adding, 1, NS_RELEASE);
}

/* Others take out whatever is safe. */
static void
take_from_all(int i)
{
    uintptr_t words[16];
    (void)i;
    while (ns_load(&adding, NS_ACQUIRE) > 0) {
        uint64_t now = ns_load(&safe, NS_ACQUIRE);
        note_taken(words, ns_limbo_take_any(&limbo, now, words, 16), now);
        CHECK(ns_limbo_bytes(&limbo) < 1000000);
    }
}

static void
add_or_take(int i)
{
    if (i < THREADS - 1) {
        add_and_take(i);
    }
    else {
        take_from_all(i);
    }
}

static void
check_each_word_is_taken_once(void)
{
    uintptr_t word;
    ns_store(&adding, THREADS - 1, NS_RELAXED);
    run_threads(THREADS, add_or_take);
    while (ns_limbo_take_any(&limbo, UINT64_MAX, &word, 1) == 1) {
        note_taken(&word, 1, UINT64_MAX);
    }
    check_each_taken_once(THREADS - 1, ADDED);
    destroy();
}

#define FILLED 64 /* words in a list that grows to it */

/* Thread 0 adds to a new list, which grows; the others take words out of it meanwhile. */
static void
grow_or_take(int i)
{
    uintptr_t words[4];
    ns_slot();
    if (i == 0) {
        for (uint64_t n = 0; n < FILLED;) {
            n += add(0, n);
        }
        ns_store(&adding, 0, NS_RELEASE);
        return;
    }
    while (ns_load(&adding, NS_ACQUIRE) > 0) {
        note_taken(words, ns_limbo_take_any(&limbo, FILLED, words, 4), FILLED);
        sched_yield();
    }
}

static void
check_list_grows_beside_takers(void)
{
    for (int round = 0; round < ROUNDS_OF_GROWTH; round++) {
        uintptr_t word;
        ns_store(&adding, 1, NS_RELAXED);
        run_threads(3, grow_or_take);
        while (ns_limbo_take_any(&limbo, FILLED, &word, 1) == 1) {
            note_taken(&word, 1, FILLED);
        }
        check_each_taken_once(1, FILLED);
        destroy();
    }
}

int
main(void)
{
    init_core();
    run_threads(1, list_grows_and_refuses);
    run_threads(1, list_is_due);
    run_threads(1, lone_thread_finds_lists_empty);
    run_threads(1, stray_has_no_list);
    run_threads(1, leave_one);
    run_threads(1, continue_with_it);
    check_each_taken_once(1, 2);
    destroy();
    run_threads(1, lock_survives_fork);
    check_each_word_is_taken_once();
    check_list_grows_beside_takers();
    return 0;
}
