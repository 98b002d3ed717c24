/* Bodies keep their promises at every size, and come back through the sink's reader as they were. */
#include "client/load_message.h"

#include "client/sink_data.h"
#include "client/sink_message.h"
#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct load_text text;

static int setup(void **state)
{
    (void)state;
    load_text_init(&text, 11);
    return 0;
}

/* The whole body in new memory. */
static char *body_of(uint64_t number, uint64_t size)
{
    struct load_body body;
    char *all = malloc(size + 256);
    size_t len = 0;

    assert_non_null(all);
    load_body_start(&body, &text, number, size);
    for (;;) {
        size_t room = size + 256 - len < 300 ? size + 256 - len : 300;
        size_t n = load_body_fill(&body, all + len, room);
        if (n == 0)
            break;
        len += n;
        assert_true(len <= size);
    }
    assert_int_equal(len, size);
    return all;
}

static unsigned check_lines(const char *body, size_t size)
{
    unsigned dotted = 0;

    for (size_t at = 0; at < size;) {
        const char *cr = memchr(body + at, '\r', size - at);
        assert_non_null(cr);
        size_t n = (size_t)(cr - body) - at;
        assert_true(n <= LOAD_LINE_MAX);
        assert_true(at + n + 1 < size && cr[1] == '\n');
        for (size_t i = 0; i < n; i++)
            assert_in_range((unsigned char)body[at + i], ' ', '~');
        dotted += n > 0 && body[at] == '.';
        at += n + 2;
    }
    return dotted;
}

static void every_size(void **state)
{
    (void)state;
    for (uint64_t size = 0; size < 700; size++) {
        for (uint64_t number = 0; number < 20 && size != 1; number++) {
            char *body = body_of(number, size);
            (void)check_lines(body, size);
            free(body);
        }
    }
    char *body = body_of(1, 100000);
    assert_in_range(check_lines(body, 100000), 50, 400);
    char *again = body_of(1, 100000);
    assert_memory_equal(body, again, 100000);
    char *other = body_of(2, 100000);
    assert_memory_not_equal(body, other, 100000);
    free(body);
    free(again);
    free(other);
}

/* Renders a message as a session does and reads it as the sink does. */
static void round_trip(uint64_t number, uint64_t size)
{
    const struct load_envelope envelope = {"run-1", "a@b", "c@d", 1700000000000};
    struct load_message m = {0};
    struct sink_message got = {0};
    struct sink_data data;
    uint64_t wire = 0;
    size_t used = 0;
    int rc = MR_MORE;

    sink_message_init(&got);
    sink_data_reset(&data);
    load_message_start(&m, &text, number, size, &envelope);
    for (;;) {
        assert_int_equal(rc, MR_MORE);
        assert_true(m.wire_len <= m.wire_cap);
        wire += m.wire_len;
        rc = sink_data_feed(&data, m.wire, m.wire_len, &used, sink_message_take, &got);
        assert_int_equal(used, m.wire_len);
        if (m.last)
            break;
        load_message_next(&m, &text);
    }
    assert_int_equal(rc, 0);
    sink_message_end(&got);
    assert_string_equal(got.key, "run-1");
    assert_true(sink_message_intact(&got));
    assert_string_equal(got.sum, m.sum);
    assert_int_equal(got.body_bytes, size);
    assert_int_equal(got.bytes, m.total);
    assert_true(wire >= m.total + 3);
    assert_false(data.bare_lf || data.bare_cr);
    sink_message_free(&got);
    load_message_free(&m);
}

static void comes_back_through_the_sink(void **state)
{
    static const uint64_t sizes[] = {0,      2, 3, 80, 4096, LOAD_PIECE - 1, LOAD_PIECE, LOAD_PIECE + 1, LOAD_PIECE * 3,
                                     1000003};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint64_t number = 0; number < 5; number++)
            round_trip(number, sizes[i]);
    }
}

static void dots(void **state)
{
    char out[32];

    (void)state;
    assert_int_equal(load_stuff(".\r\n.\r\n", 6, out), 8);
    assert_memory_equal(out, "..\r\n..\r\n", 8);
    assert_int_equal(load_stuff("a.\r\n..b\r\n", 9, out), 10);
    assert_memory_equal(out, "a.\r\n...b\r\n", 10);
    assert_int_equal(load_stuff("", 0, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size),
        cmocka_unit_test(comes_back_through_the_sink),
        cmocka_unit_test(dots),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
