/* slots.h: a small number for every living thread.
 *
 * Sharded structures give each thread its own cell; the thread's slot says which. Slots are dense:
 * a thread gets the lowest free one on first use and returns it at its exit. So a program that
 * starts ten thousand short-lived threads keeps using the first few.
 *
 * Mechanism: a bitmap in static memory with one bit a slot, claimed by an atomic OR. The number is
 * cached in a thread-local variable, and one pthread key for the whole library (ns_at_exit of
 * park.h) gives it back. The key's destructor touches only atomics and static memory, since it may
 * run after the interpreter, or this thread's part of it, is gone. If the thread asks again after
 * that (in a later destructor that still uses a counter), it takes another slot and sets the key
 * again: POSIX runs destructors until none are left.
 *
 * What a slot promises: no two living threads hold the same one, and the previous holder's writes
 * happen before the next holder gets it (release on return, acquire on claim). What it does not
 * promise: that there is one. A claim returns NS_NO_SLOT when all are taken, so callers need a
 * shared fallback.
 *
 * State, one word:   version << 36 | words << 24 | count
 *
 *     count     slots that are taken, plus strays (below)
 *     words     every bit of the bitmap that belongs to a thread lies in the first `words` words
 *     version   the number of claims, modulo 2^28
 *
 *     claim     set the bit;    count += 1, version += 1, words raised to include the bit: one CAS
 *     return    clear the bit;  read the state; drop empty words off the end; count -= 1: one CAS
 *
 * Walking over the living threads. ns_slots_words() says how many words of the bitmap may have a
 * bit set, and ns_slots_word(i) is word i. So a walk over all living threads costs a load for each
 * 64 slots up to the highest one that is taken now, however many threads there were before.
 *
 *     for (uint32_t i = 0, n = ns_slots_words(); i < n; i++)
 *         for (uint64_t bits = ns_slots_word(i); bits != 0; bits &= bits - 1)
 *             slot = i * 64 + __builtin_ctzll(bits)
 *
 * Promises of such a walk. A claim is *complete* once ns_slot_claim has changed the state, which it
 * does before the thread gets its number.
 *   1. Suppose that a thread's claim completed before the walk began, and it holds its slot until
 *   the walk is over. Then the walk sees it. (Before means: the claim happens before the walk, or
 *   ns_slots_words() read the value that the claim stored, or a later one.) A claim ends with a
 *   full fence. So if a walk that follows a full fence F does not see a thread, F comes before that
 *   thread's fence: what the thread loads after its claim is at least as new as what was visible at
 *   F.
 *   2. If a walk does not see a slot, the slot has been returned, if a thread ever had it. What
 *   that thread did before the return happens before what the walker does after the walk.
 *   3. A bit that a walk sees may belong to a thread that is about to get its slot, or that is
 *   leaving.
 *
 *   (1) The bit is set before the state is changed, and only its holder clears it. So it is enough
 *   that `words` includes it from the completion of the claim on. The claim's CAS leaves `words`
 *   large enough. Let a thread that returns another slot lower `words` later, by the CAS D from a
 *   value that it read (acquire) at A. If the claim's CAS comes before the value read at A, then
 *   it, and the setting of the bit, happen before that thread reads the word of the bitmap. It sees
 *   the bit, so D does not drop the word. If the claim's CAS came between A and D, D fails: the
 *   version differs, even if `count` and `words` are the same again because another thread has
 *   left.
 *   (2) The bit is cleared with release. All changes of a word are read-modify-writes, so each
 *   later value that a walk reads (acquire) continues that release. If the walk did not read the
 *   word because `words` had been lowered: the thread that lowered it acquired the word and
 *   released the state.
 *
 * Alone. A thread that knows that no other thread uses the library can skip what is done for others
 * (epoch.h frees at once). `alone` holds the slot + 1 of the one thread that may, or NS_NOBODY.
 *
 *     NS_NOBODY -> its slot + 1    ns_slots_become_alone: by a thread that holds the only slot
 *     its slot + 1 -> NS_ENDING    by a newcomer, in its claim
 *     NS_ENDING -> NS_NOBODY       by a newcomer, after the fence in all threads
 *     its slot + 1 -> NS_NOBODY    by its thread: it returns its slot, or the check below failed
 *
 *   The lone thread makes a store U, then the compiler's fence, then ns_slots_is_alone() returns
 *   true. The promise: whatever a newcomer loads after its claim sees U.
 *     - A newcomer first raises `count`, then reads `alone`. A thread that wants to be alone first
 *       sets `alone`, then reads `count` again: if it is not 1, the thread resets `alone` without
 *       using it. All four steps are sequentially consistent, so one of the two sees the other.
 *     - A newcomer may find NS_NOBODY. Then either the thread saw the newcomer and is not alone; or
 *       it has not been alone since the last change to NS_NOBODY, which came after all its U were
 *       visible.
 *     - A newcomer that finds a thread alone sets NS_ENDING and puts a fence into all threads. If
 *       the fence reaches the lone thread before its check, the check finds NS_ENDING or later.
 *       Else U came before the fence too, so U is visible when the newcomer's claim returns. The
 *       same holds for each newcomer that finds NS_ENDING: it cannot know whether the other
 *       newcomer's fence is over, and makes its own. No thread can become alone meanwhile, because
 *       the newcomers are counted.
 *   So a claim puts a fence into all threads only if the only user of the library has become alone
 *   since the last claim. A thread becomes alone only in order to free something.
 *
 * Strays are threads without a slot that do something for which they must be counted. `count` is
 * raised meanwhile, and no thread is alone.
 *
 * The cost of a claim: two read-modify-writes and a fence on this thread's processor, and
 * a call of ns_at_exit. Only the case above adds a system call, which interrupts the processors on
 * which other threads of the process run at that moment.
 *
 * Fork: the child keeps the forking thread's slot and frees the others. At first no thread is
 * alone.
 */
#ifndef NS_SLOTS_H
#define NS_SLOTS_H

#include "waiting/park.h"

#define NS_SLOTS 65536
#define NS_NO_SLOT UINT32_MAX

/* Must run once, before the rest. Returns false if there is no memory. */
bool ns_slots_init(void);

/* glibc reserves space for small variables of libraries that are loaded late. With it an access is
 * one instruction instead of a call. */
#if defined(__GLIBC__)
#define NS_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define NS_THREAD_LOCAL _Thread_local
#endif

/* For thread_tag.h: only its address is used. */
extern NS_THREAD_LOCAL uint64_t ns_thread_mark;

extern NS_THREAD_LOCAL uint32_t ns_cached_slot; /* slot + 1; 0: none yet; only its thread uses it */

uint32_t ns_slot_claim(void);

static inline uint32_t
ns_slot(void)
{
    uint32_t cached = ns_cached_slot;
    return ns_likely(cached != 0) ? cached - 1 : ns_slot_claim();
}

/* The number of cells (slot & mask) of a structure that is sharded by slot, minus one. It is four
 * for every processor, so that threads seldom meet in one, rounded up to a power of two. */
#define ns_slots_mask ns_globals.slots_mask

/* Written when threads claim and return slots. */
extern struct ns_slots {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t state;
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t taken[NS_SLOTS / 64];
} ns_slots;

#define NS_SLOTS_ONE UINT64_C(1) /* in `count` */
#define NS_SLOTS_WORDS_SHIFT 24
#define NS_SLOTS_VERSION_SHIFT 36

static inline uint32_t
ns_slots_count_in(uint64_t state)
{
    return (uint32_t)state & ((UINT32_C(1) << NS_SLOTS_WORDS_SHIFT) - 1);
}

static inline uint32_t
ns_slots_words_in(uint64_t state)
{
    return (uint32_t)(state >> NS_SLOTS_WORDS_SHIFT) &
           ((UINT32_C(1) << (NS_SLOTS_VERSION_SHIFT - NS_SLOTS_WORDS_SHIFT)) - 1);
}

/* How many slots are taken now, plus strays. Sequentially consistent. */
static inline uint32_t
ns_slots_in_use(void)
{
    return ns_slots_count_in(ns_load(&ns_slots.state, NS_SEQ_CST));
}

/* How many words ns_slots_word has; all later ones are 0. Sequentially consistent. */
static inline uint32_t
ns_slots_words(void)
{
    return ns_slots_words_in(ns_load(&ns_slots.state, NS_SEQ_CST));
}

/* Which of the slots 64 * i to 64 * i + 63 are taken: bit k is that of slot 64 * i + k. i must be <
 * ns_slots_words(). An acquire. */
static inline uint64_t
ns_slots_word(uint32_t i)
{
    return ns_load(&ns_slots.taken[i], NS_ACQUIRE);
}

/* ---- Alone ---- */

#define NS_ENDING (UINT32_MAX - 1)

/* Whether the calling thread has become alone, and no other came since. Call it after a store that
 * newcomers have to see and ns_fence_here(). */
static inline bool
ns_slots_is_alone(void)
{
    return ns_load(&ns_globals.alone, NS_RELAXED) == ns_cached_slot;
}

/* Tries to become alone. Returns true on success; then no other thread can see the memory as it was
 * before the call. */
bool ns_slots_become_alone(void);

/* A thread without a slot begins and ends something for which it must be counted. */
void ns_slots_enter_stray(void);
void ns_slots_leave_stray(void);

#endif
