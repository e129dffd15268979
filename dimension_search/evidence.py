"""What a search knows about every (slot, band) block: its rows, its traffic and what each column does for the loss.

Knows no table and no gradient, only sums of them. Written e for a looked-up row's value and g for the derivative of
the loss by it, over the L lookups of a window (SSEDS, Qu et al. 2022, arXiv 2204.03281, section 3: with a mask alpha of
ones on the columns, dL/dalpha = sum e g).

Invariant: columns that a block does not have score 0; all arrays are of one shape (F slots, K bands, D columns).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from model_contract.compiled import fast_kernel

__all__ = ["BlockEvidence", "WindowSums", "blend"]

Floats = NDArray[np.float64]
_RADIX_BLOCKS = 1 << 15  # numpy sorts 16-bit integers by radix
_DOUBT = 4.0  # sum z^2 is also the variance of sum z: blocks that did little are not called noise


@dataclass(frozen=True, slots=True, eq=False)
class BlockEvidence:
    """Evidence about F * K blocks.

    Attributes:
        active: bool (F, K, D), the columns that blocks have now.
        rows: i64 (F, K), live rows, the slot's missing row among them.
        counts: f64 (F, K), decayed number of lookups of all rows together.
        lookups: f64 (F, K), lookups of the window that read a row of the block.
        first: f64 (F, K, D), |sum e g|: the single-shot saliency of SSEDS.
        squared: f64 (F, K, D), sum (e g)^2: its second-order form (empirical Fisher), which does not cancel.
        magnitude: f64 (F, K, D), sum e^2 over lookups.
        spectrum: f64 (F, K, D), principal saliency per sample, descending: the k-th singular value of C^1/2 H^1/2
            with C = sum e e^T and H = sum g g^T over the block's lookups, each divided by the window's samples. Its
            fall says how many directions of a row's vector do something for the loss.
        signal: f64 (F, K), the share of what a block's rows say that is not noise, 0 to 1. With z = sum over columns of
            e g, the derivative by the row's own size, a row that only fits chance adds as much variance as it claims to
            explain: then sum z = sum z^2 on samples not learned yet, where for a row that is right sum z = 0. The best
            factor to shrink the rows by is 1 - sum z / sum z^2 (James and Stein 1961, with the empirical Fisher form as
            curvature).
        proven: i64 (F, K), columns that a block had at the search before already; the others are too young to be judged
            by what they do. None where all have proven themselves.
    """

    active: NDArray[np.bool_]
    rows: NDArray[np.int64]
    counts: Floats
    lookups: Floats
    first: Floats
    squared: Floats
    magnitude: Floats
    spectrum: Floats
    signal: Floats
    proven: NDArray[np.int64] | None = None

    @property
    def slots(self) -> int:
        """F."""
        return int(self.active.shape[0])

    @property
    def bands(self) -> int:
        """K."""
        return int(self.active.shape[1])

    @property
    def dim(self) -> int:
        """D."""
        return int(self.active.shape[2])

    @property
    def widths(self) -> NDArray[np.int64]:
        """Columns that each block has now, i64 (F, K)."""
        return np.asarray(self.active.sum(axis=2), np.int64)


_SUMS = ("lookups", "first", "squared", "magnitude", "sizes", "values", "slopes")


@fast_kernel
def _add_products(
    blocks: NDArray[np.int32],
    values: NDArray[np.float32],
    slopes: NDArray[np.float32],
    lookups: Floats,
    first: Floats,
    squared: Floats,
    magnitude: Floats,
    sizes: Floats,
) -> None:
    """Adds e * g, its square and e * e of every lookup that has a row to the sums f64 (F * K, D) of its block.

    `sizes` f64 (F * K, 2) receives z, the sum of e * g over the columns, and its square.
    """
    dim = values.shape[1]
    for lookup in range(blocks.size):
        block = blocks[lookup]
        if block < 0:
            continue
        lookups[block] += 1.0
        size = 0.0
        for column in range(dim):
            value = np.float64(values[lookup, column])
            effect = value * np.float64(slopes[lookup, column])
            size += effect
            first[block, column] += effect
            squared[block, column] += effect * effect
            magnitude[block, column] += value * value
        sizes[block, 0] += size
        sizes[block, 1] += size * size


class WindowSums:
    """Sums of a window of lookups, from which evidence is made; F * K * D^2 floats twice.

    Args:
        slots: F.
        bands: K.
        dim: D.
        every: of the lookups of a block, every so many-th goes into the spectrum, whose sums cost D times the others'.

    Attributes:
        samples: of the window so far.
    """

    def __init__(self, slots: int, bands: int, dim: int, every: int = 1) -> None:
        blocks = slots * bands
        self._shape = (slots, bands, dim)
        self._every = every
        self.samples = 0
        self._lookups = np.zeros(blocks)
        self._first, self._squared, self._magnitude = np.zeros((3, blocks, dim))
        self._sizes = np.zeros((blocks, 2))
        self._values = np.zeros((blocks, dim, dim))
        self._slopes = np.zeros((blocks, dim, dim))

    def add(
        self, samples: int, blocks: NDArray[np.int32], values: NDArray[np.float32], slopes: NDArray[np.float32]
    ) -> None:
        """Adds the L lookups of some samples.

        Args:
            samples: how many.
            blocks: i32 (L,), slot * K + band of the row; below 0 for a lookup without a row.
            values: f32 (L, D), e.
            slopes: f32 (L, D), g.

        Raises:
            SearchError: shapes disagree.
        """
        if values.shape != slopes.shape or values.shape != (blocks.size, self._shape[2]):
            message = f"values are {values.shape}, slopes {slopes.shape}: expected ({blocks.size}, {self._shape[2]})"
            raise SearchError(message)
        self.samples += samples
        _add_products(blocks, values, slopes, self._lookups, self._first, self._squared, self._magnitude, self._sizes)
        order = np.argsort(blocks.astype(np.int16) if self._lookups.size < _RADIX_BLOCKS else blocks, kind="stable")
        borders = np.searchsorted(blocks[order], np.arange(self._lookups.size + 1))
        for block in np.flatnonzero(np.diff(borders)).tolist():
            here = order[borders[block] : borders[block + 1]]
            some = here[:: self._every]
            e, g = values[some].astype(np.float64), slopes[some].astype(np.float64)  # float32 sums hide a low rank
            share = here.size / some.size
            self._values[block] += share * (e.T @ e)
            self._slopes[block] += share * (g.T @ g)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of all sums, by name."""
        arrays: dict[str, NDArray[np.generic]] = {name: getattr(self, f"_{name}").copy() for name in _SUMS}
        return {**arrays, "samples": np.array(self.samples, np.int64)}

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes back what `state` returned, of the same F, K and D."""
        for name in _SUMS:
            getattr(self, f"_{name}")[...] = arrays[name]
        self.samples = int(arrays["samples"])

    def evidence(self, active: NDArray[np.bool_], rows: NDArray[np.int64], counts: Floats) -> BlockEvidence:
        """The evidence of what was added.

        Args:
            active: bool (F, K, D).
            rows: i64 (F, K).
            counts: f64 (F, K).
        """
        slots, bands, dim = self._shape
        spectrum = np.array([_principal(c, h) for c, h in zip(self._values, self._slopes, strict=True)])
        spectrum /= max(self.samples, 1)

        def masked(sums: Floats) -> Floats:
            return np.where(active, sums.reshape(slots, bands, dim), 0.0)

        return BlockEvidence(
            active=active,
            rows=rows,
            counts=counts,
            lookups=self._lookups.reshape(slots, bands),
            first=masked(np.abs(self._first)),
            squared=masked(self._squared),
            magnitude=masked(self._magnitude),
            spectrum=spectrum.reshape(slots, bands, dim),
            signal=np.clip(1 - self._sizes[:, 0] / (self._sizes[:, 1] + _DOUBT), 0, 1).reshape(slots, bands),
        )


def _principal(values: Floats, slopes: Floats) -> Floats:
    """Singular values of C^1/2 H^1/2, descending."""
    if not values.any() or not slopes.any():
        return np.zeros(len(values))
    roots, axes = np.linalg.eigh(values)
    half = (axes * np.sqrt(np.maximum(roots, 0))) @ axes.T
    found = np.linalg.eigvalsh(half @ slopes @ half)
    return np.asarray(np.sqrt(np.maximum(found[::-1], 0)), np.float64)


def blend(new: BlockEvidence, old: BlockEvidence | None, keep: float) -> BlockEvidence:
    """The running mean of evidence over searches, so that one window's noise moves no width.

    What is remembered of a slot fades with the change of its share in the whole spectrum: a slot that matters twice or
    half as much as before is judged by the new window alone. A block without rows or lookups in the new window keeps
    what was known of it.

    Args:
        new: of this window.
        old: blended so far, None before the first.
        keep: weight of `old` for a slot whose share is what it was, 0 <= keep < 1.
    """
    if old is None:
        return new
    seen = (new.lookups > 0)[:, :, None]
    kept = (keep * _likeness(new, old))[:, None, None]

    def mean(now: Floats, before: Floats) -> Floats:
        return np.where(seen, (1 - kept) * now + kept * before, before)

    return replace(
        new,
        proven=np.minimum(new.widths, old.widths),
        rows=np.where(new.rows > 0, new.rows, old.rows),
        counts=np.where(new.rows > 0, new.counts, old.counts),
        spectrum=mean(new.spectrum, old.spectrum),
        squared=np.where(new.active, mean(new.squared, old.squared), 0.0),
        signal=np.where(new.lookups > 0, (1 - kept[:, :, 0]) * new.signal + kept[:, :, 0] * old.signal, old.signal),
    )


def _likeness(new: BlockEvidence, old: BlockEvidence) -> Floats:
    """f64 (F,): 1 where a slot's share in the spectrum is what it was, 0 from twice or half of it on."""
    now, before = (evidence.spectrum.sum(axis=(1, 2)) for evidence in (new, old))
    now, before = now / max(now.sum(), 1e-300), before / max(before.sum(), 1e-300)
    ratio = np.minimum(now, before) / np.maximum(np.maximum(now, before), 1e-300)
    return np.asarray(np.maximum(2 * ratio - 1, 0), np.float64)
