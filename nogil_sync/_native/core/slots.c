#include "slots.h"

#include <pthread.h>

#include "park.h"

#define BITS 64
#define WORDS (NS_SLOTS / BITS)

#ifndef NS_SLOTS_CELLS /* the least; fewer, in tests, are all there are */
#define NS_SLOTS_CELLS 8
#endif

NS_THREAD_LOCAL uint32_t ns_cached_slot;
uint32_t ns_slots_mask;
_Atomic uint32_t ns_slots_taken, ns_slots_high;

static _Atomic uint64_t taken[WORDS];
static pthread_key_t exit_key;
static bool has_exit_key;

static void
give_back(uint32_t slot)
{
    ns_and(&taken[slot / BITS], ~(UINT64_C(1) << slot % BITS), NS_RELEASE);
    ns_sub(&ns_slots_taken, 1, NS_RELEASE); /* last: never less than there are */
}

static void
at_thread_exit(void *cached)
{
    ns_cached_slot = 0;
    give_back((uint32_t)(uintptr_t)cached - 1);
}

static void
in_child(void)
{
    uint32_t cached = ns_cached_slot;
    for (int i = 0; i < WORDS; i++) {
        ns_store(&taken[i], 0, NS_RELAXED);
    }
    ns_store(&ns_slots_taken, cached != 0, NS_RELAXED);
    if (cached != 0) {
        uint32_t mine = cached - 1;
        ns_or(&taken[mine / BITS], UINT64_C(1) << mine % BITS, NS_RELAXED);
    }
}

static bool
init(void)
{
    uint32_t cells = NS_SLOTS_CELLS;
    while (cells >= 8 && cells < 4 * ns_cpu_count() && cells < 4096) {
        cells *= 2;
    }
    ns_slots_mask = cells - 1;
    has_exit_key = has_exit_key || pthread_key_create(&exit_key, at_thread_exit) == 0;
    return pthread_atfork(NULL, NULL, in_child) == 0;
}

bool
ns_slots_init(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static bool done;
    pthread_mutex_lock(&mutex);
    done = done || init();
    bool result = done;
    pthread_mutex_unlock(&mutex);
    return result;
}

uint32_t
ns_slot_claim(void)
{
    if (!has_exit_key) {
        return NS_NO_SLOT;
    }
    for (uint32_t i = 0; i < WORDS; i++) {
        uint64_t word = ns_load(&taken[i], NS_RELAXED);
        while (~word != 0) {
            uint64_t lowest = ~word & (word + 1);
            uint64_t before = ns_or(&taken[i], lowest, NS_ACQUIRE);
            if (!(before & lowest)) {
                uint32_t slot = i * BITS + (uint32_t)__builtin_ctzll(lowest);
                uint32_t high = ns_load(&ns_slots_high, NS_RELAXED);
                while (high <= slot && !ns_cas(&ns_slots_high, &high, slot + 1, NS_SEQ_CST)) {
                }
                ns_add(&ns_slots_taken, 1, NS_SEQ_CST);
                ns_fence_everywhere(); /* for those who look whether they are alone: epoch.h */
                if (pthread_setspecific(exit_key, (void *)(uintptr_t)(slot + 1)) != 0) {
                    give_back(slot); /* no memory to remember it by */
                    return NS_NO_SLOT;
                }
                ns_cached_slot = slot + 1;
                return slot;
            }
            word = before | lowest;
        }
    }
    return NS_NO_SLOT;
}
