/* WaitGroup, over core/waitgroup.h. */
#include "arguments.h"
#include "core/waitgroup.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "types/insides.h"
#include "object.h"
#include "interpreter/sharing.h"

typedef struct {
    NS_OBJECT_HEAD
    char apart_from_header[NS_APART_FROM_HEADER];
    ns_waitgroup group;
    char apart_from_neighbour[NS_CACHE_LINE - NS_HOT_OFFSET - sizeof(ns_waitgroup)];
} WaitGroup;

_Static_assert(offsetof(WaitGroup, group) == NS_HOT_OFFSET, "the word is off the header's line");

static inline ns_waitgroup *
group_of(PyObject *self)
{
    return &((WaitGroup *)self)->group;
}

ns_waitgroup *
ns_inside_waitgroup(PyObject *self)
{
    return group_of(self);
}

static PyObject *
add_n(PyObject *self, int64_t n)
{
    ns_used(self);
    switch (ns_waitgroup_add(group_of(self), n)) {
    case NS_ADDED:
        Py_RETURN_NONE;
    case NS_BELOW_ZERO:
        PyErr_SetString(PyExc_RuntimeError, "negative WaitGroup counter");
        break;
    case NS_TOO_LARGE:
        PyErr_SetString(PyExc_OverflowError, "WaitGroup counter is too large");
        break;
    }
    return NULL;
}

static PyObject *
add(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"WaitGroup.add", {"n"}, 0, 1, 0};
    PyObject *given;
    int64_t n = 1;
    if (ns_unpack(&s, args, nargs, kwnames, &given) < 0 ||
        (given != NULL && ns_clamped_int64(given, &n) < 0)) {
        return NULL;
    }
    return add_n(self, n);
}

static PyObject *
done(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return add_n(self, -1);
}

static PyObject *
wait_(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"WaitGroup.wait", {"timeout"}, 0, 1, 0};
    PyObject *timeout;
    ns_patience patience;
    int64_t deadline;
    if (ns_unpack(&s, args, nargs, kwnames, &timeout) < 0 ||
        ns_plain_timeout(timeout, &patience, &deadline) < 0) {
        return NULL;
    }
    ns_used(self);
    if (ns_waitgroup_count(group_of(self)) == 0) {
        Py_RETURN_TRUE;
    }
    if (patience == NS_DO_NOT_WAIT) {
        Py_RETURN_FALSE;
    }
    int result = ns_wait(self, &ns_waitgroup_steps, group_of(self), &(uint64_t){0}, deadline);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyMethodDef count_down = {"done", done, METH_NOARGS, NULL};

/* Returns a ticket (see nogil_sync/_common/spawn.py): {"done": the method that counts down}. */
static PyObject *
new_ticket(PyObject *self, PyObject *key)
{
    PyObject *ticket = PyDict_New();
    PyObject *method = ticket ? PyCFunction_New(&count_down, self) : NULL;
    if (method == NULL || PyDict_SetItem(ticket, key, method) < 0) {
        Py_CLEAR(ticket);
    }
    Py_XDECREF(method);
    return ticket;
}

/* Adds one to the count and starts the worker. If the start fails, rolls the count back. In this
 * call the interpreter runs signal handlers only inside `start`, which is Python code. */
static int
launch(PyObject *self, PyObject *worker, PyObject *ticket, const ns_names *names)
{
    PyObject *counted = add_n(self, 1);
    PyObject *started = counted ? PyObject_CallMethodNoArgs(worker, names->start) : NULL;
    if (counted != NULL && started == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        if (PyDict_Pop(ticket, names->done, NULL) == 1) { /* else the thread has started */
            ns_waitgroup_add(group_of(self), -1);
        }
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(counted);
    Py_XDECREF(started);
    return started == NULL ? -1 : 0;
}

/* go() with its arguments parsed. Making the worker takes Python code that both backends share. */
static PyObject *
spawn(PyObject *self, PyObject *fn, PyObject *args, PyObject *kwargs)
{
    PyObject *module = PyImport_ImportModule("nogil_sync._common.spawn");
    const ns_names *names = &ns_state_of(self)->names;
    PyObject *ticket = module ? new_ticket(self, names->done) : NULL;
    PyObject *worker = NULL;
    if (ticket != NULL) {
        worker = PyObject_CallMethodObjArgs(module, names->Worker, ticket, fn, args, kwargs, NULL);
    }
    if (worker != NULL && launch(self, worker, ticket, names) < 0) {
        Py_CLEAR(worker);
    }
    Py_XDECREF(ticket);
    Py_XDECREF(module);
    return worker;
}

static PyObject *
go(PyObject *self, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t nargs = PyTuple_GET_SIZE(args);
    if (nargs == 0) {
        PyErr_SetString(PyExc_TypeError,
                        "WaitGroup.go() missing 1 required positional argument: 'fn'");
        return NULL;
    }
    PyObject *rest = PyTuple_GetSlice(args, 1, nargs);
    PyObject *named = rest ? (kwargs ? Py_NewRef(kwargs) : PyDict_New()) : NULL;
    PyObject *thread = named ? spawn(self, PyTuple_GET_ITEM(args, 0), rest, named) : NULL;
    Py_XDECREF(named);
    Py_XDECREF(rest);
    return thread;
}

static PyObject *
repr(PyObject *self)
{
    char state[32];
    PyOS_snprintf(
        state, sizeof(state), "%lu pending", (unsigned long)ns_waitgroup_count(group_of(self)));
    return ns_repr_state(self, state);
}
NS_INIT_WITHOUT_ARGUMENTS("WaitGroup")

static PyMethodDef methods[] = {
    NS_METHOD("add", add, DOC_WaitGroup_add),
    NS_NO_ARGUMENTS("done", done, DOC_WaitGroup_done),
    NS_METHOD("wait", wait_, DOC_WaitGroup_wait),
    {"go", _PyCFunction_CAST(go), METH_VARARGS | METH_KEYWORDS, DOC_WaitGroup_go},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(WaitGroup);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_WaitGroup},
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
    .name = "nogil_sync.WaitGroup",
    .basicsize = sizeof(WaitGroup),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_waitgroup(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->waitgroup_type);
}
