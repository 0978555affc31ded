/* Event: threading.Event's interface over core/event.h. */
#include "arguments.h"
#include "core/event.h"
#include "interpreter/detach.h"
#include "docs.h"
#include "types/insides.h"
#include "object.h"
#include "interpreter/sharing.h"

typedef struct {
    NS_OBJECT_HEAD
    ns_event event;
} Event;

static inline ns_event *
event_of(PyObject *self)
{
    return &((Event *)self)->event;
}

ns_event *
ns_inside_event(PyObject *self)
{
    return event_of(self);
}

static PyObject *
is_set(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_used(self);
    if (ns_event_is_set(event_of(self))) {
        Py_RETURN_TRUE;
    }
    Py_RETURN_FALSE;
}

static PyObject *
set(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_event_set(event_of(self));
    Py_RETURN_NONE;
}

static PyObject *
clear(PyObject *self, PyObject *Py_UNUSED(unused))
{
    ns_event_clear(event_of(self));
    Py_RETURN_NONE;
}

static PyObject *
wait_(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"Event.wait", {"timeout"}, 0, 1, 0};
    ns_event *e = event_of(self);
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER;
    if (nargs != 0 || kwnames != NULL) {
        PyObject *timeout;
        if (ns_unpack(&s, args, nargs, kwnames, &timeout) < 0 ||
            ns_plain_timeout(timeout, &patience, &deadline) < 0) {
            return NULL;
        }
    }
    ns_used(self);
    if (ns_event_is_set(e)) {
        Py_RETURN_TRUE;
    }
    if (patience == NS_DO_NOT_WAIT) {
        Py_RETURN_FALSE;
    }
    int result = ns_wait(self, &ns_event_steps, e, &(uint64_t){1}, deadline);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* threading.Event has this method. Here there is nothing to do, since an event has no lock. */
static PyObject *
at_fork_reinit(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    Py_RETURN_NONE;
}

static PyObject *
repr(PyObject *self)
{
    return ns_repr_state(self, ns_event_is_set(event_of(self)) ? "set" : "unset");
}
NS_INIT_WITHOUT_ARGUMENTS("Event")

static PyMethodDef methods[] = {
    NS_NO_ARGUMENTS("is_set", is_set, DOC_Event_is_set),
    NS_NO_ARGUMENTS("set", set, DOC_Event_set),
    NS_NO_ARGUMENTS("clear", clear, DOC_Event_clear),
    NS_METHOD("wait", wait_, DOC_Event_wait),
    {"_at_fork_reinit", at_fork_reinit, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Event);

static PyType_Slot slots[] = {
    {Py_tp_doc, DOC_Event},
    {Py_tp_new, ns_new},
    {Py_tp_init, init},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, repr},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "nogil_sync.Event",
    .basicsize = sizeof(Event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

int
ns_add_event(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    return ns_add_kept_type(module, &spec, &state->event_type);
}
