/* test_dies.h - for tests of what must end the process by abort (panic.h): it runs in a child. */
#ifndef MR_BASE_TEST_DIES_H
#define MR_BASE_TEST_DIES_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* In the child: an abort ends it, and leaves no core file. */
static inline void test_let_die(void)
{
    struct rlimit none = {0, 0};

    (void)setrlimit(RLIMIT_CORE, &none);
    (void)signal(SIGABRT, SIG_DFL);
}

static inline void test_assert_died(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

static inline void test_assert_dies(void (*part)(void))
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        test_let_die();
        part();
        _exit(7);
    }
    test_assert_died(pid);
}

#endif
