/* The spool's process ends, by itself, killed, or with its machine's power: what was acknowledged is there after it. */
#include "cluster/spool_internal.h"
#include "cluster/test_spool_disk.h"
#include "proto/base/log.h"
#include "proto/base/test_dies.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

/* Runs in a child: puts bodies and writes the ids of those acknowledged to the pipe, then says that it is through. */
static void child_puts(struct spool_test *t, int out, int count)
{
    for (int i = 0; i < count; i++) {
        struct mr_id id = mr_id_at(1);
        if (spool_test_put(t, id, 500 + (size_t)i % 100) != 0 || write(out, id.bytes, MR_ID_SIZE) != MR_ID_SIZE)
            _exit(3);
    }
    _exit(0);
}

static void quiet_child(void)
{
    test_let_die();
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        (void)dup2(null, STDERR_FILENO);
}

static void failed_writes_and_syncs_end_the_process(void **state)
{
    enum { N = 40 };
    struct spool_test *t = *state;
    static struct bad_disk d;
    for (int round = 0; round < 16; round++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            quiet_child();
            bad_disk_init(t, &d);
            atomic_store(round % 2 == 0 ? &d.fail_sync_in : &d.fail_write_in, 2 + round);
            spool_test_open(t, 8192);
            child_puts(t, ends[1], N);
        }
        close(ends[1]);
        struct mr_id acked[N];
        int count = 0;
        while (count < N && read(ends[0], acked[count].bytes, MR_ID_SIZE) == MR_ID_SIZE)
            count++;
        close(ends[0]);
        test_assert_died(pid);
        assert_true(count < N);
        t->io = NULL;
        spool_test_open(t, 8192);
        for (int i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, acked[i], 500 + (size_t)i % 100), 0);
        spool_test_close(t);
        spool_test_clean(t->dir);
    }
}

struct wire {
    struct mr_id id;
    uint8_t kind; /* 1: acknowledged, 2: about to be dropped */
};

/* Puts, drops most of the older ones, so that segments are unlinked and compacted all the time. */
static void child_churns(struct spool_test *t, int out)
{
    enum { KEPT = 64 };
    struct mr_id ring[KEPT] = {0};
    for (unsigned i = 0;; i++) {
        struct wire w = {.id = mr_id_at(1), .kind = 1};
        if (spool_test_put(t, w.id, 900) != 0 || write(out, &w, sizeof(w)) != sizeof(w))
            _exit(3);
        struct mr_id *slot = &ring[i % KEPT];
        if (!mr_id_is_zero(*slot) && i % 9 != 0) {
            w = (struct wire){.id = *slot, .kind = 2};
            if (write(out, &w, sizeof(w)) != sizeof(w))
                _exit(3);
            spool_drop(t->sp, *slot);
        }
        *slot = w.kind == 1 ? w.id : ring[i % KEPT];
    }
}

static void remember(struct wire **seen, size_t *count, const struct wire *w)
{
    if (w->kind == 2) {
        for (size_t i = *count; i-- > 0;)
            if (mr_id_equal((*seen)[i].id, w->id)) {
                (*seen)[i] = (*seen)[--*count];
                return;
            }
        return;
    }
    *seen = mr_realloc(*seen, (*count + 1) * sizeof(**seen));
    (*seen)[(*count)++] = *w;
}

static void killed_at_any_moment(void **state)
{
    struct spool_test *t = *state;
    struct wire *seen = NULL;
    size_t count = 0;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    for (int life = 0; life < 12; life++) {
        int ends[2], status;
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            quiet_child();
            spool_test_open(t, 32 * 1024);
            child_churns(t, ends[1]);
        }
        close(ends[1]);
        unsigned records = 20 + (unsigned)rand_r(&seed) % 600;
        struct wire w;
        for (unsigned i = 0; read(ends[0], &w, sizeof(w)) == sizeof(w); i++) {
            remember(&seen, &count, &w);
            if (i == records)
                (void)kill(pid, SIGKILL);
        }
        close(ends[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        spool_test_open(t, 32 * 1024);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(spool_test_check(t, seen[i].id, 900), 0);
        spool_test_close(t);
    }
    free(seen);
}

enum { CUT_BODIES = 90, CUT_IN_FLIGHT = 6, CUT_SEGMENT = 8192 };

static size_t cut_size(int i)
{
    return 100 + (size_t)i % 40 * 13;
}

/* Most bodies go soon, so that segments are compacted and unlinked meanwhile. */
static bool cut_drops(int i)
{
    return i % 7 != 0;
}

/* Puts and drops until the power has gone and a little longer; safe: acknowledged before. */
static void run_into_the_cut(struct spool_test *t, struct bad_disk *d, struct mr_id *ids, bool *safe)
{
    struct spool_test_put puts[CUT_BODIES];
    for (int i = 0; i < CUT_BODIES + CUT_IN_FLIGHT; i++) {
        int past = i - CUT_IN_FLIGHT;
        if (i < CUT_BODIES) {
            size_t size = cut_size(i);
            uint8_t *body = spool_test_body(ids[i], size);
            uint8_t sum[16];
            spool_test_sum(body, size, sum);
            spool_test_begin(t, &puts[i], ids[i], 0, true, body, size, size, sum);
        }
        if (past < 0)
            continue;
        spool_test_wait(t, &puts[past]);
        pthread_mutex_lock(&d->mutex);
        for (int k = 0; k <= i && k < CUT_BODIES && !d->dead; k++)
            safe[k] = puts[k].done && puts[k].status == 0;
        pthread_mutex_unlock(&d->mutex);
        free((void *)(uintptr_t)puts[past].req.piece.data);
        if (cut_drops(past))
            spool_drop(t->sp, ids[past]);
    }
}

static void ids_for_a_cut(struct mr_id *ids)
{
    for (int i = 0; i < CUT_BODIES; i++)
        ids[i] = mr_id_at(1);
}

/* What stood in the spool when it was opened is what it answers for, also to its peers. */
static void check_after_the_cut(struct spool_test *t, const char *what, unsigned seed, const struct mr_id *ids,
                                const bool *safe)
{
    t->io = NULL;
    spool_test_open(t, CUT_SEGMENT);
    for (int i = 0; i < CUT_BODIES; i++) {
        bool has = spool_has(t->sp, ids[i], NULL);
        int rc = spool_test_check(t, ids[i], cut_size(i));
        if (rc != 0 && safe[i])
            fail_msg("%s, seed %u: body %d was acknowledged and is gone: %d", what, seed, i, rc);
        if (rc != (has ? 0 : MR_NOTFOUND))
            fail_msg("%s, seed %u: body %d %s: %d", what, seed, i, has ? "is there" : "is not there", rc);
    }
    spool_test_close(t);
    spool_test_clean(t->dir);
}

static void power_lost_at_any_moment(void **state)
{
    struct spool_test *t = *state;
    static struct bad_disk d;
    unsigned cuts = 0;
    for (unsigned round = 1; round <= 400; round++) {
        struct mr_id ids[CUT_BODIES];
        bool safe[CUT_BODIES] = {false};
        ids_for_a_cut(ids);
        bad_disk_init(t, &d);
        d.caches = true;
        d.seed = round;
        d.end_in = 1 + round % 200;
        spool_test_open(t, CUT_SEGMENT);
        run_into_the_cut(t, &d, ids, safe);
        spool_test_close(t);
        cuts += d.dead;
        forget_cache(&d);
        for (int i = 0; i < CUT_BODIES; i++)
            safe[i] = safe[i] && !cut_drops(i);
        check_after_the_cut(t, "power", round, ids, safe);
    }
    assert_true(cuts > 100);
}

/* Until nothing is left to be compacted or unlinked. */
static void wait_until_idle(struct spool_test *t)
{
    while (t->sp->jobs > 0 || t->sp->compaction != NULL) {
        (void)uv_run(&t->loop, UV_RUN_NOWAIT);
        (void)usleep(100);
    }
}

/* The next life goes on with what the killed one has left in the page cache, and then the power goes. */
static void go_on_until_the_power_goes(struct spool_test *t, struct bad_disk *d, unsigned round,
                                       const struct mr_id *ids, bool *safe, bool sync_fails, unsigned *refused)
{
    d->dead = false;
    d->end_in = 0;
    if (sync_fails) {
        atomic_store(&d->fail_sync_in, 1);
        int rc = spool_test_try_open(t, CUT_SEGMENT);
        if (rc == 0) { /* nothing to sync: there was no segment */
            assert_int_equal(atomic_exchange(&d->fail_sync_in, 0), 1);
            spool_test_close(t);
        } else {
            assert_int_equal(rc, MR_IO);
            (*refused)++;
        }
    }
    spool_test_open(t, CUT_SEGMENT);
    for (int i = 0; i < CUT_BODIES; i++)
        safe[i] = (safe[i] && !cut_drops(i)) || spool_has(t->sp, ids[i], NULL);
    if (round % 3 != 0)
        wait_until_idle(t);
    pthread_mutex_lock(&d->mutex);
    power_cut(d);
    pthread_mutex_unlock(&d->mutex);
    spool_test_close(t);
}

static void killed_at_any_moment_before_a_power_cut(void **state)
{
    static const struct {
        const char *name;
        int end;
        bool sync_fails;
    } kinds[] = {{"kill", BY_KILL, false},
                 {"kill at a failed sync", BY_KILL_AT_FAILED_SYNC, false},
                 {"kill, failed sync at the start", BY_KILL, true}};
    enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };
    struct spool_test *t = *state;
    static struct bad_disk d;
    unsigned kills = 0, refused = 0;
    for (unsigned round = 0; round < 150 * KINDS; round++) {
        struct mr_id ids[CUT_BODIES];
        bool safe[CUT_BODIES] = {false};
        unsigned kind = round % KINDS;
        ids_for_a_cut(ids);
        bad_disk_init(t, &d);
        d.caches = true;
        d.seed = round;
        d.end_in = 1 + round / KINDS;
        d.end = kinds[kind].end;
        spool_test_open(t, CUT_SEGMENT);
        run_into_the_cut(t, &d, ids, safe);
        spool_test_close(t);
        kills += d.dead;
        go_on_until_the_power_goes(t, &d, round, ids, safe, kinds[kind].sync_fails, &refused);
        check_after_the_cut(t, kinds[kind].name, round, ids, safe);
    }
    assert_true(kills > 150 && refused > 50);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, spool_test_setup, spool_test_teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, ""); /* faults are what this is about */
    const struct CMUnitTest tests[] = {
        TEST(failed_writes_and_syncs_end_the_process),
        TEST(killed_at_any_moment),
        TEST(power_lost_at_any_moment),
        TEST(killed_at_any_moment_before_a_power_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
