"""Two trainers of one model as processes: one leads, the other stands by; nothing is lost, twice or served stale."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from kafka import KafkaProducer

from dimflow.local_processes import LocalPredictor, LocalTrainer
from dimflow.loop_watch import LoopWatch
from feature_admission.always_admit import AlwaysAdmit
from model_contract.feature_id import feature_id
from stream_trainer.state_chain import find_state

MODEL = """
[model]
name = "{name}"
dim = 8
top = [16]

[[sparse]]
name = "user"

[[sparse]]
name = "item"
"""


class Workers:
    """One topic, one server and as many trainers as a test asks for."""

    def __init__(self, folder: Path, brokers: str, redis_url: str, topic: str, model: str) -> None:
        self.folder, self.brokers, self.topic = folder, brokers, topic
        self.model_file = folder / "model.toml"
        self.model_file.write_text(MODEL.format(name=model))
        self._settings = {
            "model_file": self.model_file,
            "brokers": brokers,
            "redis": redis_url,
            "topic": topic,
            "group": topic,
            "publish_interval_s": 0.2,
            "admission": "always",
            "memory_bytes": 64 << 20,
            "lease_s": 2.0,
        }
        self.server = LocalPredictor(folder / "server", model_file=self.model_file, redis=redis_url)
        self.server.start()
        self.sent = 0
        self.trainers: list[LocalTrainer] = []
        self._producing = threading.Event()
        self._producer = threading.Thread(target=self._produce, daemon=True)

    def trainer(self, name: str, **settings: object) -> LocalTrainer:
        trainer = LocalTrainer(self.folder / name, **{**self._settings, **settings})
        self.trainers.append(trainer)
        return trainer

    def load(self) -> None:
        """Produces until `unload`: every user once."""
        self._producing.set()
        self._producer.start()

    def unload(self) -> None:
        self._producing.clear()
        self._producer.join(30)

    def _produce(self) -> None:
        producer = KafkaProducer(bootstrap_servers=self.brokers)
        while self._producing.is_set():
            for n in range(self.sent, self.sent + 50):
                value = json.dumps({"label": n % 2, "sparse": {"user": f"u{n}", "item": f"i{n % 50}"}})
                producer.send(self.topic, value.encode(), partition=n % 4)
            producer.flush()
            self.sent += 50
            time.sleep(0.02)
        producer.close()

    def numbers(self, trainer: LocalTrainer) -> LoopWatch:
        return LoopWatch(trainer.url, self.server.url)

    def model(self) -> dict:
        with LoopWatch("", self.server.url) as watch:
            return dict(watch.model())

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = 40.0) -> float:
        began = time.monotonic()
        while True:
            try:
                if done():
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            assert time.monotonic() - began < timeout_s, f"not in {timeout_s} s: {what}"
            time.sleep(0.05)

    def standby(self, trainer: LocalTrainer) -> bool:
        with self.numbers(trainer) as watch:
            return watch.trainer()["standby"] == 1

    def trained(self, trainer: LocalTrainer) -> int:
        with self.numbers(trainer) as watch:
            return int(watch.trainer()["lineage_samples"])

    def check_once(self, trainer: LocalTrainer, state: Path) -> None:
        """Every user of the stream is in the leader's state once, and the server has it too."""
        self.unload()
        self.wait("all trained", lambda: self.trained(trainer) >= self.sent)
        self.wait("all served", lambda: self.model()["samples_trained"] >= self.sent)
        trainer.terminate()
        stored = find_state(state, lambda base, _: AlwaysAdmit().state())
        assert stored is not None
        counts = {
            int(i): float(count)
            for block in stored.state.rows.blocks
            for i, count in zip(block.ids, block.counts, strict=True)
        }
        users = np.array([counts.get(feature_id("user", f"u{n}"), 0.0) for n in range(self.sent)])
        assert (users == 0).sum() == 0, "lost"
        assert (users > 1).sum() == 0, "trained twice"
        assert stored.state.manifest.samples_trained == self.sent

    def close(self) -> None:
        self._producing.clear()
        for one in [*self.trainers, self.server]:
            one.stop()


@pytest.fixture
def workers(tmp_path: Path, kafka, redis_server) -> Iterator[Workers]:
    made = Workers(tmp_path, kafka.bootstrap, redis_server.url, kafka.fresh_topic(), redis_server.fresh_prefix("model"))
    yield made
    made.close()


def test_a_second_worker_joins_and_leaves_under_load_and_takes_over_when_the_first_is_gone(workers: Workers) -> None:
    first = workers.trainer("first").start()
    state = first.data_dir / "state"
    workers.load()
    second = None
    for turn in range(4):
        own_folder = bool(turn % 2)
        options = {} if own_folder else {"state_dir": state}
        second = workers.trainer(f"second-{turn}", **options).start()
        before = workers.trained(first)
        assert workers.standby(second)
        assert not workers.standby(first)
        with workers.numbers(first) as watch:
            assert watch.trainer()["assigned_partitions"] == 4
        workers.wait("the first goes on", lambda before=before: workers.trained(first) > before)
        assert workers.standby(second)
        if turn == 3:
            second.kill()
        else:
            second.terminate()
            assert second._process.exit_code == 0
    lineage = workers.model()["lineage"]

    second = workers.trainer("successor", state_dir=state).start()
    assert workers.standby(second)
    first.kill()
    assert workers.wait("it took over", lambda: not workers.standby(second)) < 5
    workers.wait("it trains", lambda: workers.trained(second) > 0)
    workers.check_once(second, state)
    assert workers.model()["lineage"] == lineage
    assert first.running is False


def test_a_frozen_leader_is_succeeded_and_serves_nothing_stale_when_it_wakes(workers: Workers) -> None:
    first = workers.trainer("first").start()
    state = first.data_dir / "state"
    workers.load()
    workers.wait("the first trains", lambda: workers.trained(first) > 1000)
    second = workers.trainer("second", standby_of=state).start()
    assert workers.standby(second)
    lineage = workers.model()["lineage"]

    first.freeze()
    assert workers.wait("the second took over", lambda: not workers.standby(second)) < 8
    began = time.monotonic()
    frozen_at = workers.model()
    workers.wait("the second serves", lambda: workers.model()["samples_trained"] > frozen_at["samples_trained"] + 1000)
    time.sleep(max(0.0, 10 - (time.monotonic() - began)))

    seen = [workers.model()]
    first.thaw()
    until = time.monotonic() + 5
    while time.monotonic() < until:
        seen.append(workers.model())
        time.sleep(0.02)
    assert {model["lineage"] for model in seen} == {lineage}
    sequences = [model["sequence"] for model in seen]
    assert sequences == sorted(sequences)
    workers.wait("the first has ended", lambda: not first.running)
    assert first._process.exit_code == 1
    workers.check_once(second, second.data_dir / "state")
