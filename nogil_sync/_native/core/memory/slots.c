#include "memory/slots.h"

#define BITS 64
#define WORDS (NS_SLOTS / BITS)
#define VERSION (UINT64_C(1) << NS_SLOTS_VERSION_SHIFT)

#ifndef NS_SLOTS_CELLS /* the min; in tests that lower it, also the max */
#define NS_SLOTS_CELLS 8
#endif

NS_THREAD_LOCAL uint32_t ns_cached_slot;
NS_THREAD_LOCAL uint64_t ns_thread_mark;
struct ns_slots ns_slots;

/* Whether the system tells of the end of a thread; else no thread gets a slot. */
static bool are_returned;

static inline uint64_t
with_words(uint64_t state, uint32_t words)
{
    const uint64_t others = ns_slots_words_in(UINT64_MAX);
    return (state & ~(others << NS_SLOTS_WORDS_SHIFT)) | (uint64_t)words << NS_SLOTS_WORDS_SHIFT;
}

/* ---- Alone ---- */

bool
ns_slots_become_alone(void)
{
    const uint32_t me = ns_cached_slot;
    uint32_t nobody = NS_NOBODY;
    if (me == 0 || ns_slots_in_use() != 1 || !ns_cas(&ns_globals.alone, &nobody, me, NS_SEQ_CST)) {
        return false;
    }
    if (ns_slots_in_use() == 1) {
        return true;
    }
    uint32_t mine = me; /* a newcomer may have read `alone` before we set it */
    ns_cas(&ns_globals.alone, &mine, NS_NOBODY, NS_RELAXED);
    return false;
}

/* For a newcomer that is counted: no thread is alone after it. */
static void
end_solitude(void)
{
    ns_fence(NS_SEQ_CST); /* pairs with the fence of polls */
    uint32_t who = ns_load(&ns_globals.alone, NS_SEQ_CST);
    while (who != NS_NOBODY) {
        if (who == NS_ENDING || ns_cas(&ns_globals.alone, &who, NS_ENDING, NS_SEQ_CST)) {
            ns_fence_everywhere();
            who = NS_ENDING;
            ns_cas(&ns_globals.alone, &who, NS_NOBODY, NS_RELEASE);
            return;
        }
    }
}

/* The thread is alone no more. A newcomer that reads NS_NOBODY sees what the thread did alone
 * (release). */
static void
give_up_solitude(uint32_t me)
{
    if (ns_load(&ns_globals.alone, NS_RELAXED) == me) {
        ns_cas(&ns_globals.alone, &me, NS_NOBODY, NS_RELEASE);
    }
}

void
ns_slots_enter_stray(void)
{
    ns_add(&ns_slots.state, VERSION + NS_SLOTS_ONE, NS_SEQ_CST);
    end_solitude();
}

void
ns_slots_leave_stray(void)
{
    ns_sub(&ns_slots.state, NS_SLOTS_ONE, NS_RELEASE);
}

/* ---- Claiming and returning ---- */

/* Sets the lowest clear bit. Returns its slot, or NS_NO_SLOT if all are set. */
static uint32_t
take_bit(void)
{
    for (uint32_t i = 0; i < WORDS; i++) {
        uint64_t word = ns_load(&ns_slots.taken[i], NS_RELAXED);
        while (~word != 0) {
            uint64_t lowest = ~word & (word + 1);
            uint64_t before = ns_or(&ns_slots.taken[i], lowest, NS_ACQUIRE);
            if (!(before & lowest)) {
                return i * BITS + (uint32_t)__builtin_ctzll(lowest);
            }
            word = before | lowest;
        }
    }
    return NS_NO_SLOT;
}

static void
announce(uint32_t slot)
{
    const uint32_t needed = slot / BITS + 1;
    uint64_t state = ns_load(&ns_slots.state, NS_RELAXED), next;
    do {
        uint32_t words = ns_slots_words_in(state);
        next = with_words(state, words < needed ? needed : words) + VERSION + NS_SLOTS_ONE;
    } while (!ns_cas(&ns_slots.state, &state, next, NS_SEQ_CST));
}

static void
give_back(uint32_t slot)
{
    ns_and(&ns_slots.taken[slot / BITS], ~(UINT64_C(1) << slot % BITS), NS_RELEASE);
    uint64_t state, next;
    do {
        /* Acquires the bits of the threads that are counted. */
        state = ns_load(&ns_slots.state, NS_ACQUIRE);
        uint32_t words = ns_slots_words_in(state);
        while (words > 0 && ns_load(&ns_slots.taken[words - 1], NS_ACQUIRE) == 0) {
            words--;
        }
        next = with_words(state, words) - NS_SLOTS_ONE;
    } while (!ns_cas(&ns_slots.state, &state, next, NS_SEQ_CST));
}

static void
at_thread_exit(void *cached)
{
    give_up_solitude((uint32_t)(uintptr_t)cached);
    ns_cached_slot = 0;
    give_back((uint32_t)(uintptr_t)cached - 1);
}

uint32_t
ns_slot_claim(void)
{
    uint32_t slot = are_returned ? take_bit() : NS_NO_SLOT;
    if (slot == NS_NO_SLOT) {
        return NS_NO_SLOT;
    }
    announce(slot);
    end_solitude();
    if (!ns_at_exit((void *)(uintptr_t)(slot + 1))) {
        give_back(slot); /* no memory for the thread's value of the key */
        return NS_NO_SLOT;
    }
    ns_cached_slot = slot + 1;
    return slot;
}

/* `words` stays as it is: epoch.c still has to visit the slots of the threads that are gone. It
 * falls when a thread returns its slot. */
static void
in_child(void)
{
    const uint32_t cached = ns_cached_slot;
    const uint32_t words = ns_slots_words();
    for (uint32_t i = 0; i < WORDS; i++) {
        if (ns_load(&ns_slots.taken[i], NS_RELAXED) != 0) {
            ns_store(&ns_slots.taken[i], 0, NS_RELAXED);
        }
    }
    ns_store(&ns_slots.state, with_words(cached != 0, words), NS_RELAXED);
    if (cached != 0) {
        uint32_t mine = cached - 1;
        ns_or(&ns_slots.taken[mine / BITS], UINT64_C(1) << mine % BITS, NS_RELAXED);
    }
    ns_store(&ns_globals.alone, NS_NOBODY, NS_RELAXED);
}

static bool
init(void)
{
    uint32_t cells = NS_SLOTS_CELLS;
    while (cells >= 8 && cells < 4 * ns_cpu_count() && cells < 4096) {
        cells *= 2;
    }
    ns_slots_mask = cells - 1;
    are_returned = ns_at_exit_init(at_thread_exit);
    return ns_call_in_child(in_child);
}

bool
ns_slots_init(void)
{
    static bool done;
    return ns_init_once(&done, init);
}
