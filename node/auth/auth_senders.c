/* auth_senders.c - lines sorted by user; a user's own are found by halving. */
#include "node/auth/auth_senders.h"

#include "node/auth/auth_file.h"
#include "node/auth/sasl.h"
#include "node/auth/text_file.h"
#include "node/mail/smtp_idn.h"
#include "node/mail/smtp_text.h"
#include "proto/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct sender {
    char *user, *pattern; /* "a@b", "@b" */
};

struct auth_senders {
    struct sender *at;
    size_t n, cap;
};

static int by_user(const void *a, const void *b)
{
    return strcmp(((const struct sender *)a)->user, ((const struct sender *)b)->user);
}

char *auth_sender_ascii(const char *address)
{
    const char *at = strrchr(address, '@');
    char domain[SMTP_MAX_DOMAIN + 1];

    if (at == NULL || !smtp_has_8bit(at + 1, strlen(at + 1)))
        return mr_strdup(address);
    if (smtp_idn_to_ascii(at + 1, strlen(at + 1), domain) != 0)
        return NULL;
    return mr_asprintf("%.*s@%s", (int)(at - address), address, domain);
}

/* What is wrong with a line; NULL: nothing. */
static const char *read_line(void *arg, char *line)
{
    struct auth_senders *s = arg;
    static const char blanks[] = " \t\r";
    char *save = NULL;
    char *user, *pattern;

    if (strlen(line) > AUTH_SENDER_LINE_MAX)
        return "the line is too long";
    user = strtok_r(line, blanks, &save);
    if (user == NULL || user[0] == '#')
        return NULL;
    pattern = strtok_r(NULL, blanks, &save);
    if (pattern == NULL || strchr(pattern, '@') == NULL || pattern[strlen(pattern) - 1] == '@' ||
        strtok_r(NULL, blanks, &save) != NULL)
        return "has to be: user address, or: user @domain";
    if (s->n >= AUTH_SENDERS_MAX)
        return "too many lines";
    user = auth_prepare(user, SASL_USER_MAX);
    if (user == NULL)
        return "the name of the user is not usable";
    pattern = auth_sender_ascii(pattern);
    if (pattern == NULL) {
        free(user);
        return "not a domain of internationalized names";
    }
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 16 : s->cap * 2;
        s->at = mr_realloc(s->at, s->cap * sizeof(s->at[0]));
    }
    s->at[s->n++] = (struct sender){user, pattern};
    return NULL;
}

int auth_senders_parse(struct auth_senders **out, const char *name, char *text, size_t len, char *error,
                       size_t error_len)
{
    struct auth_senders *s = mr_calloc(1, sizeof(*s));
    int rc = text_file_lines(name, text, len, read_line, s, error, error_len);

    if (rc != 0) {
        auth_senders_free(s);
        return rc;
    }
    if (s->n > 0)
        qsort(s->at, s->n, sizeof(s->at[0]), by_user);
    *out = s;
    return 0;
}

int auth_senders_load(struct auth_senders **out, const char *path, char *error, size_t error_len)
{
    char *text;
    size_t len;
    int rc = text_file_read(path, false, &text, &len, error, error_len);

    if (rc != 0)
        return rc;
    rc = auth_senders_parse(out, path, text, len, error, error_len);
    free(text);
    return rc;
}

void auth_senders_free(struct auth_senders *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n; i++) {
        free(s->at[i].user);
        free(s->at[i].pattern);
    }
    free(s->at);
    free(s);
}

bool auth_senders_allow(const struct auth_senders *s, const char *user, const char *address)
{
    const char *domain = strrchr(address, '@');
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(s->at[middle].user, user) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < s->n && strcmp(s->at[low].user, user) == 0; low++) {
        const char *pattern = s->at[low].pattern;

        if (strcasecmp(pattern, address) == 0 ||
            (pattern[0] == '@' && domain != NULL && strcasecmp(pattern, domain) == 0))
            return true;
    }
    return false;
}
