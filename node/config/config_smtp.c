/* The section smtp: listeners, TLS, AUTH, limits of the side that takes mail in. */
#include "node/config/config_internal.h"

#include "cluster/route.h"
#include "proto/base/ascii.h"
#include "proto/base/memory.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_LISTENERS = 64, MAX_NETWORKS = 10000, MAX_CERTIFICATES = 1000, MAX_USERS = 100000 };

/* One of a list of words; -1 after a problem was reported. */
static int read_word(struct yaml_reader *r, yaml_node_t *node, const char *const *words, unsigned n, const char *list)
{
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return -1;
    for (unsigned i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0)
            return (int)i;
    yaml_problem(r, node, "has to be %s, not \"%s\"", list, text);
    return -1;
}

/* ---- listeners ---- */

static void read_profile(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const words[] = {
        [PROFILE_MX] = "mx", [PROFILE_SUBMISSION] = "submission", [PROFILE_LMTP] = "lmtp"};
    int i = read_word(r, node, words, 3, "mx, submission or lmtp");
    if (i >= 0)
        *(enum listener_profile *)target = (enum listener_profile)i;
}

static void read_listener_tls(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const words[] = {
        [TLS_OFF] = "off", [TLS_OFFERED] = "starttls", [TLS_REQUIRED] = "required", [TLS_IMPLICIT] = "implicit"};
    struct listener_config *l = target;
    int i = read_word(r, node, words, 4, "off, starttls, required or implicit");
    if (i < 0)
        return;
    l->tls = (enum listener_tls)i;
    l->tls_given = true;
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
    const struct yaml_key keys[] = {{"listen", config_read_address, &l->listen},
                                    {"profile", read_profile, &l->profile},
                                    {"tls", read_listener_tls, l},
                                    {"proxy", yaml_read_bool, &l->proxy},
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

/* ---- networks ---- */

static void network_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct network_list *list = target;
    struct network network;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_network(text, &network)) {
        yaml_problem(r, node, "has to be an address or network like 10.0.0.0/8 or ::1/128, not \"%s\"", text);
        return;
    }
    if (list->n >= MAX_NETWORKS) {
        yaml_problem(r, node, "more than %d networks", MAX_NETWORKS);
        return;
    }
    list->at = mr_realloc(list->at, (list->n + 1) * sizeof(network));
    list->at[list->n++] = network;
}

void config_read_networks(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, network_item, target);
}

/* ---- TLS ---- */

static void certificate_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    struct certificate_config pair = {NULL, NULL};
    const struct yaml_key keys[] = {
        {"cert", yaml_read_string, &pair.cert}, {"key", yaml_read_string, &pair.key}, {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
    if (pair.cert == NULL || pair.key == NULL)
        yaml_problem(r, node, "needs cert and key");
    else if (c->smtp.tls.n_more >= MAX_CERTIFICATES)
        yaml_problem(r, node, "more than %d certificates", MAX_CERTIFICATES);
    else {
        c->smtp.tls.more = mr_realloc(c->smtp.tls.more, (c->smtp.tls.n_more + 1) * sizeof(pair));
        c->smtp.tls.more[c->smtp.tls.n_more++] = pair;
        return;
    }
    free(pair.cert);
    free(pair.key);
}

static void read_more(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, certificate_item, target);
}

/* "sha256:" and 64 hexadecimal digits, colons between them allowed as openssl prints them. */
static char *fingerprint(const char *text)
{
    char digits[65];
    unsigned n = 0;
    if (strncasecmp(text, "sha256:", 7) != 0)
        return NULL;
    for (const char *p = text + 7; *p != 0; p++) {
        if (*p == ':')
            continue;
        if (!isxdigit((unsigned char)*p) || n == 64)
            return NULL;
        digits[n++] = ascii_lower(*p);
    }
    digits[n] = 0;
    return n == 64 ? mr_strdup(digits) : NULL;
}

static void fingerprint_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    char *digits = fingerprint(text);
    if (digits == NULL) {
        yaml_problem(r, node, "has to be sha256: and 64 hexadecimal digits, not \"%s\"", text);
        return;
    }
    if (c->smtp.tls.n_relay_certs >= MAX_CERTIFICATES) {
        yaml_problem(r, node, "more than %d certificates", MAX_CERTIFICATES);
        free(digits);
        return;
    }
    c->smtp.tls.relay_certs =
        mr_realloc(c->smtp.tls.relay_certs, (c->smtp.tls.n_relay_certs + 1) * sizeof(*c->smtp.tls.relay_certs));
    c->smtp.tls.relay_certs[c->smtp.tls.n_relay_certs++] = digits;
}

static void read_fingerprints(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, fingerprint_item, target);
}

static void read_tls(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"cert", yaml_read_string, &c->smtp.tls.cert},
                                    {"key", yaml_read_string, &c->smtp.tls.key},
                                    {"more", read_more, c},
                                    {"client_ca", yaml_read_string, &c->smtp.tls.client_ca},
                                    {"relay_certs", read_fingerprints, c},
                                    {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, node, keys);
    if (r->errors == before && (c->smtp.tls.cert == NULL || c->smtp.tls.key == NULL))
        yaml_problem(r, node, "needs cert and key");
}

/* ---- AUTH ---- */

static void mechanism_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const words[] = {"PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"};
    int i = read_word(r, node, words, 4, "PLAIN, LOGIN, SCRAM-SHA-256 or SCRAM-SHA-256-PLUS");
    if (i >= 0)
        *(unsigned *)target |= 1U << i;
}

static void read_mechanisms(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    *(unsigned *)target = 0;
    yaml_each_item(r, node, mechanism_item, target);
    if (*(unsigned *)target == 0)
        yaml_problem(r, node, "names none");
}

static void read_senders(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const words[] = {"any", "own"};
    int i = read_word(r, node, words, 2, "own or any");
    if (i >= 0)
        *(bool *)target = i == 1;
}

static void read_default_limit(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint32_t n = UINT32_MAX;
    config_read_count(r, node, &n);
    if (n != UINT32_MAX)
        config_add_user_limit(target, "default", n);
}

static void user_pair(struct yaml_reader *r, const char *key, yaml_node_t *value, void *arg)
{
    struct config *c = arg;
    uint32_t n = UINT32_MAX;
    const struct yaml_key keys[] = {{"recipients_per_hour", config_read_count, &n}, {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, value, keys);
    if (r->errors != before)
        return;
    if (n == UINT32_MAX)
        yaml_problem(r, value, "needs recipients_per_hour");
    else if (strcmp(key, "default") == 0)
        yaml_problem(r, value, "\"default\" is no user: set smtp.auth.recipients_per_hour");
    else if (c->rules->n_user_limits >= MAX_USERS)
        yaml_problem(r, value, "more than %d users", MAX_USERS);
    else
        config_add_user_limit(c, key, n);
}

static void read_users(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_pair(r, node, user_pair, target);
}

static void read_auth(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"file", yaml_read_string, &c->smtp.auth.file},
                                    {"dovecot", yaml_read_string, &c->smtp.auth.dovecot},
                                    {"mechanisms", read_mechanisms, &c->smtp.auth.mechanisms},
                                    {"senders", read_senders, &c->smtp.auth.senders_own},
                                    {"sender_file", yaml_read_string, &c->smtp.auth.sender_file},
                                    {"without_tls", yaml_read_bool, &c->smtp.auth.without_tls},
                                    {"recipients_per_hour", read_default_limit, c},
                                    {"users", read_users, c},
                                    {NULL, NULL, NULL}};
    unsigned before = r->errors;
    yaml_read_mapping(r, node, keys);
    if (r->errors == before && (c->smtp.auth.file == NULL) == (c->smtp.auth.dovecot == NULL))
        yaml_problem(r, node, "needs one of file and dovecot");
    if (c->smtp.auth.sender_file != NULL && !c->smtp.auth.senders_own)
        yaml_problem(r, node, "sender_file does not go with senders: any");
}

/* ---- limits ---- */

static void read_exempt(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    config_read_networks(r, node, &c->smtp.client_limits.exempt);
    c->smtp.client_limits.exempt_given = true;
}

/* struct client_rate *. The unit is kept: it says how much may come at once. */
static void read_client_rate(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct client_rate *rate = target;
    unsigned before = r->errors;
    double a_second = 0;
    config_read_rate(r, node, &a_second);
    if (r->errors != before)
        return;
    if (a_second == 0) {
        *rate = (struct client_rate){0, 0};
        return;
    }
    const char *text = yaml_text(r, node);
    char unit = text[strlen(text) - 1];
    unsigned seconds = unit == 'd' ? 86400 : unit == 'h' ? 3600 : unit == 'm' ? 60 : 1;
    double count = a_second * seconds;
    if (count < 0.99 || count > 1e9)
        yaml_problem(r, node, "has to be at least 1 and at most 1000000000 in its unit of time");
    else
        *rate = (struct client_rate){(uint32_t)(count + 0.5), seconds * 1000};
}

static void read_client_limits(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {
        {"connections", config_read_count, &c->smtp.client_limits.connections},
        {"network_connections", config_read_count, &c->smtp.client_limits.network_connections},
        {"connection_rate", read_client_rate, &c->smtp.client_limits.connection_rate},
        {"message_rate", read_client_rate, &c->smtp.client_limits.message_rate},
        {"recipient_rate", read_client_rate, &c->smtp.client_limits.recipient_rate},
        {"exempt", read_exempt, c},
        {NULL, NULL, NULL}};
    yaml_read_mapping(r, node, keys);
}

/* unsigned *: as yaml_read_ms, and 0. */
static void read_ms_or_none(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    uint64_t ms = 0;
    unsigned before = r->errors;
    yaml_read_ms64(r, node, &ms);
    if (r->errors != before)
        return;
    if (ms > INT32_MAX)
        yaml_problem(r, node, "is at most 24d");
    else
        *(unsigned *)target = (unsigned)ms;
}

/* uint64_t *: octets a second; 0: any. */
static void read_data_rate(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    if (!config_parse_size(text, target))
        yaml_problem(r, node, "has to be octets a second, like 100 or 10KiB, not \"%s\"", text);
}

static void extension_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    static const char *const words[] = {
        "PIPELINING",  "SIZE",      "8BITMIME",      "SMTPUTF8", "CHUNKING",   "BINARYMIME",
        "DSN",         "",          "STARTTLS",      "AUTH",     "REQUIRETLS", "LIMITS",
        "MT-PRIORITY", "DELIVERBY", "FUTURERELEASE", "XCLIENT",  "HELP"};
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]) && text[0] != 0; i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *(unsigned *)target |= 1U << i;
            return;
        }
    }
    yaml_problem(r, node, "\"%s\" is not an extension that can be switched off", text);
}

static void read_extensions(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, extension_item, target);
}

/* A name or an address, in the form of route.h. */
static void own_host_item(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    enum { MAX_OWN_HOSTS = 32 };
    struct config *c = target;
    struct next_hop hop;
    char url[NEXT_HOP_MAX];
    const char *text = yaml_text(r, node);
    if (text == NULL)
        return;
    bool v6 = text[0] != '[' && strchr(text, ':') != NULL;
    int n = snprintf(url, sizeof(url), v6 ? "mx:[%s]" : "mx:%s", text);
    if ((size_t)n >= sizeof(url) || next_hop_parse(url, &hop) != 0) {
        yaml_problem(r, node, "has to be a host's name or an address, not \"%s\"", text);
        return;
    }
    if (c->smtp.n_own_hosts >= MAX_OWN_HOSTS) {
        yaml_problem(r, node, "more than %d hosts", MAX_OWN_HOSTS);
        return;
    }
    c->smtp.own_hosts = mr_realloc(c->smtp.own_hosts, (c->smtp.n_own_hosts + 1) * sizeof(*c->smtp.own_hosts));
    c->smtp.own_hosts[c->smtp.n_own_hosts++] = mr_strdup(hop.host);
}

static void read_own_hosts(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    yaml_each_item(r, node, own_host_item, target);
}

/* ---- the section ---- */

void config_smtp_init(struct config *c)
{
    c->smtp.max_message_size = 50ULL << 20;
    c->smtp.max_recipients = 1000;
    c->smtp.max_sessions = 10000;
    c->smtp.max_errors = 20;
    c->smtp.max_hops = 50;
    c->smtp.max_transactions = 100000;
    c->smtp.idle_timeout_ms = 300 * 1000; /* RFC 5321 4.5.3.2.7 */
    c->smtp.data_timeout_ms = 180 * 1000;
    c->smtp.session_timeout_ms = 24 * 3600 * 1000;
    c->smtp.line_timeout_ms = 60 * 1000;
    c->smtp.min_data_rate = 100;
    c->smtp.max_hold_ms = 7ULL * 24 * 3600 * 1000;
    c->smtp.min_deliver_by_ms = 60 * 1000;
    c->smtp.client_limits.connections = 50;
    c->smtp.client_limits.network_connections = 250;
    c->smtp.client_limits.connection_rate = (struct client_rate){300, 60 * 1000};
    c->smtp.auth.mechanisms = AUTH_PLAIN | AUTH_LOGIN | AUTH_SCRAM_SHA_256 | AUTH_SCRAM_SHA_256_PLUS;
    c->smtp.auth.senders_own = true;
}

void config_read_smtp(struct yaml_reader *r, yaml_node_t *node, void *target)
{
    struct config *c = target;
    const struct yaml_key keys[] = {{"hostname", yaml_read_string, &c->smtp.hostname},
                                    {"own_hosts", read_own_hosts, c},
                                    {"listeners", read_listeners, c},
                                    {"tls", read_tls, c},
                                    {"auth", read_auth, c},
                                    {"max_message_size", yaml_read_size, &c->smtp.max_message_size},
                                    {"max_recipients", yaml_read_unsigned, &c->smtp.max_recipients},
                                    {"relay_from", config_read_networks, &c->smtp.relay_from},
                                    {"normalize_from", config_read_networks, &c->smtp.normalize_from},
                                    {"xclient_from", config_read_networks, &c->smtp.xclient_from},
                                    {"proxy_from", config_read_networks, &c->smtp.proxy_from},
                                    {"client_limits", read_client_limits, c},
                                    {"greeting_delay", read_ms_or_none, &c->smtp.greeting_delay_ms},
                                    {"line_timeout", yaml_read_ms, &c->smtp.line_timeout_ms},
                                    {"min_data_rate", read_data_rate, &c->smtp.min_data_rate},
                                    {"max_hold", yaml_read_ms64, &c->smtp.max_hold_ms},
                                    {"min_deliver_by", yaml_read_ms64, &c->smtp.min_deliver_by_ms},
                                    {"disable", read_extensions, &c->smtp.disable},
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

static void finish_listener(struct yaml_reader *r, yaml_node_t *root, struct config *c, struct listener_config *l)
{
    bool has_tls = c->smtp.tls.cert != NULL;

    if (!l->tls_given && has_tls)
        l->tls = l->profile == PROFILE_SUBMISSION ? TLS_REQUIRED : TLS_OFFERED;
    if (l->tls != TLS_OFF && !has_tls)
        yaml_problem(r, root, "listener %s: tls needs smtp.tls with cert and key", l->listen);
    /* Passwords in clear text are for tests on one machine only. */
    if (l->profile == PROFILE_SUBMISSION && l->tls == TLS_OFF &&
        !(l->tls_given && config_address_is_loopback(l->listen)))
        yaml_problem(r, root, "listener %s: submission needs TLS (tls: off is for loopback only)", l->listen);
    /* RFC 2033 section 5: what speaks SMTP there must not find LMTP. */
    if (l->profile == PROFILE_LMTP && strcmp(strrchr(l->listen, ':'), ":25") == 0)
        yaml_problem(r, root, "listener %s: LMTP must not be on port 25 (RFC 2033)", l->listen);
    if (l->proxy && c->smtp.proxy_from.n == 0)
        yaml_problem(r, root, "listener %s: proxy needs smtp.proxy_from", l->listen);
    /* SO_REUSEPORT would let both have it, and clients find now the one, now the other. */
    for (const struct listener_config *other = c->smtp.listeners; other < l; other++) {
        if (strcasecmp(other->listen, l->listen) == 0)
            yaml_problem(r, root, "listener %s: given twice", l->listen);
    }
}

/* Passwords that nobody can ever be asked for are a mistake that would show only when the first user complains. */
static void finish_auth(struct yaml_reader *r, yaml_node_t *root, const struct config *c)
{
    if (c->smtp.auth.file == NULL && c->smtp.auth.dovecot == NULL)
        return;
    for (unsigned i = 0; i < c->smtp.n_listeners; i++) {
        const struct listener_config *l = &c->smtp.listeners[i];
        if (l->profile == PROFILE_SUBMISSION && (l->tls != TLS_OFF || c->smtp.auth.without_tls))
            return;
    }
    yaml_problem(r, root, "smtp.auth: no listener has profile: submission with TLS, where users could log in");
}

void config_smtp_finish(struct yaml_reader *r, yaml_node_t *root, struct config *c)
{
    for (unsigned i = 0; i < c->smtp.n_listeners; i++)
        finish_listener(r, root, c, &c->smtp.listeners[i]);
    finish_auth(r, root, c);
    /* Who may relay is ours, and is not held back unless the file says so. */
    if (!c->smtp.client_limits.exempt_given && c->smtp.relay_from.n > 0) {
        size_t bytes = c->smtp.relay_from.n * sizeof(struct network);
        c->smtp.client_limits.exempt =
            (struct network_list){mr_memdup(c->smtp.relay_from.at, bytes), c->smtp.relay_from.n};
    }
}

void config_smtp_free(struct config *c)
{
    free(c->smtp.hostname);
    for (unsigned i = 0; i < c->smtp.n_own_hosts; i++)
        free(c->smtp.own_hosts[i]);
    free(c->smtp.own_hosts);
    for (unsigned i = 0; i < c->smtp.n_listeners; i++)
        free(c->smtp.listeners[i].listen);
    free(c->smtp.listeners);
    free(c->smtp.tls.cert);
    free(c->smtp.tls.key);
    for (unsigned i = 0; i < c->smtp.tls.n_more; i++) {
        free(c->smtp.tls.more[i].cert);
        free(c->smtp.tls.more[i].key);
    }
    free(c->smtp.tls.more);
    free(c->smtp.tls.client_ca);
    for (unsigned i = 0; i < c->smtp.tls.n_relay_certs; i++)
        free(c->smtp.tls.relay_certs[i]);
    free(c->smtp.tls.relay_certs);
    free(c->smtp.auth.file);
    free(c->smtp.auth.dovecot);
    free(c->smtp.auth.sender_file);
    free(c->smtp.relay_from.at);
    free(c->smtp.normalize_from.at);
    free(c->smtp.xclient_from.at);
    free(c->smtp.proxy_from.at);
    free(c->smtp.client_limits.exempt.at);
}
