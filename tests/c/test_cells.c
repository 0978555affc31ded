/* Tests core/memory/cells.h: threads that meet get different places, cells stay where they are, and
 * everything works without memory.
 */
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

/* Which allocations fail: those whose number has its bit set. */
static _Atomic uint64_t failing;
static _Atomic int allocations;

static void *
allocate(size_t alignment, size_t size)
{
    int number = ns_add(&allocations, 1, NS_RELAXED);
    bool fails = number < 64 && ns_load(&failing, NS_RELAXED) >> number & 1;
    return fails ? NULL : aligned_alloc(alignment, size);
}

#define aligned_alloc allocate
#include "memory/cells.c"
#undef aligned_alloc

static ns_cells cells;
static ns_lock cells_lock;

static ns_cell *
join(uint32_t slot, uint32_t met)
{
    ns_cells_offer offer = ns_cells_make_offer(&cells, slot, met);
    ns_lock_take(&cells_lock);
    ns_cell *cell = ns_cells_accept(&cells, &offer, slot);
    ns_lock_release(&cells_lock);
    ns_cells_free_offer(&offer);
    return cell;
}

static ns_cell *
at(uint32_t slot)
{
    return ns_cells_at(ns_load(&cells, NS_ACQUIRE), slot);
}

static uint32_t
size(void)
{
    ns_cell_table *table = ns_load(&cells, NS_ACQUIRE);
    return table != NULL ? table->mask + 1 : 0;
}

static void
start_with_limit(uint32_t limit)
{
    ns_cells_free(&cells);
    ns_store(&cells, NULL, NS_RELAXED);
    ns_slots_mask = limit - 1;
    ns_store(&failing, 0, NS_RELAXED);
    ns_store(&allocations, 0, NS_RELAXED);
}

static void
check_threads_that_meet_get_places(void)
{
    start_with_limit(512);
    CHECK(ns_cells_size(&cells) == 0);
    ns_cell *first = join(3, 2 + 1);
    CHECK(size() == 4 && first == at(3) && at(2) == NULL && ns_cell_is_of(first, 3));
    CHECK(ns_cells_size(&cells) == NS_LINE + sizeof(ns_cell));
    CHECK(join(3, 0) == first && size() == 4); /* it has one */
    CHECK(join(2, 0) == at(2) && at(2) != first);
    CHECK(!ns_cell_is_of(first, 7));

    ns_cell_table *small = ns_load(&cells, NS_ACQUIRE);
    /* the table grows at once to the size that parts the two */
    ns_cell *other = join(3 + 128, 3 + 1);
    CHECK(size() == 256 && other == at(3 + 128) && at(3) == first && at(2) != NULL);
    CHECK(ns_load(&cells, NS_ACQUIRE)->older == small && ns_cells_at(small, 3) == first);
    CHECK(ns_load(&first->user, NS_RELAXED) == 3 + 1);

    uint32_t count = 0;
    for (uint32_t i = 0; ns_cells_next(ns_load(&cells, NS_ACQUIRE), &i) != NULL;) {
        count++;
    }
    CHECK(count == 3 && ns_cells_size(&cells) == 3 * sizeof(ns_cell) + NS_LINE + table_bytes(256));

    ns_cell *taken = join(3 + 256, 3 + 1); /* in the same place in all tables up to this size */
    CHECK(size() == 512 && taken == at(3 + 256) && taken != first);
    CHECK(join(3 + 512, 3 + 1) == first); /* the table cannot grow: shared */
    CHECK(size() == 512 && ns_cell_is_of(first, 3 + 512) && !ns_cell_is_of(first, 3));
    for (int i = 1; i < NS_CELL_MEETINGS; i++) {
        CHECK(!ns_cell_meet(first, 3) && ns_cell_is_of(first, 3));
    }
    CHECK(ns_cell_meet(first, 3 + 512) && join(3 + 512, 3 + 1) == first);
    /* from now on it belongs to NS_CELL_ANYBODY */
    CHECK(ns_cell_is_of(first, 3) && ns_cell_is_of(first, 3 + 512));
    CHECK(join(3, 0) == first && ns_cell_is_of(first, 3 + 512));
}

/* A cell's user has another place now. A thread whose place is the cell's takes it over. */
static void
check_cell_is_taken_over(void)
{
    start_with_limit(64);
    ns_cell *cell = join(7, 0);
    CHECK(size() == 4 && cell == at(7));
    CHECK(join(3, 7 + 1) == cell && size() == 8 && ns_cell_is_of(cell, 3));
    CHECK(at(7) == NULL && join(7, 0) != cell && at(3) == cell);
}

/* A limit below the usual size of a first table. */
static void
check_limit_of_one_cell(void)
{
    start_with_limit(1);
    ns_cell *cell = join(5, 9 + 1);
    CHECK(size() == 1 && cell != NULL && join(9, 5 + 1) == cell);
}

static void
check_late_offers_are_refused(void)
{
    start_with_limit(64);
    CHECK(join(1, 0) == at(1));
    ns_cells_offer late = ns_cells_make_offer(&cells, 5, 1 + 1); /* it wants 8 places, */
    CHECK(late.table != NULL && late.cell != NULL);
    CHECK(join(17, 1 + 1) == at(17) && size() == 32); /* and finds 32 */
    CHECK(ns_cells_accept(&cells, &late, 5) == at(5) && size() == 32 && at(5) != at(1));
    CHECK(late.table != NULL && late.cell == NULL);
    ns_cells_free_offer(&late);

    late = ns_cells_make_offer(&cells, 6, 0);
    ns_cell *cell = join(6, 0); /* as a second thread with the same place would */
    CHECK(late.cell != NULL && ns_cells_accept(&cells, &late, 6) == cell && late.cell != NULL);
    ns_cells_free_offer(&late);
}

static void
check_without_memory_cells_are_shared(void)
{
    start_with_limit(64);
    ns_store(&failing, 1, NS_RELAXED); /* no first table */
    CHECK(join(1, 0) == NULL && size() == 0);
    start_with_limit(64);
    ns_store(&failing, 2, NS_RELAXED); /* a table but no cell */
    CHECK(join(1, 0) == NULL && size() == 4 && at(1) == NULL);
    CHECK(join(1, 0) == at(1) && at(1) != NULL);
    ns_store(&allocations, 0, NS_RELAXED);
    ns_store(&failing, 1, NS_RELAXED); /* no larger table: shared for a while */
    ns_cell *cell = at(1);
    ns_store(&cell->meetings, NS_CELL_MEETINGS, NS_RELAXED);
    CHECK(join(5, 1 + 1) == cell && size() == 4 && ns_cell_is_of(cell, 5));
    CHECK(ns_load(&cell->meetings, NS_RELAXED) == 0 && !ns_cell_is_of(cell, 1));
    ns_store(&allocations, 0, NS_RELAXED);
    ns_store(&failing, 2, NS_RELAXED); /* a larger table, but no cell */
    CHECK(join(5, 1 + 1) == NULL && size() == 8 && at(1) == cell && at(5) == NULL);
    CHECK(join(5, 0) == at(5) && at(5) != NULL);
}

/* ---- Threads ---- */

enum { THREADS = 8 };
static _Atomic int running;
static pthread_barrier_t step;

/* Threads add as to a counter, with slots that share a place in small tables, while another thread
 * sums. */
static void
add_through_growth(int i)
{
    enum { ADDS = 400 };
    if (i == 0) {
        uint64_t seen = 0;
        while (ns_load(&running, NS_RELAXED) != 0) {
            uint64_t sum = 0;
            ns_cell *cell;
            ns_cell_table *table = ns_load(&cells, NS_ACQUIRE);
            for (uint32_t k = 0; (cell = ns_cells_next(table, &k)) != NULL;) {
                sum += ns_load(&cell->word, NS_RELAXED);
            }
            CHECK(sum >= seen && sum <= (THREADS - 1) * ADDS);
            seen = sum;
        }
        return;
    }
    uint32_t slot = (uint32_t)i * 8 % 64 + (uint32_t)i / 8;
    for (int n = 0; n < ADDS; n++) {
        ns_cell_table *table = ns_load(&cells, NS_ACQUIRE);
        ns_cell *cell = table != NULL ? ns_cells_at(table, slot) : NULL;
        if (cell == NULL) {
            cell = join(slot, 0);
        }
        else if (!ns_cell_is_of(cell, slot)) {
            uint32_t met = ns_load(&cell->user, NS_RELAXED);
            cell = ns_cell_meet(cell, slot) ? join(slot, met) : cell;
        }
        while (cell == NULL) { /* the table grew, and the offer had no cell */
            cell = join(slot, 0);
        }
        ns_add(&cell->word, 1, NS_RELAXED);
    }
    ns_sub(&running, 1, NS_RELAXED);
}

static uint64_t
total(void)
{
    uint64_t sum = 0;
    ns_cell *cell;
    for (uint32_t i = 0; (cell = ns_cells_next(ns_load(&cells, NS_ACQUIRE), &i)) != NULL;) {
        sum += ns_load(&cell->word, NS_RELAXED);
    }
    return sum;
}

/* A thread that makes neither a table nor a cell sees both whole. Only their contents show it. */
static void
make_or_look(int i)
{
    if (i == 0) {
        join(1, 0);
        join(5, 1 + 1);
        return;
    }
    ns_cell *cell;
    do {
        ns_cell_table *table = ns_load(&cells, NS_ACQUIRE);
        cell = table != NULL ? ns_cells_at(table, 5) : NULL;
        CHECK(cell == NULL || ns_load(&cell->word, NS_RELAXED) == 0);
    } while (cell == NULL || !ns_cell_is_of(cell, 5));
}

/* Threads whose slots share a place in small tables notice it one by one. */
static void
find_own_place(int i)
{
    uint32_t slot = (uint32_t)i << 3;
    pthread_barrier_wait(&step);
    ns_cell *cell = join(slot, 0);
    for (int n = 0; n < 4 * NS_CELL_MEETINGS || cell == NULL || !ns_cell_is_of(cell, slot); n++) {
        ns_cell *now = at(slot);
        if (now == NULL) {
            now = join(slot, 0);
        }
        else if (!ns_cell_is_of(now, slot)) {
            uint32_t met = ns_load(&now->user, NS_RELAXED);
            now = ns_cell_meet(now, slot) ? join(slot, met) : now;
        }
        cell = now;
        sched_yield();
    }
}

/* The child of a fork in the middle of growth can use what it finds, and let it grow. */
static void
fork_amid_growth(int i)
{
    if (i == 0) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            uint64_t before = total();
            for (uint32_t slot = 0; slot < 64; slot++) {
                ns_cell *cell = join(slot, 0);
                CHECK(cell != NULL);
                ns_add(&cell->word, 1, NS_RELAXED);
            }
            _exit(total() == before + 64 ? 0 : 1);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        return;
    }
    uint32_t slot = (uint32_t)i * 8;
    for (int n = 0; n < 50; n++) {
        uint32_t met = (uint32_t)(i * 8 % 56) + 8 + 1;
        ns_cell *cell = join(slot, met);
        if (cell != NULL) { /* else the table grew meanwhile */
            ns_add(&cell->word, 1, NS_RELAXED);
        }
    }
}

int
main(void)
{
    init_core();
    check_threads_that_meet_get_places();
    check_cell_is_taken_over();
    check_limit_of_one_cell();
    check_late_offers_are_refused();
    check_without_memory_cells_are_shared();

    for (int n = 0; n < 24; n++) {
        start_with_limit(n % 3 == 0 ? 4 : 64);
        ns_store(&running, THREADS - 1, NS_RELAXED);
        run_threads(THREADS, add_through_growth);
        CHECK(total() == (THREADS - 1) * 400);
    }
    for (int n = 0; n < 50; n++) {
        start_with_limit(64);
        run_threads(2, make_or_look);
    }
    pthread_barrier_init(&step, NULL, THREADS);
    for (int n = 0; n < 20; n++) {
        start_with_limit(64);
        run_threads(THREADS, find_own_place);
    }
    for (int n = 0; n < 10; n++) {
        start_with_limit(64);
        run_threads(4, fork_amid_growth);
    }
    start_with_limit(64);
    puts("cells: ok");
    return 0;
}
