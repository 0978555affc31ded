/* Tests core/semaphore.h: no more is taken than there is, the order is strict, and a wait that is
 * given up loses nothing.
 */
#include "harness.h"

#define THREADS 6
#define TOTAL 5
#ifndef ROUNDS
#define ROUNDS 4000
#endif

static ns_semaphore semaphore;
static _Atomic int64_t out;
static long guarded; /* plain: written only with all of the semaphore taken */

static void
make_of(uint64_t total, uint64_t start)
{
    semaphore = (ns_semaphore){0};
    ns_semaphore_init(&semaphore, start, total);
}

static void
make(uint64_t total)
{
    make_of(total, total);
}

static bool
take(uint64_t n, int64_t deadline, int64_t slice)
{
    if (ns_semaphore_try(&semaphore, n)) {
        return true;
    }
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    w->place.amount = n;
    bool served = drive(&ns_semaphore_steps, &semaphore, w, deadline, slice);
    ns_waiter_free(w);
    return served;
}

/* Requests of all sizes. Some have a short deadline, some leave and rejoin all the time. */
static void
take_at_random(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        uint64_t want = 1 + (unsigned)(i * 7 + n) % TOTAL;
        int64_t deadline = n % 3 == 0 ? ns_now() + 20000 : NS_FOREVER;
        if (!take(want, deadline, i == 1 ? 5000 : 0)) {
            continue;
        }
        CHECK(ns_add(&out, (int64_t)want, NS_RELAXED) + (int64_t)want <= TOTAL);
        if (want == TOTAL) {
            guarded++;
        }
        ns_sub(&out, (int64_t)want, NS_RELAXED);
        CHECK(ns_semaphore_release(&semaphore, want));
    }
}

/* What came before a release by the slow path is seen after an acquire by the fast path. */
static void
slow_then_fast(int i)
{
    if (i == 0) {
        guarded++;
        CHECK(ns_semaphore_release(&semaphore, 2));
        return;
    }
    while (ns_load(&semaphore.word, NS_RELAXED) & NS_SEMAPHORE_QUEUED) {
        ns_pause();
    }
    CHECK(ns_semaphore_try(&semaphore, 1));
    guarded++;
}

/* If there is enough for all, no try fails, however many threads change the word at once. */
static void
take_without_contention(int i)
{
    (void)i;
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(ns_semaphore_try(&semaphore, 1));
        CHECK(ns_semaphore_release(&semaphore, 1));
    }
}

static const struct ns_wait_steps *const steps = &ns_semaphore_steps;

/* The order in which waiters are served, step by step, in a single thread. */
static void
check_order_of_service(void)
{
    ns_waiter large = {.place.amount = 3}, small[2] = {{.place.amount = 1}, {.place.amount = 1}},
              two = {.place.amount = 2};
    make(3);
    CHECK(ns_semaphore_try(&semaphore, 2));
    CHECK(!steps->enter(&semaphore, &large) && !steps->enter(&semaphore, &small[0]));
    CHECK(!ns_semaphore_release(&semaphore, 3) && ns_semaphore_available(&semaphore) == 1);

    CHECK(!steps->leave(&semaphore, &large)); /* others go on waiting while its handlers run */
    CHECK(!ns_is_granted(&small[0]) && !ns_semaphore_try(&semaphore, 1));
    steps->give_way(&semaphore, &large); /* unless a handler uses the semaphore */
    CHECK(ns_is_granted(&small[0]) && ns_semaphore_available(&semaphore) == 0);
    CHECK(ns_semaphore_release(&semaphore, 1));
    CHECK(ns_semaphore_try(&semaphore, 1) && ns_semaphore_release(&semaphore, 1));
    CHECK(!steps->enter(&semaphore, &two));
    steps->rejoin(&semaphore, &large); /* gets its place back */
    CHECK(ns_semaphore_release(&semaphore, 2));
    CHECK(ns_is_granted(&large) && !ns_is_granted(&two));
    CHECK(steps->leave(&semaphore, &large) && steps->cancel(&semaphore, &large));
    steps->undo(&semaphore, &large);
    CHECK(ns_is_granted(&two) && ns_semaphore_available(&semaphore) == 1);

    large = (ns_waiter){.place.amount = 3};
    small[0] = (ns_waiter){.place.amount = 1};
    CHECK(!steps->enter(&semaphore, &large) && !steps->enter(&semaphore, &small[0]));
    CHECK(!steps->enter(&semaphore, &small[1]));
    CHECK(ns_semaphore_release(&semaphore, 1) && !ns_is_granted(&small[0]));
    CHECK(ns_semaphore_available(&semaphore) >= 1 && !ns_semaphore_try(&semaphore, 1));
    CHECK(!steps->cancel(&semaphore, &large)); /* it was all that kept the others waiting */
    CHECK(ns_is_granted(&small[0]) && ns_is_granted(&small[1]));
    CHECK(ns_semaphore_release(&semaphore, 3));

    large = (ns_waiter){.place.amount = 3};
    CHECK(ns_semaphore_try(&semaphore, 1));
    CHECK(!steps->enter(&semaphore, &large) && !steps->leave(&semaphore, &large));
    steps->give_way(&semaphore, &large);
    CHECK(ns_semaphore_release(&semaphore, 1) && !ns_is_granted(&large));
    steps->rejoin(&semaphore, &large); /* enough was released while it was away */
    CHECK(ns_is_granted(&large) && !ns_waitq_has(&large.place));
    steps->rejoin(&semaphore, &large); /* served while its handlers ran: nothing is left to do */
    CHECK(ns_is_granted(&large) && !ns_waitq_has(&large.place));

    /* A waiter whose thread runs a handler gives back what it was granted, for the handler, and
     * keeps its place. */
    small[0] = (ns_waiter){.place.amount = 1};
    two = (ns_waiter){.place.amount = 2};
    CHECK(!steps->enter(&semaphore, &small[0]) && !steps->enter(&semaphore, &two));
    steps->give_way(&semaphore, &large);
    CHECK(!ns_is_granted(&large) && ns_is_granted(&small[0]) && ns_is_granted(&two));
    small[1] = (ns_waiter){.place.amount = 1};
    CHECK(!steps->enter(&semaphore, &small[1]));
    CHECK(ns_semaphore_release(&semaphore, 1) && ns_is_granted(&small[1]));
    small[1] = (ns_waiter){.place.amount = 1};
    CHECK(!steps->enter(&semaphore, &small[1]));
    steps->rejoin(&semaphore, &large);
    CHECK(ns_semaphore_release(&semaphore, 3) && ns_is_granted(&large));
    CHECK(!ns_is_granted(&small[1]) && !steps->cancel(&semaphore, &small[1]));
    ns_semaphore_reset(&semaphore); /* as the handler does */
    steps->give_way(&semaphore, &large);
    CHECK(!ns_is_granted(&large) && ns_semaphore_available(&semaphore) == 3);
    steps->rejoin(&semaphore, &large);
    CHECK(ns_is_granted(&large) && ns_semaphore_available(&semaphore) == 0);

    ns_waiter behind = {.place.amount = 3};
    large = (ns_waiter){.place.amount = 2};
    make(3);
    CHECK(ns_semaphore_try(&semaphore, 1) && steps->enter(&semaphore, &large));
    CHECK(!steps->enter(&semaphore, &behind));
    steps->give_way(&semaphore, &large);
    steps->rejoin(&semaphore, &large); /* gets its place back, before those behind it */
    CHECK(ns_is_granted(&large) && !steps->cancel(&semaphore, &behind));

    CHECK(ns_semaphore_release(&semaphore, 2));
    small[0] = (ns_waiter){.place.amount = 1};
    CHECK(steps->enter(&semaphore, &small[0])); /* enough was released since the try */
    CHECK(ns_semaphore_release(&semaphore, 1) && ns_semaphore_available(&semaphore) == 2);
    ns_semaphore_reset(&semaphore);
    CHECK(ns_semaphore_available(&semaphore) == 3 && !ns_semaphore_release(&semaphore, 1));
}

/* In the child of a fork what was taken is still taken, the waiters are gone, and one that comes
 * back waits again. */
static void
check_fork_keeps_taken_and_drops_waiters(void)
{
    ns_waiter gone = {.place.amount = 1}, back = {.place.amount = 1};
    make(1);
    CHECK(ns_semaphore_try(&semaphore, 1));
    CHECK(!steps->enter(&semaphore, &gone) && !steps->enter(&semaphore, &back));
    CHECK(!steps->leave(&semaphore, &back));
    pretend_to_fork();
    steps->rejoin(&semaphore, &back);
    CHECK(!ns_is_granted(&back) && ns_semaphore_release(&semaphore, 1));
    CHECK(ns_is_granted(&back) && !ns_is_granted(&gone));
    CHECK(ns_semaphore_release(&semaphore, 1) && ns_semaphore_available(&semaphore) == 1);
}

/* An unbounded semaphore can have more than it started with, up to what its word can hold. */
static void
check_unbounded_goes_beyond_its_start(void)
{
    ns_waiter w = {.place.amount = 2};
    make_of(NS_SEMAPHORE_MAX, 1);
    CHECK(ns_semaphore_release(&semaphore, 4) && ns_semaphore_available(&semaphore) == 5);
    CHECK(!ns_semaphore_release(&semaphore, NS_SEMAPHORE_MAX - 4));
    CHECK(ns_semaphore_release(&semaphore, NS_SEMAPHORE_MAX - 5));
    CHECK(ns_semaphore_available(&semaphore) == NS_SEMAPHORE_MAX);
    CHECK(!ns_semaphore_try(&semaphore, INT64_MAX));
    CHECK(ns_semaphore_try(&semaphore, NS_SEMAPHORE_MAX));
    CHECK(!steps->enter(&semaphore, &w) && !ns_semaphore_release(&semaphore, INT64_MAX));
    CHECK(ns_semaphore_release(&semaphore, 3) && ns_is_granted(&w));
    ns_semaphore_reset(&semaphore);
    CHECK(ns_semaphore_available(&semaphore) == 1);
    CHECK(ns_semaphore_release(&semaphore, 1));
    ns_semaphore_reset(&semaphore);
    CHECK(ns_semaphore_available(&semaphore) == 1);
}

/* A semaphore of 0 serves nobody. A request for more than the total waits. */
static void
check_total_of_zero_serves_nobody(void)
{
    ns_waiter w = {.place.amount = 1};
    make(0);
    CHECK(!ns_semaphore_try(&semaphore, 1) && !ns_semaphore_release(&semaphore, 1));
    CHECK(!steps->enter(&semaphore, &w) && !ns_semaphore_release(&semaphore, 1));
    CHECK(!steps->cancel(&semaphore, &w) && ns_semaphore_available(&semaphore) == 0);
}

/* A semaphore of zero bytes has nothing to take, and no release can add to it. */
static void
check_zero_bytes_give_and_take_nothing(void)
{
    semaphore = (ns_semaphore){0};
    CHECK(!ns_semaphore_try(&semaphore, 1) && !ns_semaphore_release(&semaphore, 1));
    CHECK(!ns_semaphore_release(&semaphore, INT64_MAX));
    CHECK(ns_load(&semaphore.word, NS_RELAXED) == 0);
}

/* Initializes one semaphore after the other while another thread releases each. */
static ns_semaphore fresh[2000];
static _Atomic int current;

static void
init_or_release(int i)
{
    const int count = sizeof(fresh) / sizeof(fresh[0]);
    for (int n = 0; i == 0 && n < count; n++) {
        ns_store(&current, n, NS_RELAXED);
        ns_semaphore_init(&fresh[n], 2, 2);
    }
    for (int n = 0; i == 1 && n < count - 1; n = ns_load(&current, NS_RELAXED)) {
        CHECK(!ns_semaphore_release(&fresh[n], 1));
        CHECK(ns_semaphore_available(&fresh[n]) <= 2);
    }
}

int
main(void)
{
    init_core();
    check_zero_bytes_give_and_take_nothing();
    run_threads(2, init_or_release);
    check_order_of_service();
    check_fork_keeps_taken_and_drops_waiters();
    check_unbounded_goes_beyond_its_start();
    check_total_of_zero_serves_nobody();
    make(2);
    CHECK(ns_semaphore_try(&semaphore, 2) && !ns_semaphore_try(&semaphore, 1));
    CHECK(!take(1, ns_now() + MILLISECOND, 0));
    CHECK(ns_semaphore_release(&semaphore, 2) && !ns_semaphore_release(&semaphore, 1));
    CHECK(ns_semaphore_available(&semaphore) == 2);

    ns_waiter w = {.place.amount = 1};
    make(2);
    CHECK(ns_semaphore_try(&semaphore, 2) && !steps->enter(&semaphore, &w));
    run_threads(2, slow_then_fast);

    make(THREADS);
    run_threads(THREADS, take_without_contention);
    CHECK(ns_semaphore_available(&semaphore) == THREADS);

    make(TOTAL);
    run_threads(THREADS, take_at_random);
    CHECK(ns_semaphore_available(&semaphore) == TOTAL);
    CHECK(!(ns_load(&semaphore.word, NS_RELAXED) & NS_SEMAPHORE_QUEUED));
    check_no_thread_spins();
    puts("semaphore: ok");
    return 0;
}
