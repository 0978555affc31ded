/* select.h: waiting in several lines at once, until one of them serves.
 *
 * Overview
 *   A *selector* is a waiter with a place for each of its cases. The object that can serve one of
 *   them claims the selector, and only then changes its own words. The others pass it by. It is the
 *   algorithm of Go's selectgo (runtime/select.go), with our lines (wait.h) in the place of
 *   channels. One thread sleeps once for all cases; nobody polls.
 *
 * The claim, a word of the selector:
 *
 *     0        no case was served
 *     n + 1    case n goes ahead, or already went
 *
 *   A server compares-and-swaps it from 0 with its object's lock held. If that fails, it unlinks
 *   the place, and goes on as if the selector had not been in line. What it claimed it grants
 *   before it unlocks. So a thread that has held the locks of all cases since, together or one
 *   after the other, knows: a selector that is claimed is granted.
 *
 * Active and parked. A selector is *active* while its thread, which enters or rejoins, holds the
 * locks of all its cases: they are taken in the order of their addresses, each once, so threads
 * that hold several never wait in a circle. Nobody else can claim an active selector. It is
 * *parked* whenever it is linked and not active. Only a parked selector can lose a race.
 *
 * Two selectors that meet. A rendezvous of two selectors takes two claims. If the second fails, the
 * first is withdrawn. That is right only if the first is active: of a parked selector another
 * object may have seen the claim, unlinked the place, and would not serve it any more. And it is
 * active, because the second is not. Lines are settled while their locks are free: two parked
 * waiters that could serve each other would have met when the later of them entered. So of two that
 * meet one is active. Its claim cannot fail: nobody else can claim it, and it is not served yet.
 * (Its places are linked one by one, and each line serves before the next place is linked. So when
 * it is served, its earlier places have nobody left to meet.)
 * Two cases of one selector never meet: an object that serves looks for two different waiters.
 *
 * Which case goes ahead. A selector that enters links and serves one case after the other in random
 * order until one serves it. So among several that are ready each is as likely as the others. A
 * parked selector is served by whatever is ready first.
 *
 * Many places in one line. The line serves when the first of them is linked. It need not when the
 * others are: all wait for the same thing, and whoever could serve them would have met the first.
 * Looking for that again (two different waiters, find_pair in channel.c) would take a walk over all
 * of them, for each.
 *
 * Vain wake-ups: none. A selector is woken by its one grant, or by its time-out, a signal, or
 * cancellation, as any other waiter. After the grant its thread takes the lock of each case once
 * more, to unlink its places; until then the objects may pass them by. A channel stays frozen for
 * so long (channel.h).
 *
 * Lingering. Before it lines up, which closes the fast paths of all its channels, a thread may look
 * out for a moment, as a receive does. Events and wait groups are looked at as well.
 *
 * Handlers. `leave` marks the places away, one lock after the other: the selector may be claimed
 * meanwhile, and `leave` then says so. `rejoin` is like `enter`. Nothing needs to give way.
 *
 * Ordering. The claim decides, and carries nothing: relaxed. What was served is carried by the
 * grant, and the places by their lines' locks.
 *
 * Fork. As for any place: the queues of the child are empty, and `rejoin` links again. A claim
 * cannot be cut short: only the thread that waits can fork and have its selector live on, and it
 * does so while all places are away.
 *
 * A selector without a thread (CALLED, grant.h) is claimed and granted like others. `cancel` must
 * be called in any case, even after it was served: it unlinks the remaining places.
 *
 * Lines in which a selector can wait: all that wait there wait for the same thing (`is_alike`), so
 * a place can go without others being served.
 *
 * Field ownership. `claim`: any thread, see above. The places: as in waitq.h. The rest: the
 * selector's thread.
 */
#ifndef NS_SELECT_H
#define NS_SELECT_H

#include "waiting/wait.h"

typedef struct ns_selector {
    ns_waiter waiter; /* its place is not used */
    _Atomic uint32_t claim;
    bool is_sorted; /* whether by_lock is */
    uint32_t count; /* how many cases were added */
    ns_place **by_lock; /* the places in the order in which their locks are taken */
    uint32_t *order; /* the cases in the order in which they were last tried */
    ns_place places[];
} ns_selector;

/* Returns a random number below `limit`. Cheap: its only purpose is that no case starves. */
uint32_t ns_random_below(uint32_t limit);

/* For up to `count` cases; without any, it waits for its deadline. NULL: no memory. To be freed
 * when no place of it is linked. */
ns_selector *ns_selector_new(uint32_t count);
void ns_selector_free(ns_selector *s);
/* Adds a case: to wait in that line of the object. `amount`: what a waiter there asks for. */
void ns_selector_add(ns_selector *s, const struct ns_line *line, void *object, uint64_t amount);

/* Does one of the cases that are ready. False: there was a moment in which none was. Attached. */
bool ns_selector_try(ns_selector *s);

/* Looks out for a ready case for a moment (linger.h), in the pace of the slowest channel; not if no
 * case is a channel's. True if it is worth another try. No place is linked. */
bool ns_selector_linger(ns_selector *s);

/* How to wait (wait.h). The object is the selector, and the waiter &s->waiter. */
extern const struct ns_wait_steps ns_select_steps;

/* Which case went ahead, of a selector that was served. The amount of its place is what it was
 * given. */
static inline uint32_t
ns_selector_chosen(const ns_selector *s)
{
    return ns_load(&s->claim, NS_RELAXED) - 1;
}

/* ---- For objects that serve ---- */

bool ns_claim_selector(ns_place *p);

/* To be called before the waiter at p is served. False: it is a selector that was served elsewhere;
 * then p is unlinked. The caller holds the lock of p's queue. */
static inline bool
ns_claim(ns_place *p)
{
    return ns_likely(p->waiter->selector == NULL) || ns_claim_selector(p);
}

/* The same for two different waiters that serve each other. False: neither is claimed, and one of
 * the two places is unlinked. */
bool ns_claim_both(ns_place *p, ns_place *q);

#endif
