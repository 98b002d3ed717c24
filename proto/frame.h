/* frame.h - the bytes around everything that nodes say to each other. Pure: consumes and produces, no I/O.
 *
 * A frame is a 16-byte header, a protobuf part and a raw tail (FORMAT.md):
 *   magic 'M' 'R' (2), version (1), type (1), protobuf length (4), tail length (4), checksum (4), all big-endian; the
 *   checksum is the low half of XXH3-64 over header bytes 0..11 and the protobuf part. The tail carries its own
 * checksum where it needs one; TLS guards it on the way. Thread: any; nothing is shared. */
#ifndef MR_PROTO_FRAME_H
#define MR_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { FRAME_VERSION = 1, FRAME_HEADER = 16, FRAME_MAX_META = 1 << 20, FRAME_MAX_TAIL = (1 << 20) + 65536 };

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_HELLO_REPLY,
    FRAME_FORM_REQUEST,
    FRAME_FORM_REPLY,
    FRAME_HEARTBEAT,
    FRAME_HEARTBEAT_REPLY,
    FRAME_PROPOSE,
    FRAME_PROPOSE_REPLY,
    FRAME_BODY_PIECE, /* tail: the piece */
    FRAME_BODY_ACK,
    FRAME_BODY_ABORT,
    FRAME_BODY_GET,
    FRAME_BODY_MISSING,
    FRAME_RAFT,       /* tail: raft head length (4, big-endian), head, tail */
    FRAME_RAFT_SLICE, /* tail: the slice of what FRAME_RAFT's tail would be */
    FRAME_TYPE_END
};

struct frame_header {
    uint8_t type;
    uint32_t meta_len;
    uint32_t tail_len;
    uint32_t checksum;
};
/* out has FRAME_HEADER bytes. */
void frame_encode_header(uint8_t *out, enum frame_type type, const uint8_t *meta, uint32_t meta_len, uint32_t tail_len);
/* MR_MORE: fewer than FRAME_HEADER bytes; MR_MALFORMED (magic, type, lengths), MR_VERSION. */
int frame_decode_header(const uint8_t *in, size_t len, struct frame_header *out);
/* MR_CHECKSUM. in: the header's bytes. */
int frame_check_meta(const uint8_t *in, const struct frame_header *h, const uint8_t *meta);

#endif
