/* ghosts.h: the hashes of keys that were evicted not long ago, and how they move the share of the
 * small queue (cache.h, 2).
 */
#ifndef NS_CACHE_GHOSTS_H
#define NS_CACHE_GHOSTS_H

#include "cache/cache.h"

/* The share of the small queue begins at a tenth of the limit, and moves between these bounds. */
#define SHARE_AT_FIRST(limit) ((limit) / 10)
#define SHARE_MIN(limit) ((limit) / 20)
#define SHARE_MAX(limit) ((limit) - (limit) / 5)
#define SHARE_STEP(limit) ((limit) / 64)
#define JUST_EVICTED 50 /* the newest ghosts of a queue: for so many entries, one */

/* A ring of marks, which are parts of hashes, in the order of the evictions. Evictions have
 * numbers, which give the place in the ring. Ghosts whose marks lead to the same head form a chain,
 * from the newest to the oldest. A chain ends at a number that is not older than the one before, or
 * is too old: its place may belong to another ghost now. Numbers wrap around. So after 2^32
 * evictions a chain may lead on to ghosts of another chain, whose marks all differ. */
struct ns_cache_ghosts {
    uint32_t mask; /* the length of the ring, and the number of heads; minus one */
    uint32_t now;  /* the number of the next eviction */
    uint32_t oldest; /* what was evicted before this one is forgotten */
    uint32_t evicted[2]; /* the number of the next eviction from the small, and the main queue */
    uint32_t *heads; /* the newest of each chain */
    struct {
        uint32_t mark; /* 0: no longer a ghost */
        uint32_t older; /* the next one of its chain */
        uint32_t turn; /* its number among those of its queue, times two; plus one: the main one */
    } at[];
};

enum { NS_CACHE_MIN_GHOSTS = 16 };
#define NS_CACHE_MAX_GHOSTS (UINT32_C(1) << 31)

/* With the bits of a tag: the upper half of the hashes of neighbours is the same (ns_hash_mix). */
static inline uint32_t
mark_of(uint64_t hash)
{
    const uint32_t mark = (uint32_t)(hash ^ hash >> 32);
    return mark != 0 ? mark : 1;
}

/* For how many evictions a ghost is remembered. */
static inline uint32_t
span_of(ns_cache *c)
{
    const uint64_t count = ns_load(&c->count, NS_RELAXED);
    return count < NS_CACHE_MAX_GHOSTS / 2 ? (uint32_t)(2 * count) : NS_CACHE_MAX_GHOSTS;
}

static inline void
push_ghost(ns_cache_ghosts *g, uint32_t number, uint32_t mark, uint32_t turn)
{
    uint32_t *head = &g->heads[mark & g->mask];
    g->at[number & g->mask].mark = mark;
    g->at[number & g->mask].turn = turn;
    g->at[number & g->mask].older = *head;
    *head = number;
}

/* Removes the mark's ghost. Returns whether there was one, and its turn. */
static inline bool
pull_ghost(ns_cache_ghosts *g, uint32_t mark, uint32_t *turn)
{
    uint32_t *link = &g->heads[mark & g->mask];
    for (uint32_t age = 0;;) {
        const uint32_t number = *link, older = g->now - number;
        if (older <= age || older > g->now - g->oldest) {
            return false;
        }
        if (g->at[number & g->mask].mark == mark) {
            g->at[number & g->mask].mark = 0;
            *turn = g->at[number & g->mask].turn;
            *link = g->at[number & g->mask].older;
            return true;
        }
        age = older;
        link = &g->at[number & g->mask].older;
    }
}

/* Replaces the ghosts by a copy with places for `length`, a power of two. Returns it; without
 * memory returns the ones there are, or NULL. */
ns_cache_ghosts *ns_cache_ghosts_grow(ns_cache *c, uint32_t length);

/* Returns the ghosts, with places for at least this many. Without memory, for fewer, or NULL. */
static inline ns_cache_ghosts *
ghosts_for(ns_cache *c, uint32_t count)
{
    ns_cache_ghosts *g = c->ghosts;
    uint32_t length = NS_CACHE_MIN_GHOSTS;
    while (length < count) {
        length *= 2;
    }
    return g != NULL && g->mask >= length - 1 ? g : ns_cache_ghosts_grow(c, length);
}

static inline void
add_ghost(ns_cache *c, uint64_t hash, enum ns_cache_queue_name from)
{
    const uint32_t is_main = from == NS_CACHE_MAIN;
    uint32_t span = span_of(c), turn;
    ns_cache_ghosts *g = ghosts_for(c, span);
    if (g == NULL) {
        return;
    }
    span = span <= g->mask ? span : g->mask + 1;
    pull_ghost(g, mark_of(hash), &turn); /* of an equal hash */
    g->now++;
    if (g->now - g->oldest > span) {
        g->oldest = g->now - span;
    }
    push_ghost(g, g->now - 1, mark_of(hash), g->evicted[is_main]++ << 1 | is_main);
}

/* Whether the hash is a ghost's, which is none any more. If it has only just been evicted, the
 * queue from which it came gets more room. */
static inline bool
take_ghost(ns_cache *c, uint64_t hash)
{
    ns_cache_ghosts *g = c->ghosts;
    uint32_t turn;
    if (g == NULL || !pull_ghost(g, mark_of(hash), &turn)) {
        return false;
    }
    const uint32_t is_main = turn & 1;
    const uint32_t age = ((g->evicted[is_main] << 1) - (turn - is_main)) >> 1;
    if (age <= ns_load(&c->count, NS_RELAXED) / JUST_EVICTED + 1) {
        const int64_t step = SHARE_STEP(c->limit) > 0 ? SHARE_STEP(c->limit) : 1;
        int64_t share = is_main ? c->share - step : c->share + step;
        share = share < SHARE_MAX(c->limit) ? share : SHARE_MAX(c->limit);
        share = share > SHARE_MIN(c->limit) ? share : SHARE_MIN(c->limit);
        c->share = share > 0 ? share : 1;
    }
    return true;
}

#endif
