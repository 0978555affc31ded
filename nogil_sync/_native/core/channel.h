/* channel.h: a bounded many-to-many queue with an end; at capacity 0, a rendezvous.
 *
 * Overview
 *   The ring is Dmitry Vyukov's bounded MPMC queue (1024cores.net, 2010), with slots that count turns
 *   as in Erik Rigtorp's. Each end of the channel is a word with a position; each slot has a turn. A sender
 *   takes the position of the `in` end by one compare-and-swap, writes its item into the slot,
 *   and passes the turn on; a receiver does the same at the `out` end. With room and items that is all: no lock, and nobody
 *   is woken.
 *   Who has to wait goes through a queue under a small lock (waitq.h), as in Go's runtime (chan.go): items are
 *   handed to waiting receivers and taken from waiting senders in their order.
 *
 * An end's word:   position << 3 | flags
 *
 *     OPEN    the ring may be used without the lock. Cleared ("frozen") while somebody waits, at capacity 0,
 *             and in the `in` end of a closed channel
 *     BORN    initialised; 0 refuses everything
 *     CLOSED  in the `in` end only
 *
 *   A position is lap << shift | index, index < capacity <= 1 << shift: so capacities are exact without a
 *   division. Positions never come again: 2^60 items, several centuries.
 *
 * A slot's turn.  For the position of lap n and this index:
 *
 *     2n        free: the sender that takes the position may write the item
 *     2n + 1    full: the receiver that takes the position may take the item, then 2(n + 1)
 *
 *   All zero is a new ring, so that a large one costs memory only where it is used (calloc).
 *
 * Invariants
 *   - out <= in <= out + capacity, as positions; the items are those in between, and two that have not happened
 *     yet: a position is taken a moment before its slot is full, or free.
 *   - Settled: whenever the lock is free, no receiver waits while there is an item, and no sender while there is room or a
 *     receiver waits (those who are away, running handlers, do not count), and nobody waits that a close concerns.
 *     `serve` restores it after each step under the lock.
 *   - Somebody is in a queue => both ends are frozen.
 *
 * Nobody sleeps for ever. Who waits first freezes both ends, each by one read-modify-write on the very word that the
 * others take positions from; what that read returned is the last position that was ever taken without the lock.
 * So it either sees an item (room), or those who bring it find the end frozen and come to the lock: there is no
 * "look, then announce", and no fence. tests/c has the mutant that does not freeze.
 *
 * Empty and full are exact. A receiver that reads `out` = p, and then `in` = p, knows that the channel was empty at that moment: out
 * is at least p, and never beyond `in`. A sender that reads `in` = p and then `out` = p - capacity knows that it was full. If
 * the slot is not ready and it is neither, another thread is between its two steps.
 *
 * Progress. Between taking a position and passing the turn a thread executes a handful of instructions, none of which
 * can block, run Python, or let the collector in. A thread that the system preempts just there holds up the receiver (sender) of that one slot and,
 * since items keep their order, those after it; they poll, then nap for some microseconds.
 * All others go on. (Never so the whole: a lock held instead would stop both ends at every preemption.)
 *
 * Ordering. The turns carry the items: a turn is stored with release after the item was written (read), and loaded with acquire before it
 * is read (written). So what a thread did before a send happens before what its receiver does next, and the
 * k-th receive before the (k + capacity)-th send. Positions themselves carry nothing: relaxed. A word is first read with acquire, for
 * the fields beside it were written before it was born. Through the queue, its lock and the node's state carry the item.
 *
 * Collection. Items are visited with the world stopped; threads stop at safe points only, and there
 * every position taken by a living thread has its slot ready. So items must enter and leave the ring
 * with the interpreter attached: of the steps of a wait (wait.h) `enter` and `rejoin` serve, and are called attached;
 * `leave` and `cancel`, which are not, never move an item, as those who are left behind wait for the same thing.
 * The item of a sender that waits is not visited: its thread's frame holds it anyway.
 *
 * Fork. The ring survives; waiters are forgotten. Threads that are gone may have stopped between their two steps, and the child must not wait
 * for them: so both ends carry the fork generation in which the ring was last known to be whole, which each
 * operation compares before it takes a position. The first to find it old mends the ring under
 * the lock, while all others come to the lock: an item half sent was not sent, one half received is gone with its receiver,
 * all others stay in their order. That looks at each slot once.
 *
 * Who writes what. Words: anyone by compare-and-swap while OPEN, else who holds the lock. Slots: who has the position, at its turn. The rest:
 * under the lock, `slots`, `capacity` and `shift` before birth.
 */
#ifndef NS_CHANNEL_H
#define NS_CHANNEL_H

#include "grant.h"

enum { NS_CHANNEL_OPEN = 1, NS_CHANNEL_BORN = 2, NS_CHANNEL_CLOSED = 4, NS_CHANNEL_FLAGS = 7 };

#define NS_CHANNEL_SHIFT 3 /* of the position in the word */

/* How often an operation polls a slot whose thread is between its steps, before it takes the lock. */
#define NS_CHANNEL_POLLS 64

typedef struct ns_channel_slot {
    _Atomic uint64_t turn;
    void *item;
} ns_channel_slot;

/* What each end needs, on a cache line of its own: senders write one, receivers the other. */
typedef struct ns_channel_end {
    _Atomic uint64_t word;
    ns_channel_slot *slots;
    uint64_t capacity;
    uint32_t shift;
    _Atomic uint32_t generation;
    char apart[NS_CACHE_LINE - 32];
} ns_channel_end;

_Static_assert(sizeof(ns_channel_end) == NS_CACHE_LINE, "one end, one line");

typedef struct ns_channel {
    char apart[NS_CACHE_LINE]; /* from what is before it, which others write */
    ns_channel_end in, out;
    ns_waitq senders; /* its lock is the channel's */
    ns_waitq receivers;
} ns_channel;

enum ns_channel_result {
    NS_CHANNEL_DONE,
    NS_CHANNEL_WOULD_WAIT, /* full, or empty */
    NS_CHANNEL_REFUSED, /* closed, and to a receiver: empty */
};

/* Of a zeroed channel. `slots`: as many as the capacity, zeroed; stays the caller's. */
void ns_channel_init(ns_channel *c, ns_channel_slot *slots, uint64_t capacity);

static inline bool
ns_channel_is_born(ns_channel *c)
{
    return ns_load(&c->in.word, NS_ACQUIRE) & NS_CHANNEL_BORN; /* the last to be */
}

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
    return ns_channel_position(word) & ((UINT64_C(1) << end->shift) - 1);
}

static inline uint64_t
ns_channel_lap(const ns_channel_end *end, uint64_t word)
{
    return ns_channel_position(word) >> end->shift;
}

/* The same place in the next lap: `capacity` positions on. */
static inline uint64_t
ns_channel_lap_on(const ns_channel_end *end, uint64_t word)
{
    return word + (UINT64_C(1) << end->shift << NS_CHANNEL_SHIFT);
}

/* The word with the next position. */
static inline uint64_t
ns_channel_next(const ns_channel_end *end, uint64_t word)
{
    uint64_t index = ns_channel_index(end, word);
    return index + 1 < end->capacity ? word + (UINT64_C(1) << NS_CHANNEL_SHIFT)
                                     : ns_channel_lap_on(end, word) - (index << NS_CHANNEL_SHIFT);
}

/* Whether the ring may be used without the lock: nobody waits, and no fork came between. */
static inline bool
ns_channel_is_easy(ns_channel_end *end, uint64_t word)
{
    return (word & NS_CHANNEL_FLAGS) == (NS_CHANNEL_OPEN | NS_CHANNEL_BORN) &&
           ns_load(&end->generation, NS_ACQUIRE) == ns_fork_generation();
}

enum ns_channel_result ns_channel_try_send_slow(ns_channel *c, void *item);
enum ns_channel_result ns_channel_try_receive_slow(ns_channel *c, void **item);

/* Sends if there is room, or a receiver waits. The item must not be NULL; it is the channel's once that is DONE. */
static inline enum ns_channel_result
ns_channel_try_send(ns_channel *c, void *item)
{
    ns_channel_end *in = &c->in;
    uint64_t word = ns_load(&in->word, NS_ACQUIRE);
    for (int polls = 0; polls < NS_CHANNEL_POLLS && ns_channel_is_easy(in, word);) {
        ns_channel_slot *slot = &in->slots[ns_channel_index(in, word)];
        uint64_t turn = 2 * ns_channel_lap(in, word);
        if (ns_likely(ns_load(&slot->turn, NS_ACQUIRE) == turn)) {
            if (ns_cas(&in->word, &word, ns_channel_next(in, word), NS_RELAXED)) {
                slot->item = item;
                ns_store(&slot->turn, turn + 1, NS_RELEASE);
                return NS_CHANNEL_DONE;
            }
            continue; /* another sender was faster */
        }
        uint64_t out = ns_load(&c->out.word, NS_RELAXED);
        if (ns_channel_position(ns_channel_lap_on(in, out)) == ns_channel_position(word)) {
            return NS_CHANNEL_WOULD_WAIT;
        }
        uint64_t now = ns_load(&in->word, NS_RELAXED);
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
    for (int polls = 0; polls < NS_CHANNEL_POLLS && ns_channel_is_easy(out, word);) {
        ns_channel_slot *slot = &out->slots[ns_channel_index(out, word)];
        uint64_t turn = 2 * ns_channel_lap(out, word) + 1;
        if (ns_likely(ns_load(&slot->turn, NS_ACQUIRE) == turn)) {
            if (ns_cas(&out->word, &word, ns_channel_next(out, word), NS_RELAXED)) {
                *item = slot->item;
                ns_store(&slot->turn, turn + 1, NS_RELEASE);
                return NS_CHANNEL_DONE;
            }
            continue; /* another receiver was faster */
        }
        uint64_t in = ns_load(&c->in.word, NS_RELAXED);
        if (ns_channel_position(in) == ns_channel_position(word)) {
            if (ns_channel_is_easy(&c->in, in)) {
                return NS_CHANNEL_WOULD_WAIT;
            }
            break; /* somebody waits, or it is closed */
        }
        uint64_t now = ns_load(&out->word, NS_RELAXED);
        if (now == word) {
            polls++;
            ns_pause();
        }
        word = now;
    }
    return ns_channel_try_receive_slow(c, item);
}

/* A short look-out for room (an item), before waiting in earnest: a wake-up costs much more. True if it is worth another
 * try. Who is on the look-out does not wait yet: it has no place in the order. */
bool ns_channel_linger_to_send(ns_channel *c);
bool ns_channel_linger_to_receive(ns_channel *c);

/* How to wait (wait.h). A sender's `amount` is its item, and once served 0 if that was received or accepted, else it was
 * refused. A receiver's, once served, is the item, or 0 if it was refused. */
extern const struct ns_wait_steps ns_channel_send_steps, ns_channel_receive_steps;

/* From here on sends are refused, and receives once all items are gone. False if it was so before. */
bool ns_channel_close(ns_channel *c);

/* How many items there are; those of waiting senders do not count. */
uint64_t ns_channel_count(ns_channel *c);

/* For the collector, with the world stopped, or the channel out of reach of all others: the items one by one.
 * `cursor` is 0 at first; NULL at the end. */
void *ns_channel_each(ns_channel *c, uint64_t *cursor);

#endif
