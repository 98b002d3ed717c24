"""The servers that are measured: Postfix, Exim and OpenSMTPD of Debian, and a mailraft cluster, each started the same way.

Each has a folder of its own on the same disk, loopback ports, and an Account (measure.py) that all its processes are in and
that ends them. `held`: it accepts and delivers nothing, so that only accepting is measured. `notes` of a class say what was
set otherwise than its package sets it; durability never is.
"""

import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))
import peers as tested  # noqa: E402 (those of the end-to-end tests)
from harness import BIN, Cluster, Process, can_connect, free_port, run, wait_for  # noqa: E402
from peers_exim import EXIM, OWNER  # noqa: E402

import measure  # noqa: E402

PEERS = pathlib.Path("/usr/local/lib/mailraft-peers")  # as in deploy/install-deps.sh
OPENSMTPD = PEERS / "opensmtpd/usr/sbin/smtpd"
SMTPCTL = PEERS / "opensmtpd/usr/sbin/smtpctl"
SINK = "/usr/sbin/smtp-sink"
CLIENT_NAME = "client.test"


def may_mount():
    """Whether peers can be given files of their own in place of the system's: root in many containers cannot."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


class Resolver:
    """dnsmasq that knows this machine's loopback address and nothing else, so that no lookup of a peer waits for a network."""

    def __init__(self, folder):
        self.address = f"127.53.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"
        self.file = folder / "resolv.conf"
        self.file.write_text(f"nameserver {self.address}\n")
        self.process = Process(
            ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
             "--user=root", "--pid-file=", f"--listen-address={self.address}", f"--host-record={CLIENT_NAME},127.0.0.1",
             "--address=/#/127.0.0.1"],
            folder / "dnsmasq.log")
        wait_for(lambda: not self.process.alive() or can_connect(53, self.address), "dnsmasq listens")
        assert self.process.alive(), self.process.text()

    def close(self):
        self.process.kill()


class Sink:
    """smtp-sink, which counts what it took: the same observer of deliveries for all servers."""

    def __init__(self, folder, port=None):
        self.port = port or free_port()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.process = Process([SINK, "-c", *user, f"127.0.0.1:{self.port}", "1000"], folder / "smtp-sink.out")
        wait_for(lambda: can_connect(self.port), "smtp-sink listens")

    def count(self):
        """Messages so far: its last `sess=N quit=N mesg=N`."""
        with open(self.process.log, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 400))
            lines = [line for line in f.read().split(b"\r")[:-1] if b"mesg=" in line]
        return int(lines[-1].rsplit(b"mesg=", 1)[1]) if lines else 0

    def close(self):
        self.process.kill()


class Server:
    """What they have in common. `ports`: where clients go, all sessions spread over them."""

    copies = 1
    notes = ()
    share = 1.0  # of a load's messages: a slow one gets fewer, or the whole takes hours
    root = True  # it has to be started by root, who may mount

    def __init__(self, folder, resolver, next_port, held, tls, tracer=None):
        """tls: (certificate, key) where STARTTLS is to be offered. tracer(file): a command to put before each of its processes."""
        self.dir = folder / self.name
        self.tracer = tracer or (lambda _: [])
        self.dir.mkdir()
        self.resolver, self.next_port, self.held, self.tls = resolver, next_port, held, tls
        self.account = measure.account()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def fails(cls, load):
        """Why it cannot be measured with this load, or None."""
        return None

    def cpu_seconds(self):
        return self.account.cpu_seconds()

    def pids(self):
        return self.account.pids()

    def close(self):
        self.account.close()

    def prefix(self, *binds):
        """Before a peer's command: in the account's group, and with files and folders of its own in place of the system's, which
        nobody else sees (a mount namespace)."""
        binds = [(self.resolver.file, "/etc/resolv.conf"), *binds]
        mounts = " && ".join(f"mount --bind '{own}' '{path}'" for own, path in binds)
        return [*self.account.prefix, "unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", f'{mounts} && exec "$@"', "sh",
                *self.tracer(self.dir / "strace")]

    def process(self, args, **kwargs):
        started = Process(args, self.dir / "output", **kwargs)
        if isinstance(self.account, measure.Tree):
            self.account.roots.append(started.pid)
        return started

    def wait_listening(self, process):
        wait_for(lambda: not process.alive() or can_connect(self.ports[0]), f"{self.name} listens; see {self.dir}")
        assert process.alive(), process.text()[-2000:]


class Postfix(Server):
    name, title = "postfix", "Postfix"
    notes = ("syncs once before 250", "held: all mail goes to the hold queue (check_client_access static:HOLD), which costs it least",
             "client names are not looked up (smtpd_peername_lookup = no)")

    @staticmethod
    def missing():
        return tested.missing("postfix", "smtp-source")

    @staticmethod
    def version():
        return run(["/usr/sbin/postconf", "-h", "mail_version"]).strip()

    def start(self):
        more = ["queue_run_delay = 300s", "minimal_backoff_time = 300s", "maximal_backoff_time = 4000s"]
        if self.held:
            more.append("smtpd_client_restrictions = check_client_access static:HOLD")
        self.postfix = tested.Postfix(self.dir, "mta", self.next_port, more="\n".join(more), tls=self.tls, prefix=self.prefix())
        if isinstance(self.account, measure.Tree):
            self.account.roots.append(self.postfix.process.pid)
        self.ports = [self.postfix.port]


EXIM_CONFIG = """\
primary_hostname = exim.test
spool_directory = {dir}/spool
log_file_path = {dir}/log/%s
exim_path = {exim}
pid_file_path = {dir}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
host_lookup =
rfc1413_hosts =
keep_environment =
deliver_drop_privilege
never_users =
smtp_accept_max = 1000
smtp_connect_backlog = 1000
smtp_accept_queue_per_connection = 0
smtp_accept_max_per_connection = 0
message_size_limit = 50M
queue_only = {held}
acl_smtp_rcpt = all
acl_smtp_data = all
{tls}

begin acl
all:
  accept

begin routers
next:
  driver = manualroute
  domains = *
  transport = next
  route_list = * 127.0.0.1::{next}
  self = send

begin transports
next:
  driver = smtp

begin retry
* * F,1h,2s
"""


class Exim(Server):
    name, title, share = "exim", "Exim", 0.1
    notes = ("syncs three times before 250",
             "limits raised: smtp_accept_max 1000, smtp_connect_backlog 1000, smtp_accept_queue_per_connection 0 and "
             "smtp_accept_max_per_connection 0 (no limit)",
             "held: queue_only; client names are not looked up; it runs as its own user and needs no second exec to deliver "
             "(deliver_drop_privilege), which costs it less",
             "answers QUIT 200 ms late where the client does not end the connection first, as it hopes (strace): with 20 "
             "sessions at a time and one message each no more than 100/s", "gets a tenth of a run's messages")

    @staticmethod
    def missing():
        return None if os.access(EXIM, os.X_OK) else EXIM

    @staticmethod
    def version():
        return run([EXIM, "-C", "/dev/null", "-bV"]).split()[2]

    def start(self):
        self.ports = [free_port()]
        for part in ("", "spool", "log"):
            (self.dir / part).mkdir(exist_ok=True)
            shutil.chown(self.dir / part, OWNER, OWNER)
        tls = "tls_advertise_hosts ="
        if self.tls:
            tls = f"tls_advertise_hosts = *\ntls_certificate = {self.tls[0]}\ntls_privatekey = {self.tls[1]}"
        config = self.dir / "exim.conf"
        config.write_text(EXIM_CONFIG.format(dir=self.dir, exim=EXIM, port=self.ports[0], next=self.next_port, tls=tls,
                                             held="true" if self.held else "false"))
        as_owner = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups"]
        self.wait_listening(self.process([*self.prefix(), *as_owner, EXIM, "-C", config, "-bdf", "-q1m"]))


OPENSMTPD_CONFIG = """\
{pki}
smtp max-message-size 50M
smtp limit max-mails 1000000
mta limit max-conn-per-host 100 max-conn-per-route 100 max-conn-per-connector 100
mta limit conn-delay-host 0 conn-delay-source 0 conn-delay-connector 0 conn-delay-relay 0 conn-delay-domain 0
mta limit conn-delay-route 0 reconn-delay-route 0
listen on 127.0.0.1 port {port} hostname opensmtpd.test {tls}
action "next" relay host smtp://127.0.0.1:{next}
match from any for any action "next"
"""


class OpenSMTPD(Server):
    name, title, share = "opensmtpd", "OpenSMTPD", 0.25
    notes = ("syncs nothing before 250: what it accepted may go with the machine's power",
             "limits raised: its listen queue, 5 when built, is 4096 by a preloaded listen() (backlog.c); smtp limit max-mails 1000000; "
             "mta limit: max-conn-per-host, -route and -connector 100 (10, 5 and 20), no delays between connections (5 s on a route), with "
             "which it would deliver some twenty messages a second to one host",
             "held: smtpctl pause mta", "gets a quarter of a run's messages")

    @classmethod
    def fails(cls, load):
        old = load.tls and int(cls.version().split(".")[0]) < 7
        return "before version 7 its handshakes fail with OpenSSL 3 (OpenSMTPD's issue 1171)" if old else None

    @staticmethod
    def missing():
        return next((str(p) for p in (OPENSMTPD, SMTPCTL) if not os.access(p, os.X_OK)), tested.missing("cc"))

    @staticmethod
    def version():
        done = subprocess.run([OPENSMTPD, "-h"], capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).split("OpenSMTPD ", 1)[1].split()[0]

    def start(self):
        self.ports = [free_port()]
        for part in ("spool", "run", "lib/opensmtpd/empty"):
            (self.dir / part).mkdir(parents=True)
        for file, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/usr/sbin/nologin\n"), ("group", "{0}:x:{1}:\n")):
            text = pathlib.Path("/etc", file).read_text()
            names = {entry.split(":", 1)[0] for entry in text.splitlines()}
            new = [line.format(name, 64900 + n) for n, name in enumerate(("opensmtpd", "opensmtpq")) if name not in names]
            (self.dir / file).write_text(text + "".join(new))
        preload = self.dir / "backlog.so"
        run(["cc", "-O2", "-shared", "-fPIC", "-o", preload, HERE / "backlog.c", "-ldl"])
        pki = ""
        if self.tls:
            key = self.dir / "key.pem"
            shutil.copy(self.tls[1], key)
            key.chmod(0o600)  # it insists
            pki = f'pki bench cert "{self.tls[0]}"\npki bench key "{key}"'
        config = self.dir / "smtpd.conf"
        config.write_text(OPENSMTPD_CONFIG.format(port=self.ports[0], next=self.next_port, pki=pki,
                                                  tls="tls pki bench" if self.tls else ""))
        config.chmod(0o600)
        prefix = self.prefix((self.dir / "spool", "/var/spool"), (self.dir / "lib", "/var/lib"), (self.dir / "run", "/run"),
                             (self.dir / "passwd", "/etc/passwd"), (self.dir / "group", "/etc/group"))
        smtpd = self.process([*prefix, "env", f"LD_PRELOAD={preload}", OPENSMTPD, "-F", "-f", config])
        self.wait_listening(smtpd)
        if self.held:
            # Unpacked, it has lost its set-group-id bit; so it is given the group.
            run(["nsenter", "-t", smtpd.pid, "-m", "setpriv", "--regid=opensmtpq", "--clear-groups", SMTPCTL, "pause", "mta"])


class Nothing(Server):
    """The client's own limit: as fast as this goes smtp-source alone, on a machine that it shares with who answers it."""

    name, title, copies = "nothing", "nothing kept", 0
    notes = ("smtp-sink, which answers and throws away: what client and machine let through at most",)

    @staticmethod
    def missing():
        return tested.missing("smtp-source")

    @staticmethod
    def version():
        return Postfix.version()

    @classmethod
    def fails(cls, load):
        return "it delivers nothing" if load.deliver else "it has no TLS" if load.tls else None

    def start(self):
        self.ports = [free_port()]
        self.wait_listening(self.process([*self.prefix(), SINK, "-u", "nobody", f"127.0.0.1:{self.ports[0]}", "1000"]))


class Mailraft(Server):
    name, title, root = "mailraft", "mailraft", False
    nodes = 3
    settings = {}  # of its `cluster` section
    notes = ("syncs body and log on two nodes before 250",
             "three nodes, `log.level: warn`, one SMTP thread a node (`node.workers: 1`), links between nodes plain (`insecure`, loopback)",
             "held: delivery.suspended; the client's sessions are spread over its nodes")

    @staticmethod
    def missing():
        return None if os.access(BIN / "mailraftd", os.X_OK) else f"{BIN}/mailraftd (cmake --preset release && cmake --build --preset release)"

    @staticmethod
    def version():
        return run([BIN / "mailraftd", "--version"]).split()[1]

    @property
    def copies(self):
        return min(3, self.nodes)

    def start(self):
        delivery = {"suspended": True} if self.held else {}
        smtp = {"tls": {"cert": str(self.tls[0]), "key": str(self.tls[1])}} if self.tls else {}
        self.cluster = Cluster(self.dir, n=self.nodes, log={"level": "warn"}, delivery=delivery, smtp=smtp, cluster=self.settings)
        self.cluster.sink_port = self.next_port
        self.cluster.reconfigure()
        for node in self.cluster.nodes:
            node.prefix = [*self.account.prefix, *self.tracer(node.dir / "strace")]
        self.cluster.start(sink=False)
        if isinstance(self.account, measure.Tree):
            self.account.roots = [node.pid for node in self.cluster.nodes]
        self.ports = [node.smtp for node in self.cluster.nodes]

    def close(self):
        if hasattr(self, "cluster"):
            self.cluster.close()
        super().close()


# In the order of a round. Rented machines slow down who wears out their disks: those who do come last, or what is
# measured after them is measured on another machine.
SERVERS = {server.name: server for server in (Nothing, Postfix, Mailraft, OpenSMTPD, Exim)}
