/* Tests core/rwmutex.h: a writer is never inside with anyone else, whichever way readers are
 * counted, and the counts stay right.
 */
#include "harness.h"

/* If set, called before each load of rwmutex.c. See check_moving_hold_is_found. */
static _Thread_local void (*at_load)(const void *);
#undef ns_load
#define ns_load(p, order)                                    \
    (at_load != NULL ? at_load((const void *)(p)) : (void)0, \
     ns_step atomic_load_explicit((p), order))

#include "rwmutex.c"

#undef ns_load
#define ns_load(p, order) (ns_step atomic_load_explicit((p), order))

#define THREADS 6
#ifndef ROUNDS
#define ROUNDS 6000
#endif

static ns_rwmutex rw;
static long data[2]; /* plain fields: written under the write lock, read under the read lock */
static _Atomic int readers, writers, stop;
static _Atomic long reads, writes;

static void
make(void)
{
    ns_rwmutex_destroy(&rw);
    rw = (ns_rwmutex){0};
    ns_rwmutex_init(&rw);
}

/* Makes the next readers that meet use cells. */
static void
spread_soon(void)
{
    ns_store(&rw.base_meetings, UINT32_MAX - 2, NS_RELAXED);
}

/* A lock whose readers use cells, of which the calling thread has one. */
static void
make_spread(void)
{
    make();
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
}

/* The word of the calling thread's cell; 0 if readers use no cells. */
static uint64_t
my_word(void)
{
    ns_cell_table *table = ns_load(&rw.spread, NS_ACQUIRE);
    ns_cell *cell = table != NULL ? ns_cells_at(table, ns_slot()) : NULL;
    return cell != NULL ? ns_load(&cell->word, NS_RELAXED) : 0;
}

static bool
lock_with(const struct ns_wait_steps *steps, int64_t deadline, int64_t slice)
{
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    bool served = drive(steps, &rw, w, deadline, slice);
    ns_waiter_free(w);
    return served;
}

static bool
lock_read(int64_t deadline, int64_t slice)
{
    return ns_rwmutex_try_read(&rw) || lock_with(&ns_rwmutex_read_steps, deadline, slice);
}

static bool
lock_write(int64_t deadline, int64_t slice)
{
    return ns_rwmutex_try_write(&rw) || lock_with(&ns_rwmutex_write_steps, deadline, slice);
}

static void
read_data(void)
{
    ns_add(&readers, 1, NS_RELAXED);
    CHECK(ns_load(&writers, NS_RELAXED) == 0);
    CHECK(data[0] == data[1]);
    ns_sub(&readers, 1, NS_RELAXED);
    ns_add(&reads, 1, NS_RELAXED);
}

static void
write_data(void)
{
    CHECK(ns_add(&writers, 1, NS_RELAXED) == 0);
    CHECK(ns_load(&readers, NS_RELAXED) == 0);
    data[0]++;
    data[1]++;
    ns_sub(&writers, 1, NS_RELAXED);
    ns_add(&writes, 1, NS_RELAXED);
}

/* All kinds of calls: some with a short deadline, some that give way, some that downgrade. */
static void
use_at_random(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        int64_t deadline = n % 5 == 0 ? ns_now() + 20000 : NS_FOREVER;
        int64_t slice = i == 1 ? 5000 : 0;
        if ((n + i) % 10 == 0) {
            if (!lock_write(deadline, slice)) {
                continue;
            }
            write_data();
            if (n % 3 == 0) {
                CHECK(ns_rwmutex_downgrade(&rw));
                read_data();
            }
            CHECK(ns_rwmutex_write_unlock(&rw));
        }
        else if (lock_read(deadline, slice)) {
            read_data();
            CHECK(ns_rwmutex_read_unlock(&rw));
        }
    }
}

/* Readers overlap without a pause, and writers follow each other. Both make progress. */
static void
read_and_write_without_pause(int i)
{
    while (!ns_load(&stop, NS_RELAXED)) {
        if (i == 0) {
            sleep_ms(300);
            ns_store(&stop, 1, NS_RELAXED);
        }
        else if (i < 4) {
            CHECK(lock_read(NS_FOREVER, 0));
            read_data();
            CHECK(ns_rwmutex_read_unlock(&rw));
        }
        else {
            CHECK(lock_write(NS_FOREVER, 0));
            write_data();
            CHECK(ns_rwmutex_write_unlock(&rw));
        }
    }
}

static pthread_barrier_t step;

/* One thread takes a hold and another gives it back. */
static void
release_for_another(int i)
{
    for (int n = 0; n < 500; n++) {
        if (i == 0) {
            CHECK(lock_read(NS_FOREVER, 0) && lock_read(NS_FOREVER, 0));
        }
        pthread_barrier_wait(&step);
        if (i == 1) {
            CHECK(!ns_rwmutex_try_write(&rw));
            CHECK(ns_rwmutex_read_unlock(&rw));
            CHECK(!ns_rwmutex_try_write(&rw));
            CHECK(ns_rwmutex_read_unlock(&rw));
            CHECK(!ns_rwmutex_read_unlock(&rw));
            CHECK(!ns_rwmutex_is_read_locked(&rw));
            CHECK(ns_rwmutex_try_write(&rw));
            write_data();
            CHECK(ns_rwmutex_write_unlock(&rw));
        }
        pthread_barrier_wait(&step);
    }
}

static void
check_wrong_releases_are_refused(void)
{
    make();
    CHECK(!ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_write_unlock(&rw) &&
          !ns_rwmutex_downgrade(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && !ns_rwmutex_try_write(&rw) && !ns_rwmutex_try_read(&rw));
    CHECK(!ns_rwmutex_read_unlock(&rw) && ns_rwmutex_is_write_locked(&rw));
    CHECK(!lock_read(ns_now() + MILLISECOND, 0) && !lock_write(ns_now() + MILLISECOND, 0));
    CHECK(ns_rwmutex_write_unlock(&rw));

    CHECK(ns_rwmutex_extra_size(&rw) == 0);
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_is_read_locked(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(ns_rwmutex_extra_size(&rw) == NS_LINE + sizeof(ns_cell));
    CHECK(!lock_write(ns_now() + MILLISECOND, 0));
    CHECK(ns_rwmutex_try_read(&rw)); /* the writer gave up */
    CHECK(!ns_rwmutex_write_unlock(&rw));
    for (int i = 0; i < 3; i++) {
        CHECK(ns_rwmutex_is_read_locked(&rw) && ns_rwmutex_read_unlock(&rw));
    }
    CHECK(!ns_rwmutex_is_read_locked(&rw) && !ns_rwmutex_read_unlock(&rw));
}

/* A writer that waited may release by the fast path. What was counted for it is stale then. */
static void
check_fast_release_of_a_served_writer(void)
{
    make();
    CHECK(ns_rwmutex_try_read(&rw));
    ns_waiter *w = ns_waiter_new();
    CHECK(!ns_rwmutex_write_steps.enter(&rw, w));
    CHECK(ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_write_steps.wait(&rw, w, NS_FOREVER) == NS_SERVED);
    ns_waiter_free(w);
    CHECK(ns_rwmutex_write_unlock(&rw));
    CHECK(ns_rwmutex_try_read(&rw));
    CHECK(!ns_rwmutex_try_write(&rw));
    CHECK(ns_rwmutex_read_unlock(&rw));
    CHECK(!ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

static void
check_downgrade_admits_readers(void)
{
    make();
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_downgrade(&rw));
    CHECK(!ns_rwmutex_is_write_locked(&rw) && ns_rwmutex_is_read_locked(&rw));
    CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(ns_rwmutex_write_unlock(&rw)); /* the downgraded hold */
    CHECK(!ns_rwmutex_write_unlock(&rw) && !ns_rwmutex_try_write(&rw));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_try_write(&rw));

    ns_waiter reader = {0},
              writer = {0}; /* a downgrade lets in the waiting readers, before the next writer */
    CHECK(!ns_rwmutex_write_steps.enter(&rw, &writer) &&
          !ns_rwmutex_read_steps.enter(&rw, &reader));
    CHECK(ns_rwmutex_downgrade(&rw) && ns_is_granted(&reader) && !ns_is_granted(&writer));
    CHECK(ns_rwmutex_read_unlock(&rw) && !ns_is_granted(&writer));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&writer));

    CHECK(ns_rwmutex_downgrade(&rw) && ns_rwmutex_read_unlock(&rw)); /* given back as a read hold */
    CHECK(!ns_rwmutex_write_unlock(&rw) && !ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_read(&rw) && !ns_rwmutex_write_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
    ns_rwmutex_try_write(&rw);
    ns_rwmutex_reset(&rw);
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

static const struct ns_wait_steps *const read_steps = &ns_rwmutex_read_steps,
                                         *const write_steps = &ns_rwmutex_write_steps;

/* The order in which waiters are served, step by step, in a single thread. */
static void
check_order_of_service(void)
{
    ns_waiter reader[2] = {{0}}, writer[2] = {{0}};
    make();
    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(!read_steps->enter(&rw, &reader[0]) && !write_steps->enter(&rw, &writer[0]));
    CHECK(!read_steps->enter(&rw, &reader[1]));
    CHECK(ns_rwmutex_write_unlock(&rw)); /* all readers come before the next writer */
    CHECK(ns_is_granted(&reader[0]) && ns_is_granted(&reader[1]) && !ns_is_granted(&writer[0]));

    CHECK(!ns_rwmutex_try_read(&rw));
    reader[0] = (ns_waiter){0};
    CHECK(!read_steps->enter(&rw, &reader[0]));
    /* the writer keeps others out while its handlers run */
    CHECK(!write_steps->leave(&rw, &writer[0]));
    CHECK(!ns_is_granted(&reader[0]) && !ns_rwmutex_try_read(&rw));
    write_steps->give_way(&rw, &writer[0]); /* unless a handler uses the lock */
    CHECK(ns_is_granted(&reader[0]) && ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_read_unlock(&rw));
    write_steps->rejoin(&rw, &writer[0]);
    CHECK(!ns_rwmutex_try_read(&rw));
    reader[0] = reader[1] = (ns_waiter){0};
    CHECK(!read_steps->enter(&rw, &reader[0]) && !read_steps->enter(&rw, &reader[1]));
    /* nor does it keep them out after it has given up */
    CHECK(!write_steps->cancel(&rw, &writer[0]));
    CHECK(ns_is_granted(&reader[0]) && ns_is_granted(&reader[1]));
    for (int i = 0; i < 4; i++) {
        CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_read_unlock(&rw));
    }
    CHECK(!ns_rwmutex_read_unlock(&rw));

    writer[0] = reader[0] = (ns_waiter){0};
    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(!write_steps->enter(&rw, &writer[0]) && !write_steps->enter(&rw, &writer[1]));
    CHECK(ns_rwmutex_write_unlock(&rw));
    CHECK(ns_is_granted(&writer[0]) && !ns_is_granted(&writer[1]));
    CHECK(write_steps->leave(&rw, &writer[0]) && write_steps->cancel(&rw, &writer[0]));
    write_steps->undo(&rw, &writer[0]);
    CHECK(ns_is_granted(&writer[1]));

    CHECK(!read_steps->enter(&rw, &reader[0]) && !read_steps->leave(&rw, &reader[0]));
    read_steps->give_way(&rw, &reader[0]);
    CHECK(ns_rwmutex_write_unlock(&rw) && !ns_is_granted(&reader[0]));
    read_steps->rejoin(&rw, &reader[0]); /* the lock came free while the reader was away */
    CHECK(read_steps->cancel(&rw, &reader[0]) && ns_rwmutex_is_read_locked(&rw));
    read_steps->undo(&rw, &reader[0]);
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

/* A waiter whose thread runs a handler gives back what it was granted, for the handler, and keeps
 * its place. */
static void
check_handler_gets_the_lock(void)
{
    ns_waiter reader[2] = {{0}}, writer[3] = {{0}};
    make();
    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(!write_steps->enter(&rw, &writer[0]) && !write_steps->enter(&rw, &writer[1]));
    CHECK(!read_steps->enter(&rw, &reader[0]) && !write_steps->leave(&rw, &writer[0]));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&reader[0]));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_is_granted(&writer[0]));
    CHECK(!read_steps->enter(&rw, &reader[1]));
    write_steps->rejoin(&rw, &writer[0]); /* served while its handlers ran: nothing is left to do */
    CHECK(ns_is_granted(&writer[0]) && !ns_waitq_has(&writer[0].place));

    write_steps->give_way(&rw, &writer[0]);
    CHECK(!ns_is_granted(&writer[0]) && ns_is_granted(&reader[1]) && !ns_is_granted(&writer[1]));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_is_granted(&writer[1]));
    CHECK(!write_steps->enter(&rw, &writer[2]));
    write_steps->rejoin(&rw, &writer[0]);
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&writer[0]) && !ns_is_granted(&writer[2]));

    reader[1] = (ns_waiter){0};
    CHECK(!read_steps->enter(&rw, &reader[1]));
    write_steps->give_way(&rw, &writer[0]);
    write_steps->rejoin(&rw, &writer[0]); /* gets its place back, before those behind it */
    CHECK(ns_is_granted(&reader[1]) && ns_rwmutex_read_unlock(&rw));
    CHECK(ns_is_granted(&writer[0]) && !ns_is_granted(&writer[2]));

    reader[0] = reader[1] = (ns_waiter){0};
    CHECK(!read_steps->enter(&rw, &reader[0]) && !read_steps->leave(&rw, &reader[0]));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&reader[0]));
    read_steps->give_way(&rw, &reader[0]);
    CHECK(!ns_is_granted(&reader[0]) && ns_is_granted(&writer[2]));
    read_steps->rejoin(&rw, &reader[0]);
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&reader[0]));
    CHECK(ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_is_read_locked(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

/* In the child of a fork holds are still held, the waiters are gone, and one that comes back waits
 * again. */
static void
check_fork_keeps_holds_and_drops_waiters(void)
{
    ns_waiter gone[2] = {{0}}, reader = {0}, writer = {0};
    make();
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(!write_steps->enter(&rw, &gone[0]) && !read_steps->enter(&rw, &gone[1]));
    pretend_to_fork();
    CHECK(ns_rwmutex_is_read_locked(&rw)); /* a look that closed the cells opens them again */
    CHECK(my_word() & NS_RW_CELL_OPEN);
    CHECK(ns_rwmutex_try_read(&rw));
    for (int i = 0; i < 3; i++) {
        CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_read_unlock(&rw));
    }
    CHECK(ns_rwmutex_try_write(&rw));

    gone[0] = gone[1] = (ns_waiter){0};
    CHECK(!write_steps->enter(&rw, &gone[0]) && !read_steps->enter(&rw, &gone[1]));
    CHECK(!write_steps->enter(&rw, &writer) && !read_steps->enter(&rw, &reader));
    CHECK(!write_steps->leave(&rw, &writer) && !read_steps->leave(&rw, &reader));
    pretend_to_fork();
    read_steps->rejoin(&rw, &reader);
    write_steps->rejoin(&rw, &writer);
    CHECK(!ns_is_granted(&reader) && !ns_is_granted(&writer));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&reader) && !ns_is_granted(&writer));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_is_granted(&writer));
    CHECK(!ns_is_granted(&gone[0]) && !ns_is_granted(&gone[1]));
    CHECK(ns_rwmutex_write_unlock(&rw) && !ns_rwmutex_is_read_locked(&rw));

    /* the state that a fork leaves if it cuts a downgrade short */
    CHECK(ns_rwmutex_try_write(&rw));
    rw.granted++;
    rw.downgraded++;
    pretend_to_fork();
    CHECK(!ns_rwmutex_is_read_locked(&rw) && !ns_rwmutex_try_read(&rw));
    CHECK(ns_rwmutex_write_unlock(&rw) && !ns_rwmutex_write_unlock(&rw));
    CHECK(!ns_rwmutex_read_unlock(&rw));

    for (int i = 0; i < 2; i++) { /* a reset forgets all holds, also downgraded ones */
        CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
        ns_rwmutex_reset(&rw);
        CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_downgrade(&rw) && ns_rwmutex_try_read(&rw));
        ns_rwmutex_reset(&rw);
        CHECK(!ns_rwmutex_write_unlock(&rw) && !ns_rwmutex_read_unlock(&rw));
        CHECK(ns_rwmutex_try_read(&rw) && !ns_rwmutex_write_unlock(&rw));
        CHECK(ns_rwmutex_read_unlock(&rw));
    }
}

/* Two readers meet, and so make the table, while a third is away from its place in line. */
static void
check_readers_meet_while_one_is_away(void)
{
    ns_waiter reader = {0};
    make();
    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(!read_steps->enter(&rw, &reader) && !read_steps->leave(&rw, &reader));
    read_steps->give_way(&rw, &reader);
    CHECK(ns_rwmutex_write_unlock(&rw));
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(!read_steps->cancel(&rw, &reader));
    CHECK(ns_rwmutex_write_unlock(&rw));
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(my_word() & NS_RW_CELL_OPEN);
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
}

static _Atomic int turn;

/* Two readers take turns, so that one holds the lock at any time. A third thread checks that. */
static void
take_turns(int i)
{
    if (i == 2) {
        for (int64_t end = ns_now() + 200 * MILLISECOND; ns_now() < end;) {
            CHECK(ns_rwmutex_is_read_locked(&rw));
        }
        ns_store(&stop, 1, NS_RELAXED);
    }
    for (int n = i; !ns_load(&stop, NS_RELAXED); n += 2) {
        while (ns_load(&turn, NS_ACQUIRE) != n && !ns_load(&stop, NS_RELAXED)) {
            ns_pause();
        }
        if (ns_load(&turn, NS_ACQUIRE) == n) {
            CHECK(ns_rwmutex_read_unlock(&rw) && lock_read(NS_FOREVER, 0));
            ns_store(&turn, n + 1, NS_RELEASE);
        }
    }
}

/* A third thread gives back the holds of two others, one by one. */
static void
release_for_two(int i)
{
    if (i != 2) {
        CHECK(lock_read(NS_FOREVER, 0));
    }
    pthread_barrier_wait(&step);
    if (i == 2) {
        CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_is_read_locked(&rw));
        CHECK(!ns_rwmutex_try_write(&rw));
        CHECK(ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_is_read_locked(&rw));
        CHECK(!ns_rwmutex_read_unlock(&rw));
    }
    pthread_barrier_wait(&step);
}

/* What came before a release is seen after the next acquire, even if one of them takes the slow
 * path. */
static void
await_free(void)
{
    while (ns_load(&rw.base, NS_RELAXED) != NS_RW_OPEN) {
        ns_pause();
    }
}

static void
slow_then_fast(int i)
{
    if (i == 0) {
        data[0]++;
        CHECK(ns_rwmutex_write_unlock_slow(&rw));
        return;
    }
    await_free();
    CHECK(ns_rwmutex_try_write_fast(&rw));
    data[0]--;
}

static void
fast_then_slow(int i)
{
    if (i == 0) {
        CHECK(data[0] == data[1]);
        CHECK(ns_rwmutex_read_unlock(&rw));
        return;
    }
    await_free();
    CHECK(ns_rwmutex_try_write_slow(&rw));
    write_data();
}

/* A reader leaves its cell by the fast path. A writer that closes the cell sees what the reader
 * did. */
static void
cell_then_slow(int i)
{
    if (i == 0) {
        CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_read_unlock(&rw)); /* now it has a cell */
        CHECK(my_word() == NS_RW_CELL_OPEN && ns_rwmutex_try_read(&rw));
        CHECK(data[0] == data[1]);
        CHECK(ns_rwmutex_read_unlock(&rw));
        ns_store(&turn, 1, NS_RELAXED); /* orders nothing */
        return;
    }
    while (ns_load(&turn, NS_RELAXED) == 0) {
        ns_pause();
    }
    CHECK(ns_rwmutex_try_write_slow(&rw));
    write_data();
}

/* A reader that finds another one in the base sees what the writer before both did. */
static void
second_reader(int i)
{
    if (i == 0) {
        data[0]++;
        CHECK(ns_rwmutex_write_unlock(&rw));
        ns_store(&turn, 1, NS_RELAXED); /* orders nothing */
        return;
    }
    while (ns_load(&turn, NS_RELAXED) != i) {
        ns_pause();
    }
    CHECK(ns_rwmutex_try_read(&rw));
    ns_store(&turn, i + 1, NS_RELAXED);
    if (i == 2) {
        CHECK(data[0] == data[1] + 1);
    }
}

/* A waiter that is served at once sees what came before a release by the fast path. */
static void
fast_then_enter(int i)
{
    if (i == 0) {
        CHECK(data[0] == data[1]);
        CHECK(ns_rwmutex_read_unlock(&rw));
        return;
    }
    ns_waiter writer = {0};
    await_free();
    CHECK(write_steps->enter(&rw, &writer));
    write_data();
}

/* A reader that comes by the slow path also opens the cells of other threads. Those must see
 * through them what a writer left. The threads run in a fixed order, which only relaxed words
 * give. */
static void
open_for_others(int i)
{
    /* slots in this order; the thread that opens has the last but one */
    for (int k = 0; k < 3; k++) {
        if (k == i) {
            ns_slot();
            ns_add(&turn, 1, NS_RELAXED);
        }
        while (ns_load(&turn, NS_RELAXED) <= k) {
            ns_pause();
        }
    }
    static const int nth[] = {2, 1, 0}; /* by slot: who reads last, who opens, who writes */
    while (ns_load(&turn, NS_RELAXED) != 3 + nth[i]) {
        ns_pause();
    }
    if (i == 2) {
        CHECK(lock_write(NS_FOREVER, 0));
        write_data();
        CHECK(ns_rwmutex_write_unlock(&rw));
    }
    else {
        CHECK(ns_rwmutex_try_read(&rw));
        if (i == 0) {
            CHECK(data[0] == data[1]);
        }
    }
    ns_add(&turn, 1, NS_RELAXED);
}

/* All threads meet for the first time, so each makes a table. One table is kept. */
static void
make_tables_together(int i)
{
    for (int n = 0; n < 200; n++) {
        if (i == 0) {
            make();
            if (n % 2 == 0) {
                spread_soon();
            }
        }
        pthread_barrier_wait(&step);
        CHECK(lock_read(NS_FOREVER, 0));
        CHECK(lock_read(NS_FOREVER, 0));
        pthread_barrier_wait(&step);
        CHECK(ns_rwmutex_read_unlock(&rw));
        CHECK(ns_rwmutex_read_unlock(&rw));
        pthread_barrier_wait(&step);
        CHECK(i != 0 || (!ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_is_read_locked(&rw)));
        pthread_barrier_wait(&step);
    }
}

/* Holds move from cell to cell, and at each moment there is one: each thread that releases must
 * find one. */
static void
move_holds(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i != 2) {
            CHECK(lock_read(NS_FOREVER, 0));
        }
        CHECK(ns_rwmutex_read_unlock(&rw));
        if (i == 2) {
            CHECK(lock_read(NS_FOREVER, 0));
        }
    }
}

/* The only hold is always in the cell that the search visits next. It moves to the other cell just
 * before that visit, by the fast paths, as long as the cells are open. */
static void
move_hold(const void *word)
{
    ns_cell_table *table = atomic_load(&rw.cells);
    for (uint32_t from = 0; from < 2; from++) {
        ns_cell *cell = atomic_load(&table->at[from]), *other = atomic_load(&table->at[1 - from]);
        uint64_t open = ns_load(&cell->word, NS_RELAXED) & ns_load(&other->word, NS_RELAXED);
        if (word == &cell->word && (open & NS_RW_CELL_OPEN) &&
            ns_load(&cell->word, NS_RELAXED) >= NS_RW_CELL_UNIT) {
            ns_add(&other->word, NS_RW_CELL_UNIT, NS_RELAXED);
            ns_sub(&cell->word, NS_RW_CELL_UNIT, NS_RELAXED);
            return;
        }
    }
}

static void
read_once(int i)
{
    (void)i;
    CHECK(ns_rwmutex_try_read(&rw));
}

/* A thread that gives back another's hold finds it, wherever it moves. */
static void
check_moving_hold_is_found(void)
{
    CHECK(ns_slot() == 0);
    make_spread();
    run_threads(1, read_once); /* its hold is in the second cell */
    CHECK(ns_load(&ns_cells_at(ns_load(&rw.cells, NS_ACQUIRE), 1)->word, NS_RELAXED) ==
          (NS_RW_CELL_UNIT | NS_RW_CELL_OPEN));
    at_load = move_hold;
    CHECK(ns_rwmutex_read_unlock_slow(&rw));
    at_load = NULL;
    CHECK(!ns_rwmutex_is_read_locked(&rw) && !ns_rwmutex_read_unlock(&rw));
}

/* A hold that was granted to a waiter can also be given back by the slow path. */
static ns_waiter granted_reader;

static void
granted_then_fast(int i)
{
    if (i == 0) {
        CHECK(data[0] == data[1]);
        CHECK(ns_rwmutex_read_unlock(&rw));
        return;
    }
    await_free();
    CHECK(ns_rwmutex_try_write_fast(&rw));
    write_data();
}

/* Each reader gets a line of its own. The readers hold the lock together, so that they meet. */
enum { READERS = 10 };
static ns_cell *cell_of[READERS];

static void
get_own_cells(int i)
{
    ns_slot();
    pthread_barrier_wait(&step); /* each now has its own slot */
    for (int n = 0; n < 8 * NS_CELL_MEETINGS; n++) {
        CHECK(lock_read(NS_FOREVER, 0));
        pthread_barrier_wait(&step);
        CHECK(ns_rwmutex_read_unlock(&rw));
        pthread_barrier_wait(&step);
    }
    ns_cell_table *table = ns_load(&rw.spread, NS_ACQUIRE);
    CHECK(table != NULL);
    cell_of[i] = ns_cells_at(table, ns_slot());
    CHECK(cell_of[i] != NULL && ns_cell_is_of(cell_of[i], ns_slot()));
    pthread_barrier_wait(&step);
    for (int k = 0; k < i && ns_slots_mask > READERS; k++) {
        CHECK(cell_of[k] != cell_of[i]);
    }
}

/* A writer closes the cells once. Until readers have met often enough, all of them use the base. */
static void
check_readers_use_base_after_a_writer(void)
{
    make_spread();
    CHECK(rw.spread != NULL && rw.base == 0);
    CHECK(ns_rwmutex_try_write(&rw) && rw.spread == NULL && rw.cells != NULL);
    CHECK(rw.base == (ns_thread_tag() | NS_RW_WRITER));
    CHECK(ns_rwmutex_write_unlock(&rw) && rw.base == NS_RW_OPEN);
    CHECK(ns_rwmutex_try_write_fast(&rw) && ns_rwmutex_write_unlock(&rw));
    CHECK(rw.last_closed == 1 && rw.base_meetings == 0);
    for (int n = 1; n < NS_RW_REOPEN_MEETINGS; n++) {
        CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw) && rw.spread == NULL);
        CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
        CHECK(ns_rwmutex_try_write_fast(&rw) && ns_rwmutex_write_unlock(&rw));
    }
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw) && rw.spread != NULL);
    CHECK(!ns_rwmutex_try_write(&rw) && rw.spread != NULL); /* the writer did not get in */
    CHECK(ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_try_write(&rw)); /* one hold is in the base */
    CHECK(ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_read_unlock(&rw));
}

/* Readers that meet on one word take and leave it without the queue's lock. */
static void
check_readers_on_one_word_need_no_queue(void)
{
    if (NS_CELL_MEETINGS < 8) {
        return;
    }
    make();
    CHECK(ns_rwmutex_try_write(&rw) &&
          ns_rwmutex_downgrade(&rw)); /* a hold that is in no word: SLOW */
    CHECK(ns_rwmutex_try_read(&rw) && (rw.base & NS_RW_SLOW) && rw.base / NS_RW_UNIT == 1);
    CHECK(rw.base_meetings == 0);
    CHECK(ns_rwmutex_try_read(&rw) && rw.base / NS_RW_UNIT == 2);
    ns_lock_take(&rw.queue.lock);
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
    ns_lock_release(&rw.queue.lock);
    CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_read_unlock(&rw) && !ns_rwmutex_try_write(&rw));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_rwmutex_try_write(&rw));
    CHECK(ns_rwmutex_write_unlock(&rw));
}

/* A thread gives a hold back where it took it, even if it has another cell since. */
static void
check_hold_in_an_old_table_is_released(void)
{
    if (ns_slots_mask < 7) {
        return;
    }
    make_spread();
    CHECK(ns_slot() == 0 && ns_rwmutex_try_read(&rw));
    ns_cell *cell = ns_cells_at(rw.cells, 0);
    ns_cells_offer offer = ns_cells_make_offer(&rw.cells, 4, 0 + 1); /* as a thread with slot 4 */
    CHECK(offer.table != NULL);
    CHECK(ns_cells_accept(&rw.cells, &offer, 4) != cell && ns_cells_at(rw.cells, 0) == cell);
    ns_cells_free_offer(&offer);
    ns_store(&rw.spread, rw.cells, NS_RELEASE);
    CHECK(ns_load(&cell->word, NS_RELAXED) >= NS_RW_CELL_UNIT);
    /* Now it is as if its own place were the empty one: the hold is in the cell of the old
     * table. */
    ns_store(&rw.cells->at[0], NULL, NS_RELAXED);
    ns_lock_take(&rw.queue.lock);
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_load(&cell->word, NS_RELAXED) == NS_RW_CELL_OPEN);
    ns_lock_release(&rw.queue.lock);
    ns_store(&rw.cells->at[0], cell, NS_RELAXED);
}

/* A reset forgets the holds in cells. What it left there would count once cells are in use
 * again. */
static void
check_reset_forgets_cells(void)
{
    make_spread();
    CHECK(ns_rwmutex_try_read(&rw) && my_word() >= NS_RW_CELL_UNIT);
    ns_cell *cell = ns_cells_at(rw.cells, ns_slot());
    ns_rwmutex_reset(&rw);
    CHECK(ns_load(&cell->word, NS_RELAXED) == 0 && !ns_rwmutex_is_read_locked(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw) && rw.spread != NULL);
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw));
    CHECK(!ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

/* A fork can come between any two of the steps that open and close the cells. */
static void
check_fork_amid_opening_and_closing(void)
{
    make_spread();
    CHECK(ns_rwmutex_try_read(&rw));
    ns_store(&rw.spread, NULL, NS_RELAXED); /* a hold in a cell that looks unused */
    pretend_to_fork();
    CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_is_read_locked(&rw));
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_try_write(&rw));

    ns_store(
        &rw.spread, rw.cells, NS_RELAXED); /* the writer is in, and has not closed the cells yet */
    pretend_to_fork();
    CHECK(!ns_rwmutex_try_read(&rw) && ns_rwmutex_is_write_locked(&rw) && rw.spread == NULL);
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_rwmutex_try_read(&rw));
    CHECK(!ns_rwmutex_try_write(&rw) && ns_rwmutex_read_unlock(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));
}

static void
fast_then_fast(int i)
{
    if (i == 0) {
        write_data();
        CHECK(ns_rwmutex_write_unlock(&rw));
        return;
    }
    await_free();
    CHECK(ns_rwmutex_try_write_fast(&rw));
    write_data();
}

static void *
write_unlock_for_another(void *unused)
{
    CHECK(ns_rwmutex_write_unlock(&rw));
    return unused;
}

/* The base word names the thread that writes, however it got the lock. */
static void
check_writer_is_recorded(void)
{
    ns_waiter w = {0};
    pthread_t thread;
    make();
    CHECK(ns_rwmutex_writer(&rw) == 0 && ns_rwmutex_try_write(&rw));
    CHECK(ns_rwmutex_writer(&rw) == ns_thread_tag() && !ns_rwmutex_is_read_locked(&rw));
    CHECK(!write_steps->enter(&rw, &w) && ns_rwmutex_waiters(&rw, true) == 1);
    CHECK(ns_rwmutex_waiters(&rw, false) == 0 && w.tag == ns_thread_tag());
    w.tag = 4 * NS_TAG_UNIT; /* that of another thread */
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&w));
    CHECK(ns_rwmutex_writer(&rw) == w.tag && !rw.foreign && !ns_rwmutex_is_read_locked(&rw));
    ns_rwmutex_reset(&rw);
    CHECK(ns_rwmutex_writer(&rw) == 0 && !ns_rwmutex_is_write_locked(&rw));

    CHECK(ns_rwmutex_try_write(&rw));
    CHECK(pthread_create(&thread, NULL, write_unlock_for_another, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(rw.foreign && ns_rwmutex_writer(&rw) == 0);
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_read_unlock(&rw));
}

int
main(void)
{
    setenv("NOGIL_SYNC_CPU_COUNT", "16", 1); /* so that ten readers can have cells of their own */
    init_core();
    check_wrong_releases_are_refused();
    check_writer_is_recorded();
    check_downgrade_admits_readers();
    check_fast_release_of_a_served_writer();
    check_order_of_service();
    check_handler_gets_the_lock();
    check_fork_keeps_holds_and_drops_waiters();
    check_readers_meet_while_one_is_away();
    check_moving_hold_is_found();
    check_readers_use_base_after_a_writer();
    check_readers_on_one_word_need_no_queue();
    check_hold_in_an_old_table_is_released();
    check_reset_forgets_cells();
    check_fork_amid_opening_and_closing();

    make();
    CHECK(ns_rwmutex_try_write(&rw));
    run_threads(2, slow_then_fast);
    make();
    CHECK(ns_rwmutex_try_read(&rw));
    run_threads(2, fast_then_slow);
    make();
    CHECK(ns_rwmutex_try_read(&rw));
    run_threads(2, fast_then_enter);
    make_spread();
    ns_store(&turn, 0, NS_RELAXED);
    run_threads(2, cell_then_slow);
    make();
    ns_store(&turn, 0, NS_RELAXED);
    CHECK(ns_rwmutex_try_write(&rw));
    run_threads(3, second_reader);
    data[0]--;
    make();
    CHECK(ns_rwmutex_try_write(&rw));
    run_threads(2, fast_then_fast);
    make();
    CHECK(ns_rwmutex_try_write(&rw) && !read_steps->enter(&rw, &granted_reader));
    CHECK(ns_rwmutex_write_unlock(&rw) && ns_is_granted(&granted_reader));
    run_threads(2, granted_then_fast);

    make();
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    run_threads(3, take_turns);
    ns_store(&stop, 0, NS_RELAXED);

    make_spread();
    ns_store(&turn, 0, NS_RELAXED);
    run_threads(3, open_for_others);

    make();
    spread_soon();
    CHECK(ns_rwmutex_try_read(&rw) && ns_rwmutex_try_read(&rw));
    run_threads(3, move_holds);
    CHECK(ns_rwmutex_read_unlock(&rw) && ns_rwmutex_read_unlock(&rw) &&
          !ns_rwmutex_read_unlock(&rw));

    pthread_barrier_init(&step, NULL, 4);
    run_threads(4, make_tables_together);
    pthread_barrier_destroy(&step);

    pthread_barrier_init(&step, NULL, 3);
    make_spread();
    run_threads(3, release_for_two);
    pthread_barrier_destroy(&step);

    pthread_barrier_init(&step, NULL, 2);
    make();
    run_threads(2, release_for_another);
    pthread_barrier_destroy(&step);

    pthread_barrier_init(&step, NULL, READERS);
    make();
    run_threads(READERS, get_own_cells);
    pthread_barrier_destroy(&step);

    make();
    run_threads(THREADS, use_at_random);
    CHECK(!ns_rwmutex_is_read_locked(&rw) && !ns_rwmutex_is_write_locked(&rw));
    CHECK(ns_rwmutex_try_write(&rw) && ns_rwmutex_write_unlock(&rw));

    ns_store(&reads, 0, NS_RELAXED);
    ns_store(&writes, 0, NS_RELAXED);
    run_threads(THREADS, read_and_write_without_pause);
    CHECK(ns_load(&reads, NS_RELAXED) > 10 && ns_load(&writes, NS_RELAXED) > 10);
    ns_rwmutex_destroy(&rw);
    check_no_thread_spins();
    puts("rwmutex: ok");
    return 0;
}
