#include "types/cases.h"

#include "interpreter/cpython.h"
#include "types/channel_type.h"
#include "types/insides.h"

#include <math.h>

/* The Channel of a case that receives or sends. */
static PyObject *
channel_of_case(const ns_case *each)
{
    return each->kind == NS_SENDS ? ((ns_sending *)each->passed)->channel : each->passed;
}

static PyObject *
item_of(const ns_case *each)
{
    return ((ns_sending *)each->passed)->value;
}

static bool
is_of(PyObject *object, PyObject *type)
{
    return type != NULL && PyObject_TypeCheck(object, (PyTypeObject *)type);
}

/* ---- Which kinds they are ---- */

/* Returns a case's event, which may be None, or NULL with an exception. */
static PyObject *
event_of(ns_state *state, const ns_case *each)
{
    return PyObject_CallMethodNoArgs(each->passed, state->names._case_event);
}

/* Finds the kind of a case that is of none of our types exactly. The event of a case in Python is
 * asked for only since that raises if its __init__ was not called. Returns 0, or -1 with an
 * exception. */
static Py_NO_INLINE int
find_kind_slow(ns_state *state, ns_case *each)
{
    PyObject *const types[] = {
        [NS_RECEIVES] = state->channel_type,
        [NS_SENDS] = state->sending_type,
        [NS_IS_SET] = state->event_type,
        [NS_IS_ZERO] = state->waitgroup_type,
        [NS_IN_PYTHON] = state->case_class,
    };
    for (size_t kind = 0; kind < Py_ARRAY_LENGTH(types); kind++) {
        if (is_of(each->passed, types[kind])) {
            each->kind = (enum ns_case_kind)kind;
            PyObject *asked = kind == NS_IN_PYTHON ? event_of(state, each) : Py_NewRef(Py_None);
            Py_XDECREF(asked);
            return asked != NULL ? 0 : -1;
        }
    }
    PyObject *name = PyType_GetName(Py_TYPE(each->passed));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError, "select: '%U' object is not a case", name);
        Py_DECREF(name);
    }
    return -1;
}

static inline int
find_kind(ns_state *state, ns_case *each)
{
    PyObject *type = (PyObject *)Py_TYPE(each->passed);
    if (type == state->channel_type) {
        each->kind = NS_RECEIVES;
    }
    else if (type == state->event_type) {
        each->kind = NS_IS_SET;
    }
    else if (type == state->sending_type) {
        each->kind = NS_SENDS;
    }
    else if (find_kind_slow(state, each) < 0) {
        return -1;
    }
    return each->kind == NS_RECEIVES ? ns_check_initialized(each->passed) : 0;
}

int
ns_cases_init(ns_cases *c, ns_state *state, PyObject *const *objects, Py_ssize_t count)
{
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "select needs at least one case");
        return -1;
    }
    c->state = state;
    c->count = (uint32_t)count;
    c->cases = c->few;
    if (ns_unlikely(count > NS_FEW_CASES)) {
        c->cases = count < INT32_MAX ? PyMem_New(ns_case, (size_t)count) : NULL;
        if (c->cases == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    c->blank = NULL;
    for (uint32_t n = 0; n < c->count; n++) {
        c->cases[n] = (ns_case){.passed = objects[n]};
        if (find_kind(state, &c->cases[n]) < 0) {
            ns_cases_free(c);
            return -1;
        }
    }
    PyTypeObject *class = (PyTypeObject *)state->selected_class;
    c->blank = class ? ns_new_named_tuple(class, 3) : ns_shutting_down();
    if (c->blank == NULL) {
        ns_cases_free(c);
        return -1;
    }
    return 0;
}

void
ns_cases_free(ns_cases *c)
{
    Py_XDECREF(c->blank);
    if (c->cases != c->few) {
        PyMem_Free(c->cases);
    }
}

/* ---- What came of it ---- */

/* Consumes `value`. */
static inline void
fill_in(PyObject *blank, PyObject *passed, PyObject *value, bool closed)
{
    PyTuple_SET_ITEM(blank, 0, Py_NewRef(passed));
    PyTuple_SET_ITEM(blank, 1, value);
    PyTuple_SET_ITEM(blank, 2, Py_NewRef(closed ? Py_True : Py_False));
    PyObject_GC_Track(blank);
}

/* Sets *selected. Consumes `value`. Returns 1. */
static int
select_case(ns_cases *c, const ns_case *each, PyObject *value, bool closed, PyObject **selected)
{
    *selected = c->blank;
    c->blank = NULL;
    fill_in(*selected, each->passed, value, closed);
    return 1;
}

/* The same for a case without a value. */
static int
select_plain(ns_cases *c, const ns_case *each, PyObject **selected)
{
    return select_case(c, each, Py_NewRef(Py_None), false, selected);
}

/* A received item, or NULL if the channel is closed and empty. */
static int
select_item(ns_cases *c, const ns_case *each, PyObject *item, PyObject **selected)
{
    if (item == NULL) {
        return select_case(c, each, Py_NewRef(Py_None), true, selected);
    }
    ns_channel_note(ns_channel_of(each->passed), item);
    return select_case(c, each, item, false, selected);
}

static int
raise_closed(const ns_case *each)
{
    ns_channel_type_raise_closed(channel_of_case(each));
    return -1;
}

/* ---- Each kind, without waiting. These return as ns_cases_try. ---- */

static int
try_to_receive(ns_cases *c, const ns_case *each, PyObject **selected)
{
    void *item = NULL;
    ns_used(each->passed);
    return ns_channel_try_receive(ns_channel_of(each->passed), &item) == NS_CHANNEL_WOULD_WAIT
               ? 0
               : select_item(c, each, item, selected);
}

static int
try_to_send(ns_cases *c, const ns_case *each, PyObject **selected)
{
    PyObject *channel = channel_of_case(each), *item = item_of(each);
    ns_used(channel);
    const bool shared = ns_channel_give(ns_channel_of(channel), item);
    const enum ns_channel_result result = ns_channel_try_send(ns_channel_of(channel), item);
    if (result == NS_CHANNEL_DONE) {
        return select_plain(c, each, selected);
    }
    ns_channel_keep(item, shared);
    return result == NS_CHANNEL_REFUSED ? raise_closed(each) : 0;
}

/* Asks a case in Python: its answer is None, or a pair of the value and whether it is closed. */
static int
try_in_python(ns_cases *c, const ns_case *each, PyObject **selected)
{
    PyObject *answer = PyObject_CallMethodNoArgs(each->passed, c->state->names._case_take);
    if (answer == NULL) {
        return -1;
    }
    int result = 0;
    if (answer != Py_None) {
        PyObject *value;
        int closed;
        result = PyArg_ParseTuple(answer, "Op", &value, &closed)
                     ? select_case(c, each, Py_NewRef(value), closed, selected)
                     : -1;
    }
    Py_DECREF(answer);
    return result;
}

bool
ns_receive_now(ns_state *state, PyObject *object, PyObject **selected)
{
    PyTypeObject *class = (PyTypeObject *)state->selected_class;
    if ((PyObject *)Py_TYPE(object) != state->channel_type || class == NULL) {
        return false;
    }
    PyObject *blank = ns_new_named_tuple(class, 3);
    if (blank == NULL) {
        PyErr_Clear(); /* it will fail again, where that is reported */
        return false;
    }
    void *item = NULL;
    ns_used(object);
    if (ns_channel_try_receive(ns_channel_of(object), &item) != NS_CHANNEL_DONE) {
        Py_DECREF(blank);
        return false;
    }
    ns_channel_note(ns_channel_of(object), item);
    fill_in(blank, object, item, false);
    *selected = blank;
    return true;
}

static int
try_one(ns_cases *c, const ns_case *each, PyObject **selected)
{
    switch (each->kind) {
    case NS_RECEIVES:
        return try_to_receive(c, each, selected);
    case NS_SENDS:
        return try_to_send(c, each, selected);
    case NS_IS_SET:
        ns_used(each->passed);
        return ns_event_is_set(ns_inside_event(each->passed)) ? select_plain(c, each, selected) : 0;
    case NS_IS_ZERO:
        ns_used(each->passed);
        return ns_waitgroup_count(ns_inside_waitgroup(each->passed)) == 0
                   ? select_plain(c, each, selected)
                   : 0;
    default:
        return try_in_python(c, each, selected);
    }
}

int
ns_cases_try(ns_cases *c, PyObject **selected)
{
    int result = 0;
    for (uint32_t n = 0; n < c->count && result == 0; n++) {
        if (n + 1 < c->count) { /* one of those that were not tried yet */
            const uint32_t other = n + ns_random_below(c->count - n);
            const ns_case chosen = c->cases[other];
            c->cases[other] = c->cases[n];
            c->cases[n] = chosen;
        }
        result = try_one(c, &c->cases[n], selected);
    }
    return result;
}

/* ---- In line ---- */

/* Sets each->event. Returns 0, or -1 with an exception. */
static int
ask_for_event(ns_state *state, ns_case *each)
{
    PyObject *event = event_of(state, each);
    if (event == NULL || event == Py_None) {
        Py_XDECREF(event);
        return event == NULL ? -1 : 0;
    }
    if (!is_of(event, state->event_type)) {
        PyErr_SetString(PyExc_TypeError, "_case_event() must return an Event or None");
        Py_DECREF(event);
        return -1;
    }
    each->event = event;
    return 0;
}

/* Makes *due earlier if this case, in Python, is due before. Returns 0, or -1 with an exception. */
static int
ask_for_time(ns_state *state, const ns_case *each, int64_t *due)
{
    PyObject *answer = PyObject_CallMethodNoArgs(each->passed, state->names._case_due);
    const double seconds = answer ? PyFloat_AsDouble(answer) : -1;
    Py_XDECREF(answer);
    PyTime_t now;
    if ((seconds == -1 && PyErr_Occurred()) || PyTime_Monotonic(&now) < 0) {
        return -1;
    }
    const double nanoseconds = ceil(seconds * 1e9 - (double)now);
    if (nanoseconds < 9e18) { /* else it never comes */
        const int64_t at = ns_now() + (nanoseconds > 0 ? (int64_t)nanoseconds : 0);
        *due = at < *due ? at : *due;
    }
    return 0;
}

static void
add_place(ns_selector *s, ns_case *each)
{
    PyObject *event = each->kind == NS_IN_PYTHON ? each->event : each->passed;
    ns_channel *channel;
    switch (each->kind) {
    case NS_RECEIVES:
        ns_selector_add(s, &ns_channel_receive_line, ns_channel_of(each->passed), 0);
        break;
    case NS_SENDS:
        channel = ns_channel_of(channel_of_case(each));
        each->shared = ns_channel_give(channel, item_of(each));
        each->given = true;
        ns_selector_add(s, &ns_channel_send_line, channel, (uintptr_t)item_of(each));
        break;
    case NS_IS_ZERO:
        ns_selector_add(s, &ns_word_line, ns_inside_waitgroup(each->passed), 0);
        break;
    default:
        if (event == NULL) {
            return;
        }
        ns_selector_add(s, &ns_word_line, ns_inside_event(event), 1);
    }
    each->has_place = true;
}

ns_selector *
ns_cases_line_up(ns_cases *c, int64_t *due)
{
    *due = NS_FOREVER;
    for (uint32_t n = 0; n < c->count; n++) {
        ns_case *each = &c->cases[n];
        if (each->kind == NS_IN_PYTHON &&
            (ask_for_event(c->state, each) < 0 || ask_for_time(c->state, each, due) < 0)) {
            ns_cases_let_go(c);
            return NULL;
        }
    }
    ns_selector *s = ns_selector_new(c->count);
    if (s == NULL) {
        PyErr_NoMemory();
        ns_cases_let_go(c);
        return NULL;
    }
    for (uint32_t n = 0; n < c->count; n++) {
        add_place(s, &c->cases[n]);
    }
    return s;
}

/* The case with that place, by its number among those that have one. */
static ns_case *
case_at(ns_cases *c, uint32_t place)
{
    ns_case *each = c->cases;
    while (!each->has_place || place-- > 0) {
        each++;
    }
    return each;
}

int
ns_cases_take(ns_cases *c, ns_selector *s, PyObject **selected)
{
    const uint32_t place = ns_selector_chosen(s);
    const uint64_t amount = s->places[place].amount;
    ns_case *each = case_at(c, place);
    switch (each->kind) {
    case NS_RECEIVES:
        return select_item(c, each, (PyObject *)(uintptr_t)amount, selected);
    case NS_SENDS:
        if (amount != 0) {
            return raise_closed(each);
        }
        each->given = false; /* it is the channel's */
        return select_plain(c, each, selected);
    case NS_IN_PYTHON:
        return try_in_python(c, each, selected);
    default:
        return select_plain(c, each, selected);
    }
}

void
ns_cases_let_go(ns_cases *c)
{
    for (uint32_t n = 0; n < c->count; n++) {
        ns_case *each = &c->cases[n];
        each->has_place = false;
        if (each->given) {
            each->given = false;
            ns_channel_keep(item_of(each), each->shared);
        }
        Py_CLEAR(each->event);
    }
}
