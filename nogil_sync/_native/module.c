#include "module.h"

#include "interpreter/contention.h"
#include "interpreter/detach.h"
#include "core/memory/epoch.h"
#include "core/waiting/park.h"
#include "core/memory/slots.h"

PyObject *
ns_import_attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *attribute = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return attribute;
}

static int
init_state(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    if (ns_names_init(&state->names) < 0 ||
        (state->main_thread_ident = ns_import_attribute("_thread", "_get_main_thread_ident")) ==
            NULL ||
        (state->lock_type = ns_import_attribute("_thread", "LockType")) == NULL ||
        (state->thread_rlock_type = ns_import_attribute("_thread", "RLock")) == NULL) {
        return -1;
    }
    /* Not PySys_GetObject, which hides its errors. */
    PyObject *flags = ns_import_attribute("sys", "flags");
    PyObject *dev_mode = flags ? PyObject_GetAttrString(flags, "dev_mode") : NULL;
    Py_XDECREF(flags);
    if (dev_mode == NULL) {
        return -1;
    }
    int dev = PyObject_IsTrue(dev_mode);
    Py_DECREF(dev_mode);
    if (dev < 0) {
        return -1;
    }
    state->dev_mode = dev;
    state->watches_sharing = dev && PyInterpreterState_Get() == PyInterpreterState_Main();
    return 0;
}

static int
add_performance_warning(PyObject *module)
{
    return PyModule_Add(
        module,
        "PerformanceWarning",
        ns_import_attribute("nogil_sync._common.performance", "PerformanceWarning"));
}

/* _put(type, name, value): sets an attribute of a type of ours, also of an immutable one. For
 * _common/awaited.py, before anything else uses the type. */
static PyObject *
put(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyType_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "_put() needs a type, a name and a value");
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)args[0];
    const unsigned long immutable = type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE;
    type->tp_flags &= ~(unsigned long)Py_TPFLAGS_IMMUTABLETYPE;
    int result = PyObject_SetAttr(args[0], args[1], args[2]);
    type->tp_flags |= immutable;
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"_put", _PyCFunction_CAST(put), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

/* Gives the types the twins that are awaited. */
static int
install_awaited(PyObject *module)
{
    PyObject *install = ns_import_attribute("nogil_sync._common.awaited", "install");
    PyObject *put = PyObject_GetAttrString(module, "_put");
    PyObject *result = NULL;
    if (install != NULL && put != NULL) {
        result = PyObject_CallFunctionObjArgs(install, PyModule_GetDict(module), put, NULL);
    }
    Py_XDECREF(install);
    Py_XDECREF(put);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
exec_module(PyObject *module)
{
    if (!ns_park_init() || !ns_slots_init() || !ns_epoch_init()) {
        PyErr_NoMemory();
        return -1;
    }
    ns_detach_init();
    if (PyModule_AddFunctions(module, functions) < 0 || init_state(module) < 0 ||
        add_performance_warning(module) < 0) {
        return -1;
    }
    static int (*const parts[])(PyObject *) = {
        ns_add_atomic_ints, ns_add_atomic_bool, ns_add_atomic_ref, ns_add_counters,
        ns_add_mutex,       ns_add_event,       ns_add_guard,      ns_add_rlock,
        ns_add_rwmutex,     ns_add_semaphore,   ns_add_channel,    ns_add_cond,
        ns_add_waitgroup,   ns_add_scopes,      ns_add_select,     ns_add_async_waiter,
        ns_add_barrier,     ns_add_once,        ns_add_syncmap,    ns_add_flights,
        ns_add_cache,       ns_add_ageing,      ns_add_pool,       ns_add_pin,
        ns_add_referents,   ns_add_sharing,     ns_add_contention, ns_add_sleeping,
        ns_add_metrics,
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(parts); i++) {
        if (parts[i](module) < 0) {
            return -1;
        }
    }
    return install_awaited(module) < 0 ? -1 : ns_pin_types(module);
}

static int
traverse_module(PyObject *module, visitproc visit, void *arg)
{
    ns_state *state = PyModule_GetState(module);
    Py_VISIT(state->main_thread_ident);
    Py_VISIT(state->lock_type);
    Py_VISIT(state->thread_rlock_type);
    Py_VISIT(state->mutex_type);
    Py_VISIT(state->rlock_type);
    Py_VISIT(state->rwmutex_type);
    Py_VISIT(state->rwmutex_reader_type);
    Py_VISIT(state->rwmutex_writer_type);
    Py_VISIT(state->semaphore_hold_type);
    Py_VISIT(state->pool_use_type);
    Py_VISIT(state->pool_end_type);
    Py_VISIT(state->sweeper_type);
    Py_VISIT(state->channel_closed);
    Py_VISIT(state->absent);
    Py_VISIT(state->broken_barrier);
    Py_VISIT(state->semaphore_type);
    Py_VISIT(state->cond_type);
    Py_VISIT(state->barrier_type);
    Py_VISIT(state->event_type);
    Py_VISIT(state->waitgroup_type);
    Py_VISIT(state->channel_type);
    Py_VISIT(state->sending_type);
    Py_VISIT(state->channel_sender_type);
    Py_VISIT(state->case_class);
    Py_VISIT(state->selected_class);
    Py_VISIT(state->scope_key);
    Py_VISIT(state->scope_type);
    Py_VISIT(state->cancelled);
    Py_VISIT(state->cancelled_message);
    Py_VISIT(state->once_cell);
    Py_VISIT(state->once_function_cell);
    Py_VISIT(state->once_function);
    Py_VISIT(state->atomic_bool_type);
    Py_VISIT(state->syncmap_type);
    Py_VISIT(state->syncmap_iterator_type);
    Py_VISIT(state->syncmap_shared);
    Py_VISIT(state->syncmap_compute);
    Py_VISIT(state->flight_type);
    Py_VISIT(state->allocate_lock);
    Py_VISIT(state->open_gates);
    Py_VISIT(state->failure);
    Py_VISIT(state->cache_type);
    Py_VISIT(state->cached_function);
    Py_VISIT(state->cache_load);
    Py_VISIT(state->cache_stats);
    Py_VISIT(state->cached_calls);
    if (state->recording != NULL) {
        Py_VISIT(state->recording->threads);
    }
    Py_VISIT(state->deadlock_check);
    return 0;
}

static int
clear_module(PyObject *module)
{
    ns_state *state = PyModule_GetState(module);
    Py_CLEAR(state->main_thread_ident);
    Py_CLEAR(state->lock_type);
    Py_CLEAR(state->thread_rlock_type);
    Py_CLEAR(state->mutex_type);
    Py_CLEAR(state->rlock_type);
    Py_CLEAR(state->rwmutex_type);
    Py_CLEAR(state->rwmutex_reader_type);
    Py_CLEAR(state->rwmutex_writer_type);
    Py_CLEAR(state->semaphore_hold_type);
    Py_CLEAR(state->pool_use_type);
    Py_CLEAR(state->pool_end_type);
    Py_CLEAR(state->sweeper_type);
    Py_CLEAR(state->channel_closed);
    Py_CLEAR(state->absent);
    Py_CLEAR(state->broken_barrier);
    Py_CLEAR(state->semaphore_type);
    Py_CLEAR(state->cond_type);
    Py_CLEAR(state->barrier_type);
    Py_CLEAR(state->event_type);
    Py_CLEAR(state->waitgroup_type);
    Py_CLEAR(state->channel_type);
    Py_CLEAR(state->sending_type);
    Py_CLEAR(state->channel_sender_type);
    Py_CLEAR(state->case_class);
    Py_CLEAR(state->selected_class);
    Py_CLEAR(state->scope_key);
    Py_CLEAR(state->scope_type);
    Py_CLEAR(state->cancelled);
    Py_CLEAR(state->cancelled_message);
    Py_CLEAR(state->once_cell);
    Py_CLEAR(state->once_function_cell);
    Py_CLEAR(state->once_function);
    Py_CLEAR(state->atomic_bool_type);
    Py_CLEAR(state->syncmap_type);
    Py_CLEAR(state->syncmap_iterator_type);
    Py_CLEAR(state->syncmap_shared);
    Py_CLEAR(state->syncmap_compute);
    Py_CLEAR(state->flight_type);
    Py_CLEAR(state->allocate_lock);
    Py_CLEAR(state->open_gates);
    Py_CLEAR(state->failure);
    Py_CLEAR(state->cache_type);
    Py_CLEAR(state->cached_function);
    Py_CLEAR(state->cache_load);
    Py_CLEAR(state->cache_stats);
    Py_CLEAR(state->cached_calls);
    Py_CLEAR(state->deadlock_check);
    return 0;
}

static void
free_module(void *module)
{
    ns_state *state = PyModule_GetState(module);
    clear_module(module);
    ns_names_free(&state->names);
    ns_recording_free(state->recording);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec_module},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
    {0, NULL},
};

struct PyModuleDef ns_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "nogil_sync._native._core",
    .m_doc = "The native backend. Import its names from nogil_sync.",
    .m_size = sizeof(ns_state),
    .m_slots = slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
    .m_free = free_module,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&ns_module);
}
