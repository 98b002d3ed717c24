/* Dovecot's protocol: its lines, and exchanges over a socket with an auth process of our own, which is slow, silent,
 * gone or wrong on purpose. Client, server and the code under test take turns on one loop. */
#include "node/auth/auth_internal.h"
#include "node/auth/dovecot_line.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIMIT_MS = 30000 };

static struct {
    uv_loop_t loop;
    uv_timer_t tick;
    struct mailbox *mailbox;
    struct config config;
    struct auth_store *store;
    struct auth *auth;
    char dir[64], path[96];
    int listener, fd; /* of the auth process */
    char in[65536];
    size_t len;
    bool closed;
    /* of the last exchange */
    unsigned answers;
    enum auth_verdict verdict;
    char text[512];
} env;

static void on_tick(uv_timer_t *t)
{
    (void)t;
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t since_ = uv_hrtime();                                                                                 \
        while (!(condition)) {                                                                                         \
            assert_true(uv_hrtime() - since_ < LIMIT_MS * 1000000ULL);                                                 \
            uv_run(&env.loop, UV_RUN_ONCE);                                                                            \
        }                                                                                                              \
    } while (0)

/* ---- the auth process ---- */

static void server_listen(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s", env.path);
    env.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(env.listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(env.listener, 8), 0);
    env.fd = -1;
}

static bool server_accepted(void)
{
    env.fd = accept4(env.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return env.fd >= 0;
}

static void server_drop(void)
{
    if (env.fd >= 0)
        (void)close(env.fd);
    env.fd = -1;
    env.len = 0;
}

static void server_say(const char *text)
{
    assert_int_equal(write(env.fd, text, strlen(text)), (ssize_t)strlen(text));
}

static bool server_has_line(void)
{
    ssize_t n = read(env.fd, env.in + env.len, sizeof(env.in) - 1 - env.len);

    if (n > 0)
        env.len += (size_t)n;
    env.in[env.len] = '\0';
    return strchr(env.in, '\n') != NULL;
}

/* The next line, without its end. */
static const char *server_hear(void)
{
    static char line[65536];
    char *end;

    WAIT_FOR(server_has_line());
    end = strchr(env.in, '\n');
    (void)snprintf(line, sizeof(line), "%.*s", (int)(end - env.in), env.in);
    env.len -= (size_t)(end + 1 - env.in);
    memmove(env.in, end + 1, env.len + 1);
    return line;
}

static void server_expect(const char *line)
{
    assert_string_equal(server_hear(), line);
}

static void server_greet(void)
{
    WAIT_FOR(server_accepted());
    server_expect("VERSION\t1\t1");
    assert_memory_equal(server_hear(), "CPID\t", 5);
    server_say(
        "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tCRAM-MD5\tdictionary\tactive\nMECH\tSCRAM-SHA-256\tmutual-auth\n"
        "MECH\tLOGIN\tplaintext\tprivate\nSPID\t1\nCUID\t1\nCOOKIE\tabc\nNEWS\tof a later version\nDONE\n");
    WAIT_FOR(env.auth->dovecot != NULL && auth_offered(env.auth, NULL) == (SASL_PLAIN | SASL_SCRAM_SHA_256));
}

/* ---- the code under test ---- */

static void open_all(bool listening)
{
    char error[256];

    memset(&env, 0, sizeof(env));
    env.fd = env.listener = -1;
    (void)snprintf(env.dir, sizeof(env.dir), "/tmp/mailraft-dovecot-XXXXXX");
    assert_non_null(mkdtemp(env.dir));
    (void)snprintf(env.path, sizeof(env.path), "%s/auth", env.dir);
    if (listening)
        server_listen();
    env.config.smtp.auth.dovecot = env.path;
    env.config.smtp.auth.mechanisms = SASL_ALL;
    assert_int_equal(uv_loop_init(&env.loop), 0);
    uv_timer_init(&env.loop, &env.tick);
    uv_timer_start(&env.tick, on_tick, 1, 1);
    assert_int_equal(mailbox_open(&env.mailbox, &env.loop, 100), 0);
    assert_int_equal(auth_store_open(&env.store, &env.config, error, sizeof(error)), 0);
    auth_open(&env.auth, &env.loop, env.mailbox, env.store, &env.config);
}

static void set_true(void *arg)
{
    *(bool *)arg = true;
}

static void close_all(void)
{
    bool closed = false;

    auth_close(env.auth, set_true, &closed);
    WAIT_FOR(closed);
    closed = false;
    mailbox_close(env.mailbox, set_true, &closed);
    WAIT_FOR(closed);
    auth_store_close(env.store);
    uv_close((uv_handle_t *)&env.tick, NULL);
    uv_run(&env.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&env.loop), 0);
    server_drop();
    if (env.listener >= 0)
        (void)close(env.listener);
    (void)unlink(env.path);
    (void)rmdir(env.dir);
}

static void on_answer(void *arg, const struct auth_answer *answer)
{
    (void)arg;
    env.answers++;
    env.verdict = answer->verdict;
    (void)snprintf(env.text, sizeof(env.text), "%s", answer->text != NULL ? answer->text : "");
}

static struct auth_exchange *begin(unsigned mechanism)
{
    const struct auth_client client = {.remote = "192.0.2.1", .local = "192.0.2.2"};

    env.answers = 0;
    return auth_begin(env.auth, mechanism, &client, on_answer, NULL);
}

static void expect_answer(enum auth_verdict verdict, const char *text)
{
    WAIT_FOR(env.answers == 1);
    assert_int_equal(env.verdict, verdict);
    assert_string_equal(env.text, text);
    env.answers = 0;
}

/* ---- tests ---- */

static void test_lines(void **state)
{
    static const struct {
        const char *line;
        int rc;
        struct dovecot_line out;
    } cases[] = {
        {"", 0, {.command = DOVECOT_OTHER}},
        {"VERSION\t1\t2", 0, {.command = DOVECOT_VERSION, .number = 1}},
        {"VERSION", MR_MALFORMED, {0}},
        {"MECH\tPLAIN\tplaintext", 0, {.command = DOVECOT_MECH, .text = "PLAIN"}},
        {"MECH", MR_MALFORMED, {0}},
        {"MECH\tAPOP\tprivate", 0, {.command = DOVECOT_MECH, .text = "APOP", .hidden = true}},
        {"OK\t7\tuser=a\001tb\tx=y", 0, {.command = DOVECOT_OK, .number = 7, .user = "a\tb"}},
        {"OK\t4294967295\tuser=", 0, {.command = DOVECOT_OK, .number = UINT32_MAX, .user = ""}},
        {"OK\t4294967296", MR_MALFORMED, {0}},
        {"OK\t-1", MR_MALFORMED, {0}},
        {"OK\tuser=a", MR_MALFORMED, {0}},
        {"OK\t1\tuser=a\0010", MR_MALFORMED, {0}},
        {"FAIL\t1\tuser=a\ttemp", 0, {.command = DOVECOT_FAIL, .number = 1, .user = "a", .temporary = true}},
        {"FAIL\t1\tcode=temp_fail", 0, {.command = DOVECOT_FAIL, .number = 1, .temporary = true}},
        {"FAIL\t1\tcode=user_disabled", 0, {.command = DOVECOT_FAIL, .number = 1}},
        {"CONT\t1\tYWJj", 0, {.command = DOVECOT_CONT, .number = 1, .text = "YWJj"}},
        {"CONT\t1", 0, {.command = DOVECOT_CONT, .number = 1, .text = ""}},
        {"DONE\tx", 0, {.command = DOVECOT_DONE}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *line = mr_strdup(cases[i].line);
        const struct dovecot_line *want = &cases[i].out;
        struct dovecot_line got;

        assert_int_equal(dovecot_line_parse(line, strlen(line), &got), cases[i].rc);
        if (cases[i].rc == 0) {
            assert_int_equal(got.command, want->command);
            assert_int_equal(got.number, want->number);
            assert_int_equal(got.hidden, want->hidden);
            assert_int_equal(got.temporary, want->temporary);
            assert_string_equal(got.text != NULL ? got.text : "-", want->text != NULL ? want->text : "-");
            assert_string_equal(got.user != NULL ? got.user : "-", want->user != NULL ? want->user : "-");
        }
        free(line);
    }
}

static void test_exchanges(void **state)
{
    struct auth_exchange *e, *other;

    (void)state;
    open_all(true);
    assert_int_equal(auth_offered(env.auth, NULL), SASL_PASSWORD_SENT);
    server_greet();
    e = begin(SASL_PLAIN);
    assert_int_equal(auth_step(e, "\0bob\0x", 6).verdict, AUTH_WAIT);
    server_expect("AUTH\t1\tPLAIN\tservice=smtp\tlip=192.0.2.2\trip=192.0.2.1\tresp=AGJvYgB4");
    server_say("OK\t1\tuser=bob@example.net\toriginal_user=bob\n");
    expect_answer(AUTH_ACCEPTED, "bob@example.net");
    auth_end(e);
    /* Without initial response, and in steps; another in between is answered first. */
    e = begin(SASL_SCRAM_SHA_256);
    assert_int_equal(auth_step(e, NULL, 0).verdict, AUTH_WAIT);
    server_expect("AUTH\t2\tSCRAM-SHA-256\tservice=smtp\tlip=192.0.2.2\trip=192.0.2.1");
    other = begin(SASL_PLAIN);
    assert_int_equal(auth_step(other, "", 0).verdict, AUTH_WAIT);
    server_expect("AUTH\t3\tPLAIN\tservice=smtp\tlip=192.0.2.2\trip=192.0.2.1\tresp=");
    server_say("FAIL\t3\tuser=eve\treason=no\n");
    expect_answer(AUTH_DENIED, "eve");
    auth_end(other);
    server_say("CONT\t2\tY2hhbGxlbmdl\n");
    expect_answer(AUTH_CHALLENGE, "Y2hhbGxlbmdl");
    assert_int_equal(auth_step(e, "abc", 3).verdict, AUTH_WAIT);
    server_expect("CONT\t2\tYWJj");
    server_say("CONT\t2\t\n");
    expect_answer(AUTH_CHALLENGE, "");
    assert_int_equal(auth_step(e, "", 0).verdict, AUTH_WAIT);
    server_expect("CONT\t2\t");
    server_say("FAIL\t2\tcode=temp_fail\n");
    expect_answer(AUTH_AWAY, "the auth server failed for a time");
    auth_end(e);
    /* One that its client gave up; what comes for it after that is nobody's. */
    e = begin(SASL_PLAIN);
    assert_int_equal(auth_step(e, "x", 1).verdict, AUTH_WAIT);
    (void)server_hear();
    auth_end(e);
    server_expect("CANCEL\t4");
    server_say("OK\t4\tuser=late\n");
    e = begin(SASL_PLAIN);
    assert_int_equal(auth_step(e, "x", 1).verdict, AUTH_WAIT);
    (void)server_hear();
    server_say("OK\t5\n"); /* of nobody */
    expect_answer(AUTH_AWAY, "the auth server named no usable user");
    auth_end(e);
    close_all();
}

/* Gone in the middle: who waits is told, who comes next is told, and it is found again. */
static void test_gone(void **state)
{
    struct auth_exchange *waiting, *stepping, *late;

    (void)state;
    open_all(true);
    server_greet();
    stepping = begin(SASL_SCRAM_SHA_256);
    assert_int_equal(auth_step(stepping, "x", 1).verdict, AUTH_WAIT);
    server_say("CONT\t1\teA==\n");
    expect_answer(AUTH_CHALLENGE, "eA==");
    waiting = begin(SASL_PLAIN);
    assert_int_equal(auth_step(waiting, "x", 1).verdict, AUTH_WAIT);
    (void)server_hear();
    (void)server_hear();
    server_drop();
    expect_answer(AUTH_AWAY, "the auth server closed the connection");
    assert_int_equal(auth_step(stepping, "y", 1).verdict, AUTH_AWAY);
    late = begin(SASL_PLAIN);
    assert_int_equal(auth_offered(env.auth, NULL), SASL_PLAIN | SASL_SCRAM_SHA_256); /* as before */
    auth_end(waiting);
    auth_end(stepping);
    auth_end(late);
    server_greet();
    late = begin(SASL_PLAIN);
    assert_int_equal(auth_step(late, "x", 1).verdict, AUTH_WAIT);
    assert_memory_equal(server_hear(), "AUTH\t", 5);
    auth_end(late);
    close_all();
}

/* A question that comes while the connection is being made waits for it. */
static void test_early(void **state)
{
    struct auth_exchange *e;

    (void)state;
    open_all(true);
    e = begin(SASL_PLAIN);
    assert_int_equal(auth_step(e, "x", 1).verdict, AUTH_WAIT);
    server_greet();
    assert_memory_equal(server_hear(), "AUTH\t1\tPLAIN\t", 13);
    server_say("OK\t1\tuser=x\n");
    expect_answer(AUTH_ACCEPTED, "x");
    auth_end(e);
    close_all();
}

static void expect_dropped(const char *words)
{
    struct auth_exchange *e = begin(SASL_PLAIN);

    assert_int_equal(auth_step(e, "x", 1).verdict, AUTH_WAIT);
    WAIT_FOR(server_accepted());
    server_say(words);
    WAIT_FOR(env.answers == 1);
    assert_int_equal(env.verdict, AUTH_AWAY);
    auth_end(e);
    server_drop();
}

static void test_wrong_server(void **state)
{
    static char endless[40000];

    (void)state;
    memset(endless, 'x', sizeof(endless) - 1);
    static const char *const wrong[] = {"VERSION\t2\t0\n", "DONE\n", "OK\t1\tuser=x\n", "MECH\n", endless};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        open_all(true);
        expect_dropped(wrong[i]);
        close_all();
    }
}

/* Nobody listens: "later", at once. */
static void test_away(void **state)
{
    struct auth_exchange *e;

    (void)state;
    open_all(false);
    e = begin(SASL_PLAIN);
    if (auth_step(e, "x", 1).verdict == AUTH_WAIT) {
        WAIT_FOR(env.answers == 1);
        assert_int_equal(env.verdict, AUTH_AWAY);
    }
    auth_end(e);
    close_all();
}

/* One that ends each connection at once is asked again after a pause, however many want to log in. */
static void test_back_off(void **state)
{
    unsigned connections = 0;

    (void)state;
    open_all(true);
    server_greet();
    server_drop();
    for (int i = 0; i < 500; i++) {
        struct auth_exchange *e = begin(SASL_PLAIN);

        if (auth_step(e, "x", 1).verdict == AUTH_WAIT) {
            do {
                uv_run(&env.loop, UV_RUN_ONCE);
                if (server_accepted()) {
                    connections++;
                    server_drop();
                }
            } while (env.answers == 0);
            assert_int_equal(env.verdict, AUTH_AWAY);
        }
        auth_end(e);
        uv_run(&env.loop, UV_RUN_NOWAIT);
    }
    assert_in_range(connections, 0, 10);
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),    cmocka_unit_test(test_exchanges),    cmocka_unit_test(test_gone),
        cmocka_unit_test(test_early),    cmocka_unit_test(test_wrong_server), cmocka_unit_test(test_away),
        cmocka_unit_test(test_back_off),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR + 1, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
