// Counts cache-line transfers of a program that runs under qemu-x86_64, with a fixed schedule.
//
// A QEMU TCG plugin (API version 1, which QEMU 7.2 has). Debian packages no header for it, so the
// few functions that are used are declared here.
//
// What is counted. For each 64-byte line the plugin remembers which threads have accessed it since
// the last write. An access by a thread that has not, to a line that another thread wrote, is a
// transfer: on real processors the line would have to come from the other's cache. A write to a
// line that others have read since the last write is an upgrade: the line is there, but the others'
// copies must go.
//
// The schedule. Exactly one of the measured threads runs at any time. Each has a clock: an
// instruction takes one tick, a transfer or an upgrade `cost` ticks from when the line is free. The
// thread with the earliest clock runs until it is `slice` ticks ahead of the next one, or that long
// after it got a line. So the threads interleave as on processors of equal speed, and equally in
// each run. A thread that blocks in a system call leaves the schedule until the call returns, and
// is then `wake` ticks later.
//
// What the measured program tells, by lseek(file, WORD + n, 0), which for /dev/null or for no file
// at all does nothing else:
//   n = 0        in a measured thread: first, to wait for the others; then, that the next phase
//                begins; after the last phase, that this thread is not measured any more
//   n = 65535    write the results to the file
//   other n      the next n threads that call it with 0 are the measured ones
// Phase 0 is a warm-up, phases 1 and 2 are counted, and phase 3 keeps company to those that are
// slower.

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// ---- What is used of QEMU's interface, version 1 ----

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0 }; // flags of a callback: it looks at no register
enum { READS_AND_WRITES = 3 }; // which accesses a callback is for

typedef void block_translated(plugin_id, struct qemu_plugin_tb *);
typedef void block_executed(unsigned cpu, void *user);
typedef void memory_accessed(unsigned cpu, uint32_t what, uint64_t address, void *user);
typedef void call_entered(plugin_id, unsigned cpu, int64_t number, uint64_t, uint64_t, uint64_t,
                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
typedef void call_returned(plugin_id, unsigned cpu, int64_t number, int64_t result);
typedef void cpu_event(plugin_id, unsigned cpu);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, block_translated *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, block_executed *, int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_accessed *, int, int,
                                      void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, call_entered *);
void qemu_plugin_register_vcpu_syscall_ret_cb(plugin_id, call_returned *);
void qemu_plugin_register_vcpu_exit_cb(plugin_id, cpu_event *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
bool qemu_plugin_mem_is_store(uint32_t what);
unsigned qemu_plugin_mem_size_shift(uint32_t what);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

// ---- Options ----

static const char *out_path;
static uint64_t slice = 40, cost = 300, wake = 10000;
static int processors; // how many the program is told there are; 0: the truth

// ---- Threads ----

static const uint64_t WORD = 0x7472616e73660000;
enum { REPORT = 0xffff };
enum { MOST_CPUS = 4096, MOST = 256, PHASES = 4, FEW = 1, MANY = 2 };

typedef enum { OUTSIDE, RUNNABLE, BLOCKED } state;

typedef struct {
    _Atomic(bool) member; // measured, and scheduled here
    state state;
    bool holds; // the token: it is this thread's turn
    int number; // among the measured
    int phase;
    pid_t host; // its number on the host
    uint64_t clock;
    uint64_t debt; // ticks to be added to the clock at the end of its turn
    uint64_t futex; // the address at which it sleeps, or 0
    uint64_t wakes; // the address at which it wakes others
    uint64_t mask; // where it is told the processors that it may use
    cpu_set_t allowed;
    pthread_cond_t turn;
    struct {
        uint64_t instructions, accesses, transfers, upgrades, began;
    } at[PHASES + 1];
} thread;

static thread threads[MOST_CPUS];
static thread *members[MOST];
static int awaited, arrived, gone;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_here = PTHREAD_COND_INITIALIZER, came_back = PTHREAD_COND_INITIALIZER;
static thread *holder; // whose turn it is
static _Atomic uint64_t limit; // the clock at which the holder's turn ends
static _Atomic uint64_t progress; // turns so far

static void
await(pthread_cond_t *what, long milliseconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += milliseconds * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(what, &lock, &until);
}

// Gives the turn to the runnable thread that is furthest behind. Under the lock.
static void
choose(void)
{
    thread *first = NULL, *second = NULL;
    for (int i = 0; i < arrived; i++) {
        thread *t = members[i];
        if (t->state != RUNNABLE) {
            continue;
        }
        if (!first || t->clock < first->clock) {
            second = first;
            first = t;
        }
        else if (!second || t->clock < second->clock) {
            second = t;
        }
    }
    holder = first;
    progress++;
    if (first) {
        limit = second ? second->clock + slice : UINT64_MAX;
        first->holds = true;
        pthread_cond_signal(&first->turn);
    }
}

// The turn goes on; this thread waits for its next one, if it is still to run. Under the lock.
static void
yield_turn(thread *me)
{
    me->holds = false;
    me->clock += me->debt;
    me->debt = 0;
    if (holder == me) {
        holder = NULL;
        choose();
    }
}

// Whether the thread whose turn it is sleeps. (On a busy machine it may also just not get to run.)
static bool
holder_sleeps(void)
{
    char path[64], text[128] = "";
    if (!holder) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", holder->host);
    FILE *f = fopen(path, "r");
    if (f) {
        size_t n = fread(text, 1, sizeof(text) - 1, f);
        text[n] = 0;
        fclose(f);
    }
    const char *name_end = strrchr(text, ')');
    return name_end && !strncmp(name_end, ") S", 3);
}

// Waits for this thread's turn. Under the lock. False: nothing moves, as when QEMU wants all
// threads to stop in translated code for a moment; then this one must run on to where QEMU can stop
// it.
static bool
take_turn(thread *me)
{
    uint64_t seen = progress;
    int idle = 0;
    while (!me->holds && me->member) {
        await(&me->turn, 50);
        idle = progress == seen && holder_sleeps() ? idle + 1 : 0;
        seen = progress;
        if (idle >= 10) {
            return false;
        }
    }
    return true;
}

// A thread that was out of the schedule comes back, not earlier than it is now there. Under the
// lock.
static void
rejoin(thread *me)
{
    if (holder && me->clock < holder->clock) {
        me->clock = holder->clock;
    }
    me->clock += wake;
    me->state = RUNNABLE;
    me->futex = 0;
    pthread_cond_broadcast(&came_back);
    if (!holder) {
        choose();
    }
    else if (limit > me->clock + slice) {
        limit = me->clock + slice;
    }
}

static void
leave(thread *me)
{
    pthread_mutex_lock(&lock);
    if (me->member) {
        me->member = false;
        me->state = OUTSIDE;
        gone++;
        yield_turn(me);
    }
    pthread_mutex_unlock(&lock);
}

// ---- Lines ----

typedef struct {
    uint64_t line; // address / 64; 0: an empty place
    uint64_t seen[MOST / 64];
    uint64_t written; // the last address written to
    uint64_t busy; // until then it is on its way to someone
    int writer; // its number, or -1: nobody yet
} line;

typedef struct {
    uint64_t pc, address, written; // pc 0: an empty place
    uint64_t count;
    int phase;
    bool upgrade;
} record;

static line *lines;
static size_t line_room, line_count;
static record *records;
static size_t record_room, record_count;

static uint64_t
mix(uint64_t x)
{
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

// A table is open-addressed. The first word of an element is not 0; that of an empty place is.
typedef uint64_t hash_of_element(const void *element);

// The table with twice as many places (at first `few`), if it is half full.
static void *
grow(void *table, size_t count, size_t *room, size_t few, size_t size, hash_of_element *hash_of)
{
    if (2 * count < *room) {
        return table;
    }
    const size_t old_room = *room, mask = (old_room ? 2 * old_room : few) - 1;
    char *larger = calloc(mask + 1, size);
    for (size_t i = 0; i < old_room; i++) {
        const char *element = (char *)table + i * size;
        if (*(const uint64_t *)element) {
            size_t at = hash_of(element) & mask;
            while (*(uint64_t *)(larger + at * size)) {
                at = (at + 1) & mask;
            }
            memcpy(larger + at * size, element, size);
        }
    }
    free(table);
    *room = mask + 1;
    return larger;
}

static uint64_t
hash_of_line(const void *element)
{
    return mix(((const line *)element)->line);
}

static uint64_t
hash_of_record(const void *element)
{
    const record *r = element;
    return mix(r->pc ^ mix(r->address ^ mix(r->written)));
}

static line *
find_line(uint64_t number)
{
    lines = grow(lines, line_count, &line_room, 1 << 16, sizeof(line), hash_of_line);
    size_t at = mix(number) & (line_room - 1);
    while (lines[at].line != number) {
        if (!lines[at].line) {
            lines[at].line = number;
            lines[at].writer = -1;
            line_count++;
            break;
        }
        at = (at + 1) & (line_room - 1);
    }
    return &lines[at];
}

static void
note(int phase, uint64_t pc, uint64_t address, uint64_t written, bool upgrade)
{
    records = grow(records, record_count, &record_room, 1 << 14, sizeof(record), hash_of_record);
    const record wanted = {pc, address, written, 0, phase, upgrade};
    size_t at = hash_of_record(&wanted) & (record_room - 1);
    for (;; at = (at + 1) & (record_room - 1)) {
        record *r = &records[at];
        if (!r->pc) {
            *r = wanted;
            record_count++;
        }
        if (r->pc == pc && r->address == address && r->written == written && r->phase == phase &&
            r->upgrade == upgrade) {
            r->count++;
            return;
        }
    }
}

static void
access_line(thread *me, uint64_t address, bool store, uint64_t pc)
{
    line *l = find_line(address >> 6);
    uint64_t *word = &l->seen[me->number >> 6], bit = (uint64_t)1 << (me->number & 63);
    bool counted = me->phase == FEW || me->phase == MANY;
    bool comes = l->writer >= 0 && l->writer != me->number && !(*word & bit), upgrade = false;
    if (store && !comes) {
        for (int i = 0; i < MOST / 64; i++) {
            upgrade |= (l->seen[i] & (i == me->number >> 6 ? ~bit : ~(uint64_t)0)) != 0;
        }
    }
    if (comes || upgrade) {
        if (counted) {
            note(me->phase, pc, address, comes ? l->written : address, upgrade);
        }
        if (comes) {
            me->at[me->phase].transfers++;
        }
        else {
            me->at[me->phase].upgrades++;
        }
        // It has the line for a moment, so that what it does next with it takes no other transfer.
        // The time is charged at the end of its turn.
        if (!me->debt && limit > me->clock + slice) {
            limit = me->clock + slice;
        }
        uint64_t now = me->clock + me->debt;
        l->busy = (l->busy > now ? l->busy : now) + cost;
        me->debt = l->busy - me->clock;
    }
    if (store) {
        memset(l->seen, 0, sizeof(l->seen));
        l->writer = me->number;
        l->written = address;
    }
    *word |= bit;
}

// ---- Callbacks ----

static void
on_memory(unsigned cpu, uint32_t what, uint64_t address, void *user)
{
    thread *me = &threads[cpu % MOST_CPUS];
    if (!me->member || !me->holds) {
        return;
    }
    bool store = qemu_plugin_mem_is_store(what);
    uint64_t pc = (uint64_t)(uintptr_t)user;
    uint64_t last = address + ((uint64_t)1 << qemu_plugin_mem_size_shift(what)) - 1;
    me->at[me->phase].accesses++;
    access_line(me, address, store, pc);
    if (last >> 6 != address >> 6) {
        access_line(me, last, store, pc);
    }
}

static void
on_block(unsigned cpu, void *user)
{
    thread *me = &threads[cpu % MOST_CPUS];
    if (!me->member) {
        return;
    }
    if (!me->holds || me->clock >= limit) {
        pthread_mutex_lock(&lock);
        if (me->member && me->holds) {
            yield_turn(me);
        }
        bool turn = me->member && take_turn(me);
        pthread_mutex_unlock(&lock);
        if (!turn) {
            return;
        }
    }
    me->clock += (uintptr_t)user;
    me->at[me->phase].instructions += (uintptr_t)user;
}

static void
on_translation(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    size_t n = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, NO_REGISTERS, (void *)n);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        void *pc = (void *)(uintptr_t)qemu_plugin_insn_vaddr(insn);
        qemu_plugin_register_vcpu_mem_cb(insn, on_memory, NO_REGISTERS, READS_AND_WRITES, pc);
    }
}

static void
start(int n)
{
    pthread_mutex_lock(&lock);
    free(lines);
    free(records);
    lines = NULL;
    records = NULL;
    line_room = line_count = record_room = record_count = 0;
    awaited = n < MOST ? n : MOST;
    arrived = gone = 0;
    holder = NULL;
    pthread_mutex_unlock(&lock);
}

static void
report(void)
{
    FILE *f = fopen(out_path, "w");
    if (!f) {
        return;
    }
    for (int i = 0; i < arrived; i++) {
        for (int p = 0; p < PHASES; p++) {
            fprintf(f,
                    "thread %d %d %lu %lu %lu %lu %lu\n",
                    i,
                    p,
                    members[i]->at[p].instructions,
                    members[i]->at[p].accesses,
                    members[i]->at[p].transfers,
                    members[i]->at[p].upgrades,
                    members[i]->at[p + 1].began - members[i]->at[p].began);
        }
    }
    for (size_t i = 0; i < record_room; i++) {
        const record *r = &records[i];
        if (r->pc) {
            fprintf(f,
                    "%s %d %lx %lx %lx %lu\n",
                    r->upgrade ? "upgrade" : "transfer",
                    r->phase,
                    r->pc,
                    r->address,
                    r->written,
                    r->count);
        }
    }
    fclose(f);
}

static void
arrive(thread *me)
{
    pthread_mutex_lock(&lock);
    memset(me->at, 0, sizeof(me->at));
    me->number = arrived;
    me->host = (pid_t)syscall(SYS_gettid);
    me->phase = 0;
    me->clock = me->debt = 0;
    me->futex = 0;
    me->holds = false;
    me->state = RUNNABLE;
    members[arrived++] = me;
    sched_getaffinity(0, sizeof(me->allowed), &me->allowed);
    static int processor;
    if (me->number == 0) {
        processor = sched_getcpu();
    }
    // Only one runs at a time, so passing the turn on is quickest on one processor.
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    sched_setaffinity(0, sizeof(one), &one);
    if (arrived == awaited) {
        for (int i = 0; i < arrived; i++) {
            members[i]->member = true;
        }
        choose();
        pthread_cond_broadcast(&all_here);
    }
    else {
        while (!me->member) {
            pthread_cond_wait(&all_here, &lock);
        }
    }
    pthread_mutex_unlock(&lock);
}

// True: the call cannot block, or only for an instant.
static bool
quick(int64_t number, uint64_t op)
{
    switch (number) {
    case SYS_futex:
        return (op & 127) == 1 || (op & 127) == 10 || (op & 127) == 5; // the kinds of wake
    case SYS_mmap:
    case SYS_mprotect:
    case SYS_munmap:
    case SYS_mremap:
    case SYS_madvise:
    case SYS_brk:
    case SYS_rt_sigaction:
    case SYS_rt_sigprocmask:
    case SYS_getpid:
    case SYS_gettid:
    case SYS_clock_gettime:
    case SYS_gettimeofday:
    case SYS_sched_getaffinity:
    case SYS_getcpu:
    case SYS_clone:
    case SYS_membarrier:
    case SYS_lseek:
    case SYS_sched_yield:
    case SYS_prctl:
        return true;
    default:
        return false;
    }
}

static void
on_call(plugin_id id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
        uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)d, (void)e, (void)f, (void)g, (void)h;
    thread *me = &threads[cpu % MOST_CPUS];
    if (number == SYS_lseek && b >> 16 == WORD >> 16) {
        int n = (int)(b & 0xffff);
        if (n == REPORT) {
            report();
        }
        else if (n > 0) {
            start(n);
        }
        else if (!me->member) {
            if (arrived < awaited) {
                arrive(me);
            }
        }
        else if (me->phase + 1 < PHASES) {
            me->at[++me->phase].began = me->clock + me->debt;
        }
        else {
            me->at[PHASES].began = me->clock + me->debt;
            leave(me);
            sched_setaffinity(0, sizeof(me->allowed), &me->allowed);
        }
        return;
    }
    me->mask = number == SYS_sched_getaffinity ? c : 0;
    if (!me->member) {
        return;
    }
    if (number == SYS_exit || number == SYS_exit_group) {
        leave(me);
        return;
    }
    if (number == SYS_sched_yield && me->holds) {
        limit = 0; // the others first, as far as they are behind
        me->clock += slice;
        return;
    }
    if (quick(number, b)) {
        me->wakes = number == SYS_futex ? a : 0;
        return;
    }
    pthread_mutex_lock(&lock);
    me->state = BLOCKED;
    me->futex = number == SYS_futex ? a : 0;
    yield_turn(me);
    pthread_mutex_unlock(&lock);
}

// How many measured threads sleep at an address. Under the lock.
static int
asleep(uint64_t futex)
{
    int n = 0;
    for (int i = 0; i < arrived; i++) {
        n += members[i]->state == BLOCKED && members[i]->futex == futex;
    }
    return n;
}

// A woken thread is back in the schedule before the thread that wakes it goes on: when exactly the
// host lets it run changes nothing.
static void
await_woken(thread *me, int64_t woken)
{
    pthread_mutex_lock(&lock);
    int before = asleep(me->wakes), after = before > woken ? before - (int)woken : 0;
    for (int i = 0; i < 20 && asleep(me->wakes) > after; i++) {
        await(&came_back, 5);
    }
    pthread_mutex_unlock(&lock);
}

// Tells the program that it may use as many processors as the schedule stands for. What is measured
// often makes itself as large as the machine.
static void
tell_processors(unsigned char *mask, int64_t size)
{
    for (int64_t i = 0; i < size * 8; i++) {
        unsigned char bit = (unsigned char)(1 << i % 8);
        mask[i / 8] = (unsigned char)(i < processors ? mask[i / 8] | bit : mask[i / 8] & ~bit);
    }
}

static void
on_return(plugin_id id, unsigned cpu, int64_t number, int64_t result)
{
    (void)id;
    thread *me = &threads[cpu % MOST_CPUS];
    if (number == SYS_sched_getaffinity && result > 0 && processors) {
        // The program's addresses are ours: QEMU moves no 64-bit program on a 64-bit machine.
        tell_processors((unsigned char *)(uintptr_t)me->mask,
                        result); // NOLINT(performance-no-int-to-ptr)
    }
    if (!me->member) {
        return;
    }
    if (me->state != BLOCKED) {
        if (number == SYS_futex && result > 0) {
            await_woken(me, result);
        }
        return;
    }
    pthread_mutex_lock(&lock);
    rejoin(me);
    pthread_mutex_unlock(&lock);
}

static void
on_exit_of(plugin_id id, unsigned cpu)
{
    (void)id;
    thread *me = &threads[cpu % MOST_CPUS];
    leave(me);
}

__attribute__((visibility("default"))) int
qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) {
            return -1;
        }
        size_t n = (size_t)(value++ - argv[i]);
        if (n == 3 && !strncmp(argv[i], "out", n)) {
            out_path = strdup(value);
        }
        else if (n == 5 && !strncmp(argv[i], "slice", n)) {
            slice = strtoull(value, NULL, 10);
        }
        else if (n == 4 && !strncmp(argv[i], "cost", n)) {
            cost = strtoull(value, NULL, 10);
        }
        else if (n == 4 && !strncmp(argv[i], "wake", n)) {
            wake = strtoull(value, NULL, 10);
        }
        else if (n == 10 && !strncmp(argv[i], "processors", n)) {
            processors = atoi(value);
        }
        else {
            fprintf(stderr, "transfers: unknown option %s\n", argv[i]);
            return -1;
        }
    }
    if (!out_path) {
        return -1;
    }
    for (int i = 0; i < MOST_CPUS; i++) {
        pthread_cond_init(&threads[i].turn, NULL);
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    qemu_plugin_register_vcpu_syscall_ret_cb(id, on_return);
    qemu_plugin_register_vcpu_exit_cb(id, on_exit_of);
    return 0;
}
