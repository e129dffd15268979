"""The whole loop as its users run it: real Kafka, real Redis, `dimflow train` and `dimflow serve` as processes."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from dimflow.local_processes import LocalPredictor, LocalTrainer
from dimflow.loop_watch import LoopWatch
from feature_admission.always_admit import AlwaysAdmit
from model_contract.feature_id import feature_id
from stream_trainer.checkpoint_store import CheckpointStore

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


@dataclass
class Loop:
    """One model's loop on the shared servers."""

    folder: Path
    topic: str
    bootstrap: str
    trainer: LocalTrainer
    server: LocalPredictor
    watch: LoopWatch

    def produce(self, values: list[bytes | None], partitions: int = 4) -> None:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, max_request_size=4 << 20)
        for number, value in enumerate(values):
            key = b"deleted" if value is None else None  # the client refuses to send nothing at all
            producer.send(self.topic, value, key=key, partition=number % partitions)
        producer.flush()
        producer.close()

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if done():
                    return
            except (httpx.HTTPError, KeyError):
                pass
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
            time.sleep(0.05)

    def wait_trained(self, samples: int) -> None:
        self.wait(f"{samples} trained", lambda: self.watch.trainer()["lineage_samples"] >= samples)

    def wait_served(self, samples: int) -> None:
        self.wait(f"{samples} served", lambda: (self.watch.model()["samples_trained"] or 0) >= samples)

    def counts_on_disk(self) -> dict[int, float]:
        """Row counts by feature id in the newest durable state."""
        store = CheckpointStore(self.folder / "trainer" / "state", lambda base, _: AlwaysAdmit().state())
        stored = store.load()
        store.close()
        assert stored is not None
        return {
            int(i): float(count)
            for block in stored.state.rows.blocks
            for i, count in zip(block.ids, block.counts, strict=True)
        }


@pytest.fixture
def loop(tmp_path: Path, kafka, redis_server) -> Iterator[Loop]:
    topic = kafka.fresh_topic()
    model_file = tmp_path / "model.toml"
    model_file.write_text(MODEL.format(name=redis_server.fresh_prefix("m")))
    trainer = LocalTrainer(
        tmp_path / "trainer",
        model_file=model_file,
        brokers=kafka.bootstrap,
        redis=redis_server.url,
        topic=topic,
        group=topic,
        publish_interval_s=0.2,
        admission="always",
        memory_bytes=64 << 20,
    )
    server = LocalPredictor(tmp_path / "server", model_file=model_file, redis=redis_server.url)
    with trainer, server, LoopWatch(trainer.url, server.url) as watch:
        yield Loop(tmp_path, topic, kafka.bootstrap, trainer, server, watch)


def sample(user: object, item: object, label: int = 1, **more: object) -> bytes:
    return json.dumps({"label": label, "sparse": {"user": user, "item": item}, **more}).encode()


def test_stock_clients_teach_and_curl_asks(loop: Loop) -> None:
    producer = KafkaProducer(bootstrap_servers=loop.bootstrap)
    producer.send(loop.topic, sample("from-kafka-python", "a"))
    producer.flush()
    producer.close()
    sent = 1
    if shutil.which("kcat"):
        command = ["kcat", "-b", loop.bootstrap, "-t", loop.topic, "-P"]
        subprocess.run(command, input=sample("from-kcat", "a") + b"\n", check=True, timeout=30)
        sent += 1
    from confluent_kafka import Producer

    confluent = Producer({"bootstrap.servers": loop.bootstrap})
    confluent.produce(loop.topic, sample("from-confluent", "a"))
    assert confluent.flush(30) == 0
    sent += 1
    loop.wait_served(sent)

    body = json.dumps({"instances": [{"sparse": {"user": "from-kafka-python", "item": "a"}}]})
    command = ["curl", "-s", f"{loop.server.url}/predict", "-H", "content-type: application/json", "-d", body]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    assert 0 < answer["probabilities"][0] < 1
    assert answer["model"]["sequence"] >= 1
    assert answer["model"]["age_ms"] >= 0


def test_killed_ten_times_every_sample_counts_exactly_once(loop: Loop) -> None:
    generator = np.random.default_rng(20_26)
    total = 30_000
    sent = 0
    for _ in range(10):
        part = [sample(f"u{n}", f"i{n % 50}", n % 2) for n in range(sent, sent + total // 10)]
        loop.produce(part)
        sent += len(part)
        time.sleep(float(generator.uniform(0.0, 0.9)))  # the moment of the kill, nothing waits for it
        loop.trainer.kill()
        loop.trainer.restart()
    loop.wait_trained(total)
    loop.wait_served(total)
    loop.trainer.terminate()

    counts = loop.counts_on_disk()
    users = np.array([counts.get(feature_id("user", f"u{n}"), 0.0) for n in range(total)])
    assert (users == 0).sum() == 0, "lost"
    assert (users > 1).sum() == 0, "trained twice"
    items = [counts[feature_id("item", f"i{n}")] for n in range(50)]
    assert items == [total / 50] * 50


POISON: list[tuple[bytes | None, str]] = [
    (b'{"label": 1, "sparse": {"user"', "not_json"),
    (b"\xff\xfe", "not_json"),
    (None, "null_message"),
    (sample({"a": 1}, "a"), "wrong_type"),
    (sample(1.5, "a"), "wrong_type"),
    (sample("u", "a", 2), "bad_label"),
    (b'{"sparse": {"user": 1}}', "bad_label"),
    (b'{"label": 1, "weight": NaN, "sparse": {"user": 1}}', "not_finite"),
    (b'{"label": 1, "weight": 1e999, "sparse": {"user": 1}}', "not_finite"),
    (b'{"label": 1, "sparse": {"stranger": 1}}', "unknown_slot"),
    (b'{"label": 1, "colour": "red", "sparse": {}}', "unknown_field"),
    (b'{"label": 1, "sparse": {"user": "' + b"x" * (1 << 20) + b'"}}', "too_large"),
]


def test_five_percent_poison_the_good_are_trained_the_bad_are_in_the_letters(loop: Loop) -> None:
    generator = np.random.default_rng(5)
    values: list[bytes | None] = []
    expected: list[tuple[bytes | None, str]] = []
    good = 0
    for n in range(2000):
        if generator.random() < 0.05:
            value, reason = POISON[n % len(POISON)]
            values.append(value)
            expected.append((value, reason))
        else:
            values.append(sample(f"g{n}", "a", n % 2))
            good += 1
    loop.produce(values)
    loop.wait_trained(good)
    loop.wait("letters", lambda: loop.watch.trainer()["dead_letters_total"] >= len(expected))
    loop.wait_served(good)
    loop.trainer.terminate()

    letters = read_all(loop.bootstrap, f"{loop.topic}.dlq", len(expected))
    found = [(record.value, dict(record.headers)["reason"].decode()) for record in letters]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    for record in letters:
        headers = dict(record.headers)
        number = int(headers["source-offset"]) * 4 + int(headers["source-partition"])
        assert headers["source-topic"].decode() == loop.topic
        assert values[number] == record.value
        assert headers["detail"]
    counts = loop.counts_on_disk()
    trained = [n for n, value in enumerate(values) if counts.get(feature_id("user", f"g{n}")) == 1.0]
    assert len(trained) == good


def read_all(bootstrap: str, topic: str, wanted: int) -> list:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())])
    found: list = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (len(found) < wanted or consumer.poll(timeout_ms=300)):
        for records in consumer.poll(timeout_ms=300).values():
            found += records
    consumer.close()
    return found
