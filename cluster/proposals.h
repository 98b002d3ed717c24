/* proposals.h - this node's own operations and their fate (PROTOCOL.md 4).
 *
 * An operation goes to whoever leads, by the control link or directly, and is sent again (each is idempotent) when the
 * leader changes, its connection breaks, or no answer came, until its fate is known. Unknown is never taken for "no".
 * P1: done comes exactly once, never before proposals_add returned. P2: at most PROPOSALS_MAX wait; more is MR_BUSY.
 * P3: a tick, a resend and an answer cost no more than PROPOSALS_STEP sends, however many wait; while the way to the
 * leader is shut a tick tries one. P4: what waits to be sent goes in order of arrival, what was sent before first.
 * done may add proposals, but not forget others.
 * Thread: the core's. No I/O of its own: it calls `send`. */
#ifndef MR_CLUSTER_PROPOSALS_H
#define MR_CLUSTER_PROPOSALS_H

#include "cluster/state.h"
#include "ops.pb-c.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROPOSALS_MAX = 65536,
    PROPOSALS_AGAIN_MS = 3000, /* no answer for so long: send again */
    PROPOSALS_STEP = 512,      /* sends of one tick or resend */
    PROPOSALS_BUSY_MS = 20,    /* the leader said busy: nothing more is sent for so long */
};
enum proposal_fate { FATE_APPLIED = 1, FATE_NOT_LEADER = 2, FATE_UNKNOWN = 3, FATE_BUSY = 4 };

struct proposals;
struct proposals_config {
    void *arg;
    /* Hands an operation (still owned by proposals) to the leader, or returns an error: then it waits for the tick.
     * MR_LIMIT: it can never be sent; done gets APPLY_INVALID. May call proposals_fate. */
    int (*send)(void *arg, uint64_t request, const Mailraft__Op *op);
    /* Number of the first one. No two lives of a node may share numbers: an answer to the one must not be taken for an
     * answer to the other. */
    uint64_t first_request;
};
typedef void (*proposal_done)(void *arg, int status, enum apply_result reason);

struct proposals *proposals_open(const struct proposals_config *config);
/* Waiting ones get MR_CANCELLED. */
void proposals_close(struct proposals *p);
/* Takes op (protobuf-c's default allocator) unless it returns an error. give_up_ns: boot time after which done gets
 * MR_TIMEOUT (fate unknown); UINT64_MAX: never. done's status: 0 applied, reason says with what result. *request (may
 * be NULL): its number. */
int proposals_add(struct proposals *p, Mailraft__Op *op, uint64_t now_ns, uint64_t give_up_ns, proposal_done done,
                  void *arg, uint64_t *request);
/* Its owner wants no answer any more: done comes with MR_CANCELLED before this returns. Unknown number: nothing. */
void proposals_forget(struct proposals *p, uint64_t request);
void proposals_fate(struct proposals *p, uint64_t request, enum proposal_fate fate, enum apply_result reason);
/* The leader or the way to it changed: everything is sent again, the first PROPOSALS_STEP now. */
void proposals_resend(struct proposals *p, uint64_t now_ns);
/* Every 10 ms or so. */
void proposals_tick(struct proposals *p, uint64_t now_ns);
size_t proposals_waiting(const struct proposals *p);

#endif
