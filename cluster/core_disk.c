/* core_disk.c - this node's disk (PROTOCOL.md 8.4, 8.5): what is slow hands leadership over and takes no mail, what
 * hangs ends the process (disk_watch.h, replica.h); what is full gives its ballast back, and follows.
 *
 * A leader with a full disk hands over only to a node that says it has room: where a majority is full, the ballasts are
 * what lets outcomes be committed, whoever leads. */
#include "cluster/core.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "raft/replica_io.h"

_Static_assert((int)BALLAST_FULL >= (int)REPLICA_SEGMENT_SIZE, "a full disk is one without room for a segment");

enum {
    LOOK_MS = 100,
    SPENT_BYTES = 1 << 20,     /* of room left: a journal's next pages */
    HAND_OVER_MS = 2000,       /* between two, */
    HAND_OVER_MOST_MS = 32000, /* and when leadership comes back each time */
};

void core_disk_open(struct cluster *c)
{
    struct ballast_config config = {.dir = c->config.data_dir};

    c->disk.ballast = ballast_open(&config);
    c->disk.watch = disk_watch_open();
    c->disk.loop = disk_watch_add(c->disk.watch, "the core's loop");
    c->disk.spool = disk_watch_add(c->disk.watch, "a write or fsync of the spool");
    c->disk.hand_over_wait_ns = HAND_OVER_MS * MR_NS_PER_MS;
}

void core_disk_close(struct cluster *c)
{
    disk_watch_close(c->disk.watch);
    ballast_close(c->disk.ballast);
}

void core_disk_computes(struct cluster *c, bool begins)
{
    if (begins && c->disk.computing++ == 0)
        busy_end(c->disk.loop);
    else if (!begins && --c->disk.computing == 0)
        busy_begin(c->disk.loop);
}

static bool release(void *arg)
{
    return ballast_release(arg);
}

void core_disk_port(struct cluster *c, struct cluster_port *p)
{
    const struct journal_disk disk = {.writes = disk_watch_add(c->disk.watch, "a write of the outcome journal"),
                                      .syncs = disk_watch_add(c->disk.watch, "an fsync of the outcome journal"),
                                      .release = release,
                                      .arg = c->disk.ballast};
    journal_set_disk(p->journal, &disk);
}

uint32_t core_disk_find_better(const struct cluster *c)
{
    uint64_t now = core_now(c);
    uint32_t best = 0;
    uint64_t applied = 0;

    for (unsigned i = 0; i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        if (!v.up || !v.voter || v.node == c->self || c->lead.nodes[v.node].heard_ns == 0 ||
            now - c->lead.nodes[v.node].heard_ns > SCHED_FRESH_MS * MR_NS_PER_MS || c->lead.nodes[v.node].low_disk ||
            c->lead.nodes[v.node].draining)
            continue;
        if (best == 0 || c->lead.nodes[v.node].applied > applied) {
            best = v.node;
            applied = c->lead.nodes[v.node].applied;
        }
    }
    return best;
}

static void hand_over(struct cluster *c, uint64_t now, const char *reason)
{
    struct core_disk *d = &c->disk;
    uint32_t to = core_disk_find_better(c);

    if ((to == 0 && !d->slow) || now - d->handed_over_ns < d->hand_over_wait_ns)
        return;
    if (now - d->handed_over_ns > 2 * HAND_OVER_MOST_MS * MR_NS_PER_MS)
        d->hand_over_wait_ns = HAND_OVER_MS * MR_NS_PER_MS;
    else if (d->hand_over_wait_ns < HAND_OVER_MOST_MS * MR_NS_PER_MS)
        d->hand_over_wait_ns *= 2;
    d->handed_over_ns = now;
    if (replica_transfer(c->replica, to, NULL, NULL) != 0)
        return;
    d->hand_overs++;
    log_event(LOG_WARN, "disk_hand_over", LOG_S("reason", reason), LOG_N("to", to));
}

static bool look_slow(const struct cluster *c, const struct replica_stats *raft, const char **what, uint64_t *ms)
{
    *ms = disk_watch_slow_ms(c->disk.watch, what);
    /* Without room an append waits too, but not for the disk. */
    if (*ms == 0 && raft->segments_refused == 0 && raft->oldest_append_ms >= REPLICA_DISK_SLOW_MS) {
        *what = "raft log";
        *ms = raft->oldest_append_ms;
    }
    return *ms > 0;
}

void core_disk_tick(struct cluster *c, uint64_t now)
{
    struct core_disk *d = &c->disk;
    struct replica_stats raft = {0};
    struct ballast_state ballast;
    const char *what = NULL;
    uint64_t ms = 0;

    if (now - d->looked_ns < LOOK_MS * MR_NS_PER_MS)
        return;
    d->looked_ns = now;
    if (c->replica != NULL)
        replica_stats(c->replica, &raft);
    ballast_tick(d->ballast, spool_reserve(c->spool), raft.segments_refused > 0);
    ballast_state(d->ballast, &ballast);
    spool_keep_free(c->spool, ballast.missing);
    d->full = ballast.full;
    d->spent = ballast.full && ballast.available < SPENT_BYTES;
    bool slow = look_slow(c, &raft, &what, &ms);
    if (slow != d->slow) {
        d->slow = slow;
        log_event(LOG_WARN, slow ? "disk_slow" : "disk_slow_ended", LOG_S("what", what == NULL ? "" : what),
                  LOG_N("ms", ms));
        if (c->bodies != NULL)
            bodies_refuse_pushes(c->bodies, slow);
    }
    if (c->lead.leading && (d->slow || d->full))
        hand_over(c, now, d->full ? "full" : "slow");
}
