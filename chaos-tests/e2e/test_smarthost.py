"""Logging in at a smarthost that is another mailraft: a cluster of one node relays over the submission port of another."""

import signal
import types

import pytest

from conftest import clusters
from harness import BIN, free_port, read_journal, run, try_send, wait_for
from tls_fixture import Authority, NextHop

USER = "relay@mx1.test"
PASSWORD = "a pass phrase, with blanks"


@pytest.fixture(scope="module")
def smarthost(request):
    """Takes mail from USER alone, and gives it to its sink."""
    with clusters(request.node, "smarthost") as make:
        c = make(n=1)
        authority = Authority(c.dir)
        cert = authority.issue("mx1.test")
        users = c.dir / "users"
        users.write_text(run([BIN / "mailraftctl", "password", USER], input=PASSWORD))
        users.chmod(0o600)
        port = free_port()
        c.overrides["smtp"] = {
            "listeners": [{"listen": f"127.0.0.1:{c.nodes[0].smtp}"}, {"listen": f"127.0.0.1:{port}", "profile": "submission"}],
            "relay_from": [],
            "tls": {"cert": str(cert.cert), "key": str(cert.key)},
            "auth": {"file": str(users), "senders": "any"},
        }
        c.reconfigure()
        c.start()
        yield types.SimpleNamespace(c=c, node=c.nodes[0], port=port, authority=authority, cert=cert)


class Relay:
    """The cluster that logs in. tls: the rule for the smarthost; None: what is the default."""

    def __init__(self, make_cluster, port, ca, password=PASSWORD, tls=None):
        c = self.cluster = make_cluster(n=1)
        self.node = c.nodes[0]
        self.credentials = c.dir / "credentials"
        self.write(f"127.0.0.1:{port} {USER} {password}\n")
        c.overrides["routes"] = {"default": f"smtp://{USER}@127.0.0.1:{port}"}
        c.overrides["delivery"] = {
            "retry": {"first": "1s", "factor": 1, "max": "1s"}, "credentials": str(self.credentials), "tls_ca": str(ca),
            **({"tls": {"127.0.0.1": tls}} if tls else {}),
        }
        c.reconfigure()
        c.start(sink=False)

    def write(self, text):
        self.credentials.write_text(text)
        self.credentials.chmod(0o600)

    def send(self):
        assert try_send(self.node.smtp)[0] == 250

    def failures(self):
        return self.node.events("smarthost_login_failed")


VERIFY = {"policy": "verify", "names": ["mx1.test"]}


def arrived(smarthost):
    return len([e for e in read_journal(smarthost.c.sink_journal) if e["event"] == "received"])


def test_scram_with_binding(smarthost, make_cluster):
    before = arrived(smarthost)
    relay = Relay(make_cluster, smarthost.port, smarthost.authority.cert, tls=VERIFY)
    for _ in range(5):
        relay.send()
    wait_for(lambda: arrived(smarthost) == before + 5, "all mail is relayed")
    relay.cluster.wait_empty()
    ok = smarthost.node.events("auth_ok")[-1]
    assert (ok["user"], ok["mechanism"], ok["tls"]) == (USER, "SCRAM-SHA-256-PLUS", True)
    assert not relay.failures()
    assert PASSWORD not in relay.node.text() + smarthost.node.text()


def test_wrong_password_keeps_the_mail(smarthost, make_cluster):
    """The credentials are ours: nothing is bounced, the operator is told, and a reload with the right ones sends it all."""
    before = arrived(smarthost)
    relay = Relay(make_cluster, smarthost.port, smarthost.authority.cert, password="wrong", tls=VERIFY)
    relay.send()
    failure = wait_for(relay.failures, "the log tells")[0]
    assert failure["user"] == USER and "535" in failure["reason"] and failure["level"] == "error"
    relay.write("# the line is gone\n")
    relay.node.signal(signal.SIGHUP)
    wait_for(lambda: "has no password" in relay.failures()[-1]["reason"], "without a line there is no login")
    assert arrived(smarthost) == before and relay.cluster.queued() == 1
    relay.write(f"127.0.0.1 {USER} {PASSWORD}\n")
    relay.node.signal(signal.SIGHUP)
    wait_for(lambda: arrived(smarthost) == before + 1, "the mail is relayed after all")


@pytest.mark.parametrize("tls", [None, {"policy": "may"}], ids=["default", "may"])
def test_no_password_for_a_stranger(smarthost, make_cluster, tls):
    """By default, and under `may`, a smarthost has to prove its name before it learns who we are."""
    before = len(smarthost.node.events("auth_ok"))
    relay = Relay(make_cluster, smarthost.port, smarthost.authority.cert, tls=tls)
    relay.send()
    wait_for(lambda: relay.node.events("deferred"), "it is deferred")
    assert "certificate is not accepted" in relay.node.events("deferred")[0]["reply"]
    assert len(smarthost.node.events("auth_ok")) == before


def test_encrypt_asks_for_no_name(smarthost, make_cluster):
    before = arrived(smarthost)
    relay = Relay(make_cluster, smarthost.port, smarthost.authority.cert, tls={"policy": "encrypt"})
    relay.send()
    wait_for(lambda: arrived(smarthost) == before + 1, "TLS with whomever is what was asked for")


def test_no_password_in_plain_text(smarthost, make_cluster):
    """A smarthost without STARTTLS that offers PLAIN: nothing is said to it."""
    hop = NextHop(None)
    hop.extensions = lambda _: "250-hop.test\r\n250 AUTH PLAIN LOGIN\r\n"
    try:
        relay = Relay(make_cluster, hop.port, smarthost.authority.cert, tls={"policy": "none"})
        relay.send()
        failure = wait_for(relay.failures, "the log tells")[0]
        assert "none may be used here" in failure["reason"]
        assert not any(command.startswith("AUTH") for command in hop.commands())
    finally:
        hop.stop()
