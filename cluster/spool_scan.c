/* Reads one segment: by the index record at its end if that is sound, else record by record. The newest one always
 * record by record: a power cut while it was sealed may have left its index and not what that tells of.
 *
 * After damage the next record is looked for at every multiple of 8; a record's checksum is seeded with the salt and
 * its place, so what passes was written by us and just there. A record whose head is sound and whose payload is not is
 * told as bad. */
#include "cluster/spool_internal.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { READ_BLOCK = 64 * 1024, READ_TRIES = 2 };

static int open_segment(const struct mr_fileio *io, const char *path, int *fd, uint64_t *size)
{
    *fd = io->open_file(io, path, O_RDONLY, 0);
    if (*fd < 0)
        return MR_IO;
    if (io->file_size(io, *fd, size) < 0 || *size > UINT32_MAX) {
        (void)io->close_file(io, *fd);
        return MR_IO;
    }
    return 0;
}

int spool_scan_head(const struct mr_fileio *io, const char *path, struct spool_place *place, uint64_t *file_size)
{
    int fd;
    int rc = open_segment(io, path, &fd, file_size);
    if (rc != 0)
        return rc;
    uint8_t head[SPOOL_HEAD] = {0};
    ssize_t n = mr_fileio_read_full(io, fd, head, sizeof(head), 0);
    (void)io->close_file(io, fd);
    if (n < 0)
        return MR_IO;
    return spool_head_decode(head, place);
}

static bool record_fits(const struct spool_record *r, uint64_t limit)
{
    return r->len <= SPOOL_MAX_PIECE && r->piece < SPOOL_MAX_PIECES && r->offset % SPOOL_ALIGN == 0 &&
           r->offset >= SPOOL_HEAD && (uint64_t)r->offset + spool_record_size(r->len) <= limit;
}

/* 0: *payload (malloc) holds the index entries. Anything else: there is no sound one. */
static int read_index(const struct mr_fileio *io, int fd, struct spool_place place, uint64_t size, uint32_t *at,
                      uint8_t **payload, uint32_t *len)
{
    uint8_t tail[SPOOL_TAIL], head[SPOOL_RECORD_HEAD];
    enum spool_record_type type;
    struct spool_record r;
    uint64_t sum;
    if (size < SPOOL_HEAD + SPOOL_RECORD_HEAD + SPOOL_TAIL ||
        mr_fileio_read_full(io, fd, tail, sizeof(tail), size - SPOOL_TAIL) != (ssize_t)sizeof(tail))
        return MR_MALFORMED;
    int rc = spool_tail_decode(tail, place, at);
    if (rc != 0)
        return rc;
    if (mr_fileio_read_full(io, fd, head, sizeof(head), *at) != (ssize_t)sizeof(head))
        return MR_MALFORMED;
    rc = spool_record_decode(head, place, *at, &type, &r, &sum);
    if (rc != 0)
        return rc;
    if (type != SPOOL_RECORD_INDEX || r.len % SPOOL_INDEX_ENTRY != 0 ||
        (uint64_t)*at + spool_record_size(r.len) + SPOOL_TAIL != size)
        return MR_MALFORMED;
    *payload = mr_malloc(r.len);
    *len = r.len;
    if (mr_fileio_read_full(io, fd, *payload, r.len, *at + SPOOL_RECORD_HEAD) == (ssize_t)r.len &&
        spool_payload_sum(place, *at, *payload, r.len) == sum)
        return 0;
    free(*payload);
    return MR_CHECKSUM;
}

static bool scan_by_index(const struct mr_fileio *io, int fd, struct spool_place place, struct spool_scan *out)
{
    uint8_t *payload;
    uint32_t at, len;
    if (read_index(io, fd, place, out->file_size, &at, &payload, &len) != 0)
        return false;
    size_t count = len / SPOOL_INDEX_ENTRY;
    out->records = mr_malloc(count * sizeof(*out->records));
    for (size_t i = 0; i < count; i++) {
        spool_index_decode(payload + i * SPOOL_INDEX_ENTRY, &out->records[i]);
        if (!record_fits(&out->records[i], at)) { /* sound by its checksum and yet impossible: trust the records */
            free(out->records);
            free(payload);
            out->records = NULL;
            return false;
        }
    }
    free(payload);
    out->count = count;
    out->end = at;
    out->sealed = true;
    return true;
}

/* The whole file; blocks that cannot be read stand as zeros, which no record passes. */
static uint8_t *read_file(const struct mr_fileio *io, int fd, struct spool_scan *out)
{
    uint8_t *bytes = mr_malloc(out->file_size);
    memset(bytes, 0, out->file_size);
    for (uint64_t at = 0; at < out->file_size; at += READ_BLOCK) {
        size_t want = out->file_size - at < READ_BLOCK ? (size_t)(out->file_size - at) : READ_BLOCK;
        ssize_t n = -1;
        for (int tries = 0; tries < READ_TRIES && n < 0; tries++)
            n = mr_fileio_read_full(io, fd, bytes + at, want, at);
        if (n < 0) {
            memset(bytes + at, 0, want);
            out->unread = true;
        }
    }
    return bytes;
}

static void keep_record(struct spool_scan *out, size_t *room, const struct spool_record *r)
{
    if (out->records == NULL || out->count == *room) {
        *room = *room == 0 ? 64 : *room * 2;
        out->records = mr_realloc(out->records, *room * sizeof(*out->records));
    }
    out->records[out->count++] = *r;
}

static int scan_by_records(const uint8_t *bytes, struct spool_place place, struct spool_scan *out)
{
    size_t room = 0;
    uint64_t at = SPOOL_HEAD, used = 0;
    out->end = SPOOL_HEAD;
    while (at + SPOOL_RECORD_HEAD <= out->file_size) {
        enum spool_record_type type;
        struct spool_record r;
        uint64_t sum;
        int rc = spool_record_decode(bytes + at, place, (uint32_t)at, &type, &r, &sum);
        if (rc == MR_VERSION)
            return rc;
        bool whole = rc == 0 && at + SPOOL_RECORD_HEAD + r.len <= out->file_size;
        if (!whole) {
            at += SPOOL_ALIGN;
            continue;
        }
        if (type == SPOOL_RECORD_PIECE && r.len <= SPOOL_MAX_PIECE && r.piece < SPOOL_MAX_PIECES) {
            r.bad = spool_payload_sum(place, (uint32_t)at, bytes + at + SPOOL_RECORD_HEAD, r.len) != sum;
            keep_record(out, &room, &r);
            /* The padding behind the last one may be missing; it says nothing. */
            out->end = at + spool_record_size(r.len);
            if (!r.bad) {
                used += spool_record_size(r.len);
                out->skipped = out->end - SPOOL_HEAD - used;
            }
        }
        at += spool_record_size(r.len);
    }
    return 0;
}

int spool_scan_segment(const struct mr_fileio *io, const char *path, struct spool_place place, struct spool_scan *out)
{
    memset(out, 0, sizeof(*out));
    int fd;
    int rc = open_segment(io, path, &fd, &out->file_size);
    if (rc != 0)
        return rc;
    if (!scan_by_index(io, fd, place, out)) {
        uint8_t *bytes = read_file(io, fd, out);
        rc = scan_by_records(bytes, place, out);
        free(bytes);
    }
    (void)io->close_file(io, fd);
    if (rc != 0) {
        free(out->records);
        out->records = NULL;
    }
    return rc;
}

/* Whether the file ends with the index of just these records; and where it ends with another one. */
static void compare_index(const uint8_t *bytes, struct spool_place place, struct spool_scan *out)
{
    uint32_t at;
    size_t len;
    if (out->file_size < SPOOL_HEAD + SPOOL_TAIL ||
        spool_tail_decode(bytes + out->file_size - SPOOL_TAIL, place, &at) != 0)
        return;
    out->sealed = true;
    if (out->unread)
        return; /* it may know of what was not read */
    uint8_t *index = spool_index_make(place, (uint32_t)out->end, out->records, out->count, &len);
    if (at != out->end || out->file_size - at != len || memcmp(bytes + at, index, len) != 0)
        out->wrong_index = at > out->end ? at : out->end;
    free(index);
}

int spool_scan_newest(const struct mr_fileio *io, const char *path, struct spool_place place, struct spool_scan *out,
                      uint8_t **bytes)
{
    memset(out, 0, sizeof(*out));
    int fd;
    int rc = open_segment(io, path, &fd, &out->file_size);
    if (rc != 0)
        return rc;
    *bytes = read_file(io, fd, out);
    (void)io->close_file(io, fd);
    rc = scan_by_records(*bytes, place, out);
    if (rc == 0) {
        compare_index(*bytes, place, out);
        return 0;
    }
    free(*bytes);
    free(out->records);
    *bytes = NULL;
    out->records = NULL;
    return rc;
}
