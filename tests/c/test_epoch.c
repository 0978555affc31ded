/* Tests core/memory/epoch.h: nothing is freed while a section can read it, and everything is freed
 * in the end.
 */
#include "harness.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

/* The error with which the system refuses the fence in all threads; 0: it does not refuse. */
static _Atomic int refused;
static int64_t refusal_lasts = 50 * MILLISECOND;
static _Atomic long fences; /* how many fences in all threads there were */
/* If set, another thread ends the round during the next fence. */
static _Atomic bool overtaken;

static void
before_fence(void)
{
    atomic_fetch_add(&fences, 1);
    if (atomic_exchange(&overtaken, false)) {
        ns_add(&ns_epochs.now, 1, NS_SEQ_CST);
    }
}

#if defined(NS_PARK_FUTEX)
#include <sys/syscall.h>
#define syscall(number, ...)                                           \
    ((number) != SYS_membarrier ? syscall(number, __VA_ARGS__)         \
     : atomic_load(&refused)    ? (errno = atomic_load(&refused), -1L) \
                                : (before_fence(), syscall(number, __VA_ARGS__)))
#endif
/* What the clock says, if it is not 0. */
static _Atomic int64_t fake_now;
static int
read_clock(clockid_t id, struct timespec *t)
{
    int64_t now = atomic_load(&fake_now);
    if (now == 0) {
        return clock_gettime(id, t);
    }
    *t = (struct timespec){now / 1000000000, now % 1000000000};
    return 0;
}
#define clock_gettime read_clock
static _Atomic long yields;
#define sched_yield() (atomic_fetch_add(&yields, 1), sched_yield())
/* If set, there is no memory for fork handlers. */
static bool no_fork_handlers;
#define pthread_atfork(prepare, parent, child) \
    (no_fork_handlers ? ENOMEM : pthread_atfork(prepare, parent, child))
#undef NS_REFUSED
#define NS_REFUSED refusal_lasts
#include "waiting/park.c"

#undef clock_gettime
#undef sched_yield
#undef syscall
#undef pthread_atfork

#define THREADS 4
#ifndef ROUNDS
#define ROUNDS 20000
#endif
#define CELLS 4
#define WAITING 8

typedef struct node {
    /* plain fields: the sanitizer sees a read that does not happen before the free */
    long value, twin;
    uint64_t stamp;
} node;

static _Atomic(node *) cells[CELLS];
static _Atomic long made, freed;
static bool refuse_midway;

static node *
make(long value)
{
    node *n = malloc(sizeof(node));
    CHECK(n != NULL);
    *n = (node){value, value, 0};
    ns_add(&made, 1, NS_RELAXED);
    return n;
}

static void
destroy(node *n)
{
    n->value = n->twin = -1;
    n->twin--;
    free(n);
    ns_add(&freed, 1, NS_RELAXED);
}

static void
read_cells(bool stray)
{
    ns_section section = stray ? ns_epoch_enter_stray() : ns_epoch_enter();
    for (int c = 0; c < CELLS; c++) {
        node *n = ns_load(&cells[c], NS_ACQUIRE);
        CHECK(n == NULL || n->value == n->twin);
    }
    ns_epoch_leave(section);
}

/* Polls, and destroys those of the n waiting nodes that are safe. Returns how many are left. */
static int
destroy_safe(node **waiting, int n)
{
    const uint64_t safe = ns_epoch_poll();
    for (int k = n - 1; k >= 0; k--) {
        if (waiting[k]->stamp < safe) {
            destroy(waiting[k]);
            waiting[k] = waiting[--n];
        }
    }
    return n;
}

/* Threads 0 and 1 write, the others read. One reader sometimes reads without a slot. */
static void
read_or_retire(int i)
{
    node *waiting[WAITING];
    int n = 0;
    ns_slot();
    for (int round = 0; round < ROUNDS; round++) {
        if (i == 0 && round == ROUNDS / 2 && refuse_midway) {
            atomic_store(&refused, ENOMEM);
        }
        if (i >= 2) {
            read_cells(i == 3 && round % 64 == 0);
            continue;
        }
        node *old = ns_swap(&cells[(round + i) % CELLS], make(round), NS_SEQ_CST);
        if (old == NULL) {
            continue;
        }
        if (ns_epoch_retire(&old->stamp)) {
            destroy(old);
            continue;
        }
        waiting[n++] = old;
        while (n == WAITING) {
            n = destroy_safe(waiting, n);
        }
    }
    while (n > 0) {
        n = destroy_safe(waiting, n);
    }
}

static void
check_reads_beside_retirement(void)
{
    run_threads(THREADS, read_or_retire);
    for (int c = 0; c < CELLS; c++) {
        node *n = ns_swap(&cells[c], NULL, NS_RELAXED);
        if (n != NULL) {
            destroy(n);
        }
    }
    CHECK(ns_load(&made, NS_RELAXED) == ns_load(&freed, NS_RELAXED));
}

static pthread_barrier_t step;

/* A section holds up what is retired during it, but not what is retired before. */
static void
hold_section(int i)
{
    uint64_t before, during, after;
    if (i == 0) {
        ns_slot();
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        ns_section section = ns_epoch_enter();
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        ns_epoch_leave(section);
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        return;
    }
    ns_slot();
    pthread_barrier_wait(&step);
    CHECK(!ns_epoch_retire(&before)); /* two threads have slots */
    CHECK(ns_epoch_poll() > before);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    CHECK(!ns_epoch_retire(&during));
    for (int n = 0; n < 3; n++) {
        CHECK(ns_epoch_poll() <= during);
    }
    CHECK(!ns_epoch_retire(&after) && after > during);
    CHECK(ns_epoch_safe() > before && ns_epoch_safe() <= during);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    CHECK(ns_epoch_poll() > after);

    ns_section stray = ns_epoch_enter_stray();
    CHECK(!ns_epoch_retire(&during) && ns_epoch_poll() <= during);
    ns_epoch_leave(stray);
    CHECK(ns_epoch_poll() > during);
    pthread_barrier_wait(&step);
}

static void
check_section_holds_up_later_nodes(void)
{
    pthread_barrier_init(&step, NULL, 2);
    run_threads(2, hold_section);
    pthread_barrier_destroy(&step);
}

static void
check_alone_frees_at_once(void)
{
    uint64_t stamp = 0;
    ns_slot();
    CHECK(ns_epoch_retire(&stamp) && stamp == 0);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(!ns_epoch_retire(&stamp) && stamp != 0);
    CHECK(ns_epoch_poll() <= stamp);
    ns_epoch_leave(stray);
    CHECK(ns_epoch_poll() > stamp);
}

static void
retire_without_slot(int i)
{
    (void)i;
    uint64_t stamp = 0;
    CHECK(ns_cached_slot == 0 && !ns_epoch_retire(&stamp)); /* the main thread has a slot */
}

/* States of another thread in the middle of a step, set up by hand. */
static void
check_threads_in_the_middle(void)
{
    const uint32_t other = ns_slot() == 0; /* a slot that some thread had before */
    const uint64_t now = ns_load(&ns_epochs.now, NS_RELAXED);
    uint64_t stamp, safe;
    run_threads(1, retire_without_slot);

    /* The other thread began to poll a moment ago, so no other thread polls. */
    safe = ns_epoch_safe();
    ns_store(&ns_epochs.polling, ns_now() + 1000 * MILLISECOND, NS_RELAXED);
    CHECK(ns_epoch_poll() == safe && ns_load(&ns_epochs.now, NS_RELAXED) == now);
    ns_store(&ns_epochs.polling, ns_now() - NS_POLL_INTERVAL, NS_RELAXED);

    /* The other thread was preempted while it polled. What is retired meanwhile counts for the next
     * round. The next poll ends the round, and a poll after that frees what was retired during
     * it. */
    ns_store(&ns_epochs.now, now + 1, NS_RELAXED);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(!ns_epoch_retire(&stamp) && stamp == now + 2);
    ns_epoch_leave(stray);
    safe = ns_epoch_poll();
    CHECK(safe <= stamp && ns_load(&ns_epochs.now, NS_RELAXED) == now + 2);
    CHECK((safe = ns_epoch_poll()) > stamp && ns_load(&ns_epochs.now, NS_RELAXED) == now + 4);

    /* The other thread read `now` long before it entered. What was safe stays safe. */
    const uint64_t bit = UINT64_C(1) << other;
    ns_or(&ns_slots.taken[0], bit, NS_RELAXED);
    ns_store(&ns_epochs.records[other].epoch, now, NS_RELAXED);
    CHECK(ns_epoch_poll() == safe && ns_epoch_safe() == safe);
    ns_store(&ns_epochs.records[other].epoch, 0, NS_RELAXED);
    ns_and(&ns_slots.taken[0], ~bit, NS_RELAXED);
}

/* In the child of a fork all such threads are gone. */
static void
check_fork_resets_other_threads(void)
{
    const uint32_t other = ns_slot() == 0;
    uint64_t now = ns_load(&ns_epochs.now, NS_RELAXED), stamp = 0;
    ns_add(&ns_slots.state, NS_SLOTS_ONE, NS_RELAXED);
    ns_or(&ns_slots.taken[0], UINT64_C(1) << other, NS_RELAXED);
    ns_store(&ns_epochs.records[other].epoch, now, NS_RELAXED);
    ns_store(&ns_epochs.strays, 1, NS_RELAXED);
    ns_store(&ns_epochs.polling, ns_now() + 1000 * MILLISECOND, NS_RELAXED);
    ns_store(&ns_epochs.now, now + 1, NS_RELAXED);
    ns_store(&ns_globals.alone, NS_ENDING, NS_RELAXED);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ns_slots_in_use() == 1 && ns_slots_word(0) == UINT64_C(1) << ns_slot());
        CHECK(ns_load(&ns_epochs.records[other].epoch, NS_RELAXED) == 0);
        CHECK(ns_epoch_retire(&stamp));
        CHECK(ns_epoch_poll() == now + 1 && ns_epoch_poll() == now + 3);
        CHECK(ns_load(&ns_epochs.now, NS_RELAXED) == now + 4);
        _exit(0);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    ns_sub(&ns_slots.state, NS_SLOTS_ONE, NS_RELAXED);
    ns_and(&ns_slots.taken[0], ~(UINT64_C(1) << other), NS_RELAXED);
    ns_store(&ns_epochs.records[other].epoch, 0, NS_RELAXED);
    ns_store(&ns_epochs.strays, 0, NS_RELAXED);
    ns_store(&ns_epochs.polling, 0, NS_RELAXED);
    ns_store(&ns_epochs.now, now + 2, NS_RELAXED);
    ns_store(&ns_globals.alone, NS_NOBODY, NS_RELAXED);
}

/* A thread without a slot has read before it left. Only its leaving shows that. */
static _Atomic int turn;

static void
read_and_leave(int i)
{
    if (i == 0) {
        read_cells(true);
        ns_store(&turn, 1, NS_RELAXED);
        return;
    }
    while (ns_load(&turn, NS_RELAXED) == 0) {
        ns_pause();
    }
    node *n = ns_swap(&cells[0], NULL, NS_RELAXED);
    if (!ns_epoch_retire(&n->stamp)) {
        CHECK(ns_epoch_poll() > n->stamp);
    }
    destroy(n);
}

static void
check_stray_section_is_seen(void)
{
    ns_store(&turn, 0, NS_RELAXED);
    ns_store(&cells[0], make(1), NS_RELEASE);
    run_threads(2, read_and_leave);
}

/* ---- Alone ---- */

static pthread_barrier_t turns;

static void
start_and_end(int i)
{
    (void)i;
    ns_slot();
    pthread_barrier_wait(&turns);
}

/* A thread that ends is not "alone" for ever: later threads need not put a fence into it. */
static void
end_while_alone(int i)
{
    (void)i;
    uint64_t stamp;
    const long before = atomic_load(&fences);
    ns_slot();
    CHECK(atomic_load(&fences) == before);
    CHECK(ns_epoch_retire(&stamp) && ns_slots_is_alone());
}

/* A thread that starts has the fence put into all threads only if another thread is alone, and only
 * once. */
static void
start_one_after_another(int i)
{
    const long before = atomic_load(&fences);
    for (int n = 0; n < 3; n++) { /* one after the other */
        pthread_barrier_wait(&turns);
        if (i == n) {
            ns_slot();
            CHECK(atomic_load(&fences) == before + ns_load(&ns_can_fence_threads, NS_RELAXED));
        }
        pthread_barrier_wait(&turns);
    }
    uint64_t stamp;
    CHECK(!ns_slots_is_alone() && !ns_epoch_retire(&stamp));
    pthread_barrier_wait(&turns);
}

static void
check_fences_are_few(void)
{
    uint64_t stamp;
    CHECK(ns_epoch_retire(&stamp) && ns_slots_is_alone());
    pthread_barrier_init(&turns, NULL, 3);
    run_threads(3, start_one_after_another);
    CHECK(!ns_slots_is_alone()); /* it is alone again when that is needed, not before */
    long before = atomic_load(&fences);
    run_threads(3, start_and_end);
    CHECK(atomic_load(&fences) == before);
    CHECK(ns_epoch_retire(&stamp) && ns_slots_is_alone());
    pthread_barrier_destroy(&turns);
}

/* The main thread frees at once whenever it is alone, while other threads start, read and end. */
#ifndef COMERS
#define COMERS 400
#endif
static _Atomic int coming;

static void *
read_and_end(void *unused)
{
    (void)unused;
    for (int n = 0; n < 20; n++) {
        read_cells(n == 7);
    }
    return NULL;
}

static void *
start_readers(void *unused)
{
    (void)unused; /* this thread takes no slot */
    for (int n = 0; n < COMERS; n++) {
        pthread_t readers[2];
        for (int k = 0; k < 2; k++) {
            CHECK(pthread_create(&readers[k], NULL, read_and_end, NULL) == 0);
        }
        for (int k = 0; k < 2; k++) {
            pthread_join(readers[k], NULL);
        }
        if (n % 8 == 0) {
            sleep_ms(1);
        }
    }
    ns_store(&coming, 0, NS_RELEASE);
    return NULL;
}

static void
check_alone_beside_short_threads(void)
{
    node *waiting[WAITING];
    int n = 0;
    long at_once = 0;
    pthread_t starter;
    ns_store(&coming, 1, NS_RELAXED);
    CHECK(pthread_create(&starter, NULL, start_readers, NULL) == 0);
    for (long round = 0; ns_load(&coming, NS_ACQUIRE) != 0; round++) {
        _Atomic(node *) *cell = &cells[round % CELLS];
        node *old = ns_load(cell, NS_RELAXED);
        ns_store(cell, make(round), NS_RELEASE); /* no fence, as in a table */
        if (old == NULL) {
            continue;
        }
        if (ns_epoch_retire(&old->stamp)) {
            at_once++;
            destroy(old);
            continue;
        }
        waiting[n++] = old;
        while (n == WAITING) {
            n = destroy_safe(waiting, n);
        }
    }
    pthread_join(starter, NULL);
    CHECK(at_once > 0);
    while (n > 0) {
        n = destroy_safe(waiting, n);
    }
    for (int c = 0; c < CELLS; c++) {
        node *left = ns_swap(&cells[c], NULL, NS_RELAXED);
        if (left != NULL) {
            destroy(left);
        }
    }
    CHECK(ns_load(&made, NS_RELAXED) == ns_load(&freed, NS_RELAXED));
}

/* ---- When polls are due ---- */

static uint64_t
rounds(void)
{
    return ns_load(&ns_epochs.now, NS_RELAXED) / 2;
}

/* Bytes are passed on in batches. */
static void
note_in_batches(uint64_t bytes)
{
    for (uint64_t n = 0; n < bytes; n += 64) {
        ns_epoch_note(64);
    }
}

static void
poll_if_due_often(int i)
{
    (void)i;
    ns_slot();
    for (int n = 0; n < 2000; n++) {
        ns_epoch_poll_if_due();
        if (n % 100 == 0) {
            ns_add(&fake_now, NS_POLL_INTERVAL / 4, NS_RELAXED);
        }
    }
}

static void
check_poll_is_due_by_time_and_bytes(void)
{
    const int64_t start = 1000 * INT64_C(1000000000);
    ns_slot();
    atomic_store(&fake_now, start);
    ns_epoch_poll();
    uint64_t before = rounds();
    for (int n = 0; n < 10; n++) { /* due by time */
        ns_epoch_poll_if_due();
        CHECK(rounds() == before);
    }
    atomic_store(&fake_now, start + NS_POLL_INTERVAL - 1);
    ns_epoch_poll_if_due();
    CHECK(rounds() == before);
    atomic_store(&fake_now, start + NS_POLL_INTERVAL);
    ns_epoch_poll_if_due();
    CHECK(rounds() == before + 1);
    ns_epoch_poll_if_due();
    CHECK(rounds() == before + 1);
    ns_epoch_poll(); /* whatever the clock says */
    CHECK(rounds() == before + 2);

    before = rounds(); /* due by bytes */
    note_in_batches(NS_POLL_BYTES - NS_POLL_BATCH);
    ns_epoch_poll_if_due();
    CHECK(rounds() == before);
    note_in_batches(2 * NS_POLL_BATCH);
    ns_epoch_poll_if_due();
    ns_epoch_poll_if_due();
    CHECK(rounds() == before + 1);

    before = rounds(); /* whichever thread asks */
    ns_add(&fake_now, NS_POLL_INTERVAL, NS_RELAXED);
    const int64_t then = atomic_load(&fake_now);
    run_threads(THREADS, poll_if_due_often);
    const uint64_t max = (uint64_t)((atomic_load(&fake_now) - then) / NS_POLL_INTERVAL) + 1;
    CHECK(rounds() > before && rounds() <= before + max);
    atomic_store(&fake_now, 0);
}

/* What cannot be freed yet is counted. Beyond a certain amount a thread that retires more yields to
 * others. */
static void
check_waiting_bytes_are_counted(void)
{
    uint64_t stamp;
    ns_epoch_poll();
    ns_epoch_poll();
    CHECK(ns_epoch_waiting() == 0);
    note_in_batches(NS_POLL_BATCH);
    CHECK(ns_epoch_waiting() == NS_POLL_BATCH);
    ns_section stray = ns_epoch_enter_stray();
    for (int n = 0; n < 3; n++) {
        ns_epoch_poll();
        CHECK(ns_epoch_waiting() == NS_POLL_BATCH);
    }
    CHECK(!ns_epoch_retire(&stamp));
    const long before = atomic_load(&yields);
    uint64_t noted = NS_POLL_BATCH;
    for (; noted < NS_POLL_HELD + NS_POLL_BATCH; noted += NS_POLL_BYTES) {
        CHECK(atomic_load(&yields) == before);
        note_in_batches(NS_POLL_BYTES);
        ns_epoch_poll_if_due();
    }
    CHECK(atomic_load(&yields) > before && ns_epoch_waiting() == noted);
    ns_epoch_leave(stray);
    ns_epoch_poll(); /* this poll only ends the open round */
    ns_epoch_poll();
    ns_epoch_poll();
    CHECK(ns_epoch_waiting() == 0);
}

static void
note_as_stray(int i)
{
    (void)i;
    const uint64_t before = ns_epoch_waiting();
    CHECK(ns_cached_slot == 0);
    ns_epoch_note(64);
    CHECK(ns_epoch_waiting() == before + 64);
}

/* ---- One polls, another frees ---- */

/* The thread that frees can learn only from the poll of another thread that the reader has left.
 * All threads stay until the end, since an exit would show it too. */
static void
free_after_anothers_poll(int i)
{
    if (i == 0) {
        read_cells(false);
        ns_store(&turn, 1, NS_RELAXED);
    }
    else if (i == 1) {
        ns_slot();
        while (ns_load(&turn, NS_RELAXED) < 2) {
            ns_pause();
        }
        while (ns_load(&turn, NS_RELAXED) < 3) {
            ns_epoch_poll();
        }
    }
    else {
        ns_slot();
        while (ns_load(&turn, NS_RELAXED) < 1) {
            ns_pause();
        }
        node *n = ns_swap(&cells[0], NULL, NS_RELAXED);
        CHECK(!ns_epoch_retire(&n->stamp));
        ns_store(&turn, 2, NS_RELAXED);
        while (ns_epoch_safe() <= n->stamp) {
            ns_pause();
        }
        destroy(n);
        ns_store(&turn, 3, NS_RELAXED);
    }
    while (ns_load(&turn, NS_RELAXED) < 3) {
        ns_pause();
    }
}

static void
check_one_polls_and_another_frees(void)
{
    ns_store(&turn, 0, NS_RELAXED);
    ns_store(&cells[0], make(1), NS_RELEASE);
    run_threads(3, free_after_anothers_poll);
}

/* If another thread has ended the round meanwhile, a poll does not end the next round too. */
static void
check_overtaken_poll_ends_one_round(void)
{
    if (ns_load(&ns_can_fence_threads, NS_RELAXED)) {
        const uint64_t now = ns_load(&ns_epochs.now, NS_RELAXED);
        atomic_store(&overtaken, true);
        ns_epoch_poll();
        CHECK(!atomic_load(&overtaken) && ns_load(&ns_epochs.now, NS_RELAXED) == now + 2);
    }
}

/* ---- The system refuses the fence ---- */

static void
stop_refusing(void)
{
    atomic_store(&refused, 0);
    ns_store(&ns_can_fence_threads, true, NS_RELAXED);
    ns_store(&sure_from, 0, NS_RELAXED);
}

/* After a refusal what waits goes on waiting, until all threads surely have fences of their own.
 * Then it is freed. */
static void
poll_while_refused(int i)
{
    (void)i;
    uint64_t stamp = 0, safe = ns_epoch_safe();
    ns_slot();
    CHECK(!ns_epoch_retire(&stamp) && safe <= stamp); /* the main thread has a slot too */
    refusal_lasts = 1000000 * MILLISECOND;
    atomic_store(&refused, EPERM);
    for (int n = 0; n < 3; n++) {
        CHECK(ns_epoch_poll() == safe && ns_epoch_safe() == safe);
        CHECK(ns_load(&ns_epochs.now, NS_RELAXED) % 2 == 1); /* the round stays open */
        CHECK(!ns_load(&ns_can_fence_threads, NS_RELAXED));
        atomic_store(&refused, 0);
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) { /* no other thread is left */
        ns_epoch_poll();
        _exit(ns_epoch_poll() > stamp ? 0 : 1);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(ns_epoch_poll() == safe);

    const int64_t then = ns_now() + 20 * MILLISECOND;
    ns_store(&sure_from, then, NS_RELAXED);
    ns_fence_everywhere();
    ns_epoch_poll();
    CHECK(ns_now() >= then && ns_epoch_poll() > stamp);
    stop_refusing();
}

/* A thread that starts and finds another one alone waits for that too: the other may have no fence
 * of its own. */
static void
claim_waits_for_lonely_thread(int i)
{
    (void)i;
    const int64_t then = ns_now() + refusal_lasts;
    CHECK(ns_cached_slot == 0);
    ns_slot();
    CHECK(ns_now() >= then && !ns_load(&ns_can_fence_threads, NS_RELAXED));
}

/* A thread that starts and finds none alone does not wait. */
static void
claim_does_not_wait(int i)
{
    (void)i;
    ns_slot();
    CHECK(ns_load(&ns_can_fence_threads, NS_RELAXED));
}

static void
check_refused_fences(void)
{
    if (!ns_load(&ns_can_fence_threads, NS_RELAXED)) {
        return; /* all threads have fences of their own here */
    }
    run_threads(1, poll_while_refused);
    refusal_lasts = 20 * MILLISECOND;
    atomic_store(&refused, ENOMEM);
    run_threads(1, claim_does_not_wait);
    uint64_t stamp;
    CHECK(ns_epoch_retire(&stamp));
    run_threads(1, claim_waits_for_lonely_thread);
    stop_refusing();
    refuse_midway = true;
    check_reads_beside_retirement();
    CHECK(!ns_load(&ns_can_fence_threads, NS_RELAXED));
    refuse_midway = false;
    stop_refusing();
}

int
main(void)
{
    no_fork_handlers = true;
    CHECK(!ns_park_init());
    no_fork_handlers = false;
    init_core();
    for (int n = 0; n < 3; n++) { /* this thread has no slot yet */
        run_threads(1, end_while_alone);
        CHECK(ns_load(&ns_globals.alone, NS_RELAXED) == NS_NOBODY);
    }
    check_alone_frees_at_once();
    check_section_holds_up_later_nodes();
    check_threads_in_the_middle();
    check_fork_resets_other_threads();
    check_stray_section_is_seen();
    check_reads_beside_retirement();
    check_alone_frees_at_once(); /* the other threads gave their slots back */
    check_fences_are_few();
    check_alone_beside_short_threads();
    check_one_polls_and_another_frees();
    check_overtaken_poll_ends_one_round();
    check_poll_is_due_by_time_and_bytes();
    check_waiting_bytes_are_counted();
    run_threads(1, note_as_stray);
    check_refused_fences();
    ns_can_fence_threads = false;
    check_section_holds_up_later_nodes();
    check_reads_beside_retirement();
    check_alone_beside_short_threads();
    return 0;
}
