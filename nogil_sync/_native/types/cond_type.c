/* Cond: a condition variable over any lock. Waiters wait in core/cond.h. This file does the steps
 * around the lock: line up, release it, wait, take it again, whatever happens. cond_lock.h has what
 * these do with the lock itself.
 *
 * A thread can get hold of garbage (a finaliser may publish it) and be inside when the collector
 * clears it. So each call first takes a reference to the lock, and a wait takes back the very lock
 * that it released. A plain Mutex refers to nothing and is in no cycle. So tp_clear leaves it
 * alone, it lives as long as its Cond, and calls borrow it.
 */
#include "arguments.h"
#include "core/cond.h"
#include "interpreter/detach.h"
#include "interpreter/scope.h"
#include "interpreter/sleeping.h"
#include "docs.h"
#include "types/cond_lock.h"
#include "types/insides.h"
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

/* Gets the lock for a call. Returns false with RuntimeError if __init__ has not run. A lock that is
 * not plain counts as a level of recursion: it may be a Cond over another one, and so on, and the
 * interpreter counts none for a method without parameters (object.c). */
static inline bool
hold(PyObject *self, ns_cond_lock *lock)
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
        lock->names = &ns_state_of(self)->names;
    }
    return true;
}

static inline void
let_go(ns_cond_lock *lock)
{
    if (ns_unlikely(!lock->plain)) {
        Py_LeaveRecursiveCall();
        Py_DECREF(lock->object);
    }
}

/* ---- Waiting ---- */

/* Returns 1 if the lock is held, else -1 with an exception. */
static int
require_lock(PyObject *self, const ns_cond_lock *lock, const char *message)
{
    int owned = ns_cond_lock_is_owned(self, lock);
    if (owned == 0) {
        PyErr_SetString(PyExc_RuntimeError, message);
        return -1;
    }
    return owned;
}

/* Returns 1 if notified, 0 if timed out, -1 with an exception. The lock is held again in all
 * cases. */
static int
wait_with(PyObject *self, const ns_cond_lock *lock, ns_waiter *w, ns_patience patience,
          int64_t deadline)
{
    ns_cond *c = cond_of(self);
    PyObject *saved;
    ns_cond_link(c, w);
    if (ns_cond_lock_release(lock, &saved) < 0) {
        if (ns_cond_steps.cancel(c, w)) {
            ns_cond_steps.undo(c, w);
        }
        return -1;
    }
    int result = patience == NS_DO_NOT_WAIT ? ns_cond_steps.cancel(c, w)
                                            : ns_wait_with(self, &ns_cond_steps, c, w, deadline);
    int again = ns_cond_lock_take_again(self, lock, ((Cond *)self)->sound, saved, w);
    Py_XDECREF(saved);
    if (again < 0 && result == 1) {
        ns_cond_steps.undo(c, w); /* notified, but the call fails: pass it to the next waiter */
    }
    return again < 0 ? -1 : result;
}

static int
wait_holding(PyObject *self, const ns_cond_lock *lock, ns_patience patience, int64_t deadline)
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
    ns_cond_lock lock;
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
    ns_cond_lock lock;
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
    ns_cond_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    if (lock.plain) {
        return ns_mutex_type_acquire(lock.object, args, nargs, kwnames);
    }
    PyObject *method = PyObject_GetAttr(lock.object, lock.names->acquire);
    PyObject *result = method ? PyObject_Vectorcall(method, args, (size_t)nargs, kwnames) : NULL;
    Py_XDECREF(method);
    let_go(&lock);
    return result;
}

static PyObject *
forward(PyObject *self, PyObject *name)
{
    ns_cond_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethodNoArgs(lock.object, name);
    let_go(&lock);
    return result;
}

static PyObject *
release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_cond_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    if (lock.plain) {
        return ns_mutex_type_release(lock.object, NULL);
    }
    PyObject *result = PyObject_CallMethodNoArgs(lock.object, lock.names->release);
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
    ns_cond_lock lock;
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
    return forward(self, ns_state_of(self)->names.locked);
}

static PyObject *
owned(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_cond_lock lock;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int result = ns_cond_lock_is_owned(self, &lock);
    let_go(&lock);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
release_save(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_cond_lock lock;
    PyObject *saved;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int result = ns_cond_lock_release(&lock, &saved);
    let_go(&lock);
    return result < 0 ? NULL : saved ? saved : Py_NewRef(Py_None);
}

static PyObject *
acquire_restore(PyObject *self, PyObject *saved)
{
    ns_cond_lock lock;
    PyObject *result = NULL;
    if (!hold(self, &lock)) {
        return NULL;
    }
    int found = lock.plain ? 0 : ns_cond_lock_restore(&lock, saved, &result);
    let_go(&lock);
    return found < 0 ? NULL : found ? result : acquire(self, NULL, 0, NULL);
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *result = forward(self, ns_state_of(self)->names._at_fork_reinit);
    if (result == NULL) {
        return NULL;
    }
    Py_DECREF(result);
    Py_RETURN_NONE; /* waiters of the parent process drop out by themselves */
}

/* ---- The object ---- */

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
    else if (ns_cond_lock_check(&state->names, lock) < 0) {
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
    o->sound = ns_cond_lock_is_sound(state, lock);
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
    ns_cond_lock lock;
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
