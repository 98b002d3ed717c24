/* One line is built in memory and written as one; jansson escapes strings. */
#include "proto/base/log.h"

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/stderr_line.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    atomic_int level; /* a reload changes these two while threads log */
    atomic_bool json;
    char node[128];
} config = {LOG_INFO, true, ""};

static _Atomic uint64_t lines_lost, lines_untold;

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_configure(enum log_level level, bool json, const char *node)
{
    log_reconfigure(level, json);
    (void)snprintf(config.node, sizeof(config.node), "%s", node);
}

void log_reconfigure(enum log_level level, bool json)
{
    atomic_store_explicit(&config.level, (int)level, memory_order_relaxed);
    atomic_store_explicit(&config.json, json, memory_order_relaxed);
}

bool log_enabled(enum log_level level)
{
    return (int)level >= atomic_load_explicit(&config.level, memory_order_relaxed);
}

/* Bytes that are no UTF-8 stand as \xNN in the text. */
static json_t *string_value(const char *s, size_t len)
{
    json_t *value = json_stringn(s, len);
    if (value != NULL)
        return value;
    char *escaped = mr_malloc(len * 4 + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x80)
            n += (size_t)snprintf(escaped + n, 5, "\\x%02x", c);
        else
            escaped[n++] = (char)c;
    }
    value = json_stringn(escaped, n);
    free(escaped);
    return value;
}

static json_t *field_value(const struct log_field *f)
{
    switch (f->kind) {
    case LOG_FIELD_STRING:
        return f->string == NULL ? NULL : string_value(f->string, f->len == SIZE_MAX ? strlen(f->string) : f->len);
    case LOG_FIELD_NUMBER:
        return json_integer(f->number);
    case LOG_FIELD_BOOL:
        return json_boolean(f->number != 0);
    case LOG_FIELD_REAL:
        return json_real(f->real);
    case LOG_FIELD_NONE:
        break;
    }
    return NULL;
}

/* Returns the line with its end, to be freed. NULL: there is none. */
static char *text_of(const json_t *object, size_t *len)
{
    char *line = NULL;
    FILE *out = open_memstream(&line, len);
    if (out == NULL)
        return NULL;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool head = strcmp(key, "time") == 0 || strcmp(key, "level") == 0 || strcmp(key, "event") == 0;
        if (!head)
            (void)fprintf(out, "%s=", key);
        if (json_is_string(value) && (head || strpbrk(json_string_value(value), " \"=\n\r\t") == NULL))
            (void)fputs(json_string_value(value), out);
        else
            (void)json_dumpf(value, out, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        (void)fputc(' ', out);
    }
    (void)fclose(out);
    line[*len - 1] = '\n';
    return line;
}

static char *json_of(const json_t *object, size_t *len)
{
    char *line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6));
    if (line == NULL)
        return NULL;
    *len = strlen(line);
    line[(*len)++] = '\n'; /* in place of its zero byte */
    return line;
}

static char *make_line(enum log_level level, const char *event, const struct log_field *fields, size_t count,
                       size_t *len)
{
    char time[MR_RFC3339_SIZE];
    json_t *object = json_object();
    json_object_set_new(object, "time", json_string(mr_rfc3339(mr_wall_ms(&mr_clock_real), time)));
    json_object_set_new(object, "level", json_string(level_names[level]));
    json_object_set_new(object, "event", json_string(event));
    json_object_set_new(object, "node", json_string(config.node));
    for (size_t i = 0; i < count; i++) {
        json_t *value = field_value(&fields[i]);
        if (value != NULL)
            json_object_set_new(object, fields[i].name, value);
    }
    char *line = atomic_load_explicit(&config.json, memory_order_relaxed) ? json_of(object, len) : text_of(object, len);
    json_decref(object);
    return line;
}

/* Puts the line that tells of lost ones before it. */
static char *tell_lost(uint64_t lost, char *line, size_t *len)
{
    const struct log_field fields[] = {LOG_N("count", lost)};
    size_t first_len;
    char *first = make_line(LOG_WARN, "log_lines_lost", fields, 1, &first_len);
    if (first == NULL)
        return line;
    first = mr_realloc(first, first_len + *len);
    memcpy(first + first_len, line, *len);
    *len += first_len;
    free(line);
    return first;
}

uint64_t log_lines_lost(void)
{
    return atomic_load_explicit(&lines_lost, memory_order_relaxed);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count)
{
    size_t len;
    char *line = make_line(level, event, fields, count, &len);
    if (line == NULL)
        return;
    uint64_t lost = atomic_exchange_explicit(&lines_untold, 0, memory_order_relaxed);
    if (lost > 0)
        line = tell_lost(lost, line, &len);
    if (!stderr_line(line, len)) {
        atomic_fetch_add_explicit(&lines_untold, lost + 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&lines_lost, 1, memory_order_relaxed);
    }
    free(line);
}
