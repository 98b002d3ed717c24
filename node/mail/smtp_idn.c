/* smtp_idn.c - one call of libidn2, with the limits of SMTP around it. */
#include "node/mail/smtp_idn.h"

#include "proto/base/error.h"

#include <idn2.h>
#include <string.h>

int smtp_idn_to_ascii(const char *domain, size_t len, char out[SMTP_MAX_DOMAIN + 1])
{
    uint8_t text[SMTP_MAX_DOMAIN + 1], *ascii = NULL;
    size_t n;
    int rc;

    if (len == 0 || memchr(domain, '\0', len) != NULL)
        return MR_MALFORMED;
    if (len > SMTP_MAX_DOMAIN)
        return MR_LIMIT;
    memcpy(text, domain, len);
    text[len] = '\0';
    /* Non-transitional: "ß" is a letter of its own, as IDNA2008 has it. */
    rc = idn2_lookup_u8(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    if (rc != IDN2_OK)
        return rc == IDN2_TOO_BIG_DOMAIN || rc == IDN2_TOO_BIG_LABEL ? MR_LIMIT : MR_MALFORMED;
    n = strlen((const char *)ascii);
    rc = n == 0 ? MR_MALFORMED : n > SMTP_MAX_DOMAIN ? MR_LIMIT : 0;
    /* Mapping may bring forth what no host name has: a blank, a dot at an end. */
    if (rc == 0 && smtp_domain_parse((const char *)ascii, n) != 0)
        rc = MR_MALFORMED;
    if (rc == 0)
        memcpy(out, ascii, n + 1);
    idn2_free(ascii);
    return rc;
}
