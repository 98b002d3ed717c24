/* The end (PROTOCOL.md 9).
 *
 * Drain: no more assignments (heartbeats say so) and no new mail, workers finish what runs and take what is coming in,
 * leadership is handed over. When the time is up, or somebody will not wait, the lease is given up: workers reset what
 * has no final dot yet and give it back, and no mail is proposed any more. A moment later, or when nothing runs any
 * more, a last operation declares this incarnation down, so that nobody waits node_timeout for it; it releases what is
 * left, whose dots were written, and counts it. Never without giving up the lease first: what others may be given must
 * not get its dot here. Close: raft -> bodies -> spool -> links -> mailbox, each from the callback of the one before.
 */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>

enum {
    GOODBYE_MS = 1000,
    HAND_OVER_AGAIN_MS = 1000,
    HAND_OVER_MOST_MS = 2000, /* libraft does not tell of the end of one while nobody leads */
};

struct drain_request {
    struct mail mail;
    struct cluster *c;
    unsigned timeout_ms;
    void (*done)(void *arg);
    void *arg;
};

static void transferred(void *arg, int status)
{
    struct cluster *c = arg;
    c->handing_over = false;
    log_event(LOG_INFO, "leadership_handed_over", LOG_B("ok", status == 0));
}

/* While it is under way nothing is committed: it is not tried again with nobody there to take over. */
static void hand_over(struct cluster *c, uint64_t now, bool begins)
{
    if (!c->lead.leading || (!begins && now - c->handed_over_ns < HAND_OVER_AGAIN_MS * MR_NS_PER_MS))
        return;
    uint32_t to = core_disk_find_better(c);
    if (to == 0 && !begins)
        return;
    c->handed_over_ns = now;
    if (replica_transfer(c->replica, to, transferred, c) == 0)
        c->handing_over = true;
}

static void run_drain(struct mail *mail)
{
    struct drain_request *r = MR_CONTAINER(mail, struct drain_request, mail);
    struct cluster *c = r->c;
    uint64_t now = core_now(c);

    c->draining = true;
    c->drain_wanted = true;
    c->drained = r->done;
    c->drained_arg = r->arg;
    c->drain_until_ns = now + r->timeout_ms * MR_NS_PER_MS;
    free(r);
    core_lease_update(c, now);
    core_port_drain(c);
    if (c->replica == NULL)
        return;
    core_heartbeat_send(c);
    hand_over(c, now, true);
}

static void said_goodbye(void *arg, int status, enum apply_result reason)
{
    struct cluster *c = arg;
    (void)status;
    (void)reason;
    c->goodbye_said = true;
}

static void say_goodbye(struct cluster *c, uint64_t now)
{
    Mailraft__NodeDown *down = mr_malloc(sizeof(*down));
    mailraft__node_down__init(down);
    down->node = c->self;
    down->incarnation = c->incarnation;
    Mailraft__Op *op = mr_malloc(sizeof(*op));
    mailraft__op__init(op);
    op->kind_case = MAILRAFT__OP__KIND_NODE_DOWN;
    op->node_down = down;
    if (proposals_add(c->proposals, op, now, now + GOODBYE_MS * MR_NS_PER_MS, said_goodbye, c, NULL) != 0) {
        mailraft__op__free_unpacked(op, NULL);
        c->goodbye_said = true;
    }
}

static void give_up_lease(struct cluster *c, uint64_t now)
{
    c->given_up = true;
    core_lease_update(c, now);
}

static void drained(struct cluster *c)
{
    c->drain_wanted = false;
    c->drained(c->drained_arg);
}

/* Nobody would miss this node. */
static bool is_idle(struct cluster *c, uint64_t now)
{
    for (unsigned i = 0; i < c->n_ports; i++)
        if (!c->ports[i]->detached && !atomic_load(&c->ports[i]->drained))
            return false; /* mail may be coming in there that is not counted yet */
    return atomic_load(&c->counters.transactions_open) == 0 && c->n_running == 0 && c->waiting == NULL &&
           proposals_waiting(c->proposals) == 0 &&
           !(c->handing_over && now - c->handed_over_ns < HAND_OVER_MOST_MS * MR_NS_PER_MS);
}

void core_drain_tick(struct cluster *c, uint64_t now)
{
    if (!c->drain_wanted)
        return;
    bool late = now >= c->drain_until_ns;

    if (c->replica == NULL || (late && now - c->drain_until_ns > 2 * GOODBYE_MS * MR_NS_PER_MS)) {
        drained(c);
    } else if (c->goodbye) {
        if (c->goodbye_said)
            drained(c);
    } else if (is_idle(c, now) || (late && c->given_up && now - c->drain_until_ns > GOODBYE_MS * MR_NS_PER_MS)) {
        c->goodbye = true;
        give_up_lease(c, now);
        if (c->leader == 0 || !c->node_up)
            c->goodbye_said = true; /* nobody to say it to */
        else
            say_goodbye(c, now);
    } else {
        if (late && !c->given_up)
            give_up_lease(c, now);
        hand_over(c, now, false); /* also who comes to lead while it drains */
    }
}

static void post(struct cluster *c, void (*run)(struct mail *mail), struct drain_request with)
{
    struct drain_request *r = mr_malloc(sizeof(*r));
    *r = with;
    r->c = c;
    r->mail.run = run;
    mailbox_post(c->mailbox, &r->mail);
}

void cluster_drain_begin(struct cluster *c, unsigned timeout_ms, void (*done)(void *arg), void *arg)
{
    post(c, run_drain, (struct drain_request){.timeout_ms = timeout_ms, .done = done, .arg = arg});
}

static void wake(void *arg)
{
    uv_sem_post(arg);
}

void cluster_drain(struct cluster *c, unsigned timeout_ms)
{
    cluster_drain_begin(c, timeout_ms, wake, &c->drain_over);
    uv_sem_wait(&c->drain_over);
}

static void run_drain_now(struct mail *mail)
{
    struct drain_request *r = MR_CONTAINER(mail, struct drain_request, mail);
    uint64_t now = core_now(r->c);

    if (r->c->drain_wanted && r->c->drain_until_ns > now)
        r->c->drain_until_ns = now;
    free(r);
}

void cluster_drain_now(struct cluster *c)
{
    post(c, run_drain_now, (struct drain_request){0});
}

/* ---- close ---- */

static void mailbox_closed(void *arg)
{
    struct cluster *c = arg;
    uv_close((uv_handle_t *)&c->tick, NULL);
    uv_close((uv_handle_t *)&c->beat, NULL);
    uv_close((uv_handle_t *)&c->prepare, NULL);
    uv_close((uv_handle_t *)&c->completions_idle, NULL);
    uv_close((uv_handle_t *)&c->asking, NULL);
}

static void links_closed(void *arg)
{
    struct cluster *c = arg;
    mailbox_close(c->mailbox, mailbox_closed, c);
}

static void spool_closed(void *arg)
{
    struct cluster *c = arg;
    links_close(c->links, links_closed, c);
}

static void bodies_closed(void *arg)
{
    struct cluster *c = arg;
    c->bodies = NULL; /* links are still there, and may come and go until they are closed */
    spool_close(c->spool, spool_closed, c);
}

static void raft_closed(void *arg)
{
    struct cluster *c = arg;
    c->replica = NULL;
    if (c->bodies != NULL)
        bodies_close(c->bodies, bodies_closed, c);
    else
        bodies_closed(c);
}

static void run_close(struct mail *mail)
{
    struct drain_request *r = MR_CONTAINER(mail, struct drain_request, mail);
    struct cluster *c = r->c;
    free(r);
    busy_end(c->disk.loop); /* no ticks any more */
    uv_timer_stop(&c->tick);
    uv_timer_stop(&c->beat);
    uv_prepare_stop(&c->prepare);
    c->closing = true;
    core_query_close(c);
    if (c->lead.leading)
        core_lead_end(c);
    if (c->replica != NULL)
        replica_close(c->replica, raft_closed, c);
    else
        raft_closed(c);
    /* A snapshot on its way to a peer that reads slowly must not hold up the close. */
    core_links_close(c);
}

void cluster_close(struct cluster *c)
{
    post(c, run_close, (struct drain_request){0});
    uv_thread_join(&c->thread);
    core_disk_close(c);
    proposals_close(c->proposals);
    formation_close(c->formation);
    sched_close(c->sched);
    apply_trace_close(c->trace, c->state);
    state_close(c->state);
    identity_close(c->identity);
    core_attempts_close(c);
    core_port_free(c);
    journal_left_free(&c->left);
    mailraft__rules__free_unpacked(c->own_rules, NULL);
    if (uv_loop_close(&c->loop) != 0)
        mr_panic("the core's loop has handles left");
    uv_sem_destroy(&c->drain_over);
    free(c->raft_dir);
    free(c->refused);
    for (uint32_t i = 0; i < LINK_MAX_PEERS; i++)
        free(c->refusals[i]);
    free(c);
}
