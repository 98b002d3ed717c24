/* What is found in a message, in every cutting of it. */
#include "client/sink_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct sink_message m;

static int setup(void **state)
{
    (void)state;
    memset(&m, 0, sizeof(m));
    sink_message_init(&m);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sink_message_free(&m);
    return 0;
}

static void feed(const char *text, size_t piece)
{
    size_t len = strlen(text);

    sink_message_reset(&m);
    for (size_t at = 0; at < len; at += piece)
        sink_message_take(&m, text + at, len - at < piece ? len - at : piece);
    sink_message_end(&m);
}

static void sum_of(const char *body, char out[33])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(body, strlen(body)));
    for (size_t i = 0; i < 16; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", c.digest[i]);
}

static void key_sum_and_id(void **state)
{
    static const char body[] = "one\r\n\r\nX-Load-Key: not-this\r\n";
    char sum[33];
    char text[1024];

    (void)state;
    sum_of(body, sum);
    int n = snprintf(text, sizeof(text),
                     "Received: from a by b (mailraft) with ESMTP\r\n\tid 01ARZ3NDEKTSV4RRFFQ69G5FAV;\r\n Sun\r\n"
                     "Received: from c by d with SMTP id 01BRZ3NDEKTSV4RRFFQ69G5FAV; x\r\n"
                     "x-load-key:  run-17 \r\nX-Load-Sum: %s\r\nSubject: x\r\n\r\n%s",
                     sum, body);
    for (size_t piece = 1; piece <= (size_t)n; piece++) {
        feed(text, piece);
        assert_string_equal(m.key, "run-17");
        assert_string_equal(m.sum, sum);
        assert_true(sink_message_intact(&m));
        assert_string_equal(m.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_int_equal(m.body_bytes, sizeof(body) - 1);
        assert_int_equal(m.bytes, n);
        assert_false(m.dsn);
    }
    text[n - 3]++; /* one byte of the body */
    feed(text, 7);
    assert_false(sink_message_intact(&m));
}

static void foreign_ids_are_passed_over(void **state)
{
    (void)state;
    feed("Received: by x id ABC123; id\r\nReceived: id <01ARZ3NDEKTSV4RRFFQ69G5FAV>\r\n\r\n", 5);
    assert_string_equal(m.id, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    assert_int_equal(m.body_bytes, 0);
}

static void bounce(void **state)
{
    static const char text[] =
        "From: <>\r\nContent-Type: multipart/report;\r\n report-type=delivery-status;\r\n boundary=b\r\n\r\n"
        "--b\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx1\r\n\r\n"
        "Action: failed\r\nStatus: 5.1.1\r\nFinal-Recipient: rfc822; a@b\r\n\r\n"
        "Final-Recipient: rfc822;\r\n c@d\r\nAction: delayed\r\nStatus: 4.4.1\r\n\r\n"
        "--b\r\nContent-Type: text/rfc822-headers\r\n\r\n"
        "Received: by mx1 id 01ARZ3NDEKTSV4RRFFQ69G5FAV; x\r\nX-Load-Key: run-18\r\n\r\n--b--\r\n";
    struct journal_line line = {0};

    (void)state;
    for (size_t piece = 1; piece < sizeof(text); piece++) {
        feed(text, piece);
        assert_true(m.dsn);
        assert_int_equal(m.report_count, 2);
        assert_string_equal(m.reports[0].recipient, "a@b");
        assert_string_equal(m.reports[0].action, "failed");
        assert_string_equal(m.reports[0].status, "5.1.1");
        assert_string_equal(m.reports[1].recipient, "c@d");
        assert_string_equal(m.reports[1].action, "delayed");
        assert_string_equal(m.original_key, "run-18");
        assert_string_equal(m.original_id, "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_string_equal(m.key, "");
    }
    journal_line_begin(&line, "received");
    sink_message_describe(&m, &line);
    char *whole = malloc(line.len + 2);
    assert_non_null(whole);
    memcpy(whole, line.data, line.len);
    memcpy(whole + line.len, "}", 2);
    json_t *object = json_loads(whole, 0, NULL);
    free(whole);
    assert_true(json_is_true(json_object_get(object, "dsn")));
    assert_int_equal(json_array_size(json_object_get(object, "reports")), 2);
    assert_null(json_object_get(object, "key"));
    json_decref(object);
    journal_line_free(&line);
}

/* A message that is all header, one with a header longer than is kept, one with bare line ends, an empty one. */
static void odd_shapes(void **state)
{
    char empty_sum[33];
    static char text[20000];

    (void)state;
    sum_of("", empty_sum);
    feed("X-Load-Key: k1\r\n", 3);
    assert_string_equal(m.key, "k1");
    assert_false(m.in_body);
    feed("X-Load-Key: k2", 3);
    assert_string_equal(m.key, "k2");
    assert_string_equal(m.sum, empty_sum);
    feed("X-Load-Key: k3\n\nbody\n", 4);
    assert_string_equal(m.key, "k3");
    assert_int_equal(m.body_bytes, 5);
    feed("", 1);
    assert_string_equal(m.key, "");
    assert_string_equal(m.sum, empty_sum);
    feed("\r\nbody", 1);
    assert_int_equal(m.body_bytes, 4);

    (void)strcpy(text, "Subject: ");
    memset(text + 9, 'x', 15000);
    (void)strcat(text, "\r\nX-Load-Key: k4\r\n\r\nz");
    feed(text, 1000);
    assert_string_equal(m.key, "k4");
    assert_int_equal(m.body_bytes, 1);
    (void)strcpy(text, "X-Load-Key: ");
    memset(text + 12, 'k', 300);
    text[312] = '\0';
    feed(text, 1000);
    assert_int_equal(strlen(m.key), MESSAGE_KEY_MAX);
}

static void reports_have_a_maximum(void **state)
{
    static char text[20000] = "Content-Type: multipart/report; report-type=delivery-status\r\n\r\n";

    (void)state;
    for (int i = 0; i < MESSAGE_REPORTS_MAX + 5; i++)
        (void)strcat(text, "Final-Recipient: rfc822; a@b\r\nAction: failed\r\n\r\n");
    feed(text, 100);
    assert_int_equal(m.report_count, MESSAGE_REPORTS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(key_sum_and_id, setup, teardown),
        cmocka_unit_test_setup_teardown(foreign_ids_are_passed_over, setup, teardown),
        cmocka_unit_test_setup_teardown(bounce, setup, teardown),
        cmocka_unit_test_setup_teardown(odd_shapes, setup, teardown),
        cmocka_unit_test_setup_teardown(reports_have_a_maximum, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
