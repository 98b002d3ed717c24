/* test_bodies_real.c - three nodes of the body plane over real spools, links and states, on one loop. */
#include "cluster/bodies_internal.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { NODES = 3, WAIT_S = 60, SMALL = 3000, LARGE = 5 * SPOOL_MAX_PIECE + 99, MANY = 300 };

struct node {
    uint32_t id;
    char name[8], *dir;
    struct rig *rig;
    struct spool *spool;
    struct links *links;
    struct state *state;
    struct bodies *b;
    uint64_t index;
};
struct rig {
    uv_loop_t loop;
    uv_timer_t tick;
    char dir[200];
    struct node nodes[NODES + 1];
    uint64_t now_ms;
    unsigned closed;
};

/* ---- one node ---- */

static void on_hello(void *arg, Mailraft__Hello *out)
{
    out->node = ((struct node *)arg)->id;
}
static const char *on_check(void *arg, const Mailraft__Hello *peer)
{
    (void)arg;
    (void)peer;
    return NULL;
}
static void on_up(void *arg, uint32_t peer, enum link_channel channel)
{
    struct node *n = arg;
    if (channel == LINK_BULK && n->b != NULL)
        bodies_link(n->b, peer, true);
}
static void on_down(void *arg, uint32_t peer, enum link_channel channel, const char *reason)
{
    struct node *n = arg;
    (void)reason;
    if (channel == LINK_BULK && n->b != NULL)
        bodies_link(n->b, peer, false);
}
static int on_frame(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type, const uint8_t *meta,
                    size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct node *n = arg;
    assert_int_equal(channel, LINK_BULK);
    return n->b == NULL ? 0 : bodies_frame(n->b, peer, type, meta, meta_len, tail, tail_len);
}
static void on_enqueued(void *arg, const struct state_message *m)
{
    struct node *n = arg;
    if (n->b != NULL)
        bodies_enqueued(n->b, m);
}
static void on_removed(void *arg, struct mr_id id)
{
    struct node *n = arg;
    if (n->b != NULL)
        bodies_removed(n->b, id);
}
static void open_bodies(struct node *n)
{
    struct spool_config spool = {.loop = &n->rig->loop, .dir = n->dir, .reserve_bytes = 4096};
    struct bodies_config config = {.loop = &n->rig->loop, .state = n->state, .links = n->links, .self = n->id};
    char error[300] = "";
    assert_int_equal(spool_open(&n->spool, &spool, error, sizeof(error)), 0);
    config.spool = n->spool;
    n->b = bodies_open(&config);
    for (uint32_t i = 1; i <= NODES; i++)
        if (i != n->id && links_is_up(n->links, i, LINK_BULK))
            bodies_link(n->b, i, true);
    bodies_ready(n->b);
}
static void count_closed(void *arg)
{
    ((struct rig *)arg)->closed++;
}
static void wait_closed(struct rig *r, unsigned n)
{
    while (r->closed < n)
        uv_run(&r->loop, UV_RUN_ONCE);
    r->closed = 0;
}
static void close_bodies(struct node *n)
{
    struct bodies *b = n->b;
    n->b = NULL;
    bodies_close(b, count_closed, n->rig);
    wait_closed(n->rig, 1);
    spool_close(n->spool, count_closed, n->rig);
    wait_closed(n->rig, 1);
}

/* ---- all of them ---- */

static void on_tick(uv_timer_t *timer)
{
    struct rig *r = timer->data;
    for (unsigned i = 1; i <= NODES; i++)
        if (r->nodes[i].b != NULL)
            bodies_tick(r->nodes[i].b, mr_boot_ns(&mr_clock_real));
}
/* Runs until the condition holds. */
#define WAIT_FOR(r, condition)                                                                                         \
    do {                                                                                                               \
        uint64_t end_ = mr_boot_ns(&mr_clock_real) + WAIT_S * MR_NS_PER_S;                                             \
        while (!(condition)) {                                                                                         \
            assert_true(mr_boot_ns(&mr_clock_real) < end_);                                                            \
            uv_run(&(r)->loop, UV_RUN_ONCE);                                                                           \
        }                                                                                                              \
    } while (0)

static void apply(struct rig *r, Mailraft__Op *op)
{
    Mailraft__Batch batch = MAILRAFT__BATCH__INIT;
    uint8_t *data;
    size_t len;
    batch.stamp_ms = r->now_ms;
    batch.n_ops = 1;
    batch.ops = &op;
    len = mailraft__batch__get_packed_size(&batch);
    data = mr_malloc(len);
    mailraft__batch__pack(&batch, data);
    for (unsigned i = 1; i <= NODES; i++) {
        uint8_t result = 99;
        size_t n = 1;
        assert_int_equal(state_apply(r->nodes[i].state, ++r->nodes[i].index, data, len, &result, &n), 0);
        assert_int_equal(result, APPLIED);
    }
    free(data);
}
static void form(struct rig *r)
{
    Mailraft__Op op = MAILRAFT__OP__INIT;
    Mailraft__Form form = MAILRAFT__FORM__INIT;
    Mailraft__Member members[NODES], *pointers[NODES];
    struct mr_id ids[NODES + 1];
    for (unsigned i = 0; i <= NODES; i++)
        ids[i] = mr_id_random();
    for (unsigned i = 0; i < NODES; i++) {
        mailraft__member__init(&members[i]);
        members[i].node = i + 1;
        members[i].name = r->nodes[i + 1].name;
        members[i].address = (char *)(uintptr_t) "127.0.0.1:1";
        members[i].directory = (ProtobufCBinaryData){16, ids[i].bytes};
        pointers[i] = &members[i];
    }
    form.cluster = (ProtobufCBinaryData){16, ids[NODES].bytes};
    form.n_members = NODES;
    form.members = pointers;
    op.kind_case = MAILRAFT__OP__KIND_FORM;
    op.form = &form;
    apply(r, &op);
}
static struct rig *rig_open(void)
{
    struct rig *r = mr_calloc(1, sizeof(*r));
    char error[300] = "";
    const char *tmp = getenv("TMPDIR");
    assert_int_equal(uv_loop_init(&r->loop), 0);
    (void)snprintf(r->dir, sizeof(r->dir), "%s/bodies-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(r->dir));
    r->now_ms = 1700000000000;
    for (uint32_t i = 1; i <= NODES; i++) {
        struct node *n = &r->nodes[i];
        struct state_observer observer = {.arg = n, .enqueued = on_enqueued, .removed = on_removed};
        struct links_config links = {
            .loop = &r->loop,
            .listen = "127.0.0.1:0",
            .name = n->name,
            .insecure = true,
            .handler =
                {.arg = n, .hello = on_hello, .check = on_check, .up = on_up, .down = on_down, .frame = on_frame},
        };
        n->id = i;
        n->rig = r;
        (void)snprintf(n->name, sizeof(n->name), "n%u", i);
        n->dir = mr_asprintf("%s/%s", r->dir, n->name);
        n->state = state_open(&observer);
        assert_int_equal(links_open(&n->links, &links, error, sizeof(error)), 0);
        open_bodies(n);
    }
    form(r);
    for (uint32_t i = 1; i <= NODES; i++) {
        for (uint32_t j = 1; j <= NODES; j++) {
            char address[40];
            if (i == j)
                continue;
            (void)snprintf(address, sizeof(address), "127.0.0.1:%d", links_port(r->nodes[j].links));
            assert_int_equal(links_add_peer(r->nodes[i].links, j, r->nodes[j].name, address), 0);
        }
    }
    uv_timer_init(&r->loop, &r->tick);
    r->tick.data = r;
    uv_timer_start(&r->tick, on_tick, 0, BODIES_TICK_MS);
    return r;
}
static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}
static void rig_close(struct rig *r)
{
    uv_close((uv_handle_t *)&r->tick, NULL);
    for (unsigned i = 1; i <= NODES; i++) {
        close_bodies(&r->nodes[i]);
        links_close(r->nodes[i].links, count_closed, r);
        wait_closed(r, 1);
        state_close(r->nodes[i].state);
        free(r->nodes[i].dir);
    }
    assert_int_equal(uv_run(&r->loop, UV_RUN_DEFAULT), 0);
    assert_int_equal(uv_loop_close(&r->loop), 0);
    assert_int_equal(nftw(r->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    free(r);
}

/* ---- bodies ---- */

struct put {
    struct mr_id id;
    uint8_t *data;
    size_t len;
    uint8_t checksum[16];
    uint64_t stamp, holders;
    unsigned written;
    int called, status;
};
static void on_written(void *arg, int status)
{
    assert_int_equal(status, 0);
    ((struct put *)arg)->written++;
}
static void on_stored(void *arg, int status, uint64_t holders)
{
    struct put *p = arg;
    p->called++;
    p->status = status;
    p->holders = holders;
}
static void put(struct rig *r, uint32_t node, struct put *p, size_t len)
{
    XXH128_canonical_t canonical;
    struct body_put *b;
    size_t at = 0;
    unsigned given = 0;
    memset(p, 0, sizeof(*p));
    p->id = mr_id_at(r->now_ms);
    p->len = len;
    p->data = mr_malloc(len);
    for (size_t i = 0; i < len; i++)
        p->data[i] = (uint8_t)(p->id.bytes[i % 16] + i / 13);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(p->data, len));
    memcpy(p->checksum, canonical.digest, 16);
    b = bodies_begin(r->nodes[node].b, p->id);
    p->stamp = body_put_stamp(b);
    for (; len - at > SPOOL_MAX_PIECE; at += SPOOL_MAX_PIECE) {
        bodies_piece(b, mr_memdup(p->data + at, SPOOL_MAX_PIECE), SPOOL_MAX_PIECE, on_written, p);
        given++;
        WAIT_FOR(r, p->written == given);
    }
    bodies_finish(b, mr_memdup(p->data + at, len - at), len - at, len, p->checksum, on_stored, p);
}
static void enqueue(struct rig *r, const struct put *p)
{
    Mailraft__Op op = MAILRAFT__OP__INIT;
    Mailraft__Enqueue e = MAILRAFT__ENQUEUE__INIT;
    Mailraft__Body body = MAILRAFT__BODY__INIT;
    Mailraft__Recipient recipient = MAILRAFT__RECIPIENT__INIT, *recipients = &recipient;
    uint8_t id[16], checksum[16], address[] = "user@example.org";
    uint32_t holders[NODES];
    char *hop = (char *)(uintptr_t) "mx:example.org";
    memcpy(id, p->id.bytes, 16);
    memcpy(checksum, p->checksum, 16);
    body.length = p->len;
    body.checksum = (ProtobufCBinaryData){16, checksum};
    body.stamp_ms = p->stamp;
    body.holders = holders;
    for (uint32_t i = 1; i <= NODES; i++)
        if (p->holders & node_bit(i))
            holders[body.n_holders++] = i;
    recipient.address = (ProtobufCBinaryData){sizeof(address) - 1, address};
    e.id = (ProtobufCBinaryData){16, id};
    e.body = &body;
    e.n_recipients = 1;
    e.recipients = &recipients;
    e.n_next_hops = 1;
    e.next_hops = &hop;
    e.acceptor = 1;
    e.arrived_ms = r->now_ms;
    op.kind_case = MAILRAFT__OP__KIND_ENQUEUE;
    op.enqueue = &e;
    apply(r, &op);
}
/* Assigned and delivered: the message is removed. */
static void deliver(struct rig *r, const struct put *p)
{
    Mailraft__Op op = MAILRAFT__OP__INIT;
    Mailraft__Assign assign = MAILRAFT__ASSIGN__INIT;
    Mailraft__Assignment assignment = MAILRAFT__ASSIGNMENT__INIT;
    Mailraft__Outcome outcome = MAILRAFT__OUTCOME__INIT;
    Mailraft__RecipientResult result = MAILRAFT__RECIPIENT_RESULT__INIT, *results = &result;
    uint8_t id[16];
    memcpy(id, p->id.bytes, 16);
    assignment.attempt = 1;
    assignment.node = 1;
    assignment.incarnation = 1;
    assign.id = outcome.id = (ProtobufCBinaryData){16, id};
    assign.assignment = &assignment;
    op.kind_case = MAILRAFT__OP__KIND_ASSIGN;
    op.assign = &assign;
    apply(r, &op);
    result.result = MAILRAFT__RESULT__DELIVERED;
    outcome.attempt = 1;
    outcome.node = 1;
    outcome.n_results = 1;
    outcome.results = &results;
    op.kind_case = MAILRAFT__OP__KIND_OUTCOME;
    op.outcome = &outcome;
    apply(r, &op);
}
static void node_up(struct rig *r)
{
    Mailraft__Op op = MAILRAFT__OP__INIT;
    Mailraft__NodeUp up = MAILRAFT__NODE_UP__INIT;
    struct node_view view;
    uint8_t directory[16];
    assert_true(state_node_by_id(r->nodes[1].state, 1, &view));
    memcpy(directory, view.directory.bytes, 16);
    up.node = 1;
    up.name = r->nodes[1].name;
    up.directory = (ProtobufCBinaryData){16, directory};
    up.incarnation = 1;
    op.kind_case = MAILRAFT__OP__KIND_NODE_UP;
    op.node_up = &up;
    apply(r, &op);
}
static bool has(struct rig *r, uint32_t node, const struct put *p)
{
    return spool_has(r->nodes[node].spool, p->id, NULL);
}

struct reading {
    struct body_read req;
    int called, status;
    bool last;
    uint8_t *data;
    size_t len;
};
static void on_read(struct body_read *req, int status, uint8_t *data, size_t len, bool last)
{
    struct reading *r = (struct reading *)req;
    r->called = 1;
    r->status = status;
    r->last = last;
    r->data = data;
    r->len = len;
}
static void read_whole(struct rig *r, uint32_t node, const struct put *p)
{
    struct reading reading = {.last = false};
    size_t at = 0;
    for (uint32_t piece = 0; !reading.last; piece++) {
        memset(&reading, 0, sizeof(reading));
        reading.req.id = p->id;
        reading.req.piece = piece;
        reading.req.cb = on_read;
        bodies_read(r->nodes[node].b, &reading.req);
        WAIT_FOR(r, reading.called);
        assert_int_equal(reading.status, 0);
        assert_true(at + reading.len <= p->len);
        assert_memory_equal(reading.data, p->data + at, reading.len);
        at += reading.len;
        free(reading.data);
    }
    assert_int_equal(at, p->len);
}
static bool all_up(struct rig *r)
{
    for (uint32_t i = 1; i <= NODES; i++)
        for (uint32_t j = 1; j <= NODES; j++)
            if (i != j && !links_is_up(r->nodes[i].links, j, LINK_BULK))
                return false;
    return true;
}
static uint64_t missing(struct rig *r, uint32_t node)
{
    struct bodies_stats stats;
    bodies_stats(r->nodes[node].b, &stats);
    return stats.missing;
}
/* Flips a byte in every KiB of a node's segments, from the place on where bodies are. */
static void ruin(struct node *n)
{
    DIR *dir = opendir(n->dir);
    unsigned flipped = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char path[600];
        uint8_t byte;
        int fd;
        if (strstr(e->d_name, ".seg") == NULL)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", n->dir, e->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        for (off_t at = 1500; pread(fd, &byte, 1, at) == 1; at += 1024, flipped++) {
            byte ^= 0x40;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_int_equal(close(fd), 0);
    }
    closedir(dir);
    assert_true(flipped > 0);
}

static void a_life_of_three_nodes(void **state)
{
    struct rig *r = rig_open();
    struct put small, large, many[MANY];
    struct bodies_stats stats;
    (void)state;
    WAIT_FOR(r, all_up(r));
    put(r, 1, &small, SMALL);
    put(r, 2, &large, LARGE);
    WAIT_FOR(r, small.called && large.called);
    assert_int_equal(small.status, 0);
    assert_int_equal(large.status, 0);
    assert_true(bit_count(small.holders) >= 2 && bit_count(large.holders) >= 2);
    enqueue(r, &small);
    enqueue(r, &large);
    for (uint32_t i = 1; i <= NODES; i++) {
        read_whole(r, i, &small);
        read_whole(r, i, &large);
    }

    /* A node is away while others accept, and comes back. */
    close_bodies(&r->nodes[3]);
    links_drop(r->nodes[1].links, 3);
    links_drop(r->nodes[2].links, 3);
    for (unsigned i = 0; i < MANY; i++)
        put(r, 1 + i % 2, &many[i], 100 + i * 37);
    for (unsigned i = 0; i < MANY; i++) {
        WAIT_FOR(r, many[i].called);
        assert_int_equal(many[i].status, 0);
        assert_int_equal(many[i].holders, 2 | 4);
        enqueue(r, &many[i]);
    }
    open_bodies(&r->nodes[3]);
    assert_true(missing(r, 3) > 0);
    WAIT_FOR(r, missing(r, 3) == 0);
    for (unsigned i = 0; i < MANY; i++)
        assert_true(has(r, 3, &many[i]));
    read_whole(r, 3, &many[MANY - 1]);

    /* Its disk rots. */
    close_bodies(&r->nodes[3]);
    ruin(&r->nodes[3]);
    open_bodies(&r->nodes[3]);
    for (unsigned i = 0; i < MANY; i += 7)
        read_whole(r, 3, &many[i]);
    read_whole(r, 3, &large);
    read_whole(r, 3, &small);
    WAIT_FOR(r, missing(r, 3) == 0);

    /* Another's rots under it while it runs: nothing wrong is ever handed out. */
    ruin(&r->nodes[2]);
    for (unsigned i = 0; i < MANY; i += 7)
        read_whole(r, 2, &many[i]);
    read_whole(r, 2, &large);
    bodies_stats(r->nodes[2].b, &stats);
    assert_true(stats.repaired > 0);
    WAIT_FOR(r, missing(r, 2) == 0);

    /* Everything ends: nothing is left on any disk. */
    node_up(r);
    deliver(r, &small);
    deliver(r, &large);
    for (unsigned i = 0; i < MANY; i++)
        deliver(r, &many[i]);
    for (uint32_t i = 1; i <= NODES; i++) {
        assert_false(has(r, i, &small));
        for (unsigned k = 0; k < MANY; k++)
            assert_false(has(r, i, &many[k]));
    }
    rig_close(r);
    free(small.data);
    free(large.data);
    for (unsigned i = 0; i < MANY; i++)
        free(many[i].data);
}

static void close_while_frames_fly(void **state)
{
    struct rig *r = rig_open();
    struct put puts[20];
    (void)state;
    WAIT_FOR(r, all_up(r));
    for (unsigned i = 0; i < 20; i++)
        put(r, 1 + i % 3, &puts[i], SMALL + i);
    rig_close(r);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(puts[i].called, 1);
        assert_true(puts[i].status == 0 || puts[i].status == MR_CANCELLED);
        free(puts[i].data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_life_of_three_nodes),
        cmocka_unit_test(close_while_frames_fly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
