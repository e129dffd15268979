"""The Faust application: Kafka on one side, a record sink on the other, and one process' life from start to stop.

Knows no model; starts no web server, touches no logging and no standard streams (Faust's own command line would do all
three, so it is not used). Invariants: a dead letter counts as sent when the brokers have acknowledged it; after a clean
stop everything that was offered is durable; a process that cannot go on ends with an exit code that says why.
"""

import asyncio
import gc
import io
import logging
import os
import signal
import ssl
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from faulthandler import dump_traceback
from typing import Any, Final, NoReturn, cast

import faust
from aiokafka import AIOKafkaProducer
from faust.transport.drivers.aiokafka import Producer

from stream_trainer.broker_client import PartitionWatch, ensure_topics
from stream_trainer.bulk_consumer import BulkConsumer, BulkTransport
from stream_trainer.dead_letters import DeadLetterSender
from stream_trainer.errors import PoisonLimitPassed, TransportError
from stream_trainer.records import DeadLetter, PartitionProgress, RecordSink, TopicPartition
from stream_trainer.stall_detector import Stall
from stream_trainer.stream_settings import StreamSettings

__all__ = ["EXIT_CLEAN", "EXIT_FAILED", "EXIT_POISONED", "EXIT_STALLED", "StreamApp", "create_app", "run_app"]

EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1
EXIT_POISONED: Final = 65  # EX_DATAERR: look at the topic first
EXIT_STALLED: Final = 75  # EX_TEMPFAIL: start it again

_STOP_TIMEOUT_S: Final = 20.0
_REQUEST_TIMEOUT_S: Final = 30.0
_COLLECTOR_THRESHOLDS: Final = (50_000, 20, 50)

_log = logging.getLogger(__name__)


class StreamApp(faust.App):
    """Faust's application with the bulk consumer, and without the folder it would make in the working directory."""

    @property
    def bulk_consumer(self) -> BulkConsumer:
        """The consumer that `BulkTransport` made."""
        return cast(BulkConsumer, self.consumer)

    def client_of_producer(self) -> AIOKafkaProducer:
        """Returns the client behind Faust's producer, whose own `send` rounds time stamps and wraps errors."""
        return cast(Producer, self.producer)._ensure_producer()

    async def on_first_start(self) -> None:
        """Makes no folder: there are no tables."""


def create_app(settings: StreamSettings, sink: RecordSink) -> StreamApp:
    """Makes the application, unstarted; to be called on a running event loop."""
    app = StreamApp(
        settings.group,
        broker=[f"kafka://{address.strip()}" for address in settings.brokers.split(",")],
        broker_credentials=_credentials(settings),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_bytes,
        consumer_metadata_max_age_ms=30_000,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 3,
        broker_request_timeout=max(_REQUEST_TIMEOUT_S, settings.session_timeout_s),
        producer_acks=-1,
        producer_max_request_size=settings.largest_letter_bytes,
        producer_request_timeout=_REQUEST_TIMEOUT_S,
    )
    app.transport = BulkTransport(app.conf.broker_consumer, app)
    app.bulk_consumer.attach(sink, earliest=settings.start == "earliest")

    @app.agent(app.topic(settings.topic), name="samples")
    async def subscribe(stream: Any) -> None:
        """Subscribes the topic; the records themselves never come this way."""
        async for _ in stream:
            pass

    return app


def _credentials(settings: StreamSettings) -> Any:
    context = ssl.create_default_context() if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username, password=settings.sasl_password, ssl_context=context, mechanism="PLAIN"
        )
    return faust.SSLCredentials(context=context) if context is not None else None


class AppSource:
    """The `RecordSource` of one application; see there."""

    def __init__(
        self, app: StreamApp, settings: StreamSettings, ending: "asyncio.Future[BaseException | None]"
    ) -> None:
        self._app = app
        self._letters = DeadLetterSender(app.client_of_producer, settings.dead_letter_topic)
        self._ending = ending
        self._loop = asyncio.get_running_loop()
        self._uncommitted: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None
        self.watch = PartitionWatch(settings, app.bulk_consumer.positions, _end_stalled)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """See `RecordSource.commit`; offsets that follow while a commit is under way go together in the next."""
        self._soon(self._note_commit, dict(offsets))

    async def send_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """See `RecordSource.send_dead_letters`."""
        await self._letters.send(letters)

    def submit_dead_letters(self, letters: Sequence[DeadLetter]) -> "Future[None]":
        """See `RecordSource.submit_dead_letters`."""
        return asyncio.run_coroutine_threadsafe(self.send_dead_letters(letters), self._loop)

    def progress(self) -> tuple[PartitionProgress, ...]:
        """See `RecordSource.progress`."""
        ends = self.watch.ends
        positions = sorted(self._app.bulk_consumer.positions().items())
        return tuple(PartitionProgress(p, at, max(ends.get(p, at), at)) for p, at in positions if at >= 0)

    def stop(self) -> None:
        """See `RecordSource.stop`."""
        self._soon(self._end, None)

    def fail(self, error: BaseException) -> None:
        """See `RecordSource.fail`."""
        self._soon(self._end, error)

    def _soon(self, function: Any, argument: Any) -> None:
        with suppress(RuntimeError):  # the event loop has ended: so has the process, in a moment
            self._loop.call_soon_threadsafe(function, argument)

    def _end(self, error: BaseException | None) -> None:
        if not self._ending.done():
            self._ending.set_result(error)

    def _note_commit(self, offsets: dict[TopicPartition, int]) -> None:
        self._uncommitted.update(offsets)
        if self._committing is None or self._committing.done():
            self._committing = self._loop.create_task(self._commit_noted())

    async def _commit_noted(self) -> None:
        while self._uncommitted:
            offsets, self._uncommitted = self._uncommitted, {}
            await self._app.bulk_consumer.commit_offsets(offsets)


def run_app(settings: StreamSettings, sink: RecordSink) -> int:
    """Runs the application until SIGTERM, SIGINT, `RecordSource.stop`, or a failure.

    In the main thread it takes both signals; a second one ends the process at once.

    Returns:
        `EXIT_CLEAN` after a clean stop: everything offered is durable and committed. `EXIT_FAILED` after a failure,
        which was logged, `EXIT_POISONED` where that was too much poison in the topic. A stalled consumer ends the
        process from within with `EXIT_STALLED`.
    """
    with _rare_collections():
        return asyncio.run(_run(settings, sink))


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Lets Python's cycle collector run rarely.

    The client library makes two small objects a record; at the usual thresholds the collector, which finds no cycle
    among them, takes a third of the time (measured: 192,000 records for a second of one core, 308,000 with these).
    """
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


async def _run(settings: StreamSettings, sink: RecordSink) -> int:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[BaseException | None] = loop.create_future()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _on_signal, number, ending)
    try:
        await _unless_ending(ensure_topics(settings), ending)
    except TransportError as error:
        _log.error("%s", error)
        return EXIT_FAILED
    if ending.done():
        return EXIT_CLEAN
    app = create_app(settings, sink)
    source = AppSource(app, settings, ending)
    failure = await _serve(app, source, sink, ending)
    source.watch.stop()
    if failure is None:
        failure = await _drain(app.bulk_consumer, sink, settings.drain_timeout_s)
    code = EXIT_CLEAN
    if isinstance(failure, PoisonLimitPassed):
        _log.error("the trainer stops: %s", failure)
        code = EXIT_POISONED
    elif failure is not None:
        _log.error("the trainer cannot go on: %s", failure, exc_info=failure)
        code = EXIT_FAILED
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await app.stop()
    except TimeoutError:
        _log.error("Faust did not stop within %s s", _STOP_TIMEOUT_S)
        _end_now(code)
    return code


async def _serve(
    app: StreamApp, source: AppSource, sink: RecordSink, ending: "asyncio.Future[BaseException | None]"
) -> BaseException | None:
    """Starts everything and waits for the end; returns the failure, if it is one."""
    try:
        sink.started(source)
        source.watch.start()
        await _unless_ending(app.start(), ending)
        await _unless_ending(app.wait_until_stopped(), ending)
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever the sink or Faust raises ends the process
        return error
    if ending.done():
        return ending.result()
    return app.crash_reason or TransportError("Faust stopped by itself; expected it to run until it is told to stop")


async def _unless_ending(work: Coroutine[Any, Any, None], ending: "asyncio.Future[BaseException | None]") -> None:
    """Awaits `work`, or leaves it where the end comes first."""
    task = asyncio.ensure_future(work)
    first: set[asyncio.Future[Any]] = {task, ending}
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    else:
        task.cancel()
        await asyncio.wait({task}, timeout=_STOP_TIMEOUT_S)


async def _drain(consumer: BulkConsumer, sink: RecordSink, timeout_s: float) -> BaseException | None:
    _log.info("stopping: training and writing what was read")
    await consumer.stop_reading()
    try:
        async with asyncio.timeout(timeout_s):
            offsets = await sink.drain()
    except TimeoutError:
        _log.error("the drain took more than %s s and is given up; the last checkpoint stands", timeout_s)
        _end_now(EXIT_FAILED)
    except Exception as error:  # noqa: BLE001 - the outermost place
        return error
    await consumer.commit_offsets(offsets)
    _log.info("stopped at %s", {f"{p.topic}/{p.partition}": at for p, at in sorted(offsets.items())})
    return None


def _on_signal(number: signal.Signals, ending: "asyncio.Future[BaseException | None]") -> None:
    if ending.done():
        _log.warning("%s again: ending at once", number.name)
        _end_now(128 + number)
    _log.info("%s: stopping", number.name)
    ending.set_result(None)


def _end_stalled(stall: Stall) -> NoReturn:
    """Ends the process from the watch's thread: whatever hangs may hang the event loop too."""
    _log.critical(
        "STALLED: %s/%d has stood still at offset %d for %.0f s while its end is at %d; the process ends with code %d",
        stall.partition.topic,
        stall.partition.partition,
        stall.position,
        stall.still_s,
        stall.end,
        EXIT_STALLED,
    )
    with suppress(AttributeError, io.UnsupportedOperation, OSError, RuntimeError, ValueError):  # no real stderr
        dump_traceback()
    _end_now(EXIT_STALLED)


def _end_now(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)
