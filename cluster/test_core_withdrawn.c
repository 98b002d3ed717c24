/* An assignment that ended while its worker has it is withdrawn there (PROTOCOL.md 5.11). */
#include "cluster/test_core.h"

static const char hop[] = "mx:there.example";

static void stage(struct cluster *c, Mailraft__Op__KindCase kind, void *message)
{
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = kind;
    op->enqueue = message; /* one of a union of pointers */
    assert_int_equal(core_lead_stage(c, op, 0, 0), 0);
}

/* As the leader takes an overdue one back. */
static void look_release(struct cluster *c, void *arg)
{
    const struct message *m = arg;
    Mailraft__Release *r = mr_malloc(sizeof(*r));
    mailraft__release__init(r);
    r->id.data = mr_memdup(m->id.bytes, MR_ID_SIZE);
    r->id.len = MR_ID_SIZE;
    r->attempt = 1;
    r->node = c->self;
    r->reason = mr_strdup("test");
    stage(c, MAILRAFT__OP__KIND_RELEASE, r);
}

/* What the worker of attempt 1 says of its dot, late. */
static void look_outcome(struct cluster *c, void *arg)
{
    const struct message *m = arg;
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    mailraft__outcome__init(o);
    o->id.data = mr_memdup(m->id.bytes, MR_ID_SIZE);
    o->id.len = MR_ID_SIZE;
    o->attempt = 1;
    o->node = c->self;
    o->n_results = 1;
    o->results = mr_calloc(1, sizeof(*o->results));
    o->results[0] = mr_malloc(sizeof(*o->results[0]));
    mailraft__recipient_result__init(o->results[0]);
    o->results[0]->result = MAILRAFT__RESULT__DELIVERED;
    o->results[0]->status = mr_strdup("2.0.0");
    stage(c, MAILRAFT__OP__KIND_OUTCOME, o);
}

struct numbers {
    uint64_t running, waiting, index;
};

static void look_numbers(struct cluster *c, void *arg)
{
    struct numbers *n = arg;
    *n = (struct numbers){c->n_running, proposals_waiting(c->proposals), state_index(c->state)};
}

static struct numbers numbers_of(struct node *n)
{
    struct numbers numbers;
    on_core(n->c, look_numbers, &numbers);
    return numbers;
}

static struct message *held_one(struct node *n)
{
    atomic_store(&n->mode, HOLD);
    struct message *m = submit(n, hop);
    assert_accepted(n->w, 0);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    return m;
}

/* Taken back, and given anew: the worker drops the one, and makes the other. */
static void test_release(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct message *m = held_one(n);
    atomic_store(&n->mode, DELIVER);
    on_core(n->c, look_release, m);
    WAIT_FOR(atomic_load(&n->withdrawals) == 1);
    WAIT_FOR(atomic_load(&m->delivered) == 1);
    WAIT_FOR(numbers_of(n).running == 0);
    assert_int_equal(atomic_load(&m->attempts), 2);
    assert_int_equal(atomic_load(&n->n_held), 0);
    world_close(w);
}

/* Attempt 1 delivered it, as is known only when attempt 2 has begun. */
static void test_late_outcome(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct message *m = held_one(n);
    on_core(n->c, look_release, m);
    WAIT_FOR(atomic_load(&n->withdrawals) == 1 && atomic_load(&m->attempts) == 2);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    on_core(n->c, look_outcome, m);
    WAIT_FOR(atomic_load(&n->withdrawals) == 2);
    WAIT_FOR(numbers_of(n).running == 0);
    assert_int_equal(counts_of(n).messages, 0);
    assert_int_equal(atomic_load(&n->n_held), 0);
    assert_int_equal(atomic_load(&m->attempts), 2);
    world_close(w);
}

static void dress_two(Mailraft__Enqueue *e)
{
    Mailraft__Recipient *second = mr_malloc(sizeof(*second));
    mailraft__recipient__init(second);
    second->address.data = mr_memdup("s@example.net", 13);
    second->address.len = 13;
    e->recipients = mr_realloc(e->recipients, 2 * sizeof(*e->recipients));
    e->recipients[e->n_recipients++] = second;
}

/* Attempt 1 was taken back, and 2 is held, both for two recipients. */
static struct message *held_again_for_two(struct node *n)
{
    atomic_store(&n->mode, HOLD);
    struct message *m = submit_dressed(n, hop, dress_two);
    assert_accepted(n->w, 0);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    on_core(n->c, look_release, m);
    WAIT_FOR(atomic_load(&n->withdrawals) == 1 && atomic_load(&m->attempts) == 2);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    return m;
}

/* Attempt 1 delivered it to one of two: what runs for both begins anew for the other. */
static void test_late_outcome_of_one(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct message *m = held_again_for_two(n);
    atomic_store(&n->mode, DELIVER);
    on_core(n->c, look_outcome, m);
    WAIT_FOR(atomic_load(&n->withdrawals) == 2);
    WAIT_FOR(atomic_load(&m->delivered) == 1);
    WAIT_FOR(counts_of(n).messages == 0 && numbers_of(n).running == 0);
    assert_int_equal(atomic_load(&m->attempts), 3);
    assert_int_equal(atomic_load(&n->n_held), 0);
    assert_int_equal(counts_of(n).delivered, 2);
    world_close(w);
}

static void run_deliver_held(struct mail *mail)
{
    struct node *n = MR_CONTAINER(mail, struct stop, mail)->n;
    struct held *h = n->held;
    n->held = h->next;
    atomic_fetch_sub(&n->n_held, 1);
    answer_attempt(n, h->a, MAILRAFT__RESULT__DELIVERED, false);
    free(h);
}

/* What its own worker ends is not withdrawn; and what a worker says of one that was, after all, is a late outcome. */
static void test_own_end(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    atomic_store(&n->keeps, true);
    struct message *first = held_one(n);
    struct stop deliver = {.n = n, .mail.run = run_deliver_held};
    mailbox_post(n->mailbox, &deliver.mail);
    WAIT_FOR(counts_of(n).messages == 0 && numbers_of(n).running == 0);
    assert_int_equal(atomic_load(&first->delivered), 1);
    assert_int_equal(atomic_load(&n->withdrawals), 0);
    struct message *m = submit(n, hop);
    assert_accepted(w, 0);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    on_core(n->c, look_release, m);
    WAIT_FOR(atomic_load(&n->withdrawals) >= 1 && atomic_load(&n->n_held) == 2);
    mailbox_post(n->mailbox, &deliver.mail); /* the newer one */
    WAIT_FOR(counts_of(n).messages == 0 && numbers_of(n).running == 1);
    mailbox_post(n->mailbox, &deliver.mail); /* which was withdrawn, behind its dot */
    WAIT_FOR(numbers_of(n).running == 0);
    assert_int_equal(counts_of(n).delivered, 2);
    world_close(w);
}

static void run_give_back(struct mail *mail)
{
    release_held(MR_CONTAINER(mail, struct stop, mail)->n);
}

/* Nothing is proposed for what the state does not have. */
static void test_no_proposal(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    atomic_store(&n->keeps, true);
    struct message *m = held_one(n);
    on_core(n->c, look_release, m);
    WAIT_FOR(atomic_load(&n->withdrawals) >= 1 && atomic_load(&n->n_held) == 2);
    on_core(n->c, look_outcome, m);
    WAIT_FOR(atomic_load(&n->withdrawals) >= 3);
    WAIT_FOR(counts_of(n).messages == 0);
    struct numbers before = numbers_of(n);
    assert_int_equal(before.running, 2);
    struct stop give_back = {.n = n, .mail.run = run_give_back};
    mailbox_post(n->mailbox, &give_back.mail);
    WAIT_FOR(atomic_load(&n->n_held) == 0);
    WAIT_FOR(numbers_of(n).running == 0);
    struct numbers after = numbers_of(n);
    assert_int_equal(after.waiting, 0);
    assert_int_equal(after.index, before.index);
    world_close(w);
}

/* What the core does not hear of, as it would not of what a snapshot brings. */
struct unseen {
    struct message *m;
    uint32_t attempt;
    void (*look)(struct cluster *c, void *arg);
};

static struct core_running *running_of(struct cluster *c, const struct unseen *u)
{
    struct core_running *r = core_attempts_find(c, u->m->id, 0, u->attempt, false);
    assert_non_null(r);
    return r;
}

static void look_unseen(struct cluster *c, void *arg)
{
    const struct unseen *u = arg;
    running_of(c, u)->ending = true;
    u->look(c, u->m);
}

static void look_restored(struct cluster *c, void *arg)
{
    struct core_running *r = running_of(c, arg);
    assert_false(atomic_load(&r->withdrawn));
    r->ending = false;
    core_attempts_restored(c);
}

/* As when a snapshot takes the place of a state: nobody is told what ended between the two. */
static void test_restored(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct message *m = held_one(n);
    struct unseen release = {m, 1, look_release};
    on_core(n->c, look_unseen, &release);
    WAIT_FOR(atomic_load(&n->n_held) == 2);
    on_core(n->c, look_restored, &release);
    WAIT_FOR(atomic_load(&n->withdrawals) == 1);
    WAIT_FOR(atomic_load(&n->n_held) == 1 && numbers_of(n).running == 1);
    assert_int_equal(atomic_load(&m->attempts), 2); /* the one of the state goes on */
    world_close(w);
}

/* The same of an attempt that is still this node's, for one of two. */
static void test_restored_of_one(void **state)
{
    (void)state;
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct message *m = held_again_for_two(n);
    struct unseen outcome = {m, 2, look_outcome};
    on_core(n->c, look_unseen, &outcome);
    WAIT_FOR(counts_of(n).delivered == 1);
    atomic_store(&n->mode, DELIVER);
    on_core(n->c, look_restored, &outcome);
    WAIT_FOR(atomic_load(&n->withdrawals) == 2);
    WAIT_FOR(counts_of(n).messages == 0 && numbers_of(n).running == 0);
    assert_int_equal(atomic_load(&m->attempts), 3);
    assert_int_equal(atomic_load(&m->delivered), 1);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_late_outcome),
        cmocka_unit_test(test_late_outcome_of_one),
        cmocka_unit_test(test_own_end),
        cmocka_unit_test(test_no_proposal),
        cmocka_unit_test(test_restored),
        cmocka_unit_test(test_restored_of_one),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
