"""RabbitMQ for stores.py: three nodes with an epmd of their own, and as much of AMQP 0-9-1 as confirmed publishing takes."""

import asyncio
import os
import struct

from servers import PEERS, free_port, run
from store import SIZE, Store

HOME = PEERS / "rabbitmq-server/usr/lib/rabbitmq/lib"
QUEUE = b"q"
METHOD, HEADER, BODY, END = 1, 2, 3, 0xCE
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CHANNEL_OPEN, CHANNEL_OPEN_OK, SELECT, SELECT_OK = (20, 10), (20, 11), (85, 10), (85, 11)
DECLARE, DECLARE_OK, PUBLISH, ACK = (50, 10), (50, 11), (60, 40), (60, 80)


def short(text):
    return bytes([len(text)]) + text


def long(text):
    return struct.pack(">I", len(text)) + text


def frame(kind, channel, payload):
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([END])


def method(channel, which, arguments=b""):
    return frame(METHOD, channel, struct.pack(">HH", *which) + arguments)


class Session:
    """One connection with one channel that confirms what it takes."""

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        self.writer.write(b"AMQP\x00\x00\x09\x01")
        await self.expect(START)
        self.writer.write(method(0, START_OK, long(b"") + short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US")))
        tune = await self.expect(TUNE)
        self.writer.write(method(0, TUNE_OK, tune[:6] + b"\0\0"))  # its limits, no heartbeats
        await self.call(0, OPEN, short(b"/") + short(b"") + b"\0", OPEN_OK)
        await self.call(1, CHANNEL_OPEN, short(b""), CHANNEL_OPEN_OK)
        await self.call(1, SELECT, b"\0", SELECT_OK)
        return self

    async def expect(self, which):
        """The arguments of the next method, which has to be this one."""
        while True:
            kind, _, size = struct.unpack(">BHI", await self.reader.readexactly(7))
            payload = (await self.reader.readexactly(size + 1))[:-1]
            if kind != METHOD:
                continue
            got = struct.unpack(">HH", payload[:4])
            assert got == which, f"RabbitMQ: method {got} instead of {which}: {payload[4:300]!r}"
            return payload[4:]

    async def call(self, channel, which, arguments, answer):
        self.writer.write(method(channel, which, arguments))
        return await self.expect(answer)

    async def declare(self):
        arguments = short(b"x-queue-type") + b"S" + long(b"quorum")
        durable = b"\x02"
        await self.call(1, DECLARE, b"\0\0" + short(QUEUE) + durable + long(arguments), DECLARE_OK)

    async def publish(self, value):
        """Comes back when it is confirmed."""
        persistent = struct.pack(">HB", 0x1000, 2)
        self.writer.write(method(1, PUBLISH, b"\0\0" + short(b"") + short(QUEUE) + b"\0")
                          + frame(HEADER, 1, struct.pack(">HHQ", 60, 0, len(value)) + persistent) + frame(BODY, 1, value))
        await self.expect(ACK)

    def close(self):
        self.writer.close()


class RabbitMQ(Store):
    name, title = "rabbitmq", "RabbitMQ"
    program = next(iter(sorted(HOME.glob("rabbitmq_server-*/sbin/rabbitmq-server"))), HOME / "rabbitmq-server")
    notes = "quorum queue of three, persistent messages, publisher confirms, a connection a writer; confirmed when a majority has synced"

    @classmethod
    def version(cls):
        return cls.program.parents[1].name.split("-")[-1]

    def start(self):
        # Names and an epmd of their own: another RabbitMQ or Erlang on this machine is not met.
        self.ports, epmd = [free_port() for _ in range(3)], free_port()
        self.names = [f"n{i}-{epmd}@localhost" for i in range(3)]
        cookie = self.dir / ".erlang.cookie"
        cookie.write_text(os.urandom(16).hex())
        cookie.chmod(0o400)
        (self.dir / "plugins").write_text("[].\n")
        (self.dir / "rabbitmq.conf").write_text(
            "cluster_formation.peer_discovery_backend = classic_config\n"
            + "".join(f"cluster_formation.classic_config.nodes.{i + 1} = {name}\n" for i, name in enumerate(self.names))
            + "disk_free_limit.absolute = 100MB\n")
        self.environment = ["env", f"HOME={self.dir}", f"ERL_EPMD_PORT={epmd}", "RABBITMQ_CONF_ENV_FILE=/dev/null"]
        for name, port in zip(self.names, self.ports):
            base = self.dir / name
            base.mkdir()
            self.spawn(name, *self.environment, f"RABBITMQ_NODENAME={name}", f"RABBITMQ_NODE_PORT={port}", "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
                       f"RABBITMQ_DIST_PORT={free_port()}", f"RABBITMQ_MNESIA_BASE={base}", f"RABBITMQ_LOG_BASE={base}",
                       f"RABBITMQ_CONFIG_FILE={self.dir}/rabbitmq.conf", f"RABBITMQ_ENABLED_PLUGINS_FILE={self.dir}/plugins",
                       f"RABBITMQ_PID_FILE={base}/pid", self.program)
        self.wait(self.ports)
        self.value = os.urandom(SIZE)

    async def ready(self):
        """Makes the queue when all nodes are in the cluster: it gets its members then."""
        run([*self.environment, self.program.parent / "rabbitmqctl", "-q", "-n", self.names[0], "await_online_nodes", "3"])
        session = await Session().open(self.ports[0])
        await session.declare()
        session.close()

    async def put(self, worker, numbers):
        session = await Session().open(self.ports[worker % 3])
        for _ in numbers:
            await session.publish(self.value)
        session.close()
