"""What may touch the replica: every increment and base is judged here, in order, before it is applied.

Knows no Redis: bytes come in with a word on where they were read. Invariant: the replica's version only moves from a
sequence to the next one of the same lineage, or to a whole base; whatever is refused leaves it as it was, with a
reason in the feed log. An increment that was applied before is skipped quietly when it is the same cut; when it is
another cut under the same number, the trainer has told another story since, and a base is needed.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from model_contract.errors import IncrementError
from model_contract.increment import Increment, IncrementHeader, IncrementLimits, decode
from model_contract.schema import ModelSchema
from serving.errors import IncrementRefused, ModelNotLoaded, RefusalReason
from serving.feed_log import FeedLog, Refusal
from serving.freshness import FreshnessMeter
from serving.replica import ModelVersion, Replica

__all__ = ["Head", "Intake", "Outcome"]

_log = logging.getLogger(__name__)

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Head:
    """What Redis says is current.

    Attributes:
        lineage: history in use.
        epoch: of the trainer that moved the head last.
        sequence: of the last increment published, or of the base when there is none after it.
        base_sequence: of the current base.
        base_chunks: number of its chunks.
        base_bytes: length of all of them together.
        fingerprint: of the schema.
    """

    lineage: str
    epoch: int
    sequence: int
    base_sequence: int
    base_chunks: int
    base_bytes: int
    fingerprint: str


class Outcome(Enum):
    """What became of an increment."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


class Intake:
    """Judges, applies and keeps count. For one thread.

    Args:
        schema: of the model.
        replica: to be changed.
        feed_log: told of everything.
        freshness: told of the samples that are answered from.
        increment_limits: of one increment.
        base_limits: of a base.
        now_ms: the clock.
    """

    def __init__(
        self,
        schema: ModelSchema,
        replica: Replica,
        feed_log: FeedLog,
        freshness: FreshnessMeter,
        *,
        increment_limits: IncrementLimits,
        base_limits: IncrementLimits,
        now_ms: Callable[[], int],
    ) -> None:
        self._fingerprint = schema.fingerprint
        self._replica = replica
        self._feed_log = feed_log
        self._freshness = freshness
        self._increment_limits = increment_limits
        self._base_limits = base_limits
        self._now_ms = now_ms
        self._cuts: OrderedDict[int, tuple[int, int]] = OrderedDict()  # sequence -> what tells its cut from another
        self._refused_since: set[tuple[str, str]] = set()  # (source, reason) since the version last moved
        self._rewritten = False

    @property
    def version(self) -> ModelVersion | None:
        """The version that answers now."""
        return self._replica.version

    @property
    def stuck(self) -> bool:
        """Whether something was refused since the version last moved."""
        return bool(self._refused_since)

    def wants_base(self, head: Head) -> bool:
        """Whether the base that `head` names is to be loaded.

        It is when there is no model yet, when the lineage is another, when the increments that were refused or missed
        are in that base, or when the trainer went back behind what was applied here.
        """
        version = self._replica.version
        if version is None or head.lineage != version.lineage:
            return True
        if self._rewritten or (head.epoch > version.epoch and head.sequence < version.sequence):
            return True
        return self.stuck and head.base_sequence > version.sequence

    def check_head(self, head: Head) -> bool:
        """Whether the head belongs to this model; if not, that is noted as a refusal."""
        if head.fingerprint == self._fingerprint:
            return True
        detail = f"the head's schema is {head.fingerprint}: expected {self._fingerprint}"
        self.refuse("head", RefusalReason.SCHEMA_MISMATCH, detail)
        return False

    def take_base(self, head: Head, data: bytes | bytearray) -> Outcome:
        """Loads the base that `head` names."""
        source = f"base {head.base_sequence}"
        try:
            base = decode(data, limits=self._base_limits, expected_fingerprint=self._fingerprint)
            _check_base(base.header, head)
            version = self._replica.load_base(base)
        except (IncrementError, IncrementRefused) as error:
            return self._refused(source, error)
        self._moved(version)
        self._cuts.clear()
        self._rewritten = False
        self._feed_log.loaded()
        _log.info("loaded base %s: %d rows", version.name, self._replica.footprint.rows)
        return Outcome.APPLIED

    def take(self, source: str, data: bytes) -> Outcome:
        """Applies one increment where it is the next one."""
        try:
            increment = decode(data, limits=self._increment_limits, expected_fingerprint=self._fingerprint)
            header = increment.header
            if self._is_duplicate(header):
                self._feed_log.duplicate()
                return Outcome.DUPLICATE
            version = self._apply(increment)
        except (IncrementError, IncrementRefused, ModelNotLoaded) as error:
            return self._refused(source, error)
        self._cuts[header.sequence] = _cut_of(header)
        if len(self._cuts) > _REMEMBERED:
            self._cuts.popitem(last=False)
        self._moved(version)
        self._feed_log.applied()
        return Outcome.APPLIED

    def refuse(self, source: str, reason: str, detail: str) -> Outcome:
        """Notes that something cannot be taken; the same thing, read again, is noted once."""
        if (source, reason) not in self._refused_since:
            level = logging.DEBUG if self._refused_since else logging.WARNING  # what follows a gap is no news
            _log.log(level, "%s refused: %s: %s", source, reason, detail)
            self._refused_since.add((source, reason))
            self._feed_log.refused(Refusal(self._now_ms(), str(reason), detail, source))
        return Outcome.REFUSED

    def _apply(self, increment: Increment) -> ModelVersion:
        version = self._replica.apply(increment)
        self._freshness.record(increment.header.sample_times, self._now_ms())
        return version

    def _moved(self, version: ModelVersion) -> None:
        if self._refused_since:
            _log.info("version %s answers; going on", version.name)
        self._refused_since.clear()

    def _refused(self, source: str, error: IncrementError | IncrementRefused | ModelNotLoaded) -> Outcome:
        if isinstance(error, IncrementRefused):
            return self.refuse(source, error.reason, error.detail)
        reason = error.reason if isinstance(error, IncrementError) else "no_base"
        return self.refuse(source, reason, str(error) or "there is no base to apply it to")

    def _is_duplicate(self, header: IncrementHeader) -> bool:
        """Whether the increment was applied before; raises where it is neither that nor the next one."""
        version = self._replica.version
        if version is None:
            raise ModelNotLoaded
        if header.kind != "increment":
            raise IncrementRefused(RefusalReason.NOT_AN_INCREMENT, f"kind {header.kind!r}: expected 'increment'")
        if header.lineage != version.lineage:
            raise IncrementRefused(
                RefusalReason.FOREIGN_LINEAGE, f"lineage {header.lineage!r}: expected {version.lineage!r}"
            )
        if header.sequence <= version.sequence:
            if self._cuts.get(header.sequence, _cut_of(header)) != _cut_of(header):
                self._rewritten = True
                raise IncrementRefused(
                    RefusalReason.REWRITTEN, f"sequence {header.sequence} was applied before with other content"
                )
            return True
        if header.epoch < version.epoch:
            raise IncrementRefused(
                RefusalReason.STALE_EPOCH, f"epoch {header.epoch}: expected {version.epoch} or later"
            )
        if header.sequence > version.sequence + 1:
            raise IncrementRefused(RefusalReason.GAP, f"sequence {header.sequence}: expected {version.sequence + 1}")
        return False


def _cut_of(header: IncrementHeader) -> tuple[int, int]:
    """The same for one cut however often it is encoded; the base it builds on may differ between two encodings."""
    return header.created_ms, header.samples_trained


def _check_base(header: IncrementHeader, head: Head) -> None:
    if header.kind != "base":
        raise IncrementRefused(RefusalReason.NOT_A_BASE, f"kind {header.kind!r}: expected 'base'")
    if header.lineage != head.lineage:
        raise IncrementRefused(RefusalReason.FOREIGN_LINEAGE, f"lineage {header.lineage!r}: expected {head.lineage!r}")
    if header.sequence != head.base_sequence:
        raise IncrementRefused(RefusalReason.WRONG_BASE, f"sequence {header.sequence}: expected {head.base_sequence}")
