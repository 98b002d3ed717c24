#include "proto/base/error.h"
#include "proto/base/mailbox.h"
#include "proto/base/memory.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { POSTERS = 2, MAILS = 20000, CAPACITY = 100 };

struct run {
    struct mailbox *box;
    pthread_t owner;
    int next[POSTERS]; /* the mail that is to come from each */
    int total, refused;
    bool closed;
};

struct note {
    struct mail mail;
    struct run *run;
    int poster, number;
};

static void take(struct mail *mail)
{
    struct note *n = MR_CONTAINER(mail, struct note, mail);
    struct run *r = n->run;
    assert_true(pthread_equal(pthread_self(), r->owner));
    assert_int_equal(n->number, r->next[n->poster]); /* in order, each once */
    r->next[n->poster]++;
    r->total++;
    free(n);
}

static struct note *note_of(struct run *r, int poster, int number)
{
    struct note *n = mr_calloc(1, sizeof(*n));
    n->mail.run = take;
    n->run = r;
    n->poster = poster;
    n->number = number;
    return n;
}

static void on_closed(void *arg)
{
    ((struct run *)arg)->closed = true;
}

static void close_box(struct run *r, uv_loop_t *loop)
{
    mailbox_close(r->box, on_closed, r);
    assert_false(r->closed);
    assert_int_equal(uv_run(loop, UV_RUN_DEFAULT), 0);
    assert_true(r->closed);
    assert_int_equal(uv_loop_close(loop), 0);
}

struct poster {
    struct run *run;
    int self;
    bool offers;
    int refused;
};

static void *post_all(void *arg)
{
    struct poster *p = arg;
    for (int i = 0; i < MAILS; i++) {
        struct note *n = note_of(p->run, p->self, i);
        if (!p->offers) {
            mailbox_post(p->run->box, &n->mail);
            continue;
        }
        while (mailbox_offer(p->run->box, &n->mail) == MR_BUSY) {
            p->refused++;
            (void)sched_yield();
        }
    }
    return NULL;
}

static void two_threads_post(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct run r = {.owner = pthread_self()};
    struct poster posters[POSTERS] = {{&r, 0, true, 0}, {&r, 1, false, 0}};
    pthread_t threads[POSTERS];
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(mailbox_open(&r.box, &loop, CAPACITY), 0);
    for (int i = 0; i < POSTERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
    while (r.total < POSTERS * MAILS)
        (void)uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i < POSTERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(r.next[i], MAILS);
    }
    close_box(&r, &loop);
    assert_int_equal(r.total, POSTERS * MAILS);
}

static void offers_are_bounded_and_posts_are_not(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct run r = {.owner = pthread_self()};
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(mailbox_open(&r.box, &loop, CAPACITY), 0);
    for (int i = 0; i < CAPACITY; i++)
        assert_int_equal(mailbox_offer(r.box, &note_of(&r, 0, i)->mail), 0);
    struct note *over = note_of(&r, 0, CAPACITY);
    assert_int_equal(mailbox_offer(r.box, &over->mail), MR_BUSY);
    mailbox_post(r.box, &over->mail);
    assert_int_equal(r.total, 0); /* never before the loop turns */
    while (r.total < CAPACITY + 1)
        (void)uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(mailbox_offer(r.box, &note_of(&r, 0, CAPACITY + 1)->mail), 0);
    close_box(&r, &loop); /* M1: what still waits runs */
    assert_int_equal(r.total, CAPACITY + 2);
}

struct chain {
    struct mail mail;
    struct mailbox *box;
    int left;
};

static void post_again(struct mail *mail)
{
    struct chain *c = MR_CONTAINER(mail, struct chain, mail);
    if (--c->left > 0)
        mailbox_post(c->box, &c->mail); /* its memory is its own again */
}

static void a_mail_may_post_itself(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct run r = {.owner = pthread_self()};
    struct chain c = {.mail.run = post_again, .left = 10};
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(mailbox_open(&r.box, &loop, 1), 0);
    c.box = r.box;
    mailbox_post(r.box, &c.mail);
    while (c.left > 5)
        (void)uv_run(&loop, UV_RUN_ONCE);
    close_box(&r, &loop); /* the rest of the chain too */
    assert_int_equal(c.left, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_threads_post),
        cmocka_unit_test(offers_are_bounded_and_posts_are_not),
        cmocka_unit_test(a_mail_may_post_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
