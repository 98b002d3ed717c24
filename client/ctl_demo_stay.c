/* After the table: addresses, what to try, and a cluster that goes on until ctrl-C. */
#include "client/ctl_demo_internal.h"

#include "proto/base/clock.h"

#include <signal.h>

enum { AGAIN_S = 10 }; /* long enough to watch a takeover */

static void print_addresses(const struct demo *d)
{
    (void)fprintf(d->out,
                  "\nThe cluster goes on running until ctrl-C. What it is given goes to the built-in next hop.\n");
    for (unsigned i = 0; i < d->n_nodes; i++) {
        const struct demo_node *n = &d->nodes[i];
        (void)fprintf(d->out, "  %s  http://127.0.0.1:%u/v1/status   SMTP 127.0.0.1:%u   pid %d\n", n->name,
                      n->http.number, n->smtp.number, (int)n->process.pid);
    }
}

static void print_hints(const struct demo *d)
{
    const struct demo_node *first = &d->nodes[0];
    char server[64] = "";

    if (first->http.number != 8025)
        (void)snprintf(server, sizeof(server), " --server http://127.0.0.1:%u", first->http.number);
    (void)fprintf(d->out,
                  "\nTry in another terminal:\n"
                  "  %s%s status\n"
                  "  swaks --server 127.0.0.1:%u --from you@example.org --to friend@example.net\n"
                  "  tail -n 1 %s\n"
                  "  kill -9 %d          (%s; it is started again after %d s)\n"
                  "  kill -STOP %d       (the next hop stands still and mail waits; kill -CONT lets it go on)\n"
                  "  %s%s queue\n"
                  "  %s%s list --limit 5\n",
                  d->self, server, first->smtp.number, d->received, (int)first->process.pid, first->name, AGAIN_S,
                  (int)d->sink.pid, d->self, server, d->self, server);
    (void)fprintf(d->out, "  %s/{mx1/mailraft.yaml,mx1/log.jsonl}   configuration and log of a node\n\n", d->dir);
    (void)fflush(d->out);
}

static void start_again(struct demo *d, struct demo_node *node, uint64_t *died_ns)
{
    uint64_t now = mr_boot_ns(&mr_clock_real);
    char text[32];

    if (*died_ns == 0) {
        demo_say(d, "%s has ended (%s); it is started again in %d s", node->name, child_text(&node->process, text),
                 AGAIN_S);
        *died_ns = now;
    } else if (now - *died_ns > AGAIN_S * MR_NS_PER_S) {
        *died_ns = 0;
        if (demo_start_node(d, node) == 0)
            demo_say(d, "%s is started again, pid %d", node->name, (int)node->process.pid);
    }
}

void demo_stay(struct demo *d)
{
    uint64_t died_ns[CTL_DEMO_NODES_MOST] = {0};

    print_addresses(d);
    print_hints(d);
    while (!demo_interrupted()) {
        for (unsigned i = 0; i < d->n_nodes; i++) {
            if (!child_running(&d->nodes[i].process))
                start_again(d, &d->nodes[i], &died_ns[i]);
        }
        if (!child_running(&d->sink) && demo_start_sink(d) == 0)
            demo_say(d, "the next hop had ended and is started again, pid %d", (int)d->sink.pid);
        demo_moment();
    }
    if (child_running(&d->sink))
        (void)kill(d->sink.pid, SIGCONT); /* it may be stopped, and then would not end */
    demo_say(d, "ending");
}
