#include "interpreter/watch.h"

#include "core/waiting/park.h"
#include "interpreter/reach.h"

/* The contract's number of uses, and the max of uses for each change of the count. A thread that
 * fetches a bound method and keeps it changes the count twice in its life; threads that contend
 * change it at every use. */
#define ENOUGH_USES 100000
#define USES_PER_CHANGE 1000

/* The frame is checked once in this many uses; a power of two. */
#define SAMPLE 256
/* Two threads that check this soon after each other both use the object thousands of times a
 * second. */
#define MEETING_TIME 20 /* ms */
#define ENOUGH_MEETINGS 4

/* The argument of give_report. References, or NULL for what threads do not contend for. */
typedef struct {
    PyObject *filename, *type_name, *holder, *variable;
    int line;
    bool counted, method;
} report;

void
ns_watch_attach(ns_watch_place *place, PyObject *self)
{
    ns_state *state = NS_CAN_DEFER ? NULL : ns_state_of(self);
    if (state == NULL || !state->watches_sharing) {
        PyErr_Clear();
        return;
    }
    ns_watch *w = PyMem_Calloc(1, sizeof(ns_watch));
    PyFrameObject *frame = PyEval_GetFrame(); /* borrowed; this thread's own */
    if (w != NULL && frame != NULL) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        w->filename = Py_NewRef(code->co_filename);
        w->line = PyFrame_GetLineNumber(frame);
        Py_DECREF(code);
    }
    ns_store(place, w, NS_RELEASE);
}

void
ns_watch_detach(ns_watch_place *place)
{
    ns_watch *w = ns_swap(place, NULL, NS_ACQUIRE);
    if (w != NULL) {
        Py_XDECREF(w->filename);
        PyMem_Free(w);
    }
}

#if !NS_CAN_DEFER

static void
free_report(report *r)
{
    Py_XDECREF(r->filename);
    Py_XDECREF(r->type_name);
    Py_XDECREF(r->holder);
    Py_XDECREF(r->variable);
    PyMem_RawFree(r);
}

/* Returns a new reference, to None for NULL. */
static PyObject *
or_none(PyObject *object)
{
    return Py_NewRef(object == NULL ? Py_None : object);
}

/* Gives the warning. A pending call: it runs in the main thread, between two bytecodes. */
static int
give_report(void *argument)
{
    report *r = argument;
    PyObject *module = PyImport_ImportModule("nogil_sync._common.performance");
    PyObject *result = module == NULL ? NULL
                                      : PyObject_CallMethod(module,
                                                            "report",
                                                            "OiO(OOOO)",
                                                            r->filename,
                                                            r->line,
                                                            r->type_name,
                                                            r->counted ? Py_True : Py_False,
                                                            r->holder,
                                                            r->method ? Py_True : Py_False,
                                                            r->variable);
    if (result == NULL) {
        PyErr_WriteUnraisable(r->type_name);
    }
    Py_XDECREF(result);
    Py_XDECREF(module);
    free_report(r);
    return 0;
}

static void
schedule_report(ns_watch *w, PyObject *self, bool counted, const ns_reach *found)
{
    report *r = PyMem_RawCalloc(1, sizeof(report));
    if (r == NULL) {
        ns_store(&w->reported, false, NS_RELAXED);
        return;
    }
    *r = (report){
        .filename = or_none(w->filename),
        .type_name = PyType_GetName(Py_TYPE(self)),
        .holder = found->holder ? PyType_GetName(Py_TYPE(found->holder)) : Py_NewRef(Py_None),
        .variable = or_none(found->variable),
        .line = w->line,
        .counted = counted,
        .method = found->method != NULL,
    };
    if (r->type_name == NULL || r->holder == NULL || Py_AddPendingCall(give_report, r) < 0) {
        /* no memory, or the queue is full: a later use retries */
        PyErr_Clear();
        free_report(r);
        ns_store(&w->reported, false, NS_RELAXED);
    }
}

/* Whether threads contend for the object's own count, as far as this use shows. */
static bool
count_changes(ns_watch *w, PyObject *self, uint32_t uses)
{
    if (ns_is_immortal(self)) {
        return false;
    }
    uint32_t changes = ns_load(&w->changes, NS_RELAXED);
    Py_ssize_t count = ns_shared_count(self);
    if (count != ns_load(&w->seen, NS_RELAXED)) {
        ns_store(&w->seen, count, NS_RELAXED);
        ns_store(&w->changes, ++changes, NS_RELAXED);
    }
    return changes > uses / USES_PER_CHANGE;
}

/* Whether threads have met often enough at this object, through which the calling thread reaches
 * ours. */
static bool
met(ns_watch *w, enum ns_way way, PyObject *object)
{
    if (object == NULL || (way != NS_CELL && ns_is_immortal(object))) {
        return false;
    }
    uint32_t now = (uint32_t)(ns_now() / 1000000) & 0xFFFFFF;
    uint64_t who = PyThreadState_GetID(PyThreadState_Get()) & 0xFFFF;
    uint64_t what = ((uintptr_t)object >> 4) & 0xFFFFFF;
    uint64_t sample = what << 40 | who << 24 | now;
    uint64_t before = ns_load(&w->sample[way], NS_RELAXED);
    ns_store(&w->sample[way], sample, NS_RELAXED);
    bool same_object = (before ^ sample) >> 40 == 0;
    bool same_thread = (((before ^ sample) >> 24) & 0xFFFF) == 0;
    uint32_t meetings = ns_load(&w->meetings[way], NS_RELAXED);
    /* An object that only this thread uses may have the address of another thread's dead one. */
    if (same_object && !same_thread && !ns_is_owned(object) &&
        ((now - (uint32_t)before) & 0xFFFFFF) <= MEETING_TIME) {
        ns_store(&w->meetings[way], ++meetings, NS_RELAXED);
    }
    return meetings >= ENOUGH_MEETINGS;
}

/* Drops what threads do not meet at. Returns whether anything is left. */
static bool
keep_what_is_met(ns_watch *w, ns_reach *found)
{
    if (!met(w, NS_HOLDER, found->holder)) {
        Py_CLEAR(found->holder);
    }
    if (!met(w, NS_METHOD, found->method)) {
        Py_CLEAR(found->method);
    }
    if (!met(w, NS_CELL, found->cell)) {
        Py_CLEAR(found->cell);
        Py_CLEAR(found->variable);
    }
    return found->holder != NULL || found->method != NULL || found->cell != NULL;
}

void
ns_watch_use_slow(ns_watch *w, PyObject *self)
{
    if (ns_load(&w->reported, NS_RELAXED)) {
        return;
    }
    uint32_t uses = ns_load(&w->uses, NS_RELAXED) + 1;
    ns_store(&w->uses, uses, NS_RELAXED);
    bool counted = count_changes(w, self, uses);
    if (uses % SAMPLE != 0) {
        return;
    }
    ns_reach found;
    ns_reach_find(&found, self);
    bool contended = keep_what_is_met(w, &found) || counted;
    if (contended && uses > ENOUGH_USES && !ns_swap(&w->reported, true, NS_RELAXED)) {
        schedule_report(w, self, counted, &found);
    }
    ns_reach_clear(&found);
}

#endif
