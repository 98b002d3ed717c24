/* The real links over simulated wires: two nodes, what TCP does when the path, the peer or its reader fails. */
#include "chaos-tests/sim/sim_kernel.h"
#include "cluster/link.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MS MR_NS_PER_MS
enum { NODES = 2 };

static struct sim_result result;
static struct sim_options options;

void sim_disk_power(unsigned node)
{
    (void)node;
}

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "%s:%d: at %llu ms: %s\n", __FILE__, __LINE__, (unsigned long long)(sim_now() / MS), \
                          #condition);                                                                                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* What a test sees and wants of a node; outlives its lives. */
static struct node {
    unsigned number;
    struct links *links;
    uv_loop_t loop;
    const char *refuse; /* what check says of peers */
    unsigned ups, downs, refusals, checks;
    char reason[300], refused[300];
    uint64_t up_at, down_at;
    unsigned received, out_of_order, foreign;
    uint64_t next; /* number that the next frame should have */
    uint64_t life_seen;
    uint64_t drained_at;
    int drained_status;
    bool answer_malformed;
} nodes[NODES + 1];

static struct node *peer_of(const struct node *n)
{
    return &nodes[3 - n->number];
}

static void on_hello(void *arg, Mailraft__Hello *out)
{
    const struct node *n = arg;
    out->node = n->number;
    out->incarnation = sim_node_life(n->number);
}

static const char *on_check(void *arg, const Mailraft__Hello *peer)
{
    struct node *n = arg;
    n->checks++;
    EXPECT(peer->node == peer_of(n)->number);
    return n->refuse;
}

static void on_up(void *arg, uint32_t peer, enum link_channel channel)
{
    struct node *n = arg;
    if (channel != LINK_CONTROL)
        return;
    EXPECT(peer == peer_of(n)->number);
    n->ups++;
    n->up_at = sim_now();
}

static void on_down(void *arg, uint32_t peer, enum link_channel channel, const char *reason)
{
    struct node *n = arg;
    (void)peer;
    if (channel != LINK_CONTROL)
        return;
    n->downs++;
    n->down_at = sim_now();
    (void)snprintf(n->reason, sizeof(n->reason), "%s", reason);
}

static void on_refused(void *arg, uint32_t peer, const char *reason)
{
    struct node *n = arg;
    (void)peer;
    n->refusals++;
    (void)snprintf(n->refused, sizeof(n->refused), "%s", reason);
}

struct numbered {
    uint64_t life, number;
};

static int on_frame(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type, const uint8_t *meta,
                    size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct node *n = arg;
    struct numbered head;
    (void)peer, (void)channel, (void)type, (void)tail, (void)tail_len;
    EXPECT(meta_len == sizeof(head));
    memcpy(&head, meta, sizeof(head));
    n->received++;
    n->out_of_order += head.number < n->next || head.life < n->life_seen;
    n->next = head.number + 1;
    n->life_seen = head.life;
    return n->answer_malformed ? MR_MALFORMED : 0;
}

static void run_node(void *arg)
{
    struct node *n = arg;
    char error[300], listen[40], name[8], peer_name[8], peer_address[40];
    (void)snprintf(listen, sizeof(listen), "127.0.0.%u:7400", n->number);
    (void)snprintf(name, sizeof(name), "n%u", n->number);
    (void)snprintf(peer_name, sizeof(peer_name), "n%u", peer_of(n)->number);
    (void)snprintf(peer_address, sizeof(peer_address), n->number == 1 ? "node%u:7400" : "127.0.0.%u:7400",
                   peer_of(n)->number);
    struct links_config config = {
        .loop = &n->loop,
        .listen = listen,
        .name = name,
        .insecure = true,
        .handler = {n, on_hello, on_check, on_up, on_down, on_refused, on_frame},
    };
    EXPECT(uv_loop_init(&n->loop) == 0);
    EXPECT(links_open(&n->links, &config, error, sizeof(error)) == 0);
    EXPECT(links_port(n->links) == 7400);
    EXPECT(links_add_peer(n->links, peer_of(n)->number, peer_name, peer_address) == 0);
    uv_run(&n->loop, UV_RUN_DEFAULT);
    EXPECT(uv_loop_close(&n->loop) == 0);
}

static void boot(unsigned node)
{
    sim_node_start(node, run_node, &nodes[node]);
}

static bool both_up(void *arg)
{
    (void)arg;
    return nodes[1].links != NULL && nodes[2].links != NULL && links_is_up(nodes[1].links, 2, LINK_CONTROL) &&
           links_is_up(nodes[2].links, 1, LINK_CONTROL);
}

static void two_up(void)
{
    sim_net_start(NODES);
    for (unsigned i = 1; i <= NODES; i++) {
        nodes[i].number = i;
        boot(i);
    }
    EXPECT(sim_run_while(both_up, NULL, 5000 * MS));
}

/* ---- sending, in the node ---- */

struct job {
    struct node *n;
    unsigned count, size, sent, busy;
    enum link_channel channel;
    enum frame_type type;
    uint64_t from;
};

static uint8_t zeros[1 << 20];

static void run_job(void *arg)
{
    struct job *j = arg;
    for (unsigned i = 0; i < j->count; i++) {
        struct numbered head = {sim_node_life(j->n->number), j->from + i};
        struct link_buffer tail = {zeros, j->size};
        int rc = links_send(j->n->links, peer_of(j->n)->number, j->channel, j->type, &head, sizeof(head), &tail, 1);
        j->sent += rc == 0;
        j->busy += rc == MR_BUSY;
    }
}

static struct job *send_frames(unsigned node, uint64_t from, unsigned count, unsigned size)
{
    struct job *j = mr_calloc(1, sizeof(*j));
    *j = (struct job){.n = &nodes[node], .count = count, .size = size, .type = FRAME_HEARTBEAT, .from = from};
    sim_loop_post(&nodes[node].loop, sim_now(), run_job, j);
    return j;
}

static void wait_ms(uint64_t ms)
{
    sim_run_until(sim_now() + ms * MS);
}

/* ---- tests: each in a process of its own, with several seeds ---- */

static void in_child(void (*test)(void))
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            options.seed = seed;
            sim_kernel_init(&options, &result);
            test();
            (void)fflush(NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("seed %llu", (unsigned long long)seed);
    }
}

static void order(void)
{
    two_up();
    EXPECT(nodes[1].checks >= 2 && nodes[2].checks >= 2);
    for (unsigned i = 0; i < 50; i++) {
        (void)send_frames(1, i * 10, 10, 300);
        wait_ms(sim_below(SIM_LOAD, 20));
    }
    wait_ms(1000);
    EXPECT(nodes[2].received == 500 && nodes[2].out_of_order == 0 && nodes[2].next == 500);
    EXPECT(nodes[1].downs == 0 && nodes[2].downs == 0);
}

static void refused(void)
{
    nodes[2].refuse = "not one of us";
    sim_net_start(NODES);
    for (unsigned i = 1; i <= NODES; i++) {
        nodes[i].number = i;
        boot(i);
    }
    wait_ms(5000);
    EXPECT(nodes[1].refusals > 0 && strcmp(nodes[1].refused, "not one of us") == 0);
    EXPECT(nodes[1].ups == 0 && nodes[2].ups == 0); /* 2 refuses its own dial's reply too */
    nodes[2].refuse = NULL;
    EXPECT(sim_run_while(both_up, NULL, sim_now() + 3000 * MS));
}

/* A cut path breaks the connection by the user time-out, not before; healed, it is dialled again. */
static void cut(unsigned from, unsigned to, bool also_back)
{
    two_up();
    (void)send_frames(1, 0, 1, 10);
    wait_ms(500);
    EXPECT(nodes[2].received == 1);
    uint64_t begin = sim_now();
    sim_net_cut(from, to, true);
    if (also_back)
        sim_net_cut(to, from, true);
    (void)send_frames(1, 1, 5, 10);
    wait_ms(2000);
    EXPECT(nodes[1].downs == 0);
    EXPECT(nodes[2].received == (also_back || from == 1 ? 1 : 6)); /* without its acknowledgement */
    wait_ms(2500);
    EXPECT(nodes[1].downs == 1 && nodes[1].down_at < begin + 3500 * MS);
    /* Where the other end's silence is heard: it may have given up first, and said so. */
    bool told = !also_back && from == 1 && strcmp(nodes[1].reason, "connection reset by peer") == 0;
    EXPECT(told || (strcmp(nodes[1].reason, "connection timed out") == 0 && nodes[1].down_at >= begin + 3000 * MS));
    EXPECT(nodes[2].downs == 1 && nodes[2].down_at < begin + 4500 * MS); /* idle: by keep-alive */
    wait_ms(5000);
    EXPECT(!links_is_up(nodes[1].links, 2, LINK_CONTROL) && nodes[1].ups == 1);
    sim_net_cut(from, to, false);
    sim_net_cut(to, from, false);
    EXPECT(sim_run_while(both_up, NULL, sim_now() + 5000 * MS));
    (void)send_frames(1, 6, 3, 10);
    wait_ms(1000);
    EXPECT(nodes[2].next == 9 && nodes[2].out_of_order == 0);
}

static void cut_both(void)
{
    cut(1, 2, true);
}

static void cut_one_way(void)
{
    cut(1, 2, false);
}

static void cut_back_way(void)
{
    cut(2, 1, false);
}

/* Healed in time: late, but nothing is lost and nothing breaks. */
static void short_cut(void)
{
    two_up();
    sim_net_cut(1, 2, true);
    (void)send_frames(1, 0, 5, 10);
    wait_ms(1500);
    EXPECT(nodes[2].received == 0);
    sim_net_cut(1, 2, false);
    wait_ms(1000);
    EXPECT(nodes[2].received == 5 && nodes[1].downs == 0 && nodes[2].downs == 0);
}

static void drop(void)
{
    two_up();
    (void)send_frames(1, 0, 100, 1000);
    wait_ms(1);
    sim_net_drop(1, 2);
    EXPECT(!sim_run_while(both_up, NULL, sim_now()) || nodes[1].downs == 0);
    wait_ms(1000);
    EXPECT(nodes[1].downs == 1 && strcmp(nodes[1].reason, "connection reset by peer") == 0);
    EXPECT(both_up(NULL));
    (void)send_frames(1, 1000, 1, 10);
    wait_ms(1000);
    EXPECT(nodes[2].out_of_order == 0 && nodes[2].next == 1001);
}

/* A dead process is known at once, by FIN or RST; its next life has new connections. */
static void killed(void)
{
    two_up();
    (void)send_frames(2, 0, 20, 100);
    wait_ms(1);
    uint64_t begin = sim_now();
    nodes[2].links = NULL;
    sim_node_crash(2, SIM_KILL);
    wait_ms(1000);
    EXPECT(nodes[1].downs == 1 && nodes[1].down_at < begin + 700 * MS);
    unsigned before = nodes[1].received;
    wait_ms(3000);
    EXPECT(nodes[1].received == before);
    boot(2);
    EXPECT(sim_run_while(both_up, NULL, sim_now() + 5000 * MS));
    (void)send_frames(2, 100, 5, 10);
    wait_ms(1000);
    EXPECT(nodes[1].next == 105 && nodes[1].out_of_order == 0);
}

/* A machine without power says nothing: silence is noticed by time-outs only, or when it is back and says RST. */
static void power(void)
{
    two_up();
    wait_ms(200);
    uint64_t begin = sim_now();
    nodes[2].links = NULL;
    sim_node_crash(2, SIM_POWER);
    (void)send_frames(1, 0, 1, 10);
    wait_ms(1900);
    EXPECT(nodes[1].downs == 0);
    bool early = sim_chance(SIM_LOAD, 0.5);
    if (early)
        boot(2);
    wait_ms(3000);
    EXPECT(nodes[1].downs == 1);
    if (early)
        EXPECT(nodes[1].down_at < begin + 3300 * MS);
    else
        EXPECT(nodes[1].down_at >= begin + 3000 * MS && strcmp(nodes[1].reason, "connection timed out") == 0);
    if (!early)
        boot(2);
    EXPECT(sim_run_while(both_up, NULL, sim_now() + 5000 * MS));
}

/* A paused reader: what the kernels hold is taken, then the queue grows to its limit; more than 3 s of it breaks. */
static void paused_and_full(void)
{
    two_up();
    sim_node_pause(2);
    struct job *j = send_frames(1, 0, 12, 1 << 20);
    wait_ms(500);
    EXPECT(j->sent == 4 - 1 && j->busy == 12 - 3); /* at once: nothing leaves before the turn */
    struct job *more = send_frames(1, 3, 12, 1 << 20);
    wait_ms(500);
    struct job *last = send_frames(1, 3 + more->sent, 12, 1 << 20);
    wait_ms(500);
    EXPECT(last->busy > 0 && links_queued(nodes[1].links, 2, LINK_CONTROL) > 0);
    EXPECT(nodes[1].downs == 0 && nodes[2].received == 0);
    unsigned sent = 3 + more->sent + last->sent;
    bool in_time = sim_chance(SIM_LOAD, 0.5);
    if (!in_time)
        wait_ms(3000);
    EXPECT(nodes[1].downs == (in_time ? 0 : 1));
    sim_node_resume(2);
    wait_ms(3000);
    EXPECT(nodes[2].out_of_order == 0);
    if (in_time)
        EXPECT(nodes[2].received == sent && nodes[1].downs == 0 && links_queued(nodes[1].links, 2, LINK_CONTROL) == 0);
    else
        EXPECT(nodes[2].received < sent);
    EXPECT(sim_run_while(both_up, NULL, sim_now() + 5000 * MS));
}

/* A pause alone, with little to say, breaks nothing. */
static void paused(void)
{
    two_up();
    sim_node_pause(2);
    (void)send_frames(1, 0, 20, 100);
    wait_ms(10000);
    EXPECT(nodes[2].received == 0 && nodes[1].downs == 0);
    sim_node_resume(2);
    wait_ms(500);
    EXPECT(nodes[2].received == 20 && nodes[1].downs == 0);
}

static void on_drained(void *arg, int status)
{
    struct node *n = arg;
    n->drained_at = sim_now();
    n->drained_status = status;
}

static void wait_drained(void *arg)
{
    struct node *n = arg;
    EXPECT(links_when_drained(n->links, peer_of(n)->number, LINK_BULK, 1 << 20, on_drained, n) == 0);
}

static void drained(void)
{
    two_up();
    wait_ms(500);
    sim_net_slow(1, 4 << 20);
    struct job *j = send_frames(1, 0, 15, 1 << 20);
    j->channel = LINK_BULK;
    uint64_t begin = sim_now();
    sim_loop_post(&nodes[1].loop, begin + 50 * MS, wait_drained, &nodes[1]);
    wait_ms(5000);
    EXPECT(j->sent == 15 && nodes[2].received == 15);
    EXPECT(nodes[1].drained_status == 0 && nodes[1].drained_at > begin + 1500 * MS);
    sim_net_cut(1, 2, true);
    j = send_frames(1, 15, 15, 1 << 20);
    j->channel = LINK_BULK;
    wait_ms(100);
    sim_loop_post(&nodes[1].loop, sim_now(), wait_drained, &nodes[1]);
    wait_ms(5000);
    EXPECT(nodes[1].drained_status == MR_UNREACHABLE);
}

static void malformed(void)
{
    two_up();
    nodes[2].answer_malformed = true;
    (void)send_frames(1, 0, 5, 10);
    wait_ms(1000);
    EXPECT(nodes[2].received == 1 && nodes[1].downs == 1);
    EXPECT(both_up(NULL));
}

/* Raft's frames alone are lost, doubled and late; the others on the same connection are not. */
static void raft_frames(void)
{
    two_up();
    sim_net_raft(0.2, 0.2, 0.2);
    for (unsigned i = 0; i < 20; i++) {
        struct job *j = send_frames(1, i * 10, 10, 10);
        j->type = FRAME_RAFT;
        wait_ms(5);
    }
    wait_ms(1000);
    EXPECT(nodes[2].received > 120 && nodes[2].received < 260);
    EXPECT(nodes[2].out_of_order > 0 && nodes[1].downs == 0);
    nodes[2].out_of_order = nodes[2].received = 0;
    nodes[2].next = 0;
    (void)send_frames(1, 1000, 200, 10);
    wait_ms(1000);
    EXPECT(nodes[2].received == 200 && nodes[2].out_of_order == 0);
}

static void on_closed(void *arg)
{
    struct node *n = arg;
    n->links = NULL;
}

static void close_links(void *arg)
{
    struct node *n = arg;
    struct links *l = n->links;
    n->links = NULL;
    links_close(l, on_closed, n);
}

/* The process ends by itself: the loop has nothing left, and the peer is told. */
static void closes(void)
{
    two_up();
    (void)send_frames(2, 0, 5, 100);
    wait_ms(200);
    sim_loop_post(&nodes[2].loop, sim_now(), close_links, &nodes[2]);
    wait_ms(1000);
    EXPECT(!sim_node_alive(2) && nodes[1].downs == 1 && nodes[1].received == 5);
    EXPECT(strcmp(nodes[1].reason, "closed by the other side") == 0);
}

/* Any mixture of faults: in order within a life, and up again when they end. */
static void mixture(void)
{
    two_up();
    for (unsigned i = 0; i < 200; i++) {
        unsigned a = 1 + (unsigned)sim_below(SIM_PLAN, 2);
        switch (sim_below(SIM_PLAN, 12)) {
        case 0:
        case 1:
            sim_net_cut(a, 3 - a, sim_chance(SIM_PLAN, 0.3));
            break;
        case 2:
            sim_net_drop(1, 2);
            break;
        case 3:
            nodes[a].links = NULL;
            sim_node_crash(a, sim_chance(SIM_PLAN, 0.5) ? SIM_POWER : SIM_KILL);
            break;
        case 4:
            sim_node_pause(a);
            break;
        case 5:
        case 6:
            sim_node_resume(a);
            break;
        default:
            if (!sim_node_alive(a))
                boot(a);
            else if (nodes[a].links != NULL)
                (void)send_frames(a, i * 100, 20, 1 + (unsigned)sim_below(SIM_PLAN, 200000));
        }
        wait_ms(sim_below(SIM_PLAN, 1000));
    }
    for (unsigned i = 1; i <= NODES; i++) {
        sim_node_resume(i);
        if (!sim_node_alive(i))
            boot(i);
    }
    sim_net_heal();
    wait_ms(8000);
    EXPECT(both_up(NULL));
    EXPECT(nodes[1].out_of_order == 0 && nodes[2].out_of_order == 0);
}

#define SIM_TEST(name)                                                                                                 \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        in_child(name);                                                                                                \
    }

SIM_TEST(order)
SIM_TEST(refused)
SIM_TEST(cut_both)
SIM_TEST(cut_one_way)
SIM_TEST(cut_back_way)
SIM_TEST(short_cut)
SIM_TEST(drop)
SIM_TEST(killed)
SIM_TEST(power)
SIM_TEST(paused_and_full)
SIM_TEST(paused)
SIM_TEST(drained)
SIM_TEST(malformed)
SIM_TEST(raft_frames)
SIM_TEST(closes)
SIM_TEST(mixture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cut_both),     cmocka_unit_test(test_cut_one_way),
        cmocka_unit_test(test_cut_back_way), cmocka_unit_test(test_short_cut),
        cmocka_unit_test(test_drop),         cmocka_unit_test(test_killed),
        cmocka_unit_test(test_power),        cmocka_unit_test(test_paused_and_full),
        cmocka_unit_test(test_paused),       cmocka_unit_test(test_drained),
        cmocka_unit_test(test_malformed),    cmocka_unit_test(test_raft_frames),
        cmocka_unit_test(test_closes),       cmocka_unit_test(test_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
