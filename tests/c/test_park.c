/* core/park.h: deadlines, wake-ups, and the queue's lock, which sleeps on it. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

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
on_signal(int number)
{
    (void)number;
}

static _Atomic(pthread_t) sleeper;

static void
interrupt(int i)
{
    if (i == 0) {
        pthread_t target;
        while ((target = ns_load(&sleeper, NS_ACQUIRE)) == 0) {
            sleep_ms(1);
        }
        sleep_ms(20);
        pthread_kill(target, SIGUSR1);
        return;
    }
    int64_t start = ns_now();
    ns_store(&sleeper, pthread_self(), NS_RELEASE);
    enum ns_parked result = ns_park(&word, ns_load(&word, NS_RELAXED), start + 2000 * MILLISECOND);
#if defined(NS_PARK_FUTEX)
    CHECK(result == NS_PARK_INTERRUPTED);
    CHECK(ns_now() - start < 1000 * MILLISECOND);
#else
    (void)result; /* condition variables do not tell: callers slice */
#endif
}

static _Atomic uint32_t words[256];
static _Atomic bool stop;

/* A process forks while others sleep and wake: the child finds nothing locked. */
static void
fork_under_fire(int i)
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
    CHECK(ns_park(&word, 0, start) == NS_PARK_TIMED_OUT); /* long past */

    run_threads(2, ping_pong);
    CHECK(guarded == 4000);
    guarded = 0;
    run_threads(8, queue_lock);
    CHECK(guarded == 40000);

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    run_threads(2, interrupt);
    run_threads(3, fork_under_fire);
    puts("park: ok");
    return 0;
}
