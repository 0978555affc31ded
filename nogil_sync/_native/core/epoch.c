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
    if (ns_load(&ns_epochs.polling, NS_RELAXED)) { /* by a thread that is gone */
        uint64_t now = ns_load(&ns_epochs.now, NS_RELAXED);
        ns_store(&ns_epochs.now, now + (now & 1), NS_RELAXED);
        ns_store(&ns_epochs.polling, false, NS_RELAXED);
    }
}

static bool
init(void)
{
    ns_store(&ns_epochs.now, 2, NS_RELAXED);
    ns_store(&ns_epochs.safe, 1, NS_RELAXED); /* a stamp of 0 is always safe */
    return pthread_atfork(NULL, NULL, in_child) == 0;
}

bool
ns_epoch_init(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static bool done;
    pthread_mutex_lock(&mutex);
    done = done || init();
    bool result = done;
    pthread_mutex_unlock(&mutex);
    return result;
}

ns_section
ns_epoch_enter_stray(void)
{
    ns_add(&ns_epochs.strays, 1, NS_SEQ_CST);
    ns_fence_everywhere();
    return NULL;
}

void
ns_epoch_leave_stray(void)
{
    ns_sub(&ns_epochs.strays, 1, NS_RELEASE);
}

uint64_t
ns_epoch_poll(void)
{
    if (ns_load(&ns_epochs.polling, NS_RELAXED) || ns_swap(&ns_epochs.polling, true, NS_SEQ_CST)) {
        return ns_epoch_safe();
    }
    ns_add(&ns_epochs.now, 1, NS_SEQ_CST);
    const bool fenced = ns_try_fence_everywhere();
    uint64_t oldest = ns_add(&ns_epochs.now, 1, NS_SEQ_CST) + 1;
    uint32_t high = ns_load(&ns_slots_high, NS_SEQ_CST);
    for (uint32_t i = 0; i < high; i++) {
        uint64_t entered = ns_load(&ns_epochs.records[i].epoch, NS_ACQUIRE);
        if (entered != 0 && entered < oldest) {
            oldest = entered;
        }
    }
    uint64_t safe = ns_load(&ns_epochs.safe, NS_RELAXED);
    if (fenced && ns_load(&ns_epochs.strays, NS_SEQ_CST) == 0 && oldest - 1 > safe) {
        safe = oldest - 1;
        /* Release: who reads it has this poll's knowledge of the sections that are over. */
        ns_store(&ns_epochs.safe, safe, NS_RELEASE);
    }
    ns_store(&ns_epochs.polling, false, NS_RELEASE);
    return safe;
}
