"""The relay of wire.py: IP packets between network namespaces, by TUN devices, late, lost, twice and out of order, by dice.

Runs as a process of its own: `relay.py SEED PLACE=ADDRESS...` makes a TUN device `relay0` in each namespace of /run/netns, with
routes to the other places, says "ready", and reads one JSON object a line from standard input: the settings from now on,
{"delay": ms, "jitter": ms, "reorder": share, "hold": ms, "duplicate": share, "loss": share}. Each line is answered with the
counters so far. The end of standard input ends it, and the devices go with it.

The dice of a link (a source and a destination) depend on the seed, the link and the number of the packet on it alone: the n-th
packet of a link meets the same fate in each run, whatever the other links carry. What a packet is, depends on the machine's pace.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 1500
MAX_WAITING = 20000  # packets on the wire at one time; what is more is lost, as in a router
DEVICE = "relay0"
NOTHING = {"delay": 0, "jitter": 0, "reorder": 0, "hold": 0, "duplicate": 0, "loss": 0}

_libc = ctypes.CDLL(None, use_errno=True)


def enter(namespace):
    with open(f"/run/netns/{namespace}", "rb") as f:
        if _libc.setns(f.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


def make_tun(namespace, address, others):
    """A TUN device in that namespace, through which the others are reached."""
    enter(namespace)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    # Packets come in by another device than that of the way back to everybody else; strict reverse path filters mind.
    for name in ("all", DEVICE):
        with open(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "w", encoding="ascii") as f:
            f.write("0")
    lines = [f"link set {DEVICE} up mtu {MTU}"]
    lines += [f"route add {a}/32 dev {DEVICE} src {address}" for a in others]
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{namespace}: {done.stderr.strip()}")
    return fd


class Link:
    def __init__(self, seed, source, destination):
        self.dice = random.Random(f"{seed}/{source}/{destination}")
        self.free_at = 0.0  # when the last packet that keeps its place arrives


class Relay:
    def __init__(self, seed, places):
        self.seed = seed
        self.settings = dict(NOTHING)
        self.links = {}
        self.waiting = []  # heap of (due, number, fd, packet)
        self.number = 0
        self.counters = {"passed": 0, "lost": 0, "duplicated": 0, "reordered": 0, "overflow": 0}
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.out = {}
        for name, address in places.items():
            fd = make_tun(name, address, [a for n, a in places.items() if n != name])
            self.out[socket.inet_aton(address)] = fd
        _libc.setns(home, CLONE_NEWNET)
        os.close(home)

    def push(self, due, fd, packet):
        if len(self.waiting) >= MAX_WAITING:
            self.counters["overflow"] += 1
            return
        self.number += 1
        heapq.heappush(self.waiting, (due, self.number, fd, packet))

    def take(self, packet, now):
        """One packet's fate."""
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return
        source, destination = packet[12:16], packet[16:20]
        fd = self.out.get(destination)
        if fd is None:
            return
        link = self.links.get((source, destination))
        if link is None:
            link = self.links[(source, destination)] = Link(self.seed, source.hex(), destination.hex())
        s = self.settings
        # Always as many dice, so that a change of one setting does not move the others.
        lose, twice, astray, wobble, again = (link.dice.random() for _ in range(5))
        if lose < s["loss"]:
            self.counters["lost"] += 1
            return
        due = now + (s["delay"] + (2 * wobble - 1) * s["jitter"]) / 1000
        if astray < s["reorder"]:
            self.counters["reordered"] += 1
            due += s["hold"] / 1000
        else:
            due = link.free_at = max(due, link.free_at)
        self.push(due, fd, packet)
        if twice < s["duplicate"]:
            self.counters["duplicated"] += 1
            self.push(due + again * s["hold"] / 1000, fd, packet)

    def deliver(self, now):
        while self.waiting and self.waiting[0][0] <= now:
            _, _, fd, packet = heapq.heappop(self.waiting)
            try:
                os.write(fd, packet)
                self.counters["passed"] += 1
            except OSError:  # the device's queue is full, or its namespace goes
                self.counters["overflow"] += 1

    def order(self, line):
        self.settings = {**NOTHING, **json.loads(line)}
        print(json.dumps(self.counters), flush=True)

    def run(self):
        selector = selectors.DefaultSelector()
        for fd in self.out.values():
            selector.register(fd, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            wait = max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            for key, _ in selector.select(wait):
                if key.fd == 0:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.order(line)
                    continue
                try:
                    for _ in range(64):
                        self.take(os.read(key.fd, MTU + 100), time.monotonic())
                except BlockingIOError:
                    pass
            self.deliver(time.monotonic())


if __name__ == "__main__":
    Relay(sys.argv[1], dict(a.split("=") for a in sys.argv[2:])).run()
