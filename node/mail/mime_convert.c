#include "node/mail/mime_convert.h"

#include "node/mail/mime_walk.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is done with a part. */
enum action {
    KEEP,
    LABEL_7BIT, /* only the name of its encoding changes */
    LABEL_8BIT,
    QUOTE,
    BASE64,
    MEND_QUOTED, /* quoted-printable with octets in it that it may not have: they are written as hexadecimal */
    MEND_BASE64, /* base64 with such: '*' instead, which readers leave out too */
};

struct mime_plan {
    enum mime_target target;
    uint32_t n, size;
    uint8_t *actions; /* by part */
};

void mime_plan_free(struct mime_plan *p)
{
    if (p == NULL)
        return;
    free(p->actions);
    free(p);
}

static enum action planned(const struct mime_plan *p, uint32_t part)
{
    return part < p->n ? (enum action)p->actions[part] : KEEP;
}

static void plan(struct mime_plan *p, uint32_t part, enum action action)
{
    if (part >= p->size) {
        uint32_t size = (part + 8) * 2;
        p->actions = mr_realloc(p->actions, size);
        memset(p->actions + p->size, KEEP, size - p->size);
        p->size = size;
    }
    p->actions[part] = (uint8_t)action;
    if (part >= p->n)
        p->n = part + 1;
}

static bool eight_bit(const char *data, size_t len)
{
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t word;
        memcpy(&word, data + i, 8);
        if (word & 0x8080808080808080ULL)
            return true;
    }
    for (; i < len; i++)
        if ((unsigned char)data[i] >= 0x80)
            return true;
    return false;
}

/* ---- the scan ---- */

struct mime_scan {
    struct mime_walk walk;
    struct mime_visitor visitor;
    struct mime_plan *plan;
    struct mime_found found;
    struct mime_part part;
    bool eight, binary, long_line; /* of the current leaf */
    size_t column;
};

static void scan_field(void *arg, enum mime_field_kind which, const char *data, size_t len, bool first)
{
    struct mime_scan *s = arg;
    (void)which;
    (void)first;
    s->found.eight_bit_header = s->found.eight_bit_header || eight_bit(data, len);
}

/* The name of an encoding that the target does not have. */
static enum action label(const struct mime_scan *s, enum mime_encoding encoding, bool eight)
{
    if (encoding != MIME_8BIT && encoding != MIME_BINARY)
        return KEEP;
    if (s->plan->target == MIME_TARGET_8BIT)
        return encoding == MIME_8BIT ? KEEP : eight ? LABEL_8BIT : LABEL_7BIT;
    return LABEL_7BIT;
}

static void scan_header_end(void *arg, const struct mime_part *p)
{
    struct mime_scan *s = arg;
    s->part = *p;
    s->eight = s->binary = s->long_line = false;
    s->column = 0;
    bool composite = p->kind == MIME_MULTIPART || p->kind == MIME_RFC822;
    plan(s->plan, p->number, composite ? label(s, p->encoding, true) : KEEP);
}

static void scan_content(void *arg, const char *data, size_t len, bool line_end)
{
    struct mime_scan *s = arg;
    if (line_end) {
        s->column = 0;
        return;
    }
    s->column += len;
    s->long_line = s->long_line || s->column > MIME_MAX_TEXT_LINE;
    s->eight = s->eight || eight_bit(data, len);
    s->binary =
        s->binary || memchr(data, 0, len) != NULL || memchr(data, '\r', len) != NULL || memchr(data, '\n', len) != NULL;
}

static void refuse(struct mime_scan *s, const char *why)
{
    if (s->found.why_not == NULL)
        s->found.why_not = why;
}

/* The leaf cannot go as it is. */
static enum action choose(struct mime_scan *s)
{
    switch (s->part.encoding) {
    case MIME_QUOTED:
        return MEND_QUOTED;
    case MIME_BASE64:
        return MEND_BASE64;
    case MIME_UNKNOWN:
        refuse(s, "a part has an encoding that is not known");
        return KEEP;
    default:
        break;
    }
    if (s->part.kind == MIME_MESSAGE)
        refuse(s, "a message/partial or message/external-body must not be encoded");
    else if (s->part.kind == MIME_UNREADABLE)
        refuse(s, "a multipart has no boundary");
    return s->part.kind == MIME_TEXT ? QUOTE : BASE64;
}

static void scan_content_end(void *arg)
{
    struct mime_scan *s = arg;
    bool binary = s->binary || (s->long_line && s->part.encoding == MIME_BINARY);
    bool real = binary || (s->eight && s->plan->target == MIME_TARGET_7BIT);

    s->found.eight_bit = s->found.eight_bit || s->eight;
    s->found.convert = s->found.convert || real;
    if (s->walk.error != NULL)
        return; /* its part's header was perhaps never read */
    plan(s->plan, s->part.number, real ? choose(s) : label(s, s->part.encoding, s->eight));
}

static void scan_frame(void *arg, const char *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
}

static void scan_between(void *arg, const char *data, size_t len)
{
    struct mime_scan *s = arg;
    bool eight = eight_bit(data, len);
    s->found.eight_bit = s->found.eight_bit || eight;
    s->found.convert = s->found.convert || (eight && s->plan->target == MIME_TARGET_7BIT);
}

struct mime_scan *mime_scan_open(enum mime_target target)
{
    struct mime_scan *s = mr_malloc(sizeof(*s));
    s->found = (struct mime_found){0};
    s->part = (struct mime_part){0};
    s->eight = s->binary = s->long_line = false;
    s->column = 0;
    s->plan = mr_calloc(1, sizeof(*s->plan));
    s->plan->target = target;
    s->visitor =
        (struct mime_visitor){scan_field, scan_header_end, scan_content, scan_content_end, scan_frame, scan_between, s};
    mime_walk_begin(&s->walk, &s->visitor);
    return s;
}

void mime_scan_feed(struct mime_scan *s, const char *data, size_t len)
{
    mime_walk_feed(&s->walk, data, len);
}

struct mime_found mime_scan_end(struct mime_scan *s, struct mime_plan **plan_out)
{
    mime_walk_end(&s->walk);
    struct mime_found found = s->found;
    if (s->walk.error != NULL)
        found.why_not = s->walk.error;
    if (!found.convert)
        found.why_not = NULL;
    *plan_out = s->plan;
    free(s);
    return found;
}

void mime_scan_abort(struct mime_scan *s)
{
    if (s == NULL)
        return;
    mime_plan_free(s->plan);
    free(s);
}

/* ---- the conversion ---- */

struct mime_convert {
    struct mime_walk walk;
    struct mime_visitor visitor;
    const struct mime_plan *plan;
    mime_out out;
    void *arg;
    struct mime_encoder encoder;
    enum action action; /* of the current leaf */
    bool named;         /* the encoding's field of this part was written */
    size_t column;      /* MEND_QUOTED */
};

static void write_text(struct mime_convert *c, const char *text)
{
    c->out(c->arg, text, strlen(text));
}

static const char *encoding_field(enum action action)
{
    switch (action) {
    case LABEL_7BIT:
        return "Content-Transfer-Encoding: 7bit\r\n";
    case LABEL_8BIT:
        return "Content-Transfer-Encoding: 8bit\r\n";
    case QUOTE:
        return "Content-Transfer-Encoding: quoted-printable\r\n";
    case BASE64:
        return "Content-Transfer-Encoding: base64\r\n";
    default:
        return NULL;
    }
}

static void convert_field(void *arg, enum mime_field_kind which, const char *data, size_t len, bool first)
{
    struct mime_convert *c = arg;
    const char *instead = which == MIME_FIELD_ENCODING ? encoding_field(planned(c->plan, c->walk.part.number)) : NULL;
    if (instead == NULL) {
        c->out(c->arg, data, len);
    } else if (first && !c->named) { /* further ones would contradict it: they go */
        c->named = true;
        write_text(c, instead);
    }
}

static void convert_header_end(void *arg, const struct mime_part *p)
{
    struct mime_convert *c = arg;
    c->action = planned(c->plan, p->number);
    const char *field = encoding_field(c->action);
    if (field != NULL && !p->has_version && p->is_message)
        write_text(c, "MIME-Version: 1.0\r\n");
    if (c->action == QUOTE && !p->has_type)
        write_text(c, "Content-Type: text/plain; charset=unknown-8bit\r\n"); /* RFC 1428 section 3 */
    if (field != NULL && !c->named)
        write_text(c, field);
    c->named = false;
    c->column = 0;
    mime_encoder_begin(&c->encoder, c->out, c->arg);
}

/* What stands for an octet may be part of a boundary, and make a delimiter of a line that was none: then a part that
 * nobody has seen before would begin there. So a line in which one is replaced begins with no "-". */
static bool may_be_delimiter(const struct mime_convert *c, const char *data, size_t len)
{
    return c->walk.line_began && len > 0 && data[0] == '-';
}

static void mend_quoted(struct mime_convert *c, const char *data, size_t len)
{
    enum { SOFT_AT = 900 }; /* no line may come over 998; readers take longer ones than 76 */
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)data[i];
        if (b < 0x80 && b != 0 && b != '\r' && b != '\n')
            continue;
        char hex[8];
        if (from == 0 && may_be_delimiter(c, data, len)) {
            write_text(c, "=2D");
            c->column += 3;
            from = 1;
        }
        c->out(c->arg, data + from, i - from);
        c->column += i - from + 3;
        if (c->column > SOFT_AT)
            write_text(c, "=\r\n");
        c->column = c->column > SOFT_AT ? 3 : c->column;
        (void)snprintf(hex, sizeof(hex), "=%02X", b);
        write_text(c, hex);
        from = i + 1;
    }
    c->out(c->arg, data + from, len - from);
    c->column += len - from;
}

/* To leave them out here could bring together what is a delimiter then. */
static void mend_base64(struct mime_convert *c, const char *data, size_t len)
{
    size_t from = 0;
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)data[i];
        if (b < 0x7f && b >= ' ')
            continue;
        if (from == 0 && may_be_delimiter(c, data, len)) {
            c->out(c->arg, "*", 1);
            from = 1;
        }
        if (i > from)
            c->out(c->arg, data + from, i - from);
        c->out(c->arg, "*", 1);
        from = i + 1;
    }
    if (len > from)
        c->out(c->arg, data + from, len - from);
}

static void convert_content(void *arg, const char *data, size_t len, bool line_end)
{
    struct mime_convert *c = arg;
    if (line_end)
        c->column = 0;
    switch (c->action) {
    case QUOTE:
        if (line_end)
            mime_quoted_line_end(&c->encoder);
        else
            mime_quoted(&c->encoder, data, len);
        break;
    case BASE64:
        mime_base64(&c->encoder, data, len);
        break;
    case MEND_QUOTED:
    case MEND_BASE64:
        if (line_end)
            c->out(c->arg, data, len);
        else if (c->action == MEND_QUOTED)
            mend_quoted(c, data, len);
        else
            mend_base64(c, data, len);
        break;
    default:
        c->out(c->arg, data, len);
        break;
    }
}

static void convert_content_end(void *arg)
{
    struct mime_convert *c = arg;
    if (c->action == QUOTE)
        mime_quoted_end(&c->encoder);
    else if (c->action == BASE64)
        mime_base64_end(&c->encoder);
    c->action = KEEP;
}

static void convert_frame(void *arg, const char *data, size_t len)
{
    struct mime_convert *c = arg;
    c->out(c->arg, data, len);
}

static void convert_between(void *arg, const char *data, size_t len)
{
    struct mime_convert *c = arg;
    if (c->plan->target == MIME_TARGET_8BIT || !eight_bit(data, len)) {
        c->out(c->arg, data, len);
        return;
    }
    for (size_t i = 0; i < len; i++) { /* there is no encoding for what is no part */
        bool replace = (unsigned char)data[i] >= 0x80 || (i == 0 && may_be_delimiter(c, data, len));
        c->out(c->arg, replace ? "?" : &data[i], 1);
    }
}

struct mime_convert *mime_convert_open(const struct mime_plan *p, mime_out out, void *arg)
{
    struct mime_convert *c = mr_malloc(sizeof(*c));
    c->plan = p;
    c->out = out;
    c->arg = arg;
    c->action = KEEP;
    c->named = false;
    c->column = 0;
    c->visitor = (struct mime_visitor){
        convert_field, convert_header_end, convert_content, convert_content_end, convert_frame, convert_between, c};
    mime_walk_begin(&c->walk, &c->visitor);
    return c;
}

void mime_convert_feed(struct mime_convert *c, const char *data, size_t len)
{
    mime_walk_feed(&c->walk, data, len);
}

int mime_convert_end(struct mime_convert *c)
{
    mime_walk_end(&c->walk);
    int rc = c->walk.error != NULL || c->walk.parts < c->plan->n ? MR_MALFORMED : 0;
    free(c);
    return rc;
}

void mime_convert_abort(struct mime_convert *c)
{
    free(c);
}
