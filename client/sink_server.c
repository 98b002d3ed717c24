/* Happy path: listen -> port told -> on_connection ... -> signal -> stop -> sessions closed -> loop ends -> counters
 * printed. Failure: what cannot be opened at the start ends the program with a word; later only the one session
 * suffers. */
#include "client/sink_server.h"

#include "client/options.h"
#include "client/report.h"
#include "client/sink_session.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

uint64_t sink_server_now_ms(void)
{
    return mr_boot_ns(&mr_clock_real) / MR_NS_PER_MS;
}

static void fill_report(struct sink_server *server, struct report *report)
{
    struct sink_stats *st = &server->stats;

    report_count(report, "connections_now", st->connections_now);
    report_count(report, "connections_max", st->connections_max);
    report_count(report, "connections", st->connections);
    report_count(report, "connections_refused", st->refused_connections);
    report_count(report, "messages", st->messages);
    report_count(report, "recipients", st->recipients);
    report_count(report, "bytes", st->bytes);
    report_count(report, "altered", st->altered);
    report_count(report, "dsn", st->dsn);
    report_count(report, "unkeyed", st->unkeyed);
    report_count(report, "faults", st->faults);
    report_count(report, "fault_seed", server->options->faults.seed);
    report_count(report, "rate_now", sink_stats_rate(st, sink_server_now_ms()));
    report_count(report, "rate_max", st->rate_max);
}

static void write_stats_file(struct sink_server *server)
{
    struct report report = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *memory = open_memstream(&text, &len);

    mr_assert(memory != NULL);
    fill_report(server, &report);
    (void)report_print(&report, REPORT_JSON, memory);
    (void)fclose(memory);
    if (options_replace_file(server->options->stats_file, text) != 0)
        (void)fprintf(stderr, "mailraft-sink: %s: %s\n", server->options->stats_file, strerror(errno));
    free(text);
    report_free(&report);
}

/* The counters as a line of the journal. */
static void write_connections_line(struct sink_server *server)
{
    struct report report = {0};

    if (server->journal == NULL)
        return;
    fill_report(server, &report);
    journal_line_begin(&server->line, "connections");
    for (size_t i = 0; i < report.count; i++)
        journal_number(&server->line, report.rows[i].name, (uint64_t)json_integer_value(report.rows[i].value));
    if (journal_write(server->journal, &server->line) != 0)
        (void)fprintf(stderr, "mailraft-sink: journal: %s\n", strerror(errno));
    report_free(&report);
}

static void on_second(uv_timer_t *timer)
{
    write_stats_file(timer->data);
}

static void on_usr1(uv_signal_t *handle, int number)
{
    struct sink_server *server = handle->data;
    struct report report = {0};

    (void)number;
    write_connections_line(server);
    fill_report(server, &report);
    (void)report_print(&report, REPORT_JSON, stderr);
    report_free(&report);
}

static void close_handle(void *handle)
{
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void stop(struct sink_server *server)
{
    if (server->stopping)
        return;
    server->stopping = true;
    close_handle(&server->listener);
    close_handle(&server->every_second);
    close_handle(&server->term);
    close_handle(&server->interrupt);
    close_handle(&server->usr1);
    while (server->sessions != NULL)
        sink_session_close(server->sessions);
}

static void on_stop_signal(uv_signal_t *handle, int number)
{
    (void)number;
    stop(handle->data);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct sink_server *server = listener->data;

    if (status != 0)
        (void)fprintf(stderr, "mailraft-sink: accept: %s\n", uv_strerror(status));
    else
        sink_session_accept(server);
}

static int resolve(struct sink_server *server, struct sockaddr_storage *out)
{
    const struct endpoint *ep = &server->options->listen;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    uv_getaddrinfo_t request;
    char port[8];

    if (endpoint_literal(ep, out) == 0)
        return 0;
    (void)snprintf(port, sizeof(port), "%u", ep->port);
    int rc = uv_getaddrinfo(&server->loop, &request, NULL, ep->host, port, &hints);
    if (rc != 0)
        return rc;
    memcpy(out, request.addrinfo->ai_addr, request.addrinfo->ai_addrlen);
    uv_freeaddrinfo(request.addrinfo);
    return 0;
}

static int open_listener(struct sink_server *server)
{
    struct sockaddr_storage address;
    int len = sizeof(address);
    int rc = resolve(server, &address);

    if (rc == 0)
        rc = uv_tcp_bind(&server->listener, (const struct sockaddr *)&address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&server->listener, 4096, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&server->listener, (struct sockaddr *)&address, &len);
    if (rc != 0) {
        (void)fprintf(stderr, "mailraft-sink: %s: %s\n", server->options->listen.text, uv_strerror(rc));
        return MR_IO;
    }
    server->port = ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                                      : ((struct sockaddr_in6 *)&address)->sin6_port);
    return 0;
}

/* Scripts wait for one of these before they send. */
static int tell_port(struct sink_server *server)
{
    const struct sink_options *o = server->options;
    char text[16];

    int n = snprintf(text, sizeof(text), "%u\n", server->port);
    if (o->port_file != NULL && options_replace_file(o->port_file, text) != 0) {
        (void)fprintf(stderr, "mailraft-sink: %s: %s\n", o->port_file, strerror(errno));
        return MR_IO;
    }
    if (o->ready_fd >= 0) {
        if (write(o->ready_fd, text, (size_t)n) != n) {
            (void)fprintf(stderr, "mailraft-sink: descriptor %d: %s\n", o->ready_fd, strerror(errno));
            return MR_IO;
        }
        (void)close(o->ready_fd);
    }
    if (o->journal == NULL || strcmp(o->journal, "-") != 0) {
        (void)printf("listening on port %u\n", server->port);
        (void)fflush(stdout);
    }
    return 0;
}

static void start_signal(struct sink_server *server, uv_signal_t *handle, uv_signal_cb cb, int number)
{
    mr_assert(uv_signal_start(handle, cb, number) == 0);
    handle->data = server;
}

static void init_handles(struct sink_server *server)
{
    mr_assert(uv_loop_init(&server->loop) == 0);
    mr_assert(uv_tcp_init(&server->loop, &server->listener) == 0);
    mr_assert(uv_timer_init(&server->loop, &server->every_second) == 0);
    mr_assert(uv_signal_init(&server->loop, &server->term) == 0);
    mr_assert(uv_signal_init(&server->loop, &server->interrupt) == 0);
    mr_assert(uv_signal_init(&server->loop, &server->usr1) == 0);
    server->listener.data = server;
    server->every_second.data = server;
    start_signal(server, &server->term, on_stop_signal, SIGTERM);
    start_signal(server, &server->interrupt, on_stop_signal, SIGINT);
    start_signal(server, &server->usr1, on_usr1, SIGUSR1);
}

/* A thousand connections need more descriptors than the usual soft limit. */
static void raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void finish(struct sink_server *server)
{
    struct report report = {0};
    FILE *out = server->options->journal != NULL && strcmp(server->options->journal, "-") == 0 ? stderr : stdout;

    if (server->options->stats_file != NULL)
        write_stats_file(server);
    write_connections_line(server);
    fill_report(server, &report);
    if (!server->options->quiet)
        (void)report_print(&report, report_form(server->options->json, out), out);
    report_free(&report);
}

int sink_server_run(struct sink_options *options)
{
    struct sink_server *server = mr_calloc(1, sizeof(*server));
    int rc = 0;

    server->options = options;
    (void)signal(SIGPIPE, SIG_IGN);
    raise_descriptors();
    init_handles(server);
    if (options->journal != NULL && journal_open(&server->journal, options->journal) != 0) {
        (void)fprintf(stderr, "mailraft-sink: %s: %s\n", options->journal, strerror(errno));
        rc = MR_IO;
    }
    if (rc == 0)
        rc = open_listener(server);
    if (rc == 0)
        rc = tell_port(server);
    if (rc == 0 && options->stats_file != NULL)
        mr_assert(uv_timer_start(&server->every_second, on_second, 0, 1000) == 0);
    if (rc != 0)
        stop(server);
    (void)uv_run(&server->loop, UV_RUN_DEFAULT);
    mr_assert(uv_loop_close(&server->loop) == 0);
    if (rc == 0)
        finish(server);
    if (server->journal != NULL)
        journal_close(server->journal);
    journal_line_free(&server->line);
    free(server);
    return rc;
}
