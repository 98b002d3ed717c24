/* Three nodes on one loop, with TLS and without: order, volume, back-pressure, restarts, changes of peers, close at any
 * turn. */
#include "cluster/test_link.h"
#include "proto/base/hash.h"

/* ---- frames in order ---- */

enum { SMALL_FRAMES = 100000, BULK_FRAME = 256 << 10, BULK_FRAMES = 400 /* 100 MiB */ };

struct stream {
    struct test_node *from;
    uint32_t to;
    enum link_channel channel;
    uint64_t sent, received, total;
    size_t most_queued;
    bool waiting;
    unsigned waits;
    uint8_t *piece;
};

static void put64(uint8_t out[8], uint64_t value)
{
    memcpy(out, &value, 8);
}

static int in_order(struct test_node *n, uint32_t peer, enum link_channel channel, enum frame_type type,
                    const uint8_t *meta, size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    struct stream *s = n->test;
    uint64_t number, hash;
    assert_int_equal(peer, s->from->id);
    assert_int_equal(channel, s->channel);
    assert_int_equal(type, FRAME_HEARTBEAT + s->received % 3);
    assert_int_equal(meta_len, 16);
    memcpy(&number, meta, 8);
    memcpy(&hash, meta + 8, 8);
    assert_int_equal(number, s->received);
    assert_int_equal(hash, XXH3_64bits(tail, tail_len));
    s->received++;
    return 0;
}

static void send_more(struct stream *s);

static void on_room(void *arg, int status)
{
    struct stream *s = arg;
    assert_int_equal(status, 0);
    assert_true(s->waiting);
    s->waiting = false;
    assert_true(links_queued(s->from->links, s->to, s->channel) < 1 << 20);
    send_more(s);
}

static void send_more(struct stream *s)
{
    struct links *l = s->from->links;
    while (s->sent < s->total) {
        uint8_t meta[16];
        size_t len = s->piece != NULL ? BULK_FRAME - s->sent % 5000 : s->sent % 90;
        uint8_t small[90];
        uint8_t *tail = s->piece != NULL ? s->piece : small;
        memset(tail, (int)s->sent, 90);
        struct link_buffer parts[2] = {{tail, len / 3}, {tail + len / 3, len - len / 3}};
        put64(meta, s->sent);
        put64(meta + 8, XXH3_64bits(tail, len));
        int rc = links_send(l, s->to, s->channel, (enum frame_type)(FRAME_HEARTBEAT + s->sent % 3), meta, 16, parts, 2);
        size_t queued = links_queued(l, s->to, s->channel);
        if (queued > s->most_queued)
            s->most_queued = queued;
        if (rc == MR_BUSY) {
            s->waiting = true;
            s->waits++;
            assert_int_equal(links_when_drained(l, s->to, s->channel, 1 << 20, on_room, s), 0);
            return;
        }
        assert_int_equal(rc, 0);
        s->sent++;
    }
}

static bool all_received(void *arg)
{
    struct stream *s = arg;
    return s->received == s->total;
}

static void run_stream(bool insecure, enum link_channel channel, uint64_t total, bool bulk)
{
    struct test_mesh m;
    test_mesh_init(&m, insecure);
    test_mesh_connect(&m);
    struct stream s = {.from = &m.nodes[0], .to = 2, .channel = channel, .total = total};
    if (bulk) {
        s.piece = mr_malloc(BULK_FRAME);
        for (size_t i = 0; i < BULK_FRAME; i++)
            s.piece[i] = (uint8_t)(i * 2654435761U >> 13);
    }
    m.nodes[1].on_frame = in_order;
    m.nodes[1].test = &s;
    uint64_t start = uv_hrtime();
    send_more(&s);
    test_wait(&m, all_received, &s, "all frames");
    print_message("%s %llu frames in %.2f s, %u waits\n", insecure ? "plain" : "TLS", (unsigned long long)total,
                  (double)(uv_hrtime() - start) / 1e9, s.waits);
    assert_true(s.most_queued <= (channel == LINK_BULK ? LINK_MAX_BULK : LINK_MAX_QUEUE) + 200000); /* + TLS's own */
    if (bulk)
        assert_true(s.waits > 0);
    assert_int_equal(m.nodes[0].frames + m.nodes[2].frames, 0);
    assert_int_equal(m.nodes[0].downs + m.nodes[1].downs + m.nodes[2].downs, 0);
    free(s.piece);
    test_mesh_close(&m);
}

static void small_frames_tls(void **state)
{
    (void)state;
    run_stream(false, LINK_CONTROL, SMALL_FRAMES, false);
}

static void small_frames_plain(void **state)
{
    (void)state;
    run_stream(true, LINK_CONTROL, SMALL_FRAMES, false);
}

static void bulk_tls(void **state)
{
    (void)state;
    run_stream(false, LINK_BULK, BULK_FRAMES, true);
}

static void bulk_plain(void **state)
{
    (void)state;
    run_stream(true, LINK_BULK, BULK_FRAMES, true);
}

/* ---- sizes ---- */

static bool has_frames(void *arg)
{
    return ((struct test_node *)arg)->frames >= 3;
}

static int largest(struct test_node *n, uint32_t peer, enum link_channel channel, enum frame_type type,
                   const uint8_t *meta, size_t meta_len, const uint8_t *tail, size_t tail_len)
{
    (void)peer, (void)channel, (void)meta, (void)tail;
    if (type == FRAME_PROPOSE)
        assert_true(meta_len == FRAME_MAX_META && tail_len == FRAME_MAX_TAIL);
    else if (type == FRAME_FORM_REQUEST)
        assert_true(meta_len == 0 && tail_len == 0);
    else
        assert_true(meta_len == 0 && tail_len == 1);
    (void)n;
    return 0;
}

static void sizes_at_their_limits(void **state)
{
    struct test_mesh m;
    uint8_t *bytes = mr_calloc(1, FRAME_MAX_TAIL + 1);
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    struct links *l = m.nodes[0].links;
    struct link_buffer tail = {bytes, FRAME_MAX_TAIL}, over = {bytes, FRAME_MAX_TAIL + 1}, one = {bytes, 1};
    m.nodes[1].on_frame = largest;
    assert_int_equal(links_send(l, 2, LINK_CONTROL, FRAME_PROPOSE, bytes, FRAME_MAX_META, &tail, 1), 0);
    assert_int_equal(links_send(l, 2, LINK_CONTROL, FRAME_FORM_REQUEST, NULL, 0, NULL, 0), 0);
    assert_int_equal(links_send(l, 2, LINK_BULK, FRAME_RAFT, NULL, 0, &one, 1), 0);
    assert_int_equal(links_send(l, 2, LINK_BULK, FRAME_RAFT, NULL, 0, &over, 1), MR_LIMIT);
    assert_int_equal(links_send(l, 2, LINK_BULK, FRAME_RAFT, bytes, FRAME_MAX_META + 1, NULL, 0), MR_LIMIT);
    assert_int_equal(links_send(l, 9, LINK_BULK, FRAME_RAFT, NULL, 0, NULL, 0), MR_UNREACHABLE);
    test_wait(&m, has_frames, &m.nodes[1], "three frames");
    test_mesh_close(&m);
    free(bytes);
}

/* ---- waiting for room ---- */

static int drained_status;
static void on_drained_status(void *arg, int status)
{
    (void)arg;
    drained_status = status;
}

/* Each fills the link when it has room, and waits again, until it has done so often enough. */
struct filler {
    struct test_node *from;
    size_t below, most; /* waits for less than that; sends until as much is queued */
    uint8_t *piece;
    unsigned rounds, calls, order;
    int status;
    bool again;
};
static unsigned filler_calls;

static void fill_up(const struct filler *f)
{
    struct link_buffer tail = {f->piece, BULK_FRAME};
    while (links_queued(f->from->links, 2, LINK_BULK) < f->most)
        assert_int_equal(links_send(f->from->links, 2, LINK_BULK, FRAME_RAFT, NULL, 0, &tail, 1), 0);
}

static void on_filler_room(void *arg, int status)
{
    struct filler *f = arg;
    f->status = status;
    f->calls++;
    f->order = ++filler_calls;
    if (status != 0 && !f->again)
        return;
    if (status == 0) {
        if (f->calls == f->rounds)
            return;
        fill_up(f);
    }
    f->again = false;
    assert_int_equal(links_when_drained(f->from->links, 2, LINK_BULK, f->below, on_filler_room, f), 0);
}

static void wait_for_room(struct filler *f)
{
    f->status = 1;
    f->calls = 0;
    assert_int_equal(links_when_drained(f->from->links, 2, LINK_BULK, f->below, on_filler_room, f), 0);
}

static bool fillers_called(void *arg)
{
    struct filler *f = arg;
    return f[0].calls >= f[0].rounds && f[1].calls >= f[1].rounds;
}

static void check_both(struct test_mesh *m, struct filler f[2], int status)
{
    test_wait(m, fillers_called, f, "both waiters");
    assert_int_equal(f[0].status, status);
    assert_int_equal(f[1].status, status);
    assert_int_equal(f[0].calls, f[0].rounds);
    assert_int_equal(f[1].calls, f[1].rounds);
}

static bool called_though_full(void *arg)
{
    struct filler *f = arg;
    if (f->calls == 0)
        fill_up(f);
    return f->calls > 0;
}

/* Two wait for room on one channel, as a transfer and the bodies do: neither keeps the other from its turn, though each
 * leaves no room for the other, nor does who never waits; and both learn it when the link ends, in whatever way. */
static void two_waiters(void **state)
{
    struct test_mesh m;
    uint8_t *piece = mr_calloc(1, BULK_FRAME);
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    struct links *l = m.nodes[0].links;
    struct filler f[2] = {{.from = &m.nodes[0], .below = 1 << 20, .most = 6 << 20, .piece = piece, .rounds = 20},
                          {.from = &m.nodes[0], .below = 1 << 20, .most = 6 << 20, .piece = piece, .rounds = 20}};
    fill_up(&f[0]);
    wait_for_room(&f[0]);
    wait_for_room(&f[1]);
    assert_int_equal(links_when_drained(l, 2, LINK_BULK, 1, on_filler_room, &f[0]), MR_BUSY);
    assert_int_equal(links_when_drained(l, 3, LINK_BULK, 1, on_drained_status, NULL), 0); /* another's is free */
    check_both(&m, f, 0);
    assert_true(f[1].order == f[0].order + 1); /* by turns to the end */

    f[0].most = 14 << 20; /* more than sockets take in a turn of the loop */
    f[0].below = 1 << 20; /* the later one has its room earlier */
    f[1].below = 12 << 20;
    f[0].rounds = f[1].rounds = 1;
    fill_up(&f[0]);
    wait_for_room(&f[0]);
    wait_for_room(&f[1]);
    check_both(&m, f, 0);
    assert_true(f[1].order < f[0].order);

    f[0].below = BULK_FRAME;
    fill_up(&f[0]);
    wait_for_room(&f[0]);
    test_wait(&m, called_though_full, &f[0], "room for one piece, though there never is less than the others send");
    assert_int_equal(f[0].status, 0);

    f[0].below = f[1].below = 0; /* never by itself */
    f[0].rounds = 2;             /* also who waits again when told that there is no link */
    f[0].again = true;
    wait_for_room(&f[0]);
    wait_for_room(&f[1]);
    links_drop(l, 2);
    check_both(&m, f, MR_UNREACHABLE);
    test_wait(&m, test_all_up, &m, "the link is back");

    f[0].rounds = 1;
    wait_for_room(&f[0]);
    wait_for_room(&f[1]);
    links_remove_peer(l, 2);
    assert_int_equal(f[0].calls + f[1].calls, 0); /* not from inside the call */
    check_both(&m, f, MR_UNREACHABLE);
    test_mesh_close(&m);
    free(piece);
}

/* ---- restarts and changes ---- */

static bool mx2_is_down(void *arg)
{
    struct test_mesh *m = arg;
    return !m->nodes[0].up[2][0] && !m->nodes[0].up[2][1] && !m->nodes[2].up[2][0] && !m->nodes[2].up[2][1];
}

static bool drained_called(void *arg)
{
    (void)arg;
    return drained_status != 1;
}

static void peer_restarts(void **state)
{
    struct test_mesh m;
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    for (int round = 0; round < 3; round++) {
        int port = links_port(m.nodes[1].links);
        drained_status = 1;
        test_node_close(&m, &m.nodes[1]);
        test_wait(&m, mx2_is_down, &m, "its peers notice");
        assert_false(links_is_up(m.nodes[0].links, 2, LINK_CONTROL));
        assert_int_equal(links_send(m.nodes[0].links, 2, LINK_CONTROL, FRAME_RAFT, NULL, 0, NULL, 0), MR_UNREACHABLE);
        assert_int_equal(links_when_drained(m.nodes[0].links, 2, LINK_CONTROL, 1, on_drained_status, NULL), 0);
        assert_int_equal(drained_status, 1); /* not from inside the call */
        test_wait(&m, drained_called, NULL, "the waiter of a link that is down");
        assert_int_equal(drained_status, MR_UNREACHABLE);
        test_node_open(&m, &m.nodes[1], port);
        test_add_peers(&m, &m.nodes[1]);
        test_wait(&m, test_all_up, &m, "all up again");
    }
    test_mesh_close(&m);
}

static bool two_refusals(void *arg)
{
    return ((struct test_node *)arg)->refusals >= 2;
}

static void handler_refuses(void **state)
{
    struct test_mesh m;
    (void)state;
    test_mesh_init(&m, false);
    m.nodes[1].check_says = "your disk was wiped";
    m.nodes[1].check_only = 1;
    for (int i = 0; i < TEST_NODES; i++)
        test_add_peers(&m, &m.nodes[i]);
    test_wait(&m, two_refusals, &m.nodes[0], "refusals");
    assert_string_equal(m.nodes[0].refused, "your disk was wiped");
    assert_false(m.nodes[0].up[2][0]);
    assert_false(m.nodes[1].up[1][0]); /* neither does mx2 take mx1's answer */
    m.nodes[1].check_says = NULL;
    test_wait(&m, test_all_up, &m, "all up once it is welcome");
    test_mesh_close(&m);
}

static bool dropped_and_back(void *arg)
{
    struct test_mesh *m = arg;
    return m->nodes[0].downs >= 2 && test_all_up(m);
}

static void drop_remove_add(void **state)
{
    struct test_mesh m;
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    links_drop(m.nodes[0].links, 2);
    assert_false(links_is_up(m.nodes[0].links, 2, LINK_CONTROL));
    assert_int_equal(m.nodes[0].downs, 0); /* not from inside the call */
    test_wait(&m, dropped_and_back, &m, "dropped links come back");
    assert_string_equal(m.nodes[0].down_reason, "dropped");

    unsigned downs = m.nodes[0].downs;
    drained_status = 1;
    assert_int_equal(links_when_drained(m.nodes[0].links, 2, LINK_CONTROL, 0, on_drained_status, NULL), 0);
    links_remove_peer(m.nodes[0].links, 2);
    assert_int_equal(links_send(m.nodes[0].links, 2, LINK_CONTROL, FRAME_RAFT, NULL, 0, NULL, 0), MR_UNREACHABLE);
    test_wait(&m, drained_called, NULL, "the waiter of a removed peer");
    assert_int_equal(m.nodes[0].downs, downs);
    m.nodes[1].refusals = 0;
    test_wait(&m, two_refusals, &m.nodes[1], "a removed peer is refused");
    assert_non_null(strstr(m.nodes[1].refused, "belongs to the cluster"));

    memset(m.nodes[0].up[2], 0, sizeof(m.nodes[0].up[2]));
    assert_int_equal(links_add_peer(m.nodes[0].links, 2, "mx2", "127.0.0.1:1"), 0); /* nobody there */
    char address[40];
    (void)snprintf(address, sizeof(address), "localhost:%d", links_port(m.nodes[1].links));
    assert_int_equal(links_add_peer(m.nodes[0].links, 2, "mx2", address), 0); /* moved, and has to be looked up */
    test_wait(&m, test_all_up, &m, "up at the new address");
    test_mesh_close(&m);
}

static void wrong_arguments(void **state)
{
    struct test_mesh m;
    (void)state;
    test_mesh_init(&m, true);
    struct links *l = m.nodes[0].links;
    static const char *const bad[] = {"",         "host",  ":1",   "host:", "host:x", "host:70000",
                                      "::1:7400", "[::1]", "[]:1", "[x]:1", "a]:1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(links_add_peer(l, 2, "mx2", bad[i]), MR_INVAL);
    assert_int_equal(links_add_peer(l, 2, "", "h:1"), MR_INVAL);
    assert_int_equal(links_add_peer(l, 2, "mx1", "h:1"), MR_INVAL);
    assert_int_equal(links_add_peer(l, 2, "mx2", "[::1]:1"), 0);
    assert_int_equal(links_add_peer(l, 3, "mx2", "127.0.0.1:1"), MR_EXISTS);
    assert_int_equal(links_add_peer(l, 2, "mx3", "127.0.0.1:1"), MR_EXISTS);
    for (uint32_t i = 3; i < 2 + LINK_MAX_PEERS; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "n%u", i);
        assert_int_equal(links_add_peer(l, i, name, "127.0.0.1:1"), 0);
    }
    assert_int_equal(links_add_peer(l, 1000, "more", "127.0.0.1:1"), MR_LIMIT);
    assert_int_equal(links_when_drained(l, 1000, LINK_BULK, 1, on_drained_status, NULL), MR_NOTFOUND);
    test_mesh_close(&m);
}

static int try_open(struct test_mesh *m, const char *listen, const char *ca, const char *cert, const char *key,
                    char *error)
{
    struct links *l = NULL;
    char paths[3][100];
    const char *const names[3] = {ca, cert, key};
    for (int i = 0; i < 3; i++)
        (void)snprintf(paths[i], sizeof(paths[i]), "%s/%s", m->dir, names[i] != NULL ? names[i] : "");
    struct links_config config = {.loop = &m->loop,
                                  .listen = listen,
                                  .name = "mx1",
                                  .insecure = ca == NULL,
                                  .ca = paths[0],
                                  .cert = paths[1],
                                  .key = paths[2],
                                  .handler = test_handler(&m->nodes[0])};
    error[0] = 0;
    int rc = links_open(&l, &config, error, 300);
    if (rc == 0)
        fail_msg("links_open should have failed: %s %s %s %s", listen, ca, cert, key);
    assert_true(strlen(error) > 10);
    return rc;
}

static void open_fails_with_a_reason(void **state)
{
    struct test_mesh m;
    char error[300], taken[40];
    (void)state;
    test_mesh_init(&m, false);
    (void)snprintf(taken, sizeof(taken), "127.0.0.1:%d", links_port(m.nodes[0].links));
    assert_int_equal(try_open(&m, taken, "ca.pem", "mx1.pem", "mx1.key", error), MR_IO);
    assert_int_equal(try_open(&m, "127.0.0.1:0", "no.pem", "mx1.pem", "mx1.key", error), MR_TLS);
    assert_non_null(strstr(error, "no.pem"));
    assert_int_equal(try_open(&m, "127.0.0.1:0", "ca.pem", "no.pem", "mx1.key", error), MR_TLS);
    assert_int_equal(try_open(&m, "127.0.0.1:0", "ca.pem", "mx1.pem", "mx2.key", error), MR_TLS);
    assert_non_null(strstr(error, "mx2.key"));
    assert_int_equal(try_open(&m, "127.0.0.1:0", "ca.pem", "mx1.pem", "mx1.pem", error), MR_TLS);
    assert_int_equal(try_open(&m, "nonsense", "ca.pem", "mx1.pem", "mx1.key", error), MR_CONFIG);
    assert_int_equal(try_open(&m, "0.0.0.0:0", NULL, NULL, NULL, error), MR_CONFIG);
    assert_non_null(strstr(error, "loopback"));
    test_mesh_close(&m);
}

static void certificates_are_reloaded(void **state)
{
    struct test_mesh m;
    char path[100], error[300] = "";
    (void)state;
    test_mesh_init(&m, false);
    test_mesh_connect(&m);
    /* A new CA for everybody; running connections stay, new ones are made with the new files. */
    struct test_ca ca = test_ca_new(m.dir, "ca");
    for (int i = 0; i < TEST_NODES; i++)
        test_ca_issue(&ca, m.dir, m.nodes[i].name, m.nodes[i].name, NULL);
    for (int i = 0; i < TEST_NODES; i++)
        assert_int_equal(links_reload(m.nodes[i].links, error, sizeof(error)), 0);
    assert_true(test_all_up(&m));
    links_drop(m.nodes[0].links, 2);
    test_wait(&m, dropped_and_back, &m, "links with new certificates");
    /* A broken file: refused, the old one goes on. */
    (void)snprintf(path, sizeof(path), "%s/mx1.pem", m.dir);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(links_reload(m.nodes[0].links, error, sizeof(error)), MR_TLS);
    assert_non_null(strstr(error, "mx1.pem"));
    m.nodes[0].downs = 0;
    links_drop(m.nodes[0].links, 2);
    test_wait(&m, dropped_and_back, &m, "links with the certificates before");
    test_ca_free(&ca);
    test_mesh_close(&m);
}

/* ---- close at any turn of the loop; the sanitizer finds what is touched or kept after it ---- */

static void on_other_status(void *arg, int status)
{
    *(int *)arg = status;
}

static void close_at_turn(bool insecure, int turns)
{
    struct test_mesh m;
    test_mesh_init(&m, insecure);
    for (int i = 0; i < TEST_NODES; i++)
        test_add_peers(&m, &m.nodes[i]);
    for (int i = 0; i < turns; i++)
        uv_run(&m.loop, UV_RUN_ONCE);
    uint8_t bytes[5000] = {0};
    struct link_buffer tail = {bytes, sizeof(bytes)};
    for (int i = 0; i < 50; i++)
        (void)links_send(m.nodes[0].links, 2, LINK_BULK, FRAME_RAFT, bytes, 100, &tail, 1);
    drained_status = 1;
    int other_status = 1;
    assert_int_equal(links_when_drained(m.nodes[0].links, 2, LINK_BULK, 0, on_drained_status, NULL), 0);
    assert_int_equal(links_when_drained(m.nodes[0].links, 2, LINK_BULK, 0, on_other_status, &other_status), 0);
    for (int i = 0; i < TEST_NODES; i++)
        links_close(m.nodes[i].links, test_on_closed, &m.nodes[i]);
    for (int i = 0; i < TEST_NODES; i++)
        test_wait(&m, test_is_closed, &m.nodes[i], "close");
    assert_int_equal(drained_status, MR_CLOSED);
    assert_int_equal(other_status, MR_CLOSED);
    test_mesh_close(&m);
}

static void close_at_any_turn(void **state)
{
    (void)state;
    for (int turns = 0; turns < 40; turns++) {
        close_at_turn(true, turns);
        close_at_turn(false, turns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_frames_tls),
        cmocka_unit_test(small_frames_plain),
        cmocka_unit_test(bulk_tls),
        cmocka_unit_test(bulk_plain),
        cmocka_unit_test(sizes_at_their_limits),
        cmocka_unit_test(two_waiters),
        cmocka_unit_test(peer_restarts),
        cmocka_unit_test(handler_refuses),
        cmocka_unit_test(drop_remove_add),
        cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(open_fails_with_a_reason),
        cmocka_unit_test(certificates_are_reloaded),
        cmocka_unit_test(close_at_any_turn),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("LINK_TEST_LOG") != NULL ? LOG_DEBUG : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
