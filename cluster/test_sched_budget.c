/* What a site bears, with a real state: connections (S1) and rates (S2) of sched.h, each test named after the accident
 * that it prevents. */
#include "test_sched_world.h"

/* ---- connections ---- */

/* Nothing is ready in anybody's queue, but slots stay as the nodes report them. */
static uint32_t most_slots(struct world *w, const char *next_hop, unsigned mails)
{
    for (unsigned i = 0; i < mails; i++)
        world_mail(w, next_hop, 1 + i % w->n_nodes);
    while (world_step(w) > 0)
        ;
    return sched_slots(w->sched, next_hop);
}

/* S1: three nodes with a limit of 5 each would be 15. */
static void limit_holds_for_the_cluster(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 5, 0);

    assert_int_equal(most_slots(w, world_hop_a, 100), 5);
    struct state_counts c;
    state_counts(w->state, &c);
    assert_int_equal(c.assigned, 5 * SCHED_SLOT_DEPTH);
    world_close(w);
}

/* S1: two ports of one host are one site. */
static void limit_is_the_sites(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 5, 0);

    most_slots(w, world_hop_a, 50);
    most_slots(w, world_hop_a2, 50);
    assert_true(sched_slots(w->sched, world_hop_a) + sched_slots(w->sched, world_hop_a2) <= 5);
    world_close(w);
}

/* A next hop that keeps its connections busy for ever must not starve another one of the same site. */
static void busy_next_hop_leaves_its_neighbour_a_share(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 4, 0);
    struct mr_id ids[200], other;

    for (unsigned i = 0; i < 200; i++)
        ids[i] = world_mail(w, world_hop_a, 1);
    world_step(w);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 4);
    other = world_mail(w, world_hop_a2, 1);
    bool served = false;
    for (unsigned i = 0; i < 200 && !served; i++) {
        world_step(w);
        served = world_node_of(w, other) != 0;
        if (world_delivery(w, ids[i]).state == DELIVERY_ASSIGNED)
            world_end(w, ids[i], WORLD_DELIVERED);
        world_advance(w, 50);
        /* Idle connections are closed by the node at once; busy ones stay. */
        struct world_beat b = {.node = 1, .free = 100, .next_hop = world_hop_a};
        for (uint32_t slot = 1; slot <= 4; slot++)
            for (unsigned k = 0; k < 200; k++)
                if (world_delivery(w, ids[k]).state == DELIVERY_ASSIGNED && world_delivery(w, ids[k]).slot == slot) {
                    b.slots[b.n_slots++] = slot;
                    break;
                }
        world_beat(w, b);
    }
    assert_true(served);
    assert_true(sched_slots(w->sched, world_hop_a) + sched_slots(w->sched, world_hop_a2) <= 4);
    world_close(w);
}

/* S1: a slot whose last attempt has ended is an open connection until its node says otherwise, with an index that has
 * seen the end. */
static void slot_is_free_only_when_its_node_says_so(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 1, 0);
    struct mr_id first = world_mail_held_by(w, world_hop_a, 1, 1 << 1 | 1 << 2);

    assert_int_equal(world_step(w), 1);
    assert_int_equal(world_node_of(w, first), 1);
    uint64_t before = w->index;
    world_end(w, first, WORLD_DELIVERED);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    /* An older heartbeat that does not list it: it may not have begun then. */
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .applied = before, .free = 100});
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    /* One that lists it: idle. */
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .free = 100, .next_hop = world_hop_a, .slots = {1}, .n_slots = 1});
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    /* An old one that was overtaken says nothing any more. */
    Mailraft__Heartbeat old = MAILRAFT__HEARTBEAT__INIT;
    old.incarnation = 1;
    old.sent_ns = w->now_ns - 5 * MR_NS_PER_MS;
    old.applied = w->index;
    sched_heartbeat(w->sched, 1, &old, w->now_ns);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .free = 100});
    assert_int_equal(sched_slots(w->sched, world_hop_a), 0);
    world_close(w);
}

/* S1: grants count before their operation is applied. */
static void grants_on_their_way_count(void **state)
{
    (void)state;
    struct world *w = world_limited(3, 2, 0);
    Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
    struct mr_id ids[16];
    unsigned given = 0;

    for (unsigned i = 0; i < 16; i++) {
        ids[i] = world_new_id(w);
        given += sched_grant(w->sched, ids[i], 0, world_hop_a, 1 + i % 3, w->now_ns, &a);
        assert_true(sched_slots(w->sched, world_hop_a) <= 2);
        sched_check(w->sched);
    }
    assert_int_equal(sched_slots(w->sched, world_hop_a), 2);
    assert_true(given >= 2);
    /* The same message proposed again must not be granted twice. */
    assert_false(sched_grant(w->sched, ids[0], 0, world_hop_a, 1, w->now_ns, &a));
    for (unsigned i = 0; i < 16; i++)
        sched_ungrant(w->sched, ids[i], 0, w->now_ns);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 0);
    assert_true(sched_grant(w->sched, ids[0], 0, world_hop_a, 1, w->now_ns, &a));
    world_close(w);
}

/* S1: a heartbeat shows a connection that this leader never granted (it is new, or was told late). */
static void reported_slots_count(void **state)
{
    (void)state;
    struct world *w = world_limited(2, 3, 0);

    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 2, .free = 100, .next_hop = world_hop_a, .slots = {7, 9}, .n_slots = 2});
    assert_int_equal(sched_slots(w->sched, world_hop_a), 2);
    for (unsigned i = 0; i < 40; i++)
        world_mail(w, world_hop_a, 1);
    world_step(w);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 3);
    world_close(w);
}

/* S1: nothing new while a lowered limit is exceeded. */
static void lowered_limit_waits_for_connections_to_close(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 4, 0);
    const struct world_limit lower[] = {{"a.example", 2, 0}};

    world_advance(w, 10);
    world_beat(w,
               (struct world_beat){.node = 1, .free = 100, .next_hop = world_hop_a, .slots = {1, 2, 3}, .n_slots = 3});
    world_rules(w, lower, 1, false);
    world_mail(w, world_hop_a, 1);
    assert_int_equal(world_step(w), 0);
    world_advance(w, 10);
    world_beat(w, (struct world_beat){.node = 1, .free = 100, .next_hop = world_hop_a, .slots = {2}, .n_slots = 1});
    assert_int_equal(world_step(w), 1);
    world_close(w);
}

/* S1: the node fell while a grant was on its way; its next life gets the same slot number meanwhile. The late refusal
 * of the old grant must not free the new slot. */
static void late_refusal_frees_no_new_slot(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);
    Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
    struct mr_id old = world_new_id(w), young = world_new_id(w);

    assert_true(sched_grant(w->sched, old, 0, world_hop_a, 1, w->now_ns, &a));
    world_node_down(w, 1, 1);
    world_node_up(w, 1, 2);
    world_beats(w);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    assert_false(sched_grant(w->sched, young, 0, world_hop_a, 1, w->now_ns, &a));
    sched_ungrant(w->sched, old, 0, w->now_ns);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 0);
    assert_true(sched_grant(w->sched, young, 0, world_hop_a, 1, w->now_ns, &a));
    assert_int_equal(a.incarnation, 2);
    sched_ungrant(w->sched, old, 0, w->now_ns);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    world_close(w);
}

/* A settled operation gives back only its own grant, not that of a later attempt. */
static void settling_twice_takes_nothing_else(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);
    struct mr_id id = world_mail(w, world_hop_a, 1);
    Mailraft__Op *first, *second;
    uint64_t again;

    assert_int_equal(sched_step(w->sched, w->now_ns, &first, 1, &again), 1);
    sched_settled(w->sched, first, w->now_ns); /* was never proposed */
    mailraft__op__free_unpacked(first, NULL);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 0);
    assert_int_equal(sched_step(w->sched, w->now_ns, &first, 1, &again), 1);
    assert_int_equal(world_do(w, first), APPLIED);
    world_end(w, id, WORLD_DEFERRED); /* ready again at once */
    assert_int_equal(sched_step(w->sched, w->now_ns, &second, 1, &again), 1);
    assert_int_equal(second->assign->assignment->attempt, 2);
    sched_settled(w->sched, first, w->now_ns);
    assert_int_equal(world_do(w, second), APPLIED);
    sched_settled(w->sched, second, w->now_ns);
    sched_check(w->sched);
    assert_int_equal(sched_slots(w->sched, world_hop_a), 1);
    mailraft__op__free_unpacked(first, NULL);
    mailraft__op__free_unpacked(second, NULL);
    world_close(w);
}

/* ---- slots whose attempts last ---- */

static void give_back(struct world *w, struct mr_id id)
{
    Mailraft__Release release = MAILRAFT__RELEASE__INIT;
    struct delivery_view v = world_delivery(w, id);

    release.id.data = id.bytes;
    release.id.len = MR_ID_SIZE;
    release.attempt = v.attempt;
    release.node = v.node;
    WORLD_OP(op, RELEASE, release) = &release;
    assert_int_equal(world_do(w, &op), APPLIED);
}

/* The node says again that these connections stand. */
static void pass(struct world *w, uint64_t ms, size_t slots)
{
    world_advance(w, ms);
    world_beat(w,
               (struct world_beat){.node = 1, .free = 100, .next_hop = world_hop_a, .slots = {1, 2}, .n_slots = slots});
}

/* What waited behind an attempt that lasts is given back by its node: to the same slot it would go for ever. */
static void nothing_is_given_ahead_to_a_busy_slot(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 2, 0);
    struct mr_id ids[4], later;

    pass(w, 0, 2); /* both connections stand */
    for (unsigned i = 0; i < 4; i++)
        ids[i] = world_mail(w, world_hop_a, 1);
    assert_int_equal(world_step(w), 4);
    uint32_t slot = world_delivery(w, ids[0]).slot;
    unsigned behind = world_delivery(w, ids[2]).slot == slot ? 2 : 3;
    unsigned beside = 5 - behind;
    assert_int_equal(world_delivery(w, ids[behind]).slot, slot);
    pass(w, 50, 2);
    world_end(w, ids[1], WORLD_DELIVERED);
    world_end(w, ids[beside], WORLD_DELIVERED);
    pass(w, SCHED_BUSY_MS + 2000, 2);
    give_back(w, ids[behind]);
    assert_int_equal(world_step(w), 1); /* to the connection that idles */
    assert_int_not_equal(world_delivery(w, ids[behind]).slot, slot);
    pass(w, SCHED_BUSY_MS + 2000, 2); /* now both last */
    later = world_mail(w, world_hop_a, 1);
    assert_int_equal(world_step(w), 0);
    assert_int_equal(world_grants(w, world_hop_a, 1), 0);
    world_end(w, ids[behind], WORLD_DELIVERED);
    assert_int_equal(world_step(w), 1);
    assert_int_not_equal(world_delivery(w, later).slot, slot);
    for (unsigned i = 0; i < 3; i++)
        world_mail(w, world_hop_a, 1);
    pass(w, 50, 2);
    assert_int_equal(world_step(w), 0); /* its last attempt lasted: one at a time */
    world_end(w, later, WORLD_DELIVERED);
    assert_int_equal(world_step(w), 3); /* this one did not */
    world_close(w);
}

/* What is given back is not taken for progress. */
static void a_slot_stays_busy_when_others_are_given_back(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 1, 0);
    struct mr_id ids[4];

    for (unsigned i = 0; i < 4; i++)
        ids[i] = world_mail(w, world_hop_a, 1);
    assert_int_equal(world_step(w), 4);
    pass(w, SCHED_BUSY_MS + 2000, 1);
    for (unsigned i = 1; i < 4; i++)
        give_back(w, ids[i]);
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(world_step(w), 0);
        pass(w, 1000, 1);
    }
    world_close(w);
}

/* ---- rates ---- */

/* S2 */
static void rate_holds_and_begins_empty(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 100); /* 100 a second, burst 5 */
    unsigned total = 0;

    assert_int_equal(world_grants(w, world_hop_a, 50), 0);
    world_advance(w, 10);
    world_beats(w);
    assert_int_equal(world_grants(w, world_hop_a, 50), 1);
    for (unsigned i = 0; i < 200; i++) {
        world_advance(w, 7);
        world_beat(w, (struct world_beat){.node = 1, .free = 10000});
        total += world_grants(w, world_hop_a, 3);
    }
    assert_in_range(total, 60, 140); /* slots of unlimited next hops end first */
    world_close(w);
}

/* S2: a burst is short, however long nothing was sent. */
static void budget_saves_up_little(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 100);

    world_advance(w, 3600000);
    world_beats(w);
    assert_int_equal(world_grants(w, world_hop_a, 50), 5);
    world_close(w);
}

/* S2: what the old leader assigned is paid by the new one. */
static void new_leader_charges_what_is_assigned(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 10);

    for (unsigned i = 0; i < 5; i++) {
        world_mail(w, world_hop_a, 1);
        world_advance(w, 100);
        world_beats(w);
        assert_int_equal(world_step(w), 1);
    }
    world_lead(w);
    world_advance(w, 590);
    world_beats(w);
    assert_int_equal(world_grants(w, world_hop_a, 5), 0);
    world_advance(w, 20);
    world_beats(w);
    assert_int_equal(world_grants(w, world_hop_a, 5), 1);
    world_close(w);
}

/* S2: a site that was forgotten while idle begins neither with more nor with less than it had. */
static void forgotten_site_keeps_its_budget(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 100);
    Mailraft__Op *op;
    uint64_t again;

    world_advance(w, 1000);
    world_beats(w);
    assert_int_equal(world_grants(w, world_hop_a, 1), 1);
    world_lead(w);
    for (unsigned i = 0; i < 100; i++)
        sched_step(w->sched, w->now_ns, &op, 1, &again);
    assert_int_equal(world_grants(w, world_hop_a, 1), 0);
    world_advance(w, 1000);
    world_beats(w);
    for (unsigned i = 0; i < 100; i++)
        sched_step(w->sched, w->now_ns, &op, 1, &again);
    assert_int_equal(world_grants(w, world_hop_a, 10), 5);
    world_close(w);
}

/* A grant that was never used is refunded. */
static void unused_grant_is_refunded(void **state)
{
    (void)state;
    struct world *w = world_limited(1, 0, 1);
    Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
    struct mr_id id = world_new_id(w);

    world_advance(w, 1000);
    world_beats(w);
    assert_true(sched_grant(w->sched, id, 0, world_hop_a, 1, w->now_ns, &a));
    assert_int_equal(world_grants(w, world_hop_a, 5), 0);
    sched_ungrant(w->sched, id, 0, w->now_ns);
    assert_int_equal(world_grants(w, world_hop_a, 5), 1);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limit_holds_for_the_cluster),
        cmocka_unit_test(limit_is_the_sites),
        cmocka_unit_test(busy_next_hop_leaves_its_neighbour_a_share),
        cmocka_unit_test(slot_is_free_only_when_its_node_says_so),
        cmocka_unit_test(grants_on_their_way_count),
        cmocka_unit_test(reported_slots_count),
        cmocka_unit_test(lowered_limit_waits_for_connections_to_close),
        cmocka_unit_test(late_refusal_frees_no_new_slot),
        cmocka_unit_test(settling_twice_takes_nothing_else),
        cmocka_unit_test(nothing_is_given_ahead_to_a_busy_slot),
        cmocka_unit_test(a_slot_stays_busy_when_others_are_given_back),
        cmocka_unit_test(rate_holds_and_begins_empty),
        cmocka_unit_test(budget_saves_up_little),
        cmocka_unit_test(new_leader_charges_what_is_assigned),
        cmocka_unit_test(forgotten_site_keeps_its_budget),
        cmocka_unit_test(unused_grant_is_refunded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
