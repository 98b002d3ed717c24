/* Happy path: fork -> (child) own group, death signal, output, exec -> the pipe closes by exec. A failure before exec
 * comes as errno through the pipe. */
#include "client/ctl_child.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOMENT_MS = 5 };

/* In the child: only calls that are safe after fork. */
__attribute__((noreturn)) static void become(const char *const *argv, const char *output, pid_t parent, int failure)
{
    sigset_t none;
    int fd = output == NULL ? -1 : open(output, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    bool good = (output == NULL || (fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0 && dup2(fd, STDERR_FILENO) >= 0)) &&
                in >= 0 && dup2(in, STDIN_FILENO) >= 0 && setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0;

    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    if (good && getppid() == parent) /* it may have died before prctl */
        (void)execv(argv[0], (char *const *)(uintptr_t)argv);
    int error = errno;
    ssize_t n = write(failure, &error, sizeof(error));
    _exit(n == (ssize_t)sizeof(error) ? 127 : 126);
}

int child_start(struct child *child, const char *const *argv, const char *output)
{
    int ends[2];
    int error = 0;
    pid_t parent = getpid();

    *child = (struct child){0};
    if (pipe2(ends, O_CLOEXEC) != 0)
        return MR_IO;
    (void)fflush(NULL); /* nothing may be written twice */
    pid_t pid = fork();
    if (pid == 0)
        become(argv, output, parent, ends[1]);
    error = pid < 0 ? errno : 0;
    (void)close(ends[1]);
    if (pid > 0) {
        ssize_t n;
        do {
            n = read(ends[0], &error, sizeof(error));
        } while (n < 0 && errno == EINTR);
        if (n <= 0)
            error = 0;
        else
            (void)waitpid(pid, &child->status, 0);
    }
    (void)close(ends[0]);
    if (error != 0) {
        errno = error;
        return MR_IO;
    }
    child->pid = pid;
    return 0;
}

bool child_running(struct child *child)
{
    if (child->pid > 0 && waitpid(child->pid, &child->status, WNOHANG) == child->pid)
        child->pid = 0;
    return child->pid > 0;
}

int child_wait(struct child *child)
{
    while (child->pid > 0) {
        pid_t ended = waitpid(child->pid, &child->status, 0);
        mr_assert(ended == child->pid || errno == EINTR);
        if (ended == child->pid)
            child->pid = 0;
    }
    return child_exit(child);
}

int child_exit(const struct child *child)
{
    return WIFEXITED(child->status) ? WEXITSTATUS(child->status) : 128 + WTERMSIG(child->status);
}

void child_kill(struct child *child)
{
    if (child->pid <= 0)
        return;
    (void)kill(child->pid, SIGKILL);
    (void)child_wait(child);
}

void child_end(struct child *const *children, unsigned n, unsigned milliseconds)
{
    const struct timespec moment = {0, MOMENT_MS * 1000000L};
    uint64_t end = mr_boot_ns(&mr_clock_real) + milliseconds * MR_NS_PER_MS;
    bool running = true;

    for (unsigned i = 0; i < n; i++) {
        if (child_running(children[i]))
            (void)kill(children[i]->pid, SIGTERM);
    }
    while (running && mr_boot_ns(&mr_clock_real) < end) {
        running = false;
        for (unsigned i = 0; i < n; i++)
            running = child_running(children[i]) || running;
        if (running)
            (void)nanosleep(&moment, NULL);
    }
    for (unsigned i = 0; i < n; i++)
        child_kill(children[i]);
}

char *child_text(const struct child *child, char text[32])
{
    if (WIFSIGNALED(child->status))
        (void)snprintf(text, 32, "signal %d", WTERMSIG(child->status));
    else
        (void)snprintf(text, 32, "exit %d", WEXITSTATUS(child->status));
    return text;
}
