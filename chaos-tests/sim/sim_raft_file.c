/* Formats and single files; see sim_raft_load.c for what all of them together mean. */
#include "chaos-tests/sim/sim_raft_file.h"

#include "chaos-tests/sim/sim_fs.h"

#include "proto/base/le.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { META_SIZE = 32, SNAPSHOT_META_HEAD = 32, MAX_CONFIGURATION = 1 << 20 };

/* ---- bytes ---- */

/* The highest bit first, begun with 0 and not inverted at the end, as raft_uv has it. */
static uint32_t crc_add(uint32_t crc, const uint8_t *data, size_t len)
{
    static uint32_t table[256];
    if (table[1] == 0)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i << 24;
            for (int bit = 0; bit < 8; bit++)
                c = (c & 0x80000000U) != 0 ? c << 1 ^ 0x04c11db7U : c << 1;
            table[i] = c;
        }
    for (size_t i = 0; i < len; i++)
        crc = crc << 8 ^ table[(crc >> 24 ^ data[i]) & 0xff];
    return crc;
}

static int refuse(const struct raft_file_dir *dir, int rv, const char *name, const char *why)
{
    (void)snprintf(dir->errmsg, RAFT_ERRMSG_BUF_SIZE, "%s: %s", name, why);
    return rv;
}

/* ---- batches ---- */

size_t raft_file_batch_size(const struct raft_entry *entries, unsigned n)
{
    size_t size = 16 + (size_t)n * 16;
    for (unsigned i = 0; i < n; i++)
        size += entries[i].buf.len;
    return size;
}

void raft_file_batch_encode(uint8_t *out, const struct raft_entry *entries, unsigned n)
{
    uint8_t *head = out + 8, *at = head;
    mr_put_le64(at, n);
    at += 8;
    for (unsigned i = 0; i < n; i++) {
        mr_put_le64(at, entries[i].term);
        mr_put_le32(at + 8, (uint32_t)entries[i].type);
        mr_put_le32(at + 12, (uint32_t)entries[i].buf.len);
        at += 16;
    }
    const uint8_t *data = at;
    for (unsigned i = 0; i < n; i++) {
        memcpy(at, entries[i].buf.base, entries[i].buf.len);
        at += entries[i].buf.len;
    }
    mr_put_le32(out, crc_add(0, head, (size_t)(data - head)));
    mr_put_le32(out + 4, crc_add(0, data, (size_t)(at - data)));
}

/* ---- files ---- */

char *raft_file_path(const struct raft_file_dir *dir, const char *name)
{
    return mr_asprintf("%s/%s", dir->path, name);
}

int raft_file_remove(const struct raft_file_dir *dir, const char *name)
{
    char *path = raft_file_path(dir, name);
    int rv = unlink(path) == 0 ? 0 : refuse(dir, RAFT_IOERR, name, strerror(errno));
    free(path);
    return rv;
}

int raft_file_sync_dir(const struct raft_file_dir *dir)
{
    int fd = open(dir->path, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return refuse(dir, RAFT_IOERR, dir->path, strerror(errno));
    int rv = fsync(fd) == 0 ? 0 : refuse(dir, RAFT_IOERR, dir->path, strerror(errno));
    close(fd);
    return rv;
}

int raft_file_fill(int fd, const struct raft_buffer *bufs, unsigned n)
{
    struct iovec *iov = mr_calloc(n, sizeof(*iov));
    ssize_t want = 0;
    for (unsigned i = 0; i < n; i++) {
        iov[i] = (struct iovec){bufs[i].base, bufs[i].len};
        want += (ssize_t)bufs[i].len;
    }
    ssize_t done = pwritev(fd, iov, (int)n, 0);
    free(iov);
    if (done != want)
        return done < 0 ? -errno : -EIO;
    return fsync(fd) == 0 ? 0 : -errno;
}

static int make_file(const struct raft_file_dir *dir, const char *name, struct raft_buffer content)
{
    char *path = raft_file_path(dir, name);
    char *temporary = mr_asprintf("%s/tmp-%s", dir->path, name);
    int rv = 0;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
    int rc = fd < 0 ? -errno : raft_file_fill(fd, &content, 1);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && access(path, F_OK) == 0)
        rc = -EEXIST;
    if (rc == 0 && rename(temporary, path) != 0)
        rc = -errno;
    if (rc != 0) {
        (void)unlink(temporary);
        rv = refuse(dir, RAFT_IOERR, name, strerror(-rc));
    } else {
        rv = raft_file_sync_dir(dir);
        if (rv != 0)
            (void)unlink(path);
    }
    free(temporary);
    free(path);
    return rv;
}

/* The content up to where there are only zeros; *size is that of the file. Owned by the caller. */
static int read_file(const struct raft_file_dir *dir, const char *name, struct raft_buffer *out, uint64_t *size)
{
    char *path = raft_file_path(dir, name);
    struct stat st;
    int fd = open(path, O_RDONLY);
    int rv = 0;
    free(path);
    if (fd < 0 || fstat(fd, &st) != 0)
        return refuse(dir, errno == ENOENT ? RAFT_NOTFOUND : RAFT_IOERR, name, strerror(errno));
    *size = (uint64_t)st.st_size;
    out->len = sim_file_data_end(fd);
    out->base = raft_malloc(out->len + 1);
    ssize_t n = pread(fd, out->base, out->len, 0);
    if (n != (ssize_t)out->len) {
        rv = refuse(dir, RAFT_IOERR, name, n < 0 ? strerror(errno) : "short read");
        raft_free(out->base);
    }
    close(fd);
    return rv;
}

/* ---- metadata ---- */

static int meta_load_one(const struct raft_file_dir *dir, const char *name, struct raft_file_meta *meta)
{
    struct raft_buffer b;
    uint64_t size;
    *meta = (struct raft_file_meta){0};
    int rv = read_file(dir, name, &b, &size);
    if (rv == RAFT_NOTFOUND)
        return 0;
    if (rv != 0)
        return rv;
    uint8_t content[META_SIZE] = {0};
    memcpy(content, b.base, b.len < META_SIZE ? b.len : META_SIZE);
    raft_free(b.base);
    if (size < META_SIZE) /* ended while it was made for the first time */
        return dir->change ? raft_file_remove(dir, name) : 0;
    if (size > META_SIZE)
        return refuse(dir, RAFT_CORRUPT, name, "too long");
    if (mr_get_le64(content) != 1)
        return refuse(dir, RAFT_MALFORMED, name, "bad format version");
    meta->version = mr_get_le64(content + 8);
    meta->term = mr_get_le64(content + 16);
    meta->vote = mr_get_le64(content + 24);
    return meta->version == 0 ? refuse(dir, RAFT_CORRUPT, name, "version is 0") : 0;
}

int raft_file_meta_load(const struct raft_file_dir *dir, struct raft_file_meta *meta)
{
    struct raft_file_meta one, two;
    int rv = meta_load_one(dir, "metadata1", &one);
    if (rv == 0)
        rv = meta_load_one(dir, "metadata2", &two);
    if (rv != 0)
        return rv;
    if (one.version == two.version && one.version != 0)
        return refuse(dir, RAFT_CORRUPT, "metadata", "both files have the same version");
    *meta = one.version > two.version ? one : two;
    return 0;
}

int raft_file_meta_store(const struct raft_file_dir *dir, const struct raft_file_meta *meta)
{
    uint8_t content[META_SIZE];
    const char *name = meta->version % 2 == 1 ? "metadata1" : "metadata2";
    char *path = raft_file_path(dir, name);
    mr_put_le64(content, 1);
    mr_put_le64(content + 8, meta->version);
    mr_put_le64(content + 16, meta->term);
    mr_put_le64(content + 24, meta->vote);
    int fd = open(path, O_WRONLY);
    bool made = fd < 0 && errno == ENOENT;
    if (made)
        fd = open(path, O_WRONLY | O_CREAT, 0600);
    free(path);
    if (fd < 0)
        return refuse(dir, RAFT_IOERR, name, strerror(errno));
    ssize_t n = pwrite(fd, content, sizeof(content), 0);
    int rc = n < 0 ? -errno : n != META_SIZE ? -EIO : 0;
    if (rc == 0 && (made ? fsync(fd) : fdatasync(fd)) != 0)
        rc = -errno;
    close(fd);
    if (rc != 0)
        return refuse(dir, RAFT_IOERR, name, strerror(-rc));
    return made ? raft_file_sync_dir(dir) : 0;
}

/* ---- snapshots ---- */

void raft_file_snapshot_name(char *out, const struct raft_file_snapshot *s, bool meta)
{
    (void)snprintf(out, RAFT_FILE_NAME, "snapshot-%" PRIu64 "-%" PRIu64 "-%" PRIu64 "%s", s->term, s->index, s->stamp,
                   meta ? ".meta" : "");
}

int raft_file_snapshot_meta(const struct raft_snapshot *s, struct raft_buffer *out)
{
    struct raft_buffer conf;
    int rv = raft_configuration_encode(&s->configuration, &conf);
    if (rv != 0)
        return rv;
    uint8_t *b = mr_malloc(SNAPSHOT_META_HEAD + conf.len);
    mr_put_le64(b, 1);
    mr_put_le64(b + 16, s->configuration_index);
    mr_put_le64(b + 24, conf.len);
    memcpy(b + SNAPSHOT_META_HEAD, conf.base, conf.len);
    mr_put_le64(b + 8, crc_add(0, b + 16, 16 + conf.len));
    *out = (struct raft_buffer){b, SNAPSHOT_META_HEAD + conf.len};
    raft_free(conf.base);
    return 0;
}

static int snapshot_meta_load(const struct raft_file_dir *dir, const char *name, struct raft_snapshot *out)
{
    struct raft_buffer b;
    uint64_t size;
    int rv = read_file(dir, name, &b, &size);
    if (rv != 0)
        return rv;
    const uint8_t *at = b.base;
    struct raft_buffer conf = {(uint8_t *)b.base + SNAPSHOT_META_HEAD, 0};
    if (b.len < SNAPSHOT_META_HEAD)
        rv = refuse(dir, RAFT_IOERR, name, "short read");
    else if (mr_get_le64(at) != 1)
        rv = refuse(dir, RAFT_MALFORMED, name, "unsupported format");
    else
        conf.len = (size_t)mr_get_le64(at + 24);
    if (rv == 0 && (conf.len > MAX_CONFIGURATION || conf.len == 0))
        rv = refuse(dir, RAFT_CORRUPT, name, "size of the configuration");
    if (rv == 0 && conf.len > b.len - SNAPSHOT_META_HEAD)
        rv = refuse(dir, RAFT_IOERR, name, "short read");
    if (rv == 0 && (uint32_t)mr_get_le64(at + 8) != crc_add(0, at + 16, 16 + conf.len))
        rv = refuse(dir, RAFT_CORRUPT, name, "checksum mismatch");
    if (rv == 0) {
        out->configuration_index = mr_get_le64(at + 16);
        raft_configuration_init(&out->configuration);
        rv = raft_configuration_decode(&conf, &out->configuration);
    }
    raft_free(b.base);
    return rv;
}

int raft_file_snapshot_load(const struct raft_file_dir *dir, const struct raft_file_snapshot *which,
                            struct raft_snapshot *out)
{
    char name[RAFT_FILE_NAME];
    struct raft_buffer data;
    uint64_t size;
    raft_file_snapshot_name(name, which, true);
    int rv = snapshot_meta_load(dir, name, out);
    if (rv != 0)
        return rv;
    raft_file_snapshot_name(name, which, false);
    rv = read_file(dir, name, &data, &size);
    if (rv != 0) {
        raft_configuration_close(&out->configuration);
        return rv;
    }
    /* What is behind the data's end are zeros of the file. */
    data.base = raft_realloc(data.base, (size_t)size + 1);
    memset((uint8_t *)data.base + data.len, 0, (size_t)size - data.len);
    data.len = (size_t)size;
    out->index = which->index;
    out->term = which->term;
    out->bufs = raft_malloc(sizeof(*out->bufs));
    out->bufs[0] = data;
    out->n_bufs = 1;
    return 0;
}

/* ---- segments ---- */

void raft_file_closed_name(char *out, uint64_t first, uint64_t last)
{
    (void)snprintf(out, RAFT_FILE_NAME, "%016" PRIu64 "-%016" PRIu64, first, last);
}

int raft_file_make_closed(const struct raft_file_dir *dir, uint64_t first, uint64_t last,
                          const struct raft_entry *entries, unsigned n)
{
    char name[RAFT_FILE_NAME];
    struct raft_buffer b = {.len = RAFT_FILE_HEAD + raft_file_batch_size(entries, n)};
    b.base = mr_malloc(b.len);
    mr_put_le64(b.base, 1);
    raft_file_batch_encode((uint8_t *)b.base + RAFT_FILE_HEAD, entries, n);
    raft_file_closed_name(name, first, last);
    int rv = make_file(dir, name, b);
    free(b.base);
    return rv;
}

/* A segment while it is read: behind the data there are zeros up to size. */
struct content {
    const uint8_t *data;
    size_t len;
    uint64_t size;
    uint64_t at;
};

/* len bytes from there, which may reach into the zeros; owned by the caller. */
static uint8_t *piece(const struct content *c, uint64_t from, uint64_t len)
{
    uint8_t *out = raft_calloc(1, len + 1);
    if (from < c->len)
        memcpy(out, c->data + from, len < c->len - from ? len : c->len - from);
    return out;
}

static bool zeros_from(const struct content *c, uint64_t from)
{
    for (uint64_t i = from; i < c->len; i++)
        if (c->data[i] != 0)
            return false;
    return true;
}

static int add_entries(struct raft_file_log *log, const uint8_t *head, unsigned n, uint8_t *data)
{
    log->entries = raft_realloc(log->entries, (log->n + n) * sizeof(*log->entries));
    uint8_t *at = data;
    for (unsigned i = 0; i < n; i++) {
        uint8_t type = head[8 + (size_t)i * 16 + 8];
        struct raft_entry *e = &log->entries[log->n + i];
        *e = (struct raft_entry){.term = mr_get_le64(head + 8 + (size_t)i * 16),
                                 .type = (enum raft_entry_type)type,
                                 .buf = {at, (size_t)mr_get_le32(head + 8 + (size_t)i * 16 + 12)},
                                 .batch = data};
        if (type != RAFT_COMMAND && type != RAFT_BARRIER && type != RAFT_CHANGE)
            return RAFT_MALFORMED;
        at += e->buf.len;
    }
    log->n += n;
    return 0;
}

/* One batch; c->at moves only with success. */
static int load_batch(const struct raft_file_dir *dir, const char *name, struct content *c, struct raft_file_log *log)
{
    if (c->at + 16 > c->size)
        return refuse(dir, RAFT_IOERR, name, "read preamble: short read");
    uint8_t *preamble = piece(c, c->at, 16);
    uint64_t n = mr_get_le64(preamble + 8);
    uint32_t head_crc = mr_get_le32(preamble), data_crc = mr_get_le32(preamble + 4);
    raft_free(preamble);
    if (n == 0 || n > (8 << 20) / 32)
        return refuse(dir, RAFT_CORRUPT, name, "count of entries in a preamble");
    uint64_t head_len = 8 + 16 * n, len = 0;
    if (c->at + 8 + head_len > c->size)
        return refuse(dir, RAFT_IOERR, name, "read header: short read");
    uint8_t *head = piece(c, c->at + 8, head_len);
    int rv = crc_add(0, head, head_len) == head_crc ? 0 : refuse(dir, RAFT_CORRUPT, name, "header checksum mismatch");
    for (uint64_t i = 0; i < n && rv == 0; i++)
        len += mr_get_le32(head + 8 + i * 16 + 12);
    if (rv == 0 && c->at + 8 + head_len + len > c->size)
        rv = refuse(dir, RAFT_IOERR, name, "read data: short read");
    if (rv == 0) {
        uint8_t *data = piece(c, c->at + 8 + head_len, len);
        rv = crc_add(0, data, len) == data_crc ? 0 : refuse(dir, RAFT_CORRUPT, name, "data checksum mismatch");
        if (rv == 0)
            rv = add_entries(log, head, (unsigned)n, data);
        if (rv != 0)
            raft_free(data);
    }
    if (rv == 0)
        c->at += 8 + head_len + len;
    raft_free(head);
    return rv;
}

static int load_closed(const struct raft_file_dir *dir, const struct raft_file_segment *s, struct raft_file_log *log)
{
    char name[RAFT_FILE_NAME];
    struct raft_buffer b;
    struct content c = {.at = RAFT_FILE_HEAD};
    size_t before = log->n;
    raft_file_closed_name(name, s->first, s->last);
    int rv = read_file(dir, name, &b, &c.size);
    if (rv != 0)
        return rv;
    c.data = b.base;
    c.len = b.len;
    if (c.size < RAFT_FILE_HEAD)
        rv = refuse(dir, c.size == 0 ? RAFT_CORRUPT : RAFT_IOERR, name, "no header");
    else if (b.len < RAFT_FILE_HEAD || mr_get_le64(b.base) != 1)
        rv = refuse(dir, RAFT_CORRUPT, name, "unexpected format version");
    while (rv == 0 && c.at != c.size)
        rv = load_batch(dir, name, &c, log);
    if (rv == 0 && log->n - before != s->last - s->first + 1)
        rv = refuse(dir, RAFT_CORRUPT, name, "number of entries");
    raft_free(b.base);
    return rv;
}

/* Closes it under its right name at *end, or removes it when nothing is in it. */
static int finish_open(const struct raft_file_dir *dir, const char *name, uint64_t end, uint64_t first, uint64_t last)
{
    char closed[RAFT_FILE_NAME];
    if (!dir->change)
        return 0;
    if (last < first)
        return raft_file_remove(dir, name);
    raft_file_closed_name(closed, first, last);
    char *from = raft_file_path(dir, name), *to = raft_file_path(dir, closed);
    int fd = open(from, O_RDWR);
    bool done = fd >= 0 && ftruncate(fd, (off_t)end) == 0 && fsync(fd) == 0 && rename(from, to) == 0;
    int rv = done ? 0 : refuse(dir, RAFT_IOERR, name, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(to);
    free(from);
    return rv;
}

static int load_open(const struct raft_file_dir *dir, const struct raft_file_segment *s, struct raft_file_log *log)
{
    char name[RAFT_FILE_NAME];
    struct raft_buffer b;
    struct content c = {.at = RAFT_FILE_HEAD};
    uint64_t first = log->start + log->n;
    (void)snprintf(name, sizeof(name), "open-%" PRIu64, s->counter);
    int rv = read_file(dir, name, &b, &c.size);
    if (rv != 0)
        return rv;
    c.data = b.base;
    c.len = b.len;
    uint8_t *format = piece(&c, 0, RAFT_FILE_HEAD);
    bool unused = c.size == 0 || (mr_get_le64(format) == 0 && zeros_from(&c, RAFT_FILE_HEAD));
    if (!unused && mr_get_le64(format) != 1)
        rv = refuse(dir, RAFT_CORRUPT, name, "unexpected format version");
    while (rv == 0 && !unused && c.at != c.size)
        rv = load_batch(dir, name, &c, log);
    if (rv == RAFT_CORRUPT && mr_get_le64(format) == 1)
        rv = 0; /* a batch that was not finished, as raft_uv sees it, whatever is behind */
    raft_free(format);
    raft_free(b.base);
    return rv != 0 ? rv : finish_open(dir, name, c.at, first, log->start + log->n - 1);
}

int raft_file_segment_load(const struct raft_file_dir *dir, const struct raft_file_segment *s,
                           struct raft_file_log *log)
{
    return s->open ? load_open(dir, s, log) : load_closed(dir, s, log);
}
