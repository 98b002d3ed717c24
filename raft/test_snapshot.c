/* test_snapshot.c - a follower that was away gets the snapshot while the leader goes on, once and not again and again.
 */
#include "raft/raft_wire.h"
#include "raft/test_cluster.h"

#include <dirent.h>
#include <stdatomic.h>

/* Bytes of a large snapshot; RAFT_TEST_SNAPSHOT_MB changes it. */
static uint64_t large(void)
{
    const char *mb = getenv("RAFT_TEST_SNAPSHOT_MB");

    return (mb != NULL ? strtoull(mb, NULL, 10) : 100) << 20;
}

static uint64_t sent_by_all(struct cluster *c)
{
    struct replica_stats stats;
    uint64_t sent = 0;

    for (unsigned i = 0; i < NODES; i++) {
        if (c->nodes[i].replica == NULL)
            continue;
        replica_stats(c->nodes[i].replica, &stats);
        sent += stats.snapshots_sent;
    }
    return sent;
}

static uint64_t installed(struct node *n)
{
    struct replica_stats stats;

    replica_stats(n->replica, &stats);
    return stats.snapshots_installed;
}

/* A load that never ends, beside a condition. */
struct still_busy {
    struct load load;
    struct node *away;
};

static bool is_back(struct cluster *c, void *arg)
{
    struct still_busy *b = arg;
    struct node *leader = leader_of(c);

    (void)load_step(c, &b->load);
    return leader != NULL && installed(b->away) > 0 && b->away->machine.applied_after_restore > 0 &&
           b->away->machine.index + 100 > leader->machine.index;
}

static void catches_up_while_the_leader_commits(void **state)
{
    struct cluster *c = cluster_start(0xaaaa, 1 << 20);
    struct still_busy b = {.load = {.window = 32, .size = 100}};
    (void)state;

    b.away = &c->nodes[(leader_of(c)->number + 1) % NODES];
    load_cluster(c, 200, 32, 100, 60);
    cut_off(c, b.away->number, true);
    load_cluster(c, 4000, 64, 100, 60);
    cut_off(c, b.away->number, false);
    b.load.sent = c->ok + c->unknown;
    b.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_back, &b, 60));
    assert_true(b.away->machine.restores == 1);
    assert_int_equal(sent_by_all(c), 1);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* Until then the log still has what a peer lacks. */
static bool leader_has_stored_one(struct cluster *c, void *arg)
{
    const struct node *leader = leader_of(c);
    struct replica_stats stats;
    (void)arg;

    if (leader == NULL)
        return false;
    replica_stats(leader->replica, &stats);
    return stats.snapshots_taken > 0 && !replica_snapshotting(leader->replica);
}

static uint64_t taken_by_all(struct cluster *c)
{
    struct replica_stats stats;
    uint64_t taken = 0;

    for (unsigned i = 0; i < NODES; i++) {
        replica_stats(c->nodes[i].replica, &stats);
        taken += stats.snapshots_taken;
    }
    return taken;
}

/* A slow link: the transfer takes seconds, in which libraft asks for it at every rejected heartbeat. */
static void sends_a_large_snapshot_once(void **state)
{
    struct cluster *c;
    struct still_busy b = {.load = {.window = 8, .size = 100}};
    unsigned before;
    unsigned elections;
    (void)state;

    c = cluster_start_with(0xbbbb, large(), 400, 200); /* a large snapshot comes after four times as many */
    c->bulk_bytes_per_s = large() / 3;
    b.away = &c->nodes[(leader_of(c)->number + 1) % NODES];
    load_cluster(c, 200, 32, 100, 60);
    cut_off(c, b.away->number, true);
    load_cluster(c, 2500, 64, 100, 120);
    assert_true(run_until(c, leader_has_stored_one, NULL, 60));
    before = c->ok;
    elections = (unsigned)replica_term(leader_of(c)->replica);
    uint64_t taken = taken_by_all(c);
    cut_off(c, b.away->number, false);
    b.load.sent = c->ok + c->unknown;
    b.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_back, &b, 120));
    assert_true(c->ok > before);
    assert_converges(c, 30);
    assert_true(b.away->machine.ballast == large());
    /* Once by each leader: on a busy machine one may be elected meanwhile, which begins anew; on one whose disk hardly
     * moves the node may fall behind a newer one, and that may come while it takes its own. */
    unsigned leaders = (unsigned)replica_term(leader_of(c)->replica) - elections + 1;
    unsigned newer = (unsigned)(taken_by_all(c) - taken);
    assert_in_range(leaders, 1, 4);
    assert_in_range(c->bulk_sent, 1, leaders + 2 * newer);
    assert_in_range(sent_by_all(c), 1, leaders + 2 * newer);
    cluster_stop(c);
}

static bool is_sending(struct cluster *c, void *arg)
{
    (void)arg;
    return c->bulk_sent > 0;
}

/* The link breaks in the middle of the transfer; later the next attempt gets through. */
static void sends_again_after_a_broken_link(void **state)
{
    struct cluster *c = cluster_start_with(0xcccc, 8 << 20, 400, 200); /* a large one comes after four times as many */
    struct still_busy b = {.load = {.window = 8, .size = 100}};
    (void)state;

    c->bulk_bytes_per_s = 4 << 20; /* two seconds: a busy machine must not be past it before it looks */
    b.away = &c->nodes[(leader_of(c)->number + 1) % NODES];
    load_cluster(c, 200, 32, 100, 60);
    cut_off(c, b.away->number, true);
    load_cluster(c, 2500, 64, 100, 60);
    assert_true(run_until(c, leader_has_stored_one, NULL, 60));
    cut_off(c, b.away->number, false);
    assert_true(run_until(c, is_sending, NULL, 20));
    cut_off(c, b.away->number, true);
    load_cluster(c, 1500, 64, 100, 60); /* a newer snapshot */
    cut_off(c, b.away->number, false);
    b.load.sent = c->ok + c->unknown;
    b.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_back, &b, 60));
    assert_int_equal(c->bulk_sent, 2);
    assert_converges(c, 20);
    cluster_stop(c);
}

struct taker {
    struct still_busy busy;
    struct node *node;
};

static bool is_taking(struct cluster *c, void *arg)
{
    struct taker *t = arg;

    (void)load_step(c, &t->busy.load);
    for (unsigned i = 0; i < NODES; i++) {
        t->node = &c->nodes[i];
        if (replica_snapshotting(t->node->replica) && replica_role(t->node->replica) == REPLICA_FOLLOWER)
            return true;
    }
    return false;
}

/* libraft dereferences NULL when an InstallSnapshot comes while it takes a snapshot. */
static void drops_a_snapshot_that_comes_at_the_wrong_time(void **state)
{
    struct cluster *c = cluster_start(0xdddd, 32 << 20);
    struct taker t = {.busy = {.load = {.window = 64, .size = 100}}};
    struct raft_message m = {.type = RAFT_INSTALL_SNAPSHOT};
    struct replica_stats stats;
    uint64_t from;
    uint8_t *head;
    size_t len;
    (void)state;

    t.busy.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_taking, &t, 60));
    from = replica_leader(t.node->replica);
    raft_configuration_init(&m.install_snapshot.conf);
    assert_int_equal(raft_configuration_add(&m.install_snapshot.conf, 1, "a", RAFT_VOTER), 0);
    m.install_snapshot.term = replica_term(t.node->replica);
    m.install_snapshot.last_index = replica_last(t.node->replica) + 1000;
    m.install_snapshot.last_term = m.install_snapshot.term;
    m.install_snapshot.data = (struct raft_buffer){ballast_chunk, 4096};
    assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
    assert_int_equal(replica_receive(t.node->replica, from, head, len, ballast_chunk, 4096), MR_OK);
    replica_stats(t.node->replica, &stats);
    assert_true(stats.installs_dropped == 1);
    raft_configuration_close(&m.install_snapshot.conf);
    free(head);
    load_cluster(c, 500, 32, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* Who closes does not wait for the seconds that the rest of a large snapshot takes, and loses nothing. */
static void closes_while_one_is_written(void **state)
{
    struct cluster *c = cluster_start(0x9999, 128 << 20);
    struct taker t = {.busy = {.load = {.window = 64, .size = 100}}};
    struct replica_stats stats;
    (void)state;

    t.busy.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_taking, &t, 60));
    replica_stats(t.node->replica, &stats);
    assert_int_equal(stats.snapshots_taken, 0);
    uint64_t started = uv_hrtime();
    node_stop(c, t.node->number);
    assert_true(uv_hrtime() - started < UINT64_C(2500000000)); /* the whole takes four seconds */
    node_start(c, t.node->number);
    assert_int_equal(t.node->machine.restores, 0); /* none was stored */
    load_cluster(c, 200, 32, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* What a snapshot's reading waits for, in its thread. */
static atomic_bool is_read, may_be_read;

static void wait_until_it_may(struct node *n)
{
    (void)n;
    atomic_store(&is_read, true);
    while (!atomic_load(&may_be_read))
        (void)usleep(1000);
}

static bool reads(struct cluster *c, void *arg)
{
    (void)c;
    (void)arg;
    return atomic_load(&is_read);
}

/* One node was away, and now reads a snapshot until may_be_read. */
static struct cluster *cluster_that_reads(uint64_t seed, struct node **away)
{
    struct cluster *c = cluster_start(seed, 1 << 20);

    atomic_store(&is_read, false);
    atomic_store(&may_be_read, false);
    c->preparing = wait_until_it_may;
    *away = &c->nodes[(leader_of(c)->number + 1) % NODES];
    load_cluster(c, 200, 32, 100, 60);
    cut_off(c, (*away)->number, true);
    load_cluster(c, 4000, 64, 100, 60);
    cut_off(c, (*away)->number, false);
    assert_true(run_until(c, reads, NULL, 60));
    return c;
}

/* The node goes on meanwhile, with its old state; it answers its leader, so nobody else is elected. */
static void reads_one_beside_the_loop(void **state)
{
    struct still_busy b = {.load = {.window = 32, .size = 100}};
    struct cluster *c = cluster_that_reads(0x7777, &b.away);
    uint64_t applied = b.away->machine.index, term = replica_term(leader_of(c)->replica);
    (void)state;

    load_cluster(c, 1000, 64, 100, 60);
    assert_true(replica_term(leader_of(c)->replica) == term);
    assert_int_equal(b.away->machine.restores, 0);
    assert_true(b.away->machine.index == applied);
    assert_true(replica_snapshotting(b.away->replica));
    atomic_store(&may_be_read, true);
    b.load.sent = c->ok + c->unknown;
    b.load.until_ok = UINT32_MAX;
    assert_true(run_until(c, is_back, &b, 60));
    assert_true(b.away->machine.restores == 1);
    assert_int_equal(b.away->unprepared, 0);
    assert_converges(c, 20);
    cluster_stop(c);
}

struct patience {
    struct node *node;
    unsigned turns;
};

static bool is_patient(struct cluster *c, void *arg)
{
    struct patience *p = arg;
    (void)c;

    assert_false(p->node->closed);
    return ++p->turns > 200;
}

/* raft_uv has what the node reads: its directory has a snapshot as new. */
static bool is_stored(struct cluster *c, void *arg)
{
    const struct node *n = arg;
    DIR *dir = opendir(n->dir);
    bool found = false;
    (void)c;

    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        unsigned long long term, index, at;
        int end = 0;
        if (sscanf(e->d_name, "snapshot-%llu-%llu-%llu%n", &term, &index, &at, &end) == 3 && e->d_name[end] == '\0')
            found = found || index > n->machine.index;
    }
    closedir(dir);
    return found;
}

/* A close waits for the thread, and what it has read is given back. */
static void close_while_one_is_read(uint64_t seed, bool stored)
{
    struct node *node;
    struct cluster *c = cluster_that_reads(seed, &node);
    struct patience p = {.node = node};

    if (stored) {
        assert_true(run_until(c, is_stored, node, 60));
        assert_true(run_until(c, is_patient, &p, 60)); /* until raft_uv has told */
        p.turns = 0;
    }
    replica_close(p.node->replica, on_closed, p.node);
    assert_true(run_until(c, is_patient, &p, 60));
    atomic_store(&may_be_read, true);
    assert_true(run_until(c, is_closed, p.node, 20));
    assert_int_equal(p.node->machine.restores, 0);
    assert_int_equal(p.node->unprepared, 1);
    node_start(c, p.node->number);
    load_cluster(c, 200, 32, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

static void closes_while_one_is_read(void **state)
{
    (void)state;
    close_while_one_is_read(0x6666, false);
}

/* libraft would leak it (UPSTREAM.md 37). */
static void closes_while_one_is_read_that_is_stored(void **state)
{
    (void)state;
    close_while_one_is_read(0x5555, true);
}

static bool has_snapshots(struct cluster *c, void *arg)
{
    struct replica_stats stats;
    (void)arg;

    for (unsigned i = 0; i < NODES; i++) {
        replica_stats(c->nodes[i].replica, &stats);
        if (stats.snapshots_taken == 0)
            return false;
    }
    return true;
}

static int refuse(void *arg, uint64_t index, const uint8_t *data, size_t len)
{
    (void)arg;
    (void)index;
    (void)data;
    (void)len;
    return MR_CHECKSUM;
}

static void a_snapshot_that_does_not_decode_is_an_error_at_start(void **state)
{
    struct cluster *c = cluster_start(0xeeee, 0);
    struct node *n = &c->nodes[0];
    struct replica_config config = {
        .loop = &c->loop,
        .dir = n->dir,
        .id = 1,
        .name = "a",
        .election_timeout_ms = 300,
        .heartbeat_ms = 30,
        .fsm = {n, machine_apply, machine_snapshot, machine_snapshot_write, machine_snapshot_done, refuse},
        .net = {n, net_send}};
    char error[512];
    (void)state;

    load_cluster(c, 1500, 64, 100, 60);
    assert_true(run_until(c, has_snapshots, NULL, 20));
    node_stop(c, 0);
    n->closed = false;
    assert_int_equal(replica_open(&n->replica, &config, error, sizeof(error)), MR_OK);
    assert_int_equal(replica_start(n->replica, error, sizeof(error)), MR_CHECKSUM);
    assert_non_null(strstr(error, "checksum"));
    node_stop(c, 0);
    cluster_stop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(catches_up_while_the_leader_commits),
        cmocka_unit_test(sends_a_large_snapshot_once),
        cmocka_unit_test(sends_again_after_a_broken_link),
        cmocka_unit_test(drops_a_snapshot_that_comes_at_the_wrong_time),
        cmocka_unit_test(closes_while_one_is_written),
        cmocka_unit_test(reads_one_beside_the_loop),
        cmocka_unit_test(closes_while_one_is_read),
        cmocka_unit_test(closes_while_one_is_read_that_is_stored),
        cmocka_unit_test(a_snapshot_that_does_not_decode_is_an_error_at_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
