/* Tests core/memory/slots.h: a walk over the slots sees every thread that has one, and its cost
 * depends only on the living threads.
 */
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#ifndef ROUNDS
#define ROUNDS 20000
#endif
#define STARTERS 4
#define WALKERS 2

/* ---- A walk overlooks no thread ---- */

/* A thread's tenure: 0 outside, else its number << 16 | slot + 1. It lasts from the end of the
 * thread's claim until the thread is about to end. */
static _Atomic uint64_t tenures[STARTERS];
static _Atomic int starting;

static void *
hold_slot_shortly(void *argument)
{
    _Atomic uint64_t *tenure = argument;
    static _Atomic uint64_t number;
    uint32_t slot = ns_slot();
    ns_store(tenure, (ns_add(&number, 1, NS_RELAXED) + 1) << 16 | (slot + 1), NS_RELEASE);
    sched_yield();
    ns_store(tenure, 0, NS_RELEASE);
    return NULL;
}

static bool
sees(uint32_t slot)
{
    const uint32_t words = ns_slots_words();
    return slot / 64 < words && (ns_slots_word(slot / 64) >> slot % 64 & 1);
}

/* Threads start and end, while others look for their slots. */
static void
start_or_look(int i)
{
    if (i < STARTERS) { /* this thread takes no slot */
        for (int n = 0; n < ROUNDS / 20; n++) {
            pthread_t thread;
            CHECK(pthread_create(&thread, NULL, hold_slot_shortly, &tenures[i]) == 0);
            pthread_join(thread, NULL);
        }
        ns_sub(&starting, 1, NS_RELEASE);
        return;
    }
    while (ns_load(&starting, NS_ACQUIRE) > 0) {
        for (int k = 0; k < STARTERS; k++) {
            uint64_t tenure = ns_load(&tenures[k], NS_ACQUIRE);
            if (tenure != 0) {
                bool seen = sees((uint32_t)(tenure & 0xffff) - 1);
                CHECK(seen || ns_load(&tenures[k], NS_SEQ_CST) != tenure);
            }
        }
    }
}

/* The first word is full, so threads that start and end are in the second one. The bound rises and
 * falls with them. */
static pthread_barrier_t full, over;

static void *
hold_slot(void *unused)
{
    (void)unused;
    ns_slot();
    pthread_barrier_wait(&full);
    pthread_barrier_wait(&over);
    return NULL;
}

static void
check_threads_that_come_and_go_are_seen(void)
{
    pthread_t holders[63];
    pthread_barrier_init(&full, NULL, 64);
    pthread_barrier_init(&over, NULL, 64);
    for (int with_holders = 0; with_holders < 2; with_holders++) {
        for (int i = 0; with_holders && i < 63; i++) {
            CHECK(pthread_create(&holders[i], NULL, hold_slot, NULL) == 0);
        }
        if (with_holders) {
            pthread_barrier_wait(&full);
            CHECK(ns_slots_word(0) == UINT64_MAX);
        }
        ns_store(&starting, STARTERS, NS_RELAXED);
        run_threads(STARTERS + WALKERS, start_or_look);
        CHECK(ns_slots_words() == 1);
        if (with_holders) {
            pthread_barrier_wait(&over);
        }
        for (int i = 0; with_holders && i < 63; i++) {
            pthread_join(holders[i], NULL);
        }
        CHECK(ns_slots_in_use() == 1 && ns_slots_words() == 1);
    }
}

/* If a walk does not see a thread, that thread has ended, and what it did happens before. Nothing
 * else orders the two: not even the state, which ns_slots_words() reads. */
#define ENDS 50
static long plain[ENDS];
static _Atomic uint32_t announced; /* the slot + 1 of the thread that wrote */

static void *
write_plainly(void *argument)
{
    long *place = argument;
    uint32_t slot = ns_slot();
    (*place)++;
    ns_store(&announced, slot + 1, NS_RELAXED);
    return NULL;
}

static void
check_ended_threads_writes_are_seen(void)
{
    for (int n = 0; n < ENDS; n++) {
        pthread_t thread;
        ns_store(&announced, 0, NS_RELAXED);
        CHECK(pthread_create(&thread, NULL, write_plainly, &plain[n]) == 0);
        uint32_t slot;
        while ((slot = ns_load(&announced, NS_RELAXED)) == 0) {
            ns_pause();
        }
        CHECK(slot <= 64); /* the main thread has a slot in that word, so the word counts */
        while (ns_slots_word(0) >> (slot - 1) & 1) {
            ns_pause();
        }
        CHECK(plain[n]++ == 1);
        pthread_join(thread, NULL);
    }
}

/* A thread that takes over a slot sees what its last holder did, even if that one has not finished
 * leaving. */
static long last_holders_write;
static _Atomic bool bit_is_clear;

static void *
clear_bit(void *unused)
{
    (void)unused;
    last_holders_write = 1;
    /* the first half of giving the slot back */
    ns_and(&ns_slots.taken[0], ~(UINT64_C(1) << 5), NS_RELEASE);
    ns_store(&bit_is_clear, true, NS_RELAXED);
    return NULL;
}

static void *
take_over_slot(void *unused)
{
    (void)unused;
    while (!ns_load(&bit_is_clear, NS_RELAXED)) {
        ns_pause();
    }
    CHECK(ns_slot() == 5 && last_holders_write++ == 1);
    return NULL;
}

static void
check_half_returned_slot_shows_writes(void)
{
    pthread_t threads[2];
    const uint64_t word = ns_load(&ns_slots.taken[0], NS_RELAXED);
    ns_store(&ns_slots.taken[0], UINT64_MAX, NS_RELAXED);
    CHECK(pthread_create(&threads[0], NULL, take_over_slot, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, clear_bit, NULL) == 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    ns_store(&ns_slots.taken[0], word, NS_RELAXED);
}

/* A walk sees that a thread has left, even if another one that left later has dropped the word of
 * the first one's bit. */
static long written;
static _Atomic int stage;

static void *
write_and_clear(void *unused)
{
    (void)unused;
    while (ns_load(&stage, NS_RELAXED) != 1) {
        ns_pause();
    }
    written = 1;
    /* the first half of giving back slot 65 */
    ns_and(&ns_slots.taken[1], ~UINT64_C(2), NS_RELEASE);
    ns_store(&stage, 2, NS_RELAXED);
    return NULL;
}

static void *
leave_second(void *unused)
{
    (void)unused;
    CHECK(ns_slot() == 64);
    ns_store(&stage, 1, NS_RELAXED);
    while (ns_load(&stage, NS_RELAXED) != 2) {
        ns_pause();
    }
    return NULL;
}

static void
check_dropped_word_shows_writes(void)
{
    pthread_t writer, leaver;
    const uint64_t word = ns_load(&ns_slots.taken[0], NS_RELAXED);
    ns_store(&ns_slots.taken[0], UINT64_MAX, NS_RELAXED);
    ns_store(&ns_slots.taken[1], 2, NS_RELAXED);
    CHECK(pthread_create(&writer, NULL, write_and_clear, NULL) == 0);
    CHECK(pthread_create(&leaver, NULL, leave_second, NULL) == 0);
    while (ns_load(&stage, NS_RELAXED) != 2 || ns_slots_words() == 2) {
        ns_pause();
    }
    CHECK(written++ == 1);
    pthread_join(writer, NULL);
    pthread_join(leaver, NULL);
    ns_store(&ns_slots.taken[0], word, NS_RELAXED);
}

/* ---- The cost depends on the living threads ---- */

#define CROWD 300

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_moved = PTHREAD_COND_INITIALIZER;
static int there;
static uint32_t may_leave; /* slots from this one on may */

static void *
wait_in_crowd(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&gate);
    uint32_t slot = ns_slot();
    there++;
    pthread_cond_broadcast(&gate_moved);
    while (slot < may_leave) {
        pthread_cond_wait(&gate_moved, &gate);
    }
    pthread_mutex_unlock(&gate);
    return NULL;
}

static uint32_t
count_seen(void)
{
    uint32_t seen = 0;
    const uint32_t words = ns_slots_words();
    for (uint32_t i = 0; i < words; i++) {
        seen += (uint32_t)__builtin_popcountll(ns_slots_word(i));
    }
    return seen;
}

static void
wait_until_left(uint32_t n)
{
    while (ns_slots_in_use() != n) {
        sleep_ms(1);
    }
}

static void
let_leave(uint32_t from)
{
    pthread_mutex_lock(&gate);
    may_leave = from;
    pthread_cond_broadcast(&gate_moved);
    pthread_mutex_unlock(&gate);
}

static void
check_bound_follows_living_threads(void)
{
    pthread_t threads[CROWD];
    CHECK(ns_slot() == 0 && ns_slots_words() == 1 && ns_slots_in_use() == 1);
    may_leave = NS_SLOTS;
    for (int i = 0; i < CROWD; i++) { /* the main thread has slot 0, these have 1 to CROWD */
        CHECK(pthread_create(&threads[i], NULL, wait_in_crowd, NULL) == 0);
        pthread_mutex_lock(&gate);
        while (there <= i) {
            pthread_cond_wait(&gate_moved, &gate);
        }
        pthread_mutex_unlock(&gate);
        CHECK(ns_slots_words() == ((uint32_t)i + 1) / 64 + 1);
    }
    CHECK(count_seen() == CROWD + 1);
    pthread_mutex_lock(&gate); /* else a thread that just woke may have it in the child */
    pid_t child = fork();
    CHECK(child >= 0);
    pthread_mutex_unlock(&gate);
    if (child == 0) { /* one thread is left; the bound falls when the next one leaves */
        pthread_cond_init(&gate_moved, NULL); /* the threads that waited there are gone */
        CHECK(count_seen() == 1 && ns_slots_in_use() == 1);
#if !defined(__SANITIZE_THREAD__) /* it lets no child start threads, and neither does an emulator */
        if (getenv("NS_NO_THREADS_IN_CHILDREN") == NULL) {
            pthread_t other;
            may_leave = 0;
            CHECK(pthread_create(&other, NULL, wait_in_crowd, NULL) == 0);
            pthread_join(other, NULL);
            CHECK(ns_slots_words() == 1 && ns_slots_in_use() == 1);
        }
#endif
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);

    let_leave(130); /* slots 1 to 129 stay */
    wait_until_left(130);
    CHECK(ns_slots_words() == 3 && count_seen() == 130);
    let_leave(64);
    wait_until_left(64);
    CHECK(ns_slots_words() == 1 && count_seen() == 64);
    let_leave(0);
    for (int i = 0; i < CROWD; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(ns_slots_words() == 1 && ns_slots_word(0) == 1 && ns_slots_in_use() == 1);
}

int
main(void)
{
    init_core();
    check_bound_follows_living_threads();
    check_ended_threads_writes_are_seen();
    check_half_returned_slot_shows_writes();
    check_dropped_word_shows_writes();
    check_threads_that_come_and_go_are_seen();
    puts("slots: ok");
    return 0;
}
