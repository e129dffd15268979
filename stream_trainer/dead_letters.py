"""Sends what cannot be trained on to the dead-letter topic, as it was, through the application's own producer.

Knows no sample format: reasons come with the letters. Invariant: `send` returns only when the brokers have acknowledged
every letter; until then it goes on trying, so a letter may arrive twice but is never lost.

Two ways lead through the client library, because its `send` refuses a record without key and without value, and a
tombstone of a topic without keys is just that: such records go out as batches built by hand.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from stream_trainer.records import DeadLetter

__all__ = ["DeadLetterSender"]

_RETRY_S: Final = 0.5
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)

_log = logging.getLogger(__name__)


class DeadLetterSender:
    """Belongs to one event loop.

    Args:
        producer: gives the application's producer, which is started before the first letter.
        topic: the dead-letter topic.
    """

    def __init__(self, producer: Callable[[], AIOKafkaProducer], topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def send(self, letters: Sequence[DeadLetter]) -> None:
        """Sends letters and waits for their acknowledgement; retries every error of Kafka's for as long as it takes."""
        waiting = list(letters)
        while waiting:
            unsent = await self._try(waiting)
            if unsent:
                await asyncio.sleep(_RETRY_S)
            waiting = unsent

    async def _try(self, letters: list[DeadLetter]) -> list[DeadLetter]:
        """Sends once; returns what was not acknowledged."""
        parts: list[list[DeadLetter]] = [[letter] for letter in letters if not _is_hollow(letter)]
        attempts: list[Coroutine[Any, Any, None]] = [self._send(part[0]) for part in parts]
        hollow = [letter for letter in letters if _is_hollow(letter)]
        if hollow:
            parts.append(hollow)
            attempts.append(self._send_hollow(hollow))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        unsent: list[DeadLetter] = []
        for part, result in zip(parts, results, strict=True):
            if isinstance(result, KafkaError):
                unsent += part
                _log.warning("%d dead letters were not acknowledged, trying again: %r", len(part), result)
            elif isinstance(result, BaseException):
                raise result
        return unsent

    async def _send(self, letter: DeadLetter) -> None:
        try:
            await self._send_value(letter.value, letter)
        except _TOO_LARGE:
            if letter.value is None:
                raise
            size = len(letter.value)
            _log.error(
                "%s %d: a value of %d bytes is too large for %s", letter.source, letter.offset, size, self._topic
            )
            await self._send_value(b"", letter, ("value-left-out-bytes", b"%d" % size))

    async def _send_value(self, value: bytes | None, letter: DeadLetter, *more: tuple[str, bytes]) -> None:
        acknowledged = await self._producer().send(
            self._topic,
            value,
            key=letter.key,
            timestamp_ms=letter.timestamp_ms,
            headers=[*letter.letter_headers(), *more],
        )
        await acknowledged

    async def _send_hollow(self, letters: Sequence[DeadLetter]) -> None:
        client = self._producer()
        partition = min(await client.partitions_for(self._topic))
        for batch in _batches(client, letters):
            acknowledged = await client.send_batch(batch, self._topic, partition=partition)
            await acknowledged


def _is_hollow(letter: DeadLetter) -> bool:
    return letter.key is None and letter.value is None


def _batches(client: AIOKafkaProducer, letters: Sequence[DeadLetter]) -> Iterator[Any]:
    """Packs letters without key and value into as few of the client's batches as they need."""
    batch = client.create_batch()
    for letter in letters:
        content = {"key": None, "value": None, "timestamp": letter.timestamp_ms, "headers": letter.letter_headers()}
        if batch.append(**content) is None:  # full
            yield batch
            batch = client.create_batch()
            batch.append(**content)
    yield batch
