"""The usual target: mailraftd processes of this machine, in network namespaces where they can be had, else on loopback."""

import os
import secrets
import shutil
import signal
import subprocess

from scenarios import network
from scenarios.common import LIMIT, Node, Process, harness, run
from scenarios.load import Sink

TRACE_EVERY = 100  # entries between two hashes of the state


class LocalNode(Node):
    """A mailraftd whose beginnings and ends are marked in the time line."""

    def __init__(self, target, name):
        super().__init__(target, name)
        self.target = target
        self.data = self.dir / "data"
        self.trace = self.dir / "trace"
        self.overlay = {}
        self.paused = False
        self.wanted = False  # the scenario expects it to live
        self.in_namespace = []
        self.mishaps = []  # ends that nobody ordered

    @property
    def smtp_address(self):
        return f"{self.host}:{self.smtp}"

    def peers(self):
        """Addresses that the next hop sees it come from; None when they tell nothing (loopback)."""
        return self.host if self.in_namespace else None

    def start(self):
        assert not self.alive(), f"{self.name} runs"
        prefix = self.prefix
        self.prefix = [*self.in_namespace, *prefix]
        try:
            super().start()
        finally:
            self.prefix = prefix
        self.wanted = True
        self.paused = False
        self.target.world.mark(f"{self.name} started")
        return self

    def kill(self):
        self.target.world.leader_hit(self.name)
        self.wanted = False
        if self.paused:
            self.signal(signal.SIGCONT)
            self.paused = False
        if self.alive():
            super().kill()
        self.target.world.mark(f"{self.name} killed")

    def terminate(self, limit=LIMIT):
        """SIGTERM, and waits; the exit status."""
        self.target.world.leader_hit(self.name)
        self.wanted = False
        self.target.world.mark(f"{self.name} SIGTERM")
        return self.end(limit)

    def pause(self):
        self.target.world.leader_hit(self.name)
        self.target.world.paused_at(self.name)
        self.signal(signal.SIGSTOP)
        self.paused = True
        self.target.world.mark(f"{self.name} paused")

    def resume(self):
        if self.paused:
            self.target.world.resumed_at(self.name)
            self.signal(signal.SIGCONT)
            self.paused = False
            self.target.world.mark(f"{self.name} resumed")

    def wipe(self):
        assert not self.alive()
        shutil.rmtree(self.data, ignore_errors=True)
        self.target.world.mark(f"{self.name} wiped")

    def crashed(self):
        """True when it has ended though nobody ended it."""
        return self.wanted and not self.alive()

    def figures(self):
        """Open files and resident memory in KiB; None when it does not run."""
        try:
            fds = len(os.listdir(f"/proc/{self.pid}/fd"))
            with open(f"/proc/{self.pid}/status", encoding="ascii") as f:
                rss = next((int(line.split()[1]) for line in f if line.startswith("VmRSS")), 0)
        except (OSError, AttributeError):
            return None
        return {"fds": fds, "rss_kib": rss, "pid": self.pid}


class LocalTarget(harness.Cluster):
    name = "local"
    unchecked = {}

    def __init__(self, world, folder, n, **overrides):
        self.world = world
        self.net = None
        self.hosts = {}
        self.token = secrets.token_hex(8)
        names = [f"mx{i + 1}" for i in range(n)]
        why = network.missing()
        if why is None:
            self.net = network.Network(names, world)
            self.hosts = self.net.places
        super().__init__(folder, 0, tls=self.net is not None, **overrides)
        self.nodes = [LocalNode(self, name) for name in names]
        for node in self.nodes:
            if self.net:
                node.host = self.hosts[node.name]
                node.smtp, node.peer, node.http = 2525, 7400, 8025
                node.in_namespace = self.net.prefix(node.name)
                node.token = self.token
        if self.net:
            (self.dir / "token").write_text(self.token + "\n")
            (self.dir / "token").chmod(0o600)
            self.make_certificates()

    @staticmethod
    def capabilities():
        """What can be done here: name -> None, or why not."""
        root = None if os.geteuid() == 0 and not os.environ.get("MAILRAFT_USER_NAMESPACE") else "needs root"
        found = {"local": None, "down": None, "config": None, "files": None, "pause": None, "network": network.missing(), "root": root}
        found["upgrade"] = None if os.environ.get("MAILRAFT_OLD") else "MAILRAFT_OLD names no folder with an older mailraftd"
        for tool in ("strace", "faketime"):
            found[tool] = None if shutil.which(tool) else f"{tool} is not installed"
        if found["strace"] is None:
            done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
            found["strace"] = "strace may not trace here" if done.returncode else None
        return found

    def sink_host(self):
        return self.hosts.get("hop", "127.0.0.1")

    def new_sink(self, name, args=()):
        return Sink(self.world, name, self.sink_host(), harness.free_port(), args)

    def config(self, node):
        config = super().config(node)
        if self.net:
            config["cluster"]["listen"] = f"{node.host}:{node.peer}"
            config["cluster"]["initial"] = [f"{n.name}={n.host}:{n.peer}" for n in self.nodes]
            config["smtp"]["listeners"] = [{"listen": f"{node.host}:{node.smtp}"}]
            config["smtp"]["relay_from"] = [f"{network.NET}.0/24"]
            config["http"] = {"listen": f"{node.host}:{node.http}", "token_file": str(self.dir / "token")}
        config["routes"] = {"default": f"smtp://{self.world.sink.address}"}
        config["debug"] = {"apply_trace": str(node.trace), "state_hash_every": TRACE_EVERY}
        for overlay in (self.overrides, node.overlay):
            for section, values in overlay.items():
                if values is None:
                    config.pop(section, None)
                elif isinstance(values, dict) and isinstance(config.get(section), dict):
                    config[section].update(values)
                else:
                    config[section] = values
        return config

    def configure_all(self):
        for node in self.nodes:
            node.configure(self.config(node))

    def start_all(self):
        for node in self.nodes:
            node.start()

    def stop_all(self, fail):
        """The orderly end of each node; fail(name, text) when it is none."""
        for node in self.nodes:
            if node.alive():
                node.wanted = False
                node.signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                status = node.popen.wait(LIMIT)
                if status != 0:
                    fail(node.name, f"ended with status {status} after SIGTERM")
            except subprocess.TimeoutExpired:
                fail(node.name, "did not end after SIGTERM")
                Process.kill(node)

    @staticmethod
    def log_of(node):
        return node.text()

    @staticmethod
    def trace_of(node):
        return node.trace.read_text(errors="replace") if node.trace.exists() else ""

    def spawn_load(self, args, log):
        prefix = self.net.prefix("load") if self.net else []
        return self.spawn([*prefix, harness.BIN / "mailraft-load", *args], log)

    def spawn_sink(self, args, log):
        prefix = self.net.prefix("hop") if self.net else []
        return self.spawn([*prefix, harness.BIN / "mailraft-sink", *args], log)

    def send_by(self, node, journal, log):
        """Messages to this node alone; true when all were accepted."""
        child = self.spawn_load(["--to", node.smtp_address, "--messages", 3, "--sessions", 1, "--size", 100, "--journal",
                                 journal, "--give-up", "20", "--quiet"], log)
        try:
            return child.popen.wait(40) == 0
        except subprocess.TimeoutExpired:
            child.kill()
            return False

    def make_certificates(self):
        """One authority for a whole run of the runner: keys take time."""
        pki = self.world.shared / "pki"
        if not (pki / "ca.pem").exists():
            run([harness.BIN / "mailraftctl", "pki", "init", pki])
        for node in self.nodes:
            if not (pki / f"{node.name}.pem").exists():
                run([harness.BIN / "mailraftctl", "pki", "issue", pki, node.name])
        if not (self.dir / "pki").exists():
            (self.dir / "pki").symlink_to(pki)

    def close(self):
        for node in self.nodes:
            if node.alive():
                node.signal(signal.SIGCONT)
                Process.kill(node)
        for child in self.children:
            child.signal(signal.SIGCONT)
            child.kill()
        if self.net:
            self.net.close()
