/* Tests core/waiting/sleepers.h: a thread that looks finds those that sleep, and holds them there.
 */
#include "harness.h"

#include "waiting/sleepers.h"

#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#ifndef ROUNDS
#define ROUNDS 2000
#endif

static _Atomic uint64_t lives[THREADS]; /* what a sleeper refers to: set while it may be used */
static _Atomic bool over;

static void *
sleep_often(void *number)
{
    _Atomic uint64_t *life = &lives[(uintptr_t)number];
    for (int i = 0; !ns_load(&over, NS_RELAXED); i++) {
        ns_store(life, 1, NS_RELAXED);
        ns_sleeper_begin(&(ns_sleep){.self = life, .ident = (uintptr_t)number, .deadline = i});
        ns_sleeper_end();
        ns_store(life, 0, NS_RELAXED); /* no thread that looks may see it from here on */
    }
    return NULL;
}

static void
check_sleepers_stay_while_others_look(void)
{
    pthread_t threads[THREADS];
    int seen = 0;
    for (uintptr_t i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, sleep_often, (void *)i) == 0);
    }
    while (seen < ROUNDS) {
        for (uint32_t i = 0, n = ns_sleepers(); i < n; i++) {
            bool busy;
            ns_sleeper *s = ns_sleeper_try(i, &busy);
            if (s != NULL) {
                const uint64_t count = s->count;
                CHECK(s->sleep.self == &lives[s->sleep.ident]);
                CHECK(ns_load((_Atomic uint64_t *)s->sleep.self, NS_RELAXED) == 1);
                CHECK(s->count == count);
                seen++;
                ns_sleeper_release(s);
            }
        }
    }
    ns_store(&over, true, NS_RELAXED);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static uint32_t
sleepers_now(void)
{
    uint32_t found = 0;
    for (uint32_t i = 0, n = ns_sleepers(); i < n; i++) {
        bool busy;
        ns_sleeper *s = ns_sleeper_try(i, &busy);
        CHECK(!busy);
        if (s != NULL) {
            found++;
            ns_sleeper_release(s);
        }
    }
    return found;
}

/* A handler that interrupts a thread with its record locked does not wait for it. */
static void
check_handler_does_not_wait(void)
{
    ns_sleeper_begin(&(ns_sleep){.deadline = 1});
    CHECK(sleepers_now() == 1);
    bool busy;
    ns_sleeper *s = ns_sleeper_try(ns_slot(), &busy);
    CHECK(s != NULL && !busy && ns_sleeper_try(ns_slot(), &busy) == NULL && busy);
    ns_sleeper_release(s);
    ns_sleeper_end();
    CHECK(sleepers_now() == 0);
}

static void
check_fork_forgets_sleepers(void)
{
    ns_sleeper_begin(&(ns_sleep){.deadline = 1});
    pid_t child = fork();
    if (child == 0) {
        _exit(sleepers_now() == 0 ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    ns_sleeper_end();
}

int
main(void)
{
    init_core();
    check_handler_does_not_wait();
    check_fork_forgets_sleepers();
    check_sleepers_stay_while_others_look();
    puts("ok");
    return 0;
}
