#include "deque.h"

#include <stdlib.h>

/* A ring of this size or less is never replaced by a smaller one. */
#define NS_DEQUE_LARGE (16 * NS_DEQUE_SIZE)

static void
free_all(ns_ring *ring)
{
    while (ring != NULL) {
        ns_ring *older = ns_load(&ring->older, NS_RELAXED);
        free(ring);
        ring = older;
    }
}

/* Frees the rings that were retired two or more counts ago. The list is ordered by age: behind the
 * first such ring, all are older. */
static void
reclaim(ns_deque *d, uint64_t now)
{
    _Atomic(ns_ring *) *link = &d->retired;
    ns_ring *ring;
    while ((ring = ns_load(link, NS_RELAXED)) != NULL && now - ring->retired < 2) {
        link = &ring->older;
    }
    if (ring != NULL) {
        ns_unlink(link, NULL);
        free_all(ring);
    }
}

/* Moves the items [top, bottom) into a new ring of the given size. Returns it, or NULL if there is
 * no memory. */
static ns_ring *
replace(ns_deque *d, int64_t top, int64_t bottom, int64_t size, uint64_t now)
{
    ns_ring *old = ns_load(&d->ring, NS_RELAXED);
    ns_ring *ring = malloc(sizeof(ns_ring) + (size_t)size * sizeof(ns_deque_entry));
    if (ring == NULL) {
        return NULL;
    }
    ring->mask = size - 1;
    for (int64_t i = top; i < bottom; i++) {
        ns_deque_entry *from = &old->entries[i & old->mask], *to = &ring->entries[i & ring->mask];
        ns_store(&to->item, ns_load(&from->item, NS_RELAXED), NS_RELAXED);
        ns_store(&to->stamp, ns_load(&from->stamp, NS_RELAXED), NS_RELAXED);
    }
    ns_store(&d->ring, ring, NS_RELEASE);
    reclaim(d, now);
    if (old != NULL) {
        ns_store(&old->older, ns_load(&d->retired, NS_RELAXED), NS_RELAXED);
        old->retired = now;
        ns_store(&d->retired, old, NS_RELEASE);
    }
    return ring;
}

ns_ring *
ns_deque_grow(ns_deque *d, int64_t top, int64_t bottom, uint64_t now)
{
    ns_ring *old = ns_load(&d->ring, NS_RELAXED);
    if (old != NULL && old->mask >= INT64_C(1) << 40) {
        return NULL;
    }
    return replace(d, top, bottom, old == NULL ? NS_DEQUE_SIZE : 2 * (old->mask + 1), now);
}

void
ns_deque_trim(ns_deque *d, uint64_t now)
{
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED), top = ns_load(&d->top, NS_ACQUIRE);
    reclaim(d, now);
    if (ring != NULL && ring->mask >= NS_DEQUE_LARGE && bottom - top < ring->mask / 8 &&
        ns_load(&d->retired, NS_RELAXED) == NULL) {
        replace(d, top, bottom, (ring->mask + 1) / 4, now);
    }
}

void *
ns_deque_steal(ns_deque *d, uint32_t stamp, uint32_t age)
{
    for (;;) {
        int64_t top = ns_load(&d->top, NS_SEQ_CST);
        int64_t bottom = ns_load(&d->bottom, NS_SEQ_CST);
        if (top >= bottom) {
            return NULL;
        }
        ns_ring *ring = ns_load(&d->ring, NS_ACQUIRE);
        ns_deque_entry *entry = &ring->entries[top & ring->mask];
        void *item = ns_load(&entry->item, NS_RELAXED);
        /* Acquire, so that the read of `top` below comes after it: was that stamp this item's? */
        bool young =
            age != 0 && (int32_t)(stamp - ns_load(&entry->stamp, NS_ACQUIRE)) < (int32_t)age;
        if (young && ns_load(&d->top, NS_RELAXED) == top) {
            return NULL; /* the stamp was this item's: even the oldest is too young */
        }
        /* Take the item; or retry, as another thread took it or its stamp was not this item's. */
        if (!young && ns_cas(&d->top, &top, top + 1, NS_SEQ_CST)) {
            return item;
        }
    }
}

int
ns_deque_each(ns_deque *d, int (*visit)(void *item, void *argument), void *argument)
{
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED);
    int64_t bottom = ns_load(&d->bottom, NS_RELAXED);
    for (int64_t i = ns_load(&d->top, NS_RELAXED); i < bottom; i++) {
        int result = visit(ns_load(&ring->entries[i & ring->mask].item, NS_RELAXED), argument);
        if (result != 0) {
            return result;
        }
    }
    return 0;
}

size_t
ns_deque_size(ns_deque *d)
{
    ns_ring *ring = ns_load(&d->ring, NS_ACQUIRE);
    return ring == NULL ? 0 : sizeof(ns_ring) + ((size_t)ring->mask + 1) * sizeof(ns_deque_entry);
}

void
ns_deque_destroy(ns_deque *d)
{
    ns_ring *ring = ns_load(&d->ring, NS_RELAXED), *retired = ns_load(&d->retired, NS_RELAXED);
    ns_store(&d->ring, NULL, NS_RELAXED);
    ns_unlink(&d->retired, NULL);
    free(ring);
    free_all(retired);
}
