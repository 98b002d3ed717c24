/* load_verify.h - what became of each message: the load generator's journals against the sinks'.
 *
 * Judged for each pair of key and recipient:
 *   accepted    some attempt was answered 250
 *   explained   attempts that may have left a copy although the client had no 250: no reply after the dot, broken
 * within the message, 4xx at the dot; and copies that the sink recorded and then by order did not answer lost accepted,
 * and no delivery that was answered, no bounce, not in the list of what is still queued duplicated  deliveries over
 * accepted + explained (at least one) refused but delivered   delivered, while no attempt explains it For each
 * delivery: altered (its checksum does not match its body, or is not the one that was sent), invented (key or recipient
 * was never sent). V1: the order of lines and files does not matter. V2: a broken attempt before the message began
 * explains nothing. Thread: a struct belongs to one thread. */
#ifndef MR_CLIENT_LOAD_VERIFY_H
#define MR_CLIENT_LOAD_VERIFY_H

#include "client/journal.h"

#include <jansson.h>
#include <stdint.h>

enum { VERIFY_RUNS_MAX = 1024 };

struct verify; /* opaque */

struct verify_result {
    uint64_t messages;  /* keys with an attempt */
    uint64_t accepted;  /* pairs of key and recipient, as all that follow */
    uint64_t delivered; /* of the accepted */
    uint64_t bounced;
    uint64_t queued;
    uint64_t lost;
    uint64_t duplicated; /* copies */
    uint64_t explained;  /* second copies that the client's or the sink's own doing explains */
    uint64_t refused;    /* 5xx, never accepted */
    uint64_t refused_but_delivered;
    uint64_t indeterminate;           /* no 250, no 5xx, but an attempt that may have left a copy */
    uint64_t indeterminate_delivered; /* of these */
    uint64_t altered;                 /* deliveries */
    uint64_t invented;                /* deliveries */
    uint64_t unrecorded;              /* keys of a run that was killed: delivered without a line of theirs */
    uint64_t deliveries;
    uint64_t dsn;
    struct journal_counts sent_lines, received_lines;
};

enum verify_list {
    VERIFY_LOST,
    VERIFY_DUPLICATED,
    VERIFY_ALTERED,
    VERIFY_INVENTED,
    VERIFY_REFUSED_DELIVERED,
    VERIFY_LISTS
};

/* show: the most "KEY RECIPIENT" that each list holds. */
struct verify *verify_open(uint64_t show);
void verify_close(struct verify *v);
/* MR_IO with errno. Sent journals before received ones is not needed. */
int verify_add_sent(struct verify *v, const char *path);
int verify_add_received(struct verify *v, const char *path);
/* Lines "KEY" or "KEY RECIPIENT" of messages that are still queued. */
int verify_add_queued(struct verify *v, const char *path);
/* Once, after all was added. */
void verify_judge(struct verify *v, struct verify_result *out);
/* Array of strings, owned by v; after verify_judge. */
const json_t *verify_listed(const struct verify *v, enum verify_list list);

#endif
