/* atomic_int.inc.h: one atomic integer type. A template, included once per type with
 *
 *     NAME      AtomicInt64 …            the Python class
 *     VALUE     int64_t …                its C type
 *     WORD      uint64_t …               the unsigned type of that width: where arithmetic wraps
 *     PARSE(object, VALUE *)             returns 0, or -1 with an exception
 *     BOX(VALUE)                         returns a new Python int
 *
 * All operations are sequentially consistent, and one instruction where the machine has one. max
 * and min (and on x86-64 the bitwise ones, which return the old value) are compare-and-swap loops.
 * Arguments are converted first, because that may run user code.
 */
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define FN(name) JOIN(NAME, name)
#define DOC_OF_(type, method) DOC_##type##_##method
#define DOC_OF(type, method) DOC_OF_(type, method)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define CLASS_DOC_(type) DOC_##type
#define CLASS_DOC(type) CLASS_DOC_(type)

typedef struct {
    NS_OBJECT_HEAD
    /* Every call reads the header several times. If the value were on the header's cache line, each
     * change by another core would take the header away too: two transfers an operation instead of
     * one. */
    char apart_from_header[NS_LINE];
    _Atomic WORD value;
    char apart_from_neighbour[NS_LINE - sizeof(WORD)];
} FN(Object);

static inline _Atomic WORD *
FN(word)(PyObject *self)
{
    ns_used(self);
    return &((FN(Object) *)self)->value;
}

/* Parses the single argument of a method. `n` may be omitted if it has a default. */
static inline int
FN(operand)(const ns_signature *s, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
            WORD *result)
{
    PyObject *argument;
    VALUE value = 1;
    if (ns_unpack(s, args, nargs, kwnames, &argument) < 0 ||
        (argument != NULL && PARSE(argument, &value) < 0)) {
        return -1;
    }
    *result = (WORD)value;
    return 0;
}

/* Defines a method of one integer: `result` is computed from `word` and `n`. */
#define METHOD(name, parameter, required, expression)                                      \
    static PyObject *FN(name)(                                                             \
        PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)        \
    {                                                                                      \
        static const ns_signature s = {TEXT(NAME) "." #name, {parameter}, required, 1, 0}; \
        WORD n;                                                                            \
        if (FN(operand)(&s, args, nargs, kwnames, &n) < 0) {                               \
            return NULL;                                                                   \
        }                                                                                  \
        _Atomic WORD *word = FN(word)(self);                                               \
        return BOX((VALUE)(expression));                                                   \
    }

/* A value that stays is stored again, so that the operation is ordered like the others. */
static inline bool
FN(replace_if_less)(_Atomic WORD *word, WORD *old, WORD n, bool max)
{
    return ns_cas(word, old, ((VALUE)n > (VALUE)*old) == max ? n : *old, NS_SEQ_CST);
}

/* After another thread was faster once. */
static Py_NO_INLINE WORD
FN(extreme_slow)(PyObject *self, _Atomic WORD *word, WORD old, WORD n, bool max)
{
    uint32_t retries = 1;
    while (!FN(replace_if_less)(word, &old, n, max)) {
        retries++;
    }
    ns_record_retries(self, max ? TEXT(NAME) ".fetch_max" : TEXT(NAME) ".fetch_min", retries);
    return old;
}

static inline WORD
FN(extreme)(PyObject *self, _Atomic WORD *word, WORD n, bool max)
{
    WORD old = ns_load(word, NS_SEQ_CST);
    return ns_likely(FN(replace_if_less)(word, &old, n, max))
               ? old
               : FN(extreme_slow)(self, word, old, n, max);
}

METHOD(add, "n", 0, (WORD)(ns_add(word, n, NS_SEQ_CST) + n))
METHOD(sub, "n", 0, (WORD)(ns_sub(word, n, NS_SEQ_CST) - n))
METHOD(swap, "value", 1, ns_swap(word, n, NS_SEQ_CST))
METHOD(fetch_and, "mask", 1, ns_and(word, n, NS_SEQ_CST))
METHOD(fetch_or, "mask", 1, ns_or(word, n, NS_SEQ_CST))
METHOD(fetch_xor, "mask", 1, ns_xor(word, n, NS_SEQ_CST))
METHOD(fetch_max, "n", 1, FN(extreme)(self, word, n, true))
METHOD(fetch_min, "n", 1, FN(extreme)(self, word, n, false))

static PyObject *
FN(store)(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {TEXT(NAME) ".store", {"value"}, 1, 1, 0};
    WORD value;
    if (FN(operand)(&s, args, nargs, kwnames, &value) < 0) {
        return NULL;
    }
    ns_store(FN(word)(self), value, NS_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
FN(load)(PyObject *self, PyObject *Py_UNUSED(unused))
{
    return BOX((VALUE)ns_load(FN(word)(self), NS_SEQ_CST));
}

static PyObject *
FN(compare_and_swap)(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const ns_signature s = {TEXT(NAME) ".compare_and_swap", {"old", "new"}, 2, 2, 0};
    PyObject *pair[2];
    VALUE old, new;
    if (ns_unpack(&s, args, nargs, kwnames, pair) < 0 || PARSE(pair[0], &old) < 0 ||
        PARSE(pair[1], &new) < 0) {
        return NULL;
    }
    WORD expected = (WORD)old;
    if (ns_cas_or_load(FN(word)(self), &expected, (WORD)new, NS_SEQ_CST, NS_SEQ_CST)) {
        Py_RETURN_TRUE;
    }
    ns_record_retries(self, TEXT(NAME) ".compare_and_swap", 1);
    Py_RETURN_FALSE;
}

static int
FN(init)(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static const ns_signature s = {TEXT(NAME) ".__init__", {"value"}, 0, 1, 0};
    PyObject *argument;
    VALUE value = 0;
    if (ns_unpack_init(&s, args, kwargs, &argument) < 0 ||
        (argument != NULL && PARSE(argument, &value) < 0) || ns_claim_init(self) < 0) {
        return -1;
    }
    ns_store(&((FN(Object) *)self)->value, (WORD)value, NS_RELEASE);
    return 0;
}

static PyObject *
FN(repr)(PyObject *self)
{
    return ns_repr_call(self, BOX((VALUE)ns_load(&((FN(Object) *)self)->value, NS_SEQ_CST)));
}

static PyMethodDef FN(methods)[] = {
    NS_NO_ARGUMENTS("load", FN(load), DOC_OF(NAME, load)),
    NS_METHOD("store", FN(store), DOC_OF(NAME, store)),
    NS_METHOD("swap", FN(swap), DOC_OF(NAME, swap)),
    NS_METHOD("compare_and_swap", FN(compare_and_swap), DOC_OF(NAME, compare_and_swap)),
    NS_METHOD("add", FN(add), DOC_OF(NAME, add)),
    NS_METHOD("sub", FN(sub), DOC_OF(NAME, sub)),
    NS_METHOD("fetch_and", FN(fetch_and), DOC_OF(NAME, fetch_and)),
    NS_METHOD("fetch_or", FN(fetch_or), DOC_OF(NAME, fetch_or)),
    NS_METHOD("fetch_xor", FN(fetch_xor), DOC_OF(NAME, fetch_xor)),
    NS_METHOD("fetch_max", FN(fetch_max), DOC_OF(NAME, fetch_max)),
    NS_METHOD("fetch_min", FN(fetch_min), DOC_OF(NAME, fetch_min)),
    NS_NO_PICKLE,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef FN(members)[] = NS_WEAKREF_MEMBERS(FN(Object));

static PyType_Slot FN(slots)[] = {
    {Py_tp_doc, (void *)CLASS_DOC(NAME)},
    {Py_tp_new, ns_new},
    {Py_tp_init, FN(init)},
    {Py_tp_dealloc, ns_dealloc},
    {Py_tp_traverse, ns_traverse_type},
    {Py_tp_repr, FN(repr)},
    {Py_nb_bool, ns_no_bool},
    {Py_tp_methods, FN(methods)},
    {Py_tp_members, FN(members)},
    {0, NULL},
};

static PyType_Spec FN(spec) = {
    .name = "nogil_sync." TEXT(NAME),
    .basicsize = sizeof(FN(Object)),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = FN(slots),
};

#undef METHOD
#undef CLASS_DOC
#undef CLASS_DOC_
#undef TEXT
#undef TEXT_
#undef DOC_OF
#undef DOC_OF_
#undef FN
#undef JOIN
#undef JOIN_
#undef NAME
#undef VALUE
#undef WORD
#undef PARSE
#undef BOX
