/* writers.c: how a writer finds and locks the segment of its key: ns_table_lock and its kin. */
#include "table/directory.h"
#include "table/retired.h"

/* For a segment whose lock was not free, or was last used before a fork. The caller is in a
 * section, which this leaves. Returns whether the segment is locked now, and current. */
static bool
lock_slow(ns_table *t, ns_segment *s, ns_section section)
{
    enum ns_locked how = ns_lock_spin(&s->lock);
    const bool sleeps = how == NS_LOCK_BUSY;
    if (sleeps) {
        add_sleeper(s);
        ns_epoch_leave(section);
        how = ns_lock_take_slow(&s->lock);
    }
    if (how == NS_LOCKED_ABANDONED) {
        ns_structure_lock(t);
        ns_structure_unlock(t);
        ns_segment_repair(s);
    }
    const bool current = state_of(s) != NS_MOVED;
    if (current) {
        meet(s, how == NS_LOCKED_AFTER_ALL ? NS_FIGHT : 0);
    }
    else {
        ns_lock_release(&s->lock);
    }
    if (sleeps) {
        remove_sleeper(s); /* a segment that is locked and not moved cannot be retired */
    }
    else {
        ns_epoch_leave(section);
    }
    return current;
}

ns_segment *
ns_table_lock(ns_table *t, uint64_t hash)
{
    for (;;) {
        /* In a section the segment is not freed while we wait for its lock. After that, if it was
         * not moved, it cannot be retired before we unlock it. */
        ns_section section = ns_epoch_enter();
        ns_directory *d = ns_load(&t->directory, NS_ACQUIRE);
        if (ns_unlikely(d == NULL)) {
            ns_epoch_leave(section);
            if (!ns_directory_create(t)) {
                return NULL;
            }
            continue;
        }
        ns_segment *s = ns_directory_find(d, hash);
        if (ns_unlikely(!ns_lock_try(&s->lock))) {
            if (lock_slow(t, s, section)) {
                return s;
            }
            continue;
        }
        bool current = state_of(s) != NS_MOVED;
        if (ns_unlikely(!current)) {
            ns_lock_release(&s->lock);
        }
        ns_epoch_leave(section);
        if (ns_likely(current)) {
            return s;
        }
    }
}

ns_segment *
ns_table_lock_first(ns_table *t)
{
    if (ns_load(&t->directory, NS_ACQUIRE) == NULL) {
        return NULL;
    }
    /* Suppose that two walks found the table empty, and no key came from the first walk's beginning
     * to the second one's end. Then it was empty at the moment between them. No key came if no
     * segment was made meanwhile (which happens under the lock of the one it replaces) and the
     * counts of insertions are equal. A walk that starts in the middle only searches. */
    uint64_t hash = ns_load(&t->start, NS_RELAXED);
    uint64_t inserts = 0, inserts_before = 0, serial = 0, serial_before = 0;
    for (int walk = 0;;) {
        ns_segment *s = ns_table_lock(t, hash);
        if (ns_load(&s->live, NS_RELAXED) != 0) {
            ns_store(&t->start, s->prefix, NS_RELAXED);
            return s;
        }
        inserts += ns_load(&s->inserts, NS_RELAXED);
        hash = ns_segment_end(s);
        ns_lock_release(&s->lock);
        if (hash == 0) {
            uint64_t now = ns_load(&t->serial, NS_RELAXED);
            if (walk >= 2 && inserts == inserts_before && now == serial_before) {
                return NULL;
            }
            inserts_before = inserts;
            serial_before = serial;
            inserts = 0;
            serial = now;
            walk++;
        }
    }
}
