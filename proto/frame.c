/* All numbers are big-endian, so that a frame reads the same in a packet trace as in FORMAT.md. */
#include "proto/frame.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <string.h>

#define XXH_INLINE_ALL /* the state lies on the stack: its size must be this header's, not the library's */
#include <xxhash.h>

enum {
    OFFSET_VERSION = 2,
    OFFSET_TYPE = 3,
    OFFSET_META = 4,
    OFFSET_TAIL = 8,
    OFFSET_CHECKSUM = 12,
    CHECKED_HEADER = 12, /* bytes of the header that the checksum covers */
    SHORT_META = 500     /* up to here joining in memory is cheaper than a streaming hash */
};

static void put32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value >> 24);
    out[1] = (uint8_t)(value >> 16);
    out[2] = (uint8_t)(value >> 8);
    out[3] = (uint8_t)value;
}

static uint32_t get32(const uint8_t *in)
{
    return (uint32_t)in[0] << 24 | (uint32_t)in[1] << 16 | (uint32_t)in[2] << 8 | in[3];
}

static uint32_t checksum(const uint8_t *header, const uint8_t *meta, size_t meta_len)
{
    if (meta_len <= SHORT_META) {
        uint8_t joined[CHECKED_HEADER + SHORT_META];
        memcpy(joined, header, CHECKED_HEADER);
        if (meta_len > 0)
            memcpy(joined + CHECKED_HEADER, meta, meta_len);
        return (uint32_t)XXH3_64bits(joined, CHECKED_HEADER + meta_len);
    }
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, CHECKED_HEADER);
    XXH3_64bits_update(&state, meta, meta_len);
    return (uint32_t)XXH3_64bits_digest(&state);
}

void frame_encode_header(uint8_t *out, enum frame_type type, const uint8_t *meta, uint32_t meta_len, uint32_t tail_len)
{
    mr_assert(type > 0 && type < FRAME_TYPE_END);
    mr_assert(meta_len <= FRAME_MAX_META && tail_len <= FRAME_MAX_TAIL);
    out[0] = 'M';
    out[1] = 'R';
    out[OFFSET_VERSION] = FRAME_VERSION;
    out[OFFSET_TYPE] = (uint8_t)type;
    put32(out + OFFSET_META, meta_len);
    put32(out + OFFSET_TAIL, tail_len);
    put32(out + OFFSET_CHECKSUM, checksum(out, meta, meta_len));
}

int frame_decode_header(const uint8_t *in, size_t len, struct frame_header *out)
{
    /* A stranger is told from its first bytes, not after the sixteenth. */
    if ((len > 0 && in[0] != 'M') || (len > 1 && in[1] != 'R'))
        return MR_MALFORMED;
    if (len > OFFSET_VERSION && in[OFFSET_VERSION] != FRAME_VERSION)
        return MR_VERSION;
    if (len < FRAME_HEADER)
        return MR_MORE;
    out->type = in[OFFSET_TYPE];
    out->meta_len = get32(in + OFFSET_META);
    out->tail_len = get32(in + OFFSET_TAIL);
    out->checksum = get32(in + OFFSET_CHECKSUM);
    if (out->type == 0 || out->type >= FRAME_TYPE_END || out->meta_len > FRAME_MAX_META ||
        out->tail_len > FRAME_MAX_TAIL)
        return MR_MALFORMED;
    return 0;
}

int frame_check_meta(const uint8_t *in, const struct frame_header *h, const uint8_t *meta)
{
    return checksum(in, meta, h->meta_len) == h->checksum ? 0 : MR_CHECKSUM;
}
