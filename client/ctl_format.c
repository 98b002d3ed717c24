/* Each command has its list of columns; what scripts get never has fewer of them. */
#include "client/ctl_format.h"

#include "client/ctl_table.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- values ---- */

const char *ctl_text(const json_t *object, const char *name, char buffer[CTL_TEXT_SIZE])
{
    const json_t *value = json_object_get(object, name);

    switch (value == NULL ? JSON_NULL : json_typeof(value)) {
    case JSON_STRING:
        return json_string_value(value);
    case JSON_INTEGER:
        (void)snprintf(buffer, CTL_TEXT_SIZE, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        return buffer;
    case JSON_REAL:
        (void)snprintf(buffer, CTL_TEXT_SIZE, "%.3f", json_real_value(value));
        return buffer;
    case JSON_TRUE:
        return "yes";
    case JSON_FALSE:
        return "no";
    default:
        return "";
    }
}

char *ctl_format_bytes(uint64_t bytes, char text[CTL_TEXT_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < COUNT(units)) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(text, CTL_TEXT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

/* Bytes: exact for scripts. */
static const char *size_text(const json_t *object, const char *name, bool terminal, char buffer[CTL_TEXT_SIZE])
{
    const json_t *value = json_object_get(object, name);

    if (!terminal || !json_is_integer(value) || json_integer_value(value) < 0)
        return ctl_text(object, name, buffer);
    return ctl_format_bytes((uint64_t)json_integer_value(value), buffer);
}

/* The null reverse-path is a value too. */
static const char *sender_text(const json_t *message)
{
    const char *sender = json_string_value(json_object_get(message, "sender"));
    return sender == NULL ? "" : sender[0] == '\0' ? "<>" : sender;
}

/* Names, with commas; new memory. */
static char *joined(const json_t *list)
{
    char *text = mr_strdup("");
    size_t i;
    json_t *item;

    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        const char *name = json_string_value(item);
        char *longer = mr_asprintf("%s%s%s", text, text[0] != '\0' ? "," : "", name == NULL ? "?" : name);
        free(text);
        text = longer;
    }
    return text;
}

/* ---- name and value ---- */

struct pair {
    const char *name;
    const char *value;
    const char *colour;
};

static void print_pairs(const struct pair *pairs, size_t n, FILE *out)
{
    static const struct ctl_column columns[] = {{"name", false, false}, {"value", false, false}};
    struct ctl_table *t;

    ctl_table_open(&t, out, columns, COUNT(columns), false, NULL);
    for (size_t i = 0; i < n; i++) {
        const char *const row[] = {pairs[i].name, pairs[i].value};
        ctl_table_row(t, row, 1, pairs[i].colour);
    }
    ctl_table_close(t);
}

/* ---- status, nodes ---- */

static void print_alarms(const json_t *alarms, FILE *out)
{
    size_t i;
    json_t *item;

    json_array_foreach((json_t *)(uintptr_t)alarms, i, item)
    {
        const char *text = json_string_value(item);
        const struct pair alarm = {"alarm", text == NULL ? "" : text, "red"};
        print_pairs(&alarm, 1, out);
    }
}

static void print_nodes(const json_t *status, const char *kind, FILE *out)
{
    static const struct ctl_column columns[] = {{"NODE", false, false},    {"STATE", false, false},
                                                {"ROLE", false, false},    {"ADDRESS", false, false},
                                                {"VERSION", false, false}, {"HEARD MS AGO", true, false},
                                                {"APPLIED", true, false},  {"BODIES MISSING", true, false}};
    static const char *const names[] = {"name",    "state",        "role",    "address",
                                        "version", "heard_ms_ago", "applied", "bodies_missing"};
    struct ctl_table *t;
    size_t i;
    json_t *node;

    ctl_table_open(&t, out, columns, COUNT(columns), true, kind);
    json_array_foreach(json_object_get(status, "nodes"), i, node)
    {
        char buffers[COUNT(names)][CTL_TEXT_SIZE];
        const char *row[COUNT(names)];
        for (size_t k = 0; k < COUNT(names); k++)
            row[k] = ctl_text(node, names[k], buffers[k]);
        ctl_table_row(t, row, 1, strcmp(row[1], "up") == 0 ? "green" : "red");
    }
    ctl_table_close(t);
}

void ctl_format_nodes(const json_t *status, FILE *out)
{
    print_nodes(status, NULL, out);
}

static void gap(FILE *out)
{
    if (ctl_terminal(out, NULL))
        (void)fputc('\n', out);
}

static void print_counts(const json_t *queue, const json_t *totals, FILE *out)
{
    const json_t *deliveries = json_object_get(queue, "deliveries");
    char b[10][CTL_TEXT_SIZE];
    const struct pair pairs[] = {
        {"messages", ctl_text(queue, "messages", b[0]), NULL},
        {"recipients", ctl_text(queue, "recipients", b[1]), NULL},
        {"bytes", size_text(queue, "bytes", ctl_terminal(out, NULL), b[2]), NULL},
        {"ready", ctl_text(deliveries, "ready", b[3]), NULL},
        {"assigned", ctl_text(deliveries, "assigned", b[4]), NULL},
        {"deferred", ctl_text(deliveries, "deferred", b[5]), NULL},
        {"held", ctl_text(deliveries, "held", b[6]), NULL},
        {"accepted", ctl_text(totals, "accepted", b[7]), NULL},
        {"delivered", ctl_text(totals, "delivered", b[8]), NULL},
        {"in_doubt", ctl_text(totals, "in_doubt", b[9]), NULL},
    };
    print_pairs(pairs, COUNT(pairs), out);
}

void ctl_format_status(const json_t *status, FILE *out)
{
    bool quorum = json_is_true(json_object_get(status, "quorum"));
    char b[9][CTL_TEXT_SIZE];
    const char *readiness = ctl_text(status, "readiness", b[6]);
    const struct pair head[] = {
        {"node", ctl_text(status, "node", b[0]), NULL},
        {"version", ctl_text(status, "version", b[1]), NULL},
        {"role", ctl_text(status, "role", b[2]), NULL},
        {"leader", ctl_text(status, "leader", b[3]), NULL},
        {"quorum", ctl_text(status, "quorum", b[4]), quorum ? "green" : "red"},
        {"readiness", readiness, strcmp(readiness, "ready") == 0 ? "green" : "yellow"},
        {"term", ctl_text(status, "term", b[5]), NULL},
        {"applied", ctl_text(status, "applied", b[7]), NULL},
        {"cluster", ctl_text(status, "cluster", b[8]), NULL},
    };
    print_pairs(head, COUNT(head), out);
    gap(out);
    print_nodes(status, "member", out);
    gap(out);
    print_counts(json_object_get(status, "queue"), json_object_get(status, "totals"), out);
    print_alarms(json_object_get(status, "alarms"), out);
}

/* ---- queue ---- */

void ctl_format_queue(const json_t *queue, FILE *out)
{
    static const struct ctl_column columns[] = {
        {"NEXT HOP", false, false}, {"READY", true, false},       {"ASSIGNED", true, false},
        {"DEFERRED", true, false},  {"HELD", true, false},        {"OLDEST", false, false},
        {"NEXT", false, false},     {"CONNECTIONS", true, false}, {"LAST REPLY", false, true}};
    static const char *const names[] = {"next_hop", "ready",        "assigned",    "deferred",  "held",
                                        "oldest",   "next_attempt", "connections", "last_reply"};
    struct ctl_table *t;
    size_t i;
    json_t *hop;

    ctl_table_open(&t, out, columns, COUNT(columns), true, NULL);
    json_array_foreach(json_object_get(queue, "next_hops"), i, hop)
    {
        char buffers[COUNT(names)][CTL_TEXT_SIZE];
        const char *row[COUNT(names)];
        for (size_t k = 0; k < COUNT(names); k++)
            row[k] = ctl_text(hop, names[k], buffers[k]);
        ctl_table_row(t, row, 3, strcmp(row[3], "0") == 0 ? NULL : "yellow");
    }
    ctl_table_close(t);
    if (ctl_terminal(out, NULL) && json_array_size(json_object_get(queue, "next_hops")) == 0)
        (void)fputs("The queue is empty.\n", out);
}

/* ---- messages ---- */

/* "a@example.org", "a@example.org and 2 more"; new memory. Scripts get the first alone: the number has its column. */
static char *recipients_text(const json_t *message, bool terminal)
{
    char buffer[CTL_TEXT_SIZE];
    const json_t *first = json_array_get(json_object_get(message, "recipients"), 0);
    json_int_t count = json_integer_value(json_object_get(message, "recipient_count"));
    const char *address = ctl_text(first, "address", buffer);

    if (!terminal || count < 2)
        return mr_strdup(address);
    return mr_asprintf("%s and %" JSON_INTEGER_FORMAT " more", address, count - 1);
}

/* The state that all recipients share, else "mixed". The list shows at most ten, which decide. */
static const char *shared_state(const json_t *message)
{
    const char *state = "";
    size_t i;
    json_t *r;

    json_array_foreach(json_object_get(message, "recipients"), i, r)
    {
        const char *one = json_string_value(json_object_get(r, "state"));
        if (one == NULL)
            continue;
        if (state[0] != '\0' && strcmp(state, one) != 0)
            return "mixed";
        state = one;
    }
    return state;
}

/* Scripts get a column with the number of recipients, and times to the millisecond: a terminal has no room for them. */
static void print_message_row(struct ctl_table *t, const json_t *m, bool terminal)
{
    char b[5][CTL_TEXT_SIZE];
    const json_t *first = json_array_get(json_object_get(m, "recipients"), 0);
    const char *state = shared_state(m);
    char *recipient = recipients_text(m, terminal);
    char *arrived = mr_strdup(ctl_text(m, "arrived", b[0]));
    const char *row[9];
    size_t n = 0;

    if (terminal)
        arrived[strcspn(arrived, ".")] = '\0';
    row[n++] = ctl_text(m, "id", b[1]);
    row[n++] = arrived;
    row[n++] = size_text(m, "size", terminal, b[2]);
    row[n++] = state;
    if (!terminal)
        row[n++] = ctl_text(m, "recipient_count", b[3]);
    row[n++] = sender_text(m);
    row[n++] = recipient;
    row[n++] = json_is_string(json_object_get(first, "next_hop")) ? ctl_text(first, "next_hop", b[4]) : "";
    row[n++] = json_is_string(json_object_get(first, "last_reply")) ? ctl_text(first, "last_reply", b[4]) : "";
    ctl_table_row(t, row, 3, strcmp(state, "deferred") == 0 ? "yellow" : NULL);
    free(recipient);
    free(arrived);
}

void ctl_format_messages(const json_t *messages, bool headings, FILE *out)
{
    static const struct ctl_column for_people[] = {{"ID", false, false},       {"ARRIVED (UTC)", false, false},
                                                   {"SIZE", true, false},      {"STATE", false, false},
                                                   {"SENDER", false, true},    {"RECIPIENT", false, true},
                                                   {"NEXT HOP", false, false}, {"LAST REPLY", false, true}};
    static const struct ctl_column for_scripts[9] = {{"", false, false}};
    bool terminal = ctl_terminal(out, NULL);
    struct ctl_table *t;
    size_t i;
    json_t *m;

    if (terminal)
        ctl_table_open(&t, out, for_people, COUNT(for_people), headings, NULL);
    else
        ctl_table_open(&t, out, for_scripts, COUNT(for_scripts), false, NULL);
    json_array_foreach((json_t *)(uintptr_t)messages, i, m)
    {
        print_message_row(t, m, terminal);
    }
    ctl_table_close(t);
}

static void print_recipients(const json_t *message, FILE *out)
{
    static const struct ctl_column columns[] = {{"RECIPIENT", false, false}, {"STATE", false, false},
                                                {"NEXT HOP", false, false},  {"ATTEMPTS", true, false},
                                                {"NODE", false, false},      {"NEXT ATTEMPT", false, false},
                                                {"STATUS", false, false},    {"LAST REPLY", false, true}};
    static const char *const names[] = {"address", "state",        "next_hop", "attempts",
                                        "node",    "next_attempt", "status",   "last_reply"};
    struct ctl_table *t;
    size_t i;
    json_t *r;

    ctl_table_open(&t, out, columns, COUNT(columns), true, "recipient");
    json_array_foreach(json_object_get(message, "recipients"), i, r)
    {
        char buffers[COUNT(names)][CTL_TEXT_SIZE];
        const char *row[COUNT(names)];
        for (size_t k = 0; k < COUNT(names); k++)
            row[k] = ctl_text(r, names[k], buffers[k]);
        const char *colour = strcmp(row[1], "delivered") == 0                                  ? "green"
                             : strcmp(row[1], "failed") == 0 || strcmp(row[1], "expired") == 0 ? "red"
                             : strcmp(row[1], "deferred") == 0                                 ? "yellow"
                                                                                               : NULL;
        ctl_table_row(t, row, 1, colour);
    }
    ctl_table_close(t);
}

/* What few messages have: only where it is there. */
static size_t rare_pairs(const json_t *message, struct pair *pairs, char (*buffers)[CTL_TEXT_SIZE])
{
    static const char *const names[] = {"user", "envid", "hold", "deliver_by", "deliver_by_mode", "priority"};
    size_t n = 0;

    for (size_t i = 0; i < COUNT(names); i++) {
        const json_t *value = json_object_get(message, names[i]);
        bool none = value == NULL || json_is_null(value) || (json_is_integer(value) && json_integer_value(value) == 0);
        if (!none) {
            pairs[n] = (struct pair){names[i], ctl_text(message, names[i], buffers[n]), NULL};
            n++;
        }
    }
    return n;
}

void ctl_format_message(const json_t *message, FILE *out)
{
    enum { RARE = 6 };
    char b[8][CTL_TEXT_SIZE], more[RARE][CTL_TEXT_SIZE];
    char *holders = joined(json_object_get(message, "holders"));
    char *flags = joined(json_object_get(message, "flags"));
    const struct pair pairs[] = {
        {"id", ctl_text(message, "id", b[0]), NULL},
        {"sender", sender_text(message), NULL},
        {"size", size_text(message, "size", ctl_terminal(out, NULL), b[1]), NULL},
        {"arrived", ctl_text(message, "arrived", b[2]), NULL},
        {"expires", ctl_text(message, "expires", b[3]), NULL},
        {"accepted_by", ctl_text(message, "accepted_by", b[4]), NULL},
        {"client", ctl_text(message, "client", b[5]), NULL},
        {"holders", holders, NULL},
        {"sequence", ctl_text(message, "sequence", b[6]), NULL},
    };
    struct pair all[COUNT(pairs) + RARE + 1];
    memcpy(all, pairs, sizeof(pairs));
    size_t n = COUNT(pairs) + rare_pairs(message, all + COUNT(pairs), more);
    if (json_array_size(json_object_get(message, "flags")) > 0)
        all[n++] = (struct pair){"flags", flags, NULL};
    print_pairs(all, n, out);
    gap(out);
    print_recipients(message, out);
    free(flags);
    free(holders);
}
