"""The relay's dice: what they are asked for, and the same again for the same seed. No devices: packets go in and come out here."""

import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from scenarios import relay  # noqa: E402  pylint: disable=wrong-import-position

A, B = socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.2")


def packet(source, destination, n):
    return b"\x45" + bytes(11) + source + destination + n.to_bytes(4, "big")


def run(seed, count=2000, other_traffic=False, **settings):
    """Numbers of the packets from A to B in the order in which they come out, and the counters."""
    r = relay.Relay(seed, {})
    r.out = {A: 1, B: 2}
    r.settings = {**relay.NOTHING, **settings}
    for n in range(count):
        now = n / 1000
        r.take(packet(A, B, n), now)
        if other_traffic:
            r.take(packet(B, A, n), now)
    came = [int.from_bytes(p[20:], "big") for _, _, fd, p in sorted(r.waiting) if fd == 2]
    return came, r.counters


def test_nothing_is_asked_for():
    came, counters = run(1)
    assert came == list(range(2000)) and not any(counters.values())


def test_shares():
    came, counters = run(1, loss=0.1)
    assert 150 < counters["lost"] < 250 and len(came) == 2000 - counters["lost"] and came == sorted(came)
    came, counters = run(1, duplicate=0.1)
    assert 150 < counters["duplicated"] < 250 and len(came) == 2000 + counters["duplicated"] and set(came) == set(range(2000))
    came, counters = run(1, reorder=0.1, hold=20)
    assert 150 < counters["reordered"] < 250 and sorted(came) == list(range(2000)) and came != sorted(came)


def test_jitter_keeps_the_order():
    came, _ = run(1, delay=50, jitter=50)
    assert came == list(range(2000))


def test_same_seed_same_fate():
    bad = {"loss": 0.1, "duplicate": 0.1, "reorder": 0.1, "hold": 20, "delay": 5, "jitter": 5}
    assert run(7, **bad) == run(7, **bad)
    assert run(7, **bad) != run(8, **bad)
    assert run(7, **bad)[0] == run(7, other_traffic=True, **bad)[0]  # a link's dice are its own


def test_full_wire_loses(monkeypatch):
    monkeypatch.setattr(relay, "MAX_WAITING", 100)
    came, counters = run(1, delay=10000)
    assert len(came) == 100 and counters["overflow"] == 1900


def test_what_is_no_packet_is_dropped():
    r = relay.Relay(1, {})
    r.out = {B: 2}
    for data in (b"", b"\x60" + bytes(60), packet(A, B, 1)[:19], packet(B, A, 1)):
        r.take(data, 0)
    assert not r.waiting
