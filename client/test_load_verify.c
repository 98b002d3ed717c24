/* Each verdict from journals written by hand, in any order of the files. */
#include "client/load_verify.h"

#include "proto/base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static char sent_path[96], received_path[96], queued_path[96];
static struct verify_result r;

static int setup(void **state)
{
    (void)state;
    (void)strcpy(dir, "/tmp/mailraft-verify-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(sent_path, sizeof(sent_path), "%s/sent", dir);
    (void)snprintf(received_path, sizeof(received_path), "%s/received", dir);
    (void)snprintf(queued_path, sizeof(queued_path), "%s/queued", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(sent_path);
    (void)unlink(received_path);
    (void)unlink(queued_path);
    (void)rmdir(dir);
    return 0;
}

static void append(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void append(const char *path, const char *format, ...)
{
    FILE *file = fopen(path, "a");
    va_list args;

    assert_non_null(file);
    va_start(args, format);
    assert_true(vfprintf(file, format, args) > 0);
    va_end(args);
    assert_int_equal(fclose(file), 0);
}

static void attempt(const char *event, const char *key, const char *verb, int code)
{
    append(sent_path,
           "{\"time\":1.5,\"event\":\"%s\",\"key\":\"%s\",\"verb\":\"%s\",\"code\":%d,\"sum\":\"aa\",\"recipients\":"
           "[\"a@B.example\"]}\n",
           event, key, verb, code);
}

static void delivery(const char *key, const char *more)
{
    append(received_path,
           "{\"time\":2.5,\"event\":\"received\",\"key\":\"%s\",\"sum_ok\":true,\"sum\":\"aa\",\"recipients\":"
           "[\"a@b.example\"]%s}\n",
           key, more);
}

static json_t *lists[VERIFY_LISTS];

/* Judges in both orders of the files; both must agree. */
static void judge(void)
{
    struct verify_result other;

    append(sent_path, "\n");
    append(received_path, "\n");
    append(queued_path, "\n");
    for (int order = 0; order < 2; order++) {
        struct verify *v = verify_open(10);
        if (order == 0)
            assert_int_equal(verify_add_sent(v, sent_path), 0);
        assert_int_equal(verify_add_received(v, received_path), 0);
        assert_int_equal(verify_add_queued(v, queued_path), 0);
        if (order == 1)
            assert_int_equal(verify_add_sent(v, sent_path), 0);
        verify_judge(v, order == 0 ? &other : &r);
        for (int i = 0; i < VERIFY_LISTS; i++) {
            json_decref(lists[i]);
            lists[i] = json_deep_copy(verify_listed(v, (enum verify_list)i));
        }
        verify_close(v);
    }
    assert_memory_equal(&other, &r, sizeof(r));
}

static int free_lists(void **state)
{
    for (int i = 0; i < VERIFY_LISTS; i++) {
        json_decref(lists[i]);
        lists[i] = NULL;
    }
    return teardown(state);
}

static const char *listed(enum verify_list list)
{
    assert_int_equal(json_array_size(lists[list]), 1);
    return json_string_value(json_array_get(lists[list], 0));
}

static void all_is_well(void **state)
{
    (void)state;
    attempt("sent", "k1", "dot", 250);
    attempt("refused", "k2", "rcpt", 451);
    attempt("sent", "k2", "dot", 250);
    delivery("k1", "");
    delivery("k2", "");
    judge();
    assert_int_equal(r.messages, 2);
    assert_int_equal(r.accepted, 2);
    assert_int_equal(r.delivered, 2);
    assert_int_equal(r.lost + r.duplicated + r.altered + r.invented + r.refused_but_delivered + r.explained, 0);
}

static void lost_bounced_and_queued(void **state)
{
    (void)state;
    for (int i = 1; i <= 6; i++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "k%d", i);
        attempt("sent", key, "dot", 250);
    }
    append(received_path, "{\"event\":\"received\",\"dsn\":true,\"original_key\":\"k2\",\"recipients\":[\"s@x\"],"
                          "\"reports\":[{\"recipient\":\"a@b.example\",\"action\":\"failed\"}]}\n");
    append(received_path, "{\"event\":\"received\",\"dsn\":true,\"original_key\":\"k3\",\"recipients\":[\"s@x\"],"
                          "\"reports\":[{\"recipient\":\"a@b.example\",\"action\":\"delayed\"}]}\n");
    append(queued_path, "k4\nk5 a@b.example\nk3 other@b.example\n");
    delivery("k6", ",\"replied\":false"); /* recorded, but the sender was told nothing: it had to go on trying */
    judge();
    assert_int_equal(r.accepted, 6);
    assert_int_equal(r.bounced, 1);
    assert_int_equal(r.queued, 2);
    assert_int_equal(r.dsn, 2);
    assert_int_equal(r.lost, 3); /* k1, k3, k6 */
    assert_int_equal(json_array_size(lists[VERIFY_LOST]), 3);
    assert_int_equal(r.invented, 0);
}

static void duplicates_and_what_explains_them(void **state)
{
    (void)state;
    attempt("sent", "dup", "dot", 250);
    delivery("dup", "");
    delivery("dup", "");
    delivery("dup", "");
    attempt("indeterminate", "ind", "dot", 0);
    attempt("sent", "ind", "dot", 250);
    delivery("ind", "");
    delivery("ind", "");
    attempt("broken", "body", "body", 0);
    attempt("refused", "body", "dot", 451);
    attempt("sent", "body", "dot", 250);
    delivery("body", "");
    delivery("body", "");
    delivery("body", "");
    attempt("sent", "lie", "dot", 250);
    delivery("lie", ",\"replied\":false");
    delivery("lie", "");
    attempt("broken", "early", "connect", 0); /* explains nothing */
    attempt("refused", "early", "rcpt", 451);
    attempt("sent", "early", "dot", 250);
    delivery("early", "");
    delivery("early", "");
    judge();
    assert_int_equal(r.duplicated, 2 + 1);
    assert_int_equal(r.explained, 1 + 2 + 1);
    assert_int_equal(r.lost, 0);
    assert_int_equal(json_array_size(lists[VERIFY_DUPLICATED]), 2);
}

static void refusals_and_indeterminate(void **state)
{
    (void)state;
    attempt("refused", "no", "dot", 554);
    attempt("refused", "bad", "rcpt", 550);
    delivery("bad", "");
    attempt("refused", "session", "banner", 554); /* about the session: the message went on */
    attempt("sent", "session", "dot", 250);
    delivery("session", "");
    attempt("indeterminate", "maybe1", "dot", 0);
    attempt("indeterminate", "maybe2", "dot", 0);
    delivery("maybe2", "");
    attempt("refused", "tried", "mail", 451);
    attempt("given_up", "tried", "mail", 0);
    delivery("tried", "");
    attempt("indeterminate", "mixed", "dot", 0);
    attempt("refused", "mixed", "dot", 550);
    delivery("mixed", "");
    judge();
    assert_int_equal(r.refused, 3);
    assert_int_equal(r.refused_but_delivered, 2); /* bad, tried */
    assert_int_equal(r.indeterminate, 2);
    assert_int_equal(r.indeterminate_delivered, 1);
    assert_int_equal(r.accepted, 1);
    assert_int_equal(r.lost + r.duplicated + r.invented, 0);
}

static void altered_deliveries(void **state)
{
    (void)state;
    attempt("sent", "k1", "dot", 250);
    append(received_path, "{\"event\":\"received\",\"key\":\"k1\",\"sum_ok\":false,\"sum\":\"bb\",\"recipients\":"
                          "[\"a@b.example\"]}\n");
    judge();
    assert_int_equal(r.altered, 1);
    assert_int_equal(r.lost, 0);
    assert_string_equal(listed(VERIFY_ALTERED), "k1 ");
}

/* Body and header were changed together: only the client's own line tells. */
static void altered_with_its_header(void **state)
{
    (void)state;
    attempt("sent", "k1", "dot", 250);
    append(received_path, "{\"event\":\"received\",\"key\":\"k1\",\"sum_ok\":true,\"sum\":\"bb\",\"recipients\":"
                          "[\"a@b.example\"]}\n");
    attempt("sent", "k2", "dot", 250);
    delivery("k2", "");
    append(received_path, "{\"event\":\"received\",\"key\":\"k2\",\"sum_ok\":true,\"sum\":\"cc\",\"recipients\":"
                          "[\"a@b.example\"]}\n");
    judge();
    assert_int_equal(r.altered, 2);
}

static void invented_deliveries(void **state)
{
    (void)state;
    attempt("sent", "k1", "dot", 250);
    delivery("k1", "");
    append(received_path, "{\"event\":\"received\",\"key\":\"k1\",\"sum_ok\":true,\"sum\":\"aa\",\"recipients\":"
                          "[\"stranger@b.example\",\"A@b.example\"]}\n");
    delivery("never", "");
    append(received_path, "{\"event\":\"received\",\"sum\":\"aa\",\"recipients\":[\"a@b.example\"]}\n");
    judge();
    assert_int_equal(r.invented, 4); /* the local part has case */
    assert_int_equal(r.duplicated, 0);
}

/* A killed run's last attempts have no line; a run that ended has all of them. */
static void unrecorded_keys_of_a_killed_run(void **state)
{
    (void)state;
    append(sent_path, "{\"event\":\"begin\",\"key_prefix\":\"run-\",\"messages\":10}\n");
    append(sent_path, "{\"event\":\"begin\",\"key_prefix\":\"over-\",\"messages\":10}\n");
    append(sent_path, "{\"event\":\"end\",\"key_prefix\":\"over-\"}\n");
    delivery("run-9", "");
    delivery("run-10", ""); /* beyond its messages */
    delivery("run-x", "");
    delivery("over-3", "");
    judge();
    assert_int_equal(r.unrecorded, 1);
    assert_int_equal(r.invented, 3);
}

/* The table grows; nothing is lost on the way. */
static void many_messages(void **state)
{
    enum { COUNT = 20000 };
    FILE *sent = fopen(sent_path, "w");
    FILE *received = fopen(received_path, "w");

    (void)state;
    assert_non_null(sent);
    assert_non_null(received);
    for (int i = 0; i < COUNT; i++) {
        (void)fprintf(sent, "{\"event\":\"sent\",\"key\":\"p-%d\",\"sum\":\"aa\",\"recipients\":[\"a@b\",\"c@d\"]}\n",
                      i);
        if (i % 1000 != 7)
            (void)fprintf(
                received,
                "{\"event\":\"received\",\"key\":\"p-%d\",\"sum_ok\":true,\"sum\":\"aa\",\"recipients\":[\"a@b\","
                "\"c@d\"]}\n",
                i);
    }
    assert_int_equal(fclose(sent), 0);
    assert_int_equal(fclose(received), 0);
    judge();
    assert_int_equal(r.messages, COUNT);
    assert_int_equal(r.accepted, 2 * COUNT);
    assert_int_equal(r.lost, 2 * (COUNT / 1000));
    assert_int_equal(json_array_size(lists[VERIFY_LOST]), 10);
}

static void missing_files(void **state)
{
    struct verify *v = verify_open(0);

    (void)state;
    assert_int_equal(verify_add_sent(v, "/nonexistent/x"), MR_IO);
    assert_int_equal(verify_add_received(v, "/nonexistent/x"), MR_IO);
    assert_int_equal(verify_add_queued(v, "/nonexistent/x"), MR_IO);
    verify_close(v);
}

#define VERIFY_TEST(name) cmocka_unit_test_setup_teardown(name, setup, free_lists)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VERIFY_TEST(all_is_well),
        VERIFY_TEST(lost_bounced_and_queued),
        VERIFY_TEST(duplicates_and_what_explains_them),
        VERIFY_TEST(refusals_and_indeterminate),
        VERIFY_TEST(altered_deliveries),
        VERIFY_TEST(altered_with_its_header),
        VERIFY_TEST(invented_deliveries),
        VERIFY_TEST(unrecorded_keys_of_a_killed_run),
        VERIFY_TEST(many_messages),
        cmocka_unit_test(missing_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
