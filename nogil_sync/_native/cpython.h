/* cpython.h: what the extension knows of CPython's insides, by version. */
#ifndef NS_CPYTHON_H
#define NS_CPYTHON_H

#include "module.h"

/* The newest version whose sources were read. On a newer one the build stops, unless the option
 * -Dunknown_python=true says that objects may do without what is private. */
#define NS_KNOWN_VERSION (PY_VERSION_HEX < 0x03100000)
#if !NS_KNOWN_VERSION && !defined(NS_UNKNOWN_PYTHON)
#error "this version of Python is not known yet; build with -Dunknown_python=true to try it"
#endif

#define NS_GC_BITS_DEFERRED 64 /* _PyGC_BITS_DEFERRED, of no public header */

/* Whether objects can defer their counts (PyUnstable_Object_EnableDeferredRefcount). */
#define NS_CAN_DEFER (PY_VERSION_HEX >= 0x030E0000)

/* Whether the object defers its reference count. */
static inline bool
ns_is_deferred(PyObject *object)
{
    return __atomic_load_n(&object->ob_gc_bits, __ATOMIC_RELAXED) & NS_GC_BITS_DEFERRED;
}

/* Sets the mark that immortal objects carry from 3.14 on, too. With all other threads stopped. */
static inline void
ns_mark_deferred(PyObject *object)
{
#if NS_CAN_DEFER
    __atomic_fetch_or(&object->ob_gc_bits, NS_GC_BITS_DEFERRED, __ATOMIC_RELAXED);
#else
    (void)object;
#endif
}

/* The part of the count that the owning thread keeps. */
static inline uint32_t
ns_local_count(PyObject *object)
{
    return __atomic_load_n(&object->ob_ref_local, __ATOMIC_RELAXED);
}

#endif
