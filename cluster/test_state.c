/* One test a rule of enqueue, assign, outcome, release, cancel; its comment names the accident that the rule prevents.
 */
#include "cluster/state_testing.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static enum recipient_state recipient_state_of(struct rig *rig, uint32_t n, uint32_t recipient)
{
    struct recipient_view v;
    const struct state_message *m = state_find(rig->s, test_id(n));

    assert_non_null(m);
    state_recipient_view(m, recipient, &v);
    return v.state;
}

/* The happy path, and what it tells on the way. */
static void message_lives_and_is_removed(void **arg)
{
    struct rig rig;
    struct state_counts c;
    bool cancelled = true;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .assign_node = 2, .assign_incarnation = 1}), APPLIED);
    assert_string_equal(rig.told, "enqueued 1;assigned 1/0#1 to 2;");
    state_counts(rig.s, &c);
    assert_int_equal(c.messages, 1);
    assert_int_equal(c.assigned, 1);
    assert_int_equal(c.recipients, 1);
    assert_int_equal(c.body_bytes, 1001);
    rig_quiet(&rig);
    assert_int_equal(outcome(&rig, 1, 0, 1, 2, "d"), APPLIED);
    assert_string_equal(rig.told, "done 1:0=1;outcome 2 mx:hop0.example delivered;"
                                  "unassigned 1/0#1 from 2 slot 20 mx:hop0.example;removed 1;");
    assert_null(state_find(rig.s, test_id(1)));
    assert_true(state_is_finished(rig.s, test_id(1), &cancelled));
    assert_false(cancelled);
    assert_null(state_next_hop_next(rig.s, NULL));
    state_counts(rig.s, &c);
    assert_int_equal(c.messages + c.assigned + c.recipients + c.body_bytes, 0);
    assert_int_equal(c.accepted, 1);
    assert_int_equal(c.delivered, 1);
    assert_int_equal(c.finished, 1);
    rig_close(&rig);
}

static void views_show_what_was_enqueued(void **arg)
{
    struct rig rig;
    struct message_view v;
    struct recipient_view r;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .recipients = 3, .hops = 2, .holders = 3, .flags = 3}),
                     APPLIED);
    const struct state_message *m = state_find(rig.s, test_id(2));
    state_message_view(m, &v);
    assert_string_equal(v.reverse_path, "sender@example.net");
    assert_string_equal(v.envid, "env");
    assert_string_equal(v.client, "client [192.0.2.2]");
    assert_int_equal(v.holders, 1 << 1 | 1 << 2 | 1 << 3);
    assert_int_equal(v.body_checksum[0], 2);
    assert_int_equal(v.n_recipients, 3);
    assert_int_equal(v.n_deliveries, 2);
    assert_int_equal(v.flags, 3);
    assert_int_equal(v.arrived_ms, rig.now);
    state_recipient_view(m, 1, &r);
    assert_string_equal(r.address, "user1@hop1.example");
    assert_int_equal(r.address_len, strlen("user1@hop1.example"));
    assert_string_equal(r.orcpt, "rfc822;a@b");
    assert_int_equal(r.delivery, 1);
    assert_int_equal(r.notify, 1);
    assert_string_equal(r.reply, "");
    assert_string_equal(r.status, "");
    assert_string_equal(delivery_of(&rig, 2, 1).next_hop, "mx:hop1.example");
    rig_close(&rig);
}

/* A message that is on one disk only would burn with it. */
static void enqueue_needs_a_majority_of_voters(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_open(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .holders = 3}), APPLY_NOT_MAJORITY);
    assert_int_equal(form(&rig, 3), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .holders = 1}), APPLY_NOT_MAJORITY);
    /* Node 4 is no voter: its copy does not count. */
    Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE);
    op->enqueue = enqueue_of(&rig, (struct mail){.n = 1, .holders = 2});
    op->enqueue->body->holders[0] = 4;
    assert_int_equal(apply(&rig, op), APPLY_NOT_MAJORITY);
    assert_int_equal(node_up(&rig, 4, 1), APPLIED);
    assert_int_equal(apply(&rig, op), APPLY_NOT_MAJORITY);
    /* The same holder twice is one. */
    op->enqueue->body->holders[0] = 2;
    assert_int_equal(apply(&rig, op), APPLY_NOT_MAJORITY);
    /* Refused is not remembered: copied further, the same id applies. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .holders = 2}), APPLIED);
    rig_close(&rig);
}

/* The leader died after the commit: the same enqueue comes again, perhaps after its delivery. */
static void enqueue_is_idempotent_by_id(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    struct mail mail = {.n = 1, .assign_node = 1, .assign_incarnation = 1};
    assert_int_equal(enqueue(&rig, mail), APPLIED);
    assert_int_equal(enqueue(&rig, mail), APPLY_DUPLICATE);
    mail.holders = 1;
    assert_int_equal(enqueue(&rig, mail), APPLY_DUPLICATE);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "d"), APPLIED);
    assert_int_equal(enqueue(&rig, mail), APPLY_DUPLICATE);
    assert_int_equal(state_next_message(rig.s, 0) == NULL, 1);
    rig_close(&rig);
}

/* Finished ids are forgotten after the grace period: what is older than it must not apply any more, at any moment
 * between. */
static void no_stamp_outlives_the_memory_of_its_id(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    uint64_t stamp = rig.now;
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .assign_node = 1, .assign_incarnation = 1}), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "d"), APPLIED);
    pass(&rig, STATE_GRACE_MS);
    assert_true(state_is_finished(rig.s, test_id(1), NULL));
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .stamp_back = (int64_t)(rig.now - stamp)}), APPLY_DUPLICATE);
    assert_int_equal(state_next_due_ms(rig.s), stamp + STATE_GRACE_MS + 1);
    pass(&rig, 1);
    assert_false(state_is_finished(rig.s, test_id(1), NULL));
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .stamp_back = (int64_t)(rig.now - stamp)}), APPLY_STALE);
    /* One from the future would outlive it. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .stamp_back = -1}), APPLY_INVALID);
    rig_close(&rig);
}

/* 451 was answered: the enqueue that was overtaken must not deliver a message that the client will send again. */
static void cancel_holds_back_the_enqueue_it_overtook(void **arg)
{
    struct rig rig;
    bool cancelled = false;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(cancel(&rig, 1), APPLIED);
    assert_int_equal(cancel(&rig, 1), APPLIED);
    assert_true(state_is_finished(rig.s, test_id(1), &cancelled));
    assert_true(cancelled);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1}), APPLY_CANCELLED);
    /* And one that came too late says so: 250. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .assign_node = 1, .assign_incarnation = 1}), APPLIED);
    assert_int_equal(cancel(&rig, 2), APPLY_DUPLICATE);
    assert_int_equal(outcome(&rig, 2, 0, 1, 1, "d"), APPLIED);
    assert_int_equal(cancel(&rig, 2), APPLY_TERMINAL);
    rig_close(&rig);
}

static void enqueue_that_is_wrong_changes_nothing(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    (void)arg;
    rig_cluster(&rig);
    pass(&rig, 0);
    state_hash(rig.s, before);
    for (int wrong = 0; wrong < 14; wrong++) {
        Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE);
        Mailraft__Enqueue *e = op->enqueue = enqueue_of(&rig, (struct mail){.n = 1, .recipients = 4, .hops = 2});
        switch (wrong) {
        case 0:
            e->id.len = 15;
            break;
        case 1:
            e->body = NULL;
            break;
        case 2:
            e->body->checksum.len = 8;
            break;
        case 3:
            e->body->holders[1] = 64;
            break;
        case 4:
            e->n_recipients = 0;
            break;
        case 5:
            e->recipients[3]->delivery = 2;
            break;
        case 6: /* a delivery without recipients would never end */
            e->recipients[1]->delivery = e->recipients[3]->delivery = 0;
            break;
        case 7:
            e->n_next_hops = 0;
            break;
        case 8:
            e->next_hops[1] = text(&rig, "%s", "");
            break;
        case 9:
            e->recipients[0]->address.len = 0;
            break;
        case 10:
            e->recipients[0]->address = bytes_of(&rig, "a\0b", 3);
            break;
        case 11:
            e->reverse_path = (ProtobufCBinaryData){.data = build(&rig, 2000), .len = 1025};
            memset(e->reverse_path.data, 'a', 1025);
            break;
        case 12:
            e->body->holders[1] = 0;
            break;
        default:
            e->n_assign = 1;
            e->assign = build(&rig, sizeof(void *));
            e->assign[0] = assignment(&rig, 2, 1, 1, 1);
        }
        assert_int_equal(apply(&rig, op), APPLY_INVALID);
        state_hash(rig.s, after);
        assert_memory_equal(before, after, 16);
    }
    rig_close(&rig);
}

/* The node fell between the leader's choice and the commit: the message is accepted, its delivery waits. */
static void enqueue_for_a_node_that_fell_is_ready(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .assign_node = 2, .assign_incarnation = 2}), APPLIED);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_READY);
    assert_int_equal(delivery_of(&rig, 1, 0).attempt, 0);
    assert_int_equal(node_down(&rig, 3, 1), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .assign_node = 3, .assign_incarnation = 1}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .assign_node = 9, .assign_incarnation = 1}), APPLIED);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "1 2 3");
    rig_close(&rig);
}

/* Two leaders, or one that proposed twice: one attempt at a time, and numbers rise. */
static void assign_only_what_is_ready_with_the_next_number(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLY_NOT_FOUND);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLY_STALE);
    assert_int_equal(assign(&rig, 1, 0, 0, 1, 1), APPLY_STALE);
    assert_int_equal(assign(&rig, 1, 1, 1, 1, 1), APPLY_INVALID);
    assert_int_equal(assign(&rig, 1, 0, 1, 4, 1), APPLY_NOT_FOUND);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 2), APPLY_OLD_INCARNATION);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLY_STALE);
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 1), APPLY_STALE);
    struct delivery_view d = delivery_of(&rig, 1, 0);
    assert_int_equal(d.state, DELIVERY_ASSIGNED);
    assert_int_equal(d.node, 1);
    assert_int_equal(d.slot, 10);
    assert_int_equal(d.deadline_for_ms, 60000);
    rig_close(&rig);
}

static void release_goes_to_the_front(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(assign(&rig, 2, 0, 1, 2, 1), APPLIED);
    rig_quiet(&rig);
    assert_int_equal(apply(&rig, release_op(&rig, 1, 0, 1, 2)), APPLY_STALE);
    assert_int_equal(apply(&rig, release_op(&rig, 1, 0, 2, 1)), APPLY_STALE);
    assert_int_equal(apply(&rig, release_op(&rig, 1, 0, 1, 1)), APPLIED);
    assert_string_equal(rig.told, "unassigned 1/0#1 from 1 slot 10 mx:hop0.example;");
    assert_int_equal(apply(&rig, release_op(&rig, 1, 0, 1, 1)), APPLY_STALE);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "1 3");
    assert_int_equal(apply(&rig, release_op(&rig, 2, 0, 1, 2)), APPLIED);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "2 1 3");
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLIED);
    rig_close(&rig);
}

static void outcome_applies_recipient_by_recipient(void **arg)
{
    struct rig rig;
    struct recipient_view r;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 5}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 2, 1), APPLIED);
    Mailraft__Outcome *o = outcome_of(&rig, 1, 0, 1, 2, "dtf-n", 1);
    o->avoid_node = true;
    assert_int_equal(outcome_apply(&rig, o), APPLIED);
    struct delivery_view d = delivery_of(&rig, 1, 0);
    assert_int_equal(d.state, DELIVERY_DEFERRED);
    assert_int_equal(d.due_ms, rig.now + 300000);
    assert_int_equal(d.failures, 1);
    assert_int_equal(d.avoid_node, 2);
    assert_int_equal(d.node, 0);
    assert_int_equal(recipient_state_of(&rig, 1, 0), RECIPIENT_DELIVERED);
    assert_int_equal(recipient_state_of(&rig, 1, 1), RECIPIENT_QUEUED);
    assert_int_equal(recipient_state_of(&rig, 1, 2), RECIPIENT_FAILED);
    assert_int_equal(recipient_state_of(&rig, 1, 3), RECIPIENT_QUEUED);
    assert_int_equal(recipient_state_of(&rig, 1, 4), RECIPIENT_QUEUED);
    state_recipient_view(state_find(rig.s, test_id(1)), 1, &r);
    assert_string_equal(r.reply, "451 later");
    assert_string_equal(r.status, "4.0.0");
    struct next_hop_view h;
    state_next_hop_view(state_next_hop_find(rig.s, "mx:hop0.example"), &h);
    assert_string_equal(h.last_reply, "550 no");
    assert_int_equal(h.deferred, 1);
    assert_int_equal(h.next_due_ms, rig.now + 300000);
    assert_int_equal(state_next_due_ms(rig.s), rig.now + 300000);
    pass(&rig, 299999);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED);
    pass(&rig, 1);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_READY);
    /* Nothing decided (the session broke): at once, and not counted as a failure. */
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLIED);
    o = outcome_of(&rig, 1, 0, 2, 1, "-n-nn", 1);
    o->retry_for_ms = 0;
    assert_int_equal(outcome_apply(&rig, o), APPLIED);
    d = delivery_of(&rig, 1, 0);
    assert_int_equal(d.state, DELIVERY_READY);
    assert_int_equal(d.failures, 1);
    assert_int_equal(d.avoid_node, 0);
    assert_int_equal(assign(&rig, 1, 0, 3, 1, 1), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 3, 1, "-d-dd"), APPLIED);
    assert_null(state_find(rig.s, test_id(1)));
    rig_close(&rig);
}

static void outcome_that_is_wrong_changes_nothing(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "d"), APPLY_NOT_FOUND);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 4, .hops = 2}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    state_hash(rig.s, before);
    Mailraft__Outcome *o = outcome_of(&rig, 1, 0, 1, 1, "dd", 1); /* recipient 1 is the other delivery's */
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    o = outcome_of(&rig, 1, 0, 1, 1, "ddd", 2);
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    o = outcome_of(&rig, 1, 0, 1, 1, "df", 2);
    o->results[1]->recipient = 0; /* twice the same */
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    o = outcome_of(&rig, 1, 0, 1, 1, "d", 2);
    o->results[0]->result = (Mailraft__Result)7;
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    o = outcome_of(&rig, 1, 2, 1, 1, "", 2);
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    o = outcome_of(&rig, 1, 0, 2, 1, "dd", 2); /* an attempt that was never given */
    assert_int_equal(outcome_apply(&rig, o), APPLY_STALE);
    o = outcome_of(&rig, 1, 0, 1, 2, "dd", 2); /* to another node */
    assert_int_equal(outcome_apply(&rig, o), APPLY_STALE);
    state_hash(rig.s, after);
    assert_memory_equal(before, after, 16);
    rig_close(&rig);
}

/* A node back from a partition: its delivery did happen, its failure says nothing. */
static void late_delivered_counts_and_late_failure_does_not(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 2}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(node_down(&rig, 1, 1), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "ft"), APPLY_STALE);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "d-"), APPLIED);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_READY);
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 1), APPLIED);
    rig_quiet(&rig);
    /* The running assignment of another node has nothing left to do. */
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "-d"), APPLIED);
    assert_string_equal(rig.told, "done 1:1=1;unassigned 1/0#2 from 2 slot 20 mx:hop0.example;removed 1;");
    rig_quiet(&rig);
    /* And that node's copy was a second one: logged. The first one's outcome, proposed again, is not. */
    assert_int_equal(outcome(&rig, 1, 0, 2, 2, "-d"), APPLY_TERMINAL);
    assert_string_equal(rig.told, "late 1:1#2 by 2;");
    rig_quiet(&rig);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "-d"), APPLY_TERMINAL);
    assert_string_equal(rig.told, "");
    rig_close(&rig);
}

static void terminal_states_never_change(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 3}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "dft"), APPLIED);
    rig_quiet(&rig);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "dft"), APPLY_TERMINAL); /* the same again */
    assert_string_equal(rig.told, "");
    pass(&rig, 300000);
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 1), APPLIED);
    rig_quiet(&rig);
    assert_int_equal(outcome(&rig, 1, 0, 2, 2, "fdt"), APPLIED);
    assert_int_equal(recipient_state_of(&rig, 1, 0), RECIPIENT_DELIVERED);
    assert_int_equal(recipient_state_of(&rig, 1, 1), RECIPIENT_FAILED);
    assert_string_equal(rig.told, "late 1:1#2 by 2;outcome 2 mx:hop0.example delivered;"
                                  "unassigned 1/0#2 from 2 slot 20 mx:hop0.example;");
    rig_close(&rig);
}

/* A bounce is neither lost nor doubled: its enqueue and the failures that it tells of are one. */
static void outcome_and_dsn_are_all_or_nothing(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 2}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    Mailraft__Outcome *o = outcome_of(&rig, 1, 0, 1, 1, "ft", 1);
    state_hash(rig.s, before);
    o->dsn = enqueue_of(&rig, (struct mail){.n = 2, .holders = 1, .from = "", .flags = MESSAGE_DSN});
    assert_int_equal(outcome_apply(&rig, o), APPLY_NOT_MAJORITY);
    o->dsn = enqueue_of(&rig, (struct mail){.n = 1, .from = ""});
    assert_int_equal(outcome_apply(&rig, o), APPLY_DUPLICATE);
    o->results[0]->result = MAILRAFT__RESULT__DEFERRED; /* a DSN of nobody */
    o->dsn = enqueue_of(&rig, (struct mail){.n = 2, .from = ""});
    assert_int_equal(outcome_apply(&rig, o), APPLY_INVALID);
    state_hash(rig.s, after);
    assert_memory_equal(before, after, 16);

    o = outcome_of(&rig, 1, 0, 1, 1, "ft", 1);
    o->dsn = enqueue_of(&rig, (struct mail){.n = 2, .from = "", .flags = MESSAGE_DSN});
    rig_quiet(&rig);
    assert_int_equal(outcome_apply(&rig, o), APPLIED);
    assert_string_equal(rig.told, "enqueued 2;done 1:0=2;outcome 1 mx:hop0.example;"
                                  "unassigned 1/0#1 from 1 slot 10 mx:hop0.example;");
    state_hash(rig.s, before);
    /* The same again, and one of an old attempt: no second bounce. */
    assert_int_equal(outcome_apply(&rig, o), APPLY_STALE);
    o->dsn = enqueue_of(&rig, (struct mail){.n = 3, .from = ""});
    assert_int_equal(outcome_apply(&rig, o), APPLY_STALE);
    state_hash(rig.s, after);
    assert_memory_equal(before, after, 16);
    /* A running attempt whose failed recipient is terminal already. */
    pass(&rig, 300000);
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 1), APPLIED);
    o = outcome_of(&rig, 1, 0, 2, 2, "fd", 1);
    o->dsn = enqueue_of(&rig, (struct mail){.n = 3, .from = ""});
    assert_int_equal(outcome_apply(&rig, o), APPLY_TERMINAL);
    assert_int_equal(recipient_state_of(&rig, 1, 1), RECIPIENT_QUEUED);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_ASSIGNED);
    rig_close(&rig);
}

/* A million that come due together must not stop the cluster for the length of a million. */
static void deferred_come_back_in_bounded_batches(void **arg)
{
    enum { MANY = STATE_RELEASE_BATCH + 5 };
    struct rig rig;
    struct next_hop_view h;
    uint8_t *data;
    (void)arg;
    rig_cluster(&rig);
    Mailraft__Op **ops = build(&rig, MANY * sizeof(void *));
    Mailraft__Op **outs = build(&rig, MANY * sizeof(void *));
    for (uint32_t i = 0; i < MANY; i++) {
        ops[i] = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE);
        ops[i]->enqueue = enqueue_of(&rig, (struct mail){.n = i + 1, .assign_node = 1, .assign_incarnation = 1});
        outs[i] = new_op(&rig, MAILRAFT__OP__KIND_OUTCOME);
        outs[i]->outcome = outcome_of(&rig, i + 1, 0, 1, 1, "t", 1);
    }
    size_t len = pack_batch(&rig, rig.now, ops, MANY, &data);
    assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
    len = pack_batch(&rig, rig.now, outs, MANY, &data);
    assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
    rig_quiet(&rig);
    pass(&rig, 400000);
    state_next_hop_view(state_next_hop_find(rig.s, "mx:hop0.example"), &h);
    assert_int_equal(h.ready, STATE_RELEASE_BATCH);
    assert_int_equal(h.deferred, 5);
    assert_true(state_next_due_ms(rig.s) <= rig.now);
    pass(&rig, 0);
    state_next_hop_view(state_next_hop_find(rig.s, "mx:hop0.example"), &h);
    assert_int_equal(h.ready, MANY);
    assert_int_equal(state_next_due_ms(rig.s), UINT64_MAX);
    rig_close(&rig);
}

/* A leader with a slow clock: time stands still rather than go back. */
static void committed_time_never_goes_back(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    pass(&rig, 5000);
    uint64_t now = state_now_ms(rig.s);
    rig.now -= 4000;
    pass(&rig, 0);
    assert_int_equal(state_now_ms(rig.s), now);
    rig_close(&rig);
}

static void next_hops_come_and_go_with_their_deliveries(void **arg)
{
    struct rig rig;
    struct next_hop_view h;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 3, .hops = 3}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .recipients = 2, .hops = 2}), APPLIED);
    const struct state_next_hop *first = state_next_hop_next(rig.s, NULL);
    state_next_hop_view(first, &h);
    assert_string_equal(h.name, "mx:hop0.example");
    assert_int_equal(h.ready, 2);
    assert_int_equal(h.oldest_ms, rig.now);
    assert_ptr_equal(state_ready_next_hop(rig.s, NULL), first);
    assert_int_equal(assign(&rig, 1, 2, 1, 1, 1), APPLIED);
    const struct state_next_hop *third = state_next_hop_find(rig.s, "mx:hop2.example");
    state_next_hop_view(third, &h);
    assert_int_equal(h.ready, 0);
    assert_int_equal(h.assigned, 1);
    unsigned ready = 0;
    for (const struct state_next_hop *x = NULL; (x = state_ready_next_hop(rig.s, x)) != NULL; ready++)
        assert_ptr_not_equal(x, third);
    assert_int_equal(ready, 2);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(assign(&rig, 1, 1, 1, 1, 1), APPLIED);
    const void *cursor = NULL;
    struct ready_delivery d;
    char order[16] = "";
    while (state_assigned_next(rig.s, 1, &cursor, &d))
        snprintf(order + strlen(order), 4, "%u", d.delivery);
    assert_string_equal(order, "201");
    cursor = NULL;
    assert_false(state_assigned_next(rig.s, 2, &cursor, &d));
    for (uint32_t i = 0; i < 3; i++) {
        Mailraft__Outcome *o = outcome_of(&rig, 1, i, 1, 1, "d", 3);
        assert_int_equal(outcome_apply(&rig, o), APPLIED);
    }
    assert_null(state_next_hop_find(rig.s, "mx:hop2.example"));
    assert_non_null(state_next_hop_find(rig.s, "mx:hop0.example"));
    rig_close(&rig);
}

/* A reader pages through the queue while messages go. */
static void messages_page_by_sequence_over_gaps(void **arg)
{
    struct rig rig;
    struct message_view v;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 9; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n, .assign_node = 1, .assign_incarnation = 1}), APPLIED);
    uint64_t after = 0;
    for (uint32_t n = 1; n <= 9; n += 2) {
        const struct state_message *m = state_next_message(rig.s, after);
        assert_int_equal(number_of(m), n);
        state_message_view(m, &v);
        after = v.sequence;
        assert_int_equal(outcome(&rig, n, 0, 1, 1, "d"), APPLIED); /* the one seen is gone */
        if (n < 9)
            assert_int_equal(outcome(&rig, n + 1, 0, 1, 1, "d"), APPLIED);
    }
    assert_null(state_next_message(rig.s, after));
    rig_close(&rig);
}

static void long_replies_are_cut_not_refused(void **arg)
{
    struct rig rig;
    struct recipient_view r;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .assign_node = 1, .assign_incarnation = 1}), APPLIED);
    Mailraft__Outcome *o = outcome_of(&rig, 1, 0, 1, 1, "t", 1);
    o->results[0]->reply = (ProtobufCBinaryData){.data = build(&rig, 3000), .len = 3000};
    memset(o->results[0]->reply.data, 'r', 3000);
    o->results[0]->status = text(&rig, "%s", "4.4.4-and-much-more-than-that");
    assert_int_equal(outcome_apply(&rig, o), APPLIED);
    state_recipient_view(state_find(rig.s, test_id(1)), 0, &r);
    assert_int_equal(strlen(r.reply), STATE_MAX_REPLY);
    assert_int_equal(strlen(r.status), 15);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message_lives_and_is_removed),
        cmocka_unit_test(views_show_what_was_enqueued),
        cmocka_unit_test(enqueue_needs_a_majority_of_voters),
        cmocka_unit_test(enqueue_is_idempotent_by_id),
        cmocka_unit_test(no_stamp_outlives_the_memory_of_its_id),
        cmocka_unit_test(cancel_holds_back_the_enqueue_it_overtook),
        cmocka_unit_test(enqueue_that_is_wrong_changes_nothing),
        cmocka_unit_test(enqueue_for_a_node_that_fell_is_ready),
        cmocka_unit_test(assign_only_what_is_ready_with_the_next_number),
        cmocka_unit_test(release_goes_to_the_front),
        cmocka_unit_test(outcome_applies_recipient_by_recipient),
        cmocka_unit_test(outcome_that_is_wrong_changes_nothing),
        cmocka_unit_test(late_delivered_counts_and_late_failure_does_not),
        cmocka_unit_test(terminal_states_never_change),
        cmocka_unit_test(outcome_and_dsn_are_all_or_nothing),
        cmocka_unit_test(deferred_come_back_in_bounded_batches),
        cmocka_unit_test(committed_time_never_goes_back),
        cmocka_unit_test(next_hops_come_and_go_with_their_deliveries),
        cmocka_unit_test(messages_page_by_sequence_over_gaps),
        cmocka_unit_test(long_replies_are_cut_not_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
