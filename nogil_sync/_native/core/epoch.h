/* epoch.h: when may memory be freed that others read without a lock?
 *
 * After Fraser's epochs ("Practical lock-freedom", 2004) and the grace periods of user-space RCU
 * (Desnoyers et al., IEEE TPDS 2012). Readers mark their sections, in a record of their own; whoever
 * takes something out of a structure stamps it, and frees it once no section is left that was entered
 * early enough to have seen it.
 *
 *   reader                                   writer
 *   section = ns_epoch_enter()               make it unreachable
 *   ... loads of shared pointers ...         ns_epoch_retire(&stamp) -> alone: free it now
 *   ns_epoch_leave(section)                  later: stamp < ns_epoch_poll(): free it
 *
 * State. `now` counts up, from 1. A record holds 0 outside of sections, else what `now` was on entry.
 * Records belong to thread slots (slots.h) and lie in static memory: a thread may vanish at shutdown, and
 * another take over its slot. Threads without a slot count themselves in `strays`: while there are any,
 * nothing becomes free.
 *
 *   ns_epoch_poll(): now += 1; fence in all threads; look at every record. Everything whose stamp
 *   is less than every record that is not 0 (and less than the new `now`) may be freed.
 *
 * Argument. Let a thing be unlinked (store U), then stamped s: a fence, then the load of `now` that gave
 * s. Let a poll, begun after that, find `safe` > s, and let some section read the thing. Its record is
 * stored (R) before its loads (L); L did not see U. Two cases.
 *   - The poll did not see R. The poll's fence is in the reader's thread either before R, and then L
 *     comes after the fence and U before it, so L sees U; or after R, and then the poll's look at the
 *     record comes after R and sees it, or a later value: 0, stored when the section was over.
 *     Either contradicts.
 *   - The poll saw R = e, so e > s. The reader loaded `now` = e (acquire) and then L. The writer's load
 *     gave s < e after its fence, so U was visible to all before `now` became e, and L sees U. This
 *     needs a store that becomes visible to all other processors at once (x86-64, ARMv8),
 *     or fences on both sides; hence the fallback elsewhere. Contradiction.
 *   So every section that could have read the thing is over, and the release of its leaving
 *   store, or of whatever that thread stored in its record later, pairs with the poll's acquire: its reads
 *   happen before the freeing.
 *
 * The fence. Where one thread can put a fence into all others (park.h: membarrier), entering costs two
 * plain loads and a plain store, and leaving one. Elsewhere entering has a sequentially consistent fence
 * and so has the poll, and the same argument is C11's own: of two fences one is first. Under thread sanitizer,
 * which knows neither, the record is swapped and the polls' looks synchronise with it.
 *
 * Alone. If no other thread holds a slot and there are no strays, nobody else can be in a section: a
 * thread that comes later raises the count first (seq_cst), and after that sees U, by
 * the fence in ns_epoch_retire between U and the load of the count. Then nothing is deferred.
 *
 * Rules. In a section only loads, compares and compare-and-swaps: it may not block for long, run Python,
 * detach, allocate or nest. (A brief lock of lock.h may be taken: that delays only the freeing.) Nobody ever waits
 * for a grace period: what cannot be freed yet is kept, by the structure it came from.
 *
 * Progress. Readers: wait-free. A poll is wait-free too; a section that is preempted keeps back what is
 * retired meanwhile, no more.
 *
 * Fork. The child has one thread, which is in no section: the other records are reset.
 */
#ifndef NS_EPOCH_H
#define NS_EPOCH_H

#include "park.h"
#include "slots.h"

typedef struct ns_epoch_record {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t epoch;
} ns_epoch_record;

extern struct ns_epochs {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t now; /* written by polls only */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t safe; /* the best a poll has found */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t strays;
    ns_epoch_record records[NS_SLOTS];
} ns_epochs;

/* Once, before the rest. */
void ns_epoch_init(void);

/* NULL: a stray's. */
typedef ns_epoch_record *ns_section;

ns_section ns_epoch_enter_stray(void);
void ns_epoch_leave_stray(void);

static inline ns_section
ns_epoch_enter(void)
{
    uint32_t slot = ns_slot();
    if (ns_unlikely(slot == NS_NO_SLOT)) {
        return ns_epoch_enter_stray();
    }
    ns_section section = &ns_epochs.records[slot];
    uint64_t now = ns_load(&ns_epochs.now, NS_ACQUIRE);
#if defined(__SANITIZE_THREAD__)
    ns_swap(&section->epoch, now, NS_SEQ_CST);
#else
    ns_store(&section->epoch, now, NS_RELEASE);
    if (ns_likely(ns_can_fence_threads)) {
        ns_compiler_fence();
    }
    else {
        ns_fence(NS_SEQ_CST);
    }
#endif
    return section;
}

static inline void
ns_epoch_leave(ns_section section)
{
    if (ns_unlikely(section == NULL)) {
        ns_epoch_leave_stray();
        return;
    }
    ns_store(&section->epoch, 0, NS_RELEASE);
}

/* For something that is no longer reachable. True: nobody else can be reading it, free it now.
 * False: free it when *stamp < ns_epoch_safe(). */
bool ns_epoch_retire(uint64_t *stamp);

/* What a poll found so far: cheap. */
static inline uint64_t
ns_epoch_safe(void)
{
    return ns_load(&ns_epochs.safe, NS_ACQUIRE);
}

/* Looks anew: about half a microsecond, and a look at every thread's record. Not in a section. */
uint64_t ns_epoch_poll(void);

#endif
