"""A child behind its guard: orders, answers, and a process that ends whatever happens to its parent."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimflow.errors import ServerNotReady, ServerOrderRefused
from dimflow.guarded_process import GuardedProcess, log_tail

WAITS = [sys.executable, "-I", "-S", "-c", "import signal; print('up', flush=True); signal.pause()"]
IGNORES_SIGTERM = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()",
]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[GuardedProcess]]:
    made: list[GuardedProcess] = []
    yield made
    for process in made:
        process.close()


def guarded(made: list[GuardedProcess], folder: Path, command: list[str], grace_s: float = 5.0) -> GuardedProcess:
    made.append(GuardedProcess("Thing", command, log=folder / "log", remove=None, grace_s=grace_s))
    return made[-1]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_it_runs_ends_and_runs_again(tmp_path: Path, processes: list[GuardedProcess]) -> None:
    process = guarded(processes, tmp_path, WAITS)
    assert not process.running
    process.run()
    first = process.pid
    assert process.running
    process.terminate()
    assert (process.running, process.exit_code) == (False, -15)
    process.run()
    assert process.pid != first
    process.kill()
    assert (process.running, process.exit_code) == (False, -9)


def test_a_frozen_process_is_stopped_until_it_thaws(tmp_path: Path, processes: list[GuardedProcess]) -> None:
    process = guarded(processes, tmp_path, WAITS)
    process.run()
    assert process.pid is not None
    process.freeze()
    while state_of(process.pid) != "T":
        assert process.running
    process.thaw()
    while state_of(process.pid) == "T":
        assert process.running


def test_one_that_ignores_sigterm_is_killed_at_the_close(tmp_path: Path, processes: list[GuardedProcess]) -> None:
    process = guarded(processes, tmp_path, IGNORES_SIGTERM, grace_s=0.2)
    process.run()
    pid = process.pid
    while "up" not in log_tail(tmp_path / "log"):
        assert process.running
    process.close()
    assert not Path(f"/proc/{pid}").exists()
    process.close()


def test_orders_that_make_no_sense_are_refused(tmp_path: Path, processes: list[GuardedProcess]) -> None:
    process = guarded(processes, tmp_path, WAITS)
    with pytest.raises(ServerOrderRefused, match="Thing: is not running"):
        process.kill()
    process.run()
    with pytest.raises(ServerOrderRefused, match="Thing: runs already as process"):
        process.run()
    process.close()
    with pytest.raises(ServerOrderRefused, match="was stopped for good"):
        process.run()


def test_a_program_that_is_not_there_is_named(tmp_path: Path, processes: list[GuardedProcess]) -> None:
    process = guarded(processes, tmp_path, [str(tmp_path / "nowhere")])
    with pytest.raises(ServerNotReady, match=r"Thing: failed .*nowhere"):
        process.run()


def test_the_tail_of_a_log_is_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert "no log" in log_tail(log)
    log.write_text("")
    assert "is empty" in log_tail(log)
    log.write_text("".join(f"line {n}\n" for n in range(1000)))
    assert log_tail(log, 20).endswith("line 999")
    assert len(log_tail(log, 20)) <= 20
