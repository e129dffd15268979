"""The columns of a fetch, and the private names of Faust and aiokafka that the bulk consumer stands on.

What it does with a real broker stands in `tests/integration`.
"""

import importlib.metadata
import inspect
from typing import Any

import aiokafka
import numpy as np
import pytest
from aiokafka.consumer.fetcher import Fetcher as ClientFetcher
from aiokafka.structs import ConsumerRecord
from faust import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import Fetcher, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport

from stream_trainer.bulk_consumer import BulkConsumer, BulkTransport, ContentTypes, batch_of
from stream_trainer.records import TopicPartition

SOURCE = TopicPartition("samples", 1)


def record(offset: int, value: bytes | None = b"v", **more: Any) -> ConsumerRecord[bytes, bytes]:
    size = -1 if value is None else len(value)
    fields = {"key": None, "timestamp": 1_700_000_000_000 + offset, "headers": (), **more}
    key, timestamp, headers = fields["key"], fields["timestamp"], fields["headers"]
    return ConsumerRecord("samples", 1, offset, timestamp, 0, key, value, None, -1, size, headers)


def test_a_fetch_becomes_columns() -> None:
    typed = (("content-type", b"a/b"),)
    records = [
        record(7, b"abc", key=b"k"),
        record(8, None, headers=typed),
        record(11, b"", timestamp=-1),
    ]
    batch = batch_of(SOURCE, records, ContentTypes())
    assert batch.source == SOURCE
    assert batch.values == [b"abc", None, b""]
    assert batch.keys == [b"k", None, None]
    assert batch.headers == [(), typed, ()]
    assert batch.content_types == [None, "a/b", None]
    assert batch.timestamps_ms.tolist() == [1_700_000_000_007, 1_700_000_000_008, 0]
    assert batch.offsets.tolist() == [7, 8, 11]
    assert (batch.timestamps_ms.dtype, batch.offsets.dtype) == (np.int64, np.int64)
    assert batch.next_offset == 12


def test_without_headers_no_content_type_is_looked_up() -> None:
    assert batch_of(SOURCE, [record(0), record(1)], ContentTypes()).content_types == [None, None]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        ((("other", b"x"),), None),
        ((("content-type", b"a/b"),), "a/b"),
        ((("Content-Type", b"a/b"),), "a/b"),
        ((("content-type", b"first"), ("content-type", b"last")), "last"),
        ((("content-type", None),), None),
        ((("content-type", b"\xff"),), "\ufffd"),
    ],
)
def test_the_content_type_is_the_last_header_of_that_name(headers: Any, expected: str | None) -> None:
    types = ContentTypes()
    assert types[headers] == expected
    assert types[headers] == expected


def test_headers_that_never_repeat_do_not_fill_the_memory() -> None:
    types = ContentTypes()
    for number in range(5000):
        headers = (("trace", b"%d" % number), ("content-type", b"a/b"))
        assert types[headers] == "a/b"
    assert len(types) <= 1024


def test_the_pinned_versions_are_installed() -> None:
    """The private names below were read in these versions; another one needs another look."""
    assert importlib.metadata.version("faust-streaming") == "0.15.3"
    assert tuple(map(int, aiokafka.__version__.split(".")[:2])) >= (0, 13)


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (BaseConsumer, "perform_seek", ["self"]),
        (BaseConsumer, "stop_flow", ["self"]),
        (BaseConsumer, "resume_flow", ["self"]),
        (BaseConsumer, "_drain_messages", ["self", "fetcher"]),
        (BaseConsumer, "_wait_next_records", ["self", "timeout"]),
        (BaseConsumer, "verify_event_path", ["self", "now", "tp"]),
        (ThreadDelegateConsumer, "assignment", ["self"]),
        (ThreadDelegateConsumer, "earliest_offsets", ["self", "partitions"]),
        (ThreadDelegateConsumer, "highwaters", ["self", "partitions"]),
        (ThreadDelegateConsumer, "seek_wait", ["self", "partitions"]),
        (AIOKafkaConsumerThread, "_ensure_consumer", ["self"]),
        (AIOKafkaConsumerThread, "call_thread", ["self", "fun", "args", "kwargs"]),
        (AIOKafkaConsumerThread, "_fetch_records", ["self", "consumer", "active_partitions", "timeout", "max_records"]),
        (Producer, "_ensure_producer", ["self"]),
        (Fetcher, "_fetcher", None),
        (App, "on_first_start", ["self"]),
        (App, "wait_until_stopped", ["self"]),
        (App, "crash_reason", None),
        (Recovery, "_resume_streams", ["self", "generation_id"]),
        (ClientFetcher, "fetched_records", ["self", "partitions", "timeout", "max_records"]),
        (aiokafka.AIOKafkaProducer, "create_batch", ["self"]),
        (aiokafka.AIOKafkaProducer, "send_batch", ["self", "batch", "topic", "partition"]),
    ],
)
def test_the_private_names_are_where_they_were(owner: type, name: str, parameters: list[str] | None) -> None:
    member = inspect.getattr_static(owner, name)
    if parameters is not None:
        assert list(inspect.signature(member).parameters) == parameters


def test_faust_still_calls_what_is_overridden() -> None:
    """Each override is worth nothing if its caller is gone: the callers' sources must name them, in this order."""
    assert "consumer._drain_messages(self)" in inspect.getsource(inspect.getattr_static(Fetcher, "_fetcher").fun)
    resume = inspect.getsource(Recovery._resume_streams)
    order = [
        resume.index(f"{call}(") for call in ("consumer.perform_seek", "consumer.resume_flow", "_fetcher.maybe_start")
    ]
    assert order == sorted(order), "the seek must come before the flow resumes"
    assert "stop_flow" in inspect.getsource(App._on_partitions_revoked)
    assert "self.Consumer(" in inspect.getsource(Transport.create_consumer)
    assert {"self.flow_active", "self._get_active_partitions()", "self._getmany("} <= {
        name
        for name in ("self.flow_active", "self._get_active_partitions()", "self._getmany(")
        if name in inspect.getsource(BaseConsumer._wait_next_records)
    }


def test_the_transport_makes_the_bulk_consumer_and_shadows_no_name_of_fausts() -> None:
    assert BulkTransport.Consumer is BulkConsumer
    own = {name for name in vars(BulkConsumer) if not name.startswith("__")}
    meant = {"stop_flow", "verify_event_path", "perform_seek", "_drain_messages"}
    shadowed = {name for name in own if hasattr(Consumer, name)} - {"logger", "abstract", "_abc_impl"}
    assert shadowed == meant, "a new Faust brought a name that the bulk consumer uses for something else"
    attributes = (
        "_sink",
        "_earliest",
        "_next",
        "_rewind",
        "_seeks",
        "_closing",
        "_offering",
        "_delivery",
        "_content_types",
    )
    assert not [name for name in attributes if hasattr(Consumer, name)]
