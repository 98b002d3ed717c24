/* The watch on the log's appends (PROTOCOL.md 8.4): what is slow, what is dead, what is only full, and what does not
 * count. raft_uv is there, but its append is replaced by one that keeps what it is given. */
#include "proto/base/memory.h"
#include "proto/base/test_dies.h"
#include "raft/replica_io.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct kept {
    struct raft_io_append *req;
    raft_io_append_cb cb;
};

struct world {
    uv_loop_t loop;
    char dir[64];
    struct replica_io rio;
    struct raft raft; /* for raft_io's init, which wants to know whose it is */
    struct raft_io_append outer[4];
    struct raft_entry entry;
    unsigned appended;
};

static struct kept kept[4];
static unsigned n_kept;

static int keep_append(struct raft_io *io, struct raft_io_append *req, const struct raft_entry entries[], unsigned n,
                       raft_io_append_cb cb)
{
    (void)io;
    (void)entries;
    (void)n;
    req->cb = cb;
    kept[n_kept++] = (struct kept){req, cb};
    return 0;
}

static void nothing_sent(void *arg, uint64_t to, bool bulk, const void *head, size_t head_len,
                         const struct replica_buffer *tail, unsigned n_tail, void (*done)(void *done_arg, int status),
                         void *done_arg)
{
    (void)arg;
    (void)to;
    (void)bulk;
    (void)head;
    (void)head_len;
    (void)tail;
    (void)n_tail;
    (void)done;
    (void)done_arg;
    abort();
}

static void on_appended(struct raft_io_append *req, int status)
{
    struct world *w = req->data;

    assert_int_equal(status, 0);
    w->appended++;
}

static struct world *world_open(size_t bytes)
{
    static const struct replica_net net = {.send = nothing_sent};
    struct world *w = mr_calloc(1, sizeof(*w));
    char error[256] = "";

    n_kept = 0;
    replica_io_heap();
    assert_int_equal(uv_loop_init(&w->loop), 0);
    strcpy(w->dir, "/tmp/mailraft-replica-io-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    if (replica_io_init(&w->rio, &w->loop, w->dir, &net, error, sizeof(error)) != 0)
        fail_msg("%s", error);
    w->rio.uv.append = keep_append;
    w->rio.next_index = 1;
    w->rio.last_tick_ms = uv_now(&w->loop);
    w->entry = (struct raft_entry){.term = 1, .type = RAFT_COMMAND, .buf = {NULL, bytes}};
    for (unsigned i = 0; i < 4; i++)
        w->outer[i].data = w;
    return w;
}

static void append(struct world *w, unsigned i)
{
    assert_int_equal(w->rio.io.append(&w->rio.io, &w->outer[i], &w->entry, 1, on_appended), 0);
}

/* The disk answers the oldest. */
static void answer(unsigned i)
{
    kept[i].cb(kept[i].req, 0);
}

/* So much time passes, in turns of the loop of a tenth of a second; what the watch says at the end. */
static bool pass(struct world *w, uint64_t ms)
{
    bool slow = false;

    for (uint64_t i = 0; i < ms; i += 100) {
        w->rio.last_tick_ms -= 100;
        slow = replica_io_watch(&w->rio);
    }
    return slow;
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void closed(struct raft_io *io)
{
    (void)io;
}

static void world_close(struct world *w)
{
    w->rio.io.close(&w->rio.io, closed);
    while (uv_run(&w->loop, UV_RUN_NOWAIT) != 0)
        ;
    replica_io_free(&w->rio);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(&w->loop), 0);
    nftw(w->dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(w);
}

static void old_appends_are_slow(void **state)
{
    struct world *w = world_open(100);

    (void)state;
    assert_false(pass(w, 20000)); /* nothing waits */
    append(w, 0);
    assert_false(pass(w, 1900));
    append(w, 1);
    assert_true(pass(w, 200));
    answer(0);
    assert_false(pass(w, 100)); /* the second is younger */
    assert_true(pass(w, 2000));
    answer(1);
    assert_false(pass(w, 20000));
    assert_int_equal(w->appended, 2);
    world_close(w);
}

static void much_that_is_not_persisted_is_slow(void **state)
{
    struct world *w = world_open(REPLICA_MAX_UNPERSISTED / 2);

    (void)state;
    append(w, 0);
    append(w, 1);
    assert_false(pass(w, 100));
    append(w, 2);
    assert_true(pass(w, 100));
    answer(0);
    assert_false(pass(w, 100));
    answer(1);
    answer(2);
    world_close(w);
}

/* An hour of SIGSTOP: the answer may be there, and only unread. */
static void a_stop_of_the_process_does_not_count(void **state)
{
    struct world *w = world_open(100);

    (void)state;
    append(w, 0);
    w->rio.last_tick_ms -= 3600 * 1000;
    assert_false(replica_io_watch(&w->rio));
    assert_true(replica_io_append_age(&w->rio) <= 1000);
    answer(0);
    world_close(w);
}

static struct world *dying; /* opened by the parent, who removes its folder */

static void hang(void)
{
    append(dying, 0);
    if (!pass(dying, 9900)) /* alive and slow */
        _exit(8);
    pass(dying, 200);
}

static void fail_append(void)
{
    append(dying, 0);
    kept[0].cb(kept[0].req, RAFT_IOERR);
}

static void who_hangs_or_fails_ends_the_process(void **state)
{
    (void)state;
    dying = world_open(100);
    test_assert_dies(hang);
    test_assert_dies(fail_append);
    world_close(dying);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_appends_are_slow),
        cmocka_unit_test(much_that_is_not_persisted_is_slow),
        cmocka_unit_test(a_stop_of_the_process_does_not_count),
        cmocka_unit_test(who_hangs_or_fails_ends_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
