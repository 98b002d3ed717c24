/* state_records.h - the bytes of a snapshot around its protobuf records; proto/FORMAT.md describes them.
 *
 * Thread: any. */
#ifndef MR_CLUSTER_STATE_RECORDS_H
#define MR_CLUSTER_STATE_RECORDS_H

enum {
    SNAPSHOT_FORMAT = 1,
    SNAPSHOT_PREAMBLE = 16,     /* magic, format, zero */
    SNAPSHOT_RECORD_HEADER = 8, /* kind, length of the payload: 32 bits each, little-endian */
    SNAPSHOT_CHECKSUM = 16,     /* XXH3-128, canonical form */
};
#define SNAPSHOT_MAGIC "MRQUEUE\n" /* 8 bytes */
enum snapshot_record {
    RECORD_HEADER = 1,
    RECORD_NODE,
    RECORD_MESSAGE,
    RECORD_FINISHED,
    RECORD_PARTS,
    RECORD_END,
    RECORD_SITE, /* the last two since cluster version 2 */
    RECORD_USER,
    RECORD_KINDS
};

#endif
