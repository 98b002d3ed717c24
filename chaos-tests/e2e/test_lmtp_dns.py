"""Next hops other than one fixed SMTP server: LMTP with a reply for each recipient, and MX from a real DNS server."""

import collections
import smtplib

import pytest

from harness import Process, free_port, read_journal, wait_for
from peers import missing


def received(sink):
    return [e for e in read_journal(sink.journal) if e["event"] == "received"]


# ---- LMTP ----


def test_lmtp_replies_for_each_recipient(make_cluster):
    """Half of the recipients are put off at random, after the dot: they alone come again, and nobody gets two."""
    c = make_cluster()
    store = c.another_sink("store", "--lmtp", "--fault", "refuse@dot=451:0.5,seed=7")
    c.reconfigure(
        routes={"default": f"lmtp://127.0.0.1:{store.port}"},
        delivery={"retry": {"first": "500ms", "factor": 1, "max": "1s"}},
    )
    c.start(sink=False)
    recipients = [f"r{i}@local.test" for i in range(12)]
    with smtplib.SMTP("127.0.0.1", c.nodes[2].smtp, timeout=20) as s:
        assert not s.sendmail("a@client.test", recipients, "Subject: x\r\n\r\n.a line that begins with a dot\r\n")
    c.wait_empty()
    counts = collections.Counter(r for e in received(store) for r in e["recipients"])
    assert counts == collections.Counter(recipients), counts
    assert len(received(store)) > 1, "nobody was put off"
    events = [e["event"] for n in c.nodes for e in n.events("delivered", "deferred")]
    assert events.count("delivered") == 12 and events.count("deferred") >= 1, events


def test_lmtp_load(make_cluster):
    c = make_cluster(sink_args=["--lmtp"])
    c.overrides["routes"] = {"default": f"lmtp://127.0.0.1:{c.sink_port}"}
    c.reconfigure()
    c.start()
    assert c.load(500, extra=["--recipients", "3"]).popen.wait(300) == 0
    c.wait_empty()
    assert c.check_no_loss()["delivered"] == 1500


# ---- DNS ----


class Dns:
    """dnsmasq with the records of this test, and nothing else."""

    RECORDS = (
        "--host-record=in1.test,127.0.0.2",
        "--host-record=in2.test,127.0.0.3",
        "--host-record=dead.test,127.0.0.9",
        "--mx-host=order.test,in2.test,20",
        "--mx-host=order.test,in1.test,10",
        "--mx-host=firstdead.test,dead.test,5",
        "--mx-host=firstdead.test,in2.test,10",
        "--host-record=implicit.test,127.0.0.4",
        "--dns-rr=null.test,15,000000",  # preference 0, the root: RFC 7505
        "--mx-host=later.test,in1.test,10",
    )

    def __init__(self, folder):
        self.dir = folder
        self.port = free_port()
        self.process = None

    def start(self):
        self.process = Process(
            ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", f"--port={self.port}",
             "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts", "--local=/test/",
             "--log-queries", "--log-facility=-", "--pid-file=", "--user=", *self.RECORDS],
            self.dir / "dnsmasq.log",
        )
        wait_for(lambda: "started" in self.process.text(), f"dnsmasq has started: {self.process.text()}")

    def stop(self):
        if self.process is not None:
            self.process.kill()


@pytest.fixture
def dns_cluster(make_cluster):
    """A cluster that routes by MX, sinks at four addresses on one port, and their DNS server."""
    if missing("dnsmasq"):
        pytest.skip("needs dnsmasq (deploy/install-deps.sh --test)")
    c = make_cluster()
    dns = Dns(c.dir)
    c.dns = dns
    port = free_port()
    c.sinks = {
        name: c.another_sink(name, host=host, port=port)
        for name, host in (("in1", "127.0.0.2"), ("in2", "127.0.0.3"), ("implicit", "127.0.0.4"))
    }
    c.reconfigure(
        routes={"default": "mx"},
        delivery={"port": port, "retry": {"first": "1s", "factor": 1.2, "max": "2s"}, "connect_timeout": "5s"},
        dns={"servers": [f"127.0.0.1:{dns.port}"], "timeout": "300ms", "tries": 2},
    )
    yield c
    dns.stop()


def send(c, recipient, sender="a@order.test"):
    with smtplib.SMTP("127.0.0.1", c.nodes[0].smtp, timeout=20) as s:
        s.sendmail(sender, [recipient], f"Subject: to {recipient}\r\n\r\ntext\r\n")


def to(sink, recipient):
    return sum(recipient in e["recipients"] for e in received(sink))


def test_mx(dns_cluster):
    """Preferences, a dead first host, an address instead of MX, the null MX, and a domain that is not."""
    c = dns_cluster
    c.dns.start()
    c.start(sink=False)
    for i in range(10):
        send(c, f"r{i}@order.test")
        send(c, f"r{i}@firstdead.test")
        send(c, f"r{i}@implicit.test")
    send(c, "x@null.test")
    send(c, "x@nowhere.test")
    c.wait_empty()
    in1, in2, implicit = (c.sinks[n] for n in ("in1", "in2", "implicit"))
    for i in range(10):
        assert to(in1, f"r{i}@order.test") == 1 and to(in2, f"r{i}@order.test") == 0
        assert to(in2, f"r{i}@firstdead.test") == 1
        assert to(implicit, f"r{i}@implicit.test") == 1
    # A domain that cannot take mail is told to the sender, at once, and says which of the two it was.
    reports = [e for e in received(in1) if e.get("dsn")]
    assert [e["recipients"] for e in reports] == [["a@order.test"]] * 2, reports
    bounced = {e["recipient"]: e for n in c.nodes for e in n.events("bounced")}
    assert bounced["x@null.test"]["status"] == "5.1.10" and "null MX" in bounced["x@null.test"]["reply"]
    assert bounced["x@nowhere.test"]["status"] == "5.1.2", bounced["x@nowhere.test"]


def test_dns_server_down(dns_cluster):
    """No DNS is no reason to bounce: the mail waits, the queue says for what, and it goes when DNS is back."""
    c = dns_cluster
    c.start(sink=False)
    send(c, "x@later.test")

    def told():
        hops = c.nodes[1].get("/v1/queue")["next_hops"]
        return hops if hops and hops[0]["deferred"] == 1 else None

    (hop,) = wait_for(told, "the queue tells why")
    assert hop["next_hop"] == "mx:later.test" and "MX of later.test" in hop["last_reply"], hop
    c.dns.start()
    c.wait_empty()
    assert to(c.sinks["in1"], "x@later.test") == 1
    assert c.nodes[0].get("/v1/status")["totals"]["failed"] == 0
