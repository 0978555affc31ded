#include "object.h"

#include <string.h>

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
ns_not_initialized(PyObject *self)
{
    raise_of(
        PyExc_RuntimeError, "%U object is not initialized: its __init__() was not called", self);
    return NULL;
}

PyObject *
ns_shutting_down(void)
{
    PyErr_SetString(PyExc_RuntimeError, "nogil_sync is shutting down with its interpreter");
    return NULL;
}

int
ns_initialized_twice(PyObject *self)
{
    raise_of(PyExc_RuntimeError, "%U object is already initialized", self);
    return -1;
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

PyObject *
ns_new_type(PyObject *module, PyType_Spec *spec, PyObject *bases)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, bases);
    const char *dot = strrchr(spec->name, '.');
    if (type != NULL && dot != NULL) {
        ((PyTypeObject *)type)->tp_name = dot + 1;
    }
    return type;
}

int
ns_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = ns_new_type(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}
