"""Clients that nobody here wrote, swaks and Python's smtplib, with each extension that they know; the octets that arrive at
the next hop are those that were sent."""

import email
import smtplib
import subprocess
import types

import pytest

from harness import free_port, wait_for
from interop import BODY, Message, by, secured, send, users
from peers import PASSWORD, USER

SENDER = "alice@client.test"
TO = "bob@example.test"


@pytest.fixture(scope="module")
def server(shared_cluster):
    """One node with a listener of each kind; its next hop keeps what it gets."""
    c = shared_cluster(n=1)
    bodies = c.dir / "bodies"
    bodies.mkdir()
    c.sink_args = ["--keep-bodies", bodies]
    ports = types.SimpleNamespace(mx=c.nodes[0].smtp, submission=free_port(), implicit=free_port(), lmtp=free_port(),
                                  proxied=free_port())
    c.reconfigure(
        smtp={
            "tls": secured(c),
            "auth": {"file": str(users(c.dir)), "senders": "any"},
            "relay_from": ["127.0.0.0/8"],
            "xclient_from": ["127.0.0.0/8"],
            "proxy_from": ["127.0.0.0/8"],
            "listeners": [
                {"listen": f"127.0.0.1:{ports.mx}"},
                {"listen": f"127.0.0.1:{ports.submission}", "profile": "submission"},
                {"listen": f"127.0.0.1:{ports.implicit}", "profile": "submission", "tls": "implicit"},
                {"listen": f"127.0.0.1:{ports.lmtp}", "profile": "lmtp"},
                {"listen": f"127.0.0.1:{ports.proxied}", "proxy": True},
            ],
        },
    )
    c.start()
    return types.SimpleNamespace(c=c, ports=ports, bodies=bodies)


def mail(server, message):
    """The message where it arrived, as often as it did; not reports that quote it."""
    return [b for b in (p.read_bytes() for p in server.bodies.glob("*.eml"))
            if message.marker in b.split(b"\r\n\r\n", 1)[0]]


def arrived(server, message):
    """The header fields on top of the message where it arrived, once."""
    wait_for(lambda: mail(server, message), "the message arrives")
    (stored,) = mail(server, message)
    return message.same(stored)


def swaks(server, port, message, *args, sender=SENDER, to=TO, status=0):
    """swaks's transcript; `status` is what it has to end with (0: the message was taken)."""
    path = server.c.dir / "message.eml"
    # swaks ends whatever it is given with CR LF and the dot.
    path.write_bytes(message.data[:-2])
    done = subprocess.run(
        ["swaks", "--server", "127.0.0.1", "--port", str(port), "--ehlo", "client.test", "--from", sender, "--to", to, "--data",
         f"@{path}", *args], capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == status, f"swaks ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ---- swaks ----


def test_swaks_starttls(server):
    m = Message(SENDER, TO)
    out = swaks(server, server.ports.mx, m, "--tls", "--tls-verify", "--tls-ca-path", str(server.c.pki.ca))
    assert "TLSv1.3" in out and "STARTTLS" not in out.split("TLS started")[1]
    assert "with ESMTPS " in by(arrived(server, m), "mx1.test") + " "


@pytest.mark.parametrize("version", ["tlsv1_2", "tlsv1_3"])
def test_swaks_tls_versions(server, version):
    m = Message(SENDER, TO)
    swaks(server, server.ports.mx, m, "--tls", "--tls-protocol", version)
    arrived(server, m)


@pytest.mark.parametrize("version", ["tlsv1", "tlsv1_1"])
def test_swaks_tls_too_old(server, version):
    """29: TLS was wanted and was not to be had."""
    swaks(server, server.ports.mx, Message(SENDER, TO), "--tls", "--tls-protocol", version, status=29)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", ["--tls", "--tls-on-connect"])
def test_swaks_auth(server, mechanism, tls):
    m = Message(SENDER, TO)
    port = server.ports.submission if tls == "--tls" else server.ports.implicit
    out = swaks(server, port, m, tls, "--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD)
    assert "235 2.7.0" in out
    assert "with ESMTPSA" in by(arrived(server, m), "mx1.test")


def test_swaks_auth_refused(server):
    """28: the login was refused."""
    swaks(server, server.ports.submission, Message(SENDER, TO), "--tls", "--auth", "PLAIN", "--auth-user", USER,
          "--auth-password", "wrong", status=28)


def test_swaks_pipelining(server):
    m = Message(SENDER, TO)
    swaks(server, server.ports.mx, m, "--pipeline")
    arrived(server, m)


def test_swaks_lmtp(server):
    m = Message(SENDER, TO)
    out = swaks(server, server.ports.lmtp, m, "--protocol", "LMTP", to=f"{TO},carol@example.test")
    assert out.count("queued as") == 2
    assert "with LMTP" in by(arrived(server, m), "mx1.test")


def test_swaks_xclient(server):
    """What a trusted client says of another counts: its address may not relay, and stands in Received."""
    m = Message(SENDER, TO)
    out = swaks(server, server.ports.mx, m, "--xclient-addr", "192.0.2.9", "--xclient-name", "far.test", status=24)
    assert "550 5.7.1" in out or "554 5.7.1" in out, out
    swaks(server, server.ports.mx, m, "--xclient-addr", "127.9.9.9", "--xclient-name", "near.test")
    assert "127.9.9.9" in by(arrived(server, m), "mx1.test")


@pytest.mark.parametrize("version", ["1", "2"])
def test_swaks_proxy(server, version):
    m = Message(SENDER, TO)

    def through(source, status):
        return swaks(server, server.ports.proxied, m, "--proxy-version", version, "--proxy-family",
                     "TCP4" if version == "1" else "AF_INET", "--proxy-protocol", "STREAM", "--proxy-source", source,
                     "--proxy-source-port", "4711", "--proxy-dest", "127.0.0.1", "--proxy-dest-port", "25", status=status)

    through("192.0.2.9", 24)
    through("127.8.8.8", 0)
    assert "127.8.8.8" in by(arrived(server, m), "mx1.test")


# ---- smtplib ----


def test_smtplib_extensions(server):
    """What EHLO offers, before TLS and after, is what a program can parse."""
    with smtplib.SMTP("127.0.0.1", server.ports.submission, "client.test", timeout=20) as s:
        s.ehlo()
        assert s.has_extn("STARTTLS") and not s.has_extn("AUTH")
        s.starttls()
        s.ehlo()
        assert not s.has_extn("STARTTLS")
        assert {"PLAIN", "LOGIN", "SCRAM-SHA-256"} <= set(s.esmtp_features["auth"].split())
        for name in ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "ENHANCEDSTATUSCODES",
                     "REQUIRETLS", "LIMITS", "MT-PRIORITY", "DELIVERBY", "FUTURERELEASE"):
            assert s.has_extn(name), (name, s.esmtp_features)
        assert int(s.esmtp_features["size"]) == 50 * 1024 * 1024


@pytest.mark.parametrize("implicit", [False, True])
def test_smtplib_submission(server, implicit):
    m = Message(SENDER, TO)
    port = server.ports.implicit if implicit else server.ports.submission
    send(port, SENDER, TO, m.data, tls=server.c.pki.ca, implicit=implicit, login=(USER, PASSWORD))
    assert "with ESMTPSA" in by(arrived(server, m), "mx1.test")


def test_smtplib_every_parameter(server):
    """All at once: each is taken; the next hop, which knows none of them, gets the message all the same."""
    m = Message(SENDER, TO)
    send(server.ports.submission, SENDER, TO, m.data, tls=server.c.pki.ca, login=(USER, PASSWORD),
         mail=["BODY=8BITMIME", "RET=HDRS", "ENVID=all", "MT-PRIORITY=3", "BY=3600;N", "HOLDFOR=1", "AUTH=<>"],
         rcpt=["NOTIFY=DELAY,FAILURE", f"ORCPT=rfc822;{TO}"])
    # Without 8BITMIME there the body is encoded on the way, so its octets differ; what they mean does not.
    wait_for(lambda: mail(server, m), "the message arrives")
    assert email.message_from_bytes(mail(server, m)[0]).get_payload(decode=True) == BODY
