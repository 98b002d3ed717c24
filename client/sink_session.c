/* Happy path: accept -> banner -> on_read -> consume -> command_run ... -> record_dot -> flush -> on_read ... -> QUIT
 * -> close. Failure: a read or write error, or the peer's end, closes at once; a message whose dot was not read is
 * forgotten. Close: both handles are closed; the second callback frees the session. */
#include "client/sink_session.h"

#include "proto/base/error.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void run_input(struct sink_session *s);
static void flush(struct sink_session *s);

static void handle_closed(uv_handle_t *handle)
{
    struct sink_session *s = handle->data;

    if (--s->handles > 0)
        return;
    sink_message_free(&s->message);
    free(s->recipients);
    free(s->input);
    free(s->output);
    free(s->flying);
    free(s);
}

void sink_session_close(struct sink_session *s)
{
    struct sink_server *server = s->server;

    if (s->closed)
        return;
    s->closed = true;
    sink_record_forget(s);
    sink_reset_transaction(s);
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        server->sessions = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    sink_stats_disconnected(&server->stats);
    uv_close((uv_handle_t *)&s->tcp, handle_closed);
    uv_close((uv_handle_t *)&s->stall, handle_closed);
}

void sink_end(struct sink_session *s)
{
    s->ending = true;
}

void sink_reset_transaction(struct sink_session *s)
{
    for (size_t i = 0; i < s->recipient_count; i++)
        free(s->recipients[i]);
    s->recipient_count = 0;
    s->sender[0] = '\0';
    if (s->state > SINK_READY)
        s->state = SINK_READY;
}

void sink_reply(struct sink_session *s, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(text, sizeof(text) - 2, format, args);
    va_end(args);
    mr_assert(n > 0);
    size_t len = (size_t)n < sizeof(text) - 3 ? (size_t)n : sizeof(text) - 3;
    text[len++] = '\r';
    text[len++] = '\n';
    if (s->output_len + len > s->output_cap) {
        s->output_cap = (s->output_len + len) * 2;
        s->output = mr_realloc(s->output, s->output_cap);
    }
    memcpy(s->output + s->output_len, text, len);
    s->output_len += len;
}

/* Does what a fault says instead of the step; true when nothing is left to do. */
static bool instead(struct sink_session *s, struct fault_hit hit)
{
    if (hit.kind == FAULT_REFUSE) {
        s->server->stats.faults++;
        sink_reply(s, "%u %u.7.0 refused by order", hit.code, hit.code / 100);
        if (hit.code == 421)
            sink_end(s);
        return true;
    }
    if (hit.kind == FAULT_DROP) {
        s->server->stats.faults++;
        sink_end(s);
        return true;
    }
    return false;
}

static void run_step(struct sink_session *s, enum sink_step step, const char *line, size_t len, struct fault_hit hit)
{
    switch (step) {
    case SINK_STEP_BANNER:
        if (instead(s, hit))
            sink_end(s);
        else
            sink_reply(s, "220 sink.invalid %s mailraft-sink", s->server->options->lmtp ? "LMTP" : "ESMTP");
        break;
    case SINK_STEP_COMMAND:
        if (!instead(s, hit))
            sink_command_run(s, line, len);
        break;
    case SINK_STEP_BODY:
        (void)instead(s, hit);
        break;
    case SINK_STEP_DOT:
        if (hit.kind == FAULT_REFUSE || hit.kind == FAULT_DROP) {
            (void)instead(s, hit);
            sink_record_forget(s);
            sink_reset_transaction(s);
        } else {
            sink_record_dot(s, hit);
        }
        break;
    }
}

static void stall_over(uv_timer_t *timer)
{
    struct sink_session *s = timer->data;

    s->stalled = false;
    run_step(s, s->step, s->held, s->held_len, s->hit);
    run_input(s);
}

/* Rolls the dice and does the step now or after its stall. */
static void begin_step(struct sink_session *s, enum sink_step step, enum fault_verb verb, const char *line, size_t len)
{
    struct fault_hit hit = {.kind = FAULT_NONE};
    struct fault_set *faults = &s->server->options->faults;

    if (step == SINK_STEP_DOT && s->server->options->lmtp)
        hit = fault_roll_others(faults, verb);
    else if (verb < FAULT_VERBS && faults->count > 0)
        hit = fault_roll(faults, verb);
    if (hit.stall_ms == 0) {
        run_step(s, step, line, len, hit);
        return;
    }
    s->server->stats.faults++;
    s->stalled = true;
    s->step = step;
    s->hit = hit;
    s->held_len = len;
    if (len > 0)
        memcpy(s->held, line, len);
    mr_assert(uv_timer_start(&s->stall, stall_over, hit.stall_ms, 0) == 0);
}

/* One command line from in; returns the bytes used, 0: no whole line yet. */
static size_t take_command(struct sink_session *s, const char *in, size_t len)
{
    const char *lf = memchr(in, '\n', len);
    size_t n = lf != NULL ? (size_t)(lf - in) : len;

    if (s->skip_line) {
        s->skip_line = lf == NULL;
        return lf != NULL ? n + 1 : n;
    }
    if (n > SMTP_COMMAND_MAX - 2) {
        sink_reply(s, "500 5.5.2 line too long");
        s->skip_line = lf == NULL;
        return lf != NULL ? n + 1 : n;
    }
    if (lf == NULL)
        return 0;
    size_t line_len = n;
    if (line_len > 0 && in[line_len - 1] == '\r')
        line_len--;
    else
        s->bare_lf = true;
    begin_step(s, SINK_STEP_COMMAND, sink_command_fault(in, line_len), in, line_len);
    return n + 1;
}

static size_t take_data(struct sink_session *s, const char *in, size_t len)
{
    size_t used = 0;

    if (!s->body_rolled) {
        s->body_rolled = true;
        begin_step(s, SINK_STEP_BODY, FAULT_AT_BODY, NULL, 0);
        if (s->stalled || s->ending)
            return 0;
    }
    if (sink_data_feed(&s->data, in, len, &used, sink_record_take, s) == 0)
        begin_step(s, SINK_STEP_DOT, FAULT_AT_DOT, NULL, 0);
    return used;
}

/* Takes what can be taken; returns how much. */
static size_t consume(struct sink_session *s, const char *in, size_t len)
{
    size_t at = 0;

    while (at < len && !s->stalled && !s->ending && s->output_len <= SINK_OUTPUT_MAX) {
        size_t n = s->state == SINK_DATA ? take_data(s, in + at, len - at) : take_command(s, in + at, len - at);
        at += n;
        if (n == 0)
            break;
    }
    return at;
}

static void keep_input(struct sink_session *s, const char *in, size_t len)
{
    if (s->input_len + len > s->input_cap) {
        s->input_cap = s->input_len + len;
        s->input = mr_realloc(s->input, s->input_cap);
    }
    memcpy(s->input + s->input_len, in, len);
    s->input_len += len;
}

static void alloc_shared(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct sink_session *s = handle->data;

    (void)suggested;
    *buf = uv_buf_init(s->server->read_buffer, SINK_READ_SIZE);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct sink_session *s = stream->data;

    if (n == 0)
        return;
    if (n < 0) {
        sink_session_close(s);
        return;
    }
    if (s->ending)
        return; /* what comes behind QUIT or a drop is nobody's */
    size_t len = (size_t)n;
    if (s->input_len > 0 || s->stalled) {
        keep_input(s, buf->base, len);
    } else {
        size_t used = consume(s, buf->base, len);
        if (used < len)
            keep_input(s, buf->base + used, len - used);
    }
    run_input(s);
}

/* Goes on with what waits, writes the replies, and reads or stops reading as the buffers allow. */
static void run_input(struct sink_session *s)
{
    if (s->input_len > 0) {
        size_t used = consume(s, s->input, s->input_len);
        s->input_len -= used;
        memmove(s->input, s->input + used, s->input_len);
    }
    flush(s);
    if (s->closed)
        return;
    bool want = s->input_len < SINK_INPUT_MAX && s->output_len <= SINK_OUTPUT_MAX;
    if (want && !s->reading && uv_read_start((uv_stream_t *)&s->tcp, alloc_shared, on_read) != 0) {
        sink_session_close(s);
        return;
    }
    if (!want && s->reading)
        (void)uv_read_stop((uv_stream_t *)&s->tcp);
    s->reading = want;
}

static void written(uv_write_t *write, int status)
{
    struct sink_session *s = MR_CONTAINER(write, struct sink_session, write);

    s->writing = false;
    free(s->flying);
    s->flying = NULL;
    if (s->closed)
        return;
    if (status != 0)
        sink_session_close(s);
    else
        run_input(s);
}

static void flush(struct sink_session *s)
{
    if (s->writing || s->closed)
        return;
    if (s->output_len > 0) {
        uv_buf_t buf = uv_buf_init(s->output, (unsigned)s->output_len);
        int n = uv_try_write((uv_stream_t *)&s->tcp, &buf, 1);
        if (n < 0 && n != UV_EAGAIN) {
            sink_session_close(s);
            return;
        }
        size_t sent = n > 0 ? (size_t)n : 0;
        if (sent < s->output_len) {
            s->flying = s->output;
            buf = uv_buf_init(s->output + sent, (unsigned)(s->output_len - sent));
            s->output = NULL;
            s->output_len = 0;
            s->output_cap = 0;
            s->writing = true;
            mr_assert(uv_write(&s->write, (uv_stream_t *)&s->tcp, &buf, 1, written) == 0);
            return;
        }
        s->output_len = 0;
    }
    if (s->ending)
        sink_session_close(s);
}

void sink_session_accept(struct sink_server *server)
{
    struct sink_session *s = mr_calloc(1, sizeof(*s));
    struct sockaddr_storage address;
    int len = sizeof(address);

    s->server = server;
    s->tcp.data = s;
    s->stall.data = s;
    s->handles = 2;
    s->number = server->stats.connections + 1;
    sink_message_init(&s->message);
    mr_assert(uv_tcp_init(&server->loop, &s->tcp) == 0);
    mr_assert(uv_timer_init(&server->loop, &s->stall) == 0);
    s->next = server->sessions;
    if (s->next != NULL)
        s->next->prev = s;
    server->sessions = s;
    sink_stats_connected(&server->stats);
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&s->tcp) != 0 ||
        uv_tcp_getpeername(&s->tcp, (struct sockaddr *)&address, &len) != 0) {
        sink_session_close(s);
        return;
    }
    (void)endpoint_format(&address, s->peer);
    (void)uv_tcp_nodelay(&s->tcp, 1);
    if (server->stats.connections_now > server->options->max_connections) {
        server->stats.refused_connections++;
        sink_reply(s, "421 4.7.0 too many connections");
        sink_end(s);
    } else {
        begin_step(s, SINK_STEP_BANNER, FAULT_AT_CONNECT, NULL, 0);
    }
    run_input(s);
}
