/* Mutual exclusion, hand-over, cancellation and fork of core/mutex.h.
 *
 * The guarded integer is plain on purpose: under thread sanitizer a missing acquire or release is
 * a reported race, which is what the mutant builds must show. */
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define THREADS 8
#ifndef ROUNDS
#define ROUNDS 3000
#endif

static ns_mutex mutex;
static long guarded;
static _Atomic long expected;
static _Atomic bool stop;

static void
plain(int i)
{
    (void)i;
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        guarded++;
        CHECK(ns_mutex_unlock(&mutex));
    }
}

/* Time-outs, signals (as slices) and plain waits at once: nobody is lost, nothing is leaked. */
static void
impatient(int i)
{
    for (int n = 0; n < ROUNDS / 4; n++) {
        int64_t slice = i % 3 == 0 ? 20000 : 0;
        int64_t deadline = i % 3 == 1 ? ns_now() + 1000 * (n % 100) : NS_FOREVER;
        if (lock_mutex(&mutex, deadline, slice)) {
            guarded++;
            ns_add(&expected, 1, NS_RELAXED);
            if (n % 64 == 0) {
                sleep_ms(1); /* long enough for heirs to nap and waiters to starve */
            }
            CHECK(ns_mutex_unlock(&mutex));
        }
    }
}

/* A gate: some take, others open. Whoever opens is not who took, and nobody may sleep for ever
 * beside an open gate. */
static void
gate(int i)
{
    for (int n = 0; n < 4 * ROUNDS; n++) {
        if (i < THREADS / 2) {
            CHECK(lock_mutex(&mutex, NS_FOREVER, i == 0 ? 20000 : 0));
        }
        else {
            while (!ns_mutex_unlock(&mutex)) {
                sched_yield();
            }
        }
    }
}

/* The first in line sleeps while newcomers come one after the other: none may overtake it for long. */
static void
test_newcomers(void)
{
    ns_waiter *first = ns_waiter_new();
    CHECK(ns_mutex_try_lock(&mutex));
    ns_mutex_steps.enter(&mutex, first);
    CHECK(ns_mutex_steps.wait(&mutex, first, ns_now() + 5 * MILLISECOND) == NS_TIMED_OUT);
    ns_waiter *newcomer = ns_waiter_new();
    ns_mutex_steps.enter(&mutex, newcomer);
    CHECK(ns_mutex_unlock(&mutex));
    CHECK(ns_mutex_steps.wait(&mutex, newcomer, ns_now() + 5 * MILLISECOND) == NS_TIMED_OUT);
    CHECK(ns_mutex_steps.wait(&mutex, first, NS_FOREVER) == NS_SERVED);
    CHECK(ns_mutex_unlock(&mutex));
    CHECK(ns_mutex_steps.wait(&mutex, newcomer, NS_FOREVER) == NS_SERVED);
    CHECK(ns_mutex_unlock(&mutex));
    ns_waiter_free(first);
    ns_waiter_free(newcomer);
}

static const struct ns_wait_steps *const steps = &ns_mutex_steps;

enum { PARKED, HEIR, GRANTED }; /* a node's states, as mutex.c has them */
enum { SLOW = 4, SLOWEST = 16 }; /* of `slowness`; so, too */

static uint32_t
state_of(ns_waiter *w)
{
    return ns_load(&w->state, NS_RELAXED);
}

/* Who is served when, step by step; no thread is needed to see it. */
static void
check_steps(void)
{
    ns_waiter first = {0}, second = {0};
    ns_store(&mutex.slowness, 0, NS_RELAXED);
    CHECK(ns_mutex_try_lock(&mutex));
    CHECK(!steps->enter(&mutex, &first) && !steps->enter(&mutex, &second));
    CHECK(state_of(&first) == HEIR && state_of(&second) == PARKED);
    CHECK(!steps->leave(&mutex, &first) &&
          state_of(&second) == HEIR); /* skipped while it is away */
    CHECK(!steps->leave(&mutex, &second) && mutex.heir == NULL);
    steps->rejoin(&mutex, &second);
    CHECK(state_of(&second) == HEIR);
    steps->rejoin(&mutex, &first); /* in its place, but another is heir by now */
    CHECK(state_of(&first) == PARKED && mutex.heir == &second);
    CHECK(!steps->cancel(&mutex, &second) && state_of(&first) == HEIR);

    /* A heir that waited too long demands the lock, and gets it from the next release. */
    first.since -= 1000 * MILLISECOND;
    while (!first.impatient && state_of(&first) == HEIR) {
        CHECK(steps->wait(&mutex, &first, ns_now() + 20000) == NS_TIMED_OUT);
    }
    CHECK(ns_mutex_unlock(&mutex) && ns_mutex_is_locked(&mutex));
    CHECK(state_of(&first) == GRANTED && steps->leave(&mutex, &first) &&
          steps->cancel(&mutex, &first));
    steps->undo(&mutex, &first);
    CHECK(!ns_mutex_is_locked(&mutex));

    /* So does one that waited too long and sleeps, whoever is in line behind it. */
    first = second = (ns_waiter){0};
    CHECK(ns_mutex_try_lock(&mutex));
    CHECK(!steps->enter(&mutex, &first) && !steps->enter(&mutex, &second));
    while (state_of(&first) == HEIR) {
        CHECK(steps->wait(&mutex, &first, ns_now() + MILLISECOND) == NS_TIMED_OUT);
    }
    first.since -= 1000 * MILLISECOND;
    ns_store(&mutex.slowness, 0, NS_RELAXED);
    CHECK(ns_mutex_unlock(&mutex) && ns_mutex_is_locked(&mutex));
    CHECK(state_of(&second) == HEIR && steps->cancel(&mutex, &first));
    CHECK(ns_mutex_unlock(&mutex) && steps->wait(&mutex, &second, NS_FOREVER) == NS_SERVED);
    CHECK(ns_mutex_unlock(&mutex) && !ns_mutex_unlock(&mutex));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);
}

/* Where holders are slow nobody waits awake, and nobody is forgotten. */
static void
check_slow_steps(void)
{
    ns_waiter first = {0}, second = {0};
    ns_store(&mutex.slowness, SLOWEST, NS_RELAXED);
    CHECK(!steps->enter(&mutex, &first)); /* the lock came free: somebody has to look */
    CHECK(state_of(&first) == HEIR && steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED);
    first = (ns_waiter){0};
    CHECK(!steps->enter(&mutex, &first) && !steps->enter(&mutex, &second));
    CHECK(state_of(&first) == PARKED && state_of(&second) == PARKED && mutex.heir == NULL);
    sleep_ms(1);
    CHECK(ns_mutex_unlock(&mutex));
    CHECK(state_of(&first) == GRANTED || state_of(&first) == HEIR); /* it may be starving */
    CHECK(steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED);
    CHECK(state_of(&second) == PARKED && mutex.heir == NULL);

    second.since -= 1000 * MILLISECOND; /* the next gets it in its sleep, and wakes nobody */
    first = (ns_waiter){0};
    CHECK(!steps->enter(&mutex, &first));
    sleep_ms(1);
    CHECK(ns_mutex_unlock(&mutex) && state_of(&second) == GRANTED);
    CHECK(ns_mutex_is_locked(&mutex) && state_of(&first) == PARKED && mutex.heir == NULL);
    CHECK(ns_mutex_unlock(&mutex) && state_of(&first) != PARKED);
    CHECK(steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED && ns_mutex_unlock(&mutex));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);
}

static void
hold_beside_a_waiter(long ms)
{
    ns_waiter w = {0};
    CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &w));
    if (ms != 0) {
        sleep_ms(ms);
    }
    CHECK(ns_mutex_unlock(&mutex) && steps->wait(&mutex, &w, NS_FOREVER) == NS_SERVED);
    CHECK(ns_mutex_unlock(&mutex));
}

/* The lock learns that holders became brief, and that they became slow. */
static void
check_slowness(void)
{
    ns_store(&mutex.slowness, SLOWEST, NS_RELAXED);
    for (int n = 0; ns_load(&mutex.slowness, NS_RELAXED) >= SLOW; n++) {
        CHECK(n < 1000000); /* on a busy machine a holder may be slow against its will */
        hold_beside_a_waiter(0);
    }
    hold_beside_a_waiter(0); /* awake again */
    for (int n = 0; n < 100; n++) { /* nothing is briefer than brief */
        ns_waiter w = {0};
        ns_store(&mutex.slowness, SLOW, NS_RELAXED);
        CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &w));
        ns_store(&mutex.slowness, 0, NS_RELAXED);
        CHECK(ns_mutex_unlock(&mutex) && ns_load(&mutex.slowness, NS_RELAXED) <= SLOWEST);
        CHECK(steps->wait(&mutex, &w, NS_FOREVER) == NS_SERVED && ns_mutex_unlock(&mutex));
    }
    ns_store(&mutex.slowness, SLOW, NS_RELAXED);
    for (int n = 0; n < 20; n++) {
        hold_beside_a_waiter(1);
    }
    CHECK(ns_load(&mutex.slowness, NS_RELAXED) == SLOWEST);
    ns_store(&mutex.slowness, 0, NS_RELAXED); /* and by those who waited awake */
    for (int n = 0; ns_load(&mutex.slowness, NS_RELAXED) < SLOW; n++) {
        CHECK(n < 1000000);
        ns_waiter w = {0};
        CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &w));
        while (state_of(&w) == HEIR) {
            CHECK(steps->wait(&mutex, &w, ns_now() + MILLISECOND) == NS_TIMED_OUT);
        }
        CHECK(ns_mutex_unlock(&mutex) && steps->wait(&mutex, &w, NS_FOREVER) == NS_SERVED);
        CHECK(ns_mutex_unlock(&mutex));
    }
    ns_store(&mutex.slowness, 0, NS_RELAXED);
}

static ns_waiter first_in_line;

/* The heir gives up: the next in line, asleep, must be woken for the office. */
static void
give_up(int i)
{
    if (i == 0) {
        sleep_ms(30); /* for the other to fall asleep; if it does not, less is tested */
        CHECK(!steps->cancel(&mutex, &first_in_line));
        return;
    }
    CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
    CHECK(ns_mutex_unlock(&mutex));
}

static void
test_heir_gives_up(void)
{
    CHECK(ns_mutex_try_lock(&mutex));
    CHECK(!steps->enter(&mutex, &first_in_line));
    CHECK(ns_mutex_unlock(&mutex)); /* by the fast path: the heir, they say, is awake */
    run_threads(2, give_up);
}

/* What came before a release by the slow path is seen after an acquire by the fast one. */
static void
slow_then_fast(int i)
{
    if (i == 0) {
        guarded++;
        CHECK(ns_mutex_unlock_slow(&mutex));
        return;
    }
    while (!ns_mutex_try_lock(&mutex)) {
        ns_pause();
    }
    guarded++;
    CHECK(ns_mutex_unlock(&mutex));
}

static long turns[THREADS];

static void
greedy(int i)
{
    while (!ns_load(&stop, NS_RELAXED)) {
        lock_mutex(&mutex, NS_FOREVER, 0);
        turns[i]++;
        if (i == THREADS - 1 && ns_now() > ns_load(&expected, NS_RELAXED)) {
            ns_store(&stop, true, NS_RELAXED);
        }
        ns_mutex_unlock(&mutex);
    }
}

static void
test_fork(void)
{
    /* A child finds a queue of threads that are gone: the lock stays held, times out, can be
     * released, and is whole afterwards. */
    ns_waiter *w = ns_waiter_new();
    CHECK(ns_mutex_try_lock(&mutex));
    ns_mutex_steps.enter(&mutex, w);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        ns_store(&mutex.slowness, 0, NS_RELAXED);
        ns_waiter fresh = {0}; /* the first in line, though the parent had an heir */
        CHECK(!steps->enter(&mutex, &fresh) && mutex.heir == &fresh);
        CHECK(!steps->cancel(&mutex, &fresh));
        CHECK(!lock_mutex(&mutex, ns_now() + 5 * MILLISECOND, 0));
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(!ns_mutex_unlock(&mutex));
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        /* Left before the fork, back after it: it must queue anew. */
        w->place.away = true;
        ns_mutex_steps.rejoin(&mutex, w);
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(ns_mutex_steps.wait(&mutex, w, NS_FOREVER) == NS_SERVED);
        ns_mutex_reset(&mutex);
        CHECK(!ns_mutex_is_locked(&mutex));
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(!ns_mutex_steps.cancel(&mutex, w));
    ns_waiter_free(w);
    CHECK(ns_mutex_unlock(&mutex));
}

int
main(void)
{
    init_core();
    CHECK(!ns_mutex_unlock(&mutex));

    run_threads(THREADS, plain);
    CHECK(guarded == (long)THREADS * ROUNDS);
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);

    guarded = 0;
    run_threads(THREADS, impatient);
    CHECK(guarded == ns_load(&expected, NS_RELAXED));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);

    run_threads(THREADS, gate);
    CHECK(!ns_mutex_is_locked(&mutex) && mutex.queue.head == NULL);
    test_newcomers();
    check_steps();
    check_slow_steps();
    check_slowness();
    test_heir_gives_up();
    CHECK(ns_mutex_try_lock(&mutex));
    run_threads(2, slow_then_fast);

    ns_store(&expected, ns_now() + 300 * MILLISECOND, NS_RELAXED);
    run_threads(THREADS, greedy);
    for (int i = 0; i < THREADS; i++) {
        CHECK(turns[i] > 0);
    }

    test_fork();
    puts("mutex: ok");
    return 0;
}
