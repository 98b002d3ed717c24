/* Happy path: config_load -> libyaml parses the file into a document -> sections are read over the defaults -> what
 * must fit together is checked -> config. Every problem found is told, not only the first. */
#include "node/config.h"

#include "node/config_internal.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LISTENERS = 64, MAX_INITIAL = 63, MAX_SERVERS = 8, MAX_NETWORKS = 10000, TOKEN_MAX = 512 };

/* ---- node, cluster ---- */

static void read_workers(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "auto") == 0)
        *(unsigned *)target = 0;
    else if (!yaml_parse_number(text, &n) || n == 0 || n > 64)
        yaml_problem(r, node, "has to be auto or a number from 1 to 64, not \"%s\"", text);
    else
        *(unsigned *)target = (unsigned)n;
}

static void read_address(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    const char *text = yaml_text(r, node);
    if (text != NULL && !config_address_ok(text, true))
        yaml_problem(r, node, "has to be host:port or [IPv6]:port, not \"%s\"", text);
    else
        yaml_read_string(r, node, target);
}

static void read_node(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"name", yaml_read_string, &c->node.name},
                                    {"data_dir", yaml_read_string, &c->node.data_dir},
                                    {"workers", read_workers, &c->node.workers},
                                    {"shutdown_timeout", yaml_read_ms, &c->node.shutdown_timeout_ms},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

static void initial_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text || !config_address_ok(equals + 1, false)) {
        yaml_problem(r, node, "has to be name=host:port, not \"%s\"", text);
        return;
    }
    if (c->cluster.n_initial >= MAX_INITIAL) {
        yaml_problem(r, node, "more than %d nodes", MAX_INITIAL);
        return;
    }
    struct initial_member m = {mr_strndup(text, (size_t)(equals - text)), mr_strdup(equals + 1)};
    for (unsigned i = 0; i < c->cluster.n_initial; i++)
        if (strcmp(c->cluster.initial[i].name, m.name) == 0)
            yaml_problem(r, node, "\"%s\" is given twice", m.name);
    c->cluster.initial = mr_realloc(c->cluster.initial, (c->cluster.n_initial + 1) * sizeof(m));
    c->cluster.initial[c->cluster.n_initial++] = m;
}

static void read_initial(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, initial_item, target);
}

static void read_cluster_tls(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"ca", yaml_read_string, &c->cluster.ca},
                                    {"cert", yaml_read_string, &c->cluster.cert},
                                    {"key", yaml_read_string, &c->cluster.key},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    if (c->cluster.ca == NULL || c->cluster.cert == NULL || c->cluster.key == NULL)
        yaml_problem(r, node, "needs ca, cert and key");
}

static void check_cluster(struct yaml_reader *r, yaml_node_t *node, struct config *c)
{
    bool loopback = c->cluster.listen != NULL && config_address_is_loopback(c->cluster.listen) &&
                    (c->cluster.advertise == NULL || config_address_is_loopback(c->cluster.advertise));
    for (unsigned i = 0; i < c->cluster.n_initial; i++)
        loopback = loopback && config_address_is_loopback(c->cluster.initial[i].address);
    if (c->cluster.listen == NULL)
        yaml_problem(r, node, "listen is missing");
    if (c->cluster.n_initial == 0)
        yaml_problem(r, node, "initial is missing");
    if (c->cluster.insecure && c->cluster.ca != NULL)
        yaml_problem(r, node, "tls and insecure exclude each other");
    if (c->cluster.insecure && !loopback)
        yaml_problem(r, node, "insecure is for loopback only: listen, advertise and initial name other addresses");
    if (!c->cluster.insecure && c->cluster.ca == NULL)
        yaml_problem(r, node, "tls is missing (mailraftctl pki init makes the certificates)");
    if (c->cluster.heartbeat_ms * 2 > c->cluster.election_timeout_ms)
        yaml_problem(r, node, "election_timeout has to be at least twice heartbeat");
    if (c->cluster.lease_ms < c->cluster.election_timeout_ms)
        yaml_problem(r, node, "lease must not be shorter than election_timeout");
    if (c->cluster.node_timeout_ms < c->cluster.lease_ms + c->cluster.election_timeout_ms)
        yaml_problem(r, node, "node_timeout has to be at least lease + election_timeout");
}

static void read_cluster(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"listen", read_address, &c->cluster.listen},
                                    {"advertise", read_address, &c->cluster.advertise},
                                    {"initial", read_initial, c},
                                    {"tls", read_cluster_tls, c},
                                    {"insecure", yaml_read_bool, &c->cluster.insecure},
                                    {"replicas", yaml_read_unsigned, &c->cluster.replicas},
                                    {"heartbeat", yaml_read_ms, &c->cluster.heartbeat_ms},
                                    {"election_timeout", yaml_read_ms, &c->cluster.election_timeout_ms},
                                    {"lease", yaml_read_ms, &c->cluster.lease_ms},
                                    {"node_timeout", yaml_read_ms, &c->cluster.node_timeout_ms},
                                    {"commit_timeout", yaml_read_ms, &c->cluster.commit_timeout_ms},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    check_cluster(r, node, c);
}

/* ---- smtp ---- */

static void read_profile(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "mx") == 0)
        *(enum listener_profile *)target = PROFILE_MX;
    else if (strcmp(text, "submission") == 0)
        yaml_problem(r, node, "submission needs TLS and AUTH, which this version does not have");
    else
        yaml_problem(r, node, "has to be mx, not \"%s\"", text);
}

static void read_no_tls(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    (void)target;
    yaml_problem(r, node, "this version has no TLS for SMTP; take the key out");
}

static void listener_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    if (c->smtp.n_listeners >= MAX_LISTENERS) {
        yaml_problem(r, node, "more than %d listeners", MAX_LISTENERS);
        return;
    }
    c->smtp.listeners = mr_realloc(c->smtp.listeners, (c->smtp.n_listeners + 1) * sizeof(*c->smtp.listeners));
    struct listener_config *l = &c->smtp.listeners[c->smtp.n_listeners++];
    memset(l, 0, sizeof(*l));
    const struct yaml_key keys[] = {{"listen", read_address, &l->listen},
                                    {"profile", read_profile, &l->profile},
                                    {"tls", read_no_tls, NULL},
                                    {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, node, keys);
    if (l->listen == NULL && r->errors == before)
        yaml_problem(r, node, "needs listen");
}

static void read_listeners(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, listener_item, target);
}

static void network_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    struct network network;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_network(text, &network)) {
        yaml_problem(r, node, "has to be an address or network like 10.0.0.0/8 or ::1/128, not \"%s\"", text);
        return;
    }
    if (c->smtp.n_relay_from >= MAX_NETWORKS) {
        yaml_problem(r, node, "more than %d networks", MAX_NETWORKS);
        return;
    }
    c->smtp.relay_from = mr_realloc(c->smtp.relay_from, (c->smtp.n_relay_from + 1) * sizeof(network));
    c->smtp.relay_from[c->smtp.n_relay_from++] = network;
}

static void read_networks(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, network_item, target);
}

static void read_smtp(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"hostname", yaml_read_string, &c->smtp.hostname},
                                    {"listeners", read_listeners, c},
                                    {"tls", read_no_tls, NULL},
                                    {"max_message_size", yaml_read_size, &c->smtp.max_message_size},
                                    {"max_recipients", yaml_read_unsigned, &c->smtp.max_recipients},
                                    {"relay_from", read_networks, c},
                                    {"max_sessions", yaml_read_unsigned, &c->smtp.max_sessions},
                                    {"max_errors", yaml_read_unsigned, &c->smtp.max_errors},
                                    {"max_hops", yaml_read_unsigned, &c->smtp.max_hops},
                                    {"max_transactions", yaml_read_unsigned, &c->smtp.max_transactions},
                                    {"idle_timeout", yaml_read_ms, &c->smtp.idle_timeout_ms},
                                    {"data_timeout", yaml_read_ms, &c->smtp.data_timeout_ms},
                                    {"session_timeout", yaml_read_ms, &c->smtp.session_timeout_ms},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    if (c->smtp.n_listeners == 0)
        yaml_problem(r, node, "listeners is missing");
    if (c->smtp.max_recipients > 10000)
        yaml_problem(r, node, "max_recipients is at most 10000");
}

/* ---- delivery, dns, http, log ---- */

static void read_delivery(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"port", yaml_read_port, &c->delivery.port},
                                    {"suspended", yaml_read_bool, &c->delivery.suspended},
                                    {"retry", config_read_retry, c},
                                    {"limits", config_read_limits, c},
                                    {"hostname", yaml_read_string, &c->delivery.hostname},
                                    {"max_attempts", yaml_read_unsigned, &c->delivery.max_attempts},
                                    {"connect_timeout", yaml_read_ms, &c->delivery.connect_timeout_ms},
                                    {"command_timeout", yaml_read_ms, &c->delivery.command_timeout_ms},
                                    {"data_timeout", yaml_read_ms, &c->delivery.data_timeout_ms},
                                    {"idle_connection", yaml_read_ms, &c->delivery.idle_connection_ms},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

static void server_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    char *server = NULL;
    if (c->dns.n_servers >= MAX_SERVERS) {
        yaml_problem(r, node, "more than %d servers", MAX_SERVERS);
        return;
    }
    read_address(r, node, &server);
    if (server == NULL)
        return;
    c->dns.servers = mr_realloc(c->dns.servers, (c->dns.n_servers + 1) * sizeof(*c->dns.servers));
    c->dns.servers[c->dns.n_servers++] = server;
}

static void read_servers(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, server_item, target);
}

static void read_dns(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"servers", read_servers, c},
                                    {"timeout", yaml_read_ms, &c->dns.timeout_ms},
                                    {"tries", yaml_read_unsigned, &c->dns.tries},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

static void read_token_file(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    char **token = target;
    char text[TOKEN_MAX + 2];
    const char *path = yaml_text(r, node);
    if (path == NULL)
        return;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        yaml_problem(r, node, "%s: %s", path, strerror(errno));
        return;
    }
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    (void)fclose(file);
    text[n] = 0;
    text[strcspn(text, "\r\n")] = 0;
    if (text[0] == 0 || n > TOKEN_MAX) {
        yaml_problem(r, node, "%s: has to hold one line of 1 to %d characters", path, TOKEN_MAX);
        return;
    }
    free(*token);
    *token = mr_strdup(text);
}

static void read_http(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {
        {"listen", read_address, &c->http.listen}, {"token_file", read_token_file, &c->http.token}, {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, node, keys);
    if (r->errors != before)
        return;
    if (c->http.listen == NULL)
        yaml_problem(r, node, "needs listen");
    else if (c->http.token == NULL && !config_address_is_loopback(c->http.listen))
        yaml_problem(r, node, "without token_file only a loopback address may be listened on");
}

static void read_level(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *(enum log_level *)target = (enum log_level)i;
            return;
        }
    }
    yaml_problem(r, node, "has to be debug, info, warn or error, not \"%s\"", text);
}

static void read_format(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "json") != 0 && strcmp(text, "text") != 0)
        yaml_problem(r, node, "has to be json or text, not \"%s\"", text);
    else
        *(bool *)target = strcmp(text, "json") == 0;
}

static void read_log(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {
        {"level", read_level, &c->log.level}, {"format", read_format, &c->log.json}, {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

/* ---- the whole ---- */

static struct config *defaults(const char *file)
{
    struct config *c = mr_calloc(1, sizeof(*c));
    c->file = mr_strdup(file);
    c->node.shutdown_timeout_ms = 30 * 1000;
    c->cluster.replicas = 3;
    c->cluster.heartbeat_ms = 100;
    c->cluster.election_timeout_ms = 500;
    c->cluster.lease_ms = 3000;
    c->cluster.node_timeout_ms = 5000;
    c->cluster.commit_timeout_ms = 30000;
    c->smtp.max_message_size = 50ULL << 20;
    c->smtp.max_recipients = 1000;
    c->smtp.max_sessions = 10000;
    c->smtp.max_errors = 20;
    c->smtp.max_hops = 50;
    c->smtp.max_transactions = 100000;
    c->smtp.idle_timeout_ms = 300 * 1000; /* RFC 5321 4.5.3.2.7 */
    c->smtp.data_timeout_ms = 180 * 1000;
    c->smtp.session_timeout_ms = 24 * 3600 * 1000;
    c->delivery.port = 25;
    c->delivery.max_attempts = 2000;
    c->delivery.connect_timeout_ms = 30 * 1000;
    c->delivery.command_timeout_ms = 300 * 1000; /* RFC 5321 4.5.3.2 */
    c->delivery.data_timeout_ms = 600 * 1000;
    c->delivery.idle_connection_ms = 3000;
    c->dns.timeout_ms = 3000;
    c->dns.tries = 3;
    c->log.level = LOG_INFO;
    c->log.json = true;
    config_rules_init(c);
    return c;
}

static void finish(struct yaml_reader *r, yaml_node_t *root, struct config *c)
{
    char host[256] = "";
    (void)gethostname(host, sizeof(host) - 1);
    if (c->node.name == NULL)
        c->node.name = mr_strdup(host);
    if (c->smtp.hostname == NULL)
        c->smtp.hostname = mr_strdup(host);
    if (c->delivery.hostname == NULL)
        c->delivery.hostname = mr_strdup(c->smtp.hostname);
    if (c->node.data_dir == NULL)
        yaml_problem(r, root, "node.data_dir is missing");
    if (c->cluster.listen == NULL && c->cluster.n_initial == 0 && !c->cluster.insecure && c->cluster.ca == NULL)
        yaml_problem(r, root, "the section cluster is missing");
    if (c->smtp.n_listeners == 0 && c->smtp.listeners == NULL)
        yaml_problem(r, root, "the section smtp with its listeners is missing");
    bool found = c->cluster.n_initial == 0;
    for (unsigned i = 0; i < c->cluster.n_initial; i++)
        found = found || strcmp(c->cluster.initial[i].name, c->node.name) == 0;
    if (!found)
        yaml_problem(r, root, "node.name \"%s\" is not in cluster.initial", c->node.name);
    config_rules_finish(c);
}

static void read_root(struct yaml_reader *r, yaml_node_t *root, struct config *c)
{
    const struct yaml_key keys[] = {{"node", read_node, c},
                                    {"cluster", read_cluster, c},
                                    {"smtp", read_smtp, c},
                                    {"domains", config_read_domains, c},
                                    {"routes", config_read_routes, c},
                                    {"delivery", read_delivery, c},
                                    {"dns", read_dns, c},
                                    {"http", read_http, c},
                                    {"log", read_log, c},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, root, keys);
    if (r->errors == 0)
        finish(r, root, c);
}

/* A second document, or what stands behind the end of the first, would be passed over in silence. */
static void check_end(struct yaml_reader *r, yaml_parser_t *parser)
{
    yaml_document_t more;
    if (!yaml_parser_load(parser, &more)) {
        (void)snprintf(r->error, r->error_len, "%s:%zu: %s", r->file, parser->problem_mark.line + 1,
                       parser->problem != NULL ? parser->problem : "cannot be read as YAML");
        r->errors++;
        return;
    }
    yaml_node_t *root = yaml_document_get_root_node(&more);
    if (root != NULL)
        yaml_problem(r, root, "a second document: the file has to be one");
    yaml_document_delete(&more);
}

static int parse(struct yaml_reader *r, FILE *file, struct config *c)
{
    yaml_parser_t parser;
    yaml_document_t document;

    if (!yaml_parser_initialize(&parser))
        return MR_NOMEM;
    yaml_parser_set_input_file(&parser, file);
    if (!yaml_parser_load(&parser, &document)) {
        (void)snprintf(r->error, r->error_len, "%s:%zu: %s", r->file, parser.problem_mark.line + 1,
                       parser.problem != NULL ? parser.problem : "cannot be read as YAML");
        yaml_parser_delete(&parser);
        return MR_CONFIG;
    }
    r->document = &document;
    yaml_node_t *root = yaml_document_get_root_node(&document);
    if (root == NULL)
        yaml_problem(r, NULL, "the file is empty");
    else
        read_root(r, root, c);
    yaml_document_delete(&document);
    if (r->errors == 0)
        check_end(r, &parser);
    yaml_parser_delete(&parser);
    return r->errors > 0 ? MR_CONFIG : 0;
}

int config_load(struct config **out, const char *file, char *error, size_t error_len)
{
    struct yaml_reader r = {.file = file, .error = error, .error_len = error_len};
    error[0] = 0;
    FILE *in = fopen(file, "re");
    if (in == NULL) {
        (void)snprintf(error, error_len, "%s: %s", file, strerror(errno));
        return MR_IO;
    }
    struct config *c = defaults(file);
    int rc = parse(&r, in, c);
    (void)fclose(in);
    if (rc != 0) {
        config_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void config_free(struct config *c)
{
    if (c == NULL)
        return;
    free(c->node.name);
    free(c->node.data_dir);
    free(c->cluster.listen);
    free(c->cluster.advertise);
    for (unsigned i = 0; i < c->cluster.n_initial; i++) {
        free(c->cluster.initial[i].name);
        free(c->cluster.initial[i].address);
    }
    free(c->cluster.initial);
    free(c->cluster.ca);
    free(c->cluster.cert);
    free(c->cluster.key);
    free(c->smtp.hostname);
    for (unsigned i = 0; i < c->smtp.n_listeners; i++)
        free(c->smtp.listeners[i].listen);
    free(c->smtp.listeners);
    free(c->smtp.tls_cert);
    free(c->smtp.tls_key);
    free(c->smtp.relay_from);
    free(c->delivery.hostname);
    for (unsigned i = 0; i < c->dns.n_servers; i++)
        free(c->dns.servers[i]);
    free(c->dns.servers);
    free(c->http.listen);
    free(c->http.token);
    mailraft__rules__free_unpacked(c->rules, NULL);
    free(c->file);
    free(c);
}
