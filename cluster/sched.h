/* sched.h - the leader's scheduler: which node attempts which delivery, over which connection, when.
 *
 * No I/O, no clock of its own: time is an argument, the state is read, decisions come back as operations to propose.
 * A *slot* is one connection of one node to one next hop. It counts as used from the proposal of its first assignment
 * until the node's heartbeat, made after that node applied the last unassignment of the slot, does not list it.
 *
 * S1: for each site, slots in use (open, idle or granted, in the whole cluster, by all its next hops) <= its connection
 *     limit. When a new rule lowers a limit, nothing is granted until enough connections have closed.
 * S2: attempts started in any interval t <= rate * (t + 1 s) + burst; budgets begin empty at a new leader, and what is
 *     assigned already is charged to them (PROTOCOL.md 6.2).
 * S3: for a limited next hop nothing is granted until every node has reported with an applied index of this term or is
 *     down (6.1).
 * S4: never more attempts and notices on a node than it said are free (6.4).
 * S5: a step looks at next hops one by one, round robin, at most SCHED_STEP of them; its cost does not grow with the
 *     queue.
 * Thread: the core's. */
#ifndef MR_CLUSTER_SCHED_H
#define MR_CLUSTER_SCHED_H

#include "cluster/state.h"
#include "frame.pb-c.h"

enum {
    SCHED_STEP = 256,         /* next hops looked at in one step */
    SCHED_QUANTUM = 32,       /* assignments of one next hop before the next one's turn */
    SCHED_MAX_ASSIGN = 512,   /* assignments made in one step */
    SCHED_MAX_GRANTS = 16384, /* grants held at one time; above: none is made */
    SCHED_NODE_NOTICES = 64,  /* of one node, from proposal to end; the others wait where they cost nothing */
    SCHED_SLOT_DEPTH = 4,     /* deliveries assigned into one slot ahead, next hops without a rate limit */
    SCHED_MAX_DEPTH = 8,
    SCHED_UNLIMITED_SLOTS = 100, /* of one node to one next hop without a limit on connections */
    SCHED_SLOT_NUMBERS = 4096,   /* slot numbers are 1..this - 1, for each node and next hop */
    SCHED_BUSY_MS = 3000,        /* an attempt that lasts so long: its slot is given nothing ahead */
    /* How long an attempt may last up to its dot (PROTOCOL.md 5.10): so long, and what a slow next hop needs. */
    SCHED_DEADLINE_MS = 600 * 1000,
    SCHED_DEADLINE_RCPT_MS = 30 * 1000, /* for each recipient: a call-out, a tarpit */
    SCHED_DEADLINE_RATE = 8192,         /* bytes a second */
    SCHED_DEADLINE_MAX_MS = 24 * 3600 * 1000,
    SCHED_FRESH_MS = 1000,       /* a node that was not heard for so long is assigned nothing more */
    SCHED_BACKOFF_MIN_MS = 1000, /* between probes of a next hop that fails; doubles */
    SCHED_BACKOFF_MAX_MS = 300 * 1000,
    SCHED_WINDOW_MAX = 1024,         /* a window of parallel attempts that has grown so far is no window any more */
    SCHED_AVOID_RUN = 3,             /* failures in a row of a node, where another */
    SCHED_AVOID_SEEN_MS = 60 * 1000, /* succeeded within this: it is avoided */
    SCHED_AVOID_MS = 300 * 1000,     /* for so long */
    SCHED_PACE_MS = 2, /* between steps when more than SCHED_STEP next hops are ready and none can be granted */
};

struct sched;

struct sched_config {
    uint32_t slot_depth; /* 0: SCHED_SLOT_DEPTH; at most SCHED_MAX_DEPTH */
    uint64_t hash_seed;  /* of the tables of next hops, whose names strangers choose */
};

struct sched *sched_open(const struct state *s, const struct sched_config *config);
void sched_close(struct sched *d);

/* This node leads (again): forget everything, rebuild from the state. first_index: of this term's first own entry (S3).
 * now_ns: boot time of the leader, as everywhere below. */
void sched_lead(struct sched *d, uint64_t now_ns, uint64_t first_index);
void sched_unlead(struct sched *d);

/* A heartbeat of a node that is up and of the incarnation in the state. */
void sched_heartbeat(struct sched *d, uint32_t node, const Mailraft__Heartbeat *hb, uint64_t now_ns);
/* The node was declared down (applied), or came up with a new incarnation: its slots are gone. */
void sched_node_changed(struct sched *d, const struct node_view *node, uint64_t now_ns);
void sched_rules_changed(struct sched *d, const Mailraft__Rules *rules, uint64_t now_ns);

/* From the state's observer, on the leader: an assignment applied / ended at this index. */
void sched_assigned(struct sched *d, const struct state_message *m, uint32_t delivery, uint64_t index);
void sched_unassigned(struct sched *d, uint32_t node, uint32_t slot, const char *next_hop, uint64_t index);
/* The same of notices; those that run when this node begins to lead are found in the state. Ended: also when the
 * message is gone. */
void sched_notice_assigned(struct sched *d, const struct state_message *m, uint64_t index, uint64_t now_ns);
void sched_notice_ended(struct sched *d, struct mr_id id);
/* Notices that have run since before_ns or longer, as this leader has seen them: up to max. */
struct sched_notice {
    struct mr_id id;
    uint32_t attempt;
    uint32_t node;
};
size_t sched_old_notices(const struct sched *d, uint64_t before_ns, struct sched_notice *out, size_t max);
/* What an applied outcome said of the next hop, for back-off (6.4) and avoidance (6.5); and its slot has got on: before
 * sched_unassigned. */
void sched_result(struct sched *d, uint32_t node, uint32_t slot, const char *next_hop, bool delivered, bool unreached,
                  uint64_t now_ns);

/* Assignment.deadline_for_ms, now_ms being committed time: by the work, and at least SCHED_DEADLINE_MS, but else not
 * beyond the message's end (expire_ms; 0: it has none), for which whoever waits for its DSN waits. */
uint32_t sched_deadline_for_ms(uint64_t body_length, uint32_t recipients, uint64_t now_ms, uint64_t expire_ms);

/* For a new message (a leader's fill-in before the proposal): an assignment of its delivery to `node`, if it can be
 * granted now, without looking at others. The grant is held until sched_assigned or sched_settled. False: none; the
 * delivery becomes ready and is assigned later. Not granted while older deliveries of the next hop are ready, nor twice
 * for one (id, delivery), so a second proposal of the same enqueue goes out without. O(1) but for the number of nodes.
 * *out: all but the deadline. */
bool sched_grant(struct sched *d, struct mr_id id, uint32_t delivery, const char *next_hop, uint32_t node,
                 uint64_t now_ns, Mailraft__Assignment *out);
/* The fate of an operation that holds grants (enqueue with assignments, assign, assign_notice) is known: applied, with
 * whatever result, or certainly never to be. Call it for each, after its apply: what the observer did not report as
 * assigned is given back. Harmless for other operations and when called again. A grant whose fate stays unknown is held
 * until sched_unlead: it is never dropped silently, as a slot given twice would break S1. */
void sched_settled(struct sched *d, const Mailraft__Op *op, uint64_t now_ns);
/* The same for one grant, for one notice. */
void sched_ungrant(struct sched *d, struct mr_id id, uint32_t delivery, uint64_t now_ns);
void sched_unnotice(struct sched *d, struct mr_id id);

/* One step: up to max operations (Assign, AssignNotice) to propose now, allocated by protobuf-c's default allocator,
 * owned by the caller. Grants are held as above. Returns the number. *again_ns: boot time of the next step that is
 * worth making if nothing else happens; UINT64_MAX none. Heartbeats and applied entries are things that happen: a step
 * is due after each of them too. Only while leader_lease_may_grant. */
size_t sched_step(struct sched *d, uint64_t now_ns, Mailraft__Op **ops, size_t max, uint64_t *again_ns);

/* Checks the invariants inside; panics on a violation. For tests and debug builds; cost grows with slots and grants. */
void sched_check(const struct sched *d);

/* Slots in use of a next hop, all nodes; for tests, status and metrics. */
uint32_t sched_slots(const struct sched *d, const char *next_hop);
/* True while S3 holds grants back. */
bool sched_waiting_for_nodes(const struct sched *d);
/* Next hop is backing off until (boot ns); 0: it is not. */
uint64_t sched_backoff_until(const struct sched *d, const char *next_hop);
/* Node that is avoided for a next hop because it fails where others succeed; 0 none. */
uint32_t sched_avoided(const struct sched *d, const char *next_hop);

#endif
