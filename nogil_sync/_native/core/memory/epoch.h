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
 * A poll first moves `now` on, from even to odd to even:
 *
 *     even n:  n -> n + 1 by compare-and-swap          the round begins
 *     odd m:   a fence in all threads, begun after the poll read m;
 *              m -> m + 1 by compare-and-swap          the round is over
 *
 * A poll that finds an odd `now` joins the round: it brings a fence of its own and ends the
 * round, if no other did. So a thread that is preempted in the middle of its poll holds up
 * nobody, and a round is over only when a whole fence came after its beginning. Then the poll
 * reads `now` and looks at the records of all threads. With e the least record that is not 0, or
 * the `now` it read: everything stamped less than e - 1 may be freed, and `safe` is raised to that.
 *
 * Argument. Let a thing be unlinked (store U), then a full fence, then it is stamped: `now` is
 * loaded and, if odd, rounded up, which gives s. So U is visible to all before that load, which
 * comes before the round from s to s + 2 begins. Let F be the fence that ended this round: it
 * began after the round did, and was over before `now` became s + 2. It reaches one thread
 * after the other, and may reach a reader long before the writer, which is why U cannot rely on
 * it (models/epoch.pml has the section that begins in between). Let some poll Q find everything
 * below e - 1 safe, with e - 1 > s. So e, and the `now` that Q read before its look, are at least
 * s + 2: Q's look comes after F. Suppose some section still reads the thing after Q. Its record
 * is stored (R) before its loads (L), and L did not see U; so L came before F reached its thread.
 *   - Q's look did not see R, though it saw the thread: then R comes, in the reader's thread,
 *     after F, for F made visible what came before; and L after R. Contradiction.
 *   - Q's look did not see the thread: then its claim of the slot ended after F (slots.h), and L
 *     came after that. Contradiction. So it is for a stray, which counts itself and then has a
 *     full fence.
 *   - Q saw R >= e: that is at least s + 2, a value that `now` got after F. The
 *     reader loaded it (acquire) before L, so L came after F. Contradiction.
 *   So every section that could have read the thing is over. The release of its leaving store,
 *   or of whatever that thread stored in its record later, or of the return of its slot, pairs
 *   with the poll's acquire: its reads happen before the freeing. (This needs stores that become
 *   visible to all other processors at once: x86-64, ARMv8. Elsewhere there are fences on all
 *   sides.)
 *
 * The fence. Where one thread can put a fence into all others (park.h: membarrier), entering
 * costs two plain loads and a plain store and leaving one store; retiring, polls and whatever is
 * rare pay for all. Elsewhere entering has a sequentially consistent fence too, and the same
 * argument is C11's own: of two fences one is first. Under thread sanitizer, which knows neither,
 * the record is swapped and the stamp is read by a read-modify-write.
 *
 * When the system refuses. The call that puts the fence into all threads can fail at any time:
 * the kernel has no memory for it, or a seccomp filter was installed. Then all change over to
 * fences of their own (park.h). A poll that cannot be sure yet that every reader did leaves the
 * round open and finds nothing safe, and what waits goes on waiting; one that is sure rests on
 * the argument for fences on all sides.
 *
 * Alone. If no other thread holds a slot and there are no strays, nobody else can be in a
 * section, and nothing is deferred: see slots.h. Not even the caller may be in a section: a
 * thread that comes later would free, by a stamp of 0, what the caller still reads. A thread that
 * was not alone becomes so again when it retires something and the others are gone.
 *
 * When to poll. A poll costs a system call that interrupts all processors on which threads of the
 * process run, and two stores to `now`, which every reader loads. So a thread that has something waiting
 * calls ns_epoch_poll_if_due, without a lock and not in a section: it polls if NS_POLL_INTERVAL
 * went by since the last poll of the process began, or NS_POLL_BYTES were retired since. Retired
 * bytes are counted by ns_epoch_note, in the thread's own record, and passed on in batches of
 * NS_POLL_BATCH.
 *
 * How much can wait. Let no section last longer than T, and let those who retire call
 * ns_epoch_poll_if_due at least each time they have passed on a batch. Then what is retired is
 * safe after two rounds, the second of which begins after NS_POLL_BYTES more were passed on at
 * the latest: at most 2 * NS_POLL_BYTES, and NS_POLL_BATCH for each thread, and what is retired
 * in the time of two fences and T. (2 MiB, and 4 KiB a thread, and that.) What was safe is freed
 * when its structure looks: see there. A thread that is stopped in a section keeps back
 * everything that is retired meanwhile, and that has no limit, as nobody can wait for it. But
 * from NS_POLL_HELD bytes on, each poll_if_due that polls also offers the processor to other
 * threads, since on a machine with more threads than processors the one in the section is as a
 * rule only waiting for its turn. ns_epoch_waiting() tells the bytes.
 *
 * Rules. In a section only loads, compares and compare-and-swaps: it may not block for long, run
 * Python, detach, allocate or nest. (A brief lock of lock.h may be taken: that delays only the
 * freeing.) Nobody ever waits for a grace period: what cannot be freed yet is kept, by the
 * structure it came from.
 *
 * Progress. Entering, leaving and retiring are wait-free, a poll is lock-free and costs a look at
 * each thread that lives (and a load for each 64 slots up to the highest); a section that is
 * preempted keeps back what is retired meanwhile, no more.
 *
 * Fork. The child has one thread, which is in no section: the other records are reset.
 */
#ifndef NS_EPOCH_H
#define NS_EPOCH_H

#include "waiting/park.h"
#include "memory/slots.h"

#ifndef NS_POLL_INTERVAL
#define NS_POLL_INTERVAL INT64_C(200000) /* nanoseconds */
#endif
#ifndef NS_POLL_BYTES
#define NS_POLL_BYTES (1 << 20)
#endif
#ifndef NS_POLL_BATCH
#define NS_POLL_BATCH (4 << 10)
#endif
#ifndef NS_POLL_HELD
#define NS_POLL_HELD (32 << 20)
#endif

typedef struct ns_epoch_record {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t epoch;
    _Atomic uint32_t noted; /* bytes not passed on yet; written by the slot's holder only */
} ns_epoch_record;

extern struct ns_epochs {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t now; /* written by polls only */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t safe; /* the best a poll has found */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t strays;
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t retired; /* bytes, since the process began */
    /* Written by polls, a few times each. */
    _Alignas(NS_CACHE_LINE) _Atomic int64_t due; /* by ns_now(); then a poll is due by time */
    _Atomic int64_t polling;                     /* since when somebody polls, as a rule; or 0 */
    _Atomic uint64_t polled;                     /* `retired` when the last poll began */
    _Atomic uint64_t freed; /* so many of the retired bytes are safe, at least */
    _Atomic uint64_t sampled, sample; /* what was retired before epoch `sample` began */
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

/* For something that is no longer reachable: free it when the result < ns_epoch_safe(). The
 * caller may be in a section. */
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
    if (ns_likely(ns_slots_is_alone())) {
        return true;
    }
    if (ns_slots_in_use() == 1 && ns_slots_become_alone()) {
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
 * What was retired before it is free afterwards, unless somebody is in a section, or another poll
 * was under way when it was retired or when this one began (if that poll is not older than
 * NS_POLL_INTERVAL, this one does nothing), or the system has just refused the fence. */
uint64_t ns_epoch_poll(void);

/* Polls if that is due, for the whole process: see "When to poll". Returns ns_epoch_safe(). With
 * no lock held, not in a section; costs a reading of the clock if no poll is due. May offer the
 * processor to other threads. */
uint64_t ns_epoch_poll_if_due(void);

void ns_epoch_pass_on(uint64_t bytes);

/* Notes that the calling thread has retired so many bytes: in a section or not, with a lock or
 * without. */
static inline void
ns_epoch_note(uint32_t bytes)
{
    const uint32_t cached = ns_cached_slot;
    if (ns_unlikely(cached == 0)) {
        ns_epoch_pass_on(bytes);
        return;
    }
    _Atomic uint32_t *noted = &ns_epochs.records[cached - 1].noted;
    const uint64_t sum = (uint64_t)ns_load(noted, NS_RELAXED) + bytes;
    ns_store(noted, sum < NS_POLL_BATCH ? (uint32_t)sum : 0, NS_RELAXED);
    if (ns_unlikely(sum >= NS_POLL_BATCH)) {
        ns_epoch_pass_on(sum);
    }
}

/* How many of the bytes that were noted and passed on are not known to be safe; never too few,
 * but for what polls of ns_epoch_poll_if_due have not sampled yet. */
uint64_t ns_epoch_waiting(void);

#endif
