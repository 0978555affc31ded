/* channel.h: a bounded many-to-many queue with an end; at capacity 0, a rendezvous.
 *
 * Overview
 *   The ring is Dmitry Vyukov's bounded MPMC queue (1024cores.net, 2010), with slots that count
 *   turns, as in Erik Rigtorp's. Each end of the channel is a word with a position; each slot has
 *   a turn. A sender takes the position of the `in` end by one compare-and-swap, writes its item
 *   into the slot, and passes the turn on; a receiver does the same at the `out` end. With room
 *   and items that is all: no lock, and no wake-up.
 *   An operation that has to wait goes through a queue under a small lock (waitq.h), as in Go's
 *   runtime (chan.go): items are handed to waiting receivers, and taken from waiting senders, in
 *   their order.
 *
 * An end's word:   position << 2 | flags
 *
 *     OPEN    the ring may be used without the lock. Cleared ("frozen") while there are waiters, at
 *             capacity 0, and in the `in` end of a closed channel
 *     CLOSED  in the `in` end only
 *
 *   A position is lap << shift | index, with index < capacity <= 1 << shift: so any capacity is
 *   exact, without a division. Positions never come again: 2^60 items are centuries.
 *   A channel of zero bytes gives and takes nothing, until ns_channel_init is over.
 *
 * A slot's turn. For the position of lap n that has the slot's index:
 *
 *     L(n)          free: the sender that takes the position may write its item
 *     L(n) | FULL   full: the receiver that takes the position may take the item, then L(n + 1)
 *
 *   L(n) is an end's word with lap n, index 0 and no flags: one AND makes it of the word. All zero
 *   is a new ring, so that a large one costs memory only where it is used (calloc).
 *
 * Invariants
 *   - out <= in <= out + capacity, as positions. The items are those in between; a position is
 *     taken a moment before its slot is full, or free.
 *   - Settled: whenever the lock is free, no receiver waits while there is an item, no sender while
 *     there is room or a receiver waits, no sender in a closed channel, and no receiver in one that
 *     is closed and empty. `serve` restores it. (Waiters that are away do not count, nor do
 *     selectors that were served elsewhere. A sender and a receiver that are cases of one selector
 *     do not serve each other.)
 *   - A waiter is in a queue, or an item is in `returned` => both ends are frozen.
 *
 * No waiter sleeps for ever. Before it waits, a thread freezes both ends, each by one
 * read-modify-write of the very word that the others take positions from; the position it reads
 * there is the last that was taken without the lock. So it either sees the item (the room), or the
 * threads that bring it find the end frozen and come to the lock. It is not "announce, fence,
 * look", and needs no fence. tests/c has the mutant that does not freeze.
 *
 * Empty and full are exact. A receiver that reads p in `out` and then p in `in` knows that the
 * channel was empty at the second read: `out` is at least p by then, and never beyond `in`. A
 * sender that reads p in `in`, and then in `out` the position one lap before p, knows that it was
 * full. If the slot is not ready and it is neither, another thread is between its two steps.
 *
 * Progress. Between taking a position and passing the turn a thread executes a handful of
 * instructions that do not block, run no Python, and do not let the collector in. Should the
 * system preempt it just there, the receiver (sender) of that one slot has to wait for it, and as
 * items keep their order so have those behind; they poll, then nap for some microseconds. The
 * other end goes on.
 *
 * Items that come back. A receive whose waiter is called (grant.h) can be undone after it was
 * served. Its item goes to the first receiver in line, or else to the head of the list `returned`.
 * Receivers take from there before they take from the ring, and both ends stay frozen while it is
 * not empty. So an item that comes back is received next. Among several that come back their old
 * order counts: each receiver that is served in line gets a ticket. The list needs no memory: its
 * elements are the places of the waiters that gave back, which are lent to the channel (grant.h).
 * Such an item counts against the capacity. It may exceed it, because a sender may have got the
 * room when the item was received.
 *
 * Lingering. An operation that finds the ring empty (full) looks out for a moment before it waits
 * (linger.h). It looks seldom. If it took each item as it comes, sender and receiver would go on
 * side by side, each at a slot that the other has just left, and each operation would cost several
 * transfers (measured: 230 ns instead of 80). So it looks once in a `pace`, which doubles if more
 * than one slot is ready by then, and else halves: a stream goes through in batches, and a single
 * answer is late by 0.2 us at most.
 *
 * Ordering. The turns carry the items. A turn is stored with release after the item was written
 * (read), and loaded with acquire before it is read (written): so what a thread did before a send
 * happens before what its receiver does next, and the k-th receive before the end of the (k +
 * capacity)-th send. Positions carry nothing: they are taken relaxed. An end's word is read with
 * acquire, for the fields beside it, and for "and then" in the paragraph above. For waiters the
 * queue's lock and the waiter's state carry the item. tests/c has a mutant for each.
 *
 * Collection. Items are visited with the world stopped. Threads stop at safe points only, and there
 * every position that a living thread took has its slot ready. So items enter and leave the ring
 * with the interpreter attached: of the steps of a wait (wait.h), `enter` and `rejoin` serve, and
 * are called attached; `leave` and `cancel`, which may be called detached, do not serve, and need
 * not, as those left in line wait for the same thing (`is_alike`). `undo` is called attached, too.
 * The item of a sender that waits is not visited: the frame of its thread holds it anyway. Of a
 * waiter that is called the layer above visits the item.
 *
 * Fork. The ring survives; waiters are forgotten. Threads that are gone may have been between their
 * two steps, and the child must not wait for them: each end has the fork generation in which the
 * ring was last known to be whole, which an operation compares before it takes a position. The
 * first to find it old mends the ring under the lock, to which all others come meanwhile. An item
 * half sent was not sent, one half received is gone with its receiver, all others keep their order.
 * That looks at each slot once. A fork amid the mending may lose one more item, and finds none
 * twice. What was given back is in its list; the thread that finds the queues stale counts it.
 *
 * Cache lines. Each end's word has a line to itself; what its threads only read beside it is on
 * the next, so that it stays with all of them. Slots are four a line. Neighbours in the ring on
 * lines of their own were tried: a thread that goes through many positions then pays for a line at
 * each, and two threads that send and receive in turn took twice as long.
 *
 * Field ownership. Words: any thread by compare-and-swap while OPEN, else the thread with the lock.
 * Slots: the thread that took the position, in its turn. `slots`, `lap`, `wrap`, `capacity`,
 * `shift`: constant after ns_channel_init. The rest: the thread with the lock.
 *
 * Waiting: in line (wait.h), senders and receivers in a queue each, with one lock. A sender's
 * amount is its item; served, it is 0 if the item was accepted, and unchanged if the send was
 * refused. A receiver's amount, once it is served, is its item, or 0 if the receive was refused.
 */
#ifndef NS_CHANNEL_H
#define NS_CHANNEL_H

#include "waiting/backoff.h"
#include "waiting/select.h"

enum { NS_CHANNEL_OPEN = 1, NS_CHANNEL_CLOSED = 2, NS_CHANNEL_FLAGS = 3 };

#define NS_CHANNEL_SHIFT 2 /* of the position in the word */
#define NS_CHANNEL_FULL 1  /* in a turn */

/* How turns are read and passed on; tests/c has mutants of these alone. */
#ifndef NS_CHANNEL_READ
#define NS_CHANNEL_READ NS_ACQUIRE
#endif
#ifndef NS_CHANNEL_PASS
#define NS_CHANNEL_PASS NS_RELEASE
#endif

/* How often an operation polls a slot whose thread is between its steps. Then it takes the lock. */
#define NS_CHANNEL_POLLS 64

typedef struct ns_channel_slot {
    _Atomic uint64_t turn;
    void *item;
} ns_channel_slot;

/* A line that the end's threads write, and one that they only read. */
typedef struct ns_channel_end {
    _Atomic uint64_t word;
    _Atomic uint32_t pace; /* of lingering threads, in nanoseconds; a guess, by any thread */
    char apart_from_word[NS_CACHE_LINE / 2 - 12];
    ns_channel_slot *slots;
    uint64_t lap; /* what a word grows by in a lap */
    uint64_t wrap; /* and by from the last index to the first of the next lap */
    uint64_t capacity; /* of the ring */
    _Atomic uint32_t generation;
    _Atomic uint32_t hint; /* the layer above's */
    uint32_t shift;
    _Atomic bool is_initialized; /* of `in`: ns_channel_init is over */
    char apart[NS_CACHE_LINE / 2 - 45];
} ns_channel_end;

_Static_assert(sizeof(ns_channel_end) == NS_CACHE_LINE, "one end, one line");

typedef struct ns_channel {
    ns_channel_end in, out;
    ns_waitq senders; /* its lock is the channel's */
    ns_waitq receivers;
    ns_place *returned; /* the items that were given back, linked by next */
    _Atomic uint64_t returns; /* changes of that list << 32 | its length */
    uint32_t tickets; /* how many items were given to receivers that waited; it wraps */
} ns_channel;

enum ns_channel_result {
    NS_CHANNEL_DONE,
    NS_CHANNEL_WOULD_WAIT, /* full, or empty */
    NS_CHANNEL_REFUSED, /* closed, and to a receiver: empty */
};

/* Of zero bytes. `slots`: as many as the capacity, zeroed; stays the caller's. Other threads may
 * try to send and receive meanwhile: no try takes the lock before this returns. */
void ns_channel_init(ns_channel *c, ns_channel_slot *slots, uint64_t capacity);

static inline bool
ns_channel_is_closed(ns_channel *c)
{
    return ns_load(&c->in.word, NS_ACQUIRE) & NS_CHANNEL_CLOSED;
}

static inline uint64_t
ns_channel_position(uint64_t word)
{
    return word >> NS_CHANNEL_SHIFT;
}

static inline uint64_t
ns_channel_index(const ns_channel_end *end, uint64_t word)
{
    return (word & (end->lap - 1)) >> NS_CHANNEL_SHIFT;
}

/* The turn of a free slot at that position. */
static inline uint64_t
ns_channel_turn(const ns_channel_end *end, uint64_t word)
{
    return word & -end->lap;
}

static inline ns_channel_slot *
ns_channel_slot_at(const ns_channel_end *end, uint64_t word)
{
    return &end->slots[ns_channel_index(end, word)];
}

/* The same index in the next lap: `capacity` positions on. */
static inline uint64_t
ns_channel_lap_on(const ns_channel_end *end, uint64_t word)
{
    return word + end->lap;
}

/* The word with the next position. */
static inline uint64_t
ns_channel_next(const ns_channel_end *end, uint64_t word)
{
    bool is_last = ns_channel_index(end, word) + 1 == end->capacity;
    return word + (ns_unlikely(is_last) ? end->wrap : UINT64_C(1) << NS_CHANNEL_SHIFT);
}

/* Whether the fast path may be taken: there are no waiters, and no fork came between. */
static inline bool
ns_channel_is_fast(ns_channel_end *end, uint64_t word)
{
    return (word & NS_CHANNEL_FLAGS) == NS_CHANNEL_OPEN &&
           ns_load(&end->generation, NS_ACQUIRE) == ns_fork_generation();
}

enum ns_channel_result ns_channel_try_send_slow(ns_channel *c, void *item);
enum ns_channel_result ns_channel_try_receive_slow(ns_channel *c, void **item);

/* Sends if there is room, or a receiver waits. The item, not NULL, is the channel's if that is
 * DONE. */
static inline enum ns_channel_result
ns_channel_try_send(ns_channel *c, void *item)
{
    ns_channel_end *in = &c->in;
    uint64_t word = ns_load(&in->word, NS_ACQUIRE);
    int64_t pause = NS_BACK_OFF_FIRST;
    for (int polls = 0; polls < NS_CHANNEL_POLLS && ns_channel_is_fast(in, word);) {
        ns_channel_slot *slot = ns_channel_slot_at(in, word);
        uint64_t turn = ns_channel_turn(in, word);
        if (ns_likely(ns_load(&slot->turn, NS_CHANNEL_READ) == turn)) {
            if (ns_cas(&in->word, &word, ns_channel_next(in, word), NS_RELAXED)) {
                slot->item = item;
                ns_store(&slot->turn, turn | NS_CHANNEL_FULL, NS_CHANNEL_PASS);
                return NS_CHANNEL_DONE;
            }
            ns_back_off(&pause); /* another sender was faster */
            word = ns_load(&in->word, NS_ACQUIRE);
            continue;
        }
        uint64_t out = ns_load(&c->out.word, NS_RELAXED);
        if (ns_channel_position(ns_channel_lap_on(in, out)) == ns_channel_position(word)) {
            return NS_CHANNEL_WOULD_WAIT;
        }
        uint64_t now = ns_load(&in->word, NS_ACQUIRE);
        if (now == word) {
            polls++;
            ns_pause();
        }
        word = now;
    }
    return ns_channel_try_send_slow(c, item);
}

/* Receives if there is an item, or a sender waits. The item is the caller's if that is DONE. */
static inline enum ns_channel_result
ns_channel_try_receive(ns_channel *c, void **item)
{
    ns_channel_end *out = &c->out;
    uint64_t word = ns_load(&out->word, NS_ACQUIRE);
    int64_t pause = NS_BACK_OFF_FIRST;
    for (int polls = 0; polls < NS_CHANNEL_POLLS && ns_channel_is_fast(out, word);) {
        ns_channel_slot *slot = ns_channel_slot_at(out, word);
        uint64_t turn = ns_channel_turn(out, word);
        if (ns_likely(ns_load(&slot->turn, NS_CHANNEL_READ) == (turn | NS_CHANNEL_FULL))) {
            if (ns_cas(&out->word, &word, ns_channel_next(out, word), NS_RELAXED)) {
                *item = slot->item;
                ns_store(&slot->turn, ns_channel_lap_on(out, turn), NS_CHANNEL_PASS);
                return NS_CHANNEL_DONE;
            }
            ns_back_off(&pause); /* another receiver was faster */
            word = ns_load(&out->word, NS_ACQUIRE);
            continue;
        }
        uint64_t in = ns_load(&c->in.word, NS_RELAXED);
        if (ns_channel_position(in) == ns_channel_position(word)) {
            if (ns_channel_is_fast(&c->in, in)) {
                return NS_CHANNEL_WOULD_WAIT;
            }
            break; /* there are waiters, or it is closed */
        }
        uint64_t now = ns_load(&out->word, NS_ACQUIRE);
        if (now == word) {
            polls++;
            ns_pause();
        }
        word = now;
    }
    return ns_channel_try_receive_slow(c, item);
}

/* Looks out for room (an item) for a moment, before a wait, which costs more: see "Lingering". True
 * if it is worth another try. A thread that lingers has no place in line. */
bool ns_channel_linger_to_send(ns_channel *c);
bool ns_channel_linger_to_receive(ns_channel *c);

/* How to wait (wait.h), after the try without waiting failed. */
extern const struct ns_wait_steps ns_channel_send_steps, ns_channel_receive_steps;
/* For select (select.h). */
extern const struct ns_line ns_channel_send_line, ns_channel_receive_line;

/* Refuses sends from here on, and receives once all items are gone. False if it was so before. */
bool ns_channel_close(ns_channel *c);

/* Frees what the channel keeps beside its slots. Its items are the caller's to let go of. */
void ns_channel_destroy(ns_channel *c);

/* How many items there are; those of waiting senders do not count. */
uint64_t ns_channel_count(ns_channel *c);

/* The items one by one, then NULL; `cursor` is 0 at first. With the world stopped, or the channel
 * out of reach of all others. */
void *ns_channel_each(ns_channel *c, uint64_t *cursor);

#endif
