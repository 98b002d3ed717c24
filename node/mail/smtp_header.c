/* smtp_header.c - octet by octet through the names of fields, by memchr through their values.
 *
 * LINE_START --name octet--> NAME --':'--> VALUE --LF--> LINE_START
 * NAME --blank--> BLANK (RFC 5322 section 4.5: obsolete, but seen) --':'--> VALUE
 * what is no field --> OTHER --LF--> LINE_START; LINE_START --blank--> VALUE (folded), --CR LF--> the end */
#include "node/mail/smtp_header.h"

#include "proto/base/ascii.h"

#include <string.h>

bool smtp_text_is_8bit(const uint8_t *text, size_t len)
{
    uint64_t all = 0;
    size_t i = 0;

    for (; i + 32 <= len; i += 32) {
        uint64_t w[4];

        memcpy(w, text + i, sizeof(w));
        all |= w[0] | w[1] | w[2] | w[3];
    }
    for (; i < len; i++)
        all |= text[i];
    return (all & 0x8080808080808080U) != 0;
}

static bool name_is(const struct smtp_header *h, const char *name)
{
    size_t n = strlen(name);

    return h->name_len == n && memcmp(h->name, name, n) == 0;
}

/* The colon was seen. */
static void take_name(struct smtp_header *h)
{
    static const struct {
        const char *name;
        unsigned field;
    } fields[] = {
        {"message-id", FIELD_MESSAGE_ID}, {"date", FIELD_DATE}, {"from", FIELD_FROM}, {"sender", FIELD_SENDER}};

    if (name_is(h, "received") && h->received < UINT32_MAX)
        h->received++;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (name_is(h, fields[i].name))
            h->seen |= fields[i].field;
    h->value_len = name_is(h, "content-type") ? 0 : sizeof(h->value);
    h->state = HEADER_VALUE;
}

static void take_content_type(struct smtp_header *h)
{
    if (h->value_len < 8)
        return;
    if (memcmp(h->value, "message/", 8) == 0 || (h->value_len >= 10 && memcmp(h->value, "multipart/", 10) == 0))
        h->seen |= FIELD_PARTS;
}

static void fields_end(struct smtp_header *h, bool empty_line)
{
    if (h->fields_ended)
        return;
    h->fields_ended = true;
    h->empty_line = empty_line;
    h->fields_end = h->line;
}

static void no_field(struct smtp_header *h)
{
    fields_end(h, false);
    h->state = HEADER_OTHER;
}

static void begin_line(struct smtp_header *h, uint8_t ch)
{
    if (ch == '\r')
        return; /* the reader before us lets no bare one through: LF comes */
    if (ch == ' ' || ch == '\t') {
        if (h->line == 0 || h->fields_ended)
            no_field(h);
        else
            h->state = HEADER_VALUE;
        return;
    }
    h->name_len = 0;
    h->value_len = sizeof(h->value);
    h->state = HEADER_NAME;
}

static void take_name_octet(struct smtp_header *h, uint8_t ch)
{
    if (ch == ':' && h->name_len > 0) {
        take_name(h);
    } else if ((ch == ' ' || ch == '\t') && h->name_len > 0) {
        h->state = HEADER_BLANK;
    } else if (ch > 32 && ch < 127 && ch != ':') {
        if (h->name_len < sizeof(h->name))
            h->name[h->name_len] = ascii_lower((char)ch);
        if (h->name_len <= sizeof(h->name)) /* a longer one is none that we know */
            h->name_len++;
    } else {
        no_field(h);
    }
}

static void take_octet(struct smtp_header *h, uint8_t ch)
{
    if (ch == '\n') {
        if (h->state == HEADER_LINE_START) {
            fields_end(h, true);
            h->ended = true;
        } else if (h->state == HEADER_NAME || h->state == HEADER_BLANK) {
            no_field(h);
        }
        h->state = HEADER_LINE_START;
        h->line = h->octets + 1;
        return;
    }
    if (h->state == HEADER_LINE_START)
        begin_line(h, ch);
    if (h->state == HEADER_NAME) {
        take_name_octet(h, ch);
    } else if (h->state == HEADER_BLANK && ch == ':') {
        take_name(h);
    } else if (h->state == HEADER_BLANK && ch != ' ' && ch != '\t') {
        no_field(h);
    } else if (h->state == HEADER_VALUE && h->value_len < sizeof(h->value) && ch > 32) {
        h->value[h->value_len++] = ascii_lower((char)ch);
        take_content_type(h);
    }
}

/* Nothing of the rest of the line is of interest. */
static bool may_skip(const struct smtp_header *h)
{
    return h->state == HEADER_OTHER || (h->state == HEADER_VALUE && h->value_len == sizeof(h->value));
}

size_t smtp_header_feed(struct smtp_header *h, const uint8_t *text, size_t len)
{
    size_t i = 0;

    while (i < len && !h->ended) {
        if (may_skip(h)) {
            const uint8_t *lf = memchr(text + i, '\n', len - i);
            size_t n = lf != NULL ? (size_t)(lf - text) - i : len - i;

            h->octets += n;
            i += n;
            if (lf == NULL)
                break;
        }
        take_octet(h, text[i++]);
        h->octets++;
    }
    h->eight_bit = h->eight_bit || smtp_text_is_8bit(text, i);
    return i;
}
