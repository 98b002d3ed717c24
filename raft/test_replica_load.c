/* test_replica_load.c - what is refused, and what is stored again, when a replica opens its directory. fdatasync is
 * this file's: it knows what a power cut would leave of term and vote; read and pread too: a file may not read. */
#include "proto/base/le.h"
#include "raft/acked.h"
#include "raft/log_dir.h"
#include "raft/test_cluster.h"
#include "raft/voted.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

enum { RECORD = 32, FILES = 3 };

static const char *const names[FILES] = {"metadata1", "metadata2", VOTED_FILE};

static struct {
    _Atomic(const char *) dir; /* libuv's pool asks too; NULL: nobody watches */
    bool fail;                 /* each sync of libraft's two files */
    uint8_t stored[FILES][RECORD];
    unsigned syncs[FILES];
} disk;

static void read_record(const char *dir, const char *name, uint8_t record[RECORD])
{
    char *path = mr_asprintf("%s/%s", dir, name);
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    assert_int_equal(fread(record, 1, RECORD, f), RECORD);
    fclose(f);
    free(path);
}

/* In the page cache: a power cut takes it away. */
static void write_record(const char *dir, const char *name, const uint8_t record[RECORD])
{
    char *path = mr_asprintf("%s/%s", dir, name);
    FILE *f = fopen(path, "r+b");

    assert_non_null(f);
    assert_int_equal(fwrite(record, 1, RECORD, f), RECORD);
    fclose(f);
    free(path);
}

int fdatasync(int fd)
{
    const char *dir = atomic_load(&disk.dir);
    char link[32], path[PATH_MAX], want[PATH_MAX];
    ssize_t n = -1;

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (dir != NULL)
        n = readlink(link, path, sizeof(path) - 1);
    path[n < 0 ? 0 : n] = 0;
    for (unsigned i = 0; dir != NULL && i < FILES; i++) {
        (void)snprintf(want, sizeof(want), "%s/%s", dir, names[i]);
        if (strcmp(path, want) != 0)
            continue;
        if (disk.fail && i < 2) {
            errno = EIO; /* told once: the page is clean from now on */
            return -1;
        }
        read_record(dir, names[i], disk.stored[i]);
        disk.syncs[i]++;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static _Atomic(const char *) unreadable; /* a path; NULL: none */

static bool reads_badly(int fd)
{
    const char *bad = atomic_load(&unreadable);
    char link[32], path[PATH_MAX];

    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = bad != NULL ? readlink(link, path, sizeof(path) - 1) : -1;
    path[n < 0 ? 0 : n] = 0;
    if (n < 0 || strcmp(path, bad) != 0)
        return false;
    errno = EIO;
    return true;
}

/* raft_uv's; pread is log_dir.c's. */
ssize_t read(int fd, void *out, size_t len)
{
    return reads_badly(fd) ? -1 : (ssize_t)syscall(SYS_read, fd, out, len);
}

ssize_t pread(int fd, void *out, size_t len, off_t at)
{
    return reads_badly(fd) ? -1 : (ssize_t)syscall(SYS_pread64, fd, out, len, at);
}

static atomic_uint names_left; /* until readdir fails once; 0: it does not */

struct dirent *readdir(DIR *d)
{
    static struct dirent *(*real)(DIR *);

    if (atomic_load(&names_left) > 0 && atomic_fetch_sub(&names_left, 1) == 1) {
        errno = EIO;
        return NULL;
    }
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "readdir");
    return real(d);
}

/* All that is there now is stored. */
static void watch(const char *dir)
{
    disk.fail = false;
    memset(disk.syncs, 0, sizeof(disk.syncs));
    for (unsigned i = 0; i < FILES; i++)
        read_record(dir, names[i], disk.stored[i]);
    atomic_store(&disk.dir, dir);
}

static void cut_power(void)
{
    const char *dir = atomic_exchange(&disk.dir, NULL);

    for (unsigned i = 0; i < FILES; i++)
        write_record(dir, names[i], disk.stored[i]);
}

struct meta {
    uint64_t version, term, vote;
};

static struct meta newest(const char *dir)
{
    struct meta best = {0};

    for (unsigned i = 0; i < 2; i++) {
        uint8_t record[RECORD];
        read_record(dir, names[i], record);
        if (mr_get_le64(record + 8) > best.version)
            best = (struct meta){mr_get_le64(record + 8), mr_get_le64(record + 16), mr_get_le64(record + 24)};
    }
    return best;
}

/* As raft_uv begins to; a process that is killed then does not sync it. */
static void write_newer(const char *dir, uint64_t term, uint64_t vote)
{
    uint64_t version = newest(dir).version + 1;
    uint8_t record[RECORD];

    mr_put_le64(record, 1);
    mr_put_le64(record + 8, version);
    mr_put_le64(record + 16, term);
    mr_put_le64(record + 24, vote);
    write_record(dir, names[version % 2 == 1 ? 0 : 1], record);
}

/* The third node of three, which has stopped; its term. */
static struct cluster *with_one_stopped(uint64_t seed, unsigned entries, uint64_t *term)
{
    struct cluster *c = cluster_start(seed, 0);

    load_cluster(c, entries, 16, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    *term = newest(c->nodes[2].dir).term;
    assert_true(*term >= 2);
    return c;
}

static void must_open(struct cluster *c)
{
    char error[512] = "";

    if (node_open(c, 2, error, sizeof(error)) != MR_OK)
        fail_msg("%s", error);
}

static void must_not_open(struct cluster *c, int rc, const char *word)
{
    char error[512] = "";

    assert_int_equal(node_open(c, 2, error, sizeof(error)), rc);
    if (strstr(error, word) == NULL)
        fail_msg("%s", error);
    c->nodes[2].replica = NULL;
    load_cluster(c, 20, 16, 100, 60); /* its handles close */
}

/* What a life acknowledges in a term is worth nothing when a power cut turns the term back. */
static void stores_again_what_a_killed_life_wrote(void **state)
{
    uint64_t term;
    struct cluster *c = with_one_stopped(0x39001, 20, &term);
    const char *dir = c->nodes[2].dir;
    char error[512] = "";
    struct voted voted;
    (void)state;

    watch(dir);
    write_newer(dir, term + 1, 1);
    must_open(c);
    assert_int_equal(disk.syncs[0] + disk.syncs[1], 1);
    cut_power();
    assert_true(newest(dir).term == term + 1);
    assert_true(newest(dir).vote == 1);
    /* The record beside them, which is never newer, has it too. */
    assert_int_equal(voted_open(&voted, dir, error, sizeof(error)), MR_OK);
    assert_true(voted.term == term + 1 && voted.vote == 1);
    voted_close(&voted);
    node_stop(c, 2);

    node_start(c, 2);
    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    assert_true(replica_term(c->nodes[2].replica) > term);
    cluster_stop(c);
}

/* A disk that fails and is well again: what the failed start wrote is in the page cache, and no later sync would store
 * it. */
static void stores_again_what_a_failed_start_wrote(void **state)
{
    uint64_t term;
    struct cluster *c = with_one_stopped(0x39002, 20, &term);
    const char *dir = c->nodes[2].dir;
    (void)state;

    watch(dir);
    write_newer(dir, term + 1, 0);
    disk.fail = true;
    for (unsigned starts = 0; starts < 3; starts++) {
        must_not_open(c, MR_IO, "term");
        assert_true(newest(dir).term == term + 1);
    }
    assert_int_equal(disk.syncs[0] + disk.syncs[1] + disk.syncs[2], 0);
    disk.fail = false;
    must_open(c);
    cut_power();
    assert_true(newest(dir).term == term + 1);
    node_stop(c, 2);

    node_start(c, 2);
    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

static void unlink_in(const char *dir, const char *name)
{
    char *path = mr_asprintf("%s/%s", dir, name);

    assert_int_equal(unlink(path), 0);
    free(path);
}

static unsigned remove_closed_segments(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    unsigned removed = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        if (e->d_name[0] == '0') {
            unlink_in(dir, e->d_name);
            removed++;
        }
    closedir(d);
    return removed;
}

/* A term that went back: the node would obey a leader of before, who replaces what is committed. Our own records are
 * not there, and so it is the log that tells. */
static void refuses_a_log_of_a_newer_term(void **state)
{
    uint64_t term;
    struct cluster *c = with_one_stopped(0x39003, 20, &term);
    const char *dir = c->nodes[2].dir;
    struct meta before;
    (void)state;

    unlink_in(dir, VOTED_FILE);
    unlink_in(dir, ACKED_FILE);
    write_newer(dir, term - 1, 0);
    before = newest(dir);
    must_not_open(c, MR_STALE, "entries of term");
    assert_true(newest(dir).version == before.version); /* nothing was written to it */
    write_newer(dir, term, 0);
    node_start(c, 2);

    /* The same of a snapshot without entries. */
    load_cluster(c, 2 * c->threshold, 64, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    term = newest(dir).term;
    assert_true(remove_closed_segments(dir) > 0);
    unlink_in(dir, VOTED_FILE);
    unlink_in(dir, ACKED_FILE);
    write_newer(dir, term - 1, 0);
    must_not_open(c, MR_STALE, "entries of term");
    write_newer(dir, term, 0);
    must_open(c);
    node_stop(c, 2);
    cluster_stop(c);
}

/* The third node of three, which has stopped with two snapshots at least; the newest one's. */
static struct cluster *with_snapshots(uint64_t seed, struct log_dir *files)
{
    struct cluster *c = cluster_start(seed, 0);

    load_cluster(c, 3000, 16, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    assert_int_equal(log_dir_list(files, c->nodes[2].dir), 0);
    assert_true(files->snapshot >= 2 * c->threshold && files->n_closed > 0);
    return c;
}

static char *path_of(const struct cluster *c, const char *name)
{
    return mr_asprintf("%s/%s", c->nodes[2].dir, name);
}

/* raft_uv would take the one before, and not say so. */
static void waits_for_a_snapshot_that_does_not_read(void **state)
{
    struct log_dir files;
    struct cluster *c = with_snapshots(0x39005, &files);
    char *path = path_of(c, files.snapshot_meta);
    (void)state;

    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&unreadable, path);
        must_not_open(c, MR_IO, "snapshot");
        atomic_store(&unreadable, NULL);
        path[strlen(path) - strlen(".meta")] = 0; /* the other file */
    }
    node_start(c, 2);
    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    free(path);
    log_dir_free(&files);
    cluster_stop(c);
}

/* A directory of which a part is not told would pass for one where the rest is not there. */
static void refuses_a_directory_that_does_not_read(void **state)
{
    struct log_dir files;
    struct cluster *c = with_snapshots(0x39007, &files);
    char error[512] = "";
    unsigned failed = 0;
    (void)state;

    for (unsigned n = 1;; n++) {
        atomic_store(&names_left, n);
        int rc = node_open(c, 2, error, sizeof(error));
        if (atomic_exchange(&names_left, 0) > 0) { /* it did not ask so often */
            assert_int_equal(rc, MR_OK);
            break;
        }
        assert_int_equal(rc, MR_IO);
        assert_non_null(strstr(error, strerror(EIO)));
        c->nodes[2].replica = NULL;
        failed++;
    }
    assert_true(failed > 2 * (files.n_closed + files.n_open)); /* it is listed more than once */
    node_stop(c, 2);
    log_dir_free(&files);
    cluster_stop(c);
}

static void put(const struct cluster *c, const char *name, const char *suffix)
{
    char *path = mr_asprintf("%s/%s%s", c->nodes[2].dir, name, suffix);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_true(fputs("nothing that was ever a snapshot", f) >= 0);
    fclose(f);
    free(path);
}

static void takes_the_snapshot_before_only_with_the_log_behind_it(void **state)
{
    struct log_dir files;
    struct cluster *c = with_snapshots(0x39006, &files);
    char name[LOG_DIR_NAME];
    (void)state;

    assert_true(files.closed[files.n_closed - 1].last > files.snapshot);
    (void)snprintf(name, sizeof(name), "snapshot-%llu-%llu-99999999", (unsigned long long)files.snapshot_term,
                   (unsigned long long)files.closed[files.n_closed - 1].last);
    put(c, name, "");
    put(c, name, ".meta");
    must_open(c);
    node_stop(c, 2);
    assert_true(remove_closed_segments(c->nodes[2].dir) > 0);
    unlink_in(c->nodes[2].dir, ACKED_FILE);
    must_not_open(c, MR_STALE, "is damaged");
    log_dir_free(&files);
    cluster_stop(c);
}

/* Who has no term yet has nothing that could go back, and may still be given its first configuration. */
static void writes_nothing_for_a_first_start(void **state)
{
    struct cluster *c = mr_malloc(sizeof(*c));
    (void)state;

    cluster_init(c, 0x39004);
    must_open(c);
    for (unsigned i = 0; i < 2; i++) {
        char *path = mr_asprintf("%s/%s", c->nodes[2].dir, names[i]);
        assert_int_equal(access(path, F_OK), -1);
        free(path);
    }
    assert_int_equal(node_bootstrap(&c->nodes[2]), MR_OK);
    node_stop(c, 2);
    must_open(c);
    assert_true(newest(c->nodes[2].dir).term == 1);
    node_stop(c, 2);
    cluster_stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stores_again_what_a_killed_life_wrote),
        cmocka_unit_test(stores_again_what_a_failed_start_wrote),
        cmocka_unit_test(refuses_a_log_of_a_newer_term),
        cmocka_unit_test(waits_for_a_snapshot_that_does_not_read),
        cmocka_unit_test(refuses_a_directory_that_does_not_read),
        cmocka_unit_test(takes_the_snapshot_before_only_with_the_log_behind_it),
        cmocka_unit_test(writes_nothing_for_a_first_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
