/* replica.c - life cycle, state machine and proposals of a replica; see replica.h.
 *
 * A proposal: replica_propose -> raft_apply -> (append, replicate, commit) -> fsm_apply -> proposed -> the caller's
 * callback. Failure modes: not leader or no space: refused, nothing happened. Leadership lost or close: MR_UNKNOWN. Any
 * other error of raft_apply may come after the entry is in libraft's log and its memory is gone: the process stops.
 * Close: raft_close fails what waits at once, then waits for disk and network; our handle closes last. */
#include "raft/replica.h"

#include "proto/base/error.h"
#include "proto/base/le.h"
#include "proto/base/log.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "raft/raft_refuse.h"
#include "raft/raft_wire.h"
#include "raft/replica_io.h"
#include "raft/replica_load.h"
#include "raft/replica_put.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_THRESHOLD = 4096,
    DEFAULT_TRAILING = 2048,
    MAX_LOG_IN_MEMORY = 8000, /* threshold + trailing that may be asked for: at start each loaded entry costs libraft a
                               * scan over all; `threshold` makes 5.5 times of it at most */
    LARGE_SNAPSHOT = 4,       /* times the threshold, at most, until the log is as large as the snapshot */
    HELD_LOG = 32768,         /* entries: threshold while a snapshot is under way to a peer */
    HELD_LOG_BYTES = 256 << 20,   /* and no more than this in memory */
    MAX_INFLIGHT = 512,           /* entries; libraft's 32 throttles throughput */
    HAND_OVER_LONGEST_MS = 32000, /* between two for a slow disk */
    INSTALL_TIMEOUT_MS = 600000,  /* replica_send watches transfers by itself */
    ENTRY_HEADER = 4,             /* our own length before the data, since libraft wants multiples of 8 */
};

/* A proposal that waits. */
struct proposal {
    struct raft_apply req;
    struct replica *owner;
    replica_proposed_cb cb;
    void *arg;
};

struct replica {
    struct raft raft;
    struct raft_fsm fsm;
    struct replica_io rio;
    struct replica_config config;
    uv_prepare_t turn;
    bool started;
    bool starting;
    bool closing;
    unsigned threshold; /* entries, as libraft was told */
    bool in_fsm;        /* a state machine's function runs */
    int restore_error;
    uint64_t applied; /* index of the last entry or snapshot given to the state machine */
    unsigned proposals;

    bool transferring;
    struct raft_transfer transfer;
    void (*transfer_cb)(void *arg, int status);
    void *transfer_arg;
    uint64_t handed_over_ms;
    uint64_t hand_over_wait_ms; /* before it is tried again */

    enum replica_role seen_role;
    uint64_t seen_term;
    uint64_t seen_leader;

    void (*close_cb)(void *arg);
    void *close_arg;
};

/* --- the state machine, as libraft sees it ------------------------------------------------------------------------ */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct replica *r = fsm->data;
    /* libraft moves last_applied over barriers and changes too, one by one, so this is this entry's index. */
    uint64_t index = raft_last_applied(&r->raft) + 1;
    uint32_t len = buf->len >= ENTRY_HEADER ? mr_get_le32(buf->base) : 0;

    if (len == 0 || len > buf->len - ENTRY_HEADER)
        mr_panic("raft entry %llu does not decode: the log is damaged or of another program",
                 (unsigned long long)index);
    mr_assert(index > r->applied);
    *result = NULL;
    r->in_fsm = true;
    r->config.fsm.apply(r->config.fsm.arg, index, (const uint8_t *)buf->base + ENTRY_HEADER, len, result);
    r->in_fsm = false;
    r->applied = index;
    return 0;
}

/* Only takes hold of the state: the bytes come by replica_io, which has them written before raft_uv gets them. */
static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *buffers[], unsigned *count)
{
    struct replica *r = fsm->data;
    uint64_t started = uv_hrtime();

    mr_assert(r->rio.held == NULL);
    r->in_fsm = true;
    r->rio.held = r->config.fsm.snapshot(r->config.fsm.arg);
    r->in_fsm = false;
    *buffers = NULL;
    *count = 0;
    r->rio.held_ns = uv_hrtime() - started;
    return 0;
}

static int fsm_snapshot_finalize(struct raft_fsm *fsm, struct raft_buffer *buffers[], unsigned *count)
{
    (void)fsm;
    mr_assert(*buffers == NULL && *count == 0);
    return 0;
}

static int restore(struct replica *r, uint64_t index, const struct raft_buffer *buf)
{
    const struct replica_fsm *fsm = &r->config.fsm;
    void *prepared = replica_put_prepared(&r->rio);
    const uint8_t *data;
    size_t len;
    int rc = replica_put_bytes(buf, &data, &len);

    if (rc != 0)
        return rc;
    uint64_t started = uv_hrtime();
    r->in_fsm = true;
    if (prepared != NULL)
        fsm->restore_prepared(fsm->arg, index, len, prepared);
    else
        rc = fsm->restore(fsm->arg, index, data, len);
    r->in_fsm = false;
    if (!r->starting)
        r->rio.snapshot_stall_ns = uv_hrtime() - started;
    r->rio.snapshot_bytes = len;
    return rc;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct replica *r = fsm->data;
    uint64_t index = r->starting ? replica_io_loaded_snapshot(&r->rio) : r->rio.installing_index;
    int rc;

    mr_assert(index >= r->applied);
    rc = restore(r, index, buf);
    if (rc != 0 && r->starting) {
        r->restore_error = rc;
        return RAFT_CORRUPT;
    }
    if (rc != 0)
        mr_panic("the snapshot at index %llu that a peer sent does not decode: %s", (unsigned long long)index,
                 mr_strerror(rc));
    r->applied = index;
    raft_free(buf->base); /* ours once restored */
    return 0;
}

/* --- what changed ----------------------------------------------------------------------------------------------------
 */

static void notice(struct replica *r)
{
    enum replica_role role = replica_role(r);
    uint64_t term = replica_term(r);
    uint64_t leader = replica_leader(r);

    if (role == r->seen_role && term == r->seen_term && leader == r->seen_leader)
        return;
    if (role == REPLICA_LEADER && r->seen_role != REPLICA_LEADER)
        replica_send_reset(&r->rio.send);
    r->seen_role = role;
    r->seen_term = term;
    r->seen_leader = leader;
    if (r->config.changed != NULL)
        r->config.changed(r->config.changed_arg, role, term, leader);
}

/* Entries after which a new snapshot is due. A new one would cut off the entries that a peer needs after the one that
 * is under way to it. And what is written again and again should be no more than what is new: the larger the snapshot,
 * the longer the log that it replaces; but each entry costs memory, and time at the next start. */
static unsigned threshold(const struct replica *r)
{
    unsigned least = r->config.snapshot_threshold ? r->config.snapshot_threshold : DEFAULT_THRESHOLD;

    least += least / 8 * (unsigned)(r->config.id % 4); /* so that not all nodes write theirs at the same time */
    if (r->rio.log_bytes >= HELD_LOG_BYTES)
        return least;
    if (replica_send_holds(&r->rio.send))
        return HELD_LOG;
    return r->rio.log_bytes < r->rio.snapshot_bytes ? least * LARGE_SNAPSHOT : least;
}

static void set_threshold(struct replica *r)
{
    unsigned entries = threshold(r);

    if (entries == r->threshold)
        return;
    r->threshold = entries;
    raft_set_snapshot_threshold(&r->raft, entries);
}

/* Before each poll: outside of libraft, so callbacks may call us again. */
static void on_turn(uv_prepare_t *handle)
{
    struct replica *r = handle->data;

    replica_send_turn(&r->rio.send);
    if (!r->started || r->closing)
        return;
    set_threshold(r);
    notice(r);
}

static void hand_over(struct replica *r)
{
    uint64_t now = uv_now(r->config.loop);

    if (raft_state(&r->raft) != RAFT_LEADER || now - r->handed_over_ms < r->hand_over_wait_ms)
        return;
    /* Who leads again and is slow again had better stay: the others' disks are no better, and each change costs. */
    if (now - r->handed_over_ms > HAND_OVER_LONGEST_MS * 2)
        r->hand_over_wait_ms = REPLICA_DISK_SLOW_MS;
    else if (r->hand_over_wait_ms < HAND_OVER_LONGEST_MS)
        r->hand_over_wait_ms *= 2;
    r->handed_over_ms = now;
    log_event(LOG_WARN, "raft_disk_slow", LOG_S("dir", r->config.dir),
              LOG_N("append_ms", replica_io_append_age(&r->rio)), LOG_N("unpersisted", r->rio.unpersisted));
    (void)replica_transfer(r, 0, NULL, NULL);
}

static void on_ticked(void *arg)
{
    struct replica *r = arg;

    if (replica_io_watch(&r->rio))
        hand_over(r);
}

/* --- life cycle
 * -------------------------------------------------------------------------------------------------------- */

static int check_config(const struct replica_config *c, char *error, size_t error_len)
{
    uint64_t entries = c->snapshot_threshold ? c->snapshot_threshold : DEFAULT_THRESHOLD;
    uint64_t trailing = c->snapshot_trailing ? c->snapshot_trailing : DEFAULT_TRAILING;

    if (c->id == 0 || c->heartbeat_ms == 0 || c->heartbeat_ms >= c->election_timeout_ms) {
        snprintf(error, error_len, "raft: id must not be 0, heartbeat must be shorter than election timeout");
        return MR_INVAL;
    }
    if (entries + trailing > MAX_LOG_IN_MEMORY) {
        snprintf(error, error_len, "raft: snapshot threshold and trailing may be %d entries together",
                 MAX_LOG_IN_MEMORY);
        return MR_INVAL;
    }
    return MR_OK;
}

static void set_up(struct replica *r)
{
    const struct replica_config *c = &r->config;

    /* libraft formats every trace before it asks whether anybody listens. */
    r->raft.tracer = NULL;
    raft_seed(&r->raft, c->seed);
    raft_set_election_timeout(&r->raft, c->election_timeout_ms);
    raft_set_heartbeat_timeout(&r->raft, c->heartbeat_ms);
    raft_set_install_snapshot_timeout(&r->raft, INSTALL_TIMEOUT_MS);
    raft_set_pre_vote(&r->raft, true);
    raft_set_max_inflight_entries(&r->raft, MAX_INFLIGHT);
    set_threshold(r);
    raft_set_snapshot_trailing(&r->raft, c->snapshot_trailing ? c->snapshot_trailing : DEFAULT_TRAILING);
    uv_prepare_init(c->loop, &r->turn);
    r->turn.data = r;
    uv_prepare_start(&r->turn, on_turn);
}

int replica_open(struct replica **out, const struct replica_config *config, char *error, size_t error_len)
{
    struct replica *r;
    int rc;
    int rv;

    replica_io_heap();
    rc = check_config(config, error, error_len);
    if (rc != 0)
        return rc;
    r = mr_calloc(1, sizeof(*r));
    r->config = *config;
    r->hand_over_wait_ms = REPLICA_DISK_SLOW_MS;
    rc = replica_io_init(&r->rio, config->loop, config->dir, &config->net, error, error_len);
    if (rc != 0)
        goto err_after_alloc;
    r->rio.ticked = on_ticked;
    r->rio.arg = r;
    r->rio.fsm = &r->config.fsm;
    r->fsm = (struct raft_fsm){.version = 2,
                               .data = r,
                               .apply = fsm_apply,
                               .snapshot = fsm_snapshot,
                               .restore = fsm_restore,
                               .snapshot_finalize = fsm_snapshot_finalize};
    rv = raft_init(&r->raft, &r->rio.io, &r->fsm, config->id, config->name);
    if (rv != 0) {
        snprintf(error, error_len, "raft in %s: %s (%s)", config->dir, raft_strerror(rv), raft_errmsg(&r->raft));
        rc = rv == RAFT_CORRUPT || rv == RAFT_MALFORMED ? MR_MALFORMED : MR_IO;
        goto err_after_io;
    }
    set_up(r);
    rc = replica_load(&r->rio, error, error_len);
    if (rc != 0) {
        replica_close(r, NULL, NULL);
        return rc;
    }
    *out = r;
    return MR_OK;

err_after_io:
    replica_io_free(&r->rio);
err_after_alloc:
    free(r);
    return rc;
}

int replica_bootstrap(struct replica *r, const struct replica_member *members, unsigned count)
{
    struct raft_configuration conf;
    int rv = 0;
    int rc = MR_OK;

    mr_assert(!r->started);
    if (count == 0 || count > RAFT_WIRE_MAX_MEMBERS)
        return MR_INVAL;
    if (!replica_load_is_empty(&r->rio))
        return MR_EXISTS;
    raft_configuration_init(&conf);
    for (unsigned i = 0; i < count && rv == 0; i++)
        rv = strlen(members[i].name) > RAFT_WIRE_MAX_NAME
                 ? RAFT_NAMETOOLONG
                 : raft_configuration_add(&conf, members[i].id, members[i].name, RAFT_VOTER);
    if (rv != 0) {
        rc = MR_INVAL;
        goto out;
    }
    replica_load_forget(&r->rio);
    rv = raft_bootstrap(&r->raft, &conf);
    if (rv == RAFT_CANTBOOTSTRAP)
        rc = MR_EXISTS;
    else if (rv != 0)
        mr_panic("the first configuration was not stored in %s: %s", r->config.dir, raft_errmsg(&r->raft));
out:
    raft_configuration_close(&conf);
    return rc;
}

int replica_start(struct replica *r, char *error, size_t error_len)
{
    int rv;

    mr_assert(!r->started && !r->closing);
    r->starting = true;
    rv = raft_start(&r->raft);
    r->starting = false;
    if (rv != 0) {
        const char *reason = raft_errmsg(&r->raft);
        if (r->restore_error != 0)
            reason = mr_strerror(r->restore_error);
        else if (reason[0] == 0)
            reason = r->rio.io.errmsg;
        snprintf(error, error_len, "raft in %s does not start: %s", r->config.dir, reason);
        return r->restore_error != 0 ? r->restore_error : MR_IO;
    }
    r->started = true;
    return MR_OK;
}

static void turn_closed(uv_handle_t *handle)
{
    struct replica *r = handle->data;
    void (*cb)(void *) = r->close_cb;
    void *arg = r->close_arg;

    if (cb != NULL)
        cb(arg);
    free(r);
}

static void raft_closed(struct raft *raft)
{
    struct replica *r = MR_CONTAINER(raft, struct replica, raft);

    mr_assert(r->proposals == 0 && !r->transferring);
    replica_io_free(&r->rio);
    uv_prepare_stop(&r->turn);
    uv_close((uv_handle_t *)&r->turn, turn_closed);
}

void replica_close(struct replica *r, void (*cb)(void *arg), void *arg)
{
    mr_assert(!r->closing && !r->in_fsm);
    r->closing = true;
    r->close_cb = cb;
    r->close_arg = arg;
    raft_close(&r->raft, raft_closed);
}

/* --- messages
 * ------------------------------------------------------------------------------------------------------------ */

/* libraft copies the name; members that its configuration does not know yet (a new node learns it from the leader) have
 * none. */
static const char *name_of(const struct replica *r, uint64_t id)
{
    for (unsigned i = 0; i < r->raft.configuration.n; i++)
        if (r->raft.configuration.servers[i].id == id)
            return r->raft.configuration.servers[i].address;
    return "?";
}

/* False: libraft gets it. */
static bool refuse(struct replica *r, uint64_t from, const struct raft_message *m, int *rc)
{
    static const char *const events[] = {
        [RAFT_REFUSE_SECOND_LEADER] = "raft_second_leader", [RAFT_REFUSE_CONTRADICTION] = "raft_contradiction"};
    enum raft_refusal refusal = raft_refuse(&r->raft, m);

    *rc = MR_OK;
    if (refusal == RAFT_REFUSE_SECOND_LEADER || refusal == RAFT_REFUSE_CONTRADICTION) {
        log_event(LOG_ERROR, events[refusal], LOG_N("peer", from), LOG_N("term", r->raft.current_term));
        *rc = MR_MALFORMED;
    }
    return refusal != RAFT_REFUSE_NOTHING;
}

/* What is committed here stays so: from a message that ends before it, but knows of a later commit of the leader,
 * libraft would set the index back, and label its next snapshot with less than the state machine has applied
 * (UPSTREAM.md). */
static void keep_commit(const struct replica *r, struct raft_append_entries *m)
{
    raft_index commit = raft_commit_index(&r->raft);

    if (m->leader_commit > commit && m->prev_log_index + m->n_entries < commit)
        m->leader_commit = commit;
}

/* A leader may begin before what this node has in its snapshot alone. All of that is committed, and so the same here
 * and there; libraft finds no term of it, holds it for new, and appends it a second time (UPSTREAM.md 40). So such a
 * message begins behind the snapshot. */
static void skip_known(const struct replica *r, struct raft_append_entries *m)
{
    raft_index known = r->raft.trail.snapshot.index;

    if (m->term < r->raft.current_term || m->prev_log_index >= known || r->rio.installing)
        return;
    if (known - m->prev_log_index < m->n_entries) {
        unsigned skip = (unsigned)(known - m->prev_log_index);

        m->n_entries -= skip;
        memmove(m->entries, m->entries + skip, m->n_entries * sizeof(*m->entries)); /* they share one batch */
    } else if (m->n_entries > 0) {
        raft_free(m->entries[0].batch);
        raft_free(m->entries);
        m->entries = NULL;
        m->n_entries = 0;
    }
    m->prev_log_index = known;
    m->prev_log_term = r->raft.trail.snapshot.term;
}

int replica_receive_owned(struct replica *r, uint64_t from, const uint8_t *head, size_t head_len, uint8_t *tail,
                          size_t tail_len)
{
    struct raft_message message;
    char name[RAFT_WIRE_MAX_NAME + 1];
    int rc;

    mr_assert(!r->in_fsm);
    if (!r->started || r->closing) {
        free(tail);
        return MR_CLOSED;
    }
    if (from == 0 || from == r->config.id) {
        free(tail);
        return MR_MALFORMED;
    }
    if (raft_wire_is_snapshot(head, head_len) && (r->rio.taking || r->rio.installing)) {
        /* The leader sends it again; libraft would crash (taking) or leak it (installing). */
        free(tail);
        r->rio.installs_dropped++;
        return MR_OK;
    }
    snprintf(name, sizeof(name), "%s", name_of(r, from));
    rc = raft_wire_decode(from, name, head, head_len, tail, tail_len, &message);
    if (rc != 0)
        return rc;
    if (refuse(r, from, &message, &rc)) {
        raft_wire_free(&message);
        return rc;
    }
    if (message.type == RAFT_APPEND_ENTRIES_RESULT && message.append_entries_result.term == r->raft.current_term &&
        raft_state(&r->raft) == RAFT_LEADER)
        replica_send_filter(&r->rio.send, from, r->rio.next_index - 1, &message.append_entries_result);
    if (message.type == RAFT_APPEND_ENTRIES) {
        skip_known(r, &message.append_entries);
        keep_commit(r, &message.append_entries);
    }
    r->rio.recv(&r->rio.io, &message);
    return MR_OK;
}

int replica_receive(struct replica *r, uint64_t from, const uint8_t *head, size_t head_len, const uint8_t *tail,
                    size_t tail_len)
{
    uint8_t *copy = NULL;

    if (tail_len > 0) {
        copy = mr_malloc(tail_len);
        memcpy(copy, tail, tail_len);
    }
    return replica_receive_owned(r, from, head, head_len, copy, tail_len);
}

/* --- proposals
 * ------------------------------------------------------------------------------------------------------------ */

static void proposed(struct raft_apply *req, int status, void *result)
{
    struct proposal *p = MR_CONTAINER(req, struct proposal, req);
    struct replica *r = p->owner;

    mr_assert(r->proposals > 0);
    r->proposals--;
    if (status == 0)
        p->cb(p->arg, MR_OK, req->index, result);
    else
        p->cb(p->arg, MR_UNKNOWN, 0, NULL);
    free(p);
}

/* In libraft's memory: length, data, zeros up to a multiple of 8. */
static struct raft_buffer encode_entry(const void *data, size_t len)
{
    struct raft_buffer buf = {.len = (ENTRY_HEADER + len + 7) / 8 * 8};

    buf.base = raft_calloc(1, buf.len);
    mr_put_le32(buf.base, (uint32_t)len);
    memcpy((uint8_t *)buf.base + ENTRY_HEADER, data, len);
    return buf;
}

int replica_propose(struct replica *r, const void *data, size_t len, replica_proposed_cb cb, void *arg)
{
    struct proposal *p;
    struct raft_buffer buf;
    int rv;

    mr_assert(!r->in_fsm);
    if (len == 0 || len > REPLICA_MAX_ENTRY)
        return MR_LIMIT;
    if (!r->started || r->closing || raft_state(&r->raft) != RAFT_LEADER)
        return MR_NOTLEADER;
    if (raft_transferee(&r->raft) != 0 || r->proposals >= REPLICA_MAX_PROPOSALS ||
        r->rio.unpersisted > REPLICA_MAX_UNPERSISTED)
        return MR_BUSY;
    p = mr_calloc(1, sizeof(*p));
    p->owner = r;
    p->cb = cb;
    p->arg = arg;
    buf = encode_entry(data, len);
    rv = raft_apply(&r->raft, &p->req, &buf, 1, proposed);
    if (rv == 0) {
        r->proposals++;
        return MR_OK;
    }
    if (rv != RAFT_NOTLEADER && rv != RAFT_NOSPACE)
        mr_panic("libraft failed half-way through a proposal: %s (%s)", raft_strerror(rv), raft_errmsg(&r->raft));
    raft_free(buf.base);
    free(p);
    return rv == RAFT_NOSPACE ? MR_NOSPACE : MR_NOTLEADER;
}

static void transferred(struct raft_transfer *req)
{
    struct replica *r = MR_CONTAINER(req, struct replica, transfer);
    void (*cb)(void *, int) = r->transfer_cb;
    uint64_t leader = r->closing ? 0 : replica_leader(r);
    int status = leader != 0 && leader != r->config.id ? MR_OK : MR_TIMEOUT;

    r->transferring = false;
    if (cb != NULL)
        cb(r->transfer_arg, r->closing ? MR_CLOSED : status);
}

int replica_transfer(struct replica *r, uint64_t to, void (*cb)(void *arg, int status), void *arg)
{
    int rv;

    mr_assert(!r->in_fsm);
    if (!r->started || r->closing || raft_state(&r->raft) != RAFT_LEADER)
        return MR_NOTLEADER;
    if (r->transferring || raft_transferee(&r->raft) != 0)
        return MR_BUSY;
    rv = raft_transfer(&r->raft, &r->transfer, to, transferred);
    if (rv == RAFT_NOTLEADER)
        return MR_NOTLEADER;
    if (rv != 0)
        return MR_NOTFOUND;
    r->transferring = true;
    r->transfer_cb = cb;
    r->transfer_arg = arg;
    return MR_OK;
}

/* --- questions
 * ------------------------------------------------------------------------------------------------------------ */

enum replica_role replica_role(const struct replica *r)
{
    if (!r->started || r->closing)
        return REPLICA_UNAVAILABLE;
    switch (r->raft.state) {
    case RAFT_FOLLOWER:
        return REPLICA_FOLLOWER;
    case RAFT_CANDIDATE:
        return REPLICA_CANDIDATE;
    case RAFT_LEADER:
        return REPLICA_LEADER;
    default:
        return REPLICA_UNAVAILABLE;
    }
}

uint64_t replica_term(const struct replica *r)
{
    return raft_current_term(&r->raft);
}

uint64_t replica_leader(const struct replica *r)
{
    switch (replica_role(r)) {
    case REPLICA_LEADER:
        return r->config.id;
    case REPLICA_FOLLOWER:
        return r->raft.follower_state.current_leader.id;
    default:
        return 0;
    }
}

uint64_t replica_applied(const struct replica *r)
{
    return r->raft.last_applied;
}

uint64_t replica_commit(const struct replica *r)
{
    return raft_commit_index(&r->raft);
}

uint64_t replica_last(const struct replica *r)
{
    return r->closing ? 0 : raft_last_index((struct raft *)(uintptr_t)&r->raft); /* does not change it */
}

bool replica_snapshotting(const struct replica *r)
{
    return r->rio.taking || r->rio.installing;
}

void replica_stats(const struct replica *r, struct replica_stats *out)
{
    *out = (struct replica_stats){.snapshots_taken = r->rio.snapshots_taken,
                                  .snapshots_installed = r->rio.snapshots_installed,
                                  .snapshots_sent = r->rio.send.snapshots_sent,
                                  .last_snapshot_bytes = r->rio.snapshot_bytes,
                                  .last_snapshot_stall_ns = r->rio.snapshot_stall_ns,
                                  .installs_dropped = r->rio.installs_dropped,
                                  .oldest_append_ms = replica_io_append_age(&r->rio),
                                  .unpersisted_bytes = r->rio.unpersisted,
                                  .segments_refused = atomic_load(&r->rio.prepare_retries),
                                  .acknowledged = r->rio.acked.index};
}
