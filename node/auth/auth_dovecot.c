/* auth_dovecot.c - one connection of a worker to Dovecot's auth process, and the exchanges that go over it.
 *
 * Happy path: connect -> VERSION, CPID -> its VERSION, MECH..., DONE -> AUTH -> CONT and CONT, or OK, or FAIL.
 * Failure: the connection is lost, says what is no such protocol, or leaves a question without answer for too long:
 * exchanges that wait are told AWAY, the connection is opened again after a pause that doubles. A question that comes
 * while it is being opened waits for it; one that comes while it is down is told AWAY at once. */
#include "node/auth/auth_internal.h"

#include "node/auth/dovecot_line.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MOST_EXCHANGES = 1024,
    MOST_UNWRITTEN = 1 << 20, /* octets that Dovecot does not take */
    ANSWER_MS = 30000,        /* Dovecot delays a "no" by 2 s and, for addresses that fail often, by up to 15 s */
    HANDSHAKE_MS = 10000,
    RETRY_FIRST_MS = 500,
    RETRY_MOST_MS = 30000,
};

enum link_state { LINK_DOWN, LINK_OPENING, LINK_UP, LINK_CLOSING };

struct request {
    struct auth_exchange e;
    struct auth_dovecot *d;
    struct request *next, **back; /* of d, while it is asked */
    uint32_t id;
    uint64_t deadline_ms; /* 0: waits for the client */
    bool asked;           /* AUTH was written on this connection */
    char *unsent;         /* AUTH, until the connection is up */
    char remote[64], local[64];
    bool secured;
    char away[96];
};

struct auth_dovecot {
    struct auth *a;
    char *path;
    enum link_state state;
    uv_pipe_t pipe;
    uv_connect_t connect;
    uv_timer_t timer;
    unsigned handles;               /* that are open */
    uint64_t retry_ms, deadline_ms; /* of the handshake, or of the pause before the next */
    struct request *requests;
    unsigned n_requests;
    uint32_t last_id;
    unsigned mechanisms; /* of the last handshake */
    bool known;          /* there was one */
    unsigned hearing;    /* mechanisms of the handshake under way */
    bool version_told;
    bool told_down; /* logged */
    bool closing;
    char in[DOVECOT_LINE_MAX + 2];
    size_t in_len;
};

#define REQUEST(exchange) MR_CONTAINER(exchange, struct request, e)

static void open_link(struct auth_dovecot *d);
static void drop_link(struct auth_dovecot *d, const char *why);

static uint64_t now_ms(const struct auth_dovecot *d)
{
    return uv_now(d->a->loop);
}

/* ---- requests ---- */

static void enlist(struct request *r)
{
    struct auth_dovecot *d = r->d;

    r->next = d->requests;
    r->back = &d->requests;
    if (r->next != NULL)
        r->next->back = &r->next;
    d->requests = r;
    d->n_requests++;
}

static void unlist(struct request *r)
{
    if (r->back == NULL)
        return;
    *r->back = r->next;
    if (r->next != NULL)
        r->next->back = r->back;
    r->back = NULL;
    r->d->n_requests--;
}

static struct request *find(struct auth_dovecot *d, uint32_t id)
{
    for (struct request *r = d->requests; r != NULL; r = r->next)
        if (r->id == id)
            return r;
    return NULL;
}

/* It is over. Its owner ends it in the callback. */
static void tell(struct request *r, enum auth_verdict verdict, const char *text)
{
    unlist(r);
    r->deadline_ms = 0;
    if (r->e.waiting)
        auth_answer_now(&r->e, verdict, text);
}

/* A callback may end other exchanges, so the list is begun again after each. Those that wait for their client learn of
 * it with its next message. */
static void tell_all_away(struct auth_dovecot *d, const char *why)
{
    while (d->requests != NULL) {
        struct request *r = d->requests;

        r->asked = false;
        (void)snprintf(r->away, sizeof(r->away), "%s", why);
        tell(r, AUTH_AWAY, r->away);
    }
}

/* ---- writing ---- */

struct write {
    uv_write_t req;
    size_t len;
    char data[];
};

static void on_written(uv_write_t *req, int status)
{
    struct write *w = MR_CONTAINER(req, struct write, req);

    (void)status; /* the reader finds a broken connection */
    OPENSSL_cleanse(w->data, w->len);
    free(w);
}

/* False: Dovecot does not read. */
static bool put(struct auth_dovecot *d, const char *line)
{
    size_t len = strlen(line);
    struct write *w;
    uv_buf_t buf;

    if (uv_stream_get_write_queue_size((uv_stream_t *)&d->pipe) + len > MOST_UNWRITTEN)
        return false;
    w = mr_malloc(sizeof(*w) + len);
    w->len = len;
    memcpy(w->data, line, len);
    buf = uv_buf_init(w->data, (unsigned)len);
    if (uv_write(&w->req, (uv_stream_t *)&d->pipe, &buf, 1, on_written) == 0)
        return true;
    on_written(&w->req, 0);
    return false;
}

static void wipe(char **text)
{
    if (*text != NULL) {
        OPENSSL_cleanse(*text, strlen(*text));
        free(*text);
    }
    *text = NULL;
}

static bool send_request(struct request *r)
{
    r->asked = put(r->d, r->unsent);
    wipe(&r->unsent);
    return r->asked;
}

/* ---- reading ---- */

static void on_mech(struct auth_dovecot *d, const struct dovecot_line *line)
{
    if (!line->hidden)
        d->hearing |= sasl_find(line->text, strlen(line->text));
}

static void on_done(struct auth_dovecot *d)
{
    struct request *next;

    d->state = LINK_UP;
    d->mechanisms = d->hearing;
    d->known = true;
    d->retry_ms = RETRY_FIRST_MS;
    if (d->told_down)
        log_event(LOG_INFO, "auth_server_up", LOG_S("socket", d->path));
    d->told_down = false;
    for (struct request *r = d->requests; r != NULL; r = next) {
        next = r->next;
        if (r->unsent != NULL)
            (void)send_request(r); /* an answer that does not come is AWAY in the end */
    }
}

static const char *copy_user(struct request *r, const struct dovecot_line *line)
{
    if (line->user != NULL)
        (void)snprintf(r->e.user, sizeof(r->e.user), "%s", line->user);
    return r->e.user;
}

static void on_answer(struct auth_dovecot *d, const struct dovecot_line *line)
{
    struct request *r = find(d, line->number);
    struct auth_answer answer;

    if (r == NULL || !r->e.waiting || !r->asked)
        return; /* it was given up meanwhile */
    switch (line->command) {
    case DOVECOT_OK:
        /* A user without a name, or with one that cannot be kept whole, is nobody. */
        if (line->user == NULL || line->user[0] == '\0' || strlen(line->user) > SASL_USER_MAX)
            tell(r, AUTH_AWAY, "the auth server named no usable user");
        else
            tell(r, AUTH_ACCEPTED, copy_user(r, line));
        break;
    case DOVECOT_FAIL:
        if (line->temporary)
            tell(r, AUTH_AWAY, "the auth server failed for a time");
        else
            tell(r, AUTH_DENIED, copy_user(r, line));
        break;
    default:
        if (strlen(line->text) > SASL_BASE64_MAX) {
            tell(r, AUTH_AWAY, "the auth server's challenge is too long");
            break;
        }
        r->deadline_ms = 0;
        free(r->e.challenge);
        r->e.challenge = mr_strdup(line->text);
        answer = (struct auth_answer){AUTH_CHALLENGE, r->e.challenge};
        auth_answer_now(&r->e, answer.verdict, answer.text);
        break;
    }
}

/* False: not the protocol. */
static bool on_line(struct auth_dovecot *d, char *text, size_t len)
{
    struct dovecot_line line;

    if (dovecot_line_parse(text, len, &line) != 0)
        return false;
    switch (line.command) {
    case DOVECOT_VERSION:
        d->version_told = line.number == 1;
        return d->version_told;
    case DOVECOT_MECH:
        on_mech(d, &line);
        return true;
    case DOVECOT_DONE:
        if (!d->version_told || d->state != LINK_OPENING)
            return false;
        on_done(d);
        return true;
    case DOVECOT_OK:
    case DOVECOT_FAIL:
    case DOVECOT_CONT:
        if (d->state != LINK_UP)
            return false;
        on_answer(d, &line);
        return true;
    case DOVECOT_OTHER:
        break;
    }
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct auth_dovecot *d = handle->data;

    (void)suggested;
    *buf = uv_buf_init(d->in + d->in_len, (unsigned)(sizeof(d->in) - 1 - d->in_len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct auth_dovecot *d = stream->data;
    size_t used = 0;
    char *lf;

    (void)buf;
    if (n == 0 || d->state == LINK_CLOSING)
        return;
    if (n < 0) {
        drop_link(d, n == UV_EOF ? "the auth server closed the connection" : uv_strerror((int)n));
        return;
    }
    d->in_len += (size_t)n;
    while (d->state != LINK_CLOSING && (lf = memchr(d->in + used, '\n', d->in_len - used)) != NULL) {
        char *line = d->in + used;

        *lf = '\0';
        used = (size_t)(lf + 1 - d->in);
        if (!on_line(d, line, (size_t)(lf - line)))
            drop_link(d, "the auth server does not speak Dovecot's protocol, version 1");
    }
    if (d->state == LINK_CLOSING)
        return;
    d->in_len -= used;
    memmove(d->in, d->in + used, d->in_len);
    if (d->in_len > DOVECOT_LINE_MAX)
        drop_link(d, "the auth server sent a line that is too long");
}

/* ---- the connection ---- */

static void on_closed(uv_handle_t *handle)
{
    struct auth_dovecot *d = handle->data;
    struct auth *a = d->a;

    d->handles--;
    if (handle == (uv_handle_t *)&d->pipe)
        d->state = LINK_DOWN;
    if (!d->closing || d->handles > 0)
        return;
    free(d->path);
    free(d);
    a->dovecot = NULL;
    a->dovecot_closed = true;
    auth_check_closed(a);
}

static void on_timer(uv_timer_t *timer)
{
    struct auth_dovecot *d = timer->data;
    uint64_t now = now_ms(d);

    if (d->state == LINK_DOWN && now >= d->deadline_ms)
        open_link(d);
    else if (d->state == LINK_OPENING && now >= d->deadline_ms)
        drop_link(d, "the auth server does not answer");
    for (struct request *r = d->requests; r != NULL; r = r->next) {
        if (r->deadline_ms == 0 || now < r->deadline_ms)
            continue;
        /* One that hangs on one question may hang on all. */
        drop_link(d, "the auth server left a question without answer");
        break;
    }
}

static void drop_link(struct auth_dovecot *d, const char *why)
{
    if (d->state != LINK_OPENING && d->state != LINK_UP)
        return;
    if (!d->told_down && !d->closing)
        log_event(LOG_ERROR, "auth_server_down", LOG_S("socket", d->path), LOG_S("reason", why));
    d->told_down = true;
    d->state = LINK_CLOSING;
    d->in_len = 0;
    d->deadline_ms = now_ms(d) + d->retry_ms;
    d->retry_ms = d->retry_ms * 2 < RETRY_MOST_MS ? d->retry_ms * 2 : RETRY_MOST_MS;
    uv_close((uv_handle_t *)&d->pipe, on_closed);
    tell_all_away(d, why);
}

static void on_connected(uv_connect_t *req, int status)
{
    struct auth_dovecot *d = req->data;
    static atomic_uint connections;
    char hello[64];

    if (d->state != LINK_OPENING)
        return;
    if (status != 0) {
        drop_link(d, uv_strerror(status));
        return;
    }
    /* Dovecot wants a number that no other connection of now has. */
    unsigned number = atomic_fetch_add_explicit(&connections, 1, memory_order_relaxed);
    (void)snprintf(hello, sizeof(hello), "VERSION\t1\t1\nCPID\t%u\n",
                   ((unsigned)getpid() & 0x3fffff) << 9 | (number & 0x1ff));
    if (uv_read_start((uv_stream_t *)&d->pipe, on_alloc, on_read) != 0 || !put(d, hello))
        drop_link(d, "the connection to the auth server failed");
}

static void open_link(struct auth_dovecot *d)
{
    mr_assert(uv_pipe_init(d->a->loop, &d->pipe, 0) == 0);
    d->pipe.data = d->connect.data = d;
    d->handles++;
    d->state = LINK_OPENING;
    d->deadline_ms = now_ms(d) + HANDSHAKE_MS;
    d->in_len = 0;
    d->hearing = 0;
    d->version_told = false;
    uv_pipe_connect(&d->connect, &d->pipe, d->path, on_connected);
}

struct auth_dovecot *auth_dovecot_open(struct auth *a, const char *path)
{
    enum { TICK_MS = 250 };
    struct auth_dovecot *d = mr_calloc(1, sizeof(*d));

    d->a = a;
    d->path = mr_strdup(path);
    d->retry_ms = RETRY_FIRST_MS;
    mr_assert(uv_timer_init(a->loop, &d->timer) == 0);
    d->timer.data = d;
    d->handles = 1;
    uv_timer_start(&d->timer, on_timer, TICK_MS, TICK_MS);
    open_link(d);
    return d;
}

void auth_dovecot_close(struct auth_dovecot *d)
{
    d->closing = true;
    drop_link(d, "closing");
    uv_close((uv_handle_t *)&d->timer, on_closed);
}

unsigned auth_dovecot_mechanisms(const struct auth_dovecot *d)
{
    /* Before it was ever heard: what every Dovecot has. A client that comes too early is told 454, not that there are
     * no logins here. */
    return d->known ? d->mechanisms : SASL_PASSWORD_SENT;
}

/* ---- exchanges ---- */

static struct auth_answer away(struct request *r, const char *why)
{
    unlist(r);
    r->deadline_ms = 0;
    return (struct auth_answer){AUTH_AWAY, why};
}

static char *encode(struct request *r, const char *data, size_t len)
{
    char *text;

    (void)auth_challenge(&r->e, data, len);
    text = r->e.challenge;
    r->e.challenge = NULL;
    return text;
}

static struct auth_answer begin(struct request *r, const char *data, size_t len)
{
    struct auth_dovecot *d = r->d;
    char *response = data != NULL ? encode(r, data, len) : NULL;

    if (++d->last_id == 0)
        d->last_id = 1;
    r->id = d->last_id;
    /* resp has to be the last. */
    r->unsent = mr_asprintf("AUTH\t%u\t%s\tservice=smtp%s%s%s\trip=%s%s%s\n", r->id, sasl_name(r->e.mechanism),
                            r->secured ? "\tsecured" : "", r->local[0] != '\0' ? "\tlip=" : "", r->local, r->remote,
                            response != NULL ? "\tresp=" : "", response != NULL ? response : "");
    wipe(&response);
    enlist(r);
    if (d->state == LINK_UP && !send_request(r))
        return away(r, "the auth server does not read");
    return (struct auth_answer){AUTH_WAIT, NULL};
}

static struct auth_answer step(struct auth_exchange *e, const char *data, size_t len)
{
    struct request *r = REQUEST(e);
    struct auth_dovecot *d = r->d;
    char *text, *line;
    bool sent;

    if (!e->begun && d->state == LINK_DOWN && !d->closing && now_ms(d) >= d->deadline_ms)
        open_link(d); /* no sooner: clients do not set the pace of this */
    if (!e->begun && (d->state == LINK_DOWN || d->state == LINK_CLOSING))
        return (struct auth_answer){AUTH_AWAY, "the auth server is away"};
    if (!e->begun && d->n_requests >= MOST_EXCHANGES)
        return (struct auth_answer){AUTH_AWAY, "too many logins"};
    r->deadline_ms = now_ms(d) + ANSWER_MS;
    if (!e->begun)
        return begin(r, data, len);
    if (!r->asked)
        return away(r, r->away);
    text = encode(r, data, len);
    line = mr_asprintf("CONT\t%u\t%s\n", r->id, text);
    sent = put(d, line);
    wipe(&text);
    wipe(&line);
    return sent ? (struct auth_answer){AUTH_WAIT, NULL} : away(r, "the auth server does not read");
}

static void close_request(struct auth_exchange *e)
{
    struct request *r = REQUEST(e);
    char line[32];

    if (r->back != NULL && r->asked && r->d->state == LINK_UP) {
        (void)snprintf(line, sizeof(line), "CANCEL\t%u\n", r->id);
        (void)put(r->d, line);
    }
    unlist(r);
    wipe(&r->unsent);
    free(r);
}

/* Addresses are the kernel's or a trusted proxy's text; a tab or line end in one would be a parameter of its own. */
static void copy_address(char *out, size_t len, const char *address)
{
    (void)snprintf(out, len, "%s", address != NULL ? address : "");
    out[strcspn(out, "\t\r\n")] = '\0';
}

struct auth_exchange *auth_dovecot_begin(struct auth_dovecot *d, unsigned mechanism, const struct auth_client *client)
{
    struct request *r = mr_calloc(1, sizeof(*r));

    (void)mechanism;
    r->d = d;
    r->e.step = step;
    r->e.close = close_request;
    r->secured = client->tls != NULL;
    copy_address(r->remote, sizeof(r->remote), client->remote);
    copy_address(r->local, sizeof(r->local), client->local);
    return &r->e;
}
