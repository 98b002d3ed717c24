/* bodies_scan.c - two walks, BODIES_SCAN steps a tick: over the envelopes, for bodies that this node lacks
 * (PROTOCOL.md 3.3), and over the spool's index, for bodies that nobody needs (3.4). Neither begins before
 * bodies_ready. */
#include "cluster/bodies_internal.h"
#include "proto/base/mutation.h"

/* ---- what is lacking ---- */

void scan_restart(struct bodies *b)
{
    b->scan.running = b->ready;
    b->scan.marked = false;
    b->scan.after = 0;
    b->scan.seen = 0;
    b->scan.overflow = 0;
    b->collect.cursor = 0;
    b->collect.running = b->ready;
}

static void scan_end(struct bodies *b)
{
    b->scan.running = false;
    b->scan.marked = true;
    b->scan.last_overflow = b->scan.overflow;
    b->scan.after = 0;
    b->scan.seen = 0;
    b->scan.overflow = 0;
    /* What did not fit into the table: again as soon as there is room, which is soon. */
    b->scan.next_ns = b->now_ns + (b->scan.last_overflow > 0 ? 0 : BODIES_ROUND_MS * 1000000ULL);
}

static void scan_step(struct bodies *b)
{
    for (unsigned i = 0; i < BODIES_SCAN; i++) {
        const struct state_message *m = b->ops->state_next_message(b->config.state, b->scan.after);
        struct message_view v;

        if (m == NULL) {
            scan_end(b);
            return;
        }
        b->ops->state_message_view(m, &v);
        b->scan.after = v.sequence;
        b->scan.seen++;
        if (b->ops->spool_has(b->config.spool, v.id, NULL) || !want_should_hold(b, &v))
            continue;
        if (!want_add(b, v.id, WANT_FILL, false))
            b->scan.overflow++;
    }
}

uint64_t scan_missing(const struct bodies *b)
{
    uint64_t overflow = b->scan.last_overflow > b->scan.overflow ? b->scan.last_overflow : b->scan.overflow;
    uint64_t known, unseen;
    struct state_counts counts;

    if (b->scan.marked)
        return b->held_wants + overflow;
    /* Until every envelope was looked at once, the rest counts as missing: a zero is a promise. */
    b->ops->state_counts(b->config.state, &counts);
    known = b->held_wants + b->scan.overflow;
    unseen = counts.messages > b->scan.seen ? counts.messages - b->scan.seen : 0;
    return known + unseen < counts.messages ? known + unseen : counts.messages;
}

/* ---- what is not needed ---- */

/* B3. An unsigned sum with a stamp that a peer named must not wrap round to "long ago". */
static bool may_go(const struct bodies *b, const struct spool_entry *e)
{
    uint64_t now = b->ops->state_now_ms(b->config.state);
    bool cancelled;

    if (bodies_busy(b, e->id) || b->ops->state_find(b->config.state, e->id) != NULL)
        return false;
    if (b->ops->state_is_finished(b->config.state, e->id, &cancelled))
        return true;
    return (now > STATE_GRACE_MS && now - STATE_GRACE_MS > e->stamp_ms) || MR_MUTANT(MUTANT_NO_GRACE);
}

static void collect_step(struct bodies *b)
{
    struct spool_entry entries[BODIES_SCAN];
    size_t n = b->ops->spool_list(b->config.spool, &b->collect.cursor, entries, BODIES_SCAN);

    for (size_t i = 0; i < n; i++) {
        if (!may_go(b, &entries[i]))
            continue;
        b->ops->spool_drop(b->config.spool, entries[i].id);
        b->stats.collected++;
    }
    if (b->collect.cursor == 0) {
        b->collect.running = false;
        b->collect.next_ns = b->now_ns + BODIES_ROUND_MS * 1000000ULL;
    }
}

void scan_tick(struct bodies *b)
{
    if (!b->ready)
        return;
    if (!b->scan.running && b->now_ns >= b->scan.next_ns)
        b->scan.running = true;
    if (b->scan.running)
        scan_step(b);
    if (!b->collect.running && b->now_ns >= b->collect.next_ns)
        b->collect.running = true;
    if (b->collect.running)
        collect_step(b);
}
