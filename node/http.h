/* http.h - each node's HTTP interface: status, queue, messages, health, metrics.
 *
 * One thread of libmicrohttpd serves all connections; a request that needs the core is suspended until the answer
 * comes, so a slow core holds up no thread and a slow client no core. With a token every request but /healthz and
 * /readyz needs "Authorization: Bearer TOKEN". Thread: open and close on the main thread. */
#ifndef MR_NODE_HTTP_H
#define MR_NODE_HTTP_H

#include "cluster/cluster.h"
#include "node/config/config.h"

struct http;
/* bound: the address that is listened on, "127.0.0.1:8025". MR_IO, MR_CONFIG with a text. */
int http_open(struct http **out, struct cluster *c, const struct config *config, char *bound, size_t bound_len,
              char *error, size_t error_len);
/* Waits for running requests. Before cluster_close. */
void http_close(struct http *h);

#endif
