/* mime_walk.c - octets -> pieces of lines (take) -> header, content or delimiter. */
#include "node/mail/mime_walk.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

static void begin_part(struct mime_walk *w, bool is_message)
{
    w->part = (struct mime_part){.number = w->parts++, .encoding = MIME_7BIT, .is_message = is_message};
    w->where = WALK_HEADER;
    w->in_field = false;
    w->held = false;
    w->type.kind = MIME_TEXT;
    if (w->parts > MIME_MAX_PARTS)
        w->error = "the message has too many parts";
}

/* ---- header ---- */

static void field_done(struct mime_walk *w)
{
    if (w->in_field && w->field == MIME_FIELD_TYPE && !w->part.has_type) {
        w->part.has_type = true;
        mime_type_parse(w->value, w->value_len, &w->type);
    } else if (w->in_field && w->field == MIME_FIELD_ENCODING && !w->part.has_encoding) {
        w->part.has_encoding = true;
        w->part.encoding = mime_encoding_parse(w->value, w->value_len);
    }
    w->in_field = false;
}

/* Length of the field's name with its colon; 0: no field begins here. */
static size_t name_len(const char *text, size_t len, size_t *name)
{
    size_t i = 0;
    while (i < len && (unsigned char)text[i] > ' ' && (unsigned char)text[i] < 0x7f && text[i] != ':')
        i++;
    *name = i;
    while (i < len && (text[i] == ' ' || text[i] == '\t'))
        i++; /* RFC 5322 4.5 */
    return *name > 0 && i < len && text[i] == ':' ? i + 1 : 0;
}

static enum mime_field_kind kind_of(const char *name, size_t len)
{
    static const struct {
        const char *name;
        enum mime_field_kind kind;
    } fields[] = {{"Content-Type", MIME_FIELD_TYPE},
                  {"Content-Transfer-Encoding", MIME_FIELD_ENCODING},
                  {"MIME-Version", MIME_FIELD_VERSION}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (len == strlen(fields[i].name) && strncasecmp(name, fields[i].name, len) == 0)
            return fields[i].kind;
    return MIME_FIELD_OTHER;
}

static void add_value(struct mime_walk *w, const char *text, size_t len)
{
    if (w->field != MIME_FIELD_TYPE && w->field != MIME_FIELD_ENCODING)
        return;
    if (w->value_len + len > sizeof(w->value)) {
        w->error = "a header field is too long";
        return;
    }
    memcpy(w->value + w->value_len, text, len);
    w->value_len += len;
}

/* A piece of a header line; false: it is none. */
static bool header_piece(struct mime_walk *w, const char *text, size_t len, bool began, bool ended)
{
    bool first = false;
    size_t skip = 0, name;

    if (began && len > 0 && text[0] != ' ' && text[0] != '\t') {
        field_done(w);
        skip = name_len(text, len, &name);
        if (skip == 0)
            return false;
        w->in_field = first = true;
        w->field = kind_of(text, name);
        w->part.has_version = w->part.has_version || w->field == MIME_FIELD_VERSION;
        w->value_len = 0;
    }
    if (!w->in_field)
        return false;
    add_value(w, text + skip, len - skip);
    if (ended)
        add_value(w, "\r\n", 2);
    w->visitor->field(w->visitor->arg, w->field, text, len + (ended ? 2 : 0), first);
    return true;
}

static bool composite(const struct mime_walk *w)
{
    return (w->type.kind == MIME_MULTIPART || w->type.kind == MIME_RFC822) &&
           (w->part.encoding == MIME_7BIT || w->part.encoding == MIME_8BIT || w->part.encoding == MIME_BINARY);
}

static void header_done(struct mime_walk *w)
{
    field_done(w);
    if (!w->part.has_type && w->digest)
        w->type.kind = MIME_RFC822;
    if (!composite(w) && (w->type.kind == MIME_MULTIPART || w->type.kind == MIME_RFC822))
        w->type.kind = MIME_OTHER; /* encoded, though RFC 2045 6.4 forbids it: opaque */
    w->part.kind = w->type.kind;
    w->visitor->header_end(w->visitor->arg, &w->part);
}

/* The empty line was told: what comes now? */
static void enter_body(struct mime_walk *w)
{
    bool deeper = w->part.kind == MIME_MULTIPART || w->part.kind == MIME_RFC822;
    w->where = WALK_LEAF;
    if (deeper && (w->depth >= MIME_MAX_DEPTH || w->n_frames >= MIME_MAX_DEPTH)) {
        w->error = "the message is nested too deeply";
    } else if (w->part.kind == MIME_MULTIPART) {
        struct mime_frame *f = &w->frames[w->n_frames++];
        memcpy(f->boundary, w->type.boundary, w->type.boundary_len);
        f->len = w->type.boundary_len;
        f->digest = w->type.digest;
        f->depth = w->depth;
        w->where = WALK_BETWEEN;
    } else if (w->part.kind == MIME_RFC822) {
        w->depth++;
        w->digest = false;
        begin_part(w, true);
    }
}

/* ---- delimiters ---- */

/* Which multipart's delimiter this line is, the innermost first; -1: none. */
static int delimiter(const struct mime_walk *w, const char *text, size_t len, bool *last)
{
    if (len < 3 || text[0] != '-' || text[1] != '-')
        return -1;
    for (int i = (int)w->n_frames - 1; i >= 0; i--) {
        const struct mime_frame *f = &w->frames[i];
        size_t at = 2 + f->len;
        if (len < at || memcmp(text + 2, f->boundary, f->len) != 0)
            continue;
        *last = len >= at + 2 && text[at] == '-' && text[at + 1] == '-';
        at += *last ? 2 : 0;
        while (at < len && (text[at] == ' ' || text[at] == '\t'))
            at++;
        if (at == len)
            return i;
    }
    return -1;
}

static void on_delimiter(struct mime_walk *w, unsigned level, bool last, const char *text, size_t len)
{
    const struct mime_visitor *v = w->visitor;
    if (w->where == WALK_HEADER) {
        header_done(w); /* a part without a body */
    } else if (w->where == WALK_LEAF) {
        v->content_end(v->arg);
        if (w->held)
            v->frame(v->arg, "\r\n", 2);
    }
    w->held = false;
    v->frame(v->arg, text, len);
    w->n_frames = last ? level : level + 1;
    w->depth = w->frames[level].depth;
    if (last) {
        w->where = WALK_BETWEEN;
        return;
    }
    w->depth++;
    w->digest = w->frames[level].digest;
    begin_part(w, false);
}

/* ---- lines ---- */

static void content(struct mime_walk *w, const char *text, size_t len, bool ended)
{
    const struct mime_visitor *v = w->visitor;
    if (w->held)
        v->content(v->arg, "\r\n", 2, true);
    if (len > 0)
        v->content(v->arg, text, len, false);
    w->held = ended;
}

/* A line or a piece of one; text[len] and the next octet are CR LF if it ended. */
static void take(struct mime_walk *w, const char *text, size_t len, bool began, bool ended, bool whole)
{
    const struct mime_visitor *v = w->visitor;
    size_t all = len + (ended ? 2 : 0);
    bool last;

    if (w->error == NULL && began && whole) {
        int level = delimiter(w, text, len, &last);
        if (level >= 0) {
            on_delimiter(w, (unsigned)level, last, text, all);
            return;
        }
    }
    if (w->error == NULL && w->where == WALK_BETWEEN) {
        v->between(v->arg, text, all);
        return;
    }
    if (w->error == NULL && w->where == WALK_HEADER) {
        if (began && len == 0 && ended) {
            header_done(w);
            v->frame(v->arg, text, all);
            enter_body(w);
            return;
        }
        if (all == 0 || header_piece(w, text, len, began, ended))
            return;
        w->error = "a header is malformed";
    }
    w->where = WALK_LEAF;
    content(w, text, len, ended);
}

void mime_walk_begin(struct mime_walk *w, const struct mime_visitor *visitor)
{
    memset(w, 0, offsetof(struct mime_walk, frames));
    w->visitor = visitor;
    w->line_began = true;
    begin_part(w, true);
}

void mime_walk_feed(struct mime_walk *w, const char *data, size_t len)
{
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t n = end == NULL ? len : (size_t)(end - data) + 1;
        size_t room = sizeof(w->line) - w->line_len;
        n = n > room ? room : n;
        memcpy(w->line + w->line_len, data, n);
        w->line_len += n;
        data += n;
        len -= n;
        bool ended = w->line_len >= 2 && memcmp(w->line + w->line_len - 2, "\r\n", 2) == 0;
        if (ended) {
            take(w, w->line, w->line_len - 2, w->line_began, true, true);
            w->line_len = 0;
            w->line_began = true;
        } else if (w->line_len == sizeof(w->line)) {
            size_t keep = w->line[w->line_len - 1] == '\r'; /* its LF may come yet */
            take(w, w->line, w->line_len - keep, w->line_began, false, false);
            w->line[0] = '\r';
            w->line_len = keep;
            w->line_began = false;
        }
    }
}

void mime_walk_end(struct mime_walk *w)
{
    const struct mime_visitor *v = w->visitor;
    if (w->line_len > 0)
        take(w, w->line, w->line_len, w->line_began, false, true);
    w->line_len = 0;
    if (w->error == NULL && w->where == WALK_HEADER)
        header_done(w);
    if (w->where != WALK_LEAF)
        return;
    if (w->held)
        v->content(v->arg, "\r\n", 2, true);
    w->held = false;
    v->content_end(v->arg);
}
