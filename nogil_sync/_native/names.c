#include "names.h"

int
ns_names_init(ns_names *names)
{
#define NS_NAME_INTERN(name)                                         \
    if ((names->name = PyUnicode_InternFromString(#name)) == NULL) { \
        return -1;                                                   \
    }
    NS_EACH_NAME(NS_NAME_INTERN)
#undef NS_NAME_INTERN
    return 0;
}

void
ns_names_free(ns_names *names)
{
#define NS_NAME_CLEAR(name) Py_CLEAR(names->name);
    NS_EACH_NAME(NS_NAME_CLEAR)
#undef NS_NAME_CLEAR
}
