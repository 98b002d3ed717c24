/* config.h - mailraftd's configuration: YAML in, one immutable struct out.
 *
 * Every error names file, line and key. An unknown key is an error, so is one given twice.
 * Ownership: config_load's result owns every string; config_free. Thread: load in any; read-only afterwards. */
#ifndef MR_CONFIG_CONFIG_H
#define MR_CONFIG_CONFIG_H

#include "ops.pb-c.h"
#include "proto/base/log.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum listener_profile { PROFILE_MX, PROFILE_SUBMISSION, PROFILE_LMTP };
enum listener_tls {
    TLS_OFF,
    TLS_OFFERED,  /* STARTTLS may be given */
    TLS_REQUIRED, /* and has to be before mail is */
    TLS_IMPLICIT, /* from the first octet on (RFC 8314) */
};
struct listener_config {
    char *listen; /* host:port, [v6]:port; port 0: any free one (tests) */
    enum listener_profile profile;
    enum listener_tls tls;
    bool tls_given; /* in the file, not by default */
    bool proxy;     /* a PROXY header comes first */
};
struct certificate_config {
    char *cert, *key; /* PEM files */
};
/* A network in CIDR form. */
struct network {
    int family; /* AF_INET, AF_INET6 */
    uint8_t address[16];
    unsigned prefix;
};
struct network_list {
    struct network *at;
    unsigned n;
};
/* "300/m": count events in a unit of time; what that means exactly: client_table.h, C2. */
struct client_rate {
    uint32_t count; /* 0: unlimited */
    uint32_t per_ms;
};
/* Bits of smtp.auth.mechanisms. */
enum auth_mechanism { AUTH_PLAIN = 1, AUTH_LOGIN = 2, AUTH_SCRAM_SHA_256 = 4, AUTH_SCRAM_SHA_256_PLUS = 8 };
/* Bits of smtp.disable, and of what a session offers. */
enum smtp_extension {
    SMTP_PIPELINING = 1 << 0,
    SMTP_SIZE = 1 << 1,
    SMTP_8BITMIME = 1 << 2,
    SMTP_SMTPUTF8 = 1 << 3,
    SMTP_CHUNKING = 1 << 4,
    SMTP_BINARYMIME = 1 << 5,
    SMTP_DSN = 1 << 6,
    SMTP_ENHANCEDSTATUSCODES = 1 << 7,
    SMTP_STARTTLS = 1 << 8,
    SMTP_AUTH = 1 << 9,
    SMTP_REQUIRETLS = 1 << 10,
    SMTP_LIMITS = 1 << 11,
    SMTP_MT_PRIORITY = 1 << 12,
    SMTP_DELIVERBY = 1 << 13,
    SMTP_FUTURERELEASE = 1 << 14,
    SMTP_XCLIENT = 1 << 15,
    SMTP_HELP = 1 << 16,
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
        uint64_t max_state; /* bytes */
    } cluster;
    struct {
        char *hostname;
        char **own_hosts; /* names and addresses, lower case, that are this cluster too: of a load balancer */
        unsigned n_own_hosts;
        struct listener_config *listeners;
        unsigned n_listeners;
        struct {
            char *cert, *key;                /* NULL: no TLS */
            struct certificate_config *more; /* further ones, chosen by the name that the client asks for */
            unsigned n_more;
            char *client_ca;    /* NULL: clients' certificates are not checked against one */
            char **relay_certs; /* SHA-256 of certificates that may relay: 64 hexadecimal digits, lower case */
            unsigned n_relay_certs;
        } tls;
        struct {
            char *file, *dovecot; /* at most one; both NULL: no AUTH */
            unsigned mechanisms;  /* enum auth_mechanism */
            bool senders_own;     /* a user may send only from own addresses */
            char *sender_file;    /* NULL: the user's name is the one address */
            bool without_tls;     /* offered on listeners on loopback that have TLS off, too */
        } auth;
        uint64_t max_message_size; /* bytes */
        unsigned max_recipients;
        struct network_list relay_from;
        struct network_list normalize_from; /* bare CR and LF are mended instead of refused */
        struct network_list xclient_from;
        struct network_list proxy_from;
        struct {
            unsigned connections, network_connections;                        /* at once; 0: unlimited */
            struct client_rate connection_rate, message_rate, recipient_rate; /* by address */
            struct network_list exempt;                                       /* default: relay_from */
            bool exempt_given;
        } client_limits;
        unsigned greeting_delay_ms;  /* 0: none */
        unsigned line_timeout_ms;    /* for one command line, from its first octet on */
        uint64_t min_data_rate;      /* octets a second; 0: any */
        uint64_t max_hold_ms;        /* FUTURERELEASE */
        uint64_t min_deliver_by_ms;  /* DELIVERBY */
        unsigned disable;            /* enum smtp_extension: not offered */
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
        char *tls_ca;                /* PEM file of authorities; NULL: the system's */
        char *tls_cert, *tls_key;    /* shown to next hops that ask; NULL: none */
        char *credentials;           /* file of passwords for routes with a user; NULL: none */
        char **source;               /* addresses to connect from */
        unsigned n_source;
        uint16_t sts_port; /* of HTTPS servers with policies (tests) */
    } delivery;
    struct {
        char **servers; /* host:port */
        unsigned n_servers;
        unsigned timeout_ms;
        unsigned tries;
        bool trust_ad, trust_ad_given; /* its "authenticated data" is believed (DANE) */
    } dns;
    struct {
        char *listen; /* NULL: no HTTP */
        char *token;  /* contents of token_file; NULL: none */
    } http;
    struct {
        enum log_level level;
        bool json;
    } log;
    struct {
        char *apply_trace; /* NULL: none */
        unsigned state_hash_every;
    } debug;
    Mailraft__Rules
        *rules; /* routes, domains, limits, retry, suspended, replicas: what is replicated (PROTOCOL.md 6.3) */
    char *file;
};

/* MR_CONFIG, MR_IO: error holds one message a line, each "FILE:LINE: KEY: what is wrong" (all that were found). */
int config_load(struct config **out, const char *file, char *error, size_t error_len);
void config_free(struct config *c);
/* Is the address in one of the networks? IPv4-mapped IPv6 counts as IPv4. */
bool network_contains(const struct network_list *networks, const struct sockaddr *address);

#endif
