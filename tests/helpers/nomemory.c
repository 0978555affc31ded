/* _nomemory: makes chosen allocations fail, for tests. A Python module that is also preloaded.
 *
 * Preloaded (LD_PRELOAD), it comes before the C library's malloc and similar functions. It fails
 * those calls whose return address lies in the library under test: the C core's own memory, which
 * Python's hooks do not see. As a module, it wraps Python's allocators, as _testcapi.set_nomemory
 * does, and fails what the library under test requests from Python. Both affect only the thread
 * that asked for it.
 *
 *     watch(begin, end)        the code of the library under test
 *     fail(kind, n, to)        makes the n-th allocation from now on (0: the next one) fail, and
 *                              those after it, before the to-th; kind is CORE or PYTHON
 *     end() -> int             stops that, and returns how many failed
 *     sites(kind) -> list      where in the library under test: return addresses minus `begin`
 *     in_use() -> int          bytes of malloc's that are in use
 *
 * `fail` and `end` allocate nothing, so they work when nothing else does.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>

enum { NONE, CORE, PYTHON };
enum { MAX_SITES = 4096, DEPTH = 64 };

static __thread struct {
    int kind;
    long next, from, to; /* the number of the next allocation, and of those that fail */
    long failed;
    bool busy; /* walking the stack, which may allocate */
} me;

static uintptr_t begin, end;

/* Where allocations failed. Under the lock: a test may have other threads. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    uintptr_t at[MAX_SITES];
    int count;
} found[PYTHON + 1];

static void
note(int kind, uintptr_t at)
{
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < found[kind].count && found[kind].at[i] != at) {
        i++;
    }
    if (i == found[kind].count && i < MAX_SITES) {
        found[kind].at[found[kind].count++] = at;
    }
    pthread_mutex_unlock(&lock);
}

static bool
is_ours(uintptr_t address)
{
    return address >= begin && address < end;
}

static bool
must_fail(void)
{
    long n = me.next++;
    bool fails = n >= me.from && n < me.to;
    me.failed += fails;
    return fails;
}

/* ---- The C library's allocators ---- */

static bool
core_must_fail(void *caller)
{
    if (me.kind != CORE || !is_ours((uintptr_t)caller) || !must_fail()) {
        return false;
    }
    note(CORE, (uintptr_t)caller - begin);
    return true;
}

/* The function that this one replaces. */
#define REAL(name)                                         \
    static __typeof__(&name) real;                         \
    if (real == NULL) {                                    \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    }

#define FAILS() core_must_fail(__builtin_return_address(0))

void *
malloc(size_t size)
{
    REAL(malloc)
    return FAILS() ? NULL : real(size);
}

void *
calloc(size_t n, size_t size)
{
    REAL(calloc)
    return FAILS() ? NULL : real(n, size);
}

void *
realloc(void *block, size_t size)
{
    REAL(realloc)
    return FAILS() ? NULL : real(block, size);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
    REAL(aligned_alloc)
    return FAILS() ? NULL : real(alignment, size);
}

int
posix_memalign(void **block, size_t alignment, size_t size)
{
    REAL(posix_memalign)
    return FAILS() ? ENOMEM : real(block, alignment, size);
}

/* Allocates, except for the first few keys. */
int
pthread_setspecific(pthread_key_t key, const void *value)
{
    REAL(pthread_setspecific)
    return FAILS() ? ENOMEM : real(key, value);
}

/* ---- Python's allocators ---- */

static const PyMemAllocatorDomain domains[] = {
    PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
static PyMemAllocatorEx wrapped[3];

/* The code of the interpreter's loop. */
static uintptr_t eval_begin, eval_end;

static void
find_loop(void)
{
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    if (dladdr1((void *)_PyEval_EvalFrameDefault, &info, (void **)&symbol, RTLD_DL_SYMENT) &&
        symbol != NULL) {
        eval_begin = (uintptr_t)info.dli_saddr;
        eval_end = eval_begin + symbol->st_size;
    }
}

/* Whether the library under test requested this memory by a call of its own into Python. What the
 * interpreter requests while it runs Python code does not count: the interpreter has faults of its
 * own without memory. */
static bool
python_must_fail(void)
{
    if (me.kind != PYTHON || me.busy) {
        return false;
    }
    void *frames[DEPTH];
    me.busy = true;
    int depth = backtrace(frames, DEPTH), i = 0;
    me.busy = false;
    while (i < depth && !is_ours((uintptr_t)frames[i])) {
        if ((uintptr_t)frames[i] >= eval_begin && (uintptr_t)frames[i] < eval_end) {
            return false;
        }
        i++;
    }
    if (i == depth || !must_fail()) {
        return false;
    }
    note(PYTHON, (uintptr_t)frames[i] - begin);
    return true;
}

static void *
hook_malloc(void *context, size_t size)
{
    PyMemAllocatorEx *a = context;
    return python_must_fail() ? NULL : a->malloc(a->ctx, size);
}

static void *
hook_calloc(void *context, size_t n, size_t size)
{
    PyMemAllocatorEx *a = context;
    return python_must_fail() ? NULL : a->calloc(a->ctx, n, size);
}

static void *
hook_realloc(void *context, void *block, size_t size)
{
    PyMemAllocatorEx *a = context;
    return python_must_fail() ? NULL : a->realloc(a->ctx, block, size);
}

static void
hook_free(void *context, void *block)
{
    PyMemAllocatorEx *a = context;
    a->free(a->ctx, block);
}

/* ---- The module ---- */

static PyObject *
watch(PyObject *Py_UNUSED(self), PyObject *args)
{
    unsigned long long from, to;
    if (!PyArg_ParseTuple(args, "KK", &from, &to)) {
        return NULL;
    }
    begin = (uintptr_t)from;
    end = (uintptr_t)to;
    Py_RETURN_NONE;
}

static PyObject *
fail(PyObject *Py_UNUSED(self), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "fail(kind, n, to)");
        return NULL;
    }
    long kind = PyLong_AsLong(args[0]), from = PyLong_AsLong(args[1]), to = PyLong_AsLong(args[2]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    me.next = me.failed = 0;
    me.from = from;
    me.to = to;
    me.kind = (int)kind;
    Py_RETURN_NONE;
}

static PyObject *
end_(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
    me.kind = NONE;
    return PyLong_FromLong(me.failed);
}

static PyObject *
sites(PyObject *Py_UNUSED(self), PyObject *arg)
{
    long kind = PyLong_AsLong(arg);
    PyObject *list = PyErr_Occurred() ? NULL : PyList_New(0);
    for (int i = 0; list != NULL && i < found[kind].count; i++) {
        PyObject *at = PyLong_FromUnsignedLongLong(found[kind].at[i]);
        if (at == NULL || PyList_Append(list, at) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(at);
    }
    return list;
}

static PyObject *
in_use(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
    struct mallinfo2 info = mallinfo2();
    return PyLong_FromSize_t(info.uordblks + info.hblkhd);
}

static PyMethodDef methods[] = {
    {"watch", watch, METH_VARARGS, NULL},
    {"fail", (PyCFunction)(void (*)(void))fail, METH_FASTCALL, NULL},
    {"end", end_, METH_NOARGS, NULL},
    {"sites", sites, METH_O, NULL},
    {"in_use", in_use, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
exec(PyObject *module)
{
    void *frame;
    backtrace(&frame, 1); /* loads the library that it needs */
    find_loop();
    for (int i = 0; i < 3; i++) {
        PyMem_GetAllocator(domains[i], &wrapped[i]);
        PyMemAllocatorEx hook = {&wrapped[i], hook_malloc, hook_calloc, hook_realloc, hook_free};
        PyMem_SetAllocator(domains[i], &hook);
    }
    return PyModule_AddIntConstant(module, "CORE", CORE) < 0
               ? -1
               : PyModule_AddIntConstant(module, "PYTHON", PYTHON);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, exec},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_nomemory", NULL, 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__nomemory(void)
{
    return PyModuleDef_Init(&definition);
}
