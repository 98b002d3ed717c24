/* What HTTP asks of a node: the core's other work goes on meanwhile, and what is shown is all there is. */
#include "cluster/test_core.h"

static const char hop[] = "smtp://127.0.0.1:25";

enum { MESSAGES = 1000, RECIPIENTS = 10, MANY = 3000, PAGES = 8 };

static void add_recipients_to(Mailraft__Enqueue *e, size_t n)
{
    e->recipients = mr_realloc(e->recipients, n * sizeof(*e->recipients));
    for (; e->n_recipients < n; e->n_recipients++) {
        Mailraft__Recipient *r = mr_malloc(sizeof(*r));
        mailraft__recipient__init(r);
        char *address = mr_asprintf("r%zu@example.net", e->n_recipients);
        r->address.data = (uint8_t *)address;
        r->address.len = strlen(address);
        e->recipients[e->n_recipients] = r;
    }
}

static void with_some(Mailraft__Enqueue *e)
{
    add_recipients_to(e, RECIPIENTS);
}

static void with_many(Mailraft__Enqueue *e)
{
    add_recipients_to(e, MANY);
}

/* A queue in which everything stays. */
static struct world *open_full(unsigned messages)
{
    struct world *w = world_open(1, 3600 * 1000, NULL);
    atomic_store(&w->nodes[0].mode, HOLD);
    for (unsigned i = 0; i < messages; i++)
        submit_dressed(&w->nodes[0], hop, with_some);
    assert_accepted(w, 0);
    return w;
}

/* ---- beside the core's work ---- */

struct pages {
    atomic_uint answered, messages;
    int results[CORE_MAX_ASKS + PAGES];
    unsigned n;
};

static void on_page(void *arg, int status, json_t *answer)
{
    struct pages *p = arg;
    assert_int_equal(status, 0);
    atomic_fetch_add(&p->messages, (unsigned)json_array_size(json_object_get(answer, "messages")));
    json_decref(answer);
    atomic_fetch_add(&p->answered, 1);
}

/* On the core's thread, which so answers none of them meanwhile. */
static void ask_pages(struct cluster *c, void *arg)
{
    struct pages *p = arg;
    struct cluster_query q = {.question = CLUSTER_MESSAGES, .limit = MESSAGES};
    for (unsigned i = 0; i < p->n; i++)
        p->results[i] = cluster_ask(c, &q, on_page, p);
}

static void look_nothing(struct cluster *c, void *arg)
{
    (void)c;
    (void)arg;
}

/* The core does something else many times before it has made a few large pages. */
static void test_work_goes_on(void **state)
{
    (void)state;
    struct world *w = open_full(MESSAGES);
    struct pages p = {.n = PAGES};
    unsigned visits = 0;
    on_core(w->nodes[0].c, ask_pages, &p);
    while (atomic_load(&p.answered) < PAGES) {
        on_core(w->nodes[0].c, look_nothing, NULL);
        visits++;
    }
    assert_int_equal(atomic_load(&p.messages), PAGES * MESSAGES);
    assert_true(visits > 4 * PAGES);
    world_close(w);
}

/* Beyond the most that may wait nothing is taken, and there is room again when they are answered. */
static void test_too_many(void **state)
{
    (void)state;
    struct world *w = open_full(1);
    struct pages p = {.n = CORE_MAX_ASKS + PAGES};
    for (unsigned round = 1; round <= 2; round++) {
        on_core(w->nodes[0].c, ask_pages, &p);
        for (unsigned i = 0; i < p.n; i++)
            assert_int_equal(p.results[i], i < CORE_MAX_ASKS ? 0 : MR_BUSY);
        WAIT_FOR(atomic_load(&p.answered) == round * CORE_MAX_ASKS);
    }
    world_close(w);
}

static void on_any(void *arg, int status, json_t *answer)
{
    assert_true(status == 0 || status == MR_CLOSED);
    assert_true((status == 0) == (answer != NULL));
    json_decref(answer);
    atomic_fetch_add((atomic_uint *)arg, 1);
}

/* Who asks at the end has an answer too. */
static void test_closing(void **state)
{
    (void)state;
    struct world *w = open_full(100);
    struct node *n = &w->nodes[0];
    struct cluster_query q = {.question = CLUSTER_MESSAGES, .limit = MESSAGES};
    atomic_uint answered = 0;
    node_end_worker(n, 0);
    for (unsigned i = 0; i < CORE_MAX_ASKS; i++)
        assert_int_equal(cluster_ask(n->c, &q, on_any, &answered), 0);
    node_end_core(n);
    assert_int_equal(atomic_load(&answered), CORE_MAX_ASKS);
    world_close(w);
}

/* ---- all there is ---- */

static size_t count(json_t *answer, const char *list)
{
    return json_array_size(json_object_get(answer, list));
}

/* Pages hold what was asked for, however many steps they take, and lead through all of the queue. */
static void test_pages(void **state)
{
    (void)state;
    struct world *w = open_full(300);
    struct cluster_query q = {.question = CLUSTER_MESSAGES, .limit = 120};
    static const size_t sizes[] = {120, 120, 60};
    for (unsigned i = 0; i < 3; i++) {
        json_t *page = ask_node(w->nodes[0].c, &q);
        json_t *next = json_object_get(page, "next");
        assert_int_equal(count(page, "messages"), sizes[i]);
        json_t *first = json_array_get(json_object_get(page, "messages"), 0);
        assert_int_equal(json_integer_value(json_object_get(first, "recipient_count")), RECIPIENTS);
        assert_int_equal(count(first, "recipients"), RECIPIENTS);
        assert_true(i < 2 ? json_is_integer(next) : json_is_null(next));
        q.after = (uint64_t)json_integer_value(next);
        json_decref(page);
    }
    q = (struct cluster_query){.question = CLUSTER_MESSAGES, .recipient = "nobody"};
    json_t *none = ask_node(w->nodes[0].c, &q);
    assert_int_equal(count(none, "messages"), 0);
    assert_true(json_is_null(json_object_get(none, "next")));
    json_decref(none);
    world_close(w);
}

static void test_one_message(void **state)
{
    (void)state;
    struct world *w = open_full(1);
    struct message *m = submit_dressed(&w->nodes[0], hop, with_many);
    assert_accepted(w, 0);
    struct cluster_query q = {.question = CLUSTER_MESSAGE, .id = m->id};
    json_t *answer = ask_node(w->nodes[0].c, &q);
    json_t *recipients = json_object_get(answer, "recipients");
    assert_int_equal(json_array_size(recipients), MANY);
    for (unsigned i = 1; i < MANY; i++) { /* the first is that of all messages of these tests */
        char address[32];
        (void)snprintf(address, sizeof(address), "r%u@example.net", i);
        json_t *r = json_array_get(recipients, i);
        assert_string_equal(json_string_value(json_object_get(r, "address")), address);
    }
    json_decref(answer);
    q.id = mr_id_random();
    assert_null(ask_node(w->nodes[0].c, &q));
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_goes_on), cmocka_unit_test(test_too_many),    cmocka_unit_test(test_closing),
        cmocka_unit_test(test_pages),        cmocka_unit_test(test_one_message),
    };
    (void)signal(SIGPIPE, SIG_IGN);
    log_configure(getenv("TEST_LOG") != NULL ? LOG_INFO : LOG_ERROR, false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
