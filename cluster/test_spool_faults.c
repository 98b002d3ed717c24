/* The spool over a disk that refuses, hangs or cannot be read: it says so, keeps what it had, and goes on afterwards.
 */
#include "cluster/test_spool_disk.h"
#include "proto/base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mount.h>

static void no_space_at_every_byte(void **state)
{
    enum { N = 12, SEGMENT = 4096 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    for (int64_t space = 0; space < 2600; space += 13) {
        struct mr_id ids[N];
        int status[N];
        d.refusal = space % 2 != 0 ? -EDQUOT : -ENOSPC;
        atomic_store(&d.space, space);
        spool_test_open(t, SEGMENT);
        for (int i = 0; i < N; i++) {
            ids[i] = mr_id_at(1);
            status[i] = spool_test_put(t, ids[i], 150);
            assert_true(status[i] == 0 || status[i] == MR_NOSPACE);
        }
        assert_int_equal(status[N - 1], MR_NOSPACE);
        atomic_store(&d.space, INT64_MAX);
        assert_int_equal(spool_test_put(t, ids[N - 1], 150), 0); /* goes on as soon as there is room */
        for (int life = 0; life < 2; life++) {
            for (int i = 0; i < N - 1; i++) {
                assert_int_equal(spool_has(t->sp, ids[i], NULL), status[i] == 0);
                assert_int_equal(spool_test_check(t, ids[i], 150), status[i] == 0 ? 0 : MR_NOTFOUND);
            }
            assert_int_equal(spool_test_check(t, ids[N - 1], 150), 0);
            spool_test_close(t);
            spool_test_open(t, SEGMENT);
        }
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
}

static void no_space_within_a_body_of_pieces(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    struct mr_id id = mr_id_at(1);
    atomic_store(&d.space, 400000);
    assert_int_equal(spool_test_put(t, id, 1000000), MR_NOSPACE);
    assert_false(spool_has(t->sp, id, NULL));
    atomic_store(&d.space, INT64_MAX);
    assert_int_equal(spool_test_put(t, id, 1000000), 0);
    assert_int_equal(spool_test_check(t, id, 1000000), 0);
}

/* A tmpfs of its own; the real refusals of a real file system. */
static void no_space_for_real(void **state)
{
    enum { N = 400 };
    struct spool_test *t = *state;
    if (mount("tmpfs", t->dir, "tmpfs", 0, "size=2m") != 0)
        skip();
    struct mr_id ids[N];
    int stored = 0;
    spool_test_open(t, 256 * 1024);
    for (;; stored++) {
        assert_true(stored < N);
        ids[stored] = mr_id_at(1);
        int rc = spool_test_put(t, ids[stored], 9000);
        if (rc == MR_NOSPACE)
            break;
        assert_int_equal(rc, 0);
    }
    assert_true(stored > 100);
    for (int i = 0; i < stored; i++)
        assert_int_equal(spool_test_check(t, ids[i], 9000), 0);
    for (int i = 0; i < stored - 10; i++)
        spool_drop(t->sp, ids[i]);
    struct mr_id more = mr_id_at(2);
    while (spool_test_put(t, more, 200000) == MR_NOSPACE)
        (void)usleep(1000); /* until the unlinks are done */
    spool_test_close(t);
    spool_test_open(t, 256 * 1024);
    for (int i = stored - 10; i < stored; i++)
        assert_int_equal(spool_test_check(t, ids[i], 9000), 0);
    assert_int_equal(spool_test_check(t, more, 200000), 0);
}

static int unmount_teardown(void **state)
{
    struct spool_test *t = *state;
    if (t->sp != NULL)
        spool_test_close(t);
    (void)umount2(t->dir, MNT_DETACH); /* fails where the test was skipped */
    return spool_test_teardown(state);
}

static void read_errors(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    spool_test_open(t, 0);
    struct mr_id id = mr_id_at(1);
    assert_int_equal(spool_test_put(t, id, 5000), 0);
    atomic_store(&d.read_error, -EMFILE);
    assert_int_equal(spool_test_check(t, id, 5000), MR_BUSY);
    assert_true(spool_has(t->sp, id, NULL)); /* nothing is said of the copy */
    atomic_store(&d.read_error, -EIO);
    assert_int_equal(spool_test_check(t, id, 5000), MR_IO);
    assert_false(spool_has(t->sp, id, NULL));
    atomic_store(&d.read_error, 0);
    assert_int_equal(spool_test_put(t, id, 5000), 0);
    assert_int_equal(spool_test_check(t, id, 5000), 0);
    struct spool_stats stats;
    spool_stats(t->sp, &stats);
    assert_int_equal(stats.bad, 1);
}

/* PROTOCOL.md 8.4: who watches sees one call, the same all the time; and none when the disk is back. */
static void a_hanging_sync_is_seen(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    struct busy disk = {0};
    struct spool_test_put p;
    struct mr_id id = mr_id_at(1);
    uint8_t sum[16];
    unsigned inside;
    bad_disk_init(t, &d);
    t->disk = &disk;
    spool_test_open(t, 0);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 100), 0);
    uint8_t *body = spool_test_body(id, 100);
    spool_test_sum(body, 100, sum);
    unsigned before = atomic_load(&disk.turns);
    atomic_store(&d.hold, true);
    spool_test_begin(t, &p, id, 0, true, body, 100, 100, sum);
    /* Through free space and write into the sync: what does not change for a while is it. */
    do {
        inside = atomic_load(&disk.turns);
        (void)usleep(20 * 1000);
    } while (inside % 2 == 0 || inside == before || inside != atomic_load(&disk.turns));
    assert_false(p.done);
    atomic_store(&d.hold, false);
    spool_test_wait(t, &p);
    assert_int_equal(p.status, 0);
    while (atomic_load(&disk.turns) % 2 != 0)
        (void)usleep(1000);
    assert_true(atomic_load(&disk.turns) != inside);
    free(body);
    spool_test_close(t);
    t->disk = NULL;
}

/* PROTOCOL.md 8.5: what is missing of the ballast is not the spool's to take. */
static void keeps_free_what_the_ballast_lacks(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    bad_disk_init(t, &d);
    t->reserve = 1 << 20;
    atomic_store(&d.free, 3 << 20);
    spool_test_open(t, 0);
    assert_true(spool_reserve(t->sp) == 1 << 20);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), 0);
    assert_false(spool_low(t->sp));
    spool_keep_free(t->sp, 2 << 20);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), MR_NOSPACE);
    atomic_store(&d.free, (3 << 20) - 1);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), MR_NOSPACE);
    assert_true(spool_low(t->sp));
    spool_keep_free(t->sp, 0);
    assert_int_equal(spool_test_put(t, mr_id_at(1), 1000), 0);
    assert_false(spool_low(t->sp));
    spool_test_close(t);
    t->reserve = 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, ""); /* faults are what this is about */
    const struct CMUnitTest tests[] = {
        TEST(no_space_at_every_byte),
        TEST(no_space_within_a_body_of_pieces),
        cmocka_unit_test_setup_teardown(no_space_for_real, spool_test_setup, unmount_teardown),
        TEST(a_hanging_sync_is_seen),
        TEST(keeps_free_what_the_ballast_lacks),
        TEST(read_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
