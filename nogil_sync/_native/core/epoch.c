#include "epoch.h"

#include <pthread.h>

struct ns_epochs ns_epochs; /* zeroed: pages that no thread's record lies in stay untouched */

static void
in_child(void)
{
    uint32_t high = ns_load(&ns_slots_high, NS_RELAXED);
    for (uint32_t i = 0; i < high; i++) {
        ns_store(&ns_epochs.records[i].epoch, 0, NS_RELAXED);
    }
    ns_store(&ns_epochs.strays, 0, NS_RELAXED);
}

static void
init(void)
{
    ns_store(&ns_epochs.now, 1, NS_RELAXED);
    ns_store(&ns_epochs.safe, 1, NS_RELAXED); /* a stamp of 0 is always safe */
    pthread_atfork(NULL, NULL, in_child);
}

void
ns_epoch_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
}

ns_section
ns_epoch_enter_stray(void)
{
    ns_add(&ns_epochs.strays, 1, NS_SEQ_CST);
    ns_fence(NS_SEQ_CST);
    return NULL;
}

void
ns_epoch_leave_stray(void)
{
    ns_sub(&ns_epochs.strays, 1, NS_RELEASE);
}

bool
ns_epoch_retire(uint64_t *stamp)
{
    ns_fence(NS_SEQ_CST); /* U before the loads, for all to see */
    if (ns_load(&ns_slots_taken, NS_SEQ_CST) == 1 && ns_cached_slot != 0 &&
        ns_load(&ns_epochs.strays, NS_SEQ_CST) == 0) {
        return true;
    }
#if defined(__SANITIZE_THREAD__)
    *stamp = ns_add(&ns_epochs.now, 0, NS_SEQ_CST);
#else
    *stamp = ns_load(&ns_epochs.now, NS_ACQUIRE);
#endif
    return false;
}

uint64_t
ns_epoch_poll(void)
{
    uint64_t oldest = ns_add(&ns_epochs.now, 1, NS_SEQ_CST) + 1;
    if (ns_can_fence_threads) {
        ns_fence_threads();
    }
    else {
        ns_fence(NS_SEQ_CST);
    }
    uint64_t safe = ns_load(&ns_epochs.safe, NS_ACQUIRE);
    if (ns_load(&ns_epochs.strays, NS_SEQ_CST) != 0) {
        return safe;
    }
    uint32_t high = ns_load(&ns_slots_high, NS_SEQ_CST);
    for (uint32_t i = 0; i < high; i++) {
        uint64_t entered = ns_load(&ns_epochs.records[i].epoch, NS_ACQUIRE);
        if (entered != 0 && entered < oldest) {
            oldest = entered;
        }
    }
    /* Release: who reads it has this poll's knowledge of the sections that are over. */
    while (safe < oldest && !ns_cas(&ns_epochs.safe, &safe, oldest, NS_SEQ_CST)) {
    }
    return safe < oldest ? oldest : ns_epoch_safe();
}
