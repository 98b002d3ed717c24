/* test_smtp_data.c - the dot reader: what ends the data, what does not, and that cuts make no difference. */
#include "node/server/smtp_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct result {
    uint8_t text[4096];
    size_t len;
    size_t consumed;
    bool ended, bare;
};

static bool dots = true, mend;

/* Feeds input cut at a and b, with room for `room` octets at a time, from memory of exact size. */
static void feed(const char *input, size_t len, size_t a, size_t b, size_t room, struct result *r)
{
    size_t cuts[] = {a, b, len};
    struct smtp_data d;
    size_t at = 0;

    smtp_data_init(&d, dots, mend);
    memset(r, 0, sizeof(*r));
    for (size_t i = 0; i < 3; i++) {
        size_t n = cuts[i] - at;
        uint8_t *piece = malloc(n + 1);
        size_t used = 0;

        assert_non_null(piece);
        memcpy(piece, input + at, n);
        while (used < n && !smtp_data_ended(&d)) {
            uint8_t *out = malloc(room);
            size_t produced, took;

            assert_non_null(out);
            took = smtp_data_feed(&d, piece + used, n - used, out, room, &produced);
            assert_true(took > 0 || produced > 0);
            assert_true(produced <= room);
            memcpy(r->text + r->len, out, produced);
            r->len += produced;
            used += took;
            free(out);
        }
        free(piece);
        r->consumed += used;
        at = cuts[i];
    }
    if (!dots)
        r->len += smtp_data_finish(&d, r->text + r->len);
    r->ended = smtp_data_ended(&d);
    r->bare = smtp_data_bare(&d);
}

/* text NULL: refused for a bare CR or LF, but ended at the same place. */
static void check(const char *input, size_t len, const char *text, bool ended)
{
    struct result r;

    for (size_t a = 0; a <= len; a++) {
        for (size_t b = a; b <= len; b++) {
            for (size_t room = 2; room < 64; room += 7) {
                feed(input, len, a, b, room, &r);
                assert_int_equal(r.ended, ended);
                assert_int_equal(r.bare, text == NULL);
                assert_int_equal(r.consumed, len);
                if (text != NULL) {
                    assert_int_equal(r.len, strlen(text));
                    assert_memory_equal(r.text, text, r.len);
                }
            }
        }
    }
}

#define CHECK(input, text, ended) check(input, sizeof(input) - 1, text, ended)

static void test_plain(void **state)
{
    (void)state;
    CHECK(".\r\n", "", true);
    CHECK("a\r\n.\r\n", "a\r\n", true);
    CHECK("\r\n.\r\n", "\r\n", true);
    CHECK("..\r\n.\r\n", ".\r\n", true);
    CHECK(".a\r\n..b\r\n...\r\n.\r\n", "a\r\n.b\r\n..\r\n", true);
    CHECK("a.\r\n.\r\n", "a.\r\n", true);
    CHECK("a\r\n", "a\r\n", false);
    CHECK("a.b\r\n.", "a.b\r\n", false);
    CHECK("a\r\n.\r", "a\r\n", false);
    CHECK("a", "a", false);
}

/* Each is what a server that takes it for the end would be fooled by; all go on to the true end. */
static void test_smuggling(void **state)
{
    static const char *const false_ends[] = {
        "\n.\n",     "\n.\r\n",     "\r\n.\n",   "\r.\r",       "\r.\r\n",
        "\r\n.\r",   "\n.\r",       "\r.\n",     "\r\r\n.\r\n", "\r\n\n.\r\n",
        "\n\r\n.\r", "\r\n.\r\r\n", "\n\n.\n\n", "\r\n.\n\r\n", "\r\r\n\r\n.\r\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(false_ends) / sizeof(false_ends[0]); i++) {
        char input[128];
        struct result r;
        int n = snprintf(input, sizeof(input), "x%sMAIL FROM:<evil@x>\r\n.\r\n", false_ends[i]);

        /* Three of them hold a whole CR LF . CR LF behind the bare octet: it ends the data, but the message is refused.
         */
        feed(input, (size_t)n, (size_t)n, (size_t)n, 100, &r);
        assert_true(r.ended);
        assert_true(r.bare);
        check(input, r.consumed, NULL, true);
        if (strstr(false_ends[i], "\r\n.\r\n") == NULL)
            assert_int_equal(r.consumed, n);
    }
}

static void test_bare_anywhere(void **state)
{
    (void)state;
    CHECK("\n.\r\n\r\n.\r\n", NULL, true);
    CHECK(".\n\r\n.\r\n", NULL, true);
    CHECK(".\rx\r\n.\r\n", NULL, true);
    CHECK("\r\r\n.\r\n", NULL, true);
    CHECK("..\r\r\n.\r\n", NULL, true);
    CHECK("a\rb\r\n.\r\n", NULL, true);
    CHECK("a\nb\r\n.\r\n", NULL, true);
    CHECK("\r\n\r\n\n.\r\n", NULL, false);
}

/* What comes behind the end is left alone. */
static void test_leaves_rest(void **state)
{
    static const char input[] = "a\r\n.\r\nMAIL FROM:<b@c>\r\n";
    struct smtp_data d;
    uint8_t out[64];
    size_t produced;

    (void)state;
    smtp_data_init(&d, dots, mend);
    assert_int_equal(smtp_data_feed(&d, (const uint8_t *)input, sizeof(input) - 1, out, sizeof(out), &produced), 6);
    assert_true(smtp_data_ended(&d));
    assert_int_equal(produced, 3);
}

/* Every input of up to 8 octets over the alphabet that matters, against a plain reading of the rule. */
static void test_exhaustive(void **state)
{
    static const char alphabet[] = {'\r', '\n', '.', 'x'};

    (void)state;
    for (unsigned len = 1; len <= 8; len++) {
        for (unsigned code = 0; code < 1U << (2 * len); code++) {
            char input[16] = "\r\n";
            const char *end;
            bool bare = false;
            struct result r;

            for (unsigned i = 0; i < len; i++)
                input[2 + i] = alphabet[code >> (2 * i) & 3];
            end = strstr(input, "\r\n.\r\n");
            feed(input + 2, len, len / 3, len / 2, 2 + code % 5, &r);
            assert_int_equal(r.ended, end != NULL);
            if (end == NULL)
                continue;
            assert_int_equal(r.consumed, end + 5 - input - 2);
            for (const char *p = input; p < end + 5; p++)
                bare |= (*p == '\n' && (p == input || p[-1] != '\r')) || (*p == '\r' && p[1] != '\n');
            assert_int_equal(r.bare, bare);
        }
    }
}

/* ---- mended ---- */

/* What the text before the end is to become: every CR LF, CR and LF is a line end, and a leading dot goes. */
static size_t plain_mend(const char *text, size_t len, bool unstuff, char *out)
{
    bool start = true;
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r' || text[i] == '\n') {
            i += text[i] == '\r' && i + 1 < len && text[i + 1] == '\n';
            out[n++] = '\r';
            out[n++] = '\n';
            start = true;
        } else {
            if (!(start && unstuff && text[i] == '.'))
                out[n++] = text[i];
            start = false;
        }
    }
    return n;
}

/* As above, with a second reading of the rules for mending; and what comes out would end nowhere else than at its own
 * end, if its next reader took any lone dot on a line for one: only ".." makes such a line, which is stuffed again. */
static void test_mend_exhaustive(void **state)
{
    static const char alphabet[] = {'\r', '\n', '.', 'x'};

    (void)state;
    mend = true;
    for (unsigned len = 1; len <= 8; len++) {
        for (unsigned code = 0; code < 1U << (2 * len); code++) {
            char input[16] = "\r\n", expected[32];
            const char *end;
            struct result r;
            size_t n;

            for (unsigned i = 0; i < len; i++)
                input[2 + i] = alphabet[code >> (2 * i) & 3];
            end = strstr(input, "\r\n.\r\n");
            feed(input + 2, len, len / 3, len / 2, 2 + code % 5, &r);
            assert_int_equal(r.ended, end != NULL);
            assert_false(r.bare);
            if (end == NULL)
                continue;
            assert_int_equal(r.consumed, end + 5 - input - 2);
            n = plain_mend(input + 2, (size_t)(end - input), true, expected); /* up to the dot */
            assert_int_equal(r.len, n);
            assert_memory_equal(r.text, expected, n);
        }
    }
    mend = false;
}

static void test_mend(void **state)
{
    (void)state;
    mend = true;
    CHECK("a\nb\rc\r\n.\r\n", "a\r\nb\r\nc\r\n", true);
    CHECK("a\n.\n", "a\r\n\r\n", false);
    CHECK("a\n.\r\n", "a\r\n\r\n", false);
    CHECK("a\r\n.\n", "a\r\n\r\n", false);
    CHECK("a\r.\r", "a\r\n", false);
    CHECK("a\r\n.\rx", "a\r\n\r\nx", false);
    CHECK("a\n..b\n...\n\r\n.\r\n", "a\r\n.b\r\n..\r\n\r\n", true);
    mend = false;
}

static void test_chunks(void **state)
{
    (void)state;
    dots = false;
    CHECK("a\r\n.\r\n..b\r\n", "a\r\n.\r\n..b\r\n", true);
    CHECK("a", "a\r\n", true);
    CHECK("a\r\nb", "a\r\nb\r\n", true);
    CHECK("a\r", NULL, true);
    CHECK("a\nb", NULL, true);
    mend = true;
    CHECK("a\r", "a\r\n", true);
    CHECK("a\n.\nb", "a\r\n.\r\nb\r\n", true);
    mend = false;
    dots = true;
}

/* ---- in blocks ---- */

/* Lines of some length, now and then with something out of the ordinary; no end but by chance. */
static size_t make_long(uint32_t *seed, char out[512])
{
    static const char *const parts[] = {"\r\n", "\r\n", "\r\n", "\r\n.", "\r\n..", "\r", "\n", "\r\n.\r\n", ".", "\n."};
    size_t n = 0;

    while (n < 400) {
        unsigned run, part;

        *seed = *seed * 1664525 + 1013904223;
        run = (*seed >> 8) % 90;
        part = (*seed >> 20) % 64;
        memset(out + n, 'x', run);
        n += run;
        part = part < sizeof(parts) / sizeof(parts[0]) ? part : part % 3;
        memcpy(out + n, parts[part], strlen(parts[part]));
        n += strlen(parts[part]);
    }
    return n;
}

/* What is taken a block at a time comes to what it comes to octet by octet, wherever the blocks begin. */
static void test_blocks(void **state)
{
    (void)state;
    for (unsigned how = 0; how < 4; how++) {
        dots = how & 1;
        mend = how & 2;
        for (uint32_t i = 0; i < 5000; i++) {
            struct smtp_data d;
            struct result whole;
            uint8_t text[1100];
            char input[512];
            uint32_t seed = i;
            size_t len = make_long(&seed, input), n = 0, used = 0;

            smtp_data_init(&d, dots, mend);
            while (used < len && !smtp_data_ended(&d)) {
                size_t produced;

                used += smtp_data_feed(&d, (const uint8_t *)input + used, 1, text + n, sizeof(text) - n, &produced);
                n += produced;
            }
            feed(input, len, seed % 100, 100 + seed % 200, 2 + seed % 700, &whole);
            if (!dots)
                n += smtp_data_finish(&d, text + n);
            if (whole.consumed != used || whole.bare != smtp_data_bare(&d) || whole.ended != smtp_data_ended(&d) ||
                (!whole.bare && (whole.len != n || memcmp(whole.text, text, n) != 0)))
                fail_msg("how %u, seed %u", how, i);
        }
    }
    dots = true;
    mend = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),           cmocka_unit_test(test_smuggling),  cmocka_unit_test(test_bare_anywhere),
        cmocka_unit_test(test_leaves_rest),     cmocka_unit_test(test_exhaustive), cmocka_unit_test(test_mend),
        cmocka_unit_test(test_mend_exhaustive), cmocka_unit_test(test_chunks),     cmocka_unit_test(test_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
