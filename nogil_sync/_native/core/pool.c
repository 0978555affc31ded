#include "pool.h"

#include <stdlib.h>
#include <string.h>

#include "waiting/park.h"

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

#define BITS 32
#define LISTING_ONCE (UINT64_C(1) << BITS) /* in a word of the list */

/* Bytes of a segment's words, which are kept apart from the places. */
static inline size_t
words_size(uint32_t segment)
{
    size_t size = segment_size(segment) / BITS * sizeof(uint64_t);
    return (size + NS_CACHE_LINE - 1) / NS_CACHE_LINE * NS_CACHE_LINE;
}

static inline _Atomic uint64_t *
words_of(ns_pool_place *places, uint32_t segment)
{
    return (_Atomic uint64_t *)(void *)((char *)places - words_size(segment));
}

static void
free_segment(ns_pool_place *places, uint32_t segment)
{
    free(words_of(places, segment));
}

/* Zeroes, or NULL without memory. */
static ns_pool_place *
new_segment(uint32_t segment)
{
    size_t size = words_size(segment) + segment_size(segment) * sizeof(ns_pool_place);
    char *memory = aligned_alloc(NS_CACHE_LINE, size);
    if (memory == NULL) {
        return NULL;
    }
    memset(memory, 0, size);
    return (ns_pool_place *)(void *)(memory + words_size(segment));
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
        ns_pool_place *fresh = new_segment(segment);
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
            free_segment(fresh, segment);
        }
    }
    ns_pool_shard *s = aligned_alloc(NS_CACHE_LINE, sizeof(ns_pool_shard));
    if (s == NULL) {
        return NULL;
    }
    memset(s, 0, sizeof(*s));
    ns_store(&s->countdown, NS_POOL_ROUND, NS_RELAXED);
    ns_store(&s->flags, p->reserved == NULL ? NS_POOL_RESERVED : 0, NS_RELAXED);
    /* First: whatever a fork cuts off, no shard lies where nobody looks. */
    uint32_t used = ns_load(&p->used, NS_RELAXED);
    while (used <= slot && !ns_cas(&p->used, &used, slot + 1, NS_RELEASE)) {
    }
    ns_store(&places[offset], s, NS_RELEASE);
    return s;
}

/* ---- reservations ---- */

static inline void
cancel(ns_pool *p)
{
    if (p->reserved != NULL) {
        ns_sub(p->reserved, 1, NS_RELAXED);
    }
}

/* Takes the reservation of a shard, if it has one. */
static inline bool
end_reservation(ns_pool_shard *s)
{
    return (ns_load(&s->flags, NS_RELAXED) & NS_POOL_RESERVED) &&
           (ns_and(&s->flags, ~(uint32_t)NS_POOL_RESERVED, NS_RELAXED) & NS_POOL_RESERVED);
}

/* ---- the list ---- */

/* The word and the bit of a slot whose segment there is. */
static inline _Atomic uint64_t *
word_of(ns_pool *p, uint32_t slot, uint64_t *bit)
{
    uint32_t offset, segment = segment_of(slot, &offset);
    *bit = UINT64_C(1) << offset % BITS;
    return &words_of(ns_load(&p->segments[segment], NS_ACQUIRE), segment)[offset / BITS];
}

/* By the owner. */
static void
list(ns_pool *p, ns_pool_shard *s)
{
    uint64_t bit;
    _Atomic uint64_t *word = word_of(p, ns_slot(), &bit);
    uint32_t flags;
    do {
        flags = ns_or(&s->flags, NS_POOL_LISTING, NS_RELAXED) | NS_POOL_LISTING;
        uint64_t before = ns_load(word, NS_RELAXED);
        while (!ns_cas(word, &before, (before | bit) + LISTING_ONCE, NS_RELEASE)) {
        }
        while ((flags & NS_POOL_LISTING) &&
               !ns_cas(&s->flags,
                       &flags,
                       (flags & ~(uint32_t)NS_POOL_LISTING) | NS_POOL_LISTED,
                       NS_RELEASE)) { /* behind the bit, also for a fork */
        }
    } while (!(flags & NS_POOL_LISTING)); /* unlisted meanwhile */
}

static inline bool
is_taken(uint32_t slot)
{
    return ns_slots_word(slot / 64) >> slot % 64 & 1;
}

static inline bool
is_empty(ns_pool_shard *s)
{
    return ns_load(&s->item, NS_RELAXED) == NULL && ns_deque_count(&s->deque) == 0;
}

/* Takes a shard off the list if it is empty and its slot not taken. */
static void
unlist(ns_pool *p, uint32_t slot, ns_pool_shard *s)
{
    if (is_taken(slot) || !is_empty(s)) {
        return;
    }
    uint64_t bit;
    _Atomic uint64_t *word = word_of(p, slot, &bit);
    uint64_t before = ns_load(word, NS_ACQUIRE), count = before / LISTING_ONCE;
    if (ns_and(&s->flags, 0, NS_SEQ_CST) & NS_POOL_RESERVED) {
        cancel(p);
    }
    ns_fence(NS_SEQ_CST); /* pairs with that in the claim of a slot */
    if (is_taken(slot) || !is_empty(s)) {
        return; /* its new owner lists it again */
    }
    while ((before & bit) && before / LISTING_ONCE == count &&
           !ns_cas(word, &before, before & ~bit, NS_RELAXED)) {
    }
}

/* The first listed slot from this one on, but before `end`; else `end`. */
static uint32_t
next_listed(ns_pool *p, uint32_t slot, uint32_t end)
{
    while (slot < end) {
        uint32_t offset, segment = segment_of(slot, &offset), size = segment_size(segment);
        uint32_t first = slot - offset;
        ns_pool_place *places = ns_load(&p->segments[segment], NS_ACQUIRE);
        _Atomic uint64_t *words = places == NULL ? NULL : words_of(places, segment);
        for (; words != NULL && offset < size && first + offset < end;
             offset = (offset | (BITS - 1)) + 1) {
            uint32_t bits = (uint32_t)ns_load(&words[offset / BITS], NS_ACQUIRE) >> offset % BITS;
            if (bits != 0) {
                slot = first + offset + (uint32_t)__builtin_ctz(bits);
                return slot < end ? slot : end;
            }
        }
        slot = first + size;
    }
    return end;
}

/* ---- the limit ---- */

/* When all is reserved: takes the reservation of a shard whose item is out. */
static bool
take_reservation(ns_pool *p)
{
    uint32_t used = ns_load(&p->used, NS_ACQUIRE);
    for (uint32_t slot = 0; p->most > 0 && (slot = next_listed(p, slot, used)) < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (ns_load(&s->item, NS_RELAXED) == NULL && end_reservation(s)) {
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

/* ---- put ---- */

/* The owner is about to change what lies aside. Searches look at the count, so what is refused,
 * while the item aside lies idle, is not counted. */
static inline void
count_down(ns_pool_shard *s)
{
    uint32_t countdown = ns_load(&s->countdown, NS_RELAXED);
    ns_store(&s->countdown, countdown - (countdown > 0), NS_RELAXED);
}

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
    if (!(ns_load(&s->flags, NS_RELAXED) & NS_POOL_LISTED)) {
        list(p, s);
    }
    uint32_t age = ns_load(&p->age, NS_RELAXED), before = ns_load(&s->stamp, NS_RELAXED);
    if (ns_load(&s->item, NS_RELAXED) == NULL) {
        if (!(ns_load(&s->flags, NS_RELAXED) & NS_POOL_RESERVED)) {
            if (!reserve(p)) {
                return item;
            }
            ns_or(&s->flags, NS_POOL_RESERVED, NS_RELAXED);
        }
        count_down(s);
        ns_store(&s->stamp, age, NS_RELAXED);
        ns_store(&s->item, item, NS_RELEASE);
        return NULL;
    }
    if (!reserve(p)) { /* a place in the deque */
        return item;
    }
    count_down(s);
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
    if (s == NULL || ns_load(&s->countdown, NS_RELAXED) > 0) {
        return false;
    }
    ns_store(&s->countdown, NS_POOL_ROUND, NS_RELAXED);
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
    if (item != NULL && p->reserved != NULL && end_reservation(s)) {
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

/* The shard of a living thread in which a search saw an item aside, and its countdown then. */
typedef struct {
    ns_pool_shard *shard;
    uint32_t countdown;
} candidate;

#define CANDIDATES 16 /* at a time */

typedef struct {
    ns_pool *pool;
    ns_pool_shard *mine; /* where it does not look; may be NULL */
    uint32_t count;
    candidate candidates[CANDIDATES];
} search;

/* Waits, and steals from a candidate that was left alone meanwhile, or whose item was moved into
 * its deque; NULL if there is none. */
static void *
steal_from_candidates(search *s)
{
    for (int i = 0; s->count > 0 && i < NS_POOL_WAIT; i++) {
        ns_compiler_fence();
    }
    while (s->count > 0) {
        candidate *each = &s->candidates[--s->count];
        bool used = ns_load(&each->shard->countdown, NS_ACQUIRE) != each->countdown;
        void *item = used ? NULL : steal_item(s->pool, each->shard);
        if (item == NULL) {
            item = steal_from_deque(s->pool, each->shard, 0, 0);
        }
        if (item != NULL) {
            return item;
        }
    }
    return NULL;
}

/* From a listed shard: the oldest in its deque, or what lies aside, or, for that may have been
 * moved meanwhile, the oldest in its deque. */
static void *
steal(search *s, uint32_t slot, ns_pool_shard *shard)
{
    void *item = steal_from_deque(s->pool, shard, 0, 0);
    if (item != NULL) {
        return item;
    }
    if (ns_load(&shard->item, NS_ACQUIRE) != NULL && is_taken(slot)) {
        uint32_t countdown = ns_load(&shard->countdown, NS_RELAXED);
        s->candidates[s->count++] = (candidate){shard, countdown};
        return s->count == CANDIDATES ? steal_from_candidates(s) : NULL;
    }
    item = steal_item(s->pool, shard);
    if (item == NULL) {
        item = steal_from_deque(s->pool, shard, 0, 0);
    }
    if (item == NULL) {
        unlist(s->pool, slot, shard);
    }
    return item;
}

static void *
steal_between(search *s, uint32_t slot, uint32_t end)
{
    void *item = NULL;
    for (; item == NULL && (slot = next_listed(s->pool, slot, end)) < end; slot++) {
        ns_pool_shard *shard = ns_pool_find(s->pool, slot);
        if (shard != s->mine) {
            item = steal(s, slot, shard);
        }
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
    uint32_t used = ns_load(&p->used, NS_ACQUIRE), start = ns_slot() + 1; /* NS_NO_SLOT: 0 */
    search s = {.pool = p, .mine = mine};
    void *item = steal_between(&s, start, used);
    if (item == NULL) {
        item = steal_between(&s, 0, start < used ? start : used);
    }
    return item != NULL ? item : steal_from_candidates(&s);
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
    for (;; walk->slot++, walk->began = false) {
        uint32_t used = ns_load(&p->used, NS_ACQUIRE);
        uint32_t slot = walk->began ? walk->slot : next_listed(p, walk->slot, used);
        if (slot >= used) {
            return NULL;
        }
        walk->slot = slot;
        ns_pool_shard *s = ns_pool_find(p, slot);
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
        unlist(p, slot, s);
    }
}

/* ---- all of it ---- */

int64_t
ns_pool_count(ns_pool *p)
{
    int64_t count = 0;
    uint32_t used = ns_load(&p->used, NS_ACQUIRE);
    for (uint32_t slot = 0; (slot = next_listed(p, slot, used)) < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
        count += (ns_load(&s->item, NS_RELAXED) != NULL) + ns_deque_count(&s->deque);
    }
    return count;
}

int
ns_pool_each(ns_pool *p, int (*visit)(void *item, void *argument), void *argument)
{
    uint32_t used = ns_load(&p->used, NS_RELAXED);
    for (uint32_t slot = 0; (slot = next_listed(p, slot, used)) < used; slot++) {
        ns_pool_shard *s = ns_pool_find(p, slot);
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
        size += places == NULL ? 0 : words_size(k);
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
        if (places != NULL) {
            free_segment(places, k);
        }
    }
    free(p->reserved);
}
