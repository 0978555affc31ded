/* reach.h: how the running line of Python code reaches an object of ours, on 3.13.
 *
 * Threads that share an object may contend for more than the object's own reference count:
 *
 *   holder   the count of the object whose attribute it is (a `self` that threads share)
 *   method   the count of a bound method that threads share
 *   cell     the lock under which the interpreter reads a variable of a closure
 *
 * watch.h asks here which of these the calling thread uses. The answer comes from the bytecode of
 * the line that the thread runs: which variables and which attributes that line has read so far. So
 * a bound method that another line fetched once differs from one that is fetched each time.
 *
 * No Python code runs: an attribute is read only if it is a plain one, of an instance's dict or
 * slots.
 */
#ifndef NS_REACH_H
#define NS_REACH_H

#include "interpreter/cpython.h"

/* References, or NULL. */
typedef struct {
    PyObject *holder;
    PyObject *method;
    PyObject *cell, *variable; /* the cell, and the name of its variable */
} ns_reach;

#if !NS_CAN_DEFER

/* Checks the calling thread's frame. Leaves no exception. */
void ns_reach_find(ns_reach *r, PyObject *self);
void ns_reach_clear(ns_reach *r);

#endif

#endif
