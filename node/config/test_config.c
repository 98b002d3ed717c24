/* The configuration: every key, and for everything that is wrong a message with file, line and key. */
#include "cluster/route.h"
#include "node/config/config.h"
#include "proto/base/error.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], file[128], token[128], error[4096];

static int make_dir(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/mailraft-config-XXXXXX");
    assert_non_null(mkdtemp(dir));
    (void)snprintf(file, sizeof(file), "%s/mailraft.yaml", dir);
    (void)snprintf(token, sizeof(token), "%s/token", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    (void)unlink(file);
    (void)unlink(token);
    return rmdir(dir);
}

static void put_file(const char *path, const char *text)
{
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, strlen(text), out), strlen(text));
    assert_int_equal(fclose(out), 0);
}

static int load(const char *text, struct config **c)
{
    put_file(file, text);
    memset(error, 'x', sizeof(error));
    *c = NULL;
    int rc = config_load(c, file, error, sizeof(error));
    assert_true((rc == 0) == (*c != NULL) && (rc == 0) == (error[0] == 0));
    return rc;
}

#define BASE                                                                                                           \
    "node: {name: a, data_dir: /var/lib/m}\n"                                                                          \
    "cluster: {listen: '127.0.0.1:7400', insecure: true, initial: ['a=127.0.0.1:7400']}\n"                             \
    "smtp: {hostname: mx.example.net, listeners: [{listen: '127.0.0.1:25', profile: mx}]}\n"

static void every_key(void **state)
{
    struct config *c;
    char text[4096];
    (void)state;
    put_file(token, "s3cret\n");
    (void)snprintf(
        text, sizeof(text),
        "node:\n  name: mx1\n  data_dir: /var/lib/mailraft\n  workers: 3\n  shutdown_timeout: 7s\n"
        "cluster:\n  listen: '[::]:7400'\n  advertise: mx1.example.net:7401\n"
        "  initial: ['mx1=mx1.example.net:7400', 'mx2=[2001:db8::2]:7400']\n"
        "  tls: {ca: ca.pem, cert: c.pem, key: k.pem}\n  replicas: 5\n  heartbeat: 50ms\n"
        "  election_timeout: 400ms\n  lease: 2s\n  node_timeout: 1m\n  commit_timeout: 11s\n  max_state: 64MiB\n"
        "smtp:\n  hostname: mx.example.net\n"
        "  listeners:\n    - {listen: '[::]:25', profile: mx}\n    - {listen: '127.0.0.1:0'}\n"
        "  own_hosts: [MX.example.net., 203.0.113.7, '2001:DB8:0::7', '[::2]']\n"
        "  max_message_size: 10MiB\n  max_recipients: 77\n  relay_from: [10.0.0.0/8, '::1/128', 192.0.2.1]\n"
        "  max_sessions: 5\n  max_errors: 6\n  max_hops: 7\n  max_transactions: 8\n"
        "  idle_timeout: 1s\n  data_timeout: 2s\n  session_timeout: 3s\n"
        "domains:\n  - {name: Example.NET, route: 'lmtp://Mail.example.net:24'}\n"
        "routes:\n  default: 'smtp://user@relay.example.net'\n  partner.example: 'smtp://10.1.2.3:2525'\n"
        "delivery:\n  port: 2525\n  suspended: true\n  credentials: secrets\n"
        "  retry: {first: 1m, factor: 1.5, max: 2h, warn_after: 0, expire: 3d}\n"
        "  limits:\n    Gmail.com: {rate: 30/m, connections: unlimited}\n"
        "    default: {connections: 9, rate: 500/s, messages_per_connection: 10, recipients_per_message: "
        "11}\n"
        "  hostname: out.example.net\n  max_attempts: 12\n  connect_timeout: 13s\n  command_timeout: 14s\n"
        "  data_timeout: 15s\n  idle_connection: 16s\n"
        "dns: {servers: ['127.0.0.1:53', '[::1]:54'], timeout: 250ms, tries: 4}\n"
        "http: {listen: '0.0.0.0:8025', token_file: %s}\n"
        "log: {level: debug, format: text}\n",
        token);
    if (load(text, &c) != 0)
        fail_msg("%s", error);
    assert_string_equal(c->node.name, "mx1");
    assert_string_equal(c->node.data_dir, "/var/lib/mailraft");
    assert_int_equal(c->node.workers, 3);
    assert_int_equal(c->node.shutdown_timeout_ms, 7000);
    assert_string_equal(c->cluster.listen, "[::]:7400");
    assert_string_equal(c->cluster.advertise, "mx1.example.net:7401");
    assert_int_equal(c->cluster.n_initial, 2);
    assert_string_equal(c->cluster.initial[1].name, "mx2");
    assert_string_equal(c->cluster.initial[1].address, "[2001:db8::2]:7400");
    assert_false(c->cluster.insecure);
    assert_string_equal(c->cluster.ca, "ca.pem");
    assert_string_equal(c->cluster.cert, "c.pem");
    assert_string_equal(c->cluster.key, "k.pem");
    assert_int_equal(c->cluster.replicas, 5);
    assert_int_equal(c->rules->replicas, 5);
    assert_int_equal(c->cluster.heartbeat_ms, 50);
    assert_int_equal(c->cluster.election_timeout_ms, 400);
    assert_int_equal(c->cluster.lease_ms, 2000);
    assert_int_equal(c->cluster.node_timeout_ms, 60000);
    assert_int_equal(c->cluster.commit_timeout_ms, 11000);
    assert_int_equal(c->cluster.max_state, 64 << 20);
    assert_string_equal(c->smtp.hostname, "mx.example.net");
    assert_int_equal(c->smtp.n_listeners, 2);
    assert_string_equal(c->smtp.listeners[0].listen, "[::]:25");
    assert_int_equal(c->smtp.listeners[0].profile, PROFILE_MX);
    assert_string_equal(c->smtp.listeners[1].listen, "127.0.0.1:0");
    assert_int_equal(c->smtp.max_message_size, 10 << 20);
    assert_int_equal(c->smtp.max_recipients, 77);
    assert_int_equal(c->smtp.relay_from.n, 3);
    assert_int_equal(c->smtp.n_own_hosts, 4);
    assert_string_equal(c->smtp.own_hosts[0], "mx.example.net");
    assert_string_equal(c->smtp.own_hosts[1], "203.0.113.7");
    assert_string_equal(c->smtp.own_hosts[2], "2001:db8::7");
    assert_string_equal(c->smtp.own_hosts[3], "::2");
    assert_int_equal(c->smtp.max_sessions, 5);
    assert_int_equal(c->smtp.max_errors, 6);
    assert_int_equal(c->smtp.max_hops, 7);
    assert_int_equal(c->smtp.max_transactions, 8);
    assert_int_equal(c->smtp.idle_timeout_ms, 1000);
    assert_int_equal(c->smtp.data_timeout_ms, 2000);
    assert_int_equal(c->smtp.session_timeout_ms, 3000);
    assert_int_equal(c->delivery.port, 2525);
    assert_true(c->delivery.suspended && c->rules->suspended);
    assert_string_equal(c->delivery.hostname, "out.example.net");
    assert_int_equal(c->delivery.max_attempts, 12);
    assert_int_equal(c->delivery.connect_timeout_ms, 13000);
    assert_int_equal(c->delivery.command_timeout_ms, 14000);
    assert_int_equal(c->delivery.data_timeout_ms, 15000);
    assert_int_equal(c->delivery.idle_connection_ms, 16000);
    assert_int_equal(c->dns.n_servers, 2);
    assert_string_equal(c->dns.servers[1], "[::1]:54");
    assert_int_equal(c->dns.timeout_ms, 250);
    assert_int_equal(c->dns.tries, 4);
    assert_string_equal(c->http.listen, "0.0.0.0:8025");
    assert_string_equal(c->http.token, "s3cret");
    assert_int_equal(c->log.level, LOG_DEBUG);
    assert_false(c->log.json);
    assert_string_equal(c->file, file);

    const Mailraft__Rules *rules = c->rules;
    char hop[ROUTE_MAX];
    bool local;
    assert_int_equal(rules->retry_first_for_ms, 60000);
    assert_true(rules->retry_factor > 1.49 && rules->retry_factor < 1.51);
    assert_int_equal(rules->retry_max_for_ms, 2 * 3600 * 1000);
    assert_int_equal(rules->warn_after_for_ms, 0);
    assert_int_equal(rules->expire_after_for_ms, 3 * 24 * 3600 * 1000);
    assert_int_equal(route_lookup(rules, "example.net", 11, hop, &local), 0);
    assert_string_equal(hop, "lmtp://mail.example.net:24");
    assert_true(local);
    assert_int_equal(route_lookup(rules, "partner.example", 15, hop, &local), 0);
    assert_string_equal(hop, "smtp://10.1.2.3:2525");
    assert_false(local);
    assert_int_equal(route_lookup(rules, "else.example", 12, hop, &local), 0);
    assert_string_equal(hop, "smtp://user@relay.example.net:25");
    const Mailraft__Limit *l = route_limit(rules, "mx:gmail.com");
    assert_int_equal(l->connections, 0);
    assert_true(l->rate > 0.49 && l->rate < 0.51);
    assert_int_equal(l->messages_per_connection, 10); /* from default, which stands behind it */
    assert_int_equal(l->recipients_per_message, 11);
    l = route_limit(rules, "mx:else.example");
    assert_int_equal(l->connections, 9);
    assert_true(l->rate > 499 && l->rate < 501);
    config_free(c);
}

/* The keys of TLS, AUTH and of what strangers may do. */
static void every_key_of_the_internet(void **state)
{
#define HEX32 "0123456789abcdef0123456789ABCDEF"
    struct config *c;
    (void)state;
    if (load(
            "node: {name: a, data_dir: /var/lib/m}\n"
            "cluster: {listen: '127.0.0.1:7400', insecure: true, initial: ['a=127.0.0.1:7400']}\n"
            "smtp:\n  hostname: mx.example.net\n"
            "  tls: {cert: c.pem, key: k.pem, more: [{cert: c2.pem, key: k2.pem}], client_ca: ca.pem,\n"
            "        relay_certs: ['sha256:" HEX32 HEX32 "']}\n"
            "  listeners: [{listen: '[::]:25', proxy: true}, {listen: '[::]:587', profile: submission},\n"
            "    {listen: '[::]:465', profile: submission, tls: implicit}, {listen: '[::1]:24', profile: lmtp, tls: "
            "off}]\n"
            "  auth: {file: users, mechanisms: [PLAIN, SCRAM-SHA-256-PLUS], senders: own, sender_file: senders,\n"
            "         recipients_per_hour: 100, users: {bulk: {recipients_per_hour: unlimited}}}\n"
            "  normalize_from: [10.1.0.0/16]\n  xclient_from: [10.2.0.0/16]\n  proxy_from: [10.3.0.0/16, 10.4.0.0/16]\n"
            "  client_limits: {connections: 1, network_connections: unlimited, connection_rate: 60/m, message_rate: "
            "2/s,\n"
            "                  recipient_rate: 5000/d, exempt: [10.5.0.0/16]}\n"
            "  greeting_delay: 2s\n  line_timeout: 3s\n  min_data_rate: 1KiB\n  max_hold: 1d\n  min_deliver_by: 5s\n"
            "  disable: [CHUNKING, mt-priority]\n"
            "delivery:\n  tls: {Example.org: {policy: verify, names: [mx.Example.org]}, default: {policy: may}}\n"
            "  tls_ca: roots.pem\n  tls_cert: oc.pem\n  tls_key: ok.pem\n  credentials: secrets\n"
            "  source: [192.0.2.1, '2001:db8::1']\n  sts_port: 8443\n"
            "dns: {servers: ['127.0.0.1:53'], trust_ad: false}\n",
            &c) != 0)
        fail_msg("%s", error);
    assert_string_equal(c->smtp.tls.cert, "c.pem");
    assert_string_equal(c->smtp.tls.key, "k.pem");
    assert_int_equal(c->smtp.tls.n_more, 1);
    assert_string_equal(c->smtp.tls.more[0].cert, "c2.pem");
    assert_string_equal(c->smtp.tls.more[0].key, "k2.pem");
    assert_string_equal(c->smtp.tls.client_ca, "ca.pem");
    assert_int_equal(c->smtp.tls.n_relay_certs, 1);
    assert_string_equal(c->smtp.tls.relay_certs[0], "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    assert_true(c->smtp.listeners[0].tls == TLS_OFFERED && c->smtp.listeners[0].proxy);
    assert_true(c->smtp.listeners[1].tls == TLS_REQUIRED && c->smtp.listeners[1].profile == PROFILE_SUBMISSION);
    assert_true(c->smtp.listeners[2].tls == TLS_IMPLICIT && !c->smtp.listeners[2].proxy);
    assert_true(c->smtp.listeners[3].tls == TLS_OFF && c->smtp.listeners[3].profile == PROFILE_LMTP);
    assert_string_equal(c->smtp.auth.file, "users");
    assert_null(c->smtp.auth.dovecot);
    assert_int_equal(c->smtp.auth.mechanisms, AUTH_PLAIN | AUTH_SCRAM_SHA_256_PLUS);
    assert_true(c->smtp.auth.senders_own && !c->smtp.auth.without_tls);
    assert_string_equal(c->smtp.auth.sender_file, "senders");
    assert_int_equal(c->rules->n_user_limits, 2);
    assert_string_equal(c->rules->user_limits[0]->user, "default");
    assert_int_equal(c->rules->user_limits[0]->recipients_per_hour, 100);
    assert_string_equal(c->rules->user_limits[1]->user, "bulk");
    assert_int_equal(c->rules->user_limits[1]->recipients_per_hour, 0);
    assert_int_equal(c->smtp.normalize_from.n, 1);
    assert_int_equal(c->smtp.xclient_from.n, 1);
    assert_int_equal(c->smtp.proxy_from.n, 2);
    assert_int_equal(c->smtp.client_limits.connections, 1);
    assert_int_equal(c->smtp.client_limits.network_connections, 0);
    assert_int_equal(c->smtp.client_limits.connection_rate.count, 60);
    assert_int_equal(c->smtp.client_limits.connection_rate.per_ms, 60000);
    assert_int_equal(c->smtp.client_limits.message_rate.count, 2);
    assert_int_equal(c->smtp.client_limits.message_rate.per_ms, 1000);
    assert_int_equal(c->smtp.client_limits.recipient_rate.count, 5000);
    assert_int_equal(c->smtp.client_limits.recipient_rate.per_ms, 24 * 3600 * 1000);
    assert_int_equal(c->smtp.client_limits.exempt.n, 1);
    assert_int_equal(c->smtp.greeting_delay_ms, 2000);
    assert_int_equal(c->smtp.line_timeout_ms, 3000);
    assert_int_equal(c->smtp.min_data_rate, 1024);
    assert_int_equal(c->smtp.max_hold_ms, 24 * 3600 * 1000);
    assert_int_equal(c->smtp.min_deliver_by_ms, 5000);
    assert_int_equal(c->smtp.disable, SMTP_CHUNKING | SMTP_MT_PRIORITY);
    assert_int_equal(c->rules->n_tls, 2);
    assert_string_equal(route_tls(c->rules, "mx:example.org")->names[0], "mx.example.org");
    assert_int_equal(route_tls(c->rules, "mx:example.org")->policy, MAILRAFT__TLS_POLICY__TLS_POLICY_VERIFY);
    assert_int_equal(route_tls(c->rules, "smtp://other:25")->policy, MAILRAFT__TLS_POLICY__TLS_POLICY_MAY);
    assert_string_equal(c->delivery.tls_ca, "roots.pem");
    assert_string_equal(c->delivery.tls_cert, "oc.pem");
    assert_string_equal(c->delivery.tls_key, "ok.pem");
    assert_string_equal(c->delivery.credentials, "secrets");
    assert_int_equal(c->delivery.n_source, 2);
    assert_string_equal(c->delivery.source[1], "2001:db8::1");
    assert_int_equal(c->delivery.sts_port, 8443);
    assert_false(c->dns.trust_ad);
    config_free(c);
}

/* What is not in the file follows from what is. */
static void defaults_that_follow(void **state)
{
    struct config *c;
    (void)state;
    assert_int_equal(load(BASE "dns: {servers: ['127.0.0.1:53', '[::1]:53']}\n", &c), 0);
    assert_true(c->dns.trust_ad);
    assert_int_equal(c->smtp.listeners[0].tls, TLS_OFF);
    assert_int_equal(c->smtp.client_limits.exempt.n, 0);
    config_free(c);
    assert_int_equal(load(BASE "dns: {servers: ['127.0.0.1:53', '192.0.2.1:53']}\n", &c), 0);
    assert_false(c->dns.trust_ad);
    config_free(c);
    assert_int_equal(load("node: {name: a, data_dir: /var/lib/m}\n"
                          "cluster: {listen: '127.0.0.1:7400', insecure: true, initial: ['a=127.0.0.1:7400']}\n"
                          "smtp: {listeners: [{listen: '127.0.0.1:25'}], relay_from: [10.0.0.0/8, 11.0.0.0/8]}\n",
                          &c),
                     0);
    assert_int_equal(c->smtp.client_limits.exempt.n, 2);
    config_free(c);
}

static void defaults(void **state)
{
    struct config *c;
    char hop[ROUTE_MAX];
    (void)state;
    if (load(BASE, &c) != 0)
        fail_msg("%s", error);
    assert_int_equal(c->node.workers, 0);
    assert_int_equal(c->cluster.heartbeat_ms, 100);
    assert_int_equal(c->cluster.lease_ms, 3000);
    assert_int_equal(c->cluster.replicas, 3);
    assert_int_equal(c->delivery.port, 25);
    assert_false(c->delivery.suspended);
    assert_string_equal(c->delivery.hostname, "mx.example.net");
    assert_int_equal(c->smtp.max_message_size, 50 << 20);
    assert_null(c->http.listen);
    assert_true(c->log.json);
    assert_int_equal(route_lookup(c->rules, "any.example", 11, hop, NULL), 0);
    assert_string_equal(hop, "mx:any.example");
    const Mailraft__Limit *l = route_limit(c->rules, "mx:any.example");
    assert_int_equal(l->connections, 20);
    assert_int_equal(l->messages_per_connection, 100);
    assert_true(l->rate == 0);
    assert_int_equal(c->rules->retry_first_for_ms, 300000);
    config_free(c);
}

/* ---- what is wrong ---- */

/* The text must be refused, with this line of this file and these words. */
static void refused(const char *text, unsigned line, const char *words)
{
    struct config *c;
    char where[200];
    assert_int_equal(load(text, &c), MR_CONFIG);
    (void)snprintf(where, sizeof(where), "%s:%u: %s", file, line, words);
    if (strstr(error, where) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", where, error);
    assert_int_not_equal(error[strlen(error) - 1], '\n');
}

struct wrong {
    const char *more; /* behind BASE, from line 4 on */
    unsigned line;
    const char *words;
};

static void wrong_values(void **state)
{
    static const struct wrong cases[] = {
        {"nonsense: 1\n", 4, "nonsense: unknown key"},
        {"log: {level: info, colour: red}\n", 4, "log.colour: unknown key"},
        {"log: {level: info}\nlog: {level: info}\n", 5, "log: given twice"},
        {"log: {level: info, level: warn}\n", 4, "log.level: given twice"},
        {"log: {level: loud}\n", 4, "log.level: has to be debug, info, warn or error, not \"loud\""},
        {"log: {format: xml}\n", 4, "log.format: has to be json or text"},
        {"log: []\n", 4, "log: has to be a mapping"},
        {"log: {level: [info]}\n", 4, "log.level: has to be a single value"},
        {"log: {level: \"in\\0fo\"}\n", 4, "log.level: holds a zero byte"},
        {"log: {[a]: b}\n", 4, "log: a key has to be plain text"},
        {"dns: {servers: '127.0.0.1:53'}\n", 4, "dns.servers: has to be a list"},
        {"dns:\n  servers:\n    - 127.0.0.1\n", 6, "dns.servers.0: has to be host:port"},
        {"dns: {servers: ['::1:53']}\n", 4, "dns.servers.0: has to be host:port"},
        {"dns: {servers: ['[::1:53']}\n", 4, "dns.servers.0: has to be host:port"},
        {"dns: {servers: ['a:65536']}\n", 4, "dns.servers.0: has to be host:port"},
        {"dns: {servers: ['a:5x']}\n", 4, "dns.servers.0: has to be host:port"},
        {"dns: {servers: ['a:1','a:1','a:1','a:1','a:1','a:1','a:1','a:1','a:1']}\n", 4, "dns.servers.8: more than 8"},
        {"dns: {timeout: 5}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {timeout: 0}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {timeout: -1s}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {timeout: 1y}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {timeout: 30d}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {timeout: 99999999999999999999s}\n", 4, "dns.timeout: has to be a duration"},
        {"dns: {tries: 0}\n", 4, "dns.tries: has to be a whole number"},
        {"dns: {tries: 2.5}\n", 4, "dns.tries: has to be a whole number"},
        {"dns: {tries: ''}\n", 4, "dns.tries: has to be a whole number"},
        {"delivery: {port: 0}\n", 4, "delivery.port: has to be a port"},
        {"delivery: {port: 65536}\n", 4, "delivery.port: has to be a port"},
        {"delivery: {suspended: maybe}\n", 4, "delivery.suspended: has to be true or false"},
        {"delivery: {hostname: ''}\n", 4, "delivery.hostname: must not be empty"},
        {"delivery: {retry: {factor: 0.5}}\n", 4, "delivery.retry.factor: has to be a number from 1 to 100"},
        {"delivery: {retry: {factor: nan}}\n", 4, "delivery.retry.factor: has to be a number from 1 to 100"},
        {"delivery: {retry: {first: 0}}\n", 4, "delivery.retry: first must be over 0"},
        {"delivery: {retry: {first: 5h}}\n", 4, "delivery.retry: max is smaller than first"},
        {"delivery: {retry: {expire: 0}}\n", 4, "delivery.retry: expire must be over 0"},
        {"delivery: {limits: {a.example: {rate: fast}}}\n", 4,
         "delivery.limits.a.example.rate: has to be unlimited or like"},
        {"delivery: {limits: {a.example: {rate: 0/s}}}\n", 4, "delivery.limits.a.example.rate: has to be"},
        {"delivery: {limits: {a.example: {rate: inf/s}}}\n", 4, "delivery.limits.a.example.rate: has to be"},
        {"delivery: {limits: {a.example: {rate: 5}}}\n", 4, "delivery.limits.a.example.rate: has to be"},
        {"delivery: {limits: {default: {connections: 0}}}\n", 4,
         "delivery.limits.default.connections: has to be unlimited or a number"},
        {"delivery: {limits: {default: {connections: 1000001}}}\n", 4, "delivery.limits.default.connections: has to"},
        {"delivery: {limits: {default: {colour: 5}}}\n", 4, "delivery.limits.default.colour: unknown key"},
        {"delivery: {limits: {A.example: {rate: 5/s}, a.example: {rate: 6/s}}}\n", 4,
         "delivery.limits.a.example: given twice"},
        {"routes: {default: 'http://a'}\n", 4, "routes.default: has to be mx, smtp://host:port or lmtp://host:port"},
        {"routes: {default: 'smtp://'}\n", 4, "routes.default: has to be mx, smtp"},
        {"routes: {'no domain': mx}\n", 4, "routes.no domain: \"no domain\" is not a domain"},
        {"domains: [{name: a.example, route: mx}]\nroutes: {A.example: mx}\n", 5, "routes.A.example: has a route"},
        {"domains: [{name: a.example}]\n", 4, "domains.0: needs name and route"},
        {"domains: [{name: a.example, route: mx}, {name: a.example, route: mx}]\n", 4,
         "domains.1: \"a.example\" is given twice"},
        {"domains: [{name: b\xc3\xbc"
         "cher.example, route: mx}, {name: xn--bcher-kva.example, route: mx}]\n",
         4, "domains.1: \"xn--bcher-kva.example\" is given twice"},
        {"domains: [{name: '\xc3\xbc..example', route: mx}]\n", 4, "domains.0: \"\xc3\xbc..example\" is not a domain"},
        {"domains: [{name: '.example', route: mx}]\n", 4, "domains.0: \".example\" is not a domain"},
        {"domains: {name: a.example, route: mx}\n", 4, "domains: has to be a list"},
        {"http: {token_file: /dev/null/x}\n", 4, "http.token_file: /dev/null/x: "},
        {"http: {token_file: /dev/null}\n", 4, "http.token_file: /dev/null: has to hold one line"},
        {"http: {listen: '0.0.0.0:80'}\n", 4, "http: without token_file only a loopback address"},
        {"http: {listen: '[::]:80'}\n", 4, "http: without token_file only a loopback address"},
        {"http: {}\n", 4, "http: needs listen"},
    };
    char text[2048];
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        (void)snprintf(text, sizeof(text), "%s%s", BASE, cases[i].more);
        refused(text, cases[i].line, cases[i].words);
    }
}

#define NODE "node: {name: a, data_dir: /d}\n"
#define SMTP "smtp: {listeners: [{listen: '127.0.0.1:25'}]}\n"

static void wrong_sections(void **state)
{
    static const struct wrong cases[] = {
        {"", 1, "the file is empty"},
        {"- a\n", 1, "has to be a mapping"},
        {NODE SMTP "cluster: {insecure: true, initial: ['a=127.0.0.1:1']}\n", 3, "cluster: listen is missing"},
        {NODE SMTP "cluster: {insecure: true, listen: '127.0.0.1:1'}\n", 3, "cluster: initial is missing"},
        {NODE SMTP "cluster: {listen: '127.0.0.1:1', initial: ['a=127.0.0.1:1']}\n", 3, "cluster: tls is missing"},
        {NODE SMTP "cluster: {insecure: true, listen: '0.0.0.0:1', initial: ['a=127.0.0.1:1']}\n", 3,
         "cluster: insecure is for loopback only"},
        {NODE SMTP "cluster: {insecure: true, listen: '127.0.0.1:1', initial: ['a=192.0.2.1:1']}\n", 3,
         "cluster: insecure is for loopback only"},
        {NODE SMTP "cluster: {insecure: true, listen: '127.0.0.1:1', advertise: 'b:1', initial: ['a=127.0.0.1:1']}\n",
         3, "cluster: insecure is for loopback only"},
        {NODE SMTP "cluster: {insecure: true, tls: {ca: a, cert: b, key: c}, listen: '127.0.0.1:1', initial: "
                   "['a=127.0.0.1:1']}\n",
         3, "cluster: tls and insecure exclude each other"},
        {NODE SMTP "cluster: {tls: {ca: a, cert: b}, listen: '127.0.0.1:1', initial: ['a=127.0.0.1:1']}\n", 3,
         "cluster.tls: needs ca, cert and key"},
        {NODE SMTP "cluster: {initial: [a, '=b:1', 'a=b', 'a=b:0']}\n", 3,
         "cluster.initial.3: has to be name=host:port, not \"a=b:0\""},
        {NODE SMTP "cluster: {initial: ['a=b:1', 'a=c:1']}\n", 3, "cluster.initial.1: \"a\" is given twice"},
        {NODE SMTP "cluster: {heartbeat: 400ms}\n", 3, "cluster: election_timeout has to be at least twice heartbeat"},
        {NODE SMTP "cluster: {lease: 400ms}\n", 3, "cluster: lease must not be shorter than election_timeout"},
        {NODE SMTP "cluster: {node_timeout: 3s}\n", 3, "cluster: node_timeout has to be at least lease"},
        {NODE SMTP "delivery: {max_attempts: 32769}\n", 3, "delivery.max_attempts: has to be at most 32768"},
        {NODE SMTP "cluster: {max_state: 2GiB}\n", 3, "cluster: max_state has to be 1MiB to 1536MiB"},
        {NODE SMTP "cluster: {max_state: 1000KiB}\n", 3, "cluster: max_state has to be 1MiB to 1536MiB"},
        {NODE SMTP, 1, "the section cluster is missing"},
        {NODE "smtp: {}\n", 2, "smtp: listeners is missing"},
        {NODE "smtp: {listeners: [{profile: mx}]}\n", 2, "smtp.listeners.0: needs listen"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', profile: fast}]}\n", 2, "smtp.listeners.0.profile: has to"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', profile: submission}]}\n", 1,
         "listener 127.0.0.1:25: submission needs TLS (tls: off is for loopback only)"},
        {NODE "smtp: {listeners: [{listen: '0.0.0.0:25', profile: submission, tls: off}]}\n", 1,
         "listener 0.0.0.0:25: submission needs TLS (tls: off is for loopback only)"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', profile: lmtp}]}\n", 1,
         "listener 127.0.0.1:25: LMTP must not be on port 25"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', tls: implicit}]}\n", 1,
         "listener 127.0.0.1:25: tls needs smtp.tls with cert and key"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', tls: maybe}]}\n", 2, "smtp.listeners.0.tls: has to be off"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25', proxy: true}]}\n", 1,
         "listener 127.0.0.1:25: proxy needs smtp.proxy_from"},
        {NODE "smtp: {tls: {cert: a, key: b, more: [{cert: c}]}}\n", 2, "smtp.tls.more.0: needs cert and key"},
        {NODE "smtp: {tls: {cert: a, key: b, relay_certs: ['sha256:12']}}\n", 2,
         "smtp.tls.relay_certs.0: has to be sha256: and 64"},
        {NODE "smtp: {auth: {file: a, dovecot: b}}\n", 2, "smtp.auth: needs one of file and dovecot"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25'}], auth: {file: a}}\n", 1,
         "smtp.auth: no listener has profile: submission"},
        {NODE "smtp: {listeners: [{listen: '127.0.0.1:25'}, {listen: '127.0.0.1:24'}, {listen: '127.0.0.1:25'}]}\n", 1,
         "listener 127.0.0.1:25: given twice"},
        {BASE "routes: {default: 'smtp://u@relay.example:587'}\n", 1,
         "route of default: a login needs delivery.credentials"},
        {BASE "delivery: {tls: {a.example: {policy: dane}}}\ndns: {servers: ['192.0.2.1:53']}\n", 1,
         "delivery.tls.a.example: policy dane needs a resolver that validates"},
        {NODE "delivery: {data_timeout: 601s}\n", 2, "delivery.data_timeout: is at most 10m"},
        {NODE "smtp: {auth: {file: a, mechanisms: [CRAM-MD5]}}\n", 2, "smtp.auth.mechanisms.0: has to be PLAIN"},
        {NODE "smtp: {auth: {file: a, senders: any, sender_file: b}}\n", 2, "smtp.auth: sender_file does not go with"},
        {NODE "smtp: {auth: {file: a, users: {default: {recipients_per_hour: 1}}}}\n", 2,
         "smtp.auth.users.default: \"default\" is no user"},
        {NODE "smtp: {client_limits: {connections: 0}}\n", 2, "smtp.client_limits.connections: has to be unlimited"},
        {NODE "smtp: {client_limits: {message_rate: 5}}\n", 2, "smtp.client_limits.message_rate: has to be unlimited"},
        {NODE "smtp: {client_limits: {message_rate: 0.5/s}}\n", 2,
         "smtp.client_limits.message_rate: has to be at least"},
        {NODE "smtp: {min_data_rate: -1}\n", 2, "smtp.min_data_rate: has to be octets a second"},
        {NODE "smtp: {greeting_delay: 30d}\n", 2, "smtp.greeting_delay: is at most 24d"},
        {NODE "smtp: {disable: [ENHANCEDSTATUSCODES]}\n", 2,
         "smtp.disable.0: \"ENHANCEDSTATUSCODES\" is not an extension"},
        {NODE "smtp: {disable: [VRFY]}\n", 2, "smtp.disable.0: \"VRFY\" is not an extension"},
        {NODE "smtp: {tls: {cert: a}}\n", 2, "smtp.tls: needs cert and key"},
        {NODE "smtp: {max_message_size: 5 MB}\n", 2, "smtp.max_message_size: has to be a size"},
        {NODE "smtp: {max_message_size: 0}\n", 2, "smtp.max_message_size: has to be a size"},
        {NODE "smtp: {max_recipients: 10001}\n", 2, "smtp: max_recipients is at most 10000"},
        {NODE "smtp: {relay_from: [10.0.0.0/33]}\n", 2, "smtp.relay_from.0: has to be an address or network"},
        {NODE "smtp: {own_hosts: ['mx.example.net:25']}\n", 2,
         "smtp.own_hosts.0: has to be a host's name or an address"},
        {NODE "smtp: {own_hosts: ['10.0.0.0/8']}\n", 2, "smtp.own_hosts.0: has to be a host's name or an address"},
        {NODE "smtp: {relay_from: [10.0.0/8]}\n", 2, "smtp.relay_from.0: has to be an address or network"},
        {NODE "smtp: {relay_from: ['::1/129']}\n", 2, "smtp.relay_from.0: has to be an address or network"},
        {NODE "smtp: {relay_from: ['10.0.0.0/']}\n", 2, "smtp.relay_from.0: has to be an address or network"},
        {"node: {workers: 65}\n", 1, "node.workers: has to be auto or a number from 1 to 64"},
        {"node: {workers: none}\n", 1, "node.workers: has to be auto or a number from 1 to 64"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        refused(cases[i].more, cases[i].line, cases[i].words);
    refused(BASE "dns: {tries: 1\n", 5, "");
    refused("node: {name: b, data_dir: /d}\n"
            "cluster: {insecure: true, listen: '127.0.0.1:1', initial: ['a=127.0.0.1:1']}\n" SMTP,
            1, "node.name \"b\" is not in cluster.initial");
    refused("node: {name: a}\n"
            "cluster: {insecure: true, listen: '127.0.0.1:1', initial: ['a=127.0.0.1:1']}\n" SMTP,
            1, "node.data_dir is missing");
}

/* All that is wrong is told, a line each; a buffer that is too small holds the first ones. */
static void several_at_once(void **state)
{
    static const char text[] = BASE "dns: {tries: 0, timeout: x}\nlog: {level: y}\n";
    struct config *c;
    char small[100];
    (void)state;
    assert_int_equal(load(text, &c), MR_CONFIG);
    assert_non_null(strstr(error, ":4: dns.tries: "));
    assert_non_null(strstr(error, ":4: dns.timeout: "));
    assert_non_null(strstr(error, ":5: log.level: "));
    for (size_t len = 1; len <= sizeof(small); len++) {
        memset(small, 'x', sizeof(small));
        assert_int_equal(config_load(&c, file, small, len), MR_CONFIG);
        assert_true(strnlen(small, len) < len);
    }
}

static void no_file(void **state)
{
    struct config *c;
    (void)state;
    (void)unlink(file);
    assert_int_equal(config_load(&c, file, error, sizeof(error)), MR_IO);
    assert_non_null(strstr(error, file));
    assert_non_null(strstr(error, "No such file"));
    config_free(NULL);
}

static void networks(void **state)
{
    static const struct {
        const char *network, *address;
        bool in;
    } cases[] = {{"10.0.0.0/8", "10.255.0.1", true},
                 {"10.0.0.0/8", "11.0.0.1", false},
                 {"192.0.2.128/25", "192.0.2.127", false},
                 {"192.0.2.128/25", "192.0.2.200", true},
                 {"192.0.2.1", "192.0.2.1", true},
                 {"192.0.2.1", "192.0.2.2", false},
                 {"0.0.0.0/0", "1.2.3.4", true},
                 {"0.0.0.0/0", "::1", false},
                 {"10.0.0.0/8", "::ffff:10.1.1.1", true},
                 {"::/0", "::ffff:10.1.1.1", false},
                 {"2001:db8::/33", "2001:db8:8000::1", false},
                 {"2001:db8::/33", "2001:db8:7fff::1", true},
                 {"::1/128", "::1", true},
                 {"::1/128", "::2", false}};
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[1024];
        struct config *c;
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        bool four = inet_pton(AF_INET, cases[i].address, &v4.sin_addr) == 1;
        assert_true(four || inet_pton(AF_INET6, cases[i].address, &v6.sin6_addr) == 1);
        (void)snprintf(text, sizeof(text),
                       NODE "cluster: {insecure: true, listen: '127.0.0.1:1', initial: ['a=127.0.0.1:1']}\n"
                            "smtp: {listeners: [{listen: '127.0.0.1:25'}], relay_from: ['%s']}\n",
                       cases[i].network);
        if (load(text, &c) != 0)
            fail_msg("%s", error);
        bool in =
            network_contains(&c->smtp.relay_from, four ? (const struct sockaddr *)&v4 : (const struct sockaddr *)&v6);
        if (in != cases[i].in)
            fail_msg("%s in %s: %d", cases[i].address, cases[i].network, in);
        config_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_key),
        cmocka_unit_test(every_key_of_the_internet),
        cmocka_unit_test(defaults_that_follow),
        cmocka_unit_test(defaults),
        cmocka_unit_test(wrong_values),
        cmocka_unit_test(wrong_sections),
        cmocka_unit_test(several_at_once),
        cmocka_unit_test(no_file),
        cmocka_unit_test(networks),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
