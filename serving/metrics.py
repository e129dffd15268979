"""What Prometheus is shown of one server.

Knows no HTTP and no Redis: counts of requests are pushed by the endpoint, everything else is read from its owner when
a scrape asks. Invariant: a registry of its own, so that two servers in one process do not mix; units stand in names.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.feed_log import FeedLog
from serving.freshness import FreshnessMeter
from serving.replica import Replica

__all__ = ["METRICS_TYPE", "ServingMetrics"]

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "dimflow_serving"
_LATENCY_S = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
_COMMON_STATUSES = (200, 400, 413, 415, 422, 503)


class ServingMetrics:
    """Counts requests and renders the page.

    Args:
        replica: for version and memory.
        feed_log: for increments and refusals.
        freshness: for the freshness histogram.
        now_ms: the clock.
    """

    def __init__(
        self, replica: Replica, feed_log: FeedLog, freshness: FreshnessMeter, now_ms: Callable[[], int]
    ) -> None:
        self.registry = CollectorRegistry()
        requests = Counter(
            f"{_PREFIX}_requests", "Predictions answered, by HTTP status", ["status"], registry=self.registry
        )
        self._requests = requests
        self._by_status = {status: requests.labels(str(status)) for status in _COMMON_STATUSES}
        self._latency = Histogram(
            f"{_PREFIX}_request_seconds",
            "From the headers of a prediction request to its whole answer",
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self._instances = Counter(f"{_PREFIX}_instances", "Instances scored", registry=self.registry)
        self._lookups = Counter(f"{_PREFIX}_lookups", "Feature ids looked up", registry=self.registry)
        self._unknown = Counter(
            f"{_PREFIX}_lookups_unknown", "Feature ids without a row, scored by the missing row", registry=self.registry
        )
        self.in_work = Gauge(f"{_PREFIX}_requests_in_work", "Predictions waiting or in work", registry=self.registry)
        self.registry.register(_StateCollector(replica, feed_log, freshness, now_ms))
        ProcessCollector(registry=self.registry)

    def answered(self, status: int, elapsed_s: float) -> None:
        """A prediction was answered with `status`."""
        counter = self._by_status.get(status)
        (counter if counter is not None else self._requests.labels(str(status))).inc()
        self._latency.observe(elapsed_s)

    def scored(self, instances: int, lookups: int, unknown: int) -> None:
        """A batch was scored."""
        self._instances.inc(instances)
        self._lookups.inc(lookups)
        if unknown:
            self._unknown.inc(unknown)

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """Reads version, memory, feed and freshness at the moment of a scrape."""

    def __init__(
        self, replica: Replica, feed_log: FeedLog, freshness: FreshnessMeter, now_ms: Callable[[], int]
    ) -> None:
        self._replica = replica
        self._feed_log = feed_log
        self._freshness = freshness
        self._now_ms = now_ms

    def collect(self) -> Iterator[Metric]:
        yield from self._model()
        yield from self._feed()
        yield self._freshness_histogram()

    def _model(self) -> Iterator[Metric]:
        version, footprint = self._replica.version, self._replica.footprint
        yield _gauge("ready", "1 when a model answers", float(version is not None))
        yield _gauge("model_rows", "Feature ids with a row", footprint.rows)
        memory = GaugeMetricFamily(f"{_PREFIX}_model_bytes", "Bytes of the model in memory, by part", labels=["part"])
        for part in ("row", "index", "dense"):
            memory.add_metric([part], getattr(footprint, f"{part}_bytes"))
        yield memory
        rows = GaugeMetricFamily(
            f"{_PREFIX}_model_row_bytes", "Bytes that rows lie in, by precision", labels=["precision"]
        )
        for precision, nbytes in footprint.precision_bytes.items():
            rows.add_metric([precision], nbytes)
        yield rows
        if version is None:
            return
        yield _gauge("model_sequence", "Sequence of the increment that answers", version.sequence)
        yield _gauge("model_epoch", "Trainer life that made it", version.epoch)
        now_ms = self._now_ms()
        staleness_s = max(now_ms - version.created_ms, 0) / 1000
        yield _gauge("staleness_seconds", "Since the model that answers was cut by the trainer", staleness_s)
        if version.newest_sample_ms:
            age_s = max(now_ms - version.newest_sample_ms, 0) / 1000
            yield _gauge("newest_sample_age_seconds", "Since the time stamp of the newest sample learned from", age_s)

    def _feed(self) -> Iterator[Metric]:
        state = self._feed_log.state
        yield _gauge("redis_up", "1 while Redis answers", float(state.connected))
        yield _gauge(
            "pinned", "1 while a pinned version is served and nothing is applied", float(state.pin is not None)
        )
        yield _gauge("held_back", "1 while the trainer's gate holds everything back", float(state.hold is not None))
        yield _counter("redis_reconnects", "Times Redis answered again", state.reconnects)
        yield _counter("increments_applied", "Increments applied", state.applied)
        yield _counter("increments_duplicate", "Increments skipped, applied before", state.duplicates)
        yield _counter("bases_loaded", "Bases loaded", state.bases)
        refused = CounterMetricFamily(
            f"{_PREFIX}_increments_refused", "Increments, bases and heads refused, by reason", labels=["reason"]
        )
        for reason, count in sorted(state.refused.items()):
            refused.add_metric([reason], count)
        yield refused

    def _freshness_histogram(self) -> Metric:
        histogram = self._freshness.histogram()
        bounds = [f"{bound / 1000:g}" for bound in histogram.bounds_ms.tolist()] + ["+Inf"]
        return HistogramMetricFamily(
            f"{_PREFIX}_freshness_seconds",
            "From a sample's Kafka time stamp to the moment its rows answer",
            buckets=list(zip(bounds, map(float, histogram.cumulative.tolist()), strict=True)),
            sum_value=histogram.sum_ms / 1000,
        )


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", help_text, value=value)


def _counter(name: str, help_text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}_{name}", help_text, value=value)
