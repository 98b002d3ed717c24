"""As the queue grows: mailraft with N messages queued because their next hop is down."""

import json
import signal
import statistics
import subprocess
import threading
import time

import loads
import measure
import servers
from servers import BIN, wait_for

FILL_SESSIONS, FILL_SIZE = 60, 1024
PAUSE = "30s"  # between attempts: what was tried while the next hop was down comes again so soon after it is back


class Waiting(servers.Mailraft):
    """Accepts, tries to deliver, and finds nobody there."""

    def start(self):
        super().start()
        self.cluster.reconfigure(delivery={"retry": {"first": PAUSE, "factor": 1, "max": PAUSE, "warn_after": "0s"}, "connect_timeout": "5s"})
        # Nodes take other retries at SIGHUP; the leader's count.
        for node in self.cluster.nodes:
            node.signal(signal.SIGHUP)


class Stalls:
    """The longest time for which a snapshot held up a node's core loop, looked at each second while it is open."""

    def __init__(self, nodes):
        self.nodes, self.longest, self.bytes = nodes, 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def look(self):
        for node in self.nodes:
            self.longest = max(self.longest, node.metric("raft_last_snapshot_stall_microseconds"))
            self.bytes = max(self.bytes, node.metric("raft_last_snapshot_bytes"))

    def watch(self):
        while not self.ended.wait(1):
            self.look()

    def close(self):
        self.ended.set()
        self.thread.join()
        self.look()


def accept_rates(clusters, folder, rounds, messages, rest):
    """Messages a second of each cluster and round, alternately: 20 sessions, 10 KB, many a session."""
    rates = [[] for _ in clusters]
    for number in range(rounds):
        for which in sorted(range(len(clusters)), reverse=bool(number % 2)):
            time.sleep(rest)
            begun = time.monotonic()
            loads.source(clusters[which].ports, messages, 20, 10240, True, folder)
            rates[which].append(messages / (time.monotonic() - begun))
    return rates


def compare_with_empty(server, folder, port, rounds, messages, rest):
    """Median rates of a new cluster whose queue is nearly empty and of this one: side by side, since a machine is rarely as fast
    minutes later."""
    folder = folder / "empty"
    folder.mkdir()
    folder.chmod(0o755)
    other = Waiting(folder, None, port, False, None)
    try:
        loads.source(other.ports, loads.WARM, 20, 10240, True, folder)
        return [statistics.median(rates) for rates in accept_rates((other, server), folder, rounds, messages, rest)]
    finally:
        other.close()


def fill(server, folder, n, say):
    """Until n are queued, in steps small enough to be told of."""
    while True:
        missing = n - server.cluster.queued()
        say(f"  {n - missing:,} queued")
        if missing <= 0:
            return
        loads.source(server.ports, min(missing, 50000), FILL_SESSIONS, FILL_SIZE, True, folder)


def ask_queue(server):
    """Seconds of `mailraftctl queue`, the program's start included: median of five."""
    times = []
    for _ in range(5):
        begun = time.monotonic()
        done = subprocess.run([BIN / "mailraftctl", "--server", f"http://127.0.0.1:{server.cluster.nodes[0].http}", "--json", "queue"],
                              capture_output=True, text=True, check=True)
        times.append(time.monotonic() - begun)
        json.loads(done.stdout)
    return statistics.median(times)


def restart(cluster, nodes):
    """Seconds from the start of killed nodes until all of them are ready."""
    for node in nodes:
        node.kill()
    begun = time.monotonic()
    for node in nodes:
        node.start()
    wait_for(lambda: all(node.ready() for node in nodes), "the nodes are ready", loads.LIMIT)
    return time.monotonic() - begun


def drain(server, folder, port):
    """(seconds until the first message arrived after the next hop was back, seconds until all had, messages a second while the
    middle nine tenths of them came, how many). The last ones may wait for their own next attempt."""
    waiting = server.cluster.queued()
    begun = time.monotonic()
    sink = servers.Sink(folder, port)
    seen, arrivals = 0, []  # (when, how many by then)
    try:
        while seen < waiting:
            count, now = sink.count(), time.monotonic()
            if count > seen:
                seen = count
                arrivals.append((now, count))
            elif now - (arrivals[-1][0] if arrivals else begun) > loads.LIMIT:
                raise AssertionError(f"nothing was delivered for {loads.LIMIT:.0f} s; {waiting - seen} messages wait")
            time.sleep(0.02)
    finally:
        sink.close()
    low = next(a for a in arrivals if a[1] >= waiting * 0.05)
    high = next(a for a in arrivals if a[1] >= waiting * 0.95)
    rate = (high[1] - low[1]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
    return arrivals[0][0] - begun, arrivals[-1][0] - begun, rate, waiting


def measure_queue(folder, n, rounds, scale, rest, say):
    """[{"what", "value", "number"}] in the order in which they were measured."""
    rows = []

    def row(what, value, number):
        rows.append({"what": what, "value": value, "number": number})
        say(f"  {what}: {value}")

    messages = max(60, int(6000 * scale))
    port = servers.free_port()
    server = Waiting(folder, None, port, False, None)
    try:
        cluster, nodes = server.cluster, server.cluster.nodes
        loads.source(server.ports, loads.WARM, 20, 10240, True, folder)
        before, had = [measure.rss_bytes(node.pid) for node in nodes], cluster.queued()
        stalls = Stalls(nodes)
        try:
            fill(server, folder, n, say)
            empty, full = compare_with_empty(server, folder, port, rounds, messages, rest)
        finally:
            stalls.close()
        row("accept, nearly empty queue (20 sessions, 10 KB, many a session), /s", f"{empty:,.0f}", empty)
        row(f"accept, {n:,} queued, alternately with that, /s", f"{full:,.0f} ({100 * full / empty:.0f} % of that)", 100 * full / empty)
        queued = cluster.queued()
        grown = [(measure.rss_bytes(node.pid) - b) / max(1, queued - had) for node, b in zip(nodes, before)]
        row("memory (RSS) a queued message, bytes, by node", ", ".join(f"{g:.0f}" for g in grown), max(grown))
        state = [node.metric("state_memory_bytes") / queued for node in nodes]
        row("of that the queue's state, bytes", ", ".join(f"{s:.0f}" for s in state), max(state))
        row(f"a snapshot stalls the core loop ({stalls.bytes / 1e6:.1f} MB; longest seen), ms", f"{stalls.longest / 1000:.0f}", stalls.longest / 1000)
        asked = ask_queue(server)
        row("`mailraftctl queue`, ms", f"{1000 * asked:.0f}", 1000 * asked)
        follower = next(node for node in nodes if node is not cluster.leader())
        for what, which in (("restart of a node", [follower]), ("restart of all nodes", nodes)):
            time.sleep(rest)
            took = restart(cluster, which)
            row(f"{what} after kill -9, until ready, s", f"{took:.1f}", took)
        time.sleep(rest)
        first, whole, rate, waiting = drain(server, folder, port)
        row("the next hop is back: first message after, s", f"{first:.1f}", first)
        row(f"all {waiting:,} messages after, s (attempts are {PAUSE} apart)", f"{whole:.1f}", whole)
        row("the middle nine tenths of them drain at, /s", f"{rate:,.0f}", rate)
    finally:
        server.close()
    return rows
