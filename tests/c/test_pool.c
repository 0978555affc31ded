/* Tests core/deque.h and core/pool.h: every item is in one place, nothing is lost, and ages and
 * limits hold.
 */
#include <sched.h>
#include <string.h>

#include "harness.h"

/* at_load, if set, is called before each load of the deque and the pool; at_step before each load,
 * store and read-modify-write. So a test can let another thread come between two of them. */
static _Thread_local void (*at_load)(void), (*at_step)(void);
#define STEP (at_step != NULL ? at_step() : (void)0)
#undef ns_load
#define ns_load(p, order) \
    (STEP, at_load != NULL ? at_load() : (void)0, ns_step atomic_load_explicit((p), order))
#undef ns_store
#define ns_store(p, v, order) (STEP, ns_step atomic_store_explicit((p), (v), order))
#undef ns_cas
#define ns_cas(p, expected, desired, order)           \
    (STEP,                                            \
     ns_step atomic_compare_exchange_strong_explicit( \
         (p), (expected), (desired), order, NS_RELAXED))
#undef ns_or
#define ns_or(p, v, order) (STEP, ns_step atomic_fetch_or_explicit((p), (v), order))
#undef ns_and
#define ns_and(p, v, order) (STEP, ns_step atomic_fetch_and_explicit((p), (v), order))
#include "deque.h"
#include "pool.h"

/* If makers_meet is set, threads that make a segment of places wait for each other there. */
static pthread_barrier_t makers;
static _Atomic bool makers_meet;

static void *
allocate(size_t alignment, size_t size)
{
    if (atomic_load(&makers_meet)) {
        pthread_barrier_wait(&makers);
    }
    return aligned_alloc(alignment, size);
}

/* No list that the child of a fork would find has something that is freed. */
static ns_deque deque;

static void
release(void *p)
{
    ns_ring *ring = atomic_load(&deque.retired);
    for (; ring != NULL; ring = atomic_load(&ring->older)) {
        CHECK(ring != p);
    }
    free(p);
}

#define aligned_alloc allocate
#define free release
#include "deque.c"
#include "pool.c"

#undef aligned_alloc
#undef free

#define THREADS 5
#ifndef ROUNDS
#define ROUNDS 20000
#endif
#define ITEMS 400

/* What is pooled. Its fields are plain: only the thread that has the item may touch them. */
typedef struct {
    int holder;
    long uses;
} item;

static item items[ITEMS];

static void
hold(item *it, int by)
{
    CHECK(it->holder == 0);
    it->holder = by + 1;
    it->uses++;
}

static void
give_up(item *it, int by)
{
    CHECK(it->holder == by + 1);
    it->holder = 0;
}

/* ---- The deque alone ---- */

static _Atomic int64_t taken;
static _Atomic bool done;

static void
check_deque_alone(void)
{
    memset(&deque, 0, sizeof(deque));
    CHECK(ns_deque_pop(&deque) == NULL && ns_deque_steal(&deque, 0, 0) == NULL);
    for (int i = 0; i < ITEMS; i++) {
        CHECK(ns_deque_push(&deque, &items[i], (uint32_t)(i / 100), 0));
    }
    CHECK(ns_deque_count(&deque) == ITEMS);
    CHECK(ns_deque_pop(&deque) == &items[ITEMS - 1]); /* the newest */
    CHECK(ns_deque_steal(&deque, 0, 0) == &items[0]); /* the oldest */
    for (int i = 1; i < 200; i++) { /* those with the stamps 0 and 1 */
        CHECK(ns_deque_steal(&deque, 3, 2) == &items[i]);
    }
    CHECK(ns_deque_steal(&deque, 3, 2) == NULL && ns_deque_steal(&deque, 1, 1) == NULL);
    for (int i = ITEMS - 2; i >= 200; i--) {
        CHECK(ns_deque_pop(&deque) == &items[i]);
    }
    CHECK(ns_deque_count(&deque) == 0 && ns_deque_pop(&deque) == NULL);

    /* The child of a fork finds a pop that was cut off. */
    ns_sub(&deque.bottom, 1, NS_RELAXED);
    CHECK(ns_deque_count(&deque) == 0 && ns_deque_pop(&deque) == NULL);
    CHECK(ns_deque_steal(&deque, 0, 0) == NULL);
    CHECK(ns_deque_push(&deque, &items[0], 0, 0) && ns_deque_count(&deque) == 1);
    CHECK(ns_deque_steal(&deque, 0, 0) == &items[0]);

    /* Memory is freed in steps, and only after two quiet moments. */
    size_t large = ns_deque_size(&deque);
    ns_ring *ring = deque.retired;
    ns_deque_trim(&deque, 1);
    CHECK(ring != NULL && (deque.retired == ring || deque.retired->older == ring));
    for (int i = 0; i < 20 * ITEMS; i++) {
        CHECK(ns_deque_push(&deque, &items[0], 0, 1));
    }
    CHECK(ns_deque_size(&deque) > large);
    while (ns_deque_pop(&deque) != NULL) {
    }
    for (uint64_t now = 2; now < 20; now++) {
        ns_deque_trim(&deque, now);
    }
    CHECK(ns_deque_size(&deque) <= large && deque.retired == NULL);

    /* If nothing counts quiet moments, bursts with quiet between them do not pile up rings. */
    int rings_before = 0;
    for (int lap = 0; lap < 20; lap++) {
        for (int i = 0; i < 20 * ITEMS; i++) {
            CHECK(ns_deque_push(&deque, &items[0], 0, 20));
        }
        while (ns_deque_pop(&deque) != NULL) {
        }
        for (int i = 0; i < 20; i++) {
            ns_deque_trim(&deque, 20);
        }
        int rings = 0;
        for (ns_ring *each = deque.retired; each != NULL; each = each->older) {
            rings++;
        }
        rings_before = lap == 0 ? rings : rings_before;
        CHECK(rings <= rings_before + 1);
    }
    /* A ring is as large as what is in it. */
    ns_deque_destroy(&deque);
    memset(&deque, 0, sizeof(deque));
    for (int i = 0; i < 20 * ITEMS; i++) {
        CHECK(ns_deque_push(&deque, &items[i % ITEMS], 0, 0));
    }
    for (int i = 20 * ITEMS; i > 0; i--) {
        ns_deque_trim(&deque, (uint64_t)(20 * ITEMS + 2 - i));
        CHECK(ns_deque_count(&deque) == i && ns_deque_pop(&deque) == &items[(i - 1) % ITEMS]);
    }
    ns_deque_destroy(&deque);
    memset(&deque, 0, sizeof(deque));
}

/* From the owner's push until the thread that took the item has given it up. */
static _Atomic bool in_use[ITEMS];

/* One owner with few items at a time, so that it meets the thieves at the last one. Now and then it
 * has more, so that the ring grows while they read it. */
static void
own_and_steal(int i)
{
    if (i == 0) {
        int next = 0;
        item *free_items[ITEMS];
        for (int n = 0; n < ITEMS; n++) {
            free_items[n] = &items[n];
        }
        for (int n = 0; n < ROUNDS; n++) {
            int burst = n % 1000 == 999 ? ITEMS / 2 : 1 + n % 3;
            for (int k = 0; k < burst; k++) {
                item *it = free_items[next];
                while (ns_load(&in_use[it - items], NS_ACQUIRE)) { /* a thief has it */
                    sched_yield();
                }
                ns_store(&in_use[it - items], true, NS_RELAXED);
                it->uses++;
                CHECK(ns_deque_push(&deque, it, 0, 0));
                next = (next + 1) % ITEMS;
            }
            for (item *it; (it = ns_deque_pop(&deque)) != NULL;) {
                hold(it, i);
                ns_add(&taken, 1, NS_RELAXED);
                give_up(it, i);
                ns_store(&in_use[it - items], false, NS_RELAXED);
            }
        }
        ns_store(&done, true, NS_RELEASE);
    }
    else {
        while (!ns_load(&done, NS_ACQUIRE)) {
            item *it = ns_deque_steal(&deque, 0, 0);
            if (it != NULL) {
                hold(it, i);
                ns_add(&taken, 1, NS_RELAXED);
                give_up(it, i);
                ns_store(&in_use[it - items], false, NS_RELEASE);
            }
        }
    }
}

/* Each number goes in once and must come out once. */
#define NUMBERS (20 * ROUNDS)
static _Atomic uint8_t seen[NUMBERS];

static void
see(void *number)
{
    CHECK(ns_swap(&seen[(uintptr_t)number - 1], 1, NS_RELAXED) == 0);
    ns_add(&taken, 1, NS_RELAXED);
}

static void
pass_numbers(int i)
{
    void *number;
    if (i == 0) {
        for (uintptr_t n = 0; n < NUMBERS;) {
            for (int k = 0; k < 2; k++) {
                CHECK(ns_deque_push(&deque, (void *)(++n), 0, 0));
            }
            for (int k = 0; k < 2 && (number = ns_deque_pop(&deque)) != NULL; k++) {
                see(number);
            }
        }
        while ((number = ns_deque_pop(&deque)) != NULL) {
            see(number);
        }
        ns_store(&done, true, NS_RELEASE);
    }
    else {
        while (!ns_load(&done, NS_ACQUIRE)) {
            if ((number = ns_deque_steal(&deque, 0, 0)) != NULL) {
                see(number);
            }
        }
    }
}

/* A thief has read both ends. The owner makes another ring only then, and the thief sees it whole.
 * The flag orders nothing. */
static _Atomic int stage;

static void
wait_for_growth(void)
{
    static int loads;
    if (++loads == 3) { /* the load of the ring */
        at_load = NULL;
        ns_store(&stage, 1, NS_RELAXED);
        while (ns_load(&stage, NS_RELAXED) != 2) {
            sched_yield();
        }
    }
}

static void
grow_under_thief(int i)
{
    if (i == 0) {
        while (ns_load(&stage, NS_RELAXED) != 1) {
            sched_yield();
        }
        CHECK(ns_deque_push(&deque, &items[NS_DEQUE_SIZE], 0, 0));
        ns_store(&stage, 2, NS_RELAXED);
    }
    else {
        at_load = wait_for_growth;
        CHECK(ns_deque_steal(&deque, 0, 0) == &items[0]);
    }
}

static void
check_thief_sees_new_ring_whole(void)
{
    for (int i = 0; i < NS_DEQUE_SIZE; i++) {
        CHECK(ns_deque_push(&deque, &items[i], 0, 0));
    }
    run_threads(2, grow_under_thief);
    for (int i = NS_DEQUE_SIZE; i > 0; i--) {
        CHECK(ns_deque_pop(&deque) == &items[i]);
    }
    ns_deque_destroy(&deque);
    memset(&deque, 0, sizeof(deque));
}

static void
check_deque_with_thieves(void)
{
    check_deque_alone();
    check_thief_sees_new_ring_whole();
    run_threads(2, pass_numbers);
    CHECK(taken == NUMBERS);
    ns_store(&done, false, NS_RELAXED);
    run_threads(3, own_and_steal);
    ns_deque_destroy(&deque);
    memset(items, 0, sizeof(items));
}

/* ---- The pool ---- */

static ns_pool pool;

static void
make(int64_t max_items)
{
    memset(&pool, 0, sizeof(pool));
    CHECK(ns_pool_init(&pool, max_items));
}

static item *
next_old(void)
{
    ns_pool_walk walk = {0};
    return ns_pool_next(&pool, &walk, false);
}

static void
drain(void)
{
    ns_pool_walk walk = {0};
    while (ns_pool_next(&pool, &walk, true) != NULL) {
    }
    CHECK(ns_pool_count(&pool) == 0);
}

static int
count_visit(void *it, void *argument)
{
    ((item *)it)->uses = 1;
    return ++*(int *)argument == 3 ? 7 : 0;
}

static void
put_one(int i)
{
    CHECK(ns_pool_put(&pool, &items[i]) == NULL);
}

static void
check_items_ages_and_rounds(void)
{
    make(-1);
    CHECK(ns_pool_get(&pool) == NULL && ns_pool_extra_size(&pool) == 0);
    for (int i = 0; i < 5; i++) {
        CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    }
    CHECK(ns_pool_count(&pool) == 5 && ns_pool_extra_size(&pool) > sizeof(ns_pool_shard));
    int visited = 0;
    CHECK(ns_pool_each(&pool, count_visit, &visited) == 7 && visited == 3);
    visited = 3; /* so that it goes on to the end */
    CHECK(ns_pool_each(&pool, count_visit, &visited) == 0 && visited == 8);
    for (int i = 4; i >= 0; i--) { /* the newest first */
        CHECK(ns_pool_get(&pool) == &items[i]);
    }
    CHECK(ns_pool_get(&pool) == NULL);

    /* Other threads find what finished threads left. */
    run_threads(8, put_one);
    CHECK(ns_pool_count(&pool) == 8);
    for (int i = 0; i < 8; i++) {
        item *it = ns_pool_get(&pool);
        CHECK(it != NULL && it->holder == 0);
        it->holder = 1;
    }
    CHECK(ns_pool_get(&pool) == NULL);
    memset(items, 0, sizeof(items));

    /* An item is old after two collections in a row. */
    CHECK(ns_pool_put(&pool, &items[0]) == NULL && ns_pool_put(&pool, &items[1]) == NULL);
    CHECK(next_old() == NULL);
    ns_pool_collected(&pool);
    CHECK(next_old() == NULL);
    CHECK(ns_pool_put(&pool, &items[2]) == NULL); /* now 0 and 1 are in the deque */
    CHECK(!ns_pool_grow_older(&pool, INT64_C(3600000000000)) && ns_pool_grow_older(&pool, 0));
    CHECK(next_old() == &items[0] && next_old() == &items[1] && next_old() == NULL);
    ns_pool_collected(&pool);
    CHECK(next_old() == &items[2] && ns_pool_count(&pool) == 0);
    ns_pool_collected(&pool);
    ns_pool_collected(&pool);
    CHECK(ns_pool_put(&pool, &items[0]) == NULL && next_old() == NULL);
    CHECK(ns_pool_get(&pool) == &items[0]);

    /* A put is due for a look at the clock at intervals. */
    int due = 0;
    for (int i = 0; i < 4 * NS_POOL_ROUND; i++) {
        if (!ns_pool_put_fast(&pool, &items[0])) {
            CHECK(ns_pool_put_slow(&pool, &items[0]) == NULL);
            due += ns_pool_is_due(&pool);
        }
        CHECK(ns_pool_get(&pool) == &items[0]);
    }
    CHECK(due >= 3 && due <= 5);

    /* It then frees the rings that were replaced two collections ago. */
    for (int i = 0; i < 4 * NS_DEQUE_SIZE; i++) {
        CHECK(ns_pool_put_slow(&pool, &items[i]) == NULL);
    }
    ns_pool_shard *s = ns_pool_mine(&pool);
    for (int collections = 0; collections < 3; collections++) {
        CHECK((s->deque.retired != NULL) == (collections < 2));
        ns_pool_collected(&pool);
        ns_store(&s->countdown, 0, NS_RELAXED);
        CHECK(ns_pool_is_due(&pool));
    }
    CHECK(s->deque.retired == NULL);
    while (ns_pool_get(&pool) != NULL) {
    }
    ns_pool_destroy(&pool);
}

/* Whichever path a put takes, a thief sees what was done with the item before. The flag orders
 * nothing. */
static int way;

static void
put_or_steal(int i)
{
    item *it = &items[1];
    if (i == 0) {
        CHECK(ns_pool_put(&pool, &items[0]) == NULL);
        CHECK(way == 2 || ns_pool_get(&pool) == &items[0]);
        it->uses = 5;
        CHECK(way == 0 ? ns_pool_put_fast(&pool, it) : ns_pool_put_slow(&pool, it) == NULL);
        ns_store(&stage, 2, NS_RELAXED);
        while (ns_load(&stage, NS_RELAXED) != 3) {
            sched_yield();
        }
    }
    else {
        while (ns_load(&stage, NS_RELAXED) != 2) {
            sched_yield();
        }
        ns_pool_walk walk = {0};
        CHECK(ns_pool_next(&pool, &walk, true) == it && it->uses == 5);
        it->uses = 0;
        ns_store(&stage, 3, NS_RELAXED);
    }
}

static void
check_thief_sees_earlier_writes(void)
{
    for (way = 0; way < 3; way++) {
        make(-1);
        ns_store(&stage, 0, NS_RELAXED);
        run_threads(2, put_or_steal);
        drain();
        ns_pool_destroy(&pool);
    }
}

/* A fork may come before each step: no shard is beyond those that searches visit. */
static void
check_no_shard_is_beyond_used(void)
{
    at_load = NULL;
    ns_pool_place *first = atomic_load(&pool.segments[0]);
    for (uint32_t slot = 0; first != NULL && slot < NS_POOL_FIRST; slot++) {
        CHECK(atomic_load(&first[slot]) == NULL || slot < atomic_load(&pool.used));
    }
    at_load = check_no_shard_is_beyond_used;
}

static void
put_and_check(int i)
{
    at_load = check_no_shard_is_beyond_used;
    CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    at_load = NULL;
}

static void
check_new_shards_are_in_reach(void)
{
    make(-1);
    run_threads(1, put_and_check);
    put_and_check(1);
    drain();
    ns_pool_destroy(&pool);
}

/* Two make the first segment at once: what both put is found. */
static void
check_two_make_one_segment(void)
{
    make(-1);
    pthread_barrier_init(&makers, NULL, 2);
    ns_store(&makers_meet, true, NS_RELAXED);
    run_threads(2, put_one);
    ns_store(&makers_meet, false, NS_RELAXED);
    CHECK(ns_pool_count(&pool) == 2);
    drain();
    ns_pool_destroy(&pool);
}

/* A search finds a shard that lies amid others, and sees it whole. */
static _Atomic uint32_t slot_of[3];
static pthread_barrier_t known;

static void
put_amid_others(int i)
{
    int rank = 0;
    slot_of[i] = ns_slot();
    pthread_barrier_wait(&known);
    for (int k = 0; k < 3; k++) {
        rank += slot_of[k] < slot_of[i];
    }
    const int turn = rank == 2 ? 0 : rank == 0 ? 1 : 2;
    while (ns_load(&stage, NS_RELAXED) != turn) {
        sched_yield();
    }
    if (turn < 2) {
        CHECK(ns_pool_put(&pool, &items[turn]) == NULL);
    }
    else {
        ns_pool_walk walk = {0};
        CHECK(ns_pool_next(&pool, &walk, true) == &items[1]);
    }
    ns_store(&stage, turn + 1, NS_RELAXED);
    while (ns_load(&stage, NS_RELAXED) != 3) {
        sched_yield();
    }
}

static void
check_shard_amid_others_is_found(void)
{
    make(-1);
    ns_store(&stage, 0, NS_RELAXED);
    pthread_barrier_init(&known, NULL, 3);
    run_threads(3, put_amid_others);
    drain();
    ns_pool_destroy(&pool);
}

/* A walk has seen that an item is old, and then takes one that replaced it: the walk puts that one
 * back. */
static void
put_another(void)
{
    static int loads;
    if (++loads == 10) { /* the load of the item, after that of its age */
        at_load = NULL;
        CHECK(ns_pool_get(&pool) == &items[0]);
        CHECK(ns_pool_put(&pool, &items[1]) == NULL);
    }
}

static void
check_walk_puts_young_item_back(void)
{
    make(-1);
    CHECK(ns_pool_put(&pool, &items[0]) == NULL);
    ns_pool_collected(&pool);
    ns_pool_collected(&pool);
    ns_pool_walk walk = {.slot = ns_slot()};
    at_load = put_another;
    CHECK(ns_pool_next(&pool, &walk, false) == NULL && at_load == NULL);
    CHECK(ns_pool_get(&pool) == &items[1] && ns_pool_count(&pool) == 0);
    ns_pool_destroy(&pool);
}

/* The owner moves an item while another thread searches: before the search's first load, its
 * second, and so on. The search finds it each time. Of two items it finds the oldest first. */
enum { OWNED = 1, MOVE, MOVED, STOLEN };
static int loads_left;

static void
wait_for_move(void)
{
    if (loads_left-- == 0) {
        at_load = NULL;
        ns_store(&stage, MOVE, NS_RELAXED);
        while (ns_load(&stage, NS_RELAXED) != MOVED) {
            sched_yield();
        }
    }
}

static int
turn_of(int one, int other)
{
    int now;
    while ((now = ns_load(&stage, NS_RELAXED)) != one && now != other) {
        sched_yield();
    }
    return now;
}

static void
move_and_steal(int i)
{
    for (int round = 0; round < 40; round++) {
        if (i == 0) {
            CHECK(ns_pool_put(&pool, &items[0]) == NULL);
            ns_store(&stage, OWNED, NS_RELAXED);
            if (turn_of(MOVE, STOLEN) == MOVE) {
                CHECK(ns_pool_put(&pool, &items[1]) == NULL);
                CHECK(ns_pool_get(&pool) == &items[1]);
                ns_store(&stage, MOVED, NS_RELAXED);
            }
            turn_of(STOLEN, STOLEN);
        }
        else {
            turn_of(OWNED, OWNED);
            loads_left = round;
            at_load = wait_for_move;
            CHECK(ns_pool_get(&pool) == &items[0]);
            at_load = NULL;
            ns_store(&stage, STOLEN, NS_RELAXED);
        }
    }
}

static void
put_two(int i)
{
    (void)i;
    CHECK(ns_pool_put(&pool, &items[0]) == NULL && ns_pool_put(&pool, &items[1]) == NULL);
}

static void
check_moving_item_is_stolen(void)
{
    make(-1);
    ns_store(&stage, 0, NS_RELAXED);
    run_threads(2, move_and_steal);
    CHECK(ns_pool_get(&pool) == NULL);
    ns_pool_destroy(&pool);

    make(-1);
    run_threads(1, put_two);
    CHECK(ns_pool_get(&pool) == &items[0] && ns_pool_get(&pool) == &items[1]);
    ns_pool_destroy(&pool);
}

static void
get_one(int i)
{
    (void)i;
    CHECK(ns_pool_get(&pool) != NULL);
}

static void
put_then_get(int i)
{
    CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    CHECK(ns_pool_get(&pool) != NULL);
}

static void
check_limit_refuses_puts(void)
{
    make(0);
    CHECK(ns_pool_put(&pool, &items[0]) == &items[0] && ns_pool_count(&pool) == 0);
    ns_pool_destroy(&pool);

    make(3);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) {
            CHECK(ns_pool_put(&pool, &items[i]) == (i < 3 ? NULL : &items[i]));
        }
        CHECK(ns_pool_count(&pool) == 3 && ns_load(pool.reserved, NS_RELAXED) == 3);
        if (round == 0) {
            drain();
        }
        else {
            run_threads(3, get_one); /* a thief takes the reservation too */
        }
        CHECK(ns_load(pool.reserved, NS_RELAXED) == 0);
    }
    /* Reservations for items that are out do not get in the way. */
    run_threads(2, put_then_get);
    drain();
    for (int i = 0; i < 4; i++) {
        CHECK(ns_pool_put(&pool, &items[i]) == (i < 3 ? NULL : &items[i]));
    }
    drain();
    CHECK(ns_load(pool.reserved, NS_RELAXED) == 0);
    ns_pool_destroy(&pool);
}

static _Atomic int put_too_many;

/* All threads get, hold and put, one item or a burst at a time. One thread lets time pass. A thread
 * gives up only what it holds. At the end every item is somewhere. */
static item *outside[THREADS][ITEMS];
static int outside_count[THREADS];

static void
use_at_random(int i)
{
    item **mine = outside[i];
    int count = 0;
    for (int k = i; k < ITEMS; k += THREADS) {
        mine[count++] = &items[k];
    }
    for (int n = 0; n < ROUNDS / 10; n++) {
        int burst = n % 100 == 0 ? 40 : 1 + n % 3;
        for (int k = 0; k < burst && count > 0; k++) {
            item *it = mine[--count];
            hold(it, i);
            give_up(it, i);
            item *back = ns_pool_put(&pool, it);
            if (back != NULL) {
                hold(back, i);
                give_up(back, i);
                mine[count++] = back;
                break;
            }
        }
        for (int k = 0; k < burst; k++) {
            item *it = ns_pool_get(&pool);
            if (it == NULL) {
                break;
            }
            hold(it, i);
            give_up(it, i);
            mine[count++] = it;
        }
        if (pool.reserved != NULL) {
            if (ns_pool_count(&pool) > pool.max_items + THREADS) {
                ns_add(&put_too_many, 1, NS_RELAXED);
            }
        }
        if (i == 1 && n % 7 == 0) {
            ns_pool_grow_older(&pool, 0);
            ns_pool_walk walk = {0};
            for (item *it; (it = ns_pool_next(&pool, &walk, n % 70 == 0)) != NULL;) {
                hold(it, i);
                give_up(it, i);
                mine[count++] = it;
            }
        }
    }
    outside_count[i] = count;
}

static void
check_random_uses(int64_t max_items)
{
    memset(items, 0, sizeof(items));
    make(max_items);
    run_threads(THREADS, use_at_random);
    int total = 0;
    for (int i = 0; i < THREADS; i++) {
        total += outside_count[i];
        for (int k = 0; k < outside_count[i]; k++) {
            hold(outside[i][k], i); /* each exactly once */
        }
    }
    total += (int)ns_pool_count(&pool);
    CHECK(total == ITEMS);
    ns_pool_walk walk = {0};
    for (item *it; (it = ns_pool_next(&pool, &walk, true)) != NULL;) {
        hold(it, THREADS);
    }
    CHECK(ns_pool_count(&pool) == 0);
    /* Every remaining reservation belongs to some shard. */
    int64_t reserved = 0;
    for (uint32_t slot = 0; slot < ns_load(&pool.used, NS_RELAXED); slot++) {
        ns_pool_shard *s = ns_pool_find(&pool, slot);
        reserved += s != NULL && (ns_load(&s->flags, NS_RELAXED) & NS_POOL_RESERVED);
    }
    CHECK(pool.reserved == NULL || ns_load(pool.reserved, NS_RELAXED) == reserved);
    ns_pool_destroy(&pool);
}

/* ---- The list ---- */

static uint32_t
count_listed(void)
{
    uint32_t count = 0, used = ns_load(&pool.used, NS_RELAXED);
    for (uint32_t slot = 0; (slot = next_listed(&pool, slot, used)) < used; slot++) {
        count++;
    }
    return count;
}

/* Each shard with an item is listed. */
static void
check_items_are_in_listed_shards(void)
{
    for (uint32_t slot = 0; slot < ns_load(&pool.used, NS_RELAXED); slot++) {
        ns_pool_shard *s = ns_pool_find(&pool, slot);
        CHECK(s == NULL || is_empty(s) || next_listed(&pool, slot, slot + 1) == slot);
    }
}

/* `many` threads, all alive at once, each of which puts an item. */
static pthread_barrier_t all_alive;
static bool takes_back;

static void *
be_one_of_many(void *argument)
{
    CHECK(ns_pool_put(&pool, argument) == NULL);
    CHECK(!takes_back || ns_pool_get(&pool) == argument);
    pthread_barrier_wait(&all_alive);
    return NULL;
}

static void
come_and_go(int many)
{
    pthread_t threads[ITEMS];
    pthread_barrier_init(&all_alive, NULL, (unsigned)many);
    for (int i = 0; i < many; i++) {
        CHECK(pthread_create(&threads[i], NULL, be_one_of_many, &items[i]) == 0);
    }
    for (int i = 0; i < many; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&all_alive);
}

/* More threads than a segment has slots. Once they and their items are gone, no search visits their
 * shards, until the slots have new holders. */
static void
check_shards_of_ended_threads_are_unlisted(void)
{
    enum { MANY = 300 };
    (void)ns_slot(); /* this thread's own, which puts nothing */
    make(-1);
    for (int lap = 0; lap < 3; lap++) {
        come_and_go(MANY);
        CHECK(ns_pool_count(&pool) == MANY && count_listed() == MANY);
        check_items_are_in_listed_shards();
        if (lap == 1) {
            drain();
        }
        else {
            for (int i = 0; i < MANY; i++) {
                CHECK(ns_pool_get(&pool) != NULL);
            }
            CHECK(ns_pool_get(&pool) == NULL);
        }
        CHECK(count_listed() == 0);
    }
    ns_pool_destroy(&pool);
}

/* A search takes shard->item of more living threads than it has room for candidates. */
static pthread_barrier_t may_end;

static void *
put_and_stay(void *argument)
{
    be_one_of_many(argument);
    pthread_barrier_wait(&may_end);
    return NULL;
}

static void
check_search_of_many_living_shards(void)
{
    enum { MANY = 40 };
    pthread_t threads[MANY];
    make(-1);
    pthread_barrier_init(&all_alive, NULL, MANY + 1);
    pthread_barrier_init(&may_end, NULL, MANY + 1);
    for (int i = 0; i < MANY; i++) {
        CHECK(pthread_create(&threads[i], NULL, put_and_stay, &items[i]) == 0);
    }
    pthread_barrier_wait(&all_alive);
    for (int i = 0; i < MANY; i++) {
        CHECK(ns_pool_get(&pool) != NULL);
    }
    CHECK(ns_pool_get(&pool) == NULL && count_listed() == MANY);
    pthread_barrier_wait(&may_end);
    for (int i = 0; i < MANY; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&all_alive);
    pthread_barrier_destroy(&may_end);
    ns_pool_destroy(&pool);
}

/* The owner takes an item and puts it back before each step of a search. The item is in use, so the
 * search leaves it alone. */
enum { IDLE, USE, USED, FOUND };

static void
wait_for_use(void)
{
    at_load = NULL;
    ns_store(&stage, USE, NS_RELEASE);
    while (ns_load(&stage, NS_ACQUIRE) != USED) {
        sched_yield();
    }
    at_load = wait_for_use;
}

static void
use_or_search(int i)
{
    if (i == 0) {
        CHECK(ns_pool_put(&pool, &items[0]) == NULL);
        ns_store(&stage, USED, NS_RELEASE);
        for (int now; (now = turn_of(USE, FOUND)) == USE;) {
            CHECK(ns_pool_get(&pool) == &items[0] && ns_pool_put(&pool, &items[0]) == NULL);
            ns_store(&stage, USED, NS_RELEASE);
        }
        CHECK(ns_pool_get(&pool) == &items[0]);
    }
    else {
        turn_of(USED, USED);
        at_load = wait_for_use;
        CHECK(ns_pool_get(&pool) == NULL);
        at_load = NULL;
        ns_store(&stage, FOUND, NS_RELEASE);
    }
}

static void
check_item_in_use_is_left_alone(void)
{
    make(-1);
    ns_store(&stage, IDLE, NS_RELAXED);
    run_threads(2, use_or_search);
    ns_pool_destroy(&pool);
}

static void
find_nothing(int i)
{
    (void)i;
    CHECK(ns_pool_get(&pool) == NULL);
}

/* A living thread stays listed while its item is out. */
static void
check_living_thread_stays_listed(void)
{
    make(-1);
    put_one(0);
    CHECK(ns_pool_get(&pool) == &items[0]);
    run_threads(1, find_nothing);
    CHECK(count_listed() == 1 && ns_pool_put_fast(&pool, &items[0]));
    run_threads(1, get_one);
    CHECK(ns_pool_count(&pool) == 0);
    ns_pool_destroy(&pool);
}

/* Living threads keep their reservations while their items are out. If the limit is reached, a put
 * takes one of those. */
static void
check_put_takes_reservation_of_item_that_is_out(void)
{
    enum { MANY = 3 };
    pthread_t threads[MANY];
    make(MANY);
    takes_back = true;
    pthread_barrier_init(&all_alive, NULL, MANY + 1);
    pthread_barrier_init(&may_end, NULL, MANY + 1);
    for (int i = 0; i < MANY; i++) {
        CHECK(pthread_create(&threads[i], NULL, put_and_stay, &items[i]) == 0);
    }
    pthread_barrier_wait(&all_alive);
    takes_back = false;
    CHECK(ns_pool_count(&pool) == 0 && ns_load(pool.reserved, NS_RELAXED) == MANY);
    for (int i = 0; i < MANY; i++) {
        CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    }
    CHECK(ns_pool_put(&pool, &items[MANY]) == &items[MANY]);
    CHECK(ns_load(pool.reserved, NS_RELAXED) == MANY);
    pthread_barrier_wait(&may_end);
    for (int i = 0; i < MANY; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&all_alive);
    pthread_barrier_destroy(&may_end);
    drain();
    ns_pool_destroy(&pool);
}

/* Reservations of threads that ended with their items out are given back. */
static void
check_ended_threads_return_reservations(void)
{
    make(40);
    takes_back = true;
    come_and_go(40);
    takes_back = false;
    CHECK(count_listed() == 40 && ns_load(pool.reserved, NS_RELAXED) == 40);
    CHECK(ns_pool_get(&pool) == NULL);
    CHECK(count_listed() == 0 && ns_load(pool.reserved, NS_RELAXED) == 0);
    come_and_go(40);
    CHECK(ns_pool_count(&pool) == 40 && ns_load(pool.reserved, NS_RELAXED) == 40);
    drain();
    CHECK(ns_load(pool.reserved, NS_RELAXED) == 0);
    ns_pool_destroy(&pool);
}

/* A search unlists the shard of a thread that has ended. It stops before one of its steps, and a
 * new holder of the slot begins to put an item there. The new holder stops before one of its steps
 * too, until the search has finished. Whichever these steps are: the item is found, and so are
 * those that the new holder puts later, and those of the next holder. */
enum { BEGIN, SEARCHING, LISTED_HALF, SEARCHED, ALL_DONE };
static int search_stops_at, owner_stops_at, steps;
static bool search_stopped, owner_stopped;
static _Thread_local int steps_left;

static void
wait_for_stage(int wanted)
{
    while (ns_load(&stage, NS_ACQUIRE) < wanted) {
        sched_yield();
    }
}

static void
stop_searching(void)
{
    if (steps_left-- == 0) {
        at_step = NULL;
        search_stopped = true;
        ns_store(&stage, SEARCHING, NS_RELEASE);
        wait_for_stage(LISTED_HALF);
    }
}

static void
stop_listing(void)
{
    if (steps_left-- == 0) {
        at_step = NULL;
        owner_stopped = true;
        ns_store(&stage, LISTED_HALF, NS_RELEASE);
        wait_for_stage(SEARCHED);
    }
}

static void *
put_as_new_holder(void *unused)
{
    wait_for_stage(SEARCHING);
    (void)ns_slot();
    steps_left = owner_stops_at;
    at_step = stop_listing;
    CHECK(ns_pool_put(&pool, &items[0]) == NULL);
    at_step = NULL;
    if (!owner_stopped) {
        ns_store(&stage, LISTED_HALF, NS_RELEASE);
        wait_for_stage(SEARCHED);
    }
    check_items_are_in_listed_shards();
    taken += ns_pool_get(&pool) != NULL;
    CHECK(taken == 1);
    CHECK(ns_pool_put(&pool, &items[1]) == NULL); /* by the fast path, if the shard is listed */
    check_items_are_in_listed_shards();
    ns_store(&stage, ALL_DONE, NS_RELEASE);
    return unused;
}

static void
search_and_unlist(void)
{
    pthread_t owner;
    ns_store(&stage, BEGIN, NS_RELAXED);
    CHECK(pthread_create(&owner, NULL, put_as_new_holder, NULL) == 0);
    steps_left = search_stops_at;
    at_step = stop_searching;
    item *it = ns_pool_get(&pool);
    at_step = NULL;
    if (!search_stopped) {
        ns_store(&stage, SEARCHING, NS_RELEASE);
        wait_for_stage(LISTED_HALF);
    }
    CHECK(it == NULL || it == &items[0]);
    taken += it != NULL;
    ns_store(&stage, SEARCHED, NS_RELEASE);
    wait_for_stage(ALL_DONE);
    CHECK(ns_pool_get(&pool) == &items[1]);
    pthread_join(owner, NULL);
}

/* `flags`: what the previous holder, or another search that gave up, or a fork left in the
 * shard. */
static void
check_unlisting_beside_new_holder(uint32_t flags)
{
    search_stopped = true;
    for (search_stops_at = 0; search_stopped; search_stops_at++) {
        owner_stopped = true;
        for (owner_stops_at = 0; owner_stopped; owner_stops_at++) {
            make(-1);
            run_threads(1, put_two); /* the previous holder */
            CHECK(ns_pool_get(&pool) != NULL && ns_pool_get(&pool) != NULL);
            ns_store(&ns_pool_find(&pool, next_listed(&pool, 0, 64))->flags, flags, NS_RELAXED);
            taken = 0;
            search_stopped = owner_stopped = false;
            search_and_unlist();
            run_threads(1, put_one);
            CHECK(ns_pool_get(&pool) == &items[0] && ns_pool_get(&pool) == NULL);
            CHECK(count_listed() == 0);
            ns_pool_destroy(&pool);
            steps++;
        }
    }
}

static void *
put_one_too_many(void *unused)
{
    CHECK(ns_pool_put(&pool, &items[0]) == NULL);
    ns_store(&stage, BEGIN, NS_RELEASE);
    wait_for_stage(SEARCHING);
    item *refused = ns_pool_put(&pool, &items[1]);
    CHECK(refused == &items[1] || refused == NULL);
    ns_store(&stage, LISTED_HALF, NS_RELEASE);
    wait_for_stage(SEARCHED);
    return unused;
}

/* A search finds an idle item even if its owner puts another meanwhile, which is refused. */
static void
check_idle_item_is_found_amid_refused_puts(void)
{
    search_stopped = true;
    for (search_stops_at = 0; search_stopped; search_stops_at++) {
        pthread_t owner;
        make(1);
        ns_store(&stage, BEGIN - 1, NS_RELAXED);
        CHECK(pthread_create(&owner, NULL, put_one_too_many, NULL) == 0);
        wait_for_stage(BEGIN);
        search_stopped = false;
        steps_left = search_stops_at;
        at_step = stop_searching;
        CHECK(ns_pool_get(&pool) == &items[0]);
        at_step = NULL;
        if (!search_stopped) {
            ns_store(&stage, SEARCHING, NS_RELEASE);
            wait_for_stage(LISTED_HALF);
        }
        ns_store(&stage, SEARCHED, NS_RELEASE);
        pthread_join(owner, NULL);
        drain();
        ns_pool_destroy(&pool);
    }
    CHECK(search_stops_at > 10);
}

static void *
put_and_end(void *argument)
{
    CHECK(ns_pool_put(&pool, argument) == NULL);
    return NULL;
}

/* The same, but the new holder comes and ends before the search goes on. It leaves its item in
 * shard->item, or in its deque. */
static void *
put_two_and_take_one(void *argument)
{
    CHECK(ns_pool_put(&pool, &items[0]) == NULL && ns_pool_put(&pool, argument) == NULL);
    CHECK(ns_pool_get(&pool) == argument);
    return NULL;
}

static bool visitor_leaves_item;

static void
let_one_come_and_go(void)
{
    if (steps_left-- == 0) {
        pthread_t visitor;
        at_step = NULL;
        search_stopped = true;
        CHECK(pthread_create(&visitor,
                             NULL,
                             visitor_leaves_item ? put_and_end : put_two_and_take_one,
                             visitor_leaves_item ? &items[0] : &items[1]) == 0);
        pthread_join(visitor, NULL);
    }
}

static void
check_unlisting_beside_ended_holder(void)
{
    search_stopped = true;
    for (search_stops_at = 0; search_stopped; search_stops_at++) {
        make(-1);
        run_threads(1, put_two);
        CHECK(ns_pool_get(&pool) != NULL && ns_pool_get(&pool) != NULL);
        search_stopped = false;
        steps_left = search_stops_at;
        at_step = let_one_come_and_go;
        item *it = ns_pool_get(&pool);
        at_step = NULL;
        check_items_are_in_listed_shards();
        CHECK(!search_stopped || it == &items[0] || ns_pool_get(&pool) == &items[0]);
        CHECK(ns_pool_get(&pool) == NULL && count_listed() == 0);
        ns_pool_destroy(&pool);
    }
}

/* Some threads come, put an item each, and end; others search for the items. They find every
 * one. */
static void
put_or_search(int i)
{
    if (i < 2) {
        for (int n = 0; n < ROUNDS / 100; n++) {
            pthread_t one, other;
            CHECK(pthread_create(&one, NULL, put_and_end, &items[i]) == 0);
            CHECK(pthread_create(&other, NULL, put_and_end, &items[2 + i]) == 0);
            pthread_join(one, NULL);
            pthread_join(other, NULL);
        }
        ns_add(&taken, 1, NS_RELEASE);
    }
    else {
        long found = 0;
        while (ns_load(&taken, NS_ACQUIRE) < 2 || ns_pool_count(&pool) > 0) {
            found += ns_pool_get(&pool) != NULL;
        }
        outside_count[i] = (int)found;
    }
}

static void
check_items_of_visitors_are_found(void)
{
    make(-1);
    taken = 0;
    run_threads(4, put_or_search);
    CHECK(outside_count[2] + outside_count[3] == ROUNDS / 100 * 4);
    check_items_are_in_listed_shards();
    CHECK(ns_pool_get(&pool) == NULL && count_listed() == 0);
    ns_pool_destroy(&pool);
}

int
main(void)
{
    init_core();
    check_deque_with_thieves();
    check_items_ages_and_rounds();
    check_thief_sees_earlier_writes();
    check_new_shards_are_in_reach();
    check_two_make_one_segment();
    check_shard_amid_others_is_found();
    check_walk_puts_young_item_back();
    check_moving_item_is_stolen();
    check_limit_refuses_puts();
    check_random_uses(-1);
    check_random_uses(50);
    check_random_uses(3);
    printf("over the limit by more than one a thread: %d times\n", (int)put_too_many);
    memset(items, 0, sizeof(items));
    check_shards_of_ended_threads_are_unlisted();
    check_search_of_many_living_shards();
    check_item_in_use_is_left_alone();
    check_living_thread_stays_listed();
    check_put_takes_reservation_of_item_that_is_out();
    check_ended_threads_return_reservations();
    check_unlisting_beside_new_holder(NS_POOL_READY);
    check_unlisting_beside_new_holder(0);
    check_unlisting_beside_new_holder(NS_POOL_RESERVED | NS_POOL_LISTING);
    check_idle_item_is_found_amid_refused_puts();
    printf("unlisting and listing: %d interleavings\n", steps);
    visitor_leaves_item = true;
    check_unlisting_beside_ended_holder();
    visitor_leaves_item = false;
    check_unlisting_beside_ended_holder();
    check_items_of_visitors_are_found();
    puts("pool: ok");
    return 0;
}
