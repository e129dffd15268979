"""The demo from its command line: to the end by itself, and stopped half-way; nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimflow.demo_command import _model_of

CLICKS = Path(__file__).resolve().parents[3] / "shared" / "data" / "globo_days_1_8.parquet"


def processes_of(marker: str) -> list[str]:
    """Command lines of running processes that hold the marker in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "TMPDIR": str(folder), "DEMO_TEST_MARKER": folder.name}
    return subprocess.Popen(
        [sys.executable, "-m", "dimflow", "demo", "--json", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while processes_of(f"DEMO_TEST_MARKER={folder.name}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(f"DEMO_TEST_MARKER={folder.name}") == []
    assert [path.name for path in folder.iterdir()] == []


@pytest.mark.parametrize("data", ["clicks", "teacher"])
def test_it_runs_to_the_end_and_reports_one_line(tmp_path: Path, data: str) -> None:
    if data == "clicks" and not CLICKS.exists():
        pytest.skip(f"no real stream at {CLICKS}")
    chosen = ["--data", str(CLICKS)] if data == "clicks" else ["--data", "teacher"]
    demo = start(tmp_path, *chosen, "--samples", "60000", "--seed", "3")
    out, err = demo.communicate(timeout=300)

    assert demo.returncode == 0, err
    report = json.loads(out)
    assert out.count("\n") == 1
    assert report["samples"] == 60_000
    assert report["seed"] == 3
    assert report["dead_letters"] == 0
    assert report["increments"] >= 1
    assert 0.6 < report["progressive_auc"] < 0.95
    assert 0 < report["log_loss"] < 0.7
    assert report["freshness_p50_ms"] <= report["freshness_p95_ms"]
    assert report["samples_per_s"] > 0
    assert report["rows"] > 100
    assert report["table_bytes"] > 1 << 16
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_half_way_it_leaves_nothing_behind(tmp_path: Path, signal_number: int) -> None:
    demo = start(tmp_path, "--data", "teacher")
    marker = f"DEMO_TEST_MARKER={tmp_path.name}"
    deadline = time.monotonic() + 120
    while not any(" serve " in line for line in processes_of(marker)):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    demo.send_signal(signal_number)
    demo.communicate(timeout=90)

    assert demo.returncode in {130, -signal.SIGKILL}
    if signal_number != signal.SIGKILL:
        assert_nothing_is_left(tmp_path)
    else:  # temporary folders of the demo itself may stay, processes must not
        deadline = time.monotonic() + 60
        while processes_of(marker):
            assert time.monotonic() < deadline, processes_of(marker)
            time.sleep(0.1)


def test_the_data_chooses_the_model() -> None:
    assert _model_of(None) == "teacher"
    assert _model_of(Path("/data/movielens_1m_half.parquet")) == "movielens"
    assert _model_of(Path("/data/criteo_1tb_80k.parquet")) == "criteo"
