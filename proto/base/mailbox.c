/* Happy path: post -> (queue, uv_async) -> drain on the loop -> run.
 * The wake-up is sent only when the queue was empty: under load one wake-up serves many mails.
 * Close: drains, then closes the handle; a post afterwards is a bug of the poster. */
#include "proto/base/mailbox.h"

#include "proto/base/error.h"
#include "proto/base/memory.h"
#include "proto/base/panic.h"

#include <pthread.h>
#include <stdlib.h>

struct mailbox {
    uv_async_t async;
    pthread_mutex_t mutex;
    struct mail *head;
    struct mail **tail;
    size_t waiting;
    size_t capacity;
    bool closing;
    void (*close_cb)(void *arg);
    void *close_arg;
};

static void drain(struct mailbox *box)
{
    pthread_mutex_lock(&box->mutex);
    struct mail *mail = box->head;
    box->head = NULL;
    box->tail = &box->head;
    box->waiting = 0;
    pthread_mutex_unlock(&box->mutex);
    while (mail != NULL) {
        struct mail *next = mail->next;
        mail->run(mail); /* may free mail */
        mail = next;
    }
}

static void on_async(uv_async_t *async)
{
    drain(async->data);
}

int mailbox_open(struct mailbox **out, uv_loop_t *loop, size_t capacity)
{
    struct mailbox *box = mr_calloc(1, sizeof(*box));
    if (uv_async_init(loop, &box->async, on_async) != 0) {
        free(box);
        return MR_IO;
    }
    box->async.data = box;
    box->tail = &box->head;
    box->capacity = capacity;
    pthread_mutex_init(&box->mutex, NULL);
    *out = box;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct mailbox *box = handle->data;
    void (*cb)(void *) = box->close_cb;
    void *arg = box->close_arg;
    pthread_mutex_destroy(&box->mutex);
    free(box);
    if (cb != NULL)
        cb(arg);
}

void mailbox_close(struct mailbox *box, void (*cb)(void *arg), void *arg)
{
    mr_assert(!box->closing);
    while (box->head != NULL)
        drain(box);
    box->closing = true;
    box->close_cb = cb;
    box->close_arg = arg;
    uv_close((uv_handle_t *)&box->async, on_closed);
}

static int add(struct mailbox *box, struct mail *mail, bool bounded)
{
    mail->next = NULL;
    pthread_mutex_lock(&box->mutex);
    mr_assert(!box->closing);
    if (bounded && box->waiting >= box->capacity) {
        pthread_mutex_unlock(&box->mutex);
        return MR_BUSY;
    }
    bool wake = box->head == NULL;
    *box->tail = mail;
    box->tail = &mail->next;
    box->waiting++;
    if (wake)
        uv_async_send(&box->async);
    pthread_mutex_unlock(&box->mutex);
    return 0;
}

int mailbox_offer(struct mailbox *box, struct mail *mail)
{
    return add(box, mail, true);
}

void mailbox_post(struct mailbox *box, struct mail *mail)
{
    (void)add(box, mail, false);
}
