/* Header lines are unfolded into one buffer and looked at when the next begins. In a bounce, the body's lines go the
 * same way: the report's fields and the returned header of the original have the form of headers. */
#include "client/sink_message.h"

#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void sink_message_init(struct sink_message *m)
{
    m->hash = XXH3_createState();
    mr_assert(m->hash != NULL);
    sink_message_reset(m);
}

void sink_message_free(struct sink_message *m)
{
    (void)XXH3_freeState(m->hash);
    free(m->reports);
}

void sink_message_reset(struct sink_message *m)
{
    m->bytes = 0;
    m->body_bytes = 0;
    m->in_body = false;
    m->has_sum = false;
    m->dsn = false;
    m->key[0] = '\0';
    m->claimed[0] = '\0';
    m->id[0] = '\0';
    m->original_key[0] = '\0';
    m->original_id[0] = '\0';
    m->sum[0] = '\0';
    m->report_count = 0;
    memset(&m->report, 0, sizeof(m->report));
    (void)XXH3_128bits_reset(m->hash);
    m->header_len = 0;
    m->header_full = false;
    m->line_start = true;
    m->fold_pending = false;
}

static void copy_value(char *out, size_t size, const char *value, size_t len)
{
    while (len > 0 && isspace((unsigned char)value[len - 1]))
        len--;
    if (len >= size)
        len = size - 1;
    memcpy(out, value, len);
    out[len] = '\0';
}

/* Value of the header when it has this name, NULL when not. */
static const char *named(const char *header, size_t len, const char *name, size_t *value_len)
{
    size_t n = strlen(name);

    if (len <= n || header[n] != ':' || strncasecmp(header, name, n) != 0)
        return NULL;
    n++;
    while (n < len && isspace((unsigned char)header[n]))
        n++;
    *value_len = len - n;
    return header + n;
}

/* "... id 01HXYZ...;" (RFC 5321 section 4.4): ours has MR_ID_TEXT characters, other servers' ids are passed over. */
static void find_id(const char *value, size_t len, char out[MR_ID_TEXT + 1])
{
    static const char separators[] = " \t\r\n;,()<>";
    bool after_id = false;
    size_t at = 0;

    while (at < len) {
        if (strchr(separators, value[at]) != NULL) {
            at++;
            continue;
        }
        size_t end = at;
        while (end < len && strchr(separators, value[end]) == NULL)
            end++;
        struct mr_id id;
        if (after_id && mr_id_parse(value + at, end - at, &id) == 0) {
            (void)mr_id_format(id, out);
            return;
        }
        after_id = end - at == 2 && strncasecmp(value + at, "id", 2) == 0;
        at = end;
    }
}

static void find_dsn(struct sink_message *m, const char *value, size_t len)
{
    char text[512];

    copy_value(text, sizeof(text), value, len);
    if (strncasecmp(text, "multipart/report", 16) == 0 && strcasestr(text, "delivery-status") != NULL)
        m->dsn = true;
}

static void take_header(struct sink_message *m, const char *h, size_t len)
{
    size_t n = 0;
    const char *value;

    if ((value = named(h, len, "X-Load-Key", &n)) != NULL) {
        copy_value(m->key, sizeof(m->key), value, n);
    } else if ((value = named(h, len, "X-Load-Sum", &n)) != NULL) {
        copy_value(m->claimed, sizeof(m->claimed), value, n);
        for (char *c = m->claimed; *c != '\0'; c++)
            *c = (char)tolower((unsigned char)*c);
        m->has_sum = true;
    } else if (m->id[0] == '\0' && (value = named(h, len, "Received", &n)) != NULL) {
        find_id(value, n, m->id);
    } else if ((value = named(h, len, "Content-Type", &n)) != NULL) {
        find_dsn(m, value, n);
    }
}

static void close_report(struct sink_message *m)
{
    if (m->report.recipient[0] != '\0' && m->report_count < MESSAGE_REPORTS_MAX) {
        if (m->reports == NULL)
            m->reports = mr_calloc(MESSAGE_REPORTS_MAX, sizeof(*m->reports));
        m->reports[m->report_count++] = m->report;
    }
    memset(&m->report, 0, sizeof(m->report));
}

/* A line of a bounce's body; an empty one ends a recipient's group. */
static void take_report_line(struct sink_message *m, const char *h, size_t len)
{
    size_t n = 0;
    const char *value;

    if (len == 0) {
        close_report(m);
    } else if ((value = named(h, len, "Final-Recipient", &n)) != NULL) {
        const char *type = memchr(value, ';', n);
        if (type != NULL) {
            n -= (size_t)(type + 1 - value);
            value = type + 1;
        }
        while (n > 0 && isspace((unsigned char)*value)) {
            value++;
            n--;
        }
        copy_value(m->report.recipient, sizeof(m->report.recipient), value, n);
    } else if ((value = named(h, len, "Action", &n)) != NULL) {
        copy_value(m->report.action, sizeof(m->report.action), value, n);
    } else if ((value = named(h, len, "Status", &n)) != NULL) {
        copy_value(m->report.status, sizeof(m->report.status), value, n);
    } else if (m->original_key[0] == '\0' && (value = named(h, len, "X-Load-Key", &n)) != NULL) {
        copy_value(m->original_key, sizeof(m->original_key), value, n);
    } else if (m->original_id[0] == '\0' && (value = named(h, len, "Received", &n)) != NULL) {
        find_id(value, n, m->original_id);
    }
}

static void take_unfolded(struct sink_message *m)
{
    size_t len = m->header_len;

    while (len > 0 && (m->header[len - 1] == '\r' || m->header[len - 1] == '\n'))
        len--;
    if (m->in_body)
        take_report_line(m, m->header, len);
    else if (len > 0)
        take_header(m, m->header, len);
    m->header_len = 0;
    m->header_full = false;
    m->fold_pending = false;
}

static void keep(struct sink_message *m, const char *bytes, size_t len)
{
    size_t room = sizeof(m->header) - m->header_len;

    if (m->header_full)
        return;
    if (len > room) {
        m->header_full = true;
        len = room;
    }
    memcpy(m->header + m->header_len, bytes, len);
    m->header_len += len;
}

/* Is what was kept of the line only its end? */
static bool blank_line(const struct sink_message *m)
{
    return (m->header_len == 1 && m->header[0] == '\n') ||
           (m->header_len == 2 && m->header[0] == '\r' && m->header[1] == '\n');
}

/* Takes bytes up to the end of a line; returns how many. Sets in_body behind the blank line. */
static size_t take_line(struct sink_message *m, const char *bytes, size_t len)
{
    if (m->fold_pending && m->line_start && bytes[0] != ' ' && bytes[0] != '\t')
        take_unfolded(m);
    const char *lf = memchr(bytes, '\n', len);
    size_t n = lf != NULL ? (size_t)(lf - bytes) + 1 : len;
    keep(m, bytes, n);
    m->line_start = lf != NULL;
    if (lf == NULL)
        return n;
    m->fold_pending = true;
    if (blank_line(m)) {
        take_unfolded(m);
        m->in_body = true;
    }
    return n;
}

void sink_message_take(void *arg, const char *bytes, size_t len)
{
    struct sink_message *m = arg;

    m->bytes += len;
    while (len > 0 && !m->in_body) {
        size_t n = take_line(m, bytes, len);
        bytes += n;
        len -= n;
    }
    if (len == 0)
        return;
    m->body_bytes += len;
    (void)XXH3_128bits_update(m->hash, bytes, len);
    while (m->dsn && len > 0) {
        size_t n = take_line(m, bytes, len);
        bytes += n;
        len -= n;
    }
}

void sink_message_end(struct sink_message *m)
{
    if (m->header_len > 0 && (!m->in_body || m->dsn))
        take_unfolded(m);
    if (m->dsn)
        close_report(m);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(m->hash));
    for (size_t i = 0; i < sizeof(canonical.digest); i++)
        (void)snprintf(m->sum + 2 * i, 3, "%02x", canonical.digest[i]);
}

bool sink_message_intact(const struct sink_message *m)
{
    return m->has_sum && strcmp(m->sum, m->claimed) == 0;
}

void sink_message_describe(const struct sink_message *m, struct journal_line *line)
{
    if (m->key[0] != '\0')
        journal_text(line, "key", m->key);
    if (m->has_sum)
        journal_bool(line, "sum_ok", sink_message_intact(m));
    journal_string(line, "sum", m->sum, MESSAGE_SUM_TEXT);
    journal_number(line, "size", m->body_bytes);
    journal_number(line, "message_size", m->bytes);
    if (m->id[0] != '\0')
        journal_text(line, "message_id", m->id);
    if (!m->dsn)
        return;
    journal_bool(line, "dsn", true);
    if (m->original_key[0] != '\0')
        journal_text(line, "original_key", m->original_key);
    if (m->original_id[0] != '\0')
        journal_text(line, "original_id", m->original_id);
    journal_list_begin(line, "reports");
    for (size_t i = 0; i < m->report_count; i++) {
        journal_object_begin(line, NULL);
        journal_text(line, "recipient", m->reports[i].recipient);
        journal_text(line, "action", m->reports[i].action);
        journal_text(line, "status", m->reports[i].status);
        journal_object_end(line);
    }
    journal_list_end(line);
}
