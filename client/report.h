/* report.h - the end of a run: named values as a table for people, name=value lines for pipes, or one JSON object.
 *
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_REPORT_H
#define MR_CLIENT_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { REPORT_ROWS_MAX = 64 };

struct report {
    size_t count;
    struct {
        const char *name; /* static memory */
        json_t *value;    /* integer, real, string, or list of strings */
        int decimals;     /* of a real */
    } rows[REPORT_ROWS_MAX];
};

enum report_form { REPORT_PLAIN, REPORT_TABLE, REPORT_JSON };

/* A table when the file is a terminal. */
enum report_form report_form(bool json, FILE *out);

void report_count(struct report *report, const char *name, uint64_t value);
void report_real(struct report *report, const char *name, double value, int decimals);
void report_text(struct report *report, const char *name, const char *value);
/* list is taken over. Plain: one line an element. */
void report_list(struct report *report, const char *name, json_t *list);
/* MR_IO: could not be written. Values are released by report_free. */
int report_print(const struct report *report, enum report_form form, FILE *out);
void report_free(struct report *report);

#endif
