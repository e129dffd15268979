"""How hot a row is, and the popularity band that follows from it.

Knows rows' statistics, not their widths. A row's heat is its decayed count, halved for every half-life since it was
last seen: count * 2^(-(now - last seen) / half-life). That needs no state beyond what eviction keeps, and it falls
fast where ids live for a session: a row that taught much and went away cools within hours.

Invariant: a higher band is a hotter one; a row changes band only when its heat has left its band by the factor of the
hysteresis, so rows near a threshold do not flutter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError

__all__ = ["HeatBands"]


@dataclass(frozen=True, slots=True)
class HeatBands:
    """Thresholds between the popularity bands of every slot.

    Attributes:
        thresholds: heats, ascending; there is one band more than thresholds, band 0 the coldest.
        half_life_s: seconds without a lookup after which a row's heat has halved.
        hysteresis: factor >= 1 by which heat must pass a threshold downwards before a row leaves its band.

    Raises:
        SearchError: thresholds that do not ascend, a half-life or hysteresis out of range.
    """

    thresholds: tuple[float, ...] = ()
    half_life_s: float = 3600.0
    hysteresis: float = 1.25

    def __post_init__(self) -> None:
        """Refuses bands that cannot be told apart."""
        ascending = all(a < b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False))
        if not ascending or any(not 0 < heat < np.inf for heat in self.thresholds):
            message = f"thresholds are {self.thresholds}: expected ascending numbers above 0"
            raise SearchError(message)
        if not 0 < self.half_life_s < np.inf:
            message = f"half_life_s is {self.half_life_s}: expected above 0"
            raise SearchError(message)
        if not 1 <= self.hysteresis < np.inf:
            message = f"hysteresis is {self.hysteresis}: expected at least 1"
            raise SearchError(message)

    @property
    def bands(self) -> int:
        """How many bands a slot has."""
        return len(self.thresholds) + 1

    @property
    def birth_band(self) -> int:
        """The band of a row that has been seen once, now."""
        return int(np.searchsorted(self.thresholds, 1.0, side="right"))

    def heat(self, counts: NDArray[np.float32], last_seen_s: NDArray[np.uint32], now_s: int) -> NDArray[np.float64]:
        """Heats f64 (n,) of rows.

        Args:
            counts: f32 (n,), decayed number of lookups; a row is there because it was looked up, so 1 at least counts.
            last_seen_s: u32 (n,), seconds since epoch; later than `now_s` counts as now.
            now_s: seconds since epoch.
        """
        age_s = np.maximum(now_s - last_seen_s.astype(np.int64), 0)
        return np.asarray(np.maximum(counts, 1) * np.exp2(-age_s / self.half_life_s), np.float64)

    def bands_of(
        self, counts: NDArray[np.float32], last_seen_s: NDArray[np.uint32], now_s: int, bands: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        """The bands i32 (n,) in which rows belong that are in `bands` i32 (n,) now; arguments as for `heat`."""
        heat = self.heat(counts, last_seen_s, now_s)
        reached = np.searchsorted(self.thresholds, heat, side="right")
        held = np.searchsorted(self.thresholds, heat * self.hysteresis, side="right")
        return np.clip(bands, reached, held).astype(np.int32)
