"""What every scenario acts on: one model's topic, trainer, server and watcher, on a real Kafka and a real Redis.

Knows the processes' command lines and pages and the state folder, not what is done to them. Invariant: everything that
was started here ends with the stage, also where a scenario raises.
"""

import contextlib
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families

from dimflow.local_processes import LocalPredictor, LocalTrainer
from feature_admission.always_admit import AlwaysAdmit
from model_contract.increment import decode
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.schema import ModelSchema
from serving.replica import Replica
from stream_trainer.model_state import ModelState
from stream_trainer.outgoing import PARAMETERS, encode_state
from stream_trainer.state_chain import find_state
from tests.chaos.asking_client import Answer, body_of
from tests.chaos.sample_ledger import Ledger, SampleFeed, Verdict, user_of

PARTITIONS = 4
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


@dataclass(frozen=True)
class Scale:
    """How much of everything a run does; see `SCALES`."""

    kills: int
    lanes: int
    corruptions: int
    outage_s: float
    frozen_trainer_s: float
    joins: int
    watchdog_s: float | None
    increments: int
    answers: int


SCALES = {
    "smoke": Scale(2, 1, 20, 1.0, 1.0, 1, 3.0, 5, 200),
    "chaos": Scale(100, 3, 1000, 30.0, 15.0, 10, None, 500, 20_000),
    "full": Scale(100, 1, 1000, 30.0, 15.0, 10, None, 500, 20_000),
}


@dataclass
class ScenarioResult:
    """What one scenario found: the five sums of the run, its figures, and the limits it was given."""

    verdict: Verdict = field(default_factory=Verdict)
    refused: int = 0
    served_wrong: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, bool] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def limit(self, name: str, *, holds: bool) -> None:
        """Notes whether a figure is within what the issue asks; never decides whether a run failed."""
        self.limits[name] = self.limits.get(name, True) and holds

    def expect(self, holds: bool, fault: str) -> None:
        """Notes a fault, which makes the run fail, where something does not hold."""
        if not holds:
            self.faults.append(fault)


class MortalTrainer(LocalTrainer):
    """`dimflow train` that can be told its fate before a start, and started without waiting for it to answer."""

    @property
    def state_dir(self) -> Path:
        """Where its state lies: in its own folder, unless it was told another."""
        return Path(self._options()["state_dir"])

    def _prepare(self) -> list[str]:
        options = super()._prepare()[4:]
        script = Path(__file__).with_name("mortal_trainer.py")
        return [sys.executable, str(script), "--fate", str(self.data_dir / "fate.json"), *options]

    def launch(self, **fate: Any) -> None:
        """Starts it again; returns at once."""
        if fate:
            (self.data_dir / "fate.json").write_text(json.dumps(fate))
        self._running_process().run()

    def wait_for_end(self, within_s: float) -> int | None:
        """Its exit code, or None where it still runs."""
        deadline = time.monotonic() + within_s
        while self.running:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.01)
        return self._running_process().exit_code

    def end(self) -> None:
        """SIGKILL, where it runs."""
        if self.running:
            self.kill()

    @property
    def stands_by(self) -> bool:
        """Whether it answers, and waits for another one to go."""
        return page(self.url).get("dimflow_trainer_standby") == 1.0

    def steps_passed(self) -> set[str]:
        notes = self.data_dir / "steps-passed"
        return set(notes.read_text().split()) if notes.exists() else set()

    def samples(self) -> float:
        """Samples learned since its start; 0 where it does not answer."""
        return page(self.url).get("dimflow_trainer_samples_total", 0.0)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


def page(url: str) -> dict[str, float]:
    """The numbers of a /metrics page by name, those with labels added up; empty where nothing answers."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (OSError, urllib.error.URLError):
        return {}
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def model_page(url: str) -> dict[str, Any]:
    """The server's /model document; empty where nothing answers."""
    try:
        with urllib.request.urlopen(f"{url}/model", timeout=5) as answer:
            return dict(json.load(answer))
    except (OSError, urllib.error.URLError):
        return {}


def until(condition: Callable[[], Any], what: str, within_s: float = 120.0, pause_s: float = 0.03) -> float:
    """Polls; returns the seconds it took.

    Raises:
        TimeoutError: it never came.
    """
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > within_s:
            message = f"not within {within_s} s: {what}"
            raise TimeoutError(message)
        time.sleep(pause_s)
    return time.monotonic() - begin


def read_folder(folder: Path) -> ModelState | None:
    """What a trainer would restore from a state folder, which is left as it is."""
    stored = find_state(folder, lambda base, _: AlwaysAdmit().state())
    return None if stored is None else stored.state


class Stage:
    """One model's loop."""

    def __init__(self, folder: Path, brokers: str, redis: str, seed: int, **trainer_settings: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        name = f"m-{uuid.uuid4().hex[:10]}"
        self.model_file = folder / "model.toml"
        self.model_file.write_text(MODEL.format(name=name))
        self.schema = ModelSchema.parse_toml(self.model_file.read_text())
        self.brokers, self.redis = brokers, redis
        make_topic(brokers, name)
        self.ledger = Ledger(seed, name, PARTITIONS)
        self.feed = SampleFeed(brokers, self.ledger)
        self._settings = trainer_settings
        self.trainer = self.another_trainer("trainer")
        self.server = LocalPredictor(folder / "server", model_file=self.model_file, redis=redis)

    def another_trainer(self, name: str, **changes: Any) -> MortalTrainer:
        """A trainer of the same model and group, unstarted, with a folder of its own."""
        settings = {
            "model_file": self.model_file,
            "brokers": self.brokers,
            "redis": self.redis,
            "topic": self.schema.name,
            "group": self.schema.name,
            "publish_interval_s": 0.2,
            "admission": "always",
            "memory_bytes": 256 << 20,
            "count_half_life_s": 1e15,  # counts that do not age can be compared
            **self._settings,
            **changes,
        }
        return MortalTrainer(self.folder / name, **settings)

    @contextlib.contextmanager
    def running(self) -> Iterator["Stage"]:
        """Starts trainer and server, learns the first samples, and ends everything."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.trainer.stop)
            stack.callback(self.server.stop)
            stack.callback(self.feed_off)
            self.trainer.start()
            self.feed.send(400)
            self.server.start()
            self.wait_served()
            try:
                yield self
            except Exception:
                self.show_logs()
                raise

    def show_logs(self, size: int = 6000) -> None:
        """Writes the ends of all logs to the standard error: what a scenario that broke leaves behind."""
        for path in sorted(self.folder.glob("*/server.log")):
            sys.stderr.write(f"== {path.parent.name}\n{path.read_text(errors='replace')[-size:]}\n")
        sys.stderr.flush()

    def feed_off(self) -> None:
        self.feed._stopping.set()

    def state(self) -> ModelState | None:
        return read_folder(self.trainer.state_dir)

    def judged(self, trainer: MortalTrainer | None = None) -> Verdict:
        """The verdict on what a trainer's folder holds now."""
        state = read_folder((trainer or self.trainer).state_dir)
        return Verdict() if state is None else self.ledger.judge(state)

    def served_samples(self) -> int:
        return int(model_page(self.server.url).get("samples_trained") or 0)

    def wait_served(self, samples: int | None = None, within_s: float = 120.0) -> float:
        """Waits until the server's model has learned so many samples, by default all; returns the seconds."""
        due = self.ledger.good() if samples is None else samples
        return until(lambda: self.served_samples() >= due, f"{due} samples served", within_s)

    def finish(self, result: ScenarioResult, trainer: MortalTrainer | None = None) -> None:
        """Learns the rest, stops the trainer, and compares ledger, disk and server to the last bit."""
        trainer = trainer or self.trainer
        self.feed.stop()
        try:
            self.wait_served(within_s=90)
        except TimeoutError as error:  # the verdict below says what is missing
            result.faults.append(str(error))
        trainer.terminate()
        state = read_folder(trainer.state_dir)
        if state is None:
            result.faults.append("no state on the disk")
            return
        offsets = {o.partition: o.next_offset for o in state.manifest.offsets}
        verdict = self.ledger.judge(state)
        missing = sum(self.ledger.handed) - sum(offsets.values())
        result.expect(missing == 0, f"{missing} records were never read")
        result.verdict += verdict
        compared, wrong = self.compare_with_disk(state)
        result.served_wrong += wrong
        _, control = self.compare_with_disk(_slightly_other(state))
        result.expect(control > compared // 2, "another model answered the same: the comparison could not fail")
        result.figures |= {"samples": self.ledger.good(), "answers_compared_with_disk": compared}

    def compare_with_disk(self, state: ModelState) -> tuple[int, int]:
        """Asks the server about many users and compares with a replica that was filled from the disk."""
        from model_contract.dense_layout import DenseLayout

        replica = Replica(self.schema, 1 << 30)
        replica.load_base(decode(encode_state(state, "base", DenseLayout(self.schema))))
        decoder = PredictionRequestDecoder(self.schema, 1000, 1000, 1 << 20)
        compared = wrong = 0
        for partition, handed in enumerate(self.ledger.handed):
            for first in range(0, handed, max(handed // 5, 500)):
                body = body_of(self.instances(partition, first, min(first + 500, handed)))
                expected = replica.score(decoder.decode(body)).probabilities.tolist()
                seen = self.ask(body)
                compared += len(expected)
                wrong += sum(a != b for a, b in zip(expected, seen.probabilities, strict=True))
        return compared, wrong

    @staticmethod
    def instances(partition: int, first: int, last: int) -> list[dict[str, Any]]:
        return [{"sparse": {"user": user_of(partition, o), "item": f"i{o % 50}"}} for o in range(first, last)]

    def ask(self, body: bytes) -> Answer:
        """One answer of the server."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.server.url}/predict", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            told = json.load(response)
        model = told["model"]
        return Answer(0, model["lineage"], model["sequence"], model["version"], tuple(told["probabilities"]))


def _slightly_other(state: ModelState) -> ModelState:
    """The same with dense weights a thousandth larger."""
    return replace(state, arrays=state.arrays | {PARAMETERS: state.arrays[PARAMETERS] * np.float32(1.001)})


def make_topic(brokers: str, name: str) -> None:
    """Creates the topic, and waits until the broker has."""
    client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    for made in client.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
        made.result(30)
