#include "memory/limbo.h"

#include "memory/segments.h"

/* ---- Lists by slot ---- */

static ns_limbo_lists *
lists_of(ns_limbo *l)
{
    ns_limbo_lists *lists = ns_load(&l->lists, NS_ACQUIRE);
    if (lists == NULL) {
        ns_limbo_lists *made = calloc(1, sizeof(*made));
        if (made != NULL && ns_cas(&l->lists, &lists, made, NS_RELEASE)) {
            return made;
        }
        free(made);
        lists = ns_load(&l->lists, NS_ACQUIRE); /* of a thread that was faster */
    }
    return lists;
}

static ns_limbo_slot *
slots_in(ns_limbo_lists *lists, uint32_t segment)
{
    ns_limbo_slot *slots = ns_load(&lists->segments[segment], NS_ACQUIRE);
    if (slots == NULL) {
        uint32_t n = ns_slots_in_segment(NS_LIMBO_LISTS, segment);
        ns_limbo_slot *made = calloc(n, sizeof(*made));
        if (made != NULL && ns_cas(&lists->segments[segment], &slots, made, NS_RELEASE)) {
            return made;
        }
        free(made);
        slots = ns_load(&lists->segments[segment], NS_ACQUIRE);
    }
    return slots;
}

static size_t
ring_bytes(uint32_t places)
{
    return sizeof(ns_limbo_ring) + places * sizeof(ns_limbo_place);
}

static ns_limbo_ring *
new_ring(uint32_t places)
{
    ns_limbo_ring *ring = malloc(ring_bytes(places));
    if (ring != NULL) {
        ring->mask = places - 1;
    }
    return ring;
}

static ns_limbo_list *
new_list(ns_limbo_slot *slot)
{
    ns_limbo_list *list = ns_zeroed(NS_CACHE_LINE, sizeof(*list));
    ns_limbo_ring *ring = list != NULL ? new_ring(NS_LIMBO_FIRST) : NULL;
    if (ring == NULL) {
        free(list);
        return NULL;
    }
    ns_store(&list->ring, ring, NS_RELAXED);
    ns_store(slot, list, NS_RELEASE); /* only the slot's holder makes its list */
    return list;
}

ns_limbo_list *
ns_limbo_find(ns_limbo *l)
{
    const uint32_t cached = ns_cached_slot;
    ns_limbo_lists *lists = cached != 0 ? ns_load(&l->lists, NS_ACQUIRE) : NULL;
    uint32_t offset, segment = ns_segment_of_slot(NS_LIMBO_LISTS, cached - 1, &offset);
    ns_limbo_slot *slots = lists != NULL ? ns_load(&lists->segments[segment], NS_ACQUIRE) : NULL;
    return slots != NULL ? ns_load(&slots[offset], NS_ACQUIRE) : NULL;
}

static ns_limbo_list *
find_or_make(ns_limbo *l)
{
    const uint32_t cached = ns_cached_slot;
    ns_limbo_lists *lists = cached != 0 ? lists_of(l) : NULL;
    uint32_t offset, segment = ns_segment_of_slot(NS_LIMBO_LISTS, cached - 1, &offset);
    ns_limbo_slot *slots = lists != NULL ? slots_in(lists, segment) : NULL;
    if (slots == NULL) {
        return NULL;
    }
    ns_limbo_list *list = ns_load(&slots[offset], NS_ACQUIRE);
    return list != NULL ? list : new_list(&slots[offset]);
}

/* ---- Adding ---- */

/* Whatever the result of taking the lock, the list is whole: see "Fork". */
static void
lock(ns_limbo_list *list)
{
    ns_lock_take(&list->lock);
}

static bool
grow(ns_limbo_list *list, ns_limbo_ring *old)
{
    const uint32_t places = old->mask + 1;
    ns_limbo_ring *ring = places < NS_LIMBO_MAX ? new_ring(2 * places) : NULL;
    if (ring == NULL) {
        return false;
    }
    lock(list);
    const uint32_t end = ns_load(&list->end, NS_RELAXED);
    for (uint32_t n = ns_load(&list->first, NS_RELAXED); n != end; n++) {
        ns_limbo_place *from = &old->at[n & old->mask], *to = &ring->at[n & ring->mask];
        ns_store(&to->word, ns_load(&from->word, NS_RELAXED), NS_RELAXED);
        ns_store(&to->stamp, ns_load(&from->stamp, NS_RELAXED), NS_RELAXED);
    }
    ns_store(&list->ring, ring, NS_RELEASE);
    ns_lock_release(&list->lock);
    free(old);
    return true;
}

ns_limbo_list *
ns_limbo_reserve(ns_limbo *l)
{
    ns_limbo_list *list = find_or_make(l);
    if (list == NULL) {
        return NULL;
    }
    if (!ns_limbo_may_hold(l)) {
        ns_store(&l->may_hold, true, NS_RELAXED);
    }
    ns_limbo_ring *ring = ns_load(&list->ring, NS_RELAXED);
    const uint32_t count = ns_load(&list->end, NS_RELAXED) - ns_load(&list->first, NS_ACQUIRE);
    return count <= ring->mask || grow(list, ring) ? list : NULL;
}

/* ---- Taking out ---- */

static unsigned
take(ns_limbo_list *list, uint64_t safe, uintptr_t *words, unsigned room)
{
    unsigned n = 0;
    lock(list);
    ns_limbo_ring *ring = ns_load(&list->ring, NS_RELAXED);
    const uint32_t end = ns_load(&list->end, NS_ACQUIRE);
    for (uint32_t i = ns_load(&list->first, NS_RELAXED); i != end && n < room; i++) {
        ns_limbo_place *place = &ring->at[i & ring->mask];
        if (ns_load(&place->stamp, NS_RELAXED) >= safe) {
            break; /* those behind it died later */
        }
        words[n++] = ns_load(&place->word, NS_RELAXED);
        ns_store(&list->first, i + 1, NS_RELEASE);
    }
    ns_lock_release(&list->lock);
    return n;
}

unsigned
ns_limbo_take(ns_limbo_list *list, uint64_t safe, uintptr_t *words, unsigned room)
{
    const uint32_t first = ns_load(&list->first, NS_RELAXED);
    ns_limbo_ring *ring = ns_load(&list->ring, NS_RELAXED);
    /* Another thread may take this word out at the same time. The place keeps its stamp. */
    if (first == ns_load(&list->end, NS_RELAXED) ||
        ns_load(&ring->at[first & ring->mask].stamp, NS_RELAXED) >= safe) {
        return 0;
    }
    return take(list, safe, words, room);
}

/* The next list from slot *i on, or NULL at the end. */
static ns_limbo_list *
next_list(ns_limbo *l, uint32_t *i)
{
    ns_limbo_lists *lists = ns_load(&l->lists, NS_ACQUIRE);
    uint32_t offset;
    while (lists != NULL) {
        const uint32_t segment = ns_segment_of_slot(NS_LIMBO_LISTS, *i, &offset);
        if (segment >= NS_LIMBO_SEGMENTS) {
            break;
        }
        ns_limbo_slot *slots = ns_load(&lists->segments[segment], NS_ACQUIRE);
        if (slots == NULL) { /* no thread of this segment has a list */
            *i += ns_slots_in_segment(NS_LIMBO_LISTS, segment) - offset;
            continue;
        }
        ++*i;
        ns_limbo_list *list = ns_load(&slots[offset], NS_ACQUIRE);
        if (list != NULL) {
            return list;
        }
    }
    return NULL;
}

static inline uint32_t
count_of(ns_limbo_list *list)
{
    /* `first` is read first, so that the difference is not negative. */
    const uint32_t first = ns_load(&list->first, NS_ACQUIRE);
    return ns_load(&list->end, NS_ACQUIRE) - first;
}

unsigned
ns_limbo_take_any(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room)
{
    unsigned n = 0;
    ns_limbo_list *list;
    for (uint32_t i = 0; n < room && (list = next_list(l, &i)) != NULL;) {
        if (count_of(list) != 0) {
            n += take(list, safe, words + n, room - n);
        }
    }
    return n;
}

unsigned
ns_limbo_take_left(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room)
{
    unsigned n = 0;
    ns_limbo_list *list;
    for (uint32_t i = 0; n < room && (list = next_list(l, &i)) != NULL;) {
        const uint32_t slot = i - 1;
        /* A thread that gets the slot meanwhile finds a list like any other. */
        const bool held = ns_load(&ns_slots.taken[slot / 64], NS_RELAXED) >> slot % 64 & 1;
        if (!held && count_of(list) != 0) {
            n += take(list, safe, words + n, room - n);
        }
    }
    return n;
}

unsigned
ns_limbo_take_alone(ns_limbo *l, uint64_t safe, uintptr_t *words, unsigned room)
{
    const unsigned n = ns_limbo_take_any(l, safe, words, room);
    if (ns_limbo_count(l) == 0) {
        ns_store(&l->may_hold, false, NS_RELAXED);
        ns_fence_here(); /* threads that start later make the other fence */
        if (!ns_slots_is_alone()) { /* a newcomer may have added a word since */
            ns_store(&l->may_hold, true, NS_RELAXED);
        }
    }
    return n;
}

size_t
ns_limbo_count(ns_limbo *l)
{
    size_t total = 0;
    ns_limbo_list *list;
    for (uint32_t i = 0; (list = next_list(l, &i)) != NULL;) {
        total += count_of(list);
    }
    return total;
}

size_t
ns_limbo_bytes(ns_limbo *l)
{
    ns_limbo_lists *lists = ns_load(&l->lists, NS_ACQUIRE);
    size_t total = lists != NULL ? sizeof(*lists) : 0;
    for (uint32_t i = 0; lists != NULL && i < NS_LIMBO_SEGMENTS; i++) {
        if (ns_load(&lists->segments[i], NS_ACQUIRE) != NULL) {
            total += ns_slots_in_segment(NS_LIMBO_LISTS, i) * sizeof(ns_limbo_slot);
        }
    }
    ns_limbo_list *list;
    for (uint32_t i = 0; (list = next_list(l, &i)) != NULL;) {
        lock(list); /* its ring may be replaced */
        total += sizeof(*list) + ring_bytes(ns_load(&list->ring, NS_RELAXED)->mask + 1);
        ns_lock_release(&list->lock);
    }
    return total;
}

int
ns_limbo_visit(ns_limbo *l, int (*visit)(uintptr_t word, void *context), void *context)
{
    int result = 0;
    ns_limbo_list *list;
    for (uint32_t i = 0; result == 0 && (list = next_list(l, &i)) != NULL;) {
        ns_limbo_ring *ring = ns_load(&list->ring, NS_RELAXED);
        const uint32_t end = ns_load(&list->end, NS_RELAXED);
        for (uint32_t n = ns_load(&list->first, NS_RELAXED); n != end && result == 0; n++) {
            result = visit(ns_load(&ring->at[n & ring->mask].word, NS_RELAXED), context);
        }
    }
    return result;
}

void
ns_limbo_destroy(ns_limbo *l)
{
    ns_limbo_lists *lists = ns_load(&l->lists, NS_RELAXED);
    ns_limbo_list *list;
    for (uint32_t i = 0; (list = next_list(l, &i)) != NULL;) {
        free(ns_load(&list->ring, NS_RELAXED));
        free(list);
    }
    for (uint32_t i = 0; lists != NULL && i < NS_LIMBO_SEGMENTS; i++) {
        free(ns_load(&lists->segments[i], NS_RELAXED));
    }
    free(lists);
    ns_store(&l->lists, NULL, NS_RELAXED);
    ns_store(&l->may_hold, false, NS_RELAXED);
}
