/* The end of a node: what is waited for, and who leads then (PROTOCOL.md 9). */
#include "cluster/test_core.h"

static const char hop[] = "smtp://127.0.0.1:25";

/* ---- mail ---- */

struct draining {
    struct node *n;
    unsigned timeout_ms;
    atomic_bool done;
};

static void run_draining(void *arg)
{
    struct draining *d = arg;
    cluster_drain(d->n->c, d->timeout_ms);
    atomic_store(&d->done, true);
}

static void look_drain(struct cluster *c, void *arg)
{
    *(uint64_t *)arg = c->last_tick_ns;
}

/* Until the core has looked several times whether it may go. */
static void wait_drain_ticks(struct node *n)
{
    uint64_t from, now;
    WAIT_FOR(atomic_load(&n->drains) > 0);
    on_core(n->c, look_drain, &from);
    WAIT_FOR((on_core(n->c, look_drain, &now), now > from + 10 * CORE_TICK_MS * MR_NS_PER_MS));
}

static void drain_with_mail(unsigned timeout_ms, bool in_time, int status)
{
    struct world *w = world_open(1, 3600 * 1000, NULL);
    struct node *n = &w->nodes[0];
    struct draining d = {.n = n, .timeout_ms = timeout_ms};
    struct cluster_counters *counters = cluster_counters(n->c);
    uv_thread_t thread;
    atomic_store(&n->mode, RELEASE);
    atomic_fetch_add(&counters->transactions_open, 1); /* a client is in the midst of its message */
    assert_int_equal(uv_thread_create(&thread, run_draining, &d), 0);
    if (in_time) {
        wait_drain_ticks(n);
        assert_false(atomic_load(&d.done));
        assert_int_equal(cluster_readiness(n->c), CLUSTER_DRAINING);
    } else {
        WAIT_FOR(atomic_load(&d.done));
    }
    struct message *m = submit(n, hop);
    WAIT_FOR(atomic_load(&m->decided));
    assert_int_equal(atomic_load(&m->status), status);
    atomic_fetch_sub(&counters->transactions_open, 1);
    uv_thread_join(&thread);
    atomic_store(&n->mode, DELIVER);
    world_close(w);
}

/* What a client has begun to send when the node is told to end is taken, within the time there is for that (9). */
static void test_drain_takes_mail(void **state)
{
    (void)state;
    drain_with_mail(WAIT_MS, true, 0);
}

/* And beyond it is refused for what it is, though there is a quorum. */
static void test_drain_ends_in_time(void **state)
{
    (void)state;
    drain_with_mail(100, false, MR_CLOSED);
}

/* ---- leadership ---- */

enum { SLOW_ELECTION_MS = 1200 };

struct look {
    bool leading, handing_over;
};

static void look_lead(struct cluster *c, void *arg)
{
    *(struct look *)arg = (struct look){c->lead.leading, c->handing_over};
}

static struct look look_at(struct node *n)
{
    struct look look;
    on_core(n->c, look_lead, &look);
    return look;
}

/* An entry, which changes nothing. */
static void look_append(struct cluster *c, void *arg)
{
    (void)arg;
    Mailraft__NodeDown *down = mr_malloc(sizeof(*down));
    mailraft__node_down__init(down);
    down->node = c->self;
    core_lead_stage_own(c, MAILRAFT__OP__KIND_NODE_DOWN, &down->base);
    core_lead_flush(c);
}

struct scene {
    struct world *w;
    struct node *leader, *heir, *gone;
    struct draining drain;
    uv_thread_t thread;
};

/* The one that is gone comes last: libraft takes that one when nobody has all entries. */
static struct scene begin(void)
{
    struct scene s = {.w = world_prepare(3, 3600 * 1000)};
    struct node *nodes = s.w->nodes;
    s.w->election_ms = SLOW_ELECTION_MS;
    world_start(s.w);
    WAIT_FOR((s.leader = leader_of(s.w)) != NULL);
    s.heir = s.leader == &nodes[0] ? &nodes[1] : &nodes[0];
    s.gone = s.leader == &nodes[2] ? &nodes[1] : &nodes[2];
    node_close(s.gone, 1000);
    assert_true(look_at(s.leader).leading);
    return s;
}

/* On the thread of the heir's core: it has not got the newest entry when the drain begins. */
static void look_begin_drain(struct cluster *c, void *arg)
{
    struct scene *s = arg;
    (void)c;
    on_core(s->leader->c, look_append, NULL);
    assert_int_equal(uv_thread_create(&s->thread, run_draining, &s->drain), 0);
    WAIT_FOR(look_at(s->leader).handing_over);
}

/* Leadership goes to who lives, with the first try, however much is under way. */
static void test_heir(void **state)
{
    (void)state;
    struct scene s = begin();
    struct cluster_counters *counters = cluster_counters(s.leader->c);
    struct look look;
    s.drain = (struct draining){.n = s.leader, .timeout_ms = WAIT_MS};
    atomic_fetch_add(&counters->transactions_open, 1);
    on_core(s.heir->c, look_begin_drain, &s);
    WAIT_FOR((look = look_at(s.leader), !look.handing_over));
    assert_false(look.leading);
    WAIT_FOR(leader_of(s.w) == s.heir);
    assert_false(atomic_load(&s.drain.done));
    atomic_fetch_sub(&counters->transactions_open, 1);
    uv_thread_join(&s.thread);
    world_close(s.w);
}

/* With nobody there to hand over to, an idle node ends soon. */
static void test_no_heir(void **state)
{
    (void)state;
    struct scene s = begin();
    node_close(s.heir, 1000);
    uint64_t from = test_now_ms();
    node_end_worker(s.leader, WAIT_MS);
    assert_in_range(test_now_ms() - from, 0, WAIT_MS / 3);
    node_end_core(s.leader);
    world_close(s.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain_takes_mail),
        cmocka_unit_test(test_drain_ends_in_time),
        cmocka_unit_test(test_heir),
        cmocka_unit_test(test_no_heir),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
