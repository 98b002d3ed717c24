/* test_delivery_routes.c - which host a message goes to, from which address, over how many connections: lists of next
 * hops, hosts that are down, IPv6 and IPv4, delivery.source, reuse. */
#include "node/delivery/test_delivery_fake.h"

/* A host that turns everybody away at its greeting, and counts them. */
struct trap {
    int fd;
    uint16_t port;
    unsigned came;
};

static void trap_open(struct trap *t, int family, uint16_t port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(port)};
    socklen_t len = family == AF_INET ? sizeof(v4) : sizeof(v6);
    struct sockaddr *at = family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6;

    t->came = 0;
    t->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(t->fd >= 0);
    assert_int_equal(bind(t->fd, at, len), 0);
    assert_int_equal(listen(t->fd, 16), 0);
    assert_int_equal(getsockname(t->fd, at, &len), 0);
    t->port = ntohs(family == AF_INET ? v4.sin_port : v6.sin6_port);
}

static void trap_open_at(struct trap *t, const char *address, uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};

    t->came = 0;
    t->port = port;
    t->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(t->fd >= 0 && inet_pton(AF_INET, address, &at.sin_addr) == 1);
    assert_int_equal(bind(t->fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(t->fd, 16), 0);
}

static void trap_turn(struct trap *t)
{
    int fd;

    while ((fd = accept4(t->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        t->came++;
        assert_int_equal(send(fd, "554 go away\r\n", 13, MSG_NOSIGNAL), 13);
        (void)shutdown(fd, SHUT_WR);
        (void)close(fd);
    }
}

/* A port where nobody listens. */
static uint16_t closed_port(void)
{
    struct trap t;

    trap_open(&t, AF_INET, 0);
    (void)close(t.fd);
    return t.port;
}

static char route[ROUTE_MAX];

static const struct told *deliver(struct trap *t, uint32_t slot)
{
    uint32_t number = host.given;

    delivery_attempt(host.delivery, make_attempt(route, slot, 1));
    WAIT_FOR((t != NULL ? trap_turn(t) : (void)0, told_of(number) != NULL));
    return told_of(number);
}

static void assert_delivered(const struct told *t)
{
    assert_false(t->released);
    assert_result(t, 0, MAILRAFT__RESULT__DELIVERED, "2.0.0", "taken");
}

static void next_host_takes_it(void **state)
{
    (void)state;
    server_open();
    host_open();
    (void)snprintf(route, sizeof(route), "smtp://127.0.0.1:%u,%s", closed_port(), server.route);
    assert_delivered(deliver(NULL, 0));
    assert_int_equal(server.n, 1);
    /* A name that is not known for now, or never. */
    dns_fault("broken.example", 0, DNS_SERVFAIL);
    (void)snprintf(route, sizeof(route), "smtp://missing.example:25,smtp://broken.example:25,%s", server.route);
    assert_delivered(deliver(NULL, 0));
    /* The last one's name is not known: what is said is about it. */
    (void)snprintf(route, sizeof(route), "smtp://127.0.0.1:%u,smtp://missing.example:25", closed_port());
    assert_result(deliver(NULL, 0), 0, MAILRAFT__RESULT__DEFERRED, "4.4.4", "missing.example");
    host_close();
}

static void lmtp_hosts_too(void **state)
{
    (void)state;
    server_open();
    server_lmtp();
    host_open();
    (void)snprintf(route, sizeof(route), "lmtp://127.0.0.1:%u,%s", closed_port(), server.route);
    assert_delivered(deliver(NULL, 0));
    host_close();
}

/* What a host says of a message or a recipient is the answer; another host is no second opinion. */
static void a_refusal_is_no_reason_for_the_next(void **state)
{
    struct trap t;

    (void)state;
    server_open();
    host_open();
    server_rule("RCPT", "450 4.2.0 later", 0, 0);
    trap_open(&t, AF_INET, 0);
    (void)snprintf(route, sizeof(route), "%s,smtp://127.0.0.1:%u", server.route, t.port);
    assert_result(deliver(&t, 0), 0, MAILRAFT__RESULT__DEFERRED, "4.2.0", "later");
    assert_int_equal(t.came, 0);
    (void)close(t.fd);
    host_close();
}

/* A first host that is down costs one try, not one a message. */
static void a_host_that_is_down_is_left_for_last(void **state)
{
    struct trap t;

    (void)state;
    server_open();
    host_open();
    trap_open(&t, AF_INET, 0);
    (void)snprintf(route, sizeof(route), "smtp://127.0.0.1:%u,%s", t.port, server.route);
    for (uint32_t slot = 0; slot < 5; slot++)
        assert_delivered(deliver(&t, slot));
    assert_int_equal(t.came, 1);
    assert_int_equal(server.n, 5);
    /* With the other one down as well it is tried again, and both are. */
    (void)snprintf(route, sizeof(route), "smtp://127.0.0.1:%u,smtp://127.0.0.1:%u", t.port, closed_port());
    assert_result(deliver(&t, 0), 0, MAILRAFT__RESULT__DEFERRED, "4.4.1", "go away");
    assert_int_equal(t.came, 2);
    (void)close(t.fd);
    host_close();
}

/* Several hosts of one preference: IPv6 first; when it is turned away there, IPv4; and from then on IPv4 at once. */
static void six_first_then_what_works(void **state)
{
    struct trap t;

    (void)state;
    server_open();
    host_open();
    trap_open(&t, AF_INET6, server.port);
    dns_mx("example.org", 10, "mx.example.org", 300);
    dns_a("mx.example.org", "127.0.0.1", 300);
    dns_add((struct dns_record){.name = "mx.example.org", .type = DNS_AAAA, .ttl = 300, .value = "::1"});
    (void)snprintf(route, sizeof(route), "mx:example.org");
    for (uint32_t slot = 0; slot < 4; slot++)
        assert_delivered(deliver(&t, slot));
    assert_int_equal(t.came, 1);
    (void)close(t.fd);
    host_close();
}

/* A better MX that is down is passed over for a while, a worse one that works goes first. */
static void a_backup_that_works_goes_first(void **state)
{
    (void)state;
    server_open_at("127.0.0.1", 0, 0);
    host_open();
    dns_mx("example.org", 10, "down.example.org", 300);
    dns_mx("example.org", 20, "up.example.org", 300);
    dns_a("down.example.org", "127.0.0.9", 300); /* nobody listens there at that port */
    dns_a("up.example.org", "127.0.0.1", 300);
    (void)snprintf(route, sizeof(route), "mx:example.org");
    for (uint32_t slot = 0; slot < 3; slot++) {
        struct sockaddr_in down = {.sin_family = AF_INET, .sin_port = htons(server.port)};
        assert_int_equal(inet_pton(AF_INET, "127.0.0.9", &down.sin_addr), 1);
        assert_delivered(deliver(NULL, slot));
        assert_true(host_memory_avoids(host.delivery->hosts, (const struct sockaddr *)&down,
                                       mr_boot_ns(&mr_clock_real) / MR_NS_PER_MS));
    }
    host_close();
}

/* ---- delivery.source ---- */

static void use_sources(char **list, unsigned n)
{
    delivery_sources_close(host.delivery);
    host.delivery->n_sources = 0;
    host.config.delivery.source = list;
    host.config.delivery.n_source = n;
    delivery_sources_open(host.delivery);
}

static void assert_from(unsigned connection, const char *address)
{
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    char text[INET_ADDRSTRLEN];

    assert_int_equal(getpeername(server.connections[connection]->fd, (struct sockaddr *)&from, &len), 0);
    assert_string_equal(inet_ntop(AF_INET, &from.sin_addr, text, sizeof(text)), address);
}

static void from_the_configured_address(void **state)
{
    static char two[] = "127.0.0.2", three[] = "127.0.0.3", six[] = "2001:db8::1", foreign[] = "192.0.2.1";
    char *both[] = {two, six, three}, *only_six[] = {six}, *wrong[] = {foreign};
    struct sockaddr_in hop = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    (void)state;
    server_open();
    host_open();
    hop.sin_port = htons(server.port);
    memcpy(route, server.route, sizeof(server.route));
    use_sources(both, 3);
    for (uint32_t slot = 0; slot < 2; slot++)
        assert_delivered(deliver(NULL, slot));
    assert_from(0, "127.0.0.2");
    assert_from(1, "127.0.0.3"); /* they take turns */
    use_sources(only_six, 1);    /* says nothing about IPv4 */
    assert_delivered(deliver(NULL, 2));
    assert_from(2, "127.0.0.1");
    /* One that this host has not: never another in its place, and the next hop is not to blame. */
    use_sources(wrong, 1);
    log_configure(LOG_ERROR + 1, true, "test");
    assert_result(deliver(NULL, 3), 0, MAILRAFT__RESULT__DEFERRED, "4.4.1", "address not available");
    log_configure(LOG_ERROR, true, "test");
    assert_int_equal(server.n, 3);
    assert_false(host_memory_avoids(host.delivery->hosts, (const struct sockaddr *)&hop,
                                    mr_boot_ns(&mr_clock_real) / MR_NS_PER_MS));
    host_close();
}

/* ---- time, and reuse ---- */

/* RFC 5321 section 4.5.3.2. */
static void each_command_has_its_time(void **state)
{
    static const struct {
        enum phase phase;
        unsigned minutes;
    } rows[] = {{PHASE_GREETING, 5}, {PHASE_EHLO, 5}, {PHASE_MAIL, 5}, {PHASE_RCPT, 5},
                {PHASE_DATA, 2},     {PHASE_BODY, 3}, {PHASE_DOT, 10}, {PHASE_RSET, 5}};
    struct config config = {.delivery = {.command_timeout_ms = 300000, .data_timeout_ms = 600000}};
    struct worker worker = {.config = &config};
    struct delivery delivery = {.w = &worker};
    struct slot slot = {.d = &delivery};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        slot.phase = rows[i].phase;
        assert_int_equal(slot_timeout_ms(&slot), rows[i].minutes * 60000);
    }
    config.delivery.command_timeout_ms = config.delivery.data_timeout_ms = 1000;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        slot.phase = rows[i].phase;
        assert_int_equal(slot_timeout_ms(&slot), 1000); /* what is configured shorter is shorter */
    }
}

/* Messages that come one after the other take the connection that stands. */
static void connections_are_used_again(void **state)
{
    enum { MESSAGES = 50, EACH = 10 };

    (void)state;
    server_open();
    host_open();
    memcpy(route, server.route, sizeof(server.route));
    for (int i = 0; i < MESSAGES; i++)
        assert_delivered(deliver(NULL, 0));
    assert_int_equal(server.n, 1);
    print_message("%d messages over %u connection: %d%% reused\n", MESSAGES, server.n, 100 * (MESSAGES - 1) / MESSAGES);
    host_close();

    server_open();
    host_open();
    host.limit.messages_per_connection = EACH;
    memcpy(route, server.route, sizeof(server.route));
    for (int i = 0; i < MESSAGES; i++)
        assert_delivered(deliver(NULL, 0));
    assert_int_equal(server.n, MESSAGES / EACH);
    print_message("%d messages over %u connections of %d each: %d%% reused\n", MESSAGES, server.n, EACH,
                  100 * (MESSAGES - MESSAGES / EACH) / MESSAGES);
    host_close();
}

static struct initial_member members[] = {{"n1", "10.9.9.1:7400"}, {"n2", "mx2.example.net:7400"}};

static struct listener_config listener = {.profile = PROFILE_MX};

/* That listen at the port of MX hosts. */
static void two_members(void)
{
    static char listen[32];
    (void)snprintf(listen, sizeof(listen), "127.0.0.9:%u", server.port);
    listener.listen = listen;
    host.config.smtp.listeners = &listener;
    host.config.smtp.n_listeners = 1;
    host.config.cluster.initial = members;
    host.config.cluster.n_initial = 2;
}

/* We are the backup of a domain whose primary is down: mail that another member takes off us begins there anew, and so
 * does what comes back from it, until its Received fields are too many and it is bounced. */
static void a_backup_waits_for_the_primary(void **state)
{
    struct trap t;

    (void)state;
    server_open(); /* the other member */
    configure = two_members;
    host_open();
    dns_mx("example.org", 10, "primary.example.org", 300);
    dns_mx("example.org", 20, "mx2.example.net", 300);
    trap_open_at(&t, "127.0.0.2", server.port);
    dns_a("primary.example.org", "127.0.0.2", 300);
    dns_a("mx2.example.net", "127.0.0.1", 300);
    (void)snprintf(route, sizeof(route), "mx:example.org");
    assert_result(deliver(&t, 0), 0, MAILRAFT__RESULT__DEFERRED, "4.4.1", "go away");
    assert_int_equal(t.came, 1);
    assert_int_equal(server.n, 0);
    (void)close(t.fd);
    host_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_backup_waits_for_the_primary),
        cmocka_unit_test(next_host_takes_it),
        cmocka_unit_test(lmtp_hosts_too),
        cmocka_unit_test(a_refusal_is_no_reason_for_the_next),
        cmocka_unit_test(a_host_that_is_down_is_left_for_last),
        cmocka_unit_test(six_first_then_what_works),
        cmocka_unit_test(a_backup_that_works_goes_first),
        cmocka_unit_test(from_the_configured_address),
        cmocka_unit_test(each_command_has_its_time),
        cmocka_unit_test(connections_are_used_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
