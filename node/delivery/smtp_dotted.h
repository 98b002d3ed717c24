/* smtp_dotted.h - a message as DATA carries it (RFC 5321 sections 2.3.8 and 4.5.2): each line ends with CR LF, a dot
 * that begins a line is doubled, the last line has its end. Pure, in pieces of any size.
 *
 * What lies in the spool may have come by BDAT, which stuffs no dots and asks for no line end at the end, or as binary
 * content. So a lone LF becomes CR LF and a lone CR a space: no server can find an end of data in it that we did not
 * mean (CVE-2023-51764 and its kin, seen from the sending side). Thread: any. */
#ifndef MR_DELIVERY_SMTP_DOTTED_H
#define MR_DELIVERY_SMTP_DOTTED_H

#include <stdbool.h>
#include <stddef.h>

struct smtp_dotted {
    bool stuff;      /* dots are doubled; false for BDAT, which counts octets instead */
    bool line_start; /* the next octet begins a line */
    bool cr;         /* a CR was read and not yet written */
};

void smtp_dotted_begin(struct smtp_dotted *d, bool stuff);
/* *out of *out_len octets is to be written: data itself where nothing has to change, else what is returned, which the
 * caller frees (NULL: nothing to free). */
char *smtp_dotted_feed(struct smtp_dotted *d, const char *data, size_t len, const char **out, size_t *out_len);
/* What completes the last line; "" if nothing. Static text. */
const char *smtp_dotted_end(struct smtp_dotted *d);

#endif
