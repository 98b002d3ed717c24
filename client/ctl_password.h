/* ctl_password.h - `mailraftctl password USER`: the lines of a user for mailraftd's file of users (smtp.auth.file).
 *
 * Two lines: a yescrypt hash, against which a password that is sent is checked, and SCRAM-SHA-256 secrets. The password
 * is read from the terminal without echo, twice, or from a pipe, its first line. Thread: main. */
#ifndef MR_CLIENT_CTL_PASSWORD_H
#define MR_CLIENT_CTL_PASSWORD_H

#include <stdio.h>

enum {
    CTL_PASSWORD_MAX = 1024,
    CTL_USER_MAX = 255,
    CTL_SCRAM_ITERATIONS = 65536, /* about 50 ms of a client's time; RFC 7677 asks for 4096 and more */
};

/* Exit status (enum ctl_exit); says on stderr what is wrong. */
int ctl_password(const char *user);
/* The lines themselves; user and password as they were given. MR_INVAL: error says what is wrong with one of them. */
int ctl_password_lines(FILE *out, const char *user, const char *password, char *error, size_t error_len);

#endif
