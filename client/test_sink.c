/* The sink as a peer sees it: verbs and their order, LMTP, line ends, bounces, kept messages, counters. */
#include "client/test_process.h"

/* Sends all of text and returns all that the sink says until it closes, in new memory. */
static char *talk(unsigned port, const char *text)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {TEST_WAIT_S, 0};
    char *said = calloc(1, 65536);
    size_t len = 0;

    assert_non_null(said);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
    for (;;) {
        ssize_t n = recv(fd, said + len, 65535 - len, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            break;
        assert_true(n > 0);
        len += (size_t)n;
    }
    (void)close(fd);
    return said;
}

/* The codes of all replies, as "220 250 ...". */
static void expect_codes(unsigned port, const char *text, const char *want)
{
    char *said = talk(port, text);
    char codes[4096] = "";
    char *save = NULL;

    for (char *line = strtok_r(said, "\r\n", &save); line != NULL; line = strtok_r(NULL, "\r\n", &save)) {
        if (line[3] == '-')
            continue;
        line[3] = '\0';
        if (codes[0] != '\0')
            (void)strcat(codes, " ");
        (void)strcat(codes, line);
    }
    assert_string_equal(codes, want);
    free(said);
}

struct lines {
    size_t count;
    json_t *all[32];
};

static void remember(void *arg, const json_t *line)
{
    struct lines *lines = arg;
    assert_true(lines->count < 32);
    lines->all[lines->count++] = json_deep_copy(line);
}

static struct lines read_journal(void)
{
    struct lines lines = {0};
    struct journal_counts counts = {0};
    char path[TEST_PATH];

    assert_int_equal(journal_read(test_path(path, "received"), remember, &lines, &counts), 0);
    assert_int_equal(counts.malformed + counts.torn, 0);
    return lines;
}

static void forget(struct lines *lines)
{
    for (size_t i = 0; i < lines->count; i++)
        json_decref(lines->all[i]);
}

static const char *text_of(const json_t *line, const char *name)
{
    return json_string_value(json_object_get(line, name));
}

static void order_of_verbs(void **state)
{
    struct test_sink sink = test_sink_start(0, (char *[]){"--max-size", "1000", NULL});

    (void)state;
    expect_codes(sink.port, "MAIL FROM:<a@b>\r\nLHLO x\r\nEHLO\r\nHELO x\r\nRCPT TO:<a@b>\r\nDATA\r\nQUIT\r\n",
                 "220 503 500 501 250 503 503 221");
    expect_codes(
        sink.port,
        "EHLO x\r\nMAIL FROM:<a@b> SIZE=1001\r\nMAIL FROM:a\r\nMAIL FROM:<a@b> SIZE=x\r\nMAIL FROM:<a@b>\r\n"
        "MAIL FROM:<a@b>\r\nRCPT TO:<>\r\nDATA\r\nRCPT TO:<c@d>\r\nDATA x\r\nRSET\r\nDATA\r\nNOOP\r\nVRFY x\r\n"
        "HELP\r\nXYZ\r\nQUIT\r\n",
        "220 250 552 501 501 250 503 501 503 250 501 250 503 250 252 214 500 221");
    char *long_line = malloc(5000);
    assert_non_null(long_line);
    memset(long_line, 'x', 4900);
    (void)strcpy(long_line + 4900, "\r\nNOOP\r\nQUIT\r\n");
    expect_codes(sink.port, long_line, "220 500 250 221");
    char text[3000] = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\r\n";
    long_line[1500] = '\0';
    (void)strcat(text, long_line);
    (void)strcat(text, "\r\n.\r\nQUIT\r\n");
    expect_codes(sink.port, text, "220 250 250 250 354 552 221");
    free(long_line);
    json_t *counters = test_sink_stop(sink);
    assert_int_equal(test_number(counters, "messages"), 0);
    json_decref(counters);
}

static void two_messages_in_one_write(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);

    (void)state;
    expect_codes(sink.port,
                 "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nX-Load-Key: k1\r\n\r\na\nb\r\n.\r\n"
                 "MAIL FROM:<e@f>\r\nRCPT TO:<g@h>\r\nRCPT TO:<i@j>\r\nDATA\r\n\r\n..dot\r\n.\r\nQUIT\r\nNOOP\r\n",
                 "220 250 250 250 354 250 250 250 250 354 250 221");
    json_decref(test_sink_stop(sink));
    struct lines lines = read_journal();
    assert_int_equal(lines.count, 3);
    assert_string_equal(text_of(lines.all[0], "key"), "k1");
    assert_string_equal(text_of(lines.all[0], "sender"), "");
    assert_true(json_is_true(json_object_get(lines.all[0], "bare_lf")));
    assert_null(json_object_get(lines.all[0], "sum_ok"));
    assert_null(json_object_get(lines.all[1], "key"));
    assert_null(json_object_get(lines.all[1], "bare_lf"));
    assert_int_equal(json_integer_value(json_object_get(lines.all[1], "size")), 6);
    assert_int_equal(json_array_size(json_object_get(lines.all[1], "recipients")), 2);
    assert_string_equal(text_of(lines.all[2], "event"), "connections");
    forget(&lines);
}

static void lmtp_answers_each_recipient(void **state)
{
    struct test_sink sink = test_sink_start(0, (char *[]){"--lmtp", NULL});

    (void)state;
    expect_codes(sink.port,
                 "EHLO x\r\nLHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nRCPT TO:<g@h>\r\nDATA\r\n"
                 "\r\nx\r\n.\r\nQUIT\r\n",
                 "220 500 250 250 250 250 250 354 250 250 250 221");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--lmtp", "--fault", "refuse@dot=450:0.5,seed=12", NULL});
    char text[4000] = "LHLO x\r\nMAIL FROM:<a@b>\r\n";
    for (int i = 0; i < 30; i++)
        (void)sprintf(text + strlen(text), "RCPT TO:<r%d@d>\r\n", i);
    (void)strcat(text, "DATA\r\n\r\nx\r\n.\r\nQUIT\r\n");
    char *said = talk(sink.port, text);
    size_t taken = 0;
    size_t refused = 0;
    for (const char *at = strstr(said, "354 "); (at = strchr(at, '\n')) != NULL; at++) {
        taken += strncmp(at, "\n250 ", 5) == 0;
        refused += strncmp(at, "\n450 ", 5) == 0;
    }
    free(said);
    assert_int_equal(taken + refused, 30);
    assert_true(taken > 0 && refused > 0);
    json_decref(test_sink_stop(sink));
    struct lines lines = read_journal();
    assert_int_equal(json_array_size(json_object_get(lines.all[2], "recipients")), taken);
    forget(&lines);
}

static void bounce_is_written_down(void **state)
{
    struct test_sink sink = test_sink_start(0, NULL);

    (void)state;
    expect_codes(sink.port,
                 "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nContent-Type: multipart/report;\r\n"
                 " report-type=delivery-status; boundary=x\r\n\r\n--x\r\n\r\nReporting-MTA: dns; a\r\n\r\n"
                 "Final-Recipient: rfc822; c@d\r\nAction: failed\r\nStatus: 5.0.0\r\n\r\n--x\r\n\r\n"
                 "X-Load-Key: k9\r\n\r\n--x--\r\n.\r\nQUIT\r\n",
                 "220 250 250 250 354 250 221");
    json_t *counters = test_sink_stop(sink);
    assert_int_equal(test_number(counters, "dsn"), 1);
    json_decref(counters);
    struct lines lines = read_journal();
    assert_true(json_is_true(json_object_get(lines.all[0], "dsn")));
    assert_string_equal(text_of(lines.all[0], "original_key"), "k9");
    const json_t *report = json_array_get(json_object_get(lines.all[0], "reports"), 0);
    assert_string_equal(text_of(report, "recipient"), "c@d");
    assert_string_equal(text_of(report, "action"), "failed");
    assert_string_equal(text_of(report, "status"), "5.0.0");
    forget(&lines);
}

/* A drop at the dot leaves nothing, a lie a record, an accepted message both. */
static void drops(void **state)
{
    static const char text[] = "EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\r\nx\r\n.\r\nNOOP\r\n";
    struct test_sink sink = test_sink_start(0, (char *[]){"--fault", "drop@dot", NULL});

    (void)state;
    expect_codes(sink.port, text, "220 250 250 250 354");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--fault", "lie@dot", NULL});
    expect_codes(sink.port, text, "220 250 250 250 354");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--fault", "accept-drop", NULL});
    expect_codes(sink.port, text, "220 250 250 250 354 250");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--fault", "drop@connect", NULL});
    expect_codes(sink.port, text, "");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--fault", "refuse@connect=554,stall@connect=0.05", NULL});
    expect_codes(sink.port, text, "554");
    json_decref(test_sink_stop(sink));
    sink = test_sink_start(0, (char *[]){"--fault", "refuse@rcpt=421,stall@mail=0.05,stall@ehlo=0.01", NULL});
    expect_codes(sink.port, text, "220 250 250 421");
    json_decref(test_sink_stop(sink));
    struct lines lines = read_journal();
    size_t messages = 0;
    size_t unanswered = 0;
    for (size_t i = 0; i < lines.count; i++) {
        messages += strcmp(text_of(lines.all[i], "event"), "received") == 0;
        unanswered += json_is_false(json_object_get(lines.all[i], "replied"));
    }
    assert_int_equal(messages, 2);
    assert_int_equal(unanswered, 1);
    forget(&lines);
}

static void kept_messages(void **state)
{
    char keep[TEST_PATH];
    char path[TEST_PATH + 16];
    char name[32];

    (void)state;
    assert_int_equal(mkdir(test_path(keep, "keep"), 0700), 0);
    struct test_sink sink = test_sink_start(0, (char *[]){"--keep-bodies", keep, "--fault", "refuse@rcpt=450:0", NULL});
    expect_codes(sink.port, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\nA: b\r\n\r\n..x\r\n.\r\nQUIT\r\n",
                 "220 250 250 250 354 250 221");
    json_decref(test_sink_stop(sink));
    (void)snprintf(name, sizeof(name), "keep/1-1.eml");
    char *text = test_read(name);
    assert_non_null(text);
    assert_string_equal(text, "A: b\r\n\r\n.x\r\n");
    free(text);
    (void)snprintf(path, sizeof(path), "%s/1-1.eml", keep);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(keep), 0); /* no part of a file stayed */
}

static bool journal_has_counters(void *arg)
{
    char *text = test_read("received");
    bool has = text != NULL && strstr(text, "\"event\":\"connections\"") != NULL;
    (void)arg;
    free(text);
    return has;
}

static bool stats_count_a_message(void *arg)
{
    char *text = test_read("stats");
    json_t *stats = text != NULL && text[0] != '\0' ? json_loads(text, 0, NULL) : NULL;
    bool counted = json_integer_value(json_object_get(stats, "messages")) == 1;

    (void)arg;
    if (text != NULL && text[0] != '\0')
        assert_non_null(stats); /* the file is never half written */
    json_decref(stats);
    free(text);
    return counted;
}

static void counters_on_demand(void **state)
{
    char stats[TEST_PATH];
    struct test_sink sink = test_sink_start(0, (char *[]){"--stats-file", (char *)test_path(stats, "stats"), NULL});

    (void)state;
    test_until(test_file_has_text, "stats");
    expect_codes(sink.port, "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<c@d>\r\nDATA\r\n\r\n.\r\nQUIT\r\n",
                 "220 250 250 250 354 250 221");
    test_until(stats_count_a_message, NULL);
    assert_int_equal(kill(sink.pid, SIGUSR1), 0);
    test_until(journal_has_counters, NULL);
    json_decref(test_sink_stop(sink));
}

#define SINK_TEST(name) cmocka_unit_test_setup_teardown(name, test_dir_make, test_dir_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SINK_TEST(order_of_verbs),
        SINK_TEST(two_messages_in_one_write),
        SINK_TEST(lmtp_answers_each_recipient),
        SINK_TEST(bounce_is_written_down),
        SINK_TEST(drops),
        SINK_TEST(kept_messages),
        SINK_TEST(counters_on_demand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
