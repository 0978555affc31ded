/* module.h: the extension module's state, and what each file contributes to it. */
#ifndef NS_MODULE_H
#define NS_MODULE_H

/* Python.h chooses what the C library's headers declare. */
#if defined(_FEATURES_H) && !defined(Py_PYTHON_H)
#error "Python.h must come before all headers of the C library"
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#include "names.h"

#ifndef Py_GIL_DISABLED
#error "the native backend is for free-threaded interpreters; others use the threading backend"
#endif

typedef struct ns_state {
    ns_names names;
    PyObject *main_thread_ident; /* _thread._get_main_thread_ident */
    PyObject *lock_type, *thread_rlock_type; /* of _thread */
    PyObject *mutex_type, *rlock_type;       /* for Cond */
    PyObject *rwmutex_type, *rwmutex_reader_type, *rwmutex_writer_type;
    /* What pinning an object of rwmutex_type also pins: borrowed references. */
    void (*rwmutex_parts)(PyObject *self, PyObject *parts[2]);
    PyObject *semaphore_type, *semaphore_hold_type, *cond_type, *event_type, *waitgroup_type;
    PyObject *barrier_type;
    PyObject *pool_use_type, *pool_end_type, *sweeper_type;
    struct ns_ager *ager; /* see ageing.h */
    PyObject *channel_closed; /* the exception */
    PyObject *absent; /* what stands for no item; ABSENT of _common/once.py */
    PyObject *broken_barrier; /* threading.BrokenBarrierError */
    PyObject *channel_type, *sending_type, *channel_sender_type;
    PyObject *case_class, *selected_class; /* of _common: Case and Selected */
    PyObject *scope_key, *scope_type;      /* for scope.c */
    PyObject *cancelled, *cancelled_message;
    PyObject *once_cell, *once_function_cell, *once_function; /* classes, for once_type.c */
    PyObject *atomic_bool_type, *syncmap_type, *syncmap_iterator_type;
    PyObject *syncmap_shared,
        *syncmap_compute; /* of _common/mapping.py: the base class and a function */
    PyObject *flight_type, *allocate_lock;   /* for flight_type.c; a function of _thread */
    PyObject *open_gates, *failure;          /* of _common/runs.py and _common/failures.py */
    PyObject *cache_type, *cached_function;
    PyObject *cache_load, *cache_stats, *cached_calls; /* of _common/cache.py */
    struct ns_recording *recording; /* see contention.h */
    PyObject *deadlock_check; /* see sleeping.h; NULL until detection is on */
    bool dev_mode;        /* development mode */
    bool watches_sharing; /* development mode, main interpreter: see watch.h */
} ns_state;

extern struct PyModuleDef ns_module;

/* The state of the module that the object's class, or a base of it, belongs to. Never fails for
 * classes of ours. */
static inline ns_state *
ns_state_of(PyObject *self)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &ns_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

/* A new reference to an attribute of a module, which is imported; NULL with an exception. */
PyObject *ns_import_attribute(const char *module_name, const char *name);

/* Makes the types immortal, so that threads that make objects do not contend for the types' counts.
 * Call it after all of the functions below. Returns 0, or -1 with an exception. */
int ns_pin_types(PyObject *module);

/* Each adds its types or functions to the module. Returns 0, or -1 with an exception. */
int ns_add_atomic_ints(PyObject *module);
int ns_add_atomic_bool(PyObject *module);
int ns_add_atomic_ref(PyObject *module);
int ns_add_counters(PyObject *module);
int ns_add_metrics(PyObject *module);
int ns_add_mutex(PyObject *module);
int ns_add_event(PyObject *module);
int ns_add_guard(PyObject *module);
int ns_add_rlock(PyObject *module);
int ns_add_rwmutex(PyObject *module);
int ns_add_semaphore(PyObject *module);
int ns_add_channel(PyObject *module);
int ns_add_channel_ends(PyObject *module); /* for ns_add_channel */
int ns_add_select(PyObject *module);
int ns_add_async_waiter(PyObject *module);
int ns_add_scopes(PyObject *module);
int ns_add_sleeping(PyObject *module);
int ns_add_cond(PyObject *module);
int ns_add_waitgroup(PyObject *module);
int ns_add_barrier(PyObject *module);
int ns_add_once(PyObject *module);
int ns_add_syncmap(PyObject *module);
int ns_add_flights(PyObject *module);
int ns_add_cache(PyObject *module); /* after ns_add_syncmap */
int ns_add_ageing(PyObject *module);
int ns_add_pool(PyObject *module);
int ns_add_pin(PyObject *module);
int ns_add_referents(PyObject *module);
int ns_add_sharing(PyObject *module);
int ns_add_contention(PyObject *module);

#endif
