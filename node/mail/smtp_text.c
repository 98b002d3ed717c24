/* smtp_text.c - each check is one pass over the text. */
#include "node/mail/smtp_text.h"

#include "proto/base/error.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- UTF-8 ---- */

/* Not for addresses and fields: C1 controls, line and paragraph separator, the byte order mark's wrong twin. */
static bool is_refused(uint32_t ch)
{
    return ch < 0xa0 || ch == 0x2028 || ch == 0x2029 || (ch & 0xfffe) == 0xfffe;
}

size_t smtp_utf8_character(const char *p, const char *end)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char lead = (unsigned char)*p;
    size_t n = lead >= 0xf0 && lead < 0xf8 ? 4 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xc2 && lead < 0xe0 ? 2 : 0;
    uint32_t ch = lead & (0x7fU >> n);

    if (n == 0 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        unsigned char next = (unsigned char)p[i];

        if ((next & 0xc0) != 0x80)
            return 0;
        ch = ch << 6 | (next & 0x3fU);
    }
    if (ch < least[n] || ch > 0x10ffff || (ch >= 0xd800 && ch < 0xe000) || is_refused(ch))
        return 0;
    return n;
}

bool smtp_utf8_valid(const char *text, size_t len)
{
    const char *end = text + len;

    while (text < end) {
        unsigned char ch = (unsigned char)*text;
        size_t n = ch < 128 ? ch >= 32 && ch != 127 : smtp_utf8_character(text, end);

        if (n == 0)
            return false;
        text += n;
    }
    return true;
}

bool smtp_has_8bit(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] > 127)
            return true;
    return false;
}

/* ---- xtext ---- */

/* Upper case only, as RFC 3461 has it; lower case is common and means the same. */
static int hex_digit(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'A' && ch <= 'F')
        return ch - 'A' + 10;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* One decoded octet; -1: no xtext. */
static int xtext_octet(const char **at, const char *end)
{
    const char *p = *at;

    if (*p <= 32 || *p >= 127 || *p == '=')
        return -1;
    if (*p != '+') {
        *at = p + 1;
        return *p;
    }
    if (end - p < 3 || hex_digit(p[1]) < 0 || hex_digit(p[2]) < 0)
        return -1;
    *at = p + 3;
    return hex_digit(p[1]) << 4 | hex_digit(p[2]);
}

bool smtp_xtext_valid(const char *text, size_t len)
{
    const char *end = text + len;

    if (len == 0)
        return false;
    while (text < end) {
        int ch = xtext_octet(&text, end);

        if (ch < 32 || ch > 126)
            return false;
    }
    return true;
}

int smtp_xtext_decode(const char *text, size_t len, char *out, size_t cap)
{
    const char *end = text + len;
    size_t n = 0;

    while (text < end) {
        int ch = xtext_octet(&text, end);

        if (ch < 0)
            return MR_MALFORMED;
        if (n + 1 >= cap)
            return MR_LIMIT;
        out[n++] = (char)ch;
    }
    if (cap == 0)
        return MR_LIMIT;
    out[n] = '\0';
    return 0;
}

/* "x{HEX}" behind a backslash; octets eaten, 0: malformed. */
static size_t embedded_character(const char *p, const char *end)
{
    const char *from = p;
    uint32_t ch = 0;
    size_t digits = 0;

    if (end - p < 4 || p[0] != 'x' || p[1] != '{')
        return 0;
    for (p += 2; p < end && hex_digit(*p) >= 0 && digits < 6; digits++)
        ch = ch << 4 | (uint32_t)hex_digit(*p++);
    if (p == end || *p != '}' || digits < 2 || (digits > 2 && from[2] == '0'))
        return 0;
    if (ch == 0 || ch > 0x10ffff || (ch >= 0xd800 && ch < 0xe000) || ch == '\r' || ch == '\n')
        return 0;
    return (size_t)(p + 1 - from);
}

bool smtp_utf8_xtext_valid(const char *text, size_t len, bool raw)
{
    const char *end = text + len;

    if (len == 0)
        return false;
    while (text < end) {
        unsigned char ch = (unsigned char)*text;
        size_t n;

        if (ch > 127) {
            n = raw ? smtp_utf8_character(text, end) : 0;
        } else if (ch == '\\') {
            n = embedded_character(text + 1, end);
            n = n > 0 ? n + 1 : 0;
        } else {
            n = ch > 32 && ch < 127 && ch != '+' && ch != '=';
        }
        if (n == 0)
            return false;
        text += n;
    }
    return true;
}

/* ---- time ---- */

/* n digits, then this character. */
static bool take_number(const char **at, const char *end, size_t n, char then, int *out)
{
    const char *p = *at;

    *out = 0;
    if ((size_t)(end - p) < n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        *out = *out * 10 + (p[i] - '0');
    }
    p += n;
    if (then != '\0' && (p == end || (*p | 32) != (then | 32)))
        return false;
    *at = p + (then != '\0');
    return true;
}

/* "Z" or "+HH:MM", as seconds to take away. */
static bool take_offset(const char **at, const char *end, long *seconds)
{
    const char *p = *at;
    int sign, hours, minutes;

    if (p == end)
        return false;
    sign = *p == '-' ? -1 : 1;
    *seconds = 0;
    *at = ++p;
    if ((p[-1] | 32) == 'z')
        return true;
    if ((p[-1] != '+' && p[-1] != '-') || !take_number(&p, end, 2, ':', &hours) ||
        !take_number(&p, end, 2, 0, &minutes))
        return false;
    *at = p;
    *seconds = sign * (hours * 3600L + minutes * 60L);
    return hours < 24 && minutes < 60;
}

bool smtp_time_parse(const char *text, size_t len, uint64_t *unix_ms)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *end = text + len;
    struct tm tm = {0};
    long offset = 0;
    bool leap;
    time_t t;

    if (!take_number(&text, end, 4, '-', &tm.tm_year) || !take_number(&text, end, 2, '-', &tm.tm_mon) ||
        !take_number(&text, end, 2, 'T', &tm.tm_mday) || !take_number(&text, end, 2, ':', &tm.tm_hour) ||
        !take_number(&text, end, 2, ':', &tm.tm_min) || !take_number(&text, end, 2, '\0', &tm.tm_sec))
        return false;
    if (text < end && *text == '.') {
        text++;
        if (text == end || *text < '0' || *text > '9')
            return false;
        while (text < end && *text >= '0' && *text <= '9')
            text++;
    }
    if (!take_offset(&text, end, &offset) || text != end)
        return false;
    leap = tm.tm_year % 4 == 0 && (tm.tm_year % 100 != 0 || tm.tm_year % 400 == 0);
    if (tm.tm_year < 1970 || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_hour > 23 || tm.tm_min > 59 ||
        tm.tm_sec > 60 || tm.tm_mday > days[tm.tm_mon - 1] + (tm.tm_mon == 2 && leap))
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    t = timegm(&tm) - offset;
    *unix_ms = t > 0 ? (uint64_t)t * 1000 : 0;
    return true;
}

const char *smtp_time_format(uint64_t unix_ms, char text[SMTP_TIME_SIZE])
{
    static const uint64_t last = 253402300799; /* the end of the year 9999 */
    uint64_t seconds = unix_ms / 1000;
    time_t t = (time_t)(seconds < last ? seconds : last);
    struct tm tm;

    gmtime_r(&t, &tm);
    strftime(text, SMTP_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}
