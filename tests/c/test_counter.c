/* Tests core/counter.h and core/memory/slots.h: totals are exact, counters stay small until threads
 * meet, and slots are given back.
 */
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* If makers_meet is set, threads that make a counter's table wait for each other there. If
 * no_memory is set, there is no memory. */
static pthread_barrier_t makers;
static _Atomic bool makers_meet, no_memory;
static _Atomic int allocations;

static void *
allocate(size_t alignment, size_t size)
{
    if (ns_load(&makers_meet, NS_RELAXED)) {
        pthread_barrier_wait(&makers);
    }
    ns_add(&allocations, 1, NS_RELAXED);
    return ns_load(&no_memory, NS_RELAXED) ? NULL : aligned_alloc(alignment, size);
}

#define aligned_alloc allocate
#include "memory/cells.c"
#undef aligned_alloc
#include "counter.c"

#define THREADS 8
#define ADDS 20000
#ifndef SHORT_LIVED
#define SHORT_LIVED 2000
#endif

/* Makes the next meeting in the base give cells to threads. */
static void
make_cells_soon(ns_counter *c)
{
    ns_store(&c->meetings, NS_CELL_MEETINGS - 1, NS_RELAXED);
}

static ns_counter counter, float_counter;
static _Atomic uint64_t totals;
static _Atomic int adding = THREADS;
static _Atomic uint32_t slot_of[THREADS];
static pthread_barrier_t all_alive;

static void
add(int i)
{
    slot_of[i] = ns_slot();
    pthread_barrier_wait(&all_alive);
    if (i == 0) { /* sums and resets while the others add: each increment is in exactly one total */
        uint64_t seen = 0;
        while (ns_load(&adding, NS_ACQUIRE) > 1) {
            ns_add(&totals, ns_counter_sum(&counter, true), NS_RELAXED);
            uint64_t now = ns_double_of(ns_bits_of(ns_counter_sum_double(&float_counter, false)));
            CHECK(now >= seen);
            seen = now;
        }
    }
    else {
        for (int n = 0; n < ADDS; n++) {
            ns_counter_add(&counter, 1);
            ns_counter_add_double(&float_counter, 1.0);
        }
        ns_sub(&adding, 1, NS_RELEASE);
    }
}

static void *
touch(void *unused)
{
    (void)unused;
    ns_counter_add(&counter, 1);
    return NULL;
}

/* A destructor of another library, which may run after ours and use a counter again. */
static pthread_key_t late_key;

static uint32_t late_slot;

static void
use_counter_late(void *turn)
{
    ns_counter_add(&counter, 1);
    if (turn != &late_key) { /* this thread lives until another one has asked for a slot */
        _Atomic int *t = turn;
        late_slot = ns_slot();
        ns_store(t, 1, NS_RELEASE);
        while (ns_load(t, NS_ACQUIRE) != 2) {
            ns_pause();
        }
    }
}

static void *
touch_late(void *unused)
{
    (void)unused;
    pthread_setspecific(late_key, &late_key);
    ns_counter_add(&counter, 1);
    return NULL;
}

/* Threads that claim at the same moment get different slots. */
static void
claim(int i)
{
    pthread_barrier_wait(&all_alive);
    slot_of[i] = ns_slot();
    pthread_barrier_wait(&all_alive);
    for (int k = 0; k < THREADS; k++) {
        CHECK(k == i || slot_of[k] != slot_of[i]);
    }
}

/* A thread that takes over a slot sees what its last holder wrote, even if no thread joined that
 * one. */
static long uses_of_slot[8];
static _Atomic int next_thread;

static void *
use_slot(void *number)
{
    /* This orders only the starts of the threads, nothing else. */
    while (ns_load(&next_thread, NS_RELAXED) != (int)(intptr_t)number) {
        ns_pause();
    }
    while (ns_slots_in_use() != 1) { /* until the other thread has ended: relaxed loads too */
        ns_pause();
    }
    uint32_t slot = ns_slot();
    CHECK(slot < 8);
    uses_of_slot[slot]++;
    ns_store(&next_thread, (int)(intptr_t)number + 1, NS_RELAXED);
    return NULL;
}

static void
check_slot_shows_last_holders_writes(void)
{
    pthread_t threads[4];
    for (intptr_t n = 0; n < 4; n++) {
        CHECK(pthread_create(&threads[n], NULL, use_slot, (void *)n) == 0);
    }
    for (int n = 0; n < 4; n++) {
        pthread_join(threads[n], NULL);
    }
    CHECK(ns_slots_in_use() == 1 && uses_of_slot[1] == 4);
}

/* The child has one thread, which keeps its slot. Those of the others are free. */
static pthread_barrier_t both;

static void
fork_with_slots(int i)
{
    uint32_t mine = ns_slot();
    pthread_barrier_wait(&both);
    if (i == 0) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(ns_slots_in_use() == 1 && ns_slot() == mine);
            ns_cached_slot = 0; /* as if it were another thread */
            uint32_t other = ns_slot_claim();
            _exit(ns_slots_in_use() == 2 && other != mine ? 0 : 1);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    pthread_barrier_wait(&both);
}

/* Two threads meet at a new counter: one makes the table, and the other uses it too. */
static ns_counter fresh[400];

static void
meet_at_new_counter(int i)
{
    (void)i;
    for (int n = 0; n < 400; n++) {
        ns_counter_add(&fresh[n], 1);
        make_cells_soon(&fresh[n]);
        ns_counter_add(&fresh[n], 1);
    }
}

/* The slot of a thread in a late destructor is given to no other thread. */
static _Atomic int late_turn;

static void
keep_slot_late(int i)
{
    if (i == 0) {
        ns_slot();
        pthread_setspecific(late_key, &late_turn);
        return; /* its destructor asks for a slot again */
    }
    while (ns_load(&late_turn, NS_ACQUIRE) != 1) {
        ns_pause();
    }
    CHECK(ns_slot() != late_slot);
    ns_store(&late_turn, 2, NS_RELEASE);
}

/* Two threads make a table at once. The second uses the first one's table, and sees it zeroed. */
static ns_counter contested;

static void
make_table(int i)
{
    (void)i;
    ns_counter_add(&contested, 1);
}

static void
check_two_make_one_table(void)
{
    ns_counter_add(&contested, 1); /* this thread has the base */
    make_cells_soon(&contested);
    pthread_barrier_init(&makers, NULL, 2);
    ns_store(&makers_meet, true, NS_RELAXED);
    run_threads(2, make_table);
    ns_store(&makers_meet, false, NS_RELAXED);
    CHECK(ns_counter_is_shared(&contested) && ns_counter_sum(&contested, true) == 3);
    ns_counter_destroy(&contested);
}

/* A thread that sums sees a table's zeroes, even if it never added. */
static ns_counter summed;
static _Atomic int adders;

static void
add_and_sum(int i)
{
    if (i == 2) {
        while (!ns_counter_is_shared(&summed)) {
            sched_yield();
        }
        CHECK(ns_counter_sum(&summed, false) <= 2); /* zeroes, and perhaps the second add */
        CHECK(ns_counter_sum_double(&summed, false) >= 0.0);
        return;
    }
    while (ns_load(&adders, NS_RELAXED) != i) {
        sched_yield();
    }
    ns_counter_add(&summed, 1);
    ns_add(&adders, 1, NS_RELAXED);
    while (ns_load(&adders, NS_RELAXED) != 2) { /* so that it keeps its slot */
        sched_yield();
    }
}

/* Threads that meet get words of their own, as far as the limit allows. */
enum { TURNS = 8 * NS_CELL_MEETINGS };
static ns_counter wide;
static _Atomic uint64_t *word_of[THREADS];

static void
get_own_words(int i)
{
    ns_slot();
    pthread_barrier_wait(&all_alive); /* no thread ends before all have slots */
    for (int n = 0; n < TURNS; n++) { /* by turns, so that each thread meets the one before it */
        for (int k = 0; k < THREADS; k++) {
            if (k == i) {
                ns_counter_add(&wide, 1);
            }
            pthread_barrier_wait(&all_alive);
        }
    }
    word_of[i] = ns_counter_word(&wide);
    pthread_barrier_wait(&all_alive);
    for (int k = 0; k < i && ns_slots_mask > THREADS; k++) {
        CHECK(word_of[k] != word_of[i]);
    }
    CHECK(word_of[i] != &wide.base);
}

/* After a few meetings there are no cells yet. */
static ns_counter seldom;

static void
add_seldom(int i)
{
    (void)i;
    ns_counter_add(&seldom, 1);
}

/* Successive reads never decrease, and no add is lost, while tables are made and grow. */
static ns_counter growing[64];
static _Atomic int growers;

static void
grow_and_watch(int i)
{
    if (i == 0) {
        uint64_t seen[64] = {0};
        while (ns_load(&growers, NS_RELAXED) != 0) {
            for (int n = 0; n < 64; n++) {
                uint64_t now = ns_counter_sum(&growing[n], false);
                CHECK(now >= seen[n]);
                seen[n] = now;
            }
        }
        return;
    }
    for (int n = 0; n < 64 * 40; n++) {
        make_cells_soon(&growing[n % 64]);
        ns_counter_add(&growing[n % 64], 1);
    }
    ns_sub(&growers, 1, NS_RELAXED);
}

static void
check_growing_counters_lose_nothing(bool memory)
{
    ns_store(&no_memory, !memory, NS_RELAXED);
    ns_store(&growers, THREADS - 1, NS_RELAXED);
    run_threads(THREADS, grow_and_watch);
    for (int n = 0; n < 64; n++) {
        CHECK(memory || !ns_counter_is_shared(&growing[n]));
        CHECK(ns_counter_sum(&growing[n], true) == (THREADS - 1) * 40);
        CHECK(ns_counter_sum(&growing[n], false) == 0);
        ns_counter_destroy(&growing[n]);
        growing[n] = (ns_counter){0};
    }
    ns_store(&no_memory, false, NS_RELAXED);
}

/* If there is no memory, a counter does not ask for it at every meeting. */
static void
check_no_memory_is_asked_for_rarely(void)
{
    ns_counter c = {0};
    ns_store(&no_memory, true, NS_RELAXED);
    ns_store(&allocations, 0, NS_RELAXED);
    for (uint32_t n = 0; n < 10 * NS_CELL_MEETINGS; n++) {
        CHECK(ns_counter_find_word(&c, n % 2) == &c.base);
    }
    CHECK(ns_load(&allocations, NS_RELAXED) <= 10);
    ns_store(&no_memory, false, NS_RELAXED);
}

/* In the child of a fork in the middle of growth totals are exact, and keep growing. */
static void
fork_and_add(int i)
{
    if (i == 0) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (int n = 0; n < 64; n++) {
                uint64_t before = ns_counter_sum(&growing[n], false);
                make_cells_soon(&growing[n]);
                ns_counter_add(&growing[n], 1);
                ns_counter_add(&growing[n], 1);
                CHECK(ns_counter_sum(&growing[n], true) == before + 2);
            }
            _exit(0);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        return;
    }
    for (int n = 0; n < 64 * 20; n++) {
        make_cells_soon(&growing[n % 64]);
        ns_counter_add(&growing[n % 64], 1);
    }
}

/* A thread without a slot adds to the base. */
static void
check_thread_without_slot_uses_base(void)
{
    CHECK(ns_counter_find_word(&wide, NS_NO_SLOT) == &wide.base);
    CHECK(ns_counter_find_word(&seldom, NS_NO_SLOT) == &seldom.base);
    CHECK(ns_load(&seldom.user, NS_RELAXED) != 0);
}

static void
add_doubles(int i)
{
    (void)i;
    for (int n = 0; n < ADDS; n++) {
        ns_counter_add_double(&float_counter, 1.0);
    }
}

static _Atomic int setting = 3;

static void
add_or_set(int i)
{
    for (int n = 0; n < ADDS / 10; n++) {
        if (i == 0) {
            ns_counter_set_double(&float_counter, 5.0);
        }
        else {
            ns_counter_add_double(&float_counter, 0.0);
        }
    }
    /* The last one to end sees the number that was set last. */
    if (ns_sub(&setting, 1, NS_SEQ_CST) == 1) {
        CHECK(ns_counter_sum_double(&float_counter, false) == 5.0);
    }
}

static void
check_set_replaces_all_words(void)
{
    make_cells_soon(&float_counter);
    ns_counter_add_double(&float_counter, 0.0);
    run_threads(3, add_doubles);
    CHECK(ns_counter_is_shared(&float_counter));
    CHECK(ns_counter_sum_double(&float_counter, false) == 3 * ADDS);
    ns_counter_set_double(&float_counter, -2.5);
    CHECK(ns_counter_sum_double(&float_counter, false) == -2.5);
    run_threads(3, add_or_set);
    ns_counter_set_double(&float_counter, 0.0);
}

int
main(void)
{
    init_core();
    for (int n = 0; n < 100; n++) {
        ns_counter_add(&counter, (uint64_t)-1);
    }
    CHECK(!ns_counter_is_shared(&counter) && ns_counter_extra_size(&counter) == 0);
    CHECK((int64_t)ns_counter_sum(&counter, true) == -100);
    CHECK(ns_slots_in_use() == 1);

    pthread_barrier_init(&all_alive, NULL, THREADS);
    make_cells_soon(&counter);
    run_threads(THREADS, add);
    ns_add(&totals, ns_counter_sum(&counter, true), NS_RELAXED);
    CHECK(totals == (uint64_t)(THREADS - 1) * ADDS);
    CHECK(ns_counter_sum_double(&float_counter, true) == (double)(THREADS - 1) * ADDS);
    CHECK(ns_counter_sum_double(&float_counter, false) == 0.0);
    CHECK(ns_counter_is_shared(&counter));
    CHECK(ns_slots_in_use() == 1);
    for (int i = 0; i < THREADS; i++) {
        for (int k = 0; k < i; k++) {
            CHECK(slot_of[i] != slot_of[k]);
        }
        CHECK(slot_of[i] <= THREADS); /* dense */
    }

    for (int i = 0; i < SHORT_LIVED; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, touch, NULL) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(ns_counter_sum(&counter, true) == SHORT_LIVED);
    CHECK(ns_slots_in_use() == 1);

    pthread_key_create(&late_key, use_counter_late);
    for (int i = 0; i < 10; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, touch_late, NULL) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(ns_counter_sum(&counter, true) == 20);
    CHECK(ns_slots_in_use() == 1);

    run_threads(2, keep_slot_late);
    CHECK(ns_slots_in_use() == 1);

    for (int n = 0; n < 100; n++) {
        run_threads(THREADS, claim);
    }
    check_slot_shows_last_holders_writes();
    pthread_barrier_init(&both, NULL, 3);
    run_threads(3, fork_with_slots);
    CHECK(ns_slots_in_use() == 1);

    run_threads(4, meet_at_new_counter);
    for (int n = 0; n < 400; n++) {
        CHECK(ns_counter_sum(&fresh[n], true) == 8);
        ns_counter_destroy(&fresh[n]);
    }

    make_cells_soon(&summed);
    run_threads(3, add_and_sum);
    ns_counter_destroy(&summed);
    check_two_make_one_table();

    run_threads(THREADS, get_own_words);
    CHECK(ns_counter_sum(&wide, false) == THREADS * TURNS);
    if (NS_CELL_MEETINGS > THREADS) {
        run_threads(THREADS, add_seldom);
        CHECK(!ns_counter_is_shared(&seldom) && ns_counter_sum(&seldom, false) == THREADS);
    }
    ns_counter_add(&seldom, 1);
    check_thread_without_slot_uses_base();
    ns_counter_destroy(&wide);
    ns_counter_destroy(&seldom);
    check_growing_counters_lose_nothing(true);
    check_growing_counters_lose_nothing(false);
    check_no_memory_is_asked_for_rarely();
    for (int n = 0; n < 5; n++) {
        run_threads(4, fork_and_add);
    }
    for (int n = 0; n < 64; n++) {
        CHECK(ns_counter_sum(&growing[n], true) == 5 * 3 * 20);
        ns_counter_destroy(&growing[n]);
    }
    check_set_replaces_all_words();
    ns_counter_destroy(&counter);
    ns_counter_destroy(&float_counter);
    puts("counter: ok");
    return 0;
}
