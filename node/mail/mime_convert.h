/* mime_convert.h - takes a message down to what a next hop can carry: eight-bit content to seven bits, binary content
 * to lines (RFC 6152 section 3, RFC 3030 section 3). Pure.
 *
 * Two passes over the same octets, in pieces of any size. mime_scan_* reads and writes down, part by part, what has to
 * change, so that it is known before MAIL whether anything has to and whether it can be done; mime_convert_* writes the
 * converted message by that plan. Text becomes quoted-printable, all else base64; the fields that name the encoding are
 * replaced or added, everything else stays octet by octet.
 *
 * Multiparts are walked by their boundaries, message/rfc822 is walked inside. multipart/signed is converted like any
 * other, as Postfix does: its content is to be seven-bit to begin with (RFC 1847 2.1), so that a signature breaks only
 * where the signer took no care, and the text still arrives. Headers are not converted (RFC 6152 speaks of bodies
 * only); whether they hold octets over 127 is told.
 * M1: memory is bounded by the limits of mime_walk.h, whatever comes. M2: output is a function of the octets, not of
 * how they were cut. Thread: any; one struct a message and pass. */
#ifndef MR_MAIL_MIME_CONVERT_H
#define MR_MAIL_MIME_CONVERT_H

#include "node/mail/mime_encode.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MIME_MAX_TEXT_LINE = 998 /* longer lines of what is declared binary are binary content (RFC 2045 2.8) */ };

enum mime_target {
    MIME_TARGET_7BIT, /* for a next hop without 8BITMIME */
    MIME_TARGET_8BIT, /* with 8BITMIME, but not BINARYMIME: only binary content changes */
};

struct mime_plan; /* by part, in the order in which they begin */
void mime_plan_free(struct mime_plan *p);

struct mime_found {
    bool eight_bit;        /* content with octets over 127 */
    bool eight_bit_header; /* of the message or a part */
    bool convert;          /* something has to change for the target */
    const char *why_not;   /* it cannot be done: why (static text); NULL: it can */
};

struct mime_scan;
struct mime_scan *mime_scan_open(enum mime_target target);
void mime_scan_feed(struct mime_scan *s, const char *data, size_t len);
/* Ends the scan and frees it. *plan is the caller's, for any number of conversions of the same octets. */
struct mime_found mime_scan_end(struct mime_scan *s, struct mime_plan **plan);
void mime_scan_abort(struct mime_scan *s);

struct mime_convert;
/* plan stays the caller's and has to outlive the conversion. */
struct mime_convert *mime_convert_open(const struct mime_plan *plan, mime_out out, void *arg);
void mime_convert_feed(struct mime_convert *c, const char *data, size_t len);
/* The rest goes out; frees. MR_MALFORMED: these were not the octets that were scanned. */
int mime_convert_end(struct mime_convert *c);
void mime_convert_abort(struct mime_convert *c);

#endif
