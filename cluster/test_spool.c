/* The spool through its interface: sizes, restart, order, drop, unlink, compaction, close. Faults: test_spool_faults.c.
 */
#include "cluster/spool.h"
#include "cluster/test_spool_util.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

static void sizes_survive_a_restart(void **state)
{
    static const size_t sizes[] = {0,       1,    7,      8,       9,       87,     88,     89,
                                   4095,    4096, 10240,  262143,  262144,  262145, 524288, 1000000,
                                   3 << 20, 5,    786432, 1048583, 2097152, 63,     64,     65};
    enum { N = sizeof(sizes) / sizeof(sizes[0]) };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    spool_test_open(t, 0);
    for (int i = 0; i < N; i++) {
        ids[i] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[i], sizes[i]), 0);
    }
    for (int life = 0; life < 3; life++) {
        for (int i = 0; i < N; i++) {
            struct spool_info info;
            assert_true(spool_has(t->sp, ids[i], &info));
            assert_int_equal(info.length, sizes[i]);
            assert_int_equal(info.stamp_ms, SPOOL_TEST_STAMP);
            assert_int_equal(info.pieces, sizes[i] == 0 ? 1 : (sizes[i] + SPOOL_MAX_PIECE - 1) / SPOOL_MAX_PIECE);
            assert_int_equal(spool_test_check(t, ids[i], sizes[i]), 0);
        }
        struct spool_stats stats;
        spool_stats(t->sp, &stats);
        assert_int_equal(stats.bodies, N);
        assert_int_equal(stats.dead_bytes, 0);
        spool_test_close(t);
        spool_test_open(t, 0);
    }
}

static void thousands_over_many_segments(void **state)
{
    enum { N = 5000 };
    struct spool_test *t = *state;
    struct mr_id *ids = mr_malloc(N * sizeof(*ids));
    spool_test_open(t, 256 * 1024);
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, N, 700, 64);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, N);
    assert_true(stats.segments > 10);
    assert_true(stats.fsyncs < N + 50 * stats.segments);
    spool_test_close(t);
    spool_test_open(t, 256 * 1024);
    for (int i = 0; i < N; i++)
        assert_int_equal(spool_test_check(t, ids[i], 700 + (size_t)i % 64), 0);
    free(ids);
}

static void list_names_each_body_once(void **state)
{
    enum { N = 3000, MAX = 7 };
    struct spool_test *t = *state;
    struct mr_id *ids = mr_malloc(N * sizeof(*ids));
    uint8_t *seen = mr_calloc(N, 1);
    spool_test_open(t, 0);
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, N / 2, 30, 64);
    struct spool_entry entries[MAX];
    uint64_t cursor = 0;
    size_t listed = 0, added = N / 2;
    do {
        size_t n = spool_list(t->sp, &cursor, entries, MAX);
        for (size_t k = 0; k < n; k++)
            for (size_t i = 0; i < N; i++)
                if (mr_id_equal(ids[i], entries[k].id)) {
                    assert_int_equal(seen[i], 0);
                    seen[i] = 1;
                    assert_true(entries[k].complete);
                    assert_int_equal(entries[k].stamp_ms, SPOOL_TEST_STAMP);
                }
        listed += n;
        if (added < N) { /* the table grows under the walk */
            spool_test_put_many(t, ids + added, 10, 30, 10);
            added += 10;
        }
    } while (cursor != 0);
    assert_true(listed >= N / 2);
    for (size_t i = 0; i < N / 2; i++)
        assert_int_equal(seen[i], 1);
    free(ids);
    free(seen);
}

static void a_second_put_exists(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, id, 1000), 0);
    assert_int_equal(spool_test_put(t, id, 1000), MR_EXISTS);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.pieces_written, 1);
    assert_int_equal(spool_test_check(t, id, 1000), 0);
}

static void mistakes_of_the_caller(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    static uint8_t data[SPOOL_MAX_PIECE + 1];
    struct spool_test_put p = {.req.piece = {.id = id, .data = data, .len = sizeof(data)}};
    spool_test_open(t, 0);
    assert_int_equal(spool_put(t->sp, &p.req), MR_LIMIT);
    p.req.piece.len = 10;
    p.req.piece.piece = SPOOL_MAX_PIECES;
    assert_int_equal(spool_put(t->sp, &p.req), MR_LIMIT);
    assert_int_equal(spool_test_piece(t, id, 1, false, data, 10, 0, NULL), MR_INVAL);
    assert_int_equal(spool_test_piece(t, id, 0, false, data, 10, 0, NULL), 0);
    assert_int_equal(spool_test_piece(t, id, 2, false, data, 10, 0, NULL), MR_INVAL);
    uint8_t sum[16] = {0};
    assert_int_equal(spool_test_piece(t, id, 1, true, data, 10, 20, sum), MR_CHECKSUM);
    assert_false(spool_has(t->sp, id, NULL));
    spool_test_sum(data, 10, sum);
    assert_int_equal(spool_test_piece(t, id, 0, true, data, 10, 11, sum), MR_INVAL);
    assert_int_equal(spool_test_piece(t, id, 0, true, data, 10, 10, sum), 0);
    assert_true(spool_has(t->sp, id, NULL));
    uint8_t *got;
    size_t len;
    bool last;
    assert_int_equal(spool_test_get(t, id, 1, &got, &len, &last), MR_NOTFOUND);
    assert_int_equal(spool_test_get(t, mr_id_at(2), 0, &got, &len, &last), MR_NOTFOUND);
}

static bool listed(struct spool_test *t, struct mr_id id, bool *complete)
{
    struct spool_entry e[16];
    uint64_t cursor = 0;
    bool found = false;
    do {
        size_t n = spool_list(t->sp, &cursor, e, 16);
        for (size_t i = 0; i < n; i++)
            if (mr_id_equal(e[i].id, id)) {
                found = true;
                *complete = e[i].complete;
            }
    } while (cursor != 0);
    return found;
}

static void incomplete_bodies(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1), other = mr_id_at(2);
    static const uint8_t data[1000] = {1};
    bool complete;
    spool_test_open(t, 0);
    assert_int_equal(spool_test_piece(t, id, 0, false, data, sizeof(data), 0, NULL), 0);
    assert_int_equal(spool_test_piece(t, other, 0, false, data, sizeof(data), 0, NULL), 0);
    assert_false(spool_has(t->sp, id, NULL));
    assert_true(listed(t, id, &complete) && !complete);
    spool_abort(t->sp, other);
    assert_false(listed(t, other, &complete));
    spool_test_close(t);
    spool_test_open(t, 0);
    assert_true(listed(t, id, &complete) && !complete);
    assert_true(listed(t, other, &complete) && !complete); /* nothing on disk says that it was given up */
    assert_int_equal(spool_test_piece(t, id, 1, false, data, sizeof(data), 0, NULL), MR_INVAL);
    assert_int_equal(spool_test_put(t, id, 600000), 0); /* from piece 0: replaces it */
    assert_true(listed(t, id, &complete) && complete);
    spool_drop(t->sp, other);
    assert_false(listed(t, other, &complete));
    assert_int_equal(spool_test_check(t, id, 600000), 0);
    spool_test_close(t);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_check(t, id, 600000), 0);
}

static void abort_and_replace_in_flight(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    struct spool_test_put a, b;
    static const uint8_t data[100] = {3};
    uint8_t sum[16];
    spool_test_sum(data, sizeof(data), sum);
    spool_test_open(t, 0);
    spool_test_begin(t, &a, id, 0, false, data, sizeof(data), 0, NULL);
    spool_abort(t->sp, id);
    spool_test_begin(t, &b, id, 0, true, data, sizeof(data), sizeof(data), sum);
    spool_test_wait(t, &b);
    assert_int_equal(a.status, MR_CANCELLED);
    assert_int_equal(b.status, 0);
    spool_drop(t->sp, id);
    assert_false(spool_has(t->sp, id, NULL));
    /* Two puts of one piece, the second begun before the first was durable: both end well, one body stays. */
    spool_test_begin(t, &a, id, 0, true, data, sizeof(data), sizeof(data), sum);
    spool_test_begin(t, &b, id, 0, true, data, sizeof(data), sizeof(data), sum);
    spool_test_wait(t, &b);
    assert_int_equal(a.status, 0);
    assert_int_equal(b.status, 0);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, 1);
    assert_int_equal(stats.dead_bytes, 3 * (88 + 104)); /* the aborted, the dropped and the replaced one */
}

static void dead_segments_are_unlinked(void **state)
{
    enum { N = 400 };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    spool_test_open(t, 64 * 1024);
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, N, 2000, 16);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_true(stats.segments > 8);
    for (int i = 0; i < N - 1; i++)
        spool_drop(t->sp, ids[i]);
    spool_test_until_files(t, 1, 2);
    assert_int_equal(spool_test_check(t, ids[N - 1], 2000 + (N - 1) % 16), 0);
    for (int i = 0; i < N - 1; i++)
        assert_false(spool_has(t->sp, ids[i], NULL));
    spool_test_close(t);
    spool_test_open(t, 64 * 1024);
    assert_int_equal(spool_test_check(t, ids[N - 1], 2000 + (N - 1) % 16), 0);
}

static void mostly_dead_segments_are_compacted(void **state)
{
    enum { N = 600, KEEP = 10, BIG = 3 };
    struct spool_test *t = *state;
    struct mr_id ids[N], big[BIG];
    spool_test_open(t, 128 * 1024);
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    for (int i = 0; i < BIG; i++) {
        big[i] = mr_id_at(1);
        spool_test_put_many(t, ids + i * (N / BIG), N / BIG, 1500, 8);
        assert_int_equal(spool_test_put(t, big[i], 300000), 0);
    }
    for (int i = 0; i < N; i++)
        if (i % KEEP != 0)
            spool_drop(t->sp, ids[i]);
    struct spool_stats stats;
    do { /* until no sealed segment is worth it: at most a quarter dead remains dead three times over */
        spool_test_turn(t);
        spool_stats(t->sp, &stats);
    } while (stats.compactions < 3 || stats.dead_bytes > 3 * stats.bytes + 2 * 128 * 1024);
    for (int life = 0; life < 2; life++) {
        for (int i = 0; i < N; i += KEEP)
            assert_int_equal(spool_test_check(t, ids[i], 1500 + (size_t)(i % (N / BIG)) % 8), 0);
        for (int i = 0; i < BIG; i++)
            assert_int_equal(spool_test_check(t, big[i], 300000), 0);
        spool_test_close(t);
        spool_test_open(t, 128 * 1024);
    }
}

static void reads_hold_their_segment(void **state)
{
    enum { N = 60 };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    struct spool_test_get gets[N];
    spool_test_open(t, 32 * 1024);
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, N, 3000, 1);
    for (int i = 0; i < N; i++) {
        spool_test_get_begin(t, &gets[i], ids[i], 0);
        spool_drop(t->sp, ids[i]);
    }
    for (int i = 0; i < N; i++) {
        spool_test_get_wait(t, &gets[i]);
        assert_int_equal(gets[i].status, 0);
        assert_true(spool_test_is(ids[i], 0, gets[i].data, gets[i].len));
        free(gets[i].data);
    }
    spool_test_until_files(t, 0, 1);
}

static bool read_at_once(struct spool_test *t, struct mr_id id, size_t size)
{
    size_t len = 0;
    uint8_t *data = spool_read_now(t->sp, id, &len);
    if (data == NULL)
        return false;
    assert_int_equal(len, size);
    assert_true(spool_test_is(id, 0, data, len));
    free(data);
    return true;
}

static void read_and_forget(struct spool_test *t, struct mr_id id)
{
    struct spool_test_get get;
    spool_test_get_begin(t, &get, id, 0);
    spool_test_get_wait(t, &get);
    assert_int_equal(get.status, 0);
    free(get.data);
}

static unsigned descriptors(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d != NULL && readdir(d) != NULL)
        n++;
    if (d != NULL)
        (void)closedir(d);
    return n;
}

/* Of what a thread has read, in the segments that were read last. */
static void what_is_in_memory_is_read_at_once(void **state)
{
    enum { N = 400, SIZE = 3000, A_SEGMENT = 10, MOST = 16, OTHERS = 4 }; /* others: who writes, and fills spares */
    struct spool_test *t = *state;
    struct mr_id ids[N];
    char byte;
    struct iovec one = {&byte, 1};
    spool_test_open(t, 32 * 1024);
    unsigned before = descriptors();
    for (int i = 0; i < N; i++)
        ids[i] = mr_id_at(1);
    spool_test_put_many(t, ids, N, SIZE, 1);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    bool offered = preadv2(fd, &one, 1, 0, RWF_NOWAIT) == 1;
    (void)close(fd);
    assert_false(read_at_once(t, ids[0], SIZE)); /* nobody has opened it */
    for (int i = 0; i < N; i++)
        read_and_forget(t, ids[i]);
    assert_true(descriptors() <= before + MOST + OTHERS);
    if (offered) {
        int hits = 0;
        for (int i = 0; i < N; i++)
            hits += read_at_once(t, ids[i], SIZE);
        assert_true(read_at_once(t, ids[N - 1], SIZE));
        assert_true(hits >= A_SEGMENT && hits <= MOST * (A_SEGMENT + 1));
    }
    for (int i = 0; i < N; i++) {
        spool_drop(t->sp, ids[i]);
        assert_false(read_at_once(t, ids[i], SIZE));
    }
    spool_test_until_files(t, 0, 1);
    assert_true(descriptors() <= before + 1 + OTHERS); /* one: of the segment that is written */
}

static void close_with_requests_pending(void **state)
{
    enum { N = 200 };
    struct spool_test *t = *state;
    struct mr_id ids[N], first = mr_id_at(1);
    struct spool_test_put puts[N];
    struct spool_test_get gets[10];
    uint8_t *data = mr_malloc(5000);
    memset(data, 5, 5000);
    uint8_t sum[16];
    spool_test_sum(data, 5000, sum);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, first, 9000), 0);
    for (int i = 0; i < N; i++) {
        ids[i] = mr_id_at(1);
        spool_test_begin(t, &puts[i], ids[i], 0, true, data, 5000, 5000, sum);
    }
    for (int i = 0; i < 10; i++)
        spool_test_get_begin(t, &gets[i], first, 0);
    struct spool *sp = t->sp;
    spool_test_close_begin(t);
    struct spool_test_put late = {.req.piece = {.id = first, .data = data, .len = 1}};
    assert_int_equal(spool_put(sp, &late.req), MR_CLOSED);
    spool_test_close_wait(t);
    for (int i = 0; i < N; i++)
        assert_true(puts[i].done && puts[i].status == 0);
    for (int i = 0; i < 10; i++) {
        assert_true(gets[i].done && gets[i].status == 0);
        free(gets[i].data);
    }
    free(data);
    spool_test_open(t, 0);
    for (int i = 0; i < N; i++)
        assert_true(spool_has(t->sp, ids[i], NULL));
}

static void close_during_compaction(void **state)
{
    enum { N = 300 };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    for (int turns = 0; turns < 6; turns++) {
        spool_test_open(t, 64 * 1024);
        for (int i = 0; i < N; i++)
            ids[i] = mr_id_at(1);
        spool_test_put_many(t, ids, N, 1000, 1);
        for (int i = 0; i < N; i++)
            if (i % 7 != 0)
                spool_drop(t->sp, ids[i]);
        for (int i = 0; i < turns; i++)
            spool_test_turn(t);
        spool_test_close(t);
        spool_test_open(t, 64 * 1024);
        for (int i = 0; i < N; i += 7)
            assert_int_equal(spool_test_check(t, ids[i], 1000), 0);
        spool_test_close(t);
    }
}

static void reserve_refuses_before_writing(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    spool_test_open(t, 0);
    spool_test_close(t);
    t->reserve = UINT64_MAX / 2;
    spool_test_open(t, 0);
    assert_true(spool_low(t->sp));
    assert_int_equal(spool_test_put(t, id, 1000), MR_NOSPACE);
    assert_false(spool_has(t->sp, id, NULL));
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.pieces_written, 0);
    spool_test_close(t);
    t->reserve = 1;
    spool_test_open(t, 0);
    assert_false(spool_low(t->sp));
    assert_int_equal(spool_test_put(t, id, 1000), 0);
}

/* ---- examples of the format, kept in testdata (proto/FORMAT.md) ---- */

enum { EXAMPLE_BODIES = 18, EXAMPLE_SEGMENT = 4096 };

static struct mr_id example_id(int n)
{
    struct mr_id id;
    for (int i = 0; i < MR_ID_SIZE; i++)
        id.bytes[i] = (uint8_t)(n * 7 + i);
    return id;
}

static void copy_file(const char *from, const char *to)
{
    char buffer[2 * EXAMPLE_SEGMENT];
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    assert_true(in != NULL && out != NULL);
    size_t n = fread(buffer, 1, sizeof(buffer), in);
    assert_int_equal(fwrite(buffer, 1, n, out), n);
    assert_int_equal(fclose(in), 0);
    assert_int_equal(fclose(out), 0);
}

/* The first segment is sealed, the second is not. MAILRAFT_WRITE_EXAMPLES=1 makes them anew, for a new version of the
 * format. */
static void examples_of_version_1(void **state)
{
    static const char *const names[] = {"00000001.seg", "00000002.seg"};
    struct spool_test *t = *state;
    char inside[128], kept[64];
    if (getenv("MAILRAFT_WRITE_EXAMPLES") != NULL) {
        spool_test_open(t, EXAMPLE_SEGMENT);
        for (int i = 0; i < EXAMPLE_BODIES; i++)
            assert_int_equal(spool_test_put(t, example_id(i), 90 + (size_t)i), 0);
        spool_test_close(t);
    }
    for (int i = 0; i < 2; i++) {
        (void)snprintf(inside, sizeof(inside), "%s/%s", t->dir, names[i]);
        (void)snprintf(kept, sizeof(kept), "testdata/spool-v1-%s", names[i]);
        if (getenv("MAILRAFT_WRITE_EXAMPLES") != NULL)
            copy_file(inside, kept);
        else
            copy_file(kept, inside);
    }
    spool_test_open(t, EXAMPLE_SEGMENT);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, EXAMPLE_BODIES);
    assert_int_equal(stats.segments, 2);
    for (int i = 0; i < EXAMPLE_BODIES; i++)
        assert_int_equal(spool_test_check(t, example_id(i), 90 + (size_t)i), 0);
}

/* MAILRAFT_SPOOL_BENCH=<seconds>: puts of 10 KB with 64 in flight. */
static void benchmark(void **state)
{
    enum { IN_FLIGHT = 64, SIZE = 10240 };
    const char *text = getenv("MAILRAFT_SPOOL_BENCH");
    if (text == NULL)
        skip();
    struct spool_test *t = *state;
    struct spool_test_put puts[IN_FLIGHT];
    uint8_t *data = mr_malloc(SIZE);
    uint8_t sum[16];
    memset(data, 9, SIZE);
    spool_test_sum(data, SIZE, sum);
    spool_test_open(t, 0);
    uint64_t begin = mr_boot_ns(&mr_clock_real), count = 0;
    uint64_t end = begin + strtoull(text, NULL, 10) * MR_NS_PER_S;
    for (int i = 0; i < IN_FLIGHT; i++)
        spool_test_begin(t, &puts[i], mr_id_at(1), 0, true, data, SIZE, SIZE, sum);
    while (mr_boot_ns(&mr_clock_real) < end) {
        spool_test_turn(t);
        for (int i = 0; i < IN_FLIGHT; i++)
            if (puts[i].done) {
                assert_int_equal(puts[i].status, 0);
                spool_drop(t->sp, puts[i].req.piece.id);
                count++;
                spool_test_begin(t, &puts[i], mr_id_at(1), 0, true, data, SIZE, SIZE, sum);
            }
    }
    double seconds = (double)(mr_boot_ns(&mr_clock_real) - begin) / 1e9;
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    print_message("%.0f puts/s, %.1f MB/s, %.0f fsyncs/s\n", (double)count / seconds,
                  (double)count * SIZE / seconds / 1e6, (double)stats.fsyncs / seconds);
    spool_test_close(t);
    free(data);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    const struct CMUnitTest tests[] = {
        TEST(sizes_survive_a_restart),
        TEST(thousands_over_many_segments),
        TEST(list_names_each_body_once),
        TEST(a_second_put_exists),
        TEST(mistakes_of_the_caller),
        TEST(incomplete_bodies),
        TEST(abort_and_replace_in_flight),
        TEST(dead_segments_are_unlinked),
        TEST(mostly_dead_segments_are_compacted),
        TEST(reads_hold_their_segment),
        TEST(what_is_in_memory_is_read_at_once),
        TEST(close_with_requests_pending),
        TEST(close_during_compaction),
        TEST(reserve_refuses_before_writing),
        TEST(examples_of_version_1),
        TEST(benchmark),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
