/* CounterValue, GaugeValue and HistogramValue: what nogil_sync.integrations keeps numbers in. Not
 * public.
 *
 * A counter is a sharded sum (core/counter.h). A gauge cannot be sharded: it is also set, and no
 * order of visits to several words makes all of them change at once. So it is one word, changed by
 * compare-and-swap.
 *
 * A histogram is a sharded sum, and a sharded count for each bucket (core/counter.h). An
 * observation changes two of them, one after the other, as prometheus_client does: a reader may see
 * the sum without the count. The bounds are read only.
 */
#include "arguments.h"
#include "core/counter.h"
#include "core/memory/segments.h"
#include "interpreter/sharing.h"
#include "object.h"

#include <stdlib.h>

/* ---- CounterValue ---- */

typedef struct {
    NS_OBJECT_HEAD
    char apart_from_header[NS_LINE];
    ns_counter counter; /* once there are cells, it is only read */
    char apart_from_neighbour[NS_LINE];
} Counter;

static ns_counter *
counter_of(PyObject *self)
{
    return &((Counter *)self)->counter;
}

static inline PyObject *
add(PyObject *self, double n)
{
    ns_counter_add_double(counter_of(self), n);
    ns_used(self);
    Py_RETURN_NONE;
}

static PyObject *
counter_inc(PyObject *self, PyObject *amount)
{
    double n;
    return ns_double(amount, &n) < 0 ? NULL : add(self, n);
}

/* The same for an amount that must not be negative. The words are prometheus_client's. */
static PyObject *
counter_up(PyObject *self, PyObject *amount)
{
    double n;
    if (ns_double(amount, &n) < 0) {
        return NULL;
    }
    if (n < 0) {
        PyErr_SetString(PyExc_ValueError,
                        "Counters can only be incremented by non-negative amounts.");
        return NULL;
    }
    return add(self, n);
}

static PyObject *
counter_get(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_counter_sum_double(counter_of(self), false));
}

static PyObject *
counter_reset(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_counter_sum_double(counter_of(self), true));
}

/* Reads the arguments of a value's `set`. The time stamp is for values that several processes
 * share. Returns 0, or -1 with an exception. */
static inline int
number_to_set(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
              double *n)
{
    PyObject *given[2];
    return ns_unpack(s, args, nargs, kwnames, given) < 0 ? -1 : ns_double(given[0], n);
}

static PyObject *
counter_set(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"CounterValue.set", {"value", "timestamp"}, 1, 2, 0};
    double n;
    if (number_to_set(&s, args, nargs, kwnames, &n) < 0) {
        return NULL;
    }
    ns_counter_set_double(counter_of(self), n);
    Py_RETURN_NONE;
}

static PyObject *
counter_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyLong_FromSize_t((size_t)Py_TYPE(self)->tp_basicsize +
                             ns_counter_extra_size(counter_of(self)));
}

static void
counter_dealloc(PyObject *self)
{
    ns_begin_dealloc(self);
    ns_counter_destroy(counter_of(self));
    ns_free_object(self);
}

/* ---- GaugeValue ---- */

typedef struct {
    NS_OBJECT_HEAD
    char apart_from_header[NS_LINE];
    _Atomic uint64_t bits; /* of a double */
    char apart_from_neighbour[NS_LINE - sizeof(uint64_t)];
} Gauge;

static PyObject *
gauge_inc(PyObject *self, PyObject *amount)
{
    _Atomic uint64_t *word = &((Gauge *)self)->bits;
    double n;
    if (ns_double(amount, &n) < 0) {
        return NULL;
    }
    uint64_t bits = ns_load(word, NS_RELAXED);
    while (!ns_cas(word, &bits, ns_bits_of(ns_double_of(bits) + n), NS_SEQ_CST)) {
    }
    ns_used(self);
    Py_RETURN_NONE;
}

static PyObject *
gauge_set(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"GaugeValue.set", {"value", "timestamp"}, 1, 2, 0};
    double n;
    if (number_to_set(&s, args, nargs, kwnames, &n) < 0) {
        return NULL;
    }
    ns_store(&((Gauge *)self)->bits, ns_bits_of(n), NS_RELEASE);
    ns_used(self);
    Py_RETURN_NONE;
}

static PyObject *
gauge_get(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_double_of(ns_load(&((Gauge *)self)->bits, NS_ACQUIRE)));
}

/* ---- HistogramValue ---- */

/* Threads that use neighbouring buckets share no cache line. */
typedef struct {
    _Alignas(NS_CACHE_LINE) ns_counter counter;
} apart_counter;

typedef struct {
    NS_OBJECT_HEAD
    char apart_from_header[NS_LINE];
    /* Only read once it is made. */
    Py_ssize_t size; /* the number of buckets */
    double *bounds;
    apart_counter *counters; /* of the buckets, and then the sum */
    char apart_from_neighbour[NS_LINE];
} Histogram;

static ns_counter *
sum_of(Histogram *o)
{
    return &o->counters[o->size].counter;
}

static PyObject *
histogram_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {"HistogramValue.__init__(self, bounds, /)", {""}, 1, 1, 0};
    PyObject *bounds;
    if (ns_unpack_init(&s, args, kwargs, &bounds) < 0 ||
        (bounds = PySequence_Tuple(bounds)) == NULL) {
        return NULL;
    }
    const Py_ssize_t size = PyTuple_GET_SIZE(bounds);
    Histogram *o = (Histogram *)ns_allocate(type);
    if (o == NULL) {
        goto done;
    }
    o->bounds = PyMem_Calloc((size_t)size + 1, sizeof(double));
    o->counters = ns_zeroed(NS_CACHE_LINE, ((size_t)size + 1) * sizeof(apart_counter));
    if (o->bounds == NULL || o->counters == NULL) {
        PyErr_NoMemory();
        Py_CLEAR(o);
        goto done;
    }
    o->size = size;
    for (Py_ssize_t i = 0; i < size; i++) {
        if (ns_double(PyTuple_GET_ITEM(bounds, i), &o->bounds[i]) < 0) {
            Py_CLEAR(o);
            goto done;
        }
    }
done:
    Py_DECREF(bounds);
    return (PyObject *)o;
}

static void
histogram_dealloc(PyObject *self)
{
    Histogram *o = (Histogram *)self;
    ns_begin_dealloc(self);
    if (o->counters != NULL) {
        for (Py_ssize_t i = 0; i <= o->size; i++) {
            ns_counter_destroy(&o->counters[i].counter);
        }
        free(o->counters);
    }
    PyMem_Free(o->bounds);
    ns_free_object(self);
}

static PyObject *
observe(PyObject *self, PyObject *amount)
{
    Histogram *o = (Histogram *)self;
    double n;
    if (ns_double(amount, &n) < 0) {
        return NULL;
    }
    ns_counter_add_double(sum_of(o), n);
    Py_ssize_t i = 0;
    while (i < o->size && !(n <= o->bounds[i])) { /* NaN: no bucket */
        i++;
    }
    if (i < o->size) {
        ns_counter_add(&o->counters[i].counter, 1);
    }
    else {
        i = -1;
    }
    ns_used(self);
    return PyLong_FromSsize_t(i);
}

static PyObject *
count(PyObject *self, PyObject *number)
{
    Histogram *o = (Histogram *)self;
    int64_t i;
    if (ns_int64(number, INT64_MIN, INT64_MAX, "a signed 64-bit integer", &i) < 0) {
        return NULL;
    }
    if (i < 0 || i >= o->size) {
        PyErr_SetString(PyExc_IndexError, "no such bucket");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(ns_counter_sum(&o->counters[i].counter, false));
}

static PyObject *
histogram_sum(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return PyFloat_FromDouble(ns_counter_sum_double(sum_of((Histogram *)self), false));
}

static PyObject *
histogram_size(PyObject *self, PyObject *Py_UNUSED(unused))
{
    Histogram *o = (Histogram *)self;
    size_t size = (size_t)Py_TYPE(self)->tp_basicsize +
                  ((size_t)o->size + 1) * (sizeof(double) + sizeof(apart_counter));
    for (Py_ssize_t i = 0; i <= o->size; i++) {
        size += ns_counter_extra_size(&o->counters[i].counter);
    }
    return PyLong_FromSize_t(size);
}

/* ---- Types ---- */

static PyMemberDef counter_members[] = NS_WEAKREF_MEMBERS(Counter);
static PyMethodDef counter_methods[] = {
    {"inc", counter_inc, METH_O, NULL},
    {"up", counter_up, METH_O, NULL},
    NS_NO_ARGUMENTS("get", counter_get, NULL),
    NS_NO_ARGUMENTS("reset", counter_reset, NULL),
    NS_METHOD("set", counter_set, NULL),
    {"__sizeof__", counter_size, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot counter_slots[] = {
    {Py_tp_new, ns_new},
    {Py_tp_dealloc, counter_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_methods, counter_methods},
    {Py_tp_members, counter_members},
    {0, NULL},
};

static PyType_Spec counter_spec = {
    .name = "nogil_sync._native._core.CounterValue",
    .basicsize = sizeof(Counter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = counter_slots,
};

static PyMemberDef gauge_members[] = NS_WEAKREF_MEMBERS(Gauge);
static PyMethodDef gauge_methods[] = {
    {"inc", gauge_inc, METH_O, NULL},
    NS_METHOD("set", gauge_set, NULL),
    NS_NO_ARGUMENTS("get", gauge_get, NULL),
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot gauge_slots[] = {
    {Py_tp_new, ns_new},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_methods, gauge_methods},
    {Py_tp_members, gauge_members},
    {0, NULL},
};

static PyType_Spec gauge_spec = {
    .name = "nogil_sync._native._core.GaugeValue",
    .basicsize = sizeof(Gauge),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = gauge_slots,
};

static PyMemberDef histogram_members[] = NS_WEAKREF_MEMBERS(Histogram);
static PyMethodDef histogram_methods[] = {
    {"observe", observe, METH_O, NULL},
    {"count", count, METH_O, NULL},
    NS_NO_ARGUMENTS("sum", histogram_sum, NULL),
    {"__sizeof__", histogram_size, METH_NOARGS, NULL},
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyType_Slot histogram_slots[] = {
    {Py_tp_new, histogram_new},
    {Py_tp_dealloc, histogram_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_methods, histogram_methods},
    {Py_tp_members, histogram_members},
    {0, NULL},
};

static PyType_Spec histogram_spec = {
    .name = "nogil_sync._native._core.HistogramValue",
    .basicsize = sizeof(Histogram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = histogram_slots,
};

int
ns_add_metrics(PyObject *module)
{
    return ns_add_type(module, &counter_spec) < 0 || ns_add_type(module, &gauge_spec) < 0
               ? -1
               : ns_add_type(module, &histogram_spec);
}
