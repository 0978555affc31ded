/* Mutex: threading.Lock's interface over core/mutex.h. */
#include "arguments.h"
#include "core/mutex.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "types/mutex_type.h"
#include "object.h"
#include "interpreter/sharing.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_mutex mutex;
} Mutex;

static inline ns_mutex *
mutex_of(PyObject *self)
{
    return &((Mutex *)self)->mutex;
}

ns_mutex *
ns_mutex_of(PyObject *self)
{
    return mutex_of(self);
}

int
ns_mutex_type_wait(PyObject *self, const struct ns_wait_steps *steps, ns_mutex *m,
                   ns_patience patience, int64_t deadline)
{
    if (patience == NS_DO_NOT_WAIT) {
        return ns_mutex_try_lock(m);
    }
    return ns_wait(self, steps, m, &(uint64_t){0}, deadline);
}

PyObject *
ns_mutex_type_acquire(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Mutex.acquire", {"blocking", "timeout"}, 0, 2, 0};
    ns_patience patience;
    int64_t deadline;
    if (ns_lock_arguments(&s, args, nargs, kwnames, &patience, &deadline) < 0) {
        return NULL;
    }
    ns_used(self);
    if (ns_likely(ns_mutex_try_lock(mutex_of(self)))) {
        Py_RETURN_TRUE;
    }
    int locked = ns_mutex_type_wait(self, &ns_mutex_steps, mutex_of(self), patience, deadline);
    return locked < 0 ? NULL : PyBool_FromLong(locked);
}

static inline int
lock(PyObject *self)
{
    ns_used(self);
    return ns_likely(ns_mutex_try_lock(mutex_of(self)))
               ? 1
               : ns_mutex_type_wait(
                     self, &ns_mutex_steps, mutex_of(self), NS_WAIT_FOR_EVER, NS_FOREVER);
}

static int
unlock(PyObject *self)
{
    ns_mutex_unlock(mutex_of(self));
    return 0;
}

PyObject *
ns_mutex_type_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (lock(self) < 0 || (ns_is_interrupted() && ns_enter_again(self, lock, unlock) < 0)) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

PyObject *
ns_mutex_type_release(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_unlikely(!ns_mutex_unlock(mutex_of(self)))) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return ns_mutex_type_release(self, NULL);
}

static PyObject *
locked(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(ns_mutex_is_locked(mutex_of(self)));
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_mutex_reset(mutex_of(self));
    Py_RETURN_NONE;
}

static PyObject *
repr(PyObject *self)
{
    ns_mutex *m = mutex_of(self);
    const bool is_locked = ns_mutex_is_locked(m);
    return ns_repr_lock(
        self, is_locked, ns_thread_of_tag(ns_mutex_holder(m)), "", ns_mutex_waiters(m));
}

/* acquire(False), for `async with`. The interpreter looks for signals after a call, but not after
 * it has read an attribute: so no interrupt comes between this and what is done with the lock. */
static PyObject *
get_taken(PyObject *self, void *Py_UNUSED(closure))
{
    return ns_mutex_type_acquire(self, (PyObject *[]){Py_False}, 1, NULL);
}
NS_INIT_WITHOUT_ARGUMENTS("Mutex")
NS_EXIT(leave, "Mutex.__exit__")

static PyMethodDef methods[] = {
    NS_METHOD("acquire", ns_mutex_type_acquire, DOC_Mutex_acquire),
    NS_NO_ARGUMENTS("release", ns_mutex_type_release, DOC_Mutex_release),
    NS_NO_ARGUMENTS("locked", locked, DOC_Mutex_locked),
    NS_NO_ARGUMENTS("__enter__", ns_mutex_type_enter, DOC_Mutex___enter__),
    NS_METHOD("__exit__", leave_method, DOC_Mutex___exit__),
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"_taken_at_once", get_taken, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Mutex);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Mutex},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Mutex",
    .basicsize = sizeof(Mutex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_mutex(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->mutex_type);
}
