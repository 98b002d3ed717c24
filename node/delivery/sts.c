/* Happy path: sts_find -> what the cluster knows is taken over -> the TXT record, if it was not looked at just now ->
 * same id: the policy that is known; another: it is fetched, remembered by the cluster, and told to all who wait.
 * Failure: see S2 and S3. Close: the fetcher ends its fetches, which answers those who wait; then the rest are. */
#include "node/delivery/sts.h"

#include "node/delivery/sts_fetch.h"
#include "node/dns/dns_answer.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BUCKETS = 4096, OWN_FETCH_MS = 60 * 1000 };

struct sts_wait {
    struct sts_wait *next;
    struct domain *domain;
    sts_found_cb cb;
    void *arg;
};

struct domain {
    struct domain *next; /* bucket */
    struct sts *sts;
    struct sts_policy *policy;
    uint64_t expires_ns, fetched_ns; /* fetched_ns: by this worker; 0: not */
    uint64_t checked_until_ns;       /* the record need not be asked for before */
    char failed_id[STS_MAX_ID + 1];  /* S3 */
    uint64_t failed_until_ns;
    struct question *question;
    bool fetching;
    char wanted_id[STS_MAX_ID + 1]; /* of what is fetched */
    struct sts_wait *waiting;
    unsigned told; /* whose answer comes on the next turn */
    char name[];
};

struct sts {
    struct worker *w;
    struct resolver *resolver;
    struct sts_fetcher *fetcher;
    struct domain *domains[BUCKETS];
    unsigned n, evict;
    size_t bytes;                       /* of all policies */
    struct sts_wait *told, **told_tail; /* their answer comes on the next turn */
    uv_idle_t idle;
    bool closing;
    unsigned open; /* fetcher and handle */
    void (*close_cb)(void *arg);
    void *close_arg;
};

void (*sts_remember)(struct cluster_port *p, Mailraft__SiteMemory *memory) = cluster_remember;

static uint64_t now_ns(void)
{
    return mr_boot_ns(&mr_clock_real);
}

/* ---- the table ---- */

static size_t size_of(const struct sts_policy *policy)
{
    size_t size = policy == NULL ? 0 : sizeof(*policy);
    for (unsigned i = 0; policy != NULL && i < policy->n; i++)
        size += strlen(policy->mx[i]) + 1;
    return size;
}

/* Takes over the reference. */
static void set_policy(struct domain *d, struct sts_policy *policy)
{
    d->sts->bytes += size_of(policy);
    d->sts->bytes -= size_of(d->policy);
    sts_unref(d->policy);
    d->policy = policy;
}

static void domain_free(struct sts *t, struct domain **link)
{
    struct domain *d = *link;
    *link = d->next;
    set_policy(d, NULL);
    free(d);
    t->n--;
}

static bool is_idle(const struct domain *d)
{
    return d->waiting == NULL && d->told == 0 && d->question == NULL && !d->fetching;
}

/* Bucket by bucket; false: everybody is waited for. */
static bool evict_one(struct sts *t)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        t->evict = (t->evict + 1) % BUCKETS;
        for (struct domain **link = &t->domains[t->evict]; *link != NULL; link = &(*link)->next)
            if (is_idle(*link)) {
                domain_free(t, link);
                return true;
            }
    }
    return false;
}

static struct domain *domain_of(struct sts *t, const char *name)
{
    uint64_t h = 1469598103934665603ULL; /* FNV-1a */
    for (const char *p = name; *p != 0; p++)
        h = (h ^ (unsigned char)(*p | 0x20)) * 1099511628211ULL;
    for (struct domain *d = t->domains[h % BUCKETS]; d != NULL; d = d->next)
        if (strcasecmp(d->name, name) == 0)
            return d;
    if (t->n >= STS_MAX_DOMAINS && !evict_one(t))
        return NULL;
    while (t->bytes > STS_MAX_BYTES && evict_one(t))
        ;
    size_t len = strlen(name) + 1;
    struct domain *d = mr_calloc(1, sizeof(*d) + len);
    memcpy(d->name, name, len);
    d->sts = t;
    d->next = t->domains[h % BUCKETS];
    t->domains[h % BUCKETS] = d;
    t->n++;
    return d;
}

/* ---- answers ---- */

static struct sts_policy *in_force(const struct domain *d)
{
    return d->policy != NULL && d->policy->mode != STS_NONE && d->expires_ns > now_ns() ? d->policy : NULL;
}

static void on_idle(uv_idle_t *idle)
{
    struct sts *t = idle->data;
    struct sts_wait *w = t->told;
    t->told = NULL;
    t->told_tail = &t->told;
    uv_idle_stop(idle);
    while (w != NULL) {
        struct sts_wait *next = w->next;
        if (w->cb != NULL)
            w->cb(w->arg, w->domain == NULL || t->closing ? NULL : in_force(w->domain));
        if (w->domain != NULL)
            w->domain->told--;
        free(w);
        w = next;
    }
}

static void tell(struct sts *t, struct sts_wait *w)
{
    if (w->domain != NULL)
        w->domain->told++;
    w->next = NULL;
    *t->told_tail = w;
    t->told_tail = &w->next;
    if (!t->closing)
        uv_idle_start(&t->idle, on_idle);
}

static void tell_all(struct domain *d)
{
    struct sts_wait *w = d->waiting;
    d->waiting = NULL;
    while (w != NULL) {
        struct sts_wait *next = w->next;
        tell(d->sts, w);
        w = next;
    }
}

/* ---- fetching ---- */

static void remember(struct domain *d)
{
    const struct sts_policy *policy = d->policy;
    Mailraft__SiteMemory *m = mr_malloc(sizeof(*m));
    Mailraft__StsPolicy *p = mr_malloc(sizeof(*p));
    mailraft__site_memory__init(m);
    mailraft__sts_policy__init(p);
    m->site = mr_strdup(d->name);
    m->sts = p;
    p->id = mr_strdup(policy->id);
    p->mode = policy->mode;
    p->max_age_for_ms = (uint64_t)policy->max_age_s * 1000;
    p->n_mx = policy->n;
    p->mx = policy->n == 0 ? NULL : mr_calloc(policy->n, sizeof(*p->mx));
    for (unsigned i = 0; i < policy->n; i++)
        p->mx[i] = mr_strdup(policy->mx[i]);
    sts_remember(d->sts->w->port, m);
}

static void fetch_failed(struct domain *d, const char *error)
{
    memcpy(d->failed_id, d->wanted_id, sizeof(d->failed_id));
    d->failed_until_ns = now_ns() + STS_FAILED_MS * MR_NS_PER_MS;
    atomic_fetch_add(&d->sts->w->counters->sts_failed, 1);
    log_event(LOG_WARN, "sts_fetch_failed", LOG_S("domain", d->name), LOG_S("sts_id", d->wanted_id),
              LOG_S("reason", error), LOG_B("policy_in_force", in_force(d) != NULL));
}

static void on_fetched(void *arg, const char *error, const char *text, size_t len)
{
    struct domain *d = arg;
    struct sts_policy *policy = NULL;

    d->fetching = false;
    if (error[0] == 0 && sts_read_policy(text, len, &policy) != 0)
        error = "the policy is malformed";
    if (policy == NULL) {
        fetch_failed(d, error);
        tell_all(d);
        return;
    }
    static const char *const modes[] = {[STS_NONE] = "none", [STS_TESTING] = "testing", [STS_ENFORCE] = "enforce"};
    memcpy(policy->id, d->wanted_id, sizeof(policy->id));
    set_policy(d, policy);
    d->fetched_ns = now_ns();
    d->expires_ns = d->fetched_ns + policy->max_age_s * MR_NS_PER_S;
    atomic_fetch_add(&d->sts->w->counters->sts_fetched, 1);
    log_event(LOG_INFO, "sts_policy", LOG_S("domain", d->name), LOG_S("sts_id", policy->id),
              LOG_S("mode", modes[policy->mode]), LOG_N("max_age", policy->max_age_s), LOG_N("mx", policy->n));
    remember(d);
    tell_all(d);
}

static void fetch(struct domain *d, const char *id)
{
    memcpy(d->wanted_id, id, sizeof(d->wanted_id));
    d->fetching = true;
    if (sts_fetch(d->sts->fetcher, d->name, on_fetched, d) == 0)
        return;
    d->fetching = false;
    d->checked_until_ns = 0; /* the next attempt looks again */
}

/* ---- the record ---- */

/* The one record that is about STS; "" when there is none, several, or it is malformed (RFC 8461 3.1). */
static void id_of(const struct dns_txt_answer *txt, char id[STS_MAX_ID + 1])
{
    unsigned n = 0;
    char one[STS_MAX_ID + 1];
    id[0] = 0;
    for (unsigned i = 0; i < txt->n; i++) {
        int rc = sts_read_record(txt->list[i], one);
        if (rc == MR_NOTFOUND)
            continue;
        n++;
        memcpy(id, one, sizeof(one));
        if (rc != 0)
            id[0] = 0;
    }
    if (n != 1)
        id[0] = 0;
}

/* Is there something to fetch now that this id stands in the record? */
static bool is_due(const struct domain *d, const char *id)
{
    uint64_t now = now_ns();
    bool known = d->policy != NULL && d->expires_ns > now && strcmp(d->policy->id, id) == 0;
    if (id[0] == 0 || (d->failed_until_ns > now && strcmp(d->failed_id, id) == 0))
        return false;
    return !known || (d->expires_ns - now) / 2 < (uint64_t)d->policy->max_age_s * MR_NS_PER_S / 4;
}

static void on_record(void *arg, enum dns_outcome outcome, bool secure, const uint8_t *answer, size_t len)
{
    static const uint64_t least = STS_CHECK_MIN_MS * MR_NS_PER_MS, most = STS_CHECK_MAX_MS * MR_NS_PER_MS;
    struct domain *d = arg;
    struct dns_txt_answer *txt = mr_calloc(1, sizeof(*txt));
    char id[STS_MAX_ID + 1] = "";
    uint64_t ns = RESOLVER_NEGATIVE_TTL_S * MR_NS_PER_S;

    (void)secure;
    d->question = NULL;
    if (outcome == DNS_ANSWERED && dns_read_txt(answer, len, txt) == 0) {
        id_of(txt, id);
        ns = txt->ttl * MR_NS_PER_S;
        ns = ns < least ? least : ns > most ? most : ns;
    }
    free(txt);
    d->checked_until_ns = now_ns() + ns;
    const struct sts_policy *policy = in_force(d);
    bool known = policy != NULL && strcmp(policy->id, id) == 0;
    if (!d->sts->closing && !d->fetching && is_due(d, id))
        fetch(d, id);
    if (known || !d->fetching) /* a policy that is only made to last longer keeps nobody waiting */
        tell_all(d);
}

/* ---- finding ---- */

/* What the cluster knows, unless this worker knows it better: what it fetched itself may not have come back yet. */
static void take_over(struct domain *d, const struct attempt_site *site, uint64_t now_ms)
{
    uint64_t now = now_ns();
    bool own = d->fetched_ns != 0 && now - d->fetched_ns < OWN_FETCH_MS * MR_NS_PER_MS;
    if (site->sts_id == NULL || site->sts_expires_ms <= now_ms || (own && d->expires_ns > now))
        return;
    uint64_t left_ms = site->sts_expires_ms - now_ms;
    uint64_t expires = now + left_ms * MR_NS_PER_MS;
    if (d->policy != NULL && strcmp(d->policy->id, site->sts_id) == 0) {
        if (expires > d->expires_ns)
            d->expires_ns = expires;
        return;
    }
    if (d->policy != NULL && d->expires_ns > expires)
        return;
    /* How long it was to live is not remembered; from here on what is left counts as that. */
    set_policy(d, sts_make_policy(site->sts_id, (enum sts_mode)site->sts_mode, (uint32_t)(left_ms / 1000), site->sts_mx,
                                  site->n_sts_mx));
    d->expires_ns = expires;
}

static void ask_record(struct domain *d)
{
    char name[300];
    (void)snprintf(name, sizeof(name), "_mta-sts.%s", d->name);
    d->question = resolver_ask(d->sts->resolver, name, DNS_TYPE_TXT, on_record, d);
}

struct sts_wait *sts_find(struct sts *t, const char *domain, const struct attempt_site *site, uint64_t now_ms,
                          sts_found_cb cb, void *arg)
{
    struct sts_wait *w = mr_calloc(1, sizeof(*w));
    struct domain *d = t->closing || strlen(domain) > 240 ? NULL : domain_of(t, domain);

    w->cb = cb;
    w->arg = arg;
    w->domain = d;
    if (d == NULL) {
        tell(t, w);
        return w;
    }
    take_over(d, site, now_ms);
    bool checked = d->checked_until_ns > now_ns();
    if (checked && (!d->fetching || in_force(d) != NULL)) {
        tell(t, w);
        return w;
    }
    w->next = d->waiting;
    d->waiting = w;
    if (!checked && d->question == NULL)
        ask_record(d);
    return w;
}

void sts_cancel(struct sts_wait *w)
{
    w->cb = NULL;
}

/* ---- life ---- */

int sts_open(struct sts **out, struct worker *w, struct resolver *resolver)
{
    struct sts *t = mr_calloc(1, sizeof(*t));
    const struct sts_fetcher_config config = {
        .loop = &w->loop, .resolver = resolver, .ca = w->config->delivery.tls_ca, .port = w->config->delivery.sts_port};
    int rc = sts_fetcher_open(&t->fetcher, &config);
    if (rc != 0) {
        free(t);
        return rc;
    }
    t->w = w;
    t->resolver = resolver;
    t->told_tail = &t->told;
    t->open = 2;
    uv_idle_init(&w->loop, &t->idle);
    t->idle.data = t;
    *out = t;
    return 0;
}

static void closed(struct sts *t)
{
    if (--t->open > 0)
        return;
    void (*cb)(void *) = t->close_cb;
    void *arg = t->close_arg;
    for (unsigned i = 0; i < BUCKETS; i++)
        while (t->domains[i] != NULL)
            domain_free(t, &t->domains[i]);
    free(t);
    cb(arg);
}

static void on_fetcher_closed(void *arg)
{
    closed(arg);
}

static void on_idle_closed(uv_handle_t *handle)
{
    closed(handle->data);
}

void sts_close(struct sts *t, void (*cb)(void *arg), void *arg)
{
    t->closing = true;
    t->close_cb = cb;
    t->close_arg = arg;
    sts_fetcher_close(t->fetcher, on_fetcher_closed, t);
    for (unsigned i = 0; i < BUCKETS; i++)
        for (struct domain *d = t->domains[i]; d != NULL; d = d->next) {
            if (d->question != NULL)
                resolver_ask_cancel(d->question);
            d->question = NULL;
            tell_all(d);
        }
    on_idle(&t->idle);
    uv_close((uv_handle_t *)&t->idle, on_idle_closed);
}
