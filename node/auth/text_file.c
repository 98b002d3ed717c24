/* text_file.c - rights are asked of the open descriptor, so that the file that is read is the one that was looked at.
 */
#include "node/auth/text_file.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, const char *path, bool secret, char **text, size_t *len, char *error, size_t error_len)
{
    struct stat st;
    size_t used = 0;
    ssize_t n = 0;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        (void)snprintf(error, error_len, "%s: not a file", path);
        return MR_CONFIG;
    }
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0 || (secret && (st.st_mode & S_IRWXO) != 0)) {
        (void)snprintf(error, error_len, "%s: others may %schange it: chmod %s", path, secret ? "read or " : "",
                       secret ? "g-w,o=" : "go-w");
        return MR_CONFIG;
    }
    if (st.st_size > TEXT_FILE_MAX) {
        (void)snprintf(error, error_len, "%s: larger than %d octets", path, TEXT_FILE_MAX);
        return MR_CONFIG;
    }
    *text = mr_malloc((size_t)st.st_size + 1);
    while (used < (size_t)st.st_size && (n = read(fd, *text + used, (size_t)st.st_size - used)) > 0)
        used += (size_t)n;
    (*text)[used] = '\0';
    *len = used;
    if (n >= 0)
        return 0;
    (void)snprintf(error, error_len, "%s: %s", path, strerror(errno));
    free(*text);
    return MR_IO;
}

int text_file_read(const char *path, bool secret, char **text, size_t *len, char *error, size_t error_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    if (fd < 0) {
        (void)snprintf(error, error_len, "%s: %s", path, strerror(errno));
        return MR_IO;
    }
    rc = read_all(fd, path, secret, text, len, error, error_len);
    (void)close(fd);
    return rc;
}

int text_file_lines(const char *name, char *text, size_t len, text_line_cb cb, void *arg, char *error, size_t error_len)
{
    const char *end = text + len;
    unsigned number = 0;

    for (char *line = text; line < end;) {
        char *next = memchr(line, '\n', (size_t)(end - line));
        const char *why;

        if (next != NULL)
            *next = '\0';
        number++;
        why = cb(arg, line);
        if (why != NULL) {
            (void)snprintf(error, error_len, "%s:%u: %s", name, number, why);
            return MR_CONFIG;
        }
        if (next == NULL)
            break;
        line = next + 1;
    }
    return 0;
}
