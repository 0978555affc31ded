#include "waiting/park.h"

#include "waiting/thread_tag.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#if defined(NS_PARK_FUTEX)
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#endif

#define SECOND INT64_C(1000000000)
#define NS_MAX_CPUS 65536

struct ns_globals ns_globals = {.alone = NS_NOBODY, .cpu_count = 1};

int64_t
ns_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

void
ns_yield(void)
{
    sched_yield();
}

unsigned
ns_cpu_count(void)
{
    return ns_globals.cpu_count;
}

#if defined(NS_PARK_FUTEX)

enum ns_parked
ns_park(_Atomic uint32_t *word, uint32_t expected, int64_t deadline)
{
    struct timespec at, *timeout = NULL;
    if (deadline != NS_FOREVER) {
        at.tv_sec = (time_t)(deadline / SECOND);
        at.tv_nsec = (long)(deadline % SECOND);
        timeout = &at;
    }
    /* The bitset form takes an absolute deadline, so a retry needs no arithmetic. */
    if (syscall(SYS_futex,
                word,
                FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
                expected,
                timeout,
                NULL,
                FUTEX_BITSET_MATCH_ANY) == 0) {
        return NS_PARK_WOKEN;
    }
    return errno == ETIMEDOUT ? NS_PARK_TIMED_OUT
           : errno == EINTR   ? NS_PARK_INTERRUPTED
                              : NS_PARK_WOKEN;
}

void
ns_unpark(const void *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, NULL, NULL, 0);
}

static unsigned
count_allowed_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) {
        return (unsigned)CPU_COUNT(&set);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

/* ---- The control groups' limit: an amount of processor time in each period ---- */

#ifndef NS_SYSTEM_ROOT /* tests set it to a tree of their own */
#define NS_SYSTEM_ROOT ""
#endif

/* Reads the start of a file, as a string. Returns false if it cannot be read. */
static bool
read_file(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file >= 0 ? read(file, text, size - 1) : -1;
    if (file >= 0) {
        close(file);
    }
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* Reads the two numbers from the files of one group. Returns false if it sets no limit, or if there
 * is no such group. */
static bool
read_quota(const char *group, bool unified, long long *quota, long long *period)
{
    char path[PATH_MAX + 32], text[64];
    if (unified) {
        snprintf(path, sizeof(path), "%s/cpu.max", group);
        return read_file(path, text, sizeof(text)) && sscanf(text, "%lld %lld", quota, period) == 2;
    }
    snprintf(path, sizeof(path), "%s/cpu.cfs_quota_us", group);
    if (!read_file(path, text, sizeof(text)) || sscanf(text, "%lld", quota) != 1) {
        return false;
    }
    snprintf(path, sizeof(path), "%s/cpu.cfs_period_us", group);
    return read_file(path, text, sizeof(text)) && sscanf(text, "%lld", period) == 1;
}

/* The min of `cpus` and of the limits of a group and of those around it, each rounded up. A group's
 * path may not be visible here (in a container); then those around it count. */
static unsigned
limit_by_group(unsigned cpus, const char *root, const char *path, bool unified)
{
    char group[PATH_MAX];
    size_t rest = (size_t)snprintf(group, sizeof(group), "%s", root);
    int length = snprintf(group + rest, sizeof(group) - rest, "%s", path);
    if (length < 0 || rest + (size_t)length >= sizeof(group)) {
        group[rest] = '\0';
    }
    for (;;) {
        long long quota, period;
        if (read_quota(group, unified, &quota, &period) && quota > 0 && period > 0 &&
            (quota - 1) / period + 1 < cpus) {
            cpus = (unsigned)((quota - 1) / period + 1);
        }
        char *last = strrchr(group + rest, '/');
        if (last == NULL) {
            return cpus;
        }
        *last = '\0';
    }
}

/* Each line of the file is "number:controllers:path"; version 2 has no controllers. */
static unsigned
limit_by_groups(unsigned cpus)
{
    char text[8192], *rest, *line;
    if (!read_file(NS_SYSTEM_ROOT "/proc/self/cgroup", text, sizeof(text))) {
        return cpus;
    }
    for (line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':'), *path = NULL;
        if (controllers != NULL) {
            path = strchr(++controllers, ':');
        }
        if (path == NULL) {
            continue;
        }
        *path++ = '\0';
        if (*controllers == '\0') {
            cpus = limit_by_group(cpus, NS_SYSTEM_ROOT "/sys/fs/cgroup", path, true);
        }
        else {
            for (char *more, *name = strtok_r(controllers, ",", &more); name != NULL;
                 name = strtok_r(NULL, ",", &more)) {
                if (strcmp(name, "cpu") == 0) {
                    cpus = limit_by_group(cpus, NS_SYSTEM_ROOT "/sys/fs/cgroup/cpu", path, false);
                }
            }
        }
    }
    return cpus;
}

static unsigned
available_cpus(void)
{
    return limit_by_groups(count_allowed_cpus());
}

/* The argument in epoch.h holds where a store reaches all other processors at once. */
static void
register_fences(void)
{
#if defined(__x86_64__) || defined(__aarch64__)
    long known = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    ns_can_fence_threads =
        known > 0 && (known & MEMBARRIER_CMD_PRIVATE_EXPEDITED) &&
        syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
#endif
}

static bool
fence_threads(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
}

static void
init_sleep(void)
{
    register_fences();
}

static void
reset_sleep_after_fork(void)
{
}

#else /* POSIX condition variables */

#define BUCKETS 64

static struct bucket {
    _Alignas(NS_CACHE_LINE) pthread_mutex_t mutex;
    pthread_cond_t changed;
} buckets[BUCKETS];

static struct bucket *
bucket_of(const void *word)
{
    uint64_t hash = (uint64_t)(uintptr_t)word * UINT64_C(0x9E3779B97F4A7C15);
    return &buckets[hash >> 58];
}

/* An interrupted condition variable does not report it. Callers that must notice signals slice
 * their wait by deadlines. */
enum ns_parked
ns_park(_Atomic uint32_t *word, uint32_t expected, int64_t deadline)
{
    struct bucket *b = bucket_of(word);
    int error = 0;
    pthread_mutex_lock(&b->mutex);
    if (ns_load(word, NS_RELAXED) == expected) {
        if (deadline == NS_FOREVER) {
            pthread_cond_wait(&b->changed, &b->mutex);
        }
        else {
#if defined(__APPLE__)
            int64_t left = deadline - ns_now();
            left = left > 0 ? left : 0;
            struct timespec t = {(time_t)(left / SECOND), (long)(left % SECOND)};
            error = pthread_cond_timedwait_relative_np(&b->changed, &b->mutex, &t);
#else
            struct timespec t = {(time_t)(deadline / SECOND), (long)(deadline % SECOND)};
            error = pthread_cond_timedwait(&b->changed, &b->mutex, &t);
#endif
        }
    }
    pthread_mutex_unlock(&b->mutex);
    return error == ETIMEDOUT ? NS_PARK_TIMED_OUT : NS_PARK_WOKEN;
}

/* Wakes all sleepers of the bucket, whatever the count: some may sleep on other words. */
void
ns_unpark(const void *word, int count)
{
    (void)count;
    struct bucket *b = bucket_of(word);
    pthread_mutex_lock(&b->mutex);
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->mutex);
}

static unsigned
available_cpus(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

static bool
fence_threads(void)
{
    return false;
}

static void
init_sleep(void)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    for (int i = 0; i < BUCKETS; i++) {
        pthread_mutex_init(&buckets[i].mutex, NULL);
        pthread_cond_init(&buckets[i].changed, &attributes);
    }
    pthread_condattr_destroy(&attributes);
}

/* A thread that is gone may have held a bucket. Nobody sleeps in the child yet. */
static void
reset_sleep_after_fork(void)
{
    init_sleep();
}

#endif

/* ---- The fence in all threads ----
 *
 * The system can refuse membarrier at any time: for want of memory, or by a seccomp filter that was
 * installed after the registration. (mprotect is no substitute. It used to interrupt all
 * processors, but newer ones invalidate each other's translations without an interrupt.) Then the
 * flag is cleared, and from then on all threads use fences of their own.
 *
 * What remains are the threads that read the flag before it was cleared. Each of them made its
 * store before that read, in program order, and had no fence. The store may still be in its
 * processor's store buffer while its loads are done. No other thread can force it out, but it does
 * not stay: a store buffer drains within microseconds, and at the latest with the next interrupt
 * ("Temporally Bounding TSO for Fence-Free Asymmetric Synchronization", Morrison and Afek, ASPLOS
 * 2015; C11 7.17.3 asks for "a reasonable amount of time"). So after NS_REFUSED, five ticks of the
 * slowest clock, each such store is visible. A thread that reads the flag later has a fence of its
 * own. From then on the caller's own fence is enough. */

/* From this reading of ns_now() on, every thread has fences of its own. NS_FOREVER at first after a
 * refusal. */
static _Atomic int64_t sure_from;

bool
ns_try_fence_everywhere(void)
{
    if (ns_load(&ns_can_fence_threads, NS_ACQUIRE)) {
        if (fence_threads()) {
            return true;
        }
        ns_store(&sure_from, NS_FOREVER, NS_RELAXED);
        ns_store(&ns_can_fence_threads, false, NS_RELEASE);
        /* counted from the clearing of the flag */
        ns_store(&sure_from, ns_now() + NS_REFUSED, NS_RELEASE);
    }
    ns_fence(NS_SEQ_CST);
    return ns_load(&sure_from, NS_RELAXED) <= ns_now();
}

void
ns_fence_everywhere(void)
{
    while (!ns_try_fence_everywhere()) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

static void
in_child(void)
{
    reset_sleep_after_fork();
    ns_store(&sure_from, 0, NS_RELAXED); /* no other thread is left */
    ns_add(&ns_fork_count, 1, NS_RELAXED);
}

/* The number in NOGIL_SYNC_CPU_COUNT, or 0. Any number is safe: it decides only how many cells an
 * object may have, and whether waiters spin. */
static unsigned
configured_cpus(void)
{
    const char *text = getenv("NOGIL_SYNC_CPU_COUNT");
    char *end = NULL;
    long count = text != NULL ? strtol(text, &end, 10) : 0;
    return count > 0 && *end == '\0' ? (count < NS_MAX_CPUS ? (unsigned)count : NS_MAX_CPUS) : 0;
}

static void
count_cpus(void)
{
    unsigned configured = configured_cpus();
    ns_globals.cpu_count = configured != 0 ? configured : available_cpus();
}

bool
ns_init_once(bool *done, bool (*init)(void))
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    *done = *done || init();
    bool result = *done;
    pthread_mutex_unlock(&mutex);
    return result;
}

bool
ns_call_in_child(void (*function)(void))
{
    return pthread_atfork(NULL, NULL, function) == 0;
}

static pthread_key_t exit_key;
static bool has_exit_key;

bool
ns_at_exit_init(void (*function)(void *))
{
    has_exit_key = has_exit_key || pthread_key_create(&exit_key, function) == 0;
    return has_exit_key;
}

bool
ns_at_exit(void *argument)
{
    return has_exit_key && pthread_setspecific(exit_key, argument) == 0;
}

static bool
init(void)
{
    count_cpus();
    init_sleep();
    return ns_call_in_child(in_child);
}

bool
ns_park_init(void)
{
    static bool done;
    return ns_init_once(&done, init);
}

uint64_t
ns_thread_of_tag(uint64_t tag)
{
    return tag == 0 ? 0 : tag + ((uint64_t)(uintptr_t)pthread_self() - ns_thread_tag());
}
