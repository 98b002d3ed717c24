/* A node that is killed between the reply to a dot and the commit of the outcome: what its next life makes of the
 * journal (PROTOCOL.md 5.6, 5.8, 7.2). The node that dies is a child process, whose core stands still from the moment
 * of the dot on: nothing that the worker says gets further than the journal. */
#include "cluster/test_core.h"

#include <sys/prctl.h>
#include <sys/wait.h>

static const char hop[] = "smtp://127.0.0.1:25";

/* What the worker said before the end. */
enum said {
    ONLY_DOT,
    REPLY,          /* while the DSN is on its way to a majority */
    OUTCOME_AND_DSN /* proposed, not committed */
};

static void two_recipients(Mailraft__Enqueue *e)
{
    e->recipients = mr_realloc(e->recipients, 2 * sizeof(*e->recipients));
    e->recipients[1] = mr_malloc(sizeof(*e->recipients[1]));
    mailraft__recipient__init(e->recipients[1]);
    e->recipients[1]->address.data = mr_memdup("nobody@example.net", 18);
    e->recipients[1]->address.len = 18;
    e->n_recipients = 2;
}

static void set_result(Mailraft__Outcome *o, uint32_t i, Mailraft__Result result, const char *status, const char *reply)
{
    o->results[i] = mr_malloc(sizeof(*o->results[i]));
    mailraft__recipient_result__init(o->results[i]);
    o->results[i]->recipient = i;
    o->results[i]->result = result;
    o->results[i]->status = mr_strdup(status);
    o->results[i]->reply.data = mr_memdup(reply, strlen(reply));
    o->results[i]->reply.len = strlen(reply);
}

static Mailraft__Outcome *taken_and_refused(void)
{
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    mailraft__outcome__init(o);
    o->n_results = 2;
    o->results = mr_calloc(2, sizeof(*o->results));
    set_result(o, 0, MAILRAFT__RESULT__DELIVERED, "2.0.0", "250 2.0.0 taken");
    set_result(o, 1, MAILRAFT__RESULT__FAILED, "5.1.1", "550 5.1.1 nobody");
    o->retry_for_ms = 3600 * 1000;
    return o;
}

/* ---- the child ---- */

struct last_words {
    struct mail mail;
    struct node *n;
    enum said said;
    int pipe;
};

static void stand_still(struct mail *mail)
{
    (void)mail;
    for (;;)
        (void)pause();
}

static void run_last_words(struct mail *mail)
{
    struct last_words *l = MR_CONTAINER(mail, struct last_words, mail);
    struct attempt *a = l->n->held->a;
    Mailraft__Outcome *o = taken_and_refused();
    cluster_dot(l->n->port, a);
    if (l->said == REPLY)
        cluster_reply(l->n->port, a, o);
    if (l->said == OUTCOME_AND_DSN) {
        o->dsn = old_dsn(a);
        cluster_outcome(l->n->port, a, o, NULL, NULL);
    }
    (void)!write(l->pipe, "x", 1);
}

static void child(struct world *w, enum said said, int pipe)
{
    struct node *n = &w->nodes[0];
    struct mail still = {.run = stand_still};
    struct last_words words = {.mail.run = run_last_words, .n = n, .said = said, .pipe = pipe};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* should the test itself be ended */
    atomic_store(&n->mode, HOLD);
    world_start(w);
    submit_dressed(n, hop, two_recipients);
    WAIT_FOR(atomic_load(&n->n_held) == 1);
    mailbox_post(n->c->mailbox, &still);
    mailbox_post(n->mailbox, &words.mail);
    for (;;)
        (void)pause();
}

/* ---- the next life ---- */

enum { MOST_TEXT = 200 };

static void look_recipients(struct cluster *c, void *arg)
{
    char *text = arg;
    size_t len = 0;
    const struct state_message *m = state_next_message(c->state, 0);
    for (uint32_t i = 0; m != NULL && i < 2; i++) {
        struct recipient_view v;
        state_recipient_view(m, i, &v);
        len += (size_t)snprintf(text + len, MOST_TEXT - len, "%s %s %s; ",
                                v.state == RECIPIENT_DELIVERED ? "delivered"
                                : v.state == RECIPIENT_QUEUED  ? "queued"
                                                               : "otherwise",
                                v.status, v.reply);
    }
}

/* The data directory after a kill -9, with its queue's only message. */
static struct world *killed_after(enum said said)
{
    int ends[2];
    char byte;
    struct world *w = world_prepare(1, 3600 * 1000);
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork(); /* beside this thread there is at most the pool, which libuv makes anew */
    assert_true(pid >= 0);
    if (pid == 0)
        child(w, said, ends[1]);
    (void)close(ends[1]);
    ssize_t n = read(ends[0], &byte, 1); /* 0: the child failed */
    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    (void)close(ends[0]);
    assert_int_equal(n, 1);
    (void)new_message(&w->nodes[0], hop); /* known by its number */
    atomic_store(&w->nodes[0].mode, HOLD);
    world_start(w);
    return w;
}

static void run_known(enum said said)
{
    struct world *w = killed_after(said);
    struct node *n = &w->nodes[0];
    char text[MOST_TEXT] = "";
    struct state_counts counts = counts_of(n);
    assert_int_equal(counts.in_doubt + counts.possibly_in_doubt, 0);
    assert_int_equal(counts.delivered, 1);
    assert_int_equal(counts.failed, 0); /* nobody was told of it: again, later, with the reason */
    assert_int_equal(counts.deferred, 1);
    assert_int_equal(counts.messages, 1); /* and no DSN */
    on_core(n->c, look_recipients, text);
    assert_string_equal(text, "delivered 2.0.0 250 2.0.0 taken; queued 5.1.1 550 5.1.1 nobody; ");
    assert_int_equal(atomic_load(&n->n_held), 0);
    world_close(w);
}

static void test_reply(void **state)
{
    (void)state;
    run_known(REPLY);
}

static void test_outcome_and_dsn(void **state)
{
    (void)state;
    run_known(OUTCOME_AND_DSN);
}

static void test_dot(void **state)
{
    (void)state;
    struct world *w = killed_after(ONLY_DOT);
    struct node *n = &w->nodes[0];
    WAIT_FOR(atomic_load(&n->n_held) == 1); /* delivered again */
    struct state_counts counts = counts_of(n);
    assert_int_equal(counts.in_doubt, 1);
    assert_int_equal(counts.delivered + counts.failed + counts.deferred, 0);
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reply),
        cmocka_unit_test(test_outcome_and_dsn),
        cmocka_unit_test(test_dot),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
