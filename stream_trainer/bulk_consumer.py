"""Faust's Kafka consumer, changed to hand over whole lists of records at offsets that the sink decides.

Knows no model and no settings beyond Faust's own. Stock Faust makes two asyncio tasks a message and resumes from the
group's committed offsets, which can run past what was processed; here a fetch goes to the sink as it is, one batch a
partition, and reading begins where the sink's checkpoint ends.

Invariant: `positions()` says which offset of a partition the sink is offered next; a batch that was fetched before a
seek, a rebalance or a stop is thrown away and read again, never offered out of order.

Faust 0.15.3 calls `perform_seek` at each assignment, after both rebalance signals and before the flow resumes; it is
the one place where a seek lasts. These are private names of Faust: its version is pinned, and a test fails when one of
them moves.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from aiokafka.errors import IllegalStateError, KafkaError, KafkaTimeoutError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as ClientPartition
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers.aiokafka import Consumer, Transport

from stream_trainer.errors import TransportError
from stream_trainer.fetched_records import ContentTypes, batch_of, interleaved
from stream_trainer.records import RecordBatch, RecordSink, TopicPartition

__all__ = ["UNKNOWN_POSITION", "BulkConsumer", "BulkTransport"]

UNKNOWN_POSITION: Final = -1

_FETCH_WAIT_S: Final = 1.0
_COMMIT_TIMEOUT_S: Final = 10.0

_log = logging.getLogger(__name__)


class BulkConsumer(Consumer):
    """One process' share of the partitions, read in bulk.

    `attach` must be called before the app is started. All methods belong to the app's event loop.
    """

    _sink: RecordSink
    _earliest: bool

    def attach(self, sink: RecordSink, *, earliest: bool) -> None:
        """Sets whom records go to, and where partitions begin that the sink does not know."""
        self._sink = sink
        self._earliest = earliest
        self._next: dict[TopicPartition, int] = {}
        self._rewind: set[TopicPartition] = set()
        self._seeks = 0
        self._closing = False
        self._offering: asyncio.Task[None] | None = None
        self._delivery = asyncio.Lock()
        self._content_types = ContentTypes()

    def positions(self) -> dict[TopicPartition, int]:
        """Returns for each assigned partition the offset that comes next, `UNKNOWN_POSITION` before the first seek."""
        return {partition: self._next.get(partition, UNKNOWN_POSITION) for partition in self._assigned()}

    async def stop_reading(self) -> None:
        """Offers nothing more; returns when no offer is under way. For good."""
        self._closing = True
        self.stop_flow()
        async with self._delivery:
            pass

    async def commit_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commits to the group, for lag displays; a failure is logged and nothing depends on it."""
        mine = self._assigned()
        wanted = {ClientPartition(*p): OffsetAndMetadata(offset, "") for p, offset in offsets.items() if p in mine}
        if not wanted:
            return
        try:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await self._thread.call_thread(self._thread._ensure_consumer().commit, wanted)
        except (KafkaError, TimeoutError) as error:
            _log.warning("offsets %s were not committed, lag tools are behind: %r", dict(offsets), error)

    def stop_flow(self) -> None:
        """Faust's stop signal at a rebalance; an offer that still waits for room is taken back."""
        super().stop_flow()
        if self._offering is not None:
            self._offering.cancel()

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Faust looks for slow streams here; no message goes through a stream, and the watchdog looks for stalls."""

    async def perform_seek(self) -> None:
        """Moves every assigned partition to where the sink goes on.

        Raises:
            TransportError: a partition ends before the offset the sink has reached, or no broker answers.
        """
        self._seeks += 1
        if self._offering is not None:
            self._offering.cancel()
        async with self._delivery:
            assigned = self._assigned()
            lost = sorted(self._next.keys() - assigned)
            gained = sorted(assigned - self._next.keys())
            for partition in lost:
                del self._next[partition]
            if lost:
                _log.info("lost %s", lost)
                await self._sink.revoked(lost)
            try:
                async with asyncio.timeout(self.app.conf.broker_request_timeout * 0.8):
                    begin = await self._begin_of(gained) if gained else {}
                    goal = self._next | begin
                    await self.seek_wait({ClientPartition(*partition): at for partition, at in goal.items()})
            except (TimeoutError, KafkaTimeoutError) as error:
                message = f"brokers: no answer while seeking in {sorted(assigned)}; expected one in the request timeout"
                raise TransportError(message) from error
            self._next = goal
            self._rewind.clear()
            self._seeks += 1  # a fetch that began before the client was moved, but after this began, is stale too
            _log.info("reading on at %s", {f"{p.topic}/{p.partition}": at for p, at in sorted(self._next.items())})

    async def _begin_of(self, gained: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        wanted = await self._sink.start_offsets(gained)
        clients = [ClientPartition(*partition) for partition in gained]
        first = await self.earliest_offsets(*clients)
        end = await self.highwaters(*clients)
        begin: dict[TopicPartition, int] = {}
        for partition, client in zip(gained, clients, strict=True):
            at = wanted.get(partition)
            if at is None:
                at = first[client] if self._earliest else end[client]
            elif at > end[client]:
                message = (
                    f"{partition.topic}/{partition.partition}: ends at offset {end[client]}, the checkpoint at {at}; "
                    f"expected a topic that holds what was trained (made anew? then begin with an empty state folder)"
                )
                raise TransportError(message)
            elif at < first[client]:
                gone = first[client] - at
                _log.error("%s begins at %d: %d records were deleted before they were read", partition, at + gone, gone)
                at += gone
            begin[partition] = at
        return begin

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetch loop: runs until the consumer or its fetcher is stopped."""
        self._rewind.update(self._next)  # what a loop before this one had fetched and not delivered is read again
        while not (self.should_stop or fetcher.should_stop):
            seeks = self._seeks
            await self._rewind_dropped()
            try:
                records, _ = await self._wait_next_records(_FETCH_WAIT_S)
            except self.consumer_stopped_errors:
                if self.should_stop or self.app.should_stop:
                    return
                raise
            if not records:
                await asyncio.sleep(0)
                continue
            for partition, piece in interleaved(records):
                if not await self._deliver(partition, piece, seeks):
                    self._rewind.update(self._next)  # a piece that follows one not taken must not be offered
                    break

    async def _deliver(self, partition: TopicPartition, records: Sequence[Any], seeks: int) -> bool:
        """Offers one partition's records; False if they must be fetched again."""
        async with self._delivery:
            expected = self._next.get(partition)
            if self._closing or not self.flow_active or seeks != self._seeks or expected is None:
                return False
            if partition in self._rewind:  # what came before this was thrown away and is not fetched again yet
                return False
            batch = self._from(expected, batch_of(partition, records, self._content_types))
            if batch is None:
                return True
            offering = self._offering = asyncio.ensure_future(self._sink.offer(batch))
            try:
                await asyncio.wait({offering})
            except asyncio.CancelledError:
                offering.cancel()
                await asyncio.wait({offering})
                raise
            finally:
                self._offering = None
                taken = not offering.cancelled() and offering.exception() is None
                if taken:
                    self._next[partition] = batch.next_offset
            if offering.cancelled():
                return False
            offering.result()  # raises what the sink raised
            return True

    @staticmethod
    def _from(expected: int, batch: RecordBatch) -> RecordBatch | None:
        """Leaves out what the sink has; says so where records are missing."""
        if batch.first_offset < expected:
            return batch.behind(expected)
        gap = batch.first_offset - expected
        if gap > 1:  # the end of a transaction takes one offset
            _log.warning("%s: no records at %d offsets from %d on: compacted or deleted", batch.source, gap, expected)
        return batch

    async def _rewind_dropped(self) -> None:
        """Seeks back to what was fetched and thrown away; its offset has already moved on in the client library."""
        if not self._rewind or not self.flow_active:
            return
        seeks, assigned = self._seeks, self._assigned()
        back = {ClientPartition(*p): self._next[p] for p in self._rewind if p in assigned and p in self._next}
        self._rewind.clear()
        for client, offset in back.items():
            try:
                await self._thread.call_thread(self._seek_in_thread, client, offset)
            except IllegalStateError:
                _log.debug("%s was revoked meanwhile", client)
        if seeks != self._seeks:  # a `perform_seek` went between: these seeks were stale
            self._rewind.update(self._next)

    async def _seek_in_thread(self, client: ClientPartition, offset: int) -> None:
        self._thread._ensure_consumer().seek(client, offset)

    def _assigned(self) -> set[TopicPartition]:
        try:
            assigned: Iterable[Any] = self.assignment()
        except ConsumerNotStarted:
            return set()
        return {TopicPartition(tp.topic, tp.partition) for tp in assigned}


class BulkTransport(Transport):
    """Faust's Kafka transport with the bulk consumer."""

    Consumer: ClassVar[type[BulkConsumer]] = BulkConsumer
