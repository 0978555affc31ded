/* core/counter.h and core/slots.h: exact totals, small until shared, slots come back. */
#include "harness.h"

#define THREADS 8
#define ADDS 20000
#ifndef SHORT_LIVED
#define SHORT_LIVED 2000
#endif

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
    if (i == 0) { /* collects while the others add: each increment in exactly one total */
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

static void
late(void *unused)
{
    (void)unused;
    ns_counter_add(&counter, 1);
}

static void *
touch_late(void *unused)
{
    (void)unused;
    pthread_setspecific(late_key, &late_key);
    ns_counter_add(&counter, 1);
    return NULL;
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

    pthread_key_create(&late_key, late);
    for (int i = 0; i < 10; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, touch_late, NULL) == 0);
        pthread_join(thread, NULL);
    }
    CHECK(ns_counter_sum(&counter, true) == 20);
    CHECK(ns_slots_in_use() == 1);

    ns_counter_destroy(&counter);
    ns_counter_destroy(&float_counter);
    puts("counter: ok");
    return 0;
}
