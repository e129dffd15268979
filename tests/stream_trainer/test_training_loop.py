"""The heart beat with an in-memory source: what a cut says is what was learned, whatever comes in between."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from embedding_table.table import TableChanges
from stream_trainer.chunk_source import Chunk
from stream_trainer.errors import CheckpointError, TransportError
from stream_trainer.model_state import Manifest, ModelState
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.records import TopicPartition
from stream_trainer.training_loop import TrainingLoop

SOURCE = TopicPartition("samples", 0)
START = Manifest(lineage="a", epoch=1, sequence=0, fingerprint="f", created_ms=0)


def prepared(rows: int) -> PreparedBatch:
    return PreparedBatch(
        handles=np.zeros(rows, np.uint32),
        offsets=np.arange(rows + 1),
        dense=np.empty((rows, 0), np.float32),
        labels=np.zeros(rows, np.float32),
        weights=np.ones(rows, np.float32),
    )


class CountingLearner:
    """Stands where the learner stands; counts rows, and can ask for quiet."""

    def __init__(self, quiet_after: Sequence[int] = (), copies: int = 0) -> None:
        self.learned = 0
        self.copied_at: list[int] = []
        self.copies = copies
        self.tidied_at: list[int] = []
        self._quiet_after = list(quiet_after)

    def learn(self, batch: PreparedBatch, now_s: int) -> None:
        self.learned += batch.rows

    @property
    def needs_quiet(self) -> bool:
        return bool(self._quiet_after) and self.learned >= self._quiet_after[0]

    def tidy(self, now_s: int) -> None:
        if self.needs_quiet:
            self._quiet_after.pop(0)
            self.tidied_at.append(self.learned)

    def copy_ahead(self) -> bool:
        if len(self.copied_at) >= self.copies:
            return False
        self.copied_at.append(self.learned)
        return True

    def take_cut(self, manifest: Manifest) -> ModelState:
        manifest = msgspec.structs.replace(manifest, samples_trained=self.learned)
        return ModelState(manifest, TableChanges(blocks=(), erased_ids=np.empty(0, np.uint64)), {})


@dataclass
class CollectingDelivery:
    fails_at: int | None = None
    cuts: list[ModelState] = field(default_factory=list)
    closed: bool = False
    ready: bool = True

    def offer(self, cut: ModelState) -> None:
        if self.fails_at == len(self.cuts):
            message = "disk full"
            raise CheckpointError(message)
        self.cuts.append(cut)

    def raise_failure(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class Chunks:
    """A finite source: chunk i holds `rows[i]` samples and ends at the sum so far."""

    def __init__(self, rows: Sequence[int], letters: dict[int, Future] | None = None) -> None:
        self._rows = list(rows)
        self._next = 0
        self._offset = 0
        self._letters = letters or {}
        self.exhausted = threading.Event()

    def __call__(self) -> Chunk | None:
        if self._next == len(self._rows):
            self.exhausted.set()
            return None
        index, self._next = self._next, self._next + 1
        self._offset += self._rows[index]
        sent = self._letters.get(index)
        return Chunk(
            prepared=prepared(self._rows[index]),
            next_offsets={SOURCE: self._offset},
            sample_times={1000 + 10 * index: self._rows[index]},
            records=self._rows[index],
            dead_letters=1 if sent else 0,
            sent=sent,
        )


def run(
    learner: CountingLearner, chunks: Chunks, delivery: CollectingDelivery, interval_s: float = 0.0
) -> TrainingLoop:
    loop = TrainingLoop(
        learner, chunks, delivery, START, publish_interval_s=interval_s, now_ms=lambda: 5, on_failure=lambda _: None
    )
    loop.start()
    chunks.exhausted.wait(10)
    loop.stop()
    return loop


def test_every_cut_holds_exactly_the_samples_before_its_offsets() -> None:
    learner, delivery = CountingLearner(), CollectingDelivery()

    loop = run(learner, Chunks([3, 5, 7, 11, 13]), delivery)

    assert learner.learned == 39
    assert delivery.closed
    assert loop.failure is None
    for number, cut in enumerate(delivery.cuts, 1):
        manifest = cut.manifest
        assert manifest.sequence == number
        assert manifest.offsets[0].next_offset == manifest.samples_trained
    assert delivery.cuts[-1].manifest.samples_trained == 39
    assert sum(t.count for cut in delivery.cuts for t in cut.manifest.sample_times) == 39
    assert delivery.cuts[-1].manifest.newest_sample_ms == 1040


def test_a_last_cut_is_taken_at_the_stop_though_none_was_due() -> None:
    learner, delivery = CountingLearner(), CollectingDelivery()

    run(learner, Chunks([3, 5]), delivery, interval_s=3600)

    assert [cut.manifest.samples_trained for cut in delivery.cuts] == [8]


def test_a_large_cut_is_copied_in_slices_with_a_chunk_learned_between_them() -> None:
    learner, delivery = CountingLearner(copies=3), CollectingDelivery()

    loop = run(learner, Chunks([3, 5, 7, 11, 13]), delivery)

    assert learner.copied_at == sorted(set(learner.copied_at))
    assert len(learner.copied_at) == 3
    assert delivery.cuts[0].manifest.samples_trained >= learner.copied_at[-1]
    assert delivery.cuts[-1].manifest.samples_trained == 39
    assert 0 < loop.counts.longest_cut_s <= loop.counts.cut_s


def test_nothing_learned_means_no_cut() -> None:
    delivery = CollectingDelivery()

    run(CountingLearner(), Chunks([]), delivery)

    assert delivery.cuts == []
    assert delivery.closed


def test_it_is_tidied_with_no_chunk_prepared_ahead() -> None:
    learner = CountingLearner(quiet_after=[4, 12])

    run(learner, Chunks([4, 4, 4, 4]), CollectingDelivery(), interval_s=3600)

    assert learner.learned == 16
    assert learner.tidied_at == [8, 16]  # the chunk that was prepared already is learned first


def test_a_cut_waits_for_the_dead_letters_it_covers() -> None:
    slow: Future[None] = Future()
    learner, delivery = CountingLearner(), CollectingDelivery()
    chunks = Chunks([3, 5, 7], {0: slow})
    loop = TrainingLoop(
        learner, chunks, delivery, START, publish_interval_s=0.0, now_ms=lambda: 5, on_failure=lambda _: None
    )
    loop.start()
    chunks.exhausted.wait(10)
    assert delivery.cuts == []

    slow.set_result(None)
    loop.stop()

    assert delivery.cuts[-1].manifest.samples_trained == 15
    assert delivery.cuts[-1].manifest.dead_letters == 1


@pytest.mark.parametrize("broken", ["delivery", "dead letters", "source"])
def test_a_failure_ends_the_loop_and_is_reported_once(broken: str) -> None:
    reported: list[BaseException] = []
    failed: Future[None] = Future()
    failed.set_exception(TransportError("topic is gone"))
    delivery = CollectingDelivery(fails_at=0 if broken == "delivery" else None)
    chunks = Chunks([3, 5], {0: failed} if broken == "dead letters" else None)

    def source() -> Chunk | None:
        if broken == "source":
            message = "cannot decode"
            raise TransportError(message)
        return chunks()

    loop = TrainingLoop(
        CountingLearner(), source, delivery, START, publish_interval_s=0.0, now_ms=lambda: 5, on_failure=reported.append
    )
    loop.start()
    loop.stop()

    assert isinstance(loop.failure, CheckpointError | TransportError)
    assert reported == [loop.failure]
    assert delivery.cuts == []
