#include "cache/ghosts.h"

#include <stdlib.h>

ns_cache_ghosts *
ns_cache_ghosts_grow(ns_cache *c, uint32_t length)
{
    ns_cache_ghosts *g = c->ghosts;
    ns_cache_ghosts *larger = malloc(sizeof(*g) + length * sizeof(g->at[0]));
    uint32_t *heads = larger != NULL ? calloc(length, sizeof(*heads)) : NULL;
    if (heads == NULL) {
        free(larger);
        return g;
    }
    larger->mask = length - 1;
    larger->now = g != NULL ? g->now : NS_CACHE_MAX_GHOSTS; /* number 0 is too old */
    larger->oldest = g != NULL ? g->oldest : larger->now;
    larger->evicted[0] = g != NULL ? g->evicted[0] : 0;
    larger->evicted[1] = g != NULL ? g->evicted[1] : 0;
    larger->heads = heads;
    if (g != NULL) {
        for (uint32_t n = g->oldest; n != g->now; n++) {
            const uint32_t mark = g->at[n & g->mask].mark;
            if (mark != 0) {
                push_ghost(larger, n, mark, g->at[n & g->mask].turn);
            }
            else {
                larger->at[n & larger->mask].mark = 0;
            }
        }
        free(g->heads);
        free(g);
    }
    c->ghosts = larger;
    return larger;
}
