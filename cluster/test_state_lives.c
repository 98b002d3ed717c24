/* One test a rule of nodes, notices, parts, rules and malformed entries; its comment names the accident that it
 * prevents. */
#include "cluster/state_testing.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

/* ---- nodes ---- */

static void formation_happens_once(void **arg)
{
    struct rig rig;
    struct node_view v;
    (void)arg;
    rig_open(&rig);
    assert_int_equal(state_majority(rig.s), 0);
    Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_FORM);
    op->form = form_of(&rig, 3);
    op->form->members[2]->node = 1;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op->form->members[2]->node = 64;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    assert_int_equal(state_nodes(rig.s), 0);
    assert_int_equal(form(&rig, 3), APPLIED);
    assert_string_equal(rig.told, "node 1 down 0;node 2 down 0;node 3 down 0;");
    assert_int_equal(form(&rig, 3), APPLY_DUPLICATE);
    op->form = form_of(&rig, 3);
    op->form->cluster.data[0] ^= 1;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    assert_int_equal(state_voters(rig.s), 0xe);
    assert_int_equal(state_majority(rig.s), 2);
    assert_true(mr_id_equal(state_cluster(rig.s), test_id(0xc0000000)));
    state_node_view(rig.s, 1, &v);
    assert_int_equal(v.node, 2);
    assert_string_equal(v.name, "mx2");
    assert_string_equal(v.address, "127.0.0.1:7401");
    assert_true(v.voter);
    assert_false(v.up);
    rig_close(&rig);
}

/* A restored VM, a wiped disk under an old raft id. */
static void node_up_only_in_a_new_life_of_the_same_directory(void **arg)
{
    struct rig rig;
    struct node_view v;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(node_up(&rig, 1, 1), APPLY_DUPLICATE);
    assert_int_equal(node_up(&rig, 1, 5), APPLIED);
    assert_int_equal(node_up(&rig, 1, 4), APPLY_OLD_INCARNATION);
    Mailraft__NodeUp *up = node_up_of(&rig, 1, 6);
    up->directory = id_bytes(&rig, 77);
    assert_int_equal(node_up_apply(&rig, up), APPLY_OLD_INCARNATION);
    up = node_up_of(&rig, 1, 6);
    up->name = text(&rig, "mx9");
    assert_int_equal(node_up_apply(&rig, up), APPLY_INVALID);
    up = node_up_of(&rig, 0, 6);
    assert_int_equal(node_up_apply(&rig, up), APPLY_INVALID);
    assert_int_equal(node_up(&rig, 7, 1), APPLIED);
    assert_true(state_node_by_id(rig.s, 7, &v));
    assert_false(v.voter);
    assert_true(v.up);
    assert_false(state_node_by_id(rig.s, 8, &v));
    rig_close(&rig);
}

/* The dead node's deliveries run elsewhere, oldest first, under a number that fences the old ones. */
static void node_down_gives_its_deliveries_back(void **arg)
{
    struct rig rig;
    struct state_counts c;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 4; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n}), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 1, 2, 1), APPLIED);
    assert_int_equal(assign(&rig, 2, 0, 1, 1, 1), APPLIED);
    assert_int_equal(assign(&rig, 3, 0, 1, 2, 1), APPLIED);
    rig_quiet(&rig);
    assert_int_equal(node_down(&rig, 2, 2), APPLY_OLD_INCARNATION);
    assert_int_equal(node_down(&rig, 9, 1), APPLY_NOT_FOUND);
    assert_string_equal(rig.told, "");
    assert_int_equal(node_down(&rig, 2, 1), APPLIED);
    assert_string_equal(rig.told, "unassigned 3/0#1 from 2 slot 20 mx:hop0.example;possibly doubt 3/0#1 by 2;"
                                  "unassigned 1/0#1 from 2 slot 20 mx:hop0.example;possibly doubt 1/0#1 by 2;"
                                  "node 2 down 1;");
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "1 3 4");
    assert_int_equal(node_down(&rig, 2, 1), APPLY_DUPLICATE);
    state_counts(rig.s, &c);
    assert_int_equal(c.possibly_in_doubt, 2);
    assert_int_equal(c.in_doubt, 0);
    /* Declared down: nothing for it until it lives anew (5.3). */
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 1), APPLY_OLD_INCARNATION);
    assert_int_equal(node_up(&rig, 2, 1), APPLY_DUPLICATE);
    assert_int_equal(node_up(&rig, 2, 2), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 2, 2, 2), APPLIED);
    rig_close(&rig);
}

/* kill -9 after the next hop's reply: the journal's outcome counts, the rest is released, the dot without reply is in
 * doubt. */
static void node_up_brings_its_journal(void **arg)
{
    struct rig rig;
    struct state_counts c;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n, .assign_node = 3, .assign_incarnation = 1}), APPLIED);
    Mailraft__NodeUp *up = node_up_of(&rig, 3, 2);
    up->journal = build(&rig, 3 * sizeof(void *));
    up->journal[0] = outcome_of(&rig, 1, 0, 1, 3, "d", 1);
    up->journal[1] = outcome_of(&rig, 2, 0, 1, 2, "d", 1); /* not its own: nothing */
    up->journal[2] = outcome_of(&rig, 9, 0, 1, 3, "d", 1); /* long gone: nothing */
    up->n_journal = 3;
    BUILD(&rig, Mailraft__InDoubt, mailraft__in_doubt__init, doubt);
    doubt->id = id_bytes(&rig, 2);
    doubt->attempt = 1;
    up->in_doubt = &doubt;
    up->n_in_doubt = 1;
    rig_quiet(&rig);
    assert_int_equal(node_up_apply(&rig, up), APPLIED);
    assert_string_equal(rig.told,
                        "done 1:0=1;outcome 3 mx:hop0.example delivered;unassigned 1/0#1 from 3 slot 30 "
                        "mx:hop0.example;removed 1;doubt 2/0#1 by 3;unassigned 3/0#1 from 3 slot 30 mx:hop0.example;"
                        "unassigned 2/0#1 from 3 slot 30 mx:hop0.example;node 3 up 2;");
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "2 3");
    state_counts(rig.s, &c);
    assert_int_equal(c.in_doubt, 1);
    assert_int_equal(c.possibly_in_doubt, 0);
    /* Proposed again: counted once. */
    assert_int_equal(node_up_apply(&rig, up), APPLY_DUPLICATE);
    state_counts(rig.s, &c);
    assert_int_equal(c.in_doubt, 1);
    rig_close(&rig);
}

/* ---- notices ---- */

static char *notices_of(struct rig *rig)
{
    char *out = build(rig, 256);
    const void *cursor = NULL;
    const struct state_message *m;
    Mailraft__NoticeKind kind;

    while (state_notice_next(rig->s, &cursor, &m, &kind))
        snprintf(out + strlen(out), 16, "%u%c ", number_of(m), kind == MAILRAFT__NOTICE_KIND__NOTICE_WARN ? 'w' : 'e');
    return out;
}

#define WARN   MAILRAFT__NOTICE_KIND__NOTICE_WARN
#define EXPIRE MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE

static void warning_then_expiry(void **arg)
{
    struct rig rig;
    struct message_view v;
    struct state_counts c;
    (void)arg;
    rig_cluster(&rig);
    uint64_t warn = rig.now + 1000, expire = rig.now + 5000;
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 2, .warn = warn, .expire = expire}), APPLIED);
    assert_int_equal(state_next_due_ms(rig.s), warn);
    assert_int_equal(assign_notice(&rig, 1, WARN, 1, 1, 1), APPLY_STALE); /* not yet due */
    pass(&rig, 1000);
    assert_string_equal(notices_of(&rig), "1w ");
    /* It waits for the scheduler, not for time. */
    assert_int_equal(state_next_due_ms(rig.s), UINT64_MAX);
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 1, 1, 1), APPLY_STALE);
    assert_int_equal(assign_notice(&rig, 1, WARN, 2, 1, 1), APPLY_STALE);
    assert_int_equal(assign_notice(&rig, 1, WARN, 1, 1, 9), APPLY_OLD_INCARNATION);
    rig_quiet(&rig);
    assert_int_equal(assign_notice(&rig, 1, WARN, 1, 1, 1), APPLIED);
    assert_string_equal(rig.told, "notice 1 kind 1#1 to 1;");
    assert_string_equal(notices_of(&rig), "");
    assert_int_equal(assign_notice(&rig, 1, WARN, 2, 2, 1), APPLY_STALE);
    assert_int_equal(notice(&rig, 1, WARN, 1, 2, 2, NULL), APPLY_STALE);
    Mailraft__Enqueue *dsn = enqueue_of(&rig, (struct mail){.n = 50, .from = "", .flags = MESSAGE_DSN});
    dsn->body->n_holders = 1;
    assert_int_equal(notice(&rig, 1, WARN, 1, 1, 2, dsn), APPLY_NOT_MAJORITY); /* copy further, propose again */
    dsn->body->n_holders = 2;
    assert_int_equal(notice(&rig, 1, WARN, 1, 1, 2, dsn), APPLIED);
    assert_int_equal(notice(&rig, 1, WARN, 1, 1, 2, dsn), APPLY_STALE);
    state_message_view(state_find(rig.s, test_id(1)), &v);
    assert_int_equal(v.flags, MESSAGE_WARNED);
    assert_non_null(state_find(rig.s, test_id(50)));
    assert_int_equal(state_next_due_ms(rig.s), expire);
    pass(&rig, 4000);
    assert_string_equal(notices_of(&rig), "1e ");
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 2, 2, 1), APPLIED);
    dsn = enqueue_of(&rig, (struct mail){.n = 51, .from = "", .flags = MESSAGE_DSN});
    rig_quiet(&rig);
    assert_int_equal(notice(&rig, 1, EXPIRE, 2, 2, 2, dsn), APPLIED);
    assert_string_equal(rig.told, "enqueued 51;done 1:0=3;done 1:1=3;removed 1;");
    state_counts(rig.s, &c);
    assert_int_equal(c.expired, 2);
    assert_int_equal(notice(&rig, 1, EXPIRE, 2, 2, 2, dsn), APPLY_TERMINAL);
    rig_close(&rig);
}

static void no_warning_where_none_is_wanted(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    uint64_t warn = rig.now + 1000, expire = rig.now + 5000;
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .from = "", .warn = warn, .expire = expire}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .flags = MESSAGE_DSN, .warn = warn, .expire = expire}),
                     APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .expire = expire - 1}), APPLIED);
    pass(&rig, 4000);
    assert_string_equal(notices_of(&rig), "");
    pass(&rig, 1000);
    assert_string_equal(notices_of(&rig), "3e 1e 2e ");
    /* A null reverse-path expires without a DSN. */
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 1, 2, 1), APPLIED);
    assert_int_equal(notice(&rig, 1, EXPIRE, 1, 2, 1, NULL), APPLIED);
    assert_null(state_find(rig.s, test_id(1)));
    rig_close(&rig);
}

/* It may be delivered at this moment: a bounce would lie. */
static void expiry_waits_for_a_running_attempt(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(
        enqueue(&rig, (struct mail){.n = 1, .expire = rig.now + 1000, .assign_node = 1, .assign_incarnation = 1}),
        APPLIED);
    pass(&rig, 1000);
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 1, 2, 1), APPLIED);
    Mailraft__Enqueue *dsn = enqueue_of(&rig, (struct mail){.n = 51, .from = ""});
    assert_int_equal(notice(&rig, 1, EXPIRE, 1, 2, 1, dsn), APPLY_STALE);
    assert_null(state_find(rig.s, test_id(51)));
    assert_string_equal(notices_of(&rig), "");
    assert_int_equal(state_next_due_ms(rig.s), rig.now + 60000);
    /* Deferred or given back after its time: no further attempt, and no entry each moment because it is due. */
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "t"), APPLIED);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED);
    assert_int_equal(delivery_of(&rig, 1, 0).due_ms, 0);
    assert_int_equal(state_next_due_ms(rig.s), rig.now + 60000);
    pass(&rig, 60000);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED);
    assert_string_equal(notices_of(&rig), "1e ");
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 2, 2, 1), APPLIED);
    assert_int_equal(notice(&rig, 1, EXPIRE, 2, 2, 1, dsn), APPLIED);
    assert_non_null(state_find(rig.s, test_id(51)));
    rig_close(&rig);
}

static void expired_message_makes_nothing_ready(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    for (uint32_t n = 1; n <= 3; n++)
        assert_int_equal(
            enqueue(&rig, (struct mail){.n = n, .expire = rig.now + 100000, .assign_node = n, .assign_incarnation = 1}),
            APPLIED);
    Mailraft__Outcome *o = outcome_of(&rig, 1, 0, 1, 1, "t", 1);
    o->retry_for_ms = 200000;
    assert_int_equal(outcome_apply(&rig, o), APPLIED);
    pass(&rig, 250000);
    assert_int_equal(apply(&rig, release_op(&rig, 2, 0, 1, 2)), APPLIED);
    assert_int_equal(node_down(&rig, 3, 1), APPLIED);
    for (uint32_t n = 1; n <= 3; n++) {
        assert_int_equal(delivery_of(&rig, n, 0).state, DELIVERY_DEFERRED);
        assert_int_equal(delivery_of(&rig, n, 0).due_ms, 0);
    }
    assert_null(state_ready_next_hop(rig.s, NULL));
    assert_int_equal(state_next_due_ms(rig.s), UINT64_MAX);
    assert_string_equal(notices_of(&rig), "1e 2e 3e ");
    rig_close(&rig);
}

/* One recipient was delivered while the DSN was written: the DSN must not name it. */
static void notice_of_a_terminal_recipient_is_refused(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(
        enqueue(&rig,
                (struct mail){
                    .n = 1, .recipients = 2, .expire = rig.now + 1000, .assign_node = 1, .assign_incarnation = 1}),
        APPLIED);
    pass(&rig, 1000);
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 1, 2, 1), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "dt"), APPLIED);
    Mailraft__Enqueue *dsn = enqueue_of(&rig, (struct mail){.n = 51, .from = ""});
    assert_int_equal(notice(&rig, 1, EXPIRE, 1, 2, 3, dsn), APPLY_INVALID);
    assert_int_equal(notice(&rig, 1, EXPIRE, 1, 2, 2, dsn), APPLY_TERMINAL);
    assert_null(state_find(rig.s, test_id(51)));
    pass(&rig, 60000);
    assert_string_equal(notices_of(&rig), "1e ");
    rig_close(&rig);
}

/* The node that was to write it fell, or cannot: another one does. */
static void notice_comes_back_from_its_node(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .expire = rig.now + 1000}), APPLIED);
    pass(&rig, 1000);
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 1, 2, 1), APPLIED);
    assert_int_equal(node_down(&rig, 2, 1), APPLIED);
    assert_string_equal(notices_of(&rig), "1e ");
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 2, 3, 1), APPLIED);
    assert_int_equal(notice(&rig, 1, EXPIRE, 1, 2, 1, NULL), APPLY_STALE);
    assert_int_equal(node_up(&rig, 3, 2), APPLIED);
    assert_string_equal(notices_of(&rig), "1e ");
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 3, 1, 1), APPLIED);
    assert_int_equal(apply(&rig, release_op(&rig, 1, STATE_RELEASE_NOTICE, 2, 1)), APPLY_STALE);
    assert_int_equal(apply(&rig, release_op(&rig, 1, STATE_RELEASE_NOTICE, 3, 1)), APPLIED);
    assert_string_equal(notices_of(&rig), "");
    pass(&rig, 60000);
    assert_string_equal(notices_of(&rig), "1e ");
    assert_int_equal(assign_notice(&rig, 1, EXPIRE, 4, 1, 1), APPLIED);
    assert_int_equal(notice(&rig, 1, EXPIRE, 4, 1, 0, NULL), APPLIED); /* names nobody: given up for now */
    assert_int_equal(state_next_due_ms(rig.s), rig.now + 60000);
    rig_close(&rig);
}

/* ---- parts ---- */

static int part(struct rig *rig, uint32_t n, uint32_t number, uint32_t parts, const uint8_t *data, size_t len)
{
    Mailraft__Op *op = new_op(rig, MAILRAFT__OP__KIND_ENQUEUE_PART);
    BUILD(rig, Mailraft__EnqueuePart, mailraft__enqueue_part__init, p);
    p->id = id_bytes(rig, n);
    p->part = number;
    p->parts = parts;
    p->data = bytes_of(rig, data, len);
    op->enqueue_part = p;
    return apply(rig, op);
}

/* 10,000 recipients do not fit an entry; none is visible before all are. */
static void enqueue_in_parts_is_visible_with_the_last(void **arg)
{
    enum { SLICE = 1500 };
    struct rig rig;
    struct message_view v;
    (void)arg;
    rig_cluster(&rig);
    Mailraft__Enqueue *e = enqueue_of(&rig, (struct mail){.n = 1, .recipients = 200, .hops = 7});
    size_t len = mailraft__enqueue__get_packed_size(e);
    uint8_t *packed = build(&rig, len);
    mailraft__enqueue__pack(e, packed);
    uint32_t parts = (uint32_t)((len + SLICE - 1) / SLICE);
    assert_true(parts > 4);
    assert_int_equal(part(&rig, 1, 1, parts, packed + SLICE, SLICE), APPLY_STALE); /* no first */
    assert_int_equal(part(&rig, 1, parts, parts, packed, SLICE), APPLY_INVALID);
    assert_int_equal(part(&rig, 1, 0, parts, packed, SLICE), APPLIED);
    assert_int_equal(part(&rig, 1, 1, parts, packed + SLICE, SLICE), APPLIED);
    assert_int_equal(part(&rig, 1, 1, parts, packed + SLICE, SLICE), APPLY_DUPLICATE);
    assert_int_equal(part(&rig, 1, 3, parts, packed + 3 * SLICE, SLICE), APPLY_STALE);
    /* A new leader sends all again. */
    for (uint32_t i = 0; i < parts; i++) {
        assert_null(state_find(rig.s, test_id(1)));
        size_t n = i + 1 < parts ? SLICE : len - i * SLICE;
        assert_int_equal(part(&rig, 1, i, parts, packed + i * SLICE, n), APPLIED);
    }
    state_message_view(state_find(rig.s, test_id(1)), &v);
    assert_int_equal(v.n_recipients, 200);
    assert_int_equal(v.n_deliveries, 7);
    assert_int_equal(part(&rig, 1, 0, parts, packed, SLICE), APPLY_DUPLICATE);
    /* Under another id, or cut short: refused, forgotten. */
    assert_int_equal(part(&rig, 2, 0, 1, packed, len), APPLY_INVALID);
    assert_int_equal(part(&rig, 3, 0, 1, packed, len - 1), APPLY_INVALID);
    assert_int_equal(state_next_due_ms(rig.s), UINT64_MAX);
    rig_close(&rig);
}

static void parts_that_stay_incomplete_go(void **arg)
{
    struct rig rig;
    uint8_t *big = calloc(1, 1 << 20);
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(part(&rig, 1, 0, 3, big, 100), APPLIED);
    assert_int_equal(state_next_due_ms(rig.s), rig.now + STATE_GRACE_MS + 1);
    assert_int_equal(cancel(&rig, 1), APPLIED);
    assert_int_equal(part(&rig, 1, 1, 3, big, 100), APPLY_CANCELLED);
    assert_int_equal(part(&rig, 2, 0, 3, big, 100), APPLIED);
    pass(&rig, STATE_GRACE_MS + 1);
    assert_int_equal(part(&rig, 2, 1, 3, big, 100), APPLY_STALE);
    /* Room for all: the oldest goes. */
    assert_int_equal(part(&rig, 3, 0, 100, big, 1 << 20), APPLIED);
    for (uint32_t n = 4; n <= 6; n++)
        for (uint32_t i = 0; i < 21; i++)
            assert_int_equal(part(&rig, n, i, 100, big, 1 << 20), APPLIED);
    assert_int_equal(part(&rig, 3, 1, 100, big, 100),
                     APPLIED); /* 64 MiB and 100 bytes: it was the oldest but its own */
    assert_int_equal(part(&rig, 4, 21, 100, big, 100), APPLY_STALE);
    assert_int_equal(part(&rig, 5, 21, 100, big, 100), APPLIED);
    free(big);
    rig_close(&rig);
}

/* ---- rules, version, malformed ---- */

static void rules_in_force_are_a_copy(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_null(state_rules(rig.s));
    Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_RULES);
    op->rules = rules_of(&rig, 7);
    assert_int_equal(apply(&rig, op), APPLIED);
    assert_int_equal(apply(&rig, op), APPLY_DUPLICATE);
    assert_string_equal(rig.told, "rules 07;");
    assert_int_equal(state_rules(rig.s)->limits[0]->connections, 20);
    op->rules->hash.len = 3;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    rig_close(&rig);
}

/* An old program must stop rather than go on without what it does not know. */
static void unknown_stops_the_process(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16];
    (void)arg;
    rig_cluster(&rig);
    state_hash(rig.s, before);
    Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_SET_VERSION);
    BUILD(&rig, Mailraft__SetVersion, mailraft__set_version__init, version);
    op->set_version = version;
    version->version = STATE_VERSION + 1;
    assert_int_equal(apply(&rig, op), MR_VERSION);
    static const uint8_t unknown_op[] = {0x12, 0x04, 0xfa, 0x07, 0x01, 0x00};             /* ops { field 127 {0} } */
    static const uint8_t unknown_field[] = {0x12, 0x06, 0x22, 0x04, 0xfa, 0x07, 0x01, 0}; /* ops { cancel { 127 } } */
    static const uint8_t no_op[] = {0x12, 0x00};
    assert_int_equal(state_apply(rig.s, rig.index + 1, unknown_op, sizeof(unknown_op), NULL, NULL), MR_VERSION);
    assert_int_equal(state_apply(rig.s, rig.index + 1, unknown_field, sizeof(unknown_field), NULL, NULL), MR_VERSION);
    assert_int_equal(state_apply(rig.s, rig.index + 1, no_op, sizeof(no_op), NULL, NULL), MR_MALFORMED);
    version->version = STATE_VERSION;
    state_hash(rig.s, after);
    assert_memory_equal(before, after, 16);
    assert_int_equal(apply(&rig, op), APPLIED);
    assert_int_equal(apply(&rig, op), APPLY_DUPLICATE);
    assert_int_equal(state_version(rig.s), STATE_VERSION);
    version->version = STATE_VERSION - 1;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    rig_close(&rig);
}

static void malformed_entries_change_nothing(void **arg)
{
    struct rig rig;
    uint8_t before[16], after[16], *data;
    size_t refused = 0;
    (void)arg;
    rig_cluster(&rig);
    Mailraft__Op *ops[3] = {new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE), new_op(&rig, MAILRAFT__OP__KIND_OUTCOME),
                            new_op(&rig, MAILRAFT__OP__KIND_NODE_UP)};
    ops[0]->enqueue = enqueue_of(&rig, (struct mail){.n = 1, .recipients = 3, .hops = 2});
    ops[1]->outcome = outcome_of(&rig, 1, 0, 1, 1, "dt", 2);
    ops[1]->outcome->dsn = enqueue_of(&rig, (struct mail){.n = 2});
    ops[2]->node_up = node_up_of(&rig, 2, 2);
    size_t len = pack_batch(&rig, rig.now, ops, 3, &data);
    for (size_t cut = 1; cut < len; cut++) {
        uint8_t *copy = malloc(cut); /* its end is where a sanitizer sees it */
        memcpy(copy, data, cut);
        state_hash(rig.s, before);
        int r = state_apply(rig.s, rig.index + 1, copy, cut, NULL, NULL);
        free(copy);
        if (r == 0) { /* cut between two operations */
            rig.index++;
            continue;
        }
        assert_true(r == MR_MALFORMED || r == MR_VERSION);
        state_hash(rig.s, after);
        assert_memory_equal(before, after, 16);
        refused++;
    }
    assert_true(refused > len * 9 / 10);
    for (size_t at = 0; at < len; at++) {
        for (int bit = 0; bit < 8; bit++) {
            data[at] ^= (uint8_t)(1 << bit);
            if (state_apply(rig.s, rig.index + 1, data, len, NULL, NULL) == 0)
                rig.index++;
            data[at] ^= (uint8_t)(1 << bit);
        }
        state_check(rig.s);
    }
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formation_happens_once),
        cmocka_unit_test(node_up_only_in_a_new_life_of_the_same_directory),
        cmocka_unit_test(node_down_gives_its_deliveries_back),
        cmocka_unit_test(node_up_brings_its_journal),
        cmocka_unit_test(warning_then_expiry),
        cmocka_unit_test(no_warning_where_none_is_wanted),
        cmocka_unit_test(expiry_waits_for_a_running_attempt),
        cmocka_unit_test(expired_message_makes_nothing_ready),
        cmocka_unit_test(notice_of_a_terminal_recipient_is_refused),
        cmocka_unit_test(notice_comes_back_from_its_node),
        cmocka_unit_test(enqueue_in_parts_is_visible_with_the_last),
        cmocka_unit_test(parts_that_stay_incomplete_go),
        cmocka_unit_test(rules_in_force_are_a_copy),
        cmocka_unit_test(unknown_stops_the_process),
        cmocka_unit_test(malformed_entries_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
