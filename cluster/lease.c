/* lease.c - see lease.h.
 *
 * Why no two nodes hold the same duty. A leader gives leases only while now < Q + election, Q being a time at which (or
 * after which) each voter of a majority was still in its term. A successor needs one of those voters, so it is elected
 * at E >= Q. The last lease of the predecessor therefore began before E + election and is over before E + election +
 * lease, which is when the successor begins to declare nodes down. Inside one term a node is declared down node_timeout
 * after its last heartbeat, from whose sending its lease counted, and gets none while that is on its way. A heartbeat
 * of a node that does not follow (L8) is not among these: it is not heard and gives no lease, so that the last lease is
 * as old as the last one that was heard. */
#include "cluster/lease.h"

#include "proto/base/mutation.h"
#include "proto/base/panic.h"

#include <stddef.h>
#include <string.h>

void node_lease_init(struct node_lease *l, const struct lease_times *times)
{
    memset(l, 0, sizeof(*l));
    l->times = *times;
    l->worker_cap_ns = UINT64_MAX;
}

void node_lease_term(struct node_lease *l, uint64_t term)
{
    if (term <= l->term)
        return;
    l->term = term;
    /* An echo names a stamp of its own term's leader: another leader's clock means nothing to the new one. */
    l->leader_stamp = 0;
}

void node_lease_sent(struct node_lease *l, uint64_t now_ns, uint64_t term, uint64_t *echo_ns)
{
    node_lease_term(l, term);
    if (l->first_sent_ns == 0)
        l->first_sent_ns = now_ns;
    if (now_ns > l->last_sent_ns)
        l->last_sent_ns = now_ns;
    *echo_ns = term == l->term ? l->leader_stamp : 0;
}

/* Keeps the lease that was the newest until now among the older ones, unless it is over, or so near to the one before
 * it that nothing is lost. */
static void keep_older(struct node_lease *l, uint64_t now_ns)
{
    unsigned n = 0;

    for (unsigned i = 0; i < l->n_older; i++)
        if (l->older[i].end_ns > now_ns)
            l->older[n++] = l->older[i];
    l->n_older = n;
    if (l->end_ns <= now_ns)
        return;
    if (n > 0 && l->end_ns - l->older[n - 1].end_ns < l->times.lease_ns / LEASE_STEPS)
        return;
    if (n == LEASE_OLDER)
        return;
    l->older[n].end_ns = l->end_ns;
    l->older[n].wait_applied = l->wait_applied;
    l->n_older = n + 1;
}

static bool extend(struct node_lease *l, uint64_t now_ns, uint64_t end_ns, uint64_t commit)
{
    if (end_ns <= now_ns || end_ns <= l->end_ns)
        return false;
    keep_older(l, now_ns);
    l->end_ns = end_ns;
    l->wait_applied = commit;
    return true;
}

/* Kept for the length of a lease: the newest one is always a little ahead of what is applied here. */
static void note_commit(struct node_lease *l, uint64_t now_ns, uint64_t commit)
{
    if (l->named_ns != 0 && now_ns - l->named_ns < l->times.lease_ns)
        return;
    l->named_commit = commit;
    l->named_ns = now_ns;
}

bool node_lease_answer(struct node_lease *l, uint64_t now_ns, uint64_t sent_ns, uint64_t term, uint64_t commit,
                       uint64_t stamp_ns, bool granted, bool incarnation_matches)
{
    if (term < l->term)
        return false;
    if (l->first_sent_ns == 0 || sent_ns < l->first_sent_ns || sent_ns > l->last_sent_ns || sent_ns > now_ns)
        return false;
    node_lease_term(l, term);
    /* The echo speaks of this voter's term only, so it is due also from a node that gets no lease: a new leader, or one
     * back from a pause, finds its quorum by it. */
    if (stamp_ns > l->leader_stamp)
        l->leader_stamp = stamp_ns;
    note_commit(l, now_ns, commit);
    if (!granted || !incarnation_matches)
        return false;
    return extend(l, now_ns, sent_ns + l->times.lease_ns, commit);
}

bool node_lease_own(struct node_lease *l, const struct leader_lease *leader, uint64_t now_ns, uint64_t commit,
                    bool incarnation_matches)
{
    if (leader->term < l->term || !leader->started)
        return false;
    node_lease_term(l, leader->term);
    note_commit(l, now_ns, commit);
    return incarnation_matches && extend(l, now_ns, leader_lease_own_end(leader, now_ns), commit);
}

uint64_t node_lease_end(const struct node_lease *l, uint64_t applied)
{
    uint64_t end = 0;

    if (l->end_ns != 0 && applied >= l->wait_applied)
        end = l->end_ns;
    for (unsigned i = l->n_older; i > 0 && end == 0; i--)
        if (applied >= l->older[i - 1].wait_applied)
            end = l->older[i - 1].end_ns;
    return end < l->worker_cap_ns ? end : l->worker_cap_ns;
}

bool node_lease_held(const struct node_lease *l, uint64_t now_ns, uint64_t applied)
{
    return now_ns < node_lease_end(l, applied);
}

bool node_lease_caught_up(const struct node_lease *l, uint64_t now_ns, uint64_t applied)
{
    return l->named_ns != 0 && now_ns - l->named_ns < l->times.lease_ns && applied >= l->named_commit;
}

void node_lease_cap(struct node_lease *l, uint64_t cap_ns)
{
    l->worker_cap_ns = cap_ns;
}

void leader_lease_init(struct leader_lease *l, const struct lease_times *times, uint32_t self)
{
    mr_assert(self < LEASE_MAX_NODES);
    memset(l, 0, sizeof(*l));
    l->times = *times;
    l->self = self;
}

void leader_lease_lead(struct leader_lease *l, uint64_t now_ns, uint64_t term, uint64_t voters)
{
    struct lease_times times = l->times;
    uint32_t self = l->self;

    mr_assert(term > 0);
    leader_lease_init(l, &times, self);
    l->term = term;
    l->voters = voters;
    l->elected_ns = now_ns;
    l->last_tick_ns = now_ns;
    l->silence_from_ns = now_ns;
}

void leader_lease_unlead(struct leader_lease *l)
{
    l->term = 0;
    l->started = false;
}

void leader_lease_started(struct leader_lease *l)
{
    l->started = l->term != 0;
}

void leader_lease_voters(struct leader_lease *l, uint64_t voters)
{
    l->voters = voters;
}

void leader_lease_heard(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t term, uint64_t echo_ns)
{
    if (l->term == 0 || node >= LEASE_MAX_NODES)
        return;
    if (now_ns > l->heard_ns[node])
        l->heard_ns[node] = now_ns;
    leader_lease_echo(l, now_ns, node, term, echo_ns);
}

void leader_lease_echo(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t term, uint64_t echo_ns)
{
    if (l->term == 0 || node >= LEASE_MAX_NODES)
        return;
    /* A stamp from before the election was not given in this term; one from the future was not given at all. */
    if (term == l->term && echo_ns >= l->elected_ns && echo_ns <= now_ns && echo_ns > l->echoed_ns[node])
        l->echoed_ns[node] = echo_ns;
}

static bool in_gap(const struct leader_lease *l, uint64_t now_ns)
{
    return now_ns > l->last_tick_ns && now_ns - l->last_tick_ns > l->times.election_ns / 2;
}

void leader_lease_tick(struct leader_lease *l, uint64_t now_ns)
{
    if (l->term == 0)
        return;
    if (in_gap(l, now_ns))
        l->silence_from_ns = now_ns;
    if (now_ns > l->last_tick_ns)
        l->last_tick_ns = now_ns;
}

uint64_t leader_lease_quorum_ns(const struct leader_lease *l, uint64_t now_ns)
{
    uint64_t sorted[LEASE_MAX_NODES]; /* falling */
    size_t n = 0;

    if (l->term == 0)
        return 0;
    for (uint64_t left = l->voters; left != 0; left &= left - 1) {
        uint32_t node = (uint32_t)__builtin_ctzll(left);
        uint64_t stamp = node == l->self ? now_ns : l->echoed_ns[node];
        size_t at = n++;
        for (; at > 0 && sorted[at - 1] < stamp; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = stamp;
    }
    return n > 0 ? sorted[n / 2] : 0;
}

bool leader_lease_may_grant(const struct leader_lease *l, uint64_t now_ns)
{
    uint64_t quorum = leader_lease_quorum_ns(l, now_ns);

    return l->started && quorum != 0 && now_ns - quorum < l->times.election_ns;
}

static bool condemned(const struct leader_lease *l, uint32_t node)
{
    return (l->condemned >> node & 1) != 0;
}

static bool behind(const struct leader_lease *l, uint32_t node)
{
    return (l->behind >> node & 1) != 0;
}

bool leader_lease_may_answer(const struct leader_lease *l, uint64_t now_ns, uint32_t node)
{
    return node < LEASE_MAX_NODES && !condemned(l, node) && !behind(l, node) && leader_lease_may_grant(l, now_ns);
}

/* A node_timeout never shorter than what L5 waits for. */
static uint64_t silence_ns(const struct leader_lease *l)
{
    uint64_t wait = l->times.lease_ns + l->times.election_ns;

    return l->times.node_timeout_ns > wait ? l->times.node_timeout_ns : wait;
}

bool leader_lease_follows(struct leader_lease *l, uint64_t now_ns, uint32_t node, uint64_t applied, uint64_t commit)
{
    if (l->term == 0 || node >= LEASE_MAX_NODES || node == l->self)
        return true;
    if (applied >= l->named[node].commit) {
        l->named[node].commit = commit;
        l->named[node].ns = now_ns;
        l->behind &= ~((uint64_t)1 << node);
        return true;
    }
    /* As with silence: what came while the leader stood still was not read yet. */
    uint64_t from = l->named[node].ns > l->silence_from_ns ? l->named[node].ns : l->silence_from_ns;
    if (!in_gap(l, now_ns) && now_ns > from && now_ns - from >= silence_ns(l))
        l->behind |= (uint64_t)1 << node;
    return !behind(l, node);
}

uint64_t leader_lease_own_end(const struct leader_lease *l, uint64_t now_ns)
{
    uint64_t quorum = leader_lease_quorum_ns(l, now_ns);

    return quorum != 0 ? quorum + l->times.lease_ns : 0;
}

void leader_lease_condemn(struct leader_lease *l, uint32_t node)
{
    if (node < LEASE_MAX_NODES)
        l->condemned |= (uint64_t)1 << node;
}

void leader_lease_pardon(struct leader_lease *l, uint32_t node)
{
    if (node >= LEASE_MAX_NODES)
        return;
    l->condemned &= ~((uint64_t)1 << node);
    l->behind &= ~((uint64_t)1 << node);
    l->named[node].commit = 0;
}

bool leader_lease_silent(const struct leader_lease *l, uint64_t now_ns, uint32_t node)
{
    if (l->term == 0 || node >= LEASE_MAX_NODES || node == l->self || condemned(l, node))
        return false;
    /* Called before the tick that would have noticed the gap: what was not read yet is not silence. */
    if (in_gap(l, now_ns) || !leader_lease_may_grant(l, now_ns))
        return false;
    /* silence_from_ns is the election at the earliest. */
    uint64_t from = l->heard_ns[node] > l->silence_from_ns ? l->heard_ns[node] : l->silence_from_ns;
    uint64_t timeout = silence_ns(l);
    if (MR_MUTANT(MUTANT_EARLY_DOWN))
        timeout = l->times.lease_ns / 2;
    return now_ns > from && now_ns - from >= timeout;
}
