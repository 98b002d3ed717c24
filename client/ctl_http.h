/* ctl_http.h - one node's HTTP interface, as a client.
 *
 * A node is asked directly: no proxy of the environment stands between, no redirect is followed.
 * Thread: one at a time. */
#ifndef MR_CLIENT_CTL_HTTP_H
#define MR_CLIENT_CTL_HTTP_H

#include <jansson.h>
#include <stdio.h>

enum {
    CTL_ANSWER_MAX = 64 << 20, /* bytes of a JSON answer */
    CTL_TOKEN_MAX = 512,       /* as mailraftd */
    CTL_CONNECT_S = 5,
    CTL_SILENCE_S = 40, /* no byte for so long: unreachable; mailraftd itself gives up after 30 */
};

struct ctl_http; /* opaque */

/* server: http://HOST:PORT, https://..., or HOST:PORT. token_file NULL: no token. MR_INVAL, MR_IO: said on stderr. */
int ctl_http_open(struct ctl_http **out, const char *server, const char *token_file);
void ctl_http_close(struct ctl_http *http);

/* Waits for an answer at most this long in all; 0: only silence ends it. For callers that ask again and again. */
void ctl_http_limit(struct ctl_http *http, long milliseconds);

/* Gets path ("/v1/status"). 0 and a new reference; else, with text in ctl_http_error: MR_NOTFOUND (404), MR_REFUSED
 * (another answer than 200), MR_UNREACHABLE (no answer, or 503), MR_MALFORMED (no JSON object, or too large). */
int ctl_http_json(struct ctl_http *http, const char *path, json_t **out);
/* Copies the page to a file as it comes; out untouched unless the answer is 200. Errors as above; MR_IO: out cannot be
 * written. */
int ctl_http_copy(struct ctl_http *http, const char *path, FILE *out);
const char *ctl_http_error(const struct ctl_http *http);

/* Appends NAME=VALUE, percent-encoded, to a path in new memory (frees the old one) with ? or &. value NULL: nothing. */
char *ctl_http_argument(char *path, const char *name, const char *value);

#endif
