/* What was applied, written down. A trace that can no longer be written ends with a line in the log: the node goes on.
 */
#include "cluster/apply_trace.h"

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 256, HASH = 16, HASH_TEXT = 2 * HASH };

struct apply_trace {
    int fd; /* -1: given up */
    unsigned every;
    uint64_t index; /* of the last entry or snapshot */
};

static void hex(const uint8_t hash[HASH], char text[HASH_TEXT + 1])
{
    for (unsigned i = 0; i < HASH; i++)
        (void)snprintf(text + (size_t)2 * i, 3, "%02x", hash[i]);
}

/* One write a line: what a killed process leaves are whole lines. */
static void put(struct apply_trace *t, const char *line, int len)
{
    if (t->fd < 0)
        return;
    ssize_t n = write(t->fd, line, (size_t)len);
    if (n == len)
        return;
    log_event(LOG_ERROR, "apply_trace_failed", LOG_S("reason", n < 0 ? strerror(errno) : "short write"));
    (void)close(t->fd);
    t->fd = -1;
}

static void put_state(struct apply_trace *t, char kind, const struct state *s)
{
    uint8_t hash[HASH];
    char text[HASH_TEXT + 1], line[LINE];

    state_hash(s, hash);
    hex(hash, text);
    put(t, line, snprintf(line, sizeof(line), "%c %" PRIu64 " %s\n", kind, t->index, text));
}

int apply_trace_open(struct apply_trace **out, const char *file, unsigned every)
{
    char line[LINE];
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    if (fd < 0)
        return MR_IO;
    struct apply_trace *t = mr_calloc(1, sizeof(*t));
    *t = (struct apply_trace){.fd = fd, .every = every};
    put(t, line, snprintf(line, sizeof(line), "O %u\n", every));
    *out = t;
    return 0;
}

void apply_trace_close(struct apply_trace *t, const struct state *s)
{
    if (t == NULL)
        return;
    if (t->index != 0)
        put_state(t, 'S', s);
    if (t->fd >= 0)
        (void)close(t->fd);
    free(t);
}

void apply_trace_entry(struct apply_trace *t, uint64_t index, const uint8_t *data, size_t len)
{
    char text[HASH_TEXT + 1], line[LINE];
    XXH128_canonical_t hash;

    if (t == NULL)
        return;
    t->index = index;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(data, len));
    hex(hash.digest, text);
    Mailraft__Batch *batch = mailraft__batch__unpack(NULL, len, data);
    uint64_t term = batch != NULL ? batch->term : 0; /* one that does not decode stops the process after this line */
    if (batch != NULL)
        mailraft__batch__free_unpacked(batch, NULL);
    put(t, line, snprintf(line, sizeof(line), "E %" PRIu64 " %" PRIu64 " %s\n", index, term, text));
}

void apply_trace_applied(struct apply_trace *t, uint64_t index, const struct state *s)
{
    if (t != NULL && t->every != 0 && index % t->every == 0)
        put_state(t, 'S', s);
}

void apply_trace_restored(struct apply_trace *t, uint64_t index, const struct state *s)
{
    if (t == NULL)
        return;
    t->index = index;
    put_state(t, 'R', s);
}

void apply_trace_doubt(struct apply_trace *t, const char *kind, struct mr_id id, uint32_t recipient, uint32_t attempt,
                       uint32_t node)
{
    char text[MR_ID_TEXT + 1], line[LINE];

    if (t == NULL)
        return;
    put(t, line,
        snprintf(line, sizeof(line), "D %" PRIu64 " %s %s %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", t->index, kind,
                 mr_id_format(id, text), recipient, attempt, node));
}
