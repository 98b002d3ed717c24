"""Dovecot: LMTP into Maildirs, and its authentication service for SASL. The configurations of 2.3 and 2.4 differ."""

import contextlib
import os
import signal
import subprocess

from harness import Process, can_connect, free_port, wait_for
from peers import PASSWORD, USER, Peer, maildir

COMMON = """\
base_dir = {dir}/run
state_dir = {dir}/state
instance_name = {name}
log_path = {dir}/log
auth_verbose = yes
auth_failure_delay = 0
auth_mechanisms = plain login scram-sha-256
first_valid_uid = 1
mail_uid = mail
mail_gid = mail
mail_save_crlf = yes
postmaster_address = postmaster@{name}.test
hostname = {name}.test
service lmtp {{
  process_min_avail = 1
  inet_listener lmtp {{
    {address} = 127.0.0.1
    port = {port}
  }}
}}
service auth {{
  unix_listener {dir}/auth {{
    mode = 0666
  }}
}}
# No delays for addresses with failed logins: here all have one address.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  client_limit = 100
}}
default_client_limit = 100
default_process_limit = 20
"""

V23 = """\
default_vsz_limit = 0
protocols = lmtp
ssl = {ssl}
mail_location = maildir:~
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%n {dir}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {dir}/users
}}
mail_plugins = quota
plugin {{
  quota = count:User quota
  quota_vsizes = yes
}}
"""
TLS23 = "ssl_cert = <{cert}\nssl_key = <{key}\n"
FULL23 = "userdb_quota_rule=*:bytes=10"

V24 = """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
default_vsz_limit = unlimited
protocols = lmtp
ssl = {ssl}
mail_driver = maildir
mail_path = ~
passdb passwd-file {{
  passwd_file_path = {dir}/users
  default_password_scheme = PLAIN
  auth_username_format = %{{user | username}}
}}
userdb passwd-file {{
  passwd_file_path = {dir}/users
  auth_username_format = %{{user | username}}
}}
mail_plugins {{
  quota = yes
}}
quota_storage_size = 1G
quota_storage_grace = 0
quota user {{
}}
"""
TLS24 = "ssl_server_cert_file = {cert}\nssl_server_key_file = {key}\n"
FULL24 = "userdb_quota_storage_size=10B"


class Dovecot(Peer):
    """LMTP on `port` for bob, peers.USER and `full` (whose quota holds nothing), each in the Maildir mail/<user>; `auth` is
    the path of the socket that authenticates them by peers.PASSWORD. tls: (certificate, key): LMTP offers STARTTLS."""

    def __init__(self, folder, name="dovecot", tls=None):
        self.name = name
        self.dir = folder / name
        self.port = free_port()
        self.auth = self.dir / "auth"
        for part in ("run", "state", "mail"):
            (self.dir / part).mkdir(parents=True)
        folder.chmod(0o755)
        self.dir.chmod(0o755)
        (self.dir / "mail").chmod(0o777)
        old = subprocess.run(["/usr/sbin/dovecot", "--version"], capture_output=True, text=True,
                             check=True).stdout.startswith("2.3")
        text = (V23 if old else V24) + COMMON
        if tls:
            text += TLS23 if old else TLS24
        cert, key = tls or ("", "")
        (self.dir / "users").write_text("".join(
            f"{user}:{{PLAIN}}{PASSWORD}::::{self.dir}/mail/{user}::{extra}\n"
            for user, extra in (("bob", ""), (USER, ""), ("full", FULL23 if old else FULL24))))
        self.config = self.dir / "dovecot.conf"
        self.config.write_text(text.format(dir=self.dir, name=name, port=self.port, cert=cert, key=key,
                                      ssl="yes" if tls else "no", address="address" if old else "listen"))
        self.start()

    def start(self):
        self.process = Process(["/usr/sbin/dovecot", "-F", "-c", self.config], self.dir / "output", start_new_session=True)
        wait_for(lambda: not self.process.alive() or (can_connect(self.port) and self.auth.exists()),
                 f"Dovecot listens; see {self.dir}")
        assert self.process.alive(), self.process.text() + self.log()

    def messages(self, marker=b"", user="bob"):
        return [m for m in maildir(self.dir / "mail" / user) if marker in m]

    def log(self):
        path = self.dir / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self):
        """SIGTERM to its master ends its children too, but not those that somebody is still connected to."""
        if self.process.alive():
            self.process.end(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
