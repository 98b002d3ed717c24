/* The log under the queue: what Raft commits is applied to the state, and what that means here is told on. */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/base/side_thread.h"

#include <stdlib.h>
#include <string.h>

/* An entry that this program cannot decode or does not know stops the process (PROTOCOL.md 4.6): to skip it would make
 * this copy of the queue another one. */
static void on_apply(void *arg, uint64_t index, const uint8_t *data, size_t len, void **result)
{
    struct cluster *c = arg;
    uint8_t results[CORE_MAX_BATCH_OPS];
    size_t n = sizeof(results);

    *result = NULL;
    apply_trace_entry(c->trace, index, data, len);
    int rc = state_apply(c->state, index, data, len, results, &n);
    if (rc != 0)
        mr_panic("entry %llu cannot be applied: %s; is this program older than the cluster's version?",
                 (unsigned long long)index, mr_strerror(rc));
    if (n > sizeof(results))
        n = sizeof(results);
    apply_trace_applied(c->trace, index, c->state);
    atomic_store_explicit(&c->version, state_version(c->state), memory_order_relaxed);
    if (c->lead.leading)
        core_lead_applied(c, index, results, n);
}

static void *on_snapshot(void *arg)
{
    struct cluster *c = arg;
    return state_hold(c->state);
}

static bool on_snapshot_write(void *arg, void *held, bool (*put)(void *put_arg, const void *data, size_t len),
                              void *put_arg)
{
    (void)arg;
    return state_held_write(held, put, put_arg);
}

static void on_snapshot_done(void *arg, void *held)
{
    (void)arg;
    state_release_held(held);
}

/* The state is the snapshot's now. */
static void restored(struct cluster *c, uint64_t index, size_t len)
{
    apply_trace_restored(c->trace, index, c->state);
    log_event(LOG_INFO, "restored", LOG_N("index", index), LOG_N("bytes", len));
    atomic_store(&c->version, state_version(c->state));
    bodies_restored(c->bodies);
    core_port_rules(c); /* before any attempt */
    core_attempts_restored(c);
    if (c->lead.leading)
        leader_lease_voters(&c->leader_lease, core_voters(c));
}

/* At the start, when nobody waits for the loop. */
static int on_restore(void *arg, uint64_t index, const uint8_t *data, size_t len)
{
    struct cluster *c = arg;

    core_disk_computes(c, true);
    int rc = state_restore(c->state, index, data, len);
    if (rc == 0)
        restored(c, index, len);
    core_disk_computes(c, false);
    return rc;
}

/* In a thread of its own. */
static void *on_prepare(void *arg, uint64_t index, const uint8_t *data, size_t len)
{
    struct state_observer observer = core_observer(arg);
    struct state *fresh;

    return state_read(&observer, index, data, len, &fresh) == 0 ? fresh : NULL;
}

/* To free a large one takes as long as to read it. */
struct farewell {
    struct side_thread thread;
    struct state *state;
};

static void run_farewell(void *arg)
{
    state_close(((struct farewell *)arg)->state);
}

static void close_beside(struct cluster *c, struct state *state)
{
    struct farewell *f = mr_calloc(1, sizeof(*f));

    f->state = state;
    side_thread_start(&f->thread, &c->loop, run_farewell, free, f);
}

static void on_restore_prepared(void *arg, uint64_t index, size_t len, void *prepared)
{
    struct cluster *c = arg;

    core_disk_computes(c, true);
    state_exchange(c->state, prepared);
    restored(c, index, len);
    close_beside(c, prepared);
    core_disk_computes(c, false);
}

static void on_unprepare(void *arg, void *prepared)
{
    close_beside(arg, prepared);
}

static const char *const role_names[] = {"unavailable", "follower", "candidate", "leader"};

static void on_changed(void *arg, enum replica_role role, uint64_t term, uint64_t leader)
{
    struct cluster *c = arg;
    bool leading = role == REPLICA_LEADER;
    bool news = role != c->role || term != c->term || leader != c->leader;

    if (!news)
        return;
    if (leader != 0 && leader != c->leader)
        log_event(LOG_INFO, "leader", LOG_N("leader", leader), LOG_N("term", term), LOG_S("role", role_names[role]));
    bool lead_ends = c->lead.leading && (!leading || term != c->lead.term);
    c->role = role;
    c->term = term;
    c->leader = (uint32_t)leader;
    node_lease_term(&c->lease, term);
    if (lead_ends)
        core_lead_end(c);
    if (leading && !c->lead.leading)
        core_lead_begin(c);
    if (leader != 0)
        proposals_resend(c->proposals, core_now(c));
}

/* ---- what applying did ---- */

static void on_assigned(void *arg, const struct state_message *m, uint32_t delivery)
{
    struct cluster *c = arg;
    if (c->lead.leading)
        sched_assigned(c->sched, m, delivery, state_index(c->state));
    core_attempts_assigned(c, m, delivery);
}

static void on_unassigned(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, uint32_t slot,
                          const char *next_hop)
{
    struct cluster *c = arg;
    if (c->lead.leading)
        sched_unassigned(c->sched, node, slot, next_hop, state_index(c->state));
    if (node == c->self)
        core_attempts_unassigned(c, id, delivery, attempt);
}

static void on_notice_assigned(void *arg, const struct state_message *m)
{
    struct cluster *c = arg;
    if (c->lead.leading)
        sched_notice_assigned(c->sched, m, state_index(c->state), core_now(c));
    core_attempts_notice(c, m);
}

static void on_notice_ended(void *arg, struct mr_id id)
{
    struct cluster *c = arg;
    if (c->lead.leading)
        sched_notice_ended(c->sched, id);
}

static void on_enqueued(void *arg, const struct state_message *m)
{
    struct cluster *c = arg;
    bodies_enqueued(c->bodies, m);
}

static void on_recipient_done(void *arg, const struct state_message *m, uint32_t recipient)
{
    core_attempts_recipient_done(arg, m, recipient);
}

static void on_removed(void *arg, struct mr_id id)
{
    struct cluster *c = arg;
    bodies_removed(c->bodies, id);
    if (c->lead.leading)
        sched_notice_ended(c->sched, id);
}

/* What a replay of old entries tells is no news. */
static enum log_level telling(const struct cluster *c)
{
    return c->caught_up ? LOG_INFO : LOG_DEBUG;
}

static void on_node_changed(void *arg, const struct node_view *node)
{
    struct cluster *c = arg;
    log_event(telling(c), node->up ? "node_up" : "node_down", LOG_S("member", node->name), LOG_N("raft_id", node->node),
              LOG_N("incarnation", node->incarnation));
    bool fell = !node->up && node->incarnation > 0; /* a member that has not come up yet does not fall */
    if (fell)
        c->takeovers++;
    if (c->lead.leading) {
        if (fell)
            log_event(LOG_WARN, "takeover", LOG_S("from", node->name), LOG_N("incarnation", node->incarnation));
        sched_node_changed(c->sched, node, core_now(c));
        leader_lease_voters(&c->leader_lease, core_voters(c));
        committed_time_voters(&c->ctime, core_voters(c));
        if (node->up)
            leader_lease_pardon(&c->leader_lease, node->node);
    }
    bodies_voters_changed(c->bodies);
}

static void on_outcome(void *arg, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached)
{
    struct cluster *c = arg;
    if (c->lead.leading)
        sched_result(c->sched, node, slot, next_hop, delivered, unreached, core_now(c));
}

static void on_rules_changed(void *arg, const Mailraft__Rules *rules)
{
    struct cluster *c = arg;
    log_event(telling(c), "rules", LOG_N("routes", rules->n_routes), LOG_N("limits", rules->n_limits));
    core_port_rules(c);
    if (c->lead.leading)
        sched_rules_changed(c->sched, rules, core_now(c));
}

static void on_late_outcome(void *arg, struct mr_id id, uint32_t recipient, uint32_t attempt, uint32_t node)
{
    char text[MR_ID_TEXT + 1];
    struct cluster *c = arg;
    apply_trace_doubt(c->trace, "late_outcome", id, recipient, attempt, node);
    if (!c->lead.leading)
        return;
    log_event(LOG_WARN, "late_outcome", LOG_S("id", mr_id_format(id, text)), LOG_N("recipient", recipient),
              LOG_N("attempt", attempt), LOG_N("by", node));
}

static void on_in_doubt(void *arg, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node, bool possibly)
{
    char text[MR_ID_TEXT + 1];
    struct cluster *c = arg;
    apply_trace_doubt(c->trace, possibly ? "possibly_in_doubt" : "in_doubt", id, delivery, attempt, node);
    if (!c->lead.leading)
        return; /* one line in the cluster */
    log_event(LOG_WARN, possibly ? "possibly_in_doubt" : "in_doubt", LOG_S("id", mr_id_format(id, text)),
              LOG_N("delivery", delivery), LOG_N("attempt", attempt), LOG_N("by", node));
}

struct state_observer core_observer(struct cluster *c)
{
    return (struct state_observer){
        .arg = c,
        .assigned = on_assigned,
        .unassigned = on_unassigned,
        .notice_assigned = on_notice_assigned,
        .notice_ended = on_notice_ended,
        .enqueued = on_enqueued,
        .recipient_done = on_recipient_done,
        .removed = on_removed,
        .node_changed = on_node_changed,
        .rules_changed = on_rules_changed,
        .outcome = on_outcome,
        .late_outcome = on_late_outcome,
        .in_doubt = on_in_doubt,
    };
}

int core_raft_open(struct cluster *c, char *error, size_t error_len)
{
    uint8_t seed[MR_ID_SIZE];
    struct mr_id random = mr_id_random();
    memcpy(seed, random.bytes, sizeof(seed));
    struct replica_config config = {
        .loop = &c->loop,
        .dir = c->raft_dir,
        .id = c->self,
        .name = c->config.name,
        .election_timeout_ms = c->config.election_timeout_ms,
        .heartbeat_ms = c->config.heartbeat_ms,
        .seed = (unsigned)seed[0] | (unsigned)seed[1] << 8 | (unsigned)seed[2] << 16,
        .fsm = {.arg = c,
                .apply = on_apply,
                .snapshot = on_snapshot,
                .snapshot_write = on_snapshot_write,
                .snapshot_done = on_snapshot_done,
                .restore = on_restore,
                .prepare = on_prepare,
                .restore_prepared = on_restore_prepared,
                .unprepare = on_unprepare},
        .net = {.arg = c, .send = core_raft_send},
        .changed = on_changed,
        .changed_arg = c,
    };
    return replica_open(&c->replica, &config, error, error_len);
}
