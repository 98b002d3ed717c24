/* delivery_body.c - the message on its way to the next hop: pieces from the spool, at most two in memory; read once
 * before MAIL where its form depends on what is in it (body_scan); then converted, if it has to be, and written as DATA
 * or as BDAT.
 *
 * Happy path: body_prepare -> piece -> body_send -> (convert -> dots) -> all of it has left for the network -> may we
 * still? -> journal -> final dot. Why the dot waits: it is what makes the next hop responsible, so it must not lie in
 * our kernel while the lease runs out and another node takes over. PROTOCOL.md 5.7 asks for an empty send queue
 * (SIOCOUTQ). That counts what is not yet acknowledged too, and a receiver delays its acknowledgement by up to 40 ms
 * while it has nothing to say; SIOCOUTQNSD counts what has not been sent. When it is 0, and the next hop was heard of
 * just now, the dot goes out with the next packet, as it would with an empty queue; from a next hop that is silent
 * every byte of the body has to be acknowledged first, so that nothing waits for a network that is cut. A packet that
 * is lost is sent again later in both cases, and for that the promise speaks of attempts in doubt.
 *
 * BDAT (RFC 3030) is fenced the same way. Each piece is a chunk without LAST, and the dot's part is played by
 * "BDAT 0 LAST": until that line has arrived the next hop is responsible for nothing, and it is withheld like the dot.
 * The replies to the chunks may come behind it (no round trip more than DATA has): they are counted, and one that
 * refuses decides the whole, as the next hop then refuses LAST too (RFC 3030 section 2). What is not declared binary is
 * cleaned for BDAT as for DATA, but for the dots. */
#include "node/delivery/delivery_internal.h"

#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* ---- pieces ---- */

struct piece_read {
    struct slot *slot;
    uint64_t serial;
};

static void scan_piece(struct slot *s);

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
    if (s->phase == PHASE_SCAN)
        scan_piece(s);
    else if (s->phase == PHASE_BODY)
        body_pump(s);
}

static void ask_piece(struct slot *s)
{
    struct job *j = s->job;
    if (j->reading || j->have_ready || j->last_read)
        return;
    if (j->a->body != NULL) { /* it came with the attempt: one piece, the whole */
        j->piece++;
        j->ready = j->a->body;
        j->ready_len = j->a->body_len;
        j->ready_last = true;
        j->have_ready = true;
        return;
    }
    struct piece_read *r = mr_malloc(sizeof(*r));
    r->slot = s;
    r->serial = s->serial;
    j->reading = true;
    s->reads++;
    delivery_backend.body_read(s->d->w->port, j->a->id, j->piece++, on_piece, r);
}

static void drop_piece(struct job *j)
{
    if (j->a == NULL || j->ready != j->a->body)
        free(j->ready);
    j->ready = NULL;
    j->have_ready = false;
}

void body_forget(struct job *j)
{
    mime_scan_abort(j->scan);
    if (j->conversion != NULL)
        mime_convert_abort(j->conversion);
    mime_plan_free(j->plan);
    j->scan = NULL;
    j->conversion = NULL;
    j->plan = NULL;
    free(j->converted.text);
    j->converted = (struct form_text){0};
    drop_piece(j);
}

void body_prepare(struct slot *s)
{
    smtp_dotted_begin(&s->job->dotted, !s->job->form.bdat);
    ask_piece(s);
}

/* ---- read before it is sent ---- */

void body_scan(struct slot *s, enum mime_target target)
{
    s->phase = PHASE_SCAN;
    s->job->scan = mime_scan_open(target);
    slot_timer(s, s->d->w->config->delivery.data_timeout_ms);
    ask_piece(s);
    if (s->job->have_ready)
        scan_piece(s); /* s may serve another message after it */
}

static void scan_piece(struct slot *s)
{
    struct job *j = s->job;
    if (j->body_failed) {
        job_fail(s, false, "4.3.0", false, "the body cannot be read now on any node that holds it");
        job_finish_idle(s);
        return;
    }
    mime_scan_feed(j->scan, (const char *)j->ready, j->ready_len);
    if (!j->ready_last) {
        drop_piece(j);
        ask_piece(s);
        return;
    }
    if (j->piece > 1) { /* else the one piece is the whole: it is not read again */
        drop_piece(j);
        j->piece = 0;
    }
    struct mime_found found = mime_scan_end(j->scan, &j->plan);
    j->scan = NULL;
    transaction_scanned(s, &found);
}

/* ---- writing ---- */

static void on_converted(void *arg, const char *data, size_t len)
{
    struct form_text *t = arg;
    form_append(t, data, len);
}

static void write_chunk(struct slot *s, const char *data, size_t len)
{
    char line[40];
    int n = snprintf(line, sizeof(line), "BDAT %zu\r\n", len);
    slot_write(s, line, (size_t)n);
    slot_write(s, data, len);
    s->job->chunks++;
}

static void write_clean(struct slot *s, const char *data, size_t len)
{
    const char *out = data;
    size_t out_len = len;
    char *mended = NULL;
    if (s->job->form.body != FORM_BINARY)
        mended = smtp_dotted_feed(&s->job->dotted, data, len, &out, &out_len);
    if (out_len > 0 && s->job->form.bdat)
        write_chunk(s, out, out_len);
    else if (out_len > 0)
        slot_write(s, out, out_len);
    free(mended);
}

static void write_piece(struct slot *s)
{
    struct job *j = s->job;
    if (j->plan != NULL) {
        if (j->conversion == NULL)
            j->conversion = mime_convert_open(j->plan, on_converted, &j->converted);
        j->converted.len = 0;
        mime_convert_feed(j->conversion, (const char *)j->ready, j->ready_len);
        if (j->ready_last) {
            j->body_failed = mime_convert_end(j->conversion) != 0;
            j->conversion = NULL;
        }
        write_clean(s, j->converted.text, j->converted.len);
    } else {
        write_clean(s, (const char *)j->ready, j->ready_len);
    }
    j->last_read = j->ready_last;
    drop_piece(j);
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

void body_check_queue(struct slot *s)
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
    if (slot_overdue(s)) { /* by the next hop's slowness: given back, it would begin again at once, and for ever */
        slot_give_up(s);
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
    if (j->form.bdat)
        slot_write(s, "BDAT 0 LAST\r\n", 13);
    else
        slot_write(s, ".\r\n", 3);
    slot_timer(s, s->d->w->config->delivery.data_timeout_ms);
}

/* Without PIPELINING each chunk is answered before the next is sent. */
static bool next_hop_is_due(const struct slot *s)
{
    return s->job->chunks > 0 && !(s->can.flags & CAP_PIPELINING);
}

static void all_written(struct slot *s)
{
    struct job *j = s->job;
    const char *rest = j->form.body == FORM_BINARY ? "" : smtp_dotted_end(&j->dotted);
    if (rest[0] != 0 && j->form.bdat)
        write_chunk(s, rest, strlen(rest));
    else if (rest[0] != 0)
        slot_write(s, rest, strlen(rest));
    if (s->writes > 0 || next_hop_is_due(s))
        return; /* body_pump comes again */
    s->phase = PHASE_QUEUE;
    s->queue_begun_ns = 0;
    body_check_queue(s);
}

void body_pump(struct slot *s)
{
    struct job *j = s->job;
    while (s->writes == 0 && s->phase == PHASE_BODY) {
        if (j->body_failed) {
            job_fail(s, false, "4.3.0", false, "the body cannot be read now on any node that holds it");
            j->unreached = false;
            job_finish(s);
            slot_close(s, true); /* DATA cannot be taken back otherwise */
            return;
        }
        if (j->last_read) {
            all_written(s);
            return;
        }
        if (next_hop_is_due(s))
            return;
        if (!j->have_ready)
            ask_piece(s);
        if (!j->have_ready)
            return;
        write_piece(s);
        ask_piece(s);
        slot_timer(s, slot_timeout_ms(s));
    }
}

void body_send(struct slot *s)
{
    s->phase = PHASE_BODY;
    slot_timer(s, slot_timeout_ms(s));
    body_pump(s);
}
