/* The raft_io over the simulated disk against what was asked of it: one node writes, truncates, takes and installs
 * snapshots by chance, dies at a step by chance, and what its next life loads must hold what was acknowledged. */
#include "chaos-tests/sim/sim_fs.h"
#include "chaos-tests/sim/sim_kernel.h"
#include "proto/base/memory.h"
#include "raft/open_segments.h"
#include "raft/unfinished.h"

#include <fcntl.h>
#include <raft/uv.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { NODE = 1, LIVES = 12, MAX_INDEX = 8192, MAX_CUTS = 4096, SEEDS = 30, TRAILING = 20 };
#define DIR_PATH "/raft"

#define EXPECT(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)fprintf(stderr, "seed %llu life %u: %s: ", (unsigned long long)m.seed, m.life, #condition);          \
            (void)fprintf(stderr, __VA_ARGS__);                                                                        \
            (void)fputc('\n', stderr);                                                                                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* What was asked and answered; it outlives the node. */
static struct model {
    uint64_t seed;
    unsigned life;
    unsigned loads, snapshots_seen, installs, cuts_seen;
    uint64_t next_id;
    uint64_t last;             /* index of the newest entry asked for */
    uint64_t asked[MAX_INDEX]; /* id of the newest entry asked for there */
    uint64_t acked[MAX_INDEX]; /* id that was acknowledged, and not asked to be truncated since; 0: none */
    struct {
        uint64_t id, index;
        bool sure; /* something asked for later was acknowledged */
    } cuts[MAX_CUTS];
    unsigned n_cuts;
    uint64_t snapshot;     /* acknowledged */
    uint64_t snapshot_any; /* asked for */
    uint64_t term, vote;
    bool setting;
    uint64_t next_term, next_vote;
    bool power;
} m;

/* One life. */
static struct life {
    uv_loop_t loop;
    uv_timer_t timer;
    struct raft_io io;
    bool putting, installing, closing;
    unsigned ops;
} l;

static struct sim_options options;
static struct sim_result result;

struct append {
    struct raft_io_append req;
    uint64_t first, ids[8];
    unsigned n;
    struct raft_entry entries[8];
};

struct put {
    struct raft_io_snapshot_put req;
    struct raft_snapshot snapshot;
    struct raft_buffer buffers[2];
    bool install;
};

/* ---- what must be there ---- */

static uint64_t id_of(const struct raft_entry *e)
{
    uint64_t id;
    EXPECT(e->buf.len % 8 == 0 && e->buf.len >= 16, "an entry of %zu bytes", e->buf.len);
    memcpy(&id, e->buf.base, sizeof(id));
    const uint8_t *bytes = e->buf.base;
    for (size_t i = 8; i < e->buf.len; i++)
        EXPECT(bytes[i] == (uint8_t)(id + i), "bytes of entry %llu", (unsigned long long)id);
    EXPECT(e->term == id, "term of entry %llu", (unsigned long long)id);
    return id;
}

static void check_entry(uint64_t index, uint64_t id)
{
    EXPECT(m.acked[index] == 0 || m.acked[index] == id, "index %llu holds %llu, %llu was acknowledged",
           (unsigned long long)index, (unsigned long long)id, (unsigned long long)m.acked[index]);
    for (unsigned i = 0; i < m.n_cuts; i++)
        EXPECT(!m.cuts[i].sure || index < m.cuts[i].index || id > m.cuts[i].id, "index %llu: %llu came back",
               (unsigned long long)index, (unsigned long long)id);
}

static void show_dir(void)
{
    const char *name;
    struct sim_file *dir = NULL, *f = NULL;
    if (sim_fs_find(NODE, DIR_PATH, &dir) != 0)
        return;
    size_t at = 0;
    while ((name = sim_fs_name(dir, &at)) != NULL) {
        char path[300];
        (void)snprintf(path, sizeof(path), "%s/%s", DIR_PATH, name);
        if (sim_fs_find(NODE, path, &f) == 0)
            (void)fprintf(stderr, "  %s: %llu bytes, data up to %llu\n", name, (unsigned long long)sim_fs_size(f),
                          (unsigned long long)sim_fs_data_end(f));
    }
}

static void load(void)
{
    raft_term term;
    raft_id vote;
    struct raft_snapshot *snapshot = NULL;
    raft_index start;
    struct raft_entry *entries = NULL;
    size_t n;
    int rv = l.io.load(&l.io, &term, &vote, &snapshot, &start, &entries, &n);
    if (rv != 0)
        show_dir();
    EXPECT(rv == 0, "load: %s (%s)", raft_strerror(rv), l.io.errmsg);
    EXPECT((term == m.term && vote == m.vote) || (m.setting && term == m.next_term && vote == m.next_vote) ||
               (m.setting && term == m.next_term && vote == 0),
           "term %llu vote %llu", term, vote);
    if (term != 0) /* as replica_load.c; only from then on may it not go back any more */
        EXPECT(l.io.set_vote(&l.io, vote) == 0, "set_vote: %s", l.io.errmsg);
    m.term = term;
    m.vote = vote;
    m.setting = false;
    uint64_t floor = snapshot == NULL ? 0 : snapshot->index;
    EXPECT(floor >= m.snapshot && floor <= m.snapshot_any, "snapshot %llu, not %llu..%llu", (unsigned long long)floor,
           (unsigned long long)m.snapshot, (unsigned long long)m.snapshot_any);
    if (snapshot != NULL) {
        uint64_t id;
        memcpy(&id, snapshot->bufs[0].base, sizeof(id));
        EXPECT(id == floor && snapshot->n_bufs == 1 && snapshot->configuration.n == 1, "content of the snapshot");
        m.snapshots_seen++;
    }
    uint64_t last = start + n - 1;
    EXPECT(start <= floor + 1 && last >= floor, "entries %llu to %llu with snapshot %llu", start,
           (unsigned long long)last, (unsigned long long)floor);
    for (uint64_t i = last + 1; i < MAX_INDEX; i++)
        EXPECT(m.acked[i] == 0, "index %llu is lost, the log ends at %llu", (unsigned long long)i,
               (unsigned long long)last);
    for (size_t i = 0; i < n; i++) {
        check_entry(start + i, id_of(&entries[i]));
        m.asked[start + i] = m.acked[start + i] = entries[i].term; /* it is there now, and stays */
    }
    for (uint64_t i = last + 1; i < MAX_INDEX; i++)
        m.asked[i] = 0;
    m.last = last;
    m.n_cuts = 0; /* what is there now counts, also what was asked to go */
    m.snapshot = m.snapshot_any = floor;
    m.loads++;
}

/* ---- what is asked ---- */

static void later_is_acked(uint64_t id)
{
    for (unsigned i = 0; i < m.n_cuts; i++)
        if (m.cuts[i].id < id && !m.cuts[i].sure) {
            m.cuts[i].sure = true;
            m.cuts_seen++;
        }
}

static void appended(struct raft_io_append *req, int status)
{
    struct append *a = req->data;
    if (status == 0) {
        for (unsigned i = 0; i < a->n; i++)
            if (m.asked[a->first + i] == a->ids[i])
                m.acked[a->first + i] = a->ids[i];
        later_is_acked(a->ids[0]);
    } else {
        EXPECT(l.closing && status == RAFT_CANCELED, "append: %s", raft_strerror(status));
    }
    for (unsigned i = 0; i < a->n; i++)
        free(a->entries[i].buf.base);
    free(a);
}

static void append(void)
{
    struct append *a = mr_calloc(1, sizeof(*a));
    a->n = 1 + (unsigned)sim_below(SIM_LOAD, 8);
    if (m.last + a->n >= MAX_INDEX) {
        free(a);
        return;
    }
    a->first = m.last + 1;
    a->req.data = a;
    for (unsigned i = 0; i < a->n; i++) {
        uint64_t id = m.next_id++;
        size_t len = 16 + 8 * (size_t)sim_below(SIM_LOAD, sim_chance(SIM_LOAD, 0.1) ? 2000 : 30);
        uint8_t *bytes = mr_malloc(len);
        memcpy(bytes, &id, sizeof(id));
        for (size_t k = 8; k < len; k++)
            bytes[k] = (uint8_t)(id + k);
        a->entries[i] = (struct raft_entry){.term = id, .type = RAFT_COMMAND, .buf = {bytes, len}};
        a->ids[i] = id;
        m.asked[++m.last] = id;
    }
    int rv = l.io.append(&l.io, &a->req, a->entries, a->n, appended);
    EXPECT(rv == 0, "append");
}

static void say(const char *what, uint64_t index)
{
    if (getenv("SIM_RAFT_SAY") != NULL)
        (void)fprintf(stderr, "life %u: %s %llu\n", m.life, what, (unsigned long long)index);
}

static void truncate_log(void)
{
    uint64_t low = m.snapshot_any + 1;
    if (m.last < low || m.n_cuts == MAX_CUTS)
        return;
    uint64_t index = sim_between(SIM_LOAD, m.last - low > 40 ? m.last - 40 : low, m.last);
    for (uint64_t i = index; i <= m.last; i++)
        m.asked[i] = m.acked[i] = 0;
    m.last = index - 1;
    m.cuts[m.n_cuts].id = m.next_id++;
    m.cuts[m.n_cuts].sure = false;
    m.cuts[m.n_cuts++].index = index;
    say("truncate", index);
    EXPECT(l.io.truncate(&l.io, index) == 0, "truncate");
}

static void stored(struct raft_io_snapshot_put *req, int status)
{
    struct put *p = req->data;
    say("stored", p->snapshot.index);
    if (status == 0 && p->snapshot.index > m.snapshot)
        m.snapshot = p->snapshot.index;
    EXPECT(status == 0 || (l.closing && status == RAFT_CANCELED), "snapshot: %s", raft_strerror(status));
    if (p->install && status == 0) {
        m.installs++;
        later_is_acked(m.next_id);
    }
    l.putting = l.installing = false;
    raft_configuration_close(&p->snapshot.configuration);
    for (unsigned i = 0; i < 2; i++)
        free(p->buffers[i].base);
    free(p);
}

static void put_snapshot(bool install)
{
    struct put *p = mr_calloc(1, sizeof(*p));
    uint64_t index = install ? m.last + sim_between(SIM_LOAD, 1, 50) : m.last;
    while (!install && index > m.snapshot && m.acked[index] == 0)
        index--;
    if (l.putting || index <= m.snapshot || index + 10 >= MAX_INDEX) {
        free(p);
        return;
    }
    l.putting = true;
    l.installing = p->install = install;
    p->req.data = p;
    p->buffers[0] = (struct raft_buffer){mr_memdup(&index, 8), 8};
    p->buffers[1] = (struct raft_buffer){mr_calloc(1, 9000), 9000};
    p->snapshot = (struct raft_snapshot){
        .index = index, .term = m.next_id++, .configuration_index = 1, .bufs = p->buffers, .n_bufs = 2};
    raft_configuration_init(&p->snapshot.configuration);
    EXPECT(raft_configuration_add(&p->snapshot.configuration, 1, "n1", RAFT_VOTER) == 0, "configuration");
    m.snapshot_any = index;
    if (install) {
        for (uint64_t i = 1; i < MAX_INDEX; i++)
            m.asked[i] = m.acked[i] = 0;
        m.last = index;
        m.cuts[m.n_cuts].id = m.next_id++;
        m.cuts[m.n_cuts].sure = false;
        m.cuts[m.n_cuts++].index = 1;
    } else {
        for (uint64_t i = 1; i <= index; i++)
            m.acked[i] = 0; /* may go; what stays is checked by what was asked */
    }
    say(install ? "install" : "take", index);
    EXPECT(l.io.snapshot_put(&l.io, install ? 0 : TRAILING, &p->req, &p->snapshot, stored) == 0, "snapshot_put");
}

static void set_meta(void)
{
    m.setting = true;
    m.next_term = m.term + 1;
    m.next_vote = 0;
    if (sim_chance(SIM_PLAN, 0.1)) /* within it */
        sim_arm(NODE, 1 + sim_below(SIM_PLAN, 8), m.power || sim_chance(SIM_PLAN, 0.5) ? SIM_POWER : SIM_KILL);
    EXPECT(l.io.set_term(&l.io, m.next_term) == 0, "set_term");
    m.term = m.next_term;
    m.vote = 0;
    m.next_vote = 1 + sim_below(SIM_LOAD, 5);
    EXPECT(l.io.set_vote(&l.io, m.next_vote) == 0, "set_vote");
    m.vote = m.next_vote;
    m.setting = false;
}

/* ---- life ---- */

static void io_closed(struct raft_io *io)
{
    raft_uv_close(io);
}

static void on_op(uv_timer_t *timer)
{
    if (l.ops-- == 0) {
        l.closing = true;
        uv_timer_stop(timer);
        uv_close((uv_handle_t *)timer, NULL);
        l.io.close(&l.io, io_closed);
        return;
    }
    if (l.installing)
        return; /* as libraft: nothing is appended to a log that is being replaced */
    uint64_t dice = sim_below(SIM_LOAD, 100);
    if (dice < 70)
        append();
    else if (dice < 85)
        truncate_log();
    else if (dice < 92)
        put_snapshot(false);
    else if (dice < 94)
        put_snapshot(true);
    else
        set_meta();
}

static void on_tick(struct raft_io *io)
{
    (void)io;
}

/* What the acked file would say. */
static uint64_t acked_index(void)
{
    uint64_t index = m.snapshot;
    for (uint64_t i = 1; i < MAX_INDEX; i++)
        if (m.acked[i] != 0 && i > index)
            index = i;
    return index;
}

static void live(void *arg)
{
    static struct raft_uv_transport transport;
    (void)arg;
    memset(&l, 0, sizeof(l));
    l.ops = 20 + (unsigned)sim_below(SIM_LOAD, 300);
    EXPECT(uv_loop_init(&l.loop) == 0, "loop");
    if (mkdir(DIR_PATH, 0700) == 0) {
        int fd = open("/", O_RDONLY | O_DIRECTORY);
        EXPECT(fsync(fd) == 0, "fsync");
        close(fd);
    }
    l.io.version = 2;
    EXPECT(raft_uv_init(&l.io, &l.loop, DIR_PATH, &transport) == 0, "raft_uv_init");
    raft_uv_set_segment_size(&l.io, 8 << 20);
    int rv = l.io.init(&l.io, 1, "n1");
    EXPECT(rv == 0, "init: %s (%s)", raft_strerror(rv), l.io.errmsg);
    char error[400];
    rv = unfinished_finish(DIR_PATH, acked_index(), error, sizeof(error));
    EXPECT(rv == 0, "%s", error);
    rv = open_segments_mend(DIR_PATH, error, sizeof(error));
    EXPECT(rv == 0, "%s", error);
    load();
    EXPECT(l.io.start(&l.io, 100, on_tick, NULL) == 0, "start");
    uv_timer_init(&l.loop, &l.timer);
    uv_timer_start(&l.timer, on_op, 1, 1);
    uv_run(&l.loop, UV_RUN_DEFAULT);
    EXPECT(uv_loop_close(&l.loop) == 0, "uv_loop_close");
}

static void next_life(void *arg)
{
    (void)arg;
    if (m.life++ == LIVES)
        return;
    sim_node_start(NODE, live, NULL);
    if (sim_chance(SIM_PLAN, 0.9))
        sim_arm(NODE, 1 + sim_below(SIM_PLAN, 2000), m.power || sim_chance(SIM_PLAN, 0.5) ? SIM_POWER : SIM_KILL);
}

static void on_end(unsigned node, enum sim_end how, const char *text)
{
    (void)node;
    say(how == SIM_POWER ? "power cut" : "end", 0);
    EXPECT(how != SIM_DIED || text[0] == 0, "%s", text);
    sim_at(sim_now() + 1000000, next_life, NULL);
}

static int run_seed(uint64_t seed)
{
    options = (struct sim_options){.seed = seed};
    m = (struct model){.seed = seed, .next_id = 1};
    sim_kernel_init(&options, &result);
    sim_on_end = on_end;
    sim_disk_new(NODE);
    next_life(NULL);
    sim_run_until(UINT64_C(3600) * 1000000000);
    EXPECT(m.life == LIVES + 1, "it stands");
    EXPECT(m.loads >= LIVES / 2, "it does not get to load: %u", m.loads);
    return 0;
}

static void holds_what_was_acknowledged(void **state)
{
    (void)state;
    unsigned failed = 0;
    const char *count = getenv("SIM_RAFT_SEEDS");
    unsigned seeds = count != NULL ? (unsigned)strtoul(count, NULL, 10) : SEEDS;
    const char *first = getenv("SIM_RAFT_FIRST");
    unsigned from = first != NULL ? (unsigned)strtoul(first, NULL, 10) : 1;
    for (unsigned seed = from; seed < from + seeds; seed++) {
        pid_t child = fork();
        int status;
        assert_true(child >= 0);
        if (child == 0)
            _exit(run_seed(seed));
        assert_int_equal(waitpid(child, &status, 0), child);
        failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    }
    assert_int_equal(failed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_what_was_acknowledged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
