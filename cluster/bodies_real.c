/* bodies_real.c - the body plane over the real spool, links and state. */
#include "cluster/bodies_internal.h"

static const struct bodies_ops real_ops = {
    .spool_put = spool_put,
    .spool_abort = spool_abort,
    .spool_get = spool_get,
    .spool_recheck = spool_recheck,
    .spool_read_now = spool_read_now,
    .spool_has = spool_has,
    .spool_drop = spool_drop,
    .spool_list = spool_list,
    .links_send = links_send,
    .links_queued = links_queued,
    .links_when_drained = links_when_drained,
    .state_find = state_find,
    .state_message_view = state_message_view,
    .state_is_finished = state_is_finished,
    .state_next_message = state_next_message,
    .state_voters = state_voters,
    .state_majority = state_majority,
    .state_rules = state_rules,
    .state_now_ms = state_now_ms,
    .state_version = state_version,
    .state_counts = state_counts,
};

struct bodies *bodies_open(const struct bodies_config *config)
{
    return bodies_open_with(config, &real_ops);
}
