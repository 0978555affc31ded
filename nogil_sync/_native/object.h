/* object.h: what every type of ours does alike. */
#ifndef NS_OBJECT_H
#define NS_OBJECT_H

#include "arguments.h"
#include "module.h"

#include "core/atomics.h"

#include <stddef.h>

/* What the struct of each type begins with. `foreign_uses` is sharing.h's, `init_state` is the next
 * paragraph's. */
#define NS_OBJECT_HEAD             \
    PyObject_HEAD                  \
    PyObject *weakrefs;            \
    _Atomic uint16_t foreign_uses; \
    _Atomic uint8_t init_state;

typedef struct {
    NS_OBJECT_HEAD
} ns_object;

/* Construction. tp_new makes a valid object: its struct is zero bytes, which every type reads as
 * its defaults, or tp_new fills in what cannot be zero. tp_init parses its arguments, which may run
 * user code, and then claims the object: a second __init__ is an error and changes nothing.
 *
 * A type whose methods make no sense without what __init__ was given (a Pool's `new`, a Channel's
 * capacity) also finishes: its methods raise RuntimeError before that. They check where a fast path
 * has failed, so its zero bytes must make all fast paths fail.
 *
 *     NS_FRESH        by tp_new
 *     NS_CLAIMED      by ns_claim_init; for most types the last state
 *     NS_INITIALIZED  by ns_finish_init, a release: publishes what __init__ wrote
 */
enum { NS_FRESH, NS_CLAIMED, NS_INITIALIZED };

/* Returns a new object of zero bytes, or NULL with an exception. */
PyObject *ns_refuse_abstract(PyTypeObject *type);
static inline PyObject *
ns_allocate(PyTypeObject *type)
{
    return ns_likely(!PyType_HasFeature(type, Py_TPFLAGS_IS_ABSTRACT)) ? type->tp_alloc(type, 0)
                                                                       : ns_refuse_abstract(type);
}

/* tp_new of a type whose defaults are zero bytes. Ignores the arguments, which are for tp_init. */
PyObject *ns_new(PyTypeObject *type, PyObject *args, PyObject *kwargs);

/* For tp_init: 0 for the first call, -1 with RuntimeError for any other. */
int ns_initialized_twice(PyObject *self);
static inline int
ns_claim_init(PyObject *self)
{
    uint8_t state = NS_FRESH;
    return ns_likely(ns_cas(&((ns_object *)self)->init_state, &state, NS_CLAIMED, NS_RELAXED))
               ? 0
               : ns_initialized_twice(self);
}

/* After ns_claim_init: `__init__` is done, or has failed and may be called again. */
static inline void
ns_finish_init(PyObject *self, bool succeeded)
{
    ns_store(&((ns_object *)self)->init_state, succeeded ? NS_INITIALIZED : NS_FRESH, NS_RELEASE);
}

static inline bool
ns_is_initialized(PyObject *self)
{
    return ns_load(&((ns_object *)self)->init_state, NS_ACQUIRE) == NS_INITIALIZED;
}

/* 0, or -1 with RuntimeError if no __init__ has finished. */
int ns_check_initialized_slow(PyObject *self);
static inline int
ns_check_initialized(PyObject *self)
{
    return ns_likely(ns_is_initialized(self)) ? 0 : ns_check_initialized_slow(self);
}

/* tp_init of a type that takes no arguments. */
#define NS_INIT_WITHOUT_ARGUMENTS(name)                                               \
    static int init(PyObject *self, PyObject *args, PyObject *kwargs)                 \
    {                                                                                 \
        static const ns_signature s = {name ".__init__", {NULL}, 0, 0, 0};            \
        PyObject *none[NS_MAX_PARAMETERS];                                            \
        return ns_unpack_init(&s, args, kwargs, none) < 0 ? -1 : ns_claim_init(self); \
    }

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

/* Sets the RuntimeError for what needs parts of a module that is already taken apart; returns
 * NULL. */
PyObject *ns_shutting_down(void);
/* The repr of an object whose __init__ never ran. */
PyObject *ns_repr_uninitialized(PyObject *self);
/* "<module.Class object at 0x..., state>" */
PyObject *ns_repr_state(PyObject *self, const char *state);
/* The same for a lock: "locked, owner=..., waiters=...", without the owner if it is not known (0),
 * and without the waiters if there are none. `more` follows the owner. */
PyObject *ns_repr_lock(PyObject *self, bool locked, unsigned long long owner, const char *more,
                       size_t waiters);

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
/* The same, and keeps the type in *kept, which is in the module's state. */
int ns_add_kept_type(PyObject *module, PyType_Spec *spec, PyObject **kept);

/* Adds public functions: they appear to belong to nogil_sync. 0 or -1. */
int ns_add_functions(PyObject *module, PyMethodDef *functions);

/* A method without parameters. From 3.14 on the interpreter calls METH_NOARGS with a third fewer
 * instructions than NS_METHOD. It would refuse arguments in words of its own: ns_new_type has it
 * use ours for all calls but those of a bound method that was fetched before. */
#define NS_NO_ARGUMENTS(name, function, doc) {name, function, METH_NOARGS, doc}

/* A vectorcall method with named parameters. */
#define NS_METHOD(name, function, doc) \
    {name, _PyCFunction_CAST(function), METH_FASTCALL | METH_KEYWORDS, doc}

#endif
