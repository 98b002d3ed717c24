"""What a scenario has in its hands; `scenarios/__init__.py` describes it."""

import contextlib
import random
import threading
import time

from scenarios import Busy
from scenarios.common import LIMIT, wait_for
from scenarios.load import Load
from scenarios.watch import Watch


class World:
    def __init__(self, scenario, seed, folder, shared, make_target):
        self.scenario = scenario
        self.seed = seed
        self.rng = random.Random(f"{seed}/{scenario.name}")
        self.dir = folder
        self.shared = shared
        self.minutes = None
        self.capabilities = {}
        self.own_senders = {"data@load.invalid"}  # of messages that a scenario sends itself
        self.owed = []  # ids of messages that got 250 outside of the load's journals
        self.bands = []  # {name, begin, end}
        self.marks = []  # (time, text)
        self.notes = {}
        self.pauses = []  # {node, begin, end}
        self.recovery = 0.0
        self.leader_hits = []  # (time, node that led)
        self.loads = []
        self.sinks = []
        self.claims = set()
        self.claiming = None
        self.cleanups = []
        self.lock = threading.RLock()
        self.tell = lambda text: None  # the runner's progress line
        self.began = time.time()
        self.watch = None
        self.sink = None
        self.target = make_target(self, folder, scenario)

    # ---- who is there ----

    @property
    def nodes(self):
        return self.target.nodes

    @property
    def net(self):
        return self.target.net

    def node(self, name):
        return next(n for n in self.nodes if n.name == name)

    def alive(self):
        return [n for n in self.nodes if n.alive()]

    def awake(self):
        return [n for n in self.nodes if n.alive() and not n.paused]

    def leader(self, among=None, limit=None):
        """The node that most of those that answer, and have a quorum, take for the leader; waits until there is one. A fault of the
        mix does not wait long: others may have left no majority."""
        limit = limit or (LIMIT if self.claiming is None else 2)

        def look():
            names = [s["leader"] for s in (n.get("/v1/status", 2) for n in (among or self.awake())) if s and s["quorum"]]
            return next((n for n in self.nodes if names.count(n.name) * 2 > len(names)), None)

        return wait_for(look, "there is a leader", limit)

    def followers(self):
        leader = self.leader()
        return [n for n in self.nodes if n is not leader]

    # ---- claims of the mix ----

    def claim(self, nodes):
        free = [n for n in nodes if n.name not in self.claims]
        if not free:
            raise Busy
        node = self.rng.choice(free)
        self._claim(node.name)
        return node

    def claim_all(self):
        if any(n.name in self.claims for n in self.nodes):
            raise Busy
        for n in self.nodes:
            self._claim(n.name)
        return list(self.nodes)

    def claim_thing(self, name):
        if name in self.claims:
            raise Busy
        self._claim(name)

    def _claim(self, name):
        self.claims.add(name)
        if self.claiming is not None:
            self.claiming.append(name)

    # ---- load ----

    def start_load(self, to=None, **options):
        settings = {"rate": self.scenario.rate, "sessions": self.scenario.sessions, "size": self.scenario.size,
                    "extra": self.scenario.load_args, **options}
        load = Load(self, [n.smtp_address for n in (to or self.nodes)], seed=self.rng.randrange(1, 1 << 31), **settings)
        self.loads.append(load)
        return load

    def start_usual_load(self, rate=None):
        """Half of it by sessions that go from node to node when one refuses or is gone, half by sessions that stay with one node
        each: the hanging of those that have to do with a paused node must not look like a silence of the cluster."""
        rate = (rate or self.scenario.rate) / 2
        sessions = max(2, self.scenario.sessions // 2)
        self.start_load(rate=rate, sessions=sessions)
        for node in self.nodes:
            self.start_load(to=[node], rate=rate / len(self.nodes), sessions=max(2, sessions // len(self.nodes)))

    @property
    def load(self):
        """All of it."""
        return self

    def accepted(self):
        return sum(load.accepted() for load in self.loads)

    def wait_accepted(self, n, limit=LIMIT):
        wanted = self.accepted() + n
        self.wait_for(lambda: self.accepted() >= wanted, f"{n} more messages are accepted", limit, every=0.05)

    def another_sink(self, name, *args, start=True):
        sink = self.target.new_sink(name, args)
        self.sinks.append(sink)
        return sink.start() if start else sink

    # ---- time ----

    def wait_for(self, condition, what, limit=LIMIT, every=0.05):
        return wait_for(condition, what, limit, every)

    def wait_ready(self, nodes=None, limit=LIMIT):
        """The longest of these waits is the run's recovery time: a scenario calls it when it has healed something."""
        nodes = list(nodes or self.nodes)
        begun = time.monotonic()
        wait_for(lambda: all(n.ready() for n in nodes), f"{[n.name for n in nodes]} are ready", limit, 0.05)
        if self.watch:
            self.recovery = max(self.recovery, time.monotonic() - begun)

    def run_for(self, seconds):
        """Where a length of time is itself what is tried."""
        time.sleep(seconds)

    # ---- the time line ----

    def begin(self, name, since=None):
        with self.lock:
            self.bands.append({"name": name, "begin": since or time.time(), "end": None})
        self.tell(name)

    def end(self, name):
        with self.lock:
            for band in reversed(self.bands):
                if band["name"] == name and band["end"] is None:
                    band["end"] = time.time()
                    return

    @contextlib.contextmanager
    def band(self, name):
        self.begin(name)
        try:
            yield
        finally:
            self.end(name)

    def mark(self, text):
        with self.lock:
            self.marks.append((time.time(), text))

    def note(self, key, value):
        self.notes[key] = value

    def cleanup(self, function):
        self.cleanups.append(function)

    def leader_hit(self, name):
        """A fault is about to hit this node; when it leads, the takeover time counts from now."""
        if self.watch and self.watch.leader_name() == name:
            self.leader_hits.append((time.time(), name))

    def lost_leader(self):
        if self.watch and self.watch.leader_name():
            self.leader_hits.append((time.time(), self.watch.leader_name()))

    @staticmethod
    def now():
        return time.time()

    def lacking(self, fault):
        return next((n for n in fault.needs if self.capabilities.get(n, "unknown")), None)

    def owe(self, message):
        """A message id that a client of the scenario's own got 250 for: it has to arrive too."""
        self.owed.append(message)

    def check_round(self):
        """Between rounds of a long run: nobody has ended by itself, and the queue drains."""
        for node in self.nodes:
            assert not node.crashed(), f"{node.name} ended by itself"
        self.leader()
        samples = []

        def bounded():
            samples.append(max((s["queue"]["messages"] for s in (n.get("/v1/status") for n in self.nodes) if s), default=0))
            return samples[-1] < 10 * self.scenario.rate

        self.wait_for(bounded, "the queue is short again", 60, every=0.5)

    def paused_at(self, name):
        self.pauses.append({"node": name, "begin": time.time(), "end": None})

    def resumed_at(self, name):
        for pause in reversed(self.pauses):
            if pause["node"] == name and pause["end"] is None:
                pause["end"] = time.time()
                return

    # ---- the run's own course ----

    def begin_watch(self):
        self.watch = Watch(self)
        self.watch.start()

    def heal(self):
        """Ends every fault that is still there."""
        if self.net:
            self.net.heal()
        for sink in self.sinks:
            sink.heal()
        for node in self.nodes:
            if node.paused:
                node.resume()
        for node in self.nodes:
            if not node.alive():
                node.start()
        for band in self.bands:
            if band["end"] is None:
                band["end"] = time.time()

    def close(self):
        if self.watch:
            self.watch.stop()
        for function in reversed(self.cleanups):
            with contextlib.suppress(Exception):
                function()
        self.target.close()
