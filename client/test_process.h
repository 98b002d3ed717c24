/* test_process.h - for tests that run the programs: a folder of their own, processes ended by pid, waiting for
 * conditions. */
#ifndef MR_CLIENT_TEST_PROCESS_H
#define MR_CLIENT_TEST_PROCESS_H

#include "client/journal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { TEST_WAIT_S = 60, TEST_ARGS_MAX = 40, TEST_PATH = 160 };

static char test_dir[64];

static __attribute__((unused)) const char *test_path(char out[TEST_PATH], const char *name)
{
    (void)snprintf(out, TEST_PATH, "%s/%s", test_dir, name);
    return out;
}

static __attribute__((unused)) int test_dir_make(void **state)
{
    (void)state;
    (void)strcpy(test_dir, "/tmp/mailraft-client-XXXXXX");
    return mkdtemp(test_dir) != NULL ? 0 : -1;
}

/* Runs the program; its output goes to the file out in the test's folder. The arguments end with NULL. It dies with the
 * test, also when that fails half-way. */
static __attribute__((unused)) pid_t test_spawn(const char *out, char *const argv[])
{
    char path[TEST_PATH];
    int fd = open(test_path(path, out), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && dup2(fd, STDOUT_FILENO) >= 0)
            (void)execv(argv[0], argv);
        _exit(127);
    }
    (void)close(fd);
    return pid;
}

/* Exit status; 128 + n when signal n ended it. */
static __attribute__((unused)) int test_wait(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0)
        assert_int_equal(errno, EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Text of a file in the test's folder, in new memory; NULL when there is none. */
static __attribute__((unused)) char *test_read(const char *name)
{
    char path[TEST_PATH];
    FILE *file = fopen(test_path(path, name), "r");
    char *text = NULL;
    size_t cap = 0;

    if (file == NULL)
        return NULL;
    ssize_t n = getdelim(&text, &cap, '\0', file);
    (void)fclose(file);
    if (n < 0) {
        free(text);
        return strdup("");
    }
    return text;
}

/* Asks again and again until the answer is yes; fails the test after TEST_WAIT_S. */
static __attribute__((unused)) void test_until(bool (*condition)(void *arg), void *arg)
{
    const struct timespec moment = {0, 5 * 1000 * 1000};
    struct timespec start;
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &start);
    while (!condition(arg)) {
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
        assert_true(now.tv_sec - start.tv_sec < TEST_WAIT_S);
        (void)nanosleep(&moment, NULL);
    }
}

static __attribute__((unused)) bool test_file_has_text(void *name)
{
    char *text = test_read(name);
    bool has = text != NULL && text[0] != '\0';
    free(text);
    return has;
}

/* A sink that listens; more: further arguments, ended by NULL. */
struct test_sink {
    pid_t pid;
    unsigned port;
};

static __attribute__((unused)) struct test_sink test_sink_start(unsigned port, char *const more[])
{
    char listen[32];
    char journal[TEST_PATH];
    char port_file[TEST_PATH];
    char *argv[TEST_ARGS_MAX] = {MAILRAFT_SINK, "--json", "--listen",    listen,
                                 "--journal",   journal,  "--port-file", port_file};
    size_t n = 8;
    struct test_sink sink;

    (void)snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
    (void)test_path(journal, "received");
    (void)unlink(test_path(port_file, "port"));
    for (size_t i = 0; more != NULL && more[i] != NULL; i++)
        argv[n++] = more[i];
    argv[n] = NULL;
    sink.pid = test_spawn("sink.out", argv);
    test_until(test_file_has_text, "port");
    char *text = test_read("port");
    sink.port = (unsigned)strtoul(text, NULL, 10);
    free(text);
    return sink;
}

/* Ends it in good order; its final counters (the last line of its output). */
static __attribute__((unused)) json_t *test_sink_stop(struct test_sink sink)
{
    assert_int_equal(kill(sink.pid, SIGTERM), 0);
    assert_int_equal(test_wait(sink.pid), 0);
    char *text = test_read("sink.out");
    char *object = strchr(text, '{');
    assert_non_null(object);
    json_t *counters = json_loads(object, 0, NULL);
    assert_non_null(counters);
    free(text);
    return counters;
}

static __attribute__((unused)) json_int_t test_number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static __attribute__((unused)) int test_dir_remove(void **state)
{
    static const char *const names[] = {"received", "port",       "sink.out", "sent",
                                        "load.out", "verify.out", "stats",    "queued"};
    char path[TEST_PATH];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        (void)unlink(test_path(path, names[i]));
    (void)rmdir(test_dir);
    return 0;
}

#endif
