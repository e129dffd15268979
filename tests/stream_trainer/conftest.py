"""Trainers on a real state folder and a real Redis, with the Kafka side played by the test."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from model_contract.sample_decoding import SampleDecoder
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.publisher import Publisher
from stream_trainer.records import DeadLetter, PartitionProgress, TopicPartition
from stream_trainer.trainer import Trainer
from tests.stream_trainer.samples import SCHEMA, learner, settings


class Source:
    """The other side of the seam, remembering what it was told."""

    def __init__(self) -> None:
        self.committed: list[Mapping[TopicPartition, int]] = []
        self.failed: list[BaseException] = []

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.committed.append(offsets)

    def submit_dead_letters(self, letters: Sequence[DeadLetter]) -> "Future[None]":
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def progress(self) -> tuple[PartitionProgress, ...]:
        return (PartitionProgress(TopicPartition("samples", 0), 3, 10),)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)


@pytest.fixture
def make_trainer(tmp_path: Path, redis_server):
    name = redis_server.fresh_prefix("model")
    opened: list[tuple[CheckpointStore, Publisher]] = []

    def make() -> tuple[Trainer, Source]:
        for store, publisher in opened:
            store.close()
            publisher.close()
        opened.clear()
        model = learner(admission="always")
        store = CheckpointStore(tmp_path / "state", model.merge_admission)
        publisher = Publisher(redis_server.url, name, kept_bases=2, stream_increments=100)
        opened.append((store, publisher))
        stored = store.load()
        if stored:
            model.restore(stored.state)
        delivery = Delivery(
            store,
            publisher,
            model.step.layout,
            compact_ratio=10,
            compact_increments=50,
        )
        state = delivery.start(stored.state if stored else model.fresh_state(0))
        chosen = settings(tmp_path, chunk_age_ms=1, publish_interval_s=0.05)
        return Trainer(chosen, model, SampleDecoder(SCHEMA), delivery, state), Source()

    yield make
    for store, publisher in opened:
        store.close()
        publisher.close()
