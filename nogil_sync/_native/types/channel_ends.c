/* What a Channel hands out: Sending, a case of select, and ChannelSender, one of its producers. */
#include "types/channel_type.h"

#include "arguments.h"
#include "docs.h"
#include "interpreter/detach.h"

/* Returns "<Class at ..., to channel>". */
static PyObject *
repr_beside(PyObject *self, const char *word, PyObject *channel)
{
    PyObject *name = PyType_GetFullyQualifiedName(Py_TYPE(self));
    PyObject *repr =
        name ? PyUnicode_FromFormat("<%U object at %p, %s %R>", name, self, word, channel) : NULL;
    Py_XDECREF(name);
    return repr;
}

/* ---- Sending ---- */

PyObject *
ns_channel_type_sending(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Channel.sending", {"value"}, 1, 1, 0};
    PyObject *value;
    if (ns_unpack(&s, args, nargs, kwnames, &value) < 0 || ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_state *state = ns_state_of(self);
    PyTypeObject *type = state ? (PyTypeObject *)state->sending_type : NULL;
    if (type == NULL) {
        return ns_shutting_down();
    }
    ns_sending *sending = PyObject_GC_New(ns_sending, type);
    if (sending == NULL) {
        return NULL;
    }
    sending->channel = Py_NewRef(self);
    sending->value = Py_NewRef(value);
    PyObject_GC_Track(sending);
    return (PyObject *)sending;
}

static int
sending_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((ns_sending *)self)->channel);
    Py_VISIT(((ns_sending *)self)->value);
    return 0;
}

/* No tp_clear, as for a tuple: what it refers to is older, so a cycle through it was closed by
 * another object. */
static void
sending_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, sending_dealloc)
    Py_DECREF(((ns_sending *)self)->channel);
    Py_DECREF(((ns_sending *)self)->value);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
sending_repr(PyObject *self)
{
    return repr_beside(self, "to", ((ns_sending *)self)->channel);
}

static PyMethodDef sending_methods[] = {
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sending_slots[] = {
    {Py_tp_doc, DOC_Sending},
    {Py_tp_traverse, sending_traverse},
    {Py_tp_dealloc, sending_dealloc},
    {Py_tp_repr, sending_repr},
    {Py_tp_methods, sending_methods},
    {0, NULL},
};

static PyType_Spec sending_spec = {
    .name = "nogil_sync.Sending",
    .basicsize = sizeof(ns_sending),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sending_slots,
};

/* ---- ChannelSender ----
 *
 * The channel counts the senders that `sender()` returned and that were not left yet. The sender
 * whose exit brings the count to zero closes the channel. */

enum { TAKEN, ENTERED, LEFT };

typedef struct {
    PyObject_HEAD
    PyObject *channel;
    _Atomic uint8_t state;
} Sender;

static _Atomic uint32_t *
producers_of(PyObject *sender)
{
    return &((ns_channel_object *)((Sender *)sender)->channel)->producers;
}

PyObject *
ns_channel_type_sender(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (ns_check_initialized(self) < 0) {
        return NULL;
    }
    ns_state *state = ns_state_of(self);
    PyTypeObject *type = state ? (PyTypeObject *)state->channel_sender_type : NULL;
    if (type == NULL) {
        return ns_shutting_down();
    }
    Sender *sender = PyObject_GC_New(Sender, type);
    if (sender == NULL) {
        return NULL;
    }
    sender->channel = Py_NewRef(self);
    ns_store(&sender->state, TAKEN, NS_RELAXED);
    ns_add(producers_of((PyObject *)sender), 1, NS_RELAXED);
    PyObject_GC_Track(sender);
    return (PyObject *)sender;
}

/* Returns 0, or -1 with RuntimeError. */
static int
change_state(PyObject *self, uint8_t from, uint8_t to, const char *message)
{
    if (ns_cas(&((Sender *)self)->state, &from, to, NS_RELAXED)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, message);
    return -1;
}

static int
begin(PyObject *self)
{
    return change_state(self, TAKEN, ENTERED, "a sender can be entered only once");
}

static int
take_back(PyObject *self)
{
    return change_state(self, ENTERED, TAKEN, "the sender is not entered");
}

static PyObject *
sender_enter(PyObject *self, PyObject *Py_UNUSED(unused))
{
    if (begin(self) < 0 || (ns_is_interrupted() && ns_enter_again(self, begin, take_back) < 0)) {
        return NULL;
    }
    return Py_NewRef(((Sender *)self)->channel);
}

static PyObject *
sender_leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(nargs))
{
    if (change_state(self, ENTERED, LEFT, "the sender is not entered") < 0) {
        return NULL;
    }
    /* What each producer did comes before the close. */
    if (ns_sub(producers_of(self), 1, NS_SEQ_CST) == 1) {
        ns_channel_close(ns_channel_of(((Sender *)self)->channel));
    }
    Py_RETURN_NONE;
}

static int
sender_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Sender *)self)->channel);
    return 0;
}

/* No tp_clear: its channel is older, and has one. */
static void
sender_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, sender_dealloc)
    Py_DECREF(((Sender *)self)->channel);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *
sender_repr(PyObject *self)
{
    return repr_beside(self, "of", ((Sender *)self)->channel);
}
NS_EXIT(sender_leave, "ChannelSender.__exit__")

static PyMethodDef sender_methods[] = {
    NS_NO_ARGUMENTS("__enter__", sender_enter, DOC_ChannelSender___enter__),
    NS_METHOD("__exit__", sender_leave_method, DOC_ChannelSender___exit__),
    NS_GENERIC,
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sender_slots[] = {
    {Py_tp_doc, DOC_ChannelSender},
    {Py_tp_traverse, sender_traverse},
    {Py_tp_dealloc, sender_dealloc},
    {Py_tp_repr, sender_repr},
    {Py_tp_methods, sender_methods},
    {0, NULL},
};

static PyType_Spec sender_spec = {
    .name = "nogil_sync.ChannelSender",
    .basicsize = sizeof(Sender),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sender_slots,
};

int
ns_add_channel_ends(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &sending_spec, &state->sending_type) < 0
               ? -1
               : ns_add_kept_type(module, &sender_spec, &state->channel_sender_type);
}
