#include "memory/epoch.h"

struct ns_epochs ns_epochs; /* zeroed, so pages without a thread's record stay untouched */

/* Runs after the handler of slots.c, which leaves ns_slots_words() as it was. */
static void
in_child(void)
{
    const uint32_t end = ns_slots_words() * 64;
    for (uint32_t i = 0; i < end; i++) {
        if (ns_load(&ns_epochs.records[i].epoch, NS_RELAXED) != 0) {
            ns_store(&ns_epochs.records[i].epoch, 0, NS_RELAXED);
        }
    }
    ns_store(&ns_epochs.strays, 0, NS_RELAXED);
    ns_store(&ns_epochs.polling, 0, NS_RELAXED);
}

static bool
init(void)
{
    ns_store(&ns_epochs.now, 2, NS_RELAXED);
    ns_store(&ns_epochs.safe, 1, NS_RELAXED); /* a stamp of 0 is always safe */
    return ns_call_in_child(in_child);
}

bool
ns_epoch_init(void)
{
    static bool done;
    return ns_init_once(&done, init);
}

ns_section
ns_epoch_enter_stray(void)
{
    ns_add(&ns_epochs.strays, 1, NS_SEQ_CST);
    ns_slots_enter_stray(); /* this ends with a full fence */
    return NULL;
}

void
ns_epoch_leave_stray(void)
{
    ns_sub(&ns_epochs.strays, 1, NS_RELEASE);
    ns_slots_leave_stray();
}

/* ---- Polling ---- */

/* Moves `now` on by a round, or helps to end the current one. Returns false if it is not sure that
 * the fence reached every thread; then the round stays open. */
static bool
end_round(void)
{
    uint64_t now = ns_load(&ns_epochs.now, NS_ACQUIRE);
    while (!(now & 1)) {
        if (ns_cas(&ns_epochs.now, &now, now + 1, NS_SEQ_CST)) {
            now++;
            break;
        }
        now = ns_load(&ns_epochs.now, NS_ACQUIRE);
    }
    if (!ns_try_fence_everywhere()) {
        return false;
    }
    ns_cas(&ns_epochs.now, &now, now + 1, NS_SEQ_CST); /* unless another poll did */
    return true;
}

/* The min epoch in which a section that is still open may have begun. */
static uint64_t
find_oldest(void)
{
    uint64_t oldest = ns_load(&ns_epochs.now, NS_SEQ_CST); /* read before the records */
    const uint32_t words = ns_slots_words();
    for (uint32_t i = 0; i < words; i++) {
        for (uint64_t bits = ns_slots_word(i); bits != 0; bits &= bits - 1) {
            uint32_t slot = i * 64 + (uint32_t)__builtin_ctzll(bits);
            uint64_t entered = ns_load(&ns_epochs.records[slot].epoch, NS_ACQUIRE);
            if (entered != 0 && entered < oldest) {
                oldest = entered;
            }
        }
    }
    return oldest;
}

/* The value of `sample` while one thread writes or reads `sampled`. No epoch is that late, so no
 * other thread settles it. */
#define SAMPLING UINT64_MAX

/* Remembers how much has been retired up to now, unless an earlier sample is still unsettled. */
static void
take_sample(void)
{
    uint64_t none = 0;
    if (ns_load(&ns_epochs.sample, NS_RELAXED) == 0 &&
        ns_cas(&ns_epochs.sample, &none, SAMPLING, NS_ACQUIRE)) {
        ns_store(&ns_epochs.sampled, ns_load(&ns_epochs.retired, NS_RELAXED), NS_RELAXED);
        uint64_t now = ns_load(&ns_epochs.now, NS_RELAXED);
        ns_store(&ns_epochs.sample, now + (now & 1), NS_RELEASE);
    }
}

static void
settle_sample(uint64_t safe)
{
    uint64_t sample = ns_load(&ns_epochs.sample, NS_RELAXED);
    if (sample != 0 && sample < safe && ns_cas(&ns_epochs.sample, &sample, SAMPLING, NS_ACQUIRE)) {
        ns_store(&ns_epochs.freed, ns_load(&ns_epochs.sampled, NS_RELAXED), NS_RELAXED);
        ns_store(&ns_epochs.sample, 0, NS_RELEASE);
    }
}

/* Whether another thread began to poll a moment ago. It will probably finish before we would. If it
 * was preempted, we do not wait for it. */
static inline bool
another_polls(int64_t now)
{
    const int64_t since = ns_load(&ns_epochs.polling, NS_RELAXED);
    return since != 0 && now - since < NS_POLL_INTERVAL;
}

static uint64_t
poll(int64_t began)
{
    if (another_polls(began)) {
        return ns_epoch_safe();
    }
    ns_store(&ns_epochs.polling, began, NS_RELAXED);
    take_sample();
    const bool ended = end_round();
    const uint64_t oldest = ended ? find_oldest() : 0;
    uint64_t safe = ns_load(&ns_epochs.safe, NS_RELAXED);
    if (ended && ns_load(&ns_epochs.strays, NS_SEQ_CST) == 0) {
        /* Release: a thread that reads `safe` knows, as this poll does, that those sections are
         * over. */
        while (oldest - 1 > safe && !ns_cas(&ns_epochs.safe, &safe, oldest - 1, NS_RELEASE)) {
        }
    }
    safe = ns_epoch_safe();
    settle_sample(safe);
    ns_store(&ns_epochs.polling, 0, NS_RELAXED);
    return safe;
}

uint64_t
ns_epoch_poll(void)
{
    const int64_t now = ns_now();
    ns_store(&ns_epochs.due, now + NS_POLL_INTERVAL, NS_RELAXED);
    ns_store(&ns_epochs.polled, ns_load(&ns_epochs.retired, NS_RELAXED), NS_RELAXED);
    return poll(now);
}

/* Returns whether a poll is due and this thread is the one to poll. */
static bool
take_turn(int64_t now)
{
    uint64_t polled = ns_load(&ns_epochs.polled, NS_RELAXED);
    const uint64_t retired = ns_load(&ns_epochs.retired, NS_RELAXED);
    int64_t due = ns_load(&ns_epochs.due, NS_RELAXED);
    if ((int64_t)(retired - polled) >= NS_POLL_BYTES) {
        if (!ns_cas(&ns_epochs.polled, &polled, retired, NS_RELAXED)) {
            return false;
        }
        ns_store(&ns_epochs.due, now + NS_POLL_INTERVAL, NS_RELAXED);
        return true;
    }
    if (now < due || !ns_cas(&ns_epochs.due, &due, now + NS_POLL_INTERVAL, NS_RELAXED)) {
        return false;
    }
    ns_cas(&ns_epochs.polled, &polled, retired, NS_RELAXED);
    return true;
}

uint64_t
ns_epoch_poll_if_due(void)
{
    const int64_t now = ns_now();
    if (!take_turn(now)) {
        return ns_epoch_safe();
    }
    const uint64_t safe = poll(now);
    if (ns_epoch_waiting() > NS_POLL_HELD) {
        ns_yield();
    }
    return safe;
}

/* ---- Counting ---- */

void
ns_epoch_pass_on(uint64_t bytes)
{
    ns_add(&ns_epochs.retired, bytes, NS_RELAXED);
}

uint64_t
ns_epoch_waiting(void)
{
    /* read first, so that the difference is not negative */
    const uint64_t freed = ns_load(&ns_epochs.freed, NS_RELAXED);
    return ns_load(&ns_epochs.retired, NS_RELAXED) - freed;
}
