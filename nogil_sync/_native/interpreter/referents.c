/* referents: what objects refer to, for the walk of `pin(obj, deep=True)`
 * (nogil_sync/_common/pin.py).
 *
 * gc.get_referents gives the same, but stops all threads again for each call, and gives the
 * referents of several objects in one list. Here one pause serves a whole batch. Inside the pause
 * the walk goes on through objects of the given types, so that a chain of a million objects does
 * not take a million pauses.
 *
 * In the pause we do not call Python's allocators, since a stopped thread may be inside one, and we
 * call nothing of the objects but tp_traverse. All lists are built after it.
 */
#include "arguments.h"
#include "interpreter/cpython.h"
#include "docs.h"
#include "object.h"

#define MAX_OBJECTS 200000 /* in one pause: about ten milliseconds */

typedef struct {
    PyObject **items;
    size_t count, capacity;
} array;

/* A set of pointers: a hash table with open addressing, at most half full. */
typedef struct {
    void **entries;
    size_t count, mask;
} pointers;

typedef struct {
    array objects; /* to walk; the walk holds a reference to each */
    array children; /* of all objects, one object's after the other's; a reference to each */
    size_t *ends; /* for each object: the index after its last child */
    pointers seen; /* the objects so far */
    pointers types; /* types of the children to walk as well */
    bool out_of_memory;
} walk;

static void **
find(const pointers *set, void *pointer)
{
    size_t at = ((uintptr_t)pointer >> 4) * 0x9E3779B97F4A7C15u >> 16 & set->mask;
    while (set->entries[at] != NULL && set->entries[at] != pointer) {
        at = (at + 1) & set->mask;
    }
    return &set->entries[at];
}

static bool
grow_set(pointers *set)
{
    pointers larger = {NULL, 0, set->entries == NULL ? 63 : 2 * set->mask + 1};
    larger.entries = PyMem_RawCalloc(larger.mask + 1, sizeof(void *));
    if (larger.entries == NULL) {
        return false;
    }
    for (size_t i = 0; set->entries != NULL && i <= set->mask; i++) {
        if (set->entries[i] != NULL) {
            *find(&larger, set->entries[i]) = set->entries[i];
        }
    }
    larger.count = set->count;
    PyMem_RawFree(set->entries);
    *set = larger;
    return true;
}

/* Returns 1 if added, 0 if it was there, -1 if there is no memory. */
static int
add_pointer(pointers *set, void *pointer)
{
    if ((set->entries == NULL || 2 * set->count > set->mask) && !grow_set(set)) {
        return -1;
    }
    void **entry = find(set, pointer);
    if (*entry != NULL) {
        return 0;
    }
    *entry = pointer;
    set->count++;
    return 1;
}

static bool
append(array *a, PyObject *object)
{
    if (a->count == a->capacity) {
        size_t capacity = a->capacity == 0 ? 64 : 2 * a->capacity;
        PyObject **items = PyMem_RawRealloc(a->items, capacity * sizeof(*items));
        if (items == NULL) {
            return false;
        }
        a->items = items;
        a->capacity = capacity;
    }
    a->items[a->count++] = Py_NewRef(object);
    return true;
}

static int
visit_child(PyObject *child, void *argument)
{
    walk *w = argument;
    w->out_of_memory = !append(&w->children, child);
    return w->out_of_memory;
}

/* Records the children of one object. Those of the given types are to be walked too. Returns false
 * if there is no memory. */
static bool
visit_object(walk *w, size_t at)
{
    size_t begin = w->children.count;
    PyObject *object = w->objects.items[at];
    traverseproc traverse = PyObject_IS_GC(object) ? Py_TYPE(object)->tp_traverse : NULL;
    if (traverse != NULL && traverse(object, visit_child, w) != 0) {
        return false;
    }
    for (size_t i = begin; i < w->children.count && w->objects.count < MAX_OBJECTS; i++) {
        PyObject *child = w->children.items[i];
        if (w->types.count != 0 && *find(&w->types, Py_TYPE(child)) != NULL) {
            int added = add_pointer(&w->seen, child);
            if (added < 0 || (added > 0 && !append(&w->objects, child))) {
                return false;
            }
        }
    }
    size_t *ends = PyMem_RawRealloc(w->ends, (at + 1) * sizeof(*ends));
    if (ends == NULL) {
        return false;
    }
    w->ends = ends;
    w->ends[at] = w->children.count;
    return true;
}

static void
walk_while_stopped(void *argument)
{
    walk *w = argument;
    for (size_t at = 0; at < w->objects.count; at++) {
        if (!visit_object(w, at)) {
            w->out_of_memory = true;
            break;
        }
    }
}

/* Before the pause: records the objects and types to start with. Returns 0, or -1 with an
 * exception. */
static int
prepare(walk *w, PyObject *batch, PyObject *types)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); i++) {
        if (add_pointer(&w->types, PyTuple_GET_ITEM(types, i)) < 0) {
            PyErr_NoMemory();
            return -1;
        }
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(batch); i++) {
        int added = add_pointer(&w->seen, PyTuple_GET_ITEM(batch, i));
        if (added < 0 || (added > 0 && !append(&w->objects, PyTuple_GET_ITEM(batch, i)))) {
            PyErr_NoMemory();
            return -1;
        }
    }
    return 0;
}

/* Returns [(object, [child, ...]), ...]. */
static PyObject *
result_of(const walk *w)
{
    PyObject *result = PyList_New(0);
    size_t child = 0;
    for (size_t at = 0; result != NULL && at < w->objects.count; at++) {
        PyObject *children = PyList_New((Py_ssize_t)(w->ends[at] - child));
        for (Py_ssize_t i = 0; children != NULL && child < w->ends[at]; i++, child++) {
            PyList_SET_ITEM(children, i, Py_NewRef(w->children.items[child]));
        }
        PyObject *pair = children ? PyTuple_Pack(2, w->objects.items[at], children) : NULL;
        if (pair == NULL || PyList_Append(result, pair) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(pair);
        Py_XDECREF(children);
    }
    return result;
}

static void
free_array(array *a)
{
    for (size_t i = 0; i < a->count; i++) {
        Py_DECREF(a->items[i]);
    }
    PyMem_RawFree(a->items);
}

static PyObject *
referents(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *batch, *types;
    walk w = {0};
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &batch, &PyTuple_Type, &types)) {
        return NULL;
    }
    PyObject *result = NULL;
    if (prepare(&w, batch, types) == 0 && ns_stop_all_threads(walk_while_stopped, &w) == 0) {
        result = w.out_of_memory ? PyErr_NoMemory() : result_of(&w);
    }
    free_array(&w.objects);
    free_array(&w.children);
    PyMem_RawFree(w.ends);
    PyMem_RawFree(w.seen.entries);
    PyMem_RawFree(w.types.entries);
    return result;
}

static PyMethodDef functions[] = {
    {"_referents", referents, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int
ns_add_referents(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
