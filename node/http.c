/* Happy path: MHD calls handle -> request parsed -> connection suspended, question to the core -> answered (core's
 * thread: keep, resume) -> MHD calls handle again -> response. Failure: too many wait for the core: 503 with
 * Retry-After. A body is gathered piece by piece before it is sent. What may be large counts from the question until
 * the client has all of it: at most MAX_BODIES bodies and MAX_LISTS of the others at once, and 503 with Retry-After
 * beyond. End: MHD panics when it is stopped with a connection suspended. So nothing more is asked then, and what was
 * asked is waited for; the core is still there and answers. */
#include "node/http.h"

#include "node/config/config_text.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netdb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256, MAX_BODIES = 4, MAX_LISTS = 16, TIMEOUT_S = 30, PER_ADDRESS = 128 };

struct http {
    struct MHD_Daemon *daemon;
    struct cluster *cluster;
    const struct config *config;
    atomic_uint bodies, lists; /* being asked for or sent */
    pthread_mutex_t lock;      /* for what follows */
    pthread_cond_t none_asked;
    unsigned asked;
    bool closing;
};

enum what { WHAT_NONE, WHAT_JSON, WHAT_METRICS, WHAT_BODY };

struct request {
    struct http *http;
    struct MHD_Connection *connection;
    enum what what;
    atomic_uint *place; /* of bodies or lists: one is ours; NULL: none */
    bool asked;
    int status;
    json_t *answer;
    struct mr_id id;
    uint8_t *body;
    size_t len;
    uint32_t piece;
};

/* ---- responses ---- */

/* text: malloc, ownership passes. */
static enum MHD_Result respond_with(struct MHD_Connection *connection, unsigned code, const char *type, void *text,
                                    size_t len)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        free(text);
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, "Content-Type", type);
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    if (code == MHD_HTTP_SERVICE_UNAVAILABLE)
        (void)MHD_add_response_header(response, "Retry-After", "1");
    if (code == MHD_HTTP_UNAUTHORIZED)
        (void)MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(response, "Allow", "GET, HEAD");
    enum MHD_Result rc = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result respond(struct MHD_Connection *connection, unsigned code, const char *type, const char *text)
{
    return respond_with(connection, code, type, mr_strdup(text), strlen(text));
}

static enum MHD_Result respond_json(struct MHD_Connection *connection, unsigned code, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);
    mr_assert(text != NULL);
    size_t len = strlen(text);
    text[len] = '\n'; /* in place of its zero byte */
    return respond_with(connection, code, "application/json", text, len + 1);
}

static enum MHD_Result respond_error(struct MHD_Connection *connection, unsigned code, const char *error)
{
    json_t *o = json_pack("{s:s}", "error", error);
    enum MHD_Result rc = respond_json(connection, code, o);
    json_decref(o);
    return rc;
}

static const char *const readiness_texts[] = {
    [CLUSTER_READY] = "ready",
    [CLUSTER_STARTING] = "starting: not yet a member in force of its cluster",
    [CLUSTER_NO_QUORUM] = "no quorum: no mail is accepted",
    [CLUSTER_LOW_DISK] = "disk below its reserve: no mail is accepted here",
    [CLUSTER_BUSY] = "busy",
    [CLUSTER_DRAINING] = "shutting down",
    [CLUSTER_REFUSED] = "refused by the cluster: see status",
    [CLUSTER_SLOW_DISK] = "disk slow: no mail is accepted here",
    [CLUSTER_QUEUE_FULL] = "queue full: no mail is accepted",
};

static enum MHD_Result respond_ready(struct http *h, struct MHD_Connection *connection)
{
    enum cluster_readiness r = cluster_readiness(h->cluster);
    char line[128];
    (void)snprintf(line, sizeof(line), "%s\n", readiness_texts[r]);
    return respond(connection, r == CLUSTER_READY ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain", line);
}

/* Prometheus text format: names come with their labels. */
static enum MHD_Result respond_metrics(struct MHD_Connection *connection, const json_t *values)
{
    char *text = NULL, last[128] = "";
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    const char *key;
    json_t *value;
    mr_assert(out != NULL);
    json_object_foreach((json_t *)(uintptr_t)values, key, value)
    {
        size_t name = strcspn(key, "{");
        bool counter = name > 6 && strncmp(key + name - 6, "_total", 6) == 0;
        if (strncmp(last, key, name) != 0 || last[name] != 0) {
            (void)snprintf(last, sizeof(last), "%.*s", (int)name, key);
            (void)fprintf(out, "# TYPE mailraft_%s %s\n", last, counter ? "counter" : "gauge");
        }
        (void)fprintf(out, "mailraft_%s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
    }
    (void)fclose(out);
    return respond_with(connection, MHD_HTTP_OK, "text/plain; version=0.0.4", text, len);
}

/* What may be large is handed on: MHD calls again when it is being stopped, where it takes no response. */
static enum MHD_Result respond_answer(struct request *q)
{
    if (q->status == MR_NOTFOUND)
        return respond_error(q->connection, MHD_HTTP_NOT_FOUND, "no such message in the queue");
    if (q->status != 0)
        return respond_error(q->connection, MHD_HTTP_SERVICE_UNAVAILABLE, mr_strerror(q->status));
    switch (q->what) {
    case WHAT_METRICS:
        return respond_metrics(q->connection, q->answer);
    case WHAT_BODY: {
        uint8_t *body = q->body;
        q->body = NULL;
        q->status = MR_CLOSED;
        return respond_with(q->connection, MHD_HTTP_OK, "message/rfc822", body, q->len);
    }
    case WHAT_JSON:
    case WHAT_NONE:
        break;
    }
    enum MHD_Result rc = respond_json(q->connection, MHD_HTTP_OK, q->answer);
    json_decref(q->answer); /* several times the text, which may take long to be sent */
    q->answer = NULL;
    q->status = MR_CLOSED;
    return rc;
}

/* ---- questions to the core ---- */

/* Suspends the connection, for an answer that will come; false: the end has begun. */
static bool begin_question(struct request *q, enum what what)
{
    struct http *h = q->http;
    (void)pthread_mutex_lock(&h->lock);
    bool open = !h->closing;
    if (open)
        h->asked++;
    (void)pthread_mutex_unlock(&h->lock);
    if (!open)
        return false;
    q->what = what;
    q->asked = true;
    MHD_suspend_connection(q->connection);
    return true;
}

static bool take_place(struct request *q, atomic_uint *of, unsigned most)
{
    if (atomic_fetch_add(of, 1) >= most) {
        atomic_fetch_sub(of, 1);
        return false;
    }
    q->place = of;
    return true;
}

/* The answer is there. MHD's thread may free q as soon as the connection is resumed. */
static void end_question(struct request *q)
{
    struct http *h = q->http;
    MHD_resume_connection(q->connection);
    (void)pthread_mutex_lock(&h->lock);
    if (--h->asked == 0)
        (void)pthread_cond_signal(&h->none_asked);
    (void)pthread_mutex_unlock(&h->lock);
}

static void answered(void *arg, int status, json_t *answer)
{
    struct request *q = arg;
    q->status = status;
    q->answer = answer;
    end_question(q);
}

static enum MHD_Result ask(struct request *q, enum what what, const struct cluster_query *query)
{
    if (!begin_question(q, what))
        return respond_error(q->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "shutting down");
    int rc = cluster_ask(q->http->cluster, query, answered, q);
    if (rc != 0)
        answered(q, rc, NULL);
    return MHD_YES;
}

static enum MHD_Result ask_list(struct request *q, const struct cluster_query *query)
{
    if (!take_place(q, &q->http->lists, MAX_LISTS))
        return respond_error(q->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "too many lists are being read");
    return ask(q, WHAT_JSON, query);
}

static void piece_read(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    struct request *q = arg;
    if (status == 0) {
        q->body = mr_realloc(q->body, q->len + len + 1);
        memcpy(q->body + q->len, data, len);
        q->len += len;
        free(data);
        if (!last)
            status = cluster_ask_body(q->http->cluster, q->id, ++q->piece, piece_read, q);
        if (status == 0 && !last)
            return;
    }
    q->status = status;
    end_question(q);
}

static enum MHD_Result ask_body(struct request *q)
{
    if (!take_place(q, &q->http->bodies, MAX_BODIES))
        return respond_error(q->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "too many bodies are being read");
    if (!begin_question(q, WHAT_BODY))
        return respond_error(q->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "shutting down");
    int rc = cluster_ask_body(q->http->cluster, q->id, 0, piece_read, q);
    if (rc != 0)
        piece_read(q, rc, NULL, 0, false);
    return MHD_YES;
}

/* ---- routes ---- */

static const char *argument(struct MHD_Connection *connection, const char *name)
{
    const char *value = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
    return value != NULL && value[0] != 0 ? value : NULL;
}

static bool number_argument(struct MHD_Connection *connection, const char *name, uint64_t *out)
{
    const char *value = argument(connection, name);
    return value == NULL || config_parse_number(value, out);
}

static enum MHD_Result known_argument(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    static const char *const known[] = {"sender", "recipient", "domain", "next_hop", "state", "age", "after", "limit"};
    bool *all = cls;
    bool found = false;
    (void)kind;
    (void)value;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        found = found || strcmp(known[i], key) == 0;
    *all = *all && found;
    return MHD_YES;
}

static enum MHD_Result list_messages(struct request *q)
{
    struct cluster_query query = {.question = CLUSTER_MESSAGES};
    struct MHD_Connection *c = q->connection;
    uint64_t limit = 100, age_ms = 0;
    bool all_known = true;
    const char *age = argument(c, "age");

    (void)MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, known_argument, &all_known);
    if (!all_known)
        return respond_error(c, MHD_HTTP_BAD_REQUEST,
                             "known filters: sender, recipient, domain, next_hop, state, age, after, limit");
    query.sender = argument(c, "sender");
    query.recipient = argument(c, "recipient");
    query.domain = argument(c, "domain");
    query.next_hop = argument(c, "next_hop");
    query.state = argument(c, "state");
    if (!number_argument(c, "after", &query.after) || !number_argument(c, "limit", &limit) || limit == 0 ||
        limit > 1000)
        return respond_error(c, MHD_HTTP_BAD_REQUEST, "after has to be a number, limit one from 1 to 1000");
    if (age != NULL && !config_parse_duration(age, &age_ms))
        return respond_error(c, MHD_HTTP_BAD_REQUEST, "age has to be a duration like 90s, 5m, 2h, 1d");
    query.older_than_s = age_ms / 1000;
    query.limit = (unsigned)limit;
    return ask_list(q, &query);
}

static enum MHD_Result one_message(struct request *q, const char *rest)
{
    struct cluster_query query = {.question = CLUSTER_MESSAGE};
    size_t len = strcspn(rest, "/");
    if (mr_id_parse(rest, len, &q->id) != 0)
        return respond_error(q->connection, MHD_HTTP_BAD_REQUEST, "not a message id");
    if (strcmp(rest + len, "/body") == 0)
        return ask_body(q);
    if (rest[len] != 0)
        return respond_error(q->connection, MHD_HTTP_NOT_FOUND, "no such page");
    query.id = q->id;
    return ask_list(q, &query);
}

static bool authorized(const struct http *h, struct MHD_Connection *connection)
{
    const char *header = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Authorization");
    const char *token = h->config->http.token;
    if (token == NULL)
        return true;
    if (header == NULL || strncasecmp(header, "Bearer ", 7) != 0)
        return false;
    size_t len = strlen(token);
    return strlen(header + 7) == len && CRYPTO_memcmp(header + 7, token, len) == 0;
}

static enum MHD_Result route(struct request *q, const char *url)
{
    struct http *h = q->http;
    struct cluster_query query = {0};

    if (strcmp(url, "/healthz") == 0)
        return respond(q->connection, MHD_HTTP_OK, "text/plain", "ok\n");
    if (strcmp(url, "/readyz") == 0)
        return respond_ready(h, q->connection);
    if (!authorized(h, q->connection))
        return respond_error(q->connection, MHD_HTTP_UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN");
    if (strcmp(url, "/v1/status") == 0) {
        query.question = CLUSTER_STATUS;
        return ask(q, WHAT_JSON, &query);
    }
    if (strcmp(url, "/v1/queue") == 0) {
        query.question = CLUSTER_QUEUE;
        return ask_list(q, &query);
    }
    if (strcmp(url, "/metrics") == 0) {
        query.question = CLUSTER_METRICS;
        return ask(q, WHAT_METRICS, &query);
    }
    if (strcmp(url, "/v1/messages") == 0)
        return list_messages(q);
    if (strncmp(url, "/v1/messages/", 13) == 0)
        return one_message(q, url + 13);
    return respond_error(q->connection, MHD_HTTP_NOT_FOUND, "no such page");
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_len, void **state)
{
    struct http *h = cls;
    struct request *q = *state;

    (void)version;
    (void)upload;
    if (q == NULL) {
        q = mr_calloc(1, sizeof(*q));
        q->http = h;
        q->connection = connection;
        *state = q;
        return MHD_YES;
    }
    if (*upload_len > 0) { /* a body that nobody wants */
        *upload_len = 0;
        return MHD_YES;
    }
    if (q->asked)
        return respond_answer(q);
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return respond_error(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET");
    return route(q, url);
}

static void completed(void *cls, struct MHD_Connection *connection, void **state, enum MHD_RequestTerminationCode code)
{
    struct request *q = *state;
    (void)cls;
    (void)connection;
    (void)code;
    if (q == NULL)
        return;
    if (q->place != NULL)
        atomic_fetch_sub(q->place, 1);
    json_decref(q->answer);
    free(q->body);
    free(q);
    *state = NULL;
}

/* ---- open, close ---- */

static int bind_socket(const char *address, char *bound, size_t bound_len, char *error, size_t error_len)
{
    char host[256];
    const char *colon = strrchr(address, ':');
    size_t len = (size_t)(colon - address);
    const char *start = address;
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list;
    int on = 1, fd = -1;

    if (start[0] == '[') {
        start++;
        len -= 2;
    }
    (void)snprintf(host, sizeof(host), "%.*s", (int)len, start);
    int rc = getaddrinfo(host, colon + 1, &hints, &list);
    if (rc != 0) {
        (void)snprintf(error, error_len, "http.listen %s: %s", address, gai_strerror(rc));
        return -1;
    }
    for (struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            continue;
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0) {
            (void)snprintf(error, error_len, "http.listen %s: %m", address);
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return -1;
    struct sockaddr_storage name = {0};
    socklen_t name_len = sizeof(name);
    char text[INET6_ADDRSTRLEN] = "", port[8] = "";
    (void)getsockname(fd, (struct sockaddr *)&name, &name_len);
    (void)getnameinfo((struct sockaddr *)&name, name_len, text, sizeof(text), port, sizeof(port),
                      NI_NUMERICHOST | NI_NUMERICSERV);
    (void)snprintf(bound, bound_len, name.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", text, port);
    return fd;
}

static void free_http(struct http *h)
{
    (void)pthread_cond_destroy(&h->none_asked);
    (void)pthread_mutex_destroy(&h->lock);
    free(h);
}

int http_open(struct http **out, struct cluster *c, const struct config *config, char *bound, size_t bound_len,
              char *error, size_t error_len)
{
    int fd = bind_socket(config->http.listen, bound, bound_len, error, error_len);
    if (fd < 0)
        return MR_CONFIG;
    struct http *h = mr_calloc(1, sizeof(*h));
    h->cluster = c;
    h->config = config;
    (void)pthread_mutex_init(&h->lock, NULL);
    (void)pthread_cond_init(&h->none_asked, NULL);
    h->daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                         handle, h, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
                         MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
                         (unsigned)PER_ADDRESS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S, MHD_OPTION_END);
    if (h->daemon == NULL) {
        (void)snprintf(error, error_len, "the HTTP server cannot be started on %s", bound);
        close(fd);
        free_http(h);
        return MR_IO;
    }
    *out = h;
    return 0;
}

void http_close(struct http *h)
{
    (void)pthread_mutex_lock(&h->lock);
    h->closing = true;
    while (h->asked > 0)
        (void)pthread_cond_wait(&h->none_asked, &h->lock);
    (void)pthread_mutex_unlock(&h->lock);
    MHD_stop_daemon(h->daemon);
    free_http(h);
}
