"""Exim, unpacked by deploy/install-deps.sh beside the packages that it conflicts with."""

import os
import shutil
import signal

from harness import Process, can_connect, free_port, wait_for
from peers import PASSWORD, USER, Peer

EXIM = "/usr/local/lib/mailraft-peers/exim4-daemon-light/usr/sbin/exim4"
OWNER = "Debian-exim"  # compiled into Debian's Exim

CONFIG = """\
primary_hostname = {name}.test
spool_directory = {dir}/spool
log_file_path = {dir}/log/%s
log_selector = +all -queue_run
exim_path = {exim}
pid_file_path = {dir}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
host_lookup =
rfc1413_hosts =
rfc1413_query_timeout = 0s
keep_environment =
# It runs without root, and delivers only by SMTP and to its own folder.
deliver_drop_privilege
never_users =
domainlist local = {local}
chunking_advertise_hosts = *
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
pipelining_advertise_hosts = *
auth_advertise_hosts = *
prdr_enable = false
ignore_bounce_errors_after = 1h
message_size_limit = 50M
acl_smtp_rcpt = to
acl_smtp_data = content
{tls_server}
{more}

begin acl
to:
{acl}
  accept
content:
  accept

begin routers
keep:
  driver = accept
  domains = +local
  transport = folder
hand_on:
  driver = manualroute
  domains = !+local
  transport = next
  route_list = * 127.0.0.1::{next}
  self = send

begin transports
folder:
  driver = appendfile
  directory = {dir}/mail
  maildir_format
  create_directory
next:
  driver = smtp
  hosts_try_auth = *
  hosts_try_chunking = {chunking}
  hosts_try_prdr = :
  hosts_try_dane = :
  command_timeout = 60s
  final_timeout = 60s
{tls_client}

begin retry
* * F,1h,2s

begin authenticators
{auth}
"""

AUTH_SERVER = """\
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{user}}}}}{{eq{{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
  server_advertise_condition = ${{if def:tls_in_cipher}}
"""
AUTH_CLIENT = """\
  client_send = "^{user}^{password}"
"""


class Exim(Peer):
    """An Exim of its own: takes mail on `port`, keeps that for `local`, hands everything else to `next_port`.

    tls: (certificate, key): STARTTLS is offered, and used where the next hop offers it, by anybody's certificate unless
    there is `ca`. auth: AUTH PLAIN for peers.USER is offered under TLS; login: used towards the next hop. acl: lines
    before the `accept` of RCPT's access list. chunking: False: hand on by DATA though BDAT is offered."""

    def __init__(self, folder, name, next_port, local="", tls=None, ca=None, auth=False, login=None, acl="", more="",
                 more_client="", chunking=True):
        self.name = name
        self.dir = folder / name
        self.port = free_port()
        self.mail = self.dir / "mail"
        for part in ("", "spool", "log", "mail"):
            (self.dir / part).mkdir(parents=True, exist_ok=True)
            shutil.chown(self.dir / part, OWNER, OWNER)
        folder.chmod(0o755)
        server = f"tls_advertise_hosts = *\ntls_certificate = {tls[0]}\ntls_privatekey = {tls[1]}" if tls else ""
        server = server or "tls_advertise_hosts ="
        client = "" if tls else "  hosts_avoid_tls = *\n"
        if ca:
            client += f"  tls_verify_certificates = {ca}\n  tls_verify_hosts = *\n  hosts_require_tls = *\n"
            client += "  tls_verify_cert_hostnames = :\n"
        if login:
            client += "  hosts_require_auth = *\n"
        values = {"user": USER, "password": PASSWORD}
        authenticator = AUTH_SERVER.format(**values) if auth else ""
        if login:
            authenticator += "" if auth else "plain:\n  driver = plaintext\n  public_name = PLAIN\n"
            authenticator += AUTH_CLIENT.format(user=login[0], password=login[1])
        self.config = self.dir / "exim.conf"
        self.config.write_text(CONFIG.format(
            exim=EXIM, dir=self.dir, name=name, next=next_port, port=self.port, local=local or ":", acl=acl, more=more,
            tls_server=server, tls_client=client + more_client, auth=authenticator, chunking="*" if chunking else ":"))
        self.process = Process([EXIM, "-C", self.config, "-bdf", "-q2s"], self.dir / "output", user=OWNER, group=OWNER,
                               extra_groups=[], start_new_session=True)
        wait_for(lambda: not self.process.alive() or can_connect(self.port), f"Exim listens; see {self.dir}")
        assert self.process.alive(), self.process.text()

    def log(self):
        path = self.dir / "log" / "main"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self):
        """Ends it and the deliveries that it started: they are in its session's process group."""
        if self.process.alive():
            # Killed: those that end in order write to the log, after the folder has gone.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.popen.wait(30)
            wait_for(self._gone, "Exim's processes have ended")

    def _gone(self):
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False
