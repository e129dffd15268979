"""Dead letters through a real producer: what is sent, and that no failure of Kafka's is taken for an answer.

Byte for byte comparisons through the whole process stand in `tests/integration/test_stream_faults.py`.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

import stream_trainer.dead_letters
from stream_trainer.dead_letters import DeadLetterSender
from stream_trainer.records import DeadLetter, TopicPartition

SOURCE = TopicPartition("samples", 0)


def letter(offset: int, value: bytes | None = b"v", key: bytes | None = None) -> DeadLetter:
    return DeadLetter(SOURCE, offset, "not_json", "no", key, value, (), 1000 + offset)


def read(bootstrap: str, topic: str) -> list[tuple[bytes | None, bytes | None, int]]:
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=1000)
    try:
        return sorted(((r.key, r.value, r.timestamp) for r in consumer), key=lambda found: found[2])
    finally:
        consumer.close()


class Refusing:
    """A real producer that refuses its first sends, as one does whose broker is away (a fault)."""

    def __init__(self, client: AIOKafkaProducer, refusals: list[Exception]) -> None:
        self._client = client
        self._refusals = refusals

    async def send(self, *arguments: Any, **more: Any) -> Awaitable[Any]:
        if self._refusals:
            raise self._refusals.pop()
        return await self._client.send(*arguments, **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def send(bootstrap: str, topic: str, letters: list[DeadLetter], refusals: list[Exception]) -> None:
    client = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await DeadLetterSender(lambda: Refusing(client, refusals), topic).send(letters)  # type: ignore[arg-type, return-value]
    finally:
        await client.stop()


def test_every_letter_is_sent_also_those_without_key_and_value(kafka: Any) -> None:
    topic = kafka.fresh_topic(partitions=2)
    hollow = range(1, 400, 2)  # more than one batch of the client's
    letters = [letter(n, None if n in hollow else b"%d" % n, b"k" if n == 8 else None) for n in range(400)]
    asyncio.run(send(kafka.bootstrap, topic, letters, []))
    assert read(kafka.bootstrap, topic) == [
        (b"k" if n == 8 else None, None if n in hollow else b"%d" % n, 1000 + n) for n in range(400)
    ]


def test_refused_letters_are_sent_again(kafka: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.dead_letters, "_RETRY_S", 0.01)
    topic = kafka.fresh_topic(partitions=1)
    refusals: list[Exception] = [KafkaTimeoutError(), TopicAuthorizationFailedError(), KafkaTimeoutError()]
    asyncio.run(send(kafka.bootstrap, topic, [letter(n) for n in range(5)], refusals))
    assert [stamp for _, _, stamp in read(kafka.bootstrap, topic)] == [1000, 1001, 1002, 1003, 1004]


def test_an_error_that_is_not_kafkas_is_raised(kafka: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(send(kafka.bootstrap, topic, [letter(0)], [ZeroDivisionError()]))
