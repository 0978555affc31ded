/* names.h: the names of methods that C code calls, interned once for each interpreter.
 *
 * PyObject_CallMethod and PyObject_GetAttrString make a new string at each call. The interpreter's
 * cache of methods tells names apart by their address. So each such call misses there, replaces an
 * entry that all threads share, and leaves its string in it. Here the names stay, so calls hit.
 */
#ifndef NS_NAMES_H
#define NS_NAMES_H

#include <Python.h>

#define NS_EACH_NAME(X) \
    X(_acquire_restore) \
    X(_at_fork_reinit)  \
    X(_case_due)        \
    X(_case_event)      \
    X(_case_take)       \
    X(_detach)          \
    X(_detach_all)      \
    X(_entries)         \
    X(_flag_of)         \
    X(_is_owned)        \
    X(_release_save)    \
    X(Worker)           \
    X(acquire)          \
    X(call)             \
    X(clear)            \
    X(compute)          \
    X(done)             \
    X(info)             \
    X(key_of)           \
    X(locked)           \
    X(parameters)       \
    X(release)          \
    X(start)

#define NS_NAME_FIELD(name) PyObject *name;
typedef struct ns_names {
    NS_EACH_NAME(NS_NAME_FIELD)
} ns_names;
#undef NS_NAME_FIELD

/* Returns 0, or -1 with an exception. */
int ns_names_init(ns_names *names);
/* Names are in no cycle, so the collector need not see them: they stay until the module's memory is
 * freed, and finalizers find them. */
void ns_names_free(ns_names *names);

#endif
