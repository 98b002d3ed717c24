"""The other side of a delivery under TLS: an authority, a next hop with STARTTLS that can go wrong in many ways, and an HTTPS server
with policies of MTA-STS."""

import contextlib
import hashlib
import http.server
import itertools
import socket
import socketserver
import ssl
import subprocess
import threading

from harness import free_port, run


class Certificate:
    def __init__(self, cert, key, chain=None):
        self.cert, self.key, self.chain = cert, key, chain

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain or self.cert, self.key)
        return context

    def digest(self, what):
        """Hexadecimal SHA-256 of the whole certificate (selector 0) or its public key (selector 1), as TLSA records want it."""
        if what == 0:
            der = run_bytes("openssl", "x509", "-in", self.cert, "-outform", "DER")
        else:
            pem = run_bytes("openssl", "x509", "-in", self.cert, "-noout", "-pubkey")
            der = run_bytes("openssl", "pkey", "-pubin", "-outform", "DER", given=pem)
        return hashlib.sha256(der).hexdigest()

    def tlsa(self, usage, selector=1):
        return f"{usage} {selector} 1 {self.digest(selector)}"


def run_bytes(*args, given=None):
    return subprocess.run([str(a) for a in args], input=given, capture_output=True, check=True).stdout


class Authority(Certificate):
    """A certificate authority of the test's own."""

    numbers = itertools.count(1)

    def __init__(self, folder, name="ca"):
        super().__init__(folder / f"{name}.pem", folder / f"{name}.key")
        self.dir = folder
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key,
             "-out", self.cert, "-days", "30", "-subj", f"/CN=test {name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])

    def issue(self, *names, days=7, ip=None):
        """names: DNS names. days below 0: it has expired. The chain that is shown has the authority's own certificate too."""
        base = self.dir / f"cert{next(self.numbers)}"
        key, request, cert, extensions = (base.with_suffix(s) for s in (".key", ".csr", ".pem", ".ext"))
        extensions.write_text("subjectAltName=" + ",".join([f"DNS:{n}" for n in names] + ([f"IP:{ip}"] if ip else [])) + "\n")
        run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", request,
             "-subj", f"/CN={names[0]}"])
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-days",
             str(days), "-extfile", extensions, "-out", cert])
        chain = base.with_suffix(".chain")
        chain.write_text(cert.read_text() + self.cert.read_text())
        return Certificate(cert, key, chain)


class Session:
    """What one connection to a NextHop came to."""

    def __init__(self):
        self.commands = []
        self.tls = None  # protocol
        self.sni = None
        self.client = None  # name in the certificate that the client showed
        self.messages = []  # (commands of its transaction, text, under TLS)


class NextHop:
    """An SMTP server on 127.0.0.N that can go wrong on purpose. `faults`, a set, may be changed at any time:
    nostarttls  is not offered
    refuse      STARTTLS is answered 454
    handshake   the connection ends in the handshake
    garbage     the handshake is answered with something else
    inject      the reply to STARTTLS has another behind it (CVE-2021-38371)
    requiretls  REQUIRETLS is offered under TLS
    plainonly   everything that comes after a working handshake is the end"""

    def __init__(self, certificate, address="127.0.0.1", port=None, faults=()):
        self.faults = set(faults)
        self.address, self.port = address, port or free_port()
        self.sessions = []
        self.lock = threading.Lock()
        self.use(certificate)
        hop = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                session = Session()
                with hop.lock:
                    hop.sessions.append(session)
                with contextlib.suppress(OSError, ValueError):
                    hop.serve(self.request, session)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        self.server = Server((address, self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def use(self, certificate):
        self.context = certificate.context() if certificate else None
        if self.context:
            self.context.sni_callback = lambda sock, name, _: setattr(sock, "asked_name", name)

    def ask_for_certificate(self, authority):
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.load_verify_locations(str(authority.cert))

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    @property
    def messages(self):
        with self.lock:
            return [m for s in self.sessions for m in s.messages]

    def commands(self):
        with self.lock:
            return [c for s in self.sessions for c in s.commands]

    def extensions(self, session):
        lines = ["hop.test", "PIPELINING", "8BITMIME", "SIZE 10000000"]
        if self.context and not session.tls and "nostarttls" not in self.faults:
            lines.append("STARTTLS")
        if session.tls and "requiretls" in self.faults:
            lines.append("REQUIRETLS")
        return "".join(f"250{'-' if i + 1 < len(lines) else ' '}{line}\r\n" for i, line in enumerate(lines))

    def starttls(self, sock, session):
        """The socket under TLS, or None: it is over."""
        if "refuse" in self.faults:
            sock.sendall(b"454 4.7.0 TLS is not available now\r\n")
            return sock
        if "inject" in self.faults:
            sock.sendall(b"220 go ahead\r\n250-hop.test\r\n250 AUTH PLAIN\r\n")
        else:
            sock.sendall(b"220 go ahead\r\n")
        if "handshake" in self.faults:
            sock.recv(5)
            return None
        if "garbage" in self.faults:
            sock.recv(5)
            sock.sendall(b"this is no TLS at all, it never was\r\n")
            return None
        secured = self.context.wrap_socket(sock, server_side=True)
        session.tls, session.sni = secured.version(), getattr(secured, "asked_name", None)
        names = (secured.getpeercert() or {}).get("subjectAltName", ())
        session.client = names[0][1] if names else None
        return None if "plainonly" in self.faults else secured

    def serve(self, sock, session):
        sock.settimeout(60)
        sock.sendall(b"220 hop.test ESMTP\r\n")
        stream = sock.makefile("rb")
        transaction, text = [], None
        while True:
            line = stream.readline(100000)
            if not line:
                return
            if text is not None:
                if line == b".\r\n":
                    session.messages.append((transaction, b"".join(text).decode(), bool(session.tls)))
                    transaction, text = [], None
                    sock.sendall(b"250 2.0.0 taken\r\n")
                else:
                    text.append(line[1:] if line.startswith(b"..") else line)
                continue
            command = line.decode().rstrip("\r\n")
            session.commands.append(command)
            verb = command[:4].upper()
            if verb == "EHLO":
                sock.sendall(self.extensions(session).encode())
            elif verb == "STAR":
                sock = self.starttls(sock, session)
                if sock is None:
                    return
                if session.tls:
                    stream = sock.makefile("rb")
                    transaction = []
            elif verb in ("MAIL", "RCPT"):
                transaction.append(command)
                sock.sendall(b"250 2.1.0 fine\r\n")
            elif verb == "DATA":
                text = []
                sock.sendall(b"354 go on\r\n")
            elif verb == "QUIT":
                sock.sendall(b"221 2.0.0 bye\r\n")
                return
            else:
                sock.sendall(b"250 2.0.0 fine\r\n")


def policy(mode="enforce", mx=("mx",), max_age=86400, version="STSv1"):
    lines = [f"version: {version}", f"mode: {mode}", *(f"mx: {m}" for m in mx), f"max_age: {max_age}"]
    return "".join(line + "\r\n" for line in lines)


class PolicyServer:
    """HTTPS on 127.0.0.1 for all policy hosts of a test, by the name that is asked for. `answers` maps a domain to the text of its
    policy, or to a function of the request that answers it; what is not there is 404. `fetches` counts by domain."""

    def __init__(self, authority, domains):
        self.answers = {}
        self.fetches = {}
        self.port = free_port()
        self.contexts = {f"mta-sts.{d}": authority.issue(f"mta-sts.{d}").context() for d in domains}
        self.default = next(iter(self.contexts.values()))
        policies = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                host = self.headers.get("Host", "").rsplit(":", 1)[0]
                domain = host.removeprefix("mta-sts.")
                policies.fetches[domain] = policies.fetches.get(domain, 0) + 1
                answer = policies.answers.get(domain)
                if callable(answer):
                    answer(self)
                elif answer is None or self.path != "/.well-known/mta-sts.txt":
                    self.send_error(404)
                else:
                    policies.say(self, answer)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request, client_address):
                # The handshake belongs to the connection's own thread: a client that dawdles must not hold up the others.
                request.settimeout(60)
                with contextlib.suppress(OSError):
                    secured = policies.outer.wrap_socket(request, server_side=True)
                    try:
                        super().finish_request(secured, client_address)
                    finally:
                        secured.close()

        self.outer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        first = authority.issue("nobody.test")
        self.outer.load_cert_chain(first.cert, first.key)
        self.outer.sni_callback = self.choose
        self.server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def choose(self, sock, name, _):
        if name in self.contexts:
            sock.context = self.contexts[name]

    def use(self, domain, certificate):
        self.contexts[f"mta-sts.{domain}"] = certificate.context()

    @staticmethod
    def say(request, text, status=200, kind="text/plain", headers=()):
        body = text.encode()
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def local_addresses(n, first=11):
    """127.0.0.N that this machine answers for, for MX hosts on one port."""
    addresses = [f"127.0.0.{first + i}" for i in range(n)]
    for address in addresses:
        with socket.socket() as s:
            s.bind((address, 0))
    return addresses
