/* The queue's largest size (core_full.c): clusters that run full, and what the leader lets in where. */
#include "cluster/test_core.h"

enum { LIMIT = 1 << 20 };
static const char hop[] = "smtp://127.0.0.1:25";

/* ---- a cluster that runs full ---- */

static void look_bytes(struct cluster *c, void *arg)
{
    *(uint64_t *)arg = state_bytes(c->state);
}

static uint64_t bytes_of_node(struct node *n)
{
    uint64_t bytes;
    on_core(n->c, look_bytes, &bytes);
    return bytes;
}

/* Decided, and nothing but a yes and "full". Returns the number of those accepted. */
static unsigned count_accepted(struct world *w, unsigned from)
{
    unsigned accepted = 0;
    for (unsigned i = from; i < w->n_messages; i++) {
        struct message *m = &w->messages[i];
        WAIT_FOR(atomic_load(&m->decided));
        if (atomic_load(&m->status) == 0) {
            accepted++;
        } else {
            assert_int_equal(atomic_load(&m->status), MR_REFUSED);
            assert_int_equal(atomic_load(&m->reason), APPLY_FULL);
        }
    }
    return accepted;
}

/* By all nodes in turn; sessions would ask for readiness before, these do not. */
static unsigned submit_round(struct world *w, unsigned each)
{
    unsigned from = w->n_messages;
    for (unsigned i = 0; i < each; i++)
        for (unsigned k = 0; k < w->n_nodes; k++)
            if (w->nodes[k].c != NULL)
                submit(&w->nodes[k], hop);
    return count_accepted(w, from);
}

static void assert_all_full(struct world *w)
{
    for (unsigned k = 0; k < w->n_nodes; k++)
        if (w->nodes[k].c != NULL) {
            WAIT_FOR(cluster_readiness(w->nodes[k].c) == CLUSTER_QUEUE_FULL);
            assert_true(bytes_of_node(&w->nodes[k]) <= LIMIT + LIMIT / 16); /* what runs, what is remembered */
        }
}

static void run_let_go(struct mail *mail)
{
    struct node *n = MR_CONTAINER(mail, struct stop, mail)->n;
    free(MR_CONTAINER(mail, struct stop, mail));
    release_held(n);
}

static void let_go(struct node *n)
{
    struct stop *s = mr_malloc(sizeof(*s));
    s->n = n;
    s->mail.run = run_let_go;
    atomic_store(&n->mode, DELIVER);
    mailbox_post(n->mailbox, &s->mail);
}

static void look_unknown(struct cluster *c, void *arg)
{
    const struct message *m = arg;
    bool cancelled = false;
    assert_null(state_find(c->state, m->id));
    assert_true(state_is_finished(c->state, m->id, &cancelled) && cancelled);
}

/* Not one of the refused is in the queue, and none can get in any more. */
static void assert_refused_are_out(struct world *w, struct node *n)
{
    for (unsigned i = 0; i < w->n_messages; i++)
        if (atomic_load(&w->messages[i].status) != 0)
            on_core(n->c, look_unknown, &w->messages[i]);
}

static void test_full(void **state)
{
    (void)state;
    struct world *w = world_open_small(3, 3600 * 1000, NULL, LIMIT);
    struct node *leader;
    unsigned accepted = 0, refused = 0;
    for (unsigned i = 0; i < w->n_nodes; i++)
        atomic_store(&w->nodes[i].mode, HOLD);
    while (refused < 30) {
        unsigned n = submit_round(w, 30);
        accepted += n;
        refused += 90 - n;
    }
    assert_true(accepted > 500);
    assert_all_full(w);
    WAIT_FOR((leader = leader_of(w)) != NULL);
    assert_int_equal(counts_of(leader).accepted, accepted);
    assert_refused_are_out(w, leader);
    /* Another leader knows it too, from its own state. */
    struct node *old = leader;
    node_close(old, 1000);
    WAIT_FOR((leader = leader_of(w)) != NULL);
    assert_all_full(w);
    /* What was assigned to the old one is taken back, which makes room for a few. */
    unsigned few = 0;
    for (unsigned n; (n = submit_round(w, 10)) > 0;)
        few += n;
    assert_true(few < accepted / 4);
    assert_all_full(w);
    /* Deliveries make room. */
    for (unsigned i = 0; i < w->n_nodes; i++) {
        atomic_store(&w->nodes[i].mode, DELIVER);
        if (w->nodes[i].c != NULL)
            let_go(&w->nodes[i]);
    }
    node_open(old);
    for (unsigned i = 0; i < w->n_nodes; i++)
        WAIT_FOR(node_ready(&w->nodes[i]));
    assert_int_equal(submit_round(w, 10), 30);
    for (unsigned i = 0; i < w->n_messages; i++)
        if (atomic_load(&w->messages[i].status) == 0)
            WAIT_FOR(atomic_load(&w->messages[i].delivered) > 0);
        else
            assert_int_equal(atomic_load(&w->messages[i].attempts), 0);
    world_close(w);
}

/* ---- what is let in where ---- */

/* So that the state is so many bytes above the limit for clients (below: negative). */
static void above(struct cluster *c, int64_t bytes)
{
    c->config.max_state = (uint64_t)((int64_t)(state_bytes(c->state) + c->lead.growing) - bytes);
}

static Mailraft__Enqueue *test_enqueue(uint32_t n)
{
    struct message m = {.next_hop = hop};
    Mailraft__Body *body = mr_malloc(sizeof(*body));
    memset(m.id.bytes, 0xee, sizeof(m.id.bytes));
    memcpy(m.id.bytes, &n, sizeof(n));
    mailraft__body__init(body);
    body->stamp_ms = 12345;
    return make_enqueue(&m, body);
}

static Mailraft__Op *test_op(Mailraft__Op__KindCase kind, void *message)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = kind;
    op->enqueue = message;
    return op;
}

static Mailraft__Op *test_outcome(bool dsn, size_t reply)
{
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    mailraft__outcome__init(o);
    o->n_results = 1;
    o->results = mr_calloc(1, sizeof(*o->results));
    o->results[0] = mr_malloc(sizeof(*o->results[0]));
    mailraft__recipient_result__init(o->results[0]);
    o->results[0]->reply.data = mr_calloc(reply + 1, 1);
    o->results[0]->reply.len = reply;
    o->results[0]->status = mr_strdup("5.0.0");
    if (dsn)
        o->dsn = test_enqueue(7);
    return test_op(MAILRAFT__OP__KIND_OUTCOME, o);
}

static Mailraft__Op *test_notice(Mailraft__NoticeKind kind, bool dsn)
{
    Mailraft__Notice *n = mr_malloc(sizeof(*n));
    mailraft__notice__init(n);
    n->kind = kind;
    n->dsn = dsn ? test_enqueue(8) : NULL;
    return test_op(MAILRAFT__OP__KIND_NOTICE, n);
}

static void assert_admits(struct cluster *c, Mailraft__Op *op, enum core_growth expected)
{
    uint64_t bytes;
    assert_int_equal(core_full_admit(c, op, &bytes), expected);
    mailraft__op__free_unpacked(op, NULL);
}

static void look_enqueue(struct cluster *c, void *arg)
{
    (void)arg;
    Mailraft__Enqueue *e = test_enqueue(5);
    uint64_t size = state_enqueue_bytes(e), bytes;
    Mailraft__Op *op = test_op(MAILRAFT__OP__KIND_ENQUEUE, e);
    above(c, -(int64_t)size);
    assert_int_equal(core_full_admit(c, op, &bytes), CORE_GROWS);
    assert_true(bytes == size);
    /* What is on its way counts. */
    c->lead.growing += 1;
    uint64_t refused = c->full_refused;
    assert_int_equal(core_full_admit(c, op, &bytes), CORE_CANCELS);
    c->lead.growing -= 1;
    assert_true(bytes == 0 && c->full_refused == refused + 1);
    assert_int_equal(op->kind_case, MAILRAFT__OP__KIND_CANCEL);
    assert_int_equal(op->cancel->id.len, MR_ID_SIZE);
    assert_int_equal(op->cancel->id.data[0], 5);
    assert_true(op->cancel->stamp_ms == 12345);
    mailraft__op__free_unpacked(op, NULL);
    assert_int_equal(core_full_reason(APPLIED), APPLY_FULL);
    assert_int_equal(core_full_reason(APPLY_DUPLICATE), APPLY_DUPLICATE);
    assert_int_equal(core_full_reason(APPLY_TERMINAL), APPLY_DUPLICATE);
}

static void assert_warning_is_left_out(struct cluster *c)
{
    Mailraft__Op *op = test_notice(MAILRAFT__NOTICE_KIND__NOTICE_WARN, true);
    uint64_t bytes, before = c->full_warnings;
    assert_int_equal(core_full_admit(c, op, &bytes), CORE_GROWS);
    assert_null(op->notice->dsn);
    assert_true(bytes == 0 && c->full_warnings == before + 1);
    mailraft__op__free_unpacked(op, NULL);
}

static ProtobufCBinaryData id_field(const struct message *m)
{
    return (ProtobufCBinaryData){MR_ID_SIZE, mr_memdup(m->id.bytes, MR_ID_SIZE)};
}

/* Far above the limit, which was lowered: what ends a message may say so, if that takes no more than the message. */
static void look_replacing(struct cluster *c, void *arg)
{
    const struct message *m = arg;
    Mailraft__Op *op;
    above(c, (int64_t)(state_bytes(c->state) / 2));
    op = test_outcome(true, 0);
    op->outcome->id = id_field(m);
    assert_admits(c, op, CORE_GROWS);
    op = test_outcome(true, 2000);
    op->outcome->id = id_field(m);
    assert_admits(c, op, CORE_REFUSES);
    op = test_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, true);
    op->notice->id = id_field(m);
    assert_admits(c, op, CORE_GROWS);
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, true), CORE_REFUSES);
    assert_warning_is_left_out(c);
}

static void look_bounces(struct cluster *c, void *arg)
{
    (void)arg;
    uint64_t bytes;
    above(c, 1000); /* clients are out */
    assert_admits(c, test_op(MAILRAFT__OP__KIND_ENQUEUE, test_enqueue(6)), CORE_CANCELS);
    assert_admits(c, test_outcome(true, 10), CORE_GROWS);
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_WARN, true), CORE_GROWS);
    above(c, (int64_t)(state_bytes(c->state) / 11)); /* a tenth of what is left */
    assert_admits(c, test_outcome(true, 10), CORE_REFUSES);
    assert_warning_is_left_out(c);
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_WARN, false), CORE_GROWS);
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, true), CORE_GROWS);
    /* An outcome counts all the same, without what the next hop said. */
    Mailraft__Op *op = test_outcome(false, 300);
    assert_int_equal(core_full_admit(c, op, &bytes), CORE_GROWS);
    assert_true(bytes == 0);
    assert_int_equal(op->outcome->results[0]->reply.len, 0);
    assert_string_equal(op->outcome->results[0]->status, "5.0.0");
    mailraft__op__free_unpacked(op, NULL);
    above(c, (int64_t)(state_bytes(c->state) / 6)); /* a fifth of what is left */
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, true), CORE_REFUSES);
    assert_admits(c, test_notice(MAILRAFT__NOTICE_KIND__NOTICE_EXPIRE, false), CORE_GROWS);
    assert_admits(c, test_outcome(false, 300), CORE_GROWS);
}

static void look_hysteresis(struct cluster *c, void *arg)
{
    (void)arg;
    uint64_t bytes = state_bytes(c->state);
    c->config.max_state = bytes + bytes / 16;
    core_full_tick(c);
    assert_false(c->full);
    c->config.max_state = bytes + bytes / 128;
    core_full_tick(c);
    assert_true(c->full);
    c->config.max_state = bytes + bytes / 48;
    core_full_tick(c);
    assert_true(c->full);
    c->config.max_state = bytes + bytes / 16;
    core_full_tick(c);
    assert_false(c->full);
}

static void look_room(struct cluster *c, void *arg)
{
    (void)arg;
    c->config.max_state = CLUSTER_MAX_STATE;
}

static void test_admission(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    on_core(w->nodes[0].c, look_enqueue, NULL);
    on_core(w->nodes[0].c, look_bounces, NULL);
    on_core(w->nodes[0].c, look_hysteresis, NULL);
    atomic_store(&w->nodes[0].mode, HOLD);
    on_core(w->nodes[0].c, look_room, NULL);
    struct message *m = submit(&w->nodes[0], hop);
    WAIT_FOR(atomic_load(&m->decided));
    on_core(w->nodes[0].c, look_replacing, m);
    on_core(w->nodes[0].c, look_room, NULL);
    let_go(&w->nodes[0]);
    WAIT_FOR(atomic_load(&m->delivered) > 0);
    world_close(w);
}

int main(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
