/* The rules of lease.h, each named after the accident that it prevents. Times in milliseconds of boot time. */
#include "cluster/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define MS(x) ((uint64_t)(x)*1000000U)

static const struct lease_times times = {.lease_ns = MS(3000), .election_ns = MS(500), .node_timeout_ns = MS(5000)};
enum { VOTERS = 1 << 1 | 1 << 2 | 1 << 3 };

static struct node_lease node_at(uint64_t term, uint64_t sent_ms)
{
    struct node_lease l;
    uint64_t echo;

    node_lease_init(&l, &times);
    node_lease_sent(&l, MS(sent_ms), term, &echo);
    assert_int_equal(echo, 0);
    return l;
}

/* L1: an answer that took 2 s must not give 3 s more. */
static void lease_counts_from_the_sending(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);

    assert_true(node_lease_answer(&l, MS(3000), MS(1000), 5, 0, 77, true, true));
    assert_int_equal(node_lease_end(&l, 0), MS(4000));
    assert_true(node_lease_held(&l, MS(3999), 0));
    assert_false(node_lease_held(&l, MS(4000), 0));
}

/* L1: an answer that lay in a socket while the process was paused gives nothing. */
static void answer_after_its_lease_is_nothing(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);

    assert_false(node_lease_answer(&l, MS(4000), MS(1000), 5, 0, 77, true, true));
    assert_false(node_lease_held(&l, MS(4000), 0));
}

/* L2: a leader that was replaced and does not know it. */
static void answer_of_an_older_term_gives_nothing(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);
    uint64_t echo;

    node_lease_term(&l, 6);
    assert_false(node_lease_answer(&l, MS(1010), MS(1000), 5, 0, 77, true, true));
    assert_int_equal(node_lease_end(&l, 0), 0);
    node_lease_sent(&l, MS(1100), 6, &echo);
    assert_int_equal(echo, 0);
    assert_true(node_lease_answer(&l, MS(1110), MS(1100), 7, 0, 88, true, true));
    assert_false(node_lease_answer(&l, MS(1120), MS(1100), 6, 0, 99, true, true));
    node_lease_sent(&l, MS(1200), 7, &echo);
    assert_int_equal(echo, 88);
    /* Raft lags behind what the answer told: no stamp of 7 may be echoed for 6. */
    node_lease_sent(&l, MS(1300), 6, &echo);
    assert_int_equal(echo, 0);
}

/* L2: answers to another life of this node, or to what was never sent. */
static void answers_to_others_give_nothing(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);

    assert_false(node_lease_answer(&l, MS(1010), MS(1000), 5, 0, 77, true, false));
    assert_false(node_lease_answer(&l, MS(1010), MS(999), 5, 0, 77, true, true));
    assert_false(node_lease_answer(&l, MS(1010), MS(1001), 5, 0, 77, true, true));
    assert_false(node_lease_answer(&l, MS(1010), UINT64_MAX - 5, 5, 0, 77, true, true));
    assert_int_equal(node_lease_end(&l, 100), 0);
    node_lease_init(&l, &times);
    assert_false(node_lease_answer(&l, MS(1010), MS(1000), 5, 0, 77, true, true));
}

/* L4: were the stamp of a refusal not echoed, a new leader could never find its quorum. */
static void refusal_is_echoed_but_gives_no_lease(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);
    uint64_t echo;

    assert_false(node_lease_answer(&l, MS(1010), MS(1000), 5, 0, 77, false, true));
    assert_int_equal(node_lease_end(&l, 0), 0);
    node_lease_sent(&l, MS(1100), 5, &echo);
    assert_int_equal(echo, 77);
}

/* L3: a node back from a partition must not run what was taken away meanwhile. */
static void nothing_starts_before_the_commit_index_is_applied(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);

    assert_true(node_lease_answer(&l, MS(1010), MS(1000), 5, 42, 77, true, true));
    assert_int_equal(node_lease_end(&l, 41), 0);
    assert_int_equal(node_lease_end(&l, 42), MS(4000));
}

/* L3 must not end a lease that is held: each answer of a busy leader names an index that is not applied yet. */
static void busy_leader_does_not_starve_a_lease(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 0);
    uint64_t echo;
    const uint64_t lag = 2500; /* ms that applying lags behind, one index a millisecond */

    for (uint64_t t = 10; t < 60000; t += 10) {
        node_lease_sent(&l, MS(t), 5, &echo);
        assert_true(node_lease_answer(&l, MS(t + 1), MS(t), 5, t, t, true, true));
        uint64_t applied = t > lag ? t - lag : 0;
        if (t > lag + 100)
            assert_true(node_lease_held(&l, MS(t + 1), applied));
        /* and never on the strength of an answer whose index is not applied */
        assert_true(node_lease_end(&l, applied) <= MS(applied + 3000));
    }
}

/* 5.10: a hung worker with a healthy Raft loop. */
static void hung_worker_ends_the_lease(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);

    node_lease_cap(&l, MS(2000));
    assert_true(node_lease_answer(&l, MS(1010), MS(1000), 5, 0, 77, true, true));
    assert_int_equal(node_lease_end(&l, 0), MS(2000));
    assert_false(node_lease_held(&l, MS(2500), 0));
    node_lease_cap(&l, UINT64_MAX);
    assert_true(node_lease_held(&l, MS(2500), 0));
}

static struct leader_lease leader_at(uint64_t now_ms)
{
    struct leader_lease l;

    leader_lease_init(&l, &times, 1);
    leader_lease_lead(&l, MS(now_ms), 5, VOTERS);
    leader_lease_started(&l);
    return l;
}

/* Ticks and heartbeats of the nodes in a set, every 50 ms; echoes lag by 20 ms. */
static void go_on(struct leader_lease *l, uint64_t from_ms, uint64_t to_ms, uint64_t nodes)
{
    for (uint64_t t = from_ms; t <= to_ms; t += 50) {
        leader_lease_tick(l, MS(t));
        for (uint32_t node = 1; node < 8; node++)
            if (nodes >> node & 1)
                leader_lease_heard(l, MS(t), node, l->term, MS(t - 20));
    }
}

/* L4: a leader that a majority has left grants nothing after the election timeout. */
static void leader_without_majority_stops_granting(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    assert_false(leader_lease_may_grant(&l, MS(1000)));
    assert_int_equal(leader_lease_own_end(&l, MS(1000)), 0);
    go_on(&l, 1050, 2000, VOTERS);
    assert_true(leader_lease_may_grant(&l, MS(2000)));
    assert_int_equal(leader_lease_quorum_ns(&l, MS(2000)), MS(1980));
    go_on(&l, 2050, 4000, 1 << 1);
    assert_int_equal(leader_lease_quorum_ns(&l, MS(4000)), MS(1980));
    assert_false(leader_lease_may_grant(&l, MS(2480)));
    assert_true(leader_lease_may_grant(&l, MS(2479)));
    assert_int_equal(leader_lease_own_end(&l, MS(4000)), MS(4980));
    /* One of the two is enough. */
    go_on(&l, 4050, 4050, 1 << 1 | 1 << 3);
    assert_true(leader_lease_may_grant(&l, MS(4050)));
}

/* 5.4: a leader paused for 8 s must not renew itself from what lay in its sockets. */
static void paused_leader_does_not_renew_itself(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);
    struct node_lease own = node_at(5, 1000);

    go_on(&l, 1050, 2000, VOTERS);
    assert_true(node_lease_own(&own, &l, MS(2000), 0, true));
    assert_int_equal(node_lease_end(&own, 0), MS(4980));
    uint64_t wake = 10000;
    assert_false(leader_lease_may_grant(&l, MS(wake)));
    leader_lease_heard(&l, MS(wake), 2, 5, MS(1995));
    leader_lease_heard(&l, MS(wake), 3, 5, MS(1995));
    assert_false(leader_lease_may_grant(&l, MS(wake)));
    assert_false(node_lease_own(&own, &l, MS(wake), 0, true));
    assert_false(node_lease_held(&own, MS(wake), 0));
    /* Nor does it bury those whose heartbeats it has not read yet: before its tick or after it. */
    assert_false(leader_lease_silent(&l, MS(wake), 2));
    leader_lease_tick(&l, MS(wake));
    leader_lease_heard(&l, MS(wake + 1), 2, 5, MS(wake));
    assert_true(leader_lease_may_grant(&l, MS(wake + 1)));
    assert_false(leader_lease_silent(&l, MS(wake + 1), 3));
    go_on(&l, wake + 50, wake + 4950, 1 << 1 | 1 << 2);
    assert_false(leader_lease_silent(&l, MS(wake + 4950), 3));
    go_on(&l, wake + 5000, wake + 5050, 1 << 1 | 1 << 2);
    assert_true(leader_lease_silent(&l, MS(wake + 5050), 3));
    assert_false(leader_lease_silent(&l, MS(wake + 5050), 2));
}

/* L4: echoes from before this term, from the future, of another term are no quorum. */
static void false_echoes_are_no_quorum(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    leader_lease_tick(&l, MS(1100));
    leader_lease_heard(&l, MS(1100), 2, 5, MS(999));
    leader_lease_heard(&l, MS(1100), 2, 5, MS(1101));
    leader_lease_heard(&l, MS(1100), 2, 4, MS(1050));
    leader_lease_heard(&l, MS(1100), 2, 6, MS(1050));
    leader_lease_heard(&l, MS(1100), 64, 5, MS(1050));
    leader_lease_heard(&l, MS(1100), 7, 5, MS(1050)); /* no voter */
    assert_int_equal(leader_lease_quorum_ns(&l, MS(1100)), 0);
    leader_lease_heard(&l, MS(1100), 2, 5, MS(1050));
    assert_int_equal(leader_lease_quorum_ns(&l, MS(1100)), MS(1050));
    leader_lease_voters(&l, VOTERS | 1 << 4 | 1 << 5);
    assert_int_equal(leader_lease_quorum_ns(&l, MS(1100)), 0);
    leader_lease_voters(&l, 1 << 2 | 1 << 3 | 1 << 4); /* this node votes no more: it counts no more */
    assert_int_equal(leader_lease_quorum_ns(&l, MS(1100)), 0);
    leader_lease_unlead(&l);
    assert_false(leader_lease_may_grant(&l, MS(1100)));
}

/* L5: the last lease of the old leader may run lease + election timeout into the new term. */
static void new_leader_waits_out_old_leases(void **state)
{
    (void)state;
    struct lease_times hasty = times;
    struct leader_lease l;

    hasty.node_timeout_ns = MS(100); /* a careless configuration changes nothing */
    leader_lease_init(&l, &hasty, 1);
    leader_lease_lead(&l, MS(1000), 5, VOTERS);
    leader_lease_started(&l);
    go_on(&l, 1050, 4450, 1 << 1 | 1 << 2);
    assert_false(leader_lease_silent(&l, MS(4499), 3));
    go_on(&l, 4500, 4500, 1 << 1 | 1 << 2);
    assert_true(leader_lease_silent(&l, MS(4500), 3));
    assert_false(leader_lease_silent(&l, MS(4500), 1)); /* itself */
    go_on(&l, 4550, 4600, 1 << 3);
    assert_false(leader_lease_silent(&l, MS(4600), 3));
}

/* A leader that lost its quorum hears nobody: that is no reason to bury all. */
static void leader_without_quorum_buries_nobody(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    go_on(&l, 1050, 3000, VOTERS);
    go_on(&l, 3050, 20000, 1 << 1);
    assert_false(leader_lease_silent(&l, MS(20000), 2));
    assert_false(leader_lease_silent(&l, MS(20000), 3));
}

/* L6: a predecessor's node_down, committed but not applied here yet. */
static void no_lease_before_an_own_entry_is_applied(void **state)
{
    (void)state;
    struct leader_lease l;
    struct node_lease own = node_at(5, 1000);

    leader_lease_init(&l, &times, 1);
    leader_lease_started(&l); /* leads nothing yet */
    leader_lease_lead(&l, MS(1000), 5, VOTERS);
    go_on(&l, 1050, 1200, VOTERS);
    assert_false(leader_lease_may_grant(&l, MS(1200)));
    assert_false(leader_lease_may_answer(&l, MS(1200), 2));
    assert_false(node_lease_own(&own, &l, MS(1200), 0, true));
    leader_lease_started(&l);
    assert_true(leader_lease_may_answer(&l, MS(1200), 2));
    assert_true(node_lease_own(&own, &l, MS(1200), 0, true));
    leader_lease_lead(&l, MS(1300), 6, VOTERS);
    go_on(&l, 1350, 1400, VOTERS);
    assert_false(leader_lease_may_grant(&l, MS(1400)));
}

/* L7: a heartbeat that arrives while its sender's node_down is on its way. */
static void condemned_node_gets_no_lease(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    go_on(&l, 1050, 7000, 1 << 1 | 1 << 2);
    assert_true(leader_lease_silent(&l, MS(7000), 3));
    leader_lease_condemn(&l, 3);
    assert_false(leader_lease_silent(&l, MS(7000), 3));
    go_on(&l, 7050, 7100, VOTERS);
    assert_false(leader_lease_may_answer(&l, MS(7100), 3));
    assert_true(leader_lease_may_answer(&l, MS(7100), 2));
    leader_lease_pardon(&l, 3);
    assert_true(leader_lease_may_answer(&l, MS(7100), 3));
    assert_false(leader_lease_may_answer(&l, MS(7100), 64));
}

/* Heartbeats of a node each 50 ms, while an entry a ms is committed; the others are heard too. */
static void beat(struct leader_lease *l, uint64_t from_ms, uint64_t to_ms, uint32_t node, uint64_t applied)
{
    for (uint64_t t = from_ms; t <= to_ms; t += 50) {
        go_on(l, t, t, VOTERS & ~(1U << node));
        if (leader_lease_follows(l, MS(t), node, applied, t))
            leader_lease_heard(l, MS(t), node, l->term, MS(t - 20));
    }
}

/* L8: a node that beats for ever, but whose log finds no room, keeps its assignments and the next leader's grants. */
static void node_that_applies_nothing_is_silent(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    beat(&l, 1050, 3000, 3, UINT64_MAX);
    beat(&l, 3050, 7950, 3, 2999); /* 3000 was named at 3000 */
    assert_true(leader_lease_may_answer(&l, MS(7950), 3));
    beat(&l, 8000, 8000, 3, 2999);
    assert_false(leader_lease_may_answer(&l, MS(8000), 3));
    assert_true(leader_lease_may_answer(&l, MS(8000), 2));
    beat(&l, 8050, 12900, 3, 2999); /* its last lease was over long ago, but no rule of its own is needed */
    assert_false(leader_lease_silent(&l, MS(12900), 3));
    beat(&l, 12950, 12950, 3, 2999);
    assert_true(leader_lease_silent(&l, MS(12950), 3));
    leader_lease_condemn(&l, 3);
    beat(&l, 13000, 13000, 3, UINT64_MAX);
    assert_false(leader_lease_may_answer(&l, MS(13000), 3)); /* its death is on its way */
    leader_lease_pardon(&l, 3);
    beat(&l, 13050, 13050, 3, 13040);
    assert_true(leader_lease_may_answer(&l, MS(13050), 3));
}

/* L8: one that catches up in time goes on; slowness alone is none. */
static void node_that_catches_up_is_not_silent(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    beat(&l, 1050, 3000, 3, UINT64_MAX);
    beat(&l, 3050, 9000, 3, 2999);
    assert_false(leader_lease_may_answer(&l, MS(9000), 3));
    beat(&l, 9050, 9050, 3, 3000);
    assert_true(leader_lease_may_answer(&l, MS(9050), 3));
    /* Always 4 s behind. */
    for (uint64_t t = 9100; t < 60000; t += 50) {
        beat(&l, t, t, 3, t - 4000);
        assert_true(leader_lease_may_answer(&l, MS(t), 3));
        assert_false(leader_lease_silent(&l, MS(t), 3));
    }
}

/* L8 and L5: a leader that was paused has read nothing of what the node has applied meanwhile. */
static void paused_leader_takes_nobody_for_stuck(void **state)
{
    (void)state;
    struct leader_lease l = leader_at(1000);

    beat(&l, 1050, 3000, 3, UINT64_MAX);
    assert_true(leader_lease_follows(&l, MS(20000), 3, 2999, 20000));
    leader_lease_tick(&l, MS(20001));
    assert_true(leader_lease_follows(&l, MS(20002), 3, 2999, 20000));
    beat(&l, 20050, 25000, 3, 2999);
    assert_true(leader_lease_may_answer(&l, MS(25000), 3));
    beat(&l, 25050, 25050, 3, 2999);
    assert_false(leader_lease_may_answer(&l, MS(25050), 3));
}

/* A node comes up when it is at most a lease behind, by answers that give it none yet. */
static void node_knows_when_it_has_caught_up(void **state)
{
    (void)state;
    struct node_lease l = node_at(5, 1000);
    uint64_t echo;

    assert_false(node_lease_caught_up(&l, MS(1000), UINT64_MAX));
    assert_false(node_lease_answer(&l, MS(1010), MS(1000), 5, 100, 77, false, false));
    assert_false(node_lease_caught_up(&l, MS(1010), 99));
    node_lease_sent(&l, MS(3000), 5, &echo);
    assert_false(node_lease_answer(&l, MS(3010), MS(3000), 5, 200, 78, false, false));
    assert_true(node_lease_caught_up(&l, MS(4000), 100));
    assert_false(node_lease_caught_up(&l, MS(4010), 100)); /* too long ago to say anything */
    node_lease_sent(&l, MS(4100), 5, &echo);
    assert_false(node_lease_answer(&l, MS(4110), MS(4100), 5, 300, 79, false, false));
    assert_false(node_lease_caught_up(&l, MS(4110), 299));
    assert_true(node_lease_caught_up(&l, MS(4110), 300));
}

/* A cluster of one node is its own majority. */
static void single_voter_leads_alone(void **state)
{
    (void)state;
    struct leader_lease l;

    leader_lease_init(&l, &times, 1);
    leader_lease_lead(&l, MS(1000), 5, 1 << 1);
    leader_lease_started(&l);
    assert_true(leader_lease_may_grant(&l, MS(9000)));
    assert_int_equal(leader_lease_own_end(&l, MS(9000)), MS(12000));
}

/* Random: voters that change terms, leaders that are paused, messages that are delayed for seconds. What must hold:
 * when a new leader may first declare a node down, no lease that an older leader gave is valid any more. Every machine
 * has a boot clock of its own. */
enum { SIM_NODES = 5, SIM_MESSAGES = 512 };
struct sim_message {
    uint64_t at, sent, term, stamp, applied;
    uint32_t from, to;
    bool answer, lease;
};
struct sim {
    struct node_lease node[SIM_NODES + 1];
    struct leader_lease leader[SIM_NODES + 1];
    uint64_t term[SIM_NODES + 1];
    uint64_t paused_until[SIM_NODES + 1];
    uint64_t stuck_from[SIM_NODES + 1], stuck_until[SIM_NODES + 1]; /* applies nothing; else all that is committed */
    uint64_t offset[SIM_NODES + 1];
    uint32_t known[SIM_NODES + 1]; /* leader of the newest term that it has heard of */
    struct sim_message messages[SIM_MESSAGES];
    unsigned n;
    uint64_t now; /* of no machine, ms */
    uint64_t term_max, deaths, stuck_deaths, leases;
};

static uint64_t sim_clock(const struct sim *s, uint32_t node)
{
    return MS(s->now + s->offset[node]);
}

static void sim_elect(struct sim *s)
{
    uint32_t who = 1 + (uint32_t)rand() % SIM_NODES;
    unsigned votes = 0;

    if (s->paused_until[who] > s->now)
        return;
    s->term_max++;
    for (uint32_t i = 1; i <= SIM_NODES; i++) {
        /* A majority votes at this moment; a paused one cannot, others learn of the term later. */
        if (s->paused_until[i] > s->now || (i != who && votes >= 3 && rand() % 2))
            continue;
        votes++;
        s->term[i] = s->term_max;
        s->known[i] = who;
        node_lease_term(&s->node[i], s->term_max);
        if (i != who)
            leader_lease_unlead(&s->leader[i]);
    }
    if (votes < 3)
        return;
    leader_lease_lead(&s->leader[who], sim_clock(s, who), s->term_max, 0x3E);
    leader_lease_started(&s->leader[who]);
}

static void sim_send(struct sim *s, struct sim_message m)
{
    if (s->n == SIM_MESSAGES || rand() % 20 == 0)
        return; /* lost */
    m.at = s->now + 1 + (uint64_t)(rand() % 40 == 0 ? rand() % 6000 : rand() % 20);
    s->messages[s->n++] = m;
}

static void sim_deliver(struct sim *s, const struct sim_message *m)
{
    struct leader_lease *l = &s->leader[m->to];

    if (m->answer) {
        node_lease_answer(&s->node[m->to], sim_clock(s, m->to), m->sent, m->term, 0, m->stamp, m->lease, true);
        return;
    }
    if (l->term == 0)
        return;
    /* An index each ms. */
    if (leader_lease_follows(l, sim_clock(s, m->to), m->from, m->applied, s->now))
        leader_lease_heard(l, sim_clock(s, m->to), m->from, m->term, m->stamp);
    else
        leader_lease_echo(l, sim_clock(s, m->to), m->from, m->term, m->stamp);
    bool lease = leader_lease_may_answer(l, sim_clock(s, m->to), m->from);
    s->leases += lease;
    sim_send(s, (struct sim_message){.from = m->to,
                                     .to = m->from,
                                     .sent = m->sent,
                                     .term = l->term,
                                     .stamp = sim_clock(s, m->to),
                                     .lease = lease,
                                     .answer = true});
}

static void sim_node(struct sim *s, uint32_t i)
{
    struct leader_lease *l = &s->leader[i];
    struct sim_message m = {.from = i, .to = s->known[i], .term = s->term[i], .sent = sim_clock(s, i)};

    m.applied = s->now < s->stuck_until[i] ? s->stuck_from[i] : s->now;

    if (m.to != 0) {
        node_lease_sent(&s->node[i], m.sent, m.term, &m.stamp);
        if (m.to != i)
            sim_send(s, m);
    }
    if (l->term == 0)
        return;
    leader_lease_tick(l, sim_clock(s, i));
    leader_lease_heard(l, sim_clock(s, i), i, l->term, 0);
    node_lease_own(&s->node[i], l, sim_clock(s, i), 0, true);
    for (uint32_t dead = 1; dead <= SIM_NODES; dead++) {
        if (!leader_lease_silent(l, sim_clock(s, i), dead))
            continue;
        s->stuck_deaths += s->now < s->stuck_until[dead] && l->heard_ns[dead] > l->named[dead].ns;
        /* Only one that a majority still follows can commit it: the newest. */
        if (l->term == s->term_max) {
            s->deaths++;
            if (node_lease_held(&s->node[dead], sim_clock(s, dead), 0))
                fail_msg("node %u holds a lease while term %llu declares it down", dead, (unsigned long long)l->term);
        }
        leader_lease_condemn(l, dead);
    }
    for (uint32_t up = 1; rand() % 50 == 0 && up <= SIM_NODES; up++)
        leader_lease_pardon(l, up); /* its next life has come up */
}

static void no_lease_outlives_a_declared_death(void **state)
{
    (void)state;
    const char *given = getenv("SEED");
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
    static struct sim s;

    print_message("SEED=%u\n", seed);
    srand(seed);
    for (uint32_t i = 1; i <= SIM_NODES; i++) {
        node_lease_init(&s.node[i], &times);
        leader_lease_init(&s.leader[i], &times, i);
        s.offset[i] = 1 + (uint64_t)rand() % 1000000;
    }
    for (s.now = 0; s.now < 3000000; s.now += 10) {
        if (rand() % 1500 == 0)
            sim_elect(&s);
        for (uint32_t i = 1; i <= SIM_NODES; i++)
            if (rand() % 2000 == 0)
                s.paused_until[i] = s.now + (uint64_t)rand() % 9000;
        for (uint32_t i = 1; i <= SIM_NODES; i++)
            if (s.now >= s.stuck_until[i] && rand() % 3000 == 0) {
                s.stuck_from[i] = s.now;
                s.stuck_until[i] = s.now + (uint64_t)rand() % 30000;
            }
        for (unsigned k = 0; k < s.n;) {
            struct sim_message m = s.messages[k];
            if (m.at > s.now || s.paused_until[m.to] > s.now) {
                k++;
                continue;
            }
            s.messages[k] = s.messages[--s.n];
            sim_deliver(&s, &m);
        }
        for (uint32_t i = 1; i <= SIM_NODES; i++)
            if (s.paused_until[i] <= s.now && (s.now / 10 + i) % 10 == 0)
                sim_node(&s, i);
    }
    print_message("%llu leases, %llu deaths, %llu of nodes that beat\n", (unsigned long long)s.leases,
                  (unsigned long long)s.deaths, (unsigned long long)s.stuck_deaths);
    assert_true(s.deaths > 10 && s.stuck_deaths > 10 && s.leases > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lease_counts_from_the_sending),
        cmocka_unit_test(answer_after_its_lease_is_nothing),
        cmocka_unit_test(answer_of_an_older_term_gives_nothing),
        cmocka_unit_test(answers_to_others_give_nothing),
        cmocka_unit_test(refusal_is_echoed_but_gives_no_lease),
        cmocka_unit_test(nothing_starts_before_the_commit_index_is_applied),
        cmocka_unit_test(busy_leader_does_not_starve_a_lease),
        cmocka_unit_test(hung_worker_ends_the_lease),
        cmocka_unit_test(leader_without_majority_stops_granting),
        cmocka_unit_test(paused_leader_does_not_renew_itself),
        cmocka_unit_test(false_echoes_are_no_quorum),
        cmocka_unit_test(new_leader_waits_out_old_leases),
        cmocka_unit_test(leader_without_quorum_buries_nobody),
        cmocka_unit_test(no_lease_before_an_own_entry_is_applied),
        cmocka_unit_test(condemned_node_gets_no_lease),
        cmocka_unit_test(node_that_applies_nothing_is_silent),
        cmocka_unit_test(node_that_catches_up_is_not_silent),
        cmocka_unit_test(paused_leader_takes_nobody_for_stuck),
        cmocka_unit_test(node_knows_when_it_has_caught_up),
        cmocka_unit_test(single_voter_leads_alone),
        cmocka_unit_test(no_lease_outlives_a_declared_death),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
