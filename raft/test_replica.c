/* test_replica.c - three replicas: elections, agreement, loss of leadership, restart, what directories are refused, the
 * guards. */
#include "proto/base/test_dies.h"
#include "raft/acked.h"
#include "raft/raft_wire.h"
#include "raft/replica_io.h"
#include "raft/test_cluster.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

static void elects_and_applies_everywhere(void **state)
{
    struct cluster *c = cluster_start(0x1234567, 0);
    struct replica_stats stats;
    (void)state;

    load_cluster(c, 20000, 256, 40, 120);
    assert_converges(c, 20);
    assert_true(c->nodes[0].machine.count >= 20000);
    for (unsigned i = 0; i < NODES; i++) {
        replica_stats(c->nodes[i].replica, &stats);
        assert_true(stats.snapshots_taken >= 5);
        assert_true(stats.last_snapshot_bytes == sizeof(struct machine));
        assert_true(c->nodes[i].changes > 0);
        assert_true(c->nodes[i].leader == leader_of(c)->number + 1);
        assert_true(replica_applied(c->nodes[i].replica) == c->nodes[i].machine.index);
    }
    cluster_stop(c);
}

static void agrees_in_spite_of_loss(void **state)
{
    struct cluster *c = cluster_start(0x777, 0);
    (void)state;

    c->loss_permille = 20;
    c->delay_us = 8000;
    load_cluster(c, 3000, 64, 200, 120);
    c->loss_permille = 0;
    assert_converges(c, 20);
    cluster_stop(c);
}

/* Entries of the greatest size for a follower that was away: more than a link may queue in one message. */
static void large_entries_reach_a_follower_that_was_away(void **state)
{
    struct cluster *c = cluster_start(0x99, 0);
    unsigned away = (leader_of(c)->number + 1) % NODES;
    (void)state;

    cut_off(c, away, true);
    load_cluster(c, 200, 16, REPLICA_MAX_ENTRY, 60);
    cut_off(c, away, false);
    assert_converges(c, 30);
    cluster_stop(c);
}

struct other {
    struct node *old;
};

static bool has_other_leader(struct cluster *c, void *arg)
{
    struct other *o = arg;
    struct node *leader = leader_of(c);

    return leader != NULL && leader != o->old && replica_role(o->old->replica) != REPLICA_LEADER;
}

static void old_leader_says_unknown(void **state)
{
    struct cluster *c = cluster_start(0xabc, 0);
    struct other o;
    uint64_t term;
    (void)state;

    load_cluster(c, 500, 32, 40, 30);
    o.old = leader_of(c);
    term = replica_term(o.old->replica);
    cut_off(c, o.old->number, true);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(replica_propose(o.old->replica, "lost", 4, on_proposed, o.old), MR_OK);
    assert_int_equal(c->unknown, 0);
    assert_true(run_until(c, has_other_leader, &o, 20));
    assert_int_equal(replica_propose(o.old->replica, "late", 4, on_proposed, o.old), MR_NOTLEADER);
    assert_true(replica_term(leader_of(c)->replica) > term);
    load_cluster(c, 500, 32, 40, 30);
    assert_int_equal(c->unknown, 10);
    cut_off(c, o.old->number, false);
    assert_converges(c, 20);
    assert_true(replica_leader(o.old->replica) == leader_of(c)->number + 1);
    cluster_stop(c);
}

static void close_says_unknown(void **state)
{
    struct cluster *c = cluster_start(0xabd, 0);
    struct node *leader = leader_of(c);
    (void)state;

    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(replica_propose(leader->replica, "x", 1, on_proposed, leader), MR_OK);
    assert_int_equal(c->ok + c->unknown, 0);
    node_stop(c, leader->number);
    assert_int_equal(c->ok, 0);
    assert_int_equal(c->unknown, 10);
    cluster_stop(c);
}

static void proposals_have_limits(void **state)
{
    struct cluster *c = cluster_start(0xabe, 0);
    struct node *leader = leader_of(c);
    struct node *follower = &c->nodes[(leader->number + 1) % NODES];
    static uint8_t data[REPLICA_MAX_ENTRY + 1];
    unsigned taken = 0;
    int rc;
    (void)state;

    assert_int_equal(replica_propose(leader->replica, data, 0, on_proposed, leader), MR_LIMIT);
    assert_int_equal(replica_propose(leader->replica, data, sizeof(data), on_proposed, leader), MR_LIMIT);
    assert_int_equal(replica_propose(follower->replica, data, 1, on_proposed, follower), MR_NOTLEADER);
    while ((rc = replica_propose(leader->replica, data, REPLICA_MAX_ENTRY, on_proposed, leader)) == MR_OK)
        taken++;
    assert_int_equal(rc, MR_BUSY);
    assert_in_range(taken, 200, 300); /* 16 MiB that the disk has not */
    load_cluster(c, taken + 100, taken + 100, 10, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

static void restarts_from_disk(void **state)
{
    struct cluster *c = cluster_start(0xdef, 0);
    unsigned number;
    (void)state;

    load_cluster(c, 2500, 64, 100, 60);
    number = (leader_of(c)->number + 1) % NODES;
    node_stop(c, number);
    load_cluster(c, 200, 64, 100, 60);
    node_start(c, number);
    assert_true(c->nodes[number].machine.restores == 1);
    assert_converges(c, 20);
    /* The leader too, and all at once. */
    for (unsigned i = 0; i < NODES; i++)
        node_stop(c, i);
    for (unsigned i = 0; i < NODES; i++)
        node_start(c, i);
    assert_true(run_until(c, has_leader, NULL, 10));
    load_cluster(c, 100, 64, 100, 60);
    assert_converges(c, 20);
    assert_true(c->nodes[0].machine.count >= 2800);
    cluster_stop(c);
}

static void on_transferred(void *arg, int status)
{
    *(int *)arg = status;
}

static bool is_settled(struct cluster *c, void *arg)
{
    (void)c;
    return *(int *)arg != 1;
}

static void hands_leadership_over(void **state)
{
    struct cluster *c = cluster_start(0xfed, 0);
    struct node *leader = leader_of(c);
    uint64_t to = (leader->number + 1) % NODES + 1;
    int status = 1;
    (void)state;

    load_cluster(c, 100, 16, 100, 60);
    assert_int_equal(replica_transfer(c->nodes[to - 1].replica, 0, on_transferred, &status), MR_NOTLEADER);
    assert_int_equal(replica_transfer(leader->replica, 99, on_transferred, &status), MR_NOTFOUND);
    assert_int_equal(replica_transfer(leader->replica, to, on_transferred, &status), MR_OK);
    assert_int_equal(replica_transfer(leader->replica, to, on_transferred, &status), MR_BUSY);
    assert_int_equal(replica_propose(leader->replica, "x", 1, on_proposed, leader), MR_BUSY);
    assert_true(run_until(c, is_settled, &status, 10));
    assert_int_equal(status, MR_OK);
    assert_true(replica_leader(leader->replica) == to);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* Removes the closed segments: what a damaged disk, or an operator with an old copy, does to a log. */
static unsigned remove_segments(const char *dir)
{
    char path[512];
    struct dirent *e;
    unsigned removed = 0;
    DIR *d = opendir(dir);

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        if (e->d_name[0] != '0')
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        assert_int_equal(unlink(path), 0);
        removed++;
    }
    closedir(d);
    return removed;
}

static uint64_t number_at(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static uint8_t *read_whole(const char *dir, const char *name, size_t *len)
{
    char path[512];
    FILE *f;
    uint8_t *data;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *len = (size_t)ftell(f);
    rewind(f);
    data = mr_malloc(*len);
    assert_true(fread(data, 1, *len, f) == *len);
    fclose(f);
    return data;
}

/* libraft takes the older of its two files without a word, and with it an older vote. */
static void refuses_an_older_vote(void **state)
{
    struct cluster *c = cluster_start(0x4446, 0);
    const char *dir = c->nodes[2].dir;
    uint64_t versions[2];
    char path[512];
    char error[512];
    (void)state;

    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    for (unsigned i = 0; i < 2; i++) {
        size_t len;
        uint8_t *data = read_whole(dir, i == 0 ? "metadata1" : "metadata2", &len);
        assert_int_equal(len, 32);
        versions[i] = number_at(data + 8, 8);
        free(data);
    }
    snprintf(path, sizeof(path), "%s/metadata%d", dir, versions[0] > versions[1] ? 1 : 2);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(node_open(c, 2, error, sizeof(error)), MR_STALE);
    c->nodes[2].replica = NULL;
    load_cluster(c, 20, 16, 100, 60);
    cluster_stop(c);
}

/* A candidate that hears nothing asks again. What is stored of the vote that it was given may not be lost while the
 * same is stored anew: neither of libraft's two files says then that nobody was voted for. */
static void keeps_a_vote_that_is_given_again(void **state)
{
    struct cluster *c = cluster_start(0x70fe, 0);
    struct raft_message m = {.type = RAFT_REQUEST_VOTE};
    struct node *voter;
    uint64_t candidate;
    (void)state;

    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    voter = leader_of(c) == &c->nodes[0] ? &c->nodes[1] : &c->nodes[0];
    candidate = 1 + 2 + 3 - (leader_of(c)->number + 1) - (voter->number + 1);
    m.request_vote = (struct raft_request_vote){.version = 2,
                                                .term = replica_term(voter->replica) + 1,
                                                .candidate_id = candidate,
                                                .last_log_index = replica_last(voter->replica) + 100,
                                                .last_log_term = replica_term(voter->replica),
                                                .disrupt_leader = true};
    for (unsigned asks = 0; asks < 2; asks++) {
        uint8_t *head;
        size_t len;
        assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
        assert_int_equal(replica_receive(voter->replica, candidate, head, len, NULL, 0), MR_OK);
        free(head);
    }
    for (unsigned i = 0; i < 2; i++) {
        size_t len;
        uint8_t *data = read_whole(voter->dir, i == 0 ? "metadata1" : "metadata2", &len);
        assert_int_equal(len, 32);
        assert_true(number_at(data + 16, 8) == m.request_vote.term);
        assert_true(number_at(data + 24, 8) == candidate);
        free(data);
    }
    cluster_stop(c);
}

/* libraft would refuse every entry for ever (UPSTREAM.md 32). */
static void does_not_start_without_room(void **state)
{
    struct cluster *c = cluster_start(0x4447, 0);
    struct rlimit before, none;
    char error[512];
    (void)state;

    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = (struct rlimit){.rlim_cur = REPLICA_SEGMENT_SIZE / 2, .rlim_max = before.rlim_max};
    void (*action)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    if (node_open(c, 2, error, sizeof(error)) != MR_OK)
        fail_msg("%s", error);
    assert_int_equal(replica_start(c->nodes[2].replica, error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, "no room"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, action);
    node_stop(c, 2);
    node_start(c, 2);
    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* The newest closed segment's first batches, as a truncation leaves them beside it. Returns their last index. */
static uint64_t begin_truncation(const char *dir)
{
    uint64_t first = 0, last = 0, end;
    char name[512] = "";
    struct dirent *e;
    DIR *d = opendir(dir);
    size_t len, at = 8;
    uint8_t *data;
    FILE *f;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        unsigned long long a, b;
        if (sscanf(e->d_name, "%llu-%llu", &a, &b) == 2 && a > first) {
            first = a;
            last = b;
            snprintf(name, sizeof(name), "%s", e->d_name);
        }
    }
    closedir(d);
    data = read_whole(dir, name, &len);
    end = first - 1;
    while (end < first + (last - first) / 2) {
        uint64_t n = number_at(data + at + 8, 8);
        size_t size = 16 + 16 * (size_t)n;
        for (uint64_t i = 0; i < n; i++)
            size += number_at(data + at + 16 + 16 * i + 12, 4);
        at += size;
        end += n;
        assert_true(at <= len);
    }
    assert_true(end < last);
    snprintf(name, sizeof(name), "%s/%016llu-%016llu", dir, (unsigned long long)first, (unsigned long long)end);
    f = fopen(name, "wb");
    assert_non_null(f);
    assert_true(fwrite(data, 1, at, f) == at);
    fclose(f);
    free(data);
    return end;
}

static void starts_within_a_truncation(void **state)
{
    struct cluster *c = cluster_start(0x4447, 0);
    const char *dir = c->nodes[2].dir;
    char path[512];
    char error[512];
    uint64_t end;
    (void)state;

    load_cluster(c, 300, 16, 100, 60);
    assert_converges(c, 20);
    node_stop(c, 2);
    end = begin_truncation(dir);
    /* As it stands, entries would be lost that this node acknowledged: not for us to finish. */
    assert_int_equal(node_open(c, 2, error, sizeof(error)), MR_MALFORMED);
    c->nodes[2].replica = NULL;
    load_cluster(c, 20, 16, 100, 60); /* the handles of the refused one close */
    snprintf(path, sizeof(path), "%s/" ACKED_FILE, dir);
    assert_int_equal(unlink(path), 0);
    /* A leader that remembers what this node had acknowledged would not go back further (UPSTREAM.md 35). */
    for (unsigned i = 0; i < 2; i++)
        node_stop(c, i);
    for (unsigned i = 0; i < 2; i++)
        node_start(c, i);
    if (node_open(c, 2, error, sizeof(error)) != MR_OK)
        fail_msg("%s", error);
    assert_int_equal(replica_start(c->nodes[2].replica, error, sizeof(error)), MR_OK);
    assert_true(replica_last(c->nodes[2].replica) == end);
    assert_true(run_until(c, has_leader, NULL, 10));
    load_cluster(c, 20, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

static void refuses_a_log_below_its_acknowledgements(void **state)
{
    struct cluster *c = cluster_start(0x4444, 0);
    struct replica_stats stats;
    char error[512];
    (void)state;

    load_cluster(c, 300, 16, 100, 60);
    assert_converges(c, 20);
    replica_stats(c->nodes[2].replica, &stats);
    assert_true(stats.acknowledged >= 300);
    node_stop(c, 2);
    assert_true(remove_segments(c->nodes[2].dir) > 0);
    assert_int_equal(node_open(c, 2, error, sizeof(error)), MR_STALE);
    assert_non_null(strstr(error, "acknowledged"));
    c->nodes[2].replica = NULL;
    load_cluster(c, 100, 16, 100, 60); /* the others go on, and the handles of the refused one close */
    cluster_stop(c);
}

/* The segment that is written to: what a process that is killed leaves behind. */
static uint8_t *read_open_segment(const char *dir, size_t *len)
{
    uint8_t *data = mr_malloc(REPLICA_SEGMENT_SIZE);

    for (unsigned n = 1; n < 100; n++) {
        char path[512];
        FILE *f;

        snprintf(path, sizeof(path), "%s/open-%u", dir, n);
        f = fopen(path, "rb");
        if (f == NULL)
            continue;
        assert_true(fread(data, 1, REPLICA_SEGMENT_SIZE, f) == REPLICA_SEGMENT_SIZE);
        fclose(f);
        for (*len = REPLICA_SEGMENT_SIZE; *len > 0 && data[*len - 1] == 0;)
            --*len;
        if (*len > 0)
            return data;
    }
    fail_msg("no segment is in use");
    return NULL;
}

/* A disk that lost the end of what was written last, anywhere: libraft's binary frees its memory twice (UPSTREAM.md
 * 21). */
static void refuses_an_open_segment_that_is_cut(void **state)
{
    struct cluster *c = cluster_start(0x4445, 0);
    struct node *node = &c->nodes[2];
    char error[512];
    char path[512];
    uint8_t *data;
    size_t len;
    (void)state;

    load_cluster(c, 300, 16, 100, 60);
    assert_converges(c, 20);
    data = read_open_segment(node->dir, &len);
    node_stop(c, 2);
    snprintf(path, sizeof(path), "%s/open-1", node->dir);
    for (size_t cut = 1; cut < len; cut += 1 + rnd(c) % (len / 40)) {
        FILE *f;
        int rc;

        (void)remove_segments(node->dir);
        f = fopen(path, "wb");
        assert_non_null(f);
        assert_true(fwrite(data, 1, cut, f) == cut);
        fclose(f);
        rc = node_open(c, 2, error, sizeof(error));
        if (rc != MR_STALE && rc != MR_MALFORMED)
            fail_msg("cut at %zu of %zu: %d %s", cut, len, rc, error);
        assert_true(strlen(error) > 20);
        (void)unlink(path); /* of one that is refused before the log is read */
        c->nodes[2].replica = NULL;
    }
    free(data);
    load_cluster(c, 100, 16, 100, 60);
    cluster_stop(c);
}

/* A disk that lost the end of a file: nothing that another start could mend, wherever the cut is. */
static void refuses_a_closed_segment_that_is_cut(void **state)
{
    struct cluster *c = cluster_start(0x4446, 0);
    char error[512], path[512] = "";
    struct stat st;
    struct dirent *e;
    (void)state;

    load_cluster(c, c->threshold + 100, 16, 100, 60); /* a snapshot closes segments */
    assert_converges(c, 20);
    node_stop(c, 2);
    DIR *d = opendir(c->nodes[2].dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL)
        if (e->d_name[0] == '0')
            snprintf(path, sizeof(path), "%s/%s", c->nodes[2].dir, e->d_name);
    closedir(d);
    assert_int_equal(stat(path, &st), 0);
    for (off_t size = st.st_size - 1; size > 0; size -= 1 + (off_t)(rnd(c) % ((uint64_t)st.st_size / 20))) {
        assert_int_equal(truncate(path, size), 0);
        int rc = node_open(c, 2, error, sizeof(error));
        if (rc != MR_MALFORMED && rc != MR_STALE)
            fail_msg("cut at %ld of %ld: %d %s", (long)size, (long)st.st_size, rc, error);
        c->nodes[2].replica = NULL;
    }
    load_cluster(c, 10, 16, 100, 60);
    cluster_stop(c);
}

/* Term and vote cannot be trusted: that is the directory's fault, which no other start mends, and not the disk's. */
static void refuses_damaged_metadata(void **state)
{
    struct cluster *c = cluster_start(0x5444, 0);
    struct node *node = &c->nodes[2];
    char error[512];
    (void)state;

    load_cluster(c, 10, 16, 100, 60);
    node_stop(c, 2);
    for (unsigned i = 1; i <= 2; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/metadata%u", node->dir, i);
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fputc(0x5a, f), 0x5a); /* in the format's number */
        fclose(f);
    }
    assert_int_equal(node_open(c, 2, error, sizeof(error)), MR_MALFORMED);
    assert_non_null(strstr(error, "metadata"));
    node->replica = NULL;
    cluster_stop(c);
}

static void bootstraps_only_what_is_empty(void **state)
{
    struct cluster *c = cluster_start(0x5555, 0);
    char error[512];
    (void)state;

    load_cluster(c, 10, 16, 100, 60);
    node_stop(c, 1);
    assert_int_equal(node_open(c, 1, error, sizeof(error)), MR_OK);
    assert_int_equal(node_bootstrap(&c->nodes[1]), MR_EXISTS);
    assert_int_equal(replica_start(c->nodes[1].replica, error, sizeof(error)), MR_OK);
    assert_converges(c, 20);
    /* Opened and closed without a start: nothing leaks. */
    node_stop(c, 1);
    assert_int_equal(node_open(c, 1, error, sizeof(error)), MR_OK);
    node_stop(c, 1);
    cluster_stop(c);
}

static void refuses_a_wrong_configuration(void **state)
{
    struct cluster *c = mr_malloc(sizeof(*c));
    char error[512];
    (void)state;

    cluster_init(c, 5);
    c->threshold = 6000;
    c->trailing = 4000;
    assert_int_equal(node_open(c, 0, error, sizeof(error)), MR_INVAL);
    c->threshold = c->trailing = 0;
    snprintf(c->nodes[0].dir, sizeof(c->nodes[0].dir), "%s/none", c->dir);
    assert_int_equal(node_open(c, 0, error, sizeof(error)), MR_IO);
    cluster_stop(c);
}

static bool never(struct cluster *c, void *arg)
{
    (void)c;
    (void)arg;
    return false;
}

/* Runs a part in a child that must end by abort: mr_panic. */
static void assert_panics(void (*part)(void))
{
    char dir[] = "/tmp/mailraft-panic-XXXXXX";
    pid_t pid;

    assert_non_null(mkdtemp(dir));
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("TMPDIR", dir, 1); /* what it leaves behind goes with it */
        test_let_die();
        part();
        _exit(7);
    }
    test_assert_died(pid);
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The directory goes away under a running node: the next term cannot be stored. */
static void lose_directory(void)
{
    struct cluster *c = cluster_start(0x6666, 0);
    char moved[256];
    struct node *leader = leader_of(c);

    for (unsigned i = 0; i < NODES; i++) {
        snprintf(moved, sizeof(moved), "%s.gone", c->nodes[i].dir);
        rename(c->nodes[i].dir, moved);
    }
    cut_off(c, leader->number, true);
    run_until(c, never, NULL, 10);
}

/* The segments that are written to lose their names: the next snapshot cannot close them. */
static void lose_open_segments(void)
{
    struct cluster *c = cluster_start(0x7777, 0);

    for (unsigned i = 0; i < NODES; i++)
        for (unsigned n = 1; n < 20; n++) {
            char path[512];
            snprintf(path, sizeof(path), "%s/open-%u", c->nodes[i].dir, n);
            (void)unlink(path);
        }
    load_cluster(c, c->threshold + 200, 16, 100, 60);
    run_until(c, never, NULL, 10);
}

/* What a failed sync of their directory leaves of the segments to come: files that are there. */
static void find_segments_in_the_way(void)
{
    struct cluster *c = cluster_start(0x8888, 0);

    for (unsigned i = 0; i < NODES; i++)
        for (unsigned n = 1; n < 20; n++) {
            char path[512];
            snprintf(path, sizeof(path), "%s/open-%u", c->nodes[i].dir, n);
            int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
            if (fd >= 0)
                close(fd);
        }
    load_cluster(c, c->threshold + 200, 16, 100, 60);
    run_until(c, never, NULL, 10);
}

static void stops_when_a_segment_to_come_was_not_synced(void **state)
{
    (void)state;
    assert_panics(find_segments_in_the_way);
}

static void stops_when_a_segment_cannot_be_closed(void **state)
{
    (void)state;
    assert_panics(lose_open_segments);
}

static void stops_when_a_term_cannot_be_stored(void **state)
{
    (void)state;
    assert_panics(lose_directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elects_and_applies_everywhere),
        cmocka_unit_test(agrees_in_spite_of_loss),
        cmocka_unit_test(large_entries_reach_a_follower_that_was_away),
        cmocka_unit_test(old_leader_says_unknown),
        cmocka_unit_test(close_says_unknown),
        cmocka_unit_test(proposals_have_limits),
        cmocka_unit_test(restarts_from_disk),
        cmocka_unit_test(hands_leadership_over),
        cmocka_unit_test(refuses_a_log_below_its_acknowledgements),
        cmocka_unit_test(refuses_an_open_segment_that_is_cut),
        cmocka_unit_test(refuses_an_older_vote),
        cmocka_unit_test(keeps_a_vote_that_is_given_again),
        cmocka_unit_test(does_not_start_without_room),
        cmocka_unit_test(starts_within_a_truncation),
        cmocka_unit_test(refuses_damaged_metadata),
        cmocka_unit_test(refuses_a_closed_segment_that_is_cut),
        cmocka_unit_test(bootstraps_only_what_is_empty),
        cmocka_unit_test(refuses_a_wrong_configuration),
        cmocka_unit_test(stops_when_a_term_cannot_be_stored),
        cmocka_unit_test(stops_when_a_segment_cannot_be_closed),
        cmocka_unit_test(stops_when_a_segment_to_come_was_not_synced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
