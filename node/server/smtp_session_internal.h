/* smtp_session_internal.h - what the session's own files know of each other: life and time (smtp_session.c), bytes in
 * and out (smtp_session_stream.c), TLS (smtp_session_tls.c). Thread: the worker's. */
#ifndef MR_SERVER_SMTP_SESSION_INTERNAL_H
#define MR_SERVER_SMTP_SESSION_INTERNAL_H

#include "node/server/smtp_session.h"

/* ---- smtp_session.c ---- */

uint64_t smtp_session_now_ms(const struct smtp_session *s);
/* Writes the replies and decides what the session waits for next. */
void smtp_session_settle(struct smtp_session *s);
/* A window of the data phase begins, in which enough has to come (smtp_limits.data_rate). */
void smtp_session_pace_anew(struct smtp_session *s);
/* What it is at, for the log. */
const char *smtp_session_stage(const struct smtp_session *s);

/* ---- smtp_session_stream.c ---- */

/* May commands or data be looked at now? */
bool smtp_stream_can_consume(const struct smtp_session *s);
/* Looks at what was read before, as far as it may. */
void smtp_stream_consume_kept(struct smtp_session *s);
/* Writes the gathered replies, or queues them behind what is being written. */
void smtp_stream_flush(struct smtp_session *s);
void smtp_stream_read_on(struct smtp_session *s, bool on);
/* Plain text of the client. */
void smtp_stream_take(struct smtp_session *s, const uint8_t *p, size_t len);
void smtp_stream_free(struct smtp_session *s);

/* ---- smtp_session_tls.c ---- */

/* TLS begins with the next byte, in both directions. */
void smtp_tls_begin(struct smtp_session *s);
/* The reply to STARTTLS, or the end: bytes that came behind the command were not protected. */
void smtp_tls_decide(struct smtp_session *s, size_t behind);
/* Bytes of the network. */
void smtp_tls_feed(struct smtp_session *s, const uint8_t *p, size_t len);
/* Reads on what was fed before. */
void smtp_tls_pump(struct smtp_session *s);
/* The socket's end came (why NULL), or the handshake took too long: the session ends. */
void smtp_tls_ended(struct smtp_session *s, const char *why);

#endif
