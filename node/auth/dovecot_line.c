/* dovecot_line.c - a line into its parts. */
#include "node/auth/dovecot_line.h"

#include "proto/base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *word;
    enum dovecot_command command;
    bool number, text; /* which come first, in this order */
} commands[] = {
    {"VERSION", DOVECOT_VERSION, true, false}, {"MECH", DOVECOT_MECH, false, true},
    {"DONE", DOVECOT_DONE, false, false},      {"OK", DOVECOT_OK, true, false},
    {"FAIL", DOVECOT_FAIL, true, false},       {"CONT", DOVECOT_CONT, true, true},
};

/* Cuts off the next part; NULL: there is none. */
static char *next_part(char **rest)
{
    char *part = *rest;
    char *tab;

    if (part == NULL)
        return NULL;
    tab = strchr(part, '\t');
    if (tab != NULL)
        *tab++ = '\0';
    *rest = tab;
    return part;
}

/* "\0010" is a zero byte, which no value of ours may hold. False: it does. */
static bool unescape(char *text)
{
    char *out = text;

    for (const char *p = text; *p != '\0'; p++) {
        char ch = *p;

        if (ch == '\001') {
            switch (*++p) {
            case '\0':
            case '0':
                return false;
            case '1':
                ch = '\001';
                break;
            case 't':
                ch = '\t';
                break;
            case 'r':
                ch = '\r';
                break;
            case 'l':
                ch = '\n';
                break;
            default:
                ch = *p;
                break;
            }
        }
        *out++ = ch;
    }
    *out = '\0';
    return true;
}

static bool read_number(const char *text, uint32_t *out)
{
    unsigned long n;
    char *end;

    if (text == NULL || text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    n = strtoul(text, &end, 10);
    *out = (uint32_t)n;
    return *end == '\0' && errno == 0 && n <= UINT32_MAX;
}

static bool take_parameter(struct dovecot_line *l, char *part)
{
    if (!unescape(part))
        return false;
    if (strncmp(part, "user=", 5) == 0)
        l->user = part + 5;
    else if (strcmp(part, "temp") == 0 || strcmp(part, "code=temp_fail") == 0)
        l->temporary = true;
    else if (strcmp(part, "private") == 0)
        l->hidden = true;
    return true;
}

int dovecot_line_parse(char *line, size_t len, struct dovecot_line *out)
{
    char *rest = line;
    char *word, *part;
    size_t i;

    *out = (struct dovecot_line){.command = DOVECOT_OTHER};
    if (len > DOVECOT_LINE_MAX || memchr(line, '\0', len) != NULL)
        return MR_MALFORMED;
    word = next_part(&rest);
    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(word, commands[i].word) == 0)
            break;
    if (i == sizeof(commands) / sizeof(commands[0]))
        return 0;
    out->command = commands[i].command;
    if (commands[i].number && !read_number(next_part(&rest), &out->number))
        return MR_MALFORMED;
    if (commands[i].text) {
        out->text = next_part(&rest);
        /* CONT without data is an empty challenge. */
        if (out->text == NULL && out->command != DOVECOT_CONT)
            return MR_MALFORMED;
        if (out->text == NULL)
            out->text = "";
    }
    while (out->command != DOVECOT_VERSION && (part = next_part(&rest)) != NULL)
        if (!take_parameter(out, part))
            return MR_MALFORMED;
    return 0;
}
