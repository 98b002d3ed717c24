"""A next hop whose extensions, limits and replies a test chooses; it keeps what it was told, line by line."""

import socket
import threading


class NextHop:
    """An SMTP or LMTP server. extensions: lines of its reply to EHLO. refuse: {start of a command: reply or function of the
    line}; None as a reply is the usual one. transactions: what was taken, as dicts."""

    def __init__(self, extensions=(), lmtp=False, refuse=None):
        self.extensions = list(extensions)
        self.lmtp = lmtp
        self.refuse = refuse or {}
        self.transactions = []
        self.connections = 0
        self.lines = []  # all commands, of all connections
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = set()
        self.route = f"{'lmtp' if lmtp else 'smtp'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()
        with self.lock:
            for s in self.open:
                s.close()

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.open.add(s)
                self.connections += 1
                number = self.connections
            threading.Thread(target=self._serve, args=(s, number), daemon=True).start()

    def _serve(self, s, number):
        try:
            with s, s.makefile("rwb") as f:
                Session(self, f, number).run()
        except (OSError, ValueError):
            pass
        finally:
            with self.lock:
                self.open.discard(s)


class Session:
    def __init__(self, server, file, number):
        self.server, self.file, self.number = server, file, number
        self.forget()

    def forget(self):
        self.mail, self.rcpts, self.body, self.verbs = None, [], [], []

    def say(self, text):
        self.file.write(text.encode() + b"\r\n")
        self.file.flush()

    def reply(self, line, usual):
        for start, reply in self.server.refuse.items():
            if line.upper().startswith(start):
                reply = reply(line) if callable(reply) else reply
                if reply is not None:
                    return reply
        return usual

    def take(self):
        with self.server.lock:
            self.server.transactions.append(
                {"mail": self.mail, "rcpts": self.rcpts, "body": b"".join(self.body), "connection": self.number, "verbs": self.verbs})
        for _ in self.rcpts if self.server.lmtp else (1,):
            self.say(self.reply(".", "250 2.0.0 taken"))
        self.forget()

    def data(self):
        for line in iter(self.file.readline, b".\r\n"):
            assert line.endswith(b"\n"), "the connection ended"
            assert line.endswith(b"\r\n") and b"\r" not in line[:-2], line  # what DATA carries is clean
            self.body.append(line[1:] if line.startswith(b".") else line)
        self.take()

    def bdat(self, line):
        words = line.split()
        size = int(words[1])
        self.body.append(self.file.read(size))
        if words[-1].upper() == "LAST":
            self.take()
        else:
            self.say(self.reply(line, "250 2.0.0 chunk"))

    def run(self):
        self.say(self.reply("", "220 hop.test ESMTP") if "" in self.server.refuse else "220 hop.test ESMTP")
        for raw in iter(self.file.readline, b""):
            line = raw.decode("utf-8", "surrogateescape").rstrip("\r\n")
            with self.server.lock:
                self.server.lines.append(line)
            verb = line.split(" ")[0].split(":")[0].upper()
            if verb in ("EHLO", "LHLO"):
                lines = ["hop.test", *self.server.extensions]
                usual = "\r\n".join(f"250{'-' if i < len(lines) - 1 else ' '}{t}" for i, t in enumerate(lines))
            else:
                usual = {"HELO": "250 hop.test", "MAIL": "250 2.1.0 ok", "RCPT": "250 2.1.5 ok", "RSET": "250 2.0.0 ok",
                         "DATA": "354 go on", "QUIT": "221 2.0.0 bye"}.get(verb, "502 5.5.2 what?")
            if verb == "BDAT":
                self.verbs.append(line)
                self.bdat(line)
                continue
            reply = self.reply(line, usual)
            self.say(reply)
            if verb == "QUIT" or reply.startswith("421"):
                return
            if verb == "MAIL" and reply[0] == "2":
                self.forget()
                self.mail = line
            elif verb == "RCPT" and reply[0] == "2":
                self.rcpts.append(line)
            elif verb == "RSET":
                self.forget()
            elif verb == "DATA" and reply[0] == "3":
                self.verbs.append(line)
                self.data()
