/* The core's fast paths on many threads, for the tool that counts transfers of cache lines: ./dev
 * transfers --core.
 *
 * Arguments: the operation, the number of threads, and the numbers of operations that each thread
 * does while the tool counts (few, many, and few again). The tool sees the calls of lseek: see
 * tools/transfers/plugin.c. At the end the program prints where its memory is mapped.
 */
#include <string.h>
#include <unistd.h>

#include "harness.h"
#include "pool.h"

enum { WARM_UP = 300, CAPACITY = 1024, PERMITS = 1000 };

static ns_counter counter;
static ns_mutex mutex;
static ns_rwmutex rwmutex;
static ns_semaphore semaphore;
static ns_waitgroup group;
static ns_event event;
static ns_pool pool;
static ns_channel channel;
static ns_channel_slot slots[CAPACITY];

/* Takes longer than a thread keeps a line, so that other threads come while this one holds what it
 * took. */
static void
work(void)
{
    for (int i = 0; i < 50; i++) {
        __asm__ volatile("");
    }
}

static void
add_to_counter(void *mine)
{
    (void)mine;
    ns_counter_add(&counter, 1);
}

static void
hold_mutex(void *mine)
{
    (void)mine;
    while (!ns_mutex_try_lock(&mutex)) {
        ns_pause();
    }
    work();
    ns_mutex_unlock(&mutex);
}

static void
read_under_rwmutex(void *mine)
{
    (void)mine;
    CHECK(ns_rwmutex_try_read(&rwmutex));
    work();
    ns_rwmutex_read_unlock(&rwmutex);
}

static void
hold_permit(void *mine)
{
    (void)mine;
    CHECK(ns_semaphore_try(&semaphore, 1));
    work();
    CHECK(ns_semaphore_release(&semaphore, 1));
}

static void
add_and_done(void *mine)
{
    (void)mine;
    CHECK(ns_waitgroup_add(&group, 1) == NS_ADDED);
    work();
    CHECK(ns_waitgroup_add(&group, -1) == NS_ADDED);
}

static void
check_event(void *mine)
{
    (void)mine;
    CHECK(!ns_event_is_set(&event));
}

static void
get_and_put(void *mine)
{
    void *item = ns_pool_get(&pool);
    work();
    CHECK(ns_pool_put(&pool, item ? item : mine) == NULL);
}

static void
send_and_receive(void *mine)
{
    void *item;
    while (ns_channel_try_send(&channel, mine) != NS_CHANNEL_DONE) {
    }
    work();
    while (ns_channel_try_receive(&channel, &item) != NS_CHANNEL_DONE) {
    }
}

static const struct {
    const char *name;
    void (*run)(void *mine);
} operations[] = {
    {"counter", add_to_counter},
    {"event", check_event},
    {"rwmutex", read_under_rwmutex},
    {"pool", get_and_put},
    {"mutex", hold_mutex},
    {"semaphore", hold_permit},
    {"waitgroup", add_and_done},
    {"channel", send_and_receive},
};

static void (*operation)(void *mine);
static int few, many;

static void
signal_tool(int n)
{
    lseek(-1, 0x7472616e73660000 + n, 0);
}

static void
measure(int i)
{
    char mine[64];
    (void)i;
    for (int n = 0; n < WARM_UP; n++) {
        operation(mine);
        work();
    }
    signal_tool(0);
    const int sizes[] = {WARM_UP, few, many, few};
    for (int phase = 0; phase < 4; phase++) {
        for (int n = 0; n < sizes[phase]; n++) {
            operation(mine);
            work();
        }
        signal_tool(0);
    }
}

static void
print_maps(void)
{
    char line[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    while (fgets(line, sizeof(line), maps)) {
        fputs(line, stdout);
    }
    fclose(maps);
}

int
main(int argc, char **argv)
{
    CHECK(argc == 5);
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        if (strcmp(argv[1], operations[i].name) == 0) {
            operation = operations[i].run;
        }
    }
    int threads = atoi(argv[2]);
    few = atoi(argv[3]);
    many = atoi(argv[4]);
    CHECK(operation != NULL && threads > 0);
    init_core();
    CHECK(ns_pool_init(&pool, -1));
    ns_rwmutex_init(&rwmutex);
    ns_semaphore_init(&semaphore, PERMITS, PERMITS);
    ns_channel_init(&channel, slots, CAPACITY);
    signal_tool(threads);
    run_threads(threads, measure);
    signal_tool(0xffff);
    print_maps();
    return 0;
}
