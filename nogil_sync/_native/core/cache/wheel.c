#include "cache/wheel.h"

#include <stdlib.h>

ns_cache_wheel *
ns_cache_wheel_make(ns_cache *c, int64_t now)
{
    ns_cache_wheel *w = malloc(sizeof(*w));
    if (w != NULL) {
        w->time = now;
        make_list(&w->pending);
        for (unsigned level = 0; level < NS_CACHE_LEVELS; level++) {
            for (unsigned i = 0; i < NS_CACHE_SLOTS; i++) {
                make_list(&w->slots[level][i]);
            }
        }
        ns_store(&c->wheel, w, NS_RELEASE);
    }
    return w;
}

void
ns_cache_wheel_advance(ns_cache_wheel *w, int64_t now, bool back)
{
    for (unsigned level = 0; level < NS_CACHE_LEVELS; level++) {
        const int64_t from = w->time >> shift_of(level), to = now >> shift_of(level);
        if (!back && level > 0 && from == to) {
            break;
        }
        const int64_t n = back || to - from >= NS_CACHE_SLOTS ? NS_CACHE_SLOTS : to - from + 1;
        for (int64_t i = 0; i < n; i++) {
            splice(&w->pending, &w->slots[level][(from + i) & (NS_CACHE_SLOTS - 1)]);
        }
    }
    w->time = now;
}
