/* What the leader keeps in order by itself: formation, version, rules, silent nodes, assignments that nobody ends.
 *
 * Each turn looks at the applied state and proposes what is missing; a proposal that is on its way or lost is made
 * again the next turn, and without effect when it was not lost (every one is idempotent). */
#include "cluster/core.h"
#include "cluster/route.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>

enum {
    HOUSEKEEPING_MS = 200,
    FIRST_RULES_MS = 2000, /* how long a new cluster's rules wait until all members said which version they know */
    OVERDUE_MOST = 256,    /* assignments taken back in one turn */
    NOTICE_OVERDUE_MS = 15 * 60 * 1000,
};

_Static_assert((int)CORE_OVERDUE_MS >= CORE_REPLIES_MS + 3 * 60 * 1000, "what a worker may still say comes first");

static void stage_form(struct cluster *c)
{
    Mailraft__Form *form = mr_malloc(sizeof(*form));
    mailraft__form__init(form);
    struct mr_id cluster = identity_cluster(c->identity);
    form->cluster.data = mr_memdup(cluster.bytes, MR_ID_SIZE);
    form->cluster.len = MR_ID_SIZE;
    form->n_members = identity_members(c->identity);
    form->members = mr_calloc(form->n_members, sizeof(*form->members));
    for (unsigned i = 0; i < form->n_members; i++) {
        const struct identity_member *m = identity_member(c->identity, i);
        Mailraft__Member *member = mr_malloc(sizeof(*member));
        mailraft__member__init(member);
        member->node = m->node;
        member->name = mr_strdup(m->name);
        member->address = mr_strdup(m->address);
        member->directory.data = mr_memdup(m->directory.bytes, MR_ID_SIZE);
        member->directory.len = MR_ID_SIZE;
        form->members[i] = member;
    }
    core_lead_stage_own(c, MAILRAFT__OP__KIND_FORM, &form->base);
}

static void stage_version(struct cluster *c, uint32_t version)
{
    Mailraft__SetVersion *v = mr_malloc(sizeof(*v));
    mailraft__set_version__init(v);
    v->version = version;
    core_lead_stage_own(c, MAILRAFT__OP__KIND_SET_VERSION, &v->base);
}

/* Members of version 1 know no lists of hosts: a route is its first one to them. */
static void shorten_route(Mailraft__Route *route)
{
    struct next_hop_list hops;
    char text[NEXT_HOP_MAX];

    if (next_hop_list_parse(route->route, &hops) != 0 || hops.n == 1)
        return;
    free(route->route);
    route->route = mr_strdup(next_hop_format(&hops.at[0], text));
}

static bool has_list(const Mailraft__Rules *rules)
{
    struct next_hop_list hops;

    for (size_t i = 0; i < rules->n_routes; i++)
        if (next_hop_list_parse(rules->routes[i]->route, &hops) == 0 && hops.n > 1)
            return true;
    return false;
}

static bool rules_too_new(const struct cluster *c)
{
    return state_version(c->state) < 2 &&
           (c->own_rules->n_tls > 0 || c->own_rules->n_user_limits > 0 || has_list(c->own_rules));
}

static void stage_rules(struct cluster *c)
{
    size_t size = mailraft__rules__get_packed_size(c->own_rules);
    uint8_t *packed = mr_malloc(size);
    mailraft__rules__pack(c->own_rules, packed);
    Mailraft__Rules *copy = mailraft__rules__unpack(NULL, size, packed);
    free(packed);
    mr_assert(copy != NULL);
    if (rules_too_new(c)) {
        /* Only a cluster that has none yet takes them without what not all members know; under another hash, so that
         * the whole of them is seen to be missing. */
        for (size_t i = 0; i < copy->n_tls; i++)
            mailraft__tls_rule__free_unpacked(copy->tls[i], NULL);
        for (size_t i = 0; i < copy->n_user_limits; i++)
            mailraft__user_limit__free_unpacked(copy->user_limits[i], NULL);
        copy->n_tls = copy->n_user_limits = 0;
        for (size_t i = 0; i < copy->n_routes; i++)
            shorten_route(copy->routes[i]);
        copy->hash.data[0] ^= 1;
    }
    core_lead_stage_own(c, MAILRAFT__OP__KIND_RULES, &copy->base);
}

/* All members are up and report the same rules, and they are not those in force: a change that reached all
 * configurations. */
static bool all_want_new_rules(const struct cluster *c)
{
    for (unsigned i = 0; i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        if (!v.up)
            return false;
        if (v.node == c->self)
            continue;
        if (!c->lead.nodes[v.node].has_hash ||
            memcmp(c->lead.nodes[v.node].rules_hash, c->own_rules->hash.data, 16) != 0)
            return false;
    }
    return true;
}

/* A new cluster takes mail from its first rules on: they wait a moment for the version, so that no session is greeted
 * before it is known what may be offered. */
static void stage_first_rules(struct cluster *c, uint64_t now)
{
    if (state_version(c->state) >= STATE_VERSION || now - c->lead.since_ns >= FIRST_RULES_MS * MR_NS_PER_MS)
        stage_rules(c);
}

static void keep_rules(struct cluster *c, uint64_t now)
{
    const Mailraft__Rules *in_force = state_rules(c->state);
    bool same = in_force != NULL && in_force->hash.len == c->own_rules->hash.len &&
                memcmp(in_force->hash.data, c->own_rules->hash.data, in_force->hash.len) == 0;
    if (same)
        c->lead.rules_wanted = false;
    else if (in_force == NULL)
        stage_first_rules(c, now);
    else if ((c->lead.rules_wanted || all_want_new_rules(c)) && !rules_too_new(c))
        stage_rules(c);
}

static void keep_version(struct cluster *c)
{
    uint32_t lowest = STATE_VERSION;
    for (unsigned i = 0; i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        if (v.node != c->self && c->lead.nodes[v.node].version < lowest)
            lowest = c->lead.nodes[v.node].version;
    }
    if (state_nodes(c->state) > 0 && lowest > state_version(c->state))
        stage_version(c, lowest);
}

static void declare_silent(struct cluster *c, uint64_t now)
{
    for (unsigned i = 0; i < state_nodes(c->state); i++) {
        struct node_view v;
        state_node_view(c->state, i, &v);
        if (!v.up || v.node == c->self || !leader_lease_silent(&c->leader_lease, now, v.node))
            continue;
        leader_lease_condemn(&c->leader_lease, v.node);
        Mailraft__NodeDown *down = mr_malloc(sizeof(*down));
        mailraft__node_down__init(down);
        down->node = v.node;
        down->incarnation = v.incarnation;
        core_lead_stage_own(c, MAILRAFT__OP__KIND_NODE_DOWN, &down->base);
    }
}

/* Measured on this node's boot time, by which stamps go on since even_ns, at most a twentieth (CTIME_SLEW_PPM) faster.
 * What was assigned before counts from there: how old it really is nobody knows. */
static bool is_overdue(const struct cluster *c, uint64_t assigned_ms, uint64_t deadline_for_ms, uint64_t now,
                       uint64_t stamp)
{
    uint64_t after_ms = deadline_for_ms + CORE_OVERDUE_MS;

    return assigned_ms + after_ms + after_ms / (1000000 / CTIME_SLEW_PPM) <= stamp &&
           c->ctime.even_ns + after_ms * MR_NS_PER_MS <= now;
}

/* PROTOCOL.md 5.10: a worker that lives but never ends an attempt must not hold mail for ever. They stand in the order
 * of assignment: behind the first that has not yet had the least time that any has, nobody is overdue. Before it stand,
 * but for what is taken back here, those with a lot to do. */
static void take_back_overdue(struct cluster *c, uint64_t now)
{
    const void *cursor = NULL;
    struct ready_delivery d;
    uint64_t stamp = committed_time_stamp(&c->ctime, now);

    for (unsigned n = 0; n < OVERDUE_MOST && state_assigned_next(c->state, 0, &cursor, &d);) {
        struct delivery_view v;
        struct message_view m;
        state_delivery_view(d.message, d.delivery, &v);
        if (v.assigned_ms == 0) /* since before version 2 */
            continue;
        if (!is_overdue(c, v.assigned_ms, SCHED_DEADLINE_MS, now, stamp))
            break;
        if (!is_overdue(c, v.assigned_ms, v.deadline_for_ms, now, stamp))
            continue;
        n++;
        state_message_view(d.message, &m);
        Mailraft__Release *release = mr_malloc(sizeof(*release));
        mailraft__release__init(release);
        release->id.data = mr_memdup(m.id.bytes, MR_ID_SIZE);
        release->id.len = MR_ID_SIZE;
        release->delivery = d.delivery;
        release->attempt = v.attempt;
        release->node = v.node;
        release->reason = mr_strdup("long past its deadline");
        release->overdue = true;
        char text[MR_ID_TEXT + 1];
        log_event(LOG_WARN, "attempt_overdue", LOG_S("id", mr_id_format(m.id, text)), LOG_N("delivery", d.delivery),
                  LOG_N("attempt", v.attempt), LOG_N("by", v.node));
        core_lead_stage_own(c, MAILRAFT__OP__KIND_RELEASE, &release->base);
    }
}

/* The same of notices, for whose message nothing else is done meanwhile. One that ends after all is refused. */
static void take_back_notices(struct cluster *c, uint64_t now)
{
    struct sched_notice old[SCHED_NODE_NOTICES];
    const uint64_t after_ns = NOTICE_OVERDUE_MS * MR_NS_PER_MS;
    size_t n = now > after_ns ? sched_old_notices(c->sched, now - after_ns, old, SCHED_NODE_NOTICES) : 0;

    for (size_t i = 0; i < n; i++) {
        Mailraft__Release *release = mr_malloc(sizeof(*release));
        mailraft__release__init(release);
        release->id.data = mr_memdup(old[i].id.bytes, MR_ID_SIZE);
        release->id.len = MR_ID_SIZE;
        release->delivery = STATE_RELEASE_NOTICE;
        release->attempt = old[i].attempt;
        release->node = old[i].node;
        release->reason = mr_strdup("never written");
        char text[MR_ID_TEXT + 1];
        log_event(LOG_WARN, "notice_overdue", LOG_S("id", mr_id_format(old[i].id, text)),
                  LOG_N("attempt", old[i].attempt), LOG_N("by", old[i].node));
        core_lead_stage_own(c, MAILRAFT__OP__KIND_RELEASE, &release->base);
    }
}

void core_keep_tick(struct cluster *c, uint64_t now)
{
    if (now - c->lead.housekeeping_ns >= HOUSEKEEPING_MS * MR_NS_PER_MS) {
        c->lead.housekeeping_ns = now;
        if (mr_id_is_zero(state_cluster(c->state))) {
            stage_form(c);
        } else {
            keep_version(c);
            keep_rules(c, now);
            take_back_overdue(c, now);
            take_back_notices(c, now);
        }
    }
    if (leader_lease_may_grant(&c->leader_lease, now))
        declare_silent(c, now);
}
