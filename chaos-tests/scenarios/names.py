"""DNS that is down, slow, failing, or wrong: mail waits, is not returned, and goes out when it is well again."""

import contextlib
import socket
import struct
import threading
import time

from scenarios import scenario
from scenarios.network import RUNNER

A, MX = 1, 15
NOERROR, SERVFAIL = 0, 2


def encode(name):
    return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".") if p) + b"\0"


class StubDns:
    """Answers UDP queries as .mode says: "well", "down" (no answer), "slow" (later), "servfail", "half" (each second query is
    lost), "empty" (the name exists, without what was asked), "lame" (a port that nobody listens on answers for the MX: a wrong
    address), "garbage" (octets that are no answer). Every MX is mx.hop.test, whose A is where the next hop is."""

    def __init__(self, address, hop, port=0):
        self.hop = hop
        self.mode = "well"
        self.delay = 0.0
        self.queries = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.port = self.socket.getsockname()[1]
        self.lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                if self.socket.fileno() < 0:
                    return
                continue
            if len(query) < 17:
                continue
            self.queries += 1
            mode = self.mode
            if mode == "down" or mode == "half" and self.queries % 2:
                continue
            answer = self._answer(query, mode)
            if mode == "slow":
                threading.Timer(self.delay, self._send, (answer, client)).start()
            else:
                self._send(answer, client)

    def _send(self, answer, client):
        with self.lock, contextlib.suppress(OSError):
            self.socket.sendto(answer, client)

    def _answer(self, query, mode):
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        kind = struct.unpack("!H", question[-4:-2])[0]
        if mode == "garbage":
            return query[:2] + b"\x81\x80" + b"\xff" * 40
        code = SERVFAIL if mode == "servfail" else NOERROR
        records = []
        if code == NOERROR and mode != "empty":
            if kind == MX:
                target = encode("mx.hop.test")
                records.append((MX, struct.pack("!H", 10) + target))
            elif kind == A:
                records.append((A, socket.inet_aton("127.255.255.254" if mode == "lame" else self.hop)))
        body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", t, 1, 1, len(d)) + d for t, d in records)
        return query[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0) + question + body


def stub(world):
    host = RUNNER if world.net else "127.0.0.1"
    world.dns = StubDns(host, world.sink.host)
    world.cleanup(world.dns.close)
    for node in world.nodes:
        node.overlay = {
            "routes": {"default": "mx"},
            "delivery": {"port": world.sink.port, "idle_connection": "200ms", "tls": {"default": {"policy": "none"}}},
            "dns": {"servers": [f"{host}:{world.dns.port}"], "timeout": "500ms", "tries": 2},
        }


# Each message is for a domain of its own among many: cached answers and kept connections serve none of them for long.
MANY = {"rate": 80, "load_args": ["--rcpt", "rcpt@d%997n.test"], "prepare": stub, "needs": ("config", "local")}


def broken(world, mode, length=4, delay=0.0, goes_on=False):
    """DNS is like that for a while; mail is accepted, nothing comes back, and all goes out afterwards."""
    try:
        while_broken(world, mode, length, delay, goes_on)
    finally:
        world.dns.mode = "well"
    count = len(world.sink.received())
    world.wait_for(lambda: len(world.sink.received()) >= count + 200, "mail goes out again", 40)
    reports = [e for e in world.sink.received() if e.get("dsn")]
    assert not reports, f"{len(reports)} messages came back"


def while_broken(world, mode, length, delay, goes_on):
    world.wait_for(lambda: len(world.sink.received()) > 20, "mail goes out")
    with world.band(f"DNS {mode}"):
        world.dns.delay = delay
        world.dns.mode = mode
        world.run_for(2)  # what is cached and what is connected; the TTL is a second
        count, accepted, asked = len(world.sink.received()), world.accepted(), world.dns.queries
        began = time.monotonic()
        world.wait_accepted(200, 60)
        world.run_for(max(0, length - (time.monotonic() - began)))
        out, accepted = len(world.sink.received()) - count, world.accepted() - accepted
        rate = (world.dns.queries - asked) / (time.monotonic() - began)
        world.note(mode, f"{out} of {accepted} went out, {rate:.0f} queries a second")
        assert rate < 1000, f"{rate:.0f} queries a second"
        if not goes_on:
            assert out < 50, f"{out} messages went out without DNS"


@scenario("dns-down", "the DNS server does not answer: mail waits, and goes out when it does", **MANY)
def dns_down(world):
    broken(world, "down")


@scenario("dns-servfail", "the DNS server answers SERVFAIL: mail waits", **MANY)
def dns_servfail(world):
    broken(world, "servfail")


@scenario("dns-slow", "the DNS server answers later than anybody waits for, and so late that it just helps", **MANY)
def dns_slow(world):
    broken(world, "slow", delay=3.0)
    broken(world, "slow", delay=0.3, goes_on=True)


@scenario("dns-half", "each second query is lost", **MANY)
def dns_half(world):
    broken(world, "half", goes_on=True)


@scenario("dns-garbage", "the answers are octets that mean nothing", **MANY)
def dns_garbage(world):
    broken(world, "garbage")


@scenario("dns-wrong", "the addresses are wrong, nobody listens there: mail waits, and is not returned", **MANY)
def dns_wrong(world):
    broken(world, "lame")
