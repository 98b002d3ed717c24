/* sim_oracle_internal.h - the oracle's parts to each other: which entry is at which index, and the same on all nodes
 * (sim_oracle.c), what a state does while it applies one (sim_oracle_watch.c), whether it may (sim_oracle_rules.c).
 *
 * A node may die in the middle of applying (a mail to a worker is a step), or wait there while another node applies the
 * same entry. So each gathers what it sees, and the first that comes to the end of the entry tells the oracle. */
#ifndef MR_SIM_ORACLE_INTERNAL_H
#define MR_SIM_ORACLE_INTERNAL_H

#include "chaos-tests/sim/sim_world.h"

enum context { IN_ENTRY, IN_OUTCOME, IN_UP, IN_DOWN };
enum told {
    TOLD_ASSIGNED,
    TOLD_UNASSIGNED,
    TOLD_ENQUEUED,
    TOLD_DONE,
    TOLD_REMOVED,
    TOLD_DOUBT,
    TOLD_MOVED,
    TOLD_CANCEL,
    TOLD_OUTCOME,     /* begins */
    TOLD_OUTCOME_END, /* result: how */
};
struct telling {
    enum told what;
    struct message *m;
    uint32_t delivery, attempt, node, slot, recipient;
    uint64_t incarnation;
    int state;
    enum ending ending;
    bool running; /* outcome: of the attempt that runs */
    enum apply_result result;
    uint64_t retry_ms; /* outcome: from its entry's committed time on */
    unsigned n;
    struct {
        uint32_t recipient;
        Mailraft__Result result;
    } results[WORLD_MAX_RECIPIENTS];
};
struct applying {
    bool live; /* an entry that the oracle does not know yet */
    enum context context;
    uint32_t attempt; /* of the outcome that is being applied */
    struct telling *events;
    size_t n, room;
};

static inline unsigned long long key_of(const struct message *m)
{
    return (unsigned long long)m->key;
}

/* ---- sim_oracle.c ---- */
struct applying *oracle_here(void); /* of the node that runs */
struct telling *oracle_tell(enum told what, struct message *m);
struct message *oracle_known(struct mr_id id); /* a message that nobody submitted is a finding */
struct message *oracle_known_view(const struct state_message *sm, struct message_view *v);

/* ---- sim_oracle_rules.c ---- */
void oracle_check_time(const struct state *s); /* behind an entry's first application */
/* The entry, with its committed time, is applied to its end, for the first time anywhere. */
void oracle_judge(const struct applying *a, uint64_t now_ms);

#endif
