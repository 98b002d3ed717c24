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
        self.bands = []  # {name, begin, end}
        self.marks = []  # (time, text)
        self.notes = {}
        self.pauses = []  # {node, begin, end}
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

    def leader(self, among=None, limit=LIMIT):
        """The node that most of those that answer, and have a quorum, take for the leader; waits until there is one."""

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

    @property
    def load(self):
        return self.loads[0]

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
        nodes = list(nodes or self.nodes)
        wait_for(lambda: all(n.ready() for n in nodes), f"{[n.name for n in nodes]} are ready", limit, 0.05)

    def run_for(self, seconds):
        """Where a length of time is itself what is tried."""
        time.sleep(seconds)

    # ---- the time line ----

    def begin(self, name):
        with self.lock:
            self.bands.append({"name": name, "begin": time.time(), "end": None})
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
