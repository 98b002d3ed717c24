"""HAProxy in front of a listener, so that what it writes of the client is what a real one writes."""

from harness import Process, can_connect, free_port, wait_for

HAPROXY = "/usr/local/lib/mailraft-peers/haproxy/usr/sbin/haproxy"

CONFIG = """\
global
  maxconn 200
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
"""

PROXY = """\
listen v{version}
  bind 127.0.0.1:{port}
  server mailraft 127.0.0.1:{target} {send}
"""


class HAProxy:
    """Forwards .v1 and .v2 to `target`, with a header of the PROXY protocol of that version."""

    def __init__(self, folder, target):
        self.v1, self.v2 = free_port(), free_port()
        config = folder / "haproxy.cfg"
        config.write_text(CONFIG + PROXY.format(version=1, port=self.v1, target=target, send="send-proxy")
                          + PROXY.format(version=2, port=self.v2, target=target, send="send-proxy-v2"))
        # -db: in the foreground.
        self.process = Process([HAPROXY, "-db", "-f", config], folder / "haproxy.log")
        wait_for(lambda: can_connect(self.v1) and can_connect(self.v2), "HAProxy listens")

    def close(self):
        self.process.kill()
