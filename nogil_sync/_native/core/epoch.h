/* epoch.h: when may memory be freed that others read without a lock?
 *
 * After Fraser's epochs ("Practical lock-freedom", 2004) and the grace periods of user-space RCU
 * (Desnoyers et al., IEEE TPDS 2012). Readers mark their sections, in a record of their own;
 * whoever takes something out of a structure stamps it, and frees it once no section is left
 * that was entered early enough to have seen it.
 *
 *   reader                                   writer
 *   section = ns_epoch_enter()               make it unreachable
 *   ... loads of shared pointers ...         ns_epoch_retire(&stamp) -> alone: free it now
 *   ns_epoch_leave(section)                  later: stamp < ns_epoch_poll(): free it
 *
 * State. `now` counts up. A record holds 0 outside of sections, else what `now` was on entry.
 * Records belong to thread slots (slots.h) and lie in static memory: a thread may vanish at
 * shutdown, and another take over its slot. Threads without a slot count themselves in `strays`:
 * while there are any, nothing becomes free.
 *
 * ns_epoch_poll(), one at a time (a second one does nothing): now += 1; a fence in all threads;
 * now += 1; look at every record. So `now` is even between polls. With e the least record that
 * is not 0, or the new `now`: everything stamped less than `safe` = e - 1 may be freed.
 *
 * Argument. Let a thing be unlinked (store U), then a full fence, then it is stamped: `now` is
 * loaded and, if odd, rounded up, which gives s. So U is visible to all before that load, which
 * comes before the poll from s to s + 2 begins. Let F be that poll's fence: it reaches one thread
 * after the other, and may reach a reader long before the writer, which is why U cannot rely on
 * it (models/epoch.pml has the section that begins in between). Let some poll Q find `safe` > s;
 * it is that poll or a later one. Suppose some section still reads the thing after Q. Its record
 * is stored (R) before its loads (L), and L did not see U; so L came before F began.
 *   - Q did not see R: then R comes, in the reader's thread, after Q's fence, which is F or a
 *     later one, and L after R. Contradiction.
 *   - Q saw R = e, and e - 1 > s: e is at least s + 2, a value that `now` got after F. The
 *     reader loaded it (acquire) before L, so L came after F. Contradiction.
 *   So every section that could have read the thing is over. The release of its leaving store,
 *   or of whatever that thread stored in its record later, pairs with the poll's acquire: its
 *   reads happen before the freeing. (This needs stores that become visible to all other
 *   processors at once: x86-64, ARMv8. Elsewhere there are fences on all sides.)
 *
 * The fence. Where one thread can put a fence into all others (park.h: membarrier), entering
 * costs two plain loads and a plain store and leaving one store; retiring, polls and whatever is rare
 * pay for all. Elsewhere entering has a sequentially consistent fence too, and the same
 * argument is C11's own: of two fences one is first. Under thread sanitizer, which knows neither, the
 * record is swapped and the stamp is read by a read-modify-write.
 *
 * When the system refuses. The call that puts the fence into all threads can fail at any time: the kernel has
 * no memory for it, or a seccomp filter was installed. Then all change over to fences of their own
 * (park.h). A poll that cannot be sure yet that every reader did finds nothing safe, and what waits goes on
 * waiting; one that is sure rests on the argument for fences on all sides. A thread that claims a slot waits
 * until it is sure.
 *
 * Alone. If no other thread holds a slot and there are no strays, nobody else can be in a
 * section, and nothing is deferred. Not even the caller may be in one: a thread that comes later would
 * free, by a stamp of 0, what the caller still reads. A thread that comes later first raises the count, then has
 * the fence put into all threads: the writer's load of the count, if it did not see that, came
 * before the fence, and U too; so what enters later sees U.
 *
 * Rules. In a section only loads, compares and compare-and-swaps: it may not block for long, run
 * Python, detach, allocate or nest. (A brief lock of lock.h may be taken: that delays only the
 * freeing.) Nobody ever waits for a grace period: what cannot be freed yet is kept, by the
 * structure it came from.
 *
 * Progress. Entering, leaving, retiring and polling are wait-free; a section that is preempted
 * keeps back what is retired meanwhile, no more.
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
    _Atomic bool polling;
    ns_epoch_record records[NS_SLOTS];
} ns_epochs;

/* Once, before the rest. False without memory. */
bool ns_epoch_init(void);

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
    ns_fence_here();
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

/* For something that is no longer reachable: free it when the result < ns_epoch_safe(). The caller may be in a
 * section. */
static inline uint64_t
ns_epoch_stamp(void)
{
    ns_fence(NS_SEQ_CST);
#if defined(__SANITIZE_THREAD__)
    uint64_t now = ns_add(&ns_epochs.now, 0, NS_SEQ_CST);
#else
    uint64_t now = ns_load(&ns_epochs.now, NS_ACQUIRE);
#endif
    return now + (now & 1);
}

/* Likewise, but not in a section. True: this thread is alone, free it now. False: free it when
 * *stamp < ns_epoch_safe(). */
static inline bool
ns_epoch_retire(uint64_t *stamp)
{
    ns_fence_here(); /* newcomers bring the other one */
    if (ns_load(&ns_slots_taken, NS_SEQ_CST) == 1 && ns_cached_slot != 0 &&
        ns_load(&ns_epochs.strays, NS_SEQ_CST) == 0) {
        return true;
    }
    *stamp = ns_epoch_stamp();
    return false;
}

/* What a poll found so far: cheap. */
static inline uint64_t
ns_epoch_safe(void)
{
    return ns_load(&ns_epochs.safe, NS_ACQUIRE);
}

/* Looks anew: about half a microsecond, and a look at every thread's record. Not in a section.
 * What was retired before it is free afterwards, unless somebody is in a section, or polls just
 * now, or the system has just refused the fence. */
uint64_t ns_epoch_poll(void);

#endif
