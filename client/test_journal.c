/* A line comes back as it went in, whatever bytes it holds; torn lines cost only themselves. */
#include "client/journal.h"

#include "proto/base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static char path[128];

static int setup(void **state)
{
    (void)state;
    (void)strcpy(dir, "/tmp/mailraft-journal-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/journal", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(path);
    (void)rmdir(dir);
    return 0;
}

struct seen {
    int count;
    json_t *last;
};

static void remember(void *arg, const json_t *line)
{
    struct seen *seen = arg;
    seen->count++;
    json_decref(seen->last);
    seen->last = json_deep_copy(line);
}

static const char *text_of(const struct seen *seen, const char *name)
{
    return json_string_value(json_object_get(seen->last, name));
}

static void line_comes_back(void **state)
{
    struct journal *journal = NULL;
    struct journal_line line = {0};
    struct journal_counts counts = {0};
    struct seen seen = {0};

    (void)state;
    assert_int_equal(journal_open(&journal, path), 0);
    for (int i = 0; i < 3; i++) {
        journal_line_begin(&line, "sent");
        journal_text(&line, "text", "a\"b\\c\r\n\t\x01 \xc3\xa9");
        journal_string(&line, "latin", "\xe9\xff", 2);
        journal_string(&line, "overlong", "\xc0\xaf\xe0\x80\x80\xed\xa0\x80", 8);
        journal_text(&line, "absent", NULL);
        journal_number(&line, "size", UINT64_C(9007199254740993));
        journal_seconds(&line, "seconds", UINT64_C(1000000005));
        journal_bool(&line, "sum_ok", i == 2);
        journal_list_begin(&line, "recipients");
        journal_string(&line, NULL, "a@b", 3);
        journal_string(&line, NULL, "c@d", 3);
        journal_list_end(&line);
        journal_list_begin(&line, "reports");
        journal_object_begin(&line, NULL);
        journal_text(&line, "action", "failed");
        journal_object_end(&line);
        journal_list_end(&line);
        journal_number(&line, "after", 0);
        assert_int_equal(journal_write(journal, &line), 0);
    }
    journal_close(journal);
    journal_line_free(&line);

    assert_int_equal(journal_read(path, remember, &seen, &counts), 0);
    assert_int_equal(counts.lines, 3);
    assert_int_equal(counts.malformed + counts.torn, 0);
    assert_string_equal(text_of(&seen, "text"), "a\"b\\c\r\n\t\x01 \xc3\xa9");
    assert_string_equal(text_of(&seen, "latin"), "\xc3\xa9\xc3\xbf");
    assert_non_null(text_of(&seen, "overlong"));
    assert_null(json_object_get(seen.last, "absent"));
    assert_int_equal(json_integer_value(json_object_get(seen.last, "size")), 9007199254740993);
    assert_true(json_real_value(json_object_get(seen.last, "seconds")) == 1.000000005);
    assert_true(json_is_true(json_object_get(seen.last, "sum_ok")));
    assert_int_equal(json_array_size(json_object_get(seen.last, "recipients")), 2);
    json_t *report = json_array_get(json_object_get(seen.last, "reports"), 0);
    assert_string_equal(json_string_value(json_object_get(report, "action")), "failed");
    assert_non_null(json_object_get(seen.last, "after"));
    json_decref(seen.last);
}

static void append_text(const char *text)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

static void write_one(void)
{
    struct journal *journal = NULL;
    struct journal_line line = {0};

    assert_int_equal(journal_open(&journal, path), 0);
    journal_line_begin(&line, "x");
    assert_int_equal(journal_write(journal, &line), 0);
    journal_close(journal);
    journal_line_free(&line);
}

static void torn_and_malformed_lines(void **state)
{
    struct journal_counts counts = {0};
    struct seen seen = {0};

    (void)state;
    write_one();
    append_text("{\"event\":\"to");
    write_one();
    append_text("[1]\n{\"no\":1}\n\nnot json\n{\"event\":\"tail\"}");
    assert_int_equal(journal_read(path, remember, &seen, &counts), 0);
    assert_int_equal(counts.lines, 2);
    assert_int_equal(counts.malformed, 4);
    assert_int_equal(counts.torn, 1);
    assert_int_equal(seen.count, 2);
    json_decref(seen.last);
}

static void missing_file(void **state)
{
    struct journal_counts counts = {0};
    struct journal *journal = NULL;

    (void)state;
    assert_int_equal(journal_read("/nonexistent/journal", remember, NULL, &counts), MR_IO);
    assert_int_equal(journal_open(&journal, "/nonexistent/journal"), MR_IO);
}

/* A write that the disk takes only in part is an error, and the next line does not stick to the rest of it. */
static void short_write(void **state)
{
    struct rlimit old;
    struct journal *journal = NULL;
    struct journal_line line = {0};
    struct journal_counts counts = {0};
    struct seen seen = {0};
    struct rlimit limit;

    (void)state;
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = old;
    limit.rlim_cur = 100;
    assert_int_equal(journal_open(&journal, path), 0);
    journal_line_begin(&line, "first");
    assert_int_equal(journal_write(journal, &line), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    journal_line_begin(&line, "second-that-is-longer-than-the-room-that-the-limit-leaves-for-it");
    int rc = journal_write(journal, &line);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(rc, MR_IO);
    journal_line_begin(&line, "third");
    assert_int_equal(journal_write(journal, &line), 0);
    journal_close(journal);
    journal_line_free(&line);
    assert_int_equal(journal_read(path, remember, &seen, &counts), 0);
    assert_int_equal(counts.lines, 2);
    assert_int_equal(counts.malformed, 1);
    assert_string_equal(text_of(&seen, "event"), "third");
    json_decref(seen.last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(line_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(torn_and_malformed_lines, setup, teardown),
        cmocka_unit_test(missing_file),
        cmocka_unit_test_setup_teardown(short_write, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
