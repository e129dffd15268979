"""The demo's run: starts what is missing, streams samples through the loop, watches, asks, and adds it all up.

Knows the processes from outside only, as a user would: Kafka in, pages and /predict out. Invariant: whatever ends it,
everything it started is stopped and its temporary folders are gone.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa

from dimflow.demo_view import DemoMoment
from dimflow.errors import DemoFailed
from dimflow.local_processes import LocalPredictor, LocalTrainer
from dimflow.local_servers import LocalKafka, LocalRedis
from dimflow.loop_watch import LoopWatch, TrainerNumbers
from dimflow.sample_producer import SampleProducer
from model_contract.schema import ModelSchema

__all__ = ["DemoOptions", "DemoReport", "run_loop"]

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_SHOW_EVERY_S = 0.25
_ASKED_INSTANCES = 8
_END_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo is asked to do.

    Attributes:
        schema, model_file: the model.
        batches: the samples, as record batches with a column each for label, time, slots and dense features.
        samples: how many to stream; None for no end.
        seed: of the trainer.
        brokers, redis: servers that run already; None starts them.
        window_rows: samples that may be sent but not trained yet, so that freshness shows the loop and not a backlog.
        publish_interval_s: seconds between two increments.
        keep_dir: folder that keeps the state; None for a temporary one.
        search: whether widths are searched for.
    """

    schema: ModelSchema
    model_file: Path
    batches: Iterator[pa.RecordBatch]
    samples: int | None
    seed: int
    brokers: str | None = None
    redis: str | None = None
    window_rows: int = 24_576
    publish_interval_s: float = 0.5
    keep_dir: Path | None = None
    search: bool = False


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The figures of a run that came to its end.

    Attributes:
        samples_per_s: from Kafka through Faust to a trained row, between the first and the last batch learned.
        freshness_p50_ms, freshness_p95_ms: over all samples, from the Kafka time stamp to answering in /predict.
        predictions: samples asked about before they were sent.
    """

    samples: int
    progressive_auc: float
    log_loss: float
    samples_per_s: float
    freshness_p50_ms: float
    freshness_p95_ms: float
    rows: int
    table_bytes: int
    increments: int
    dead_letters: int
    evicted_rows: int
    predictions: int
    seed: int

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def run_loop(options: DemoOptions, show: Callable[[DemoMoment], None]) -> DemoReport | None:
    """Runs the loop to the end of the samples.

    Returns:
        the figures; None where the stream was interrupted.

    Raises:
        DemoFailed: the trainer or the server ended, or did not finish in time.
        ServerNotReady, ServerProgramMissing: a server could not be started.
    """
    with contextlib.ExitStack() as stack:
        show(DemoMoment("starting Kafka and Redis"))
        brokers = options.brokers or stack.enter_context(LocalKafka()).bootstrap
        redis = options.redis or stack.enter_context(LocalRedis()).url
        show(DemoMoment("starting trainer and server (the first start compiles the kernels)"))
        topic = f"samples-{os.getpid()}-{int(time.time())}"
        trainer = LocalTrainer(
            options.keep_dir,
            model_file=options.model_file,
            brokers=brokers,
            redis=redis,
            topic=topic,
            group=topic,
            seed=options.seed,
            publish_interval_s=options.publish_interval_s,
            dimensions="search" if options.search else "fixed",
        )
        server = LocalPredictor(None, model_file=options.model_file, redis=redis)
        stack.enter_context(trainer)
        stack.enter_context(server)
        with LoopWatch(trainer.url, server.url) as watch:
            run = _Run(options, watch, brokers, topic, show)
            links = (("model", f"{server.url}/model"), ("metrics", f"{trainer.url}/metrics"), ("kafka", brokers))
            return run.stream(links, lambda: trainer.running and server.running)


class _Run:
    """One stream through running processes: a producing thread, and this thread that watches."""

    def __init__(
        self,
        options: DemoOptions,
        watch: LoopWatch,
        brokers: str,
        topic: str,
        show: Callable[[DemoMoment], None],
    ) -> None:
        self._options = options
        self._watch = watch
        self._brokers = brokers
        self._topic = topic
        self._show = show
        self._trained = 0
        self._produced = 0
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._coming: deque[pa.RecordBatch] = deque(maxlen=1)
        self._error: BaseException | None = None
        self._predictions = 0

    def stream(self, links: tuple[tuple[str, str], ...], alive: Callable[[], bool]) -> DemoReport | None:
        """Produces in a thread, watches in this one."""
        self._wait_until(alive, "reads its partitions", lambda: self._watch.trainer()["assigned_partitions"] > 0)
        self._wait_until(alive, "answers predictions", self._watch.ready)
        producing = threading.Thread(target=self._produce, name="producing", daemon=True)
        producing.start()
        try:
            self._watch_until_trained(links, alive)
            self._wait_until(alive, "serves the last sample", self._all_served)
        except KeyboardInterrupt:
            return None
        finally:
            self._stop.set()
            producing.join()
        return self._report()

    def _produce(self) -> None:
        try:
            with SampleProducer(self._brokers, self._topic, self._options.schema, form="arrow") as producer:
                for batch in self._options.batches:
                    self._coming.append(batch)
                    while self._produced - self._trained > self._options.window_rows and not self._stop.is_set():
                        time.sleep(0.002)
                    if self._stop.is_set():
                        break
                    producer.send(batch)
                    self._produced += batch.num_rows
        except Exception as error:  # noqa: BLE001  handed to the watching thread, which raises it
            self._error = error
        finally:
            self._ended.set()

    def _watch_until_trained(self, links: tuple[tuple[str, str], ...], alive: Callable[[], bool]) -> None:
        shown = 0.0
        history: deque[tuple[float, int]] = deque(maxlen=20)
        asked: tuple[tuple[float, int], ...] = ()
        predict_ms: float | None = None
        while not (self._ended.is_set() and self._trained >= self._produced):
            self._check(alive)
            numbers = self._watch.trainer()
            self._trained = int(numbers["samples_total"])
            now = time.monotonic()
            if now - shown >= _SHOW_EVERY_S:
                shown = now
                history.append((now, self._trained))
                asked, predict_ms = self._ask()
                self._show(self._moment(numbers, history, asked, predict_ms, links))
            time.sleep(_POLL_S)

    def _ask(self) -> tuple[tuple[tuple[float, int], ...], float | None]:
        """Scores samples that were not sent yet, as a service would, a moment before they happen."""
        if not self._coming:
            return (), None
        batch = self._coming[0]
        rows = batch.slice(max(0, batch.num_rows - _ASKED_INSTANCES)).to_pylist()
        schema = self._options.schema
        instances = [
            {
                "sparse": {name: row[name] for name in schema.slot_names if row.get(name) is not None},
                "dense": {name: row[name] for name in schema.dense_names if row.get(name) is not None},
            }
            for row in rows
        ]
        begin = time.perf_counter()
        probabilities = self._watch.predict(instances)
        self._predictions += len(probabilities)
        took_ms = (time.perf_counter() - begin) * 1000
        return tuple(zip(probabilities, (int(row["label"]) for row in rows), strict=True)), took_ms

    def _moment(
        self,
        numbers: TrainerNumbers,
        history: Sequence[tuple[float, int]],
        asked: tuple[tuple[float, int], ...],
        predict_ms: float | None,
        links: tuple[tuple[str, str], ...],
    ) -> DemoMoment:
        model = self._watch.model()
        (first_s, first), (last_s, last) = history[0], history[-1]
        fresh = _freshness(model)
        return DemoMoment(
            stage=f"{self._options.schema.name}, D {self._options.schema.dim}",
            produced=self._produced,
            trained=self._trained,
            wanted=self._options.samples,
            samples_per_s=(last - first) / (last_s - first_s) if last_s > first_s else 0.0,
            progressive=tuple(numbers.progressive.items()),
            rows=int(numbers["rows"]),
            table_bytes=int(numbers["table_bytes"]),
            budget_bytes=int(numbers["budget_bytes"]),
            evicted_rows=int(numbers["evicted_rows_total"]),
            increments=int(numbers["increments_total"]),
            sequence=int(model.get("sequence") or 0),
            increment_bytes=int(numbers["increment_bytes_total"]),
            dead_letters=int(numbers["dead_letters_total"]),
            freshness_p50_ms=fresh[0],
            freshness_p95_ms=fresh[1],
            asked=asked,
            predict_ms=predict_ms,
            links=links,
        )

    def _all_served(self) -> bool:
        return int(self._watch.model().get("samples_trained") or 0) >= self._produced

    def _report(self) -> DemoReport:
        numbers = self._watch.trainer()
        p50, p95 = _freshness(self._watch.model())
        return DemoReport(
            samples=int(numbers["samples_total"]),
            progressive_auc=numbers.progressive["auc"],
            log_loss=numbers.progressive["log_loss"],
            samples_per_s=numbers["samples_total"] / max(numbers["streaming_seconds"], 1e-9),
            freshness_p50_ms=p50 or 0.0,
            freshness_p95_ms=p95 or 0.0,
            rows=int(numbers["rows"]),
            table_bytes=int(numbers["table_bytes"]),
            increments=int(numbers["increments_total"]),
            dead_letters=int(numbers["dead_letters_total"]),
            evicted_rows=int(numbers["evicted_rows_total"]),
            predictions=self._predictions,
            seed=self._options.seed,
        )

    def _wait_until(self, alive: Callable[[], bool], what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _END_TIMEOUT_S
        while True:
            self._check(alive)
            with contextlib.suppress(httpx.TransportError):
                if done():
                    return
            if time.monotonic() > deadline:
                message = f"the loop: not yet true after {_END_TIMEOUT_S} s: it {what}"
                raise DemoFailed(message)
            time.sleep(_POLL_S)

    def _check(self, alive: Callable[[], bool]) -> None:
        if self._error is not None:
            message = f"producing stopped: {self._error}"
            raise DemoFailed(message) from self._error
        if not alive():
            message = "the trainer or the server ended; its log says why"
            raise DemoFailed(message)


def _freshness(model: Any) -> tuple[float | None, float | None]:
    """p50 and p95 in ms over everything applied, from the server's /model document."""
    overall = model["freshness"]["overall"]
    return overall["p50_ms"], overall["p95_ms"]
