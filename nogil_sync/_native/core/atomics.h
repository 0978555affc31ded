/* atomics.h: the one atomics header of the core.
 *
 * C11 atomics under short names that carry their ordering, the cache geometry, and the pause
 * instruction. Everything above uses these names. So a reader sees every ordering at the point of
 * use, and a test can weaken one of them (-DNS_ACQUIRE=memory_order_relaxed) to prove that it is
 * needed.
 */
#ifndef NS_ATOMICS_H
#define NS_ATOMICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef NS_ACQUIRE
#define NS_ACQUIRE memory_order_acquire
#endif
#ifndef NS_RELEASE
#define NS_RELEASE memory_order_release
#endif
#define NS_RELAXED memory_order_relaxed
#define NS_SEQ_CST memory_order_seq_cst
typedef memory_order ns_order;

/* Tests of the core may insert a random pause before each of these, so that interleavings that are
 * one in a million occur within seconds (tests/c/harness.h). */
#ifdef NS_SHAKE
void ns_shake(void);
#define ns_step ns_shake(),
#else
#define ns_step
#endif

#define ns_load(p, order) (ns_step atomic_load_explicit((p), order))
#define ns_store(p, v, order) (ns_step atomic_store_explicit((p), (v), order))
#define ns_swap(p, v, order) (ns_step atomic_exchange_explicit((p), (v), order))
#define ns_add(p, v, order) (ns_step atomic_fetch_add_explicit((p), (v), order))
#define ns_sub(p, v, order) (ns_step atomic_fetch_sub_explicit((p), (v), order))
#define ns_or(p, v, order) (ns_step atomic_fetch_or_explicit((p), (v), order))
#define ns_and(p, v, order) (ns_step atomic_fetch_and_explicit((p), (v), order))
#define ns_xor(p, v, order) (ns_step atomic_fetch_xor_explicit((p), (v), order))
/* Updates *expected on failure. The ordering of a failure is relaxed: retry loops read again. */
#define ns_cas(p, expected, desired, order) \
    (ns_step atomic_compare_exchange_strong_explicit((p), (expected), (desired), order, NS_RELAXED))
/* The same where a failure is a result, too: it is a load with an ordering of its own. */
#define ns_cas_or_load(p, expected, desired, order, load_order) \
    (ns_step atomic_compare_exchange_strong_explicit((p), (expected), (desired), order, load_order))
/* The thread sanitizer does not model fences (and gcc warns of it). Where a fence matters, its code
 * has a read-modify-write instead. */
#if defined(__SANITIZE_THREAD__)
#define ns_fence(order) ((void)0)
#else
#define ns_fence(order) atomic_thread_fence(order)
#endif
#define ns_compiler_fence() atomic_signal_fence(NS_SEQ_CST)

/* A fork by another thread can come between any two stores. The child then has the first store and
 * not the second, and goes on with that. So these stores are atomic too, and each that must not
 * come before another is a release, because the compiler may reorder plain stores. This macro takes
 * something out of a list before it is freed. The compiler knows what `free` reads, and must not
 * move the store behind it. */
#define ns_unlink(p, next) (ns_store((p), (next), NS_RELEASE), ns_compiler_fence())

/* The distance between one thread's state and another's. x86-64 fetches adjacent cache lines in
 * pairs, and Apple's processors have lines of 128 bytes. */
#define NS_CACHE_LINE 128

/* The unit that one core takes from another. */
#if defined(__APPLE__) && defined(__aarch64__)
#define NS_LINE 128
#else
#define NS_LINE 64
#endif

#define ns_likely(x) __builtin_expect(!!(x), 1)
#define ns_unlikely(x) __builtin_expect(!!(x), 0)

/* Tells the processor that this is a spin loop. */
static inline void
ns_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif
