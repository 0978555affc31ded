/* fast_paths.c: each fast path of the core as a function of its own, for tools/arm64_code.py, which
 * checks the machine code that compilers make of it. Nothing here is run.
 */
#include "channel.h"
#include "counter.h"
#include "deque.h"
#include "memory/epoch.h"
#include "event.h"
#include "waiting/lock.h"
#include "mutex.h"
#include "pool.h"
#include "rwmutex.h"
#include "semaphore.h"
#include "table/table.h"
#include "waitgroup.c" /* ns_waitgroup_add is not inline */

void fast_counter_add(ns_counter *c, uint64_t n);
void fast_counter_add_double(ns_counter *c, double n);
bool fast_mutex_acquire(ns_mutex *m);
bool fast_mutex_release(ns_mutex *m);
bool fast_read_acquire(ns_rwmutex *m);
bool fast_read_release(ns_rwmutex *m);
bool fast_write_acquire(ns_rwmutex *m);
bool fast_write_release(ns_rwmutex *m);
bool fast_semaphore_acquire(ns_semaphore *s);
bool fast_semaphore_release(ns_semaphore *s);
bool fast_event_is_set(ns_event *e);
enum ns_channel_result fast_channel_send(ns_channel *c, void *item);
enum ns_channel_result fast_channel_receive(ns_channel *c, void **item);
void *fast_pool_get(ns_pool *p);
void *fast_pool_put(ns_pool *p, void *item);
bool fast_deque_push(ns_deque *d, void *item);
void *fast_deque_pop(ns_deque *d);
bool fast_lock_take(ns_lock *l);
void fast_lock_release(ns_lock *l);
ns_section fast_epoch_enter(void);
void fast_epoch_leave(ns_section section);
uint64_t fast_epoch_stamp(void);
enum ns_found fast_table_get(ns_table *t, uint64_t hash, uintptr_t key, uintptr_t *result);
uintptr_t fast_table_replace(ns_table *t, uint64_t hash, uintptr_t key, uintptr_t value,
                             ns_segment **locked);
uint64_t fast_atomic_load(_Atomic uint64_t *word);
void fast_atomic_store(_Atomic uint64_t *word, uint64_t n);
uint64_t fast_atomic_add(_Atomic uint64_t *word, uint64_t n);
uint64_t fast_atomic_swap(_Atomic uint64_t *word, uint64_t n);
bool fast_atomic_compare_exchange(_Atomic uint64_t *word, uint64_t expected, uint64_t n);

void
fast_counter_add(ns_counter *c, uint64_t n)
{
    ns_counter_add(c, n);
}

void
fast_counter_add_double(ns_counter *c, double n)
{
    ns_counter_add_double(c, n);
}

bool
fast_mutex_acquire(ns_mutex *m)
{
    return ns_mutex_try_lock(m);
}

bool
fast_mutex_release(ns_mutex *m)
{
    return ns_mutex_unlock(m);
}

bool
fast_read_acquire(ns_rwmutex *m)
{
    return ns_rwmutex_try_read(m);
}

bool
fast_read_release(ns_rwmutex *m)
{
    return ns_rwmutex_read_unlock(m);
}

bool
fast_write_acquire(ns_rwmutex *m)
{
    return ns_rwmutex_try_write(m);
}

bool
fast_write_release(ns_rwmutex *m)
{
    return ns_rwmutex_write_unlock(m);
}

bool
fast_semaphore_acquire(ns_semaphore *s)
{
    return ns_semaphore_try(s, 1);
}

bool
fast_semaphore_release(ns_semaphore *s)
{
    return ns_semaphore_release(s, 1);
}

bool
fast_event_is_set(ns_event *e)
{
    return ns_event_is_set(e);
}

enum ns_channel_result
fast_channel_send(ns_channel *c, void *item)
{
    return ns_channel_try_send(c, item);
}

enum ns_channel_result
fast_channel_receive(ns_channel *c, void **item)
{
    return ns_channel_try_receive(c, item);
}

void *
fast_pool_get(ns_pool *p)
{
    return ns_pool_get(p);
}

void *
fast_pool_put(ns_pool *p, void *item)
{
    return ns_pool_put(p, item);
}

bool
fast_deque_push(ns_deque *d, void *item)
{
    return ns_deque_push(d, item, 0, 0);
}

void *
fast_deque_pop(ns_deque *d)
{
    return ns_deque_pop(d);
}

bool
fast_lock_take(ns_lock *l)
{
    return ns_lock_take(l) == NS_LOCKED;
}

void
fast_lock_release(ns_lock *l)
{
    ns_lock_release(l);
}

ns_section
fast_epoch_enter(void)
{
    return ns_epoch_enter();
}

void
fast_epoch_leave(ns_section section)
{
    ns_epoch_leave(section);
}

uint64_t
fast_epoch_stamp(void)
{
    return ns_epoch_stamp();
}

/* Keys that are compared in place, and values that need no reference. */
static inline enum ns_match
same(uintptr_t stored, const void *wanted)
{
    return stored == *(const uintptr_t *)wanted ? NS_EQUAL : NS_DIFFERENT;
}

static inline bool
hold(uintptr_t word)
{
    (void)word;
    return true;
}

static inline void
drop(uintptr_t word)
{
    (void)word;
}

enum ns_found
fast_table_get(ns_table *t, uint64_t hash, uintptr_t key, uintptr_t *result)
{
    return ns_table_get(t, hash, same, &key, NULL, hold, drop, result);
}

uintptr_t
fast_table_replace(ns_table *t, uint64_t hash, uintptr_t key, uintptr_t value, ns_segment **locked)
{
    return ns_table_replace(t, hash, same, &key, 0, value, locked);
}

/* What the methods of the integer atomics do. */
uint64_t
fast_atomic_load(_Atomic uint64_t *word)
{
    return ns_load(word, NS_SEQ_CST);
}

void
fast_atomic_store(_Atomic uint64_t *word, uint64_t n)
{
    ns_store(word, n, NS_SEQ_CST);
}

uint64_t
fast_atomic_add(_Atomic uint64_t *word, uint64_t n)
{
    return ns_add(word, n, NS_SEQ_CST);
}

uint64_t
fast_atomic_swap(_Atomic uint64_t *word, uint64_t n)
{
    return ns_swap(word, n, NS_SEQ_CST);
}

bool
fast_atomic_compare_exchange(_Atomic uint64_t *word, uint64_t expected, uint64_t n)
{
    return ns_cas(word, &expected, n, NS_SEQ_CST);
}
