/* thread_tag.h: a number that tells a thread from all others that live, in one instruction.
 *
 * It is the thread pointer: the address of the thread's control block. That block is aligned, so
 * the low bits of a tag are zero, and a lock's word has room for both its flags and the tag of its
 * holder. The processor has the thread pointer at hand, so a tag costs no load of shared memory and
 * no call. (CPython tells by it who owns an object.)
 *
 * A tag is never 0. The tag of a thread that has ended may come again. A fork keeps the tag of the
 * forking thread.
 *
 * Where the compiler cannot give the thread pointer, a tag is the address of a variable of the
 * thread. Either has the same distance from pthread_self() in every thread, where thread-local
 * variables of a library lie in the thread's static block (glibc, musl). So ns_thread_of_tag needs
 * no table.
 */
#ifndef NS_THREAD_TAG_H
#define NS_THREAD_TAG_H

#include "memory/slots.h"

#define NS_TAG_UNIT 8 /* Tags are multiples of it. */

#if defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
#define NS_HAS_THREAD_POINTER 1
#endif
#endif

static inline uint64_t
ns_thread_tag(void)
{
#ifdef NS_HAS_THREAD_POINTER
    return (uintptr_t)__builtin_thread_pointer();
#else
    return (uintptr_t)&ns_thread_mark;
#endif
}

/* The thread of this tag as pthread_self() names it there; 0 for 0. */
uint64_t ns_thread_of_tag(uint64_t tag);

#endif
