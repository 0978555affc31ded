/* Cond: a condition variable over any lock. core/cond.h is the waiting room, this file the dance
 * around the lock: line up, let go of it, wait, take it again, whatever happens.
 *
 * The lock may be any object, so all of its methods may run user code, raise, or come back
 * here; nothing of ours is held meanwhile. For a plain Mutex, which is what Cond makes for
 * itself, the same steps are taken without calls.
 */
#include "arguments.h"
#include "core/cond.h"
#include "detach.h"
#include "docs.h"
#include "mutex_type.h"
#include "object.h"

typedef struct {
    PyObject_HEAD
    ns_cond cond;
    _Atomic(PyObject *) lock; /* NULL until __init__ ran, and after a collection cleared it */
    bool plain;               /* the lock is exactly a Mutex; written before `lock` */
    bool sound; /* of a kind whose acquire fails only when it is interrupted; so, too */
    _Atomic bool claimed; /* by an __init__ */
    PyObject *weakrefs;
} Cond;

static inline ns_cond *
cond_of(PyObject *self)
{
    return &((Cond *)self)->cond;
}

/* The lock, borrowed; NULL with RuntimeError if there was no __init__. */
static inline PyObject *
lock_of(PyObject *self)
{
    PyObject *lock = ns_load(&((Cond *)self)->lock, NS_ACQUIRE);
    if (ns_unlikely(lock == NULL)) {
        ns_not_initialized(self);
    }
    return lock;
}

static inline bool
is_plain(PyObject *self)
{
    return ((Cond *)self)->plain;
}

/* ---- The lock. Each returns -1 with an exception. ---- */

/* Calls a method without arguments if the object has it. 0: it does not, 1: done. */
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

/* The truth of a new reference, which it consumes. */
static int
truth_of(PyObject *result)
{
    int truth = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return truth;
}

/* Calls a method whose result does not matter. */
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

/* Whether its acquire fails only when it is interrupted. Not so for subclasses. */
static bool
is_sound(ns_state *state, PyObject *lock)
{
    PyObject *type = (PyObject *)Py_TYPE(lock);
    return type == state->mutex_type || type == state->rwmutex_reader_type ||
           type == state->rwmutex_writer_type || type == state->lock_type ||
           type == state->rlock_type;
}

/* Whether the calling thread may use the condition: 1 or 0. */
static int
is_owned(PyObject *self)
{
    PyObject *lock = lock_of(self);
    if (lock == NULL) {
        return -1;
    }
    if (is_plain(self)) {
        return ns_mutex_is_locked(ns_mutex_of(lock));
    }
    PyObject *result;
    int found = call_if_there(lock, "_is_owned", NULL, &result);
    if (found != 0) {
        return found < 0 ? -1 : truth_of(result);
    }
    if (is_ours(ns_state_of(self), lock)) {
        return truth_of(PyObject_CallMethod(lock, "locked", NULL));
    }
    int free = truth_of(PyObject_CallMethod(lock, "acquire", "O", Py_False));
    if (free < 0 || (free && call(lock, "release") < 0)) {
        return -1;
    }
    return !free;
}

/* Lets go of the lock however often it is held. `*saved` is what takes it again, NULL for acquire. */
static int
unlock(PyObject *self, PyObject **saved)
{
    PyObject *lock = lock_of(self);
    *saved = NULL;
    if (lock == NULL) {
        return -1;
    }
    if (is_plain(self)) {
        if (ns_mutex_unlock(ns_mutex_of(lock))) {
            return 0;
        }
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return -1;
    }
    int found = call_if_there(lock, "_release_save", NULL, saved);
    return found != 0 ? Py_MIN(found, 0) : call(lock, "release");
}

static int
lock_again_once(PyObject *self, PyObject *saved, ns_waiter *w)
{
    PyObject *lock = lock_of(self);
    if (lock == NULL) {
        return -1;
    }
    if (is_plain(self)) {
        if (ns_mutex_try_lock(ns_mutex_of(lock))) {
            return 0;
        }
        *w = (ns_waiter){0}; /* the node of the wait serves again: no memory is needed here */
        return ns_wait(lock, &ns_mutex_steps, ns_mutex_of(lock), w, NS_FOREVER) < 0 ? -1 : 0;
    }
    if (saved != NULL) {
        PyObject *result;
        int found = call_if_there(lock, "_acquire_restore", saved, &result);
        if (found == 1) {
            Py_DECREF(result);
            return 0;
        }
        if (found < 0) {
            return -1;
        }
    }
    return call(lock, "acquire");
}

/* Takes the lock again, through all interruptions; then the first exception counts, be it one that was
 * set before. A foreign lock whose acquire raises an Exception, perhaps for ever, is given up. */
static int
lock_again(PyObject *self, PyObject *saved, ns_waiter *w)
{
    PyObject *first = PyErr_GetRaisedException();
    while (lock_again_once(self, saved, w) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        bool given_up =
            !((Cond *)self)->sound && PyObject_TypeCheck(error, (PyTypeObject *)PyExc_Exception);
        if (first == NULL) {
            first = error;
        }
        else {
            Py_DECREF(error);
        }
        if (given_up) {
            break;
        }
    }
    if (first == NULL) {
        return 0;
    }
    PyErr_SetRaisedException(first);
    return -1;
}

/* ---- Waiting ---- */

/* 1: owned, else -1 with an exception. */
static int
require_lock(PyObject *self, const char *message)
{
    int owned = is_owned(self);
    if (owned == 0) {
        PyErr_SetString(PyExc_RuntimeError, message);
        return -1;
    }
    return owned;
}

/* 1: notified, 0: timed out, -1: exception; with the lock held again in all cases. */
static int
wait_with(PyObject *self, ns_waiter *w, ns_patience patience, int64_t deadline)
{
    ns_cond *c = cond_of(self);
    PyObject *saved;
    ns_cond_link(c, w);
    if (unlock(self, &saved) < 0) {
        if (ns_cond_steps.cancel(c, w)) {
            ns_cond_steps.undo(c, w);
        }
        return -1;
    }
    int result = patience == NS_DO_NOT_WAIT ? ns_cond_steps.cancel(c, w)
                                            : ns_wait(self, &ns_cond_steps, c, w, deadline);
    int again = lock_again(self, saved, w);
    Py_XDECREF(saved);
    if (again < 0 && result == 1) {
        ns_cond_steps.undo(c, w); /* notified, but the call fails: the next one has it */
    }
    return again < 0 ? -1 : result;
}

static int
wait_until(PyObject *self, ns_patience patience, int64_t deadline)
{
    if (require_lock(self, "cannot wait on un-acquired lock") < 0) {
        return -1;
    }
    ns_waiter *w = ns_waiter_new();
    if (w == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int result = wait_with(self, w, patience, deadline);
    ns_waiter_free(w);
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
        ns_plain_timeout(given[1], &patience, &deadline) < 0 || lock_of(self) == NULL) {
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
    if (require_lock(self, "cannot notify on un-acquired lock") < 0) {
        return NULL;
    }
    if (n > 0) {
        ns_cond_notify(cond_of(self), (uint64_t)n);
    }
    Py_RETURN_NONE;
}

static PyObject *
notify_all(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (require_lock(self, "cannot notify on un-acquired lock") < 0) {
        return NULL;
    }
    ns_cond_notify(cond_of(self), UINT64_MAX);
    Py_RETURN_NONE;
}

/* ---- The lock's own interface ---- */

static PyObject *
acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *lock = lock_of(self);
    if (lock == NULL) {
        return NULL;
    }
    if (is_plain(self)) {
        return ns_mutex_type_acquire(lock, args, nargs, kwnames);
    }
    PyObject *method = PyObject_GetAttrString(lock, "acquire");
    PyObject *result = method ? PyObject_Vectorcall(method, args, (size_t)nargs, kwnames) : NULL;
    Py_XDECREF(method);
    return result;
}

static PyObject *
forward(PyObject *self, const char *name)
{
    PyObject *lock = lock_of(self);
    return lock == NULL ? NULL : PyObject_CallMethod(lock, name, NULL);
}

static PyObject *
release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *lock = lock_of(self);
    if (lock != NULL && is_plain(self)) {
        return ns_mutex_type_release(lock, NULL);
    }
    return lock == NULL ? NULL : forward(self, "release");
}

static PyObject *
enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return acquire(self, NULL, 0, NULL);
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
    int result = is_owned(self);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
release_save(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *saved;
    return unlock(self, &saved) < 0 ? NULL : saved ? saved : Py_NewRef(Py_None);
}

static PyObject *
acquire_restore(PyObject *self, PyObject *saved)
{
    PyObject *lock = lock_of(self), *result;
    if (lock == NULL) {
        return NULL;
    }
    int found = is_plain(self) ? 0 : call_if_there(lock, "_acquire_restore", saved, &result);
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
    Py_RETURN_NONE; /* those of the parent who waited are forgotten by themselves */
}

/* ---- The object ---- */

/* 1 or 0. */
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
    if (ns_swap(&o->claimed, true, NS_RELAXED)) {
        Py_DECREF(lock);
        return ns_initialized_twice(self);
    }
    o->plain = Py_IS_TYPE(lock, (PyTypeObject *)state->mutex_type);
    o->sound = is_sound(state, lock);
    ns_store(&o->lock, lock, NS_RELEASE);
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
    Py_XDECREF(ns_swap(&((Cond *)self)->lock, NULL, NS_RELAXED));
    return 0;
}

static void
dealloc(PyObject *self)
{
    Cond *o = (Cond *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* a chain of them may be a million long */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    clear(self);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
repr(PyObject *self)
{
    PyObject *lock = Py_XNewRef(ns_load(&((Cond *)self)->lock, NS_ACQUIRE));
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

NS_WITHOUT_ARGUMENTS(notify_all, "Cond.notify_all")
NS_WITHOUT_ARGUMENTS(release, "Cond.release")
NS_WITHOUT_ARGUMENTS(locked, "Cond.locked")
NS_WITHOUT_ARGUMENTS(enter, "Cond.__enter__")
NS_EXIT(leave, "Cond.__exit__")

static PyMethodDef methods[] = {
    NS_METHOD("wait", wait_, DOC_Cond_wait),
    NS_METHOD("wait_for", wait_for, DOC_Cond_wait_for),
    NS_METHOD("notify", notify, DOC_Cond_notify),
    NS_METHOD("notify_all", notify_all_method, DOC_Cond_notify_all),
    NS_METHOD("acquire", acquire, DOC_Cond_acquire),
    NS_METHOD("release", release_method, DOC_Cond_release),
    NS_METHOD("locked", locked_method, DOC_Cond_locked),
    NS_METHOD("__enter__", enter_method, DOC_Cond___enter__),
    NS_METHOD("__exit__", leave_method, DOC_Cond___exit__),
    {"_is_owned", owned, METH_NOARGS, NULL},
    {"_release_save", release_save, METH_NOARGS, NULL},
    {"_acquire_restore", acquire_restore, METH_O, NULL},
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Cond);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Cond},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
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
    return ns_add_type(module, &spec);
}
