/* AUTH over a real socket: exchanges with a file of users, their replies, and what they cost a client that fails. The
 * client speaks SASL by GNU SASL's client side. */
#include "node/server/test_smtp_harness.h"

#include "node/auth/auth.h"
#include "node/auth/sasl.h"

#include <crypt.h>
#include <gsasl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

/* ---- the server ---- */

static struct {
    char dir[64], file[96];
    struct auth_store *store;
    bool closed;
} env;

static void write_file(const char *text)
{
    FILE *f = fopen(env.file, "we");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(env.file, 0600), 0);
}

/* "{SCRAM-SHA-256}..." of a password. */
static char *scram_of(const char *password, char text[256])
{
    char salted[32], client[32], server[32], stored[32];
    char salt[] = "0123456789abcdef", *salt64, *stored64, *server64;

    assert_int_equal(
        gsasl_scram_secrets_from_password(GSASL_HASH_SHA256, password, 4096, salt, 16, salted, client, server, stored),
        GSASL_OK);
    assert_int_equal(gsasl_base64_to(salt, 16, &salt64, NULL), GSASL_OK);
    assert_int_equal(gsasl_base64_to(stored, 32, &stored64, NULL), GSASL_OK);
    assert_int_equal(gsasl_base64_to(server, 32, &server64, NULL), GSASL_OK);
    (void)snprintf(text, 256, "{SCRAM-SHA-256}4096,%s,%s,%s", salt64, stored64, server64);
    gsasl_free(salt64);
    gsasl_free(stored64);
    gsasl_free(server64);
    return text;
}

/* After host_configure. */
static void open_configured(unsigned mechanisms)
{
    char error[512];

    host.config.smtp.auth.mechanisms = mechanisms;
    host.config.smtp.auth.without_tls = true;
    host.config.smtp.auth.senders_own = true;
    host.listener.profile = PROFILE_SUBMISSION;
    host_start();
    assert_int_equal(auth_store_open(&env.store, &host.config, error, sizeof(error)), 0);
    assert_int_equal(mailbox_open(&host.worker.mailbox, &host.worker.loop, 1000), 0);
    host.worker.auth_store = env.store;
    auth_open(&host.worker.auth, &host.worker.loop, host.worker.mailbox, env.store, &host.config);
}

static void open_with(unsigned mechanisms)
{
    char users[2048], one[256], two[256], hash[CRYPT_OUTPUT_SIZE];
    struct crypt_data data = {0};

    (void)snprintf(hash, sizeof(hash), "%s", crypt_r("secret one", "$6$rounds=1000$saltsaltsalt$", &data));
    (void)snprintf(users, sizeof(users), "# users\nalice@example.net:%s\nbob:%s\nalice@example.net:%s\n", hash,
                   scram_of("secret two", two), scram_of("secret one", one));
    (void)snprintf(env.dir, sizeof(env.dir), "/tmp/mailraft-auth-XXXXXX");
    assert_non_null(mkdtemp(env.dir));
    (void)snprintf(env.file, sizeof(env.file), "%s/users", env.dir);
    write_file(users);
    host_configure();
    host.config.smtp.auth.file = env.file;
    open_configured(mechanisms);
}

static void set_true(void *arg)
{
    *(bool *)arg = true;
}

/* The server has to go before what it uses, and the loop last: the harness's stop in pieces. */
static void close_all(void)
{
    bool closed = false;

    smtp_server_close(host.server, on_host_closed, &host.closed);
    WAIT_FOR(host.closed);
    auth_close(host.worker.auth, set_true, &closed);
    WAIT_FOR(closed);
    closed = false;
    mailbox_close(host.worker.mailbox, set_true, &closed);
    WAIT_FOR(closed);
    auth_store_close(env.store);
    assert_int_equal(atomic_load(&host.counters.sessions_open), 0);
    uv_close((uv_handle_t *)&host.tick, NULL);
    uv_run(&host.worker.loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&host.worker.loop), 0);
    fake_reset();
    (void)unlink(env.file);
    (void)rmdir(env.dir);
}

/* ---- the client ---- */

static bool has_whole_reply(struct client *c)
{
    const char *line = c->in;
    const char *end;

    client_read(c);
    while ((end = strstr(line, "\r\n")) != NULL) {
        if (end - line >= 4 && line[3] == ' ')
            return true;
        line = end + 2;
    }
    return c->eof;
}

/* A reply, whole, into text. */
static void client_take(struct client *c, char *text, size_t len)
{
    const char *line = c->in;
    const char *end;

    WAIT_FOR(has_whole_reply(c));
    while ((end = strstr(line, "\r\n")) != NULL && line[3] != ' ')
        line = end + 2;
    assert_non_null(end);
    end += 2;
    (void)snprintf(text, len, "%.*s", (int)(end - c->in), c->in);
    c->len -= (size_t)(end - c->in);
    memmove(c->in, end, c->len + 1);
}

static void client_hello(struct client *c, const char *auth)
{
    char reply[2048], line[128];

    client_open(c);
    client_expect(c, "220 ");
    client_send(c, "EHLO client.example\r\n");
    client_take(c, reply, sizeof(reply));
    (void)snprintf(line, sizeof(line), "%s\r\n", auth != NULL ? auth : "AUTH");
    if (auth != NULL && strstr(reply, line) == NULL)
        fail_msg("no \"%s\" in: %s", auth, reply);
    if (auth == NULL)
        assert_null(strstr(reply, "AUTH"));
}

static char *base64(const char *text, size_t len)
{
    static char out[20000];

    (void)EVP_EncodeBlock((uint8_t *)out, (const uint8_t *)text, (int)len);
    return out;
}

static void client_say_base64(struct client *c, const char *before, const char *text, size_t len, const char *expected)
{
    char line[20100];

    (void)snprintf(line, sizeof(line), "%s%s", before, base64(text, len));
    client_say(c, line, expected);
}

#define PLAIN(text) (text), (sizeof(text) - 1)

/* By GNU SASL's client; returns the last reply. initial: the first message comes with AUTH. */
static void client_sasl(struct client *c, const char *mechanism, const char *user, const char *password, bool initial,
                        char *reply, size_t reply_len)
{
    Gsasl *gsasl;
    Gsasl_session *session;
    char *out = NULL;
    char line[4096];
    int rc;

    assert_int_equal(gsasl_init(&gsasl), GSASL_OK);
    assert_int_equal(gsasl_client_start(gsasl, mechanism, &session), GSASL_OK);
    gsasl_property_set(session, GSASL_AUTHID, user);
    gsasl_property_set(session, GSASL_PASSWORD, password);
    if (initial) {
        rc = gsasl_step64(session, NULL, &out);
        assert_true(rc == GSASL_NEEDS_MORE || rc == GSASL_OK);
        (void)snprintf(line, sizeof(line), "AUTH %s %s\r\n", mechanism, out[0] != '\0' ? out : "=");
        gsasl_free(out);
    } else {
        (void)snprintf(line, sizeof(line), "AUTH %s\r\n", mechanism);
    }
    client_send(c, line);
    for (;;) {
        client_take(c, reply, reply_len);
        if (strncmp(reply, "334 ", 4) != 0)
            break;
        reply[strcspn(reply, "\r")] = '\0';
        rc = gsasl_step64(session, reply + 4, &out);
        assert_true(rc == GSASL_NEEDS_MORE || rc == GSASL_OK);
        (void)snprintf(line, sizeof(line), "%s\r\n", out);
        gsasl_free(out);
        client_send(c, line);
    }
    gsasl_finish(session);
    gsasl_done(gsasl);
}

/* ---- tests ---- */

static void test_plain(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256"); /* no TLS: nothing to bind to */
    client_say(&c, "MAIL FROM:<alice@example.net>", "5");
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0alice@example.net\0secret one"), "235 2.7.0");
    client_say(&c, "AUTH PLAIN", "503 5.5.1");
    client_say(&c, "MAIL FROM:<alice@example.net>", "250 2.1.0");
    client_say(&c, "RCPT TO:<anyone@far.example>", "250 2.1.5");
    client_say(&c, "AUTH PLAIN", "503 5.5.1");
    client_say(&c, "QUIT", "221");
    client_close(&c);
    /* Without initial response; SCRAM secrets serve PLAIN; the name to act as is the own one. */
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say(&c, "auth plain", "334 ");
    client_say_base64(&c, "", PLAIN("bob\0bob\0secret two"), "235 2.7.0");
    client_close(&c);
    close_all();
}

/* A proxy's own login is not that of the clients that it speaks for; what it says of theirs stays until it says other.
 */
static void test_xclient_after_login(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    host.config.smtp.xclient_from = (struct network_list){loopback, 2};
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0alice@example.net\0secret one"), "235 2.7.0");
    client_say(&c, "XCLIENT ADDR=192.0.2.7", "220 ");
    client_say(&c, "HELO client.example", "250");
    client_say(&c, "MAIL FROM:<alice@example.net>", "530 5.7.0");
    client_say(&c, "XCLIENT LOGIN=alice+40example.net", "220 ");
    client_say(&c, "XCLIENT PORT=99", "220 ");
    client_say(&c, "HELO client.example", "250");
    client_say(&c, "MAIL FROM:<alice@example.net>", "250 2.1.0");
    client_say(&c, "RCPT TO:<anyone@far.example>", "250 2.1.5");
    client_say(&c, "RSET", "250");
    client_say(&c, "XCLIENT LOGIN=[UNAVAILABLE]", "220 ");
    client_say(&c, "HELO client.example", "250");
    client_say(&c, "MAIL FROM:<alice@example.net>", "530 5.7.0");
    /* The next client on this connection is not the user that the one before was. */
    client_say(&c, "XCLIENT ADDR=192.0.2.7 LOGIN=alice+40example.net HELO=client.example", "220 ");
    client_say(&c, "MAIL FROM:<alice@example.net>", "250 2.1.0");
    client_say(&c, "RSET", "250");
    client_say(&c, "XCLIENT ADDR=192.0.2.8 HELO=client.example", "220 ");
    client_say(&c, "MAIL FROM:<alice@example.net>", "530 5.7.0");
    /* A user's own address is its own however its domain is written. */
    client_say(&c, "XCLIENT LOGIN=dora+40b+C3+BCcher.example HELO=client.example", "220 ");
    client_say(&c, "MAIL FROM:<dora@xn--bcher-kva.example>", "250 2.1.0");
    client_say(&c, "RSET", "250");
    client_say(&c,
               "MAIL FROM:<Dora@b\xc3\xbc"
               "cher.example> SMTPUTF8",
               "250 2.1.0");
    client_say(&c, "RSET", "250");
    client_say(&c, "MAIL FROM:<dora@bucher.example>", "553 5.7.1");
    client_close(&c);
    close_all();
}

static void test_login(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say(&c, "AUTH LOGIN", "334 VXNlcm5hbWU6");
    client_say_base64(&c, "", PLAIN("bob"), "334 UGFzc3dvcmQ6");
    client_say_base64(&c, "", PLAIN("secret two"), "235 2.7.0");
    client_close(&c);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say_base64(&c, "AUTH LOGIN ", PLAIN("alice@example.net"), "334 UGFzc3dvcmQ6");
    client_say_base64(&c, "", PLAIN("secret one"), "235 2.7.0");
    client_close(&c);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say(&c, "AUTH LOGIN =", "334 VXNlcm5hbWU6");
    client_say(&c, "*", "501 5.7.0");
    client_say(&c, "NOOP", "250");
    client_close(&c);
    close_all();
}

static void test_scram(void **state)
{
    char reply[2048];
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    for (int initial = 0; initial < 2; initial++) {
        client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
        client_sasl(&c, "SCRAM-SHA-256", "alice@example.net", "secret one", initial, reply, sizeof(reply));
        assert_memory_equal(reply, "235 2.7.0", 9);
        client_close(&c);
    }
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_sasl(&c, "SCRAM-SHA-256", "alice@example.net", "wrong", true, reply, sizeof(reply));
    assert_memory_equal(reply, "535 5.7.8", 9);
    /* Somebody who is not there gets as far as somebody who is. */
    client_sasl(&c, "SCRAM-SHA-256", "mallory", "wrong", true, reply, sizeof(reply));
    assert_memory_equal(reply, "535 5.7.8", 9);
    client_close(&c);
    close_all();
}

/* The part of a SCRAM server's first message behind the nonce: ",s=salt,i=4096". */
static void client_ask_salt(const char *user, char out[256])
{
    char first[128], reply[2048], *raw;
    struct client c;
    size_t n;

    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    n = (size_t)snprintf(first, sizeof(first), "n,,n=%s,r=abcdefgh", user);
    client_send(&c, "AUTH SCRAM-SHA-256 ");
    client_send(&c, base64(first, n));
    client_send(&c, "\r\n");
    client_take(&c, reply, sizeof(reply));
    assert_memory_equal(reply, "334 ", 4);
    reply[strcspn(reply, "\r")] = '\0';
    assert_int_equal(gsasl_base64_from(reply + 4, strlen(reply + 4), &raw, &n), GSASL_OK);
    (void)snprintf(out, 256, "%.*s", (int)n, raw);
    memmove(out, strstr(out, ",s="), strlen(strstr(out, ",s=")) + 1);
    gsasl_free(raw);
    client_say(&c, "*", "501 5.7.0");
    client_close(&c);
}

/* Asking twice, or on another node, does not tell who is there. */
static void test_made_up_salt_stays(void **state)
{
    char first[256], second[256], other[256], real[256];

    (void)state;
    open_with(SASL_ALL);
    client_ask_salt("nobody", first);
    client_ask_salt("nobody", second);
    client_ask_salt("somebody", other);
    client_ask_salt("bob", real);
    assert_string_equal(first, second);
    assert_string_not_equal(first, other);
    assert_string_not_equal(first, real);
    assert_int_equal(strlen(first), strlen(real));
    assert_string_equal(strstr(first, ",i="), strstr(real, ",i="));
    close_all();
}

static void test_bad_input(void **state)
{
    char *huge;
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say(&c, "AUTH", "501 5.5.4");
    client_say(&c, "AUTH CRAM-MD5", "504 5.5.4");
    client_say(&c, "AUTH SCRAM-SHA-256-PLUS", "504 5.5.4");
    client_say(&c, "AUTH PLAIN =", "501 5.5.2");
    client_say(&c, "AUTH PLAIN !!!!", "501 5.5.2");
    client_say(&c, "AUTH PLAIN", "334 ");
    client_say(&c, "no base64", "501 5.5.2");
    client_say(&c, "AUTH PLAIN", "334 ");
    client_say(&c, "", "501 5.5.2");
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("one part"), "501 5.5.2");
    client_close(&c);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    huge = mr_malloc(20001);
    memset(huge, 'A', 20000);
    huge[20000] = '\0';
    client_say(&c, "AUTH PLAIN", "334 ");
    client_say(&c, huge, "500 5.5.6");
    client_say(&c, "NOOP", "250");
    huge[12288] = '\0';
    client_say(&c, "AUTH PLAIN", "334 ");
    client_say(&c, huge, "501 5.5.2"); /* zero bytes: long, and no message of PLAIN */
    client_say_base64(&c, "AUTH SCRAM-SHA-256 ", PLAIN("n,,n=bob"), "501 5.5.2");
    client_close(&c);
    free(huge);
    close_all();
}

static void test_failures(void **state)
{
    uint64_t since;
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    since = uv_hrtime();
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0bob\0wrong"), "535 5.7.8");
    assert_true(uv_hrtime() - since >= 900 * 1000000ULL);
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("alice@example.net\0bob\0secret two"), "535 5.7.8");
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0nobody\0secret two"), "535 5.7.8");
    client_expect(&c, "421 4.7.0");
    client_expect_end(&c);
    close_all();
}

/* The end of a client in the middle of everything frees what it left. */
static void test_gone(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_say(&c, "AUTH LOGIN", "334 ");
    client_close(&c);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_send(&c, "AUTH PLAIN ");
    client_send(&c, base64(PLAIN("\0bob\0secret two")));
    client_send(&c, "\r\n");
    turn();
    client_close(&c);
    client_hello(&c, "AUTH PLAIN LOGIN SCRAM-SHA-256");
    client_send(&c, "AUTH PLAIN ");
    client_send(&c, base64(PLAIN("\0bob\0wrong")));
    client_send(&c, "\r\n");
    turn();
    client_send(&c, "NOOP\r\n"); /* looked at when the answer was given, and not before */
    client_expect_silence(&c);
    client_close(&c);
    close_all();
}

static void test_not_offered(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_LOGIN);
    host.listener.tls = TLS_OFF;
    client_hello(&c, "AUTH LOGIN");
    client_say(&c, "AUTH PLAIN", "504 5.5.4");
    client_close(&c);
    client_open(&c);
    client_expect(&c, "220 ");
    client_say(&c, "AUTH LOGIN", "503 5.5.1");
    client_say(&c, "HELO client.example", "250");
    client_say(&c, "AUTH LOGIN", "503 5.5.1");
    client_close(&c);
    close_all();
}

static void test_needs_tls(void **state)
{
    struct client c;

    (void)state;
    open_with(SASL_ALL);
    host.config.smtp.auth.without_tls = false;
    client_hello(&c, NULL);
    client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0bob\0secret two"), "538 5.7.11");
    client_close(&c);
    close_all();
}

static unsigned count_lines(FILE *log, const char *event)
{
    char line[4096];
    unsigned n = 0;

    rewind(log);
    while (fgets(line, sizeof(line), log) != NULL)
        n += strstr(line, event) != NULL;
    return n;
}

/* Who checks passwords is away: that is no client's fault, but no client may ask for ever, or write our log. */
static void test_away(void **state)
{
    enum { ERRORS = 20, SESSIONS = 20 };
    FILE *log = tmpfile();
    int kept = dup(STDERR_FILENO);
    uint64_t since, seconds;
    char path[128];
    struct client c;

    (void)state;
    assert_non_null(log);
    assert_true(dup2(fileno(log), STDERR_FILENO) >= 0);
    host_configure();
    (void)snprintf(path, sizeof(path), "/tmp/mailraft-no-dovecot-%d", (int)getpid());
    host.config.smtp.auth.dovecot = path;
    host.config.smtp.max_errors = ERRORS;
    open_configured(SASL_ALL);
    since = uv_hrtime();
    for (int i = 0; i < SESSIONS; i++) {
        client_hello(&c, "AUTH PLAIN LOGIN");
        for (int n = 0; n < ERRORS; n++)
            client_say_base64(&c, "AUTH PLAIN ", PLAIN("\0bob\0secret two"), "454 4.7.0");
        client_expect(&c, "421 4.7.0 Too many errors");
        client_expect_end(&c);
        client_close(&c);
    }
    seconds = (uv_hrtime() - since) / 1000000000ULL + 1;
    assert_int_equal(atomic_load(&host.counters.logins_unavailable), ERRORS * SESSIONS);
    close_all();
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    assert_in_range(count_lines(log, "auth_unavailable"), 1, seconds);
    fclose(log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xclient_after_login),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_login),
        cmocka_unit_test(test_scram),
        cmocka_unit_test(test_made_up_salt_stays),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_away),
        cmocka_unit_test(test_not_offered),
        cmocka_unit_test(test_needs_tls),
    };

    signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
