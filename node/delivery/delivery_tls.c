/* How a connection is secured: which demand the address that comes next has to meet, STARTTLS, the handshake, and what
 * follows from their failure.
 *
 * Happy path: slot_secure (TLSA records, policy of MTA-STS, both only where they may count) -> slot_dial -> greeting,
 * EHLO -> slot_starttls -> 220 -> handshake -> EHLO again, with nothing remembered of the first -> ready.
 * Failure: a demand that is not met costs the address (slot_refuse): the next one is tried, and when there is none the
 * job is deferred as if nobody had been reached. Where nothing is demanded the same address is tried again without
 * STARTTLS, and the cluster remembers the site for a while.
 *
 * Names that a certificate has to carry:
 *   verify  the rule's; without any: of a route to a host that host, of a domain's MX the MX host if DNSSEC vouches for
 *           it, else the domain itself or a name below it (who says which host is its MX could be anybody)
 *   STS     the MX host, which the policy names (RFC 8461 4.1)
 *   DANE    by usage 3 none; by usage 2 where the TLSA records are, the host, and the domain (RFC 7672 3.2.2)
 * TLS 1.2 is the least everywhere: what speaks only older versions gets plain text under `may`, as it would of most. */
#include "node/delivery/delivery_internal.h"

#include "node/delivery/delivery_tls.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TLS_FAILED_MS = 3600 * 1000 }; /* how long the cluster remembers that STARTTLS does not work at a site */

/* ---- what is wanted ---- */

static const Mailraft__TlsRule *rule_of(const struct slot *s)
{
    const struct cluster_rules *rules = s->d->w->rules;
    return route_tls(rules == NULL ? NULL : rules->rules, s->next_hop);
}

static Mailraft__TlsPolicy policy_of(const struct slot *s)
{
    Mailraft__TlsPolicy policy = rule_of(s)->policy;
    if (policy == MAILRAFT__TLS_POLICY__TLS_POLICY_DEFAULT)
        policy = MAILRAFT__TLS_POLICY__TLS_POLICY_STS;
    return policy;
}

bool slot_requires_tls(const struct slot *s)
{
    return s->job != NULL && (s->job->a->flags & MESSAGE_REQUIRETLS) != 0;
}

static const struct resolved_address *address_of(const struct slot *s)
{
    return &s->resolution.list[s->address];
}

/* A message under REQUIRETLS may use whatever proves the host, also where the policy does not ask for it. */
static bool wants_dane(const struct slot *s)
{
    Mailraft__TlsPolicy policy = policy_of(s);
    if (s->hop.kind == NEXT_HOP_LMTP || policy == MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY || !address_of(s)->secure)
        return false;
    return policy == MAILRAFT__TLS_POLICY__TLS_POLICY_DANE || policy == MAILRAFT__TLS_POLICY__TLS_POLICY_STS ||
           slot_requires_tls(s);
}

static bool is_literal(const char *host)
{
    struct in6_addr any;
    return inet_pton(AF_INET, host, &any) == 1 || inet_pton(AF_INET6, host, &any) == 1;
}

static bool wants_sts(const struct slot *s)
{
    Mailraft__TlsPolicy policy = policy_of(s);
    if (s->hop.kind != NEXT_HOP_MX || is_literal(s->hop.host) || policy == MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY)
        return false;
    return policy == MAILRAFT__TLS_POLICY__TLS_POLICY_STS || slot_requires_tls(s);
}

/* ---- TLSA records (RFC 7672 2.2) ---- */

static int use_tlsa(struct slot *s, const char *base, const uint8_t *answer, size_t len)
{
    struct secure *x = &s->secure;
    x->tlsa_answer = mr_memdup(answer, len);
    int rc = dns_read_tlsa(x->tlsa_answer, len, &x->tlsa);
    if (rc != 0 || x->tlsa.n == 0) {
        free(x->tlsa_answer);
        x->tlsa_answer = NULL;
        x->tlsa.n = 0;
        return rc;
    }
    (void)snprintf(x->tlsa_base, sizeof(x->tlsa_base), "%s", base);
    return 0;
}

static bool usable(const struct dns_tlsa *record)
{
    static const size_t lengths[] = {0, 32, 64};
    return (record->usage == 2 || record->usage == 3) && record->selector <= 1 && record->matching <= 2 &&
           (record->matching == 0 ? record->len > 0 : record->len == lengths[record->matching]);
}

static bool any_usable(const struct secure *x)
{
    for (unsigned i = 0; i < x->tlsa.n; i++)
        if (usable(&x->tlsa.list[i]))
            return true;
    return false;
}

static void ask_tlsa(struct slot *s, const char *base);

static void on_tlsa(void *arg, enum dns_outcome outcome, bool secure, const uint8_t *answer, size_t len)
{
    struct slot *s = arg;
    struct secure *x = &s->secure;
    const struct resolved_address *a = address_of(s);
    bool was_alias = x->asking_alias;

    x->question = NULL;
    if (outcome == DNS_ANSWERED && secure && use_tlsa(s, was_alias ? a->alias : a->host, answer, len) != 0)
        outcome = DNS_FAILED;
    if (outcome == DNS_FAILED) {
        /* To go on without would let anybody who can drop packets switch it off (RFC 7672 2.1). */
        slot_refuse(s, "4.7.5", "the TLSA records of %s cannot be had or trusted now", was_alias ? a->alias : a->host);
        return;
    }
    if (x->tlsa.n == 0 && was_alias) {
        x->asking_alias = false;
        ask_tlsa(s, a->host);
        return;
    }
    x->tlsa_known = true;
    slot_secure(s);
}

static void ask_tlsa(struct slot *s, const char *base)
{
    char name[300];
    const struct resolved_address *a = address_of(s);
    uint16_t port = ntohs(a->address.any.sa_family == AF_INET6 ? a->address.v6.sin6_port : a->address.v4.sin_port);
    (void)snprintf(name, sizeof(name), "_%u._tcp.%s", port, base);
    s->secure.question = resolver_ask(s->d->resolver, name, DNS_TYPE_TLSA, on_tlsa, s);
}

/* ---- the demand ---- */

static void drop_tlsa(struct secure *x)
{
    free(x->tlsa_answer);
    x->tlsa_answer = NULL;
    x->tlsa.n = 0;
    x->tlsa_known = false;
    x->asking_alias = false;
    x->tlsa_base[0] = 0;
}

void slot_secure_forget(struct slot *s)
{
    struct secure *x = &s->secure;
    if (x->question != NULL)
        resolver_ask_cancel(x->question);
    x->question = NULL;
    drop_tlsa(x);
    x->plain = x->own_fault = false;
    x->status = NULL;
}

void slot_secure_reset(struct slot *s)
{
    struct secure *x = &s->secure;
    slot_secure_forget(s);
    if (x->sts_wait != NULL)
        sts_cancel(x->sts_wait);
    x->sts_wait = NULL;
    sts_unref(x->sts);
    x->sts = NULL;
    x->sts_known = false;
}

static void on_policy(void *arg, struct sts_policy *policy)
{
    struct slot *s = arg;
    s->secure.sts_wait = NULL;
    s->secure.sts_known = true;
    s->secure.sts = policy == NULL ? NULL : sts_ref(policy);
    slot_secure(s);
}

static bool site_failed(const struct slot *s)
{
    return s->job != NULL && s->job->a->site.tls_failed;
}

static enum demand demand_of_policy(const struct slot *s)
{
    switch (policy_of(s)) {
    case MAILRAFT__TLS_POLICY__TLS_POLICY_NONE:
        return DEMAND_PLAIN;
    case MAILRAFT__TLS_POLICY__TLS_POLICY_ENCRYPT:
        return DEMAND_TLS;
    case MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY:
        return DEMAND_NAMES;
    default:
        return DEMAND_MAY;
    }
}

static void log_testing(const struct slot *s, const char *why)
{
    log_event(LOG_WARN, "sts_testing_failed", LOG_S("domain", s->hop.host), LOG_S("peer", s->peer),
              LOG_S("sts_id", s->secure.sts->id), LOG_S("reason", why));
}

/* The domain's policy says which hosts are its own; false: not this one, and it was refused. */
static bool decide_by_sts(struct slot *s)
{
    struct secure *x = &s->secure;
    bool named = sts_matches(x->sts, address_of(s)->host);

    if (named && (x->sts->mode == STS_ENFORCE || slot_requires_tls(s))) {
        x->demand = DEMAND_STS;
    } else if (x->sts->mode == STS_ENFORCE) {
        slot_refuse(s, "4.7.5", "the MTA-STS policy of %s does not name %s", s->hop.host, address_of(s)->host);
        return false;
    } else if (named) {
        x->testing = true;
    } else {
        log_testing(s, "the policy does not name the host");
    }
    return true;
}

/* For REQUIRETLS somebody has to vouch that this is a host of the domain (RFC 8689 4.2.1): DNSSEC, where neither TLSA
 * records nor a policy do. The host itself is then proven by an authority. */
static bool decide_by_dnssec(struct slot *s)
{
    if (!address_of(s)->secure) {
        slot_refuse(s, "4.7.5", "REQUIRETLS: nothing proves that %s is a host of %s", address_of(s)->host, s->hop.host);
        return false;
    }
    s->secure.demand = DEMAND_NAMES;
    return true;
}

/* What this address has to meet, by what is known of it now; false: it was refused. */
static bool decide(struct slot *s)
{
    struct secure *x = &s->secure;
    x->testing = false;
    x->verified = NULL;
    x->policy = policy_of(s);
    x->demand = demand_of_policy(s);
    if (any_usable(x)) /* DANE wins (RFC 8461 2) */
        x->demand = DEMAND_DANE;
    else if (x->sts != NULL && !decide_by_sts(s))
        return false;
    if (x->tlsa.n > 0 && x->demand < DEMAND_TLS)
        x->demand = DEMAND_TLS; /* RFC 7672 2.2: records that nobody can use still say that there is TLS */
    /* A password is at stake: the host has to prove itself, unless the operator asks for less in so many words. */
    if (s->hop.user[0] != '\0' && x->policy != MAILRAFT__TLS_POLICY__TLS_POLICY_ENCRYPT &&
        (x->demand == DEMAND_MAY || x->demand == DEMAND_TLS))
        x->demand = DEMAND_NAMES;
    if (slot_requires_tls(s) && x->demand < DEMAND_NAMES && !decide_by_dnssec(s))
        return false;
    if (x->demand == DEMAND_MAY && (x->plain || site_failed(s)))
        x->demand = DEMAND_PLAIN;
    return true;
}

void slot_secure(struct slot *s)
{
    struct secure *x = &s->secure;
    const struct attempt *a = s->job->a;

    s->phase = PHASE_SECURE;
    if (!x->tlsa_known && wants_dane(s)) {
        x->asking_alias = address_of(s)->alias[0] != 0;
        ask_tlsa(s, x->asking_alias ? address_of(s)->alias : address_of(s)->host);
    } else if (!x->sts_known && !any_usable(x) && wants_sts(s)) {
        x->sts_wait = sts_find(s->d->sts, s->hop.host, &a->site, a->now_ms, on_policy, s);
    } else if (decide(s)) {
        slot_dial(s);
    }
}

/* ---- STARTTLS ---- */

static bool add_names(SSL *ssl, const struct slot *s)
{
    const Mailraft__TlsRule *rule = rule_of(s);
    const struct resolved_address *a = address_of(s);
    char below[260];
    bool fine = true;

    unsigned flags = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;

    if (s->secure.demand == DEMAND_STS || s->secure.testing)
        flags |= X509_CHECK_FLAG_NEVER_CHECK_SUBJECT; /* RFC 8461 4.2: a subject alternative name, no common name */
    SSL_set_hostflags(ssl, flags);
    if (s->secure.demand == DEMAND_NAMES && policy_of(s) == MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY) {
        for (size_t i = 0; i < rule->n_names; i++)
            fine = fine && SSL_add1_host(ssl, rule->names[i]) == 1;
        if (rule->n_names > 0)
            return fine;
        if (s->hop.kind == NEXT_HOP_MX && !a->secure) {
            (void)snprintf(below, sizeof(below), ".%s", s->hop.host);
            return SSL_set1_host(ssl, s->hop.host) == 1 && SSL_add1_host(ssl, below) == 1;
        }
    }
    return SSL_set1_host(ssl, a->host) == 1;
}

static bool add_tlsa(SSL *ssl, const struct slot *s)
{
    const struct secure *x = &s->secure;
    const struct resolved_address *a = address_of(s);
    unsigned added = 0;

    if (SSL_dane_enable(ssl, x->tlsa_base) != 1)
        return false;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    SSL_dane_set_flags(ssl, DANE_FLAG_NO_DANE_EE_NAMECHECKS); /* RFC 7672 3.1.1 */
    if (strcasecmp(x->tlsa_base, a->host) != 0 && SSL_add1_host(ssl, a->host) != 1)
        return false;
    if (s->hop.kind == NEXT_HOP_MX && SSL_add1_host(ssl, s->hop.host) != 1)
        return false;
    for (unsigned i = 0; i < x->tlsa.n; i++) {
        const struct dns_tlsa *t = &x->tlsa.list[i];
        if (usable(t))
            added += SSL_dane_tlsa_add(ssl, t->usage, t->selector, t->matching, t->data, t->len) == 1;
    }
    return added > 0; /* OpenSSL may still refuse a whole certificate or key that it cannot read */
}

/* By TLSA records and in testing each handshake is looked at anew. */
static bool slot_may_resume(const struct slot *s)
{
    return s->secure.demand != DEMAND_DANE && !s->secure.testing;
}

/* What a session was had from, and under which demands on the certificate (which names `verify` asks for without any in
 * the rule is the policy's matter); malloc. */
static char *session_key(const struct slot *s)
{
    const Mailraft__TlsRule *rule = rule_of(s);
    size_t size = ROUTE_MAX + sizeof(s->peer) + 32, n;
    for (size_t i = 0; i < rule->n_names; i++)
        size += strlen(rule->names[i]) + 1;
    char *key = mr_malloc(size);
    n = (size_t)snprintf(key, size, "%d %d %s %s", s->secure.demand, s->secure.policy, s->peer, s->next_hop);
    for (size_t i = 0; i < rule->n_names; i++)
        n += (size_t)snprintf(key + n, size - n, " %s", rule->names[i]);
    return key;
}

/* Settings of the handshake for the demand; NULL: not possible. */
static struct tls *prepare(struct slot *s)
{
    const struct secure *x = &s->secure;
    const char *name = x->demand == DEMAND_DANE ? x->tlsa_base : address_of(s)->host;
    SSL_CTX *ctx = delivery_tls_context(s->d, x->demand >= DEMAND_NAMES || x->testing);
    bool fine = true;

    if (ctx == NULL)
        return NULL;
    struct tls *t = tls_connect(ctx, is_literal(name) ? NULL : name);
    if (x->demand == DEMAND_DANE)
        fine = add_tlsa(tls_ssl(t), s);
    else if (x->demand >= DEMAND_NAMES || x->testing)
        fine = add_names(tls_ssl(t), s);
    if (x->demand >= DEMAND_NAMES)
        SSL_set_verify(tls_ssl(t), SSL_VERIFY_PEER, NULL);
    if (fine && slot_may_resume(s))
        delivery_tls_resume(s->d, s->secure.session_key = session_key(s), t);
    ERR_clear_error();
    if (fine)
        return t;
    tls_free(t);
    return NULL;
}

bool slot_starttls(struct slot *s)
{
    const struct secure *x = &s->secure;

    if (s->tls != NULL || x->demand == DEMAND_PLAIN)
        return false;
    if ((s->can.flags & CAP_STARTTLS) == 0) {
        if (x->testing)
            log_testing(s, "STARTTLS is not offered");
        if (x->demand == DEMAND_MAY)
            return false;
        slot_refuse(s, "4.7.4", "TLS is demanded, but %s does not offer STARTTLS", s->peer);
        return true;
    }
    s->phase = PHASE_STARTTLS;
    slot_write(s, "STARTTLS\r\n", 10);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
    return true;
}

/* more: the next hop has said more in the same breath. Nobody whom we trust does: it would be read as if it had been
 * said under TLS (CVE-2021-38371). */
void slot_starttls_reply(struct slot *s, int code, const char *text, bool more)
{
    if (code == 421) { /* it ends the session, whatever it was asked: that says nothing about its TLS */
        s->phase = PHASE_EHLO;
        slot_lost(s, text);
        return;
    }
    if (code != 220) {
        slot_refuse(s, "4.7.0", "STARTTLS was refused: %s", text);
        return;
    }
    if (more) {
        slot_refuse(s, "4.7.0", "plain text was sent between STARTTLS and the handshake");
        return;
    }
    s->tls = prepare(s);
    if (s->tls == NULL) {
        s->secure.own_fault = true;
        slot_refuse(s, "4.7.0", "TLS cannot be set up for what is demanded");
        return;
    }
    s->phase = PHASE_TLS;
    tls_start(s->tls);
    slot_flush_tls(s);
    slot_timer(s, s->d->w->config->delivery.command_timeout_ms);
}

/* ---- the handshake ---- */

static const char *verified_as(const struct slot *s)
{
    static const char *const names[] = {
        [DEMAND_PLAIN] = "none",   [DEMAND_MAY] = "none", [DEMAND_TLS] = "none",
        [DEMAND_NAMES] = "verify", [DEMAND_STS] = "sts",  [DEMAND_DANE] = "dane",
    };
    return names[s->secure.demand];
}

/* Why the handshake failed, as well as it is known: of a certificate that was not accepted OpenSSL's reason. */
static void handshake_failed(struct slot *s)
{
    char why[400];
    long result = SSL_get_verify_result(tls_ssl(s->tls));

    if (result != X509_V_OK && s->secure.demand >= DEMAND_NAMES) {
        (void)snprintf(why, sizeof(why), "its certificate is not accepted (%s): %s", verified_as(s),
                       X509_verify_cert_error_string(result));
        s->secure.status = "4.7.5";
    } else {
        (void)snprintf(why, sizeof(why), "TLS handshake failed: %s", tls_error(s->tls));
        s->secure.status = "4.7.0";
    }
    slot_lost(s, why);
}

static void handshake_done(struct slot *s)
{
    struct cluster_counters *counters = s->d->w->counters;
    long result = SSL_get_verify_result(tls_ssl(s->tls));
    s->secure.verified = verified_as(s);
    if (s->secure.testing && result != X509_V_OK)
        log_testing(s, X509_verify_cert_error_string(result));
    atomic_fetch_add(&counters->tls_out, 1);
    if (s->secure.demand >= DEMAND_NAMES)
        atomic_fetch_add(&counters->tls_out_verified, 1);
    slot_tls_ready(s);
}

void slot_tls_progress(struct slot *s)
{
    slot_flush_tls(s);
    if (s->phase != PHASE_TLS)
        return;
    if (tls_state(s->tls) == TLS_OPEN)
        handshake_done(s);
    else if (tls_state(s->tls) != TLS_HANDSHAKING)
        handshake_failed(s);
}

void slot_tls_end(struct slot *s)
{
    struct secure *x = &s->secure;
    if (x->session_key != NULL && x->verified != NULL)
        delivery_tls_keep(s->d, x->session_key, s->tls);
    free(x->session_key);
    x->session_key = NULL;
    tls_free(s->tls);
    s->tls = NULL;
}

bool slot_may_transfer(struct slot *s)
{
    if (!slot_requires_tls(s) || (s->can.flags & CAP_REQUIRETLS) != 0)
        return true;
    slot_refuse(s, "5.7.30", "REQUIRETLS is needed, and %s does not offer it", s->peer); /* RFC 8689 4.2.1, 5 */
    return false;
}

/* ---- failure ---- */

void slot_refuse(struct slot *s, const char *status, const char *format, ...)
{
    char why[400];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why, sizeof(why), format, args);
    va_end(args);
    s->secure.status = status;
    slot_lost(s, why);
}

static void remember_failure(struct slot *s, const char *why)
{
    char site[ROUTE_MAX];
    Mailraft__SiteMemory *m = mr_malloc(sizeof(*m));
    mailraft__site_memory__init(m);
    m->site = mr_strdup(route_site(s->next_hop, site));
    m->tls_failed_for_ms = TLS_FAILED_MS;
    m->tls_reason = mr_strdup(why);
    delivery_backend.remember(s->d->w->port, m);
}

bool slot_tls_fallback(struct slot *s, const char *why)
{
    struct secure *x = &s->secure;
    bool in_tls = s->phase == PHASE_STARTTLS || s->phase == PHASE_TLS || (s->phase == PHASE_EHLO && s->tls != NULL);

    if (in_tls)
        atomic_fetch_add(&s->d->w->counters->tls_out_failed, 1);
    if (in_tls && x->status == NULL)
        x->status = "4.7.0";
    if (!in_tls || x->demand != DEMAND_MAY || x->plain)
        return false;
    if (x->testing)
        log_testing(s, why);
    x->plain = true;
    x->status = NULL;
    log_event(LOG_WARN, "tls_fallback", LOG_S("next_hop", s->next_hop), LOG_S("peer", s->peer), LOG_S("reason", why));
    atomic_fetch_add(&s->d->w->counters->tls_fallbacks, 1);
    if (!x->own_fault)
        remember_failure(s, why);
    return true;
}

/* ---- an idle connection for the next message ---- */

/* The cluster learned of a policy to be enforced since the connection was made. */
static bool sts_came(const struct slot *s)
{
    const struct attempt *a = s->job->a;
    return s->secure.demand < DEMAND_STS && wants_sts(s) && a->site.sts_id != NULL && a->site.sts_mode == STS_ENFORCE &&
           a->site.sts_expires_ms > a->now_ms;
}

/* The rules may have changed since: another policy, or other names that a certificate has to carry. */
static bool same_rules(const struct slot *s)
{
    if (s->secure.policy != policy_of(s))
        return false;
    if (s->secure.policy != MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY || s->secure.session_key == NULL)
        return true;
    char *key = session_key(s);
    bool same = strcmp(key, s->secure.session_key) == 0;
    free(key);
    return same;
}

bool slot_secure_enough(const struct slot *s)
{
    if (!slot_requires_tls(s))
        return same_rules(s) && !sts_came(s);
    return s->tls != NULL && s->secure.demand >= DEMAND_NAMES && (s->can.flags & CAP_REQUIRETLS) != 0;
}
