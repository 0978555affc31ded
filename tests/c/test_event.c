/* Tests core/event.h: no wake-up is lost, even if the event is cleared at once. */
#include <sched.h>

#include "harness.h"

#define THREADS 4
#ifndef ROUNDS
#define ROUNDS 500
#endif

static ns_event event;
static long message; /* plain: a missing acquire or release is a race */
static pthread_barrier_t round_end;
static _Atomic int ready;

static bool
wait_event(ns_event *e, int64_t deadline, int64_t slice)
{
    ns_waiter w = {0};
    if (ns_event_is_set(e)) {
        return true;
    }
    return drive(&ns_event_steps, e, &w, deadline, slice);
}

/* Thread 0 publishes a message and sets the event. The others wait, plainly or in slices, and read
 * it. */
static void
publish(int i)
{
    for (int n = 1; n <= ROUNDS; n++) {
        if (i == 0) {
            message = n;
            ns_event_set(&event);
        }
        else {
            CHECK(wait_event(&event, NS_FOREVER, i == 1 ? 10000 : 0));
            CHECK(message == n);
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            ns_event_clear(&event);
        }
        pthread_barrier_wait(&round_end);
    }
}

/* A set directly followed by a clear: every waiter is released. */
static void
pulse(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i == 0) {
            while (ns_load(&ready, NS_ACQUIRE) != THREADS - 1) {
                sched_yield();
            }
            ns_store(&ready, 0, NS_RELAXED);
            ns_event_set(&event);
            ns_event_clear(&event);
        }
        else {
            ns_waiter w = {0};
            ns_event_steps.enter(&event, &w);
            ns_add(&ready, 1, NS_RELEASE);
            CHECK(ns_event_steps.wait(&event, &w, NS_FOREVER) == NS_SERVED);
        }
        pthread_barrier_wait(&round_end);
    }
}

/* A wait that is given up and finds itself served has seen what came before the set. */
static void
set_then_cancel(int i)
{
    ns_waiter w = {.place.amount = 1}; /* as if it had entered while the event was unset */
    if (i == 0) {
        message = -1;
        ns_event_set(&event);
        return;
    }
    while (!ns_event_steps.cancel(&event, &w)) {
        ns_pause();
    }
    CHECK(message == -1);
}

/* So has a wait that ends as it begins. */
static void
set_then_enter(int i)
{
    ns_waiter w = {0};
    if (i == 0) {
        message = -2;
        ns_event_set(&event);
        return;
    }
    while (!ns_event_steps.enter(&event, &w)) {
        ns_pause();
    }
    CHECK(message == -2);
}

/* A set of an event that is set already publishes like any other. (Even without that, the fences
 * would order the message before the second read of the word. But the sanitizer does not model
 * fences, so it reports a set that does not publish.) */
static void
set_again(int i)
{
    if (i == 0) {
        message = -3;
        ns_event_set(&event);
        ns_fence(NS_SEQ_CST);
        ns_store(&ready, 1, NS_RELAXED);
        return;
    }
    while (ns_load(&ready, NS_RELAXED) == 0) {
        ns_pause();
    }
    ns_fence(NS_SEQ_CST);
    CHECK(ns_event_is_set(&event) && message == -3);
}

int
main(void)
{
    init_core();
    CHECK(!wait_event(&event, ns_now() + MILLISECOND, 0));
    ns_event_set(&event);
    CHECK(wait_event(&event, NS_FOREVER, 0));
    ns_event_clear(&event);
    CHECK(!ns_event_is_set(&event));
    CHECK(ns_load(&event.word, NS_RELAXED) >= NS_WORD_EPOCH); /* the settings are counted */

    ns_waiter w = {0}; /* a wait that is given up, or left, sees that it was just served */
    CHECK(!ns_event_steps.enter(&event, &w));
    CHECK(!ns_event_steps.leave(&event, &w) && !ns_event_steps.cancel(&event, &w));
    ns_event_set(&event);
    ns_event_clear(&event);
    CHECK(ns_event_steps.leave(&event, &w) && ns_event_steps.cancel(&event, &w));

    ns_store(&event.word, 0, NS_RELAXED); /* a new event: w's epoch is 0 */
    run_threads(2, set_then_cancel);
    ns_event_clear(&event);
    run_threads(2, set_then_enter);
    run_threads(2, set_again);
    ns_store(&ready, 0, NS_RELAXED);
    ns_event_clear(&event);
    pthread_barrier_init(&round_end, NULL, THREADS);
    run_threads(THREADS, pulse);
    run_threads(THREADS, publish);
    puts("event: ok");
    return 0;
}
