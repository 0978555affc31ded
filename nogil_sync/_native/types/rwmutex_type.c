/* RWMutex and its two views, over core/rwmutex.h.
 *
 * Who keeps whom alive: the reading view contains the lock itself, the writing view refers to the
 * reading view, and the RWMutex to both. So a view outlives its RWMutex, and there is no cycle to
 * collect.
 *
 * From 3.14 on `rw.read` and `rw.write` are plain members. The interpreter reads a member without a
 * call, and borrows the object if that is pinned or defers its count. So an expression like
 * `rw.read.acquire()` runs none of our code on the RWMutex, only on the view. Therefore a view that
 * begins to defer makes its RWMutex defer too (`defer_owner`). The reading view finds it by
 * `owner`, which does not keep it alive. On 3.13 the interpreter calls a function for a member too,
 * and one that locks the RWMutex if another thread made it. Our own function is faster.
 */
#include "arguments.h"
#include "core/rwmutex.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "types/insides.h"
#include "object.h"
#include "interpreter/sharing.h"
#include "interpreter/tryref.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_lock owner_lock;
    PyObject *owner; /* the RWMutex while it lives, under owner_lock; not a reference */
    ns_rwmutex rw;
} Reader;

/* Where NS_LINE is 64, what every reader reads shares no cache line with a reference count, of this
 * object or of the next one. */
_Static_assert(NS_LINE != 64 || (offsetof(Reader, rw.base) >= NS_COUNTS_END + NS_LINE &&
                                 sizeof(Reader) + NS_LOCAL_COUNT_OFFSET >=
                                     offsetof(Reader, rw.spread) + sizeof(ns_cells) + NS_LINE),
               "the lock's words are on a line of their own");

typedef struct {
    NS_OBJECT_HEAD
    PyObject *reader;
} Writer;

typedef struct {
    NS_OBJECT_HEAD
    PyObject *reader, *writer; /* never NULL, and never change */
} RWMutex;

/* ---- Both views, distinguished by a constant ---- */

static inline ns_rwmutex *
lock_of(PyObject *view, bool writes)
{
    return &((Reader *)(writes ? ((Writer *)view)->reader : view))->rw;
}

ns_rwmutex *
ns_inside_rwmutex(PyObject *view, bool writes)
{
    return lock_of(view, writes);
}

#if NS_CAN_DEFER

/* The view has just begun to defer: makes its RWMutex defer too, if that is alive. The RWMutex
 * cannot be freed while the lock is held, because its dealloc takes the lock first. */
static void
defer_owner(Reader *reader)
{
    PyObject *kept = NULL;
    ns_lock_take(&reader->owner_lock);
    PyObject *owner = reader->owner;
    if (owner != NULL) {
        if (!ns_is_owned(owner)) {
            kept = ns_try_incref(owner) ? owner : NULL;
        }
        else if (ns_local_count(owner) != 0) { /* else it is dying in this very thread */
            kept = Py_NewRef(owner);
        }
    }
    ns_lock_release(&reader->owner_lock);
    if (kept != NULL) {
        PyUnstable_Object_EnableDeferredRefcount(kept);
        Py_DECREF(kept);
    }
}

static void
used_elsewhere(PyObject *view, bool writes)
{
    ns_used_elsewhere(view);
    if (ns_is_deferred(view)) {
        defer_owner((Reader *)(writes ? ((Writer *)view)->reader : view));
    }
}

static inline void
used(PyObject *view, bool writes)
{
    if (ns_is_foreign_use(view)) {
        used_elsewhere(view, writes);
    }
}

#else

static inline void
used(PyObject *view, bool writes)
{
    (void)view;
    (void)writes;
}

#endif

static bool
lock_now(ns_rwmutex *m, bool writes)
{
    return writes ? ns_rwmutex_try_write(m) : ns_rwmutex_try_read(m);
}

/* Returns 1 if locked, 0 if timed out, -1 with an exception. */
static Py_NO_INLINE int
lock_slow(PyObject *view, bool writes, ns_patience patience, int64_t deadline)
{
    ns_rwmutex *m = lock_of(view, writes);
    if (patience == NS_DO_NOT_WAIT) {
        return lock_now(m, writes) || (ns_make_way(m) && lock_now(m, writes));
    }
    const struct ns_wait_steps *steps = writes ? &ns_rwmutex_write_steps : &ns_rwmutex_read_steps;
    return ns_wait(view, steps, m, &(uint64_t){0}, deadline);
}

static inline bool
try_lock(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    used(view, writes);
    return writes ? ns_rwmutex_try_write_fast(m) : ns_rwmutex_try_read(m);
}

static inline PyObject *
acquire(PyObject *view, bool writes, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature signatures[] = {
        {"RWMutexReader.acquire", {"blocking", "timeout"}, 0, 2, 0},
        {"RWMutexWriter.acquire", {"blocking", "timeout"}, 0, 2, 0},
    };
    ns_patience patience;
    int64_t deadline;
    if (ns_lock_arguments(&signatures[writes], args, nargs, kwnames, &patience, &deadline) < 0) {
        return NULL;
    }
    if (ns_likely(try_lock(view, writes))) {
        Py_RETURN_TRUE;
    }
    int locked = lock_slow(view, writes, patience, deadline);
    return locked < 0 ? NULL : PyBool_FromLong(locked);
}

static inline int
lock(PyObject *view, bool writes)
{
    return ns_likely(try_lock(view, writes))
               ? 1
               : lock_slow(view, writes, NS_WAIT_FOR_EVER, NS_FOREVER);
}

static inline bool
unlock(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    return writes ? ns_rwmutex_write_unlock(m) : ns_rwmutex_read_unlock(m);
}

static inline PyObject *
release(PyObject *view, bool writes)
{
    if (ns_unlikely(!unlock(view, writes))) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return NULL;
    }
    Py_RETURN_NONE;
}

static bool
is_locked(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    return writes ? ns_rwmutex_is_write_locked(m) : ns_rwmutex_is_read_locked(m);
}

static PyObject *
repr_view(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    const bool locked = is_locked(view, writes);
    const uint64_t writer = writes ? ns_thread_of_tag(ns_rwmutex_writer(m)) : 0;
    return ns_repr_lock(view, locked, writer, "", ns_rwmutex_waiters(m, writes));
}

#define VIEW_METHODS(side, writes)                                                           \
    static PyObject *side##_acquire(                                                         \
        PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)          \
    {                                                                                        \
        return acquire(self, writes, args, nargs, kwnames);                                  \
    }                                                                                        \
    static int side##_lock(PyObject *self)                                                   \
    {                                                                                        \
        return lock(self, writes);                                                           \
    }                                                                                        \
    static int side##_unlock(PyObject *self)                                                 \
    {                                                                                        \
        unlock(self, writes);                                                                \
        return 0;                                                                            \
    }                                                                                        \
    static PyObject *side##_enter(PyObject *self, PyObject *Py_UNUSED(unused))               \
    {                                                                                        \
        if (lock(self, writes) < 0 ||                                                        \
            (ns_is_interrupted() && ns_enter_again(self, side##_lock, side##_unlock) < 0)) { \
            return NULL;                                                                     \
        }                                                                                    \
        Py_RETURN_TRUE;                                                                      \
    }                                                                                        \
    static PyObject *side##_release(PyObject *self, PyObject *Py_UNUSED(unused))             \
    {                                                                                        \
        return release(self, writes);                                                        \
    }                                                                                        \
    static PyObject *side##_leave(                                                           \
        PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))       \
    {                                                                                        \
        return release(self, writes);                                                        \
    }                                                                                        \
    static PyObject *side##_locked(PyObject *self, PyObject *Py_UNUSED(unused))              \
    {                                                                                        \
        return PyBool_FromLong(is_locked(self, writes));                                     \
    }                                                                                        \
    static PyObject *side##_at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))      \
    {                                                                                        \
        ns_rwmutex_reset(lock_of(self, writes));                                             \
        Py_RETURN_NONE;                                                                      \
    }                                                                                        \
    static PyObject *side##_repr(PyObject *self)                                             \
    {                                                                                        \
        return repr_view(self, writes);                                                      \
    }                                                                                        \
    static PyObject *side##_taken(PyObject *self, void *Py_UNUSED(closure))                  \
    {                                                                                        \
        return acquire(self, writes, (PyObject *[]){Py_False}, 1, NULL);                     \
    }                                                                                        \
    static PyGetSetDef side##_getters[] = {                                                  \
        {"_taken_at_once", side##_taken, NULL, NULL, NULL}, /* see mutex_type.c */           \
        {NULL, NULL, NULL, NULL, NULL},                                                      \
    };                                                                                       \
    NS_EXIT(side##_leave, "RWMutex" #side ".__exit__")                                       \
    static PyMethodDef side##_methods[] = {                                                  \
        NS_METHOD("acquire", side##_acquire, DOC_RWMutex##side##_acquire),                   \
        NS_NO_ARGUMENTS("release", side##_release, DOC_RWMutex##side##_release),             \
        NS_NO_ARGUMENTS("locked", side##_locked, DOC_RWMutex##side##_locked),                \
        NS_NO_ARGUMENTS("__enter__", side##_enter, DOC_RWMutex##side##___enter__),           \
        NS_METHOD("__exit__", side##_leave_method, DOC_RWMutex##side##___exit__),            \
        {"_at_fork_reinit", side##_at_fork_reinit, METH_NOARGS, NULL},                       \
        NS_NO_PICKLE,                                                                        \
        {NULL, NULL, 0, NULL},                                                               \
    };                                                                                       \
    static PyType_Slot side##_slots[] = {                                                    \
        {Py_tp_doc, DOC_RWMutex##side},                                                      \
        {Py_tp_dealloc, side##_dealloc},                                                     \
        {Py_tp_traverse, side##_traverse},                                                   \
        {Py_tp_repr, side##_repr},                                                           \
        {Py_tp_methods, side##_methods},                                                     \
        {Py_tp_getset, side##_getters},                                                      \
        {Py_tp_members, side##_members},                                                     \
        {0, NULL},                                                                           \
    };                                                                                       \
    static PyType_Spec side##_spec = {                                                       \
        .name = "nogil_sync.RWMutex" #side,                                                  \
        .basicsize = sizeof(side),                                                           \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE |        \
                 Py_TPFLAGS_DISALLOW_INSTANTIATION,                                          \
        .slots = side##_slots,                                                               \
    }

static void
Reader_dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    ns_rwmutex_destroy(&((Reader *)self)->rw);
    ns_free_object(self);
}

static void
Writer_dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    Py_XDECREF(((Writer *)self)->reader);
    ns_free_object(self);
}

#define Reader_traverse ns_traverse_type

static int
Writer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Writer *)self)->reader);
    return 0;
}

static PyMemberDef Reader_members[] = NS_WEAKREF_MEMBERS(Reader);
static PyMemberDef Writer_members[] = NS_WEAKREF_MEMBERS(Writer);

VIEW_METHODS(Reader, false);
VIEW_METHODS(Writer, true);

/* ---- RWMutex ---- */

static inline ns_rwmutex *
rwmutex_of(PyObject *self)
{
    return lock_of(((RWMutex *)self)->reader, false);
}

static PyObject *
downgrade(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (!ns_rwmutex_downgrade(rwmutex_of(self))) {
        PyErr_SetString(PyExc_RuntimeError, "downgrade of an unlocked write lock");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_rwmutex_reset(rwmutex_of(self));
    Py_RETURN_NONE;
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize + sizeof(Reader) + sizeof(Writer) +
                             ns_rwmutex_extra_size(rwmutex_of(self)));
}

/* Makes the views first: the collector shows each object to other threads as soon as it is
 * allocated, and with tracemalloc an allocation lets a collection in. */
static PyObject *
new_rwmutex(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *module = PyType_GetModuleByDef(type, &ns_module);
    ns_state *state = module ? PyModule_GetState(module) : NULL;
    if (state == NULL) {
        return NULL;
    }
    PyTypeObject *reader_type = (PyTypeObject *)state->rwmutex_reader_type;
    PyTypeObject *writer_type = (PyTypeObject *)state->rwmutex_writer_type;
    if (reader_type == NULL || writer_type == NULL) {
        return ns_shutting_down();
    }
    PyObject *reader = reader_type->tp_alloc(reader_type, 0), *writer = NULL, *self = NULL;
    if (reader != NULL) {
        ns_rwmutex_init(&((Reader *)reader)->rw);
        writer = writer_type->tp_alloc(writer_type, 0);
    }
    if (writer != NULL) {
        ((Writer *)writer)->reader = Py_NewRef(reader);
        self = ns_new(type, args, NULL);
    }
    if (self == NULL) {
        Py_XDECREF(writer);
        Py_XDECREF(reader);
        return NULL;
    }
    ((RWMutex *)self)->reader = reader;
    ((RWMutex *)self)->writer = writer;
#if NS_CAN_DEFER
    ns_publish(self); /* so that defer_owner may take a reference */
    ((Reader *)reader)->owner = self;
#endif
    return self;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((RWMutex *)self)->reader);
    Py_VISIT(((RWMutex *)self)->writer);
    return 0;
}

static void
dealloc(PyObject *self)
{
    RWMutex *o = (RWMutex *)self;
    Reader *reader = (Reader *)o->reader;
    ns_begin_dealloc(self);
    if (reader->owner != NULL) {
        ns_lock_take(&reader->owner_lock);
        reader->owner = NULL;
        ns_lock_release(&reader->owner_lock);
    }
    Py_DECREF(o->reader);
    Py_DECREF(o->writer);
    ns_free_object(self);
}

static PyObject *
repr(PyObject *self)
{
    ns_rwmutex *m = rwmutex_of(self);
    return ns_repr_state(self,
                         ns_rwmutex_is_write_locked(m)  ? "write-locked"
                         : ns_rwmutex_is_read_locked(m) ? "read-locked"
                                                        : "unlocked");
}
NS_INIT_WITHOUT_ARGUMENTS("RWMutex")

static void
give_parts(PyObject *self, PyObject *parts[2])
{
    parts[0] = ((RWMutex *)self)->reader;
    parts[1] = ((RWMutex *)self)->writer;
}

static PyMethodDef methods[] = {
    NS_NO_ARGUMENTS("downgrade", downgrade, DOC_RWMutex_downgrade),
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

#if NS_CAN_DEFER

#define VIEWS                                                                           \
    {"read", Py_T_OBJECT_EX, offsetof(RWMutex, reader), Py_READONLY, DOC_RWMutex_read}, \
        {"write", Py_T_OBJECT_EX, offsetof(RWMutex, writer), Py_READONLY, DOC_RWMutex_write},
#define GETTERS

#else

static PyObject *
get_read(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((RWMutex *)self)->reader);
}

static PyObject *
get_write(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((RWMutex *)self)->writer);
}

static PyGetSetDef getters[] = {
    {"read", get_read, NULL, DOC_RWMutex_read, NULL},
    {"write", get_write, NULL, DOC_RWMutex_write, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

#define VIEWS
#define GETTERS {Py_tp_getset, getters},

#endif

static PyMemberDef members[] = {
    VIEWS{"__weaklistoffset__", Py_T_PYSSIZET, offsetof(RWMutex, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_RWMutex},
    {Py_tp_new, new_rwmutex},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    GETTERS{0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.RWMutex",
    .basicsize = sizeof(RWMutex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_rwmutex(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->rwmutex_reader_type = ns_new_type(module, &Reader_spec, NULL);
    state->rwmutex_writer_type = ns_new_type(module, &Writer_spec, NULL);
    state->rwmutex_type = ns_new_type(module, &spec, NULL);
    state->rwmutex_parts = give_parts;
    if (state->rwmutex_reader_type == NULL || state->rwmutex_writer_type == NULL ||
        state->rwmutex_type == NULL) {
        return -1;
    }
    PyObject *types[] = {
        state->rwmutex_reader_type, state->rwmutex_writer_type, state->rwmutex_type};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        if (PyModule_AddType(module, (PyTypeObject *)types[i]) < 0) {
            return -1;
        }
    }
    return 0;
}
