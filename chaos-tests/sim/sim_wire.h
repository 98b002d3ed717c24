/* sim_wire.h - TCP connections between simulated nodes: what the two kernels and the path between them do. Whole frames
 * take the place of bytes.
 *
 * W1: frames of one direction arrive in order, each once, whole or not at all; a connection that breaks loses a tail of
 *     those under way. (Raft's frames alone may be lost, doubled and late when sim_net_raft says so.)
 * W2: what arrived before an end broke can still be read there, then comes broken.
 * W3: the kernel takes WIRE's window of bytes that the other program has not read; the rest waits in the sender.
 * W4: an end that hears nothing gives up as TCP_USER_TIMEOUT and keep-alive say (link_conn.c: 3 s, probes each second);
 *     a program that ends is told to the other side (FIN or RST), one whose machine lost its power is not.
 * Thread: the one there is. Events come on the loop of the end, in its node; functions are called in a node (wire_*) or
 * in the world (wires_*). */
#ifndef MR_SIM_WIRE_H
#define MR_SIM_WIRE_H

#include "chaos-tests/sim/sim.h"

enum { WIRE_BACKLOG = 128 };

struct wire_end;
struct wire_frame {
    struct wire_frame *next;
    uint64_t arrives; /* UINT64_MAX: the path is cut */
    size_t size;      /* on the wire */
    uint32_t meta_len, tail_len;
    uint8_t type;
    uint8_t bytes[]; /* meta, tail */
};

struct wire_events {
    void (*connected)(void *arg,
                      const char *error); /* of a dialled end; NULL: it stands. With an error nothing follows */
    void (*frame)(void *arg, const struct wire_frame *f);
    void (*room)(void *arg);                       /* of what waited the kernel has taken some */
    void (*broken)(void *arg, const char *reason); /* the last event */
};

struct wire_frame *wire_frame_new(size_t meta_len, size_t tail_len);

struct wire_end *wire_dial(uv_loop_t *loop, unsigned to, const struct wire_events *events, void *arg);
/* incoming: call wire_accept. */
void wire_listen(uv_loop_t *loop, void (*incoming)(void *arg), void *arg);
void wire_unlisten(void);
/* NULL: it is gone already. */
struct wire_end *wire_accept(const struct wire_events *events, void *arg);
/* Takes the frame. */
void wire_send(struct wire_end *e, struct wire_frame *f);
/* Bytes that the kernel has not taken. */
size_t wire_queued(const struct wire_end *e);
/* No event follows. What the kernel has taken still goes out. */
void wire_close(struct wire_end *e);
unsigned wire_peer(const struct wire_end *e);

/* For sim_net.c. */
void wires_start(void);
/* sim_net_is_cut or sim_net_machine_is_up has another answer than before. */
void wires_path_changed(unsigned from, unsigned to);
void wires_machine_changed(unsigned node);
void wires_node_ended(unsigned node, enum sim_end how);
void wires_drop(unsigned a, unsigned b);
/* What is under way comes at the wire's pace of now. */
void wires_retime(void);

/* sim_net.c: the path. When a frame of this size that leaves now arrives; draws. */
uint64_t net_arrival(unsigned from, unsigned to, size_t size);
/* A false answer: nothing there takes or sends packets. */
bool net_machine_is_up(unsigned node);
void net_machine_started(unsigned node);
size_t net_window(void);
enum net_fate { NET_PASSES, NET_LOST, NET_DOUBLED, NET_LATE };
enum net_fate net_raft_fate(void);

#endif
