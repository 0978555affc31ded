/* ShardedCounter and ShardedFloatCounter: two types over core/counter.h. */
#include "arguments.h"
#include "core/counter.h"
#include "docs.h"
#include "object.h"
#include "interpreter/watch.h"

typedef struct {
    NS_OBJECT_HEAD
    /* Calls change the counts in the header of an object that is not pinned. Once there are cells,
     * the fields below are only read. They are apart from this header and the next object's, so
     * they stay in every core's cache. */
    char apart_from_header[NS_LINE];
    ns_counter counter;
    ns_watch_place watch;
    char apart_from_neighbour[NS_LINE - NS_LOCAL_COUNT_OFFSET];
} Counter;

static inline ns_counter *
counter_of(PyObject *self)
{
    return &((Counter *)self)->counter;
}

static int
init_with(PyObject *self, uint64_t bits)
{
    if (ns_claim_init(self) < 0) {
        return -1;
    }
    if (ns_unlikely(ns_counter_is_shared(counter_of(self)))) { /* threads used it before */
        ns_counter_sum(counter_of(self), true);
    }
    ns_store(&counter_of(self)->base, bits, NS_RELAXED);
    ns_watch_attach(&((Counter *)self)->watch, self);
    return 0;
}

static void
dealloc(PyObject *self)
{
    Counter *o = (Counter *)self;
    ns_begin_dealloc(self);
    ns_counter_destroy(&o->counter);
    ns_watch_detach(&o->watch);
    ns_free_object(self);
}

static PyObject *
size_of(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Counter *o = (Counter *)self;
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_counter_extra_size(&o->counter));
}

/* ---- ShardedCounter ---- */

static int
parse_int(PyObject *value, int64_t *result)
{
    return ns_int64(value, INT64_MIN, INT64_MAX, "a signed 64-bit integer", result);
}

static PyObject *
int_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"ShardedCounter.add", {"n"}, 0, 1, 0};
    PyObject *argument;
    int64_t n = 1;
    if (ns_unpack(&s, args, nargs, kwnames, &argument) < 0 ||
        (argument != NULL && parse_int(argument, &n) < 0)) {
        return NULL;
    }
    ns_counter_add(counter_of(self), (uint64_t)n);
    ns_watch_use(&((Counter *)self)->watch, self);
    Py_RETURN_NONE;
}

static PyObject *
int_value(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLongLong((int64_t)ns_counter_sum(counter_of(self), false));
}

static PyObject *
int_reset(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromLongLong((int64_t)ns_counter_sum(counter_of(self), true));
}

static int
int_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"ShardedCounter.__init__", {"value"}, 0, 1, 0};
    PyObject *argument;
    int64_t value = 0;
    if (ns_unpack_init(&s, args, kwargs, &argument) < 0 ||
        (argument != NULL && parse_int(argument, &value) < 0)) {
        return -1;
    }
    return init_with(self, (uint64_t)value);
}

static PyObject *
int_repr(PyObject *self)
{
    return ns_repr_call(self, int_value(self, NULL));
}

/* ---- ShardedFloatCounter ---- */

static PyObject *
float_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"ShardedFloatCounter.add", {"n"}, 0, 1, 0};
    PyObject *argument;
    double n = 1.0;
    if (ns_unpack(&s, args, nargs, kwnames, &argument) < 0 ||
        (argument != NULL && ns_double(argument, &n) < 0)) {
        return NULL;
    }
    ns_counter_add_double(counter_of(self), n);
    ns_watch_use(&((Counter *)self)->watch, self);
    Py_RETURN_NONE;
}

static PyObject *
float_value(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_counter_sum_double(counter_of(self), false));
}

static PyObject *
float_reset(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_counter_sum_double(counter_of(self), true));
}

static int
float_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"ShardedFloatCounter.__init__", {"value"}, 0, 1, 0};
    PyObject *argument;
    double value = 0.0;
    if (ns_unpack_init(&s, args, kwargs, &argument) < 0 ||
        (argument != NULL && ns_double(argument, &value) < 0)) {
        return -1;
    }
    return init_with(self, ns_bits_of(value));
}

static PyObject *
float_repr(PyObject *self)
{
    return ns_repr_call(self, float_value(self, NULL));
}

/* ---- Types ---- */

static PyMemberDef members[] = NS_WEAKREF_MEMBERS(Counter);
static PyMethodDef int_methods[] = {
    NS_METHOD("add", int_add, DOC_ShardedCounter_add),
    NS_NO_ARGUMENTS("value", int_value, DOC_ShardedCounter_value),
    NS_NO_ARGUMENTS("reset", int_reset, DOC_ShardedCounter_reset),
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot int_slots[] = {
    {Py_tp_doc, DOC_ShardedCounter},
    {Py_tp_new, ns_new},
    {Py_tp_init, int_init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, int_repr},
    {Py_nb_bool, ns_no_bool},
    {Py_tp_methods, int_methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec int_spec = {
    .name = "nogil_sync.ShardedCounter",
    .basicsize = sizeof(Counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = int_slots,
};
static PyMethodDef float_methods[] = {
    NS_METHOD("add", float_add, DOC_ShardedFloatCounter_add),
    NS_NO_ARGUMENTS("value", float_value, DOC_ShardedFloatCounter_value),
    NS_NO_ARGUMENTS("reset", float_reset, DOC_ShardedFloatCounter_reset),
    {"__sizeof__", size_of, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot float_slots[] = {
    {Py_tp_doc, DOC_ShardedFloatCounter},
    {Py_tp_new, ns_new},
    {Py_tp_init, float_init},
    {Py_tp_dealloc, dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, float_repr},
    {Py_nb_bool, ns_no_bool},
    {Py_tp_methods, float_methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec float_spec = {
    .name = "nogil_sync.ShardedFloatCounter",
    .basicsize = sizeof(Counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = float_slots,
};

int
ns_add_counters(PyObject *module)
{
    return ns_add_type(module, &int_spec) < 0 ? -1 : ns_add_type(module, &float_spec);
}
