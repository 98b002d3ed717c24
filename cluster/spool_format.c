#include "cluster/spool_format.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/le.h"
#include "proto/base/memory.h"

#include <string.h>

enum { VERSION = 1, FLAG_LAST = 1, FLAG_BAD = 2 };

static const uint8_t head_magic[4] = {'M', 'R', 's', 'g'};
static const uint8_t record_magic[4] = {'M', 'R', 's', 'r'};
static const uint8_t tail_magic[4] = {'M', 'R', 's', 't'};

static uint64_t seed_at(struct spool_place place, uint32_t offset)
{
    return place.salt ^ (((uint64_t)place.segment << 32) | offset);
}

uint64_t spool_payload_sum(struct spool_place place, uint32_t offset, const void *payload, size_t len)
{
    return XXH3_64bits_withSeed(len > 0 ? payload : "", len, seed_at(place, offset));
}

/* magic 4, version 1, zero 3, segment 4, zero 4, salt 8, checksum 8 */
void spool_head_encode(uint8_t out[SPOOL_HEAD], struct spool_place place)
{
    memset(out, 0, SPOOL_HEAD);
    memcpy(out, head_magic, 4);
    out[4] = VERSION;
    mr_put_le32(out + 8, place.segment);
    mr_put_le64(out + 16, place.salt);
    mr_put_le64(out + 24, XXH3_64bits(out, 24));
    memcpy(out + SPOOL_HEAD_COPY, out, SPOOL_HEAD_COPY);
}

static int head_copy_decode(const uint8_t *in, struct spool_place *place)
{
    if (memcmp(in, head_magic, 4) != 0)
        return MR_MALFORMED;
    if (mr_get_le64(in + 24) != XXH3_64bits(in, 24))
        return MR_CHECKSUM;
    if (in[4] != VERSION)
        return MR_VERSION;
    place->segment = mr_get_le32(in + 8);
    place->salt = mr_get_le64(in + 16);
    return 0;
}

int spool_head_decode(const uint8_t in[SPOOL_HEAD], struct spool_place *place)
{
    int first = head_copy_decode(in, place);
    if (first == 0 || head_copy_decode(in + SPOOL_HEAD_COPY, place) == 0)
        return 0;
    return first;
}

/* magic 4, version 1, type 1, flags 1, zero 1, id 16, attempt 4, piece 4, stamp 8, length 4, zero 4, payload checksum
 * 8, whole length 8, whole checksum 16, checksum 8 */
void spool_record_encode(uint8_t out[SPOOL_RECORD_HEAD], struct spool_place place, enum spool_record_type type,
                         const struct spool_record *r, uint64_t payload_sum)
{
    memset(out, 0, SPOOL_RECORD_HEAD);
    memcpy(out, record_magic, 4);
    out[4] = VERSION;
    out[5] = (uint8_t)type;
    out[6] = r->last ? FLAG_LAST : 0;
    memcpy(out + 8, r->id.bytes, MR_ID_SIZE);
    mr_put_le32(out + 24, r->attempt);
    mr_put_le32(out + 28, r->piece);
    mr_put_le64(out + 32, r->stamp_ms);
    mr_put_le32(out + 40, r->len);
    mr_put_le64(out + 48, payload_sum);
    if (r->last) {
        mr_put_le64(out + 56, r->whole_length);
        memcpy(out + 64, r->checksum, 16);
    }
    mr_put_le64(out + 80, XXH3_64bits_withSeed(out, 80, seed_at(place, r->offset)));
}

int spool_record_decode(const uint8_t in[SPOOL_RECORD_HEAD], struct spool_place place, uint32_t offset,
                        enum spool_record_type *type, struct spool_record *r, uint64_t *payload_sum)
{
    if (memcmp(in, record_magic, 4) != 0)
        return MR_MALFORMED;
    if (mr_get_le64(in + 80) != XXH3_64bits_withSeed(in, 80, seed_at(place, offset)))
        return MR_CHECKSUM;
    if (in[4] != VERSION || (in[5] != SPOOL_RECORD_PIECE && in[5] != SPOOL_RECORD_INDEX))
        return MR_VERSION;
    memset(r, 0, sizeof(*r));
    *type = (enum spool_record_type)in[5];
    r->last = (in[6] & FLAG_LAST) != 0;
    memcpy(r->id.bytes, in + 8, MR_ID_SIZE);
    r->attempt = mr_get_le32(in + 24);
    r->piece = mr_get_le32(in + 28);
    r->stamp_ms = mr_get_le64(in + 32);
    r->len = mr_get_le32(in + 40);
    r->offset = offset;
    *payload_sum = mr_get_le64(in + 48);
    r->whole_length = mr_get_le64(in + 56);
    memcpy(r->checksum, in + 64, 16);
    return 0;
}

/* id 16, attempt 4, piece 4, stamp 8, length 4, offset 4, flags 1, zero 7, whole length 8, whole checksum 16 */
void spool_index_encode(uint8_t out[SPOOL_INDEX_ENTRY], const struct spool_record *r)
{
    memset(out, 0, SPOOL_INDEX_ENTRY);
    memcpy(out, r->id.bytes, MR_ID_SIZE);
    mr_put_le32(out + 16, r->attempt);
    mr_put_le32(out + 20, r->piece);
    mr_put_le64(out + 24, r->stamp_ms);
    mr_put_le32(out + 32, r->len);
    mr_put_le32(out + 36, r->offset);
    out[40] = (uint8_t)((r->last ? FLAG_LAST : 0) | (r->bad ? FLAG_BAD : 0));
    mr_put_le64(out + 48, r->whole_length);
    memcpy(out + 56, r->checksum, 16);
}

void spool_index_decode(const uint8_t in[SPOOL_INDEX_ENTRY], struct spool_record *r)
{
    memcpy(r->id.bytes, in, MR_ID_SIZE);
    r->attempt = mr_get_le32(in + 16);
    r->piece = mr_get_le32(in + 20);
    r->stamp_ms = mr_get_le64(in + 24);
    r->len = mr_get_le32(in + 32);
    r->offset = mr_get_le32(in + 36);
    r->last = (in[40] & FLAG_LAST) != 0;
    r->bad = (in[40] & FLAG_BAD) != 0;
    r->whole_length = mr_get_le64(in + 48);
    memcpy(r->checksum, in + 56, 16);
}

uint8_t *spool_index_make(struct spool_place place, uint32_t offset, const struct spool_record *records, size_t count,
                          size_t *len)
{
    struct spool_record r = {.offset = offset, .len = (uint32_t)(count * SPOOL_INDEX_ENTRY)};
    uint32_t size = spool_record_size(r.len);
    *len = (size_t)size + SPOOL_TAIL;
    uint8_t *out = mr_calloc(1, *len);
    for (size_t i = 0; i < count; i++)
        spool_index_encode(out + SPOOL_RECORD_HEAD + i * SPOOL_INDEX_ENTRY, &records[i]);
    spool_record_encode(out, place, SPOOL_RECORD_INDEX, &r,
                        spool_payload_sum(place, offset, out + SPOOL_RECORD_HEAD, r.len));
    spool_tail_encode(out + size, place, offset);
    return out;
}

/* magic 4, version 1, zero 3, offset of the index record 4, zero 12, checksum 8 */
void spool_tail_encode(uint8_t out[SPOOL_TAIL], struct spool_place place, uint32_t index_offset)
{
    memset(out, 0, SPOOL_TAIL);
    memcpy(out, tail_magic, 4);
    out[4] = VERSION;
    mr_put_le32(out + 8, index_offset);
    mr_put_le64(out + 24, XXH3_64bits_withSeed(out, 24, seed_at(place, index_offset)));
}

int spool_tail_decode(const uint8_t in[SPOOL_TAIL], struct spool_place place, uint32_t *index_offset)
{
    if (memcmp(in, tail_magic, 4) != 0)
        return MR_MALFORMED;
    uint32_t offset = mr_get_le32(in + 8);
    if (mr_get_le64(in + 24) != XXH3_64bits_withSeed(in, 24, seed_at(place, offset)))
        return MR_CHECKSUM;
    if (in[4] != VERSION)
        return MR_VERSION;
    *index_offset = offset;
    return 0;
}
