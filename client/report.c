/* Values are kept as JSON, so that the three forms cannot differ in what they say. */
#include "client/report.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <libsmartcols.h>
#include <string.h>
#include <unistd.h>

enum report_form report_form(bool json, FILE *out)
{
    if (json)
        return REPORT_JSON;
    return isatty(fileno(out)) ? REPORT_TABLE : REPORT_PLAIN;
}

static void add(struct report *report, const char *name, json_t *value, int decimals)
{
    mr_assert(report->count < REPORT_ROWS_MAX);
    mr_assert(value != NULL);
    report->rows[report->count].name = name;
    report->rows[report->count].value = value;
    report->rows[report->count].decimals = decimals;
    report->count++;
}

void report_count(struct report *report, const char *name, uint64_t value)
{
    add(report, name, json_integer((json_int_t)value), 0);
}

void report_real(struct report *report, const char *name, double value, int decimals)
{
    add(report, name, json_real(value), decimals);
}

void report_text(struct report *report, const char *name, const char *value)
{
    json_t *text = json_string(value);
    add(report, name, text != NULL ? text : json_string("(not UTF-8)"), 0);
}

void report_list(struct report *report, const char *name, json_t *list)
{
    mr_assert(json_is_array(list));
    add(report, name, list, 0);
}

static void format(const json_t *value, int decimals, char *text, size_t size)
{
    if (json_is_integer(value))
        (void)snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        (void)snprintf(text, size, "%.*f", decimals, json_real_value(value));
    else
        (void)snprintf(text, size, "%s", json_string_value(value));
}

static void print_plain_row(const char *name, const json_t *value, int decimals, FILE *out)
{
    char text[1024];

    format(value, decimals, text, sizeof(text));
    (void)fprintf(out, "%s=%s\n", name, text);
}

static void print_lists(const struct report *report, FILE *out)
{
    for (size_t i = 0; i < report->count; i++) {
        const json_t *value = report->rows[i].value;
        for (size_t k = 0; json_is_array(value) && k < json_array_size(value); k++)
            print_plain_row(report->rows[i].name, json_array_get(value, k), 0, out);
    }
}

static void print_plain(const struct report *report, FILE *out)
{
    for (size_t i = 0; i < report->count; i++) {
        if (!json_is_array(report->rows[i].value))
            print_plain_row(report->rows[i].name, report->rows[i].value, report->rows[i].decimals, out);
    }
    print_lists(report, out);
}

/* An underscore is for scripts; people read a space. */
static void spaced(char *name)
{
    for (; *name != '\0'; name++) {
        if (*name == '_')
            *name = ' ';
    }
}

static void print_table(const struct report *report, FILE *out)
{
    struct libscols_table *table = scols_new_table();

    mr_assert(table != NULL);
    (void)scols_table_enable_noheadings(table, 1);
    (void)scols_table_set_stream(table, out);
    mr_assert(scols_table_new_column(table, "name", 0, 0) != NULL);
    mr_assert(scols_table_new_column(table, "value", 0, SCOLS_FL_RIGHT) != NULL);
    for (size_t i = 0; i < report->count; i++) {
        char name[128];
        char text[1024];
        if (json_is_array(report->rows[i].value))
            continue;
        struct libscols_line *line = scols_table_new_line(table, NULL);
        mr_assert(line != NULL);
        (void)snprintf(name, sizeof(name), "%s", report->rows[i].name);
        spaced(name);
        format(report->rows[i].value, report->rows[i].decimals, text, sizeof(text));
        (void)scols_line_set_data(line, 0, name);
        (void)scols_line_set_data(line, 1, text);
    }
    (void)scols_print_table(table);
    scols_unref_table(table);
    print_lists(report, out);
}

static void print_json(const struct report *report, FILE *out)
{
    json_t *object = json_object();

    for (size_t i = 0; i < report->count; i++)
        (void)json_object_set(object, report->rows[i].name, report->rows[i].value);
    (void)json_dumpf(object, out, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    (void)fputc('\n', out);
    json_decref(object);
}

int report_print(const struct report *report, enum report_form form, FILE *out)
{
    switch (form) {
    case REPORT_JSON:
        print_json(report, out);
        break;
    case REPORT_TABLE:
        print_table(report, out);
        break;
    case REPORT_PLAIN:
        print_plain(report, out);
        break;
    }
    return fflush(out) == 0 && !ferror(out) ? 0 : MR_IO;
}

void report_free(struct report *report)
{
    for (size_t i = 0; i < report->count; i++)
        json_decref(report->rows[i].value);
    report->count = 0;
}
