/* test_smtp_header.c - what is seen in headers, at every cut. */
#include "node/mail/smtp_header.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct smtp_header scan(const char *text, size_t len, size_t cut)
{
    struct smtp_header h;

    memset(&h, 0, sizeof(h));
    for (size_t at = 0; at < len && !h.ended;) {
        size_t n = len - at < cut ? len - at : cut;
        size_t used = smtp_header_feed(&h, (const uint8_t *)text + at, n);

        assert_true(used == n || h.ended);
        at += used;
    }
    return h;
}

static void test_rows(void **state)
{
    static const struct {
        const char *text;
        unsigned received, seen;
        bool ended, fields_ended, empty_line;
        unsigned fields_end;
    } rows[] = {
        {"", 0, 0, false, false, false, 0},
        {"Received: a\r\n", 1, 0, false, false, false, 0},
        {"RECEIVED:a\r\nreceived : b\r\nSubject: x\r\n Received: folded\r\n\r\nReceived: body\r\n", 2, 0, true, true,
         true, 57},
        {"\r\nReceived: body\r\n", 0, 0, true, true, true, 0},
        {"Received-SPF: x\r\nXReceived: y\r\nReceive: z\r\nReceived x: q\r\nReceived", 0, 0, false, true, false, 43},
        {"A: b\r\nReceived:\r\nC: d\r\nReceived:\tx\r\n\ty\r\n", 2, 0, false, false, false, 0},
        {"Recei\r\nved: x\r\nrReceived: y\r\n", 0, 0, false, true, false, 0},
        {"Message-ID: <a>\r\nDATE :\r\n\tx\r\nfrom:a\r\nSender:b\r\n\r\n", 0,
         FIELD_MESSAGE_ID | FIELD_DATE | FIELD_FROM | FIELD_SENDER, true, true, true, 47},
        {"Resent-Message-ID: <a>\r\nX-Date: y\r\n\r\n", 0, 0, true, true, true, 35},
        {"hello\r\nDate: x\r\n\r\n", 0, FIELD_DATE, true, true, false, 0},
        {"hello", 0, 0, false, false, false, 0},
        {" folded first\r\nA: b\r\n\r\n", 0, 0, true, true, false, 0},
        {"From sender Mon Jan 1\r\nA: b\r\n", 0, 0, false, true, false, 0},
        {"A: b\r\n: no name\r\n", 0, 0, false, true, false, 6},
        {"A: b\r\nno field\r\n", 0, 0, false, true, false, 6},
        {"A: b\r\n\xc3\xa9: x\r\n", 0, 0, false, true, false, 6},
        {"Content-Type: multipart/mixed\r\n", 0, FIELD_PARTS, false, false, false, 0},
        {"Content-type:\r\n\tMULTIPART/mixed\r\n", 0, FIELD_PARTS, false, false, false, 0},
        {"Content-Type: message/global\r\n", 0, FIELD_PARTS, false, false, false, 0},
        {"Content-Type: text/plain; x=multipart/mixed\r\nX: message/rfc822\r\n", 0, 0, false, false, false, 0},
        {"Content-Type: multipar\r\n", 0, 0, false, false, false, 0},
        {"Averylongnamethatisnotreceived: x\r\nreceivedreceivedreceived: y\r\n\r\n", 0, 0, true, true, true, 64},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t cut = 1; cut < 100; cut++) {
            struct smtp_header h = scan(rows[i].text, strlen(rows[i].text), cut);

            if (h.received != rows[i].received || h.seen != rows[i].seen || h.ended != rows[i].ended ||
                h.fields_ended != rows[i].fields_ended || h.empty_line != rows[i].empty_line ||
                h.fields_end != rows[i].fields_end)
                fail_msg("row %zu, cut %zu: %u %x %d %d %d %lu", i, cut, h.received, h.seen, h.ended, h.fields_ended,
                         h.empty_line, (unsigned long)h.fields_end);
        }
    }
}

static void test_8bit(void **state)
{
    uint8_t text[200];

    (void)state;
    memset(text, 'a', sizeof(text));
    for (size_t len = 0; len < 100; len++) {
        assert_false(smtp_text_is_8bit(text, len));
        for (size_t at = 0; at < len; at++) {
            text[at] = 0x80;
            assert_true(smtp_text_is_8bit(text, len));
            text[at] = 'a';
        }
    }
    assert_true(scan("A: \xe9\r\n\r\n", 9, 3).eight_bit);
    assert_false(scan("A: e\r\n\r\n\xe9", 9, 9).eight_bit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_8bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
