"""TLS on the side that takes mail in, with clients that nobody here wrote: smtplib, openssl s_client, swaks."""

import hashlib
import os
import pathlib
import resource
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess

import pytest

from harness import BIN, Talk, free_port, read_journal, run, wait_for
from tls_fixture import Authority

IDLE_SESSIONS = 2000


class Tls:
    """One node with a listener of each kind."""

    def __init__(self, make_cluster):
        c = self.cluster = make_cluster(n=1)
        self.node = node = c.nodes[0]
        self.required, self.implicit, self.plain = free_port(), free_port(), free_port()
        self.authority = Authority(c.dir)
        self.cert = self.authority.issue("mx1.test")
        self.other = self.authority.issue("other.test", "*.wild.test")
        self.client = self.authority.issue("client.test")
        self.stranger = Authority(c.dir, "stranger")
        self.links = {name: c.dir / f"serving.{name}" for name in ("pem", "key")}
        self.serve(self.cert)
        c.overrides["node"] = {"workers": 2}  # a ticket of one is to be good at the other
        c.overrides["smtp"] = {
            "listeners": [
                {"listen": f"127.0.0.1:{node.smtp}"},
                {"listen": f"127.0.0.1:{self.required}", "profile": "submission"},
                {"listen": f"127.0.0.1:{self.implicit}", "profile": "submission", "tls": "implicit"},
                {"listen": f"127.0.0.1:{self.plain}", "tls": "off"},
            ],
            "tls": {
                "cert": str(self.links["pem"]), "key": str(self.links["key"]),
                "more": [{"cert": str(self.other.cert), "key": str(self.other.key)}],
            },
        }
        c.reconfigure()

    def serve(self, cert):
        """What the configuration names from now on."""
        shutil.copy(cert.cert, self.links["pem"])
        shutil.copy(cert.key, self.links["key"])

    def reload(self, **smtp):
        """SIGHUP; the event that tells what became of it."""
        seen = len(self.node.events("reloaded", "reload_failed"))
        self.cluster.overrides["smtp"].update(smtp)
        self.cluster.reconfigure()
        self.node.signal(signal.SIGHUP)
        return wait_for(lambda: self.node.events("reloaded", "reload_failed")[seen:], "the reload is logged")[0]

    def context(self, *, client=None):
        context = ssl.create_default_context(cafile=self.authority.cert)
        if client is not None:
            context.load_cert_chain(client.cert, client.key)
        return context

    def shown(self, port, name, *, starttls):
        """The certificate that openssl's client is shown, and what it was all about."""
        args = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", self.authority.cert, "-servername", name,
                "-verify_hostname", name, "-verify_return_error"]
        if starttls:
            args += ["-starttls", "smtp"]
        done = subprocess.run([str(a) for a in args], input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr


@pytest.fixture
def tls(make_cluster):
    t = Tls(make_cluster)
    t.cluster.start()
    return t


def received(c, n):
    wait_for(lambda: len([e for e in read_journal(c.sink_journal) if e["event"] == "received"]) >= n, f"{n} messages")


def send(client, sender="a@mx1.test", recipient="b@example.test"):
    client.sendmail(sender, [recipient], "Subject: x\r\n\r\nhello\r\n")


def test_smtplib(tls):
    with smtplib.SMTP("127.0.0.1", tls.node.smtp, timeout=30) as client:
        client._host = "mx1.test"  # what the certificate is for; the address has none
        client.ehlo("client.test")
        assert client.has_extn("starttls")
        client.starttls(context=tls.context())
        assert client.sock.version() == "TLSv1.3"
        client.ehlo("client.test")
        assert not client.has_extn("starttls")
        send(client)
        assert client.docmd("STARTTLS")[0] == 503
    context = tls.context()
    context.check_hostname = False
    with smtplib.SMTP_SSL("127.0.0.1", tls.implicit, context=context, timeout=30) as client:
        send(client)
    with smtplib.SMTP("127.0.0.1", tls.required, timeout=30) as client:
        client.ehlo("client.test")
        assert client.docmd("MAIL FROM:<a@b.test>") == (530, b"5.7.0 Must issue a STARTTLS command first")
        client.starttls(context=context)
        send(client)
    with smtplib.SMTP("127.0.0.1", tls.plain, timeout=30) as client:
        client.ehlo("client.test")
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS")[0] == 502
        send(client)
    received(tls.cluster, 4)
    assert sorted(bool(e["tls"]) for e in tls.node.events("accepted")) == [False, True, True, True]


def test_openssl_and_names(tls):
    for port, starttls in ((tls.node.smtp, True), (tls.implicit, False)):
        for name in ("mx1.test", "other.test", "OTHER.test", "a.wild.test"):
            text = tls.shown(port, name, starttls=starttls)
            assert "Verify return code: 0 (ok)" in text, (port, name, text)
        text = tls.shown(port, "elsewhere.test", starttls=starttls)
        assert "hostname mismatch" in text.lower(), text
    for version, works in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{tls.implicit}", version, "-cipher", "ALL:@SECLEVEL=0"],
                              input="QUIT\r\n", capture_output=True, text=True, check=False, timeout=60)
        assert ("Cipher is (NONE)" not in done.stdout) == works, (version, done.stdout, done.stderr)
    wait_for(lambda: [e for e in tls.node.events("tls_failed") if "unsupported protocol" in e["reason"]], "the refusal is logged")
    resumed = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{tls.implicit}", "-tls1_2", "-reconnect"], input="QUIT\r\n",
                             capture_output=True, text=True, check=False, timeout=60)
    assert resumed.stdout.count("Reused, TLSv1.2") >= 4, resumed.stdout


def test_swaks(tls):
    base = ["swaks", "--server", "127.0.0.1", "--from", "a@mx1.test", "--to", "b@example.test", "--tls-ca-path", tls.authority.cert]
    run([*base, "--port", tls.node.smtp, "--tls"])
    run([*base, "--port", tls.required, "--tls", "--pipeline"])
    run([*base, "--port", tls.implicit, "--tls-on-connect"])
    done = subprocess.run([str(a) for a in [*base, "--port", tls.plain, "--tls"]], capture_output=True, text=True, check=False)
    assert done.returncode == 29, done.stdout  # TLS was required of the server, which does not have it
    received(tls.cluster, 3)


def test_reload(tls):
    """A new certificate for those who come; those who are there stay. A wrong one changes nothing."""
    assert tls.node.events("tls_certificate")[0]["names"] == "mx1.test"
    assert tls.node.events("tls_certificate_expires"), "it ends in 7 days"
    with smtplib.SMTP("127.0.0.1", tls.node.smtp, timeout=30) as client:
        client._host = "mx1.test"
        client.starttls(context=tls.context())
        renewed = tls.authority.issue("mx1.test", "renewed.test", days=29)
        tls.serve(renewed)
        assert tls.reload()["event"] == "reloaded"
        assert "Verify return code: 0 (ok)" in tls.shown(tls.implicit, "renewed.test", starttls=False)
        assert tls.node.events("tls_certificate")[-2]["names"] == "mx1.test renewed.test"
        send(client)
        tls.links["key"].write_text("no key\n")
        event = tls.reload()
        assert event["event"] == "reload_failed" and "smtp.tls: cannot use the key" in event["reason"], event
        assert "Verify return code: 0 (ok)" in tls.shown(tls.implicit, "renewed.test", starttls=False)
        send(client)
    check = subprocess.run([BIN / "mailraftd", "--config", tls.node.config, "--check-config"], capture_output=True, text=True, check=False)
    assert check.returncode == 1 and "cannot use the key" in check.stderr and str(tls.links["key"]) in check.stderr, check.stderr
    tls.serve(tls.authority.issue("mx1.test", days=-1))
    check = subprocess.run([BIN / "mailraftd", "--config", tls.node.config, "--check-config"], capture_output=True, text=True, check=False)
    assert check.returncode == 0 and "has expired" in check.stderr, check.stderr


def test_client_certificates(tls):
    """Relay by an authority's certificate, or by one that is listed; and no more once it is gone from the list."""
    def code(port, cert):
        context = tls.context(client=cert)
        context.check_hostname = False
        client = smtplib.SMTP_SSL("127.0.0.1", port, context=context, timeout=30) if port == tls.implicit else None
        if client is None:
            client = smtplib.SMTP("127.0.0.1", port, timeout=30)
            client.starttls(context=context)
        with client:
            client.ehlo("client.test")
            answer = client.docmd("MAIL FROM:<a@b.test>")[0]
            return answer if answer != 250 else client.docmd("RCPT TO:<b@elsewhere.test>")[0]

    der = ssl.PEM_cert_to_DER_cert(pathlib.Path(tls.stranger.cert).read_text())
    settings = dict(tls.cluster.overrides["smtp"]["tls"])
    tls.reload(tls=dict(settings, client_ca=str(tls.authority.cert), relay_certs=["sha256:" + hashlib.sha256(der).hexdigest()]))
    tls.node.end()  # who may relay by address is read at the start only
    tls.cluster.overrides["smtp"]["relay_from"] = ["192.0.2.1/32"]
    tls.cluster.reconfigure()
    tls.node.start()
    tls.cluster.wait_ready()
    for port in (tls.node.smtp, tls.required, tls.implicit):
        assert code(port, None) in (530, 550, 554), port
        assert code(port, tls.client) == 250, port
        assert code(port, tls.stranger) == 250, port
    assert {e["certificate"] for e in tls.node.events("tls_opened")} == {"verified", "listed"}
    tls.reload(tls=dict(settings, client_ca=str(tls.authority.cert)))
    assert code(tls.node.smtp, tls.stranger) in (550, 554)
    assert code(tls.node.smtp, tls.client) == 250


def test_injection_and_strangers(tls):
    with Talk(tls.node.smtp) as t:
        t.send("STARTTLS\r\nMAIL FROM:<evil@client.test>\r\n")
        assert t.reply()[0] == 421
        assert t.reply() == (0, "closed")
    event = wait_for(lambda: tls.node.events("starttls_injection"), "the injection is logged")[0]
    assert event["level"] == "warn" and event["octets"] == len("MAIL FROM:<evil@client.test>\r\n")
    for bytes_ in (b"EHLO plain.test\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 100):
        with socket.create_connection(("127.0.0.1", tls.implicit), timeout=30) as s:
            s.sendall(bytes_)
            got = s.recv(1000)
            assert got == b"" or got[0] == 0x15, got
    wait_for(lambda: len(tls.node.events("tls_failed")) >= 3, "they are logged")
    assert any(e["reason"] == "the other side does not speak TLS" for e in tls.node.events("tls_failed"))


def rss(node):
    return int(pathlib.Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_idle_sessions(tls):
    """Sessions that are open and idle: what each costs, and that mail flows beside them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = tls.context()
    context.check_hostname = False
    sessions = []

    def open_some(n):
        for _ in range(n):
            s = context.wrap_socket(socket.create_connection(("127.0.0.1", tls.implicit), timeout=60))
            assert s.recv(100).startswith(b"220 ")
            s.sendall(b"EHLO client.test\r\n")
            assert s.recv(2000).startswith(b"250-")
            sessions.append(s)

    try:
        open_some(50)
        before = rss(tls.node)
        open_some(IDLE_SESSIONS)
        each = (rss(tls.node) - before) / IDLE_SESSIONS
        print(f"resident memory of an idle TLS session: {each / 1024:.1f} KiB")
        with smtplib.SMTP("127.0.0.1", tls.node.smtp, timeout=60) as client:
            send(client)
        received(tls.cluster, 1)
        program = (BIN / "mailraftd").read_bytes()
        # asan keeps what was freed, tsan a shadow of all.
        if b"__asan_init" not in program and b"__tsan_init" not in program:
            assert each < 24 * 1024, each
    finally:
        for s in sessions:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: tls.node.get("/v1/status") and tls.node.metric("sessions_open") < 50, "they are forgotten")
