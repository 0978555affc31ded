#include "rwmutex.h"

/* Times in nanoseconds; tests shrink them. */
#ifndef NS_RW_READER_SPIN
#define NS_RW_READER_SPIN 5000 /* a reader hopes that the writer is done soon, outside the queue */
#endif
#ifndef NS_RW_WAITER_SPIN
#define NS_RW_WAITER_SPIN 15000 /* then, and a writer at once, in the queue */
#endif
/* After a writer had to close cells, readers use them again after so many meetings for each. */
#ifndef NS_RW_REOPEN_MEETINGS
#define NS_RW_REOPEN_MEETINGS 9
#endif

#define OPEN ((uint64_t)NS_RW_OPEN)
#define WRITER ((uint64_t)NS_RW_WRITER)
#define SLOW ((uint64_t)NS_RW_SLOW)
#define UNIT ((uint64_t)NS_RW_UNIT)
#define CELL_OPEN ((uint64_t)NS_RW_CELL_OPEN)
#define CELL_UNIT ((uint64_t)NS_RW_CELL_UNIT)

/* ---- One word, the base or a cell: what is done to it without the queue's lock ---- */

static bool
enter(_Atomic uint64_t *word, uint64_t open, uint64_t unit)
{
    uint64_t value = ns_load(word, NS_RELAXED);
    while (value & open) {
        if (ns_cas(word, &value, value + unit, NS_ACQUIRE)) {
            return true;
        }
    }
    return false;
}

static bool
leave(_Atomic uint64_t *word, uint64_t open, uint64_t unit)
{
    uint64_t value = ns_load(word, NS_RELAXED);
    while (value & open && value >= unit) {
        if (ns_cas(word, &value, value - unit, NS_RELEASE)) {
            return true;
        }
    }
    return false;
}

/* ---- Counting; all of it with the queue locked. ---- */

static ns_cell_table *
spread_of(ns_rwmutex *m)
{
    return ns_load(&m->spread, NS_RELAXED);
}

static uint64_t
base_count(ns_rwmutex *m)
{
    const uint64_t word = ns_load(&m->base, NS_RELAXED);
    return word & WRITER ? 0 : word / UNIT;
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
    uint64_t readers = base_count(m) + m->granted;
    uint32_t count = 0;
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(spread_of(m), &i)) != NULL; count++) {
        readers += ns_and(&cell->word, ~CELL_OPEN, NS_ACQUIRE) / CELL_UNIT;
    }
    if (count != 0) {
        ns_store(&m->last_closed, count, NS_RELAXED);
    }
    m->readers = readers;
    m->closed = true;
}

/* Opens what may be open: everything if there is no writer, and no waiter. */
static void
thaw(ns_rwmutex *m)
{
    ns_cell_table *spread = spread_of(m);
    uint64_t word = ns_load(&m->base, NS_RELAXED);
    const bool nobody_queued = m->queue.head == NULL && m->readers_queue.head == NULL;
    if (nobody_queued && m->granted == 0) {
        word &= ~SLOW;
        if (spread == NULL) {
            m->closed = false; /* a writer's fast release opens the base */
        }
    }
    if (nobody_queued && !(word & WRITER)) {
        ns_cell *cell;
        for (uint32_t i = 0; m->closed && (cell = ns_cells_next(spread, &i)) != NULL;) {
            ns_or(&cell->word, CELL_OPEN, NS_RELEASE);
        }
        m->closed = false;
        word |= spread == NULL ? OPEN : 0;
    }
    ns_store(&m->base, word, NS_RELEASE);
}

static void
lock_queue(ns_rwmutex *m)
{
    if (ns_unlikely(ns_waitq_lock(&m->queue))) {
        m->readers_queue.head = m->readers_queue.tail = NULL;
        m->closed = false; /* perhaps half closed or half open: do it again */
        ns_store(&m->spread, ns_load(&m->cells, NS_RELAXED), NS_RELEASE);
        freeze(m);
        close_cells(m);
        if (ns_rwmutex_is_write_locked(m)) {
            m->granted = m->downgraded = 0; /* a downgrade that was cut short has not been */
            m->readers = 0;
            ns_store(&m->spread, NULL, NS_RELAXED);
        }
        thaw(m);
    }
}

static void
lock(void *object)
{
    lock_queue(object);
    freeze(object);
}

/* ---- Serving ---- */

static void
admit_readers(ns_rwmutex *m, ns_wakes *wakes)
{
    ns_place *p;
    while ((p = ns_waitq_first(&m->readers_queue)) != NULL) {
        m->granted++;
        m->readers++;
        ns_grant(&m->readers_queue, p, wakes);
    }
}

/* The writer of this tag gets in: all is closed, and no reader is in. Until they have met often
 * enough, readers use the base word, and writers need not look at the cells. */
static void
admit_writer(ns_rwmutex *m, uint64_t tag)
{
    ns_or(&m->base, tag | WRITER, NS_RELAXED);
    if (spread_of(m) != NULL) {
        ns_store(&m->spread, NULL, NS_RELAXED);
        ns_store(&m->base_meetings, 0, NS_RELAXED);
    }
}

/* Lets the readers in if no writer waits, else the first writer if no reader is in. */
static void
serve(void *object, ns_wakes *wakes)
{
    ns_rwmutex *m = object;
    if (ns_rwmutex_is_write_locked(m)) {
        return;
    }
    ns_place *writer = ns_waitq_first(&m->queue);
    if (writer == NULL) {
        admit_readers(m, wakes);
        return;
    }
    close_cells(m);
    if (m->readers == 0) {
        admit_writer(m, writer->waiter->tag);
        ns_grant(&m->queue, writer, wakes);
    }
}

static void
unlock(void *object)
{
    ns_rwmutex *m = object;
    thaw(m);
    ns_waitq_unlock(&m->queue);
}

static void
serve_and_unlock(ns_rwmutex *m, ns_wakes *wakes)
{
    serve(m, wakes);
    unlock(m);
    ns_wake(wakes);
}

/* ---- Readers ---- */

static bool
is_free_for_readers(ns_rwmutex *m)
{
    return !ns_rwmutex_is_write_locked(m) && ns_waitq_first(&m->queue) == NULL;
}

/* Counts a meeting in the base. True: the readers should use cells. */
static bool
meet_in_base(ns_rwmutex *m)
{
    uint32_t closed = ns_load(&m->last_closed, NS_RELAXED);
    return ns_cells_meet(&m->base_meetings,
                         closed == 0 ? NS_CELL_MEETINGS : NS_RW_REOPEN_MEETINGS * closed);
}

/* Takes a read hold without the queue's lock. False if that cannot be; *join is then whether the
 * reader should have a cell, and *met the thread that it met in its place (slot + 1). */
static bool
read_at_once(ns_rwmutex *m, uint32_t slot, bool *join, uint32_t *met)
{
    ns_cell_table *spread = ns_load(&m->spread, NS_ACQUIRE);
    if (spread == NULL) {
        /* Open, and yet the first attempt failed: there is another reader, or just was. Unless it
         * failed because of SLOW. */
        uint64_t word = ns_load(&m->base, NS_RELAXED);
        *join = word & OPEN && word != (OPEN | SLOW) && meet_in_base(m) && slot != NS_NO_SLOT;
        return !*join && enter(&m->base, OPEN, UNIT);
    }
    ns_cell *cell = slot != NS_NO_SLOT ? ns_cells_at(spread, slot) : NULL;
    if (cell == NULL) {
        *join = slot != NS_NO_SLOT;
        return false;
    }
    if (!ns_cell_is_of(cell, slot) && ns_load(&cell->word, NS_RELAXED) & CELL_OPEN) {
        *met = ns_load(&cell->user, NS_RELAXED);
        *join = ns_cell_meet(cell, slot);
    }
    return !*join && enter(&cell->word, CELL_OPEN, CELL_UNIT);
}

/* Gives the calling thread a cell, which readers use from now on. With the queue locked and no
 * writer in. Without memory the base goes on serving. */
static void
spread(ns_rwmutex *m, ns_cells_offer *offer, uint32_t slot)
{
    ns_cell *cell = ns_cells_accept(&m->cells, offer, slot);
    ns_cell_table *table = ns_load(&m->cells, NS_RELAXED), *before = spread_of(m);
    if (before == NULL) {
        ns_store(&m->base_meetings, 0, NS_RELAXED);
        close_cells(m); /* they are, and are to be opened */
    }
    else if (!m->closed && cell != NULL) {
        ns_or(&cell->word, CELL_OPEN, NS_RELEASE);
    }
    if (table != before) {
        ns_store(&m->spread, table, NS_RELEASE);
    }
}

/* Adds a hold for the calling thread, in its cell if it has one. */
static void
add_reader(ns_rwmutex *m, uint32_t slot)
{
    ns_cell_table *spread = spread_of(m);
    ns_cell *cell = spread != NULL && slot != NS_NO_SLOT ? ns_cells_at(spread, slot) : NULL;
    if (cell != NULL) {
        ns_add(&cell->word, CELL_UNIT, NS_ACQUIRE);
    }
    else {
        ns_add(&m->base, UNIT, NS_RELAXED);
    }
    m->readers++;
}

bool
ns_rwmutex_try_read_slow(ns_rwmutex *m)
{
    const uint32_t slot = ns_slot();
    ns_cells_offer offer = {0};
    uint32_t met = 0;
    bool join = false;
    if (read_at_once(m, slot, &join, &met)) {
        return true;
    }
    if (join) { /* before locking, for it allocates */
        offer = ns_cells_make_offer(&m->cells, slot, met);
    }
    lock(m);
    bool free = is_free_for_readers(m);
    if (free) {
        if (join) {
            spread(m, &offer, slot);
        }
        add_reader(m, slot);
    }
    serve_and_unlock(m, &(ns_wakes){0});
    ns_cells_free_offer(&offer);
    return free;
}

/* Takes one hold out of a cell; false if it has none. */
static bool
remove_from(_Atomic uint64_t *word)
{
    uint64_t value = ns_load(word, NS_RELAXED);
    while (value >= CELL_UNIT) {
        if (ns_cas(word, &value, value - CELL_UNIT, NS_RELEASE)) {
            return true;
        }
    }
    return false;
}

/* Takes one of the holds away, from wherever it may be; false if there are none. */
static bool
remove_reader(ns_rwmutex *m)
{
    ns_cell_table *spread = spread_of(m);
    ns_cell *cell = spread != NULL ? ns_cells_at(spread, ns_slot()) : NULL;
    bool removed = cell != NULL && remove_from(&cell->word);
    if (!removed && m->granted > m->downgraded) {
        m->granted--;
        removed = true;
    }
    if (!removed && base_count(m) != 0) {
        ns_sub(&m->base, UNIT, NS_RELEASE);
        removed = true;
    }
    if (!removed) { /* it is in another thread's cell: close all cells, and look */
        close_cells(m);
        for (uint32_t i = 0; !removed && (cell = ns_cells_next(spread, &i)) != NULL;) {
            removed = remove_from(&cell->word);
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

/* Gives a hold back without the queue's lock: where the thread took it, which may have been in a
 * cell that it had before the table grew. */
static bool
leave_at_once(ns_rwmutex *m)
{
    ns_cell_table *table = ns_load(&m->spread, NS_ACQUIRE);
    if (table == NULL) {
        return leave(&m->base, OPEN, UNIT);
    }
    const uint32_t slot = ns_slot();
    for (; table != NULL; table = table->older) {
        ns_cell *cell = ns_cells_at(table, slot);
        if (cell != NULL && leave(&cell->word, CELL_OPEN, CELL_UNIT)) {
            return true;
        }
    }
    return false;
}

bool
ns_rwmutex_read_unlock_slow(ns_rwmutex *m)
{
    if (leave_at_once(m)) {
        return true;
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
    ns_cell_table *spread = spread_of(m);
    ns_cell *cell;
    bool held = base_count(m) != 0 || m->granted != 0;
    for (uint32_t i = 0; !held && (cell = ns_cells_next(spread, &i)) != NULL;) {
        held = ns_load(&cell->word, NS_RELAXED) >= CELL_UNIT;
    }
    if (!held && spread != NULL) {
        /* A reader may have entered a cell that was already looked at, while another left one that
         * was not: stop them, and count. */
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
    ns_and(&m->base, OPEN | SLOW, NS_RELEASE);
    admit_readers(m, wakes);
}

bool
ns_rwmutex_try_write_slow(ns_rwmutex *m)
{
    lock(m);
    bool taken = is_free_for_readers(m);
    if (taken) {
        close_cells(m);
        taken = m->readers == 0;
    }
    if (taken) {
        admit_writer(m, ns_thread_tag());
    }
    serve_and_unlock(m, &(ns_wakes){0});
    return taken;
}

bool
ns_rwmutex_write_unlock_slow(ns_rwmutex *m)
{
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    bool held = true;
    lock(m);
    if (ns_rwmutex_is_write_locked(m)) {
        const uint64_t writer = ns_rwmutex_writer(m);
        if (writer != 0 && writer != ns_thread_tag()) {
            ns_store(&m->foreign, true, NS_RELAXED);
        }
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
    ns_wakes wakes;
    ns_wakes_init(&wakes);
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
    ns_wakes wakes;
    ns_wakes_init(&wakes);
    lock(m);
    close_cells(m);
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(spread_of(m), &i)) != NULL;) {
        ns_store(&cell->word, 0, NS_RELAXED);
    }
    ns_store(&m->spread, NULL, NS_RELAXED);
    ns_and(&m->base, SLOW, NS_RELAXED);
    m->granted = m->downgraded = m->readers = 0;
    serve_and_unlock(m, &wakes);
}

void
ns_rwmutex_init(ns_rwmutex *m)
{
    ns_store(&m->base, OPEN, NS_RELEASE);
}

void
ns_rwmutex_destroy(ns_rwmutex *m)
{
    ns_cells_free(&m->cells);
}

size_t
ns_rwmutex_extra_size(ns_rwmutex *m)
{
    return ns_cells_size(&m->cells);
}

/* ---- Waiting: readers and writers each have a queue. ---- */

static void
take_back_read(void *object, ns_place *p, ns_wakes *wakes)
{
    (void)p, (void)wakes;
    remove_reader(object);
}

static void
take_back_write(void *object, ns_place *p, ns_wakes *wakes)
{
    (void)p;
    if (ns_rwmutex_is_write_locked(object)) { /* else it was reset meanwhile */
        admit_after_writer(object, wakes);
    }
}

static const struct ns_line read_line = {
    .queue = offsetof(ns_rwmutex, readers_queue),
    .guard = offsetof(ns_rwmutex, queue),
    .spin = NS_RW_WAITER_SPIN,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
    .take_back = take_back_read,
};

static const struct ns_line write_line = {
    .queue = offsetof(ns_rwmutex, queue),
    .guard = offsetof(ns_rwmutex, queue),
    .spin = NS_RW_WAITER_SPIN,
    .lock = lock,
    .serve = serve,
    .unlock = unlock,
    .take_back = take_back_write,
};

/* Whether a reader might get in without lining up. */
static bool
looks_open(ns_rwmutex *m)
{
    ns_cell_table *spread = ns_load(&m->spread, NS_ACQUIRE);
    if (spread == NULL) {
        return ns_load(&m->base, NS_RELAXED) & OPEN;
    }
    ns_cell *cell = ns_cells_at(spread, ns_slot());
    return cell != NULL ? ns_load(&cell->word, NS_RELAXED) & CELL_OPEN
                        : !(ns_load(&m->base, NS_RELAXED) & SLOW);
}

/* Writers are brief as a rule, and lining up costs a reader two visits to the queue and perhaps a
 * wake-up. Bounded, so that readers do line up, and are in the next phase, if writers follow each
 * other. */
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
    return read_by_spinning(object) || ns_line_enter(&read_line, object, w);
}

static bool
enter_write_step(void *object, ns_waiter *w)
{
    w->tag = ns_load(&w->state, NS_RELAXED) == NS_CALLED ? 0 : ns_thread_tag();
    return ns_line_enter(&write_line, object, w);
}

static void
undo_read_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_rwmutex_read_unlock(object);
}

static void
undo_write_step(void *object, ns_waiter *w)
{
    (void)w;
    ns_rwmutex_write_unlock(object);
}

uint64_t
ns_rwmutex_writer(ns_rwmutex *m)
{
    const uint64_t word = ns_load(&m->base, NS_RELAXED);
    return word & WRITER ? word & ~(UNIT - 1) : 0;
}

size_t
ns_rwmutex_waiters(ns_rwmutex *m, bool writes)
{
    lock_queue(m);
    const size_t count = ns_waitq_count(writes ? &m->queue : &m->readers_queue);
    ns_waitq_unlock(&m->queue);
    return count;
}

static uint64_t
holder(void *object, bool *foreign)
{
    *foreign = ns_load(&((ns_rwmutex *)object)->foreign, NS_RELAXED);
    return ns_rwmutex_writer(object);
}

const struct ns_wait_steps ns_rwmutex_read_steps = {
    .operation = "RWMutexReader.acquire",
    .holder = holder,
    .enter = enter_read_step,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .give_way = ns_line_give_way,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_read_step,
    .links = true,
};

const struct ns_wait_steps ns_rwmutex_write_steps = {
    .operation = "RWMutexWriter.acquire",
    .holder = holder,
    .enter = enter_write_step,
    .wait = ns_line_wait,
    .leave = ns_line_stay,
    .give_way = ns_line_give_way,
    .rejoin = ns_line_rejoin,
    .cancel = ns_line_cancel,
    .undo = undo_write_step,
    .links = true,
};
