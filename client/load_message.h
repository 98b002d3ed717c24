/* load_message.h - the messages of a run: bodies from a seed, keys, checksums, and their form on the wire.
 *
 * B1: the body is a function of seed, number and size alone: a repeated attempt sends the same bytes.
 * B2: it has exactly the size asked for, lines of at most 77 characters ended by CRLF, some of which begin with a dot.
 * B3: a message is rendered in pieces; one whose body is over LOAD_PIECE is never whole in memory.
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_LOAD_MESSAGE_H
#define MR_CLIENT_LOAD_MESSAGE_H

#include "client/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LOAD_PIECE = 65536, /* of a body, before dots are doubled */
    LOAD_LINE_MAX = 77,
    LOAD_POOL = 65536,
    LOAD_HEAD_MAX = 2048,
    LOAD_KEY_SIZE = 96,
    LOAD_SUM_SIZE = 33,
};

/* Shared by all messages of a run. */
struct load_text {
    uint64_t seed;
    char scratch[LOAD_PIECE];
    char pool[LOAD_POOL + LOAD_LINE_MAX];
};

struct load_body {
    const struct load_text *text;
    struct rng rng;
    uint64_t left;
};

void load_text_init(struct load_text *text, uint64_t seed);
void load_body_start(struct load_body *body, const struct load_text *text, uint64_t number, uint64_t size);
/* Whole lines of the body up to cap (at least 256); 0 at its end. */
size_t load_body_fill(struct load_body *body, char *out, size_t cap);
/* Doubles the dots that begin a line; in begins a line. out has room for len / 3 more and one. Returns the length. */
size_t load_stuff(const char *in, size_t len, char *out);

/* What a message says of itself. */
struct load_envelope {
    const char *key;
    const char *sender;
    const char *recipient; /* the first */
    uint64_t wall_ms;
};

/* One message on its way to the wire. */
struct load_message {
    struct load_body body;
    char sum[LOAD_SUM_SIZE];
    uint64_t size;  /* of the body */
    uint64_t total; /* with header, before dots are doubled */
    bool last;      /* the piece holds the final dot */
    char *wire;     /* the piece to be written */
    size_t wire_len, wire_cap;
};

/* In zeroed memory or after another message: renders the first piece, with the header. */
void load_message_start(struct load_message *m, struct load_text *text, uint64_t number, uint64_t size,
                        const struct load_envelope *envelope);
/* Replaces the piece by the next; not after the last. */
void load_message_next(struct load_message *m, struct load_text *text);
void load_message_free(struct load_message *m);

#endif
