/* What SMTP's extensions ask of the cluster, through cluster.h: versions, hints about sites, held mail, DELIVERBY,
 * users' limits, and an attempt that its worker never ends. */
#include "cluster/state_internal.h"
#include "cluster/test_core.h"
#include "cluster/test_moved_clock.h"

static const char hop[] = "mx:there.example";

static void set_mode(struct world *w, enum mode mode)
{
    for (unsigned i = 0; i < w->n_nodes; i++)
        atomic_store(&w->nodes[i].mode, mode);
}

/* ---- sites, and the version in a cluster of new nodes ---- */

struct wish {
    struct mail mail;
    struct node *n;
};

static void run_wish(struct mail *mail)
{
    struct wish *wish = MR_CONTAINER(mail, struct wish, mail);
    Mailraft__SiteMemory *m = mr_malloc(sizeof(*m));
    mailraft__site_memory__init(m);
    m->site = mr_strdup("There.Example");
    m->tls_failed_for_ms = 3600 * 1000;
    m->tls_reason = mr_strdup("handshake failed");
    m->sts = mr_malloc(sizeof(*m->sts));
    mailraft__sts_policy__init(m->sts);
    m->sts->id = mr_strdup("20261122");
    m->sts->mode = 3;
    m->sts->n_mx = 2;
    m->sts->mx = mr_calloc(2, sizeof(char *));
    m->sts->mx[0] = mr_strdup("mx1.there.example");
    m->sts->mx[1] = mr_strdup("*.there.example");
    m->sts->max_age_for_ms = 86400 * 1000;
    cluster_remember(wish->n->port, m);
    free(wish);
}

static atomic_uint with_site;

static void see_site(const struct attempt *a)
{
    if (!a->site.tls_failed || a->site.sts_id == NULL)
        return;
    assert_string_equal(a->site.tls_reason, "handshake failed");
    assert_string_equal(a->site.sts_id, "20261122");
    assert_int_equal(a->site.sts_mode, 3);
    assert_int_equal(a->site.n_sts_mx, 2);
    assert_string_equal(a->site.sts_mx[0], "mx1.there.example");
    assert_string_equal(a->site.sts_mx[1], "*.there.example");
    assert_int_equal(a->site.sts_expires_ms / 1000000, (a->now_ms + 86400 * 1000) / 1000000);
    assert_string_equal(a->recipients[0].address, "r@example.net");
    atomic_fetch_add(&with_site, 1);
}

static void test_site(void **state)
{
    (void)state;
    struct world *w = world_open(3, 3600 * 1000, NULL);
    w->seen = see_site;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(cluster_version(w->nodes[i].c), STATE_VERSION);
    submit(&w->nodes[1], hop);
    WAIT_FOR(all_delivered(w, 0));
    assert_int_equal(atomic_load(&with_site), 0);
    for (unsigned i = 0; i < 3; i++) { /* the same from each: once in the table */
        struct wish *wish = mr_calloc(1, sizeof(*wish));
        wish->n = &w->nodes[i];
        wish->mail.run = run_wish;
        mailbox_post(wish->n->mailbox, &wish->mail);
    }
    for (unsigned i = 0; i < 3; i++)
        WAIT_FOR(counts_of(&w->nodes[i]).sites == 1);
    for (unsigned i = 0; i < 3; i++)
        submit(&w->nodes[i], hop);
    WAIT_FOR(all_delivered(w, 0));
    assert_int_equal(atomic_load(&with_site), 3);
    world_close(w);
}

/* ---- FUTURERELEASE, MT-PRIORITY, DELIVERBY ---- */

enum { HOLD_MS = 700, BY_MS = 600 };

static void hold(Mailraft__Enqueue *e)
{
    e->hold_for_ms = HOLD_MS;
    e->priority = 7;
    e->user = mr_strdup("alice");
    e->flags = MESSAGE_REQUIRETLS;
}

static void see_held(const struct attempt *a)
{
    assert_true(a->now_ms >= a->arrived_ms + HOLD_MS);
    assert_true(a->expire_ms == a->arrived_ms + HOLD_MS + 3600 * 1000);
    assert_int_equal(a->priority, 7);
    assert_string_equal(a->user, "alice");
    assert_int_equal(a->flags, MESSAGE_REQUIRETLS);
    assert_int_equal(a->deliver_by_ms, 0);
}

static void assert_shown(struct node *n, struct mr_id id)
{
    struct cluster_query q = {.question = CLUSTER_MESSAGE, .id = id};
    json_t *answer = ask_node(n->c, &q);
    assert_non_null(answer);
    assert_int_equal(json_integer_value(json_object_get(answer, "priority")), 7);
    assert_string_equal(json_string_value(json_object_get(answer, "user")), "alice");
    assert_string_equal(json_string_value(json_array_get(json_object_get(answer, "flags"), 0)), "requiretls");
    assert_true(json_is_string(json_object_get(answer, "hold")));
    assert_true(json_is_null(json_object_get(answer, "deliver_by")));
    json_decref(answer);
}

static void test_held(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    w->seen = see_held;
    struct message *m = submit_dressed(&w->nodes[0], hop, hold);
    assert_accepted(w, 0);
    assert_int_equal(counts_of(&w->nodes[0]).deferred, 1);
    assert_shown(&w->nodes[0], m->id);
    WAIT_FOR(all_delivered(w, 0));
    world_close(w);
}

static void by_return(Mailraft__Enqueue *e)
{
    e->deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN;
    e->deliver_by_for_ms = BY_MS;
    e->deliver_by_trace = true;
}

static void by_notify(Mailraft__Enqueue *e)
{
    e->deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
    e->deliver_by_for_ms = BY_MS;
}

static void by_notify_before(Mailraft__Enqueue *e)
{
    e->deliver_by = MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY;
}

static atomic_uint warned, returned;

static void see_notice(const struct notice *n)
{
    assert_int_equal(n->deliver_by_ms, n->arrived_ms + BY_MS);
    assert_true(n->now_ms >= n->deliver_by_ms && n->now_ms < n->deliver_by_ms + 60000);
    if (n->kind == MAILRAFT__NOTICE_KIND__NOTICE_WARN) {
        assert_int_equal(n->deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY);
        atomic_fetch_add(&warned, 1);
    } else {
        assert_int_equal(n->deliver_by, MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN);
        assert_int_equal(n->expire_ms, n->deliver_by_ms);
        atomic_fetch_add(&returned, 1);
    }
}

static void see_deadline(const struct attempt *a)
{
    bool before = a->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NOTIFY && a->deliver_by_ms == a->arrived_ms;
    assert_true(before || a->deliver_by_ms == a->arrived_ms + BY_MS);
    assert_int_equal(a->deliver_by_trace, a->deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN);
}

/* The rules warn never and expire after an hour: what comes comes from DELIVERBY. */
static void test_deliver_by(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    w->seen = see_deadline;
    w->noticed = see_notice;
    set_mode(w, DEFER);
    struct message *back = submit_dressed(&w->nodes[0], hop, by_return);
    struct message *told = submit_dressed(&w->nodes[0], hop, by_notify);
    struct message *before = submit_dressed(&w->nodes[0], hop, by_notify_before);
    assert_accepted(w, 0);
    WAIT_FOR(atomic_load(&back->notices) == 1 && atomic_load(&told->notices) == 1);
    assert_int_equal(atomic_load(&returned), 1);
    assert_int_equal(atomic_load(&warned), 1);
    assert_int_equal(atomic_load(&before->notices), 0);
    world_close(w);
}

/* ---- a user's limit ---- */

static void from_bob(Mailraft__Enqueue *e)
{
    e->user = mr_strdup("bob");
}

struct look_body {
    struct mr_id id;
    bool here;
};

static void look_body(struct cluster *c, void *arg)
{
    struct look_body *look = arg;
    look->here = spool_has(c->spool, look->id, NULL);
}

static bool body_here(struct node *n, struct mr_id id)
{
    struct look_body look = {.id = id};
    on_core(n->c, look_body, &look);
    return look.here;
}

static void look_limits(struct cluster *c, void *arg)
{
    *(bool *)arg = state_rules(c->state) != NULL && state_rules(c->state)->n_user_limits == 1;
}

static void test_quota(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    bool set = false;
    w->rules->n_user_limits = 1;
    w->rules->user_limits = mr_calloc(1, sizeof(*w->rules->user_limits));
    w->rules->user_limits[0] = mr_malloc(sizeof(*w->rules->user_limits[0]));
    mailraft__user_limit__init(w->rules->user_limits[0]);
    w->rules->user_limits[0]->user = mr_strdup("default");
    w->rules->user_limits[0]->recipients_per_hour = 10;
    cluster_reconfigure(w->nodes[0].c, w->rules);
    WAIT_FOR((on_core(w->nodes[0].c, look_limits, &set), set));
    unsigned refused = 0;
    for (unsigned i = 0; i < 25; i++)
        submit_dressed(&w->nodes[0], hop, from_bob);
    submit(&w->nodes[0], hop);
    for (unsigned i = 0; i < w->n_messages; i++) {
        struct message *m = &w->messages[i];
        WAIT_FOR(atomic_load(&m->decided));
        if (atomic_load(&m->status) == MR_REFUSED) {
            assert_int_equal(atomic_load(&m->reason), APPLY_QUOTA);
            refused++;
        }
    }
    assert_int_equal(refused, 15);
    assert_int_equal(atomic_load(&w->messages[25].status), 0);
    /* What was refused is known to be gone: the collector need not wait for the grace period. */
    WAIT_FOR(counts_of(&w->nodes[0]).finished == w->n_messages);
    for (unsigned i = 0; i < w->n_messages; i++)
        WAIT_FOR(!body_here(&w->nodes[0], w->messages[i].id));
    world_close(w);
}

/* ---- an attempt that nobody ends ---- */

/* PROTOCOL.md 5.10: the worker lives and beats, but the attempt never ends. */
static void test_overdue(void **state)
{
    (void)state;
    struct world *w = world_open(1, 10 * 3600 * 1000, &moved_clock);
    struct node *n = &w->nodes[0];
    atomic_store(&n->keeps, true);
    set_mode(w, HOLD);
    struct message *m = submit(n, hop);
    assert_accepted(w, 0);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    set_mode(w, DELIVER);
    /* Past the deadline, but its last dot may still wait for a reply. */
    atomic_fetch_add(&ahead_ns, (SCHED_DEADLINE_MS + 10 * 60 * 1000) * MR_NS_PER_MS);
    WAIT_FOR(node_ready(n));
    struct message *later;
    do { /* a body that begins before an entry has brought the new time along is too old */
        later = submit(n, hop);
        WAIT_FOR(atomic_load(&later->decided));
    } while (atomic_load(&later->status) != 0);
    WAIT_FOR(atomic_load(&later->delivered) > 0);
    assert_int_equal(atomic_load(&m->attempts), 1);
    assert_int_equal(counts_of(n).possibly_in_doubt, 0);
    atomic_fetch_add(&ahead_ns, 7 * 60 * 1000 * MR_NS_PER_MS);
    WAIT_FOR(atomic_load(&m->delivered) > 0);
    assert_true(atomic_load(&m->attempts) >= 2); /* before the lease is back, some are released at once */
    assert_int_equal(counts_of(n).possibly_in_doubt, 1);
    world_close(w);
}

static void to_forty(Mailraft__Enqueue *e)
{
    e->recipients = mr_realloc(e->recipients, 40 * sizeof(*e->recipients));
    for (; e->n_recipients < 40; e->n_recipients++) {
        Mailraft__Recipient *r = mr_malloc(sizeof(*r));
        mailraft__recipient__init(r);
        r->address.data = mr_memdup("r@example.net", 13);
        r->address.len = 13;
        e->recipients[e->n_recipients] = r;
    }
}

/* One that may take longer stands before it in the order of assignment: each has its own time. */
static void test_overdue_each_by_its_own_deadline(void **state)
{
    (void)state;
    struct world *w = world_open(1, 10 * 3600 * 1000, &moved_clock);
    struct node *n = &w->nodes[0];
    atomic_store(&n->keeps, true);
    set_mode(w, HOLD);
    struct message *large = submit_dressed(n, hop, to_forty);
    assert_accepted(w, 0);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    struct message *small = submit(n, hop);
    assert_accepted(w, 1);
    WAIT_FOR(atomic_load(&n->n_held) == 2);
    set_mode(w, DELIVER);
    atomic_fetch_add(&ahead_ns, (SCHED_DEADLINE_MS + 20 * 60 * 1000) * MR_NS_PER_MS);
    WAIT_FOR(atomic_load(&small->delivered) > 0);
    assert_int_equal(counts_of(n).possibly_in_doubt, 1);
    assert_int_equal(atomic_load(&large->attempts), 1);
    atomic_fetch_add(&ahead_ns, 39 * SCHED_DEADLINE_RCPT_MS * MR_NS_PER_MS);
    WAIT_FOR(atomic_load(&large->delivered) > 0);
    assert_int_equal(counts_of(n).possibly_in_doubt, 2);
    world_close(w);
}

/* ---- while a member knows version 1 only (PROTOCOL.md 4.6) ---- */

struct fates {
    atomic_int n, versions, applied;
};
static struct fates fates;

static void fate(void *arg, int status, enum apply_result reason)
{
    (void)arg;
    assert_int_equal(status, 0);
    if (reason == APPLY_VERSION)
        atomic_fetch_add(&fates.versions, 1);
    else if (reason == APPLIED)
        atomic_fetch_add(&fates.applied, 1);
    atomic_fetch_add(&fates.n, 1);
}

static void propose(struct cluster *c, struct world *w, void (*dress)(Mailraft__Enqueue *e))
{
    uint8_t checksum[16] = {0};
    Mailraft__Body *body = mr_malloc(sizeof(*body));
    mailraft__body__init(body);
    body->checksum.data = mr_memdup(checksum, sizeof(checksum));
    body->checksum.len = sizeof(checksum);
    body->stamp_ms = state_now_ms(c->state);
    body->n_holders = 1;
    body->holders = mr_calloc(1, sizeof(*body->holders));
    body->holders[0] = c->self;
    struct message *m = new_message(&w->nodes[0], hop);
    m->dress = dress;
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_ENQUEUE;
    op->enqueue = make_enqueue(m, body);
    op->enqueue->acceptor = c->self;
    assert_int_equal(proposals_add(c->proposals, op, core_now(c), UINT64_MAX, fate, NULL, NULL), 0);
}

static void look_old(struct cluster *c, void *arg)
{
    struct world *w = arg;
    c->state->version = 1; /* as if a member had said so; the leader proposes 2 again, later */
    propose(c, w, hold);
    propose(c, w, by_return);
    propose(c, w, from_bob);
}

static void see_nobody(const struct attempt *a)
{
    assert_string_equal(a->user, "");
}

static void test_old_member(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    w->seen = see_nobody;
    on_core(w->nodes[0].c, look_old, w);
    WAIT_FOR(atomic_load(&fates.n) == 3);
    assert_int_equal(atomic_load(&fates.versions), 2);
    assert_int_equal(atomic_load(&fates.applied), 1);
    WAIT_FOR(cluster_version(w->nodes[0].c) == STATE_VERSION);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_site),       cmocka_unit_test(test_held),
        cmocka_unit_test(test_deliver_by), cmocka_unit_test(test_quota),
        cmocka_unit_test(test_overdue),    cmocka_unit_test(test_overdue_each_by_its_own_deadline),
        cmocka_unit_test(test_old_member),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
