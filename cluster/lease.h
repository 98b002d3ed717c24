/* lease.h - who may act, and until when (PROTOCOL.md 5). No I/O; boot time in nanoseconds is an argument.
 *
 * Two halves: node_lease is every node's own right to start transactions and write final dots; leader_lease is the
 * leader's right to answer heartbeats, assign and grant, and its watch over silent nodes.
 *
 * L1: a node's lease ends lease_ns after the moment it SENT the heartbeat that was answered.
 * L2: answers of an older term, another incarnation, or for an unknown heartbeat give nothing.
 * L3: with a lease, nothing starts before the answer's commit index is applied here. Answers that wait for their index
 *     do not shorten an older lease whose index is applied.
 * L4: the leader's lease ends at Q + lease_ns, Q the newest own stamp that a majority of voters has echoed in this
 *     term; it gives leases, assigns and grants only while now - Q < election_ns. It always answers, if without a
 *     lease: only by its answers can Q move on.
 * L5: a new leader declares nobody down before lease_ns + election_ns after its election; after a gap in its own loop
 *     its silence counters start again.
 * L6: a new leader gives no lease before its own state has applied an entry of its own term (leader_lease_started):
 *     only then does it know every node_down that its predecessor committed, and its commit index lies behind them.
 * L7: from the proposal of a node_down on, its node gets no lease (leader_lease_condemn), whatever it sends: else its
 *     assignments could be given away under a lease that was given while the operation was on its way.
 * L8: a node that beats but does not apply (its log finds no room, a snapshot is on its way to it) is silent: from the
 *     moment when a commit index that the leader named to it node_timeout ago is not applied there, it gets no lease
 *     and its heartbeats do not count as heard, until it has caught up or L5's silence has declared it down.
 * Thread: the core's; node_lease_end is what the core publishes to other threads. */
#ifndef MR_CLUSTER_LEASE_H
#define MR_CLUSTER_LEASE_H

#include <stdbool.h>
#include <stdint.h>

struct lease_times {
    uint64_t lease_ns;
    uint64_t election_ns;
    uint64_t node_timeout_ns;
};

/* Leases kept while the newest still waits for its index; they lie at least lease_ns / LEASE_STEPS apart. */
enum { LEASE_STEPS = 16, LEASE_OLDER = LEASE_STEPS + 2 };

struct node_lease {
    struct lease_times times;
    uint64_t term;          /* newest seen */
    uint64_t end_ns;        /* of the newest lease; 0: none */
    uint64_t wait_applied;  /* index that must be applied first (L3), of the newest lease */
    uint64_t leader_stamp;  /* newest stamp of the leader of `term`, to be echoed */
    uint64_t first_sent_ns; /* of the first heartbeat; 0: none sent */
    uint64_t last_sent_ns;
    uint64_t worker_cap_ns; /* lease cut short because a worker hangs (5.10); UINT64_MAX: no */
    uint64_t named_commit;  /* of an answer, with a lease or without */
    uint64_t named_ns;      /* its arrival; 0: none yet */
    unsigned n_older;       /* by rising end_ns, all below end_ns */
    struct {
        uint64_t end_ns, wait_applied;
    } older[LEASE_OLDER];
};
void node_lease_init(struct node_lease *l, const struct lease_times *times);
/* A heartbeat is sent now: *echo_ns is what it echoes for its term; 0: nothing yet. */
void node_lease_sent(struct node_lease *l, uint64_t now_ns, uint64_t term, uint64_t *echo_ns);
/* An answer. granted: its `lease` field. Returns whether the lease was extended. The stamp of an answer without a lease
 * is echoed too. */
bool node_lease_answer(struct node_lease *l, uint64_t now_ns, uint64_t sent_ns, uint64_t term, uint64_t commit,
                       uint64_t stamp_ns, bool granted, bool incarnation_matches);
/* End of the lease with what is applied now; 0: none (not held, or L3 not yet met). */
uint64_t node_lease_end(const struct node_lease *l, uint64_t applied);
bool node_lease_held(const struct node_lease *l, uint64_t now_ns, uint64_t applied);
/* Is what is applied here at most a lease behind what a leader named? So it is also before any lease is given. */
bool node_lease_caught_up(const struct node_lease *l, uint64_t now_ns, uint64_t applied);
/* The newest term that Raft told. A newer one does not end the lease, but answers of older terms count no more. */
void node_lease_term(struct node_lease *l, uint64_t term);

/* A worker has been silent since some time ago: the lease ends at cap_ns at the latest; UINT64_MAX: all are well. */
void node_lease_cap(struct node_lease *l, uint64_t cap_ns);

enum { LEASE_MAX_NODES = 64 };
struct leader_lease {
    struct lease_times times;
    uint64_t term; /* 0: not leading */
    uint64_t elected_ns;
    uint64_t voters; /* set of bits (1 << raft id) */
    uint32_t self;
    uint64_t last_tick_ns;
    uint64_t silence_from_ns;            /* counters do not look behind this (L5) */
    uint64_t echoed_ns[LEASE_MAX_NODES]; /* newest own stamp echoed, by raft id */
    uint64_t heard_ns[LEASE_MAX_NODES];  /* last heartbeat, by raft id */
    uint64_t condemned;                  /* set of bits: a node_down is proposed (L7) */
    uint64_t behind;                     /* set of bits (L8) */
    struct {
        uint64_t commit, ns; /* named by an answer then; 0, 0: nothing yet */
    } named[LEASE_MAX_NODES];
    bool started; /* L6 */
};
void leader_lease_init(struct leader_lease *l, const struct lease_times *times, uint32_t self);
void leader_lease_lead(struct leader_lease *l, uint64_t now_ns, uint64_t term, uint64_t voters);
void leader_lease_unlead(struct leader_lease *l);
/* An entry of the own term was applied here (L6). */
void leader_lease_started(struct leader_lease *l);
void leader_lease_voters(struct leader_lease *l, uint64_t voters);
/* A heartbeat arrived; own heartbeats count too. echo_ns is taken only if it is of this term (term equal) and not from
 * the future. */
void leader_lease_heard(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t term, uint64_t echo_ns);
/* The heartbeat of a node that is up says applied, and its answer will name commit. Returns whether the node follows
 * (L8); if not, only its echo counts. */
bool leader_lease_follows(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t applied, uint64_t commit);
/* Only the echo counts: the heartbeat of a process that is not the one in force under this raft id, or of one that does
 * not follow. */
void leader_lease_echo(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t term, uint64_t echo_ns);
/* Called at least each heartbeat interval; notices gaps in the loop (a gap over half the election timeout: L5). */
void leader_lease_tick(struct leader_lease *l, uint64_t now_ns);
/* Q: newest stamp echoed by a majority (self counts with now); 0 none. */
uint64_t leader_lease_quorum_ns(const struct leader_lease *l, uint64_t now_ns);
/* May give leases, assign, grant. */
bool leader_lease_may_grant(const struct leader_lease *l, uint64_t now_ns);
/* The `lease` field of an answer to this node, as far as this module knows: the caller adds that the state has it up,
 * with the incarnation of the heartbeat (5.3). */
bool leader_lease_may_answer(const struct leader_lease *l, uint64_t now_ns, uint32_t node);
/* End of the leader's own lease, Q + lease_ns (L4); 0: none. */
uint64_t leader_lease_own_end(const struct leader_lease *l, uint64_t now_ns);
/* The leader's own node takes its own lease from Q, in place of an answer. */
bool node_lease_own(struct node_lease *l, const struct leader_lease *leader, uint64_t now_ns, uint64_t commit,
                    bool incarnation_matches);
/* A node_down is proposed for it (L7) / it was applied without effect, or a new incarnation is in force: it begins
 * anew.
 */
void leader_lease_condemn(struct leader_lease *l, uint32_t node);
void leader_lease_pardon(struct leader_lease *l, uint32_t node);
/* Is this node to be declared down now? Never while the leader lacks its quorum, or once it is condemned. A
 * node_timeout that is shorter than lease + election timeout counts as that long: a lease is never outrun. */
bool leader_lease_silent(const struct leader_lease *l, uint64_t now_ns, uint32_t node);

#endif
