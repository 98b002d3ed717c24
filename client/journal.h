/* journal.h - what the load generator and the sink saw, one JSON object a line.
 *
 * Every line has "time" (Unix seconds, nine decimals) and "event"; the rest are the event's own members. A byte that is
 * not UTF-8 stands as the character of the same number (U+0080..U+00FF).
 * J1: a line is appended by one write(2), so a tool that is killed loses at most the line that it had not yet written,
 *     and what it wrote is whole. No fsync: the journals survive the death of processes, not of the machine.
 * J2: a file whose last line is torn (a full disk) goes on behind a line end; only the torn line is unreadable.
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_JOURNAL_H
#define MR_CLIENT_JOURNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A line under construction; zeroed at first, used again and again. */
struct journal_line {
    char *data;
    size_t len;
    size_t cap;
    bool comma; /* the next member needs one before it */
};

void journal_line_begin(struct journal_line *line, const char *event);
void journal_text(struct journal_line *line, const char *name, const char *value); /* NULL: left out */
void journal_string(struct journal_line *line, const char *name, const char *value, size_t len);
void journal_number(struct journal_line *line, const char *name, uint64_t value);
void journal_bool(struct journal_line *line, const char *name, bool value);
/* Written in seconds. */
void journal_seconds(struct journal_line *line, const char *name, uint64_t ns);
/* name NULL: an element of a list. */
void journal_list_begin(struct journal_line *line, const char *name);
void journal_list_end(struct journal_line *line);
void journal_object_begin(struct journal_line *line, const char *name);
void journal_object_end(struct journal_line *line);
void journal_line_free(struct journal_line *line);

struct journal; /* opaque */

/* Appends to path; "-" is standard output. MR_IO with errno. */
int journal_open(struct journal **out, const char *path);
/* Ends the line and writes it. MR_IO: the line is not (wholly) in the file. */
int journal_write(struct journal *journal, struct journal_line *line);
void journal_close(struct journal *journal);

struct journal_counts {
    uint64_t lines;     /* whole and readable */
    uint64_t malformed; /* whole, and no JSON object with an "event" */
    uint64_t torn;      /* 1: the last line has no end; it is not visited */
};

/* Calls visit for each readable line in order. "-" is standard input. MR_IO with errno. Adds to *counts. */
int journal_read(const char *path, void (*visit)(void *arg, const json_t *line), void *arg,
                 struct journal_counts *counts);

#endif
