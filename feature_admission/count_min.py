"""Admission by a decayed count-min sketch: an id gets a row once its recent count reaches a threshold.

Knows no slots and no rows, only ids and how often they came; keeps no id, so a refused id costs nothing. Forgetting is
exponential and exact in form: instead of shrinking every cell as time goes on, a newer observation weighs more (forward
decay), and all cells are scaled back by a power of two once in 64 half-lives. So a quiet sketch has no dirty pages.

Error bound. Let c be the true decayed count of an id and N the decayed count of all observations. The estimate is
never below c (but for float32 rounding, one part in 2^24 an addition, and the cap below), and above c + e * N / width
for at most a share exp(-depth) of the ids, over the choice of the seed. With a half-life of H observations N never
exceeds H / ln 2 + 1, so the bound stands still however long the stream. Conservative update (only cells below the new
estimate are raised) keeps the bound and comes out far below it; plain update is linear: the sketches of two streams
with one seed add up to the sketch of both. Counts saturate at `COUNT_CAP`, so thresholds far above 15 work.

Invariant: a cell is at least the largest decayed count of any id that maps to it. Memory is 4 bytes a cell and one
dirty byte a page of 64 cells, allocated once, never more than the `memory_bytes` asked for.

Sources: Cormode, Muthukrishnan: An improved data stream summary: the count-min sketch and its applications (2005),
section 3, 4.1; Estan, Varghese: New directions in traffic measurement and accounting (2002), section 3.3 (conservative
update); Cormode, Shkapenyuk, Srivastava, Xu: Forward decay (2009), section III.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_admission.admission import checked_counts, checked_ids, state_array
from feature_admission.errors import ClockError, PolicySettingError, StateMismatchError
from feature_admission.sketch_cells import add_counts, estimate_counts, weight_at
from feature_admission.state_pages import PAGE_BYTES, StatePages, take_pages, whole_array, write_pages

__all__ = ["COUNT_CAP", "CountMinAdmission", "ErrorBound"]

COUNT_CAP = 1 << 20  # float32 steps are then at most a sixteenth of one observation, at any weight
_PAGE_CELLS = PAGE_BYTES // 4
_FIXED_BYTES = 512  # clock, total, seeds
_SPLIT = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """How far an estimate may lie above the true decayed count.

    Attributes:
        excess: counts; e * N / width for the N observed by now.
        failure_share: share of ids that may lie above `excess`, exp(-depth).
    """

    excess: float
    failure_share: float


class CountMinAdmission:
    """Admits an id whose decayed count, rounded to the nearest whole number, has reached the threshold.

    Rounding makes a threshold mean what it says: 2 admits at the second observation when it comes within one half-life
    of the first. An admitted id that stays away is no longer admitted once its count has decayed below.

    Args:
        threshold: observations needed, 1 to COUNT_CAP / 2.
        memory_bytes: upper limit for all that the sketch holds; at least 1024.
        half_life_observations: observations (of all ids) after which a count weighs half.
        half_life_s: or seconds after which it does, kept to the millisecond; then `observe` needs `now_s`.
            With neither nothing is ever forgotten, and the error grows with the stream.
        depth: rows of the sketch, 1 to 16: more rows, fewer ids that go beyond the bound, and a larger bound.
        conservative: raise only the cells that are below the new estimate.
        seed: of the hash functions.

    Raises:
        PolicySettingError: a value is out of its range, or both half-lives are given.
    """

    def __init__(
        self,
        threshold: int,
        memory_bytes: int,
        *,
        half_life_observations: int | None = None,
        half_life_s: float | None = None,
        depth: int = 4,
        conservative: bool = True,
        seed: int = 0,
    ) -> None:
        _check_range("threshold", threshold, 1, COUNT_CAP // 2)
        _check_range("memory_bytes", memory_bytes, 1024, 1 << 40)
        _check_range("depth", depth, 1, 16)
        _check_range("seed", seed, 0, (1 << 63) - 1)
        for name, value in (("half_life_observations", half_life_observations), ("half_life_s", half_life_s)):
            if value is not None:
                _check_range(name, value, 1, 1 << 32)
        if half_life_observations is not None and half_life_s is not None:
            msg = f"half_life_observations={half_life_observations} and half_life_s={half_life_s}: give one of them"
            raise PolicySettingError(msg)
        pages = (memory_bytes - _FIXED_BYTES) // (PAGE_BYTES + 1)
        self.threshold = threshold
        self._by_seconds = half_life_s is not None
        self._half_life = half_life_observations or round((half_life_s or 0) * 1000)  # the clock then counts in ms
        self._conservative = conservative
        self._cells = np.zeros(pages * _PAGE_CELLS, np.float32)
        self._dirty = np.zeros(pages, np.uint8)
        self._width = len(self._cells) // depth
        self._clock = np.zeros(2, np.int64)  # observations or ms so far, tick of weight 1
        self._total = np.zeros(1, np.float64)  # weight of all observations, on the scale of the cells
        self._clock_moved = False
        self._seeds = _row_seeds(seed, depth)
        settings = (depth, self._width, seed, self._half_life, self._by_seconds, conservative)
        self._settings = np.array(settings, np.int64)

    @property
    def width(self) -> int:
        """Cells a row."""
        return self._width

    @property
    def depth(self) -> int:
        """Rows."""
        return len(self._seeds)

    @property
    def memory_bytes(self) -> int:
        """Bytes of cells, dirty marks and the few scalars; never above the `memory_bytes` asked for."""
        arrays = (self._cells, self._dirty, self._clock, self._total, self._seeds, self._settings)
        return sum(array.nbytes for array in arrays)

    @property
    def observed(self) -> float:
        """Decayed count of all observations, N of the error bound."""
        return float(self._total[0]) / weight_at(self._clock, self._half_life)

    @property
    def error_bound(self) -> ErrorBound:
        """The bound of the module's docstring, for what was observed by now."""
        return ErrorBound(math.e * self.observed / self._width, math.exp(-self.depth))

    def observe(
        self, ids: NDArray[np.uint64], counts: NDArray[np.uint32] | None = None, now_s: int | None = None
    ) -> None:
        """Counts ids, in their order; see `AdmissionPolicy.observe`."""
        ids = checked_ids(ids)
        counts = checked_counts(counts, len(ids))
        if self._by_seconds and now_s is None:
            msg = "now_s: None, expected seconds since the epoch for a half-life in seconds"
            raise ClockError(msg)
        if len(ids) == 0:
            return
        now_ms = now_s * 1000 if self._by_seconds and now_s is not None else -1
        add_counts(
            self._cells,
            self._dirty,
            self._clock,
            self._total,
            ids,
            counts,
            self._seeds,
            self._width,
            self._half_life,
            now_ms,
            self._conservative,
            float(COUNT_CAP),
        )
        self._clock_moved = True

    def estimate(self, ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Float32 (n,): decayed counts as of the latest observation. Changes nothing."""
        weight = weight_at(self._clock, self._half_life)
        return estimate_counts(self._cells, checked_ids(ids), self._seeds, self._width, weight)

    def admitted(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Bool (n,): has the estimate, rounded to the nearest whole number, reached the threshold?"""
        return self.estimate(ids) >= np.float32(self.threshold - 0.5)

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays `cells`, `clock`, `total`, `settings`. The threshold is no part: it may change between two runs."""
        arrays: dict[str, NDArray[Any]] = {
            "cells": self._cells,
            "clock": self._clock,
            "total": self._total,
            "settings": self._settings,
        }
        return {name: array.copy() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Takes on a saved state; see `AdmissionPolicy.restore`."""
        settings = state_array(state, "settings", self._settings)
        if not np.array_equal(settings, self._settings):
            names = "depth, width, seed, half-life, half-life in seconds, conservative"
            msg = f"state 'settings' ({names}): {settings.tolist()}, expected {self._settings.tolist()}"
            raise StateMismatchError(msg)
        cells = state_array(state, "cells", self._cells)
        clock = state_array(state, "clock", self._clock)
        total = state_array(state, "total", self._total)
        self._cells[:] = cells
        self._clock[:] = clock
        self._total[:] = total
        self._dirty[:] = 0
        self._clock_moved = False

    def take_dirty_pages(self) -> tuple[StatePages, ...]:
        """Pages of `cells` that were written, and the clock if it moved."""
        if not self._clock_moved:
            return ()
        self._clock_moved = False
        cells = take_pages("cells", self._cells, self._dirty)
        return (cells, whole_array("clock", self._clock), whole_array("total", self._total))

    def apply_pages(self, pages: Sequence[StatePages]) -> None:
        """Writes pages taken from a sketch of the same settings."""
        arrays: dict[str, NDArray[Any]] = {"cells": self._cells, "clock": self._clock, "total": self._total}
        for changed in pages:
            if changed.array not in arrays:
                msg = f"pages of {changed.array!r}: expected one of {sorted(arrays)}"
                raise StateMismatchError(msg)
            write_pages(changed, arrays[changed.array])


def _check_range(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        msg = f"{name}: {value}, expected {low} to {high}"
        raise PolicySettingError(msg)


def _row_seeds(seed: int, depth: int) -> NDArray[np.uint64]:
    return np.array([((seed + 1) * _SPLIT + row * 0xD1B54A32D192ED03) % (1 << 64) for row in range(depth)], np.uint64)
