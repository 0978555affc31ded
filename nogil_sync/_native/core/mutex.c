#include "mutex.h"

#include "waiting/grant.h"

/* Times in nanoseconds; tests shrink them so that the rare paths are taken. */
#ifndef NS_MUTEX_STARVING
#define NS_MUTEX_STARVING 1000000 /* the contract: who waited this long is next */
#endif
#ifndef NS_MUTEX_PATIENCE
#define NS_MUTEX_PATIENCE 30000 /* an heir lets others barge for this long */
#endif
#ifndef NS_MUTEX_NAP
#define NS_MUTEX_NAP 100000 /* an heir stays awake for this long */
#endif
#ifndef NS_MUTEX_IDLE
#define NS_MUTEX_IDLE 500 /* a lock that stays free for this long is not in anybody's loop */
#endif
#ifndef NS_MUTEX_LONG
#define NS_MUTEX_LONG \
    50000 /* waiting for a holder that takes this long is not worth being awake for */
#endif
#define SLOW 4u     /* from this slowness on nobody waits awake */
#define SLOWEST 16u /* it is counted up to */
#define SHORTEST_GAP 1000 /* between two looks of the heir, doubling up to */
#define LONGEST_GAP 8000

#define LOCKED NS_MUTEX_LOCKED
#define QUEUED NS_MUTEX_QUEUED
#define VISIT NS_MUTEX_VISIT

/* A node's state. Changed under the queue's lock only. */
enum {
    PARKED,  /* sleeps on the state */
    HEIR,    /* awake, looks at the word */
    GRANTED, /* owns the lock, unlinked */
};

static void
lock_queue(ns_mutex *m)
{
    if (ns_unlikely(ns_waitq_lock(&m->queue))) {
        m->heir = NULL;
        ns_and(&m->word, LOCKED, NS_RELAXED);
    }
}

/* ---- How long the lock is held. A guess, which races may spoil. ---- */

/* Whether its holders are rather slow: then the first in line sleeps until a release. */
static bool
is_slow(ns_mutex *m)
{
    return ns_load(&m->slowness, NS_RELAXED) >= SLOW;
}

/* Takes note of how long a waiter had to wait for a release. Long waits count twice: a waiter
 * that stays awake through one spends more than a sleep would have cost, and brief ones occur by chance
 * however long the lock is held. */
static void
note_wait(ns_mutex *m, int64_t waited)
{
    uint32_t slowness = ns_load(&m->slowness, NS_RELAXED);
    if (waited >= NS_MUTEX_LONG) {
        ns_store(&m->slowness, slowness + 2 <= SLOWEST ? slowness + 2 : SLOWEST, NS_RELAXED);
    }
    else if (slowness > 0) {
        ns_store(&m->slowness, slowness - 1, NS_RELAXED);
    }
}

/* The clock in units of 1024 ns, which wraps. */
static uint32_t
stamp(int64_t now)
{
    return (uint32_t)(now >> 10);
}

/* ---- Passing it on ---- */

/* The waiter that is first in line, or NULL. */
static ns_waiter *
first_in_line(const ns_mutex *m)
{
    const ns_place *p = ns_waitq_first(&m->queue);
    return p != NULL ? p->waiter : NULL;
}

/* Makes the first in line the heir, and returns it if it must be woken (after unlocking). */
static ns_waiter *
choose_heir(ns_mutex *m)
{
    ns_waiter *w = m->heir = first_in_line(m);
    if (w != NULL) {
        ns_store(&w->state, HEIR, NS_RELEASE);
    }
    return w;
}

static void
wake(ns_waiter *w)
{
    if (w != NULL) {
        ns_unpark(&w->state, 1);
    }
}

/* What the word is when the lock is free. */
static uint32_t
free_word(const ns_mutex *m)
{
    return m->queue.head != NULL ? QUEUED : 0;
}

/* Leaves the line without an heir, as the lock is held. Returns what the word needs. */
static uint32_t
sleep_on(ns_mutex *m, int64_t now)
{
    m->heir = NULL;
    m->asked = stamp(now);
    return VISIT;
}

/* Frees the lock or passes it on. With the queue locked, which it unlocks; and VISIT set, so
 * that nobody else can change the word. */
static void
release(ns_mutex *m)
{
    ns_waiter *granted = NULL, *woken = NULL;
    const int64_t now = ns_now();
    const bool asleep = m->heir == NULL;
    ns_waiter *next = asleep ? first_in_line(m) : m->heir;
    if (asleep && next != NULL) {
        note_wait(m, (int64_t)(stamp(now) - m->asked) << 10);
    }
    if (next != NULL && (asleep ? now - next->since >= NS_MUTEX_STARVING : next->impatient)) {
        /* Hand over: the word stays LOCKED and nobody can barge. */
        granted = asleep ? next : NULL;
        ns_waitq_remove(&m->queue, &next->place);
        uint32_t word = LOCKED | free_word(m);
        if (is_slow(m)) {
            word |= sleep_on(m, now);
        }
        else {
            woken = choose_heir(m);
        }
        ns_store(&m->word, word, NS_RELAXED);
        ns_store(&next->state, GRANTED, NS_RELEASE);
    }
    else {
        if (asleep) {
            woken = choose_heir(m);
        }
        ns_store(&m->word, free_word(m), NS_RELEASE);
    }
    ns_waitq_unlock(&m->queue);
    wake(granted);
    wake(woken);
}

bool
ns_mutex_unlock_slow(ns_mutex *m)
{
    lock_queue(m);
    if (!(ns_or(&m->word, VISIT, NS_RELAXED) & LOCKED)) { /* another release was first */
        ns_waitq_unlock(&m->queue);
        return false;
    }
    release(m);
    return true;
}

void
ns_mutex_reset(ns_mutex *m)
{
    lock_queue(m);
    ns_or(&m->word, VISIT, NS_RELAXED);
    release(m);
}

/* With the queue locked and w linked. */
static void
await_turn(ns_mutex *m, ns_waiter *w)
{
    w->place.away = false;
    w->heir_since = 0;
    if (m->heir == NULL && first_in_line(m) == w &&
        !(is_slow(m) && (ns_or(&m->word, sleep_on(m, ns_now()), NS_RELAXED) & LOCKED))) {
        m->heir = w;
    }
    ns_store(&w->state, m->heir == w ? HEIR : PARKED, NS_RELAXED);
}

static void
join_queue(ns_mutex *m, ns_waiter *w)
{
    ns_waitq_push(&m->queue, &w->place);
    ns_or(&m->word, QUEUED, NS_RELAXED);
}

static bool
enter_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    w->since = ns_now();
    w->place.waiter = w;
    lock_queue(m);
    join_queue(m, w);
    await_turn(m, w);
    ns_waitq_unlock(&m->queue);
    return false;
}

/* The heir takes the lock if it is free, and leaves the queue. Under the queue's lock, so that no
 * release can hand it a lock that it has just taken. */
static bool
take(ns_mutex *m, ns_waiter *w)
{
    ns_waiter *woken = NULL;
    lock_queue(m);
    bool taken = m->heir == w && ns_mutex_try_lock(m);
    if (taken) {
        ns_waitq_remove(&m->queue, &w->place);
        m->heir = NULL;
        if (m->queue.head == NULL) {
            ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
        }
        else if (!(ns_or(&m->word, sleep_on(m, ns_now()), NS_RELAXED) & LOCKED)) {
            woken = choose_heir(m); /* somebody has released it already: any thread may */
        }
    }
    ns_waitq_unlock(&m->queue);
    wake(woken);
    return taken;
}

/* Asks the next release for the lock, if w is still the heir. */
static void
demand(ns_mutex *m, ns_waiter *w)
{
    lock_queue(m);
    if (m->heir == w) {
        w->impatient = true;
        ns_or(&m->word, VISIT, NS_RELAXED);
    }
    ns_waitq_unlock(&m->queue);
}

/* The heir goes to sleep, unless the lock has come free. It gives up its demand: a hand-over to a
 * sleeper leaves the lock idle for a wake-up, so only a starving one gets that. */
static void
nap(ns_mutex *m, ns_waiter *w)
{
    lock_queue(m);
    if (m->heir == w && (ns_or(&m->word, VISIT, NS_RELAXED) & LOCKED)) {
        w->impatient = false;
        ns_store(&w->state, PARKED, NS_RELAXED);
        sleep_on(m, ns_now());
    }
    ns_waitq_unlock(&m->queue);
    w->heir_since = 0;
}

/* Whether the lock is free and stays so. A thread that takes and releases it in a loop leaves it
 * free half of the time; taking it then would move the lock and its data to and fro at
 * every turn. */
static bool
is_idle(ns_mutex *m)
{
    int64_t since = 0;
    while (!ns_mutex_is_locked(m)) {
        int64_t now = ns_now();
        if (since == 0) {
            since = now;
        }
        else if (now - since >= NS_MUTEX_IDLE) {
            return true;
        }
        ns_pause();
    }
    return false;
}

/* Lets the owner run undisturbed; looks at nothing but our own node. */
static void
stand_back(ns_waiter *w, int64_t until)
{
    while (ns_load(&w->state, NS_RELAXED) == HEIR && ns_now() < until) {
        ns_pause();
    }
}

/* Until the lock is ours (true), or w is heir no more or the deadline has passed (false). With
 * `awake` false it only looks whether the lock is free. */
static bool
look(ns_mutex *m, ns_waiter *w, int64_t deadline, bool awake, bool *waited)
{
    int64_t gap = SHORTEST_GAP;
    for (; ns_load(&w->state, NS_ACQUIRE) == HEIR; *waited = true) {
        if ((!awake || is_idle(m)) && take(m, w)) {
            return true;
        }
        int64_t now = ns_now();
        if (now >= deadline) {
            return false;
        }
        if (!awake || now - w->heir_since >= NS_MUTEX_NAP) {
            nap(m, w);
            return false;
        }
        if (!w->impatient &&
            (now - w->heir_since >= NS_MUTEX_PATIENCE || now - w->since >= NS_MUTEX_STARVING)) {
            demand(m, w);
        }
        stand_back(w, now + gap < deadline ? now + gap : deadline);
        gap = gap < LONGEST_GAP ? 2 * gap : gap;
    }
    return false;
}

/* The same, awake if that may pay and not too many threads spin. (On one processor none may: nothing
 * happens there while we look.) */
static bool
reign(ns_mutex *m, ns_waiter *w, int64_t deadline)
{
    if (w->heir_since == 0) {
        w->heir_since = ns_now();
    }
    const int64_t since = w->heir_since;
    const bool awake = !is_slow(m) && ns_spin_begin();
    bool waited = false; /* else the lock was free at once, which tells nothing */
    const bool taken = look(m, w, deadline, awake, &waited);
    if (awake) {
        ns_spin_end();
        if (waited && (taken || ns_load(&w->state, NS_RELAXED) != HEIR)) {
            note_wait(m, ns_now() - since);
        }
    }
    return taken;
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    ns_mutex *m = object;
    for (;;) {
        switch (ns_load(&w->state, NS_ACQUIRE)) {
        case GRANTED:
            return NS_SERVED;
        case HEIR:
            if (reign(m, w, deadline)) {
                return NS_SERVED;
            }
            if (deadline != NS_FOREVER && ns_load(&w->state, NS_RELAXED) == HEIR &&
                ns_now() >= deadline) {
                return NS_TIMED_OUT;
            }
            break;
        default:
            switch (ns_park(&w->state, PARKED, deadline)) {
            case NS_PARK_TIMED_OUT:
                return NS_TIMED_OUT;
            case NS_PARK_INTERRUPTED:
                return NS_INTERRUPTED;
            case NS_PARK_WOKEN:
                break;
            }
        }
    }
}

/* With the queue locked: w will not look at the word for a while. Returns whom to wake. */
static ns_waiter *
resign(ns_mutex *m, ns_waiter *w)
{
    w->impatient = false;
    return m->heir == w ? choose_heir(m) : NULL;
}

static bool
leave_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    ns_waiter *woken = NULL;
    lock_queue(m);
    bool granted = ns_load(&w->state, NS_ACQUIRE) == GRANTED;
    if (!granted) {
        w->place.away = true;
        woken = resign(m, w);
    }
    ns_waitq_unlock(&m->queue);
    wake(woken);
    return granted;
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    lock_queue(m);
    if (!ns_waitq_has(&w->place)) { /* its queue was left behind by a fork */
        join_queue(m, w);
    }
    await_turn(m, w);
    ns_waitq_unlock(&m->queue);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    ns_waiter *woken = NULL;
    lock_queue(m);
    bool granted = ns_load(&w->state, NS_ACQUIRE) == GRANTED;
    if (!granted) {
        ns_waitq_remove(&m->queue, &w->place);
        woken = resign(m, w);
        if (m->queue.head == NULL) {
            ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
        }
    }
    ns_waitq_unlock(&m->queue);
    wake(woken);
    return granted;
}

static void
undo_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_mutex_unlock(object);
}

const struct ns_wait_steps ns_mutex_steps = {
    .enter = enter_step,
    .wait = wait_step,
    .leave = leave_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
    .links = true,
};
