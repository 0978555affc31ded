#include "cache/ghosts.h"
#include "cache/list.h"
#include "cache/wheel.h"

#include <stdlib.h>

/* ---- Entries ---- */

static inline ns_cache_queue *
queue_of(ns_cache *c, const ns_cache_entry *e)
{
    return e->queue == NS_CACHE_SMALL ? &c->small : &c->main;
}

static inline void
add_weight(ns_cache *c, int64_t weight)
{
    ns_store(&c->weight,
             (int64_t)((uint64_t)ns_load(&c->weight, NS_RELAXED) + (uint64_t)weight),
             NS_RELAXED);
}

static inline void
add_count(_Atomic uint64_t *count, uint64_t by)
{
    ns_store(count, ns_load(count, NS_RELAXED) + by, NS_RELAXED);
}

static void
enter_queue(ns_cache *c, ns_cache_entry *e, enum ns_cache_queue_name name)
{
    e->queue = (uint8_t)name;
    ns_cache_queue *q = queue_of(c, e);
    push(&q->ends, &e->place);
    q->weight = (int64_t)((uint64_t)q->weight + (uint64_t)e->weight);
    q->count++;
}

static void
leave_queue(ns_cache *c, ns_cache_entry *e)
{
    ns_cache_queue *q = queue_of(c, e);
    unlink_from_list(&e->place);
    q->weight = (int64_t)((uint64_t)q->weight - (uint64_t)e->weight);
    q->count--;
    e->queue = NS_CACHE_NONE;
}

static void
move(ns_cache *c, ns_cache_entry *e, enum ns_cache_queue_name name, uint8_t uses)
{
    leave_queue(c, e);
    enter_queue(c, e, name);
    ns_store(&e->uses, uses, NS_RELAXED);
}

/* The entry leaves the queue, the wheel and the counts. */
static void
leave_all(ns_cache *c, ns_cache_entry *e)
{
    if (e->queue != NS_CACHE_NONE) {
        leave_queue(c, e);
        add_weight(c, -e->weight);
        add_count(&c->count, UINT64_MAX);
    }
    unschedule(e);
}

/* Takes the reference to the key that `note` passes on. To be called before the entry is removed:
 * from then on another thread may take it out of a limbo list, and free it (table.h, 6). */
static void
hold_key(ns_cache *c, ns_cache_gone *gone, const ns_cache_edit *edit, ns_cache_entry *e)
{
    gone->items[gone->count].key = c->tells ? e->key : 0;
    if (c->tells) {
        edit->hold(e->key);
    }
}

static void
note(ns_cache *c, ns_cache_gone *gone, uintptr_t value, enum ns_cache_cause cause)
{
    if (cause == NS_CACHE_REPLACED) { /* nobody is told */
        gone->items[gone->count].key = 0;
    }
    gone->items[gone->count].value = value;
    gone->items[gone->count].cause = cause;
    gone->count++;
    if (cause != NS_CACHE_REPLACED) {
        add_count(cause == NS_CACHE_SIZE ? &c->evictions : &c->expirations, 1);
    }
}

static enum ns_match
is_word(uintptr_t stored, const void *wanted)
{
    return stored == (uintptr_t)wanted ? NS_EQUAL : NS_DIFFERENT;
}

/* Removes an entry that is in a queue. */
static void
take_out(ns_cache *c, ns_cache_entry *e, const ns_cache_edit *edit, enum ns_cache_cause cause,
         ns_cache_gone *gone)
{
    ns_entry *at = NULL;
    uintptr_t value = 0;
    const enum ns_cache_queue_name from = (enum ns_cache_queue_name)e->queue;
    leave_all(c, e);
    ns_segment *s = ns_table_lock(&c->table, e->hash);
    if (ns_segment_find(s, e->hash, is_word, (void *)ns_cache_word(e), NULL, &at, &value) ==
        NS_PRESENT) {
        if (cause == NS_CACHE_SIZE) {
            add_ghost(c, e->hash, from);
        }
        if (cause != NS_CACHE_REPLACED) {
            hold_key(c, gone, edit, e);
        }
        value = ns_segment_remove(&c->table, s, at, 0, &gone->garbage);
        note(c, gone, value, cause);
    }
    ns_table_leave(&c->table, s, &gone->garbage);
}

/* ---- The lock ---- */

/* Puts an entry into the main queue. Its links may be broken. */
static void
restore(uintptr_t word, uint64_t hash, void *context)
{
    (void)hash;
    ns_cache *c = context;
    ns_cache_entry *e = ns_cache_entry_of(word);
    ns_cache_wheel *w = ns_load(&c->wheel, NS_RELAXED);
    enter_queue(c, e, NS_CACHE_MAIN);
    add_weight(c, e->weight);
    add_count(&c->count, 1);
    e->timer.next = e->timer.previous = NULL;
    if (w != NULL && ns_load(&e->deadline, NS_RELAXED) != NS_CACHE_NEVER) {
        schedule(w, e);
    }
}

/* Puts all entries of the table into the main queue: the thread that held the lock is gone. Needs
 * no memory, so no entry is left out: it would keep links to entries that are freed before it. */
static __attribute__((cold, noinline)) void
repair(ns_cache *c)
{
    ns_cache_wheel *w = ns_load(&c->wheel, NS_RELAXED);
    make_list(&c->small.ends);
    make_list(&c->main.ends);
    c->small.weight = c->main.weight = 0;
    c->small.count = c->main.count = 0;
    c->clearing = 0;
    ns_store(&c->weight, 0, NS_RELAXED);
    ns_store(&c->count, 0, NS_RELAXED);
    c->ghosts = NULL; /* a thread may have been about to free them */
    if (w != NULL) {
        make_list(&w->pending);
        for (unsigned i = 0; i < NS_CACHE_LEVELS * NS_CACHE_SLOTS; i++) {
            make_list(&w->slots[0][0] + i);
        }
    }
    ns_table_walk(&c->table, restore, c);
}

static void
lock(ns_cache *c)
{
    const enum ns_locked how = ns_lock_take(&c->lock);
    if (ns_unlikely(how == NS_LOCKED_ABANDONED)) {
        repair(c);
    }
    if (ns_unlikely(how >= NS_LOCKED_STALE)) {
        c->clearing = 0; /* by threads that did not survive a fork */
    }
}

/* Releases the lock. Then the table polls, if that is due. */
static inline void
unlock(ns_cache *c, ns_cache_gone *gone)
{
    ns_lock_release_as(&c->lock, NS_SEQ_CST);
    ns_table_settle(&c->table, &gone->garbage);
}

/* ---- Eviction ---- */

/* In how many duels a candidate may look for a victim: by whether it came back, and by its uses. */
static const uint8_t duels[2][4] = {{0, 4, 8, 8}, {1, 8, 8, 8}};
_Static_assert(NS_CACHE_USES <= 3, "there is a number of duels for each count of uses");

static inline ns_cache_entry *
oldest(ns_cache_queue *q)
{
    return is_empty(&q->ends) ? NULL : ENTRY_AT(q->ends.previous, place);
}

/* Decides about the oldest entry of the small queue: it is evicted, or replaces an entry of the
 * main queue, or goes round again with one use less. `room`: how much more fits into the main
 * queue. */
static void
judge(ns_cache *c, ns_cache_entry *candidate, int64_t room, bool now, const ns_cache_edit *edit,
      ns_cache_gone *gone)
{
    const uint8_t uses = ns_load(&candidate->uses, NS_RELAXED);
    if (candidate->weight <= room) {
        c->idle = candidate->back || uses > 0 ? 0 : c->idle + 1;
        const bool may_stay = !now && c->idle > ns_load(&c->count, NS_RELAXED);
        if (candidate->back || uses >= 2 || may_stay) {
            move(c, candidate, NS_CACHE_MAIN, 1);
            return;
        }
    }
    ns_cache_entry *hand;
    for (unsigned n = now ? 0 : duels[candidate->back][uses];
         n > 0 && (hand = oldest(&c->main)) != NULL;
         n--) {
        const uint8_t others = ns_load(&hand->uses, NS_RELAXED);
        if (others == 0) {
            take_out(c, hand, edit, NS_CACHE_SIZE, gone);
            move(c, candidate, NS_CACHE_MAIN, 1);
            return;
        }
        move(c, hand, NS_CACHE_MAIN, others / 2);
    }
    if (uses >= 2 && !now) {
        move(c, candidate, NS_CACHE_SMALL, uses - 1);
    }
    else {
        take_out(c, candidate, edit, NS_CACHE_SIZE, gone);
    }
}

/* Evicts an entry, or moves one, or lowers its count of uses. `weight` is what is to be inserted.
 * There is an entry. */
static void
evict(ns_cache *c, int64_t weight, ns_cache_edit *edit, ns_cache_gone *gone)
{
    const bool now = ++edit->looks > NS_CACHE_PATIENCE;
    ns_cache_entry *candidate = oldest(&c->small), *hand = oldest(&c->main);
    if (candidate != NULL && (hand == NULL || c->small.weight > c->share - weight)) {
        if (c->clearing != 0) { /* nothing is moved behind what is to be cleared */
            take_out(c, candidate, edit, NS_CACHE_SIZE, gone);
        }
        else {
            judge(c, candidate, c->limit - c->share - c->main.weight, now, edit, gone);
        }
        return;
    }
    const uint8_t uses = ns_load(&hand->uses, NS_RELAXED);
    if (uses == 0 || now || c->clearing != 0) {
        take_out(c, hand, edit, NS_CACHE_SIZE, gone);
    }
    else {
        move(c, hand, NS_CACHE_MAIN, uses / 2);
    }
}

/* ---- Expiry ---- */

/* Takes some entries from the pending ones. Returns whether there are more. */
static bool
expire(ns_cache *c, const ns_cache_edit *edit, ns_cache_gone *gone)
{
    ns_cache_wheel *w = ns_load(&c->wheel, NS_RELAXED);
    if (w == NULL || edit->now == NS_CACHE_NO_TIME) {
        return false;
    }
    turn(w, edit->now, c->steady);
    for (unsigned n = 0; n < NS_CACHE_BATCH && !is_empty(&w->pending); n++) {
        ns_cache_entry *e = ENTRY_AT(w->pending.previous, timer);
        unschedule(e);
        if (ns_load(&e->deadline, NS_RELAXED) <= edit->now) {
            take_out(c, e, edit, NS_CACHE_TIME, gone);
        }
        else {
            schedule(w, e);
        }
    }
    return !is_empty(&w->pending);
}

/* ---- Operations ---- */

/* Locks the key's segment, and searches it. Returns false if a key must be asked, or there is no
 * memory: then nothing is locked, and *done says so. */
static bool
find(ns_cache *c, ns_cache_edit *e, ns_segment **s, ns_entry **at, bool *present,
     ns_cache_gone *gone, enum ns_cache_done *done)
{
    uintptr_t value;
    *s = ns_table_lock(&c->table, e->hash);
    if (*s == NULL) {
        unlock(c, gone);
        *done = NS_CACHE_NO_MEMORY;
        return false;
    }
    if (e->place != NULL && (e->place->serial != (*s)->serial ||
                             e->place->inserts != ns_load(&(*s)->inserts, NS_RELAXED))) {
        e->place->serial = 0; /* another segment, or keys were inserted: restart */
    }
    enum ns_found found = ns_segment_find(*s, e->hash, e->match, e->wanted, e->place, at, &value);
    if (found == NS_ASK) {
        e->result = ns_cache_entry_of(ns_load(&(*at)->key, NS_RELAXED))->key;
        e->hold(e->result);
        ns_lock_release(&(*s)->lock);
        unlock(c, gone);
        *done = NS_CACHE_ASK_KEY;
        return false;
    }
    *present = found == NS_PRESENT;
    return true;
}

static enum ns_cache_done
end(ns_cache *c, ns_segment *s, ns_cache_gone *gone, enum ns_cache_done done)
{
    ns_table_leave(&c->table, s, &gone->garbage);
    unlock(c, gone);
    return done;
}

/* Removes the entry from its locked segment; returns its value. */
static uintptr_t
remove_found(ns_cache *c, ns_segment *s, ns_entry *at, ns_cache_entry *e, ns_cache_gone *gone)
{
    leave_all(c, e);
    return ns_segment_remove(&c->table, s, at, 0, &gone->garbage);
}

/* Stores the value in place of the one that is there. */
static void
replace(ns_cache *c, ns_entry *at, ns_cache_entry *old, ns_cache_edit *e, ns_cache_gone *gone)
{
    const int64_t before = ns_load(&old->deadline, NS_RELAXED);
    const int64_t after = ns_load(&e->entry->deadline, NS_RELAXED);
    const int64_t more = e->entry->weight - old->weight;
    if (after < before) { /* see 4 */
        ns_store(&old->deadline, after, NS_RELEASE);
    }
    note(c, gone, ns_entry_replace(at, 0, e->value), NS_CACHE_REPLACED);
    if (after > before) {
        ns_store(&old->deadline, after, NS_RELEASE);
    }
    const uint8_t uses = ns_load(&old->uses, NS_RELAXED);
    ns_store(&old->uses, uses < NS_CACHE_USES ? uses + 1 : uses, NS_RELAXED);
    if (old->queue != NS_CACHE_NONE) {
        ns_cache_queue *q = queue_of(c, old);
        q->weight = (int64_t)((uint64_t)q->weight + (uint64_t)more);
        add_weight(c, more);
    }
    old->weight = e->entry->weight;
    unschedule(old);
    if (after != NS_CACHE_NEVER) {
        schedule(ns_load(&c->wheel, NS_RELAXED), old);
    }
}

enum ns_cache_done
ns_cache_store(ns_cache *c, ns_cache_edit *e, ns_cache_gone *gone)
{
    const int64_t weight = e->entry->weight;
    const int64_t deadline = ns_load(&e->entry->deadline, NS_RELAXED);
    ns_segment *s;
    ns_entry *at;
    ns_cache_entry *old;
    bool present;
    enum ns_cache_done done;
    lock(c);
    if (deadline != NS_CACHE_NEVER && wheel_of(c, e->now) == NULL) {
        unlock(c, gone);
        return NS_CACHE_NO_MEMORY;
    }
    expire(c, e, gone);
    for (;;) {
        if (!find(c, e, &s, &at, &present, gone, &done)) {
            return done;
        }
        old = present ? ns_cache_entry_of(ns_load(&at->key, NS_RELAXED)) : NULL;
        if (e->add && present && ns_load(&old->deadline, NS_RELAXED) > e->now) {
            e->result = ns_entry_hold(at, e->hold);
            return end(c, s, gone, NS_CACHE_KEPT);
        }
        if (e->add && e->is_set(e->flag)) {
            return end(c, s, gone, NS_CACHE_FORBIDDEN);
        }
        if (weight > c->limit) {
            if (present) {
                note(c, gone, remove_found(c, s, at, old, gone), NS_CACHE_REPLACED);
            }
            add_count(&c->evictions, 1);
            return end(c, s, gone, NS_CACHE_TOO_HEAVY);
        }
        const int64_t rest = c->limit - weight; /* for the others */
        const int64_t others =
            ns_load(&c->weight, NS_RELAXED) - (present && old->queue ? old->weight : 0);
        if (others <= rest) {
            break;
        }
        ns_table_leave(&c->table, s, &gone->garbage);
        if (gone->count > 2 * NS_CACHE_BATCH - 2) {
            unlock(c, gone);
            return NS_CACHE_AGAIN;
        }
        evict(c, weight, e, gone);
    }
    if (!e->add && e->flag != NULL) {
        e->set(e->flag);
    }
    if (present) {
        replace(c, at, old, e, gone);
        return end(c, s, gone, NS_CACHE_STORED);
    }
    ns_cache_entry *entry = e->entry;
    const uintptr_t word = ns_cache_word(entry);
    entry->back = take_ghost(c, e->hash);
    if (ns_unlikely(!ns_segment_insert(s, e->hash, word, e->value, &gone->garbage))) {
        ns_segment *larger = ns_table_make_room(&c->table, s, e->hash, &gone->garbage);
        if (larger == NULL) {
            return end(c, s, gone, NS_CACHE_NO_MEMORY);
        }
        s = larger;
        ns_segment_insert(s, e->hash, word, e->value, &gone->garbage);
    }
    enter_queue(c, entry, NS_CACHE_SMALL);
    add_weight(c, weight);
    add_count(&c->count, 1);
    if (deadline != NS_CACHE_NEVER) {
        schedule(ns_load(&c->wheel, NS_RELAXED), entry);
    }
    return end(c, s, gone, NS_CACHE_INSERTED);
}

enum ns_cache_done
ns_cache_remove(ns_cache *c, ns_cache_edit *e, ns_cache_gone *gone)
{
    ns_segment *s;
    ns_entry *at;
    bool present;
    enum ns_cache_done done;
    lock(c);
    if (!find(c, e, &s, &at, &present, gone, &done)) {
        return done;
    }
    if (!present) {
        return end(c, s, gone, NS_CACHE_MISSING);
    }
    ns_cache_entry *old = ns_cache_entry_of(ns_load(&at->key, NS_RELAXED));
    const bool expired = ns_load(&old->deadline, NS_RELAXED) <= e->now;
    if (!expired && e->only_expired) {
        e->result = ns_entry_hold(at, e->hold);
        return end(c, s, gone, NS_CACHE_KEPT);
    }
    if (expired) {
        hold_key(c, gone, e, old);
    }
    const uintptr_t value = remove_found(c, s, at, old, gone);
    if (expired) {
        note(c, gone, value, NS_CACHE_TIME);
        return end(c, s, gone, NS_CACHE_MISSING);
    }
    e->result = value;
    return end(c, s, gone, NS_CACHE_REMOVED);
}

bool
ns_cache_expire(ns_cache *c, const ns_cache_edit *e, ns_cache_gone *gone)
{
    lock(c);
    bool more = expire(c, e, gone);
    unlock(c, gone);
    return more;
}

bool
ns_cache_clear(ns_cache *c, const ns_cache_edit *e, uint64_t left[2], ns_cache_gone *gone)
{
    ns_cache_queue *const queues[2] = {&c->small, &c->main};
    lock(c);
    if (left[0] == UINT64_MAX) {
        c->clearing++;
        left[0] = c->small.count;
        left[1] = c->main.count;
    }
    for (int i = 0; i < 2; i++) {
        for (; left[i] > 0 && gone->count < NS_CACHE_BATCH; left[i]--) {
            ns_cache_entry *entry = oldest(queues[i]);
            if (entry == NULL) {
                left[i] = 0;
                break;
            }
            take_out(c, entry, e, NS_CACHE_REPLACED, gone);
        }
    }
    const bool more = left[0] + left[1] > 0;
    if (!more && c->clearing > 0) {
        c->clearing--;
    }
    unlock(c, gone);
    return more;
}

static bool
hold_nothing(uintptr_t word)
{
    (void)word;
    return true;
}

size_t
ns_cache_page(ns_cache *c, const ns_cache_edit *e, uint64_t *from, ns_hashed *keys, size_t room)
{
    lock(c); /* so no entry is removed */
    size_t n = ns_table_page(&c->table, from, keys, room, hold_nothing), kept = 0;
    for (size_t i = 0; n <= room && i < n; i++) {
        ns_cache_entry *entry = ns_cache_entry_of(keys[i].key);
        if (ns_load(&entry->deadline, NS_RELAXED) > e->now) {
            e->hold(entry->key);
            keys[kept++] = (ns_hashed){entry->key, entry->hash};
        }
    }
    ns_lock_release_as(&c->lock, NS_SEQ_CST);
    return n <= room ? kept : n;
}

size_t
ns_cache_bytes(ns_cache *c)
{
    size_t total = ns_table_bytes(&c->table);
    total += ns_load(&c->count, NS_RELAXED) * sizeof(ns_cache_entry);
    for (unsigned i = 0; i < NS_CACHE_SEGMENTS; i++) {
        if (ns_load(&c->tallies[i], NS_ACQUIRE) != NULL) {
            total += ns_slots_in_segment(NS_CACHE_FIRST, i) * sizeof(ns_cache_tally);
        }
    }
    total += ns_cache_is_timed(c) ? sizeof(ns_cache_wheel) : 0;
    lock(c);
    if (c->ghosts != NULL) {
        const ns_cache_ghosts *g = c->ghosts;
        total += sizeof(*g) + (g->mask + (size_t)1) * (sizeof(g->at[0]) + sizeof(*g->heads));
    }
    ns_lock_release_as(&c->lock, NS_SEQ_CST);
    return total;
}

/* ---- Beginning and end ---- */

void
ns_cache_init(ns_cache *c, int64_t limit, bool tells)
{
    c->limit = limit;
    c->tells = tells;
    c->share = SHARE_AT_FIRST(limit) > 0 ? SHARE_AT_FIRST(limit) : 1;
    make_list(&c->small.ends);
    make_list(&c->main.ends);
}

void
ns_cache_destroy(ns_cache *c, void (*release)(uintptr_t word, uintptr_t value))
{
    ns_table_destroy(&c->table, release);
    for (unsigned i = 0; i < NS_CACHE_SEGMENTS; i++) {
        free(ns_load(&c->tallies[i], NS_RELAXED));
    }
    free(ns_load(&c->wheel, NS_RELAXED));
    if (c->ghosts != NULL) {
        free(c->ghosts->heads);
        free(c->ghosts);
    }
}
