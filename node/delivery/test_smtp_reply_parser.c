#include "node/delivery/smtp_reply_parser.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct smtp_reply_parser parser;

static void fresh(void)
{
    memset(&parser, 0x5a, sizeof(parser)); /* nothing is taken over from what was before */
    parser.on_line = NULL;
    smtp_reply_begin(&parser);
}

/* Feeds all at once; the octets that were used must be all when the reply is complete. */
static int feed(const char *text)
{
    size_t used = SIZE_MAX, len = strlen(text);
    fresh();
    int rc = smtp_reply_feed(&parser, text, len, &used);
    assert_true(used <= len);
    if (rc == 0 || rc == MR_MORE)
        assert_int_equal(used, len);
    return rc;
}

static void one_line(void **state)
{
    (void)state;
    assert_int_equal(feed("250 2.1.0 Ok\r\n"), 0);
    assert_int_equal(parser.code, 250);
    assert_string_equal(parser.text, "250 2.1.0 Ok");
    assert_int_equal(parser.text_len, strlen(parser.text));
}

static void lenient(void **state)
{
    (void)state;
    assert_int_equal(feed("354\r\n"), 0);
    assert_int_equal(parser.code, 354);
    assert_string_equal(parser.text, "354");
    assert_int_equal(feed("354 \r\n"), 0);
    assert_string_equal(parser.text, "354 ");
    assert_int_equal(feed("220 hi\n"), 0);
    assert_string_equal(parser.text, "220 hi");
    assert_int_equal(feed("250-a\n250 b\r\n"), 0);
    assert_string_equal(parser.text, "250 a; b");
    assert_int_equal(feed("250-\r\n250\r\n"), 0);
    assert_string_equal(parser.text, "250 ; ");
}

struct lines {
    unsigned n;
    char text[8][64];
};

static void on_line(void *arg, unsigned number, const char *text, size_t len)
{
    struct lines *l = arg;
    assert_int_equal(number, l->n);
    (void)snprintf(l->text[l->n++], sizeof(l->text[0]), "%.*s", (int)len, text);
}

/* However the octets are cut, the same replies come out. */
static void byte_by_byte(void **state)
{
    static const char text[] = "250-mx.example greets\r\n250-PIPELINING\r\n250 SIZE 1000\r\n354 go\r\n";
    struct lines lines = {0};
    unsigned replies = 0;
    (void)state;
    fresh();
    parser.on_line = on_line;
    parser.arg = &lines;
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        size_t used = 99;
        int rc = smtp_reply_feed(&parser, text + i, 1, &used);
        assert_int_equal(used, 1);
        if (rc == MR_MORE)
            continue;
        assert_int_equal(rc, 0);
        if (replies++ == 0) {
            assert_string_equal(parser.text, "250 mx.example greets; PIPELINING; SIZE 1000");
            assert_int_equal(lines.n, 3);
            assert_string_equal(lines.text[0], "mx.example greets");
            assert_string_equal(lines.text[2], "SIZE 1000");
            lines.n = 0;
        } else {
            assert_string_equal(parser.text, "354 go");
        }
        smtp_reply_begin(&parser);
    }
    assert_int_equal(replies, 2);
}

static void stops_behind_a_reply(void **state)
{
    size_t used;
    (void)state;
    fresh();
    assert_int_equal(smtp_reply_feed(&parser, "250 a\r\n251 b\r\n", 14, &used), 0);
    assert_int_equal(used, 7);
    assert_int_equal(parser.code, 250);
}

static void not_smtp(void **state)
{
    static const char *const texts[] = {"\r\n",         "25\r\n",      "HTTP/1.1 400 Bad\r\n", "150 x\r\n",
                                        "650 x\r\n",    "2x0 a\r\n",   "250xok\r\n",           "2500 ok\r\n",
                                        "+250 ok\r\n",  " 250 ok\r\n", "250-a\r\n251 b\r\n",   "250-a\r\nb\r\n",
                                        "250-a\r\n\r\n"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_int_equal(feed(texts[i]), MR_MALFORMED);
}

static void limits(void **state)
{
    static char text[REPLY_MAX_LINES * 8 + REPLY_MAX_LINE + 16];
    size_t used = SIZE_MAX;
    (void)state;

    memset(text, 'a', sizeof(text));
    memcpy(text, "250 ", 4);
    fresh();
    assert_int_equal(smtp_reply_feed(&parser, text, REPLY_MAX_LINE + 1, &used), MR_LIMIT);
    assert_true(used <= REPLY_MAX_LINE);
    fresh();
    assert_int_equal(smtp_reply_feed(&parser, text, REPLY_MAX_LINE, &used), MR_MORE);
    assert_int_equal(smtp_reply_feed(&parser, "\n", 1, &used), 0);
    assert_int_equal(parser.text_len, REPLY_TEXT); /* the rest is cut */
    assert_int_equal(strlen(parser.text), REPLY_TEXT);

    text[0] = 0;
    for (int i = 0; i < REPLY_MAX_LINES - 1; i++)
        (void)strcat(text, "250-a\r\n");
    (void)strcat(text, "250 b\r\n");
    assert_int_equal(feed(text), 0);
    text[(REPLY_MAX_LINES - 1) * 7 + 3] = '-';
    assert_int_equal(feed(text), MR_LIMIT);
}

static void control_characters_do_not_stay(void **state)
{
    size_t used;
    static const char text[] = "550 a\0b\x1b[1m\rc\td\x7f"
                               "e\r\n";
    (void)state;
    fresh();
    assert_int_equal(smtp_reply_feed(&parser, text, sizeof(text) - 1, &used), 0);
    assert_string_equal(parser.text, "550 a b [1m c d e");
}

static void assert_status(int code, const char *text, const char *wanted)
{
    char out[16];
    assert_ptr_equal(smtp_reply_status(code, text, out), out);
    assert_string_equal(out, wanted);
}

static void enhanced_codes(void **state)
{
    (void)state;
    assert_status(250, "250 2.1.5 Ok", "2.1.5");
    assert_status(550, "550 5.7.509 no", "5.7.509");
    assert_status(550, "550 5.1.1; second line", "5.1.1");
    assert_status(450, "450 4.2.0", "4.2.0");
    assert_status(550, "550 no such user", "5.0.0");
    assert_status(550, "550", "5.0.0");
    assert_status(550, "550 ", "5.0.0");
    assert_status(550, "550 5", "5.0.0");
    assert_status(550, "550 5.", "5.0.0");
    assert_status(550, "550 5.1", "5.0.0");
    assert_status(550, "550 5.1.", "5.0.0");
    assert_status(550, "550 5.1.1x", "5.0.0");
    assert_status(550, "550 5.1234.1 x", "5.0.0");
    assert_status(550, "550 5.1.1234 x", "5.0.0");
    assert_status(550, "550 4.1.1 other class", "5.0.0");
    assert_status(450, "no reply at all", "4.0.0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line),
        cmocka_unit_test(lenient),
        cmocka_unit_test(byte_by_byte),
        cmocka_unit_test(stops_behind_a_reply),
        cmocka_unit_test(not_smtp),
        cmocka_unit_test(limits),
        cmocka_unit_test(control_characters_do_not_stay),
        cmocka_unit_test(enhanced_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
