/* A node that beats but does not apply: its log finds no room and it stands still, or a snapshot takes long to come
 * (PROTOCOL.md 5.5). It must neither collect assignments nor keep a new leader from granting. */
#include "cluster/link_internal.h"
#include "cluster/test_core.h"
#include "raft/raft_wire.h"

static const char hop[] = "smtp://127.0.0.1:25";

/* ---- a log that takes nothing ---- */

static int (*real_frame)(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type, const uint8_t *meta,
                         size_t meta_len, const uint8_t *tail, size_t tail_len);

static uint32_t head_length(const uint8_t *tail)
{
    return (uint32_t)tail[0] << 24 | (uint32_t)tail[1] << 16 | (uint32_t)tail[2] << 8 | tail[3];
}

/* Entries do not come, but the leader is heard: they are cut out of its message. */
static int frame_without_entries(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type,
                                 const uint8_t *meta, size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct raft_message m;
    uint8_t *head;
    size_t head_len;

    if (type == FRAME_RAFT_SLICE)
        return 0;
    if (type != FRAME_RAFT || tail_len == 4 + (size_t)head_length(tail))
        return real_frame(arg, peer, channel, type, meta, meta_len, tail, tail_len);
    size_t entries_len = tail_len - 4 - head_length(tail);
    assert_int_equal(raft_wire_decode(peer, "mx", tail + 4, head_length(tail),
                                      mr_memdup(tail + 4 + head_length(tail), entries_len), entries_len, &m),
                     0);
    assert_int_equal(m.type, RAFT_APPEND_ENTRIES);
    struct raft_message empty = m;
    empty.append_entries.prev_log_index = empty.append_entries.prev_log_term = empty.append_entries.leader_commit = 0;
    empty.append_entries.entries = NULL;
    empty.append_entries.n_entries = 0;
    assert_int_equal(raft_wire_encode(&empty, &head, &head_len), 0);
    raft_wire_free(&m);
    uint8_t *bytes = mr_malloc(4 + head_len);
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(head_len >> 8 * (3 - i));
    memcpy(bytes + 4, head, head_len);
    int rc = real_frame(arg, peer, channel, type, meta, meta_len, bytes, 4 + head_len);
    free(head);
    free(bytes);
    return rc;
}

static void look_stand_still(struct cluster *c, void *arg)
{
    (void)arg;
    real_frame = c->links->handler.frame;
    c->links->handler.frame = frame_without_entries;
}

static void look_go_on(struct cluster *c, void *arg)
{
    (void)arg;
    c->links->handler.frame = real_frame;
}

/* ---- what the leader sees ---- */

struct look {
    uint32_t node;
    uint64_t heard_ns;
    bool up;
};

static void look_node(struct cluster *c, void *arg)
{
    struct look *look = arg;
    struct node_view v;
    assert_true(state_node_by_id(c->state, look->node, &v));
    look->up = v.up;
    look->heard_ns = c->lead.nodes[look->node].heard_ns;
}

static void look_self(struct cluster *c, void *arg)
{
    *(uint32_t *)arg = c->self;
}

static uint32_t id_of(struct node *n)
{
    uint32_t id;
    on_core(n->c, look_self, &id);
    return id;
}

struct stage {
    struct world *w;
    uint32_t acceptor;
    unsigned n;
};

/* Messages that a node took, so that it is the first choice for them. */
static void look_stage(struct cluster *c, void *arg)
{
    struct stage *s = arg;
    uint8_t checksum[16] = {0};
    for (unsigned i = 0; i < s->n; i++) {
        Mailraft__Body *body = mr_malloc(sizeof(*body));
        mailraft__body__init(body);
        body->checksum.data = mr_memdup(checksum, sizeof(checksum));
        body->checksum.len = sizeof(checksum);
        body->stamp_ms = state_now_ms(c->state);
        body->n_holders = 3;
        body->holders = mr_calloc(3, sizeof(*body->holders));
        for (uint32_t k = 0; k < 3; k++)
            body->holders[k] = k + 1;
        Mailraft__Op *op = mr_malloc(sizeof(*op));
        mailraft__op__init(op);
        op->kind_case = MAILRAFT__OP__KIND_ENQUEUE;
        op->enqueue = make_enqueue(new_message(&s->w->nodes[0], hop), body);
        op->enqueue->acceptor = s->acceptor;
        assert_int_equal(core_lead_stage(c, op, 0, 0), 0);
    }
}

static void hand_over_done(void *arg, int status)
{
    (void)arg;
    (void)status;
}

static void look_hand_over(struct cluster *c, void *arg)
{
    assert_int_equal(replica_transfer(c->replica, *(uint32_t *)arg, hand_over_done, NULL), 0);
}

static void deliver_by(struct world *w, struct node *n, unsigned count)
{
    unsigned from = w->n_messages;
    for (unsigned i = 0; i < count; i++)
        submit(n, hop);
    assert_accepted(w, from);
    WAIT_FOR(all_delivered(w, from));
}

struct scene {
    struct world *w;
    struct node *leader, *next, *still;
    uint64_t before; /* incarnation of `still` */
};

static bool up_by(struct node *leader, struct node *n)
{
    struct look look = {.node = id_of(n)};
    on_core(leader->c, look_node, &look);
    return look.up;
}

/* Of one member there is an alarm that says this. */
static bool alarmed(struct node *leader, const char *text)
{
    struct cluster_query q = {.question = CLUSTER_STATUS};
    json_t *status = ask_node(leader->c, &q);
    const json_t *alarms = json_object_get(status, "alarms");
    bool found = json_array_size(alarms) == 1 && strstr(json_string_value(json_array_get(alarms, 0)), text) != NULL;
    json_decref(status);
    return found;
}

/* One that stands still, and whose lease has just ended; the leader has heard of that. */
static struct scene begin(void)
{
    struct scene s = {.w = world_open(3, 3600 * 1000, NULL)};
    struct node *nodes = s.w->nodes;
    WAIT_FOR((s.leader = leader_of(s.w)) != NULL);
    s.still = s.leader == &nodes[0] ? &nodes[1] : &nodes[0];
    s.next = s.leader == &nodes[2] ? &nodes[1] : &nodes[2];
    s.before = atomic_load(&s.still->c->incarnation);
    deliver_by(s.w, s.still, 5);
    on_core(s.still->c, look_stand_still, NULL);
    deliver_by(s.w, s.leader, 5);
    WAIT_FOR(alarmed(s.leader, " has applied "));
    WAIT_FOR(!node_ready(s.still));
    struct look look = {.node = id_of(s.still)};
    uint64_t now = mr_boot_ns(&mr_clock_real);
    WAIT_FOR((on_core(s.leader->c, look_node, &look), look.heard_ns > now));
    return s;
}

/* It has been declared down meanwhile; it comes up by itself. */
static void end(struct scene *s)
{
    assert_int_equal(atomic_load(&s->still->c->incarnation), s->before); /* it does not know yet */
    on_core(s->still->c, look_go_on, NULL);
    WAIT_FOR(node_ready(s->still));
    assert_true(atomic_load(&s->still->c->incarnation) > s->before);
    deliver_by(s->w, s->still, 5);
    for (unsigned i = 0; i < s->w->n_messages; i++)
        assert_int_equal(atomic_load(&s->w->messages[i].delivered), 1);
    world_close(s->w);
}

static void gets_no_assignments(void **state)
{
    (void)state;
    struct scene s = begin();
    struct stage stage = {s.w, id_of(s.still), 50};
    unsigned from = s.w->n_messages;
    on_core(s.leader->c, look_stage, &stage);
    WAIT_FOR(all_delivered(s.w, from));
    WAIT_FOR(!up_by(s.leader, s.still));
    WAIT_FOR(alarmed(s.leader, " is down: its process is heard"));
    end(&s);
}

/* Every next hop has a limit here, as with the default rules. */
static void new_leader_does_not_wait_for_it(void **state)
{
    (void)state;
    struct scene s = begin();
    uint32_t heir = id_of(s.next);
    on_core(s.leader->c, look_hand_over, &heir);
    WAIT_FOR(leader_of(s.w) == s.next);
    assert_true(up_by(s.next, s.still));
    deliver_by(s.w, s.next, 20);
    assert_false(up_by(s.next, s.still));
    end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gets_no_assignments),
        cmocka_unit_test(new_leader_does_not_wait_for_it),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
