/* RLock: threading.RLock's interface over core/mutex.h.
 *
 * An RLock is a mutex, its owner, and `again`: how often the owner took it beyond the first time.
 * Only the thread that holds the mutex writes the two: after it took the mutex, and before it
 * releases it. A thread that finds its own number in `owner` wrote it itself and has not cleared it
 * since, so relaxed loads suffice. (The number of a thread that ended while it held the lock may
 * come again, and the new thread then counts as the owner, as with threading.RLock.)
 *
 * No Python code runs between these steps, so no handler or finaliser does. Other threads may see
 * a mutex that is held but has no owner yet, or has one no longer: `locked` asks the mutex.
 *
 * Fork. An RLock that the forking thread holds stays its own in the child. One that another thread
 * held has an owner that is gone, until _at_fork_reinit.
 */
#include "arguments.h"
#include "core/mutex.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "object.h"
#include "interpreter/sharing.h"
#include "types/mutex_type.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_mutex mutex;
    _Atomic uint64_t owner; /* what this_thread() returns there, or 0 */
    _Atomic uint64_t again; /* atomic for repr, which any thread may call */
} RLock;

/* Never 0. */
static inline uint64_t
this_thread(void)
{
    return PyThread_get_thread_ident();
}

static inline bool
is_owned(RLock *o)
{
    return ns_load(&o->owner, NS_RELAXED) == this_thread();
}

/* Takes the lock as often as `again` says and once more. The calling thread does not hold it.
 * Returns 1 if locked, 0 if timed out, -1 with an exception. */
static int
take(RLock *o, uint64_t again, ns_patience patience, int64_t deadline)
{
    if (ns_unlikely(!ns_mutex_try_lock(&o->mutex))) {
        int locked =
            ns_mutex_type_wait((PyObject *)o, &ns_rlock_steps, &o->mutex, patience, deadline);
        if (locked <= 0) {
            return locked;
        }
    }
    ns_store(&o->owner, this_thread(), NS_RELAXED);
    ns_store(&o->again, again, NS_RELAXED);
    return 1;
}

static inline int
lock(RLock *o, ns_patience patience, int64_t deadline)
{
    ns_used((PyObject *)o);
    if (is_owned(o)) {
        ns_store(&o->again, ns_load(&o->again, NS_RELAXED) + 1, NS_RELAXED);
        return 1;
    }
    return take(o, 0, patience, deadline);
}

/* Releases the lock, which the calling thread holds, however often it does. */
static void
release_all(RLock *o)
{
    ns_store(&o->again, 0, NS_RELAXED);
    ns_store(&o->owner, 0, NS_RELAXED);
    ns_mutex_unlock(&o->mutex);
}

/* Returns 0, or -1 with RuntimeError. */
static int
require_owner(RLock *o)
{
    if (ns_unlikely(!is_owned(o))) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return -1;
    }
    return 0;
}

static PyObject *
acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"RLock.acquire", {"blocking", "timeout"}, 0, 2, 0};
    ns_patience patience;
    int64_t deadline;
    if (ns_lock_arguments(&s, args, nargs, kwnames, &patience, &deadline) < 0) {
        return NULL;
    }
    int locked = lock((RLock *)self, patience, deadline);
    return locked < 0 ? NULL : PyBool_FromLong(locked);
}

static PyObject *
release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RLock *o = (RLock *)self;
    if (require_owner(o) < 0) {
        return NULL;
    }
    uint64_t again = ns_load(&o->again, NS_RELAXED);
    if (again == 0) {
        release_all(o);
    }
    else {
        ns_store(&o->again, again - 1, NS_RELAXED);
    }
    Py_RETURN_NONE;
}

static int
enter_once(PyObject *self)
{
    return lock((RLock *)self, NS_WAIT_FOR_EVER, NS_FOREVER);
}

static int
leave_once(PyObject *self)
{
    PyObject *result = release(self, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (enter_once(self) < 0 ||
        (ns_is_interrupted() && ns_enter_again(self, enter_once, leave_once) < 0)) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static PyObject *
leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return release(self, NULL);
}

static PyObject *
locked(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(ns_mutex_is_locked(&((RLock *)self)->mutex));
}

static PyObject *
owned(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(is_owned((RLock *)self));
}

static PyObject *
recursion_count(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RLock *o = (RLock *)self;
    return PyLong_FromUnsignedLongLong(is_owned(o) ? ns_load(&o->again, NS_RELAXED) + 1 : 0);
}

static PyObject *
release_save(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RLock *o = (RLock *)self;
    if (require_owner(o) < 0) {
        return NULL;
    }
    PyObject *count = PyLong_FromUnsignedLongLong(ns_load(&o->again, NS_RELAXED) + 1);
    if (count != NULL) {
        release_all(o);
    }
    return count;
}

static PyObject *
acquire_restore(PyObject *self, PyObject *saved)
{
    RLock *o = (RLock *)self;
    int64_t count;
    if (ns_int64(saved, 1, INT64_MAX, "a count", &count) < 0) {
        return NULL;
    }
    ns_used(self);
    if (is_owned(o)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot restore an acquired lock");
        return NULL;
    }
    if (take(o, (uint64_t)count - 1, NS_WAIT_FOR_EVER, NS_FOREVER) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    RLock *o = (RLock *)self;
    ns_store(&o->again, 0, NS_RELAXED);
    ns_store(&o->owner, 0, NS_RELAXED);
    ns_mutex_reset(&o->mutex);
    Py_RETURN_NONE;
}

static PyObject *
repr(PyObject *self)
{
    RLock *o = (RLock *)self;
    uint64_t owner = ns_load(&o->owner, NS_RELAXED), again = ns_load(&o->again, NS_RELAXED);
    char count[40];
    PyOS_snprintf(count, sizeof(count), ", count=%llu", (unsigned long long)again + 1);
    return ns_repr_lock(self, owner != 0, owner, count, ns_mutex_waiters(&o->mutex));
}
NS_INIT_WITHOUT_ARGUMENTS("RLock")
NS_EXIT(leave, "RLock.__exit__")

static PyMethodDef methods[] = {
    NS_METHOD("acquire", acquire, DOC_RLock_acquire),
    NS_NO_ARGUMENTS("release", release, DOC_RLock_release),
    NS_NO_ARGUMENTS("locked", locked, DOC_RLock_locked),
    NS_NO_ARGUMENTS("__enter__", enter, DOC_RLock___enter__),
    NS_METHOD("__exit__", leave_method, DOC_RLock___exit__),
    {"_is_owned", owned, METH_NOARGS, NULL},
    {"_recursion_count", recursion_count, METH_NOARGS, NULL},
    {"_release_save", release_save, METH_NOARGS, NULL},
    {"_acquire_restore", acquire_restore, METH_O, NULL},
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(RLock);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_RLock},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.RLock",
    .basicsize = sizeof(RLock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_rlock(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->rlock_type);
}
