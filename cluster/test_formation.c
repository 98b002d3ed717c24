/* First formation as a simulation: three nodes with real directories, messages in queues, every crash point in turn,
 * then thousands of random schedules with crashes and wiped disks. */
#include "cluster/identity.h"
#include "proto/base/error.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { NODES = 3, QUEUE = 64, MAX_FORMED = 200 };
enum kind { HELLO, REQUEST, REPLY };

struct message {
    enum kind kind;
    uint8_t *bytes;
    size_t len;
};

struct queue {
    struct message items[QUEUE];
    unsigned first, n;
    bool welcome; /* the receiver has accepted the sender's Hello */
};

struct sim;
struct node {
    struct sim *sim;
    unsigned index;
    char name[8], dir[100];
    const char *list; /* its `initial`, a digit a node */
    struct identity *id;
    struct formation *f;
    unsigned formed_calls;
    bool mute; /* dies in this step: what it sends is lost */
    char refused[600];
};

struct sim {
    char dir[64];
    struct node nodes[NODES];
    struct queue queues[NODES][NODES]; /* from, to */
    uint32_t seed;
    unsigned wipes;
    /* Every (cluster, directory) that ever was formed. */
    struct {
        struct mr_id cluster, directory;
    } formed[MAX_FORMED];
    unsigned n_formed;
};

static unsigned chance(struct sim *s, unsigned below)
{
    s->seed = s->seed * 1664525U + 1013904223U;
    return (s->seed >> 10) % below;
}

/* ---- messages ---- */

static void push(struct sim *s, unsigned from, unsigned to, enum kind kind, const ProtobufCMessage *m)
{
    struct queue *q = &s->queues[from][to];
    if (q->n == QUEUE)
        return; /* lost */
    struct message *item = &q->items[(q->first + q->n++) % QUEUE];
    item->kind = kind;
    item->len = protobuf_c_message_get_packed_size(m);
    item->bytes = mr_malloc(item->len);
    (void)protobuf_c_message_pack(m, item->bytes);
}

static void clear_queue(struct queue *q)
{
    while (q->n > 0) {
        free(q->items[q->first].bytes);
        q->first = (q->first + 1) % QUEUE;
        q->n--;
    }
    q->welcome = false;
}

static void on_send(void *arg, uint32_t peer, bool request, const ProtobufCMessage *message)
{
    struct node *n = arg;
    struct sim *s = n->sim;
    for (unsigned to = 0; to < NODES; to++)
        if (to != n->index && formation_node(n->f, s->nodes[to].name) == peer && !n->mute &&
            s->queues[n->index][to].welcome)
            push(s, n->index, to, request ? REQUEST : REPLY, message);
}

static void on_formed(void *arg)
{
    struct node *n = arg;
    n->formed_calls++;
    assert_int_equal(n->formed_calls, 1);
    assert_true(identity_formed(n->id));
}

static void on_refused(void *arg, const char *reason)
{
    struct node *n = arg;
    (void)snprintf(n->refused, sizeof(n->refused), "%s", reason);
}

/* ---- nodes ---- */

static void start(struct sim *s, unsigned i)
{
    struct node *n = &s->nodes[i];
    struct formation_peer peers[NODES];
    char names[NODES][8], error[600];
    unsigned count = 0;
    for (const char *c = n->list; *c != 0; c++, count++) {
        (void)snprintf(names[count], sizeof(names[count]), "mx%c", *c);
        peers[count] = (struct formation_peer){.name = names[count], .address = "127.0.0.1:7400"};
    }
    struct formation_handler handler = {.arg = n, .send = on_send, .formed = on_formed, .refused = on_refused};
    n->formed_calls = 0;
    n->mute = false;
    n->refused[0] = 0;
    if (identity_open(&n->id, n->dir, n->name, error, sizeof(error)) != 0 ||
        formation_open(&n->f, n->id, n->name, peers, count, &handler, error, sizeof(error)) != 0)
        fail_msg("%s: %s", n->name, error);
    formation_start(n->f);
    for (unsigned k = 0; k < NODES; k++) { /* the others connect again, and it to them */
        struct node *other = &s->nodes[k];
        Mailraft__Hello hello = MAILRAFT__HELLO__INIT;
        if (k == i || other->f == NULL)
            continue;
        identity_hello(n->id, &hello);
        push(s, i, k, HELLO, &hello.base);
        mailraft__hello__init(&hello);
        identity_hello(other->id, &hello);
        push(s, k, i, HELLO, &hello.base);
    }
}

static void stop(struct sim *s, unsigned i)
{
    struct node *n = &s->nodes[i];
    formation_close(n->f);
    identity_close(n->id);
    n->f = NULL;
    n->id = NULL;
    for (unsigned k = 0; k < NODES; k++) {
        clear_queue(&s->queues[i][k]);
        clear_queue(&s->queues[k][i]);
    }
}

static void wipe(struct sim *s, unsigned i)
{
    char path[120];
    s->wipes++;
    (void)snprintf(path, sizeof(path), "%s/identity", s->nodes[i].dir);
    assert_int_equal(unlink(path), 0);
}

/* What must hold after every step. */
static void check(struct sim *s)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->nodes[i];
        if (n->id == NULL || !identity_formed(n->id))
            continue;
        struct mr_id cluster = identity_cluster(n->id), directory = identity_directory(n->id);
        bool known = false, named = false;
        for (unsigned k = 0; k < s->n_formed && !known; k++)
            if (mr_id_equal(s->formed[k].directory, directory)) {
                known = true;
                assert_true(mr_id_equal(s->formed[k].cluster, cluster)); /* F1: once in its life */
            }
        if (!known) {
            assert_true(s->n_formed < MAX_FORMED);
            s->formed[s->n_formed].cluster = cluster;
            s->formed[s->n_formed++].directory = directory;
        }
        for (unsigned k = 0; k < identity_members(n->id); k++)
            named = named || mr_id_equal(identity_member(n->id, k)->directory, directory);
        assert_true(named);
    }
    if (s->wipes > 1)
        return; /* a majority of disks was lost: only what each directory does can be promised */
    unsigned majorities = 0;
    for (unsigned k = 0; k < s->n_formed; k++) {
        unsigned size = 0, before = 0;
        for (unsigned m = 0; m < s->n_formed; m++) {
            size += mr_id_equal(s->formed[m].cluster, s->formed[k].cluster);
            before += m < k && mr_id_equal(s->formed[m].cluster, s->formed[k].cluster);
        }
        majorities += before == 0 && size >= 2;
    }
    assert_true(majorities <= 1);
}

static void deliver(struct sim *s, unsigned from, unsigned to)
{
    struct queue *q = &s->queues[from][to];
    struct node *n = &s->nodes[to];
    struct message m = q->items[q->first];
    uint32_t peer = formation_node(n->f, s->nodes[from].name);
    q->first = (q->first + 1) % QUEUE;
    q->n--;
    if (m.kind == HELLO) {
        Mailraft__Hello *hello = mailraft__hello__unpack(NULL, m.len, m.bytes);
        const char *reason = peer == 0 ? "unknown" : identity_check_peer(n->id, hello, peer);
        q->welcome = reason == NULL;
        if (reason == NULL)
            formation_peer_seen(n->f, peer, hello);
        else
            (void)snprintf(s->nodes[from].refused, sizeof(s->nodes[from].refused), "%s", reason);
        mailraft__hello__free_unpacked(hello, NULL);
    } else if (q->welcome && m.kind == REQUEST) {
        Mailraft__FormRequest *request = mailraft__form_request__unpack(NULL, m.len, m.bytes);
        formation_request(n->f, peer, request);
        mailraft__form_request__free_unpacked(request, NULL);
    } else if (q->welcome) {
        Mailraft__FormReply *reply = mailraft__form_reply__unpack(NULL, m.len, m.bytes);
        formation_reply(n->f, peer, reply);
        mailraft__form_reply__free_unpacked(reply, NULL);
    }
    free(m.bytes);
    check(s);
}

/* Picks the k-th queue that holds something; its receiver, or -1. */
static int pick(struct sim *s, unsigned k, unsigned *from, unsigned *to)
{
    for (unsigned pass = 0; pass < 2; pass++) {
        unsigned seen = 0;
        for (unsigned i = 0; i < NODES * NODES; i++) {
            if (s->queues[i / NODES][i % NODES].n == 0)
                continue;
            if (seen++ == k) {
                *from = i / NODES;
                *to = i % NODES;
                return 0;
            }
        }
        if (seen == 0)
            return -1;
        k %= seen;
    }
    return -1;
}

static void settle(struct sim *s)
{
    unsigned from, to;
    for (int round = 0; round < 80; round++) {
        while (pick(s, 0, &from, &to) == 0)
            deliver(s, from, to);
        for (unsigned i = 0; i < NODES; i++)
            formation_tick(s->nodes[i].f);
        check(s);
    }
}

static void sim_open(struct sim *s, uint32_t seed, const char *const lists[NODES])
{
    memset(s, 0, sizeof(*s));
    s->seed = seed;
    char base[64];
    (void)snprintf(base, sizeof(base), "%s/mailraft-formation-XXXXXX",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(base));
    memcpy(s->dir, base, sizeof(base));
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &s->nodes[i];
        n->sim = s;
        n->index = i;
        n->list = lists[i];
        (void)snprintf(n->name, sizeof(n->name), "mx%u", i + 1);
        (void)snprintf(n->dir, sizeof(n->dir), "%s/mx%u", base, i + 1);
    }
    for (unsigned i = 0; i < NODES; i++)
        start(s, i);
}

static void remove_file(const char *dir, const char *name)
{
    char path[200];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    (void)unlink(path);
}

static void sim_close(struct sim *s)
{
    for (unsigned i = 0; i < NODES; i++) {
        stop(s, i);
        remove_file(s->nodes[i].dir, "identity");
        remove_file(s->nodes[i].dir, "identity.new");
        remove_file(s->nodes[i].dir, "lock");
        assert_int_equal(rmdir(s->nodes[i].dir), 0);
    }
    assert_int_equal(rmdir(s->dir), 0);
}

static const char *const same_lists[NODES] = {"123", "312", "231"};

static bool all_formed_alike(const struct sim *s)
{
    struct mr_id cluster = identity_cluster(s->nodes[0].id);
    for (unsigned i = 0; i < NODES; i++) {
        const struct node *n = &s->nodes[i];
        if (!identity_formed(n->id) || !mr_id_equal(identity_cluster(n->id), cluster) || n->formed_calls != 1 ||
            identity_node(n->id) != i + 1 || !formation_settled(n->f))
            return false;
    }
    return true;
}

/* Node i is left out with a reason, and the others are one cluster. */
static bool formed_without(const struct sim *s, unsigned i)
{
    const struct node *a = &s->nodes[(i + 1) % NODES], *b = &s->nodes[(i + 2) % NODES], *out = &s->nodes[i];
    return !identity_formed(out->id) && out->formed_calls == 0 && strstr(out->refused, "leave it out") != NULL &&
           identity_formed(a->id) && identity_formed(b->id) &&
           mr_id_equal(identity_cluster(a->id), identity_cluster(b->id)) && a->formed_calls == 1 &&
           b->formed_calls == 1;
}

/* ---- tests ---- */

static void forms(void **state)
{
    struct sim s;
    (void)state;
    sim_open(&s, 1, same_lists);
    settle(&s);
    assert_true(all_formed_alike(&s));
    struct mr_id cluster = identity_cluster(s.nodes[0].id);
    for (unsigned i = 0; i < NODES; i++) { /* restarts change nothing */
        stop(&s, i);
        start(&s, i);
        assert_int_equal(s.nodes[i].formed_calls, 1); /* at once, without asking anybody */
    }
    settle(&s);
    assert_true(all_formed_alike(&s));
    assert_true(mr_id_equal(identity_cluster(s.nodes[2].id), cluster));
    sim_close(&s);
}

/* One fault after step `at` of a fixed schedule: at a step's end, or inside it after what it wrote and before what it
 * sends. False: the schedule ended before that step. */
enum fault { CRASH, CRASH_BEFORE_SENDS, WIPE, WIPE_BEFORE_SENDS, FAULTS };

static bool run_with_fault(unsigned at, enum fault fault, unsigned order)
{
    struct sim s;
    unsigned from = 0, to = 0, step = 0;
    sim_open(&s, 1, same_lists);
    while (step < at && pick(&s, order * step, &from, &to) == 0) {
        step++;
        s.nodes[to].mute = step == at && (fault == CRASH_BEFORE_SENDS || fault == WIPE_BEFORE_SENDS);
        deliver(&s, from, to);
    }
    bool reached = step == at;
    if (reached) {
        stop(&s, to);
        if (fault == WIPE || fault == WIPE_BEFORE_SENDS)
            wipe(&s, to);
        start(&s, to);
        settle(&s);
        bool good = all_formed_alike(&s) || (s.wipes > 0 && formed_without(&s, to));
        if (!good)
            fail_msg("step %u, fault %d, order %u: %s / %s / %s", at, (int)fault, order, s.nodes[0].refused,
                     s.nodes[1].refused, s.nodes[2].refused);
    }
    sim_close(&s);
    return reached;
}

static void every_crash_point(void **state)
{
    unsigned runs = 0;
    (void)state;
    for (unsigned order = 0; order < 6; order++)
        for (unsigned fault = 0; fault < FAULTS; fault++)
            for (unsigned at = 1; run_with_fault(at, (enum fault)fault, order); at++)
                runs++;
    print_message("%u crash points\n", runs);
    assert_true(runs > 200);
}

static void random_schedule(uint32_t seed, unsigned crashes, unsigned wipes)
{
    struct sim s;
    sim_open(&s, seed, same_lists);
    unsigned wiped = NODES;
    for (int step = 0; step < 60; step++) {
        unsigned from, to, node = chance(&s, NODES), action = chance(&s, 20);
        if (action == 0 && crashes > 0) {
            crashes--;
            stop(&s, node);
            start(&s, node);
        } else if (action == 1 && wipes > 0) {
            wipes--;
            wiped = node;
            stop(&s, node);
            wipe(&s, node);
            start(&s, node);
        } else if (action < 5) {
            formation_tick(s.nodes[node].f);
        } else if (pick(&s, chance(&s, NODES * NODES), &from, &to) == 0) {
            bool dies = crashes > 0 && chance(&s, 25) == 0;
            s.nodes[to].mute = dies;
            deliver(&s, from, to);
            if (dies) {
                crashes--;
                stop(&s, to);
                start(&s, to);
            }
        }
        check(&s);
    }
    settle(&s);
    if (s.wipes == 0 ? !all_formed_alike(&s) : s.wipes == 1 && !all_formed_alike(&s) && !formed_without(&s, wiped))
        fail_msg("seed %u: %s / %s / %s", seed, s.nodes[0].refused, s.nodes[1].refused, s.nodes[2].refused);
    sim_close(&s);
}

static void random_schedules(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 600; seed++)
        random_schedule(seed, 4, 0);
    for (uint32_t seed = 1; seed <= 600; seed++)
        random_schedule(seed * 7919, 3, 1);
    for (uint32_t seed = 1; seed <= 300; seed++)
        random_schedule(seed * 104729, 3, 3);
}

static void wiped_disk_is_refused(void **state)
{
    (void)state;
    for (unsigned i = 0; i < NODES; i++) {
        struct sim s;
        sim_open(&s, 1, same_lists);
        settle(&s);
        assert_true(all_formed_alike(&s));
        stop(&s, i);
        wipe(&s, i);
        start(&s, i);
        settle(&s);
        assert_true(formed_without(&s, i));
        sim_close(&s);
    }
}

static unsigned count_formed(const struct sim *s)
{
    unsigned n = 0;
    for (unsigned i = 0; i < NODES; i++)
        n += identity_formed(s->nodes[i].id);
    return n;
}

static void different_lists_do_not_form(void **state)
{
    static const char *const lists[][NODES] = {{"123", "123", "23"}, {"123", "23", "123"}, {"12", "123", "123"},
                                               {"13", "123", "123"}, {"12", "23", "23"},   {"12", "23", "31"}};
    (void)state;
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        struct sim s;
        unsigned told = 0;
        sim_open(&s, 1, lists[i]);
        settle(&s);
        for (unsigned k = 0; k < NODES; k++)
            told += strstr(s.nodes[k].refused, "cluster.initial differs") != NULL ||
                    strstr(s.nodes[k].refused, "unknown") != NULL;
        if (i == 4) { /* mx2 and mx3 agree between them: that is their cluster, and mx1 is not in it */
            assert_int_equal(count_formed(&s), 2);
            assert_false(identity_formed(s.nodes[0].id));
        } else {
            assert_int_equal(count_formed(&s), 0);
        }
        assert_true(told >= 1);
        /* The operator mends the lists. */
        for (unsigned k = 0; k < NODES && i != 4; k++) {
            stop(&s, k);
            s.nodes[k].list = "123";
            start(&s, k);
        }
        settle(&s);
        assert_true(i == 4 || all_formed_alike(&s));
        sim_close(&s);
    }
}

static void one_missing_node_holds_it_up(void **state)
{
    struct sim s;
    (void)state;
    sim_open(&s, 1, same_lists);
    for (unsigned k = 0; k < 2; k++) { /* nothing to or from mx3 arrives */
        clear_queue(&s.queues[2][k]);
        clear_queue(&s.queues[k][2]);
    }
    settle(&s);
    assert_int_equal(count_formed(&s), 0);
    stop(&s, 2);
    start(&s, 2);
    settle(&s);
    assert_true(all_formed_alike(&s));
    sim_close(&s);
}

/* A question that took an older connection than the formation: no refusal, which would stop the one that asked. */
static void a_late_question_harms_nobody(void **state)
{
    struct sim s;
    unsigned from = 0, to = 0;
    (void)state;
    sim_open(&s, 1, same_lists);
    while (s.queues[0][2].n == 0 || s.queues[0][2].items[s.queues[0][2].first].kind != REQUEST) {
        if (pick(&s, 0, &from, &to) != 0)
            fail_msg("nothing left to deliver");
        deliver(&s, from, to);
    }
    assert_false(identity_formed(s.nodes[0].id));
    struct message late = s.queues[0][2].items[s.queues[0][2].first];
    late.bytes = mr_memdup(late.bytes, late.len);
    settle(&s);
    assert_true(all_formed_alike(&s));
    struct queue *q = &s.queues[0][2];
    q->items[(q->first + q->n++) % QUEUE] = late;
    settle(&s);
    for (unsigned i = 0; i < NODES; i++)
        assert_string_equal(s.nodes[i].refused, "");
    sim_close(&s);
}

/* The first one has written and handed the formation to mx2 only, and is gone for good: mx2 hands it on. */
static void formed_members_hand_it_on(void **state)
{
    struct sim s;
    unsigned from = 0, to = 0, steps = 0;
    (void)state;
    sim_open(&s, 1, same_lists);
    while (!identity_formed(s.nodes[1].id) && steps++ < 100) {
        if (pick(&s, 0, &from, &to) != 0)
            fail_msg("nothing left to deliver");
        if (to == 2 && s.queues[from][2].items[s.queues[from][2].first].kind == REQUEST &&
            identity_formed(s.nodes[0].id))
            clear_queue(&s.queues[from][2]); /* lost; as if cut off */
        else
            deliver(&s, from, to);
    }
    assert_true(identity_formed(s.nodes[1].id));
    assert_false(identity_formed(s.nodes[2].id));
    for (unsigned k = 1; k < NODES; k++) {
        clear_queue(&s.queues[0][k]);
        clear_queue(&s.queues[k][0]);
    }
    while (s.queues[2][1].n > 0) /* mx2 and mx3 know each other */
        deliver(&s, 2, 1);
    while (s.queues[1][2].n > 0 && s.queues[1][2].items[s.queues[1][2].first].kind == HELLO)
        deliver(&s, 1, 2);
    assert_false(identity_formed(s.nodes[2].id));
    for (int i = 0; i < 5; i++) {
        formation_tick(s.nodes[1].f);
        while (s.queues[1][2].n > 0)
            deliver(&s, 1, 2);
    }
    assert_true(identity_formed(s.nodes[2].id));
    assert_true(mr_id_equal(identity_cluster(s.nodes[1].id), identity_cluster(s.nodes[2].id)));
    sim_close(&s);
}

static void lists_that_cannot_be(void **state)
{
    struct formation_peer peers[64];
    char dir[] = "/tmp/mailraft-formation-XXXXXX", names[64][8], error[600];
    struct formation_handler handler = {0};
    struct identity *id;
    struct formation *f = NULL;
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(identity_open(&id, dir, "n0", error, sizeof(error)), 0);
    for (unsigned i = 0; i < 64; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "n%u", i);
        peers[i] = (struct formation_peer){.name = names[i], .address = "a:1"};
    }
    assert_int_equal(formation_open(&f, id, "n0", peers, 64, &handler, error, sizeof(error)), MR_CONFIG);
    assert_int_equal(formation_open(&f, id, "n0", peers, 0, &handler, error, sizeof(error)), MR_CONFIG);
    assert_int_equal(formation_open(&f, id, "n0", peers + 1, 3, &handler, error, sizeof(error)), MR_CONFIG);
    assert_non_null(strstr(error, "n0"));
    peers[1].name = "n2";
    assert_int_equal(formation_open(&f, id, "n0", peers, 3, &handler, error, sizeof(error)), MR_CONFIG);
    assert_non_null(strstr(error, "twice"));
    peers[1].name = "n 1";
    assert_int_equal(formation_open(&f, id, "n0", peers, 3, &handler, error, sizeof(error)), MR_CONFIG);
    assert_null(f);
    identity_close(id);
    remove_file(dir, "identity");
    remove_file(dir, "lock");
    assert_int_equal(rmdir(dir), 0);
}

/* Once formed, a changed list changes no raft id. */
static void ids_do_not_shift(void **state)
{
    struct sim s;
    (void)state;
    sim_open(&s, 1, same_lists);
    settle(&s);
    stop(&s, 1);
    s.nodes[1].list = "23";
    start(&s, 1);
    assert_int_equal(formation_node(s.nodes[1].f, "mx1"), 1);
    assert_int_equal(formation_node(s.nodes[1].f, "mx2"), 2);
    assert_int_equal(formation_node(s.nodes[1].f, "mx3"), 3);
    assert_int_equal(formation_node(s.nodes[1].f, "mx4"), 0);
    settle(&s);
    assert_true(all_formed_alike(&s));
    sim_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms),
        cmocka_unit_test(every_crash_point),
        cmocka_unit_test(random_schedules),
        cmocka_unit_test(wiped_disk_is_refused),
        cmocka_unit_test(different_lists_do_not_form),
        cmocka_unit_test(one_missing_node_holds_it_up),
        cmocka_unit_test(a_late_question_harms_nobody),
        cmocka_unit_test(formed_members_hand_it_on),
        cmocka_unit_test(lists_that_cannot_be),
        cmocka_unit_test(ids_do_not_shift),
    };
    if (getenv("FORMATION_TEST_LOG") == NULL) /* refusals are logged as errors, by the thousand here */
        log_configure((enum log_level)(LOG_ERROR + 1), false, "test");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
