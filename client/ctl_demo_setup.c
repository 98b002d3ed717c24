/* Happy path: programs found -> folder -> ports held -> certificates -> configurations; then each process as the demo
 * asks for it. What fails is said, and demo_tear_down takes away what was made. */
#include "client/ctl_demo_internal.h"

#include "client/pki.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    FIRST_SMTP = 2525, /* the ports that are tried first: easy to remember, and 8025 is what mailraftctl asks */
    FIRST_PEER = 7400,
    FIRST_HTTP = 8025,
    FIRST_SINK = 2625,
    PORT_LEAST = 20000, /* below those that Linux gives to outgoing connections */
    PORT_MOST = 32000,
    SESSIONS_PER_NODE = 8,
    NODE_END_MS = 15000,
    OTHER_END_MS = 5000,
};

static int complain(const char *what)
{
    (void)fprintf(stderr, "mailraftctl demo: %s: %s\n", what, strerror(errno));
    return MR_IO;
}

/* ---- programs, folder ---- */

static int find_program(const struct demo *d, const char *name, char path[PATH_MAX])
{
    static const char *const places[] = {"", "/../sbin"};

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        int n = snprintf(path, PATH_MAX, "%s%s/%s", d->program_dir, places[i], name);
        if (n > 0 && n < PATH_MAX && access(path, X_OK) == 0)
            return 0;
    }
    (void)fprintf(stderr, "mailraftctl demo: there is no %s in %s\n", name, d->program_dir);
    return MR_NOTFOUND;
}

static int find_programs(struct demo *d)
{
    ssize_t n = readlink("/proc/self/exe", d->self, sizeof(d->self) - 1);
    if (n < 0)
        return complain("/proc/self/exe");
    d->self[n] = '\0';
    memcpy(d->program_dir, d->self, (size_t)n + 1);
    *strrchr(d->program_dir, '/') = '\0'; /* the kernel's path is absolute */
    int rc = find_program(d, "mailraftd", d->daemon);
    if (rc == 0)
        rc = find_program(d, "mailraft-load", d->load_program);
    return rc == 0 ? find_program(d, "mailraft-sink", d->sink_program) : rc;
}

static int use_folder(struct demo *d, const char *path)
{
    unsigned entries = 0;

    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return complain(path);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return complain(path);
    while (readdir(dir) != NULL)
        entries++;
    (void)closedir(dir);
    if (entries > 2) { /* . and .. */
        errno = ENOTEMPTY;
        return complain(path);
    }
    d->dir = realpath(path, NULL);
    return d->dir == NULL ? complain(path) : 0;
}

static int make_folder(struct demo *d)
{
    const char *below = getenv("TMPDIR");
    char *path = mr_asprintf("%s/mailraft-demo-XXXXXX", below != NULL && below[0] != '\0' ? below : "/tmp");
    int rc = mkdtemp(path) == NULL ? complain(path) : 0;

    if (rc == 0) {
        d->dir = realpath(path, NULL);
        rc = d->dir == NULL ? complain(path) : 0;
    }
    free(path);
    return rc;
}

/* ---- ports ---- */

/* A name in the kernel that only one process has, for as long as it lives: demos keep out of each other's way by it. */
static int lock_port(unsigned number)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    int n = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, "mailraft-demo-%u", number);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, len) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* Our socket does not listen and allows addresses to be used again, so the listener of our child may bind beside it;
 * one that listens already does not. */
static int bind_port(unsigned number)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)number)};
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
                    bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static bool hold(struct demo_port *port, unsigned number)
{
    int lock = lock_port(number);
    int fd = lock < 0 ? -1 : bind_port(number);

    if (fd < 0) {
        if (lock >= 0)
            (void)close(lock);
        return false;
    }
    *port = (struct demo_port){.lock = lock, .fd = fd, .number = number};
    return true;
}

static int take_port(struct demo_port *port, unsigned preferred)
{
    uint32_t begin = 0;
    const unsigned range = PORT_MOST - PORT_LEAST;

    if (hold(port, preferred))
        return 0;
    if (getrandom(&begin, sizeof(begin), 0) != (ssize_t)sizeof(begin))
        return complain("random numbers");
    for (unsigned i = 0; i < range; i++) {
        if (hold(port, PORT_LEAST + (begin % range + i) % range))
            return 0;
    }
    return complain("no free port on 127.0.0.1");
}

static int take_ports(struct demo *d)
{
    int rc = take_port(&d->sink_port, FIRST_SINK);

    for (unsigned i = 0; rc == 0 && i < d->n_nodes; i++) {
        rc = take_port(&d->nodes[i].smtp, FIRST_SMTP + i);
        if (rc == 0)
            rc = take_port(&d->nodes[i].peer, FIRST_PEER + i);
        if (rc == 0)
            rc = take_port(&d->nodes[i].http, FIRST_HTTP + i);
    }
    return rc;
}

/* ---- certificates, configurations ---- */

static int make_certificates(const struct demo *d)
{
    static const char *const others[] = {"localhost", "127.0.0.1"};
    char error[512] = "";
    char *dir = mr_asprintf("%s/pki", d->dir);
    int rc = pki_init(dir, "mailraft demo", error, sizeof(error));

    for (unsigned i = 0; rc == 0 && i < d->n_nodes; i++)
        rc = pki_issue(dir, d->nodes[i].name, others, 2, PKI_NODE_DAYS, error, sizeof(error));
    if (rc != 0)
        (void)fprintf(stderr, "mailraftctl demo: %s\n", error);
    free(dir);
    return rc;
}

/* A path in double quotes, as YAML and JSON have it; new memory. NULL: it is not UTF-8. */
static char *quoted(const char *dir, const char *rest)
{
    char *path = mr_asprintf("%s/%s", dir, rest);
    json_t *value = json_string(path);
    char *text = value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY);

    json_decref(value);
    free(path);
    return text;
}

static void write_cluster(FILE *out, const struct demo *d, const struct demo_node *node)
{
    char *ca = quoted(d->dir, "pki/ca.pem");
    char *cert_name = mr_asprintf("pki/%s.pem", node->name);
    char *key_name = mr_asprintf("pki/%s.key", node->name);
    char *cert = quoted(d->dir, cert_name);
    char *key = quoted(d->dir, key_name);

    (void)fprintf(out, "cluster:\n  listen: 127.0.0.1:%u\n  initial:\n", node->peer.number);
    for (unsigned i = 0; i < d->n_nodes; i++)
        (void)fprintf(out, "    - %s=127.0.0.1:%u\n", d->nodes[i].name, d->nodes[i].peer.number);
    (void)fprintf(out, "  tls:\n    ca: %s\n    cert: %s\n    key: %s\n", ca, cert, key);
    free(ca);
    free(cert_name);
    free(key_name);
    free(cert);
    free(key);
}

static int write_config(const struct demo *d, struct demo_node *node)
{
    char *data_name = mr_asprintf("%s/data", node->name);
    char *data = quoted(d->dir, data_name);

    free(data_name);
    if (data == NULL) {
        (void)fprintf(stderr, "mailraftctl demo: the folder's name is not UTF-8\n");
        return MR_INVAL;
    }
    FILE *out = fopen(node->config, "we");
    if (out == NULL) {
        free(data);
        return complain(node->config);
    }
    (void)fprintf(out, "node:\n  name: %s\n  data_dir: %s\n  workers: 2\n", node->name, data);
    write_cluster(out, d, node);
    (void)fprintf(out,
                  "smtp:\n  hostname: %s.demo.invalid\n  listeners:\n    - listen: 127.0.0.1:%u\n"
                  "  relay_from: [127.0.0.0/8]\n"
                  "routes:\n  default: smtp://127.0.0.1:%u\n"
                  "delivery:\n  retry: {first: 1s, factor: 2, max: 5s}\n"
                  "http:\n  listen: 127.0.0.1:%u\n"
                  "log:\n  level: info\n  format: json\n",
                  node->name, node->smtp.number, d->sink_port.number, node->http.number);
    free(data);
    bool failed = ferror(out) != 0;
    return fclose(out) != 0 || failed ? complain(node->config) : 0;
}

static int set_up_node(struct demo *d, struct demo_node *node)
{
    char *dir = mr_asprintf("%s/%s", d->dir, node->name);
    char *url = mr_asprintf("http://127.0.0.1:%u", node->http.number);
    int rc = mkdir(dir, 0700) == 0 ? 0 : complain(dir);

    node->config = mr_asprintf("%s/mailraft.yaml", dir);
    node->log = mr_asprintf("%s/log.jsonl", dir);
    node->tail.path = node->log;
    if (rc == 0)
        rc = write_config(d, node);
    if (rc == 0)
        rc = ctl_http_open(&node->client, url, NULL);
    if (rc == 0)
        ctl_http_limit(node->client, 2000);
    free(dir);
    free(url);
    return rc;
}

int demo_set_up(struct demo *d)
{
    d->n_nodes = (unsigned)d->options->nodes;
    d->keep = d->options->keep || d->options->dir != NULL;
    for (unsigned i = 0; i < d->n_nodes; i++)
        (void)snprintf(d->nodes[i].name, sizeof(d->nodes[i].name), "mx%u", i + 1);
    int rc = find_programs(d);
    if (rc == 0)
        rc = d->options->dir != NULL ? use_folder(d, d->options->dir) : make_folder(d);
    if (rc == 0)
        rc = take_ports(d);
    if (rc == 0)
        rc = make_certificates(d);
    if (rc != 0)
        return rc;
    d->sent = mr_asprintf("%s/sent.jsonl", d->dir);
    d->received = mr_asprintf("%s/received.jsonl", d->dir);
    d->sent_tail.path = d->sent;
    d->received_tail.path = d->received;
    for (unsigned i = 0; rc == 0 && i < d->n_nodes; i++)
        rc = set_up_node(d, &d->nodes[i]);
    return rc;
}

/* ---- processes ---- */

static int start(struct child *child, const char *const *argv, const char *output)
{
    return child_start(child, argv, output) == 0 ? 0 : complain(argv[0]);
}

int demo_start_node(struct demo *d, struct demo_node *node)
{
    const char *const argv[] = {d->daemon, "--config", node->config, NULL};
    return start(&node->process, argv, node->log);
}

int demo_start_sink(struct demo *d)
{
    char listen[32];
    char *log = mr_asprintf("%s/sink.log", d->dir);
    /* Slow enough that deliveries are under way when the leader dies. */
    const char *const argv[] = {d->sink_program, "--listen",        listen,    "--journal", d->received,
                                "--fault",       "stall@data=0.05", "--quiet", NULL};

    (void)snprintf(listen, sizeof(listen), "127.0.0.1:%u", d->sink_port.number);
    int rc = start(&d->sink, argv, log);
    free(log);
    return rc;
}

int demo_start_load(struct demo *d)
{
    char to[CTL_DEMO_NODES_MOST * 24] = "";
    char messages[24], rate[24], sessions[8];
    uint64_t per_second = d->options->messages / 4; /* four seconds, and the outage in their middle */
    size_t len = 0;
    char *log = mr_asprintf("%s/load.log", d->dir);
    const char *const argv[] = {d->load_program, "--to",    to,       "--messages", messages, "--sessions",
                                sessions,        "--rate",  rate,     "--journal",  d->sent,  "--give-up",
                                "120",           "--quiet", "--json", NULL};

    for (unsigned i = 0; i < d->n_nodes; i++)
        len +=
            (size_t)snprintf(to + len, sizeof(to) - len, "%s127.0.0.1:%u", i == 0 ? "" : ",", d->nodes[i].smtp.number);
    (void)snprintf(messages, sizeof(messages), "%" PRIu64, d->options->messages);
    (void)snprintf(sessions, sizeof(sessions), "%u", SESSIONS_PER_NODE * d->n_nodes);
    (void)snprintf(rate, sizeof(rate), "%" PRIu64, per_second < 20 ? 20 : per_second > 250 ? 250 : per_second);
    int rc = start(&d->load, argv, log);
    free(log);
    return rc;
}

/* ---- end ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *position)
{
    (void)st;
    (void)kind;
    (void)position;
    return remove(path);
}

static void close_port(struct demo_port *port)
{
    if (port->number == 0)
        return;
    (void)close(port->fd);
    (void)close(port->lock);
}

void demo_tear_down(struct demo *d)
{
    struct child *nodes[CTL_DEMO_NODES_MOST];
    struct child *others[] = {&d->load, &d->sink};

    for (unsigned i = 0; i < d->n_nodes; i++)
        nodes[i] = &d->nodes[i].process;
    child_kill(&d->load);
    child_end(nodes, d->n_nodes, NODE_END_MS);
    child_end(others, 2, OTHER_END_MS);
    for (unsigned i = 0; i < d->n_nodes; i++) {
        struct demo_node *n = &d->nodes[i];
        ctl_http_close(n->client);
        tail_close(&n->tail);
        close_port(&n->smtp);
        close_port(&n->peer);
        close_port(&n->http);
        free(n->config);
        free(n->log);
    }
    close_port(&d->sink_port);
    tail_close(&d->sent_tail);
    tail_close(&d->received_tail);
    moments_free(&d->others);
    if (d->dir != NULL && !d->keep && nftw(d->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0)
        (void)complain(d->dir);
    else if (d->dir != NULL && d->keep)
        (void)fprintf(stderr, "logs, journals and data are kept in %s\n", d->dir);
    free(d->dir);
    free(d->sent);
    free(d->received);
}
