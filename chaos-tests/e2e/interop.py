"""What the tests with foreign mail programs share: messages that a careless hop would alter, ways to send them with every
parameter, and reading the reports that come back."""

import base64
import email
import email.policy
import hashlib
import hmac
import itertools
import smtplib
import ssl

from harness import run, wait_for
from peers import PASSWORD, USER, Pki

_numbers = itertools.count(1)

# Whatever an MTA could be tempted to mend: dots, trailing white space, lines at the limit, octets above 127, empty lines.
BODY = (
    ".\r\n..\r\n.a dot first\r\ntrailing spaces   \r\n\ttabs\t\r\nFrom here\r\n\r\n"
    + "x" * 998 + "\r\n" + "Grüße, 日本語\r\n" + "\r\n\r\n"
).encode()


class Message:
    """A message that names itself by .key; .data is all of it, as it has to arrive below what the hops put on top."""

    def __init__(self, sender, to, body=BODY, subject="interop", header=()):
        self.key = f"k{next(_numbers)}.interop.test"
        self.data = "".join(f"{line}\r\n" for line in (
            f"From: <{sender}>", f"To: <{to}>", f"Subject: {subject}", "Date: Sat, 21 Nov 2026 10:00:00 +0000",
            f"Message-ID: <{self.key}>", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 8bit", *header, "")).encode() + body

    @property
    def marker(self):
        return f"Message-ID: <{self.key}>".encode()

    def same(self, stored):
        """`stored` is this message with header fields of hops on top, and not an octet more or less. Those fields."""
        assert stored.endswith(self.data), f"altered:\n{stored!r}\nfrom:\n{self.data!r}"
        top = stored[: -len(self.data)]
        assert top.endswith(b"\r\n") and b"\r\n\r\n" not in top, top
        return email.message_from_bytes(top, policy=email.policy.default)


def by(top, name):
    """The Received field that the host `name` added."""
    found = [f for f in top.get_all("Received") if f" by {name}" in " ".join(f.split())]
    assert len(found) == 1, top.get_all("Received")
    return " ".join(found[0].split())


def send(port, sender, recipients, data, mail=(), rcpt=(), tls=None, implicit=False, login=None, host="client.test"):
    """By smtplib. mail and rcpt: ESMTP parameters; tls: the CA's file: STARTTLS first, or TLS from the first octet on.
    Returns who was refused, by recipient."""
    context = ssl.create_default_context(cafile=tls) if tls else None
    if context:
        context.check_hostname = False  # names are another test's matter; the chain is verified
    connection = smtplib.SMTP_SSL("127.0.0.1", port, host, timeout=60, context=context) if implicit else smtplib.SMTP(
        "127.0.0.1", port, host, timeout=60)
    with connection as s:
        s.ehlo()
        if tls and not implicit:
            s.starttls(context=context)
            s.ehlo()
        if login:
            s.login(*login)
        recipients = [recipients] if isinstance(recipients, str) else recipients
        return s.sendmail(sender, recipients, data, list(mail), list(rcpt))


def report(stored):
    """A report's fields: (of the message, {recipient: of the recipient}, the original's part)."""
    message = email.message_from_bytes(stored, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report", stored[:2000]
    assert message.get_param("report-type") == "delivery-status"
    parts = message.get_payload()
    whole, *each = parts[1].get_payload()
    return whole, {f["Final-Recipient"].split(";", 1)[1].strip(): f for f in each}, parts[2] if len(parts) > 2 else None


def wait_report(peer, envid):
    """The report in `peer`'s Maildir on the message that was sent with this ENVID, read by report()."""
    def found():
        reports = [report(m) for m in peer.messages(b"report-type=delivery-status")]
        return [r for r in reports if r[0]["Original-Envelope-Id"] == envid]

    wait_for(found, f"{peer.name} has the report on {envid}; see {peer.dir}")
    assert len(found()) == 1, found()
    return found()[0]


def scram(password, salt=b"0123456789abcdef", iterations=4096):
    """What RFC 5803 and Dovecot keep of a password for SCRAM-SHA-256."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"{{SCRAM-SHA-256}}{iterations}," + ",".join(base64.b64encode(b).decode() for b in (salt, stored, server))


def users(folder):
    """smtp.auth.file with peers.USER in it, for passwords that are sent and for SCRAM."""
    path = folder / "users"
    path.touch(0o600)
    path.write_text(f"{USER}:{run(['openssl', 'passwd', '-6', PASSWORD]).strip()}\n{USER}:{scram(PASSWORD)}\n")
    return path


def secured(c, n=1):
    """Certificates for a cluster of one node: its configuration's smtp.tls, and the CA for the peers."""
    c.pki = Pki(c.dir / "smtp-pki")
    cert, key = c.pki.issue("mx1.test", "localhost", "IP:127.0.0.1")
    return {"cert": str(cert), "key": str(key)}
