/* link_env.h - what all connections of one mesh share on their loop: when output is flushed, and memory for it.
 *
 * E1: what was sent during one turn of the loop leaves in one write a connection, before the loop sleeps. A dirty
 *     connection is flushed by the check handle (sent from socket callbacks) or the prepare handle (from timers);
 *     while one waits, an idle handle keeps the loop from sleeping, whatever the order of others' prepare handles.
 * E2: callbacks to users come from the flush or from libuv only, never from inside their calls.
 * Thread: the loop's. */
#ifndef MR_CLUSTER_LINK_ENV_H
#define MR_CLUSTER_LINK_ENV_H

#include <openssl/bio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    LINK_CHUNK = 128 << 10,     /* bytes of output in one piece */
    LINK_SPARE_CHUNKS = 16,     /* kept for the next output */
    LINK_READ_BUFFER = 64 << 10 /* one for all TLS connections: libuv reads and delivers at once */
};

struct link_chunk {
    struct link_chunk *next;
    size_t begin, end; /* data[begin..end) is still to be written */
    uint8_t data[LINK_CHUNK];
};

/* Embedded in what wants a turn. */
struct link_turn {
    struct link_turn *next;
    bool queued;
    void (*run)(struct link_turn *turn);
};

struct link_env {
    uv_loop_t *loop;
    BIO_METHOD *bio_method; /* of TLS connections; the opener's */
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    struct link_turn *first, **end;
    struct link_chunk *spare;
    unsigned spares;
    unsigned handles; /* open ones, of those that share this */
    unsigned own;     /* open ones of prepare, check, idle */
    bool flushing, closing;
    void (*closed_cb)(void *arg);
    void *closed_arg;
    uint8_t read_buffer[LINK_READ_BUFFER];
};

void link_env_init(struct link_env *env, uv_loop_t *loop);
/* closed_cb comes, later, when the last handle has closed and the last turn has run; it may free the env. */
void link_env_close(struct link_env *env, void (*closed_cb)(void *arg), void *arg);
void link_env_handle_opened(struct link_env *env);
void link_env_handle_closed(struct link_env *env);

/* run comes once, before the loop sleeps again. */
void link_env_turn(struct link_env *env, struct link_turn *turn);
/* Takes it back; from close callbacks only (memory that waits for a turn is freed nowhere else). */
void link_env_forget(struct link_env *env, struct link_turn *turn);

struct link_chunk *link_env_chunk(struct link_env *env);
void link_env_chunk_free(struct link_env *env, struct link_chunk *chunk);

#endif
