"""Limits to a next hop hold for the cluster as a whole, through the death and the pause of the leader that grants."""

import json
import signal
import time

from harness import read_journal, wait_for

CONNECTIONS = 5
RATE = 50


def limited(make_cluster, messages, per_second, sink_args=(), **limit):
    """A cluster with a limit to its sink, under load by now."""
    c = make_cluster(
        sink_args=sink_args,
        delivery={
            "retry": {"first": "1s", "factor": 1.5, "max": "3s"},
            "limits": {"default": {"messages_per_connection": 20}, "127.0.0.1": limit},
        },
    ).start()
    load = c.load(messages, sessions=10, extra=["--rate", per_second, "--timeout", "60"])
    wait_for(lambda: c.accepted() >= messages // 4, "a quarter is accepted")
    return c, load


def finish(c, load, messages, among=None):
    assert load.popen.wait(300) == 0, load.text()
    c.wait_empty(among)
    counts = c.check_no_loss()
    assert counts["accepted"] == counts["delivered"] == messages, counts


def most_connections(c):
    """The sink's own count of connections open at one time, from its beginning to its end."""
    c.sink.end()
    final = [e for e in read_journal(c.sink_journal) if e["event"] == "connections"][-1]
    assert final["connections"] > 1, final
    return final["connections_max"]


def most_at_work(c):
    """As above, but a connection counts from the first message that came over it to the last. Lower than the truth,
    and blind to one that a stopped process holds open and can no longer use."""
    spans = {}
    for e in read_journal(c.sink_journal):
        if e["event"] == "received":
            begin, end = spans.get(e["connection"], (e["time"], e["time"]))
            spans[e["connection"]] = (min(begin, e["time"]), max(end, e["time"]))
    edges = sorted([(begin, 1) for begin, _ in spans.values()] + [(end, -1) for _, end in spans.values()])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def pause_leader(c, seconds=8):
    leader = c.leader()
    leader.signal(signal.SIGSTOP)
    # The pause itself is the fault: its length is what is tried.
    time.sleep(seconds)
    assert c.leader([n for n in c.nodes if n is not leader]) is not leader
    leader.signal(signal.SIGCONT)
    return leader


def test_connections_while_the_leader_is_killed(make_cluster):
    """Five connections, and work for more: the sink never sees a sixth."""
    c, load = limited(make_cluster, 900, 120, ["--fault", "stall@dot=0.04"], connections=CONNECTIONS)
    leader = c.leader()
    leader.kill()
    wait_for(lambda: c.accepted() >= 450, "the others accept")
    leader.start()
    finish(c, load, 900)
    assert most_connections(c) == CONNECTIONS


def test_connections_while_the_leader_is_paused(make_cluster):
    """The connections of a stopped process stand until it runs again, whatever anybody decides; but it does nothing
    with them, and the others together use no more than the limit."""
    c, load = limited(make_cluster, 900, 120, ["--fault", "stall@dot=0.04"], connections=CONNECTIONS)
    leader = pause_leader(c)
    finish(c, load, 900)
    c.wait_ready([leader])
    assert most_at_work(c) <= CONNECTIONS
    assert most_connections(c) <= 2 * CONNECTIONS


def most_over_rate(c):
    """How many more messages any window of the sink's journal holds than the rate allows in it and a second more.

    For times t0 <= t1 <= ...: the worst of (j - i + 1) - RATE * (t[j] - t[i] + 1), in one pass."""
    times = sorted(e["time"] for e in read_journal(c.sink_journal) if e["event"] == "received")
    worst = best_begin = float("-inf")
    for j, t in enumerate(times):
        best_begin = max(best_begin, -j + RATE * t)
        worst = max(worst, j + 1 - RATE * (t + 1) + best_begin)
    return worst


def test_rate_through_kill_and_pause(make_cluster):
    """50 a second, whatever window one looks at, while the leader is paused and another one killed."""
    c, load = limited(make_cluster, 800, 400, rate=f"{RATE}/s")
    paused = pause_leader(c)
    wait_for(lambda: len(read_journal(c.sink_journal)) > 350, "deliveries go on")
    leader = c.leader()
    leader.kill()
    finish(c, load, 800, c.alive())
    assert paused.alive()
    burst = RATE * 0.05
    assert most_over_rate(c) <= burst + 1, json.dumps([most_over_rate(c), c.in_doubt()])
