#include "table/retired.h"

#include <stdlib.h>

/* The segment has its stamp, and leads to the segments behind it, before it is in the list. */
void
ns_retired_add(ns_table *t, ns_segment *s, uint64_t stamp)
{
    if (stamp != 0) {
        ns_epoch_note((uint32_t)bytes_of(s));
    }
    s->stamp = stamp;
    ns_segment *first = ns_load(&t->retired, NS_RELAXED);
    if (first == NULL || stamp < t->oldest) {
        t->oldest = stamp;
    }
    ns_store(&s->next, first, NS_RELAXED);
    ns_store(&t->retired, s, NS_RELEASE);
}

bool
ns_retired_has(ns_table *t, ns_segment *s)
{
    ns_segment *each = ns_load(&t->retired, NS_RELAXED);
    while (each != NULL && each != s) {
        each = ns_load(&each->next, NS_RELAXED);
    }
    return each != NULL;
}

void
ns_retired_add_directory(ns_table *t, ns_directory *d)
{
    d->stamp = 0;
    ns_epoch_retire(&d->stamp);
    ns_store(&d->next, ns_load(&t->retired_directories, NS_RELAXED), NS_RELAXED);
    ns_store(&t->retired_directories, d, NS_RELEASE);
}

void
ns_retired_reap(ns_table *t, ns_garbage *garbage)
{
    const uint64_t safe = ns_epoch_safe();
    if (t->oldest < safe) { /* thousands may wait for one section: check only if some may go */
        uint64_t oldest = UINT64_MAX;
        _Atomic(ns_segment *) *link = &t->retired;
        for (ns_segment *s; (s = ns_load(link, NS_RELAXED)) != NULL;) {
            if (s->stamp < safe && !has_sleepers(s)) {
                ns_unlink(link, ns_load(&s->next, NS_RELAXED));
                ns_store(&s->next, garbage->segments, NS_RELEASE);
                garbage->segments = s;
            }
            else {
                oldest = s->stamp < oldest ? s->stamp : oldest;
                link = &s->next;
            }
        }
        t->oldest = oldest;
    }
    _Atomic(ns_directory *) *place = &t->retired_directories;
    for (ns_directory *d; (d = ns_load(place, NS_RELAXED)) != NULL;) {
        if (d->stamp < safe) {
            ns_unlink(place, ns_load(&d->next, NS_RELAXED));
            free(d);
        }
        else {
            place = &d->next;
        }
    }
}
