/* Slots: what is kept, what is given back, what is told of a connection's end; leases, drains, the send queue. */
#include "node/delivery/test_delivery_fake.h"

#define DELIVERED MAILRAFT__RESULT__DELIVERED
#define DEFERRED  MAILRAFT__RESULT__DEFERRED
#define FAILED    MAILRAFT__RESULT__FAILED

static void start(void)
{
    server_open();
    host_open();
}

static unsigned count(const char *text, const char *word)
{
    unsigned n = 0;
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        n++;
    return n;
}

/* ---- one connection a slot ---- */

static void attempts_of_a_slot_share_a_connection(void **state)
{
    (void)state;
    start();
    for (int i = 0; i < 4; i++)
        give(7, 1);
    for (uint32_t i = 0; i < 4; i++)
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    assert_int_equal(count(server.connections[0]->commands, "EHLO"), 1);
    assert_int_equal(count(server.connections[0]->commands, "RSET"), 0);
    assert_int_equal(core.n_closed, 0); /* kept for a while */
    give(7, 1);
    assert_result(wait_told(4), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    host_close();
    assert_int_equal(core.n_closed, 1);
    assert_int_equal(core.closed[0].slot, 7);
    assert_int_equal(core.closed[0].attempts, 5);
}

static void slots_are_apart(void **state)
{
    (void)state;
    start();
    give(1, 1);
    give(2, 1);
    (void)wait_told(0);
    (void)wait_told(1);
    assert_int_equal(server.n, 2);
    host_close();
    assert_int_equal(core.n_closed, 2);
}

static void idle_connections_end_with_quit(void **state)
{
    (void)state;
    start();
    host.config.delivery.idle_connection_ms = 50;
    give(3, 1);
    (void)wait_told(0);
    assert_int_equal(core.n_closed, 0);
    WAIT_FOR(core.n_closed == 1);
    assert_int_equal(core.closed[0].attempts, 1);
    WAIT_FOR(server.open == 0);
    assert_int_equal(count(server.connections[0]->commands, "QUIT|"), 1);
    give(3, 1); /* the slot begins anew, and so does its count */
    (void)wait_told(1);
    WAIT_FOR(core.n_closed == 2);
    assert_int_equal(core.closed[1].attempts, 1);
    host_close();
}

static void messages_per_connection(void **state)
{
    (void)state;
    start();
    host.limit.messages_per_connection = 2;
    for (int i = 0; i < 5; i++)
        give(0, 1);
    for (uint32_t i = 0; i < 5; i++)
        assert_result(wait_told(i), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 3);
    WAIT_FOR(server.open == 1);
    assert_int_equal(count(server.connections[0]->commands, "MAIL"), 2);
    assert_int_equal(count(server.connections[0]->commands, "QUIT|"), 1);
    assert_int_equal(count(server.connections[2]->commands, "MAIL"), 1);
    host_close();
    assert_int_equal(core.n_closed, 1);
}

/* A server that ends each EHLO is asked with it again for each message; one that takes a connection at a time has let
 * go of that by HELO before the next one comes. */
static void one_connection_by_helo_at_a_time(void **state)
{
    (void)state;
    start();
    server.limit = 1;
    server_rule("EHLO", DROP, 0, 0);
    server_rule("RCPT", "450 4.2.0 later", 2, 1); /* RSET would be next */
    give(0, 1);
    struct attempt *utf8 = make_attempt(server.route, 0, 1); /* none of its commands is said */
    ((struct attempt_recipient *)(utf8 + 1))->address = "\xc3\xbc@example.org";
    utf8->flags |= MESSAGE_SMTPUTF8;
    delivery_attempt(host.delivery, utf8);
    for (int i = 0; i < 3; i++)
        give(0, 1);
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
    assert_result(wait_told(1), 0, FAILED, "5.6.7", "not ASCII");
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    assert_result(wait_told(3), 0, DEFERRED, "4.2.0", "later");
    assert_result(wait_told(4), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 15); /* twice EHLO, once HELO */
    assert_int_equal(server.most_open, 1);
    for (unsigned i = 2; i + 1 < server.n; i += 3)
        assert_int_equal(count(server.connections[i]->commands, "QUIT|"), 1);
    host_close();
}

/* ---- a kept connection that has died ---- */

static void the_server_ended_it_while_idle(void **state)
{
    (void)state;
    start();
    give(0, 1);
    (void)wait_told(0);
    connection_close(server.connections[0]);
    WAIT_FOR(core.n_closed == 1);
    give(0, 1);
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 2);
    host_close();
}

/* Without a word of an answer, or with a 421 that was already on its way: the attempt goes over a new connection. */
static void it_dies_as_it_is_used_again(void **state)
{
    static const char *const ends[] = {DROP, "421 4.4.2 idle for too long"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        start();
        core.piece_size = 7;
        core.hold[OWED_READ] = false;
        server_rule("MAIL", ends[i], 1, 1);
        give(0, 1);
        (void)wait_told(0);
        core.hold[OWED_READ] = true; /* the first piece is still on its way when the connection dies */
        give(0, 1);
        WAIT_FOR(server.n == 2);
        WAIT_FOR(server.connections[1]->commands[0] != 0);
        core.hold[OWED_READ] = false;
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, 2);
        assert_int_equal(server.connections[1]->body_len, core.body_len); /* nothing twice */
        assert_memory_equal(server.connections[1]->body, core.body, core.body_len);
        assert_int_equal(server.most_open, 1);
        host_close();
    }
}

/* The piece comes between the death of the old connection and the transaction over the new one. */
static void a_late_piece_of_the_old_connection(void **state)
{
    (void)state;
    start();
    core.piece_size = 7;
    server_rule("MAIL", DROP, 1, 1);
    server_rule("", "220 first", 0, 1);
    server_rule("", SILENT, 0, 1);
    give(0, 1);
    (void)wait_told(0);
    core.hold[OWED_READ] = true;
    give(0, 1);
    WAIT_FOR(server.n == 2);
    core.hold[OWED_READ] = false;
    turn();
    turn();
    server.connections[1]->mute = false;
    say(server.connections[1], "220 after all");
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.connections[1]->body_len, core.body_len);
    assert_memory_equal(server.connections[1]->body, core.body, core.body_len);
    host_close();
}

static void a_second_death_counts(void **state)
{
    (void)state;
    start();
    server_rule("MAIL", DROP, 1, 2);
    give(0, 1);
    (void)wait_told(0);
    give(0, 1);
    assert_result(wait_told(1), 0, DEFERRED, "4.4.2", "connection lost");
    assert_int_equal(server.n, 2);
    host_close();
}

/* ---- the send queue ---- */

/* A server that does not read: no dot, and never more than two pieces in memory. */
static void a_slow_reader(void **state)
{
    enum { SIZE = 12 << 20, PIECE = 256 << 10 };
    char *body = mr_malloc(SIZE);
    (void)state;
    server_open_at("127.0.0.1", 0, 64 << 10);
    host_open();
    memset(body, 'x', SIZE);
    for (size_t i = 76; i + 1 < SIZE; i += 78)
        memcpy(body + i, "\r\n", 2);
    core.body = body;
    core.body_len = SIZE;
    core.piece_size = PIECE;
    server.ehlo = "250-hop.example\r\n250-8BITMIME\r\n250 PIPELINING"; /* not read before it is sent */
    give(0, 1);
    WAIT_FOR(server.n == 1 && server.connections[0]->data);
    server.reading = false;
    unsigned reads = 0;
    for (int quiet = 0; quiet < 50; quiet++) { /* until nothing moves any more */
        turn();
        if (core.reads != reads)
            quiet = 0;
        reads = core.reads;
    }
    assert_true(reads < SIZE / PIECE); /* it stands, the rest is not read */
    assert_int_equal(core.most_reads, 1);
    assert_int_equal(core.dots, 0);
    assert_int_equal(core.n_told, 0);
    server.reading = true;
    int large = 4 << 20; /* so that the rest does not last */
    (void)setsockopt(server.connections[0]->fd, SOL_SOCKET, SO_RCVBUF, &large, sizeof(large));
    WAIT_FOR(core.n_told == 1);
    assert_result(told_of(0), 0, DELIVERED, "2.0.0", "taken");
    assert_true(server.connections[0]->body_len >= SIZE);
    assert_memory_equal(server.connections[0]->body, body, SIZE);
    host_close();
    free(body);
}

/* All of the body is in our kernel, but not with the peer: the dot waits, and when the lease ends it is never written.
 */
static void no_dot_while_the_body_waits_in_the_kernel(void **state)
{
    enum { SIZE = 200 << 10 };
    char *body = mr_malloc(SIZE);
    (void)state;
    server_open_at("127.0.0.1", 0, 4096);
    host_open();
    memset(body, 'x', SIZE);
    memcpy(body + SIZE - 2, "\r\n", 2);
    core.body = body;
    core.body_len = SIZE;
    core.piece_size = SIZE;
    give(0, 1);
    core.hold[OWED_READ] = true;
    WAIT_FOR(server.n == 1 && server.connections[0]->data);
    server.reading = false;
    core.hold[OWED_READ] = false;
    for (int i = 0; i < 100; i++)
        turn();
    assert_int_equal(core.dots, 0);
    core.lease = false;
    delivery_lease_ended(host.delivery);
    assert_released(wait_told(0), "lease ended");
    server.reading = true;
    WAIT_FOR(server.open == 0 && core.n_closed == 1);
    assert_int_equal(server.connections[0]->dots, 0);
    host_close();
    free(body);
}

static void the_queue_is_not_taken_in_time(void **state)
{
    enum { SIZE = 200 << 10 };
    char *body = mr_malloc(SIZE);
    (void)state;
    server_open_at("127.0.0.1", 0, 4096);
    host_open();
    host.config.delivery.data_timeout_ms = 300;
    memset(body, 'x', SIZE);
    memcpy(body + SIZE - 2, "\r\n", 2);
    core.body = body;
    core.body_len = SIZE;
    core.piece_size = SIZE;
    core.hold[OWED_READ] = true;
    give(0, 1);
    WAIT_FOR(server.n == 1 && server.connections[0]->data);
    server.reading = false;
    core.hold[OWED_READ] = false;
    assert_result(wait_told(0), 0, DEFERRED, "4.4.2", "before the end of the transaction");
    assert_int_equal(core.dots, 0);
    host_close();
    free(body);
}

/* ---- leases ---- */

static void no_lease_no_transaction(void **state)
{
    (void)state;
    start();
    core.lease = false;
    give(0, 1);
    assert_released(wait_told(0), "no lease");
    WAIT_FOR(core.n_closed == 1);
    assert_int_equal(server.n, 0);
    core.lease = true;
    server_rule("", SILENT, 0, 0);
    give(0, 1);
    WAIT_FOR(server.n == 1);
    core.lease = false; /* gone while connecting: nothing is begun */
    server.connections[0]->mute = false;
    say(server.connections[0], "220 hello");
    assert_released(wait_told(1), "lease ended");
    assert_int_equal(count(server.connections[0]->commands, "MAIL"), 0);
    host_close();
}

/* It is gone when the dot would be due, before anybody says lease_ended. */
static void lease_lost_before_the_dot(void **state)
{
    (void)state;
    start();
    core.hold[OWED_READ] = true;
    give(0, 1);
    WAIT_FOR(server.n == 1 && server.connections[0]->data);
    core.lease = false;
    core.hold[OWED_READ] = false;
    assert_released(wait_told(0), "lease ended before the final dot");
    assert_int_equal(core.dots, 0);
    WAIT_FOR(server.open == 0 && core.n_closed == 1);
    assert_int_equal(server.connections[0]->dots, 0);
    host_close();
}

static void lease_ended_everywhere(void **state)
{
    (void)state;
    start();
    give(1, 1); /* 0: its connection stays idle */
    (void)wait_told(0);
    server_rule(".", SILENT, 0, 1);
    give(2, 1); /* 1: waits for the reply to its dot */
    give(2, 1); /* 2: behind it */
    WAIT_FOR(core.dots == 2);
    server.n_rules = 0;
    server_rule("RCPT", SILENT, 0, 0);
    give(3, 1); /* 3: in the middle */
    give(3, 1); /* 4: behind it */
    WAIT_FOR(server.n == 3 && strstr(server.connections[2]->commands, "RCPT") != NULL);
    core.lease = false;
    delivery_lease_ended(host.delivery);
    assert_released(wait_told(2), "lease ended");
    assert_released(wait_told(3), "lease ended");
    assert_released(wait_told(4), "lease ended");
    WAIT_FOR(core.n_closed == 2);
    assert_null(told_of(1));
    assert_int_equal(server.connections[1]->dots, 1);
    WAIT_FOR(server.connections[0]->ended && server.connections[2]->ended);
    server.connections[1]->mute = false;
    say(server.connections[1], "250 2.0.0 late but true");
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "late but true");
    WAIT_FOR(core.n_closed == 3); /* not kept: without a lease it is not ours */
    assert_int_equal(core.dots, 2);
    host_close();
}

/* ---- withdrawn ---- */

static void withdrawn_everywhere(void **state)
{
    (void)state;
    start();
    give(1, 1); /* 0: its connection stays idle */
    (void)wait_told(0);
    server_rule(".", SILENT, 0, 1);
    give(2, 1); /* 1: waits for the reply to its dot */
    give(2, 1); /* 2: behind it */
    give(2, 1); /* 3: behind it, to stay */
    give(2, 1); /* 4: the last */
    WAIT_FOR(core.dots == 2);
    server.n_rules = 0;
    server_rule("RCPT", SILENT, 0, 1);
    give(3, 1); /* 5: in the middle */
    give(3, 1); /* 6: behind it, to stay */
    WAIT_FOR(server.n == 3 && strstr(server.connections[2]->commands, "RCPT") != NULL);
    core.withdrawn = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5;
    delivery_withdrawn(host.delivery);
    assert_released(wait_told(2), "withdrawn");
    assert_released(wait_told(4), "withdrawn");
    assert_released(wait_told(5), "withdrawn");
    assert_result(wait_told(6), 0, DELIVERED, "2.0.0", "taken"); /* over another connection */
    WAIT_FOR(server.connections[2]->ended);
    assert_int_equal(server.connections[2]->dots, 0);
    assert_int_equal(server.n, 4);
    assert_null(told_of(1));
    assert_null(told_of(3));
    give(2, 1); /* 7: behind 3 */
    server.connections[1]->mute = false;
    say(server.connections[1], "250 2.0.0 late but true");
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "late but true");
    assert_result(wait_told(3), 0, DELIVERED, "2.0.0", "taken"); /* over the same */
    assert_result(wait_told(7), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 4);
    assert_int_equal(core.dots, 5);
    assert_false(server.connections[0]->ended); /* the idle one is kept */
    host_close();
}

/* Withdrawn at every step of an attempt: it ends there, and the next one is made. */
static void withdrawn_at_every_step(void **state)
{
    static const char *const at[] = {"", "EHLO", "MAIL", "RCPT", "DATA", ".", NULL};
    (void)state;
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        bool dot = at[i] != NULL && at[i][0] == '.';
        start();
        core.hold[OWED_READ] = at[i] == NULL;
        if (at[i] != NULL)
            server_rule(at[i], SILENT, 0, 1);
        give(0, 2);
        give(0, 1);
        WAIT_FOR(server.n == 1 && (at[i] == NULL ? server.connections[0]->data : server.connections[0]->mute));
        WAIT_FOR(core.dots == dot);
        delivery_withdrawn(host.delivery); /* nothing is */
        core.withdrawn = 1;
        delivery_withdrawn(host.delivery);
        for (int k = 0; k < 5; k++)
            turn();
        core.hold[OWED_READ] = false; /* what was asked for the first comes late */
        if (dot) {
            server.connections[0]->mute = false;
            say(server.connections[0], "250 2.0.0 taken");
            assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "taken");
        } else {
            assert_released(wait_told(0), "withdrawn");
        }
        assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
        assert_int_equal(server.n, dot ? 1 : 2);
        assert_int_equal(core.dots, dot ? 2 : 1);
        host_close();
    }
}

static void withdrawn_while_resolving(void **state)
{
    (void)state;
    start();
    dns_fault("silent.example", 0, DNS_SILENT);
    delivery_attempt(host.delivery, make_attempt("mx:silent.example", 0, 1));
    WAIT_FOR(dns_asked("silent.example", DNS_MX) > 0);
    core.withdrawn = 1;
    delivery_withdrawn(host.delivery);
    assert_released(wait_told(0), "withdrawn");
    WAIT_FOR(core.n_closed == 1);
    host_close();
}

/* ---- deadlines ---- */

/* The body takes longer than the attempt may last: that is the next hop's doing, not the lease's. What it said of the
 * others counts. */
static void deadline_before_the_dot(void **state)
{
    (void)state;
    start();
    server_rule("RCPT TO:<r1", "550 5.1.1 no such user", 0, 0);
    core.hold[OWED_READ] = true;
    struct attempt *a = make_attempt(server.route, 0, 3);
    delivery_attempt(host.delivery, a);
    WAIT_FOR(server.n == 1 && server.connections[0]->data);
    a->deadline_ns = mr_boot_ns(&mr_clock_real);
    core.hold[OWED_READ] = false;
    const struct told *t = wait_told(0);
    assert_result(t, 0, DEFERRED, "4.4.2", "took longer than");
    assert_result(t, 1, FAILED, "5.1.1", "no such user");
    assert_result(t, 2, DEFERRED, "4.4.2", "took longer than");
    assert_true(t->outcome->retry_for_ms > 0);
    assert_false(t->outcome->unreached);
    assert_int_equal(core.dots, 0);
    WAIT_FOR(server.open == 0 && core.n_closed == 1);
    assert_int_equal(server.connections[0]->dots, 0);
    host_close();
}

/* A next hop that takes each step just in time, for hours: nothing but the deadline ends that. */
static void deadline_in_the_middle(void **state)
{
    static const char *const at[] = {"EHLO", "RCPT", "DATA"};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        start();
        host.config.delivery.command_timeout_ms = 600 * 1000;
        server_rule(at[i], SILENT, 0, 1);
        struct attempt *a = make_attempt(server.route, 0, 2);
        delivery_attempt(host.delivery, a);
        WAIT_FOR(server.n == 1 && server.connections[0]->mute);
        a->deadline_ns = mr_boot_ns(&mr_clock_real);
        const struct told *t = wait_told(0);
        assert_result(t, 0, DEFERRED, i == 0 ? "4.4.1" : "4.4.2", "took longer than");
        assert_result(t, 1, DEFERRED, i == 0 ? "4.4.1" : "4.4.2", "took longer than");
        assert_int_equal(t->outcome->unreached, i == 0);
        WAIT_FOR(server.open == 0 && core.n_closed == 1);
        host_close();
    }
}

/* The leader takes it back at a time: the replies that have come by then are told before it. */
static void replies_until_the_end(void **state)
{
    (void)state;
    start();
    server_lmtp();
    host.config.delivery.data_timeout_ms = 600 * 1000;
    server_rule(".", "250 2.1.5 first", 0, 1);
    server_rule(".", "550 5.7.0 never", 0, 1);
    server_rule(".", SILENT, 0, 0);
    struct attempt *a = make_attempt(server.route, 0, 4);
    delivery_attempt(host.delivery, a);
    WAIT_FOR(core.dots == 1 && server.connections[0]->mute);
    a->deadline_ns = mr_boot_ns(&mr_clock_real); /* alone it says nothing any more */
    uint64_t begun = a->deadline_ns;
    WAIT_FOR(mr_boot_ns(&mr_clock_real) - begun > 2 * DELIVERY_TICK_MS * MR_NS_PER_MS);
    assert_int_equal(core.n_told, 0);
    a->end_ns = mr_boot_ns(&mr_clock_real);
    const struct told *t = wait_told(0);
    assert_result(t, 0, DELIVERED, "2.1.5", "first");
    assert_result(t, 1, FAILED, "5.7.0", "never");
    assert_result(t, 2, DEFERRED, "4.4.2", "possibly delivered");
    assert_result(t, 3, DEFERRED, "4.4.2", "possibly delivered");
    assert_true(t->outcome->retry_for_ms > 0);
    WAIT_FOR(server.open == 0 && core.n_closed == 1);
    host_close();
}

/* ---- behind a busy one ---- */

static void behind_a_busy_one(void **state)
{
    (void)state;
    start();
    host.config.delivery.data_timeout_ms = 600 * 1000;
    server_rule(".", SILENT, 0, 1);
    uint64_t begun = mr_boot_ns(&mr_clock_real);
    give(0, 1);
    give(0, 1);
    assert_released(wait_told(1), "slot busy");
    assert_true(mr_boot_ns(&mr_clock_real) - begun >= DELIVERY_BUSY_MS * MR_NS_PER_MS);
    begun = mr_boot_ns(&mr_clock_real);
    give(0, 1); /* given to it once more: not thrown back at once, or they would play with it for ever */
    assert_released(wait_told(2), "slot busy");
    assert_true(mr_boot_ns(&mr_clock_real) - begun >= DELIVERY_BUSY_MS * MR_NS_PER_MS);
    assert_null(told_of(0));
    give(0, 1);
    server.connections[0]->mute = false;
    say(server.connections[0], "250 2.0.0 late");
    assert_result(wait_told(0), 0, DELIVERED, "2.0.0", "late");
    assert_result(wait_told(3), 0, DELIVERED, "2.0.0", "taken");
    assert_int_equal(server.n, 1);
    host_close();
}

/* ---- shutdown ---- */

static void drain(void **state)
{
    (void)state;
    start();
    give(1, 1); /* 0: idle afterwards */
    (void)wait_told(0);
    server_rule(".", SILENT, 0, 1);
    give(2, 1); /* 1: under way */
    give(2, 1); /* 2: behind it */
    WAIT_FOR(core.dots == 2);
    server_rule("", SILENT, 0, 1);
    give(3, 1); /* 3: connected, not begun */
    WAIT_FOR(server.n == 3);
    delivery_drain(host.delivery);
    assert_released(wait_told(2), "shutdown");
    assert_released(wait_told(3), "shutdown");
    WAIT_FOR(core.n_closed == 2);
    assert_int_equal(delivery_running(host.delivery), 1);
    give(4, 1);
    assert_released(wait_told(4), "shutdown");
    server.connections[1]->mute = false;
    say(server.connections[1], "250 2.0.0 taken");
    assert_result(wait_told(1), 0, DELIVERED, "2.0.0", "taken");
    WAIT_FOR(core.n_closed == 4 && server.open == 0);
    assert_int_equal(delivery_running(host.delivery), 0);
    host_close();
}

/* Closed at every step of an attempt: each ends once, each slot is told, and nothing is left (host_close looks). */
static void closed_at_every_step(void **state)
{
    static const char *const at[] = {"", "EHLO", "MAIL", "RCPT", "DATA", ".", NULL};
    (void)state;
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        start();
        core.hold[OWED_READ] = at[i] == NULL;
        if (at[i] != NULL)
            server_rule(at[i], SILENT, 0, 0);
        give(0, 2);
        give(0, 1);
        WAIT_FOR(server.n == 1 && (at[i] == NULL ? server.connections[0]->data : server.connections[0]->mute));
        if (at[i] != NULL && at[i][0] == '.')
            WAIT_FOR(core.dots == 1);
        delivery_close(host.delivery, on_closed, NULL);
        for (int k = 0; k < 5; k++)
            turn();
        core.hold[OWED_READ] = false; /* a slot stays until its read is back */
        WAIT_FOR(host.closed);
        bool dot = at[i] != NULL && at[i][0] == '.';
        if (dot)
            assert_result(told_of(0), 0, DEFERRED, "4.4.2", "possibly delivered");
        else
            assert_released(told_of(0), "shutdown");
        assert_released(told_of(1), "shutdown");
        host.closed = false;
        assert_int_equal(delivery_open(&host.delivery, &host.worker), 0);
        host_close();
    }
}

static void closed_while_resolving(void **state)
{
    (void)state;
    start();
    dns_fault("silent.example", 0, DNS_SILENT);
    delivery_attempt(host.delivery, make_attempt("mx:silent.example", 0, 1));
    WAIT_FOR(dns_asked("silent.example", DNS_MX) > 0);
    host_close();
    assert_released(&core.told[0], "shutdown");
}

/* ---- rates ---- */

static void a_grant_that_was_not_used(void **state)
{
    (void)state;
    start();
    host.limit.rate = 10;
    server_rule(".", SILENT, 0, 1);
    give(0, 1);
    give(0, 1);
    uint64_t given = mr_boot_ns(&mr_clock_real);
    WAIT_FOR(core.dots == 1);
    WAIT_FOR(mr_boot_ns(&mr_clock_real) - given > (DELIVERY_GRANT_MS + 20) * MR_NS_PER_MS);
    server.connections[0]->mute = false;
    say(server.connections[0], "250 2.0.0 taken");
    assert_released(wait_told(1), "grant unused");
    assert_result(told_of(0), 0, DELIVERED, "2.0.0", "taken");
    give(0, 1); /* a new grant */
    assert_result(wait_told(2), 0, DELIVERED, "2.0.0", "taken");
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attempts_of_a_slot_share_a_connection),
        cmocka_unit_test(slots_are_apart),
        cmocka_unit_test(idle_connections_end_with_quit),
        cmocka_unit_test(messages_per_connection),
        cmocka_unit_test(one_connection_by_helo_at_a_time),
        cmocka_unit_test(the_server_ended_it_while_idle),
        cmocka_unit_test(it_dies_as_it_is_used_again),
        cmocka_unit_test(a_late_piece_of_the_old_connection),
        cmocka_unit_test(a_second_death_counts),
        cmocka_unit_test(a_slow_reader),
        cmocka_unit_test(no_dot_while_the_body_waits_in_the_kernel),
        cmocka_unit_test(the_queue_is_not_taken_in_time),
        cmocka_unit_test(no_lease_no_transaction),
        cmocka_unit_test(lease_lost_before_the_dot),
        cmocka_unit_test(lease_ended_everywhere),
        cmocka_unit_test(withdrawn_everywhere),
        cmocka_unit_test(withdrawn_at_every_step),
        cmocka_unit_test(withdrawn_while_resolving),
        cmocka_unit_test(deadline_before_the_dot),
        cmocka_unit_test(deadline_in_the_middle),
        cmocka_unit_test(replies_until_the_end),
        cmocka_unit_test(behind_a_busy_one),
        cmocka_unit_test(drain),
        cmocka_unit_test(closed_at_every_step),
        cmocka_unit_test(closed_while_resolving),
        cmocka_unit_test(a_grant_that_was_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
