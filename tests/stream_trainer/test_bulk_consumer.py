"""The private names of Faust and aiokafka that the bulk consumer stands on.

What it does with a real broker stands in `tests/integration`.
"""

import importlib.metadata
import inspect

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher as ClientFetcher
from faust import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import Fetcher, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport

from stream_trainer.bulk_consumer import BulkConsumer, BulkTransport


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
