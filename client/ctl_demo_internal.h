/* ctl_demo_internal.h - the demo's parts: what it set up (ctl_demo_setup.c), what it does with it (ctl_demo.c), what
 * goes on afterwards (ctl_demo_stay.c).
 *
 * D1: all files lie in one folder, all listeners on 127.0.0.1, all children end with this process.
 * D2: a port is held as long as the demo runs: no other demo takes it, also while a killed node is away.
 * Thread: main. */
#ifndef MR_CLIENT_CTL_DEMO_INTERNAL_H
#define MR_CLIENT_CTL_DEMO_INTERNAL_H

#include "client/ctl_child.h"
#include "client/ctl_demo_watch.h"
#include "client/ctl_http.h"
#include "client/ctl_options.h"
#include "client/report.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct demo_port {
    int fd, lock; /* hold it */
    unsigned number;
};

struct demo_node {
    char name[16];
    struct child process;
    struct demo_port smtp, peer, http;
    struct ctl_http *client;
    char *config, *log;
    struct tail tail;
};

struct demo {
    const struct ctl_demo_options *options;
    FILE *out;      /* what is told on the way */
    bool terminal;  /* out is one */
    bool line_open; /* a progress line waits for its end */
    bool json;
    bool keep; /* the folder stays */
    char *dir;
    char program_dir[PATH_MAX], daemon[PATH_MAX], load_program[PATH_MAX], sink_program[PATH_MAX], self[PATH_MAX];
    struct demo_node nodes[CTL_DEMO_NODES_MOST];
    unsigned n_nodes;
    struct child sink, load;
    struct demo_port sink_port;
    char *sent, *received; /* journals */
    uint64_t started_ns;
    uint64_t told_ns, told_accepted; /* of the last progress */
    struct tail sent_tail, received_tail;
    uint64_t accepted, delivered; /* as the journals say by now */
    /* the kill */
    struct demo_node *dead;
    double killed_at;        /* Unix seconds; 0: not yet */
    double taken_over_after; /* seconds; negative: not yet */
    struct moments others;   /* 250s of the nodes that live */
    struct {
        uint64_t accepted, delivered, lost, altered, invented, duplicated, resent, in_doubt;
        double accepting_after; /* seconds; negative: nothing was accepted after the kill */
    } result;
};

/* ctl_demo_setup.c: 0, or an error that was said on stderr. */
int demo_set_up(struct demo *d);
int demo_start_node(struct demo *d, struct demo_node *node);
int demo_start_sink(struct demo *d);
int demo_start_load(struct demo *d);
/* Ends all children, closes everything, and removes the folder unless it is kept. */
void demo_tear_down(struct demo *d);

/* ctl_demo_tell.c */
/* One line, with the seconds since the start. */
__attribute__((format(printf, 2, 3))) void demo_say(struct demo *d, const char *format, ...);
/* The same place again and again on a terminal; a line now and then in a pipe. */
void demo_progress(struct demo *d);
int demo_print_result(struct demo *d);

/* ctl_demo.c */
/* Reads what journals and logs say since the last time. */
void demo_look(struct demo *d);
/* SIGINT, SIGTERM or SIGHUP came. */
bool demo_interrupted(void);
void demo_moment(void);

/* ctl_demo_stay.c: keeps the cluster running until a signal comes; a node that dies is started again after a while. */
void demo_stay(struct demo *d);

#endif
