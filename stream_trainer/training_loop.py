"""The heart beat of the trainer: prepare the next chunk while this one is learned; cut, publish and evict in between.

Knows no Kafka, Redis or file: chunks come from a source, cuts go to the delivery. Invariant: a cut is taken only when
every prepared chunk has been learned and every dead letter before it is safe, so that its offsets say exactly what is
in the model. Runs in a thread of its own with one helper thread; the event loop is never blocked.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec

from model_contract.errors import DimflowError
from stream_trainer.chunk_source import Chunk
from stream_trainer.errors import TransportError
from stream_trainer.learner import Learner
from stream_trainer.model_state import Manifest, ModelState, SampleTimes, TopicOffset
from stream_trainer.records import TopicPartition

__all__ = ["CutSink", "LoopCounts", "TrainingLoop"]

logger = logging.getLogger(__name__)

_DEAD_LETTER_WAIT_S = 30.0


class CutSink(Protocol):
    """Where cuts go: `stream_trainer.delivery.Delivery`."""

    @property
    def ready(self) -> bool:
        """Whether `offer` would return at once."""

    def offer(self, cut: ModelState) -> None:
        """Takes a cut; raises what broke earlier ones."""

    def raise_failure(self) -> None:
        """Raises what broke earlier cuts, if anything did."""

    def close(self) -> None:
        """Returns when all cuts are delivered."""


class LoopCounts:
    """What the loop did since its start; read by the metrics page."""

    def __init__(self) -> None:
        self.records = 0
        self.samples = 0
        self.dead_letters = 0
        self.learn_s = 0.0
        self.wait_s = 0.0
        self.cut_s = 0.0
        self.longest_cut_s = 0.0
        self.first_s = 0.0
        self.last_s = 0.0

    @property
    def streaming_s(self) -> float:
        """Seconds between the first and the last batch learned."""
        return self.last_s - self.first_s


class TrainingLoop:
    """Drives one learner. `start` once, `stop` once; `failure` says why it ended by itself, if it did."""

    def __init__(
        self,
        learner: Learner,
        next_chunk: Callable[[], Chunk | None],
        delivery: CutSink,
        manifest: Manifest,
        *,
        publish_interval_s: float,
        now_ms: Callable[[], int],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.counts = LoopCounts()
        self.failure: BaseException | None = None
        self._learner = learner
        self._next_chunk = next_chunk
        self._delivery = delivery
        self._manifest = manifest
        self._offsets = {TopicPartition(o.topic, o.partition): o.next_offset for o in manifest.offsets}
        self._publish_interval_s = publish_interval_s
        self._now_ms = now_ms
        self._on_failure = on_failure
        self._stopping = threading.Event()
        self._sample_times: Counter[int] = Counter()
        self._unsafe: list[Future[None]] = []
        self._dead_letters = manifest.dead_letters
        self._newest_sample_ms = manifest.newest_sample_ms
        self._changed = False
        self._thread = threading.Thread(target=self._guarded_run, name="training", daemon=True)

    @property
    def offsets(self) -> Mapping[TopicPartition, int]:
        """Per partition the first offset that is not learned yet."""
        return self._offsets

    @property
    def manifest(self) -> Manifest:
        """Of the last cut taken."""
        return self._manifest

    def start(self) -> None:
        """Begins to train."""
        self._thread.start()

    def stop(self) -> None:
        """Learns what its source still holds, takes a last cut, delivers it and returns; call it off the event loop."""
        self._stopping.set()
        self._thread.join()

    def _guarded_run(self) -> None:
        try:
            with ThreadPoolExecutor(1, "preparing") as preparing:
                self._run(preparing)
            self._delivery.close()
        except (DimflowError, OSError, MemoryError) as error:
            logger.error("training stopped: %s", error)
            self.failure = error
        except BaseException as error:
            logger.exception("training stopped on a defect")
            self.failure = error
            raise
        finally:
            if self.failure is not None:
                self._on_failure(self.failure)

    def _run(self, preparing: ThreadPoolExecutor) -> None:
        prepared: Chunk | None = None
        last_cut_s = time.monotonic()
        while True:
            stopping = self._stopping.is_set()
            upcoming = preparing.submit(self._next_chunk)
            self._learn(prepared)
            copying = not stopping and self._due(last_cut_s) and self._copy_ahead()  # while a chunk is prepared
            waited = time.perf_counter()
            prepared = upcoming.result()
            self.counts.wait_s += time.perf_counter() - waited
            ended = stopping and prepared is None
            due = not copying and self._due(last_cut_s)
            if not (due or ended or self._learner.needs_quiet):
                self._delivery.raise_failure()
                continue
            self._learn(prepared)
            prepared = None
            self._learner.tidy(self._now_ms() // 1000)
            if self._changed and (due or ended) and self._letters_safe(wait=ended):
                last_cut_s = time.monotonic()
                self._cut()
            if ended:
                return

    def _due(self, last_cut_s: float) -> bool:
        return time.monotonic() - last_cut_s >= self._publish_interval_s and self._changed and self._delivery.ready

    def _copy_ahead(self) -> bool:
        """Copies a slice of what the cut will hold; answers whether more of it should be before the cut."""
        begin = time.perf_counter()
        more = self._learner.copy_ahead()
        self._stood_still(begin)
        return more

    def _stood_still(self, begin: float) -> None:
        pause_s = time.perf_counter() - begin
        self.counts.cut_s += pause_s
        self.counts.longest_cut_s = max(self.counts.longest_cut_s, pause_s)

    def _learn(self, chunk: Chunk | None) -> None:
        if chunk is None:
            return
        begin = time.perf_counter()
        self._learner.learn(chunk.prepared, self._now_ms() // 1000)
        self.counts.last_s = time.perf_counter()
        self.counts.first_s = self.counts.first_s or begin
        self.counts.learn_s += self.counts.last_s - begin
        self._offsets = {**self._offsets, **chunk.next_offsets}
        self._sample_times.update(chunk.sample_times)
        if chunk.sample_times:
            self._newest_sample_ms = max(self._newest_sample_ms, *chunk.sample_times)
        if chunk.sent is not None:
            self._unsafe.append(chunk.sent)
        self._dead_letters += chunk.dead_letters
        self.counts.records += chunk.records
        self.counts.samples += chunk.prepared.rows
        self.counts.dead_letters += chunk.dead_letters
        self._changed = True

    def _letters_safe(self, *, wait: bool) -> bool:
        """Whether the broker has every dead letter so far; raises where one could not be written."""
        for sent in self._unsafe:
            if not sent.done() and not wait:
                return False
            try:
                sent.result(_DEAD_LETTER_WAIT_S)
            except TimeoutError:
                message = f"dead letters: no answer from the broker in {_DEAD_LETTER_WAIT_S} s"
                raise TransportError(message) from None
        self._unsafe.clear()
        return True

    def _cut(self) -> None:
        begin = time.perf_counter()
        offsets = tuple(TopicOffset(topic, partition, n) for (topic, partition), n in sorted(self._offsets.items()))
        self._manifest = msgspec.structs.replace(
            self._manifest,
            sequence=self._manifest.sequence + 1,
            created_ms=self._now_ms(),
            newest_sample_ms=self._newest_sample_ms,
            dead_letters=self._dead_letters,
            offsets=offsets,
            sample_times=tuple(SampleTimes(*pair) for pair in sorted(self._sample_times.items())),
        )
        cut = self._learner.take_cut(self._manifest)
        self._manifest = cut.manifest
        self._sample_times.clear()
        self._changed = False
        self._stood_still(begin)
        self._delivery.offer(cut)
