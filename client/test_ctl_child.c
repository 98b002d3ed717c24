/* Children: started, ended, killed, and never left over. */
#include "client/ctl_child.h"

#include "proto/base/error.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void ends(void **state)
{
    const char *const argv[] = {"/bin/sh", "-c", "exit 7", NULL};
    struct child c;
    char text[32];

    (void)state;
    assert_int_equal(child_start(&c, argv, NULL), 0);
    assert_int_equal(child_wait(&c), 7);
    assert_false(child_running(&c));
    assert_int_equal(child_wait(&c), 7); /* again: the same answer */
    assert_string_equal(child_text(&c, text), "exit 7");
    child_kill(&c); /* nothing to kill */
}

static void cannot_run(void **state)
{
    const char *const argv[] = {"/nonexistent/program", NULL};
    const char *const sh[] = {"/bin/true", NULL};
    struct child c;

    (void)state;
    assert_int_equal(child_start(&c, argv, NULL), MR_IO);
    assert_int_equal(errno, ENOENT);
    assert_false(child_running(&c));
    assert_int_equal(child_start(&c, sh, "/nonexistent/folder/log"), MR_IO);
    assert_int_equal(errno, ENOENT);
}

static void killed(void **state)
{
    const char *const argv[] = {"/bin/sleep", "1000", NULL};
    struct child c;
    char text[32];

    (void)state;
    assert_int_equal(child_start(&c, argv, NULL), 0);
    assert_true(child_running(&c));
    assert_true(getpgid(c.pid) == c.pid);
    child_kill(&c);
    assert_false(child_running(&c));
    assert_string_equal(child_text(&c, text), "signal 9");
    assert_int_equal(child_exit(&c), 128 + SIGKILL);
}

/* One goes when told, one does not listen. */
static void told_to_end(void **state)
{
    const char *const willing[] = {"/bin/sleep", "1000", NULL};
    const char *const deaf[] = {"/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do read x < /dev/zero; done", NULL};
    char path[] = "/tmp/mailraft-child-XXXXXX";
    struct child a, b;
    struct child *both[] = {&a, &b};
    const struct timespec moment = {0, 5 * 1000 * 1000};

    (void)state;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(child_start(&a, willing, NULL), 0);
    assert_int_equal(child_start(&b, deaf, path), 0);
    while (lseek(fd, 0, SEEK_END) == 0) /* the trap is set */
        (void)nanosleep(&moment, NULL);
    child_end(both, 2, 200);
    assert_int_equal(child_exit(&a), 128 + SIGTERM);
    assert_int_equal(child_exit(&b), 128 + SIGKILL);
    child_end(both, 2, 200); /* nothing left to do */
    (void)close(fd);
    (void)unlink(path);
}

/* The parent of a child is killed: so is the child. */
static void dies_with_parent(void **state)
{
    const char *const argv[] = {"/bin/sleep", "1000", NULL};
    int ends_of[2];
    pid_t grandchild = 0;
    int status;

    (void)state;
    assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    assert_int_equal(pipe(ends_of), 0);
    pid_t parent = fork();
    if (parent == 0) {
        struct child c;
        int rc = child_start(&c, argv, NULL);
        ssize_t n = rc == 0 ? write(ends_of[1], &c.pid, sizeof(c.pid)) : 0;
        (void)n;
        for (;;)
            (void)pause();
    }
    assert_true(parent > 0);
    assert_int_equal(read(ends_of[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
    assert_int_equal(kill(grandchild, 0), 0);
    assert_int_equal(kill(parent, SIGKILL), 0);
    assert_int_equal(waitpid(parent, &status, 0), parent);
    assert_int_equal(waitpid(grandchild, &status, 0), grandchild); /* adopted; returns only when it has died */
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    (void)close(ends_of[0]);
    (void)close(ends_of[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ends), cmocka_unit_test(cannot_run), cmocka_unit_test(killed),
                                       cmocka_unit_test(told_to_end), cmocka_unit_test(dies_with_parent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
