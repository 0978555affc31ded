/* tallies.c: the counts of hits and misses, one tally for each thread slot (cache.h, 5). */
#include "cache/cache.h"

ns_cache_tally *
ns_cache_tally_slow(ns_cache *c, uint32_t slot)
{
    if (slot == NS_NO_SLOT) {
        return NULL;
    }
    uint32_t offset;
    const uint32_t i = ns_segment_of_slot(NS_CACHE_FIRST, slot, &offset);
    if (i >= NS_CACHE_SEGMENTS) {
        return NULL;
    }
    ns_cache_tally *t = ns_load(&c->tallies[i], NS_ACQUIRE);
    if (t == NULL) {
        ns_cache_tally *new =
            ns_zeroed(NS_CACHE_LINE, ns_slots_in_segment(NS_CACHE_FIRST, i) * sizeof(*new));
        if (new == NULL) {
            return NULL;
        }
        if (ns_cas_or_load(&c->tallies[i], &t, new, NS_SEQ_CST, NS_ACQUIRE)) {
            t = new;
        }
        else {
            free(new);
        }
    }
    return &t[offset];
}

static void
add_tally(ns_cache_sums *sums, ns_cache_tally *t)
{
    sums->hits += ns_load(&t->hits, NS_RELAXED);
    sums->misses += ns_load(&t->misses, NS_RELAXED);
    sums->loads += ns_load(&t->loads, NS_RELAXED);
    sums->failures += ns_load(&t->failures, NS_RELAXED);
}

ns_cache_sums
ns_cache_sum(ns_cache *c)
{
    ns_cache_sums sums = {
        .hits = ns_load(&c->strays.hits, NS_RELAXED),
        .misses = ns_load(&c->strays.misses, NS_RELAXED),
        .loads = ns_load(&c->strays.loads, NS_RELAXED),
        .failures = ns_load(&c->strays.failures, NS_RELAXED),
    };
    for (unsigned i = 0; i < NS_CACHE_SEGMENTS; i++) {
        ns_cache_tally *t = ns_load(&c->tallies[i], NS_ACQUIRE);
        for (uint32_t k = 0; t != NULL && k < ns_slots_in_segment(NS_CACHE_FIRST, i); k++) {
            add_tally(&sums, &t[k]);
        }
    }
    return sums;
}
