"""The serving process: puts its parts together, runs until it is told to stop, and stops cleanly.

Knows no environment and no command line. Invariant: `serve` returns only after the listening socket is closed,
requests in work are answered or their time is up, and the subscriber's thread has ended.
"""

import contextlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from threadpoolctl import threadpool_limits

from model_contract.errors import SchemaError
from model_contract.increment import IncrementLimits
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.process_settings import SettingError, describe_settings
from model_contract.redis_keys import RedisKeys
from model_contract.schema import ModelSchema
from serving.app import ServingApp, create_app
from serving.feed_log import FeedLog
from serving.freshness import FreshnessMeter
from serving.http_protocol import ConnectionLimits, bounded_protocol
from serving.intake import Intake
from serving.metrics import ServingMetrics
from serving.model_report import ModelReporter
from serving.prediction_description import example_instance
from serving.prediction_endpoint import PredictionEndpoint
from serving.replica import Replica
from serving.settings import PREFIX, ServingSettings
from serving.subscriber import Subscriber
from serving.version_pins import VersionPins

__all__ = ["HttpServer", "ServingParts", "assemble", "listen", "serve"]

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def now_ms() -> int:
    """Milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class ServingParts:
    """What a server is made of."""

    schema: ModelSchema
    replica: Replica
    feed_log: FeedLog
    intake: Intake
    subscriber: Subscriber
    endpoint: PredictionEndpoint
    app: ServingApp
    pins: VersionPins


def assemble(settings: ServingSettings, clock_ms: Callable[[], int] = now_ms) -> ServingParts:
    """Makes all parts; starts nothing.

    Raises:
        SettingError: the model file cannot be read, or the Redis URL cannot be used.
        SchemaError: the model file is wrong.
    """
    schema = _read_schema(settings)
    replica = Replica(schema, settings.memory_bytes)
    feed_log = FeedLog()
    freshness = FreshnessMeter()
    intake = Intake(
        schema,
        replica,
        feed_log,
        freshness,
        increment_limits=IncrementLimits(max_bytes=settings.max_increment_bytes, max_dim=schema.dim),
        base_limits=IncrementLimits(max_bytes=settings.max_base_bytes, max_dim=schema.dim),
        now_ms=clock_ms,
    )
    subscriber = Subscriber(settings, RedisKeys(schema.name), intake, feed_log)
    metrics = ServingMetrics(replica, feed_log, freshness, clock_ms)
    decoder = PredictionRequestDecoder(schema, settings.max_instances, settings.max_values, settings.max_body_bytes)
    endpoint = PredictionEndpoint(settings, schema.name, decoder, replica, metrics, clock_ms)
    reporter = ModelReporter(schema, replica, feed_log, freshness, clock_ms)
    pins = VersionPins(
        settings.redis,
        schema.name,
        password=settings.redis_password,
        timeout_s=settings.redis_timeout_s,
        now_ms=clock_ms,
    )
    app = create_app(
        settings,
        schema,
        endpoint,
        reporter,
        feed_log,
        replica,
        metrics,
        healthy=lambda: subscriber.alive,
        pins=pins,
    )
    return ServingParts(schema, replica, feed_log, intake, subscriber, endpoint, app, pins)


class HttpServer(uvicorn.Server):
    """uvicorn, told to stop by SIGTERM and SIGINT without passing the signal on once it has stopped."""

    def __init__(self, settings: ServingSettings, app: ASGIApp) -> None:
        limits = ConnectionLimits(
            max_connections=settings.max_connections,
            max_head_bytes=settings.max_head_bytes,
            max_body_bytes=settings.max_body_bytes,
            receive_timeout_s=settings.receive_timeout_s,
            send_timeout_s=settings.send_timeout_s,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(limits),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.idle_timeout_s,
                timeout_graceful_shutdown=settings.stop_timeout_s,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles both signals while the server runs, where it runs in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True


def serve(settings: ServingSettings) -> int:
    """Runs a server until SIGTERM or SIGINT.

    Returns:
        exit status: 0 after a clean stop, 1 when the subscriber did not end in time.

    Raises:
        SettingError: a setting that cannot be used: model file, Redis URL, address.
        SchemaError: the model file is wrong.
    """
    logging.basicConfig(level=settings.log_level, format=_LOG_FORMAT)  # leaves logging that is set up already alone
    for name, value in describe_settings(settings).items():
        _log.info("setting %s = %s", name, value)
    parts = assemble(settings)
    parts.endpoint.warm_up(example_instance(parts.schema))
    # The scoring threads are the parallelism: a second layer of threads inside BLAS makes 100 rows take milliseconds.
    with threadpool_limits(1, user_api="blas"), listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        _log.info("model %s (%s) on http://%s:%d", parts.schema.name, parts.schema.fingerprint, host, port)
        server = HttpServer(settings, parts.app)
        parts.subscriber.start()
        try:
            server.run(sockets=[listener])
        finally:
            stopped = parts.subscriber.stop(settings.stop_timeout_s)
            parts.endpoint.close()
            parts.pins.close()
    if not stopped:
        _log.error("the subscriber did not end within %s s", settings.stop_timeout_s)
        return 1
    _log.info("stopped")
    return 0


def listen(settings: ServingSettings) -> socket.socket:
    """The listening socket.

    Raises:
        SettingError: the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        name, seen = f"{PREFIX}HOST and {PREFIX}PORT", f"{settings.host}:{settings.port}"
        raise SettingError(name, seen, f"an address to listen on ({error})") from error


def _read_schema(settings: ServingSettings) -> ModelSchema:
    name = f"{PREFIX}MODEL_FILE"
    try:
        text = settings.model_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(name, str(settings.model_file), f"a readable TOML file ({error})") from error
    try:
        return ModelSchema.parse_toml(text)
    except SchemaError as error:
        raise SettingError(name, str(settings.model_file), f"a model file ({error})") from error
