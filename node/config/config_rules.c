/* domains, routes, retry and limits: what the cluster agrees on (PROTOCOL.md 6.3). */
#include "node/config/config_internal.h"

#include "cluster/route.h"
#include "node/mail/smtp_idn.h"
#include "node/mail/smtp_text.h"
#include "proto/base/ascii.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROUTES = 100000, MAX_LIMITS = 100000 };

static char *lower(const char *text)
{
    return ascii_lower_all(mr_strdup(text));
}

void config_rules_init(struct config *c)
{
    enum { MINUTE = 60 * 1000, HOUR = 60 * MINUTE };
    c->rules = mr_malloc(sizeof(*c->rules));
    mailraft__rules__init(c->rules);
    c->rules->retry_first_for_ms = 5 * MINUTE;
    c->rules->retry_factor = 2;
    c->rules->retry_max_for_ms = 4ULL * HOUR;
    c->rules->warn_after_for_ms = 4ULL * HOUR;
    c->rules->expire_after_for_ms = 5ULL * 24 * HOUR;
}

/* ---- routes and domains ---- */

static void add_route(struct config *c, const char *domain, char *route, bool local)
{
    Mailraft__Rules *rules = c->rules;
    Mailraft__Route *entry = mr_malloc(sizeof(*entry));
    mailraft__route__init(entry);
    entry->domain = lower(domain);
    entry->route = route;
    entry->local = local;
    rules->routes = mr_realloc(rules->routes, (rules->n_routes + 1) * sizeof(*rules->routes));
    rules->routes[rules->n_routes++] = entry;
}

static bool known_route(const struct config *c, const char *domain)
{
    for (size_t i = 0; i < c->rules->n_routes; i++)
        if (strcasecmp(c->rules->routes[i]->domain, domain) == 0)
            return true;
    return false;
}

static bool domain_ok(const char *domain)
{
    size_t len = strlen(domain);
    if (len == 0 || len > 255 || domain[0] == '.' || domain[len - 1] == '.')
        return false;
    for (const char *p = domain; *p != 0; p++)
        if (!isalnum((unsigned char)*p) && *p != '.' && *p != '-' && *p != '_')
            return false;
    return true;
}

/* The domain as it is looked up: with A-labels for U-labels. False: it is none. */
static bool domain_ascii(const char *domain, char out[SMTP_MAX_DOMAIN + 1])
{
    size_t len = strlen(domain);

    if (smtp_has_8bit(domain, len))
        return smtp_idn_to_ascii(domain, len, out) == 0;
    if (!domain_ok(domain))
        return false;
    memcpy(out, domain, len + 1);
    return true;
}

/* Canonical text of a route, or NULL after a problem was reported. */
static char *route_text(struct yaml_reader *r, yaml_node_t *node)
{
    char canonical[ROUTE_MAX];
    struct next_hop_list hops;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return NULL;
    int rc = next_hop_list_parse(text, &hops);
    if (rc == 0)
        return mr_strdup(next_hop_list_format(&hops, canonical));
    if (rc == MR_LIMIT)
        yaml_problem(r, node, "names more than %d hosts, or too long ones", NEXT_HOP_MAX_HOSTS);
    else
        yaml_problem(r, node,
                     "has to be mx, smtp://host:port or lmtp://host:port, or several of one of the last two with "
                     "commas between, not \"%s\"",
                     text);
    return NULL;
}

static void route_pair(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg)
{
    struct config *c = arg;
    char *route = route_text(r, value);
    char domain[SMTP_MAX_DOMAIN + 1];
    if (route == NULL)
        return;
    if (c->rules->n_routes >= MAX_ROUTES)
        yaml_problem(r, value, "more than %d routes", MAX_ROUTES);
    else if (!domain_ascii(key, domain))
        yaml_problem(r, value, "\"%s\" is not a domain", key);
    else if (known_route(c, domain))
        yaml_problem(r, value, "has a route already (under domains)");
    else {
        add_route(c, domain, route, false);
        return;
    }
    free(route);
}

void config_read_routes(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_pair(r, node, route_pair, target);
}

struct domain {
    char *name;
    char *route;
};

static void read_route(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    char **out = target;
    free(*out);
    *out = route_text(r, node);
}

static void domain_item(struct yaml_reader *r, yaml_node_t *node, void *arg)
{
    struct config *c = arg;
    struct domain d = {0};
    char domain[SMTP_MAX_DOMAIN + 1];
    unsigned before = r->errors;
    const struct yaml_key keys[] = {
        {"name", yaml_read_string, &d.name}, {"route", read_route, &d.route}, {NULL, NULL, NULL}};

    yaml_read_mapping(r, node, keys);
    if (r->errors == before) {
        if (d.name == NULL || d.route == NULL)
            yaml_problem(r, node, "needs name and route");
        else if (!domain_ascii(d.name, domain))
            yaml_problem(r, node, "\"%s\" is not a domain", d.name);
        else if (known_route(c, domain))
            yaml_problem(r, node, "\"%s\" is given twice", d.name);
        else {
            add_route(c, domain, d.route, true);
            d.route = NULL;
        }
    }
    free(d.name);
    free(d.route);
}

void config_read_domains(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, domain_item, target);
}

/* ---- retry ---- */

static void read_factor(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    char *end;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    double factor = strtod(text, &end);
    if (end == text || *end != 0 || !(factor >= 1 && factor <= 100))
        yaml_problem(r, node, "has to be a number from 1 to 100, not \"%s\"", text);
    else
        *(double *)target = factor;
}

void config_read_retry(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"first", yaml_read_ms64, &c->rules->retry_first_for_ms},
                                    {"factor", read_factor, &c->rules->retry_factor},
                                    {"max", yaml_read_ms64, &c->rules->retry_max_for_ms},
                                    {"warn_after", yaml_read_ms64, &c->rules->warn_after_for_ms},
                                    {"expire", yaml_read_ms64, &c->rules->expire_after_for_ms},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    if (c->rules->retry_first_for_ms == 0)
        yaml_problem(r, node, "first must be over 0");
    if (c->rules->retry_max_for_ms < c->rules->retry_first_for_ms)
        yaml_problem(r, node, "max is smaller than first");
    if (c->rules->expire_after_for_ms == 0)
        yaml_problem(r, node, "expire must be over 0");
}

/* ---- limits ---- */

void config_read_count(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "unlimited") == 0)
        *(uint32_t *)target = 0;
    else if (!config_parse_number(text, &n) || n == 0 || n > 1000000)
        yaml_problem(r, node, "has to be unlimited or a number from 1 to 1000000, not \"%s\"", text);
    else
        *(uint32_t *)target = (uint32_t)n;
}

/* An outcome names each recipient of an attempt and has to fit into one entry of the log. */
static void read_recipients(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    enum { MOST = 500 };
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_number(text, &n) || n == 0 || n > MOST)
        yaml_problem(r, node, "has to be a number from 1 to %d, not \"%s\"", MOST, text);
    else
        *(uint32_t *)target = (uint32_t)n;
}

void config_read_rate(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    char *end;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "unlimited") == 0) {
        *(double *)target = 0;
        return;
    }
    double n = strtod(text, &end);
    double seconds = strcmp(end, "/s") == 0   ? 1
                     : strcmp(end, "/m") == 0 ? 60
                     : strcmp(end, "/h") == 0 ? 3600
                     : strcmp(end, "/d") == 0 ? 86400
                                              : 0;
    if (end == text || seconds == 0 || !(n > 0 && n <= 1e9))
        yaml_problem(r, node, "has to be unlimited or like 500/s, 30/m, 1000/h, 5000/d, not \"%s\"", text);
    else
        *(double *)target = n / seconds;
}

/* An entry that leaves a key out has the default's value; as "default" may stand behind it, that is filled in at the
 * end: until then UINT32_MAX and a negative rate mark what was not given. */
static void limit_pair(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg)
{
    struct config *c = arg;
    Mailraft__Rules *rules = c->rules;
    if (rules->n_limits >= MAX_LIMITS) {
        yaml_problem(r, value, "more than %d limits", MAX_LIMITS);
        return;
    }
    for (size_t i = 0; i < rules->n_limits; i++) {
        if (strcasecmp(rules->limits[i]->site, key) == 0) { /* in another case of letters */
            yaml_problem(r, value, "given twice");
            return;
        }
    }
    Mailraft__Limit *l = mr_malloc(sizeof(*l));
    mailraft__limit__init(l);
    l->site = lower(key);
    l->connections = l->messages_per_connection = l->recipients_per_message = UINT32_MAX;
    l->rate = -1;
    rules->limits = mr_realloc(rules->limits, (rules->n_limits + 1) * sizeof(*rules->limits));
    rules->limits[rules->n_limits++] = l;
    const struct yaml_key keys[] = {{"connections", config_read_count, &l->connections},
                                    {"rate", config_read_rate, &l->rate},
                                    {"messages_per_connection", config_read_count, &l->messages_per_connection},
                                    {"recipients_per_message", read_recipients, &l->recipients_per_message},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, value, keys);
}

void config_read_limits(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_pair(r, node, limit_pair, target);
}

/* ---- TLS by destination, users ---- */

static void read_policy(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const names[] = {"none", "may", "encrypt", "verify", "dane", "sts"};
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    for (int i = 0; i < 6; i++) {
        if (strcmp(text, names[i]) == 0) {
            *(Mailraft__TlsPolicy *)target = (Mailraft__TlsPolicy)(MAILRAFT__TLS_POLICY__TLS_POLICY_NONE + i);
            return;
        }
    }
    yaml_problem(r, node, "has to be none, may, encrypt, verify, dane or sts, not \"%s\"", text);
}

static void name_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    enum { MAX_NAMES = 64 };
    Mailraft__TlsRule *rule = target;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!domain_ok(text[0] == '.' ? text + 1 : text)) { /* a dot: all names below it */
        yaml_problem(r, node, "\"%s\" is not a host name", text);
        return;
    }
    if (rule->n_names >= MAX_NAMES) {
        yaml_problem(r, node, "more than %d names", MAX_NAMES);
        return;
    }
    rule->names = mr_realloc(rule->names, (rule->n_names + 1) * sizeof(*rule->names));
    rule->names[rule->n_names++] = lower(text);
}

static void read_names(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, name_item, target);
}

static void tls_pair(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg)
{
    enum { MAX_TLS_RULES = 10000 };
    struct config *c = arg;
    Mailraft__Rules *rules = c->rules;
    if (rules->n_tls >= MAX_TLS_RULES) {
        yaml_problem(r, value, "more than %d destinations", MAX_TLS_RULES);
        return;
    }
    for (size_t i = 0; i < rules->n_tls; i++) {
        if (strcasecmp(rules->tls[i]->site, key) == 0) {
            yaml_problem(r, value, "given twice");
            return;
        }
    }
    Mailraft__TlsRule *rule = mr_malloc(sizeof(*rule));
    mailraft__tls_rule__init(rule);
    rule->site = lower(key);
    rules->tls = mr_realloc(rules->tls, (rules->n_tls + 1) * sizeof(*rules->tls));
    rules->tls[rules->n_tls++] = rule;
    const struct yaml_key keys[] = {
        {"policy", read_policy, &rule->policy}, {"names", read_names, rule}, {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, value, keys);
    if (r->errors != before)
        return;
    if (rule->policy == MAILRAFT__TLS_POLICY__TLS_POLICY_DEFAULT)
        yaml_problem(r, value, "needs policy");
    else if (rule->n_names > 0 && rule->policy != MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY)
        yaml_problem(r, value, "names goes with policy verify only");
}

void config_read_tls_rules(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_pair(r, node, tls_pair, target);
}

void config_add_user_limit(struct config *c, const char *user, uint32_t recipients_per_hour)
{
    Mailraft__Rules *rules = c->rules;
    Mailraft__UserLimit *l = NULL;
    for (size_t i = 0; i < rules->n_user_limits; i++)
        if (strcmp(rules->user_limits[i]->user, user) == 0)
            l = rules->user_limits[i];
    if (l == NULL) {
        l = mr_malloc(sizeof(*l));
        mailraft__user_limit__init(l);
        l->user = mr_strdup(user);
        rules->user_limits = mr_realloc(rules->user_limits, (rules->n_user_limits + 1) * sizeof(*rules->user_limits));
        rules->user_limits[rules->n_user_limits++] = l;
    }
    l->recipients_per_hour = recipients_per_hour;
}

/* ---- the end ---- */

static void inherit(Mailraft__Limit *l, uint32_t connections, double rate, uint32_t messages, uint32_t recipients)
{
    if (l->connections == UINT32_MAX)
        l->connections = connections;
    if (l->rate < 0)
        l->rate = rate;
    if (l->messages_per_connection == UINT32_MAX)
        l->messages_per_connection = messages;
    if (l->recipients_per_message == UINT32_MAX)
        l->recipients_per_message = recipients;
}

void config_rules_finish(struct config *c)
{
    Mailraft__Rules *rules = c->rules;
    Mailraft__Limit *standard = NULL;
    for (size_t i = 0; i < rules->n_limits; i++)
        if (strcmp(rules->limits[i]->site, "default") == 0)
            standard = rules->limits[i];
    if (standard == NULL) {
        standard = mr_malloc(sizeof(*standard));
        mailraft__limit__init(standard);
        standard->site = mr_strdup("default");
        standard->connections = standard->messages_per_connection = standard->recipients_per_message = UINT32_MAX;
        standard->rate = -1;
        rules->limits = mr_realloc(rules->limits, (rules->n_limits + 1) * sizeof(*rules->limits));
        rules->limits[rules->n_limits++] = standard;
    }
    inherit(standard, 20, 0, 100, 100);
    for (size_t i = 0; i < rules->n_limits; i++)
        inherit(rules->limits[i], standard->connections, standard->rate, standard->messages_per_connection,
                standard->recipients_per_message);
    if (!known_route(c, "default"))
        add_route(c, "default", mr_strdup("mx"), false);
    rules->suspended = c->delivery.suspended;
    rules->replicas = c->cluster.replicas;
}
