/* Replies in any pieces, replies that are none, commands and paths. */
#include "client/smtp_line.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* Feeds text in pieces of the given size; the result of the feed that was not MR_MORE, and how much was used. */
static int feed(struct smtp_reply *reply, const char *text, size_t piece, size_t *used)
{
    size_t len = strlen(text);
    size_t at = 0;

    smtp_reply_reset(reply);
    while (at < len) {
        size_t n = len - at < piece ? len - at : piece;
        size_t took = 0;
        int rc = smtp_reply_feed(reply, text + at, n, &took);
        at += took;
        if (rc != MR_MORE) {
            *used = at;
            return rc;
        }
    }
    *used = at;
    return MR_MORE;
}

static void reply_in_any_pieces(void **state)
{
    static const char text[] = "250-mx.example.net greets you\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";
    char both[256];
    struct smtp_reply reply;

    (void)state;
    (void)strcpy(both, text);
    (void)strcat(both, "354 go\r\n");
    for (size_t piece = 1; piece < sizeof(text) + 4; piece++) {
        size_t used = 0;
        assert_int_equal(feed(&reply, both, piece, &used), 0);
        assert_int_equal(used, strlen(text));
        assert_int_equal(reply.code, 250);
        assert_int_equal(reply.lines, 4);
        assert_true(smtp_reply_offers(&reply, "PIPELINING"));
        assert_true(smtp_reply_offers(&reply, "size"));
        assert_true(smtp_reply_offers(&reply, "8BITMIME"));
        assert_false(smtp_reply_offers(&reply, "8BIT"));
        assert_false(smtp_reply_offers(&reply, "mx.example.net"));
        assert_string_equal(smtp_reply_last(&reply), "8BITMIME");
    }
}

static void bare_code_and_bare_lf(void **state)
{
    struct smtp_reply reply;
    size_t used = 0;

    (void)state;
    assert_int_equal(feed(&reply, "220\n", 4, &used), 0);
    assert_int_equal(reply.code, 220);
    assert_string_equal(reply.text, "");
    assert_int_equal(feed(&reply, "250 ok", 6, &used), MR_MORE);
}

static void no_reply_is_refused(void **state)
{
    static const char *const wrong[] = {"\r\n",      "25\r\n",           "600 x\r\n",         "150 x\r\n",
                                        "250_x\r\n", "HTTP/1.1 400\r\n", "250-a\r\n251 b\r\n"};
    struct smtp_reply reply;
    size_t used = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(feed(&reply, wrong[i], 100, &used), MR_MALFORMED);
        assert_int_equal(feed(&reply, wrong[i], 1, &used), MR_MALFORMED);
    }
}

static void limits_of_a_reply(void **state)
{
    struct smtp_reply reply;
    char line[SMTP_REPLY_LINE_MAX + 10];
    size_t used = 0;

    (void)state;
    memset(line, 'x', sizeof(line));
    memcpy(line, "250 ", 4);
    line[sizeof(line) - 1] = '\0';
    assert_int_equal(feed(&reply, line, sizeof(line), &used), MR_LIMIT);
    assert_int_equal(feed(&reply, line, 7, &used), MR_LIMIT);

    /* Long text is cut, the code still counts. */
    smtp_reply_reset(&reply);
    line[3] = '-';
    line[900] = '\n';
    for (int i = 0; i < 5; i++)
        assert_int_equal(smtp_reply_feed(&reply, line, 901, &used), MR_MORE);
    assert_int_equal(smtp_reply_feed(&reply, "250 x\r\n", 7, &used), 0);
    assert_int_equal(reply.len, SMTP_REPLY_TEXT_MAX);
    assert_int_equal(reply.code, 250);

    smtp_reply_reset(&reply);
    for (int i = 0; i < SMTP_REPLY_LINES_MAX; i++)
        assert_int_equal(smtp_reply_feed(&reply, "250-x\r\n", 7, &used), MR_MORE);
    assert_int_equal(smtp_reply_feed(&reply, "250-x\r\n", 7, &used), MR_LIMIT);
}

static void commands(void **state)
{
    const char *args = NULL;
    size_t len = 0;

    (void)state;
    assert_int_equal(smtp_command_parse("mail FROM:<a@b>  ", 17, &args, &len), SMTP_MAIL);
    assert_int_equal(len, 10);
    assert_memory_equal(args, "FROM:<a@b>", 10);
    assert_int_equal(smtp_command_parse("QUIT", 4, &args, &len), SMTP_QUIT);
    assert_int_equal(len, 0);
    assert_int_equal(smtp_command_parse("", 0, &args, &len), SMTP_UNKNOWN);
    assert_int_equal(smtp_command_parse("DATAX", 5, &args, &len), SMTP_UNKNOWN);
    assert_int_equal(smtp_command_parse("Dat", 3, &args, &len), SMTP_UNKNOWN);
    assert_int_equal(smtp_command_parse("   ", 3, &args, &len), SMTP_UNKNOWN);
}

static int path(const char *args, char *out)
{
    return smtp_path_parse(args, strlen(args), "FROM:", out);
}

static void paths(void **state)
{
    char out[SMTP_ADDRESS_MAX + 1];
    char longest[SMTP_ADDRESS_MAX + 20];

    (void)state;
    assert_int_equal(path("FROM:<a@b> SIZE=7", out), 0);
    assert_string_equal(out, "a@b");
    assert_int_equal(path("from: <>", out), 0);
    assert_string_equal(out, "");
    assert_int_equal(path("FROM:<\"a>b\\\"\"@c>", out), 0);
    assert_string_equal(out, "\"a>b\\\"\"@c");
    assert_int_equal(path("FROM:<@x,@y:a@b>", out), 0);
    assert_string_equal(out, "a@b");
    assert_int_equal(path("FROM:a@b", out), MR_MALFORMED);
    assert_int_equal(path("FROM:<a@b", out), MR_MALFORMED);
    assert_int_equal(path("FROM:<a@b>x", out), MR_MALFORMED);
    assert_int_equal(path("FROM:<@x>", out), MR_MALFORMED);
    assert_int_equal(path("TO:<a@b>", out), MR_MALFORMED);
    assert_int_equal(path("FROM:", out), MR_MALFORMED);
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "FROM:<", 6);
    memcpy(longest + sizeof(longest) - 2, ">", 2);
    assert_int_equal(path(longest, out), MR_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reply_in_any_pieces),
        cmocka_unit_test(bare_code_and_bare_lf),
        cmocka_unit_test(no_reply_is_refused),
        cmocka_unit_test(limits_of_a_reply),
        cmocka_unit_test(commands),
        cmocka_unit_test(paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
