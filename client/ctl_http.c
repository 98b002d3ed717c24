/* Happy path: get -> take (each piece, into memory or the file) -> judge the status code. An answer that is no 200 is
 * always gathered in memory: it holds the reason. */
#include "client/ctl_http.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { REASON_MAX = 512, URL_MAX = 8192, REFUSAL_MAX = 64 << 10 };

struct ctl_http {
    CURL *curl;
    struct curl_slist *headers;
    char *base; /* without a slash at its end */
    char curl_error[CURL_ERROR_SIZE];
    char error[REASON_MAX + CURL_ERROR_SIZE];
    FILE *copy; /* NULL: into memory */
    bool copy_failed, too_large;
    char *body;
    size_t len;
};

/* ---- open, close ---- */

static int read_token(const char *path, char token[CTL_TOKEN_MAX + 2])
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        (void)fprintf(stderr, "mailraftctl: %s: %s\n", path, strerror(errno));
        return MR_IO;
    }
    size_t n = fread(token, 1, CTL_TOKEN_MAX + 1, file);
    bool failed = ferror(file) != 0;
    (void)fclose(file);
    token[n] = '\0';
    token[strcspn(token, "\r\n")] = '\0';
    bool usable = !failed && n <= CTL_TOKEN_MAX && token[0] != '\0';
    for (const char *p = token; *p != '\0'; p++)
        usable = usable && (unsigned char)*p > ' ' && *p != 0x7f;
    if (usable)
        return 0;
    (void)fprintf(stderr, "mailraftctl: %s: has to hold one line of 1 to %d printable characters\n", path,
                  CTL_TOKEN_MAX);
    return MR_INVAL;
}

static size_t take(char *data, size_t size, size_t count, void *arg)
{
    struct ctl_http *h = arg;
    size_t n = size * count;
    long code = 0;

    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &code);
    if (h->copy != NULL && code == 200) {
        h->copy_failed = fwrite(data, 1, n, h->copy) != n;
        return h->copy_failed ? 0 : n;
    }
    if (h->len + n > (code == 200 ? (size_t)CTL_ANSWER_MAX : REFUSAL_MAX)) {
        h->too_large = true;
        return 0;
    }
    h->body = mr_realloc(h->body, h->len + n + 1);
    memcpy(h->body + h->len, data, n);
    h->len += n;
    h->body[h->len] = '\0';
    return n;
}

static void set_up(struct ctl_http *h)
{
    /* Values that libcurl cannot refuse. */
    (void)curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, take);
    (void)curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    (void)curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, h->curl_error);
    (void)curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(h->curl, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT, (long)CTL_CONNECT_S);
    (void)curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    (void)curl_easy_setopt(h->curl, CURLOPT_LOW_SPEED_TIME, (long)CTL_SILENCE_S);
    (void)curl_easy_setopt(h->curl, CURLOPT_USERAGENT, "mailraftctl/" MAILRAFT_VERSION);
    (void)curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, h->headers);
}

static char *base_of(const char *server)
{
    char *base = strstr(server, "://") != NULL ? mr_strdup(server) : mr_asprintf("http://%s", server);
    size_t len = strlen(base);

    while (len > 0 && base[len - 1] == '/')
        base[--len] = '\0';
    return base;
}

int ctl_http_open(struct ctl_http **out, const char *server, const char *token_file)
{
    char token[CTL_TOKEN_MAX + 2];

    if (strstr(server, "://") != NULL && strncmp(server, "http://", 7) != 0 && strncmp(server, "https://", 8) != 0) {
        (void)fprintf(stderr, "mailraftctl: %s: has to begin with http:// or https://\n", server);
        return MR_INVAL;
    }
    if (token_file != NULL) {
        int rc = read_token(token_file, token);
        if (rc != 0)
            return rc;
    }
    struct ctl_http *h = mr_calloc(1, sizeof(*h));
    CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
    mr_assert(code == CURLE_OK);
    h->curl = curl_easy_init();
    mr_assert(h->curl != NULL);
    h->base = base_of(server);
    if (token_file != NULL) {
        char *line = mr_asprintf("Authorization: Bearer %s", token);
        h->headers = curl_slist_append(NULL, line);
        mr_assert(h->headers != NULL);
        free(line);
    }
    set_up(h);
    *out = h;
    return 0;
}

void ctl_http_close(struct ctl_http *h)
{
    if (h == NULL)
        return;
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->headers);
    curl_global_cleanup();
    free(h->base);
    free(h->body);
    free(h);
}

void ctl_http_limit(struct ctl_http *h, long milliseconds)
{
    (void)curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS, milliseconds);
}

const char *ctl_http_error(const struct ctl_http *h)
{
    return h->error;
}

/* ---- get ---- */

__attribute__((format(printf, 3, 4))) static int fail(struct ctl_http *h, int rc, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(h->error, sizeof(h->error), format, args);
    va_end(args);
    return rc;
}

/* The node's own words, {"error": "..."}; else the number. */
static int refused(struct ctl_http *h, long code)
{
    json_t *answer = h->len == 0 ? NULL : json_loadb(h->body, h->len, 0, NULL);
    const char *reason = json_string_value(json_object_get(answer, "error"));
    int rc = code == 404 ? MR_NOTFOUND : code == 503 ? MR_UNREACHABLE : MR_REFUSED;

    if (reason == NULL)
        rc = fail(h, rc == MR_NOTFOUND ? MR_REFUSED : rc, "%s answers %ld: is that a mailraft node?", h->base, code);
    else if (code == 401)
        rc = fail(h, rc, "%s refuses: %.*s (--token-file FILE)", h->base, REASON_MAX, reason);
    else
        rc = fail(h, rc, "%.*s", REASON_MAX, reason);
    json_decref(answer);
    return rc;
}

static int not_got(struct ctl_http *h, CURLcode failure)
{
    const char *why = h->curl_error[0] != '\0' ? h->curl_error : curl_easy_strerror(failure);

    if (h->copy_failed)
        return fail(h, MR_IO, "the output cannot be written: %s", strerror(errno));
    if (h->too_large)
        return fail(h, MR_MALFORMED, "%s answers more than is good", h->base);
    if (failure == CURLE_URL_MALFORMAT || failure == CURLE_UNSUPPORTED_PROTOCOL)
        return fail(h, MR_INVAL, "%s is not an address of a node: %s", h->base, why);
    return fail(h, MR_UNREACHABLE,
                "%s does not answer: %s\n(another node may: --server http://HOST:PORT, or MAILRAFT_SERVER)", h->base,
                why);
}

static int get(struct ctl_http *h, const char *path, FILE *copy)
{
    char url[URL_MAX];
    long code = 0;

    h->copy = copy;
    h->copy_failed = h->too_large = false;
    h->len = 0;
    h->curl_error[0] = '\0';
    int n = snprintf(url, sizeof(url), "%s%s", h->base, path);
    if (n < 0 || (size_t)n >= sizeof(url))
        return fail(h, MR_LIMIT, "the filters are longer than %d characters together", URL_MAX);
    (void)curl_easy_setopt(h->curl, CURLOPT_URL, url);
    CURLcode rc = curl_easy_perform(h->curl);
    (void)curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &code);
    if (rc != CURLE_OK)
        return not_got(h, rc);
    return code == 200 ? 0 : refused(h, code);
}

int ctl_http_json(struct ctl_http *h, const char *path, json_t **out)
{
    json_error_t error;
    int rc = get(h, path, NULL);

    if (rc != 0)
        return rc;
    json_t *answer = h->len == 0 ? NULL : json_loadb(h->body, h->len, 0, &error);
    if (!json_is_object(answer)) {
        json_decref(answer);
        return fail(h, MR_MALFORMED, "%s does not answer as a mailraft node", h->base);
    }
    *out = answer;
    return 0;
}

int ctl_http_copy(struct ctl_http *h, const char *path, FILE *out)
{
    int rc = get(h, path, out);

    if (rc == 0 && (fflush(out) != 0 || ferror(out)))
        rc = fail(h, MR_IO, "the output cannot be written: %s", strerror(errno));
    return rc;
}

char *ctl_http_argument(char *path, const char *name, const char *value)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    size_t len = 0;

    if (value == NULL)
        return path;
    char *encoded = mr_malloc(strlen(value) * 3 + 1);
    for (const char *p = value; *p != '\0'; p++) {
        if (strchr(plain, *p) != NULL)
            encoded[len++] = *p;
        else
            len += (size_t)snprintf(encoded + len, 4, "%%%02X", (unsigned)(unsigned char)*p);
    }
    encoded[len] = '\0';
    char *longer = mr_asprintf("%s%c%s=%s", path, strchr(path, '?') == NULL ? '?' : '&', name, encoded);
    free(encoded);
    free(path);
    return longer;
}
