"""Logins of users, by clients that nobody here wrote (smtplib, swaks, GNU SASL's gsasl), against a file of users and a real Dovecot;
and our own login at a smarthost, another mailraft and a real Postfix."""

import base64
import contextlib
import pty
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
import time
import types

import pytest

from conftest import clusters
from harness import BIN, free_port, read_journal, run, wait_for
from peers import PASSWORD, USER, missing
from peers_dovecot import Dovecot
from tls_fixture import Authority

ALICE = "alice@mx1.test"
SECRET = "correct horse 9"
LOCAL = "127.0.0.1"


def lines_of(user, password):
    """By mailraftctl, from a pipe."""
    return run([BIN / "mailraftctl", "password", user], input=password + "\n")


class Submission:
    """One node with the two listeners for users; port 25 relays for nobody."""

    def __init__(self, cluster, users="", **auth):
        c = self.cluster = cluster
        self.node = c.nodes[0]
        self.starttls, self.implicit = free_port(), free_port()
        self.authority = Authority(c.dir)
        self.cert = self.authority.issue("mx1.test", "localhost")
        self.users = c.dir / "users"
        self.write(users)
        c.overrides["smtp"] = {
            "listeners": [
                {"listen": f"127.0.0.1:{self.node.smtp}"},
                {"listen": f"127.0.0.1:{self.starttls}", "profile": "submission"},
                {"listen": f"127.0.0.1:{self.implicit}", "profile": "submission", "tls": "implicit"},
            ],
            "relay_from": [],
            "tls": {"cert": str(self.cert.cert), "key": str(self.cert.key)},
            "auth": auth or {"file": str(self.users)},
        }
        c.reconfigure()

    def write(self, text):
        self.users.write_text(text)
        self.users.chmod(0o600)

    def context(self, tls12=False):
        context = ssl.create_default_context(cafile=self.authority.cert)
        context.check_hostname = False
        if tls12:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def connect(self, tls12=False):
        client = smtplib.SMTP(LOCAL, self.starttls, timeout=30)
        client.ehlo("client.test")
        assert not client.has_extn("auth")
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] == 530
        client.starttls(context=self.context(tls12))
        client.ehlo("client.test")
        return client

    def received(self):
        return [e for e in read_journal(self.cluster.sink_journal) if e["event"] == "received"]

    def reload(self):
        seen = len(self.node.events("reloaded", "reload_failed"))
        self.node.signal(signal.SIGHUP)
        return wait_for(lambda: self.node.events("reloaded", "reload_failed")[seen:], "the reload is logged")[0]


@pytest.fixture(scope="module")
def file(shared_cluster):
    s = Submission(shared_cluster(n=1), lines_of(ALICE, SECRET))
    s.cluster.start()
    return s


def login(client, method, user=ALICE, password=SECRET):
    """smtplib's own methods, by name."""
    client.user, client.password = user, password
    return client.auth(method, getattr(client, "auth_" + method.lower()))


def test_smtplib(file):
    before = len(file.received())
    for method in ("PLAIN", "LOGIN"):
        with file.connect() as client:
            assert client.esmtp_features["auth"].split() == ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]
            assert client.docmd("MAIL", f"FROM:<{ALICE}>")[0] == 530  # a submission port is for users
            assert login(client, method)[0] == 235
            client.ehlo("client.test")
            assert not client.has_extn("auth")
            assert client.docmd("AUTH", "LOGIN")[0] == 503
            client.sendmail(ALICE, ["b@example.test"], "Subject: x\r\n\r\nhello\r\n")
    with smtplib.SMTP_SSL(LOCAL, file.implicit, context=file.context(), timeout=30) as client:
        client.ehlo("client.test")
        client.login(ALICE, SECRET)
        client.sendmail(ALICE, ["b@example.test"], "Subject: x\r\n\r\nhello\r\n")
    wait_for(lambda: len(file.received()) == before + 3, "what users sent arrives")
    ok = file.node.events("auth_ok")
    assert {(e["user"], e["mechanism"], e["tls"]) for e in ok} >= {(ALICE, "PLAIN", True), (ALICE, "LOGIN", True)}
    assert SECRET not in file.node.text() and base64.b64encode(SECRET.encode()).decode() not in file.node.text()


def test_wrong_password(file):
    """535 after a pause, then the end; who fails is told nothing about who is there."""
    with file.connect() as client:
        texts = []
        for user in (ALICE, "nobody@mx1.test", ALICE):
            began = time.monotonic()
            with pytest.raises(smtplib.SMTPAuthenticationError) as e:
                login(client, "PLAIN", user, "wrong")
            texts.append((e.value.smtp_code, e.value.smtp_error))
            assert time.monotonic() - began >= 0.9
        assert set(texts) == {(535, b"5.7.8 Authentication failed")}
        assert client.getreply()[0] == 421
    failed = file.node.events("auth_failed")
    assert {e["user"] for e in failed[-3:]} == {ALICE, "nobody@mx1.test"}
    assert file.node.metric("logins_failed_total") >= 3 and file.node.metric("logins_total") >= 3


def test_mail_of_others_is_not_held_up(file):
    """While a client waits for its "no", others are served: one worker has them all."""
    with file.connect() as slow, file.connect() as quick:
        slow.putcmd("AUTH PLAIN " + base64.b64encode(f"\0{ALICE}\0wrong".encode()).decode())
        began = time.monotonic()
        for _ in range(20):
            assert quick.noop()[0] == 250
        assert time.monotonic() - began < 0.9
        assert slow.getreply()[0] == 535


def swaks(port, *more):
    return subprocess.run(["swaks", "--server", LOCAL, "--port", str(port), "--from", ALICE, "--to", "b@example.test", "--ehlo",
                           "client.test", "--suppress-data", *more], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(missing("swaks") is not None, reason="no swaks")
def test_swaks(file):
    for method in ("PLAIN", "LOGIN"):
        done = swaks(file.starttls, "-tls", "--auth", method, "--auth-user", ALICE, "--auth-password", SECRET)
        assert done.returncode == 0 and "235 2.7.0" in done.stdout, done.stdout
    done = swaks(file.implicit, "--tls-on-connect", "--auth", "PLAIN", "--auth-user", ALICE, "--auth-password", "wrong")
    assert done.returncode == 28 and "535 5.7.8" in done.stdout, done.stdout


class Polite:
    """A way to a submission port for gsasl, which says STARTTLS without EHLO: says it before, then passes on octets, TLS and
    all."""

    def __init__(self, port):
        self.port, self.listener = port, socket.create_server((LOCAL, 0))
        self.own = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            client = self.listener.accept()[0]
            with client, socket.create_connection((LOCAL, self.port), timeout=60) as server:
                talk = server.makefile("rb")
                client.sendall(talk.readline())
                server.sendall(b"EHLO client.test\r\n")
                while talk.readline()[3:4] == b"-":
                    pass
                back = threading.Thread(target=self.copy, args=(server, client), daemon=True)
                back.start()
                self.copy(client, server)
                back.join(60)

    @staticmethod
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self.own

    def __exit__(self, *_):
        self.listener.close()


def gsasl(submission, mechanism, password=SECRET, user=ALICE, more=()):
    """What the server said to GNU SASL's own client."""
    with Polite(submission.starttls) as port:
        args = ["gsasl", "--client", "--smtp", f"--mechanism={mechanism}", f"--authentication-id={user}",
                f"--password={password}", f"--x509-ca-file={submission.authority.cert}", "--hostname=mx1.test", "--service=smtp",
                "--starttls", *more, "localhost", str(port)]
        done = subprocess.run(args, input="", capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr


@pytest.mark.skipif(missing("gsasl") is not None, reason="no gsasl")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "PLAIN"])
def test_gsasl(file, mechanism):
    more = ["--no-cb"] if mechanism == "SCRAM-SHA-256" else []
    said = gsasl(file, mechanism, more=more)
    assert re.search(r"^235 2\.7\.0", said, re.M), said
    assert file.node.events("auth_ok")[-1]["mechanism"] == mechanism
    said = gsasl(file, mechanism, password="wrong", more=more)
    assert re.search(r"^535 5\.7\.8", said, re.M), said


def test_downgrade(file):
    """A client that could bind and says that it was not offered: somebody took -PLUS out of the offer (RFC 5802 section 6)."""
    for flag, code in (("n", 334), ("y", 535)):
        with file.connect() as client:
            first = base64.b64encode(f"{flag},,n={ALICE},r=abcdefgh".encode()).decode()
            assert client.docmd("AUTH", f"SCRAM-SHA-256 {first}")[0] == code
            client.close()


@pytest.mark.skipif(missing("gsasl") is not None, reason="no gsasl")
def test_binding_with_tls12(file):
    said = gsasl(file, "SCRAM-SHA-256-PLUS", more=["--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2"])
    assert re.search(r"^235 2\.7\.0", said, re.M), said


def test_reload(file):
    """SIGHUP: a new user is let in; a file that is wrong changes nothing and says where."""
    text = file.users.read_text()
    file.write(text + lines_of("carol@mx1.test", "new"))
    assert file.reload()["event"] == "reloaded"
    with file.connect() as client:
        assert login(client, "PLAIN", "carol@mx1.test", "new")[0] == 235
    file.write(text + "carol@mx1.test:plain text\n")
    failed = file.reload()
    assert failed["event"] == "reload_failed" and f"{file.users}:3" in failed["reason"]
    with file.connect() as client:
        assert login(client, "PLAIN", "carol@mx1.test", "new")[0] == 235


def test_senders_and_limits(make_cluster):
    """A user sends as itself and as what the file says; its recipients an hour are counted."""
    s = Submission(make_cluster(n=1), lines_of(ALICE, SECRET) + lines_of("bulk", SECRET))
    senders = s.cluster.dir / "senders"
    senders.write_text("bulk news@mx1.test\nbulk @lists.mx1.test\n")
    s.cluster.overrides["smtp"]["auth"].update(
        sender_file=str(senders), recipients_per_hour=3, users={"bulk": {"recipients_per_hour": 100}})
    s.cluster.reconfigure()
    s.cluster.start()
    body = "Subject: x\r\n\r\nhello\r\n"
    with s.connect() as client:
        login(client, "PLAIN")
        assert client.mail("bob@mx1.test")[0] == 553
        client.rset()
        client.sendmail(ALICE.upper(), ["a@example.test", "b@example.test"], body)
        with pytest.raises(smtplib.SMTPDataError) as e:
            client.sendmail(ALICE, ["c@example.test", "d@example.test"], body)
        assert e.value.smtp_code == 450 and b"4.7.1" in e.value.smtp_error
        client.sendmail(ALICE, ["e@example.test"], body)
    with s.connect() as client:
        login(client, "PLAIN", "bulk")
        assert client.mail(ALICE)[0] == 553
        client.rset()
        assert client.mail("<>")[0] == 250
        client.rset()
        for sender in ("news@mx1.test", "any@lists.mx1.test"):
            client.sendmail(sender, [f"{n}@example.test" for n in range(5)], body)


def test_senders_are_reloaded(make_cluster):
    """SIGHUP takes `senders` in both directions; sessions that are there heed it too."""
    s = Submission(make_cluster(n=1), lines_of(ALICE, SECRET), file="users", senders="any")
    auth = s.cluster.overrides["smtp"]["auth"]
    auth["file"] = str(s.users)
    s.cluster.reconfigure()
    s.cluster.start()
    with s.connect() as client:
        login(client, "PLAIN")
        for senders, code in (("any", 250), ("own", 553), ("any", 250)):
            auth["senders"] = senders
            s.cluster.reconfigure()
            assert s.reload()["event"] == "reloaded"
            assert client.mail("bob@mx1.test")[0] == code, senders
            client.rset()


def check(config):
    done = subprocess.run([BIN / "mailraftd", "--config", config, "--check-config"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_check_config(make_cluster):
    s = Submission(make_cluster(n=1), lines_of(ALICE, SECRET))
    config = s.node.config
    assert check(config)[0] == 0
    s.users.chmod(0o644)
    status, said = check(config)
    assert status == 1 and f"{s.users}: others may" in said, said
    s.write("# one\nalice:$6$short\n")
    status, said = check(config)
    assert status == 1 and f"{s.users}:2: not a crypt(3) hash" in said, said
    s.write("alice:{SCRAM-SHA-256}1,c2FsdHNhbHQ=,x,y\n")
    status, said = check(config)
    assert status == 1 and f"{s.users}:1: iterations" in said, said


def test_password_on_a_terminal():
    """Asked twice, never shown."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(BIN / "mailraftctl", ["mailraftctl", "password", "bob"])
    said = b""
    for prompt in (b"Password: ", b"Again: "):
        while not said.endswith(prompt):
            said += os.read(fd, 1000)
        os.write(fd, b"from the keyboard\n")
    try:
        while data := os.read(fd, 1000):
            said += data
    except OSError:
        pass
    assert os.waitpid(pid, 0)[1] == 0
    assert b"bob:$y$" in said and b"bob:{SCRAM-SHA-256}" in said and b"keyboard" not in said


# ---- Dovecot ----


@pytest.fixture(scope="module")
def dovecot(request):
    with clusters(request.node, "auth_dovecot") as make:
        c = make(n=1)
        peer = Dovecot(c.dir)
        c.peers.append(peer)
        s = Submission(c, dovecot=str(peer.auth), senders="any")
        c.start()
        yield types.SimpleNamespace(s=s, peer=peer)


@pytest.mark.skipif(missing("dovecot") is not None, reason="no Dovecot")
def test_dovecot(dovecot):
    s = dovecot.s

    def offers():
        with s.connect() as client:
            return client.esmtp_features.get("auth", "").split()

    wait_for(lambda: offers() == ["PLAIN", "LOGIN", "SCRAM-SHA-256"], "Dovecot's mechanisms are offered")
    for method in ("PLAIN", "LOGIN"):
        with s.connect() as client:
            assert login(client, method, USER, PASSWORD)[0] == 235
            client.sendmail(ALICE, ["b@example.test"], "Subject: x\r\n\r\nhello\r\n")
    if missing("gsasl") is None:
        said = gsasl(s, "SCRAM-SHA-256", PASSWORD, USER, ["--no-cb"])
        assert re.search(r"^235 2\.7\.0", said, re.M), said
    with s.connect() as client, pytest.raises(smtplib.SMTPAuthenticationError) as e:
        login(client, "PLAIN", USER, "wrong")
    assert e.value.smtp_code == 535
    assert {(u["user"], u["mechanism"]) for u in s.node.events("auth_ok")} >= {(USER, "PLAIN"), (USER, "LOGIN")}
    with s.connect() as client:  # what is given up in the middle is nobody's trouble
        assert client.docmd("AUTH", "LOGIN")[0] == 334
        assert client.docmd("*")[0] == 501
        assert login(client, "PLAIN", USER, PASSWORD)[0] == 235
    assert not s.node.events("auth_server_down")


@pytest.mark.skipif(missing("dovecot") is not None, reason="no Dovecot")
def test_dovecot_goes_away_and_comes_back(dovecot):
    s = dovecot.s
    dovecot.peer.close()
    wait_for(lambda: s.node.events("auth_server_down"), "the node notices")
    with s.connect() as client:
        assert client.has_extn("auth")  # a client that was told otherwise would give up for good
        with pytest.raises(smtplib.SMTPAuthenticationError) as e:
            login(client, "PLAIN", USER, PASSWORD)
        assert e.value.smtp_code == 454
    dovecot.peer.start()
    wait_for(lambda: s.node.events("auth_server_up"), "the node is back at it")
    with s.connect() as client:
        assert login(client, "PLAIN", USER, PASSWORD)[0] == 235
