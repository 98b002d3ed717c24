"""Postfix on both sides: one that hands mail to the cluster, as a submission client with TLS and SASL, and one that takes
mail from it, with TLS and SASL too. What goes in at one end comes out at the other, octet for octet."""

import types

import pytest

from harness import can_connect, free_port, wait_for
from interop import Message, by, secured, send, users, wait_report
from peers import PASSWORD, USER, Postfix
from peers_dovecot import Dovecot
from peers_proxy import HAProxy

BOX = "box.test"  # kept by the receiving Postfix
PLAIN_HOP = "plain.test"  # goes to a sink that knows neither TLS nor DSN
ALICE = f"alice@{BOX}"


@pytest.fixture(scope="module")
def chain(shared_cluster):
    """smtplib -> .out (Postfix) -> .c (mailraft) -> .box (Postfix)."""
    c = shared_cluster(n=1)
    tls = secured(c)
    dovecot = Dovecot(c.dir)  # vouches for users towards the receiving Postfix
    c.peers.append(dovecot)
    box = Postfix(c.dir, "box", 1, local=BOX, tls=c.pki.issue("box.test"), auth=dovecot.auth,
                  more="smtpd_relay_restrictions = permit_sasl_authenticated, reject\n"
                  "smtpd_recipient_restrictions = check_recipient_access inline:{ refused@box.test=REJECT },"
                  " permit_sasl_authenticated, reject\nmynetworks =\nmessage_size_limit = 2000000")
    c.peers.append(box)
    ports = types.SimpleNamespace(submission=free_port(), lmtp=free_port(), proxied=free_port())
    plain = c.another_sink("plain", "--keep-bodies", c.dir, host="127.0.0.2")
    credentials = c.dir / "credentials"
    credentials.write_text(f"127.0.0.1:{box.port} {USER} {PASSWORD}\n")
    credentials.chmod(0o600)
    c.reconfigure(
        smtp={
            "tls": tls,
            "auth": {"file": str(users(c.dir)), "senders": "any"},
            "relay_from": [],
            "proxy_from": ["127.0.0.0/8"],
            "listeners": [
                {"listen": f"127.0.0.1:{c.nodes[0].smtp}"},
                {"listen": f"127.0.0.1:{ports.submission}", "profile": "submission"},
                {"listen": f"127.0.0.1:{ports.lmtp}", "profile": "lmtp"},
                {"listen": f"127.0.0.1:{ports.proxied}", "proxy": True},
            ],
        },
        domains=[{"name": BOX, "route": f"smtp://{USER}@127.0.0.1:{box.port}"}],
        routes={"default": f"smtp://127.0.0.2:{plain.port}"},
    )
    c.overrides["delivery"] = {
        "retry": {"first": "1s", "factor": 1.5, "max": "3s"},
        "connect_timeout": "5s",
        "tls": {"127.0.0.1": {"policy": "verify", "names": ["box.test"]}, "default": {"policy": "may"}},
        "tls_ca": str(c.pki.ca),
        "credentials": str(credentials),
    }
    c.reconfigure()
    c.start(sink=False)
    out = Postfix(c.dir, "out", ports.submission, tls=c.pki.issue("out.test"), ca=c.pki.ca, login=(USER, PASSWORD),
                  more="smtp_tls_security_level = verify\nsmtp_tls_verify_cert_match = mx1.test\n"
                  "smtp_sasl_mechanism_filter = scram-sha-256")
    c.peers.append(out)
    return types.SimpleNamespace(c=c, out=out, box=box, ports=ports, plain=plain)


def through(chain, message, recipient, sender=ALICE, **more):
    """Gives the message to the first Postfix; the header fields on top of it in the last one's Maildir."""
    assert not send(chain.out.port, sender, recipient, message.data, **more)
    return message.same(chain.box.wait_mail(message))


def test_tls_and_sasl_on_both_sides(chain):
    m = Message(ALICE, f"bob@{BOX}")
    top = through(chain, m, f"bob@{BOX}")
    # In: Postfix verified our certificate and logged in by SCRAM.
    assert chain.out.lines("Verified TLS connection established to 127.0.0.1")
    assert "with ESMTPSA" in by(top, "mx1.test")
    # Out: the other Postfix saw our TLS and our login.
    assert chain.box.lines("TLS connection established from", "TLSv1.3")
    assert chain.box.lines("sasl_username=" + USER)
    assert "with ESMTPSA" in by(top, "box.test")


def test_wrong_password(chain):
    """Postfix is refused, keeps the mail, and says so; nothing of it reaches the cluster."""
    c = chain.c
    bad = Postfix(c.dir, "bad", chain.ports.submission, tls=c.pki.issue("bad.test"), login=(USER, "wrong"),
                  more="smtp_sasl_auth_soft_bounce = yes")
    c.peers.append(bad)
    m = Message(ALICE, f"bob@{BOX}")
    send(bad.port, ALICE, f"bob@{BOX}", m.data)
    assert "535" in bad.wait_line("status=deferred", "SASL authentication failed")
    assert not chain.box.messages(m.marker)


def test_smtputf8(chain):
    """A local part and a sender that only SMTPUTF8 can name, and a header in UTF-8."""
    sender, recipient = f"jürgen@{BOX}", f"δοκιμή@{BOX}"
    m = Message(sender, recipient, subject="Grüße aus Köln")
    top = through(chain, m, recipient, sender=sender, mail=["SMTPUTF8", "BODY=8BITMIME"])
    assert "with UTF8SMTPSA" in by(top, "mx1.test"), top.get_all("Received")
    assert top["Return-Path"] == f"<{sender}>"
    assert top["Delivered-To"] == recipient


def test_chunking(chain):
    """What we hand on goes by BDAT where that is offered."""
    m = Message(ALICE, f"bob@{BOX}", body=b"0123456789abcde\r\n" * 60000)
    through(chain, m, f"bob@{BOX}")
    assert wait_for(lambda: chain.box.lines("disconnect from", " bdat="), "the session ends")


def test_dsn_success_is_passed_on(chain):
    """NOTIFY=SUCCESS, ORCPT, ENVID and RET reach the last Postfix, which alone reports."""
    m = Message(ALICE, f"bob@{BOX}")
    through(chain, m, f"bob@{BOX}", mail=["RET=HDRS", "ENVID=env+2B1"],
            rcpt=["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;Bob+2Bx@{BOX}"])
    whole, each, original = wait_report(chain.box, "env+1")
    assert "box.test" in whole["Reporting-MTA"]
    assert each[f"bob@{BOX}"]["Action"] == "delivered"
    assert each[f"bob@{BOX}"]["Original-Recipient"] == f"rfc822;Bob+x@{BOX}"
    assert original.get_content_type() in ("text/rfc822-headers", "message/global-headers")


def test_dsn_success_is_relayed(chain):
    """A next hop without DSN: we report, once, that the message went where nobody will report."""
    m = Message(ALICE, f"x@{PLAIN_HOP}")
    send(chain.out.port, ALICE, f"x@{PLAIN_HOP}", m.data, mail=["ENVID=env2"], rcpt=["NOTIFY=SUCCESS"])
    whole, each, _ = wait_report(chain.box, "env2")
    assert "mx1.test" in whole["Reporting-MTA"]
    assert each[f"x@{PLAIN_HOP}"]["Action"] == "relayed" and each[f"x@{PLAIN_HOP}"]["Status"].startswith("2.")


def test_dsn_never(chain):
    """NOTIFY=NEVER: no word of a refusal. That of another recipient of the same message is told."""
    m = Message(ALICE, f"refused@{BOX}")
    ca = chain.c.pki.ca
    login = (USER, PASSWORD)
    send(chain.ports.submission, ALICE, f"refused@{BOX}", m.data, mail=["ENVID=never"], rcpt=["NOTIFY=NEVER"], tls=ca,
         login=login)
    send(chain.ports.submission, ALICE, [f"refused@{BOX}", f"bob@{BOX}"], m.data, mail=["ENVID=failed"],
         rcpt=["NOTIFY=FAILURE"], tls=ca, login=login)
    _, each, _ = wait_report(chain.box, "failed")
    assert list(each) == [f"refused@{BOX}"] and each[f"refused@{BOX}"]["Action"] == "failed"
    chain.c.wait_empty()
    assert not chain.box.messages(b"Original-Envelope-Id: never")


def test_too_large_for_the_next_hop(chain):
    """SIZE of the next hop is heeded before the data: one report, at once."""
    m = Message(ALICE, f"bob@{BOX}", body=b"y" * 998 + b"\r\n")
    m.data += m.data[-1000:] * 2100
    send(chain.ports.submission, ALICE, f"bob@{BOX}", m.data, mail=["ENVID=large", "RET=HDRS"], tls=chain.c.pki.ca,
         login=(USER, PASSWORD))
    _, each, _ = wait_report(chain.box, "large")
    assert each[f"bob@{BOX}"]["Status"] == "5.3.4"


def test_requiretls_without_the_next_hops(chain):
    """Postfix 3.7 knows no REQUIRETLS: the message goes back instead of on (RFC 8689)."""
    m = Message(ALICE, f"bob@{BOX}")
    send(chain.ports.submission, ALICE, f"bob@{BOX}", m.data, mail=["REQUIRETLS", "ENVID=rtls"], tls=chain.c.pki.ca,
         login=(USER, PASSWORD))
    _, each, _ = wait_report(chain.box, "rtls")
    assert each[f"bob@{BOX}"]["Status"] == "5.7.30"
    chain.c.wait_empty()
    assert not chain.box.received(m)


def test_lmtp_from_postfix(chain):
    """Postfix's LMTP client gives us mail: a reply for each recipient after the dot."""
    c = chain.c
    p = Postfix(c.dir, "lmtpout", 1, more=f"default_transport = lmtp:inet:127.0.0.1:{chain.ports.lmtp}\nrelayhost =")
    c.peers.append(p)
    m = Message(ALICE, f"bob@{BOX}")
    send(p.port, ALICE, [f"bob@{BOX}", f"carol@{BOX}"], m.data)
    m.same(chain.box.wait_message(m.marker, 2)[0])
    sent = wait_for(lambda: len(p.lines("status=sent", "queued as")) == 2 and p.lines("status=sent"), "both are sent")
    assert {line.split("to=<")[1].split("@")[0] for line in sent} == {"bob", "carol"}


def test_haproxy_in_front(chain):
    """PROXY v1 and v2 as HAProxy writes them, and a bare client on that listener gets nowhere."""
    c = chain.c
    proxy = HAProxy(c.dir, chain.ports.proxied)
    c.peers.append(proxy)
    for port in (proxy.v1, proxy.v2):
        m = Message(ALICE, f"bob@{BOX}")
        send(port, ALICE, f"bob@{BOX}", m.data)
        m.same(chain.box.wait_mail(m))
    assert can_connect(chain.ports.proxied)
