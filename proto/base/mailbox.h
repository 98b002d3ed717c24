/* mailbox.h - how threads talk: a bounded queue into one uv loop.
 *
 * The poster embeds a struct mail in its own request; the owner of the mailbox runs mail->run on its loop, in the order
 * of posting. What run does with the mail's memory is between the two; after run was called the mailbox does not touch
 * it. M1: run is called exactly once for each mail whose post returned 0, also those still queued at close. Thread:
 * post from any; open and close on the loop's own. */
#ifndef MR_BASE_MAILBOX_H
#define MR_BASE_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>

struct mail {
    struct mail *next;
    void (*run)(struct mail *mail);
};

struct mailbox;

/* capacity: the most mails that may wait from mailbox_offer. */
int mailbox_open(struct mailbox **out, uv_loop_t *loop, size_t capacity);
/* What still waits runs; then the handle closes and cb comes. The mailbox is freed after it. No post may follow. */
void mailbox_close(struct mailbox *box, void (*cb)(void *arg), void *arg);
/* New work. MR_BUSY: capacity waits already, nothing was taken. */
int mailbox_offer(struct mailbox *box, struct mail *mail);
/* An answer to work that was taken before; its number is bounded by that work, so it is never refused. */
void mailbox_post(struct mailbox *box, struct mail *mail);

#define MR_CONTAINER(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
