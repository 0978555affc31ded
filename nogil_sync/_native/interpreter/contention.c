#include "interpreter/contention.h"

#include "core/waiting/park.h"
#include "interpreter/cpython.h"

#define MAX_DEPTH 64 /* frames of a stack; as in _common/recording.py */

struct ns_record {
    ns_record *next;
    ns_recording *recording;
    PyObject *token; /* what waits for what: see Token in _common/recording.py */
    int64_t began, ended;
    uint32_t retries; /* 0: this is a wait */
    bool served;
};

_Atomic uint32_t ns_recordings;

/* Returns the calls of this thread, the innermost first: code objects and lines in turn. NULL
 * without memory. */
static PyObject *
stack_of_calls(void)
{
    PyObject *items[2 * MAX_DEPTH];
    Py_ssize_t count = 0;
    PyFrameObject *frame = PyEval_GetFrame(); /* borrowed; this thread's own */
    Py_XINCREF(frame);
    while (frame != NULL && count < 2 * MAX_DEPTH) {
        PyFrameObject *back = PyFrame_GetBack(frame);
        items[count++] = (PyObject *)PyFrame_GetCode(frame);
        items[count++] = PyLong_FromLong(PyFrame_GetLineNumber(frame));
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    bool complete = true;
    for (Py_ssize_t i = 0; i < count; i++) {
        complete = complete && items[i] != NULL;
    }
    PyObject *stack = complete ? PyTuple_New(count) : NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (stack != NULL) {
            PyTuple_SET_ITEM(stack, i, items[i]);
        }
        else {
            Py_XDECREF(items[i]);
        }
    }
    return stack;
}

/* Returns the object of this thread, or None if it has none. NULL with an exception. */
static PyObject *
thread_of(const ns_recording *recording, PyObject *ident)
{
    PyObject *thread;
    int found = PyDict_GetItemRef(recording->threads, ident, &thread);
    return found < 0 ? NULL : found > 0 ? thread : Py_NewRef(Py_None);
}

/* `self` is an object of ours, or the module for a call that belongs to none. */
static PyObject *
new_token(const ns_recording *recording, PyObject *self, const char *operation)
{
    const bool has_object = !PyModule_Check(self);
    PyObject *reference = has_object ? PyWeakref_NewRef(self, NULL) : Py_NewRef(Py_None);
    PyObject *type = Py_NewRef(has_object ? (PyObject *)Py_TYPE(self) : Py_None);
    PyObject *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    PyObject *thread = ident == NULL ? NULL : thread_of(recording, ident);
    PyObject *stack = stack_of_calls();
    PyObject *token = NULL;
    if (reference != NULL && thread != NULL && stack != NULL) {
        token = Py_BuildValue("(OOsOOO)", reference, type, operation, ident, thread, stack);
    }
    Py_XDECREF(reference);
    Py_DECREF(type);
    Py_XDECREF(ident);
    Py_XDECREF(thread);
    Py_XDECREF(stack);
    return token;
}

ns_record *
ns_record_begin_slow(PyObject *self, const char *operation)
{
    ns_state *state = PyModule_Check(self) ? PyModule_GetState(self) : ns_state_of(self);
    ns_recording *recording = state == NULL ? NULL : state->recording;
    if (recording == NULL || !ns_load(&recording->on, NS_RELAXED)) {
        return NULL;
    }
    PyObject *error = PyErr_GetRaisedException();
    ns_record *r = PyMem_RawMalloc(sizeof(ns_record));
    PyObject *token = r == NULL ? NULL : new_token(recording, self, operation);
    if (token == NULL) { /* no memory: the profile lacks this wait */
        PyErr_Clear();
        PyMem_RawFree(r);
        r = NULL;
    }
    else {
        *r = (ns_record){.recording = recording, .token = token, .began = ns_now()};
    }
    PyErr_SetRaisedException(error);
    return r;
}

static void
push(ns_record *r)
{
    _Atomic(ns_record *) *ended = &r->recording->ended;
    r->next = ns_load(ended, NS_RELAXED);
    while (!ns_cas(ended, &r->next, r, NS_RELEASE)) {
    }
}

void
ns_record_end_slow(ns_record *r, bool served)
{
    r->ended = ns_now();
    r->served = served;
    push(r);
}

void
ns_record_retries_slow(PyObject *self, const char *operation, uint32_t retries)
{
    ns_record *r = ns_record_begin_slow(self, operation);
    if (r != NULL) {
        r->ended = r->began;
        r->retries = retries;
        r->served = true;
        push(r);
    }
}

void
ns_record_drop_slow(ns_record *r)
{
    Py_DECREF(r->token);
    PyMem_RawFree(r);
}

/* Takes the records that have ended, the oldest first. */
static ns_record *
take_all(ns_recording *recording)
{
    ns_record *taken = ns_swap(&recording->ended, NULL, NS_ACQUIRE);
    ns_record *first = NULL;
    while (taken != NULL) {
        ns_record *next = taken->next;
        taken->next = first;
        first = taken;
        taken = next;
    }
    return first;
}

static PyObject *
recorded_waits(PyObject *module, PyObject *Py_UNUSED(unused))
{
    ns_state *state = PyModule_GetState(module);
    PyObject *list = PyList_New(0);
    if (list == NULL) {
        return NULL;
    }
    ns_record *r = take_all(state->recording);
    while (r != NULL) {
        ns_record *next = r->next;
        PyObject *wait = list == NULL ? NULL
                                      : Py_BuildValue("(ddOkO)",
                                                      (double)r->began / 1e9,
                                                      (double)r->ended / 1e9,
                                                      r->served ? Py_True : Py_False,
                                                      (unsigned long)r->retries,
                                                      r->token);
        if (list != NULL && (wait == NULL || PyList_Append(list, wait) < 0)) {
            Py_CLEAR(list); /* no memory: the profile lacks these waits */
        }
        Py_XDECREF(wait);
        ns_record_drop_slow(r);
        r = next;
    }
    return list;
}

static PyObject *
record_waits(PyObject *module, PyObject *on)
{
    ns_state *state = PyModule_GetState(module);
    const bool wanted = on == Py_True;
    if (ns_swap(&state->recording->on, wanted, NS_RELAXED) != wanted) {
        ns_add(&ns_recordings, wanted ? 1 : UINT32_MAX, NS_RELAXED);
    }
    Py_RETURN_NONE;
}

/* ---- Stacks of threads that run ---- */

/* One thread, as it was found while all were stopped. All references are owned. */
typedef struct {
    PyObject *ident;
    PyFrameObject *frames[MAX_DEPTH + 1]; /* the innermost first; the last one is not shown */
    PyCodeObject *codes[MAX_DEPTH];
    int lines[MAX_DEPTH];
    int depth;
} found_stack;

typedef struct {
    found_stack *stacks;
    Py_ssize_t count;
} stacks;

/* A frame of another thread can be read only while that thread is stopped: else it may end, and be
 * freed (python/cpython#152355). This makes frame objects, which allocates, as
 * sys._current_frames() does itself while all threads are stopped: a thread is not stopped inside
 * an allocation that it shares with others. */
static void
read_frames(void *argument)
{
    const stacks *s = argument;
    for (Py_ssize_t i = 0; i < s->count; i++) {
        found_stack *stack = &s->stacks[i];
        PyFrameObject *frame = stack->frames[0];
        while (frame != NULL && stack->depth < MAX_DEPTH) {
            stack->codes[stack->depth] = PyFrame_GetCode(frame);
            stack->lines[stack->depth] = PyFrame_GetLineNumber(frame);
            frame = PyFrame_GetBack(frame);
            stack->frames[++stack->depth] = frame;
        }
    }
}

static PyObject *
stack_as_tuple(const found_stack *stack)
{
    PyObject *tuple = PyTuple_New(2 * (Py_ssize_t)stack->depth);
    for (int i = 0; tuple != NULL && i < stack->depth; i++) {
        PyObject *line = PyLong_FromLong(stack->lines[i]);
        if (line == NULL) {
            Py_CLEAR(tuple);
            break;
        }
        PyTuple_SET_ITEM(tuple, 2 * i, Py_NewRef(stack->codes[i]));
        PyTuple_SET_ITEM(tuple, 2 * i + 1, line);
    }
    return tuple;
}

static void
free_stacks(stacks *s)
{
    for (Py_ssize_t i = 0; i < s->count; i++) {
        found_stack *stack = &s->stacks[i];
        for (int k = 0; k < MAX_DEPTH; k++) {
            Py_XDECREF(stack->frames[k]);
            Py_XDECREF(stack->codes[k]);
        }
        Py_XDECREF(stack->frames[MAX_DEPTH]);
        Py_XDECREF(stack->ident);
    }
    PyMem_RawFree(s->stacks);
}

/* _stacks(frames): from a dict of frames by idents, as sys._current_frames() returns it, a dict of
 * stacks as in tokens. The dict is the caller's own. */
static PyObject *
stacks_of_threads(PyObject *Py_UNUSED(module), PyObject *frames)
{
    if (!PyDict_CheckExact(frames)) {
        PyErr_SetString(PyExc_TypeError, "_stacks() needs a dict");
        return NULL;
    }
    stacks s = {PyMem_RawCalloc((size_t)PyDict_GET_SIZE(frames) + 1, sizeof(found_stack)), 0};
    if (s.stacks == NULL) {
        return PyErr_NoMemory();
    }
    const Py_ssize_t room = PyDict_GET_SIZE(frames);
    Py_ssize_t place = 0;
    PyObject *ident, *frame;
    while (s.count < room && PyDict_Next(frames, &place, &ident, &frame)) {
        if (PyFrame_Check(frame)) {
            s.stacks[s.count].ident = Py_NewRef(ident);
            s.stacks[s.count++].frames[0] = (PyFrameObject *)Py_NewRef(frame);
        }
    }
    PyObject *result = ns_stop_all_threads(read_frames, &s) < 0 ? NULL : PyDict_New();
    PyErr_Clear();
    for (Py_ssize_t i = 0; result != NULL && i < s.count; i++) {
        PyObject *stack = stack_as_tuple(&s.stacks[i]);
        if (stack == NULL || PyDict_SetItem(result, s.stacks[i].ident, stack) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(stack);
    }
    free_stacks(&s);
    return result == NULL && !PyErr_Occurred() ? PyErr_NoMemory() : result;
}

/* One thread that may wait for the end of another. All references are owned. */
typedef struct {
    PyObject *ident, *timeout; /* timeout: NULL if it does not wait */
    PyFrameObject *frame;
    PyCodeObject *code;
} found_join;

typedef struct {
    found_join *joins;
    Py_ssize_t count;
    PyObject *timed, *endless, *timeout;
} joins;

static bool
has_item(PyObject *tuple, PyCodeObject *code)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (PyTuple_GET_ITEM(tuple, i) == (PyObject *)code) {
            return true;
        }
    }
    return false;
}

/* As read_frames. A variable that is there is read without an allocation. */
static void
read_joins(void *argument)
{
    const joins *j = argument;
    for (Py_ssize_t i = 0; i < j->count; i++) {
        found_join *join = &j->joins[i];
        join->code = PyFrame_GetCode(join->frame);
        if (has_item(j->timed, join->code)) {
            join->timeout = PyFrame_GetVar(join->frame, j->timeout);
        }
        else if (has_item(j->endless, join->code)) {
            join->timeout = Py_NewRef(Py_None);
        }
    }
}

static PyObject *
collect_joins(const joins *j)
{
    PyObject *result = PyDict_New();
    for (Py_ssize_t i = 0; result != NULL && i < j->count; i++) {
        found_join *join = &j->joins[i];
        if (join->timeout != NULL && PyDict_SetItem(result, join->ident, join->timeout) < 0) {
            Py_CLEAR(result);
        }
    }
    return result;
}

/* _joins(frames, timed, endless): the time-outs, by idents, of those that are in a function of one
 * of these two tuples of code objects; `timed` have a parameter of this name. The dict of frames is
 * the caller's own, as for _stacks. */
static PyObject *
joins_of_threads(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *frames, *ident, *frame;
    Py_ssize_t place = 0;
    joins j = {0};
    if (!PyArg_ParseTuple(args,
                          "O!O!O!:_joins",
                          &PyDict_Type,
                          &frames,
                          &PyTuple_Type,
                          &j.timed,
                          &PyTuple_Type,
                          &j.endless)) {
        return NULL;
    }
    const Py_ssize_t room = PyDict_GET_SIZE(frames);
    j.joins = PyMem_RawCalloc((size_t)room + 1, sizeof(found_join));
    j.timeout = PyUnicode_InternFromString("timeout");
    while (j.joins != NULL && j.count < room && PyDict_Next(frames, &place, &ident, &frame)) {
        if (PyFrame_Check(frame)) {
            j.joins[j.count].ident = Py_NewRef(ident);
            j.joins[j.count++].frame = (PyFrameObject *)Py_NewRef(frame);
        }
    }
    PyObject *result = NULL;
    if (j.joins != NULL && j.timeout != NULL && ns_stop_all_threads(read_joins, &j) == 0) {
        PyErr_Clear();
        result = collect_joins(&j);
    }
    for (Py_ssize_t i = 0; i < j.count; i++) {
        Py_XDECREF(j.joins[i].ident);
        Py_XDECREF(j.joins[i].timeout);
        Py_XDECREF(j.joins[i].frame);
        Py_XDECREF(j.joins[i].code);
    }
    PyMem_RawFree(j.joins);
    Py_XDECREF(j.timeout);
    return result == NULL && !PyErr_Occurred() ? PyErr_NoMemory() : result;
}

static PyMethodDef functions[] = {
    {"_stacks", stacks_of_threads, METH_O, NULL},
    {"_joins", joins_of_threads, METH_VARARGS, NULL},
    {"_record_waits", record_waits, METH_O, NULL},
    {"_recorded_waits", recorded_waits, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
ns_add_contention(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    ns_recording *recording = PyMem_RawCalloc(1, sizeof(ns_recording));
    if (recording == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    state->recording = recording;
    recording->threads = ns_import_attribute("nogil_sync._common.recording", "threads");
    return recording->threads == NULL ? -1 : PyModule_AddFunctions(module, functions);
}

void
ns_recording_free(ns_recording *recording)
{
    if (recording == NULL) {
        return;
    }
    if (ns_load(&recording->on, NS_RELAXED)) {
        ns_sub(&ns_recordings, 1, NS_RELAXED);
    }
    for (ns_record *r = take_all(recording); r != NULL;) {
        ns_record *next = r->next;
        ns_record_drop_slow(r);
        r = next;
    }
    Py_CLEAR(recording->threads);
    PyMem_RawFree(recording);
}
