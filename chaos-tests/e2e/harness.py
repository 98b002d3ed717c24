"""A mailraft cluster of real processes on loopback, for tests that drive it as its users do.

Everything a test starts has a free port, a folder below the test's own, and ends by pid when the test does. When a test
fails, the folder with all logs and journals stays and the failure names it. Nothing here sleeps for a fixed time to
let something happen: wait_for polls a condition up to a limit that only a broken program reaches.
"""

import contextlib
import fcntl
import http.client
import itertools
import json
import os
import pathlib
import shutil
import signal
import smtplib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MAILRAFT_BIN", ROOT / "build" / "release" / "bin"))
# Sanitizers and busy machines are slow; a limit is there to end a test that hangs, not to judge speed.
LIMIT = float(os.environ.get("MAILRAFT_TEST_LIMIT", "120"))


def wait_for(condition, what, limit=LIMIT, every=0.02):
    """Polls until condition() is true and returns its value; fails with `what` at the limit."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit:.0f} s in vain: {what}")
        time.sleep(every)


def _port_range():
    """Ports of this process alone among the tests that run beside it, below the range from which the kernel picks ports for
    connections: the first of the ranges whose lock nobody holds. The lock ends with the process."""
    for n in range(24):
        path = pathlib.Path(tempfile.gettempdir()) / f"mailraft-ports-{n}"
        try:
            lock = open(path)  # another user's may be read, and locked, but not opened for writing
        except FileNotFoundError:
            path.touch(0o644)
            lock = open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return lock, itertools.cycle(range(20000 + 500 * n, 20500 + 500 * n))
    raise RuntimeError("all port ranges are in use")


_PORT_LOCK, _PORTS = _port_range()


def free_port():
    """A port that nobody listens on now."""
    for _, port in zip(range(500), _PORTS):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


class Process:
    """A child with its output in a file; killed when its owner ends."""

    def __init__(self, args, log, **kwargs):
        self.args = [str(a) for a in args]
        self.log = pathlib.Path(log)
        self.out = open(self.log, "ab")
        self.popen = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.out, **kwargs)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        if self.alive():
            self.popen.send_signal(number)

    def kill(self):
        """kill -9, and waits until the kernel has taken it away."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def end(self, limit=LIMIT):
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.args[0]} did not end after SIGTERM; see {self.log}") from None

    def text(self):
        return self.log.read_text(errors="replace")


class Node(Process):
    """One mailraftd."""

    def __init__(self, cluster, name):
        self.cluster = cluster
        self.name = name
        self.dir = cluster.dir / name
        self.dir.mkdir(exist_ok=True)
        self.smtp = free_port()
        self.peer = free_port()
        self.http = free_port()
        self.log = self.dir / "log"
        self.popen = None
        self.starts = 0
        self.program = BIN / "mailraftd"
        self.host = "127.0.0.1"  # where its ports are
        self.prefix = []  # a command that runs the program: strace, nsenter ...
        self.env = {}  # beside the cluster's
        self.token = None  # what its HTTP pages want, when it does not listen on loopback

    def configure(self, config):
        self.config = self.dir / "mailraft.yaml"
        self.config.write_text(json.dumps(config, indent=1))  # JSON is YAML

    def start(self):
        super().__init__(
            [*self.prefix, self.program, "--config", self.config], self.log, env={**self.cluster.env, **self.env}
        )
        self.starts += 1
        return self

    def alive(self):
        return self.popen is not None and super().alive()

    def request(self, path):
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return urllib.request.Request(f"http://{self.host}:{self.http}{path}", headers=headers)

    def get(self, path, limit=5):
        """JSON of an HTTP page, or None when the node does not answer."""
        try:
            with urllib.request.urlopen(self.request(path), timeout=limit) as r:
                text = r.read().decode()
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return None
        return json.loads(text) if text.startswith(("{", "[")) else text

    def status_code(self, path, limit=5):
        try:
            with urllib.request.urlopen(self.request(path), timeout=limit) as r:
                return r.status
        except urllib.error.HTTPError as e:
            return e.code
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return None

    def ready(self):
        return self.alive() and self.status_code("/readyz") == 200

    def metric(self, name):
        for line in (self.get("/metrics") or "").splitlines():
            if line.startswith(f"mailraft_{name} "):
                return int(line.split()[1])
        return 0

    def events(self, *names):
        """Log events of these names, as dicts."""
        found = []
        for line in self.text().splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if not names or event.get("event") in names:
                        found.append(event)
        return found


class Cluster:
    """Nodes, a sink as the next hop, and load."""

    def __init__(self, folder, n=3, sink_args=(), tls=False, env=None, **overrides):
        self.dir = pathlib.Path(folder)
        self.env = dict(os.environ, **(env or {}))
        self.tls = tls
        self.children = []
        self.sink_port = free_port()
        self.sink_args = list(sink_args)
        self.sink_journal = self.dir / "sink.jsonl"
        self.sink = None
        self.overrides = overrides
        self.nodes = [Node(self, f"mx{i + 1}") for i in range(n)]
        if tls:
            self.make_certificates()
        for node in self.nodes:
            node.configure(self.config(node))

    def config(self, node):
        config = {
            "node": {"name": node.name, "data_dir": str(node.dir / "data"), "workers": 1, "shutdown_timeout": "20s"},
            "cluster": {
                "listen": f"127.0.0.1:{node.peer}",
                "initial": [f"{n.name}=127.0.0.1:{n.peer}" for n in self.nodes],
            },
            "smtp": {
                "hostname": f"{node.name}.test",
                "listeners": [{"listen": f"127.0.0.1:{node.smtp}"}],
                "relay_from": ["127.0.0.0/8"],
            },
            "routes": {"default": f"smtp://127.0.0.1:{self.sink_port}"},
            "delivery": {"retry": {"first": "1s", "factor": 1.5, "max": "3s"}, "connect_timeout": "5s"},
            "http": {"listen": f"127.0.0.1:{node.http}"},
        }
        if self.tls:
            pki = self.dir / "pki"
            config["cluster"]["tls"] = {
                "ca": str(pki / "ca.pem"),
                "cert": str(pki / f"{node.name}.pem"),
                "key": str(pki / f"{node.name}.key"),
            }
        else:
            config["cluster"]["insecure"] = True
        for section, values in self.overrides.items():
            if isinstance(values, dict):
                config.setdefault(section, {}).update(values)
            else:
                config[section] = values
        return config

    def make_certificates(self):
        pki = self.dir / "pki"
        run([BIN / "mailraftctl", "pki", "init", pki])
        for node in self.nodes:
            run([BIN / "mailraftctl", "pki", "issue", pki, node.name])

    # ---- processes ----

    def start(self, sink=True):
        if sink:
            self.start_sink()
        for node in self.nodes:
            node.start()
        self.wait_ready()
        return self

    def start_sink(self):
        self.sink = self.spawn(
            [BIN / "mailraft-sink", "--listen", f"127.0.0.1:{self.sink_port}", "--journal", self.sink_journal,
             *self.sink_args],
            "sink.log",
        )
        wait_for(lambda: can_connect(self.sink_port), "the sink listens")
        return self.sink

    def another_sink(self, name, *args, host="127.0.0.1", port=None):
        """A further next hop; its .port and .journal say where."""
        port = port or free_port()
        journal = self.dir / f"{name}.jsonl"
        sink = self.spawn(
            [BIN / "mailraft-sink", "--listen", f"{host}:{port}", "--journal", journal, *args], f"{name}.log"
        )
        sink.port, sink.journal = port, journal
        wait_for(lambda: can_connect(port, host), f"the sink {name} listens")
        return sink

    def spawn(self, args, log):
        child = Process(args, self.dir / log)
        self.children.append(child)
        return child

    def reconfigure(self, **overrides):
        """Other configuration files; what the nodes make of them is their matter."""
        self.overrides.update(overrides)
        for node in self.nodes:
            node.configure(self.config(node))

    def load(self, messages, sessions=20, size=2048, to=None, journal="load.jsonl", log="load.log", extra=()):
        """Starts mailraft-load against the nodes (default all)."""
        targets = ",".join(f"127.0.0.1:{n.smtp}" for n in (to or self.nodes))
        return self.spawn(
            [BIN / "mailraft-load", "--to", targets, "--messages", messages, "--sessions", sessions, "--size", size,
             "--journal", self.dir / journal, "--give-up", "100", *extra],
            log,
        )

    def close(self):
        for node in self.nodes:
            if node.alive():
                node.signal(signal.SIGCONT)
                node.kill()
        for child in self.children:
            child.kill()

    # ---- what is ----

    def alive(self):
        return [n for n in self.nodes if n.alive()]

    def wait_ready(self, nodes=None):
        nodes = nodes or self.nodes
        wait_for(lambda: all(n.ready() for n in nodes), f"{[n.name for n in nodes]} are ready")

    def leader(self, among=None):
        """The node that leads, as a majority of those that answer sees it."""

        def look():
            names = [s["leader"] for s in (n.get("/v1/status") for n in (among or self.alive())) if s and s["quorum"]]
            for node in self.alive():
                if names and names.count(node.name) * 2 > len(names):
                    return node
            return None

        return wait_for(look, "there is a leader")

    def queued(self, among=None):
        counts = [s["queue"]["messages"] for s in (n.get("/v1/status") for n in (among or self.alive())) if s]
        return max(counts) if counts else None

    def wait_empty(self, among=None, limit=LIMIT):
        wait_for(lambda: self.queued(among) == 0, "the queue is empty", limit)

    def sent(self, journal="load.jsonl"):
        return read_journal(self.dir / journal)

    def accepted(self, journal="load.jsonl"):
        path = self.dir / journal
        return path.read_text().count('"event":"sent"') if path.exists() else 0

    def verify(self, journal="load.jsonl"):
        """mailraft-load verify: the counts, as a dict; its exit status must agree with them."""
        done = subprocess.run(
            [BIN / "mailraft-load", "verify", "--json", "--sent", self.dir / journal, "--received", self.sink_journal],
            capture_output=True, text=True, check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        counts = json.loads(done.stdout)
        clean = counts["lost"] == 0 and counts["altered"] == 0 and counts["invented"] == 0
        assert clean == (done.returncode == 0), (counts, done.returncode)
        return counts

    def in_doubt(self):
        """Deliveries that the cluster itself says may have been made twice."""
        names = ("in_doubt", "possibly_in_doubt", "late_outcome")
        return sum(len(n.events(*names)) for n in self.nodes if n.log.exists())

    def check_no_loss(self, journal="load.jsonl"):
        """Lost 0, altered 0, and second copies only where the promise allows them."""
        counts = self.verify(journal)
        assert counts["lost"] == 0 and counts["altered"] == 0 and counts["invented"] == 0, counts
        assert counts["duplicated"] <= self.in_doubt(), (counts, self.in_doubt())
        return counts


def read_journal(path):
    lines = []
    if pathlib.Path(path).exists():
        for line in pathlib.Path(path).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def can_connect(port, host="127.0.0.1"):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex((host, port)) == 0


def run(args, **kwargs):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Talk:
    """An SMTP client that sends exactly the bytes that it is told, and reads replies."""

    def __init__(self, port, greet=True, limit=20, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout=limit)
        self.file = self.socket.makefile("rb")
        self.greeting = self.reply()
        if greet:
            assert self.say("EHLO client.test")[0] == 250

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def reply(self):
        """(code, text) of one reply, all its lines; (0, ...) when the connection has ended."""
        text = []
        while True:
            try:
                line = self.file.readline()
            except ConnectionResetError:
                line = b""
            if not line:
                return 0, "closed"
            text.append(line[4:].decode(errors="replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                return int(line[:3]), "\n".join(text)

    def say(self, line):
        self.send(line + "\r\n")
        return self.reply()

    def begin(self, sender="a@client.test", recipient="b@example.test"):
        """MAIL, RCPT, DATA."""
        assert self.say(f"MAIL FROM:<{sender}>")[0] == 250
        assert self.say(f"RCPT TO:<{recipient}>")[0] == 250
        assert self.say("DATA")[0] == 354


def try_send(port, sender="a@client.test", recipient="b@example.test", body="hello", limit=20, host="127.0.0.1"):
    """One message by smtplib: the reply code that decided, and its text. 0: no connection."""
    try:
        with smtplib.SMTP(host, port, timeout=limit) as s:
            s.ehlo("client.test")
            code, text = s.mail(sender)
            if code != 250:
                return code, text.decode()
            code, text = s.rcpt(recipient)
            if code not in (250, 251):
                return code, text.decode()
            code, text = s.data(f"Subject: test\r\nFrom: {sender}\r\nTo: {recipient}\r\n\r\n{body}\r\n")
            return code, text.decode()
    except smtplib.SMTPConnectError as e:
        return e.smtp_code, str(e.smtp_error)
    except smtplib.SMTPServerDisconnected:
        return 0, "disconnected"
    except smtplib.SMTPResponseException as e:
        return e.smtp_code, str(e.smtp_error)
    except OSError as e:
        return 0, str(e)


@contextlib.contextmanager
def folder(name):
    """A folder that goes when its user is done and stays, named, when that failed: by an exception, or by keep()."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=f"mailraft-{name}-"))
    kept = []

    def keep():
        kept.append(True)

    try:
        yield path, keep
    except BaseException:
        keep()
        raise
    finally:
        if kept:
            print(f"\nlogs and journals: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)
