/* select and try_select: over core/waiting/select.h.
 *
 * First each case is tried by itself, in random order, as the call of its own would do it. That is
 * all if one is ready, or becomes ready while the thread looks out. Otherwise one waiter stands in
 * the lines of all cases at once, and the thread sleeps until the first of them serves it, or the
 * first time comes. After a time the selector is out of line, and all cases are tried again:
 * another thread may have taken the tick.
 */
#include "arguments.h"
#include "docs.h"
#include "interpreter/cpython.h"
#include "interpreter/detach.h"
#include "object.h"
#include "types/cases.h"

/* Returns 1 and sets *selected, 0 if timed out, -1 with an exception. */
static int
wait_for_a_case(PyObject *module, ns_cases *c, int64_t deadline, PyObject **selected)
{
    int result = 0;
    bool lingers = true;
    while (result == 0) {
        int64_t due;
        ns_selector *s = ns_cases_line_up(c, &due);
        if (s == NULL) {
            return -1;
        }
        const bool found = lingers && ns_selector_linger(s);
        lingers = false;
        if (found) {
            ns_selector_free(s);
            ns_cases_let_go(c);
            result = ns_cases_try(c, selected);
            continue;
        }
        const bool over = deadline <= due;
        result = ns_wait_with(module, &ns_select_steps, s, &s->waiter, over ? deadline : due);
        const bool timed_out = result == 0;
        if (result == 1) {
            result = ns_cases_take(c, s, selected);
        }
        ns_selector_free(s);
        ns_cases_let_go(c);
        if (result == 0) {
            result = ns_cases_try(c, selected);
        }
        if (timed_out && over) {
            break;
        }
    }
    return result;
}

/* Whether a case goes ahead as of one moment: all lines are looked at together, with their locks
 * held. Returns as above; 0: there was a moment in which no case was ready. */
static int
try_at_once(ns_cases *c, PyObject **selected)
{
    for (;;) {
        int64_t due;
        ns_selector *s = ns_cases_line_up(c, &due);
        if (s == NULL) {
            return -1;
        }
        int result = ns_selector_try(s);
        const bool missed = result == 0;
        if (!missed) {
            result = ns_cases_take(c, s, selected);
        }
        ns_selector_free(s);
        ns_cases_let_go(c);
        if (result == 0 && ns_now() >= due) { /* a time came before that moment */
            result = ns_cases_try(c, selected);
        }
        else if (missed) {
            return 0;
        }
        if (result != 0) {
            return result;
        }
    }
}

/* Tries, and waits if that is asked for. Returns as above. */
static int
select_one(PyObject *module, ns_cases *c, ns_patience patience, int64_t deadline,
           PyObject **selected)
{
    int result = ns_cases_try(c, selected);
    if (result != 0) {
        return result;
    }
    if (patience == NS_DO_NOT_WAIT) {
        /* One object, tried by itself, was tried at one moment. */
        return c->count == 1 ? 0 : try_at_once(c, selected);
    }
    return ns_warn_blocking(module) < 0 ? -1 : wait_for_a_case(module, c, deadline, selected);
}

static PyObject *
select_(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"select(*cases, timeout=None)", {NULL}, 0, 0, 0};
    ns_patience patience = NS_WAIT_FOR_EVER;
    int64_t deadline = NS_FOREVER;
    const Py_ssize_t named = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (ns_unlikely(named > 0) &&
        (named > 1 ||
         PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "timeout") != 0)) {
        return ns_refuse(&s, args, nargs, kwnames);
    }
    ns_state *state = PyModule_GetState(module);
    PyObject *selected = NULL;
    if (nargs == 1 && named == 0 && ns_receive_now(state, args[0], &selected)) {
        return selected;
    }
    ns_cases cases;
    if ((named > 0 && ns_plain_timeout(args[nargs], &patience, &deadline) < 0) ||
        ns_cases_init(&cases, state, args, nargs) < 0) {
        return NULL;
    }
    if (select_one(module, &cases, patience, deadline, &selected) == 0) {
        PyErr_SetString(PyExc_TimeoutError, "timed out waiting for a case");
    }
    ns_cases_free(&cases);
    return selected;
}

static PyObject *
try_select(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"try_select(*cases)", {NULL}, 0, 0, 0};
    if (ns_unlikely(kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)) {
        return ns_refuse(&s, args, nargs, kwnames);
    }
    ns_cases cases;
    if (ns_cases_init(&cases, PyModule_GetState(module), args, nargs) < 0) {
        return NULL;
    }
    PyObject *selected = NULL;
    if (select_one(module, &cases, NS_DO_NOT_WAIT, 0, &selected) == 0) {
        selected = Py_NewRef(Py_None);
    }
    ns_cases_free(&cases);
    return selected;
}

static PyMethodDef functions[] = {
    NS_METHOD("select", select_, DOC_select),
    NS_METHOD("try_select", try_select, DOC_try_select),
    {NULL, NULL, 0, NULL},
};

int
ns_add_select(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    state->case_class = ns_import_attribute("nogil_sync._common.cases", "Case");
    state->selected_class =
        state->case_class ? ns_import_attribute("nogil_sync._common.selected", "Selected") : NULL;
    if (state->selected_class == NULL) {
        return -1;
    }
    ((PyTypeObject *)state->selected_class)->tp_dealloc = ns_named_tuple_dealloc;
    return ns_add_functions(module, functions);
}
