"""Deliveries under TLS to next hops that are proven by DANE (RFC 7672), by MTA-STS (RFC 8461), by name, or not at all; against a
real authoritative server with DNSSEC (knot), a real validating resolver (unbound) and a real HTTPS server."""

import smtplib

import pytest

from dns_fixture import Dns
from harness import free_port, wait_for
from peers import missing
from tls_fixture import Authority, NextHop, PolicyServer, local_addresses, policy

ADDRESSES = local_addresses(10)


class World:
    """DNS, next hops on one port of several addresses, an authority, and a cluster that routes by MX."""

    def __init__(self, make_cluster):
        self.make_cluster = make_cluster
        self.cluster = None
        self.dir = None
        self.hops = []
        self.policies = None
        self.port = free_port()

    def open(self, n=1, **overrides):
        self.cluster = self.make_cluster(n=n, **overrides)
        self.dir = self.cluster.dir
        self.dns = Dns(self.dir)
        self.ca = Authority(self.dir)
        return self

    def hop(self, certificate, faults=()):
        hop = NextHop(certificate, ADDRESSES[len(self.hops)], self.port, faults)
        self.hops.append(hop)
        return hop

    def policy_server(self, *domains):
        self.policies = PolicyServer(self.ca, domains)
        return self.policies

    def domain(self, name, hop, *more, mx="mx", **options):
        """A zone with one MX host at this next hop."""
        self.dns.zone(name, f"@ MX 10 {mx}", f"{mx} A {hop.address}", *more, **options)

    def tlsa(self, record, host="mx"):
        return f"_{self.port}._tcp.{host} TLSA {record}"

    def start(self, tls=None, **delivery):
        self.dns.start()
        self.cluster.reconfigure(
            routes={"default": "mx"},
            dns={"servers": [self.dns.server]},
            delivery={
                "port": self.port,
                "retry": {"first": "1s", "factor": 1.2, "max": "2s"},
                "connect_timeout": "5s",
                "idle_connection": "100ms",
                "tls_ca": str(self.ca.cert),
                "sts_port": self.policies.port if self.policies else 443,
                "tls": tls or {},
                **delivery,
            },
        )
        self.cluster.start(sink=False)
        return self

    def send(self, *recipients, node=0, sender="a@client.test", text="Subject: x\r\n\r\nhello\r\n"):
        with smtplib.SMTP("127.0.0.1", self.cluster.nodes[node].smtp, timeout=20) as s:
            s.sendmail(sender, recipients, text)

    def events(self, recipient, *names, node=0):
        return [
            e for e in self.cluster.nodes[node].events(*(names or ("delivered", "deferred", "bounced")))
            if e.get("recipient") == recipient
        ]

    def first(self, recipient, node=0):
        """The first thing that came of a recipient."""
        wait_for(lambda: self.events(recipient, node=node), f"something has come of {recipient}")
        return self.events(recipient, node=node)[0]

    def assert_delivered(self, recipient, verified, node=0):
        """verified: how the host was proven; None: in plain text."""
        event = self.first(recipient, node)
        assert event["event"] == "delivered", event
        assert event["tls"] == (verified is not None), event
        assert event.get("tls_verified") == verified, event
        if verified is not None:
            assert event["tls_protocol"] == "TLSv1.3" and event["tls_cipher"], event
        return event

    def assert_deferred(self, recipient, status, says, node=0):
        event = self.first(recipient, node)
        assert event["event"] == "deferred" and event["status"] == status and says in event["reply"], event
        return event

    def close(self):
        for hop in self.hops:
            hop.stop()
        if self.policies:
            self.policies.stop()
        if self.cluster:
            self.dns.stop()


@pytest.fixture
def world(make_cluster):
    if missing("knotd", "unbound", "kdig"):
        pytest.skip("needs knot and unbound (deploy/install-deps.sh --test)")
    w = World(make_cluster)
    yield w
    w.close()


# ---- DANE ----


def test_dane(world):
    """Right and wrong records of both usages; a zone without signatures; a bogus one; and none at all."""
    w = world.open()
    right = w.ca.issue("mx.right.test", "mx.ta.test", "mx.none.test")
    selfmade = Authority(w.dir, "selfmade")  # nobody's certificate, without names: by usage 3 that does not matter
    other = w.ca.issue("mx.wrong.test")
    expired = w.ca.issue("something.else", days=-1)
    hop, selfmade_hop, expired_hop = w.hop(right), w.hop(selfmade), w.hop(expired)
    w.domain("right.test", hop, w.tlsa(right.tlsa(3)))
    w.domain("selfmade.test", selfmade_hop, w.tlsa(selfmade.tlsa(3, 0)))
    w.domain("expired.test", expired_hop, w.tlsa(expired.tlsa(3)))
    w.domain("ta.test", hop, w.tlsa(w.ca.tlsa(2, 0)))
    w.domain("badname.test", hop, w.tlsa(w.ca.tlsa(2, 0)))
    w.domain("wrong.test", hop, w.tlsa(other.tlsa(3)))
    w.domain("none.test", hop)
    w.domain("unsigned.test", hop, w.tlsa(other.tlsa(3)), signed=False)
    # Records of usage 1 are not for SMTP; they say that there is TLS all the same.
    w.domain("unusable.test", hop, w.tlsa(right.tlsa(1)))
    record = right.digest(1).upper()
    w.domain("bogus.test", hop, w.tlsa(right.tlsa(3)), tamper=[(record[:56], other.digest(1).upper()[:56])])
    w.domain("alias.test", hop, f"_{w.port}._tcp.real TLSA {right.tlsa(3)}", f"real A {hop.address}", "@ MX 5 other",
             "other CNAME real")
    w.start()
    names = ("right", "selfmade", "expired", "ta", "badname", "wrong", "none", "unsigned", "unusable", "bogus", "alias")
    for name in names:
        w.send(f"r@{name}.test")
    w.assert_delivered("r@right.test", "dane")
    w.assert_delivered("r@selfmade.test", "dane")
    w.assert_delivered("r@expired.test", "dane")
    w.assert_delivered("r@ta.test", "dane")
    w.assert_delivered("r@none.test", "none")
    w.assert_delivered("r@unsigned.test", "none")
    w.assert_delivered("r@unusable.test", "none")
    w.assert_delivered("r@alias.test", "dane")
    w.assert_deferred("r@badname.test", "4.7.5", "certificate is not accepted (dane)")
    w.assert_deferred("r@wrong.test", "4.7.5", "certificate is not accepted (dane)")
    w.assert_deferred("r@bogus.test", "4.7.5", "TLSA records of mx.bogus.test")
    to = [m[0][1] for h in w.hops for m in h.messages]
    assert not any("badname" in t or "wrong" in t or "bogus" in t for t in to), to
    assert all(m[2] for h in w.hops for m in h.messages), "something went in plain text"
    assert {s.sni for s in hop.sessions if s.tls} >= {"mx.right.test", "real.alias.test"}
    # What was wrong is mended: the message goes out.
    w.dns.change("wrong.test", "@ MX 10 mx", f"mx A {hop.address}", w.tlsa(right.tlsa(3)))
    wait_for(lambda: any(e["event"] == "delivered" for e in w.events("r@wrong.test")), "the mended one is delivered")
    node = w.cluster.nodes[0]
    assert node.metric("tls_out_verified_total") >= 6 and node.metric("tls_out_failed_total") >= 2
    assert node.metric("tls_fallbacks_total") == 0


def test_dane_without_starttls_is_no_plain_text(world):
    """A next hop with TLSA records whose STARTTLS was cut out: nothing is sent to it in the clear, another MX host may do."""
    w = world.open()
    cert = w.ca.issue("mx.cut.test")
    cut, second = w.hop(cert, {"nostarttls"}), w.hop(cert)
    w.domain("cut.test", cut, w.tlsa(cert.tlsa(3)))
    w.domain("two.test", cut, w.tlsa(cert.tlsa(3)), "@ MX 20 mx2", f"mx2 A {second.address}", w.tlsa(cert.tlsa(3), "mx2"))
    w.start()
    w.send("r@cut.test")
    w.send("r@two.test")
    w.assert_deferred("r@cut.test", "4.7.4", "STARTTLS")
    w.assert_delivered("r@two.test", "dane")
    assert not cut.messages and not [c for c in cut.commands() if c.startswith("MAIL")]
