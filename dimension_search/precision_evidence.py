"""What a search for precision knows of every class of rows: how many, how wide, and what each codec does to the loss.

A class is a level of importance inside a (slot, band): rows that are alike in width, sensitivity and traffic. The loss
that a codec causes is estimated to second order, lookup by lookup, without its noise: with e the error of the decoded
row and s the derivative of the logit by the row, the expected log-loss of a calibrated prediction p rises by

    1/2 p (1 - p) (s . e)^2

(the Gauss-Newton form of the second-order term; Fisher information of a Bernoulli variable). Terms of first order
vanish in the mean for errors that know nothing of labels, and so do products of two slots' errors.

Knows sums, no table. Invariant: classes stand by slot, band, level; nothing is below 0.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from dimension_search.row_importance import LEVELS
from embedding_table.packed_words import BLOCK
from embedding_table.row_codecs import codec_named

__all__ = ["UNCOVERED_SHARE", "PrecisionEvidence", "PrecisionSums"]

Floats = NDArray[np.float64]

UNCOVERED_SHARE = 0.01
"""Share of a tier's rows that its one scale need not cover; they carry scales of their own."""

_SCALE_BYTES = 4


@dataclass(frozen=True, eq=False)
class PrecisionEvidence:
    """Evidence about C = F * K * LEVELS classes under N codecs.

    Attributes:
        bands: K.
        codecs: names, N of them.
        widths: i64 (F * K,), columns of a block's rows.
        rows: i64 (C,), live rows.
        lookups: f64 (C,), lookups of the window.
        rise: f64 (C, N), what a codec adds to the mean log-loss of a sample.
        error: f64 (C, N), mean squared error of a looked-up row over its mean square.
        sensitivity: f64 (F * K,), mean of p (1 - p) s_k^2 over lookups and columns.
        log_loss: mean of the window.
        samples: of the window.
    """

    bands: int
    codecs: tuple[str, ...]
    widths: NDArray[np.int64]
    rows: NDArray[np.int64]
    lookups: Floats
    rise: Floats
    error: Floats
    sensitivity: Floats
    log_loss: float
    samples: int

    @property
    def blocks(self) -> int:
        """F * K."""
        return int(self.widths.size)

    @cached_property
    def row_bytes(self) -> NDArray[np.int64]:
        """Bytes of a row i64 (F * K, N)."""
        codecs = [codec_named(name) for name in self.codecs]
        return np.array([[codec.bytes_per_row(int(width)) for codec in codecs] for width in self.widths], np.int64)

    @cached_property
    def shared_bytes(self) -> NDArray[np.int64]:
        """Bytes that the rows of a tier share, i64 (N,)."""
        return np.array([codec_named(name).shared_bytes for name in self.codecs], np.int64)

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """Bytes of each class under each codec, i64 (C, N), as if no other class shared anything with it."""
        rows = self.rows[:, None]
        one_scale = np.array([codec_named(name).form == BLOCK for name in self.codecs])
        uncovered = np.ceil(rows * UNCOVERED_SHARE).astype(np.int64) * _SCALE_BYTES * one_scale
        packed = rows * np.repeat(self.row_bytes, LEVELS, axis=0) + uncovered + self.shared_bytes * (rows > 0)
        return np.asarray(packed, np.int64)

    @property
    def fp32_bytes(self) -> int:
        """What all rows take unpacked."""
        return int(np.sum(self.rows * 4 * np.repeat(self.widths, LEVELS)))


class PrecisionSums:
    """Sums over the lookups of a window.

    Args:
        slots: F.
        bands: K.
        codecs: names.

    Attributes:
        samples: of the window so far.
    """

    def __init__(self, slots: int, bands: int, codecs: tuple[str, ...]) -> None:
        classes = slots * bands * LEVELS
        self.samples = 0
        self._weight = 0.0
        self._log_loss = 0.0
        self._bands = bands
        self._codecs = codecs
        self._lookups = np.zeros(classes)
        self._rise = np.zeros((classes, len(codecs)))
        self._lost = np.zeros((classes, len(codecs)))
        self._norm = np.zeros(classes)
        self._slopes = np.zeros(classes)

    def add_samples(self, samples: int, weight: float, log_loss: float) -> None:
        """Counts samples with the sums of their weights and weighted log-losses."""
        self.samples += samples
        self._weight += weight
        self._log_loss += log_loss

    def add_lookups(self, classes: NDArray[np.int64], norms: Floats, slopes: Floats) -> None:
        """Adds L lookups: their classes i64, squared norms of their rows, and of p (1 - p) s s, f64 (L,)."""
        size = self._lookups.size
        self._lookups += np.bincount(classes, minlength=size)
        self._norm += np.bincount(classes, norms, minlength=size)
        self._slopes += np.bincount(classes, slopes, minlength=size)

    def add_errors(self, codec: int, classes: NDArray[np.int64], rises: Floats, lost: Floats) -> None:
        """Adds what the codec of that number does to these lookups: rises of log-loss and squared errors, f64 (L,)."""
        size = self._lookups.size
        self._rise[:, codec] += np.bincount(classes, rises, minlength=size)
        self._lost[:, codec] += np.bincount(classes, lost, minlength=size)

    def evidence(self, rows: NDArray[np.int64], widths: NDArray[np.int64]) -> PrecisionEvidence:
        """The evidence of what was added.

        A window is too short to see most cold rows, so each class gets one lookup more, of its block's mean (of the
        slot's, of all, where the block was not looked up).

        Args:
            rows: i64 (C,), live rows of each class.
            widths: i64 (F * K,).

        Raises:
            SearchError: there is no sample, or the shapes disagree.
        """
        if self.samples == 0 or self._weight == 0 or rows.size != self._lookups.size:
            message = f"evidence of {self.samples} samples for {rows.size} classes: expected {self._lookups.size}"
            raise SearchError(message)
        typical = np.repeat(self._typical_rise(), LEVELS, axis=0)
        lost = self._lost / np.maximum(self._norm, 1e-30)[:, None]
        by_block = (widths.size, LEVELS)
        lookups = self._lookups.reshape(by_block).sum(axis=1)
        slopes = self._slopes.reshape(by_block).sum(axis=1)
        return PrecisionEvidence(
            bands=self._bands,
            codecs=self._codecs,
            widths=widths,
            rows=rows,
            lookups=self._lookups,
            rise=np.where(rows[:, None] > 0, (self._rise + typical) / self._weight, 0.0),
            error=lost,
            sensitivity=slopes / np.maximum(lookups * np.maximum(widths, 1), 1),
            log_loss=self._log_loss / self._weight,
            samples=self.samples,
        )

    def _typical_rise(self) -> Floats:
        """Mean rise by one lookup, f64 (F * K, N)."""
        codecs = len(self._codecs)
        rise = self._rise.reshape(-1, self._bands, LEVELS, codecs).sum(axis=2)
        lookups = self._lookups.reshape(-1, self._bands, LEVELS).sum(axis=2)[:, :, None]
        overall = rise.sum(axis=(0, 1)) / max(lookups.sum(), 1)
        of_slot = lookups.sum(axis=1)
        slot = np.where(of_slot > 0, rise.sum(axis=1) / np.maximum(of_slot, 1), overall)[:, None]
        typical = np.where(lookups > 0, rise / np.maximum(lookups, 1), slot)
        return np.asarray(typical.reshape(-1, codecs), np.float64)
