/* Tests ns_cpu_count of core/waiting/park.h: the processors this process may run on, the limits of
 * control groups, and the environment variable.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"

/* A tree of our own instead of the system's. */
#define NS_SYSTEM_ROOT "test_cpus.tree"
#include "waiting/park.c"

#if defined(NS_PARK_FUTEX)

static void
write_file(const char *path, const char *text)
{
    char copy[256];
    snprintf(copy, sizeof(copy), NS_SYSTEM_ROOT "%s", path);
    for (char *slash = copy; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(copy, 0700);
        *slash = '/';
    }
    FILE *file = fopen(copy, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void
check_limits_of_control_groups(void)
{
    CHECK(system("rm -rf " NS_SYSTEM_ROOT) == 0);
    CHECK(limit_by_groups(64) == 64); /* no such files */
    write_file("/proc/self/cgroup", "0::/a/b\n");
    CHECK(limit_by_groups(64) == 64);

    write_file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(limit_by_groups(64) == 64);
    write_file("/sys/fs/cgroup/a/b/cpu.max", "250000 100000\n");
    CHECK(limit_by_groups(64) == 3 &&
          limit_by_groups(2) == 2); /* rounded up; never more than there are */
    write_file("/sys/fs/cgroup/a/cpu.max", "200000 100000\n"); /* a group around it allows less */
    CHECK(limit_by_groups(64) == 2);
    write_file("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
    CHECK(limit_by_groups(64) == 1);
    write_file("/sys/fs/cgroup/a/cpu.max", "nonsense\n");
    CHECK(limit_by_groups(64) == 3);
    write_file("/sys/fs/cgroup/a/b/cpu.max", "0 0\n");
    CHECK(limit_by_groups(64) == 64);
    write_file("/sys/fs/cgroup/cpu.max",
               "400000 100000\n"); /* a container's limit, at the root of what is visible */
    write_file("/proc/self/cgroup", "0::/not/visible/here\n");
    CHECK(limit_by_groups(64) == 4);
    write_file("/proc/self/cgroup", "0::/\n");
    CHECK(limit_by_groups(64) == 4);

    write_file("/proc/self/cgroup",
               "5:memory:/m\n4:cpu,cpuacct:/x/y\n3:cpuset:/\nnonsense\n1:two\n");
    write_file("/sys/fs/cgroup/cpu/x/y/cpu.cfs_quota_us", "-1\n");
    write_file("/sys/fs/cgroup/cpu/x/y/cpu.cfs_period_us", "100000\n");
    CHECK(limit_by_groups(64) == 64);
    write_file("/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "700001\n");
    CHECK(limit_by_groups(64) == 64); /* its period is missing */
    write_file("/sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
    CHECK(limit_by_groups(64) == 8);

    char group[PATH_MAX + 16];
    memset(group, 'x', sizeof(group) - 1);
    group[sizeof(group) - 1] = '\0';
    CHECK(limit_by_group(64, NS_SYSTEM_ROOT "/sys/fs/cgroup", group, true) ==
          4); /* too long for a path */
    CHECK(available_cpus() <= count_allowed_cpus());
    CHECK(system("rm -rf " NS_SYSTEM_ROOT) == 0);
}

#else

static void
check_limits_of_control_groups(void)
{
}

#endif

static unsigned
count_with(const char *given)
{
    CHECK(setenv("NOGIL_SYNC_CPU_COUNT", given, 1) == 0);
    count_cpus();
    return ns_cpu_count();
}

int
main(void)
{
    char folder[] = "/tmp/test_cpus.XXXXXX";
    CHECK(mkdtemp(folder) != NULL && chdir(folder) == 0);
    init_core();
    unsetenv("NOGIL_SYNC_CPU_COUNT");
    count_cpus();
    const unsigned usual = ns_cpu_count();
    CHECK(usual >= 1);
    CHECK(count_with("128") == 128 && count_with("1") == 1);
    CHECK(count_with("99999999999999999999") == NS_MAX_CPUS);
    static const char *const bad[] = {"", "0", "-3", "many", "3x", " "};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        CHECK(count_with(bad[i]) == usual);
    }
    check_limits_of_control_groups();
    CHECK(rmdir(folder) == 0);
    puts("cpus: ok");
    return 0;
}
