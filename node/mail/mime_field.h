/* mime_field.h - the two header fields of MIME that say how a body is to be read (RFC 2045 sections 5 and 6). Pure.
 *
 * Reads leniently, as mail programs write: comments, folding, quoted or bare values, any case. Thread: any. */
#ifndef MR_MAIL_MIME_FIELD_H
#define MR_MAIL_MIME_FIELD_H

#include <stdbool.h>
#include <stddef.h>

enum { MIME_MAX_BOUNDARY = 200 /* RFC 2046 allows 70 */ };

enum mime_kind {
    MIME_TEXT,       /* text/anything, and what has no Content-Type */
    MIME_MULTIPART,  /* with a boundary */
    MIME_RFC822,     /* message/rfc822: a header follows */
    MIME_MESSAGE,    /* message/partial and message/external-body: must not be encoded (RFC 2046 5.2.2, 5.2.3) */
    MIME_OTHER,      /* all that is opaque */
    MIME_UNREADABLE, /* a multipart without a boundary that could be used */
};
struct mime_type {
    enum mime_kind kind;
    bool digest; /* multipart/digest: its parts are message/rfc822 by default */
    char boundary[MIME_MAX_BOUNDARY + 1];
    size_t boundary_len;
};
/* The value of Content-Type, with its folding. What cannot be read is text, as RFC 2045 5.2 has it. */
void mime_type_parse(const char *value, size_t len, struct mime_type *out);

enum mime_encoding { MIME_7BIT, MIME_8BIT, MIME_BINARY, MIME_QUOTED, MIME_BASE64, MIME_UNKNOWN };
enum mime_encoding mime_encoding_parse(const char *value, size_t len);

#endif
