/* bodies_put_internal.h - what bodies_put.c and bodies_push.c share. */
#ifndef MR_CLUSTER_BODIES_PUT_INTERNAL_H
#define MR_CLUSTER_BODIES_PUT_INTERNAL_H

#include "cluster/bodies_internal.h"

struct piece {
    struct later later; /* in put->held, or owed to the owner */
    struct spool_put req;
    struct body_put *put;
    uint8_t *data;
    size_t len;
    void (*written)(void *arg, int status); /* NULL for the last */
    void *arg;
    int status;
};

enum push_mode { PUSH_FREE, PUSH_STREAM, PUSH_RESEND };

/* The body on its way to one peer. */
struct push {
    uint32_t peer;
    enum push_mode mode;
    bool late;    /* silent too long: does not count, an answer still does */
    bool reading; /* a piece is being read back */
    bool sent_last;
    uint32_t serial;   /* tells this use of the slot from an earlier one */
    uint32_t sent;     /* pieces */
    uint32_t answered; /* pieces */
    size_t unacked;    /* bytes, counted in the peer's too */
    uint64_t since_ns; /* of the oldest silence */
};

struct body_put {
    struct id_entry entry;
    struct blist link;       /* in put_list */
    struct blist short_link; /* in short_puts */
    struct later later;      /* for cb */
    struct bodies *b;
    uint64_t stamp_ms;
    uint64_t length;
    uint8_t checksum[16];
    uint32_t n_pieces;
    uint32_t *costs; /* of the pieces that are not the last; NULL while there are none */
    uint32_t costs_size;
    bool finished;   /* the last piece was given */
    bool local_done; /* durable here */
    bool ended;      /* cb is owed, was given, or will never be asked for */
    bool owed;       /* cb waits in `later` */
    bool aborted;
    int local_status; /* first refusal of the spool */
    int status;
    uint64_t acked, failed; /* bits of peers */
    uint64_t holders;
    body_put_cb cb;
    void *arg;
    size_t inflight;    /* requests that the spool has */
    size_t owed_pieces; /* `written` callbacks held or queued */
    struct blist held;  /* written here, but a majority is far behind */
    struct piece *only; /* a body of one piece: kept for sending again */
    uint32_t serial;
    struct push pushes[BODIES_TARGETS];
    struct piece first; /* saves an allocation for a body of one piece */
};

/* ---- bodies_put.c ---- */
/* Looks at what a put has come to; may free it. */
void put_evaluate(struct body_put *p);

/* ---- bodies_push.c ---- */
struct push *push_of(struct body_put *p, uint32_t peer); /* NULL: none */
/* The peer has answered for this many bytes. */
void push_credit(struct body_put *p, struct push *push, size_t bytes);
void push_end(struct body_put *p, struct push *push);
/* The peer no longer counts for this put, until the failures are forgotten. tell: BODY_ABORT goes to it. */
void push_fail(struct body_put *p, struct push *push, bool tell);
/* Sends one piece; a refusal of the link fails the push. */
void push_send(struct body_put *p, struct push *push, uint32_t number, bool last, const uint8_t *data, size_t len);
/* Goes on with sending again, as far as the window allows. */
void push_resend(struct body_put *p, struct push *push);
uint64_t push_active(const struct body_put *p); /* bits of peers that count on their way */
/* Takes voters on until `wanted` are durable or on their way, this node counted if it votes. */
void push_choose(struct body_put *p, unsigned wanted, enum push_mode mode);

#endif
