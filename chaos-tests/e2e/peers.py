"""Real mail programs that nobody here wrote, each with a configuration, a folder and ports of its own.

Postfix is here; Exim, Dovecot and HAProxy have files beside this one. All of them are given the same few things: a folder,
the port of who comes next, a pair of certificate and key, and a domain whose mail they keep in a Maildir, so that what
came out at the far end can be compared with what went in, byte for byte.
"""

import functools
import os
import pathlib
import shutil

from harness import Process, can_connect, free_port, run, wait_for

USER = "relay"
PASSWORD = "correct-horse.9"

POSTFIX_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
{more_master}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

POSTFIX_MAIN = """\
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = {name}.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{next}
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_peername_lookup = no
disable_dns_lookups = yes
maillog_file = {dir}/queue/log
maillog_file_prefixes = {dir}
queue_run_delay = 5s
minimal_backoff_time = 5s
maximal_backoff_time = 5s
virtual_mailbox_domains = {local}
virtual_mailbox_base = {dir}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_tls_loglevel = 1
smtp_tls_loglevel = 1
"""


def missing(*programs):
    """The first program that is not there; tests that need it are skipped only where nobody promised to install it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/postfix/sbin"
    return next((p for p in programs if shutil.which(p, path=path) is None), None)


class Pki:
    """A certification authority of the test's own, in `folder`/ca.pem, and who it vouches for."""

    def __init__(self, folder, name="ca"):
        self.dir = pathlib.Path(folder)
        self.dir.mkdir(exist_ok=True)
        self.ca = self.dir / f"{name}.pem"
        self.ca_key = self.dir / f"{name}.key"
        run(["openssl", "req", "-x509", *self._key(self.ca_key), "-out", self.ca, "-days", "2", "-subj", "/CN=test CA",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign"])

    def _key(self, path):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]

    @functools.cache  # noqa: B019 (lives as long as the test)
    def issue(self, name, *more):
        """(certificate, key) for `name` and further DNS names or IP:... as its subject alternative names."""
        cert, key, request = (self.dir / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        names = ",".join(n if n.startswith("IP:") else f"DNS:{n}" for n in (name, *more))
        run(["openssl", "req", *self._key(key), "-out", request, "-subj", f"/CN={name}"])
        extensions = self.dir / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:false\n")
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.ca_key, "-CAcreateserial", "-days", "2",
             "-extfile", extensions, "-out", cert])
        # Daemons that gave up root read it too; it opens nothing but this test.
        key.chmod(0o644)
        return cert, key


def maildir(path):
    """The messages in a Maildir, as bytes with CR LF, oldest first."""
    found = []
    for sub in ("new", "cur"):
        if (path / sub).is_dir():
            found += (path / sub).iterdir()
    found.sort(key=lambda f: f.stat().st_mtime_ns)
    return [f.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for f in found]


class Peer:
    """What the peers have in common: processes that end by pid, a log, a Maildir."""

    process = None

    def messages(self, marker=b""):
        """What it keeps, of those that have `marker` in them."""
        return [m for m in maildir(self.mail) if marker in m]

    def wait_message(self, marker, n=1):
        """The message with `marker` in it, when it has come; all n of them when more are wanted."""
        wait_for(lambda: len(self.messages(marker)) >= n, f"{self.name} has {marker!r}; see {self.dir}")
        found = self.messages(marker)
        assert len(found) == n, [m[:300] for m in found]
        return found[0] if n == 1 else found

    def received(self, message):
        """The message itself, as often as it has come; not reports that quote it."""
        return [m for m in self.messages(message.marker) if message.marker in m.split(b"\r\n\r\n", 1)[0]]

    def wait_mail(self, message):
        wait_for(lambda: self.received(message), f"{self.name} has {message.key}; see {self.dir}")
        found = self.received(message)
        assert len(found) == 1, [m[:300] for m in found]
        return found[0]

    def lines(self, *words):
        """Lines of its log that hold all words."""
        return [line for line in self.log().splitlines() if all(w in line for w in words)]

    def wait_line(self, *words):
        wait_for(lambda: self.lines(*words), f"{self.name} logs {words}; see {self.dir}")
        return self.lines(*words)[-1]


class Postfix(Peer):
    """A Postfix of its own: takes mail on `port`, keeps that for `local`, hands everything else to `next_port`.

    tls: (certificate, key): STARTTLS is offered, and used where the next hop offers it. auth: the path of Dovecot's auth
    socket: AUTH is offered under TLS. login: (user, password) for the next hop. more: further lines of main.cf;
    more_master: of master.cf. prefix: a command that runs it."""

    def __init__(self, folder, name, next_port, more="", local="", tls=None, ca=None, auth=None, login=None, more_master="",
                 prefix=()):
        self.name = name
        self.dir = folder / name
        self.port = free_port()
        self.mail = self.dir / "mail" / "all"
        etc = self.dir / "etc"
        for part in ("etc", "queue", "data", "mail"):
            (self.dir / part).mkdir(parents=True)
        # Its own users have to reach its folders.
        folder.chmod(0o755)
        self.dir.chmod(0o755)
        shutil.chown(self.dir / "data", "postfix", "postfix")
        shutil.chown(self.dir / "mail", "mail", "mail")
        uid, gid = (self.dir / "mail").stat().st_uid, (self.dir / "mail").stat().st_gid
        lines = []
        if tls:
            lines += [f"smtpd_tls_cert_file = {tls[0]}", f"smtpd_tls_key_file = {tls[1]}", "smtpd_tls_security_level = may",
                      "smtpd_tls_auth_only = yes", "smtpd_tls_received_header = yes"]
            lines.insert(0, "smtp_tls_security_level = may")
        if ca:
            lines += [f"smtp_tls_CAfile = {ca}", f"smtpd_tls_CAfile = {ca}"]
        if auth:
            lines += ["smtpd_sasl_auth_enable = yes", "smtpd_sasl_type = dovecot", f"smtpd_sasl_path = {auth}"]
        if login:
            lines += ["smtp_sasl_auth_enable = yes", f"smtp_sasl_password_maps = inline:{{ {{[127.0.0.1]:{next_port} = "
                      f"{login[0]}:{login[1]}}} }}", "smtp_sasl_security_options = noanonymous"]
        lines += more.splitlines()
        values = {"dir": self.dir, "name": name, "next": next_port, "port": self.port, "uid": uid,
                  "gid": gid, "local": local, "more_master": more_master}
        # Postfix warns in each process of a name that comes twice.
        settings = {line.partition("=")[0].strip(): line for line in [*POSTFIX_MAIN.format(**values).splitlines(), *lines]}
        (etc / "main.cf").write_text("\n".join(settings.values()) + "\n")
        (etc / "master.cf").write_text(POSTFIX_MASTER.format(**values))
        self.etc = etc
        self.process = Process([*prefix, "/usr/sbin/postfix", "-c", etc, "start-fg"], self.dir / "output")
        wait_for(lambda: can_connect(self.port), f"Postfix listens; see {self.dir}")

    def log(self):
        path = self.dir / "queue" / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self):
        if self.process.alive():
            run(["/usr/sbin/postfix", "-c", self.etc, "abort"])
            self.process.popen.wait(30)
