/* test_core.h - whole clusters in one process: each node a struct cluster with one fake worker on a loop of its own. */
#ifndef MR_CLUSTER_TEST_CORE_H
#define MR_CLUSTER_TEST_CORE_H

#include "cluster/core.h"
#include "proto/base/error.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TEST_FUNCTION __attribute__((unused)) static

/* libraft writes its traces into static buffers, whether or not somebody reads them: harmless where a process has one
 * instance, and here too. And libuv closes descriptors unseen by ThreadSanitizer, so that one whose number is used
 * again seems to be shared. Taken by ThreadSanitizer, if it is there. */
const char *__tsan_default_suppressions(void); /* NOLINT(bugprone-reserved-identifier): its name */
const char *__tsan_default_suppressions(void)  /* NOLINT(bugprone-reserved-identifier,misc-definitions-in-headers) */
{
    return "called_from_lib:libraft.so\n"
           "race:real_list_dir\n";
}

enum { NODES = 3, MOST_MESSAGES = 4096, WAIT_MS = 60000, TEST_LEASE_MS = 1500, TEST_DOWN_MS = 2500 };

enum mode {
    DELIVER,
    HOLD,    /* until the lease ends or the drain begins */
    RELEASE, /* the first attempt */
    BOUNCE,  /* with a DSN that is too old to be taken */
    DEFER,
};

/* One message of a test; its index stands in the first bytes of its id. */
struct message {
    struct mr_id id;
    struct node *node;
    const char *next_hop;
    atomic_bool decided;
    atomic_int status, reason;
    void (*dress)(Mailraft__Enqueue *e); /* NULL, or what is to be said of it */
    atomic_uint delivered, attempts, notices;
};

struct held {
    struct held *next;
    struct attempt *a;
};

struct node {
    char name[16];
    char address[64];
    char dir[64];
    struct cluster *c; /* NULL: not open */
    struct cluster_port *port;
    struct world *w;
    /* The worker's thread. */
    uv_loop_t loop;
    uv_thread_t thread;
    struct mailbox *mailbox;
    uv_timer_t beat;
    struct held *held;
    struct cluster_rules *rules;
    bool stopping;
    /* The test's wishes. */
    atomic_int mode;
    atomic_bool beats;
    atomic_bool keeps; /* held attempts, also when the lease ends */
    atomic_bool loses; /* notices */
    atomic_uint n_held, lease_ends, drains, withdrawals;
};

struct world {
    struct node nodes[NODES];
    unsigned n_nodes;
    struct cluster_member members[NODES];
    Mailraft__Rules *rules;
    struct message messages[MOST_MESSAGES];
    atomic_uint n_messages;       /* the core's threads look messages up while more come */
    const struct mr_clock *clock; /* NULL: the real one */
    uint64_t max_state;           /* 0: as usual */
    unsigned election_ms;         /* 0: as usual */
    /* On the worker's thread; NULL: nobody looks. */
    void (*seen)(const struct attempt *a);
    void (*noticed)(const struct notice *n);
};

/* ---- waiting, asking ---- */

TEST_FUNCTION uint64_t test_now_ms(void)
{
    return mr_boot_ns(&mr_clock_real) / MR_NS_PER_MS;
}

#define WAIT_FOR(condition)                                                                                            \
    do {                                                                                                               \
        uint64_t until_ = test_now_ms() + WAIT_MS;                                                                     \
        while (!(condition)) {                                                                                         \
            if (test_now_ms() > until_)                                                                                \
                fail_msg("waited in vain for %s", #condition);                                                         \
            (void)usleep(5000);                                                                                        \
        }                                                                                                              \
    } while (0)

struct visit {
    struct mail mail;
    struct cluster *c;
    void (*look)(struct cluster *c, void *arg);
    void *arg;
    uv_sem_t done;
};

TEST_FUNCTION void run_visit(struct mail *mail)
{
    struct visit *v = MR_CONTAINER(mail, struct visit, mail);
    v->look(v->c, v->arg);
    uv_sem_post(&v->done);
}

/* Calls look on the core's thread and waits for it. */
TEST_FUNCTION void on_core(struct cluster *c, void (*look)(struct cluster *c, void *arg), void *arg)
{
    struct visit v = {.mail.run = run_visit, .c = c, .look = look, .arg = arg};
    uv_sem_init(&v.done, 0);
    mailbox_post(c->mailbox, &v.mail);
    uv_sem_wait(&v.done);
    uv_sem_destroy(&v.done);
}

struct answer {
    uv_sem_t there;
    int status;
    json_t *json;
};

TEST_FUNCTION void on_answer(void *arg, int status, json_t *json)
{
    struct answer *a = arg;
    a->status = status;
    a->json = json;
    uv_sem_post(&a->there);
}

/* Asks as HTTP does, and waits for the answer; NULL: there is none. */
TEST_FUNCTION json_t *ask_node(struct cluster *c, const struct cluster_query *q)
{
    struct answer a = {0};
    uv_sem_init(&a.there, 0);
    assert_int_equal(cluster_ask(c, q, on_answer, &a), 0);
    uv_sem_wait(&a.there);
    uv_sem_destroy(&a.there);
    assert_int_equal(a.status, a.json != NULL ? 0 : MR_NOTFOUND);
    return a.json;
}

TEST_FUNCTION bool node_ready(const struct node *n)
{
    return cluster_readiness(n->c) == CLUSTER_READY;
}

TEST_FUNCTION void look_leading(struct cluster *c, void *arg)
{
    *(bool *)arg = c->lead.leading && c->lead.first_index != 0;
}

TEST_FUNCTION struct node *leader_of(struct world *w)
{
    for (unsigned i = 0; i < w->n_nodes; i++) {
        bool leading = false;
        if (w->nodes[i].c != NULL)
            on_core(w->nodes[i].c, look_leading, &leading);
        if (leading)
            return &w->nodes[i];
    }
    return NULL;
}

TEST_FUNCTION void look_counts(struct cluster *c, void *arg)
{
    state_counts(c->state, arg);
}

TEST_FUNCTION struct state_counts counts_of(struct node *n)
{
    struct state_counts counts;
    on_core(n->c, look_counts, &counts);
    return counts;
}

/* ---- the fake worker ---- */

TEST_FUNCTION struct message *message_of(struct world *w, struct mr_id id)
{
    uint32_t index;
    memcpy(&index, id.bytes, sizeof(index));
    assert_true(index < w->n_messages);
    return &w->messages[index];
}

TEST_FUNCTION void end_attempt(struct node *n, struct attempt *a)
{
    cluster_slot_closed(n->port, a->next_hop, a->slot, 1);
    attempt_free(a);
}

TEST_FUNCTION Mailraft__Enqueue *old_dsn(const struct attempt *a)
{
    struct mr_id id = mr_id_random();
    uint8_t checksum[16] = {0};
    Mailraft__Enqueue *e = mr_malloc(sizeof(*e));
    mailraft__enqueue__init(e);
    e->id.data = mr_memdup(id.bytes, MR_ID_SIZE);
    e->id.len = MR_ID_SIZE;
    e->body = mr_malloc(sizeof(*e->body));
    mailraft__body__init(e->body);
    e->body->checksum.data = mr_memdup(checksum, sizeof(checksum));
    e->body->checksum.len = sizeof(checksum);
    e->body->stamp_ms = a->now_ms - STATE_GRACE_MS - 60000;
    e->n_recipients = 1;
    e->recipients = mr_calloc(1, sizeof(*e->recipients));
    e->recipients[0] = mr_malloc(sizeof(*e->recipients[0]));
    mailraft__recipient__init(e->recipients[0]);
    e->recipients[0]->address.data = mr_memdup("s@example.org", 13);
    e->recipients[0]->address.len = 13;
    e->n_next_hops = 1;
    e->next_hops = mr_calloc(1, sizeof(*e->next_hops));
    e->next_hops[0] = mr_strdup("smtp://127.0.0.1:26");
    return e;
}

TEST_FUNCTION void answer_attempt(struct node *n, struct attempt *a, Mailraft__Result result, bool dsn)
{
    struct message *m = message_of(n->w, a->id);
    Mailraft__Outcome *o = mr_malloc(sizeof(*o));
    if (result == MAILRAFT__RESULT__DELIVERED) {
        cluster_dot(n->port, a);
        atomic_fetch_add(&m->delivered, 1);
    }
    mailraft__outcome__init(o);
    o->n_results = a->n_recipients;
    o->results = mr_calloc(a->n_recipients, sizeof(*o->results));
    for (uint32_t i = 0; i < a->n_recipients; i++) {
        o->results[i] = mr_malloc(sizeof(*o->results[i]));
        mailraft__recipient_result__init(o->results[i]);
        o->results[i]->recipient = a->recipients[i].index;
        o->results[i]->result = result;
        o->results[i]->status = mr_strdup("2.0.0");
    }
    o->retry_for_ms = 3600 * 1000;
    if (dsn)
        o->dsn = old_dsn(a);
    cluster_outcome(n->port, a, o, NULL, NULL);
    end_attempt(n, a);
}

TEST_FUNCTION void release_held(struct node *n)
{
    while (n->held != NULL) {
        struct held *h = n->held;
        n->held = h->next;
        atomic_fetch_sub(&n->n_held, 1);
        cluster_release(n->port, h->a, "test");
        end_attempt(n, h->a);
        free(h);
    }
}

TEST_FUNCTION void on_attempt(void *arg, struct attempt *a)
{
    struct node *n = arg;
    assert_non_null(n->rules);
    if (n->w->seen != NULL)
        n->w->seen(a);
    atomic_fetch_add(&message_of(n->w, a->id)->attempts, 1);
    if (n->stopping || !cluster_may_send(n->port, a) || (atomic_load(&n->mode) == RELEASE && a->attempt == 1)) {
        cluster_release(n->port, a, "test");
        end_attempt(n, a);
        return;
    }
    switch ((enum mode)atomic_load(&n->mode)) {
    case HOLD: {
        struct held *h = mr_malloc(sizeof(*h));
        *h = (struct held){n->held, a};
        n->held = h;
        atomic_fetch_add(&n->n_held, 1);
        break;
    }
    case BOUNCE:
        answer_attempt(n, a, MAILRAFT__RESULT__FAILED, true);
        break;
    case DEFER:
        answer_attempt(n, a, MAILRAFT__RESULT__DEFERRED, false);
        break;
    default:
        answer_attempt(n, a, MAILRAFT__RESULT__DELIVERED, false);
    }
}

/* With a DSN that the state must refuse. */
TEST_FUNCTION void on_notice(void *arg, struct notice *notice)
{
    struct node *n = arg;
    struct attempt like = {.now_ms = notice->now_ms};
    if (n->w->noticed != NULL)
        n->w->noticed(notice);
    if (!atomic_load(&n->loses))
        cluster_notice_done(n->port, notice, old_dsn(&like), NULL, NULL);
    atomic_fetch_add(&message_of(n->w, notice->id)->notices, 1);
    notice_free(notice);
}

TEST_FUNCTION void on_rules(void *arg, struct cluster_rules *r)
{
    struct node *n = arg;
    cluster_rules_unref(n->rules);
    n->rules = r;
}

TEST_FUNCTION void on_lease_ended(void *arg)
{
    struct node *n = arg;
    atomic_fetch_add(&n->lease_ends, 1);
    if (atomic_load(&n->beats) && !atomic_load(&n->keeps)) /* a worker that hangs gives nothing back */
        release_held(n);
}

/* Ends those that are withdrawn. */
TEST_FUNCTION void on_withdrawn(void *arg)
{
    struct node *n = arg;
    for (struct held **link = &n->held, *h; (h = *link) != NULL;) {
        if (!cluster_withdrawn(h->a)) {
            link = &h->next;
            continue;
        }
        assert_false(cluster_may_send(n->port, h->a));
        atomic_fetch_add(&n->withdrawals, 1);
        if (atomic_load(&n->keeps)) {
            link = &h->next;
            continue;
        }
        *link = h->next;
        atomic_fetch_sub(&n->n_held, 1);
        cluster_release(n->port, h->a, "test");
        end_attempt(n, h->a);
        free(h);
    }
}

TEST_FUNCTION void on_drain(void *arg)
{
    struct node *n = arg;
    atomic_fetch_add(&n->drains, 1);
}

TEST_FUNCTION void on_beat(uv_timer_t *timer)
{
    struct node *n = timer->data;
    if (atomic_load(&n->beats))
        cluster_worker_beat(n->port);
}

/* ---- a message from a client ---- */

struct job {
    struct mail mail;
    struct message *m;
};

TEST_FUNCTION void on_submitted(void *arg, int status, enum apply_result reason)
{
    struct message *m = arg;
    if (status == MR_REFUSED)
        (void)fprintf(stderr, "refused: %s\n", apply_result_text(reason));
    atomic_store(&m->reason, (int)reason);
    atomic_store(&m->status, status);
    atomic_store(&m->decided, true);
}

TEST_FUNCTION Mailraft__Enqueue *make_enqueue(const struct message *m, Mailraft__Body *body)
{
    Mailraft__Enqueue *e = mr_malloc(sizeof(*e));
    mailraft__enqueue__init(e);
    e->id.data = mr_memdup(m->id.bytes, MR_ID_SIZE);
    e->id.len = MR_ID_SIZE;
    e->body = body;
    e->reverse_path.data = mr_memdup("s@example.org", 13);
    e->reverse_path.len = 13;
    e->n_recipients = 1;
    e->recipients = mr_calloc(1, sizeof(*e->recipients));
    e->recipients[0] = mr_malloc(sizeof(*e->recipients[0]));
    mailraft__recipient__init(e->recipients[0]);
    e->recipients[0]->address.data = mr_memdup("r@example.net", 13);
    e->recipients[0]->address.len = 13;
    e->n_next_hops = 1;
    e->next_hops = mr_calloc(1, sizeof(*e->next_hops));
    e->next_hops[0] = mr_strdup(m->next_hop);
    if (m->dress != NULL)
        m->dress(e);
    return e;
}

TEST_FUNCTION void run_job(struct mail *mail)
{
    static const char body[] = "Subject: test\r\n\r\nhello\r\n";
    struct job *j = MR_CONTAINER(mail, struct job, mail);
    struct message *m = j->m;
    XXH128_canonical_t checksum;
    free(j);
    XXH128_canonicalFromHash(&checksum, XXH3_128bits(body, sizeof(body) - 1));
    struct cluster_body *b = cluster_body_begin(m->node->port, m->id);
    cluster_body_submit(b, mr_memdup(body, sizeof(body) - 1), sizeof(body) - 1, sizeof(body) - 1, checksum.digest,
                        make_enqueue(m, NULL), on_submitted, m);
}

TEST_FUNCTION struct message *new_message(struct node *n, const char *next_hop)
{
    struct world *w = n->w;
    assert_true(w->n_messages < MOST_MESSAGES);
    uint32_t index = w->n_messages;
    struct message *m = &w->messages[index];
    m->id = mr_id_random();
    memcpy(m->id.bytes, &index, sizeof(index));
    m->node = n;
    m->next_hop = next_hop;
    w->n_messages++;
    return m;
}

TEST_FUNCTION struct message *submit_dressed(struct node *n, const char *next_hop, void (*dress)(Mailraft__Enqueue *e))
{
    struct message *m = new_message(n, next_hop);
    m->dress = dress;
    struct job *j = mr_malloc(sizeof(*j));
    j->m = m;
    j->mail.run = run_job;
    mailbox_post(n->mailbox, &j->mail);
    return m;
}

TEST_FUNCTION struct message *submit(struct node *n, const char *next_hop)
{
    return submit_dressed(n, next_hop, NULL);
}

TEST_FUNCTION bool all_delivered(struct world *w, unsigned from)
{
    for (unsigned i = from; i < w->n_messages; i++)
        if (atomic_load(&w->messages[i].delivered) == 0)
            return false;
    return true;
}

TEST_FUNCTION void assert_accepted(struct world *w, unsigned from)
{
    for (unsigned i = from; i < w->n_messages; i++) {
        WAIT_FOR(atomic_load(&w->messages[i].decided));
        assert_int_equal(atomic_load(&w->messages[i].status), 0);
    }
}

/* ---- life ---- */

TEST_FUNCTION void run_worker(void *arg)
{
    struct node *n = arg;
    uv_timer_start(&n->beat, on_beat, 0, 100);
    uv_run(&n->loop, UV_RUN_DEFAULT);
}

TEST_FUNCTION void node_open(struct node *n)
{
    struct world *w = n->w;
    char error[500];
    struct cluster_config config = {
        .name = n->name,
        .data_dir = n->dir,
        .listen = n->address,
        .initial = w->members,
        .n_initial = w->n_nodes,
        .insecure = true,
        .heartbeat_ms = 50,
        .election_timeout_ms = w->election_ms != 0 ? w->election_ms : 400,
        .lease_ms = TEST_LEASE_MS,
        .node_timeout_ms = TEST_DOWN_MS,
        .commit_timeout_ms = 30000,
        .rules = w->rules,
        .max_attempts = 1000,
        .max_state = w->max_state,
    };
    if (cluster_open(&n->c, &config, error, sizeof(error)) != 0)
        fail_msg("%s", error);
    if (w->clock != NULL)
        n->c->clock = w->clock;
    assert_int_equal(uv_loop_init(&n->loop), 0);
    assert_int_equal(mailbox_open(&n->mailbox, &n->loop, 65536), 0);
    uv_timer_init(&n->loop, &n->beat);
    n->beat.data = n;
    n->stopping = false;
    atomic_store(&n->beats, true);
    struct cluster_worker worker = {.arg = n,
                                    .mailbox = n->mailbox,
                                    .loop = &n->loop,
                                    .attempt = on_attempt,
                                    .notice = on_notice,
                                    .rules = on_rules,
                                    .lease_ended = on_lease_ended,
                                    .withdrawn = on_withdrawn,
                                    .drain = on_drain};
    n->port = cluster_attach(n->c, &worker);
    assert_int_equal(uv_thread_create(&n->thread, run_worker, n), 0);
    assert_int_equal(cluster_start(n->c), 0);
}

TEST_FUNCTION void on_mailbox_closed(void *arg)
{
    struct node *n = arg;
    uv_close((uv_handle_t *)&n->beat, NULL);
}

TEST_FUNCTION void on_detached(void *arg)
{
    struct node *n = arg;
    mailbox_close(n->mailbox, on_mailbox_closed, n);
}

struct stop {
    struct mail mail;
    struct node *n;
};

TEST_FUNCTION void run_stop(struct mail *mail)
{
    struct node *n = MR_CONTAINER(mail, struct stop, mail)->n;
    free(MR_CONTAINER(mail, struct stop, mail));
    n->stopping = true;
    release_held(n);
    cluster_detach(n->port, on_detached, n);
}

/* All but the core. */
TEST_FUNCTION void node_end_worker(struct node *n, unsigned drain_ms)
{
    cluster_drain(n->c, drain_ms);
    WAIT_FOR(atomic_load(&n->drains) > 0);
    struct stop *s = mr_malloc(sizeof(*s));
    s->n = n;
    s->mail.run = run_stop;
    mailbox_post(n->mailbox, &s->mail);
    uv_thread_join(&n->thread);
}

TEST_FUNCTION void node_end_core(struct node *n)
{
    cluster_close(n->c);
    cluster_rules_unref(n->rules);
    n->rules = NULL;
    n->c = NULL;
    assert_int_equal(uv_loop_close(&n->loop), 0);
}

TEST_FUNCTION void node_close(struct node *n, unsigned drain_ms)
{
    node_end_worker(n, drain_ms);
    node_end_core(n);
}

TEST_FUNCTION unsigned free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    (void)close(fd);
    return ntohs(a.sin_port);
}

TEST_FUNCTION Mailraft__Rules *make_rules(uint64_t expire_ms)
{
    Mailraft__Rules *r = mr_malloc(sizeof(*r));
    mailraft__rules__init(r);
    r->n_limits = 1;
    r->limits = mr_calloc(1, sizeof(*r->limits));
    r->limits[0] = mr_malloc(sizeof(*r->limits[0]));
    mailraft__limit__init(r->limits[0]);
    r->limits[0]->site = mr_strdup("default");
    r->limits[0]->connections = 20;
    r->limits[0]->messages_per_connection = 100;
    r->limits[0]->recipients_per_message = 100;
    r->retry_first_for_ms = r->retry_max_for_ms = 1000;
    r->retry_factor = 2;
    r->expire_after_for_ms = expire_ms;
    r->replicas = 3;
    return r;
}

/* Nodes with their folders and ports, none of them open. */
TEST_FUNCTION struct world *world_prepare(unsigned n, uint64_t expire_ms)
{
    struct world *w = mr_calloc(1, sizeof(*w));
    w->n_nodes = n;
    w->rules = make_rules(expire_ms);
    for (unsigned i = 0; i < n; i++) {
        struct node *node = &w->nodes[i];
        node->w = w;
        (void)snprintf(node->name, sizeof(node->name), "mx%u", i + 1);
        (void)snprintf(node->address, sizeof(node->address), "127.0.0.1:%u", free_port());
        (void)snprintf(node->dir, sizeof(node->dir), "/tmp/mailraft-core-XXXXXX");
        assert_non_null(mkdtemp(node->dir));
        w->members[i] = (struct cluster_member){node->name, node->address};
    }
    return w;
}

TEST_FUNCTION void world_start(struct world *w)
{
    for (unsigned i = 0; i < w->n_nodes; i++)
        node_open(&w->nodes[i]);
    for (unsigned i = 0; i < w->n_nodes; i++)
        WAIT_FOR(node_ready(&w->nodes[i]));
}

TEST_FUNCTION struct world *world_open_small(unsigned n, uint64_t expire_ms, const struct mr_clock *clock,
                                             uint64_t max_state)
{
    struct world *w = world_prepare(n, expire_ms);
    w->clock = clock;
    w->max_state = max_state;
    world_start(w);
    return w;
}

TEST_FUNCTION struct world *world_open(unsigned n, uint64_t expire_ms, const struct mr_clock *clock)
{
    return world_open_small(n, expire_ms, clock, 0);
}

TEST_FUNCTION int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

TEST_FUNCTION void world_close(struct world *w)
{
    for (unsigned i = 0; i < w->n_nodes; i++) {
        if (w->nodes[i].c != NULL)
            node_close(&w->nodes[i], 1000);
        (void)nftw(w->nodes[i].dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    mailraft__rules__free_unpacked(w->rules, NULL);
    free(w);
}

#endif
