/* test_delivery_hop.h - a next hop for the tests of the delivery side: a scripted SMTP or LMTP server on loopback,
 * which takes its turns on the test's thread. It keeps what every connection said, and the last body as it came. */
#ifndef MR_DELIVERY_TEST_DELIVERY_HOP_H
#define MR_DELIVERY_TEST_DELIVERY_HOP_H

#include "node/delivery/delivery_internal.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MOST_RULES = 16, MOST_CONNECTIONS = 16 };

/* Special replies of a rule. */
#define DROP   "drop"   /* closes */
#define SILENT "silent" /* says nothing from here on */

struct rule {
    const char *line;  /* how the command begins; "." the end of data; "" the connection itself (greeting) */
    const char *reply; /* without the last CR LF */
    unsigned skip;     /* so many are answered as usual first */
    unsigned times;    /* then the rule holds so often; 0: always; after that the next one like it */
    unsigned seen;
};

struct connection {
    int fd; /* -1: closed */
    struct tls *tls;
    char in[262144];
    size_t len;
    bool data, mute, ended; /* ended: the peer has closed */
    unsigned accepted;
    char commands[8192]; /* all that came, a "|" behind each */
    char *body;          /* of the last message, as it came: with stuffing, without the final dot */
    size_t body_len, body_cap;
    unsigned dots;
    size_t chunk; /* octets of a BDAT chunk that are to come */
    bool in_chunk, last_chunk;
    unsigned leaves; /* in so many turns */
};

static struct {
    int fd;
    uint16_t port;
    char route[64];
    bool lmtp;
    bool reading;     /* false: takes nothing from its sockets */
    const char *ehlo; /* reply; NULL: 500 */
    SSL_CTX *tls;     /* NULL: STARTTLS is unknown */
    const char *ehlo_tls;
    struct rule rules[MOST_RULES];
    unsigned n_rules;
    struct connection *connections[MOST_CONNECTIONS];
    unsigned n;    /* connections that came */
    unsigned open; /* of these */
    unsigned most_open;
    unsigned limit;    /* connections at one time: more are sent away, and QUIT takes a while; 0: any number */
    unsigned messages; /* whose dot came, for somebody who was accepted */
} server;

static inline void server_open_at(const char *address, uint16_t port, int buffer)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t len = sizeof(at);
    int one = 1;
    memset(&server, 0, sizeof(server));
    server.reading = true;
    server.ehlo = "250-hop.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000";
    mr_assert(inet_pton(AF_INET, address, &at.sin_addr) == 1);
    server.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)setsockopt(server.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (buffer > 0)
        (void)setsockopt(server.fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    assert_int_equal(bind(server.fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(server.fd, 64), 0);
    assert_int_equal(getsockname(server.fd, (struct sockaddr *)&at, &len), 0);
    server.port = ntohs(at.sin_port);
    (void)snprintf(server.route, sizeof(server.route), "smtp://%s:%u", address, server.port);
}

static inline void server_open(void)
{
    server_open_at("127.0.0.1", 0, 0);
}

static inline void server_lmtp(void)
{
    server.lmtp = true;
    memcpy(server.route, "lmtp", 4);
}

static inline void server_rule(const char *line, const char *reply, unsigned skip, unsigned times)
{
    assert_true(server.n_rules < MOST_RULES);
    server.rules[server.n_rules++] = (struct rule){.line = line, .reply = reply, .skip = skip, .times = times};
}

static inline void connection_close(struct connection *c)
{
    if (c->fd < 0)
        return;
    (void)close(c->fd);
    c->fd = -1;
    tls_free(c->tls);
    c->tls = NULL;
    server.open--;
}

static inline void connection_send(struct connection *c, const void *bytes, size_t len)
{
    assert_int_equal(send(c->fd, bytes, len, MSG_NOSIGNAL), len);
}

static inline void connection_flush(struct connection *c)
{
    size_t len;
    uint8_t *bytes = tls_take(c->tls, &len);
    if (len > 0)
        (void)!send(c->fd, bytes, len, MSG_NOSIGNAL); /* the client may have gone for what it was told before */
    free(bytes);
}

static inline void server_close(void)
{
    for (unsigned i = 0; i < server.n; i++) {
        connection_close(server.connections[i]);
        free(server.connections[i]->body);
        free(server.connections[i]);
    }
    (void)close(server.fd);
}

static inline void say(struct connection *c, const char *reply)
{
    char line[4096];
    c->mute = c->mute || strcmp(reply, SILENT) == 0;
    if (c->fd < 0 || c->mute)
        return;
    if (strcmp(reply, DROP) == 0) {
        connection_close(c);
        return;
    }
    bool close_after = strncmp(reply, "421", 3) == 0;
    int n = snprintf(line, sizeof(line), "%s\r\n", reply);
    if (c->tls == NULL) {
        connection_send(c, line, (size_t)n);
    } else {
        assert_true(tls_write(c->tls, line, (size_t)n));
        connection_flush(c);
    }
    if (close_after)
        connection_close(c);
}

/* The reply that the script has for this command, or the usual one. */
static inline const char *reply_to(const char *line, const char *usual)
{
    for (unsigned i = 0; i < server.n_rules; i++) {
        struct rule *r = &server.rules[i];
        bool same =
            r->line[0] == 0 || line[0] == 0 ? r->line[0] == line[0] : strncmp(line, r->line, strlen(r->line)) == 0;
        if (!same)
            continue;
        unsigned seen = r->seen++;
        if (seen >= r->skip && (r->times == 0 || seen < r->skip + r->times))
            return r->reply;
    }
    return usual;
}

static inline void keep_body(struct connection *c, const char *data, size_t n)
{
    if (c->body_len + n > c->body_cap) {
        c->body_cap = (c->body_len + n) * 2;
        c->body = mr_realloc(c->body, c->body_cap);
    }
    if (n > 0)
        memcpy(c->body + c->body_len, data, n);
    c->body_len += n;
}

static inline void on_dot(struct connection *c);

/* "BDAT n [LAST]"; its reply comes behind the chunk. */
static inline void on_bdat(struct connection *c, const char *line)
{
    char *rest;
    c->chunk = strtoul(line + 5, &rest, 10);
    c->in_chunk = true;
    c->last_chunk = strcmp(rest, " LAST") == 0;
}

static inline void on_command(struct connection *c, const char *line)
{
    const char *reply = "502 5.5.2 what?";
    if (strncmp(line, "BDAT ", 5) == 0) {
        assert_true(strlen(c->commands) + strlen(line) + 2 < sizeof(c->commands));
        (void)strcat(strcat(c->commands, line), "|");
        on_bdat(c, line);
        return;
    }
    assert_true(strlen(c->commands) + strlen(line) + 2 < sizeof(c->commands));
    (void)strcat(strcat(c->commands, line), "|");
    if (strcmp(line, "QUIT") == 0 && server.limit > 0) {
        c->leaves = 20;
        return;
    }
    if (strncmp(line, server.lmtp ? "LHLO " : "EHLO ", 5) == 0)
        reply = c->tls != NULL ? server.ehlo_tls : server.ehlo != NULL ? server.ehlo : "500 5.5.1 what?";
    else if (strcmp(line, "STARTTLS") == 0 && server.tls != NULL)
        reply = "220 go ahead";
    else if (strncmp(line, "HELO ", 5) == 0 || strcmp(line, "RSET") == 0 || strncmp(line, "MAIL ", 5) == 0)
        reply = "250 2.0.0 fine";
    else if (strncmp(line, "RCPT ", 5) == 0)
        reply = "250 2.1.5 fine";
    else if (strcmp(line, "DATA") == 0)
        reply = c->accepted > 0 ? "354 go on" : "503 5.5.1 nobody";
    else if (strcmp(line, "QUIT") == 0)
        reply = "221 2.0.0 bye";
    if (strncmp(line, "MAIL ", 5) == 0)
        c->accepted = 0;
    if (strncmp(line, "MAIL ", 5) == 0)
        c->body_len = 0;
    reply = reply_to(line, reply);
    c->accepted += strncmp(line, "RCPT ", 5) == 0 && reply[0] == '2';
    c->data = strcmp(line, "DATA") == 0 && reply[0] == '3';
    if (c->data)
        c->body_len = 0;
    say(c, reply);
    if (strcmp(line, "STARTTLS") == 0 && reply[0] == '2' && c->fd >= 0 && server.tls != NULL) {
        c->tls = tls_accept(server.tls);
        tls_start(c->tls);
    }
}

static inline void on_dot(struct connection *c)
{
    c->data = false;
    c->dots++;
    server.messages += c->accepted > 0;
    for (unsigned i = 0; i < (server.lmtp ? c->accepted : 1); i++)
        say(c, reply_to(".", "250 2.0.0 taken"));
}

/* Eats what is there of a chunk; false: more has to come. */
static inline bool eat_chunk(struct connection *c, size_t *at)
{
    size_t n = c->len - *at < c->chunk ? c->len - *at : c->chunk;
    keep_body(c, c->in + *at, n);
    *at += n;
    c->chunk -= n;
    if (c->chunk > 0)
        return false;
    c->in_chunk = false;
    if (c->last_chunk)
        on_dot(c);
    else
        say(c, reply_to("BDAT", "250 2.0.0 chunk"));
    return true;
}

/* Where the CR LF of the first line begins; NULL: there is none. Not by memmem, for which a sanitizer looks at all of
 * what is searched, for each line again. */
static inline char *line_end(char *text, size_t len)
{
    char *from = text + 1, *lf;
    while (from < text + len && (lf = memchr(from, '\n', (size_t)(text + len - from))) != NULL) {
        if (lf[-1] == '\r')
            return lf - 1;
        from = lf + 1;
    }
    return NULL;
}

/* Eats one line of what came from *at on; false: there is none. */
static inline bool eat_line(struct connection *c, size_t *at)
{
    if (c->in_chunk)
        return c->fd >= 0 && eat_chunk(c, at);
    char *line = c->in + *at;
    char *end = line_end(line, c->len - *at);
    if (end == NULL || c->fd < 0)
        return false;
    size_t n = (size_t)(end - line) + 2;
    *at += n;
    if (!c->data) {
        *end = 0;
        on_command(c, line);
    } else if (n == 3 && line[0] == '.') {
        on_dot(c);
    } else {
        keep_body(c, line, n);
    }
    return true;
}

/* Like recv, out of TLS where that is. */
static inline ssize_t connection_recv(struct connection *c)
{
    char bytes[16384];
    if (c->tls == NULL)
        return recv(c->fd, c->in + c->len, sizeof(c->in) - c->len, MSG_DONTWAIT);
    size_t got = tls_read(c->tls, c->in + c->len, sizeof(c->in) - c->len);
    if (got > 0)
        return (ssize_t)got;
    ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n <= 0)
        return n;
    tls_feed(c->tls, bytes, (size_t)n);
    got = tls_read(c->tls, c->in + c->len, sizeof(c->in) - c->len);
    connection_flush(c);
    if (tls_state(c->tls) == TLS_ENDED || tls_state(c->tls) == TLS_BROKEN)
        return got > 0 ? (ssize_t)got : 0;
    errno = EINTR; /* nothing of it is text: look again */
    return got > 0 ? (ssize_t)got : -1;
}

static inline void connection_turn(struct connection *c)
{
    if (c->leaves > 0 && --c->leaves == 0) {
        say(c, "221 2.0.0 bye");
        connection_close(c);
    }
    while (c->fd >= 0 && server.reading && c->leaves == 0) {
        ssize_t n = connection_recv(c);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            c->ended = true;
            connection_close(c);
            return;
        }
        size_t at = 0;
        c->len += (size_t)n;
        while (eat_line(c, &at))
            ;
        memmove(c->in, c->in + at, c->len - at);
        c->len -= at;
    }
}

static inline void server_turn(void)
{
    int fd;
    while ((fd = accept4(server.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        assert_true(server.n < MOST_CONNECTIONS);
        struct connection *c = mr_calloc(1, sizeof(*c));
        c->fd = fd;
        server.connections[server.n++] = c;
        server.open++;
        if (server.open > server.most_open)
            server.most_open = server.open;
        bool many = server.limit > 0 && server.open > server.limit;
        say(c, many ? "421 4.7.0 too many connections" : reply_to("", "220 hop.example ESMTP"));
    }
    for (unsigned i = 0; i < server.n; i++)
        connection_turn(server.connections[i]);
}

#endif
