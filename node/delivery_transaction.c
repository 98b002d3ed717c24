/* One attempt over a connection that stands: MAIL to the reply to the final dot (RFC 5321, 2920; LMTP: 2033).
 *
 * Happy path with PIPELINING: MAIL, RCPT..., DATA in one write -> their replies -> body, a piece at a time, at most two
 * in memory -> all of it has left for the network -> may we still? -> journal -> final dot -> its reply (LMTP: one a
 * recipient) -> job_finish. Why the dot waits: it is what makes the next hop responsible, so it must not lie in our
 * kernel while the lease runs out and another node takes over. PROTOCOL.md 5.7 asks for an empty send queue (SIOCOUTQ).
 * That counts what is not yet acknowledged too, and a receiver delays its acknowledgement by up to 40 ms while it has
 * nothing to say; SIOCOUTQNSD counts what has not been sent. When it is 0, and the next hop was heard of just now, the
 * dot goes out with the next packet, as it would with an empty queue; from a next hop that is silent every byte of the
 * body has to be acknowledged first, so that nothing waits for a network that is cut. A packet that is lost is sent
 * again later in both cases, and for that the promise speaks of attempts in doubt. */
#include "node/delivery_internal.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* ---- commands ---- */

struct commands {
    char *text;
    size_t len, size;
};

__attribute__((format(printf, 2, 3))) static void add(struct commands *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(c->text + c->len, c->size - c->len, format, args);
    va_end(args);
    mr_assert(n >= 0 && (size_t)n < c->size - c->len);
    c->len += (size_t)n;
}

static void add_mail(struct slot *s, struct commands *c)
{
    const struct attempt *a = s->job->a;
    add(c, "MAIL FROM:<%s>", a->reverse_path);
    if (s->can.flags & CAP_SIZE)
        add(c, " SIZE=%llu", (unsigned long long)a->body_length);
    /* To a next hop without 8BITMIME the bytes go as they are: nearly all of them take it, and to convert would break
     * signatures. */
    if ((a->flags & MESSAGE_8BITMIME) && (s->can.flags & CAP_8BITMIME))
        add(c, " BODY=8BITMIME");
    add(c, "\r\n");
}

static size_t commands_size(const struct attempt *a)
{
    size_t size = strlen(a->reverse_path) + 128;
    for (uint32_t i = 0; i < a->n_recipients; i++)
        size += strlen(a->recipients[i].address) + 16;
    return size;
}

static void send_commands(struct slot *s)
{
    struct job *j = s->job;
    struct commands c = {.size = commands_size(j->a)};
    c.text = mr_malloc(c.size);
    add_mail(s, &c);
    if (s->can.flags & CAP_PIPELINING) {
        for (uint32_t i = 0; i < j->a->n_recipients; i++)
            add(&c, "RCPT TO:<%s>\r\n", j->a->recipients[i].address);
        add(&c, "DATA\r\n");
        j->data_sent = true;
    }
    slot_write(s, c.text, c.len);
    free(c.text);
}

static void send_rcpt(struct slot *s, uint32_t recipient)
{
    char line[1100];
    int n = snprintf(line, sizeof(line), "RCPT TO:<%s>\r\n", s->job->a->recipients[recipient].address);
    mr_assert(n > 0 && (size_t)n < sizeof(line));
    slot_write(s, line, (size_t)n);
}

/* ---- the body ---- */

struct piece_read {
    struct slot *slot;
    uint64_t serial;
};

static void pump(struct slot *s);

static void on_piece(void *arg, int status, uint8_t *data, size_t len, bool last)
{
    struct piece_read *r = arg;
    struct slot *s = r->slot;
    bool current = s->job != NULL && r->serial == s->serial;
    free(r);
    s->reads--;
    if (!current) {
        free(data);
        if (s->phase == PHASE_NONE)
            slot_next(s); /* it may have waited for this only */
        return;
    }
    struct job *j = s->job;
    j->reading = false;
    if (status != 0) {
        j->body_failed = true;
    } else {
        j->ready = data;
        j->ready_len = len;
        j->ready_last = last;
        j->have_ready = true;
    }
    if (s->phase == PHASE_BODY)
        pump(s);
}

static void ask_piece(struct slot *s)
{
    struct job *j = s->job;
    if (j->reading || j->have_ready || j->last_read)
        return;
    struct piece_read *r = mr_malloc(sizeof(*r));
    r->slot = s;
    r->serial = s->serial;
    j->reading = true;
    s->reads++;
    delivery_backend.body_read(s->d->w->port, j->a->id, j->piece++, on_piece, r);
}

static bool needs_stuffing(const struct job *j, const char *data, size_t len)
{
    return len > 0 && ((j->line_start && data[0] == '.') || memmem(data, len, "\n.", 2) != NULL);
}

/* Doubles dots at line beginnings (RFC 5321 4.5.2). */
static void write_stuffed(struct slot *s, const char *data, size_t len)
{
    char *out = mr_malloc(len * 2);
    size_t n = 0;
    bool start = s->job->line_start;
    for (size_t i = 0; i < len; i++) {
        if (start && data[i] == '.')
            out[n++] = '.';
        out[n++] = data[i];
        start = data[i] == '\n';
    }
    slot_write(s, out, n);
    free(out);
}

static void write_piece(struct slot *s)
{
    struct job *j = s->job;
    const char *data = (const char *)j->ready;
    size_t len = j->ready_len;

    if (needs_stuffing(j, data, len))
        write_stuffed(s, data, len);
    else if (len > 0)
        slot_write(s, data, len);
    if (len > 0) {
        j->line_start = data[len - 1] == '\n';
        j->tail[0] = len > 1 ? data[len - 2] : j->tail[1];
        j->tail[1] = data[len - 1];
    }
    free(j->ready);
    j->ready = NULL;
    j->have_ready = false;
    j->last_read = j->ready_last;
}

/* Nothing of the body waits in our kernel, and the peer is there to take the dot. */
static bool network_has_it(const struct slot *s)
{
    enum { HEARD_MS = 100 };
    struct tcp_info info = {0};
    socklen_t info_len = sizeof(info);
    uv_os_fd_t fd;
    int unsent, unacked;

    if (uv_fileno((const uv_handle_t *)&s->tcp, &fd) != 0 || ioctl(fd, SIOCOUTQNSD, &unsent) != 0 ||
        ioctl(fd, SIOCOUTQ, &unacked) != 0)
        return false; /* reading finds what is wrong */
    if (unacked == 0)
        return true;
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    return unsent == 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) == 0 &&
           info.tcpi_last_ack_recv < HEARD_MS && poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) != 0;
}

static void check_queue(struct slot *s)
{
    enum { MOST_POLLS_MS = 20 };
    struct job *j = s->job;
    if (!network_has_it(s)) {
        uint64_t now = mr_boot_ns(&mr_clock_real);
        uint64_t waited = s->queue_begun_ns == 0 ? 0 : now - s->queue_begun_ns;
        if (s->queue_begun_ns == 0)
            s->queue_begun_ns = now;
        if (waited > s->d->w->config->delivery.data_timeout_ms * MR_NS_PER_MS) {
            slot_lost(s, "the body was not taken in time");
            return;
        }
        uint64_t again = waited / MR_NS_PER_MS / 2;
        slot_timer(s, again < 1 ? 1 : again > MOST_POLLS_MS ? MOST_POLLS_MS : (unsigned)again);
        return;
    }
    if (!delivery_backend.may_send(s->d->w->port, j->a)) {
        job_release(s, "lease ended before the final dot");
        slot_close(s, true);
        return;
    }
    delivery_backend.dot(s->d->w->port, j->a);
    j->dot_written = true;
    s->phase = PHASE_DOT;
    slot_write(s, ".\r\n", 3);
    slot_timer(s, s->d->w->config->delivery.data_timeout_ms);
}

static void body_done(struct slot *s)
{
    struct job *j = s->job;
    if (j->tail[1] != '\n' || j->tail[0] != '\r') {
        bool cr = j->tail[1] == '\r';
        j->tail[0] = '\r';
        j->tail[1] = '\n';
        slot_write(s, cr ? "\n" : "\r\n", cr ? 1 : 2);
    }
    if (s->writes > 0)
        return; /* transaction_written comes again */
    s->phase = PHASE_QUEUE;
    s->queue_begun_ns = 0;
    check_queue(s);
}

static void pump(struct slot *s)
{
    struct job *j = s->job;
    while (s->writes == 0 && s->phase == PHASE_BODY) {
        if (j->last_read) {
            body_done(s);
            return;
        }
        if (j->body_failed) {
            job_fail(s, false, "4.3.0", false, "the body cannot be read now on any node that holds it");
            j->unreached = false;
            job_finish(s);
            slot_close(s, true); /* DATA cannot be taken back otherwise */
            return;
        }
        if (!j->have_ready) {
            ask_piece(s);
            return;
        }
        write_piece(s);
        ask_piece(s);
        slot_timer(s, s->d->w->config->delivery.data_timeout_ms);
    }
}

void transaction_written(struct slot *s)
{
    pump(s);
}

/* ---- the end ---- */

/* clean: the server is back where MAIL may come; else RSET makes it so. */
static void end(struct slot *s, bool clean)
{
    const struct cluster_rules *rules = s->d->w->rules;
    uint32_t most = rules == NULL ? 0 : route_limit(rules->rules, s->next_hop)->messages_per_connection;

    job_finish(s);
    s->messages++;
    if (s->quit) {
        slot_close(s, false);
    } else if (most > 0 && s->messages >= most) {
        slot_quit(s);
    } else if (!clean) {
        s->phase = PHASE_RSET;
        slot_write(s, "RSET\r\n", 6);
        slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
    } else {
        s->phase = PHASE_IDLE;
        uv_timer_stop(&s->timer);
        slot_next(s);
    }
}

void transaction_begin(struct slot *s)
{
    struct job *j = s->job;
    s->serial++;
    s->quit = false;
    if (!delivery_backend.may_send(s->d->w->port, j->a)) {
        job_release(s, "lease ended");
        s->phase = PHASE_IDLE;
        slot_next(s);
        return;
    }
    if ((s->can.flags & CAP_SIZE) && s->can.size > 0 && j->a->body_length > s->can.size) {
        job_fail(s, true, "5.3.4", false, "message of %llu bytes is over the limit of %s (%llu)",
                 (unsigned long long)j->a->body_length, s->peer, (unsigned long long)s->can.size);
        job_finish(s);
        s->phase = PHASE_IDLE;
        slot_next(s);
        return;
    }
    j->line_start = true;
    s->phase = PHASE_MAIL;
    send_commands(s);
    ask_piece(s);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

/* ---- replies ---- */

static bool all_rcpts_answered(const struct job *j)
{
    return j->next_rcpt == j->a->n_recipients;
}

static void after_rcpts(struct slot *s)
{
    struct job *j = s->job;
    if (j->data_sent) {
        s->phase = PHASE_DATA;
    } else if (j->n_accepted > 0) {
        s->phase = PHASE_DATA;
        j->data_sent = true;
        slot_write(s, "DATA\r\n", 6);
    } else {
        end(s, false);
    }
}

static void on_mail(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    j->mail_code = code;
    s->phase = PHASE_RCPT;
    if (code / 100 != 2)
        job_decide_all(j, code, text);
    if (j->data_sent)
        return;
    if (code / 100 != 2)
        end(s, false);
    else
        send_rcpt(s, 0);
}

static void on_rcpt(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    uint32_t i = j->next_rcpt++;
    if (j->mail_code / 100 == 2) {
        if (code / 100 == 2) {
            j->results[i].accepted = true;
            j->n_accepted++;
        } else {
            job_decide(j, i, code, text);
        }
    }
    if (all_rcpts_answered(j))
        after_rcpts(s);
    else if (!j->data_sent)
        send_rcpt(s, j->next_rcpt);
}

static void decide_accepted(struct job *j, int code, const char *text)
{
    for (uint32_t i = 0; i < j->a->n_recipients; i++)
        if (j->results[i].accepted)
            job_decide(j, i, code, text);
}

static void on_data(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    if (code == 354 && j->n_accepted > 0) {
        s->phase = PHASE_BODY;
        slot_timer(s, s->d->w->config->delivery.data_timeout_ms);
        pump(s);
    } else if (code == 354 && s->hop.kind == NEXT_HOP_LMTP) {
        s->quit = true; /* there would be no reply at all */
        end(s, false);
    } else if (code == 354) {
        /* Nobody was accepted, yet it wants data: an empty message, which it cannot deliver to anybody (RFC 2920 3.1).
         */
        s->phase = PHASE_DOT;
        slot_write(s, ".\r\n", 3);
    } else {
        decide_accepted(j, code / 100 == 2 || code / 100 == 3 ? 451 : code, text);
        end(s, false);
    }
}

static void on_dot(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;
    if (s->hop.kind != NEXT_HOP_LMTP) {
        decide_accepted(j, code, text);
        end(s, true);
        return;
    }
    while (j->next_lmtp < j->a->n_recipients && !j->results[j->next_lmtp].accepted)
        j->next_lmtp++;
    if (j->next_lmtp < j->a->n_recipients)
        job_decide(j, j->next_lmtp++, code, text);
    while (j->next_lmtp < j->a->n_recipients && !j->results[j->next_lmtp].accepted)
        j->next_lmtp++;
    if (j->next_lmtp == j->a->n_recipients)
        end(s, true);
}

void transaction_reply(struct slot *s, int code, const char *text)
{
    struct job *j = s->job;

    if (code == 421 && !slot_fresh(s)) { /* "idle for too long", said while the next transaction was on its way */
        slot_again(s);
        return;
    }
    j->answered = true;
    slot_timer(s, s->phase < PHASE_BODY ? s->d->w->config->delivery.command_timeout_ms
                                        : s->d->w->config->delivery.data_timeout_ms);
    if (code == 421) { /* the server ends the session, whatever it was asked (RFC 5321 3.8) */
        s->quit = true;
        job_decide_all(j, code, text);
        end(s, true);
        return;
    }
    switch (s->phase) {
    case PHASE_MAIL:
        on_mail(s, code, text);
        break;
    case PHASE_RCPT:
        on_rcpt(s, code, text);
        break;
    case PHASE_DATA:
        on_data(s, code, text);
        break;
    case PHASE_DOT:
        on_dot(s, code, text);
        break;
    default: /* a reply in the middle of the body: it will not take the rest */
        decide_accepted(j, code / 100 >= 4 ? code : 451, text);
        job_finish(s);
        slot_close(s, true);
        break;
    }
}

void transaction_timeout(struct slot *s)
{
    if (s->phase == PHASE_QUEUE)
        check_queue(s);
    else
        slot_lost(s, "timed out");
}
