#include "rwmutex.h"

#include <stdlib.h>
#include <string.h>

/* Times in nanoseconds; tests shrink them. */
#ifndef NS_RW_READER_SPIN
#define NS_RW_READER_SPIN 5000 /* a reader hopes that the writer is done soon, outside the queue */
#endif
#ifndef NS_RW_WAITER_SPIN
#define NS_RW_WAITER_SPIN 15000 /* then, and a writer at once, in the queue */
#endif

#define BORN ((uint64_t)NS_RW_BORN)
#define OPEN ((uint64_t)NS_RW_OPEN)
#define WRITER ((uint64_t)NS_RW_WRITER)
#define SLOW ((uint64_t)NS_RW_SLOW)
#define SPREAD ((uint64_t)NS_RW_SPREAD)
#define UNIT ((uint64_t)NS_RW_UNIT)
#define CELL_OPEN ((uint64_t)NS_RW_CELL_OPEN)
#define CELL_UNIT ((uint64_t)NS_RW_CELL_UNIT)

/* ---- Counting; all of it with the queue locked. ---- */

static ns_rwcell *
cells_of(ns_rwmutex *m)
{
    return ns_load(&m->cells, NS_RELAXED);
}

static uint64_t
base_count(ns_rwmutex *m)
{
    return ns_load(&m->base, NS_RELAXED) / UNIT;
}

/* Stops the fast paths through the base word. */
static void
freeze(ns_rwmutex *m)
{
    uint64_t word = ns_load(&m->base, NS_RELAXED);
    while (!ns_cas(&m->base, &word, (word & ~OPEN) | SLOW, NS_ACQUIRE)) {
    }
}

/* Stops the fast paths through the cells as well, and counts. */
static void
close_cells(ns_rwmutex *m)
{
    if (m->closed) {
        return;
    }
    ns_rwcell *cells = cells_of(m);
    uint64_t readers = base_count(m) + m->granted;
    for (uint32_t i = 0; i < m->used; i++) {
        readers += ns_and(&cells[i].word, ~CELL_OPEN, NS_ACQUIRE) / CELL_UNIT;
    }
    m->readers = readers;
    m->closed = true;
}

/* Opens what may be open: everything if there is no writer, and nobody is in line. */
static void
thaw(ns_rwmutex *m)
{
    ns_rwcell *cells = cells_of(m);
    uint64_t word = ns_load(&m->base, NS_RELAXED) | (cells != NULL ? SPREAD : 0);
    const bool nobody_queued = m->queue.head == NULL && m->readers_queue.head == NULL;
    if (nobody_queued && m->granted == 0) {
        word &= ~SLOW;
        if (!(word & SPREAD)) {
            m->closed = false; /* a writer's fast release opens the base cell */
        }
    }
    if (nobody_queued && !(word & WRITER)) {
        for (uint32_t i = 0; m->closed && i < m->used; i++) {
            ns_or(&cells[i].word, CELL_OPEN, NS_RELEASE);
        }
        m->closed = false;
        word |= cells == NULL ? OPEN : 0;
    }
    ns_store(&m->base, word, NS_RELEASE);
}

static void
lock_queue(ns_rwmutex *m)
{
    if (ns_unlikely(ns_waitq_lock(&m->queue))) {
        m->readers_queue.head = m->readers_queue.tail = NULL;
        m->closed = false; /* perhaps half closed or half open: do it again */
        if (ns_rwmutex_is_write_locked(m)) {
            m->granted = m->downgraded = 0; /* a downgrade that was cut short has not been */
        }
        freeze(m);
        close_cells(m);
        thaw(m);
    }
}

static void
lock(ns_rwmutex *m)
{
    lock_queue(m);
    freeze(m);
}

/* ---- Serving ---- */

static void
grant_read(ns_rwmutex *m, ns_waiter *w, ns_wakes *wakes)
{
    m->granted++;
    m->readers++;
    ns_grant(&m->readers_queue, w, wakes);
}

static void
admit_readers(ns_rwmutex *m, ns_wakes *wakes)
{
    ns_waiter *w;
    while ((w = ns_waitq_first(&m->readers_queue)) != NULL) {
        grant_read(m, w, wakes);
    }
}

/* Serves who can be, opens what may be open, lets go of the queue, and wakes. */
static void
serve_and_unlock(ns_rwmutex *m, ns_wakes *wakes)
{
    if (!ns_rwmutex_is_write_locked(m)) {
        ns_waiter *writer = ns_waitq_first(&m->queue);
        if (writer == NULL) {
            admit_readers(m, wakes);
        }
        else {
            close_cells(m);
            if (m->readers == 0) {
                ns_or(&m->base, WRITER, NS_RELAXED);
                ns_grant(&m->queue, writer, wakes);
            }
        }
    }
    thaw(m);
    ns_waitq_unlock(&m->queue);
    ns_wake(wakes);
}

/* ---- Readers ---- */

static bool
is_free_for_readers(ns_rwmutex *m)
{
    return !ns_rwmutex_is_write_locked(m) && ns_waitq_first(&m->queue) == NULL;
}

/* Makes the table, once two readers meet. Before locking, for it allocates. Without memory the
 * slow path serves. */
static void
spread(ns_rwmutex *m)
{
    if (ns_load(&m->cells, NS_RELAXED) != NULL || base_count(m) == 0) {
        return;
    }
    size_t size = ((size_t)ns_slots_mask + 1) * sizeof(ns_rwcell);
    ns_rwcell *fresh = aligned_alloc(NS_CACHE_LINE, size), *current = NULL;
    if (fresh != NULL) {
        memset(fresh, 0, size);
        if (!ns_cas(&m->cells, &current, fresh, NS_RELEASE)) {
            free(fresh);
        }
    }
}

/* Adds a hold for the calling thread, in its cell if that can be open. */
static void
add_reader(ns_rwmutex *m)
{
    ns_rwcell *cells = ns_load(&m->cells, NS_ACQUIRE);
    if (cells == NULL || m->closed) {
        if (m->closed || base_count(m) != 0) {
            m->granted++;
            m->readers++;
        }
        else {
            ns_add(&m->base, UNIT, NS_RELAXED);
        }
        return;
    }
    uint32_t mine = ns_slot() & ns_slots_mask;
    while (m->used <= mine) {
        uint32_t next = m->used++; /* first: a cell that is open must be known to be used */
        ns_or(&cells[next].word, CELL_OPEN, NS_RELEASE);
    }
    ns_add(&cells[mine].word, CELL_UNIT, NS_ACQUIRE);
}

bool
ns_rwmutex_try_read_slow(ns_rwmutex *m)
{
    if (!ns_rwmutex_is_born(m)) {
        return false;
    }
    spread(m);
    lock(m);
    bool free = is_free_for_readers(m);
    if (free) {
        add_reader(m);
    }
    serve_and_unlock(m, &(ns_wakes){0});
    return free;
}

/* Takes one hold out of a cell; false if it has none. */
static bool
remove_from(_Atomic uint64_t *cell)
{
    uint64_t word = ns_load(cell, NS_RELAXED);
    while (word >= CELL_UNIT) {
        if (ns_cas(cell, &word, word - CELL_UNIT, NS_RELEASE)) {
            return true;
        }
    }
    return false;
}

/* Takes one of the holds away, from wherever it may be; false if there are none. */
static bool
remove_reader(ns_rwmutex *m)
{
    ns_rwcell *cells = cells_of(m);
    const uint32_t mine = ns_slot() & ns_slots_mask;
    bool removed = mine < m->used && remove_from(&cells[mine].word);
    if (!removed && m->granted > m->downgraded) {
        m->granted--;
        removed = true;
    }
    if (!removed && base_count(m) != 0) {
        ns_sub(&m->base, UNIT, NS_RELEASE);
        removed = true;
    }
    if (!removed) { /* another thread's, then: stop them all, and look */
        close_cells(m);
        for (uint32_t i = 0; i < m->used && !removed; i++) {
            removed = remove_from(&cells[i].word);
        }
    }
    if (!removed && m->downgraded != 0) { /* the only ones left */
        m->downgraded--;
        m->granted--;
        removed = true;
    }
    m->readers -= removed;
    return removed;
}

bool
ns_rwmutex_read_unlock_slow(ns_rwmutex *m)
{
    if (!ns_rwmutex_is_born(m)) {
        return false;
    }
    lock(m);
    bool held = remove_reader(m);
    serve_and_unlock(m, &(ns_wakes){0});
    return held;
}

bool
ns_rwmutex_is_read_locked(ns_rwmutex *m)
{
    lock_queue(m);
    ns_rwcell *cells = cells_of(m);
    bool held = base_count(m) != 0 || m->granted != 0;
    for (uint32_t i = 0; !held && i < m->used; i++) {
        held = ns_load(&cells[i].word, NS_RELAXED) >= CELL_UNIT;
    }
    if (!held && m->used != 0) { /* one may have come behind us as another left ahead: stop them */
        freeze(m);
        close_cells(m);
        held = m->readers != 0;
        thaw(m);
    }
    ns_waitq_unlock(&m->queue);
    return held;
}

/* ---- Writers ---- */

/* A writer goes: all readers waiting now get in before the next one. */
static void
admit_after_writer(ns_rwmutex *m, ns_wakes *wakes)
{
    ns_and(&m->base, ~WRITER, NS_RELEASE);
    admit_readers(m, wakes);
}

bool
ns_rwmutex_try_write_slow(ns_rwmutex *m)
{
    if (!ns_rwmutex_is_born(m)) {
        return false;
    }
    lock(m);
    bool taken = is_free_for_readers(m);
    if (taken) {
        close_cells(m);
        taken = m->readers == 0;
    }
    if (taken) {
        ns_or(&m->base, WRITER, NS_RELAXED);
    }
    serve_and_unlock(m, &(ns_wakes){0});
    return taken;
}

bool
ns_rwmutex_write_unlock_slow(ns_rwmutex *m)
{
    if (!ns_rwmutex_is_born(m)) {
        return false;
    }
    ns_wakes wakes = {0};
    bool held = true;
    lock(m);
    if (ns_rwmutex_is_write_locked(m)) {
        admit_after_writer(m, &wakes);
    }
    else if (m->downgraded != 0) {
        m->downgraded--;
        m->granted--;
        m->readers--;
    }
    else {
        held = false;
    }
    serve_and_unlock(m, &wakes);
    return held;
}

bool
ns_rwmutex_downgrade(ns_rwmutex *m)
{
    ns_wakes wakes = {0};
    lock(m);
    bool held = ns_rwmutex_is_write_locked(m);
    if (held) {
        close_cells(m);
        m->granted++;
        m->readers++;
        m->downgraded++;
        admit_after_writer(m, &wakes);
    }
    serve_and_unlock(m, &wakes);
    return held;
}

void
ns_rwmutex_reset(ns_rwmutex *m)
{
    ns_wakes wakes = {0};
    lock(m);
    close_cells(m);
    for (uint32_t i = 0; i < m->used; i++) {
        ns_store(&cells_of(m)[i].word, 0, NS_RELAXED);
    }
    ns_and(&m->base, BORN | SLOW | SPREAD, NS_RELAXED);
    m->granted = m->downgraded = m->readers = 0;
    serve_and_unlock(m, &wakes);
}

bool
ns_rwmutex_init(ns_rwmutex *m)
{
    uint64_t unborn = 0;
    return ns_cas(&m->base, &unborn, BORN | OPEN, NS_RELEASE);
}

void
ns_rwmutex_destroy(ns_rwmutex *m)
{
    free(cells_of(m));
}

size_t
ns_rwmutex_extra_size(ns_rwmutex *m)
{
    return cells_of(m) == NULL ? 0 : ((size_t)ns_slots_mask + 1) * sizeof(ns_rwcell);
}

/* ---- Waiting; `amount` of a node tells which side it waits for. ---- */

enum { READ, WRITE };

static ns_waitq *
queue_of(ns_rwmutex *m, const ns_waiter *w)
{
    return w->amount == READ ? &m->readers_queue : &m->queue;
}

static void
line_up(ns_rwmutex *m, ns_waiter *w)
{
    ns_wakes wakes = {0};
    lock(m);
    if (!ns_is_granted(w) && !ns_waitq_has(w)) { /* new, or its queue was left behind by a fork */
        ns_waitq_push(queue_of(m, w), w);
    }
    w->away = false;
    serve_and_unlock(m, &wakes);
}

/* Whether a reader might get in without lining up. */
static bool
looks_open(ns_rwmutex *m)
{
    ns_rwcell *cells = ns_load(&m->cells, NS_ACQUIRE);
    return cells == NULL ? ns_load(&m->base, NS_RELAXED) & OPEN
                         : ns_load(&cells[ns_slot() & ns_slots_mask].word, NS_RELAXED) & CELL_OPEN;
}

/* Writers are brief as a rule; whoever lines up is two visits to the queue and perhaps a wake-up
 * slower. Bounded, so that readers do line up, and are in the next phase, if writers follow each other. */
static bool
read_by_spinning(ns_rwmutex *m)
{
    bool taken = false;
    if (ns_spin_begin()) {
        for (int64_t end = ns_now() + NS_RW_READER_SPIN; !taken && ns_now() < end; ns_pause()) {
            taken = looks_open(m) && ns_rwmutex_try_read(m);
        }
        ns_spin_end();
    }
    return taken;
}

static bool
enter_read_step(void *object, ns_waiter *w)
{
    w->amount = READ;
    if (read_by_spinning(object)) {
        return true;
    }
    line_up(object, w);
    return ns_is_granted(w);
}

static bool
enter_write_step(void *object, ns_waiter *w)
{
    w->amount = WRITE;
    line_up(object, w);
    return ns_is_granted(w);
}

static enum ns_wait_result
wait_step(void *object, ns_waiter *w, int64_t deadline)
{
    (void)object;
    return ns_await_grant(w, deadline, NS_RW_WAITER_SPIN);
}

static bool
leave_step(void *object, ns_waiter *w)
{
    (void)object;
    return ns_is_granted(w);
}

static void
give_way_step(void *object, ns_waiter *w)
{
    ns_rwmutex *m = object;
    ns_wakes wakes = {0};
    lock(m);
    w->away = true;
    if (ns_is_granted(w)) {
        ns_store(&w->state, NS_WAITING, NS_RELAXED);
        ns_waitq_push_front(queue_of(m, w), w);
        if (w->amount == READ) {
            remove_reader(m);
        }
        else if (ns_rwmutex_is_write_locked(m)) {
            admit_after_writer(m, &wakes);
        }
    }
    serve_and_unlock(m, &wakes);
}

static bool
cancel_step(void *object, ns_waiter *w)
{
    ns_rwmutex *m = object;
    ns_wakes wakes = {0};
    lock(m);
    bool granted = ns_is_granted(w);
    ns_waitq_remove(queue_of(m, w), w);
    serve_and_unlock(m, &wakes);
    return granted;
}

static void
rejoin_step(void *object, ns_waiter *w)
{
    line_up(object, w);
}

static void
undo_step(void *object, ns_waiter *w)
{
    if (w->amount == READ) {
        ns_rwmutex_read_unlock(object);
    }
    else {
        ns_rwmutex_write_unlock(object);
    }
}

const struct ns_wait_steps ns_rwmutex_read_steps = {
    .enter = enter_read_step,
    .wait = wait_step,
    .leave = leave_step,
    .give_way = give_way_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
};

const struct ns_wait_steps ns_rwmutex_write_steps = {
    .enter = enter_write_step,
    .wait = wait_step,
    .leave = leave_step,
    .give_way = give_way_step,
    .rejoin = rejoin_step,
    .cancel = cancel_step,
    .undo = undo_step,
};
