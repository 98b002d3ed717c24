/* The spool over damaged files: each body is read back as it was put, or reported missing or bad. */
#include "cluster/spool_format.h"
#include "cluster/test_spool_disk.h"
#include "proto/base/log.h"

#include <fcntl.h>
#include <sys/stat.h>

/* Each byte has its turn, but for gcc's thread sanitizer, which looks at threads and is slow. Odd: so that bits take
 * turns. */
#ifdef __SANITIZE_THREAD__
enum { EVERY = 5 };
#else
enum { EVERY = 1 };
#endif

static char *segment_path(const struct spool_test *t, uint32_t number)
{
    return mr_asprintf("%s/%08x.seg", t->dir, number);
}

static uint8_t *read_segment(const struct spool_test *t, uint32_t number, size_t *len)
{
    char *path = segment_path(t, number);
    int fd = open(path, O_RDONLY);
    struct stat st;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *bytes = mr_malloc((size_t)st.st_size);
    assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
    close(fd);
    free(path);
    *len = (size_t)st.st_size;
    return bytes;
}

static void write_segment(const struct spool_test *t, uint32_t number, const uint8_t *bytes, size_t len)
{
    char *path = segment_path(t, number);
    int fd = open(path, O_WRONLY | O_CREAT, 0600); /* O_TRUNC would make some file systems sync at close */
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
    free(path);
}

enum { SMALL = 6 };
static const size_t small_sizes[SMALL] = {0, 5, 96, 200, 33, 64};

/* Small bodies; number 3 in three pieces of which the second is empty. */
static void put_small(struct spool_test *t, struct mr_id ids[SMALL])
{
    for (int i = 0; i < SMALL; i++) {
        ids[i] = mr_id_at(1);
        if (i != 3) {
            assert_int_equal(spool_test_put(t, ids[i], small_sizes[i]), 0);
            continue;
        }
        uint8_t *body = spool_test_body(ids[i], 200);
        uint8_t sum[16];
        spool_test_sum(body, 200, sum);
        assert_int_equal(spool_test_piece(t, ids[i], 0, false, body, 150, 0, NULL), 0);
        assert_int_equal(spool_test_piece(t, ids[i], 1, false, body, 0, 0, NULL), 0);
        assert_int_equal(spool_test_piece(t, ids[i], 2, true, body + 150, 50, 200, sum), 0);
        free(body);
    }
}

/* Where the record of the last piece of body i ends, without its padding. */
static size_t small_end(int body)
{
    size_t at = SPOOL_HEAD, end = 0;
    for (int i = 0; i <= body; i++) {
        if (i == 3)
            at += spool_record_size(150) + spool_record_size(0);
        size_t len = i == 3 ? 50 : small_sizes[i];
        end = at + SPOOL_RECORD_HEAD + len;
        at += spool_record_size((uint32_t)len);
    }
    return end;
}

static void cut_at_every_byte(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d); /* thousands of starts: without real syncs */
    struct mr_id ids[SMALL];
    spool_test_open(t, 0);
    put_small(t, ids);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    for (size_t cut = 0; cut <= len; cut += EVERY) {
        spool_test_clean(t->dir);
        write_segment(t, 1, bytes, cut);
        spool_test_open(t, 0);
        for (int i = 0; i < SMALL; i++)
            assert_int_equal(spool_test_check(t, ids[i], small_sizes[i]), small_end(i) <= cut ? 0 : MR_NOTFOUND);
        struct mr_id more = mr_id_at(2);
        assert_int_equal(spool_test_put(t, more, 77), 0);
        spool_test_close(t);
        spool_test_open(t, 0);
        assert_int_equal(spool_test_check(t, more, 77), 0);
        for (int i = 0; i < SMALL; i++)
            assert_int_equal(spool_test_check(t, ids[i], small_sizes[i]), small_end(i) <= cut ? 0 : MR_NOTFOUND);
        spool_test_close(t);
    }
    free(bytes);
}

static void flip_each(struct spool_test *t, const struct mr_id *ids, const size_t *sizes, int count, uint32_t segment,
                      uint64_t segment_bytes)
{
    static struct bad_disk d;
    bad_disk_init(t, &d);
    size_t len;
    uint8_t *bytes = read_segment(t, segment, &len);
    for (size_t at = 0; at < len; at += EVERY) {
        uint8_t flip = (uint8_t)(1U << at % 8);
        bytes[at] ^= flip;
        write_segment(t, segment, bytes, len);
        bytes[at] ^= flip;
        spool_test_open(t, segment_bytes);
        int lost = 0;
        for (int i = 0; i < count; i++) {
            bool has = spool_has(t->sp, ids[i], NULL);
            int rc = spool_test_check(t, ids[i], sizes[i]);
            assert_int_equal(rc, has ? 0 : MR_NOTFOUND); /* the newest: every record was looked at */
            if (rc == 0)
                continue;
            lost++;
            assert_int_equal(spool_test_put(t, ids[i], sizes[i]), 0);
            assert_int_equal(spool_test_check(t, ids[i], sizes[i]), 0);
        }
        assert_true(lost <= 1);
        spool_test_close(t);
        spool_test_open(t, segment_bytes); /* the good copy is taken, not the bad one */
        for (int i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, ids[i], sizes[i]), 0);
        spool_test_close(t);
        if (lost > 0) { /* the mended copies are not to help the next turn */
            spool_test_clean(t->dir);
            write_segment(t, segment, bytes, len);
        }
    }
    free(bytes);
}

static void flip_every_byte_of_an_open_segment(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[SMALL];
    spool_test_open(t, 0);
    put_small(t, ids);
    spool_test_close(t);
    flip_each(t, ids, small_sizes, SMALL, 1, 0);
}

static void flip_every_byte_of_a_sealed_segment(void **state)
{
    enum { N = 17, SIZE = 90, SEGMENT = 4096 };
    struct spool_test *t = *state;
    struct mr_id ids[N];
    size_t sizes[N];
    int n = 0;
    spool_test_open(t, SEGMENT);
    while (spool_test_files(t) < 2) {
        assert_true(n < N);
        sizes[n] = SIZE;
        ids[n] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[n++], SIZE), 0);
    }
    spool_test_close(t);
    char *second = segment_path(t, 2);
    assert_int_equal(unlink(second), 0); /* the last one put: not this test's matter */
    free(second);
    flip_each(t, ids, sizes, n - 1, 1, SEGMENT);
}

/* A read that fails at one start only: what it was to read is neither written over nor given back meanwhile. */
static void what_a_start_could_not_read_is_kept(void **state)
{
    enum { N = 12, SIZE = 10000, BLOCK = 65536 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    struct mr_id ids[N], more = mr_id_at(1);
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    for (int i = 0; i < N; i++) {
        ids[i] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[i], SIZE), 0);
    }
    spool_test_close(t);
    atomic_store(&d.bad_offset, BLOCK);
    atomic_store(&d.bad_reads, 2); /* the first one is tried again */
    spool_test_open(t, 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(spool_has(t->sp, ids[i], NULL), (i + 1) * (SIZE + SPOOL_RECORD_HEAD) < BLOCK - SPOOL_HEAD);
        spool_drop(t->sp, ids[i]);
    }
    assert_int_equal(spool_test_put(t, more, SIZE), 0);
    spool_test_close(t);
    assert_int_equal(spool_test_files(t), 2);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_check(t, more, SIZE), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(spool_test_check(t, ids[i], SIZE), 0);
}

/* Not one record can be read: it is no segment of somebody else's for that. Its index is none that is wrong. */
static void a_start_that_can_read_nothing_keeps_all(void **state)
{
    enum { SIZE = 10000 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    struct mr_id id = mr_id_at(1), more = mr_id_at(1);
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, id, SIZE), 0);
    spool_test_close(t);
    atomic_store(&d.good_reads, 1); /* of the head */
    atomic_store(&d.bad_reads, 2);
    spool_test_open(t, 0);
    assert_int_equal(atomic_load(&d.bad_reads), 0);
    assert_false(spool_has(t->sp, id, NULL));
    assert_int_equal(spool_test_put(t, more, SIZE), 0);
    spool_test_close(t);
    assert_int_equal(spool_test_files(t), 2);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_check(t, id, SIZE), 0);
    assert_int_equal(spool_test_check(t, more, SIZE), 0);
}

static void imitated_records_are_not_taken(void **state)
{
    struct spool_test *t = *state;
    struct mr_id a = mr_id_at(1), b = mr_id_at(2), c = mr_id_at(3);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, a, 100), 0);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    spool_test_open(t, 0);
    spool_drop(t->sp, a);
    uint8_t sum[16];
    spool_test_sum(bytes, len, sum); /* a mail that holds a segment's bytes, head and all */
    assert_int_equal(spool_test_piece(t, b, 0, true, bytes, len, len, sum), 0);
    assert_int_equal(spool_test_put(t, c, 100), 0);
    spool_test_close(t);
    free(bytes);
    bytes = read_segment(t, 1, &len);
    bytes[SPOOL_HEAD + 10] ^= 1; /* a's own record */
    bytes[SPOOL_HEAD + spool_record_size(100) + SPOOL_RECORD_HEAD - 1] ^=
        1; /* b's: the scan goes through its payload */
    write_segment(t, 1, bytes, len);
    free(bytes);
    spool_test_open(t, 0);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bodies, 1);
    assert_int_equal(spool_test_check(t, c, 100), 0);
}

static void unreadable_segments_are_put_aside(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, id, 100), 0);
    spool_test_close(t);
    size_t len;
    uint8_t *bytes = read_segment(t, 1, &len);
    bytes[20] ^= 1; /* the salt, in both copies */
    bytes[SPOOL_HEAD_COPY + 20] ^= 1;
    write_segment(t, 1, bytes, len);
    free(bytes);
    spool_test_open(t, 0);
    assert_false(spool_has(t->sp, id, NULL));
    assert_int_equal(spool_test_put(t, id, 100), 0);
    char *aside = mr_asprintf("%s/00000001.seg.damaged", t->dir);
    assert_int_equal(access(aside, F_OK), 0);
    free(aside);
    spool_test_close(t);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_check(t, id, 100), 0);
}

static void newer_formats_are_refused(void **state)
{
    struct spool_test *t = *state;
    uint8_t head[SPOOL_HEAD];
    spool_head_encode(head, (struct spool_place){.salt = 5, .segment = 1});
    head[4] = 2;
    XXH64_hash_t sum = XXH3_64bits(head, 24);
    for (int i = 0; i < 8; i++)
        head[24 + i] = (uint8_t)(sum >> (8 * i));
    memcpy(head + SPOOL_HEAD_COPY, head, SPOOL_HEAD_COPY);
    write_segment(t, 1, head, sizeof(head));
    assert_int_equal(spool_test_try_open(t, 0), MR_VERSION);
    assert_int_equal(spool_test_files(t), 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, ""); /* damage is what this is about */
    const struct CMUnitTest tests[] = {
        TEST(cut_at_every_byte),
        TEST(flip_every_byte_of_an_open_segment),
        TEST(flip_every_byte_of_a_sealed_segment),
        TEST(what_a_start_could_not_read_is_kept),
        TEST(a_start_that_can_read_nothing_keeps_all),
        TEST(imitated_records_are_not_taken),
        TEST(unreadable_segments_are_put_aside),
        TEST(newer_formats_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
