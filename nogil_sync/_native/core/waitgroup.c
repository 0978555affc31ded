#include "waitgroup.h"

#include "waiting/backoff.h"

/* One attempt. False: another thread changed the word in between. */
static inline bool
add_once(ns_waitgroup *g, int64_t n, enum ns_waitgroup_result *result)
{
    uint64_t word = ns_load(&g->word, NS_RELAXED);
    const int64_t count = (int64_t)(word >> 32);
    if (n < -count) {
        *result = NS_BELOW_ZERO;
        return true;
    }
    if (n > NS_WAITGROUP_MAX - count) {
        *result = NS_TOO_LARGE;
        return true;
    }
    const uint64_t sum = (uint64_t)(count + n);
    const uint64_t next =
        sum == 0 && count != 0 ? ns_word_end(word, 0) : sum << 32 | (word & NS_WORD_LOW);
    if (!ns_cas(&g->word, &word, next, NS_RELEASE)) {
        return false;
    }
    ns_word_wake(&g->word, word, next);
    *result = NS_ADDED;
    return true;
}

/* Apart, so that the first attempt has no registers to save for it. */
static __attribute__((noinline)) enum ns_waitgroup_result
add_again(ns_waitgroup *g, int64_t n)
{
    enum ns_waitgroup_result result;
    NS_BACK_OFF_UNTIL(add_once(g, n, &result));
    return result;
}

enum ns_waitgroup_result
ns_waitgroup_add(ns_waitgroup *g, int64_t n)
{
    enum ns_waitgroup_result result;
    return ns_likely(add_once(g, n, &result)) ? result : add_again(g, n);
}

const struct ns_wait_steps ns_waitgroup_steps = {
    .operation = "WaitGroup.wait",
    .enter = ns_word_enter, /* its amount is 0, the value that it waits for */
    .wait = ns_word_wait,
    .leave = ns_word_look,
    .rejoin = ns_word_nothing,
    .cancel = ns_word_look,
    .undo = ns_word_nothing,
};
