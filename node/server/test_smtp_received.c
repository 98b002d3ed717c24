/* test_smtp_received.c - the trace field. */
#include "node/server/smtp_received.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_write(void **state)
{
    struct smtp_received r = {
        .helo = "client.example",
        .client = "IPv6:2001:db8::1",
        .hostname = "mx1.example.net",
        .how = PROTOCOL_EXTENDED,
        .recipient = "u@example.net",
        .recipient_len = 13,
        .unix_ms = 1772366400000,
    };
    char out[SMTP_MAX_RECEIVED];
    size_t n;

    (void)state;
    n = smtp_received_write(&r, out);
    assert_int_equal(n, strlen("Received: from client.example ([IPv6:2001:db8::1])\r\n"
                               "\tby mx1.example.net with ESMTP id 00000000000000000000000000\r\n"
                               "\tfor <u@example.net>;\r\n\tSun, 01 Mar 2026 12:00:00 +0000\r\n"));
    assert_memory_equal(out,
                        "Received: from client.example ([IPv6:2001:db8::1])\r\n"
                        "\tby mx1.example.net with ESMTP id 00000000000000000000000000\r\n"
                        "\tfor <u@example.net>;\r\n\tSun, 01 Mar 2026 12:00:00 +0000\r\n",
                        n);
    r.recipient = NULL;
    n = smtp_received_write(&r, out);
    assert_null(memmem(out, n, "for <", 5));
}

static void test_names(void **state)
{
    static const struct {
        unsigned how;
        const char *name;
    } rows[] = {
        {0, "SMTP"},
        {PROTOCOL_EXTENDED, "ESMTP"},
        {PROTOCOL_EXTENDED | PROTOCOL_TLS, "ESMTPS"},
        {PROTOCOL_EXTENDED | PROTOCOL_AUTH, "ESMTPA"},
        {PROTOCOL_EXTENDED | PROTOCOL_TLS | PROTOCOL_AUTH, "ESMTPSA"},
        {PROTOCOL_EXTENDED | PROTOCOL_UTF8, "UTF8SMTP"},
        {PROTOCOL_EXTENDED | PROTOCOL_UTF8 | PROTOCOL_TLS | PROTOCOL_AUTH, "UTF8SMTPSA"},
        {PROTOCOL_EXTENDED | PROTOCOL_LMTP, "LMTP"},
        {PROTOCOL_EXTENDED | PROTOCOL_LMTP | PROTOCOL_TLS, "LMTPS"},
        {PROTOCOL_LMTP | PROTOCOL_UTF8 | PROTOCOL_AUTH, "UTF8LMTPA"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_string_equal(smtp_protocol_name(rows[i].how), rows[i].name);
}

/* Everything at its longest stays below the maximum. */
static void test_long(void **state)
{
    static char domain[256], recipient[321], tls[225];
    struct smtp_received r = {
        .helo = domain,
        .client = "IPv6:2001:db8:1111:2222:3333:4444:5555:6666",
        .hostname = domain,
        .how = PROTOCOL_UTF8 | PROTOCOL_EXTENDED | PROTOCOL_TLS | PROTOCOL_AUTH,
        .tls = tls,
        .has_priority = true,
        .priority = -9,
        .recipient = recipient,
        .recipient_len = 320,
        .unix_ms = 1772366400000,
    };
    char out[SMTP_MAX_RECEIVED];
    size_t n;

    (void)state;
    memset(domain, 'd', 255);
    memset(recipient, 'r', 320);
    memset(tls, 't', 224);
    n = smtp_received_write(&r, out);
    assert_memory_equal(out + n - 2, "\r\n", 2);
    assert_non_null(memmem(out, n, "rrr>\r\n\tpriority -9;\r\n\t", 22));
    assert_non_null(memmem(out, n, "ttt\r\n\tby ddd", 12));
    assert_non_null(memmem(out, n, " with UTF8SMTPSA id ", 20));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
