/* When an attempt may be taken from its worker: not because clocks were set, nor by a leader that has just begun
 * (PROTOCOL.md 5.10). */
#include "cluster/test_core.h"
#include "cluster/test_moved_clock.h"

static const char hop[] = "mx:there.example";
enum { MINUTE_MS = 60 * 1000, HOUR_MS = 60 * MINUTE_MS };

static void move(atomic_ullong *clock, uint64_t ns)
{
    atomic_fetch_add(clock, ns);
}

static struct world *open_moved(unsigned n)
{
    atomic_store(&ahead_ns, 0);
    atomic_store(&wall_ahead_ms, 0);
    struct world *w = world_open(n, 10 * HOUR_MS, &moved_clock);
    for (unsigned i = 0; i < n; i++) {
        atomic_store(&w->nodes[i].keeps, true);
        atomic_store(&w->nodes[i].mode, HOLD);
    }
    return w;
}

static bool held(const struct world *w)
{
    unsigned n = 0;
    for (unsigned i = 0; i < w->n_nodes; i++)
        n += atomic_load(&w->nodes[i].n_held);
    return n > 0;
}

struct turns {
    uint64_t since_ns, last_ns;
    unsigned n;
    bool current; /* the applied state's time is what the clocks say */
};

/* Housekeeping that began after since_ns, with a state that knows the time. */
static void look_turns(struct cluster *c, void *arg)
{
    struct turns *t = arg;
    t->current = c->lead.leading && state_now_ms(c->state) + 2 * CORE_IDLE_ENTRY_MS > mr_wall_ms(c->clock);
    if (!t->current || c->lead.housekeeping_ns <= t->since_ns || c->lead.housekeeping_ns == t->last_ns)
        return;
    t->last_ns = c->lead.housekeeping_ns;
    t->n++;
}

/* The leader has looked at all that it keeps in order, several times. */
static void wait_turns(struct world *w)
{
    struct turns t = {.since_ns = mr_boot_ns(&moved_clock)};
    struct node *leader;
    WAIT_FOR((leader = leader_of(w)) != NULL && (on_core(leader->c, look_turns, &t), t.n >= 3));
}

static void assert_untouched(struct world *w, struct message *m)
{
    wait_turns(w);
    assert_int_equal(atomic_load(&m->attempts), 1);
    assert_int_equal(counts_of(&w->nodes[0]).assigned, 1);
    assert_int_equal(counts_of(&w->nodes[0]).possibly_in_doubt, 0);
}

/* All clocks were an hour slow, and are set while an attempt runs. */
static void test_step(void **state)
{
    (void)state;
    struct world *w = open_moved(1);
    struct message *m = submit(&w->nodes[0], hop);
    assert_accepted(w, 0);
    WAIT_FOR(held(w));
    move(&wall_ahead_ms, HOUR_MS);
    assert_untouched(w, m);
    move(&ahead_ns, 24 * MINUTE_MS * MR_NS_PER_MS);
    assert_untouched(w, m);
    atomic_store(&w->nodes[0].mode, DELIVER);
    move(&ahead_ns, 3 * MINUTE_MS * MR_NS_PER_MS);
    WAIT_FOR(atomic_load(&m->delivered) > 0);
    assert_int_equal(counts_of(&w->nodes[0]).possibly_in_doubt, 1);
    world_close(w);
}

static void look_transfer(struct cluster *c, void *arg)
{
    (void)arg;
    (void)replica_transfer(c->replica, 0, NULL, NULL);
}

/* What the assignment's entry was stamped with may be long ago when it is committed by the next leader. */
static void test_new_leader(void **state)
{
    (void)state;
    struct world *w = open_moved(3);
    struct message *m = submit(&w->nodes[0], hop);
    assert_accepted(w, 0);
    WAIT_FOR(held(w));
    move(&ahead_ns, 20 * MINUTE_MS * MR_NS_PER_MS);
    assert_untouched(w, m);
    struct node *leader = leader_of(w), *next;
    if (leader != NULL)
        on_core(leader->c, look_transfer, NULL);
    WAIT_FOR((next = leader_of(w)) != NULL && next != leader);
    move(&ahead_ns, 20 * MINUTE_MS * MR_NS_PER_MS);
    assert_untouched(w, m);
    world_close(w);
}

/* A worker that lives and beats, but never ends a notice: the message would not expire for ever. */
static void test_lost_notice(void **state)
{
    (void)state;
    atomic_store(&ahead_ns, 0);
    atomic_store(&wall_ahead_ms, 0);
    struct world *w = world_open(1, HOUR_MS, &moved_clock);
    struct node *n = &w->nodes[0];
    atomic_store(&n->mode, DEFER);
    atomic_store(&n->loses, true);
    struct message *m = submit(n, hop);
    assert_accepted(w, 0);
    WAIT_FOR(counts_of(n).deferred == 1);
    move(&ahead_ns, HOUR_MS * MR_NS_PER_MS);
    WAIT_FOR(atomic_load(&m->notices) == 1);
    atomic_store(&n->loses, false);
    move(&ahead_ns, 14 * MINUTE_MS * MR_NS_PER_MS);
    wait_turns(w);
    move(&wall_ahead_ms, HOUR_MS);
    wait_turns(w);
    assert_int_equal(atomic_load(&m->notices), 1);
    move(&ahead_ns, 2 * MINUTE_MS * MR_NS_PER_MS);
    wait_turns(w);
    move(&ahead_ns, 2 * MINUTE_MS * MR_NS_PER_MS); /* given back, it is due a minute later */
    WAIT_FOR(atomic_load(&m->notices) > 1);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step),
        cmocka_unit_test(test_new_leader),
        cmocka_unit_test(test_lost_notice),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
