/* Happy path: sts_fetch -> addresses of mta-sts.DOMAIN -> a transfer that libcurl's multi interface drives by our poll
 * handles and timer -> its end, looked at on a turn of its own -> cb.
 * Failure: any of them gives a text. Close: lookups are cancelled, transfers are dropped, each cb comes, the handles
 * close. */
#include "node/delivery/sts_fetch.h"

#include "node/delivery/sts_policy.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct fetch {
    struct fetch *next, **link;
    struct sts_fetcher *fetcher;
    sts_fetched_cb cb;
    void *arg;
    char host[256];
    struct lookup *lookup;
    CURL *easy;
    struct curl_slist *resolve;
    char *text;
    size_t len;
    char error[CURL_ERROR_SIZE];
};

struct watched {
    uv_poll_t poll;
    struct sts_fetcher *fetcher;
    curl_socket_t fd;
};

struct sts_fetcher {
    struct sts_fetcher_config config;
    CURLM *multi;
    uv_timer_t timer;
    struct fetch *first;
    unsigned n;
    unsigned open; /* handles that are not closed */
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

static uv_once_t once = UV_ONCE_INIT;

static void init_curl(void)
{
    mr_assert(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

/* ---- the end of a fetch ---- */

static void fetch_free(struct fetch *q)
{
    struct sts_fetcher *f = q->fetcher;
    *q->link = q->next;
    if (q->next != NULL)
        q->next->link = q->link;
    f->n--;
    if (q->easy != NULL) {
        curl_multi_remove_handle(f->multi, q->easy);
        curl_easy_cleanup(q->easy);
    }
    curl_slist_free_all(q->resolve);
    free(q->text);
    free(q);
}

static void fetch_end(struct fetch *q, const char *error)
{
    q->cb(q->arg, error, error[0] == 0 ? q->text : NULL, error[0] == 0 ? q->len : 0);
    fetch_free(q);
}

static void judge(struct fetch *q, CURLcode result)
{
    char why[CURL_ERROR_SIZE + 64] = "";
    long status = 0;
    const char *type = NULL;

    (void)curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(q->easy, CURLINFO_CONTENT_TYPE, &type);
    if (result == CURLE_WRITE_ERROR || result == CURLE_FILESIZE_EXCEEDED)
        (void)snprintf(why, sizeof(why), "the policy is longer than %d bytes", STS_MAX_POLICY);
    else if (result != CURLE_OK)
        (void)snprintf(why, sizeof(why), "%s", q->error[0] != 0 ? q->error : curl_easy_strerror(result));
    else if (status != 200)
        (void)snprintf(why, sizeof(why), "HTTP status %ld", status);
    else if (type == NULL || strncasecmp(type, "text/plain", 10) != 0 ||
             (type[10] != 0 && strchr("; \t", type[10]) == NULL))
        (void)snprintf(why, sizeof(why), "the policy is not text/plain");
    fetch_end(q, why);
}

static void take_ended(struct sts_fetcher *f)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(f->multi, &left)) != NULL;) {
        struct fetch *q;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode result = m->data.result; /* m is libcurl's, and gone with the transfer */
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&q);
        judge(q, result);
    }
}

/* ---- libcurl on the loop ---- */

static void on_timer(uv_timer_t *timer)
{
    struct sts_fetcher *f = timer->data;
    int running;
    curl_multi_socket_action(f->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    take_ended(f);
}

static int on_curl_timer(CURLM *multi, long ms, void *arg)
{
    struct sts_fetcher *f = arg;
    (void)multi;
    if (ms < 0)
        uv_timer_stop(&f->timer);
    else if (!f->closing)
        uv_timer_start(&f->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    const struct watched *w = poll->data;
    struct sts_fetcher *f = w->fetcher;
    int running, what = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        what |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        what |= CURL_CSELECT_OUT;
    curl_multi_socket_action(f->multi, w->fd, what, &running); /* w may be closing now */
    take_ended(f);
}

static void handle_closed(struct sts_fetcher *f)
{
    if (--f->open > 0)
        return;
    void (*cb)(void *) = f->close_cb;
    void *arg = f->close_arg;
    free(f);
    cb(arg);
}

static void on_watched_closed(uv_handle_t *handle)
{
    struct watched *w = handle->data;
    struct sts_fetcher *f = w->fetcher;
    free(w);
    handle_closed(f);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct sts_fetcher *f = arg;
    struct watched *w = socket_arg;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w != NULL) {
            curl_multi_assign(f->multi, fd, NULL);
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watched_closed);
        }
        return 0;
    }
    if (w == NULL) {
        w = mr_calloc(1, sizeof(*w));
        w->fetcher = f;
        w->fd = fd;
        w->poll.data = w;
        mr_assert(uv_poll_init_socket(f->config.loop, &w->poll, fd) == 0);
        f->open++;
        curl_multi_assign(f->multi, fd, w);
    }
    uv_poll_start(&w->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0),
                  on_poll);
    return 0;
}

/* ---- a fetch ---- */

static size_t on_bytes(char *bytes, size_t size, size_t n, void *arg)
{
    struct fetch *q = arg;
    size_t len = size * n;
    if (len > STS_MAX_POLICY - q->len)
        return 0; /* CURLE_WRITE_ERROR */
    if (len > 0) {
        q->text = mr_realloc(q->text, q->len + len);
        memcpy(q->text + q->len, bytes, len);
        q->len += len;
    }
    return len;
}

/* "+HOST:PORT:ADDRESS,ADDRESS": libcurl looks nothing up itself (F2), and forgets it after a while (the "+"). */
static struct curl_slist *addresses_for_curl(const struct fetch *q, const struct resolution *r)
{
    char text[256 + 16 + RESOLVER_MAX_ADDRESSES * (INET6_ADDRSTRLEN + 3)];
    size_t n = (size_t)snprintf(text, sizeof(text), "+%s:%u:", q->host, q->fetcher->config.port);
    for (unsigned i = 0; i < r->n; i++) {
        char address[INET6_ADDRSTRLEN] = "";
        bool six = r->list[i].address.any.sa_family == AF_INET6;
        (void)inet_ntop(r->list[i].address.any.sa_family,
                        six ? (const void *)&r->list[i].address.v6.sin6_addr
                            : (const void *)&r->list[i].address.v4.sin_addr,
                        address, sizeof(address));
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s%s%s", i > 0 ? "," : "", six ? "[" : "", address,
                              six ? "]" : "");
    }
    return curl_slist_append(NULL, text);
}

static bool set_up(struct fetch *q)
{
    const struct sts_fetcher *f = q->fetcher;
    CURL *e = q->easy;
    char url[320];
    bool fine;

    (void)snprintf(url, sizeof(url), "https://%s:%u/.well-known/mta-sts.txt", q->host, f->config.port);
    fine = curl_easy_setopt(e, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_RESOLVE, q->resolve) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_MAXFILESIZE, (long)STS_MAX_POLICY) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)STS_FETCH_MS) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_DNS_CACHE_TIMEOUT, 2L * STS_FETCH_MS / 1000) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_USERAGENT, "mailraft/" MAILRAFT_VERSION) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_bytes) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_WRITEDATA, q) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_ERRORBUFFER, q->error) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_PRIVATE, q) == CURLE_OK;
    if (fine && f->config.ca != NULL) /* and no others */
        fine = curl_easy_setopt(e, CURLOPT_CAINFO, f->config.ca) == CURLE_OK &&
               curl_easy_setopt(e, CURLOPT_CAPATH, NULL) == CURLE_OK;
    return fine;
}

static void on_resolved(void *arg, const struct resolution *r)
{
    struct fetch *q = arg;
    q->lookup = NULL;
    if (r->result != RESOLVED) {
        fetch_end(q, r->reply);
        return;
    }
    q->resolve = addresses_for_curl(q, r);
    q->easy = curl_easy_init();
    if (q->resolve == NULL || q->easy == NULL || !set_up(q)) {
        fetch_end(q, "libcurl cannot be set up");
        return;
    }
    if (curl_multi_add_handle(q->fetcher->multi, q->easy) != CURLM_OK)
        fetch_end(q, "libcurl takes no transfer");
}

int sts_fetch(struct sts_fetcher *f, const char *domain, sts_fetched_cb cb, void *arg)
{
    struct next_hop hop = {.kind = NEXT_HOP_SMTP, .port = f->config.port};

    if (f->closing || f->n == STS_MAX_FETCHES)
        return MR_BUSY;
    struct fetch *q = mr_calloc(1, sizeof(*q));
    q->fetcher = f;
    q->cb = cb;
    q->arg = arg;
    (void)snprintf(q->host, sizeof(q->host), "mta-sts.%s", domain);
    memcpy(hop.host, q->host, sizeof(hop.host));
    q->next = f->first;
    q->link = &f->first;
    if (f->first != NULL)
        f->first->link = &q->next;
    f->first = q;
    f->n++;
    q->lookup = resolver_lookup(f->config.resolver, &hop, on_resolved, q);
    return 0;
}

/* ---- life ---- */

int sts_fetcher_open(struct sts_fetcher **out, const struct sts_fetcher_config *config)
{
    uv_once(&once, init_curl);
    struct sts_fetcher *f = mr_calloc(1, sizeof(*f));
    f->config = *config;
    f->multi = curl_multi_init();
    if (f->multi == NULL) {
        free(f);
        return MR_NOMEM;
    }
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f);
    uv_timer_init(config->loop, &f->timer);
    f->timer.data = f;
    f->open = 1;
    *out = f;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

void sts_fetcher_close(struct sts_fetcher *f, void (*cb)(void *arg), void *arg)
{
    f->closing = true;
    f->close_cb = cb;
    f->close_arg = arg;
    while (f->first != NULL) {
        if (f->first->lookup != NULL)
            resolver_cancel(f->first->lookup);
        fetch_end(f->first, "shutdown");
    }
    curl_multi_cleanup(f->multi);
    uv_timer_stop(&f->timer);
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}
