"""The guard as the script that it is: it ends its server when its input ends, and cleans up.

Deaths of the parent and of the guard itself stand in `test_local_servers.py`.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dimflow import server_guard

GUARD = [sys.executable, "-I", "-S", server_guard.__file__]
WAITS = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]


def start(folder: Path) -> "subprocess.Popen[bytes]":
    (folder / "data").mkdir()
    options = ["--log", str(folder / "log"), "--remove", str(folder / "data"), "--grace-s", "5", "--"]
    return subprocess.Popen([*GUARD, *options, *WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def answer(guard: "subprocess.Popen[bytes]") -> str:
    assert guard.stdout is not None
    return guard.stdout.readline().decode().strip()


def test_the_end_of_its_input_ends_the_server_and_the_folder(tmp_path: Path) -> None:
    with start(tmp_path) as guard:
        assert guard.stdin is not None
        guard.stdin.write(b"R")
        word, pid = answer(guard).split()
        assert word == "started"
        guard.stdin.close()
        assert answer(guard) == f"exited {-signal.SIGTERM}"
        assert guard.wait(20) == 0
        assert not Path(f"/proc/{pid}").exists()
        assert not (tmp_path / "data").exists()


def test_sigterm_does_the_same(tmp_path: Path) -> None:
    with start(tmp_path) as guard:
        assert guard.stdin is not None
        guard.stdin.write(b"R")
        assert answer(guard).startswith("started")
        guard.send_signal(signal.SIGTERM)
        assert answer(guard) == f"exited {-signal.SIGTERM}"
        assert guard.wait(20) == 0
        assert not (tmp_path / "data").exists()


def test_orders_without_a_server_are_void(tmp_path: Path) -> None:
    with start(tmp_path) as guard:
        assert guard.stdin is not None
        guard.stdin.write(b"KTSC?RK")
        assert answer(guard).startswith("started")
        assert answer(guard) == f"exited {-signal.SIGKILL}"
        guard.stdin.close()
        assert guard.wait(20) == 0


def test_it_needs_a_command() -> None:
    with pytest.raises(SystemExit):
        server_guard.main(["--log", "x", "--grace-s", "1"])
