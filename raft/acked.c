/* acked.c - see acked.h; the record's layout is in FORMAT.md. */
#include "raft/acked.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/le.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORD_SIZE = 32, AT_VERSION = 4, AT_INDEX = 8, AT_SUM = 24, RECORD_VERSION = 1 };
#define RECORD_MAGIC 0x4b41524dU /* "MRAK" */

static bool decode(const uint8_t record[RECORD_SIZE], uint64_t *index)
{
    if (mr_get_le32(record) != RECORD_MAGIC || mr_get_le32(record + AT_VERSION) != RECORD_VERSION)
        return false;
    if (mr_get_le64(record + AT_SUM) != XXH3_64bits(record, AT_SUM))
        return false;
    *index = mr_get_le64(record + AT_INDEX);
    return true;
}

static void save(struct acked *a, bool sync)
{
    uint8_t record[RECORD_SIZE] = {0};

    mr_put_le32(record, RECORD_MAGIC);
    mr_put_le32(record + AT_VERSION, RECORD_VERSION);
    mr_put_le64(record + AT_INDEX, a->index);
    mr_put_le64(record + AT_SUM, XXH3_64bits(record, AT_SUM));
    if (pwrite(a->fd, record, sizeof(record), 0) != (ssize_t)sizeof(record) || (sync && fdatasync(a->fd) != 0)) {
        if (!a->failed)
            log_event(LOG_ERROR, "raft_acked_write_failed", LOG_S("error", strerror(errno)));
        a->failed = true;
        return;
    }
    a->failed = false;
    a->written = a->index;
}

int acked_open(struct acked *a, const char *dir, char *error, size_t error_len)
{
    uint8_t record[RECORD_SIZE];
    char *path = mr_asprintf("%s/%s", dir, ACKED_FILE);
    ssize_t n;

    *a = (struct acked){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    n = a->fd < 0 ? -1 : pread(a->fd, record, sizeof(record), 0);
    if (n < 0) {
        snprintf(error, error_len, "%s: %s", path, strerror(errno));
        acked_close(a);
        free(path);
        return MR_IO;
    }
    if (n > 0 && (n != (ssize_t)sizeof(record) || !decode(record, &a->index)))
        log_event(LOG_WARN, "raft_acked_unreadable", LOG_S("file", path));
    a->written = a->index;
    free(path);
    return MR_OK;
}

void acked_raise(struct acked *a, uint64_t index)
{
    if (index > a->index)
        a->index = index;
}

void acked_lower(struct acked *a, uint64_t index)
{
    if (index >= a->index)
        return;
    a->index = index;
    /* Synced, since after a power cut a record that is too high would keep an honest node out. Truncations of
     * acknowledged entries are rare (a change of leader), so the loop can afford it. */
    if (a->written > index)
        save(a, true);
}

void acked_flush(struct acked *a)
{
    if (a->written != a->index)
        save(a, false);
}

void acked_close(struct acked *a)
{
    if (a->fd < 0)
        return;
    acked_flush(a);
    close(a->fd);
    a->fd = -1;
}
