/* Channel, over core/channel.h: the ring holds strong references. */
#include "types/channel_type.h"

#include "arguments.h"
#include "interpreter/detach.h"
#include "docs.h"

#define MAX_CAPACITY (PY_SSIZE_T_MAX / (int64_t)sizeof(ns_channel_slot))

void
ns_channel_type_raise_closed(PyObject *self)
{
    ns_state *state = ns_state_of(self);
    PyObject *type = state ? Py_XNewRef(state->channel_closed) : NULL;
    if (type == NULL) {
        ns_shutting_down();
        return;
    }
    PyErr_SetString(type, "the channel is closed");
    Py_DECREF(type);
}

/* Returns 1 if sent, and then the channel has the reference to the value; 0 if timed out; -1 with
 * an exception. */
static Py_NO_INLINE int
send_slow(PyObject *self, PyObject *value, ns_patience patience, int64_t deadline,
          enum ns_channel_result result)
{
    ns_channel *c = ns_channel_of(self);
    if (result == NS_CHANNEL_WOULD_WAIT && patience != NS_DO_NOT_WAIT &&
        ns_channel_linger_to_send(c)) {
        result = ns_channel_try_send(c, value);
    }
    if (result == NS_CHANNEL_DONE) {
        return 1;
    }
    if (result == NS_CHANNEL_REFUSED) {
        ns_channel_type_raise_closed(self);
        return -1;
    }
    if (ns_check_initialized(self) < 0) {
        return -1;
    }
    if (patience == NS_DO_NOT_WAIT) {
        return 0;
    }
    uint64_t item = (uintptr_t)value; /* 0 once it is the channel's */
    int done = ns_wait(self, &ns_channel_send_steps, c, &item, deadline);
    if (done == 1 && item != 0) {
        ns_channel_type_raise_closed(self);
        return -1;
    }
    return done;
}

static int
put(PyObject *self, PyObject *value, ns_patience patience, int64_t deadline)
{
    ns_used(self);
    bool shared = ns_channel_give(ns_channel_of(self), value);
    enum ns_channel_result result = ns_channel_try_send(ns_channel_of(self), value);
    if (ns_likely(result == NS_CHANNEL_DONE)) {
        return 1;
    }
    int done = send_slow(self, value, patience, deadline, result);
    if (done != 1) {
        ns_channel_keep(value, shared);
    }
    return done;
}

/* Returns 1 and a new reference in *value; 0 if timed out; -1 with an exception; -2 if the channel
 * is closed and empty. */
static Py_NO_INLINE int
take_slow(PyObject *self, PyObject **value, ns_patience patience, int64_t deadline,
          enum ns_channel_result result)
{
    ns_channel *c = ns_channel_of(self);
    if (result == NS_CHANNEL_WOULD_WAIT && patience != NS_DO_NOT_WAIT &&
        ns_channel_linger_to_receive(c)) {
        result = ns_channel_try_receive(c, (void **)value);
    }
    if (result != NS_CHANNEL_WOULD_WAIT) {
        return result == NS_CHANNEL_DONE ? 1 : -2;
    }
    if (ns_check_initialized(self) < 0) {
        return -1;
    }
    if (patience == NS_DO_NOT_WAIT) {
        return 0;
    }
    uint64_t item = 0;
    int done = ns_wait(self, &ns_channel_receive_steps, c, &item, deadline);
    *value = (PyObject *)(uintptr_t)item;
    return done == 1 && *value == NULL ? -2 : done;
}

static inline int
take(PyObject *self, PyObject **value, ns_patience patience, int64_t deadline)
{
    ns_used(self);
    enum ns_channel_result result = ns_channel_try_receive(ns_channel_of(self), (void **)value);
    int done = ns_likely(result == NS_CHANNEL_DONE)
                   ? 1
                   : take_slow(self, value, patience, deadline, result);
    if (ns_likely(done == 1)) {
        ns_channel_note(ns_channel_of(self), *value);
    }
    return done;
}

static PyObject *
send(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Channel.send", {"value", "timeout"}, 1, 2, 0};
    PyObject *given[2];
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER;
    if (ns_unpack(&s, args, nargs, kwnames, given) < 0 ||
        (given[1] != NULL && ns_plain_timeout(given[1], &patience, &deadline) < 0)) {
        return NULL;
    }
    int done = put(self, given[0], patience, deadline);
    if (done == 0) {
        PyErr_SetString(PyExc_TimeoutError, "timed out waiting to send");
    }
    return done == 1 ? Py_NewRef(Py_None) : NULL;
}

static PyObject *
receive(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Channel.recv", {"timeout"}, 0, 1, 0};
    PyObject *timeout, *value;
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER;
    if (ns_unpack(&s, args, nargs, kwnames, &timeout) < 0 ||
        (timeout != NULL && ns_plain_timeout(timeout, &patience, &deadline) < 0)) {
        return NULL;
    }
    int done = take(self, &value, patience, deadline);
    if (ns_likely(done == 1)) {
        return value;
    }
    if (done == 0) {
        PyErr_SetString(PyExc_TimeoutError, "timed out waiting to receive");
    }
    else if (done == -2) {
        ns_channel_type_raise_closed(self);
    }
    return NULL;
}

static PyObject *
try_send(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Channel.try_send", {"value"}, 1, 1, 0};
    PyObject *value;
    if (ns_unpack(&s, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    int done = put(self, value, NS_DO_NOT_WAIT, 0);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *
try_receive(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Channel.try_recv", {"default"}, 0, 1, 0};
    PyObject *fallback, *value;
    if (ns_unpack(&s, args, nargs, kwnames, &fallback) < 0) {
        return NULL;
    }
    int done = take(self, &value, NS_DO_NOT_WAIT, 0);
    if (done == 0) {
        return Py_NewRef(fallback ? fallback : Py_None);
    }
    if (done == -2) {
        ns_channel_type_raise_closed(self);
    }
    return done == 1 ? value : NULL;
}

/* try_recv(ABSENT), for recv_async: see mutex_type.c. */
static PyObject *
get_received(PyObject *self, void *Py_UNUSED(closure))
{
    ns_state *state = ns_state_of(self);
    if (state == NULL || state->absent == NULL) { /* the module is cleared */
        return ns_shutting_down();
    }
    return try_receive(self, &state->absent, 1, NULL);
}

/* tp_iternext: NULL without an exception ends the iteration. */
static PyObject *
next(PyObject *self)
{
    PyObject *value;
    return take(self, &value, NS_WAIT_FOR_EVER, NS_FOREVER) == 1 ? value : NULL;
}

static PyObject *
close_channel(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_channel_close(ns_channel_of(self));
    Py_RETURN_NONE;
}

static PyObject *
closed(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0
               ? NULL
               : PyBool_FromLong(ns_channel_is_closed(ns_channel_of(self)));
}

static PyObject *
enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return ns_check_initialized(self) < 0 ? NULL : Py_NewRef(self);
}

static PyObject *
leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    return close_channel(self, NULL);
}

static Py_ssize_t
length(PyObject *self)
{
    return ns_check_initialized(self) < 0 ? -1 : (Py_ssize_t)ns_channel_count(ns_channel_of(self));
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_channel *c = ns_channel_of(self);
    size_t size = (size_t)Py_TYPE(self)->tp_basicsize;
    return PyLong_FromSize_t(
        ns_is_initialized(self) ? size + c->in.capacity * sizeof(ns_channel_slot) : size);
}

static int
init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"Channel.__init__", {"capacity"}, 0, 1, 0};
    PyObject *given;
    int64_t capacity = 0;
    if (ns_unpack_init(&s, args, kwargs, &given) < 0 ||
        (given != NULL && ns_clamped_int64(given, &capacity) < 0)) {
        return -1;
    }
    if (capacity < 0) {
        PyErr_SetString(PyExc_ValueError, "channel capacity must be >= 0");
        return -1;
    }
    if (capacity > MAX_CAPACITY) {
        PyErr_SetString(PyExc_OverflowError, "channel capacity is too large");
        return -1;
    }
    ns_channel_slot *slots = NULL;
    if (capacity > 0) {
        slots = PyMem_RawCalloc((size_t)capacity, sizeof(ns_channel_slot));
        if (slots == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    if (ns_claim_init(self) < 0) {
        PyMem_RawFree(slots);
        return -1;
    }
    ns_channel_init(ns_channel_of(self), slots, (uint64_t)capacity);
    ns_finish_init(self, true);
    return 0;
}

static int
traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    uint64_t cursor = 0;
    for (PyObject *item; (item = ns_channel_each(ns_channel_of(self), &cursor)) != NULL;) {
        Py_VISIT(item);
    }
    return 0;
}

/* Leaves a usable channel behind, because finalisers in the same cycle may still use it. So it has
 * to end. */
static int
clear(PyObject *self)
{
    ns_channel *c = ns_channel_of(self);
    void *item;
    for (uint64_t n = ns_channel_count(c);
         n > 0 && ns_channel_try_receive(c, &item) == NS_CHANNEL_DONE;
         n--) {
        Py_DECREF((PyObject *)item);
    }
    return 0;
}

static void
dealloc(PyObject *self)
{
    ns_channel_object *o = (ns_channel_object *)self;
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, dealloc) /* channels in channels may be a million deep */
    if (o->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    uint64_t cursor = 0;
    for (PyObject *item; (item = ns_channel_each(&o->channel, &cursor)) != NULL;) {
        Py_DECREF(item);
    }
    ns_channel_destroy(&o->channel);
    PyMem_RawFree(o->channel.in.slots);
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
repr(PyObject *self)
{
    ns_channel *c = ns_channel_of(self);
    if (!ns_is_initialized(self)) {
        return ns_repr_uninitialized(self);
    }
    char state[80];
    PyOS_snprintf(state,
                  sizeof(state),
                  "%llu of %llu items%s",
                  (unsigned long long)ns_channel_count(c),
                  (unsigned long long)c->in.capacity,
                  ns_channel_is_closed(c) ? ", closed" : "");
    return ns_repr_state(self, state);
}
NS_EXIT(leave, "Channel.__exit__")

static PyMethodDef methods[] = {
    NS_METHOD("send", send, DOC_Channel_send),
    NS_METHOD("recv", receive, DOC_Channel_recv),
    NS_METHOD("try_send", try_send, DOC_Channel_try_send),
    NS_METHOD("try_recv", try_receive, DOC_Channel_try_recv),
    NS_METHOD("sending", ns_channel_type_sending, DOC_Channel_sending),
    NS_NO_ARGUMENTS("sender", ns_channel_type_sender, DOC_Channel_sender),
    NS_NO_ARGUMENTS("close", close_channel, DOC_Channel_close),
    NS_NO_ARGUMENTS("closed", closed, DOC_Channel_closed),
    NS_NO_ARGUMENTS("__enter__", enter, DOC_Channel___enter__),
    NS_METHOD("__exit__", leave_method, DOC_Channel___exit__),
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getters[] = {
    {"_received_at_once", get_received, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(ns_channel_object);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Channel},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_repr, repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, next},
    {Py_sq_length, length},
    {Py_tp_methods, methods},
    {Py_tp_getset, getters},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Channel",
    .basicsize = sizeof(ns_channel_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_channel(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->channel_closed =
        ns_import_attribute("nogil_sync._common.channel_closed", "ChannelClosed");
    state->absent = ns_import_attribute("nogil_sync._common.once", "ABSENT");
    if (state->channel_closed == NULL || state->absent == NULL) {
        return -1;
    }
    if (PyModule_Add(module, "ChannelClosed", Py_NewRef(state->channel_closed)) < 0) {
        return -1;
    }
    return ns_add_kept_type(module, &spec, &state->channel_type) < 0 ? -1
                                                                     : ns_add_channel_ends(module);
}
