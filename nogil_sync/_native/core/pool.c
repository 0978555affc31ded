#include "pool.h"

#include "memory/segments.h"
#include "waiting/park.h"

bool
ns_pool_init(ns_pool *p, int64_t max_items)
{
    if (max_items >= 0) {
        p->reserved = ns_zeroed(NS_CACHE_LINE, NS_CACHE_LINE);
        if (p->reserved == NULL) {
            return false;
        }
    }
    p->max_items = max_items;
    ns_store(&p->age_began, ns_now(), NS_RELAXED);
    return true;
}

static inline uint32_t
segment_size(uint32_t segment)
{
    return ns_slots_in_segment(NS_POOL_FIRST, segment);
}

static inline uint32_t
segment_of(uint32_t slot, uint32_t *offset)
{
    return ns_segment_of_slot(NS_POOL_FIRST, slot, offset);
}

#define WORD_BITS 32
#define ONE_LISTING (UINT64_C(1) << WORD_BITS) /* what one listing adds to a word of the list */

/* Bytes of a segment's words of the list. They share no line with the places. */
static inline size_t
words_size(uint32_t segment)
{
    size_t size = segment_size(segment) / WORD_BITS * sizeof(uint64_t);
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

/* Returns a segment of zero bytes, or NULL if there is no memory. */
static ns_pool_place *
new_segment(uint32_t segment)
{
    size_t size = words_size(segment) + segment_size(segment) * sizeof(ns_pool_place);
    char *memory = ns_zeroed(NS_CACHE_LINE, size);
    return memory != NULL ? (ns_pool_place *)(void *)(memory + words_size(segment)) : NULL;
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

/* Makes the calling thread's shard. Returns NULL if there is no memory or no slot. */
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
        /* Publishes our segment, or sees another thread's (acquire on failure). */
        if (ns_cas_or_load(&p->segments[segment], &places, fresh, NS_SEQ_CST, NS_ACQUIRE)) {
            places = fresh;
        }
        else {
            free_segment(fresh, segment);
        }
    }
    ns_pool_shard *s = ns_zeroed(NS_CACHE_LINE, sizeof(*s));
    if (s == NULL) {
        return NULL;
    }
    ns_store(&s->countdown, NS_POOL_ROUND, NS_RELAXED);
    ns_store(&s->flags, p->reserved == NULL ? NS_POOL_RESERVED : 0, NS_RELAXED);
    /* This comes first: wherever a fork cuts in, no shard lies where no search looks. */
    uint32_t used = ns_load(&p->used, NS_RELAXED);
    while (used <= slot && !ns_cas(&p->used, &used, slot + 1, NS_RELEASE)) {
    }
    ns_store(&places[offset], s, NS_RELEASE);
    return s;
}

/* ---- Reservations ---- */

static inline void
cancel_reservation(ns_pool *p)
{
    if (p->reserved != NULL) {
        ns_sub(p->reserved, 1, NS_RELAXED);
    }
}

/* Takes away the reservation of a shard. Returns false if it has none. */
static inline bool
end_reservation(ns_pool_shard *s)
{
    return (ns_load(&s->flags, NS_RELAXED) & NS_POOL_RESERVED) &&
           (ns_and(&s->flags, ~(uint32_t)NS_POOL_RESERVED, NS_RELAXED) & NS_POOL_RESERVED);
}

/* ---- The list ---- */

/* Returns the word of a slot in the list, and stores its bit in *bit. The slot's segment must
 * exist. */
static inline _Atomic uint64_t *
word_of(ns_pool *p, uint32_t slot, uint64_t *bit)
{
    uint32_t offset, segment = segment_of(slot, &offset);
    *bit = UINT64_C(1) << offset % WORD_BITS;
    return &words_of(ns_load(&p->segments[segment], NS_ACQUIRE), segment)[offset / WORD_BITS];
}

/* Lists the calling thread's shard, as "The list" in pool.h says. */
static void
list(ns_pool *p, ns_pool_shard *s)
{
    uint64_t bit;
    _Atomic uint64_t *word = word_of(p, ns_slot(), &bit);
    uint32_t flags;
    do {
        flags = ns_or(&s->flags, NS_POOL_LISTING, NS_RELAXED) | NS_POOL_LISTING;
        uint64_t before = ns_load(word, NS_RELAXED);
        while (!ns_cas(word, &before, (before | bit) + ONE_LISTING, NS_RELEASE)) {
        }
        while ((flags & NS_POOL_LISTING) &&
               !ns_cas(&s->flags,
                       &flags,
                       (flags & ~(uint32_t)NS_POOL_LISTING) | NS_POOL_LISTED,
                       NS_RELEASE)) { /* after the bit, also in the child of a fork */
        }
    } while (!(flags & NS_POOL_LISTING)); /* a search has unlisted the shard meanwhile: retry */
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

/* Unlists a shard if it is empty and its slot not taken. */
static void
unlist(ns_pool *p, uint32_t slot, ns_pool_shard *s)
{
    if (is_taken(slot) || !is_empty(s)) {
        return;
    }
    uint64_t bit;
    _Atomic uint64_t *word = word_of(p, slot, &bit);
    uint64_t before = ns_load(word, NS_ACQUIRE), count = before / ONE_LISTING;
    if (ns_and(&s->flags, 0, NS_SEQ_CST) & NS_POOL_RESERVED) {
        cancel_reservation(p);
    }
    ns_fence(NS_SEQ_CST); /* pairs with the fence in the claim of a slot */
    if (is_taken(slot) || !is_empty(s)) {
        return; /* its new owner will list it again */
    }
    while ((before & bit) && before / ONE_LISTING == count &&
           !ns_cas(word, &before, before & ~bit, NS_RELAXED)) {
    }
}

/* The first listed slot from this one on and before `end`; `end` if there is none. */
static uint32_t
next_listed(ns_pool *p, uint32_t slot, uint32_t end)
{
    while (slot < end) {
        uint32_t offset, segment = segment_of(slot, &offset), size = segment_size(segment);
        uint32_t first = slot - offset;
        ns_pool_place *places = ns_load(&p->segments[segment], NS_ACQUIRE);
        _Atomic uint64_t *words = places == NULL ? NULL : words_of(places, segment);
        for (; words != NULL && offset < size && first + offset < end;
             offset = (offset | (WORD_BITS - 1)) + 1) {
            uint32_t bits =
                (uint32_t)ns_load(&words[offset / WORD_BITS], NS_ACQUIRE) >> offset % WORD_BITS;
            if (bits != 0) {
                slot = first + offset + (uint32_t)__builtin_ctz(bits);
                return slot < end ? slot : end;
            }
        }
        slot = first + size;
    }
    return end;
}

/* ---- The limit ---- */

/* The limit is reached: takes the reservation of a shard whose item is out. Returns whether it
 * did. */
static bool
take_reservation(ns_pool *p)
{
    uint32_t used = ns_load(&p->used, NS_ACQUIRE);
    for (uint32_t slot = 0; p->max_items > 0 && (slot = next_listed(p, slot, used)) < used;
         slot++) {
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
    while (count < p->max_items) {
        if (ns_cas(p->reserved, &count, count + 1, NS_RELAXED)) {
            return true;
        }
    }
    return take_reservation(p);
}

/* ---- Put ---- */

/* Counts a put, before the owner changes shard->item. Searches compare the count. A refused put
 * leaves shard->item idle, so it is not counted. */
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
    if (s == NULL) { /* the thread's first put */
        s = p->max_items == 0 ? NULL : make_shard(p);
        if (s == NULL) {
            return item;
        }
    }
    if (!(ns_load(&s->flags, NS_RELAXED) & NS_POOL_LISTED)) {
        list(p, s);
    }
    uint32_t age = ns_load(&p->age, NS_RELAXED), before = ns_load(&s->stamp, NS_RELAXED);
    if (ns_load(&s->item, NS_RELAXED) == NULL) {
        /* shard->item is empty: store the item there, if the limit allows. */
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
    /* shard->item is taken: replace it, and push the older item into the deque. */
    if (!reserve(p)) {
        return item;
    }
    count_down(s);
    ns_store(&s->stamp, age, NS_RELAXED);
    void *older = ns_swap(&s->item, item, NS_RELEASE);
    if (older == NULL || /* a thief has just taken it */
        !ns_deque_push(&s->deque, older, before, ns_load(&p->collections, NS_RELAXED))) {
        cancel_reservation(p);
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

/* ---- Get ---- */

/* Takes shard->item for a thread that does not own the shard. Returns NULL if it is empty. */
static inline void *
steal_item(ns_pool *p, ns_pool_shard *s)
{
    if (ns_load(&s->item, NS_RELAXED) == NULL) {
        return NULL;
    }
    void *item = ns_swap(&s->item, NULL, NS_ACQUIRE);
    if (item != NULL && p->reserved != NULL && end_reservation(s)) {
        cancel_reservation(p);
    }
    return item;
}

static inline void *
steal_from_deque(ns_pool *p, ns_pool_shard *s, uint32_t stamp, uint32_t age)
{
    void *item = ns_deque_steal(&s->deque, stamp, age);
    if (item != NULL) {
        cancel_reservation(p);
    }
    return item;
}

/* The shard of a living thread in which a search saw shard->item, and its countdown at that
 * time. */
typedef struct {
    ns_pool_shard *shard;
    uint32_t countdown;
} candidate;

#define CANDIDATES 16 /* that one search keeps at a time */

typedef struct {
    ns_pool *pool;
    ns_pool_shard *mine; /* the searching thread's own shard, which it skips; may be NULL */
    uint32_t count;
    candidate candidates[CANDIDATES];
} search;

/* Waits, then steals from a candidate whose owner did not put meanwhile, or whose item has moved
 * into its deque. Returns NULL if there is none. */
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

/* Steals from a listed shard: from its deque, then shard->item, then from its deque again, as the
 * item may have moved there. Leaves the shard->item of a living thread for later, as a candidate.
 * Returns NULL if it stole nothing. */
static void *
steal(search *s, uint32_t slot, ns_pool_shard *shard)
{
    void *item = steal_from_deque(s->pool, shard, 0, 0);
    if (item != NULL) {
        return item;
    }
    if (ns_load(&shard->item, NS_ACQUIRE) != NULL && is_taken(slot)) {
        /* Its owner lives and may be using the item: a candidate for later. */
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
    if (mine != NULL) { /* its deque first: shard->item was empty */
        void *item = ns_deque_pop(&mine->deque);
        if (item != NULL) {
            cancel_reservation(p);
            return item;
        }
    }
    /* Begins with the next slot, so that not all threads steal from the same shard. */
    uint32_t used = ns_load(&p->used, NS_ACQUIRE), start = ns_slot() + 1; /* 0 for NS_NO_SLOT */
    search s = {.pool = p, .mine = mine};
    void *item = steal_between(&s, start, used);
    if (item == NULL) {
        item = steal_between(&s, 0, start < used ? start : used);
    }
    return item != NULL ? item : steal_from_candidates(&s);
}

/* ---- Ages ---- */

bool
ns_pool_grow_older(ns_pool *p, int64_t nanoseconds)
{
    int64_t since = ns_load(&p->age_began, NS_RELAXED), now = ns_now();
    if (now - since < nanoseconds || !ns_cas(&p->age_began, &since, now, NS_RELAXED)) {
        return false;
    }
    ns_add(&p->age, 1, NS_RELAXED);
    return true;
}

void
ns_pool_collected(ns_pool *p)
{
    ns_store(&p->age_began, ns_now(), NS_RELAXED);
    ns_add(&p->collections, 1, NS_RELAXED);
    ns_add(&p->age, 1, NS_RELAXED);
}

/* Whether shard->item is old. */
static inline bool
is_old(ns_pool *p, ns_pool_shard *s)
{
    uint32_t age = ns_load(&p->age, NS_RELAXED), stamp = ns_load(&s->stamp, NS_RELAXED);
    return (int32_t)(age - stamp) >= NS_POOL_OLD;
}

void *
ns_pool_next(ns_pool *p, ns_pool_walk *walk, bool all)
{
    for (;; walk->slot++, walk->entered = false) {
        uint32_t used = ns_load(&p->used, NS_ACQUIRE);
        uint32_t slot = walk->entered ? walk->slot : next_listed(p, walk->slot, used);
        if (slot >= used) {
            return NULL;
        }
        walk->slot = slot;
        ns_pool_shard *s = ns_pool_find(p, slot);
        if (!walk->entered) { /* a new shard: shard->item first */
            walk->entered = true;
            walk->left = ns_deque_count(&s->deque);
            if (all || is_old(p, s)) {
                void *item = steal_item(p, s);
                /* the owner has just put another item */
                if (item != NULL && !all && !is_old(p, s)) {
                    item = ns_pool_put(p, item);
                }
                if (item != NULL) {
                    return item;
                }
            }
        }
        if (walk->left > 0) { /* then its deque, from the oldest item on */
            walk->left--;
            void *item =
                steal_from_deque(p, s, ns_load(&p->age, NS_RELAXED), all ? 0 : NS_POOL_OLD);
            if (item != NULL) {
                return item;
            }
        }
        /* Nothing is left to take: unlist the shard if it is empty. */
        unlist(p, slot, s);
    }
}

/* ---- The whole pool ---- */

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
