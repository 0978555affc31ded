/* Tests core/waiting/park.h: deadlines and wake-ups. Also the lock of a queue, which sleeps by
 * it. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* Lengthens the moment between a sleeper's check of the word and its sleep. Without futexes only
 * the bucket's lock keeps a wake-up from being lost in that moment. */
static _Atomic bool slow_to_sleep;
#if !defined(NS_PARK_FUTEX)
static int
slowly(void)
{
    if (atomic_load(&slow_to_sleep)) {
        usleep(2000);
    }
    return 0;
}
#define pthread_cond_wait(condition, mutex) (slowly(), pthread_cond_wait(condition, mutex))
#endif
#include "waiting/park.c"
#undef pthread_cond_wait

static _Atomic uint32_t word;
static ns_waitq queue;
static long guarded; /* plain: a missing acquire or release is a race */

static void
ping_pong(int i)
{
    for (uint32_t n = 0; n < 2000; n++) {
        uint32_t turn = 2 * n + (uint32_t)i;
        uint32_t now;
        while ((now = ns_load(&word, NS_ACQUIRE)) != turn) {
            ns_park(&word, now, NS_FOREVER);
        }
        guarded++;
        ns_add(&word, 1, NS_RELEASE);
        ns_unpark(&word, 1);
    }
}

static void
hand_over_slowly(int i)
{
    for (uint32_t n = 0; n < 20; n++) {
        uint32_t turn = 2 * n + (uint32_t)i, now;
        while ((now = ns_load(&word, NS_ACQUIRE)) != turn) {
            ns_park(&word, now, NS_FOREVER);
        }
        usleep(1000); /* while the other thread falls asleep */
        ns_add(&word, 1, NS_RELEASE);
        ns_unpark(&word, 1);
    }
}

static void
queue_lock(int i)
{
    (void)i;
    for (int n = 0; n < 5000; n++) {
        ns_waitq_lock(&queue);
        guarded++;
        ns_waitq_unlock(&queue);
    }
}

static void
try_lock(int i)
{
    (void)i;
    for (int n = 0; n < 5000; n++) {
        while (!ns_lock_try(&queue.lock)) {
            sched_yield();
        }
        guarded++;
        ns_lock_release(&queue.lock);
    }
}

static void
on_signal(int number)
{
    (void)number;
}

static _Atomic(pthread_t) sleeper;
static _Atomic bool woken;
static enum { PARK, MUTEX, EVENT, WAITGROUP, SEMAPHORE, WAYS } way;

/* Each way to sleep reports a signal. (Condition variables do not: their callers slice.) */
static void
sleep_until_interrupted(void)
{
    const int64_t deadline = ns_now() + 20000 * MILLISECOND;
    ns_mutex mutex = {0};
    ns_event event = {0};
    ns_waitgroup group = {0};
    ns_semaphore semaphore = {.total = 1};
    ns_waiter w = {.place.amount = way == SEMAPHORE};
    const struct ns_wait_steps *const steps[] = {
        NULL, &ns_mutex_steps, &ns_event_steps, &ns_waitgroup_steps, &ns_semaphore_steps};
    void *const objects[] = {NULL, &mutex, &event, &group, &semaphore};
    CHECK(ns_mutex_try_lock(&mutex));
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
    CHECK(way == PARK || !steps[way]->enter(objects[way], &w));
    ns_store(&sleeper, pthread_self(), NS_RELEASE);
    if (way == PARK) {
        CHECK(ns_park(&word, ns_load(&word, NS_RELAXED), deadline) == NS_PARK_INTERRUPTED);
    }
    else {
        CHECK(steps[way]->wait(objects[way], &w, deadline) == NS_INTERRUPTED);
        CHECK(!steps[way]->cancel(objects[way], &w));
    }
}

static void
interrupt(int i)
{
    if (i == 1) {
        sleep_until_interrupted();
        ns_store(&woken, true, NS_RELEASE);
        return;
    }
    while (ns_load(&sleeper, NS_ACQUIRE) == 0) {
        sleep_ms(1);
    }
    for (pthread_t target = sleeper; !ns_load(&woken, NS_ACQUIRE);) {
        sleep_ms(5); /* a signal that comes before the sleep is lost */
        pthread_kill(target, SIGUSR1);
    }
}

static void
check_signals_end_sleeps(void)
{
#if defined(NS_PARK_FUTEX)
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    for (way = PARK; way < WAYS; way++) {
        ns_store(&sleeper, 0, NS_RELAXED);
        ns_store(&woken, false, NS_RELAXED);
        run_threads(2, interrupt);
    }
#else
    (void)on_signal;
    (void)interrupt;
#endif
}

/* A queue that another process left is empty, whether its lock was held or not. */
static void
check_queue_of_another_process_is_empty(void)
{
    for (int held = 0; held < 2; held++) {
        ns_waitq q = {0};
        ns_waiter w = {0};
        ns_waitq_lock(&q);
        ns_waitq_push(&q, &w.place);
        if (!held) {
            ns_waitq_unlock(&q);
        }
        pretend_to_fork();
        CHECK(!ns_waitq_has(&w.place));
        CHECK(ns_waitq_lock(&q) && q.head == NULL && q.tail == NULL);
        ns_waitq_unlock(&q);
        CHECK(!ns_waitq_lock(&q));
        CHECK(!ns_lock_try(&q.lock)); /* it is held */
        ns_waitq_unlock(&q);
    }
}

static _Atomic unsigned spinners;

static void
spin(int i)
{
    (void)i;
    for (int n = 0; n < 5000; n++) {
        if (ns_spin_begin()) {
            CHECK(ns_add(&spinners, 1, NS_RELAXED) < ns_cpu_count() / 2);
            ns_sub(&spinners, 1, NS_RELAXED);
            ns_spin_end();
        }
    }
}

static _Atomic uint32_t words[256];
static _Atomic bool stop;

/* A process forks while other threads sleep and wake: the child finds nothing locked. */
static void
fork_beside_wake_ups(int i)
{
    if (i != 0) {
        for (unsigned n = 0; !ns_load(&stop, NS_RELAXED); n++) {
            ns_unpark(&words[n % 256], 1);
        }
        return;
    }
    for (int n = 0; n < 20; n++) {
        sleep_ms(1);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (int k = 0; k < 256; k++) {
                ns_unpark(&words[k], 1);
            }
            _exit(0);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    ns_store(&stop, true, NS_RELAXED);
}

int
main(void)
{
    init_core();
    CHECK(ns_cpu_count() >= 1);

    int64_t start = ns_now();
    CHECK(ns_park(&word, 1, NS_FOREVER) == NS_PARK_WOKEN); /* the word is not 1 */
    enum ns_parked result;
    do {
        result = ns_park(&word, 0, start + 20 * MILLISECOND);
    } while (result == NS_PARK_WOKEN);
    CHECK(result == NS_PARK_TIMED_OUT && ns_now() - start >= 20 * MILLISECOND);
    CHECK(ns_park(&word, 0, start) == NS_PARK_TIMED_OUT); /* long ago */

    run_threads(2, ping_pong);
    CHECK(guarded == 4000);
    ns_store(&word, 0, NS_RELAXED);
    ns_store(&slow_to_sleep, true, NS_RELAXED);
    run_threads(2, hand_over_slowly);
    ns_store(&slow_to_sleep, false, NS_RELAXED);
    guarded = 0;
    run_threads(8, queue_lock);
    CHECK(guarded == 40000);
    guarded = 0;
    run_threads(3, try_lock);
    CHECK(guarded == 15000);

    run_threads(4, spin);
    check_no_thread_spins();
    check_queue_of_another_process_is_empty();
    check_signals_end_sleeps();
    run_threads(3, fork_beside_wake_ups);
    puts("park: ok");
    return 0;
}
