#include "types/cond_lock.h"

#include "interpreter/detach.h"
#include "interpreter/scope.h"
#include "interpreter/sleeping.h"

/* ---- Calls of a foreign lock ---- */

/* Calls a method, with an argument unless that is NULL, if the object has it. Returns 1 with the
 * result, 0 if it has no such method, or -1 with an exception. */
static int
call_if_there(PyObject *object, PyObject *name, PyObject *argument, PyObject **result)
{
    PyObject *method;
    int found = PyObject_GetOptionalAttr(object, name, &method);
    if (found <= 0) {
        return found;
    }
    *result = argument ? PyObject_CallOneArg(method, argument) : PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return *result == NULL ? -1 : 1;
}

/* The truth of a new reference, which this consumes. */
static int
truth_of(PyObject *result)
{
    int truth = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return truth;
}

/* Calls a method and ignores its result. */
static int
call(PyObject *object, PyObject *name)
{
    PyObject *result = PyObject_CallMethodNoArgs(object, name);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Returns 1 or 0. */
static int
has_method(PyObject *object, PyObject *name)
{
    PyObject *method;
    int found = PyObject_GetOptionalAttr(object, name, &method);
    if (found == 1) {
        found = PyCallable_Check(method);
        Py_DECREF(method);
    }
    return found;
}

/* ---- What it is ---- */

int
ns_cond_lock_check(const ns_names *names, PyObject *object)
{
    int fits = has_method(object, names->acquire);
    if (fits == 1) {
        fits = has_method(object, names->release);
    }
    if (fits == 0) {
        PyErr_SetString(PyExc_TypeError, "lock must have acquire() and release()");
    }
    return fits == 1 ? 0 : -1;
}

bool
ns_cond_lock_is_sound(ns_state *state, PyObject *object)
{
    PyObject *type = (PyObject *)Py_TYPE(object);
    return type == state->mutex_type || type == state->rwmutex_reader_type ||
           type == state->rwmutex_writer_type || type == state->lock_type ||
           type == state->thread_rlock_type || type == state->rlock_type;
}

static bool
is_ours(ns_state *state, PyObject *lock)
{
    PyObject *types[] = {state->mutex_type, state->rwmutex_reader_type, state->rwmutex_writer_type};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        if (types[i] != NULL && PyObject_TypeCheck(lock, (PyTypeObject *)types[i])) {
            return true;
        }
    }
    return false;
}

Py_NO_INLINE int
ns_cond_lock_is_owned_slow(PyObject *cond, PyObject *object)
{
    ns_state *state = ns_state_of(cond);
    const ns_names *names = &state->names;
    PyObject *result;
    int found = call_if_there(object, names->_is_owned, NULL, &result);
    if (found != 0) {
        return found < 0 ? -1 : truth_of(result);
    }
    if (is_ours(state, object)) {
        return truth_of(PyObject_CallMethodNoArgs(object, names->locked));
    }
    int free = truth_of(PyObject_CallMethodOneArg(object, names->acquire, Py_False));
    if (free < 0 || (free && call(object, names->release) < 0)) {
        return -1;
    }
    return !free;
}

/* ---- Releasing it, and taking it again ---- */

Py_NO_INLINE int
ns_cond_lock_release_slow(const ns_cond_lock *lock, PyObject **saved)
{
    if (lock->plain) {
        PyErr_SetString(PyExc_RuntimeError, "release unlocked lock");
        return -1;
    }
    int found = call_if_there(lock->object, lock->names->_release_save, NULL, saved);
    return found != 0 ? Py_MIN(found, 0) : call(lock->object, lock->names->release);
}

int
ns_cond_lock_restore(const ns_cond_lock *lock, PyObject *saved, PyObject **result)
{
    return call_if_there(lock->object, lock->names->_acquire_restore, saved, result);
}

static int
lock_again_once(const ns_cond_lock *lock, PyObject *saved, ns_waiter *w)
{
    if (lock->plain) {
        ns_mutex *m = ns_mutex_of(lock->object);
        if (ns_mutex_try_lock(m)) {
            return 0;
        }
        *w = (ns_waiter){0}; /* the waiter serves again: no memory is needed here */
        return ns_wait_with(lock->object, &ns_mutex_steps, m, w, NS_FOREVER) < 0 ? -1 : 0;
    }
    if (saved != NULL) {
        PyObject *result;
        int found = ns_cond_lock_restore(lock, saved, &result);
        if (found == 1) {
            Py_DECREF(result);
            return 0;
        }
        if (found < 0) {
            return -1;
        }
    }
    return call(lock->object, lock->names->acquire);
}

int
ns_cond_lock_take_again(PyObject *cond, const ns_cond_lock *lock, bool sound, PyObject *saved,
                        ns_waiter *w)
{
    PyObject *first = PyErr_GetRaisedException();
    /* A lock whose waits can be cancelled, a Semaphore say, is to be taken nevertheless. */
    ns_state *state = lock->plain ? NULL : ns_state_of(cond);
    PyObject *scope = lock->plain ? NULL : ns_swap_scope(state, NULL);
    const bool warn = ns_set_deadlocks_warn(true);
    while (lock_again_once(lock, saved, w) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *final = sound ? PyExc_PythonFinalizationError : PyExc_Exception;
        bool given_up = PyObject_TypeCheck(error, (PyTypeObject *) final);
        if (first == NULL) {
            first = error;
        }
        else {
            Py_DECREF(error);
        }
        if (given_up) {
            break;
        }
        /* Perhaps there is no memory until other threads or the collector free some. This loop may
         * not run Python code, so it lets them run. */
        Py_BEGIN_ALLOW_THREADS
        ns_yield();
        Py_END_ALLOW_THREADS
    }
    ns_set_deadlocks_warn(warn);
    if (scope != NULL) {
        Py_XDECREF(ns_swap_scope(state, scope));
        Py_DECREF(scope);
    }
    if (first == NULL) {
        return 0;
    }
    PyErr_SetRaisedException(first);
    return -1;
}
