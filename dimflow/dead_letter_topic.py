"""The dead-letter topic: reading letters and the marks of those that were sent again, and sending letters again.

Knows no terminal and no sample format. Together with `sample_producer` the only module here that imports a Kafka
client. Invariants: what is sent again is the record as it was, key and value byte for byte and its own headers (one
without a value gets an empty one, since this client knows no other), with one header more that names the letter; a
letter is marked, by a record of the same partition of the dead-letter topic, once the brokers have acknowledged what
was sent; so after a crash in between the next call sends at most one batch twice, and nothing is ever taken for sent
that was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from dimflow.errors import DeadLetterError, ProduceError
from dimflow.sample_producer import broker_addresses, open_client

__all__ = ["DeadLetterTopic", "Letter", "Span"]

_OURS: Final = ("reason", "detail", "source-topic", "source-partition", "source-offset")
_LEFT_OUT: Final = "value-left-out-bytes"
_MARK: Final = "dimflow-replayed"
_REPLAYED_FROM: Final = "replayed-from"
_POLL_MS: Final = 500
_SILENT_POLLS: Final = 60
_BATCH_LETTERS: Final = 500
_BATCH_BYTES: Final = 8 << 20
_LARGEST_BYTES: Final = 32 << 20
_ACKNOWLEDGED_S: Final = 60.0
_DISCONNECT_S: Final = 5.0

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Attributes:
        partition, offset: where it lies in the dead-letter topic.
        timestamp_ms: of the record it was.
        reason, detail: why it was not learned.
        source_topic, source_partition, source_offset: where it was read.
        key, value, headers: the record as it was.
        left_out_bytes: of a value that was too large for the dead-letter topic; None where the value is here.
    """

    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    left_out_bytes: int | None

    @property
    def obstacle(self) -> str:
        """Why it cannot be sent again, "" where it can."""
        if self.left_out_bytes is not None:
            return "its value was left out"
        return "it has neither key nor value" if self.key is None and self.value is None else ""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: from `begin` up to, not including, `end`."""

    partition: int
    begin: int
    end: int


class DeadLetterTopic:
    """Reads one topic's dead letters; sends some of them to that topic again. Use it in a `with` block.

    Args:
        brokers: `host:port`, comma-separated.
        topic: the topic of the samples; its letters lie in `<topic>.dlq`.
        connect_timeout_s: how long to wait for the brokers.
        client_options: further settings of kafka-python's clients.

    Raises:
        DeadLetterError: the brokers or the dead-letter topic could not be reached.
    """

    def __init__(
        self, brokers: str, topic: str, *, connect_timeout_s: float, client_options: Mapping[str, Any] | None = None
    ) -> None:
        self._topic = topic
        self._letters = f"{topic}.dlq"
        try:
            self._connection: dict[str, Any] = {
                "bootstrap_servers": broker_addresses(brokers),
                "bootstrap_timeout_ms": int(connect_timeout_s * 1000),
                **(client_options or {}),
            }
            self._consumer = open_client(
                KafkaConsumer, self._connection | {"enable_auto_commit": False, "metrics_enabled": False}
            )
        except (KafkaError, ProduceError, ValueError, OSError) as error:
            message = f"brokers {brokers}: not reached within {connect_timeout_s} s: {error!r}"
            raise DeadLetterError(message) from error

    def __enter__(self) -> Self:
        """The topic itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""
        self._consumer.close()

    def spans(self) -> list[Span]:
        """What each partition of the dead-letter topic holds now.

        Raises:
            DeadLetterError: there is no such topic, or no answer.
        """
        try:
            known = self._consumer.partitions_for_topic(self._letters)
            if not known:
                message = f"topic {self._letters!r} does not exist: nothing was ever refused, or the topic is another"
                raise DeadLetterError(message)
            partitions = [TopicPartition(self._letters, number) for number in sorted(known)]
            begins = self._consumer.beginning_offsets(partitions)
            ends = self._consumer.end_offsets(partitions)
        except KafkaError as error:
            message = f"topic {self._letters!r}: {error!r}"
            raise DeadLetterError(message) from error
        return [Span(at.partition, begins[at], ends[at]) for at in partitions]

    def letters(self, span: Span) -> Iterator[Letter]:
        """The letters of a span, in order.

        Raises:
            DeadLetterError: no answer.
        """
        return (letter for record in self._records(span) if (letter := _letter(record)) is not None)

    def letters_and_marks(self, span: Span) -> Iterator["Letter | Sequence[int]"]:
        """The letters of a span, and each mark as the offsets in the same partition that were sent again."""
        for record in self._records(span):
            letter = _letter(record)
            marked = _marked(record) if letter is None else ()
            if letter is not None:
                yield letter
            elif marked:
                yield marked

    def replay(self, chosen: Mapping[int, Sequence[int]]) -> Iterator[int]:
        """Sends letters to the topic again and marks them, batch by batch.

        Args:
            chosen: partition -> offsets of its letters, ascending.

        Yields:
            how many letters were sent and marked so far, after each batch.

        Raises:
            DeadLetterError: the brokers did not take all of them; what was marked before was sent.
        """
        done = 0
        with _Sender(self._connection, self._topic, self._letters) as sender:
            for partition, offsets in chosen.items():
                for batch in self._batches(partition, offsets):
                    try:
                        sender.send(batch)
                    except (KafkaError, ValueError) as error:
                        message = f"topic {self._topic!r}: {done} letters were sent again and marked, then: {error!r}"
                        raise DeadLetterError(message) from error
                    done += len(batch)
                    yield done

    def _batches(self, partition: int, offsets: Sequence[int]) -> Iterator[list[Letter]]:
        wanted = frozenset(offsets)
        batch: list[Letter] = []
        size = 0
        for letter in self.letters(Span(partition, min(offsets), max(offsets) + 1)):
            if letter.offset not in wanted:
                continue
            batch.append(letter)
            size += len(letter.value or b"")
            if len(batch) == _BATCH_LETTERS or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _records(self, span: Span) -> Iterator[Any]:
        partition = TopicPartition(self._letters, span.partition)
        if span.begin >= span.end:
            return
        silent = 0
        try:
            self._consumer.assign([partition])
            self._consumer.seek(partition, span.begin)
            while self._consumer.position(partition) < span.end:
                records = list(chain.from_iterable(self._consumer.poll(_POLL_MS).values()))
                silent = 0 if records else silent + 1
                if silent == _SILENT_POLLS:
                    message = f"topic {self._letters!r}, partition {span.partition}: no answer"
                    raise DeadLetterError(message)
                yield from (record for record in records if record.offset < span.end)
        except KafkaError as error:
            message = f"topic {self._letters!r}, partition {span.partition}: {error!r}"
            raise DeadLetterError(message) from error


class _Sender:
    """A producer for letters and marks."""

    def __init__(self, connection: Mapping[str, Any], topic: str, letters: str) -> None:
        self._topic = topic
        self._letters = letters
        settings = {"acks": "all", "max_request_size": _LARGEST_BYTES, "metrics_enabled": False}
        self._client = open_client(KafkaProducer, {**connection, **settings})
        self._partitions = self._client.partitions_for(topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close(timeout=_DISCONNECT_S)

    def send(self, batch: Sequence[Letter]) -> None:
        """Sends letters of one partition, waits for the brokers, then marks them."""
        sent = [self._send(letter) for letter in batch]
        for future in sent:
            future.get(timeout=_ACKNOWLEDGED_S)
        mark = msgspec.json.encode([letter.offset for letter in batch])
        headers = [(_MARK, b"1")]
        self._client.send(self._letters, mark, headers=headers, partition=batch[0].partition).get(
            timeout=_ACKNOWLEDGED_S
        )

    def _send(self, letter: Letter) -> Any:
        source = letter.source_partition if letter.source_partition in self._partitions else None
        name = f"{self._letters}/{letter.partition}/{letter.offset}".encode()
        own = [(name, value or b"") for name, value in letter.headers if name != _REPLAYED_FROM]
        headers = [*own, (_REPLAYED_FROM, name)]
        return self._client.send(self._topic, letter.value, key=letter.key, headers=headers, partition=source)


def _letter(record: Any) -> Letter | None:
    """The record as a letter, None where the trainer's headers are not at the end of its own."""
    headers = list(record.headers)
    left_out = headers.pop()[1] if headers and headers[-1][0] == _LEFT_OUT else None
    ours = headers[-len(_OURS) :]
    if tuple(name for name, _ in ours) != _OURS:
        return None
    reason, detail, topic, partition, offset = ((value or b"").decode(errors="replace") for _, value in ours)
    try:
        return Letter(
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp,
            reason=reason,
            detail=detail,
            source_topic=topic,
            source_partition=int(partition),
            source_offset=int(offset),
            key=record.key,
            value=record.value,
            headers=tuple(headers[: -len(_OURS)]),
            left_out_bytes=None if left_out is None else int(left_out),
        )
    except ValueError:
        return None


def _marked(record: Any) -> Sequence[int]:
    """Offsets that a mark names, none where the record is no mark."""
    if _MARK not in dict(record.headers):
        return ()
    try:
        return msgspec.json.decode(record.value or b"[]", type=list[int])
    except msgspec.DecodeError:
        return ()
