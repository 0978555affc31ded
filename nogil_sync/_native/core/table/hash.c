#include "table/hash.h"

#include "waiting/lock.h"

struct ns_hash_seed ns_hash_seed = {UINT64_C(0x9E3779B97F4A7C15), UINT64_C(0xD6E8FEB86659FD93)};

void
ns_hash_seed_set(uint64_t first, uint64_t second)
{
    static ns_lock lock;
    static bool done;
    ns_lock_take(&lock);
    if (!done) {
        ns_hash_seed.addend = first;
        ns_hash_seed.factor = second | 1;
        done = true;
    }
    ns_lock_release(&lock);
}
