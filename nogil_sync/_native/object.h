/* object.h: what every type of ours does alike. */
#ifndef NS_OBJECT_H
#define NS_OBJECT_H

#include "module.h"

#include <stddef.h>

/* Members of a type whose struct has a `weakrefs` field. */
#define NS_WEAKREF_MEMBERS(Struct)                                                            \
    {                                                                                         \
        {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(Struct, weakrefs), Py_READONLY, NULL}, \
        {                                                                                     \
            NULL, 0, 0, 0, NULL                                                               \
        }                                                                                     \
    }

/* `__reduce__`: cannot be pickled, nor copied. */
PyObject *ns_reduce(PyObject *self, PyObject *unused);
#define NS_NO_PICKLE \
    {"__reduce__", ns_reduce, METH_NOARGS, PyDoc_STR("Raise ``TypeError``: it is not pickled.")}

/* `Type[argument]`: generic at run time. */
#define NS_GENERIC        \
    {"__class_getitem__", \
     Py_GenericAlias,     \
     METH_O | METH_CLASS, \
     PyDoc_STR("Return the type with this argument, as an annotation.")}

/* nb_bool of objects whose truth could only mislead. */
int ns_no_bool(PyObject *self);

/* Sets the RuntimeError for an operation on an object whose __init__ never ran; returns NULL. */
PyObject *ns_not_initialized(PyObject *self);
/* Sets the RuntimeError for what needs parts of a module that is already taken apart; returns NULL. */
PyObject *ns_shutting_down(void);
/* For a second __init__; returns -1. */
int ns_initialized_twice(PyObject *self);
/* The repr of an object whose __init__ never ran. */
PyObject *ns_repr_uninitialized(PyObject *self);
/* "<module.Class object at 0x..., state>" */
PyObject *ns_repr_state(PyObject *self, const char *state);

/* "Class(value)"; steals the reference to value, which may be NULL with an exception set. */
PyObject *ns_repr_call(PyObject *self, PyObject *value);

/* The end of a tp_dealloc: weak references, memory, the type's count. */
void ns_free_object(PyObject *self, PyObject **weakrefs);

/* Creates a type. The interpreter's own errors name it as one that Python code defines: by the last
 * part of its name, without the module. */
PyObject *ns_new_type(PyObject *module, PyType_Spec *spec, PyObject *bases);

/* Creates the type and adds it to the module. 0 or -1. */
int ns_add_type(PyObject *module, PyType_Spec *spec);

/* Shorthand for vectorcall methods with named parameters. */
#define NS_METHOD(name, function, doc) \
    {name, _PyCFunction_CAST(function), METH_FASTCALL | METH_KEYWORDS, doc}

#endif
