/* Tests core/channel.h: every item is received once, in order, by those in line. Also what
 * time-outs, a close and a fork leave behind.
 */
#include "harness.h"

#include <setjmp.h>

/* If set, called before each store of channel.c. See check_fork_cuts_repair_short. */
static _Thread_local void (*at_store)(void);
#undef ns_store
#define ns_store(p, v, order) \
    (at_store != NULL ? at_store() : (void)0, ns_step atomic_store_explicit((p), (v), order))

#include "channel.c"

#undef ns_store
#define ns_store(p, v, order) (ns_step atomic_store_explicit((p), (v), order))

#define PAIRS 3 /* of senders and receivers */
#define MAX_SLOTS 64
#ifndef ROUNDS
#define ROUNDS 3000
#endif

#define LOST_WAKE_UP \
    (20000 * MILLISECOND) /* no thread waits this long, unless a wake-up was lost */

static ns_channel channel;
static ns_channel_slot slots[MAX_SLOTS];

static void
make(uint64_t capacity)
{
    channel = (ns_channel){.in = {0}};
    for (int i = 0; i < MAX_SLOTS; i++) {
        slots[i] = (ns_channel_slot){.turn = 0};
    }
    ns_channel_init(&channel, slots, capacity);
}

/* The items. They have no memory of their own. */
static char things[MAX_SLOTS];

static enum ns_channel_result
try_send(int thing)
{
    return ns_channel_try_send(&channel, &things[thing]);
}

/* The number of the item received; -1: there was none; -2: the channel was closed. */
static int
try_receive(void)
{
    void *item = NULL;
    switch (ns_channel_try_receive(&channel, &item)) {
    case NS_CHANNEL_DONE:
        return (int)((char *)item - things);
    case NS_CHANNEL_WOULD_WAIT:
        return -1;
    default:
        return -2;
    }
}

static ns_waiter
sending(int thing)
{
    return (ns_waiter){.place.amount = (uintptr_t)&things[thing]};
}

static int
received(ns_waiter *w)
{
    CHECK(ns_is_granted(w));
    return w->place.amount == 0 ? -2 : (int)((char *)(uintptr_t)w->place.amount - things);
}

static bool
sent(ns_waiter *w)
{
    CHECK(ns_is_granted(w));
    return w->place.amount == 0;
}

static const struct ns_wait_steps *const senders = &ns_channel_send_steps;
static const struct ns_wait_steps *const receivers = &ns_channel_receive_steps;

static bool
is_open(void)
{
    return ns_load(&channel.in.word, NS_RELAXED) & ns_load(&channel.out.word, NS_RELAXED) &
           NS_CHANNEL_OPEN;
}

/* Whether both ends can take the fast path, without the lock. */
static bool
is_fast(void)
{
    return ns_channel_is_fast(&channel.in, ns_load(&channel.in.word, NS_RELAXED)) &&
           ns_channel_is_fast(&channel.out, ns_load(&channel.out.word, NS_RELAXED));
}

/* A channel holds exactly its capacity, lap after lap. */
static void
check_capacity_is_exact(void)
{
    for (uint64_t capacity = 1; capacity <= 9; capacity++) {
        make(capacity);
        int next = 0, first = 0;
        for (uint64_t fill = 1; fill <= 3 * capacity; fill++) {
            uint64_t items = fill % capacity + 1;
            for (uint64_t n = 0; n < items; n++) {
                CHECK(ns_channel_count(&channel) == n);
                CHECK(try_send(next++ % MAX_SLOTS) == NS_CHANNEL_DONE);
            }
            CHECK(items < capacity || try_send(0) == NS_CHANNEL_WOULD_WAIT);
            uint64_t cursor = 0, seen = 0;
            for (char *item; (item = ns_channel_each(&channel, &cursor)) != NULL; seen++) {
                CHECK(item == &things[(first + (int)seen) % MAX_SLOTS]);
            }
            CHECK(seen == items);
            for (uint64_t n = 0; n < items; n++) {
                CHECK(try_receive() == first++ % MAX_SLOTS);
            }
            CHECK(try_receive() == -1 && ns_channel_count(&channel) == 0);
        }
    }
}

/* The order in which waiters are served, step by step, in a single thread. */
static void
check_order_of_service(void)
{
    make(2);
    ns_waiter a = {0}, b = {0};
    CHECK(!receivers->enter(&channel, &a) && !receivers->enter(&channel, &b));
    CHECK(try_receive() == -1);
    CHECK(try_send(1) == NS_CHANNEL_DONE && received(&a) == 1 && !ns_is_granted(&b));
    CHECK(!receivers->leave(&channel, &b)); /* skipped from now on */
    CHECK(try_send(2) == NS_CHANNEL_DONE && try_send(3) == NS_CHANNEL_DONE);
    CHECK(try_send(4) == NS_CHANNEL_WOULD_WAIT && ns_channel_count(&channel) == 2);
    CHECK(try_receive() == 2);
    receivers->rejoin(&channel, &b); /* gets what came meanwhile */
    CHECK(received(&b) == 3 && is_open() && ns_channel_count(&channel) == 0);

    CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
    ns_waiter c = sending(3), d = sending(4), e = sending(5);
    CHECK(!senders->enter(&channel, &c) && !senders->enter(&channel, &d));
    CHECK(!senders->enter(&channel, &e) && ns_channel_count(&channel) == 2);
    CHECK(!senders->leave(&channel, &c) && !senders->cancel(&channel, &e));
    CHECK(try_receive() == 1 && sent(&d)); /* in place of the sender that is away */
    CHECK(try_receive() == 2 && try_send(6) == NS_CHANNEL_DONE);
    senders->rejoin(&channel, &c);
    CHECK(!ns_is_granted(&c) && try_receive() == 4 && sent(&c));
    CHECK(try_receive() == 6 && try_receive() == 3 && try_receive() == -1 && is_open());
    CHECK(e.place.amount == (uintptr_t)&things[5]);

    a = (ns_waiter){0};
    CHECK(!receivers->enter(&channel, &a) && !receivers->cancel(&channel, &a) && is_open());
    c = sending(7);
    CHECK(senders->enter(&channel, &c) && sent(&c)); /* an item has left since the try */
    a = (ns_waiter){0};
    CHECK(receivers->enter(&channel, &a) && received(&a) == 7);

    a = (ns_waiter){0}; /* it is served just before its thread runs handlers: leave says so */
    CHECK(!receivers->enter(&channel, &a) && try_send(1) == NS_CHANNEL_DONE);
    CHECK(receivers->leave(&channel, &a) && received(&a) == 1 && is_open());
}

static void
check_unbuffered(void)
{
    make(0);
    CHECK(try_send(1) == NS_CHANNEL_WOULD_WAIT && try_receive() == -1);
    ns_waiter a = sending(1), b = sending(2), c = {0}, d = {0};
    CHECK(!senders->enter(&channel, &a) && !senders->enter(&channel, &b));
    CHECK(ns_channel_count(&channel) == 0 && !ns_is_granted(&a));
    CHECK(!senders->leave(&channel, &a));
    CHECK(try_receive() == 2 && sent(&b) && try_receive() == -1);
    CHECK(!receivers->enter(&channel, &c) && !receivers->enter(&channel, &d));
    CHECK(!receivers->leave(&channel, &c));
    senders->rejoin(&channel, &a);
    CHECK(sent(&a) && received(&d) == 1 && !ns_is_granted(&c));
    a = sending(3);
    CHECK(!senders->enter(&channel, &a)); /* its receiver is away */
    receivers->rejoin(&channel, &c);
    CHECK(sent(&a) && received(&c) == 3);
    c = (ns_waiter){0};
    CHECK(!receivers->enter(&channel, &c) && try_send(4) == NS_CHANNEL_DONE && received(&c) == 4);
    CHECK(!is_open());
}

static void
check_close_wakes_waiters(void)
{
    make(2);
    CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
    ns_waiter a = sending(3), b = sending(4);
    CHECK(!senders->enter(&channel, &a) && !senders->enter(&channel, &b));
    CHECK(!senders->leave(&channel, &b) && !ns_channel_is_closed(&channel));
    CHECK(ns_channel_close(&channel) && !ns_channel_close(&channel));
    CHECK(ns_channel_is_closed(&channel) && !sent(&a) && !ns_is_granted(&b));
    CHECK(try_send(5) == NS_CHANNEL_REFUSED && try_receive() == 1);
    senders->rejoin(&channel, &b);
    CHECK(!sent(&b) && b.place.amount == (uintptr_t)&things[4]);
    CHECK(try_receive() == 2 && try_receive() == -2 && try_receive() == -2);

    for (uint64_t capacity = 0; capacity < 2; capacity++) {
        make(capacity);
        ns_waiter c = {0}, d = {0}, e = {0};
        CHECK(!receivers->enter(&channel, &c) && !receivers->enter(&channel, &d));
        CHECK(!receivers->leave(&channel, &c) && ns_channel_close(&channel));
        CHECK(received(&d) == -2 && !ns_is_granted(&c));
        receivers->rejoin(&channel, &c);
        CHECK(received(&c) == -2);
        CHECK(receivers->enter(&channel, &e) && received(&e) == -2);
        a = sending(1);
        CHECK(senders->enter(&channel, &a) && !sent(&a) && try_receive() == -2);
    }
}

/* The first of two steps. The thread vanishes in a fork before it makes the second. */
static void
take_position(ns_channel_end *end)
{
    ns_store(&end->word, ns_channel_next(end, ns_load(&end->word, NS_RELAXED)), NS_RELAXED);
}

/* In the child everything that was sent is there in its order, and there are no waiters. A waiter
 * that comes back waits again. */
static void
check_fork_keeps_items_in_order(void)
{
    for (uint64_t capacity = 6; capacity <= 8; capacity++) {
        for (uint64_t before = 0; before < capacity; before++) {
            make(capacity);
            for (uint64_t n = 0; n < before; n++) {
                CHECK(try_send(0) == NS_CHANNEL_DONE && try_receive() == 0);
            }
            CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
            take_position(&channel.out); /* the receiver has 1 and is lost with it */
            take_position(&channel.in);
            CHECK(try_send(3) == NS_CHANNEL_DONE);
            take_position(&channel.in);
            CHECK(try_send(4) == NS_CHANNEL_DONE);
            uint64_t cursor = 0;
            for (int thing = 2; thing <= 4; thing++) {
                CHECK(ns_channel_each(&channel, &cursor) == &things[thing]);
            }
            CHECK(ns_channel_each(&channel, &cursor) == NULL);
            pretend_to_fork();
            for (uint64_t n = 3; n < capacity; n++) {
                CHECK(try_send((int)n + 2) == NS_CHANNEL_DONE);
            }
            CHECK(try_send(0) == NS_CHANNEL_WOULD_WAIT && ns_channel_count(&channel) == capacity);
            for (uint64_t n = 0; n < capacity; n++) {
                CHECK(try_receive() == (int)n + 2);
            }
            CHECK(try_receive() == -1 && is_fast());
        }
    }

    /* The first thread that comes repairs the channel, before it takes a position: positions of
     * living threads are not gaps. */
    for (int end = 0; end < 2; end++) {
        make(3);
        CHECK(try_send(1) == NS_CHANNEL_DONE);
        pretend_to_fork();
        CHECK(end == 0 ? try_send(2) == NS_CHANNEL_DONE : try_receive() == 1);
        CHECK(ns_load(&channel.in.generation, NS_RELAXED) == ns_fork_generation());
        CHECK(ns_load(&channel.out.generation, NS_RELAXED) == ns_fork_generation());
    }

    make(2);
    ns_waiter gone = {0}, back = {0}, away = sending(1);
    CHECK(!receivers->enter(&channel, &gone) && !receivers->enter(&channel, &back));
    CHECK(!receivers->leave(&channel, &back));
    pretend_to_fork();
    CHECK(try_receive() == -1 && is_open());
    receivers->rejoin(&channel, &back);
    CHECK(try_send(2) == NS_CHANNEL_DONE && received(&back) == 2 && !ns_is_granted(&gone));
    CHECK(try_send(3) == NS_CHANNEL_DONE && try_send(4) == NS_CHANNEL_DONE);
    CHECK(!senders->enter(&channel, &away) && !senders->leave(&channel, &away));
    CHECK(ns_channel_close(&channel));
    pretend_to_fork();
    CHECK(ns_channel_is_closed(&channel) && try_receive() == 3);
    senders->rejoin(&channel, &away);
    CHECK(!sent(&away) && try_receive() == 4 && try_receive() == -2);
}

static int stores;
static jmp_buf gone;

static void
fork_at_store(void)
{
    if (stores-- == 0) {
        at_store = NULL;
        longjmp(gone, 1);
    }
}

/* A child that forks in the middle of its repair may lose an item, but none comes twice. */
static void
check_fork_cuts_repair_short(void)
{
    volatile bool to_the_end = false;
    for (volatile int step = 0; !to_the_end; step++) {
        make(6);
        for (int thing = 1; thing <= 4; thing++) {
            CHECK(try_send(thing) == NS_CHANNEL_DONE);
            if (thing == 1) {
                take_position(&channel.in); /* a gap */
            }
        }
        pretend_to_fork();
        stores = step;
        if (setjmp(gone) == 0) {
            at_store = fork_at_store;
            lock(&channel);
            at_store = NULL;
            unlock(&channel);
            to_the_end = true;
        }
        pretend_to_fork();
        uint64_t cursor = 0, found = 0;
        while (ns_channel_each(&channel, &cursor) != NULL) {
            found++;
        }
        CHECK(found == 4 || (found == 3 && !to_the_end));
        int last = 0, thing;
        while ((thing = try_receive()) >= 0) {
            CHECK(thing > last);
            last = thing;
            found--;
        }
        CHECK(found == 0 && last >= 3 && is_fast());
        for (int n = 0; n < 6; n++) {
            CHECK(try_send(n) == NS_CHANNEL_DONE);
        }
        CHECK(try_send(6) == NS_CHANNEL_WOULD_WAIT);
    }
}

/* ---- Items that come back ---- */

static int called;

static void
count_calls(ns_waiter *w)
{
    for (; w != NULL; w = w->next_called) {
        called++;
    }
}

/* A receiver of a task: it is served while the channel is empty. */
static ns_waiter *
receive_by_task(void)
{
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    ns_store(&w->state, NS_CALLED, NS_RELAXED);
    CHECK(!receivers->enter(&channel, w));
    return w;
}

/* The task is cancelled before it runs. */
static void
give_back_and_free(ns_waiter *w)
{
    CHECK(receivers->cancel(&channel, w));
    receivers->undo(&channel, w);
    ns_waiter_free(w);
}

static void
check_item_comes_back(void)
{
    ns_call_waiters = count_calls;
    for (uint64_t capacity = 0; capacity < 3; capacity++) {
        /* To the head, ahead of what is in the ring. */
        make(capacity);
        called = 0;
        ns_waiter *a = receive_by_task(), *b = receive_by_task(), *c = receive_by_task();
        CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
        CHECK(try_send(3) == NS_CHANNEL_DONE && called == 3 && received(b) == 2);
        for (uint64_t n = 0; n < capacity; n++) {
            CHECK(try_send(4 + (int)n) == NS_CHANNEL_DONE);
        }
        /* Several come back in their old order, whatever the order of their cancellation. */
        give_back_and_free(b);
        CHECK(!is_open() && ns_channel_count(&channel) == capacity + 1);
        give_back_and_free(c);
        give_back_and_free(a);
        CHECK(ns_channel_count(&channel) == capacity + 3 && called == 3);
        uint64_t cursor = 0;
        for (int thing = 1; thing <= 3 + (int)capacity; thing++) {
            CHECK(ns_channel_each(&channel, &cursor) == &things[thing]);
        }
        CHECK(ns_channel_each(&channel, &cursor) == NULL);
        CHECK(ns_channel_each(&channel, &cursor) == NULL);
        /* They count against the capacity. */
        CHECK(try_send(7) == NS_CHANNEL_WOULD_WAIT);
        ns_waiter waits = sending(8);
        CHECK(!senders->enter(&channel, &waits));
        for (int thing = 1; thing <= 3; thing++) {
            CHECK(!ns_is_granted(&waits) && try_receive() == thing);
        }
        CHECK(!ns_is_granted(&waits));
        for (uint64_t n = 0; n < capacity; n++) {
            CHECK(try_receive() == 4 + (int)n && sent(&waits));
        }
        CHECK(try_receive() == 8 && sent(&waits) && try_receive() == -1);
        CHECK(is_open() == (capacity > 0) && ns_channel_count(&channel) == 0);

        /* With room for one more beside it. */
        a = receive_by_task();
        CHECK(try_send(1) == NS_CHANNEL_DONE);
        give_back_and_free(a);
        CHECK(try_send(2) == (capacity == 2 ? NS_CHANNEL_DONE : NS_CHANNEL_WOULD_WAIT));
        CHECK(try_send(3) == NS_CHANNEL_WOULD_WAIT && try_receive() == 1);
        CHECK(try_receive() == (capacity == 2 ? 2 : -1));

        /* To the first receiver in line. */
        a = receive_by_task();
        b = receive_by_task();
        ns_waiter d = {0};
        CHECK(!receivers->enter(&channel, &d));
        CHECK(try_send(5) == NS_CHANNEL_DONE && received(a) == 5);
        called = 0;
        give_back_and_free(a);
        CHECK(called == 1 && received(b) == 5 && !ns_is_granted(&d));
        give_back_and_free(b);
        CHECK(received(&d) == 5 && ns_channel_count(&channel) == 0 && is_open() == (capacity > 0));

        /* Closed: what came back is received, then the end. Refused receives give nothing back. */
        a = receive_by_task();
        b = receive_by_task();
        CHECK(try_send(6) == NS_CHANNEL_DONE && ns_channel_close(&channel));
        give_back_and_free(b);
        give_back_and_free(a);
        CHECK(try_send(7) == NS_CHANNEL_REFUSED && ns_channel_count(&channel) == 1);
        d = (ns_waiter){0};
        CHECK(receivers->enter(&channel, &d) && received(&d) == 6 && try_receive() == -2);
    }

    /* What is sent cannot be taken back. */
    make(0);
    ns_waiter s = sending(1);
    CHECK(!senders->enter(&channel, &s) && try_receive() == 1 && senders->cancel(&channel, &s));
    senders->undo(&channel, &s);
    CHECK(try_receive() == -1);
}

/* Its owner frees the waiter before or after the item is received. */
static void
check_memory_of_what_came_back(void)
{
    make(0);
    ns_waiter *a = receive_by_task(), *b = receive_by_task(), *c = receive_by_task();
    CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
    CHECK(try_send(3) == NS_CHANNEL_DONE);
    receivers->undo(&channel, a);
    receivers->undo(&channel, b);
    receivers->undo(&channel, c);
    ns_waiter_free(a);
    CHECK(try_receive() == 1 && try_receive() == 2);
    ns_waiter_free(b);
    ns_channel_destroy(&channel); /* with one that was never received */
    CHECK(channel.returned == NULL);
    ns_waiter_free(c);
}

/* In the child of a fork they are still there, and are counted. */
static void
check_fork_keeps_what_came_back(void)
{
    make(2);
    ns_waiter *a = receive_by_task(), *b = receive_by_task();
    CHECK(try_send(1) == NS_CHANNEL_DONE && try_send(2) == NS_CHANNEL_DONE);
    CHECK(try_send(3) == NS_CHANNEL_DONE);
    give_back_and_free(a);
    give_back_and_free(b);
    ns_sub(&channel.returns, 1, NS_RELAXED); /* a fork before the second was counted */
    pretend_to_fork();
    CHECK(try_send(4) == NS_CHANNEL_WOULD_WAIT && ns_channel_count(&channel) == 3);
    CHECK(try_receive() == 1 && try_receive() == 2 && try_receive() == 3);
    CHECK(try_receive() == -1 && is_fast());
}

/* A channel of zero bytes takes and gives nothing. Its init gives it its capacity. */
static void
check_zero_bytes_give_and_take_nothing(void)
{
    channel = (ns_channel){.in = {0}};
    CHECK(ns_channel_count(&channel) == 0);
    CHECK(try_send(1) == NS_CHANNEL_WOULD_WAIT && try_receive() == -1);
    uint64_t cursor = 0;
    CHECK(ns_channel_each(&channel, &cursor) == NULL);
    CHECK(ns_load(&channel.in.word, NS_RELAXED) == 0);
    /* Nor does a try take the lock, which init does not take either. */
    pretend_to_fork();
    CHECK(try_send(1) == NS_CHANNEL_WOULD_WAIT && try_receive() == -1);
    CHECK(ns_load(&channel.senders.lock.word, NS_RELAXED) == 0);
    make(2); /* for slots that are free */
    channel = (ns_channel){.in = {0}};
    CHECK(try_send(1) == NS_CHANNEL_WOULD_WAIT);
    ns_channel_init(&channel, slots, 2);
    CHECK(is_fast() && try_send(1) == NS_CHANNEL_DONE && try_receive() == 1);
}

/* A thread that waits for capacity during init finds none, or all that belongs to it. */
static void
wait_during_init(int i)
{
    if (i == 0) {
        ns_channel_init(&channel, slots, 2);
    }
    else {
        while (!ns_channel_linger_to_send(&channel)) {
        }
    }
}

/* A thread that sends and receives during init finds the ring whole or absent. */
static void
use_during_init(int i)
{
    if (i == 0) {
        ns_channel_init(&channel, slots, 2);
    }
    else {
        while (try_send(7) != NS_CHANNEL_DONE) {
        }
        CHECK(try_receive() == 7);
    }
}

/* A thread whose first look at the channel finds it open finds the ring whole. */
static void
receive_during_init(int i)
{
    if (i == 0) {
        ns_channel_init(&channel, slots, 2);
    }
    else {
        while (!(ns_load(&channel.out.word, NS_RELAXED) & NS_CHANNEL_OPEN)) {
            ns_pause();
        }
        CHECK(try_receive() == -1);
    }
}

static void
check_init_beside_waiting_and_use(void)
{
    for (int n = 0; n < 50; n++) {
        make(2); /* this makes free slots */
        channel = (ns_channel){.in = {0}};
        run_threads(2, wait_during_init);
        make(2);
        channel = (ns_channel){.in = {0}};
        run_threads(2, use_during_init);
        make(2);
        channel = (ns_channel){.in = {0}};
        run_threads(2, receive_during_init);
    }
}

/* An item that passes through. Its fields are plain, so a missing ordering is a race. */
struct item {
    int sender, number, times_received;
};

static struct item sent_items[PAIRS][ROUNDS];
static _Atomic int senders_left, received_items, given_up;

/* Returns whether the item was sent. Some senders have a short deadline, some leave and rejoin all
 * the time. */
static bool
send_item(struct item *item, int64_t deadline, int64_t slice)
{
    enum ns_channel_result result;
    while ((result = ns_channel_try_send(&channel, item)) == NS_CHANNEL_WOULD_WAIT &&
           ns_channel_linger_to_send(&channel)) {
    }
    if (result == NS_CHANNEL_WOULD_WAIT) {
        ns_waiter *w = ns_waiter_new();
        CHECK(w != NULL);
        w->place.amount = (uintptr_t)item;
        bool served = drive(senders, &channel, w, deadline, slice);
        result = !served                ? NS_CHANNEL_WOULD_WAIT
                 : w->place.amount == 0 ? NS_CHANNEL_DONE
                                        : NS_CHANNEL_REFUSED;
        ns_waiter_free(w);
    }
    CHECK(result != NS_CHANNEL_REFUSED);
    return result == NS_CHANNEL_DONE;
}

static enum ns_channel_result
receive_item(struct item **item, int64_t deadline, int64_t slice)
{
    enum ns_channel_result result;
    while ((result = ns_channel_try_receive(&channel, (void **)item)) == NS_CHANNEL_WOULD_WAIT &&
           ns_channel_linger_to_receive(&channel)) {
    }
    if (result == NS_CHANNEL_WOULD_WAIT) {
        ns_waiter *w = ns_waiter_new();
        CHECK(w != NULL);
        if (drive(receivers, &channel, w, deadline, slice)) {
            *item = (struct item *)(uintptr_t)w->place.amount;
            result = *item ? NS_CHANNEL_DONE : NS_CHANNEL_REFUSED;
        }
        ns_waiter_free(w);
    }
    return result;
}

static void
send_or_receive(int i)
{
    const int64_t slice = i % PAIRS == 1 ? 5000 : 0;
    if (i < PAIRS) {
        for (int n = 0; n < ROUNDS; n++) {
            struct item *item = &sent_items[i][n];
            *item = (struct item){.sender = i, .number = n};
            for (bool hurry = n % 3 == 0;; hurry = false) {
                if (send_item(item, ns_now() + (hurry ? 20000 : LOST_WAKE_UP), slice)) {
                    break;
                }
                CHECK(hurry); /* else it missed its wake-up */
                ns_add(&given_up, 1, NS_RELAXED);
            }
        }
        if (ns_sub(&senders_left, 1, NS_RELAXED) == 1) {
            ns_channel_close(&channel);
        }
        return;
    }
    int last[PAIRS] = {-1, -1, -1};
    for (int n = 0;; n++) {
        struct item *item;
        bool hurry = n % 4 == 0;
        switch (receive_item(&item, ns_now() + (hurry ? 20000 : LOST_WAKE_UP), slice)) {
        case NS_CHANNEL_DONE:
            CHECK(item->number > last[item->sender]);
            last[item->sender] = item->number;
            CHECK(++item->times_received == 1);
            ns_add(&received_items, 1, NS_RELAXED);
            break;
        case NS_CHANNEL_WOULD_WAIT:
            CHECK(hurry);
            ns_add(&given_up, 1, NS_RELAXED);
            break;
        case NS_CHANNEL_REFUSED:
            return;
        }
    }
}

/* A thread that reads the count never sees more than the capacity, even if the ends move on between
 * its loads. */
static void
count_or_move(int i)
{
    for (int n = 0; n < 10 * ROUNDS; n++) {
        if (i == 0) {
            CHECK(ns_channel_count(&channel) <= 1);
        }
        else {
            CHECK(try_send(0) == NS_CHANNEL_DONE && try_receive() == 0);
        }
    }
}

#define TASKS 2
static _Atomic uint8_t item_seen[2 * ROUNDS];

/* Receives for a task that is cancelled at once. */
static void
receive_and_give_back(void)
{
    _Atomic bool was_called = false;
    ns_waiter *w = ns_waiter_new();
    CHECK(w != NULL);
    w->owner = &was_called;
    ns_store(&w->state, NS_CALLED, NS_RELAXED);
    if (receivers->enter(&channel, w)) {
        receivers->undo(&channel, w);
    }
    else if (receivers->cancel(&channel, w)) {
        receivers->undo(&channel, w);
        while (!ns_load(&was_called, NS_ACQUIRE)) {
            sched_yield();
        }
    }
    ns_waiter_free(w);
}

/* Two threads send, one receives, and others give back whatever they receive. */
static void
give_back_all_the_time(int i)
{
    static char items[2 * ROUNDS];
    if (i < 2) {
        for (int n = 0; n < ROUNDS; n++) {
            ns_waiter *w = ns_waiter_new();
            CHECK(w != NULL);
            char *item = &items[i * ROUNDS + n];
            if (ns_channel_try_send(&channel, item) != NS_CHANNEL_DONE) {
                w->place.amount = (uintptr_t)item;
                CHECK(drive(senders, &channel, w, ns_now() + LOST_WAKE_UP, 0) && sent(w));
            }
            ns_waiter_free(w);
        }
        return;
    }
    while (ns_load(&received_items, NS_RELAXED) < 2 * ROUNDS) {
        void *item;
        if (i > 2) {
            receive_and_give_back();
        }
        else if (ns_channel_try_receive(&channel, &item) == NS_CHANNEL_DONE) {
            CHECK(ns_add(&item_seen[(char *)item - items], 1, NS_RELAXED) == 0);
            ns_add(&received_items, 1, NS_RELAXED);
        }
        CHECK(ns_channel_count(&channel) <= 2 * ROUNDS);
    }
}

static void
check_items_come_back_all_the_time(void)
{
    ns_call_waiters = tell_owners;
    for (uint64_t capacity = 0; capacity < 3; capacity++) {
        make(capacity);
        for (int n = 0; n < 2 * ROUNDS; n++) {
            ns_store(&item_seen[n], 0, NS_RELAXED);
        }
        ns_store(&received_items, 0, NS_RELAXED);
        run_threads(3 + TASKS, give_back_all_the_time);
        CHECK(ns_channel_count(&channel) == 0 && try_receive() == -1);
        CHECK(capacity == 0 || is_fast());
    }
}

int
main(void)
{
    init_core();
    make(1);
    run_threads(2, count_or_move);
    check_zero_bytes_give_and_take_nothing();
    check_init_beside_waiting_and_use();
    check_capacity_is_exact();
    check_order_of_service();
    check_unbuffered();
    check_close_wakes_waiters();
    check_fork_keeps_items_in_order();
    check_fork_cuts_repair_short();
    check_item_comes_back();
    check_memory_of_what_came_back();
    check_fork_keeps_what_came_back();
    check_items_come_back_all_the_time();
    static const uint64_t capacities[] = {0, 1, 2, 3, 64};
    for (size_t n = 0; n < sizeof(capacities) / sizeof(*capacities); n++) {
        make(capacities[n]);
        ns_store(&senders_left, PAIRS, NS_RELAXED);
        ns_store(&received_items, 0, NS_RELAXED);
        run_threads(2 * PAIRS, send_or_receive);
        CHECK(ns_load(&received_items, NS_RELAXED) == PAIRS * ROUNDS);
        CHECK(ns_channel_count(&channel) == 0 && try_receive() == -2);
    }
    check_no_thread_spins();
    printf("channel: ok, %d gave up\n", ns_load(&given_up, NS_RELAXED));
    return 0;
}
