/* smtp_server.h - the SMTP side that takes mail in, one a worker (RFC 5321).
 *
 * V1: 250 to the final dot is written only after cluster_body_submit gave 0, or gave MR_REFUSED with APPLY_DUPLICATE.
 * V2: only CR LF . CR LF ends the data; a bare CR or LF in it is answered 550 5.6.0 and nothing is kept.
 * V3: a session holds at most SMTP_SESSION_MEMORY bytes whatever the client does.
 * SIGPIPE is to be ignored by the process. Thread: the worker's. */
#ifndef MR_SERVER_SMTP_SERVER_H
#define MR_SERVER_SMTP_SERVER_H

#include "node/worker.h"

enum { SMTP_SESSION_MEMORY = 2 << 20 };

struct smtp_server;
/* fds: listening sockets bound by the main thread with SO_REUSEPORT (non-blocking), one a configured listener, in
 * order; owned from here. */
int smtp_server_open(struct smtp_server **out, struct worker *w, const int *fds, unsigned n_fds);
/* Stops listening; sessions in a transaction may finish, idle ones get 421 4.3.2 and close. */
void smtp_server_drain(struct smtp_server *s);
unsigned smtp_server_sessions(const struct smtp_server *s);
/* Ends all sessions (421 if it can be written), then cb. One that waits for the answer to its final dot gets that
 * first: an answer that is withheld makes the client send the message again. So cb comes only after the cluster has
 * made every callback that it owes. */
void smtp_server_close(struct smtp_server *s, void (*cb)(void *arg), void *arg);

/* Binds one listening socket (main thread). MR_CONFIG, MR_IO with text. Writes the bound address to bound
 * ("127.0.0.1:2525"). */
int smtp_listen(const char *address, int *fd, char *bound, size_t bound_len, char *error, size_t error_len);

#endif
