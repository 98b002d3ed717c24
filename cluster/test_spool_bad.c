/* Copies that cannot be read: out of use, and yet not given back before a good one is here or nobody needs them; read
 * once more they are used again. The one at hand may be the last. */
#include "cluster/spool_format.h"
#include "cluster/test_spool_disk.h"
#include "proto/base/log.h"

#include <fcntl.h>

enum { SEGMENT = 64 * 1024, FILL = 1000, ALWAYS = 1 << 20 };

static struct bad_disk disk;

static bool segment_is_there(const struct spool_test *t, uint32_t number)
{
    char *path = mr_asprintf("%s/%08x.seg", t->dir, number);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static struct spool_stats stats_of(const struct spool_test *t)
{
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    return stats;
}

/* Until what the readers had to do, and what came of it, is done: a get goes behind it. */
static void settle(struct spool_test *t)
{
    for (int i = 0; i < 4 * SPOOL_READERS; i++)
        assert_int_equal(spool_test_check(t, mr_id_at(9), 1), MR_NOTFOUND);
    for (int i = 0; i < 4 * SPOOL_READERS; i++) {
        struct mr_id id = mr_id_at(9);
        assert_int_equal(spool_test_put(t, id, 1), 0);
        assert_int_equal(spool_test_check(t, id, 1), 0);
        spool_drop(t->sp, id);
    }
}

/* Bodies of FILL bytes, the first at the start of segment 1, until segment 1 is sealed and 2 has some. */
static size_t fill_segment(struct spool_test *t, struct mr_id *ids, size_t room)
{
    size_t n = 0;
    while (!segment_is_there(t, 2)) {
        assert_true(n < room);
        ids[n] = mr_id_at(1);
        assert_int_equal(spool_test_put(t, ids[n++], FILL), 0);
    }
    return n;
}

static void make_bad(struct spool_test *t, struct mr_id id, uint64_t offset, size_t size)
{
    atomic_store(&disk.bad_offset, offset);
    atomic_store(&disk.bad_reads, ALWAYS);
    assert_int_equal(spool_test_check(t, id, size), MR_IO);
    assert_false(spool_has(t->sp, id, NULL));
}

struct recheck {
    struct spool_recheck req;
    bool done;
    int status;
};

static void rechecked(struct spool_recheck *req, int status)
{
    struct recheck *r = (struct recheck *)req;
    assert_false(r->done);
    r->done = true;
    r->status = status;
}

static void recheck_begin(struct spool_test *t, struct recheck *r, struct mr_id id)
{
    memset(r, 0, sizeof(*r));
    r->req.id = id;
    r->req.cb = rechecked;
    assert_int_equal(spool_recheck(t->sp, &r->req), 0);
    assert_false(r->done);
}

static int recheck(struct spool_test *t, struct mr_id id)
{
    struct recheck r;
    recheck_begin(t, &r, id);
    while (!r.done)
        spool_test_turn(t);
    return r.status;
}

static void one_failed_read_is_nothing(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    bad_disk_init(t, &disk);
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, id, 5000), 0);
    atomic_store(&disk.bad_offset, SPOOL_HEAD);
    atomic_store(&disk.bad_reads, 1);
    assert_int_equal(spool_test_check(t, id, 5000), 0);
    assert_int_equal(atomic_load(&disk.reads_there), 2);
    assert_int_equal(stats_of(t).bad, 0);
}

static void the_last_body_of_a_segment_keeps_it(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    for (size_t i = 1; i < n; i++)
        spool_drop(t->sp, ids[i]);
    make_bad(t, ids[0], SPOOL_HEAD, FILL);
    assert_int_equal(stats_of(t).bad_here, 1);
    settle(t);
    assert_true(segment_is_there(t, 1));
    assert_int_equal(spool_test_check(t, ids[0], FILL), MR_NOTFOUND); /* not read before somebody asks for that */
    assert_int_equal(recheck(t, ids[0]), MR_IO);
    assert_false(spool_has(t->sp, ids[0], NULL));
    atomic_store(&disk.bad_reads, 0);
    assert_int_equal(recheck(t, ids[0]), 0);
    assert_true(spool_has(t->sp, ids[0], NULL));
    assert_int_equal(spool_test_check(t, ids[0], FILL), 0);
    assert_int_equal(stats_of(t).bad, 1);
    assert_int_equal(stats_of(t).bad_here, 0);
    assert_int_equal(recheck(t, ids[0]), 0); /* it is good already */
    spool_drop(t->sp, ids[0]);
    assert_int_equal(recheck(t, ids[0]), MR_NOTFOUND);
    spool_test_until_files(t, 0, 1);
    assert_false(segment_is_there(t, 1));
}

static void a_restart_begins_with_it_anew(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    for (size_t i = 1; i < n; i++)
        spool_drop(t->sp, ids[i]);
    make_bad(t, ids[0], SPOOL_HEAD, FILL);
    spool_test_close(t);
    atomic_store(&disk.bad_reads, 0);
    spool_test_open(t, SEGMENT);
    assert_int_equal(spool_test_check(t, ids[0], FILL), 0);
}

static void a_good_copy_sets_the_bytes_free(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    for (size_t i = 1; i < n; i++)
        spool_drop(t->sp, ids[i]);
    make_bad(t, ids[0], SPOOL_HEAD, FILL);
    settle(t);
    assert_true(segment_is_there(t, 1));
    atomic_store(&disk.bad_offset, 0);
    assert_int_equal(spool_test_put(t, ids[0], FILL), 0);
    assert_int_equal(stats_of(t).bad_here, 0);
    spool_test_until_files(t, 0, 1);
    assert_false(segment_is_there(t, 1));
    assert_int_equal(spool_test_check(t, ids[0], FILL), 0);
}

static void a_dropped_one_sets_its_bytes_free(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bool seen = false;
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    make_bad(t, ids[0], SPOOL_HEAD, FILL);
    struct spool_entry entries[8];
    uint64_t cursor = 0;
    do { /* the collector must come to know of it */
        size_t k = spool_list(t->sp, &cursor, entries, 8);
        for (size_t i = 0; i < k; i++) {
            bool it = mr_id_equal(entries[i].id, ids[0]);
            seen = seen || it;
            assert_int_equal(entries[i].complete, !it);
        }
    } while (cursor != 0);
    assert_true(seen);
    assert_int_equal(stats_of(t).bodies, n - 1);
    for (size_t i = 0; i < n; i++)
        spool_drop(t->sp, ids[i]);
    assert_int_equal(stats_of(t).bad_here, 0);
    assert_int_equal(stats_of(t).bytes, 0);
    spool_test_until_files(t, 0, 1);
    assert_false(segment_is_there(t, 1));
}

/* Compaction finds it: nothing is lost, nothing is moved to no purpose, and it does not begin again and again. */
static void compaction_leaves_a_segment_with_a_bad_body(void **state)
{
    enum { LEFT = 8 };
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    assert_true(n > 4 * LEFT);
    atomic_store(&disk.bad_offset, SPOOL_HEAD);
    atomic_store(&disk.bad_reads, ALWAYS);
    for (size_t i = LEFT; i < n; i++)
        spool_drop(t->sp, ids[i]);
    while (stats_of(t).compactions == 0)
        spool_test_turn(t);
    assert_int_equal(stats_of(t).bad_here, 1);
    int reads = atomic_load(&disk.reads_there);
    for (int i = 2; i < LEFT; i++) { /* each would be a reason to begin */
        spool_drop(t->sp, ids[i]);
        settle(t);
    }
    assert_int_equal(stats_of(t).compactions, 1);
    assert_int_equal(atomic_load(&disk.reads_there), reads);
    assert_true(segment_is_there(t, 1));
    atomic_store(&disk.bad_reads, 0);
    assert_int_equal(recheck(t, ids[0]), 0);
    spool_test_until_files(t, 0, 1);
    assert_false(segment_is_there(t, 1)); /* moved now */
    for (int life = 0; life < 2; life++) {
        assert_int_equal(spool_test_check(t, ids[0], FILL), 0);
        assert_int_equal(spool_test_check(t, ids[1], FILL), 0);
        spool_test_close(t);
        spool_test_open(t, SEGMENT);
    }
}

/* Good, compacted, bad, good ...: one try for what lives there. */
static void a_copy_that_is_bad_now_and_then_is_compacted_once(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100];
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    atomic_store(&disk.bad_offset, SPOOL_HEAD);
    atomic_store(&disk.bad_reads, ALWAYS);
    for (size_t i = 1; i < n; i++)
        spool_drop(t->sp, ids[i]);
    while (stats_of(t).compactions == 0)
        spool_test_turn(t);
    for (int i = 0; i < 5; i++) {
        atomic_store(&disk.bad_reads, 0);
        assert_int_equal(recheck(t, ids[0]), 0);
        atomic_store(&disk.bad_reads, ALWAYS);
        settle(t);
        assert_true(spool_has(t->sp, ids[0], NULL));
        make_bad(t, ids[0], SPOOL_HEAD, FILL);
    }
    assert_true(stats_of(t).compactions <= 2);
    assert_true(segment_is_there(t, 1));
}

/* A body over several segments, of which one piece is bad, holds all of them. */
static void a_body_of_pieces_is_read_whole(void **state)
{
    enum { SIZE = 3 * SPOOL_MAX_PIECE - 1000, BIG_SEGMENT = SPOOL_MAX_PIECE + 64 * 1024 };
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1), other = mr_id_at(2);
    bad_disk_init(t, &disk);
    spool_test_open(t, BIG_SEGMENT);
    assert_int_equal(spool_test_put(t, id, SIZE), 0);
    assert_int_equal(spool_test_put(t, other, SPOOL_MAX_PIECE), 0); /* seals the third */
    assert_int_equal(spool_test_files(t), 4);
    uint8_t *data;
    size_t len;
    bool last;
    atomic_store(&disk.bad_offset, SPOOL_HEAD);
    atomic_store(&disk.bad_reads, 2);
    assert_int_equal(spool_test_get(t, id, 1, &data, &len, &last), MR_IO);
    settle(t);
    assert_int_equal(spool_test_files(t), 4);
    atomic_store(&disk.bad_reads, 2); /* now the first piece */
    assert_int_equal(recheck(t, id), MR_IO);
    assert_false(spool_has(t->sp, id, NULL));
    assert_int_equal(recheck(t, id), 0);
    assert_int_equal(spool_test_check(t, id, SIZE), 0);
}

static void a_recheck_meets_drop_put_and_close(void **state)
{
    enum { SIZE = 3 * SPOOL_MAX_PIECE };
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(1);
    struct recheck r;
    bad_disk_init(t, &disk);
    spool_test_open(t, 0);
    for (int what = 0; what < 4; what++) {
        assert_int_equal(spool_test_put(t, id, SIZE), 0);
        atomic_store(&disk.read_error, -EIO);
        assert_int_equal(spool_test_check(t, id, SIZE), MR_IO);
        if (what == 3)
            atomic_store(&disk.read_error, -EMFILE);
        else
            atomic_store(&disk.read_error, 0);
        recheck_begin(t, &r, id);
        if (what == 0)
            spool_drop(t->sp, id);
        else if (what == 1)
            assert_int_equal(spool_test_put(t, id, SIZE), 0);
        else if (what == 2)
            spool_test_close_begin(t);
        while (!r.done)
            spool_test_turn(t);
        assert_int_equal(r.status, what == 0 ? MR_NOTFOUND : what == 1 ? 0 : what == 2 ? MR_CANCELLED : MR_BUSY);
        if (what == 1)
            assert_true(spool_has(t->sp, id, NULL));
        if (what == 1)
            spool_drop(t->sp, id);
        if (what == 2) {
            spool_test_close_wait(t);
            spool_test_open(t, 0);
            spool_drop(t->sp, id);
        }
    }
    assert_int_equal(stats_of(t).bad_here, 1); /* the last one: nothing was said of it */
}

/* ---- found at a start ---- */

static void flip_byte(const struct spool_test *t, uint64_t at)
{
    char *path = mr_asprintf("%s/00000001.seg", t->dir);
    int fd = open(path, O_RDWR);
    uint8_t byte = 0;
    assert_true(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
    free(path);
}

/* A start that reads the records finds it itself: it is held as if a read had found it, also at the next start, which
 * reads the index. Nothing is written over it, though it was the last of its segment. */
static void a_start_keeps_what_it_finds_bad(void **state)
{
    struct spool_test *t = *state;
    struct mr_id ids[100], good = mr_id_at(3), bad = mr_id_at(4);
    uint64_t place = SPOOL_HEAD + spool_record_size(FILL) + SPOOL_RECORD_HEAD + 17;
    bad_disk_init(t, &disk);
    spool_test_open(t, SEGMENT);
    assert_int_equal(spool_test_put(t, good, FILL), 0);
    assert_int_equal(spool_test_put(t, bad, FILL), 0);
    spool_test_close(t);
    flip_byte(t, place);
    spool_test_open(t, SEGMENT);
    size_t n = fill_segment(t, ids, 100);
    for (int life = 0; life < 2; life++) {
        assert_int_equal(spool_test_check(t, good, FILL), 0);
        assert_false(spool_has(t->sp, bad, NULL));
        assert_int_equal(spool_test_check(t, bad, FILL), MR_NOTFOUND);
        assert_int_equal(recheck(t, bad), MR_CHECKSUM);
        assert_int_equal(stats_of(t).bad_here, 1);
        spool_test_close(t);
        spool_test_open(t, SEGMENT);
    }
    spool_drop(t->sp, good);
    for (size_t i = 0; i < n; i++)
        spool_drop(t->sp, ids[i]);
    settle(t);
    assert_true(segment_is_there(t, 1));
    flip_byte(t, place);
    assert_int_equal(recheck(t, bad), 0);
    assert_int_equal(spool_test_check(t, bad, FILL), 0);
    spool_drop(t->sp, bad);
    spool_test_until_files(t, 0, 1);
    assert_false(segment_is_there(t, 1));
}

/* Of two copies a good one counts, wherever it stands; of two bad ones one is held. */
static void a_good_copy_counts_before_a_bad_one(void **state)
{
    struct spool_test *t = *state;
    struct mr_id id = mr_id_at(3);
    bad_disk_init(t, &disk);
    for (int flips = 1; flips < 4; flips++) {
        spool_test_open(t, SEGMENT);
        for (int i = 0; i < 2; i++) {
            spool_drop(t->sp, id); /* says nothing to the next start */
            assert_int_equal(spool_test_put(t, id, FILL), 0);
        }
        spool_test_close(t);
        for (unsigned i = 0; i < 2; i++)
            if ((flips >> i & 1) != 0)
                flip_byte(t, SPOOL_HEAD + i * spool_record_size(FILL) + SPOOL_RECORD_HEAD + 5);
        spool_test_open(t, SEGMENT);
        assert_int_equal(spool_has(t->sp, id, NULL), flips != 3);
        assert_int_equal(spool_test_check(t, id, FILL), flips != 3 ? 0 : MR_NOTFOUND);
        assert_int_equal(stats_of(t).bad_here, flips == 3);
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, ""); /* faults are what this is about */
    const struct CMUnitTest tests[] = {
        TEST(one_failed_read_is_nothing),
        TEST(the_last_body_of_a_segment_keeps_it),
        TEST(a_restart_begins_with_it_anew),
        TEST(a_good_copy_sets_the_bytes_free),
        TEST(a_dropped_one_sets_its_bytes_free),
        TEST(compaction_leaves_a_segment_with_a_bad_body),
        TEST(a_copy_that_is_bad_now_and_then_is_compacted_once),
        TEST(a_body_of_pieces_is_read_whole),
        TEST(a_recheck_meets_drop_put_and_close),
        TEST(a_start_keeps_what_it_finds_bad),
        TEST(a_good_copy_counts_before_a_bad_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
