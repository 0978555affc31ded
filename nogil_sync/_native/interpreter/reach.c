#include "interpreter/reach.h"

#include <opcode.h>

#if !NS_CAN_DEFER

#define LONGEST_LINE 64   /* units of bytecode that are checked */
#define MOST_ATTRIBUTES 8 /* of one line */

/* The line that the calling thread runs, from its start to the instruction that calls us. */
typedef struct {
    PyFrameObject *frame; /* borrowed */
    PyCodeObject *code;
    PyObject *bytes;
    int begin, end;
    PyObject *attributes[MOST_ATTRIBUTES]; /* borrowed from the code */
    int count;
} line;

static void
close_line(line *l)
{
    Py_XDECREF(l->bytes);
    Py_XDECREF(l->code);
    PyErr_Clear();
}

static bool
open_line(line *l)
{
    *l = (line){.frame = PyEval_GetFrame()};
    if (l->frame == NULL) {
        return false;
    }
    l->code = PyFrame_GetCode(l->frame);
    l->bytes = PyCode_GetCode(l->code);
    l->begin = l->end = PyFrame_GetLasti(l->frame);
    if (l->bytes == NULL || l->end < 0) {
        close_line(l);
        return false;
    }
    int number = PyCode_Addr2Line(l->code, l->end);
    while (l->begin >= 2 && l->end - l->begin < 2 * LONGEST_LINE &&
           PyCode_Addr2Line(l->code, l->begin - 2) == number) {
        l->begin -= 2;
    }
    return true;
}

static int
opcode_at(const line *l, int at)
{
    return (unsigned char)PyBytes_AS_STRING(l->bytes)[at];
}

/* Includes one EXTENDED_ARG before it, if there is one. No code has more than 65,535 variables. */
static int
argument_at(const line *l, int at)
{
    int argument = opcode_at(l, at + 1);
    if (at - 2 >= l->begin && opcode_at(l, at - 2) == EXTENDED_ARG) {
        argument |= opcode_at(l, at - 1) << 8;
    }
    return argument;
}

/* Returns a name that the code refers to, borrowed, or NULL. */
static PyObject *
name_of(const line *l, int index)
{
    PyObject *names = l->code->co_names;
    return index < PyTuple_GET_SIZE(names) ? PyTuple_GET_ITEM(names, index) : NULL;
}

static void
find_attributes(line *l)
{
    for (int at = l->begin; at <= l->end; at += 2) {
        if (opcode_at(l, at) == LOAD_ATTR && l->count < MOST_ATTRIBUTES) {
            PyObject *name = name_of(l, argument_at(l, at) >> 1);
            if (name != NULL) {
                l->attributes[l->count++] = name;
            }
        }
    }
}

/* Whether `self` is the value of an attribute of this object that the line reads. */
static bool
is_holder(const line *l, PyObject *object, PyObject *self)
{
    for (int i = 0; i < l->count; i++) {
        PyObject *value = ns_plain_attribute(object, l->attributes[i]);
        bool found = value == self;
        Py_XDECREF(value);
        if (found) {
            return true;
        }
    }
    return false;
}

static void
keep(PyObject **place, PyObject *object)
{
    if (*place == NULL) {
        *place = Py_NewRef(object);
    }
}

/* Whether this value of a variable is `self`, or leads to it; adds what it finds to *r. */
static bool
leads_to(const line *l, PyObject *value, PyObject *self, ns_reach *r)
{
    if (value == self) {
        return true;
    }
    if (PyCFunction_Check(value) && PyCFunction_GET_SELF(value) == self) {
        keep(&r->method, value);
        return true;
    }
    if (is_holder(l, value, self)) {
        keep(&r->holder, value);
        return true;
    }
    return false;
}

static void
look_at_variable(const line *l, int index, PyObject *self, ns_reach *r)
{
    PyObject *object = index < l->code->co_nlocalsplus ? ns_frame_variable(l->frame, index) : NULL;
    if (object == NULL) {
        return;
    }
    if (!PyCell_Check(object)) {
        leads_to(l, object, self, r);
        return;
    }
    PyObject *value = PyCell_Get(object);
    if (value != NULL && leads_to(l, value, self, r) && r->cell == NULL) {
        r->cell = Py_NewRef(object);
        r->variable = Py_NewRef(PyTuple_GET_ITEM(l->code->co_localsplusnames, index));
    }
    Py_XDECREF(value);
}

static void
look_at_global(const line *l, int index, PyObject *self, ns_reach *r)
{
    PyObject *globals = PyFrame_GetGlobals(l->frame), *name = name_of(l, index), *value = NULL;
    if (name != NULL && PyDict_Check(globals)) {
        (void)PyDict_GetItemRef(globals, name, &value);
    }
    if (value != NULL) {
        leads_to(l, value, self, r);
        Py_DECREF(value);
    }
    Py_DECREF(globals);
}

void
ns_reach_find(ns_reach *r, PyObject *self)
{
    line l;
    *r = (ns_reach){0};
    if (!open_line(&l)) {
        return;
    }
    find_attributes(&l);
    for (int at = l.begin; at <= l.end; at += 2) {
        int argument = argument_at(&l, at);
        switch (opcode_at(&l, at)) {
        case LOAD_FAST:
        case LOAD_FAST_CHECK:
        case LOAD_DEREF:
            look_at_variable(&l, argument, self, r);
            break;
        case LOAD_FAST_LOAD_FAST:
            look_at_variable(&l, argument >> 4, self, r);
            look_at_variable(&l, argument & 15, self, r);
            break;
        case STORE_FAST_LOAD_FAST:
            look_at_variable(&l, argument & 15, self, r);
            break;
        case LOAD_GLOBAL:
            look_at_global(&l, argument >> 1, self, r);
            break;
        default:
            break;
        }
    }
    close_line(&l);
}

void
ns_reach_clear(ns_reach *r)
{
    Py_CLEAR(r->holder);
    Py_CLEAR(r->method);
    Py_CLEAR(r->cell);
    Py_CLEAR(r->variable);
}

#endif
