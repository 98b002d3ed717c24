/* snapshot_write.c - see snapshot_write.h.
 *
 * Happy path: start -> run (thread): fsm.snapshot_write -> take, again and again -> done. Blocks are mapped, not
 * allocated: some hundred megabytes that come and go would stay with the allocator. */
#include "raft/snapshot_write.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/base/side_thread.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BLOCK = 4 << 20, TURN = 256 << 10 /* bytes between two looks at the clock */ };

struct snapshot_write {
    const struct replica_fsm *fsm;
    void *held;
    struct side_thread thread;
    void (*done)(void *arg);
    void *arg;

    uv_mutex_t mutex;
    uv_cond_t wake;
    bool stop; /* mutex */

    /* The thread's until it has ended. */
    bool whole;
    uint64_t started_ns, bytes, looked; /* looked: bytes when it last looked at the clock */
    struct raft_buffer *buffers;        /* the first is the header */
    unsigned n;
};

/* ---- the thread ---- */

/* Waits until as many bytes as there are may be there. False: stop. */
static bool pace(struct snapshot_write *w)
{
    uint64_t due_ns = w->started_ns + w->bytes * 1000 / SNAPSHOT_BYTES_PER_S * 1000000;
    uint64_t now_ns = uv_hrtime();

    w->looked = w->bytes;
    uv_mutex_lock(&w->mutex);
    for (; !w->stop && now_ns < due_ns; now_ns = uv_hrtime())
        (void)uv_cond_timedwait(&w->wake, &w->mutex, due_ns - now_ns);
    bool go_on = !w->stop;
    uv_mutex_unlock(&w->mutex);
    return go_on;
}

static struct raft_buffer *block_new(struct snapshot_write *w)
{
    void *base = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED)
        mr_panic("out of memory: %d bytes of a snapshot", BLOCK);
    w->buffers = mr_realloc(w->buffers, (w->n + 1) * sizeof(*w->buffers));
    w->buffers[w->n] = (struct raft_buffer){.base = base};
    return &w->buffers[w->n++];
}

static bool take(void *arg, const void *data, size_t len)
{
    struct snapshot_write *w = arg;
    const uint8_t *at = data;

    while (len > 0) {
        struct raft_buffer *block = &w->buffers[w->n - 1];
        if (w->n == 1 || block->len == BLOCK)
            block = block_new(w);
        size_t n = BLOCK - block->len < len ? BLOCK - block->len : len;
        if (n > TURN)
            n = TURN;
        memcpy((uint8_t *)block->base + block->len, at, n);
        block->len += n;
        w->bytes += n;
        at += n;
        len -= n;
        if (w->bytes - w->looked >= TURN && !pace(w))
            return false;
    }
    return true;
}

static void run(void *arg)
{
    struct snapshot_write *w = arg;

    w->started_ns = uv_hrtime();
    w->whole = w->fsm->snapshot_write(w->fsm->arg, w->held, take, w);
}

/* ---- the loop ---- */

static void ended(void *arg)
{
    struct snapshot_write *w = arg;

    w->done(w->arg);
}

struct snapshot_write *snapshot_write_start(uv_loop_t *loop, const struct replica_fsm *fsm, void *held, void *header,
                                            size_t header_len, void (*done)(void *arg), void *arg)
{
    struct snapshot_write *w = mr_calloc(1, sizeof(*w));

    w->fsm = fsm;
    w->held = held;
    w->done = done;
    w->arg = arg;
    w->buffers = mr_calloc(1, sizeof(*w->buffers));
    w->buffers[w->n++] = (struct raft_buffer){header, header_len};
    if (uv_mutex_init(&w->mutex) != 0 || uv_cond_init(&w->wake) != 0)
        mr_panic("out of memory");
    side_thread_start(&w->thread, loop, run, ended, w);
    return w;
}

void snapshot_write_stop(struct snapshot_write *w)
{
    uv_mutex_lock(&w->mutex);
    w->stop = true;
    uv_cond_signal(&w->wake);
    uv_mutex_unlock(&w->mutex);
}

bool snapshot_write_result(struct snapshot_write *w, struct raft_buffer **buffers, unsigned *n, uint64_t *bytes)
{
    *buffers = w->buffers;
    *n = w->n;
    *bytes = w->bytes;
    return w->whole;
}

void snapshot_write_free(struct snapshot_write *w)
{
    for (unsigned i = 1; i < w->n; i++)
        (void)munmap(w->buffers[i].base, BLOCK);
    free(w->buffers);
    uv_cond_destroy(&w->wake);
    uv_mutex_destroy(&w->mutex);
    free(w);
}
