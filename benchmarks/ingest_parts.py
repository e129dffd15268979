"""The measured programs of `benchmarks.ingest`: each runs in a process of its own and prints one JSON object.

`getmany` is aiokafka alone, `stock` Faust's own `async for`, `bulk` our consumer with a sink that counts, `columns` the
same with a sink that decodes. All read the same topic: JSON samples first, then Arrow messages.
"""

import argparse
import asyncio
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
import pyarrow as pa
from aiokafka import AIOKafkaConsumer

from dimflow.model_files import read_model_file
from dimflow.sample_columns import FileColumns
from dimflow.sample_encoding import ArrowEncoder, JsonEncoder
from dimflow.sample_files import read_samples
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.sample_decoding import ARROW_CONTENT_TYPE, SampleDecoder
from model_contract.schema import ModelSchema
from stream_trainer.app import run_app
from stream_trainer.record_queue import RecordQueue
from stream_trainer.records import RecordBatch, RecordSource, TopicPartition
from stream_trainer.stream_settings import StreamSettings

_STOCK_S = 4.0
_QUEUE_BYTES = 64 << 20


def sample_batches(data: Path | None, schema: ModelSchema, rows: int) -> Any:
    """Batches of a file's samples, or of the drifting teacher where there is no file."""
    if data is not None:
        return read_samples(data, schema, FileColumns(), batch_rows=8192, rows=rows)
    return (batch.samples for batch in DriftingTeacher(seed=0).batches(rows, 8192))


class _Rate:
    """Counts between the first and the last call."""

    def __init__(self) -> None:
        self.count = 0
        self._first_s = self._last_s = 0.0

    def begin(self) -> None:
        self._first_s = self._first_s or time.perf_counter()

    def add(self, count: int) -> None:
        self.begin()
        self.count += count
        self._last_s = time.perf_counter()

    @property
    def per_s(self) -> float:
        seconds = self._last_s - self._first_s
        return self.count / seconds if seconds > 0 else 0.0


class CountingSink:
    """Counts records until it has seen enough of them, then stops the process' stream."""

    def __init__(self, wanted: int) -> None:
        self.rate = _Rate()
        self._wanted = wanted

    def started(self, source: RecordSource) -> None:
        """See `RecordSink`."""
        self._source = source

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """From the beginning; the time runs from here."""
        self.rate.begin()
        return {}

    async def offer(self, batch: RecordBatch) -> None:
        """Counts."""
        self.rate.add(len(batch))
        if self.rate.count >= self._wanted:
            self._source.stop()

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Does not happen here."""

    async def drain(self) -> Mapping[TopicPartition, int]:
        """Nothing is kept."""
        return {}


class DecodingSink(CountingSink):
    """Decodes in a thread behind the trainer's own queue, as the trainer does."""

    def __init__(self, wanted: int, schema: ModelSchema, warm_up: pa.RecordBatch) -> None:
        super().__init__(wanted)
        self.json, self.arrow = _Rate(), _Rate()
        self._queue = RecordQueue(_QUEUE_BYTES)
        self._decoder = SampleDecoder(schema)
        for encoder in (JsonEncoder(schema), ArrowEncoder(schema)):  # loads the compiled kernels
            values: list[bytes | None] = [*encoder.encode(warm_up).values]
            kind = ARROW_CONTENT_TYPE if isinstance(encoder, ArrowEncoder) else None
            self._decoder.decode(values, [kind] * len(values))
        self._thread = threading.Thread(target=self._decode, name="decoding", daemon=True)
        self._thread.start()

    async def offer(self, batch: RecordBatch) -> None:
        """Queues the batch for the decoding thread."""
        await self._queue.offer(batch)

    def _decode(self) -> None:
        while self.json.count + self.arrow.count < self._wanted:
            for batch in self._queue.take(4096, 1.0, 0.0):
                rate = self.arrow if batch.content_types[-1] == ARROW_CONTENT_TYPE else self.json
                rate.begin()
                rate.add(self._decoder.decode(batch.values, batch.content_types).batch.rows)
        self._source.stop()


async def measure_getmany(brokers: str, topic: str, records: int) -> float:
    """Records per second of aiokafka alone."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, auto_offset_reset="earliest", max_partition_fetch_bytes=4 << 20
    )
    await consumer.start()
    try:
        rate = _Rate()
        rate.begin()
        while rate.count < records:
            fetched = await consumer.getmany(timeout_ms=1000, max_records=512)
            rate.add(sum(map(len, fetched.values())))
        return rate.per_s
    finally:
        await consumer.stop()


class _StockApp(faust.App):
    """Faust's application without its folder in the working directory."""

    async def on_first_start(self) -> None:
        """Makes no folder."""


async def measure_stock(brokers: str, topic: str, records: int) -> float:
    """Events per second of an agent as Faust's documentation writes it, over the first seconds of the topic."""
    app = _StockApp(
        "stock-faust",
        broker=f"kafka://{brokers}",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
    )
    rate = _Rate()
    done = asyncio.Event()

    @app.agent(app.topic(topic, value_type=bytes))
    async def count(stream: Any) -> None:
        begun = 0.0
        async for _ in stream:
            begun = begun or time.perf_counter()
            rate.add(1)
            if rate.count >= records or time.perf_counter() - begun > _STOCK_S:
                done.set()

    await app.start()
    await done.wait()
    answer = rate.per_s
    await app.stop()
    return answer


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["getmany", "stock", "bulk", "columns"])
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True, help="records, or samples for `columns`")
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    settings = StreamSettings(brokers=options.brokers, topic=options.topic, group=f"{options.part}")
    if options.part == "getmany":
        answer = {"per_s": asyncio.run(measure_getmany(options.brokers, options.topic, options.records))}
    elif options.part == "stock":
        answer = {"per_s": asyncio.run(measure_stock(options.brokers, options.topic, options.records))}
    elif options.part == "bulk":
        sink = CountingSink(options.records)
        run_app(settings, sink)
        answer = {"per_s": sink.rate.per_s}
    else:
        schema = read_model_file(options.model_file)
        decoding = DecodingSink(options.records, schema, next(iter(sample_batches(options.data, schema, 256))))
        run_app(settings, decoding)
        answer = {"json_per_s": decoding.json.per_s, "arrow_per_s": decoding.arrow.per_s}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
