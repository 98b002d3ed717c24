/* ballast.c - see ballast.h.
 *
 * Building: tick -> allocate BALLAST_STEP -> the file's size says so. Giving back: truncate to nothing: one call, which
 * needs no room itself on file systems that write in place. Failure: a ballast that cannot be opened, built or given
 * back is logged once and tried again; the node does without. A crash leaves what the file's size says (B2). */
#include "cluster/ballast.h"

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct ballast {
    const struct mr_fileio *io;
    char *dir;
    char *path;
    pthread_mutex_t mutex; /* all below */
    int fd;                /* -1: not open yet */
    uint64_t bytes;        /* whole */
    uint64_t have;
    uint64_t available;
    bool full;
    bool writes; /* the file system does not allocate */
    int said;    /* the error that was logged last, to say it once */
};

static bool no_space(int rc)
{
    return rc == -ENOSPC || rc == -EDQUOT;
}

static void say_error(struct ballast *b, const char *what, int rc)
{
    if (rc == b->said)
        return;
    b->said = rc;
    log_event(LOG_WARN, "ballast_error", LOG_S("file", b->path), LOG_S("doing", what), LOG_S("error", strerror(-rc)));
}

static void open_ballast(struct ballast *b)
{
    int fd = b->io->open_file(b->io, b->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int rc = fd < 0 ? fd : b->io->file_size(b->io, fd, &b->have);

    if (rc == 0) {
        b->fd = fd;
        return;
    }
    if (fd >= 0)
        (void)b->io->close_file(b->io, fd);
    b->have = 0;
    say_error(b, "open", rc);
}

static void look(struct ballast *b)
{
    uint64_t total = 0;
    int rc = b->io->free_space(b->io, b->dir, &b->available, &total);

    if (rc < 0) {
        say_error(b, "look at the free space", rc);
        b->available = UINT64_MAX; /* who does not know gives nothing away and builds nothing */
        return;
    }
    if (b->bytes != 0)
        return;
    b->bytes = total / BALLAST_PART;
    if (b->bytes < BALLAST_LEAST)
        b->bytes = BALLAST_LEAST;
    if (b->bytes > BALLAST_MOST)
        b->bytes = BALLAST_MOST;
    if (b->bytes > total / BALLAST_SMALL_PART)
        b->bytes = total / BALLAST_SMALL_PART;
    b->bytes &= ~(uint64_t)4095;
}

static bool release(struct ballast *b)
{
    if (!b->full) {
        b->full = true;
        log_event(LOG_ERROR, "disk_full", LOG_S("dir", b->dir), LOG_N("free", b->available), LOG_N("ballast", b->have));
    }
    if (b->fd < 0 || b->have == 0)
        return false;
    int rc = b->io->truncate_file(b->io, b->fd, 0);
    if (rc < 0) {
        say_error(b, "give it back", rc);
        return false;
    }
    b->have = 0;
    return true;
}

bool ballast_release(struct ballast *b)
{
    pthread_mutex_lock(&b->mutex);
    bool done = release(b);
    pthread_mutex_unlock(&b->mutex);
    return done;
}

/* What a file system that compresses or shares would store in no room at all is no ballast. */
static void fill(uint8_t *data, size_t len, uint64_t seed)
{
    for (size_t i = 0; i < len; i += 8) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        memcpy(data + i, &seed, 8);
    }
}

static int write_step(struct ballast *b, uint64_t len)
{
    uint8_t *data = mr_malloc(len);
    struct iovec iov = {.iov_base = data, .iov_len = len};

    fill(data, len, b->have + 1);
    int rc = mr_fileio_write_full(b->io, b->fd, &iov, 1, b->have);
    free(data);
    return rc;
}

static void build(struct ballast *b)
{
    uint64_t most = b->writes ? BALLAST_WRITE_STEP : BALLAST_STEP;
    uint64_t len = b->bytes - b->have < most ? b->bytes - b->have : most;
    int rc;

    if (b->fd < 0)
        open_ballast(b);
    if (b->fd < 0 || b->have >= b->bytes)
        return;
    if (b->writes) {
        rc = write_step(b, len);
    } else {
        rc = b->io->allocate(b->io, b->fd, b->have, len);
        if (rc < 0 && !no_space(rc)) {
            b->writes = true;
            return;
        }
        if (rc == 0)
            rc = b->io->truncate_file(b->io, b->fd, b->have + len);
    }
    if (rc < 0) {
        (void)b->io->truncate_file(b->io, b->fd, b->have); /* what was begun */
        say_error(b, "build it", rc);
        return;
    }
    b->have += len;
    b->said = 0;
    if (b->have == b->bytes && b->full) {
        b->full = false;
        log_event(LOG_INFO, "disk_full_ended", LOG_S("dir", b->dir), LOG_N("ballast", b->have));
    }
}

void ballast_tick(struct ballast *b, uint64_t reserve, bool pressed)
{
    pthread_mutex_lock(&b->mutex);
    look(b);
    uint64_t missing = b->bytes > b->have ? b->bytes - b->have : 0;
    if (b->available < BALLAST_FULL || pressed)
        (void)release(b);
    else if (missing > 0 && b->available != UINT64_MAX && b->available >= reserve + missing)
        build(b);
    pthread_mutex_unlock(&b->mutex);
}

void ballast_state(struct ballast *b, struct ballast_state *out)
{
    pthread_mutex_lock(&b->mutex);
    *out = (struct ballast_state){.bytes = b->have,
                                  .missing = b->bytes > b->have ? b->bytes - b->have : 0,
                                  .available = b->available,
                                  .full = b->full};
    pthread_mutex_unlock(&b->mutex);
}

uint64_t ballast_missing(struct ballast *b)
{
    struct ballast_state s;

    ballast_state(b, &s);
    return s.missing;
}

struct ballast *ballast_open(const struct ballast_config *config)
{
    struct ballast *b = mr_calloc(1, sizeof(*b));

    b->io = config->io != NULL ? config->io : &mr_fileio_real;
    b->dir = mr_strdup(config->dir);
    b->path = mr_asprintf("%s/ballast", config->dir);
    b->bytes = config->bytes;
    b->fd = -1;
    mr_assert(pthread_mutex_init(&b->mutex, NULL) == 0);
    pthread_mutex_lock(&b->mutex);
    look(b);
    open_ballast(b);
    if (b->available < BALLAST_FULL)
        (void)release(b);
    pthread_mutex_unlock(&b->mutex);
    return b;
}

void ballast_close(struct ballast *b)
{
    if (b->fd >= 0)
        (void)b->io->close_file(b->io, b->fd);
    pthread_mutex_destroy(&b->mutex);
    free(b->path);
    free(b->dir);
    free(b);
}
