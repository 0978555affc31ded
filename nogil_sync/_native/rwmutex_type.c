/* RWMutex and its two views, over core/rwmutex.h.
 *
 * Who keeps whom: the reading view holds the lock itself, the writing view the reading view, the RWMutex both. So a
 * view outlives its RWMutex, and there is no cycle to collect.
 */
#include "arguments.h"
#include "core/rwmutex.h"
#include "detach.h"
#include "docs.h"
#include "object.h"

typedef struct {
    PyObject_HEAD
    ns_rwmutex rw;
    PyObject *weakrefs;
} Reader;

typedef struct {
    PyObject_HEAD
    PyObject *reader;
    PyObject *weakrefs;
} Writer;

typedef struct {
    PyObject_HEAD
    _Atomic(PyObject *) reader; /* both NULL until __init__ ran, then they never change */
    _Atomic(PyObject *) writer;
    _Atomic bool claimed; /* by an __init__ */
    PyObject *weakrefs;
} RWMutex;

/* ---- Both views, told apart by a constant. ---- */

static inline ns_rwmutex *
lock_of(PyObject *view, bool writes)
{
    return &((Reader *)(writes ? ((Writer *)view)->reader : view))->rw;
}

/* 1: locked, 0: timed out, -1: exception. */
static int
lock_slow(PyObject *view, bool writes, ns_patience patience, int64_t deadline)
{
    ns_rwmutex *m = lock_of(view, writes);
    if (patience == NS_DO_NOT_WAIT) {
        return writes ? ns_rwmutex_try_write(m) : ns_rwmutex_try_read(m);
    }
    ns_waiter *w = ns_waiter_new();
    if (w == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    int result =
        ns_wait(view, writes ? &ns_rwmutex_write_steps : &ns_rwmutex_read_steps, m, w, deadline);
    ns_waiter_free(w);
    return result;
}

static inline bool
try_lock(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    return writes ? ns_rwmutex_try_write_fast(m) : ns_rwmutex_try_read(m);
}

static inline PyObject *
acquire(PyObject *view, bool writes, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature signatures[] = {
        {"RWMutexReader.acquire", {"blocking", "timeout"}, 0, 2, 0},
        {"RWMutexWriter.acquire", {"blocking", "timeout"}, 0, 2, 0},
    };
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER;
    if (nargs != 0 || kwnames != NULL) {
        PyObject *given[2];
        if (ns_unpack(&signatures[writes], args, nargs, kwnames, given) < 0 ||
            ns_lock_timeout(given[0], given[1], &patience, &deadline) < 0) {
            return NULL;
        }
    }
    if (ns_likely(try_lock(view, writes))) {
        Py_RETURN_TRUE;
    }
    int locked = lock_slow(view, writes, patience, deadline);
    return locked < 0 ? NULL : PyBool_FromLong(locked);
}

static inline PyObject *
enter(PyObject *view, bool writes)
{
    if (ns_unlikely(!try_lock(view, writes)) &&
        lock_slow(view, writes, NS_WAIT_FOR_EVER, NS_FOREVER) < 0) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static inline PyObject *
release(PyObject *view, bool writes)
{
    ns_rwmutex *m = lock_of(view, writes);
    if (ns_unlikely(!(writes ? ns_rwmutex_write_unlock(m) : ns_rwmutex_read_unlock(m)))) {
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

#define VIEW_METHODS(side, writes)                                                             \
    static PyObject *side##_acquire(                                                           \
        PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)            \
    {                                                                                          \
        return acquire(self, writes, args, nargs, kwnames);                                    \
    }                                                                                          \
    static PyObject *side##_enter(PyObject *self, PyObject *Py_UNUSED(unused))                 \
    {                                                                                          \
        return enter(self, writes);                                                            \
    }                                                                                          \
    static PyObject *side##_release(PyObject *self, PyObject *Py_UNUSED(unused))               \
    {                                                                                          \
        return release(self, writes);                                                          \
    }                                                                                          \
    static PyObject *side##_leave(                                                             \
        PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))         \
    {                                                                                          \
        return release(self, writes);                                                          \
    }                                                                                          \
    static PyObject *side##_locked(PyObject *self, PyObject *Py_UNUSED(unused))                \
    {                                                                                          \
        return PyBool_FromLong(is_locked(self, writes));                                       \
    }                                                                                          \
    static PyObject *side##_at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))        \
    {                                                                                          \
        ns_rwmutex_reset(lock_of(self, writes));                                               \
        Py_RETURN_NONE;                                                                        \
    }                                                                                          \
    static PyObject *side##_repr(PyObject *self)                                               \
    {                                                                                          \
        return ns_repr_state(self, is_locked(self, writes) ? "locked" : "unlocked");           \
    }                                                                                          \
    NS_WITHOUT_ARGUMENTS(side##_release, "RWMutex" #side ".release")                           \
    NS_WITHOUT_ARGUMENTS(side##_locked, "RWMutex" #side ".locked")                             \
    NS_WITHOUT_ARGUMENTS(side##_enter, "RWMutex" #side ".__enter__")                           \
    NS_EXIT(side##_leave, "RWMutex" #side ".__exit__")                                         \
    static PyMethodDef side##_methods[] = {                                                    \
        NS_METHOD("acquire", side##_acquire, DOC_RWMutex##side##_acquire),                     \
        NS_METHOD("release", side##_release_method, DOC_RWMutex##side##_release),              \
        NS_METHOD("locked", side##_locked_method, DOC_RWMutex##side##_locked),                 \
        NS_METHOD("__enter__", side##_enter_method, DOC_RWMutex##side##___enter__),            \
        NS_METHOD("__exit__", side##_leave_method, DOC_RWMutex##side##___exit__),              \
        {"_at_fork_reinit", side##_at_fork_reinit, METH_NOARGS, NULL},                         \
        NS_NO_PICKLE,                                                                          \
        {NULL, NULL, 0, NULL},                                                                 \
    };                                                                                         \
    static PyType_Slot side##_slots[] = {                                                      \
        {Py_tp_doc, DOC_RWMutex##side},                                                        \
        {Py_tp_dealloc, side##_dealloc},                                                       \
        {Py_tp_repr, side##_repr},                                                             \
        {Py_tp_methods, side##_methods},                                                       \
        {Py_tp_members, side##_members},                                                       \
        {0, NULL},                                                                             \
    };                                                                                         \
    static PyType_Spec side##_spec = {                                                         \
        .name = "nogil_sync.RWMutex" #side,                                                    \
        .basicsize = sizeof(side),                                                             \
        .flags =                                                                               \
            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, \
        .slots = side##_slots,                                                                 \
    }

static void
Reader_dealloc(PyObject *self)
{
    Reader *r = (Reader *)self;
    if (r->weakrefs != NULL) { /* first: a callback may not see a half-freed object */
        PyObject_ClearWeakRefs(self);
    }
    ns_rwmutex_destroy(&r->rw);
    ns_free_object(self, &r->weakrefs);
}

static void
Writer_dealloc(PyObject *self)
{
    Writer *w = (Writer *)self;
    if (w->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(w->reader);
    ns_free_object(self, &w->weakrefs);
}

static PyMemberDef Reader_members[] = NS_WEAKREF_MEMBERS(Reader);
static PyMemberDef Writer_members[] = NS_WEAKREF_MEMBERS(Writer);

VIEW_METHODS(Reader, false);
VIEW_METHODS(Writer, true);

/* ---- RWMutex ---- */

/* A view, borrowed; NULL with RuntimeError if there was no __init__. */
static inline PyObject *
view_of(PyObject *self, bool writes)
{
    RWMutex *o = (RWMutex *)self;
    PyObject *view = ns_load(writes ? &o->writer : &o->reader, NS_ACQUIRE);
    if (ns_unlikely(view == NULL)) {
        ns_not_initialized(self);
    }
    return view;
}

static PyObject *
get_read(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_XNewRef(view_of(self, false));
}

static PyObject *
get_write(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_XNewRef(view_of(self, true));
}

static PyObject *
downgrade(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *reader = view_of(self, false);
    if (reader == NULL) {
        return NULL;
    }
    if (!ns_rwmutex_downgrade(lock_of(reader, false))) {
        PyErr_SetString(PyExc_RuntimeError, "downgrade of an unlocked write lock");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
at_fork_reinit(PyObject *self, PyObject *Py_UNUSED(unused))
{
    PyObject *reader = view_of(self, false);
    return reader == NULL ? NULL : Reader_at_fork_reinit(reader, NULL);
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    size_t size = (size_t)Py_TYPE(self)->tp_basicsize;
    PyObject *reader = ns_load(&((RWMutex *)self)->reader, NS_ACQUIRE);
    if (reader != NULL) {
        size += sizeof(Reader) + sizeof(Writer) + ns_rwmutex_extra_size(lock_of(reader, false));
    }
    return PyLong_FromSize_t(size);
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"RWMutex.__init__", {NULL}, 0, 0, 0};
    RWMutex *o = (RWMutex *)self;
    PyObject *none[NS_MAX_PARAMETERS];
    ns_state *state = ns_state_of(self);
    if (state == NULL || ns_unpack_init(&s, args, kwargs, none) < 0) {
        return -1;
    }
    if (state->rwmutex_reader_type == NULL || state->rwmutex_writer_type == NULL) {
        ns_shutting_down();
        return -1;
    }
    PyTypeObject *reader_type = (PyTypeObject *)state->rwmutex_reader_type;
    PyTypeObject *writer_type = (PyTypeObject *)state->rwmutex_writer_type;
    PyObject *reader = reader_type->tp_alloc(reader_type, 0);
    PyObject *writer = reader ? writer_type->tp_alloc(writer_type, 0) : NULL;
    if (writer == NULL) {
        Py_XDECREF(reader);
        return -1;
    }
    ns_rwmutex_init(&((Reader *)reader)->rw);
    ((Writer *)writer)->reader = Py_NewRef(reader);
    if (ns_swap(&o->claimed, true, NS_RELAXED)) {
        Py_DECREF(reader);
        Py_DECREF(writer);
        return ns_initialized_twice(self);
    }
    ns_store(&o->writer, writer, NS_RELEASE);
    ns_store(&o->reader, reader, NS_RELEASE);
    return 0;
}

static void
dealloc(PyObject *self)
{
    RWMutex *o = (RWMutex *)self;
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    Py_XDECREF(ns_load(&o->reader, NS_RELAXED));
    Py_XDECREF(ns_load(&o->writer, NS_RELAXED));
    ns_free_object(self, &o->weakrefs);
}

static PyObject *
repr(PyObject *self)
{
    PyObject *reader = ns_load(&((RWMutex *)self)->reader, NS_ACQUIRE);
    if (reader == NULL) {
        return ns_repr_uninitialized(self);
    }
    ns_rwmutex *m = lock_of(reader, false);
    return ns_repr_state(self,
                         ns_rwmutex_is_write_locked(m)  ? "write-locked"
                         : ns_rwmutex_is_read_locked(m) ? "read-locked"
                                                        : "unlocked");
}

void
ns_rwmutex_parts(PyObject *self, PyObject *parts[2])
{
    parts[0] = ns_load(&((RWMutex *)self)->reader, NS_ACQUIRE);
    parts[1] = ns_load(&((RWMutex *)self)->writer, NS_ACQUIRE);
}

static PyGetSetDef properties[] = {
    {"read", get_read, NULL, DOC_RWMutex_read, NULL},
    {"write", get_write, NULL, DOC_RWMutex_write, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

NS_WITHOUT_ARGUMENTS(downgrade, "RWMutex.downgrade")

static PyMethodDef methods[] = {
    NS_METHOD("downgrade", downgrade_method, DOC_RWMutex_downgrade),
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(RWMutex);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_RWMutex},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, properties},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.RWMutex",
    .basicsize = sizeof(RWMutex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

int
ns_add_rwmutex(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->rwmutex_reader_type = ns_new_type(module, &Reader_spec, NULL);
    state->rwmutex_writer_type = ns_new_type(module, &Writer_spec, NULL);
    state->rwmutex_type = ns_new_type(module, &spec, NULL);
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
