/* slots.h: a small number for every living thread.
 *
 * Sharded structures give each thread its own cell; the thread's slot says which. Slots are
 * dense (the lowest free one is handed out), taken on first use and returned at thread exit, so that
 * a program that starts ten thousand short-lived threads keeps using the first few.
 *
 * Mechanism: a bitmap in static memory, one bit a slot, claimed by an atomic OR; the number is
 * cached in a thread-local variable; one pthread key for the whole library gives it back.
 * The key's destructor touches atomics and static memory only, since it may run when the
 * interpreter, or this thread's part of it, is gone. A thread that asks again after that (a later
 * destructor that still uses a counter) takes a slot anew and re-arms the key: POSIX
 * runs destructors again until none are left.
 *
 * What a slot promises: no two threads that are alive hold the same one, and the previous holder's
 * writes happen before the next holder gets it (release on return, acquire on claim).
 * What it does not: NS_NO_SLOT is returned when all are taken. Callers need a shared way out.
 *
 * Fork: the child keeps the forking thread's slot and frees the others.
 */
#ifndef NS_SLOTS_H
#define NS_SLOTS_H

#include "atomics.h"

#define NS_SLOTS 65536
#define NS_NO_SLOT UINT32_MAX

/* Once, before the rest. False without memory. */
bool ns_slots_init(void);

/* glibc reserves room for small variables of libraries loaded late, which makes
 * the access one instruction instead of a call. */
#if defined(__GLIBC__)
#define NS_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define NS_THREAD_LOCAL _Thread_local
#endif

extern NS_THREAD_LOCAL uint32_t ns_cached_slot; /* slot + 1; 0: none yet */

uint32_t ns_slot_claim(void);

static inline uint32_t
ns_slot(void)
{
    uint32_t cached = ns_cached_slot;
    return ns_likely(cached != 0) ? cached - 1 : ns_slot_claim();
}

/* How many cells a structure gets that is sharded by slot (slot & mask), less one: four for every
 * processor, so that threads seldom meet in one, and a power of two. */
extern uint32_t ns_slots_mask;

/* How many slots are taken now, and one more than the highest that ever was. Both are raised, with
 * sequential consistency, before the thread gets its slot. */
extern _Atomic uint32_t ns_slots_taken, ns_slots_high;

static inline unsigned
ns_slots_in_use(void)
{
    return ns_load(&ns_slots_taken, NS_SEQ_CST);
}

#endif
