"""The loads, and one run of one of them against one server.

The client is Debian's smtp-source, which nobody here wrote, alone or through Debian's stunnel where the load wants STARTTLS;
only the serial session's times are taken by a client of our own, since smtp-source tells none. What came out at the far end
is counted by smtp-sink.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import time

import measure
import servers
from servers import PEERS, Process, can_connect, free_port, wait_for

SOURCE = "/usr/sbin/smtp-source"
STUNNEL = PEERS / "stunnel4/usr/bin/stunnel4"
LIMIT = 600.0  # seconds, of one run: a server that takes longer has failed


@dataclasses.dataclass(frozen=True)
class Load:
    key: str  # what --only names: this, or its first letter for all of that letter
    title: str
    messages: int
    sessions: int = 20
    size: int = 10240
    many: bool = False  # messages a session: all, or one
    deliver: bool = False  # through to smtp-sink; else held
    tls: bool = False
    serial: bool = False  # one message after another, each timed


LOADS = (
    Load("a1", "accept, 20 sessions, one message a session", 6000),
    Load("a2", "accept, 20 sessions, many messages a session", 8000, many=True),
    Load("b1", "accept and deliver to smtp-sink, one message a session", 6000, deliver=True),
    Load("b2", "accept and deliver to smtp-sink, many messages a session", 8000, many=True, deliver=True),
    Load("c", "one serial session, many messages", 2000, sessions=1, many=True, serial=True),
    Load("d", "accept 1 MB, 20 sessions, one message a session", 100, size=1 << 20),
    Load("e1", "accept 2 KB, 200 sessions, one message a session", 6000, sessions=200, size=2048),
    Load("e2", "accept, 100 sessions, one message a session", 6000, sessions=100),
    Load("f1", "accept over STARTTLS, 20 sessions, one message a session", 2000, tls=True),
    Load("f2", "accept over STARTTLS, 20 sessions, many messages a session", 6000, many=True, tls=True),
)
WARM = 200  # messages before the measured ones: processes have been forked, files grown, connections made


def chosen(only):
    """The loads that --only names."""
    if not only:
        return LOADS
    known = {load.key for load in LOADS} | {load.key[0] for load in LOADS}
    unknown = [key for key in only if key not in known]
    if unknown:
        raise SystemExit(f"no such load: {', '.join(unknown)}; there are {', '.join(load.key for load in LOADS)}")
    return tuple(load for load in LOADS if load.key in only or load.key[0] in only)


def shares(total, parts):
    """`total` in `parts` whole shares that differ by at most one."""
    return [total // parts + (i < total % parts) for i in range(parts)]


class Stunnel:
    """Plain SMTP in, STARTTLS out, a port for each of the server's."""

    def __init__(self, folder, ports):
        self.ports = [free_port() for _ in ports]
        lines = ["foreground = yes", "pid =", "debug = err"]
        for here, there in zip(self.ports, ports):
            lines += [f"[to{there}]", "client = yes", "protocol = smtp", f"accept = 127.0.0.1:{here}", f"connect = 127.0.0.1:{there}"]
        config = folder / "stunnel.conf"
        config.write_text("\n".join(lines) + "\n")
        self.process = Process([STUNNEL, config], folder / "stunnel.log")
        for port in self.ports:
            wait_for(lambda port=port: not self.process.alive() or can_connect(port), "stunnel listens")
        assert self.process.alive(), self.process.text()

    def close(self):
        self.process.kill()


def source(ports, messages, sessions, size, many, folder):
    """smtp-source against all ports at once, the sessions spread over them; returns when all have ended."""
    clients = []
    try:
        for port, n, s in zip(ports, shares(messages, len(ports)), shares(sessions, len(ports))):
            if n and s:
                clients.append(Process(
                    [SOURCE, "-s", min(n, s), "-m", n, "-l", size, *(["-d"] if many else []), "-f", f"a@{servers.CLIENT_NAME}", "-t",
                     "b@example.test", f"127.0.0.1:{port}"], folder / "smtp-source.log"))
        end = time.monotonic() + LIMIT
        for client in clients:
            code = client.popen.wait(max(0.0, end - time.monotonic()))
            if code:
                raise AssertionError(f"smtp-source: exit {code}: {client.text()[-300:]}")
    finally:
        for client in clients:
            client.kill()


class Serial:
    """One session that times each message from the first octet of its text to its 250. In TCP_NODELAY, the text in one write."""

    def __init__(self, port, size):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        line = b"x" * 78 + b"\r\n"
        head = b"From: a@client.test\r\nTo: b@example.test\r\nSubject: serial\r\n\r\n"
        self.text = head + line * ((size - len(head)) // len(line)) + b".\r\n"
        self.expect(b"220")
        self.say(b"EHLO client.test")

    def expect(self, code):
        while True:
            line = self.file.readline()
            if line[:3] != code:
                raise AssertionError(f"expected {code.decode()}, got {line!r}")
            if line[3:4] == b" ":
                return

    def say(self, line, code=b"250"):
        self.socket.sendall(line + b"\r\n")
        self.expect(code)

    def message(self):
        """(when the text was begun, when its 250 had come), of time.time(); and the seconds in between by the monotonic clock."""
        self.say(b"MAIL FROM:<a@client.test>")
        self.say(b"RCPT TO:<b@example.test>")
        self.say(b"DATA", b"354")
        wall, begun = time.time(), time.perf_counter()
        self.socket.sendall(self.text)
        self.expect(b"250")
        took = time.perf_counter() - begun
        return wall, wall + took, took

    def close(self):
        with contextlib.suppress(OSError):
            self.file.close()
            self.socket.close()


def serial(ports, messages, size):
    """Seconds to each 250, by port: one session at a time, to each port in turn."""
    times = []
    for port, n in zip(ports, shares(messages, len(ports))):
        session = Serial(port, size)
        try:
            times.append([session.message()[2] for _ in range(n)])
        finally:
            session.close()
    return times


def processor_seconds():
    """Of all processors since boot: (time without work, waiting for disks included; time that a hypervisor gave to other machines)."""
    fields = open("/proc/stat").readline().split()
    return (int(fields[4]) + int(fields[5])) / measure.TICKS, int(fields[8]) / measure.TICKS


def rate(load, server, sink, messages, folder):
    """Runs a load of smtp-source and returns its figures."""
    front = Stunnel(folder, server.ports) if load.tls else None
    try:
        ports = front.ports if front else server.ports
        warm = min(WARM, messages)
        source(ports, warm, load.sessions, min(load.size, 10240), load.many, folder)
        if load.deliver:
            wait_for(lambda: sink.count() >= warm, f"{server.name} delivered {warm} messages", LIMIT)
        measure.settle(server.cpu_seconds)
        cpu, (idle, stolen), begun = server.cpu_seconds(), processor_seconds(), time.monotonic()
        source(ports, messages, load.sessions, load.size, load.many, folder)
        accepted = time.monotonic() - begun
        if load.deliver:
            wait_for(lambda: sink.count() >= warm + messages, f"{server.name} delivered {messages} messages", LIMIT, 0.01)
        done = time.monotonic() - begun
        idle, stolen = (after - before for after, before in zip(processor_seconds(), (idle, stolen)))
        measure.settle(server.cpu_seconds)
        result = {"accepted_per_second": messages / accepted, "cpu_per_1000": (server.cpu_seconds() - cpu) / messages * 1000,
                  "idle_percent": 100 * idle / done / os.cpu_count(), "stolen_percent": 100 * stolen / done / os.cpu_count()}
        if load.deliver:
            result["delivered_per_second"] = messages / done
        return result
    finally:
        if front:
            front.close()


def serial_times(load, server, messages):
    serial(server.ports, min(WARM, messages), load.size)
    measure.settle(server.cpu_seconds)
    cpu, begun = server.cpu_seconds(), time.monotonic()
    times = serial(server.ports, messages, load.size)
    took = time.monotonic() - begun
    measure.settle(server.cpu_seconds)
    every = [1000 * t for one in times for t in one]
    return {"p50_ms": measure.percentile(every, 50), "p99_ms": measure.percentile(every, 99), "accepted_per_second": messages / took,
            "cpu_per_1000": (server.cpu_seconds() - cpu) / messages * 1000,
            "p50_ms_by_port": [1000 * measure.percentile(t, 50) for t in times if t]}


def run(load, kind, folder, resolver, tls, scale=1.0):
    """One run: a server of this kind that is new, a sink that is new. What fails is a result too: {"error": ...}."""
    messages = max(20, load.sessions, int(load.messages * scale * kind.share))
    if kind.fails(load):
        return {"messages": messages, "error": kind.fails(load)}
    folder.mkdir()
    folder.chmod(0o755)  # peers' users have to reach theirs
    with contextlib.ExitStack() as stack:
        try:
            sink = servers.Sink(folder)
            stack.callback(sink.close)
            server = kind(folder, resolver, sink.port, not load.deliver, tls if load.tls else None)
            stack.callback(server.close)
            result = serial_times(load, server, messages) if load.serial else rate(load, server, sink, messages, folder)
            return {"messages": messages, **result}
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            return {"messages": messages, "error": str(e)[-500:]}


def end_in_order():
    """SIGTERM as Ctrl-C: everything that was started is ended, by pid, and the folders go."""

    def stop(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
