/* smtp_text.h - the ways in which text travels inside SMTP's parameters: UTF-8 (RFC 3629), xtext (RFC 3461 section 4)
 * and the UTF-8 in xtext of RFC 6533 section 3, and RFC 3339's time. Pure.
 *
 * Thread: any. */
#ifndef MR_MAIL_SMTP_TEXT_H
#define MR_MAIL_SMTP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Octets of the UTF-8 character at p that is not ASCII; 0: malformed, overlong, a surrogate, or a control or line
 * separator that no address or header may hold. */
size_t smtp_utf8_character(const char *p, const char *end);
/* ASCII and UTF-8 as above. */
bool smtp_utf8_valid(const char *text, size_t len);
bool smtp_has_8bit(const char *text, size_t len);

/* xtext that decodes to printable ASCII; empty: false. */
bool smtp_xtext_valid(const char *text, size_t len);
/* Decodes "+XX"; out has room for cap octets and gets a zero byte. MR_MALFORMED, MR_LIMIT. */
int smtp_xtext_decode(const char *text, size_t len, char *out, size_t cap);
/* utf-8-addr-xtext or utf-8-addr-unitext ("\x{HEX}" for what is not in it); raw UTF-8 only with raw. */
bool smtp_utf8_xtext_valid(const char *text, size_t len, bool raw);

/* date-time of RFC 3339 section 5.6, between 1970 and 9999. */
bool smtp_time_parse(const char *text, size_t len, uint64_t *unix_ms);
enum { SMTP_TIME_SIZE = sizeof("9999-12-31T23:59:59Z") };
/* In UTC. Returns text. */
const char *smtp_time_format(uint64_t unix_ms, char text[SMTP_TIME_SIZE]);

#endif
