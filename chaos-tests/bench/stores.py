"""Replicated stores that somebody might keep a queue in instead: etcd, NATS JetStream and RabbitMQ, three local nodes each.

The clients here keep 64 writes of 10 KB in flight over plain sockets, so that they cost little beside the servers.
"""

import asyncio
import base64
import contextlib
import json
import os
import time

from rabbitmq import RabbitMQ
from servers import PEERS, free_port, run
from store import SIZE, Store

IN_FLIGHT, LIMIT = 64, 300.0


async def all_at_once(one, n):
    """n writes, IN_FLIGHT at a time: `one(worker, numbers)` writes what it takes from the shared numbers."""
    numbers = iter(range(n))
    await asyncio.gather(*(one(worker, numbers) for worker in range(IN_FLIGHT)))


class Etcd(Store):
    name, title = "etcd", "etcd"
    program = PEERS / "etcd-server/usr/bin/etcd"
    notes = "default durability: a put is synced on a majority; written through its JSON gateway, keep-alive, a connection a writer"

    @classmethod
    def version(cls):
        return run([cls.program, "--version"]).split("Version: ", 1)[1].split()[0]

    def start(self):
        clients, peers = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        cluster = ",".join(f"n{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
        for i in range(3):
            self.spawn(f"n{i}", self.program, "--name", f"n{i}", "--data-dir", self.dir / f"n{i}", "--log-level", "error",
                       "--listen-peer-urls", f"http://127.0.0.1:{peers[i]}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peers[i]}",
                       "--listen-client-urls", f"http://127.0.0.1:{clients[i]}", "--advertise-client-urls", f"http://127.0.0.1:{clients[i]}",
                       "--initial-cluster", cluster, "--quota-backend-bytes", str(8 << 30))
        self.wait(clients)
        self.ports = clients
        self.value = base64.b64encode(os.urandom(SIZE)).decode()

    async def ready(self):
        await self.put(0, iter([0]))

    async def put(self, worker, numbers):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[worker % 3])
        for n in numbers:
            body = json.dumps({"key": base64.b64encode(f"m{n}".encode()).decode(), "value": self.value}).encode()
            writer.write(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:200]
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
        writer.close()


class Nats(Store):
    name, title = "nats", "NATS JetStream"
    program = PEERS / "nats-server/usr/sbin/nats-server"
    notes = "stream with three replicas on disk"

    @classmethod
    def version(cls):
        return run([cls.program, "--version"]).split()[-1].lstrip("v")

    def start(self):
        clients, peers = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
        # Before 2.10 nothing else than an interval can be said: then its default stays, and an answer promises no sync.
        always = tuple(int(part) for part in self.version().split(".")[:2]) >= (2, 10)
        self.notes = f"{Nats.notes}; " + ("sync_interval: always" if always else "this version cannot sync before it answers (default: each two minutes)")
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in peers)
        for i in range(3):
            config = self.dir / f"n{i}.conf"
            config.write_text(
                f'server_name: n{i}\nlisten: "127.0.0.1:{clients[i]}"\njetstream {{ store_dir: "{self.dir}/n{i}" '
                f'{", sync_interval: always" if always else ""} }}\ncluster {{ name: bench, listen: "127.0.0.1:{peers[i]}", routes: [{routes}] }}\n')
            self.spawn(f"n{i}", self.program, "-c", config)
        self.wait(clients)
        self.ports = clients
        self.value = os.urandom(SIZE)

    async def connect(self, inbox):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[0])
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":false}\r\nSUB %s 1\r\n' % inbox)
        return reader, writer

    async def answer(self, reader, writer):
        """The next message to the inbox, as JSON."""
        while True:
            line = await reader.readline()
            assert line, "NATS closed the connection"
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            elif line.startswith(b"MSG"):
                text = await reader.readexactly(int(line.split()[-1]) + 2)
                return json.loads(text)
            else:
                assert not line.startswith(b"-ERR"), line

    async def ready(self):
        """Makes the stream, as soon as the cluster has agreed on who leads."""
        create = json.dumps({"name": "Q", "subjects": ["q"], "num_replicas": 3, "storage": "file", "retention": "limits"}).encode()
        reader, writer = await self.connect(b"made")
        while True:
            writer.write(b"PUB $JS.API.STREAM.CREATE.Q made %d\r\n%s\r\n" % (len(create), create))
            with contextlib.suppress(asyncio.TimeoutError):
                reply = await asyncio.wait_for(self.answer(reader, writer), 2)
                if "error" not in reply or "already in use" in str(reply["error"]):
                    break
            await asyncio.sleep(0.1)
        writer.close()

    async def put(self, worker, numbers):
        inbox = b"inbox%d" % worker
        reader, writer = await self.connect(inbox)
        for _ in numbers:
            writer.write(b"PUB q %s %d\r\n%s\r\n" % (inbox, SIZE, self.value))
            reply = await self.answer(reader, writer)
            assert "seq" in reply, reply
        writer.close()


KINDS = (Etcd, Nats, RabbitMQ)


def one_round(kind, folder, messages):
    with contextlib.ExitStack() as stack:
        try:
            store = kind(folder)
            stack.callback(store.close)

            async def work():
                await store.ready()
                await all_at_once(store.put, min(200, messages))
                begun = time.monotonic()
                await all_at_once(store.put, messages)
                return messages / (time.monotonic() - begun)

            return {"per_second": asyncio.run(asyncio.wait_for(work(), LIMIT))}, store.notes
        except (AssertionError, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as e:
            return {"error": repr(e)[-300:]}, kind.notes


def measure_stores(folder, rounds, messages, say):
    """{"stores": ..., "left_out": ...}"""
    found, left_out = {}, []
    kinds = []
    for kind in KINDS:
        if os.access(kind.program, os.X_OK):
            kinds.append(kind)
            found[kind.name] = {"title": kind.title, "version": kind.version(), "messages": messages, "runs": []}
        else:
            left_out.append(f"{kind.title}: not installed (deploy/install-deps.sh --bench)")
    for number in range(rounds):
        for kind in kinds:
            here = folder / f"store-{kind.name}-{number}"
            here.mkdir()
            result, found[kind.name]["notes"] = one_round(kind, here, messages)
            found[kind.name]["runs"].append(result)
            say(f"  {kind.title}: {result}")
    return {"stores": found, "left_out": left_out}
