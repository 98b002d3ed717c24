/* test_smtp_certificates.c - which certificate is shown, new files, those of clients, old versions, tickets, over
 * loopback. */
#include "node/server/smtp_session.h"
#include "node/server/test_smtp_tls.h"

static void expect_name(const char *asked, const struct test_cert *shown)
{
    struct secure c = {.socket_eof = false};

    client_open(&c.c);
    secure_shake(&c, asked, NULL);
    secure_expect_open(&c);
    assert_int_equal(X509_cmp(tls_peer(c.t), shown->cert), 0);
    secure_expect(&c, "220 ");
    secure_close(&c);
}

static void add_more(void)
{
    pki.more[0] = (struct certificate_config){pki_file("other.pem"), pki_file("other.key")};
    pki.more[1] = (struct certificate_config){pki_file("wild.pem"), pki_file("wild.key")};
    host.config.smtp.tls.more = pki.more;
    host.config.smtp.tls.n_more = 2;
}

static void free_more(void)
{
    for (int i = 0; i < 2; i++) {
        free(pki.more[i].cert);
        free(pki.more[i].key);
    }
}

static void test_server_name(void **state)
{
    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    add_more();
    host_start_tls();
    expect_name(NULL, &pki.mx);
    expect_name("mx1.example.net", &pki.mx);
    expect_name("OTHER.example", &pki.other);
    expect_name("second.example", &pki.other);
    expect_name("a.wild.example", &pki.wild);
    expect_name("a.b.wild.example", &pki.mx);
    expect_name("wild.example", &pki.mx);
    expect_name("unknown.example", &pki.mx);
    free_more();
    host_stop_tls();
}

/* New certificates serve new connections; those that run keep theirs. */
static void test_reload(void **state)
{
    struct secure c;
    struct tls_server *fresh;
    char error[500];

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls();
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    host_free_tls();
    host.config.smtp.tls.cert = pki_file("other.pem");
    host.config.smtp.tls.key = pki_file("other.key");
    assert_int_equal(tls_server_open(&fresh, &host.config, error, sizeof(error)), 0);
    tls_server_log(fresh, false);
    tls_server_unref(host.worker.tls);
    host.worker.tls = fresh;
    secure_say(&c, "EHLO client.example", "250-mx1.example.net");
    secure_close(&c);
    secure_starttls(&c, NULL);
    secure_expect_open(&c);
    assert_int_equal(X509_cmp(tls_peer(c.t), pki.other.cert), 0);
    secure_close(&c);
    host_stop_tls();
}

static void expect_wrong(const char *cert, const char *key, const char *text)
{
    struct tls_server *ts;
    char error[500] = "";

    host_free_tls();
    host.config.smtp.tls.cert = pki_file(cert);
    host.config.smtp.tls.key = pki_file(key);
    assert_int_equal(tls_server_open(&ts, &host.config, error, sizeof(error)), MR_CONFIG);
    assert_null(ts);
    if (strstr(error, text) == NULL || strstr(error, "test.yaml: smtp.tls: ") != error)
        fail_msg("expected \"%s\" in \"%s\"", text, error);
}

static void test_files(void **state)
{
    struct tls_server *ts;
    char error[500];

    (void)state;
    host_configure_tls(TLS_OFFERED);
    expect_wrong("none.pem", "mx.key", "cannot read the certificate");
    expect_wrong("mx.pem", "none.key", "cannot use the key");
    expect_wrong("mx.pem", "other.key", "cannot use the key");
    expect_wrong("mx.key", "mx.key", "mx.key: ");
    host_free_tls();
    host.config.smtp.tls.cert = pki_file("mx.pem");
    host.config.smtp.tls.key = pki_file("mx.key");
    pki.more[0] = (struct certificate_config){pki_file("expired.pem"), pki_file("expired.key")};
    host.config.smtp.tls.more = pki.more;
    host.config.smtp.tls.n_more = 1;
    assert_int_equal(tls_server_open(&ts, &host.config, error, sizeof(error)), 0);
    tls_server_log(ts, false);
    tls_server_warnings(ts, error, sizeof(error));
    assert_non_null(strstr(error, "smtp.tls: warning: the certificate "));
    assert_non_null(strstr(error, "mx.pem expires within 14 days\n"));
    assert_non_null(strstr(error, "smtp.tls.more[1]: warning: the certificate "));
    assert_non_null(strstr(error, "expired.pem has expired\n"));
    tls_server_unref(ts);
    free(pki.more[0].cert);
    pki.more[0].cert = pki_file("other.pem");
    assert_int_equal(tls_server_open(&ts, &host.config, error, sizeof(error)), MR_CONFIG);
    assert_non_null(strstr(error, "smtp.tls.more[1]: cannot use the key"));
    free(pki.more[0].cert);
    free(pki.more[0].key);
    host.config.smtp.tls.n_more = 0;
    host.config.smtp.tls.client_ca = pki_file("none.pem");
    assert_int_equal(tls_server_open(&ts, &host.config, error, sizeof(error)), MR_CONFIG);
    assert_non_null(strstr(error, "smtp.tls.client_ca: cannot read the CA certificate"));
    host_free_tls();
    assert_int_equal(tls_server_open(&ts, &host.config, error, sizeof(error)), 0);
    assert_null(ts);
}

/* May a client with this certificate relay? */
static void expect_relay(const struct test_cert *cert, bool may, const char *comment)
{
    struct secure c;
    char text[SMTP_MAX_TLS_COMMENT];

    secure_starttls(&c, cert);
    secure_expect_open(&c);
    secure_say(&c, "HELO client.example", "250 ");
    for (uint32_t i = 0; i < host.server->n_slots; i++)
        if (host.server->slots[i].session != NULL)
            smtp_session_tls_comment(host.server->slots[i].session, text);
    assert_string_equal(text, comment);
    secure_say(&c, "MAIL FROM:<a@b>", "250 ");
    secure_say(&c, "RCPT TO:<u@elsewhere.example>", may ? "250 2.1.5" : "554 5.7.1");
    secure_say(&c, "QUIT", "221 ");
    secure_expect_end(&c);
}

static void test_client_certificates(void **state)
{
    unsigned char fingerprint[EVP_MAX_MD_SIZE];
    char text[65];
    char *listed[] = {(char *)"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", text};
    unsigned len;

    (void)state;
    host_configure_tls(TLS_OFFERED);
    host_start_tls(); /* certificates mean nothing: they are not asked for */
    expect_relay(&pki.client, false, USING);
    host_stop_tls();

    host_configure_tls(TLS_OFFERED);
    host.config.smtp.tls.client_ca = pki_file("ca.pem");
    host_start_tls();
    expect_relay(NULL, false, USING);
    expect_relay(&pki.client, true, USING "\r\n\t(client certificate verified)");
    expect_relay(&pki.stranger, false, USING "\r\n\t(client certificate not verified)");
    expect_relay(&pki.expired, false, USING "\r\n\t(client certificate not verified)");
    host_stop_tls();

    host_configure_tls(TLS_OFFERED);
    assert_int_equal(X509_digest(pki.stranger.cert, EVP_sha256(), fingerprint, &len), 1);
    for (unsigned i = 0; i < len; i++)
        snprintf(text + 2 * i, 3, "%02x", fingerprint[i]);
    host.config.smtp.tls.relay_certs = listed;
    host.config.smtp.tls.n_relay_certs = 2;
    host_start_tls();
    expect_relay(&pki.stranger, true, USING "\r\n\t(client certificate listed)");
    expect_relay(&pki.client, false, USING "\r\n\t(client certificate not verified)");
    host_stop_tls();
}

static void test_old_version(void **state)
{
    struct secure c = {.socket_eof = false};

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host_start_tls();
    client_open(&c.c);
    SSL_CTX_set_security_level(pki.ctx, 0);
    assert_int_equal(SSL_CTX_set_cipher_list(pki.ctx, "ALL:@SECLEVEL=0"), 1);
    assert_int_equal(SSL_CTX_set_min_proto_version(pki.ctx, TLS1_VERSION), 1);
    assert_int_equal(SSL_CTX_set_max_proto_version(pki.ctx, TLS1_1_VERSION), 1);
    secure_shake(&c, NULL, NULL);
    assert_int_equal(tls_state(c.t), TLS_BROKEN);
    assert_string_equal(tls_error(c.t), "TLS: tlsv1 alert protocol version");
    secure_close(&c);
    assert_int_equal(SSL_CTX_set_max_proto_version(pki.ctx, TLS1_2_VERSION), 1);
    client_open(&c.c);
    secure_shake(&c, NULL, NULL);
    secure_expect_open(&c);
    assert_string_equal(tls_version(c.t), "TLSv1.2");
    secure_expect(&c, "220 ");
    secure_close(&c);
    assert_int_equal(SSL_CTX_set_max_proto_version(pki.ctx, 0), 1);
    assert_int_equal(SSL_CTX_set_min_proto_version(pki.ctx, TLS1_2_VERSION), 1);
    host_stop_tls();
}

/* A ticket of one worker is good at the others, which share the contexts; after a reload it is not. */
static void test_resumption(void **state)
{
    struct secure c = {.socket_eof = false};
    SSL_SESSION *session;
    struct tls_server *fresh;
    char error[500];

    (void)state;
    host_configure_tls(TLS_IMPLICIT);
    host.config.smtp.tls.client_ca = pki_file("ca.pem");
    host_start_tls();
    client_open(&c.c);
    secure_shake(&c, "mx1.example.net", &pki.client);
    secure_expect_open(&c);
    secure_expect(&c, "220 ");
    session = tls_take_session(c.t);
    assert_non_null(session);
    secure_close(&c);
    for (int round = 0; round < 2; round++) {
        c = (struct secure){.socket_eof = false};
        client_open(&c.c);
        c.t = tls_connect(pki.ctx, "mx1.example.net");
        tls_offer_session(c.t, session);
        tls_start(c.t);
        secure_push(&c);
        WAIT_FOR(secure_shaken(&c));
        secure_expect_open(&c);
        assert_int_equal(tls_resumed(c.t), round == 0);
        secure_expect(&c, "220 ");
        secure_say(&c, "HELO client.example", "250 ");
        secure_say(&c, "MAIL FROM:<a@b>", "250 ");
        secure_say(&c, "RCPT TO:<u@elsewhere.example>", round == 0 ? "250 " : "554 5.7.1");
        secure_close(&c);
        assert_int_equal(tls_server_open(&fresh, &host.config, error, sizeof(error)), 0);
        tls_server_unref(host.worker.tls);
        host.worker.tls = fresh;
    }
    SSL_SESSION_free(session);
    host_stop_tls();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_server_name), cmocka_unit_test(test_reload),
        cmocka_unit_test(test_files),       cmocka_unit_test(test_client_certificates),
        cmocka_unit_test(test_old_version), cmocka_unit_test(test_resumption),
    };

    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(LOG_ERROR, true, "test");
    return cmocka_run_group_tests(tests, pki_setup, pki_teardown);
}