/* spool_format.h - the bytes of a spool segment (proto/FORMAT.md, "Spool").
 *
 * A segment: head (two equal copies), records, and when it is sealed an index record and a tail. All at multiples of 8.
 * F1: every checksum in the file is seeded with the spool's salt and the place: bytes of a mail that imitate a record,
 * found when a scan looks for the next one after damage, do not pass for one; neither does a record that was moved.
 * Pure: no I/O. Thread: any. */
#ifndef MR_CLUSTER_SPOOL_FORMAT_H
#define MR_CLUSTER_SPOOL_FORMAT_H

#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPOOL_HEAD_COPY = 32,
    SPOOL_HEAD = 2 * SPOOL_HEAD_COPY,
    SPOOL_RECORD_HEAD = 88,
    SPOOL_INDEX_ENTRY = 72,
    SPOOL_TAIL = 32,
    SPOOL_ALIGN = 8,
};

enum spool_record_type { SPOOL_RECORD_PIECE = 1, SPOOL_RECORD_INDEX = 2 };

/* One piece and where it lies; also what the index record holds for it. */
struct spool_record {
    struct mr_id id;
    uint32_t attempt; /* pieces of different puts of the same body do not mix */
    uint32_t piece;
    bool last;
    bool bad; /* the payload does not match its sum; not in the record's head, only in a scan and the index */
    uint64_t stamp_ms;
    uint32_t len;          /* of the payload */
    uint32_t offset;       /* of the record in its segment */
    uint64_t whole_length; /* these two with last */
    uint8_t checksum[16];
};

/* What a record takes in the file. */
static inline uint32_t spool_record_size(uint32_t len)
{
    return (SPOOL_RECORD_HEAD + len + SPOOL_ALIGN - 1) & ~(uint32_t)(SPOOL_ALIGN - 1);
}

/* Where a segment is, for the seeds. */
struct spool_place {
    uint64_t salt;
    uint32_t segment;
};

uint64_t spool_payload_sum(struct spool_place place, uint32_t offset, const void *payload, size_t len);
void spool_head_encode(uint8_t out[SPOOL_HEAD], struct spool_place place);
/* Either copy does. MR_MALFORMED, MR_CHECKSUM, MR_VERSION: neither. */
int spool_head_decode(const uint8_t in[SPOOL_HEAD], struct spool_place *place);

void spool_record_encode(uint8_t out[SPOOL_RECORD_HEAD], struct spool_place place, enum spool_record_type type,
                         const struct spool_record *r, uint64_t payload_sum);
/* r->offset is given. MR_MALFORMED: no record begins here. MR_CHECKSUM: one began. MR_VERSION: a newer program's. */
int spool_record_decode(const uint8_t in[SPOOL_RECORD_HEAD], struct spool_place place, uint32_t offset,
                        enum spool_record_type *type, struct spool_record *r, uint64_t *payload_sum);

void spool_index_encode(uint8_t out[SPOOL_INDEX_ENTRY], const struct spool_record *r);
void spool_index_decode(const uint8_t in[SPOOL_INDEX_ENTRY], struct spool_record *r);

/* What seals a segment whose last record ends at offset: index record and tail (malloc). */
uint8_t *spool_index_make(struct spool_place place, uint32_t offset, const struct spool_record *records, size_t count,
                          size_t *len);
/* The tail says where the index record begins; it ends the file. */
void spool_tail_encode(uint8_t out[SPOOL_TAIL], struct spool_place place, uint32_t index_offset);
int spool_tail_decode(const uint8_t in[SPOOL_TAIL], struct spool_place place, uint32_t *index_offset);

#endif
