#include "object.h"

#include <string.h>

#include "arguments.h"

/* Raises with the name of the object's type in the place of %U. */
static void
raise_of(PyObject *error, const char *format, PyObject *self)
{
    PyObject *name = PyType_GetName(Py_TYPE(self));
    if (name != NULL) {
        PyErr_Format(error, format, name);
        Py_DECREF(name);
    }
}

PyObject *
ns_reduce(PyObject *self, PyObject *Py_UNUSED(unused))
{
    raise_of(PyExc_TypeError, "cannot pickle or copy '%U' object", self);
    return NULL;
}

int
ns_no_bool(PyObject *self)
{
    raise_of(PyExc_TypeError,
             "the truth of '%U' object would always be true; compare its value instead",
             self);
    return -1;
}

PyObject *
ns_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    return ns_allocate(type);
}

PyObject *
ns_refuse_abstract(PyTypeObject *type)
{
    PyObject *none = PyTuple_New(0); /* an instance of object is refused in the same words */
    PyObject *self = none ? PyBaseObject_Type.tp_new(type, none, NULL) : NULL;
    Py_XDECREF(none);
    return self;
}

int
ns_initialized_twice(PyObject *self)
{
    raise_of(PyExc_RuntimeError, "%U object is already initialized", self);
    return -1;
}

int
ns_check_initialized_slow(PyObject *self)
{
    raise_of(
        PyExc_RuntimeError, "%U object is not initialized: its __init__() was not called", self);
    return -1;
}

PyObject *
ns_shutting_down(void)
{
    PyErr_SetString(PyExc_RuntimeError, "nogil_sync is shutting down with its interpreter");
    return NULL;
}

PyObject *
ns_repr_uninitialized(PyObject *self)
{
    PyObject *name = PyType_GetName(Py_TYPE(self));
    PyObject *repr = name ? PyUnicode_FromFormat("<%U object, not initialized>", name) : NULL;
    Py_XDECREF(name);
    return repr;
}

PyObject *
ns_repr_state(PyObject *self, const char *state)
{
    PyObject *name = PyType_GetFullyQualifiedName(Py_TYPE(self));
    PyObject *repr = name ? PyUnicode_FromFormat("<%U object at %p, %s>", name, self, state) : NULL;
    Py_XDECREF(name);
    return repr;
}

PyObject *
ns_repr_lock(PyObject *self, bool locked, unsigned long long owner, const char *more,
             size_t waiters)
{
    char state[160], owned[48] = "", waited_for[48] = "";
    if (locked && owner != 0) {
        PyOS_snprintf(owned, sizeof(owned), ", owner=%llu", owner);
    }
    if (waiters != 0) {
        PyOS_snprintf(waited_for, sizeof(waited_for), ", waiters=%zu", waiters);
    }
    PyOS_snprintf(state,
                  sizeof(state),
                  "%s%s%s%s",
                  locked ? "locked" : "unlocked",
                  owned,
                  locked ? more : "",
                  waited_for);
    return ns_repr_state(self, state);
}

PyObject *
ns_repr_call(PyObject *self, PyObject *value)
{
    PyObject *name = value ? PyType_GetName(Py_TYPE(self)) : NULL;
    PyObject *repr = name ? PyUnicode_FromFormat("%U(%R)", name, value) : NULL;
    Py_XDECREF(name);
    Py_XDECREF(value);
    return repr;
}

int
ns_traverse_type(PyObject *self, visitproc visit, void *arg)
{
    (void)arg;
    Py_VISIT(Py_TYPE(self));
    return 0;
}

void
ns_begin_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    if (((ns_object *)self)->weakrefs != NULL) { /* a callback must see no half-freed object */
        PyObject_ClearWeakRefs(self);
    }
}

void
ns_free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

void
ns_dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    ns_free_object(self);
}

/* The vectorcall of descriptors of methods without parameters: the interpreter's own, but that
 * arguments are refused in our words. */
static PyObject *
call_without_arguments(PyObject *function, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyMethodDescrObject *descr = (PyMethodDescrObject *)function;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    PyTypeObject *type = PyDescr_TYPE(descr);
    const char *method = descr->d_method->ml_name;
    if (ns_unlikely(nargs < 1)) {
        return PyErr_Format(
            PyExc_TypeError, "unbound method %s.%s() needs an argument", type->tp_name, method);
    }
    if (ns_unlikely(!PyObject_TypeCheck(args[0], type))) {
        return PyErr_Format(PyExc_TypeError,
                            "descriptor '%s' for '%s' objects doesn't apply to a '%s' object",
                            method,
                            type->tp_name,
                            Py_TYPE(args[0])->tp_name);
    }
    if (ns_likely(nargs == 1 && kwnames == NULL)) {
        return descr->d_method->ml_meth(args[0], NULL);
    }
    char name[100];
    PyOS_snprintf(name, sizeof(name), "%s.%s", type->tp_name, method);
    ns_signature s = {name, {NULL}, 0, 0, 0};
    return ns_refuse(&s, args + 1, nargs - 1, kwnames);
}

static int
refuse_in_our_words(PyTypeObject *type)
{
    PyObject *dict = PyType_GetDict(type);
    int result = 0;
    for (PyMethodDef *m = type->tp_methods; m != NULL && m->ml_name != NULL && result == 0; m++) {
        PyObject *descr;
        if (m->ml_flags == METH_NOARGS &&
            (result = PyDict_GetItemStringRef(dict, m->ml_name, &descr)) == 1) {
            if (Py_IS_TYPE(descr, &PyMethodDescr_Type)) {
                ((PyMethodDescrObject *)descr)->vectorcall = call_without_arguments;
            }
            Py_DECREF(descr);
            result = 0;
        }
    }
    Py_DECREF(dict);
    return result;
}

/* What calling a type does without arguments, in fewer steps. It is not inherited, and what Python
 * code gives the type instead of its __new__ and __init__ is used. */
static PyObject *
make_object(PyObject *class, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    PyTypeObject *type = (PyTypeObject *)class;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *positional = PyTuple_New(nargs), *named = NULL, *object = NULL;
    if (positional == NULL) {
        return NULL;
    }
    if (ns_likely(nargs + nkw == 0)) {
        object = ns_likely(type->tp_new == ns_new) ? ns_allocate(type)
                                                   : type->tp_new(type, positional, NULL);
        if (object != NULL && ns_likely(PyObject_TypeCheck(object, type)) &&
            ns_unlikely(Py_TYPE(object)->tp_init(object, positional, NULL) < 0)) {
            Py_CLEAR(object);
        }
        Py_DECREF(positional);
        return object;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    }
    int result = nkw == 0 || (named = PyDict_New()) != NULL ? 0 : -1;
    for (Py_ssize_t i = 0; i < nkw && result == 0; i++) {
        result = PyDict_SetItem(named, PyTuple_GET_ITEM(kwnames, i), args[nargs + i]);
    }
    if (result == 0) {
        object = Py_TYPE(class)->tp_call(class, positional, named);
    }
    Py_XDECREF(named);
    Py_DECREF(positional);
    return object;
}

PyObject *
ns_new_type(PyObject *module, PyType_Spec *spec, PyObject *bases)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, bases);
    const char *dot = strrchr(spec->name, '.');
    if (type != NULL && dot != NULL) {
        ((PyTypeObject *)type)->tp_name = dot + 1;
    }
    if (type != NULL && refuse_in_our_words((PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    if (type != NULL && ((PyTypeObject *)type)->tp_new != NULL) {
        ((PyTypeObject *)type)->tp_vectorcall = make_object;
    }
    return type;
}

int
ns_add_kept_type(PyObject *module, PyType_Spec *spec, PyObject **kept)
{
    *kept = ns_new_type(module, spec, NULL);
    return *kept == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)*kept);
}

int
ns_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type;
    int result = ns_add_kept_type(module, spec, &type);
    Py_XDECREF(type);
    return result;
}

int
ns_add_functions(PyObject *module, PyMethodDef *functions)
{
    PyObject *name = PyUnicode_FromString("nogil_sync");
    int result = name == NULL ? -1 : PyModule_AddFunctions(module, functions);
    for (PyMethodDef *each = functions; each->ml_name != NULL && result == 0; each++) {
        PyObject *function = PyObject_GetAttrString(module, each->ml_name);
        result = function ? PyObject_SetAttrString(function, "__module__", name) : -1;
        Py_XDECREF(function);
    }
    Py_XDECREF(name);
    return result;
}
