/* ctl_table.h - rows and columns: aligned and coloured for people, lines with tabs for scripts.
 *
 * T1: in a pipe each row is one line whose number of tabs does not depend on the values: what would break a line or a
 *     column (bytes below a space, DEL, the backslash) stands as \xNN, an empty value as "-".
 * T2: on a terminal no byte of a stranger's text reaches it as a control sequence.
 * Thread: a table belongs to one thread. */
#ifndef MR_CLIENT_CTL_TABLE_H
#define MR_CLIENT_CTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { CTL_COLUMNS_MAX = 16 };

struct ctl_column {
    const char *name;
    bool right; /* numbers */
    bool cut;   /* is cut short where the terminal is too narrow */
};

struct ctl_table; /* opaque */

/* Does out want tables? colours: also colours (a terminal, and NO_COLOR is not set). */
bool ctl_terminal(FILE *out, bool *colours);
/* headings: on a terminal, show the names of the columns. kind: NULL, or a first column for pipes only, so that the
 * rows of several tables can be told apart. columns stay the caller's. */
void ctl_table_open(struct ctl_table **out, FILE *stream, const struct ctl_column *columns, size_t n, bool headings,
                    const char *kind);
/* n values, copied. colour: NULL or one of "red", "green", "yellow", "bold", for the value at coloured. */
void ctl_table_row(struct ctl_table *table, const char *const *values, size_t coloured, const char *colour);
/* Prints what is still to be printed and frees. */
void ctl_table_close(struct ctl_table *table);
/* A value as T1 wants it, in new memory. */
char *ctl_table_escape(const char *value);

#endif
