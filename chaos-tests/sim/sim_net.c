/* The paths between nodes: what is cut, how long a packet takes, what a machine's line carries. The connections that go
 * over them are in sim_wire.c.
 *
 * Each world has a kind of network of its own (profiles), which sim_net_delay replaces for a time. */
#include "chaos-tests/sim/sim_wire.h"

#include "proto/base/panic.h"

#include <string.h>

enum { US = 1000, MS = 1000 * US };

struct delays {
    uint64_t least, most, spike_ns;
    double spike;
};

static const struct delays profiles[] = {
    {20 * US, 200 * US, 2 * MS, 0.001},                       /* one machine */
    {100 * US, 1 * MS, 20 * MS, 0.001},                       /* a hall */
    {1 * MS, 3 * MS, (uint64_t)50 * MS, 0.002},               /* a town */
    {(uint64_t)5 * MS, (uint64_t)50 * MS, 300UL * MS, 0.002}, /* a continent */
};

static struct {
    unsigned nodes;
    struct delays own, now;
    bool cut[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
    bool down[SIM_MAX_NODES + 1];             /* without power since its life ended */
    uint64_t bytes_per_s[SIM_MAX_NODES + 1];  /* 0: no limit */
    uint64_t line_free_at[SIM_MAX_NODES + 1]; /* what a slow line still has to carry */
    double loss, duplicate, reorder;
    size_t window;
} net;

void sim_net_start(unsigned nodes)
{
    static const size_t windows[] = {64 << 10, 256 << 10, 2 << 20, 6 << 20};
    mr_assert(nodes <= SIM_MAX_NODES);
    memset(&net, 0, sizeof(net));
    net.nodes = nodes;
    uint64_t kind = sim_below(SIM_NET, 10); /* mostly near: far ones make few messages in a world's time */
    net.own = net.now = profiles[kind < 4 ? 0 : kind < 7 ? 1 : kind < 9 ? 2 : 3];
    net.window = windows[sim_below(SIM_NET, 4)];
    wires_start();
}

/* ---- what sim_wire.c asks ---- */

bool net_machine_is_up(unsigned node)
{
    return !net.down[node];
}

void net_machine_started(unsigned node)
{
    if (!net.down[node])
        return;
    net.down[node] = false;
    wires_machine_changed(node);
}

size_t net_window(void)
{
    return net.window;
}

static uint64_t line(unsigned node, size_t size, uint64_t from)
{
    if (net.bytes_per_s[node] == 0)
        return from;
    if (net.line_free_at[node] > from)
        from = net.line_free_at[node];
    return net.line_free_at[node] = from + size * 1000000000 / net.bytes_per_s[node];
}

uint64_t net_arrival(unsigned from, unsigned to, size_t size)
{
    uint64_t at = line(to, size, line(from, size, sim_now()));
    at += sim_between(SIM_NET, net.now.least, net.now.most);
    if (sim_chance(SIM_NET, net.now.spike))
        at += sim_below(SIM_NET, net.now.spike_ns + 1);
    return at;
}

enum net_fate net_raft_fate(void)
{
    if (net.loss > 0 && sim_chance(SIM_NET, net.loss))
        return NET_LOST;
    if (net.duplicate > 0 && sim_chance(SIM_NET, net.duplicate))
        return NET_DOUBLED;
    if (net.reorder > 0 && sim_chance(SIM_NET, net.reorder))
        return NET_LATE;
    return NET_PASSES;
}

/* ---- faults ---- */

bool sim_net_is_cut(unsigned from, unsigned to)
{
    return net.cut[from][to];
}

void sim_net_cut(unsigned from, unsigned to, bool cut)
{
    if (net.cut[from][to] == cut || from == to)
        return;
    net.cut[from][to] = cut;
    sim_result()->cuts += cut;
    wires_path_changed(from, to);
}

void sim_net_drop(unsigned a, unsigned b)
{
    wires_drop(a, b);
}

void sim_net_raft(double loss, double duplicate, double reorder)
{
    net.loss = loss;
    net.duplicate = duplicate;
    net.reorder = reorder;
}

void sim_net_delay(uint64_t least_ns, uint64_t most_ns, double spike, uint64_t spike_ns)
{
    net.now = most_ns == 0 ? net.own : (struct delays){least_ns, most_ns, spike_ns, spike};
}

void sim_net_slow(unsigned node, uint64_t bytes_per_s)
{
    net.bytes_per_s[node] = bytes_per_s;
    net.line_free_at[node] = 0;
    wires_retime();
}

void sim_net_heal(void)
{
    net.now = net.own;
    net.loss = net.duplicate = net.reorder = 0;
    memset(net.bytes_per_s, 0, sizeof(net.bytes_per_s));
    memset(net.line_free_at, 0, sizeof(net.line_free_at));
    wires_retime();
    for (unsigned from = 1; from <= net.nodes; from++)
        for (unsigned to = 1; to <= net.nodes; to++)
            sim_net_cut(from, to, false);
}

void sim_net_node_ended(unsigned node, enum sim_end how)
{
    wires_node_ended(node, how);
    if (how != SIM_POWER)
        return;
    net.down[node] = true;
    wires_machine_changed(node);
}
