/* core/deque.h and core/pool.h: every item in one place, nothing lost, and ages and limits kept. */
#include <sched.h>
#include <string.h>

#include "harness.h"

/* at_load comes before each load of the deque and the pool, if set, and at_step before each load,
 * store and read-modify-write, so that others can come between two of them. */
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

/* Those who make a segment of places meet while they do, if wanted. */
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

/* What is freed is in no list that the child of a fork would find. */
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

/* What is pooled. Its fields are plain: only who has the item may touch them. */
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
let_go(item *it, int by)
{
    CHECK(it->holder == by + 1);
    it->holder = 0;
}

/* ---- the deque alone ---- */

static _Atomic int64_t taken;
static _Atomic bool done;

static void
check_deque_steps(void)
{
    memset(&deque, 0, sizeof(deque));
    CHECK(ns_deque_pop(&deque) == NULL && ns_deque_steal(&deque, 0, 0) == NULL);
    for (int i = 0; i < ITEMS; i++) {
        CHECK(ns_deque_push(&deque, &items[i], (uint32_t)(i / 100), 0));
    }
    CHECK(ns_deque_count(&deque) == ITEMS);
    CHECK(ns_deque_pop(&deque) == &items[ITEMS - 1]); /* the newest */
    CHECK(ns_deque_steal(&deque, 0, 0) == &items[0]); /* the oldest */
    for (int i = 1; i < 200; i++) { /* of the ages 0 and 1 */
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

    /* Memory goes in steps, and only after two quiet moments. */
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

    /* Where nothing counts, bursts by turns with quiet do not pile up rings. */
    int most = 0;
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
        most = lap == 0 ? rings : most;
        CHECK(rings <= most + 1);
    }
    /* It stays as large as what is in it. */
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

/* From the owner's push until whoever took it has let it go. */
static _Atomic bool in_use[ITEMS];

/* One owner, few items at a time, so that it meets the thieves at the last one; more now and then,
 * so that the ring grows while they read it. */
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
                let_go(it, i);
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
                let_go(it, i);
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
count_once(int i)
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

/* A thief that has read both ends finds a ring that is made only then, and finds it whole. The flag
 * orders nothing. */
static _Atomic int stage;

static void
let_it_grow(void)
{
    static int loads;
    if (++loads == 3) { /* of the ring */
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
        at_load = let_it_grow;
        CHECK(ns_deque_steal(&deque, 0, 0) == &items[0]);
    }
}

static void
check_growth_under_thief(void)
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
check_deque(void)
{
    check_deque_steps();
    check_growth_under_thief();
    run_threads(2, count_once);
    CHECK(taken == NUMBERS);
    ns_store(&done, false, NS_RELAXED);
    run_threads(3, own_and_steal);
    ns_deque_destroy(&deque);
    memset(items, 0, sizeof(items));
}

/* ---- the pool ---- */

static ns_pool pool;

static void
make(int64_t most)
{
    memset(&pool, 0, sizeof(pool));
    CHECK(ns_pool_init(&pool, most));
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
check_steps(void)
{
    make(-1);
    CHECK(ns_pool_get(&pool) == NULL && ns_pool_extra_size(&pool) == 0);
    for (int i = 0; i < 5; i++) {
        CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    }
    CHECK(ns_pool_count(&pool) == 5 && ns_pool_extra_size(&pool) > sizeof(ns_pool_shard));
    int visited = 0;
    CHECK(ns_pool_each(&pool, count_visit, &visited) == 7 && visited == 3);
    visited = 3; /* and on */
    CHECK(ns_pool_each(&pool, count_visit, &visited) == 0 && visited == 8);
    for (int i = 4; i >= 0; i--) { /* the newest first */
        CHECK(ns_pool_get(&pool) == &items[i]);
    }
    CHECK(ns_pool_get(&pool) == NULL);

    /* What finished threads left is found by others. */
    run_threads(8, put_one);
    CHECK(ns_pool_count(&pool) == 8);
    for (int i = 0; i < 8; i++) {
        item *it = ns_pool_get(&pool);
        CHECK(it != NULL && it->holder == 0);
        it->holder = 1;
    }
    CHECK(ns_pool_get(&pool) == NULL);
    memset(items, 0, sizeof(items));

    /* Ages: two collections in a row. */
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

    /* Now and then a put looks at the clock. */
    int due = 0;
    for (int i = 0; i < 4 * NS_POOL_ROUND; i++) {
        if (!ns_pool_put_fast(&pool, &items[0])) {
            CHECK(ns_pool_put_slow(&pool, &items[0]) == NULL);
            due += ns_pool_is_due(&pool);
        }
        CHECK(ns_pool_get(&pool) == &items[0]);
    }
    CHECK(due >= 3 && due <= 5);

    /* And frees the rings that a collection or two ago were replaced. */
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

/* Whatever way an item is put, who steals it sees what was done with it. The flag orders
 * nothing. */
static int way;

static void
hand_on(int i)
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
check_handing_on(void)
{
    for (way = 0; way < 3; way++) {
        make(-1);
        ns_store(&stage, 0, NS_RELAXED);
        run_threads(2, hand_on);
        drain();
        ns_pool_destroy(&pool);
    }
}

/* A fork may come before each step: no shard is beyond those that others look at. */
static void
look_for_shards(void)
{
    at_load = NULL;
    ns_pool_place *first = atomic_load(&pool.segments[0]);
    for (uint32_t slot = 0; first != NULL && slot < NS_POOL_FIRST; slot++) {
        CHECK(atomic_load(&first[slot]) == NULL || slot < atomic_load(&pool.used));
    }
    at_load = look_for_shards;
}

static void
put_watched(int i)
{
    at_load = look_for_shards;
    CHECK(ns_pool_put(&pool, &items[i]) == NULL);
    at_load = NULL;
}

static void
check_new_shards(void)
{
    make(-1);
    run_threads(1, put_watched);
    put_watched(1);
    drain();
    ns_pool_destroy(&pool);
}

/* Two make the first segment at once: what both put is found. */
static void
check_makers(void)
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

/* A shard in the midst of others is found, and found whole. */
static _Atomic uint32_t slot_of[3];
static pthread_barrier_t known;

static void
come_late(int i)
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
check_late_shard(void)
{
    make(-1);
    ns_store(&stage, 0, NS_RELAXED);
    pthread_barrier_init(&known, NULL, 3);
    run_threads(3, come_late);
    drain();
    ns_pool_destroy(&pool);
}

/* A walk has seen that an item is old, and takes the one that came into its place: it goes back. */
static void
put_another(void)
{
    static int loads;
    if (++loads == 10) { /* of the item, after its age */
        at_load = NULL;
        CHECK(ns_pool_get(&pool) == &items[0]);
        CHECK(ns_pool_put(&pool, &items[1]) == NULL);
    }
}

static void
check_young(void)
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

/* The owner of an item moves it while another thread looks for one: before its first load, its
 * second, and so on. It is found all the same; and the oldest of two first. */
enum { OWNED = 1, MOVE, MOVED, STOLEN };
static int loads_left;

static void
let_it_move(void)
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
            at_load = let_it_move;
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
check_stealing(void)
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
check_limit(void)
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
            run_threads(3, get_one); /* who steals takes the reservation along */
        }
        CHECK(ns_load(pool.reserved, NS_RELAXED) == 0);
    }
    /* Reservations for items that are out are no hindrance. */
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

/* Everybody gets, holds and puts, by one and in bursts; one thread lets time pass. What is let go,
 * it has; at the end everything is somewhere. */
static item *outside[THREADS][ITEMS];
static int outside_count[THREADS];

static void
mix(int i)
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
            let_go(it, i);
            item *back = ns_pool_put(&pool, it);
            if (back != NULL) {
                hold(back, i);
                let_go(back, i);
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
            let_go(it, i);
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
                let_go(it, i);
                mine[count++] = it;
            }
        }
    }
    outside_count[i] = count;
}

static void
check_mix(int64_t most)
{
    memset(items, 0, sizeof(items));
    make(most);
    run_threads(THREADS, mix);
    int total = 0;
    for (int i = 0; i < THREADS; i++) {
        total += outside_count[i];
        for (int k = 0; k < outside_count[i]; k++) {
            hold(outside[i][k], i); /* each once */
        }
    }
    total += (int)ns_pool_count(&pool);
    CHECK(total == ITEMS);
    ns_pool_walk walk = {0};
    for (item *it; (it = ns_pool_next(&pool, &walk, true)) != NULL;) {
        hold(it, THREADS);
    }
    CHECK(ns_pool_count(&pool) == 0);
    /* What is still reserved, some shard has. */
    int64_t reserved = 0;
    for (uint32_t slot = 0; slot < ns_load(&pool.used, NS_RELAXED); slot++) {
        ns_pool_shard *s = ns_pool_find(&pool, slot);
        reserved += s != NULL && (ns_load(&s->flags, NS_RELAXED) & NS_POOL_RESERVED);
    }
    CHECK(pool.reserved == NULL || ns_load(pool.reserved, NS_RELAXED) == reserved);
    ns_pool_destroy(&pool);
}

/* ---- the list ---- */

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
check_listed(void)
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

/* More threads than a segment has slots. Once they have gone, and their items, no search looks at
 * their shards, until the slots have new holders. */
static void
check_many(void)
{
    enum { MANY = 300 };
    (void)ns_slot(); /* this thread's, which puts nothing */
    make(-1);
    for (int lap = 0; lap < 3; lap++) {
        come_and_go(MANY);
        CHECK(ns_pool_count(&pool) == MANY && count_listed() == MANY);
        check_listed();
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

/* A search takes the items aside of more living threads than it has candidates at a time. */
static pthread_barrier_t may_end;

static void *
put_and_stay(void *argument)
{
    be_one_of_many(argument);
    pthread_barrier_wait(&may_end);
    return NULL;
}

static void
check_many_living(void)
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

/* An item that its owner takes and puts back before each step of a search is in use, and left
 * alone. */
enum { IDLE, USE, USED, FOUND };

static void
have_it_used(void)
{
    at_load = NULL;
    ns_store(&stage, USE, NS_RELEASE);
    while (ns_load(&stage, NS_ACQUIRE) != USED) {
        sched_yield();
    }
    at_load = have_it_used;
}

static void
use_or_look(int i)
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
        at_load = have_it_used;
        CHECK(ns_pool_get(&pool) == NULL);
        at_load = NULL;
        ns_store(&stage, FOUND, NS_RELEASE);
    }
}

static void
check_items_in_use(void)
{
    make(-1);
    ns_store(&stage, IDLE, NS_RELAXED);
    run_threads(2, use_or_look);
    ns_pool_destroy(&pool);
}

static void
look_in_vain(int i)
{
    (void)i;
    CHECK(ns_pool_get(&pool) == NULL);
}

/* A living thread stays listed while its item is out. */
static void
check_the_living(void)
{
    make(-1);
    put_one(0);
    CHECK(ns_pool_get(&pool) == &items[0]);
    run_threads(1, look_in_vain);
    CHECK(count_listed() == 1 && ns_pool_put_fast(&pool, &items[0]));
    run_threads(1, get_one);
    CHECK(ns_pool_count(&pool) == 0);
    ns_pool_destroy(&pool);
}

/* Reservations of threads that ended with their items out are given back. */
static void
check_reservations_of_the_dead(void)
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

/* A thread that looks for items takes the shard of a thread that has ended off the list. It stops
 * before one of its steps, and a new holder of the slot begins to put an item there. That one stops
 * before one of its steps, until the first has finished. Whatever these steps are: the item is
 * found, and those that the new holder puts after that, and those of the holder after it. */
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
    check_listed();
    taken += ns_pool_get(&pool) != NULL;
    CHECK(taken == 1);
    CHECK(ns_pool_put(&pool, &items[1]) == NULL); /* the short way, if the shard is listed */
    check_listed();
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

/* `flags`: how the shard was left by the holder before, by another search that gave up, or by a
 * fork. */
static void
check_unlisting(uint32_t flags)
{
    search_stopped = true;
    for (search_stops_at = 0; search_stopped; search_stops_at++) {
        owner_stopped = true;
        for (owner_stops_at = 0; owner_stopped; owner_stops_at++) {
            make(-1);
            run_threads(1, put_two); /* the holder before */
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

/* An item that lies idle is found though its owner puts another meanwhile, which is refused. */
static void
check_search_amid_refused_puts(void)
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

/* The same, but the new holder comes and has ended before the search goes on: one that leaves its
 * item aside, and one that leaves it in its deque. */
static void *
put_two_and_take_one(void *argument)
{
    CHECK(ns_pool_put(&pool, &items[0]) == NULL && ns_pool_put(&pool, argument) == NULL);
    CHECK(ns_pool_get(&pool) == argument);
    return NULL;
}

static bool leaves_it_aside;

static void
let_one_come_and_go(void)
{
    if (steps_left-- == 0) {
        pthread_t visitor;
        at_step = NULL;
        search_stopped = true;
        CHECK(pthread_create(&visitor,
                             NULL,
                             leaves_it_aside ? put_and_end : put_two_and_take_one,
                             leaves_it_aside ? &items[0] : &items[1]) == 0);
        pthread_join(visitor, NULL);
    }
}

static void
check_unlisting_amid_a_visit(void)
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
        check_listed();
        CHECK(!search_stopped || it == &items[0] || ns_pool_get(&pool) == &items[0]);
        CHECK(ns_pool_get(&pool) == NULL && count_listed() == 0);
        ns_pool_destroy(&pool);
    }
}

/* Threads that come and go, each of which puts an item, and threads that look for them: none is
 * overlooked. */
static void
visit_or_look(int i)
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
check_visitors(void)
{
    make(-1);
    taken = 0;
    run_threads(4, visit_or_look);
    CHECK(outside_count[2] + outside_count[3] == ROUNDS / 100 * 4);
    check_listed();
    CHECK(ns_pool_get(&pool) == NULL && count_listed() == 0);
    ns_pool_destroy(&pool);
}

int
main(void)
{
    init_core();
    check_deque();
    check_steps();
    check_handing_on();
    check_new_shards();
    check_makers();
    check_late_shard();
    check_young();
    check_stealing();
    check_limit();
    check_mix(-1);
    check_mix(50);
    check_mix(3);
    printf("over the limit by more than one a thread: %d times\n", (int)put_too_many);
    memset(items, 0, sizeof(items));
    check_many();
    check_many_living();
    check_items_in_use();
    check_the_living();
    check_reservations_of_the_dead();
    check_unlisting(NS_POOL_READY);
    check_unlisting(0);
    check_unlisting(NS_POOL_RESERVED | NS_POOL_LISTING);
    check_search_amid_refused_puts();
    printf("unlisting and listing: %d interleavings\n", steps);
    leaves_it_aside = true;
    check_unlisting_amid_a_visit();
    leaves_it_aside = false;
    check_unlisting_amid_a_visit();
    check_visitors();
    puts("pool: ok");
    return 0;
}
