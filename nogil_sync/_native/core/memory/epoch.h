/* epoch.h: when may memory be freed that other threads read without a lock?
 *
 * After Fraser's epochs ("Practical lock-freedom", 2004) and the grace periods of user-space RCU
 * (Desnoyers et al., IEEE TPDS 2012). Each reader marks its sections in a record of its own. A
 * writer that takes something out of a structure stamps it. It frees it once no section is left
 * that was entered early enough to have seen it.
 *
 *   reader                                   writer
 *   section = ns_epoch_enter()               make it unreachable
 *   ... loads of shared pointers ...         ns_epoch_retire(&stamp) -> alone: free it now
 *   ns_epoch_leave(section)                  later: stamp < ns_epoch_poll(): free it
 *
 * State. `now` only increases. A record holds 0 outside of sections, else the value of `now` on
 * entry. Records belong to thread slots (slots.h) and lie in static memory: a thread may vanish at
 * shutdown, and another one take over its slot. Threads without a slot count themselves in
 * `strays`; while there are any, nothing becomes safe to free.
 *
 * A poll first moves `now` on, from even to odd to even:
 *
 *     even n:  n -> n + 1 by compare-and-swap          the round begins
 *     odd m:   a fence in all threads, begun after the poll read m;
 *              m -> m + 1 by compare-and-swap          the round is over
 *
 * A poll that finds an odd `now` joins the round: it makes a fence of its own and ends the round,
 * unless another poll already did. So a thread that is preempted in the middle of its poll holds up
 * no other, and a round is over only when a whole fence came after its beginning. Then the poll
 * reads `now` and looks at the records of all threads. Let e be the min of the nonzero records and
 * of the `now` that it read. Everything stamped less than e - 1 may be freed, and the poll raises
 * `safe` to e - 1.
 *
 * Argument. Let a thing be unlinked (store U). A full fence follows, and then the thing is stamped:
 * the writer loads `now`, rounds it up if it is odd, and gets s. So U is visible to all before that
 * load, which comes before the round from s to s + 2 begins. Let F be the fence that ended this
 * round. F began after the round did, and was over before `now` became s + 2. F reaches one thread
 * after the other, and may reach a reader long before the writer. That is why U cannot rely on F
 * (models/epoch.pml has the section that begins in between). Let some poll Q find everything below
 * e - 1 safe, with e - 1 > s. So e, and the `now` that Q read before its look at the records, are
 * at least s + 2: Q's look comes after F. Suppose that some section still reads the thing after Q.
 * Its record is stored (R) before its loads (L), and L did not see U. So L came before F reached
 * its thread.
 *   - Suppose that Q's look saw the thread but not R. Then R comes, in the reader's thread, after
 *     F, because F made visible what came before it; and L comes after R. Contradiction.
 *   - Suppose that Q's look did not see the thread. Then the thread's claim of the slot ended after
 *     F (slots.h), and L came after that. Contradiction. The same holds for a stray, which counts
 *     itself and then has a full fence.
 *   - Suppose that Q saw R >= e. That is at least s + 2, a value that `now` got after F. The reader
 *     loaded it (acquire) before L, so L came after F. Contradiction.
 *   So every section that could have read the thing is over. The poll's acquire pairs with one of
 *   three releases: the store by which the section ended, a later store of that thread to its
 *   record, or the return of its slot. So the section's reads happen before the freeing. (This
 *   needs stores that become visible to all other processors at once: x86-64, ARMv8. Elsewhere both
 *   sides have fences.)
 *
 * The fence. Where one thread can put a fence into all others (park.h: membarrier), entering costs
 * two plain loads and a plain store, and leaving one store. Retiring, polls and other rare steps
 * pay for all. Elsewhere entering has a sequentially consistent fence too, and then the argument is
 * C11's own: of two fences one is first. The thread sanitizer models neither. Under it the record
 * is swapped, and the stamp is read by a read-modify-write.
 *
 * When the system refuses. The call that puts the fence into all threads can fail at any time: the
 * kernel has no memory for it, or a seccomp filter was installed. Then all threads change over to
 * fences of their own (park.h). A poll that cannot be sure yet that every reader has done so leaves
 * the round open and finds nothing safe, so that what waits goes on waiting. A poll that is sure
 * relies on the argument for fences on both sides.
 *
 * Alone. If no other thread holds a slot and there are no strays, no other thread can be in a
 * section, and nothing is deferred: see slots.h. Even the caller must not be in a section: by a
 * stamp of 0, a thread that starts later would free what the caller still reads. A thread that was
 * not alone becomes so again when it retires something and the others are gone.
 *
 * When to poll. A poll costs a system call that interrupts all processors on which threads of the
 * process run, and two stores to `now`, which every reader loads. So a thread that has something
 * waiting calls ns_epoch_poll_if_due, without a lock and not in a section. That polls if
 * NS_POLL_INTERVAL has passed since the last poll of the process began, or NS_POLL_BYTES were
 * retired since. ns_epoch_note counts retired bytes in the thread's own record, and adds them to
 * the shared count in batches of NS_POLL_BATCH.
 *
 * How much can wait. Let no section last longer than T, and let threads that retire call
 * ns_epoch_poll_if_due at least each time they have added a batch. Then what is retired is safe
 * after two rounds. The second of them begins at the latest after another NS_POLL_BYTES were added.
 * So at most this much waits: 2 * NS_POLL_BYTES, NS_POLL_BATCH for each thread, and what is retired
 * during two fences and T. (2 MiB, and 4 KiB a thread, and that.) A structure frees what is safe at
 * its own times: see there. A thread that is stopped in a section holds up everything that is
 * retired meanwhile, without a limit, because no thread can wait for it. But from NS_POLL_HELD
 * bytes on, each poll_if_due that polls also offers the processor to other threads: on a machine
 * with more threads than processors the thread in the section usually waits only for its turn.
 * ns_epoch_waiting() returns the bytes.
 *
 * Rules. In a section there are only loads, compares and compare-and-swaps. A thread in a section
 * may not block for long, run Python, let go of the interpreter, allocate or nest sections. (It may
 * take a brief lock of lock.h: that delays only the freeing.) No thread ever waits for a grace
 * period: a structure keeps what it cannot free yet.
 *
 * Progress. Entering, leaving and retiring are wait-free. A poll is lock-free and costs a look at
 * each living thread (and a load for each 64 slots up to the highest). A section that is preempted
 * holds up only what is retired meanwhile.
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
    /* bytes not in the shared count yet; only the slot's holder writes it */
    _Atomic uint32_t noted;
} ns_epoch_record;

extern struct ns_epochs {
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t now; /* only polls write it */
    /* the max that a poll has found; only polls write it */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t safe;
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t strays;
    /* bytes since the process began; written a batch at a time */
    _Alignas(NS_CACHE_LINE) _Atomic uint64_t retired;
    /* Each poll writes these, a few times. */
    /* the ns_now() from which on a poll is due by time */
    _Alignas(NS_CACHE_LINE) _Atomic int64_t due;
    /* usually the ns_now() at which the current poll began; 0: none runs */
    _Atomic int64_t polling;
    _Atomic uint64_t polled;                     /* `retired` when the last poll began */
    _Atomic uint64_t freed; /* a lower bound of how many of the retired bytes are safe */
    /* `sampled` bytes were retired before the epoch `sample` began */
    _Atomic uint64_t sampled, sample;
    ns_epoch_record records[NS_SLOTS];
} ns_epochs;

/* Must run once, before the rest. Returns false if there is no memory. */
bool ns_epoch_init(void);

/* NULL: a stray's section. */
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

/* Returns the stamp of something that is no longer reachable. It may be freed when the stamp is <
 * ns_epoch_safe(). The caller may be in a section. Contains a full fence. */
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

/* The same for a caller that is not in a section. Returns true if this thread is alone: free it
 * now. Returns false if it may be freed only when *stamp < ns_epoch_safe(). */
static inline bool
ns_epoch_retire(uint64_t *stamp)
{
    ns_fence_here(); /* threads that start later make the other fence */
    if (ns_likely(ns_slots_is_alone())) {
        return true;
    }
    if (ns_slots_in_use() == 1 && ns_slots_become_alone()) {
        return true;
    }
    *stamp = ns_epoch_stamp();
    return false;
}

/* What polls have found so far: cheap. An acquire. */
static inline uint64_t
ns_epoch_safe(void)
{
    return ns_load(&ns_epochs.safe, NS_ACQUIRE);
}

/* Polls now: about half a microsecond, and a look at every thread's record. Not in a section.
 * Afterwards what was retired before it is safe, with three exceptions: a thread is in a section;
 * or another poll ran when it was retired or when this poll began (if that poll is not older than
 * NS_POLL_INTERVAL, this one does nothing); or the system has just refused the fence. */
uint64_t ns_epoch_poll(void);

/* Polls if a poll is due for the whole process: see "When to poll". Returns ns_epoch_safe(). The
 * caller holds no lock and is not in a section. Costs a reading of the clock if no poll is due. May
 * offer the processor to other threads. */
uint64_t ns_epoch_poll_if_due(void);

void ns_epoch_pass_on(uint64_t bytes);

/* Counts bytes that the calling thread has retired. The caller may be in a section, and may hold a
 * lock. */
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

/* How many of the bytes in the shared count are not known to be safe. Never too few, except for
 * those that no poll of ns_epoch_poll_if_due has sampled yet. */
uint64_t ns_epoch_waiting(void);

#endif
