/* The command line of mailraftctl: what is taken, and that nothing wrong passes as something else. */
#include "client/ctl_options.h"

#include "proto/base/error.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { WORDS_MAX = 80 };

static int nowhere = -1;

/* Parses a line of words without quotes. */
static int parse(const char *line, struct ctl_options *out)
{
    static char text[2048];
    char *argv[WORDS_MAX] = {"mailraftctl"};
    int argc = 1;

    assert_true(strlen(line) < sizeof(text));
    (void)strcpy(text, line);
    for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
        assert_true(argc < WORDS_MAX - 1);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    int real = dup(STDERR_FILENO); /* what it says is for people */
    assert_true(real >= 0 && dup2(nowhere, STDERR_FILENO) >= 0);
    int rc = ctl_options_parse(argc, argv, out);
    assert_true(dup2(real, STDERR_FILENO) >= 0);
    (void)close(real);
    if (rc == 0 && out->n_arguments > 0) { /* argv is ours: what it points to is in text */
        static char *words[WORDS_MAX];
        memcpy(words, out->arguments, out->n_arguments * sizeof(words[0]));
        out->arguments = words;
    }
    return rc;
}

static int set_up(void **state)
{
    (void)state;
    (void)unsetenv("MAILRAFT_SERVER");
    (void)unsetenv("MAILRAFT_TOKEN_FILE");
    nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    return nowhere >= 0 ? 0 : -1;
}

static void commands(void **state)
{
    static const struct {
        const char *line;
        enum ctl_command command;
        unsigned arguments;
    } good[] = {
        {"status", CTL_STATUS, 0},
        {"--json status", CTL_STATUS, 0},
        {"queue --server http://10.0.0.1:8025", CTL_QUEUE, 0},
        {"nodes --json", CTL_NODES, 0},
        {"list --domain example.org --limit 5", CTL_LIST, 0},
        {"show 01ARZ3NDEKTSV4RRFFQ69G5FAV", CTL_SHOW, 1},
        {"cat 01arz3ndektsv4rrffq69g5fav --token-file t", CTL_CAT, 1},
        {"pki init /x --name n", CTL_PKI_INIT, 1},
        {"pki issue /x mx1", CTL_PKI_ISSUE, 2},
        {"pki --days 30 issue /x mx1 a.example 10.0.0.1", CTL_PKI_ISSUE, 4},
        {"demo --once --messages 10 --nodes 5 --keep --dir /d --json", CTL_DEMO, 0},
    };
    struct ctl_options o;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_int_equal(parse(good[i].line, &o), 0);
        assert_int_equal(o.command, good[i].command);
        assert_int_equal(o.n_arguments, good[i].arguments);
    }
    assert_true(o.demo.once && o.demo.keep && o.json);
    assert_int_equal(o.demo.messages, 10);
    assert_int_equal(o.demo.nodes, 5);
    assert_string_equal(o.demo.dir, "/d");
}

static void wrong(void **state)
{
    static const char *const lines[] = {
        "",
        "stats",
        "status now",
        "status --once",
        "status --sender a",
        "queue --limit 5",
        "show",
        "show 01ARZ3NDEKTSV4RRFFQ69G5FAV 01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "show 01ARZ3NDEKTSV4RRFFQ69G5FA",
        "show 01ARZ3NDEKTSV4RRFFQ69G5FAU",
        "show ../status",
        "cat",
        "cat --json 01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "list --limit 0",
        "list --limit -1",
        "list --limit",
        "list --age 5",
        "list --age 5y",
        "list --age -5m",
        "list --state gone",
        "list --sender=",
        "list --nexthop x",
        "pki",
        "pki revoke /x",
        "pki init",
        "pki init /x /y",
        "pki init /x --days 5",
        "pki issue /x",
        "pki issue /x mx1 --days 0",
        "pki issue /x mx1 --name n",
        "demo --nodes 2",
        "demo --nodes 10",
        "demo --messages 1",
        "demo --messages 10000000",
        "demo --server http://x",
        "demo x",
        "--unknown status",
        "--server",
    };
    struct ctl_options o;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        if (parse(lines[i], &o) != MR_INVAL)
            fail_msg("taken: \"%s\"", lines[i]);
    }
}

static void filters(void **state)
{
    struct ctl_options o;

    (void)state;
    assert_int_equal(parse("list --sender a --recipient b --domain c --next-hop d --state deferred --age 90s --limit 7 "
                           "--after 12",
                           &o),
                     0);
    assert_string_equal(o.list.sender, "a");
    assert_string_equal(o.list.recipient, "b");
    assert_string_equal(o.list.domain, "c");
    assert_string_equal(o.list.next_hop, "d");
    assert_string_equal(o.list.state, "deferred");
    assert_string_equal(o.list.age, "90s");
    assert_int_equal(o.list.limit, 7);
    assert_int_equal(o.list.after, 12);
}

static void defaults(void **state)
{
    struct ctl_options o;

    (void)state;
    assert_int_equal(parse("list", &o), 0);
    assert_string_equal(o.server, CTL_DEFAULT_SERVER);
    assert_null(o.token_file);
    assert_int_equal(o.list.limit, 0);
    assert_null(o.list.state);
    assert_int_equal(parse("demo", &o), 0);
    assert_int_equal(o.demo.messages, 1000);
    assert_int_equal(o.demo.nodes, 3);
    assert_false(o.demo.once || o.demo.keep);
    (void)setenv("MAILRAFT_SERVER", "http://mx2:8025", 1);
    (void)setenv("MAILRAFT_TOKEN_FILE", "/t", 1);
    assert_int_equal(parse("status", &o), 0);
    assert_string_equal(o.server, "http://mx2:8025");
    assert_string_equal(o.token_file, "/t");
    assert_int_equal(parse("status --server http://mx3:8025", &o), 0);
    assert_string_equal(o.server, "http://mx3:8025");
    (void)setenv("MAILRAFT_SERVER", "", 1);
    assert_int_equal(parse("status", &o), 0);
    assert_string_equal(o.server, CTL_DEFAULT_SERVER);
    (void)unsetenv("MAILRAFT_SERVER");
    (void)unsetenv("MAILRAFT_TOKEN_FILE");
}

static void too_many_names(void **state)
{
    struct ctl_options o;
    char line[1024] = "pki issue /x mx1";

    (void)state;
    for (int i = 0; i < 65; i++)
        (void)strcat(line, " a");
    assert_int_equal(parse(line, &o), MR_INVAL);
    line[strlen(line) - 2] = '\0';
    assert_int_equal(parse(line, &o), 0);
    assert_int_equal(o.n_arguments, 66);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands), cmocka_unit_test(wrong),          cmocka_unit_test(filters),
        cmocka_unit_test(defaults), cmocka_unit_test(too_many_names),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
