"""Processes around `run_app`, and what they wrote down."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    """Polls until a condition holds, or fails."""

    def poll(condition: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
            time.sleep(0.02)

    return poll


@dataclasses.dataclass
class Recorder:
    """One run after another of `recording_sink.py` on one record file."""

    record: Path
    log: Path
    settings: dict[str, Any]
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, **plan: Any) -> None:
        settings = {**self.settings, **plan.pop("settings", {})}
        argument = json.dumps({"settings": settings, "record": str(self.record), **plan})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "integration" / "recording_sink.py"), argument],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def wait(self, within_s: float = 60.0) -> int:
        assert self.process is not None
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"still running after {within_s} s; its log ends:\n{self.log.read_text()[-4000:]}")

    def run(self, within_s: float = 60.0, **plan: Any) -> int:
        self.start(**plan)
        return self.wait(within_s)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def entries(self) -> list[dict[str, Any]]:
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def batches(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if "offsets" in entry]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if entry.get("event") == name]

    def column(self, name: str) -> dict[int, list[Any]]:
        """Returns one column of all records, by partition, in the order they were offered."""
        columns: dict[int, list[Any]] = {}
        for batch in self.batches():
            columns.setdefault(batch["partition"], []).extend(batch[name])
        return columns

    def count(self) -> int:
        return sum(len(batch["offsets"]) for batch in self.batches())


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    """Makes recorders; whatever still runs at the end of the test is killed."""
    made: list[Recorder] = []

    def make(bootstrap: str, topic: str, name: str = "a", **settings: Any) -> Recorder:
        base = {"brokers": bootstrap, "topic": topic, "group": topic, "session_timeout_s": 2.0, **settings}
        made.append(Recorder(tmp_path / f"{name}.jsonl", tmp_path / f"{name}.log", base))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def fill() -> Callable[..., None]:
    """Sends values `0`, `1`, ... to each partition of a topic and waits for the acknowledgements.

    Without idempotence a producer that tries again may change the order, right after a topic was made for instance.
    """
    from confluent_kafka import Producer

    def send(bootstrap: str, topic: str, partitions: int, first: int, last: int, padding_bytes: int = 0) -> None:
        failures: list[object] = []
        options = {"enable.idempotence": True, "batch.size": 4096, "message.timeout.ms": 60_000}
        producer = Producer({"bootstrap.servers": bootstrap, **options})

        def delivered(error: object, _: object) -> None:
            if error is not None:
                failures.append(error)

        for number in range(first, last):
            value = b"%d" % number + b" " * padding_bytes
            for partition in range(partitions):
                while True:
                    try:
                        producer.produce(topic, value, partition=partition, on_delivery=delivered)
                        break
                    except BufferError:
                        producer.poll(0.05)
            producer.poll(0)
        assert producer.flush(60) == 0
        assert not failures

    return send
