/* word.h: waiting until a word changes. All waiters go on at once, so there is no queue.
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

/* Wakes all threads that sleep on the word, out of line. */
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

#endif
