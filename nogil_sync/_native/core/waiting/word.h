/* word.h: waiting until a word changes. All waiters go on at once, so the object has no queue.
 *
 * The word, 64 bits:   value << 32 | epoch << 1 | SLEEPERS
 *
 *   value      the object's
 *   epoch      counts the changes that let the waiters go
 *   SLEEPERS   some thread may sleep on the word: the next such change wakes all of them
 *
 * A waiter waits for one value. It is served when the word has that value, or when the epoch is no
 * longer the one it came in with. So a change that is taken back at once still lets all go that
 * waited for it. Value and epoch in one word make "it changed, for the n-th time" one step. (Go's
 * WaitGroup keeps count and waiters in one word for the same end.)
 *
 * No wake-up is lost. Threads sleep on the lower half of the word, and only while it is what it was
 * when the waiter saw that it was not served, with SLEEPERS set. Every change that lets waiters go
 * makes the lower half another before it wakes. The epoch has 31 bits: a waiter is fooled only if
 * exactly 2^31 changes happen between two of its looks.
 *
 * Ordering: a change releases, a waiter that finds itself served acquires.
 *
 * Nothing is linked: a waiter may be on the stack, there is nothing to undo on a signal, and
 * nothing to reset after a fork. A SLEEPERS that outlived its threads costs one needless wake call.
 *
 * In a waiter (grant.h) `state` is the epoch it came in with, `place.amount` the value that it
 * waits for; nothing else of it is used.
 *
 * Places on words. A waiter that can be cancelled, is called, or waits for other things besides
 * (select) needs a place in a queue, and a state of its own. An object of one word has no room for
 * a queue. So the queues of all words are in one table, by a hash of the address, each with its
 * lock (ns_word_line). In a queue stand the places of several words; each names its object.
 *
 * Such a waiter is served by the thread that changes the word, or by one that lines up after the
 * change. No wake-up is lost: with the queue locked, the waiter sets SLEEPERS and reads its epoch
 * by one read-modify-write. A change that comes later in the word's order finds SLEEPERS. Its
 * thread takes the queue's lock, and so finds the place; a change that comes earlier has already
 * given the word the epoch that the waiter reads. A change clears SLEEPERS only with the epoch, and
 * then every place that was linked before is to be served. So a place that is linked again, or is
 * away no more, needs no new SLEEPERS. A waiter that finds its value sets none. It gets the epoch
 * before the word's, so that it is served even if the value is taken back at once.
 *
 * Ordering: the serving thread reads the word with acquire; the rest is the grant's. Fork: as for
 * any queue. A place need not give way: what its waiter waits for is not taken from others.
 */
#ifndef NS_WORD_H
#define NS_WORD_H

#include "waiting/wait.h"

#define NS_WORD_SLEEPERS UINT64_C(1)
#define NS_WORD_EPOCH UINT64_C(2)
#define NS_WORD_LOW UINT64_C(0xffffffff)

/* The word after a change to `value` that lets the waiters go. The caller compares-and-swaps it in
 * with release, then calls ns_word_wake. */
static inline uint64_t
ns_word_end(uint64_t word, uint64_t value)
{
    return value << 32 | ((word + NS_WORD_EPOCH) & NS_WORD_LOW & ~NS_WORD_SLEEPERS);
}

/* Wakes all threads that sleep on the word, and serves the places on it. Out of line. */
void ns_word_wake_slow(_Atomic uint64_t *word);

/* The same, if there may be any. `before` and `after`: the word before and after the change. */
static inline void
ns_word_wake(_Atomic uint64_t *word, uint64_t before, uint64_t after)
{
    if (ns_unlikely(before & ~after & NS_WORD_SLEEPERS)) {
        ns_word_wake_slow(word);
    }
}

/* The steps of wait.h. `object` begins with the word. */

/* The caller has set w->place.amount. */
bool ns_word_enter(void *object, ns_waiter *w);
enum ns_wait_result ns_word_wait(void *object, ns_waiter *w, int64_t deadline);
/* `leave` and `cancel`: only look whether w is served. */
bool ns_word_look(void *object, ns_waiter *w);
/* `rejoin` and `undo`: nothing was linked, and nothing was taken. */
void ns_word_nothing(void *object, ns_waiter *w);

/* The same wait with a place, so that it can be cancelled or called. The object is the word, and
 * the caller has set w->place.amount to the value: 1 for an event, 0 for a wait group. */
extern const struct ns_wait_steps ns_word_place_steps;
/* For select (select.h). */
extern const struct ns_line ns_word_line;

#endif
