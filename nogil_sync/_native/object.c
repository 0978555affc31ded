#include "object.h"

PyObject *
ns_reduce(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyErr_Format(
        PyExc_TypeError, "cannot pickle or copy '%.200s' object", Py_TYPE(self)->tp_name);
}

int
ns_no_bool(PyObject *self)
{
    PyErr_Format(PyExc_TypeError,
                 "the truth of '%.200s' object would always be true; compare its value instead",
                 Py_TYPE(self)->tp_name);
    return -1;
}

PyObject *
ns_not_initialized(PyObject *self)
{
    return PyErr_Format(PyExc_RuntimeError,
                        "'%.200s' object is not initialized: its __init__() was not called",
                        Py_TYPE(self)->tp_name);
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
    PyErr_Format(
        PyExc_RuntimeError, "'%.200s' object is already initialized", Py_TYPE(self)->tp_name);
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

int
ns_add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}
