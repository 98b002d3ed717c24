/* mailraftd - one node of a mailraft cluster.
 *
 * The main thread reads the configuration, opens everything, then waits for signals: SIGTERM and SIGINT drain and end,
 * a second one without waiting any longer; SIGHUP reads the configuration again (its replicated part takes effect; a
 * wrong file is told in the log and changes nothing). During the start SIGHUP waits for its end, and SIGTERM and SIGINT
 * end the process at once; during the drain SIGHUP does nothing. Exit status: 0 done, 1 cannot run (why on stderr), 2
 * usage. */
#include "node/auth/auth_store.h"
#include "node/config/config.h"
#include "node/delivery/delivery.h"
#include "node/http.h"
#include "node/server/client_table.h"
#include "node/server/smtp_server.h"
#include "node/tls/tls_server.h"
#include "node/worker.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    ERROR_MAX = 4096,
    MAX_WORKERS = 64,
    DAY_MS = 86400000,
    ONE_END_MS = 1000, /* a terminal and a supervisor may both send a signal, and mean one end */
};

struct daemon {
    struct config *config;
    struct cluster *cluster;
    struct client_table *clients;
    struct tls_server *tls; /* newest; NULL: none */
    struct auth_store *auth_store;
    struct worker *workers[MAX_WORKERS];
    unsigned n_workers;
    struct http *http;
    uv_loop_t loop;
    uv_signal_t sigterm, sigint, sighup;
    uv_timer_t reload, daily;
    bool draining;
    uint64_t ending_ms; /* since when, by the loop's clock */
    uv_async_t drained;
};

static int usage(FILE *out, int status)
{
    (void)fprintf(out, "usage: mailraftd --config FILE [--check-config]\n"
                       "       mailraftd --version | --help\n"
                       "\n"
                       "One node of a mailraft cluster: takes mail by SMTP, keeps it on a majority of the nodes\n"
                       "before it answers 250, delivers it.\n"
                       "\n"
                       "  --config FILE    configuration (YAML)\n"
                       "  --check-config   say what is wrong with it, with file, line and key, and start nothing\n"
                       "\n"
                       "SIGTERM: finish or hand over, then exit 0; again: wait no longer. SIGHUP: read the\n"
                       "configuration again.\n");
    return status;
}

/* ---- signals ---- */

/* The second one, of somebody who has waited for a while: the time is up. */
static void on_end(uv_signal_t *signal, int number)
{
    struct daemon *d = signal->data;
    if (!d->draining) {
        d->draining = true;
        d->ending_ms = uv_now(&d->loop);
        log_event(LOG_INFO, "stopping", LOG_S("signal", strsignal(number)));
        uv_stop(&d->loop);
    } else if (uv_now(&d->loop) - d->ending_ms >= ONE_END_MS) {
        d->ending_ms = uv_now(&d->loop);
        log_event(LOG_WARN, "stopping_now", LOG_S("signal", strsignal(number)));
        cluster_drain_now(d->cluster);
    }
}

/* Takes over tls. Listeners stay as they are, so certificates that are gone from the file serve on. */
static void use_certificates(struct daemon *d, struct tls_server *tls)
{
    if (tls == NULL)
        return;
    tls_server_log(tls, false);
    for (unsigned i = 0; i < d->n_workers; i++)
        worker_set_tls(d->workers[i], tls);
    tls_server_unref(d->tls);
    d->tls = tls;
}

/* A file that a node may start with or go on with, and the certificates that it names (tls NULL: none). */
static int load(const char *file, struct config **out, struct tls_server **tls, char *error, size_t error_len)
{
    int rc = config_load(out, file, error, error_len);
    if (rc != 0)
        return rc;
    rc = cluster_check_rules((*out)->rules, error, error_len);
    if (rc == 0)
        rc = auth_store_check(*out, error, error_len);
    if (rc == 0)
        rc = delivery_tls_check(*out, error, error_len);
    if (rc == 0)
        rc = tls_server_open(tls, *out, error, error_len);
    if (rc != 0)
        config_free(*out);
    return rc;
}

static void reload(uv_timer_t *timer)
{
    struct daemon *d = timer->data;
    struct config *fresh;
    struct tls_server *tls;
    char error[ERROR_MAX];

    if (d->draining)
        return;
    if (load(d->config->file, &fresh, &tls, error, sizeof(error)) != 0) {
        log_event(LOG_ERROR, "reload_failed", LOG_S("reason", error));
        return;
    }
    if (auth_store_reload(d->auth_store, fresh, error, sizeof(error)) != 0)
        log_event(LOG_ERROR, "reload_failed", LOG_S("reason", error));
    use_certificates(d, tls);
    cluster_reconfigure(d->cluster, fresh->rules);
    log_reconfigure(fresh->log.level, fresh->log.json);
    log_event(LOG_INFO, "reloaded", LOG_S("file", d->config->file),
              LOG_S("note", "smtp.tls, the files of cluster.tls, the files and limits of users, domains, routes, "
                            "delivery.tls, delivery.retry, "
                            "delivery.limits, delivery.suspended, delivery.credentials, cluster.replicas and log take "
                            "effect now; the rest at the next start"));
    config_free(fresh);
}

/* Signals that wait together are one reload, and SIGTERM does not wait behind many. */
static void on_reload(uv_signal_t *signal, int number)
{
    struct daemon *d = signal->data;

    (void)number;
    uv_timer_start(&d->reload, reload, 0, 0);
}

static void on_day(uv_timer_t *timer)
{
    struct daemon *d = timer->data;

    if (d->tls != NULL)
        tls_server_log(d->tls, true);
}

static void watch(struct daemon *d, uv_signal_t *handle, int number, uv_signal_cb cb)
{
    uv_signal_init(&d->loop, handle);
    handle->data = d;
    uv_signal_start(handle, cb, number);
}

/* Nothing that somebody counts on was done yet; and a start may take long. */
static void end_start(int number)
{
    (void)number;
    _exit(0);
}

static void block_signals(int how, bool all)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGHUP);
    if (all) {
        (void)sigaddset(&set, SIGTERM);
        (void)sigaddset(&set, SIGINT);
    }
    (void)pthread_sigmask(how, &set, NULL);
}

/* Before anything else. */
static void begin_signals(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    block_signals(SIG_BLOCK, false);
    (void)signal(SIGTERM, end_start);
    (void)signal(SIGINT, end_start);
}

/* Before there are threads, which have the mask of who began them: libuv keeps it for uv_run. */
static void watch_reload(struct daemon *d)
{
    uv_timer_init(&d->loop, &d->reload);
    d->reload.data = d;
    watch(d, &d->sighup, SIGHUP, on_reload);
    block_signals(SIG_UNBLOCK, false);
}

/* ---- start ---- */

/* A thread that is woken does not push the running one aside: it takes what has come meanwhile in one go, and is woken
 * less often. Who has chosen a policy (CPUSchedulingPolicy=, chrt) keeps it. All threads inherit it. */
static void schedule_batches(void)
{
    struct sched_param none = {0};
    if (sched_getscheduler(0) == SCHED_OTHER)
        (void)sched_setscheduler(0, SCHED_BATCH, &none);
}

static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_cluster(struct daemon *d, char *error, size_t error_len)
{
    const struct config *config = d->config;
    struct cluster_member *initial = mr_calloc(config->cluster.n_initial, sizeof(*initial));
    for (unsigned i = 0; i < config->cluster.n_initial; i++)
        initial[i] = (struct cluster_member){config->cluster.initial[i].name, config->cluster.initial[i].address};
    struct cluster_config cluster = {
        .name = config->node.name,
        .data_dir = config->node.data_dir,
        .listen = config->cluster.listen,
        .initial = initial,
        .n_initial = config->cluster.n_initial,
        .insecure = config->cluster.insecure,
        .ca = config->cluster.ca,
        .cert = config->cluster.cert,
        .key = config->cluster.key,
        .heartbeat_ms = config->cluster.heartbeat_ms,
        .election_timeout_ms = config->cluster.election_timeout_ms,
        .lease_ms = config->cluster.lease_ms,
        .node_timeout_ms = config->cluster.node_timeout_ms,
        .commit_timeout_ms = config->cluster.commit_timeout_ms,
        .rules = config->rules,
        .max_attempts = config->delivery.max_attempts,
        .max_state = config->cluster.max_state,
        .apply_trace = config->debug.apply_trace,
        .state_hash_every = config->debug.state_hash_every,
    };
    int rc = cluster_open(&d->cluster, &cluster, error, error_len);
    free(initial);
    return rc;
}

/* Each worker has a socket of its own for each listener (SO_REUSEPORT). With port 0 the first worker's choice serves
 * for all. */
static int listen_all(struct daemon *d, unsigned n_workers, int *fds, char *error, size_t error_len)
{
    for (unsigned l = 0; l < d->config->smtp.n_listeners; l++) {
        char bound[128];
        const char *address = d->config->smtp.listeners[l].listen;
        for (unsigned w = 0; w < n_workers; w++) {
            int rc =
                smtp_listen(address, &fds[w * d->config->smtp.n_listeners + l], bound, sizeof(bound), error, error_len);
            if (rc != 0)
                return rc;
            address = bound;
        }
        log_event(LOG_INFO, "listening", LOG_S("service", "smtp"), LOG_S("address", bound));
    }
    return 0;
}

static void open_clients(struct daemon *d)
{
    const struct config *c = d->config;
    struct client_limits limits = {
        .connections = c->smtp.client_limits.connections,
        .network_connections = c->smtp.client_limits.network_connections,
        .connection_rate = c->smtp.client_limits.connection_rate,
        .message_rate = c->smtp.client_limits.message_rate,
        .recipient_rate = c->smtp.client_limits.recipient_rate,
        .auth_failures = CLIENT_AUTH_FAILURE_RATE,
        .exempt = c->smtp.client_limits.exempt,
        /* Each session needs two at most, so that with room for others a shard fills up only by bad luck. */
        .entries = c->smtp.max_sessions * 8 > CLIENT_TABLE_ENTRIES ? c->smtp.max_sessions * 8 : CLIENT_TABLE_ENTRIES,
    };
    client_table_open(&d->clients, &limits);
}

static int open_workers(struct daemon *d, char *error, size_t error_len)
{
    unsigned listeners = d->config->smtp.n_listeners;
    unsigned n = d->config->node.workers;
    if (n == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        n = cores < 1 ? 1 : cores > MAX_WORKERS ? MAX_WORKERS : (unsigned)cores;
    }
    open_clients(d);
    int *fds = mr_calloc((size_t)n * listeners, sizeof(*fds));
    int rc = listen_all(d, n, fds, error, error_len);
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        rc = worker_open(&d->workers[i], i, d->cluster, d->config, d->clients, d->tls, d->auth_store,
                         fds + (size_t)i * listeners, listeners);
        if (rc != 0)
            (void)snprintf(error, error_len, "worker %u cannot be opened", i);
        d->n_workers++;
    }
    free(fds);
    return rc;
}

static int open_http(struct daemon *d, char *error, size_t error_len)
{
    char bound[128];
    if (d->config->http.listen == NULL)
        return 0;
    int rc = http_open(&d->http, d->cluster, d->config, bound, sizeof(bound), error, error_len);
    if (rc == 0)
        log_event(LOG_INFO, "listening", LOG_S("service", "http"), LOG_S("address", bound));
    return rc;
}

static int start(struct daemon *d, char *error, size_t error_len)
{
    int rc = tls_server_open(&d->tls, d->config, error, error_len);
    if (rc == 0 && d->tls != NULL)
        tls_server_log(d->tls, false);
    if (rc == 0)
        rc = delivery_tls_check(d->config, error, error_len);
    if (rc == 0)
        rc = auth_store_open(&d->auth_store, d->config, error, error_len);
    if (rc == 0)
        rc = open_cluster(d, error, error_len);
    if (rc == 0)
        rc = open_workers(d, error, error_len);
    if (rc == 0)
        rc = open_http(d, error, error_len);
    if (rc != 0)
        return rc;
    watch(d, &d->sigterm, SIGTERM, on_end); /* from here on there is something to hand over */
    watch(d, &d->sigint, SIGINT, on_end);
    for (unsigned i = 0; rc == 0 && i < d->n_workers; i++)
        rc = worker_start(d->workers[i]);
    if (rc == 0)
        rc = cluster_start(d->cluster);
    if (rc != 0)
        (void)snprintf(error, error_len, "threads cannot be started");
    return rc;
}

static void on_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* The core's thread. */
static void tell_drained(void *arg)
{
    struct daemon *d = arg;
    uv_async_send(&d->drained);
}

static void on_drained(uv_async_t *drained)
{
    struct daemon *d = drained->data;
    uv_stop(&d->loop);
}

/* Signals are heeded meanwhile. */
static void drain(struct daemon *d)
{
    (void)uv_async_init(&d->loop, &d->drained, on_drained);
    d->drained.data = d;
    cluster_drain_begin(d->cluster, d->config->node.shutdown_timeout_ms, tell_drained, d);
    uv_run(&d->loop, UV_RUN_DEFAULT);
}

static void stop(struct daemon *d)
{
    drain(d);
    for (unsigned i = 0; i < d->n_workers; i++)
        worker_stop(d->workers[i]);
    for (unsigned i = 0; i < d->n_workers; i++)
        worker_join(d->workers[i]);
    client_table_close(d->clients);
    auth_store_close(d->auth_store);
    if (d->http != NULL)
        http_close(d->http);
    cluster_close(d->cluster);
    block_signals(SIG_BLOCK, true); /* as nobody watches for them any more */
    uv_walk(&d->loop, on_handle, NULL);
    uv_run(&d->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&d->loop);
    log_event(LOG_INFO, "stopped", LOG_S("version", MAILRAFT_VERSION));
    tls_server_unref(d->tls);
    config_free(d->config);
}

static int run(const char *file)
{
    struct daemon d = {0};
    char error[ERROR_MAX] = "";

    begin_signals();
    if (config_load(&d.config, file, error, sizeof(error)) != 0) {
        (void)fprintf(stderr, "mailraftd: the configuration is wrong:\n%s\n", error);
        return 1;
    }
    log_configure(d.config->log.level, d.config->log.json, d.config->node.name);
    schedule_batches();
    raise_descriptors();
    uv_loop_init(&d.loop);
    watch_reload(&d);
    log_event(LOG_INFO, "starting", LOG_S("version", MAILRAFT_VERSION), LOG_S("config", file));
    if (start(&d, error, sizeof(error)) != 0) {
        (void)fprintf(stderr, "mailraftd: %s\n", error);
        /* Nothing was accepted yet; the kernel gives back what is open. */
        _exit(1);
    }
    uv_timer_init(&d.loop, &d.daily);
    d.daily.data = &d;
    uv_timer_start(&d.daily, on_day, DAY_MS, DAY_MS);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    stop(&d);
    return 0;
}

static int check(const char *file)
{
    struct config *config;
    struct tls_server *tls;
    char error[ERROR_MAX];
    if (load(file, &config, &tls, error, sizeof(error)) != 0) {
        (void)fprintf(stderr, "%s\n", error);
        return 1;
    }
    if (tls != NULL) {
        tls_server_warnings(tls, error, sizeof(error));
        (void)fputs(error, stderr);
        tls_server_unref(tls);
    }
    config_free(config);
    (void)printf("%s: ok\n", file);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"check-config", no_argument, NULL, 'k'},
                                            {"version", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    const char *file = NULL;
    bool check_only = false;
    int option;

    while ((option = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            file = optarg;
            break;
        case 'k':
            check_only = true;
            break;
        case 'v':
            (void)printf("mailraftd %s\n", MAILRAFT_VERSION);
            return 0;
        case 'h':
            return usage(stdout, 0);
        default:
            return usage(stderr, 2);
        }
    }
    if (file == NULL || optind != argc)
        return usage(stderr, 2);
    return check_only ? check(file) : run(file);
}
