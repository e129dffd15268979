"""What `/model` tells of the model that answers, and how it came here.

Knows no HTTP. Invariant: every field is present before a model is loaded too, as None where there is nothing to tell.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from model_contract.published_versions import Hold
from model_contract.schema import ModelSchema
from serving.feed_log import FeedLog, FeedState
from serving.freshness import FreshnessMeter
from serving.replica import Footprint, ModelVersion, Replica

__all__ = ["ModelReport", "ModelReporter"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BytesReport:
    """Bytes of the model in memory; those of its rows by precision as well."""

    rows: int
    rows_by_precision: dict[str, int]
    index: int
    dense: int
    total: int


@dataclass(frozen=True, slots=True)
class DelayReport:
    """Milliseconds from a sample's Kafka time stamp to being answered from; None where no sample came."""

    samples: int
    p50_ms: int | None
    p95_ms: int | None


@dataclass(frozen=True, slots=True)
class FreshnessReport:
    """Delays of all samples since the start, and of those that came within the last minute."""

    overall: DelayReport
    last_minute: DelayReport


@dataclass(frozen=True, slots=True)
class RefusalReport:
    """One thing that was not taken."""

    at_ms: int
    reason: str
    detail: str
    source: str


@dataclass(frozen=True, slots=True)
class FeedReport:
    """The way from Redis: counts since the start, what is waited for, and the last refusals, newest first."""

    connected: bool
    waiting_for: str
    applied: int
    duplicates: int
    bases: int
    reconnects: int
    refused: dict[str, int]
    refusals: list[RefusalReport]


@dataclass(frozen=True, slots=True)
class PinReport:
    """The version that this server stays at: which, who said so, and since when."""

    version: str
    by: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class HoldReport:
    """Why the trainer publishes nothing: its quality gate's reason, and the first cut that was held back."""

    reason: str
    detail: str
    since_ms: int
    sequence: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The model that answers."""

    name: str
    fingerprint: str
    schema: dict[str, object]
    lineage: str | None
    epoch: int | None
    version: str | None
    sequence: int | None
    base_sequence: int | None
    age_ms: int | None
    newest_sample_age_ms: int | None
    samples_trained: int | None
    pinned: PinReport | None
    held_back: HoldReport | None
    rows: int
    bytes: BytesReport
    freshness: FreshnessReport
    feed: FeedReport


class ModelReporter:
    """Puts the report together.

    Args:
        schema: of the model.
        replica: for version and memory.
        feed_log: for increments and refusals.
        freshness: for delays.
        now_ms: the clock.
    """

    def __init__(
        self,
        schema: ModelSchema,
        replica: Replica,
        feed_log: FeedLog,
        freshness: FreshnessMeter,
        now_ms: Callable[[], int],
    ) -> None:
        self._schema = schema
        self._replica = replica
        self._feed_log = feed_log
        self._freshness = freshness
        self._now_ms = now_ms

    def report(self) -> ModelReport:
        """The report of this moment."""
        now_ms = self._now_ms()
        version = self._replica.version
        footprint = self._replica.footprint
        feed = self._feed_log.state
        return ModelReport(
            name=self._schema.name,
            fingerprint=self._schema.fingerprint,
            schema=asdict(self._schema),
            lineage=_of(version, lambda v: v.lineage),
            epoch=_of(version, lambda v: v.epoch),
            version=_of(version, lambda v: v.name),
            sequence=_of(version, lambda v: v.sequence),
            base_sequence=_of(version, lambda v: v.base_sequence),
            age_ms=_of(version, lambda v: max(now_ms - v.created_ms, 0)),
            newest_sample_age_ms=_sample_age_ms(version, now_ms),
            samples_trained=_of(version, lambda v: v.samples_trained),
            pinned=None if feed.pin is None else PinReport(feed.pin.base.version, feed.pin.by, feed.pin.since_ms),
            held_back=_hold(feed.hold),
            rows=footprint.rows,
            bytes=_bytes(footprint),
            freshness=FreshnessReport(
                DelayReport(*self._freshness.overall()), DelayReport(*self._freshness.last_minute(now_ms))
            ),
            feed=_feed(feed),
        )


def _of(version: ModelVersion | None, read: Callable[[ModelVersion], T]) -> T | None:
    return None if version is None else read(version)


def _sample_age_ms(version: ModelVersion | None, now_ms: int) -> int | None:
    if version is None or version.newest_sample_ms == 0:
        return None
    return max(now_ms - version.newest_sample_ms, 0)


def _bytes(footprint: Footprint) -> BytesReport:
    return BytesReport(
        rows=footprint.row_bytes,
        rows_by_precision=footprint.precision_bytes,
        index=footprint.index_bytes,
        dense=footprint.dense_bytes,
        total=footprint.total_bytes,
    )


def _hold(hold: Hold | None) -> HoldReport | None:
    return None if hold is None else HoldReport(hold.reason, hold.detail, hold.since_ms, hold.sequence)


def _feed(state: FeedState) -> FeedReport:
    return FeedReport(
        connected=state.connected,
        waiting_for=state.waiting_for,
        applied=state.applied,
        duplicates=state.duplicates,
        bases=state.bases,
        reconnects=state.reconnects,
        refused=state.refused,
        refusals=[RefusalReport(item.at_ms, item.reason, item.detail, item.source) for item in state.refusals],
    )
