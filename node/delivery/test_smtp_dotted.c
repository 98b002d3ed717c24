/* What DATA carries, at every cut; compared with a plain rewriting of the whole. */
#include "node/delivery/smtp_dotted.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool stuff = true;

static size_t dot(const char *in, size_t len, size_t step, char *out)
{
    struct smtp_dotted d;
    size_t n = 0;
    smtp_dotted_begin(&d, stuff);
    for (size_t at = 0; at < len; at += step) {
        const char *text;
        size_t text_len;
        char *mended = smtp_dotted_feed(&d, in + at, len - at < step ? len - at : step, &text, &text_len);
        if (text_len > 0)
            memcpy(out + n, text, text_len);
        n += text_len;
        free(mended);
    }
    const char *end = smtp_dotted_end(&d);
    memcpy(out + n, end, strlen(end));
    return n + strlen(end);
}

static void assert_dotted(const char *in, const char *wanted)
{
    char out[1024];
    for (size_t step = 1; step <= strlen(in) + 1; step++) {
        size_t n = dot(in, strlen(in), step, out);
        out[n] = 0;
        assert_string_equal(out, wanted);
    }
}

static void lines(void **state)
{
    (void)state;
    assert_dotted("", "");
    assert_dotted("a\r\nb\r\n", "a\r\nb\r\n");
    assert_dotted("a", "a\r\n");
    assert_dotted("a\r", "a\r\n");
    assert_dotted(".", "..\r\n");
    assert_dotted(".\r\n..two\r\na.b\r\n.\r\n\r\n.end", "..\r\n...two\r\na.b\r\n..\r\n\r\n..end\r\n");
}

/* None of these may become an end of data, however the receiver reads lone CR and LF. */
static void smuggling(void **state)
{
    (void)state;
    assert_dotted("a\n.\nb", "a\r\n..\r\nb\r\n");
    assert_dotted("a\n.\r\nb", "a\r\n..\r\nb\r\n");
    assert_dotted("a\r\n.\nb", "a\r\n..\r\nb\r\n");
    assert_dotted("a\r.\rb", "a . b\r\n");
    assert_dotted("a\r.\r\nb", "a .\r\nb\r\n");
    assert_dotted("a\r\n.\rb", "a\r\n.. b\r\n");
    assert_dotted("a\r\r\n.\r\nb", "a \r\n..\r\nb\r\n");
    assert_dotted("a\r\r\r", "a  \r\n");
    assert_dotted("\n\n.\n\n", "\r\n\r\n..\r\n\r\n");
    assert_dotted("\r.\r\n", " .\r\n");
}

static void without_dots(void **state)
{
    (void)state;
    stuff = false;
    assert_dotted(".\r\n..two\r\n.end", ".\r\n..two\r\n.end\r\n");
    assert_dotted("a\n.\nb\r.\r", "a\r\n.\r\nb .\r\n");
    stuff = true;
}

static void any_text(void **state)
{
    static const char letters[] = "\r\n.ab\r\n";
    char in[64], once[256], out[256];
    uint32_t seed = 12345;
    (void)state;
    for (int round = 0; round < 200000; round++) {
        size_t len = (seed = seed * 1664525 + 1013904223) >> 26;
        for (size_t i = 0; i < len; i++)
            in[i] = letters[((seed = seed * 1664525 + 1013904223) >> 24) % (sizeof(letters) - 1)];
        size_t n = dot(in, len, len + 1, once);
        assert_true(n == 0 || (n >= 2 && memcmp(once + n - 2, "\r\n", 2) == 0));
        for (size_t i = 0; i < n; i++) { /* clean, and no line is a lone dot */
            assert_true(once[i] != '\r' || once[i + 1] == '\n');
            assert_true(once[i] != '\n' || (i > 0 && once[i - 1] == '\r'));
            assert_true(once[i] != '.' || (i > 0 && once[i - 1] != '\n') || once[i + 1] == '.');
        }
        size_t step = 1 + (size_t)round % 7;
        assert_int_equal(dot(in, len, step, out), n);
        assert_memory_equal(out, once, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(smuggling),
        cmocka_unit_test(without_dots),
        cmocka_unit_test(any_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
