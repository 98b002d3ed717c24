/* sink_message.h - what the sink wants to know of a message: key, checksum, ids, and a bounce's report.
 *
 * Reads the message as a stream and keeps only what is named here. The checksum is XXH3-128 over the body, which is all
 * that stands behind the blank line after the header, as it came (with its line ends, without transparency dots).
 * Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_SINK_MESSAGE_H
#define MR_CLIENT_SINK_MESSAGE_H

#include "client/journal.h"
#include "proto/base/hash.h"
#include "proto/base/id.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MESSAGE_KEY_MAX = 128,
    MESSAGE_SUM_TEXT = 32,
    MESSAGE_HEADER_MAX = 4096, /* of one unfolded header; what is over it is not looked at */
    MESSAGE_REPORTS_MAX = 64,  /* recipients of one delivery report that are kept */
    MESSAGE_FIELD_MAX = 330,   /* of one field of a report */
};

struct sink_report {
    char recipient[MESSAGE_FIELD_MAX + 1]; /* Final-Recipient without its type (RFC 3464 section 2.3.2) */
    char action[32];
    char status[32];
};

struct sink_message {
    uint64_t bytes; /* header and body */
    uint64_t body_bytes;
    bool in_body;
    bool has_sum;
    bool dsn;                               /* multipart/report with delivery-status */
    char key[MESSAGE_KEY_MAX + 1];          /* X-Load-Key; empty: none */
    char claimed[MESSAGE_SUM_TEXT + 1];     /* X-Load-Sum, in lower case */
    char id[MR_ID_TEXT + 1];                /* of the topmost Received header that names one; empty: none */
    char original_key[MESSAGE_KEY_MAX + 1]; /* X-Load-Key inside a bounce */
    char original_id[MR_ID_TEXT + 1];
    char sum[MESSAGE_SUM_TEXT + 1]; /* set by sink_message_end */
    size_t report_count;
    struct sink_report *reports; /* MESSAGE_REPORTS_MAX, allocated with the first bounce */
    struct sink_report report;   /* of the group that is being read */
    XXH3_state_t *hash;
    size_t header_len;
    bool header_full;  /* the rest of this header is not looked at */
    bool line_start;   /* the next byte begins a line */
    bool fold_pending; /* a line has ended; whether the header goes on is seen at the next byte */
    char header[MESSAGE_HEADER_MAX];
};

/* In zeroed memory. */
void sink_message_init(struct sink_message *m);
void sink_message_free(struct sink_message *m);
void sink_message_reset(struct sink_message *m);
/* A sink_data_take. */
void sink_message_take(void *arg, const char *bytes, size_t len);
void sink_message_end(struct sink_message *m);
/* Does the body match X-Load-Sum? After sink_message_end, when has_sum. */
bool sink_message_intact(const struct sink_message *m);
/* Adds what was found to a line. */
void sink_message_describe(const struct sink_message *m, struct journal_line *line);

#endif
