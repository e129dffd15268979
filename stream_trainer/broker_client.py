"""What is asked of the brokers outside the consumer group: topics made, and how far each partition goes.

Knows no sink and no Faust. The watch runs on a thread and an event loop of its own with a client of its own, so that it
sees a consumer stand still that the rest of the process believes alive. Invariant: ends are only ever read, and an
unreachable broker is never taken for a stall.
"""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.structs import TopicPartition as ClientPartition

from stream_trainer.errors import TransportError
from stream_trainer.records import TopicPartition
from stream_trainer.stall_detector import Stall, StallDetector
from stream_trainer.stream_settings import StreamSettings

__all__ = ["PartitionWatch", "ensure_topics"]

_REQUEST_TIMEOUT_MS: Final = 5000
_RETRY_S: Final = 0.2
_LONGEST_LOOK_S: Final = 2.0

_log = logging.getLogger(__name__)


def client_options(settings: StreamSettings) -> dict[str, Any]:
    """Returns the arguments by which every client of aiokafka finds and greets the brokers."""
    return {
        "bootstrap_servers": settings.brokers,
        "request_timeout_ms": _REQUEST_TIMEOUT_MS,
        "security_protocol": settings.security_protocol,
        "ssl_context": ssl.create_default_context() if settings.security_protocol.endswith("SSL") else None,
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": settings.sasl_username or None,
        "sasl_plain_password": settings.sasl_password or None,
    }


async def ensure_topics(settings: StreamSettings) -> None:
    """Waits for the brokers, then creates the topic and its dead-letter topic where they are absent.

    Raises:
        TransportError: no broker in time, a topic is absent and may not be created, or a broker refuses to create it.
    """
    deadline = time.monotonic() + settings.connect_timeout_s
    admin = await _connected_admin(settings, deadline)
    try:
        wanted = (settings.topic, settings.dead_letter_topic)
        absent = [topic for topic in wanted if not await _exists(admin, topic)]
        if absent and not settings.create_topics:
            message = f"topics: {absent} do not exist on {settings.brokers}; expected them, as none may be created"
            raise TransportError(message)
        for topic in absent:
            await _create(admin, topic, settings)
        while not all([await _exists(admin, topic) for topic in wanted]):
            if time.monotonic() > deadline:
                message = f"topics: {wanted} have no leader after {settings.connect_timeout_s} s; expected one each"
                raise TransportError(message)
            await asyncio.sleep(_RETRY_S)
    except KafkaError as error:
        message = f"topics: {settings.topic} and {settings.dead_letter_topic} could not be checked: {error!r}"
        raise TransportError(message) from error
    finally:
        await admin.close()


async def _connected_admin(settings: StreamSettings, deadline: float) -> AIOKafkaAdminClient:
    told = False
    while True:
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            await admin.start()
        except KafkaError as error:
            await admin.close()
            if time.monotonic() > deadline:
                message = (
                    f"brokers: none of {settings.brokers!r} answered within {settings.connect_timeout_s} s ({error}); "
                    f"expected host:port of a running Kafka"
                )
                raise TransportError(message) from error
            if not told:
                _log.warning("waiting for the brokers %s: %s", settings.brokers, error)
                told = True
            await asyncio.sleep(_RETRY_S)
        else:
            return admin


async def _exists(admin: AIOKafkaAdminClient, topic: str) -> bool:
    (description,) = await admin.describe_topics([topic])
    if description["error_code"]:
        return False
    return all(partition["leader"] >= 0 for partition in description["partitions"])


async def _create(admin: AIOKafkaAdminClient, topic: str, settings: StreamSettings) -> None:
    # A dead letter carries the whole record and some headers more, so it may be larger than any record of the source.
    limits = {"max.message.bytes": str(settings.largest_letter_bytes)} if topic == settings.dead_letter_topic else {}
    new = NewTopic(topic, settings.partitions, settings.replication, topic_configs=limits)
    answer = await admin.create_topics([new])
    _, code, *reason = answer.topic_errors[0]
    if code not in (0, TopicAlreadyExistsError.errno):
        message = (
            f"topic: {topic!r} with {settings.partitions} partitions and {settings.replication} replicas was refused: "
            f"{for_code(code).__name__} {reason}; expected the brokers to create it"
        )
        raise TransportError(message)
    _log.info("created topic %s with %d partitions", topic, settings.partitions)


class PartitionWatch:
    """Looks every second or two how far the assigned partitions go and whether reading follows.

    Args:
        settings: where the brokers are, and the patience.
        positions: what the consumer will offer next; called on the watch's thread.
        on_stall: called on the watch's thread, once.
    """

    def __init__(
        self,
        settings: StreamSettings,
        positions: Callable[[], Mapping[TopicPartition, int]],
        on_stall: Callable[[Stall], None],
    ) -> None:
        self.ends: Mapping[TopicPartition, int] = {}
        self._settings = settings
        self._positions = positions
        self._on_stall = on_stall
        self._detector = StallDetector(settings.watchdog_s)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="partition-watch", daemon=True)

    def start(self) -> None:
        """Starts looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stops looking; returns at once."""
        self._stopped.set()

    def _run(self) -> None:
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        pause_s = min(_LONGEST_LOOK_S, self._settings.watchdog_s / 4)
        client: AIOKafkaConsumer | None = None
        while not self._stopped.is_set():
            positions = dict(self._positions())
            try:
                if client is None:
                    client = AIOKafkaConsumer(**client_options(self._settings))
                    await client.start()
                self.ends = await self._ends_of(client, positions)
            except (KafkaError, TimeoutError) as error:
                _log.warning("the ends of partitions are not known: %r", error)
                self._detector.observe(positions, {}, time.monotonic())
                if client is not None:
                    await client.stop()
                    client = None
            else:
                stall = self._detector.observe(positions, self.ends, time.monotonic())
                if stall is not None:
                    self._on_stall(stall)
                    break
            await self._pause(pause_s)
        if client is not None:
            await client.stop()

    async def _ends_of(
        self, client: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        if not positions:
            return {}
        async with asyncio.timeout(_REQUEST_TIMEOUT_MS / 1000):
            ends = await client.end_offsets([ClientPartition(*partition) for partition in positions])
        return {TopicPartition(client.topic, client.partition): end for client, end in ends.items()}

    async def _pause(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while time.monotonic() < until and not self._stopped.is_set():
            await asyncio.sleep(min(0.1, pause_s))
