"""One trainer process from the records' side: takes what the source offers, trains it, says how far it is durable.

Knows no Kafka client. Invariant: a record is trained once: reading begins at the offsets of the restored state, goes on
behind what was accepted since, and what is offered a second time is cut off here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from model_contract.sample_decoding import SampleDecoder
from stream_trainer.chunk_source import ChunkSource
from stream_trainer.delivery import Delivery
from stream_trainer.learner import Learner
from stream_trainer.model_state import Manifest, ModelState
from stream_trainer.record_queue import RecordQueue
from stream_trainer.records import PartitionProgress, RecordBatch, RecordSource, TopicPartition
from stream_trainer.settings import TrainerSettings
from stream_trainer.training_loop import TrainingLoop

__all__ = ["Trainer", "now_ms"]

logger = logging.getLogger(__name__)


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Trainer:
    """A `RecordSink` around one learner."""

    def __init__(
        self,
        settings: TrainerSettings,
        learner: Learner,
        decoder: SampleDecoder,
        delivery: Delivery,
        state: ModelState,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        """`state` is what `delivery.start` returned: durable, and the learner holds it."""
        self.learner = learner
        self.delivery = delivery
        delivery.on_durable = self._on_durable
        self.queue = RecordQueue(settings.queue_bytes)
        self._settings = settings
        self._decoder = decoder
        self._clock_ms = clock_ms
        self._source: RecordSource | None = None
        self._accepted = {TopicPartition(o.topic, o.partition): o.next_offset for o in state.manifest.offsets}
        self.loop: TrainingLoop | None = None
        self._manifest = state.manifest

    def started(self, source: RecordSource) -> None:
        """Begins to train; see `RecordSink.started`."""
        self._source = source
        chunks = ChunkSource(
            self.queue,
            self._decoder,
            self.learner,
            source.submit_dead_letters,
            chunk_rows=self._settings.chunk_rows,
            chunk_age_s=self._settings.chunk_age_ms / 1000,
            now_ms=self._clock_ms,
        )
        self.loop = TrainingLoop(
            self.learner,
            chunks.next_chunk,
            self.delivery,
            self._manifest,
            publish_interval_s=self._settings.publish_interval_s,
            now_ms=self._clock_ms,
            on_failure=source.fail,
        )
        self.loop.start()

    def fail(self, error: BaseException) -> None:
        """Ends training for good; what is on the disk stands. May be called from any thread."""
        if self._source is not None:
            self._source.fail(error)

    def progress(self) -> tuple[PartitionProgress, ...]:
        """How far each assigned partition was fetched."""
        return self._source.progress() if self._source else ()

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Behind the last record accepted or restored; see `RecordSink.start_offsets`."""
        return {partition: self._accepted[partition] for partition in partitions if partition in self._accepted}

    async def offer(self, batch: RecordBatch) -> None:
        """Queues what is new in the batch; see `RecordSink.offer`."""
        accepted = self._accepted.get(batch.source, 0)
        if batch.first_offset < accepted:
            logger.warning("%s: offered from %d again, accepted up to %d", batch.source, batch.first_offset, accepted)
            fresh = batch.behind(accepted)
            if fresh is None:
                return
            batch = fresh
        await self.queue.offer(batch)
        self._accepted[batch.source] = batch.next_offset

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """What was accepted of them is still trained here; see `RecordSink.revoked`."""

    async def drain(self) -> Mapping[TopicPartition, int]:
        """Trains what is queued and makes it durable; see `RecordSink.drain`."""
        self.queue.close()
        if self.loop is None:
            return {}
        await asyncio.to_thread(self.loop.stop)
        if self.loop.failure is not None:
            raise self.loop.failure
        return _durable_offsets(self.loop.manifest)

    def _on_durable(self, manifest: Manifest) -> None:
        """Tells the group how far the disk is; called by the delivery thread."""
        if self._source is not None:
            self._source.commit(_durable_offsets(manifest))


def _durable_offsets(manifest: Manifest) -> dict[TopicPartition, int]:
    return {TopicPartition(o.topic, o.partition): o.next_offset for o in manifest.offsets}
