"""Real mail programs that nobody here wrote, each with a configuration, a folder and ports of its own."""

import os
import shutil

from harness import Process, can_connect, free_port, run, wait_for

POSTFIX_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
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
{more}
"""


def missing(*programs):
    """The first program that is not there; tests that need it are skipped only where nobody promised to install it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/postfix/sbin"
    return next((p for p in programs if shutil.which(p, path=path) is None), None)


class Postfix:
    """A Postfix of its own: takes mail on `port`, hands everything to `next_port`."""

    def __init__(self, folder, name, next_port, more=""):
        self.dir = folder / name
        self.port = free_port()
        etc = self.dir / "etc"
        for part in ("etc", "queue", "data"):
            (self.dir / part).mkdir(parents=True)
        # Its own users have to reach its folders.
        folder.chmod(0o755)
        self.dir.chmod(0o755)
        shutil.chown(self.dir / "data", "postfix", "postfix")
        values = {"dir": self.dir, "name": name, "next": next_port, "port": self.port, "more": more}
        (etc / "main.cf").write_text(POSTFIX_MAIN.format(**values))
        (etc / "master.cf").write_text(POSTFIX_MASTER.format(**values))
        self.etc = etc
        self.process = Process(["/usr/sbin/postfix", "-c", etc, "start-fg"], self.dir / "output")
        wait_for(lambda: can_connect(self.port), f"Postfix listens; see {self.dir}")

    def log(self):
        path = self.dir / "queue" / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self):
        if self.process.alive():
            run(["/usr/sbin/postfix", "-c", self.etc, "abort"])
            self.process.popen.wait(30)
