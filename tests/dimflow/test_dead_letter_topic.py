"""Letters on a real broker: read back as they were written, sent again as the record was, marked once it is taken."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from dimflow.dead_letter_topic import DeadLetterTopic, Letter, Span
from dimflow.errors import DeadLetterError
from stream_trainer.records import DeadLetter, TopicPartition

OWN = (("content-type", b"text/odd"), ("reason", b"mine"), ("none", None))


def letter_of(number: int, topic: str, **changes: Any) -> DeadLetter:
    facts: dict[str, Any] = {
        "source": TopicPartition(topic, 1),
        "offset": 100 + number,
        "reason": "not_json" if number % 2 else "bad_label",
        "detail": f"number {number} ü",
        "key": b"\xff\x00" if number == 0 else None,
        "value": b"%d\x1b[31m" % number,
        "headers": OWN,
        "timestamp_ms": 1_700_000_000_000 + number,
    }
    return DeadLetter(**facts | changes)


@pytest.fixture
def topic(kafka: Any) -> str:
    name = f"samples-{uuid.uuid4().hex[:10]}"
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics([NewTopic(name, 2, 1), NewTopic(f"{name}.dlq", 2, 1)])
    admin.close()
    return name


@pytest.fixture
def write(kafka: Any, topic: str) -> Callable[..., None]:
    def send(letters: list[DeadLetter], partition: int = 0, more: tuple[tuple[str, bytes], ...] = ()) -> None:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
        for letter in letters:
            producer.produce(
                f"{topic}.dlq",
                letter.value,
                key=letter.key,
                headers=[*letter.letter_headers(), *more],
                partition=partition,
                timestamp=letter.timestamp_ms,
            )
        assert producer.flush(30) == 0

    return send


@pytest.fixture
def letters(kafka: Any, topic: str) -> Iterator[DeadLetterTopic]:
    with DeadLetterTopic(kafka.bootstrap, topic, connect_timeout_s=30) as opened:
        yield opened


def test_letters_are_read_as_they_were_written(topic: str, write: Any, letters: DeadLetterTopic) -> None:
    write([letter_of(number, topic) for number in range(5)])
    write([letter_of(9, topic, value=b"")], partition=1, more=(("value-left-out-bytes", b"77"),))
    assert letters.spans() == [Span(0, 0, 5), Span(1, 0, 1)]
    found = list(letters.letters(Span(0, 1, 4)))
    assert [letter.offset for letter in found] == [1, 2, 3]
    assert found[0] == Letter(
        partition=0,
        offset=1,
        timestamp_ms=1_700_000_000_001,
        reason="not_json",
        detail="number 1 ü",
        source_topic=topic,
        source_partition=1,
        source_offset=101,
        key=None,
        value=b"1\x1b[31m",
        headers=OWN,
        left_out_bytes=None,
    )
    (large,) = letters.letters(Span(1, 0, 1))
    assert (large.left_out_bytes, large.obstacle) == (77, "its value was left out")


def test_what_is_sent_again_is_the_record_as_it_was_and_is_marked(
    topic: str, write: Any, letters: DeadLetterTopic, records_of: Callable[[str], dict[int, list[Any]]]
) -> None:
    written = [letter_of(number, topic) for number in range(1200)]
    write(written)
    assert list(letters.replay({0: list(range(0, 1200, 2))})) == [500, 600]
    found = records_of(topic)
    assert found[0] == []
    assert [(record.key, record.value) for record in found[1]] == [(one.key, one.value) for one in written[::2]]
    for record, number in zip(found[1], range(0, 1200, 2), strict=True):
        own = ((name, value or b"") for name, value in OWN)
        assert tuple(record.headers) == (*own, ("replayed-from", f"{topic}.dlq/0/{number}".encode()))
    items = list(letters.letters_and_marks(letters.spans()[0]))
    marks = [item for item in items if not isinstance(item, Letter)]
    assert sorted(offset for mark in marks for offset in mark) == list(range(0, 1200, 2))
    assert len(items) == 1202, "marks are no letters"


def test_a_letter_of_a_partition_that_is_gone_goes_to_any(
    topic: str, write: Any, letters: DeadLetterTopic, records_of: Callable[[str], dict[int, list[Any]]]
) -> None:
    write([letter_of(1, topic, source=TopicPartition("elsewhere", 7))])
    assert list(letters.replay({0: [0]})) == [1]
    assert sum(map(len, records_of(topic).values())) == 1


def test_what_is_no_letter_is_passed_over(kafka: Any, topic: str, write: Any, letters: DeadLetterTopic) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for headers in ([], [("reason", b"x")], [("dimflow-replayed", b"1")], [("value-left-out-bytes", b"many")]):
        producer.send(f"{topic}.dlq", b"not json", headers=headers, partition=0)
    producer.flush()
    producer.close()
    write([letter_of(1, topic)])
    (found,) = letters.letters_and_marks(letters.spans()[0])
    assert isinstance(found, Letter)


def test_an_absent_topic_is_an_error(kafka: Any) -> None:
    with (
        DeadLetterTopic(kafka.bootstrap, kafka.fresh_name(), connect_timeout_s=30) as absent,
        pytest.raises(DeadLetterError, match="does not exist"),
    ):
        absent.spans()


def test_an_address_that_is_none_is_an_error() -> None:
    with pytest.raises(DeadLetterError, match="expected host:port"):
        DeadLetterTopic("nowhere", "samples", connect_timeout_s=0.5)
