/* cases.h: the cases of a select, for threads (select_type.c) and tasks (async_waiter_type.c).
 *
 * A case is a Channel, a Sending, an Event, a WaitGroup, or an object of Python code, of a subclass
 * of Case (_common/cases.py). The first four have a line (core/waiting/select.h). A case in Python
 * has an event, which makes it ready, or a time at which it is due, or both; then it is asked
 * whether it is ready still.
 *
 * The order of the calls: ns_cases_init; ns_cases_try, which is all if a case is ready;
 * ns_cases_line_up and a wait; ns_cases_take if that was served; ns_cases_let_go in any case; the
 * last four any number of times; ns_cases_free.
 */
#ifndef NS_CASES_H
#define NS_CASES_H

#include "module.h"

#include "core/waiting/select.h"

enum ns_case_kind { NS_RECEIVES, NS_SENDS, NS_IS_SET, NS_IS_ZERO, NS_IN_PYTHON };

typedef struct ns_case {
    PyObject *passed; /* what the caller passed, and keeps alive */
    PyObject *event;  /* of a case in Python, while in line: a reference, or NULL */
    enum ns_case_kind kind;
    bool has_place; /* in the selector */
    bool given; /* a reference to the item is on its way, for ns_channel_keep if it is not sent */
    bool shared;
} ns_case;

#define NS_FEW_CASES 6

typedef struct ns_cases {
    ns_state *state;
    ns_case *cases; /* `few`, or on the heap */
    uint32_t count;
    PyObject *blank; /* a Selected to be filled in; NULL once it is */
    ns_case few[NS_FEW_CASES];
} ns_cases;

/* Finds the kinds of the cases. The caller keeps the objects alive. Calls a method of each case in
 * Python, which raises if the object's __init__ was not called. Makes the Selected, so that once an
 * item is received, nothing can fail for memory and lose it. Returns 0, or -1 with an exception and
 * nothing to be freed. */
int ns_cases_init(ns_cases *c, ns_state *state, PyObject *const *objects, Py_ssize_t count);
void ns_cases_free(ns_cases *c);

/* The fast path, for one case: true, and *selected is set, if it is a Channel with an item. */
bool ns_receive_now(ns_state *state, PyObject *object, PyObject **selected);

/* Tries one after the other, in random order. Returns 1 and sets *selected if one was ready, and
 * went ahead; else 0, or -1 with an exception. */
int ns_cases_try(ns_cases *c, PyObject **selected);

/* Returns a selector of all cases that have a line, or NULL with an exception. *due: when the first
 * case is due, by ns_now(). Calls Python code. */
ns_selector *ns_cases_line_up(ns_cases *c, int64_t *due);
/* After the selector was served: returns as ns_cases_try. 0: the case is one in Python, and another
 * thread was faster. */
int ns_cases_take(ns_cases *c, ns_selector *s, PyObject **selected);
/* Drops what lining up has taken: the selector's places are linked nowhere. */
void ns_cases_let_go(ns_cases *c);

#endif
