/* state_writer.h - the records of a snapshot, one after the other (proto/FORMAT.md): the head, messages by sequence,
 * finished ids by time, the tail, the end.
 *
 * Owner: whoever declares the writer frees base. Thread: any; what is written must not change meanwhile. */
#ifndef MR_CLUSTER_STATE_WRITER_H
#define MR_CLUSTER_STATE_WRITER_H

#include "cluster/state_internal.h"
#include "proto/base/hash.h"

struct state_writer {
    uint8_t *base;
    size_t len, size;
    XXH3_state_t *hash; /* NULL: keep everything; else what is written may leave base for it */
    size_t record;      /* where the open record's payload begins */
};

/* Preamble, header, nodes. */
void state_write_head(struct state_writer *w, const struct state *s);
void state_write_message(struct state_writer *w, const struct state_message *m);
void state_write_finished(struct state_writer *w, const struct state_finished *f);
/* Parts, sites, users. */
void state_write_tail(struct state_writer *w, const struct state *s);
/* The checksum over all before. */
void state_write_end(struct state_writer *w, XXH128_hash_t sum);

#endif
