/* smtp_server_open.c - the SMTP server on the real cluster; apart, so that tests link without one. */
#include "node/server/smtp_server_internal.h"

int smtp_server_open(struct smtp_server **out, struct worker *w, const int *fds, unsigned n_fds)
{
    static const struct smtp_cluster_ops cluster_ops = {
        .readiness = cluster_readiness,
        .version = cluster_version,
        .body_begin = cluster_body_begin,
        .body_piece = cluster_body_piece,
        .body_abort = cluster_body_abort,
        .body_submit = cluster_body_submit,
    };

    return smtp_server_open_with(out, w, fds, n_fds, &cluster_ops);
}
