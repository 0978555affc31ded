/* Mutual exclusion, hand-over, cancellation and fork of core/mutex.h.
 *
 * The guarded integer is plain on purpose: under thread sanitizer a missing acquire or release is
 * a reported race, which is what the mutant builds must show. */
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
    ns_mutex_enqueue(&mutex, w);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(!lock_mutex(&mutex, ns_now() + 5 * MILLISECOND, 0));
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(!ns_mutex_unlock(&mutex));
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        /* Left before the fork, back after it: it must queue anew. */
        w->away = true;
        ns_mutex_steps.rejoin(&mutex, w);
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(drive(&ns_mutex_steps, &mutex, w, NS_FOREVER, 0));
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

    ns_store(&expected, ns_now() + 300 * MILLISECOND, NS_RELAXED);
    run_threads(THREADS, greedy);
    for (int i = 0; i < THREADS; i++) {
        CHECK(turns[i] > 0);
    }

    test_fork();
    puts("mutex: ok");
    return 0;
}
