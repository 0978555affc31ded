#include "interpreter/sharing.h"

#if NS_CAN_DEFER

void
ns_used_elsewhere(PyObject *self)
{
    _Atomic uint16_t *counter = &((ns_object *)self)->foreign_uses;
    uint32_t uses = ns_load(counter, NS_RELAXED) + 1;
    if (uses >= NS_OFTEN) {
        /* It is refused while the collector does not track the object. Then retry after as many
         * uses again. */
        PyUnstable_Object_EnableDeferredRefcount(self);
        uses = 0;
    }
    ns_store(counter, (uint16_t)uses, NS_RELAXED);
}

#endif

/* For objects of classes written in Python: defers the object's count, from 3.14 on. */
static PyObject *
defer(PyObject *Py_UNUSED(module), PyObject *object)
{
#if NS_CAN_DEFER
    PyUnstable_Object_EnableDeferredRefcount(object);
#else
    (void)object;
#endif
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"defer", defer, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int
ns_add_sharing(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
