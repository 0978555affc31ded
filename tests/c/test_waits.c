/* Tests core/waiting/grant.h and word.h: waits that are cancelled, waiters that are called, waiters
 * whose memory is lent, and places on words. The objects are those that have such waiters.
 */
#include <sched.h>

#include "harness.h"

#define THREADS 4
#ifndef ROUNDS
#define ROUNDS 2000
#endif
#define LOST_WAKE_UP \
    (20000 * MILLISECOND) /* no thread waits this long, unless a wake-up was lost */

static ns_semaphore semaphore;
static ns_event event;
static ns_waitgroup group;
static ns_cond cond;
static ns_rwmutex rwmutex;
static ns_mutex mutex;
static long message; /* plain: a missing acquire or release is a race */
static _Atomic uint32_t turn;

static void
make_semaphore(uint64_t units)
{
    semaphore = (ns_semaphore){0};
    ns_semaphore_init(&semaphore, units, NS_SEMAPHORE_MAX);
}

static uint32_t
state_of(ns_waiter *w)
{
    return ns_load(&w->state, NS_ACQUIRE);
}

static void
await_value(_Atomic uint32_t *word, uint32_t value)
{
    while (ns_load(word, NS_ACQUIRE) != value) {
        sched_yield();
    }
}

static ns_waiter *
new_waiter(uint64_t amount)
{
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    w->place.amount = amount;
    return w;
}

/* ---- Cancellation ---- */

static const struct ns_wait_steps *const takers = &ns_semaphore_steps;

static void
check_cancelled_waiter_stays_in_line_until_its_thread_leaves(void)
{
    make_semaphore(0);
    ns_waiter a = {.place.amount = 1}, b = {.place.amount = 1};
    CHECK(!takers->enter(&semaphore, &a) && !takers->enter(&semaphore, &b));
    CHECK(ns_waiter_cancel(&a) && !ns_waiter_cancel(&a));
    CHECK(takers->wait(&semaphore, &a, NS_FOREVER) == NS_WAS_CANCELLED);
    CHECK(takers->wait(&semaphore, &a, 0) == NS_WAS_CANCELLED && ns_waitq_has(&a.place));
    CHECK(!takers->cancel(&semaphore, &a) && !ns_waitq_has(&a.place));
    CHECK(ns_semaphore_release(&semaphore, 1) && ns_is_granted(&b));

    /* Served after it was cancelled, and before its thread left: it is served. */
    a = (ns_waiter){.place.amount = 1};
    CHECK(!takers->enter(&semaphore, &a) && ns_waiter_cancel(&a));
    CHECK(ns_semaphore_release(&semaphore, 1) && ns_is_granted(&a) && !ns_waiter_cancel(&a));
    CHECK(takers->wait(&semaphore, &a, NS_FOREVER) == NS_SERVED);
    CHECK(takers->cancel(&semaphore, &a) && ns_semaphore_available(&semaphore) == 0);
}

static void
check_only_some_waits_are_cancellable(void)
{
    CHECK(ns_semaphore_steps.cancellable && ns_cond_steps.cancellable);
    CHECK(ns_channel_send_steps.cancellable && ns_channel_receive_steps.cancellable);
    CHECK(ns_word_place_steps.cancellable && ns_select_steps.cancellable);
    CHECK(!ns_event_steps.cancellable && !ns_waitgroup_steps.cancellable);
    CHECK(!ns_mutex_steps.cancellable);
    CHECK(!ns_rwmutex_read_steps.cancellable && !ns_rwmutex_write_steps.cancellable);
}

static ns_waiter sleeper;

/* A sleeper is woken, and sees what its canceller did before. */
static void
cancel_a_sleeper(int i)
{
    for (int n = 1; n <= ROUNDS / 10; n++) {
        if (i == 0) {
            sleeper = (ns_waiter){.place.amount = 1};
            CHECK(!takers->enter(&semaphore, &sleeper));
            ns_store(&turn, (uint32_t)n, NS_RELEASE);
            CHECK(takers->wait(&semaphore, &sleeper, ns_now() + LOST_WAKE_UP) == NS_WAS_CANCELLED);
            CHECK(message == n && !takers->cancel(&semaphore, &sleeper));
        }
        else {
            await_value(&turn, (uint32_t)n);
            if (n % 2 == 0) {
                await_value(&sleeper.state, NS_ASLEEP);
            }
            message = n;
            CHECK(ns_waiter_cancel(&sleeper));
        }
    }
}

/* A waiter that spins notices, too. */
static void
cancel_a_spinner(int i)
{
    if (i == 0) {
        int64_t begin = ns_now();
        ns_store(&turn, 1, NS_RELEASE);
        CHECK(ns_await_grant(&sleeper, begin + LOST_WAKE_UP, LOST_WAKE_UP) == NS_WAS_CANCELLED);
        CHECK(ns_now() < begin + LOST_WAKE_UP);
    }
    else {
        await_value(&turn, 1);
        sleep_ms(1);
        CHECK(ns_waiter_cancel(&sleeper));
    }
}

static _Atomic uint32_t finished;

/* One thread waits, one serves, one cancels, at the same time. Either the waiter has the unit, or
 * the semaphore. */
static void
cancel_against_grant(int i)
{
    for (int n = 1; n <= ROUNDS; n++) {
        if (i == 0) {
            make_semaphore(0);
            sleeper = (ns_waiter){.place.amount = 1};
            CHECK(!takers->enter(&semaphore, &sleeper));
            ns_store(&finished, 0, NS_RELAXED);
            ns_store(&turn, (uint32_t)n, NS_RELEASE);
            enum ns_wait_result result = takers->wait(&semaphore, &sleeper, NS_FOREVER);
            CHECK(result == NS_SERVED || result == NS_WAS_CANCELLED);
            bool served = result == NS_SERVED || takers->cancel(&semaphore, &sleeper);
            await_value(&finished, 2); /* the canceller must find the waiter alive */
            CHECK(ns_semaphore_available(&semaphore) == (served ? 0 : 1));
        }
        else {
            await_value(&turn, (uint32_t)n);
            if (i == 1) {
                CHECK(ns_semaphore_release(&semaphore, 1));
            }
            else {
                ns_waiter_cancel(&sleeper);
            }
            ns_add(&finished, 1, NS_RELEASE);
        }
    }
}

/* ---- Waiters that are called ---- */

#define CALLS 64
static ns_waiter *calls[CALLS];
static int call_count;

static void
note_calls(ns_waiter *served)
{
    for (ns_waiter *w = served; w != NULL; w = w->next_called) {
        CHECK(ns_is_granted(w) && call_count < CALLS);
        calls[call_count++] = w;
    }
}

/* Whether w has been called, and no other since the last question. */
static bool
was_called(const ns_waiter *w)
{
    bool was = call_count == 1 && calls[0] == w;
    call_count = 0;
    return was;
}

static ns_waiter *
new_called(uint64_t amount)
{
    ns_waiter *w = new_waiter(amount);
    ns_store(&w->state, NS_CALLED, NS_RELAXED);
    return w;
}

/* The tables of steps, an amount to wait for, and what brings it. */
static bool
serve_semaphore(void)
{
    return ns_semaphore_release(&semaphore, 1);
}

static bool
serve_event(void)
{
    ns_event_set(&event);
    return true;
}

static bool
serve_group(void)
{
    return ns_waitgroup_add(&group, -1) == NS_ADDED;
}

static bool
serve_cond(void)
{
    ns_cond_notify(&cond, 1);
    return true;
}

static bool
serve_rwmutex(void)
{
    return ns_rwmutex_write_unlock(&rwmutex);
}

static bool
serve_mutex(void)
{
    return ns_mutex_unlock(&mutex);
}

static const struct called_case {
    const struct ns_wait_steps *steps;
    void *object;
    uint64_t amount;
    bool (*serve)(void);
} cases[] = {
    {&ns_semaphore_steps, &semaphore, 1, serve_semaphore},
    {&ns_word_place_steps, &event, 1, serve_event},
    {&ns_word_place_steps, &group, 0, serve_group},
    {&ns_cond_steps, &cond, 0, serve_cond},
    {&ns_rwmutex_read_steps, &rwmutex, 0, serve_rwmutex},
    {&ns_rwmutex_write_steps, &rwmutex, 0, serve_rwmutex},
    {&ns_mutex_steps, &mutex, 0, serve_mutex},
};

/* None of the objects can serve. */
static void
make_busy(void)
{
    make_semaphore(0);
    ns_event_clear(&event);
    CHECK(ns_waitgroup_count(&group) != 0 || ns_waitgroup_add(&group, 1) == NS_ADDED);
    rwmutex = (ns_rwmutex){0};
    ns_rwmutex_init(&rwmutex);
    CHECK(ns_rwmutex_try_write(&rwmutex));
    mutex = (ns_mutex){0};
    CHECK(ns_mutex_try_lock(&mutex));
}

static bool
enter(const struct called_case *c, ns_waiter *w)
{
    if (c->object == &cond) {
        ns_cond_link(&cond, w);
    }
    return c->steps->enter(c->object, w);
}

static void
check_called_waiter_is_called_once_when_served(void)
{
    for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        const struct called_case *c = &cases[n];
        make_busy();
        ns_waiter *w = new_called(c->amount), *gone = new_called(c->amount);
        CHECK(!enter(c, gone) && !enter(c, w) && state_of(w) == NS_CALLED);
        CHECK(!c->steps->cancel(c->object, gone)); /* cancelled: it is not called */
        ns_waiter_free(gone);
        CHECK(c->serve() && was_called(w) && c->steps->cancel(c->object, w));
        ns_waiter_free(w);

        if (c->object == &cond) {
            continue;
        }
        w = new_called(c->amount); /* what it was served goes back, and serves the next */
        ns_waiter *next = new_called(c->amount);
        make_busy();
        CHECK(!enter(c, w) && !enter(c, next) && c->serve());
        if (c->object == &event || c->object == &group || c->steps == &ns_rwmutex_read_steps) {
            CHECK(call_count == 2 && calls[0] == w && calls[1] == next);
            call_count = 0;
        }
        else {
            CHECK(was_called(w) && c->steps->cancel(c->object, w));
            c->steps->undo(c->object, w);
            CHECK(was_called(next));
        }
        ns_waiter_free(w);
        ns_waiter_free(next);

        w = new_called(c->amount); /* served at once: it is not called */
        make_busy();
        CHECK(c->serve() && enter(c, w) && call_count == 0);
        /* (A reader may get in before it lines up.) */
        CHECK(ns_is_granted(w) || c->steps == &ns_rwmutex_read_steps);
        ns_waiter_free(w);
    }
}

/* Hooks run with no lock held: this one takes the lock of each object. */
static void
use_the_objects(ns_waiter *served)
{
    CHECK(served->next_called == NULL);
    call_count++;
    CHECK(ns_semaphore_release_slow(&semaphore, 0));
    ns_word_wake_slow(&event.word);
    ns_word_wake_slow(&group.word);
    CHECK(ns_cond_waiting(&cond) == 0);
    ns_rwmutex_is_read_locked(&rwmutex);
    CHECK(ns_mutex_unlock_slow(&mutex) == (served->steps == &ns_mutex_steps));
}

static void
check_no_lock_is_held_as_waiters_are_called(void)
{
    ns_call_waiters = use_the_objects;
    for (size_t n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
        const struct called_case *c = &cases[n];
        make_busy();
        ns_waiter *w = new_called(c->amount);
        w->steps = c->steps;
        call_count = 0;
        CHECK(c->steps == &ns_mutex_steps || ns_mutex_unlock(&mutex));
        CHECK(!enter(c, w) && c->serve() && call_count == 1);
        ns_waiter_free(w);
    }
    call_count = 0;
    ns_call_waiters = note_calls;
}

/* More are served at once than wake-ups fit into ns_wakes: all are called, in their order, after
 * the lock is free. Threads are in line among them. */
static void
note_calls_and_lock(ns_waiter *served)
{
    CHECK(ns_semaphore_release_slow(&semaphore, 0));
    note_calls(served);
}

static void
check_all_are_called_in_order(void)
{
    enum { MANY = 2 * NS_WAKES + 3 };
    ns_waiter *w[MANY];
    make_semaphore(0);
    for (int n = 0; n < MANY; n++) {
        w[n] = new_called(1);
        if (n % 3 != 0) { /* a thread that sleeps, as far as the server can see */
            ns_store(&w[n]->state, NS_WAITING, NS_RELAXED);
        }
        CHECK(!takers->enter(&semaphore, w[n]));
        if (n % 3 != 0) {
            ns_store(&w[n]->state, NS_ASLEEP, NS_RELAXED);
        }
    }
    ns_call_waiters = note_calls_and_lock;
    CHECK(ns_semaphore_release(&semaphore, MANY));
    ns_call_waiters = note_calls;
    for (int n = 0, m = 0; n < MANY; n++) {
        CHECK(ns_is_granted(w[n]) && (n % 3 != 0 || calls[m++] == w[n]));
        ns_waiter_free(w[n]);
    }
    call_count = 0;
}

/* A waiter that enters and is served at once is not called, though it serves others that are. */
static void
check_entering_waiter_calls_others(void)
{
    make_semaphore(1);
    ns_waiter *large = new_called(3), *small = new_called(1);
    CHECK(!takers->enter(&semaphore, large) && !takers->enter(&semaphore, small));
    CHECK(!takers->cancel(&semaphore, large) && was_called(small));
    ns_waiter_free(large);
    ns_waiter_free(small);

    rwmutex = (ns_rwmutex){0};
    ns_rwmutex_init(&rwmutex);
    CHECK(ns_rwmutex_try_read(&rwmutex));
    ns_waiter *writer = new_called(0), *reader = new_called(0);
    CHECK(!ns_rwmutex_write_steps.enter(&rwmutex, writer));
    CHECK(!ns_rwmutex_read_steps.enter(&rwmutex, reader));
    CHECK(ns_rwmutex_read_unlock(&rwmutex) && was_called(writer));
    CHECK(ns_rwmutex_write_unlock(&rwmutex) && was_called(reader));
    ns_waiter_free(writer);
    ns_waiter_free(reader);
}

/* A waiter that is asked to give way: it is a thread's, which takes back what it was served. */
static void
check_request_is_lost_when_a_served_waiter_gives_way(void)
{
    make_semaphore(0);
    ns_waiter w = {.place.amount = 1};
    CHECK(!takers->enter(&semaphore, &w) && ns_semaphore_release(&semaphore, 1));
    CHECK(!ns_waiter_cancel(&w));
    takers->give_way(&semaphore, &w);
    CHECK(!ns_is_granted(&w) && ns_semaphore_try(&semaphore, 1));
    takers->rejoin(&semaphore, &w);
    CHECK(ns_waiter_cancel(&w) && !takers->cancel(&semaphore, &w));
}

/* ---- Memory that is lent ---- */

static ns_waiter *lent;

static void
return_lent(int i)
{
    if (i == 0) {
        CHECK(lent->place.amount == 7);
        ns_waiter_free(lent);
    }
    else {
        lent->since = 1; /* the object's thread writes it, and the last of the two frees it */
        ns_waiter_return(lent);
    }
}

static void
check_lent_memory_is_freed_once(void)
{
    for (int n = 0; n < ROUNDS / 10; n++) {
        lent = new_waiter(7);
        ns_waiter_lend(lent);
        run_threads(2, return_lent);
    }
    lent = new_waiter(7);
    ns_waiter_lend(lent);
    ns_waiter_free(lent);
    CHECK(lent->place.amount == 7); /* it is still there */
    ns_waiter_return(lent);
    lent = new_waiter(7);
    ns_waiter_lend(lent);
    ns_waiter_return(lent);
    CHECK(lent->place.amount == 7);
    ns_waiter_free(lent);
    ns_waiter_free(NULL);
}

/* ---- Places on words ---- */

#define EVENTS 200 /* more than there are queues: some share one */
static ns_event many[EVENTS];
static const struct ns_wait_steps *const places = &ns_word_place_steps;

static bool
has_sleepers(ns_event *e)
{
    return ns_load(&e->word, NS_RELAXED) & NS_WORD_SLEEPERS;
}

static void
check_places_of_one_word_are_served(void)
{
    ns_waiter w[EVENTS] = {{0}};
    for (int n = 0; n < EVENTS; n++) {
        w[n].place.amount = 1;
        CHECK(!places->enter(&many[n], &w[n]) && has_sleepers(&many[n]));
    }
    for (int n = EVENTS - 1; n >= 0; n--) { /* others in the same queue are not served */
        ns_event_set(&many[n]);
        CHECK(ns_is_granted(&w[n]) && !has_sleepers(&many[n]));
        CHECK(n == 0 || !ns_is_granted(&w[n - 1]));
        CHECK(places->wait(&many[n], &w[n], NS_FOREVER) == NS_SERVED);
        ns_event_clear(&many[n]);
    }

    ns_waiter a = {.place.amount = 1}, b = a, c = a, d = a;
    CHECK(!places->enter(&event, &a));
    CHECK(places->wait(&event, &a, ns_now() + MILLISECOND) == NS_TIMED_OUT);
    CHECK(!places->leave(&event, &a));
    ns_event_set(&event); /* set and cleared at once: served all the same */
    ns_event_clear(&event);
    CHECK(ns_is_granted(&a) && places->cancel(&event, &a));
    CHECK(!places->enter(&event, &b)); /* an earlier set does not count */
    CHECK(ns_waiter_cancel(&b) && places->wait(&event, &b, NS_FOREVER) == NS_WAS_CANCELLED);
    CHECK(!places->cancel(&event, &b) && !ns_waitq_has(&b.place));
    ns_event_set(&event);
    CHECK(!ns_is_granted(&b) && !has_sleepers(&event));
    CHECK(places->enter(&event, &c) && !has_sleepers(&event)); /* no wake-up is needed */
    ns_event_clear(&event);

    /* In the child of a fork the queue is empty; a waiter that comes back is linked again, and
     * served by a set that came first. */
    CHECK(!places->enter(&event, &d));
    a = (ns_waiter){.place.amount = 1};
    CHECK(!places->enter(&event, &a));
    pretend_to_fork();
    places->rejoin(&event, &d);
    CHECK(!ns_is_granted(&d));
    ns_event_set(&event);
    CHECK(ns_is_granted(&d) && !ns_is_granted(&a));
    ns_event_clear(&event);
    places->rejoin(&event, &a);
    CHECK(ns_is_granted(&a));

    CHECK(ns_waitgroup_add(&group, 2 - (int64_t)ns_waitgroup_count(&group)) == NS_ADDED);
    a = (ns_waiter){0};
    CHECK(!places->enter(&group, &a) && ns_waitgroup_add(&group, -1) == NS_ADDED);
    CHECK(!ns_is_granted(&a) && ns_waitgroup_add(&group, -1) == NS_ADDED && ns_is_granted(&a));
    b = (ns_waiter){0};
    CHECK(places->enter(&group, &b));
}

static pthread_barrier_t round_end;

/* Thread 0 publishes a message and sets the event. The others wait for it, with a place or
 * without. */
static void
publish(int i)
{
    for (int n = 1; n <= ROUNDS; n++) {
        if (i == 0) {
            message = n;
            ns_event_set(&event);
        }
        else {
            ns_waiter *w = new_waiter(1);
            const struct ns_wait_steps *steps = i == 1 ? &ns_event_steps : places;
            CHECK(drive(steps, &event, w, ns_now() + LOST_WAKE_UP, i == 2 ? 10000 : 0));
            CHECK(message == n);
            free(w); /* of a plain wait the state is an epoch */
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            ns_event_clear(&event);
        }
        pthread_barrier_wait(&round_end);
    }
}

static _Atomic uint32_t ready;

/* A set directly followed by a clear: every waiter in line is served. */
static void
pulse(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i == 0) {
            await_value(&ready, THREADS - 1);
            ns_store(&ready, 0, NS_RELAXED);
            ns_event_set(&event);
            ns_event_clear(&event);
        }
        else {
            ns_waiter *w = new_waiter(1);
            CHECK(!places->enter(&event, w));
            ns_add(&ready, 1, NS_RELEASE);
            CHECK(places->wait(&event, w, ns_now() + LOST_WAKE_UP) == NS_SERVED);
            ns_waiter_free(w);
        }
        pthread_barrier_wait(&round_end);
    }
}

/* Sets and clears go on all the time: every waiter is served by one of them, soon. */
static _Atomic int waiters_left;

static void
pulse_on(int i)
{
    if (i == 0) {
        while (ns_load(&waiters_left, NS_RELAXED) != 0) {
            ns_event_set(&event);
            ns_event_clear(&event);
            sched_yield();
        }
        return;
    }
    for (int n = 0; n < ROUNDS; n++) {
        ns_waiter *w = new_waiter(1);
        CHECK(drive(places, &event, w, ns_now() + LOST_WAKE_UP, 0));
        ns_waiter_free(w);
    }
    ns_sub(&waiters_left, 1, NS_RELAXED);
}

/* Threads count a group down while others line up: nobody sleeps on. */
static void
count_down(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i == 0) {
            CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
        }
        pthread_barrier_wait(&round_end);
        if (i == 0) {
            CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
        }
        else {
            ns_waiter *w = new_waiter(0);
            CHECK(drive(places, &group, w, ns_now() + LOST_WAKE_UP, 0));
            ns_waiter_free(w);
        }
        pthread_barrier_wait(&round_end);
    }
}

int
main(void)
{
    init_core();
    ns_call_waiters = note_calls;
    pthread_barrier_init(&round_end, NULL, THREADS);
    check_cancelled_waiter_stays_in_line_until_its_thread_leaves();
    check_only_some_waits_are_cancellable();
    check_request_is_lost_when_a_served_waiter_gives_way();
    make_semaphore(0);
    run_threads(2, cancel_a_sleeper);
    ns_store(&turn, 0, NS_RELAXED);
    sleeper = (ns_waiter){0};
    run_threads(2, cancel_a_spinner);
    ns_store(&turn, 0, NS_RELAXED);
    run_threads(3, cancel_against_grant);
    check_called_waiter_is_called_once_when_served();
    check_no_lock_is_held_as_waiters_are_called();
    check_all_are_called_in_order();
    check_entering_waiter_calls_others();
    check_lent_memory_is_freed_once();
    event = (ns_event){0};
    group = (ns_waitgroup){0};
    check_places_of_one_word_are_served();
    run_threads(THREADS, publish);
    run_threads(THREADS, pulse);
    run_threads(THREADS, count_down);
    ns_store(&waiters_left, 1, NS_RELAXED);
    run_threads(2, pulse_on);
    check_no_thread_spins();
    printf("waits: ok\n");
    return 0;
}
