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
 * thread (glibc: it lies in the thread's static block). Either has the same distance from
 * pthread_self() in every thread, so ns_thread_of_tag needs no table. Other systems promise neither
 * (on arm64 macOS the register that compilers read holds the number of the processor), and there a
 * tag is pthread_self() itself, the address of an aligned block.
 */
#ifndef NS_THREAD_TAG_H
#define NS_THREAD_TAG_H

#include "memory/slots.h"

#include <pthread.h>

#define NS_TAG_UNIT 8 /* Tags are multiples of it. */

#if defined(__linux__) && defined(__has_builtin)
#if __has_builtin(__builtin_thread_pointer)
#define NS_HAS_THREAD_POINTER 1
#endif
#endif

static inline uint64_t
ns_thread_tag(void)
{
#if defined(NS_HAS_THREAD_POINTER)
    return (uintptr_t)__builtin_thread_pointer();
#elif defined(__GLIBC__)
    return (uintptr_t)&ns_thread_mark;
#else
    return (uintptr_t)pthread_self();
#endif
}

/* The thread of this tag as pthread_self() names it there; 0 for 0. */
uint64_t ns_thread_of_tag(uint64_t tag);

#endif
