#include "proto/base/log.h"

#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ROOM = 1 << 20 };

/* stderr goes to a file while a test logs. */
static int saved = -1;
static FILE *caught;

static int setup(void **state)
{
    (void)state;
    saved = dup(STDERR_FILENO);
    caught = tmpfile();
    return saved >= 0 && caught != NULL && dup2(fileno(caught), STDERR_FILENO) >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    (void)dup2(saved, STDERR_FILENO);
    (void)close(saved);
    return fclose(caught);
}

/* All that was written; free it. */
static char *text(void)
{
    char *all = calloc(1, ROOM);
    assert_non_null(all);
    assert_true(pread(fileno(caught), all, ROOM - 1, 0) >= 0);
    return all;
}

static json_t *one_line(void)
{
    char *all = text();
    size_t len = strlen(all);
    assert_true(len > 0 && strchr(all, '\n') == all + len - 1);
    json_t *line = json_loads(all, 0, NULL);
    assert_non_null(line);
    free(all);
    return line;
}

static const char *string_of(const json_t *line, const char *key)
{
    const char *s = json_string_value(json_object_get(line, key));
    assert_non_null(s);
    return s;
}

static void a_line_of_json(void **state)
{
    (void)state;
    log_configure(LOG_INFO, true, "mx1");
    log_event(LOG_WARN, "tried", LOG_S("who", "a \"quoted\"\nname"), LOG_N("count", -5), LOG_B("yes", true),
              LOG_R("rate", 0.25), LOG_S("absent", NULL), LOG_SN("part", "abcdef", 3));
    json_t *line = one_line();
    assert_string_equal(string_of(line, "level"), "warn");
    assert_string_equal(string_of(line, "event"), "tried");
    assert_string_equal(string_of(line, "node"), "mx1");
    assert_int_equal(strlen(string_of(line, "time")), strlen("2026-03-01T12:00:00.123Z"));
    assert_string_equal(string_of(line, "who"), "a \"quoted\"\nname");
    assert_string_equal(string_of(line, "part"), "abc");
    assert_int_equal(json_integer_value(json_object_get(line, "count")), -5);
    assert_true(json_is_true(json_object_get(line, "yes")));
    assert_float_equal((float)json_real_value(json_object_get(line, "rate")), 0.25F, 0.0001F);
    assert_null(json_object_get(line, "absent"));
    json_decref(line);
}

static void bytes_that_are_no_utf8_are_escaped(void **state)
{
    (void)state;
    log_configure(LOG_INFO, true, "mx1");
    log_event(LOG_INFO, "odd", LOG_SN("bytes", "a\xff\x80z", 4), LOG_S("fine", "\xc3\xa9"));
    json_t *line = one_line();
    assert_string_equal(string_of(line, "bytes"), "a\\xff\\x80z");
    assert_string_equal(string_of(line, "fine"), "\xc3\xa9");
    json_decref(line);
}

static void levels_below_are_silent(void **state)
{
    (void)state;
    log_configure(LOG_WARN, true, "mx1");
    assert_false(log_enabled(LOG_INFO));
    assert_true(log_enabled(LOG_ERROR));
    int evaluated = 0;
    log_event(LOG_INFO, "quiet", LOG_N("n", ++evaluated));
    assert_int_equal(evaluated, 0);
    char *all = text();
    assert_string_equal(all, "");
    free(all);
}

static void a_line_of_text(void **state)
{
    (void)state;
    log_configure(LOG_INFO, false, "mx1");
    log_event(LOG_ERROR, "went wrong", LOG_S("plain", "abc"), LOG_S("spaced", "a b\n"), LOG_N("n", 7));
    char *all = text();
    assert_non_null(strstr(all, " error went wrong "));
    assert_non_null(strstr(all, " plain=abc "));
    assert_non_null(strstr(all, " spaced=\"a b\\n\" "));
    assert_non_null(strstr(all, " n=7\n"));
    assert_ptr_equal(strchr(all, '\n'), all + strlen(all) - 1); /* what is logged cannot begin a line */
    free(all);
}

enum { THREADS = 2, LINES = 500 };

static void *log_lines(void *arg)
{
    (void)arg;
    for (int i = 0; i < LINES; i++)
        log_event(LOG_INFO, "line", LOG_N("number", i), LOG_S("filler", "0123456789012345678901234567890123456789"));
    return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    log_configure(LOG_INFO, true, "mx1");
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_lines, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    char *all = text(), *rest = all, *line;
    int lines = 0;
    while ((line = strsep(&rest, "\n")) != NULL && *line != 0) {
        json_t *value = json_loads(line, 0, NULL);
        assert_non_null(value);
        assert_string_equal(string_of(value, "event"), "line");
        json_decref(value);
        lines++;
    }
    assert_int_equal(lines, THREADS * LINES);
    free(all);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_line_of_json), TEST(bytes_that_are_no_utf8_are_escaped), TEST(levels_below_are_silent),
        TEST(a_line_of_text), TEST(lines_of_threads_do_not_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
