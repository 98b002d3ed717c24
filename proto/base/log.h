/* log.h - one line an event on stderr, JSON or text.
 *
 * Every line has "time" (RFC 3339), "level", "event", "node"; the rest are the event's own fields, in the order given.
 * Lines of several threads never mix. A reader of stderr who does not keep up costs lines, not time (stderr_line.h):
 * they are counted, and the next one that goes is preceded by `log_lines_lost` with their `count`. Thread:
 * log_configure before any thread starts; the rest any. */
#ifndef MR_BASE_LOG_H
#define MR_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *name;
    enum { LOG_FIELD_STRING, LOG_FIELD_NUMBER, LOG_FIELD_BOOL, LOG_FIELD_REAL, LOG_FIELD_NONE } kind;
    const char *string; /* NULL: the field is left out */
    size_t len;         /* of string; SIZE_MAX: up to its zero byte */
    int64_t number;
    double real;
};

#define LOG_S(n, s) ((struct log_field){.name = (n), .kind = LOG_FIELD_STRING, .string = (s), .len = SIZE_MAX})
#define LOG_SN(n, s, l)                                                                                                \
    ((struct log_field){.name = (n), .kind = LOG_FIELD_STRING, .string = (const char *)(s), .len = (l)})
#define LOG_N(n, v) ((struct log_field){.name = (n), .kind = LOG_FIELD_NUMBER, .number = (int64_t)(v)})
#define LOG_B(n, v) ((struct log_field){.name = (n), .kind = LOG_FIELD_BOOL, .number = (v)})
#define LOG_R(n, v) ((struct log_field){.name = (n), .kind = LOG_FIELD_REAL, .real = (v)})

/* node: copied. */
void log_configure(enum log_level level, bool json, const char *node);
/* A reload; any thread, while others log. */
void log_reconfigure(enum log_level level, bool json);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t count);

/* Lines that stderr did not take, ever. */
uint64_t log_lines_lost(void);

/* log_event(LOG_INFO, "accepted", LOG_S("id", id), LOG_N("size", n)); bytes that are not UTF-8 are escaped. */
#define log_event(level, event, ...)                                                                                   \
    do {                                                                                                               \
        if (log_enabled(level)) {                                                                                      \
            const struct log_field log_fields_[] = {__VA_ARGS__};                                                      \
            log_write(level, event, log_fields_, sizeof(log_fields_) / sizeof(log_fields_[0]));                        \
        }                                                                                                              \
    } while (0)

#endif
