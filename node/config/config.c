/* Happy path: config_load -> libyaml parses the file into a document -> sections are read over the defaults -> what
 * must fit together is checked -> config. Every problem found is told, not only the first. */
#include "node/config/config.h"

#include "cluster/cluster.h"
#include "node/config/config_internal.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_INITIAL = 63, TOKEN_MAX = 512 };

/* ---- node, cluster ---- */

static void read_workers(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t n;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (strcmp(text, "auto") == 0)
        *(unsigned *)target = 0;
    else if (!config_parse_number(text, &n) || n == 0 || n > 64)
        yaml_problem(r, node, "has to be auto or a number from 1 to 64, not \"%s\"", text);
    else
        *(unsigned *)target = (unsigned)n;
}

void config_read_address(struct yaml_reader *r, yaml_node_t *node, void *target)
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
    if (c->cluster.max_state < CLUSTER_MIN_STATE || c->cluster.max_state > CLUSTER_MAX_STATE)
        yaml_problem(r, node, "max_state has to be 1MiB to 1536MiB");
}

static void read_cluster(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"listen", config_read_address, &c->cluster.listen},
                                    {"advertise", config_read_address, &c->cluster.advertise},
                                    {"initial", read_initial, c},
                                    {"tls", read_cluster_tls, c},
                                    {"insecure", yaml_read_bool, &c->cluster.insecure},
                                    {"replicas", yaml_read_unsigned, &c->cluster.replicas},
                                    {"heartbeat", yaml_read_ms, &c->cluster.heartbeat_ms},
                                    {"election_timeout", yaml_read_ms, &c->cluster.election_timeout_ms},
                                    {"lease", yaml_read_ms, &c->cluster.lease_ms},
                                    {"node_timeout", yaml_read_ms, &c->cluster.node_timeout_ms},
                                    {"commit_timeout", yaml_read_ms, &c->cluster.commit_timeout_ms},
                                    {"max_state", yaml_read_size, &c->cluster.max_state},
                                    {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    check_cluster(r, node, c);
}

/* ---- http, log ---- */

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
    const struct yaml_key keys[] = {{"listen", config_read_address, &c->http.listen},
                                    {"token_file", read_token_file, &c->http.token},
                                    {NULL, NULL, NULL}};
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

static void read_debug(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"apply_trace", yaml_read_string, &c->debug.apply_trace},
                                    {"state_hash_every", yaml_read_unsigned, &c->debug.state_hash_every},
                                    {NULL, NULL, NULL}};
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
    c->cluster.max_state = CLUSTER_MAX_STATE;
    config_smtp_init(c);
    config_delivery_init(c);
    c->log.level = LOG_INFO;
    c->log.json = true;
    c->debug.state_hash_every = 1000;
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
    config_smtp_finish(r, root, c);
    config_delivery_finish(r, root, c);
    config_rules_finish(c);
}

static void read_root(struct yaml_reader *r, yaml_node_t *root, struct config *c)
{
    const struct yaml_key keys[] = {{"node", read_node, c},
                                    {"cluster", read_cluster, c},
                                    {"smtp", config_read_smtp, c},
                                    {"domains", config_read_domains, c},
                                    {"routes", config_read_routes, c},
                                    {"delivery", config_read_delivery, c},
                                    {"dns", config_read_dns, c},
                                    {"http", read_http, c},
                                    {"log", read_log, c},
                                    {"debug", read_debug, c},
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
    config_smtp_free(c);
    config_delivery_free(c);
    free(c->http.listen);
    free(c->http.token);
    free(c->debug.apply_trace);
    mailraft__rules__free_unpacked(c->rules, NULL);
    free(c->file);
    free(c);
}
