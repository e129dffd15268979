"""The seam between Kafka and training: what crosses it, and what each side promises the other.

Knows neither Faust nor the model. One side is the *source* (`stream_trainer.app`), which reads partitions and hands
records over in whole lists; the other is the *sink* (the pipeline), which decodes, trains and makes durable.

Invariants. Of each partition the sink is offered every record once, in the order of offsets, beginning where it said.
An offset is final when the sink has made it durable together with all that was learnt before it; the group's
committed offsets are for lag displays and are never read back.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTENT_TYPE",
    "DeadLetter",
    "Headers",
    "PartitionProgress",
    "RecordBatch",
    "RecordSink",
    "RecordSource",
    "TopicPartition",
]

CONTENT_TYPE: Final = "content-type"

Headers = tuple[tuple[str, bytes | None], ...]


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class PartitionProgress(NamedTuple):
    """How far one partition was read.

    Attributes:
        partition: which one.
        position: offset of the next record the sink will be offered.
        end: offset behind the last record that the broker is known to hold; `end - position` records wait.
    """

    partition: TopicPartition
    position: int
    end: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be trained on, with the reason.

    Attributes:
        source: partition it was read from.
        offset: its offset there.
        reason: short code, such as `not_json`.
        detail: a sentence for a person.
        key, value, headers, timestamp_ms: the record as it was, byte for byte.
    """

    source: TopicPartition
    offset: int
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    def letter_headers(self) -> list[tuple[str, bytes | None]]:
        """Returns the headers of the dead letter: the record's own, unchanged, then ours."""
        return [
            *self.headers,
            ("reason", self.reason.encode()),
            ("detail", self.detail.encode(errors="replace")),
            ("source-topic", self.source.topic.encode()),
            ("source-partition", b"%d" % self.source.partition),
            ("source-offset", b"%d" % self.offset),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """R > 0 consecutive records of one partition, as they lie in Kafka, in columns.

    Offsets rise but may have gaps (compacted topics, transactions).

    Attributes:
        source: the partition.
        values: R values; None is a tombstone.
        keys: R keys.
        headers: R tuples of (name, value).
        content_types: R values of the header `content-type`, None where there is none.
        timestamps_ms: int64 (R,), Kafka's time stamps, milliseconds since the epoch; 0 where there is none.
        offsets: int64 (R,).
        size_bytes: of all values together.
    """

    source: TopicPartition
    values: list[bytes | None]
    keys: list[bytes | None]
    headers: list[Headers]
    content_types: list[str | None]
    timestamps_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    size_bytes: int

    def __len__(self) -> int:
        """R, the number of records."""
        return len(self.values)

    @property
    def topic(self) -> str:
        """The topic."""
        return self.source.topic

    @property
    def partition(self) -> int:
        """The number of the partition."""
        return self.source.partition

    @property
    def first_offset(self) -> int:
        """Offset of the first record."""
        return int(self.offsets[0])

    @property
    def next_offset(self) -> int:
        """Where reading goes on when this batch is done: what a checkpoint that covers it holds."""
        return int(self.offsets[-1]) + 1

    def behind(self, offset: int) -> "RecordBatch | None":
        """Returns the records from `offset` on, or None where there are none."""
        first = int(np.searchsorted(self.offsets, offset))
        if first == len(self):
            return None
        return RecordBatch(
            source=self.source,
            values=self.values[first:],
            keys=self.keys[first:],
            headers=self.headers[first:],
            content_types=self.content_types[first:],
            timestamps_ms=self.timestamps_ms[first:],
            offsets=self.offsets[first:],
            size_bytes=sum(map(len, filter(None, self.values[first:]))),
        )

    def dead_letter(self, index: int, reason: str, detail: str) -> DeadLetter:
        """Returns record `index` (0 <= index < R) as a dead letter."""
        return DeadLetter(
            source=self.source,
            offset=int(self.offsets[index]),
            reason=reason,
            detail=detail,
            key=self.keys[index],
            value=self.values[index],
            headers=self.headers[index],
            timestamp_ms=int(self.timestamps_ms[index]),
        )


class RecordSource(Protocol):
    """What the sink may ask of the source. Safe from any thread, unless a method says otherwise."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tells the group how far is durable, for lag displays. Returns at once; a failure is logged, nothing more."""

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Sends to the dead-letter topic; returns when the brokers have acknowledged all of them.

        To be awaited on the event loop of the sink's other coroutines. A checkpoint that covers a bad record must
        wait for this. While no broker answers it goes on trying; a letter may then arrive twice (its headers name the
        source offset). A value that the topic refuses as too large is left out, its size goes to a header.
        """

    def submit_dead_letters(self, letters: Sequence[DeadLetter]) -> "Future[None]":
        """`send_dead_letters` for other threads than the event loop's."""

    def progress(self) -> tuple[PartitionProgress, ...]:
        """Returns how far each assigned partition was read; `end` is at most a few seconds old."""

    def stop(self) -> None:
        """Asks for a clean stop, as SIGTERM does. Returns at once."""

    def fail(self, error: BaseException) -> None:
        """Reports that training cannot go on. No drain, no commit; the process ends with a failure. Returns at once."""


class RecordSink(Protocol):
    """What the source needs of training. All is called on one event loop, and nothing may block it.

    Order of calls: `started` once; then, for each assignment of partitions, `revoked` (if any were lost) and
    `start_offsets` (if any were gained); `offer` in between; `drain` at most once, at a clean stop, and nothing after.
    An exception from any of them ends the process with a failure, without a drain.
    """

    def started(self, source: RecordSource) -> None:
        """Hands over the other side, before anything else is called."""

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Says where to begin reading partitions that were just gained.

        A partition that is left out begins where the source's settings say (earliest or latest). Partitions that stay
        with this process over a rebalance are not asked for again: they go on behind the last batch that was offered.
        """

    async def offer(self, batch: RecordBatch) -> None:
        """Takes a batch; waits while there is no room (this is what stops the fetching).

        May be cancelled while it waits (a rebalance, a stop): then nothing of the batch may have been taken, and it is
        offered again later. Once it returns the batch is the sink's.
        """

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Says that these partitions belong to another process now; what was offered of them may still be trained."""

    async def drain(self) -> Mapping[TopicPartition, int]:
        """Trains what was offered, makes it durable, and returns the durable offsets, which are then committed."""
