/* smtp_backend.h - what the SMTP server asks of the cluster, so that tests can put another in its place.
 *
 * Thread: the worker's, but for the table itself, which is constant. Meanings are those of cluster.h. */
#ifndef MR_SERVER_SMTP_BACKEND_H
#define MR_SERVER_SMTP_BACKEND_H

#include "cluster/cluster.h"

struct smtp_cluster_ops {
    enum cluster_readiness (*readiness)(const struct cluster *c);
    unsigned (*version)(const struct cluster *c);
    struct cluster_body *(*body_begin)(struct cluster_port *p, struct mr_id id);
    void (*body_piece)(struct cluster_body *b, uint8_t *data, size_t len, void (*written)(void *arg, int status),
                       void *arg);
    void (*body_submit)(struct cluster_body *b, uint8_t *data, size_t len, uint64_t length, const uint8_t checksum[16],
                        Mailraft__Enqueue *message, void (*done)(void *arg, int status, enum apply_result reason),
                        void *arg);
    void (*body_abort)(struct cluster_body *b);
};

#endif
