/* This node's heartbeats, its lease, and the announcement of its new incarnation. */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

/* ---- heartbeats ---- */

/* Slots by next hop; those of one next hop stand in one bucket. Freed by free_slots. */
static void fill_slots(const struct cluster *c, Mailraft__Heartbeat *hb)
{
    if (c->n_slots == 0)
        return;
    hb->slots = mr_calloc(c->n_slots, sizeof(*hb->slots));
    for (unsigned i = 0; (i = core_bucket_next(c->slots_in, i)) < CORE_SLOT_BUCKETS; i++) {
        size_t from = hb->n_slots;
        for (struct core_slot *s = c->slots[i]; s != NULL; s = s->next) {
            Mailraft__OpenSlot *open = NULL;
            for (size_t k = from; k < hb->n_slots && open == NULL; k++)
                if (strcmp(hb->slots[k]->next_hop, s->next_hop) == 0)
                    open = hb->slots[k];
            if (open == NULL) {
                open = mr_malloc(sizeof(*open));
                mailraft__open_slot__init(open);
                open->next_hop = s->next_hop;
                hb->slots[hb->n_slots++] = open;
            }
            open->slots = mr_realloc(open->slots, (open->n_slots + 1) * sizeof(*open->slots));
            open->slots[open->n_slots++] = s->slot;
        }
    }
}

static void free_slots(Mailraft__Heartbeat *hb)
{
    for (size_t i = 0; i < hb->n_slots; i++) {
        free(hb->slots[i]->slots);
        free(hb->slots[i]);
    }
    free(hb->slots);
}

/* None without a lease: what is not applied here would lie here. */
static uint32_t free_attempts(const struct cluster *c)
{
    if (!c->lease_held || c->disk.spent || c->n_running >= c->config.max_attempts)
        return 0;
    return (uint32_t)(c->config.max_attempts - c->n_running);
}

void core_heartbeat_send(struct cluster *c)
{
    Mailraft__Heartbeat hb = MAILRAFT__HEARTBEAT__INIT;
    struct bodies_stats bodies;
    uint64_t now = core_now(c);

    if (c->leader == 0 || c->hung)
        return;
    bodies_stats(c->bodies, &bodies);
    hb.incarnation = c->incarnation;
    hb.sent_ns = now;
    hb.term = c->term;
    hb.applied = state_index(c->state);
    node_lease_sent(&c->lease, now, c->term, &hb.echo_ns);
    hb.wall_ms = mr_wall_ms(c->clock);
    hb.free_attempts = free_attempts(c);
    hb.rules_hash = c->own_rules->hash;
    hb.low_disk = spool_low(c->spool);
    hb.bodies_missing = bodies.missing;
    hb.version = STATE_VERSION;
    hb.draining = c->draining;
    fill_slots(c, &hb);
    if (c->lead.leading)
        core_lead_heartbeat(c, c->self, &hb);
    else if (c->leader != c->self)
        (void)links_send_message(c->links, c->leader, LINK_CONTROL, FRAME_HEARTBEAT, &hb.base, NULL, 0);
    free_slots(&hb);
}

void core_heartbeat_reply(struct cluster *c, const Mailraft__HeartbeatReply *reply)
{
    uint64_t now = core_now(c);
    if (node_lease_answer(&c->lease, now, reply->sent_ns, reply->term, reply->commit, reply->stamp_ns, reply->lease,
                          reply->incarnation == c->incarnation))
        core_lease_update(c, now);
    if (c->node_up && reply->incarnation > c->incarnation && c->refused == NULL) {
        c->refused =
            mr_strdup("a newer incarnation of this node is in force: this data directory is a copy from the past "
                      "(2.3); stop this process and replace the node");
        log_event(LOG_ERROR, "refused", LOG_S("reason", c->refused));
    }
}

/* ---- lease and readiness ---- */

static enum cluster_readiness work_out(const struct cluster *c, bool held)
{
    if (c->refused != NULL)
        return CLUSTER_REFUSED;
    if (c->draining)
        return CLUSTER_DRAINING;
    if (!held && core_links_refusal(c) != NULL)
        return CLUSTER_REFUSED;
    if (!held)
        return c->node_up ? CLUSTER_NO_QUORUM : CLUSTER_STARTING;
    if (c->rules == NULL)
        return CLUSTER_STARTING;
    if (spool_low(c->spool))
        return CLUSTER_LOW_DISK;
    if (c->disk.slow)
        return CLUSTER_SLOW_DISK;
    if (c->full)
        return CLUSTER_QUEUE_FULL;
    if (proposals_waiting(c->proposals) > CORE_BUSY)
        return CLUSTER_BUSY;
    return CLUSTER_READY;
}

void core_lease_update(struct cluster *c, uint64_t now)
{
    uint64_t end =
        c->node_up && c->refused == NULL && !c->given_up ? node_lease_end(&c->lease, state_index(c->state)) : 0;
    bool held = now < end;

    atomic_store(&c->lease_end_ns, end);
    if (held && !c->lease_held) {
        c->lease_lost_ns = 0;
        log_event(LOG_INFO, "lease", LOG_N("term", c->term), LOG_N("applied", state_index(c->state)));
        if (!c->caught_up) {
            c->caught_up = true;
            bodies_ready(c->bodies);
        }
    } else if (!held && c->lease_held) {
        c->lease_lost_ns = now;
        log_event(LOG_WARN, "lease_ended", LOG_N("term", c->term));
        core_port_lease_ended(c);
    }
    c->lease_held = held;
    atomic_store(&c->readiness, (int)work_out(c, held));
}

/* ---- the new incarnation (PROTOCOL.md 5.6) ---- */

static void node_up_done(void *arg, int status, enum apply_result reason)
{
    struct cluster *c = arg;
    if (status != 0)
        return; /* closing */
    if (reason == APPLIED || reason == APPLY_DUPLICATE) {
        char *journal = mr_asprintf("%s/journal", c->config.data_dir);
        c->node_up = true;
        (void)journal_forget_replayed(journal, c->start_incarnation);
        free(journal);
        log_event(LOG_INFO, "announced", LOG_N("incarnation", c->incarnation));
        core_heartbeat_send(c);
        return;
    }
    free(c->refused);
    c->refused = mr_asprintf("the cluster refuses incarnation %llu of this directory: %s; another directory or a newer "
                             "incarnation is in force under this name: replace this node",
                             (unsigned long long)c->incarnation, apply_result_text(reason));
    log_event(LOG_ERROR, "refused", LOG_S("reason", c->refused));
}

static void left_done(void *arg, int status, enum apply_result reason)
{
    struct cluster *c = arg;
    (void)status;
    (void)reason;
    c->left_waiting--;
}

static Mailraft__Op *outcome_op(Mailraft__Outcome *outcome)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_OUTCOME;
    op->outcome = outcome;
    return op;
}

/* At once, as outcomes of their own: the assignments are this node's still, and will not be any more if it takes long
 * to catch up. */
static void propose_left(struct cluster *c)
{
    for (size_t i = 0; i < c->left.n_outcomes; i++) {
        Mailraft__Outcome *o = c->left.outcomes[i];
        /* Its body may be gone or too old by now, and who was delivered must not be lost with it (7.2). */
        if (o->dsn != NULL)
            core_outcome_drop_dsn(o);
        Mailraft__Op *op = outcome_op(o);
        if (proposals_add(c->proposals, op, core_now(c), UINT64_MAX, left_done, c, NULL) == 0)
            c->left_waiting++;
        else
            mailraft__op__free_unpacked(op, NULL);
    }
    free(c->left.outcomes);
    c->left.outcomes = NULL;
    c->left.n_outcomes = 0;
}

/* Declared down, but alive (a pause, a partition): the process goes on as a new incarnation (5.3). Its attempts of the
 * old one may not send any more (cluster_may_send); outcomes of dots that were written count as late ones (5.9). */
static void rise(struct cluster *c)
{
    int rc = identity_rise(c->identity);
    if (rc == MR_NOSPACE && ballast_release(c->disk.ballast))
        rc = identity_rise(c->identity);
    if (rc != 0)
        mr_panic("the new incarnation cannot be stored");
    atomic_store(&c->incarnation, identity_incarnation(c->identity));
    log_event(LOG_WARN, "declared_down", LOG_N("incarnation", c->incarnation));
    c->node_up = false;
    c->node_up_proposed = false;
    core_lease_update(c, core_now(c));
}

void core_node_up_try(struct cluster *c)
{
    enum { MAX_IN_DOUBT = 400 }; /* 40 bytes each; the rest is counted by the release alone */
    struct node_view self;

    if (c->leader == 0 || c->draining || c->hung || c->refused != NULL || !state_node_by_id(c->state, c->self, &self))
        return;
    if (c->node_up && !self.up && self.incarnation == c->incarnation)
        rise(c);
    if (c->node_up_proposed)
        return;
    if (!c->left_proposed) {
        c->left_proposed = true;
        propose_left(c);
    }
    /* While it applies what is past it could run nothing, and would hold up a new leader's grants (6.1). */
    if (c->left_waiting > 0 || !node_lease_caught_up(&c->lease, core_now(c), state_index(c->state)))
        return;
    struct mr_id directory = identity_directory(c->identity);
    Mailraft__NodeUp *up = mr_malloc(sizeof(*up));
    mailraft__node_up__init(up);
    up->node = c->self;
    up->name = mr_strdup(c->config.name);
    up->directory.data = mr_memdup(directory.bytes, MR_ID_SIZE);
    up->directory.len = MR_ID_SIZE;
    up->incarnation = c->incarnation;
    up->version = mr_strdup(MAILRAFT_VERSION);
    up->in_doubt = c->left.in_doubt;
    up->n_in_doubt = c->left.n_in_doubt;
    for (; up->n_in_doubt > MAX_IN_DOUBT; up->n_in_doubt--)
        mailraft__in_doubt__free_unpacked(up->in_doubt[up->n_in_doubt - 1], NULL);
    c->left = (struct journal_left){0};
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_NODE_UP;
    op->node_up = up;
    c->node_up_proposed = true;
    mr_assert(proposals_add(c->proposals, op, core_now(c), UINT64_MAX, node_up_done, c, NULL) == 0);
}
