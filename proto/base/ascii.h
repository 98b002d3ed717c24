/* ascii.h - letters without a locale: in mail and DNS only those of ASCII have two cases; octets of UTF-8 stay as they
 * are. Comparing is strcasecmp's: mailraftd sets no locale. Pure. */
#ifndef MR_BASE_ASCII_H
#define MR_BASE_ASCII_H

static inline char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* The whole string, in place; gives it back. */
static inline char *ascii_lower_all(char *text)
{
    for (char *p = text; *p != '\0'; p++)
        *p = ascii_lower(*p);
    return text;
}

#endif
