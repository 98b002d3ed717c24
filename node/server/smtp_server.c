/* smtp_server.c - listeners and the table of sessions of one worker.
 *
 * Close: listeners and sessions close; a session that waits for the answer to a final dot gets it first (an answer that
 * is withheld makes the client send the message again); then, with the last handle and the last transaction, cb. */
#include "node/server/smtp_server_internal.h"

#include "node/server/smtp_session.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG = 1024 };

/* ---- the table ---- */

uint64_t smtp_server_enter(struct smtp_server *s, struct smtp_session *session)
{
    struct smtp_slot *slot;
    uint32_t at;

    if (s->free_slot == 0) {
        uint32_t n = s->n_slots == 0 ? 64 : s->n_slots * 2;

        s->slots = mr_realloc(s->slots, n * sizeof(s->slots[0]));
        for (uint32_t i = n; i-- > s->n_slots;) {
            s->slots[i] = (struct smtp_slot){.generation = 1, .next_free = s->free_slot};
            s->free_slot = i + 1;
        }
        s->n_slots = n;
    }
    at = s->free_slot - 1;
    slot = &s->slots[at];
    s->free_slot = slot->next_free;
    slot->session = session;
    s->n_sessions++;
    return (uint64_t)slot->generation << 32 | at;
}

static struct smtp_slot *find_slot(const struct smtp_server *s, uint64_t id)
{
    uint32_t at = (uint32_t)id;

    if (at >= s->n_slots || s->slots[at].generation != id >> 32)
        return NULL;
    return &s->slots[at];
}

struct smtp_session *smtp_server_find(const struct smtp_server *s, uint64_t id)
{
    const struct smtp_slot *slot = find_slot(s, id);

    return slot != NULL ? slot->session : NULL;
}

void smtp_server_leave(struct smtp_server *s, uint64_t id)
{
    struct smtp_slot *slot = find_slot(s, id);

    mr_assert(slot != NULL && slot->session != NULL && s->n_sessions > 0);
    slot->session = NULL;
    slot->generation++;
    if (slot->generation == 0) /* no id is ever 0 */
        slot->generation = 1;
    slot->next_free = s->free_slot;
    s->free_slot = (uint32_t)id + 1;
    s->n_sessions--;
}

unsigned smtp_server_sessions(const struct smtp_server *s)
{
    return s->n_sessions;
}

/* ---- listeners ---- */

static void on_connection(uv_stream_t *stream, int status)
{
    struct smtp_listener *l = stream->data;

    if (status != 0) {
        log_event(LOG_WARN, "accept_failed", LOG_S("error", uv_strerror(status)));
        return;
    }
    smtp_session_open(l);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct smtp_listener *l = handle->data;

    l->server->open_listeners--;
    smtp_server_check_closed(l->server);
}

static void close_listeners(struct smtp_server *s)
{
    for (unsigned i = 0; i < s->n_listeners; i++)
        if (!uv_is_closing((uv_handle_t *)&s->listeners[i].tcp))
            uv_close((uv_handle_t *)&s->listeners[i].tcp, on_listener_closed);
}

static int open_listener(struct smtp_server *s, struct smtp_listener *l, int fd, const struct listener_config *config)
{
    int rc;

    l->server = s;
    l->profile = config->profile;
    l->tls = config->tls;
    l->proxy = config->proxy;
    l->tcp.data = l;
    rc = uv_tcp_init(&s->worker->loop, &l->tcp);
    mr_assert(rc == 0);
    s->open_listeners++;
    rc = uv_tcp_open(&l->tcp, fd);
    if (rc != 0)
        close(fd); /* the handle took no ownership */
    else
        rc = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
    if (rc != 0)
        log_event(LOG_ERROR, "listen_failed", LOG_S("address", config->listen), LOG_S("error", uv_strerror(rc)));
    return rc == 0 ? 0 : MR_IO;
}

/* ---- life ---- */

/* A limit of 0 in the configuration means ours, never none. */
static uint64_t or_else(uint64_t value, uint64_t ours)
{
    return value != 0 ? value : ours;
}

static void read_limits(struct smtp_server *s, const struct config *c)
{
    s->limits = (struct smtp_limits){
        .message_size = or_else(c->smtp.max_message_size, 50 << 20),
        .recipients = (unsigned)or_else(c->smtp.max_recipients, 1000),
        .sessions = (unsigned)or_else(c->smtp.max_sessions, 10000),
        .errors = (unsigned)or_else(c->smtp.max_errors, 20),
        .hops = (unsigned)or_else(c->smtp.max_hops, 50),
        .transactions = (unsigned)or_else(c->smtp.max_transactions, 1000),
        .idle_ms = or_else(c->smtp.idle_timeout_ms, 300000),
        .data_ms = or_else(c->smtp.data_timeout_ms, 180000),
        .session_ms = or_else(c->smtp.session_timeout_ms, 3600000),
        .ending_ms = SMTP_ENDING_MS,
        .junk = SMTP_MAX_JUNK,
        .opening_ms = SMTP_OPENING_MS,
        .greeting_delay_ms = c->smtp.greeting_delay_ms,
        .line_ms = or_else(c->smtp.line_timeout_ms, 60000),
        .data_rate = c->smtp.min_data_rate,
        .pace_ms = SMTP_PACE_MS,
    };
    if (s->limits.recipients > STATE_MAX_RECIPIENTS)
        s->limits.recipients = STATE_MAX_RECIPIENTS;
}

static void free_half_open(void *arg)
{
    (void)arg;
}

static int check_config(const struct worker *w, unsigned n_fds)
{
    const struct config *c = w->config;

    if (c->smtp.hostname == NULL || smtp_domain_parse(c->smtp.hostname, strlen(c->smtp.hostname)) != 0 ||
        n_fds != c->smtp.n_listeners)
        return MR_CONFIG;
    for (unsigned i = 0; i < n_fds; i++) {
        if (c->smtp.listeners[i].tls != TLS_OFF && w->tls == NULL) {
            /* Plain text behind a port that promises TLS would be worse than none. */
            log_event(LOG_ERROR, "listen_failed", LOG_S("address", c->smtp.listeners[i].listen),
                      LOG_S("error", "no certificate for TLS"));
            return MR_CONFIG;
        }
    }
    return 0;
}

int smtp_server_open_with(struct smtp_server **out, struct worker *w, const int *fds, unsigned n_fds,
                          const struct smtp_cluster_ops *ops)
{
    int rc = check_config(w, n_fds);
    struct smtp_server *s;

    if (rc != 0) {
        for (unsigned i = 0; i < n_fds; i++)
            close(fds[i]);
        return rc;
    }
    s = mr_calloc(1, sizeof(*s));
    s->worker = w;
    s->ops = ops;
    read_limits(s, w->config);
    s->listeners = mr_calloc(n_fds, sizeof(s->listeners[0]));
    for (unsigned i = 0; i < n_fds; i++) {
        if (rc != 0) {
            close(fds[i]);
            continue;
        }
        s->n_listeners++;
        rc = open_listener(s, &s->listeners[i], fds[i], &w->config->smtp.listeners[i]);
    }
    if (rc != 0) {
        smtp_server_close(s, free_half_open, NULL);
        return rc;
    }
    *out = s;
    return 0;
}

void smtp_server_drain(struct smtp_server *s)
{
    s->draining = true;
    close_listeners(s);
    for (uint32_t i = 0; i < s->n_slots; i++)
        if (s->slots[i].session != NULL)
            smtp_session_drain(s->slots[i].session);
}

void smtp_server_close(struct smtp_server *s, void (*cb)(void *arg), void *arg)
{
    mr_assert(!s->closing);
    s->draining = true;
    close_listeners(s);
    for (uint32_t i = 0; i < s->n_slots; i++)
        if (s->slots[i].session != NULL)
            smtp_session_stop(s->slots[i].session);
    s->closing = true;
    s->closed = cb;
    s->closed_arg = arg;
    smtp_server_check_closed(s);
}

void smtp_server_check_closed(struct smtp_server *s)
{
    void (*cb)(void *arg) = s->closed;
    void *arg = s->closed_arg;

    if (!s->closing || s->open_listeners > 0 || s->n_handles > 0 || s->n_transactions > 0)
        return;
    free(s->listeners);
    free(s->slots);
    free(s);
    cb(arg);
}
