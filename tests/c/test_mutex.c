/* Tests core/mutex.h: mutual exclusion, hand-off, cancellation and fork.
 *
 * The guarded integer is plain on purpose. A missing acquire or release is a race that the thread
 * sanitizer reports, and that the mutant builds must show.
 */
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
lock_and_unlock(int i)
{
    (void)i;
    for (int n = 0; n < ROUNDS; n++) {
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        guarded++;
        CHECK(ns_mutex_unlock(&mutex));
    }
}

/* Time-outs, signals (as slices) and plain waits at once: no waiter is lost, and nothing leaks. */
static void
lock_with_interruptions(int i)
{
    for (int n = 0; n < ROUNDS / 4; n++) {
        int64_t slice = i % 3 == 0 ? 20000 : 0;
        int64_t deadline = i % 3 == 1 ? ns_now() + 1000 * (n % 100) : NS_FOREVER;
        if (lock_mutex(&mutex, deadline, slice)) {
            guarded++;
            ns_add(&expected, 1, NS_RELAXED);
            if (n % 64 == 0) {
                sleep_ms(1); /* long enough for heirs to fall asleep and waiters to starve */
            }
            CHECK(ns_mutex_unlock(&mutex));
        }
    }
}

/* The same with waiters that are called beside threads. Some of them give up, and some threads
 * release what another holds. */
static void
lock_by_tasks(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        int64_t patience = n % 3 == 1 ? 1000 * (n % 50) : 20000 * MILLISECOND;
        bool locked;
        if (i % 2 == 0) {
            locked = lock_mutex(&mutex, ns_now() + patience, i == 0 ? 20000 : 0);
        }
        else {
            ns_waiter *w = ns_waiter_new();
            CHECK(w != NULL);
            locked = drive_called(&ns_mutex_steps, &mutex, w, ns_now() + patience);
            ns_waiter_free(w);
        }
        CHECK(locked || n % 3 == 1);
        if (locked) {
            guarded++;
            ns_add(&expected, 1, NS_RELAXED);
            CHECK(ns_mutex_unlock(&mutex));
        }
    }
}

/* A gate: some threads take the lock, others release it. No thread may sleep for ever while the
 * lock is free. */
static void
release_from_other_threads(int i)
{
    for (int n = 0; n < 4 * ROUNDS; n++) {
        if (i < THREADS / 2 && (i != 1 || n % 2)) {
            CHECK(lock_mutex(&mutex, NS_FOREVER, i == 0 ? 20000 : 0));
        }
        else if (i == 1) {
            ns_waiter *w = ns_waiter_new();
            CHECK(w != NULL && drive_called(&ns_mutex_steps, &mutex, w, NS_FOREVER));
            ns_waiter_free(w);
        }
        else {
            while (!ns_mutex_unlock(&mutex)) {
                sched_yield();
            }
        }
    }
}

/* The first in line sleeps while new waiters come one after the other. None of them may overtake it
 * for long. */
static void
check_new_waiters_do_not_overtake_for_long(void)
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

enum { PARKED, HEIR, GRANTED }; /* the states of a node, as in mutex.c */
enum { SLOW = 4, MAX_SLOWNESS = 16 }; /* of `slowness`, as in mutex.c */

static uint32_t
state_of(ns_waiter *w)
{
    return ns_load(&w->state, NS_RELAXED);
}

/* The order in which waiters are served, step by step, in a single thread. */
static void
check_order_of_service(void)
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
    steps->rejoin(&mutex, &first); /* in its place, but there is another heir by now */
    CHECK(state_of(&first) == PARKED && mutex.heir == &second);
    CHECK(!steps->cancel(&mutex, &second) && state_of(&first) == HEIR);

    /* An heir that waited too long demands the lock, and gets it from the next release. */
    first.since -= 1000 * MILLISECOND;
    while (!first.impatient && state_of(&first) == HEIR) {
        CHECK(steps->wait(&mutex, &first, ns_now() + 20000) == NS_TIMED_OUT);
    }
    CHECK(ns_mutex_unlock(&mutex) && ns_mutex_is_locked(&mutex));
    CHECK(state_of(&first) == GRANTED && steps->leave(&mutex, &first) &&
          steps->cancel(&mutex, &first));
    steps->undo(&mutex, &first);
    CHECK(!ns_mutex_is_locked(&mutex));

    /* So does a sleeper that waited too long, even if others are in line behind it. */
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

/* If holders are slow, no waiter stays awake, and none is forgotten. */
static void
check_slow_lock_lets_waiters_sleep(void)
{
    ns_waiter first = {0}, second = {0};
    ns_store(&mutex.slowness, MAX_SLOWNESS, NS_RELAXED);
    CHECK(!steps->enter(&mutex, &first)); /* the lock is free, so this waiter has to poll */
    CHECK(state_of(&first) == HEIR && steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED);
    first = (ns_waiter){0};
    CHECK(!steps->enter(&mutex, &first) && !steps->enter(&mutex, &second));
    CHECK(state_of(&first) == PARKED && state_of(&second) == PARKED && mutex.heir == NULL);
    sleep_ms(1);
    CHECK(ns_mutex_unlock(&mutex));
    CHECK(state_of(&first) == GRANTED || state_of(&first) == HEIR); /* it may be starving */
    CHECK(steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED);
    CHECK(state_of(&second) == PARKED && mutex.heir == NULL);

    /* the next waiter is handed the lock asleep, and wakes none */
    second.since -= 1000 * MILLISECOND;
    first = (ns_waiter){0};
    CHECK(!steps->enter(&mutex, &first));
    sleep_ms(1);
    CHECK(ns_mutex_unlock(&mutex) && state_of(&second) == GRANTED);
    CHECK(ns_mutex_is_locked(&mutex) && state_of(&first) == PARKED && mutex.heir == NULL);
    CHECK(ns_mutex_unlock(&mutex) && state_of(&first) != PARKED);
    CHECK(steps->wait(&mutex, &first, NS_FOREVER) == NS_SERVED && ns_mutex_unlock(&mutex));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);
}

/* ---- The holder ---- */

static void *
release_for_another(void *m)
{
    CHECK(ns_mutex_holder(m) != ns_thread_tag() && ns_mutex_unlock(m));
    return NULL;
}

static void
release_in_another_thread(ns_mutex *m)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, release_for_another, m) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* The word names the thread that took the lock or was handed it, and a release by another is
 * noted, on the fast path and on the slow one. */
static void
check_holder_is_recorded(void)
{
    for (int slow = 0; slow < 2; slow++) {
        ns_mutex m = {0};
        ns_waiter w = {0};
        CHECK(ns_mutex_holder(&m) == 0 && ns_mutex_try_lock(&m));
        CHECK(ns_mutex_holder(&m) == ns_thread_tag());
        CHECK(ns_thread_of_tag(ns_thread_tag()) == (uint64_t)(uintptr_t)pthread_self());
        CHECK(!steps->enter(&m, &w) && ns_mutex_waiters(&m) == 1);
        w.impatient = true;
        ns_or(&m.word, NS_MUTEX_VISIT, NS_RELAXED);
        w.tag = 4 * NS_TAG_UNIT; /* that of another thread */
        CHECK(ns_mutex_unlock(&m) && state_of(&w) == GRANTED);
        CHECK(ns_mutex_holder(&m) == w.tag && !ns_mutex_is_foreign(&m));
        ns_mutex_reset(&m);
        CHECK(ns_mutex_holder(&m) == 0 && !ns_mutex_unlock(&m) && !ns_mutex_is_foreign(&m));

        CHECK(ns_mutex_try_lock(&m));
        if (slow) {
            ns_or(&m.word, NS_MUTEX_VISIT, NS_RELAXED);
        }
        release_in_another_thread(&m);
        CHECK(ns_mutex_is_foreign(&m) && ns_mutex_holder(&m) == 0 && !ns_mutex_is_locked(&m));
    }
}

/* ---- Waiters that are called ---- */

static _Atomic bool was_called[3];

static ns_waiter
called_waiter(int n)
{
    ns_store(&was_called[n], false, NS_RELAXED);
    return (ns_waiter){.state = NS_CALLED, .owner = &was_called[n]};
}

static bool
is_called_now(int n)
{
    return ns_load(&was_called[n], NS_RELAXED);
}

static void
check_word(uint64_t flags)
{
    CHECK((ns_load(&mutex.word, NS_RELAXED) & NS_MUTEX_FLAGS) == flags);
}

/* A waiter that is called never holds up others, and is never forgotten, whichever waiters are in
 * line before it, and whatever becomes of them. */
static void
check_called_waiters_are_handed_the_lock(void)
{
    enum { LOCKED = NS_MUTEX_LOCKED, ALL = LOCKED | NS_MUTEX_QUEUED | NS_MUTEX_VISIT };
    for (uint32_t slowness = 0; slowness <= MAX_SLOWNESS; slowness += MAX_SLOWNESS) {
        ns_store(&mutex.slowness, slowness, NS_RELAXED);
        ns_waiter a = called_waiter(0), b = called_waiter(1), c = called_waiter(2);
        CHECK(steps->enter(&mutex, &a) && ns_mutex_is_locked(&mutex)); /* the lock is free */
        CHECK(!is_called_now(0) && state_of(&a) == GRANTED);
        check_word(LOCKED);
        CHECK(!steps->enter(&mutex, &b) && !steps->enter(&mutex, &c) && mutex.heir == NULL);
        check_word(ALL);
        CHECK(ns_mutex_unlock(&mutex) && is_called_now(1) && !is_called_now(2));
        check_word(ALL); /* so that the next is not forgotten */
        CHECK(ns_mutex_unlock(&mutex) && is_called_now(2) && ns_mutex_is_locked(&mutex));
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(!ns_mutex_is_locked(&mutex));

        /* The first in line gives up: the next gets it, thread or not. */
        for (int thread = 0; thread < 2; thread++) {
            ns_waiter t = {0};
            a = called_waiter(0);
            b = called_waiter(1);
            CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &a));
            CHECK(!steps->enter(&mutex, thread ? &t : &b) && mutex.heir == NULL);
            CHECK(!steps->cancel(&mutex, &a) && ns_mutex_unlock(&mutex) && !is_called_now(0));
            CHECK(thread ? steps->wait(&mutex, &t, NS_FOREVER) == NS_SERVED : is_called_now(1));
            CHECK(ns_mutex_unlock(&mutex) && mutex.queue.head == NULL);
        }
    }
    ns_store(&mutex.slowness, 0, NS_RELAXED);
    CHECK(ns_mutex_try_lock(&mutex) && ns_mutex_unlock(&mutex));

    for (int end = 0; end < 5; end++) { /* behind an heir */
        ns_waiter heir = {0}, a = called_waiter(0), b = called_waiter(1);
        CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &heir));
        CHECK(!steps->enter(&mutex, &a) && !steps->enter(&mutex, &b) && mutex.heir == &heir);
        switch (end) {
        case 0: /* the heir takes the lock, and the next release calls */
            CHECK(ns_mutex_unlock(&mutex) && !is_called_now(0));
            CHECK(steps->wait(&mutex, &heir, NS_FOREVER) == NS_SERVED && !is_called_now(0));
            check_word(ALL);
            CHECK(ns_mutex_unlock(&mutex) && is_called_now(0) && !is_called_now(1));
            break;
        case 1: /* the heir demands the lock, and is handed it */
            heir.impatient = true;
            ns_or(&mutex.word, NS_MUTEX_VISIT, NS_RELAXED);
            CHECK(ns_mutex_unlock(&mutex) && state_of(&heir) == GRANTED && !is_called_now(0));
            check_word(ALL);
            CHECK(mutex.heir == NULL && ns_mutex_unlock(&mutex) && is_called_now(0));
            break;
        case 2: /* the heir gives up while the lock is held */
            CHECK(!steps->cancel(&mutex, &heir) && !is_called_now(0));
            check_word(ALL);
            CHECK(mutex.heir == NULL && ns_mutex_unlock(&mutex) && is_called_now(0));
            break;
        case 3: /* or while it is free */
            CHECK(ns_mutex_unlock(&mutex) && !is_called_now(0));
            CHECK(!steps->cancel(&mutex, &heir) && is_called_now(0) && !is_called_now(1));
            check_word(ALL);
            break;
        default: /* or is away; as it comes back it is the first in line again */
            CHECK(ns_mutex_unlock(&mutex) && !steps->leave(&mutex, &heir) && is_called_now(0));
            steps->rejoin(&mutex, &heir);
            CHECK(mutex.heir == &heir && ns_mutex_unlock(&mutex) && !is_called_now(1));
            CHECK(steps->wait(&mutex, &heir, NS_FOREVER) == NS_SERVED);
            break;
        }
        CHECK(ns_mutex_is_locked(&mutex) && ns_mutex_unlock(&mutex) && is_called_now(1));
        CHECK(steps->cancel(&mutex, &b)); /* it was served: its owner gives the lock back */
        steps->undo(&mutex, &b);
        CHECK(!ns_mutex_is_locked(&mutex) && mutex.queue.head == NULL && mutex.heir == NULL);
    }

    /* A thread that enters behind it sleeps, and is the heir afterwards. */
    ns_waiter t = {0}, a = called_waiter(0);
    CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &a) && !steps->enter(&mutex, &t));
    CHECK(mutex.heir == NULL && ns_mutex_unlock(&mutex) && is_called_now(0));
    CHECK(mutex.heir == &t && ns_mutex_unlock(&mutex));
    CHECK(steps->wait(&mutex, &t, NS_FOREVER) == NS_SERVED && ns_mutex_unlock(&mutex));
    check_word(0);

    /* In the child of a fork they are gone. */
    a = called_waiter(0);
    CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &a));
    pretend_to_fork();
    CHECK(ns_mutex_unlock(&mutex) && !is_called_now(0) && !steps->cancel(&mutex, &a));
    check_word(0);
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

/* The lock notices that its holders became brief, and that they became slow. */
static void
check_slowness_follows_the_holders(void)
{
    ns_store(&mutex.slowness, MAX_SLOWNESS, NS_RELAXED);
    for (int n = 0; ns_load(&mutex.slowness, NS_RELAXED) >= SLOW; n++) {
        CHECK(n < 1000000); /* on a busy machine a holder may be slow by accident */
        hold_beside_a_waiter(0);
    }
    hold_beside_a_waiter(0); /* an awake wait again */
    for (int n = 0; n < 100; n++) { /* slowness does not go below zero */
        ns_waiter w = {0};
        ns_store(&mutex.slowness, SLOW, NS_RELAXED);
        CHECK(ns_mutex_try_lock(&mutex) && !steps->enter(&mutex, &w));
        ns_store(&mutex.slowness, 0, NS_RELAXED);
        CHECK(ns_mutex_unlock(&mutex) && ns_load(&mutex.slowness, NS_RELAXED) <= MAX_SLOWNESS);
        CHECK(steps->wait(&mutex, &w, NS_FOREVER) == NS_SERVED && ns_mutex_unlock(&mutex));
    }
    ns_store(&mutex.slowness, SLOW, NS_RELAXED);
    for (int n = 0; n < 20; n++) {
        hold_beside_a_waiter(1);
    }
    CHECK(ns_load(&mutex.slowness, NS_RELAXED) == MAX_SLOWNESS);
    ns_store(&mutex.slowness, 0, NS_RELAXED); /* waits awake count too */
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

/* The heir gives up. The next in line sleeps, and must be woken to become the heir. */
static void
give_up_as_heir(int i)
{
    if (i == 0) {
        sleep_ms(30); /* for the other thread to fall asleep; if it does not, less is tested */
        CHECK(!steps->cancel(&mutex, &first_in_line));
        return;
    }
    CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
    CHECK(ns_mutex_unlock(&mutex));
}

static void
check_heir_that_gives_up_wakes_the_next(void)
{
    CHECK(ns_mutex_try_lock(&mutex));
    CHECK(!steps->enter(&mutex, &first_in_line));
    CHECK(ns_mutex_unlock(&mutex)); /* by the fast path, since the heir counts as awake */
    run_threads(2, give_up_as_heir);
}

/* What came before a release by the slow path is seen after an acquire by the fast path. */
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
lock_all_the_time(int i)
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
check_fork_keeps_lock_and_drops_waiters(void)
{
    /* The child finds a queue of threads that are gone. The lock stays held, a wait for it times
     * out, it can be released, and works afterwards. */
    ns_waiter *w = ns_waiter_new();
    CHECK(ns_mutex_try_lock(&mutex));
    ns_mutex_steps.enter(&mutex, w);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        ns_store(&mutex.slowness, 0, NS_RELAXED);
        ns_waiter fresh = {0}; /* the heir, although the parent had one */
        CHECK(!steps->enter(&mutex, &fresh) && mutex.heir == &fresh);
        CHECK(!steps->cancel(&mutex, &fresh));
        CHECK(!lock_mutex(&mutex, ns_now() + 5 * MILLISECOND, 0));
        CHECK(ns_mutex_unlock(&mutex));
        CHECK(!ns_mutex_unlock(&mutex));
        CHECK(lock_mutex(&mutex, NS_FOREVER, 0));
        /* This waiter left before the fork and comes back after it: it must queue again. */
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
    ns_call_waiters = tell_owners;
    CHECK(!ns_mutex_unlock(&mutex));

    run_threads(THREADS, lock_and_unlock);
    CHECK(guarded == (long)THREADS * ROUNDS);
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);

    guarded = 0;
    run_threads(THREADS, lock_with_interruptions);
    CHECK(guarded == ns_load(&expected, NS_RELAXED));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);

    guarded = 0;
    ns_store(&expected, 0, NS_RELAXED);
    run_threads(THREADS, lock_by_tasks);
    CHECK(guarded == ns_load(&expected, NS_RELAXED));
    CHECK(ns_load(&mutex.word, NS_RELAXED) == 0 && mutex.queue.head == NULL);

    run_threads(THREADS, release_from_other_threads);
    CHECK(!ns_mutex_is_locked(&mutex) && mutex.queue.head == NULL);
    check_new_waiters_do_not_overtake_for_long();
    check_order_of_service();
    check_slow_lock_lets_waiters_sleep();
    check_holder_is_recorded();
    check_called_waiters_are_handed_the_lock();
    check_slowness_follows_the_holders();
    check_heir_that_gives_up_wakes_the_next();
    CHECK(ns_mutex_try_lock(&mutex));
    run_threads(2, slow_then_fast);

    ns_store(&expected, ns_now() + 300 * MILLISECOND, NS_RELAXED);
    run_threads(THREADS, lock_all_the_time);
    for (int i = 0; i < THREADS; i++) {
        CHECK(turns[i] > 0);
    }

    check_fork_keeps_lock_and_drops_waiters();
    puts("mutex: ok");
    return 0;
}
