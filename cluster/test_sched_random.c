/* The scheduler among simulated nodes: heartbeats are late, nodes apply late, crash, are cut off, leaders change and
 * lose a part of what they proposed. At every moment the connections that are truly open are counted.
 *
 * S1: per site never more than its limit. S2: starts of attempts. S4: never more attempts on a node than it has room
 * for. In the end, when the faults are over, everything is delivered. */
#include "test_sched_world.h"

enum {
    NODES = 4,
    HOPS = 7,
    SLOTS = 64,
    ROOM = 12, /* attempts at one time on a node */
    ATTEMPTS = 256,
    LATE = 64,
    MAILS = 40000,
    TICK_MS = 10,
    BEAT_MS = 100,
    LEASE_MS = 3000,
    ELECTION_MS = 500,
    DOWN_MS = 5000,
    AGAIN_MS = 1500
};

static const struct {
    const char *name;
    unsigned site;
} hops[HOPS] = {{"smtp://a.example:25", 0},   {"smtp://a.example:2525", 0}, {"smtp://b.example:25", 1},
                {"mx:c.example", 2},          {"smtp://d.example:25", 3},   {"lmtp://e.example:24", 4},
                {"smtp://down.example:25", 5}};
static const struct world_limit sites[] = {{"a.example", 3, 0},  {"b.example", 1, 0}, {"c.example", 0, 20},
                                           {"d.example", 5, 10}, {"e.example", 0, 0}, {"down.example", 4, 0}};
enum { SITES = sizeof(sites) / sizeof(sites[0]) };

enum attempt_state { WAITING, RUNNING, ENDED, DROPPED };
struct attempt {
    enum attempt_state state;
    struct mr_id id;
    uint32_t number;
    unsigned hop;
    uint32_t slot;
    enum world_outcome outcome;
    uint64_t until;    /* running: its end, ms */
    uint64_t proposed; /* ended or dropped: when that was told last; 0: not yet */
};

/* What an entry did to a node, for when the node applies it. */
struct event {
    uint64_t index;
    bool assigned;
    struct mr_id id;
    uint32_t number;
    unsigned hop;
    uint32_t slot;
    uint64_t incarnation;
};

struct beat {
    uint64_t at; /* arrives; ms */
    Mailraft__Heartbeat *hb;
};

struct sim_node {
    uint32_t id;
    bool running;
    uint64_t restart_at, cut_until;
    uint64_t incarnation;
    uint64_t applied;
    uint64_t lease_end, wait_applied;
    uint64_t up_proposed;
    uint64_t heard; /* by the leader */
    bool condemned;
    uint64_t condemned_as; /* incarnation */
    struct attempt attempts[ATTEMPTS];
    unsigned n_attempts;
    bool open[HOPS][SLOTS];
    uint64_t idle_until[HOPS][SLOTS];
    struct event *events;
    size_t n_events, first_event;
    struct beat beats[LATE];
    unsigned n_beats;
};

struct entry {
    uint64_t at;
    uint64_t term;
    bool first; /* of its term */
    size_t n;
    Mailraft__Op *ops[SCHED_MAX_ASSIGN];
    struct entry *next;
};

struct sim {
    struct world *w;
    struct sim_node nodes[NODES + 1];
    struct entry *log, *log_last;
    uint64_t ms, term;
    bool leading, leads_fully;
    uint64_t elected, elect_at;
    uint64_t last_entry;
    bool calm; /* no faults any more */
    uint64_t granted_at[MAILS];
    /* S2: over all starts of a site, the smallest (number - rate * seconds) seen. */
    uint64_t starts[SITES];
    double least[SITES];
    unsigned delivered, changes, crashes, deaths, most_open;
};
static struct sim s;

static uint64_t chance(uint64_t below)
{
    return (uint64_t)rand() % below;
}

static uint64_t id_number(struct mr_id id)
{
    uint64_t n;
    memcpy(&n, id.bytes, sizeof(n));
    return n;
}

static unsigned hop_of(const char *name)
{
    unsigned i = 0;
    while (strcmp(hops[i].name, name) != 0)
        i++;
    return i;
}

/* The log */

static Mailraft__Op *copy_op(const Mailraft__Op *op)
{
    size_t len = mailraft__op__get_packed_size(op);
    uint8_t *packed = malloc(len + 1);

    mailraft__op__pack(op, packed);
    Mailraft__Op *copy = mailraft__op__unpack(NULL, len, packed);
    free(packed);
    return copy;
}

/* Takes the operations over. */
static struct entry *propose(Mailraft__Op **ops, size_t n)
{
    struct entry *e = calloc(1, sizeof(*e));
    uint64_t earliest = s.log_last != NULL ? s.log_last->at : 0;

    e->at = s.ms + chance(30);
    if (e->at < earliest)
        e->at = earliest;
    e->term = s.term;
    e->n = n;
    for (size_t i = 0; i < n; i++)
        e->ops[i] = ops[i];
    if (s.log_last != NULL)
        s.log_last->next = e;
    else
        s.log = e;
    s.log_last = e;
    s.last_entry = s.ms;
    return e;
}

static void propose_copy(const Mailraft__Op *op)
{
    Mailraft__Op *copy = copy_op(op);
    propose(&copy, 1);
}

static void free_entry(struct entry *e)
{
    world_free_ops(e->ops, e->n);
    free(e);
}

static void apply_due(void)
{
    while (s.log != NULL && s.log->at <= s.ms) {
        struct entry *e = s.log;
        s.log = e->next;
        if (s.log == NULL)
            s.log_last = NULL;
        world_apply(s.w, e->ops, e->n);
        if (e->first && e->term == s.term && s.leading) {
            sched_lead(s.w->sched, s.w->now_ns, s.w->index);
            s.w->quiet = false;
            s.leads_fully = true;
        } else if (e->term == s.term && s.leads_fully) {
            for (size_t i = 0; i < e->n; i++)
                sched_settled(s.w->sched, e->ops[i], s.w->now_ns);
        }
        for (size_t i = 0; i < e->n; i++)
            if (e->ops[i]->kind_case == MAILRAFT__OP__KIND_NODE_DOWN && s.w->results[i] == APPLIED)
                s.deaths++;
        free_entry(e);
    }
}

/* What happens to the nodes */

static void push_event(struct sim_node *n, struct event e)
{
    n->events = realloc(n->events, (n->n_events + 1) * sizeof(*n->events));
    n->events[n->n_events++] = e;
}

static void sim_assigned(struct world *w, const struct state_message *m, uint32_t delivery)
{
    struct message_view message;
    struct delivery_view v;

    (void)w;
    state_message_view(m, &message);
    state_delivery_view(m, delivery, &v);
    push_event(&s.nodes[v.node], (struct event){.index = state_index(s.w->state),
                                                .assigned = true,
                                                .id = message.id,
                                                .number = v.attempt,
                                                .hop = hop_of(v.next_hop),
                                                .slot = v.slot,
                                                .incarnation = v.incarnation});
}

static void sim_unassigned(struct world *w, struct mr_id id, uint32_t delivery, uint32_t attempt, uint32_t node)
{
    (void)w;
    (void)delivery;
    push_event(&s.nodes[node], (struct event){.index = state_index(s.w->state), .id = id, .number = attempt});
}

static unsigned busy(const struct sim_node *n)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < n->n_attempts; i++)
        sum += n->attempts[i].state == WAITING || n->attempts[i].state == RUNNING;
    return sum;
}

static void node_event(struct sim_node *n, const struct event *e)
{
    if (e->assigned && n->running && e->incarnation == n->incarnation) {
        if (n->n_attempts == ATTEMPTS || e->slot >= SLOTS)
            fail_msg("node %u: %u attempts, slot %u", n->id, n->n_attempts, e->slot);
        n->attempts[n->n_attempts++] =
            (struct attempt){.id = e->id, .number = e->number, .hop = e->hop, .slot = e->slot};
        if (busy(n) > ROOM)
            fail_msg("S4: node %u has %u attempts", n->id, busy(n));
    }
    for (unsigned i = 0; !e->assigned && i < n->n_attempts; i++)
        if (mr_id_equal(n->attempts[i].id, e->id) && n->attempts[i].number == e->number)
            n->attempts[i--] = n->attempts[--n->n_attempts];
}

static void node_apply(struct sim_node *n, uint64_t upto)
{
    while (n->first_event < n->n_events && n->events[n->first_event].index <= upto) {
        struct event e = n->events[n->first_event++];
        node_event(n, &e);
    }
    n->applied = upto;
}

static void node_close_all(struct sim_node *n)
{
    memset(n->open, 0, sizeof(n->open));
    for (unsigned i = 0; i < n->n_attempts; i++)
        if (n->attempts[i].state <= RUNNING)
            n->attempts[i].state = DROPPED;
}

static bool node_leased(const struct sim_node *n)
{
    return n->lease_end > s.ms && n->applied >= n->wait_applied;
}

/* S2: for all pairs i <= j of starts: j - i + 1 <= rate * (t_j - t_i + 1 s) + burst. */
static void count_start(unsigned site)
{
    double rate = sites[site].rate;
    double burst = rate * 0.05 > 1 ? rate * 0.05 : 1;
    double at = (double)s.starts[site] - rate * (double)s.ms / 1000;

    if (rate <= 0)
        return;
    if (s.starts[site] == 0 || at < s.least[site])
        s.least[site] = at;
    s.starts[site]++;
    /* One tick more: a tick's work happens at one moment here. */
    if (at + 1 - s.least[site] > rate * (1 + TICK_MS / 1000.0) + burst + 0.001)
        fail_msg("S2: too many starts for %s", sites[site].site);
}

static bool slot_running(const struct sim_node *n, unsigned hop, uint32_t slot)
{
    for (unsigned i = 0; i < n->n_attempts; i++)
        if (n->attempts[i].state == RUNNING && n->attempts[i].hop == hop && n->attempts[i].slot == slot)
            return true;
    return false;
}

static void attempt_start(struct sim_node *n, struct attempt *a)
{
    unsigned site = hops[a->hop].site;

    if (slot_running(n, a->hop, a->slot))
        return;
    if (sites[site].rate > 0 && s.ms > s.granted_at[id_number(a->id)] + 1000) {
        a->state = DROPPED; /* 6.2: returned unused */
        return;
    }
    count_start(site);
    a->state = RUNNING;
    a->until = s.ms + 10 + chance(chance(20) == 0 ? 4000 : 150);
    a->outcome = chance(20) == 0 ? WORLD_DEFERRED : WORLD_DELIVERED;
    if (!s.calm && (site == 5 ? chance(10) != 0 : chance(60) == 0))
        a->outcome = WORLD_UNREACHED;
    n->open[a->hop][a->slot] = true;
}

static void attempt_tell(struct sim_node *n, struct attempt *a)
{
    if (!s.leading || n->cut_until > s.ms || (a->proposed != 0 && s.ms < a->proposed + AGAIN_MS))
        return;
    a->proposed = s.ms;
    Mailraft__Outcome o = MAILRAFT__OUTCOME__INIT;
    Mailraft__RecipientResult r = MAILRAFT__RECIPIENT_RESULT__INIT, *pointer = &r;
    Mailraft__Release release = MAILRAFT__RELEASE__INIT;
    if (a->state == DROPPED) {
        release.id.data = a->id.bytes;
        release.id.len = MR_ID_SIZE;
        release.attempt = a->number;
        release.node = n->id;
        WORLD_OP(op, RELEASE, release) = &release;
        propose_copy(&op);
        return;
    }
    o.id.data = a->id.bytes;
    o.id.len = MR_ID_SIZE;
    o.attempt = a->number;
    o.node = n->id;
    o.results = &pointer;
    o.n_results = 1;
    o.retry_for_ms = 300;
    o.unreached = o.avoid_node = a->outcome == WORLD_UNREACHED;
    r.result = a->outcome == WORLD_DELIVERED ? MAILRAFT__RESULT__DELIVERED : MAILRAFT__RESULT__DEFERRED;
    WORLD_OP(op, OUTCOME, outcome) = &o;
    propose_copy(&op);
}

static void node_attempts(struct sim_node *n)
{
    for (unsigned i = 0; i < n->n_attempts; i++) {
        struct attempt *a = &n->attempts[i];
        if (a->state == WAITING)
            attempt_start(n, a);
        if (a->state == RUNNING && a->until <= s.ms) {
            a->state = ENDED;
            n->idle_until[a->hop][a->slot] = s.ms + chance(1500);
            if (a->outcome != WORLD_DELIVERED && chance(2))
                n->idle_until[a->hop][a->slot] = s.ms;
            s.delivered += a->outcome == WORLD_DELIVERED;
        }
        if (a->state >= ENDED)
            attempt_tell(n, a);
    }
    for (unsigned h = 0; h < HOPS; h++)
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            if (n->open[h][slot] && n->idle_until[h][slot] <= s.ms && !slot_running(n, h, slot))
                n->open[h][slot] = false;
}

static Mailraft__Heartbeat *make_beat(const struct sim_node *n)
{
    Mailraft__Heartbeat *hb = malloc(sizeof(*hb));

    mailraft__heartbeat__init(hb);
    hb->incarnation = n->incarnation;
    hb->sent_ns = s.w->now_ns;
    hb->applied = n->applied;
    hb->free_attempts = ROOM - busy(n);
    hb->slots = calloc(HOPS, sizeof(*hb->slots));
    for (unsigned h = 0; h < HOPS; h++) {
        Mailraft__OpenSlot *o = malloc(sizeof(*o));
        mailraft__open_slot__init(o);
        o->next_hop = strdup(hops[h].name);
        o->slots = calloc(SLOTS, sizeof(*o->slots));
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            bool listed = n->open[h][slot];
            for (unsigned i = 0; i < n->n_attempts; i++)
                listed = listed ||
                         (n->attempts[i].state <= RUNNING && n->attempts[i].hop == h && n->attempts[i].slot == slot);
            if (listed)
                o->slots[o->n_slots++] = slot;
        }
        hb->slots[hb->n_slots++] = o;
    }
    return hb;
}

static void beat_arrives(struct sim_node *n, const Mailraft__Heartbeat *hb)
{
    struct node_view v;

    if (!s.leads_fully || n->cut_until > s.ms)
        return;
    n->heard = s.ms;
    if (!state_node_by_id(s.w->state, n->id, &v) || !v.up || v.incarnation != hb->incarnation)
        return;
    sched_heartbeat(s.w->sched, n->id, hb, s.w->now_ns);
    uint64_t end = hb->sent_ns / MR_NS_PER_MS + LEASE_MS;
    if (n->condemned || !n->running || n->incarnation != hb->incarnation || end <= n->lease_end)
        return;
    if (!node_leased(n))
        n->wait_applied = s.w->index;
    n->lease_end = end;
}

static void node_beats(struct sim_node *n)
{
    if (n->running && (s.ms / TICK_MS + n->id) % (BEAT_MS / TICK_MS) == 0 && n->n_beats < LATE)
        n->beats[n->n_beats++] =
            (struct beat){.at = s.ms + chance(chance(30) == 0 && !s.calm ? 900 : 50), .hb = make_beat(n)};
    for (unsigned i = 0; i < n->n_beats; i++) {
        struct beat b = n->beats[i];
        if (b.at > s.ms)
            continue;
        n->beats[i--] = n->beats[--n->n_beats];
        beat_arrives(n, b.hb);
        mailraft__heartbeat__free_unpacked(b.hb, NULL);
    }
}

static void node_come_up(struct sim_node *n)
{
    struct node_view v;
    Mailraft__NodeUp up = MAILRAFT__NODE_UP__INIT;
    char name[16];
    uint8_t directory[16] = {(uint8_t)n->id, 1};

    if (state_node_by_id(s.w->state, n->id, &v) && v.up && v.incarnation == n->incarnation)
        return;
    if (!s.leading || n->cut_until > s.ms || (n->up_proposed != 0 && s.ms < n->up_proposed + AGAIN_MS))
        return;
    n->up_proposed = s.ms;
    snprintf(name, sizeof(name), "n%u", n->id);
    up.node = n->id;
    up.name = name;
    up.directory.data = directory;
    up.directory.len = sizeof(directory);
    up.incarnation = n->incarnation;
    WORLD_OP(op, NODE_UP, node_up) = &up;
    propose_copy(&op);
}

static void node_crash(struct sim_node *n, uint64_t down_for)
{
    memset(n->open, 0, sizeof(n->open));
    n->n_attempts = 0;
    n->running = false;
    n->restart_at = s.ms + down_for;
    n->lease_end = 0;
    s.crashes++;
}

static void node_tick(struct sim_node *n)
{
    struct node_view v;

    if (!s.calm && n->running && chance(3000) == 0)
        node_crash(n, chance(9000));
    if (!s.calm && chance(3000) == 0)
        n->cut_until = s.ms + chance(8000);
    if (!n->running && n->restart_at <= s.ms) {
        n->running = true;
        n->incarnation++;
        n->condemned = false;
        n->wait_applied = n->up_proposed = 0;
    }
    /* Declared down while it lived: it learns of it and begins a new life. */
    if (n->running && n->cut_until <= s.ms && state_node_by_id(s.w->state, n->id, &v) && !v.up &&
        v.incarnation == n->incarnation && n->lease_end <= s.ms)
        node_crash(n, 0);
    node_beats(n);
    if (!n->running)
        return;
    if (n->cut_until <= s.ms && chance(4) != 0)
        node_apply(n, n->applied + chance(s.w->index - n->applied + 1));
    node_come_up(n);
    if (n->lease_end <= s.ms)
        node_close_all(n);
    if (node_leased(n))
        node_attempts(n);
    for (unsigned i = 0; i < n->n_attempts; i++)
        if (n->attempts[i].state == DROPPED)
            attempt_tell(n, &n->attempts[i]);
}

/* The leader */

static void leader_change(void)
{
    struct entry **at = &s.log;
    size_t n = 0, keep;

    for (struct entry *e = s.log; e != NULL; e = e->next)
        n++;
    keep = chance(n + 1);
    s.log_last = NULL;
    for (size_t i = 0; i < keep; i++) {
        s.log_last = *at;
        at = &(*at)->next;
    }
    while (*at != NULL) {
        struct entry *lost = *at;
        *at = lost->next;
        free_entry(lost);
    }
    sched_unlead(s.w->sched);
    s.w->quiet = true;
    s.leading = s.leads_fully = false;
    s.elect_at = s.ms + chance(1500);
    s.changes++;
}

static void leader_elected(void)
{
    s.leading = true;
    s.term++;
    s.elected = s.ms;
    for (uint32_t i = 1; i <= NODES; i++) {
        s.nodes[i].condemned = false;
        s.nodes[i].heard = s.ms;
    }
    propose(NULL, 0)->first = true;
}

static void bury(struct sim_node *n)
{
    struct node_view v;
    Mailraft__NodeDown down = MAILRAFT__NODE_DOWN__INIT;

    /* Came up anew before the node_down was applied, which then had no effect: pardoned (lease.h, L7). */
    if (n->condemned && state_node_by_id(s.w->state, n->id, &v) && v.incarnation != n->condemned_as)
        n->condemned = false;
    if (n->condemned || s.ms < s.elected + LEASE_MS + ELECTION_MS || s.ms < n->heard + DOWN_MS ||
        !state_node_by_id(s.w->state, n->id, &v) || !v.up)
        return;
    n->condemned = true;
    n->condemned_as = v.incarnation;
    down.node = n->id;
    down.incarnation = v.incarnation;
    WORLD_OP(op, NODE_DOWN, node_down) = &down;
    propose_copy(&op);
}

static void accept_mail(void)
{
    struct world_enqueue e;
    Mailraft__Assignment a = MAILRAFT__ASSIGNMENT__INIT;
    uint32_t acceptor = 1 + (uint32_t)chance(NODES);
    const char *next_hop = hops[chance(HOPS)].name;
    uint64_t holders = (uint64_t)0x1E & ~(chance(2) << (1 + chance(NODES)));

    if (s.w->next_id + 2 >= MAILS || !s.nodes[acceptor].running)
        return;
    world_enqueue_init(s.w, &e, next_hop, acceptor, holders, NULL);
    if (chance(3) == 0)
        e.enqueue.priority = (int32_t)chance(19) - 9;
    if (sched_grant(s.w->sched, e.id, 0, next_hop, acceptor, s.w->now_ns, &a)) {
        e.assign[0] = &a;
        e.enqueue.n_assign = 1;
        s.granted_at[id_number(e.id)] = s.ms;
    }
    propose_copy(&e.op);
}

static void leader_tick(void)
{
    Mailraft__Op *ops[SCHED_MAX_ASSIGN];
    uint64_t again;
    struct mr_id id;

    if (!s.leading && s.elect_at <= s.ms)
        leader_elected();
    if (!s.calm && s.leading && chance(600) == 0)
        leader_change();
    apply_due();
    if (!s.leads_fully)
        return;
    for (uint32_t i = 1; i <= NODES; i++)
        bury(&s.nodes[i]);
    struct state_counts c;
    state_counts(s.w->state, &c);
    if (!s.calm && c.messages < 300)
        for (uint64_t k = chance(4); k > 0; k--)
            accept_mail();
    size_t n = sched_step(s.w->sched, s.w->now_ns, ops, 1 + chance(SCHED_MAX_ASSIGN), &again);
    for (size_t i = 0; i < n; i++)
        if (ops[i]->kind_case == MAILRAFT__OP__KIND_ASSIGN &&
            mr_id_from_bytes(ops[i]->assign->id.data, ops[i]->assign->id.len, &id) == 0)
            s.granted_at[id_number(id)] = s.ms;
    if (n > 0)
        propose(ops, n);
    else if (s.ms >= s.last_entry + 50)
        propose(NULL, 0);
}

/* S1 */
static void check_connections(void)
{
    unsigned open[SITES] = {0};

    for (uint32_t i = 1; i <= NODES; i++)
        for (unsigned h = 0; h < HOPS; h++)
            for (uint32_t slot = 0; slot < SLOTS; slot++)
                open[hops[h].site] += s.nodes[i].open[h][slot];
    for (unsigned site = 0; site < SITES; site++)
        if (sites[site].connections != 0 && open[site] > sites[site].connections)
            fail_msg("S1: %u connections to %s at %llu ms", open[site], sites[site].site, (unsigned long long)s.ms);
    if (open[0] > s.most_open)
        s.most_open = open[0];
}

static void run_until(uint64_t end)
{
    for (; s.ms < end; s.ms += TICK_MS) {
        struct state_counts c;
        s.w->now_ns = (1000 + s.ms) * MR_NS_PER_MS;
        leader_tick();
        for (uint32_t i = 1; i <= NODES; i++)
            node_tick(&s.nodes[i]);
        check_connections();
        if (s.ms % 1000 == 0)
            sched_check(s.w->sched);
        state_counts(s.w->state, &c);
        if (s.calm && c.messages == 0 && s.log == NULL)
            return;
    }
}

static void sim_open(void)
{
    memset(&s, 0, sizeof(s));
    s.w = world_open(NODES);
    world_rules(s.w, sites, SITES, false);
    s.w->assigned = sim_assigned;
    s.w->unassigned = sim_unassigned;
    s.w->quiet = true;
    for (uint32_t i = 1; i <= NODES; i++) {
        s.nodes[i].id = i;
        s.nodes[i].running = true;
        s.nodes[i].incarnation = 1;
        s.nodes[i].applied = s.w->index;
    }
}

static void sim_close(void)
{
    while (s.log != NULL) {
        struct entry *e = s.log;
        s.log = e->next;
        free_entry(e);
    }
    for (uint32_t i = 1; i <= NODES; i++) {
        for (unsigned k = 0; k < s.nodes[i].n_beats; k++)
            mailraft__heartbeat__free_unpacked(s.nodes[i].beats[k].hb, NULL);
        free(s.nodes[i].events);
    }
    world_close(s.w);
}

static void limits_hold_through_faults(void **state)
{
    (void)state;
    const char *given = getenv("SEED");
    /* Fixed ones by default: a red check speaks of the change. A loop over SEED looks for more. */
    unsigned seed = given != NULL ? (unsigned)strtoul(given, NULL, 10) : 100;
    unsigned rounds = given != NULL ? 1 : 6;

    for (unsigned round = 0; round < rounds; round++, seed++) {
        print_message("SEED=%u\n", seed);
        srand(seed);
        sim_open();
        run_until(100000);
        print_message("%u delivered, %u changes of leader, %u crashes, %u declared down, %u open at most\n",
                      s.delivered, s.changes, s.crashes, s.deaths, s.most_open);
        assert_true(s.delivered > 300 && s.changes > 3 && s.crashes > 3 && s.most_open == sites[0].connections);
        s.calm = true;
        for (uint32_t i = 1; i <= NODES; i++)
            s.nodes[i].cut_until = 0;
        run_until(s.ms + 1200000);
        struct state_counts c;
        state_counts(s.w->state, &c);
        assert_int_equal(c.messages, 0);
        sim_close();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits_hold_through_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
