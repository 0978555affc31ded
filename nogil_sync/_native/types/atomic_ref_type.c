/* AtomicRef: a reference that threads read without a lock (tryref.h) and swap atomically. */
#include "arguments.h"
#include "docs.h"
#include "object.h"
#include "interpreter/contention.h"
#include "interpreter/sharing.h"
#include "interpreter/tryref.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_ref value; /* owns a reference; never NULL */
} AtomicRef;

static PyObject *
load(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_used(self);
    return ns_load_ref(&((AtomicRef *)self)->value);
}

/* The previous value, its reference now the caller's. */
static PyObject *
exchange(PyObject *self, PyObject *value)
{
    ns_used(self);
    ns_publish(value);
    return ns_swap(&((AtomicRef *)self)->value, Py_NewRef(value), NS_SEQ_CST);
}

/* Returns 1 if `old` was there and `value` replaced it, else 0. The caller has a reference to
 * both. */
static int
replace(PyObject *self, PyObject *old, PyObject *value)
{
    PyObject *expected = old;
    ns_used(self);
    ns_publish(value);
    Py_INCREF(value);
    if (ns_cas_or_load(&((AtomicRef *)self)->value, &expected, value, NS_SEQ_CST, NS_SEQ_CST)) {
        Py_DECREF(old); /* the slot's reference; this may run a finaliser, after the replacement */
        return 1;
    }
    Py_DECREF(value);
    return 0;
}

static PyObject *
swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicRef.swap", {"value"}, 1, 1, 0};
    PyObject *value;
    return ns_unpack(&s, args, nargs, kwnames, &value) < 0 ? NULL : exchange(self, value);
}

static PyObject *
store(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicRef.store", {"value"}, 1, 1, 0};
    PyObject *value;
    if (ns_unpack(&s, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    Py_DECREF(exchange(self, value));
    Py_RETURN_NONE;
}

static PyObject *
compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicRef.compare_and_swap", {"old", "new"}, 2, 2, 0};
    PyObject *pair[2];
    if (ns_unpack(&s, args, nargs, kwnames, pair) < 0) {
        return NULL;
    }
    if (replace(self, pair[0], pair[1])) {
        Py_RETURN_TRUE;
    }
    ns_record_retries(self, "AtomicRef.compare_and_swap", 1);
    Py_RETURN_FALSE;
}

static PyObject *
update(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"AtomicRef.update", {"fn"}, 1, 1, 0};
    PyObject *fn;
    if (ns_unpack(&s, args, nargs, kwnames, &fn) < 0) {
        return NULL;
    }
    for (;;) {
        PyObject *current = load(self, NULL);
        PyObject *value = PyObject_CallOneArg(fn, current);
        if (value == NULL) {
            Py_DECREF(current);
            return NULL;
        }
        int replaced = replace(self, current, value);
        Py_DECREF(current);
        if (replaced) {
            return value;
        }
        Py_DECREF(value);
        ns_record_retries(self, "AtomicRef.update", 1);
        if (PyErr_CheckSignals() < 0) { /* other threads may be faster for ever */
            return NULL;
        }
    }
}

static PyObject *
new_ref(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *self = ns_allocate(type);
    if (self != NULL) {
        ns_store(&((AtomicRef *)self)->value, Py_None, NS_RELAXED);
    }
    return self;
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"AtomicRef.__init__", {"value"}, 0, 1, 0};
    PyObject *value;
    if (ns_unpack_init(&s, args, kwargs, &value) < 0 || ns_claim_init(self) < 0) {
        return -1;
    }
    if (value != NULL) {
        Py_DECREF(exchange(self, value));
    }
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&((AtomicRef *)self)->value, NS_RELAXED));
    return 0;
}

/* Leaves a usable object behind, because finalisers in the same cycle may still use it. */
static int
clear(PyObject *self)
{
    Py_DECREF(ns_swap(&((AtomicRef *)self)->value, Py_None, NS_SEQ_CST));
    return 0;
}

static void
dealloc(PyObject *self)
{
    AtomicRef *o = (AtomicRef *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* there may be a chain of a million */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_DECREF(ns_load(&o->value, NS_RELAXED));
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
repr(PyObject *self)
{
    PyObject *value = ns_load_ref(&((AtomicRef *)self)->value);
    int inside = Py_ReprEnter(self);
    if (inside != 0) {
        Py_DECREF(value);
        PyObject *name = inside < 0 ? NULL : PyType_GetName(Py_TYPE(self));
        PyObject *repr = name ? PyUnicode_FromFormat("%U(...)", name) : NULL;
        Py_XDECREF(name);
        return repr;
    }
    PyObject *repr = ns_repr_call(self, value);
    Py_ReprLeave(self);
    return repr;
}

static PyMethodDef methods[] = {
    NS_NO_ARGUMENTS("load", load, DOC_AtomicRef_load),
    NS_METHOD("store", store, DOC_AtomicRef_store),
    NS_METHOD("swap", swap, DOC_AtomicRef_swap),
    NS_METHOD("compare_and_swap", compare_and_swap, DOC_AtomicRef_compare_and_swap),
    NS_METHOD("update", update, DOC_AtomicRef_update),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(AtomicRef);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_AtomicRef},
    {Py_tp_new, new_ref},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_nb_bool, ns_no_bool},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.AtomicRef",
    .basicsize = sizeof(AtomicRef),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_atomic_ref(PyObject *module)
{
    return ns_add_type(module, &spec);
}
