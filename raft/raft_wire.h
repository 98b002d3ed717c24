/* raft_wire.h - libraft's messages as bytes: a head for every message, and a tail for entries and snapshots.
 *
 * The layout is in FORMAT.md. Decoding trusts nothing: every length is checked against what is there and against a
 * named limit, and the combinations that libraft itself only asserts (its release build does not check them) are
 * refused. W1: a message that decodes can be given to libraft's recv, which then owns its entries, batch, configuration
 * and data. W2: decode allocates nothing that it does not hand out or free. Thread: any; nothing is shared. */
#ifndef MR_RAFT_WIRE_H
#define MR_RAFT_WIRE_H

#include "raft/replica.h"

#include <raft.h>

enum {
    RAFT_WIRE_MAX_ENTRIES = 4096,  /* in one AppendEntries */
    RAFT_WIRE_MAX_BATCH = 4 << 20, /* bytes of entries in one AppendEntries */
    RAFT_WIRE_MAX_MEMBERS = 64,    /* of a configuration */
    RAFT_WIRE_MAX_NAME = 255,      /* bytes of a member's name */
    RAFT_WIRE_HEAD_FIXED = 40,     /* what every head begins with */
    RAFT_WIRE_MAX_HEAD = RAFT_WIRE_HEAD_FIXED + 40 + RAFT_WIRE_MAX_ENTRIES * 16,
};
#define RAFT_WIRE_MAX_SNAPSHOT ((uint64_t)8 << 30)

/* Head of message in new memory (free()). For a snapshot the tail is message's data, for entries their buffers in
 * order. MR_LIMIT: over one of the limits above. */
int raft_wire_encode(const struct raft_message *message, uint8_t **head, size_t *head_len);

/* Sets the head's checksum anew; encode has done it. For tests and fuzzing, which change heads. */
void raft_wire_seal(uint8_t *head, size_t head_len);

/* True when this head says that it carries a snapshot; looks at nothing else. */
bool raft_wire_is_snapshot(const uint8_t *head, size_t head_len);

/* Fills *out; its server_id is from, its server_address is name. tail was allocated with malloc (or is NULL) and is
 * taken over, whatever the result. MR_MALFORMED, MR_CHECKSUM, MR_VERSION, MR_LIMIT. */
int raft_wire_decode(uint64_t from, const char *name, const uint8_t *head, size_t head_len, uint8_t *tail,
                     size_t tail_len, struct raft_message *out);

/* Frees what recv would own. */
void raft_wire_free(struct raft_message *message);

#endif
