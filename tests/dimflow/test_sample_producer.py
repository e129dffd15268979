"""The producer against a real broker: everything arrives once, or the error says what did not."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from dimflow.errors import ProduceError
from dimflow.local_servers import LocalKafka
from dimflow.sample_encoding import ArrowEncoder
from dimflow.sample_producer import SampleProducer
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.sample_decoding import SampleDecoder

SCHEMA = DriftingTeacher().schema
ReadTopic = Callable[[str], dict[int, list[Any]]]


def teacher_batches(rows: int, batch_rows: int = 1_000) -> Iterator[pa.RecordBatch]:
    return (batch.samples for batch in DriftingTeacher(seed=3).batches(rows, batch_rows))


def content_type_of(record: Any) -> str:
    return dict(record.headers)["content-type"].decode()


@pytest.mark.parametrize("form", ["arrow", "json"])
def test_every_sample_arrives_once(kafka: Any, records_of: ReadTopic, form: Literal["arrow", "json"]) -> None:
    topic = kafka.fresh_topic(partitions=3)
    before_ms = time.time() * 1000
    with SampleProducer(kafka.bootstrap, topic, SCHEMA, form=form, rows_per_message=300) as producer:
        for batch in teacher_batches(4_000):
            producer.send(batch)
        assert producer.progress.sent == 4_000
        producer.flush()
        progress = producer.progress
    records = records_of(topic)
    flat = [record for partition in records.values() for record in partition]
    assert progress.acknowledged == 4_000
    assert progress.messages == len(flat) == (16 if form == "arrow" else 4_000)
    assert progress.sent_bytes == sum(len(record.value) for record in flat)
    assert all(record.timestamp >= before_ms - 1_000 for record in flat)

    decoded = SampleDecoder(SCHEMA).decode([r.value for r in flat], [content_type_of(r) for r in flat])
    assert decoded.rejects == ()
    whole = pa.Table.from_batches(list(teacher_batches(4_000))).combine_chunks().to_batches()[0]
    expected = SampleDecoder(SCHEMA).decode(
        ArrowEncoder(SCHEMA, 4_000).encode(whole).values, ["application/vnd.apache.arrow.stream"]
    )
    order = np.argsort(decoded.batch.ts_ms, kind="stable")
    assert np.array_equal(decoded.batch.ts_ms[order], expected.batch.ts_ms)
    slots = len(SCHEMA.sparse)
    assert np.array_equal(decoded.batch.ids.reshape(-1, slots)[order], expected.batch.ids.reshape(-1, slots))
    assert np.array_equal(decoded.batch.labels[order], expected.batch.labels)
    assert np.array_equal(decoded.batch.dense[order], expected.batch.dense)


def test_partitions_take_turns_and_keep_the_order(kafka: Any, records_of: ReadTopic) -> None:
    topic = kafka.fresh_topic(partitions=3)
    with SampleProducer(kafka.bootstrap, topic, SCHEMA, form="json") as producer:
        for batch in teacher_batches(6_000):
            producer.send(batch)
    records = records_of(topic)
    sizes = [len(partition) for partition in records.values()]
    assert max(sizes) - min(sizes) <= 512
    for partition in records.values():
        times = SampleDecoder(SCHEMA).decode([r.value for r in partition], [None] * len(partition)).batch.ts_ms
        assert (np.diff(times) > 0).all()
        assert (np.diff(times)[:511] == 1).all(), "in runs, so that the client fills its batches"


def test_waits_for_acknowledgements_when_much_is_under_way(kafka: Any) -> None:
    topic = kafka.fresh_topic(partitions=2)
    limit = 20_000
    with SampleProducer(kafka.bootstrap, topic, SCHEMA, form="json", max_in_flight_bytes=limit) as producer:
        under_way = []
        for batch in teacher_batches(3_000, 50):
            producer.send(batch)
            under_way.append(producer._in_flight_bytes)
        assert producer.progress.sent - producer.progress.acknowledged < 3_000
    assert max(under_way) <= limit + 1_000
    assert max(under_way) > limit // 4
    assert producer.progress.acknowledged == 3_000


def test_ctrl_c_in_the_block_leaves_what_was_sent_in_the_topic(kafka: Any, records_of: ReadTopic) -> None:
    topic = kafka.fresh_topic(partitions=1)
    with pytest.raises(KeyboardInterrupt), SampleProducer(kafka.bootstrap, topic, SCHEMA) as producer:
        for batch in teacher_batches(2_000):
            producer.send(batch)
        raise KeyboardInterrupt
    assert producer.progress.acknowledged == 2_000
    assert len(records_of(topic)[0]) == 2
    producer.close()  # the second time is nothing


def test_messages_that_the_broker_refuses_are_counted(kafka: Any) -> None:
    from kafka.admin import KafkaAdminClient, NewTopic

    topic = kafka.fresh_name()
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    configs = {"max.message.bytes": "3000"}
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1, topic_configs=configs)])
    admin.close()
    small, large = DriftingTeacher().batches(500, 250)
    with (
        pytest.raises(ProduceError, match="250 of 260 samples sent are not acknowledged: .*TooLarge"),
        SampleProducer(kafka.bootstrap, topic, SCHEMA) as producer,
    ):
        producer.send(small.samples.slice(0, 10))
        producer.flush()
        producer.send(large.samples)
        producer.flush()
    assert producer.progress.acknowledged == 10


@pytest.mark.parametrize("brokers", ["nonsense:port", "127.0.0.1", ":9092", "a:1,b:70000", ""])
def test_an_address_that_is_none(brokers: str) -> None:
    with pytest.raises(ProduceError, match="expected host:port"):
        SampleProducer(brokers, "none", SCHEMA)


def test_creates_the_topic_where_it_is_absent(kafka: Any, records_of: ReadTopic) -> None:
    topic = kafka.fresh_name()
    with pytest.raises(ProduceError, match=f"topic '{topic}': not reached within 0.5 s"):
        SampleProducer(kafka.bootstrap, topic, SCHEMA, connect_timeout_s=0.5)
    for partitions in (3, 5):
        with SampleProducer(kafka.bootstrap, topic, SCHEMA, create_partitions=partitions) as producer:
            producer.send(next(teacher_batches(10)))
    assert [len(records) for records in records_of(topic).values()] == [2, 0, 0]


def test_a_broker_that_falls_silent_is_an_error_in_time() -> None:
    with LocalKafka() as broker:
        producer = SampleProducer(broker.bootstrap, "samples", SCHEMA, create_partitions=1, delivery_timeout_s=2.0)
        with pytest.raises(ProduceError, match=r"1000 of 2000 samples sent are not acknowledged"), producer:
            first, second = teacher_batches(2_000)
            producer.send(first)
            producer.flush()
            broker.freeze()
            producer.send(second)
            producer.flush()
        broker.thaw()
    assert producer.progress.acknowledged == 1_000
    assert not [thread for thread in threading.enumerate() if "kafka" in thread.name.lower()]
