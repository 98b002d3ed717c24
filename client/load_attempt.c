/* One transaction: MAIL, RCPT, DATA in one write where the node offers PIPELINING (RFC 2920), else one after another;
 * then the message; then the reply to the dot. Each refusal is written down with the recipients that it is about. */
#include "client/load_session.h"

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void recipient_text(const struct load_session *s, size_t index, char out[SMTP_ADDRESS_MAX + 1])
{
    if (load_recipient(s->run->options->recipient, s->message_number, index, out) != 0)
        out[0] = '\0'; /* checked with the longest numbers when the options were read */
}

/* Where the session stands, for the journal. */
static const char *verb_now(const struct load_session *s)
{
    switch (s->state) {
    case LOAD_RESOLVE:
    case LOAD_CONNECT:
        return "connect";
    case LOAD_BANNER:
        return "banner";
    case LOAD_EHLO:
    case LOAD_HELO:
        return "ehlo";
    case LOAD_BODY:
        return "body";
    case LOAD_DOT:
        return "dot";
    case LOAD_ENVELOPE:
        break;
    default:
        return "mail";
    }
    if (s->next_reply == 0)
        return "mail";
    return s->next_reply <= s->tried_count ? "rcpt" : "data";
}

struct attempt_line {
    const char *event;
    int code;            /* 0: none */
    const char *text;    /* NULL: none */
    uint64_t seconds_ns; /* 0: none */
    int only_state;      /* recipients in this state */
    size_t only;         /* SIZE_MAX: all of them; else this one */
};

static void write_line(struct load_session *s, const struct attempt_line *a)
{
    struct load_run *run = s->run;
    struct journal_line *line = &run->line;
    char address[SMTP_ADDRESS_MAX + 1];

    if (run->journal == NULL)
        return;
    journal_line_begin(line, a->event);
    journal_text(line, "key", s->key);
    journal_number(line, "session", s->number);
    journal_text(line, "target", run->options->targets[s->target].text);
    journal_number(line, "attempt", s->attempt);
    journal_text(line, "verb", verb_now(s));
    if (a->code != 0)
        journal_number(line, "code", (uint64_t)a->code);
    journal_text(line, "text", a->text);
    if (a->seconds_ns != 0)
        journal_seconds(line, "seconds", a->seconds_ns);
    journal_number(line, "size", run->options->size);
    if (s->rendered)
        journal_text(line, "sum", s->message.sum);
    journal_text(line, "sender", run->options->sender);
    journal_list_begin(line, "recipients");
    for (size_t i = 0; i < run->options->recipients; i++) {
        if (a->only == SIZE_MAX ? s->recipients[i] != a->only_state : i != a->only)
            continue;
        recipient_text(s, i, address);
        journal_text(line, NULL, address);
    }
    journal_list_end(line);
    load_run_write(run);
}

static void count_refusal(struct load_session *s)
{
    if (s->reply.code / 100 == 5)
        s->run->counts.permanent++;
    else
        s->run->counts.temporary++;
}

/* The reply refuses the recipients in this state (only: one of them); 5xx is final for them. */
static void refuse(struct load_session *s, int state, size_t only)
{
    struct attempt_line a = {"refused", s->reply.code, smtp_reply_last(&s->reply), 0, state, only};
    bool final = s->reply.code / 100 == 5;

    if (s->state == LOAD_DOT)
        a.seconds_ns = load_run_now() - s->dot_ns;
    write_line(s, &a);
    count_refusal(s);
    for (size_t i = 0; i < s->run->options->recipients; i++) {
        if (only == SIZE_MAX ? s->recipients[i] == state : i == only)
            s->recipients[i] = final ? LOAD_RCPT_REFUSED : LOAD_RCPT_WAITING;
    }
}

void load_attempt_refused_session(struct load_session *s)
{
    const struct attempt_line a = {"refused", s->reply.code,     smtp_reply_last(&s->reply),
                                   0,         LOAD_RCPT_WAITING, SIZE_MAX};

    if (!s->busy)
        return;
    write_line(s, &a);
    count_refusal(s);
    load_attempt_give_up(s, load_run_now());
}

void load_attempt_give_up(struct load_session *s, uint64_t now_ns)
{
    const uint64_t limit = (uint64_t)(s->run->options->give_up_s * (double)MR_NS_PER_S);
    const struct attempt_line a = {"given_up", 0, NULL, 0, LOAD_RCPT_WAITING, SIZE_MAX};

    if (now_ns - s->first_ns < limit && !s->run->stopping)
        return;
    write_line(s, &a);
    s->run->counts.given_up++;
    s->busy = false;
}

/* Recipients that the transaction had taken are without an answer again. */
static void untake(struct load_session *s)
{
    for (size_t i = 0; i < s->run->options->recipients; i++) {
        if (s->recipients[i] == LOAD_RCPT_TAKEN)
            s->recipients[i] = LOAD_RCPT_WAITING;
    }
}

/* When each recipient has its final reply, counts the message and lets it go. */
static bool finished(struct load_session *s)
{
    const size_t count = s->run->options->recipients;
    size_t refused = 0;

    for (size_t i = 0; i < count; i++) {
        if (s->recipients[i] == LOAD_RCPT_WAITING)
            return false;
        refused += s->recipients[i] == LOAD_RCPT_REFUSED;
    }
    if (refused > 0)
        s->run->counts.refused++;
    else
        s->run->counts.accepted++;
    s->busy = false;
    return true;
}

void load_attempt_broken(struct load_session *s, const char *why)
{
    bool dot = s->state == LOAD_DOT && !s->empty;
    struct attempt_line a = {dot ? "indeterminate" : "broken", 0, why, 0, LOAD_RCPT_WAITING, SIZE_MAX};
    size_t waiting = 0;

    /* At and behind the body only those of the transaction are in doubt; the others were refused and written down. */
    if (s->state == LOAD_BODY || dot)
        a.only_state = LOAD_RCPT_TAKEN;
    else
        untake(s);
    if (dot)
        a.seconds_ns = load_run_now() - s->dot_ns;
    for (size_t i = 0; i < s->run->options->recipients; i++)
        waiting += s->recipients[i] == a.only_state;
    if (waiting > 0) {
        write_line(s, &a);
        if (dot)
            s->run->counts.indeterminate++;
        else
            s->run->counts.broken++;
    }
    untake(s);
    if (!finished(s))
        load_attempt_give_up(s, load_run_now());
}

static __attribute__((format(printf, 2, 3))) void add_command(struct load_session *s, const char *format, ...)
{
    va_list args;

    if (s->out_cap - s->out_len < SMTP_COMMAND_MAX) {
        s->out_cap = s->out_cap * 2 + SMTP_COMMAND_MAX;
        s->out = mr_realloc(s->out, s->out_cap);
    }
    va_start(args, format);
    int n = vsnprintf(s->out + s->out_len, s->out_cap - s->out_len, format, args);
    va_end(args);
    mr_assert(n > 0 && (size_t)n < s->out_cap - s->out_len);
    s->out_len += (size_t)n;
}

/* The next command, or with PIPELINING all. */
static void send_commands(struct load_session *s)
{
    char address[SMTP_ADDRESS_MAX + 1];

    s->out_len = 0;
    do {
        size_t index = s->next_command++;
        if (index == 0 && s->size_offered) {
            add_command(s, "MAIL FROM:<%s> SIZE=%llu\r\n", s->run->options->sender,
                        (unsigned long long)s->message.total);
        } else if (index == 0) {
            add_command(s, "MAIL FROM:<%s>\r\n", s->run->options->sender);
        } else if (index <= s->tried_count) {
            recipient_text(s, s->tried[index - 1], address);
            add_command(s, "RCPT TO:<%s>\r\n", address);
        } else {
            add_command(s, "DATA\r\n");
        }
    } while (s->pipelining && s->next_command < s->tried_count + 2);
    (void)load_session_send(s, s->out, s->out_len);
}

void load_attempt_begin(struct load_session *s)
{
    char address[SMTP_ADDRESS_MAX + 1];

    s->tried_count = 0;
    for (size_t i = 0; i < s->run->options->recipients; i++) {
        if (s->recipients[i] == LOAD_RCPT_WAITING)
            s->tried[s->tried_count++] = (uint16_t)i;
    }
    mr_assert(s->tried_count > 0);
    recipient_text(s, 0, address);
    const struct load_envelope envelope = {s->key, s->run->options->sender, address, mr_wall_ms(&mr_clock_real)};
    load_message_start(&s->message, &s->run->text, s->message_number, s->run->options->size, &envelope);
    s->rendered = true;
    s->next_command = 0;
    s->next_reply = 0;
    s->taken = 0;
    s->mail_refused = false;
    s->empty = false;
    load_session_enter(s, LOAD_ENVELOPE);
    send_commands(s);
}

/* The attempt was written down; the message is done, or goes to the next node. reset: the transaction is still open. */
static void end_attempt(struct load_session *s, bool reset)
{
    if (finished(s)) {
        s->failures = 0;
        load_session_next(s, reset);
    } else {
        load_attempt_give_up(s, load_run_now());
        load_session_move_on(s);
    }
}

/* Hands pieces over for as long as the kernel takes them; behind the last one nobody can tell any more whether the node
 * has the message. */
static void send_pieces(struct load_session *s)
{
    for (;;) {
        if (s->message.last) {
            s->dot_ns = load_run_now();
            load_session_enter(s, LOAD_DOT);
        }
        if (!load_session_send(s, s->message.wire, s->message.wire_len) || s->state != LOAD_BODY)
            return;
        load_message_next(&s->message, &s->run->text);
        load_session_enter(s, LOAD_BODY);
    }
}

static void data_reply(struct load_session *s)
{
    if (s->reply.code != 354) {
        if (s->taken > 0 && s->reply.code >= 400)
            refuse(s, LOAD_RCPT_TAKEN, SIZE_MAX);
        else if (s->taken > 0) {
            load_session_break(s, "neither 354 nor a refusal of DATA");
            return;
        }
        end_attempt(s, true);
        return;
    }
    if (s->writing) {
        load_session_break(s, "354 before DATA was sent");
        return;
    }
    if (s->taken == 0) {
        s->empty = true;
        s->dot_ns = load_run_now();
        load_session_enter(s, LOAD_DOT);
        (void)load_session_send(s, ".\r\n", 3);
        return;
    }
    load_session_enter(s, LOAD_BODY);
    send_pieces(s);
}

static void envelope_reply(struct load_session *s)
{
    const size_t index = s->next_reply;
    const bool good = s->reply.code / 100 == 2;

    if (index >= s->next_command || (index <= s->tried_count && s->reply.code / 100 == 3)) {
        load_session_break(s, "a reply that does not fit");
        return;
    }
    if (index == 0) {
        s->mail_refused = !good;
        if (!good)
            refuse(s, LOAD_RCPT_WAITING, SIZE_MAX);
    } else if (index <= s->tried_count && !s->mail_refused) {
        if (good) {
            s->recipients[s->tried[index - 1]] = LOAD_RCPT_TAKEN;
            s->taken++;
        } else {
            refuse(s, LOAD_RCPT_WAITING, s->tried[index - 1]);
        }
    } else if (index > s->tried_count) {
        data_reply(s);
        return;
    }
    s->next_reply++;
    if (s->reply.code == 421) { /* the node closes; the replies to what was pipelined will not come */
        untake(s);
        end_attempt(s, false);
        return;
    }
    load_session_enter(s, LOAD_ENVELOPE);
    if (s->pipelining)
        return;
    if (s->mail_refused || (s->next_reply > s->tried_count && s->taken == 0))
        end_attempt(s, !s->mail_refused);
    else
        send_commands(s);
}

static void dot_reply(struct load_session *s)
{
    const uint64_t now = load_run_now();

    if (s->empty) {
        end_attempt(s, false);
        return;
    }
    if (s->reply.code / 100 == 3) {
        load_session_break(s, "neither 250 nor a refusal of the message");
        return;
    }
    if (s->reply.code / 100 == 2) {
        const struct attempt_line a = {
            "sent", s->reply.code, smtp_reply_last(&s->reply), now - s->dot_ns, LOAD_RCPT_TAKEN, SIZE_MAX,
        };
        write_line(s, &a);
        for (size_t i = 0; i < s->run->options->recipients; i++) {
            if (s->recipients[i] == LOAD_RCPT_TAKEN)
                s->recipients[i] = LOAD_RCPT_SENT;
        }
        load_run_accepted(s->run, s->dot_ns, now, s->message.total);
    } else {
        refuse(s, LOAD_RCPT_TAKEN, SIZE_MAX);
    }
    end_attempt(s, false);
}

void load_attempt_reply(struct load_session *s)
{
    if (s->state == LOAD_ENVELOPE) {
        envelope_reply(s);
        return;
    }
    if (s->state == LOAD_DOT && !s->writing) {
        dot_reply(s);
        return;
    }
    /* A reply while the message is still being written: a node that refuses early, or one that is confused. */
    if (s->reply.code >= 400) {
        refuse(s, LOAD_RCPT_TAKEN, SIZE_MAX);
        s->reply.code = 421; /* what was begun cannot be ended: close without QUIT */
        end_attempt(s, false);
    } else {
        load_session_break(s, "a reply before the end of the message");
    }
}

void load_attempt_written(struct load_session *s)
{
    if (s->state != LOAD_BODY)
        return;
    load_session_enter(s, LOAD_BODY);
    load_message_next(&s->message, &s->run->text);
    send_pieces(s);
}
