/* delivery.h - the SMTP and LMTP client side of one worker: attempts in, outcomes out.
 *
 * One slot (cluster/sched.h) is one connection; attempts of a slot run one after the other over it.
 * D1: no transaction begins and no final dot is written unless cluster_may_send says so at that moment, and the dot
 * only after the socket's send queue was empty (SIOCOUTQ) (PROTOCOL.md 5.7). D2: cluster_dot comes before the dot's
 * bytes are handed to the kernel. D3: each attempt ends with exactly one outcome or release. D4: at most one connection
 * a slot at any moment; the core is told when it is closed. Thread: the worker's. */
#ifndef MR_DELIVERY_DELIVERY_H
#define MR_DELIVERY_DELIVERY_H

#include "node/worker.h"

struct delivery;
/* Can the files of delivery.tls_ca, tls_cert and tls_key be used? MR_TLS with a text. */
int delivery_tls_check(const struct config *config, char *error, size_t error_len);
int delivery_open(struct delivery **out, struct worker *w);
void delivery_attempt(struct delivery *d, struct attempt *a);
void delivery_notice(struct delivery *d, struct notice *n);
void delivery_rules(struct delivery *d); /* w->rules changed */
void delivery_lease_ended(struct delivery *d);
/* The core has withdrawn attempts (PROTOCOL.md 5.11): before their dot they are dropped. */
void delivery_withdrawn(struct delivery *d);
void delivery_drain(struct delivery *d);
/* Attempts that have not ended. */
unsigned delivery_running(const struct delivery *d);
/* Resets what runs (released), closes connections, then cb. */
void delivery_close(struct delivery *d, void (*cb)(void *arg), void *arg);

#endif
