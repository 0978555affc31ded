/* Tests core/waiting/select.h: a selector is served once, by one case; what others brought
 * meanwhile goes to others. Every item is received exactly once, whatever meets, gives up or forks.
 */
#include "harness.h"

#include "waiting/select.h"

#include <sched.h>
#include <string.h>

#define MAX_CHANNELS 10
#define MAX_CAPACITY 8
#ifndef ROUNDS
#define ROUNDS 3000
#endif
#define LOST_WAKE_UP \
    (20000 * MILLISECOND) /* no thread waits this long, unless a wake-up was lost */

static ns_channel channels[MAX_CHANNELS];
static ns_channel_slot slots[MAX_CHANNELS][MAX_CAPACITY];
static ns_event event;
static ns_waitgroup group;
static const struct ns_wait_steps *const steps = &ns_select_steps;

static void
make(uint64_t capacity)
{
    memset(channels, 0, sizeof(channels));
    memset(slots, 0, sizeof(slots));
    for (int n = 0; n < MAX_CHANNELS; n++) {
        ns_channel_init(&channels[n], slots[n], capacity);
    }
    event = (ns_event){0};
    group = (ns_waitgroup){0};
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
}

/* Items are numbers from 1 on. */
static enum ns_channel_result
try_send(int channel, uintptr_t item)
{
    return ns_channel_try_send(&channels[channel], (void *)item);
}

static int
try_receive(int channel)
{
    void *item = NULL;
    switch (ns_channel_try_receive(&channels[channel], &item)) {
    case NS_CHANNEL_DONE:
        return (int)(uintptr_t)item;
    case NS_CHANNEL_WOULD_WAIT:
        return -1;
    default:
        return -2;
    }
}

static bool
is_open(int channel)
{
    return ns_load(&channels[channel].in.word, NS_RELAXED) &
           ns_load(&channels[channel].out.word, NS_RELAXED) & NS_CHANNEL_OPEN;
}

static ns_selector *
new_selector(uint32_t count)
{
    ns_selector *s = ns_selector_new(count);
    CHECK(s != NULL);
    return s;
}

static void
add_send(ns_selector *s, int channel, uintptr_t item)
{
    ns_selector_add(s, &ns_channel_send_line, &channels[channel], item);
}

static void
add_receive(ns_selector *s, int channel)
{
    ns_selector_add(s, &ns_channel_receive_line, &channels[channel], 0);
}

static void
add_event(ns_selector *s, ns_event *e)
{
    ns_selector_add(s, &ns_word_line, e, 1);
}

static bool
enter(ns_selector *s)
{
    return steps->enter(s, &s->waiter);
}

static bool
is_served(ns_selector *s)
{
    return ns_is_granted(&s->waiter);
}

/* Which case served a selector whose thread has not unlinked it yet. It does so now. */
static int
end(ns_selector *s)
{
    CHECK(steps->wait(s, &s->waiter, NS_FOREVER) == NS_SERVED);
    for (uint32_t n = 0; n < s->count; n++) {
        CHECK(!ns_waitq_has(&s->places[n]));
    }
    return (int)ns_selector_chosen(s);
}

static int
amount(ns_selector *s, int n)
{
    return (int)s->places[n].amount;
}

/* ---- Step by step, in a single thread ---- */

static void
check_ready_case_is_done_at_once(void)
{
    for (int ready = 0; ready < 5; ready++) {
        for (int only_try = 0; only_try < 2; only_try++) {
            make(1);
            CHECK(try_send(1, 9) == NS_CHANNEL_DONE);
            ns_selector *s = new_selector(5);
            add_receive(s, 0);
            add_send(s, 1, 5);
            add_event(s, &event);
            ns_selector_add(s, &ns_word_line, &group, 0);
            add_receive(s, 2);
            CHECK(!ns_selector_try(s) && is_open(0));
            if (!only_try) {
                CHECK(!enter(s) && !is_open(0) && !is_open(2));
                CHECK(!steps->cancel(s, &s->waiter) && is_open(0) && is_open(1) && is_open(2));
            }
            switch (ready) {
            case 0:
                CHECK(try_send(0, 7) == NS_CHANNEL_DONE);
                break;
            case 1:
                CHECK(try_receive(1) == 9);
                break;
            case 2:
                ns_event_set(&event);
                break;
            case 3:
                CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
                break;
            default:
                CHECK(ns_channel_close(&channels[2]));
                break;
            }
            CHECK(only_try ? ns_selector_try(s) : enter(s));
            CHECK(is_served(s) && (int)ns_selector_chosen(s) == ready);
            for (int n = 0; n < 5; n++) {
                CHECK(!ns_waitq_has(&s->places[n]));
            }
            CHECK(is_open(0) && is_open(1));
            CHECK(amount(s, 0) == (ready == 0 ? 7 : 0) && amount(s, 1) == (ready == 1 ? 0 : 5));
            CHECK(try_receive(1) == (ready == 1 ? 5 : 9) && try_receive(0) == -1);
            ns_selector_free(s);
        }
    }
}

/* Each kind of case ends the wait of a parked selector, once. */
static void
check_parked_selector_is_served_once(void)
{
    for (int ready = 0; ready < 5; ready++) {
        make(0);
        ns_selector *s = new_selector(5);
        add_receive(s, 0);
        add_send(s, 1, 5);
        add_event(s, &event);
        ns_selector_add(s, &ns_word_line, &group, 0);
        add_receive(s, 2);
        CHECK(!enter(s));
        CHECK(steps->wait(s, &s->waiter, ns_now() + MILLISECOND / 10) == NS_TIMED_OUT);
        for (int turn = 0; turn < 5; turn++) {
            /* The first of them is served, all others find nobody. */
            const bool first = turn == 0;
            switch ((ready + turn) % 5) {
            case 0:
                CHECK(try_send(0, 7) == (first ? NS_CHANNEL_DONE : NS_CHANNEL_WOULD_WAIT));
                break;
            case 1:
                CHECK(try_receive(1) == (first ? 5 : -1));
                break;
            case 2:
                ns_event_set(&event);
                break;
            case 3:
                CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
                break;
            default:
                CHECK(ns_channel_close(&channels[2]));
                break;
            }
            CHECK(is_served(s) && (int)ns_selector_chosen(s) == ready);
        }
        CHECK(end(s) == ready);
        CHECK(amount(s, 0) == (ready == 0 ? 7 : 0) && amount(s, 1) == (ready == 1 ? 0 : 5));
        ns_selector_free(s);
    }
}

/* A selector that was served elsewhere is passed by, and those behind it are served. */
static void
check_served_selector_is_passed_by(void)
{
    make(1);
    ns_selector *s = new_selector(2);
    ns_waiter behind = {0};
    add_receive(s, 0);
    add_receive(s, 1);
    CHECK(!enter(s) && !ns_channel_receive_steps.enter(&channels[1], &behind));
    CHECK(try_send(0, 1) == NS_CHANNEL_DONE && is_served(s));
    CHECK(try_send(1, 2) == NS_CHANNEL_DONE && ns_is_granted(&behind));
    CHECK(behind.place.amount == 2 && try_send(1, 3) == NS_CHANNEL_DONE && is_open(1));
    CHECK(end(s) == 0 && amount(s, 0) == 1 && amount(s, 1) == 0 && try_receive(1) == 3);
    ns_selector_free(s);

    /* Until its thread comes the other channel is frozen, and works. */
    s = new_selector(2);
    add_receive(s, 0);
    add_receive(s, 1);
    CHECK(!enter(s) && try_send(0, 1) == NS_CHANNEL_DONE && !is_open(1));
    CHECK(try_receive(1) == -1 && end(s) == 0 && is_open(1));
    ns_selector_free(s);
}

/* Two cases of one selector on one channel: to send and to receive. They never meet. */
static void
check_send_and_receive_of_one_selector_never_meet(void)
{
    for (int order = 0; order < 2; order++) {
        make(0);
        ns_selector *s = new_selector(3), *other = new_selector(2);
        add_send(s, 0, 5);
        add_receive(s, 0);
        add_receive(s, 0);
        CHECK(!ns_selector_try(s) && !enter(s) && !is_served(s));
        if (order == 0) {
            CHECK(try_receive(0) == 5 && end(s) == 0);
        }
        else {
            CHECK(try_send(0, 6) == NS_CHANNEL_DONE && end(s) > 0);
            CHECK(amount(s, end(s)) == 6);
        }
        CHECK(try_send(0, 7) == NS_CHANNEL_WOULD_WAIT && try_receive(0) == -1);
        ns_selector_free(s);

        /* Two such selectors meet, one way or the other. */
        s = new_selector(3);
        add_send(s, 0, 5);
        add_receive(s, 0);
        add_receive(s, 0);
        add_send(other, 0, 6);
        add_receive(other, 0);
        CHECK(!enter(s) && enter(other));
        int one = end(s), two = (int)ns_selector_chosen(other);
        CHECK((one == 0) != (two == 0));
        CHECK(one == 0 ? amount(other, 1) == 5 : amount(s, one) == 6);
        CHECK(one == 0 ? amount(s, 0) == 0 : amount(other, 0) == 0);
        CHECK(try_send(0, 7) == NS_CHANNEL_WOULD_WAIT && try_receive(0) == -1);
        ns_selector_free(s);
        ns_selector_free(other);

        /* With room for one item it sends to itself, in two turns. */
        make(1);
        s = new_selector(2);
        add_send(s, 0, 5);
        add_receive(s, 0);
        CHECK(enter(s) && ns_selector_chosen(s) == 0 && amount(s, 0) == 0 && amount(s, 1) == 0);
        ns_selector_free(s);
        s = new_selector(2);
        add_send(s, 0, 6);
        add_receive(s, 0);
        CHECK(enter(s) && ns_selector_chosen(s) == 1 && amount(s, 1) == 5 && amount(s, 0) == 6);
        ns_selector_free(s);
    }
}

/* A selector that enters finds another that was served elsewhere a moment ago. It is not served
 * then. A thread that comes later can serve it, and so can the next in line. */
static void
check_meeting_fails_if_one_was_served_elsewhere(void)
{
    for (int next = 0; next < 3; next++) {
        make(0);
        ns_selector *parked = new_selector(2), *active = new_selector(2);
        add_receive(parked, 0);
        add_receive(parked, 1);
        CHECK(!enter(parked) && try_send(1, 1) == NS_CHANNEL_DONE && is_served(parked));
        add_send(active, 0, 5);
        add_receive(active, 2);
        ns_waiter behind = {0};
        if (next == 2) { /* it meets the next one */
            CHECK(!ns_channel_receive_steps.enter(&channels[0], &behind));
            CHECK(enter(active) && ns_selector_chosen(active) == 0 && behind.place.amount == 5);
        }
        else {
            CHECK(!enter(active) && !is_served(active) && active->claim == 0);
            CHECK(next == 0 ? try_receive(0) == 5 : try_send(2, 6) == NS_CHANNEL_DONE);
            CHECK(end(active) == next && amount(active, 1) == (next == 0 ? 0 : 6));
        }
        CHECK(end(parked) == 1 && amount(parked, 1) == 1 && amount(parked, 0) == 0);
        ns_selector_free(parked);
        ns_selector_free(active);
    }
}

/* The same in the other direction: the parked one sends. */
static void
check_parked_sender_meets_entering_receiver(void)
{
    make(0);
    ns_selector *gone = new_selector(2), *parked = new_selector(2), *active = new_selector(3);
    add_send(gone, 0, 5);
    add_event(gone, &event);
    add_send(parked, 0, 6);
    add_send(parked, 1, 7);
    CHECK(!enter(gone) && !enter(parked));
    ns_event_set(&event);
    add_receive(active, 2);
    add_receive(active, 0);
    add_receive(active, 0);
    CHECK(enter(active) && ns_selector_chosen(active) > 0);
    CHECK(amount(active, (int)ns_selector_chosen(active)) == 6);
    CHECK(end(gone) == 1 && amount(gone, 0) == 5 && end(parked) == 0 && amount(parked, 0) == 0);
    CHECK(try_receive(1) == -1 && try_receive(0) == -1);
    ns_selector_free(gone);
    ns_selector_free(parked);
    ns_selector_free(active);
}

static void
check_selector_that_is_away_is_passed_by(void)
{
    make(1);
    ns_selector *s = new_selector(3);
    add_receive(s, 0);
    add_receive(s, 1);
    add_event(s, &event);
    CHECK(!enter(s) && !steps->leave(s, &s->waiter));
    CHECK(try_send(1, 2) == NS_CHANNEL_DONE && !is_served(s));
    CHECK(try_receive(1) == 2 && try_receive(0) == -1 && ns_channel_count(&channels[1]) == 0);
    steps->rejoin(s, &s->waiter);
    CHECK(!is_served(s) && try_send(0, 3) == NS_CHANNEL_DONE && end(s) == 0);
    ns_selector_free(s);

    for (int served = 0; served < 3; served++) { /* what came meanwhile serves it as it rejoins */
        make(1);
        s = new_selector(3);
        add_receive(s, 0);
        add_receive(s, 1);
        add_event(s, &event);
        CHECK(!enter(s) && !steps->leave(s, &s->waiter));
        if (served == 2) {
            ns_event_set(&event);
            ns_event_clear(&event);
        }
        else {
            CHECK(try_send(served, 4) == NS_CHANNEL_DONE);
        }
        CHECK(!is_served(s));
        steps->rejoin(s, &s->waiter);
        CHECK(is_served(s) && end(s) == served && is_open(0) && is_open(1));
        ns_selector_free(s);
    }

    s = new_selector(2); /* served just before it leaves */
    add_receive(s, 0);
    add_receive(s, 1);
    CHECK(!enter(s) && try_send(1, 5) == NS_CHANNEL_DONE);
    CHECK(steps->leave(s, &s->waiter) && is_open(0) && end(s) == 1 && amount(s, 1) == 5);
    ns_selector_free(s);
}

/* A selector that could meet itself does not meet one that is away, either. */
static void
check_selector_does_not_meet_one_that_is_away(void)
{
    for (int sends = 0; sends < 2; sends++) {
        make(0);
        const struct ns_wait_steps *others =
            sends ? &ns_channel_send_steps : &ns_channel_receive_steps;
        ns_waiter other = {.place.amount = sends ? 6 : 0};
        ns_selector *s = new_selector(2);
        add_send(s, 0, 5);
        add_receive(s, 0);
        CHECK(!enter(s) && !steps->leave(s, &s->waiter));
        CHECK(!others->enter(&channels[0], &other) && !others->leave(&channels[0], &other));
        steps->rejoin(s, &s->waiter);
        CHECK(!is_served(s) && !ns_is_granted(&other));
        others->rejoin(&channels[0], &other);
        CHECK(ns_is_granted(&other) && end(s) == sends);
        CHECK(sends ? amount(s, 1) == 6 : other.place.amount == 5);
        ns_selector_free(s);
    }
}

/* Many cases send to one channel and receive from it. Another waiter comes while they are away. */
static void
check_many_places_in_one_line(void)
{
    for (int sends = 0; sends < 2; sends++) {
        make(0);
        ns_selector *s = new_selector(40);
        for (int n = 0; n < 20; n++) {
            add_receive(s, 0);
            add_send(s, 0, (uintptr_t)(100 + n));
        }
        CHECK(!enter(s) && !steps->leave(s, &s->waiter));
        CHECK(try_receive(0) == -1 && try_send(0, 7) == NS_CHANNEL_WOULD_WAIT);
        ns_waiter other = {0};
        other.place.amount = sends ? 0 : 7;
        const struct ns_wait_steps *others =
            sends ? &ns_channel_receive_steps : &ns_channel_send_steps;
        CHECK(!others->enter(&channels[0], &other));
        steps->rejoin(s, &s->waiter);
        CHECK(is_served(s) && ns_is_granted(&other));
        const int chosen = end(s);
        CHECK(chosen % 2 == sends && amount(s, chosen) == (sends ? 0 : 7));
        CHECK(!sends || other.place.amount == (uint64_t)(100 + chosen / 2));
        CHECK(try_receive(0) == -1 && try_send(0, 8) == NS_CHANNEL_WOULD_WAIT);
        ns_selector_free(s);
    }
}

static void
check_cancel_unlinks_all_places(void)
{
    for (int served = 0; served < 2; served++) {
        make(1);
        ns_selector *s = new_selector(3);
        add_receive(s, 0);
        add_receive(s, 1);
        add_event(s, &event);
        CHECK(!enter(s) && ns_waiter_cancel(&s->waiter) && !ns_waiter_cancel(&s->waiter));
        CHECK(steps->wait(s, &s->waiter, NS_FOREVER) == NS_WAS_CANCELLED);
        CHECK(!served || try_send(0, 1) == NS_CHANNEL_DONE);
        CHECK(steps->cancel(s, &s->waiter) == served && is_open(0) && is_open(1));
        CHECK(amount(s, 0) == served && (!served || ns_selector_chosen(s) == 0));
        ns_event_set(&event);
        CHECK(try_send(1, 2) == NS_CHANNEL_DONE && try_receive(1) == 2);
        ns_selector_free(s);
    }
}

/* A closed channel is ready for both: a send is refused, a receive is too once it is drained. */
static void
check_closed_channels(void)
{
    make(2);
    CHECK(try_send(0, 1) == NS_CHANNEL_DONE && ns_channel_close(&channels[0]));
    ns_selector *parked = new_selector(2); /* one that waits to send is refused */
    CHECK(try_send(1, 1) == NS_CHANNEL_DONE && try_send(1, 1) == NS_CHANNEL_DONE);
    add_receive(parked, 2);
    add_send(parked, 1, 5);
    CHECK(!enter(parked) && ns_channel_close(&channels[1]));
    CHECK(end(parked) == 1 && amount(parked, 1) == 5);
    ns_selector_free(parked);
    for (int turn = 0; turn < 3; turn++) {
        ns_selector *s = new_selector(1);
        add_receive(s, 0);
        CHECK(enter(s) && amount(s, 0) == (turn == 0 ? 1 : 0));
        ns_selector_free(s);
        s = new_selector(1);
        add_send(s, 0, 5);
        CHECK(enter(s) && amount(s, 0) == 5);
        ns_selector_free(s);
    }
}

/* Each of several ready cases is chosen about equally often, however they share channels. */
static void
check_choice_is_fair(void)
{
    enum { CASES = 8, TURNS = 4000 };
    for (int way = 0; way < 3; way++) {
        int chosen[CASES] = {0};
        for (int turn = 0; turn < TURNS; turn++) {
            make(2);
            ns_selector *s = new_selector(CASES);
            for (int n = 0; n < CASES; n++) {
                if (way == 0) { /* channels of their own */
                    CHECK(try_send(n, 1) == NS_CHANNEL_DONE);
                    add_receive(s, n);
                }
                else if (way == 1) { /* one channel */
                    CHECK(n != 0 || try_send(0, 1) == NS_CHANNEL_DONE);
                    add_receive(s, 0);
                }
                else { /* one channel, to send and to receive */
                    CHECK(n != 0 || try_send(0, 1) == NS_CHANNEL_DONE);
                    if (n % 2) {
                        add_receive(s, 0);
                    }
                    else {
                        add_send(s, 0, 2);
                    }
                }
            }
            CHECK(turn % 2 ? enter(s) : ns_selector_try(s));
            chosen[ns_selector_chosen(s)]++;
            ns_selector_free(s);
        }
        for (int n = 0; n < CASES; n++) {
            CHECK(chosen[n] > TURNS / 20 && chosen[n] < TURNS / 5);
        }
    }
}

/* In the child of a fork all queues are empty. A selector whose thread forked in a handler is
 * linked again as it rejoins; others are gone. */
static void
check_fork(void)
{
    make(1);
    ns_selector *gone = new_selector(2), *back = new_selector(3);
    add_receive(gone, 0);
    add_receive(gone, 1);
    add_receive(back, 0);
    add_receive(back, 1);
    add_event(back, &event);
    CHECK(!enter(gone) && !enter(back) && !steps->leave(back, &back->waiter));
    pretend_to_fork();
    CHECK(try_receive(0) == -1 && is_open(0));
    steps->rejoin(back, &back->waiter);
    CHECK(!is_served(back) && !is_open(0) && !is_open(1));
    ns_event_set(&event);
    CHECK(end(back) == 2 && is_open(0) && is_open(1));
    CHECK(try_send(0, 1) == NS_CHANNEL_DONE && !is_served(gone));
    CHECK(!steps->cancel(gone, &gone->waiter));
    ns_selector_free(gone);
    ns_selector_free(back);
}

/* More events than there are queues for words: several cases share a lock, and it is taken once. */
static void
check_cases_that_share_a_lock(void)
{
    enum { EVENTS = 200 };
    static ns_event many[EVENTS];
    for (int chosen = 0; chosen < EVENTS; chosen += 7) {
        ns_selector *s = new_selector(EVENTS);
        for (int n = 0; n < EVENTS; n++) {
            add_event(s, &many[n]);
        }
        CHECK(!ns_selector_try(s) && !enter(s));
        ns_event_set(&many[chosen]);
        ns_event_set(&many[(chosen + 1) % EVENTS]);
        CHECK(end(s) == chosen);
        ns_event_clear(&many[chosen]);
        ns_event_clear(&many[(chosen + 1) % EVENTS]);
        ns_selector_free(s);
    }
    ns_selector *s = new_selector(2); /* one event twice */
    add_event(s, &many[0]);
    add_event(s, &many[0]);
    CHECK(!enter(s));
    ns_event_set(&many[0]);
    end(s);
    ns_selector_free(s);
}

/* A thread looks out for channels, and for words beside channels, until one of them is frozen. */
static void
check_lingering(void)
{
    make(1);
    ns_selector *words = new_selector(2), *s = new_selector(4);
    add_event(words, &event);
    ns_selector_add(words, &ns_word_line, &group, 0);
    add_receive(s, 0);
    add_event(s, &event);
    ns_selector_add(s, &ns_word_line, &group, 0);
    add_send(s, 1, 5);
    CHECK(ns_selector_linger(s)); /* there is room */
    CHECK(try_send(1, 9) == NS_CHANNEL_DONE);
    CHECK(!ns_selector_linger(s));
    CHECK(try_send(0, 9) == NS_CHANNEL_DONE && ns_selector_linger(s) && try_receive(0) == 9);
    ns_event_set(&event);
    CHECK(ns_selector_linger(s) && !ns_selector_linger(words));
    event = (ns_event){0};
    CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED && ns_selector_linger(s));
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED && !ns_selector_linger(s));
    CHECK(is_open(0) && is_open(1)); /* it was not in line */
    CHECK(ns_channel_close(&channels[0]) && !ns_selector_linger(s));
    ns_selector_free(s);
    ns_selector_free(words);
}

static void
check_selector_without_cases_sleeps(void)
{
    ns_selector *s = new_selector(0);
    CHECK(!ns_selector_try(s) && !enter(s));
    CHECK(steps->wait(s, &s->waiter, ns_now() + MILLISECOND) == NS_TIMED_OUT);
    CHECK(!steps->leave(s, &s->waiter));
    steps->rejoin(s, &s->waiter);
    CHECK(ns_waiter_cancel(&s->waiter));
    CHECK(steps->wait(s, &s->waiter, NS_FOREVER) == NS_WAS_CANCELLED);
    CHECK(!steps->cancel(s, &s->waiter));
    ns_selector_free(s);
}

/* ---- Selectors that are called ---- */

static int called;
static ns_waiter *last_called;

static void
note_calls(ns_waiter *w)
{
    for (; w != NULL; w = w->next_called) {
        called++;
        last_called = w;
    }
}

static ns_selector *
new_called(uint32_t count)
{
    ns_selector *s = new_selector(count);
    ns_store(&s->waiter.state, NS_CALLED, NS_RELAXED);
    return s;
}

static void
check_called_selectors(void)
{
    make(1);
    ns_selector *s = new_called(2);
    add_receive(s, 0);
    add_event(s, &event);
    CHECK(!enter(s) && try_send(0, 1) == NS_CHANNEL_DONE && called == 1);
    CHECK(last_called == &s->waiter && steps->cancel(s, &s->waiter) && amount(s, 0) == 1);
    ns_event_set(&event);
    CHECK(called == 1);
    ns_selector_free(s);

    s = new_called(2); /* served at once: not called */
    add_receive(s, 0);
    add_event(s, &event);
    CHECK(enter(s) && called == 1 && ns_selector_chosen(s) == 1);
    ns_selector_free(s);
    ns_event_clear(&event);

    s = new_called(2); /* cancelled: not called */
    add_receive(s, 0);
    add_event(s, &event);
    CHECK(!enter(s) && !steps->cancel(s, &s->waiter) && is_open(0));
    ns_event_set(&event);
    CHECK(called == 1);
    ns_selector_free(s);
    ns_event_clear(&event);

    /* What it received comes back, and its memory holds it. */
    s = new_called(2);
    add_event(s, &event);
    add_receive(s, 0);
    CHECK(!enter(s) && try_send(0, 2) == NS_CHANNEL_DONE && try_send(0, 3) == NS_CHANNEL_DONE);
    CHECK(steps->cancel(s, &s->waiter) && called == 2);
    steps->undo(s, &s->waiter);
    ns_selector_free(s);
    CHECK(!is_open(0) && ns_channel_count(&channels[0]) == 2);
    CHECK(try_receive(0) == 2 && is_open(0) && try_receive(0) == 3);

    s = new_called(1); /* an event needs no giving back */
    add_event(s, &event);
    CHECK(!enter(s));
    ns_event_set(&event);
    CHECK(steps->cancel(s, &s->waiter) && called == 3);
    steps->undo(s, &s->waiter);
    ns_selector_free(s);
    called = 0;
}

/* ---- Many threads ---- */

#define MAX_ITEMS 100000
static _Atomic uint32_t seen[MAX_ITEMS + 1];
static _Atomic uint32_t sent_count, received_count;

static void
note_received(uintptr_t item)
{
    CHECK(item > 0 && item <= MAX_ITEMS && ns_add(&seen[item], 1, NS_RELAXED) == 0);
    ns_add(&received_count, 1, NS_RELAXED);
}

static void
forget_items(void)
{
    memset(seen, 0, sizeof(seen));
    ns_store(&sent_count, 0, NS_RELAXED);
    ns_store(&received_count, 0, NS_RELAXED);
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 8;
}

#define THREADS 6
static bool with_handlers; /* threads leave and rejoin all the time */

/* Half of the threads send, each item to one of three channels; half receive from all. */
static void
send_or_receive(int i)
{
    uint32_t seed = (uint32_t)i + 1;
    for (int n = 0; n < ROUNDS; n++) {
        int64_t slice = with_handlers && next_random(&seed) % 4 == 0 ? 3000 : 0;
        if (i % 2 == 0) {
            ns_selector *s = new_selector(3);
            for (int k = 0; k < 3; k++) {
                add_send(s,
                         (int)(next_random(&seed) % MAX_CHANNELS),
                         (uintptr_t)(i / 2 * ROUNDS + n + 1));
            }
            CHECK(drive(steps, s, &s->waiter, ns_now() + LOST_WAKE_UP, slice));
            CHECK(s->places[ns_selector_chosen(s)].amount == 0);
            ns_selector_free(s);
        }
        else {
            ns_selector *s = new_selector(MAX_CHANNELS);
            for (int k = 0; k < MAX_CHANNELS; k++) {
                add_receive(s, k);
            }
            CHECK(drive(steps, s, &s->waiter, ns_now() + LOST_WAKE_UP, slice));
            note_received(s->places[ns_selector_chosen(s)].amount);
            ns_selector_free(s);
        }
    }
}

static void
check_every_item_is_received_once(void)
{
    for (uint64_t capacity = 0; capacity < 3; capacity++) {
        make(capacity);
        forget_items();
        with_handlers = capacity != 1;
        run_threads(THREADS, send_or_receive);
        CHECK(received_count == THREADS / 2 * ROUNDS);
        for (int n = 0; n < MAX_CHANNELS; n++) {
            CHECK(try_receive(n) == -1 && (capacity == 0 || is_open(n)));
        }
    }
}

/* Two threads, each of which selects to send and to receive on the same two channels: each time the
 * two meet. */
static void
meet(int i)
{
    uint32_t seed = (uint32_t)i + 1;
    for (int n = 0; n < ROUNDS; n++) {
        ns_selector *s = new_selector(4);
        uintptr_t item = (uintptr_t)(i * ROUNDS + n + 1);
        for (uint32_t k = 0, from = next_random(&seed); k < 4; k++) {
            if ((from + k) % 4 < 2) {
                add_send(s, (int)((from + k) % 2), item);
            }
            else {
                add_receive(s, (int)((from + k) % 2));
            }
        }
        CHECK(
            drive(steps, s, &s->waiter, ns_now() + LOST_WAKE_UP, i == 0 && n % 8 == 0 ? 3000 : 0));
        uint32_t chosen = ns_selector_chosen(s);
        if (s->places[chosen].line == &ns_channel_receive_line) {
            CHECK((s->places[chosen].amount - 1) / ROUNDS == (uintptr_t)(1 - i)); /* the other's */
            note_received(s->places[chosen].amount);
        }
        else {
            ns_add(&sent_count, 1, NS_RELAXED);
        }
        ns_selector_free(s);
    }
}

/* Three threads in a circle, each of which sends to the next and receives from the one before. Some
 * give up, so that the others have to find out. */
static void
meet_in_a_circle(int i)
{
    uint32_t seed = (uint32_t)i + 1;
    for (int n = 0; n < ROUNDS; n++) {
        ns_selector *s = new_selector(3);
        add_receive(s, i);
        add_send(s, (i + 1) % 3, (uintptr_t)(i * ROUNDS + n + 1));
        add_receive(s, (i + 1) % 3);
        int64_t deadline = ns_now() + (int64_t)(next_random(&seed) % 50000);
        if (drive(steps, s, &s->waiter, deadline, 0)) {
            uint32_t chosen = ns_selector_chosen(s);
            if (chosen == 1) {
                ns_add(&sent_count, 1, NS_RELAXED);
            }
            else {
                note_received(s->places[chosen].amount);
            }
        }
        ns_selector_free(s);
    }
}

static void
check_rendezvous_selectors_meet(void)
{
    make(0);
    forget_items();
    run_threads(2, meet);
    CHECK(sent_count == ROUNDS && received_count == ROUNDS);
    forget_items();
    run_threads(3, meet_in_a_circle);
    CHECK(sent_count == received_count);
}

/* Many selectors at once, of which each gets one item. They have no threads. */
#define SELECTORS 1000
static ns_selector *selectors[SELECTORS];
static _Atomic uint32_t calls;
#define SENDERS 4

static void
count_calls(ns_waiter *w)
{
    for (; w != NULL; w = w->next_called) {
        ns_add(&calls, 1, NS_RELAXED);
    }
}

static void
enter_many_or_send(int i)
{
    uint32_t seed = (uint32_t)i + 1;
    if (i >= SENDERS) {
        for (int n = i - SENDERS; n < SELECTORS; n += 2) {
            ns_selector *s = selectors[n] = new_called(1 + (uint32_t)n % MAX_CHANNELS);
            for (int k = 0; k < 1 + n % MAX_CHANNELS; k++) {
                add_receive(s, (int)(next_random(&seed) % MAX_CHANNELS));
            }
            if (enter(s)) {
                ns_add(&calls, 1, NS_RELAXED);
            }
        }
        return;
    }
    for (int n = i; n < SELECTORS; n += SENDERS) { /* to any channel where a selector waits */
        ns_selector *s = new_selector(MAX_CHANNELS);
        for (int k = 0; k < MAX_CHANNELS; k++) {
            add_send(s, k, (uintptr_t)n + 1);
        }
        CHECK(drive(steps, s, &s->waiter, ns_now() + LOST_WAKE_UP, 0));
        ns_selector_free(s);
    }
}

static void
check_many_selectors_on_few_channels(void)
{
    ns_call_waiters = count_calls;
    for (int turn = 0; turn < 5; turn++) {
        make(0);
        forget_items();
        ns_store(&calls, 0, NS_RELAXED);
        run_threads(SENDERS + 2, enter_many_or_send);
        CHECK(calls == SELECTORS);
        for (int n = 0; n < SELECTORS; n++) {
            ns_selector *s = selectors[n];
            CHECK(steps->cancel(s, &s->waiter));
            note_received(s->places[ns_selector_chosen(s)].amount);
            ns_selector_free(s);
        }
        CHECK(received_count == SELECTORS);
    }
}

/* Selectors that receive or wait for an event are cancelled all the time, by another thread and by
 * their deadlines. Nothing is lost. */
static pthread_mutex_t targets_lock = PTHREAD_MUTEX_INITIALIZER;
static ns_waiter *targets[THREADS];
static _Atomic bool over;

static void
set_target(int i, ns_waiter *w)
{
    pthread_mutex_lock(&targets_lock);
    targets[i] = w;
    pthread_mutex_unlock(&targets_lock);
}

static void
cancel_at_random(int i)
{
    uint32_t seed = (uint32_t)i + 1;
    if (i == 0) { /* the canceller */
        while (!ns_load(&over, NS_RELAXED)) {
            pthread_mutex_lock(&targets_lock);
            ns_waiter *w = targets[next_random(&seed) % THREADS];
            if (w != NULL) {
                ns_waiter_cancel(w);
            }
            pthread_mutex_unlock(&targets_lock);
            sched_yield();
        }
        return;
    }
    if (i == 1) { /* the sender */
        for (uintptr_t n = 1; n <= ROUNDS; n++) {
            ns_selector *s = new_selector(2);
            add_send(s, 0, n);
            add_send(s, 1, n);
            CHECK(drive(steps, s, &s->waiter, ns_now() + LOST_WAKE_UP, 0));
            ns_selector_free(s);
            if (n % 16 == 0) {
                ns_event_set(&event);
                ns_event_clear(&event);
            }
        }
        while (ns_load(&received_count, NS_RELAXED) != ROUNDS) {
            sched_yield();
        }
        ns_store(&over, true, NS_RELAXED);
        return;
    }
    while (!ns_load(&over, NS_RELAXED)) {
        ns_selector *s = new_selector(3);
        add_receive(s, 0);
        add_event(s, &event);
        add_receive(s, 1);
        set_target(i, &s->waiter);
        int64_t deadline = ns_now() + (int64_t)(next_random(&seed) % 200000);
        bool served = drive(steps, s, &s->waiter, deadline, i == 2 ? 5000 : 0);
        set_target(i, NULL);
        if (served && ns_selector_chosen(s) != 1) {
            note_received(s->places[ns_selector_chosen(s)].amount);
        }
        ns_selector_free(s);
    }
}

static void
check_cancelled_selectors_lose_nothing(void)
{
    for (uint64_t capacity = 0; capacity < 2; capacity++) {
        make(capacity);
        forget_items();
        ns_store(&over, false, NS_RELAXED);
        run_threads(THREADS, cancel_at_random);
        CHECK(received_count == ROUNDS && try_receive(0) == -1 && try_receive(1) == -1);
    }
}

/* Two threads select over the same cases in opposite order: they take the locks in one order. */
static void
select_in_both_orders(int i)
{
    for (int n = 0; n < ROUNDS; n++) {
        ns_selector *s = new_selector(MAX_CHANNELS + 1);
        for (int k = 0; k < MAX_CHANNELS; k++) {
            add_receive(s, i == 0 ? k : MAX_CHANNELS - 1 - k);
        }
        add_event(s, &event);
        CHECK(!ns_selector_try(s));
        CHECK(!drive(steps, s, &s->waiter, 0, 0));
        ns_selector_free(s);
    }
}

int
main(void)
{
    init_core();
    check_ready_case_is_done_at_once();
    check_parked_selector_is_served_once();
    check_served_selector_is_passed_by();
    check_send_and_receive_of_one_selector_never_meet();
    check_meeting_fails_if_one_was_served_elsewhere();
    check_parked_sender_meets_entering_receiver();
    check_selector_that_is_away_is_passed_by();
    check_selector_does_not_meet_one_that_is_away();
    check_many_places_in_one_line();
    check_cancel_unlinks_all_places();
    check_closed_channels();
    check_choice_is_fair();
    check_fork();
    check_cases_that_share_a_lock();
    check_lingering();
    check_selector_without_cases_sleeps();
    ns_call_waiters = note_calls;
    check_called_selectors();
    check_every_item_is_received_once();
    check_rendezvous_selectors_meet();
    check_many_selectors_on_few_channels();
    check_cancelled_selectors_lose_nothing();
    make(1);
    run_threads(2, select_in_both_orders);
    check_no_thread_spins();
    printf("select: ok\n");
    return 0;
}
