"""A small process that stands between dimflow and one server it started, so that the server never outlives dimflow.

Runs as a script of its own (`python -I -S server_guard.py`, standard library alone) and knows nothing of what the
server is. It takes one-letter orders on its standard input and answers in lines on its standard output.

Invariant: when the standard input ends, for whatever reason (an orderly stop, an exception, SIGKILL of the parent),
the server is stopped, then its temporary folder is removed, then this process ends. Should this process itself be
killed, the kernel kills the server (Linux: parent-death signal). That signal follows the *thread* that forked, which is
why it is set here, where there is one thread only, and not in the parent, whose threads come and go.

Orders: R run, T terminate, K kill, S suspend, C continue. Answers: `started PID`, `exited CODE`, `failed REASON`.
"""

import argparse
import contextlib
import ctypes
import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PARENT_CHECK_S: Final = 1.0
_SIGNALS: Final = {b"T": signal.SIGTERM, b"K": signal.SIGKILL, b"S": signal.SIGSTOP, b"C": signal.SIGCONT}


def _die_with_parent() -> Callable[[], None] | None:
    """Returns what the server's process runs before its program, or None where the kernel has no such signal."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: loading a library after it is not safe

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return arm


class Guard:
    """Owns the server's process: starts, signals, reaps and finally stops it."""

    def __init__(self, command: list[str], log: str, remove: str | None, grace_s: float) -> None:
        self._command = command
        self._log = log
        self._remove = remove
        self._grace_s = grace_s
        self._server: subprocess.Popen[bytes] | None = None
        self._arm = _die_with_parent()

    def obey(self, order: bytes) -> None:
        """Carries out one order; an order for a server that is not running is void."""
        if order == b"R":
            if self._server is None:
                self._run()
        elif self._server is not None and order in _SIGNALS:
            self._server.send_signal(_SIGNALS[order])

    def reap(self) -> None:
        """Reports the server's end, if it came."""
        if self._server is not None and (code := self._server.poll()) is not None:
            self._server = None
            self._answer(f"exited {code}")

    def finish(self) -> None:
        """Stops the server: politely for `grace_s` seconds, then not; removes the temporary folder."""
        if self._server is not None:
            self._server.terminate()
            self._server.send_signal(signal.SIGCONT)
            try:
                self._server.wait(self._grace_s)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self.reap()
        if self._remove is not None:
            shutil.rmtree(self._remove, ignore_errors=True)

    def _run(self) -> None:
        try:
            with open(self._log, "ab") as log:
                self._server = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=self._arm,  # noqa: PLW1509 - this process has one thread
                )
        except OSError as error:
            self._answer(f"failed {error}")
        else:
            self._answer(f"started {self._server.pid}")

    @staticmethod
    def _answer(line: str) -> None:
        with contextlib.suppress(OSError):  # the parent may be gone; its absence is noticed elsewhere
            os.write(sys.stdout.fileno(), line.encode() + b"\n")


def _serve(guard: Guard) -> None:
    parent = os.getppid()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    ending: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    orders = sys.stdin.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        # The parent's process number is watched too: a process forked from the parent may hold the pipe open.
        while not ending and os.getppid() == parent:
            ready = {key.fd for key, _ in selector.select(_PARENT_CHECK_S)}
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
            guard.reap()
            if orders in ready:
                order = os.read(orders, 1)
                if not order:
                    break
                guard.obey(order)
    guard.finish()


def main(arguments: list[str]) -> int:
    """Guards one server until the standard input ends."""
    parser = argparse.ArgumentParser(description="Guards one server process of dimflow.")
    parser.add_argument("--log", required=True, help="file the server's output is appended to")
    parser.add_argument("--remove", help="folder to remove at the end")
    parser.add_argument("--grace-s", type=float, required=True, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    _serve(Guard(options.command, options.log, options.remove, options.grace_s))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
