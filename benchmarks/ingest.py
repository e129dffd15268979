"""Kafka to columns to trained rows, JSON and Arrow, on a real broker; beside it the client alone and stock Faust.

`python -m benchmarks.ingest [--quick] [--data FILE]`. One topic of four partitions is filled with samples as JSON, one
a message, and behind them with samples as Arrow, 4096 a message; then each program reads it from the start, in a
process of its own, with the broker on the same cores. Rates leave out start-up and the loading of compiled kernels.

Results: records/s of aiokafka's `getmany`, of Faust's `async for`, and of the bulk consumer; samples/s to columns for
each form; samples/s from Kafka through Faust to trained rows for each form, with increments going out to a real Redis
(`json_samples_per_s`, `arrow_samples_per_s`: what the project promises).
"""

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer

from benchmarks.ingest_parts import sample_batches
from benchmarks.report import report
from dimflow.local_processes import LocalTrainer
from dimflow.local_servers import LocalKafka, LocalRedis
from dimflow.loop_watch import LoopWatch
from dimflow.model_files import packaged_model_file, read_model_file
from dimflow.sample_encoding import ArrowEncoder, JsonEncoder, SampleEncoder
from model_contract.schema import ModelSchema
from stream_trainer.broker_client import ensure_topics
from stream_trainer.stream_settings import StreamSettings

_CLICKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "globo_days_1_8.parquet"
_TOPIC = "samples"
_RUN_ROWS = 512
_TRAINED_WITHIN_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """What the topic is filled with: samples as JSON, then others as Arrow."""

    schema: ModelSchema
    model_file: Path
    data: Path | None
    json_rows: int
    arrow_rows: int

    @property
    def rows(self) -> int:
        """All samples."""
        return self.json_rows + self.arrow_rows


def fill(brokers: str, load: Load) -> None:
    """Puts the load into the topic, in short runs over the partitions, as `dimflow produce` does."""
    settings = StreamSettings(brokers=brokers, topic=_TOPIC)
    asyncio.run(ensure_topics(settings))
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "enable.idempotence": True,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    forms = _Form(producer, JsonEncoder(load.schema)), _Form(producer, ArrowEncoder(load.schema))
    left = load.json_rows
    for batch in sample_batches(load.data, load.schema, load.rows):
        head = batch.slice(0, min(left, batch.num_rows))
        left -= head.num_rows
        forms[0].send(head, settings.partitions)
        forms[1].send(batch.slice(head.num_rows), settings.partitions)
    if producer.flush(120) != 0:
        message = "the topic could not be filled in 120 s"
        raise SystemExit(message)


class _Form:
    """Sends samples in one of the two forms."""

    def __init__(self, producer: Producer, encoder: SampleEncoder) -> None:
        self._producer = producer
        self._encoder = encoder
        self._headers: list[tuple[str, str | bytes | None]] = [("content-type", encoder.content_type)]
        self._run = max(1, _RUN_ROWS // encoder.rows_per_message)
        self._sent = 0

    def send(self, batch: pa.RecordBatch, partitions: int) -> None:
        """Encodes a batch and hands it to the client."""
        for value in self._encoder.encode(batch).values:
            partition = self._sent // self._run % partitions
            self._sent += 1
            while True:
                try:
                    self._producer.produce(_TOPIC, value, headers=self._headers, partition=partition)
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)


def measure_part(part: str, brokers: str, load: Load, records: int) -> dict[str, float]:
    """Runs one program of `ingest_parts` and returns what it printed."""
    command = [sys.executable, "-m", "benchmarks.ingest_parts", part, "--brokers", brokers, "--topic", _TOPIC]
    command += ["--records", str(records), "--model-file", str(load.model_file)]
    command += [] if load.data is None else ["--data", str(load.data)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure_trainer(brokers: str, redis: str, load: Load) -> tuple[float, float]:
    """Trained samples per second of JSON and of Arrow, each away from the ends of its part of the topic."""
    trainer = LocalTrainer(
        None, model_file=load.model_file, brokers=brokers, redis=redis, topic=_TOPIC, group="trained"
    )
    with trainer, LoopWatch(trainer.url, trainer.url) as watch:
        samples, seconds = np.array(list(_course(watch, load.rows))).T

    def rate(first: float, last: float) -> float:
        return float((last - first) / np.diff(np.interp([first, last], samples, seconds))[0])

    json_rate = rate(0.2 * load.json_rows, 0.95 * load.json_rows)
    arrow_rate = rate(load.json_rows + 0.1 * load.arrow_rows, load.json_rows + 0.98 * load.arrow_rows)
    return json_rate, arrow_rate


def _course(watch: LoopWatch, rows: int) -> Iterator[tuple[float, float]]:
    deadline = time.monotonic() + _TRAINED_WITHIN_S
    while True:
        numbers = watch.trainer()
        samples = numbers["samples_total"]
        if samples:
            yield samples, numbers["streaming_seconds"]
        if samples >= rows:
            return
        if time.monotonic() > deadline:
            message = f"only {samples:.0f} of {rows} samples were trained in {_TRAINED_WITHIN_S} s"
            raise SystemExit(message)
        time.sleep(0.1)


def main() -> None:
    """Runs everything and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer samples: ends within 50 s")
    parser.add_argument("--data", type=Path, help="Parquet file of samples; default: the clicks, or the teacher")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    data = options.data or (_CLICKS if _CLICKS.exists() else None)
    model_file = packaged_model_file("teacher" if data is None else "globo")
    json_rows, arrow_rows = (120_000, 400_000) if options.quick else (600_000, 2_000_000)
    load = Load(read_model_file(model_file), model_file, data, json_rows, arrow_rows)
    with LocalKafka() as kafka, LocalRedis() as redis:
        brokers = kafka.bootstrap
        fill(brokers, load)
        results = {
            "getmany_records_per_s": measure_part("getmany", brokers, load, json_rows)["per_s"],
            "stock_faust_records_per_s": measure_part("stock", brokers, load, json_rows)["per_s"],
            "bulk_records_per_s": measure_part("bulk", brokers, load, json_rows)["per_s"],
        }
        columns = measure_part("columns", brokers, load, load.rows)
        results["json_to_columns_samples_per_s"] = columns["json_per_s"]
        results["arrow_to_columns_samples_per_s"] = columns["arrow_per_s"]
        results["json_samples_per_s"], results["arrow_samples_per_s"] = measure_trainer(brokers, redis.url, load)
    report("ingest", {name: round(rate) for name, rate in results.items()})


if __name__ == "__main__":
    main()
