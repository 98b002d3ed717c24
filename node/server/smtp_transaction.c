/* smtp_transaction.c - see the header for the path of a message. */
#include "node/server/smtp_transaction.h"

#include "cluster/state.h"
#include "node/server/smtp_session.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct smtp_reply too_large = {552, "5.3.4", "Message too large"};
static const struct smtp_reply bare_line_end = {550, "5.6.0",
                                                "Bare CR or LF in the message: lines must end with CR LF"};
static const struct smtp_reply too_many_hops = {554, "5.4.6", "Too many hops: mail is looping"};
static const struct smtp_reply no_space = {452, "4.3.1", "Not enough disk space, try later"};
static const struct smtp_reply not_stored = {451, "4.3.0", "Not stored on a majority of nodes in time, try later"};
static const struct smtp_reply no_quorum = {451, "4.3.0", "No quorum, try later"};
static const struct smtp_reply shutting_down = {451, "4.3.2", "Shutting down, try later or another server"};
static const struct smtp_reply overloaded = {451, "4.3.2", "Too much queued, try later"};
static const struct smtp_reply rules_changed = {451, "4.3.0", "Routes have changed, try again"};
static const struct smtp_reply local_error = {451, "4.3.0", "Local error, try later"};

/* The reply to a failure below. */
static const struct smtp_reply *reply_to(int status)
{
    switch (status) {
    case MR_NOSPACE:
        return &no_space;
    case MR_TIMEOUT:
        return &not_stored;
    case MR_NOQUORUM:
        return &no_quorum;
    case MR_CLOSED:
        return &shutting_down;
    case MR_BUSY:
        return &overloaded;
    default:
        return &local_error;
    }
}

/* A refused enqueue may be taken the next time, so these are all temporary. */
static const struct smtp_reply *reply_to_refused(enum apply_result reason)
{
    static const struct smtp_reply cancelled = {451, "4.3.0", "Not committed in time, try again"};
    static const struct smtp_reply stale = {451, "4.3.0", "Took too long to commit, try again"};
    static const struct smtp_reply not_majority = {451, "4.3.0",
                                                   "Nodes changed while the message was stored, try again"};
    static const struct smtp_reply invalid = {451, "4.3.0", "The queue refused the message"};
    static const struct smtp_reply quota = {450, "4.7.1", "You have sent to too many recipients in an hour, try later"};
    static const struct smtp_reply version = {451, "4.3.0",
                                              "Some nodes do not know this kind of message yet, try later"};
    static const struct smtp_reply full = {452, "4.3.1", "Queue full, try later"};

    switch (reason) {
    case APPLY_CANCELLED:
        return &cancelled;
    case APPLY_STALE:
        return &stale;
    case APPLY_NOT_MAJORITY:
        return &not_majority;
    case APPLY_INVALID:
        return &invalid;
    case APPLY_QUOTA:
        return &quota;
    case APPLY_VERSION:
        return &version;
    case APPLY_FULL:
        return &full;
    default:
        return &local_error;
    }
}

struct smtp_transaction *smtp_transaction_begin(struct smtp_server *s, uint64_t session)
{
    struct smtp_transaction *t = mr_calloc(1, sizeof(*t));

    t->server = s;
    t->session = session;
    s->n_transactions++;
    atomic_fetch_add_explicit(&s->worker->counters->transactions_open, 1, memory_order_relaxed);
    return t;
}

static void release(struct smtp_transaction *t)
{
    struct smtp_server *s = t->server;

    if (t->session != 0 || t->pending > 0)
        return;
    mr_assert(t->body == NULL);
    smtp_envelope_close(&t->envelope);
    free(t->piece);
    XXH3_freeState(t->hash);
    free(t);
    mr_assert(s->n_transactions > 0);
    s->n_transactions--;
    atomic_fetch_sub_explicit(&s->worker->counters->transactions_open, 1, memory_order_relaxed);
    smtp_server_check_closed(s);
}

static void abort_body(struct smtp_transaction *t)
{
    if (t->body != NULL)
        t->server->ops->body_abort(t->body);
    t->body = NULL;
    free(t->piece);
    t->piece = NULL;
    t->piece_len = t->piece_cap = 0;
}

static void refuse(struct smtp_transaction *t, const struct smtp_reply *why)
{
    if (t->refusal != NULL)
        return;
    t->refusal = why;
    abort_body(t);
}

void smtp_transaction_drop(struct smtp_transaction *t)
{
    abort_body(t);
    t->session = 0;
    release(t);
}

/* ---- pieces ---- */

/* One piece was written: memory for another. */
static void piece_written(void *arg, int status)
{
    struct smtp_transaction *t = arg;
    struct smtp_session *session = smtp_server_find(t->server, t->session);

    mr_assert(t->in_flight > 0 && t->pending > 0);
    t->in_flight--;
    t->pending--;
    if (session == NULL) {
        t->session = 0;
        release(t);
        return;
    }
    /* MR_CANCELLED is our own abort; after finish the failure comes with submit_done. */
    if (status != 0 && t->body != NULL)
        refuse(t, reply_to(status));
    smtp_session_resume(session);
}

/* Takes the piece out of the transaction; it counts in length and checksum from here on. */
static uint8_t *take_piece(struct smtp_transaction *t, size_t *len)
{
    uint8_t *piece = t->piece;

    *len = t->piece_len;
    t->length += t->piece_len;
    t->piece = NULL;
    t->piece_len = t->piece_cap = 0;
    return piece;
}

static void send_piece(struct smtp_transaction *t)
{
    const struct smtp_cluster_ops *ops = t->server->ops;
    size_t len;
    uint8_t *piece = take_piece(t, &len);

    if (t->body == NULL) {
        t->body = ops->body_begin(t->server->worker->port, t->id);
        t->hash = XXH3_createState();
        mr_assert(t->hash != NULL);
        XXH3_128bits_reset(t->hash);
    }
    XXH3_128bits_update(t->hash, piece, len);
    t->in_flight++;
    t->pending++;
    ops->body_piece(t->body, piece, len, piece_written, t);
}

/* Octets of text that the piece still takes. */
static size_t room(const struct smtp_transaction *t)
{
    size_t used = t->piece_len + SMTP_PIECE_SPARE;

    return t->piece_cap > used ? t->piece_cap - used : 0;
}

bool smtp_transaction_blocked(const struct smtp_transaction *t)
{
    return t->refusal == NULL && t->piece_cap == SMTP_PIECE && room(t) < 2 && t->in_flight == SMTP_PIECES_IN_FLIGHT;
}

/* Room for at least two more octets, as the reader wants. False: blocked. */
static bool make_room(struct smtp_transaction *t)
{
    if (room(t) >= 2)
        return true;
    if (t->piece_cap == SMTP_PIECE) {
        if (t->in_flight == SMTP_PIECES_IN_FLIGHT)
            return false;
        send_piece(t);
    }
    /* A first piece grows; those of a message that is known to be large are full-sized at once. */
    t->piece_cap = t->piece_cap == 0 ? SMTP_PIECE : t->piece_cap * 4;
    if (t->piece_cap > SMTP_PIECE)
        t->piece_cap = SMTP_PIECE;
    t->piece = mr_realloc(t->piece, t->piece_cap);
    return true;
}

/* ---- text ---- */

void smtp_transaction_data(struct smtp_transaction *t, struct smtp_received *received, struct smtp_text_kind kind)
{
    char field[SMTP_MAX_RECEIVED];
    uint64_t want;
    size_t n;

    received->unix_ms = mr_wall_ms(&mr_clock_real);
    received->id = t->id = mr_id_take(&t->server->ids, received->unix_ms);
    t->how = received->how;
    t->chunks = kind.chunks;
    t->complete = kind.complete;
    n = smtp_received_write(received, field);
    want = t->envelope.size + n + SMTP_PIECE_SPARE + 64;
    smtp_data_init(&t->reader, !kind.chunks, kind.mend);
    t->piece_cap = SMTP_PIECE_FIRST;
    /* What SIZE= promises is trusted only so far as one piece goes. */
    if (want > t->piece_cap)
        t->piece_cap = want < SMTP_PIECE ? (size_t)want : SMTP_PIECE;
    t->piece = mr_malloc(t->piece_cap);
    memcpy(t->piece, field, n);
    t->piece_len = n;
}

/* Puts the fields that are missing into the piece, where its fields end, or nowhere if that part of the message is
 * written already (a line of some 100 KiB that is no field). */
static void complete_header(struct smtp_transaction *t, ptrdiff_t at)
{
    char fields[SMTP_PIECE_SPARE - 2], id[MR_ID_TEXT + 1], date[MR_RFC5322_DATE_SIZE];
    uint64_t now = mr_wall_ms(&mr_clock_real);
    int n = 0;

    t->complete = false;
    if (at < 0)
        return;
    if (!(t->header.seen & FIELD_DATE))
        n += snprintf(fields + n, sizeof(fields) - (size_t)n, "Date: %s\r\n", mr_rfc5322_date(now, date));
    if (!(t->header.seen & FIELD_MESSAGE_ID))
        n += snprintf(fields + n, sizeof(fields) - (size_t)n, "Message-ID: <%s@%s>\r\n", mr_id_format(t->id, id),
                      t->server->worker->config->smtp.hostname);
    /* The body has come without an empty line before it. */
    if (t->header.fields_ended && !t->header.empty_line)
        n += snprintf(fields + n, sizeof(fields) - (size_t)n, "\r\n");
    mr_assert((size_t)n < sizeof(fields) && t->piece_len + (size_t)n <= t->piece_cap);
    memmove(t->piece + at + n, t->piece + at, t->piece_len - (size_t)at);
    memcpy(t->piece + at, fields, (size_t)n);
    t->piece_len += (size_t)n;
}

/* n octets were put behind those of the piece. */
static void take_text(struct smtp_transaction *t, size_t n)
{
    const uint8_t *text = t->piece + t->piece_len;
    ptrdiff_t header_begin = (ptrdiff_t)t->piece_len - (ptrdiff_t)t->header.octets;
    size_t header = t->header.ended ? 0 : smtp_header_feed(&t->header, text, n);

    if (!t->eight_bit)
        t->eight_bit = smtp_text_is_8bit(text + header, n - header);
    t->piece_len += n;
    t->received += n;
    if (t->complete && t->header.fields_ended)
        complete_header(t, header_begin + (ptrdiff_t)t->header.fields_end);
    if (smtp_data_bare(&t->reader))
        refuse(t, &bare_line_end);
    else if (t->received > t->server->limits.message_size)
        refuse(t, &too_large);
    else if (t->header.received > t->server->limits.hops)
        refuse(t, &too_many_hops);
}

/* The rest of a message that is refused already. */
static size_t swallow(struct smtp_transaction *t, const uint8_t *in, size_t len)
{
    uint8_t scratch[4096];
    size_t used = 0;

    if (t->chunks)
        return len;
    while (used < len && !smtp_data_ended(&t->reader)) {
        size_t n;

        used += smtp_data_feed(&t->reader, in + used, len - used, scratch, sizeof(scratch), &n);
    }
    return used;
}

/* Behind the header a binary message is as it is (RFC 3030 section 3). */
static size_t feed_binary(struct smtp_transaction *t, const uint8_t *in, size_t len)
{
    if (len > room(t))
        len = room(t);
    memcpy(t->piece + t->piece_len, in, len);
    take_text(t, len);
    return len;
}

size_t smtp_transaction_feed(struct smtp_transaction *t, const uint8_t *in, size_t len)
{
    size_t n, used;

    if (t->envelope.body == BODY_BINARYMIME) {
        const uint8_t *lf;

        if (t->header.ended && t->refusal == NULL)
            return make_room(t) ? feed_binary(t, in, len) : 0;
        lf = memchr(in, '\n', len); /* line by line: what comes behind the header is not for the reader */
        if (lf != NULL)
            len = (size_t)(lf - in) + 1;
    }
    do {
        if (t->refusal != NULL)
            return swallow(t, in, len);
        if (!make_room(t))
            return 0;
        used = smtp_data_feed(&t->reader, in, len, t->piece + t->piece_len, room(t), &n);
        take_text(t, n);
    } while (used == 0); /* a line end that was mended took all the room */
    return used;
}

/* All text is here: what is still to be added to it. */
static void end_text(struct smtp_transaction *t)
{
    bool text = t->envelope.body != BODY_BINARYMIME || !t->header.ended;

    if (t->chunks && text && t->refusal == NULL)
        take_text(t, smtp_data_finish(&t->reader, t->piece + t->piece_len));
    if (t->complete && t->refusal == NULL)
        complete_header(t, (ptrdiff_t)t->piece_len);
}

/* What a next hop has to be able to take. 8-bit text that was not announced is taken, as Postfix does, and announced
 * from here on. SMTPUTF8 is asked for only where something needs it (RFC 6531 section 3.6 leaves that to the relay):
 * an address, a field of the header, or 8-bit text in a message of parts, where it may be a part's field. */
static void set_flags(struct smtp_transaction *t)
{
    struct smtp_envelope *e = &t->envelope;
    bool eight_bit = t->eight_bit || t->header.eight_bit;

    if (e->body == BODY_8BITMIME || eight_bit)
        e->flags |= MESSAGE_8BITMIME;
    if (e->body == BODY_BINARYMIME)
        e->flags |= MESSAGE_BINARYMIME;
    if (e->utf8 && (e->utf8_addresses || t->header.eight_bit || (t->eight_bit && (t->header.seen & FIELD_PARTS) != 0)))
        e->flags |= MESSAGE_SMTPUTF8;
}

/* ---- after the dot ---- */

static void log_accepted(const struct smtp_transaction *t)
{
    char id[MR_ID_TEXT + 1];

    log_event(
        LOG_INFO, "accepted", LOG_S("id", mr_id_format(t->id, id)), LOG_S("client", t->client.address),
        LOG_S("peer", t->client.peer), LOG_S("helo", t->client.helo), LOG_S("sender", t->envelope.reverse_path),
        LOG_N("recipients", t->envelope.n), LOG_N("size", t->length),
        LOG_N("delay_ms", (mr_boot_ns(&mr_clock_real) - t->dot_ns) / MR_NS_PER_MS), LOG_B("tls", t->client.tls != NULL),
        LOG_S("tls_version", t->client.tls), LOG_S("protocol", smtp_protocol_name(t->how)),
        LOG_S("user", t->envelope.user[0] != '\0' ? t->envelope.user : NULL), LOG_B("client_gone", t->session == 0));
}

static void answer(struct smtp_transaction *t, const struct smtp_reply *refusal)
{
    struct smtp_session *session = smtp_server_find(t->server, t->session);

    if (session == NULL) {
        t->session = 0;
        release(t);
        return;
    }
    smtp_session_answer(session, refusal); /* drops t */
}

static void submit_done(void *arg, int status, enum apply_result reason)
{
    struct smtp_transaction *t = arg;
    const struct smtp_reply *refusal = NULL;

    mr_assert(t->pending > 0);
    t->pending--;
    /* A duplicate is our own earlier proposal, which was applied: the message is in the queue or delivered already. */
    if (status == MR_REFUSED && reason != APPLY_DUPLICATE)
        refusal = reply_to_refused(reason);
    else if (status != 0 && status != MR_REFUSED)
        refusal = reply_to(status);
    if (refusal == NULL) {
        struct cluster_counters *c = t->server->worker->counters;

        atomic_fetch_add_explicit(&c->messages_received, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->bytes_received, t->length, memory_order_relaxed);
        log_accepted(t);
    }
    answer(t, refusal);
}

static int build_envelope(const struct smtp_transaction *t, Mailraft__Enqueue **out)
{
    const struct worker *w = t->server->worker;
    char client[sizeof(t->client.helo) + sizeof(t->client.address) + 4];

    mr_assert(w->rules != NULL);
    (void)stpcpy(stpcpy(stpcpy(stpcpy(client, t->client.helo), " ["), t->client.address), "]");
    return smtp_envelope_build(&t->envelope, w->rules->rules, t->id, NULL, client, out);
}

const struct smtp_reply *smtp_transaction_finish(struct smtp_transaction *t, const struct smtp_client *client)
{
    const struct smtp_cluster_ops *ops = t->server->ops;
    Mailraft__Enqueue *message;
    struct cluster_body *body;
    XXH128_canonical_t checksum;
    XXH128_hash_t hash;
    uint8_t *piece;
    size_t len;

    end_text(t);
    if (t->refusal != NULL)
        return t->refusal;
    set_flags(t);
    t->dot_ns = mr_boot_ns(&mr_clock_real);
    t->client = *client;
    if (build_envelope(t, &message) != 0)
        return &rules_changed;
    body = t->body;
    piece = take_piece(t, &len);
    piece = mr_realloc(piece, len); /* it waits for the slowest peer: not the room that was left in it too */
    if (body == NULL) {
        body = ops->body_begin(t->server->worker->port, t->id);
        hash = XXH3_128bits(piece, len);
    } else {
        XXH3_128bits_update(t->hash, piece, len);
        hash = XXH3_128bits_digest(t->hash);
    }
    XXH128_canonicalFromHash(&checksum, hash);
    t->body = NULL; /* body_submit frees it */
    t->pending++;
    ops->body_submit(body, piece, len, t->length, checksum.digest, message, submit_done, t);
    return NULL;
}
