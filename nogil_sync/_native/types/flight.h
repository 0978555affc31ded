/* flight.h: a miss of load_or_compute and of cached functions, from the claim to the landing.
 *
 * _common/mapping.py says what a flight is. There a call that misses makes a flight and has
 * `exclusively` pick the call that runs it. Most misses meet no other call for their key. `ns_fly`
 * serves these: it calls Python code only for the user's function. If it finds another flight, it
 * does nothing, and its caller goes on in Python.
 *
 * A flight of this file is its own run (`is_run`): the thread that inserts it into the map of
 * flights runs it, in the same call of ns_fly. So the insertion, one atomic step, is the claim, and
 * no table of runs takes part. To Python code the flight looks like a Flight of mapping.py and like
 * a _Run of runs.py: others join it, wait for it, detach it, and follow it when they look for a
 * circle of waits, by the code that they have for those.
 *
 *     over       false -> true, once, by the thread that runs it; then the rest never changes
 *     landing    false -> true before its value is stored (mapping.py, "Landing")
 *     detached   false -> true by a thread that deletes the key, or stores it in a Cache
 *     value      NULL -> the result, before `over`
 *     failure    NULL -> a Failure of failures.py, before `over`
 *     gate       NULL -> a closed lock of the interpreter, by the first thread that waits for it
 *     gates      NULL -> a dict, by the first that waits in a scope, or as a task (runs.py)
 *     generation the fork generation; only the child of a fork changes it
 *     inner, outer   the other runs of this thread; only this thread uses them
 *
 * Orderings. A thread that waits makes the gate, and then reads `over`; the thread that runs the
 * flight sets `over`, and then reads `gate`. All four are sequentially consistent, so one of the
 * two sees the other: the waiter does not sleep, or its gate is opened. The same holds for `gates`,
 * and for each entry of that dict: the thread that adds one then releases the dict's lock, by a
 * sequentially consistent read-modify-write, and then reads `over`. A thread that reads `over` as
 * true sees value and failure, which were stored before. `landing` is stored before the value is; a
 * thread that joins the flight reads it after it has found the flight. Both are sequentially
 * consistent. After its claim the flight has a fence: ns_has_flights of syncmap_edits.c says why.
 *
 * Lifetime. The thread that runs the flight has a reference, and so has the map of flights. Each of
 * `value`, `failure`, `gate` and `gates` is set at most once and cleared only with the flight. So a
 * thread with a reference to the flight reads them without a lock. The flight needs no tp_clear:
 * only its map of flights refers to it, and lists and dicts of the library's Python code. Each of
 * these has a tp_clear, which breaks a cycle through the flight.
 *
 * Interrupts. Signal handlers run only in Python code: in the user's function and equality, and
 * in `weigher`, `clock` and `on_evict`. There KeyboardInterrupt is an exception like any other. So
 * the flight is always ended, and its value is never lost between the function and the map.
 *
 * Fork. A flight with an older generation belongs to a thread that is gone, and counts as over:
 * those that join it replace it. The child first gives the flights of its own thread, which are
 * linked by `outer`, the new generation. No lock is taken and nothing is freed.
 */
#ifndef NS_FLIGHT_H
#define NS_FLIGHT_H

#include "types/syncmap.h"

/* What a flight does with its map or cache, for a key and its hash. */
typedef struct ns_destination {
    /* NS_KEY_FOUND with a reference in *value, NS_KEY_MISSING or NS_KEY_ERROR. Else *value means
     * nothing. Counts nothing. */
    int (*look)(PyObject *self, PyObject *key, uint64_t hash, PyObject **value);
    /* One atomic step: stores the value if the key is missing and the flag not set. Returns a new
     * reference to what the calls get; NULL with an exception. */
    PyObject *(*land)(PyObject *self, PyObject *key, uint64_t hash, PyObject *value,
                      _Atomic bool *detached);
    /* Counts a function that has returned or failed; NULL: nothing is counted. */
    void (*count)(PyObject *self, bool failed);
} ns_destination;

/* A call of a user's function, as vectorcall has it. */
typedef struct ns_user_call {
    PyObject *function, *const *args, *kwnames;
    size_t nargs;
} ns_user_call;

/* Computes the value of a missing key, unless another flight for the key is under way: then *met
 * is true and nothing happened. Returns a new reference, or NULL with an exception (not if *met).
 * `flights` is the place of the map of flights. */
PyObject *ns_fly(PyObject *self, const ns_destination *to, ns_ref *flights, PyObject *key,
                 uint64_t hash, const ns_user_call *call, bool *met);

/* load_or_compute of a missing key, whose arguments `args` are: by ns_fly, or by the function in
 * Python in *python, which is read afterwards, if that met another flight. */
PyObject *ns_fly_or_join(PyObject *self, const ns_destination *to, ns_ref *flights,
                         PyObject *const *python, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *timeout, uint64_t hash);

/* For a method `_land(key, value, detached)`, by which _common/mapping.py stores what it computed:
 * to->land with the place of that AtomicBool. */
PyObject *ns_land_computed(PyObject *self, const ns_destination *to, PyObject *const *args,
                           Py_ssize_t nargs);

/* The flag in what _flag_of of mapping.py returns: a flight of this file, or an AtomicBool. NULL
 * with TypeError for any other object: users can put one into the map of flights. */
_Atomic bool *ns_flag_in(ns_state *state, PyObject *object);

/* atomic_bool_type.c: where an AtomicBool has its value; the object must be one. */
_Atomic bool *ns_atomic_bool_place(PyObject *self);

int ns_add_flights(PyObject *module);

#endif
