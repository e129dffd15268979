"""The life of one server of our own: its port, its folder, its process, and the orders that fault tests give.

Knows nothing of Kafka or Redis; what differs between them is their command line and how they say that they are ready.
Invariant: port and data stay the same from the start to the stop, over every kill and restart.
"""

import logging
import random
import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from dimflow.errors import ServerNotReady, ServerOrderRefused
from dimflow.guarded_process import GuardedProcess, log_tail

__all__ = ["HOST", "LocalServer", "free_port"]

T = TypeVar("T")

HOST: Final = "127.0.0.1"
_PORT_ATTEMPTS: Final = 5
_POLL_S: Final = 0.02

_log = logging.getLogger(__name__)


def free_port() -> int:
    """Finds a TCP port of 127.0.0.1 that nobody listens on.

    It is taken from below the range that the kernel gives to outgoing connections, where there is room: inside that
    range a client that keeps connecting to a dead server's port may be given that very port, connect to itself, and
    so keep the server from coming back.

    Raises:
        ServerNotReady: no port was free in a thousand attempts.
    """
    try:
        outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        outgoing = 32768
    low, high = (10_000, outgoing) if outgoing > 12_000 else (10_000, 65_536)
    chooser = random.SystemRandom()
    for _ in range(1000):
        port = chooser.randrange(low, high)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    message = f"port: no free one between {low} and {high} in 1000 attempts; expected at least one"
    raise ServerNotReady(message)


class LocalServer(ABC):
    """What every server of our own shares; a context manager, or `start` and `stop` by hand.

    Not safe for several threads at once.

    Args:
        data_dir: folder that is kept; None for a temporary one, removed at the stop.
        port: None for a free one.
        ready_timeout_s: how long `start` and `restart` wait for an answer.
    """

    name: str
    grace_s = 10.0

    def __init__(self, data_dir: Path | None, port: int | None, ready_timeout_s: float) -> None:
        self._kept_dir = data_dir
        self._given_port = port
        self._ready_timeout_s = ready_timeout_s
        self._process: GuardedProcess | None = None
        self._data_dir: Path | None = None
        self._port: int | None = None

    @property
    def data_dir(self) -> Path:
        """The folder of the server's data and log; it is known from the start to the stop."""
        return self.known(self._data_dir, "data_dir")

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; it stays the same over `kill` and `restart`."""
        return self.known(self._port, "port")

    @property
    def running(self) -> bool:
        """Whether the server's process exists."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """The server's process number, None while it is down."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def log_file(self) -> Path:
        """What the server writes to its standard output and error."""
        return self.data_dir / "server.log"

    def start(self) -> Self:
        """Starts the server and waits until it answers.

        Raises:
            ServerProgramMissing: its program cannot be found or fetched.
            ServerNotReady: it ended, or did not answer in time.
            ServerOrderRefused: it was started already.
        """
        if self._process is not None:
            message = f"{self.name}: was started already (port {self._port}); expected one start"
            raise ServerOrderRefused(message)
        began = time.monotonic()
        self._data_dir = self._kept_dir or Path(tempfile.mkdtemp(prefix=f"dimflow-{self.name.lower()}-"))
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                self._port = self._given_port or free_port()
                self._launch(self._prepare())
                try:
                    self._wait_until_ready()
                    break
                except ServerNotReady:
                    taken = "Address already in use" in log_tail(self.log_file, 100_000)
                    if not taken or self._given_port is not None or attempt == _PORT_ATTEMPTS:
                        raise
                    _log.info("%s: port %d was taken meanwhile, trying another", self.name, self._port)
                    self._close_process()
                    self.log_file.unlink(missing_ok=True)
        except BaseException:
            self.stop()
            raise
        _log.info("%s answers on %s:%d after %.1f s", self.name, HOST, self.port, time.monotonic() - began)
        return self

    def stop(self) -> None:
        """Stops the server for good and removes a temporary data folder. May be called again, or without a start."""
        self._close_process()
        if self._data_dir is not None and self._kept_dir is None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
        self._data_dir = None

    def kill(self) -> None:
        """SIGKILL, as when a machine dies: nothing is flushed, nobody is told. Its data folder stays."""
        self._running_process().kill()

    def terminate(self) -> None:
        """SIGTERM, an orderly stop that leaves the data folder, for a later `restart`."""
        self._running_process().terminate()

    def restart(self) -> None:
        """Starts the server again on the same port and data, stopping it first if it runs; waits until it answers."""
        process = self._running_process()
        if process.running:
            process.terminate()
        process.run()
        self._wait_until_ready()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `thaw`."""
        self._running_process().freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self._running_process().thaw()

    def __enter__(self) -> Self:
        """Starts the server."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Writes what the server needs on disk; returns its command line."""

    @abstractmethod
    def _answers(self, connection: socket.socket) -> bool:
        """Whether the server behind an open connection is ready for clients."""

    def _launch(self, command: list[str]) -> None:
        remove = self._data_dir if self._kept_dir is None else None
        self._process = GuardedProcess(self.name, command, log=self.log_file, remove=remove, grace_s=self.grace_s)
        self._process.run()

    def _wait_until_ready(self) -> None:
        process = self._running_process()
        deadline = time.monotonic() + self._ready_timeout_s
        while not self._probe():
            seen = None
            if not process.running:
                seen = f"ended with code {process.exit_code}"
            elif time.monotonic() > deadline:
                seen = f"did not answer within {self._ready_timeout_s} s"
            if seen is not None:
                message = f"{self.name}: {seen}; expected it to answer on {HOST}:{self._port}; end of its log:\n"
                raise ServerNotReady(message + log_tail(self.log_file))
            time.sleep(_POLL_S)

    def _probe(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), timeout=1.0) as connection:
                return self._answers(connection)
        except OSError:
            return False

    def _running_process(self) -> GuardedProcess:
        return self.known(self._process, "process")

    def known(self, value: T | None, what: str) -> T:
        """Returns `value`, which is there from the start on.

        Raises:
            ServerOrderRefused: it is not there yet.
        """
        if value is None:
            message = f"{self.name}: {what} is not known; expected the server to be started first"
            raise ServerOrderRefused(message)
        return value

    def _close_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
