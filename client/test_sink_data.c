/* The end of a message and its dots, in every cutting of the input; a slow reader that works byte by byte is the judge.
 */
#include "client/sink_data.h"

#include "client/rng.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct out {
    char bytes[4096];
    size_t len;
};

static void take(void *arg, const char *bytes, size_t len)
{
    struct out *out = arg;
    assert_true(len > 0);
    assert_true(out->len + len <= sizeof(out->bytes));
    memcpy(out->bytes + out->len, bytes, len);
    out->len += len;
}

static int feed(struct sink_data *data, const char *in, size_t len, size_t piece, size_t *used, struct out *out)
{
    size_t at = 0;

    sink_data_reset(data);
    out->len = 0;
    while (at < len) {
        size_t n = len - at < piece ? len - at : piece;
        /* A copy of the exact size, so that the address sanitizer sees a read behind the piece. */
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, in + at, n);
        size_t took = 0;
        int rc = sink_data_feed(data, copy, n, &took, take, out);
        free(copy);
        at += took;
        if (rc != MR_MORE) {
            *used = at;
            return rc;
        }
        assert_int_equal(took, n);
    }
    *used = at;
    return MR_MORE;
}

static void check(const char *in, int want_rc, size_t want_used, const char *want, bool bare_lf, bool bare_cr)
{
    struct sink_data data;
    struct out out;

    for (size_t piece = 1; piece <= strlen(in); piece++) {
        size_t used = 0;
        assert_int_equal(feed(&data, in, strlen(in), piece, &used, &out), want_rc);
        assert_int_equal(used, want_used);
        assert_int_equal(out.len, strlen(want));
        assert_memory_equal(out.bytes, want, out.len);
        assert_int_equal(data.bare_lf, bare_lf);
        assert_int_equal(data.bare_cr, bare_cr);
    }
}

static void ends_and_dots(void **state)
{
    (void)state;
    check(".\r\nQUIT\r\n", 0, 3, "", false, false);
    check("a\r\n.\r\n", 0, 6, "a\r\n", false, false);
    check("..\r\n.a\r\n...\r\n.\r\n", 0, 16, ".\r\na\r\n..\r\n", false, false);
    check("a\r\n", MR_MORE, 3, "a\r\n", false, false);
}

/* What other servers took for an end: none of these is one (the smuggling of a second message). */
static void bare_line_ends_end_nothing(void **state)
{
    (void)state;
    check("a\n.\nb\r\n.\r\n", 0, 10, "a\n.\nb\r\n", true, false);
    check("a\n.\r\nb\r\n.\r\n", 0, 11, "a\n.\r\nb\r\n", true, false);
    check("a\r\n.\nb\r\n.\r\n", 0, 11, "a\r\n\nb\r\n", true, false);
    check("a\r.\rb\r\n.\r\n", 0, 10, "a\r.\rb\r\n", false, true);
    check("a\r\n.\r.\r\n.\r\n", 0, 11, "a\r\n\r.\r\n", false, true);
    check("a\r\n.\r\rb\r\n.\r\n", 0, 12, "a\r\n\r\rb\r\n", false, true);
}

/* The same, one byte at a time and without any hurry. */
static int slow(const char *in, size_t len, size_t *used, struct out *out)
{
    out->len = 0;
    for (size_t i = 0; i < len; i++) {
        bool at_line = i == 0 || (i >= 2 && in[i - 1] == '\n' && in[i - 2] == '\r');
        if (at_line && in[i] == '.') {
            if (i + 2 < len && in[i + 1] == '\r' && in[i + 2] == '\n') {
                *used = i + 3;
                return 0;
            }
            continue;
        }
        out->bytes[out->len++] = in[i];
    }
    *used = len;
    return MR_MORE;
}

static void agrees_with_the_slow_reader(void **state)
{
    static const char alphabet[] = "a.\r\n";
    struct sink_data data;
    struct out got;
    struct out want;
    char in[64];

    (void)state;
    for (uint64_t seed = 0; seed < 20000; seed++) {
        struct rng rng = rng_seeded(seed, 0);
        size_t len = (size_t)rng_below(&rng, 40);
        for (size_t i = 0; i < len; i++)
            in[i] = alphabet[rng_below(&rng, 4)];
        memcpy(in + len, "x\r\n.\r\n", 6);
        len += 6;
        size_t used = 0;
        size_t want_used = 0;
        int want_rc = slow(in, len, &want_used, &want);
        int rc = feed(&data, in, len, 1 + (size_t)rng_below(&rng, 8), &used, &got);
        if (rc != want_rc || used != want_used || got.len != want.len || memcmp(got.bytes, want.bytes, got.len) != 0)
            fail_msg("differs at seed %llu", (unsigned long long)seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_and_dots),
        cmocka_unit_test(bare_line_ends_end_nothing),
        cmocka_unit_test(agrees_with_the_slow_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
