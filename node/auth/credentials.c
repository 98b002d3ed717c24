/* credentials.c - a short list: smarthosts are few, and one is looked up for each connection only. */
#include "node/auth/credentials.h"

#include "node/auth/text_file.h"
#include "proto/base/memory.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct credential {
    char *host, *user, *password;
    uint16_t port; /* 0: any */
};

struct credentials {
    struct credential *at;
    size_t n, cap;
};

/* "host", "host:port", "[v6]", "[v6]:port" -> host without brackets. False: not of that form. */
static bool split_host(char *text, char **host, uint16_t *port)
{
    char *colon, *end;
    unsigned long n;

    *host = text;
    *port = 0;
    if (text[0] == '[') {
        end = strchr(text, ']');
        if (end == NULL || end == text + 1 || (end[1] != '\0' && end[1] != ':'))
            return false;
        *host = text + 1;
        *end = '\0';
        colon = end[1] == ':' ? end + 1 : NULL;
    } else {
        colon = strchr(text, ':');
        if (colon == text)
            return false;
    }
    if (colon == NULL)
        return true;
    *colon = '\0';
    n = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || n == 0 || n > UINT16_MAX)
        return false;
    *port = (uint16_t)n;
    return true;
}

/* What is wrong with a line; NULL: nothing. */
static const char *read_line(void *arg, char *line)
{
    struct credentials *c = arg;
    static const char blanks[] = " \t";
    size_t len = strlen(line);
    char *save = NULL;
    char *host, *user, *password;
    uint16_t port;

    if (len > 0 && line[len - 1] == '\r')
        line[len - 1] = '\0';
    line += strspn(line, blanks);
    if (line[0] == '\0' || line[0] == '#')
        return NULL;
    host = strtok_r(line, blanks, &save);
    user = strtok_r(NULL, blanks, &save);
    password = save != NULL ? save + strspn(save, blanks) : NULL;
    if (user == NULL || password == NULL || password[0] == '\0')
        return "has to be: host[:port] user password";
    if (!split_host(host, &host, &port))
        return "the first word has to be a host or host:port";
    if (strlen(password) >= CREDENTIAL_MAX)
        return "the password is too long";
    if (c->n >= CREDENTIALS_MAX)
        return "too many lines";
    for (size_t i = 0; i < c->n; i++)
        if (c->at[i].port == port && strcasecmp(c->at[i].host, host) == 0 && strcmp(c->at[i].user, user) == 0)
            return "a second line for this host and user";
    if (c->n == c->cap) {
        c->cap = c->cap == 0 ? 8 : c->cap * 2;
        c->at = mr_realloc(c->at, c->cap * sizeof(c->at[0]));
    }
    c->at[c->n++] = (struct credential){mr_strdup(host), mr_strdup(user), mr_strdup(password), port};
    return NULL;
}

int credentials_parse(struct credentials **out, const char *name, char *text, size_t len, char *error, size_t error_len)
{
    struct credentials *c = mr_calloc(1, sizeof(*c));
    int rc = text_file_lines(name, text, len, read_line, c, error, error_len);

    if (rc != 0) {
        credentials_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

int credentials_load(struct credentials **out, const char *path, char *error, size_t error_len)
{
    char *text;
    size_t len;
    int rc = text_file_read(path, true, &text, &len, error, error_len);

    if (rc != 0)
        return rc;
    rc = credentials_parse(out, path, text, len, error, error_len);
    OPENSSL_cleanse(text, len);
    free(text);
    return rc;
}

void credentials_free(struct credentials *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < c->n; i++) {
        OPENSSL_cleanse(c->at[i].password, strlen(c->at[i].password));
        free(c->at[i].host);
        free(c->at[i].user);
        free(c->at[i].password);
    }
    free(c->at);
    free(c);
}

const char *credentials_find(const struct credentials *c, const char *host, uint16_t port, const char *user)
{
    const char *any = NULL;

    for (size_t i = 0; i < c->n; i++) {
        const struct credential *e = &c->at[i];

        if (strcasecmp(e->host, host) != 0 || strcmp(e->user, user) != 0)
            continue;
        if (e->port == port)
            return e->password;
        if (e->port == 0)
            any = e->password;
    }
    return any;
}
