#include "node/mail/mime_encode.h"

#include <string.h>

enum { LINE = 76 };

void mime_encoder_begin(struct mime_encoder *e, mime_out out, void *arg)
{
    memset(e, 0, sizeof(*e));
    e->out = out;
    e->arg = arg;
}

static void hand_out(struct mime_encoder *e)
{
    if (e->n > 0)
        e->out(e->arg, e->line, e->n);
    e->n = 0;
}

static void put(struct mime_encoder *e, const char *text, unsigned len)
{
    if (e->n + len > sizeof(e->line))
        hand_out(e);
    memcpy(e->line + e->n, text, len);
    e->n += len;
    e->column += len;
}

static void line_end(struct mime_encoder *e)
{
    put(e, "\r\n", 2);
    e->column = 0;
}

/* ---- quoted-printable ---- */

/* One character of the result; a soft line break before it where it would not fit with the "=" of the next. Neither the
 * break nor what stands for an octet may make a delimiter: no line begins with "-". */
static void put_quoted(struct mime_encoder *e, const char *text, unsigned len)
{
    if (e->column + len > LINE - 1) {
        put(e, "=", 1);
        line_end(e);
    }
    if (e->column == 0 && text[0] == '-') {
        text = "=2D";
        len = 3;
    }
    put(e, text, len);
}

static void put_hex(struct mime_encoder *e, unsigned char c)
{
    static const char hex[] = "0123456789ABCDEF";
    char text[3] = {'=', hex[c >> 4], hex[c & 15]};
    put_quoted(e, text, 3);
}

static void put_blank(struct mime_encoder *e)
{
    char blank = e->blank;
    e->blank = 0;
    if (blank != 0)
        put_quoted(e, &blank, 1);
}

void mime_quoted(struct mime_encoder *e, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)data[i];
        put_blank(e);
        if (c == ' ' || c == '\t')
            e->blank = (char)c; /* at the end of a line it has to be written as hexadecimal (RFC 2045 6.7 rule 3) */
        else if (c > ' ' && c < 0x7f && c != '=')
            put_quoted(e, &data[i], 1);
        else
            put_hex(e, c);
    }
}

static void blank_at_end(struct mime_encoder *e)
{
    unsigned char blank = (unsigned char)e->blank;
    e->blank = 0;
    if (blank != 0)
        put_hex(e, blank);
}

void mime_quoted_line_end(struct mime_encoder *e)
{
    blank_at_end(e);
    line_end(e);
}

void mime_quoted_end(struct mime_encoder *e)
{
    blank_at_end(e);
    hand_out(e);
    e->column = 0;
}

/* ---- base64 ---- */

static void put_group(struct mime_encoder *e)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = (uint32_t)e->octets[0] << 16 | (uint32_t)e->octets[1] << 8 | e->octets[2];
    char text[4] = {digits[bits >> 18], digits[bits >> 12 & 63], e->n_octets > 1 ? digits[bits >> 6 & 63] : '=',
                    e->n_octets > 2 ? digits[bits & 63] : '='};
    if (e->column == LINE)
        line_end(e);
    put(e, text, 4);
    memset(e->octets, 0, sizeof(e->octets));
    e->n_octets = 0;
}

void mime_base64(struct mime_encoder *e, const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        e->octets[e->n_octets++] = (uint8_t)data[i];
        if (e->n_octets == 3)
            put_group(e);
    }
}

void mime_base64_end(struct mime_encoder *e)
{
    if (e->n_octets > 0)
        put_group(e);
    hand_out(e);
    e->column = 0;
}
