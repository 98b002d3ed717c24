/* sched_internal.h - inside of the scheduler (sched.h), shared by its files only.
 *
 *   sched.c         what is told to it: leadership, heartbeats, applied assignments, rules
 *   sched_table.c   sites, next hops, slots, grants: making, finding, counting, dropping
 *   sched_budget.c  when a site or next hop may be tried: rates, back-off, avoidance
 *   sched_check.c   the invariants, for tests
 *   sched_step.c    which node and slot; grants, steps, notices
 *
 * Who owns what: a site owns its figures and is shared by its next hops; a next hop owns its lanes (one for each node
 * that has or had slots), a lane its slots. A grant points to its slot and keeps it alive.
 *
 * I1: a slot lies in exactly one list of its lane, that of its load or that of the busy, or in none while it is void.
 * I2: site.n_slots, hop.n_slots, lane.n_slots count slots; hop.inflight, lane.inflight, site.inflight count assigned +
 *     granted of those; hop.n_idle counts idle open ones.
 * I3: a slot's granted is the number of grants that point to it. */
#ifndef MR_CLUSTER_SCHED_INTERNAL_H
#define MR_CLUSTER_SCHED_INTERNAL_H

#include "cluster/route.h"
#include "cluster/sched.h"
#include "proto/base/clock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SCHED_NODES = STATE_MAX_NODES + 1,
    SCHED_SWEEP = 8,         /* next hops looked at for dropping in one step */
    SCHED_STATS_MS = 600000, /* what is known of a node's failures is forgotten after this */
    SCHED_STARVED_MS = 5000, /* how long a next hop that waits for its share of a site is remembered */
    SCHED_NOTICE = -1,       /* delivery of a grant that is a notice's */
};

/* Intrusive hash table with chains; the caller compares. */
struct table_link {
    struct table_link *next;
    uint64_t hash;
};
struct table {
    struct table_link **buckets;
    size_t mask; /* buckets - 1 */
    size_t n;
};
void sched_table_init(struct table *t);
void sched_table_free(struct table *t);
void sched_table_add(struct table *t, struct table_link *l, uint64_t hash);
void sched_table_remove(struct table *t, struct table_link *l);
/* First in the chain of this hash; go on with next, compare hash and key. */
struct table_link *sched_table_chain(const struct table *t, uint64_t hash);

/* Lists of a lane, by load; SLOT_NOWHERE is none. */
enum slot_list {
    SLOT_IDLE,   /* open, nothing assigned */
    SLOT_QUIET,  /* not open (any more, as far as reported), nothing assigned; counts as used still */
    SLOT_LOADED, /* + load - 1 */
    SLOT_BUSY = SLOT_LOADED + SCHED_MAX_DEPTH, /* its attempts last: nothing is assigned ahead, any load but 0 */
    SLOT_LISTS,
    SLOT_NOWHERE = SLOT_LISTS
};

struct slot {
    struct slot *prev, *next;           /* in the lane's list */
    struct slot *node_prev, *node_next; /* all slots of the node */
    struct lane *lane;
    uint64_t unassigned_index; /* of the newest unassignment */
    uint64_t seen;             /* number of the heartbeat that listed it last */
    uint32_t number;
    uint32_t assigned, granted;
    uint64_t since_ns; /* while loaded: of its last outcome, or of the first one's coming */
    bool busy;         /* the last attempt lasted SCHED_BUSY_MS, or the one that is at it does */
    uint8_t list;      /* enum slot_list */
    bool open;         /* as the newest heartbeat says */
    bool known;        /* the node may have heard of it: it was assigned or reported */
    bool void_;        /* its node fell while a grant was on its way: waits for the grant's fate, then goes */
};

/* The slots of one node to one next hop. */
struct lane {
    struct lane *next;
    struct hop *hop;
    uint32_t node;
    uint32_t n_slots;
    uint32_t inflight;
    uint32_t free_hint; /* no number below it is free */
    uint32_t numbers;   /* length of by_number */
    struct slot **by_number;
    struct slot *lists[SLOT_LISTS];
};

/* A next hop. */
struct hop {
    struct table_link link;
    struct hop *prev, *next; /* all next hops, for the sweep */
    struct site *site;
    struct lane *lanes;
    uint32_t n_slots, n_idle, inflight;
    uint32_t proposed; /* grants of deliveries that stand in the ready list still */
    /* Back-off (6.4). failing: probes only. Else window: parallel attempts; 0: no window. */
    bool failing;
    bool probing;       /* a probe is on its way */
    bool probe_counted; /* its failure has doubled the back-off already */
    uint32_t probe_node, probe_slot;
    uint32_t window;
    uint64_t backoff_ms;
    uint64_t backoff_until_ns;
    char name[];
};

/* How a node fares with a site (6.5). */
struct site_node {
    uint32_t node;
    uint32_t run; /* failures to reach it, in a row */
    uint64_t last_ns;
    uint64_t reached_ns; /* 0: never */
    uint64_t avoid_until_ns;
};

/* What limits name: a domain or host. */
struct site {
    struct table_link link;
    uint32_t n_hops;
    uint32_t n_slots, inflight;
    uint64_t rules; /* generation of the limits below */
    uint32_t connections;
    double rate;   /* a second; 0: unlimited */
    double tokens; /* below 0: debt */
    uint64_t tokens_ns;
    /* A next hop without any slot that finds the site full: the others then leave it its share until starved_until. */
    const struct hop *starved;
    uint64_t starved_until_ns;
    struct site_node *nodes;
    unsigned n_nodes;
    char name[];
};

struct grant {
    struct table_link link;
    struct grant *prev, *next; /* notices only: all of them */
    struct mr_id id;
    uint32_t delivery; /* SCHED_NOTICE: of a notice; that one stays until the notice has ended */
    uint32_t attempt;
    struct slot *slot; /* NULL: notice */
    uint64_t incarnation;
    uint32_t node;     /* notices only */
    uint64_t since_ns; /* notices only: its assignment applied, or this leader's begin; 0: proposed */
    bool ready;        /* of a delivery in the ready list, not a fill-in */
};

struct node {
    bool present, up, draining, reported;
    uint32_t id;
    uint64_t incarnation;
    uint64_t sent_ns; /* newest heartbeat, on the node's clock */
    uint64_t seen_ns; /* its arrival; 0: none in this term */
    uint64_t applied;
    uint32_t free;    /* as it said then */
    uint32_t granted; /* not yet applied, this incarnation */
    uint32_t load;    /* assigned and granted */
    uint32_t notices; /* proposed and not ended, this incarnation */
    struct slot *slots;
    /* Assignments that it may not have applied when it sent its newest heartbeat, by rising index. */
    struct {
        uint64_t index;
        uint32_t count;
    } * unseen;
    size_t unseen_head, unseen_n, unseen_cap;
    uint64_t unseen_sum;
};

struct sched {
    const struct state *state;
    uint32_t depth;
    uint64_t seed;
    bool active;
    bool gate_open; /* S3 is met, for the rest of the term */
    uint64_t now_ns, lead_ns;
    uint64_t first_index;
    uint64_t rules; /* generation */
    uint64_t beats; /* heartbeats taken; numbers them */
    struct node nodes[SCHED_NODES];
    struct table hops, sites, grants;
    struct hop *sweep; /* ring of all next hops */
    struct grant *notices;
    size_t n_notices;
    uint32_t notice_turn; /* node that got the last notice */
    /* Round robin: where the last step ended, and whether anything was possible since. */
    char cursor[ROUTE_MAX];
    bool changed;
    bool continues; /* the last step ended for its budget, not because all was seen */
    unsigned quiet_rounds;
    uint64_t wake_ns; /* earliest wake of the next hops seen in this round */
};

/* sched_table.c */
void sched_clear(struct sched *d);
struct hop *sched_hop_find(const struct sched *d, const char *name);
struct hop *sched_hop_get(struct sched *d, const char *name);
void sched_sweep(struct sched *d);
struct site_node *sched_site_node_find(const struct site *s, uint32_t node);
struct lane *sched_lane_find(const struct hop *h, uint32_t node);
struct slot *sched_slot_find(const struct hop *h, uint32_t node, uint32_t number);
/* number 0: the lowest free one. NULL: no number is left or it is out of range. */
struct slot *sched_slot_get(struct sched *d, struct hop *h, uint32_t node, uint32_t number);
void sched_slot_place(struct slot *s);
/* An attempt of the slot has ended with an outcome. */
void sched_slot_outcome(struct sched *d, struct slot *s);
/* The first of the list whose attempts do not last; those that do leave it. NULL: none. */
struct slot *sched_slot_quick(const struct sched *d, struct lane *l, enum slot_list list);
void sched_slot_count(struct sched *d, struct slot *s, int assigned, int granted);
/* Frees the slot if nothing speaks for its being open: nothing assigned or granted, not reported open, and the node is
 * known to have applied its last unassignment. */
void sched_slot_release(struct sched *d, struct slot *s);
/* The slots of a node that fell are gone; those with a grant on its way become void. */
void sched_node_drop_slots(struct sched *d, struct node *n);
void sched_node_unseen_add(struct node *n, uint64_t index);
void sched_node_unseen_applied(struct node *n, uint64_t applied);
struct grant *sched_grant_find(const struct sched *d, struct mr_id id, uint32_t delivery);
struct grant *sched_grant_add(struct sched *d, struct mr_id id, uint32_t delivery, struct slot *slot, bool ready);
/* Of a notice. since_ns 0: proposed. */
struct grant *sched_notice_add(struct sched *d, struct mr_id id, uint32_t attempt, uint32_t node, uint64_t since_ns);
/* Takes it out; the slot is not released yet. */
void sched_grant_remove(struct sched *d, struct grant *g);

/* sched_budget.c */
void sched_site_refresh(struct sched *d, struct site *s, const char *next_hop);
void sched_site_charge(struct sched *d, struct site *s, double tokens);
void sched_site_result(struct sched *d, struct site *s, uint32_t node, bool unreached);
bool sched_site_avoids(const struct sched *d, const struct site *s, uint32_t node);
bool sched_site_quiet(const struct sched *d, const struct site *s);
bool sched_site_limited(const struct site *s);
/* May not be granted now; *wake_ns is lowered to when it is worth asking again. */
bool sched_hop_blocked(struct sched *d, struct hop *h, uint64_t *wake_ns);
void sched_hop_granted(struct sched *d, struct hop *h, const struct slot *s);
void sched_hop_slot_ended(struct hop *h, uint32_t node, uint32_t slot);
void sched_hop_result(struct sched *d, struct hop *h, bool unreached, bool counts);

#endif
