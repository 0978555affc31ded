/* AtomicInt64, AtomicUint64, AtomicInt32, AtomicUint32: four uses of one template. */
#include "arguments.h"
#include "core/atomics.h"
#include "docs.h"
#include "object.h"
#include "interpreter/contention.h"
#include "interpreter/sharing.h"

static int
parse_int64(PyObject *value, int64_t *result)
{
    return ns_int64(value, INT64_MIN, INT64_MAX, "a signed 64-bit integer", result);
}

static int
parse_uint64(PyObject *value, uint64_t *result)
{
    return ns_uint64(value, UINT64_MAX, "an unsigned 64-bit integer", result);
}

static int
parse_int32(PyObject *value, int32_t *result)
{
    int64_t wide = 0;
    int failed = ns_int64(value, INT32_MIN, INT32_MAX, "a signed 32-bit integer", &wide);
    *result = (int32_t)wide;
    return failed;
}

static int
parse_uint32(PyObject *value, uint32_t *result)
{
    uint64_t wide = 0;
    int failed = ns_uint64(value, UINT32_MAX, "an unsigned 32-bit integer", &wide);
    *result = (uint32_t)wide;
    return failed;
}

#define NAME AtomicInt64
#define VALUE int64_t
#define WORD uint64_t
#define PARSE parse_int64
#define BOX PyLong_FromLongLong
#include "types/atomic_int.inc.h"

#define NAME AtomicUint64
#define VALUE uint64_t
#define WORD uint64_t
#define PARSE parse_uint64
#define BOX PyLong_FromUnsignedLongLong
#include "types/atomic_int.inc.h"

#define NAME AtomicInt32
#define VALUE int32_t
#define WORD uint32_t
#define PARSE parse_int32
#define BOX PyLong_FromLong
#include "types/atomic_int.inc.h"

#define NAME AtomicUint32
#define VALUE uint32_t
#define WORD uint32_t
#define PARSE parse_uint32
#define BOX PyLong_FromUnsignedLong
#include "types/atomic_int.inc.h"

int
ns_add_atomic_ints(PyObject *module)
{
    PyType_Spec *const specs[] = {
        &AtomicInt64_spec, &AtomicUint64_spec, &AtomicInt32_spec, &AtomicUint32_spec};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(specs); i++) {
        if (ns_add_type(module, specs[i]) < 0) {
            return -1;
        }
    }
    return 0;
}
