/* worker.h - one worker thread: a uv loop with SMTP sessions in and out.
 *
 * A worker shares nothing: its sessions, connections, resolver and journal are its own; it talks to the core through
 * its port (cluster.h) and is told of new work through its mailbox. Thread: fields are the worker's own after
 * worker_start. */
#ifndef MR_NODE_WORKER_H
#define MR_NODE_WORKER_H

#include "cluster/cluster.h"
#include "node/config/config.h"

#include <uv.h>

struct smtp_server;  /* smtp_server.h */
struct delivery;     /* delivery.h */
struct client_table; /* client_table.h */
struct tls_server;   /* tls_server.h */
struct auth;         /* auth.h */
struct auth_store;   /* auth_store.h */

struct worker {
    unsigned number;
    uv_loop_t loop;
    struct mailbox *mailbox;
    struct cluster *cluster;
    struct cluster_port *port;
    struct cluster_rules *rules; /* in force; NULL before the first */
    const struct config *config;
    struct tls_server *tls; /* of the SMTP server, newest; NULL: none */
    struct cluster_counters *counters;
    struct client_table *clients;  /* the node's; NULL: no limits */
    struct auth_store *auth_store; /* the node's */
    struct auth *auth;             /* NULL: no logins (tests) */
    struct smtp_server *server;
    struct delivery *delivery;
    bool draining;
    uv_timer_t beat;
    uv_thread_t thread;
};

/* Main thread. fds: the worker's own listening sockets, one a configured listener; owned from here. clients and
 * auth_store: the node's, which outlive its workers. tls: of the SMTP server, NULL for none; the worker takes a
 * reference. */
int worker_open(struct worker **out, unsigned number, struct cluster *cluster, const struct config *config,
                struct client_table *clients, struct tls_server *tls, struct auth_store *auth_store, const int *fds,
                unsigned n_fds);
int worker_start(struct worker *w);
/* Any thread: connections that begin TLS from now on do it with these. The worker takes a reference. */
void worker_set_tls(struct worker *w, struct tls_server *tls);
/* Any thread; the worker ends when its sessions, deliveries and requests have. */
void worker_stop(struct worker *w);
/* Waits for its end and frees it. */
void worker_join(struct worker *w);

#endif
