/* object.h: what every type of ours does alike. */
#ifndef NS_OBJECT_H
#define NS_OBJECT_H

#include "module.h"

#include "core/atomics.h"

#include <stddef.h>

/* What the struct of each type begins with. `foreign_uses` is sharing.h's. */
#define NS_OBJECT_HEAD  \
    PyObject_HEAD       \
    PyObject *weakrefs; \
    _Atomic uint32_t foreign_uses;

typedef struct {
    NS_OBJECT_HEAD
} ns_object;

/* Where a type puts a word that threads fight over. Every call reads the header: the owner, the
 * count and the type, 32 bytes, which begin at a multiple of 16. So what lies at this offset shares
 * no line of 64 bytes with them. A struct that ends at NS_CACHE_LINE shares none with the next
 * object either, since the allocator puts objects of that size at multiples of it. */
#define NS_HOT_OFFSET 80
#define NS_APART_FROM_HEADER (NS_HOT_OFFSET - sizeof(ns_object))

/* Members of a type whose struct begins with NS_OBJECT_HEAD. */
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

/* tp_traverse and tp_dealloc of a type whose objects refer to no other object. */
int ns_traverse_type(PyObject *self, visitproc visit, void *arg);
void ns_dealloc(PyObject *self);

/* The start of a tp_dealloc: the collector and weak references let go of the object. */
void ns_begin_dealloc(PyObject *self);
/* Its end: the memory, and the type's count. */
void ns_free_object(PyObject *self);

/* Creates a type. The interpreter's own errors name it as one that Python code defines: by the last
 * part of its name, without the module. */
PyObject *ns_new_type(PyObject *module, PyType_Spec *spec, PyObject *bases);

/* Creates the type and adds it to the module. 0 or -1. */
int ns_add_type(PyObject *module, PyType_Spec *spec);

/* Shorthand for vectorcall methods with named parameters. */
/* A method without parameters. From 3.14 on the interpreter calls METH_NOARGS with a third fewer
 * instructions than NS_METHOD. It would refuse arguments in words of its own: ns_new_type has it
 * use ours for all calls but those of a bound method that was fetched before. */
#define NS_NO_ARGUMENTS(name, function, doc) {name, function, METH_NOARGS, doc}

#define NS_METHOD(name, function, doc) \
    {name, _PyCFunction_CAST(function), METH_FASTCALL | METH_KEYWORDS, doc}

#endif
