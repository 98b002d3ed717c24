/* bodies.h - the body plane: every accepted body on a majority before it counts, then on `replicas` nodes; repair; the
 * collector (PROTOCOL.md 3).
 *
 * A body's stamp is the committed time in the acceptor's applied state when its LAST piece began (PROTOCOL.md 3.4 says:
 * the body), so that one that takes more than the grace period to arrive is not stale by then. Each piece carries the
 * time of its own begin, on disk and on the wire; the spool takes a body's stamp from its newest piece. It is safe
 * because all that 3.4 needs still holds: every whole copy has the stamp that the enqueue has, that of the last piece,
 * so a copy may go only when the enqueue would be refused; one that is not whole yet counts for no majority, and may go
 * when no piece has come for the grace period. Below cluster version 2 every piece has the first one's: a member of
 * that version remembers the first, and would drop its copy too early.
 *
 * B1: a put's callback gives 0 only after this node's own fsync and enough peers' fsync acknowledgements for a majority
 * of the voters in the applied state. B2: a read hands out verified bytes only; a missing or bad local copy is fetched
 * from another holder, stored, then read. B3: the collector drops a body only if no envelope of the applied state names
 * it AND (the state records it as finished OR committed time has passed stamp + grace). Never before bodies_ready (the
 * log was replayed). B4: a peer more than BODIES_PEER_BEHIND behind is skipped for new bodies and pulls later. Thread:
 * the core's. */
#ifndef MR_CLUSTER_BODIES_H
#define MR_CLUSTER_BODIES_H

#include "cluster/link.h"
#include "cluster/spool.h"
#include "cluster/state.h"

enum {
    BODIES_PEER_BEHIND = 8 << 20, /* bytes queued to a peer or not yet acknowledged by it */
    BODIES_PULLS = 8,             /* bodies being fetched at once */
    BODIES_SCAN = 512,            /* index entries or messages looked at in one tick */
    BODIES_TICK_MS = 20,
    BODIES_TAKE = 64 * 1024, /* bytes of a body that bodies_take looks for: it is copied and checked on the loop */
    BODIES_PULL_TIMEOUT_MS = 5000, /* without progress; then another holder */
};

struct bodies;
struct bodies_config {
    uv_loop_t *loop;
    struct spool *spool;
    const struct state *state;
    struct links *links;
    uint32_t self;
};
struct bodies *bodies_open(const struct bodies_config *config);
/* Every callback that is owed comes with MR_CANCELLED, then cb. Puts that were not finished end with this call: their
 * owners must not touch them any more. Before spool_close. */
void bodies_close(struct bodies *b, void (*cb)(void *arg), void *arg);
/* The applied state is known to be as new as the cluster's (the log was replayed up to a leader's commit index): the
 * collector and the pulls may begin. After a restore: call bodies_restored, a full mark follows. */
void bodies_ready(struct bodies *b);
void bodies_restored(struct bodies *b);

/* ---- put: one body being accepted ---- */
struct body_put;
typedef void (*body_put_cb)(void *arg, int status, uint64_t holders); /* of bodies_finish: MR_NOSPACE, MR_CANCELLED */
struct body_put *bodies_begin(struct bodies *b, struct mr_id id);
/* Of its newest piece; after bodies_finish: of the body. */
uint64_t body_put_stamp(const struct body_put *p);
/* One piece, not the last, of 1 to SPOOL_MAX_PIECE bytes (MR_LIMIT). data: malloc, ownership passes. written comes
 * exactly once, also after bodies_abort and bodies_close (MR_CANCELLED), when the piece was handed to the local disk's
 * cache (flow control: at most a few pieces in flight) and a majority of the nodes it goes to keeps up, with MR_NOSPACE
 * when refused (then call bodies_abort). */
void bodies_piece(struct body_put *p, uint8_t *data, size_t len, void (*written)(void *arg, int status), void *arg);
/* The last piece (may be empty). cb comes once. */
void bodies_finish(struct body_put *p, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                   body_put_cb cb, void *arg);
/* Gives up: before bodies_finish, or after it while cb has not come (cb then comes with MR_CANCELLED, later). */
void bodies_abort(struct body_put *p);
/* After cb: the put stays alive for late acknowledgements by itself; p is not to be touched. */
/* The enqueue was refused because the holders are no majority any more (3.2): copies the body, which is durable here,
 * to a majority of today's voters and tells the holders again. May be given to bodies_abort. NULL: it is not here, or a
 * put of it has not ended. */
struct body_put *bodies_recopy(struct bodies *b, struct mr_id id, body_put_cb cb, void *arg);

/* ---- read ---- */
struct body_read {
    struct mr_id id;
    uint32_t piece;
    /* data: malloc, the callee's. MR_NOTFOUND: no holder has it now (tried all that are reachable). */
    void (*cb)(struct body_read *req, int status, uint8_t *data, size_t len, bool last);
    struct {
        void *next;
        struct spool_get get;
        uint64_t words[4];
    } internal;
};
void bodies_read(struct bodies *b, struct body_read *req);

/* The whole body, if it has one piece of at most BODIES_TAKE bytes and the kernel has it in memory, as it has what came
 * in lately. Verified against the envelope (B2). malloc, the caller's. NULL: bodies_read. */
uint8_t *bodies_take(struct bodies *b, const struct message_view *v, size_t *len);

/* ---- from the core ---- */
int bodies_frame(struct bodies *b, uint32_t peer, enum frame_type type, const uint8_t *meta, size_t meta_len,
                 const uint8_t *tail, size_t tail_len);
void bodies_link(struct bodies *b, uint32_t peer, bool up); /* of the bulk channel */
void bodies_enqueued(struct bodies *b, const struct state_message *m);
void bodies_removed(struct bodies *b, struct mr_id id);
void bodies_voters_changed(struct bodies *b);
/* Each BODIES_TICK_MS: steps of scan, pulls, time-outs. */
void bodies_tick(struct bodies *b, uint64_t now_ns);

/* This disk is slow (PROTOCOL.md 8.4): bodies that others begin to send here are refused, so that they look for their
 * majority elsewhere at once. */
void bodies_refuse_pushes(struct bodies *b, bool refuse);

struct bodies_stats {
    uint64_t puts, pulls, pulled, served, repaired, missing, collected, skipped_peers;
};
void bodies_stats(const struct bodies *b, struct bodies_stats *out);

#endif
