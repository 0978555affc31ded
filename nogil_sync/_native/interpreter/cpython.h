/* cpython.h: all that the extension knows of CPython's insides, by version.
 *
 * Each part says in which versions' sources it was read, and which tests notice a change. The rest
 * of the extension uses the public API and the names below. A version newer than the newest known
 * one stops the build. With -Dunknown_python=true the build goes on, and assumes that nothing here
 * has changed, except for what `pin` writes: then `pin` does not write it.
 *
 * Fields of CPython's structs are not declared atomic. So this is the only file of the extension
 * with the compiler's __atomic functions; their orderings go by the names of core/atomics.h.
 */
#ifndef NS_CPYTHON_H
#define NS_CPYTHON_H

#include "module.h"

#include <string.h>

#include "core/atomics.h"

#define NS_KNOWN_VERSION (PY_VERSION_HEX < 0x03100000)
#if !NS_KNOWN_VERSION && !defined(NS_UNKNOWN_PYTHON)
#error "this version of Python is not known yet; build with -Dunknown_python=true to try it"
#endif

/* ---- Reference counts ----
 *
 * Read in 3.13.5, 3.14.7 and 3.15.0rc2: Include/refcount.h, pycore_object.h, pycore_gc.h, object.c,
 * gc_free_threading.c. These tests notice a change: tests/contract/test_sharing.py,
 * tests/contract/test_pin.py, tests/stress/test_stress_pin.py, tests/stress/test_stress_atomics.py.
 *
 *   ob_tid         the thread that owns the object; 0: no thread does
 *   ob_ref_local   the owner's part of the count; one fixed value: the object is immortal
 *   ob_ref_shared  the part of all other threads, above two bits of flags:
 *                    00 nothing
 *                    01 other threads may take a reference from zero (maybe-weakref)
 *                    10 queued, for its owner to merge the parts
 *                    11 merged: this part is the whole count
 *   ob_gc_bits     64: the count is deferred */

/* Whether objects can defer their counts (PyUnstable_Object_EnableDeferredRefcount). */
#define NS_CAN_DEFER (PY_VERSION_HEX >= 0x030E0000)

/* Whether types may be immortal. A debug build adds one to the total of all references for each new
 * object, for its type, and takes it back only if the type is not immortal. The total would rise
 * for ever, and leaks could not be found by it. Read in 3.14; ./dev leaks notices a change. */
#if defined(Py_REF_DEBUG)
#define NS_CAN_PIN_TYPES 0
#else
#define NS_CAN_PIN_TYPES 1
#endif

/* Where the counts are, for what has to lie on another cache line. */
#define NS_LOCAL_COUNT_OFFSET offsetof(PyObject, ob_ref_local)
#define NS_COUNTS_END (offsetof(PyObject, ob_ref_shared) + sizeof(Py_ssize_t))

#define NS_GC_BITS_DEFERRED 64 /* _PyGC_BITS_DEFERRED, which is in no public header */

static inline uint32_t
ns_local_count(PyObject *object)
{
    return __atomic_load_n(&object->ob_ref_local, NS_RELAXED);
}

static inline Py_ssize_t
ns_shared_count(PyObject *object)
{
    return __atomic_load_n(&object->ob_ref_shared, NS_RELAXED);
}

static inline bool
ns_is_immortal(PyObject *object)
{
    return ns_local_count(object) == _Py_IMMORTAL_REFCNT_LOCAL;
}

/* Whether the calling thread owns the object. */
static inline bool
ns_is_owned(PyObject *object)
{
    return _Py_IsOwnedByCurrentThread(object);
}

static inline bool
ns_is_deferred(PyObject *object)
{
    return __atomic_load_n(&object->ob_gc_bits, NS_RELAXED) & NS_GC_BITS_DEFERRED;
}

/* Takes a reference in the shared part. The owner may do that too. The object must not be
 * immortal. */
static inline void
ns_incref_shared(PyObject *object)
{
    __atomic_fetch_add(&object->ob_ref_shared, 1 << _Py_REF_SHARED_SHIFT, NS_RELAXED);
#ifdef Py_REF_DEBUG
    _Py_INCREF_IncRefTotal();
#endif
}

static inline void
ns_decref_shared(PyObject *object)
{
#ifdef Py_REF_DEBUG
    _Py_DECREF_DecRefTotal();
#endif
    _Py_DecRefShared(object);
}

/* ns_publish marks an object, so that ns_try_incref can take a reference to it in another thread
 * while its shared part is zero. ns_try_incref returns 1 with a reference. It returns 0 if the
 * object is dead, or is another object that was not marked. tryref.h says when these two may be
 * called. From 3.14 on they are public API. Its path for immortal objects loads the count without
 * an acquire, so a fence follows. */
#if PY_VERSION_HEX >= 0x030E0000

static inline void
ns_publish(PyObject *object)
{
    PyUnstable_EnableTryIncRef(object);
}

static inline int
ns_try_incref(PyObject *object)
{
    int taken = PyUnstable_TryIncRef(object);
    ns_fence(NS_ACQUIRE);
    return taken;
}

#else

static inline void
ns_publish(PyObject *object)
{
    if (ns_is_immortal(object)) {
        return;
    }
    Py_ssize_t shared = ns_shared_count(object);
    while ((shared & _Py_REF_SHARED_FLAG_MASK) == 0 &&
           !__atomic_compare_exchange_n(&object->ob_ref_shared,
                                        &shared,
                                        shared | _Py_REF_MAYBE_WEAKREF,
                                        false,
                                        NS_SEQ_CST,
                                        NS_RELAXED)) {
    }
}

static inline int
ns_try_incref(PyObject *object)
{
    uint32_t local = __atomic_load_n(&object->ob_ref_local, NS_ACQUIRE);
    if (local == _Py_IMMORTAL_REFCNT_LOCAL) {
        return 1;
    }
    if (ns_is_owned(object)) {
        __atomic_store_n(&object->ob_ref_local, local + 1, NS_RELAXED);
    }
    else {
        Py_ssize_t shared = ns_shared_count(object);
        do {
            if (shared == 0 || shared == _Py_REF_MERGED) {
                return 0;
            }
        } while (!__atomic_compare_exchange_n(&object->ob_ref_shared,
                                              &shared,
                                              shared + (1 << _Py_REF_SHARED_SHIFT),
                                              false,
                                              NS_ACQUIRE,
                                              NS_RELAXED));
    }
#ifdef Py_REF_DEBUG
    _Py_INCREF_IncRefTotal();
#endif
    return 1;
}

#endif

/* ---- Pinning, with all other threads stopped ----
 *
 * pin.c says why each step is needed. The stores are atomic for the thread sanitizer's sake. */

/* A debug build asserts that an immortal string is interned. */
#ifdef Py_DEBUG
#define NS_CAN_PIN_STRINGS 0
#else
#define NS_CAN_PIN_STRINGS 1
#endif

/* Whether the object waits for its owner to merge the two parts of its count. On 3.13 that may
 * never happen to an object with a deferred count, which the interpreter has made immortal
 * there. */
static inline bool
ns_is_queued(PyObject *object)
{
    return (ns_shared_count(object) & _Py_REF_SHARED_FLAG_MASK) == _Py_REF_QUEUED &&
           (NS_CAN_DEFER || !ns_is_deferred(object));
}

/* From 3.14 on the collector merges the counts of an object whose owner has ended, unless they are
 * merged already, and so writes the local count. An object whose counts are not merged is in none
 * of the collector's lists, so its owner's id may be written here. */
static inline void
ns_merge_counts(PyObject *object)
{
#if NS_CAN_DEFER
    Py_ssize_t shared = ns_shared_count(object), flags = shared & _Py_REF_SHARED_FLAG_MASK;
    if (flags == 0 || flags == _Py_REF_MAYBE_WEAKREF) {
        shared += (Py_ssize_t)object->ob_ref_local << _Py_REF_SHARED_SHIFT;
        __atomic_store_n(&object->ob_ref_shared, shared | _Py_REF_MERGED, NS_RELAXED);
        __atomic_store_n(&object->ob_tid, 0, NS_RELAXED);
    }
#else
    (void)object;
#endif
}

/* A number of references so large that no merge of the counts brings their sum near zero. */
#define NS_EXTRA_REFERENCES ((Py_ssize_t)1 << 56)

/* Makes the object immortal. From 3.14 on immortal objects also carry the mark of deferral. */
static inline void
ns_immortalize(PyObject *object)
{
    ns_merge_counts(object);
    __atomic_fetch_add(&object->ob_ref_shared, NS_EXTRA_REFERENCES, NS_RELAXED);
    __atomic_store_n(&object->ob_ref_local, _Py_IMMORTAL_REFCNT_LOCAL, NS_RELAXED);
#if NS_CAN_DEFER
    __atomic_fetch_or(&object->ob_gc_bits, NS_GC_BITS_DEFERRED, NS_RELAXED);
#endif
}

/* Calls `work` while all other threads are stopped at safe points. `work` must not use Python's
 * allocators: a stopped thread may be inside one. Returns 0, or -1 with an exception.
 *
 * PyUnstable_GC_VisitObjects stops the world around its callback. That is not documented; the
 * stress test of pin would notice a change. The first object ends the visit. */
typedef struct {
    void (*work)(void *argument);
    void *argument;
    bool done;
} ns_stop;

static inline int
ns_first_object(PyObject *Py_UNUSED(any), void *argument)
{
    ns_stop *stop = argument;
    stop->work(stop->argument);
    stop->done = true;
    return 0; /* ends the visit */
}

static inline int
ns_stop_all_threads(void (*work)(void *argument), void *argument)
{
    ns_stop stop = {work, argument, false};
    PyUnstable_GC_VisitObjects(ns_first_object, &stop);
    if (!stop.done) {
        PyErr_SetString(PyExc_SystemError, "the collector visited no object");
        return -1;
    }
    return 0;
}

/* ---- Work that the interpreter has for a thread ----
 *
 * Bits of PyThreadState.eval_breaker, read in pycore_ceval.h and ceval_gil.c of 3.13.5, 3.14.7 and
 * 3.15.0rc2, where they are the same. These tests notice a change:
 * tests/isolated/test_waits_disturbed.py and tests/contract/test_waits.py. */
enum {
    NS_SIGNALS = 2,
    NS_CALLS = 4,
    NS_ASYNC_EXCEPTION = 8,
    NS_COLLECTION = 16,
};

/* The bits that Py_MakePendingCalls and PyErr_CheckSignals clear. All other bits stay set until
 * Python code runs. PyErr_CheckSignals raises asynchronous exceptions from 3.15 on. */
#if PY_VERSION_HEX >= 0x030F0000
#define NS_WORK (NS_SIGNALS | NS_CALLS | NS_COLLECTION | NS_ASYNC_EXCEPTION)
#else
#define NS_WORK (NS_SIGNALS | NS_CALLS | NS_COLLECTION)
#endif

/* `tstate` is the calling thread's, which may be detached. */
static inline bool
ns_has_any(PyThreadState *tstate, uintptr_t bits)
{
    return (__atomic_load_n(&tstate->eval_breaker, NS_ACQUIRE) & bits) != 0;
}

/* ---- The variables and attributes that running code uses ----
 *
 * Read in 3.13.5: pycore_frame.h, typeobject.c. Later versions do not need it. This test notices a
 * change: tests/contract/test_performance_warning.py. */
#if PY_VERSION_HEX < 0x030E0000

struct ns_frame_data {
    PyObject *executable;
    void *previous;
    PyObject *function, *globals, *builtins, *locals;
    PyFrameObject *frame;
    void *instruction;
    int stack_top;
    uint16_t return_offset;
    char owner;
    PyObject *variables[]; /* a closure's variables are cells */
};

typedef struct {
    PyObject_HEAD
    PyFrameObject *back;
    struct ns_frame_data *data;
} ns_frame;

/* Returns the variable at `index`, which is below co_nlocalsplus, of a frame that the calling
 * thread runs. Borrowed; NULL if it has no value. */
static inline PyObject *
ns_frame_variable(PyFrameObject *frame, int index)
{
    return ((ns_frame *)frame)->data->variables[index];
}

/* Returns a new reference to an attribute that can be read without running code: one in the
 * object's dict or slots, or a plain value in its class. Returns NULL, without an exception, if
 * there is none. */
static inline PyObject *
ns_plain_attribute(PyObject *object, PyObject *name)
{
    if (Py_TYPE(object)->tp_getattro != PyObject_GenericGetAttr) {
        return NULL;
    }
    PyObject *of_class = _PyType_LookupRef(Py_TYPE(object), name);
    bool plain =
        of_class == NULL || Py_IS_TYPE(of_class, &PyMemberDescr_Type) ||
        (Py_TYPE(of_class)->tp_descr_get == NULL && Py_TYPE(of_class)->tp_descr_set == NULL);
    Py_XDECREF(of_class);
    PyObject *value = plain ? PyObject_GenericGetAttr(object, name) : NULL;
    PyErr_Clear();
    return value;
}

#endif

/* ---- Strings ----
 *
 * PyASCIIObject, read in unicodeobject.h of 3.13.5, 3.14.7 and 3.15.0rc2. Noticed by
 * tests/contract/test_syncmap_properties.py.
 */

/* The hash of an exact str; -1: not computed yet. */
static inline Py_hash_t
ns_known_hash(PyObject *string)
{
    return __atomic_load_n(&((PyASCIIObject *)string)->hash, NS_RELAXED);
}

/* ---- Ints ----
 *
 * struct _PyLongValue, read in longintrepr.h of 3.13.5, 3.14.7 and 3.15.0rc2. This test notices a
 * change: tests/contract/test_syncmap_properties.py. */

/* A bit of an int's tag that is not part of its value: from 3.14 on it marks immortal ints. */
#define NS_INT_FLAG 4

static inline bool
ns_same_int(PyObject *a, PyObject *b)
{
    const struct _PyLongValue *x = &((PyLongObject *)a)->long_value;
    const struct _PyLongValue *y = &((PyLongObject *)b)->long_value;
    if (((x->lv_tag ^ y->lv_tag) & ~(uintptr_t)NS_INT_FLAG) != 0 ||
        x->ob_digit[0] != y->ob_digit[0]) {
        return false;
    }
    size_t digits = x->lv_tag >> _PyLong_NON_SIZE_BITS;
    return digits <= 1 || memcmp(x->ob_digit, y->ob_digit, digits * sizeof(digit)) == 0;
}

/* ---- Named tuples ----
 *
 * To make and free objects of a subclass of tuple that has no fields of its own, at less than half
 * of the usual cost. From 3.14 on a tuple caches its hash; -1: it has none yet. Read in 3.13 to
 * 3.15: tuple_subtype_new, maybe_tuple_alloc, tupledealloc, subtype_dealloc. Noticed by:
 * tests/contract/test_select.py. */

/* Returns a new object with room for n items, which are NULL, or NULL with MemoryError. The caller
 * fills them in and then has the collector track the object. */
static inline PyObject *
ns_new_named_tuple(PyTypeObject *type, Py_ssize_t n)
{
    PyTupleObject *tuple = PyObject_GC_NewVar(PyTupleObject, type, n);
    if (tuple != NULL) {
        memset(tuple->ob_item, 0, (size_t)n * sizeof(PyObject *));
#if PY_VERSION_HEX >= 0x030E0000
        tuple->ob_hash = -1;
#endif
    }
    return (PyObject *)tuple;
}

/* A tp_dealloc for such a type. The interpreter's own for classes of Python code looks for a
 * dictionary, slots and weak references, and then calls that of tuple. It calls this one for a
 * subclass, with those gone, and leaves the type's count to it. */
static inline void
ns_named_tuple_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (type->tp_finalize != NULL && type->tp_dealloc == ns_named_tuple_dealloc &&
        PyObject_CallFinalizerFromDealloc(self) < 0) {
        return;
    }
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, ns_named_tuple_dealloc)
    for (Py_ssize_t i = Py_SIZE(self); --i >= 0;) {
        Py_XDECREF(PyTuple_GET_ITEM(self, i));
    }
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

#endif
