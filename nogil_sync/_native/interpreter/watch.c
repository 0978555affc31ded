#include "interpreter/watch.h"

/* The contract's number of uses, and the max of uses for each change of the count. A thread that
 * fetches a bound method and keeps it changes the count twice in its life; threads that contend
 * change it at every use. */
#define ENOUGH_USES 100000
#define MAX_USES_PER_CHANGE 1000

typedef struct {
    PyObject *filename, *type_name;
    int line;
} report;

ns_watch *
ns_watch_new(PyObject *self)
{
    ns_state *state = NS_CAN_DEFER ? NULL : ns_state_of(self);
    if (state == NULL || !state->watches_sharing) {
        PyErr_Clear();
        return NULL;
    }
    ns_watch *w = PyMem_Calloc(1, sizeof(ns_watch));
    PyFrameObject *frame = PyEval_GetFrame(); /* borrowed; this thread's own */
    if (w != NULL && frame != NULL) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        w->filename = Py_NewRef(code->co_filename);
        w->line = PyFrame_GetLineNumber(frame);
        Py_DECREF(code);
    }
    return w;
}

void
ns_watch_free(ns_watch *w)
{
    if (w != NULL) {
        Py_XDECREF(w->filename);
        PyMem_Free(w);
    }
}

/* Gives the warning. A pending call: it runs in the main thread, between two bytecodes. */
static int
give_report(void *argument)
{
    report *r = argument;
    PyObject *module = PyImport_ImportModule("nogil_sync._common.performance");
    PyObject *result =
        module == NULL
            ? NULL
            : PyObject_CallMethod(module, "report", "OiO", r->filename, r->line, r->type_name);
    if (result == NULL) {
        PyErr_WriteUnraisable(r->type_name);
    }
    Py_XDECREF(result);
    Py_XDECREF(module);
    Py_DECREF(r->filename);
    Py_DECREF(r->type_name);
    PyMem_RawFree(r);
    return 0;
}

static void
schedule_report(ns_watch *w, PyObject *self)
{
    PyObject *name = PyType_GetName(Py_TYPE(self));
    report *r = name ? PyMem_RawMalloc(sizeof(report)) : NULL;
    if (r == NULL) {
        Py_XDECREF(name);
        PyErr_Clear();
        return;
    }
    *r = (report){Py_NewRef(w->filename ? w->filename : Py_None), name, w->line};
    if (Py_AddPendingCall(give_report, r) < 0) { /* the queue is full: a later use retries */
        Py_DECREF(r->filename);
        Py_DECREF(r->type_name);
        PyMem_RawFree(r);
        ns_store(&w->reported, false, NS_RELAXED);
    }
}

void
ns_watch_use_slow(ns_watch *w, PyObject *self)
{
    if (ns_load(&w->reported, NS_RELAXED) || ns_is_immortal(self)) {
        return;
    }
    uint32_t uses = ns_load(&w->uses, NS_RELAXED) + 1;
    uint32_t changes = ns_load(&w->changes, NS_RELAXED);
    Py_ssize_t count = ns_shared_count(self);
    if (count != ns_load(&w->seen, NS_RELAXED)) {
        ns_store(&w->seen, count, NS_RELAXED);
        ns_store(&w->changes, ++changes, NS_RELAXED);
    }
    ns_store(&w->uses, uses, NS_RELAXED);
    if (uses > ENOUGH_USES && changes > uses / MAX_USES_PER_CHANGE &&
        !ns_swap(&w->reported, true, NS_RELAXED)) {
        schedule_report(w, self);
    }
}
