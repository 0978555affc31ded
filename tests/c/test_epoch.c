/* core/epoch.h: nothing is freed while a section can read it, everything is freed in the end. */
#include "harness.h"

#define THREADS 4
#ifndef ROUNDS
#define ROUNDS 20000
#endif
#define CELLS 4
#define WAITING 8

typedef struct node {
    long value, twin; /* plain: the sanitizer sees a read that does not happen before the free */
    uint64_t stamp;
} node;

static _Atomic(node *) cells[CELLS];
static _Atomic long made, freed;

static node *
make(long value)
{
    node *n = malloc(sizeof(node));
    CHECK(n != NULL);
    *n = (node){value, value, 0};
    ns_add(&made, 1, NS_RELAXED);
    return n;
}

static void
destroy(node *n)
{
    n->value = n->twin = -1;
    n->twin--;
    free(n);
    ns_add(&freed, 1, NS_RELAXED);
}

static void
read_cells(bool stray)
{
    ns_section section = stray ? ns_epoch_enter_stray() : ns_epoch_enter();
    for (int c = 0; c < CELLS; c++) {
        node *n = ns_load(&cells[c], NS_ACQUIRE);
        CHECK(n == NULL || n->value == n->twin);
    }
    ns_epoch_leave(section);
}

/* Threads 0 and 1 write, the others read, one of them now and then without a slot. */
static void
work(int i)
{
    node *waiting[WAITING];
    int n = 0;
    ns_slot();
    for (int round = 0; round < ROUNDS; round++) {
        if (i >= 2) {
            read_cells(i == 3 && round % 64 == 0);
            continue;
        }
        node *old = ns_swap(&cells[(round + i) % CELLS], make(round), NS_SEQ_CST);
        if (old == NULL) {
            continue;
        }
        if (ns_epoch_retire(&old->stamp)) {
            destroy(old);
            continue;
        }
        waiting[n++] = old;
        while (n == WAITING) {
            uint64_t safe = ns_epoch_poll();
            for (int k = n - 1; k >= 0; k--) {
                if (waiting[k]->stamp < safe) {
                    destroy(waiting[k]);
                    waiting[k] = waiting[--n];
                }
            }
        }
    }
    while (n > 0) {
        uint64_t safe = ns_epoch_poll();
        while (n > 0 && waiting[n - 1]->stamp < safe) {
            destroy(waiting[--n]);
        }
    }
}

static void
check_torture(void)
{
    run_threads(THREADS, work);
    for (int c = 0; c < CELLS; c++) {
        node *n = ns_swap(&cells[c], NULL, NS_RELAXED);
        if (n != NULL) {
            destroy(n);
        }
    }
    CHECK(ns_load(&made, NS_RELAXED) == ns_load(&freed, NS_RELAXED));
}

static pthread_barrier_t step;

/* A section holds up what is retired during it, not what is retired before. */
static void
hold_section(int i)
{
    uint64_t before, during, after;
    if (i == 0) {
        ns_slot();
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        ns_section section = ns_epoch_enter();
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        ns_epoch_leave(section);
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        return;
    }
    ns_slot();
    pthread_barrier_wait(&step);
    CHECK(!ns_epoch_retire(&before)); /* two are there */
    CHECK(ns_epoch_poll() > before);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    CHECK(!ns_epoch_retire(&during));
    for (int n = 0; n < 3; n++) {
        CHECK(ns_epoch_poll() <= during);
    }
    CHECK(!ns_epoch_retire(&after) && after > during);
    CHECK(ns_epoch_safe() > before && ns_epoch_safe() <= during);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    CHECK(ns_epoch_poll() > after);

    ns_section stray = ns_epoch_enter_stray();
    CHECK(!ns_epoch_retire(&during) && ns_epoch_poll() <= during);
    ns_epoch_leave(stray);
    CHECK(ns_epoch_poll() > during);
    pthread_barrier_wait(&step);
}

static void
check_sections(void)
{
    pthread_barrier_init(&step, NULL, 2);
    run_threads(2, hold_section);
    pthread_barrier_destroy(&step);
}

static void
check_alone(void)
{
    uint64_t stamp = 0;
    ns_slot();
    CHECK(ns_epoch_retire(&stamp) && stamp == 0);
    ns_section stray = ns_epoch_enter_stray();
    CHECK(!ns_epoch_retire(&stamp) && stamp != 0);
    CHECK(ns_epoch_poll() <= stamp);
    ns_epoch_leave(stray);
    CHECK(ns_epoch_poll() > stamp);
}

int
main(void)
{
    init_core();
    check_alone();
    check_sections();
    check_torture();
    check_alone(); /* the others gave their slots back */
    ns_can_fence_threads = false;
    check_sections();
    check_torture();
    return 0;
}
