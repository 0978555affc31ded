/* cond_lock.h: what a Cond does with its lock: asks whether it is held, releases it, and takes it
 * again.
 *
 * The lock may be any object, so all of its methods may run user code, raise, or call the Cond
 * again. Meanwhile nothing of ours is held. For a plain Mutex, which is what Cond makes for itself,
 * the same steps are done without calls.
 *
 * `cond` is the Cond, for its module's state. What returns -1 has set an exception.
 */
#ifndef NS_COND_LOCK_H
#define NS_COND_LOCK_H

#include "types/mutex_type.h"

/* The lock, during a call of the Cond. */
typedef struct ns_cond_lock {
    PyObject *object; /* a reference, unless it is plain */
    bool plain;       /* it is exactly a Mutex */
    const ns_names *names; /* unless it is plain */
} ns_cond_lock;

/* For __init__: returns 0 if the object can be the lock of a Cond, else -1. */
int ns_cond_lock_check(const ns_names *names, PyObject *object);

/* Whether the lock's acquire fails only when it is interrupted. False for subclasses. */
bool ns_cond_lock_is_sound(ns_state *state, PyObject *object);

/* Returns 1 if the calling thread holds the lock, 0 if not, or -1. Of locks without owner: whether
 * any thread holds it. */
int ns_cond_lock_is_owned_slow(PyObject *cond, PyObject *object);
static inline int
ns_cond_lock_is_owned(PyObject *cond, const ns_cond_lock *lock)
{
    return ns_likely(lock->plain) ? ns_mutex_is_locked(ns_mutex_of(lock->object))
                                  : ns_cond_lock_is_owned_slow(cond, lock->object);
}

/* Releases the lock, however often it is held. Sets `*saved` to what takes it again; NULL stands
 * for acquire. Returns 0 or -1. */
int ns_cond_lock_release_slow(const ns_cond_lock *lock, PyObject **saved);
static inline int
ns_cond_lock_release(const ns_cond_lock *lock, PyObject **saved)
{
    *saved = NULL;
    return ns_likely(lock->plain && ns_mutex_unlock(ns_mutex_of(lock->object)))
               ? 0
               : ns_cond_lock_release_slow(lock, saved);
}

/* Calls the lock's `_acquire_restore`, if it has one. Returns 1 with the result, 0 if it has none,
 * or -1. */
int ns_cond_lock_restore(const ns_cond_lock *lock, PyObject *saved, PyObject **result);

/* Takes the lock again, through all interruptions. Then raises the first exception, which may be
 * one that was set before. Gives up on a lock that is not sound and whose acquire raises an
 * Exception, perhaps for ever, and on any lock at interpreter finalization. Returns 0 or -1. */
int ns_cond_lock_take_again(PyObject *cond, const ns_cond_lock *lock, bool sound, PyObject *saved,
                            ns_waiter *w);

#endif
