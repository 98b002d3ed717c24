"""Dovecot as the store behind the cluster, by LMTP, and as who knows the passwords in front of it."""

import contextlib
import smtplib
import subprocess
import types

import pytest

from harness import Talk, free_port, run, wait_for
from interop import Message, by, report, secured, send
from peers import PASSWORD, USER, Postfix
from peers_dovecot import Dovecot

STORE = "store.test"
BOB = f"bob@{STORE}"


@pytest.fixture(scope="module")
def store(shared_cluster):
    c = shared_cluster(n=1)
    tls = secured(c)
    dovecot = Dovecot(c.dir, tls=c.pki.issue("dovecot.test"))
    c.peers.append(dovecot)
    ports = types.SimpleNamespace(submission=free_port(), implicit=free_port())
    c.reconfigure(
        smtp={
            "tls": tls,
            "auth": {"dovecot": str(dovecot.auth), "senders": "any"},
            "listeners": [
                {"listen": f"127.0.0.1:{c.nodes[0].smtp}"},
                {"listen": f"127.0.0.1:{ports.submission}", "profile": "submission"},
                {"listen": f"127.0.0.1:{ports.implicit}", "profile": "submission", "tls": "implicit"},
            ],
        },
        domains=[{"name": STORE, "route": f"lmtp://127.0.0.1:{dovecot.port}"}],
        delivery={
            "retry": {"first": "1s", "factor": 1.5, "max": "3s"},
            "tls": {"default": {"policy": "verify", "names": ["dovecot.test"]}},
            "tls_ca": str(c.pki.ca),
        },
    )
    c.start(sink=False)
    return types.SimpleNamespace(c=c, dovecot=dovecot, ports=ports)


def test_lmtp_into_maildir(store):
    """Over TLS that we verified; the same octets."""
    m = Message("alice@client.test", BOB)
    send(store.c.nodes[0].smtp, "alice@client.test", BOB, m.data)
    top = m.same(store.dovecot.wait_mail(m))
    assert top["Return-Path"] == "<alice@client.test>" and top["Delivered-To"] == BOB
    assert "with LMTPS" in by(top, "dovecot.test")


def test_reply_for_each_recipient(store):
    """One transaction: one is delivered, one is over quota after the dot, one is unknown at RCPT. The sender hears of the
    two, each with Dovecot's own words."""
    m = Message(BOB, BOB)
    send(store.c.nodes[0].smtp, BOB, [BOB, f"full@{STORE}", f"nobody@{STORE}"], m.data)

    def reports():
        return [report(s) for s in store.dovecot.messages(b"report-type=delivery-status")]

    wait_for(lambda: sum(len(each) for _, each, _ in reports()) == 2, "both refusals are reported")
    each = {recipient: fields for _, e, _ in reports() for recipient, fields in e.items()}
    assert each[f"full@{STORE}"]["Status"] == "5.2.2" and "Quota" in each[f"full@{STORE}"]["Diagnostic-Code"]
    assert each[f"nobody@{STORE}"]["Status"] == "5.1.1"
    whole = [s for s in store.dovecot.messages(m.marker) if s.endswith(m.data)]
    assert len(whole) == 1
    m.same(whole[0])
    assert not store.dovecot.messages(user="full")


def test_many_recipients_in_one_transaction(store):
    m = Message("alice@client.test", BOB)
    send(store.c.nodes[0].smtp, "alice@client.test", [BOB, f"{USER}@{STORE}"], m.data)
    m.same(store.dovecot.wait_mail(m))
    wait_for(lambda: store.dovecot.messages(m.marker, user=USER), f"{USER} has it")
    m.same(store.dovecot.messages(m.marker, user=USER)[0])


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_auth_by_dovecot_with_swaks(store, mechanism):
    m = Message(BOB, BOB)
    path = store.c.dir / "swaks.eml"
    path.write_bytes(m.data[:-2])  # swaks adds CR LF and the dot
    for port, tls in ((store.ports.submission, "--tls"), (store.ports.implicit, "--tls-on-connect")):
        out = run(["swaks", "--server", "127.0.0.1", "--port", port, "--from", BOB, "--to", BOB, "--ehlo", "client.test", tls,
                   "--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD, "--data", f"@{path}"])
        assert f"AUTH {mechanism}" in out and "235 2.7.0" in out and "queued as" in out
    for stored in store.dovecot.wait_message(m.marker, 2):
        assert "with ESMTPSA" in by(m.same(stored), "mx1.test")


def test_scram_by_dovecot_with_postfix(store):
    """Cyrus SASL's client in Postfix and Dovecot's server, through us."""
    p = Postfix(store.c.dir, "out", store.ports.submission, tls=store.c.pki.issue("out.test"), login=(USER, PASSWORD),
                ca=store.c.pki.ca, more="smtp_sasl_mechanism_filter = scram-sha-256\nsmtp_tls_security_level = encrypt")
    store.c.peers.append(p)
    m = Message(BOB, BOB)
    send(p.port, BOB, BOB, m.data)
    assert "with ESMTPSA" in by(m.same(store.dovecot.wait_mail(m)), "mx1.test")


def test_wrong_password(store):
    done = subprocess.run(["swaks", "--server", "127.0.0.1", "--port", str(store.ports.submission), "--from", BOB, "--to", BOB,
                           "--tls", "--auth", "PLAIN", "--auth-user", USER, "--auth-password", "wrong"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 28 and "535 5.7.8" in done.stdout, done.stdout


def test_auth_without_dovecot(store):
    """Dovecot is away: the client hears that it is not its password's fault, and is let in when Dovecot is back."""
    d = store.dovecot
    d.close()
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        send(store.ports.submission, BOB, BOB, b"", tls=store.c.pki.ca, login=(USER, PASSWORD))
    assert refused.value.smtp_code == 454
    d.start()
    m = Message(BOB, BOB)

    def sent():
        # It is asked for again after a while only.
        with contextlib.suppress(smtplib.SMTPAuthenticationError):
            send(store.ports.submission, BOB, BOB, m.data, tls=store.c.pki.ca, login=(USER, PASSWORD))
            return True

    wait_for(sent, "users can log in again", every=0.2)
    m.same(d.wait_mail(m))


def test_no_auth_without_tls(store):
    with Talk(store.ports.submission) as t:
        assert t.say("AUTH PLAIN AHgAeA==")[0] in (530, 538)
        assert t.say(f"MAIL FROM:<{BOB}>")[0] == 530
