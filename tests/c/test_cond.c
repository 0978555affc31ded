/* Tests core/cond.h: no notification is lost, doubled, or given to a waiter that came after it. */
#include "harness.h"

#define THREADS 6
#ifndef ROUNDS
#define ROUNDS 3000
#endif

static ns_cond cond;
static ns_mutex mutex;
static long generation; /* plain: changed under the mutex */
static int arrived;
static long tokens, consumed;

static bool
wait_cond(int64_t deadline, int64_t slice)
{
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    ns_cond_link(&cond, w);
    CHECK(ns_mutex_unlock(&mutex));
    bool served = drive(&ns_cond_steps, &cond, w, deadline, slice);
    ns_waiter_free(w);
    CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
    return served;
}

/* A barrier made of broadcasts: any lost wake-up hangs it. */
static void
barrier(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        long mine = generation;
        if (++arrived == THREADS) {
            arrived = 0;
            generation++;
            ns_cond_notify(&cond, UINT64_MAX);
        }
        else {
            CHECK(wait_cond(NS_FOREVER, i == 1 ? 5000 : 0));
            CHECK(generation == mine + 1); /* no spurious wake-up */
        }
        CHECK(ns_mutex_unlock(&mutex));
    }
}

/* Producers notify one at a time, and some consumers give up. A consumer that is served finds a
 * token. */
static void
produce_and_consume(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        if (i % 2 == 0) {
            tokens++;
            ns_cond_notify(&cond, 1);
        }
        else {
            while (tokens == 0) {
                wait_cond(n % 2 ? ns_now() + 20000 : NS_FOREVER, 0);
            }
            tokens--;
            consumed++;
        }
        CHECK(ns_mutex_unlock(&mutex));
    }
}

/* First come, first served, in a single thread. */
static void
check_first_come_first_served(void)
{
    ns_waiter w[5] = {{0}};
    for (int i = 0; i < 5; i++) {
        ns_cond_link(&cond, &w[i]);
    }
    CHECK(ns_cond_waiting(&cond) == 5);
    CHECK(!ns_cond_steps.cancel(&cond, &w[1]));
    ns_cond_notify(&cond, 1);
    CHECK(ns_is_granted(&w[0]) && !ns_is_granted(&w[2]));
    CHECK(ns_cond_steps.leave(&cond, &w[0]) && !ns_cond_steps.leave(&cond, &w[2]));
    /* a notified wait that fails passes the notification to the next */
    CHECK(ns_cond_steps.cancel(&cond, &w[0]));
    ns_cond_steps.undo(&cond, &w[0]);
    CHECK(ns_is_granted(&w[2]) && ns_cond_waiting(&cond) == 2);
    ns_cond_notify(&cond, UINT64_MAX);
    CHECK(ns_is_granted(&w[3]) && ns_is_granted(&w[4]) && ns_cond_waiting(&cond) == 0);
}

/* Threads line up and give up at once. Only the queue's lock orders them. */
static void
give_up_at_once(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        wait_cond(ns_now() + (i + n) % 3 * 500, 0);
        CHECK(ns_mutex_unlock(&mutex));
    }
}

#define CROWD 40

/* More sleepers than one batch of wake-ups. */
static void
broadcast(int i)
{
    CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
    if (i == 0) {
        while (ns_cond_waiting(&cond) != CROWD - 1) {
            CHECK(ns_mutex_unlock(&mutex));
            sleep_ms(10);
            CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        }
        CHECK(ns_mutex_unlock(&mutex));
        sleep_ms(30); /* for them to fall asleep */
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        ns_cond_notify(&cond, UINT64_MAX);
    }
    else {
        CHECK(wait_cond(NS_FOREVER, 0));
    }
    CHECK(ns_mutex_unlock(&mutex));
}

/* In the child of a fork there are no waiters, except one that comes back. */
static void
check_fork_drops_waiters(void)
{
    ns_waiter gone = {0}, back = {0}, notified = {0};
    ns_cond_link(&cond, &notified);
    ns_cond_link(&cond, &gone);
    ns_cond_link(&cond, &back);
    ns_cond_notify(&cond, 1);
    pretend_to_fork();
    ns_cond_steps.rejoin(&cond, &notified); /* it has its notification already */
    CHECK(ns_cond_waiting(&cond) == 0 && ns_cond_steps.cancel(&cond, &notified));
    CHECK(!ns_cond_steps.leave(&cond, &back));
    ns_cond_steps.rejoin(&cond, &back);
    CHECK(ns_cond_waiting(&cond) == 1);
    ns_cond_notify(&cond, UINT64_MAX);
    CHECK(ns_is_granted(&back) && !ns_is_granted(&gone));

    back = (ns_waiter){0};
    ns_cond_link(&cond, &back);
    pretend_to_fork();
    CHECK(!ns_cond_steps.cancel(&cond, &back) && ns_cond_waiting(&cond) == 0);
}

int
main(void)
{
    init_core();
    check_first_come_first_served();
    check_fork_drops_waiters();
    run_threads(THREADS, barrier);
    CHECK(generation == ROUNDS);
    run_threads(THREADS, produce_and_consume);
    CHECK(tokens == 0 && consumed == THREADS / 2 * ROUNDS);
    CHECK(ns_cond_waiting(&cond) == 0);
    run_threads(THREADS, give_up_at_once);
    CHECK(ns_cond_waiting(&cond) == 0);
    run_threads(CROWD, broadcast);
    puts("cond: ok");
    return 0;
}
