/* The sections delivery and dns: how mail goes out. */
#include "node/config/config_internal.h"

#include "cluster/cluster.h"
#include "proto/base/memory.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_SERVERS = 8,
    MAX_SOURCES = 8,
    MAX_DATA_MS = 10 * 60 * 1000, /* beyond it the leader takes back what waits for a reply (PROTOCOL.md 5.10) */
};

/* ---- delivery ---- */

static void source_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    struct in6_addr any;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (inet_pton(AF_INET, text, &any) != 1 && inet_pton(AF_INET6, text, &any) != 1) {
        yaml_problem(r, node, "has to be an address, not \"%s\"", text);
        return;
    }
    if (c->delivery.n_source >= MAX_SOURCES) {
        yaml_problem(r, node, "more than %d addresses", MAX_SOURCES);
        return;
    }
    c->delivery.source = mr_realloc(c->delivery.source, (c->delivery.n_source + 1) * sizeof(*c->delivery.source));
    c->delivery.source[c->delivery.n_source++] = mr_strdup(text);
}

static void read_sources(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, source_item, target);
}

static void read_data_timeout(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    unsigned *ms = target;
    yaml_read_ms(r, node, ms);
    if (*ms > MAX_DATA_MS)
        yaml_problem(r, node, "is at most 10m");
}

static void read_max_attempts(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    unsigned *most = target;
    yaml_read_unsigned(r, node, most);
    if (*most > CLUSTER_MAX_ATTEMPTS)
        yaml_problem(r, node, "has to be at most %d", CLUSTER_MAX_ATTEMPTS);
}

void config_delivery_init(struct config *c)
{
    c->delivery.port = 25;
    c->delivery.max_attempts = 2000;
    c->delivery.connect_timeout_ms = 30 * 1000;
    c->delivery.command_timeout_ms = 300 * 1000; /* RFC 5321 4.5.3.2 */
    c->delivery.data_timeout_ms = 600 * 1000;
    c->delivery.idle_connection_ms = 3000;
    c->delivery.sts_port = 443;
    c->dns.timeout_ms = 3000;
    c->dns.tries = 3;
}

void config_read_delivery(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"port", yaml_read_port, &c->delivery.port},
                                    {"suspended", yaml_read_bool, &c->delivery.suspended},
                                    {"retry", config_read_retry, c},
                                    {"limits", config_read_limits, c},
                                    {"hostname", yaml_read_string, &c->delivery.hostname},
                                    {"max_attempts", read_max_attempts, &c->delivery.max_attempts},
                                    {"connect_timeout", yaml_read_ms, &c->delivery.connect_timeout_ms},
                                    {"command_timeout", yaml_read_ms, &c->delivery.command_timeout_ms},
                                    {"data_timeout", read_data_timeout, &c->delivery.data_timeout_ms},
                                    {"idle_connection", yaml_read_ms, &c->delivery.idle_connection_ms},
                                    {"tls", config_read_tls_rules, c},
                                    {"tls_ca", yaml_read_string, &c->delivery.tls_ca},
                                    {"tls_cert", yaml_read_string, &c->delivery.tls_cert},
                                    {"tls_key", yaml_read_string, &c->delivery.tls_key},
                                    {"credentials", yaml_read_string, &c->delivery.credentials},
                                    {"source", read_sources, c},
                                    {"sts_port", yaml_read_port, &c->delivery.sts_port},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    if ((c->delivery.tls_cert == NULL) != (c->delivery.tls_key == NULL))
        yaml_problem(r, node, "tls_cert and tls_key go together");
}

/* ---- dns ---- */

static void server_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    char *server = NULL;
    if (c->dns.n_servers >= MAX_SERVERS) {
        yaml_problem(r, node, "more than %d servers", MAX_SERVERS);
        return;
    }
    config_read_address(r, node, &server);
    if (server == NULL)
        return;
    c->dns.servers = mr_realloc(c->dns.servers, (c->dns.n_servers + 1) * sizeof(*c->dns.servers));
    c->dns.servers[c->dns.n_servers++] = server;
}

static void read_servers(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, server_item, target);
}

static void read_trust_ad(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    yaml_read_bool(r, node, &c->dns.trust_ad);
    c->dns.trust_ad_given = true;
}

void config_read_dns(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"servers", read_servers, c},
                                    {"timeout", yaml_read_ms, &c->dns.timeout_ms},
                                    {"tries", yaml_read_unsigned, &c->dns.tries},
                                    {"trust_ad", read_trust_ad, c},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

/* What a resolver on this host says of an answer cannot be changed on its way here. Without servers of our own those
 * of the system count, which the resolver looks at when it opens. */
static void finish_routes(struct yaml_reader *r, yaml_node_t *root, const struct config *c)
{
    for (size_t i = 0; i < c->rules->n_routes && c->delivery.credentials == NULL; i++) {
        const Mailraft__Route *route = c->rules->routes[i];
        if (strchr(route->route, '@') != NULL)
            yaml_problem(r, root, "route of %s: a login needs delivery.credentials", route->domain);
    }
}

void config_delivery_finish(struct yaml_reader *r, yaml_node_t *root, struct config *c)
{
    bool loopback = c->dns.n_servers > 0;

    for (unsigned i = 0; i < c->dns.n_servers; i++)
        loopback = loopback && config_address_is_loopback(c->dns.servers[i]);
    if (!c->dns.trust_ad_given)
        c->dns.trust_ad = loopback;
    finish_routes(r, root, c);
    /* With the system's resolvers it shows at the start only whether they are on this host. */
    if (c->dns.trust_ad || (c->dns.n_servers == 0 && !c->dns.trust_ad_given))
        return;
    for (size_t i = 0; i < c->rules->n_tls; i++) {
        if (c->rules->tls[i]->policy == MAILRAFT__TLS_POLICY__TLS_POLICY_DANE)
            yaml_problem(r, root, "delivery.tls.%s: policy dane needs a resolver that validates (dns.trust_ad)",
                         c->rules->tls[i]->site);
    }
}

void config_delivery_free(struct config *c)
{
    free(c->delivery.hostname);
    free(c->delivery.tls_ca);
    free(c->delivery.tls_cert);
    free(c->delivery.tls_key);
    free(c->delivery.credentials);
    for (unsigned i = 0; i < c->delivery.n_source; i++)
        free(c->delivery.source[i]);
    free(c->delivery.source);
    for (unsigned i = 0; i < c->dns.n_servers; i++)
        free(c->dns.servers[i]);
    free(c->dns.servers);
}
