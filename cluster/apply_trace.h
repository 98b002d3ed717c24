/* apply_trace.h - a debugging aid: what was applied here, entry by entry, to be compared with other nodes
 * (debug.apply_trace).
 *
 * One line each, appended and never synced; several lives of a node share a file:
 *   O EVERY                                opened: a life begins
 *   E INDEX TERM HASH                      an entry is about to be applied: its proposer's term, XXH3-128 of its bytes
 *   S INDEX HASH                           hash of the state after that index: where EVERY divides it, and at the end
 *   R INDEX HASH                           a snapshot was restored: hash of the state now
 *   D INDEX KIND ID RECIPIENT ATTEMPT BY   an attempt may have been a second delivery: in_doubt, possibly_in_doubt or
 *                                          late_outcome; RECIPIENT is the delivery's number for the first two
 * Entries are hashed each for itself, not as a chain: a node that restored a snapshot does not know the chain before
 * it. It looks at the state and changes nothing. A NULL trace is off: every function returns at once. Thread: the
 * core's. */
#ifndef MR_CLUSTER_APPLY_TRACE_H
#define MR_CLUSTER_APPLY_TRACE_H

#include "cluster/state.h"
#include "proto/base/id.h"

#include <stddef.h>
#include <stdint.h>

struct apply_trace;

/* every: entries between two hashes of the state (each costs as much as the queue is long); 0: none but at restore and
 * end. MR_IO: errno says why. */
int apply_trace_open(struct apply_trace **out, const char *file, unsigned every);
/* Writes the last hash. */
void apply_trace_close(struct apply_trace *t, const struct state *s);

void apply_trace_entry(struct apply_trace *t, uint64_t index, const uint8_t *data, size_t len);
void apply_trace_applied(struct apply_trace *t, uint64_t index, const struct state *s);
void apply_trace_restored(struct apply_trace *t, uint64_t index, const struct state *s);
/* From within the apply of the entry that was told last. */
void apply_trace_doubt(struct apply_trace *t, const char *kind, struct mr_id id, uint32_t recipient, uint32_t attempt,
                       uint32_t node);

#endif
