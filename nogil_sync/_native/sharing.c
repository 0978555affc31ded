#include "sharing.h"

#if NS_CAN_DEFER

void
ns_used_elsewhere(PyObject *self)
{
    _Atomic uint32_t *counter = &((ns_object *)self)->foreign_uses;
    uint32_t uses = ns_load(counter, NS_RELAXED) + 1;
    if (uses >= NS_OFTEN) {
        /* Refused for an object that the collector does not track at the moment: try again after
         * as many uses. */
        PyUnstable_Object_EnableDeferredRefcount(self);
        uses = 0;
    }
    ns_store(counter, uses, NS_RELAXED);
}

#endif
