"""Samples into a Kafka topic, every one acknowledged by all replicas or an error that says how many were not.

Together with `dead_letter_topic` the only module here that imports a Kafka client; knows no file, no model and no
terminal. Invariant: after `flush` (and so after a `with` block that ends well) each sample handed to `send` is in the
topic exactly once (the client's idempotent mode), or `ProduceError` was raised. The client itself buffers without
limit, so `send` waits while more than `max_in_flight_bytes` are unacknowledged.

Rows go round-robin over the partitions in short runs, so that a reader of all of them sees nearly the order sent.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from dimflow.errors import ProduceError
from dimflow.sample_encoding import ArrowEncoder, JsonEncoder, SampleEncoder
from model_contract.schema import ModelSchema

__all__ = ["ProduceProgress", "SampleProducer", "broker_addresses", "open_client"]

_RUN_ROWS = 512  # rows that follow each other in one partition, so that the client fills its batches
_WAIT_S = 0.001
_INTERRUPTED_FLUSH_S = 10.0
_DISCONNECT_S = 30.0


@dataclass(frozen=True, slots=True)
class ProduceProgress:
    """How far a producer is.

    Attributes:
        sent: samples handed to the client.
        acknowledged: samples that all replicas hold.
        messages: messages handed to the client.
        sent_bytes: bytes of their values.
    """

    sent: int = 0
    acknowledged: int = 0
    messages: int = 0
    sent_bytes: int = 0


class SampleProducer:
    """Sends batches of samples. Use it in a `with` block; one thread at a time may call it.

    Args:
        brokers: `host:port`, comma-separated.
        topic: where to.
        schema: which columns are slots and which are dense features.
        form: `arrow`, many samples a message, or `json`, one a message.
        rows_per_message: most samples of an Arrow message.
        create_partitions: create the topic with so many partitions if it is absent; None: that is an error.
        connect_timeout_s: how long to wait for the brokers and the topic.
        delivery_timeout_s: how long a message may take from `send` to its acknowledgement, retries included.
        max_in_flight_bytes: see the module's docstring.
        client_options: further settings of kafka-python's clients, such as `security_protocol` or `ssl_cafile`.

    Raises:
        ProduceError: the brokers or the topic could not be reached.
    """

    def __init__(
        self,
        brokers: str,
        topic: str,
        schema: ModelSchema,
        *,
        form: Literal["arrow", "json"] = "arrow",
        rows_per_message: int = 4096,
        create_partitions: int | None = None,
        connect_timeout_s: float = 30.0,
        delivery_timeout_s: float = 120.0,
        max_in_flight_bytes: int = 32 << 20,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        encoder: SampleEncoder = ArrowEncoder(schema, rows_per_message) if form == "arrow" else JsonEncoder(schema)
        self._encoder = encoder
        self._headers = [("content-type", encoder.content_type)]
        self._topic = topic
        self._delivery_timeout_s = delivery_timeout_s
        self._max_in_flight_bytes = max_in_flight_bytes
        self._in_flight: deque[tuple[Any, int, int]] = deque()  # future, rows, bytes
        self._in_flight_bytes = 0
        self._sent = self._acknowledged = self._messages = self._sent_bytes = 0
        self._closed = self._failed = False
        timeout_ms = int(connect_timeout_s * 1000)
        settings: dict[str, Any] = {
            "acks": "all",
            "linger_ms": 5,
            "batch_size": 1 << 18,
            "max_block_ms": timeout_ms,
            "request_timeout_ms": int(min(30.0, delivery_timeout_s / 2) * 1000),
            "delivery_timeout_ms": int(delivery_timeout_s * 1000),
            "metrics_enabled": False,
        }
        connection = {"bootstrap_servers": broker_addresses(brokers), "bootstrap_timeout_ms": timeout_ms}
        connection |= dict(client_options or {})
        try:
            if create_partitions is not None:
                _create_topic(connection, topic, create_partitions)
            self._client, self._partitions = _connected(connection | settings, topic)
        except (KafkaError, ValueError, OSError) as error:
            message = f"brokers {brokers}, topic {topic!r}: not reached within {connect_timeout_s} s: {error!r}"
            raise ProduceError(message) from error

    @property
    def progress(self) -> ProduceProgress:
        """How far it is, by the acknowledgements seen until now."""
        return ProduceProgress(self._sent, self._acknowledged, self._messages, self._sent_bytes)

    def send(self, batch: pa.RecordBatch) -> None:
        """Encodes a batch and hands it to the client; waits while too much is unacknowledged.

        Args:
            batch: as `sample_columns` promises.

        Raises:
            ProduceError: a message, of this batch or an earlier one, was not taken.
        """
        encoded = self._encoder.encode(batch)
        run = max(1, _RUN_ROWS // self._encoder.rows_per_message)
        for value, rows in zip(encoded.values, encoded.rows, strict=True):
            if self._in_flight_bytes > self._max_in_flight_bytes:
                self._collect_until(self._max_in_flight_bytes // 2)
            partition = self._partitions[self._messages // run % len(self._partitions)]
            try:
                future = self._client.send(self._topic, value, headers=self._headers, partition=partition)
            except KafkaError as error:
                raise self._failure(error) from error
            self._in_flight.append((future, rows, len(value)))
            self._in_flight_bytes += len(value)
            self._messages += 1
            self._sent += rows
            self._sent_bytes += len(value)
        self.collect()

    def collect(self) -> None:
        """Counts the acknowledgements that have come.

        Raises:
            ProduceError: a message was not taken.
        """
        while self._in_flight and self._in_flight[0][0].is_done:
            future, rows, value_bytes = self._in_flight.popleft()
            if future.exception is not None:
                raise self._failure(future.exception) from future.exception
            self._in_flight_bytes -= value_bytes
            self._acknowledged += rows

    def _collect_until(self, left_bytes: int, timeout_s: float | None = None) -> None:
        """Waits for acknowledgements; ends, since the client fails what it cannot deliver in time."""
        deadline = time.monotonic() + (self._delivery_timeout_s * 2 if timeout_s is None else timeout_s)
        self.collect()
        while self._in_flight and self._in_flight_bytes > left_bytes:
            if time.monotonic() > deadline:
                message = "no acknowledgement in time"
                raise self._failure(KafkaError(message))
            time.sleep(_WAIT_S)
            self.collect()

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until every sample sent is acknowledged.

        Args:
            timeout_s: how long; None waits as long as a delivery may take.

        Raises:
            ProduceError: a message was not taken, or not in time.
        """
        self._collect_until(0, timeout_s)

    def close(self) -> None:
        """Flushes and disconnects; does nothing the second time.

        Raises:
            ProduceError: a message was not taken.
        """
        if self._closed:
            return
        try:
            self.flush()
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        self._closed = True
        given_up = self._failed or bool(self._in_flight)
        if given_up:  # told as an error; without this the client's thread would go on trying
            self._client._sender.force_close()
        self._client.close(timeout=1.0 if given_up else _DISCONNECT_S)

    def _failure(self, error: Exception) -> ProduceError:
        self._failed = True
        left = self._sent - self._acknowledged
        return ProduceError(
            f"topic {self._topic!r}: {left} of {self._sent} samples sent are not acknowledged: {error!r}"
        )

    def __enter__(self) -> Self:
        """The producer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes. After an error or Ctrl-C what was sent has ten more seconds, and the error goes on as it was."""
        if error is None:
            self.close()
        elif not self._closed:
            try:
                if not self._failed:
                    self.flush(_INTERRUPTED_FLUSH_S)
            except ProduceError as unsent:
                error.add_note(str(unsent))
            finally:
                self._disconnect()


def broker_addresses(brokers: str) -> list[str]:
    """The brokers' addresses, checked here since the client leaves sockets open when it meets a bad one.

    Raises:
        ProduceError: one is no `host:port`.
    """
    addresses = [address.strip() for address in brokers.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            message = f"brokers {brokers}: {address!r}, expected host:port"
            raise ProduceError(message)
    return addresses


def _create_topic(connection: Mapping[str, Any], topic: str, partitions: int) -> None:
    admin = open_client(KafkaAdminClient, connection)
    try:
        admin.create_topics([NewTopic(topic, num_partitions=partitions)])
    except TopicAlreadyExistsError:
        pass  # as it is
    finally:
        admin.close()


def _connected(settings: Mapping[str, Any], topic: str) -> tuple[Any, list[int]]:
    """A client that knows the topic, and the topic's partitions."""
    client = open_client(KafkaProducer, settings)
    try:
        return client, sorted(client.partitions_for(topic))
    except KafkaError:
        client.close(timeout=_DISCONNECT_S)
        raise


def open_client(kind: Any, settings: Mapping[str, Any]) -> Any:
    """A client of this kind; where it cannot be made, the sockets are closed that its constructor leaves open."""
    connections: list[Any] = []

    def connect(**options: Any) -> Any:
        connections.append(kind.DEFAULT_CONFIG["kafka_client"](**options))
        return connections[-1]

    try:
        return kind(**settings, kafka_client=connect)
    except KafkaError:
        for connection in connections:
            connection.close()
        raise
