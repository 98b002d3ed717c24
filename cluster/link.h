/* link.h - connections between nodes: frames over mutually authenticated TLS 1.3 (or plain on loopback, `insecure`).
 *
 * Each node dials two connections to each peer, one a channel, and sends its own frames on them; what comes in on
 * connections that peers dialled is only read. So each direction fails by itself, and nobody must agree on who dials.
 *
 * K1: frames of one peer and channel arrive in order, none twice, possibly cut off at any point (then the connection
 *     ends).
 * K2: a peer that does not show a certificate of the cluster's CA whose name is the node name that it claims gets a
 *     closed connection and nothing else. Frames before an accepted Hello are refused.
 * K3: at most LINK_MAX_QUEUE bytes wait to be written to a peer's control channel (and LINK_MAX_BULK on bulk); more is
 *     refused.
 * K4: addresses are looked up at each dial; a dial fails after LINK_DIAL_MS and is tried again with back-off and jitter
 *     (50 ms to 1 s). When the look-up fails, the addresses of the last one are tried.
 * The process ignores SIGPIPE. Callbacks come from the loop, never from inside a call of this interface.
 * Thread: everything on the loop given to links_open. */
#ifndef MR_CLUSTER_LINK_H
#define MR_CLUSTER_LINK_H

#include "frame.pb-c.h"
#include "proto/frame.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum link_channel { LINK_CONTROL = 0, LINK_BULK = 1, LINK_CHANNELS = 2 };
enum {
    LINK_MAX_QUEUE = 4 << 20,
    LINK_MAX_BULK = 16 << 20,
    LINK_MAX_PEERS = 64,
    LINK_DIAL_MS = 2000,
    LINK_HELLO_MS = 5000, /* an inbound connection that has not said Hello by then is closed */
    LINK_MAX_INBOUND = 256,
    LINK_MAX_WAITERS = 2, /* for room on one channel to one peer: a transfer and the bodies */
};

struct links;

struct links_handler {
    void *arg;
    /* Fill in who we are (strings and bytes stay the handler's; valid until the next call). version, name, channel and
     * program are filled in by the links. */
    void (*hello)(void *arg, Mailraft__Hello *out);
    /* A peer's Hello (inbound) or HelloReply (ours was answered; converted to a Hello). NULL: welcome; else why not.
     * The text goes to the peer and into the log. */
    const char *(*check)(void *arg, const Mailraft__Hello *peer);
    /* Our connection of this channel to the peer is ready for links_send / is gone. */
    void (*up)(void *arg, uint32_t peer, enum link_channel channel);
    void (*down)(void *arg, uint32_t peer, enum link_channel channel, const char *reason);
    /* A peer refused our Hello: its words, valid during the call. Dialling goes on. May be NULL. */
    void (*refused)(void *arg, uint32_t peer, const char *reason);
    /* A frame; meta and tail are valid during the call only. A negative result closes the connection (malformed). */
    int (*frame)(void *arg, uint32_t peer, enum link_channel channel, enum frame_type type, const uint8_t *meta,
                 size_t meta_len, const uint8_t *tail, size_t tail_len);
};

struct links_config {
    uv_loop_t *loop;
    const char *listen; /* "host:port", "[::]:port"; port 0 is allowed for tests */
    const char *name;   /* own node name */
    bool insecure;      /* plain TCP; else the three files: PEM */
    const char *ca, *cert, *key;
    struct links_handler handler;
};

/* Binds and listens; MR_IO, MR_TLS, MR_CONFIG with a text in error. */
int links_open(struct links **out, const struct links_config *config, char *error, size_t error_len);
int links_port(const struct links *l);
/* Peers that are dialled and that may speak; by raft id. address "host:port". Again with another address: it changes.
 * MR_INVAL: id 0, the address is not host:port, or the name is empty or our own. MR_EXISTS: the name has another id, or
 * the id another name: remove it first. MR_LIMIT: LINK_MAX_PEERS. */
int links_add_peer(struct links *l, uint32_t peer, const char *name, const char *address);
/* No callback for this peer follows but that of links_when_drained. */
void links_remove_peer(struct links *l, uint32_t peer);
bool links_is_up(const struct links *l, uint32_t peer, enum link_channel channel);
/* Drops the connections of a peer that have become unwelcome (identity replaced). */
void links_drop(struct links *l, uint32_t peer);

struct link_buffer {
    const void *base;
    size_t len;
};
/* Sends one frame. meta is packed by the caller (may be NULL, 0). The bytes are copied (encrypted) before the return.
 * MR_UNREACHABLE: no connection; MR_BUSY: K3; MR_LIMIT: too large for a frame. */
int links_send(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type, const void *meta,
               size_t meta_len, const struct link_buffer *tail, unsigned n_tail);
/* Same, the meta given as an unpacked protobuf message. */
int links_send_message(struct links *l, uint32_t peer, enum link_channel channel, enum frame_type type,
                       const ProtobufCMessage *message, const struct link_buffer *tail, unsigned n_tail);
/* Bytes that wait to be written. */
size_t links_queued(const struct links *l, uint32_t peer, enum link_channel channel);
/* Calls cb once when less than `below` bytes wait on the channel, or when so little is left of what waits now, whatever
 * others sent since: so nobody waits for ever. Or at once on the next loop turn when it is down (status MR_UNREACHABLE;
 * MR_CLOSED by links_close). When the channel goes down it comes before `down`. Who waits longer comes first. MR_BUSY:
 * LINK_MAX_WAITERS wait for this peer and channel. MR_NOTFOUND: no such peer. */
int links_when_drained(struct links *l, uint32_t peer, enum link_channel channel, size_t below,
                       void (*cb)(void *arg, int status), void *arg);
/* New certificate and key from the same files (a reload); running connections stay. */
int links_reload(struct links *l, char *error, size_t error_len);
/* Ends all connections without further callbacks (but those of links_when_drained), then cb (may be NULL); the memory
 * is freed before cb. A name look-up that is under way is waited for. */
void links_close(struct links *l, void (*cb)(void *arg), void *arg);

#endif
