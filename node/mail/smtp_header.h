/* smtp_header.h - looks through a message's header as it passes by: how often it was relayed (RFC 5321 section 6.3),
 * which fields a submitted message lacks (RFC 6409 section 8), where they may be put, and whether it needs more than
 * ASCII. Pure, incremental.
 *
 * H1: how the text is cut into pieces makes no difference. H2: nothing of the text is kept but a few octets.
 * H3: the header ends with the first empty line; its fields may end before, at a line that is none. Thread: any. */
#ifndef MR_MAIL_SMTP_HEADER_H
#define MR_MAIL_SMTP_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum smtp_field {
    FIELD_MESSAGE_ID = 1,
    FIELD_DATE = 2,
    FIELD_FROM = 4,
    FIELD_SENDER = 8,
    FIELD_PARTS = 16, /* Content-Type: multipart/... or message/...: there are headers in the body */
};

struct smtp_header {
    unsigned received;   /* Received fields */
    unsigned seen;       /* enum smtp_field */
    bool eight_bit;      /* an octet over 127 in the header */
    bool ended;          /* the empty line was seen */
    bool fields_ended;   /* and where the fields end: */
    bool empty_line;     /* at an empty line */
    uint64_t fields_end; /* octets of text before the line that is no field */
    uint64_t octets;     /* looked at */
    uint64_t line;       /* where the current line begins */
    enum { HEADER_LINE_START, HEADER_NAME, HEADER_BLANK, HEADER_VALUE, HEADER_OTHER } state;
    char name[16], value[12]; /* lower case; of the field being read */
    unsigned name_len, value_len;
};

/* Text with CR LF line ends, after a memset to 0. Returns octets looked at: all, or up to and with the empty line. */
size_t smtp_header_feed(struct smtp_header *h, const uint8_t *text, size_t len);

/* An octet over 127? */
bool smtp_text_is_8bit(const uint8_t *text, size_t len);

#endif
