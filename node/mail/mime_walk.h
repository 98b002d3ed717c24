/* mime_walk.h - walks through the structure of a message: header fields, contents, delimiters (RFC 2046 section 5.1).
 *
 * Used by mime_convert.c for both of its passes. The visitor is told each octet once and in order, as what it is: all
 * `data`, one after the other, is the message again. A line ends with CR LF only; a lone CR or LF is content.
 * Memory: one struct, whatever comes. Thread: any. */
#ifndef MR_MAIL_MIME_WALK_H
#define MR_MAIL_MIME_WALK_H

#include "node/mail/mime_field.h"

#include <stdint.h>

enum {
    MIME_MAX_DEPTH = 32,        /* multiparts and messages in each other */
    MIME_MAX_PARTS = 10000,     /* in one message */
    MIME_MAX_FIELD = 16 * 1024, /* octets of Content-Type or Content-Transfer-Encoding; others may have any length */
    MIME_LINE = 2048,           /* a longer line is told in pieces */
};

enum mime_field_kind { MIME_FIELD_OTHER, MIME_FIELD_TYPE, MIME_FIELD_ENCODING, MIME_FIELD_VERSION };

struct mime_part {
    uint32_t number; /* in the order in which they begin, from 0 */
    enum mime_kind kind;
    enum mime_encoding encoding;
    bool has_type, has_encoding, has_version;
    bool is_message; /* the message itself or one in it, so that MIME-Version belongs to its header */
};

struct mime_visitor {
    /* A piece of a field of the current part's header. first: it begins the field. */
    void (*field)(void *arg, enum mime_field_kind which, const char *data, size_t len, bool first);
    /* The part's header is read. The empty line behind it, if there is one, comes as `frame`. */
    void (*header_end)(void *arg, const struct mime_part *p);
    /* Content of a leaf. line_end: data is a CR LF. */
    void (*content)(void *arg, const char *data, size_t len, bool line_end);
    void (*content_end)(void *arg);
    /* Delimiters, with the line end before them, and empty lines behind headers. */
    void (*frame)(void *arg, const char *data, size_t len);
    /* Before the first and behind the last part of a multipart, where nobody looks. */
    void (*between)(void *arg, const char *data, size_t len);
    void *arg;
};

struct mime_frame {
    char boundary[MIME_MAX_BOUNDARY + 1];
    size_t len;
    bool digest;
    unsigned depth;
};

struct mime_walk {
    const struct mime_visitor *visitor;
    struct mime_part part;
    uint32_t parts;
    unsigned n_frames;
    unsigned depth; /* of the current part */
    bool digest;    /* its default type is message/rfc822 */
    enum { WALK_HEADER, WALK_LEAF, WALK_BETWEEN } where;
    const char *error; /* static text: all that follows is content of one leaf */

    size_t line_len;
    bool line_began; /* line[0] is the first octet of a line */
    bool held;       /* a line end that belongs to a delimiter, should one come */

    bool in_field;
    enum mime_field_kind field;
    size_t value_len;
    struct mime_type type;

    /* Not set at the beginning: of each only so much is read as was written. */
    struct mime_frame frames[MIME_MAX_DEPTH];
    char line[MIME_LINE];
    char value[MIME_MAX_FIELD];
};

/* The visitor is the caller's and stays. */
void mime_walk_begin(struct mime_walk *w, const struct mime_visitor *visitor);
void mime_walk_feed(struct mime_walk *w, const char *data, size_t len);
void mime_walk_end(struct mime_walk *w);

#endif
