/* Who gets which attempt, with a real state: new leaders (S3), turns, back-off, nodes, notices; each test named after
 * the accident that it prevents. Limits are test_sched_budget.c's. */
#include "test_sched_world.h"

/* ---- new leaders ---- */

/* S3: a new leader that knows nothing of the others' connections. */
static void new_leader_waits_for_all_that_are_up(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 2, 0);
    uint64_t before = w->index;

    world_mail(w, world_hop_a, 1);
    world_mail(w, world_hop_b, 1); /* unlimited */
    world_nothing(w);
    sched_lead(w->sched, w->now_ns, w->index);
    world_beat(w, (struct world_beat){.node = 1, .free = 100});
    assert_true(sched_waiting_for_nodes(w->sched));
    assert_int_equal(world_step(w), 1); /* world_hop_b is not held up */
    /* One whose index is of the old term says nothing of what the old leader granted last. */
    world_beat(w, (struct world_beat){.node = 2, .applied = before, .free = 100});
    world_beat(w, (struct world_beat){.node = 3, .free = 100, .next_hop = world_hop_a, .slots = {1, 2}, .n_slots = 2});
    assert_true(sched_waiting_for_nodes(w->sched));
    assert_int_equal(world_step(w), 0);
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 2, .free = 100});
    assert_false(sched_waiting_for_nodes(w->sched));
    assert_int_equal(sched_slots(w->sched, world_hop_a), 2);
    assert_int_equal(world_step(w), 1);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 2);
    world_close(w);
}

/* S3: a node that is down is not waited for; nor one that comes up later. */
static void new_leader_does_not_wait_for_the_dead(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 2, 0);

    world_node_down(w, 3, 1);
    world_mail(w, world_hop_a, 1);
    world_nothing(w);
    sched_lead(w->sched, w->now_ns, w->index);
    world_beat(w, (struct world_beat){.node = 1, .free = 100});
    assert_int_equal(world_step(w), 0);
    world_node_down(w, 2, 1);
    assert_false(sched_waiting_for_nodes(w->sched));
    world_node_up(w, 3, 2);
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* S3: assignments of the old leader that are in the log but not applied here yet. */
static void new_leader_waits_for_its_own_entry(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);

    world_mail(w, world_hop_a, 1);
    sched_lead(w->sched, w->now_ns, w->index + 2);
    world_beat(w, (struct world_beat){.node = 1, .applied = w->index + 2, .free = 100});
    assert_int_equal(world_step(w), 0);
    world_nothing(w);
    world_nothing(w);
    world_advance(w, 1);
    world_beats(w);
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* S3, 6.1: assigned attempts in the state are open connections as far as a new leader knows. */
static void new_leader_counts_what_is_assigned(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 2, 0);

    for (unsigned i = 0; i < 3; i++)
        world_mail(w, world_hop_a, 1);
    world_step(w);
    world_lead(w);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 2);
    sched_unlead(w->sched);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 0);
    assert_int_equal(world_step(w), 0);
    world_close(w);
}

/* ---- turns ---- */

/* S4: a node with two free descriptors. */
static void node_gets_no_more_than_it_has_free(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);

    for (unsigned i = 0; i < 10; i++)
        world_mail(w, world_hop_a, 1);
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .free = 2});
    uint64_t known = w->index;
    assert_int_equal(world_step(w), 2);
    /* A heartbeat from before it knew of them offers the same two again. */
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .applied = known, .free = 2});
    assert_int_equal(world_step(w), 0);
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .free = 1});
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* A node that is shutting down, or was not heard for a second, gets nothing. */
static void silent_and_draining_nodes_get_nothing(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 0, 0);

    for (unsigned i = 0; i < 50; i++)
        world_mail(w, world_hop_a, 1);
    world_advance(w, SCHED_FRESH_MS + 1);
    assert_int_equal(world_step(w), 0);
    world_beat(w, (struct world_beat){.node = 1, .free = 100, .draining = true});
    assert_int_equal(world_step(w), 0);
    world_beat(w, (struct world_beat){.node = 2, .free = 100});
    assert_true(world_step(w) > 0);
    const void *cursor = NULL;
    struct ready_delivery r;
    assert_false(state_assigned_next(w->state, 1, &cursor, &r));
    world_close(w);
}

/* S5: one next hop with a million deliveries must not stop a second one. */
static void long_queue_does_not_stop_others(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);
    struct mr_id small;

    for (unsigned i = 0; i < 3000; i++)
        world_mail(w, world_hop_b, 1);
    small = world_mail(w, world_hop_a, 1);
    world_step(w);
    assert_int_equal(world_node_of(w, small), 1);
    world_close(w);
}

/* S5: more next hops that cannot be served than one step looks at. */
static void blocked_next_hops_do_not_hide_others(void **state)
{
    (void)state;
    struct world *w = world_open(1);
    const struct world_limit limits[] = {{"default", 0, 0.0001}, {"free.example", 0, 0}};
    Mailraft__Op *ops[8];
    uint64_t again = 0;
    unsigned steps = 0;
    size_t n = 0;

    world_rules(w, limits, 2, false);
    world_lead(w);
    for (unsigned i = 0; i < 3 * SCHED_STEP; i++) {
        char name[64];
        snprintf(name, sizeof(name), "smtp://h%u.example:25", i);
        world_mail(w, name, 1);
    }
    struct mr_id id = world_mail(w, "smtp://free.example:25", 1);
    for (; n == 0 && steps < 10; steps++) {
        n = sched_step(w->sched, w->now_ns, ops, 8, &again);
        if (n == 0) /* there are more to look at: soon, but not at once for ever */
            assert_int_equal(again, w->now_ns + SCHED_PACE_MS * MR_NS_PER_MS);
    }
    assert_int_equal(n, 1);
    assert_memory_equal(ops[0]->assign->id.data, id.bytes, MR_ID_SIZE);
    assert_true(steps <= 4);
    assert_int_equal(world_do(w, ops[0]), APPLIED);
    sched_settled(w->sched, ops[0], w->now_ns);
    world_free_ops(ops, n);
    /* When all have been looked at and none may go, it says when the first may: it does not spin. */
    for (steps = 0; steps < 20 && (steps == 0 || again <= w->now_ns + SCHED_PACE_MS * MR_NS_PER_MS); steps++)
        assert_int_equal(sched_step(w->sched, w->now_ns, ops, 8, &again), 0);
    assert_true(again > w->now_ns + 1000000 * MR_NS_PER_MS && again != UINT64_MAX);
    world_close(w);
}

/* ---- next hops and nodes that fail ---- */

/* 6.4: a million deliveries that become ready together for a next hop that is down. */
static void dead_next_hop_gets_single_probes(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 20, 0);
    struct mr_id ids[40];
    uint64_t gap = SCHED_BACKOFF_MIN_MS;

    for (unsigned i = 0; i < 40; i++)
        ids[i] = world_mail(w, world_hop_a, 1);
    assert_int_equal(world_step(w), 40);
    for (unsigned i = 0; i < 40; i++)
        world_end(w, ids[i], WORLD_UNREACHED);
    world_beats(w);
    assert_int_equal(world_step(w), 0);
    for (unsigned probe = 0; probe < 12; probe++) {
        uint64_t until = sched_backoff_until(w->sched, world_hop_a);
        assert_int_equal(until, w->now_ns + gap * MR_NS_PER_MS);
        world_advance(w, gap - 1);
        world_beats(w);
        assert_int_equal(world_step(w), 0);
        assert_int_equal(world_grants(w, world_hop_a, 1), 0);
        world_advance(w, 1);
        world_beats(w);
        assert_int_equal(world_step(w), 1);
        world_advance(w, 10 * gap);
        world_beats(w);
        assert_int_equal(world_step(w), 0); /* one at a time, however long it takes */
        for (unsigned i = 0; i < 40; i++)
            if (world_delivery(w, ids[i]).state == DELIVERY_ASSIGNED)
                world_end(w, ids[i], WORLD_UNREACHED);
        world_beats(w);
        gap = gap * 2 < SCHED_BACKOFF_MAX_MS ? gap * 2 : SCHED_BACKOFF_MAX_MS;
    }
    assert_int_equal(gap, SCHED_BACKOFF_MAX_MS);
    /* It answers again: 2, 4, 8 at a time, never all at once. */
    world_advance(w, gap);
    world_beats(w);
    assert_int_equal(world_step(w), 1);
    size_t allowed = 2, ended;
    for (; allowed <= 16; allowed *= 2) {
        ended = 0;
        for (unsigned i = 0; i < 40 && ended == 0; i++)
            if (world_delivery(w, ids[i]).state == DELIVERY_ASSIGNED) {
                world_end(w, ids[i], WORLD_DELIVERED);
                ended++;
            }
        world_beats(w);
        world_step(w);
        struct state_counts c;
        state_counts(w->state, &c);
        assert_int_equal(c.assigned, allowed);
    }
    assert_int_equal(sched_backoff_until(w->sched, world_hop_a), 0);
    world_close(w);
}

/* 6.4: the node with the probe falls: the next probe keeps its distance, and comes. */
static void lost_probe_is_followed_by_another(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 20, 0);
    struct mr_id id = world_mail(w, world_hop_a, 1);

    world_step(w);
    world_end(w, id, WORLD_UNREACHED);
    world_advance(w, SCHED_BACKOFF_MIN_MS);
    world_beats(w);
    assert_int_equal(world_step(w), 1);
    world_node_down(w, world_node_of(w, id), 1);
    assert_int_equal(world_step(w), 0);
    world_advance(w, SCHED_BACKOFF_MIN_MS);
    world_beats(w);
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* 6.5: a retry after a connection failure goes to another node; if there is none, to the same. */
static void retry_prefers_another_node(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 20, 0);
    struct mr_id id = world_mail(w, world_hop_a, 1);

    world_step(w);
    assert_int_equal(world_node_of(w, id), 1);
    world_end(w, id, WORLD_UNREACHED);
    world_advance(w, SCHED_BACKOFF_MIN_MS);
    world_beats(w);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 2);
    world_end(w, id, WORLD_UNREACHED);
    world_node_down(w, 1, 1);
    world_advance(w, 2 * SCHED_BACKOFF_MIN_MS);
    world_beats(w);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 2);
    world_close(w);
}

/* 6.5: a node whose network is broken, where others succeed. */
static void failing_node_is_avoided_for_a_while(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 20, 0);

    sched_result(w->sched, 2, 1, world_hop_a, true, false, w->now_ns); /* not known yet: no next hop */
    world_mail(w, world_hop_a, 1);
    world_step(w);
    sched_result(w->sched, 2, 1, world_hop_a, true, false, w->now_ns);
    for (unsigned i = 0; i < SCHED_AVOID_RUN; i++) {
        assert_int_equal(sched_avoided(w->sched, world_hop_a), 0);
        sched_result(w->sched, 1, 1, world_hop_a, false, true, w->now_ns);
    }
    assert_int_equal(sched_avoided(w->sched, world_hop_a), 1);
    /* Its failures are no back-off for the others any more. */
    sched_result(w->sched, 2, 1, world_hop_a, true, false, w->now_ns);
    sched_result(w->sched, 1, 1, world_hop_a, false, true, w->now_ns);
    assert_int_equal(sched_backoff_until(w->sched, world_hop_a), 0);
    struct mr_id id = world_mail(w, world_hop_a, 1);
    world_beats(w);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 2);
    assert_int_equal(world_grants(w, world_hop_a, 1), 0);
    /* It is better than nobody. Then its failures count again. */
    world_node_down(w, 2, 1);
    world_beats(w);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 1);
    sched_result(w->sched, 1, 1, world_hop_a, false, true, w->now_ns);
    assert_true(sched_backoff_until(w->sched, world_hop_a) > w->now_ns);
    world_advance(w, SCHED_AVOID_MS + 1);
    world_beats(w);
    assert_int_equal(sched_avoided(w->sched, world_hop_a), 0);
    world_close(w);
}

/* ---- which node, which message ---- */

/* A body is fetched over the net only when no holder is free. */
static void holders_of_the_body_come_first(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 0, 0);
    struct mr_id id = world_mail_held_by(w, world_hop_a, 1, 1 << 2 | 1 << 3);

    world_step(w);
    assert_in_range(world_node_of(w, id), 2, 3);
    world_beat(w, (struct world_beat){.node = 2, .free = 0});
    world_beat(w, (struct world_beat){.node = 3, .free = 0});
    id = world_mail_held_by(w, world_hop_a, 1, 1 << 2 | 1 << 3);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 1);
    world_close(w);
}

/* A connection that is open and idle is used again, wherever it is, rather than a new one opened. */
static void open_connection_is_used_again(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 0, 0);

    world_beat(w, (struct world_beat){.node = 2, .free = 100, .next_hop = world_hop_a, .slots = {5}, .n_slots = 1});
    struct mr_id id = world_mail(w, world_hop_a, 1);
    world_step(w);
    assert_int_equal(world_node_of(w, id), 2);
    assert_int_equal(world_delivery(w, id).slot, 5);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    world_close(w);
}

/* A fill-in that overtook older mail for the same next hop would starve it. */
static void fill_in_does_not_overtake(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);

    world_mail(w, world_hop_a, 1);
    assert_int_equal(world_grants(w, world_hop_a, 1), 0);
    assert_int_equal(world_step(w), 1);
    assert_int_equal(world_grants(w, world_hop_a, 1), 1);
    world_close(w);
}

/* One connection for all: what is urgent (RFC 6710) gets the next attempt, whenever it came; a fill-in does not
 * overtake what is less urgent either, but stands before it in the list. */
static void urgent_mail_is_assigned_first(void **state)
{
    (void)state;
    static const int32_t priorities[] = {0, -5, 9, 0, 4, 9};
    static const unsigned first_to_last[] = {2, 5, 4, 0, 3, 1};
    enum { MAILS = 6 };
    struct world *w = world_limited(1, 1, 0);
    struct mr_id ids[MAILS];
    const void *cursor = NULL;
    struct ready_delivery d;

    for (unsigned i = 0; i < MAILS; i++) {
        struct world_enqueue e;
        Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
        world_enqueue_init(w, &e, world_hop_a, 1, UINT64_MAX, NULL);
        e.enqueue.priority = priorities[i];
        assert_int_equal(sched_grant(w->sched, e.id, 0, world_hop_a, 1, w->now_ns, &a), i == 0);
        sched_ungrant(w->sched, e.id, 0, w->now_ns);
        assert_int_equal(world_do(w, &e.op), APPLIED);
        ids[i] = e.id;
    }
    for (unsigned i = 0; i < MAILS && world_step(w) > 0;)
        while (i < MAILS && state_assigned_next(w->state, 0, &cursor, &d)) {
            struct message_view v;
            state_message_view(d.message, &v);
            assert_true(mr_id_equal(v.id, ids[first_to_last[i++]]));
        }
    assert_non_null(cursor);
    world_close(w);
}

/* A fill-in travels in the enqueue, and is assigned by its apply. */
static void fill_in_is_assigned_with_the_message(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);
    struct world_enqueue e;
    Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;

    world_enqueue_init(w, &e, world_hop_a, 1, UINT64_MAX, &a);
    assert_true(sched_grant(w->sched, e.id, 0, world_hop_a, 1, w->now_ns, &a));
    assert_int_equal(world_do(w, &e.op), APPLIED);
    sched_settled(w->sched, &e.op, w->now_ns);
    sched_check(w->sched);
    assert_int_equal(world_node_of(w, e.id), 1);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    world_close(w);
}

static void suspended_rules_start_nothing(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);

    world_mail(w, world_hop_a, 1);
    world_rules(w, NULL, 0, true);
    assert_int_equal(world_step(w), 0);
    assert_int_equal(world_grants(w, world_hop_b, 1), 0);
    world_rules(w, NULL, 0, false);
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* 7.3: one notice for a message, by one node, also while deliveries are suspended; not proposed twice meanwhile. */
static void notices_go_to_one_holder_once(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 0, 0);
    Mailraft__Op *ops[16];
    uint64_t again;

    world_rules(w, NULL, 0, true);
    struct mr_id id = world_mail_held_by(w, world_hop_a, 1, 1 << 2 | 1 << 3);
    world_advance(w, 86400001);
    world_nothing(w);
    assert_int_equal(sched_step(w->sched, w->now_ns, ops, 16, &again), 0); /* nobody was heard for a day */
    world_beats(w);
    assert_int_equal(sched_step(w->sched, w->now_ns, ops, 16, &again), 1);
    Mailraft__AssignNotice *a = ops[0]->assign_notice;
    assert_int_equal(ops[0]->kind_case, MAILRAFT__OP__KIND_ASSIGN_NOTICE);
    assert_int_equal(a->kind, MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE);
    assert_in_range(a->node, 2, 3);
    assert_int_equal(a->attempt, 1);
    assert_int_equal(sched_step(w->sched, w->now_ns, ops + 1, 15, &again), 0);
    sched_unnotice(w->sched, id);
    assert_int_equal(sched_step(w->sched, w->now_ns, ops + 1, 15, &again), 1);
    assert_int_equal(world_do(w, ops[1]), APPLIED);
    sched_settled(w->sched, ops[1], w->now_ns);
    assert_int_equal(sched_step(w->sched, w->now_ns, ops + 2, 14, &again), 0);
    world_free_ops(ops, 2);
    world_close(w);
}

enum { FLOOD = 1000 };

/* A step whose notices are applied; they are not ended. */
static size_t notices_given(struct world *w)
{
    size_t given = 0, n;

    for (unsigned i = 0; i < 50; i++, given += n) {
        n = world_step(w);
        world_advance(w, 1);
    }
    return given;
}

static void end_notice(struct world *w, const struct state_message *m)
{
    Mailraft__Release r = MAILRAFT__RELEASE__INIT;
    struct message_view v;

    state_message_view(m, &v);
    r.id.data = v.id.bytes;
    r.id.len = MR_ID_SIZE;
    r.delivery = STATE_RELEASE_NOTICE;
    r.attempt = v.notice_attempt;
    r.node = v.notice_node;
    WORLD_OP(op, RELEASE, release) = &r;
    assert_int_equal(world_do(w, &op), APPLIED);
}

/* A queue that expires in one night: what a node did not offer, and what would leave it nothing for deliveries, waits.
 */
static void flood_of_notices_waits(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 0, 0);

    world_rules(w, NULL, 0, true);
    for (unsigned i = 0; i < FLOOD; i++)
        world_mail(w, world_hop_a, 1);
    world_advance(w, 86400001);
    world_nothing(w);
    world_beat(w, (struct world_beat){.node = 1, .free = 40});
    world_beat(w, (struct world_beat){.node = 2, .free = 0});
    assert_int_equal(notices_given(w), 40);
    world_beat(w, (struct world_beat){.node = 1, .free = 60});
    assert_int_equal(notices_given(w), SCHED_NODE_NOTICES - 40);
    world_beat(w, (struct world_beat){.node = 2, .free = 1000});
    assert_int_equal(notices_given(w), SCHED_NODE_NOTICES);
    world_beat(w, (struct world_beat){.node = 2, .free = 1000});
    assert_int_equal(notices_given(w), 0);
    /* A new leader finds what runs. */
    sched_lead(w->sched, w->now_ns, w->index);
    world_beat(w, (struct world_beat){.node = 1, .free = 1000});
    world_beat(w, (struct world_beat){.node = 2, .free = 1000});
    assert_int_equal(notices_given(w), 0);
    for (unsigned i = 0; i < 10; i++)
        end_notice(w, state_notice_assigned_next(w->state, 2, NULL));
    assert_int_equal(notices_given(w), 10);
    world_node_down(w, 1, 1);
    world_node_up(w, 1, 2);
    world_beat(w, (struct world_beat){.node = 1, .incarnation = 2, .free = 1000});
    assert_int_equal(notices_given(w), SCHED_NODE_NOTICES);
    world_close(w);
}

/* What runs may still deliver it, for hours perhaps. */
static void expiry_waits_for_what_runs(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);
    struct mr_id id = world_mail(w, world_hop_a, 1);

    assert_int_equal(world_step(w), 1);
    world_advance(w, 86400001);
    world_nothing(w);
    world_beats(w);
    assert_int_equal(world_step(w), 0);
    world_end(w, id, WORLD_DEFERRED);
    assert_int_equal(world_step(w), 1);
    assert_non_null(state_notice_assigned_next(w->state, 1, NULL));
    world_close(w);
}

/* 5.10: a worker that has lost one. Found by the leader that gave it, and by the next one. */
static void old_notices_are_found(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);
    struct sched_notice old[4];

    world_rules(w, NULL, 0, true);
    struct mr_id id = world_mail(w, world_hop_a, 1);
    world_advance(w, 86400001);
    world_nothing(w);
    world_beats(w);
    assert_int_equal(world_step(w), 1);
    uint64_t since = w->now_ns;
    assert_int_equal(sched_old_notices(w->sched, since - 1, old, 4), 0);
    assert_int_equal(sched_old_notices(w->sched, since, old, 4), 1);
    assert_true(mr_id_equal(old[0].id, id));
    assert_int_equal(old[0].attempt, 1);
    assert_int_equal(old[0].node, 1);
    world_advance(w, 1000);
    sched_lead(w->sched, w->now_ns, w->index);
    assert_int_equal(sched_old_notices(w->sched, w->now_ns - 1, old, 4), 0);
    assert_int_equal(sched_old_notices(w->sched, w->now_ns, old, 4), 1);
    end_notice(w, state_find(w->state, id));
    assert_int_equal(sched_old_notices(w->sched, w->now_ns, old, 4), 0);
    world_close(w);
}

/* Memory: next hops that nothing is known of any more are forgotten; what a heartbeat says is bounded. */
static void idle_next_hops_are_forgotten(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);
    Mailraft__Op *op;
    uint64_t again;

    for (unsigned i = 0; i < 500; i++) {
        char name[64];
        snprintf(name, sizeof(name), "smtp://h%u.example:25", i);
        Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
        struct mr_id id = world_new_id(w);
        world_beats(w);
        assert_true(sched_grant(w->sched, id, 0, name, 1, w->now_ns, &a));
        sched_ungrant(w->sched, id, 0, w->now_ns);
        sched_result(w->sched, 1, 1, name, false, true, w->now_ns);
    }
    world_advance(w, SCHED_AVOID_SEEN_MS + 1);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(sched_step(w->sched, w->now_ns, &op, 1, &again), 0);
    assert_int_equal(sched_backoff_until(w->sched, "smtp://h7.example:25"), 0);
    world_beat(w, (struct world_beat){.node = 1,
                                      .free = 1,
                                      .next_hop = world_hop_a,
                                      .slots = {0, SCHED_SLOT_NUMBERS, UINT32_MAX, 3},
                                      .n_slots = 4});
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    world_advance(w, 1);
    world_beat(w, (struct world_beat){.node = 1, .free = 1, .next_hop = "no next hop", .slots = {1}, .n_slots = 1});
    assert_int_equal(sched_slots(w->sched, "no next hop"), 0);
    world_close(w);
}

/* ---- deadlines ---- */

/* 50 MiB over a slow line took longer than any attempt had, and began again for ever. */
static void deadline_grows_with_the_work(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 0);
    struct world_enqueue e;

    struct mr_id small = world_mail(w, world_hop_a, 1);
    world_enqueue_init(w, &e, world_hop_a, 1, UINT64_MAX, NULL);
    e.body.length = 50U << 20;
    assert_int_equal(world_do(w, &e.op), APPLIED);
    assert_int_equal(world_step(w), 2);
    assert_int_equal(world_delivery(w, small).deadline_for_ms, SCHED_DEADLINE_MS + SCHED_DEADLINE_RCPT_MS);
    assert_int_equal(world_delivery(w, e.id).deadline_for_ms,
                     SCHED_DEADLINE_MS + SCHED_DEADLINE_RCPT_MS + (50U << 20) / SCHED_DEADLINE_RATE * 1000);
    assert_int_equal(sched_deadline_for_ms(0, 100, 1, 0), SCHED_DEADLINE_MS + 100 * SCHED_DEADLINE_RCPT_MS);
    assert_int_equal(sched_deadline_for_ms(UINT64_MAX, UINT32_MAX, 1, 0), SCHED_DEADLINE_MAX_MS);
    /* Not beyond the message's end, but as long as any attempt. */
    assert_int_equal(sched_deadline_for_ms(0, 1000, 5, 5 + 3600000), 3600000);
    assert_int_equal(sched_deadline_for_ms(0, 1000, 5, 6), SCHED_DEADLINE_MS);
    assert_int_equal(sched_deadline_for_ms(0, 1000, 5, 4), SCHED_DEADLINE_MS);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_leader_waits_for_all_that_are_up),
        cmocka_unit_test(new_leader_does_not_wait_for_the_dead),
        cmocka_unit_test(new_leader_waits_for_its_own_entry),
        cmocka_unit_test(new_leader_counts_what_is_assigned),
        cmocka_unit_test(node_gets_no_more_than_it_has_free),
        cmocka_unit_test(silent_and_draining_nodes_get_nothing),
        cmocka_unit_test(long_queue_does_not_stop_others),
        cmocka_unit_test(blocked_next_hops_do_not_hide_others),
        cmocka_unit_test(dead_next_hop_gets_single_probes),
        cmocka_unit_test(lost_probe_is_followed_by_another),
        cmocka_unit_test(retry_prefers_another_node),
        cmocka_unit_test(failing_node_is_avoided_for_a_while),
        cmocka_unit_test(holders_of_the_body_come_first),
        cmocka_unit_test(open_connection_is_used_again),
        cmocka_unit_test(fill_in_does_not_overtake),
        cmocka_unit_test(urgent_mail_is_assigned_first),
        cmocka_unit_test(fill_in_is_assigned_with_the_message),
        cmocka_unit_test(suspended_rules_start_nothing),
        cmocka_unit_test(notices_go_to_one_holder_once),
        cmocka_unit_test(flood_of_notices_waits),
        cmocka_unit_test(expiry_waits_for_what_runs),
        cmocka_unit_test(old_notices_are_found),
        cmocka_unit_test(idle_next_hops_are_forgotten),
        cmocka_unit_test(deadline_grows_with_the_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
