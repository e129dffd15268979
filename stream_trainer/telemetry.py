"""The trainer's Prometheus page: what was read, learned, kept, written and published.

Knows no Kafka and computes nothing: every value is read from its owner when the page is asked for. The only module of
the trainer that serves HTTP. Invariant: names carry their unit, and a counter never falls while the process lives.
"""

import threading
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stream_trainer.trainer import Trainer

__all__ = ["TrainerPage"]


class TrainerPage:
    """Collects one trainer's numbers; `start` opens the page.

    Attributes:
        trainer: whose numbers; None while this process stands by.
    """

    def __init__(self, trainer: Trainer | None = None) -> None:
        self.trainer = trainer
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self, host: str, port: int) -> None:
        """Serves /metrics from a thread of its own, if it does not yet.

        Raises:
            OSError: the port is taken.
        """
        if self._server is None:
            self._server, self._thread = start_http_server(port, addr=host, registry=self.registry)

    def stop(self) -> None:
        """Closes the page, if it was opened."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def collect(self) -> Iterable[Metric]:
        """Every family, with the values of this moment."""
        trainer = self.trainer
        yield _gauge("standby", "1 while another trainer leads and this one waits", int(trainer is None))
        if trainer is not None:
            yield from self._learning(trainer)
            yield from self._memory(trainer)
            yield from self._delivering(trainer)

    def _learning(self, trainer: Trainer) -> Iterable[Metric]:
        loop = trainer.loop
        if loop is None:
            return
        counts = loop.counts
        progress = trainer.progress()
        yield _gauge("assigned_partitions", "partitions this trainer reads", len(progress))
        lag = sum(max(0, part.end - part.position) for part in progress)
        yield _gauge("lag_records", "records in Kafka that were not fetched yet", lag)
        yield _counter("records", "Kafka records read, good and bad", counts.records)
        yield _counter("samples", "samples learned since the start", counts.samples)
        yield _counter("dead_letters", "records sent to the dead-letter topic", counts.dead_letters)
        yield _gauge("streaming_seconds", "seconds between the first and the last batch learned", counts.streaming_s)
        yield _counter("learn_seconds", "seconds spent in train steps", counts.learn_s)
        yield _counter("wait_seconds", "seconds the train step waited for a prepared chunk", counts.wait_s)
        yield _counter("cut_seconds", "seconds training stood still for cuts", counts.cut_s)
        yield _gauge("longest_cut_seconds", "longest time training stood still for one of them", counts.longest_cut_s)
        yield _gauge("lineage_samples", "samples learned since the lineage began", trainer.learner.counts.samples)
        metrics = GaugeMetricFamily(
            "dimflow_trainer_progressive", "progressive metric: predicted before it was learned", labels=["metric"]
        )
        for name, value in trainer.learner.metrics.summary().items():
            metrics.add_metric([name], value)
        yield metrics

    def _memory(self, trainer: Trainer) -> Iterable[Metric]:
        learner = trainer.learner
        yield _gauge("rows", "rows in the table", learner.table.rows)
        yield _gauge("table_bytes", "bytes of rows, optimizer state and index", learner.table.bytes_used)
        yield _gauge("memory_bytes", "bytes of everything that grows", learner.memory_bytes)
        yield _gauge("budget_bytes", "bytes that the table may take", learner.table.budget_bytes)
        yield _counter("evicted_rows", "rows evicted since the lineage began", learner.counts.evicted_rows)
        yield _counter("refused_ids", "lookups answered by a missing row", learner.preparation.refused)
        yield _gauge("queue_bytes", "bytes of records waiting to be decoded", trainer.queue.waiting_bytes)

    def _delivering(self, trainer: Trainer) -> Iterable[Metric]:
        counts = trainer.delivery.counts
        yield _counter("increments", "increments published", counts.increments)
        yield _counter("increment_bytes", "bytes of increments published", counts.increment_bytes)
        yield _counter("bases", "bases published", counts.bases)
        yield _counter("redis_failures", "tries of Redis that got no answer", counts.redis_failures)
        yield _gauge("durable_sequence", "sequence of the newest cut on the disk", counts.durable_sequence)
        yield _gauge("published_sequence", "sequence of the newest cut in Redis", counts.published_sequence)
        yield _gauge("write_seconds", "seconds the newest delta took to become durable", counts.write_s)
        yield _gauge("publish_seconds", "seconds the newest increment took to Redis", counts.publish_s)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"dimflow_trainer_{name}", text, value=value)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dimflow_trainer_{name}", text, value=value)
