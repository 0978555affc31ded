#include "channel.h"

#ifndef NS_CHANNEL_SPIN
#define NS_CHANNEL_SPIN 10000 /* nanoseconds before a waiter sleeps */
#endif
#define SHORTEST_PACE 200 /* nanoseconds between two looks while it lingers */
#define LONGEST_PACE 2000

/* The bits that `lock` clears; tests/c has a mutant that clears none. */
#ifndef NS_CHANNEL_FREEZES
#define NS_CHANNEL_FREEZES NS_CHANNEL_OPEN
#endif

#define NAP 20000 /* nanoseconds, for a thread that was preempted between its two steps */

#define OPEN NS_CHANNEL_OPEN
#define CLOSED NS_CHANNEL_CLOSED
#define FULL NS_CHANNEL_FULL

/* ---- The ring, under the lock: with both ends frozen, their words are ours ---- */

static uint64_t
distance(const ns_channel_end *end, uint64_t from, uint64_t to)
{
    const uint64_t laps = (ns_channel_turn(end, to) - ns_channel_turn(end, from)) >> end->shift;
    return (laps >> NS_CHANNEL_SHIFT) * end->capacity + ns_channel_index(end, to) -
           ns_channel_index(end, from);
}

static uint64_t
count(ns_channel *c)
{
    return distance(&c->in, ns_load(&c->out.word, NS_RELAXED), ns_load(&c->in.word, NS_RELAXED));
}

/* Waits for the thread that took the position before to pass the turn on. */
static void
await(ns_channel_slot *slot, uint64_t turn)
{
    _Atomic uint32_t nothing = 0;
    for (int polls = 0; ns_load(&slot->turn, NS_CHANNEL_READ) != turn; polls++) {
        if (polls < NS_CHANNEL_POLLS) {
            ns_pause();
        }
        else {
            ns_park(&nothing, 0, ns_now() + NAP);
        }
    }
}

static void
push(ns_channel *c, void *item)
{
    ns_channel_end *in = &c->in;
    uint64_t word = ns_load(&in->word, NS_RELAXED), turn = ns_channel_turn(in, word);
    ns_channel_slot *slot = ns_channel_slot_at(in, word);
    await(slot, turn);
    slot->item = item;
    ns_store(&slot->turn, turn | FULL, NS_CHANNEL_PASS);
    ns_store(&in->word, ns_channel_next(in, word), NS_RELAXED);
}

static void *
pop(ns_channel *c)
{
    ns_channel_end *out = &c->out;
    uint64_t word = ns_load(&out->word, NS_RELAXED), turn = ns_channel_turn(out, word);
    ns_channel_slot *slot = ns_channel_slot_at(out, word);
    await(slot, turn | FULL);
    void *item = slot->item;
    ns_store(&slot->turn, ns_channel_lap_on(out, turn), NS_CHANNEL_PASS);
    ns_store(&out->word, ns_channel_next(out, word), NS_RELAXED);
    return item;
}

/* After a fork, before any other thread of this process was in the ring: moves the items up to
 * where threads that are gone left gaps, and gives all other slots the turn they should have. */
static void
mend(ns_channel *c)
{
    ns_channel_end *out = &c->out;
    const uint64_t first = ns_load(&out->word, NS_RELAXED) & ~(uint64_t)NS_CHANNEL_FLAGS;
    const uint64_t in = ns_load(&c->in.word, NS_RELAXED);
    uint64_t from = first, to = first;
    for (uint64_t n = count(c); n > 0; n--, from = ns_channel_next(out, from)) {
        ns_channel_slot *source = ns_channel_slot_at(out, from);
        if (ns_load(&source->turn, NS_RELAXED) == (ns_channel_turn(out, from) | FULL)) {
            ns_channel_slot *target = ns_channel_slot_at(out, to);
            if (target != source) { /* a fork must not find it in both: take it out first */
                void *item = source->item;
                ns_store(&source->turn, ns_channel_turn(out, from), NS_RELEASE);
                target->item = item;
                ns_store(&target->turn, ns_channel_turn(out, to) | FULL, NS_RELEASE);
            }
            to = ns_channel_next(out, to);
        }
    }
    const uint64_t end = to;
    for (uint64_t n = out->capacity - distance(out, first, end); n > 0; n--) {
        ns_channel_slot *slot = ns_channel_slot_at(out, to);
        uint64_t turn = ns_channel_turn(out, to);
        if (ns_load(&slot->turn, NS_RELAXED) != turn) { /* most were never touched */
            ns_store(&slot->turn, turn, NS_RELAXED);
        }
        to = ns_channel_next(out, to);
    }
    ns_store(&c->in.word, end | (in & NS_CHANNEL_FLAGS), NS_RELEASE);
    ns_store(&c->in.generation, ns_fork_generation(), NS_RELEASE);
    ns_store(&out->generation, ns_fork_generation(), NS_RELEASE);
}

/* ---- Items that were given back; under the lock ---- */

#define RETURNS_CHANGE (UINT64_C(1) << 32)

static uint64_t
returned_count(ns_channel *c)
{
    return ns_load(&c->returns, NS_RELAXED) % RETURNS_CHANGE;
}

static void
note_returned(ns_channel *c, uint64_t more)
{
    ns_add(&c->returns, RETURNS_CHANGE + more, NS_RELEASE);
}

/* A fork may have come between the change of the list and its count. */
static void
count_returned_again(ns_channel *c)
{
    uint64_t length = 0;
    for (const ns_place *p = c->returned; p != NULL; p = p->next) {
        length++;
    }
    note_returned(c, length - returned_count(c));
}

/* Keeps the item at p, behind those that were received before it. */
static void
put_back(ns_channel *c, ns_place *p)
{
    ns_place **at = &c->returned;
    while (*at != NULL && (int32_t)((*at)->ticket - p->ticket) < 0) {
        at = &(*at)->next;
    }
    ns_waiter_lend(p->waiter);
    p->next = *at;
    ns_fence(NS_RELEASE); /* a fork finds p in the list only with what follows it */
    *at = p;
    note_returned(c, 1);
}

static uint64_t
take_returned(ns_channel *c, ns_wakes *wakes)
{
    ns_place *p = c->returned;
    c->returned = p->next;
    note_returned(c, -UINT64_C(1));
    p->next = wakes->lent;
    wakes->lent = p;
    return p->amount;
}

/* ---- Waiting ---- */

/* Locks the queues and freezes both ends. From here on all that changes without us is that slots
 * become ready whose positions were taken before. */
static void
lock(void *object)
{
    ns_channel *c = object;
    if (ns_waitq_lock(&c->senders)) {
        c->receivers.head = c->receivers.tail = NULL;
        count_returned_again(c);
    }
    ns_and(&c->in.word, ~(uint64_t)NS_CHANNEL_FREEZES, NS_ACQUIRE);
    ns_and(&c->out.word, ~(uint64_t)NS_CHANNEL_FREEZES, NS_ACQUIRE);
    if (ns_unlikely(ns_load(&c->in.generation, NS_RELAXED) != ns_fork_generation())) {
        mend(c);
    }
}

static void
unlock(void *object)
{
    ns_channel *c = object;
    if (c->senders.head == NULL && c->receivers.head == NULL && c->returned == NULL &&
        c->in.capacity > 0) {
        if (!ns_channel_is_closed(c)) {
            ns_or(&c->in.word, OPEN, NS_RELEASE);
        }
        ns_or(&c->out.word, OPEN, NS_RELEASE);
    }
    ns_waitq_unlock(&c->senders);
}

void
ns_channel_init(ns_channel *c, ns_channel_slot *slots, uint64_t capacity)
{
    uint32_t shift = 0;
    while (UINT64_C(1) << shift < capacity) {
        shift++;
    }
    const uint64_t lap = UINT64_C(1) << shift << NS_CHANNEL_SHIFT;
    ns_channel_end *const ends[] = {&c->out, &c->in};
    for (int i = 0; i < 2; i++) {
        ends[i]->slots = slots;
        ends[i]->capacity = capacity;
        ends[i]->lap = lap;
        ends[i]->wrap = lap - ((capacity - 1) << NS_CHANNEL_SHIFT);
        ends[i]->shift = shift;
        ns_store(&ends[i]->generation, ns_fork_generation(), NS_RELAXED);
    }
    const uint64_t word = capacity > 0 ? OPEN : 0;
    ns_store(&c->out.word, word, NS_RELEASE);
    ns_store(&c->in.word, word, NS_RELEASE);
    ns_store(&c->in.is_initialized, true, NS_RELEASE);
}

/* Returns the first place from p on that is not away and of another waiter than `w`, or NULL. */
static ns_place *
first_of_others(ns_place *p, const ns_waiter *w)
{
    while (p != NULL && (p->away || p->waiter == w)) {
        p = p->next;
    }
    return p;
}

/* Of the first receiver and the first sender: makes them the first two of different waiters. False:
 * all are cases of one selector. */
static bool
find_pair(ns_place **r, ns_place **s)
{
    const ns_waiter *w = (*r)->waiter;
    if (w == (*s)->waiter) {
        ns_place *other = first_of_others(*s, w);
        *(other != NULL ? s : r) = other != NULL ? other : first_of_others(*r, w);
    }
    return *r != NULL;
}

/* Gives a receiver its item; 0: it is refused. */
static void
serve_receiver(ns_channel *c, ns_place *r, uint64_t item, ns_wakes *wakes)
{
    r->amount = item;
    r->ticket = c->tickets++;
    ns_grant(&c->receivers, r, wakes);
}

static void
serve_sender(ns_channel *c, ns_place *s, bool accepted, ns_wakes *wakes)
{
    s->amount = accepted ? 0 : s->amount;
    ns_grant(&c->senders, s, wakes);
}

/* Serves those in line, in order. Moves items: attached only. Each turn serves a waiter, or unlinks
 * a place whose waiter was served elsewhere. */
static void
serve(void *object, ns_wakes *wakes)
{
    ns_channel *c = object;
    const bool closed = ns_channel_is_closed(c);
    for (;;) {
        ns_place *r = ns_waitq_first(&c->receivers), *s = ns_waitq_first(&c->senders);
        ns_place *meets_r = r, *meets_s = s;
        const uint64_t items = count(c), returned = returned_count(c);
        if (r != NULL && returned + items > 0) { /* a receiver takes the first item */
            if (ns_claim(r)) {
                uint64_t item = returned > 0 ? take_returned(c, wakes) : (uintptr_t)pop(c);
                serve_receiver(c, r, item, wakes);
            }
        }
        else if (s != NULL && closed) { /* a sender is refused, and keeps its item */
            if (ns_claim(s)) {
                serve_sender(c, s, false, wakes);
            }
        }
        else if (r != NULL && s != NULL && find_pair(&meets_r, &meets_s)) {
            if (ns_claim_both(meets_r, meets_s)) { /* nothing is in the ring: the two meet */
                serve_receiver(c, meets_r, meets_s->amount, wakes);
                serve_sender(c, meets_s, true, wakes);
            }
        }
        else if (r != NULL && closed) {
            if (ns_claim(r)) {
                serve_receiver(c, r, 0, wakes);
            }
        }
        else if (s != NULL && returned + items < c->in.capacity) { /* there is room */
            if (ns_claim(s)) {
                push(c, (void *)(uintptr_t)s->amount);
                serve_sender(c, s, true, wakes);
            }
        }
        else {
            return;
        }
    }
}

/* `undo` of a receive: its item comes back, if there is one. */
static void
give_back(void *object, ns_place *p)
{
    ns_channel *c = object;
    ns_wakes wakes;
    if (p->amount != 0) {
        ns_wakes_init(&wakes);
        lock(c);
        put_back(c, p);
        ns_line_serve_and_unlock(&ns_channel_receive_line, c, &wakes);
    }
}

/* ---- Looking out, without the lock ---- */

/* Whether the slot at that position is ready: `full` is FULL or 0. */
static bool
is_ready(const ns_channel_end *end, uint64_t word, uint64_t full)
{
    return ns_load(&ns_channel_slot_at(end, word)->turn, NS_RELAXED) ==
           (ns_channel_turn(end, word) | full);
}

/* What a try at that end would find. `full`: FULL to receive, 0 to send. */
static enum ns_look
look(ns_channel_end *end, uint64_t full)
{
    uint64_t word = ns_load(&end->word, NS_ACQUIRE); /* it may get its ring just now */
    return !ns_channel_is_fast(end, word) ? NS_FROZEN
           : is_ready(end, word, full)    ? NS_READY
                                          : NS_NOT_READY;
}

static int64_t
pace_of(ns_channel_end *end)
{
    const int64_t pace = ns_load(&end->pace, NS_RELAXED);
    return pace < SHORTEST_PACE ? SHORTEST_PACE : pace;
}

/* To be called when a thread that looked in that pace has found it ready. */
static void
adapt_pace(ns_channel_end *end, uint64_t full, int64_t pace)
{
    const uint64_t next = ns_channel_next(end, ns_load(&end->word, NS_RELAXED));
    const int64_t better = is_ready(end, next, full) ? 2 * pace : pace / 2;
    if (better >= SHORTEST_PACE && better <= LONGEST_PACE) {
        ns_store(&end->pace, (uint32_t)better, NS_RELAXED);
    }
}

static enum ns_look
look_to_send(void *object, uint64_t item)
{
    (void)item;
    return look(&((ns_channel *)object)->in, 0);
}

static int64_t
pace_of_senders(void *object)
{
    return pace_of(&((ns_channel *)object)->in);
}

static void
adapt_pace_of_senders(void *object, int64_t pace)
{
    adapt_pace(&((ns_channel *)object)->in, 0, pace);
}

static enum ns_look
look_to_receive(void *object, uint64_t nothing)
{
    (void)nothing;
    return look(&((ns_channel *)object)->out, FULL);
}

static int64_t
pace_of_receivers(void *object)
{
    return pace_of(&((ns_channel *)object)->out);
}

static void
adapt_pace_of_receivers(void *object, int64_t pace)
{
    adapt_pace(&((ns_channel *)object)->out, FULL, pace);
}

static const struct ns_outlook to_send = {look_to_send, pace_of_senders, adapt_pace_of_senders};
static const struct ns_outlook to_receive = {
    look_to_receive, pace_of_receivers, adapt_pace_of_receivers};

/* ---- For wait.h ---- */

const struct ns_line ns_channel_send_line = {
    .queue = offsetof(ns_channel, senders),
    .guard = offsetof(ns_channel, senders),
    .spin = NS_CHANNEL_SPIN,
    .is_alike = true,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
    .outlook = &to_send,
};

const struct ns_line ns_channel_receive_line = {
    .queue = offsetof(ns_channel, receivers),
    .guard = offsetof(ns_channel, senders),
    .spin = NS_CHANNEL_SPIN,
    .is_alike = true,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
    .give_back = give_back,
    .outlook = &to_receive,
};

/* Whether ns_channel_init is over. Before that the lock guards nothing: init does not take it. */
static bool
is_initialized(ns_channel *c)
{
    return ns_load(&c->in.is_initialized, NS_ACQUIRE);
}

/* Queues w up for a moment. False if it was not served; it is not in line then. */
static bool
serve_at_once(ns_channel *c, ns_waitq *queue, ns_waiter *w)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    w->place.waiter = w;
    lock(c);
    ns_waitq_push(queue, &w->place);
    serve(c, &wakes);
    ns_waitq_remove(queue, &w->place);
    unlock(c);
    ns_wake(&wakes);
    return ns_is_granted(w);
}

enum ns_channel_result
ns_channel_try_send_slow(ns_channel *c, void *item)
{
    if (ns_unlikely(!is_initialized(c))) {
        return NS_CHANNEL_WOULD_WAIT;
    }
    if (ns_channel_is_closed(c)) {
        return NS_CHANNEL_REFUSED;
    }
    ns_waiter w = {.place.amount = (uintptr_t)item};
    return !serve_at_once(c, &c->senders, &w) ? NS_CHANNEL_WOULD_WAIT
           : w.place.amount == 0              ? NS_CHANNEL_DONE
                                              : NS_CHANNEL_REFUSED;
}

enum ns_channel_result
ns_channel_try_receive_slow(ns_channel *c, void **item)
{
    if (ns_unlikely(!is_initialized(c))) {
        return NS_CHANNEL_WOULD_WAIT;
    }
    ns_waiter w = {0};
    if (!serve_at_once(c, &c->receivers, &w)) {
        return NS_CHANNEL_WOULD_WAIT;
    }
    *item = (void *)(uintptr_t)w.place.amount;
    return w.place.amount == 0 ? NS_CHANNEL_REFUSED : NS_CHANNEL_DONE;
}

bool
ns_channel_close(ns_channel *c)
{
    lock(c);
    bool first = !(ns_or(&c->in.word, CLOSED, NS_RELAXED) & CLOSED);
    ns_line_serve_and_unlock(&ns_channel_receive_line, c, &(ns_wakes){0});
    return first;
}

/* What a thread lingers for, as ns_linger passes it on. */
typedef struct {
    const struct ns_outlook *outlook;
    ns_channel *channel;
} watched;

static enum ns_look
look_at(void *what)
{
    const watched *it = what;
    return it->outlook->look(it->channel, 0);
}

static bool
linger(ns_channel *c, const struct ns_outlook *outlook)
{
    int64_t pace = outlook->pace(c);
    const bool found = ns_linger(look_at, &(watched){outlook, c}, &pace) == NS_READY;
    if (found && pace != 0) {
        outlook->adapt(c, pace);
    }
    return found;
}

bool
ns_channel_linger_to_send(ns_channel *c)
{
    return linger(c, &to_send);
}

bool
ns_channel_linger_to_receive(ns_channel *c)
{
    return linger(c, &to_receive);
}

static bool
enter_to_send(void *object, ns_waiter *w)
{
    return ns_line_enter(&ns_channel_send_line, object, w);
}

static bool
enter_to_receive(void *object, ns_waiter *w)
{
    return ns_line_enter(&ns_channel_receive_line, object, w);
}

/* What was sent cannot be taken back. (No thread asks for it: a waiter is not served while its
 * thread runs handlers.) */
static void
undo_send(void *object, ns_waiter *w)
{
    (void)object;
    (void)w;
}

static void
undo_receive(void *object, ns_waiter *w)
{
    give_back(object, &w->place);
}

const struct ns_wait_steps ns_channel_send_steps = {
    .operation = "Channel.send",
    .enter = enter_to_send,
    .wait = ns_line_wait,
    .leave = ns_line_step_aside,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_send,
    .links = true,
    .cancellable = true,
};

const struct ns_wait_steps ns_channel_receive_steps = {
    .operation = "Channel.recv",
    .enter = enter_to_receive,
    .wait = ns_line_wait,
    .leave = ns_line_step_aside,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_receive,
    .links = true,
    .cancellable = true,
};

void
ns_channel_destroy(ns_channel *c)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    while (c->returned != NULL) {
        take_returned(c, &wakes);
    }
    ns_wake(&wakes);
}

/* ---- Looking at it ---- */

uint64_t
ns_channel_count(ns_channel *c)
{
    /* Positions never come again, nor do values of `returns`: if both are what they were before
     * `in` was read, the three belong to that moment. Else an item was received or came back
     * meanwhile: look again. */
    uint64_t out, in, returns;
    uint64_t out_again = ns_load(&c->out.word, NS_ACQUIRE);
    uint64_t returns_again = ns_load(&c->returns, NS_ACQUIRE);
    do {
        out = out_again;
        returns = returns_again;
        in = ns_load(&c->in.word, NS_ACQUIRE);
        out_again = ns_load(&c->out.word, NS_ACQUIRE);
        returns_again = ns_load(&c->returns, NS_ACQUIRE);
    } while (ns_channel_position(out_again) != ns_channel_position(out) ||
             returns_again != returns);
    /* The value of `in` may be older than that of `out`: nothing orders the two reads. */
    const bool has_items = ns_channel_position(in) > ns_channel_position(out);
    return returns % RETURNS_CHANGE + (has_items ? distance(&c->in, out, in) : 0);
}

void *
ns_channel_each(ns_channel *c, uint64_t *cursor)
{
    /* A cursor has in the flags' place IN_LIST, and is the last place in `returned` that was seen;
     * or IN_RING, and is the next position. */
    enum { IN_RING = 1, IN_LIST = 2 };
    const uint64_t mask = ~(uint64_t)NS_CHANNEL_FLAGS;
    if (!(*cursor & IN_RING)) {
        const ns_place *last = (const ns_place *)(uintptr_t)(*cursor & mask);
        const ns_place *p = last != NULL ? last->next : c->returned;
        if (p != NULL) {
            *cursor = (uintptr_t)p | IN_LIST;
            return (void *)(uintptr_t)p->amount;
        }
        *cursor = (ns_load(&c->out.word, NS_RELAXED) & mask) | IN_RING;
    }
    uint64_t word = *cursor & mask;
    const uint64_t end = ns_load(&c->in.word, NS_RELAXED) & mask;
    while (word < end) {
        ns_channel_slot *slot = ns_channel_slot_at(&c->out, word);
        bool full =
            ns_load(&slot->turn, NS_CHANNEL_READ) == (ns_channel_turn(&c->out, word) | FULL);
        word = ns_channel_next(&c->out, word);
        if (full) { /* in the child of a fork its sender may be gone */
            *cursor = word | IN_RING;
            return slot->item;
        }
    }
    return NULL;
}
