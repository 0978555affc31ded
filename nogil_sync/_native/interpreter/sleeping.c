#include "interpreter/sleeping.h"

#include "arguments.h"
#include "object.h"

#include "core/waiting/thread_tag.h"
#include "core/waiting/wait.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#define SECOND 1e9

/* ---- A look at all records ---- */

/* Appends (code, line) for each frame of a thread that stands still, the innermost first. The
 * frames go to `kept`, to be dropped later. */
static int
append_frames(PyThreadState *thread, PyObject *stack, PyObject *kept)
{
    int failed = 0;
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    while (frame != NULL) {
        PyObject *line =
            Py_BuildValue("(Ni)", PyFrame_GetCode(frame), PyFrame_GetLineNumber(frame));
        failed = line == NULL || PyList_Append(kept, (PyObject *)frame) < 0 ||
                 PyList_Append(kept, line) < 0 || PyList_Append(stack, line) < 0;
        PyFrameObject *back = failed ? NULL : PyFrame_GetBack(frame);
        Py_DECREF(frame);
        Py_XDECREF(line);
        frame = back;
    }
    return failed || PyErr_Occurred() ? -1 : 0; /* without memory there is no frame further back */
}

/* The object that a call is for; None if it is for several (select). */
static PyObject *
subject_of(const ns_sleep *sleep)
{
    PyObject *self = sleep->self;
    return Py_NewRef(PyModule_Check(self) ? Py_None : self);
}

static unsigned long long
holder_of(const ns_sleep *sleep, bool *foreign)
{
    *foreign = false;
    const uint64_t tag =
        sleep->steps->holder != NULL ? sleep->steps->holder(sleep->object, foreign) : 0;
    return ns_thread_of_tag(tag);
}

/* Whether the thread of a record is about to go on, although it may not know that yet. */
static bool
is_served(const ns_sleep *sleep)
{
    if (!sleep->linked) {
        return sleep->steps->leave(sleep->object, sleep->waiter); /* of a word: only looks */
    }
    const uint32_t state = ns_load(&sleep->waiter->state, NS_ACQUIRE);
    return state == NS_GRANTED || state == NS_CANCELLED;
}

/* What a record says: (thread, object, operation, seconds, timeless, cancellable, count, holder,
 * foreign, served, stack). The record is locked. */
static PyObject *
describe(const ns_sleep *sleep, uint64_t count, PyObject *stack)
{
    bool foreign;
    const unsigned long long holder = holder_of(sleep, &foreign);
    return Py_BuildValue("(KNsdOOKKOOO)",
                         (unsigned long long)sleep->ident,
                         subject_of(sleep),
                         sleep->steps->operation,
                         (double)(ns_now() - sleep->since) / SECOND,
                         sleep->deadline == NS_FOREVER ? Py_True : Py_False,
                         sleep->cancellable ? Py_True : Py_False,
                         (unsigned long long)count,
                         holder,
                         foreign ? Py_True : Py_False,
                         is_served(sleep) ? Py_True : Py_False,
                         stack);
}

/* Waits for the lock of record i, detached: see sleepers.h. */
static ns_sleeper *
take(uint32_t i)
{
    for (;;) {
        bool busy;
        ns_sleeper *s = ns_sleeper_try(i, &busy);
        if (!busy) {
            return s;
        }
        Py_BEGIN_ALLOW_THREADS
        ns_yield();
        Py_END_ALLOW_THREADS
    }
}

/* Appends what record i says, if its thread sleeps in this interpreter. */
static int
append_sleeper(uint32_t i, PyObject *all, PyObject *kept, bool stacks)
{
    PyObject *stack = PyList_New(0), *described = NULL;
    if (stack == NULL) {
        return -1;
    }
    int failed = 0;
    ns_sleeper *s = take(i);
    if (s != NULL) {
        if (s->sleep.interpreter == PyInterpreterState_GetID(PyInterpreterState_Get())) {
            failed = (stacks && append_frames(s->sleep.thread, stack, kept) < 0) ||
                     (described = describe(&s->sleep, s->count, stack)) == NULL;
        }
        ns_sleeper_release(s);
    }
    if (described != NULL && PyList_Append(all, described) < 0) {
        failed = 1;
    }
    Py_XDECREF(described);
    Py_DECREF(stack);
    return failed ? -1 : 0;
}

/* _sleepers(stacks): describes all threads that sleep in an object of ours. None while the
 * interpreter is finalized: it has freed what it knew of its threads, which sleep for ever. */
static PyObject *
sleepers(PyObject *Py_UNUSED(module), PyObject *stacks)
{
    const int with_stacks = PyObject_IsTrue(stacks);
    PyObject *all = PyList_New(0), *kept = PyList_New(0);
    int failed = all == NULL || kept == NULL || with_stacks < 0;
    const uint32_t count = Py_IsFinalizing() ? 0 : ns_sleepers();
    for (uint32_t i = 0; i < count && !failed; i++) {
        failed = append_sleeper(i, all, kept, with_stacks) < 0;
    }
    Py_XDECREF(kept);
    if (failed) {
        Py_CLEAR(all);
    }
    return all;
}

/* ---- Deadlocks ---- */

_Atomic int64_t ns_check_after;

/* _set_deadlock_check(function, seconds): has function called by waits of so many seconds; None: by
 * none. */
static PyObject *
set_deadlock_check(PyObject *module, PyObject *args)
{
    ns_state *state = PyModule_GetState(module);
    PyObject *function;
    double seconds;
    if (!PyArg_ParseTuple(args, "Od:_set_deadlock_check", &function, &seconds)) {
        return NULL;
    }
    const bool on = function != Py_None;
    ns_store(&ns_check_after, 0, NS_RELAXED);
    if (on) {
        if (state->deadlock_check == NULL) { /* the same function each time: it is never replaced */
            state->deadlock_check = Py_NewRef(function);
        }
        const double after = seconds * SECOND;
        ns_store(&ns_check_after, after < 1 ? 1 : (int64_t)after, NS_RELAXED);
    }
    Py_RETURN_NONE;
}

/* The wait of this thread for which the function is being called. */
static NS_THREAD_LOCAL const ns_sleep *checked;

static NS_THREAD_LOCAL bool deadlocks_warn;

bool
ns_set_deadlocks_warn(bool warn)
{
    const bool before = deadlocks_warn;
    deadlocks_warn = warn;
    return before;
}

/* _own_wait(): (holder, served, whether it cannot fail) of this thread's wait, as of now. The
 * holder is 0 if it is not known, or need not be the one that releases. */
static PyObject *
own_wait(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
    bool foreign = false;
    const unsigned long long holder = checked != NULL ? holder_of(checked, &foreign) : 0;
    const bool served = checked == NULL || is_served(checked);
    return Py_BuildValue("(KOO)",
                         foreign ? 0 : holder,
                         served ? Py_True : Py_False,
                         deadlocks_warn ? Py_True : Py_False);
}

int
ns_check_deadlock(const ns_sleep *sleep, int64_t *next)
{
    PyObject *self = sleep->self;
    ns_state *state = PyModule_Check(self) ? PyModule_GetState(self) : ns_state_of(self);
    PyObject *function = state != NULL ? Py_XNewRef(state->deadlock_check) : NULL;
    *next = NS_FOREVER;
    if (function == NULL || ns_load(&ns_check_after, NS_RELAXED) == 0) {
        Py_XDECREF(function);
        return 0;
    }
    PyObject *stack = PyList_New(0);
    PyObject *mine = stack ? describe(sleep, 0, stack) : NULL;
    const ns_sleep *outer = checked;
    checked = sleep;
    PyObject *result = mine ? PyObject_CallOneArg(function, mine) : NULL;
    checked = outer;
    const double seconds = result ? PyFloat_AsDouble(result) : -1;
    Py_DECREF(function);
    Py_XDECREF(stack);
    Py_XDECREF(mine);
    Py_XDECREF(result);
    if (PyErr_ExceptionMatches(PyExc_MemoryError) || PyErr_ExceptionMatches(PyExc_RecursionError)) {
        PyErr_Clear(); /* there was no room to look, which is no reason to end the wait */
        *next = ns_now() + ns_load(&ns_check_after, NS_RELAXED);
        return 0;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    if (seconds > 0) {
        *next = ns_now() + (int64_t)((seconds < 1e6 ? seconds : 1e6) * SECOND);
    }
    return 0;
}

/* ---- A signal ---- */

#define MAX_SIGNALS 65
static int files[MAX_SIGNALS]; /* to which the handler writes */
static struct sigaction before[MAX_SIGNALS];
static bool registered[MAX_SIGNALS];

typedef struct {
    int file;
    size_t length;
    char text[512];
} line;

static void
put_text(line *l, const char *text)
{
    while (*text != 0 && l->length < sizeof(l->text)) {
        l->text[l->length++] = *text++;
    }
}

static void
put_number(line *l, uint64_t number, unsigned base, unsigned digits)
{
    char reversed[24];
    unsigned n = 0;
    do {
        reversed[n++] = "0123456789abcdef"[number % base];
        number /= base;
    } while ((number != 0 || n < digits) && n < sizeof(reversed));
    while (n > 0 && l->length < sizeof(l->text)) {
        l->text[l->length++] = reversed[--n];
    }
}

/* As faulthandler names threads. */
static void
put_thread(line *l, uint64_t ident)
{
    put_text(l, "0x");
    put_number(l, ident, 16, 2 * sizeof(void *));
}

static void
end_line(line *l)
{
    put_text(l, "\n");
    const char *text = l->text;
    while (l->length > 0) {
        ssize_t n = write(l->file, text, l->length);
        if (n < 0 && errno != EINTR) {
            break;
        }
        if (n > 0) {
            text += n;
            l->length -= (size_t)n;
        }
    }
    l->length = 0;
}

static void
put_sleep(line *l, const ns_sleep *sleep)
{
    const uint64_t waited = (uint64_t)(ns_now() - sleep->since) / 100000000;
    bool foreign;
    const uint64_t holder = holder_of(sleep, &foreign);
    put_text(l, "Thread ");
    put_thread(l, sleep->ident);
    put_text(l, " waits in ");
    put_text(l, sleep->steps->operation);
    put_text(l, " of the object at 0x");
    put_number(l, (uintptr_t)sleep->self, 16, 1);
    put_text(l, ", for ");
    put_number(l, waited / 10, 10, 1);
    put_text(l, ".");
    put_number(l, waited % 10, 10, 1);
    put_text(l, " s");
    if (holder != 0) {
        put_text(l, holder == sleep->ident ? "; this very thread holds it" : "; held by thread ");
        if (holder != sleep->ident) {
            put_thread(l, holder);
        }
    }
}

/* The handler: async-signal-safe. */
static void
write_all(int signum)
{
    const int saved = errno;
    line l = {.file = files[signum]};
    bool one_was_busy = false;
    end_line(&l);
    put_text(&l, "Waits of threads in objects of nogil_sync:");
    end_line(&l);
    for (uint32_t i = 0, n = ns_sleepers(); i < n; i++) {
        bool busy;
        ns_sleeper *s = ns_sleeper_try(i, &busy);
        one_was_busy = one_was_busy || busy;
        if (s != NULL) {
            put_sleep(&l, &s->sleep);
            ns_sleeper_release(s); /* before it is written: who reads the file may be slow */
            end_line(&l);
        }
    }
    put_text(&l, one_was_busy ? "(One was about to sleep or wake, and is left out.) " : "");
    put_text(&l, "(That is all.)");
    end_line(&l);
    errno = saved;
}

/* _register_signal(signum, file descriptor) */
static PyObject *
register_signal(PyObject *Py_UNUSED(module), PyObject *args)
{
    int signum, file;
    if (!PyArg_ParseTuple(args, "ii:_register_signal", &signum, &file)) {
        return NULL;
    }
    if (signum < 1 || signum >= MAX_SIGNALS) {
        PyErr_SetString(PyExc_ValueError, "signal number out of range");
        return NULL;
    }
    struct sigaction action = {.sa_handler = write_all, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    files[signum] = file;
    if (sigaction(signum, &action, registered[signum] ? NULL : &before[signum]) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    registered[signum] = true;
    Py_RETURN_NONE;
}

/* _unregister_signal(signum): whether it was registered. */
static PyObject *
unregister_signal(PyObject *Py_UNUSED(module), PyObject *args)
{
    int signum;
    if (!PyArg_ParseTuple(args, "i:_unregister_signal", &signum)) {
        return NULL;
    }
    if (signum < 1 || signum >= MAX_SIGNALS || !registered[signum]) {
        Py_RETURN_FALSE;
    }
    sigaction(signum, &before[signum], NULL);
    registered[signum] = false;
    Py_RETURN_TRUE;
}

static PyMethodDef functions[] = {
    {"_sleepers", sleepers, METH_O, NULL},
    {"_own_wait", own_wait, METH_NOARGS, NULL},
    {"_set_deadlock_check", set_deadlock_check, METH_VARARGS, NULL},
    {"_register_signal", register_signal, METH_VARARGS, NULL},
    {"_unregister_signal", unregister_signal, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
ns_add_sleeping(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
