/* config.h - mailraftd's configuration: YAML in, one immutable struct out.
 *
 * Every error names file, line and key. An unknown key is an error, so is one given twice.
 * Ownership: config_load's result owns every string; config_free. Thread: load in any; read-only afterwards. */
#ifndef MR_NODE_CONFIG_H
#define MR_NODE_CONFIG_H

#include "ops.pb-c.h"
#include "proto/base/log.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum listener_profile { PROFILE_MX, PROFILE_SUBMISSION };
struct listener_config {
    char *listen; /* host:port, [v6]:port; port 0: any free one (tests) */
    enum listener_profile profile;
    bool tls_implicit;
};
/* A network in CIDR form. */
struct network {
    int family; /* AF_INET, AF_INET6 */
    uint8_t address[16];
    unsigned prefix;
};
struct initial_member {
    char *name;
    char *address;
};

struct config {
    struct {
        char *name;
        char *data_dir;
        unsigned workers; /* 0: auto, one a core */
        unsigned shutdown_timeout_ms;
    } node;
    struct {
        char *listen;
        char *advertise;
        struct initial_member *initial;
        unsigned n_initial;
        bool insecure;
        char *ca, *cert, *key;
        unsigned replicas;
        unsigned heartbeat_ms, election_timeout_ms, lease_ms, node_timeout_ms, commit_timeout_ms;
    } cluster;
    struct {
        char *hostname;
        struct listener_config *listeners;
        unsigned n_listeners;
        char *tls_cert, *tls_key;
        uint64_t max_message_size; /* bytes */
        unsigned max_recipients;
        struct network *relay_from;
        unsigned n_relay_from;
        unsigned max_sessions;       /* per node */
        unsigned max_errors;         /* a session; then 421 */
        unsigned max_hops;           /* Received fields; then 554 5.4.6 */
        unsigned max_transactions;   /* a session; then 421 */
        unsigned idle_timeout_ms;    /* between commands */
        unsigned data_timeout_ms;    /* between data */
        unsigned session_timeout_ms; /* in all */
    } smtp;
    struct {
        uint16_t port;
        bool suspended;
        unsigned max_attempts; /* at once on this node */
        unsigned connect_timeout_ms;
        unsigned command_timeout_ms;
        unsigned data_timeout_ms;    /* for the reply to the final dot */
        unsigned idle_connection_ms; /* a cached connection without work */
        char *hostname;              /* for EHLO; default smtp.hostname */
    } delivery;
    struct {
        char **servers; /* host:port */
        unsigned n_servers;
        unsigned timeout_ms;
        unsigned tries;
    } dns;
    struct {
        char *listen; /* NULL: no HTTP */
        char *token;  /* contents of token_file; NULL: none */
    } http;
    struct {
        enum log_level level;
        bool json;
    } log;
    Mailraft__Rules
        *rules; /* routes, domains, limits, retry, suspended, replicas: what is replicated (PROTOCOL.md 6.3) */
    char *file;
};

/* MR_CONFIG, MR_IO: error holds one message a line, each "FILE:LINE: KEY: what is wrong" (all that were found). */
int config_load(struct config **out, const char *file, char *error, size_t error_len);
void config_free(struct config *c);
/* Is the address in one of the networks? IPv4-mapped IPv6 counts as IPv4. */
bool network_contains(const struct network *networks, unsigned n, const struct sockaddr *address);

#endif
