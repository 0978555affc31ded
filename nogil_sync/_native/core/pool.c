#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "park.h"

bool
ns_pool_init(ns_pool *p, int64_t most)
{
    if (most >= 0) {
        _Atomic int64_t *reserved = aligned_alloc(NS_CACHE_LINE, NS_CACHE_LINE);
        if (reserved == NULL) {
            return false;
        }
        memset(reserved, 0, NS_CACHE_LINE);
        p->reserved = reserved;
    }
    p->most = most;
    ns_store(&p->aged, ns_now(), NS_RELAXED);
    return true;
}

static inline uint32_t
segment_size(uint32_t segment)
{
    return segment == 0 ? NS_POOL_FIRST : (uint32_t)NS_POOL_FIRST << (segment - 1);
}

/* Which segment, and where in it. */
static inline uint32_t
segment_of(uint32_t slot, uint32_t *offset)
{
    if (slot < NS_POOL_FIRST) {
        *offset = slot;
        return 0;
    }
    uint32_t segment = 32 - (uint32_t)__builtin_clz(slot / NS_POOL_FIRST);
    *offset = slot - segment_size(segment);
    return segment;
}

ns_pool_shard *
ns_pool_find(ns_pool *p, uint32_t slot)
{
    if (slot == NS_NO_SLOT) {
        return NULL;
    }
    uint32_t offset, segment = segment_of(slot, &offset);
    ns_pool_place *places = ns_load(&p->segments[segment], NS_ACQUIRE);
    return places == NULL ? NULL : ns_load(&places[offset], NS_ACQUIRE);
}

/* Makes the calling thread's shard. NULL without memory or slot. */
static ns_pool_shard *
make_shard(ns_pool *p)
{
    uint32_t slot = ns_slot();
    if (slot == NS_NO_SLOT) {
        return NULL;
    }
    uint32_t offset, segment = segment_of(slot, &offset);
    ns_pool_place *places = ns_load(&p->segments[segment], NS_ACQUIRE);
    if (places == NULL) {
        ns_pool_place *fresh = calloc(segment_size(segment), sizeof(ns_pool_place));
        if (fresh == NULL) {
            return NULL;
        }
        /* Publishes our zeroes, or (acquire on failure) sees the winner's. */
        if (atomic_compare_exchange_strong_explicit(&p->segments[segment],
                                                    &places,
                                                    fresh,
                                                    memory_order_acq_rel,
                                                    memory_order_acquire)) {
            places = fresh;
        }
        else {
            free(fresh);
        }
    }
    ns_pool_shard *s = aligned_alloc(NS_CACHE_LINE, sizeof(ns_pool_shard));
    if (s == NULL) {
        return NULL;
    }
    memset(s, 0, sizeof(*s));
    s->countdown = NS_POOL_ROUND;
    ns_store(&s->reserved, p->reserved == NULL, NS_RELAXED);
    /* First: whatever a fork cuts off, no shard lies where nobody looks. */
    uint32_t used = ns_load(&p->used, NS_RELAXED);
    while (used <= slot && !ns_cas(&p->used, &used, slot + 1, NS_RELEASE)) {
    }
    ns_store(&places[offset], s, NS_RELEASE);
    return s;
}

/* ---- the limit ---- */

/* When all is reserved: takes the reservation of a shard whose item is out. */
static bool
take_reservation(ns_pool *p)
{
    uint32_t used = ns_load(&p->used, NS_ACQUIRE);
    for (uint32_t slot = 0; p->most > 0 && slot < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (s != NULL && ns_load(&s->item, NS_RELAXED) == NULL &&
            ns_load(&s->reserved, NS_RELAXED) && ns_swap(&s->reserved, false, NS_RELAXED)) {
            return true;
        }
    }
    return false;
}

static inline bool
reserve(ns_pool *p)
{
    if (p->reserved == NULL) {
        return true;
    }
    int64_t count = ns_load(p->reserved, NS_RELAXED);
    while (count < p->most) {
        if (ns_cas(p->reserved, &count, count + 1, NS_RELAXED)) {
            return true;
        }
    }
    return take_reservation(p);
}

static inline void
cancel(ns_pool *p)
{
    if (p->reserved != NULL) {
        ns_sub(p->reserved, 1, NS_RELAXED);
    }
}

/* ---- put ---- */

void *
ns_pool_put_slow(ns_pool *p, void *item)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (s == NULL) {
        s = p->most == 0 ? NULL : make_shard(p);
        if (s == NULL) {
            return item;
        }
    }
    s->countdown -= s->countdown > 0;
    uint32_t age = ns_load(&p->age, NS_RELAXED), before = ns_load(&s->stamp, NS_RELAXED);
    if (ns_load(&s->item, NS_RELAXED) == NULL) {
        if (!ns_load(&s->reserved, NS_RELAXED)) {
            if (!reserve(p)) {
                return item;
            }
            ns_store(&s->reserved, true, NS_RELAXED);
        }
        ns_store(&s->stamp, age, NS_RELAXED);
        ns_store(&s->item, item, NS_RELEASE);
        return NULL;
    }
    if (!reserve(p)) { /* a place in the deque */
        return item;
    }
    ns_store(&s->stamp, age, NS_RELAXED);
    void *older = ns_swap(&s->item, item, NS_RELEASE);
    if (older == NULL || /* stolen just now */
        !ns_deque_push(&s->deque, older, before, ns_load(&p->collections, NS_RELAXED))) {
        cancel(p);
        return older;
    }
    return NULL;
}

bool
ns_pool_is_due(ns_pool *p)
{
    ns_pool_shard *s = ns_pool_mine(p);
    if (s == NULL || s->countdown > 0) {
        return false;
    }
    s->countdown = NS_POOL_ROUND;
    ns_deque_trim(&s->deque, ns_load(&p->collections, NS_RELAXED));
    return true;
}

/* ---- get ---- */

/* The item outside the deque, taken by who does not own the shard. */
static inline void *
steal_item(ns_pool *p, ns_pool_shard *s)
{
    if (ns_load(&s->item, NS_RELAXED) == NULL) {
        return NULL;
    }
    void *item = ns_swap(&s->item, NULL, NS_ACQUIRE);
    if (item != NULL && p->reserved != NULL && ns_swap(&s->reserved, false, NS_RELAXED)) {
        cancel(p);
    }
    return item;
}

static inline void *
steal_from_deque(ns_pool *p, ns_pool_shard *s, uint32_t stamp, uint32_t age)
{
    void *item = ns_deque_steal(&s->deque, stamp, age);
    if (item != NULL) {
        cancel(p);
    }
    return item;
}

static inline void *
steal(ns_pool *p, ns_pool_shard *s)
{
    void *item = steal_from_deque(p, s, 0, 0);
    if (item == NULL) {
        item = steal_item(p, s);
    }
    if (item == NULL) { /* what lay aside may have been moved into the deque meanwhile */
        (void)ns_load(&s->item, NS_ACQUIRE); /* so that the deque is looked at after it */
        item = steal_from_deque(p, s, 0, 0);
    }
    return item;
}

void *
ns_pool_get_slow(ns_pool *p)
{
    ns_pool_shard *mine = ns_pool_mine(p);
    if (mine != NULL) {
        void *item = ns_deque_pop(&mine->deque);
        if (item != NULL) {
            cancel(p);
            return item;
        }
    }
    /* From the next slot on round, so that not all steal from the same one. */
    uint32_t used = ns_load(&p->used, NS_ACQUIRE), slot = ns_slot();
    for (uint32_t i = 0; i < used; i++) {
        slot = slot + 1 < used ? slot + 1 : 0;
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (s != NULL && s != mine) {
            void *item = steal(p, s);
            if (item != NULL) {
                return item;
            }
        }
    }
    return NULL;
}

/* ---- ages ---- */

bool
ns_pool_grow_older(ns_pool *p, int64_t nanoseconds)
{
    int64_t since = ns_load(&p->aged, NS_RELAXED), now = ns_now();
    if (now - since < nanoseconds || !ns_cas(&p->aged, &since, now, NS_RELAXED)) {
        return false;
    }
    ns_add(&p->age, 1, NS_RELAXED);
    return true;
}

void
ns_pool_collected(ns_pool *p)
{
    ns_store(&p->aged, ns_now(), NS_RELAXED);
    ns_add(&p->collections, 1, NS_RELAXED);
    ns_add(&p->age, 1, NS_RELAXED);
}

/* Whether the item that is not in the deque is old. */
static inline bool
is_old(ns_pool *p, ns_pool_shard *s)
{
    uint32_t age = ns_load(&p->age, NS_RELAXED), stamp = ns_load(&s->stamp, NS_RELAXED);
    return (int32_t)(age - stamp) >= NS_POOL_OLD;
}

void *
ns_pool_next(ns_pool *p, ns_pool_walk *walk, bool all)
{
    for (; walk->slot < ns_load(&p->used, NS_ACQUIRE); walk->slot++, walk->began = false) {
        ns_pool_shard *s = ns_pool_find(p, walk->slot);
        if (s == NULL) {
            continue;
        }
        if (!walk->began) {
            walk->began = true;
            walk->left = ns_deque_count(&s->deque);
            if (all || is_old(p, s)) {
                void *item = steal_item(p, s);
                if (item != NULL && !all && !is_old(p, s)) { /* another one, put just now */
                    item = ns_pool_put(p, item);
                }
                if (item != NULL) {
                    return item;
                }
            }
        }
        if (walk->left > 0) {
            walk->left--;
            void *item =
                steal_from_deque(p, s, ns_load(&p->age, NS_RELAXED), all ? 0 : NS_POOL_OLD);
            if (item != NULL) {
                return item;
            }
        }
    }
    return NULL;
}

/* ---- all of it ---- */

int64_t
ns_pool_count(ns_pool *p)
{
    int64_t count = 0;
    uint32_t used = ns_load(&p->used, NS_ACQUIRE);
    for (uint32_t slot = 0; slot < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (s != NULL) {
            count += (ns_load(&s->item, NS_RELAXED) != NULL) + ns_deque_count(&s->deque);
        }
    }
    return count;
}

int
ns_pool_each(ns_pool *p, int (*visit)(void *item, void *argument), void *argument)
{
    uint32_t used = ns_load(&p->used, NS_RELAXED);
    for (uint32_t slot = 0; slot < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (s == NULL) {
            continue;
        }
        void *item = ns_load(&s->item, NS_RELAXED);
        int result = item == NULL ? 0 : visit(item, argument);
        if (result == 0) {
            result = ns_deque_each(&s->deque, visit, argument);
        }
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

size_t
ns_pool_extra_size(ns_pool *p)
{
    size_t size = p->reserved == NULL ? 0 : NS_CACHE_LINE;
    for (uint32_t k = 0; k < NS_POOL_SEGMENTS; k++) {
        ns_pool_place *places = ns_load(&p->segments[k], NS_ACQUIRE);
        for (uint32_t i = 0; places != NULL && i < segment_size(k); i++) {
            ns_pool_shard *s = ns_load(&places[i], NS_ACQUIRE);
            size += sizeof(places[i]) + (s ? sizeof(*s) + ns_deque_size(&s->deque) : 0);
        }
    }
    return size;
}

void
ns_pool_destroy(ns_pool *p)
{
    for (uint32_t k = 0; k < NS_POOL_SEGMENTS; k++) {
        ns_pool_place *places = ns_load(&p->segments[k], NS_RELAXED);
        for (uint32_t i = 0; places != NULL && i < segment_size(k); i++) {
            ns_pool_shard *s = ns_load(&places[i], NS_RELAXED);
            if (s != NULL) {
                ns_deque_destroy(&s->deque);
                free(s);
            }
        }
        free(places);
    }
    free(p->reserved);
}
