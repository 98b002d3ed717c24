/* test_segment_fill.c - the log's prepared segments hold written blocks (on file systems that tell: ext4, xfs, btrfs).
 */
#include "raft/replica_io.h"
#include "raft/test_cluster.h"

#include <dirent.h>
#include <fcntl.h>

/* Whether all open segments in the directory are whole and without holes, and there is one. */
static bool all_written(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0, written = 0;

    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        struct stat st;
        int fd;

        if (strncmp(e->d_name, "open-", 5) != 0)
            continue;
        fd = openat(dirfd(dir), e->d_name, O_RDONLY);
        assert_true(fd >= 0 && fstat(fd, &st) == 0);
        n++;
        written += st.st_size == REPLICA_SEGMENT_SIZE && lseek(fd, 0, SEEK_HOLE) == st.st_size;
        close(fd);
    }
    closedir(dir);
    return n > 0 && written == n;
}

/* The next ones are being made while the test looks: it waits for them. */
static bool segments_written(struct cluster *c, void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < NODES; i++)
        if (!all_written(c->nodes[i].dir))
            return false;
    return true;
}

static void segments_are_written(void **state)
{
    struct cluster *c = cluster_start(0x5e9, 0);
    (void)state;

    load_cluster(c, 2000, 64, 400, 60);
    assert_true(run_until(c, segments_written, NULL, 60));
    assert_converges(c, 20);
    cluster_stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(segments_are_written)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
