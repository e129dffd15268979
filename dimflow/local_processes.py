"""dimflow's own trainer and server as child processes on this machine, for the demo and for tests of the whole loop.

Knows their command lines and pages, nothing of what they do. Invariant: as for any `LocalServer`: a child never
outlives the process that started it; `kill` is SIGKILL, and `restart` comes back on the same port and state.
"""

import socket
import sys
from pathlib import Path
from typing import Any

from dimflow.server_lifecycle import LocalServer

__all__ = ["LocalPredictor", "LocalTrainer"]

_READY_TIMEOUT_S = 180.0  # the first start on a machine compiles the kernels


class _LocalProcess(LocalServer):
    """One `dimflow` command that serves a page over HTTP."""

    word: str
    page: bytes

    def __init__(self, data_dir: Path | None, port: int | None = None, **settings: Any) -> None:
        """`settings` are fields of the process' settings class; what is not given has its default."""
        super().__init__(data_dir, port, _READY_TIMEOUT_S)
        self._settings = settings

    @property
    def url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.port}"

    def _answers(self, connection: socket.socket) -> bool:
        connection.sendall(b"GET " + self.page + b" HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
        return b" 200 " in connection.recv(64)

    def _options(self) -> dict[str, Any]:
        return self._settings

    def _prepare(self) -> list[str]:
        command = [sys.executable, "-m", "dimflow", self.word]
        for name, value in self._options().items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return command


class LocalTrainer(_LocalProcess):
    """`dimflow train`; its state lies in `data_dir`/state."""

    name = "trainer"
    word = "train"
    page = b"/metrics"
    grace_s = 30.0

    def _options(self) -> dict[str, Any]:
        return {"state_dir": self.data_dir / "state", "metrics_port": self.port, **self._settings}


class LocalPredictor(_LocalProcess):
    """`dimflow serve`."""

    name = "server"
    word = "serve"
    page = b"/healthz"

    def _options(self) -> dict[str, Any]:
        return {"port": self.port, **self._settings}
