/* Answers for HTTP: every node answers from its own applied state; what only the leader knows (who was heard when) a
 * follower leaves out. No answer costs more than a page of messages or a thousand next hops, and it is made beside the
 * core's work: a step of the ask whose turn it is (at most STEP_US where it is one of messages), then a pause. So the
 * core has time for the rest, is no thread that the kernel lets wait because it never sleeps, and a page is no picture
 * of one moment. */
#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_NEXT_HOPS = 1000,
    MAX_WALK = 10000,  /* recipients looked at for one page */
    MAX_SHOWN = 10000, /* recipients of one page's messages, or of a message asked for */
    FEW = 10,          /* recipients of each message in a page */
    DEFAULT_PAGE = 100,
    MAX_PAGE = 1000,
    STEP_US = 500,
    PAUSE_MS = 2
};

struct core_ask {
    struct mail mail;
    struct core_ask *next;
    struct cluster *c;
    struct cluster_query query;
    void (*done)(void *arg, int status, json_t *answer);
    void *arg;
    json_t *answer; /* as far as it is made; NULL: nothing yet */
    json_t *list;   /* in it: of messages, or of the recipients of one */
    unsigned walked;
};

static const char *const recipient_states[] = {"queued", "delivered", "failed", "expired", "cancelled"};
static const char *const delivery_states[] = {"ready", "assigned", "deferred", "held", "done"};
static const char *const roles[] = {"unavailable", "follower", "candidate", "leader"};
static const char *const readiness_names[] = {"ready",    "starting", "no_quorum", "low_disk",  "busy",
                                              "draining", "refused",  "slow_disk", "queue_full"};

static json_t *text(const char *s)
{
    if (s == NULL)
        s = "";
    json_t *value = json_string(s);
    if (value != NULL)
        return value;
    /* Bytes of strangers that are no UTF-8. */
    size_t len = strlen(s);
    char *safe = mr_malloc(len + 1);
    for (size_t i = 0; i <= len; i++)
        safe[i] = (unsigned char)s[i] < 0x80 ? s[i] : '?';
    value = json_string(safe);
    free(safe);
    return value;
}

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *when(uint64_t unix_ms)
{
    char buffer[MR_RFC3339_SIZE];
    return unix_ms == 0 ? json_null() : json_string(mr_rfc3339(unix_ms, buffer));
}

static void set(json_t *o, const char *key, json_t *value)
{
    json_object_set_new_nocheck(o, key, value); /* keys are ours, and ASCII */
}

static const char *node_name(const struct cluster *c, uint32_t node)
{
    struct node_view v;
    return node != 0 && state_node_by_id(c->state, node, &v) ? v.name : NULL;
}

static json_t *name_or_null(const struct cluster *c, uint32_t node)
{
    const char *name = node_name(c, node);
    return name == NULL ? json_null() : text(name);
}

/* ---- status ---- */

/* From those in force. */
static bool rules_differ(const struct cluster *c, const struct node_view *v)
{
    const struct core_lead_node *n = &c->lead.nodes[v->node];
    return n->has_hash && state_rules(c->state) != NULL &&
           memcmp(n->rules_hash, state_rules(c->state)->hash.data, sizeof(n->rules_hash)) != 0;
}

static json_t *status_node(const struct cluster *c, const struct node_view *v, uint64_t now)
{
    json_t *o = json_object();
    set(o, "name", text(v->name));
    set(o, "state", text(v->up ? "up" : "down"));
    set(o, "role", text(!v->voter ? "standby" : v->node == c->leader ? "leader" : "voter"));
    set(o, "raft_id", number(v->node));
    set(o, "address", text(v->address));
    set(o, "incarnation", number(v->incarnation));
    set(o, "version", text(v->version));
    if (c->lead.leading) {
        bool self = v->node == c->self;
        uint64_t heard = c->lead.nodes[v->node].heard_ns;
        set(o, "heard_ms_ago", heard == 0 ? json_null() : number((now - heard) / MR_NS_PER_MS));
        set(o, "applied", number(self ? state_index(c->state) : c->lead.nodes[v->node].applied));
        set(o, "bodies_missing", number(c->lead.nodes[v->node].bodies_missing));
        set(o, "low_disk", json_boolean(c->lead.nodes[v->node].low_disk));
        set(o, "draining", json_boolean(c->lead.nodes[v->node].draining));
        set(o, "behind", json_boolean(c->lead.nodes[v->node].behind));
        set(o, "rules_differ", json_boolean(rules_differ(c, v)));
    }
    return o;
}

static json_t *status_queue(const struct state_counts *n)
{
    json_t *queue = json_object();
    json_t *deliveries = json_object();
    set(deliveries, "ready", number(n->ready));
    set(deliveries, "assigned", number(n->assigned));
    set(deliveries, "deferred", number(n->deferred));
    set(deliveries, "held", number(n->held));
    set(queue, "messages", number(n->messages));
    set(queue, "recipients", number(n->recipients));
    set(queue, "bytes", number(n->body_bytes));
    set(queue, "deliveries", deliveries);
    return queue;
}

/* What the leader knows of a member; an empty line: it is well. */
static void node_alarm(const struct cluster *c, const struct node_view *v, uint64_t now, char *line, size_t size)
{
    const struct core_lead_node *n = &c->lead.nodes[v->node];
    bool beats = n->heard_ns != 0 && !n->draining && now - n->heard_ns < c->config.node_timeout_ms * MR_NS_PER_MS;

    line[0] = '\0';
    if (v->up && n->behind)
        (void)snprintf(line, size,
                       "%s is up, but has applied %" PRIu64 " of %" PRIu64
                       " entries, and that for long: it is given nothing to deliver",
                       v->name, n->applied, replica_commit(c->replica));
    else if (!v->up && beats)
        (void)snprintf(line, size,
                       "%s is down: its process is heard, and has applied %" PRIu64 " of %" PRIu64 " entries", v->name,
                       n->applied, replica_commit(c->replica));
    else if (!v->up)
        (void)snprintf(line, size, "%s is down", v->name);
    else if (rules_differ(c, v))
        (void)snprintf(line, size,
                       "%s has other domains, routes, limits or retry in its configuration than those in force",
                       v->name);
}

static json_t *status_alarms(const struct cluster *c, uint64_t now)
{
    json_t *alarms = json_array();
    if (c->refused != NULL)
        json_array_append_new(alarms, text(c->refused));
    for (uint32_t peer = 0; peer < LINK_MAX_PEERS; peer++) {
        char line[640];
        if (c->refusals[peer] == NULL)
            continue;
        (void)snprintf(line, sizeof(line), "raft id %u refuses this node: %s", peer, c->refusals[peer]);
        json_array_append_new(alarms, text(line));
    }
    if (c->hung)
        json_array_append_new(alarms, text("a worker thread hangs: this node takes no part until it lives"));
    if (c->disk.full)
        json_array_append_new(alarms, text("disk full: its ballast was given back, no new mail here; make room"));
    else if (spool_low(c->spool))
        json_array_append_new(alarms, text("disk below its reserve: no new mail here"));
    if (c->disk.slow)
        json_array_append_new(alarms, text("disk slow: a call to it hangs, no new mail here"));
    if (c->full)
        json_array_append_new(
            alarms,
            text("queue full: its envelopes, and what is remembered of the last ten minutes, take max_state: no new "
                 "mail until deliveries and expiries make room, or max_state is larger"));
    for (unsigned i = 0; c->lead.leading && i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        char line[512];
        node_alarm(c, &v, now, line, sizeof(line));
        if (line[0] != '\0')
            json_array_append_new(alarms, text(line));
    }
    return alarms;
}

static json_t *answer_status(struct cluster *c)
{
    json_t *o = json_object();
    struct state_counts n;
    uint64_t now = core_now(c);
    enum cluster_readiness readiness = cluster_readiness(c);
    char id[MR_ID_TEXT + 1];

    state_counts(c->state, &n);
    set(o, "node", text(c->config.name));
    set(o, "version", text(MAILRAFT_VERSION));
    set(o, "role", text(c->replica == NULL ? "unavailable" : roles[c->role]));
    set(o, "leader", name_or_null(c, c->leader));
    set(o, "term", number(c->term));
    set(o, "applied", number(state_index(c->state)));
    set(o, "commit", number(c->replica == NULL ? 0 : replica_commit(c->replica)));
    set(o, "quorum", json_boolean(c->lease_held));
    set(o, "readiness", text(readiness_names[readiness]));
    const char *refused = c->refused == NULL && !c->lease_held ? core_links_refusal(c) : c->refused;
    set(o, "refused", refused == NULL ? json_null() : text(refused));
    set(o, "cluster",
        mr_id_is_zero(identity_cluster(c->identity)) ? json_null()
                                                     : text(mr_id_format(identity_cluster(c->identity), id)));
    set(o, "directory", text(mr_id_format(identity_directory(c->identity), id)));
    set(o, "incarnation", number(c->incarnation));
    set(o, "committed_time", when(state_now_ms(c->state)));
    json_t *nodes = json_array();
    for (unsigned i = 0; i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        json_array_append_new(nodes, status_node(c, &v, now));
    }
    set(o, "nodes", nodes);
    set(o, "queue", status_queue(&n));
    json_t *totals = json_object();
    set(totals, "accepted", number(n.accepted));
    set(totals, "delivered", number(n.delivered));
    set(totals, "failed", number(n.failed));
    set(totals, "expired", number(n.expired));
    set(totals, "in_doubt", number(n.in_doubt));
    set(totals, "possibly_in_doubt", number(n.possibly_in_doubt));
    set(o, "totals", totals);
    set(o, "alarms", status_alarms(c, now));
    return o;
}

/* ---- queue ---- */

static json_t *answer_queue(struct cluster *c)
{
    json_t *o = json_object();
    json_t *hops = json_array();
    struct state_counts n;
    uint64_t now = core_now(c);
    unsigned count = 0;
    const struct state_next_hop *h = NULL;

    state_counts(c->state, &n);
    while (count < MAX_NEXT_HOPS && (h = state_next_hop_next(c->state, h)) != NULL) {
        struct next_hop_view v;
        state_next_hop_view(h, &v);
        json_t *hop = json_object();
        set(hop, "next_hop", text(v.name));
        set(hop, "ready", number(v.ready));
        set(hop, "assigned", number(v.assigned));
        set(hop, "deferred", number(v.deferred));
        set(hop, "held", number(v.held));
        set(hop, "oldest", when(v.oldest_ms));
        set(hop, "next_attempt", when(v.next_due_ms));
        set(hop, "last_reply", text(v.last_reply));
        if (c->lead.leading) {
            uint64_t until = sched_backoff_until(c->sched, v.name);
            set(hop, "connections", number(sched_slots(c->sched, v.name)));
            set(hop, "backoff_ms", number(until > now ? (until - now) / MR_NS_PER_MS : 0));
            set(hop, "avoided_node", name_or_null(c, sched_avoided(c->sched, v.name)));
        }
        json_array_append_new(hops, hop);
        count++;
    }
    set(o, "node", text(c->config.name));
    set(o, "queue", status_queue(&n));
    set(o, "next_hops", hops);
    set(o, "truncated", json_boolean(h != NULL));
    return o;
}

/* ---- messages ---- */

static json_t *flags_json(uint32_t flags)
{
    static const char *const names[] = {"8bitmime", "smtputf8", "dsn", "warned", "binarymime", "requiretls"};
    json_t *all = json_array();

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((flags & 1U << i) != 0)
            json_array_append_new(all, text(names[i]));
    return all;
}

static json_t *recipient_json(const struct cluster *c, const struct state_message *m, uint32_t i)
{
    struct recipient_view rv;
    struct delivery_view dv;
    json_t *r = json_object();
    state_recipient_view(m, i, &rv);
    state_delivery_view(m, rv.delivery, &dv);
    set(r, "address", text(rv.address));
    set(r, "state", text(rv.state == RECIPIENT_QUEUED ? delivery_states[dv.state] : recipient_states[rv.state]));
    set(r, "next_hop", text(dv.next_hop));
    set(r, "attempts", number(dv.attempt));
    set(r, "node", dv.state == DELIVERY_ASSIGNED ? name_or_null(c, dv.node) : json_null());
    set(r, "next_attempt", dv.state == DELIVERY_DEFERRED ? when(dv.due_ms) : json_null());
    set(r, "last_reply", text(rv.reply));
    set(r, "status", text(rv.status));
    return r;
}

/* Goes on with the list, by one at least; false: its time (uv_hrtime) was up, and there may be more. */
static bool add_recipients(const struct cluster *c, const struct state_message *m, json_t *list, size_t most,
                           uint64_t until_ns)
{
    struct message_view mv;
    state_message_view(m, &mv);
    while (json_array_size(list) < most && json_array_size(list) < mv.n_recipients) {
        json_array_append_new(list, recipient_json(c, m, (uint32_t)json_array_size(list)));
        if (uv_hrtime() >= until_ns)
            return false;
    }
    return true;
}

/* With an empty list of recipients. */
static json_t *message_json(const struct cluster *c, const struct state_message *m, json_t **list)
{
    struct message_view mv;
    char id[MR_ID_TEXT + 1];
    json_t *o = json_object();

    state_message_view(m, &mv);
    set(o, "id", text(mr_id_format(mv.id, id)));
    set(o, "sequence", number(mv.sequence));
    set(o, "sender", text(mv.reverse_path));
    set(o, "size", number(mv.body_length));
    set(o, "arrived", when(mv.arrived_ms));
    set(o, "expires", when(mv.expire_ms));
    set(o, "accepted_by", name_or_null(c, mv.acceptor));
    set(o, "client", text(mv.client));
    set(o, "user", mv.user[0] == '\0' ? json_null() : text(mv.user));
    set(o, "envid", mv.envid[0] == '\0' ? json_null() : text(mv.envid));
    set(o, "priority", json_integer(mv.priority));
    set(o, "hold", when(mv.release_ms));
    set(o, "deliver_by", when(mv.deliver_by_ms));
    set(o, "deliver_by_mode",
        mv.deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_NONE     ? json_null()
        : mv.deliver_by == MAILRAFT__DELIVER_BY__DELIVER_BY_RETURN ? text("return")
                                                                   : text("notify"));
    set(o, "flags", flags_json(mv.flags));
    json_t *holders = json_array();
    for (uint32_t i = 0; i < 64; i++)
        if (mv.holders & (1ULL << i))
            json_array_append_new(holders, name_or_null(c, i));
    set(o, "holders", holders);
    *list = json_array();
    set(o, "recipient_count", number(mv.n_recipients));
    set(o, "recipients", *list);
    return o;
}

static bool domain_is(const char *address, const char *domain)
{
    const char *at = strrchr(address, '@');
    return at != NULL && strcasecmp(at + 1, domain) == 0;
}

static bool recipient_matches(const struct cluster_query *q, const struct state_message *m, uint32_t i)
{
    struct recipient_view rv;
    struct delivery_view dv;
    state_recipient_view(m, i, &rv);
    state_delivery_view(m, rv.delivery, &dv);
    const char *state = rv.state == RECIPIENT_QUEUED ? delivery_states[dv.state] : recipient_states[rv.state];
    return (q->recipient == NULL || strcasestr(rv.address, q->recipient) != NULL) &&
           (q->domain == NULL || domain_is(rv.address, q->domain)) &&
           (q->next_hop == NULL || strcasecmp(dv.next_hop, q->next_hop) == 0) &&
           (q->state == NULL || strcasecmp(state, q->state) == 0);
}

static bool matches(const struct cluster_query *q, const struct state_message *m, uint64_t now_ms)
{
    struct message_view mv;
    state_message_view(m, &mv);
    if (q->sender != NULL && strcasestr(mv.reverse_path, q->sender) == NULL)
        return false;
    if (q->older_than_s != 0 && (now_ms < mv.arrived_ms || now_ms - mv.arrived_ms < q->older_than_s * 1000))
        return false;
    if (q->recipient == NULL && q->domain == NULL && q->next_hop == NULL && q->state == NULL)
        return true;
    for (uint32_t i = 0; i < mv.n_recipients; i++)
        if (recipient_matches(q, m, i))
            return true;
    return false;
}

/* One page: at most `limit` messages found and MAX_WALK recipients (or the one message) looked at; `next` continues
 * behind the last one looked at. False: its time was up, and there may be more. */
static bool step_messages(struct core_ask *a, uint64_t until_ns)
{
    struct cluster *c = a->c;
    struct cluster_query *q = &a->query;
    size_t limit = q->limit == 0 ? DEFAULT_PAGE : q->limit > MAX_PAGE ? MAX_PAGE : q->limit;
    const struct state_message *m;

    if (a->answer == NULL) {
        a->answer = json_object();
        a->list = json_array();
        set(a->answer, "messages", a->list);
    }
    while (json_array_size(a->list) < limit && a->walked < MAX_WALK &&
           (m = state_next_message(c->state, q->after)) != NULL) {
        struct message_view mv;
        state_message_view(m, &mv);
        q->after = mv.sequence;
        a->walked += mv.n_recipients;
        if (matches(q, m, state_now_ms(c->state))) {
            json_t *recipients, *found = message_json(c, m, &recipients);
            (void)add_recipients(c, m, recipients, FEW, UINT64_MAX);
            json_array_append_new(a->list, found);
        }
        if (uv_hrtime() >= until_ns)
            return false;
    }
    set(a->answer, "next", state_next_message(c->state, q->after) != NULL ? number(q->after) : json_null());
    return true;
}

static bool step_message(struct core_ask *a, uint64_t until_ns)
{
    const struct state_message *m = state_find(a->c->state, a->query.id);

    if (m == NULL) { /* perhaps since the last step */
        json_decref(a->answer);
        a->answer = NULL;
        return true;
    }
    if (a->answer == NULL)
        a->answer = message_json(a->c, m, &a->list);
    return add_recipients(a->c, m, a->list, MAX_SHOWN, until_ns);
}

/* ---- ask ---- */

/* True: the answer is there; NULL: there is no such message. */
static bool step(struct core_ask *a)
{
    uint64_t until_ns = uv_hrtime() + STEP_US * UINT64_C(1000);

    switch (a->query.question) {
    case CLUSTER_STATUS:
        a->answer = answer_status(a->c);
        break;
    case CLUSTER_QUEUE:
        a->answer = answer_queue(a->c);
        break;
    case CLUSTER_MESSAGES:
        return step_messages(a, until_ns);
    case CLUSTER_MESSAGE:
        return step_message(a, until_ns);
    case CLUSTER_METRICS:
        a->answer = core_metrics(a->c);
        break;
    }
    return true;
}

static void free_ask(struct core_ask *a)
{
    const char *strings[] = {a->query.sender, a->query.recipient, a->query.domain, a->query.next_hop, a->query.state};
    for (size_t i = 0; i < sizeof(strings) / sizeof(strings[0]); i++)
        free((char *)(uintptr_t)strings[i]);
    atomic_fetch_sub(&a->c->n_asks, 1);
    free(a);
}

static void finish(struct core_ask *a, int status)
{
    a->done(a->arg, status, a->answer);
    free_ask(a);
}

static void add_last(struct cluster *c, struct core_ask *a)
{
    a->next = NULL;
    *c->asks_tail = a;
    c->asks_tail = &a->next;
}

static struct core_ask *take_first(struct cluster *c)
{
    struct core_ask *a = c->asks;
    c->asks = a->next;
    if (c->asks == NULL)
        c->asks_tail = &c->asks;
    return a;
}

/* One that takes many steps does not hold up the others. The pause is kept also when nobody else waits yet. */
static void on_asking(uv_timer_t *timer)
{
    struct cluster *c = timer->data;
    struct core_ask *a;

    if (c->asks == NULL)
        return;
    a = take_first(c);
    if (!step(a))
        add_last(c, a);
    else
        finish(a, a->answer == NULL ? MR_NOTFOUND : 0);
    uv_timer_start(timer, on_asking, PAUSE_MS, 0);
}

static void run_ask(struct mail *mail)
{
    struct core_ask *a = MR_CONTAINER(mail, struct core_ask, mail);
    struct cluster *c = a->c;

    if (c->closing) { /* what it would look at goes */
        finish(a, MR_CLOSED);
        return;
    }
    add_last(c, a);
    if (!uv_is_active((uv_handle_t *)&c->asking))
        uv_timer_start(&c->asking, on_asking, 0, 0);
}

void core_query_open(struct cluster *c)
{
    uv_timer_init(&c->loop, &c->asking);
    c->asking.data = c;
    c->asks_tail = &c->asks;
}

void core_query_close(struct cluster *c)
{
    uv_timer_stop(&c->asking);
    while (c->asks != NULL) {
        struct core_ask *a = take_first(c);
        json_decref(a->answer);
        a->answer = NULL;
        finish(a, MR_CLOSED);
    }
}

static const char *copy(const char *s)
{
    return s == NULL ? NULL : mr_strdup(s);
}

int cluster_ask(struct cluster *c, const struct cluster_query *query,
                void (*done)(void *arg, int status, json_t *answer), void *arg)
{
    if (atomic_fetch_add(&c->n_asks, 1) >= CORE_MAX_ASKS) {
        atomic_fetch_sub(&c->n_asks, 1);
        return MR_BUSY;
    }
    struct core_ask *a = mr_calloc(1, sizeof(*a));
    a->c = c;
    a->query = *query;
    a->query.sender = copy(query->sender);
    a->query.recipient = copy(query->recipient);
    a->query.domain = copy(query->domain);
    a->query.next_hop = copy(query->next_hop);
    a->query.state = copy(query->state);
    a->done = done;
    a->arg = arg;
    a->mail.run = run_ask;
    int rc = mailbox_offer(c->mailbox, &a->mail);
    if (rc != 0)
        free_ask(a);
    return rc;
}
