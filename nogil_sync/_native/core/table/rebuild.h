/* rebuild.h: segments are resized, split and merged: new ones are filled from the old ones, and
 * published (table.h, 4). ns_table_make_room is for insertions, the others are for housekeeping.
 */
#ifndef NS_REBUILD_H
#define NS_REBUILD_H

#include "table/segment.h"

/* Replaces s by a segment of another size with the same hashes. s is locked, and so is the result.
 * Returns NULL if there is no memory. */
ns_segment *ns_rebuild_resize(ns_table *t, ns_segment *s, uint32_t slots, ns_garbage *garbage);
/* Merges s with its buddy. Returns the result, locked; NULL if they cannot be merged now. */
ns_segment *ns_rebuild_merge(ns_table *t, ns_segment *s, ns_garbage *garbage);
/* Splits a segment in which writers met often, if more segments are allowed. Returns the half that
 * covers its lowest hash, locked, or s. */
ns_segment *ns_rebuild_spread_out(ns_table *t, ns_segment *s, ns_garbage *garbage);

#endif
