/* The numbers of /metrics by name; HTTP gives them their text form (node/http.c). A new counter of workers is a field
 * of struct cluster_counters and a row here. */
#include "cluster/core.h"

#include "proto/base/log.h"

#include <stddef.h>

struct metric {
    const char *name;
    uint64_t value;
};

/* "X_total" only grows. */
static const struct {
    const char *name;
    size_t offset;
} counters[] = {
#define COUNTER(name, field)                                                                                           \
    {                                                                                                                  \
        name, offsetof(struct cluster_counters, field)                                                                 \
    }
    COUNTER("smtp_sessions", sessions_open),
    COUNTER("smtp_transactions", transactions_open),
    COUNTER("smtp_sessions_total", sessions_total),
    COUNTER("smtp_messages_received_total", messages_received),
    COUNTER("smtp_bytes_received_total", bytes_received),
    COUNTER("smtp_rejected_total", rejected),
    COUNTER("delivery_delivered_total", deliveries_delivered),
    COUNTER("delivery_deferred_total", deliveries_deferred),
    COUNTER("delivery_failed_total", deliveries_failed),
    COUNTER("delivery_connections", connections_out_open),
    COUNTER("dsns_total", dsns),
    COUNTER("smtp_limited_connections_total", limited_connections),
    COUNTER("smtp_limited_network_connections_total", limited_network_connections),
    COUNTER("smtp_limited_connection_rate_total", limited_connection_rate),
    COUNTER("smtp_limited_message_rate_total", limited_messages),
    COUNTER("smtp_limited_recipient_rate_total", limited_recipients),
    COUNTER("smtp_limited_auth_failures_total", limited_logins),
    COUNTER("smtp_limited_client_table_total", limited_clients),
    COUNTER("smtp_early_talkers_total", early_talkers),
    COUNTER("smtp_slow_clients_total", slow_clients),
    COUNTER("smtp_junk_clients_total", junk_clients),
    COUNTER("tls_in_total", tls_in),
    COUNTER("tls_in_resumed_total", tls_in_resumed),
    COUNTER("tls_in_failed_total", tls_in_failed),
    COUNTER("tls_out_total", tls_out),
    COUNTER("tls_out_verified_total", tls_out_verified),
    COUNTER("tls_out_failed_total", tls_out_failed),
    COUNTER("tls_fallbacks_total", tls_fallbacks),
    COUNTER("logins_total", logins),
    COUNTER("logins_failed_total", logins_failed),
    COUNTER("logins_unavailable_total", logins_unavailable),
    COUNTER("smarthost_logins_failed_total", smarthost_logins_failed),
    COUNTER("sts_fetched_total", sts_fetched),
    COUNTER("sts_failed_total", sts_failed),
#undef COUNTER
};

static void add(json_t *o, const struct metric *metrics, size_t n)
{
    for (size_t i = 0; i < n; i++)
        json_object_set_new(o, metrics[i].name, json_integer((json_int_t)metrics[i].value));
}

static void add_state(json_t *o, const struct state *state)
{
    struct state_counts n;

    state_counts(state, &n);
    const struct metric metrics[] = {
        {"queue_messages", n.messages},
        {"queue_bytes", n.body_bytes},
        {"queue_deliveries{state=\"ready\"}", n.ready},
        {"queue_deliveries{state=\"assigned\"}", n.assigned},
        {"queue_deliveries{state=\"deferred\"}", n.deferred},
        {"queue_deliveries{state=\"held\"}", n.held},
        {"state_memory_bytes", n.memory_bytes},
        {"state_finished_ids", n.finished},
        {"state_sites", n.sites},
        {"state_users", n.users},
        {"cluster_version", state_version(state)},
        {"cluster_accepted_total", n.accepted},
        {"cluster_delivered_total", n.delivered},
        {"cluster_failed_total", n.failed},
        {"cluster_expired_total", n.expired},
        {"cluster_in_doubt_total", n.in_doubt},
        {"cluster_possibly_in_doubt_total", n.possibly_in_doubt},
    };
    add(o, metrics, sizeof(metrics) / sizeof(metrics[0]));
}

/* Agreement, and what this node does as a part of it. */
static void add_core(json_t *o, struct cluster *c)
{
    struct replica_stats rs = {0};

    if (c->replica != NULL)
        replica_stats(c->replica, &rs);
    const struct metric metrics[] = {
        {"raft_leader", c->lead.leading},
        {"raft_term", c->term},
        {"raft_applied_index", state_index(c->state)},
        {"raft_commit_index", c->replica == NULL ? 0 : replica_commit(c->replica)},
        {"raft_batches_total", c->batches_total},
        {"raft_batched_operations_total", c->batched_ops_total},
        {"raft_snapshots_taken_total", rs.snapshots_taken},
        {"raft_snapshots_installed_total", rs.snapshots_installed},
        {"raft_snapshots_sent_total", rs.snapshots_sent},
        {"raft_last_snapshot_bytes", rs.last_snapshot_bytes},
        {"raft_last_snapshot_stall_microseconds", rs.last_snapshot_stall_ns / 1000},
        {"core_max_tick_gap_microseconds", c->max_tick_gap_ns / 1000},
        {"lease_held", c->lease_held},
        {"ready", cluster_readiness(c) == CLUSTER_READY},
        {"takeovers_total", c->takeovers},
        {"state_bytes", state_bytes(c->state)},
        {"state_max_bytes", c->config.max_state},
        {"queue_full", c->full},
        {"queue_full_refused_total", c->full_refused},
        {"queue_full_warnings_total", c->full_warnings},
        {"proposals_waiting", proposals_waiting(c->proposals)},
        {"attempts_running", c->n_running},
        {"connections_out", c->n_slots},
    };
    add(o, metrics, sizeof(metrics) / sizeof(metrics[0]));
}

static void add_bodies(json_t *o, const struct cluster *c)
{
    struct spool_stats sp;
    struct bodies_stats bs = {0};

    struct ballast_state ballast;

    spool_stats(c->spool, &sp);
    ballast_state(c->disk.ballast, &ballast);
    if (c->bodies != NULL)
        bodies_stats(c->bodies, &bs);
    const struct metric metrics[] = {
        {"spool_bodies", sp.bodies},
        {"spool_bytes", sp.bytes},
        {"spool_dead_bytes", sp.dead_bytes},
        {"spool_segments", sp.segments},
        {"spool_free_bytes", sp.free_bytes},
        {"spool_fsyncs_total", sp.fsyncs},
        {"spool_compactions_total", sp.compactions},
        {"spool_bad_bodies_total", sp.bad},
        {"spool_bad_bodies", sp.bad_here},
        {"disk_ballast_bytes", ballast.bytes},
        {"disk_full", c->disk.full},
        {"disk_slow", c->disk.slow},
        {"disk_hand_overs_total", c->disk.hand_overs},
        {"bodies_missing", bs.missing},
        {"bodies_pulled_total", bs.pulled},
        {"bodies_served_total", bs.served},
        {"bodies_repaired_total", bs.repaired},
        {"bodies_collected_total", bs.collected},
        {"bodies_skipped_peers_total", bs.skipped_peers},
    };
    add(o, metrics, sizeof(metrics) / sizeof(metrics[0]));
}

json_t *core_metrics(struct cluster *c)
{
    json_t *o = json_object();

    add_state(o, c->state);
    add_core(o, c);
    add_bodies(o, c);
    json_object_set_new(o, "log_lines_lost_total", json_integer((json_int_t)log_lines_lost()));
    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
        const atomic_ullong *counter = (const atomic_ullong *)((const char *)&c->counters + counters[i].offset);

        json_object_set_new(o, counters[i].name, json_integer((json_int_t)atomic_load(counter)));
    }
    return o;
}
