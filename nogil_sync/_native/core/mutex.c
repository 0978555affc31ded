#include "mutex.h"

#include "waiting/grant.h"

/* Times are in nanoseconds. Tests shrink them, so that the rare paths are taken. */
#ifndef NS_MUTEX_STARVING
#define NS_MUTEX_STARVING 1000000 /* The contract: a waiter of this age is served next. */
#endif
#ifndef NS_MUTEX_BARGING
#define NS_MUTEX_BARGING 30000 /* For this long an heir lets other threads barge. */
#endif
#ifndef NS_MUTEX_AWAKE
#define NS_MUTEX_AWAKE 100000 /* For this long an heir stays awake. */
#endif
#ifndef NS_MUTEX_IDLE
#define NS_MUTEX_IDLE 500 /* A lock that stays free for this long is not used in a loop. */
#endif
#ifndef NS_MUTEX_LONG
#define NS_MUTEX_LONG 50000 /* A wait of this length costs more awake than asleep. */
#endif
#define SLOW 4u     /* From this slowness on no waiter stays awake. */
#define MAX_SLOWNESS 16u
#define MIN_GAP 1000 /* Between two polls of the heir; it doubles up to MAX_GAP. */
#define MAX_GAP 8000

#define LOCKED NS_MUTEX_LOCKED
#define QUEUED NS_MUTEX_QUEUED
#define VISIT NS_MUTEX_VISIT

/* The state of a node. It changes under the queue's lock only. */
enum {
    PARKED = NS_WAITING,  /* asleep on the state */
    HEIR = NS_ASLEEP,     /* awake, polls the word */
    GRANTED = NS_GRANTED, /* owns the lock, is unlinked */
    CALLED = NS_CALLED,   /* has no thread, and is called once it owns the lock */
};

static void
lock_queue(ns_mutex *m)
{
    if (ns_unlikely(ns_waitq_lock(&m->queue))) {
        m->heir = NULL;
        ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
    }
}

/* ---- How long the lock is held: an estimate, which races may blur ---- */

/* Whether holders keep the lock for long. Then the first in line sleeps until a release. */
static bool
is_slow(ns_mutex *m)
{
    return ns_load(&m->slowness, NS_RELAXED) >= SLOW;
}

/* Records how long a waiter waited for a release. Long waits count twice: a waiter that stays awake
 * through one spends more than a sleep would have cost, and short waits occur by chance even if the
 * lock is held for long. */
static void
note_wait(ns_mutex *m, int64_t waited)
{
    const unsigned slowness = ns_load(&m->slowness, NS_RELAXED);
    if (waited >= NS_MUTEX_LONG) {
        ns_store(&m->slowness,
                 (uint16_t)(slowness + 2 <= MAX_SLOWNESS ? slowness + 2 : MAX_SLOWNESS),
                 NS_RELAXED);
    }
    else if (slowness > 0) {
        ns_store(&m->slowness, (uint16_t)(slowness - 1), NS_RELAXED);
    }
}

/* The clock in units of 1024 ns. It wraps. */
static uint32_t
coarse(int64_t now)
{
    return (uint32_t)(now >> 10);
}

/* ---- Passing the lock on ---- */

/* The waiter that is first in line, or NULL. The queue must be locked. */
static ns_waiter *
first_in_line(const ns_mutex *m)
{
    const ns_place *p = ns_waitq_first(&m->queue);
    return p != NULL ? p->waiter : NULL;
}

static bool
is_called(const ns_waiter *w)
{
    return w != NULL && ns_load(&w->state, NS_RELAXED) == CALLED;
}

/* Makes the first in line, which is not called, the heir. Returns it if there is one: the caller
 * must have it woken. */
static ns_waiter *
choose_heir(ns_mutex *m)
{
    ns_waiter *w = m->heir = first_in_line(m);
    if (w != NULL) {
        ns_store(&w->state, HEIR, NS_RELEASE);
    }
    return w;
}

/* Has the thread of w woken once the queue is unlocked. */
static void
wake_later(const ns_waiter *w, ns_wakes *wakes)
{
    if (w != NULL) {
        wakes->words[wakes->count++] = &w->state;
    }
}

/* Tells w that it owns the lock. It is unlinked, and may be freed from here on. */
static void
grant(ns_waiter *w, ns_wakes *wakes)
{
    switch (ns_swap(&w->state, GRANTED, NS_RELEASE)) {
    case PARKED:
        wake_later(w, wakes);
        break;
    case CALLED:
        ns_wakes_call(wakes, w);
        break;
    default: /* the heir is awake */
        break;
    }
}

static void
unlock_queue(ns_mutex *m, ns_wakes *wakes)
{
    ns_waitq_unlock(&m->queue);
    ns_wake(wakes);
}

/* The word of a free lock. The queue must be locked. */
static uint64_t
free_word(const ns_mutex *m)
{
    return m->queue.head != NULL ? QUEUED : 0;
}

/* Removes the heir while the lock is held. Returns the bits to set in the word, so that the next
 * release chooses an heir. The queue must be locked. */
static uint64_t
drop_heir(ns_mutex *m, int64_t now)
{
    m->heir = NULL;
    m->heirless_since = coarse(now);
    return VISIT;
}

/* For a waiter that is called and first in line, while there is no heir. Takes the lock for it, and
 * unlinks it. False: the lock is held, and its release will visit the queue. */
static bool
take_for(ns_mutex *m, ns_waiter *w)
{
    if (ns_or(&m->word, drop_heir(m, ns_now()), NS_RELAXED) & LOCKED ||
        !ns_mutex_try_lock_for(m, w->tag)) {
        return false;
    }
    ns_waitq_remove(&m->queue, &w->place);
    if (m->queue.head == NULL) {
        ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
    }
    return true;
}

/* The heir is gone, and the lock may be free. */
static void
pass_on(ns_mutex *m, ns_wakes *wakes)
{
    ns_waiter *w = first_in_line(m);
    if (!is_called(w)) {
        wake_later(choose_heir(m), wakes);
    }
    else if (take_for(m, w)) {
        grant(w, wakes);
    }
}

/* Whether the release at `now` must hand the lock to `next`: to a waiter that is called, one that
 * starves, or an heir that demands it. `asleep`: there is no heir, and `next` is first in line. */
static bool
is_due(const ns_waiter *next, bool asleep, int64_t now)
{
    if (next == NULL) {
        return false;
    }
    return asleep ? is_called(next) || now - next->since >= NS_MUTEX_STARVING : next->impatient;
}

/* Frees the lock or hands it off. The caller holds the queue's lock, which this unlocks, and has
 * set VISIT, so that no other thread can change the word. */
static void
release(ns_mutex *m)
{
    ns_wakes wakes;
    ns_waiter *woken = NULL;
    const int64_t now = ns_now();
    const bool asleep = m->heir == NULL;
    ns_waiter *next = asleep ? first_in_line(m) : m->heir;
    if (asleep && next != NULL) {
        note_wait(m, (int64_t)(coarse(now) - m->heirless_since) << 10);
    }
    ns_wakes_init(&wakes);
    if (is_due(next, asleep, now)) { /* hand it off; it stays LOCKED, so nobody can barge */
        ns_waitq_remove(&m->queue, &next->place);
        uint64_t word = next->tag | LOCKED | free_word(m);
        if (is_slow(m) || is_called(first_in_line(m))) {
            word |= drop_heir(m, now);
        }
        else {
            woken = choose_heir(m);
        }
        ns_store(&m->word, word, NS_RELAXED);
        grant(next, &wakes);
    }
    else {
        /* Nobody is due: free the lock for whichever thread takes it first. An awake heir will find
         * it; if all waiters sleep, wake one. */
        if (asleep) {
            woken = choose_heir(m);
        }
        ns_store(&m->word, free_word(m), NS_RELEASE);
    }
    wake_later(woken, &wakes);
    unlock_queue(m, &wakes);
}

/* Notes a release of a held word by a thread that does not hold the lock. */
static void
note_release(ns_mutex *m, uint64_t word)
{
    const uint64_t holder = word & ~NS_MUTEX_FLAGS;
    if (holder != 0 && holder != ns_thread_tag()) {
        ns_store(&m->foreign, true, NS_RELAXED);
    }
}

bool
ns_mutex_unlock_slow(ns_mutex *m)
{
    uint64_t word = ns_load(&m->word, NS_RELAXED);
    while (!(word & VISIT)) {
        if (!(word & LOCKED)) {
            return false;
        }
        if (ns_cas(&m->word, &word, word & QUEUED, NS_RELEASE)) { /* the fast path, by another */
            note_release(m, word);
            return true;
        }
    }
    lock_queue(m);
    word = ns_or(&m->word, VISIT, NS_RELAXED);
    if (!(word & LOCKED)) { /* another release was first */
        ns_waitq_unlock(&m->queue);
        return false;
    }
    note_release(m, word);
    release(m);
    return true;
}

size_t
ns_mutex_waiters(ns_mutex *m)
{
    lock_queue(m);
    const size_t count = ns_waitq_count(&m->queue);
    ns_waitq_unlock(&m->queue);
    return count;
}

void
ns_mutex_reset(ns_mutex *m)
{
    lock_queue(m);
    ns_or(&m->word, VISIT, NS_RELAXED);
    release(m);
}

/* Makes w the heir, or has it sleep. The queue must be locked, and w linked. */
static void
await_turn(ns_mutex *m, ns_waiter *w)
{
    w->place.away = false;
    w->heir_since = 0;
    if (m->heir == NULL && first_in_line(m) == w &&
        !(is_slow(m) && (ns_or(&m->word, drop_heir(m, ns_now()), NS_RELAXED) & LOCKED))) {
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
    w->tag = is_called(w) ? 0 : ns_thread_tag();
    lock_queue(m);
    join_queue(m, w);
    bool served = false;
    if (!is_called(w)) {
        await_turn(m, w);
    }
    else if (first_in_line(m) == w && take_for(m, w)) {
        ns_store(&w->state, GRANTED, NS_RELAXED);
        served = true;
    }
    ns_waitq_unlock(&m->queue);
    return served;
}

/* If w is the heir and the lock is free: takes the lock and leaves the queue. It does so under the
 * queue's lock, so that no release can hand w a lock that w has just taken. */
static bool
take(ns_mutex *m, ns_waiter *w)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock_queue(m);
    bool taken = m->heir == w && ns_mutex_try_lock(m);
    if (taken) {
        ns_waitq_remove(&m->queue, &w->place);
        m->heir = NULL;
        if (m->queue.head == NULL) {
            /* The last waiter: the next release takes the fast path. */
            ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
        }
        /* Others wait, asleep: the next release must visit the queue and choose an heir. */
        else if (!(ns_or(&m->word, drop_heir(m, ns_now()), NS_RELAXED) & LOCKED)) {
            pass_on(m, &wakes); /* another thread has released the lock already */
        }
    }
    unlock_queue(m, &wakes);
    return taken;
}

/* Demands the lock from the next release, if w is still the heir. */
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

/* The heir goes to sleep, unless the lock has become free. It withdraws its demand: a hand-off to a
 * sleeper leaves the lock idle for a wake-up, so only a starving sleeper gets that. */
static void
sleep_as_heir(ns_mutex *m, ns_waiter *w)
{
    lock_queue(m);
    if (m->heir == w && (ns_or(&m->word, VISIT, NS_RELAXED) & LOCKED)) {
        w->impatient = false;
        ns_store(&w->state, PARKED, NS_RELAXED);
        drop_heir(m, ns_now());
    }
    ns_waitq_unlock(&m->queue);
    w->heir_since = 0;
}

/* Whether the lock is free and stays so. A thread that takes and releases it in a loop leaves it
 * free half of the time. Taking it then would move the lock and its data to another core at every
 * turn. */
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

/* Waits without disturbing the owner: it reads nothing but its own node. */
static void
watch_own_node(ns_waiter *w, int64_t until)
{
    while (ns_load(&w->state, NS_RELAXED) == HEIR && ns_now() < until) {
        ns_pause();
    }
}

/* Polls the lock. Returns true once w has taken it; false if w is no longer the heir, or went to
 * sleep, or the deadline has passed. With `awake` false it polls once and then goes to sleep. Sets
 * *waited if the lock was not free at once. */
static bool
poll(ns_mutex *m, ns_waiter *w, int64_t deadline, bool awake, bool *waited)
{
    int64_t gap = MIN_GAP;
    for (; ns_load(&w->state, NS_ACQUIRE) == HEIR; *waited = true) {
        if ((!awake || is_idle(m)) && take(m, w)) {
            return true;
        }
        int64_t now = ns_now();
        if (now >= deadline) {
            return false;
        }
        if (!awake || now - w->heir_since >= NS_MUTEX_AWAKE) {
            /* The holder takes long, or no more threads may spin. */
            sleep_as_heir(m, w);
            return false;
        }
        if (!w->impatient &&
            (now - w->heir_since >= NS_MUTEX_BARGING || now - w->since >= NS_MUTEX_STARVING)) {
            demand(m, w); /* it let others barge for long enough */
        }
        watch_own_node(w, now + gap < deadline ? now + gap : deadline);
        gap = gap < MAX_GAP ? 2 * gap : gap;
    }
    return false;
}

/* Polls the lock as heir: awake if that may pay and few enough threads spin, else once. (With one
 * processor no waiter stays awake: nothing happens while it polls.) */
static bool
wait_as_heir(ns_mutex *m, ns_waiter *w, int64_t deadline)
{
    if (w->heir_since == 0) {
        w->heir_since = ns_now();
    }
    const int64_t since = w->heir_since;
    const bool awake = !is_slow(m) && ns_spin_begin();
    bool waited = false; /* a lock that was free at once tells nothing about its holders */
    const bool taken = poll(m, w, deadline, awake, &waited);
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
            if (wait_as_heir(m, w, deadline)) {
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

/* Before w stops polling the word. The queue must be locked. */
static void
resign(ns_mutex *m, ns_waiter *w, ns_wakes *wakes)
{
    w->impatient = false;
    if (m->heir == w) {
        pass_on(m, wakes);
    }
}

static bool
leave_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock_queue(m);
    bool granted = ns_is_granted(w);
    if (!granted) {
        w->place.away = true;
        resign(m, w, &wakes);
    }
    unlock_queue(m, &wakes);
    return granted;
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    lock_queue(m);
    if (!ns_waitq_has(&w->place)) { /* a fork left the queue of this node behind */
        join_queue(m, w);
    }
    await_turn(m, w);
    ns_waitq_unlock(&m->queue);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    ns_mutex *m = object;
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock_queue(m);
    bool granted = ns_is_granted(w);
    if (!granted) {
        ns_waitq_remove(&m->queue, &w->place);
        resign(m, w, &wakes);
        if (m->queue.head == NULL) {
            ns_and(&m->word, ~(QUEUED | VISIT), NS_RELAXED);
        }
    }
    unlock_queue(m, &wakes);
    return granted;
}

static void
undo_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_mutex_unlock(object);
}

static uint64_t
holder(void *object, bool *foreign)
{
    *foreign = ns_mutex_is_foreign(object);
    return ns_mutex_holder(object);
}

#define STEPS(name)         \
    {.operation = (name),   \
     .holder = holder,      \
     .enter = enter_step,   \
     .wait = wait_step,     \
     .leave = leave_step,   \
     .rejoin = rejoin_step, \
     .cancel = cancel_step, \
     .undo = undo_step,     \
     .links = true}
const struct ns_wait_steps ns_mutex_steps = STEPS("Mutex.acquire");
const struct ns_wait_steps ns_rlock_steps = STEPS("RLock.acquire");
