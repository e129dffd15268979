"""Which fetches are offered and which are thrown away, and the private names of Faust that this stands on.

What the consumer does with a real broker stands in `tests/integration`; here the moments between a fetch and a seek,
which a broker brings about rarely, are set up by hand on a consumer that was never connected.
"""

import asyncio
import importlib.metadata
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher as ClientFetcher
from aiokafka.structs import ConsumerRecord
from faust import App
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.consumer import Fetcher, ThreadDelegateConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Producer, Transport

from stream_trainer.bulk_consumer import BulkConsumer, BulkTransport
from stream_trainer.errors import TransportError
from stream_trainer.records import RecordBatch, RecordSource, TopicPartition

HERE = TopicPartition("samples", 0)


class Sink:
    """Takes offers when it has room, and keeps their offsets."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.room.set()
        self.offered = asyncio.Event()
        self.taken: list[int] = []
        self.lost: list[TopicPartition] = []
        self.begin: dict[TopicPartition, int] = {}

    def started(self, source: RecordSource) -> None:
        """Not called here."""

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self.begin

    async def offer(self, batch: RecordBatch) -> None:
        self.offered.set()
        await self.room.wait()
        self.taken += batch.offsets.tolist()

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.lost += partitions

    async def drain(self) -> Mapping[TopicPartition, int]:
        return {}


class Unconnected(BulkConsumer):
    """The consumer without its thread and client."""

    def __init__(self, sink: Sink, first: int = 0, end: int = 100) -> None:
        self.can_resume_flow, self.suspend_flow = asyncio.Event(), asyncio.Event()
        self.flow_active = True
        self.app = type("App", (), {"conf": type("Conf", (), {"broker_request_timeout": 5.0})})()
        self.mine = {HERE}
        self.sought: list[dict[TopicPartition, int]] = []
        self._first, self._end = first, end
        self.attach(sink, earliest=True)

    def assignment(self) -> set[TopicPartition]:
        return self.mine

    async def earliest_offsets(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self._first)

    async def highwaters(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self._end)

    async def seek_wait(self, partitions: Mapping[TopicPartition, int]) -> None:
        self.sought.append(dict(partitions))

    async def deliver(self, first: int, last: int, seeks: int | None = None) -> bool:
        records = [ConsumerRecord("samples", 0, n, n, 0, None, b"v", None, -1, 1, ()) for n in range(first, last)]
        return await self._deliver(HERE, records, self._seeks if seeks is None else seeks)


def run(story: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


def test_offsets_follow_what_the_sink_took() -> None:
    async def story() -> None:
        sink = Sink()
        consumer = Unconnected(sink)
        assert not await consumer.deliver(0, 3), "before the first seek nothing is offered"
        await consumer.perform_seek()
        assert await consumer.deliver(0, 3)
        assert await consumer.deliver(0, 2), "what the sink has is left out"
        assert await consumer.deliver(1, 5)
        assert sink.taken == [0, 1, 2, 3, 4]
        assert consumer.positions() == {HERE: 5}

    run(story)


def test_a_fetch_from_before_a_seek_is_thrown_away() -> None:
    async def story() -> None:
        sink = Sink()
        consumer = Unconnected(sink)
        await consumer.perform_seek()
        before = consumer._seeks
        await consumer.perform_seek()
        assert not await consumer.deliver(0, 3, seeks=before)
        assert sink.taken == []

    run(story)


@pytest.mark.parametrize("stop", ["stop_flow", "stop_reading", "perform_seek"])
def test_an_offer_that_waits_for_room_is_taken_back(stop: str) -> None:
    async def story() -> None:
        sink = Sink()
        consumer = Unconnected(sink)
        await consumer.perform_seek()
        sink.room.clear()
        delivery = asyncio.create_task(consumer.deliver(0, 3))
        await sink.offered.wait()
        stopped = getattr(consumer, stop)()
        if stopped is not None:
            await stopped
        assert not await delivery
        sink.room.set()
        assert await consumer.deliver(0, 3) == (stop == "perform_seek"), "nothing is offered after a stop"
        assert consumer.positions() == {HERE: 3 if stop == "perform_seek" else 0}
        assert sink.taken == ([0, 1, 2] if stop == "perform_seek" else [])

    run(story)


def test_a_partition_that_stays_goes_on_and_one_that_was_away_asks_again() -> None:
    async def story() -> None:
        sink = Sink()
        consumer = Unconnected(sink)
        await consumer.perform_seek()
        assert await consumer.deliver(0, 10)
        sink.begin = {HERE: 4}
        await consumer.perform_seek()
        assert consumer.positions() == {HERE: 10}, "the sink is not asked for what stayed"
        consumer.mine = set()
        await consumer.perform_seek()
        assert sink.lost == [HERE]
        consumer.mine = {HERE}
        await consumer.perform_seek()
        assert consumer.positions() == {HERE: 4}
        assert consumer.sought == [{HERE: 0}, {HERE: 10}, {}, {HERE: 4}]

    run(story)


def test_what_the_topic_no_longer_has_is_skipped_and_what_it_never_had_is_an_error() -> None:
    async def story() -> None:
        sink = Sink()
        sink.begin = {HERE: 7}
        consumer = Unconnected(sink, first=20)
        await consumer.perform_seek()
        assert consumer.positions() == {HERE: 20}
        with pytest.raises(TransportError, match="samples/0: ends at offset 6, the checkpoint at 7"):
            await Unconnected(sink, end=6).perform_seek()

    run(story)


class Client:
    """Stands for the client library: a position, which fetching moves, and a log that never ends."""

    def __init__(self) -> None:
        self.position = 0

    def fetch(self, count: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        first, self.position = self.position, self.position + count
        return {
            HERE: [
                ConsumerRecord("samples", 0, n, n, 0, None, b"v", None, -1, 1, ()) for n in range(first, first + count)
            ]
        }


class Scripted(Unconnected):
    """Runs the fetch loop: each fetch is a coroutine that does what happens meanwhile and returns what came."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self.client = Client()
        self.fetches: list[Callable[[], Coroutine[None, None, dict[TopicPartition, list[ConsumerRecord]]]]] = []
        self._thread = self  # type: ignore[assignment]

    async def call_thread(self, function: object, partition: TopicPartition, offset: int) -> None:
        self.client.position = offset

    async def seek_wait(self, partitions: Mapping[TopicPartition, int]) -> None:
        self.client.position = partitions[HERE]

    async def _wait_next_records(self, timeout: float) -> tuple[dict[TopicPartition, list[ConsumerRecord]], None]:
        return await self.fetches.pop(0)(), None

    async def loop(self) -> None:
        fetcher = type("Fetcher", (), {"should_stop": property(lambda _: not self.fetches)})()
        await self._drain_messages(fetcher)

    should_stop = False


def test_what_was_fetched_between_the_seek_and_the_resumed_flow_is_fetched_again() -> None:
    """The fetch that was under way at a rebalance may end after the seek and before the flow resumes: it is thrown
    away, the client has moved on, and the next fetch must not be taken for what comes next."""

    async def story() -> None:
        sink = Sink()
        consumer = Scripted(sink)
        await consumer.perform_seek()

        async def rebalanced_meanwhile() -> dict[TopicPartition, list[ConsumerRecord]]:
            consumer.stop_flow()
            await consumer.perform_seek()
            return consumer.client.fetch(2)

        async def resumed_meanwhile() -> dict[TopicPartition, list[ConsumerRecord]]:
            consumer.flow_active = True
            return consumer.client.fetch(2)

        async def plain() -> dict[TopicPartition, list[ConsumerRecord]]:
            return consumer.client.fetch(2)

        consumer.fetches = [plain, rebalanced_meanwhile, resumed_meanwhile, plain, plain]
        await consumer.loop()
        assert sink.taken == [0, 1, 2, 3, 4, 5]

    run(story)


def test_a_fetch_that_began_while_a_seek_was_under_way_is_thrown_away() -> None:
    async def story() -> None:
        sink = Sink()
        consumer = Scripted(sink)
        await consumer.perform_seek()
        consumer.client.position = 2  # two records were fetched and thrown away

        async def plain() -> dict[TopicPartition, list[ConsumerRecord]]:
            return consumer.client.fetch(2)

        async def just_before_the_seek(partitions: Mapping[TopicPartition, int]) -> None:
            seeks, fetched = consumer._seeks, consumer.client.fetch(2)[HERE]
            late.append(asyncio.create_task(consumer._deliver(HERE, fetched, seeks)))
            await asyncio.sleep(0)
            consumer.client.position = partitions[HERE]

        late: list[asyncio.Task[bool]] = []
        consumer.seek_wait = just_before_the_seek  # type: ignore[method-assign]
        await consumer.perform_seek()
        assert not await late[0]
        consumer.fetches = [plain, plain]
        await consumer.loop()
        assert sink.taken == [0, 1, 2, 3]

    run(story)


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
