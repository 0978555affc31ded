/* Tests core/barrier.h: a round ends for all of its parties, in the same way, and for no others. */
#include "barrier.h"

#include <sched.h>

#include "harness.h"

#define PARTIES 4
#ifndef ROUNDS
#define ROUNDS 500
#endif

static ns_barrier barrier, acting;
static long shared[PARTIES]; /* plain: a missing acquire or release is a race */
static long actions;
static _Atomic int failed;

/* As the Python type does, but for exceptions. `act` may be NULL. */
static uint64_t
pass(ns_barrier *b, int64_t span, int64_t slice, bool (*act)(void))
{
    for (;;) {
        ns_waiter *w = ns_waiter_new();
        CHECK(w != NULL);
        int64_t deadline = span == NS_FOREVER ? NS_FOREVER : ns_now() + span;
        bool served = drive(&ns_barrier_steps, b, w, deadline, slice);
        uint64_t outcome = served ? w->place.amount : ns_barrier_give_up(b, w, true);
        if (outcome == NS_BARRIER_WAITS_ON) {
            CHECK(drive(&ns_barrier_steps_in_line, b, w, NS_FOREVER, slice));
            outcome = w->place.amount;
        }
        if (outcome == NS_BARRIER_LEADS) {
            outcome = ns_barrier_finish(b, w, act()) ? b->parties - 1 : NS_BARRIER_BROKEN;
        }
        ns_waiter_free(w);
        if (outcome != NS_BARRIER_AGAIN) {
            return outcome;
        }
    }
}

static void
make(ns_barrier *b, uint32_t parties, bool acts)
{
    *b = (ns_barrier){0};
    ns_barrier_init(b, parties, acts);
}

/* Each party writes before it arrives, and reads what the others wrote. */
static void
lockstep(int i)
{
    for (int n = 1; n <= ROUNDS; n++) {
        shared[i] = n;
        CHECK(pass(&barrier, NS_FOREVER, i == 1 ? 10000 : 0, NULL) < PARTIES);
        for (int j = 0; j < PARTIES; j++) {
            CHECK(shared[j] == n);
        }
        CHECK(pass(&barrier, NS_FOREVER, i == 2 ? 5000 : 0, NULL) < PARTIES);
    }
}

static bool
count_action(void)
{
    for (int j = 0; j < PARTIES; j++) {
        CHECK(shared[j] == shared[0]);
    }
    actions++;
    sched_yield();
    return true;
}

/* The action sees what all parties wrote, and they see what it wrote. */
static void
lockstep_with_action(int i)
{
    for (int n = 1; n <= ROUNDS; n++) {
        shared[i] = n;
        CHECK(pass(&acting, NS_FOREVER, i == 1 ? 10000 : 0, count_action) < PARTIES);
        CHECK(actions == n);
        CHECK(pass(&barrier, NS_FOREVER, 0, NULL) < PARTIES);
    }
}

static bool
count_and_dawdle(void)
{
    actions++;
    sched_yield();
    return true;
}

static _Atomic int tickets;

/* Twice as many threads as parties: some come while the action runs, and arrive again. The tickets
 * fill the rounds, whichever threads take them. */
static void
crowd(int i)
{
    while (ns_add(&tickets, 1, NS_RELAXED) < PARTIES * ROUNDS) {
        CHECK(pass(&acting, NS_FOREVER, i == 1 ? 10000 : 0, count_and_dawdle) < PARTIES);
    }
}

static bool
fail_sometimes(void)
{
    return ++actions % 3 != 0;
}

/* Some give up, some actions fail, and a thread resets: a round ends in one way for all parties. */
static void
break_and_reset(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        if (i == PARTIES) {
            sched_yield();
            ns_barrier_reset(&acting);
            continue;
        }
        int64_t span = (i + n) % 5 == 0 ? 20000 : MILLISECOND;
        uint64_t outcome = pass(&acting, span, 0, fail_sometimes);
        CHECK(outcome < PARTIES || outcome == NS_BARRIER_BROKEN);
        ns_add(&failed, outcome == NS_BARRIER_BROKEN, NS_RELAXED);
    }
}

static int way;

/* A thread that finds the barrier broken has seen what came before it was. The way back from
 * broken publishes, too. */
static void
break_and_look(int i)
{
    if (i == 1) {
        const bool was = way == 2;
        while (ns_barrier_is_broken(&barrier) == was) {
            ns_pause();
        }
        CHECK(shared[0] == way);
        return;
    }
    ns_waiter w = {0};
    if (way == 1) {
        CHECK(!ns_barrier_steps.enter(&barrier, &w));
    }
    shared[0] = way;
    if (way == 0) {
        ns_barrier_abort(&barrier);
    }
    else if (way == 1) {
        CHECK(ns_barrier_give_up(&barrier, &w, true) == NS_BARRIER_BROKEN);
    }
    else {
        ns_barrier_reset(&barrier);
    }
}

#define CROWD 40

/* More sleepers than one batch of wake-ups. */
static void
wake_all(int i)
{
    if (i == 0) {
        while (ns_barrier_arrived(&barrier) != CROWD - 1) {
            sleep_ms(10);
        }
        sleep_ms(30); /* for them to fall asleep */
    }
    CHECK(pass(&barrier, NS_FOREVER, 0, NULL) < CROWD);
}

static bool
enter(ns_barrier *b, ns_waiter *w)
{
    *w = (ns_waiter){0};
    return ns_barrier_steps.enter(b, w);
}

static void
check_indices_count_up(void)
{
    ns_waiter w[3];
    make(&barrier, 3, false);
    CHECK(!enter(&barrier, &w[0]) && ns_barrier_arrived(&barrier) == 1);
    CHECK(!enter(&barrier, &w[1]) && ns_barrier_arrived(&barrier) == 2);
    CHECK(enter(&barrier, &w[2]) && ns_barrier_arrived(&barrier) == 0);
    for (unsigned i = 0; i < 3; i++) {
        CHECK(ns_barrier_steps.leave(&barrier, &w[i]) && w[i].place.amount == i);
        CHECK(ns_barrier_give_up(&barrier, &w[i], true) == i); /* too late */
    }
    CHECK(!ns_barrier_is_broken(&barrier));
    make(&barrier, 1, false);
    CHECK(enter(&barrier, &w[0]) && w[0].place.amount == 0);
}

static void
check_giving_up_breaks(void)
{
    ns_waiter w[3];
    for (int timed_out = 0; timed_out < 2; timed_out++) {
        make(&barrier, 3, false);
        CHECK(!enter(&barrier, &w[0]) && !enter(&barrier, &w[1]));
        CHECK(ns_barrier_give_up(&barrier, &w[0], timed_out) == NS_BARRIER_BROKEN);
        CHECK(ns_is_granted(&w[1]) && w[1].place.amount == NS_BARRIER_BROKEN);
        CHECK(!ns_is_granted(&w[0]) && ns_barrier_is_broken(&barrier));
        CHECK(enter(&barrier, &w[2]) && w[2].place.amount == NS_BARRIER_BROKEN);
        CHECK(ns_barrier_arrived(&barrier) == 0);
        ns_barrier_reset(&barrier);
        CHECK(!ns_barrier_is_broken(&barrier) && !enter(&barrier, &w[0]));
        ns_barrier_abort(&barrier);
        CHECK(w[0].place.amount == NS_BARRIER_BROKEN && ns_barrier_is_broken(&barrier));
    }
}

static void
check_late_waiter_learns_of_its_own_round(void)
{
    ns_waiter passed, broken, other;
    make(&barrier, 2, false);
    CHECK(!enter(&barrier, &passed) && enter(&barrier, &other));
    CHECK(!enter(&barrier, &broken));
    ns_barrier_abort(&barrier);
    ns_barrier_reset(&barrier);
    CHECK(!enter(&barrier, &other));
    CHECK(ns_is_granted(&passed) && passed.place.amount == 0);
    CHECK(ns_is_granted(&broken) && broken.place.amount == NS_BARRIER_BROKEN);
    ns_barrier_abort(&barrier);
}

static ns_waiter leader, first, second, latecomer;

static void
come_late(int i)
{
    (void)i;
    CHECK(!enter(&acting, &latecomer) && latecomer.place.amount == NS_BARRIER_AGAIN);
}

static void
fill_and_lead(void)
{
    make(&acting, 3, true);
    CHECK(!enter(&acting, &first) && !enter(&acting, &second) && enter(&acting, &leader));
    CHECK(leader.place.amount == NS_BARRIER_LEADS && !ns_is_granted(&first));
    CHECK(ns_barrier_arrived(&acting) == 3);
    run_threads(1, come_late);
    CHECK(ns_barrier_arrived(&acting) == 3);
}

static void
check_leaders(void)
{
    ns_waiter nested;
    fill_and_lead();
    CHECK(enter(&acting, &nested) && nested.place.amount == NS_BARRIER_NESTED);
    CHECK(ns_barrier_give_up(&acting, &first, true) == NS_BARRIER_WAITS_ON);
    CHECK(ns_barrier_give_up(&acting, &latecomer, true) == NS_BARRIER_WAITS_ON);
    CHECK(!ns_barrier_steps_in_line.enter(&acting, &first));
    ns_barrier_give_up(&acting, &second, false); /* leaves, and breaks nothing */
    CHECK(ns_barrier_finish(&acting, &leader, true) && !ns_barrier_is_broken(&acting));
    CHECK(ns_barrier_steps_in_line.enter(&acting, &first) && first.place.amount == 0);
    CHECK(ns_is_granted(&latecomer) && latecomer.place.amount == NS_BARRIER_AGAIN);
    CHECK(!ns_is_granted(&second) && ns_barrier_arrived(&acting) == 0);

    fill_and_lead(); /* the action fails */
    CHECK(!ns_barrier_finish(&acting, &leader, false) && ns_barrier_is_broken(&acting));
    CHECK(first.place.amount == NS_BARRIER_BROKEN && latecomer.place.amount == NS_BARRIER_AGAIN);

    fill_and_lead(); /* the leader does not get to run it */
    CHECK(ns_barrier_give_up(&acting, &leader, false) == NS_BARRIER_LEADS);
    CHECK(ns_barrier_is_broken(&acting) && second.place.amount == NS_BARRIER_BROKEN);

    for (int breaks = 0; breaks < 2; breaks++) { /* an abort or a reset comes first */
        fill_and_lead();
        (breaks ? ns_barrier_abort : ns_barrier_reset)(&acting);
        CHECK(first.place.amount == NS_BARRIER_BROKEN && ns_barrier_arrived(&acting) == 0);
        CHECK(ns_barrier_is_broken(&acting) == breaks);
        CHECK(enter(&acting, &nested) == breaks); /* it would arrive in the next round */
        CHECK(!ns_barrier_finish(&acting, &leader, true));
        CHECK(ns_barrier_is_broken(&acting) == breaks && ns_is_granted(&nested) == breaks);
        ns_barrier_abort(&acting);
    }
}

/* In the child of a fork nobody has arrived, except a waiter that comes back. */
static void
check_fork_drops_parties(void)
{
    ns_waiter gone, back, other;
    make(&barrier, 2, false);
    CHECK(!enter(&barrier, &back));
    pretend_to_fork();
    CHECK(ns_barrier_arrived(&barrier) == 0);
    ns_barrier_steps.rejoin(&barrier, &back);
    CHECK(ns_barrier_arrived(&barrier) == 1 && back.place.amount == 0);
    ns_barrier_steps.rejoin(&barrier, &back); /* again, as after each handler */
    CHECK(ns_barrier_arrived(&barrier) == 1);
    CHECK(enter(&barrier, &other) && ns_is_granted(&back));
    ns_barrier_steps.rejoin(&barrier, &back);
    CHECK(ns_barrier_arrived(&barrier) == 0);

    CHECK(!enter(&barrier, &gone));
    pretend_to_fork(); /* a waiter that raises in the child breaks nothing there */
    ns_barrier_give_up(&barrier, &gone, false);
    CHECK(!ns_barrier_is_broken(&barrier) && ns_barrier_arrived(&barrier) == 0);
    ns_barrier_abort(&barrier);
    pretend_to_fork();
    CHECK(ns_barrier_is_broken(&barrier) && enter(&barrier, &gone));

    fill_and_lead();
    pretend_to_fork(); /* in the child the leader passes, and its thread may arrive again */
    CHECK(ns_barrier_arrived(&acting) == 0 && !enter(&acting, &other));
    CHECK(ns_barrier_finish(&acting, &leader, true) && ns_barrier_arrived(&acting) == 1);
    CHECK(!ns_is_granted(&other));
    fill_and_lead();
    pretend_to_fork();
    CHECK(!ns_barrier_finish(&acting, &leader, false) && !ns_barrier_is_broken(&acting));
}

int
main(void)
{
    init_core();
    check_indices_count_up();
    check_giving_up_breaks();
    check_late_waiter_learns_of_its_own_round();
    check_leaders();
    check_fork_drops_parties();

    make(&barrier, PARTIES, false);
    run_threads(PARTIES, lockstep);
    make(&acting, PARTIES, true);
    run_threads(PARTIES, lockstep_with_action);
    actions = 0;
    make(&acting, PARTIES, true);
    run_threads(2 * PARTIES, crowd);
    CHECK(actions == ROUNDS && ns_barrier_arrived(&acting) == 0);
    make(&acting, PARTIES, true);
    run_threads(PARTIES + 1, break_and_reset);
    CHECK(ns_load(&failed, NS_RELAXED) > 0);
    for (way = 0; way < 3; way++) {
        make(&barrier, 2, false);
        if (way == 2) {
            ns_barrier_abort(&barrier);
        }
        shared[0] = -1;
        run_threads(2, break_and_look);
    }
    make(&barrier, CROWD, false);
    run_threads(CROWD, wake_all);
    puts("barrier: ok");
    return 0;
}
