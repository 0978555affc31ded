#include "waiting/linger.h"

#include "waiting/grant.h"

static enum ns_look
look_out_awake(enum ns_look (*look)(void *what), void *what, int64_t pace)
{
    int64_t now = ns_now();
    const int64_t until = now + NS_LINGER;
    enum ns_look found;
    do {
        for (int64_t next = now + pace < until ? now + pace : until; now < next; now = ns_now()) {
            ns_pause();
        }
        found = look(what);
    } while (found == NS_NOT_READY && now < until);
    return found;
}

/* From this reading of ns_now() on, threads yield. */
static _Atomic int64_t yields_from;

static enum ns_look
look_out_yielding(enum ns_look (*look)(void *what), void *what)
{
    enum ns_look found = NS_NOT_READY;
    int64_t now = ns_now();
    for (int yields = 0; found == NS_NOT_READY && yields < NS_LINGER_YIELDS; yields++) {
        const int64_t before = now;
        if (before < ns_load(&yields_from, NS_RELAXED)) {
            break;
        }
        ns_yield();
        found = look(what);
        now = ns_now();
        const int64_t took = now - before;
        if (took > NS_LINGER_LONG) {
            const int64_t given = took < NS_LINGER_LONGEST ? took : NS_LINGER_LONGEST;
            ns_store(&yields_from, now + 100 * given, NS_RELAXED);
        }
    }
    return found;
}

enum ns_look
ns_linger(enum ns_look (*look)(void *what), void *what, int64_t *pace)
{
    enum ns_look found = look(what);
    bool awake = false;
    if (found == NS_NOT_READY && ns_spin_begin()) {
        found = look_out_awake(look, what, *pace);
        ns_spin_end();
        awake = found != NS_NOT_READY;
    }
    *pace = awake ? *pace : 0;
    return found == NS_NOT_READY ? look_out_yielding(look, what) : found;
}
