/* Life of the cluster below its door.
 *
 * Happy path: cluster_open (main thread; nothing runs yet) -> cluster_start (core thread) -> formation -> Raft -> the
 * node's new incarnation is committed -> leases come -> ready. End: cluster_drain -> cluster_close. Failure: anything
 * that open can find wrong comes back with a text; what is found later (a refused directory) leaves the process up,
 * says why in status and log, and takes no part (PROTOCOL.md 2.5). Close: raft first (waiting proposals learn that
 * their fate is unknown), then bodies, spool, links, the loop. */
#include "cluster/core.h"

#include "proto/base/error.h"
#include "proto/base/fileio.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/unfinished.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static Mailraft__Rules *copy_rules(const Mailraft__Rules *rules)
{
    size_t size = mailraft__rules__get_packed_size(rules);
    uint8_t *packed = mr_malloc(size);
    mailraft__rules__pack(rules, packed);
    Mailraft__Rules *copy = mailraft__rules__unpack(NULL, size, packed);
    mr_assert(copy != NULL);
    free(packed);
    return copy;
}

/* A copy with its hash: XXH3-128 of the packed message without the hash. */
static Mailraft__Rules *hashed_rules(const Mailraft__Rules *rules)
{
    Mailraft__Rules *copy = copy_rules(rules);
    free(copy->hash.data);
    copy->hash = (ProtobufCBinaryData){0};
    size_t size = mailraft__rules__get_packed_size(copy);
    uint8_t *packed = mr_malloc(size);
    mailraft__rules__pack(copy, packed);
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(packed, size));
    free(packed);
    copy->hash.data = mr_memdup(hash.digest, sizeof(hash.digest));
    copy->hash.len = sizeof(hash.digest);
    return copy;
}

/* They must fit into one entry of the log: with more they would never come into force, and the cluster never be ready.
 * With their hash. */
static int check_rules(const Mailraft__Rules *rules, char *error, size_t error_len)
{
    size_t size = mailraft__rules__get_packed_size(rules);
    if (size <= CORE_MAX_RULES)
        return 0;
    (void)snprintf(error, error_len, "domains, routes and limits are too many: %zu bytes together, at most %d", size,
                   CORE_MAX_RULES);
    return MR_LIMIT;
}

int cluster_check_rules(const Mailraft__Rules *rules, char *error, size_t error_len)
{
    Mailraft__Rules *hashed = hashed_rules(rules);
    int rc = check_rules(hashed, error, error_len);
    mailraft__rules__free_unpacked(hashed, NULL);
    return rc;
}

struct cluster_rules *cluster_rules_ref(struct cluster_rules *r)
{
    atomic_fetch_add(&r->references, 1);
    return r;
}

void cluster_rules_unref(struct cluster_rules *r)
{
    if (r == NULL || atomic_fetch_sub(&r->references, 1) != 1)
        return;
    mailraft__rules__free_unpacked((Mailraft__Rules *)(uintptr_t)r->rules, NULL);
    free(r);
}

/* ---- completions: callbacks that must come later than the call that caused them ---- */

static void on_completions(uv_idle_t *idle)
{
    struct cluster *c = idle->data;
    struct core_completion *at = c->completions;
    c->completions = NULL;
    c->completions_tail = &c->completions;
    uv_idle_stop(idle);
    while (at != NULL) {
        struct core_completion *next = at->next;
        at->done(at->arg, at->status);
        free(at);
        at = next;
    }
}

/* ---- ticks ---- */

static void on_tick(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    uint64_t now = core_now(c);
    if (c->last_tick_ns != 0 && now - c->last_tick_ns > c->max_tick_gap_ns)
        c->max_tick_gap_ns = now - c->last_tick_ns;
    c->last_tick_ns = now;
    busy_step(c->disk.loop);

    if (!formation_settled(c->formation) && now - c->last_form_tick_ns > 200 * MR_NS_PER_MS) {
        c->last_form_tick_ns = now;
        formation_tick(c->formation);
    }
    core_drain_tick(c, now);
    core_disk_tick(c, now);
    core_full_tick(c);
    if (c->replica == NULL)
        return;
    if (c->lead.leading)
        core_lead_tick(c, now);
    core_node_up_try(c);
    core_lease_update(c, now);
    proposals_tick(c->proposals, now);
    core_port_tick(c, now);
    core_attempts_tick(c);
    if (now - c->last_body_tick_ns >= BODIES_TICK_MS * MR_NS_PER_MS) {
        c->last_body_tick_ns = now;
        bodies_tick(c->bodies, now);
    }
}

static void on_beat(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    if (c->replica != NULL)
        core_heartbeat_send(c);
}

/* Before the loop waits: what this turn has brought goes out as one entry. */
static void on_prepare(uv_prepare_t *prepare)
{
    struct cluster *c = prepare->data;
    if (c->lead.leading)
        core_lead_flush(c);
}

/* ---- formed: begin Raft ---- */

static void refuse(struct cluster *c, const char *reason)
{
    if (c->refused != NULL && strcmp(c->refused, reason) == 0)
        return;
    free(c->refused);
    c->refused = mr_strdup(reason);
    atomic_store(&c->readiness, CLUSTER_REFUSED);
    log_event(LOG_ERROR, "refused", LOG_S("reason", reason));
}

/* Only a directory that never was bootstrapped may begin with an empty log under its raft id (PROTOCOL.md 2.1). */
static int begin_raft(struct cluster *c, char *error, size_t error_len)
{
    bool before = identity_bootstrapped(c->identity);
    int rc = before ? 0 : unfinished_bootstrap(c->raft_dir, error, error_len);
    if (rc == 0)
        rc = core_raft_open(c, error, error_len);
    if (rc != 0)
        return rc;
    if (!before) {
        unsigned n = identity_members(c->identity);
        struct replica_member *members = mr_calloc(n, sizeof(*members));
        for (unsigned i = 0; i < n; i++) {
            const struct identity_member *m = identity_member(c->identity, i);
            members[i] = (struct replica_member){.id = m->node, .name = m->name};
        }
        rc = replica_bootstrap(c->replica, members, n);
        free(members);
        if (rc == MR_EXISTS)
            rc = 0; /* a crash came between the bootstrap and its record */
        if (rc == 0)
            rc = identity_set_bootstrapped(c->identity);
        if (rc != 0) {
            (void)snprintf(error, error_len, "bootstrap of the log: %s", mr_strerror(rc));
            return rc;
        }
    }
    rc = replica_start(c->replica, error, error_len);
    if (rc == 0 && replica_last(c->replica) == 0) {
        (void)snprintf(error, error_len,
                       "%s belonged to a formed node, but its Raft log is gone; a lost log never comes back under its "
                       "old id: leave this node out, the cluster goes on with the rest",
                       c->config.data_dir);
        return MR_STALE;
    }
    return rc;
}

static void on_failed_closed(void *arg)
{
    (void)arg; /* the node goes on without a log: it only says why */
}

static void on_formed(void *arg)
{
    struct cluster *c = arg;
    char error[512] = "";
    c->self = identity_node(c->identity);
    free(c->refused); /* why it could not be formed is over */
    c->refused = NULL;
    atomic_store(&c->readiness, CLUSTER_STARTING);
    log_event(LOG_INFO, "formed", LOG_N("raft_id", c->self), LOG_N("members", identity_members(c->identity)),
              LOG_N("incarnation", c->incarnation));
    struct lease_times times = {
        .lease_ns = c->config.lease_ms * MR_NS_PER_MS,
        .election_ns = c->config.election_timeout_ms * MR_NS_PER_MS,
        .node_timeout_ns = c->config.node_timeout_ms * MR_NS_PER_MS,
    };
    node_lease_init(&c->lease, &times);
    leader_lease_init(&c->leader_lease, &times, c->self);
    struct bodies_config bodies = {
        .loop = &c->loop, .spool = c->spool, .state = c->state, .links = c->links, .self = c->self};
    c->bodies = bodies_open(&bodies);
    core_disk_computes(c, true); /* a long log takes long to read */
    int rc = begin_raft(c, error, sizeof(error));
    core_disk_computes(c, false);
    /* A full or failing disk may be well again at the next start; what is wrong in the directory itself stays. */
    if (rc == MR_IO || rc == MR_NOSPACE)
        mr_panic("%s", error);
    if (rc != 0) {
        if (c->replica != NULL)
            replica_close(c->replica, on_failed_closed, c);
        c->replica = NULL;
        refuse(c, error);
        return;
    }
    for (unsigned i = 0; i < identity_members(c->identity); i++) {
        const struct identity_member *m = identity_member(c->identity, i);
        if (m->node != c->self && links_is_up(c->links, m->node, LINK_BULK))
            bodies_link(c->bodies, m->node, true);
    }
}

static void on_refused(void *arg, const char *reason)
{
    refuse(arg, reason);
}

static void form_send(void *arg, uint32_t peer, bool request, const ProtobufCMessage *message)
{
    struct cluster *c = arg;
    (void)links_send_message(c->links, peer, LINK_CONTROL, request ? FRAME_FORM_REQUEST : FRAME_FORM_REPLY, message,
                             NULL, 0);
}

/* ---- open ---- */

static int make_dir(const char *path, char *error, size_t error_len)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return 0;
    (void)snprintf(error, error_len, "%s: %s", path, strerror(errno));
    return MR_IO;
}

static int sync_dir(const char *path, char *error, size_t error_len)
{
    int rc = mr_fileio_real.sync_dir(&mr_fileio_real, path);
    if (rc == 0)
        return 0;
    (void)snprintf(error, error_len, "fsync of %s: %s", path, strerror(-rc));
    return MR_IO;
}

/* At each start, since an earlier one may have ended between making a directory and this: a log of votes and a spool
 * are worth nothing when a power cut takes the directory that they are in. */
static int sync_names(const struct cluster *c, char *error, size_t error_len)
{
    int rc = sync_dir(c->config.data_dir, error, error_len);
    char *path = mr_strdup(c->config.data_dir);
    const char *parent = dirname(path);
    struct stat own, above;
    /* Where we may not read it, or ours is a file system of its own, somebody else made it there; and what is above a
     * mount point may be of a kind that cannot be synced. */
    if (rc == 0 && access(parent, R_OK) == 0 && stat(c->config.data_dir, &own) == 0 && stat(parent, &above) == 0 &&
        own.st_dev == above.st_dev)
        rc = sync_dir(parent, error, error_len);
    free(path);
    return rc;
}

static int open_directory(struct cluster *c, char *error, size_t error_len)
{
    int rc = make_dir(c->config.data_dir, error, error_len);
    if (rc != 0)
        return rc;
    core_disk_open(c); /* before anybody needs room to start */
    rc = identity_open(&c->identity, c->config.data_dir, c->config.name, error, error_len);
    if (rc != 0)
        return rc;
    c->start_incarnation = identity_incarnation(c->identity);
    atomic_store(&c->incarnation, c->start_incarnation);
    c->raft_dir = mr_asprintf("%s/raft", c->config.data_dir);
    rc = make_dir(c->raft_dir, error, error_len);
    if (rc != 0)
        return rc;
    char *journal = mr_asprintf("%s/journal", c->config.data_dir);
    rc = make_dir(journal, error, error_len);
    if (rc == 0)
        rc = journal_replay(journal, &c->left);
    if (rc != 0 && error[0] == 0)
        (void)snprintf(error, error_len, "%s: outcome journal: %s", journal, mr_strerror(rc));
    free(journal);
    if (rc != 0)
        return rc;
    char *spool = mr_asprintf("%s/spool", c->config.data_dir);
    struct spool_config config = {.loop = &c->loop, .dir = spool, .disk = c->disk.spool};
    rc = spool_open(&c->spool, &config, error, error_len);
    if (rc == MR_NOSPACE && ballast_release(c->disk.ballast)) /* it was not so full that it was given back before */
        rc = spool_open(&c->spool, &config, error, error_len);
    free(spool);
    return rc == 0 ? sync_names(c, error, error_len) : rc;
}

static int open_trace(struct cluster *c, char *error, size_t error_len)
{
    if (c->config.apply_trace == NULL)
        return 0;
    int rc = apply_trace_open(&c->trace, c->config.apply_trace, c->config.state_hash_every);
    if (rc != 0)
        (void)snprintf(error, error_len, "debug.apply_trace: %s: %s", c->config.apply_trace, strerror(errno));
    return rc;
}

static int open_formation(struct cluster *c, char *error, size_t error_len)
{
    struct formation_peer *peers = mr_calloc(c->config.n_initial, sizeof(*peers));
    for (unsigned i = 0; i < c->config.n_initial; i++)
        peers[i] = (struct formation_peer){.name = c->config.initial[i].name, .address = c->config.initial[i].address};
    struct formation_handler handler = {.arg = c, .send = form_send, .formed = on_formed, .refused = on_refused};
    int rc = formation_open(&c->formation, c->identity, c->config.name, peers, c->config.n_initial, &handler, error,
                            error_len);
    free(peers);
    return rc;
}

static int proposal_send(void *arg, uint64_t request, const Mailraft__Op *op);

int cluster_open(struct cluster **out, const struct cluster_config *config, char *error, size_t error_len)
{
    Mailraft__Rules *rules = hashed_rules(config->rules);
    int rc = check_rules(rules, error, error_len);
    if (rc != 0) {
        mailraft__rules__free_unpacked(rules, NULL);
        return rc;
    }
    struct cluster *c = mr_calloc(1, sizeof(*c));
    error[0] = 0;
    c->config = *config;
    if (c->config.max_state == 0)
        c->config.max_state = CLUSTER_MAX_STATE;
    c->clock = &mr_clock_real;
    c->completions_tail = &c->completions;
    c->lead.staged_tail = &c->lead.staged;
    c->lead.batches_tail = &c->lead.batches;
    c->started_ns = core_now(c);
    c->own_rules = rules;
    atomic_store(&c->readiness, CLUSTER_STARTING);
    uv_sem_init(&c->drain_over, 0);
    mr_assert(uv_loop_init(&c->loop) == 0);
    mr_assert(mailbox_open(&c->mailbox, &c->loop, CORE_MAILBOX) == 0);
    uv_timer_init(&c->loop, &c->tick);
    uv_timer_init(&c->loop, &c->beat);
    uv_prepare_init(&c->loop, &c->prepare);
    uv_idle_init(&c->loop, &c->completions_idle);
    c->tick.data = c->beat.data = c->prepare.data = c->completions_idle.data = c;
    core_query_open(c);

    struct state_observer observer = core_observer(c);
    c->state = state_open(&observer);
    struct sched_config sched = {.hash_seed = mr_id_hash(mr_id_random())};
    c->sched = sched_open(c->state, &sched);

    rc = open_directory(c, error, error_len);
    if (rc == 0)
        rc = open_trace(c, error, error_len);
    /* The leader may still answer what this node's last life proposed. */
    struct proposals_config proposals = {.arg = c, .send = proposal_send, .first_request = c->start_incarnation << 40};
    c->proposals = proposals_open(&proposals);
    if (rc == 0)
        rc = core_links_open(c, error, error_len);
    if (rc == 0)
        rc = open_formation(c, error, error_len);
    if (rc != 0) {
        /* The process ends with this text: nothing was started, the kernel frees what is open. */
        if (c->identity != NULL)
            identity_close(c->identity);
        return rc;
    }
    for (unsigned i = 0; i < config->n_initial; i++) {
        uint32_t node = formation_node(c->formation, config->initial[i].name);
        if (strcmp(config->initial[i].name, config->name) != 0)
            links_add_peer(c->links, node, config->initial[i].name, config->initial[i].address);
    }
    c->config.initial = NULL; /* the caller's; everybody who needs it has a copy */
    c->config.rules = NULL;
    *out = c;
    return 0;
}

/* ---- this node's proposals ---- */

static int proposal_send(void *arg, uint64_t request, const Mailraft__Op *op)
{
    struct cluster *c = arg;
    if (c->lead.leading) {
        size_t size = mailraft__op__get_packed_size(op);
        uint8_t *packed = mr_malloc(size);
        mailraft__op__pack(op, packed);
        Mailraft__Op *copy = mailraft__op__unpack(NULL, size, packed);
        free(packed);
        mr_assert(copy != NULL);
        int rc = core_lead_stage(c, copy, 0, request);
        if (rc != 0)
            mailraft__op__free_unpacked(copy, NULL);
        return rc;
    }
    if (c->leader == 0 || c->leader == c->self || c->closing)
        return MR_NOTLEADER;
    /* Room must stay for heartbeats and Raft's messages, whose loss would cost the lease. */
    if (links_queued(c->links, c->leader, LINK_CONTROL) > LINK_MAX_QUEUE / 4)
        return MR_BUSY;
    Mailraft__Propose frame = MAILRAFT__PROPOSE__INIT;
    frame.request = request;
    frame.op = (Mailraft__Op *)(uintptr_t)op; /* only packed */
    return links_send_message(c->links, c->leader, LINK_CONTROL, FRAME_PROPOSE, &frame.base, NULL, 0);
}

/* ---- start ---- */

static void run_core(void *arg)
{
    struct cluster *c = arg;
    busy_begin(c->disk.loop);
    formation_start(c->formation);
    uv_run(&c->loop, UV_RUN_DEFAULT);
}

int cluster_start(struct cluster *c)
{
    if (disk_watch_start(c->disk.watch) != 0)
        return MR_IO;
    uv_timer_start(&c->tick, on_tick, CORE_TICK_MS, CORE_TICK_MS);
    uv_timer_start(&c->beat, on_beat, c->config.heartbeat_ms, c->config.heartbeat_ms);
    uv_prepare_start(&c->prepare, on_prepare);
    if (uv_thread_create(&c->thread, run_core, c) != 0)
        return MR_IO;
    c->thread_started = true;
    return 0;
}

unsigned cluster_version(const struct cluster *c)
{
    return atomic_load(&c->version);
}

enum cluster_readiness cluster_readiness(const struct cluster *c)
{
    enum cluster_readiness r = (enum cluster_readiness)atomic_load(&c->readiness);
    /* Between two ticks of the core, and when it hangs, the lease itself decides. */
    if (r == CLUSTER_READY && mr_boot_ns(c->clock) >= atomic_load(&c->lease_end_ns))
        return CLUSTER_NO_QUORUM;
    return r;
}

struct cluster_counters *cluster_counters(struct cluster *c)
{
    return &c->counters;
}

void core_complete_later(struct cluster *c, void (*done)(void *arg, int status), void *arg, int status)
{
    struct core_completion *at = mr_malloc(sizeof(*at));
    *at = (struct core_completion){.done = done, .arg = arg, .status = status};
    *c->completions_tail = at;
    c->completions_tail = &at->next;
    uv_idle_start(&c->completions_idle, on_completions);
}

/* ---- a reloaded configuration ---- */

struct reconfigure {
    struct mail mail;
    struct cluster *c;
    Mailraft__Rules *rules;
};

static void run_reconfigure(struct mail *mail)
{
    struct reconfigure *r = MR_CONTAINER(mail, struct reconfigure, mail);
    struct cluster *c = r->c;
    char error[400];
    if (links_reload(c->links, error, sizeof(error)) != 0)
        log_event(LOG_ERROR, "reload_failed", LOG_S("reason", error));
    if (check_rules(r->rules, error, sizeof(error)) != 0) {
        log_event(LOG_ERROR, "rules_refused", LOG_S("reason", error));
        mailraft__rules__free_unpacked(r->rules, NULL);
        free(r);
        return;
    }
    mailraft__rules__free_unpacked(c->own_rules, NULL);
    c->own_rules = r->rules;
    /* On a follower it must not wait for a failover, which changes no limit (6.3): there all members must want it. */
    c->lead.rules_wanted = c->lead.leading;
    free(r);
}

void cluster_reconfigure(struct cluster *c, const Mailraft__Rules *rules)
{
    struct reconfigure *r = mr_calloc(1, sizeof(*r));
    r->c = c;
    r->rules = hashed_rules(rules);
    r->mail.run = run_reconfigure;
    mailbox_post(c->mailbox, &r->mail);
}
