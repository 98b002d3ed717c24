/* test_cluster.h - for the tests: replicas in one process on one loop, raft_uv in temporary directories, and a network
 * in memory with delays, losses and cuts. Each link and each bulk link keeps its order, as a TCP connection would.
 * Everything here is static: it is included by several tests. */
#ifndef MR_RAFT_TEST_CLUSTER_H
#define MR_RAFT_TEST_CLUSTER_H

#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/replica.h"

#include <ftw.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka.h wants the four above. */
#include <cmocka.h>

#define UNUSED_OK __attribute__((unused))

enum { NODES = 3, TRACE = 65536, BALLAST_CHUNK = 1 << 20 };

struct cluster;

/* A message under way. */
struct packet {
    struct packet *next;
    uint64_t due_ns;
    unsigned from, to;
    size_t head_len, tail_len;
    uint8_t *head, *tail;
    int status;
    void (*done)(void *arg, int status);
    void *done_arg;
};

struct lane {
    struct packet *first, **end;
    uint64_t busy_until_ns;
};

/* The test's state machine: a chain of hashes, and a ballast that makes snapshots large. */
struct machine {
    uint64_t count;
    uint64_t hash;
    uint64_t index;
    uint64_t ballast; /* bytes, carried by snapshots */
    unsigned restores;
    unsigned applied_after_restore;
};

struct node {
    struct cluster *cluster;
    unsigned number; /* 0.. ; raft id is number + 1 */
    char dir[128];
    struct replica *replica;
    bool closed;
    struct machine machine;
    uint64_t trace[TRACE]; /* hash after each index */
    enum replica_role role;
    uint64_t term, leader;
    unsigned changes;
    unsigned unprepared;
};

struct cluster {
    uv_loop_t loop;
    uv_timer_t timer;
    char dir[96];
    struct node nodes[NODES];
    struct lane lanes[NODES][NODES][2];
    bool cut[NODES][NODES];
    uint64_t seed;
    unsigned loss_permille;
    unsigned delay_us; /* up to */
    uint64_t bulk_bytes_per_s;
    unsigned bulk_sent; /* into links that were not cut */
    unsigned threshold, trailing;
    void (*preparing)(struct node *n); /* in the thread that reads a snapshot; NULL: nothing */
    unsigned ok, unknown;
    uint64_t last_index; /* of a proposal that got MR_OK */
};

static uint8_t ballast_chunk[BALLAST_CHUNK];

UNUSED_OK static uint64_t rnd(struct cluster *c)
{
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return c->seed;
}

/* --- state machine -------------------------------------------------------------------------------------------------
 */

UNUSED_OK static void machine_apply(void *arg, uint64_t index, const uint8_t *data, size_t len, void **result)
{
    struct node *n = arg;
    struct machine *m = &n->machine;

    assert_true(index > m->index);
    m->index = index;
    m->count++;
    m->hash = XXH3_64bits_withSeed(data, len, m->hash ^ index);
    if (m->restores > 0)
        m->applied_after_restore++;
    n->trace[index % TRACE] = m->hash;
    *result = (void *)(uintptr_t)m->count;
}

UNUSED_OK static void *machine_snapshot(void *arg)
{
    struct node *n = arg;

    return mr_memdup(&n->machine, sizeof(n->machine));
}

UNUSED_OK static bool machine_snapshot_write(void *arg, void *held, bool (*put)(void *, const void *, size_t),
                                             void *put_arg)
{
    const struct machine *m = held;
    (void)arg;

    if (!put(put_arg, m, sizeof(*m)))
        return false;
    for (uint64_t i = 0; i < m->ballast / BALLAST_CHUNK; i++)
        if (!put(put_arg, ballast_chunk, BALLAST_CHUNK))
            return false;
    return true;
}

UNUSED_OK static void machine_snapshot_done(void *arg, void *held)
{
    (void)arg;
    free(held);
}

UNUSED_OK static int machine_restore(void *arg, uint64_t index, const uint8_t *data, size_t len)
{
    struct node *n = arg;
    struct machine m;

    if (len < sizeof(m))
        return MR_MALFORMED;
    memcpy(&m, data, sizeof(m));
    if (len != sizeof(m) + m.ballast / BALLAST_CHUNK * BALLAST_CHUNK || m.index > index)
        return MR_MALFORMED;
    m.restores = n->machine.restores + 1;
    m.applied_after_restore = 0;
    n->trace[m.index % TRACE] = m.hash;
    n->machine = m;
    return MR_OK;
}

/* As restore, but in two steps. */
struct prepared {
    struct machine machine;
    pthread_t by;
};

UNUSED_OK static void *machine_prepare(void *arg, uint64_t index, const uint8_t *data, size_t len)
{
    struct node *n = arg;
    struct node *image = mr_calloc(1, sizeof(*image));
    struct prepared *p = mr_calloc(1, sizeof(*p));

    if (n->cluster->preparing != NULL)
        n->cluster->preparing(n);
    mr_assert(machine_restore(image, index, data, len) == 0);
    p->machine = image->machine;
    p->by = pthread_self();
    free(image);
    return p;
}

UNUSED_OK static void machine_restore_prepared(void *arg, uint64_t index, size_t len, void *prepared)
{
    struct node *n = arg;
    struct prepared *p = prepared;

    assert_false(pthread_equal(p->by, pthread_self()));
    assert_true(len >= sizeof(p->machine) && p->machine.index <= index);
    p->machine.restores = n->machine.restores + 1;
    n->machine = p->machine;
    n->trace[n->machine.index % TRACE] = n->machine.hash;
    free(p);
}

UNUSED_OK static void machine_unprepare(void *arg, void *prepared)
{
    struct node *n = arg;

    n->unprepared++;
    free(prepared);
}

/* --- network ---------------------------------------------------------------------------------------------------------
 */

UNUSED_OK static void net_send(void *arg, uint64_t to, bool bulk, const void *head, size_t head_len,
                               const struct replica_buffer *tail, unsigned n_tail, void (*done)(void *, int),
                               void *done_arg)
{
    struct node *n = arg;
    struct cluster *c = n->cluster;
    struct packet *p = mr_calloc(1, sizeof(*p));
    struct lane *lane;
    uint64_t now = uv_hrtime();
    uint8_t *at;

    assert_true(to >= 1 && to <= NODES && to != n->number + 1);
    p->from = n->number;
    p->to = (unsigned)to - 1;
    p->head = mr_memdup(head, head_len);
    p->head_len = head_len;
    p->done = done;
    p->done_arg = done_arg;
    p->status = c->cut[p->from][p->to] ? MR_UNREACHABLE : MR_OK;
    for (unsigned i = 0; i < n_tail; i++)
        p->tail_len += tail[i].len;
    at = p->tail = p->tail_len > 0 ? mr_malloc(p->tail_len) : NULL;
    for (unsigned i = 0; i < n_tail; i++) {
        memcpy(at, tail[i].base, tail[i].len);
        at += tail[i].len;
    }
    assert_true(bulk || p->tail_len <= (512 << 10));
    p->due_ns = now + (c->delay_us ? rnd(c) % c->delay_us * 1000 : 0);
    lane = &c->lanes[p->from][p->to][bulk];
    if (bulk) {
        c->bulk_sent += p->status == 0;
        p->due_ns += (uint64_t)((double)p->tail_len / (double)c->bulk_bytes_per_s * 1e9);
    }
    if (p->due_ns < lane->busy_until_ns)
        p->due_ns = lane->busy_until_ns;
    lane->busy_until_ns = p->due_ns;
    *lane->end = p;
    lane->end = &p->next;
}

UNUSED_OK static void deliver(struct cluster *c, struct packet *p)
{
    struct node *to = &c->nodes[p->to];
    bool lost = p->status != 0 || c->cut[p->from][p->to] || rnd(c) % 1000 < c->loss_permille;
    int status = p->status != 0 || c->cut[p->from][p->to] ? MR_UNREACHABLE : MR_OK;

    if (!lost && to->replica != NULL && !to->closed) {
        int rc = replica_receive_owned(to->replica, p->from + 1, p->head, p->head_len, p->tail, p->tail_len);

        assert_true(rc == MR_OK || rc == MR_CLOSED);
        p->tail = NULL;
    }
    p->done(p->done_arg, status);
    free(p->head);
    free(p->tail);
    free(p);
}

UNUSED_OK static void on_timer(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    uint64_t now = uv_hrtime();

    for (unsigned i = 0; i < NODES * NODES * 2; i++) {
        struct lane *lane = &c->lanes[i / (NODES * 2)][i / 2 % NODES][i % 2];

        while (lane->first != NULL && lane->first->due_ns <= now) {
            struct packet *p = lane->first;

            lane->first = p->next;
            if (lane->first == NULL)
                lane->end = &lane->first;
            deliver(c, p);
        }
    }
}

UNUSED_OK static void cut_off(struct cluster *c, unsigned n, bool cut)
{
    for (unsigned i = 0; i < NODES; i++)
        c->cut[n][i] = c->cut[i][n] = cut && i != n;
    /* What was under way is lost too. */
    for (unsigned i = 0; cut && i < NODES * NODES * 2; i++)
        for (struct packet *p = c->lanes[i / (NODES * 2)][i / 2 % NODES][i % 2].first; p != NULL; p = p->next)
            if (p->from == n || p->to == n)
                p->status = MR_UNREACHABLE;
}

/* --- nodes
 * --------------------------------------------------------------------------------------------------------------- */

UNUSED_OK static void on_changed(void *arg, enum replica_role role, uint64_t term, uint64_t leader)
{
    struct node *n = arg;

    assert_true(term >= n->term);
    n->role = role;
    n->term = term;
    n->leader = leader;
    n->changes++;
}

UNUSED_OK static int node_open(struct cluster *c, unsigned number, char *error, size_t error_len)
{
    static const char *const names[NODES] = {"a", "b", "c"};
    struct node *n = &c->nodes[number];
    uint64_t ballast = n->machine.ballast;
    struct replica_config config = {
        .loop = &c->loop,
        .dir = n->dir,
        .id = number + 1,
        .name = names[number],
        .election_timeout_ms = 300,
        .heartbeat_ms = 30,
        .snapshot_threshold = c->threshold,
        .snapshot_trailing = c->trailing,
        .seed = (unsigned)rnd(c),
        .fsm = {n, machine_apply, machine_snapshot, machine_snapshot_write, machine_snapshot_done, machine_restore,
                machine_prepare, machine_restore_prepared, machine_unprepare},
        .net = {n, net_send},
        .changed = on_changed,
        .changed_arg = n,
    };

    n->closed = false;
    n->term = 0;
    n->machine = (struct machine){.ballast = ballast};
    return replica_open(&n->replica, &config, error, error_len);
}

UNUSED_OK static int node_bootstrap(struct node *n)
{
    static const struct replica_member members[NODES] = {{1, "a"}, {2, "b"}, {3, "c"}};

    return replica_bootstrap(n->replica, members, NODES);
}

UNUSED_OK static void node_start(struct cluster *c, unsigned number)
{
    char error[512] = "";

    if (node_open(c, number, error, sizeof(error)) != 0)
        fail_msg("open: %s", error);
    if (replica_start(c->nodes[number].replica, error, sizeof(error)) != 0)
        fail_msg("start: %s", error);
}

UNUSED_OK static void on_closed(void *arg)
{
    struct node *n = arg;

    n->closed = true;
    n->replica = NULL;
}

/* --- running
 * ---------------------------------------------------------------------------------------------------------------- */

/* Turns the loop until the condition holds; false after timeout_s. */
UNUSED_OK static bool run_until(struct cluster *c, bool (*condition)(struct cluster *, void *), void *arg,
                                unsigned timeout_s)
{
    uint64_t end = uv_hrtime() + timeout_s * 1000000000ULL;

    while (!condition(c, arg)) {
        if (uv_hrtime() > end)
            return false;
        uv_run(&c->loop, UV_RUN_ONCE);
    }
    return true;
}

UNUSED_OK static bool is_closed(struct cluster *c, void *arg)
{
    (void)c;
    return ((struct node *)arg)->closed;
}

UNUSED_OK static void node_stop(struct cluster *c, unsigned number)
{
    struct node *n = &c->nodes[number];

    replica_close(n->replica, on_closed, n);
    assert_true(run_until(c, is_closed, n, 20));
}

UNUSED_OK static struct node *leader_of(struct cluster *c)
{
    struct node *best = NULL;

    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &c->nodes[i];

        if (n->replica == NULL || replica_role(n->replica) != REPLICA_LEADER)
            continue;
        if (best == NULL || replica_term(n->replica) > replica_term(best->replica))
            best = n;
    }
    return best;
}

UNUSED_OK static bool has_leader(struct cluster *c, void *arg)
{
    (void)arg;
    return leader_of(c) != NULL;
}

UNUSED_OK static void on_proposed(void *arg, int status, uint64_t index, void *result)
{
    struct node *n = arg;
    struct cluster *c = n->cluster;

    if (status == MR_OK) {
        assert_true(index > 0 && index <= n->machine.index);
        assert_true((uintptr_t)result > 0);
        c->ok++;
        c->last_index = index;
    } else {
        assert_int_equal(status, MR_UNKNOWN);
        c->unknown++;
    }
}

/* Keeps up to window proposals of size bytes in flight at the leader until ok has grown by count. */
struct load {
    unsigned window;
    size_t size;
    unsigned sent;
    unsigned until_ok;
};

UNUSED_OK static bool load_step(struct cluster *c, void *arg)
{
    struct load *l = arg;
    struct node *leader = leader_of(c);
    uint8_t data[REPLICA_MAX_ENTRY];

    while (leader != NULL && l->sent < c->ok + c->unknown + l->window && c->ok < l->until_ok) {
        memset(data, (int)l->sent, l->size);
        memcpy(data, &l->sent, sizeof(l->sent));
        if (replica_propose(leader->replica, data, l->size, on_proposed, leader) != 0)
            break;
        l->sent++;
    }
    return c->ok >= l->until_ok && l->sent <= c->ok + c->unknown;
}

UNUSED_OK static void load_cluster(struct cluster *c, unsigned count, unsigned window, size_t size, unsigned timeout_s)
{
    struct load l = {.window = window, .size = size, .sent = c->ok + c->unknown, .until_ok = c->ok + count};

    if (!run_until(c, load_step, &l, timeout_s))
        fail_msg("seed state %llu: %u of %u committed, %u unknown", (unsigned long long)c->seed, c->ok, l.until_ok,
                 c->unknown);
}

/* All that run have applied the same, at least up to last_index. */
UNUSED_OK static bool converged(struct cluster *c, void *arg)
{
    uint64_t index = 0;
    (void)arg;

    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &c->nodes[i];

        if (n->replica == NULL)
            continue;
        if (n->machine.index < c->last_index || (index != 0 && n->machine.index != index))
            return false;
        index = n->machine.index;
    }
    return true;
}

UNUSED_OK static void assert_converges(struct cluster *c, unsigned timeout_s)
{
    struct node *first = NULL;

    if (!run_until(c, converged, NULL, timeout_s))
        fail_msg("no agreement: applied %llu %llu %llu of %llu", (unsigned long long)c->nodes[0].machine.index,
                 (unsigned long long)c->nodes[1].machine.index, (unsigned long long)c->nodes[2].machine.index,
                 (unsigned long long)c->last_index);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &c->nodes[i];

        if (n->replica == NULL)
            continue;
        if (first == NULL)
            first = n;
        assert_true(n->machine.hash == first->machine.hash);
        assert_true(n->machine.count == first->machine.count);
    }
}

UNUSED_OK static void cluster_init(struct cluster *c, uint64_t seed)
{
    const char *tmp = getenv("TMPDIR");

    memset(c, 0, sizeof(*c));
    c->seed = seed;
    c->threshold = 1000;
    c->trailing = 500;
    c->delay_us = 2000;
    c->bulk_bytes_per_s = 500 << 20;
    uv_loop_init(&c->loop);
    uv_timer_init(&c->loop, &c->timer);
    c->timer.data = c;
    uv_timer_start(&c->timer, on_timer, 1, 1);
    snprintf(c->dir, sizeof(c->dir), "%s/mailraft-raft-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(c->dir));
    for (unsigned i = 0; i < NODES; i++) {
        c->nodes[i].cluster = c;
        c->nodes[i].number = i;
        snprintf(c->nodes[i].dir, sizeof(c->nodes[i].dir), "%s/%u", c->dir, i);
        assert_int_equal(mkdir(c->nodes[i].dir, 0700), 0);
    }
    for (unsigned i = 0; i < NODES * NODES * 2; i++) {
        struct lane *lane = &c->lanes[i / (NODES * 2)][i / 2 % NODES][i % 2];

        lane->end = &lane->first;
    }
}

UNUSED_OK static struct cluster *cluster_start_with(uint64_t seed, uint64_t ballast, unsigned threshold,
                                                    unsigned trailing)
{
    struct cluster *c = mr_malloc(sizeof(*c));
    char error[512];

    cluster_init(c, seed);
    c->threshold = threshold;
    c->trailing = trailing;
    for (unsigned i = 0; i < NODES; i++) {
        c->nodes[i].machine.ballast = ballast;
        if (node_open(c, i, error, sizeof(error)) != 0)
            fail_msg("%s", error);
        assert_int_equal(node_bootstrap(&c->nodes[i]), MR_OK);
        if (replica_start(c->nodes[i].replica, error, sizeof(error)) != 0)
            fail_msg("%s", error);
    }
    assert_true(run_until(c, has_leader, NULL, 10));
    return c;
}

UNUSED_OK static struct cluster *cluster_start(uint64_t seed, uint64_t ballast)
{
    return cluster_start_with(seed, ballast, 1000, 500);
}

UNUSED_OK static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

UNUSED_OK static bool drained(struct cluster *c, void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < NODES * NODES * 2; i++)
        if (c->lanes[i / (NODES * 2)][i / 2 % NODES][i % 2].first != NULL)
            return false;
    return true;
}

UNUSED_OK static void cluster_stop(struct cluster *c)
{
    for (unsigned i = 0; i < NODES; i++)
        if (c->nodes[i].replica != NULL)
            node_stop(c, i);
    assert_true(run_until(c, drained, NULL, 20));
    uv_close((uv_handle_t *)&c->timer, NULL);
    uv_run(&c->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&c->loop), 0);
    nftw(c->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(c);
}

#endif
