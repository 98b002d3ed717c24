/* test_smtp_received.c - the trace field and the count of those before it. */
#include "node/smtp_received.h"

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
        .protocol = "ESMTP",
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

static unsigned count(const char *text, size_t cut)
{
    struct smtp_hops h = {0};
    size_t len = strlen(text);

    for (size_t at = 0; at < len; at += cut)
        smtp_hops_feed(&h, (const uint8_t *)text + at, len - at < cut ? len - at : cut);
    return h.count;
}

static void test_count(void **state)
{
    static const struct {
        const char *text;
        unsigned count;
    } rows[] = {
        {"", 0},
        {"Received: a\r\n", 1},
        {"RECEIVED:a\r\nreceived : b\r\nSubject: x\r\n Received: folded\r\n\r\nReceived: body\r\n", 2},
        {"\r\nReceived: body\r\n", 0},
        {"Received-SPF: x\r\nXReceived: y\r\nReceive: z\r\nReceived x: q\r\nReceived", 0},
        {"A: b\r\nReceived:\r\nC: d\r\nReceived:\tx\r\n\ty\r\n", 2},
        {"Recei\r\nved: x\r\nrReceived: y\r\n", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t cut = 1; cut < 100; cut++)
            assert_int_equal(count(rows[i].text, cut), rows[i].count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
