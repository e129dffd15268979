"""One server as a child process that cannot outlive this one: started, signalled and stopped through its guard.

Knows nothing of Kafka or Redis. Invariant: the server's process is reaped by the guard alone, which also sends the
signals, so no signal can ever reach a stranger that got the same process number.
"""

import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dimflow.errors import ServerNotReady, ServerOrderRefused

__all__ = ["GuardedProcess", "log_tail"]

_ANSWER_TIMEOUT_S: Final = 20.0
_LOG_TAIL_BYTES: Final = 3000


class GuardedProcess:
    """A server process behind `server_guard.py`.

    Not safe for several threads at once. May be started by any thread, also by one that ends before the server does.

    Attributes:
        pid: process number of the server while it runs, else None. For display: send signals by the methods.
        exit_code: of the last run (negative: the signal that ended it), None while it runs or before the first run.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, remove: Path | None, grace_s: float) -> None:
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("server_guard.py"))]
        guard += ["--log", str(log), "--grace-s", str(grace_s)]
        guard += [] if remove is None else ["--remove", str(remove)]
        self.name = name
        self.log = log
        self.pid: int | None = None
        self.exit_code: int | None = None
        self._grace_s = grace_s
        self._answers = b""
        self._guard = subprocess.Popen(
            [*guard, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal is for dimflow, which then stops its servers in order
        )

    def run(self) -> None:
        """Starts the server.

        Raises:
            ServerOrderRefused: it runs already.
            ServerNotReady: the operating system refused to start it.
        """
        if self.running:
            message = f"{self.name}: runs already as process {self.pid}; expected it to be down before it is started"
            raise ServerOrderRefused(message)
        self.exit_code = None
        self._order(b"R")
        answer = self._wait_for_answer()
        if self.pid is None:
            message = f"{self.name}: {answer}; expected its program to start; end of its log:\n{log_tail(self.log)}"
            raise ServerNotReady(message)

    @property
    def running(self) -> bool:
        """Whether the server's process exists (a frozen one does)."""
        while self._read_answer(0.0) is not None:
            pass
        return self.pid is not None

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self._signal(b"K")
        self._wait_for_exit()

    def terminate(self) -> None:
        """SIGTERM; returns when the process is gone.

        Raises:
            ServerNotReady: it did not end within the time of grace.
        """
        self._signal(b"T")
        self._wait_for_exit()

    def freeze(self) -> None:
        """SIGSTOP: the process stays, its ports stay open, nothing answers."""
        self._signal(b"S")

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(b"C")

    def close(self) -> None:
        """Stops the server and its guard for good, and removes the temporary folder. May be called again."""
        if self._guard.stdin is None or self._guard.stdout is None:  # for the type checker: both are pipes
            return
        self._guard.stdin.close()
        try:
            self._guard.wait(self._grace_s + _ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        while not self._guard.stdout.closed and self._read_answer(0.0) is not None:
            pass
        self._guard.stdout.close()
        self.pid = None

    def _signal(self, order: bytes) -> None:
        if not self.running:
            message = f"{self.name}: is not running (exit code {self.exit_code}); expected a running server"
            raise ServerOrderRefused(message)
        self._order(order)

    def _order(self, order: bytes) -> None:
        if self._guard.stdin is None or self._guard.stdin.closed:
            message = f"{self.name}: was stopped for good; expected a server that was not closed"
            raise ServerOrderRefused(message)
        try:
            self._guard.stdin.write(order)
        except BrokenPipeError as error:
            message = f"{self.name}: its guard process ended (code {self._guard.poll()}); expected it to run"
            raise ServerNotReady(message) from error

    def _wait_for_exit(self) -> None:
        deadline = time.monotonic() + self._grace_s + _ANSWER_TIMEOUT_S
        while self.pid is not None:
            if self._read_answer(max(deadline - time.monotonic(), 0.0)) is None:
                message = f"{self.name}: process {self.pid} is still there; expected it to end; end of its log:\n"
                raise ServerNotReady(message + log_tail(self.log))

    def _wait_for_answer(self) -> str:
        answer = self._read_answer(_ANSWER_TIMEOUT_S)
        if answer is None:
            code = self._guard.poll()
            message = f"{self.name}: no answer from its guard (code {code}); expected one within {_ANSWER_TIMEOUT_S} s"
            raise ServerNotReady(message)
        return answer

    def _read_answer(self, timeout_s: float) -> str | None:
        """Takes one line of the guard's, keeps `pid` and `exit_code` true to it; None if there is none in time."""
        stdout = self._guard.stdout
        if stdout is None or stdout.closed:
            return None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._answers:
            if not select.select([stdout], [], [], max(deadline - time.monotonic(), 0.0))[0]:
                return None
            piece = stdout.read(4096)
            if not piece:
                self.pid = None
                return None
            self._answers += piece
        line, _, self._answers = self._answers.partition(b"\n")
        answer = line.decode()
        word, _, value = answer.partition(" ")
        if word == "started":
            self.pid = int(value)
        elif word == "exited":
            self.pid, self.exit_code = None, int(value)
        return answer


def log_tail(log: Path, size_bytes: int = _LOG_TAIL_BYTES) -> str:
    """Returns the end of a log file, or a line that says why there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, 2) - size_bytes, 0))
            return file.read().decode(errors="replace").strip() or f"({log} is empty)"
    except OSError as error:
        return f"(no log: {error})"
