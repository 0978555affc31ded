/* ownership.c: the words that a table owns (table.h, 5): visited for collectors, and released. */
#include "table/directory.h"
#include "table/retired.h"

#include <stdlib.h>

/* A current segment owns keys and values, a retired one the keys of its dead entries. */
static int
visit_segment(ns_segment *s, bool current, int (*visit)(uintptr_t, void *), void *context)
{
    int result = 0;
    for (uint32_t i = 0; i < slots_of(s) && result == 0; i++) {
        if (!is_used(s, i)) {
            continue;
        }
        uintptr_t value = ns_load(&s->entries[i].value, NS_RELAXED);
        uintptr_t key = ns_load(&s->entries[i].key, NS_RELAXED);
        if (key != 0 && (value & NS_DEAD ? owns_dead_key(value) : current)) {
            result = visit(key, context);
        }
        if (result == 0 && current && ns_is_live(value)) {
            result = visit(value & ~NS_FROZEN, context);
        }
    }
    return result;
}

int
ns_table_visit(ns_table *t, int (*visit)(uintptr_t word, void *context), void *context)
{
    int result = 0;
    ns_segment *s;
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    /* A fork cut a publication short. The old segments count until values are replaced in the new
     * ones. From then on the old ones own only their dead keys, in the list of the retired or
     * not. */
    ns_segment *const old[2] = {ns_load(&t->old[0], NS_RELAXED), ns_load(&t->old[1], NS_RELAXED)};
    ns_segment *const new[2] = {ns_load(&t->new[0], NS_RELAXED), ns_load(&t->new[1], NS_RELAXED)};
    const bool pending = old[0] != NULL;
    const bool old_count = pending && state_of(new[0]) != NS_CURRENT;
    for (int i = 0; pending && i < 2 && result == 0; i++) {
        result = old[i] != NULL ? visit_segment(old[i], old_count, visit, context) : 0;
    }
    for (uint64_t i = 0; d != NULL && result == 0 && (s = next_in(d, &i)) != NULL;) {
        if (!old_count || (s != old[0] && s != old[1] && s != new[0] && s != new[1])) {
            result = visit_segment(s, true, visit, context);
        }
    }
    s = ns_load(&t->retired, NS_RELAXED);
    for (; s != NULL && result == 0; s = ns_load(&s->next, NS_RELAXED)) {
        if (!pending || (s != old[0] && s != old[1])) {
            result = visit_segment(s, false, visit, context);
        }
    }
    return result != 0 ? result : ns_limbo_visit(&t->limbo, visit, context);
}

static void
release_dead_keys(ns_segment *s, void (*release)(uintptr_t))
{
    for (uint32_t i = 0; dead_in(s) > 0 && i < slots_of(s); i++) {
        if (is_used(s, i) && owns_dead_key(ns_load(&s->entries[i].value, NS_RELAXED))) {
            release(ns_load(&s->entries[i].key, NS_RELAXED));
        }
    }
}

void
ns_garbage_release(ns_garbage *garbage, void (*release)(uintptr_t key))
{
    while (garbage->count > 0) {
        release(garbage->keys[--garbage->count]);
    }
    while (garbage->segments != NULL) {
        ns_segment *s = garbage->segments;
        garbage->segments = ns_load(&s->next, NS_RELAXED);
        release_dead_keys(s, release);
        free(s);
    }
}

void
ns_table_destroy(ns_table *t, void (*release)(uintptr_t key, uintptr_t value))
{
    ns_structure_lock(t); /* finishes what a fork cut short */
    ns_structure_unlock(t);
    ns_directory *d = ns_load(&t->directory, NS_RELAXED);
    ns_segment *s;
    for (uint64_t i = 0; d != NULL && (s = next_in(d, &i)) != NULL;) {
        for (uint32_t e = 0; e < slots_of(s); e++) {
            uintptr_t value = ns_load(&s->entries[e].value, NS_RELAXED);
            uintptr_t key = ns_load(&s->entries[e].key, NS_RELAXED);
            if (is_used(s, e) && key != 0 && (ns_is_live(value) || owns_dead_key(value))) {
                release(key, ns_is_live(value) ? value & ~NS_FROZEN : 0);
            }
        }
        free(s);
    }
    free(d);
    while ((s = ns_load(&t->retired, NS_RELAXED)) != NULL) {
        ns_unlink(&t->retired, ns_load(&s->next, NS_RELAXED));
        for (uint32_t e = 0; e < slots_of(s); e++) {
            if (is_used(s, e) && owns_dead_key(ns_load(&s->entries[e].value, NS_RELAXED))) {
                release(ns_load(&s->entries[e].key, NS_RELAXED), 0);
            }
        }
        free(s);
    }
    while ((d = ns_load(&t->retired_directories, NS_RELAXED)) != NULL) {
        ns_unlink(&t->retired_directories, ns_load(&d->next, NS_RELAXED));
        free(d);
    }
    ns_store(&t->directory, NULL, NS_RELAXED);
    uintptr_t key;
    while (ns_limbo_take_any(&t->limbo, UINT64_MAX, &key, 1) != 0) {
        release(key, 0);
    }
    ns_limbo_destroy(&t->limbo);
}
