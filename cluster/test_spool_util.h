/* test_spool_util.h - a loop, a folder and a spool for the tests; each body's bytes follow from its id, so that any can
 * be checked. */
#ifndef MR_CLUSTER_TEST_SPOOL_UTIL_H
#define MR_CLUSTER_TEST_SPOOL_UTIL_H

#include "cluster/spool.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { SPOOL_TEST_STAMP = 123456789 };

struct spool_test {
    uv_loop_t loop;
    char dir[64];
    struct spool *sp;
    bool closed;
    uint64_t reserve;
    const struct mr_fileio *io;
    struct busy *disk;
};

struct spool_test_put {
    struct spool_put req;
    bool done;
    int status;
};

struct spool_test_get {
    struct spool_get req;
    bool done, last;
    int status;
    uint8_t *data;
    size_t len;
};

static inline void spool_test_clean(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL) {
        char path[512];
        (void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        (void)unlink(path);
    }
    if (d != NULL)
        (void)closedir(d);
}

static inline int spool_test_setup(void **state)
{
    struct spool_test *t = mr_calloc(1, sizeof(*t));
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(t->dir, sizeof(t->dir), "%s/spool-XXXXXX", tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
    if (mkdtemp(t->dir) == NULL || uv_loop_init(&t->loop) != 0)
        return -1;
    t->reserve = 1;
    *state = t;
    return 0;
}

static inline int spool_test_try_open(struct spool_test *t, uint64_t segment_bytes)
{
    char error[256];
    struct spool_config config = {.loop = &t->loop,
                                  .dir = t->dir,
                                  .segment_bytes = segment_bytes,
                                  .reserve_bytes = t->reserve,
                                  .io = t->io,
                                  .disk = t->disk};
    int rc = spool_open(&t->sp, &config, error, sizeof(error));
    if (rc != 0) {
        t->sp = NULL;
        print_message("spool_open: %s\n", error);
    }
    return rc;
}

static inline void spool_test_open(struct spool_test *t, uint64_t segment_bytes)
{
    assert_int_equal(spool_test_try_open(t, segment_bytes), 0);
}

static inline void spool_test_turn(struct spool_test *t)
{
    (void)uv_run(&t->loop, UV_RUN_ONCE);
}

static inline void spool_test_closed(void *arg)
{
    ((struct spool_test *)arg)->closed = true;
}

static inline void spool_test_close_begin(struct spool_test *t)
{
    t->closed = false;
    spool_close(t->sp, spool_test_closed, t);
    t->sp = NULL;
    assert_false(t->closed);
}

static inline void spool_test_close_wait(struct spool_test *t)
{
    while (!t->closed)
        spool_test_turn(t);
}

static inline void spool_test_close(struct spool_test *t)
{
    spool_test_close_begin(t);
    spool_test_close_wait(t);
}

static inline int spool_test_teardown(void **state)
{
    struct spool_test *t = *state;
    if (t->sp != NULL)
        spool_test_close(t);
    int rc = uv_run(&t->loop, UV_RUN_DEFAULT);
    if (rc == 0)
        rc = uv_loop_close(&t->loop);
    spool_test_clean(t->dir);
    (void)rmdir(t->dir);
    free(t);
    return rc;
}

static inline void spool_test_put_cb(struct spool_put *req, int status)
{
    struct spool_test_put *p = (struct spool_test_put *)req;
    assert_false(p->done);
    p->done = true;
    p->status = status;
}

static inline void spool_test_sum(const void *data, size_t len, uint8_t out[16])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(data, len));
    memcpy(out, c.digest, 16);
}

static inline void spool_test_begin(struct spool_test *t, struct spool_test_put *p, struct mr_id id, uint32_t piece,
                                    bool last, const uint8_t *data, size_t len, uint64_t length, const uint8_t *sum)
{
    memset(p, 0, sizeof(*p));
    p->req.piece = (struct spool_piece){.id = id,
                                        .piece = piece,
                                        .last = last,
                                        .stamp_ms = last ? SPOOL_TEST_STAMP : SPOOL_TEST_STAMP - 1000 + piece,
                                        .length = length,
                                        .data = data,
                                        .len = len};
    if (sum != NULL)
        memcpy(p->req.piece.checksum, sum, 16);
    p->req.cb = spool_test_put_cb;
    assert_int_equal(spool_put(t->sp, &p->req), 0);
    assert_false(p->done);
}

static inline void spool_test_wait(struct spool_test *t, const struct spool_test_put *p)
{
    while (!p->done)
        spool_test_turn(t);
}

static inline int spool_test_piece(struct spool_test *t, struct mr_id id, uint32_t piece, bool last,
                                   const uint8_t *data, size_t len, uint64_t length, const uint8_t *sum)
{
    struct spool_test_put p;
    spool_test_begin(t, &p, id, piece, last, data, len, length, sum);
    spool_test_wait(t, &p);
    return p.status;
}

/* The byte at a place of the body of this id. */
static inline uint8_t spool_test_byte(struct mr_id id, size_t at)
{
    return (uint8_t)(id.bytes[6 + at % 10] + at / 10 * 7);
}

static inline uint8_t *spool_test_body(struct mr_id id, size_t size)
{
    uint8_t *data = mr_malloc(size);
    for (size_t i = 0; i < size; i++)
        data[i] = spool_test_byte(id, i);
    return data;
}

static inline bool spool_test_is(struct mr_id id, size_t from, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i] != spool_test_byte(id, from + i))
            return false;
    return true;
}

/* A whole body, piece by piece, all in flight at once; the first status that is not 0. */
static inline int spool_test_put(struct spool_test *t, struct mr_id id, size_t size)
{
    uint8_t *data = spool_test_body(id, size);
    uint8_t sum[16];
    spool_test_sum(data, size, sum);
    size_t pieces = size == 0 ? 1 : (size + SPOOL_MAX_PIECE - 1) / SPOOL_MAX_PIECE;
    struct spool_test_put *puts = mr_calloc(pieces, sizeof(*puts));
    int status = 0;
    for (size_t i = 0; i < pieces; i++) {
        size_t from = i * SPOOL_MAX_PIECE;
        size_t len = size - from < SPOOL_MAX_PIECE ? size - from : SPOOL_MAX_PIECE;
        spool_test_begin(t, &puts[i], id, (uint32_t)i, i + 1 == pieces, data + from, len, size, sum);
    }
    for (size_t i = 0; i < pieces; i++) {
        spool_test_wait(t, &puts[i]);
        if (status == 0)
            status = puts[i].status;
    }
    free(puts);
    free(data);
    return status;
}

/* ids[i] gets size + i % spread bytes; 64 in flight. */
static inline void spool_test_put_many(struct spool_test *t, const struct mr_id *ids, size_t count, size_t size,
                                       size_t spread)
{
    enum { IN_FLIGHT = 64 };
    struct spool_test_put *puts = mr_calloc(IN_FLIGHT, sizeof(*puts));
    for (size_t from = 0; from < count; from += IN_FLIGHT) {
        size_t n = count - from < IN_FLIGHT ? count - from : IN_FLIGHT;
        for (size_t i = 0; i < n; i++) {
            size_t len = size + (from + i) % spread;
            uint8_t sum[16];
            uint8_t *data = spool_test_body(ids[from + i], len);
            spool_test_sum(data, len, sum);
            spool_test_begin(t, &puts[i], ids[from + i], 0, true, data, len, len, sum);
        }
        for (size_t i = 0; i < n; i++) {
            spool_test_wait(t, &puts[i]);
            assert_int_equal(puts[i].status, 0);
            free((void *)(uintptr_t)puts[i].req.piece.data);
        }
    }
    free(puts);
}

static inline void spool_test_get_cb(struct spool_get *req, int status, uint8_t *data, size_t len, bool last)
{
    struct spool_test_get *g = (struct spool_test_get *)req;
    assert_false(g->done);
    g->done = true;
    g->status = status;
    g->data = data;
    g->len = len;
    g->last = last;
}

static inline void spool_test_get_begin(struct spool_test *t, struct spool_test_get *g, struct mr_id id, uint32_t piece)
{
    memset(g, 0, sizeof(*g));
    g->req.id = id;
    g->req.piece = piece;
    g->req.cb = spool_test_get_cb;
    assert_int_equal(spool_get(t->sp, &g->req), 0);
    assert_false(g->done);
}

static inline void spool_test_get_wait(struct spool_test *t, const struct spool_test_get *g)
{
    while (!g->done)
        spool_test_turn(t);
}

static inline int spool_test_get(struct spool_test *t, struct mr_id id, uint32_t piece, uint8_t **data, size_t *len,
                                 bool *last)
{
    struct spool_test_get g;
    spool_test_get_begin(t, &g, id, piece);
    spool_test_get_wait(t, &g);
    *data = g.data;
    *len = g.len;
    *last = g.last;
    if (g.status != 0)
        assert_null(g.data);
    return g.status;
}

/* 0: the whole body was read and is right. A code: not there, or known to be bad. Wrong bytes fail the test. */
static inline int spool_test_check(struct spool_test *t, struct mr_id id, size_t size)
{
    size_t at = 0;
    bool last = false;
    for (uint32_t piece = 0; !last; piece++) {
        uint8_t *data;
        size_t len;
        int rc = spool_test_get(t, id, piece, &data, &len, &last);
        if (rc != 0)
            return rc;
        assert_true(at + len <= size);
        assert_true(spool_test_is(id, at, data, len));
        at += len;
        free(data);
    }
    assert_int_equal(at, size);
    return 0;
}

static inline size_t spool_test_files(const struct spool_test *t)
{
    size_t count = 0;
    DIR *d = opendir(t->dir);
    const struct dirent *e;
    while (d != NULL && (e = readdir(d)) != NULL)
        count += strstr(e->d_name, ".seg") != NULL;
    if (d != NULL)
        (void)closedir(d);
    return count;
}

static inline void spool_test_until_files(struct spool_test *t, size_t least, size_t most)
{
    for (;;) {
        size_t n = spool_test_files(t);
        if (n >= least && n <= most)
            return;
        (void)uv_run(&t->loop, UV_RUN_NOWAIT);
        (void)usleep(1000);
    }
}

#endif
