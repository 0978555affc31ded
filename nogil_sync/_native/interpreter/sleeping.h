/* sleeping.h: who sleeps in an object of ours, for nogil_sync.diagnostics.
 *
 * The records are those of core/waiting/sleepers.h. This file turns them into Python objects: a
 * thread that looks takes a record's lock, and until it lets go the thread of the record cannot
 * return from its sleep. So the object that it waits for is alive, and the frames of its stack
 * stand still. No Python code runs under that lock: references are taken, frame objects are made,
 * and nothing is dropped until it is free. (Collections run Python code only between instructions
 * of Python code, and there are none.)
 *
 * Deadlocks. If detection is on, a thread that waits without a deadline wakes by itself after a
 * while, and calls a function in Python (_common/deadlock.py) with its waiter in line, just as a
 * signal handler is run (detach.h). The function may raise, which ends the wait without a trace,
 * and returns the seconds until its next call. So nothing is paid when detection is off, and by who
 * sleeps briefly.
 *
 * Signals. The handler of register() is C, and async-signal-safe: it takes the locks without
 * waiting, and writes to a file descriptor.
 */
#ifndef NS_SLEEPING_H
#define NS_SLEEPING_H

#include "module.h"

#include "core/waiting/sleepers.h"

extern _Atomic int64_t ns_check_after; /* nanoseconds; 0: detection is off */

/* When a wait that begins now looks for a deadlock for the first time: NS_FOREVER, never. */
static inline int64_t
ns_first_check(int64_t deadline)
{
    const int64_t after = ns_load(&ns_check_after, NS_RELAXED);
    return after == 0 || deadline != NS_FOREVER ? NS_FOREVER : ns_now() + after;
}

/* Looks for a deadlock that the wait is part of. Sets *next to the time of the next look. Returns
 * 0, or -1 with an exception. Attached, with the waiter in line. */
int ns_check_deadlock(const ns_sleep *sleep, int64_t *next);

/* Sets whether waits of this thread that find a deadlock warn in any case, as they cannot fail:
 * Cond.wait must take its lock again. Returns what was set before. */
bool ns_set_deadlocks_warn(bool warn);

#endif
