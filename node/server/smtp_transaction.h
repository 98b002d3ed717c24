/* smtp_transaction.h - one message on its way in: envelope, bytes to the body plane, enqueue, the answer.
 *
 * X1: the answer is given once, and is positive only after the enqueue was committed.
 * X2: at most SMTP_PIECES_IN_FLIGHT pieces wait to be written, and one is being filled.
 * X3: it lives until its last callback came, however early its session ends.
 * Happy path: begin (MAIL) -> envelope grows (RCPT) -> data -> feed ... -> finish -> submit_done ->
 * answer. Failure: a refusal found on the way (size, bare line end, loop, no space) is kept in `refusal`; the rest is
 * swallowed and the refusal is the answer. Session ends: drop; before the enqueue was handed over nothing is kept.
 * Thread: the worker's. */
#ifndef MR_SERVER_SMTP_TRANSACTION_H
#define MR_SERVER_SMTP_TRANSACTION_H

#include "node/mail/smtp_header.h"
#include "node/server/smtp_data.h"
#include "node/server/smtp_envelope.h"
#include "node/server/smtp_received.h"
#include "node/server/smtp_server_internal.h"
#include "proto/base/hash.h"

#include <netinet/in.h>

enum {
    SMTP_PIECE = 256 << 10,
    SMTP_PIECE_FIRST = 16 << 10,
    SMTP_PIECES_IN_FLIGHT = 4,
    SMTP_PIECE_SPARE = 512, /* of each piece, for fields that we add and a last line end */
};

/* Who brings the mail, as text. */
struct smtp_client {
    char address[INET6_ADDRSTRLEN];  /* "192.0.2.1" (also of a mapped address), "2001:db8::1" */
    char peer[INET6_ADDRSTRLEN + 8]; /* "192.0.2.1:4711", "[2001:db8::1]:4711" */
    char helo[SMTP_MAX_DOMAIN + 1];  /* "" before EHLO or HELO */
    bool esmtp;
    const char *tls; /* version of TLS, static; NULL: plain text */
};

struct smtp_transaction {
    struct smtp_server *server;
    uint64_t session; /* 0: it has ended */
    struct mr_id id;
    struct smtp_envelope envelope;
    struct smtp_client client; /* filled in by finish: the session may be gone when the answer comes */
    struct smtp_data reader;
    struct smtp_header header;
    bool eight_bit;            /* an octet over 127 behind the header */
    bool chunks;               /* BDAT, not DATA */
    bool complete;             /* fields that the header lacks are to be added (RFC 6409 section 8) */
    unsigned how;              /* enum smtp_protocol */
    struct cluster_body *body; /* NULL: no piece was handed over yet */
    uint8_t *piece;
    size_t piece_len, piece_cap;
    uint64_t received;  /* octets of the message, without our own trace field */
    uint64_t length;    /* octets handed over */
    XXH3_state_t *hash; /* NULL while one piece holds all */
    const struct smtp_reply *refusal;
    unsigned in_flight; /* pieces */
    unsigned pending;   /* callbacks that will come */
    uint64_t dot_ns;    /* boot time of the final dot */
};

struct smtp_transaction *smtp_transaction_begin(struct smtp_server *s, uint64_t session);
/* How the text comes. */
struct smtp_text_kind {
    bool chunks;   /* by BDAT */
    bool mend;     /* bare CR and LF become CR LF; not with BODY=BINARYMIME */
    bool complete; /* add Message-ID and Date when missing */
};
/* The text begins, with this trace field before it; its id and time are filled in here. */
void smtp_transaction_data(struct smtp_transaction *t, struct smtp_received *received, struct smtp_text_kind kind);
/* Takes text; 0: blocked until a piece is written. After DATA, at its end: smtp_data_ended(&t->reader). */
size_t smtp_transaction_feed(struct smtp_transaction *t, const uint8_t *in, size_t len);
bool smtp_transaction_blocked(const struct smtp_transaction *t);
/* After the end. Refusal: the reply to give now, and the transaction still has to be dropped; NULL: smtp_session_answer
 * comes later, once, if the session is still there by then. */
const struct smtp_reply *smtp_transaction_finish(struct smtp_transaction *t, const struct smtp_client *client);
/* The session has no use for it any more (RSET, the connection's end, after the answer). */
void smtp_transaction_drop(struct smtp_transaction *t);

#endif
