"""Decoded samples as columns, and the records that could not become samples.

Knows no wire form and no schema. Invariant of a batch: sample-major CSR, every bag holds at least one id (a missing
value is one entry, its slot's missing id), and no id is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decoded", "Reason", "Reject", "SampleBatch"]


class Reason(StrEnum):
    """Why a record was refused: the short codes that travel in the dead-letter headers and metrics."""

    NULL_MESSAGE = "null_message"  # a Kafka tombstone: no value at all
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    BAD_ARROW = "bad_arrow"
    WRONG_TYPE = "wrong_type"
    NOT_FINITE = "not_finite"
    OUT_OF_RANGE = "out_of_range"
    BAD_LABEL = "bad_label"
    UNKNOWN_FIELD = "unknown_field"
    UNKNOWN_SLOT = "unknown_slot"
    UNKNOWN_DENSE = "unknown_dense"
    TOO_MANY_VALUES = "too_many_values"


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that gave no rows.

    Attributes:
        index: position of the record among those handed to the decoder.
        reason: short code, a `Reason`.
        detail: one line for a person: where, what was seen, what was expected.
    """

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """B samples of F sparse slots and n dense features, as columns.

    Attributes:
        labels: (B,) float32, 0 or 1.
        weights: (B,) float32, >= 0, 1 where the sample gave none.
        ts_ms: (B,) int64, 0 where the sample gave none.
        dense: (B, n) float32, raw (not transformed), NaN is missing.
        ids: (L,) uint64 feature ids, never 0.
        offsets: (B * F + 1,) int64; the bag of sample b and slot f is
            `ids[offsets[b * F + f] : offsets[b * F + f + 1]]` and never empty.
    """

    labels: NDArray[np.float32]
    weights: NDArray[np.float32]
    ts_ms: NDArray[np.int64]
    dense: NDArray[np.float32]
    ids: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    @property
    def rows(self) -> int:
        """Number of samples, B."""
        return len(self.labels)

    @staticmethod
    def empty(dense_features: int = 0) -> "SampleBatch":
        """A batch without samples."""
        return SampleBatch(
            labels=np.empty(0, np.float32),
            weights=np.empty(0, np.float32),
            ts_ms=np.empty(0, np.int64),
            dense=np.empty((0, dense_features), np.float32),
            ids=np.empty(0, np.uint64),
            offsets=np.zeros(1, np.int64),
        )

    def slice(self, lo: int, hi: int) -> "SampleBatch":
        """Samples lo to hi (exclusive, as Python slices); views of all arrays but the offsets."""
        lo, hi, _ = slice(lo, hi).indices(self.rows)
        hi = max(lo, hi)
        slots = (len(self.offsets) - 1) // max(self.rows, 1)
        offsets = self.offsets[lo * slots : hi * slots + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return SampleBatch(
            labels=self.labels[lo:hi],
            weights=self.weights[lo:hi],
            ts_ms=self.ts_ms[lo:hi],
            dense=self.dense[lo:hi],
            ids=self.ids[first:last],
            offsets=offsets - first,
        )

    def take(self, rows: NDArray[np.int64]) -> "SampleBatch":
        """A new batch of the samples at `rows` (k,) int64, in that order; a row may come twice."""
        slots = (len(self.offsets) - 1) // max(self.rows, 1)
        bags = (rows[:, None] * slots + np.arange(slots)).reshape(-1)
        starts = self.offsets[bags]
        lengths = self.offsets[bags + 1] - starts
        offsets = np.zeros(len(bags) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return SampleBatch(
            labels=self.labels[rows],
            weights=self.weights[rows],
            ts_ms=self.ts_ms[rows],
            dense=self.dense[rows],
            ids=self.ids[source],
            offsets=offsets,
        )

    @staticmethod
    def concatenate(batches: Sequence["SampleBatch"]) -> "SampleBatch":
        """The samples of all batches one after another; the batches are of one schema, at least one is given."""
        batches = [batch for batch in batches if batch.rows] or batches[:1]
        if len(batches) == 1:
            return batches[0]
        shifts = np.cumsum([0] + [len(batch.ids) for batch in batches])
        offsets = [batch.offsets[:-1] + shift for batch, shift in zip(batches, shifts[:-1], strict=True)]
        return SampleBatch(
            labels=np.concatenate([batch.labels for batch in batches]),
            weights=np.concatenate([batch.weights for batch in batches]),
            ts_ms=np.concatenate([batch.ts_ms for batch in batches]),
            dense=np.concatenate([batch.dense for batch in batches]),
            ids=np.concatenate([batch.ids for batch in batches]),
            offsets=np.concatenate([*offsets, shifts[-1:]]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What a decoder made of a list of records.

    Attributes:
        batch: the good samples, in the order of their records.
        source_index: (B,) int64, position of the record each sample came from; ascending.
        rejects: the records that gave no sample, ascending by index. A record is either here or in `source_index`,
            or it is an Arrow message without rows.
    """

    batch: SampleBatch
    source_index: NDArray[np.int64]
    rejects: tuple[Reject, ...]

    @staticmethod
    def merged(parts: Sequence["Decoded"]) -> "Decoded":
        """What all parts (at least one) made of different records of one list, in the order of the records."""
        batch = SampleBatch.concatenate([part.batch for part in parts])
        source_index = np.concatenate([part.source_index for part in parts])
        if np.any(source_index[1:] < source_index[:-1]):
            order = np.argsort(source_index, kind="stable")
            batch, source_index = batch.take(order), source_index[order]
        rejects = sorted((reject for part in parts for reject in part.rejects), key=attrgetter("index"))
        return Decoded(batch, source_index, tuple(rejects))
