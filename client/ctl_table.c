/* On a terminal libsmartcols measures and prints at the end; in a pipe a row is written at once, so that a long list
 * flows. */
#include "client/ctl_table.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <libsmartcols/libsmartcols.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct ctl_table {
    FILE *stream;
    size_t n;
    const char *kind;
    struct libscols_table *rows; /* NULL: a pipe */
};

bool ctl_terminal(FILE *out, bool *colours)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    bool terminal = isatty(fileno(out)) == 1;

    if (colours != NULL)
        *colours = terminal && (no_color == NULL || no_color[0] == '\0') && (term == NULL || strcmp(term, "dumb") != 0);
    return terminal;
}

char *ctl_table_escape(const char *value)
{
    if (value[0] == '\0')
        return mr_strdup("-");
    char *text = mr_malloc(strlen(value) * 4 + 1);
    size_t len = 0;
    for (const char *p = value; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f || *p == '\\')
            len += (size_t)snprintf(text + len, 5, "\\x%02x", (unsigned)(unsigned char)*p);
        else
            text[len++] = *p;
    }
    text[len] = '\0';
    return text;
}

void ctl_table_open(struct ctl_table **out, FILE *stream, const struct ctl_column *columns, size_t n, bool headings,
                    const char *kind)
{
    bool colours;
    struct ctl_table *t = mr_calloc(1, sizeof(*t));

    mr_assert(n > 0 && n <= CTL_COLUMNS_MAX);
    t->stream = stream;
    t->n = n;
    t->kind = kind;
    if (ctl_terminal(stream, &colours)) {
        t->rows = scols_new_table();
        mr_assert(t->rows != NULL);
        (void)scols_table_set_stream(t->rows, stream);
        (void)scols_table_enable_colors(t->rows, colours);
        (void)scols_table_enable_noheadings(t->rows, !headings);
        (void)scols_table_set_column_separator(t->rows, "  ");
        for (size_t i = 0; i < n; i++) {
            int flags = (columns[i].right ? SCOLS_FL_RIGHT : 0) | (columns[i].cut ? SCOLS_FL_TRUNC : 0);
            const struct libscols_column *column = scols_table_new_column(t->rows, columns[i].name, 0, flags);
            mr_assert(column != NULL);
        }
    }
    *out = t;
}

void ctl_table_row(struct ctl_table *t, const char *const *values, size_t coloured, const char *colour)
{
    if (t->rows != NULL) {
        struct libscols_line *line = scols_table_new_line(t->rows, NULL);
        mr_assert(line != NULL);
        for (size_t i = 0; i < t->n; i++) {
            int rc = scols_line_set_data(line, i, values[i][0] == '\0' ? "-" : values[i]);
            mr_assert(rc == 0);
        }
        if (colour != NULL)
            (void)scols_cell_set_color(scols_line_get_cell(line, coloured), colour);
        return;
    }
    if (t->kind != NULL)
        (void)fprintf(t->stream, "%s\t", t->kind);
    for (size_t i = 0; i < t->n; i++) {
        char *text = ctl_table_escape(values[i]);
        (void)fprintf(t->stream, "%s%c", text, i + 1 == t->n ? '\n' : '\t');
        free(text);
    }
}

void ctl_table_close(struct ctl_table *t)
{
    if (t->rows != NULL) {
        if (!scols_table_is_empty(t->rows))
            (void)scols_print_table(t->rows);
        scols_unref_table(t->rows);
    }
    free(t);
}
