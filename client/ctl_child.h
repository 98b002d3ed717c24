/* ctl_child.h - a program that runs below this one and never outlives it.
 *
 * A child has a process group of its own, so that ctrl-C on the terminal reaches only the parent, which then ends its
 * children in order; the kernel kills it when the parent dies in any other way. Thread: the one that lives longest (the
 * kernel watches the thread that forked). */
#ifndef MR_CLIENT_CTL_CHILD_H
#define MR_CLIENT_CTL_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

struct child {
    pid_t pid;  /* 0: not running */
    int status; /* of waitpid, once it has ended */
};

/* Runs argv[0]; output and errors are appended to the file (NULL: they stay the parent's). MR_IO with errno, also when
 * the program cannot be executed. */
int child_start(struct child *child, const char *const *argv, const char *output);
/* Looks without waiting. */
bool child_running(struct child *child);
/* SIGKILL; returns when it is gone. */
void child_kill(struct child *child);
/* SIGTERM, and SIGKILL to what is still there after the time. Nothing when it does not run. */
void child_end(struct child *const *children, unsigned n, unsigned milliseconds);
/* Waits for the end; exit status, 128 + n for signal n. */
int child_wait(struct child *child);
/* The exit status of one that has ended. */
int child_exit(const struct child *child);
/* How it ended, "exit 1" or "signal 9"; returns text. */
char *child_text(const struct child *child, char text[32]);

#endif
