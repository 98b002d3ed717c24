"""Real DNS with real DNSSEC: knot signs and serves zones of a test, unbound validates them as the resolver of this host would.

Both are ordinary processes on loopback, with configuration, keys and sockets in the test's folder. Names that no zone has are not
known: nothing is asked of anybody outside.
"""

import subprocess

from harness import Process, free_port, run, wait_for

KNOT = """\
server:
    rundir: "{dir}"
    user: root:root
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: "{dir}/knot.sock"
log:
  - target: stderr
    any: info
database:
    storage: "{dir}"
    journal-db: "{dir}/journal"
    kasp-db: "{dir}/keys"
    timer-db: "{dir}/timers"
policy:
  - id: test
    algorithm: ecdsap256sha256
    single-type-signing: on
    nsec3: off
acl:
  - id: transfer
    action: transfer
    address: 127.0.0.0/8
template:
  - id: default
    storage: "{dir}"
    file: "%s.zone"
    journal-content: none
    zonefile-sync: -1
    zonefile-load: whole
    semantic-checks: off
    acl: transfer
zone:
{zones}
"""

UNBOUND = """\
server:
    directory: "{dir}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    do-daemonize: no
    num-threads: 1
    interface: 127.0.0.1@{port}
    do-ip6: no
    do-not-query-localhost: no
    module-config: "validator iterator"
    # What a test changes is seen soon.
    cache-max-ttl: 1
    cache-max-negative-ttl: 1
    infra-host-ttl: 1
    # Failing to validate is final at once.
    val-bogus-ttl: 1
    local-zone: "test." nodefault
{anchors}
remote-control:
    control-enable: no
{stubs}
"""


class Dns:
    """zone() describes, start() signs and serves; `server` is what mailraft's dns.servers names."""

    def __init__(self, folder):
        self.dir = folder / "dns"
        self.dir.mkdir()
        self.zones = {}
        self.tampered = {}
        self.serial = 0
        self.knot_port = free_port()
        self.port = free_port()
        self.processes = []

    @property
    def server(self):
        return f"127.0.0.1:{self.port}"

    def zone(self, name, *records, signed=True, tamper=()):
        """records: lines of a zone file, names relative to the zone, without a TTL. tamper: pairs of text to be replaced, after
        signing: what it changes is bogus, and the rest of the zone is not."""
        self.zones[name] = (records, signed)
        if tamper:
            self.tampered[name] = tamper

    def write_zone(self, name):
        self.serial += 1000  # room for those that knot makes when it signs
        records, _ = self.zones[name]
        lines = [f"$ORIGIN {name}.", "$TTL 1", f"@ SOA ns hostmaster {self.serial} 3600 600 86400 1", "@ NS ns",
                 "ns A 127.0.0.1", *records]
        (self.dir / f"{name}.zone").write_text("\n".join(lines) + "\n")

    def write_config(self, tampered):
        zones = []
        for name, (_, signed) in self.zones.items():
            sign = signed and not (tampered and name in self.tampered)
            zones.append(f"  - domain: {name}\n" + ("    dnssec-signing: on\n    dnssec-policy: test" if sign else ""))
        text = KNOT.format(dir=self.dir, port=self.knot_port, zones="\n".join(zones))
        (self.dir / "knot.conf").write_text(text)

    def control(self, *args):
        return subprocess.run(
            ["/usr/sbin/knotc", "-s", str(self.dir / "knot.sock"), "-b", *args],
            capture_output=True, text=True, check=False,
        ).returncode == 0

    def ask(self, port, *args):
        return subprocess.run(
            ["/usr/bin/kdig", "@127.0.0.1", "-p", str(port), "+time=1", "+retry=0", *args],
            capture_output=True, text=True, check=False,
        ).stdout

    def start(self):
        for name in self.zones:
            self.write_zone(name)
        self.write_config(tampered=False)
        conf = self.dir / "knot.conf"
        knot = Process(["/usr/sbin/knotd", "-c", conf], self.dir / "knot.log")
        self.processes.append(knot)
        for name, (_, signed) in self.zones.items():
            kind = "RRSIG" if signed else "SOA"
            wait_for(
                lambda n=name, k=kind: k in self.ask(self.knot_port, "+dnssec", "+noall", "+answer", n, "SOA"),
                f"knot serves {name}: see {knot.log}",
            )
        self.tamper()
        self.start_unbound()
        return self

    def tamper(self):
        for name, changes in self.tampered.items():
            text = self.ask(self.knot_port, "+noall", "+answer", name, "AXFR")
            for old, new in changes:
                assert old in text, (old, text)
                text = text.replace(old, new)
            (self.dir / f"{name}.zone").write_text(text)
        if self.tampered:
            self.write_config(tampered=True)
            assert self.control("reload")
            assert self.control("zone-reload", *self.tampered)

    def start_unbound(self):
        anchors, stubs = [], []
        for name, (_, signed) in self.zones.items():
            stubs.append(f'stub-zone:\n    name: "{name}."\n    stub-addr: 127.0.0.1@{self.knot_port}\n    stub-no-cache: yes')
            if signed:
                ds = run(["/usr/sbin/keymgr", "-c", self.dir / "knot.conf", name, "ds"])
                anchors += [f'    trust-anchor: "{line}"' for line in ds.splitlines() if " DS " in line]
        conf = self.dir / "unbound.conf"
        conf.write_text(
            UNBOUND.format(dir=self.dir, port=self.port, anchors="\n".join(anchors), stubs="\n".join(stubs))
        )
        unbound = Process(["/usr/sbin/unbound", "-d", "-p", "-c", conf], self.dir / "unbound.log")
        self.processes.append(unbound)
        for name in self.zones:
            wait_for(
                lambda n=name: "NOERROR" in self.ask(self.port, n, "SOA"),
                f"unbound answers for {name}: see {unbound.log}",
            )

    def change(self, name, *records):
        """Other records for a zone that is served; unbound has forgotten the old ones a second later."""
        self.zones[name] = (records, self.zones[name][1])
        self.write_zone(name)
        assert self.control("zone-reload", name)

        def loaded():
            words = self.ask(self.knot_port, "+noall", "+answer", name, "SOA").split()
            return len(words) > 6 and int(words[6]) // 1000 == self.serial // 1000

        wait_for(loaded, f"knot has loaded {name}")

    def stop(self):
        for process in self.processes:
            process.kill()
