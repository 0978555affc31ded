/* Tests core/waiting/linger.h. It includes the source, and has a clock and yields of its own, so
 * that no other program on the machine makes a difference. */
#include "harness.h"

static void yield_by_clock(void);
static int64_t read_clock(void);
#define ns_yield yield_by_clock
#define ns_now read_clock
#include "waiting/linger.c"
#undef ns_yield
#undef ns_now

static int looks, yields, ready_at_look, ready_at_yield;
static enum ns_look finally;
static int64_t clock_now = 1000 * MILLISECOND;
static int64_t yield_takes; /* nanoseconds */

static int64_t
read_clock(void)
{
    return clock_now += 20;
}

static void
yield_by_clock(void)
{
    yields++;
    clock_now += yield_takes;
}

static enum ns_look
look(void *what)
{
    CHECK(what == &looks);
    looks++;
    return looks == ready_at_look || (yields > 0 && yields == ready_at_yield) ? finally
                                                                              : NS_NOT_READY;
}

/* Returns what ns_linger found. *pace: as it left it. */
static enum ns_look
linger(int at_look, int at_yield, int64_t *pace)
{
    looks = yields = 0;
    ready_at_look = at_look;
    ready_at_yield = at_yield;
    *pace = 200;
    return ns_linger(look, &looks, pace);
}

static void
check_first_look_is_enough(void)
{
    int64_t pace;
    for (finally = NS_READY; finally <= NS_FROZEN; finally++) {
        CHECK(linger(1, 0, &pace) == finally);
        CHECK(looks == 1 && yields == 0 && pace == 0);
    }
}

static void
check_found_awake(void)
{
    int64_t pace;
    for (finally = NS_READY; finally <= NS_FROZEN; finally++) {
        CHECK(linger(2, 0, &pace) == finally);
        CHECK(looks == 2);
        CHECK(pace == (yields == 0 ? 200 : 0)); /* with one processor no thread spins */
        CHECK(ns_spinners() == 0);
    }
}

static void
check_found_after_a_yield(void)
{
    int64_t pace;
    for (finally = NS_READY; finally <= NS_FROZEN; finally++) {
        CHECK(linger(0, 2, &pace) == finally);
        CHECK(yields == 2 && pace == 0);
    }
}

static void
check_nothing_comes(void)
{
    int64_t pace;
    CHECK(linger(0, 0, &pace) == NS_NOT_READY);
    CHECK(yields == NS_LINGER_YIELDS && pace == 0);
}

static void
check_long_yield_stops_yields_for_a_while(void)
{
    int64_t pace;
    finally = NS_READY;
    yield_takes = NS_LINGER_LONG;
    CHECK(linger(0, 2, &pace) == NS_NOT_READY); /* no second yield */
    CHECK(yields == 1);
    const int64_t again = clock_now + 100 * (int64_t)NS_LINGER_LONG;
    yield_takes = 0;
    clock_now = again - 2 * NS_LINGER;
    CHECK(linger(0, 1, &pace) == NS_NOT_READY);
    CHECK(yields == 0);
    clock_now = again + MILLISECOND;
    CHECK(linger(0, 2, &pace) == NS_READY);
    CHECK(yields == 2);
}

static void
check_stopped_process_yields_again_soon(void)
{
    int64_t pace;
    finally = NS_READY;
    yield_takes = 3600 * 1000 * (int64_t)MILLISECOND;
    CHECK(linger(0, 2, &pace) == NS_NOT_READY);
    yield_takes = 0;
    clock_now += 100 * (int64_t)NS_LINGER_LONGEST;
    CHECK(linger(0, 2, &pace) == NS_READY);
    CHECK(yields == 2);
}

int
main(void)
{
    init_core();
    check_first_look_is_enough();
    check_found_awake();
    check_found_after_a_yield();
    check_nothing_comes();
    check_long_yield_stops_yields_for_a_while();
    check_stopped_process_yields_again_soon();
    printf("linger: ok\n");
    return 0;
}
