/* test_stderr_line.c - log lines into pipes and sockets whose readers stand still, are slow, or have gone. */
#include "proto/base/stderr_line.h"

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"
#include "proto/base/test_dies.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { LIMIT_S = 60, ROOM = 4 << 20 };

static struct {
    int saved, reader;
    char *in;
    size_t len;
    uint64_t lost; /* before the test */
} env;

/* Stderr is in[1], and its reader ours. */
static void begin(const int ends[2])
{
    env.saved = dup(STDERR_FILENO);
    assert_true(env.saved >= 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    (void)close(ends[1]);
    env.reader = ends[0];
    assert_int_equal(fcntl(env.reader, F_SETFL, O_NONBLOCK), 0);
    env.in = mr_malloc(ROOM);
    env.len = 0;
    env.lost = log_lines_lost();
    log_configure(LOG_INFO, true, "mx1");
    (void)alarm(LIMIT_S); /* who hangs fails */
}

static void begin_pipe(void)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    begin(ends);
}

static void begin_socket(void)
{
    int ends[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    begin(ends);
}

static void end(void)
{
    (void)alarm(0);
    assert_true(dup2(env.saved, STDERR_FILENO) >= 0);
    (void)close(env.saved);
    (void)close(env.reader);
    free(env.in);
}

/* All that is there now. */
static void read_all(void)
{
    ssize_t n;

    while ((n = read(env.reader, env.in + env.len, ROOM - env.len)) > 0)
        env.len += (size_t)n;
    assert_true(n == 0 || errno == EAGAIN);
}

static unsigned milliseconds_since(uint64_t ns)
{
    return (unsigned)((mr_boot_ns(&mr_clock_real) - ns) / MR_NS_PER_MS);
}

struct heard {
    unsigned lines; /* but those that tell of lost ones */
    unsigned told;  /* lost */
};

/* Each line is whole, and a line with number n has n octets of filler. */
static struct heard check_lines(void)
{
    struct heard heard = {0, 0};
    char *at = env.in, *lf;

    while ((lf = memchr(at, '\n', env.len - (size_t)(at - env.in))) != NULL) {
        json_t *line = json_loadb(at, (size_t)(lf - at), 0, NULL);
        const char *event = json_string_value(json_object_get(line, "event"));

        assert_non_null(event);
        if (strcmp(event, "log_lines_lost") == 0) {
            heard.told += (unsigned)json_integer_value(json_object_get(line, "count"));
        } else {
            assert_string_equal(event, "line");
            assert_int_equal(json_string_length(json_object_get(line, "filler")),
                             json_integer_value(json_object_get(line, "number")));
            heard.lines++;
        }
        json_decref(line);
        at = lf + 1;
    }
    assert_ptr_equal(at, env.in + env.len);
    return heard;
}

static void log_line(unsigned octets)
{
    char *filler = mr_malloc(octets + 1);

    memset(filler, 'x', octets);
    filler[octets] = '\0';
    log_event(LOG_INFO, "line", LOG_N("number", octets), LOG_S("filler", filler));
    free(filler);
}

/* Nobody reads: the lines that fit are whole, also those that a pipe takes in pieces, and soon nobody waits. Then the
 * reader is back. */
static void stand_still(unsigned octets)
{
    enum { LOST = 600 };
    uint64_t since = mr_boot_ns(&mr_clock_real);
    struct heard heard;
    unsigned lines = 0;

    for (; log_lines_lost() - env.lost < LOST; lines++)
        log_line(octets + lines % 7);
    assert_true(milliseconds_since(since) < 5000);
    read_all();
    log_line(1);
    read_all();
    heard = check_lines();
    assert_true(heard.told > 0);
    assert_int_equal(heard.told, log_lines_lost() - env.lost);
    assert_int_equal(heard.lines + heard.told, lines + 1);
    env.len = 0;
    log_line(2);
    read_all();
    heard = check_lines();
    assert_int_equal(heard.lines, 1);
    assert_int_equal(heard.told, 0);
}

static const unsigned sizes[] = {100, 3900, 4096, 5000, 20000};

static void test_pipe(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        begin_pipe();
        stand_still(sizes[i]);
        end();
    }
}

/* One that belongs to another user cannot be opened again. */
static void test_pipe_of_another(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        bool root = geteuid() == 0;

        begin_pipe();
        assert_int_equal(fchmod(STDERR_FILENO, 0), 0);
        assert_true(!root || seteuid(65534) == 0);
        assert_int_equal(open("/proc/self/fd/2", O_WRONLY | O_CLOEXEC), -1);
        stand_still(sizes[i]);
        assert_true(!root || seteuid(0) == 0);
        end();
    }
}

static void test_socket(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        begin_socket();
        stand_still(sizes[i]);
        end();
    }
}

/* The reader keeps up, but not within a burst. */
static void test_burst(void **state)
{
    enum { LINES = 2500 }; /* some 0.7 MB */
    (void)state;
    begin_pipe();
    log_line(150);
    if (fcntl(STDERR_FILENO, F_GETPIPE_SZ) < 1 << 20) { /* a user may have only so many pages in pipes */
        end();
        skip();
    }
    for (unsigned i = 1; i < LINES; i++)
        log_line(150);
    assert_int_equal(log_lines_lost() - env.lost, 0);
    read_all();
    assert_int_equal(check_lines().lines, LINES);
    end();
}

/* The first line behind the lost ones has their number before it, whatever the level. */
static void test_tells_first(void **state)
{
    (void)state;
    begin_pipe();
    log_configure(LOG_ERROR, true, "mx1");
    while (log_lines_lost() == env.lost)
        log_event(LOG_ERROR, "line", LOG_N("number", 0), LOG_S("filler", ""));
    log_event(LOG_ERROR, "line", LOG_N("number", 0), LOG_S("filler", ""));
    read_all();
    env.len = 0;
    log_event(LOG_ERROR, "line", LOG_N("number", 1), LOG_S("filler", "x"));
    read_all();
    env.in[env.len] = '\0';
    assert_non_null(strstr(env.in, "\"log_lines_lost\""));
    assert_true(strstr(env.in, "\"log_lines_lost\"") < strchr(env.in, '\n'));
    assert_non_null(strstr(env.in, "\"count\":2}"));
    assert_int_equal(check_lines().lines, 1);
    end();
}

/* The pipe's flags are everybody's who has it: they stay. */
static void test_flags_stay(void **state)
{
    (void)state;
    begin_pipe();
    log_line(5);
    assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
    end();
    begin_socket();
    log_line(5);
    assert_int_equal(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
    end();
}

enum { THREADS = 4, OF_EACH = 3000 };

static atomic_uint running;

static void *log_lines(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < OF_EACH; i++)
        log_line(i % 50 == 0 ? 9000 : i % 500);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

/* A reader that does not keep up with several threads: nothing is torn, and every line is there or counted. */
static void test_slow_reader(void **state)
{
    pthread_t threads[THREADS];
    uint64_t since = mr_boot_ns(&mr_clock_real);
    struct heard heard;

    (void)state;
    begin_pipe();
    atomic_store(&running, THREADS);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_lines, NULL), 0);
    while (atomic_load(&running) > 0) {
        ssize_t n = read(env.reader, env.in + env.len, 500);

        if (n > 0)
            env.len += (size_t)n;
        (void)poll(NULL, 0, 1);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_true(milliseconds_since(since) < LIMIT_S * 1000 / 2);
    read_all();
    log_line(1);
    read_all();
    heard = check_lines();
    assert_true(log_lines_lost() > env.lost);
    assert_int_equal(heard.told, log_lines_lost() - env.lost);
    assert_int_equal(heard.lines + heard.told, THREADS * OF_EACH + 1);
    end();
}

static void test_reader_gone(void **state)
{
    (void)state;
    (void)signal(SIGPIPE, SIG_IGN);
    begin_pipe();
    (void)close(env.reader);
    env.reader = -1;
    for (unsigned i = 0; i < 100; i++)
        log_line(i);
    assert_int_equal(log_lines_lost() - env.lost, 100);
    end();
}

static void panic_with_full_stderr(void)
{
    (void)fcntl(STDERR_FILENO, F_SETFL, 0);
    mr_panic("the last words of %d", 1);
}

/* A process that is to end does, and says why if it can. */
static void test_last_line(void **state)
{
    uint64_t since = mr_boot_ns(&mr_clock_real), lost;

    (void)state;
    begin_pipe();
    test_assert_dies(panic_with_full_stderr);
    read_all();
    env.in[env.len] = '\0';
    assert_non_null(strstr(env.in, "the last words of 1\n"));
    for (lost = log_lines_lost(); log_lines_lost() == lost;)
        log_line(9000);
    test_assert_dies(panic_with_full_stderr);
    /* There is room again, and part of a line before it. */
    env.len = 0;
    read_all();
    assert_int_not_equal(env.in[env.len - 1], '\n');
    env.len = 0;
    test_assert_dies(panic_with_full_stderr);
    read_all();
    assert_memory_equal(env.in, "\nmailraft: panic at ", 20);
    end();
    begin_socket();
    for (lost = log_lines_lost(); log_lines_lost() == lost;)
        log_line(100);
    test_assert_dies(panic_with_full_stderr);
    end();
    assert_true(milliseconds_since(since) < 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipe),        cmocka_unit_test(test_pipe_of_another), cmocka_unit_test(test_socket),
        cmocka_unit_test(test_burst),       cmocka_unit_test(test_tells_first),     cmocka_unit_test(test_flags_stay),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_reader_gone),     cmocka_unit_test(test_last_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
