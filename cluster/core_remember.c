/* Hints about sites, to the cluster: proposed like any operation, but nobody waits for their fate, and what does not
 * get through within GIVE_UP_MS is forgotten: the next attempt to the site learns the same. */
#include "cluster/core_request.h"
#include "proto/base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { GIVE_UP_MS = 10 * 1000 };

static void remembered(void *arg, int status, enum apply_result reason)
{
    struct cluster *c = arg;
    (void)status;
    (void)reason;
    c->n_remember--;
}

/* Much the same is known already: a busy site that fails is told of by every attempt to it. */
static bool no_news(const struct cluster *c, const Mailraft__SiteMemory *m)
{
    uint64_t now = state_now_ms(c->state);
    struct site_view v;

    (void)state_site(c->state, m->site, &v);
    if (m->tls_failed_for_ms != 0 && v.tls_failed_until_ms <= now + m->tls_failed_for_ms / 2)
        return false;
    if (m->sts != NULL && (v.sts_id == NULL || strcmp(v.sts_id, m->sts->id) != 0 || v.sts_mode != m->sts->mode ||
                           v.sts_expires_ms <= now + m->sts->max_age_for_ms / 4 * 3))
        return false;
    return !m->sts_gone || v.sts_id == NULL;
}

static void run_remember(struct mail *mail)
{
    struct core_request *r = core_request_of(mail);
    struct cluster *c = r->c;
    uint64_t now = core_now(c);

    if (!c->closing && !no_news(c, r->op->site_memory) && state_version(c->state) >= 2 &&
        c->n_remember < CLUSTER_MAX_REMEMBER &&
        proposals_add(c->proposals, r->op, now, now + GIVE_UP_MS * MR_NS_PER_MS, remembered, c, NULL) == 0) {
        c->n_remember++;
        r->op = NULL;
    }
    core_request_free(r);
}

void cluster_remember(struct cluster_port *p, Mailraft__SiteMemory *memory)
{
    struct core_request *r = core_request_new(p->c, p, NULL);

    for (char *at = memory->site; *at != '\0'; at++) /* as route_site gives it */
        if (*at >= 'A' && *at <= 'Z')
            *at = (char)(*at + ('a' - 'A'));
    r->op = mr_malloc(sizeof(*r->op));
    mailraft__op__init(r->op);
    r->op->kind_case = MAILRAFT__OP__KIND_SITE_MEMORY;
    r->op->site_memory = memory;
    core_request_to_core(r, run_remember);
}
