"""Network namespaces: one for each node, for the clients and for the next hop, joined by a bridge that can lose packets.

The bridge stands in the namespace of the runner itself, which `chaos-tests/run` has made for it (unshare): nothing of the
machine's own network is touched, and all is gone with the process. What is cut is a set of (source, destination) in nftables,
so that a change of many links is one transaction.
"""

import functools
import os
import shutil
import subprocess

NET = "10.99.0"
RUNNER = f"{NET}.254"


def in_own_namespace():
    return os.environ.get("MAILRAFT_OWN_NAMESPACE") == "1"


def missing():
    """None, or why there can be no namespaces here."""
    if not in_own_namespace():
        return os.environ.get("MAILRAFT_NO_NAMESPACE", "not run in a network namespace of its own")
    for tool in ("ip", "nft", "nsenter"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    return _refused()


@functools.cache
def _refused():
    """What a container may be allowed of a namespace is not always all of it: tried once."""
    for args in ("ip link add probe type bridge", "ip link delete probe", "ip netns add probe", "ip netns delete probe",
                 "nft add table bridge probe", "nft delete table bridge probe"):
        done = subprocess.run(args.split(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{args}: {done.stderr.strip().splitlines()[0] if done.stderr else done.returncode}"
    return None


def _sh(args, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, check=False, **kwargs)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """places: names of nodes; "load" and "hop" are added."""

    def __init__(self, places, world=None):
        self.world = world
        self.nodes = list(places)
        self.places = {name: f"{NET}.{i + 1}" for i, name in enumerate(places)}
        self.places["load"] = f"{NET}.101"
        self.places["hop"] = f"{NET}.102"
        self.cuts = set()
        self.losses = {}
        self._build()

    def address(self, place):
        return self.places[_name(place)]

    def prefix(self, place):
        """A command that runs another one there, as the same process."""
        return ["nsenter", f"--net=/run/netns/{_name(place)}"]

    def run(self, place, args, **kwargs):
        return subprocess.run([*self.prefix(place), *map(str, args)], capture_output=True, text=True, check=False, **kwargs)

    # ---- making it ----

    def _build(self):
        self.close()
        lines = ["link add wire type bridge", f"address add {RUNNER}/24 dev wire", "link set wire up", "link set lo up"]
        for place in self.places:
            lines += [f"netns add {place}", f"link add v-{place} type veth peer name eth0 netns {place}",
                      f"link set v-{place} master wire", f"link set v-{place} up"]
        _sh(["ip", "-batch", "-"], input="\n".join(lines) + "\n")
        for place, address in self.places.items():
            _sh(["ip", "-n", place, "-batch", "-"],
                input=f"link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n")
        self._rules("add table bridge wire\nadd set bridge wire cut { type ipv4_addr . ipv4_addr; }\n"
                    "add chain bridge wire lossy\n"
                    "add chain bridge wire through { type filter hook forward priority 0; policy accept; }\n"
                    "add rule bridge wire through ip saddr . ip daddr @cut drop\n"
                    "add rule bridge wire through jump lossy\n")

    @staticmethod
    def _rules(text):
        _sh(["nft", "-f", "-"], input=text)

    def close(self):
        """Everything away, as far as it is there. A namespace's own end comes when the kernel has time for it, and would take the
        links along only then: they are deleted one by one."""
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=False).stdout
        ends = [name for line in links.splitlines() if (name := line.split()[1].split("@")[0].rstrip(":")).startswith("v-")]
        for args in ["nft delete table bridge wire", *(f"ip link delete {end}" for end in ends), "ip link delete wire",
                     *(f"ip netns delete {p}" for p in self.places)]:
            subprocess.run(args.split(), capture_output=True, check=False)

    # ---- breaking it ----

    def _set(self, cuts):
        rules = "flush set bridge wire cut\n"
        if cuts:
            pairs = ", ".join(f"{self.places[a]} . {self.places[b]}" for a, b in sorted(cuts))
            rules += f"add element bridge wire cut {{ {pairs} }}\n"
        self._rules(rules)
        self.cuts = set(cuts)

    def _mark(self, text):
        if self.world:
            self.world.mark(text)

    def one_way(self, a, b):
        """What a sends to b is lost; what b sends arrives."""
        a, b = _name(a), _name(b)
        self._set(self.cuts | {(a, b)})
        self._mark(f"{a} -> {b} cut")

    def cut(self, a, b):
        a, b = _name(a), _name(b)
        self._set(self.cuts | {(a, b), (b, a)})
        self._mark(f"{a} - {b} cut")

    def join(self, a, b):
        a, b = _name(a), _name(b)
        self._set(self.cuts - {(a, b), (b, a)})
        self._mark(f"{a} - {b} joined")

    def isolate(self, node):
        """From all other nodes; clients and the next hop are still reached."""
        a = _name(node)
        if self.world:
            self.world.leader_hit(a)
        self._set(self.cuts | {p for b in self.nodes if b != a for p in ((a, b), (b, a))})
        self._mark(f"{a} alone")

    def rejoin(self, node):
        a = _name(node)
        self._set({(x, y) for x, y in self.cuts if a not in (x, y)})
        self._mark(f"{a} joined")

    def split(self, side):
        """These nodes on one side, the others on the other."""
        side = {_name(n) for n in side}
        if self.world:
            for a in side:
                self.world.leader_hit(a)
        self._set(self.cuts | {p for a in side for b in self.nodes if b not in side for p in ((a, b), (b, a))})
        self._mark(f"{'+'.join(sorted(side))} parted")

    def cut_hop(self, node):
        self.cut(node, "hop")

    def isolate_clients(self, node):
        self.cut(node, "load")

    def loss(self, a, b, percent):
        """Of the packets from a to b; 0: none any more."""
        key = (_name(a), _name(b))
        self.losses[key] = percent
        if not percent:
            del self.losses[key]
        self._lossy()

    def _lossy(self):
        rules = "flush chain bridge wire lossy\n"
        for (a, b), percent in sorted(self.losses.items()):
            rules += (f"add rule bridge wire lossy ip saddr {self.places[a]} ip daddr {self.places[b]} "
                      f"numgen random mod 10000 < {int(percent * 100)} drop\n")
        self._rules(rules)

    def heal(self):
        if self.cuts or self.losses:
            self._set(set())
            self.losses = {}
            self._lossy()
            self._mark("network healed")


def _name(place):
    return place if isinstance(place, str) else place.name
