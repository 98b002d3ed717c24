/* The generator against the sink over loopback, in peace and with faults; the verifier has the last word. */
#include "client/test_process.h"

static char sent_path[TEST_PATH];
static char received_path[TEST_PATH];

static int setup(void **state)
{
    int rc = test_dir_make(state);
    (void)test_path(sent_path, "sent");
    (void)test_path(received_path, "received");
    return rc;
}

static pid_t load_start(const char *to, char *const more[])
{
    char *argv[TEST_ARGS_MAX] = {MAILRAFT_LOAD, "--json", "--to", (char *)to, "--journal", sent_path};
    size_t n = 6;

    for (size_t i = 0; more[i] != NULL; i++)
        argv[n++] = more[i];
    argv[n] = NULL;
    return test_spawn("load.out", argv);
}

static json_t *load_summary_of(void)
{
    char *text = test_read("load.out");
    json_t *summary = json_loads(text, 0, NULL);
    assert_non_null(summary);
    free(text);
    return summary;
}

static json_t *load_to(unsigned port, int status, char *const more[])
{
    char to[32];

    (void)snprintf(to, sizeof(to), "127.0.0.1:%u", port);
    assert_int_equal(test_wait(load_start(to, more)), status);
    return load_summary_of();
}

static json_t *verify(int status)
{
    char *argv[] = {MAILRAFT_LOAD, "verify", "--sent",      sent_path, "--received",
                    received_path, "--json", "--show-lost", "3",       NULL};

    assert_int_equal(test_wait(test_spawn("verify.out", argv)), status);
    char *text = test_read("verify.out");
    json_t *verdict = json_loads(text, 0, NULL);
    assert_non_null(verdict);
    free(text);
    return verdict;
}

static void expect(const json_t *object, const char *name, json_int_t value)
{
    if (test_number(object, name) != value) {
        char *text = json_dumps(object, JSON_PRESERVE_ORDER);
        print_error("%s is not %lld in %s\n", name, (long long)value, text);
        free(text);
        fail();
    }
}

/* accepted pairs were all delivered, once each but for what is explained. Each kill -9 of who writes may have torn a
 * line: a fatal signal ends a write between two pages. */
static json_t *expect_delivered_after(json_int_t kills, json_int_t pairs)
{
    json_t *verdict = verify(0);

    expect(verdict, "accepted", pairs);
    expect(verdict, "delivered", pairs);
    expect(verdict, "lost", 0);
    expect(verdict, "duplicated", 0);
    expect(verdict, "altered", 0);
    expect(verdict, "invented", 0);
    assert_true(test_number(verdict, "torn_lines") <= kills);
    expect(verdict, "malformed_lines", 0);
    return verdict;
}

static json_t *expect_all_delivered(json_int_t pairs)
{
    return expect_delivered_after(0, pairs);
}

static void in_peace(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    json_t *summary = load_to(
        sink.port, 0,
        (char *[]){"--messages", "2000", "--sessions", "16", "--size", "3000", "--recipients", "2", "--wait", NULL});
    json_t *counters = test_sink_stop(sink);

    (void)state;
    expect(summary, "accepted", 2000);
    expect(summary, "attempts_sent", 2000);
    expect(summary, "broken", 0);
    expect(counters, "messages", 2000);
    expect(counters, "recipients", 4000);
    expect(counters, "altered", 0);
    expect(counters, "connections_now", 0);
    json_decref(expect_all_delivered(4000));
    json_decref(summary);
    json_decref(counters);
}

static void with_faults(char *pipelining)
{
    struct test_sink sink = test_sink_start(
        0, (char *[]){"--fault",
                      "drop@dot:0.03,refuse@rcpt=451:3%,refuse@mail=450:2%,drop@body:0.02,drop@connect:0.05,seed=3,"
                      "refuse@connect=421:0.05,drop@ehlo:0.02,refuse@ehlo=554:0.02,drop@data:0.02,refuse@data=451:0.02,"
                      "refuse@dot=452:0.03,accept-drop@dot:0.03,stall@dot=0.02:0.02,drop@mail:1%,drop@rcpt:1%,"
                      "refuse@rcpt=421:1%,drop@quit:0.1",
                      NULL});
    json_t *summary = load_to(sink.port, 0,
                              (char *[]){"--messages", "2000", "--sessions", "20", "--size", "2000", "--recipients",
                                         "2", "--pipelining", pipelining, "--backoff-max", "0.05", NULL});
    json_t *counters = test_sink_stop(sink);

    expect(summary, "accepted", 2000);
    assert_true(test_number(summary, "broken") > 0);
    assert_true(test_number(summary, "indeterminate") > 0);
    assert_true(test_number(summary, "attempts_refused_4xx") > 0);
    assert_true(test_number(counters, "faults") > 100);
    json_decref(expect_all_delivered(4000));
    json_decref(summary);
    json_decref(counters);
}

static void faults_are_tried_again(void **state)
{
    (void)state;
    with_faults("on");
}

static void faults_without_pipelining(void **state)
{
    (void)state;
    with_faults("off");
}

/* Each lie makes a copy that the verifier can explain; a sink that forgets is found out. */
static void lies_are_explained(void **state)
{
    struct test_sink sink = test_sink_start(0, (char *[]){"--fault", "lie@dot:0.05,seed=9", NULL});
    json_t *summary = load_to(sink.port, 0, (char *[]){"--messages", "1000", "--sessions", "8", "--size", "500", NULL});
    json_decref(test_sink_stop(sink));

    (void)state;
    json_t *verdict = expect_all_delivered(1000);
    assert_true(test_number(verdict, "explained") > 0);
    assert_int_equal(test_number(verdict, "explained"), test_number(summary, "indeterminate"));
    assert_int_equal(truncate(received_path, 20000), 0);
    json_decref(verdict);
    verdict = verify(1);
    assert_true(test_number(verdict, "lost") > 0);
    assert_int_equal(test_number(verdict, "lost") + test_number(verdict, "delivered"), 1000);
    assert_int_equal(json_array_size(json_object_get(verdict, "lost_key")), 3);
    json_decref(verdict);
    json_decref(summary);
}

static void permanent_refusals_are_final(void **state)
{
    struct test_sink sink = test_sink_start(
        0, (char *[]){"--fault", "refuse@rcpt=550:5%,refuse@dot=554:5%,refuse@mail=550:5%,refuse@data=554:2%,seed=4",
                      NULL});
    json_t *summary = load_to(
        sink.port, 1, (char *[]){"--messages", "1000", "--sessions", "8", "--size", "500", "--recipients", "3", NULL});
    json_decref(test_sink_stop(sink));

    (void)state;
    assert_true(test_number(summary, "refused") > 0);
    assert_int_equal(test_number(summary, "refused") + test_number(summary, "accepted"), 1000);
    json_t *verdict = verify(0);
    assert_int_equal(test_number(verdict, "accepted") + test_number(verdict, "refused"), 3000);
    expect(verdict, "refused_but_delivered", 0);
    expect(verdict, "lost", 0);
    json_decref(verdict);
    json_decref(summary);
}

/* One of two nodes is not there: sessions go on to the other. */
static void dead_node_is_passed_over(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    char to[64];

    (void)state;
    /* Bound and not listening: connections are refused, and nobody else gets the port. */
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    (void)snprintf(to, sizeof(to), "127.0.0.1:%u,localhost:%u", ntohs(address.sin_port), sink.port);
    pid_t load = load_start(
        to, (char *[]){"--messages", "300", "--sessions", "6", "--size", "100", "--messages-per-session", "20", NULL});
    assert_int_equal(test_wait(load), 0);
    json_decref(test_sink_stop(sink));
    json_t *summary = load_summary_of();
    assert_true(test_number(summary, "broken") >= 3);
    json_decref(summary);
    json_decref(expect_all_delivered(300));
    (void)close(fd);
}

static bool received_is_long(void *size)
{
    struct stat st;
    return stat(received_path, &st) == 0 && st.st_size > *(off_t *)size;
}

static off_t received_size(void)
{
    struct stat st;
    return stat(received_path, &st) == 0 ? st.st_size : 0;
}

/* kill -9 of the sink: what it answered 250 is in its journal, the rest is tried again. */
static void killed_sink(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    char to[32];
    off_t size = 30000;

    (void)state;
    (void)snprintf(to, sizeof(to), "127.0.0.1:%u", sink.port);
    pid_t load = load_start(to, (char *[]){"--messages", "2000", "--sessions", "8", "--size", "800", "--rate", "2000",
                                           "--backoff-max", "0.1", NULL});
    for (int i = 0; i < 2; i++) {
        test_until(received_is_long, &size);
        assert_int_equal(kill(sink.pid, SIGKILL), 0);
        assert_int_equal(test_wait(sink.pid), 128 + SIGKILL);
        size = received_size() + 30000;
        sink = test_sink_start(sink.port, NULL);
    }
    assert_int_equal(test_wait(load), 0);
    json_decref(test_sink_stop(sink));
    json_decref(expect_delivered_after(2, 2000));
}

/* kill -9 of the generator: its lines are whole, and what it had under way is not called invented. */
static void killed_load(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    char to[32];
    off_t size = 100000;

    (void)state;
    (void)snprintf(to, sizeof(to), "127.0.0.1:%u", sink.port);
    pid_t load = load_start(to, (char *[]){"--messages", "1000000", "--sessions", "20", "--size", "800", NULL});
    test_until(received_is_long, &size);
    assert_int_equal(kill(load, SIGKILL), 0);
    assert_int_equal(test_wait(load), 128 + SIGKILL);
    json_decref(test_sink_stop(sink));
    json_t *verdict = verify(0);
    assert_true(test_number(verdict, "accepted") > 100);
    assert_true(test_number(verdict, "unrecorded") <= 20);
    assert_true(test_number(verdict, "torn_lines") <= 1);
    expect(verdict, "invented", 0);
    json_decref(verdict);
}

/* SIGTERM lets what is under way end: everything has its line. */
static void interrupted_load(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    char to[32];
    off_t size = 50000;

    (void)state;
    (void)snprintf(to, sizeof(to), "127.0.0.1:%u", sink.port);
    pid_t load = load_start(
        to, (char *[]){"--messages", "1000000", "--sessions", "20", "--size", "800", "--rate", "5000", NULL});
    test_until(received_is_long, &size);
    assert_int_equal(kill(load, SIGTERM), 0);
    assert_int_equal(test_wait(load), 1);
    json_decref(test_sink_stop(sink));
    json_t *summary = load_summary_of();
    json_t *verdict = expect_all_delivered(test_number(summary, "accepted"));
    expect(verdict, "unrecorded", 0);
    assert_true(test_number(summary, "unsent") > 0);
    json_decref(verdict);
    json_decref(summary);
}

/* A silent node: the reply's time runs out, the message is in doubt, and after --give-up it is let go. */
static void silent_node_is_given_up(void **state)
{
    struct test_sink sink = test_sink_start(0, (char *[]){"--fault", "stall@dot=1000", NULL});
    json_t *summary = load_to(
        sink.port, 1,
        (char *[]){"--messages", "3", "--sessions", "3", "--size", "80", "--timeout", "0.2", "--give-up", "0.5", NULL});
    json_decref(test_sink_stop(sink));

    (void)state;
    expect(summary, "given_up", 3);
    expect(summary, "accepted", 0);
    assert_true(test_number(summary, "indeterminate") >= 6);
    json_t *verdict = verify(0);
    expect(verdict, "indeterminate", 3);
    expect(verdict, "deliveries", 0);
    json_decref(verdict);
    json_decref(summary);
}

static void large_and_empty_bodies(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);

    (void)state;
    json_decref(load_to(sink.port, 0, (char *[]){"--messages", "4", "--sessions", "4", "--size", "5MiB", NULL}));
    json_decref(
        load_to(sink.port, 0, (char *[]){"--messages", "20", "--sessions", "2", "--size", "0", "--from", "", NULL}));
    json_t *counters = test_sink_stop(sink);
    expect(counters, "messages", 24);
    json_decref(counters);
    json_decref(expect_all_delivered(24));
}

/* All sessions connect before the first banner comes. */
static void a_thousand_connections(void **state)
{
    struct test_sink sink = test_sink_start(0, (char *[]){"--fault", "stall@connect=3", NULL});
    json_t *summary =
        load_to(sink.port, 0, (char *[]){"--messages", "3000", "--sessions", "1000", "--size", "200", NULL});
    json_t *counters = test_sink_stop(sink);

    (void)state;
    expect(counters, "connections_max", 1000);
    expect(counters, "messages", 3000);
    json_decref(expect_all_delivered(3000));
    json_decref(counters);
    json_decref(summary);
}

static void rate_is_kept(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);
    json_t *summary = load_to(
        sink.port, 0, (char *[]){"--messages", "600", "--sessions", "10", "--size", "200", "--rate", "400", NULL});
    json_t *counters = test_sink_stop(sink);

    (void)state;
    assert_true(json_real_value(json_object_get(summary, "seconds")) >= 600.0 / 400 - 0.15);
    assert_true(test_number(counters, "rate_max") <= 400 + 50); /* a tenth of a second may be made up */
    json_decref(counters);
    json_decref(summary);
}

static int run(char *const argv[])
{
    return test_wait(test_spawn("load.out", argv));
}

static void usage(void **state)
{
    (void)state;
    (void)freopen("/dev/null", "w", stderr);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "x", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "127.0.0.1:0", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--size", "1", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--rcpt", "a%x@b", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--rcpt", "a@b", "--recipients", "2", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--from", "a>b", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--key-prefix", "a b", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--pipelining", "maybe", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--to", "a:1", "--nonsense", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "--help", NULL}), 0);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "verify", NULL}), 2);
    assert_int_equal(
        run((char *[]){MAILRAFT_LOAD, "verify", "--sent", "/nonexistent", "--received", "/dev/null", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_LOAD, "verify", "--help", NULL}), 0);
    assert_int_equal(run((char *[]){MAILRAFT_SINK, NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_SINK, "--listen", "127.0.0.1:0", "--fault", "eat@dot", NULL}), 2);
    assert_int_equal(run((char *[]){MAILRAFT_SINK, "--listen", "127.0.0.1:0", "--journal", "/nonexistent/j", NULL}), 1);
    assert_int_equal(run((char *[]){MAILRAFT_SINK, "--version", NULL}), 0);
}

#define LOAD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, test_dir_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOAD_TEST(in_peace),
        LOAD_TEST(faults_are_tried_again),
        LOAD_TEST(faults_without_pipelining),
        LOAD_TEST(lies_are_explained),
        LOAD_TEST(permanent_refusals_are_final),
        LOAD_TEST(dead_node_is_passed_over),
        LOAD_TEST(killed_sink),
        LOAD_TEST(killed_load),
        LOAD_TEST(interrupted_load),
        LOAD_TEST(silent_node_is_given_up),
        LOAD_TEST(large_and_empty_bodies),
        LOAD_TEST(a_thousand_connections),
        LOAD_TEST(rate_is_kept),
        LOAD_TEST(usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
