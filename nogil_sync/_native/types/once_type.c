/* once and Once: a result that is read without a lock, in front of a cell.
 *
 * The cell decides which thread runs the function, which threads wait, and what becomes of
 * exceptions. It is Python code (nogil_sync/_common/once.py), and its cost is paid once. This file
 * makes the later calls cheap: it keeps the first value that the cell returns in the object, and
 * from then on a call is a load of it.
 *
 *   value   NULL -> the result, by a compare-and-swap: several calls may return from the cell at
 *           the same time, all with the same result. Only the collector changes it again.
 *   cell    NULL -> the cell, in __init__. It never changes again.
 *
 * Ordering. The compare-and-swap is a release and the load an acquire, so a thread that gets the
 * value sees what the function did.
 *
 * Why the value cannot vanish under a reader. The object owns it until the object dies, and the
 * caller of an object has a reference to that. There remains tp_clear. It runs only when nobody can
 * reach the object any more, after the finalisers of the garbage. But gc.get_objects() in another
 * thread can still hand the object out at that moment. So tp_clear swaps the value for None, which
 * a later call returns. A call that is in progress is safe because it reads by the protocol of
 * tryref.h: it takes a reference only to a live object and then checks the slot again. This costs
 * an increment and one load. The cell needs no clearing, and so no protocol: it is a Python object
 * whose own tp_clear breaks any cycle through it.
 */
#include "arguments.h"
#include "docs.h"
#include "object.h"
#include "interpreter/sharing.h"
#include "interpreter/tryref.h"

/* The fields that both types begin with. */
typedef struct {
    NS_OBJECT_HEAD
    ns_ref value;
    ns_ref cell;
} Once;

typedef struct {
    Once once;
    vectorcallfunc vectorcall;
} OnceFunction;

/* Returns a borrowed reference; NULL with RuntimeError if __init__ has not run. */
static PyObject *
cell_of(PyObject *self)
{
    return ns_check_initialized(self) < 0 ? NULL : ns_load(&((Once *)self)->cell, NS_RELAXED);
}

/* Keeps what the cell returned, unless it raised. From then on it is the result. */
static PyObject *
keep(PyObject *self, PyObject *value)
{
    PyObject *none_yet = NULL;
    if (value != NULL) {
        ns_publish(value);
        if (!ns_cas(&((Once *)self)->value, &none_yet, Py_NewRef(value), NS_SEQ_CST)) {
            Py_DECREF(value);
        }
    }
    return value;
}

static PyObject *
done(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_load(&((Once *)self)->value, NS_ACQUIRE) != NULL) {
        Py_RETURN_TRUE;
    }
    PyObject *cell = cell_of(self);
    return cell == NULL ? NULL : PyObject_CallMethodNoArgs(cell, ns_state_of(self)->names.done);
}

/* For __init__: makes the cell, of this class and with these arguments. Returns 0, or -1 with an
 * exception. */
static int
make_cell(PyObject *self, PyObject *class, PyObject *fn, int retry)
{
    if (class == NULL) { /* the module is cleared */
        ns_shutting_down();
        return -1;
    }
    PyObject *truth = retry ? Py_True : Py_False;
    PyObject *cell = fn == NULL ? PyObject_CallFunctionObjArgs(class, truth, NULL)
                                : PyObject_CallFunctionObjArgs(class, fn, truth, NULL);
    if (cell == NULL) {
        return -1;
    }
    if (ns_claim_init(self) < 0) {
        Py_DECREF(cell);
        return -1;
    }
    ns_store(&((Once *)self)->cell, cell, NS_RELAXED);
    ns_finish_init(self, true);
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Once *o = (Once *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(ns_load(&o->value, NS_RELAXED));
    Py_VISIT(ns_load(&o->cell, NS_RELAXED));
    return 0;
}

static int
clear(PyObject *self)
{
    ns_clear_function(&((Once *)self)->value);
    return 0;
}

static void
drop_parts(PyObject *self)
{
    Once *o = (Once *)self;
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(ns_load(&o->value, NS_RELAXED));
    Py_XDECREF(ns_load(&o->cell, NS_RELAXED));
}

/* ---- Once ---- */

static void
dealloc_once(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc_once) /* there may be a chain of a million */
    drop_parts(self);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
do_slow(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *cell = cell_of(self);
    PyObject *run = cell ? PyObject_GetAttrString(cell, "do") : NULL;
    PyObject *value = run ? PyObject_Vectorcall(run, args, nargs, kwnames) : NULL;
    Py_XDECREF(run);
    return keep(self, value);
}

static PyObject *
do_(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Once.do(self, fn, /, *args, **kwargs)", {NULL}, 0, 0, 0};
    if (nargs == 0) {
        return ns_refuse(&s, args, nargs, kwnames);
    }
    ns_used(self);
    PyObject *value = ns_load_ref(&((Once *)self)->value);
    return ns_likely(value != NULL) ? value : do_slow(self, args, nargs, kwnames);
}

static int
init_once(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"Once.__init__", {"retry"}, 0, 1, 1};
    PyObject *given;
    ns_state *state = ns_state_of(self);
    if (state == NULL || ns_unpack_init(&s, args, kwargs, &given) < 0) {
        return -1;
    }
    int retry = given == NULL ? 0 : PyObject_IsTrue(given);
    if (retry < 0) {
        return -1;
    }
    return make_cell(self, state->once_cell, NULL, retry);
}

static PyObject *
repr_once(PyObject *self)
{
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    PyObject *state = PyObject_CallMethod(cell_of(self), "state", NULL), *repr = NULL;
    const char *text = state ? PyUnicode_AsUTF8(state) : NULL;
    if (text != NULL) {
        repr = ns_repr_state(self, text);
    }
    Py_XDECREF(state);
    return repr;
}

static PyMethodDef once_methods[] = {
    NS_METHOD("do", do_, DOC_Once_do),
    NS_NO_ARGUMENTS("done", done, DOC_Once_done),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef once_members[] = NS_WEAKREF_MEMBERS(Once);

static PyType_Slot once_slots[] = {
    {Py_tp_doc, DOC_Once},
    {Py_tp_new, ns_new},
    {Py_tp_init, init_once},
    {Py_tp_dealloc, dealloc_once},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr_once},
    {Py_tp_methods, once_methods},
    {Py_tp_members, once_members},
    {0, NULL},
};

static PyType_Spec once_spec = {
    .name = "nogil_sync.Once",
    .basicsize = sizeof(Once),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = once_slots,
};

/* ---- OnceFunction: what `once` returns for a function ---- */

static PyObject *
call_slow(PyObject *self)
{
    PyObject *cell = cell_of(self);
    return cell == NULL
               ? NULL
               : keep(self, PyObject_CallMethodNoArgs(cell, ns_state_of(self)->names.call));
}

static PyObject *
call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    static const ns_signature s = {"OnceFunction.__call__", {NULL}, 0, 0, 0};
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (ns_unlikely(nargs != 0 || (kwnames != NULL && PyTuple_GET_SIZE(kwnames) != 0))) {
        return ns_refuse(&s, args, nargs, kwnames);
    }
    ns_used(self);
    PyObject *value = ns_load_ref(&((Once *)self)->value);
    return ns_likely(value != NULL) ? value : call_slow(self);
}

/* `__call__`, for its signature. */
static PyObject *
call_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return call(self, args, (size_t)nargs, kwnames);
}

static PyObject *
new_function(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *self = ns_new(type, args, kwargs);
    if (self != NULL) {
        ((OnceFunction *)self)->vectorcall = call;
    }
    return self;
}

static int
init_function(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {
        "OnceFunction.__init__(self, fn, /, *, retry=False)", {"", "retry"}, 1, 2, 1};
    PyObject *given[2];
    ns_state *state = ns_state_of(self);
    if (state == NULL || ns_unpack_init(&s, args, kwargs, given) < 0) {
        return -1;
    }
    int retry = given[1] == NULL ? 0 : PyObject_IsTrue(given[1]);
    if (retry < 0 || make_cell(self, state->once_function_cell, given[0], retry) < 0) {
        return -1;
    }
    PyObject *dressed = PyObject_CallMethod(cell_of(self), "dress", "(O)", self);
    Py_XDECREF(dressed);
    return dressed == NULL ? -1 : 0;
}

static PyObject *
repr_function(PyObject *self)
{
    return !ns_is_initialized(self) ? ns_repr_uninitialized(self)
                                    : PyObject_CallMethod(cell_of(self), "describe", "(O)", self);
}

/* If there is no memory, PyObject_ClearManagedDict writes a MemoryError of its own to stderr, and
 * loses the exception that the thread is raising. */
static void
clear_dict(PyObject *self)
{
    PyObject *raised = PyErr_GetRaisedException();
    PyObject_ClearManagedDict(self);
    PyErr_SetRaisedException(raised);
}

static void
dealloc_function(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc_function)
    drop_parts(self);
    clear_dict(self);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static int
traverse_function(PyObject *self, visitproc visit, void *arg)
{
    int result = PyObject_VisitManagedDict(self, visit, arg);
    return result != 0 ? result : traverse(self, visit, arg);
}

static int
clear_function(PyObject *self)
{
    PyObject_ClearManagedDict(self);
    return clear(self);
}

static PyMethodDef function_methods[] = {
    {"__call__",
     _PyCFunction_CAST(call_method),
     METH_FASTCALL | METH_KEYWORDS | METH_COEXIST,
     DOC_OnceFunction___call__},
    NS_NO_ARGUMENTS("done", done, DOC_OnceFunction_done),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef function_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(Once, weakrefs), Py_READONLY, NULL},
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(OnceFunction, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef function_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot function_slots[] = {
    {Py_tp_doc, DOC_OnceFunction},
    {Py_tp_new, new_function},
    {Py_tp_init, init_function},
    {Py_tp_dealloc, dealloc_function},
    {Py_tp_traverse, traverse_function},
    {Py_tp_clear, clear_function},
    {Py_tp_repr, repr_function},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, function_methods},
    {Py_tp_members, function_members},
    {Py_tp_getset, function_getset},
    {0, NULL},
};

static PyType_Spec function_spec = {
    .name = "nogil_sync.OnceFunction",
    .basicsize = sizeof(OnceFunction),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
             Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_MANAGED_DICT,
    .slots = function_slots,
};

/* ---- The function `once` ---- */

static PyObject *
once(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"once(fn=None, /, *, retry=False)", {"", "retry"}, 0, 2, 1};
    PyObject *given[2], *result = NULL;
    if (ns_unpack_init(&s, args, kwargs, given) < 0) {
        return NULL;
    }
    PyObject *fn = given[0] != NULL ? given[0] : Py_None;
    PyObject *retry = given[1] != NULL ? given[1] : Py_False;
    ns_state *state = PyModule_GetState(module);
    if (state->once_function == NULL) { /* the module is cleared */
        return ns_shutting_down();
    }
    PyObject *options = Py_BuildValue("{s:O}", "retry", retry);
    if (options == NULL) {
        return NULL;
    }
    if (fn == Py_None) { /* the decorator is called later */
        PyObject *partial = ns_import_attribute("functools", "partial");
        PyObject *type = partial ? PyTuple_Pack(1, state->once_function) : NULL;
        result = type ? PyObject_Call(partial, type, options) : NULL;
        Py_XDECREF(type);
        Py_XDECREF(partial);
    }
    else {
        PyObject *only = PyTuple_Pack(1, fn);
        result = only ? PyObject_Call(state->once_function, only, options) : NULL;
        Py_XDECREF(only);
    }
    Py_DECREF(options);
    return result;
}

static PyMethodDef functions[] = {
    {"once", _PyCFunction_CAST(once), METH_VARARGS | METH_KEYWORDS, DOC_once},
    {NULL, NULL, 0, NULL},
};

/* Adds OnceFunction. Its base is a Python class with the attributes that make it look like the
 * function. */
static int
add_once_function(ns_state *state, PyObject *module, PyObject *base)
{
    PyObject *type = base ? ns_new_type(module, &function_spec, base) : NULL;
    state->once_function = type;
    Py_XDECREF(base);
    return type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
}

/* Imports from nogil_sync._common.once the cells, and what needs no C. */
static int
import_shared(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    PyObject *shared = PyImport_ImportModule("nogil_sync._common.once");
    if (shared == NULL) {
        return -1;
    }
    state->once_cell = PyObject_GetAttrString(shared, "Cell");
    state->once_function_cell = PyObject_GetAttrString(shared, "FunctionCell");
    PyObject *property = PyObject_GetAttrString(shared, "once_property");
    PyObject *base = PyObject_GetAttrString(shared, "Dressed");
    Py_DECREF(shared);
    int result = add_once_function(state, module, base);
    if (state->once_cell == NULL || state->once_function_cell == NULL) {
        result = -1;
    }
    return PyModule_Add(module, "once_property", property) < 0 ? -1 : result;
}

int
ns_add_once(PyObject *module)
{
    return import_shared(module) < 0 || ns_add_type(module, &once_spec) < 0
               ? -1
               : PyModule_AddFunctions(module, functions);
}
