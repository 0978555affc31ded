/* AtomicBool: one byte. Arguments are converted to truth values first, because that may run user
 * code.
 */
#include "arguments.h"
#include "core/atomics.h"
#include "docs.h"
#include "object.h"
#include "interpreter/contention.h"
#include "interpreter/sharing.h"
#include "types/syncmap.h"

typedef struct {
    NS_OBJECT_HEAD
    _Atomic bool value;
} AtomicBool;

_Atomic bool *
ns_atomic_bool_place(PyObject *self)
{
    return &((AtomicBool *)self)->value;
}

static PyObject *
load(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_used(self);
    return PyBool_FromLong(ns_load(&((AtomicBool *)self)->value, NS_SEQ_CST));
}

/* Swaps, and returns the old value: 1 or 0; -1 with an exception. */
static int
exchange(PyObject *self, const ns_signature *s, PyObject *const *args, Py_ssize_t nargs,
         PyObject *kwnames)
{
    PyObject *argument;
    if (ns_unpack(s, args, nargs, kwnames, &argument) < 0) {
        return -1;
    }
    int value = PyObject_IsTrue(argument);
    if (value < 0) {
        return -1;
    }
    ns_used(self);
    return ns_swap(&((AtomicBool *)self)->value, (bool)value, NS_SEQ_CST);
}

static PyObject *
swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicBool.swap", {"value"}, 1, 1, 0};
    int old = exchange(self, &s, args, nargs, kwnames);
    return old < 0 ? NULL : PyBool_FromLong(old);
}

static PyObject *
store(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicBool.store", {"value"}, 1, 1, 0};
    return exchange(self, &s, args, nargs, kwnames) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicBool.compare_and_swap", {"old", "new"}, 2, 2, 0};
    AtomicBool *o = (AtomicBool *)self;
    PyObject *pair[2];
    if (ns_unpack(&s, args, nargs, kwnames, pair) < 0) {
        return NULL;
    }
    int old = PyObject_IsTrue(pair[0]);
    int new = old < 0 ? -1 : PyObject_IsTrue(pair[1]);
    if (new < 0) {
        return NULL;
    }
    ns_used(self);
    bool expected = (bool)old;
    if (ns_cas_or_load(&o->value, &expected, (bool)new, NS_SEQ_CST, NS_SEQ_CST)) {
        Py_RETURN_TRUE;
    }
    ns_record_retries(self, "AtomicBool.compare_and_swap", 1);
    Py_RETURN_FALSE;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"AtomicBool.__init__", {"value"}, 0, 1, 0};
    PyObject *argument;
    if (ns_unpack_init(&s, args, kwargs, &argument) < 0) {
        return -1;
    }
    int value = argument == NULL ? 0 : PyObject_IsTrue(argument);
    if (value < 0 || ns_claim_init(self) < 0) {
        return -1;
    }
    ns_store(&((AtomicBool *)self)->value, (bool)value, NS_RELEASE);
    return 0;
}

static PyObject *
repr(PyObject *self)
{
    return ns_repr_call(self, PyBool_FromLong(ns_load(ns_atomic_bool_place(self), NS_SEQ_CST)));
}

static PyMethodDef methods[] = {
    NS_NO_ARGUMENTS("load", load, DOC_AtomicBool_load),
    NS_METHOD("store", store, DOC_AtomicBool_store),
    NS_METHOD("swap", swap, DOC_AtomicBool_swap),
    NS_METHOD("compare_and_swap", compare_and_swap, DOC_AtomicBool_compare_and_swap),
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(AtomicBool);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_AtomicBool},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, repr},
    {Py_nb_bool, ns_no_bool},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.AtomicBool",
    .basicsize = sizeof(AtomicBool),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_atomic_bool(PyObject *module)
{
    return ns_add_type(module, &spec);
}
