/* linger.h: looking out for a moment before a wait.
 *
 * A wait takes a lock, closes fast paths, and often costs a wake-up. If what a thread needs is
 * about to come, looking out for it is cheaper. A thread that lingers has no place in line, writes
 * nothing shared, and holds no lock. What it sees may be gone the next moment: then it waits.
 *
 * First it looks out awake, if it gets a turn at spinning (grant.h): every `pace`, for up to
 * NS_LINGER. Then it yields its processor a few times. Where threads outnumber processors, the
 * other side is likely to be ready to run on this one; it works until it has to look out itself. So
 * the threads change once a batch, where each item would take a wake-up. A yield with nobody else
 * ready to run returns at once. But if other programs are busy on this machine, a yield is a gift
 * to them, of some milliseconds each (measured on Linux 6.18). So after a long yield all threads of
 * the process stop yielding, for a hundred times as long: what they give away stays at about one
 * percent of their time. No yield counts for more than NS_LINGER_LONGEST: if it took longer, the
 * process was stopped meanwhile, say by a debugger.
 *
 * It stops when something is frozen: others wait there already, or it was closed. Then only the
 * lock can tell.
 */
#ifndef NS_LINGER_H
#define NS_LINGER_H

#include <stdint.h>

#ifndef NS_LINGER
#define NS_LINGER 5000 /* nanoseconds for which it looks out awake */
#endif
#ifndef NS_LINGER_YIELDS
#define NS_LINGER_YIELDS 4 /* of the processor, after that */
#endif
#ifndef NS_LINGER_LONG
#define NS_LINGER_LONG 200000 /* nanoseconds: a yield that takes more was a gift to others */
#endif
#ifndef NS_LINGER_LONGEST
#define NS_LINGER_LONGEST 100000000 /* nanoseconds: no scheduler makes a yield take more */
#endif

enum ns_look { NS_NOT_READY, NS_READY, NS_FROZEN };

/* Looks until something is ready or frozen, or the time is over. *pace: nanoseconds between two
 * looks; set to 0 if nothing was found awake, that is, between the first look and the first yield.
 */
enum ns_look ns_linger(enum ns_look (*look)(void *what), void *what, int64_t *pace);

#endif
