/* The outcome journal: what is handed out after a crash, group sync, rotation, damage. */
#include "cluster/journal.h"
#include "cluster/journal_format.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/test_dies.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static _Atomic int syncs;
static _Atomic bool syncs_fail;

/* In place of libc's: counts, and fails on demand. */
int fdatasync(int fd)
{
    atomic_fetch_add(&syncs, 1);
    if (atomic_load(&syncs_fail)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static _Atomic int names_syncs;

/* And this: counts those of folders. On a thread of libuv's pool. */
int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        atomic_fetch_add(&names_syncs, 1);
    return (int)syscall(SYS_fsync, fd);
}

static _Atomic int full; /* so many writes find no room */

/* In place of libc's too. */
ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    if (atomic_load(&full) > 0) {
        atomic_fetch_sub(&full, 1);
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, len, offset);
}

struct fixture {
    uv_loop_t loop;
    char dir[64];
    bool closed;
};

static int setup(void **state)
{
    struct fixture *f = mr_calloc(1, sizeof(*f));
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(f->dir, sizeof(f->dir), "%s/journal-XXXXXX", tmp != NULL && strlen(tmp) < 40 ? tmp : "/tmp");
    if (mkdtemp(f->dir) == NULL || uv_loop_init(&f->loop) != 0)
        return -1;
    *state = f;
    return 0;
}

static size_t each_file(const struct fixture *f, bool remove, char *one, size_t one_size, uint64_t *bytes)
{
    size_t count = 0;
    DIR *d = opendir(f->dir);
    const struct dirent *e;
    *bytes = 0;
    while (d != NULL && (e = readdir(d)) != NULL) {
        char path[512];
        struct stat st;
        (void)snprintf(path, sizeof(path), "%s/%s", f->dir, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &st) != 0)
            continue;
        count++;
        *bytes += (uint64_t)st.st_size;
        if (one != NULL)
            (void)snprintf(one, one_size, "%s", path);
        if (remove)
            (void)unlink(path);
    }
    if (d != NULL)
        (void)closedir(d);
    return count;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes;
    int rc = uv_run(&f->loop, UV_RUN_DEFAULT);
    if (rc == 0)
        rc = uv_loop_close(&f->loop);
    (void)each_file(f, true, NULL, 0, &bytes);
    (void)rmdir(f->dir);
    free(f);
    return rc;
}

static struct journal *open_journal(struct fixture *f, unsigned worker, uint64_t incarnation)
{
    struct journal *j;
    assert_int_equal(journal_open(&j, &f->loop, f->dir, worker, incarnation), 0);
    return j;
}

static void on_closed(void *arg)
{
    ((struct fixture *)arg)->closed = true;
}

static void close_journal(struct fixture *f, struct journal *j)
{
    f->closed = false;
    journal_close(j, on_closed, f);
    assert_false(f->closed);
    while (!f->closed)
        (void)uv_run(&f->loop, UV_RUN_ONCE);
}

static struct mr_id id_of(uint8_t n)
{
    struct mr_id id = {{0}};
    id.bytes[15] = n;
    return id;
}

static void reply(struct journal *j, uint8_t n, uint32_t delivery, uint32_t attempt, size_t text)
{
    struct mr_id id = id_of(n);
    Mailraft__Outcome o = MAILRAFT__OUTCOME__INIT;
    Mailraft__RecipientResult r = MAILRAFT__RECIPIENT_RESULT__INIT;
    Mailraft__RecipientResult *results[] = {&r};
    r.result = MAILRAFT__RESULT__DELIVERED;
    r.reply.data = mr_calloc(text, 1);
    memset(r.reply.data, 'x', text);
    r.reply.len = text;
    o.id.data = id.bytes;
    o.id.len = MR_ID_SIZE;
    o.delivery = delivery;
    o.attempt = attempt;
    o.node = n;
    o.results = results;
    o.n_results = 1;
    journal_reply(j, &o);
    free(r.reply.data);
}

static struct journal_left left_in(const struct fixture *f)
{
    struct journal_left left;
    assert_int_equal(journal_replay(f->dir, &left), 0);
    return left;
}

static void nothing_at_all(void **state)
{
    struct fixture *f = *state;
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes + left.n_in_doubt, 0);
    journal_left_free(&left);
    assert_int_equal(journal_replay("/nonexistent/folder", &left), 0);
    journal_left_free(&left);
    struct journal *j;
    assert_int_equal(journal_open(&j, &f->loop, "/nonexistent/folder", 0, 1), MR_IO);
}

static void dots_and_replies_are_handed_out(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 7), *k = open_journal(f, 1, 7);
    journal_dot(j, id_of(3), 0, 1); /* in doubt */
    journal_dot(j, id_of(2), 1, 4);
    reply(j, 2, 1, 4, 10); /* an outcome */
    journal_dot(j, id_of(4), 0, 1);
    reply(j, 4, 0, 1, 10);
    journal_done(j, id_of(4), 0, 1); /* committed */
    journal_dot(j, id_of(5), 0, 1);
    journal_done(j, id_of(5), 0, 1);  /* released */
    journal_done(j, id_of(99), 0, 1); /* never heard of */
    journal_dot(k, id_of(1), 0, 1);   /* of another worker */
    journal_dot(k, id_of(2), 1, 5);   /* the same delivery, a later attempt */
    reply(k, 6, 0, 9, 0);             /* no dot before it */
    for (int life = 0; life < 2; life++) {
        struct journal_left left = left_in(f); /* as after kill -9: nothing was closed or synced */
        assert_int_equal(left.n_outcomes, 2);
        assert_int_equal(left.outcomes[0]->id.data[15], 2);
        assert_int_equal(left.outcomes[0]->attempt, 4);
        assert_int_equal(left.outcomes[0]->n_results, 1);
        assert_int_equal(left.outcomes[0]->results[0]->reply.len, 10);
        assert_int_equal(left.outcomes[1]->id.data[15], 6);
        assert_int_equal(left.n_in_doubt, 3);
        assert_int_equal(left.in_doubt[0]->id.data[15], 1);
        assert_int_equal(left.in_doubt[1]->id.data[15], 2);
        assert_int_equal(left.in_doubt[1]->attempt, 5);
        assert_int_equal(left.in_doubt[2]->id.data[15], 3);
        journal_left_free(&left);
        if (life == 0) {
            close_journal(f, j);
            close_journal(f, k);
        }
    }
    j = open_journal(f, 0, 8);
    journal_dot(j, id_of(8), 0, 1);
    assert_int_equal(journal_forget_replayed(f->dir, 8), 0);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 0);
    assert_int_equal(left.n_in_doubt, 1);
    assert_int_equal(left.in_doubt[0]->id.data[15], 8);
    journal_left_free(&left);
    close_journal(f, j);
}

static void replies_share_a_sync_and_done_saves_it(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    atomic_store(&syncs, 0);
    for (uint8_t i = 0; i < 50; i++) {
        journal_dot(j, id_of(i), 0, 1);
        reply(j, i, 0, 1, 20);
    }
    assert_int_equal(atomic_load(&syncs), 0);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT); /* the timer, the sync */
    assert_int_equal(atomic_load(&syncs), 1);
    for (uint8_t i = 0; i < 50; i++)
        journal_done(j, id_of(i), 0, 1);
    for (uint8_t i = 50; i < 60; i++) {
        reply(j, i, 0, 1, 20);
        journal_done(j, id_of(i), 0, 1);
    }
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(atomic_load(&syncs), 1);
    reply(j, 61, 0, 1, 20);
    reply(j, 61, 0, 1, 30); /* again: one attempt all the same */
    journal_done(j, id_of(61), 0, 1);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(atomic_load(&syncs), 1);
    reply(j, 62, 0, 1, 20);
    close_journal(f, j); /* syncs what is open */
    assert_int_equal(atomic_load(&syncs), 2);
}

static void no_more(uv_timer_t *timer)
{
    uv_close((uv_handle_t *)timer, NULL);
}

/* However many replies follow each other: it takes one that stays open for JOURNAL_SYNC_MS. */
static void a_sync_comes_when_the_oldest_open_reply_is_due(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    uv_timer_t pause;
    atomic_store(&syncs, 0);
    uv_update_time(&f->loop);
    reply(j, 1, 0, 1, 20);
    assert_int_equal(uv_timer_init(&f->loop, &pause), 0);
    assert_int_equal(uv_timer_start(&pause, no_more, JOURNAL_SYNC_MS / 2, 0), 0);
    while (!uv_is_closing((uv_handle_t *)&pause))
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    uint64_t second = uv_now(&f->loop);
    reply(j, 2, 0, 1, 20);
    journal_done(j, id_of(1), 0, 1);
    (void)uv_run(&f->loop, UV_RUN_DEFAULT); /* until the sync has come */
    assert_true(uv_now(&f->loop) >= second + JOURNAL_SYNC_MS);
    assert_true(atomic_load(&syncs) >= 1); /* two, if this process was stopped meanwhile */
    close_journal(f, j);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 1);
    journal_left_free(&left);
}

struct again {
    uv_timer_t timer;
    struct journal *j;
    unsigned left;
};

static void say_again(uv_timer_t *timer)
{
    struct again *a = timer->data;
    reply(a->j, 1, 0, 1, 20);
    if (--a->left == 0 || atomic_load(&syncs) > 0)
        uv_close((uv_handle_t *)timer, NULL);
}

/* A reply that is said again, and again, is due when the first one is. */
static void a_reply_said_again_keeps_its_time(void **state)
{
    struct fixture *f = *state;
    struct again a = {.j = open_journal(f, 0, 1), .left = 50 * JOURNAL_SYNC_MS};
    atomic_store(&syncs, 0);
    uv_update_time(&f->loop);
    reply(a.j, 1, 0, 1, 10);
    a.timer.data = &a;
    assert_int_equal(uv_timer_init(&f->loop, &a.timer), 0);
    assert_int_equal(uv_timer_start(&a.timer, say_again, 1, 1), 0);
    while (!uv_is_closing((uv_handle_t *)&a.timer))
        (void)uv_run(&f->loop, UV_RUN_ONCE);
    int seen = atomic_load(&syncs);
    close_journal(f, a.j);
    assert_true(seen > 0);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 1);
    assert_int_equal(left.outcomes[0]->results[0]->reply.len, 20);
    journal_left_free(&left);
}

static bool make_room(void *arg)
{
    (*(int *)arg)++;
    return true;
}

/* PROTOCOL.md 8.5: a full disk gives its ballast back in the middle of a record, and the record is there. */
static void a_full_disk_is_asked_for_its_ballast(void **state)
{
    struct fixture *f = *state;
    struct busy writes = {0}, fsyncs = {0};
    int asked = 0;
    struct journal *j = open_journal(f, 0, 1);
    struct journal_disk disk = {.writes = &writes, .syncs = &fsyncs, .release = make_room, .arg = &asked};
    journal_set_disk(j, &disk);
    atomic_store(&full, 1);
    journal_dot(j, id_of(1), 0, 1);
    assert_int_equal(asked, 1);
    reply(j, 1, 0, 1, 20);
    assert_int_equal(asked, 1);
    atomic_store(&full, 1);
    reply(j, 2, 0, 1, 20);
    assert_int_equal(asked, 2);
    atomic_store(&syncs, 0);
    while (atomic_load(&syncs) == 0)
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    close_journal(f, j);
    assert_true(atomic_load(&writes.turns) >= 10 && atomic_load(&writes.turns) % 2 == 0);
    assert_true(atomic_load(&fsyncs.turns) >= 2 && atomic_load(&fsyncs.turns) % 2 == 0);
    struct journal_left left;
    assert_int_equal(journal_replay(f->dir, &left), 0);
    assert_int_equal(left.n_outcomes, 2);
    assert_int_equal(left.n_in_doubt, 0);
    journal_left_free(&left);
}

static void close_while_syncing(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    atomic_store(&syncs, 0);
    reply(j, 1, 0, 1, 20);
    while (atomic_load(&syncs) == 0)
        (void)uv_run(&f->loop, UV_RUN_NOWAIT);
    reply(j, 2, 0, 1, 20);
    close_journal(f, j);
    assert_int_equal(atomic_load(&syncs), 2);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 2);
    journal_left_free(&left);
}

static void an_idle_file_is_cut_down(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    uint64_t bytes, most = 0;
    for (unsigned i = 0; i < 3000; i++) {
        journal_dot(j, id_of(1), 0, i);
        reply(j, 1, 0, i, 1000);
        journal_done(j, id_of(1), 0, i);
        if (i % 100 == 0) {
            (void)uv_run(&f->loop, UV_RUN_NOWAIT);
            (void)each_file(f, false, NULL, 0, &bytes);
            most = bytes > most ? bytes : most;
        }
    }
    assert_true(most > 500000 && most < (2 << 20));
    assert_int_equal(each_file(f, false, NULL, 0, &bytes), 1);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes + left.n_in_doubt, 0);
    journal_left_free(&left);
    close_journal(f, j);
}

/* A file that took over while nothing was open: a sync of what it holds is worth nothing without one of its name. */
static void the_name_of_an_idle_file_s_successor_is_synced(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    char before[512], after[512];
    uint64_t bytes;
    assert_int_equal(each_file(f, false, before, sizeof(before), &bytes), 1);
    atomic_store(&names_syncs, 0);
    for (unsigned i = 0; i == 0 || bytes > 1000; i++) {
        reply(j, 1, 0, i, 100000);
        journal_done(j, id_of(1), 0, i);
        assert_int_equal(each_file(f, false, after, sizeof(after), &bytes), 1);
    }
    assert_string_not_equal(before, after);
    for (uint8_t i = 0; i < 2; i++) {
        atomic_store(&syncs, 0);
        reply(j, i, 0, 1, 20);
        (void)uv_run(&f->loop, UV_RUN_DEFAULT); /* the timer, the syncs */
        assert_int_equal(atomic_load(&syncs), 1);
        assert_int_equal(atomic_load(&names_syncs), 1); /* once for each file */
        journal_done(j, id_of(i), 0, 1);
    }
    close_journal(f, j);
}

/* The same when the journal is closed before that. */
static void the_name_is_synced_at_the_close(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    uint64_t bytes;
    for (unsigned i = 0; i == 0 || bytes > 1000; i++) {
        reply(j, 1, 0, i, 100000);
        journal_done(j, id_of(1), 0, i);
        (void)each_file(f, false, NULL, 0, &bytes);
    }
    atomic_store(&names_syncs, 0);
    reply(j, 1, 0, 1, 20);
    close_journal(f, j);
    assert_int_equal(atomic_load(&names_syncs), 1);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 1);
    journal_left_free(&left);
}

static void a_busy_file_is_rotated_with_what_is_open(void **state)
{
    struct fixture *f = *state;
    struct journal *j = open_journal(f, 0, 1);
    uint64_t bytes, most = 0;
    enum { TEXT = 100000 };
    journal_dot(j, id_of(1), 0, 0);       /* stays in doubt all the time */
    reply(j, 2, 0, 0, TEXT);              /* stays an outcome */
    for (unsigned i = 1; i < 2200; i++) { /* some 210 MiB */
        reply(j, 3, 0, i, TEXT);
        if (i > 5)
            journal_done(j, id_of(3), 0, i - 5);
        if (i % 20 == 0) {
            (void)uv_run(&f->loop, UV_RUN_NOWAIT);
            (void)each_file(f, false, NULL, 0, &bytes);
            most = bytes > most ? bytes : most;
        }
    }
    assert_true(most > (60U << 20) && most < (130U << 20));
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_in_doubt, 1);
    assert_int_equal(left.n_outcomes, 1 + 5);
    assert_int_equal(left.outcomes[0]->id.data[15], 2);
    assert_int_equal(left.outcomes[0]->results[0]->reply.len, TEXT);
    journal_left_free(&left);
    close_journal(f, j);
    assert_int_equal(each_file(f, false, NULL, 0, &bytes), 1);
}

static uint8_t *slurp(const char *path, size_t *len)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    uint8_t *bytes = mr_malloc((size_t)st.st_size);
    assert_int_equal(read(fd, bytes, (size_t)st.st_size), st.st_size);
    close(fd);
    *len = (size_t)st.st_size;
    return bytes;
}

static void spill(const char *path, const uint8_t *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
}

/* dot 1, reply 1, dot 2, done 1, dot 3, reply 3: what may be left after each record; one row a prefix. */
static const struct {
    size_t outcomes, doubts;
} prefixes[] = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {1, 1}};
enum { RECORDS = 6 };

static size_t whole_records(const uint8_t *bytes, size_t len)
{
    size_t at = 0, count = 0;
    enum journal_type type;
    const uint8_t *payload;
    size_t payload_len, size;
    while (at < len && journal_record_decode(bytes + at, len - at, &type, &payload, &payload_len, &size) == 0) {
        at += size;
        count++;
    }
    return count;
}

static void write_six(struct fixture *f, char *path, size_t path_size)
{
    uint64_t bytes;
    struct journal *j = open_journal(f, 0, 1);
    journal_dot(j, id_of(1), 0, 1);
    reply(j, 1, 0, 1, 9);
    journal_dot(j, id_of(2), 0, 1);
    journal_done(j, id_of(1), 0, 1);
    journal_dot(j, id_of(3), 0, 1);
    reply(j, 3, 0, 1, 9);
    close_journal(f, j);
    assert_int_equal(each_file(f, false, path, path_size, &bytes), 1);
}

static void torn_at_every_byte(void **state)
{
    struct fixture *f = *state;
    char path[512];
    size_t len;
    write_six(f, path, sizeof(path));
    uint8_t *bytes = slurp(path, &len);
    assert_int_equal(whole_records(bytes, len), RECORDS);
    for (size_t cut = 0; cut <= len; cut++) {
        size_t n = whole_records(bytes, cut);
        spill(path, bytes, cut);
        struct journal_left left = left_in(f);
        assert_int_equal(left.n_outcomes, prefixes[n].outcomes);
        assert_int_equal(left.n_in_doubt, prefixes[n].doubts);
        journal_left_free(&left);
    }
    free(bytes);
}

static void a_flipped_byte_ends_the_file(void **state)
{
    struct fixture *f = *state;
    char path[512];
    size_t len;
    write_six(f, path, sizeof(path));
    uint8_t *bytes = slurp(path, &len);
    for (size_t at = 0; at < len; at++) {
        size_t n = 0; /* the records before the one that is hit */
        while (n < RECORDS && whole_records(bytes, at) > n)
            n++;
        bytes[at] ^= (uint8_t)(1U << at % 8);
        spill(path, bytes, len);
        bytes[at] ^= (uint8_t)(1U << at % 8);
        struct journal_left left = left_in(f);
        assert_int_equal(left.n_outcomes, prefixes[n].outcomes);
        assert_int_equal(left.n_in_doubt, prefixes[n].doubts);
        journal_left_free(&left);
    }
    free(bytes);
}

/* testdata/journal-v1: what write_six wrote, kept as an example of the format (proto/FORMAT.md). */
static void an_example_of_version_1(void **state)
{
    struct fixture *f = *state;
    char path[512];
    size_t len;
    if (getenv("MAILRAFT_WRITE_EXAMPLES") != NULL) {
        write_six(f, path, sizeof(path));
        uint8_t *made = slurp(path, &len);
        spill("testdata/journal-v1", made, len);
        free(made);
    }
    uint8_t *bytes = slurp("testdata/journal-v1", &len);
    (void)snprintf(path, sizeof(path), "%s/outcomes-0.0000000000000001.0", f->dir);
    spill(path, bytes, len);
    free(bytes);
    struct journal_left left = left_in(f);
    assert_int_equal(left.n_outcomes, 1);
    assert_int_equal(left.outcomes[0]->id.data[15], 3);
    assert_int_equal(left.outcomes[0]->results[0]->reply.len, 9);
    assert_int_equal(left.n_in_doubt, 1);
    assert_int_equal(left.in_doubt[0]->id.data[15], 2);
    journal_left_free(&left);
}

static void expect_abort(struct fixture *f, bool writes)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit small = {100, 100};
        test_let_die();
        (void)signal(SIGXFSZ, SIG_IGN);
        int null = open("/dev/null", O_WRONLY);
        if (null >= 0)
            (void)dup2(null, STDERR_FILENO);
        struct journal *j = open_journal(f, 0, 1);
        if (writes)
            (void)setrlimit(RLIMIT_FSIZE, &small);
        else
            atomic_store(&syncs_fail, true);
        reply(j, 1, 0, 1, 200);
        (void)uv_run(&f->loop, UV_RUN_DEFAULT);
        _exit(0);
    }
    test_assert_died(pid);
}

static void failed_writes_and_syncs_end_the_process(void **state)
{
    expect_abort(*state, true);
    expect_abort(*state, false);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    log_configure((enum log_level)(LOG_ERROR + 1), false, "");
    const struct CMUnitTest tests[] = {
        TEST(nothing_at_all),
        TEST(failed_writes_and_syncs_end_the_process), /* first: no thread of libuv's pool yet */
        TEST(dots_and_replies_are_handed_out),
        TEST(replies_share_a_sync_and_done_saves_it),
        TEST(a_full_disk_is_asked_for_its_ballast),
        TEST(a_sync_comes_when_the_oldest_open_reply_is_due),
        TEST(a_reply_said_again_keeps_its_time),
        TEST(close_while_syncing),
        TEST(an_idle_file_is_cut_down),
        TEST(the_name_of_an_idle_file_s_successor_is_synced),
        TEST(the_name_is_synced_at_the_close),
        TEST(a_busy_file_is_rotated_with_what_is_open),
        TEST(torn_at_every_byte),
        TEST(a_flipped_byte_ends_the_file),
        TEST(an_example_of_version_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
