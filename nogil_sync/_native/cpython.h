/* cpython.h: what the extension knows of CPython's insides, by version. */
#ifndef NS_CPYTHON_H
#define NS_CPYTHON_H

#include "module.h"

#define NS_GC_BITS_DEFERRED 64 /* _PyGC_BITS_DEFERRED, of no public header */

/* Whether objects can defer their counts (PyUnstable_Object_EnableDeferredRefcount). */
#define NS_CAN_DEFER (PY_VERSION_HEX >= 0x030E0000)

/* Whether the object defers its reference count. */
static inline bool
ns_is_deferred(PyObject *object)
{
    return __atomic_load_n(&object->ob_gc_bits, __ATOMIC_RELAXED) & NS_GC_BITS_DEFERRED;
}

/* The part of the count that the owning thread keeps. */
static inline uint32_t
ns_local_count(PyObject *object)
{
    return __atomic_load_n(&object->ob_ref_local, __ATOMIC_RELAXED);
}

#endif
