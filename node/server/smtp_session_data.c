/* smtp_session_data.c - DATA and BDAT: the text of a message, as far as the session has to do with it.
 *
 * DATA: 354 -> DATA -> the final dot -> WAIT for the answer, or the refusal, then READY.
 * BDAT: RCPT or BDAT -> CHUNK, until its octets are there -> 250 and BDAT, after the last one as with the dot.
 * A chunk that is refused before it comes (wrong time, too large, not offered) is skipped without being looked at; one
 * in which something wrong is found is read to its end. Either way its reply is the refusal, and the transaction is
 * over: further chunks meet 503, and are skipped too, so that none of their octets is ever taken for a command.
 * Only where the size of a chunk cannot be known, or is beyond all measure, the connection ends. */
#include "node/server/smtp_session_internal.h"

#include "proto/base/error.h"
#include "proto/base/panic.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the beginning ---- */

static void begin_text(struct smtp_session *s, bool chunks)
{
    const struct config *config = s->server->worker->config;
    struct smtp_transaction *t = s->transaction;
    char client[INET6_ADDRSTRLEN + 8];
    char comment[SMTP_MAX_TLS_COMMENT];
    struct smtp_received received = {
        .helo = s->client.helo,
        .client = client,
        .hostname = config->smtp.hostname,
        .how = (s->client.esmtp ? PROTOCOL_EXTENDED : 0U) | (s->lmtp ? PROTOCOL_LMTP : 0U) |
               (t->envelope.utf8 ? PROTOCOL_UTF8 : 0U) | (s->tls != NULL ? PROTOCOL_TLS : 0U) |
               (s->user[0] != '\0' ? PROTOCOL_AUTH : 0U),
        .tls = s->tls != NULL ? smtp_session_tls_comment(s, comment) : NULL,
        .has_priority = t->envelope.has_priority,
        .priority = t->envelope.priority,
    };
    struct smtp_text_kind kind = {
        .chunks = chunks,
        /* Binary text has no line ends to be mended, and the reader that would hold a CR back leaves it at its header.
         */
        .mend = t->envelope.body != BODY_BINARYMIME && network_contains(&config->smtp.normalize_from, &s->address.any),
        .complete = s->profile == PROFILE_SUBMISSION,
    };

    (void)stpcpy(stpcpy(client, strchr(s->client.address, ':') != NULL ? "IPv6:" : ""), s->client.address);
    if (t->envelope.n == 1) {
        received.recipient = smtp_envelope_first(&t->envelope);
        received.recipient_len = strlen(received.recipient);
    }
    smtp_transaction_data(t, &received, kind);
}

void smtp_session_data(struct smtp_session *s, struct smtp_slice args)
{
    const struct smtp_transaction *t = s->transaction;

    (void)args;
    if (t->envelope.n == 0) {
        /* RFC 2033 section 4.2 asks for 503: with no recipient there would be no reply after the dot. */
        smtp_session_refuse(s, SMTP_REPLY(s->lmtp ? 503 : 554, "5.5.1", "No valid recipients"));
        return;
    }
    if (t->envelope.body == BODY_BINARYMIME) {
        smtp_session_refuse(s, SMTP_REPLY(503, "5.5.1", "BODY=BINARYMIME needs BDAT"));
        return;
    }
    if (!smtp_session_is_ready(s, SMTP_AT_DATA))
        return;
    begin_text(s, false);
    smtp_session_move(s, SMTP_DATA);
    smtp_session_reply(s, SMTP_REPLY(354, NULL, "End data with <CR><LF>.<CR><LF>"));
}

/* ---- the end ---- */

/* last: it was to be the end of the message, to which LMTP has more replies than one. */
static void refuse_text(struct smtp_session *s, const struct smtp_reply *why, bool last)
{
    if (last && s->transaction != NULL && s->transaction->envelope.n > 0)
        smtp_session_answer_each(s, why);
    else
        smtp_session_refuse(s, why);
    if (s->transaction != NULL) /* else that was one error too many */
        smtp_session_reset(s);
}

/* All of it is here. */
static void finish_text(struct smtp_session *s)
{
    const struct smtp_reply *refusal = smtp_transaction_finish(s->transaction, &s->client);

    if (refusal == NULL) {
        smtp_session_move(s, SMTP_WAIT);
        return;
    }
    smtp_session_answer_each(s, refusal);
    if (s->transaction != NULL)
        smtp_session_reset(s);
}

static void finish_chunk(struct smtp_session *s)
{
    char text[48];

    if (s->chunk.last) {
        finish_text(s);
        return;
    }
    if (s->transaction->refusal != NULL) {
        refuse_text(s, s->transaction->refusal, false);
        return;
    }
    snprintf(text, sizeof(text), "Ok: %" PRIu64 " octets", s->chunk.octets);
    smtp_session_move(s, SMTP_BDAT);
    smtp_session_reply(s, SMTP_REPLY(250, "2.0.0", text));
}

size_t smtp_session_text(struct smtp_session *s, const uint8_t *p, size_t len)
{
    size_t n;

    if (s->state == SMTP_DATA) {
        n = smtp_transaction_feed(s->transaction, p, len);
        if (smtp_data_ended(&s->transaction->reader))
            finish_text(s);
        return n;
    }
    mr_assert(s->state == SMTP_CHUNK && s->chunk.left > 0);
    if (len > s->chunk.left)
        len = (size_t)s->chunk.left;
    n = smtp_transaction_feed(s->transaction, p, len);
    s->chunk.left -= n;
    if (s->chunk.left == 0)
        finish_chunk(s);
    return n;
}

size_t smtp_session_skip(struct smtp_session *s, size_t len)
{
    if (len > s->skip)
        len = (size_t)s->skip;
    s->skip -= len;
    if (s->skip == 0)
        s->pace_ms = 0;
    return len;
}

/* ---- BDAT ---- */

static const struct smtp_reply bad_bdat = {521, "5.5.4", "BDAT takes a number of octets, and LAST with the last chunk"};

void smtp_session_unreadable(struct smtp_session *s, const char *line, size_t len, const struct smtp_reply *why)
{
    if (smtp_line_is_bdat(line, len))
        smtp_session_bye(s, &bad_bdat);
    else
        smtp_session_refuse(s, why);
}

/* NULL: this chunk may come. */
static const struct smtp_reply *check_chunk(const struct smtp_session *s, uint64_t octets)
{
    static const struct smtp_reply not_offered = {502, "5.5.1", "CHUNKING is not offered"};
    static const struct smtp_reply starttls = {530, "5.7.0", "Must issue a STARTTLS command first"};
    static const struct smtp_reply no_transaction = {503, "5.5.1",
                                                     "MAIL and RCPT first, and no BDAT after a refused one"};
    static const struct smtp_reply no_recipients = {554, "5.5.1", "No valid recipients"};
    static const struct smtp_reply too_large = {552, "5.3.4", "Message too large"};
    const struct smtp_transaction *t = s->transaction;

    if (!(s->extensions & SMTP_CHUNKING))
        return &not_offered;
    if (smtp_session_needs_tls(s))
        return &starttls;
    if (t == NULL)
        return &no_transaction;
    if (t->envelope.n == 0)
        return &no_recipients;
    if (octets > s->server->limits.message_size || t->received + octets > s->server->limits.message_size)
        return &too_large;
    return s->state == SMTP_RCPT ? smtp_readiness(s->server, SMTP_AT_DATA) : NULL;
}

void smtp_session_bdat(struct smtp_session *s, struct smtp_slice args)
{
    const struct smtp_reply *why;
    uint64_t octets;
    bool last;

    if (smtp_bdat_parse(args, &octets, &last) != 0) {
        /* What follows may be a chunk or commands: nobody can tell. */
        smtp_session_bye(s, &bad_bdat);
        return;
    }
    why = check_chunk(s, octets);
    if (why != NULL && (octets / 2 > s->server->limits.message_size || why->code == 421)) {
        smtp_session_bye(s, why); /* to skip this much would only keep both sides busy */
        return;
    }
    if (why != NULL) {
        s->skip = octets;
        refuse_text(s, why, last);
        if (octets > 0)
            smtp_session_pace_anew(s);
        return;
    }
    if (s->state == SMTP_RCPT)
        begin_text(s, true);
    s->chunk.octets = s->chunk.left = octets;
    s->chunk.last = last;
    smtp_session_move(s, SMTP_CHUNK);
    if (octets == 0)
        finish_chunk(s);
}
