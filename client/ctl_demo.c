/* Happy path: set up -> nodes ready -> load -> half accepted: SIGKILL to the leader -> load done -> takeover seen ->
 * the dead node again -> queue empty -> verified -> table -> (without --once) the cluster goes on running.
 * Every wait has a limit; past it the demo says what it waited for, keeps the folder and fails. */
#include "client/ctl_demo.h"

#include "client/ctl_demo_internal.h"
#include "client/ctl_format.h"
#include "proto/base/clock.h"
#include "proto/base/error.h"
#include "proto/base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    MOMENT_MS = 5,
    ASK_EVERY_MS = 50,
    READY_S = 60,
    TAKEOVER_S = 60,
    EMPTY_S = 180,   /* without one delivery more */
    STALLED_S = 180, /* without one acceptance more */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

bool demo_interrupted(void)
{
    return interrupted != 0;
}

void demo_moment(void)
{
    const struct timespec moment = {0, MOMENT_MS * 1000000L};
    (void)nanosleep(&moment, NULL);
}

/* ---- what journals and logs say ---- */

static const char *text_of(const json_t *line, const char *name)
{
    const char *value = json_string_value(json_object_get(line, name));
    return value == NULL ? "" : value;
}

static void on_sent(void *arg, const json_t *line)
{
    struct demo *d = arg;
    char dead[32] = "";

    if (strcmp(text_of(line, "event"), "sent") != 0)
        return;
    d->accepted++;
    if (d->dead != NULL)
        (void)snprintf(dead, sizeof(dead), "127.0.0.1:%u", d->dead->smtp.number);
    if (strcmp(text_of(line, "target"), dead) != 0)
        moments_add(&d->others, json_number_value(json_object_get(line, "time")));
}

static void on_received(void *arg, const json_t *line)
{
    struct demo *d = arg;
    d->delivered += strcmp(text_of(line, "event"), "received") == 0;
}

static void on_log(void *arg, const json_t *line)
{
    struct demo *d = arg;
    double at = unix_seconds(text_of(line, "time"));

    if (d->dead != NULL && d->taken_over_after < 0 && strcmp(text_of(line, "event"), "takeover") == 0 &&
        strcmp(text_of(line, "from"), d->dead->name) == 0 && at >= d->killed_at)
        d->taken_over_after = at - d->killed_at;
}

void demo_look(struct demo *d)
{
    tail_read(&d->sent_tail, on_sent, d);
    tail_read(&d->received_tail, on_received, d);
    for (unsigned i = 0; i < d->n_nodes; i++)
        tail_read(&d->nodes[i].tail, on_log, d);
}

/* ---- asking ---- */

static json_t *status_of(struct demo_node *node)
{
    json_t *status = NULL;
    return child_running(&node->process) && ctl_http_json(node->client, "/v1/status", &status) == 0 ? status : NULL;
}

static bool ready(struct demo_node *node)
{
    json_t *status = status_of(node);
    bool is = strcmp(text_of(status, "readiness"), "ready") == 0;
    json_decref(status);
    return is;
}

static bool all_ready(struct demo *d)
{
    for (unsigned i = 0; i < d->n_nodes; i++) {
        if (!ready(&d->nodes[i]))
            return false;
    }
    return true;
}

/* The node that leads in its own eyes and in those of a majority; NULL: none at the moment. */
static struct demo_node *find_leader(struct demo *d)
{
    unsigned votes[CTL_DEMO_NODES_MOST] = {0};
    struct demo_node *leader = NULL;

    for (unsigned i = 0; i < d->n_nodes; i++) {
        json_t *status = status_of(&d->nodes[i]);
        for (unsigned k = 0; k < d->n_nodes; k++)
            votes[k] += strcmp(text_of(status, "leader"), d->nodes[k].name) == 0;
        json_decref(status);
    }
    for (unsigned k = 0; k < d->n_nodes; k++) {
        if (votes[k] * 2 > d->n_nodes)
            leader = &d->nodes[k];
    }
    return leader;
}

static bool queue_empty(struct demo *d)
{
    for (unsigned i = 0; i < d->n_nodes; i++) {
        json_t *status = status_of(&d->nodes[i]);
        const json_t *messages = json_object_get(json_object_get(status, "queue"), "messages");
        bool empty = json_is_integer(messages) && json_integer_value(messages) == 0;
        json_decref(status);
        if (!empty)
            return false;
    }
    return true;
}

/* ---- waiting ---- */

static bool takeover_seen(struct demo *d)
{
    return d->taken_over_after >= 0;
}

/* Why a node is not what was waited for. */
static void tell_nodes(struct demo *d)
{
    for (unsigned i = 0; i < d->n_nodes; i++) {
        char text[32];
        struct demo_node *n = &d->nodes[i];
        json_t *status = status_of(n);
        if (!child_running(&n->process))
            demo_say(d, "%s: ended (%s), see %s", n->name, child_text(&n->process, text), n->log);
        else if (status == NULL)
            demo_say(d, "%s: %s", n->name, ctl_http_error(n->client));
        else
            demo_say(d, "%s: %s", n->name, text_of(status, "readiness"));
        json_decref(status);
    }
}

/* A node that ends without being told to is a failure of its own. */
static bool nodes_live(struct demo *d)
{
    for (unsigned i = 0; i < d->n_nodes; i++) {
        if (!child_running(&d->nodes[i].process) && &d->nodes[i] != d->dead)
            return false;
    }
    return child_running(&d->sink);
}

/* Polls; the limit counts from the last delivery. */
static int wait_until(struct demo *d, bool (*condition)(struct demo *d), unsigned limit_s, const char *what)
{
    uint64_t asked = 0, since = mr_boot_ns(&mr_clock_real), delivered = d->delivered;

    for (;;) {
        uint64_t now = mr_boot_ns(&mr_clock_real);
        demo_look(d);
        if (now - asked >= ASK_EVERY_MS * MR_NS_PER_MS) {
            if (condition(d))
                return 0;
            asked = mr_boot_ns(&mr_clock_real);
        }
        if (d->accepted > 0)
            demo_progress(d);
        if (demo_interrupted())
            return MR_CANCELLED;
        if (delivered != d->delivered) {
            delivered = d->delivered;
            since = now;
        }
        if (now - since > limit_s * MR_NS_PER_S || !nodes_live(d)) {
            demo_say(d, "waited in vain: %s", what);
            tell_nodes(d);
            return MR_TIMEOUT;
        }
        demo_moment();
    }
}

/* ---- the run ---- */

static int start_all(struct demo *d)
{
    int rc = demo_start_sink(d);

    for (unsigned i = 0; rc == 0 && i < d->n_nodes; i++)
        rc = demo_start_node(d, &d->nodes[i]);
    if (rc == 0)
        rc = wait_until(d, all_ready, READY_S, "all nodes are ready");
    if (rc != 0)
        return rc;
    struct demo_node *leader = find_leader(d);
    demo_say(d, "all nodes are ready%s%s", leader == NULL ? "" : ", the leader is ",
             leader == NULL ? "" : leader->name);
    return 0;
}

static void kill_leader(struct demo *d)
{
    struct demo_node *leader = find_leader(d);
    struct timespec now;

    if (leader == NULL)
        return; /* another look in a moment */
    (void)clock_gettime(CLOCK_REALTIME, &now);
    d->killed_at = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    d->dead = leader;
    child_kill(&leader->process);
    demo_say(d, "kill -9 of the leader, %s, with %" PRIu64 " messages accepted", leader->name, d->accepted);
}

/* Until the load generator has ended; the leader dies when half is accepted. */
static int run_load(struct demo *d)
{
    uint64_t since = mr_boot_ns(&mr_clock_real), accepted = 0;

    while (child_running(&d->load)) {
        demo_look(d);
        if (d->dead == NULL && d->accepted * 2 >= d->options->messages)
            kill_leader(d);
        demo_progress(d);
        if (demo_interrupted())
            return MR_CANCELLED;
        if (d->accepted != accepted) {
            accepted = d->accepted;
            since = mr_boot_ns(&mr_clock_real);
        }
        if (mr_boot_ns(&mr_clock_real) - since > STALLED_S * MR_NS_PER_S || !nodes_live(d)) {
            demo_say(d, "no message is accepted any more");
            tell_nodes(d);
            return MR_TIMEOUT;
        }
        demo_moment();
    }
    demo_look(d);
    demo_say(d, "%" PRIu64 " of %" PRIu64 " messages accepted", d->accepted, d->options->messages);
    return 0;
}

static int finish_run(struct demo *d)
{
    int rc = 0;

    if (d->dead != NULL) {
        rc = wait_until(d, takeover_seen, TAKEOVER_S, "another node takes over the dead node's deliveries");
        if (rc != 0)
            return rc;
        demo_say(d, "its deliveries are taken over; %s is started again", d->dead->name);
        rc = demo_start_node(d, d->dead);
    }
    if (rc == 0)
        rc = wait_until(d, all_ready, READY_S, "all nodes are ready again");
    if (rc == 0)
        rc = wait_until(d, queue_empty, EMPTY_S, "the queue is empty");
    if (rc == 0)
        demo_say(d, "the queue is empty, %" PRIu64 " deliveries made", d->delivered);
    return rc;
}

/* ---- verification ---- */

static uint64_t count_of(const json_t *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(object, name));
}

static int verify(struct demo *d)
{
    struct child child;
    char *path = mr_asprintf("%s/verify.json", d->dir);
    const char *const argv[] = {d->load_program, "verify",    "--json",      "--sent", d->sent,
                                "--received",    d->received, "--show-lost", "20",     NULL};
    int rc = child_start(&child, argv, path);
    int status = rc == 0 ? child_wait(&child) : 127;
    json_t *counts = json_load_file(path, 0, NULL);

    if (status > 1 || counts == NULL) {
        (void)fprintf(stderr, "mailraftctl demo: mailraft-load verify failed, see %s\n", path);
        rc = MR_IO;
    }
    d->result.accepted = count_of(counts, "accepted");
    d->result.delivered = count_of(counts, "delivered");
    d->result.lost = count_of(counts, "lost");
    d->result.altered = count_of(counts, "altered");
    d->result.invented = count_of(counts, "invented");
    d->result.duplicated = count_of(counts, "duplicated");
    d->result.resent = count_of(counts, "explained");
    json_decref(counts);
    free(path);
    json_t *cluster = status_of(&d->nodes[0]);
    const json_t *totals = json_object_get(cluster, "totals");
    d->result.in_doubt = count_of(totals, "in_doubt") + count_of(totals, "possibly_in_doubt");
    json_decref(cluster);
    if (!silence_ended(&d->others, d->killed_at, &d->result.accepting_after) || d->dead == NULL)
        d->result.accepting_after = -1;
    return rc;
}

static int run(struct demo *d)
{
    int rc = demo_set_up(d);

    if (rc != 0)
        return rc;
    demo_say(d, "%u nodes, certificates of their own, in %s", d->n_nodes, d->dir);
    rc = start_all(d);
    if (rc == 0)
        rc = demo_start_load(d);
    if (rc == 0) {
        demo_say(d, "sending %" PRIu64 " messages to all nodes", d->options->messages);
        d->told_ns = mr_boot_ns(&mr_clock_real);
        rc = run_load(d);
    }
    if (rc == 0)
        rc = finish_run(d);
    if (rc == 0)
        rc = verify(d);
    if (rc == 0)
        rc = demo_print_result(d);
    if (!d->options->once && (rc == 0 || rc == MR_REFUSED) && !demo_interrupted())
        demo_stay(d);
    return rc;
}

int ctl_demo(const struct ctl_demo_options *options, bool json)
{
    struct demo *d = mr_calloc(1, sizeof(*d));
    const struct sigaction action = {.sa_handler = on_signal};
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        (void)sigaction(signals[i], &action, NULL);
    d->options = options;
    d->json = json;
    d->out = json ? stderr : stdout;
    d->terminal = isatty(fileno(d->out)) == 1;
    d->started_ns = d->told_ns = mr_boot_ns(&mr_clock_real);
    d->taken_over_after = -1;
    int rc = run(d);
    if (rc == MR_CANCELLED)
        demo_say(d, "interrupted");
    else if (rc != 0)
        d->keep = true;
    demo_tear_down(d);
    free(d);
    return rc == 0 ? CTL_DONE : CTL_REFUSED;
}
