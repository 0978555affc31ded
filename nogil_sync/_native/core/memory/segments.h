/* segments.h: arrays with one element for each thread slot (slots.h), in segments that never move.
 *
 * Segment 0 has the elements of the first slots, a power of two of them; each further segment has
 * as many as all before it. A segment is made when a thread whose slot lies in it needs an element,
 * and stays until the owner of the array is freed. So the size follows how many threads live at the
 * same time, and a thread finds an element by its slot in two steps, without a lock. The pool's
 * shards and the spare objects (interpreter/spares.h) are kept so: a thread has its element for
 * itself. For elements that threads share, and that become more only if threads meet, see cells.h.
 */
#ifndef NS_SEGMENTS_H
#define NS_SEGMENTS_H

#include <stdlib.h>
#include <string.h>

#include "memory/slots.h"

/* Zero bytes that begin at a multiple of the alignment, which divides `bytes`. NULL if there is no
 * memory. */
static inline void *
ns_zeroed(size_t alignment, size_t bytes)
{
    void *memory = aligned_alloc(alignment, bytes);
    return memory != NULL ? memset(memory, 0, bytes) : NULL;
}

/* How many slots a segment is for; segment 0 is for `first`. */
static inline uint32_t
ns_slots_in_segment(uint32_t first, uint32_t segment)
{
    return segment == 0 ? first : first << (segment - 1);
}

/* The segment of a slot, and in *offset its place there. */
static inline uint32_t
ns_segment_of_slot(uint32_t first, uint32_t slot, uint32_t *offset)
{
    if (ns_likely(slot < first)) {
        *offset = slot;
        return 0;
    }
    uint32_t segment = 32 - (uint32_t)__builtin_clz(slot / first);
    *offset = slot - ns_slots_in_segment(first, segment);
    return segment;
}

#endif
