/* What SMTP's extensions ask of the queue: priority, future release, deliver-by, users' limits, sites, DSNs of success,
 * and that nothing of it is there below version 2. */
#include "cluster/state_testing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { HOUR = 3600 * 1000, MINUTE = 60 * 1000 };

static void open_v2(struct rig *rig)
{
    rig_cluster(rig);
    rig->now = 100 * MINUTE; /* at the begin of a minute */
    assert_int_equal(apply(rig, set_version_op(rig, 2)), APPLIED);
    rig_quiet(rig);
}

/* As on a node that takes the snapshot: the same bytes again, and everything goes on from there. */
static void through_snapshot(struct rig *rig)
{
    struct state_buffer *buffers;
    unsigned count;
    uint8_t before[16], after[16];

    state_hash(rig->s, before);
    state_snapshot(rig->s, &buffers, &count);
    assert_int_equal(count, 1);
    struct state *fresh = state_open(NULL);
    assert_int_equal(state_restore(fresh, rig->index, buffers->base, buffers->len), 0);
    state_check(fresh);
    state_hash(fresh, after);
    assert_memory_equal(before, after, 16);
    state_close(fresh);
    assert_int_equal(state_restore(rig->s, rig->index, buffers->base, buffers->len), 0);
    state_check(rig->s);
    state_snapshot_free(buffers, count);
}

static struct message_view view_of(struct rig *rig, uint32_t n)
{
    struct message_view v;
    const struct state_message *m = state_find(rig->s, test_id(n));

    assert_non_null(m);
    state_message_view(m, &v);
    return v;
}

/* ---- priority ---- */

static void urgent_mail_goes_first(void **arg)
{
    static const int32_t priorities[] = {0, -9, 9, 3, 0, -1, 9};
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    for (uint32_t n = 1; n <= 7; n++)
        assert_int_equal(enqueue(&rig, (struct mail){.n = n, .priority = priorities[n - 1]}), APPLIED);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "3 7 4 1 5 6 2");
    assert_int_equal(view_of(&rig, 2).priority, -9);
    through_snapshot(&rig);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "3 7 4 1 5 6 2");
    assert_int_equal(view_of(&rig, 2).priority, -9);
    /* Back to the front of its own priority's list, not before what is more urgent. */
    assert_int_equal(assign(&rig, 5, 0, 1, 2, 1), APPLIED);
    assert_int_equal(assign(&rig, 7, 0, 1, 2, 1), APPLIED);
    assert_int_equal(apply(&rig, release_op(&rig, 5, 0, 1, 2)), APPLIED);
    assert_int_equal(apply(&rig, release_op(&rig, 7, 0, 1, 2)), APPLIED);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "7 3 4 5 1 6 2");
    through_snapshot(&rig);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "7 3 4 5 1 6 2");
    /* What was deferred comes back to the end of its priority's. */
    assert_int_equal(assign(&rig, 4, 0, 1, 1, 1), APPLIED);
    assert_int_equal(outcome(&rig, 4, 0, 1, 1, "t"), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 8, .priority = 3}), APPLIED);
    pass(&rig, 300001);
    assert_string_equal(ready_of(&rig, "mx:hop0.example"), "7 3 8 4 5 1 6 2");
    for (uint32_t n = 1; n <= 8; n++) {
        struct delivery_view d = delivery_of(&rig, n, 0);
        assert_int_equal(assign(&rig, n, 0, d.attempt + 1, 1, 1), APPLIED);
        assert_int_equal(outcome(&rig, n, 0, d.attempt + 1, 1, "d"), APPLIED);
    }
    assert_null(state_ready_next_hop(rig.s, NULL));
    assert_int_equal(enqueue(&rig, (struct mail){.n = 9, .priority = 10}), APPLY_INVALID);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 9, .priority = -10}), APPLY_INVALID);
    rig_close(&rig);
}

/* ---- FUTURERELEASE, DELIVERBY ---- */

static void held_mail_waits_for_its_time(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    uint64_t due = rig.now + HOUR;
    assert_int_equal(
        enqueue(
            &rig,
            (struct mail){.n = 1, .recipients = 2, .hops = 2, .hold = HOUR, .assign_node = 1, .assign_incarnation = 1}),
        APPLIED);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED); /* the assignment could not be */
    assert_int_equal(delivery_of(&rig, 1, 1).due_ms, due);
    assert_int_equal(view_of(&rig, 1).release_ms, due);
    assert_int_equal(state_next_due_ms(rig.s), due);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLY_STALE);
    through_snapshot(&rig);
    assert_int_equal(view_of(&rig, 1).release_ms, due);
    pass(&rig, HOUR - 1);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED);
    pass(&rig, 1);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_READY);
    assert_int_equal(assign(&rig, 1, 0, 1, 1, 1), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .hold = UINT64_MAX}), APPLY_INVALID);
    /* The same id again, while it is held: it is there. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .hold = HOUR}), APPLY_DUPLICATE);
    rig_close(&rig);
}

/* The end comes while it is held (by-mode R with a time before its release): it is returned, never tried. */
static void held_mail_can_expire(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .hold = HOUR, .expire = rig.now + MINUTE}), APPLIED);
    pass(&rig, MINUTE);
    assert_int_equal(assign_notice(&rig, 1, MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1, 1, 1), APPLIED);
    pass(&rig, HOUR);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_DEFERRED);
    assert_int_equal(notice(&rig, 1, MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, 1, 1, 1, NULL), APPLIED);
    assert_null(state_find(rig.s, test_id(1)));
    rig_close(&rig);
}

static void extras_are_kept(void **arg)
{
    struct rig rig;
    struct state_counts before, after;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2}), APPLIED);
    state_counts(rig.s, &before);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 4, .priority = -3}), APPLIED);
    state_counts(rig.s, &after);
    /* Next to nothing for a priority: the lists of the next hop, once. */
    assert_true(after.memory_bytes - before.memory_bytes < 1500);
    struct mail mail = {.n = 6,
                        .user = "alice@example.net",
                        .flags = MESSAGE_REQUIRETLS | MESSAGE_BINARYMIME,
                        .deliver_by = 5 * MINUTE,
                        .deliver_by_mode = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY};
    uint64_t by = rig.now + 5 * MINUTE;
    assert_int_equal(enqueue(&rig, mail), APPLIED);
    for (int i = 0; i < 2; i++) {
        struct message_view v = view_of(&rig, 6);
        assert_string_equal(v.user, "alice@example.net");
        assert_int_equal(v.flags, MESSAGE_REQUIRETLS | MESSAGE_BINARYMIME);
        assert_int_equal(v.deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY);
        assert_int_equal(v.deliver_by_ms, by);
        assert_true(v.deliver_by_trace);
        assert_int_equal(v.release_ms, 0);
        assert_string_equal(v.envid, "env");
        assert_string_equal(v.client, "client [192.0.2.6]");
        v = view_of(&rig, 2);
        assert_string_equal(v.user, "");
        assert_int_equal(v.deliver_by_ms, 0);
        through_snapshot(&rig);
    }
    mail.n = 8;
    mail.deliver_by_mode = 3;
    assert_int_equal(enqueue(&rig, mail), APPLY_INVALID);
    rig_close(&rig);
}

/* ---- users ---- */

static void limit_is_exact_over_any_hour(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(rules_apply(&rig, limits_of(&rig, 1, 10, 0)), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 4, .user = "a"}), APPLIED);
    pass(&rig, 30 * MINUTE);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .recipients = 5, .user = "a"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .recipients = 2, .user = "a"}), APPLY_QUOTA);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .recipients = 1, .user = "a"}), APPLIED);
    assert_int_equal(state_user_recipients(rig.s, "a"), 10);
    /* Proposed again: neither charged nor refused. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .recipients = 1, .user = "a"}), APPLY_DUPLICATE);
    assert_int_equal(state_user_recipients(rig.s, "a"), 10);
    /* Others have their own; who is not limited is not counted; nobody is nobody. */
    assert_int_equal(enqueue(&rig, (struct mail){.n = 4, .recipients = 10, .user = "b"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 5, .recipients = 99, .user = "bulk"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 6, .recipients = 99}), APPLIED);
    assert_int_equal(state_user_recipients(rig.s, "bulk"), 0);
    through_snapshot(&rig);
    assert_int_equal(state_user_recipients(rig.s, "a"), 10);
    /* The first four count until their minute is an hour gone. */
    pass(&rig, 31 * MINUTE - 1);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 7, .recipients = 1, .user = "a"}), APPLY_QUOTA);
    pass(&rig, 1);
    assert_int_equal(state_user_recipients(rig.s, "a"), 6);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 7, .recipients = 4, .user = "a"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 8, .recipients = 1, .user = "a"}), APPLY_QUOTA);
    /* A cancel that came too late, and the message's end, give nothing back. */
    assert_int_equal(cancel(&rig, 7), APPLY_DUPLICATE);
    assert_int_equal(state_user_recipients(rig.s, "a"), 10);
    /* New rules count from what is known. */
    assert_int_equal(rules_apply(&rig, limits_of(&rig, 2, 12, 5)), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 9, .recipients = 3, .user = "a"}), APPLY_QUOTA);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 9, .recipients = 2, .user = "a"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 10, .recipients = 6, .user = "bulk"}), APPLY_QUOTA);
    through_snapshot(&rig);
    rig_close(&rig);
}

static void quiet_users_are_forgotten(void **arg)
{
    struct rig rig;
    struct state_counts c;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(rules_apply(&rig, limits_of(&rig, 1, 10, 0)), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .user = "a"}), APPLIED);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 2, .user = "b"}), APPLIED);
    pass(&rig, 30 * MINUTE);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 3, .user = "a"}), APPLIED);
    state_counts(rig.s, &c);
    assert_int_equal(c.users, 2);
    pass(&rig, 31 * MINUTE);
    state_counts(rig.s, &c);
    assert_int_equal(c.users, 1);
    assert_int_equal(state_user_recipients(rig.s, "a"), 1);
    through_snapshot(&rig);
    pass(&rig, 30 * MINUTE);
    state_counts(rig.s, &c);
    assert_int_equal(c.users, 0);
    rig_close(&rig);
}

/* An enqueue that came in parts is charged with its last one, and one that is refused not at all. */
static void parts_count_too(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(rules_apply(&rig, limits_of(&rig, 1, 10, 0)), APPLIED);
    for (uint32_t n = 1; n <= 2; n++) {
        Mailraft__Enqueue *e = enqueue_of(&rig, (struct mail){.n = n, .recipients = 6, .user = "a"});
        size_t len = mailraft__enqueue__get_packed_size(e);
        uint8_t *packed = build(&rig, len);
        mailraft__enqueue__pack(e, packed);
        for (uint32_t i = 0; i < 2; i++) {
            Mailraft__Op *op = new_op(&rig, MAILRAFT__OP__KIND_ENQUEUE_PART);
            BUILD(&rig, Mailraft__EnqueuePart, mailraft__enqueue_part__init, part);
            part->id = e->id;
            part->part = i;
            part->parts = 2;
            part->data = i == 0 ? bytes_of(&rig, packed, 20) : bytes_of(&rig, packed + 20, len - 20);
            op->enqueue_part = part;
            assert_int_equal(apply(&rig, op), i == 1 && n == 2 ? APPLY_QUOTA : APPLIED);
        }
    }
    assert_int_equal(state_user_recipients(rig.s, "a"), 6);
    rig_close(&rig);
}

/* ---- sites ---- */

static void sites_are_remembered(void **arg)
{
    struct rig rig;
    struct site_view v;
    (void)arg;
    open_v2(&rig);
    assert_false(state_site(rig.s, "a.example", &v));
    assert_int_equal(apply(&rig, site_op(&rig, "a.example", HOUR)), APPLIED);
    Mailraft__Op *op = site_op(&rig, "a.example", 0);
    op->site_memory->sts = sts_of(&rig, "20261122", 3, 2, 10 * HOUR);
    assert_int_equal(apply(&rig, op), APPLIED);
    uint64_t begin = rig.now;
    for (int i = 0; i < 2; i++) {
        assert_true(state_site(rig.s, "a.example", &v));
        assert_int_equal(v.tls_failed_until_ms, begin + HOUR);
        assert_string_equal(v.tls_reason, "no shared cipher");
        assert_string_equal(v.sts_id, "20261122");
        assert_int_equal(v.sts_mode, 3);
        assert_int_equal(v.n_sts_mx, 2);
        assert_string_equal(v.sts_mx[1], "mx1.example");
        assert_int_equal(v.sts_expires_ms, begin + 10 * HOUR);
        through_snapshot(&rig);
    }
    /* Each part has its own end. */
    pass(&rig, HOUR);
    assert_true(state_site(rig.s, "a.example", &v));
    assert_int_equal(v.tls_failed_until_ms, 0);
    assert_string_equal(v.tls_reason, "");
    assert_string_equal(v.sts_id, "20261122");
    /* Another policy takes the old one's place. */
    op->site_memory->sts = sts_of(&rig, "20261123", 2, 0, HOUR);
    assert_int_equal(apply(&rig, op), APPLIED);
    assert_true(state_site(rig.s, "a.example", &v));
    assert_string_equal(v.sts_id, "20261123");
    assert_int_equal(v.n_sts_mx, 0);
    through_snapshot(&rig);
    op->site_memory->sts = NULL;
    op->site_memory->sts_gone = true;
    assert_int_equal(apply(&rig, op), APPLIED);
    assert_false(state_site(rig.s, "a.example", &v));
    assert_null(v.sts_id);
    struct state_counts c;
    state_counts(rig.s, &c);
    assert_int_equal(c.sites, 0);
    through_snapshot(&rig);
    rig_close(&rig);
}

static void bad_sites_are_refused(void **arg)
{
    struct rig rig;
    char longer[300];
    struct state_counts c;
    (void)arg;
    open_v2(&rig);
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    Mailraft__Op *op = site_op(&rig, "", HOUR);
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op->site_memory->site = longer;
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op = site_op(&rig, "b", 0);
    op->site_memory->sts = sts_of(&rig, "id", 4, 1, HOUR);
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op->site_memory->sts = sts_of(&rig, "", 1, 1, HOUR);
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op->site_memory->sts = sts_of(&rig, "id", 1, STATE_MAX_STS_MX + 1, HOUR);
    assert_int_equal(apply(&rig, op), APPLY_INVALID);
    op->site_memory->sts = sts_of(&rig, "id", 1, STATE_MAX_STS_MX, HOUR);
    assert_int_equal(apply(&rig, op), APPLIED);
    /* A policy for ever lasts a year. */
    op->site_memory->sts = sts_of(&rig, "id", 1, 0, UINT64_MAX);
    assert_int_equal(apply(&rig, op), APPLIED);
    struct site_view v;
    assert_true(state_site(rig.s, "b", &v));
    assert_int_equal(v.sts_expires_ms, rig.now + UINT64_C(31557600) * 1000);
    state_counts(rig.s, &c);
    assert_int_equal(c.sites, 1);
    rig_close(&rig);
}

/* Full: the one that expires first makes room, also when that is the new one. */
static void sites_have_a_limit(void **arg)
{
    enum { EACH = 500 };
    struct rig rig;
    struct state_counts c;
    struct site_view v;
    Mailraft__Op *ops[EACH];
    uint8_t *data;
    (void)arg;
    open_v2(&rig);
    for (unsigned i = 0; i < STATE_MAX_SITES / EACH; i++) {
        for (unsigned k = 0; k < EACH; k++)
            ops[k] = site_op(&rig, text(&rig, "s%u.example", i * EACH + k), HOUR + i * EACH + k);
        size_t len = pack_batch(&rig, rig.now, ops, EACH, &data);
        assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
        state_arena_reset(&rig.arena);
    }
    state_counts(rig.s, &c);
    assert_int_equal(c.sites, STATE_MAX_SITES);
    assert_true(state_site(rig.s, "s0.example", &v));
    assert_int_equal(apply(&rig, site_op(&rig, "late.example", 2 * HOUR)), APPLIED);
    assert_false(state_site(rig.s, "s0.example", &v));
    assert_true(state_site(rig.s, "s1.example", &v) && state_site(rig.s, "late.example", &v));
    assert_int_equal(apply(&rig, site_op(&rig, "short.example", 1)), APPLIED);
    assert_false(state_site(rig.s, "short.example", &v));
    state_counts(rig.s, &c);
    assert_int_equal(c.sites, STATE_MAX_SITES);
    /* They go by time too, some with each entry. */
    for (int i = 0; i < STATE_MAX_SITES / STATE_RELEASE_BATCH + 1; i++) {
        size_t len = pack_batch(&rig, rig.now + 3 * HOUR, NULL, 0, &data);
        assert_int_equal(state_apply(rig.s, ++rig.index, data, len, NULL, NULL), 0);
    }
    state_check(rig.s);
    state_counts(rig.s, &c);
    assert_int_equal(c.sites, 0);
    rig_close(&rig);
}

/* ---- outcomes ---- */

/* Recipients 0, 1, 2, 3 have NOTIFY 0, 1 (never), 2 (success), 0: enqueue_of. */
static Mailraft__Outcome *with_dsn(struct rig *rig, uint32_t n, uint32_t attempt, const char *results, uint32_t dsn)
{
    Mailraft__Outcome *o = outcome_of(rig, n, 0, attempt, 1, results, 1);
    o->dsn = enqueue_of(rig, (struct mail){.n = dsn, .from = "", .flags = MESSAGE_DSN});
    return o;
}

static void success_is_told_once(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    struct mail mail = {.n = 1, .recipients = 4, .assign_node = 1, .assign_incarnation = 1};
    /* Everybody delivered, one wants to know; a failure beside it is told of by the same DSN. */
    assert_int_equal(enqueue(&rig, mail), APPLIED);
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 1, "ddd-", 101)), APPLIED);
    assert_non_null(state_find(rig.s, test_id(101)));
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLY_STALE); /* deferred: one is left */
    /* The same again changes nothing and tells nobody twice. */
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 1, "ddd-", 102)), APPLY_TERMINAL);
    assert_null(state_find(rig.s, test_id(102)));
    mail.n = 2;
    assert_int_equal(enqueue(&rig, mail), APPLIED);
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 2, 1, "fddd", 103)), APPLIED);
    assert_null(state_find(rig.s, test_id(2)));
    assert_non_null(state_find(rig.s, test_id(103)));
    rig_close(&rig);
}

static void late_success_is_told_if_it_counts(void **arg)
{
    struct rig rig;
    (void)arg;
    open_v2(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 4, .assign_node = 1, .assign_incarnation = 1}),
                     APPLIED);
    assert_int_equal(apply(&rig, release_op(&rig, 1, 0, 1, 1)), APPLIED);
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLIED);
    /* Of the released attempt: its deliveries count, with their DSN. A DSN that tells of a failure too does not. */
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 1, "f-d-", 101)), APPLY_STALE);
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 1, "--d-", 102)), APPLIED);
    assert_non_null(state_find(rig.s, test_id(102)));
    /* The running one says the same recipient: its DSN would tell it twice; without it the rest counts. */
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 2, "dddd", 103)), APPLY_TERMINAL);
    assert_null(state_find(rig.s, test_id(103)));
    /* One that does not want to know may be there already. */
    assert_int_equal(outcome_apply(&rig, outcome_of(&rig, 1, 0, 1, 1, "d---", 1)), APPLIED);
    assert_int_equal(outcome(&rig, 1, 0, 2, 1, "dddd"), APPLIED);
    assert_null(state_find(rig.s, test_id(1)));
    rig_close(&rig);
}

/* ---- an assignment that nobody ends ---- */

static void overdue_assignment_is_taken_back(void **arg)
{
    struct rig rig;
    struct state_counts c;
    (void)arg;
    open_v2(&rig);
    uint64_t since = rig.now;
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .assign_node = 1, .assign_incarnation = 1}), APPLIED);
    pass(&rig, MINUTE);
    assert_int_equal(delivery_of(&rig, 1, 0).assigned_ms, since);
    assert_int_equal(delivery_of(&rig, 1, 0).due_ms, 0);
    through_snapshot(&rig);
    assert_int_equal(delivery_of(&rig, 1, 0).assigned_ms, since);
    Mailraft__Op *op = release_op(&rig, 1, 0, 1, 1);
    op->release->overdue = true;
    rig_quiet(&rig);
    assert_int_equal(apply(&rig, op), APPLIED);
    assert_non_null(strstr(rig.told, "possibly doubt 1/0#1 by 1;"));
    assert_int_equal(apply(&rig, op), APPLY_STALE); /* proposed twice: counted once */
    state_counts(rig.s, &c);
    assert_int_equal(c.possibly_in_doubt, 1);
    assert_int_equal(delivery_of(&rig, 1, 0).state, DELIVERY_READY);
    assert_int_equal(delivery_of(&rig, 1, 0).assigned_ms, 0);
    /* Its node says so in the end: delivered is delivered. */
    assert_int_equal(outcome(&rig, 1, 0, 1, 1, "d"), APPLIED);
    assert_null(state_find(rig.s, test_id(1)));
    rig_close(&rig);
}

/* Below version 2 the state must be what programs of version 1 make of the same entries. */
static void nothing_new_below_version_2(void **arg)
{
    struct rig rig;
    (void)arg;
    rig_cluster(&rig);
    assert_int_equal(enqueue(&rig, (struct mail){.n = 1, .recipients = 4, .assign_node = 1, .assign_incarnation = 1}),
                     APPLIED);
    assert_int_equal(delivery_of(&rig, 1, 0).assigned_ms, 0);
    /* Its DSN rule: with a failure, deliveries are not looked at. */
    assert_int_equal(outcome_apply(&rig, outcome_of(&rig, 1, 0, 1, 1, "--d-", 1)), APPLIED);
    pass(&rig, 300001);
    assert_int_equal(assign(&rig, 1, 0, 2, 1, 1), APPLIED);
    assert_int_equal(outcome_apply(&rig, with_dsn(&rig, 1, 2, "fdd-", 101)), APPLIED);
    assert_non_null(state_find(rig.s, test_id(101)));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urgent_mail_goes_first),
        cmocka_unit_test(held_mail_waits_for_its_time),
        cmocka_unit_test(held_mail_can_expire),
        cmocka_unit_test(extras_are_kept),
        cmocka_unit_test(limit_is_exact_over_any_hour),
        cmocka_unit_test(quiet_users_are_forgotten),
        cmocka_unit_test(parts_count_too),
        cmocka_unit_test(sites_are_remembered),
        cmocka_unit_test(bad_sites_are_refused),
        cmocka_unit_test(sites_have_a_limit),
        cmocka_unit_test(success_is_told_once),
        cmocka_unit_test(late_success_is_told_if_it_counts),
        cmocka_unit_test(overdue_assignment_is_taken_back),
        cmocka_unit_test(nothing_new_below_version_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
