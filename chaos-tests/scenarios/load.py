"""mailraft-load and mailraft-sink: who sends, who receives, and their journals."""

import itertools
import signal
import subprocess

from scenarios.common import harness, read_slim, wait_for


class Load:
    """One run of mailraft-load; its messages are counted from its journal as it grows."""

    numbers = itertools.count(1)

    def __init__(self, world, targets, rate=200, sessions=12, size=1024, messages=1000000, seed=1, extra=()):
        n = next(Load.numbers)
        self.journal = world.dir / f"load-{n}.jsonl"
        self.process = world.target.spawn_load(
            ["--to", ",".join(targets), "--messages", messages, "--sessions", sessions, "--size", size, "--rate", rate,
             "--journal", self.journal, "--seed", seed, "--give-up", "120", "--timeout", "60", "--quiet",
             "--messages-per-session", "50", *extra],
            f"load-{n}.log",
        )
        self.read_to = 0
        self.count = 0

    def accepted(self):
        if self.journal.exists():
            with open(self.journal, "rb") as f:
                f.seek(self.read_to)
                new = f.read()
            end = new.rfind(b"\n") + 1
            self.count += new[:end].count(b'"event":"sent"')
            self.read_to += end
        return self.count

    def alive(self):
        return self.process.alive()

    def stop(self, limit=150):
        """Begins no further message; those under way are tried to their end."""
        if self.alive():
            self.process.signal(signal.SIGTERM)
        try:
            return self.process.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"mailraft-load did not end within {limit} s; see {self.process.log}") from None


class Sink:
    """The next hop. A change of its faults is a restart: what is under way there is then broken off before its answer, or was
    answered; the sink writes its journal and answers in one step, so that nothing lies between."""

    def __init__(self, world, name, host, port, args=()):
        self.world = world
        self.name = name
        self.host = host
        self.port = port
        self.usual = [str(a) for a in args]
        self.journal = world.dir / f"{name}.jsonl"
        self.process = None
        self.faulty = False
        self.paused = False

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def start(self, *args):
        self.process = self.world.target.spawn_sink(
            ["--listen", self.address, "--journal", self.journal, "--quiet", *(args or self.usual)], f"{self.name}.log"
        )
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        wait_for(lambda: harness.can_connect(self.port, host), f"the next hop {self.name} listens", 20)
        return self

    def alive(self):
        return self.process is not None and self.process.alive()

    def end(self):
        if self.alive():
            self.resume()
            self.process.end(20)

    def kill(self):
        if self.alive():
            self.process.kill()
        self.faulty = True
        self.world.mark(f"{self.name} killed")

    def pause(self):
        self.process.signal(signal.SIGSTOP)
        self.paused = True
        self.world.mark(f"{self.name} paused")

    def resume(self):
        if self.paused:
            self.process.signal(signal.SIGCONT)
            self.paused = False

    def fault(self, *specs):
        """--fault with these clauses, beside the dice's seed."""
        self.end()
        self.faulty = True
        seed = self.world.rng.randrange(1, 1 << 31)
        self.start(*self.usual, "--fault", ",".join([*specs, f"seed={seed}"]))
        self.world.mark(f"{self.name}: {', '.join(specs)}")

    def heal(self):
        self.resume()
        if self.faulty or not self.alive():
            self.end()
            self.faulty = False
            self.start()
            self.world.mark(f"{self.name} well")

    def received(self):
        keys = ("event", "time", "key", "message_id", "recipients", "replied", "peer", "sender", "dsn", "original_id", "original_key", "reports")
        return [e for e in read_slim(self.journal, keys) if e.get("event") == "received"]
