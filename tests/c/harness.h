/* harness.h: threads that start together, and checks that stay on in release builds. */
#ifndef HARNESS_H
#define HARNESS_H

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "channel.h"
#include "cond.h"
#include "counter.h"
#include "memory/epoch.h"
#include "event.h"
#include "mutex.h"
#include "waiting/park.h"
#include "rwmutex.h"
#include "semaphore.h"
#include "memory/slots.h"
#include "waitgroup.h"

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#ifdef NS_SHAKE
/* Called before every atomic step of the core: mostly does nothing, often yields, seldom sleeps. */
void
ns_shake(void)
{
    static _Thread_local uint32_t seed;
    if (seed == 0) {
        seed = (uint32_t)(uintptr_t)&seed | 1;
    }
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    if (seed % 512 == 0) {
        nanosleep(&(struct timespec){0, 20000}, NULL);
    }
    else if (seed % 8 == 0) {
        sched_yield();
    }
}
#endif

#define MILLISECOND INT64_C(1000000)

static inline void
init_core(void)
{
    CHECK(ns_park_init() && ns_slots_init() && ns_epoch_init());
}

/* After this, locks and queues carry an old stamp, as in the child of a fork. */
static inline void
pretend_to_fork(void)
{
    ns_add(&ns_fork_count, 1, NS_RELAXED);
}

/* Runs body(0) to body(n - 1) on n threads that start together. */
struct start_line {
    pthread_barrier_t barrier;
    void (*body)(int);
};

struct runner {
    struct start_line *line;
    int index;
};

static void *
run_one(void *argument)
{
    struct runner *r = argument;
    pthread_barrier_wait(&r->line->barrier);
    r->line->body(r->index);
    return NULL;
}

static inline void
run_threads(int n, void (*body)(int))
{
    struct start_line line = {.body = body};
    pthread_t threads[64];
    struct runner runners[64];
    CHECK(n <= 64);
    pthread_barrier_init(&line.barrier, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        runners[i] = (struct runner){&line, i};
        CHECK(pthread_create(&threads[i], NULL, run_one, &runners[i]) == 0);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&line.barrier);
}

static inline void
spin_until_the_fork(int i)
{
    (void)i;
    ns_spin_begin();
}

/* No thread is counted as spinning any more, and at most half of the processors may spin. */
static inline void
check_no_thread_spins(void)
{
    CHECK(ns_spinners() == 0);
    if (ns_cpu_count() > 1) {
        CHECK(ns_spin_begin() && !ns_spin_begin() && ns_spinners() == 1);
        ns_spin_end();
        CHECK(ns_spinners() == 0);
        for (unsigned i = 0; i < ns_cpu_count(); i++) {
            run_threads(1, spin_until_the_fork);
        }
        CHECK(ns_spinners() > 0 && ns_spinners() <= ns_cpu_count() / 2 && !ns_spin_begin());
        pretend_to_fork(); /* the child of a fork does not count the parent's spinning threads */
        CHECK(ns_spinners() == 0 && ns_spin_begin());
        ns_spin_end();
    }
}

static inline void
sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Drives the steps as detach.c does. A handler runs every `slice` ns (0: never), and every other
 * one uses the object. Returns whether the wait was served. */
static inline bool
drive(const struct ns_wait_steps *steps, void *object, ns_waiter *w, int64_t deadline,
      int64_t slice)
{
    if (steps->enter(object, w)) {
        return true;
    }
    for (bool uses = true;; uses = !uses) {
        int64_t until = slice ? ns_now() + slice : deadline;
        until = until < deadline ? until : deadline;
        switch (steps->wait(object, w, until)) {
        case NS_SERVED:
            return true;
        case NS_TIMED_OUT:
            if (until == deadline) {
                return steps->cancel(object, w);
            }
            break;
        case NS_INTERRUPTED:
            break;
        case NS_WAS_CANCELLED:
            return steps->cancel(object, w);
        }
        if (steps->leave(object, w)) {
            return true;
        }
        if (uses && steps->give_way != NULL) {
            steps->give_way(object, w);
        }
        steps->rejoin(object, w);
    }
}

/* A hook (ns_call_waiters): the owner of a waiter is a flag, which tells it that it was called. */
static inline void
tell_owners(ns_waiter *w)
{
    for (ns_waiter *next; w != NULL; w = next) {
        next = w->next_called; /* its owner may free it at once */
        ns_store((_Atomic bool *)w->owner, true, NS_RELEASE);
    }
}

/* The same as drive, for a waiter that is called. It gives up at the deadline. */
static inline bool
drive_called(const struct ns_wait_steps *steps, void *object, ns_waiter *w, int64_t deadline)
{
    _Atomic bool was_called = false;
    w->owner = &was_called;
    ns_store(&w->state, NS_CALLED, NS_RELAXED);
    if (steps->enter(object, w)) {
        return true;
    }
    while (!ns_load(&was_called, NS_ACQUIRE)) {
        sched_yield();
        if (ns_now() >= deadline) {
            if (!steps->cancel(object, w)) {
                return false;
            }
            deadline = NS_FOREVER; /* it is served, and is yet to be called */
        }
    }
    return true;
}

static inline bool
lock_mutex(ns_mutex *m, int64_t deadline, int64_t slice)
{
    if (ns_mutex_try_lock(m)) {
        return true;
    }
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    bool served = drive(&ns_mutex_steps, m, w, deadline, slice);
    ns_waiter_free(w);
    return served;
}

#endif
