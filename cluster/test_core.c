/* Three nodes, and one, as whole clusters below cluster.h: what the parts do together. */
#include "cluster/test_core.h"
#include "cluster/test_moved_clock.h"

static const char hop[] = "smtp://127.0.0.1:25";

static void deliver_some(struct world *w, unsigned each)
{
    unsigned from = w->n_messages;
    for (unsigned i = 0; i < each; i++)
        for (unsigned k = 0; k < w->n_nodes; k++)
            if (w->nodes[k].c != NULL)
                submit(&w->nodes[k], hop);
    assert_accepted(w, from);
    WAIT_FOR(all_delivered(w, from));
    for (unsigned i = from; i < w->n_messages; i++)
        assert_int_equal(atomic_load(&w->messages[i].delivered), 1);
}

static void set_mode(struct world *w, enum mode mode)
{
    for (unsigned i = 0; i < w->n_nodes; i++)
        atomic_store(&w->nodes[i].mode, mode);
}

/* Until this node holds an attempt; those that others get are delivered. Returns the first message's number. */
static unsigned hold_some(struct world *w, struct node *n)
{
    unsigned from = w->n_messages;
    atomic_store(&n->mode, HOLD);
    while (atomic_load(&n->n_held) == 0) {
        unsigned first = w->n_messages;
        for (unsigned i = 0; i < 5; i++)
            submit(n, hop);
        assert_accepted(w, first);
        for (unsigned i = first; i < w->n_messages; i++)
            WAIT_FOR(atomic_load(&w->messages[i].attempts) > 0);
    }
    atomic_store(&n->mode, DELIVER);
    return from;
}

static void check_status(struct node *n, const char *role)
{
    struct cluster_query q = {.question = CLUSTER_STATUS};
    json_t *answer = ask_node(n->c, &q);
    assert_non_null(answer);
    assert_string_equal(json_string_value(json_object_get(answer, "role")), role);
    assert_true(json_is_true(json_object_get(answer, "quorum")));
    json_decref(answer);
}

static void try_release(struct world *w)
{
    unsigned from = w->n_messages;
    set_mode(w, RELEASE);
    deliver_some(w, 10);
    for (unsigned i = from; i < w->n_messages; i++)
        assert_true(atomic_load(&w->messages[i].attempts) >= 2);
    set_mode(w, DELIVER);
}

/* Its attempts go elsewhere, and it comes back by itself as a new incarnation (5.3, 5.10). */
static void try_hung_worker(struct world *w, struct node *n)
{
    uint64_t before = atomic_load(&n->c->incarnation);
    unsigned ends = atomic_load(&n->lease_ends);
    unsigned from = hold_some(w, n);
    atomic_store(&n->beats, false);
    WAIT_FOR(all_delivered(w, from));
    assert_true(atomic_load(&n->lease_ends) > ends);
    atomic_store(&n->beats, true);
    WAIT_FOR(node_ready(n));
    assert_true(atomic_load(&n->c->incarnation) > before);
}

/* Shutdown's time is up while attempts run: nothing is given to others before the lease here is given up. */
static void try_close_leader(struct world *w)
{
    struct node *leader;
    WAIT_FOR((leader = leader_of(w)) != NULL);
    unsigned from = hold_some(w, leader);
    unsigned ends = atomic_load(&leader->lease_ends);
    node_close(leader, 100);
    assert_true(atomic_load(&leader->lease_ends) > ends);
    WAIT_FOR(all_delivered(w, from));
    deliver_some(w, 10);
    node_open(leader);
    WAIT_FOR(node_ready(leader));
    deliver_some(w, 10);
}

static void test_three(void **state)
{
    (void)state;
    struct world *w = world_open(3, 3600 * 1000, NULL);
    struct node *leader;
    deliver_some(w, 10);
    WAIT_FOR((leader = leader_of(w)) != NULL);
    check_status(leader, "leader");
    struct node *follower = leader == &w->nodes[0] ? &w->nodes[1] : &w->nodes[0];
    check_status(follower, "follower");
    deliver_some(w, 300);
    for (unsigned i = 0; i < w->n_nodes; i++)
        WAIT_FOR(counts_of(&w->nodes[i]).messages == 0);
    try_release(w);
    try_hung_worker(w, follower);
    try_close_leader(w);
    for (unsigned i = 0; i < w->n_messages; i++)
        assert_int_equal(atomic_load(&w->messages[i].delivered), 1);
    world_close(w);
}

/* ---- one node ---- */

/* A jump looks like a pause of everything: until the lease is new, the worker has been heard, and time was moved on. */
static void look_settled(struct cluster *c, void *arg)
{
    uint64_t now = core_now(c);
    *(bool *)arg = c->lease_held && now < atomic_load(&c->lease_end_ns) &&
                   now - atomic_load(&c->ports[0]->beat_ns) < MR_NS_PER_S &&
                   state_now_ms(c->state) + 2 * CORE_IDLE_ENTRY_MS > mr_wall_ms(c->clock);
}

/* The first message after a quiet night: its body's stamp must not be yesterday's (3.4). */
static void test_idle(void **state)
{
    (void)state;
    atomic_store(&ahead_ns, 0);
    struct world *w = world_open(1, 3600 * 1000, &moved_clock);
    for (unsigned i = 0; i < 3; i++) {
        deliver_some(w, 2);
        WAIT_FOR(counts_of(&w->nodes[0]).messages == 0);
        /* Past what is remembered of those, so that nothing falls due by itself; then long quiet. */
        for (unsigned k = 0; k < 2; k++) {
            atomic_fetch_add(&ahead_ns, 2 * STATE_GRACE_MS * MR_NS_PER_MS);
            bool settled = false;
            WAIT_FOR((on_core(w->nodes[0].c, look_settled, &settled), settled));
            WAIT_FOR(counts_of(&w->nodes[0]).finished == 0);
        }
    }
    deliver_some(w, 2);
    world_close(w);
}

/* A client so slow that committed time goes on by more than the grace period between two pieces of its body. */
struct slow_body {
    struct mail mail;
    struct message *m;
    struct cluster_body *body;
    atomic_bool written;
};
enum { SLOW_PIECE = 1000 };

static void on_slow_written(void *arg, int status)
{
    struct slow_body *b = arg;
    assert_int_equal(status, 0);
    atomic_store(&b->written, true);
}

static void run_slow_begin(struct mail *mail)
{
    struct slow_body *b = MR_CONTAINER(mail, struct slow_body, mail);
    b->body = cluster_body_begin(b->m->node->port, b->m->id);
    cluster_body_piece(b->body, mr_calloc(1, SLOW_PIECE), SLOW_PIECE, on_slow_written, b);
}

static void run_slow_end(struct mail *mail)
{
    static const uint8_t zeros[2 * SLOW_PIECE];
    struct slow_body *b = MR_CONTAINER(mail, struct slow_body, mail);
    XXH128_canonical_t checksum;
    XXH128_canonicalFromHash(&checksum, XXH3_128bits(zeros, sizeof(zeros)));
    cluster_body_submit(b->body, mr_calloc(1, SLOW_PIECE), SLOW_PIECE, sizeof(zeros), checksum.digest,
                        make_enqueue(b->m, NULL), on_submitted, b->m);
}

struct stamps {
    struct mr_id id;
    uint64_t envelope_ms, copy_ms;
};

static void look_stamps(struct cluster *c, void *arg)
{
    struct stamps *stamps = arg;
    struct message_view v;
    struct spool_info info;
    const struct state_message *m = state_find(c->state, stamps->id);
    assert_non_null(m);
    state_message_view(m, &v);
    assert_true(spool_has(c->spool, stamps->id, &info));
    stamps->envelope_ms = v.body_stamp_ms;
    stamps->copy_ms = info.stamp_ms;
}

/* PROTOCOL.md 3.4: the envelope has the stamp of the copies, which is that of the last piece. */
static void test_slow_body(void **state)
{
    (void)state;
    atomic_store(&ahead_ns, 0);
    struct world *w = world_open(1, 3600 * 1000, &moved_clock);
    struct node *n = &w->nodes[0];
    bool settled = false;
    set_mode(w, HOLD);
    struct slow_body b = {.m = new_message(n, hop), .mail.run = run_slow_begin};
    mailbox_post(n->mailbox, &b.mail);
    WAIT_FOR(atomic_load(&b.written));
    atomic_fetch_add(&ahead_ns, (STATE_GRACE_MS + 2 * CORE_IDLE_ENTRY_MS) * MR_NS_PER_MS);
    WAIT_FOR((on_core(n->c, look_settled, &settled), settled));
    b.mail.run = run_slow_end;
    mailbox_post(n->mailbox, &b.mail);
    assert_accepted(w, 0);
    struct stamps stamps = {.id = b.m->id};
    on_core(n->c, look_stamps, &stamps);
    assert_true(stamps.envelope_ms == stamps.copy_ms);
    world_close(w);
}

enum { FULL = 1000 };

static void look_stage(struct cluster *c, void *arg)
{
    struct world *w = arg;
    uint8_t checksum[16] = {0};
    for (unsigned i = 0; i < FULL; i++) {
        Mailraft__Body *body = mr_malloc(sizeof(*body));
        mailraft__body__init(body);
        body->checksum.data = mr_memdup(checksum, sizeof(checksum));
        body->checksum.len = sizeof(checksum);
        body->stamp_ms = state_now_ms(c->state);
        body->n_holders = 1;
        body->holders = mr_calloc(1, sizeof(*body->holders));
        body->holders[0] = c->self;
        Mailraft__Op *op = mr_malloc(sizeof(*op));
        mailraft__op__init(op);
        op->kind_case = MAILRAFT__OP__KIND_ENQUEUE;
        op->enqueue = make_enqueue(new_message(&w->nodes[0], hop), body);
        op->enqueue->acceptor = c->self;
        assert_int_equal(core_lead_stage(c, op, 0, 0), 0);
    }
}

/* Small messages fill entries to the brim; with what the leader fills in they must still be entries (4.5). */
static void test_full_entries(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    w->rules->limits[0]->connections = 0; /* each is assigned with its enqueue */
    cluster_reconfigure(w->nodes[0].c, w->rules);
    deliver_some(w, 1);
    on_core(w->nodes[0].c, look_stage, w);
    WAIT_FOR(all_delivered(w, 0));
    world_close(w);
}

/* An outcome whose DSN is refused ends its attempt all the same (7.2). */
static void test_refused_dsn(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    set_mode(w, BOUNCE);
    submit(n, hop);
    assert_accepted(w, 0);
    WAIT_FOR(counts_of(n).deferred == 1);
    assert_int_equal(counts_of(n).assigned, 0);
    assert_int_equal(counts_of(n).failed, 0);
    world_close(w);
}

static void look_notice(struct cluster *c, void *arg)
{
    const struct state_message *m = state_next_message(c->state, 0);
    struct message_view v;
    assert_non_null(m);
    state_message_view(m, &v);
    *(bool *)arg = v.notice_kind != MAILRAFT__NOTICE_KIND__NOTICE_NONE;
}

/* A notice whose DSN is refused is given back, not kept for ever (7.3). */
static void test_refused_notice(void **state)
{
    (void)state;
    struct world *w = world_open(1, 1500, NULL);
    struct node *n = &w->nodes[0];
    bool assigned = true;
    set_mode(w, DEFER);
    struct message *m = submit(n, hop);
    assert_accepted(w, 0);
    WAIT_FOR(atomic_load(&m->notices) == 1);
    WAIT_FOR((on_core(n->c, look_notice, &assigned), !assigned));
    assert_int_equal(counts_of(n).messages, 1);
    world_close(w);
}

/* Rules that fit into no entry are refused at once, with a text. */
static void test_too_many_rules(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    Mailraft__Rules *r = make_rules(1000);
    char dir[] = "/tmp/mailraft-core-XXXXXX", error[500] = "";
    assert_non_null(mkdtemp(dir));
    r->n_routes = 3000;
    r->routes = mr_calloc(r->n_routes, sizeof(*r->routes));
    for (unsigned i = 0; i < r->n_routes; i++) {
        r->routes[i] = mr_malloc(sizeof(*r->routes[i]));
        mailraft__route__init(r->routes[i]);
        r->routes[i]->domain = mr_asprintf("domain%u.example", i);
        r->routes[i]->route = mr_strdup("smtp://127.0.0.1:25");
    }
    cluster_reconfigure(w->nodes[0].c, r);
    deliver_some(w, 1);
    struct cluster_config config = {
        .name = "mx9", .data_dir = dir, .initial = w->members, .n_initial = 1, .insecure = true, .rules = r};
    struct cluster *c = NULL;
    assert_int_equal(cluster_open(&c, &config, error, sizeof(error)), MR_LIMIT);
    assert_non_null(strstr(error, "too many"));
    (void)rmdir(dir);
    mailraft__rules__free_unpacked(r, NULL);
    world_close(w);
}

/* As when the leader has told the fate of an attempt, and then comes a snapshot that is older than it. */
static void end_and_restore(struct cluster *c, void *arg)
{
    const struct message *m = arg;
    core_attempts_end(c, m->id, 0, 1, false);
    core_attempts_restored(c);
}

static void look_ended(struct cluster *c, void *arg)
{
    *(uint64_t *)arg = c->n_ended + c->n_running;
}

static uint64_t remembered(struct node *n)
{
    uint64_t count;
    on_core(n->c, look_ended, &count);
    return count;
}

static void run_give_back(struct mail *mail)
{
    release_held(MR_CONTAINER(mail, struct stop, mail)->n);
}

/* Each attempt runs once, also when the state falls behind its end; and it is forgotten when the state has moved on. */
static void test_restored(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    atomic_store(&n->mode, HOLD);
    struct message *m = submit(n, "smtp://127.0.0.1:25");
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    on_core(n->c, end_and_restore, m);
    assert_true(remembered(n) == 1);
    atomic_store(&n->mode, DELIVER);
    struct message *other = submit(n, "smtp://127.0.0.1:26"); /* a worker handles in order */
    WAIT_FOR(atomic_load(&other->delivered) == 1);
    assert_int_equal(atomic_load(&m->attempts), 1);
    struct stop give_back = {.n = n, .mail.run = run_give_back};
    mailbox_post(n->mailbox, &give_back.mail);
    WAIT_FOR(atomic_load(&m->delivered) == 1);
    assert_int_equal(atomic_load(&m->attempts), 2);
    WAIT_FOR(remembered(n) == 0);
    world_close(w);
}

/* ---- a transfer and the bodies on one link ---- */

struct crossing {
    struct cluster *c; /* the sender */
    uint32_t to;
    uint8_t *bytes;
    int waits;    /* result of the wait for room as the bodies plane waits */
    bool waiting; /* the transfer, behind it */
    uint64_t begun;
    atomic_bool done, told;
    atomic_int status;
};
enum { CROSSING = 64 << 20 /* more than any socket buffer takes */, PUSHED = 40, PUSHED_PIECE = 256 << 10 };

static void on_other_room(void *arg, int status)
{
    struct crossing *x = arg;
    (void)status;
    atomic_store(&x->told, true);
}

static void on_crossed(void *arg, int status)
{
    struct crossing *x = arg;
    atomic_store(&x->status, status);
    atomic_store(&x->done, true);
}

static void look_self(struct cluster *c, void *arg)
{
    *(uint32_t *)arg = c->self;
}

/* First pieces of bodies, as of new mail: more than a socket takes, and than a transfer alone would queue. */
static int push_bodies(struct cluster *c, const struct crossing *x)
{
    struct link_buffer tail = {x->bytes, PUSHED_PIECE};
    int rc = 0;
    for (unsigned i = 0; i < PUSHED && rc == 0; i++) {
        struct mr_id id = mr_id_random();
        Mailraft__BodyPiece piece = MAILRAFT__BODY_PIECE__INIT;
        piece.id = (ProtobufCBinaryData){MR_ID_SIZE, id.bytes};
        piece.stamp_ms = state_now_ms(c->state);
        rc = links_send_message(c->links, x->to, LINK_BULK, FRAME_BODY_PIECE, &piece.base, &tail, 1);
    }
    return rc == 0 && links_queued(c->links, x->to, LINK_BULK) < 2 * CORE_TRANSFER_SLICE ? MR_INVAL : rc;
}

/* As bodies_serve does while the peer has much to read; here it is never little enough. */
static void look_cross(struct cluster *c, void *arg)
{
    struct crossing *x = arg;
    static const char head[] = "no message of Raft's";
    struct replica_buffer tail = {x->bytes, CROSSING};
    x->waits = push_bodies(c, x);
    if (x->waits == 0)
        x->waits = links_when_drained(c->links, x->to, LINK_BULK, 0, on_other_room, x);
    core_raft_send(c, x->to, true, head, sizeof(head), &tail, 1, on_crossed, x);
    x->waiting = c->transfers[x->to] != NULL;
    x->begun = x->waiting ? c->transfers[x->to]->offset : 0;
}

/* On the receiver's thread, which so reads nothing: the sender has to wait for room. */
static void look_while_sent(struct cluster *c, void *arg)
{
    struct crossing *x = arg;
    (void)c;
    on_core(x->c, look_cross, x);
}

/* A snapshot's transfer waits for room beside the bodies; it does not fail because they wait already (8.2). */
static void test_transfer_beside_bodies(void **state)
{
    (void)state;
    struct world *w = world_open(3, 3600 * 1000, NULL);
    struct node *leader;
    WAIT_FOR((leader = leader_of(w)) != NULL);
    struct node *from = leader == &w->nodes[0] ? &w->nodes[1] : &w->nodes[0];
    struct node *to = leader == &w->nodes[2] ? &w->nodes[1] : &w->nodes[2];
    struct crossing x = {.c = from->c, .bytes = mr_calloc(1, CROSSING)};
    on_core(to->c, look_self, &x.to);
    on_core(to->c, look_while_sent, &x);
    WAIT_FOR(atomic_load(&x.done));
    assert_int_equal(x.waits, 0);
    assert_int_equal(atomic_load(&x.status), 0);
    assert_true(x.waiting);
    assert_true(x.begun > 0); /* its slices go between the bodies, not after them */
    world_close(w);
    assert_true(atomic_load(&x.told)); /* at the latest when the link ends */
    free(x.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_slow_body),
        cmocka_unit_test(test_full_entries),
        cmocka_unit_test(test_refused_dsn),
        cmocka_unit_test(test_refused_notice),
        cmocka_unit_test(test_too_many_rules),
        cmocka_unit_test(test_restored),
        cmocka_unit_test(test_transfer_beside_bodies),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
