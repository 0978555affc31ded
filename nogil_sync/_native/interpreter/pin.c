/* pin, pin_all, is_pinned: objects whose reference count is never written again.
 *
 * If an object's local count has the immortal value, every increment and decrement leaves the
 * object alone. The interpreter gives its own objects this value before others can see them. We
 * give it to a live object. That takes a pause of all threads, for two reasons:
 *
 *   - A reader takes a reference without a lock (tryref.h has the protocol). The interpreter's own
 *     code skips the second load of the slot if the object looks immortal. Suppose that such a
 *     reader is between its first load and its increment. Its object is freed, and the block is
 *     reused for an object that is pinned at that moment. The reader would return an object that
 *     never was in its container.
 *   - The owner of an object updates the local count with a plain load and store. So it could
 *     overwrite the immortal value that another thread writes.
 *
 * With the world stopped every other thread is at a safe point, outside both windows, and its next
 * step sees the new count. (`ns_stop_all_threads` in cpython.h says how.)
 *
 * What is written, in the pause:
 *   - the local count: the immortal value;
 *   - the shared count: 2^56 references more, once, so that no merge of the two counts by an
 *     exiting owner or a collection can bring the sum near zero;
 *   - not the owner's id: during a collection it is the collector's list link. (But see
 *     `ns_merge_counts`.)
 * A count that is queued for its owner to merge must be merged first, since a merge overwrites the
 * local count. A collection does all outstanding merges, so run one and retry, a few times. (On
 * 3.13 objects with deferred counting may stay queued; the interpreter makes them immortal by
 * itself.) If the count is still queued after that, we leak one reference of ours: the object lives
 * for ever as promised, and is merely not faster.
 *
 * Strings. For an exact str `pin` returns the interned string, which the interpreter makes immortal
 * by itself. Interning writes the count without a pause, which is right for a string that the
 * calling thread owns. A string that another thread owns is copied first. Strings that `deep=True`
 * reaches, and those of subclasses, are pinned in place like any object. A debug build, however,
 * asserts that an immortal string is interned: there they are merely kept alive.
 *
 * Our own types are pinned at import. Each object that is made or freed changes the count of its
 * type, so threads that make objects would contend for it. Each interpreter, and each import after
 * a purge of sys.modules, makes types of its own. They, and the module that they refer to, are
 * never freed.
 *
 * All this was read in the sources of 3.13, 3.14 and 3.15, and is tested by
 * tests/contract/test_pin.py and tests/stress/test_stress_pin.py. On an unknown version objects
 * defer their counts if they can, and are kept alive (see cpython.h).
 */
#include "arguments.h"
#include "interpreter/cpython.h"
#include "docs.h"
#include "object.h"

#define ATTEMPTS 3 /* to have queued counts merged */

typedef struct {
    PyObject **objects;
    Py_ssize_t count;
    bool unfinished;
} request;

/* Pins the objects of a request. All other threads are stopped. */
static void
pin_while_stopped(void *argument)
{
    request *r = argument;
    for (Py_ssize_t i = 0; NS_KNOWN_VERSION && i < r->count; i++) {
        PyObject *object = r->objects[i];
        if (ns_is_immortal(object) || (PyUnicode_Check(object) && !NS_CAN_PIN_STRINGS)) {
            continue;
        }
        if (ns_is_queued(object)) {
            r->unfinished = true;
        }
        else {
            ns_immortalize(object);
        }
    }
}

/* Calls gc.collect, which unlike PyGC_Collect works while automatic collection is disabled too. */
static int
collect(void)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *found = gc ? PyObject_CallMethod(gc, "collect", NULL) : NULL;
    Py_XDECREF(gc);
    Py_XDECREF(found);
    return found == NULL ? -1 : 0;
}

static bool
all_immortal(PyObject **objects, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!ns_is_immortal(objects[i])) {
            return false;
        }
    }
    return true;
}

/* For an object that cannot be immortal: defers its count if possible, and keeps it alive by a
 * reference of ours. */
static void
keep_alive(PyObject *object)
{
#if NS_CAN_DEFER
    PyUnstable_Object_EnableDeferredRefcount(object);
#endif
    Py_INCREF(object);
}

static int
make_immortal(PyObject **objects, Py_ssize_t count)
{
    request r = {objects, count, false};
    if (all_immortal(objects, count)) {
        return 0; /* none needs a pause */
    }
    for (int attempt = 0; attempt <= ATTEMPTS; attempt++) {
        r.unfinished = false;
        if (ns_stop_all_threads(pin_while_stopped, &r) < 0) {
            return -1;
        }
        if (!r.unfinished) {
            break;
        }
        if (attempt < ATTEMPTS && collect() < 0) {
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!ns_is_immortal(objects[i])) {
            keep_alive(objects[i]);
        }
    }
    return 0;
}

/* Returns the object to pin in place of `object`, whose reference it consumes. NULL if there is no
 * memory. */
static PyObject *
canonical(PyObject *object)
{
    if (!PyUnicode_CheckExact(object) || ns_is_immortal(object)) {
        return object;
    }
    if (!ns_is_owned(object)) {
        Py_SETREF(object,
                  PyUnicode_FromKindAndData(PyUnicode_KIND(object),
                                            PyUnicode_DATA(object),
                                            PyUnicode_GET_LENGTH(object)));
    }
    if (object != NULL) {
        PyUnicode_InternInPlace(&object);
    }
    return object;
}

/* Pins the objects of a tuple together with the parts they hand out. Returns 0, or -1 with an
 * exception. */
static int
pin_with_parts(PyObject *module, PyObject *tuple)
{
    ns_state *state = PyModule_GetState(module);
    PyTypeObject *rwmutex = (PyTypeObject *)state->rwmutex_type;
    Py_ssize_t count = PyTuple_GET_SIZE(tuple), all = count;
    PyObject **objects = PyMem_New(PyObject *, 3 * (size_t)count + 1);
    if (objects == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        objects[i] = PyTuple_GET_ITEM(tuple, i);
        PyObject *parts[2] = {NULL, NULL};
        if (rwmutex != NULL && PyObject_TypeCheck(objects[i], rwmutex)) {
            state->rwmutex_parts(objects[i], parts);
        }
        for (int k = 0; k < 2; k++) {
            if (parts[k] != NULL) {
                objects[all++] = parts[k];
            }
        }
    }
    int result = make_immortal(objects, all);
    PyMem_Free(objects);
    return result;
}

/* Pins everything that the object reaches. Consumes the object's reference and returns it, or
 * NULL. */
static PyObject *
pin_deep(PyObject *module, PyObject *object)
{
    PyObject *reached = ns_import_attribute("nogil_sync._common.pin", "reached");
    PyObject *list = reached ? PyObject_CallOneArg(reached, object) : NULL;
    PyObject *tuple = list ? PySequence_Tuple(list) : NULL;
    if (tuple == NULL || pin_with_parts(module, tuple) < 0) {
        Py_CLEAR(object);
    }
    Py_XDECREF(tuple);
    Py_XDECREF(list);
    Py_XDECREF(reached);
    return object;
}

static PyObject *
pin(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"pin", {"obj", "deep"}, 1, 2, 1};
    PyObject *given[2];
    if (ns_unpack(&s, args, nargs, kwnames, given) < 0) {
        return NULL;
    }
    int deep = given[1] ? PyObject_IsTrue(given[1]) : 0;
    if (deep < 0) {
        return NULL;
    }
    PyObject *object = canonical(Py_NewRef(given[0]));
    if (object != NULL && deep) {
        return pin_deep(module, object);
    }
    PyObject *tuple = object ? PyTuple_Pack(1, object) : NULL;
    if (tuple == NULL || pin_with_parts(module, tuple) < 0) {
        Py_CLEAR(object);
    }
    Py_XDECREF(tuple);
    return object;
}

static PyObject *
pin_all(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"pin_all", {"iterable"}, 1, 1, 0};
    PyObject *iterable;
    if (ns_unpack(&s, args, nargs, kwnames, &iterable) < 0) {
        return NULL;
    }
    PyObject *given = PySequence_Tuple(iterable);
    if (given == NULL) {
        return NULL;
    }
    PyObject *result = PySequence_List(given), *objects = NULL;
    for (Py_ssize_t i = 0; result != NULL && i < PyTuple_GET_SIZE(given); i++) {
        PyObject *object = canonical(Py_NewRef(PyTuple_GET_ITEM(given, i)));
        if (object == NULL || PyList_SetItem(result, i, object) < 0) {
            Py_CLEAR(result);
        }
    }
    /* A tuple, because its items stay in place whatever other threads do meanwhile. A list's may
     * not. */
    if (result != NULL) {
        objects = PyList_AsTuple(result);
        if (objects == NULL || pin_with_parts(module, objects) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_XDECREF(objects);
    Py_DECREF(given);
    return result;
}

static PyObject *
is_pinned(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {"is_pinned", {"obj"}, 1, 1, 0};
    PyObject *object;
    if (ns_unpack(&s, args, nargs, kwnames, &object) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ns_is_immortal(object));
}

static PyMethodDef functions[] = {
    NS_METHOD("pin", pin, DOC_pin),
    NS_METHOD("pin_all", pin_all, DOC_pin_all),
    NS_METHOD("is_pinned", is_pinned, DOC_is_pinned),
    {NULL, NULL, 0, NULL},
};

/* Whether the object is a class that this module's C code made. */
static bool
is_type_of(PyObject *module, PyObject *object)
{
    return PyType_Check(object) && PyType_HasFeature((PyTypeObject *)object, Py_TPFLAGS_HEAPTYPE) &&
           ((PyHeapTypeObject *)object)->ht_module == module;
}

int
ns_pin_types(PyObject *module)
{
    if (!NS_CAN_PIN_TYPES) {
        return 0;
    }
    ns_state *state = PyModule_GetState(module);
    /* First the types that are not attributes of the module. */
    PyObject *objects[64] = {
        state->rwmutex_reader_type,
        state->rwmutex_writer_type,
        state->semaphore_hold_type,
        state->pool_use_type,
        state->pool_end_type,
        state->once_function,
        state->syncmap_iterator_type,
        state->flight_type,
    };
    Py_ssize_t count = 0, place = 0;
    while (objects[count] != NULL) {
        count++;
    }
    PyObject *dict = PyModule_GetDict(module), *name, *each;
    while (PyDict_Next(dict, &place, &name, &each)) {
        if (is_type_of(module, each)) {
            assert(count < (Py_ssize_t)Py_ARRAY_LENGTH(objects));
            objects[count++] = each;
        }
    }
    return make_immortal(objects, count);
}

int
ns_add_pin(PyObject *module)
{
    return ns_add_functions(module, functions);
}
