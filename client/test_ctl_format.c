/* What scripts see: lines and columns that no value can break. */
#include "client/ctl_format.h"

#include "client/ctl_http.h"
#include "client/ctl_table.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Runs the formatter on JSON text; its output. */
static char *formatted(void (*format)(const json_t *value, FILE *out), const char *json)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);

    assert_non_null(value);
    assert_non_null(out);
    format(value, out);
    assert_int_equal(fclose(out), 0);
    json_decref(value);
    return text;
}

static void check(void (*format)(const json_t *value, FILE *out), const char *json, const char *expected)
{
    char *text = formatted(format, json);
    assert_string_equal(text, expected);
    free(text);
}

static void escaped(void **state)
{
    static const struct {
        const char *value, *text;
    } cases[] = {{"", "-"},
                 {"plain text", "plain text"},
                 {"a\tb\nc\rd", "a\\x09b\\x0ac\\x0dd"},
                 {"\033[31m", "\\x1b[31m"},
                 {"\\", "\\x5c"},
                 {"\x7f", "\\x7f"},
                 {"\xc3\xb6l", "\xc3\xb6l"}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *text = ctl_table_escape(cases[i].value);
        assert_string_equal(text, cases[i].text);
        free(text);
    }
}

static void bytes(void **state)
{
    char text[CTL_TEXT_SIZE];

    (void)state;
    assert_string_equal(ctl_format_bytes(0, text), "0 B");
    assert_string_equal(ctl_format_bytes(1023, text), "1023 B");
    assert_string_equal(ctl_format_bytes(1536, text), "1.5 KiB");
    assert_string_equal(ctl_format_bytes(UINT64_C(5) << 30, text), "5.0 GiB");
    assert_string_equal(ctl_format_bytes(UINT64_MAX, text), "16384.0 PiB");
}

static void status(void **state)
{
    (void)state;
    check(ctl_format_status,
          "{\"node\":\"mx2\",\"version\":\"1\",\"role\":\"follower\",\"leader\":null,\"term\":7,\"applied\":12,"
          "\"quorum\":false,\"readiness\":\"no_quorum\",\"cluster\":\"C\",\"nodes\":[{\"name\":\"mx1\",\"state\":"
          "\"down\","
          "\"role\":\"voter\",\"address\":\"h:1\",\"version\":\"1\"},{\"name\":\"mx2\",\"state\":\"up\",\"role\":"
          "\"leader\","
          "\"address\":\"h:2\",\"version\":\"1\",\"heard_ms_ago\":3,\"applied\":12,\"bodies_missing\":0}],"
          "\"queue\":{\"messages\":10,\"recipients\":11,\"bytes\":2048,\"deliveries\":{\"ready\":1,\"assigned\":4,"
          "\"deferred\":5,\"held\":0}},\"totals\":{\"accepted\":20,\"delivered\":9,\"in_doubt\":1},"
          "\"alarms\":[\"mx1 is down\"]}",
          "node\tmx2\nversion\t1\nrole\tfollower\nleader\t-\nquorum\tno\nreadiness\tno_quorum\nterm\t7\napplied\t12\n"
          "cluster\tC\n"
          "member\tmx1\tdown\tvoter\th:1\t1\t-\t-\t-\nmember\tmx2\tup\tleader\th:2\t1\t3\t12\t0\n"
          "messages\t10\nrecipients\t11\nbytes\t2048\nready\t1\nassigned\t4\ndeferred\t5\nheld\t0\n"
          "accepted\t20\ndelivered\t9\nin_doubt\t1\nalarm\tmx1 is down\n");
}

static void queue(void **state)
{
    (void)state;
    check(ctl_format_queue, "{\"next_hops\":[]}", "");
    check(ctl_format_queue,
          "{\"next_hops\":[{\"next_hop\":\"smtp://h:25\",\"ready\":1,\"assigned\":2,\"deferred\":3,\"held\":4,"
          "\"oldest\":\"2026-01-01T00:00:00.000Z\",\"next_attempt\":null,\"last_reply\":\"451 a\\tb\\nc\"}]}",
          "smtp://h:25\t1\t2\t3\t4\t2026-01-01T00:00:00.000Z\t-\t-\t451 a\\x09b\\x0ac\n");
}

static void print_page(const json_t *messages, FILE *out)
{
    ctl_format_messages(messages, true, out);
}

static void messages(void **state)
{
    (void)state;
    check(print_page, "[]", "");
    check(print_page,
          "[{\"id\":\"A\",\"arrived\":\"T\",\"size\":4096,\"sender\":\"\",\"recipient_count\":2,\"recipients\":["
          "{\"address\":\"a@x\",\"state\":\"deferred\",\"next_hop\":\"mx:x\",\"last_reply\":\"\"},"
          "{\"address\":\"b@x\",\"state\":\"ready\"}]},"
          "{\"id\":\"B\",\"sender\":\"s@y\",\"recipient_count\":1,\"recipients\":[{\"address\":\"a@x\","
          "\"state\":\"held\"}]}]",
          "A\tT\t4096\tmixed\t2\t<>\ta@x\tmx:x\t-\nB\t-\t-\theld\t1\ts@y\ta@x\t-\t-\n");
}

static void message(void **state)
{
    (void)state;
    check(ctl_format_message,
          "{\"id\":\"A\",\"sequence\":5,\"sender\":\"s@y\",\"size\":10,\"arrived\":\"T\",\"expires\":\"E\","
          "\"accepted_by\":\"mx1\",\"client\":\"10.0.0.1\",\"holders\":[\"mx1\",null,\"mx3\"],\"recipients\":["
          "{\"address\":\"a@x\",\"state\":\"failed\",\"next_hop\":\"mx:x\",\"attempts\":2,\"node\":null,"
          "\"next_attempt\":null,\"status\":\"5.1.1\",\"last_reply\":\"550 no\"}]}",
          "id\tA\nsender\ts@y\nsize\t10\narrived\tT\nexpires\tE\naccepted_by\tmx1\nclient\t10.0.0.1\n"
          "holders\tmx1,?,mx3\nsequence\t5\nrecipient\ta@x\tfailed\tmx:x\t2\t-\t-\t5.1.1\t550 no\n");
}

/* Whatever a node or something else answers: shown as nothing, never a crash. */
static void strange(void **state)
{
    static const char *const values[] = {"{}", "{\"nodes\":5,\"queue\":[],\"totals\":\"x\",\"alarms\":{}}",
                                         "{\"nodes\":[1,null,\"x\",{}],\"next_hops\":[null,{}],\"recipients\":[null]}",
                                         "{\"recipients\":{},\"holders\":7,\"size\":-1,\"next_hops\":true}"};

    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        free(formatted(ctl_format_status, values[i]));
        free(formatted(ctl_format_nodes, values[i]));
        free(formatted(ctl_format_queue, values[i]));
        free(formatted(ctl_format_message, values[i]));
    }
    free(formatted(print_page, "[null,1,{},{\"recipients\":[null]}]"));
    free(formatted(print_page, "{}"));
}

static void arguments(void **state)
{
    (void)state;
    char *path = mr_strdup("/v1/messages");
    path = ctl_http_argument(path, "sender", NULL);
    assert_string_equal(path, "/v1/messages");
    path = ctl_http_argument(path, "sender", "a+b@x.org");
    path = ctl_http_argument(path, "state", "held");
    path = ctl_http_argument(path, "domain", "\xc3\xbc&x=/?%");
    assert_string_equal(path, "/v1/messages?sender=a%2Bb%40x.org&state=held&domain=%C3%BC%26x%3D%2F%3F%25");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(escaped),  cmocka_unit_test(bytes),   cmocka_unit_test(status),  cmocka_unit_test(queue),
        cmocka_unit_test(messages), cmocka_unit_test(message), cmocka_unit_test(strange), cmocka_unit_test(arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
