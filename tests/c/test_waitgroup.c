/* Tests core/waitgroup.h: every wait ends with the zero it waited for, even if the group is used
 * again at once.
 */
#include "harness.h"

#define THREADS 5
#ifndef ROUNDS
#define ROUNDS 5000
#endif

static ns_waitgroup group;
static long results[THREADS][16]; /* plain: a missing acquire or release is a race */
static pthread_barrier_t round_end;
static _Atomic int passed;

static bool
wait_group(int64_t deadline, int64_t slice)
{
    ns_waiter w = {0};
    return drive(&ns_waitgroup_steps, &group, &w, deadline, slice);
}

/* Thread 0 waits for what the others do. */
static void
fan_in(int i)
{
    for (long n = 1; n <= ROUNDS; n++) {
        if (i == 0) {
            CHECK(ns_waitgroup_add(&group, THREADS - 1) == NS_ADDED);
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            CHECK(wait_group(NS_FOREVER, n % 2 ? 5000 : 0));
            for (int k = 1; k < THREADS; k++) {
                CHECK(results[k][0] == n);
            }
        }
        else {
            results[i][0] = n;
            CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        }
        pthread_barrier_wait(&round_end);
    }
}

/* The count is zero only for a moment. Every waiter must be released by it. */
static void
pulse(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i == 0) {
            CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
            ns_store(&passed, 0, NS_RELAXED);
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            while (ns_load(&passed, NS_ACQUIRE) != THREADS - 1) {
                ns_pause();
            }
            CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
            CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
        }
        else {
            ns_waiter w = {0};
            ns_waitgroup_steps.enter(&group, &w);
            ns_add(&passed, 1, NS_RELEASE);
            CHECK(ns_waitgroup_steps.wait(&group, &w, NS_FOREVER) == NS_SERVED);
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        }
        pthread_barrier_wait(&round_end);
    }
}

/* A wait that is given up and finds itself served has seen what came before the last done. */
static void
done_then_cancel(int i)
{
    ns_waiter w = {0};
    if (i == 0) {
        results[0][0] = -1;
        CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        return;
    }
    while (!ns_waitgroup_steps.cancel(&group, &w)) {
        ns_pause();
    }
    CHECK(results[0][0] == -1);
}

/* So has a wait that ends as it begins. */
static void
done_then_enter(int i)
{
    ns_waiter w = {0};
    if (i == 0) {
        results[0][0] = -2;
        CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        return;
    }
    while (!ns_waitgroup_steps.enter(&group, &w)) {
        ns_pause();
    }
    CHECK(results[0][0] == -2);
}

/* So has a thread that only reads the count. */
static void
done_then_count(int i)
{
    if (i == 0) {
        results[0][0] = -3;
        CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        return;
    }
    while (ns_waitgroup_count(&group) != 0) {
        ns_pause();
    }
    CHECK(results[0][0] == -3);
}

int
main(void)
{
    init_core();
    CHECK(ns_waitgroup_add(&group, -1) == NS_BELOW_ZERO);
    CHECK(ns_waitgroup_add(&group, INT64_MIN) == NS_BELOW_ZERO);
    CHECK(ns_waitgroup_add(&group, INT64_MAX) == NS_TOO_LARGE);
    CHECK(ns_waitgroup_add(&group, NS_WAITGROUP_MAX) == NS_ADDED);
    CHECK(ns_waitgroup_add(&group, 1) == NS_TOO_LARGE);
    CHECK(ns_waitgroup_add(&group, INT64_MAX) == NS_TOO_LARGE);
    CHECK(ns_waitgroup_count(&group) == NS_WAITGROUP_MAX);
    CHECK(!wait_group(ns_now() + MILLISECOND, 0));
    CHECK(ns_waitgroup_add(&group, -NS_WAITGROUP_MAX) == NS_ADDED);
    CHECK(wait_group(NS_FOREVER, 0));

    ns_waiter w = {0};
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED && !ns_waitgroup_steps.enter(&group, &w));
    CHECK(!ns_waitgroup_steps.leave(&group, &w) && !ns_waitgroup_steps.cancel(&group, &w));
    CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED && ns_waitgroup_add(&group, 1) == NS_ADDED);
    CHECK(ns_waitgroup_steps.leave(&group, &w) && ns_waitgroup_steps.cancel(&group, &w));
    CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);

    w = (ns_waiter){0}; /* a wait for the first zero of a new group, whose epoch is 0 */
    ns_store(&group.word, 0, NS_RELAXED);
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
    run_threads(2, done_then_cancel);
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
    run_threads(2, done_then_enter);
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
    run_threads(2, done_then_count);
    pthread_barrier_init(&round_end, NULL, THREADS);
    run_threads(THREADS, fan_in);
    run_threads(THREADS, pulse);
    CHECK(ns_waitgroup_count(&group) == 0);
    puts("waitgroup: ok");
    return 0;
}
