"""Deliveries under TLS to next hops that are proven by DANE (RFC 7672), by MTA-STS (RFC 8461), by name, or not at all; against a
real authoritative server with DNSSEC (knot), a real validating resolver (unbound) and a real HTTPS server."""

import smtplib
import ssl
import threading

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
        self.server = None
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
        if self.server:  # STARTTLS for those who send to the cluster
            tls = {"cert": str(self.server.chain), "key": str(self.server.key)}
            self.cluster.reconfigure(smtp={"tls": tls})
        self.cluster.start(sink=False)
        return self

    def send(self, *recipients, node=0, sender="a@client.test", text="Subject: x\r\n\r\nhello\r\n"):
        with smtplib.SMTP("127.0.0.1", self.cluster.nodes[node].smtp, timeout=20) as s:
            s.sendmail(sender, recipients, text)

    def send_required(self, *recipients, sender):
        """Under REQUIRETLS, which is offered under TLS alone."""
        with smtplib.SMTP("127.0.0.1", self.cluster.nodes[0].smtp, timeout=20) as s:
            s.ehlo()
            assert not s.has_extn("requiretls")
            s.starttls(context=ssl.create_default_context(cafile=str(self.ca.cert)))
            s.ehlo()
            assert s.has_extn("requiretls")
            s.sendmail(sender, recipients, "Subject: secret plan\r\n\r\nhush\r\n", mail_options=["REQUIRETLS"])

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
            assert event["tls_version"] == "TLSv1.3" and event["tls_cipher"], event
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


# ---- MTA-STS ----


def sts_record(number=1):
    return f'_mta-sts TXT "v=STSv1; id={number};"'


POLICY_HOST = "mta-sts A 127.0.0.1"


def test_sts(world):
    """Policies that are right, name other hosts, are for testing, none, absent, malformed, and hosts that do not keep them."""
    w = world.open()
    names = ("right", "wild", "wrongmx", "wrongname", "cut", "testing", "testmx", "none", "gone", "nopolicy", "broken", "two")
    policies = w.policy_server(*(f"{n}.test" for n in names))
    named = w.ca.issue(*(f"mx.{n}.test" for n in names if n != "wrongname"))
    hop, cut = w.hop(named), w.hop(named, {"nostarttls"})
    for name in names:
        records = [] if name == "nopolicy" else [sts_record(), POLICY_HOST]
        if name == "two":
            records.append('_mta-sts TXT "v=STSv1; id=2"')
        w.domain(f"{name}.test", cut if name == "cut" else hop, *records, signed=name == "right")
        mode = {"testing": "testing", "testmx": "testing", "none": "none"}.get(name, "enforce")
        mx = {"wild": f"*.{name}.test", "wrongmx": "other.wrongmx.test", "testmx": "other.testmx.test"}.get(name, f"mx.{name}.test")
        policies.answers[f"{name}.test"] = policy(mode, [mx])
    del policies.answers["gone.test"]
    policies.answers["broken.test"] = "version: STSv1\r\nmode: enforce\r\n"
    w.start()
    for name in names:
        w.send(f"r@{name}.test")
    w.assert_delivered("r@right.test", "sts")
    w.assert_delivered("r@wild.test", "sts")
    w.assert_deferred("r@wrongmx.test", "4.7.5", "policy of wrongmx.test does not name mx.wrongmx.test")
    w.assert_deferred("r@wrongname.test", "4.7.5", "certificate is not accepted (sts)")
    w.assert_deferred("r@cut.test", "4.7.4", "STARTTLS")
    for name in ("testing", "testmx", "none", "gone", "nopolicy", "broken", "two"):
        w.assert_delivered(f"r@{name}.test", "none")
    assert policies.fetches.get("nopolicy.test") is None and policies.fetches.get("two.test") is None
    assert all(n == 1 for n in policies.fetches.values()), policies.fetches
    node = w.cluster.nodes[0]
    failed = {e["domain"]: e["reason"] for e in node.events("sts_fetch_failed")}
    assert failed == {"gone.test": "HTTP status 404", "broken.test": "the policy is malformed"}, failed
    assert {e["domain"] for e in node.events("sts_testing_failed")} == {"testmx.test"}
    assert not cut.messages


def test_sts_fetches_that_go_wrong(world):
    """Wrong certificates, redirects, endless and huge answers, other types: no policy, and mail flows on."""
    w = world.open()
    names = ("cert", "expired", "redirect", "huge", "html", "error", "slow", "nobody")
    policies = w.policy_server(*(f"{n}.test" for n in names))
    hop = w.hop(w.ca.issue("somebody.else"))
    good = policy(mx=["other"])
    for name in names:
        w.domain(f"{name}.test", hop, sts_record(), *([POLICY_HOST] if name != "nobody" else []), signed=False)
        policies.answers[f"{name}.test"] = good
    policies.use("cert.test", w.ca.issue("mta-sts.other.test"))
    policies.use("expired.test", w.ca.issue("mta-sts.expired.test", days=-1))
    to = f"https://mta-sts.html.test:{policies.port}/.well-known/mta-sts.txt"
    policies.answers["redirect.test"] = lambda r: policies.say(r, good, 302, headers=[("Location", to)])
    policies.answers["huge.test"] = lambda r: policies.say(r, good + "x: y\r\n" * 20000)
    policies.answers["html.test"] = lambda r: policies.say(r, good, kind="text/html")
    policies.answers["error.test"] = lambda r: policies.say(r, good, 500)
    released = threading.Event()
    policies.answers["slow.test"] = lambda r: released.wait(100)
    w.start()
    for name in names:
        w.send(f"r@{name}.test")
    try:
        for name in names:
            if name != "slow":
                w.assert_delivered(f"r@{name}.test", "none")
        assert not w.events("r@slow.test"), "it did not wait for the policy"
    finally:
        released.set()
    w.assert_delivered("r@slow.test", "none")
    failed = {e["domain"].split(".")[0]: e["reason"] for e in w.cluster.nodes[0].events("sts_fetch_failed")}
    assert set(failed) == set(names), failed
    assert "302" in failed["redirect"] and "500" in failed["error"] and "65536" in failed["huge"], failed
    assert "text/plain" in failed["html"] and "certificate" in failed["expired"].lower(), failed
    assert w.cluster.nodes[0].metric("sts_failed_total") == len(names)


def test_sts_policy_outlives_its_server_and_changes_by_id(world):
    w = world.open()
    policies = w.policy_server("a.test")
    named, other = w.ca.issue("mx.a.test"), w.ca.issue("mx.b.test")
    hop = w.hop(named)
    w.domain("a.test", hop, sts_record(1), POLICY_HOST, signed=False)
    policies.answers["a.test"] = policy(mx=["mx.a.test"])
    w.start()
    w.send("1@a.test")
    w.assert_delivered("1@a.test", "sts")
    wait_for(lambda: w.cluster.nodes[0].metric("connections_out") == 0, "the connection is closed")
    # The server is gone, the record too: the policy stays in force.
    del policies.answers["a.test"]
    w.dns.change("a.test", "@ MX 10 mx", f"mx A {hop.address}")
    hop.use(other)
    w.send("2@a.test")
    w.assert_deferred("2@a.test", "4.7.5", "certificate is not accepted (sts)")
    # A new id whose policy cannot be had changes nothing.
    w.dns.change("a.test", "@ MX 10 mx", f"mx A {hop.address}", sts_record(2), POLICY_HOST)
    wait_for(lambda: policies.fetches["a.test"] == 2, "the new policy was asked for")
    w.send("3@a.test")
    w.assert_deferred("3@a.test", "4.7.5", "certificate is not accepted (sts)")
    # A third one takes it back.
    policies.answers["a.test"] = policy("none", [])
    w.dns.change("a.test", "@ MX 10 mx", f"mx A {hop.address}", sts_record(3), POLICY_HOST)
    for n in (2, 3):
        wait_for(lambda i=n: any(e["event"] == "delivered" for e in w.events(f"{i}@a.test")), f"{n} is delivered")
    assert policies.fetches["a.test"] == 3


def test_sts_policy_is_renewed_and_ends(world):
    """Half of a policy's life over, it is fetched again; when that fails it stays in force to its end, and no longer."""
    w = world.open()
    policies = w.policy_server("a.test")
    hop = w.hop(w.ca.issue("mx.a.test"))
    w.domain("a.test", hop, sts_record(), POLICY_HOST, signed=False)
    policies.answers["a.test"] = policy(mx=["mx.a.test"], max_age=6)
    w.start()
    w.send("first@a.test")
    w.assert_delivered("first@a.test", "sts")

    def one_more(number=iter(range(1000))):
        recipient = f"{next(number)}@a.test"
        w.send(recipient)
        return w.first(recipient)

    wait_for(lambda: one_more()["tls_verified"] == "sts" and policies.fetches["a.test"] >= 2, "it was renewed", every=0.2)
    del policies.answers["a.test"]
    events = [one_more()]
    assert events[0]["tls_verified"] == "sts"

    def ended():
        events.append(one_more())
        return events[-1]["tls_verified"] == "none"

    wait_for(ended, "the policy has ended", every=0.2)
    failed, = w.cluster.nodes[0].events("sts_fetch_failed")
    assert failed["policy_in_force"] is True, failed
    assert all(e["event"] == "delivered" for e in events)


def test_dane_wins_over_sts(world):
    """TLSA records that fit and a policy that does not: DANE alone counts. The other way round it counts as well."""
    w = world.open()
    policies = w.policy_server("fits.test", "fails.test")
    cert = w.ca.issue("mx.fails.test")
    hop = w.hop(cert)
    w.domain("fits.test", hop, sts_record(), POLICY_HOST, w.tlsa(cert.tlsa(3)))
    w.domain("fails.test", hop, sts_record(), POLICY_HOST, w.tlsa(w.ca.tlsa(3)))
    policies.answers["fits.test"] = policy(mx=["other.fits.test"])
    policies.answers["fails.test"] = policy(mx=["mx.fails.test"])
    w.start()
    w.send("r@fits.test")
    w.send("r@fails.test")
    w.assert_delivered("r@fits.test", "dane")
    w.assert_deferred("r@fails.test", "4.7.5", "certificate is not accepted (dane)")


def test_one_node_fetches_for_all(world):
    """Three nodes: the policy that one has fetched is in force at the others, which fetch nothing; so is a failure of TLS."""
    w = world.open(n=3)
    policies = w.policy_server("a.test")
    named = w.ca.issue("mx.a.test")
    hop, shaky = w.hop(named), w.hop(named, {"handshake"})
    w.domain("a.test", hop, sts_record(1), POLICY_HOST, signed=False)
    w.domain("shaky.test", shaky, signed=False)
    policies.answers["a.test"] = policy(mx=["mx.a.test"])
    w.start()
    w.send("0@a.test", "0@shaky.test")

    def where(recipient):
        found = [i for i in range(3) if w.events(recipient, "delivered", node=i)]
        return found[0] if found else None

    for recipient in ("0@a.test", "0@shaky.test"):
        wait_for(lambda r=recipient: where(r) is not None, f"{recipient} is delivered")
    first = where("0@a.test")
    w.assert_delivered("0@a.test", "sts", node=first)
    w.assert_delivered("0@shaky.test", None, node=where("0@shaky.test"))
    assert len([c for c in shaky.commands() if c == "STARTTLS"]) == 1
    # The policy's server is gone for good: what the others know they have from the cluster.
    del policies.answers["a.test"]
    nodes = {first}
    for i in range(1, 60):
        if len(nodes) == 3:
            break
        recipient = f"{i}@a.test"
        w.send(recipient, f"{i}@shaky.test", node=i % 3)
        wait_for(lambda r=recipient: where(r) is not None, f"{recipient} is delivered")
        w.assert_delivered(recipient, "sts", node=where(recipient))
        nodes.add(where(recipient))
    assert len(nodes) == 3, nodes
    assert policies.fetches["a.test"] == 1
    wait_for(lambda: len(shaky.messages) >= i, "the shaky one has them all")
    assert len([c for c in shaky.commands() if c == "STARTTLS"]) == 1, "TLS was tried again"
    assert sum(len(n.events("tls_fallback")) for n in w.cluster.nodes) == 1


# ---- policies of the configuration ----


def test_may_falls_back(world):
    """STARTTLS that does not work costs one more connection, once; where it is demanded nothing is sent."""
    w = world.open()
    cert = w.ca.issue("mx.a.test")
    faults = ("refuse", "handshake", "garbage", "inject", "plainonly")
    hops = {fault: w.hop(cert, {fault}) for fault in faults}
    for fault, hop in hops.items():
        w.domain(f"{fault}.test", hop, signed=False)
        w.domain(f"must-{fault}.test", hop, signed=False)
    w.start(tls={f"must-{fault}.test": {"policy": "encrypt"} for fault in faults})
    node = w.cluster.nodes[0]
    for fault in faults:
        w.send(f"1@{fault}.test", f"1@must-{fault}.test")
    for fault, hop in hops.items():
        w.assert_delivered(f"1@{fault}.test", None)
        w.assert_deferred(f"1@must-{fault}.test", "4.7.0", f"mx.must-{fault}.test")
        w.send(f"2@{fault}.test")
        w.assert_delivered(f"2@{fault}.test", None)
        assert not [m for m in hop.messages if "must" in m[0][1]]
        plain = [s for s in hop.sessions if any(f"@{fault}" in c for c in s.commands)]
        assert plain and all("STARTTLS" not in s.commands for s in plain), "it was tried again"
    events = {e["next_hop"]: e["reason"] for e in node.events("tls_fallback")}
    assert set(events) == {f"mx:{fault}.test" for fault in faults} and len(node.events("tls_fallback")) == 5, events
    assert "454" in events["mx:refuse.test"] and "plain text" in events["mx:inject.test"], events
    assert node.metric("tls_fallbacks_total") == 5 and node.metric("tls_out_failed_total") >= 10


def test_policies(world):
    w = world.open()
    named = w.ca.issue("mx.right.test", "secret.partner.test")
    hop, cut = w.hop(named), w.hop(named, {"nostarttls"})
    stranger = w.hop(Authority(w.dir, "stranger").issue("mx.stranger.test", "stranger.test"))
    own = w.hop(w.ca.issue("gate.own.test"))
    mine = w.ca.issue("client.test")
    hop.ask_for_certificate(w.ca)
    for name, at in (("none", hop), ("encrypt", hop), ("cutencrypt", cut), ("cut", cut), ("byname", hop), ("badname", hop),
                     ("stranger", stranger), ("own", own), ("right", hop)):
        w.domain(f"{name}.test", at, signed=name == "right")
    verify = {"policy": "verify"}
    w.start(tls={
        "default": {"policy": "may"},
        "none.test": {"policy": "none"},
        "encrypt.test": {"policy": "encrypt"},
        "cutencrypt.test": {"policy": "encrypt"},
        "byname.test": {"policy": "verify", "names": ["secret.partner.test"]},
        "badname.test": verify,
        "stranger.test": verify,
        "own.test": verify,  # without names: the domain or what is below it
        "right.test": verify,  # DNSSEC vouches for the MX host
    }, tls_cert=str(mine.chain), tls_key=str(mine.key))
    names = ("none", "encrypt", "cutencrypt", "cut", "byname", "badname", "stranger", "own", "right")
    for name in names:
        w.send(f"r@{name}.test")
    w.assert_delivered("r@none.test", None)
    w.assert_delivered("r@encrypt.test", "none")
    w.assert_delivered("r@cut.test", None)
    w.assert_delivered("r@byname.test", "verify")
    w.assert_delivered("r@own.test", "verify")
    w.assert_delivered("r@right.test", "verify")
    w.assert_deferred("r@cutencrypt.test", "4.7.4", "STARTTLS")
    w.assert_deferred("r@badname.test", "4.7.5", "certificate is not accepted (verify)")
    w.assert_deferred("r@stranger.test", "4.7.5", "certificate is not accepted (verify)")
    assert not stranger.messages
    shown = {s.client for s in hop.sessions if s.messages and s.tls}
    assert shown == {"client.test"}, shown


# ---- REQUIRETLS ----


def test_requiretls(world):
    """Only to hosts that are proven and promise the same; what cannot go on goes back, and the report gives nothing away."""
    w = world.open()
    names = ("dane", "sts", "dnssec", "lacking", "unproven", "back")
    policies = w.policy_server("sts.test")
    cert = w.ca.issue(*(f"mx.{n}.test" for n in names))
    w.server = w.ca.issue("localhost", ip="127.0.0.1")
    hop, lacking, back = w.hop(cert, {"requiretls"}), w.hop(cert), w.hop(cert)
    w.domain("dane.test", hop, w.tlsa(cert.tlsa(3)))
    w.domain("sts.test", hop, sts_record(), POLICY_HOST, signed=False)
    policies.answers["sts.test"] = policy(mx=["mx.sts.test"])
    w.domain("dnssec.test", hop)
    w.domain("lacking.test", lacking, w.tlsa(cert.tlsa(3)))
    w.domain("unproven.test", hop, signed=False)
    w.domain("back.test", back, signed=False)
    w.start()
    for name in names[:-1]:
        w.send_required(f"r@{name}.test", sender="me@back.test")
    w.assert_delivered("r@dane.test", "dane")
    w.assert_delivered("r@sts.test", "sts")
    w.assert_delivered("r@dnssec.test", "verify")
    w.assert_deferred("r@unproven.test", "4.7.5", "nothing proves")
    event = w.first("r@lacking.test")
    assert event["event"] == "bounced" and event["status"] == "5.7.30", event
    assert {m[0][0].split(" ")[-1] for m in hop.messages} == {"REQUIRETLS"}, [m[0] for m in hop.messages]
    assert len(hop.messages) == 3 and not lacking.messages
    wait_for(lambda: back.messages, "the report comes back")
    commands, text, _ = back.messages[0]
    assert "5.7.30" in text and "r@lacking.test" in text, text
    assert "secret plan" not in text and "hush" not in text, text
    assert "REQUIRETLS" not in commands[0], commands
    # Mail that does not ask for it goes the usual way.
    w.send("r2@lacking.test")
    w.assert_delivered("r2@lacking.test", "dane")
