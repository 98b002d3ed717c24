/* smtp_idn.h - domains with U-labels as A-labels (IDNA2008), by libidn2. Pure.
 *
 * Everything that looks a domain up or compares it uses A-labels, so that both ways of writing one name the same.
 * Thread: any. */
#ifndef MR_MAIL_SMTP_IDN_H
#define MR_MAIL_SMTP_IDN_H

#include "node/mail/smtp_address.h"

/* UTF-8 (or ASCII) in, A-labels with a zero byte out. MR_MALFORMED: IDNA allows no such domain. MR_LIMIT: its A-labels
 * are too long. */
int smtp_idn_to_ascii(const char *domain, size_t len, char out[SMTP_MAX_DOMAIN + 1]);

#endif
