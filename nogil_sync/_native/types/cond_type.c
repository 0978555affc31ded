/* Cond: a condition variable over any lock. Waiters wait in core/cond.h. This file does the steps
 * around the lock: line up, release it, wait, take it again, whatever happens.
 *
 * The lock may be any object, so all of its methods may run user code, raise, or call this file
 * again. Meanwhile nothing of ours is held. For a plain Mutex, which is what Cond makes for itself,
 * the same steps are done without calls.
 *
 * A thread can get hold of garbage (a finaliser may publish it) and be inside when the collector
 * clears it. So each call first takes a reference to the lock, and a wait takes back the very lock
 * that it released. A plain Mutex refers to nothing and is in no cycle. So tp_clear leaves it
 * alone, it lives as long as its Cond, and calls borrow it.
 */
#include "arguments.h"
#include "core/cond.h"
#include "core/waiting/park.h"
#include "interpreter/detach.h"
#include "interpreter/scope.h"
#include "interpreter/sleeping.h"
#include "docs.h"
#include "types/insides.h"
#include "types/mutex_type.h"
#include "object.h"
#include "interpreter/sharing.h"
#include "interpreter/tryref.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_cond cond;
    ns_ref lock; /* NULL until __init__ has run, and after the collector cleared the Cond */
    bool plain;  /* the lock is exactly a Mutex; written before `lock` */
    /* of a type whose acquire fails only when it is interrupted; written before `lock` */
    bool sound;
} Cond;

static inline ns_cond *
cond_of(PyObject *self)
{
    return &((Cond *)self)->cond;
}

ns_cond *
ns_inside_cond(PyObject *self)
{
    return cond_of(self);
}

/* The lock, during a call. */
typedef struct {
    PyObject *object; /* a reference, unless it is plain */
    bool plain;
} held_lock;

/* Gets the lock for a call. Returns false with RuntimeError if __init__ has not run. A lock that is
 * not plain counts as a level of recursion: it may be a Cond over another one, and so on, and the
 * interpreter counts none for a method without parameters (object.c). */
static inline bool
hold(PyObject *self, held_lock *lock)
{
    Cond *o = (Cond *)self;
    ns_used(self);
    lock->object = ns_load(&o->lock, NS_ACQUIRE);
    lock->plain = lock->object != NULL && o->plain;
    if (ns_unlikely(!lock->plain)) {
        lock->object = ns_load_ref(&o->lock);
        if (lock->object == NULL) {
            ns_check_initialized_slow(self);
            return false;
        }
        if (Py_EnterRecursiveCall(" while calling the lock of a condition") != 0) {
            Py_DECREF(lock->object);
            return false;
        }
    }
    return true;
}

static inline void
let_go(held_lock *lock)
{
    if (ns_unlikely(!lock->plain)) {
        Py_LeaveRecursiveCall();
        Py_DECREF(lock->object);
    }
}

/* ---- The lock. Each returns -1 with an exception. ---- */

/* Calls a method without arguments if the object has it. Returns 1 if it has, 0 if not. */
static int
call_if_there(PyObject *object, const char *name, PyObject *argument, PyObject **result)
{
    PyObject *method;
    int found = PyObject_GetOptionalAttrString(object, name, &method);
    if (found <= 0) {
        return found;
    }
    *result = argument ? PyObject_CallOneArg(method, argument) : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return *result == NULL ? -1 : 1;
}

/* The truth of a new reference, which this consumes. */
static int
truth_of(PyObject *result)
{
    int truth = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return truth;
}

/* Calls a method and ignores its result. */
static int
call(PyObject *object, const char *name)
{
    PyObject *result = PyObject_CallMethod(object, name, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static bool
is_ours(ns_state *state, PyObject *lock)
{
    PyObject *types[] = {state->mutex_type, state->rwmutex_reader_type, state->rwmutex_writer_type};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        if (types[i] != NULL && PyObject_TypeCheck(lock, (PyTypeObject *)types[i])) {
            return true;
        }
    }
    return false;
}

/* Whether the lock's acquire fails only when it is interrupted. False for subclasses. */
static bool
is_sound(ns_state *state, PyObject *lock)
{
    PyObject *type = (PyObject *)Py_TYPE(lock);
    return type == state->mutex_type || type == state->rwmutex_reader_type ||
           type == state->rwmutex_writer_type || type == state->lock_type ||
           type == state->thread_rlock_type || type == state->rlock_type;
}

/* Returns 1 if the calling thread holds the lock, else 0. */
static int
is_owned(PyObject *self, const held_lock *lock)
{
    if (lock->plain) {
        return ns_mutex_is_locked(ns_mutex_of(lock->object));
    }
    PyObject *result;
    int found = call_if_there(lock->object, "_is_owned", NULL, &result);
    if (found != 0) {
        return found < 0 ? -1 : truth_of(result);
    }
    if (is_ours(ns_state_of(self), lock->object)) {
        return truth_of(PyObject_CallMethod(lock->object, "locked", NULL));
    }
    int free = truth_of(PyObject_CallMethod(lock->object, "acquire", "(O)", Py_False));
    if (free < 0 || (free && call(lock->object, "release") < 0)) {
        return -1;
    }
    return !free;
}

/* Releases the lock, however often it is held. Sets `*saved` to what takes it again; NULL stands
 * for acquire. */
static int
unlock(const held_lock *lock, PyObject **saved)
{
    *saved = NULL;
    if (lock->plain) {
        if (ns_mutex_unlock(ns_mutex_of(lock->object))) {
            return 0;
        }
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return -1;
    }
    int found = call_if_there(lock->object, "_release_save", NULL, saved);
    return found != 0 ? Py_MIN(found, 0) : call(lock->object, "release");
}

static int
lock_again_once(const held_lock *lock, PyObject *saved, ns_waiter *w)
{
    if (lock->plain) {
        ns_mutex *m = ns_mutex_of(lock->object);
        if (ns_mutex_try_lock(m)) {
            return 0;
        }
        *w = (ns_waiter){0}; /* the waiter serves again: no memory is needed here */
        return ns_wait_with(lock->object, &ns_mutex_steps, m, w, NS_FOREVER) < 0 ? -1 : 0;
    }
    if (saved != NULL) {
        PyObject *result;
        int found = call_if_there(lock->object, "_acquire_restore", saved, &result);
        if (found == 1) {
            Py_DECREF(result);
            return 0;
        }
        if (found < 0) {
            return -1;
        }
    }
    return call(lock->object, "acquire");
}

/* Takes the lock again, through all interruptions. Then raises the first exception, which may be
 * one that was set before. Gives up on a foreign lock whose acquire raises an Exception, perhaps
 * for ever, and on any lock at interpreter finalization. */
static int
lock_again(PyObject *self, const held_lock *lock, PyObject *saved, ns_waiter *w)
{
    PyObject *first = PyErr_GetRaisedException();
    /* A lock whose waits can be cancelled, a Semaphore say, is to be taken nevertheless. */
    ns_state *state = lock->plain ? NULL : ns_state_of(self);
    PyObject *scope = lock->plain ? NULL : ns_swap_scope(state, NULL);
    const bool warn = ns_set_deadlocks_warn(true);
    while (lock_again_once(lock, saved, w) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *final = ((Cond *)self)->sound ? PyExc_PythonFinalizationError : PyExc_Exception;
        bool given_up = PyObject_TypeCheck(error, (PyTypeObject *) final);
        if (first == NULL) {
            first = error;
        }
        else {
            Py_DECREF(error);
        }
        if (given_up) {
            break;
        }
        /* Perhaps there is no memory until other threads or the collector free some. This loop may
         * not run Python code, so it lets them run. */
        Py_BEGIN_ALLOW_THREADS
        ns_yield();
        Py_END_ALLOW_THREADS
    }
    ns_set_deadlocks_warn(warn);
    if (scope != NULL) {
        Py_XDECREF(ns_swap_scope(state, scope));
        Py_DECREF(scope);
    }
    if (first == NULL) {
        return 0;
    }
    PyErr_SetRaisedException(first);
    return -1;
}

/* ---- Waiting ---- */

/* Returns 1 if the lock is held, else -1 with an exception. */
static int
require_lock(PyObject *self, const held_lock *lock, const char *message)
{
    int owned = is_owned(self, lock);
    if (owned == 0) {
        PyErr_SetString(PyExc_RuntimeError, message);
        return -1;
    }
    return owned;
}

/* Returns 1 if notified, 0 if timed out, -1 with an exception. The lock is held again in all
 * cases. */
static int
wait_with(PyObject *self, const held_lock *lock, ns_waiter *w, ns_patience patience,
          int64_t deadline)
{
    ns_cond *c = cond_of(self);
    PyObject *saved;
    ns_cond_link(c, w);
    if (unlock(lock, &saved) < 0) {
        if (ns_cond_steps.cancel(c, w)) {
            ns_cond_steps.undo(c, w);
        }
        return -1;
    }
    int result = patience == NS_DO_NOT_WAIT ? ns_cond_steps.cancel(c, w)
                                            : ns_wait_with(self, &ns_cond_steps, c, w, deadline);
    int again = lock_again(self, lock, saved, w);
    Py_XDECREF(saved);
    if (again < 0 && result == 1) {
        ns_cond_steps.undo(c, w); /* notified, but the call fails: pass it to the next waiter */
    }
    return again < 0 ? -1 : result;
}

static int
wait_holding(PyObject *self, const held_lock *lock, ns_patience patience, int64_t deadline)
{
    if (require_lock(self, lock, "cannot wait on un-acquired lock") < 0) {
        return -1;
    }
    if (patience != NS_DO_NOT_WAIT) {
        if (ns_is_last(self)) {
            return ns_waits_in_vain();
        }
        if (ns_warn_blocking(self) < 0) {
            return -1;
        }
    }
    ns_waiter *w = ns_waiter_or_error();
    if (w == NULL) {
        return -1;
    }
    int result = wait_with(self, lock, w, patience, deadline);
    ns_waiter_free(w);
    return result;
}

static int
wait_until(PyObject *self, ns_patience patience, int64_t deadline)
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return -1;
    }
    int result = wait_holding(self, &lock, patience, deadline);
    let_go(&lock);
    return result;
}

static PyObject *
wait_(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cond.wait", {"timeout"}, 0, 1, 0};
    PyObject *timeout;
    ns_patience patience;
    int64_t deadline;
    if (ns_unpack(&s, args, nargs, kwnames, &timeout) < 0 ||
        ns_plain_timeout(timeout, &patience, &deadline) < 0) {
        return NULL;
    }
    int result = wait_until(self, patience, deadline);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
wait_for(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cond.wait_for", {"predicate", "timeout"}, 1, 2, 0};
    PyObject *given[2];
    ns_patience patience;
    int64_t deadline;
    if (ns_unpack(&s, args, nargs, kwnames, given) < 0 ||
        ns_plain_timeout(given[1], &patience, &deadline) < 0 || ns_check_initialized(self) < 0) {
        return NULL;
    }
    for (bool over = false;;) {
        PyObject *result = PyObject_CallNoArgs(given[0]);
        int truth = result ? PyObject_IsTrue(result) : -1;
        if (truth > 0 || (truth == 0 && over)) {
            return result;
        }
        Py_XDECREF(result);
        if (truth < 0 || wait_until(self, patience, deadline) < 0) {
            return NULL;
        }
        over = patience == NS_DO_NOT_WAIT || (deadline != NS_FOREVER && ns_now() >= deadline);
    }
}

/* Returns 0, or -1 with an exception. */
static int
notify_up_to(PyObject *self, uint64_t n)
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return -1;
    }
    int owned = require_lock(self, &lock, "cannot notify on un-acquired lock");
    let_go(&lock);
    if (owned < 0) {
        return -1;
    }
    if (n > 0) {
        ns_cond_notify(cond_of(self), n);
    }
    return 0;
}

static PyObject *
notify(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Cond.notify", {"n"}, 0, 1, 0};
    PyObject *given;
    int64_t n = 1;
    if (ns_unpack(&s, args, nargs, kwnames, &given) < 0) {
        return NULL;
    }
    if (given != NULL && ns_clamped_int64(given, &n) < 0) {
        return NULL;
    }
    if (notify_up_to(self, n > 0 ? (uint64_t)n : 0) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
notify_all(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (notify_up_to(self, UINT64_MAX) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- The lock's own interface ---- */

static PyObject *
acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    if (lock.plain) {
        return ns_mutex_type_acquire(lock.object, args, nargs, kwnames);
    }
    PyObject *method = PyObject_GetAttrString(lock.object, "acquire");
    PyObject *result = method ? PyObject_Vectorcall(method, args, (size_t)nargs, kwnames) : NULL;
    Py_XDECREF(method);
    let_go(&lock);
    return result;
}

static PyObject *
forward(PyObject *self, const char *name)
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethod(lock.object, name, NULL);
    let_go(&lock);
    return result;
}

static PyObject *
release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    if (lock.plain) {
        return ns_mutex_type_release(lock.object, NULL);
    }
    PyObject *result = PyObject_CallMethod(lock.object, "release", NULL);
    let_go(&lock);
    return result;
}

/* The result of `enter` does not matter once it is entered: a foreign lock's acquire may return
 * anything. */
static int
enter_foreign(PyObject *self)
{
    PyObject *result = acquire(self, NULL, 0, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
leave_foreign(PyObject *self)
{
    PyObject *result = release(self, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    if (lock.plain) {
        return ns_mutex_type_enter(lock.object, NULL);
    }
    let_go(&lock);
    PyObject *result = acquire(self, NULL, 0, NULL);
    if (result != NULL && ns_is_interrupted() &&
        ns_enter_again(self, enter_foreign, leave_foreign) < 0) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    PyObject *result = release(self, NULL);
    Py_XDECREF(result);
    return result == NULL ? NULL : Py_NewRef(Py_None); /* never swallows an exception */
}

static PyObject *
locked(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return forward(self, "locked");
}

static PyObject *
owned(PyObject *self, PyObject *Py_UNUSED(unused))
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int result = is_owned(self, &lock);
    let_go(&lock);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
release_save(PyObject *self, PyObject *Py_UNUSED(unused))
{
    held_lock lock;
    PyObject *saved;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int result = unlock(&lock, &saved);
    let_go(&lock);
    return result < 0 ? NULL : saved ? saved : Py_NewRef(Py_None);
}

static PyObject *
acquire_restore(PyObject *self, PyObject *saved)
{
    held_lock lock;
    PyObject *result = NULL;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int found = lock.plain ? 0 : call_if_there(lock.object, "_acquire_restore", saved, &result);
    let_go(&lock);
    return found < 0 ? NULL : found ? result : acquire(self, NULL, 0, NULL);
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *result = forward(self, "_at_fork_reinit");
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    Py_RETURN_NONE; /* waiters of the parent process drop out by themselves */
}

/* ---- The object ---- */

/* Returns 1 or 0. */
static int
has_method(PyObject *object, const char *name)
{
    PyObject *method;
    int found = PyObject_GetOptionalAttrString(object, name, &method);
    if (found == 1) {
        found = PyCallable_Check(method);
        Py_DECREF(method);
    }
    return found;
}

static int
check_lock(PyObject *lock)
{
    int fits = has_method(lock, "acquire");
    if (fits == 1) {
        fits = has_method(lock, "release");
    }
    if (fits == 0) {
        PyErr_SetString(PyExc_TypeError, "lock must have acquire() and release()");
    }
    return fits == 1 ? 0 : -1;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"Cond.__init__", {"lock"}, 0, 1, 0};
    Cond *o = (Cond *)self;
    PyObject *lock;
    ns_state *state = ns_state_of(self);
    if (state == NULL || ns_unpack_init(&s, args, kwargs, &lock) < 0) {
        return -1;
    }
    if (state->mutex_type == NULL) {
        ns_shutting_down();
        return -1;
    }
    if (lock == NULL || lock == Py_None) {
        lock = PyObject_CallNoArgs(state->mutex_type);
        if (lock == NULL) {
            return -1;
        }
    }
    else if (check_lock(lock) < 0) {
        return -1;
    }
    else {
        Py_INCREF(lock);
    }
    if (ns_claim_init(self) < 0) {
        Py_DECREF(lock);
        return -1;
    }
    o->plain = Py_IS_TYPE(lock, (PyTypeObject *)state->mutex_type);
    o->sound = is_sound(state, lock);
    ns_publish(lock);
    ns_store(&o->lock, lock, NS_RELEASE);
    ns_finish_init(self, true);
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&((Cond *)self)->lock, NS_RELAXED));
    return 0;
}

static int
clear(PyObject *self)
{
    Cond *o = (Cond *)self;
    if (ns_load(&o->lock, NS_ACQUIRE) != NULL && !o->plain) {
        Py_XDECREF(ns_swap(&o->lock, NULL, NS_SEQ_CST));
    }
    return 0;
}

static void
dealloc(PyObject *self)
{
    Cond *o = (Cond *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(ns_load(&o->lock, NS_RELAXED));
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
repr(PyObject *self)
{
    PyObject *lock = ns_load_ref(&((Cond *)self)->lock);
    if (lock == NULL) {
        return ns_repr_uninitialized(self);
    }
    PyObject *name = PyType_GetFullyQualifiedName(Py_TYPE(self)), *result = NULL;
    int inside = name ? Py_ReprEnter(self) : -1;
    if (inside > 0) {
        result = PyUnicode_FromFormat("<%U object at %p, ...>", name, self);
    }
    else if (inside == 0) {
        result = PyUnicode_FromFormat("<%U object at %p, %R, %lu waiting>",
                                      name,
                                      self,
                                      lock,
                                      (unsigned long)ns_cond_waiting(cond_of(self)));
        Py_ReprLeave(self);
    }
    Py_XDECREF(name);
    Py_DECREF(lock);
    return result;
}
NS_EXIT(leave, "Cond.__exit__")

static PyMethodDef methods[] = {
    NS_METHOD("wait", wait_, DOC_Cond_wait),
    NS_METHOD("wait_for", wait_for, DOC_Cond_wait_for),
    NS_METHOD("notify", notify, DOC_Cond_notify),
    NS_NO_ARGUMENTS("notify_all", notify_all, DOC_Cond_notify_all),
    NS_METHOD("acquire", acquire, DOC_Cond_acquire),
    NS_NO_ARGUMENTS("release", release, DOC_Cond_release),
    NS_NO_ARGUMENTS("locked", locked, DOC_Cond_locked),
    NS_NO_ARGUMENTS("__enter__", enter, DOC_Cond___enter__),
    NS_METHOD("__exit__", leave_method, DOC_Cond___exit__),
    {"_is_owned", owned, METH_NOARGS, NULL},
    {"_release_save", release_save, METH_NOARGS, NULL},
    {"_acquire_restore", acquire_restore, METH_O, NULL},
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

/* The lock, for the awaited calls. */
static PyObject *
get_lock(PyObject *self, void *Py_UNUSED(unused))
{
    held_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    PyObject *object = Py_NewRef(lock.object);
    let_go(&lock);
    return object;
}

static PyGetSetDef attributes[] = {
    {"_lock", get_lock, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Cond);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Cond},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Cond",
    .basicsize = sizeof(Cond),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_cond(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->cond_type);
}
