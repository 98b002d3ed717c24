/* Lines are built by hand and not by jansson: a load generator writes tens of thousands a second, and building a tree
 * of values for each would cost more than sending the message. */
#include "client/journal.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct journal {
    int fd;
    bool torn; /* the file does not end with a line end */
};

static void reserve(struct journal_line *line, size_t more)
{
    if (line->len + more <= line->cap)
        return;
    size_t cap = line->cap != 0 ? line->cap * 2 : 1024;
    while (cap < line->len + more)
        cap *= 2;
    line->data = mr_realloc(line->data, cap);
    line->cap = cap;
}

static void put(struct journal_line *line, const char *s, size_t len)
{
    reserve(line, len);
    memcpy(line->data + line->len, s, len);
    line->len += len;
}

static void put_char(struct journal_line *line, char c)
{
    put(line, &c, 1);
}

static void put_decimal(struct journal_line *line, uint64_t value, int width)
{
    char digits[24];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
        width--;
    } while (value > 0 || width > 0);
    put(line, digits + at, sizeof(digits) - at);
}

/* Length of the UTF-8 sequence at s (RFC 3629 section 4), 0 when there is none. */
static size_t utf8_length(const unsigned char *s, size_t len)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : 0;

    if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static void put_escaped(struct journal_line *line, const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *)s;
    char escape[8];

    put_char(line, '"');
    for (size_t i = 0; i < len;) {
        size_t plain = i;
        while (plain < len && u[plain] >= 0x20 && u[plain] < 0x7f && u[plain] != '"' && u[plain] != '\\')
            plain++;
        put(line, s + i, plain - i);
        i = plain;
        if (i == len)
            break;
        size_t n = u[i] >= 0x80 ? utf8_length(u + i, len - i) : 0;
        if (n > 0) {
            put(line, s + i, n);
            i += n;
            continue;
        }
        if (u[i] == '"' || u[i] == '\\') {
            put_char(line, '\\');
            put_char(line, s[i]);
        } else {
            put(line, escape, (size_t)snprintf(escape, sizeof(escape), "\\u%04x", (unsigned)u[i]));
        }
        i++;
    }
    put_char(line, '"');
}

static void member(struct journal_line *line, const char *name)
{
    if (line->comma)
        put_char(line, ',');
    line->comma = true;
    if (name == NULL)
        return;
    put_char(line, '"');
    put(line, name, strlen(name));
    put(line, "\":", 2);
}

void journal_line_begin(struct journal_line *line, const char *event)
{
    struct timespec now;

    /* The journals of several tools are merged by this time; the clock interface has milliseconds only. */
    (void)clock_gettime(CLOCK_REALTIME, &now);
    line->len = 0;
    line->comma = false;
    put_char(line, '{');
    journal_seconds(line, "time", (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec);
    journal_text(line, "event", event);
}

void journal_text(struct journal_line *line, const char *name, const char *value)
{
    if (value != NULL)
        journal_string(line, name, value, strlen(value));
}

void journal_string(struct journal_line *line, const char *name, const char *value, size_t len)
{
    member(line, name);
    put_escaped(line, value, len);
}

void journal_number(struct journal_line *line, const char *name, uint64_t value)
{
    member(line, name);
    put_decimal(line, value, 0);
}

void journal_bool(struct journal_line *line, const char *name, bool value)
{
    member(line, name);
    put(line, value ? "true" : "false", value ? 4 : 5);
}

void journal_seconds(struct journal_line *line, const char *name, uint64_t ns)
{
    member(line, name);
    put_decimal(line, ns / 1000000000ULL, 0);
    put_char(line, '.');
    put_decimal(line, ns % 1000000000ULL, 9);
}

static void open_group(struct journal_line *line, const char *name, char bracket)
{
    member(line, name);
    put_char(line, bracket);
    line->comma = false;
}

static void close_group(struct journal_line *line, char bracket)
{
    put_char(line, bracket);
    line->comma = true;
}

void journal_list_begin(struct journal_line *line, const char *name)
{
    open_group(line, name, '[');
}

void journal_list_end(struct journal_line *line)
{
    close_group(line, ']');
}

void journal_object_begin(struct journal_line *line, const char *name)
{
    open_group(line, name, '{');
}

void journal_object_end(struct journal_line *line)
{
    close_group(line, '}');
}

void journal_line_free(struct journal_line *line)
{
    free(line->data);
    *line = (struct journal_line){0};
}

/* Only a regular file can be looked at; a pipe or terminal starts whole. */
static bool ends_torn(int fd)
{
    struct stat st;
    char last = '\n';

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return false;
    return pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n';
}

int journal_open(struct journal **out, const char *path)
{
    int fd = strcmp(path, "-") == 0 ? dup(STDOUT_FILENO) : open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0 && (errno == EACCES || errno == ENXIO)) /* a device or pipe that may only be written */
        fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0)
        return MR_IO;
    struct journal *journal = mr_calloc(1, sizeof(*journal));
    journal->fd = fd;
    journal->torn = ends_torn(fd);
    *out = journal;
    return 0;
}

int journal_write(struct journal *journal, struct journal_line *line)
{
    mr_assert(line->len > 0 && line->data[0] == '{');
    put(line, "}\n", 2);
    if (journal->torn) {
        reserve(line, 1);
        memmove(line->data + 1, line->data, line->len++);
        line->data[0] = '\n';
    }
    ssize_t n;
    do {
        n = write(journal->fd, line->data, line->len);
    } while (n < 0 && errno == EINTR);
    if (n == (ssize_t)line->len) {
        journal->torn = false;
        return 0;
    }
    if (n > 0)
        journal->torn = true;
    if (n >= 0)
        errno = ENOSPC;
    return MR_IO;
}

void journal_close(struct journal *journal)
{
    (void)close(journal->fd);
    free(journal);
}

int journal_read(const char *path, void (*visit)(void *arg, const json_t *line), void *arg,
                 struct journal_counts *counts)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;

    if (file == NULL)
        return MR_IO;
    errno = 0;
    while ((n = getline(&text, &cap, file)) > 0) {
        if (text[n - 1] != '\n') {
            counts->torn++;
            break;
        }
        if (n == 1)
            continue;
        json_t *line = json_loadb(text, (size_t)n, 0, NULL);
        if (json_is_object(line) && json_is_string(json_object_get(line, "event"))) {
            counts->lines++;
            visit(arg, line);
        } else {
            counts->malformed++;
        }
        json_decref(line);
        errno = 0;
    }
    int saved = errno;
    bool failed = ferror(file) != 0;
    free(text);
    if (file != stdin)
        (void)fclose(file);
    errno = saved;
    return failed ? MR_IO : 0;
}
